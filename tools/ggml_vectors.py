#!/usr/bin/env python3
"""Writes tests/vectors/ggml.json: random blocks of each GGUF type and their values by PyPI's gguf package (needs numpy and gguf).

usage: ggml_vectors.py > tests/vectors/ggml.json
"""
import json
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

rng = np.random.default_rng(1)
cases = []
for t in (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS):
    values, size = GGML_QUANT_SIZES[t]
    blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
    halves = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q6_K: (208,)}.get(t, (0, 2) if t in (T.Q4_1, T.Q5_1, T.Q4_K, T.Q5_K) else (0,))
    for at in halves:  # scales: finite, one of them denormal as a half
        for i, x in enumerate((0.0123, -1.5, 3e-6)):
            blocks[i, at : at + 2] = np.frombuffer(np.float16(x).tobytes(), np.uint8)
    y = quants.dequantize(blocks, t).astype(np.float32).ravel()
    cases.append({"name": t.name, "type": int(t), "values": values, "bytes": size, "hex": blocks.tobytes().hex(), "bits": y.view(np.uint32).tolist()})
print(json.dumps(cases, separators=(",", ":")))
