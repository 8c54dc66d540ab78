// Calibration: what the inputs of each linear layer look like on real text, in the model compressed so far and in the
// original one.
#pragma once
#include "compress/runner.h"

// Moments of the inputs of the LINEAR ops that follow a QUANTISE op, in the rotated basis with unit blocks (x' =
// H_b(sign o x) / sqrt(b)), n padded columns. Sums over all tokens, divided by their number.
typedef struct upg_moments {
    int n;
    float *h; // [n][n] of the stream with itself; lower triangle
    float *c; // [n][n] of the other stream (rows) with it (columns); NULL without one
} upg_moments;
void upg_moments_free(upg_moments *m);

typedef struct upg_moments_options {
    uint64_t rotation_seed; // of the file being made
    int stream, other;      // of the runner, over all its windows; other -1: none
    upg_math *math;         // who multiplies, or NULL
    float *const *replaced; // of stream's model, as for upg_runner_run; other has the original's weights
} upg_moments_options;

// The moments at the QUANTISE op with this index in the program, which must lie in the part at hand.
int upg_moments_measure(upg_runner *r, int op, const upg_moments_options *o, upg_pool *pool, upg_moments *m,
                        upg_error *e);
