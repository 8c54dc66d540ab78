// As much of cmocka as the tests of the arithmetic need, for processors whose cmocka is not installed: test_isa.sh
// builds them with this folder in front.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    int (*setup_func)(void **state);
    int (*teardown_func)(void **state);
    void *initial_state;
};
#define cmocka_unit_test(f)                                                                                            \
    { #f, f, NULL, NULL, NULL }

#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define require(x)                                                                                                     \
    do {                                                                                                               \
        if (!(x)) fail_msg("%s:%d: not so: %s", __FILE__, __LINE__, #x);                                               \
    } while (0)
#define assert_int_equal(a, b)       require((a) == (b))
#define assert_memory_equal(a, b, n) require(!memcmp(a, b, n))
#define assert_non_null(p)           require((p) != NULL)
#define assert_true(x)               require(x)

// The first failure ends the program with 1.
#define cmocka_run_group_tests(tests, before, after) run_tests(tests, sizeof(tests) / sizeof *(tests), before, after)
static inline int run_tests(const struct CMUnitTest *tests, size_t n, int (*before)(void **), int (*after)(void **)) {
    void *state = NULL;
    if (before) require(!before(&state));
    for (size_t i = 0; i < n; i++) {
        state = tests[i].initial_state;
        printf("%s\n", tests[i].name);
        fflush(stdout);
        tests[i].test_func(&state);
    }
    if (after) require(!after(&state));
    return 0;
}
