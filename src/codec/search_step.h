// What search.c and the step kernels agree on; nothing else includes this.
//
// A step of the search, backward in time: cost(h) = min over the fresh bits p of D(w) + next(w >> S), w = p << (16-S) |
// h, where h is what the window inherits from the one before it, next(v) the cost to go from the step after, and D half
// the squared distance between the window's weights and the target. The minimum is vertical: neighbouring h lie in
// neighbouring lanes, and 2^S of them share next(v).
//
// D = E(w) + T - w.t, modulo 2^16; E and T are half squares rounded up, so D >= 0, and targets are confined so that D <
// 2^16. w.t comes from the multiplication of unsigned by signed bytes, whose sums of two saturate at 16 bits. Three
// kinds of steps keep clear of that:
// - one table: A holds (w0+127, w1+127), safe where the two targets differ in sign or are small;
// - two tables: B holds (w0+127, 128-w1), to be multiplied with (t0, -t1), safe where they agree in sign; each tile
// takes one of the two;
// - split: A with t as the sum of two parts, for targets beyond a byte.
// In the first two no sum of costs can pass 65535 (D + UPG_STEP_CAP fits), so the constant goes into next() beforehand;
// what is left is a multiply, a subtraction, an addition and a minimum per vector. The third adds with saturation. The
// numbers are the same.
// A pruned step leaves out the windows whose next(w >> S) is more than a threshold above the least: a quarter of them
// decides nearly everything (bench/search). Each tile has a kind of its own then; S is at least 5.
#pragma once
#include "base/base.h"

enum {
    UPG_STEP_TILES = 4,        // searched at once, so that they share the loads of the tables
    UPG_STEP_CAP = 0x3fff,     // costs to go count relative to the step's least, up to this
    UPG_STEP_PAD = 32,         // a cache line: keeps the tiles' costs out of the same sets
    UPG_STEP_BARRED = 1 << 20, // more than any cost: added to those of windows that may not be chosen
};

typedef enum upg_step_kind { UPG_STEP_ONE_TABLE, UPG_STEP_TWO_TABLES, UPG_STEP_SPLIT } upg_step_kind;

typedef struct upg_step {
    int s;                               // fresh bits
    upg_step_kind kind;                  // of a plain step
    upg_step_kind kinds[UPG_STEP_TILES]; // of the tiles: the same, or in a pruned step what each asks for
    uint16_t threshold;                  // of a pruned step
    const uint16_t *a, *b, *e;           // [65536] byte pairs of A and B, and E, in the order that the kernel wants
    const uint16_t *next;                // [UPG_STEP_TILES][2^(16-s)] costs to go from the following step
    const uint16_t *next_least;          // [UPG_STEP_TILES] their minima
    uint16_t *cost, *least;              // results, like next and next_least
    uint16_t *folded;                    // scratch, [UPG_STEP_TILES][2^(16-s) + UPG_STEP_PAD]
    int16_t target[UPG_STEP_TILES][2];   // t
    bool use_b[UPG_STEP_TILES];          // in a step of two tables
    uint16_t factor[UPG_STEP_TILES][2];  // signed byte pairs to multiply with; the second one only in a split
    uint16_t constant[UPG_STEP_TILES];   // D = E - products + constant, modulo 2^16
} upg_step;

// On the way back, one of the 2^s windows that inherit h: the one with the least cost, and of those the lowest fresh
// bits.
typedef struct upg_choice {
    int s;
    const uint16_t *a, *e; // [2^s] byte pairs of A, and E, by fresh bits
    const uint16_t *next;  // costs to go, by fresh bits, 2^(16-2s) apart; behind another step's
    uint16_t least;        // their minimum
    int16_t target[2];
    uint16_t constant;       // as in a step
    uint32_t h, mask, fixed; // only windows that have `fixed` under `mask`
} upg_choice;

void upg_search_step_avx2(const upg_step *step);
void upg_search_step_avx512(const upg_step *step);
void upg_search_pruned_avx2(const upg_step *step);
void upg_search_pruned_avx512(const upg_step *step);
uint32_t upg_search_choose_avx512(const upg_choice *choice); // fresh bits
