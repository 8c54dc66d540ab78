// What compression can have a device do: the products of the fp32 reference, moments of inputs and their factors, and
// the search for trellis codes. Codes are the CPU's for the same targets; the rounding of the rest is the device's
// library's.
#pragma once
#include "base/thread.h"
#include "codec/search.h"
#include "program/program.h"

typedef struct upg_math upg_math;

// The most that will be asked for.
typedef struct upg_math_sizes {
    int rows;            // of a batch
    int inputs;          // of a linear layer, padded to 16
    int outputs;         // of a linear layer over a whole batch
    size_t part, matrix; // weights used together, of one matrix
} upg_math_sizes;

// On the device that UPG_DEVICE or "auto" leads to. *m NULL: that is the CPU, which does all this itself; by "auto" e
// then says why no other device does, or is "".
int upg_math_new(upg_math **m, const upg_math_sizes *sizes, upg_pool *pool, upg_error *e);
void upg_math_free(upg_math *m);
const char *upg_math_path(const upg_math *m); // the device's name

// y [rows][outputs] = x [rows][inputs] W^T. The matrix stays on the device while there is room.
typedef struct upg_math_linear {
    const upg_tensor *w;
    const float *values; // [w->rows][w->cols] instead of the tensor's own, or NULL
    const float *x;
    float *y;
    int rows, x_stride, y_stride;
} upg_math_linear;
int upg_math_multiply(upg_math *m, const upg_math_linear *l, upg_error *e);
void upg_math_forget(upg_math *m, const float *values); // before they change or are freed. m may be NULL

// Sums over batches: h += x^T x, c += other^T x, of [rows][n] each. other: in every batch or in none.
int upg_math_moments_begin(upg_math *m, int n, upg_error *e);
int upg_math_moments_add(upg_math *m, const float *x, const float *other, int rows, upg_error *e);
int upg_math_moments_end(upg_math *m, float *h, float *c, upg_error *e); // [n][n]; c: NULL without the other one

// As compress/feedback.h has them, in place: l from the Hessian, z from its numerator or NULL. 1: the Hessian is not
// positive definite. They stay on the device, too, until moments begin or others are factored.
int upg_math_factor(upg_math *m, int n, float *l, float *z, upg_error *e);

// The search over rows of a matrix, a multiple of 16.
typedef struct upg_math_codes {
    int rows, n, s;
    upg_search_mode mode;
    const float *l, *z; // what upg_math_factor gave, or NULL
    const float *in;    // [rows][n]
    float *target;      // [rows][n] in place of `in` where there is z: in z
    const float *scale; // [rows]
    uint32_t *codes;    // [rows/16][n/16][4*s]
    int8_t *decoded;    // [rows][n]
} upg_math_codes;
int upg_math_rows(const upg_math *m, int n); // the most of one call
int upg_math_target(upg_math *m, const upg_math_codes *c, upg_error *e);
int upg_math_search(upg_math *m, const upg_math_codes *c, upg_error *e); // after the target of the same rows
