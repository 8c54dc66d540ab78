#!/usr/bin/env python3
"""KL against file size: UPG beside llama.cpp's quantisers with importance matrix, as a table, JSON and a plot (docs/quality.md).

    bench/quality/curve.py MODEL --tokens VALID.u16 --calibrate CALIBRATION.u16 --work FOLDER [--windows N] [--only upg|llama.cpp]
    bench/quality/curve.py MODEL.gguf --text TEXT --window 512 --work FOLDER       # as ids, the calibration text behind the windows
    bench/quality/curve.py MODEL ... --check                                       # three minutes: the parts against each other

MODEL is tales' folder or a GGUF file, which llama.cpp then requantises. Both engines are held against one reference: the logits of
`upg eval MODEL --logits`, UPG's fp32 mode. Both run as they do for a user: each in its own file, llama.cpp with its quantised
activations and F16 cache on the CPU, UPG in its integer arithmetic. Both are calibrated with the same tokens, which llama.cpp gets as
llama-imatrix's means of squared inputs; that tool is not in the PyPI package, so transformers computes them.

Sizes: a file's whole bytes, and for GGUF also those without its tokenizer, the size that is plotted and compared (UPG's file stays
whole). Finished points stay in FOLDER/points under what they depend on, the upg program included, so a broken run goes on where it
was and a changed engine is measured again. Writes FOLDER/curve.md, curve.json and curve.svg. Needs the Python packages of
bench/peers/llamacpp.py and transformers; installs nothing.
"""
import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
import llamacpp as peer

UPG_POINTS = {f"{b} bits": ["--bits", str(b)] for b in (2.2, 2.5, 2.8, 3.2, 3.6, 4, 5, 6.5)} | {"int8": ["--encoding", "int8"]}
# llama-quantize's names and llama_ftype; "pure" is its --pure: embedding and head in the type too, not in one of more bits.
LLAMA_POINTS = {"IQ1_M": 31, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29, "Q2_K": 10, "IQ3_XXS": 23, "Q3_K_S": 11, "IQ3_S": 26,
                "IQ3_M": 27, "Q3_K_M": 12, "IQ4_XS": 30, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7,
                "Q2_K pure": 10, "Q3_K pure": 11, "IQ3_S pure": 26, "IQ4_XS pure": 30, "Q4_K pure": 14, "unquantised": None}
ROWS = 256  # positions scored at once


def sha(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def run(args, *command):
    out = subprocess.run([args.upg, *command], capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr.strip() or f"upg {command[0]} failed")
    return out.stdout


def ids_of(path):
    import numpy as np
    return np.fromfile(path, "<u2").astype(np.int32)


# ---- Text, reference, importance: made once ----

def prepare_text(args):
    """--text as two files of ids: the windows, and behind them what calibrates."""
    import numpy as np
    with open(args.text, "rb") as f:
        out = subprocess.run([args.upg, "tokenize", args.model], stdin=f, capture_output=True, check=True).stdout
    ids = np.array(out.split(), "<u2")
    n = args.windows * args.window + 1
    if ids.size < n + args.calibration_tokens:
        sys.exit(f"{args.text}: {ids.size} tokens are too few for {args.windows} windows and the calibration behind them")
    args.tokens, args.calibrate = (os.path.join(args.work, f"{name}.{args.windows}x{args.window}.u16") for name in ("valid", "calibration"))
    ids[:n].tofile(args.tokens)
    ids[n:n + args.calibration_tokens].tofile(args.calibrate)


def read_logits(path):
    """[tokens][vocabulary] of a file that upg eval --logits wrote."""
    import numpy as np
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        shape = json.loads(f.read(n))["logits"]["shape"]
    return np.memmap(path, "<f4", "r", 8 + n, tuple(shape))


def reference_logits(args):
    path = os.path.join(args.work, f"reference.{sha(args.tokens)[:8]}.{args.windows}x{args.window}.safetensors")
    return read_logits(peer.make(path, lambda out: run(args, "eval", args.model, "--tokens", args.tokens, "--window", str(args.window),
                                                       "--windows", str(args.windows), "--logits", out, "-q")))


def importance(args):
    """llama-imatrix's figures: the mean over the calibration tokens of each linear layer's squared inputs, by GGUF tensor name. As that
    tool does unless told otherwise, the head has none."""
    import gguf
    import numpy as np
    path = os.path.join(args.work, f"importance.{sha(args.calibrate)[:8]}.{args.calibration_tokens}.npz")

    def compute(out):
        import torch
        from transformers import AutoModelForCausalLM
        folder, file = (args.model, {}) if os.path.isdir(args.model) else \
            (os.path.dirname(os.path.abspath(args.model)), {"gguf_file": os.path.basename(args.model)})
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **file).eval()
        reader = gguf.GGUFReader(args.gguf)
        arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == reader.fields["general.architecture"].contents())
        names, sums, n = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers), {}, 0

        def hook(name):
            def add(_module, inputs, _output):
                x = inputs[0].flatten(0, -2).double()
                sums[name] = sums.get(name, 0) + (x * x).sum(0)
            return add

        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.register_forward_hook(hook(names.get_name(name + ".weight", try_suffixes=(".weight",))))
        ids, window = torch.from_numpy(ids_of(args.calibrate)[:args.calibration_tokens]).long(), 1024
        with torch.no_grad():
            for chunk in ids.split(window):
                model(chunk[None], logits_to_keep=1)
                n += chunk.numel()
        with open(out, "wb") as f:
            np.savez(f, **{name: (total / n).float().numpy() for name, total in sums.items()})

    with np.load(peer.make(path, compute)) as f:
        return {name: f[name] for name in f.files}


