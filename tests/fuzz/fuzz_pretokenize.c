// Any text through the scanner the first byte chooses, beside PCRE2 with its expression: the pieces are the same. Bytes
// choose characters from those the patterns turn on, or spell them as UTF-8; ill-formed text, which PCRE2 cannot
// search, and characters on whose class it disagrees (another version of Unicode) only have to be cut without gaps.
#include <stdlib.h>
#include "../text/pretokenize_oracle.h"

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
static properties classes;
static pcre2_match_data *match;

static void compile_all(void) {
    char respelled[1024];
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *regex = upg_patterns[i].regexes; *regex; regex++) {
            if (!respell(*regex, respelled, sizeof respelled)) continue;
            require(n_expressions < MAX_EXPRESSIONS);
            expressions[n_expressions] = (expression){&upg_patterns[i], compile_regex(respelled)};
            require(expressions[n_expressions++].code != NULL);
        }
    match = pcre2_match_data_create(8, NULL);
    require(match && compile_properties(&classes));
}

static bool agreed(uint32_t cp, const uint8_t *p, size_t n) {
    static uint8_t known[0x110000]; // 1: yes, 2: no
    if (!known[cp]) known[cp] = same_class(&classes, match, (const char *)p, n) ? 1 : 2;
    return known[cp] == 1;
}

static bool comparable(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        int len = upg_utf8_decode(p + i, n - i, &cp);
        if (cp == UPG_BAD_CHAR || !agreed(cp, p + i, n - i)) return false;
        i += (size_t)len;
    }
    return true;
}

static void check(const expression *x, const uint8_t *p, size_t n, bool compare) {
    for (size_t i = 0, len; i < n; i += len) {
        len = x->pattern->scan(p + i, n - i);
        require(len >= 1 && len <= n - i);
        require(!compare || len == oracle_piece(x->code, match, (const char *)p, n, i));
    }
}

// From 128 on, the first byte says that bytes above 127 stand for characters of the pool.
static size_t spell(const uint8_t *data, size_t size, uint8_t *text) {
    static const char *const pool[] = {
        "\u017F", "\u212A", "\u00E9",  "\u00C9", "\u01C5", "\u02B0", "\u00AA", "\u0295",     "\u0301",     "\u0903",
        "\u20DD", "\u0345", "\u0661",  "\u00BD", "\u2167", "\u00B2", "\u00A0", "\xC2\x85",   "\u2028",     "\u3000",
        "\u3001", "\u3002", "\u3042",  "\u30FF", "\u4E2D", "\u9FA5", "\u9FA6", "\u07FF",     "\u0800",     "\uAC00",
        "\uD7FF", "\u05D0", "\uFF01",  "\uFF21", "\u2018", "\u2019", "\u1FBE", "\U0001E900", "\U00010400", "\u0964",
        "\u06D4", "\u060C", "\u2026",  "\u00AD", "\u200B", "\u200D", "\u0378", "\U0001F600", "\U0001D7D8", "\u20AC",
        "'s",     "'S",     "'\u017F", "'ll",    "'Re",    "'vE",    "\r\n",   "\n\n",       "  ",         "aB",
        "Ab",     "12",     "//",      " ."};
    enum { N_POOL = sizeof pool / sizeof *pool };
    size_t n = 0;
    for (size_t i = 1; i < size; i++) {
        char self[2] = {(char)data[i], 0};
        const char *s = data[0] >= 128 && data[i] >= 128 ? pool[data[i] % N_POOL] : self;
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
    check(&expressions[data[0] % 128 % n_expressions], text, n, compare);
    return 0;
}
