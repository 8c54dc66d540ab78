#!/bin/sh
# backend/cuda/cuda.c against a driver that is none (fake_driver.c): the same text as on the CPU through all of its calls, and one
# line, not a crash, whichever call fails. Argument: the build folder.
set -u
. "$(dirname "$0")/../cli/helpers.sh"
build=$1
fake=$build/tests/cuda/fake
if [ ! -e "$fake/libcuda.so.1" ]; then
    echo "skip driver: built without CUDA"
    exit 0
fi
small=$work/small.upg
compress "$stories" -o "$small" --layer-bits 3 -q >/dev/null 2>&1
with_fake() { env -u UPG_DEVICE LD_LIBRARY_PATH="$fake" "$@"; }
answer() { "$upg" run "$small" --device "$1" -p "Once upon a time" -n 5 --temp 0 -q </dev/null; }

lists() { with_fake "$upg" devices >"$work/out" && grep -q '^cuda:0 *Fake GPU, compute capability 7.5, 4 multiprocessors' "$work/out"; }
takes_it() { with_fake "$upg" run "$small" -p x -n 3 --temp 0 </dev/null 2>&1 | grep -q "Fake GPU"; }
same_text() {
    answer cpu >"$work/want" && LD_LIBRARY_PATH=$fake FAKE_CUDA_COUNT=$work/count answer cuda >"$work/got" && cmp "$work/want" "$work/got" &&
        [ "$(cat "$work/count")" -gt 100 ]
}
selftest() { [ ! -s models/tales.upg ] || with_fake "$upg" devices --selftest | grep -q '^cuda:0 .*: the same bits as scalar code$'; }
# Every call from the first to the last.
fails_anywhere() {
    calls=$(cat "$work/count")
    i=1
    while [ "$i" -le "$calls" ]; do
        LD_LIBRARY_PATH=$fake FAKE_CUDA_FAIL=$i answer cuda >"$work/out" 2>"$work/err"
        status=$?
        # What goes wrong while all is taken down again does not matter any more.
        [ $status = 1 ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -q "^upg: the .*: an illegal memory access" "$work/err" ||
            { [ $status = 0 ] && cmp -s "$work/want" "$work/out"; } || { echo "call $i of $calls: status $status"; cat "$work/err"; return 1; }
        i=$((i + 1))
    done
}
# Too little memory: for no layer an error, or by itself the CPU; for some layers these, and the same text.
little_memory() {
    LD_LIBRARY_PATH=$fake FAKE_CUDA_MEMORY=1000 exits 1 "$upg" run "$small" --device cuda -p x -n 1 -q &&
        says "GB of GPU memory are needed, and 1e-06 of 1e-06 GB are available on Fake GPU" &&
        LD_LIBRARY_PATH=$fake FAKE_CUDA_MEMORY=1000 answer auto >"$work/got" && cmp "$work/want" "$work/got"
}
some_layers() {
    bytes=18000000 # of which 17 MiB are not the model's
    while [ $bytes -lt 30000000 ]; do
        LD_LIBRARY_PATH=$fake FAKE_CUDA_MEMORY=$bytes "$upg" run "$small" --device cuda -p x -n 1 </dev/null >/dev/null 2>"$work/err"
        grep -q "(Fake GPU, [1-4] of 5 layers on the CPU" "$work/err" && break
        bytes=$((bytes + 100000))
    done
    [ $bytes -lt 30000000 ] || { cat "$work/err"; return 1; }
    LD_LIBRARY_PATH=$fake FAKE_CUDA_MEMORY=$bytes answer cuda >"$work/got" && cmp "$work/want" "$work/got"
}
# Compression: the same file as the CPU's without calibration; with it each call of the libraries fails once.
tiny=tests/vectors/arch/phi3
compresses() {
    "$upg" compress $tiny -o "$work/cpu.upg" --device cpu --layer-bits 3 --calibrate none --heldout none -q >/dev/null &&
        LD_LIBRARY_PATH=$fake "$upg" compress $tiny -o "$work/cuda.upg" --device cuda --layer-bits 3 --calibrate none --heldout none -q >"$work/out" &&
        grep -q " on Fake GPU" "$work/out" && cmp "$work/cpu.upg" "$work/cuda.upg"
}
fitted() {
    rm -rf "$work/fitted.upg" "$work/fitted.upg.partial"
    LD_LIBRARY_PATH=$fake "$upg" compress $tiny -o "$work/fitted.upg" --device cuda --layer-bits 3 --calibrate "$work/ids.u16" --heldout none --effort fast -q >"$work/out" 2>"$work/err"
}
fits() {
    i=0 # 256 tokens below 96, 16 bits each
    while [ $i -lt 256 ]; do
        printf "\\$(printf %03o $((i * 7 % 96)))\\000"
        i=$((i + 1))
    done >"$work/ids.u16"
    fitted && grep -q " on Fake GPU" "$work/out" || { cat "$work/err"; return 1; }
    i=1
    while ! FAKE_BLAS_FAIL=$i fitted; do
        [ "$(wc -l <"$work/err")" = 1 ] && grep -q "^upg: the GPU's library failed" "$work/err" && [ $i -lt 1000 ] || { cat "$work/err"; return 1; }
        i=$((i * 3 / 2 + 1))
    done
    [ $i -gt 30 ]
}
no_such_device() {
    for device in cuda:3 cuda:x cuda: cuda:-1 cuda:1x; do
        exits 1 env LD_LIBRARY_PATH="$fake" "$upg" run "$small" --device $device -p x -n 1 -q && says "there is no device $device; NVIDIA GPUs: 1, from cuda:0 on" || return 1
    done
}

check "the device is listed" lists
check "auto takes it" takes_it
check "the same text through a driver" same_text
check "devices --selftest through a driver" selftest
check "one line, whichever call fails" fails_anywhere
check "too little memory" little_memory
check "memory for some layers" some_layers
check "no such device" no_such_device
check "codes through a driver" compresses
check "fitted through libraries, whichever call fails" fits
