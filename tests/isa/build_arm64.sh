#!/bin/sh
# build_arm64.sh FOLDER PROGRAM...: cross-builds FOLDER/isa/PROGRAM for 64-bit Arm, static, from the part of the library that needs no
# other; of xxhash the header does, which holds all of it. Run in the repository.
set -eu
out=$1
shift
mkdir -p "$out/include"
cp "$(pkg-config --variable=includedir libxxhash)/xxhash.h" "$out/include"
for program in "$@"; do set -- "$@" "$out/isa/$program"; shift; done
# What the make around this one was told is about another processor.
env -u MAKEFLAGS -u MFLAGS make -j2 CC=aarch64-linux-gnu-gcc SAN= CUDA=0 B="$out" 'LIB_OBJ=$(ISA_OBJ)' LIBS="-static -Wl,--gc-sections -lm -pthread" \
    CFLAGS="-O3 -ffunction-sections -fdata-sections -DXXH_INLINE_ALL -DEMULATED=1 -isystem $out/include -isystem tests/isa" "$@"
