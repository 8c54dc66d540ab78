// Armv8's NEON: the words of lanes.h in vectors of four lanes. Compiled with dot products (Armv8.2) SDOT multiplies,
// with the int8 matrix product SMMLA multiplies two rows of a batch at once.
//
// Products are of signed bytes, so weights are multiplied as w-1, which lies in -128..126: bytes w+127 with the upper
// bit flipped.
#include "backend/cpu/cpu.h"
#include "backend/cpu/places.h"
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint32x4_t vec;
#define LANES 4
enum { QUADS = 2, CODES_OFFSET = 1, SIGNED_OFFSET = 0, WINDOWS_OFFSET = 1 };

// ---- The trellis

// Clang makes one instruction, sli, of the plain form; gcc needs to be told, where it knows bit.
INLINE vec funnel(vec low, vec next, int bit) {
#if !defined(__clang__)
    if (__builtin_constant_p(bit)) return vsliq_n_u32(low >> bit, next, 32 - bit);
#endif
    return low >> bit | next << (32 - bit);
}
INLINE vec two_windows(vec y, int s) {
    return vsliq_n_u32(y, y >> s, 16);
}

typedef struct fields {
    uint8x16_t lo, hi; // the sum of their bytes' lower 7 bits is w+127
} fields;

INLINE fields fields_of(vec x) {
    const uint16x8_t windows = vreinterpretq_u16_u32(x), al = vdupq_n_u16(UPG_TRELLIS_MULTIPLIER & 0xffff),
                     ah = vdupq_n_u16(UPG_TRELLIS_MULTIPLIER >> 16);
    uint32x4_t first = vmull_u16(vget_low_u16(windows), vget_low_u16(al)), second = vmull_high_u16(windows, al);
    uint16x8_t lo = vmulq_u16(windows, al);
    uint16x8_t carry = vuzp2q_u16(vreinterpretq_u16_u32(first), vreinterpretq_u16_u32(second));
    uint16x8_t hi = vmlaq_u16(carry, windows, ah);
    return (fields){vreinterpretq_u8_u16(lo), vreinterpretq_u8_u16(hi)};
}
INLINE vec codes_of(vec x) {
    fields f = fields_of(x);
    const uint8x16_t mask = vdupq_n_u8(127);
    return vreinterpretq_u32_u8(vaddq_u8(vandq_u8(f.lo, mask), vandq_u8(f.hi, mask)));
}

// ---- Multiplication

typedef int8x16_t weights;
INLINE weights of_codes(vec codes) {
    return vreinterpretq_s8_u32(codes ^ 0x80808080);
}
INLINE weights of_signed(vec w) {
    return vreinterpretq_s8_u32(w);
}

#ifdef __ARM_FEATURE_DOTPROD
enum { TILE_ROWS = 4 };
typedef int32x4_t sums;
INLINE sums no_sums(void) {
    return vdupq_n_s32(0);
}
INLINE vec dots(sums s) {
    return vreinterpretq_u32_s32(s);
}
INLINE sums add(sums sum, const weights *w, const int8_t *q) {
    int8x8_t quads = vld1_s8(q);
    return vdotq_lane_s32(vdotq_lane_s32(sum, w[0], quads, 0), w[1], quads, 1);
}
#else
enum { TILE_ROWS = 2 };
typedef struct sums {
    int32x4_t low, high; // of lanes 0 and 1, 2 and 3: each lane's even and odd pairs of columns
} sums;
INLINE sums no_sums(void) {
    return (sums){vdupq_n_s32(0), vdupq_n_s32(0)};
}
INLINE vec dots(sums s) {
    return vreinterpretq_u32_s32(vpaddq_s32(s.low, s.high));
}
// Two products of at most 127*128 fit in 16 bits.
INLINE sums add(sums sum, const weights *w, const int8_t *q) {
    int32x2_t quads = vreinterpret_s32_s8(vld1_s8(q));
    int8x8_t a = vreinterpret_s8_s32(vdup_lane_s32(quads, 0)), b = vreinterpret_s8_s32(vdup_lane_s32(quads, 1));
    int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w[0]), a), vget_low_s8(w[1]), b);
    int16x8_t high = vmlal_s8(vmull_s8(vget_high_s8(w[0]), a), vget_high_s8(w[1]), b);
    return (sums){vpadalq_s16(sum.low, low), vpadalq_s16(sum.high, high)};
}
#endif

