#!/usr/bin/env python3
"""Writes tests/vectors/arch: a tiny model of random weights for each architecture, and what transformers computes with it in fp32.

Usage: arch_vectors.py [FOLDER]. Needs torch, transformers (5 or later) and safetensors. A folder NAME has config.json (half of them in the spelling
of transformers 4), model.safetensors, and expected.f32: f32 logits [vocab] after tokens 7, 15, 23, ... of the tokens (7 i^2 + 31 i + 3) mod vocab,
i < 96. For longrope those of the first 32 tokens come first, then those of all 96, because transformers chooses the factors by the length
of the text: here 32 positions are original_max_position_embeddings.
"""
import json
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

N, STEP, ORIGINAL = 96, 8, 32
SHAPE = dict(vocab_size=96, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# name: (config, dtype of the weights, in the older spelling)
FAMILIES = {
    "llama": (LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
              torch.float16, True),
    "llama3": (LlamaConfig(**SHAPE, head_dim=16, tie_word_embeddings=True,
                           rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}), torch.bfloat16, False),
    "mistral": (MistralConfig(**SHAPE, sliding_window=20, rope_parameters=dict(ROPE)), torch.bfloat16, True),
    "phi3": (Phi3Config(**SHAPE, sliding_window=33, rope_parameters=dict(ROPE)), torch.bfloat16, True),
    "phi4mini": (Phi3Config(**{**SHAPE, "num_attention_heads": 3, "num_key_value_heads": 1}, tie_word_embeddings=True, sliding_window=262144,
                            original_max_position_embeddings=ORIGINAL,
                            rope_parameters={**ROPE, "rope_type": "longrope", "partial_rotary_factor": 0.75,
                                             "short_factor": [1.0, 1.0, 1.05, 1.1, 1.3, 1.6], "long_factor": [1.0, 1.2, 2.5, 4.75, 9.5, 16.25]}),
                 torch.bfloat16, False),
    "qwen2": (Qwen2Config(**SHAPE, tie_word_embeddings=True, use_sliding_window=True, sliding_window=20, max_window_layers=1,
                          rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), torch.bfloat16, False),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=16, rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                                                                 "original_max_position_embeddings": 128}), torch.bfloat16, True),
}


def randomise(model):
    """Weights that make every part count: sharp attention, biases and norms far from neutral."""
    for name, p in model.named_parameters():
        x = torch.randn(p.shape)
        if p.dim() == 2:
            gain = 1 if "embed" in name else 2.5 if "lm_head" in name else 1.5
            p.data = x * gain / (1 if "embed" in name and not model.config.tie_word_embeddings else p.shape[1] ** 0.5)
        else:
            p.data = 0.5 * x if name.endswith("bias") else 1 + 0.3 * x


def older_spelling(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    rope.pop("partial_rotary_factor", None)
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "tests", "vectors", "arch")
    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(20240229)
    torch.set_num_threads(1)
    for name, (config, dtype, older) in FAMILIES.items():
        folder = os.path.join(root, name)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        randomise(model)
        model.to(dtype).save_pretrained(folder)
        os.remove(os.path.join(folder, "generation_config.json"))
        path = os.path.join(folder, "config.json")
        text = json.load(open(path))
        if older:
            older_spelling(text)
        text.pop("transformers_version")
        json.dump(text, open(path, "w"), indent=1, sort_keys=True)

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokens = torch.tensor([[(7 * i * i + 31 * i + 3) % config.vocab_size for i in range(N)]])
        lengths = [ORIGINAL, N] if config.rope_parameters["rope_type"] == "longrope" else [N]
        with torch.no_grad():
            logits = torch.cat([model(tokens[:, :n]).logits[0, STEP - 1::STEP] for n in lengths])
        logits.numpy().astype("<f4").tofile(os.path.join(folder, "expected.f32"))
        p = logits.softmax(-1)
        print(f"{name}: {sum(v.numel() for v in model.parameters())} parameters, largest logit {logits.abs().max():.2f}, "
              f"mean entropy {-(p * p.log()).sum(-1).mean():.2f}, {sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))} bytes")


if __name__ == "__main__":
    main()
