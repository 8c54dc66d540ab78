// The trellis encoder: a tail-biting Viterbi search that runs backward in time. What is here is portable: targets, the
// two passes, the way back to the codes, and one plain step; search_step.h explains a step, search_step_avx2.c and
// search_step_avx512.c are the same in vectors.
//
// Backward, the cost to go depends on the 16-S bits that a window inherits, so a step keeps 2^(16-S) numbers and no
// pointers: the codes are read off forward, where each step weighs its 2^S windows once more. A tile is circular. The
// first pass runs over it cut open elsewhere, to find what to inherit at the seam (between the last step and the
// first); the second starts and ends with that.
#include "codec/search.h"
#include "codec/search_step.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 256, STEPS = UPG_TRELLIS_STEPS, TILES = UPG_STEP_TILES };

// How a mode searches: steps of the first pass on each side of the seam, and thresholds for S = 4..8 (0: every window),
// which leave a quarter of the windows and cost about .1 dB; with S = 4 the vectors are too short for that to pay.
static const struct mode {
    int around;
    uint16_t threshold[5];
} modes[] = {
    [UPG_SEARCH_SEAM] = {16, {0}},
    [UPG_SEARCH_EXACT] = {STEPS / 2, {0}},
    [UPG_SEARCH_FAST] = {16, {0, 575, 256, 112, 50}},
};

// A way to do a step: how many neighbouring h are neighbours in its tables, and the step itself.
typedef struct kernel {
    const char *name;
    int lanes;
    bool (*supported)(void);
    void (*step)(const upg_step *step);
    void (*pruned)(const upg_step *step);
    uint32_t (*choose)(const upg_choice *choice);
    int blocks_from; // the least S whose pruned steps take the tables in the plain step's order, others in natural
                     // order
} kernel;

struct upg_search {
    int s, n; // n = 2^(16-s)
    const kernel *kernel;
    uint16_t *table;   // [3][65536] A, B and E in the kernel's order
    uint16_t *natural; // [3][65536] the same in natural order
    uint16_t *fan;     // [2][n][2^s] A and E of the windows that inherit the same h, side by side
    uint16_t *cost;    // [STEPS+1][TILES][n] costs to go before each step of a pass, up to a constant
    uint16_t least[STEPS + 1][TILES];
    uint16_t *folded; // scratch of the steps
};

// The targets of tiles searched together, as integers.
typedef int16_t group[TILES][TILE];

static int half_square(int t0, int t1) {
    return (t0 * t0 + t1 * t1 + 1) >> 1;
}
// The largest D that a target can meet: at the weights (127, 127) with the signs against its own.
static int largest_cost(int t0, int t1) {
    return half_square(t0, t1) + half_square(127, 127) + 127 * (abs(t0) + abs(t1));
}

// What to add to E less the products with A for D.
static uint16_t target_constant(int t0, int t1) {
    return (uint16_t)(half_square(t0, t1) + 127 * (t0 + t1));
}

// A cost to go as it counts.
static uint16_t past_least(uint16_t cost, uint16_t least) {
    return cost - least < UPG_STEP_CAP ? (uint16_t)(cost - least) : UPG_STEP_CAP;
}

// One tile's sums for the plain step, whose tables are in natural order, from the windows within the threshold.
static void sum_scalar(const upg_step *step, int k, uint16_t threshold, uint16_t *restrict sum) {
    const int s = step->s, n = 65536 >> s, share = 1 << s, t0 = step->target[k][0], t1 = step->target[k][1];
    const uint16_t f0 = (uint16_t)t0, f1 = (uint16_t)t1, constant = target_constant(t0, t1);
    memset(sum, 255, (size_t)n * sizeof *sum);
    for (int v = 0; v < n; v++) {
        const uint16_t *restrict a = step->a + v * share, *restrict e = step->e + v * share;
        const uint16_t next = past_least(step->next[k * n + v], step->next_least[k]);
        uint16_t *restrict best = sum + v * share % n;
        if (next > threshold) continue;
        for (int i = 0; i < share; i++) {
            uint16_t d = (uint16_t)(e[i] - (uint16_t)((a[i] & 255u) * f0) - (uint16_t)((a[i] >> 8) * f1) + constant);
            uint16_t c = (uint16_t)(d + next);
            c = c < d ? 65535 : c;
            best[i] = c < best[i] ? c : best[i];
        }
    }
}

