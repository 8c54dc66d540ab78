// PCRE2 as oracle of the scanners, for the test and the fuzz target: how it has to read an expression, and which
// characters it knows as our tables do.
#pragma once
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include "text/pretokenize.h"
#include "text/unicode.h"

// NULL if PCRE2 does not compile it.
static inline pcre2_code *compile_regex(const char *regex) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (re) pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    return re;
}

// The expression as PCRE2 has to read it to mean what it means where tokenizer.json is read: there $ is in front of
// each \n, {1,3}+ repeats instead of being possessive, and brackets nest (which PCRE2 cannot spell: false).
static inline bool respell(const char *regex, char *out, size_t size) {
    if (strstr(regex, "|[.")) return false;
    snprintf(out, size, "(*LF)(?m)%s", regex);
    char *repeat = strstr(out, "{1,3}+");
    if (repeat) memmove(repeat, repeat + 5, strlen(repeat + 5) + 1);
    return true;
}

// Bytes of the piece that a search with the expression cuts off text[0..n) at i: the match there, or what lies in front
// of the next one.
static inline size_t oracle_piece(const pcre2_code *re, pcre2_match_data *m, const char *text, size_t n, size_t i) {
    int rc = pcre2_match(re, (PCRE2_SPTR)text, n, i, PCRE2_NO_UTF_CHECK, m, NULL);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
    return (rc < 1 ? n : at[0] > i ? at[0] : at[1]) - i;
}

static inline bool matches(const pcre2_code *re, pcre2_match_data *m, const char *s, size_t n) {
    return pcre2_match(re, (PCRE2_SPTR)s, n, 0, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, m, NULL) > 0;
}

enum { N_PROPERTIES = 8 };
typedef struct properties {
    pcre2_code *re[N_PROPERTIES];
} properties;

static const struct {
    const char *regex;
    unsigned set;
} property_table[N_PROPERTIES] = {{"[\\p{Lu}\\p{Lt}]", UPG_CHAR_UPPER}, {"\\p{Ll}", UPG_CHAR_LOWER},
                                  {"[\\p{Lm}\\p{Lo}]", UPG_CHAR_LO},    {"\\p{M}", UPG_CHAR_MARK},
                                  {"\\p{N}", UPG_CHAR_NUMBER},          {"\\p{P}", UPG_CHAR_PUNCT},
                                  {"\\p{S}", UPG_CHAR_SYMBOL},          {"\\s", UPG_CHAR_SPACE}};

static inline bool compile_properties(properties *x) {
    for (int k = 0; k < N_PROPERTIES; k++)
        if (!(x->re[k] = compile_regex(property_table[k].regex))) return false;
    return true;
}

static inline void free_properties(properties *x) {
    for (int k = 0; k < N_PROPERTIES; k++) pcre2_code_free(x->re[k]);
}

// PCRE2 and our tables know different versions of Unicode. Whether they agree on the class of the character s[0..n).
static inline bool same_class(const properties *x, pcre2_match_data *m, const char *s, size_t n) {
    size_t len;
    unsigned c = upg_next_class((const uint8_t *)s, n, &len);
    for (int k = 0; k < N_PROPERTIES; k++)
        if (matches(x->re[k], m, s, len) != ((c & property_table[k].set) != 0)) return false;
    return true;
}
