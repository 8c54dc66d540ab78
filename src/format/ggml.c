// GGUF's block formats as f32, and the table of them all. Each function turns one block into its values; every product
// and sum is rounded on its own, in the order of ggml's reference code, so values agree bit for bit with the gguf
// Python package.
#include "format/ggml.h"
#include "format/ggml_blocks.h"
#include <string.h>

static void q4_0(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((b[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
    }
}

static void q4_1(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b), m = upg_ggml_f16(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(b[4 + j] & 15) * d + m;
        y[j + 16] = (float)(b[4 + j] >> 4) * d + m;
    }
}

// The fifth bits of value j and j + 16.
static int low5(const uint8_t *q, uint32_t high, int j) {
    return (q[j] & 15) | (int)(high >> j & 1) << 4;
}
static int high5(const uint8_t *q, uint32_t high, int j) {
    return q[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
}

static void q5_0(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    uint32_t high = upg_le32(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(low5(b + 6, high, j) - 16) * d;
        y[j + 16] = (float)(high5(b + 6, high, j) - 16) * d;
    }
}

static void q5_1(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b), m = upg_ggml_f16(b + 2);
    uint32_t high = upg_le32(b + 4);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)low5(b + 8, high, j) * d + m;
        y[j + 16] = (float)high5(b + 8, high, j) * d + m;
    }
}

static void q8_0(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b);
    for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)b[2 + j] * d;
}

static void q2_k(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b + 80), m = upg_ggml_f16(b + 82);
    for (int g = 0; g < 16; g++) {
        const uint8_t *q = b + 16 + g / 8 * 32 + g % 2 * 16;
        int shift = g % 8 / 2 * 2;
        float scale = d * (float)(b[g] & 15), min = m * (float)(b[g] >> 4);
        for (int j = 0; j < 16; j++) y[16 * g + j] = scale * (float)(q[j] >> shift & 3) - min;
    }
}

// Sixteen 6-bit scales in 12 bytes.
static int q3_scale(const uint8_t *s, int i) {
    int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}

static void q3_k(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b + 108);
    for (int g = 0; g < 16; g++) {
        const uint8_t *high = b + g % 2 * 16, *q = b + 32 + g / 8 * 32 + g % 2 * 16;
        int shift = g % 8 / 2 * 2, bit = g / 2;
        float scale = d * (float)q3_scale(b + 96, g);
        for (int j = 0; j < 16; j++)
            y[16 * g + j] = scale * (float)((q[j] >> shift & 3) + 4 * (high[j] >> bit & 1) - 4);
    }
}

// Eight pairs of 6-bit scale and minimum in 12 bytes.
static void q4_scale(const uint8_t *s, int i, int *scale, int *min) {
    *scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
    *min = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
}

// high: the fifth bits, or NULL.
static void q45_k(const uint8_t *b, const uint8_t *high, const uint8_t *q, float *y) {
    float d = upg_ggml_f16(b), dmin = upg_ggml_f16(b + 2);
    for (int g = 0; g < 8; g++) {
        int s, m, shift = g % 2 * 4;
        q4_scale(b + 4, g, &s, &m);
        const uint8_t *low = q + g / 2 * 32;
        float scale = d * (float)s, min = dmin * (float)m;
        for (int j = 0; j < 32; j++) {
            int v = (low[j] >> shift & 15) | (high ? (high[j] >> g & 1) << 4 : 0);
            y[32 * g + j] = scale * (float)v - min;
        }
    }
}
static void q4_k(const uint8_t *b, float *y) {
    q45_k(b, NULL, b + 16, y);
}
static void q5_k(const uint8_t *b, float *y) {
    q45_k(b, b + 16, b + 48, y);
}

static void q6_k(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b + 208);
    for (int g = 0; g < 16; g++) {
        int half = g / 8, part = g % 8 / 2, at = g % 2 * 16;
        const uint8_t *low = b + half * 64 + part % 2 * 32 + at, *high = b + 128 + half * 32 + at;
        float scale = d * (float)(int8_t)b[192 + g];
        for (int j = 0; j < 16; j++) {
            int v = (low[j] >> part / 2 * 4 & 15) | (high[j] >> part * 2 & 3) << 4;
            y[16 * g + j] = scale * (float)(v - 32);
        }
    }
}

// n bytes of base-3 digits, as fractions of 256: digit k of all of them, then digit k + 1.
static float *trits(float d, const uint8_t *q, int n, int digits, float *y) {
    for (uint8_t power = 1; digits--; power = (uint8_t)(power * 3))
        for (int j = 0; j < n; j++) *y++ = d * (float)(((uint8_t)(q[j] * power) * 3 >> 8) - 1);
    return y;
}

static void tq1_0(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b + 52);
    y = trits(d, b, 32, 5, y);
    y = trits(d, b + 32, 16, 5, y);
    trits(d, b + 48, 4, 4, y);
}

