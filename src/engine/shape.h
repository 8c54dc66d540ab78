// Models of a known shape with random weights, made in memory: speed does not depend on what the weights say, so it can
// be measured without a file of many gigabytes.
#pragma once
#include "engine/model.h"

typedef struct upg_shape {
    const char *name, *architecture;
    bool fused; // q, k, v are one matrix, and so are gate and up
    bool tied;
    int hidden, ffn, layers, heads, kv_heads, head_dim, vocabulary, context;
    double rope_theta, rotary; // rotary: part of a head that turns
} upg_shape;

const upg_shape *upg_shape_find(const char *name); // or NULL
// Those of the table in shape.c.
#define UPG_SHAPE_NAMES "phi-4, phi-4-mini, llama-3-8b, mistral-7b, smollm2-135m, qwen2.5-0.5b, qwen3-0.6b"

// A compressed model of that shape with random codes and unit norms. layers: how many of its layers, 0 for all; the
// encodings are those of the whole model. layer_bits: of the layers' matrices (2, 2.5, 3, 3.5, 4, 8 for int8), or 0 for
// the most that `bits` allows. bits: a weight of all matrices may have, row scales not counted; what the layers leave
// goes to the head, then to the embedding, which have at least 4 and 3 (one matrix for both: int8).
upg_model *upg_model_of_shape(const upg_shape *shape, int layers, double layer_bits, double bits, upg_error *e);
