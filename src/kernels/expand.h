// A sparse matrix becomes an int8 one: docs/arithmetic.md, section 3; codec/sparse.h. Half of what it then holds is
// zeros, and still it is multiplied several times as fast as its masks could be followed.
#pragma once
#include "kernels/codes.h"

FN uint32_t sparse_values(uint32_t nb, uint32_t b) {
    return nb * 8 * b;
}
FN GLOBAL const uint8_t *sparse_block(const gpu_matrix *w, GLOBAL const uint8_t *data, uint32_t sb, uint32_t g) {
    const uint32_t nb = bands_of(w, sb), masks = w->b * 32;
    return data + (uint64_t)sb * (w->cols / w->b) * (sparse_values(16, w->b) * w->s / 8 + masks) +
           (uint64_t)g * (sparse_values(nb, w->b) * w->s / 8 + masks);
}
FN uint64_t sparse_mask(GLOBAL const uint8_t *masks, uint32_t word) {
    GLOBAL const uint32_t *m = (GLOBAL const uint32_t *)(GLOBAL const void *)masks + 2 * word;
    return (uint64_t)m[1] << 32 | m[0];
}
// Value i as a byte w+127.
FN uint32_t sparse_value(GLOBAL const uint8_t *values, uint32_t bits, uint32_t i) {
    if (bits == 8) return values[i];
    const uint32_t code = values[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    // 32, 41, 50, 60, 71, 84, 101, 127
    const uint32_t level = (code & 4 ? 0x7f655447u : 0x3c322920u) >> 8 * (code & 3) & 255;
    return code & 8 ? 127 - level : 127 + level;
}
// The four weights of word (r, quad) that belong to a band, `before` values into the block.
FN uint32_t sparse_quad(GLOBAL const uint8_t *values, uint32_t bits, uint32_t n_values, uint64_t mask, uint32_t band,
                        uint32_t before) {
    uint32_t at = before + bits_set(mask & (((uint64_t)1 << 4 * band) - 1)), out = 0;
    for (uint32_t c = 0; c < 4; c++) {
        uint32_t v = 127;
        if (mask >> (4 * band + c) & 1) {
            if (at < n_values) v = sparse_value(values, bits, at);
            at++;
        }
        out |= v << 8 * c;
    }
    return out;
}

// before[w] = the values of a sparse block that come before mask word w, for its n words.
FN void sparse_places(GLOBAL const uint8_t *masks, uint32_t n, LOCAL uint32_t *before, LOCAL uint32_t *sums) {
    const uint32_t each = (n + 255) / 256;
    LANES(j) {
        uint32_t sum = 0;
        for (uint32_t i = j * each; i < (j + 1) * each && i < n; i++) sum += bits_set(sparse_mask(masks, i));
        sums[j] = sum;
    }
    for (uint32_t h = 1, from = 0; h < 256; h *= 2, from ^= 256)
        LANES(j) sums[(from ^ 256) + j] = sums[from + j] + (j >= h ? sums[from + j - h] : 0);
    LANES(j) { // after 8 steps the sums are back in the first half
        uint32_t sum = j ? sums[j - 1] : 0;
        for (uint32_t i = j * each; i < (j + 1) * each && i < n; i++) {
            before[i] = sum;
            sum += bits_set(sparse_mask(masks, i));
        }
    }
}

// From `weight` in the order of the file to `kv`, int8 in that order. A group takes a superband's group of columns, a
// lane one row.
KERNEL(kernel_expand, gpu_matrix, GROUP_LANES) {
    (void)work;
    const uint32_t sb = GROUP_X, g = GROUP_Y, b = a->b, nb = bands_of(a, sb), n_values = sparse_values(nb, b);
    GLOBAL const uint8_t *values = sparse_block(a, weight, sb, g), *masks = values + n_values * a->s / 8;
    GLOBAL uint32_t *to = (GLOBAL uint32_t *)(GLOBAL void *)kv + panel_at(a, 64, sb, g * (b / 16), nb);
    SHARED(uint32_t, before, 1024);
    SHARED(uint32_t, sums, 512);
    sparse_places(masks, 16 * (b / 4), before, sums);
    LANES(j) {
        const uint32_t band = j % 16, r = j / 16;
        for (uint32_t quad = 0; band < nb && quad < b / 4; quad++) {
            const uint32_t word = r * (b / 4) + quad;
            to[(quad / 4 * 64 + r * 4 + quad % 4) * nb + band] =
                sparse_quad(values, a->s, n_values, sparse_mask(masks, word), band, before[word]);
        }
    }
}
