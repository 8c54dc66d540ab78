// The scanners against PCRE2 as oracle: for every expression of the table, cutting random text gives the same pieces.
#include "tokenizer_helpers.h"
#include <utf8proc.h>
#include "pretokenize_oracle.h"

enum { N_TEXTS = 100000, N_RESPELLED = 20000, MAX_CHARS = 24 };

static pcre2_code *compile(const char *regex) {
    pcre2_code *re = compile_regex(regex);
    if (!re) fail_msg("PCRE2 does not compile %s", regex);
    return re;
}

// Random text has only the characters whose class PCRE2 gives as our tables do.
static uint8_t agreed[0x110000 / 8];
static uint32_t n_left_out;

static bool is_agreed(uint32_t c) {
    return agreed[c / 8] >> c % 8 & 1;
}

static int find_agreed(void **state) {
    (void)state;
    properties x;
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    if (!m || !compile_properties(&x)) return -1;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char s[4];
        if (c >= 0xD800 && c < 0xE000) continue;
        if (same_class(&x, m, s, put_utf8(s, c)))
            agreed[c / 8] |= (uint8_t)(1 << c % 8);
        else
            n_left_out++;
    }
    free_properties(&x);
    pcre2_match_data_free(m);
    return 0;
}

// A character they disagree on is newer than one of them, so to that one it is unassigned. Few others may disagree:
// PCRE2 still counts U+180E as a space, which Unicode 6.3 ended, and Unicode moves a character to another category at
// times.
static void test_classes(void **state) {
    (void)state;
    pcre2_code *none = compile("\\p{Cn}");
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    int n_moved = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char s[4];
        size_t n = put_utf8(s, c);
        if ((c >= 0xD800 && c < 0xE000) || is_agreed(c)) continue;
        n_moved += !matches(none, m, s, n) && upg_char_class_of(c) != UPG_CHAR_OTHER;
    }
    print_message("%u characters left out: PCRE2 knows another version of Unicode\n", (unsigned)n_left_out);
    assert_true(n_moved <= 8);
    assert_true(n_left_out < 30000);
    pcre2_match_data_free(m);
    pcre2_code_free(none);
}

static void test_word_characters(void **state) {
    (void)state;
    static const uint32_t words[] = {'a', 'Z', '0', '_', 0xE9, 0x301, 0x661, 0x2167, 0x203F, 0x24B6, 0x200D, 0x1F130},
                          others[] = {' ', '-', '\'', 0xBD, 0xB2, 0x2009, 0x20AC, 0x378, 0x1F600, UPG_BAD_CHAR};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) assert_true(upg_char_is_word(words[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) assert_false(upg_char_is_word(others[i]));
}

static void compare(const upg_pattern *p, const char *regex, const pcre2_code *re, pcre2_match_data *m,
                    const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t len = p->scan((const uint8_t *)text + i, n - i);
        size_t expected = oracle_piece(re, m, text, n, i);
        if (len != expected) {
            for (size_t k = 0; k < n; k++) print_message("%02x ", (uint8_t)text[k]);
            fail_msg("%s %s: at %zu %zu bytes, PCRE2 %zu", p->name, regex, i, len, expected);
        }
        i += len;
    }
}

// Characters on which the patterns turn, and runs of them; all of Unicode now and then.
static size_t adversarial_text(rng *r, char *text) {
    static const uint32_t pool[] = {0xAA,   0x1C5,  0x2B0,  0x295,   0x345,   0x5D0,   0x903, 0x20DD, 0x24B6, 0x2167,
                                    0x378,  0xAD,   0x200B, 0x1F130, 0x85,    0x180E,  '`',   '$',    '^',    '(',
                                    0x3001, 0x3002, 0x3042, 0x30FF,  0x9FA5,  0x9FA6,  0x7FF, 0x800,  0xAC00, 0xD7FF,
                                    0xFF01, 0xFF21, 0x2018, 0x1FBE,  0x1E900, 0x10400, 0x964, 0x6D4,  'A',    'Z'};
    size_t n = 0;
    for (uint32_t left = random_below(r, MAX_CHARS + 1); left;) {
        uint32_t c = random_below(r, 4) ? random_char(r) : pool[random_below(r, sizeof pool / sizeof *pool)];
        if (!is_agreed(c)) continue;
        for (uint32_t times = random_below(r, 6) ? 1 : 1 + random_below(r, 4); times && left; times--, left--)
            n += put_utf8(text + n, c);
    }
    return n;
}

static void check_regex(const upg_pattern *p, const char *regex, int n_texts, rng *r) {
    char respelled[1024];
    if (!respell(regex, respelled, sizeof respelled)) return;
    pcre2_code *re = compile(respelled);
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    for (int k = 0; k < n_texts; k++) {
        char text[MAX_CHARS * 4];
        compare(p, regex, re, m, text, adversarial_text(r, text));
    }
    pcre2_match_data_free(m);
    pcre2_code_free(re);
}

static void test_scanners(void **state) {
    (void)state;
    rng r = {11};
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *regex = upg_patterns[i].regexes; *regex; regex++)
            check_regex(&upg_patterns[i], *regex, regex == upg_patterns[i].regexes ? N_TEXTS : N_RESPELLED, &r);
}

// What says that it covers all text has no piece between matches.
static void test_covers(void **state) {
    (void)state;
    rng r = {14};
    pcre2_match_data *m = pcre2_match_data_create(8, NULL);
    for (int i = 0; i < upg_n_patterns; i++) {
        if (!upg_patterns[i].covers) continue;
        pcre2_code *re = compile(upg_patterns[i].regexes[0]);
        for (int k = 0; k < 2000; k++) {
            char text[MAX_CHARS * 4];
            size_t n = adversarial_text(&r, text);
            for (size_t at = 0; at < n; at = pcre2_get_ovector_pointer(m)[1]) {
                assert_true(pcre2_match(re, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, m, NULL) > 0);
                assert_int_equal(pcre2_get_ovector_pointer(m)[0], at);
            }
        }
        pcre2_code_free(re);
    }
    pcre2_match_data_free(m);
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
    assert_null(upg_pattern_by_regex("\\p{N}\0", 6));
    assert_string_equal(upg_pattern_by_regex("[\r\n]", 4)->name, "newline"); // line ends as themselves
    assert_null(upg_pattern_by_regex("[\n\r]", 4));
    for (int i = 0; i < upg_n_pres; i++) {
        const upg_pre *pre = &upg_pres[i];
        assert_ptr_equal(upg_pre_find(pre->name, strlen(pre->name)), pre);
        for (const char *const *name = pre->patterns; *name; name++) {
            const upg_pattern *p = upg_pattern_by_name(*name, strlen(*name));
            assert_non_null(p);
            assert_non_null(p->regexes[0]);
        }
    }
    assert_null(upg_pre_find("gpt-3", 5));
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_classes),  cmocka_unit_test(test_word_characters),
                                       cmocka_unit_test(test_scanners), cmocka_unit_test(test_covers),
                                       cmocka_unit_test(test_names),    cmocka_unit_test(test_ill_formed),
                                       cmocka_unit_test(test_nfc)};
    return cmocka_run_group_tests_name("pretokenize", tests, find_agreed, NULL);
}
