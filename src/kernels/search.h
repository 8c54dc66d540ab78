// The search for trellis codes: codec/search.c, which says what it is, for four tiles a group. Same codes, bit by bit.
#pragma once
#include "kernels/codes.h"

enum { SEARCH_TILES = 4, SEARCH_STEPS = 128, SEARCH_CAP = 0x3fff, SEARCH_BARRED = 1 << 20 };

// A window's product: bytes f0+f2 and f1+f3, which are its weights and 127, in the lower half.
FN uint32_t search_sums(uint32_t product) {
    const uint32_t fields = product & 0x7f7f7f7f;
    return fields + (fields >> 16);
}
FN int32_t search_half_square(int32_t a, int32_t b) {
    return (a * a + b * b + 1) >> 1;
}
FN int32_t search_size(int32_t a) {
    return a < 0 ? -a : a;
}

// A pair of targets as integers, drawn in until no cost passes 16 bits.
FN void search_confine(float x0, float x1, int32_t *t) {
    const float x[2] = {x0, x1};
    for (int i = 0; i < 2; i++) {
        const float y = x[i] > -255.0f ? x[i] : -255.0f;
        t[i] = (int32_t)rounded(y < 255.0f ? y : 255.0f);
    }
    while (search_half_square(t[0], t[1]) + 16129 + 127 * (search_size(t[0]) + search_size(t[1])) > 65535) {
        const int longer = search_size(t[0]) > search_size(t[1]) ? 0 : 1;
        t[longer] -= t[longer] > 0 ? 1 : -1;
    }
}

// Costs before a step of states h..h+C-1, C at most 2^S, less the targets' constants: the least over the fresh bits.
// next: [n][2] words, four 16-bit costs to go; half: E of every window.
FN void search_states(const int C, uint32_t s, uint32_t h, LOCAL const uint32_t *next, GLOBAL const uint16_t *half,
                      const uint32_t *targets, int32_t (*least)[SEARCH_TILES]) {
    const uint32_t n = 65536u >> s, apart = n >> s;
    UNROLL(4)
    for (int i = 0; i < C; i++)
        for (int k = 0; k < SEARCH_TILES; k++) least[i][k] = 0x7fffffff;
    LOCAL const uint32_t *to_go = next + (h >> s) * 2;
    GLOBAL const uint32_t *e = (GLOBAL const uint32_t *)(GLOBAL const void *)(half + (C > 1 ? h : 0));
    uint32_t product = h * TRELLIS_MULTIPLIER;
    UNROLL(4)
    for (uint32_t p = 0; p < 1u << s; p++) {
        const uint32_t a = to_go[0], b = to_go[1];
        const int32_t c[SEARCH_TILES] = {(int32_t)(a & 65535), (int32_t)(a >> 16), (int32_t)(b & 65535),
                                         (int32_t)(b >> 16)};
        uint32_t pair[2] = {0, 0};
        if (C > 1) {
            pair[0] = e[0];
            if (C > 2) pair[1] = e[1];
        }
        UNROLL(4)
        for (int i = 0; i < C; i++) {
            const uint32_t sums = search_sums(product + (uint32_t)i * TRELLIS_MULTIPLIER);
            const int32_t square = C == 1 ? (int32_t)half[p * n + h] : (int32_t)(pair[i / 2] >> 16 * (i % 2) & 65535);
            UNROLL(4)
            for (int k = 0; k < SEARCH_TILES; k++)
                least[i][k] = least_sum(dot_pair(targets[k], sums, square), c[k], least[i][k]);
        }
        product += (uint32_t)n * TRELLIS_MULTIPLIER;
        to_go += 2 * apart;
        e += n / 2;
    }
}

