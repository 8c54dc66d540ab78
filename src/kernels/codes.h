// Reading coded matrices in the order of the file: docs/arithmetic.md, section 3; codec/panel.h.
#pragma once
#include "kernels/args.h"
#include "kernels/port.h"

enum { CODED_INT8 = 3, CODED_TRELLIS = 4, CODED_SPARSE = 5 }; // upg_encoding

// Where step `step` of superband sb begins, in words; words: of a step and a band.
FN uint64_t panel_at(const gpu_matrix *w, uint32_t words, uint32_t sb, uint32_t step, uint32_t nb) {
    return ((uint64_t)sb * (w->cols / 16) * 16 + (uint64_t)step * nb) * words;
}
FN uint32_t bands_of(const gpu_matrix *w, uint32_t sb) {
    const uint32_t left = (w->rows + 15) / 16 - sb * 16;
    return left < 16 ? left : 16;
}

// The two weights of a window, plus 127 each, in two bytes.
FN uint32_t trellis_pair(uint32_t window) {
    const uint32_t p = window * 0x517be2a9u & 0x7f7f7f7f;
    return (p + (p >> 16)) & 0xffff;
}

// Row r of a band, one step of 16 columns: weights + 127, four in a word.
FN void coded_16(const gpu_matrix *w, GLOBAL const uint32_t *data, uint32_t sb, uint32_t step, uint32_t band,
                 uint32_t r, uint32_t *out) {
    const uint32_t nb = bands_of(w, sb);
    if (w->encoding == CODED_INT8) {
        GLOBAL const uint32_t *p = data + panel_at(w, 64, sb, step, nb) + band;
        for (uint32_t i = 0; i < 4; i++) out[i] = p[(r * 4 + i) * nb];
        return;
    }
    const uint32_t s = w->s, words = 4 * s;
    GLOBAL const uint32_t *p = data + panel_at(w, words, sb, step, nb) + band;
    uint32_t word = s * 8 * r / 32, shift = s * 8 * r % 32, low = p[word * nb];
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t next = word + 1 == words ? 0 : word + 1;
        uint32_t window = low >> shift, high = 0;
        if (shift > 16 || (i < 7 && shift + s >= 32)) high = p[next * nb];
        if (shift > 16) window |= high << (32 - shift);
        const uint32_t pair = trellis_pair(window & 0xffff);
        out[i / 2] = i % 2 ? out[i / 2] | pair << 16 : pair;
        shift += s;
        if (shift >= 32) {
            shift -= 32;
            word = next;
            low = high;
        }
    }
}

// ---- Sparse blocks (codec/sparse.h)

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
