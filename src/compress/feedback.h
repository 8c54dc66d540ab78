// Error feedback: how the error of columns coded already is made up for by those still to be coded (block LDLQ, as in
// QuIP, arXiv 2307.13304, and QTIP), and what to code instead of the weights so that errors made earlier in the model
// are made up for too (as in GPTAQ, arXiv 2504.02692).
#pragma once
#include "compress/calibrate.h"

typedef struct upg_feedback {
    int n;
    // [n][n] lower: H + damping = L D L', D and L's unit diagonal of 16-blocks. In place of the ones stands the
    // diagonal of the Cholesky factor, lower 16-blocks.
    float *l;
    float *z; // [n][n]: rows to code are w' z instead of w'
} upg_feedback;

typedef struct upg_feedback_options {
    float damping;  // of the Hessian, in units of its mean diagonal
    float cross;    // 0..1: how much of the earlier error is made up for; 0: none
    upg_math *math; // who factors, or NULL
} upg_feedback_options;

// Takes the moments over, also on failure. With m->c NULL nothing earlier is made up for.
int upg_feedback_new(upg_feedback *f, upg_moments *m, const upg_feedback_options *o, upg_pool *pool, upg_error *e);
void upg_feedback_free(upg_feedback *f);
