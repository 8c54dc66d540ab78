#!/bin/sh
# upg serve as a command, over the network: keys, TLS, signals, limits, metrics, the access log. Argument: the build folder.
set -u
. "$(dirname "$0")/../cli/helpers.sh"
if [ ! -s models/tales.upg ]; then
    echo "skip upg serve: models/tales.upg is not there"
elif [ -z "$python" ]; then
    echo "skip upg serve: python3 is not installed"
else
    unset UPG_API_KEY
    # At the end of a process leaks are looked for by another one, which the sandbox does not let be made.
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0
    export ASAN_OPTIONS
    PYTHONDONTWRITEBYTECODE=1 $python tests/server/serve.py "$upg" "$work"
fi
