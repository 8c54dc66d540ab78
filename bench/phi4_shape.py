#!/usr/bin/env python3
"""Writes a model of Phi-4's layer shapes with random weights, to measure what compressing the real one takes.

Usage: phi4_shape.py FOLDER [--layers 2] [--vocabulary 100352] [--tokens 8192]
FOLDER gets config.json, model.safetensors (BF16, 0.34 G weights a layer, 0.51 G each for embedding and head) and
ids.u16, random tokens to calibrate with. Needs numpy."""
import argparse, json, os, struct
import numpy as np

HIDDEN, FFN, HEADS, KV_HEADS, HEAD = 5120, 17920, 40, 10, 128


def tensors(layers, vocabulary):
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.qkv_proj.weight", ((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate_up_proj.weight", (2 * FFN, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def bf16(x):
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def write_weights(path, layers, vocabulary):
    header, at = {}, 0
    for name, shape in tensors(layers, vocabulary):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(layers, vocabulary):
            rows = shape[0] if len(shape) == 2 else 1
            for first in range(0, rows, 1024):
                n = min(1024, rows - first)
                x = (random.standard_normal((n, shape[1]), np.float32) * np.float32(0.02) if len(shape) == 2
                     else np.ones(shape, np.float32))
                bf16(x).tofile(f)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("folder")
    a.add_argument("--layers", type=int, default=2)
    a.add_argument("--vocabulary", type=int, default=100352)
    a.add_argument("--tokens", type=int, default=8192)
    a = a.parse_args()
    os.makedirs(a.folder, exist_ok=True)
    config = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": HIDDEN, "intermediate_size": FFN,
              "num_hidden_layers": a.layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "vocab_size": a.vocabulary, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "rope_theta": 250000,
              "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16"}
    with open(os.path.join(a.folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    write_weights(os.path.join(a.folder, "model.safetensors"), a.layers, a.vocabulary)
    ids = np.random.default_rng(2).integers(0, min(a.vocabulary, 65536), a.tokens).astype("<u2")
    ids.tofile(os.path.join(a.folder, "ids.u16"))


if __name__ == "__main__":
    main()
