// The trellis code and its encoder: the code is frozen by vectors, the search is held against a plain Viterbi in double
// precision, and every instruction set must give the same bits.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "backend/cpu/cpu.h"
#include "codec/search.h"

enum { TILE = 256, STEPS = UPG_TRELLIS_STEPS, MAX_WORDS = 4 * UPG_TRELLIS_MAX_S };

static const char *const isas[] = {"scalar", "avx2", "avx512"};
enum { N_ISAS = sizeof isas / sizeof *isas };

// Standard deviation of the codebook over that of the weights, for S = 4..8.
static const double codebook_scale[] = {1.04, 1.08, 1.16, 1.20, 1.28};

static uint64_t fnv(const void *data, size_t n) { // FNV-1a
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint32_t random_bits(uint64_t *state) { // splitmix64
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

// Near enough to a unit Gaussian, and exact arithmetic: the same on every machine.
static float gauss(uint64_t *state) {
    int64_t sum = 0;
    for (int i = 0; i < 12; i++) sum += random_bits(state) >> 8;
    return (float)(sum - 6 * ((int64_t)1 << 24)) * 0x1p-24f;
}

static float *gaussian_targets(int s, int n_tiles, uint64_t seed) {
    float *x = test_malloc((size_t)n_tiles * TILE * sizeof *x);
    const float scale = (float)(UPG_TRELLIS_STD / codebook_scale[s - UPG_TRELLIS_MIN_S]);
    for (int i = 0; i < n_tiles * TILE; i++) x[i] = gauss(&seed) * scale;
    return x;
}

static upg_search *open_search(int s, const char *isa) {
    upg_error e = {{0}};
    upg_search *search = upg_search_new(s, isa, &e);
    if (!search) fail_msg("%s", e.message);
    return search;
}

// Property: the codebook's documented standard deviation is that of all its weights.
static void test_std(void **state) {
    (void)state;
    int64_t sum = 0, squares = 0;
    for (uint32_t window = 0; window < 65536; window++) {
        int8_t w[2];
        upg_trellis_weights(window, w);
        for (int j = 0; j < 2; j++) {
            assert_in_range(w[j] + 127, 0, 254);
            sum += w[j];
            squares += w[j] * w[j];
        }
    }
    double mean = (double)sum / 131072, std = sqrt((double)squares / 131072 - mean * mean);
    assert_true(fabs(std - UPG_TRELLIS_STD) < 1e-12);
}

// Property: a window's weights never change.
static void test_frozen_code(void **state) {
    (void)state;
    static const struct {
        uint32_t window;
        int8_t w[2];
    } known[] = {{0, {-127, -127}}, {1, {37, 52}},      {2, {74, -24}},      {255, {62, -15}},    {256, {-29, 37}},
                 {4660, {-18, 48}}, {32767, {48, -67}}, {32768, {-43, -14}}, {43981, {-15, -27}}, {65535, {5, -81}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int8_t w[2];
        upg_trellis_weights(known[i].window, w);
        assert_int_equal(w[0], known[i].w[0]);
        assert_int_equal(w[1], known[i].w[1]);
    }
    static int8_t all[65536][2];
    for (uint32_t window = 0; window < 65536; window++) upg_trellis_weights(window, all[window]);
    assert_true(fnv(all, sizeof all) == 0xa94f2db6e3bf0e5cu);
}

// Property: window i holds bits S*i .. S*i+15 of the circular, little-endian bit string, at any stride of its words.
static void test_window(void **state) {
    (void)state;
    uint64_t seed = 3;
    for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++)
        for (size_t stride = 1; stride <= 16; stride += 15) {
            uint32_t words[MAX_WORDS * 16];
            for (int i = 0; i < MAX_WORDS * 16; i++) words[i] = random_bits(&seed);
            for (int i = 0; i < STEPS; i++) {
                uint32_t expected = 0;
                for (int j = 0; j < 16; j++) {
                    int bit = (s * i + j) % (s * STEPS);
                    expected |= (words[(size_t)(bit / 32) * stride] >> bit % 32 & 1) << j;
                }
                assert_int_equal(upg_trellis_window(words, stride, s, i), expected);
            }
        }
}

// Property: the search reports the weights that a reader of its codes sees, also where the tile wraps round.
static void check_decoded(int s, const uint32_t *codes, const int8_t *decoded) {
    for (int i = 0; i < STEPS; i++) {
        int8_t w[2];
        uint32_t window = upg_trellis_window(codes, 1, s, i), next = upg_trellis_window(codes, 1, s, (i + 1) % STEPS);
        upg_trellis_weights(window, w);
        assert_memory_equal(w, decoded + 2 * i, 2);
        assert_int_equal(window >> s, next & ((1u << (16 - s)) - 1));
    }
}

// Tiles that strain the integer metrics: zeros, constants, huge values, and targets about every limit of the kernels.
enum { STRAINED = 16 };
static float *strained_targets(void) {
    float *x = test_malloc(STRAINED * TILE * sizeof *x);
    static const float constants[] = {0.0f, 1e30f, -1e30f, 127.0f, -127.0f, 64.5f, -65.0f, 1e-40f};
    uint64_t seed = 17;
    for (int i = 0; i < TILE; i++) {
        for (int k = 0; k < 8; k++) x[k * TILE + i] = constants[k];
        x[8 * TILE + i] = i & 1 ? 1e30f : -1e30f;
        x[9 * TILE + i] = i & 2 ? 3e38f : -3e38f;
        x[10 * TILE + i] = gauss(&seed) * 40;
        x[11 * TILE + i] = gauss(&seed) * 80;
        x[12 * TILE + i] = gauss(&seed) * 200;
        x[13 * TILE + i] = (float)(int32_t)random_bits(&seed);
        x[14 * TILE + i] = (float)(random_bits(&seed) % 3) * 64.5f - 64.5f;
        x[15 * TILE + i] = i == 100 ? 1e30f : 0.0f;
    }
    return x;
}

// Property: every instruction set finds the same codes, bit for bit, for ordinary and for strained targets; and they
// decode to what the search says.
static void test_instruction_sets_agree(void **state) {
    (void)state;
    enum { ORDINARY = 6, N = ORDINARY + STRAINED };
    for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++)
        for (int mode = UPG_SEARCH_SEAM; mode <= UPG_SEARCH_FAST; mode++) {
            float *ordinary = gaussian_targets(s, ORDINARY, 5), *strained = strained_targets();
            float *x = test_malloc(N * TILE * sizeof *x);
            // Mixed, so that tiles of both sorts are searched together.
            for (int k = 0, a = 0, b = 0; k < N; k++)
                memcpy(x + k * TILE,
                       (k % 4 == 1 && a < ORDINARY) || b == STRAINED ? ordinary + TILE * a++ : strained + TILE * b++,
                       TILE * sizeof *x);
            static uint32_t codes[N * MAX_WORDS], first[N * MAX_WORDS];
            static int8_t decoded[N * TILE];
            for (int i = 0; i < N_ISAS; i++) {
                upg_search *search = upg_search_new(s, isas[i], NULL);
                if (!search) continue;
                memset(codes, 255, sizeof codes);
                upg_search_tiles(search, (upg_search_mode)mode, x, N, codes, decoded);
                if (i == 0) memcpy(first, codes, sizeof codes);
                assert_memory_equal(codes, first, (size_t)N * (size_t)upg_trellis_words(s) * 4);
                for (int k = 0; k < N; k++) check_decoded(s, codes + k * upg_trellis_words(s), decoded + k * TILE);
                upg_search_free(search);
            }
            test_free(x);
            test_free(strained);
            test_free(ordinary);
        }
}

// Property: a tile's codes depend on that tile alone, however many are given in a call.
static void test_grouping(void **state) {
    (void)state;
    static const upg_search_mode modes[] = {UPG_SEARCH_SEAM, UPG_SEARCH_FAST};
    enum { N = 7 };
    for (int i = 0; i < 2 * (UPG_TRELLIS_MAX_S - UPG_TRELLIS_MIN_S + 1); i++) {
        const upg_search_mode mode = modes[i % 2];
        const int s = UPG_TRELLIS_MIN_S + i / 2;
        float *x = gaussian_targets(s, N, 7);
        const size_t words = (size_t)upg_trellis_words(s);
        uint32_t whole[N * MAX_WORDS], parts[N * MAX_WORDS];
        int8_t decoded[N * TILE];
        upg_search *search = open_search(s, NULL);
        upg_search_tiles(search, mode, x, N, whole, decoded);
        for (int size = 1; size < N; size++) {
            memset(parts, 0, sizeof parts);
            for (int k = 0; k < N; k += size)
                upg_search_tiles(search, mode, x + k * TILE, k + size < N ? size : N - k, parts + (size_t)k * words,
                                 decoded);
            assert_memory_equal(parts, whole, N * words * 4);
        }
        upg_search_tiles(search, mode, x, 0, NULL, NULL);
        upg_search_free(search);
        test_free(x);
    }
}

// Property: the codes of a given tile never change, so a file can be made again from the same weights.
static void test_frozen_codes(void **state) {
    (void)state;
    static const char *const known[] = {"3fa7bb71865645470217ee7459acabb1f174396899f50fa88105f8e60905dba7"
                                        "056574a3203d82dd929d269e0aa461281f93f668ca127a91258bdf95dbe61dbf",
                                        "5db969adf760a57958846c5b2971414a6eb23211d7a326f55c574cecea9202b5"
                                        "72457790da8bbd75d16e5b3f9fff4ab8ed9616e347555f750503f477e87914f4"
                                        "d5a72a0e6898dbb826df8cbb7a2e2af2",
                                        "216ddab3dbf5158a5bc1e2677a45e540babd16bcae13102adec641912d20c9b2"
                                        "b90f84d7b22ed94d3eca51be981e277c474fa7a9fafea3256d503d8611f8e9c0"
                                        "30c0201226c2df7ccf64ed31c18b5bbd19021d0ca94caf92b907c7e3932cd1ec",
                                        "0cdc1178f6492bf6ad2976cfe865b8223db69092da2088187c1c5746663bbf7f"
                                        "212ad2aaca9ec221bcff225b95ec0f810ebb3e5cd724760e225918fd16dabcc2"
                                        "935d0ecb4d2f532308efb7d88fcd319581c38fcac602492f117224849f71dd69"
                                        "ed705172281205d8d5838d926519ecaa",
                                        "47dae7d6ad28920f4984a2e72d518892acc29c60cd1885863c78950ed9c16820"
                                        "68baa2b1c0683a71bbbfb3a3649d44fef5baadecb0d5e12b9352ae1121d62cff"
                                        "8ee54f2f9c02b9ea2d41904c5afcf259710d491efc176bfb3994a7473f051858"
                                        "f845956f0315c536e24c8593f2e3246c97e88206871416e44804d32d1d5e334f"};
    for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++) {
        float *x = gaussian_targets(s, 1, 11);
        uint32_t codes[MAX_WORDS];
        int8_t decoded[TILE];
        char hex[MAX_WORDS * 8 + 1];
        upg_search *search = open_search(s, NULL);
        upg_search_tiles(search, UPG_SEARCH_EXACT, x, 1, codes, decoded);
        for (int i = 0; i < upg_trellis_words(s); i++) snprintf(hex + 8 * i, 9, "%08x", (unsigned)codes[i]);
        assert_string_equal(hex, known[s - UPG_TRELLIS_MIN_S]);
        upg_search_free(search);
        test_free(x);
    }
}