# ---- Scores ----

def score(logits, reference, targets):
    """Sums over positions of KL(reference || logits), agreement on the likeliest token, and -log p(target). Terms are f32, sums f64, so
    the mean KL is right to about 1e-7."""
    import numpy as np
    at, best, expected = np.arange(len(targets)), logits.argmax(-1), reference.argmax(-1)
    q, p = logits - logits[at, best][:, None], reference - reference[at, expected][:, None]
    q_sum = np.exp(q).sum(-1, dtype=np.float64)
    e = np.exp(p)
    p_sum = e.sum(-1, dtype=np.float64)
    p -= q
    e *= p
    kl = e.sum(-1, dtype=np.float64) / p_sum - np.log(p_sum) + np.log(q_sum)
    return np.array([kl.sum(), (best == expected).sum(), (np.log(q_sum) - q[at, targets]).sum()])


def mean_scores(args, rows):
    """rows yields logits [up to ROWS][vocabulary] of successive positions of the windows."""
    reference, ids, at, total = reference_logits(args), ids_of(args.tokens), 0, 0
    for logits in rows:
        n = len(logits)
        total += score(logits, reference[at:at + n], ids[at + 1:at + n + 1])
        at += n
    assert at == args.windows * args.window
    return dict(zip(("kl", "top1", "nll"), (float(t) / at for t in total)))


def llama_rows(args, path):
    import numpy as np
    llama, ids = peer.Llama(path, args.threads, args.window), ids_of(args.tokens)
    batch = llama.lib.llama_batch_init(ROWS, 0, 1)
    for first in range(0, args.windows * args.window, args.window):
        llama.empty()
        for at in range(0, args.window, ROWS):
            batch.n_tokens = n = min(ROWS, args.window - at)
            for i in range(n):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = int(ids[first + at + i]), at + i, 1, 0, 1
            if llama.lib.llama_decode(llama.context, batch):
                sys.exit(f"{path}: llama_decode failed")
            yield np.ctypeslib.as_array(llama.lib.llama_get_logits(llama.context), (n * llama.vocab,)).reshape(n, llama.vocab)
    llama.lib.llama_batch_free(batch)
    llama.lib.llama_free(llama.context)
    llama.lib.llama_model_free(llama.model)


# ---- Points ----

def gguf_sizes(path):
    """Bytes without the tokenizer, and parameters."""
    import gguf
    reader = gguf.GGUFReader(path)
    tokenizer = sum(int(part.nbytes) for name, field in reader.fields.items() if name.startswith("tokenizer.") for part in field.parts)
    return os.path.getsize(path) - tokenizer, sum(int(t.n_elements) for t in reader.tensors)


def llama_point(args, name, ftype):
    path = args.gguf
    if ftype is not None:
        path = os.path.join(args.work, f"{name.replace(' ', '-')}.gguf")
        peer.quantise(args.gguf, path, ftype, name.endswith("pure"), importance(args))
    size, _ = gguf_sizes(path)
    result = {"bytes": os.path.getsize(path), "bytes_compared": size} | mean_scores(args, llama_rows(args, path))
    if path != args.gguf:
        os.remove(path)
    return result


def upg_point(args, name, options):
    path = os.path.join(args.work, f"{name.replace(' ', '-')}.upg")
    run(args, "compress", args.model, "-o", path, "-q", "--heldout", "none", "-t", str(args.threads), *options, *calibration_options(args, options))
    scores = json.loads(run(args, "eval", path, "--tokens", args.tokens, "--window", str(args.window), "--windows", str(args.windows),
                            "--reference", args.model, "-t", str(args.threads), "-q", "--json"))
    size = os.path.getsize(path)
    os.remove(path)
    return {"bytes": size, "bytes_compared": size} | {k: scores[k] for k in ("kl", "top1", "nll")}


