#!/bin/sh
# The command as its users meet it: exit statuses (0, 1 failed, 2 wrong usage, 130 interrupted), one line that says what is wrong, files
# that appear whole or not at all, and output that is the same for every number of threads and instruction set. Argument: the build folder.
set -u
. "$(dirname "$0")/helpers.sh"
small=$work/small.upg

# fails TEXT COMMAND...: status 1 and exactly one line on standard error, which begins with "upg: " and contains the text.
fails() {
    text=$1
    shift
    exits 1 "$@" && says "$text" && grep -q '^upg: ' "$work/err"
}
json() { $python -m json.tool "$1" >/dev/null; }
# has FILE EXPRESSION: of d, the file's JSON.
has() { $python -c 'import json, sys; d = json.load(open(sys.argv[1])); sys.exit(not eval(sys.argv[2]))' "$1" "$2"; }
size() { wc -c <"$1" | tr -d ' '; }

compress "$stories" -o "$small" --layer-bits 3 -q >/dev/null || echo "not ok compress"
isas=
for isa in $(UPG_ISA=none "$upg" run "$small" -n 0 -p a -q 2>&1 | sed -n 's/.*one of //p' | tr -d ,); do
    if UPG_ISA=$isa "$upg" run "$small" -n 0 -p a -q >/dev/null 2>&1; then isas="$isas $isa"; fi
done

# ---- Usage ----
helps() {
    for verb in chat run compress eval inspect tokenize list rm bench "bench layers" "bench ops" "bench spmv" "bench stages"; do
        exits 0 "$upg" $verb --help && grep -q "^usage: upg $verb" "$work/out" && [ ! -s "$work/err" ] || return 1
    done
    exits 0 "$upg" --help && exits 0 "$upg" -h && exits 0 "$upg" help && exits 0 "$upg" --version && grep -q "^upg $(cat VERSION)$" "$work/out"
}
wrong_usage() {
    exits 2 "$upg" && exits 2 "$upg" frobnicate && exits 2 "$upg" run --nonsense && exits 2 "$upg" compress && exits 2 "$upg" compress "$stories" &&
        exits 2 "$upg" compress a b -o c && exits 2 "$upg" compress a -o c --ratio 0 && exits 2 "$upg" compress a -o c --layer-bits 5 &&
        exits 2 "$upg" compress a -o c --ratio 10 --bits 3 && exits 2 "$upg" compress a -o c --encoding int4 && exits 2 "$upg" compress a -o c -t 0 &&
        exits 2 "$upg" eval "$small" && exits 2 "$upg" eval "$small" --text a --tokens b && exits 2 "$upg" eval "$small" --tokens b --window 0 &&
        exits 2 "$upg" run "$small" extra && exits 2 "$upg" run "$small" -p a -f b && exits 2 "$upg" run "$small" -n -1 &&
        exits 2 "$upg" run "$small" --temp hot && exits 2 "$upg" run "$small" --top-p 1.5 && exits 2 "$upg" run "$small" -n 5x &&
        exits 2 "$upg" run "$small" -n && exits 2 "$upg" inspect a b && exits 2 "$upg" tokenize && exits 2 "$upg" tokenize "$small" --verify
}
wrong_usage_writes() { wrong_usage && exits 2 "$upg" run "$small" -n x && [ -s "$work/err" ] && [ ! -s "$work/out" ]; }
check "help is exit 0" helps
check "wrong usage is exit 2 and says so" wrong_usage_writes

