#!/bin/sh
# Instructions a weight of the linear kernels, for one row and (a product) for a batch of 16, and how they differ from those in
# bench/instructions.txt; --write puts them there. Counts do not depend on the machine's speed or load, only on the compiler. Usage:
# bench/instructions.sh BUILD [--write]
set -eu
build=$1 write=${2:-} kept=bench/instructions.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Lines of ISA ENCODING ROWS INSTRUCTIONS. glibc's memset must not use rep stosb, which counts as one instruction a byte.
native() { GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=1000000000 "$build/bench/kernel_count"; }

# Instructions of one command as qemu logs them: a line for each.
steps() { qemu-aarch64 -cpu max -singlestep -d exec,nochain -D /dev/stdout "$build/arm64/isa/kernel_count" "$@" | wc -l; }
armv8() {
    for isa in i8mm dotprod neon; do
        for encoding in 3-bit int8 sparse; do
            for rows in 1 16; do
                once=$(steps $isa $encoding $rows 1) twice=$(steps $isa $encoding $rows 2)
                echo "$isa $encoding $rows $((twice - once))"
            done
        done
    done
}

if ! native >"$work/counts"; then
    echo "left out: a process cannot be stepped through here"
    exit 0
fi
if [ "$(uname -m)" != x86_64 ]; then
    :
elif command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
    tests/isa/build_arm64.sh "$build/arm64" kernel_count >"$work/make" 2>&1 || { cat "$work/make"; exit 1; }
    armv8 >>"$work/counts"
else
    echo "Armv8 is left out: aarch64-linux-gnu-gcc and qemu-aarch64 are not both installed" >&2
fi

# The table, with the change against the kept one where there is any.
[ -f "$kept" ] || : >"$kept"
awk 'FILENAME == ARGV[1] { if (/^[a-z]/) for (i = 0; i < 3; i++) { before[$1, i, 1] = $(2 + 2 * i); before[$1, i, 16] = $(3 + 2 * i) }; next }
    !($1 in seen) { seen[$1]; order[n++] = $1 }
    { e = $2 == "3-bit" ? 0 : $2 == "int8" ? 1 : 2; count[$1, e, $3] = $4 / 65536 / $3 }
    function column(isa, e, rows, now) {
        now = sprintf("%.3f", count[isa, e, rows])
        change = change (((isa, e, rows) in before) && before[isa, e, rows] != now ? sprintf("  %s %d: %+.1f %%", name[e + 1], rows,
            100 * (now / before[isa, e, rows] - 1)) : "")
        return sprintf("%10s", now)
    }
    END {
        split("3-bit int8 sparse", name, " ")
        printf "%-8s%10s%10s%10s%10s%10s%10s\n", "#", "3-bit", "16 rows", "int8", "16 rows", "sparse", "16 rows"
        for (k = 0; k < n; k++) {
            change = ""
            line = sprintf("%-8s", order[k])
            for (e = 0; e < 3; e++) line = line column(order[k], e, 1) column(order[k], e, 16)
            print line
            if (change != "") print "changed: " order[k] change >"/dev/stderr"
        }
    }' "$kept" "$work/counts" >"$work/table"
cat "$work/table"
[ "$write" != --write ] || cp "$work/table" "$kept"
