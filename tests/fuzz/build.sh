#!/bin/sh
# build.sh SOURCE OUT: builds one libFuzzer target against the whole library, itself built with coverage and sanitizers.
set -eu
sanitize=address,undefined
obj=build/fuzz/obj
# Neither the caller's make variables nor its jobs are this build's.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES || true
mkdir -p "$obj"
compile="clang -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all"
flock "$obj" make -s -j"$(nproc)" CC="$compile -fsanitize=fuzzer-no-link,$sanitize" CFLAGS= SAN= CUDA=0 B="$obj" "$obj/libserver.a" "$obj/libupg.a"
packages="openblas libxxhash libzstd libutf8proc"
# shellcheck disable=SC2046,SC2086
$compile -fsanitize=fuzzer,$sanitize -std=c11 -Wall -Wextra -Wshadow -Wvla -Werror -ffp-contract=off -D_GNU_SOURCE -pthread \
    -Iinclude -Isrc -Ithird_party/yyjson $(pkg-config --cflags $packages) "$1" "$obj/libserver.a" "$obj/libupg.a" \
    $(pkg-config --libs $packages) -lpcre2-8 -lm -o "$2"
