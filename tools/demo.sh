#!/bin/sh
# `make demo`: compresses a real model, looks at it, generates text with it, and shows size, quality and speed. Usage: tools/demo.sh UPG
# Everything it needs is in the repository, so it works without a network.
set -eu
upg=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "Compressing models/stories260K (a Llama of 260,032 parameters) to 4 bits, and to int8 for comparison"
"$upg" compress models/stories260K -o "$work/stories.upg" --layer-bits 4 --head-bits 8 -q | tail -n 1
"$upg" compress models/stories260K -o "$work/int8.upg" --encoding int8 -q | tail -n 1

say "Quality against the original: KL divergence and how often the likeliest token is the same"
"$upg" run models/stories260K -p "Once upon a time" -n 400 --seed 7 -q >"$work/story.txt"
for m in int8 stories; do
    printf '%-8s ' "$m"
    "$upg" eval "$work/$m.upg" --text "$work/story.txt" --window 256 --reference models/stories260K -q
done

say "The compressed model tells a story"
"$upg" run "$work/stories.upg" -p "Once upon a time, there was a little girl named Lily." -n 120 --seed 1

say "The default model: 36.7 M parameters, 10:1 against FP32, inside the upg command itself"
"$upg" inspect --verify | tail -n 4 | cut -c 1-150
"$upg" run -p "It was a dark and stormy night;" -n 120 --seed 1
