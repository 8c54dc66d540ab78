// Block formats by file: what ggml.c's table takes from ggml_iq.c. Each turns one block into its values.
#pragma once
#include "format/weights.h"

static inline float upg_ggml_f16(const uint8_t *p) {
    return upg_f16(upg_le16(p));
}

void upg_ggml_iq1_s(const uint8_t *b, float *y);
void upg_ggml_iq1_m(const uint8_t *b, float *y);
void upg_ggml_iq2_xxs(const uint8_t *b, float *y);
void upg_ggml_iq2_xs(const uint8_t *b, float *y);
void upg_ggml_iq2_s(const uint8_t *b, float *y);
void upg_ggml_iq3_xxs(const uint8_t *b, float *y);
void upg_ggml_iq3_s(const uint8_t *b, float *y);
void upg_ggml_iq4_nl(const uint8_t *b, float *y);
void upg_ggml_iq4_xs(const uint8_t *b, float *y);
