// The memory order of coded matrices, shared by the file, every CPU kernel and the GPUs.
//
// A matrix is padded to multiples of 16 rows and 16 columns. 16 rows are a band; 16 bands (256 rows) a superband; the
// last superband has nb = 1..16 bands. Superbands follow one another; inside one, the 16-column steps follow one
// another. What a step holds lies in words of 4 bytes with the same word of all nb bands adjacent: a SIMD lane or GPU
// thread owns a band, so activations are the same for all lanes.
//   trellis: word k of the 4*S words of the band's tile             -> word index k*nb + band
//   int8:    4 weights of row r, columns 4q..4q+3, as w+127 (0..254) -> word index (r*4 + q)*nb + band
// So an int8 step is what a trellis step decodes to, and both run through the same kernel.
#pragma once
#include "base/base.h"

// block(n) of docs/arithmetic.md: the largest power of two that divides n, at most 256.
static inline int upg_block(int64_t n) {
    int64_t b = n & -n;
    return b < 256 ? (int)b : 256;
}
static inline int64_t upg_pad16(int64_t n) {
    return (n + 15) & ~(int64_t)15;
}
// Bands in superband sb of a matrix of `rows` rows.
static inline int upg_superband_bands(int64_t rows, int64_t sb) {
    int64_t left = upg_pad16(rows) / 16 - sb * 16;
    return left < 16 ? (int)left : 16;
}
// Byte offset of superband sb, column step `step`; words_per_step is 64 for int8 and 4*S for the trellis.
static inline size_t upg_panel_offset(int64_t rows, int64_t cols, int words_per_step, int64_t sb, int64_t step) {
    size_t steps = (size_t)upg_pad16(cols) / 16, nb = (size_t)upg_superband_bands(rows, sb);
    return ((size_t)sb * 16 * steps + (size_t)step * nb) * (size_t)words_per_step * 4;
}
