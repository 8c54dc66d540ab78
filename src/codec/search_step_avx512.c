// The step of the trellis search for AVX-512: 64 windows' inherited bits (two vectors) by four tiles stay in registers
// over all fresh bits. Not the place for what a step means: see search_step.h.
#ifdef __AVX512BW__
#include <immintrin.h>
#include "codec/search_step.h"

enum { LANES = 32, BLOCK = 2 * LANES };
#define INLINE static inline __attribute__((always_inline))

// next(v) for the lanes of one vector whose first window w has v = w >> s. With s = 4 a vector spans two v: even lanes
// hold the first.
INLINE __m512i broadcast(const int s, const uint16_t *next) {
    if (s == 4) return _mm512_set1_epi32((int)upg_le32(next));
    return _mm512_set1_epi16((short)*next);
}

INLINE __m512i load(const uint16_t *p) {
    return _mm512_load_si512(p);
}

// One vector of candidates: D + next, where the constant is part of next unless the target is split.
INLINE __m512i candidate(const upg_step_kind kind, __m512i a, __m512i e, const __m512i factor[2], __m512i constant,
                         __m512i next) {
    __m512i d = _mm512_sub_epi16(e, _mm512_maddubs_epi16(a, factor[0]));
    if (kind != UPG_STEP_SPLIT) return _mm512_add_epi16(d, next);
    d = _mm512_sub_epi16(d, _mm512_maddubs_epi16(a, factor[1]));
    return _mm512_adds_epu16(_mm512_add_epi16(d, constant), next);
}

// With s = 4, lanes from the order of broadcast() back to that of h.
INLINE __m512i in_order(const int s, __m512i v) {
    if (s != 4) return v;
    const __m512i even_then_odd = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28,
                                                   26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutexvar_epi16(even_then_odd, v);
}

INLINE uint16_t lowest(__m512i v) {
    __m256i m = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i least = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1)));
    return (uint16_t)_mm_extract_epi16(least, 0);
}

INLINE void search(const int s, const upg_step_kind kind, const upg_step *step) {
    const int n = 65536 >> s, apart = n + UPG_STEP_PAD;
    const uint16_t *table[UPG_STEP_TILES], *e = step->e;
    __m512i factor[UPG_STEP_TILES][2], constant[UPG_STEP_TILES], best[UPG_STEP_TILES][2], least[UPG_STEP_TILES];
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        table[k] = step->use_b[k] ? step->b : step->a;
        factor[k][0] = _mm512_set1_epi16((short)step->factor[k][0]);
        factor[k][1] = _mm512_set1_epi16((short)step->factor[k][1]);
        constant[k] = _mm512_set1_epi16((short)step->constant[k]);
        least[k] = _mm512_set1_epi16(-1);
    }
    size_t at = 0;
    for (int h = 0; h < n; h += BLOCK) {
        const uint16_t *from = step->folded + (h >> s);
        for (int k = 0; k < UPG_STEP_TILES; k++) best[k][0] = best[k][1] = _mm512_set1_epi16(-1);
        for (int p = 0; p < 1 << s; p++, at += BLOCK, from += n >> s) {
            __m512i e0 = load(e + at), e1 = load(e + at + LANES);
            __m512i a0 = load(table[0] + at), a1 = load(table[0] + at + LANES);
#pragma GCC unroll 4
            for (int k = 0; k < UPG_STEP_TILES; k++) {
                __m512i c0 = broadcast(s, from + k * apart),
                        c1 = s >= 6 ? c0 : broadcast(s, from + k * apart + (LANES >> s));
                if (kind == UPG_STEP_TWO_TABLES && k > 0) {
                    a0 = load(table[k] + at);
                    a1 = load(table[k] + at + LANES);
                }
                best[k][0] = _mm512_min_epu16(best[k][0], candidate(kind, a0, e0, factor[k], constant[k], c0));
                best[k][1] = _mm512_min_epu16(best[k][1], candidate(kind, a1, e1, factor[k], constant[k], c1));
            }
        }
        for (int k = 0; k < UPG_STEP_TILES; k++) {
            least[k] = _mm512_min_epu16(least[k], _mm512_min_epu16(best[k][0], best[k][1]));
            _mm512_store_si512(step->cost + k * n + h, in_order(s, best[k][0]));
            _mm512_store_si512(step->cost + k * n + h + LANES, in_order(s, best[k][1]));
        }
    }
    for (int k = 0; k < UPG_STEP_TILES; k++) step->least[k] = lowest(least[k]);
}

