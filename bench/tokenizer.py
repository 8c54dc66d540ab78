#!/usr/bin/env python3
"""Encoding speed of bench/tokenizer beside the PyPI packages tokenizers and tiktoken, and whether all give the same ids.

Every round runs each of them once over each text, so that what else the machine does falls on all alike; the figure is the
median round, in MB of text a second of CPU time on one core. Installs nothing: run it with the interpreter that has the
packages; one that is absent is named and left out, and so is a tokenizer whose data is not in the shared folder ($UPG_SHARED,
else ../shared).

    bench/tokenizer.py [--rounds N] build/bench/tokenizer [TEXT...]
"""
import argparse
import array
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def optional(name, of="PyPI package"):
    try:
        return __import__(name)
    except ImportError:
        print(f"{of} {name} is not here: left out")
        return None


def spec(vocab, merges, regex):
    """A tokenizer.json for a vocabulary and merges."""
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}}


def tokenizer_specs(shared):
    tales, phi4 = os.path.join(shared, "models/tales/tokenizer.json"), os.path.join(shared, "data/phi-4")
    gpt2 = os.path.join(shared, "data/tokenizer-vectors/ggml-vocab-gpt-2.gguf")
    for path in (tales, phi4, gpt2):
        if not os.path.exists(path):
            print(f"{path} is not here: left out")
    if os.path.exists(tales):
        with open(tales, encoding="utf-8") as f:
            yield "tales", json.load(f), LLAMA3
    if os.path.exists(phi4):
        with open(os.path.join(phi4, "vocab.json"), encoding="utf-8") as f:
            vocab = json.load(f)
        with open(os.path.join(phi4, "merges.txt"), encoding="utf-8") as f:
            merges = [line for line in f.read().split("\n") if line and not line.startswith("#version")]
        yield "phi-4", spec(vocab, merges, LLAMA3), LLAMA3
    gguf = os.path.exists(gpt2) and optional("gguf")
    if gguf:
        fields = gguf.GGUFReader(gpt2).fields
        tokens, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
        yield "gpt-2", spec({t: i for i, t in enumerate(tokens)}, merges, GPT2), GPT2


def alphabet():
    """GPT-2's character of each byte, the other way round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


def tiktoken_encoding(tiktoken, tokenizer, regex):
    """tiktoken merges by id, which is the order of the merges in the vocabularies here."""
    byte, added = alphabet(), {t["content"] for t in tokenizer["added_tokens"]}
    ranks = {bytes(byte[c] for c in token): i for token, i in tokenizer["model"]["vocab"].items() if token not in added}
    return tiktoken.Encoding("bench", pat_str=regex, mergeable_ranks=ranks, special_tokens={})


class C:
    def __init__(self, binary, path):
        self.binary, self.path = binary, path

    def speed(self, text):
        out = subprocess.run([self.binary, self.path, text.path], check=True, capture_output=True, text=True).stdout
        return float(out.split("encode ")[1].split()[0])

    def ids(self, text):
        out = subprocess.run([self.binary, "--ids", self.path, text.path], check=True, capture_output=True).stdout
        return array.array("i", out).tolist()


class Python:
    def __init__(self, encode):
        self.ids = lambda text: encode(text.text)

    def speed(self, text):
        begin = time.process_time()
        self.ids(text)
        return text.size / 1e6 / (time.process_time() - begin)


class Text:
    def __init__(self, name, path):
        self.name, self.path = name, path
        with open(path, encoding="utf-8", newline="") as f:
            self.text = f.read()
        self.size = len(self.text.encode())


def texts(paths, shared, folder):
    wikitext = os.path.join(shared, "data/wikitext-2/valid.tokenized.txt")
    if os.path.exists(wikitext):
        yield Text("English (wikitext-2)", wikitext)
    else:
        print(f"{wikitext} is not here: left out")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = os.path.join(folder, "code.c")
    with open(code, "wb") as out:
        for path in sorted(glob.glob(os.path.join(root, "src/**/*.[ch]"), recursive=True)):
            with open(path, "rb") as f:
                out.write(f.read())
    yield Text("code (src/*.c, *.h)", code)
    for path in paths:
        yield Text(os.path.basename(path), path)


def compare(name, tokenizer, regex, packages, binary, all_texts, folder, rounds):
    path = os.path.join(folder, f"{name}.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer, f)
    contenders = {"upg": C(binary, path)}
    if packages["tokenizers"]:
        hf = packages["tokenizers"].Tokenizer.from_file(path)
        hf.encode_special_tokens = True
        contenders["tokenizers"] = Python(lambda text: hf.encode(text, add_special_tokens=False).ids)
    if packages["tiktoken"]:
        contenders["tiktoken"] = Python(tiktoken_encoding(packages["tiktoken"], tokenizer, regex).encode_ordinary)
    speeds = {(text.name, c): [] for text in all_texts for c in contenders}
    for _ in range(rounds):
        for text in all_texts:
            for c in contenders:
                speeds[text.name, c].append(contenders[c].speed(text))
    differ = False
    for text in all_texts:
        ids = contenders["upg"].ids(text)
        row = [f"{c} {statistics.median(speeds[text.name, c]):.1f}" for c in contenders]
        wrong = [c for c in contenders if contenders[c].ids(text) != ids]
        differ |= bool(wrong)
        verdict = "DIFFER from " + ", ".join(wrong) if wrong else "same" if len(contenders) > 1 else "not compared"
        print(f"{name:6} {text.name:22} {len(ids):8} ids  MB/s: {', '.join(row)}  ids: {verdict}", flush=True)
    return differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("binary", help="bench/tokenizer as built")
    parser.add_argument("texts", nargs="*", help="more UTF-8 texts")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    shared = os.environ.get("UPG_SHARED", "../shared")
    packages = {name: optional(name) for name in ("tokenizers", "tiktoken")}
    differ = False
    with tempfile.TemporaryDirectory() as folder:
        all_texts = list(texts(args.texts, shared, folder))
        for name, tokenizer, regex in tokenizer_specs(shared):
            differ |= compare(name, tokenizer, regex, packages, args.binary, all_texts, folder, args.rounds)
    sys.exit(differ)


if __name__ == "__main__":
    main()
