#!/usr/bin/env python3
"""Makes tests/vectors/tokenizer.json: ids that other implementations give for many texts.

A tiny byte-level model is trained with `tokenizers` and stored once; each case puts it behind another pre-tokenizer, normalizer
or set of added tokens. With --shared (a folder with models/tales and data/phi-4) the same texts are also encoded with those
models: tales by `tokenizers`, Phi-4 by `tiktoken` from the rank file. Deterministic: same packages, same file.

    tools/tokenizer_vectors.py --shared ../shared tests/vectors/tokenizer.json
"""
import argparse
import base64
import json
import os
import random
import unicodedata

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TIKTOKEN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
            r"|\s+(?!\S)|\s+")
TIKTOKEN_END = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
                r"|\s*[\r\n]|\s+(?!\S)|\s")
ASCII_FOLD = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

TEXTS = [
    "", " ", "a", "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "He said: \u201cDon't you think we'll, they've, I'M, YOU'RE, he'D, it'S, can'T?\u201d", "'s 't 're 've 'm 'll 'd 'S 'LL 'lL 'Ve",
    "x'\u017f y'\u017fz '\u017f \u212a'\u212a", "'sup 'tis 'rest 'vein 'mad 'llama 'dog ''s '''", "1 12 123 1234 12345678 3.14159 \u0663\u0664\u0665\u0666 \u2167\u00bd\u00b2 2nd",
    "for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i])\r\n\t\treturn -1; // no\n}\n\n\n", "def f(x):\n    return x ** 2\n\n\nprint(f(3))\n",
    "\u5929\u5730\u7384\u9ec3\u3001\u5b87\u5b99\u6d2a\u8352\u3002\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\uff01\u30ab\u30bf\u30ab\u30ca \ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd!\U0001f680\n", "e\u0301 n\u0303 a\u0308\u0323 q\u0307\u0323 \u0301\u0300 \u1e9b\u0323 \u212b \u2126 \uac00 \u1100\u1161\u11a8 \uf900",
    "\t\n\x0b\x0c\r \x1c\x1f\x85\xa0\u1680\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\u180e x", "a\n  ", "a\n \n  b", "  \r\n\r\n  ", "a  b   c    d\t\te", " \n", "\n ", "a\r\nb\rc\n\rd\r\n\r\n",
    "   leading", "trailing   ", "tabs\tand\u3000wide\u00a0spaces", "!?... -- ---\n== != <= ...\r\n !x !! !", "\x00\x01\x7f \u0000a", "na\u00efve caf\u00e9 \u0421\u044a\u0435\u0448\u044c \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u03b5\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "<|end|>", "a<|end|>b", "  <|end|>  <|end|>\n", "<|en<|end|><|end|", "<think>no</think> <think> x <thinking>", "the tool, a tool.\u2029tools tool\u0301 _tool tool\u24b6 \u200dtool", "x  [PAD]  y[PAD]z \u3000[PAD]\u2003",
    "the the  the   the", "      ", "cafe\u0301 caf\u00e9 cafe", "a" * 200, "ab" * 70 + "c" * 40, "the" * 40, "=" * 100 + " " * 90 + "\n" * 80, "0" * 100, "x<a><ab><abc><abcd>",
]


