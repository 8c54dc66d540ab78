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
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
         r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
FOLD = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = CASED % (FOLD, FOLD, "{1,3}")
TEKKEN = CASED % ("", "", "")
DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D"
    "\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD"
    "\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57"
    "\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC"
    "\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F"
    "\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F"
    "\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F"
    "\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943]+")
DEEPSEEK_SIGNS = "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"
DEEPSEEK_CJK = "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
DEEPSEEK_V3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
               "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
DEEPSEEK_V3_CJK = "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C])]+"
LLAMA_CPP_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
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

# The model is not trained on these.
MORE_TEXTS = [
    "camelCase HTTPServer's \u01c5X \u02b0A\u00aab aB's'S a\u0301B \u0301AB \u0301 Ab\u0301C x/\n//\r\n path/to/ \u05d0\u05d1A",
    "\u0432 12\u00b2 1\u00bd 1234 $x<=`y`~ |a^b| 100,000.50 \u00e9\u00b2 -1 a1b22c333d4444 \u0661\u0662\u0663",
    "\u0442 \u0295 \u1fbe\u03ce\u1f7d\u212a \u3000\u3001\u3002 \u300a\u4e2d\u6587\u300b\uff01abc \u30ab\u3042 \uac00a \u2018x\u2019 \u00ada \x01\x02b _a [b \u0e01\u0e34 .NET #define\r\n  \n x",
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


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def punctuation():
    return {"type": "Punctuation", "behavior": "Contiguous"}


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
    yield "o200k", [], None, sequence(split(O200K), byte_level(False)), False
    yield "tekken", [], None, sequence(split(TEKKEN), byte_level(False)), True
    yield "qwen35", [], None, sequence(split(QWEN35), byte_level(False)), False
    yield "starcoder", [], None, sequence(digits(True), byte_level(True)), False
    yield "falcon", [], None, sequence(punctuation(), byte_level(True), digits(False), split("[0-9][0-9][0-9]")), False
    yield "alphabet-digits", [], None, sequence(byte_level(True), digits(True)), False
    yield "deepseek-llm", [], None, sequence(*map(split, ["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_SIGNS, r"\s+$", DEEPSEEK_CJK]), digits(True),
                                            byte_level(False)), False
    yield "deepseek-coder", [], None, sequence(*map(split, ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK]), digits(True),
                                              byte_level(False)), False
    yield "deepseek-v3", [], None, sequence(*map(split, [r"\p{N}{1,3}", DEEPSEEK_V3_CJK, DEEPSEEK_V3]), byte_level(False)), False
    yield "bloom", [], None, sequence(split(BLOOM), byte_level(False)), False
    yield "trailing-spaces", [], None, sequence(split(r"\s+$"), digits(False), byte_level(False)), False
    yield "inverted", [], None, sequence(dict(split(LLAMA3), behavior="Removed", invert=True), byte_level(False)), False
    yield "lines", [], None, sequence(split(r"[^\n]+|[\n]+"), split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), byte_level(False)), False
    yield "llama.cpp-default", [], None, sequence(*map(split, [r"[\p{P}\$\+<=>\^~\|]+", LLAMA_CPP_GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
                                                 byte_level(False)), False


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
    texts = TEXTS + random_texts(24, 7) + MORE_TEXTS
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