def calibration_options(args, options):
    return [] if "int8" in options else ["--calibrate", args.calibrate, "--calibration-tokens", str(args.calibration_tokens)]


def kept(args, engine, name, how, measure):
    """The point, measured unless an earlier run did; None if that engine is not to be measured."""
    what = {"engine": engine, "name": name, "how": how, "windows": args.windows, "window": args.window} | args.inputs
    what |= {"upg": args.upg_sha} if engine == "upg" else {"version": args.llama_version}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    path = os.path.join(args.work, "points", f"{engine}-{name.replace(' ', '-')}-{key}.json")
    if not os.path.exists(path):
        if args.only and engine != args.only:
            return None

        def write(out):
            result = what | measure(args, name, how)
            with open(out, "w", encoding="utf-8") as f:
                json.dump(result, f, indent=1)
        peer.make(path, write)
    with open(path, encoding="utf-8") as f:
        return json.load(f)


# ---- Report ----

def between(points, x, of, at):
    """log of a figure of UPG at x, linear between the two neighbouring points; None outside them."""
    points = sorted(points, key=of)
    for a, b in zip(points, points[1:]):
        if of(a) <= x <= of(b) and of(a) < of(b):
            return at(a) + (at(b) - at(a)) * (x - of(a)) / (of(b) - of(a))
    return None


def size_of(p):
    return p["bytes_compared"]


def log_kl(p):
    return math.log(p["kl"])


def compare(llama, upg):
    """Beside each llama.cpp point UPG's KL at its bytes, UPG's bytes at its KL, each interpolated with log KL linear in bytes."""
    for p in llama:
        log = between(upg, size_of(p), size_of, log_kl)
        p["upg_kl"] = log if log is None else math.exp(log)
        p["upg_bytes"] = between(upg, log_kl(p), log_kl, size_of)


def table(points, n):
    def opt(v, f):
        return "-" if v is None else format(v, f)

    lines = ["| engine | point | bytes of the file | compared: bytes | bits a parameter | KL | top-1 | NLL | UPG's KL at these bytes | KL ratio | "
             "UPG's bytes at this KL, share |", "|" + "---|" * 11]
    for p in sorted(points, key=lambda p: (p["engine"], size_of(p))):
        kl, b = p.get("upg_kl"), p.get("upg_bytes")
        lines.append(f"| {p['engine']} | {p['name']} | {p['bytes']} | {size_of(p)} | {size_of(p) * 8 / n:.3f} | {p['kl']:.6f} | {p['top1']:.4f} | "
                     f"{p['nll']:.5f} | {opt(kl, '.5f')} | {opt(kl and p['kl'] / kl, '.2f')} | {opt(b and b / size_of(p), '.3f')} |")
    return "\n".join(lines) + "\n"


def svg(points, n, title):
    """KL, log scale, against bits a parameter."""
    points = [p for p in points if size_of(p) * 8 / n < 10]
    bits, low = {id(p): size_of(p) * 8 / n for p in points}, math.floor(min(map(log_kl, points)) / math.log(10))
    high = math.ceil(max(map(log_kl, points)) / math.log(10))
    left, right = math.floor(min(bits.values())), math.ceil(max(bits.values()))

    def x(b):
        return 60 + 620 * (b - left) / (right - left)

    def y(kl):
        return 420 - 380 * (math.log10(kl) - low) / (high - low)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 470" font-family="sans-serif" font-size="11">',
           '<rect width="720" height="470" fill="white"/>', f'<text x="60" y="24" font-size="14">{title}</text>',
           '<text x="370" y="460" text-anchor="middle">bits a parameter, file without GGUF tokenizer</text>']
    for b in range(left, right + 1):
        out.append(f'<path d="M{x(b):.1f} 40V420" stroke="#ddd"/><text x="{x(b):.1f}" y="436" text-anchor="middle">{b}</text>')
    for d in range(low, high + 1):
        out.append(f'<path d="M60 {y(10 ** d):.1f}H680" stroke="#ddd"/><text x="54" y="{y(10 ** d) + 4:.1f}" text-anchor="end">{10.0 ** d:g}</text>')
    for i, (engine, colour) in enumerate((("upg", "#06c"), ("llama.cpp", "#c40"))):
        own = sorted((p for p in points if p["engine"] == engine), key=size_of)
        out.append(f'<text x="560" y="{60 + 16 * i}" fill="{colour}" font-size="13">{"UPG" if engine == "upg" else engine}</text>')
        if engine == "upg" and own:
            line = " ".join(f"{x(bits[id(p)]):.1f},{y(p['kl']):.1f}" for p in own)
            out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for p in own:
            px, py = x(bits[id(p)]), y(p["kl"])
            out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
            if engine != "upg":
                out.append(f'<text x="{px + 5:.1f}" y="{py - 4:.1f}" font-size="9" fill="{colour}">{p["name"]}</text>')
    return "\n".join(out) + "\n</svg>\n"


