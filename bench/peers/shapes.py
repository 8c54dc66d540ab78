#!/usr/bin/env python3
"""Speed of UPG beside llama.cpp (PyPI's llama-cpp-python) on a shape with random weights, on one machine, in one run.

Every round measures each row once, one after another, each in a process of its own, so that one model is in memory at a time and
what else the machine does falls on all alike. A measurement is what llama-bench does: an untimed warm-up, then a prompt of --prompt
tokens in one batch, then --decode single tokens, both after --depth positions (0: from an empty context). UPG's is the second
repetition of `upg bench --shape`; llama.cpp's is that of llamacpp.py beside this file, with its defaults: flash attention where it
takes it, keys and values in F16, weights repacked for the machine where it can. Speed depends on sizes and types only, so the
figures are those of a real model. What the columns mean: docs/speed.md.

With --device cuda both run on the GPU, llama.cpp with all layers there: its package must have been built with CUDA
(CMAKE_ARGS=-DGGML_CUDA=on pip install --no-binary llama-cpp-python llama-cpp-python).

llama.cpp's files are made here and kept in --work: Gaussian weights, a million of them quantised by llama.cpp and repeated. What type
each tensor has is asked of llama.cpp, which quantises a tiny model of as many layers with an importance matrix, as those who publish
such files do. The whole of phi-4 takes 5 to 9 GB of disk a type. Installs nothing: run it with the interpreter that has the packages.

    bench/peers/shapes.py --shape phi-4 [--layers N] [--types Q2_K,Q4_K_M] [--layer-bits 4] [--prompt 512] [--decode 16] [--depth N]
        [--rounds 5] [--threads N] [--no-repack] [--device cuda] [--build build] [--work FOLDER] [--json FILE]
"""
import argparse
import collections
import ctypes
import json
import os
import shutil
import statistics
import sys

import llamacpp as peer

# As in a config.json. Those of src/engine/shape.c that are a Phi-3 with a head of its own.
SHAPES = {"phi-4": {"hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40,
                    "num_key_value_heads": 10, "head_dim": 128, "vocab_size": 100352, "max_position_embeddings": 16384,
                    "rms_norm_eps": 1e-5, "rope_theta": 250000.0, "bos_token_id": 257, "eos_token_id": 258}}
# As small as every type allows, with the same number of query heads to a key head: llama.cpp asks for it.
TINY = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
        "vocab_size": 512}
FTYPES = {"Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17,
          "Q6_K": 18, "IQ2_XXS": 19, "IQ3_XXS": 23, "IQ3_S": 26, "IQ3_M": 27, "IQ2_M": 29, "IQ4_XS": 30}  # llama_ftype
TILE = 256, 4096  # of the weights that are quantised, then repeated


# ---- The files of llama.cpp ----

def matrices(c):
    """(name, rows, columns) of all that is not a norm."""
    hidden, ffn, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "token_embd.weight", c["vocab_size"], hidden
    for i in range(c["num_hidden_layers"]):
        yield f"blk.{i}.attn_qkv.weight", queries + 2 * keys, hidden
        yield f"blk.{i}.attn_output.weight", hidden, queries
        yield f"blk.{i}.ffn_up.weight", 2 * ffn, hidden
        yield f"blk.{i}.ffn_down.weight", hidden, ffn
    yield "output.weight", c["vocab_size"], hidden


def write_model(path, c, matrix):
    """matrix(name, rows, columns): what GGUFWriter.add_tensor takes."""
    import numpy as np
    w = peer.phi3_writer(path, c, [f"t{i}" for i in range(c["vocab_size"])], ["t 1"])
    norms = [f"blk.{i}.{n}_norm.weight" for i in range(c["num_hidden_layers"]) for n in ("attn", "ffn")]
    for name in (*norms, "output_norm.weight"):
        w.add_tensor(name, np.ones(c["hidden_size"], np.float32))
    for name, rows, columns in matrices(c):
        w.add_tensor(name, **matrix(name, rows, columns))
    peer.write_gguf(w)


