#!/bin/sh
# upg eval --choices and --last-word: scores equal a second implementation's, results do not depend on batches, threads, instruction sets
# or interruptions, and what is wrong in a file is refused with its line. Argument: the build folder.
#
# Tolerance: tests/vectors/tasks/expected.json has the log-likelihoods of transformers in fp32 (tools/tasks_reference.py). Logits of fp32
# mode differ from transformers' by 3e-5; a log p is off by at most twice a logit, and float rounding of a log p below 32 is 1e-6. 4e-4 a
# token leaves room for other BLAS libraries, and is far below what a wrong token or boundary does.
set -u
. "$(dirname "$0")/helpers.sh"
vectors=tests/vectors/tasks
small=$work/small.upg

# refused TEXT OPTIONS...: by one line that contains the text.
refused() {
    text=$1
    shift
    exits 1 "$upg" eval "$small" -q "$@" && [ ! -s "$work/out" ] && says "$text"
}
compress "$stories" -o "$small" --layer-bits 3 -q >/dev/null || echo "not ok compress"

# ---- Scores ----
reference() { # NAME MODEL CONTEXT
    for file in choices odd words; do
        option=--choices
        [ $file = words ] && option=--last-word
        rm -f "$work/scores"
        exits 0 "$upg" eval "$2" $option $vectors/$file.jsonl -c "$3" --results "$work/scores" --json -q || return 1
        $python - $vectors/expected.json "$1 $3 $file" "$work/scores" "$work/out" <<'END' || return 1
import json, sys
BOUND = 4e-4
expected, key, scores, out = sys.argv[1:]
want = json.load(open(expected))[key]
got = [json.loads(line) for line in open(scores)][1:]
labels = [json.loads(line).get("label") for line in open(f"tests/vectors/tasks/{key.split()[2]}.jsonl")]
assert len(want) == len(got) == len(labels)
plain, norm, greedy, sum_ = 0, 0, 0, 0.0
for i, ((sums, is_greedy, tokens, characters), g) in enumerate(zip(want, got)):
    assert g["tokens"] == tokens and g["characters"] == characters and [int(x) for x in g["greedy"]] == is_greedy, (i, g)
    for a, b, n in zip(sums, g["likelihoods"], tokens):
        assert abs(a - b) <= BOUND * n, (i, a, b)
    greedy += is_greedy[0]
    sum_ -= g["likelihoods"][0]
    for name, scale in (("chosen", [1] * len(sums)), ("chosen_norm", characters)):
        if name not in g:
            continue
        score = [s / c for s, c in zip(sums, scale)]
        room = [BOUND * n / c for n, c in zip(tokens, scale)]
        first = lambda scores: max(range(len(scores)), key=lambda k: scores[k])  # the first of equals
        assert g[name] == first([l / c for l, c in zip(g["likelihoods"], scale)]), (i, name, g)
        # Equal endings are not clear: a BLAS library may round them apart, row by row.
        best = first(score)
        clear = all(k == best or score[best] - score[k] > room[best] + room[k] for k in range(len(score)))
        assert not clear or g[name] == best, (i, name, g, score)
    if "chosen" in g:
        plain += g["chosen"] == labels[i]
        norm += g["chosen_norm"] == labels[i]
r, n = json.load(open(out)), len(want)
error = lambda p: (p * (1 - p) / (n - 1)) ** .5
for name, right in (("accuracy", plain), ("accuracy_norm", norm)) if "accuracy_norm" in r else (("accuracy", greedy),):
    assert abs(r[name] - right / n) < 1e-6 and abs(r[name + "_stderr"] - error(right / n)) < 1e-6, (name, right, r)
assert r["items"] == n and ("nll" not in r or abs(r["nll"] - sum_ / n) < 1e-5), r
assert r["cut"] > 0 or "80" not in key or "odd" in key, r
END
    done
}
tales=${UPG_SHARED:-../shared}/models/tales
if [ -z "$python" ]; then
    echo "skip scores: python3 is not installed"
else
    check "scores of stories260K are transformers'" reference stories260K $stories 512
    check "so they are where contexts are cut" reference stories260K $stories 80
    if [ -r "$tales/model.safetensors" ]; then
        check "scores of tales are transformers'" reference tales "$tales" 1024
    else
        echo "skip scores of tales: no $tales"
    fi
