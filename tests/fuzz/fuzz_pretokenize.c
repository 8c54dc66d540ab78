// Any text through every scanner, beside PCRE2 with the scanner's expression: the pieces are the same. Bytes choose
// characters from those the patterns turn on, or spell them as UTF-8; ill-formed text, which PCRE2 cannot search, and
// characters on whose class it disagrees (another version of Unicode) only have to be cut without gaps.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text/pretokenize.h"
#include "text/unicode.h"

enum { MAX_TEXT = 512, MAX_EXPRESSIONS = 64 };

static void require(bool truth) {
    if (!truth) abort();
}

typedef struct expression {
    const upg_pattern *pattern;
    pcre2_code *code;
} expression;
static expression expressions[MAX_EXPRESSIONS];
static int n_expressions;
static pcre2_match_data *match;

static pcre2_code *compile(const char *regex) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    require(re != NULL);
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    return re;
}

// As tests/text/test_pretokenize.c respells them: $ in front of each \n, {1,3}+ as +, no nested brackets.
static void compile_all(void) {
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *regex = upg_patterns[i].regexes; *regex; regex++) {
            char respelled[1024];
            if (strstr(*regex, "|[.")) continue;
            snprintf(respelled, sizeof respelled, "(*LF)(?m)%s", *regex);
            char *repeat = strstr(respelled, "{1,3}+");
            if (repeat) memmove(repeat, repeat + 5, strlen(repeat + 5) + 1);
            require(n_expressions < MAX_EXPRESSIONS);
            expressions[n_expressions++] = (expression){&upg_patterns[i], compile(respelled)};
        }
    match = pcre2_match_data_create(8, NULL);
}

static bool agreed(const uint8_t *p, size_t n) {
    static const struct {
        const char *regex;
        unsigned set;
    } properties[] = {{"^[\\p{Lu}\\p{Lt}]", UPG_CHAR_UPPER}, {"^\\p{Ll}", UPG_CHAR_LOWER},
                      {"^[\\p{Lm}\\p{Lo}]", UPG_CHAR_LO},    {"^\\p{M}", UPG_CHAR_MARK},
                      {"^\\p{N}", UPG_CHAR_NUMBER},          {"^\\p{P}", UPG_CHAR_PUNCT},
                      {"^\\p{S}", UPG_CHAR_SYMBOL},          {"^\\s", UPG_CHAR_SPACE}};
    enum { N_PROPERTIES = sizeof properties / sizeof *properties };
    static pcre2_code *codes[N_PROPERTIES];
    size_t len;
    unsigned c = upg_next_class(p, n, &len);
    for (int k = 0; k < N_PROPERTIES; k++) {
        if (!codes[k]) codes[k] = compile(properties[k].regex);
        bool in = pcre2_match(codes[k], (PCRE2_SPTR)p, len, 0, PCRE2_NO_UTF_CHECK, match, NULL) > 0;
        if (in != ((c & properties[k].set) != 0)) return false;
    }
    return true;
}

static bool comparable(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        int len = upg_utf8_decode(p + i, n - i, &cp);
        if (cp == UPG_BAD_CHAR || (cp >= 128 && !agreed(p + i, n - i))) return false;
        i += (size_t)len;
    }
    return true;
}

static void check(const expression *x, const uint8_t *p, size_t n, bool compare) {
    for (size_t i = 0, len; i < n; i += len) {
        len = x->pattern->scan(p + i, n - i);
        require(len >= 1 && len <= n - i);
        if (!compare) continue;
        int rc = pcre2_match(x->code, (PCRE2_SPTR)p, n, i, PCRE2_NO_UTF_CHECK, match, NULL);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(match);
        require(len == (rc < 1 ? n : at[0] > i ? at[0] : at[1]) - i);
    }
}

// Half of the inputs are text as they are; in the others bytes above 127 stand for characters of the pool.
static size_t spell(const uint8_t *data, size_t size, uint8_t *text) {
    static const char *const pool[] = {
        "\u017F", "\u212A", "\u00E9",  "\u00C9", "\u01C5", "\u02B0", "\u00AA", "\u0295",     "\u0301",     "\u0903",
        "\u20DD", "\u0345", "\u0661",  "\u00BD", "\u2167", "\u00B2", "\u00A0", "\u0085",     "\u2028",     "\u3000",
        "\u3001", "\u3002", "\u3042",  "\u30FF", "\u4E2D", "\u9FA5", "\u9FA6", "\u07FF",     "\u0800",     "\uAC00",
        "\uD7FF", "\u05D0", "\uFF01",  "\uFF21", "\u2018", "\u2019", "\u1FBE", "\U0001E900", "\U00010400", "\u0964",
        "\u06D4", "\u060C", "\u2026",  "\u00AD", "\u200B", "\u200D", "\u0378", "\U0001F600", "\U0001D7D8", "\u20AC",
        "'s",     "'S",     "'\u017F", "'ll",    "'Re",    "'vE",    "\r\n",   "\n\n",       "  ",         "aB",
        "Ab",     "12",     "//",      " ."};
    enum { N_POOL = sizeof pool / sizeof *pool };
    size_t n = 0;
    for (size_t i = 1; i < size; i++) {
        char self[2] = {(char)data[i], 0};
        const char *s = data[0] & 1 && data[i] >= 128 ? pool[data[i] % N_POOL] : self;
        size_t len = s == self ? 1 : strlen(s);
        if (n + len > MAX_TEXT) break;
        memcpy(text + n, s, len);
        n += len;
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!n_expressions) compile_all();
    if (!size) return 0;
    uint8_t text[MAX_TEXT];
    size_t n = spell(data, size, text);
    bool compare = comparable(text, n);
    for (int k = 0; k < n_expressions; k++) check(&expressions[k], text, n, compare);
    return 0;
}
