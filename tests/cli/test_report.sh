#!/bin/sh
# What compress prints, inspect --report shows again, and --plot draws. Argument: the build folder.
set -u
. "$(dirname "$0")/helpers.sh"

# fails STATUS TEXT COMMAND...: that status, and one line on standard error that contains the text.
fails() {
    status=$1 text=$2
    shift 2
    exits "$status" "$@" && says "$text"
}

"$upg" compress "$stories" -o "$work/fitted.upg" --bits 4.2 --calibration-tokens 2048 --effort fast --plot "$work/fitted.svg" -q >"$work/fitted" || echo "not ok compress"
"$upg" compress "$stories" -o "$work/int8.upg" --encoding int8 --heldout-tokens 512 --calibrate none -q >"$work/int8" || echo "not ok compress"
"$upg" compress "$stories" -o "$work/plain.upg" --layer-bits 2.5 --calibrate none --heldout none -q >"$work/plain" || echo "not ok compress"

same_table() {
    for model in fitted int8 plain; do
        sed '$d' "$work/$model" >"$work/printed" # without time and memory
        "$upg" inspect "$work/$model.upg" --report >"$work/shown" && cmp "$work/printed" "$work/shown" &&
            [ "$(grep -c '^model\..*%$' "$work/shown")" = 36 ] && sed -n '$p' "$work/$model" | grep -q ' of memory at most$' || return 1
    done
    grep -q '^held-out text, 512 tokens: KL' "$work/int8" && grep -q '^held-out text: not measured$' "$work/plain" && grep -q '^not calibrated: ' "$work/plain" &&
        grep -q '^not calibrated$' "$work/int8" && grep -q '^fitted to 2048 tokens; bits chosen by ' "$work/fitted"
}
summary() {
    "$upg" inspect "$work/fitted.upg" >"$work/out" && [ "$(grep -c '^report' "$work/out")" = 1 ] &&
        grep -q '^report         fitted to 2048 tokens; KL .*; --report shows all$' "$work/out" && "$upg" inspect "$stories" >"$work/out" && ! grep '^report' "$work/out" &&
        "$upg" inspect "$work/fitted.upg" --report --verify | grep -q '^verified'
}
usage() {
    fails 1 "only .upg files have a report" "$upg" inspect "$stories" --report && fails 1 "only .upg files have a report" "$upg" inspect "$stories" --plot "$work/x.svg" &&
        fails 2 "must end in .svg" "$upg" inspect "$work/fitted.upg" --plot "$work/fitted.upg" && fails 2 "must end in .svg" "$upg" compress a -o b --plot .svg &&
        fails 1 "no/such.svg: No such file" "$upg" inspect "$work/fitted.upg" --plot no/such.svg && [ ! -e "$work/x.svg" ] &&
        "$upg" inspect --help | grep -q -e --report && "$upg" inspect --help | grep -q -e --plot && "$upg" compress --help | grep -q -e --plot
}
pictures() {
    "$upg" inspect "$work/fitted.upg" --plot "$work/again.svg" >/dev/null && cmp "$work/fitted.svg" "$work/again.svg" || return 1
    "$upg" inspect "$work/plain.upg" --plot "$work/plain.svg" >/dev/null && "$upg" inspect "$work/int8.upg" --plot "$work/int8.svg" >/dev/null || return 1
    "$python" - "$work/fitted.svg" "$work/plain.svg" "$work/int8.svg" <<'END_PY'
import sys, xml.etree.ElementTree as tree
for path in sys.argv[1:]:
    svg = tree.parse(path).getroot()
    classes = [e.get("class", "").split(" ")[0] for e in svg.iter("{http://www.w3.org/2000/svg}path")]
    assert classes.count("bits") == classes.count("error") == 36, path
    assert "nan" not in open(path).read().lower(), path
END_PY
}
# A report that lies, where the reader takes the file but not what it says. Same length, so that nothing moves; the hash is that of --verify only.
lies() {
    "$python" - "$work/fitted.upg" "$work/lying.upg" <<'END_PY' || return 1
import sys
data = open(sys.argv[1], "rb").read()
old = b'\\"calibration_tokens\\":2048'
assert data.count(old) == 1
open(sys.argv[2], "wb").write(data.replace(old, b'\\"calibration_tokens\\":-204'))
END_PY
    fails 1 "report: calibration_tokens is not a whole number" "$upg" inspect "$work/lying.upg" --report &&
        fails 1 "report: calibration_tokens" "$upg" inspect "$work/lying.upg" --plot "$work/lying.svg" && [ ! -e "$work/lying.svg" ] &&
        "$upg" inspect "$work/lying.upg" | grep -q '^report         unreadable: .*calibration_tokens' && "$upg" run "$work/lying.upg" -p a -n 1 -q >/dev/null
}
# On a terminal one line that is drawn over, within its width; otherwise a line every ten percent.
progress() {
    "$upg" compress "$stories" -o "$work/p.upg" --layer-bits 2 --exact --calibrate none --heldout none >/dev/null 2>"$work/lines" || return 1
    [ "$(wc -l <"$work/lines")" -le 11 ] && ! grep -vE '^ *[0-9]+%  [a-z0-9_.]+(, [0-9].* left)?$|^100%$' "$work/lines" && ! grep -q "$(printf '\r')" "$work/lines"
}
bar() {
    script -qec "stty cols 60; $upg compress $stories -o $work/p2.upg --layer-bits 2 --exact --calibrate none --heldout none >/dev/null" /dev/null >"$work/bar" 2>&1 </dev/null || return 1
    tr '\r' '\n' <"$work/bar" | grep -qE '^\[#* *\] +[0-9]+%.*model\.' && ! tr '\r' '\n' <"$work/bar" | sed 's/.\[K//' | grep -E '^.{60}'
}
check "inspect --report is what compress printed" same_table
check "inspect has one line of the report" summary
check "report and plot: exit statuses and help" usage
checkpy "plots are XML with a marker for every matrix" pictures
checkpy "a report that lies is refused, the model is not" lies
check "progress in lines" progress
if command -v script >/dev/null; then check "progress on a terminal fits its width" bar; else echo "skip progress on a terminal: script is not installed"; fi
