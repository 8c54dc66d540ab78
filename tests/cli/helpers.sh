# What the scripts of this folder share; each sources it with the build folder in $1 and runs in the repository.
upg=$(cd "$1" && pwd)/upg
stories=models/stories260K
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
python=
if python3 -c 'import json' 2>/dev/null; then python=python3; fi

# check NAME COMMAND...: whether the command succeeds.
check() {
    name=$1
    shift
    if "$@" >"$work/check" 2>&1; then
        echo "ok $name"
    else
        sed 's/^/# /' "$work/check"
        echo "not ok $name"
    fi
}
# checkpy: check where Python is needed.
checkpy() {
    if [ "$python" ]; then check "$@"; else echo "skip $1: python3 is not installed"; fi
}
# exits STATUS COMMAND...: its output is left in $work/out and $work/err.
exits() {
    want=$1
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ "$got" = "$want" ] || { echo "exit status $got instead of $want: $*"; cat "$work/err"; return 1; }
}
# says TEXT: the command before wrote exactly one line on standard error, which contains the text.
says() {
    [ "$(wc -l <"$work/err")" -eq 1 ] && grep -qF -e "$1" "$work/err" || { echo "does not say '$1' in one line:"; cat "$work/err"; return 1; }
}
# Without calibration and measuring, which have tests of their own.
compress() { "$upg" compress "$@" --calibrate none --heldout none; }
