// The trellis encoder's quality and speed: signal to noise on a unit Gaussian, and weights a second on one core for
// each instruction set and mode. Modes take turns, and the median of the rounds' processor times counts, for machines
// with other work.
// usage: search [tiles of 256 weights, default 256] [avx512 | avx2 | scalar, default all]
#include "codec/search.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Standard deviation of the codebook over that of the weights, the best for S = 4..8.
static const double scale[] = {1.04, 1.08, 1.16, 1.20, 1.28};

static double uniform(uint64_t *state) { // splitmix64, in (0, 1)
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

enum { MODES = 3, ROUNDS = 5 };
static const upg_search_mode modes[MODES] = {UPG_SEARCH_EXACT, UPG_SEARCH_SEAM, UPG_SEARCH_FAST};
static const char *const mode_names[MODES] = {"exact", "seam", "fast"};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double decibels(const double *gauss, const int8_t *decoded, double unit, size_t n) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < n; i++) {
        double d = gauss[i] - decoded[i] * unit;
        signal += gauss[i] * gauss[i];
        noise += d * d;
    }
    return 10 * log10(signal / noise);
}

static void measure(const char *isa, int s, const double *gauss, int n_tiles) {
    upg_error e;
    upg_search *search = upg_search_new(s, isa, &e);
    const size_t n = (size_t)n_tiles * 256;
    float *x = upg_alloc(n, sizeof *x, &e);
    uint32_t *codes = upg_alloc((size_t)n_tiles * (size_t)upg_trellis_words(s), sizeof *codes, &e);
    int8_t *decoded = upg_alloc(n, 1, &e);
    if (!search || !x || !codes || !decoded) {
        printf("%-7s K=%.1f  %s\n", isa, s / 2.0, e.message);
    } else {
        const double unit = scale[s - 4] / UPG_TRELLIS_STD;
        double seconds[MODES][ROUNDS], db[MODES];
        for (size_t i = 0; i < n; i++) x[i] = (float)(gauss[i] / unit);
        for (int round = 0; round < ROUNDS; round++)
            for (int m = 0; m < MODES; m++) {
                const clock_t start = clock();
                upg_search_tiles(search, modes[m], x, n_tiles, codes, decoded);
                seconds[m][round] = (double)(clock() - start) / CLOCKS_PER_SEC;
                db[m] = decibels(gauss, decoded, unit, n);
            }
        for (int m = 0; m < MODES; m++) {
            qsort(seconds[m], ROUNDS, sizeof(double), by_value);
            printf("%-7s %-5s K=%.1f  %6.3f dB  %6.3f Mweights/s  %.2f times exact\n", isa, mode_names[m], s / 2.0,
                   db[m], (double)n / seconds[m][ROUNDS / 2] / 1e6, seconds[0][ROUNDS / 2] / seconds[m][ROUNDS / 2]);
        }
    }
    fflush(stdout);
    free(decoded);
    free(codes);
    free(x);
    upg_search_free(search);
}

int main(int argc, char **argv) {
    int n_tiles = argc > 1 ? atoi(argv[1]) : 256;
    if (n_tiles < 1 || n_tiles > 1 << 20) {
        fprintf(stderr, "usage: search [tiles of 256 weights] [instruction set]\n");
        return 2;
    }
    double *gauss = upg_alloc((size_t)n_tiles * 256, sizeof *gauss, NULL);
    if (!gauss) return 1;
    uint64_t state = 1;
    for (int i = 0; i < n_tiles * 256; i++)
        gauss[i] = sqrt(-2 * log(uniform(&state))) * cos(6.283185307179586 * uniform(&state));
    static const char *const isas[] = {"avx512", "avx2", "scalar"};
    for (int i = 0; i < 3; i++) {
        if (argc > 2 && strcmp(argv[2], isas[i]) != 0) continue;
        for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++)
            measure(isas[i], s, gauss, i < 2 ? n_tiles : n_tiles < 32 ? n_tiles : 32);
    }
    free(gauss);
    return 0;
}
