// The scanners. Each gives what a search with its expression would cut off first: the match that starts here, or, for
// those that do not cover all text, the characters in front of the first match. Time is linear in the text.
//
// What the word patterns share, with L letters, N numbers, S White_Space, O all others:
//   [^\r\n\p{L}\p{N}]?\p{L}+      letters with at most one O or S in front
//    ?[^\s\p{L}\p{N}]+[\r\n]*     O's with at most one ' ' in front (and the line ends behind)
//   \s*[\r\n]+                    S up to the last line end of the run; [\r\n] without the + means the same here
//   \s+(?!\S)|\s+                 S but for the last one if more text follows, that one alone otherwise; without the
//                                 second half the one left over lies between matches, which is the same piece
// Possessive forms (?+, ++) mean the same where the next alternative cannot start with what they hold.
#include "text/pretokenize.h"
#include "text/unicode.h"
#include <string.h>

enum {
    L = UPG_CHAR_LETTER,
    M = UPG_CHAR_MARK,
    N = UPG_CHAR_NUMBER,
    S = UPG_CHAR_SPACE,
    PS = UPG_CHAR_PUNCT | UPG_CHAR_SYMBOL
};

// The end of the run of characters of a set that starts at i.
static inline size_t run_of(const uint8_t *p, size_t n, size_t i, unsigned set) {
    size_t len;
    while (i < n && upg_next_class(p + i, n - i, &len) & set) i += len;
    return i;
}

// Class of the character at i, 0 at the end.
static inline unsigned class_at(const uint8_t *p, size_t n, size_t i, size_t *len) {
    return i < n ? upg_next_class(p + i, n - i, len) : (*len = 0, 0);
}

static inline size_t line_ends(const uint8_t *p, size_t n, size_t i, bool slash) {
    while (i < n && (p[i] == '\r' || p[i] == '\n' || (slash && p[i] == '/'))) i++;
    return i;
}

// --- Words: cl100k and its descendants ---

typedef enum contractions { NONE, EXACT, ASCII_FOLD, UNICODE_FOLD } contractions;

// Bytes of 's 't 'm 'd 'll 've 're at p, or 0. Under UNICODE_FOLD, (?i) in the expression, U+017F folds to s.
static inline size_t contraction(const uint8_t *p, size_t n, contractions k) {
    if (k == NONE || n < 2 || p[0] != '\'') return 0;
    uint8_t mask = k == EXACT ? 0 : 0x20;
    uint8_t a = p[1] | mask, b = n > 2 ? p[2] | mask : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e')) return 3;
    return k == UNICODE_FOLD && n > 2 && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

// Whitespace at p: see above. all_at_end: \s++$ comes first, so trailing whitespace is one piece even across line ends.
static size_t whitespace(const uint8_t *p, size_t n, bool break_lines, bool all_at_end) {
    size_t i = 0, last = 0, len, after_line = 0;
    unsigned c;
    while ((c = class_at(p, n, i, &len)) & S) {
        last = i;
        i += len;
        if (c == UPG_CHAR_NEWLINE) after_line = i;
    }
    if (i == n && all_at_end) return i;
    if (break_lines && after_line) return after_line;
    return i == n || last == 0 ? i : last;
}

typedef struct word_rules {
    contractions before; // a piece of their own, as first alternative
    contractions after;  // part of the word they follow
    unsigned letters;    // what words consist of: L, or L and M
    bool cased;          // words end in front of a capital (below)
    int max_digits;      // 0: no limit
    bool slash;          // [\r\n/]* behind symbols
    bool all_at_end;
} word_rules;

// The word of X?[U]*[V]+|X?[U]+[V]* where U is capitals, V small letters, letters without case (Lm, Lo) and marks both,
// and X = [^\r\n\p{L}\p{N}] may be a mark too. start is behind X if there is one; 0 if there is no word.
//
// The first alternative is greedy capitals, then small letters. Where none follow, it gives capitals back until one is
// caseless and ends there; where there is no such one it gives back X, which alone is a word if it is a mark. Else the
// second alternative takes the capitals.
static size_t cased_word(const uint8_t *p, size_t n, size_t start, bool x_is_mark) {
    enum { BOTH = UPG_CHAR_LO | UPG_CHAR_MARK, CAPITALS = UPG_CHAR_UPPER | BOTH, SMALL = UPG_CHAR_LOWER | BOTH };
    size_t i = start, after_both = 0, len;
    unsigned c;
    while ((c = class_at(p, n, i, &len)) & CAPITALS) {
        i += len;
        if (c & BOTH) after_both = i;
    }
    if (c & UPG_CHAR_LOWER) return run_of(p, n, i, SMALL);
    if (after_both) return after_both;
    if (x_is_mark) return start;
    return i > start ? i : 0;
}

static inline size_t word(const uint8_t *p, size_t n, unsigned c, size_t len, word_rules r) {
    size_t end = 0, next_len;
    if (r.cased) {
        end = cased_word(p, n, c & L ? 0 : len, c & M);
    } else if (c & r.letters) {
        end = run_of(p, n, len, r.letters);
    } else if (class_at(p, n, len, &next_len) & r.letters) {
        end = run_of(p, n, len + next_len, r.letters);
    }
    return end && r.after ? end + contraction(p + end, n - end, r.after) : end;
}

static inline size_t words(const uint8_t *p, size_t n, word_rules r) {
    size_t len = contraction(p, n, r.before), next_len, end;
    if (len) return len;
    unsigned c = upg_next_class(p, n, &len);
    if (c == N) {
        for (int k = 1; k != r.max_digits && class_at(p, n, len, &next_len) == N; k++) len += next_len;
        return len;
    }
    if (c != UPG_CHAR_NEWLINE && (end = word(p, n, c, len, r))) return end;
    unsigned symbols = ~(unsigned)(S | r.letters | N);
    if (c & symbols || (*p == ' ' && class_at(p, n, len, &next_len) & symbols))
        return line_ends(p, n, run_of(p, n, len, symbols), r.slash);
    return whitespace(p, n, true, r.all_at_end);
}

static size_t scan_cl100k(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = UNICODE_FOLD, .letters = L, .max_digits = 3});
}

