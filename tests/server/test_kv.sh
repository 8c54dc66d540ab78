#!/bin/sh
# The prompt cache on disk (test_kv.py). Usage: test_kv.sh BUILD_DIR
cd "$(dirname "$0")/../.." || exit 1
command -v python3 >/dev/null 2>&1 || { echo "skip the server: python3 is not installed"; exit 0; }
PYTHONDONTWRITEBYTECODE=1 exec python3 tests/server/test_kv.py "$1/upg"
