// Bit allocation without calibration: every free tensor's error is modelled by the code's measured distortion on a
// Gaussian.
#include "compress/allocate.h"
#include <math.h>
#include <stdlib.h>

// Measured signal-to-noise ratio in dB (bench/search prints it) of each setting, by 2K.
static const struct level {
    int s;
    double db;
} levels[] = {{4, 11.47}, {5, 14.32}, {6, 17.18}, {7, 19.89}, {8, 22.62}, {16, 43.0}};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static void set_level(upg_writer_tensor *t, int level) {
    t->encoding = levels[level].s == UPG_BITS_INT8 ? UPG_INT8 : UPG_TRELLIS;
    t->s = levels[level].s == UPG_BITS_INT8 ? 0 : levels[level].s;
}

// Fall of the modelled error a byte when a tensor goes from `level` to the next.
static double gain(double importance, int level) {
    double fall = pow(10, -levels[level].db / 10) - pow(10, -levels[level + 1].db / 10);
    return importance * fall / (levels[level + 1].s - levels[level].s);
}

int upg_allocate_bits(upg_writer_tensor *tensors, const double *importance, size_t n, size_t budget,
                      size_t (*size)(void *ctx), void *ctx, upg_error *e) {
    int *level = upg_alloc(n, sizeof *level, e); // -1: fixed or at its end
    if (!level) return -1;
    for (size_t i = 0; i < n; i++) {
        level[i] = tensors[i].encoding == UPG_TRELLIS && !tensors[i].s ? 0 : -1;
        if (!level[i]) set_level(&tensors[i], 0);
    }
    size_t smallest = size(ctx);
    if (!smallest || smallest > budget) {
        free(level);
        if (!smallest) return upg_fail(e, "these tensors make no valid file, or memory is short");
        return upg_fail(
            e, "the file may have %zu bytes, but needs at least %zu, at 2 bits a weight: ask for less compression",
            budget, smallest);
    }
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (level[i] >= 0 && (best == n || gain(importance[i], level[i]) > gain(importance[best], level[best])))
                best = i;
        if (best == n) break;
        set_level(&tensors[best], level[best] + 1);
        size_t bytes = size(ctx);
        if (!bytes) {
            free(level);
            return upg_fail(e, "out of memory");
        }
        if (bytes > budget) {
            set_level(&tensors[best], level[best]);
            level[best] = -1;
        } else if (++level[best] == N_LEVELS - 1) {
            level[best] = -1;
        }
    }
    free(level);
    return 0;
}