static size_t scan_cl100k_ascii(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = ASCII_FOLD, .letters = L, .max_digits = 3});
}

static size_t scan_cl100k_end(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = UNICODE_FOLD, .letters = L, .all_at_end = true});
}

static size_t scan_cl100k_numbers(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = UNICODE_FOLD, .letters = L});
}

static size_t scan_qwen2(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = UNICODE_FOLD, .letters = L, .max_digits = 1});
}

static size_t scan_qwen35(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.before = UNICODE_FOLD, .letters = L | M, .max_digits = 1});
}

static size_t scan_o200k(const uint8_t *p, size_t n) {
    return words(p, n,
                 (word_rules){.after = UNICODE_FOLD, .letters = L, .cased = true, .max_digits = 3, .slash = true});
}

static size_t scan_tekken(const uint8_t *p, size_t n) {
    return words(p, n, (word_rules){.letters = L, .cased = true, .max_digits = 1, .slash = true});
}

static size_t scan_gpt2(const uint8_t *p, size_t n) {
    size_t len = contraction(p, n, EXACT), next_len;
    if (len) return len;
    unsigned c = upg_next_class(p, n, &len);
    if (*p == ' ' && !((c = class_at(p, n, 1, &next_len)) & S)) len += next_len;
    if (!c || c & S) return whitespace(p, n, false, false);
    return run_of(p, n, len, c & L ? L : c & N ? N : ~(unsigned)(S | L | N));
}

// --- Patterns that do not cover all text ---

// Bytes of the match at p, or 0.
typedef size_t matcher(const uint8_t *p, size_t n);

static inline size_t first_piece(const uint8_t *p, size_t n, matcher *match) {
    size_t i = match(p, n), len;
    if (i) return i;
    do {
        upg_next_class(p + i, n - i, &len);
        i += len;
    } while (i < n && !match(p + i, n - i));
    return i;
}

// deepseek-v3: words after [!-~]-like signs of ASCII, marks as letters, and controls and formats in none of it.
static size_t match_deepseek_v3(const uint8_t *p, size_t n) {
    size_t len, next_len, i;
    unsigned c = upg_next_class(p, n, &len), next = class_at(p, n, len, &next_len);
    if (c & PS && *p < 128 && next & L && p[1] < 128) {
        for (i = 2; i < n && (uint8_t)((p[i] | 0x20) - 'a') < 26; i++) continue;
        return i;
    }
    if (c & (L | M)) return run_of(p, n, len, L | M);
    if (!(c & (PS | UPG_CHAR_NEWLINE)) && next & (L | M)) return run_of(p, n, len, L | M);
    if (c & PS || (*p == ' ' && next & PS)) return line_ends(p, n, run_of(p, n, len, PS), false);
    return c & S ? whitespace(p, n, true, false) : 0;
}

static size_t scan_deepseek_v3(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_deepseek_v3);
}