static void run_scalar(const upg_step *step, int k, uint16_t threshold) {
    const int n = 65536 >> step->s;
    uint16_t *cost = step->cost + k * n, least = 65535;
    sum_scalar(step, k, threshold, cost);
    for (int h = 0; h < n; h++) least = cost[h] < least ? cost[h] : least;
    step->least[k] = least;
}

static void step_scalar(const upg_step *step) {
    for (int k = 0; k < TILES; k++) run_scalar(step, k, UPG_STEP_CAP);
}

static void pruned_scalar(const upg_step *step) {
    for (int k = 0; k < TILES; k++) run_scalar(step, k, step->threshold);
}

static uint32_t choose_scalar(const upg_choice *c) {
    const uint32_t share = 1u << c->s, n = 65536u >> c->s, apart = n >> c->s;
    const uint16_t *restrict a = c->a, *restrict e = c->e, f0 = (uint16_t)c->target[0], f1 = (uint16_t)c->target[1];
    uint16_t d[1 << UPG_TRELLIS_MAX_S];
    for (uint32_t p = 0; p < share; p++)
        d[p] = (uint16_t)(e[p] - (uint16_t)((a[p] & 255u) * f0) - (uint16_t)((a[p] >> 8) * f1) + c->constant);
    uint32_t best = UINT32_MAX; // cost << 8 | fresh bits
    for (uint32_t p = 0; p < share; p++) {
        uint32_t barred = ((p * n + c->h) & c->mask) == c->fixed ? 0 : UPG_STEP_BARRED;
        uint32_t key = (barred + d[p] + past_least(c->next[p * apart], c->least)) << 8 | p;
        best = key < best ? key : best;
    }
    return best & 255;
}

static bool always(void) {
    return true;
}
#ifdef __x86_64__
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2");
}
#endif

enum { NONE = UPG_TRELLIS_MAX_S + 1 };
#define AVX512 32, has_avx512, upg_search_step_avx512, upg_search_pruned_avx512, upg_search_choose_avx512, 6
#define AVX2   16, has_avx2, upg_search_step_avx2, upg_search_pruned_avx2, choose_scalar, NONE
#define PLAIN  0, always, step_scalar, pruned_scalar, choose_scalar, NONE
// Best first. An instruction set that only the CPU backend knows searches with the best below it.
static const kernel kernels[] = {
#ifdef __x86_64__
    {"avx512", AVX512}, {"amx", AVX512},    {"avx2", AVX2},  {"avxvnni", AVX2}, {"sse41", PLAIN},
#endif
    {"scalar", PLAIN},
#ifdef __aarch64__
    {"neon", PLAIN},    {"dotprod", PLAIN}, {"i8mm", PLAIN},
#endif
};

static const kernel *find_kernel(const char *isa, upg_error *e) {
    if (!isa) isa = getenv("UPG_ISA");
    bool any = !isa || !*isa;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        const kernel *k = &kernels[i];
        if (!any && strcmp(isa, k->name) != 0) continue;
        if (k->supported()) return k;
        if (!any) {
            upg_fail(e, "trellis search: this processor does not support %s", isa);
            return NULL;
        }
    }
    upg_fail(e, "trellis search: unknown instruction set '%s'", isa);
    return NULL;
}

static void fill_entry(uint16_t *table, uint32_t at, uint32_t window) {
    int8_t w[2];
    upg_trellis_weights(window, w);
    table[at] = (uint16_t)((w[0] + 127) | (w[1] + 127) << 8);
    table[65536 + at] = (uint16_t)((w[0] + 127) | (128 - w[1]) << 8);
    table[131072 + at] = (uint16_t)half_square(w[0], w[1]);
}

