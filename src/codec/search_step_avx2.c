// The step of the trellis search for AVX2: 32 windows' inherited bits (two vectors) by four tiles over all fresh bits,
// as in search_step_avx512.c with half the lanes. Not the place for what a step means: see search_step.h.
#ifdef __AVX2__
#include <immintrin.h>
#include "codec/search_step.h"

enum { LANES = 16, BLOCK = 2 * LANES };
#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const uint16_t *p) {
    return _mm256_load_si256((const __m256i *)p);
}
INLINE void store(uint16_t *p, __m256i v) {
    _mm256_store_si256((__m256i *)p, v);
}

// One vector of candidates: D + next, where the constant is part of next unless the target is split. The factors stay
// in memory: there are only 16 registers.
INLINE __m256i candidate(const upg_step_kind kind, __m256i a, __m256i e, const __m256i factor[3], __m256i next) {
    __m256i d = _mm256_sub_epi16(e, _mm256_maddubs_epi16(a, factor[0]));
    if (kind != UPG_STEP_SPLIT) return _mm256_add_epi16(d, next);
    d = _mm256_sub_epi16(d, _mm256_maddubs_epi16(a, factor[1]));
    return _mm256_adds_epu16(_mm256_add_epi16(d, factor[2]), next);
}

INLINE uint16_t lowest(__m256i v) {
    __m128i least = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    return (uint16_t)_mm_extract_epi16(least, 0);
}

INLINE void search(const int s, const upg_step_kind kind, const upg_step *step) {
    const int n = 65536 >> s, apart = n + UPG_STEP_PAD;
    const uint16_t *table[UPG_STEP_TILES], *e = step->e;
    __m256i factor[UPG_STEP_TILES][3], best[UPG_STEP_TILES][2], least[UPG_STEP_TILES];
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        table[k] = step->use_b[k] ? step->b : step->a;
        factor[k][0] = _mm256_set1_epi16((short)step->factor[k][0]);
        factor[k][1] = _mm256_set1_epi16((short)step->factor[k][1]);
        factor[k][2] = _mm256_set1_epi16((short)step->constant[k]);
        least[k] = _mm256_set1_epi16(-1);
    }
    size_t at = 0;
    for (int h = 0; h < n; h += BLOCK) {
        const uint16_t *from = step->folded + (h >> s);
        for (int k = 0; k < UPG_STEP_TILES; k++) best[k][0] = best[k][1] = _mm256_set1_epi16(-1);
        for (int p = 0; p < 1 << s; p++, at += BLOCK, from += n >> s) {
            __m256i e0 = load(e + at), e1 = load(e + at + LANES);
            __m256i a0 = load(table[0] + at), a1 = load(table[0] + at + LANES);
#pragma GCC unroll 4
            for (int k = 0; k < UPG_STEP_TILES; k++) {
                __m256i c0 = _mm256_set1_epi16((short)from[k * apart]);
                __m256i c1 = s >= 5 ? c0 : _mm256_set1_epi16((short)from[k * apart + 1]);
                if (kind == UPG_STEP_TWO_TABLES && k > 0) {
                    a0 = load(table[k] + at);
                    a1 = load(table[k] + at + LANES);
                }
                best[k][0] = _mm256_min_epu16(best[k][0], candidate(kind, a0, e0, factor[k], c0));
                best[k][1] = _mm256_min_epu16(best[k][1], candidate(kind, a1, e1, factor[k], c1));
            }
        }
        for (int k = 0; k < UPG_STEP_TILES; k++) {
            least[k] = _mm256_min_epu16(least[k], _mm256_min_epu16(best[k][0], best[k][1]));
            store(step->cost + k * n + h, best[k][0]);
            store(step->cost + k * n + h + LANES, best[k][1]);
        }
    }
    for (int k = 0; k < UPG_STEP_TILES; k++) step->least[k] = lowest(least[k]);
}