// What a window adds to D: next relative to its least and capped, plus the constant unless the target is split.
INLINE void fold(const int s, const upg_step *step) {
    const int n = 65536 >> s, apart = n + UPG_STEP_PAD;
    const __m512i cap = _mm512_set1_epi16(UPG_STEP_CAP);
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        __m512i least = _mm512_set1_epi16((short)step->next_least[k]);
        __m512i constant = _mm512_set1_epi16((short)(step->kind == UPG_STEP_SPLIT ? 0 : step->constant[k]));
        for (int v = 0; v < n; v += LANES) {
            __m512i c = _mm512_min_epu16(_mm512_sub_epi16(load(step->next + k * n + v), least), cap);
            _mm512_store_si512(step->folded + k * apart + v, _mm512_add_epi16(c, constant));
        }
    }
}

INLINE void run(const int s, const upg_step *step) {
    fold(s, step);
    switch (step->kind) {
    case UPG_STEP_ONE_TABLE: search(s, UPG_STEP_ONE_TABLE, step); break;
    case UPG_STEP_TWO_TABLES: search(s, UPG_STEP_TWO_TABLES, step); break;
    case UPG_STEP_SPLIT: search(s, UPG_STEP_SPLIT, step); break;
    }
}

void upg_search_step_avx512(const upg_step *step) {
    switch (step->s) {
    case 4: run(4, step); break;
    case 5: run(5, step); break;
    case 6: run(6, step); break;
    case 7: run(7, step); break;
    case 8: run(8, step); break;
    }
}

// What next(v) adds to D goes to step->folded, and what a pruned step keeps to a bit for each v.
enum { SHORT = 5 };
typedef union bits {
    uint64_t word[(65536 >> SHORT) / 64];
    uint16_t half[(65536 >> SHORT) / 16];
} bits;

INLINE void keep(const int s, const upg_step *step, int k, bits *kept) {
    const int n = 65536 >> s;
    const uint16_t *next = step->next + k * n;
    uint16_t *folded = step->folded + k * (n + UPG_STEP_PAD);
    const __m512i least = _mm512_set1_epi16((short)step->next_least[k]),
                  threshold = _mm512_set1_epi16((short)step->threshold),
                  constant = _mm512_set1_epi16((short)(step->kinds[k] == UPG_STEP_SPLIT ? 0 : step->constant[k]));
    for (int v = 0; v < n; v += BLOCK) {
        __m512i c0 = _mm512_sub_epi16(load(next + v), least), c1 = _mm512_sub_epi16(load(next + v + LANES), least);
        kept->word[v / BLOCK] = (uint64_t)_mm512_cmple_epu16_mask(c0, threshold) |
                                (uint64_t)_mm512_cmple_epu16_mask(c1, threshold) << LANES;
        _mm512_store_si512(folded + v, _mm512_add_epi16(c0, constant));
        _mm512_store_si512(folded + v + LANES, _mm512_add_epi16(c1, constant));
    }
}

// Windows of the same h lie n >> s apart in v. So the bits of the v with one remainder go side by side: their minima
// can stay in registers.
INLINE void sort(const int s, const bits *kept, bits *sorted) {
    if (s == 6) {
        const __m512i q0 = _mm512_loadu_si512(kept->half), q32 = _mm512_loadu_si512(kept->half + LANES);
        for (int r = 0; r < 16; r++) {
            const __m512i bit = _mm512_set1_epi16((short)(1 << r));
            sorted->word[r] = (uint64_t)_mm512_test_epi16_mask(q0, bit) | (uint64_t)_mm512_test_epi16_mask(q32, bit)
                                                                              << LANES;
        }
    } else if (s == 7) {
        static const uint8_t _Alignas(64)
            by_remainder[64] = {0,  4,  8,  12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 1,  5,  9,  13, 17, 21,
                                25, 29, 33, 37, 41, 45, 49, 53, 57, 61, 2,  6,  10, 14, 18, 22, 26, 30, 34, 38, 42, 46,
                                50, 54, 58, 62, 3,  7,  11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63};
        for (int i = 0; i < 8; i++) {
            __m512i bytes =
                _mm512_permutexvar_epi8(load((const uint16_t *)by_remainder), _mm512_movm_epi8(kept->word[i]));
            uint64_t m = _mm512_movepi8_mask(bytes);
            for (int r = 0; r < 4; r++) sorted->half[8 * r + i] = (uint16_t)(m >> 16 * r);
        }
    } else {
        *sorted = *kept;
    }
}

