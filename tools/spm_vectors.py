#!/usr/bin/env python3
"""Makes tests/vectors/spm.json and spm.model: ids that `sentencepiece` and `tokenizers` give for many texts.

A tiny SentencePiece model of type BPE is trained and stored beside the output. `model` has the ids of `sentencepiece`
itself. Each case is a tokenizer.json around the same pieces, with merges made from the scores as transformers makes them, in one
of the forms such files have (Prepend and Replace, Metaspace in its schemes, with and without byte fallback), and has the ids and
texts of `tokenizers`. Deterministic: same packages, same file.

    tools/spm_vectors.py tests/vectors/spm.json
"""
import argparse
import io
import json
import os

import sentencepiece as spm
from tokenizers import Tokenizer

from tokenizer_vectors import TEXTS, random_texts

BLOCK = "\u2581"
MORE = ["<s>", "</s> a <s>b", "<unk>", " <s> x", "a<0x41>b <0xE2>", "\u2581", "a\u2581b", "\u2581\u2581 x", " \u2581 ", "of of  of", "<ud> a<ud>b <ud>",
        "of<|user|>\n of <|user|>  of", "q \u4e00 \u4e01\u4e02 z", "norm x norm", "a norm", "a zq\u2581zq", "the   of    a"]


def train(texts):
    out = io.BytesIO()
    corpus = [t for t in texts for t in t.replace("\x00", "").split("\n") if t.strip()] * 3
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=259 + 240, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
        num_threads=1, minloglevel=2)
    return out.getvalue()


def merges_of(pieces):
    """All ways to halve a piece, in order of its score, as transformers' converters list them."""
    ids = {p: i for i, (p, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        local = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in ids and piece[k:] in ids]
        merges += [(a, b, score) for a, b in sorted(local, key=lambda x: (ids[x[0]], ids[x[1]]))]
    return [[a, b] for a, b, _ in sorted(merges, key=lambda m: m[2], reverse=True)]


def added(i, content, **flags):
    token = {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    token.update(flags)
    return token


def decoder(fallback, strip):
    steps = [{"type": "Replace", "pattern": {"String": BLOCK}, "content": " "}]
    steps += [{"type": "ByteFallback"}] if fallback else []
    steps += [{"type": "Fuse"}]
    return {"type": "Sequence", "decoders": steps + ([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else [])}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": BLOCK, "prepend_scheme": scheme, "split": split}


def cases(vocab):
    n = len(vocab)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": BLOCK}
    legacy = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLOCK}, replace]}
    control = [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True)]
    normalized = [dict(t, normalized=True) for t in control]
    more = control + [added(n, "<|user|>", special=True, rstrip=True), added(n + 1, "<ud>"), added(n + 2, "norm", normalized=True),
                      added(n + 3, "\u2581zq", normalized=True), added(vocab["of"], "of", lstrip=True, single_word=True)]
    old = {"type": "Metaspace", "replacement": BLOCK, "add_prefix_space": True}
    yield "legacy", control, legacy, None, True, True, True
    yield "legacy-normalized", normalized, legacy, None, True, True, True
    yield "legacy-added", more, legacy, None, True, True, True
    yield "replace", more, replace, None, True, True, False
    yield "first", more, None, metaspace("first", False), True, True, True
    yield "always", more, None, metaspace("always", False), True, True, True
    yield "never", more, None, metaspace("never", False), True, True, False
    yield "first-split", more, None, metaspace("first", True), True, True, True
    yield "always-split-old", control, None, old, True, True, True
    yield "unk", control, legacy, None, False, False, True
    yield "unk-fused", more, legacy, None, False, True, True
    yield "no-unk", control[1:], legacy, None, False, None, True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output")
    args = parser.parse_args()
    texts = TEXTS + MORE + random_texts(24, 7)
    proto = train(TEXTS + MORE)
    with open(os.path.splitext(args.output)[0] + ".model", "wb") as f:
        f.write(proto)
    sp = spm.SentencePieceProcessor(model_proto=proto)
    pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]
    normal = [(p, s) for i, (p, s) in enumerate(pieces) if not (sp.is_byte(i) or sp.is_control(i) or sp.is_unknown(i))]
    merges = merges_of(normal)
    vocab = {p: i for i, (p, _) in enumerate(pieces)}
    ids = [sp.encode(t) for t in texts]
    out = {"about": "made by tools/spm_vectors.py", "texts": texts, "cases": [],
           "vocab": vocab, "merges": [" ".join(m) for m in merges],
           "model": {"ids": ids, "decoded": [None if sp.decode(i) == t else sp.decode(i) for i, t in zip(ids, texts)]}}
    for name, tokens, normalizer, pre, fallback, fuse, strip in cases(vocab):
        spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre,
                "post_processor": None, "decoder": decoder(fallback, strip)}
        model = {"type": "BPE", "dropout": None, "unk_token": None if fuse is None else "<unk>", "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": bool(fuse), "byte_fallback": fallback, "ignore_merges": False}
        tok = Tokenizer.from_str(json.dumps(dict(spec, model=dict(model, vocab=vocab, merges=[" ".join(m) for m in merges]))))
        tok.encode_special_tokens = False
        special = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        tok.encode_special_tokens = True
        plain = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        # The library prints normalised tokens as their normalised text, even control tokens; meant is what they are declared as.
        declared = dict(spec, added_tokens=[dict(t, normalized=False) for t in tokens])
        tok = Tokenizer.from_str(json.dumps(dict(declared, model=dict(model, vocab=vocab, merges=[" ".join(m) for m in merges]))))
        decoded = [tok.decode(i, skip_special_tokens=True) for i in special]
        out["cases"].append({"name": name, "spec": spec, "model": model, "ids": special, "plain": [None if a == b else b for a, b in zip(special, plain)],
                             "decoded": [None if a == b else a for a, b in zip(decoded, texts)]})
    with open(args.output, "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
