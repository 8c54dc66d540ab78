// What compression asks of the fp32 backend beyond the seam: to run parts of a program over activations that the
// caller keeps, to look at the inputs of linear layers, and to try other weights.
#pragma once
#include "backend/backend.h"

typedef struct upg_fp32_tap {
    // At each QUANTISE op: x is [n_rows][stride], the input of the LINEAR ops that follow.
    void (*input)(void *ctx, int op, const float *x, int n_rows, int stride);
    void *ctx;
} upg_fp32_tap;

// Runs ops first..last-1 for a batch; earlier parts left their results in the buffers. Unlike run(), a GATHER may want
// every row, as long as no LINEAR into the logits follows in the part. tap may be NULL.
int upg_fp32_run_part(upg_backend *b, const upg_batch *batch, int first, int last, const upg_fp32_tap *tap,
                      upg_error *e);
float *upg_fp32_buffer(upg_backend *b, int buffer); // [max_rows][width]
// Values to use for a weight from now on, [rows][cols], which must outlive their use; NULL: its own again.
void upg_fp32_replace(upg_backend *b, int weight, const float *values);
