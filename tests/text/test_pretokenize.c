// The scanners against PCRE2 as oracle: for every expression of the table, cutting random text gives the same pieces.
#include "tokenizer_helpers.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>
#include "text/pretokenize.h"
#include "text/unicode.h"

enum { N_TEXTS = 100000, N_RESPELLED = 20000, MAX_CHARS = 24 };

static pcre2_code *compile(const char *regex) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!re) fail_msg("PCRE2 does not compile %s", regex);
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    return re;
}

static bool matches(const pcre2_code *re, pcre2_match_data *m, const char *s, size_t n) {
    return pcre2_match(re, (PCRE2_SPTR)s, n, 0, PCRE2_ANCHORED, m, NULL) > 0;
}

// PCRE2 and utf8proc know different versions of Unicode; and PCRE2 still counts U+180E as a space, which Unicode 6.3
// ended.
static bool comparable(uint32_t c, const pcre2_code *unassigned, pcre2_match_data *m) {
    char s[4];
    size_t n = put_utf8(s, c);
    return c != 0x180E && utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_CN &&
           !matches(unassigned, m, s, n);
}

static void test_classes(void **state) {
    (void)state;
    pcre2_code *letter = compile("\\p{L}"), *number = compile("\\p{N}"), *space = compile("\\s"),
               *none = compile("\\p{Cn}");
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    for (uint32_t c = 0; c < 0x110000; c++) {
        if ((c >= 0xD800 && c < 0xE000) || !comparable(c, none, m)) continue;
        char s[4];
        size_t n = put_utf8(s, c);
        upg_char_class k = upg_char_class_of(c);
        if (matches(letter, m, s, n) != (k == UPG_CHAR_LETTER) || matches(number, m, s, n) != (k == UPG_CHAR_NUMBER) ||
            matches(space, m, s, n) != (k >= UPG_CHAR_SPACE))
            fail_msg("U+%04X", (unsigned)c);
    }
    pcre2_match_data_free(m);
    pcre2_code_free(letter);
    pcre2_code_free(number);
    pcre2_code_free(space);
    pcre2_code_free(none);
}

static void compare(const upg_pattern *p, const char *regex, const pcre2_code *re, const char *text, size_t n) {
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    for (size_t i = 0; i < n;) {
        size_t len = p->scan((const uint8_t *)text + i, n - i);
        int rc = pcre2_match(re, (PCRE2_SPTR)text, n, i, PCRE2_NO_UTF_CHECK, m, NULL);
        PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
        size_t end = rc < 1 ? n : at[0] > i ? at[0] : at[1]; // what lies between matches is a piece too
        if (end != i + len) {
            for (size_t k = 0; k < n; k++) print_message("%02x ", (uint8_t)text[k]);
            fail_msg("%s %s: at %zu %zu bytes, PCRE2 %zu", p->name, regex, i, len, end - i);
        }
        i += len;
    }
    pcre2_match_data_free(m);
}

static void check_regex(const upg_pattern *p, const char *regex, int n_texts, rng *r) {
    pcre2_code *none = compile("\\p{Cn}");
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    // Where tokenizer.json is read, {1,3}+ repeats; to PCRE2 it is possessive.
    char respelled[512];
    snprintf(respelled, sizeof respelled, "%s", regex);
    char *repeat = strstr(respelled, "{1,3}+");
    if (repeat) memmove(repeat, repeat + 5, strlen(repeat + 5) + 1);
    pcre2_code *re = compile(respelled);
    for (int k = 0; k < n_texts; k++) {
        char text[MAX_CHARS * 4];
        size_t n = 0;
        for (uint32_t left = random_below(r, MAX_CHARS + 1); left;) {
            uint32_t c = random_char(r);
            if (!comparable(c, none, m)) continue;
            n += put_utf8(text + n, c);
            left--;
        }
        compare(p, regex, re, text, n);
    }
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    pcre2_code_free(none);
}

static void test_scanners(void **state) {
    (void)state;
    rng r = {11};
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *regex = upg_patterns[i].regexes; *regex; regex++)
            check_regex(&upg_patterns[i], *regex, regex == upg_patterns[i].regexes ? N_TEXTS : N_RESPELLED, &r);
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < upg_n_patterns; i++) {
        const upg_pattern *p = &upg_patterns[i];
        assert_ptr_equal(upg_pattern_by_name(p->name, strlen(p->name)), p);
        for (const char *const *regex = p->regexes; *regex; regex++)
            assert_ptr_equal(upg_pattern_by_regex(*regex, strlen(*regex)), p);
    }
    assert_null(upg_pattern_by_name("gpt", 3));
    assert_null(upg_pattern_by_regex("\\s+", 3));
}

static void test_ill_formed(void **state) {
    (void)state;
    rng r = {12};
    for (int k = 0; k < 20000; k++) {
        uint8_t text[40];
        size_t n = random_below(&r, sizeof text) + 1;
        for (size_t i = 0; i < n; i++) text[i] = (uint8_t)random_below(&r, 256);
        for (int p = 0; p < upg_n_patterns; p++)
            for (size_t i = 0, len; i < n; i += len) {
                len = upg_patterns[p].scan(text + i, n - i);
                assert_true(len >= 1 && len <= n - i);
            }
    }
}

// NFC is idempotent, equal to the library's on well-formed text, and takes linear time however the marks come.
static void test_nfc(void **state) {
    (void)state;
    rng r = {13};
    upg_buf out = {0}, again = {0};
    for (int k = 0; k < 50000; k++) {
        char text[20 * 4 + 1];
        size_t n = 0;
        for (int i = 0; i < 20; i++) {
            static const uint32_t pool[] = {'a',    'e',    'o',    0x300, 0x301,  0x323, 0x328,  0x1100, 0x1161,
                                            0x11A8, 0xAC00, 0x212B, 0xC5,  0x1E9B, 0x345, 0x3099, 0x304B};
            uint32_t c = random_below(&r, 4) ? pool[random_below(&r, sizeof pool / sizeof *pool)] : random_char(&r);
            n += put_utf8(text + n, c ? c : 'z');
        }
        text[n] = 0;
        out.size = again.size = 0;
        assert_int_equal(upg_nfc((const uint8_t *)text, n, &out, NULL), 0);
        utf8proc_uint8_t *expected = utf8proc_NFC((const utf8proc_uint8_t *)text);
        assert_non_null(expected);
        assert_string_equal(out.data, (const char *)expected);
        free(expected);
        assert_int_equal(upg_nfc((const uint8_t *)out.data, out.size, &again, NULL), 0);
        assert_string_equal(out.data, again.data);
    }
    enum { MARKS = 1000000 };
    char *text = malloc(MARKS * 2 + 1);
    assert_non_null(text);
    text[0] = 'a';
    for (size_t i = 0; i < MARKS; i++) put_utf8(text + 1 + 2 * i, i < MARKS / 2 ? 0x315 : 0x323);
    out.size = 0;
    assert_int_equal(upg_nfc((const uint8_t *)text, MARKS * 2 + 1, &out, NULL), 0);
    assert_int_equal(out.size, MARKS * 2 + 1); // a and one dot below, three bytes, became one character of three
    free(text);
    upg_buf_free(&out);
    upg_buf_free(&again);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_classes), cmocka_unit_test(test_scanners),
                                       cmocka_unit_test(test_names), cmocka_unit_test(test_ill_formed),
                                       cmocka_unit_test(test_nfc)};
    return cmocka_run_group_tests_name("pretokenize", tests, NULL, NULL);
}