def gaussian(rows, columns):
    import numpy as np
    return np.random.default_rng(1).standard_normal((rows, columns), np.float32) * np.float32(.02)


def types_of(type_name, c, args):
    """The type of every matrix, by name, of what llama.cpp quantises to this type."""
    import gguf
    import numpy as np
    tiny = c | TINY
    stem = os.path.join(args.work, f"tiny.{c['num_hidden_layers']}-layers")
    source = peer.make(f"{stem}.F32.gguf", lambda out: write_model(out, tiny, lambda name, *shape: {"tensor": gaussian(*shape)}))
    importance = {name: np.ones(columns, np.float32) for name, _, columns in matrices(tiny)}
    path = peer.make(f"{stem}.{type_name}.gguf", lambda out: peer.quantise(source, out, FTYPES[type_name], importance=importance))
    found = {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}
    return {name: found[name] for name, _, _ in matrices(c)}


def size_of(kind, weights):
    import gguf
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return weights // block * size


def quantised_tile(kind):
    import numpy as np
    data, importance = gaussian(*TILE), np.ones(TILE[1], np.float32)
    out = np.empty(size_of(kind, data.size), np.uint8)
    floats = ctypes.POINTER(ctypes.c_float)
    quantise = peer.quiet_llama_cpp().llama_cpp._lib.ggml_quantize_chunk  # of libggml, which libllama brings
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats]
    size = quantise(kind, data.ctypes.data_as(floats), out.ctypes.data, 0, *TILE, importance.ctypes.data_as(floats))
    if size != out.size:
        sys.exit(f"llama.cpp: {kind.name} takes {size} bytes where {out.size} were expected")
    return out


def write_random(path, c, types):
    import numpy as np
    tiles, made = {}, {}

    def matrix(name, rows, columns):
        kind = types[name]
        if kind not in tiles:
            tiles[kind] = quantised_tile(kind)
        key = kind, rows, columns
        if key not in made:
            made[key] = np.resize(tiles[kind], (rows, size_of(kind, columns)))
        return {"tensor": made[key], "raw_dtype": kind}

    write_model(path, c, matrix)


def make_file(type_name, c, types, args):
    path = os.path.join(args.work, f"{args.shape}.{c['num_hidden_layers']}-layers.{type_name}.gguf")
    size = sum(size_of(types[name], rows * columns) for name, rows, columns in matrices(c))
    free = shutil.disk_usage(args.work).free
    if not os.path.exists(path) and size * 1.01 > free:
        sys.exit(f"{path} takes {size / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free")
    return peer.make(path, lambda out: write_random(out, c, types))


def describe_types(types):
    """attn_qkv Q5_K, ffn_down Q4_K in 20 and Q6_K in 20 of the layers, ..."""
    counts = collections.defaultdict(collections.Counter)
    for name, kind in types.items():
        counts[name.split(".")[-2]][kind.name] += 1

    def one(count):
        parts = [f"{kind} in {n}" if len(count) > 1 else kind for kind, n in sorted(count.items())]
        return " and ".join(parts) + (" layers" if len(count) > 1 else "")

    return ", ".join(f"{name} {one(count)}" for name, count in counts.items())


# ---- One measurement ----

def llama_log(lines):
    """Which buffers held the weights, and whether flash attention was taken, by llama.cpp's log."""
    buffers = [" ".join(line.split(":")[-1].split()) for line in lines if "model buffer size" in line]
    flash = [line.split("Flash Attention")[-1].strip(" .") for line in lines if ": Flash Attention" in line]
    return {"buffers": [b.replace(" model buffer size =", "") for b in buffers], "flash_attention": flash[-1] if flash else None}


