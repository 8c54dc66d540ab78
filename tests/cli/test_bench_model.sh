#!/bin/sh
# upg bench: rows, formats and refusals; never how fast anything is. Argument: the build folder.
set -u
. "$(dirname "$0")/helpers.sh"
tiny="--shape smollm2-135m --layers 1 -r 1 -p 8 -n 2"

default_model() {
    exits 0 "$upg" bench -r 2 -p 4 -n 2 -t 1 && grep -q '^default model: 0.04 G weights, ' "$work/out" && grep -qE '^ +1  pp4 +[0-9.]+ ' "$work/out" &&
        grep -qE '^ +1  tg2 ' "$work/out" && grep -q '^peak memory .*; energy ' "$work/out" && [ ! -s "$work/err" ]
}
shapes() {
    exits 0 "$upg" bench $tiny -o csv && [ "$(wc -l <"$work/out")" = 3 ] && grep -q '^"smollm2-135m shape, 1 layer",' "$work/out" &&
        exits 0 "$upg" bench $tiny --layer-bits 2.5 -o md && grep -qE '^\| [0-9]+ \| tg2 \| ' "$work/out" &&
        exits 0 "$upg" bench $tiny --layer-bits 8 && exits 0 "$upg" bench $tiny --bits 5
}
formats() {
    "$upg" bench $tiny -p 8,0 -n 0,2 -d 0,300 -b 1,3 -t 1,2 -o json >"$work/json" && "$upg" bench $tiny -d 0,300 -b 1,3 -t 1,2 -o csv >"$work/csv" || return 1
    "$python" - "$work/json" "$work/csv" <<'END_PY'
import csv, json, sys
d, rows = json.load(open(sys.argv[1])), list(csv.DictReader(open(sys.argv[2])))
tests = ["pp8", "tg2", "tg2 b3", "pp8 @ d300", "tg2 @ d300", "tg2 b3 @ d300"]
assert [r["test"] for r in d["rows"]] == [r["test"] for r in rows] == 2 * tests
assert [r["threads"] for r in d["rows"]] == 6 * [1] + 6 * [2]
assert d["repeats"] == 1 and d["peak_bytes"] > 0
for r, c in zip(d["rows"], rows):
    assert r["mean"] == r["median"] == r["samples"][0] > 0 and r["sd"] == 0, r
    assert None not in c and c["model"] == d["model"] and int(c["weight_bytes_a_token"]) == r["weight_bytes_a_token"], c
    assert abs(r["share"] * r["read_bytes_a_second"] / r["weight_bytes_a_second"] - 1) < 0.01, r
by = {r["test"]: r["weight_bytes_a_token"] for r in d["rows"]}
assert abs(by["tg2"] / by["tg2 b3"] - 3) < 1e-3 and abs(by["pp8"] * 8 - by["tg2"]) <= 4, by
END_PY
}
refusals() {
    for bad in "-p x" "-n -1" "-d 1,,2" "-b 0" "-t 0" "-r 0" "-o xml" "--plot a.upg" "--shape gpt-5" "--layers 2" "--bits 3" "--layer-bits 3" "$stories $stories" \
        "--shape phi-4 --layers 0" "--shape phi-4 --bits 1" "--shape phi-4 --layer-bits 3.2" "--shape phi-4 $stories" "-p 0 -n 0" "-p 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"; do
        exits 2 "$upg" bench $bad && says upg || return 1
    done
    exits 1 "$upg" bench no/such && says "no/such" && exits 1 "$upg" bench $tiny -d 9000 && says "the model was made for at most 8192"
}
roofline() {
    "$upg" bench $tiny -b 1,3 -t 1,2 --plot "$work/roof.svg" >/dev/null && "$python" - "$work/roof.svg" <<'END_PY'
import sys, xml.etree.ElementTree as tree
svg = tree.parse(sys.argv[1]).getroot()
points = [e for e in svg.iter("{http://www.w3.org/2000/svg}path") if e.get("class", "").startswith("point ")]
text = open(sys.argv[1]).read().lower()
assert len(points) == 6 and "nan" not in text and "inf" not in text
END_PY
}
ops() {
    exits 0 "$upg" bench ops -r 1 --rows 3 && grep -qE '^self_attn.qkv_proj +8 ' "$work/out" && grep -qE '^lm_head +1 ' "$work/out" && grep -q '^all ' "$work/out" &&
        exits 0 "$upg" bench ops "$stories" -r 1 --rows 3 -o md && grep -q '^| attention | 5 |' "$work/out" &&
        exits 1 "$upg" bench ops -d 2000 && says "the model was made for at most" && exits 2 "$upg" bench ops --rows 0 && exits 2 "$upg" bench ops --bits 3
}
ops_formats() {
    "$upg" bench ops --shape smollm2-135m --layers 2 -r 1 --rows 5 -d 7 -o json >"$work/json" && "$upg" bench ops --shape smollm2-135m --layers 2 -r 1 --rows 5 -o csv >"$work/csv" || return 1
    "$python" - "$work/json" "$work/csv" <<'END_PY'
import csv, json, sys
d, rows = json.load(open(sys.argv[1])), list(csv.DictReader(open(sys.argv[2])))
assert [r["op"] for r in d["ops"]] == [r["op"] for r in rows]
assert d["rows"] == 5 and d["depth"] == 7
assert abs(sum(r["row_share"] for r in d["ops"]) - 1) < 1e-3 and abs(sum(r["batch_us"] for r in d["ops"]) / d["batch_us"] - 1) < 1e-3
ops = {r["op"]: r for r in d["ops"]}
assert ops["mlp.down_proj"]["ops"] == 2 and ops["mlp.down_proj"]["row_gweights"] >= 0 and ops["add"]["row_gweights"] is None
END_PY
}
stages() {
    exits 0 env UPG_DEVICE=software "$upg" bench stages --shape smollm2-135m --layers 1 -n 1 && [ "$(wc -l <"$work/out")" = 6 ] &&
        grep -qE '^memory for every call +-?[0-9.]+ +100%$' "$work/out" && grep -qE '^one graph a token +-?[0-9.]+ ' "$work/out" &&
        exits 1 env UPG_DEVICE=cpu "$upg" bench stages && says "there is no GPU" && exits 2 "$upg" bench stages --shape none
}
layers="--shape smollm2-135m --sizes 128,256 --counts 1,2"
layers() {
    exits 0 "$upg" bench layers $layers -r 1 --no-baselines && grep -qE '^UPG +[0-9.]+ ' "$work/out" && grep -q '^UPG_Layers/hidden_256 *time: *\[' "$work/out" &&
        grep -q '^UPG_Layers/layers *time grows as N^' "$work/out" && exits 0 "$upg" bench layers $layers -r 1 -o md --layer-bits 8 --python no/such/python &&
        says "no/such/python is not there" && grep -q '^| layers_2 |' "$work/out" && exits 0 "$upg" bench layers $layers -r 1 --no-baselines -o csv &&
        [ "$(wc -l <"$work/out")" = 6 ] && exits 2 "$upg" bench layers --sizes 100 && exits 2 "$upg" bench layers --shape gpt-5 && exits 2 "$upg" bench layers "$stories"
}
layers_json() {
    "$upg" bench layers $layers -r 1 -o json --python "$python" >"$work/json" 2>"$work/err" && "$python" - "$work/json" <<'END_PY'
import json, sys
d = json.load(open(sys.argv[1]))
names = [r["name"] for r in d["engines"]]
assert names in (["upg", "python"], ["upg", "numpy", "python"]), names
assert all(abs(r["model"] / r["layer"] / d["layers"] - 1) < 1e-3 for r in d["engines"]) and d["layers"] == 30
assert [r["name"] for r in d["rows"]] == ["hidden_128", "hidden_256", "layers_1", "layers_2"] and set(d["exponents"]) == {"hidden", "layers"}
END_PY
}
check "bench of the default model" default_model
check "bench of a shape" shapes
checkpy "bench: JSON and CSV" formats
check "bench refuses" refusals
checkpy "bench --plot" roofline
check "bench ops" ops
checkpy "bench ops: JSON and CSV" ops_formats
check "bench stages" stages
check "bench layers" layers
checkpy "bench layers beside Python" layers_json
