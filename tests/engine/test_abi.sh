#!/bin/sh
# The C interface: the shared library exports what upg.h declares and nothing else, with the layouts and names that
# tests/engine/abi.txt records (a change there is a change for every program that uses the library), the header is C11
# and C++, and the examples give the text that `upg run` gives. Usage: test_abi.sh BUILD_DIR
cd "$(dirname "$0")/../.." || exit 1
build=$(cd "$1" && pwd)
. tests/cli/helpers.sh
case $build in
*/san) echo "skip the C interface: the examples are built without sanitizers"; exit 0 ;;
esac
cc=${CC:-cc}
prompt="Once upon a time"
cp "$build/libupg.so" "$work/libupg.so.0" && ln -s libupg.so.0 "$work/libupg.so"

symbols() { nm -D --defined-only "$work/libupg.so" | awk '{ print "symbol " $3 }' | LC_ALL=C sort; }
exported() {
    symbols | sed 's/symbol //' >"$work/have"
    sed 's|//.*||' include/upg.h | tr '\n' ' ' | grep -o 'UPG_API[^(;]*(' | grep -o 'upg_[a-z_]*($' | tr -d '(' | LC_ALL=C sort >"$work/declared"
    diff "$work/declared" "$work/have"
}
layout() {
    "$cc" -std=c11 -Wall -Wextra -Werror -pedantic -Iinclude tests/engine/abi_layout.c -o "$work/layout" && { "$work/layout" && symbols; } >"$work/abi"
    diff tests/engine/abi.txt "$work/abi"
}
cplusplus() {
    echo '#include <upg.h>
    int main() { return upg_version() == nullptr; }' >"$work/a.cc"
    "${CXX:-c++}" -std=c++11 -Wall -Wextra -Werror -Iinclude "$work/a.cc" -L"$work" -lupg -o "$work/a" && LD_LIBRARY_PATH=$work "$work/a"
}
c_example() {
    "$cc" -std=c11 -Wall -Wextra -Werror -Iinclude examples/generate.c -L"$work" -lupg -o "$work/generate" &&
        LD_LIBRARY_PATH=$work "$work/generate" models/tales.upg "$prompt" >"$work/c.txt" && diff "$work/c.txt" "$work/run.txt" &&
        [ "$(wc -l <examples/generate.c)" -le 40 ]
}
static_example() {
    "$cc" -std=c11 -Iinclude examples/generate.c "$build/libupg.a" $(pkg-config --libs openblas libxxhash libzstd libutf8proc) -lm -pthread \
        -o "$work/static" && "$work/static" models/tales.upg "$prompt" | diff - "$work/run.txt"
}
python_example() { python3 examples/generate.py models/tales.upg "$prompt" "$work/libupg.so" | diff - "$work/run.txt"; }
# The structs that bench/peers writes down are those on record, field by field.
python_layouts() {
    PYTHONDONTWRITEBYTECODE=1 python3 - <<'EOF'
import ctypes, importlib.util
recorded = open("tests/engine/abi.txt").read()
spec = importlib.util.spec_from_file_location("peer", "bench/peers/llamacpp.py")
peer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)
for t in (peer.upg_row, peer.upg_session_options):
    fields = [f"  {n} {getattr(t, n).offset} {getattr(t, n).size}\n" for n, _ in t._fields_]
    have = f"struct {t.__name__} {ctypes.sizeof(t)}\n" + "".join(fields)
    assert have + "struct" in recorded, have
EOF
}
bad_model() {
    ! LD_LIBRARY_PATH=$work "$work/generate" README.md x >"$work/out" 2>"$work/err" && [ -s "$work/err" ] && [ ! -s "$work/out" ]
}

"$upg" run models/tales.upg -p "$prompt" --greedy -n 40 -q >"$work/run.txt"
check "the library exports what the header declares" exported
if [ "$(uname -m)" = x86_64 ]; then check "layouts and names are those on record" layout; else echo "skip layouts: recorded for x86-64"; fi
if command -v "${CXX:-c++}" >/dev/null 2>&1; then check "the header is C++" cplusplus; else echo "skip the header is C++: no compiler for it"; fi
check "the C example gives the text of upg run" c_example
check "so it does with the static library" static_example
checkpy "the Python example gives the text of upg run" python_example
if [ "$(uname -m)" = x86_64 ]; then checkpy "bench/peers has the structs on record" python_layouts; fi
check "a file that is no model is an error" bad_model