// The tables in visiting order: blocks of two vectors of h; in a block all p; in that, the block's lanes. The plain
// step visits windows in natural order. A vector of 32 lanes that spans two v (s = 4) holds them alternately.
static void fill_tables(upg_search *search) {
    const int s = search->s, lanes = search->kernel->lanes;
    const uint32_t n = 65536u >> s, block = lanes ? 2 * (uint32_t)lanes : 65536;
    for (uint32_t at = 0; at < 65536; at++) {
        uint32_t lane = at % block, p = at / block & ((1u << s) - 1), h = (at / block >> s) * block;
        if (s == 4 && lanes == 32) lane = (lane & 32) | (lane & 1) << 4 | (lane & 31) >> 1;
        fill_entry(search->table, at, p * n + h + lane);
        fill_entry(search->natural, at, at);
        uint32_t beside = (at % n) << s | at / n;
        search->fan[beside] = search->natural[at];
        search->fan[65536 + beside] = search->natural[131072 + at];
    }
}

upg_search *upg_search_new(int s, const char *isa, upg_error *e) {
    if (s < UPG_TRELLIS_MIN_S || s > UPG_TRELLIS_MAX_S) {
        upg_fail(e, "trellis search: %d bits a step, must be %d to %d", s, UPG_TRELLIS_MIN_S, UPG_TRELLIS_MAX_S);
        return NULL;
    }
    const kernel *k = find_kernel(isa, e);
    if (!k) return NULL;
    upg_search *search = upg_alloc(1, sizeof *search, e);
    if (!search) return NULL;
    const size_t n = 65536u >> s, row = TILES * n * sizeof(uint16_t);
    search->s = s;
    search->n = (int)n;
    search->kernel = k;
    search->table = upg_aligned_alloc(3 * 65536 * sizeof(uint16_t), e);
    search->natural = search->table ? upg_aligned_alloc(3 * 65536 * sizeof(uint16_t), e) : NULL;
    search->fan = search->natural ? upg_aligned_alloc(2 * 65536 * sizeof(uint16_t), e) : NULL;
    search->cost = search->fan ? upg_aligned_alloc((STEPS + 1) * row, e) : NULL;
    search->folded = search->cost ? upg_aligned_alloc(TILES * (n + UPG_STEP_PAD) * sizeof(uint16_t), e) : NULL;
    if (!search->folded) {
        upg_search_free(search);
        return NULL;
    }
    fill_tables(search);
    return search;
}

void upg_search_free(upg_search *search) {
    if (!search) return;
    upg_aligned_free(search->table);
    upg_aligned_free(search->natural);
    upg_aligned_free(search->fan);
    upg_aligned_free(search->cost);
    upg_aligned_free(search->folded);
    free(search);
}

enum { SMALL = 129 }; // |t0| + |t1| up to here can't saturate a product with table A: 254 * 129 < 32768

// What kind of step a target asks for.
static upg_step_kind kind_of(int t0, int t1) {
    if (abs(t0) > 127 || abs(t1) > 127 || largest_cost(t0, t1) + UPG_STEP_CAP > 65535) return UPG_STEP_SPLIT;
    return t0 * t1 > 0 && abs(t0) + abs(t1) > SMALL ? UPG_STEP_TWO_TABLES : UPG_STEP_ONE_TABLE;
}

// Everything a kernel needs to know about the target of tile k in a step of kind step->kinds[k].
static void set_target(upg_step *step, int k, const int16_t t[2]) {
    const upg_step_kind kind = step->kinds[k];
    int t0 = t[0], t1 = t[1], u0 = t0, u1 = t1, v0 = 0, v1 = 0;
    step->target[k][0] = t[0];
    step->target[k][1] = t[1];
    step->use_b[k] = kind == UPG_STEP_TWO_TABLES && kind_of(t0, t1) == UPG_STEP_TWO_TABLES;
    step->constant[k] = target_constant(t0, t1);
    if (step->use_b[k]) {
        u1 = -t1;
        step->constant[k] = (uint16_t)(step->constant[k] - 255 * t1);
    } else if (kind == UPG_STEP_SPLIT) {
        // confine() keeps |t0| + |t1| <= 258 where the signs agree; halves rounded against each other stay within
        // SMALL.
        v0 = t0 / 2, u0 = t0 - v0;
        u1 = t1 / 2, v1 = t1 - u1;
    }
    step->factor[k][0] = (uint16_t)((u0 & 255) | (u1 & 255) << 8);
    step->factor[k][1] = (uint16_t)((v0 & 255) | (v1 & 255) << 8);
}

