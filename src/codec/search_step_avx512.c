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
// The windows of one v by one tile: `share` neighbours in all tables, or half a vector of them.
INLINE void relax(const upg_step_kind kind, int share, const uint16_t *a, const uint16_t *e, const __m512i factor[2],
                  __m512i constant, uint16_t next, uint16_t *best) {
    const __m512i c = _mm512_set1_epi16((short)next);
    if (share < LANES) {
        const __mmask32 low = 0xffff;
        __m512i found =
            candidate(kind, _mm512_maskz_loadu_epi16(low, a), _mm512_maskz_loadu_epi16(low, e), factor, constant, c);
        __m512i old = _mm512_maskz_loadu_epi16(low, best);
        _mm512_mask_storeu_epi16(best, low, _mm512_min_epu16(old, found));
        return;
    }
    for (int i = 0; i < share; i += LANES)
        _mm512_store_si512(
            best + i, _mm512_min_epu16(load(best + i), candidate(kind, load(a + i), load(e + i), factor, constant, c)));
}

INLINE void search_pruned(const int s, const upg_step_kind kind, const upg_step *step, int k) {
    enum { GROUP = 2 * LANES };
    const int n = 65536 >> s, share = 1 << s;
    const uint16_t *table = step->use_b[k] ? step->b : step->a, *next = step->next + k * n;
    uint16_t *cost = step->cost + k * n, *folded = step->folded;
    const __m512i factor[2] = {_mm512_set1_epi16((short)step->factor[k][0]),
                               _mm512_set1_epi16((short)step->factor[k][1])};
    const __m512i least = _mm512_set1_epi16((short)step->next_least[k]),
                  threshold = _mm512_set1_epi16((short)step->threshold),
                  constant = _mm512_set1_epi16((short)step->constant[k]),
                  folded_constant = kind == UPG_STEP_SPLIT ? _mm512_setzero_si512() : constant;
    for (int h = 0; h < n; h += LANES) _mm512_store_si512(cost + h, _mm512_set1_epi16(-1));
    for (int first = 0; first < n; first += GROUP) {
        __m512i c0 = _mm512_sub_epi16(load(next + first), least),
                c1 = _mm512_sub_epi16(load(next + first + LANES), least);
        uint64_t kept = (uint64_t)_mm512_cmple_epu16_mask(c0, threshold) |
                        (uint64_t)_mm512_cmple_epu16_mask(c1, threshold) << LANES;
        _mm512_store_si512(folded, _mm512_add_epi16(c0, folded_constant));
        _mm512_store_si512(folded + LANES, _mm512_add_epi16(c1, folded_constant));
        for (; kept; kept &= kept - 1) {
            int i = __builtin_ctzll(kept), at = (first + i) << s;
            relax(kind, share, table + at, step->e + at, factor, constant, folded[i], cost + at % n);
        }
    }
    __m512i lowest_costs = _mm512_set1_epi16(-1);
    for (int h = 0; h < n; h += LANES) lowest_costs = _mm512_min_epu16(lowest_costs, load(cost + h));
    step->least[k] = lowest(lowest_costs);
}

INLINE void run_pruned(const int s, const upg_step *step, int k) {
    switch (step->kind) {
    case UPG_STEP_ONE_TABLE:
    case UPG_STEP_TWO_TABLES: search_pruned(s, UPG_STEP_ONE_TABLE, step, k); break;
    case UPG_STEP_SPLIT: search_pruned(s, UPG_STEP_SPLIT, step, k); break;
    }
}

void upg_search_pruned_avx512(const upg_step *step, int k) {
    switch (step->s) {
    case 4: run_pruned(4, step, k); break;
    case 5: run_pruned(5, step, k); break;
    case 6: run_pruned(6, step, k); break;
    case 7: run_pruned(7, step, k); break;
    case 8: run_pruned(8, step, k); break;
    }
}
#else
typedef int upg_no_avx512; // a translation unit must not be empty
#endif