// \s?[...]+ of a class that may have whitespace in it, which then may be the whole match.
typedef bool member(uint32_t cp, unsigned c);

static inline size_t run_of_members(const uint8_t *p, size_t n, size_t i, member *in) {
    while (i < n) {
        uint32_t cp;
        size_t len = (size_t)upg_utf8_decode(p + i, n - i, &cp);
        if (!in(cp, upg_char_class_of(cp))) break;
        i += len;
    }
    return i;
}

static inline size_t after_space(const uint8_t *p, size_t n, unsigned spaces, member *in) {
    size_t len, end;
    if (upg_next_class(p, n, &len) & spaces && (end = run_of_members(p, n, len, in)) > len) return end;
    return run_of_members(p, n, 0, in);
}

static inline bool in_ranges(uint32_t cp, const uint32_t (*ranges)[2], size_t n) {
    size_t low = 0;
    while (low < n) {
        size_t middle = (low + n) / 2;
        if (cp < ranges[middle][0])
            n = middle;
        else if (cp > ranges[middle][1])
            low = middle + 1;
        else
            return true;
    }
    return false;
}

// clang-format off
#define DEEPSEEK_LETTERS \
    "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376\u0377" \
    "\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556" \
    "\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A" \
    "\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4" \
    "\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC" \
    "\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F" \
    "\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B" \
    "\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A" \
    "\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2" \
    "\U000118A0-\U000118DF\U0001E900-\U0001E943"

static const uint32_t deepseek_letters[][2] = {
    {'A', 'Z'}, {'a', 'z'}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA}, {0x1BC, 0x1BF}, {0x1C4, 0x293},
    {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A},
    {0x38C, 0x38C}, {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556}, {0x10A0, 0x10C5},
    {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57},
    {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115},
    {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212A, 0x212D}, {0x212F, 0x2134},
    {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE}, {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F},
    {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2},
    {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
static const uint32_t deepseek_signs[][2] = {
    {'!', '/'}, {':', '~'}, {0x2018, 0x201F}, {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
static const uint32_t deepseek_cjk[][2] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const uint32_t deepseek_v3_cjk[][2] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
// The signs of bloom's expression, beside White_Space.
static const uint32_t bloom_signs[][2] = {
    {'!', '!'}, {'(', ')'}, {',', ','}, {'.', '.'}, {'?', '?'}, {'|', '|'}, {0x60C, 0x60C}, {0x6D4, 0x6D4},
    {0x964, 0x964}, {0x2026, 0x2026}, {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
// clang-format on

#define MEMBER_OF_RANGES(name)                                                                                         \
    static bool in_##name(uint32_t cp, unsigned c) {                                                                   \
        (void)c;                                                                                                       \
        return in_ranges(cp, name, sizeof name / sizeof *name);                                                        \
    }
MEMBER_OF_RANGES(deepseek_letters)
MEMBER_OF_RANGES(deepseek_signs)
MEMBER_OF_RANGES(deepseek_cjk)
MEMBER_OF_RANGES(deepseek_v3_cjk)

static bool in_letters(uint32_t cp, unsigned c) {
    (void)cp;
    return c & L;
}

static bool in_numbers(uint32_t cp, unsigned c) {
    (void)cp;
    return c == N;
}

static bool in_punctuation(uint32_t cp, unsigned c) {
    (void)cp;
    return c == UPG_CHAR_PUNCT;
}

// What tokenizers' Punctuation cuts out: \p{P} and the signs of ASCII.
static bool in_signs(uint32_t cp, unsigned c) {
    return c == UPG_CHAR_PUNCT || (cp < 128 && c == UPG_CHAR_SYMBOL);
}

static bool in_signs_but_backtick(uint32_t cp, unsigned c) {
    return in_signs(cp, c) && cp != '`';
}

static bool in_bloom_words(uint32_t cp, unsigned c) {
    return !(c & S) && !in_ranges(cp, bloom_signs, sizeof bloom_signs / sizeof *bloom_signs);
}

static bool in_newlines(uint32_t cp, unsigned c) {
    (void)c;
    return cp == '\n';
}

// [...]+ for a class
#define SCAN_RUNS(name, in)                                                                                            \
    static size_t match_##name(const uint8_t *p, size_t n) {                                                           \
        return run_of_members(p, n, 0, in);                                                                            \
    }                                                                                                                  \
    static size_t scan_##name(const uint8_t *p, size_t n) {                                                            \
        return first_piece(p, n, match_##name);                                                                        \
    }
// The same with one character of a class of spaces in front, or none
#define SCAN_SPACED_RUNS(name, spaces, in)                                                                             \
    static size_t match_##name(const uint8_t *p, size_t n) {                                                           \
        return after_space(p, n, spaces, in);                                                                          \
    }                                                                                                                  \
    static size_t scan_##name(const uint8_t *p, size_t n) {                                                            \
        return first_piece(p, n, match_##name);                                                                        \
    }
SCAN_RUNS(digit_runs, in_numbers)
SCAN_RUNS(punctuation, in_signs)
SCAN_RUNS(punctuation_but_backtick, in_signs_but_backtick)
SCAN_RUNS(deepseek_cjk, in_deepseek_cjk)
SCAN_RUNS(deepseek_v3_cjk, in_deepseek_v3_cjk)
SCAN_RUNS(lines, in_newlines)
SCAN_SPACED_RUNS(spaced_letters, S, in_letters)
SCAN_SPACED_RUNS(spaced_punctuation, S, in_punctuation)
SCAN_SPACED_RUNS(deepseek_letters, S, in_deepseek_letters)
SCAN_SPACED_RUNS(deepseek_signs, S, in_deepseek_signs)

static size_t match_bloom(const uint8_t *p, size_t n) {
    return after_space(p, n, *p == ' ' ? S : 0, in_bloom_words);
}

static size_t scan_bloom(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_bloom);
}

static size_t match_newline(const uint8_t *p, size_t n) {
    (void)n;
    return *p == '\r' || *p == '\n';
}

static size_t scan_newline(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_newline);
}