// One step for all tiles.
static void run_step(const upg_search *search, const group *g, int i, upg_step *step) {
    step->kind = UPG_STEP_ONE_TABLE;
    for (int k = 0; k < TILES; k++) {
        step->kinds[k] = kind_of((*g)[k][2 * i], (*g)[k][2 * i + 1]);
        if (step->kinds[k] > step->kind) step->kind = step->kinds[k];
    }
    for (int k = 0; k < TILES; k++) {
        if (!step->threshold) step->kinds[k] = step->kind;
        set_target(step, k, &(*g)[k][2 * i]);
    }
    if (step->threshold)
        search->kernel->pruned(step);
    else
        search->kernel->step(step);
}

// Fills costs to go for `steps` steps from step `first` of the tile on, round its end if need be; after the last one
// only end[k] may be inherited (NULL: anything). The cost before the first step is left out unless asked for.
static void costs_to_go(upg_search *search, const group *g, int first, int steps, uint16_t threshold,
                        const uint32_t *end, bool whole) {
    const size_t n = (size_t)search->n, row = TILES * n;
    const uint16_t *table = threshold && search->s < search->kernel->blocks_from ? search->natural : search->table;
    upg_step step = {.s = search->s, .threshold = threshold, .folded = search->folded};
    step.a = table;
    step.b = table + 65536;
    step.e = table + 2 * 65536;
    memset(search->least[steps], 0, sizeof search->least[steps]);
    for (size_t k = 0; k < TILES; k++)
        for (size_t h = 0; h < n; h++)
            search->cost[(size_t)steps * row + k * n + h] = !end || h == end[k] ? 0 : UPG_STEP_CAP;
    for (int j = steps - 1; j >= !whole; j--) {
        step.next = search->cost + (size_t)(j + 1) * row;
        step.next_least = search->least[j + 1];
        step.cost = search->cost + (size_t)j * row;
        step.least = search->least[j];
        run_step(search, g, (first + j) % STEPS, &step);
    }
}

// Costs to go from step j+1 of a pass for the windows of tile k that inherit h at step j: one for each value of the
// fresh bits, 2^(16-2S) apart.
static const uint16_t *next_costs(const upg_search *search, int k, int j, uint32_t h) {
    return search->cost + ((size_t)(j + 1) * TILES + (size_t)k) * (size_t)search->n + (h >> search->s);
}

// Asks for the memory that best_window() will read. The tiles take turns, so it arrives meanwhile.
static void fetch(const upg_search *search, int k, int j, uint32_t h) {
    const size_t n = (size_t)search->n, stride = n >> search->s, line = 32;
    const uint16_t *fan = search->fan + ((size_t)h << search->s), *next = next_costs(search, k, j, h);
    for (size_t i = 0; i < (size_t)1 << search->s; i += line) {
        __builtin_prefetch(fan + i);
        __builtin_prefetch(fan + 65536 + i);
    }
    for (size_t i = 0; i < n; i += stride < line ? line : stride) __builtin_prefetch(next + i);
}

// The best window of tile k for step j of a pass, with target t, that inherits h and has `fixed` under `mask`; of
// several the one with the lowest fresh bits.
static uint32_t best_window(const upg_search *search, int k, int j, const int16_t t[2], uint32_t h, uint32_t mask,
                            uint32_t fixed) {
    const uint16_t *a = search->fan + (h << search->s);
    upg_choice choice = {.s = search->s, .a = a, .e = a + 65536, .next = next_costs(search, k, j, h)};
    choice.least = search->least[j + 1][k];
    choice.target[0] = t[0];
    choice.target[1] = t[1];
    choice.constant = target_constant(t[0], t[1]);
    choice.h = h;
    choice.mask = mask;
    choice.fixed = fixed;
    return search->kernel->choose(&choice) * (uint32_t)search->n + h;
}

// What the tiles inherit at the seam, by a search over `around` steps on each side of it.
static void find_seams(const upg_search *search, const group *g, int around, uint32_t *h) {
    for (int k = 0; k < TILES; k++) {
        const uint16_t *cost = search->cost + (size_t)k * (size_t)search->n;
        h[k] = 0;
        for (uint32_t i = 1; i < (uint32_t)search->n; i++)
            if (cost[i] < cost[h[k]]) h[k] = i;
    }
    for (int j = 0; j < around; j++)
        for (int k = 0; k < TILES; k++) {
            h[k] = best_window(search, k, j, &(*g)[k][2 * (STEPS - around + j)], h[k], 0, 0) >> search->s;
            fetch(search, k, j + 1, h[k]);
        }
}

