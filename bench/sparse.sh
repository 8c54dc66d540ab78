#!/bin/sh
# The sparse table of docs/quality.md. Usage: bench/sparse.sh UPG MODEL TOKENS.u16 CALIBRATION.u16 [WINDOWS]; MODEL is an original's folder.
set -eu
upg=$1 model=$2 tokens=$3 calibration=$4 windows=${5:-8}
. "$(dirname "$0")/quality_row.sh"
for fit in "--calibrate none" "--calibrate $calibration --calibration-tokens 16384"; do
    for size in 8 4; do
        # shellcheck disable=SC2086
        for basis in plain rotated; do row --encoding sparse --sparse-bits $size --sparse-basis $basis $fit; done
    done
    # shellcheck disable=SC2086
    row --layer-bits 3 --embedding-bits 8 --head-bits 8 $fit
done