static size_t match_digit(const uint8_t *p, size_t n) {
    size_t len;
    return upg_next_class(p, n, &len) == N ? len : 0;
}

static size_t scan_digits(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_digit);
}

static size_t match_3_numbers(const uint8_t *p, size_t n) {
    size_t i = 0, len;
    for (int k = 0; k < 3 && class_at(p, n, i, &len) == N; k++) i += len;
    return i;
}

static size_t scan_3_numbers(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_3_numbers);
}

static size_t match_3_digits(const uint8_t *p, size_t n) {
    for (int k = 0; k < 3; k++)
        if (n < 3 || p[k] < '0' || p[k] > '9') return 0;
    return 3;
}

static size_t scan_3_digits(const uint8_t *p, size_t n) {
    return first_piece(p, n, match_3_digits);
}

// \s+$, where $ is also in front of each \n: whitespace up to the end, or up to the last \n of its run. A run without
// either is skipped whole, so that no character is looked at twice.
static size_t scan_trailing_spaces(const uint8_t *p, size_t n) {
    size_t i = 0, len;
    while (i < n) {
        size_t start = i, line = 0;
        for (unsigned c; (c = class_at(p, n, i, &len)) & S; i += len)
            if (p[i] == '\n' && i > start) line = i;
        if (i > start && (i == n || line)) return start ? start : i == n ? n : line;
        if (i < n) i += (upg_next_class(p + i, n - i, &len), len);
    }
    return n;
}

// tokenizers' Digits behind ByteLevel sees bytes spelled in its alphabet, where some bytes above 127 look like numbers.
static bool alphabet_number(uint8_t b) {
    return (b >= '0' && b <= '9') || b == 0xB2 || b == 0xB3 || b == 0xB9 || (b >= 0xBC && b <= 0xBE);
}

static size_t scan_alphabet_digit_runs(const uint8_t *p, size_t n) {
    size_t i = 1;
    while (i < n && alphabet_number(p[i]) == alphabet_number(p[0])) i++;
    return i;
}

static size_t scan_alphabet_digits(const uint8_t *p, size_t n) {
    return alphabet_number(p[0]) ? 1 : scan_alphabet_digit_runs(p, n);
}

// --- The table ---

#define END_SPACES          "|\\s+(?!\\S)|\\s+"
#define CL100K_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define CL100K_WORDS        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define CL100K_TAIL         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" END_SPACES
#define TIKTOKEN_TAIL       "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]" END_SPACES
#define CAPITALS            "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define SMALL_LETTERS       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED_WORDS(after)                                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?" CAPITALS "*" SMALL_LETTERS "+" after "|[^\\r\\n\\p{L}\\p{N}]?" CAPITALS "+" SMALL_LETTERS \
    "*" after "|"
#define SLASH_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+" END_SPACES