# ---- compress ----
failures_of_compress() {
    echo precious >"$work/kept.upg"
    fails "no/such" compress no/such -o "$work/kept.upg" && fails "compressed already" compress "$small" -o "$work/kept.upg" &&
        fails "needs at least" compress "$stories" -o "$work/kept.upg" --bits 2 &&
        fails "needs at least" compress "$stories" -o "$work/kept.upg" --ratio 90 &&
        fails "no/such/folder" compress "$stories" -o no/such/folder/x.upg --layer-bits 3 &&
        fails "is a directory" compress "$stories" -o "$work" --layer-bits 3 &&
        [ "$(cat "$work/kept.upg")" = precious ] && ! ls "$work"/*.partial* 2>/dev/null
}
# budget OPTION VALUE BYTES MOST: at most BYTES, and within 2 % of them (or MOST, when every matrix is int8 already).
budget() {
    exits 0 compress "$stories" -o "$work/budget.upg" "$1" "$2" -q || return 1
    n=$(size "$work/budget.upg")
    [ "$n" -le "$3" ] || { echo "$1 $2: $n bytes, more than $3"; return 1; }
    [ $((n * 100)) -ge $(($3 * 98)) ] || [ "$n" -eq "$4" ] || { echo "$1 $2: only $n bytes of $3"; return 1; }
}
budgets() {
    # stories260K has 260032 parameters.
    exits 0 compress "$stories" -o "$work/int8.upg" --encoding int8 -q || return 1
    most=$(size "$work/int8.upg")
    budget --bits 4 130016 "$most" && budget --bits 4.7 152768 "$most" && budget --bits 6.5 211276 "$most" && budget --bits 20 650080 "$most" &&
        budget --ratio 9 115569 "$most" && budget --ratio 7 148589 "$most" && budget --ratio 1 1040128 "$most"
}
compress_json() {
    exits 0 compress "$stories" -o "$work/json.upg" --layer-bits 3 --json -q &&
        has "$work/out" "d['parameters'] == 260032 and d['bytes'] == $(size "$work/json.upg") and len(d['tensors']) > 40 and abs(d['ratio'] - 4 * 260032 / d['bytes']) < .001"
}
same_file() {
    for option in "-t 1" "-t 2" "-t 3"; do
        # shellcheck disable=SC2086
        exits 0 compress "$stories" -o "$work/again.upg" --layer-bits 3 -q $option && cmp "$small" "$work/again.upg" || return 1
    done
    for isa in $isas; do
        UPG_ISA=$isa exits 0 compress "$stories" -o "$work/again.upg" --layer-bits 3 -q && cmp "$small" "$work/again.upg" || return 1
    done
}
shards() {
    $python - "$stories" "$work/shards" <<'END' || return 1
import json, os, shutil, struct, sys
source, out = sys.argv[1:]
os.mkdir(out)
for name in os.listdir(source):
    if not name.endswith(".safetensors"):
        shutil.copy(f"{source}/{name}", out)
data = open(f"{source}/model.safetensors", "rb").read()
n = struct.unpack("<Q", data[:8])[0]
header = {k: v for k, v in json.loads(data[8:8 + n]).items() if k != "__metadata__"}
index, names = {}, sorted(header)
for part, chosen in enumerate((names[::2], names[1::2]), 1):
    body, entries = b"", {}
    for name in chosen:
        begin, end = header[name]["data_offsets"]
        entries[name] = dict(header[name], data_offsets=[len(body), len(body) + end - begin])
        body += data[8 + n + begin:8 + n + end]
        index[name] = f"model-0000{part}-of-00002.safetensors"
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    open(f"{out}/model-0000{part}-of-00002.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + body)
json.dump({"metadata": {}, "weight_map": index}, open(f"{out}/model.safetensors.index.json", "w"))
END
    exits 0 compress "$work/shards" -o "$work/again.upg" --layer-bits 3 -q && cmp "$small" "$work/again.upg" || return 1
    rm "$work/shards/model-00002-of-00002.safetensors"
    fails "model-00002-of-00002.safetensors" compress "$work/shards" -o "$work/never.upg" && [ ! -e "$work/never.upg" ]
}
# interrupt PID COMMAND...: Ctrl-C for a process once the command succeeds; it must end with 130. (A script's background processes
# ignore SIGINT when they start; upg catches it all the same.)
interrupt() {
    pid=$1 tries=0
    shift
    until "$@" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] && kill -0 "$pid" 2>/dev/null || { echo "never: $*"; return 1; }
        sleep 0.1
    done
    kill -INT "$pid" || return 1
    wait "$pid"
    got=$?
    [ "$got" = 130 ] || { echo "exit status $got instead of 130"; cat "$work/err"; return 1; }
}
partial() { ls "$work"/kept.upg.partial*; }
fitted_by_default() {
    exits 0 "$upg" compress "$stories" -o "$work/fitted.upg" --bits 4.2 --calibration-tokens 1024 --heldout-tokens 512 -q &&
        grep -q "fitted to 1024 tokens; bits chosen by measured sensitivity" "$work/out" && grep -q "held-out text, 512 tokens: KL" "$work/out" &&
        [ ! -e "$work/fitted.upg.partial" ] &&
        fails "needs about" "$upg" compress "$stories" -o "$work/never.upg" --bits 4 --memory 0.1 && fails "no/such/text" "$upg" compress "$stories" -o "$work/never.upg" --bits 4 --calibrate no/such/text &&
        exits 2 "$upg" compress "$stories" -o "$work/never.upg" --effort great || return 1
    # Texts are looked at before any work.
    : >"$work/empty.u16"
    fails "0 tokens are too few to measure with" "$upg" compress "$stories" -o "$work/never.upg" --bits 4 --heldout "$work/empty.u16" &&
        fails "no/such/text" "$upg" compress "$stories" -o "$work/never.upg" --bits 4 --heldout no/such/text && ! ls "$work"/never.upg* 2>/dev/null || return 1
    # int8 is not fitted unless that is asked for, wherever the option stands.
    exits 0 "$upg" compress "$stories" -o "$work/int8.upg" --encoding int8 --heldout none -q && grep -q "not calibrated" "$work/out" &&
        exits 0 "$upg" compress "$stories" -o "$work/int8.upg" --calibrate "$stories/tokenizer.json" --calibration-tokens 256 --encoding int8 --heldout none -q &&
        grep -q "fitted to 256 tokens" "$work/out"
}
interrupted_compress() {
    echo precious >"$work/kept.upg"
    # The plain exact search takes seconds.
    UPG_ISA=scalar "$upg" compress "$stories" -o "$work/kept.upg" --layer-bits 2 --exact --calibrate none --heldout none -q -t 1 >"$work/out" 2>"$work/err" &
    interrupt $! partial && [ "$(cat "$work/kept.upg")" = precious ] && [ "$(cat "$work/err")" = "upg: interrupted" ] || return 1
    # The same command goes on, and nothing is left but the file.
    exits 0 compress "$stories" -o "$work/kept.upg" --layer-bits 2 --exact -q && ! partial 2>/dev/null && exits 0 "$upg" inspect --verify "$work/kept.upg"
}
sparse() {
    for bits in 8 4; do
        exits 0 compress "$stories" -o "$work/sparse.upg" --encoding sparse --sparse-bits $bits -q && grep -q "sparse $bits" "$work/out" &&
            exits 0 "$upg" inspect "$work/sparse.upg" --verify && grep -q "sparse $bits rotated" "$work/out" || return 1
    done
    exits 0 "$upg" run "$work/sparse.upg" -p "Once" -n 8 -q && [ -s "$work/out" ] &&
        exits 2 "$upg" compress "$stories" -o "$work/sparse.upg" --encoding sparse --sparse-bits 5 &&
        exits 2 "$upg" compress "$stories" -o "$work/sparse.upg" --encoding sparse --sparse-basis odd &&
        exits 2 "$upg" compress "$stories" -o "$work/sparse.upg" --sparse-bits 4 &&
        exits 2 "$upg" compress "$stories" -o "$work/sparse.upg" --encoding sparse --ratio 4
}
check "compress --encoding sparse" sparse
check "compress fails with one line, and leaves the target alone" failures_of_compress
check "compress keeps the budget and uses it" budgets
checkpy "compress --json" compress_json
check "compress writes the same bytes for every thread count and instruction set" same_file
checkpy "shards compress to the bytes of a single file" shards
check "compress is fitted to the text that ships, and measured on another" fitted_by_default
check "compress interrupted: 130, and the target is left alone" interrupted_compress

# ---- run ----
# text OPTIONS...: the answer to one prompt.
text() { "$upg" run "$small" -p "Once upon a time" -q "$@" 2>"$work/err" </dev/null; }
prompt_sources() {
    printf 'Once upon a time' >"$work/prompt"
    text -n 30 --seed 5 >"$work/a" && [ "$(size "$work/a")" -gt 30 ] &&
        "$upg" run "$small" -f "$work/prompt" -q -n 30 --seed 5 >"$work/b" </dev/null && cmp "$work/a" "$work/b" &&
        "$upg" run "$small" -q -n 30 --seed 5 <"$work/prompt" >"$work/b" && cmp "$work/a" "$work/b"
}
same_seed() {
    text -n 40 --seed 77 >"$work/a" || return 1
    text -n 40 --seed 78 >"$work/b" && ! cmp -s "$work/a" "$work/b" || { echo "another seed gives the same text"; return 1; }
    for t in 1 2 3; do text -n 40 --seed 77 -t $t >"$work/b" && cmp "$work/a" "$work/b" || return 1; done
    for isa in $isas; do UPG_ISA=$isa text -n 40 --seed 77 >"$work/b" && cmp "$work/a" "$work/b" || return 1; done
}
greedy() {
    text -n 40 --greedy --seed 1 >"$work/a" && text -n 40 --temp 0 --seed 2 >"$work/b" && cmp "$work/a" "$work/b" &&
        text -n 40 --top-k 1 --seed 3 >"$work/b" && cmp "$work/a" "$work/b"
}
run_json() {
    text -n 12 --seed 4 --json --logprobs >"$work/a" && text -n 12 --seed 4 >"$work/b" && json "$work/a" &&
        has "$work/a" "d['text'] + '\n' == open('$work/b').read() and d['completion_tokens'] == len(d['tokens']) == len(d['logprobs']) == 12" &&
        has "$work/a" "d['seed'] == 4 and d['finish_reason'] == 'length' and all(l <= 0 for l in d['logprobs'])"
}
logprobs() {
    text -n 12 --seed 4 --logprobs >"$work/a" && [ "$(wc -l <"$work/a")" -eq 12 ] && ! grep -vE '^[0-9]+	-?[0-9]+\.[0-9]{6}	".*"$' "$work/a"
}
no_tokens() {
    [ "$(text -n 0 | wc -c)" -eq 1 ] && text -n 0 --json >"$work/a" && has "$work/a" "d['text'] == '' and d['tokens'] == []"
}
long_prompt() {
    yes word | head -n 600 >"$work/long"
    fails "more than the context of 512" "$upg" run "$small" -f "$work/long" -n 1 && grep -qE 'has [0-9]{3,} tokens' "$work/err" &&
        fails "the prompt has 5 tokens, more than the context of 4" "$upg" run "$small" -p "Once upon a time" -c 4 &&
        fails "at most 512" "$upg" run "$small" -p a -c 513
}
empty_prompt() { exits 0 "$upg" run "$small" -p "" -n 5 -q && exits 0 "$upg" run "$small" -n 5 -q && [ "$(size "$work/out")" -gt 1 ]; }
full_context() { # the answer ends where the context does
    text -c 16 -n 100 --seed 1 --json >"$work/a" && has "$work/a" "d['prompt_tokens'] + d['completion_tokens'] <= 17"
}
# Whatever is run ahead, the same is written; and something was.
speculates() {
    printf 'Lily had a red ball and a blue ball. Lily had a red ball and a blue ball. Lily had a red' >"$work/twice"
    for options in "--temp 0 -n 60" "--temp 0.7 --seed 3 -n 60 --repeat-penalty 1.1" "--temp 0 -n 400 -c 70" "--temp 0 --logprobs -n 50"; do
        for way in off auto 0 1 8 31; do
            # shellcheck disable=SC2086
            exits 0 "$upg" run "$small" -f "$work/twice" $options -q --speculate $way || return 1
            [ $way != off ] || cp "$work/out" "$work/a"
            cmp "$work/out" "$work/a" || { echo "$options --speculate $way"; return 1; }
        done
    done
    exits 0 "$upg" run "$small" -f "$work/twice" --temp 0 -n 60 --speculate 8 &&
        grep -Eq 'answer: 60 tokens.* [1-9][0-9]* drafted, [1-9][0-9]* accepted, [0-9.]* tokens a run' "$work/err" || return 1
    exits 0 "$upg" run "$small" -f "$work/twice" --temp 0 -n 60 --speculate off && ! grep -q drafted "$work/err" || return 1
    for bad in 32 -1 on ""; do
        exits 2 "$upg" run "$small" -p a --speculate "$bad" && says "not auto, off or a whole number within 0..31" || return 1
    done
}
speculates_json() {
    "$upg" run "$small" -f "$work/twice" --temp 0 -n 60 --speculate 8 --json >"$work/a" &&
        has "$work/a" "0 < d['accepted_tokens'] <= d['drafted_tokens'] and d['runs'] + d['accepted_tokens'] == 59" &&
        "$upg" run "$stories" -f "$work/twice" --temp 0 -n 60 --speculate 8 --json >"$work/a" && has "$work/a" "d['drafted_tokens'] == 0 and d['runs'] == 59"
}
failures_of_run() {
    fails "no/such" "$upg" run no/such.upg -p a && fails "no/such" "$upg" run "$small" -f no/such &&
        UPG_ISA=sse fails "UPG_ISA=sse" "$upg" run "$small" -p a && fails "temperature" "$upg" run "$small" -p a --temp 0.001
}
interrupted_run() {
    : >"$work/out"
    UPG_ISA=scalar "$upg" run models/tales.upg -p "The" -n 1000 -t 1 --seed 1 >"$work/out" 2>"$work/err" &
    interrupt $! test -s "$work/out" && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^prompt: .* tokens' "$work/err" &&
        ! grep -q 'answer: 1000 tokens' "$work/err"
}
interrupted_input() { # while it waits for a prompt
    mkfifo "$work/fifo" || return 1
    sleep 60 >"$work/fifo" &
    writer=$!
    UPG_ISA=scalar "$upg" run "$small" <"$work/fifo" >"$work/out" 2>"$work/err" &
    interrupt $! sleep 1
    result=$?
    kill $writer
    return $result
}
closed_early() {
    for options in "" --json --logprobs; do
        # shellcheck disable=SC2086
        { "$upg" run "$small" -p a -n 300 --seed 1 -q $options 2>"$work/err"; echo $? >"$work/status"; } | head -c 1 >/dev/null
        case $(cat "$work/status") in 0 | 1 | 141) ;; *) echo "exit status $(cat "$work/status") with '$options'"; return 1 ;; esac
    done
}
full_disk() {
    [ -w /dev/full ] || return 0
    "$upg" run "$small" -p a -n 10 -q >/dev/full 2>"$work/err"
    [ $? = 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^upg: cannot write to standard output' "$work/err"
}
check "run: -p, -f and standard input are one" prompt_sources
check "run: a seed gives one text for every thread count and instruction set" same_seed
check "run: greedy does not depend on the seed" greedy
checkpy "run --json" run_json
check "run --logprobs" logprobs
checkpy "run -n 0" no_tokens
check "run: a prompt longer than the context is an error with both numbers" long_prompt
check "run: an empty prompt works" empty_prompt
checkpy "run: the answer ends where the context does" full_context
check "run --speculate: the same text, logprobs and end" speculates
checkpy "run --speculate --json counts" speculates_json
check "run fails with one line" failures_of_run
if [ -s models/tales.upg ]; then
    check "run interrupted: 130, and what was said stays" interrupted_run
else
    echo "skip run interrupted: models/tales.upg is not there"
fi
check "run interrupted while it reads the prompt: 130" interrupted_input
check "run: output closed early is no crash" closed_early
check "run: output that cannot be written is an error" full_disk

# ---- inspect, and files that are not whole ----
inspects() {
    exits 0 "$upg" inspect "$small" --verify && grep -q "every tensor matches" "$work/out" && exits 0 "$upg" inspect "$stories" &&
        fails "needs a .upg" "$upg" inspect "$stories" --verify
}
inspect_json() {
    exits 0 "$upg" inspect "$small" --json --verify && json "$work/out" && has "$work/out" "d['verified'] and d['parameters'] == 260032 and d['bytes'] == $(size "$small")" &&
        exits 0 "$upg" inspect "$stories" --json && has "$work/out" "d['report'] is None and not d['verified']"
}
# flip FILE OFFSET: one byte, in place.
flip() { $python -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(int(sys.argv[2])); b = f.read(1)[0]; f.seek(-1, 1); f.write(bytes([b ^ 0x10]))' "$1" "$2"; }
flipped() {
    n=$(size "$small")
    for at in $((n / 2)) $((n * 2 / 3)) $((n - 1)) $((n - 5000)); do
        cp "$small" "$work/flipped.upg" && flip "$work/flipped.upg" "$at" && fails "" "$upg" inspect "$work/flipped.upg" --verify || return 1
    done
    for at in 0 3 7 8 9 20 100 1000 4000; do # the header: refused, or noticed by --verify
        cp "$small" "$work/flipped.upg" && flip "$work/flipped.upg" "$at" && fails "" "$upg" inspect "$work/flipped.upg" --verify || return 1
    done
}
truncated() {
    n=$(size "$small")
    for at in 0 1 7 8 100 4096 $((n / 2)) $((n - 64)) $((n - 1)); do
        head -c "$at" "$small" >"$work/cut.upg"
        fails "cut.upg" "$upg" run "$work/cut.upg" -p a || return 1
    done
    mkdir -p "$work/cut" && cp "$stories"/*.json "$work/cut"
    n=$(size "$stories/model.safetensors")
    for at in 0 1 8 200 $((n / 2)) $((n - 1)); do
        head -c "$at" "$stories/model.safetensors" >"$work/cut/model.safetensors"
        fails "model.safetensors" compress "$work/cut" -o "$work/never.upg" --layer-bits 3 && fails "model.safetensors" "$upg" run "$work/cut" -p a || return 1
    done
    [ ! -e "$work/never.upg" ]
}
flipped_source() {
    mkdir -p "$work/bad" && cp "$stories"/*.json "$work/bad"
    for at in 0 5 8 9 40; do
        cp "$stories/model.safetensors" "$work/bad/model.safetensors" && chmod u+w "$work/bad/model.safetensors" &&
            flip "$work/bad/model.safetensors" "$at" && fails "" "$upg" inspect "$work/bad" || return 1
    done
}
check "inspect" inspects
checkpy "inspect --json" inspect_json
checkpy "inspect --verify finds a flipped byte" flipped
check "truncated files are refused with one line" truncated
checkpy "a flipped header of safetensors is refused with one line" flipped_source

# ---- tokenize ----
# Ids of any bytes, and back: what is not UTF-8 comes back as U+FFFD, everything else as it was (stories260K's tokenizer, like Llama's,
# puts a space before the text).
round_trip() {
    "$upg" tokenize "$2" $3 <"$1" >"$work/ids" && "$upg" tokenize "$2" --decode $3 <"$work/ids" >"$work/back"
}
tokenizes() {
    printf 'One day,\ta \000 b\r\n\n  x \001\177 h\303\251 \342\202\254 \360\237\246\212 e\314\201\n' >"$work/odd"
    round_trip "$work/odd" "$small" "" && sed '1s/^ //' "$work/back" | cmp - "$work/odd" || return 1
    if [ -s models/tales.upg ]; then round_trip "$work/odd" models/tales.upg "" && cmp "$work/back" "$work/odd" || return 1; fi
    printf 'a\377\376\342\202b' >"$work/odd"
    round_trip "$work/odd" "$small" "" && [ "$(cat "$work/back")" = "$(printf ' a\357\277\275\357\277\275\357\277\275b')" ]
}
tokenizer_json() {
    echo "Once upon a time" >"$work/odd"
    "$upg" tokenize "$small" <"$work/odd" >"$work/a" && "$upg" tokenize "$stories/tokenizer.json" <"$work/odd" >"$work/b" && cmp "$work/a" "$work/b" &&
        "$upg" tokenize "$stories" <"$work/odd" >"$work/b" && cmp "$work/a" "$work/b" && [ -z "$("$upg" tokenize "$small" </dev/null)" ]
}
failures_of_tokenize() {
    fails "no/such" "$upg" tokenize no/such && for bad in "1 2 x" "-1" "512" "99999999999999999999"; do
        echo "$bad" | "$upg" tokenize "$small" --decode >"$work/out" 2>"$work/err"
        [ $? = 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q "not a token id below 512" "$work/err" && [ ! -s "$work/out" ] || return 1
    done
}
check "tokenize and back" tokenizes
check "tokenize: a model and its tokenizer.json agree" tokenizer_json
check "tokenize fails with one line" failures_of_tokenize

# ---- eval ----
story() { "$upg" run "$small" -p "Once upon a time" -n 450 -c 512 --seed 9 -q >"$work/story.txt" </dev/null; }
eval_json() {
    story && exits 0 "$upg" eval "$small" --text "$work/story.txt" --window 64 --json -q &&
        has "$work/out" "sorted(d) == ['nll', 'ppl', 'tokens'] and 0 < d['nll'] < 3 and d['tokens'] % 64 == 0" &&
        exits 0 "$upg" eval "$small" --text "$work/story.txt" --window 64 --json -q --reference "$stories" &&
        has "$work/out" "sorted(d) == ['kl', 'nll', 'ppl', 'tokens', 'top1'] and 0 < d['kl'] < 1 and .5 < d['top1'] < 1" &&
        exits 0 "$upg" eval "$small" --text "$work/story.txt" --window 64 --windows 2 --json -q --reference "$small" &&
        has "$work/out" "d['kl'] == 0 and d['top1'] == 1 and d['tokens'] == 128" && exits 0 "$upg" eval "$small" --text "$work/story.txt" --json -q
}
failures_of_eval() {
    printf 'abc' >"$work/odd.u16"
    printf '\000\000\000\004' >"$work/large.u16"
    printf '\001\000' >"$work/one.u16"
    fails "no/such" "$upg" eval "$small" --tokens no/such -q && fails "3 bytes" "$upg" eval "$small" --tokens "$work/odd.u16" -q &&
        fails "id 1024 is not in the vocabulary of 512" "$upg" eval "$small" --tokens "$work/large.u16" -q &&
        fails "too few" "$upg" eval "$small" --tokens "$work/one.u16" -q && fails "too few" "$upg" eval "$small" --text /dev/null -q &&
        fails "more than its context of 512" "$upg" eval "$small" --tokens "$work/one.u16" --window 513 -q &&
        fails "no/such" "$upg" eval "$small" --text "$work/story.txt" --logits no/such/file -q
}
checkpy "eval --json" eval_json
check "eval fails with one line" failures_of_eval

# ---- devices ----
lists_devices() {
    exits 0 "$upg" devices && grep -q '^cpu  *[1-9]' "$work/out" && grep -q '^cuda' "$work/out" && grep -q '^software ' "$work/out"
}
tests_devices() {
    exits 0 "$upg" devices --selftest && grep -q '^cpu .*: the same bits as scalar code$' "$work/out" &&
        grep -q '^software .*: the same bits as scalar code$' "$work/out"
}
devices_json() { exits 0 "$upg" devices --json && has "$work/out" "[x['device'] for x in d][0] == 'cpu' and d[-1]['problem'] is None"; }
# The same text on the CPU and on the GPUs' kernels in software, also where the environment says so.
runs_on_devices() {
    "$upg" run "$small" --device cpu -p Once -n 20 --temp 0 -q >"$work/want" </dev/null &&
        "$upg" run "$small" --device software -p Once -n 20 --temp 0 -q >"$work/got" </dev/null && cmp "$work/want" "$work/got" &&
        UPG_DEVICE=software "$upg" run "$small" -p Once -n 20 --temp 0 </dev/null 2>&1 | grep -q "software GPU"
}
failures_of_devices() {
    fails "device abacus: unknown" "$upg" run "$small" --device abacus -p x -n 1 -q && exits 2 "$upg" run "$small" --gpu-memory much -p x -n 1
}
if [ -s models/tales.upg ]; then check "devices --selftest: the same bits" tests_devices; fi
check "devices" lists_devices
checkpy "devices --json" devices_json
check "run --device" runs_on_devices
check "run --device fails with one line" failures_of_devices

# ---- bench ----
spmv() {
    exits 0 "$upg" bench spmv --sizes 256,512 -r 2 -t 1 --no-baselines -o csv && [ "$(wc -l <"$work/out")" = 9 ] &&
        sed -n 2p "$work/out" | grep -q '^cpu_spmv_256,256,' && exits 0 "$upg" bench spmv --sizes 256 -r 2 -o md --python no/such/python &&
        grep -q 'no/such/python is not there' "$work/err" && exits 0 "$upg" bench spmv --sizes 256,512 -r 2 --no-baselines &&
        grep -q '^UPG_SpMV/cpu_trellis_512 *time: *\[' "$work/out" && grep -q '^UPG_SpMV/cpu_sparse4 *time grows as' "$work/out" &&
        exits 1 "$upg" bench nothing && exits 2 "$upg" bench spmv --sizes 100 && exits 2 "$upg" bench spmv -o xml
}
spmv_json() {
    exits 0 "$upg" bench spmv --sizes 256,512 -r 2 -o json --python "$python" &&
        has "$work/out" "d['rows'][0]['name'] == 'cpu_spmv_256' and 'cpu_int8' in d['exponents'] and any(r['name'] == 'python_512' for r in d['rows'])"
}
spmv_software() {
    exits 0 "$upg" bench spmv --device software --sizes 256 -r 2 --no-baselines -o csv && [ "$(wc -l <"$work/out")" = 9 ] &&
        sed -n 3p "$work/out" | grep -q '^software_spmv_256,256,'
}
check "bench spmv" spmv
check "bench spmv on a device" spmv_software
checkpy "bench spmv beside Python" spmv_json