// The best of one tile's windows kept for the 64 h from h on. The tables are in the order of the plain step.
INLINE void relax(const int s, const upg_step_kind kind, const upg_step *step, int k, int h, const bits *sorted,
                  __m512i best[2]) {
    const int n = 65536 >> s, apart = n >> s, r = h >> s, words = (1 << s) / 64;
    const size_t block = (size_t)h << s;
    const uint16_t *a = (step->use_b[k] ? step->b : step->a) + block, *e = step->e + block;
    const uint16_t *folded = step->folded + k * (n + UPG_STEP_PAD) + r;
    const __m512i factor[2] = {_mm512_set1_epi16((short)step->factor[k][0]),
                               _mm512_set1_epi16((short)step->factor[k][1])},
                  constant = _mm512_set1_epi16((short)step->constant[k]);
    best[0] = best[1] = _mm512_set1_epi16(-1);
    for (int i = 0; i < words; i++)
        for (uint64_t m = sorted->word[r * words + i]; m; m &= m - 1) {
            const size_t p = (size_t)(64 * i + __builtin_ctzll(m)), at = p * BLOCK;
            const __m512i next = _mm512_set1_epi16((short)folded[p * (size_t)apart]);
            best[0] = _mm512_min_epu16(best[0], candidate(kind, load(a + at), load(e + at), factor, constant, next));
            best[1] = _mm512_min_epu16(
                best[1], candidate(kind, load(a + at + LANES), load(e + at + LANES), factor, constant, next));
        }
}

// The tiles take turns at 64 h, whose tables stay in the first cache meanwhile.
INLINE void search_pruned(const int s, const upg_step *step) {
    const int n = 65536 >> s;
    bits kept, sorted[UPG_STEP_TILES];
    __m512i least[UPG_STEP_TILES];
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        keep(s, step, k, &kept);
        sort(s, &kept, &sorted[k]);
        least[k] = _mm512_set1_epi16(-1);
    }
    for (int h = 0; h < n; h += BLOCK)
        for (int k = 0; k < UPG_STEP_TILES; k++) {
            __m512i best[2];
            if (step->kinds[k] == UPG_STEP_SPLIT)
                relax(s, UPG_STEP_SPLIT, step, k, h, &sorted[k], best);
            else
                relax(s, UPG_STEP_ONE_TABLE, step, k, h, &sorted[k], best);
            least[k] = _mm512_min_epu16(least[k], _mm512_min_epu16(best[0], best[1]));
            _mm512_store_si512(step->cost + k * n + h, best[0]);
            _mm512_store_si512(step->cost + k * n + h + LANES, best[1]);
        }
    for (int k = 0; k < UPG_STEP_TILES; k++) step->least[k] = lowest(least[k]);
}

