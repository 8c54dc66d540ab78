#!/bin/sh
# The tables of docs/quality.md. Usage: bench/quality.sh UPG MODEL TOKENS.u16 [CALIBRATION.u16 [WINDOWS]]; MODEL is an original's folder.
set -eu
upg=$1 model=$2 tokens=$3 calibration=${4:-} windows=${5:-1000000}
. "$(dirname "$0")/quality_row.sh"
printf 'original, fp32: '
"$upg" eval "$model" --tokens "$tokens" --windows "$windows" -q
row --encoding int8
for k in 4 3.5 3 2.5 2; do row --layer-bits $k --embedding-bits 8 --head-bits 8 --calibrate none; done
for r in 8 10 12; do row --ratio $r --calibrate none; done
if [ -n "$calibration" ]; then
    row --layer-bits 3 --embedding-bits 8 --head-bits 8 --calibrate "$calibration"
    row --ratio 10 --calibrate "$calibration"
fi
