// Choosing which half of a matrix's weights a sparse one keeps, and their values (codec/sparse.h).
#pragma once
#include "compress/feedback.h"

// The rows of one superband. Choosing fills codes, keep, decoded and scale.
typedef struct upg_sparse_rows {
    int rows, n, b, bits;         // rows a multiple of 16; n columns in groups of b; bits of a value
    const upg_feedback *feedback; // or NULL: the largest weights are kept
    const float *target;          // [rows][n]
    float *sum, *error;           // [rows][n] work
    uint8_t *codes, *keep;        // [rows][n] as upg_sparse_pack takes them
    int8_t *decoded;              // [rows][n] what the codes stand for, in units of the scale
    float *scale;                 // [rows]
} upg_sparse_rows;
int upg_sparse_choose(upg_sparse_rows *s, upg_error *e);

// Moments of rotated inputs become those of the inputs as they are.
int upg_moments_unrotate(upg_moments *m, uint64_t rotation_seed, upg_error *e);
