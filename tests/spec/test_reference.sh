#!/bin/sh
# Whole models: the C code and the NumPy implementation of docs/arithmetic.md (reference.py, written from the page alone) give the same
# bytes of logits. 320 positions, so that two blocks of the cache take part; every K; a Llama with a tied head; tiny models of every
# architecture, in contexts on both sides of longrope's border; and, where the shared data is, a Phi-3. Argument: the build folder.
set -u
upg=$1/upg
shared=${UPG_SHARED:-../shared}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
if ! python3 -c 'import numpy' 2>/dev/null; then
    echo "skip reference: python3 with numpy is not installed"
    exit 0
fi
export PYTHONDONTWRITEBYTECODE=1

# tokens N VOCAB: N ids in $work/ids, and those and one more in $work/ids.u16 (upg eval predicts the next one).
tokens() {
    python3 - "$1" "$2" "$work" <<'END'
import struct, sys
n, vocab, work = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ids = [(7 * i * i + 31 * i + 3) % vocab for i in range(n + 1)]
open(work + "/ids", "w").write(",".join(map(str, ids[:n])))
open(work + "/ids.u16", "wb").write(struct.pack(f"<{n + 1}H", *ids))
END
}

# same NAME MODEL N: N is the number of positions and the context.
same() {
    if ! python3 tests/spec/reference.py "$2" --tokens "$(cat "$work/ids")" --context "$3" --logits "$work/reference" >"$work/log" 2>&1 ||
        ! "$upg" eval "$2" --tokens "$work/ids.u16" --window "$3" --logits "$work/logits" -q >>"$work/log" 2>&1; then
        cat "$work/log"
        echo "not ok $1: does not run"
        return
    fi
    # The logits are the end of the safetensors file.
    tail -c "$(wc -c <"$work/reference")" "$work/logits" >"$work/got"
    if [ -s "$work/reference" ] && cmp "$work/reference" "$work/got"; then echo "ok $1"; else echo "not ok $1"; fi
}

# compressed NAME SOURCE N OPTIONS...
compressed() {
    name=$1 source=$2 n=$3
    shift 3
    if "$upg" compress "$source" -o "$work/model.upg" --calibrate none --heldout none -q "$@" >"$work/log" 2>&1; then
        same "$name" "$work/model.upg" "$n"
    else
        cat "$work/log"
        echo "not ok $name: does not compress"
    fi
}

tokens 320 512
compressed stories-int8 models/stories260K 320 --encoding int8
for k in 2 2.5 3 3.5 4; do
    compressed "stories-$k" models/stories260K 320 --layer-bits $k --head-bits $k --seed 12345
done
compressed stories-sparse8 models/stories260K 320 --encoding sparse --sparse-basis plain
compressed stories-sparse4 models/stories260K 320 --encoding sparse --sparse-bits 4 --sparse-basis rotated --embedding-bits 3
compressed stories-mixed models/stories260K 320 --bits 5

tokens 96 96
for family in tests/vectors/arch/*; do
    compressed "$(basename "$family")-int8" "$family" 96 --encoding int8
    compressed "$(basename "$family")-3" "$family" 96 --layer-bits 3 --seed 5
done
tokens 32 96
compressed phi4mini-short tests/vectors/arch/phi4mini 32 --encoding int8

tokens 300 8192
if [ -s models/tales.upg ]; then same tales-default models/tales.upg 300; else echo "skip tales-default: models/tales.upg is not there"; fi
if [ -r "$shared/models/tales/model.safetensors" ]; then
    compressed tales-int8 "$shared/models/tales" 300 --encoding int8
else
    echo "skip tales-int8: no $shared/models/tales"
fi
