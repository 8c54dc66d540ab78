// GGUF's IQ blocks: values are magnitudes found by index in a published grid of lattice points (ggml_grids.h), or in a
// list of sixteen (IQ4), times a scale; signs are stored apart. Products are rounded in the order of ggml's reference.
#include "format/ggml_blocks.h"
#include "format/ggml_grids.h"

// The 8 signs that a 7-bit code stands for: its bits, and one more that makes their number even.
static uint8_t even_signs(uint32_t code) {
    uint32_t c = code & 127, odd = c ^ c >> 4;
    odd ^= odd >> 2;
    return (uint8_t)(c | ((odd ^ odd >> 1) & 1) << 7);
}

static void point8(float scale, uint16_t point, uint8_t signs, float *y) {
    static const float magnitudes[4] = {8, 25, 43, 0};
    for (int j = 0; j < 8; j++) {
        float v = scale * magnitudes[point >> 2 * j & 3];
        y[j] = signs >> j & 1 ? -v : v;
    }
}

static void point4(float scale, const float magnitudes[8], uint16_t point, uint8_t signs, float *y) {
    for (int j = 0; j < 4; j++) {
        float v = scale * magnitudes[point >> 4 * j & 7];
        y[j] = signs >> j & 1 ? -v : v;
    }
}

void upg_ggml_iq2_xxs(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = b + 2 + 8 * g;
        uint32_t tail = upg_le32(q + 4);
        float scale = d * (0.5f + (float)(tail >> 28)) * 0.25f;
        for (int k = 0; k < 4; k++) point8(scale, iq2_xxs_grid[q[k]], even_signs(tail >> 7 * k), y + 32 * g + 8 * k);
    }
}

void upg_ggml_iq2_xs(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    for (int k = 0; k < 32; k++) {
        uint16_t q = upg_le16(b + 2 + 2 * k);
        float scale = d * (0.5f + (float)(b[66 + k / 4] >> k / 2 % 2 * 4 & 15)) * 0.25f;
        point8(scale, iq2_xs_grid[q & 511], even_signs(q >> 9), y + 8 * k);
    }
}

void upg_ggml_iq2_s(const uint8_t *b, float *y) {
    const uint8_t *q = b + 2, *signs = b + 34, *high = b + 66, *scales = b + 74;
    float d = upg_ggml_f16(b);
    for (int k = 0; k < 32; k++) {
        float scale = d * (0.5f + (float)(scales[k / 4] >> k / 2 % 2 * 4 & 15)) * 0.25f;
        point8(scale, iq2_s_grid[q[k] | (high[k / 4] >> k % 4 * 2 & 3) << 8], signs[k], y + 8 * k);
    }
}

void upg_ggml_iq3_xxs(const uint8_t *b, float *y) {
    static const float magnitudes[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    float d = upg_ggml_f16(b);
    for (int g = 0; g < 8; g++) {
        uint32_t tail = upg_le32(b + 66 + 4 * g);
        float scale = d * (0.5f + (float)(tail >> 28)) * 0.5f;
        for (int k = 0; k < 8; k++) {
            uint8_t signs = even_signs(tail >> 7 * (k / 2));
            point4(scale, magnitudes, iq3_xxs_grid[b[2 + 8 * g + k]], signs >> k % 2 * 4 & 15, y + 32 * g + 4 * k);
        }
    }
}

void upg_ggml_iq3_s(const uint8_t *b, float *y) {
    static const float magnitudes[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    const uint8_t *q = b + 2, *high = b + 66, *signs = b + 74, *scales = b + 106;
    float d = upg_ggml_f16(b);
    for (int k = 0; k < 64; k++) {
        float scale = d * (float)(1 + 2 * (scales[k / 16] >> k / 8 % 2 * 4 & 15));
        uint16_t point = iq3_s_grid[q[k] | (high[k / 8] >> k % 8 & 1) << 8];
        point4(scale, magnitudes, point, signs[k / 2] >> k % 2 * 4 & 15, y + 4 * k);
    }
}

// A point of -1, 0 and 1, moved by an eighth.
static void point1(float scale, uint16_t point, bool down, float *y) {
    float delta = down ? -0.125f : 0.125f;
    for (int j = 0; j < 8; j++) y[j] = scale * ((float)((point >> 2 * j & 3) - 1) + delta);
}

void upg_ggml_iq1_s(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = b + 2 + 4 * g;
        uint32_t high = upg_le16(b + 34 + 2 * g);
        float scale = d * (float)(2 * (high >> 12 & 7) + 1);
        for (int k = 0; k < 4; k++)
            point1(scale, iq1_s_grid[q[k] | (high >> 3 * k & 7) << 8], high >> 15, y + 32 * g + 8 * k);
    }
}

// The block's f16 scale lies in the upper four bits of its four words of 3-bit scales.
void upg_ggml_iq1_m(const uint8_t *b, float *y) {
    const uint8_t *q = b, *high = b + 32, *scales = b + 48;
    uint32_t half = 0;
    for (int i = 0; i < 4; i++) half |= (uint32_t)(scales[2 * i + 1] >> 4) << 4 * i;
    float d = upg_f16((uint16_t)half);
    for (int k = 0; k < 32; k++) {
        uint32_t extra = high[k / 2] >> k % 2 * 4 & 15, s = upg_le16(scales + k / 8 * 2) >> k / 2 % 4 * 3 & 7;
        point1(d * (float)(2 * s + 1), iq1_s_grid[q[k] | (extra & 7) << 8], extra & 8, y + 8 * k);
    }
}

static const float iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void sixteen_pairs(float scale, const uint8_t *q, float *y) {
    for (int j = 0; j < 16; j++) {
        y[j] = scale * iq4_values[q[j] & 15];
        y[j + 16] = scale * iq4_values[q[j] >> 4];
    }
}

void upg_ggml_iq4_nl(const uint8_t *b, float *y) {
    sixteen_pairs(upg_ggml_f16(b), b + 2, y);
}

void upg_ggml_iq4_xs(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    uint16_t high = upg_le16(b + 2);
    for (int g = 0; g < 8; g++) {
        int scale = (b[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4;
        sixteen_pairs(d * (float)(scale - 32), b + 8 + 16 * g, y + 32 * g);
    }
}
