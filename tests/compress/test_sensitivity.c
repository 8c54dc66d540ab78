// Sensitivity: the divergence that a matrix's errors cause grows as their square, whatever the number of threads that
// measure it.
#include "../engine/engine_helpers.h"
#include "base/thread.h"
#include "compress/sensitivity.h"
#include "engine/model.h"

enum { WINDOW = 128, N_WINDOWS = 4 };

static char folder[64];
static upg_model *original;
static int32_t tokens[WINDOW * N_WINDOWS];

// kl: [n_weights]. Only matrices are wanted, all but the one of index `without`.
static void measure(double noise, int threads, int without, double *kl) {
    const upg_program *p = original->program;
    char path[256];
    upg_error e = {""};
    upg_pool *pool = upg_pool_new(threads, &e);
    bool *wanted = test_calloc((size_t)p->n_weights, sizeof *wanted);
    for (int i = 0; i < p->n_weights; i++) wanted[i] = p->weights[i]->rows > 1 && i != without;
    upg_sensitivity_options o = {.text = {tokens, N_WINDOWS, WINDOW},
                                 .scored = 2,
                                 .rotation_seed = 1,
                                 .noise = noise,
                                 .damping = 0.025f,
                                 .wanted = wanted,
                                 .path = path_in(path, folder, "activations")};
    assert_non_null(pool);
    if (upg_sensitivity_measure(p, &o, pool, kl, &e)) fail_msg("%s", e.message);
    test_free(wanted);
    upg_pool_free(pool);
}

static void divergence_grows_as_the_square(void **state) {
    (void)state;
    const upg_program *p = original->program;
    double *small = test_calloc((size_t)p->n_weights, sizeof *small),
           *large = test_calloc((size_t)p->n_weights, sizeof *large);
    measure(0.001, 2, -1, small);
    measure(0.004, 2, -1, large);
    for (int i = 0; i < p->n_weights; i++) {
        if (p->weights[i]->rows == 1) {
            assert_true(small[i] == 0);
            continue;
        }
        // Four times the square: twice the size. What is beyond the quadratic term is small here.
        if (!(small[i] > 0) || large[i] < 3 * small[i] || large[i] > 5 * small[i])
            fail_msg("%s: %g and %g", p->weights[i]->name, small[i], large[i]);
    }
    test_free(small);
    test_free(large);
}

static void threads_and_others_change_nothing(void **state) {
    (void)state;
    const upg_program *p = original->program;
    size_t n = (size_t)p->n_weights;
    double *first = test_calloc(n, sizeof *first), *again = test_calloc(n, sizeof *again);
    measure(0.02, 1, -1, first);
    for (int threads = 2; threads <= 3; threads++) {
        measure(0.02, threads, -1, again);
        assert_memory_equal(again, first, n * sizeof *first);
    }
    int last = p->n_weights - 1;
    while (p->weights[last]->rows == 1) last--;
    measure(0.02, 2, last, again);
    assert_true(again[last] == 0);
    test_free(first);
    test_free(again);
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    original = open_model(STORIES);
    draw_windows(original, 77, N_WINDOWS, WINDOW, tokens);
    return 0;
}

static int clean(void **state) {
    (void)state;
    upg_model_free(original);
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence_grows_as_the_square),
        cmocka_unit_test(threads_and_others_change_nothing),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