def random_texts(n, seed):
    rng = random.Random(seed)
    pools = ["abcdefghijklmnopqrstuvwxyzSTDMLVER", "0123456789\u0661\u00bd", " \t\n\r\u00a0\u3000\u2028", "'.,!-_<>|=(){}\u2019", "'s'LL're\u017f",
             "\u00e9\u00df\u0416\u4e2d\u3042\uac00\u05d0", "\u0301\u0308\u0323\u200d\u20e3", "\U0001f600\U00010348\U0001d7d8"]
    out = []
    for _ in range(n):
        s = ""
        for _ in range(rng.randint(5, 40)):
            if rng.random() < 0.12:
                c = chr(rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x110000)]))
                if unicodedata.category(c) not in ("Cs", "Cn"):
                    s += c
            else:
                s += rng.choice(pools[min(rng.randrange(12), 7) if rng.random() < 0.7 else 0])
        out.append(s)
    return out


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(content, **flags):
    token = {"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    token.update(flags)
    return token


def train(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=256 + 330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(texts * 3, trainer)
    return json.loads(tok.to_str())["model"]


def cases(vocab, nfc):
    tokens = [added("<|end|>", special=True), added("<think>"), added("tool", single_word=True),
              added("[PAD]", lstrip=True, rstrip=True, special=True), added("caf\u00e9\u0301", normalized=True),
              added("<a>"), added("<ab>", lstrip=True), added("<abc>", rstrip=True), added("   "),
              added("cafe\u0301", normalized=True), added("<|en")]
    n = len(vocab)
    for token in tokens:
        token["id"] = vocab.get(token["content"], n)
        n += token["id"] == n
    yield "llama3", [], None, sequence(split(LLAMA3), byte_level(False)), False
    yield "tiktoken", [], None, sequence(split(TIKTOKEN), byte_level(False)), False
    yield "tiktoken-end", [], None, sequence(split(TIKTOKEN_END), byte_level(False)), False
    yield "ascii-fold", [], None, sequence(split(ASCII_FOLD), byte_level(False)), False
    yield "qwen2-nfc", [], nfc, sequence(split(QWEN2), byte_level(False)), False
    yield "gpt2", [], None, byte_level(True), False
    yield "gpt2-split", [], None, sequence(split(GPT2_SPLIT), byte_level(False)), False
    yield "gpt2-prefix", [], None, byte_level(True, True), False
    yield "split-prefix", [], None, sequence(split(LLAMA3), byte_level(True, True)), False
    yield "whole", [], None, byte_level(False), False
    yield "whole-ignore-merges", [], None, byte_level(False), True
    yield "ignore-merges", tokens[:2], None, sequence(split(LLAMA3), byte_level(False)), True
    yield "added", tokens, None, byte_level(True), False
    yield "added-nfc-prefix", tokens, nfc, byte_level(True, True), False


def encode_all(tok, texts):
    """ids per text with control tokens, and without them where that differs."""
    tok.encode_special_tokens = False
    ids = [tok.encode(t, add_special_tokens=False).ids for t in texts]
    tok.encode_special_tokens = True
    plain = [tok.encode(t, add_special_tokens=False).ids for t in texts]
    return ids, [None if a == b else b for a, b in zip(ids, plain)]


def decode(tok, tokens, ids):
    """What the library prints; but what an added token is declared as, where the library would undo the byte alphabet in it."""
    content = {t["id"]: t["content"] for t in tokens if t["normalized"]}
    out, run = "", []
    for i in ids + [None]:
        if i is None or i in content:
            out += tok.decode(run, skip_special_tokens=True) + content.get(i, "")
            run = []
        else:
            run.append(i)
    return out


def phi4(shared, texts):
    import tiktoken
    ranks = {}
    with open(os.path.join(shared, "data/phi-4/cl100k_base.tiktoken")) as f:
        for line in f:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    enc = tiktoken.Encoding("cl100k", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    return [enc.encode(t, disallowed_special=()) for t in texts]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", help="folder with models/tales and data/phi-4")
    parser.add_argument("output")
    args = parser.parse_args()
    texts = TEXTS + random_texts(24, 7)
    model = train(TEXTS)
    out = {"about": "made by tools/tokenizer_vectors.py", "model": model, "texts": texts, "cases": []}
    for name, tokens, normalizer, pre, ignore in cases(model["vocab"], {"type": "NFC"}):
        spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
                "pre_tokenizer": pre, "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                "model": dict(model, ignore_merges=ignore)}
        tok = Tokenizer.from_str(json.dumps(spec))
        ids, plain = encode_all(tok, texts)
        decoded = [d if d != t else None for d, t in ((decode(tok, tokens, i), t) for i, t in zip(ids, texts))]
        del spec["model"]
        out["cases"].append({"name": name, "ignore_merges": ignore, "spec": spec, "ids": ids, "plain": plain, "decoded": decoded})
    if args.shared:
        tales = Tokenizer.from_file(os.path.join(args.shared, "models/tales/tokenizer.json"))
        out["tales"] = encode_all(tales, texts)[0]
        out["phi4"] = phi4(args.shared, texts)
    with open(args.output, "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
