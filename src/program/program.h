// A program: the forward pass of a model as a flat list of ops over numbered buffers.
//
// A backend runs a whole program for a batch of rows; a row is one token of one sequence at one position. Buffers hold
// one f32 vector a row. Everything is sized when the program is made; running it allocates nothing. What each op
// computes is fixed bit for bit by docs/arithmetic.md and, in code, by ops.h.
#pragma once
#include "arch/config.h"
#include "format/weights.h"

typedef enum upg_op_kind {
    UPG_OP_EMBED,     // out = embedding row of the token                                      (section 5)
    UPG_OP_RMSNORM,   // out = rmsnorm(in) * weight                                            (7)
    UPG_OP_HEAD_NORM, // out's count vectors of n from column out_col, in place: rmsnorm * weight  (7)
    UPG_OP_QUANTISE,  // the int8 form of in, for the LINEAR ops that follow                   (4, steps 1-2)
    UPG_OP_LINEAR,    // out[out_col..] = weight * in                                          (4, steps 3-4)
    UPG_OP_BIAS,      // out[out_col..] = out[out_col..] + weight                              (4, step 5)
    UPG_OP_KV,        // in = q,k,v: RoPE and quantise heads; k and v go to the cache, q to scratch (10, 11)
    UPG_OP_ATTENTION, // out = attention of the scratch q over the layer's cache               (11)
    UPG_OP_SWIGLU,    // in = gate,up: out = silu(gate) * up                                   (9)
    UPG_OP_ADD,       // out = out + in
    UPG_OP_GATHER,    // out = the rows of in whose logits are wanted; later ops run over those only
} upg_op_kind;

typedef struct upg_op {
    upg_op_kind kind;
    int in, out; // buffers
    int out_col; // LINEAR, BIAS, HEAD_NORM: first column written
    int n;       // width of the input: cols of LINEAR, size of RMSNORM, ...
    int count;   // HEAD_NORM
    int window;  // ATTENTION: the layer's sliding window, or 0
    int weight;  // index into weights, or -1
    int layer;
    bool unrotated; // QUANTISE: the LINEAR ops that follow are sparse matrices in their inputs' own basis
} upg_op;

typedef struct upg_program {
    const upg_config *config;
    const upg_weights *source;
    const upg_tensor **weights; // [n_weights], owned by source
    upg_op *ops;                // [n_ops]
    int *widths;                // [n_buffers] columns of each buffer
    int n_weights, n_ops, n_buffers;
    int logits;     // the buffer the last op writes: [wanted rows][vocab_size]
    int max_inputs; // largest n of a QUANTISE
} upg_program;

// Builds config's program over source's tensors; both must outlive it. A missing tensor or wrong shape is refused by
// name.
upg_program *upg_program_new(const upg_config *config, const upg_weights *source, upg_error *e);
void upg_program_free(upg_program *p);

// For architectures. Each returns an index >= 0, or -1 with a message.
int upg_program_buffer(upg_program *p, int width, upg_error *e);
int upg_program_weight(upg_program *p, int64_t rows, int64_t cols, upg_error *e, const char *name, ...)
    __attribute__((format(printf, 5, 6)));
int upg_program_op(upg_program *p, upg_op op, upg_error *e);
// QUANTISE in, once, and LINEAR with the given weights one after another into out's columns.
int upg_program_linear(upg_program *p, int in, int out, const int *weights, int n_weights, upg_error *e);

// Bytes of weights one token reads (embedding row excluded), for the bandwidth figures.
size_t upg_program_bytes_per_token(const upg_program *p);
