// SSE4.1, AVX2 and AVX-VNNI: the words of lanes.h in vectors of 4 or 8 lanes. The including file defines LANES, and
// I(op) as _mm_op or _mm256_op; VNNI if vpdpbusd multiplies.
//
// Without it bytes are multiplied by pmaddubsw, which saturates above 32767, so bytes up to 254 cannot be multiplied
// directly: the trellis multiplies its two 7-bit fields apart (at most 127*127*2), panels multiply |w| by q with w's
// sign.
#include "backend/cpu/cpu.h"
#include "backend/cpu/places.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint32_t vec __attribute__((vector_size(4 * LANES)));
#if LANES == 8
typedef __m256i native;
#define EACH64 _mm256_set1_epi64x
#else
typedef __m128i native;
#define EACH64 _mm_set1_epi64x
#endif

// ---- The trellis

INLINE vec funnel(vec low, vec next, int bit) {
    return low >> bit | next << (32 - bit);
}
INLINE vec two_windows(vec y, int s) {
    return (vec)I(blend_epi16)((native)y, (native)(y << (16 - s)), 0xaa);
}

typedef struct fields {
    vec lo, hi; // bytes 0..127; their sum is w+127
} fields;

INLINE fields fields_of(vec x) {
    const native al = I(set1_epi16)((short)(UPG_TRELLIS_MULTIPLIER & 0xffff)),
                 ah = I(set1_epi16)((short)(UPG_TRELLIS_MULTIPLIER >> 16));
    native lo = I(mullo_epi16)((native)x, al);
    native hi = I(add_epi16)(I(mulhi_epu16)((native)x, al), I(mullo_epi16)((native)x, ah));
    return (fields){(vec)lo & 0x7f7f7f7f, (vec)hi & 0x7f7f7f7f};
}
INLINE vec codes_of(vec x) {
    fields f = fields_of(x);
    return f.lo + f.hi; // no byte carries
}

// ---- Multiplication

INLINE native quad_of(const int8_t *q) {
    int32_t x;
    memcpy(&x, q, sizeof x);
    return I(set1_epi32)(x);
}

typedef struct sums {
    vec a, b; // two chains of additions, for the trellis's two fields
} sums;
INLINE sums no_sums(void) {
    return (sums){{0}, {0}};
}
INLINE vec dots(sums s) {
    return s.a + s.b;
}

// sum + the sums of four products of unsigned bytes (at most 127, or 255 with VNNI) and signed ones.
INLINE vec add_products(vec sum, vec bytes, native q) {
#ifdef VNNI
    return (vec)_mm256_dpbusd_avx_epi32((native)sum, (native)bytes, q);
#else
    return sum + (vec)I(madd_epi16)(I(maddubs_epi16)((native)bytes, q), I(set1_epi16)(1));
#endif
}

enum { QUADS = 1, TILE_ROWS = 2, WINDOWS_OFFSET = -127 };
INLINE sums add_windows(sums sum, const vec *x, const int8_t *q) {
    fields f = fields_of(*x);
    native quad = quad_of(q);
    return (sums){add_products(sum.a, f.lo, quad), add_products(sum.b, f.hi, quad)};
}

#ifdef VNNI
typedef vec weights; // bytes w+127
enum { CODES_OFFSET = -127, SIGNED_OFFSET = -127 };
INLINE weights of_codes(vec codes) {
    return codes;
}
INLINE weights of_signed(vec w) {
    return (vec)I(add_epi8)((native)w, I(set1_epi8)(127));
}
INLINE sums add(sums sum, const weights *w, const int8_t *q) {
    return (sums){add_products(sum.a, *w, quad_of(q)), sum.b};
}
#else
typedef struct weights {
    native w;
    vec magnitude;
} weights;
enum { CODES_OFFSET = 0, SIGNED_OFFSET = 0 };
INLINE weights of_signed(vec w) {
    return (weights){(native)w, (vec)I(abs_epi8)((native)w)};
}
INLINE weights of_codes(vec codes) {
    return of_signed((vec)I(sub_epi8)((native)codes, I(set1_epi8)(127)));
}
INLINE sums add(sums sum, const weights *w, const int8_t *q) {
    return (sums){add_products(sum.a, w->magnitude, I(sign_epi8)(quad_of(q), w->w)), sum.b};
}
#endif