static double distance(const float *x, const int8_t *w) {
    double sum = 0;
    for (int i = 0; i < TILE; i++) sum += (x[i] - w[i]) * (x[i] - w[i]);
    return sum;
}

// Property: looking at the whole tile to close the ring is no worse on average than looking near the seam, and leaving
// out windows is no better than that and costs little. Single tiles may differ either way, since both passes take the
// other's end for granted; over 32 tiles exact was better by 0.6 % or more of the distortion for every S.
static void test_modes_keep_their_order(void **state) {
    (void)state;
    enum { N = 32 };
    for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++) {
        float *x = gaussian_targets(s, N, 13);
        static uint32_t codes[N * MAX_WORDS];
        static int8_t decoded[N * TILE];
        double sum[3] = {0, 0, 0};
        upg_search *search = open_search(s, NULL);
        for (int mode = UPG_SEARCH_SEAM; mode <= UPG_SEARCH_FAST; mode++) {
            upg_search_tiles(search, (upg_search_mode)mode, x, N, codes, decoded);
            for (int k = 0; k < N; k++) sum[mode] += distance(x + k * TILE, decoded + k * TILE);
        }
        assert_true(sum[UPG_SEARCH_EXACT] <= sum[UPG_SEARCH_SEAM]);
        assert_true(sum[UPG_SEARCH_SEAM] <= sum[UPG_SEARCH_FAST]);
        assert_true(sum[UPG_SEARCH_FAST] <= 1.05 * sum[UPG_SEARCH_EXACT]); // .2 dB; 32 tiles vary
        upg_search_free(search);
        test_free(x);
    }
}

