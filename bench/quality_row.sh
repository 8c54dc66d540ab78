# For bench/quality.sh and bench/sparse.sh, which set upg, model, tokens and windows: `row OPTIONS` compresses and prints a table row.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
row() {
    "$upg" compress "$model" -o "$work/m.upg" -q --heldout none --json "$@" >"$work/c.json"
    "$upg" eval "$work/m.upg" --tokens "$tokens" --reference "$model" --windows "$windows" -q --json >"$work/e.json"
    bits=$(sed 's/.*"bits_per_parameter":\([0-9.]*\).*/\1/' "$work/c.json")
    get() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" "$work/e.json"; }
    printf '| `%s` | %s | %s | %s | %s |\n' "$*" "$bits" "$(get nll)" "$(get kl)" "$(get top1)"
}