// A step backward for all states of all four tiles: raw costs to `cost`, [n][2] words, and their minima.
FN void search_step(const int C, const gpu_search_args *a, uint32_t j, LOCAL const uint32_t *next,
                    GLOBAL const uint16_t *half, const uint32_t *targets, const int32_t *constants,
                    GLOBAL uint32_t *cost, uint32_t *best) {
    const uint32_t each = (65536u >> a->s) / GROUP_LANES;
    for (uint32_t h = j * each; h < (j + 1) * each; h += (uint32_t)C) {
        int32_t least[4][SEARCH_TILES];
        search_states(C, a->s, h, next, half, targets, least);
        for (int i = 0; i < C; i++) {
            uint32_t out[SEARCH_TILES];
            for (int k = 0; k < SEARCH_TILES; k++) {
                const int32_t v = least[i][k] + constants[k];
                out[k] = v < 65535 ? (uint32_t)v : 65535;
                best[k] = out[k] < best[k] ? out[k] : best[k];
            }
            cost[2 * (h + (uint32_t)i)] = out[0] | out[1] << 16;
            cost[2 * (h + (uint32_t)i) + 1] = out[2] | out[3] << 16;
        }
    }
}

FN uint32_t search_past(uint32_t cost, uint32_t least) {
    return cost - least < SEARCH_CAP ? cost - least : SEARCH_CAP;
}
// As a step reads it: what is too far from the least is left out.
FN uint32_t search_pruned(uint32_t word, uint32_t threshold) {
    const uint32_t low = word & 65535, high = word >> 16;
    return (low > threshold ? 65535 : low) | (high > threshold ? 65535 : high) << 16;
}

// The costs behind the last step: nothing if it leaves what the tile inherits (start), or whatever it leaves.
FN void search_ends(const gpu_search_args *a, LOCAL const uint32_t *start, uint32_t bound, GLOBAL uint32_t *cost,
                    LOCAL uint32_t *next) {
    LANES(j) {
        for (uint32_t h = j; h < 65536u >> a->s; h += GROUP_LANES)
            for (uint32_t i = 0; i < 2; i++) {
                const uint32_t low = !bound || start[2 * i] == h ? 0 : SEARCH_CAP,
                               high = !bound || start[2 * i + 1] == h ? 0 : SEARCH_CAP;
                cost[2 * h + i] = low | high << 16;
                next[2 * h + i] = search_pruned(low | high << 16, a->threshold);
            }
    }
}

// Costs to go before `steps` steps from step `first` on, down to step `last` of them: 0, or 1 where the first one's are
// not asked for. costs: of steps 0, 1, ... of the pass.
FN void search_costs(const gpu_search_args *a, uint32_t first, uint32_t steps, uint32_t last,
                     LOCAL const uint32_t *target, LOCAL const int32_t *constant, GLOBAL const uint16_t *half,
                     GLOBAL uint32_t *costs, LOCAL uint32_t *next, LOCAL uint32_t *least) {
    const uint32_t n = 65536u >> a->s;
    for (uint32_t i = steps; i-- > last;) {
        const uint32_t at = (first + i) % SEARCH_STEPS;
        GLOBAL uint32_t *cost = costs + (uint64_t)i * 2 * n;
        LANES(j) {
            uint32_t targets[SEARCH_TILES], best[SEARCH_TILES];
            int32_t constants[SEARCH_TILES];
            for (uint32_t k = 0; k < SEARCH_TILES; k++) {
                targets[k] = target[k * SEARCH_STEPS + at];
                constants[k] = constant[k * SEARCH_STEPS + at];
                best[k] = 65535;
            }
            if (a->s <= 6)
                search_step(4, a, j, next, half, targets, constants, cost, best);
            else if (a->s == 7)
                search_step(2, a, j, next, half, targets, constants, cost, best);
            else
                search_step(1, a, j, next, half, targets, constants, cost, best);
            for (uint32_t k = 0; k < SEARCH_TILES; k++) take_least(&least[i % 2 * SEARCH_TILES + k], best[k]);
        }
        LANES(j) {
            const uint32_t each = n / GROUP_LANES;
            LOCAL const uint32_t *m = least + i % 2 * SEARCH_TILES;
            for (uint32_t w = j * each * 2; w < (j + 1) * each * 2; w++) {
                const uint32_t raw = cost[w], k = w % 2 * 2,
                               v = search_past(raw & 65535, m[k]) | search_past(raw >> 16, m[k + 1]) << 16;
                cost[w] = v;
                next[w] = search_pruned(v, a->threshold);
            }
            if (j < SEARCH_TILES) least[(i + 1) % 2 * SEARCH_TILES + j] = 65535;
        }
    }
}

