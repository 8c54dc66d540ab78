// The default texts: clean UTF-8 of the promised sizes, and nothing that layers are fitted to is measured with.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <utf8proc.h>
#include <xxhash.h>
#include "compress/default_text.h"

enum { GRAM = 50, SLOTS = 1 << 21 };

// A set of the hashes of all windows of GRAM bytes; open addressing, 0 is free.
static void add(uint64_t *set, uint64_t hash) {
    size_t i = hash % SLOTS;
    while (set[i] && set[i] != hash) i = (i + 1) % SLOTS;
    set[i] = hash;
}
static bool has(const uint64_t *set, uint64_t hash) {
    size_t i = hash % SLOTS;
    while (set[i] && set[i] != hash) i = (i + 1) % SLOTS;
    return set[i] != 0;
}

static void test_sizes(void **state) {
    (void)state;
    size_t n[2];
    const char *text[2] = {upg_default_text(false, &n[0]), upg_default_text(true, &n[1])};
    for (int k = 0; k < 2; k++) {
        assert_int_equal(strlen(text[k]), n[k]);
        assert_null(strchr(text[k], '\r'));
        assert_int_equal(text[k][n[k] - 1], '\n');
    }
    assert_in_range(n[0], 200000, 450000);
    assert_in_range(n[1], 60000, 120000);
}

// utf8proc refuses what is not UTF-8, and composes what is not in NFC.
static void test_utf8_nfc(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        size_t n;
        const char *text = upg_default_text(k, &n);
        utf8proc_uint8_t *composed = NULL;
        utf8proc_ssize_t m = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &composed,
                                          UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_int_equal(m, n);
        assert_memory_equal(composed, text, n);
        free(composed);
    }
}

static void test_disjoint(void **state) {
    (void)state;
    uint64_t *set = calloc(SLOTS, sizeof *set);
    assert_non_null(set);
    size_t n, m, common = 0;
    const char *text = upg_default_text(false, &n), *other = upg_default_text(true, &m);
    for (size_t i = 0; i + GRAM <= n; i++) add(set, XXH3_64bits(text + i, GRAM) | 1);
    for (size_t i = 0; i + GRAM <= m; i++) common += has(set, XXH3_64bits(other + i, GRAM) | 1);
    assert_int_equal(common, 0);
    free(set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_utf8_nfc),
        cmocka_unit_test(test_disjoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