// What a window adds to D: next relative to its least and capped, plus the constant unless the target is split.
INLINE void fold(const int s, const upg_step *step) {
    const int n = 65536 >> s, apart = n + UPG_STEP_PAD;
    const __m256i cap = _mm256_set1_epi16(UPG_STEP_CAP);
    for (int k = 0; k < UPG_STEP_TILES; k++) {
        __m256i least = _mm256_set1_epi16((short)step->next_least[k]);
        __m256i constant = _mm256_set1_epi16((short)(step->kind == UPG_STEP_SPLIT ? 0 : step->constant[k]));
        for (int v = 0; v < n; v += LANES) {
            __m256i c = _mm256_min_epu16(_mm256_sub_epi16(load(step->next + k * n + v), least), cap);
            store(step->folded + k * apart + v, _mm256_add_epi16(c, constant));
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

void upg_search_step_avx2(const upg_step *step) {
    switch (step->s) {
    case 4: run(4, step); break;
    case 5: run(5, step); break;
    case 6: run(6, step); break;
    case 7: run(7, step); break;
    case 8: run(8, step); break;
    }
}
// The windows of one v by one tile: `share` neighbours in all tables.
INLINE void relax(const upg_step_kind kind, int share, const uint16_t *a, const uint16_t *e, const __m256i factor[3],
                  uint16_t next, uint16_t *best) {
    const __m256i c = _mm256_set1_epi16((short)next);
    for (int i = 0; i < share; i += LANES)
        store(best + i, _mm256_min_epu16(load(best + i), candidate(kind, load(a + i), load(e + i), factor, c)));
}

INLINE void search_pruned(const int s, const upg_step_kind kind, const upg_step *step, int k) {
    enum { GROUP = 64 };
    const int n = 65536 >> s, share = 1 << s;
    const uint16_t *table = step->use_b[k] ? step->b : step->a, *next = step->next + k * n;
    uint16_t *cost = step->cost + k * n, *folded = step->folded;
    const __m256i factor[3] = {_mm256_set1_epi16((short)step->factor[k][0]),
                               _mm256_set1_epi16((short)step->factor[k][1]),
                               _mm256_set1_epi16((short)step->constant[k])};
    const __m256i least = _mm256_set1_epi16((short)step->next_least[k]),
                  threshold = _mm256_set1_epi16((short)step->threshold),
                  constant = kind == UPG_STEP_SPLIT ? _mm256_setzero_si256() : factor[2];
    for (int h = 0; h < n; h += LANES) store(cost + h, _mm256_set1_epi16(-1));
    for (int first = 0; first < n; first += GROUP) {
        uint64_t kept = 0;
        for (int i = 0; i < GROUP; i += 2 * LANES) {
            __m256i c0 = _mm256_sub_epi16(load(next + first + i), least),
                    c1 = _mm256_sub_epi16(load(next + first + i + LANES), least);
            __m256i k0 = _mm256_cmpeq_epi16(_mm256_min_epu16(c0, threshold), c0),
                    k1 = _mm256_cmpeq_epi16(_mm256_min_epu16(c1, threshold), c1);
            store(folded + i, _mm256_add_epi16(c0, constant));
            store(folded + i + LANES, _mm256_add_epi16(c1, constant));
            __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(k0, k1), 0xd8);
            kept |= (uint64_t)(uint32_t)_mm256_movemask_epi8(both) << i;
        }
        for (; kept; kept &= kept - 1) {
            int i = __builtin_ctzll(kept), at = (first + i) << s;
            relax(kind, share, table + at, step->e + at, factor, folded[i], cost + at % n);
        }
    }
    __m256i lowest_costs = _mm256_set1_epi16(-1);
    for (int h = 0; h < n; h += LANES) lowest_costs = _mm256_min_epu16(lowest_costs, load(cost + h));
    step->least[k] = lowest(lowest_costs);
}

INLINE void run_pruned(const int s, const upg_step *step) {
    for (int k = 0; k < UPG_STEP_TILES; k++)
        if (step->kinds[k] == UPG_STEP_SPLIT)
            search_pruned(s, UPG_STEP_SPLIT, step, k);
        else
            search_pruned(s, UPG_STEP_ONE_TABLE, step, k);
}

void upg_search_pruned_avx2(const upg_step *step) {
    switch (step->s) {
    case 5: run_pruned(5, step); break;
    case 6: run_pruned(6, step); break;
    case 7: run_pruned(7, step); break;
    case 8: run_pruned(8, step); break;
    }
}
#else
typedef int upg_no_avx2; // a translation unit must not be empty
#endif