// The reference: a plain Viterbi forward in time over all windows, with tables of where each came from, in double. The
// tile inherits h at its beginning and leaves h at its end. cost(w0, w1, x0, x1) is the caller's. Returns the least sum
// and the weights.
typedef double (*cost_function)(int w0, int w1, double x0, double x1);
static double reference(int s, uint32_t h, const float *x, cost_function cost, int8_t *decoded) {
    const uint32_t n = 65536u >> s, share = 1u << s;
    double *sum = test_malloc(65536 * sizeof *sum), *least_before = test_malloc(n * sizeof *least_before);
    uint16_t *from = test_malloc((size_t)STEPS * n * sizeof *from);
    for (int i = 0; i < STEPS; i++) {
        for (uint32_t shared = 0; shared < n; shared++) { // what a window inherits
            least_before[shared] = i == 0 && shared == h ? 0 : INFINITY;
            from[(size_t)i * n + shared] = 0;
            for (uint32_t low = 0; low < share && i > 0; low++) { // the bits that the earlier window drops
                uint32_t before = shared << s | low;
                if (sum[before] < least_before[shared]) {
                    least_before[shared] = sum[before];
                    from[(size_t)i * n + shared] = (uint16_t)before;
                }
            }
        }
        for (uint32_t window = 0; window < 65536; window++) {
            int8_t w[2];
            upg_trellis_weights(window, w);
            sum[window] = least_before[window % n] + cost(w[0], w[1], x[2 * i], x[2 * i + 1]);
        }
    }
    uint32_t last = h << s;
    for (uint32_t low = 0; low < share; low++)
        if (sum[h << s | low] < sum[last]) last = h << s | low;
    const double least = sum[last];
    for (int i = STEPS - 1; i >= 0; i--) {
        upg_trellis_weights(last, decoded + 2 * i);
        last = from[(size_t)i * n + last % n];
    }
    test_free(from);
    test_free(least_before);
    test_free(sum);
    return least;
}

