// Writing, reading and checking sparse blocks, plainly. The kernels of backend/cpu are the fast readers.
#include "codec/sparse.h"
#include <string.h>

void upg_sparse_pack(const uint8_t *codes, const uint8_t *keep, size_t stride, int nb, int b, int bits,
                     uint8_t *block) {
    size_t n_values = upg_sparse_values(nb, b), at = 0;
    uint8_t *masks = block + n_values * (size_t)bits / 8;
    memset(block, 0, upg_sparse_block_bytes(nb, b, bits));
    for (int r = 0; r < 16; r++)
        for (int quad = 0; quad < b / 4; quad++, masks += 8)
            for (int bit = 0; bit < 4 * nb; bit++) {
                size_t from = (size_t)(bit / 4 * 16 + r) * stride + (size_t)(4 * quad + bit % 4);
                if (!keep[from] || at == n_values) continue;
                masks[bit / 8] |= (uint8_t)(1 << bit % 8);
                if (bits == 8)
                    block[at] = codes[from];
                else
                    block[at / 64 * 32 + at % 32] |= (uint8_t)(codes[from] << (at % 64 / 32 * 4));
                at++;
            }
}

void upg_sparse_row(const uint8_t *data, int64_t rows, int64_t cols, int bits, int64_t r, int64_t g, int8_t *out) {
    int64_t sb = r / 256;
    int b = upg_block(upg_pad16(cols)), nb = upg_superband_bands(rows, sb), band = (int)(r % 256) / 16;
    size_t quads = (size_t)b / 4, row = (size_t)(r % 16), at = 0, n_values = upg_sparse_values(nb, b);
    const uint8_t *values = data + upg_sparse_offset(rows, cols, bits, sb, g),
                  *masks = values + n_values * (size_t)bits / 8;
    for (size_t word = 0; word < row * quads; word++) at += (size_t)__builtin_popcountll(upg_sparse_mask(masks, word));
    for (size_t quad = 0; quad < quads; quad++) {
        uint64_t m = upg_sparse_mask(masks, row * quads + quad);
        size_t here = at + (size_t)__builtin_popcountll(m & (((uint64_t)1 << 4 * band) - 1));
        for (int c = 0; c < 4; c++) {
            bool kept = m >> (4 * band + c) & 1 && here < n_values;
            out[4 * quad + (size_t)c] = kept ? (int8_t)(upg_sparse_value(values, bits, here) - 127) : 0;
            here += kept;
        }
        at += (size_t)__builtin_popcountll(m);
    }
}

bool upg_sparse_is_valid(const uint8_t *data, int64_t rows, int64_t cols, int bits) {
    int64_t n = upg_pad16(cols);
    int b = upg_block(n);
    for (int64_t sb = 0; sb * 256 < rows; sb++) {
        int nb = upg_superband_bands(rows, sb);
        size_t n_values = upg_sparse_values(nb, b), bytes = n_values * (size_t)bits / 8;
        for (int64_t g = 0; g < n / b; g++) {
            const uint8_t *block = data + upg_sparse_offset(rows, cols, bits, sb, g);
            uint64_t set = 0, outside = 0;
            for (size_t word = 0; word < (size_t)b * 4; word++) {
                uint64_t m = upg_sparse_mask(block + bytes, word);
                set += (uint64_t)__builtin_popcountll(m);
                outside |= nb < 16 ? m >> 4 * nb : 0;
            }
            if (set != n_values || outside || (bits == 8 && memchr(block, 255, bytes))) return false;
        }
    }
    return true;
}