// ---- Sparse blocks

INLINE void look_up(const uint8_t *from, uint8_t *to) {
    const __m128i levels = _mm_add_epi8(_mm_loadu_si128((const __m128i *)upg_sparse_level), _mm_set1_epi8(127)),
                  low = _mm_set1_epi8(15);
    for (int i = 0; i < 32; i += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(from + i)), high = _mm_and_si128(_mm_srli_epi16(x, 4), low);
        _mm_store_si128((__m128i *)(to + i), _mm_shuffle_epi8(levels, _mm_and_si128(x, low)));
        _mm_store_si128((__m128i *)(to + i + 32), _mm_shuffle_epi8(levels, high));
    }
}

// 16 weights of the low 16 bits of m; p moves on.
INLINE __m128i expand16(uint32_t m, const uint8_t **p) {
    const uint8_t *second = *p + __builtin_popcount(m & 255);
    __m128 values = _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)*p)), (const __m64 *)second);
    __m128 at = _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)&places[m & 255])),
                             (const __m64 *)&places_behind[m >> 8 & 255]);
    *p = second + __builtin_popcount(m >> 8 & 255);
    return _mm_shuffle_epi8(_mm_sub_epi8(_mm_castps_si128(values), _mm_set1_epi8(127)), _mm_castps_si128(at));
}
INLINE vec expand(const uint8_t *mask, const uint8_t **p) {
    uint32_t m = 0;
    memcpy(&m, mask, LANES / 2);
    __m128i low = expand16(m, p);
#if LANES == 8
    return (vec)_mm256_inserti128_si256(_mm256_castsi128_si256(low), expand16(m >> 16, p), 1);
#else
    return (vec)low;
#endif
}

// ---- Attention

// Sums of `queries` queries from i for LANES/2 dimensions: words of 16 bits, four positions of each dimension side by
// side.
INLINE void some_sums(upg_attention *t, int16_t (*words)[UPG_KV_BLOCK], const int8_t *v, int i, int queries, int d,
                      int from, int to) {
    vec sum[4] = {{0}};
    for (int j = from; j < to; j += 4) {
        const int8_t *p = v + ((size_t)(j / 4) * (size_t)t->D + (size_t)d) * 4;
        native x =
            I(cvtepi8_epi16)(LANES == 8 ? _mm_loadu_si128((const __m128i *)p) : _mm_loadl_epi64((const __m128i *)p));
        for (int a = 0; a < queries; a++) {
            int64_t four;
            memcpy(&four, words[i + a] + j, sizeof four);
            sum[a] += (vec)I(madd_epi16)(x, EACH64(four));
        }
    }
    for (int a = 0; a < queries; a++)
        for (int k = 0; k < LANES / 2; k++) t->acc[i + a][d + k] = (int32_t)(sum[a][2 * k] + sum[a][2 * k + 1]);
}

static void attention_mix(upg_attention *t, const int8_t *v, int from, int to) {
    int16_t words[UPG_ATTEND_QUERIES][UPG_KV_BLOCK];
    for (int i = 0; i < t->n; i++)
        for (int j = from; j < to; j++) words[i][j] = (int16_t)t->dots[i][j];
    for (int d = 0; d < t->D; d += LANES / 2) {
        int i = 0;
        for (; i + 4 <= t->n; i += 4) some_sums(t, words, v, i, 4, d, from, to);
        for (; i < t->n; i++) some_sums(t, words, v, i, 1, d, from, to);
    }
}

#include "backend/cpu/lanes.h"
