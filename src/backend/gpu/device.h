// What a GPU must be able to do for gpu.c to run programs on it. Adding one: a file that fills upg_gpu_api, and a
// backend (backend.h) made by UPG_GPU_BACKEND over it.
#pragma once
#include "backend/backend.h"
#include "backend/math.h"
#include "kernels/args.h"

typedef enum upg_gpu_kernel {
#define X(name, args) UPG_GPU_##name,
    GPU_KERNELS(X)
#undef X
        UPG_GPU_KERNELS
} upg_gpu_kernel;

typedef uint64_t upg_gpu_address; // in the device's memory

// One kernel over groups[0] * groups[1] * groups[2] groups.
typedef struct upg_gpu_launch {
    upg_gpu_kernel kernel;
    uint32_t groups[3];
    upg_gpu_address weight, work, kv;
    const void *args;
} upg_gpu_launch;

// Where a matrix lies, and in which order of the device's own: 0 is the file's.
typedef struct upg_gpu_matrix {
    upg_gpu_address data; // of the codes; the row scales lie args.scale words behind it
    gpu_matrix args;
    int order;
} upg_gpu_matrix;

// c [m][n] = a [m][k] times b [k][n], plus c if asked, all f32 by rows. A transposed one lies in memory as its
// transpose.
typedef struct upg_gpu_product {
    upg_gpu_address a, b, c;
    uint32_t m, n, k, a_stride, b_stride, c_stride;
    bool a_transposed, b_transposed, add;
} upg_gpu_product;

enum { UPG_NO_ROOM = -2 };
// Fails with UPG_NO_ROOM, saying how much is needed, left and there.
int upg_gpu_no_room(size_t needed, size_t left, size_t all, const char *device, upg_error *e);

typedef struct upg_gpu upg_gpu;
struct upg_gpu_api {
    const char *name; // "cuda"
    upg_gpu *(*open)(const upg_backend_options *options, upg_error *e);
    void (*close)(upg_gpu *g);
    const char *(*path)(const upg_gpu *g); // the device's name
    // The one allocation, zeroed. Returns UPG_NO_ROOM if there is not so much.
    int (*reserve)(upg_gpu *g, size_t bytes, upg_gpu_address *at, upg_error *e);
    // Host memory that will often be read into or written from: makes that faster if it can. What was written from it
    // must stay as it is until something is read.
    void (*pin)(upg_gpu *g, void *p, size_t n); // or NULL
    // Copies; they wait for what was launched before, and reads are done when they return.
    int (*write)(upg_gpu *g, upg_gpu_address to, const void *from, size_t n, upg_error *e);
    int (*read)(upg_gpu *g, void *to, upg_gpu_address from, size_t n, upg_error *e);
    int (*copy)(upg_gpu *g, upg_gpu_address to, upg_gpu_address from, size_t n, upg_error *e);
    int (*clear)(upg_gpu *g, upg_gpu_address at, size_t n, upg_error *e);
    int (*launch)(upg_gpu *g, const upg_gpu_launch *l, upg_error *e);
    // Row ops in a way of the device's own. Returns 1 if it has none for them, and kernel_rows does them. What a
    // QUANTISE gives is read by the products that follow it, up to the next row ops.
    int (*rows)(upg_gpu *g, const upg_gpu_launch *l, upg_error *e); // or NULL
    // How many queries a group of `attention` takes where many rows have `queries` for each of `groups` of heads: at
    // least GPU_QUERIES. NULL: it has no such groups.
    uint32_t (*wide_queries)(const upg_gpu *g, uint32_t head_dim, uint32_t queries, uint32_t groups);
    // Attention in a way of the device's own, all of it. Returns 1 if it has none for this.
    int (*attention)(upg_gpu *g, const upg_gpu_launch *l, upg_error *e); // or NULL
    // A linear layer in a way of the device's own. Returns 1 if it has none for it, and kernel_linear does it.
    int (*linear)(upg_gpu *g, const upg_gpu_matrix *m, const upg_gpu_launch *l, upg_error *e); // or NULL
    // Puts a matrix that was written in the file's order into an order of the device's own, in place; it will only be
    // read by `linear`. scratch: as large as the largest matrix. NULL: none.
    int (*reorder)(upg_gpu *g, upg_gpu_matrix *m, size_t bytes, upg_gpu_address scratch, upg_error *e);
    // Launches between the two are one graph, kept under the key. begin returns 1 if there is one already: it has been
    // launched, and end is not called. NULL: none are kept.
    int (*begin)(upg_gpu *g, uint64_t key, upg_error *e);
    int (*end)(upg_gpu *g, uint64_t key, upg_error *e);
    // What compression asks for beside; NULL where a device has no math.
    int (*product)(upg_gpu *g, const upg_gpu_product *p, upg_error *e);
    // In place of h [n][n], of which the lower triangle counts: its Cholesky factor, whose columns are then divided, 16
    // at a time, by their diagonal blocks. In place of z [n][n] (0: there is none): z h^-1. 1: h is not positive
    // definite.
    int (*factor)(upg_gpu *g, upg_gpu_address h, upg_gpu_address z, uint32_t n, upg_error *e);
};
struct upg_gpu {
    const upg_gpu_api *api;
};

upg_backend *upg_gpu_create(const upg_backend_api *backend, const upg_gpu_api *device, const upg_program *program,
                            const upg_backend_options *options, upg_error *e);
// The functions of a backend over a GPU; create is the device's.
#define UPG_GPU_BACKEND(name_, gpu_, present_, prepare_, create_, math_)                                               \
    {                                                                                                                  \
        .name = (name_), .gpu = (gpu_), .accepts = upg_gpu_accepts, .present = (present_), .prepare = (prepare_),      \
        .math = (math_), .create = (create_), .destroy = upg_gpu_destroy, .run = upg_gpu_run,                          \
        .logits = upg_gpu_logits, .drawn = upg_gpu_drawn, .flags = upg_gpu_flags, .path = upg_gpu_path,                \
        .memory = upg_gpu_memory, .kv_bytes = upg_kv_block_bytes, .kv_read = upg_gpu_kv_read,                          \
        .kv_write = upg_gpu_kv_write, .kv_copy = upg_gpu_kv_copy, .kv_layout = UPG_KV_LAYOUT                           \
    }
upg_math *upg_gpu_math(const upg_gpu_api *device, const upg_backend_options *options, const upg_math_sizes *sizes,
                       upg_error *e);
bool upg_gpu_accepts(const upg_weights *source);
void upg_gpu_destroy(upg_backend *b);
int upg_gpu_run(upg_backend *b, const upg_batch *batch, upg_error *e);
const float *upg_gpu_logits(const upg_backend *b, int i);
int32_t upg_gpu_drawn(const upg_backend *b, int i);
const uint8_t *upg_gpu_flags(const upg_backend *b);
const char *upg_gpu_path(const upg_backend *b);
size_t upg_gpu_memory(const upg_backend *b);
int upg_gpu_kv_read(const upg_backend *b, int32_t block, void *to, upg_error *e);
int upg_gpu_kv_write(upg_backend *b, int32_t block, const void *from, upg_error *e);
int upg_gpu_kv_copy(upg_backend *b, int32_t from, int32_t to, upg_error *e);
