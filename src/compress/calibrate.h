// Calibration: what the inputs of each linear layer look like on real text.
//
// The program is cut into parts at the points where a single buffer is live (after each residual addition), and the
// text runs through one part at a time, so that only one part's weights and one activation row a token are needed at
// once. Two streams run side by side: the original model's, and that of the model compressed so far. The second gives
// the Hessians; both together tell what the rest of the model must make up for.
#pragma once
#include "base/thread.h"
#include "program/program.h"

typedef struct upg_calibrator upg_calibrator;

typedef struct upg_calibration {
    const int32_t *tokens; // [n_windows][window]
    int n_windows, window;
    uint64_t rotation_seed;               // of the file being made
    bool original_only;                   // one stream: no weights are replaced, and there is no c
    int (*tick)(void *ctx, upg_error *e); // called after each window; -1 with a message stops
    void *tick_ctx;
} upg_calibration;

// Everything given must outlive the calibrator.
upg_calibrator *upg_calibrator_new(const upg_program *program, const upg_calibration *calibration, upg_pool *pool,
                                   upg_error *e);
void upg_calibrator_free(upg_calibrator *c);

// Moments of the inputs of the LINEAR ops that follow a QUANTISE op, in the rotated basis with unit blocks (x' =
// H_b(sign o x) / sqrt(b)), n padded columns. Sums over all tokens, divided by their number.
typedef struct upg_moments {
    int n;
    float *h; // [n][n] of the compressed stream with itself; lower triangle
    float *c; // [n][n] of the original stream (rows) with the compressed one (columns); NULL with original_only
} upg_moments;
void upg_moments_free(upg_moments *m);

// The moments at the QUANTISE op with this index in the program. Ops are asked for in order; weights of LINEAR ops
// before it must have been given by upg_calibrator_replace, if they are coded.
int upg_calibrator_moments(upg_calibrator *c, int op, upg_moments *m, upg_error *e);
// What weight `weight` of the program has become, [rows][cols] in the original basis; taken over, freed when the part
// it belongs to is done.
void upg_calibrator_replace(upg_calibrator *c, int weight, float *values);