static double half_squares(int w0, int w1, double x0, double x1) {
    return ((w0 - x0) * (w0 - x0) + (w1 - x1) * (w1 - x1)) / 2;
}
// What the search minimises, less a constant for each step: integers, so double is exact and so is the comparison.
static double rounded_cost(int w0, int w1, double x0, double x1) {
    return ceil((double)(w0 * w0 + w1 * w1) / 2) - w0 * rint(x0) - w1 * rint(x1);
}
static double path_cost(const float *x, const int8_t *w, cost_function cost) {
    double sum = 0;
    for (int i = 0; i < TILE; i += 2) sum += cost(w[i], w[i + 1], x[i], x[i + 1]);
    return sum;
}

// Property: given what is inherited at the seam, the codes are optimal in the integer metric, exactly; also for targets
// that need every kind of step, as long as confining leaves them alone. In exact terms they miss the optimum by no more
// than the rounding explains: moving the target by d (at most half in each weight) changes a step's cost by -(w - x).d
// and a constant, and halves of odd squares are rounded up by 1/2. Between two paths that is at most
// sum |w_i - w'_i| / 2 plus 1/2 a step.
static void test_optimal(void **state) {
    (void)state;
    for (int s = UPG_TRELLIS_MIN_S; s <= UPG_TRELLIS_MAX_S; s++) {
        float *x = gaussian_targets(s, 2, 19 + (uint64_t)s);
        // The second tile is twice as loud, confined as a reader of the header would expect: to where a byte pair's
        // half squared distance stays below 2^16.
        for (int i = TILE; i < 2 * TILE; i++) x[i] = fmaxf(-128, fminf(128, 2 * x[i]));
        uint32_t codes[2 * MAX_WORDS];
        int8_t decoded[2 * TILE], best[TILE];
        upg_search *search = open_search(s, NULL);
        upg_search_tiles(search, UPG_SEARCH_EXACT, x, 2, codes, decoded);
        for (int k = 0; k < 2; k++) {
            const float *tile = x + k * TILE;
            const int8_t *found = decoded + k * TILE;
            const uint32_t h = upg_trellis_window(codes + k * upg_trellis_words(s), 1, s, 0) & ((65536u >> s) - 1);
            assert_true(path_cost(tile, found, rounded_cost) == reference(s, h, tile, rounded_cost, best));
            if (k == 1) continue;
            double least = reference(s, h, tile, half_squares, best), slack = 0;
            for (int i = 0; i < TILE; i++) slack += fabs((double)found[i] - best[i]) / 2;
            for (int i = 0; i < TILE; i += 2) slack += memcmp(found + i, best + i, 2) != 0 ? 0.5 : 0;
            double excess = path_cost(tile, found, half_squares) - least;
            assert_true(excess >= -1e-9 * least); // double's own rounding
            assert_true(excess <= slack + 1e-9 * least);
        }
        upg_search_free(search);
        test_free(x);
    }
}

