// A batch of quantised rows times a coded matrix in the order of the file, trellis or int8: section 4, steps 3 and 4.
//
// A group takes a superband and up to GPU_LINEAR_ROWS rows of the batch; a lane is one row of the matrix.
#pragma once
#include "kernels/codes.h"

KERNEL(kernel_linear, gpu_linear_args, GROUP_LANES) {
    (void)kv;
    const uint32_t sb = GROUP_X, first = GROUP_Y * GPU_LINEAR_ROWS, b = a->w.b, groups = a->w.cols / b,
                   nb = bands_of(&a->w, sb), left = a->n_rows - first,
                   rows = left < GPU_LINEAR_ROWS ? left : GPU_LINEAR_ROWS;
    GLOBAL const uint8_t *q = (GLOBAL const uint8_t *)WORK(uint8_t, a->x.q);
    GLOBAL const uint32_t *d = WORK(uint32_t, a->x.d);
    GLOBAL const int32_t *q_sum = WORK(int32_t, a->x.q_sum);
    SHARED(uint32_t, x, GPU_LINEAR_ROWS * 64);
    PRIVATE(int32_t, total, GPU_LINEAR_ROWS);
    LANES(j) {
        for (uint32_t i = 0; i < GPU_LINEAR_ROWS; i++) MINE(total, j)[i] = 0;
        for (uint32_t i = j; i < GPU_LINEAR_ROWS * 64; i += GROUP_LANES) x[i] = 0;
    }
    for (uint32_t g = 0; g < groups; g++) {
        LANES(j) {
            for (uint32_t i = j; i < rows * (b / 4); i += GROUP_LANES) {
                const uint32_t row = i / (b / 4), k = i % (b / 4);
                x[row * 64 + k] = ((GLOBAL const uint32_t *)(GLOBAL const void *)(q + (uint64_t)(first + row) *
                                                                                          a->w.cols))[g * (b / 4) + k];
            }
        }
        LANES(j) {
            const uint32_t band = j % 16, r = j / 16;
            int32_t dot[GPU_LINEAR_ROWS];
            for (uint32_t i = 0; i < GPU_LINEAR_ROWS; i++) dot[i] = 0;
            for (uint32_t step = 0; band < nb && step < b / 16; step++) {
                uint32_t w[4];
                coded_16(&a->w, (GLOBAL const uint32_t *)(GLOBAL const void *)weight, sb, g * (b / 16) + step, band, r,
                         w);
                for (uint32_t i = 0; i < GPU_LINEAR_ROWS; i++)
                    for (uint32_t k = 0; k < 4; k++) dot[i] = dot_us(w[k], x[i * 64 + step * 4 + k], dot[i]);
            }
            for (uint32_t i = 0; i < rows; i++) {
                const uint32_t at = g * a->x.stride + first + i, shift = d[at];
                const int32_t exact = dot[i] - 127 * q_sum[at];
                MINE(total, j)[i] += (exact + ((1 << shift) >> 1)) >> shift;
            }
        }
    }
    LANES(j) {
        const uint32_t r = sb * 256 + j % 16 * 16 + j / 16;
        if (r < a->w.rows) {
            const float scale = ((GLOBAL const float *)(GLOBAL const void *)weight)[a->w.scale + r];
            for (uint32_t i = 0; i < rows; i++) {
                const float m = WORK(const float, a->x.m)[first + i] * 0x1.020408p-7f;
                GLOBAL float *y = WORK(float, a->y) + (uint64_t)(first + i) * a->y_stride + r;
                const float v = (float)MINE(total, j)[i] * (scale * m);
                *y = a->add ? *y + v : v;
                if (a->check && (bits_of(v) & 0x7fffffff) >= GUARD_HIGH)
                    WORK(uint32_t, a->flags)[WORK(const uint32_t, a->wanted)[first + i]] = 1;
            }
        }
    }
}
