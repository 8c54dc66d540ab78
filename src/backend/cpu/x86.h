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
#define ATTENTION_SUMS

typedef uint32_t vec __attribute__((vector_size(4 * LANES)));
#if LANES == 8
typedef __m256i native;
#else
typedef __m128i native;
#endif

// ---- Attention

// 2*LANES bytes as 16-bit numbers.
INLINE native wide(__m128i bytes) {
    return I(cvtepi8_epi16)(bytes);
}
INLINE __m128i bytes_at(const int8_t *p) {
    return LANES == 8 ? _mm_loadu_si128((const __m128i *)p) : _mm_loadl_epi64((const __m128i *)p);
}

INLINE int32_t sum_of_lanes(vec v) {
#if LANES == 8
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128((native)v), _mm256_extracti128_si256((native)v, 1));
#else
    __m128i s = (native)v;
#endif
    s = _mm_hadd_epi32(s, s);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(s, s));
}

static void attention_dots(const int8_t *q, const int8_t *keys, int n, int dim, int32_t *dots) {
    for (int j = 0; j < n; j++) {
        const int8_t *k = keys + (size_t)j * (size_t)dim;
        vec sum = {0};
        int i = 0;
        for (; i + 2 * LANES <= dim; i += 2 * LANES)
            sum += (vec)I(madd_epi16)(wide(bytes_at(q + i)), wide(bytes_at(k + i)));
        int32_t dot = sum_of_lanes(sum);
        for (; i < dim; i++) dot += q[i] * k[i];
        dots[j] = dot;
    }
}

// LANES bytes.
INLINE __m128i few_bytes_at(const int8_t *p) {
    int64_t x = 0;
    memcpy(&x, p, LANES);
    return _mm_cvtsi64_si128(x);
}

// Two keys at a time: their bytes interleaved make pairs for one multiply-add.
static void attention_mix(const int32_t *weights, const int8_t *values, int n, int dim, int32_t *acc) {
    int i = 0;
    for (; i + LANES <= dim; i += LANES) {
        vec sum = {0};
        const int8_t *v = values + i;
        for (int j = 0; j < n; j += 2, v += 2 * (size_t)dim) {
            __m128i pairs = _mm_unpacklo_epi8(few_bytes_at(v), few_bytes_at(v + dim));
            native w = I(set1_epi32)(weights[j] | (j + 1 < n ? weights[j + 1] << 16 : 0));
            sum += (vec)I(madd_epi16)(wide(pairs), w);
        }
        memcpy(acc + i, &sum, sizeof sum);
    }
    for (; i < dim; i++) {
        acc[i] = 0;
        for (int j = 0; j < n; j++) acc[i] += weights[j] * values[(size_t)j * (size_t)dim + (size_t)i];
    }
}

#include "program/ops.h"

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

#include "backend/cpu/lanes.h"
