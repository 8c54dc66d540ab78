#!/bin/sh
# Processors that this machine is not, emulated by qemu: each chooses its own instruction set, and what a model computes on it, or on
# any set below, has the bits that the scalar code gives here. Armv8 is built for by a cross compiler, without the libraries that
# the engine needs, so models are run through the backend alone (logits.c). Argument: the build folder.
set -u
. "$(dirname "$0")/../cli/helpers.sh"
build=$1
here=$build/isa/logits # of this processor
arm=$build/arm64

# Every encoding, in matrices of less than a superband; the last model has full ones.
make_models() {
    for bits in 2 2.5 3 3.5 4 8; do
        compress "$stories" -o "$work/$bits.upg" --layer-bits $bits -q >/dev/null || return 1
    done
    for bits in 8 4; do
        compress "$stories" -o "$work/sparse$bits.upg" --encoding sparse --sparse-bits $bits -q >/dev/null || return 1
    done
    models="$(echo "$work"/*.upg)"
    for model in $models models/tales.upg; do
        [ -s "$model" ] || continue
        UPG_ISA=scalar "$here" "$model" $(tokens "$model") >"$work/$(basename "$model").want" 2>/dev/null || return 1
    done
}
tokens() { [ "$1" = models/tales.upg ] && echo 5 || echo 40; }
# same_logits ISA COMMAND...: of every model, on that instruction set. $device: "software": by the GPUs' kernels.
same_logits() {
    isa=$1
    shift
    for model in $models models/tales.upg; do
        [ -s "$model" ] || continue
        UPG_ISA=$isa "$@" "$model" "$(tokens "$model")" ${device:+"$device"} >"$work/got" 2>"$work/err" || { cat "$work/err"; return 1; }
        cmp "$work/got" "$work/$(basename "$model").want" || { echo "$model"; return 1; }
    done
}
# chooses ISA COMMAND...: what an emulated processor takes when it is not told.
chooses() {
    isa=$1
    shift
    "$@" "$work/3.upg" 1 >/dev/null 2>"$work/err"
    grep -qx "$isa" "$work/err" || { cat "$work/err"; return 1; }
}
# isas COMMAND...: all that a build knows, as its refusal of another lists them.
isas() { UPG_ISA=none "$@" "$work/3.upg" 1 2>&1 | sed -n 's/.*one of //p' | tr -d ,; }

# ---- x86-64
x86() {
    if [ "$(uname -m)" != x86_64 ] || ! command -v qemu-x86_64 >/dev/null; then
        echo "skip x86-64: qemu-x86_64 is not installed, or this is another processor"
    elif grep -q "__[at]san_init" "$here"; then
        echo "skip x86-64: sanitizers do not run under qemu"
    else
        for pair in core2duo/scalar Nehalem/sse41 Haswell/avx2; do
            emulated="qemu-x86_64 -cpu ${pair%/*} $here"
            check "${pair%/*} chooses ${pair#*/}" chooses "${pair#*/}" $emulated
            check "the same logits on ${pair%/*}" same_logits "${pair#*/}" $emulated
        done
    fi
}

# ---- Armv8
armv8() {
    if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
        echo "skip Armv8: aarch64-linux-gnu-gcc and qemu-aarch64 are not both installed"
        return
    fi
    check "builds for Armv8" tests/isa/build_arm64.sh "$arm" logits test_grid test_vectors
    for pair in cortex-a57/neon neoverse-n1/dotprod max/i8mm; do
        check "${pair%/*} chooses ${pair#*/}" chooses "${pair#*/}" qemu-aarch64 -cpu "${pair%/*}" "$arm/isa/logits"
    done
    for isa in $(isas qemu-aarch64 "$arm/isa/logits"); do
        check "the same logits on Armv8's $isa" same_logits "$isa" qemu-aarch64 -cpu max "$arm/isa/logits"
    done
    device=software
    check "the same logits of the GPUs' kernels on Armv8" same_logits "" qemu-aarch64 -cpu max "$arm/isa/logits"
    device=
    for t in vectors grid; do check "test_$t on Armv8" qemu-aarch64 -cpu max "$arm/isa/test_$t"; done
}

device=
if make_models >"$work/check" 2>&1; then
    x86
    armv8
else
    cat "$work/check"
    echo "not ok models to compare with"
fi
