#!/usr/bin/env python3
"""Writes tests/vectors/ggml.json: blocks of each GGUF type and their values by PyPI's gguf package (needs numpy and gguf).

usage: ggml_vectors.py > tests/vectors/ggml.json

For each type, five random blocks with chosen scales (ordinary, denormal, largest, infinite, not a number) and their values, and a
hash of the values of 1024 blocks of SplitMix64 numbers, which meet every point of every grid. NaNs count as 0x7fc00000: which
one a product gives is the processor's choice.
"""
import json
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

TYPES = [t for t in T if t in quants._type_traits and t != T.BF16]
# Where the f16 scales are; of those without any every byte is random.
SCALES = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q6_K: (208,), T.TQ1_0: (52,), T.TQ2_0: (64,), T.IQ1_M: (), T.MXFP4: (), T.NVFP4: ()}
SCALES |= {t: (0, 2) for t in (T.Q4_1, T.Q5_1, T.Q4_K, T.Q5_K)}


def splitmix(n, seed):
    """n bytes of SplitMix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n // 8 + 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return (z ^ z >> np.uint64(31)).view(np.uint8)[:n]


def bits(blocks, t):
    with np.errstate(all="ignore"):
        y = quants.dequantize(blocks, t).astype(np.float32).ravel()
    u = y.view(np.uint32).copy()
    u[np.isnan(y)] = 0x7FC00000
    return u


def fnv(words):
    h = 0xCBF29CE484222325
    for w in words.tolist():
        h = (h ^ w) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


rng = np.random.default_rng(1)
cases = []
for t in TYPES:
    values, size = GGML_QUANT_SIZES[t]
    blocks = rng.integers(0, 256, (5, size), dtype=np.uint8)
    for at in SCALES.get(t, (0,)):
        for block, x in zip(blocks, (0.0123, -3e-6, -65504, np.inf, np.nan)):
            block[at : at + 2] = np.frombuffer(np.float16(x).tobytes(), np.uint8)
    many = splitmix(1024 * size, int(t)).reshape(1024, size)
    cases.append({"name": t.name, "type": int(t), "values": values, "bytes": size, "hex": blocks.tobytes().hex(),
                  "bits": bits(blocks, t).tobytes().hex(), "hash": f"{fnv(bits(many, t)):016x}"})
print("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]")
