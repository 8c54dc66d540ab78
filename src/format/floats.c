// F32, F16 and BF16 elements as f32, at any alignment. The conversions are exact.
#include "format/ggml.h"
#include "format/weights.h"
#include <string.h>

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float upg_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float x = (float)fraction * 0x1p-24f; // zero or denormal
    return sign ? -x : x;
}

static void stored_floats(const upg_tensor *t, int64_t first, int64_t n, float *out) {
    if (t->encoding == UPG_GGML) {
        upg_ggml_floats(t->ggml_type, t->data, first, n, out);
        return;
    }
    if (t->encoding == UPG_F32) {
        memcpy(out, t->data + first * 4, (size_t)n * 4);
        return;
    }
    const uint8_t *p = t->data + first * 2;
    if (t->encoding == UPG_BF16)
        for (int64_t i = 0; i < n; i++) out[i] = from_bits((uint32_t)upg_le16(p + 2 * i) << 16);
    else
        for (int64_t i = 0; i < n; i++) out[i] = upg_f16(upg_le16(p + 2 * i));
}

// Row r of the halves order is row j of the pairs order: pair r of a head's first half is its row 2r, of the second 2r
// + 1. dim: rows of a head.
static int64_t paired_row(int64_t dim, int64_t r) {
    int64_t in_head = r % dim, half = dim / 2;
    return r - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

void upg_tensor_floats(const upg_tensor *t, int64_t first, int64_t n, float *out) {
    if (!t->rope_heads) {
        stored_floats(t, first, n, out);
        return;
    }
    int64_t rows = t->rows, cols = t->cols;
    if (rows == 1) { // a bias: its values are what a matrix's rows are
        rows = cols;
        cols = 1;
    }
    for (int64_t r = 0; r < n / cols; r++)
        stored_floats(t, paired_row(rows / t->rope_heads, first / cols + r) * cols, cols, out + r * cols);
}
