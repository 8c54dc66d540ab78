// The encoder of the trellis code: the Viterbi algorithm over 65536 states a step, tail-biting, in 16-bit integer
// metrics. The result is a function of the input alone: the same on every instruction set and for every way tiles are
// grouped in calls.
#pragma once
#include "codec/trellis.h"

typedef enum upg_search_mode {
    UPG_SEARCH_SEAM,  // first pass over 16 steps on each side of the seam: 1.6 times as fast, 0.03 to 0.06 dB worse
    UPG_SEARCH_EXACT, // first pass over the whole rotated tile
    UPG_SEARCH_FAST,  // and windows with a bad future are left out: 1.6 to 3.3 times as fast, 0.04 to 0.15 dB worse
} upg_search_mode;

// What a mode means for S: steps of the first pass on each side of the seam, and how far above the least a cost to go
// may be (0: windows are not left out).
void upg_search_settings(upg_search_mode mode, int s, int *around, uint16_t *threshold);
// E, half the square of each window's weights, rounded up. half: [65536].
void upg_search_half_squares(uint16_t *half);

typedef struct upg_search upg_search; // workspace of one thread for one S: 1.7 MB at S = 6, 4.8 MB at S = 4
// isa: "scalar", "avx2" or another that UPG_ISA may name, or NULL for the environment's UPG_ISA, else the best here.
upg_search *upg_search_new(int s, const char *isa, upg_error *e);
void upg_search_free(upg_search *search);

// x: [n_tiles][256] targets in units of the codebook (a weight divided by its row's scale), any finite values; they are
// rounded to integers, and what lies far beyond the weights' -127..127 is drawn in.
// codes: [n_tiles][4*S] words. decoded: [n_tiles][256] the weights the codes stand for.
void upg_search_tiles(upg_search *search, upg_search_mode mode, const float *x, int n_tiles, uint32_t *codes,
                      int8_t *decoded);
