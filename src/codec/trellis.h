// The trellis code T: the bit-shift trellis of QTIP (arXiv 2406.11235), with a code computed by one integer multiply.
//
// A 16x16 tile (16 output rows x 16 input columns, row-major) is 128 steps of 2 weights. S = 2K bits a step, K bits a
// weight, S in 4..8. A tile is a circular little-endian bit string of 128*S bits = 4*S words: step i reads the 16-bit
// window starting at bit S*i (first bit least significant). So window(i+1) = window(i) >> S | fresh bits << (16-S), and
// the last wraps round to the first.
#pragma once
#include "base/base.h"

enum { UPG_TRELLIS_STEPS = 128, UPG_TRELLIS_MIN_S = 4, UPG_TRELLIS_MAX_S = 8 };
#define UPG_TRELLIS_MULTIPLIER 0x517be2a9u
#define UPG_TRELLIS_STD        52.258351857343186 // standard deviation of the codebook over all 65536 windows

static inline int upg_trellis_words(int s) {
    return 4 * s;
} // 32-bit words in a tile

// The window of step i of a tile whose words are `stride` apart.
static inline uint32_t upg_trellis_window(const uint32_t *tile, size_t stride, int s, int i) {
    int bit = s * i, word = bit >> 5, shift = bit & 31, n = upg_trellis_words(s);
    uint32_t lo = tile[(size_t)word * stride] >> shift;
    uint32_t hi = shift > 16 ? tile[(size_t)((word + 1) % n) * stride] << (32 - shift) : 0;
    return (lo | hi) & 0xffff;
}

// The two weights of a window, each in -127..127.
static inline void upg_trellis_weights(uint32_t window, int8_t w[2]) {
    uint32_t p = window * UPG_TRELLIS_MULTIPLIER;
    w[0] = (int8_t)((int)((p & 127) + (p >> 16 & 127)) - 127);
    w[1] = (int8_t)((int)((p >> 8 & 127) + (p >> 24 & 127)) - 127);
}