def peak_memory():
    """Of this process; getrusage would count what its parent had before it became this one."""
    with open("/proc/self/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def one(args):
    e = peer.Llama(args.one, args.threads, args.depth + max(args.prompt, args.decode), not args.no_repack, args.device != "cpu")
    result = peer.measure(e, args.prompt, args.decode, args.depth)
    print(json.dumps(result | {"peak": peak_memory()} | llama_log("".join(e.log).splitlines())))


def measure_llama(path, args):
    return peer.run_json([sys.executable, os.path.abspath(__file__), "--one", path, *(f"--{k}={getattr(args, k)}" for k in (
        "threads", "prompt", "decode", "depth", "device")), *(["--no-repack"] if args.no_repack else [])], path)


def measure_upg(options, args):
    """The first repetition is the warm-up, since upg bench itself warms up with one token."""
    found = peer.run_json([os.path.join(args.build, "upg"), "bench", "--shape", args.shape, "--layers", str(args.layers), "-p", str(args.prompt),
                           "-n", str(args.decode), "-d", str(args.depth), "-t", str(args.threads), "-r", "2", "--rows", str(peer.MAX_ROWS),
                           "--device", args.device, "-o", "json", *options], "upg bench")
    result = {"prompt": None, "decode": None, "peak": found["peak_bytes"], "isa": found["isa"]}
    for row in found["rows"]:
        result["decode" if row["generated"] else "prompt"] = row["samples"][1]
        if row["generated"]:
            result["bytes"] = row["weight_bytes_a_token"]
    return result


# ---- The run ----

class Row:
    def __init__(self, engine, weights, measure, what="", size=None):
        self.engine, self.weights, self.measure, self.what, self.bytes = engine, weights, measure, what, size
        self.runs = []

    def values(self, key):
        return [r[key] for r in self.runs]

    def median(self, key):
        return statistics.median(self.values(key))

    def size(self):
        return self.bytes or self.runs[0].get("bytes")


def all_rows(c, args):
    yield Row("upg", "3.2 bits, layers 3", lambda: measure_upg([], args))
    for bits in args.layer_bits:
        yield Row("upg", f"layers {bits} bits", lambda: measure_upg(["--layer-bits", bits], args))
    for name in args.types:
        types = types_of(name, c, args)
        path = make_file(name, c, types, args)
        read = sum(size_of(types[n], rows * columns) for n, rows, columns in matrices(c) if n != "token_embd.weight")
        yield Row("llama.cpp", name, lambda path=path: measure_llama(path, args), describe_types(types), read)


def work_of(c):
    """Weights that a decoded token goes through, and products a token of a prompt: the head, and what follows the last
    layer's attention, are for the last token only, in both engines."""
    weights = {name: rows * columns for name, rows, columns in matrices(c) if name != "token_embd.weight"}
    last = f"blk.{c['num_hidden_layers'] - 1}."
    once = sum(n for name, n in weights.items() if name == "output.weight" or (name.startswith(last) and "qkv" not in name))
    every = sum(weights.values())
    return every, lambda prompt: every - once + once / prompt


def cells(row, base, c, args):
    read, size = work_of(c), row.size()
    yield from (row.engine, row.weights, f"{size * 1e-9:.2f}" if size else "-")
    if args.prompt:
        speed = row.median("prompt")
        yield from (peer.spread(row.values("prompt"), ".1f"), f"{speed * read[1](args.prompt) * 1e-9:.0f}")
    if args.decode:
        speed = row.median("decode")
        yield from (peer.spread(row.values("decode"), ".2f"), f"{speed * size * 1e-9:.1f}", f"{speed * read[0] * 1e-9:.1f}")
    if args.device == "cpu":
        yield f"{row.median('peak') * 1e-9:.2f}"
    for key in ("prompt", "decode"):
        if getattr(args, key):
            yield f"{base.median(key) / row.median(key):.2f}"


def table(rows, c, args):
    head = ["engine", "weights", "GB read a token", *(["prompt tok/s", "GMAC/s"] if args.prompt else []),
            *(["decode tok/s", "GB/s", "Gweights/s"] if args.decode else []), *(["peak GB"] if args.device == "cpu" else []),
            *(f"{rows[0].engine} / this, {key}" for key in ("prompt", "decode") if getattr(args, key))]
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(cells(row, rows[0], c, args)) + " |")


