#!/bin/sh
# run.sh BUILD_DIR: runs all tests, from any POSIX shell, and ends with "N passed, N failed[, N skipped]".
#
# Three kinds of test: the cmocka programs BUILD_DIR/tests/**/test_*; the scripts tests/**/test_*.sh, which get BUILD_DIR as their
# argument and print "ok NAME", "not ok NAME" or "skip NAME: why", a line for each property; and the arithmetic reference, which must
# write the vectors the C code is tested with. The output of a program that fails is shown whole, that of others only where they
# skip. A program that crashes, stops before its last test, runs none or exits with an error that no test explains is one more
# failure. UPG_TEST_FILTER=TEXT runs the programs whose name (such as base/test_thread) contains TEXT.
set -u
LC_ALL=C
export LC_ALL
# Where there is a GPU, tests that do not ask for it are about the CPU.
UPG_DEVICE=cpu
export UPG_DEVICE
[ $# = 1 ] || { echo "usage: tests/run.sh BUILD_DIR" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 2
build=${1%/}
filter=${UPG_TEST_FILTER:-}
passed=0 failed=0 skipped=0
log=$(mktemp -d) || exit 2
trap 'rm -rf "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Both counters read a log and print "PASSED FAILED SKIPPED", then a line for every skipped test. status is the program's.
count_cmocka() {
    awk -v status="$2" '
        function result(tag) { return test != "" && (i = index($0, tag)) && substr($0, i + length(tag)) == test }
        i = index($0, "[==========] Running ") { split(substr($0, i), word, " "); planned += word[3] }
        i = index($0, "[ RUN      ] ") { test = substr($0, i + 13); why = ""; next }
        result("[       OK ] ") { passed++; test = ""; next }
        result("[  FAILED  ] ") || result("[  ERROR   ] ") { failed++; test = ""; next }
        result("[  SKIPPED ] ") { skips[skipped++] = test (why == "" ? "" : ": " why); test = ""; next }
        test != "" { why = why (why == "" ? "" : " ") $0 }
        END {
            if (!failed && (status != 0 || passed + skipped < planned || !planned)) failed = 1
            print passed + 0, failed + 0, skipped + 0
            for (i = 0; i < skipped; i++) print "        skip " skips[i]
        }' "$1"
}
count_lines() {
    awk -v status="$2" '
        /^ok / { passed++ }
        /^not ok / { failed++ }
        /^skip / { skips[skipped++] = $0 }
        END {
            if (!failed && (status != 0 || passed + skipped == 0)) failed = 1
            print passed + 0, failed + 0, skipped + 0
            for (i = 0; i < skipped; i++) print "        " skips[i]
        }' "$1"
}

# run NAME COUNTER COMMAND...
run() {
    name=$1 counter=$2
    shift 2
    case $name in *"$filter"*) ;; *) return ;; esac
    "$@" >"$log/output" 2>&1 </dev/null
    status=$?
    "$counter" "$log/output" "$status" >"$log/counts"
    read -r p f s <"$log/counts" || { p=0 f=1 s=0; }
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    counts="$p passed"
    [ "$f" = 0 ] || counts="$counts, $f failed"
    [ "$s" = 0 ] || counts="$counts, $s skipped"
    if [ "$f" = 0 ]; then
        echo "ok      $name: $counts"
        sed 1d "$log/counts"
    else
        echo "FAILED  $name: $counts (exit status $status)"
        sed 's/^/        /' "$log/output"
    fi
}

vectors() {
    if ! python3 -c 'import numpy' 2>/dev/null; then
        echo "skip vectors: python3 with numpy is not installed"
    elif PYTHONDONTWRITEBYTECODE=1 python3 tests/spec/make_vectors.py "$log/arithmetic.json" &&
        cmp "$log/arithmetic.json" tests/vectors/arithmetic.json; then
        echo "ok vectors"
    else
        echo "not ok vectors: the reference does not write tests/vectors/arithmetic.json"
    fi
}

CMOCKA_MESSAGE_OUTPUT=stdout
export CMOCKA_MESSAGE_OUTPUT
# A program left over from a source file that is gone is no test.
for program in $(find tests -name 'test_*.c' | sort); do
    program=${program%.c}
    if [ -x "$build/$program" ]; then
        run "${program#tests/}" count_cmocka "$build/$program"
    else
        run "${program#tests/}" count_cmocka echo "$build/$program is not built"
    fi
done
for script in $(find tests -name 'test_*.sh' | sort); do
    run "${script#tests/}" count_lines "$script" "$build"
done
run spec/make_vectors.py count_lines vectors

summary="$passed passed, $failed failed"
[ "$skipped" = 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ "$failed" = 0 ] && [ $((passed + skipped)) -gt 0 ]