// The windows forward: steps `from`.. of the tiles by the costs of steps 0.. of the pass before. bound: the last ones
// end in what the tile begins with. 64 lanes a tile.
FN void search_trace(const gpu_search_args *a, uint32_t from, uint32_t steps, uint32_t bound,
                     LOCAL const uint32_t *target, LOCAL const int32_t *constant, GLOBAL const uint16_t *half,
                     GLOBAL const uint32_t *costs, LOCAL uint32_t *state, LOCAL const uint32_t *start,
                     LOCAL uint32_t *key, LOCAL uint32_t *windows) {
    const uint32_t s = a->s, n = 65536u >> s, apart = n >> s;
    for (uint32_t i = 0; i < steps; i++) {
        const int32_t over = (int32_t)(s * i + 16) - (int32_t)(s * SEARCH_STEPS), shift = over > 0 ? 16 - over : 16;
        const uint32_t mask = bound ? 0xffffu << shift & 0xffff : 0;
        LANES(j) {
            const uint32_t k = j / 64, h = state[k], fixed = start[k] << shift & mask;
            uint32_t best = 0xffffffff;
            for (uint32_t p = j % 64; p < 1u << s; p += 64) {
                const uint32_t w = p * n + h, sums = search_sums(w * TRELLIS_MULTIPLIER),
                               word = costs[((uint64_t)(i + 1) * n + p * apart + (h >> s)) * 2 + k / 2],
                               to_go = word >> 16 * (k % 2) & 65535, barred = (w & mask) == fixed ? 0 : SEARCH_BARRED;
                const int32_t d = dot_pair(target[k * SEARCH_STEPS + from + i], sums, (int32_t)half[w]) +
                                  constant[k * SEARCH_STEPS + from + i];
                const uint32_t mine = (barred + (uint32_t)d + to_go) << 8 | p;
                best = mine < best ? mine : best;
            }
            take_least(&key[k], best);
        }
        LANES(j) {
            if (j < SEARCH_TILES) {
                const uint32_t w = (key[j] & 255) * n + state[j];
                windows[j * SEARCH_STEPS + i] = w;
                state[j] = w >> s;
                key[j] = 0xffffffff;
            }
        }
    }
}