fi

# ---- The same bytes, however they are computed ----
same_bytes() { # OPTION FILE
    exits 0 "$upg" eval "$small" "$1" "$2" --results "$work/a" --json -q && cp "$work/out" "$work/want" || return 1
    for how in "-t 1 --batch 1" "-t 2 --batch 3" "-t 1 --batch 16" "-t 3 --batch 4096"; do
        rm -f "$work/b"
        # shellcheck disable=SC2086
        exits 0 "$upg" eval "$small" "$1" "$2" --results "$work/b" --json -q $how && cmp "$work/want" "$work/out" && cmp "$work/a" "$work/b" || return 1
    done
    rm -f "$work/b"
    UPG_ISA=scalar exits 0 "$upg" eval "$small" "$1" "$2" --results "$work/b" --json -q && cmp "$work/want" "$work/out" && cmp "$work/a" "$work/b" || return 1
    rm -f "$work/a" "$work/b"
}
every_way() { same_bytes --choices $vectors/choices.jsonl && same_bytes --choices $vectors/odd.jsonl && same_bytes --last-word $vectors/words.jsonl; }
check "bytes do not depend on threads, batches and instruction sets" every_way

# ---- Going on ----
choices=$vectors/choices.jsonl
goes_on() {
    exits 0 "$upg" eval "$small" --choices $choices --results "$work/whole" --json -q && cp "$work/out" "$work/want" || return 1
    size=$(wc -c <"$work/whole")
    # A file may end anywhere.
    for at in 0 1 100 $((size / 3)) $((size / 2)) $((size - 1)) "$size"; do
        head -c "$at" "$work/whole" >"$work/part"
        exits 0 "$upg" eval "$small" --choices $choices --results "$work/part" --json -q && cmp "$work/want" "$work/out" && cmp "$work/whole" "$work/part" || return 1
    done
    # What is done is not done again: the scores at hand count, also those of a first part.
    exits 0 "$upg" eval "$small" --choices $choices --results "$work/limited" --limit 5 --json -q && grep -q '"items":5,' "$work/out" &&
        [ "$(wc -l <"$work/limited")" -eq 6 ] && exits 0 "$upg" eval "$small" --choices $choices --results "$work/limited" --json -q &&
        cmp "$work/want" "$work/out" && cmp "$work/whole" "$work/limited" &&
        exits 0 "$upg" eval "$small" --choices $choices --results "$work/limited" --limit 5 --json -q && grep -q '"items":5,' "$work/out"
}
# end SIGNAL STATUS: ends a run once it has written an item; the next run ends as if nothing had happened.
end() {
    rm -f "$work/killed"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat $choices; done >"$work/long.jsonl"
    "$upg" eval "$small" --choices "$work/long.jsonl" --results "$work/killed" --batch 1 -t 1 -q >"$work/out" 2>"$work/err" &
    pid=$! tries=0
    until [ "$(wc -l <"$work/killed" 2>/dev/null || echo 0)" -gt 1 ] || [ $tries -gt 3000 ]; do tries=$((tries + 1)); sleep 0.01; done
    kill -"$1" $pid
    wait $pid
    got=$?
    [ $got = "$2" ] || { echo "exit status $got instead of $2"; return 1; }
    lines=$(wc -l <"$work/killed")
    [ "$lines" -gt 1 ] && [ "$lines" -lt 461 ] || { echo "$lines lines"; return 1; }
    exits 0 "$upg" eval "$small" --choices "$work/long.jsonl" --results "$work/killed" --json -q && cp "$work/out" "$work/again" &&
        exits 0 "$upg" eval "$small" --choices "$work/long.jsonl" --json -q && cmp "$work/again" "$work/out"
}
stale() {
    exits 0 "$upg" eval "$small" --choices $choices --results "$work/r" --limit 2 -q || return 1
    cp "$work/r" "$work/kept"
    compress "$stories" -o "$work/other.upg" --layer-bits 4 -q >/dev/null
    refused "of another task file" --choices $vectors/odd.jsonl --results "$work/r" && refused "of another kind" --last-word $vectors/words.jsonl --results "$work/r" &&
        refused "of another context" --choices $choices --results "$work/r" -c 64 || return 1
    exits 1 "$upg" eval "$work/other.upg" --choices $choices --results "$work/r" -q && grep -q "of another model" "$work/err" && cmp "$work/r" "$work/kept" || return 1
    for kept in precious '{"upg_results":2}' '{"a":1}'; do
        printf '%s' "$kept" >"$work/precious"
        refused "$work/precious" --choices $choices --results "$work/precious" && [ "$(cat "$work/precious")" = "$kept" ] || return 1
        echo >>"$work/precious"
        refused "$work/precious" --choices $choices --results "$work/precious" || return 1
    done
    sed '3s/"label":[0-9]/"label":9/' "$work/kept" >"$work/r" && refused "$work/r:3: not the result of item 1" --choices $choices --results "$work/r" &&
        sed '2s/.*/[]/' "$work/kept" >"$work/r" && refused "$work/r:2: not the result of item 0" --choices $choices --results "$work/r" &&
        sed '2d' "$work/kept" >"$work/r" && refused "$work/r:2: not the result of item 0" --choices $choices --results "$work/r" &&
        refused "$choices: not a file of results" --choices $choices --results $choices && refused "no/such" --choices $choices --results no/such/file &&
        refused "not a plain file" --choices $choices --results /dev/null
}
check "a file of results that ends anywhere is gone on with" goes_on
check "Ctrl-C loses nothing" end INT 130
check "kill -9 loses nothing" end KILL 137
check "results of something else are refused and kept" stale

