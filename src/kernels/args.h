// What kernels are told: one struct a kernel, 32-bit fields only, the same on host and device. Offsets into the work
// memory count words of 4 bytes.
#pragma once
#if !defined(__METAL_VERSION__)
#include <stdint.h>
#endif

enum {
    GROUP_LANES = 256,
    GPU_MAX_DIM = 256,
    GPU_QUERIES = 8,     // queries that a group of attention takes at most
    GPU_ROW_OPS = 12,    // row ops of one launch
    GPU_LINEAR_ROWS = 8, // batch rows that a group of the plain linear kernel takes
    KEY_BLOCK = 256
};

// The batch, as it lies in work memory: written before each run.
typedef struct gpu_batch {
    uint32_t counts;    // [2]: spans, wide spans
    uint32_t tokens;    // [max_rows]
    uint32_t positions; // [max_rows]
    uint32_t table;     // [max_rows] offset of the row's block table
    uint32_t wanted;    // [max_logits] rows whose logits are wanted
    uint32_t spans;     // [max_rows][4] rows of one sequence, one position after another: first row, rows, its position
                        // and block table. Their rows by the heads of a KV head are at most GPU_QUERIES
    uint32_t wide_spans; // [max_rows][4] the same for wide_queries
    uint32_t draws;      // [max_logits] gpu_draw of the wanted rows
    uint32_t flags;      // [max_rows] written: 1 where a value was not finite
    uint32_t drawn;      // [max_logits] written: tokens, or -1
} gpu_batch;

// How a row's token is drawn: docs/arithmetic.md, section 13. u: its step 6.
enum { GPU_DRAW_EDITS = 256, SAMPLE_NONE = 0, SAMPLE_GREEDY, SAMPLE_DRAW, SAMPLE_BIAS = 1, SAMPLE_REPEAT = 2 };
typedef struct gpu_draw_edit {
    uint32_t token, what; // bits: it has a bias, it is among the last 64
    float bias;
    uint32_t count; // how often it was drawn
} gpu_draw_edit;
typedef struct gpu_draw {
    uint32_t kind; // none, greedy, draw
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty, u;
    uint32_t top_k;
    uint32_t edits, n_edits; // [n_edits] gpu_draw_edit, each token once; n_edits at most GPU_DRAW_EDITS
} gpu_draw;

// A row op: program.h's op with addresses in place of buffers.
typedef struct gpu_row_op {
    uint32_t kind;
    uint32_t in, out;               // of row 0
    uint32_t in_stride, out_stride; // words from a row to the next
    uint32_t n, count;              // as in upg_op
    uint32_t vector;                // f32: weight of a norm or bias
    uint32_t gathered;              // the rows are the wanted ones
    uint32_t rotated;               // QUANTISE, EMBED
    uint32_t kept;                  // out is read by more than a QUANTISE that follows
} gpu_row_op;

// A coded matrix behind `weight`.
typedef struct gpu_matrix {
    uint32_t encoding, s; // upg_encoding, as in upg_tensor
    uint32_t rows, cols;  // cols padded to 16
    uint32_t b;           // group
    uint32_t scale;       // words from `weight` to the row scales
} gpu_matrix;

typedef struct gpu_heads {
    uint32_t n_heads, n_kv_heads, head_dim, D, b, rotary; // D: head_dim padded to 16
    uint32_t cosine, sine;                                // [n_positions][rotary/2]
    uint32_t q, q_scale;                                  // [rows][n_heads][D] bytes, [rows][n_heads] f32
    uint32_t kv_layer;  // 16-byte units from a block of the cache to this layer's part of it
    uint32_t kv_stride; // 16-byte units from a block to the next
} gpu_heads;

// Quantised rows: q [rows][n] bytes, d and q_sum [n/b][stride] words, m [rows] f32. stride: rows there is room for, a
// multiple of 128.
typedef struct gpu_quantised {
    uint32_t q, d, q_sum, m, stride;
} gpu_quantised;

typedef struct gpu_rows_args {
    gpu_batch batch;
    gpu_quantised quantised;
    gpu_matrix embedding;
    gpu_heads heads;
    uint32_t sign;                 // [max_inputs] sign bits
    uint32_t scratch, per_scratch; // words of scratch, and their number, a row
    float eps;
    uint32_t n_ops;
    gpu_row_op ops[GPU_ROW_OPS];
} gpu_rows_args;

typedef struct gpu_linear_args {
    gpu_matrix w;
    gpu_quantised x;
    uint32_t y, y_stride;
    uint32_t add; // to what y holds
    uint32_t n_rows;
    // Logits: flags[wanted[row]] is set where one is not finite.
    uint32_t check, flags, wanted;
} gpu_linear_args;

typedef struct gpu_attention_args {
    gpu_batch batch;
    gpu_heads heads;
    float c;
    uint32_t out, out_stride;
    uint32_t window;
    uint32_t heads_a_group, parts; // query heads of a KV head that a group takes, and how many such parts there are
    uint32_t partial;              // split by key blocks: [rows][n_heads][n_blocks][head_dim + 2] f32
    uint32_t n_blocks;             // key blocks a row may have; 0: not split
    uint32_t queries;              // of a group, at most
    uint32_t n_wide, wide_queries; // wide spans, and what they have at most
} gpu_attention_args;

// The search for trellis codes of 16 * bands rows, at `steps` steps of 16 columns from first_step on.
typedef struct gpu_search_args {
    uint32_t s, around, threshold; // bits a step; codec/search.c's modes
    uint32_t n, bands, first_step, steps;
    uint32_t groups;         // that run: each has costs of its own
    uint32_t target, sum;    // [rows][n] f32: what is coded is their sum; sum 0: target alone
    uint32_t scale, inverse; // [rows] f32 of a row, and what targets are multiplied by
    uint32_t codes, decoded; // [bands][n/16][4*s] words, [rows][n] bytes
    uint32_t error;          // [rows][n] f32 written: target less what the codes stand for; 0: not
} gpu_search_args;

typedef struct gpu_sample_args {
    gpu_batch batch;
    uint32_t logits, n; // [wanted rows][n] f32
} gpu_sample_args;

// Every kernel: X(name, struct of its arguments).
#define GPU_KERNELS(X)                                                                                                 \
    X(kernel_rows, gpu_rows_args)                                                                                      \
    X(kernel_expand, gpu_matrix)                                                                                       \
    X(kernel_linear, gpu_linear_args)                                                                                  \
    X(kernel_attention_4, gpu_attention_args)                                                                          \
    X(kernel_attention_8, gpu_attention_args)                                                                          \
    X(kernel_join, gpu_attention_args)                                                                                 \
    X(kernel_sample, gpu_sample_args)                                                                                  \
    X(kernel_search, gpu_search_args)