// Tile t of a launch is band t % bands at column step first_step + t / bands.
KERNEL(kernel_search, gpu_search_args, GROUP_LANES) {
    GLOBAL const uint16_t *half = (GLOBAL const uint16_t *)(GLOBAL const void *)weight;
    const uint32_t s = a->s, n = 65536u >> s, tiles = a->bands * a->steps;
    GLOBAL uint32_t *costs = (GLOBAL uint32_t *)(GLOBAL void *)kv + (uint64_t)GROUP_X * (SEARCH_STEPS + 1) * 2 * n;
    SHARED(uint32_t, next, 8192);
    SHARED(uint32_t, target, SEARCH_TILES * SEARCH_STEPS); // pairs of 16 bits, negated
    SHARED(int32_t, constant, SEARCH_TILES * SEARCH_STEPS);
    SHARED(uint32_t, windows, SEARCH_TILES * SEARCH_STEPS);
    SHARED(uint32_t, least, 2 * SEARCH_TILES);
    SHARED(uint32_t, key, SEARCH_TILES);
    SHARED(uint32_t, state, SEARCH_TILES);
    SHARED(uint32_t, start, SEARCH_TILES);
    for (uint32_t group = GROUP_X; group * SEARCH_TILES < tiles; group += a->groups) {
        LANES(j) {
            for (uint32_t i = j; i < SEARCH_TILES * SEARCH_STEPS; i += GROUP_LANES) {
                const uint32_t k = i / SEARCH_STEPS, of = i % SEARCH_STEPS, own = group * SEARCH_TILES + k,
                               tile = own < tiles ? own : tiles - 1, row = tile % a->bands * 16 + of / 8,
                               col = (a->first_step + tile / a->bands) * 16 + of % 8 * 2;
                GLOBAL const float *x = WORK(const float, a->target) + (uint64_t)row * a->n + col;
                float x0 = x[0], x1 = x[1];
                const float inverse = WORK(const float, a->inverse)[row];
                if (a->sum) {
                    GLOBAL const float *f = WORK(const float, a->sum) + (uint64_t)row * a->n + col;
                    x0 = x0 + f[0];
                    x1 = x1 + f[1];
                }
                int32_t t[2];
                search_confine(x0 * inverse, x1 * inverse, t);
                target[i] = ((uint32_t)-t[0] & 65535) | (uint32_t)-t[1] << 16;
                constant[i] = search_half_square(t[0], t[1]) + 127 * (t[0] + t[1]);
            }
            if (j < 2 * SEARCH_TILES) least[j] = 65535;
            if (j < SEARCH_TILES) key[j] = 0xffffffff;
        }
        // What to inherit at the seam, then all of the tile.
        search_ends(a, start, 0, costs + (uint64_t)2 * a->around * 2 * n, next);
        search_costs(a, SEARCH_STEPS - a->around, 2 * a->around, 0, target, constant, half, costs, next, least);
        LANES(j) {
            for (uint32_t h = j; h < n; h += GROUP_LANES)
                for (uint32_t k = 0; k < SEARCH_TILES; k++)
                    if (!(costs[2 * h + k / 2] >> 16 * (k % 2) & 65535)) take_one_least(&key[k], h);
        }
        LANES(j) {
            if (j < SEARCH_TILES) {
                state[j] = key[j];
                key[j] = 0xffffffff;
            }
            if (j < 2 * SEARCH_TILES) least[j] = 65535;
        }
        search_trace(a, SEARCH_STEPS - a->around, a->around, 0, target, constant, half, costs, state, state, key,
                     windows);
        LANES(j) {
            if (j < SEARCH_TILES) start[j] = state[j];
        }
        search_ends(a, start, 1, costs + (uint64_t)SEARCH_STEPS * 2 * n, next);
        search_costs(a, 0, SEARCH_STEPS, 1, target, constant, half, costs, next, least);
        search_trace(a, 0, SEARCH_STEPS, 1, target, constant, half, costs, state, start, key, windows);
        LANES(j) {
            for (uint32_t i = j; i < SEARCH_TILES * 4 * s; i += GROUP_LANES) {
                const uint32_t k = i / (4 * s), word = i % (4 * s), tile = group * SEARCH_TILES + k;
                uint32_t v = 0;
                for (uint32_t step = word * 32 / s; step < SEARCH_STEPS && step * s < word * 32 + 32; step++) {
                    const uint32_t bits = windows[k * SEARCH_STEPS + step] & ((1u << s) - 1);
                    v |= step * s < word * 32 ? bits >> (word * 32 - step * s) : bits << (step * s - word * 32);
                }
                if (tile < tiles) WORK(uint32_t, a->codes)
                [((uint64_t)(tile % a->bands) * (a->n / 16) + a->first_step + tile / a->bands) * (4 * s) + word] = v;
            }
            for (uint32_t i = j; i < SEARCH_TILES * SEARCH_STEPS; i += GROUP_LANES) {
                const uint32_t tile = group * SEARCH_TILES + i / SEARCH_STEPS, of = i % SEARCH_STEPS,
                               sums = search_sums(windows[i] * TRELLIS_MULTIPLIER), row = tile % a->bands * 16 + of / 8,
                               col = (a->first_step + tile / a->bands) * 16 + of % 8 * 2;
                if (tile >= tiles) continue;
                const uint64_t at = (uint64_t)row * a->n + col;
                const int32_t w0 = (int32_t)(sums & 255) - 127, w1 = (int32_t)(sums >> 8 & 255) - 127;
                GLOBAL int8_t *decoded = (GLOBAL int8_t *)WORK(uint8_t, a->decoded) + at;
                decoded[0] = (int8_t)w0;
                decoded[1] = (int8_t)w1;
                if (!a->error) continue;
                const float scale = WORK(const float, a->scale)[row];
                GLOBAL const float *x = WORK(const float, a->target) + at;
                GLOBAL float *error = WORK(float, a->error) + at;
                error[0] = x[0] - scale * (float)w0;
                error[1] = x[1] - scale * (float)w1;
            }
        }
    }
}
