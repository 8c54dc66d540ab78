#!/usr/bin/env python3
"""Writes tests/vectors/tasks/expected.json: scores of the task files beside it by transformers and tokenizers, in fp32.

usage: tasks_reference.py NAME=FOLDER... > tests/vectors/tasks/expected.json; NAME is stories260K or tales

A second implementation of src/engine/eval_items.c's rules, which are lm-evaluation-harness's. Per model, context and file: for every
item the log-likelihoods of its texts, whether each is greedy, and the numbers of its scored tokens and characters.
"""
import json
import os
import sys
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

CONTEXTS = {"stories260K": (512, 80), "tales": (1024,)}  # 80: contexts lose their beginnings
HERE = os.path.join(os.path.dirname(__file__), "../tests/vectors/tasks")


class Reference:
    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        first = self.tokenizer.encode("a").ids[:1]
        self.bos = first if first != self.ids("a")[:1] else []
        self.first = self.bos or [self.model.config.bos_token_id]

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def score(self, context, ending, limit):
        """context + ending is the text; ending begins with the white space that parts them."""
        bare = context.rstrip()
        head, whole = self.ids(bare) if bare else [], self.ids(context + ending)
        tail = whole[len(head):]
        ids = (self.bos if head else self.first) + head
        keep = len(ids) if not self.bos and head else len(ids) - 1  # tokens of the context that may go
        prefix = ids[:len(ids) - keep]
        ids = prefix + ids[len(prefix) + max(0, len(ids) + len(tail) - 1 - limit):]
        with torch.no_grad():
            logp = self.model(torch.tensor([ids + tail[:-1]])).logits[0].double().log_softmax(-1)[len(ids) - 1:]
        total = sum(logp[i, t].item() for i, t in enumerate(tail))
        return total, logp.argmax(-1).tolist() == tail, len(tail)


def texts(item):
    """(context, ending with its separator, characters) of each text."""
    if "text" in item:
        text = item["text"].rstrip()
        at = text.rindex(" ")
        return [(text[:at], text[at:], len(text) - at - 1)]
    pairs = [(c, item["ending"]) for c in item["contexts"]] if "contexts" in item else [(item["context"], x) for x in item["endings"]]
    separator = item.get("separator", " ")
    return [(c, ("" if not c or c[-1:].isspace() or x[:1].isspace() else separator) + x, len(x.lstrip())) for c, x in pairs]


expected = {}
for argument in sys.argv[1:]:
    name, folder = argument.split("=")
    reference = Reference(folder)
    for limit in CONTEXTS[name]:
        for file in ("choices", "odd", "words"):
            rows = []
            for line in open(f"{HERE}/{file}.jsonl", encoding="utf-8"):
                parts = texts(json.loads(line))
                scores = [reference.score(c, x, limit) for c, x, _ in parts]
                lengths = [n for _, _, n in parts]
                rows.append([[round(s[0], 6) for s in scores], [int(s[1]) for s in scores], [s[2] for s in scores], lengths])
            expected[f"{name} {limit} {file}"] = rows
print(json.dumps(expected, separators=(",", ":")))
