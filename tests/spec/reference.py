#!/usr/bin/env python3
"""The arithmetic of UPG in NumPy: the second implementation of docs/arithmetic.md.

Written from the page alone. It is meant to be read next to it, section by section; it is not fast, and it shares no code and no idea
with the C implementation. `make_vectors.py` records its results, and the test suite compares the C code with them bit for bit.

The one idea a reader needs: an f32 array here is a NumPy float32 array, and every arithmetic step on it goes through `add`, `sub`, `mul`,
`div`, `sqrt` or `fma`, each of which flushes denormal operands, rounds once, and flushes a denormal result. Integer sums are exact:
they are computed as f64 matrix products of small integers, far below 2^53.

    reference.py MODEL.upg --tokens 1,2,3 [--logits OUT.bin] [--context N]

runs a model from position 0 and writes the logits, f32 little endian, [n_tokens][vocab]. The session's context is N, or the number of tokens.
"""
import argparse
import collections
import json
import math
import struct
import sys
from fractions import Fraction

import numpy as np

np.seterr(all="ignore")  # infinities and NaNs are part of the spec
F32 = np.float32


def hexf(text):
    return F32(float.fromhex(text))


# ---------------------------------------------------------------------------------------------------------------- 1. Numbers

def flush(x):
    """Denormals to a zero of their sign."""
    x = np.asarray(x, F32)
    return np.where(np.abs(x) < hexf("0x1p-126"), np.copysign(F32(0), x), x)


def add(a, b):
    return flush(flush(a) + flush(b))


def sub(a, b):
    return flush(flush(a) - flush(b))


def mul(a, b):
    return flush(flush(a) * flush(b))


def div(a, b):
    return flush(flush(a) / flush(b))


def sqrt(a):
    return flush(np.sqrt(flush(a)))


def fma(a, b, c):
    """a*b + c rounded once.

    The product of two f32 is exact in f64. The f64 sum is made round-to-odd: s = p + c with its exact error e (Knuth's TwoSum); where
    e is not zero and the last bit of s is even, the neighbour of s on e's side has an odd last bit and lies on the other side of
    the exact value. Rounding a round-to-odd result of 53 bits to 24 equals one rounding of the exact value, since 53 >= 24 + 2
    (Boldo and Melquiond, 2008).
    """
    a, b, c = (flush(v).astype(np.float64) for v in (a, b, c))
    p = a * b
    s = p + c
    t = s - p
    e = (p - (s - t)) + (c - t)
    even = (np.asarray(s).view(np.int64) & 1) == 0
    odd = np.where((e != 0) & even & np.isfinite(s), np.nextafter(s, np.copysign(np.inf, e)), s)
    return flush(odd.astype(F32))