# ---- Files as people write them, and others ----
forms() {
    printf '{"context":"a","endings":["b c","d"],"label":0}\n{"context":"x","endings":["y","z"],"label":1}\n' >"$work/f"
    exits 0 "$upg" eval "$small" --choices "$work/f" --json -q && cp "$work/out" "$work/want" || return 1
    sed 's/$/\r/' "$work/f" >"$work/g" && exits 0 "$upg" eval "$small" --choices "$work/g" --json -q && cmp "$work/want" "$work/out" || return 1
    { printf '\357\273\277\n'; sed 's/$/\n \t/' "$work/f"; } >"$work/g" && exits 0 "$upg" eval "$small" --choices "$work/g" --json -q && cmp "$work/want" "$work/out" || return 1
    printf %s "$(cat "$work/f")" >"$work/g" && exits 0 "$upg" eval "$small" --choices "$work/g" --json -q && cmp "$work/want" "$work/out" || return 1
    exits 0 "$upg" eval "$small" --choices "$work/f" --limit 1 --json -q && grep -q '"accuracy_stderr":null' "$work/out"
}
line_refused() { # OPTION TEXT LINE: as the third line of a file, behind a blank one
    good='{"context":"a","endings":["b","c"],"label":0,"text":"one two"}'
    printf '%s\n\n%s\n' "$good" "$3" >"$work/f"
    refused "$work/f:3: $2" "$1" "$work/f" && printf '%s\n\n%s' "$good" "$3" >"$work/f" && refused "$work/f:3: $2" "$1" "$work/f"
}
choice_lines() {
    while IFS='|' read -r text line; do line_refused --choices "$text" "$line" || return 1; done <<'END'
not valid JSON|{
not valid JSON|{"context":"a","endings":["b","c"],"label":0} x
not a JSON object|[]
not a JSON object|"a"
duplicate key 'label'|{"context":"a","endings":["b","c"],"label":0,"label":1}
neither 'endings' nor 'contexts'|{"context":"a","label":0}
'endings' is not an array|{"context":"a","endings":"b","label":0}
'endings' is not an array|{"context":"a","endings":[],"label":0}
'endings' is not an array|{"context":"a","endings":["b"],"label":0}
'endings' is not a text|{"context":"a","endings":["b",1],"label":0}
'endings' is not a text: it holds a NUL|{"context":"a","endings":["b","c\u0000d"],"label":0}
'endings' is empty|{"context":"a","endings":["b",""],"label":0}
'endings' is empty|{"context":"a","endings":["b"," \u00a0\n"],"label":0}
no 'context'|{"endings":["b","c"],"label":0}
'context' is not a text|{"context":null,"endings":["b","c"],"label":0}
'label' is not a whole number|{"context":"a","endings":["b","c"]}
'label' is not a whole number|{"context":"a","endings":["b","c"],"label":"0"}
'label' is not a whole number|{"context":"a","endings":["b","c"],"label":0.0}
'label' is not within 0..1|{"context":"a","endings":["b","c"],"label":2}
'label' is not within 0..1|{"context":"a","endings":["b","c"],"label":-1}
'label' is not within 0..1|{"context":"a","endings":["b","c"],"label":18446744073709551615}
'separator' is not a text|{"context":"a","endings":["b","c"],"label":0,"separator":0}
'contexts' goes with one 'ending'|{"contexts":["a","b"],"endings":["b","c"],"label":0}
'contexts' goes with one 'ending'|{"contexts":["a","b"],"context":"b","ending":"c","label":0}
no 'ending'|{"contexts":["a","b"],"label":0}
'ending' is empty|{"contexts":["a","b"],"ending":"","label":0}
'contexts' is not a text|{"contexts":["a",["b"]],"ending":"c","label":0}
END
}
word_lines() {
    while IFS='|' read -r text line; do line_refused --last-word "$text" "$line" || return 1; done <<'END'
no 'text'|{"context":"a"}
'text' is not a text|{"text":["a b"]}
'text' is empty|{"text":""}
'text' is empty|{"text":" \n"}
'text' has only one word|{"text":"word"}
'text' has only one word|{"text":"  word \n"}
END
}
odd_files() {
    : >"$work/f" && refused "no items" --choices "$work/f" && printf '\n \r\n\n' >"$work/f" && refused "no items" --last-word "$work/f" || return 1
    printf '{"text":"one tw\377o"}\n' >"$work/f" && refused "$work/f:1: not valid JSON" --last-word "$work/f" || return 1
    printf '{"text":"one \355\240\200"}\n' >"$work/f" && refused "$work/f:1: not valid JSON" --last-word "$work/f" || return 1
    head -c 300000 /dev/zero | tr '\0' '[' >"$work/f" && refused "$work/f:1: not valid JSON" --choices "$work/f" || return 1
    refused "no/such" --choices no/such && refused "is a directory" --choices "$work" && refused "more than its context of 512" --choices $choices -c 513
}
# Lines of megabytes: the context loses its beginning, an ending does not.
long_lines() {
    words=$(head -c 3000000 /dev/zero | tr '\0' 'a' | sed 's/aaaa/dog /g')
    printf '{"context":"%s","endings":["b","c"],"label":0}\n' "$words" >"$work/f"
    exits 0 "$upg" eval "$small" --choices "$work/f" --json -q && grep -q '"cut":1}' "$work/out" || return 1
    printf '{"text":"%s end"}\n' "$words" >"$work/f"
    exits 0 "$upg" eval "$small" --last-word "$work/f" --json -q && grep -q '"cut":1}' "$work/out" || return 1
    printf '\n{"context":"a","endings":["b","%s"],"label":0}\n' "$words" >"$work/f"
    refused "$work/f:2: what is to be predicted of text 1 has" --choices "$work/f" && grep -q "tokens, the context 512$" "$work/err"
}
usage() {
    exits 2 "$upg" eval "$small" --choices a --last-word b && exits 2 "$upg" eval "$small" --choices a --text b && exits 2 "$upg" eval "$small" --choices a --reference b &&
        exits 2 "$upg" eval "$small" --text a --limit 3 && exits 2 "$upg" eval "$small" --tokens a --results b && exits 2 "$upg" eval "$small" --choices a --limit 0 &&
        exits 2 "$upg" eval "$small" --choices a --batch 0
}
check "CRLF, a byte order mark, blank lines, no last newline" forms
check "wrong lines of choices are refused by number" choice_lines
check "wrong lines of last words are refused by number" word_lines
check "empty, broken and missing files are refused with one line" odd_files
check "lines of megabytes" long_lines
check "options that do not go together are wrong usage" usage