// With 5 fresh bits too few windows are kept for each h for sorting to pay: minima stay in memory, and the tables are
// in natural order.
INLINE void relax_short(const upg_step_kind kind, const upg_step *step, int k, const bits *kept) {
    const int n = 65536 >> SHORT;
    const uint16_t *table = step->use_b[k] ? step->b : step->a, *folded = step->folded + k * (n + UPG_STEP_PAD);
    const __m512i factor[2] = {_mm512_set1_epi16((short)step->factor[k][0]),
                               _mm512_set1_epi16((short)step->factor[k][1])},
                  constant = _mm512_set1_epi16((short)step->constant[k]);
    uint16_t *cost = step->cost + k * n;
    __m512i least = _mm512_set1_epi16(-1);
    for (int h = 0; h < n; h += LANES) _mm512_store_si512(cost + h, least);
    for (int first = 0; first < n; first += BLOCK)
        for (uint64_t m = kept->word[first / BLOCK]; m; m &= m - 1) {
            const int v = first + __builtin_ctzll(m), at = v << SHORT;
            const __m512i next = _mm512_set1_epi16((short)folded[v]),
                          c = candidate(kind, load(table + at), load(step->e + at), factor, constant, next);
            _mm512_store_si512(cost + at % n, _mm512_min_epu16(load(cost + at % n), c));
        }
    for (int h = 0; h < n; h += LANES) least = _mm512_min_epu16(least, load(cost + h));
    step->least[k] = lowest(least);
}

INLINE void search_short(const upg_step *step) {
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        bits kept;
        keep(SHORT, step, k, &kept);
        if (step->kinds[k] == UPG_STEP_SPLIT)
            relax_short(UPG_STEP_SPLIT, step, k, &kept);
        else
            relax_short(UPG_STEP_ONE_TABLE, step, k, &kept);
    }
}

void upg_search_pruned_avx512(const upg_step *step) {
    switch (step->s) {
    case SHORT: search_short(step); break;
    case 6: search_pruned(6, step); break;
    case 7: search_pruned(7, step); break;
    case 8: search_pruned(8, step); break;
    }
}

uint32_t upg_search_choose_avx512(const upg_choice *c) {
    enum { KEYS = 16 };
    const uint32_t share = 1u << c->s, n = 65536u >> c->s;
    const __m256i f0 = _mm256_set1_epi16(c->target[0]), f1 = _mm256_set1_epi16(c->target[1]),
                  constant = _mm256_set1_epi16((short)c->constant), low = _mm256_set1_epi16(255);
    const __m512i apart = _mm512_set1_epi32((int)(n >> c->s)), least = _mm512_set1_epi32(c->least),
                  cap = _mm512_set1_epi32(UPG_STEP_CAP), inherited = _mm512_set1_epi32((int)c->h),
                  mask = _mm512_set1_epi32((int)c->mask), fixed = _mm512_set1_epi32((int)c->fixed);
    __m512i best = _mm512_set1_epi32(-1); // cost << 8 | fresh bits
    __m512i p = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (uint32_t first = 0; first < share; first += KEYS) {
        const __m256i a = _mm256_load_si256((const __m256i *)(c->a + first));
        __m256i d = _mm256_load_si256((const __m256i *)(c->e + first));
        d = _mm256_sub_epi16(d, _mm256_mullo_epi16(_mm256_and_si256(a, low), f0));
        d = _mm256_sub_epi16(d, _mm256_mullo_epi16(_mm256_srli_epi16(a, 8), f1));
        d = _mm256_add_epi16(d, constant);
        // A number of 16 bits is the upper half of the 32 that end with it; before the first there is another step's.
        __m512i next = _mm512_i32gather_epi32(_mm512_mullo_epi32(p, apart), c->next - 1, 2);
        next = _mm512_min_epu32(_mm512_sub_epi32(_mm512_srli_epi32(next, 16), least), cap);
        __m512i sum = _mm512_add_epi32(_mm512_cvtepu16_epi32(d), next);
        const __m512i w = _mm512_add_epi32(_mm512_mullo_epi32(p, _mm512_set1_epi32((int)n)), inherited);
        const __mmask16 barred = _mm512_cmpneq_epi32_mask(_mm512_and_si512(w, mask), fixed);
        sum = _mm512_mask_add_epi32(sum, barred, sum, _mm512_set1_epi32(UPG_STEP_BARRED));
        best = _mm512_min_epu32(best, _mm512_or_si512(_mm512_slli_epi32(sum, 8), p));
        p = _mm512_add_epi32(p, _mm512_set1_epi32(KEYS));
    }
    return _mm512_reduce_min_epu32(best) & 255;
}
#else
typedef int upg_no_avx512; // a translation unit must not be empty
#endif