// Property: targets beyond the codebook pull the weights to its end.
static void test_far_targets(void **state) {
    (void)state;
    float x[TILE];
    for (int i = 0; i < TILE; i++) x[i] = 1e30f;
    upg_search *search = open_search(8, NULL);
    uint32_t codes[MAX_WORDS];
    int8_t decoded[TILE];
    upg_search_tiles(search, UPG_SEARCH_EXACT, x, 1, codes, decoded);
    int sum = 0;
    for (int i = 0; i < TILE; i++) sum += decoded[i];
    assert_true(sum > 80 * TILE);
    upg_search_free(search);
}

// Property: what can't be had is refused with a reason.
// UPG_ISA is one variable for the backend and the search.
static void test_knows_the_backends_instruction_sets(void **state) {
    (void)state;
    for (size_t i = 0; upg_cpu_all[i]; i++) {
        upg_error e = {{0}};
        upg_search *search = upg_cpu_all[i]->supported() ? upg_search_new(6, upg_cpu_all[i]->isa, &e) : NULL;
        if (!search && upg_cpu_all[i]->supported()) fail_msg("%s", e.message);
        upg_search_free(search);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        int s;
        const char *isa, *reason;
    } bad[] = {{3, NULL, "3 bits a step"}, {9, NULL, "9 bits a step"}, {6, "sse9", "'sse9'"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        upg_error e = {{0}};
        assert_null(upg_search_new(bad[i].s, bad[i].isa, &e));
        assert_non_null(strstr(e.message, bad[i].reason));
        assert_null(upg_search_new(bad[i].s, bad[i].isa, NULL));
    }
    upg_search_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_std),
        cmocka_unit_test(test_frozen_code),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_instruction_sets_agree),
        cmocka_unit_test(test_grouping),
        cmocka_unit_test(test_frozen_codes),
        cmocka_unit_test(test_modes_keep_their_order),
        cmocka_unit_test(test_optimal),
        cmocka_unit_test(test_far_targets),
        cmocka_unit_test(test_knows_the_backends_instruction_sets),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
