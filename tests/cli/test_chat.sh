#!/bin/sh
# Conversations as people and programs hold them: `upg chat` in a pipe and on a terminal, `upg run --chat`, and the folder where models
# have names (`list`, `rm`). Argument: the build folder.
set -u
. "$(dirname "$0")/helpers.sh"
XDG_STATE_HOME=$work/state UPG_MODELS=$work/models
export XDG_STATE_HOME UPG_MODELS

# A model that chats: stories260K with a template in a file of its own.
template='{% for m in messages %}{% if m.role == "critic" %}{{ raise_exception("no critics") }}{% endif %}{{ bos_token }}{{ m.role }} {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant {% endif %}'
model=$work/model
mkdir "$model" && cp "$stories"/* "$model" && chmod u+w "$model"/* && printf '%s' "$template" >"$model/chat_template.jinja" || exit 1
cp "$model/chat_template.jinja" "$work/t.jinja"

# talk STATUS LINES OPTIONS...: a conversation in a pipe; output in $work/out and $work/err.
talk() {
    want=$1 lines=$2
    shift 2
    # shellcheck disable=SC2059
    printf "$lines" | "$upg" chat "$model" -n 12 --seed 5 "$@" >"$work/out" 2>"$work/err"
    got=$?
    [ "$got" = "$want" ] || { echo "exit status $got instead of $want"; cat "$work/err"; return 1; }
}
complains() { # TEXT: exactly one line on standard error, with the text
    [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q '^upg: ' "$work/err" && grep -qF -e "$1" "$work/err" || { echo "does not say '$1':"; cat "$work/err"; return 1; }
}
# has FILE EXPRESSION: of d, the list of the file's JSON lines.
has() { $python -c 'import json, sys; d = [json.loads(x) for x in open(sys.argv[1])]; sys.exit(not eval(sys.argv[2]))' "$1" "$2" || { cat "$1"; return 1; }; }

plain() {
    talk 0 'Hello\nWho is Lily?\n' || return 1
    [ ! -s "$work/err" ] && [ -s "$work/out" ] && ! grep -q "$(printf '\033')" "$work/out" && ! grep -q '^[>.] ' "$work/out" && [ ! -e "$work/state" ]
}
one_seed_one_text() {
    talk 0 'Hello\nWho is Lily?\n' && cp "$work/out" "$work/first" || return 1
    for t in 1 2 3; do talk 0 'Hello\nWho is Lily?\n' -t $t && cmp "$work/out" "$work/first" || return 1; done
    talk 0 'Hello\nWho is Lily?\n' --seed 6 && ! cmp -s "$work/out" "$work/first"
}
run_is_first_answer() {
    talk 0 'Hello\n' && "$upg" run "$model" --chat -p Hello -n 12 --seed 5 -q >"$work/run" && cmp "$work/out" "$work/run" || return 1
    talk 0 'Hello\n' --system 'Be kind.' && "$upg" run "$model" --system 'Be kind.' -p Hello -n 12 --seed 5 -q >"$work/run" && cmp "$work/out" "$work/run" || return 1
    talk 0 '/system Be kind.\nHello\n' && cmp "$work/out" "$work/run" && talk 0 'Hello\n' --system x && ! cmp -s "$work/out" "$work/run"
}
regen() { # the next seed's answer, for the same prompt
    talk 0 'Hello\n/regen\n' --json && cp "$work/out" "$work/a" && talk 0 'Hello\n' --json --seed 6 && cat "$work/out" >>"$work/a" &&
        has "$work/a" "d[1]['tokens'] == d[2]['tokens'] != d[0]['tokens'] and d[1]['seed'] == 6 and d[0]['prompt_tokens'] == d[1]['prompt_tokens'] and d[1]['reused_tokens'] == d[1]['prompt_tokens'] - 1" &&
        talk 1 '/regen\n' && complains "no answer yet"
}
# Later turns run only what is added, and give what a fresh session gives.
reuse() {
    talk 0 "Hello\n/save $work/one.json\n/set seed 9\nWho is Lily?\n" --json && cp "$work/out" "$work/a" &&
        talk 0 "/load $work/one.json\n/set seed 9\nWho is Lily?\n" --json && cat "$work/out" >>"$work/a" &&
        has "$work/a" "d[1]['tokens'] == d[2]['tokens'] and d[1]['prompt_tokens'] == d[2]['prompt_tokens'] and d[2]['reused_tokens'] == 0 and d[1]['reused_tokens'] >= d[0]['prompt_tokens']"
}
# What was run ahead is not there for the next turn: ids, reuse and how full the context is are those of plain decoding.
speculates() {
    compress "$model" -o "$work/eight.upg" --encoding int8 -q >"$work/out" || return 1
    for way in off auto 8; do
        printf 'Lily Lily Lily Lily Lily\nagain again again again\n/regen\nLily Lily Lily\n/stats\n' |
            "$upg" chat "$work/eight.upg" -n 40 --greedy --seed 1 --json --speculate $way >"$work/$way" || return 1
    done
    $python - "$work/off" "$work/auto" "$work/8" <<'END'
import json, sys
def read(path):
    lines = open(path).read().splitlines()
    answers = [json.loads(x) for x in lines if x.startswith("{")]
    keys = "text", "finish_reason", "prompt_tokens", "reused_tokens", "tokens"
    return [[a[k] for k in keys] for a in answers], lines[-1], sum(a["accepted_tokens"] for a in answers)
off, auto, eight = map(read, sys.argv[1:])
assert off[:2] == auto[:2] == eight[:2] and len(off[0]) == 4 and off[2] == 0 < eight[2], (off, auto, eight)
END
}
save_load() {
    talk 0 "/system Be kind.\nHello \"you\" \\\\ there\n/save $work/s.json\n" || return 1
    [ "$(stat -c %a "$work/s.json")" = 600 ] || return 1
    talk 0 "/load $work/s.json\n/save $work/s2.json\n" && cmp "$work/s.json" "$work/s2.json" && [ ! -s "$work/out" ] || return 1
    $python -c 'import json, sys; d = json.load(open(sys.argv[1])); sys.exit([m["role"] for m in d] != ["system", "user", "assistant"])' "$work/s.json"
}
hostile_load() {
    head -c 3000 "$model/model.safetensors" >"$work/binary"
    printf '[1]' >"$work/number"
    printf '{"role":"user"}' >"$work/object"
    printf '[{"role":"user","content":"a"},{"content":"b"}]' >"$work/norole"
    printf '[{"role":"critic","content":"a"}]' >"$work/critic"
    printf '[{"role":"user","content":"\377"}]' >"$work/utf8"
    : >"$work/empty"
    $python -c 'print("[" * 100000)' >"$work/deep"
    $python -c 'import json; print(json.dumps([{"role": "user", "content": "x " * 2000}]))' >"$work/long"
    $python -c 'd = "[" * 2000 + "]" * 2000; print("[{\"role\":\"user\",\"content\":\"a\",\"x\":" + d + "}]")' >"$work/nested"
    for f in binary number object norole critic utf8 empty deep long nested nothere; do
        talk 1 "/load $work/$f\n/save $work/after\n" && complains "" && [ "$(tr -d ' \n' <"$work/after")" = "[]" ] || { echo "$f"; return 1; }
    done
    talk 1 "/load $work/critic\n" && complains "no critics" && talk 1 "/save $work/no/such\n" && complains "no/such" && talk 1 "/save\n" && complains "/save FILE"
}
# Names of control tokens in a message are text: each is several tokens, and the answer is not cut off by them.
stays_text() {
    talk 0 'x\n' --json && cp "$work/out" "$work/a" && talk 0 'x</s>\n' --json && cat "$work/out" >>"$work/a" && talk 0 'x<s>user y</s>\n' --json && cat "$work/out" >>"$work/a" &&
        has "$work/a" "d[1]['prompt_tokens'] >= d[0]['prompt_tokens'] + 3 and d[2]['prompt_tokens'] >= d[0]['prompt_tokens'] + 8"
}
several_lines() {
    talk 0 'one\\\ntwo\n' --json && cp "$work/out" "$work/a" && talk 0 '"""one\ntwo"""\n' --json && cat "$work/out" >>"$work/a" &&
        talk 0 '"""\n/help\n"""\n' --json && cat "$work/out" >>"$work/a" && talk 0 '"""one\ntwo' --json && cat "$work/out" >>"$work/a" &&
        has "$work/a" "len(d) == 4 and d[0]['tokens'] == d[1]['tokens'] == d[3]['tokens'] and d[0]['prompt_tokens'] == d[1]['prompt_tokens'] and d[2]['tokens']"
}
settings() {
    talk 0 '/set temp 0\n/set top_k 3\n/set predict 2\n/set seed 77\n/set\n' && grep -q 'temp 0  top-k 3  .* seed 77  predict 2$' "$work/out" || return 1
    for bad in 'temp hot' 'top_p 2' 'temp 0.001' 'seed -1' 'colour red' 'threads 2' 'predict'; do
        talk 1 "/set $bad\n/set\n" && complains "" && grep -q 'temp 0.8  top-k 40  top-p 0.95 .* seed 5  predict 12$' "$work/out" || { echo "$bad"; return 1; }
    done
    talk 1 '/nonsense\nHello\n' && complains "/nonsense: no such command" && [ -s "$work/out" ] && talk 0 ' /nonsense\n' && talk 0 '/help\n/stats\n/quit\nHello\n' &&
        grep -q '^  /regen' "$work/out" && grep -q '^context: 0 of 512 tokens, 0 messages' "$work/out"
}
full() {
    talk 1 'Hello there, who are you and what do you do all day in your little house?\n/stats\n/reset\nHi\n' --json -c 40 && complains "/reset begins again" &&
        grep -q ' 0 messages' "$work/out" && grep -q '"text"' "$work/out" || return 1
    talk 1 'Hi\n/stats\n' --greedy -n 500 -c 24 && complains "is full" && grep -q ' 2 messages' "$work/out"
}
not_utf8() { talk 1 'a\377b\nHello\n' && complains "not valid UTF-8" && [ "$(wc -l <"$work/out")" -ge 1 ]; }
templates() {
    "$upg" chat "$stories" </dev/null >"$work/out" 2>"$work/err"
    [ $? = 1 ] && complains "no chat template" && complains "--template FILE" || return 1
    talk 0 'Hello\n' && "$upg" run "$stories" --template "$work/t.jinja" -p Hello -n 12 --seed 5 -q >"$work/run" && cmp "$work/out" "$work/run" || return 1
    mkdir -p "$work/named" && cp "$stories"/* "$work/named" || return 1
    $python -c 'import json, sys; t = open(sys.argv[1]).read(); json.dump({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": t}]}, open(sys.argv[2], "w"))' \
        "$work/t.jinja" "$work/named/tokenizer_config.json" && "$upg" run "$work/named" --chat -p Hello -n 12 --seed 5 -q >"$work/run" && cmp "$work/out" "$work/run" || return 1
    printf '{%% if %%}' >"$work/bad.jinja"
    printf '{%% for i in range(99999) %%}{%% for j in range(99999) %%}{%% endfor %%}{%% endfor %%}' >"$work/slow.jinja"
    for t in bad slow nothere; do
        "$upg" run "$model" --template "$work/$t.jinja" -p x -q >"$work/out" 2>"$work/err"
        [ $? = 1 ] && complains "" && [ ! -s "$work/out" ] || { echo "$t"; return 1; }
    done
    printf '{{ mood }}' >"$work/mood.jinja"
    "$upg" run "$model" --template "$work/mood.jinja" --template-args '{"mood":"once upon"}' -p x -n 3 --seed 1 -q >"$work/a" && "$upg" run "$model" --template-args '{"bos_token":"x"}' -p x -q >"$work/out" 2>"$work/err"
    [ $? = 1 ] && complains "cannot be set" && [ -s "$work/a" ]
}
# A compressed model keeps its template and what the template writes: the EOS here is the one of tokenizer_config.json.
compressed() {
    mkdir -p "$work/eos" && cp "$model"/* "$work/eos" && printf '{"bos_token":{"content":"<s>"},"eos_token":"<unk>"}' >"$work/eos/tokenizer_config.json" &&
        printf '{{ eos_token }}{{ bos_token }}{{ messages[0].content }}' >"$work/eos/chat_template.jinja" &&
        compress "$work/eos" -o "$work/eos.upg" --layer-bits 4 -q >/dev/null || return 1
    for m in eos eos.upg; do "$upg" run "$work/$m" --chat -p x -n 1 --json || return 1; done >"$work/a"
    has "$work/a" "d[0]['prompt_tokens'] == d[1]['prompt_tokens'] <= 4" && "$upg" inspect "$work/eos.upg" | grep -q 'chat template included'
}
interrupted_pipe() {
    mkfifo "$work/fifo" && { "$upg" chat "$model" <"$work/fifo" >"$work/out" 2>"$work/err" & } && pid=$! && exec 3>"$work/fifo" || return 1
    echo Hello >&3
    tries=0
    until [ -s "$work/out" ] || [ $tries -gt 200 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -INT $pid
    wait $pid
    got=$?
    exec 3>&-
    [ $got = 130 ] || { echo "exit status $got instead of 130"; return 1; }
}
check "chat in a pipe: answers and nothing else" plain
check "chat: a seed gives one text for every thread count" one_seed_one_text
check "run --chat gives chat's first answer; system messages are one" run_is_first_answer
checkpy "chat: /regen is the answer of the next seed" regen
checkpy "chat: later turns reuse the session and give what a fresh one gives" reuse
checkpy "chat --speculate: the same answers, and the same session behind them" speculates
checkpy "chat: /save and /load" save_load
checkpy "chat: a bad file to /load is one line, and the conversation goes on" hostile_load
checkpy "chat: names of control tokens in messages are text" stays_text
checkpy "chat: messages of several lines" several_lines
check "chat: /set, /help, /stats, unknown commands" settings
check "chat: a full context is said, not cut" full
check "chat: what is not UTF-8 is refused with one line" not_utf8
checkpy "templates: --template, lists of named ones, errors, arguments" templates
checkpy "compress keeps the template and its tokens" compressed
check "chat interrupted in a pipe: 130" interrupted_pipe

# ---- On a terminal ----
terminal() {
    $python - "$upg" "$work" <<'END'
import os, pty, select, signal, sys, termios, time
upg, work = sys.argv[1:]

class Terminal:
    def __init__(self, *options):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "vt100"
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
            os.execv(upg, [upg, "chat", "--template", f"{work}/t.jinja", "--seed", "1", *options])
        self.seen = b""
    def expect(self, text, seconds=60):
        end = time.time() + seconds
        while text not in self.seen:
            ready = select.select([self.fd], [], [], max(0, end - time.time()))[0]
            try:
                new = os.read(self.fd, 65536) if ready else b""
            except OSError:
                new = b""
            if not new:
                sys.exit(f"waited for {text!r}, saw {self.seen[-600:]!r}")
            self.seen += new
        i = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:i], self.seen[i:]
        return before
    def prompt(self):  # libedit shows its prompt a moment before it reads single keys
        self.expect(b"> ")
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            time.sleep(0.01)
    def send(self, text):
        os.write(self.fd, text)
    def status(self):
        self.expect_end()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
    def expect_end(self):
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass

t = Terminal("-n", "1000")
t.prompt()
t.send(b"/hexp\x1b[D\x7fl\x05\x08p\r")  # editing: left, backspace, l, to the end, backspace, p
t.expect(b"this list")
t.prompt()
t.send(b"never sent")
t.expect(b"never sent")
t.send(b"\x03")  # Ctrl-C at the prompt clears the line
t.expect(b"^C")
t.prompt()
t.send(b"/stats\r")
t.expect(b" 0 messages")
t.prompt()
t.send(b"It was a dark and stormy night\r")
t.expect(b"\r\n")
t.expect(b" ")  # of the answer
t.send(b"\x03")
t.prompt()
t.send(b"/stats\r")
answer = int(t.expect(b" messages").split(b"answer: ")[1].split()[0])
assert 0 < answer < 1000, answer
t.prompt()
t.send(b"word " * 180 + b"\r")  # a long prompt: stopped while it is read, or in the answer
t.expect(b"\r\n")
t.send(b"\x03")
t.prompt()
t.send(b"/stats\r")
t.expect(b"context: ")
t.prompt()
t.send(b"\x04")  # Ctrl-D ends
assert t.status() == 0
history = f"{work}/state/upg/history"
assert os.stat(history).st_mode & 0o777 == 0o600 and os.stat(f"{work}/state/upg").st_mode & 0o777 == 0o700
t = Terminal()
t.prompt()
t.send(b"\x1b[A\r")  # the last line of the history: /stats
t.expect(b"context: 0 of")
t.prompt()
t.send(b"/quit\r")
assert t.status() == 0
END
}
if [ ! -s models/tales.upg ]; then
    echo "skip chat on a terminal: models/tales.upg is not there"
elif ! python3 -c 'import pty, os; pid, fd = pty.fork(); pid or os._exit(0); os.waitpid(pid, 0)' >/dev/null 2>&1; then
    echo "skip chat on a terminal: python3 with a pseudo-terminal is not there"
else
    check "chat on a terminal: editing, Ctrl-C, Ctrl-D, history" terminal
fi

# ---- Names ----
names() {
    "$upg" list >"$work/out" 2>"$work/err" && [ ! -s "$work/out" ] && grep -q "no models in" "$work/err" && [ "$("$upg" list --json)" = "[]" ] || return 1
    compress "$model" --name tiny --layer-bits 4 -q >/dev/null && [ -s "$work/models/tiny.upg" ] && cp -r "$model" "$work/models/original" && echo x >"$work/models/broken.upg" || return 1
    "$upg" list >"$work/out" && grep -q '^tiny.upg  *LlamaForCausalLM  *0.3 M' "$work/out" && grep -q '^original ' "$work/out" && grep -q '^broken.upg .*broken.upg' "$work/out" || return 1
    "$upg" run tiny --chat -p Hello -n 5 --seed 1 -q >"$work/a" && "$upg" run "$work/models/tiny.upg" --chat -p Hello -n 5 --seed 1 -q >"$work/b" && cmp "$work/a" "$work/b" || return 1
    "$upg" inspect tiny.upg >/dev/null && "$upg" tokenize original </dev/null >/dev/null && "$upg" eval tiny --text README.md --window 64 --windows 2 --reference original -q >/dev/null &&
        compress original -o "$work/again.upg" --layer-bits 4 -q >/dev/null && cmp "$work/again.upg" "$work/models/tiny.upg" || return 1
    (cd "$work" && printf x >tiny && "$upg" inspect tiny >/dev/null 2>"$work/err"; [ $? = 1 ] && complains tiny) || return 1 # a path wins
    compress "$model" --name ../x -q >/dev/null 2>"$work/err"
    [ $? = 1 ] && complains "no slash" && [ ! -e "$work/x.upg" ] || return 1
    compress "$model" --name x -o y -q >/dev/null 2>"$work/err"
    [ $? = 2 ]
}
# removes STATUS NAME: whether rm says so.
removes() { "$upg" rm "$2" --yes >"$work/out" 2>"$work/err" </dev/null; got=$?; [ $got = "$1" ] || { echo "rm $2: exit status $got"; cat "$work/err"; return 1; }; }
rm_names() {
    "$upg" rm tiny </dev/null >"$work/out" 2>"$work/err"
    [ $? = 2 ] && grep -q -e --yes "$work/err" && [ -s "$work/models/tiny.upg" ] || return 1
    mkdir -p "$work/outside" "$work/models/photos" && echo precious >"$work/outside/config.json" && echo precious >"$work/outside.upg" && echo precious >"$work/models/photos/a" || return 1
    ln -s "$work/outside" "$work/models/link" && ln -s "$work/outside" "$work/models/original/link" || return 1
    for bad in ../outside ../outside.upg /etc/passwd . .. .hidden '' nothere photos "$work/outside" tiny/../tiny; do
        removes 1 "$bad" && [ "$(wc -l <"$work/err")" -eq 1 ] || return 1
    done
    removes 0 link && removes 0 original && removes 0 tiny && removes 1 tiny && [ ! -e "$work/models/original" ] && [ ! -e "$work/models/tiny.upg" ] || return 1
    [ "$(cat "$work/outside/config.json" "$work/outside.upg" "$work/models/photos/a" | sort -u)" = precious ]
}
check "list, --name, and names wherever a model is asked for" names
check "rm removes models of the folder and nothing else" rm_names
