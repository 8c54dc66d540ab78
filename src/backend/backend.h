// The seam between the engine and a device. A backend takes a whole program and runs it for a batch of rows: token ids
// go in, logits come out, everything between stays on the device. Adding one: a folder here and a line in the table of
// backend.c.
#pragma once
#include "base/thread.h"
#include "program/program.h"

typedef struct upg_math upg_math; // math.h
typedef struct upg_math_sizes upg_math_sizes;

typedef struct upg_backend_options {
    int max_rows;       // rows of a batch
    int max_logits;     // rows of a batch whose logits are wanted
    int n_positions;    // context: positions are below this
    int n_blocks;       // KV blocks of 256 positions in the pool
    upg_pool *pool;     // threads, shared, outlives the backend
    const char *isa;    // CPU path to force ("scalar", "avx2", ...), or NULL for the best
    const char *device; // as upg_session_options has it
    size_t gpu_bytes;   // the most memory of a GPU; 0: what is free
    bool *no_room;      // NULL, or set where making the backend failed for want of a GPU's memory only
    bool *fits;         // NULL, or nothing is made on a GPU, and this set where there would be room
    upg_math *math;     // of the fp32 backend: who multiplies; NULL: it does
    double *seconds;    // [n_ops] the time that each op of the program takes is added here; NULL: nothing is timed
} upg_backend_options;

// How a token is to be drawn from a row's logits: a sampler's options and what it makes of the tokens so far
// (docs/arithmetic.md, section 13). u: its step 6.
enum { UPG_DRAW_EDITS = 256, UPG_EDIT_BIAS = 1, UPG_EDIT_REPEAT = 2 };
typedef struct upg_draw_edit {
    int32_t token;
    int what; // bits
    float bias;
    int count; // how often it was drawn, where that is penalised
} upg_draw_edit;
typedef struct upg_draw {
    bool draws;  // on the device, if it can
    bool logits; // are wanted on the host too
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty, u;
    int top_k, n_edits;
    upg_draw_edit edits[UPG_DRAW_EDITS];
} upg_draw;

// A batch. Rows of one sequence are in order of position, each position following the last one stored for that
// sequence.
typedef struct upg_batch {
    int n_rows;
    const int32_t *tokens;    // [n_rows]
    const int32_t *positions; // [n_rows]
    const int32_t *const
        *blocks;           // [n_rows] the block table of the row's sequence: pool block of positions 256*i..256*i+255
    const uint8_t *wants;  // [n_rows] 1: compute this row's logits
    const upg_draw *draws; // [wanted rows]; NULL: nothing is drawn
    // What a buffer holds before the first op, [n_rows][width]; NULL: nothing. For GPUs, see split.c.
    const float *input;
    int input_buffer;
} upg_batch;

typedef struct upg_gpu_api upg_gpu_api; // gpu/device.h
typedef struct upg_backend upg_backend;
typedef struct upg_backend_api {
    const char *name;
    bool inexact; // logits depend on how rows are batched
    // Whether this backend runs such weights (compressed or original ones).
    bool (*accepts)(const upg_weights *source);
    bool (*present)(void); // whether "auto" tries it; NULL: it does
    // Opens what the device needs of the system and keeps it for as long as the process lives; NULL: nothing.
    void (*prepare)(const char *device);
    // What compression can have done there; NULL: nothing.
    upg_math *(*math)(const upg_backend_options *options, const upg_math_sizes *sizes, upg_error *e);
    upg_backend *(*create)(const upg_program *program, const upg_backend_options *options, upg_error *e);
    void (*destroy)(upg_backend *b);
    // Runs the program. Device trouble is an error; a row with values that are not finite only has its flag set.
    int (*run)(upg_backend *b, const upg_batch *batch, upg_error *e);
    const float *(*rows)(const upg_backend *b, int buffer); // [n_rows][width] after a run; NULL: it does not say
    // [vocab_size] of the i-th wanted row of the last run. NULL where a draw left them on a device that is lost since.
    const float *(*logits)(const upg_backend *b, int i);
    int32_t (*drawn)(const upg_backend *b, int i); // the token drawn from them, or -1: none was. NULL: none ever is
    const uint8_t *(*flags)(const upg_backend *b); // [n_rows] of the last run: 1 where a value was not finite
    const char *(*path)(const upg_backend *b);     // what runs: "avx512", ...
    size_t (*memory)(const upg_backend *b);        // bytes reserved
    // Blocks of the KV cache between runs, as bytes that mean the same to every run of this backend: how many one has,
    // and moving it out, in, and to another place.
    size_t (*kv_bytes)(const upg_config *c);
    int (*kv_read)(const upg_backend *b, int32_t block, void *to, upg_error *e);
    int (*kv_write)(upg_backend *b, int32_t block, const void *from, upg_error *e);
    int (*kv_copy)(upg_backend *b, int32_t from, int32_t to, upg_error *e);
    const upg_gpu_api *gpu; // what its programs are run by; NULL: it is no GPU's
    const char *kv_layout;  // a name for those bytes: a change of their meaning changes it
} upg_backend_api;
struct upg_backend {
    const upg_backend_api *api;
};

extern const upg_backend_api upg_backend_cpu;  // exact integer inference of compressed weights
extern const upg_backend_api upg_backend_fp32; // original weights in fp32, for reference
#ifdef UPG_CUDA
extern const upg_backend_api upg_backend_cuda; // NVIDIA's GPUs
#endif
extern const upg_backend_api upg_backend_software; // the GPUs' kernels on the CPU, for tests

// The last layers of the program on a GPU that has no room for all of it, the rest on the CPU.
upg_backend *upg_backend_split(const upg_backend_api *gpu, const upg_program *program,
                               const upg_backend_options *options, upg_error *e);

// Around op i of the program.
static inline double upg_op_begin(const upg_backend_options *o) {
    return o->seconds ? upg_now() : 0;
}
static inline void upg_op_end(const upg_backend_options *o, int i, double begin) {
    if (o->seconds) o->seconds[i] += upg_now() - begin;
}
// Refuses a batch that does not fit the options or has tokens or positions out of range.
int upg_batch_check(const upg_batch *batch, const upg_config *c, const upg_backend_options *options, upg_error *e);
// A backend for the program on options->device, as upg_session_options has it.
upg_backend *upg_backend_new(const upg_program *program, const upg_backend_options *options, upg_error *e);
// Opens what the device (as above) needs of the system, before a sandbox closes. What it lacks is told later.
void upg_backend_prepare(const char *device);
// The name of the GPU that UPG_DEVICE or "auto" leads to ("cuda"), or NULL: none.
const char *upg_backend_gpu(void);
// Of a KV block, on whatever device the weights run.
size_t upg_backend_kv_bytes(const upg_weights *source, const upg_config *c);

// KV blocks of compressed weights are the same on all devices: one lies in one piece, layer by layer
// (program/numbers.h).
#define UPG_KV_LAYOUT "int8 tiles 1"
size_t upg_kv_block_bytes(const upg_config *c);
// What comes from outside may be anything: a scale must be one that quantise_head gives.
int upg_kv_check(const upg_config *c, const void *block, upg_error *e);