def notes(rows):
    print()
    for row in rows:
        found = row.runs[0]
        if row.engine == "upg":
            print(f"upg {row.weights}: on {found['isa']}")
        else:
            print(f"llama.cpp {row.weights}: {row.what}; weights in {', '.join(found['buffers']) or 'buffers that its log does not name'}; "
                  f"flash attention {found['flash_attention'] or 'by its default'}")


def write_json(path, title, rows, c, args):
    found = {"title": title, **{k: getattr(args, k) for k in ("shape", "layers", "prompt", "decode", "depth", "threads", "device", "rounds")},
             "weights_a_token": work_of(c)[0], "rows": [
                 {"engine": r.engine, "weights": r.weights, "tensor_types": r.what, "bytes_a_token": r.size(), "runs": r.runs,
                  "median": {k: r.median(k) for k in ("prompt", "decode", "peak") if r.runs[0][k] is not None}} for r in rows]}
    with open(path, "w", encoding="utf-8") as f:
        json.dump(found, f, indent=1)
        f.write("\n")


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--shape", choices=SHAPES, default="phi-4")
    p.add_argument("--layers", type=int, help="only so many layers of the shape")
    p.add_argument("--types", type=lambda s: s.split(","), default=["Q2_K", "Q3_K_M", "IQ3_XXS", "Q4_K_M"], help="of llama.cpp: " + ", ".join(FTYPES))
    p.add_argument("--layer-bits", type=lambda s: s.split(","), default=[], help="further rows of UPG, with layers of these bits")
    p.add_argument("--prompt", type=int, default=512, help=f"tokens, at most {peer.MAX_ROWS}; 0 for none")
    p.add_argument("--decode", type=int, default=16, help="tokens; 0 for none")
    p.add_argument("--depth", type=int, default=0, help="positions that are there before")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--no-repack", action="store_true", help="llama.cpp's option: weights as they are in the file, without AMX")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--build", default="build", help="folder with upg")
    p.add_argument("--work", default="build/bench/peers", help="where the models are kept")
    p.add_argument("--json", help="a file for all figures")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if unknown := [t for t in args.types if t not in FTYPES]:
        p.error(f"no such type: {', '.join(unknown)}")
    if not 0 <= args.prompt <= peer.MAX_ROWS or args.decode < 0 or not args.prompt + args.decode:
        p.error(f"a prompt of 0 to {peer.MAX_ROWS} tokens, or tokens to decode")
    most = SHAPES[args.shape]["num_hidden_layers"]
    args.layers = most if args.layers is None else args.layers
    if not 1 <= args.layers <= most:
        p.error(f"{args.shape} has {most} layers")
    return args


def main():
    args = parse()
    if args.one:
        return one(args)
    peer.need(["llama_cpp", "gguf", "numpy"])
    peer.need_build(args, ["upg"])
    os.makedirs(args.work, exist_ok=True)
    c = SHAPES[args.shape] | {"num_hidden_layers": args.layers}
    rows = list(all_rows(c, args))
    title = (f"{peer.engines(args)}; {args.shape} shape, layers: {args.layers}, random weights, device {args.device}; prompt {args.prompt}, decode {args.decode}, "
             f"depth {args.depth}; {args.rounds} rounds; load {os.getloadavg()[0]:.1f} at the start")
    for i in range(args.rounds):
        for row in rows:
            print(f"round {i + 1} of {args.rounds}: {row.engine} {row.weights}", file=sys.stderr, flush=True)
            row.runs.append(row.measure())
    title += f", {os.getloadavg()[0]:.1f} at the end"
    print(title)
    table(rows, c, args)
    notes(rows)
    if args.json:
        write_json(args.json, title, rows, c, args)
    return None


if __name__ == "__main__":
    main()