const upg_pattern upg_patterns[] = {
    {"cl100k",
     {CL100K_CONTRACTIONS CL100K_WORDS "\\p{N}{1,3}" CL100K_TAIL,
      "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}" TIKTOKEN_TAIL,
      CL100K_CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}" TIKTOKEN_TAIL,
      "'(?i:[sdmt]|ll|ve|re)|" CL100K_WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]" END_SPACES},
     scan_cl100k,
     true},
    {"cl100k-ascii",
     {"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|" CL100K_WORDS "\\p{N}{1,3}" CL100K_TAIL},
     scan_cl100k_ascii,
     true},
    // In the syntax tokenizer.json is read with, {1,3}+ repeats instead of being possessive: numbers are not cut at
    // all.
    {"cl100k-end",
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| "
      "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"},
     scan_cl100k_end,
     true},
    {"cl100k-numbers", {CL100K_CONTRACTIONS CL100K_WORDS "\\p{N}+" CL100K_TAIL}, scan_cl100k_numbers, true},
    {"qwen2",
     {CL100K_CONTRACTIONS CL100K_WORDS "\\p{N}" CL100K_TAIL,
      "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}" TIKTOKEN_TAIL},
     scan_qwen2,
     true},
    {"qwen35",
     {CL100K_CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
                          "|\\s*[\\r\\n]+" END_SPACES},
     scan_qwen35,
     true},
    {"o200k", {CASED_WORDS("(?i:'s|'t|'re|'ve|'m|'ll|'d)?") "\\p{N}{1,3}" SLASH_TAIL}, scan_o200k, true},
    {"tekken", {CASED_WORDS("") "\\p{N}" SLASH_TAIL}, scan_tekken, true},
    {"gpt2",
     {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+" END_SPACES,
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+" END_SPACES,
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s",
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"},
     scan_gpt2,
     true},
    {"digits", {"\\p{N}"}, scan_digits, false},
    {"digit-runs", {"\\p{N}+"}, scan_digit_runs, false},
    {"3-numbers", {"\\p{N}{1,3}"}, scan_3_numbers, false},
    {"3-digits", {"[0-9][0-9][0-9]"}, scan_3_digits, false},
    {"punctuation", {"[\\p{P}\\$\\+<=>\\^~\\|`]+"}, scan_punctuation, false},
    {"punctuation-but-backtick", {"[\\p{P}\\$\\+<=>\\^~\\|]+"}, scan_punctuation_but_backtick, false},
    {"newline", {"[\\r\\n]"}, scan_newline, false},
    {"lines", {"[^\\n]+|[\\n]+"}, scan_lines, true},
    {"spaced-letters", {"\\s?\\p{L}+"}, scan_spaced_letters, false},
    {"spaced-punctuation", {"\\s?\\p{P}+"}, scan_spaced_punctuation, false},
    {"trailing-spaces", {"\\s+$"}, scan_trailing_spaces, false},
    {"deepseek-letters", {"\\s?[" DEEPSEEK_LETTERS "]+"}, scan_deepseek_letters, false},
    {"deepseek-signs",
     {"\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"},
     scan_deepseek_signs,
     false},
    {"deepseek-cjk", {"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"}, scan_deepseek_cjk, false},
    {"deepseek-v3-cjk", {"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"}, scan_deepseek_v3_cjk, false},
    {"deepseek-v3",
     {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
      "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+" END_SPACES},
     scan_deepseek_v3,
     false},
    {"bloom",
     {" ?[^(\\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+",
      " ?[^(\\s|[.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C])]+"},
     scan_bloom,
     false},
    {"alphabet-digits", {NULL}, scan_alphabet_digits, false},
    {"alphabet-digit-runs", {NULL}, scan_alphabet_digit_runs, false},
};
const int upg_n_patterns = (int)(sizeof upg_patterns / sizeof *upg_patterns);

static bool same_regex(const char *known, const char *regex, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((regex[i] == '\r' || regex[i] == '\n') && *known == '\\') {
            if (known[1] != (regex[i] == '\r' ? 'r' : 'n')) return false;
            known += 2;
        } else if (*known++ != regex[i] || !regex[i]) {
            return false;
        }
    }
    return !*known;
}

const upg_pattern *upg_pattern_by_regex(const char *regex, size_t n) {
    for (int i = 0; i < upg_n_patterns; i++)
        for (const char *const *r = upg_patterns[i].regexes; *r; r++)
            if (same_regex(*r, regex, n)) return &upg_patterns[i];
    return NULL;
}

const upg_pattern *upg_pattern_by_name(const char *name, size_t n) {
    for (int i = 0; i < upg_n_patterns; i++)
        if (strlen(upg_patterns[i].name) == n && !memcmp(upg_patterns[i].name, name, n)) return &upg_patterns[i];
    return NULL;
}