def report(args, points, n):
    llama, upg = ([p for p in points if p["engine"] == e] for e in ("llama.cpp", "upg"))
    compare(llama, upg)
    title = f"{os.path.basename(args.model.rstrip('/'))}: KL(original || compressed), {args.windows} windows of {args.window} tokens"
    files = {"md": table(points, n), "json": json.dumps({"title": title, "parameters": n, "points": points}, indent=1) + "\n"}
    if points:
        files["svg"] = svg(points, n, title)
    for ext, text in files.items():
        with open(os.path.join(args.work, f"curve.{ext}"), "w", encoding="utf-8") as f:
            f.write(text)
    print(title + "\n\n" + files["md"], end="")


def check(args):
    """The parts against each other, on two windows."""
    args.windows = 2
    quiet = mean_scores(args, llama_rows(args, args.gguf))
    print(f"llama.cpp on the original: KL {quiet['kl']:.2e}, top-1 {quiet['top1']:.4f} (F16 cache; nothing else but block types in a GGUF MODEL)")
    path = peer.make(os.path.join(args.work, "check.upg"), lambda out: run(args, "compress", args.model, "-o", out, "-q", "--encoding", "int8"))
    common = ["--tokens", args.tokens, "--window", str(args.window), "--windows", "2", "-q"]
    ours = json.loads(run(args, "eval", path, *common, "--reference", args.model, "--json"))
    run(args, "eval", path, *common, "--logits", path + ".logits")
    logits = read_logits(path + ".logits")
    here = mean_scores(args, (logits[i:i + ROWS] for i in range(0, len(logits), ROWS)))
    os.remove(path + ".logits")
    print("\n".join(f"int8, {k}: upg eval {ours[k]:.6f}, this script {here[k]:.6f}" for k in here))
    same = all(abs(ours[k] - here[k]) < 1.1e-5 for k in here)  # upg prints six digits, five of top1
    q8 = llama_point(args, "Q8_0", 7)
    print(f"llama.cpp Q8_0: KL {q8['kl']:.6f}; agree: {'yes' if same and q8['kl'] < 0.05 else 'NO'}")
    return 0 if same and q8["kl"] < 0.05 else 1


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--upg", default="build/upg")
    p.add_argument("--tokens", help="held-out ids, .u16")
    p.add_argument("--calibrate", help="ids to calibrate with, .u16")
    p.add_argument("--text", help="instead of both")
    p.add_argument("--calibration-tokens", type=int, default=32768)
    p.add_argument("--window", type=int, default=1024)
    p.add_argument("--windows", type=int, default=64)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--work", required=True, help="folder for what is kept and for the results")
    p.add_argument("--only", choices=("upg", "llama.cpp"), help="measure that engine; of the other take what is there")
    p.add_argument("--points", help="comma-separated names of points, of either engine (default: all)")
    p.add_argument("--check", action="store_true")
    args = p.parse_args()
    if bool(args.text) == bool(args.tokens and args.calibrate):
        p.error("give --tokens and --calibrate, or --text")
    known = {*UPG_POINTS, *LLAMA_POINTS}
    args.points = set(args.points.split(",")) if args.points else known
    if args.points - known:
        p.error(f"no such point: {', '.join(sorted(args.points - known))}; there are: {', '.join([*UPG_POINTS, *LLAMA_POINTS])}")
    return args


def main():
    args = parse()
    peer.need(["llama_cpp", "gguf", "numpy", "torch", "transformers", "safetensors"])
    os.makedirs(os.path.join(args.work, "points"), exist_ok=True)
    if args.text:
        prepare_text(args)
    if ids_of(args.tokens).size <= args.windows * args.window:
        sys.exit(f"{args.tokens}: too short for {args.windows} windows of {args.window}")
    args.gguf = args.model
    if os.path.isdir(args.model):
        args.gguf = peer.make(os.path.join(args.work, "original.gguf"), lambda out: peer.tales_gguf(args.model, out))
    args.upg_sha, args.llama_version = sha(args.upg), importlib.metadata.version("llama-cpp-python")
    args.inputs = {"model": sha(args.gguf), "tokens": sha(args.tokens), "calibrate": sha(args.calibrate), "calibration_tokens": args.calibration_tokens}
    if args.check:
        return check(args)
    _, n = gguf_sizes(args.gguf)
    points = []
    for engine, all_points, measure in (("llama.cpp", LLAMA_POINTS, llama_point), ("upg", UPG_POINTS, upg_point)):
        for name, how in all_points.items():
            if name in args.points and (point := kept(args, engine, name, how, measure)):
                points.append(point)
    report(args, points, n)
    return 0


if __name__ == "__main__":
    sys.exit(main())