def fma_exact(a, b, c):
    """The same for three finite scalars by rational arithmetic: slow, obvious, and used to check `fma`."""
    a, b, c = (float(flush(v)) for v in (a, b, c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return F32(a * b + c)  # the sign of an exact zero
    size = abs(exact)
    e = size.numerator.bit_length() - size.denominator.bit_length()
    e -= size < Fraction(2) ** e  # 2^e <= size < 2^(e+1)
    ulp = Fraction(2) ** (max(e, -126) - 23)
    size = round(size / ulp) * ulp  # Fraction rounds ties to even
    if size >= Fraction(2) ** 128:
        return F32(math.copysign(math.inf, exact))
    return flush(F32(math.copysign(float(size), exact)))[()]


def bits(x):
    return np.asarray(x, F32).view(np.uint32)


def from_bits(u):
    return np.asarray(u, np.uint32).view(F32)


def maximum(a, b):
    """max(a, b) of the page."""
    return np.where(a > b, a, b)


def guard(x):
    """Returns the guarded values and, for each element, whether it raises the flag."""
    x = np.asarray(x, F32)
    u = bits(x) & 0x7FFFFFFF
    high, low = u >= 0x58800000, u < 0x21800000
    return np.where(high | low, F32(0), x), high


# ------------------------------------------------------------------------------------------------ 2. Signs and the rotation

MASK64 = (1 << 64) - 1


def splitmix64(seed, i):
    z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def signs(seed, n):
    """sign(0..n-1) as int8 of -1 or +1; `splitmix64` above on n values at once."""
    i = np.arange(1, n + 1, dtype=np.uint64)
    z = np.uint64(seed & MASK64) + i * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.where(z >> np.uint64(63), -1, 1).astype(np.int8)


def with_sign(s, x):
    """x with its sign bit flipped where s is -1."""
    return np.where(s < 0, -np.asarray(x, F32), x)


def block(n):
    b = 1
    while b < 256 and n % (2 * b) == 0:
        b *= 2
    return b


def hadamard(v, b):
    """H_b on each block of b along the last axis; f32 if v is f32, else exact on integers."""
    v = np.array(v)
    rounded = v.dtype == F32
    h = 1
    while h < b:
        pair = v.reshape(v.shape[:-1] + (-1, 2, h))
        low, high = pair[..., 0, :], pair[..., 1, :]
        total = add(low, high) if rounded else low + high
        difference = sub(low, high) if rounded else low - high
        v = np.stack([total, difference], axis=-2).reshape(v.shape)
        h *= 2
    return v


# ------------------------------------------------------------------------------------------------------- 3. Coded matrices

def trellis_weights(window):
    """The two weights of 16-bit windows."""
    p = (np.asarray(window, np.uint64) * np.uint64(0x517BE2A9)) & np.uint64(0xFFFFFFFF)
    byte = [((p >> np.uint64(8 * i)) & np.uint64(127)).astype(np.int32) for i in range(4)]
    return byte[0] + byte[2] - 127, byte[1] + byte[3] - 127


def tile_windows(words, S):
    """words [...][4S] of u32 -> windows [...][128]."""
    words = np.asarray(words, np.uint64)
    start = S * np.arange(128)
    k = start // 32
    both = words[..., k] | words[..., (k + 1) % (4 * S)] << np.uint64(32)
    return (both >> (start % 32).astype(np.uint64)) & np.uint64(0xFFFF)


def decode_tile(words, S):
    """words [...][4S] of u32 -> weights [...][16][16]."""
    first, second = trellis_weights(tile_windows(words, S))
    w = np.stack([first, second], axis=-1)  # [...][step][2]
    return w.reshape(w.shape[:-2] + (16, 16)).astype(np.int8)


def words_per_tile(S):
    """32-bit words of a 16x16 tile; S = 0 means int8."""
    return 4 * S if S else 64


def padded(n):
    return (n + 15) // 16 * 16


def panel_words(rows, cols, S):
    """32-bit words of a coded matrix."""
    return padded(rows) // 16 * (padded(cols) // 16) * words_per_tile(S)


def panel_index(r, c, k, rows, cols, S):
    """Where word k of the tile that holds weight (r, c) stands, as an index of 32-bit words from the start of the matrix."""
    bands, steps = padded(rows) // 16, padded(cols) // 16
    superband, j = r // 256, r % 256 // 16
    nb = min(16, bands - 16 * superband)
    before = superband * 16 * steps * words_per_tile(S)
    return before + c // 16 * words_per_tile(S) * nb + k * nb + j


def panel_place(r, c, rows, cols, S):
    """(word, shift, next_word) of a weight: an int8 weight is 8 bits of `word` from bit `shift` (`next_word` is not used and 0);
    a trellis window is the low 16 bits of (word | next_word << 32) >> shift."""
    if S == 0:
        k = r % 16 * 4 + c % 16 // 4
        return panel_index(r, c, k, rows, cols, S), 8 * (c % 4), 0
    start = S * (r % 16 * 8 + c % 16 // 2)
    k = start // 32
    return panel_index(r, c, k, rows, cols, S), start % 32, panel_index(r, c, (k + 1) % (4 * S), rows, cols, S)


def decode_matrix(data, rows, cols, S):
    """Bytes in memory order -> weights [padded rows][padded cols] of int8."""
    words = np.frombuffer(data, "<u4")
    bands, steps, per_tile = padded(rows) // 16, padded(cols) // 16, words_per_tile(S)
    assert words.size == bands * steps * per_tile
    out, at = [], 0
    for first in range(0, bands, 16):
        nb = min(16, bands - first)
        size = steps * per_tile * nb
        tiles = words[at:at + size].reshape(steps, per_tile, nb).transpose(2, 0, 1)  # [band][step][word]
        at += size
        if S:
            w = decode_tile(tiles, S)
        else:
            byte = np.ascontiguousarray(tiles, "<u4").view(np.uint8)  # [band][step][16 rows * 16 columns]
            w = (byte.astype(np.int16) - 127).astype(np.int8).reshape(nb, steps, 16, 16)
        out.append(w.transpose(0, 2, 1, 3).reshape(16 * nb, 16 * steps))
    return np.concatenate(out)


LEVELS = np.array([32, 41, 50, 60, 71, 84, 101, 127, -32, -41, -50, -60, -71, -84, -101, -127], np.int8)


def decode_sparse(data, rows, cols, bits_of_value):
    """Bytes of a sparse matrix -> weights [padded rows][padded cols] of int8."""
    data = np.frombuffer(data, np.uint8)
    bands, b, n = padded(rows) // 16, block(padded(cols)), padded(cols)
    out, at = np.zeros((16 * bands, n), np.int8), 0
    for first in range(0, bands, 16):
        nb = min(16, bands - first)
        for group in range(0, n, b):
            count = 8 * nb * b
            value_bytes, mask_bytes = count * bits_of_value // 8, 32 * b
            values, masks = data[at:at + value_bytes], data[at + value_bytes:at + value_bytes + mask_bytes]
            at += value_bytes + mask_bytes
            kept = np.unpackbits(masks, bitorder="little").astype(bool)
            assert kept.sum() == count
            if bits_of_value == 4:
                halves = values.reshape(-1, 1, 32)
                values = LEVELS[np.concatenate([halves & 15, halves >> 4], axis=1).ravel()]
            else:
                values = (values.astype(np.int16) - 127).astype(np.int8)
            dense = np.zeros(kept.size, np.int8)
            dense[kept] = values
            dense = dense.reshape(16, b // 4, 16, 4).transpose(2, 0, 1, 3).reshape(256, b)  # [row][quad][band][column]
            assert not dense[16 * nb:].any()
            out[16 * first:16 * (first + nb), group:group + b] = dense[:16 * nb]
    assert at == data.size
    return out


class Matrix:
    """A coded matrix, decoded: w [padded rows][n] of int8, scale [rows] of f32. sparse: bits of a value, or 0."""

    def __init__(self, data, scale, rows, cols, S, sparse=0, rotated=True):
        self.rows, self.cols, self.n, self.rotated = rows, cols, padded(cols), rotated
        self.w = decode_sparse(data, rows, cols, sparse) if sparse else decode_matrix(data, rows, cols, S)
        self.scale = np.array(scale, F32)
        if self.n > 131072 or self.scale.shape != (rows,):
            raise ValueError("bad matrix shape")
        s = self.scale
        if not np.all(((s == 0) & ~np.signbit(s)) | ((s >= hexf("0x1p-50")) & (s <= hexf("0x1p+30")))):
            raise ValueError("bad scale")

    def stands_for(self, seed):
        """The original matrix in f64, [rows][cols]: section 3's last point, for checks only."""
        w = self.w[:self.rows].astype(np.float64)
        if not self.rotated:
            return (w * self.scale[:, None].astype(np.float64))[:, :self.cols]
        w = hadamard(w, block(self.n)) * self.scale[:, None].astype(np.float64)
        return (w * signs(seed, self.n))[:, :self.cols]


# --------------------------------------------------------------------------------------------------------- 4. Linear layer

ONE_127TH = hexf("0x1.020408p-7")


def quantise_input(x, n, seed, rotate=True):
    """x [...][cols] -> q [...][n] integers, d [...][n/b], M [...], flag [...]."""
    x = np.asarray(x, F32)
    cols, b = x.shape[-1], block(n)
    g, raised = guard(x)
    rotated = np.zeros(x.shape[:-1] + (n,), F32)
    rotated[..., :cols] = with_sign(signs(seed, cols), g) if rotate else g
    if rotate:
        rotated = hadamard(rotated, b)
    groups = rotated.reshape(x.shape[:-1] + (n // b, b))
    m = np.abs(groups).max(axis=-1)  # [...][n/b]
    M = m.max(axis=-1)  # [...]
    zero = bits(M) < 0x21800000
    M = np.where(zero, F32(0), M)
    mu, Mu = bits(m).astype(np.int64), bits(M).astype(np.int64)[..., None]
    e = (Mu >> 23) - (mu >> 23) - ((mu & 0x7FFFFF) > (Mu & 0x7FFFFF))
    d = np.where(m == 0, 14, np.minimum(e, 14))
    d = np.where(zero[..., None], 0, d)
    inv = div(F32(127), M)[..., None, None]
    two_d = (np.int64(1) << d).astype(F32)[..., None]
    q = np.rint(mul(mul(groups, inv), two_d))
    q = np.where(zero[..., None, None], 0, q).astype(np.int32)
    assert np.abs(q).max(initial=0) <= 127
    return q.reshape(rotated.shape), d, M, raised.any(axis=-1)


def linear(x, matrix, seed):
    """x [...][cols] -> y [...][rows], flag [...]."""
    x = np.asarray(x, F32)
    n, b = matrix.n, block(matrix.n)
    q, d, M, flag = quantise_input(x, n, seed, matrix.rotated)
    w = matrix.w[:matrix.rows]
    acc = np.zeros(x.shape[:-1] + (matrix.rows,), np.int64)
    for g in range(n // b):
        part = slice(g * b, (g + 1) * b)
        dot = (q[..., part].astype(np.float64) @ w[:, part].T.astype(np.float64)).astype(np.int64)
        shift = d[..., g, None]
        acc += (dot + ((np.int64(1) << shift) >> 1)) >> shift
    assert np.abs(acc).max(initial=0) < 1 << 31
    return mul(acc.astype(F32), mul(matrix.scale, mul(M, ONE_127TH)[..., None])), flag


def add_bias(y, bias):
    """Step 5. y [...][rows], bias [rows]."""
    return add(y, bias)


# ------------------------------------------------------------------------------------------- 5 to 7. Embedding, sums, RMSNorm

def embedding(matrix, tokens, seed):
    """tokens [...] -> x [...][cols]."""
    v = matrix.w[tokens].astype(np.int32)
    if matrix.rotated:
        v = hadamard(v, block(matrix.n))
    x = mul(v[..., :matrix.cols].astype(F32), matrix.scale[tokens][..., None])
    if not matrix.rotated:
        return x
    return with_sign(signs(seed, matrix.cols), x)


def lane_sum(v):
    """Sum along the last axis."""
    v = np.asarray(v, F32)
    lane = np.zeros(v.shape[:-1] + (256,), F32)
    for at in range(0, v.shape[-1], 256):
        part = v[..., at:at + 256]
        lane[..., :part.shape[-1]] = add(lane[..., :part.shape[-1]], part)
    h = 128
    while h:
        lane = add(lane[..., :h], lane[..., h:2 * h])
        h //= 2
    return lane[..., 0]


def rmsnorm(x, weight, eps):
    """x [...][n] -> y [...][n], flag [...]."""
    g, raised = guard(x)
    t = lane_sum(mul(g, g))
    r = div(F32(1), sqrt(add(div(t, F32(g.shape[-1])), F32(eps))))
    return mul(mul(g, r[..., None]), weight), raised.any(axis=-1)


def head_norm(v, weight, eps):
    """v [...][heads][D] -> y [...][heads][D], flag [...]: each head by itself."""
    y, raised = rmsnorm(v, weight, eps)
    return y, raised.any(axis=-1)


# ------------------------------------------------------------------------------------------------------ 8 and 9. exp, log, SwiGLU

def exp(x):
    x = flush(x)
    low = x < F32(-80)
    x = np.where(x > F32(80), F32(80), np.where(low, F32(0), x))
    k = np.rint(mul(x, hexf("0x1.715476p+0")))
    r = fma(k, hexf("-0x1.62e400p-1"), x)
    r = fma(k, hexf("-0x1.7f7d1cp-20"), r)
    p = np.full(r.shape, hexf("0x1.a01a02p-13"))
    for c in "0x1.6c16c2p-10 0x1.111112p-7 0x1.555556p-5 0x1.555556p-3 0x1p-1 0x1p+0 0x1p+0".split():
        p = fma(p, r, hexf(c))
    y = (p.view(np.int32) + k.astype(np.int32) * (1 << 23)).view(F32)
    return np.where(low, F32(0), y)


def log(x):
    x = np.asarray(x, F32)
    k = (x.view(np.int32) - np.int32(0x3F3504F3)) >> 23
    m = (x.view(np.int32) - k * (1 << 23)).view(F32)
    s = div(sub(m, F32(1)), add(m, F32(1)))
    z = mul(s, s)
    p = np.full(z.shape, hexf("0x1.c71c72p-4"))
    for c in "0x1.24924ap-3 0x1.99999ap-3 0x1.555556p-2 0x1p+0".split():
        p = fma(p, z, hexf(c))
    return fma(k.astype(F32), hexf("0x1.62e430p-1"), mul(add(s, s), p))


def swiglu(gate, up):
    """gate, up [...][n] -> y [...][n], flag [...]."""
    g, raised_g = guard(gate)
    u, raised_u = guard(up)
    return mul(div(g, add(F32(1), exp(-g))), u), (raised_g | raised_u).any(axis=-1)


# ------------------------------------------------------------------------------------------------------------------ 10. Position

def elog(x):
    m, k = math.frexp(x)
    m, k = m * 2, k - 1  # m in [1, 2)
    if m > float.fromhex("0x1.6a09e667f3bcdp+0"):
        m, k = m / 2, k + 1
    s = (m - 1) / (m + 1)
    z = s * s
    p = 0.0
    for j in range(20, -1, -1):
        p = p * z + 1 / (2 * j + 1)
    return k * float.fromhex("0x1.62e42fefa39efp-1") + (2 * s) * p


def eexp(x):
    k = round(x * float.fromhex("0x1.71547652b82fep+0"))
    r = (x - k * float.fromhex("0x1.62e42fefa3800p-1")) - k * float.fromhex("0x1.ef35793c76730p-45")
    p = 1.0
    for j in range(20, 0, -1):
        p = 1 + (r * p) / j
    return math.ldexp(p, k)


def esincos(x):
    """f64 array -> (sin, cos)."""
    x = np.asarray(x, np.float64)
    k = np.rint(x * float.fromhex("0x1.45f306dc9c883p-1"))
    r = (x - k * float.fromhex("0x1.921fb54400000p+0")) - k * float.fromhex("0x1.0b4611a600000p-34")
    r = r - k * float.fromhex("0x1.3198a2e037073p-69")
    z = r * r
    p = np.ones_like(r)
    for j in range(10, 0, -1):
        p = 1 - (z * p) / ((2 * j) * (2 * j + 1))
    sn = r * p
    p = np.ones_like(r)
    for j in range(10, 0, -1):
        p = 1 - (z * p) / ((2 * j - 1) * (2 * j))
    cs = p
    quarter = k.astype(np.int64) % 4
    return np.choose(quarter, [sn, cs, -sn, -cs]), np.choose(quarter, [cs, -sn, -cs, sn])


def attention_factor(factor, original):
    """A of longrope, where the config does not give it."""
    return 1.0 if factor <= 1 else math.sqrt(1 + elog(float(factor)) / elog(float(original)))


def yarn_factors(R, theta, F, O, fast=32.0, slow=1.0, truncate=True):
    """The d_j, [R/2]."""
    def pair(n):
        return (R * elog(O / (n * float.fromhex("0x1.921fb54442d18p+2")))) / (2 * elog(theta))

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, R - 1.0)
    if low == high:
        high = high + 0.001
    ramp = [min(max((j - low) / (high - low), 0.0), 1.0) for j in range(R // 2)]
    return [1 / (r / F + (1 - r)) for r in ramp]


def rope_frequencies(R, theta, scaling=None, context=None):
    """freq_j in f64, [R/2]. scaling: None, ("linear", F), ("llama3", F, L, G, O) or ("longrope", short, long, O, A)."""
    freq = [eexp((-(2 * j) / R) * elog(float(theta))) for j in range(R // 2)]
    if scaling and scaling[0] == "linear":
        freq = [f / scaling[1] for f in freq]
    elif scaling and scaling[0] == "longrope":
        factors = scaling[2] if context > scaling[3] else scaling[1]
        assert len(factors) == R // 2
        freq = [f / float(d) for f, d in zip(freq, factors)]
    elif scaling:
        F, L, G, O = (float(v) for v in scaling[1:])
        for j, f in enumerate(freq):
            wave = float.fromhex("0x1.921fb54442d18p+2") / f
            if wave < O / G:
                continue
            if wave > O / L:
                freq[j] = f / F
            else:
                t = (O / wave - L) / (G - L)
                freq[j] = (1 - t) * (f / F) + t * f
    return np.array(freq, np.float64)


def rope_tables(positions, R, theta, scaling=None, context=None):
    """cos, sin [n_positions][R/2] of f32."""
    angle = np.asarray(positions, np.float64)[:, None] * rope_frequencies(R, theta, scaling, context)
    if not (angle < 2.0 ** 24).all():
        raise ValueError("rope angle out of range")
    sin, cos = esincos(angle)
    if scaling and scaling[0] == "longrope":
        sin, cos = sin * scaling[4], cos * scaling[4]
    return cos.astype(F32), sin.astype(F32)


def rope(v, cos, sin):
    """v [...][D], cos and sin [...][R/2], broadcast against each other."""
    v = np.array(v, F32)
    half = cos.shape[-1]
    a, b = v[..., :half].copy(), v[..., half:2 * half].copy()
    v[..., :half] = sub(mul(a, cos), mul(b, sin))
    v[..., half:2 * half] = add(mul(b, cos), mul(a, sin))
    return v


# ----------------------------------------------------------------------------------------------------------------- 11. Attention

def quantise_head(v):
    """v [...][D] -> q [...][D] integers, scale [...], flag [...]."""
    g, raised = guard(v)
    h = hadamard(g, block(g.shape[-1]))
    m = np.abs(h).max(axis=-1)
    zero = bits(m) < 0x21800000
    q = np.rint(mul(h, div(F32(127), m)[..., None]))
    q = np.where(zero[..., None], 0, q).astype(np.int32)
    assert np.abs(q).max(initial=0) <= 127
    return q, np.where(zero, F32(0), mul(m, ONE_127TH)), raised.any(axis=-1)


def attention(qq, qs, position, kq, ks, vq, vs, window=0):
    """One sequence. Queries qq [T][H][D] with scales qs [T][H] at position [T]; keys and values kq, vq [N][KV][D] with scales [N][KV],
    at positions 0..N-1. window 0 means none. Returns [T][H*D]."""
    T, H, D = qq.shape
    N, KV, _ = kq.shape
    b = block(D)
    c = F32(1.0 / (math.sqrt(float(D)) * float(b)))
    kv = np.arange(H) // (H // KV)
    position = np.asarray(position)
    started = np.zeros(T, bool)
    m, l, o = np.zeros((T, H), F32), np.zeros((T, H), F32), np.zeros((T, H, D), F32)
    for B in range((N + 255) // 256):
        j = np.arange(256 * B, min(256 * B + 256, N))
        visible = j[None, :] <= position[:, None]  # [T][keys]
        if window:
            visible &= j[None, :] > position[:, None] - window
        rows = np.nonzero(visible.any(axis=1))[0]
        if rows.size == 0:
            continue
        see = visible[rows][:, None, :]  # [t][1][keys]
        key, value = kq[j][:, kv].astype(np.float64), vq[j][:, kv].astype(np.float64)  # [keys][H][D]
        key_scale, value_scale = ks[j][:, kv].T, vs[j][:, kv].T  # [H][keys]
        dot = np.matmul(qq[rows].transpose(1, 0, 2).astype(np.float64), key.transpose(1, 2, 0)).transpose(1, 0, 2)  # [t][H][keys]
        score = mul(dot.astype(F32), mul(mul(qs[rows], c)[..., None], key_scale))
        mb = np.where(see, score, F32(-np.inf)).max(axis=-1)  # [t][H]
        p = np.where(see, exp(np.where(see, sub(score, mb[..., None]), F32(0))), F32(0))  # 0 at hidden keys: they add nothing below
        lb = np.rint(mul(F32(32767), p)).astype(np.int64).sum(axis=-1).astype(F32)
        V = np.where(see, value_scale, F32(0)).max(axis=-1)  # [t][H]
        f = div(F32(32767), V)
        pv = np.rint(mul(p, mul(value_scale, f[..., None])))
        pv = np.where(see & (V != 0)[..., None], pv, 0).astype(np.float64)
        total = np.matmul(pv.transpose(1, 0, 2), value.transpose(1, 0, 2)).transpose(1, 0, 2)  # [t][H][D]
        assert np.abs(total).max() < 1 << 31
        ob = mul(total.astype(F32), V[..., None])

        m_old = m[rows]
        m_next = maximum(m_old, mb)
        a, ab = exp(sub(m_old, m_next)), exp(sub(mb, m_next))
        o_next = add(mul(o[rows], a[..., None]), mul(ob, ab[..., None]))
        l_next = add(mul(l[rows], a), mul(lb, ab))
        later = started[rows]
        m[rows] = np.where(later[:, None], m_next, mb)
        l[rows] = np.where(later[:, None], l_next, lb)
        o[rows] = np.where(later[:, None, None], o_next, ob)
        started[rows] = True
    o = mul(hadamard(div(o, l[..., None]), b), F32(1.0 / b))
    return o.reshape(T, H * D)


# ------------------------------------------------------------------------------------------------------------- 12. A decoder

def given(config, key, default=None):
    value = config.get(key)
    return default if value is None else value


class Config:
    """The dimensions of a decoder, from Hugging Face's config.json keys."""

    ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

    def __init__(self, config):
        architecture = config["architectures"][0]
        if architecture not in self.ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture}")
        name = architecture[:-len("ForCausalLM")]
        self.hidden = config["hidden_size"]
        self.intermediate = config["intermediate_size"]
        self.n_layers = config["num_hidden_layers"]
        self.n_heads = config["num_attention_heads"]
        self.n_kv_heads = given(config, "num_key_value_heads", self.n_heads)
        self.head_dim = given(config, "head_dim", 128 if name == "Qwen3" else self.hidden // self.n_heads)
        self.vocab = config["vocab_size"]
        self.max_positions = config["max_position_embeddings"]
        self.eps = F32(config["rms_norm_eps"])
        self.tied = bool(given(config, "tie_word_embeddings", False))
        self.fused = name == "Phi3"
        self.head_norms = name == "Qwen3"
        attention_bias, mlp_bias = bool(given(config, "attention_bias", False)), bool(given(config, "mlp_bias", False))
        if attention_bias and name not in ("Llama", "Qwen3") or mlp_bias and name != "Llama":
            raise ValueError("a bias that the architecture does not have")
        self.qkv_bias, self.o_bias, self.mlp_bias = attention_bias or name == "Qwen2", attention_bias, mlp_bias
        self.windows = self.layer_windows(config, name)
        rope = given(config, "rope_scaling", given(config, "rope_parameters", {}))
        self.theta = float(given(rope, "rope_theta", given(config, "rope_theta", 10000.0)))
        self.rotary = int(self.head_dim * float(given(rope, "partial_rotary_factor", given(config, "partial_rotary_factor", 1.0))))
        self.scaling = self.rope_scaling(config, rope)

    def layer_windows(self, config, name):
        """The window of each layer, 0 for none."""
        window = config.get("sliding_window", 0 if name in ("Llama", "Phi3") else 4096) or 0
        first = 0
        if name in ("Qwen2", "Qwen3"):
            window = window if given(config, "use_sliding_window", False) else 0
            first = given(config, "max_window_layers", 28)
        types = given(config, "layer_types", ["full_attention" if i < first else "sliding_attention" for i in range(self.n_layers)])
        assert len(types) == self.n_layers and set(types) <= {"full_attention", "sliding_attention"}
        return [window if t == "sliding_attention" else 0 for t in types]

    def rope_scaling(self, config, rope):
        kind = rope.get("rope_type", rope.get("type", "default"))
        key = "original_max_position_embeddings"
        if kind == "default":
            return None
        if kind == "linear":
            return "linear", float(rope["factor"])
        original = float(given(config, key, rope.get(key)))
        if kind == "llama3":
            return ("llama3", *(float(rope[k]) for k in ("factor", "low_freq_factor", "high_freq_factor")), original)
        if kind in ("longrope", "su"):
            factor = float(given(rope, "factor", self.max_positions / original))
            scale = float(given(rope, "attention_factor", attention_factor(factor, original)))
            return "longrope", rope["short_factor"], rope["long_factor"], original, scale
        if kind == "yarn":
            factor = float(given(rope, "factor", self.max_positions / original))
            factors = yarn_factors(self.rotary, self.theta, factor, original, float(given(rope, "beta_fast", 32)),
                                   float(given(rope, "beta_slow", 1)), given(rope, "truncate", True))
            return "longrope", factors, factors, original, float(given(rope, "attention_factor", 0.1 * elog(factor) + 1))
        raise ValueError(f"unknown rope scaling {kind}")


def decode(model, tokens, context):
    """Logits [n_tokens][vocab] of one sequence that starts at position 0, in a session of a context, and each row's flag.

    All positions go through a layer together; nothing in the arithmetic can tell."""
    c, seed = model.config, model.seed
    T, H, KV, D = len(tokens), c.n_heads, c.n_kv_heads, c.head_dim
    position = np.arange(T)
    cos, sin = rope_tables(position, c.rotary, c.theta, c.scaling, context)
    cos, sin = cos[:, None, :], sin[:, None, :]  # one row a token, the same for its heads
    flag = np.zeros(T, bool)

    def run(name, x, bias=False):
        nonlocal flag
        y, raised = linear(x, model.matrix(name + ".weight"), seed)
        flag |= raised
        return add_bias(y, model.vector(name + ".bias")) if bias else y

    def norm(name, x):
        nonlocal flag
        y, raised = rmsnorm(x, model.vector(name), c.eps)
        flag |= raised
        return y

    def norm_heads(name, x):
        nonlocal flag
        y, raised = head_norm(x, model.vector(name), c.eps)
        flag |= raised
        return y

    def quantise(x):
        nonlocal flag
        q, scale, raised = quantise_head(x)
        flag |= raised.any(axis=-1)
        return q, scale

    x = embedding(model.matrix("model.embed_tokens.weight"), np.asarray(tokens), seed)
    for layer in range(c.n_layers):
        at = f"model.layers.{layer}."
        y = norm(at + "input_layernorm.weight", x)
        if c.fused:
            qkv = run(at + "self_attn.qkv_proj", y, c.qkv_bias)
            q, k, v = np.split(qkv, [H * D, (H + KV) * D], axis=-1)
        else:
            q, k, v = (run(f"{at}self_attn.{s}_proj", y, c.qkv_bias) for s in "qkv")
        q, k, v = q.reshape(T, H, D), k.reshape(T, KV, D), v.reshape(T, KV, D)
        if c.head_norms:
            q, k = norm_heads(at + "self_attn.q_norm.weight", q), norm_heads(at + "self_attn.k_norm.weight", k)
        qq, qs = quantise(rope(q, cos, sin))
        kq, ks = quantise(rope(k, cos, sin))
        vq, vs = quantise(v)
        a = attention(qq, qs, position, kq, ks, vq, vs, c.windows[layer])
        x = add(x, run(at + "self_attn.o_proj", a, c.o_bias))
        y = norm(at + "post_attention_layernorm.weight", x)
        if c.fused:
            gate, up = np.split(run(at + "mlp.gate_up_proj", y, c.mlp_bias), 2, axis=-1)
        else:
            gate, up = (run(f"{at}mlp.{s}_proj", y, c.mlp_bias) for s in ("gate", "up"))
        hidden, raised = swiglu(gate, up)
        flag |= raised
        x = add(x, run(at + "mlp.down_proj", hidden, c.mlp_bias))
    y = norm("model.norm.weight", x)
    logits = run("model.embed_tokens" if c.tied else "lm_head", y)
    flag |= ((bits(logits) & 0x7FFFFFFF) >= 0x7F800000).any(axis=-1)
    return logits, flag


# ------------------------------------------------------------------------------------------------------------------ 13. Sampling

def sample(logits, tokens, seed, position, temperature=0.0, penalty=1.0, top_k=0, top_p=1.0, min_p=0.0, bias=(), frequency=0.0, presence=0.0,
           n_prompt=0):
    """The token drawn at `position` after `tokens`, the first n_prompt of which were given. bias: pairs of a token and its bias."""
    l = flush(np.array(logits, F32))
    for t, b in bias:
        l[t] = add(l[t], F32(b))
    penalty, temperature, top_p, min_p = (F32(v) for v in (penalty, temperature, top_p, min_p))
    if penalty != 1:
        for t in set(tokens[-64:]):
            l[t] = div(l[t], penalty) if l[t] > 0 else mul(l[t], penalty)
    if frequency != 0 or presence != 0:
        for t, count in collections.Counter(tokens[n_prompt:]).items():
            l[t] = sub(l[t], mul(F32(count), F32(frequency)))
            l[t] = sub(l[t], F32(presence))
    if temperature == 0:
        return int(np.argmax(l))  # the first of equals
    l = div(l, temperature)
    kept = np.argsort(-l, kind="stable")  # equals stay in the order of their ids
    if top_k:
        kept = kept[:top_k]
    p = exp(sub(l[kept], l[kept[0]]))

    def running(values):
        total, out = F32(0), []
        for value in values:
            total = F32(total + value)  # no denormal can occur: a p_j is 0 or at least exp(-80)
            out.append(total)
        return out

    if top_p != 1:
        sums = running(p)
        goal = mul(top_p, sums[-1])
        p = p[:next(i for i, s in enumerate(sums) if s >= goal) + 1]
    if min_p != 0:
        keep = np.nonzero(p >= min_p)[0]
        p, kept = p[keep], kept[keep]
    sums = running(p)
    u = mul(F32(splitmix64(seed, position) >> 40), hexf("0x1p-24"))
    goal = mul(u, sums[-1])
    return int(kept[next((i for i, s in enumerate(sums) if s > goal), len(sums) - 1)])


# ----------------------------------------------------------------------------------------------- The .upg file (docs/format.md)

class Model:
    """A .upg file. Tensors are decoded when asked for and not kept. Hashes and padding are not verified."""

    SIZES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}

    def __init__(self, path):
        with open(path, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            if length > 100_000_000 or (8 + length) % 4096:
                raise ValueError("bad header length")
            header = self.parse(f.read(length).decode("utf-8"))
        self.data = np.memmap(path, np.uint8, "r", 8 + length)
        description = self.parse(header.pop("__metadata__")["upg"])
        if description["version"] != 1:
            raise ValueError(f"version {description['version']}")
        self.header, self.tensors = header, description["tensors"]
        end = 0
        for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = t["data_offsets"]
            if begin != end or stop - begin != math.prod(t["shape"]) * self.SIZES[t["dtype"]]:
                raise ValueError(f"{name}: bad offsets")
            end = stop
        if end != self.data.size:
            raise ValueError("the tensors do not cover the data area")
        self.seed = int(description["rotation_seed"], 16)
        self.config = Config(description["config"])

    @staticmethod
    def parse(text):
        def unique(pairs):
            if len(dict(pairs)) != len(pairs):
                raise ValueError("a key occurs twice")
            return dict(pairs)
        return json.loads(text, object_pairs_hook=unique)

    def raw(self, name, dtype):
        t = self.header[name]
        if t["dtype"] != dtype:
            raise ValueError(f"{name}: dtype {t['dtype']}")
        begin, end = t["data_offsets"]
        return self.data[begin:end].tobytes()

    def vector(self, name):
        """A plain vector as f32."""
        t = self.tensors[name]
        data = self.raw(name, t["encoding"])
        if t["encoding"] == "BF16":
            v = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(F32)
        else:
            v = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[t["encoding"]]).astype(F32)
        if t["rows"] != 1 or v.size != t["cols"] or not np.isfinite(v).all():
            raise ValueError(f"{name}: bad vector")
        return v

    def matrix(self, name):
        t = self.tensors[name]
        if t["encoding"] not in ("int8", "trellis", "sparse"):
            raise ValueError(f"{name}: encoding {t['encoding']} has no arithmetic")
        S = int(2 * t["bits"]) if t["encoding"] == "trellis" else 0
        scale = np.frombuffer(self.raw(name + ".scale", "F32"), "<f4")
        if t["encoding"] == "sparse":
            return Matrix(self.raw(name, "U8"), scale, t["rows"], t["cols"], 0, t["bits"], t["rotated"])
        return Matrix(self.raw(name, "U8"), scale, t["rows"], t["cols"], S)


def main():
    parser = argparse.ArgumentParser(description="Run a .upg model by the reference arithmetic.")
    parser.add_argument("model")
    parser.add_argument("--tokens", required=True, help="token ids, separated by commas")
    parser.add_argument("--logits", help="write f32 logits, little endian, [n_tokens][vocab]")
    parser.add_argument("--context", type=int, help="positions of the session (default: the number of tokens)")
    args = parser.parse_args()
    tokens = [int(t) for t in args.tokens.split(",")]
    model = Model(args.model)
    if not all(0 <= t < model.config.vocab for t in tokens):
        sys.exit("a token is outside the vocabulary")
    logits, flag = decode(model, tokens, args.context or len(tokens))
    if args.logits:
        logits.astype("<f4").tofile(args.logits)
    for t, row in enumerate(logits):
        best = int(np.argmax(row))
        print(f"position {t}: token {tokens[t]}, best {best}, logit {row[best]:.9g} (0x{int(bits(row[best])):08x}){', FLAG' if flag[t] else ''}")
    if flag.any():
        sys.exit("a flag was raised")


if __name__ == "__main__":
    main()
