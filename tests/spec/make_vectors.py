#!/usr/bin/env python3
"""Writes tests/vectors/arithmetic.json: what reference.py computes, for the C test suite to reproduce bit for bit.

Usage: make_vectors.py [OUT.json]. The seed is fixed, so the file is the same every time. The field "readme" of the file says how to read
it. Before writing, `check` compares the reference with f64 mathematics, which catches a reference that is exactly wrong.
"""
import json
import os
import sys

import numpy as np

import reference as ref
from reference import F32, bits, from_bits

README = """Results of tests/spec/reference.py for docs/arithmetic.md. Each other key is a list of cases; a case is an object of inputs and outputs.
f32 values are unsigned 32-bit bit patterns. Integers are plain. 64-bit seeds are strings such as "0x1f". `hex` strings are bytes in memory order.
S is the trellis's bits a step; S = 0 means the int8 encoding. `sparse` is the bits of a sparse matrix's values. A `flag` is 0 or 1.
A generator object {"seed","n","scale"} stands for n f32 values: z = splitmix64 output (section 2) for `seed` and i = 0, 1, ...;
g = (f32)((z >> 40) - 2^23) * 2^-22, exact, in [-2, 2); value[i] = g * scale, one f32 product. With "exps" (one integer a row, row = n / len(exps) values)
value[i] is then multiplied by 2^exps[i / row], exactly; an exponent of -999 makes the row +0 instead. With "rint": 1 the value is
rounded to an integer at last, ties to even.
A linear case with "fill" has every byte of its int8 matrix equal to it, and x is +0 but for x[x_at[i]] = x_value[i]. In `panel`, a weight's int8 byte or
trellis window begins at bit `shift` of 32-bit word `word`, and the window goes on at bit 0 of word `next_word` (0 and unused for int8)."""

rng = np.random.default_rng(20240229)
SEEDS = [0, 1, 2 ** 63 + 12345]
ENCODINGS = [0, 4, 5, 6, 7, 8]


def u32(x):
    return [int(v) for v in bits(x).ravel()]


def ints(x):
    return [int(v) for v in np.asarray(x).ravel()]