// Reads off the windows of the tiles, each of which inherits start[k] at its beginning and leaves it at its end.
static void trace(const upg_search *search, const group *g, const uint32_t *start, uint16_t windows[TILES][STEPS]) {
    uint32_t h[TILES];
    memcpy(h, start, sizeof h);
    for (int i = 0; i < STEPS; i++) {
        // The last windows' upper bits lie beyond the end of the tile, where it begins anew.
        const int over = search->s * i + 16 - search->s * STEPS, shift = over > 0 ? 16 - over : 16;
        const uint32_t mask = 0xffffu << shift & 0xffff;
        for (int k = 0; k < TILES; k++) {
            uint32_t w = best_window(search, k, i, &(*g)[k][2 * i], h[k], mask, start[k] << shift & mask);
            windows[k][i] = (uint16_t)w;
            h[k] = w >> search->s;
            if (i + 1 < STEPS) fetch(search, k, i + 1, h[k]);
        }
    }
}

// The circular bit string: S bits of each window.
static void pack(int s, const uint16_t *windows, uint32_t *codes, int8_t *decoded) {
    memset(codes, 0, (size_t)upg_trellis_words(s) * sizeof *codes);
    for (int i = 0; i < STEPS; i++) {
        uint32_t bits = windows[i] & ((1u << s) - 1);
        int bit = s * i, shift = bit & 31;
        codes[bit >> 5] |= bits << shift;
        if (shift + s > 32) codes[(bit >> 5) + 1] |= bits >> (32 - shift);
        upg_trellis_weights(windows[i], decoded + 2 * i);
    }
}

// Rounds a pair of targets and shortens the longer one until every D is below 2^16. That leaves at least 127 of each:
// more than a weight.
static void confine(const float *x, int16_t *t) {
    int v[2];
    for (int j = 0; j < 2; j++) {
        float y = x[j] > -255.0f ? x[j] : -255.0f;
        v[j] = (int)lrintf(y < 255.0f ? y : 255.0f);
    }
    while (largest_cost(v[0], v[1]) > 65535) {
        int *longer = abs(v[0]) > abs(v[1]) ? &v[0] : &v[1];
        *longer -= *longer > 0 ? 1 : -1;
    }
    t[0] = (int16_t)v[0];
    t[1] = (int16_t)v[1];
}

void upg_search_half_squares(uint16_t *half) {
    for (uint32_t w = 0; w < 65536; w++) {
        int8_t v[2];
        upg_trellis_weights(w, v);
        half[w] = (uint16_t)half_square(v[0], v[1]);
    }
}

void upg_search_settings(upg_search_mode mode, int s, int *around, uint16_t *threshold) {
    *around = modes[mode].around;
    *threshold = modes[mode].threshold[s - UPG_TRELLIS_MIN_S];
}

void upg_search_tiles(upg_search *search, upg_search_mode mode, const float *x, int n_tiles, uint32_t *codes,
                      int8_t *decoded) {
    int around;
    uint16_t threshold;
    upg_search_settings(mode, search->s, &around, &threshold);
    const size_t words = (size_t)upg_trellis_words(search->s);
    group g;
    uint32_t h[TILES];
    uint16_t windows[TILES][STEPS];
    for (int first = 0; first < n_tiles; first += TILES) {
        const int n = n_tiles - first < TILES ? n_tiles - first : TILES;
        for (int k = 0; k < TILES; k++) {
            const float *tile = x + (size_t)(first + (k < n ? k : n - 1)) * TILE;
            for (int i = 0; i < TILE; i += 2) confine(tile + i, &g[k][i]);
        }
        costs_to_go(search, &g, STEPS - around, 2 * around, threshold, NULL, true);
        find_seams(search, &g, around, h);
        costs_to_go(search, &g, 0, STEPS, threshold, h, false);
        trace(search, &g, h, windows);
        for (int k = 0; k < n; k++) {
            size_t tile = (size_t)(first + k);
            pack(search->s, windows[k], codes + tile * words, decoded + tile * TILE);
        }
    }
}
