#!/bin/sh
# Makes models/tales.upg, the default model embedded in the command, from the original in SHARED/models/tales (a Phi-3-shaped model of 36.7 M
# parameters trained on public-domain books). Usage: tools/make_default_model.sh UPG [SHARED]. Fitted to
# 32,768 tokens of the text it was trained on. The result is the same on every run, on one kind of processor.
set -eu
upg=${1:?usage: tools/make_default_model.sh UPG [SHARED]}
shared=${2:-${UPG_SHARED:-../shared}}
if [ ! -d "$shared/models/tales" ]; then
    echo "tools/make_default_model.sh: $shared/models/tales is absent; the committed models/tales.upg stays" >&2
    exit 1
fi
text=$shared/models/tales/reference
"$upg" compress "$shared/models/tales" -o models/tales.upg --ratio 10 --calibrate "$text/calibration.u16" --heldout "$text/valid.u16"
