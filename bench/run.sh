#!/bin/sh
# `make bench`: every benchmark, one after another. Usage: bench/run.sh BUILD
# Figures on a shared machine are noisy: compare rows of one run, not of two.
set -eu
build=$1
say() { printf '\n== %s\n' "$*"; }
grep -m 1 'model name' /proc/cpuinfo 2>/dev/null || uname -m

say "Trellis search: signal-to-noise ratio on a unit Gaussian, and weights a second on one core"
"$build/bench/search"

say "Linear layer: one row and batches of 8 and 64 over a Phi-4 gate/up matrix"
"$build/bench/gemv"

say "Instructions a weight of its kernels, and what differs from bench/instructions.txt"
bench/instructions.sh "$build"

say "Whole models: prompt of 512 tokens, answer of 128"
prompt=$(mktemp)
trap 'rm -f "$prompt"' EXIT
"$build/upg" run -p "It was a dark and stormy night;" -n 600 --seed 3 -q >"$prompt"
for model in "" models/stories260K; do
    printf '%s: ' "${model:-default (models/tales.upg)}"
    # shellcheck disable=SC2086
    head -c 1200 "$prompt" | "$build/upg" run $model -n 128 --seed 1 2>&1 >/dev/null | tail -n 1
done

say "Tokenizer, beside the PyPI packages where \$PYTHON has them; more texts in \$UPG_TOKENIZER_TEXTS"
python=${PYTHON:-python3}
if command -v "$python" >/dev/null; then
    # shellcheck disable=SC2086
    "$python" bench/tokenizer.py "$build/bench/tokenizer" ${UPG_TOKENIZER_TEXTS:-}
else
    echo "$python is not here: left out"
fi

say "A matrix times a vector in every encoding, beside SciPy, NumPy and Python where \$PYTHON has them"
"$build/upg" bench spmv --python "$python"
