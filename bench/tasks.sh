#!/bin/sh
# Accuracy on tasks, a row a model. Usage: bench/tasks.sh UPG WORDS.jsonl CHOICES.jsonl RESULTS LIMIT MODEL...
#
# The first model is the original: "same" is how often a model chooses the ending that the original chooses, by normalised likelihood. The
# folder RESULTS keeps the scores of every item, so that a run that was stopped goes on; LIMIT is the
# most items of a file.
set -eu
upg=$1 words=$2 choices=$3 results=$4 limit=$5
shift 5
mkdir -p "$results"
get() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" "$2"; }
printf '| model | last word | perplexity | choices, normalised | choices, plain | same |\n|---|---|---|---|---|---|\n'
i=0
for model; do
    r=$results/$i
    "$upg" eval "$model" --last-word "$words" --limit "$limit" --results "$r.words" --json -q >"$r.words.json"
    "$upg" eval "$model" --choices "$choices" --limit "$limit" --results "$r.choices" --json -q >"$r.choices.json"
    chosen() { head -n "$((limit + 1))" "$1" | sed -n 's/.*"chosen_norm":\([0-9]*\).*/\1/p'; }
    chosen "$results/0.choices" >"$results/original"
    same=$(chosen "$r.choices" | paste - "$results/original" | awk '$1 == $2 { n++ } END { printf "%.3f", n / NR }')
    printf '| `%s` | %.3f +- %.3f | %.1f | %.3f +- %.3f | %.3f +- %.3f | %s |\n' "${model##*/}" \
        "$(get accuracy "$r.words.json")" "$(get accuracy_stderr "$r.words.json")" "$(get ppl "$r.words.json")" \
        "$(get accuracy_norm "$r.choices.json")" "$(get accuracy_norm_stderr "$r.choices.json")" \
        "$(get accuracy "$r.choices.json")" "$(get accuracy_stderr "$r.choices.json")" "$same"
    i=$((i + 1))
done
