// The sparse encoding: an int8 panel (codec/panel.h) from which half of the weights are left out.
//
// A block is a superband by one group of b = block(n) columns: up to 256 x 256 weights, of which exactly half are kept,
// whichever they are. So every block's place follows from the shape alone and no offsets are stored. A block is
//   values: 8*nb*b codes, in the order of the masks' set bits: bytes w+127, or 4-bit numbers of levels below
//   masks:  [16 rows][b/4 quads] 64-bit words; bit 4*band + c of word (r, quad) stands for row r of the band, column
//           4*quad + c of the group; bits of bands that a narrow superband has not got are zero
// A mask and the values it takes expand to 64 bytes of 16 bands, what the int8 kernels multiply.
//
// Masks are a file's word, and may claim more values than there are. A kernel walks the values row by row (16 a
// block): it sets its place back to the end of the values where it passed it, once a row. So it reads at most 16*b + 64
// bytes too far, which are masks (32*b bytes) and the 64 bytes that follow every tensor.
#pragma once
#include "codec/panel.h"

enum {
    UPG_SPARSE_VALUES = 32768,     // most values in a block
    UPG_SPARSE_OVERRUN = 4096 + 64 // bytes read beyond a block's values at most
};

// What the 4-bit numbers stand for: the Lloyd-Max levels of a Gaussian's larger half, in units of the row's scale.
static const int8_t upg_sparse_level[16] = {32, 41, 50, 60, 71, 84, 101, 127, -32, -41, -50, -60, -71, -84, -101, -127};

// Values of a block of nb bands and groups of b columns.
static inline size_t upg_sparse_values(int nb, int b) {
    return (size_t)nb * 8 * (size_t)b;
}
// bits: of a value, 4 or 8.
static inline size_t upg_sparse_block_bytes(int nb, int b, int bits) {
    return upg_sparse_values(nb, b) * (size_t)bits / 8 + (size_t)b * 32;
}
// Byte offset of superband sb, group g.
static inline size_t upg_sparse_offset(int64_t rows, int64_t cols, int bits, int64_t sb, int64_t g) {
    int64_t n = upg_pad16(cols);
    int b = upg_block(n);
    return (size_t)sb * (size_t)(n / b) * upg_sparse_block_bytes(16, b, bits) +
           (size_t)g * upg_sparse_block_bytes(upg_superband_bands(rows, sb), b, bits);
}
static inline size_t upg_sparse_bytes(int64_t rows, int64_t cols, int bits) {
    int64_t n = upg_pad16(cols), last = (rows - 1) / 256;
    return upg_sparse_offset(rows, cols, bits, last, n / upg_block(n));
}
// Value i of a block's values as a byte w+127. Of 4-bit values 64 lie in 32 bytes, the first 32 in the low halves.
static inline uint8_t upg_sparse_value(const uint8_t *values, int bits, size_t i) {
    if (bits == 8) return values[i];
    return (uint8_t)(upg_sparse_level[values[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15] + 127);
}
static inline uint64_t upg_sparse_mask(const uint8_t *masks, size_t word) {
    uint64_t m = 0;
    for (int i = 0; i < 8; i++) m |= (uint64_t)masks[8 * word + (size_t)i] << 8 * i;
    return m;
}

// One block from the rows of its superband: codes (w+127, or numbers of levels) and keep (0 or 1) are [16*nb][stride],
// at the group's first column. Exactly half of keep is set.
void upg_sparse_pack(const uint8_t *codes, const uint8_t *keep, size_t stride, int nb, int b, int bits, uint8_t *block);
// Row r of group g of a matrix: [b] weights.
void upg_sparse_row(const uint8_t *data, int64_t rows, int64_t cols, int bits, int64_t r, int64_t g, int8_t *out);
// Every block half full, no bit for a band that is not there, no byte 255.
bool upg_sparse_is_valid(const uint8_t *data, int64_t rows, int64_t cols, int bits);