def normal(shape, low=0, high=0):
    """f32 with random signs and magnitudes spread over powers of two low..high."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(low, high + 1, shape)
    return x.astype(F32)


def random_seed():
    return int(rng.integers(0, 2 ** 63)) * 2 + 1


def generator(n, scale=1.0, exps=None, rint=False):
    g = {"seed": hex(random_seed()), "n": int(n), "scale": u32(F32(scale))[0]}
    if exps is not None:
        g["exps"] = ints(exps)
    if rint:
        g["rint"] = 1
    return g


def generated(g):
    seed, n = int(g["seed"], 16), g["n"]
    z = np.array([ref.splitmix64(seed, i) >> 40 for i in range(n)], np.int64)
    v = ref.mul(((z - (1 << 23)) * 2.0 ** -22).astype(F32), from_bits(g["scale"]))
    if "exps" in g:
        rows = v.reshape(len(g["exps"]), -1)
        v = np.stack([np.zeros_like(r) if e == -999 else np.ldexp(r, e) for r, e in zip(rows, g["exps"])]).ravel()
        assert np.isfinite(v).all() and (ref.flush(v) == v).all()
    return np.rint(v) if "rint" in g else v


def random_matrix(rows, cols, S):
    """(fields of the JSON case, Matrix). Padded rows and columns hold arbitrary weights, as a file may."""
    size = 4 * ref.panel_words(rows, cols, S)
    data = rng.integers(0, 256 if S else 255, size, np.uint8).tobytes()
    scale = np.abs(normal(rows, -12, -6)) + F32(2.0 ** -20)
    scale[rng.integers(rows)] = 0
    fields = {"S": S, "rows": rows, "cols": cols, "hex": data.hex(), "scale": u32(scale)}
    return fields, ref.Matrix(data, scale, rows, cols, S)


# ---------------------------------------------------------------------------------------------------------- one function a kind

SPECIAL = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x217FFFFF, 0x21800000, 0x21800001,
           0xA17FFFFF, 0xA1800000, 0xA1800001, 0x587FFFFF, 0x58800000, 0x58800001, 0xD87FFFFF, 0xD8800000, 0xD8800001, 0x7F7FFFFF, 0xFF7FFFFF,
           0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFC00000, 0xFFFFFFFF, 0x3F800000, 0xBF800000]


def guard_cases():
    x = from_bits(np.concatenate([np.array(SPECIAL, np.uint32), rng.integers(0, 2 ** 32, 100, np.uint32)]))
    y, flag = ref.guard(x)
    return [{"x": ints(x.view(np.uint32)), "y": u32(y), "flag": ints(flag)}]


def fma_cases():
    n = 400
    a, b, c = normal(n, -20, 20), normal(n, -20, 20), normal(n, -50, 50)
    c[:100] = -(a[:100].astype(np.float64) * b[:100]).astype(F32)  # cancels to the product's low half
    a[100:200], c[100:200] = 1, np.abs(normal(100, 0, 1))  # b is about half an ulp of c: ties and their neighbours
    b[100:200] = np.spacing(c[100:200]) / 2 * rng.choice([1, -1, 3, 1 + 2.0 ** -23, 1 - 2.0 ** -24], 100).astype(F32)
    a[200:230], b[200:230], c[200:230] = normal(30, -70, -60), normal(30, -70, -60), normal(30, -126, -120)  # near denormals
    c[230:240] = 0
    c[240:250] = from_bits(0x00000001)
    y = ref.fma(a, b, c)
    assert all(bits(ref.fma_exact(*v)) == bits(w) for v, w in zip(zip(a, b, c), y))
    return [{"a": u32(a), "b": u32(b), "c": u32(c), "y": u32(y)}]


def sign_cases():
    out = []
    for seed in SEEDS:
        s = ref.signs(seed, 100)
        assert all((ref.splitmix64(seed, i) >> 63 == 1) == (v < 0) for i, v in enumerate(s))
        out.append({"seed": hex(seed), "z0": hex(ref.splitmix64(seed, 0)), "sign": ints(s)})
    return out


def block_cases():
    n = [16, 32, 48, 64, 80, 96, 128, 172, 176, 240, 256, 512, 576, 768, 3072, 8192, 1, 2, 100]
    return [{"n": n, "block": [ref.block(v) for v in n]}]


def hadamard_cases():
    out = []
    for b in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        for n, spread in ((b, 0), (b * (1 if b == 256 else 2), 12)):
            v = normal(n, -spread, spread)
            if spread:
                v[rng.integers(n)] = from_bits(0x80000000)
            out.append({"b": b, "v": u32(v), "y": u32(ref.hadamard(v, b))})
    v = from_bits([0x00800001, 0x00800000, 0x80800001, 0x00800003, 0x80000000, 0x80000000, 0x00FFFFFF, 0x80800000])  # denormal differences
    out.append({"b": 4, "v": u32(v), "y": u32(ref.hadamard(v, 4))})
    return out


def window_cases():
    w = np.concatenate([[0, 1, 2, 0x7FFF, 0x8000, 0xFFFF], rng.integers(0, 65536, 194)])
    first, second = ref.trellis_weights(w)
    return [{"window": ints(w), "w0": ints(first), "w1": ints(second)}]


def tile_cases():
    out = []
    for S in ENCODINGS[1:]:
        words = rng.integers(0, 2 ** 32, 4 * S, np.uint32)
        out.append({"S": S, "words": ints(words), "window": ints(ref.tile_windows(words, S)), "w": ints(ref.decode_tile(words, S))})
    return out


def panel_cases():
    """Where a weight stands. `word` and `shift` of it; a trellis window continues in `next_word`, whose bits follow bit 31 of `word`."""
    out = []
    for rows, cols in ((16, 16), (17, 33), (300, 48), (256, 16)):
        for S in ENCODINGS:
            r, c = rng.integers(0, ref.padded(rows), 24), rng.integers(0, ref.padded(cols), 24)
            r[:2], c[:2] = (0, ref.padded(rows) - 1), (0, ref.padded(cols) - 1)
            place = [ref.panel_place(int(i), int(j), rows, cols, S) for i, j in zip(r, c)]
            word, shift, follow = zip(*place)
            out.append({"S": S, "rows": rows, "cols": cols, "n_words": ref.panel_words(rows, cols, S), "r": ints(r), "c": ints(c),
                        "word": ints(word), "shift": ints(shift), "next_word": ints(follow)})
    return out


def quantise_input_cases():
    out, seen = [], set()

    def case(x, seed):
        x = np.asarray(x, F32)
        q, d, M, flag = ref.quantise_input(x, ref.padded(x.size), seed)
        seen.update(ints(d))
        out.append({"cols": x.size, "seed": hex(seed), "x": ints(x.view(np.uint32)), "q": ints(q), "d": ints(d), "M": u32(M)[0], "flag": int(flag)})

    for cols in (16, 48, 172, 176, 240, 576, 64, 512, 1):
        case(normal(cols), SEEDS[2])
        case(normal(cols, -20, 20), random_seed())
        n = ref.padded(cols)
        b = ref.block(n)
        for first in (0, 5) if n // b > 1 else (0,):  # every group at its own power of two, so that every d occurs
            x = normal(n) * 2.0 ** -((np.arange(n) // b + first) % 18)
            case(x[:cols], random_seed())
    x = normal(240)
    x[16:32] = 0
    x[64:80] = from_bits(0x217FFFFF)  # guarded to zero
    x[80:96] = from_bits(0x21800000)  # the smallest that stays
    case(x, 1)
    case(np.zeros(48), 1)
    case(-np.zeros(48, F32), 1)
    case(np.full(48, from_bits(0x217FFFFF)), 1)
    x = np.zeros(48, F32)
    x[5] = from_bits(0x21800000)  # M = 2^-60 exactly
    case(x, 1)
    x = np.zeros(16, F32)
    sign = ref.signs(7, 16)
    x[0], x[1] = from_bits(0x21800001), from_bits(0x21800000)
    x[1] *= -1 * sign[0] * sign[1]  # H leaves a sum of one ulp and a difference
    case(x, 7)
    case(np.full(64, from_bits(0x587FFFFF)), 3)
    for bad in (0x7F800000, 0xFF800000, 0x7FC00000, 0x58800000, 0xD8800000):
        x = normal(48)
        x.view(np.uint32)[17] = bad
        case(x, 3)
    for _ in range(4):  # M and m_g share mantissas: the comparison inside e
        x = np.zeros(96, F32)
        x[0::32] = F32(1.5) * 2.0 ** -np.arange(3)
        x.view(np.int32)[32] += int(rng.integers(-1, 2))
        x.view(np.int32)[64] += int(rng.integers(-1, 2))
        case(x, 11)
    x = np.zeros(256, F32)
    x[0] = 1  # one impulse: every |q| is 127
    case(x, 5)
    x[1] = 1.5 / 127  # ties in rint
    case(x, 5)
    assert seen == set(range(15)), seen
    return out


def linear_cases():
    out = []
    for S in ENCODINGS:
        for rows, cols in ((16, 16), (33, 172), (48, 576), (20, 512)) + (((300, 48),) if S in (0, 7) else ()):
            fields, m = random_matrix(rows, cols, S)
            seed = random_seed()
            b = ref.block(m.n)
            x = normal(cols) * (2.0 ** -rng.integers(0, 8, m.n // b))[np.arange(cols) // b].astype(F32)
            if (rows, cols) == (48, 576) and S == 5:
                x[100] = np.inf
            y, flag = ref.linear(x, m, seed)
            out.append({**fields, "seed": hex(seed), "x": ints(x.view(np.uint32)), "y": u32(y), "flag": int(flag)})
    fields, m = random_matrix(16, 48, 0)
    out.append({**fields, "seed": "0x0", "x": u32(np.zeros(48)), "y": u32(ref.linear(np.zeros(48, F32), m, 0)[0]), "flag": 0})

    # Long constant matrices: an impulse at the start of a group makes x' constant there, so that acc passes 2^24 and nears 2^31.
    for n, byte, small in ((8192, 254, True), (8192, 0, True), (131072, 254, False), (131072, 0, True)):
        seed, scale = 9, np.abs(normal(16, -10, -6))
        m = ref.Matrix(bytes([byte]) * (16 * n), scale, 16, n, 0)
        at = np.arange(0, n, 256)
        value = ref.signs(seed, n)[at].astype(F32)
        if small:
            value[1:13] *= (2.0 ** -np.arange(3, 15)).astype(F32) * F32(0.71)
        x = np.zeros(n, F32)
        x[at] = value
        y, flag = ref.linear(x, m, seed)
        out.append({"S": 0, "rows": 16, "cols": n, "fill": byte, "scale": u32(scale), "seed": hex(seed), "x_at": ints(at), "x_value": u32(value),
                    "y": u32(y), "flag": int(flag)})
    return out


def embedding_cases():
    out = []
    for S in ENCODINGS:
        fields, m = random_matrix(19, 40 if S < 6 else 96, S)
        seed = random_seed()
        tokens = [0, 7, 15, 16, 18] + [int(np.argmin(m.scale))]
        out.append({**fields, "seed": hex(seed), "token": tokens, "x": [u32(ref.embedding(m, t, seed)) for t in tokens]})
    return out


def sparse_cases():
    """Linear layers and embedding rows of sparse matrices."""
    out = []
    for rows, cols in ((16, 16), (33, 76), (20, 256), (260, 32)):
        for size in (8, 4):
            for rotated in (True, False):
                n = ref.padded(cols)
                bands, b = ref.padded(rows) // 16, ref.block(n)
                data = b""
                for first in range(0, bands, 16):
                    nb = min(16, bands - first)
                    for _ in range(n // b):
                        values = rng.integers(0, 255, nb * b * size, np.uint8)
                        kept = np.zeros((16 * b // 4, 64), bool)
                        kept[:, :4 * nb] = rng.permutation(np.arange(16 * b * nb) % 2 == 0).reshape(-1, 4 * nb)
                        data += values.tobytes() + np.packbits(kept.ravel(), bitorder="little").tobytes()
                scale = np.abs(normal(rows, -12, -6)) + F32(2.0 ** -20)
                m, seed, x = ref.Matrix(data, scale, rows, cols, 0, size, rotated), random_seed(), normal(cols, -6, 2)
                y, flag = ref.linear(x, m, seed)
                tokens = [0, 7, rows - 1]
                out.append({"sparse": size, "rotated": int(rotated), "rows": rows, "cols": cols, "hex": data.hex(), "scale": u32(scale),
                            "seed": hex(seed), "x": ints(x.view(np.uint32)), "y": u32(y), "flag": int(flag), "token": tokens,
                            "embedding": [u32(ref.embedding(m, t, seed)) for t in tokens]})
    return out


def lane_sum_cases():
    out = []
    for n in (1, 2, 255, 256, 257, 512, 1000):
        for spread in (0, 12):
            v = normal(n, -spread, spread)
            out.append({"v": u32(v), "sum": u32(ref.lane_sum(v))[0]})
    out.append({"v": [0x80000000], "sum": u32(ref.lane_sum(from_bits([0x80000000])))[0]})
    return out


def rmsnorm_cases():
    out = []

    def case(x, eps):
        x, weight = np.asarray(x, F32), normal(len(x))
        y, flag = ref.rmsnorm(x, weight, F32(eps))
        out.append({"x": ints(x.view(np.uint32)), "weight": u32(weight), "eps": u32(F32(eps))[0], "y": u32(y), "flag": int(flag)})

    for n in (1, 48, 64, 257, 576):
        case(normal(n, -3, 3), 1e-5)
        case(normal(n, -20, 20), 1e-6)
    case(np.zeros(16), 1e-12)
    case(np.full(16, from_bits(0x217FFFFF)), 1e-12)
    case(np.full(16, from_bits(0xA1800000)), 1e-12)
    case(np.full(300, from_bits(0x587FFFFF)), 1)
    for bad in (0x7FC00000, 0xFF800000, 0x58800000):
        x = normal(20)
        x.view(np.uint32)[3] = bad
        case(x, 1e-5)
    return out


def exp_cases():
    eighty = bits(F32(80))
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, -80.0, 80.0, 81.0, -81.0, 1e30, -1e30, np.inf, -np.inf, 1e-30, -1e-30, 2.0 ** -24, -(2.0 ** -24), 2.0 ** -126]
    near = [eighty - 1, eighty + 1, eighty + 0x80000000 - 1, eighty + 0x80000001]
    ln2 = (np.arange(-115, 116, 7) * np.log(2)).astype(F32)
    half = ((np.arange(-114, 115, 11) + 0.5) * np.log(2)).astype(F32)
    x = np.concatenate([np.array(special, F32), from_bits(near), ln2, half, from_bits(bits(half) + 1), from_bits(bits(half) - 1),
                        rng.uniform(-80, 80, 120).astype(F32), rng.uniform(-1, 1, 80).astype(F32), from_bits([1, 0x80000001])])
    return [{"x": ints(x.view(np.uint32)), "y": u32(ref.exp(x))}]


def log_cases():
    special = [1.0, 2.0, 0.5, 10.0, 2.0 ** -126, 2.0 ** 127]
    edge = [0x3F3504F2, 0x3F3504F3, 0x3F3504F4, 0x3FB504F2, 0x3FB504F3, 0x3FB504F4, 0x3F7FFFFF, 0x3F800001, 0x00800001, 0x7F7FFFFF]
    x = np.concatenate([np.array(special, F32), from_bits(edge), from_bits(rng.integers(0x00800000, 0x7F800000, 100, np.uint32)),
                        rng.uniform(0.5, 2, 100).astype(F32)])
    return [{"x": u32(x), "y": u32(ref.log(x))}]


def swiglu_cases():
    gate = np.concatenate([normal(150, -4, 6), from_bits(SPECIAL), from_bits(SPECIAL[::-1]), np.array([-79.9, -80.0, -80.1, 80.0, 80.1, -1e9, 1e9], F32)])
    up = np.concatenate([normal(150, -4, 4), normal(len(SPECIAL)), from_bits(SPECIAL), normal(7)])
    out = []
    for part in (slice(0, 150), slice(150, None)):
        y, flag = ref.swiglu(gate[part], up[part])
        out.append({"gate": ints(gate[part].view(np.uint32)), "up": ints(up[part].view(np.uint32)), "y": u32(y), "flag": int(flag)})
    tiny = from_bits([0x21800000, 0xA1800000, 0x21800000])  # the product is a denormal
    y, flag = ref.swiglu(F32([-79, -70, -1e12]), tiny)
    out.append({"gate": u32(F32([-79, -70, -1e12])), "up": u32(tiny), "y": u32(y), "flag": int(flag)})
    return out


SCALINGS = {"none": None, "linear": ("linear", 4.0), "llama3-8": ("llama3", 8.0, 1.0, 4.0, 8192.0), "llama3-32": ("llama3", 32.0, 1.0, 4.0, 8192.0)}


def scaling_fields(s):
    if s is None:
        return {"type": "none"}
    return dict(zip(("type", "factor", "low", "high", "original"), s))


def rope_table_cases():
    out, positions = [], [0, 1, 17, 1023, 16383, 131071]
    for theta, scaling in ((10000.0, "none"), (250000.0, "none"), (500000.0, "llama3-8"), (500000.0, "llama3-32"), (10000.0, "linear")):
        for R in (8, 96, 128):
            cos, sin = ref.rope_tables(positions, R, theta, SCALINGS[scaling])
            freq = ref.rope_frequencies(R, theta, SCALINGS[scaling])
            out.append({"R": R, "theta": theta, "scaling": scaling_fields(SCALINGS[scaling]), "freq_f64": [hex(int(f)) for f in freq.view(np.uint64)],
                        "position": positions, "cos": u32(cos), "sin": u32(sin)})
    return out


def rope_cases():
    out = []
    for D, R in ((8, 8), (64, 64), (96, 72), (128, 32)):
        v = normal(D, -3, 3)
        cos, sin = (t[0] for t in ref.rope_tables([12345], R, 10000.0))
        out.append({"D": D, "R": R, "v": u32(v), "cos": u32(cos), "sin": u32(sin), "y": u32(ref.rope(v, cos, sin))})
    return out


def quantise_head_cases():
    out = []

    def case(v):
        v = np.asarray(v, F32)
        q, scale, flag = ref.quantise_head(v)
        out.append({"v": ints(v.view(np.uint32)), "q": ints(q), "scale": u32(scale)[0], "flag": int(flag)})

    for D in (8, 64, 80, 96, 100, 128, 256):
        case(normal(D))
        case(normal(D, -10, 10))
    case(np.zeros(8))
    case(np.full(64, from_bits(0x217FFFFF)))
    case(from_bits([0x21800000] + [0] * 7))
    case(np.full(8, from_bits(0xD87FFFFF)))
    for bad in (0x7FC00000, 0x7F800000, 0xD8800000):
        v = normal(64)
        v.view(np.uint32)[9] = bad
        case(v)
    return out


def attention_cases():
    out = []

    def case(D, H, KV, N, position, window=0, q=1.0, k=1.0, v=1.0, q_exps=None, k_exps=None, v_exps=None):
        T = len(position)
        gen = {"q": generator(T * H * D, q, q_exps), "k": generator(N * KV * D, k, k_exps), "v": generator(N * KV * D, v, v_exps)}
        qq, qs, _ = ref.quantise_head(generated(gen["q"]).reshape(T, H, D))
        kq, ks, _ = ref.quantise_head(generated(gen["k"]).reshape(N, KV, D))
        vq, vs, _ = ref.quantise_head(generated(gen["v"]).reshape(N, KV, D))
        y = ref.attention(qq, qs, position, kq, ks, vq, vs, window)
        out.append({"D": D, "n_heads": H, "n_kv_heads": KV, "n_keys": N, "position": ints(position), "window": window, **gen, "y": u32(y)})

    case(8, 4, 2, 700, [0, 1, 255, 256, 257, 511, 512, 699])
    case(8, 8, 4, 300, [3, 299], q=8.0, k=4.0)  # sharp: most p_j are 0
    case(64, 4, 1, 600, [0, 255, 599])
    case(80, 4, 4, 300, [10, 299])
    case(96, 6, 2, 520, [100, 519], q=3.0)
    case(128, 2, 1, 400, [399])
    case(128, 4, 2, 40, [0, 39], q=20.0, k=20.0)
    case(8, 2, 1, 700, [0, 5, 6, 7, 255, 256, 260, 261, 262, 512, 699], window=7)
    case(64, 2, 2, 700, [255, 256, 500, 699], window=256)
    case(8, 2, 1, 700, [0, 254, 255, 256, 699], window=1)
    case(80, 2, 1, 600, [400, 511, 512, 599], window=300)
    case(8, 2, 2, 300, [0, 20, 299], v_exps=[-999] * 600)  # every value zero
    case(8, 2, 1, 600, [40, 300, 599], v_exps=[-999 if 256 <= j < 512 else 0 for j in range(600)])  # a block of zero values
    case(64, 2, 1, 600, [40, 300, 599], v_exps=rng.integers(-40, 41, 600))  # value scales far apart
    case(8, 2, 1, 600, [0, 300, 599], v_exps=np.where(rng.integers(0, 4, 600) == 0, -999, rng.integers(-55, 46, 600)))
    case(8, 2, 1, 520, [0, 300, 519], k_exps=[-999] * 520)  # all scores equal
    case(8, 2, 1, 520, [300, 519], q_exps=[-999, 0, -999, 3])
    case(8, 2, 1, 520, [300, 519], k_exps=[j // 64 - 4 for j in range(520)], q=4.0)  # the maximum grows from block to block
    case(8, 2, 1, 700, [300, 699], k_exps=[4 - j // 64 for j in range(700)], q=4.0)  # and falls
    case(8, 2, 1, 520, [300, 519], k_exps=rng.integers(-50, 46, 520), q_exps=[45, -50, 40, 0])  # scores of every size
    case(8, 2, 1, 300, [7, 299], q_exps=[-55] * 4, k_exps=[-55] * 300)  # (qs * c) * ks is denormal
    return out


def sampling_cases():
    out = []

    def case(V=40, scale=3.0, rint=False, tokens=(), penalty=1.0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, position=None):
        g = generator(V, scale, rint=rint)
        seed = random_seed()
        position = len(tokens) if position is None else position
        token = ref.sample(generated(g), list(tokens), seed, position, temperature, penalty, top_k, top_p, min_p)
        out.append({"logits": g, "tokens": list(tokens), "seed": hex(seed), "position": position, "temperature": u32(F32(temperature))[0],
                    "penalty": u32(F32(penalty))[0], "top_k": top_k, "top_p": u32(F32(top_p))[0], "min_p": u32(F32(min_p))[0], "token": token})

    history = ints(rng.integers(0, 40, 100))
    for rint in (False, True):
        case(temperature=0, rint=rint)
        case(temperature=0, rint=rint, scale=1.0)
        case(temperature=0, rint=rint, tokens=history, penalty=1.3)
        case(temperature=0, rint=rint, tokens=history[:10], penalty=0.7)
        for i in range(4):
            case(rint=rint, position=1000 * i)
        for t in (0.1, 0.7, 1.5, 10.0):
            case(rint=rint, temperature=t)
        for k in (1, 2, 5, 40, 1000):
            case(rint=rint, top_k=k)
        for p in (0.0, 0.1, 0.5, 0.9, 0.999):
            case(rint=rint, top_p=p)
        for q in (0.01, 0.3, 1.0):
            case(rint=rint, min_p=q)
        case(rint=rint, scale=0.0)  # all equal
        case(rint=rint, scale=100.0)
        case(V=512, rint=rint, tokens=history, penalty=1.1, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
        case(V=512, rint=rint, tokens=history * 2, penalty=1.1, temperature=1.2, top_p=0.9)
        case(V=512, rint=rint, temperature=2.0, min_p=0.1, top_k=100)
        for i in range(6):
            case(V=300, rint=rint, tokens=history[:7 * i], penalty=1.2, temperature=1.5, top_k=50 * i, top_p=0.98, min_p=0.01, position=2 ** (4 * i))
    return out


def penalty_cases():
    """Sampling with biases, and penalties of what was drawn."""
    out = []

    def case(V, n_tokens, n_prompt, n_bias=0, frequency=0.0, presence=0.0, temperature=0.0, penalty=1.0, top_p=1.0):
        g = generator(V, 3.0, rint=True)
        seed = random_seed()
        tokens = ints(rng.integers(0, V, n_tokens))
        bias = [[t, u32(F32(b))[0]] for t, b in zip(ints(rng.permutation(V)[:n_bias]), rng.uniform(-4, 4, n_bias))]
        token = ref.sample(generated(g), tokens, seed, n_tokens, temperature, penalty, 0, top_p, 0.0,
                           [(t, np.uint32(b).view(F32)) for t, b in bias], F32(frequency), F32(presence), n_prompt)
        out.append({"logits": g, "tokens": tokens, "seed": hex(seed), "position": n_tokens, "temperature": u32(F32(temperature))[0],
                    "penalty": u32(F32(penalty))[0], "top_k": 0, "top_p": u32(F32(top_p))[0], "min_p": 0, "n_prompt": n_prompt, "bias": bias,
                    "frequency": u32(F32(frequency))[0], "presence": u32(F32(presence))[0], "token": token})

    for temperature in (0.0, 0.9, 1.0):
        case(40, 0, 0, n_bias=20, temperature=temperature)
        case(40, 100, 50, frequency=0.3, temperature=temperature)
        case(40, 100, 50, presence=-0.7, temperature=temperature)
        case(40, 100, 100, frequency=0.3, presence=1.3, temperature=temperature)
        case(300, 400, 3, n_bias=300, frequency=0.15, presence=0.2, penalty=1.1, temperature=temperature, top_p=0.95)
        case(300, 400, 3, n_bias=7, frequency=-0.15, presence=0.1, penalty=1.1, temperature=temperature)
    return out


def bias_cases():
    y = np.concatenate([normal(200, -10, 10), from_bits(SPECIAL), from_bits(SPECIAL), normal(len(SPECIAL))])
    bias = np.concatenate([normal(200, -10, 10), normal(len(SPECIAL)), from_bits(SPECIAL[::-1]), from_bits(SPECIAL)])
    bias = np.where(np.isfinite(bias), bias, F32(1))
    bias[:20] = -y[:20] * F32(1 + 2.0 ** -20)  # cancels
    keep = ~np.isnan(y)  # the payload of a NaN is no part of the arithmetic
    y, bias = y[keep], bias[keep]
    return [{"y": ints(y.view(np.uint32)), "bias": ints(bias.view(np.uint32)), "sum": u32(ref.add_bias(y, bias))}]


def head_norm_cases():
    out = []

    def case(v, eps):
        v = np.asarray(v, F32)
        weight = normal(v.shape[-1])
        y, flag = ref.head_norm(v, weight, F32(eps))
        out.append({"D": v.shape[-1], "v": ints(v.view(np.uint32)), "weight": u32(weight), "eps": u32(F32(eps))[0], "y": u32(y), "flag": int(flag)})

    for heads, D in ((4, 12), (3, 64), (2, 128), (1, 256)):
        case(normal((heads, D), -10, 10), 1e-6)
    case(np.stack([normal(16) * F32(2.0 ** e) for e in (-40, 0, 40)]), 1e-6)  # heads know nothing of each other
    for bad in (0x7FC00000, 0x58800000):
        v = normal((3, 16))
        v.view(np.uint32)[1, 5] = bad
        case(v, 1e-5)
    return out


def longrope_cases():
    out, positions = [], [0, 1, 4095, 4096, 131071]
    for R, theta, attention, maximum in ((12, 10000.0, None, 131072), (96, 10000.0, None, 131072), (32, 250000.0, 0.8765432198765432, 131072),
                                         (8, 1e6, None, 4096)):
        short = np.sort(rng.uniform(0.99, 2, R // 2)).tolist()
        long = np.sort(rng.uniform(1, 64, R // 2)).tolist()
        A = ref.attention_factor(maximum / 4096, 4096) if attention is None else attention
        for context in (4096, 4097, 131072):
            scaling = ("longrope", short, long, 4096.0, A)
            at = [p for p in positions if p < context]
            cos, sin = ref.rope_tables(at, R, theta, scaling, context)
            out.append({"R": R, "theta": theta, "short": short, "long": long, "original": 4096, "max_positions": maximum, "attention_factor": attention,
                        "attention_f64": hex(int(np.float64(A).view(np.uint64))), "context": context, "position": at, "cos": u32(cos), "sin": u32(sin)})
    return out


def yarn_cases():
    out = []
    for R, theta, factor, original, fast, slow, truncate in (
            (128, 1e6, 4.0, 32768, 32, 1, True), (16, 1e6, 4.0, 128, 32, 1, True), (64, 10000.0, 40.0, 4096, 32, 1, False),
            (96, 250000.0, 1.0, 4096, 24, 2, True), (8, 500000.0, 8.0, 8, 32, 1, True)):
        d = np.array(ref.yarn_factors(R, theta, factor, original, fast, slow, truncate), np.float64)
        out.append({"R": R, "theta": theta, "factor": factor, "original": original, "beta_fast": fast, "beta_slow": slow, "truncate": truncate,
                    "attention_f64": hex(int(np.float64(0.1 * ref.elog(factor) + 1).view(np.uint64))), "d_f64": [hex(int(v)) for v in d.view(np.uint64)]})
    return out


KINDS = {"guard": guard_cases, "fma": fma_cases, "signs": sign_cases, "block": block_cases, "hadamard": hadamard_cases, "trellis_windows": window_cases,
         "trellis_tiles": tile_cases, "panel": panel_cases, "quantise_input": quantise_input_cases, "linear": linear_cases,
         "embedding": embedding_cases, "lane_sum": lane_sum_cases, "rmsnorm": rmsnorm_cases, "exp": exp_cases, "log": log_cases,
         "swiglu": swiglu_cases, "rope_tables": rope_table_cases, "rope": rope_cases, "quantise_head": quantise_head_cases,
         "attention": attention_cases, "sampling": sampling_cases, "bias": bias_cases, "head_norm": head_norm_cases,
         "longrope": longrope_cases, "yarn": yarn_cases, "sparse": sparse_cases, "penalties": penalty_cases}


# ----------------------------------------------------------------------------------------------- the reference against f64 mathematics

def check():
    """Bounds are loose by design: they are for wrong formulas; bits are the vectors' business."""
    check_rng = np.random.default_rng(1)
    report = {}

    def f32_ulps(y, truth):
        return float((np.abs(y.astype(np.float64) - truth) / np.spacing(np.abs(truth).astype(F32)).astype(np.float64)).max())

    x = check_rng.uniform(-80, 80, 100000).astype(F32)
    report["exp, ulp"] = f32_ulps(ref.exp(x), np.exp(x.astype(np.float64))), 1
    x = np.exp(check_rng.uniform(-80, 80, 100000)).astype(F32)
    report["log, ulp"] = f32_ulps(ref.log(x), np.log(x.astype(np.float64))), 4

    worst = 0.0
    position = np.array([0, 1, 17, 1023, 16383, 131071])
    for R in (8, 96, 128):
        for theta in (10000.0, 250000.0, 500000.0):
            freq = ref.rope_frequencies(R, theta)
            assert np.abs(freq / np.array([theta ** (-2 * j / R) for j in range(R // 2)]) - 1).max() < 1e-14
            cos, sin = ref.rope_tables(position, R, theta)
            angle = position[:, None] * freq
            for y, truth in ((cos, np.cos(angle).astype(F32)), (sin, np.sin(angle).astype(F32))):
                worst = max(worst, np.abs(y.view(np.int32).astype(np.int64) - truth.view(np.int32)).max())
    report["rope tables, ulp from numpy at the same angle"] = float(worst), 1

    worst = 0.0
    for S in ENCODINGS:
        for rows, cols in ((33, 172), (48, 576)):
            data = check_rng.integers(0, 256 if S else 255, 4 * ref.panel_words(rows, cols, S), np.uint8).tobytes()
            m = ref.Matrix(data, np.full(rows, 0.001, F32), rows, cols, S)
            words = np.frombuffer(data, "<u4")
            for r, c in zip(check_rng.integers(0, rows, 50), check_rng.integers(0, cols, 50)):
                word, shift, follow = ref.panel_place(int(r), int(c), rows, cols, S)
                code = (int(words[word]) | int(words[follow]) << 32) >> shift
                assert m.w[r, c] == ((code & 255) - 127 if S == 0 else ref.trellis_weights(code & 0xFFFF)[c % 2])
            x = check_rng.standard_normal(cols).astype(F32)
            dense = m.stands_for(3)
            truth = dense @ x.astype(np.float64)
            worst = max(worst, np.abs(ref.linear(x, m, 3)[0] - truth).max() / np.sqrt((truth ** 2).mean()))
            assert np.abs(ref.embedding(m, 5, 3) - dense[5]).max() <= 1e-7 * np.abs(dense[5]).max()
    report["linear, worst error / rms of y"] = float(worst), 0.1

    worst = 0.0
    for D, H, KV, N, window in ((8, 4, 2, 300, 0), (80, 2, 2, 600, 100), (128, 2, 1, 600, 0)):
        position = np.array([0, N // 2, N - 1])
        heads = [ref.quantise_head(check_rng.standard_normal(s).astype(F32))[:2] for s in ((3, H, D), (N, KV, D), (N, KV, D))]
        y = ref.attention(*heads[0], position, *heads[1], *heads[2], window).reshape(3, H, D)
        b = ref.block(D)
        q, k, v = (ref.hadamard(a.astype(np.float64), b) / b * s[..., None] for a, s in heads)
        for t, at in enumerate(position):
            seen = slice(max(0, at - window + 1) if window else 0, at + 1)
            for h in range(H):
                score = k[seen, h // (H // KV)] @ q[t, h] / np.sqrt(D)
                p = np.exp(score - score.max())
                worst = max(worst, np.abs(p @ v[seen, h // (H // KV)] / p.sum() - y[t, h]).max())
    report["attention, worst error against softmax of the same quantised heads"] = float(worst), 1e-3

    for name, (value, bound) in report.items():
        print(f"check {name}: {value:.3g} (bound {bound})")
        assert value <= bound, name


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "vectors", "arithmetic.json")
    check()
    out = {"readme": README}
    for name, make in KINDS.items():
        out[name] = make()
    with open(path, "w") as f:
        f.write("{\n")
        f.write(",\n".join(json.dumps(k) + ": " + (json.dumps(v) if k == "readme" else
                "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in v) + "\n]") for k, v in out.items()))
        f.write("\n}\n")
    for name in KINDS:
        print(f"{name}: {len(out[name])} cases, {sum(len(json.dumps(c, separators=(',', ':'))) for c in out[name])} bytes")
    print(f"{os.path.getsize(path)} bytes in {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
