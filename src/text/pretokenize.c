// The scanners. Every pattern here covers any text: each character is in one of its alternatives, so pieces have no
// gaps.
//
// What the expressions share, with L letters, N numbers, S White_Space, O all others:
//   [^\r\n\p{L}\p{N}]?\p{L}+      letters with at most one O or S in front
//    ?[^\s\p{L}\p{N}]+[\r\n]*     O's with at most one ' ' in front (and the line ends behind)
//   \s*[\r\n]+                    S up to the last line end of the run; [\r\n] without the + means the same here
//   \s+(?!\S)|\s+                 S but for the last one if more text follows, that one alone otherwise
// Possessive forms (?+, ++) mean the same where the next alternative cannot start with what they hold.
#include "text/pretokenize.h"
#include "text/unicode.h"
#include <string.h>

static size_t run_of(const uint8_t *p, size_t n, size_t i, upg_char_class wanted) {
    size_t len;
    while (i < n && upg_next_class(p + i, n - i, &len) == wanted) i += len;
    return i;
}

static size_t line_ends(const uint8_t *p, size_t n, size_t i) {
    while (i < n && (p[i] == '\r' || p[i] == '\n')) i++;
    return i;
}

typedef enum fold { FOLD_NONE, FOLD_ASCII, FOLD_UNICODE } fold;

// Bytes of 's 't 'm 'd 'll 've 're at p, or 0. Under FOLD_UNICODE, (?i) in the expression, U+017F folds to s.
static size_t contraction(const uint8_t *p, size_t n, fold f) {
    if (n < 2 || p[0] != '\'') return 0;
    uint8_t mask = f == FOLD_NONE ? 0 : 0x20;
    uint8_t a = p[1] | mask, b = n > 2 ? p[2] | mask : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e')) return 3;
    return f == FOLD_UNICODE && n > 2 && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

// Whitespace at p: see above. all_at_end: \s++$ comes first, so trailing whitespace is one piece even across line ends.
static size_t whitespace(const uint8_t *p, size_t n, bool break_lines, bool all_at_end) {
    size_t i = 0, last = 0, len, after_line = 0;
    upg_char_class c;
    while (i < n && (c = upg_next_class(p + i, n - i, &len)) >= UPG_CHAR_SPACE) {
        last = i;
        i += len;
        if (c == UPG_CHAR_NEWLINE) after_line = i;
    }
    if (i == n && all_at_end) return i;
    if (break_lines && after_line) return after_line;
    return i == n || last == 0 ? i : last;
}

typedef struct cl100k_rules {
    fold contractions;
    int max_digits; // 0: no limit
    bool all_at_end;
} cl100k_rules;

static inline size_t cl100k_like(const uint8_t *p, size_t n, cl100k_rules r) {
    size_t len = contraction(p, n, r.contractions), next_len;
    if (len) return len;
    upg_char_class c = upg_next_class(p, n, &len);
    if (c == UPG_CHAR_LETTER) return run_of(p, n, len, UPG_CHAR_LETTER);
    if (c == UPG_CHAR_NUMBER) {
        for (int k = 1; k != r.max_digits && len < n; k++, len += next_len)
            if (upg_next_class(p + len, n - len, &next_len) != UPG_CHAR_NUMBER) break;
        return len;
    }
    if (c == UPG_CHAR_NEWLINE) return whitespace(p, n, true, r.all_at_end);
    upg_char_class next = len < n ? upg_next_class(p + len, n - len, &next_len) : UPG_CHAR_SPACE;
    if (next == UPG_CHAR_LETTER) return run_of(p, n, len + next_len, UPG_CHAR_LETTER);
    if (c == UPG_CHAR_OTHER || (*p == ' ' && next == UPG_CHAR_OTHER))
        return line_ends(p, n, run_of(p, n, len, UPG_CHAR_OTHER));
    return whitespace(p, n, true, r.all_at_end);
}

static size_t scan_cl100k(const uint8_t *p, size_t n) {
    return cl100k_like(p, n, (cl100k_rules){.contractions = FOLD_UNICODE, .max_digits = 3});
}

static size_t scan_cl100k_ascii(const uint8_t *p, size_t n) {
    return cl100k_like(p, n, (cl100k_rules){.contractions = FOLD_ASCII, .max_digits = 3});
}

static size_t scan_cl100k_end(const uint8_t *p, size_t n) {
    return cl100k_like(p, n, (cl100k_rules){.contractions = FOLD_UNICODE, .all_at_end = true});
}

static size_t scan_qwen2(const uint8_t *p, size_t n) {
    return cl100k_like(p, n, (cl100k_rules){.contractions = FOLD_UNICODE, .max_digits = 1});
}

static size_t scan_gpt2(const uint8_t *p, size_t n) {
    size_t len = contraction(p, n, FOLD_NONE), next_len = 0;
    if (len) return len;
    upg_char_class c = upg_next_class(p, n, &len);
    if (*p == ' ' && n > 1) {
        upg_char_class next = upg_next_class(p + 1, n - 1, &next_len);
        if (next < UPG_CHAR_SPACE) return run_of(p, n, 1 + next_len, next);
    }
    return c >= UPG_CHAR_SPACE ? whitespace(p, n, false, false) : run_of(p, n, len, c);
}

// Each number alone, and what lies between.
static size_t scan_digits(const uint8_t *p, size_t n) {
    size_t len, i;
    if (upg_next_class(p, n, &len) == UPG_CHAR_NUMBER) return len;
    for (i = len; i < n && upg_next_class(p + i, n - i, &len) != UPG_CHAR_NUMBER; i += len) continue;
    return i;
}

#define END_SPACES          "|\\s+(?!\\S)|\\s+"
#define CL100K_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define CL100K_WORDS        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define CL100K_TAIL         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" END_SPACES
#define TIKTOKEN_TAIL       "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]" END_SPACES

const upg_pattern upg_patterns[] = {
    {"cl100k",
     {CL100K_CONTRACTIONS CL100K_WORDS "\\p{N}{1,3}" CL100K_TAIL,
      "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}" TIKTOKEN_TAIL,
      CL100K_CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}" TIKTOKEN_TAIL,
      "'(?i:[sdmt]|ll|ve|re)|" CL100K_WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]" END_SPACES},
     scan_cl100k},
    {"cl100k-ascii",
     {"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|" CL100K_WORDS "\\p{N}{1,3}" CL100K_TAIL},
     scan_cl100k_ascii},
    // In the syntax tokenizer.json is read with, {1,3}+ repeats instead of being possessive: numbers are not cut at
    // all.
    {"cl100k-end",
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| "
      "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"},
     scan_cl100k_end},
    {"digits", {"\\p{N}"}, scan_digits},
    {"qwen2", {CL100K_CONTRACTIONS CL100K_WORDS "\\p{N}" CL100K_TAIL}, scan_qwen2},
    {"gpt2",
     {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+" END_SPACES,
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+" END_SPACES,
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s"},
     scan_gpt2},
};
const int upg_n_patterns = (int)(sizeof upg_patterns / sizeof *upg_patterns);

const upg_pattern *upg_pattern_by_regex(const char *regex, size_t n) {
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *r = upg_patterns[i].regexes; *r; r++)
            if (strlen(*r) == n && !memcmp(*r, regex, n)) return &upg_patterns[i];
    return NULL;
}

const upg_pattern *upg_pattern_by_name(const char *name, size_t n) {
    for (int i = 0; i < upg_n_patterns; i++)
        if (strlen(upg_patterns[i].name) == n && !memcmp(upg_patterns[i].name, name, n)) return &upg_patterns[i];
    return NULL;
}
