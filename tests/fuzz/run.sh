#!/bin/sh
# run.sh TARGETS...: runs each fuzz target for FUZZ_SECONDS (600) seconds, two at a time, and ends with "N passed, N failed".
# What a target finds stays in build/fuzz/corpus/NAME; it starts from tests/fuzz/seeds/NAME. An input that fails is kept as
# build/fuzz/NAME-crash-*, the target's output as build/fuzz/NAME.log.
set -eu
seconds=${FUZZ_SECONDS:-600}

run_one() {
    target=$1
    name=$(basename "$target")
    name=${name#fuzz_}
    corpus=build/fuzz/corpus/$name
    log=build/fuzz/$name.log
    mkdir -p "$corpus"
    [ ! -d "tests/fuzz/seeds/$name" ] || cp "tests/fuzz/seeds/$name"/* "$corpus"
    set --
    [ ! -f "tests/fuzz/seeds/$name.dict" ] || set -- "-dict=tests/fuzz/seeds/$name.dict"
    if "$target" "$@" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/$name-" "$corpus" >"$log" 2>&1; then
        echo "ok      $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s"
    else
        echo "FAILED  $name: see $log"
        grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$log" | sed 's/^/        /' || true
    fi
}

if [ "${1:-}" = --one ]; then
    run_one "$2"
    exit
fi
[ $# -gt 0 ] || { echo "usage: tests/fuzz/run.sh TARGETS..." >&2; exit 2; }
mkdir -p build/fuzz
out=build/fuzz/results
printf '%s\n' "$@" | xargs -n 1 -P 2 "$0" --one | tee "$out"
passed=$(grep -c '^ok ' "$out" || true)
failed=$(($# - passed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
