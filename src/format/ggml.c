// GGUF's block formats as f32. Each function turns one block into its values; every product and sum is rounded on its
// own, in the order of ggml's reference code, so values agree bit for bit with the gguf Python package.
#include "format/ggml.h"
#include "format/weights.h"
#include <string.h>

static float f16(const uint8_t *p) {
    return upg_f16(upg_le16(p));
}

static void q4_0(const uint8_t *b, float *y) {
    float d = f16(b);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((b[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
    }
}

static void q4_1(const uint8_t *b, float *y) {
    float d = f16(b), m = f16(b + 2);
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
    float d = f16(b);
    uint32_t high = upg_le32(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(low5(b + 6, high, j) - 16) * d;
        y[j + 16] = (float)(high5(b + 6, high, j) - 16) * d;
    }
}

static void q5_1(const uint8_t *b, float *y) {
    float d = f16(b), m = f16(b + 2);
    uint32_t high = upg_le32(b + 4);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)low5(b + 8, high, j) * d + m;
        y[j + 16] = (float)high5(b + 8, high, j) * d + m;
    }
}

static void q8_0(const uint8_t *b, float *y) {
    float d = f16(b);
    for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)b[2 + j] * d;
}

static void q2_k(const uint8_t *b, float *y) {
    const uint8_t *scales = b, *q = b + 16;
    float d = f16(b + 80), m = f16(b + 82);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, shift = i % 128 / 32 * 2, group = i / 16;
        int v = q[half * 32 + i % 32] >> shift & 3;
        y[i] = d * (float)(scales[group] & 15) * (float)v - m * (float)(scales[group] >> 4);
    }
}

// Sixteen 6-bit scales in 12 bytes.
static int q3_scale(const uint8_t *s, int i) {
    int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}

static void q3_k(const uint8_t *b, float *y) {
    const uint8_t *high = b, *q = b + 32, *scales = b + 96;
    float d = f16(b + 108);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, part = i % 128 / 32;
        int v = (q[half * 32 + i % 32] >> (part * 2) & 3) - (high[i % 32] >> (half * 4 + part) & 1 ? 0 : 4);
        y[i] = d * (float)q3_scale(scales, i / 16) * (float)v;
    }
}

// Eight pairs of 6-bit scale and minimum in 12 bytes.
static void q4_scale(const uint8_t *s, int i, int *scale, int *min) {
    *scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
    *min = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4;
}

static void q45_k(const uint8_t *b, float *y, bool five) {
    const uint8_t *scales = b + 4, *high = b + 16, *q = five ? b + 48 : b + 16;
    float d = f16(b), dmin = f16(b + 2);
    for (int i = 0; i < 256; i++) {
        int group = i / 32, scale, min;
        q4_scale(scales, group, &scale, &min);
        uint8_t byte = q[i / 64 * 32 + i % 32];
        int v = group % 2 ? byte >> 4 : byte & 15;
        if (five) v += (high[i % 32] >> group & 1) << 4;
        y[i] = d * (float)scale * (float)v - dmin * (float)min;
    }
}
static void q4_k(const uint8_t *b, float *y) {
    q45_k(b, y, false);
}
static void q5_k(const uint8_t *b, float *y) {
    q45_k(b, y, true);
}

static void q6_k(const uint8_t *b, float *y) {
    const uint8_t *low = b, *high = b + 128;
    float d = f16(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, part = i % 128 / 32, l = i % 32;
        uint8_t byte = low[half * 64 + part % 2 * 32 + l];
        int v = (part < 2 ? byte & 15 : byte >> 4) | (high[half * 32 + l] >> (part * 2) & 3) << 4;
        y[i] = d * (float)(int8_t)b[192 + i / 16] * (float)(v - 32);
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl(const uint8_t *b, float *y) {
    float d = f16(b);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)iq4_values[b[2 + j] & 15];
        y[j + 16] = d * (float)iq4_values[b[2 + j] >> 4];
    }
}

static void iq4_xs(const uint8_t *b, float *y) {
    float d = f16(b);
    uint16_t high = upg_le16(b + 2);
    for (int i = 0; i < 256; i++) {
        int group = i / 32, scale = (b[4 + group / 2] >> (group % 2 * 4) & 15) | (high >> (2 * group) & 3) << 4;
        uint8_t byte = b[8 + group * 16 + i % 16];
        y[i] = d * (float)(scale - 32) * (float)iq4_values[i % 32 < 16 ? byte & 15 : byte >> 4];
    }
}

static const struct block_type {
    uint32_t type; // ggml_type
    const char *name;
    int values, bytes;
    void (*floats)(const uint8_t *block, float *y);
} types[] = {
    {2, "Q4_0", 32, 18, q4_0},    {3, "Q4_1", 32, 20, q4_1},      {6, "Q5_0", 32, 22, q5_0},
    {7, "Q5_1", 32, 24, q5_1},    {8, "Q8_0", 32, 34, q8_0},      {10, "Q2_K", 256, 84, q2_k},
    {11, "Q3_K", 256, 110, q3_k}, {12, "Q4_K", 256, 144, q4_k},   {13, "Q5_K", 256, 176, q5_k},
    {14, "Q6_K", 256, 210, q6_k}, {20, "IQ4_NL", 32, 18, iq4_nl}, {23, "IQ4_XS", 256, 136, iq4_xs},
};

static const struct block_type *find(uint32_t type) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type) return &types[i];
    return NULL;
}

bool upg_ggml_type(uint32_t type, int *block_values, int *block_bytes, const char **name) {
    const struct block_type *t = find(type);
    if (!t) return false;
    *block_values = t->values;
    *block_bytes = t->bytes;
    if (name) *name = t->name;
    return true;
}

void upg_ggml_floats(uint32_t type, const uint8_t *data, int64_t first, int64_t n, float *out) {
    const struct block_type *t = find(type);
    const uint8_t *b = data + first / t->values * t->bytes;
    for (int64_t i = 0; i < n; i += t->values, b += t->bytes) t->floats(b, out + i);
}
