// Reading trellis and int8 matrices in the order of the file: docs/arithmetic.md, section 3; codec/panel.h.
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

#define TRELLIS_MULTIPLIER 0x517be2a9u // codec/trellis.h
// The two weights of a window, plus 127 each, in two bytes.
FN uint32_t trellis_pair(uint32_t window) {
    const uint32_t p = window * TRELLIS_MULTIPLIER & 0x7f7f7f7f;
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