INLINE weights of_windows(vec x) {
    fields f = fields_of(x);
    return vreinterpretq_s8_u8(vaddq_u8(vandq_u8(f.lo, vdupq_n_u8(127)), vorrq_u8(f.hi, vdupq_n_u8(128))));
}
INLINE sums add_windows(sums sum, const vec *x, const int8_t *q) {
    weights w[QUADS] = {of_windows(x[0]), of_windows(x[1])};
    return add(sum, w, q);
}

#ifdef __ARM_FEATURE_MATMUL_INT8
#define PAIRS
typedef struct pair_sums {
    int32x4_t low, high; // of lanes 0 and 1, 2 and 3: each lane's product with either row
} pair_sums;
INLINE pair_sums no_pair(void) {
    return (pair_sums){vdupq_n_s32(0), vdupq_n_s32(0)};
}
INLINE pair_sums add_pair(pair_sums sum, const weights *w, const int8_t *q, const int8_t *next) {
    int32x4_t a = vreinterpretq_s32_s8(w[0]), b = vreinterpretq_s32_s8(w[1]);
    int8x16_t rows = vcombine_s8(vld1_s8(q), vld1_s8(next));
    return (pair_sums){vmmlaq_s32(sum.low, vreinterpretq_s8_s32(vzip1q_s32(a, b)), rows),
                       vmmlaq_s32(sum.high, vreinterpretq_s8_s32(vzip2q_s32(a, b)), rows)};
}
INLINE sums first_of(pair_sums sum) {
    return vuzp1q_s32(sum.low, sum.high);
}
INLINE sums second_of(pair_sums sum) {
    return vuzp2q_s32(sum.low, sum.high);
}
#endif

// ---- Sparse blocks

INLINE void look_up(const uint8_t *from, uint8_t *to) {
    const uint8x16_t levels = vaddq_u8(vreinterpretq_u8_s8(vld1q_s8(upg_sparse_level)), vdupq_n_u8(127));
    for (int i = 0; i < 32; i += 16) {
        uint8x16_t x = vld1q_u8(from + i);
        vst1q_u8(to + i, vqtbl1q_u8(levels, vandq_u8(x, vdupq_n_u8(15))));
        vst1q_u8(to + i + 32, vqtbl1q_u8(levels, vshrq_n_u8(x, 4)));
    }
}

INLINE vec expand(const uint8_t *mask, const uint8_t **p) {
    const uint8_t *second = *p + __builtin_popcount(mask[0]);
    uint8x16_t values = vcombine_u8(vld1_u8(*p), vld1_u8(second));
    uint8x16_t at = vcombine_u8(vcreate_u8(places[mask[0]]), vcreate_u8(places_behind[mask[1]]));
    *p = second + __builtin_popcount(mask[1]);
    return vreinterpretq_u32_u8(vqtbl1q_u8(vsubq_u8(values, vdupq_n_u8(127)), at));
}

// ---- Attention

// Sums of one query for four dimensions, each in a vector of its own: words of 16 bits, four positions side by side.
INLINE void some_sums(upg_attention *t, const int16_t *words, const int8_t *v, int i, int d, int from, int to) {
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int j = from; j < to; j += 4) {
        int8x16_t bytes = vld1q_s8(v + ((size_t)(j / 4) * (size_t)t->D + (size_t)d) * 4);
        int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
        int16x4_t w = vld1_s16(words + j);
        sum[0] = vmlal_s16(sum[0], vget_low_s16(low), w);
        sum[1] = vmlal_s16(sum[1], vget_high_s16(low), w);
        sum[2] = vmlal_s16(sum[2], vget_low_s16(high), w);
        sum[3] = vmlal_s16(sum[3], vget_high_s16(high), w);
    }
    vst1q_s32(t->acc[i] + d, vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3])));
}

static void attention_mix(upg_attention *t, const int8_t *v, int from, int to) {
    int16_t words[UPG_KV_BLOCK];
    for (int i = 0; i < t->n; i++) {
        for (int j = from; j < to; j++) words[j] = (int16_t)t->dots[i][j];
        for (int d = 0; d < t->D; d += 4) some_sums(t, words, v, i, d, from, to);
    }
}

#include "backend/cpu/lanes.h"
