// Sensitivity: how far the model's answers move when one matrix is coded and all others stay as they are. Measured, not
// modelled: the matrix gets errors of the size and shape that its code will make, and the text runs on to the logits.
#pragma once
#include "compress/runner.h"

typedef struct upg_sensitivity_options {
    upg_text text;          // of which all windows shape the errors
    int scored;             // and this many are run to the logits
    uint64_t rotation_seed; // of the file being made
    double noise;           // squared error over squared weights, of every matrix
    float damping;          // of Hessians, as for upg_feedback_new
    const bool *wanted;     // [n_weights]
    upg_math *math;         // who multiplies and factors, or NULL
    const char *path;       // of a file for activations
    int (*tick)(void *ctx, upg_error *e);
    void *tick_ctx;
    // Where a stopped measurement goes on: the part to begin with and what its n_seen streams were then, or 0.
    int part, n_seen;
    const uint64_t *seen; // [n_seen]
    // Called when a part is done; -1 stops. May be NULL.
    int (*part_done)(void *ctx, int next, const uint64_t *hashes, int n, upg_error *e);
    void *part_ctx;
} upg_sensitivity_options;

// kl: [n_weights] KL(original || model with this matrix's errors) in nats a token; the uses of a weight (a tied
// embedding) are measured apart and added. 0 where not wanted.
int upg_sensitivity_measure(const upg_program *p, const upg_sensitivity_options *o, upg_pool *pool, double *kl,
                            upg_error *e);