static void tq2_0(const uint8_t *b, float *y) {
    float d = upg_ggml_f16(b + 64);
    for (int g = 0; g < 8; g++)
        for (int j = 0; j < 32; j++) y[32 * g + j] = d * (float)((b[g / 4 * 32 + j] >> g % 4 * 2 & 3) - 1);
}

// Twice the values of an E2M1 number; scales are halved in turn.
static const float fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void fp4(float scale, const uint8_t *q, int n, float *y) {
    for (int j = 0; j < n; j++) {
        y[j] = scale * fp4_values[q[j] & 15];
        y[j + n] = scale * fp4_values[q[j] >> 4];
    }
}

static void mxfp4(const uint8_t *b, float *y) {
    uint32_t bits = *b < 2 ? UINT32_C(0x00200000) << *b : (uint32_t)(*b - 1) << 23; // 2^(b - 128)
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    fp4(scale, b + 1, 16, y);
}

// Half of an unsigned E4M3 number. The code of NaN counts as zero, as in ggml.
static float e4m3_half(uint8_t x) {
    int exponent = x >> 3 & 15, fraction = x & 7;
    if (x == 0x7f) return 0;
    if (!exponent) return (float)fraction * 0x1p-10f;
    return (float)(8 + fraction) * (float)(1 << exponent) * 0x1p-11f;
}

static void nvfp4(const uint8_t *b, float *y) {
    for (int g = 0; g < 4; g++) fp4(e4m3_half(b[g]), b + 4 + 8 * g, 8, y + 16 * g);
}

// A type without a function is known by name only.
static const struct block_type {
    uint32_t type; // ggml_type
    const char *name;
    int values, bytes;
    void (*floats)(const uint8_t *block, float *y);
} types[] = {
    {2, "Q4_0", 32, 18, q4_0},
    {3, "Q4_1", 32, 20, q4_1},
    {4, "Q4_2", 0, 0, NULL},
    {5, "Q4_3", 0, 0, NULL},
    {6, "Q5_0", 32, 22, q5_0},
    {7, "Q5_1", 32, 24, q5_1},
    {8, "Q8_0", 32, 34, q8_0},
    {9, "Q8_1", 0, 0, NULL},
    {10, "Q2_K", 256, 84, q2_k},
    {11, "Q3_K", 256, 110, q3_k},
    {12, "Q4_K", 256, 144, q4_k},
    {13, "Q5_K", 256, 176, q5_k},
    {14, "Q6_K", 256, 210, q6_k},
    {15, "Q8_K", 0, 0, NULL},
    {16, "IQ2_XXS", 256, 66, upg_ggml_iq2_xxs},
    {17, "IQ2_XS", 256, 74, upg_ggml_iq2_xs},
    {18, "IQ3_XXS", 256, 98, upg_ggml_iq3_xxs},
    {19, "IQ1_S", 256, 50, upg_ggml_iq1_s},
    {20, "IQ4_NL", 32, 18, upg_ggml_iq4_nl},
    {21, "IQ3_S", 256, 110, upg_ggml_iq3_s},
    {22, "IQ2_S", 256, 82, upg_ggml_iq2_s},
    {23, "IQ4_XS", 256, 136, upg_ggml_iq4_xs},
    {24, "I8", 0, 0, NULL},
    {25, "I16", 0, 0, NULL},
    {26, "I32", 0, 0, NULL},
    {27, "I64", 0, 0, NULL},
    {28, "F64", 0, 0, NULL},
    {29, "IQ1_M", 256, 56, upg_ggml_iq1_m},
    {31, "Q4_0_4_4", 0, 0, NULL},
    {32, "Q4_0_4_8", 0, 0, NULL},
    {33, "Q4_0_8_8", 0, 0, NULL},
    {34, "TQ1_0", 256, 54, tq1_0},
    {35, "TQ2_0", 256, 66, tq2_0},
    {36, "IQ4_NL_4_4", 0, 0, NULL},
    {37, "IQ4_NL_4_8", 0, 0, NULL},
    {38, "IQ4_NL_8_8", 0, 0, NULL},
    {39, "MXFP4", 32, 17, mxfp4},
    {40, "NVFP4", 64, 36, nvfp4},
    {41, "Q1_0", 0, 0, NULL},
};

static const struct block_type *find(uint32_t type) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type) return &types[i];
    return NULL;
}

bool upg_ggml_type(uint32_t type, int *block_values, int *block_bytes) {
    const struct block_type *t = find(type);
    if (!t || !t->floats) return false;
    *block_values = t->values;
    *block_bytes = t->bytes;
    return true;
}

const char *upg_ggml_name(uint32_t type) {
    const struct block_type *t = find(type);
    return t ? t->name : NULL;
}

void upg_ggml_floats(uint32_t type, const uint8_t *data, int64_t first, int64_t n, float *out) {
    const struct block_type *t = find(type);
    const uint8_t *b = data + first / t->values * t->bytes;
    for (int64_t i = 0; i < n; i += t->values, b += t->bytes) t->floats(b, out + i);
}
