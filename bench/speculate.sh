#!/bin/sh
# Decoding with and without speculation. Usage: bench/speculate.sh UPG [MODEL...]; without one, the default model.
#
# Two tasks: a text that is written once more (a passage and its beginning again; for a model that chats, a request to
# repeat a program), where drafts come true, and free text, where there are none to speak of and must cost nothing.
# Both ways take turns, five times; medians of tokens a second, and what the last run says of its drafts. The text must
# be the same, or the script says so and stops.
set -eu
upg=$1
shift
[ $# -gt 0 ] || set -- ""
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/program" <<'C'
static void sift_down(uint64_t *heap, int n, int i) {
    for (;;) {
        int child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && heap[child + 1] > heap[child]) child++;
        if (heap[i] >= heap[child]) return;
        uint64_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}
C
"$upg" run -p "It was a dark and stormy night;" -n 200 --seed 3 -q >"$work/passage"
{ cat "$work/passage" "$work/passage"; head -c 200 "$work/passage"; } >"$work/copy"
{ echo "Repeat this program, with every child renamed to kid:"; cat "$work/program"; } >"$work/edit"
printf 'Tell me a long story about a lighthouse and the people who lived there.' >"$work/tell"
printf 'It was a bright morning in spring, and the ship' >"$work/free"

median() { sort -n | sed -n 3p; }
# measure MODEL TASK OPTIONS...
measure() {
    model=$1 task=$2
    shift 2
    rm -f "$work"/speed.*
    for turn in 1 2 3 4 5; do
        for way in off auto; do
            # shellcheck disable=SC2086
            "$upg" run $model -f "$work/$task" --seed "$turn" -n 200 --speculate $way "$@" >"$work/text.$way" 2>"$work/line"
            sed -n 's|.*answer: [0-9]* tokens, \([0-9.]*\) tok/s.*|\1|p' "$work/line" >>"$work/speed.$way"
        done
        cmp "$work/text.off" "$work/text.auto" || { echo "the answers differ"; exit 1; }
    done
    drafts=$(sed -n 's|.*weights, \(.*\) (.*|\1|p' "$work/line")
    off=$(median <"$work/speed.off") auto=$(median <"$work/speed.auto")
    printf '%-28s %-6s %-10s off %7s auto %7s tok/s, %s times; %s\n' "$(basename "${model:-default}")" "$task" "$1" "$off" "$auto" \
        "$(awk "BEGIN { printf \"%.2f\", $auto / $off }")" "${drafts:-nothing drafted}"
}
for model in "$@"; do
    for temp in 0 0.8; do
        if [ "$model" ] && "$upg" inspect "$model" | grep -q 'chat template'; then
            for task in edit tell; do measure "$model" $task --temp=$temp --chat; done
        else
            for task in copy free; do measure "$model" $task --temp=$temp; done
        fi
    done
done
