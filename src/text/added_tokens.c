// Added tokens: strings that are found in the text before it is pre-tokenised, the longest of those that start
// leftmost. The flags (single_word, lstrip, rstrip) act as in Hugging Face's AddedVocabulary, down to what happens
// where they overlap: a rejected match is consumed, and a match inside whitespace that the one before has taken still
// counts.
//
// The tokens are sorted, so those that start with the bytes seen so far are a range that each further byte narrows.
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include <stdlib.h>
#include <string.h>

static int by_match(const void *x, const void *y) {
    const upg_added *a = *(const upg_added *const *)x, *b = *(const upg_added *const *)y;
    uint32_t n = a->match_size < b->match_size ? a->match_size : b->match_size;
    int order = memcmp(a->match, b->match, n);
    return order ? order : (a->match_size > b->match_size) - (a->match_size < b->match_size);
}

int upg_matcher_build(upg_matcher *m, const upg_tokenizer *t, bool normalized, upg_error *e) {
    *m = (upg_matcher){.only_byte = -1};
    m->tokens = upg_alloc((size_t)t->n_added, sizeof *m->tokens, e);
    if (!m->tokens) return -1;
    for (int32_t i = 0; i < t->n_added; i++)
        if (((t->added[i].flags & UPG_ADDED_NORMALIZED) != 0) == normalized) m->tokens[m->n++] = &t->added[i];
    qsort(m->tokens, (size_t)m->n, sizeof *m->tokens, by_match);
    for (int32_t i = 0; i < m->n; i++) {
        if (i && !by_match(&m->tokens[i - 1], &m->tokens[i]))
            return upg_fail(e, "tokenizer: added tokens %d and %d match the same text", (int)m->tokens[i - 1]->id,
                            (int)m->tokens[i]->id);
        m->first[(uint8_t)m->tokens[i]->match[0] + 1]++;
    }
    for (int b = 0; b < 256; b++) {
        if (m->n && m->first[b + 1] == m->n) m->only_byte = b;
        m->first[b + 1] += m->first[b];
    }
    return 0;
}

// The longest token that text starts with, or NULL. text[0..n), n > 0.
static const upg_added *longest_at(const upg_matcher *m, const uint8_t *text, size_t n) {
    int32_t lo = m->first[*text], hi = m->first[*text + 1];
    const upg_added *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        // All of [lo, hi) start with text[0..depth); the first of them is the shortest.
        if (m->tokens[lo]->match_size == depth) best = m->tokens[lo++];
        if (depth == n) break;
        uint8_t next = text[depth];
        for (int32_t end = hi; lo < end;) { // first token with a byte >= next there
            int32_t mid = lo + (end - lo) / 2;
            if ((uint8_t)m->tokens[mid]->match[depth] < next)
                lo = mid + 1;
            else
                end = mid;
        }
        for (int32_t start = lo; start < hi;) { // and with a byte > next
            int32_t mid = start + (hi - start) / 2;
            if ((uint8_t)m->tokens[mid]->match[depth] <= next)
                start = mid + 1;
            else
                hi = mid;
        }
    }
    return best;
}

// The first match at or after *pos, which becomes its start; NULL if there is none.
static const upg_added *next_match(const upg_matcher *m, const uint8_t *text, size_t n, size_t *pos) {
    for (size_t i = *pos; i < n; i++) {
        if (m->only_byte >= 0) {
            const uint8_t *p = memchr(text + i, m->only_byte, n - i);
            if (!p) return NULL;
            i = (size_t)(p - text);
        }
        const upg_added *a = longest_at(m, text + i, n - i);
        if (a) {
            *pos = i;
            return a;
        }
    }
    return NULL;
}

static bool is_single_word(const uint8_t *text, size_t n, size_t start, size_t stop) {
    uint32_t cp;
    if (start && (upg_utf8_decode_last(text, start, &cp), upg_char_is_word(cp))) return false;
    return stop == n || (upg_utf8_decode(text + stop, n - stop, &cp), !upg_char_is_word(cp));
}

static size_t spaces_end(const uint8_t *text, size_t n, size_t i) {
    uint32_t cp;
    for (int len; i < n; i += (size_t)len) {
        len = upg_utf8_decode(text + i, n - i, &cp);
        if (!upg_char_is_space(cp)) break;
    }
    return i;
}

static size_t spaces_start(const uint8_t *text, size_t least, size_t i) {
    uint32_t cp;
    for (int len; i > least; i -= (size_t)len) {
        len = upg_utf8_decode_last(text + least, i - least, &cp);
        if (!upg_char_is_space(cp)) break;
    }
    return i;
}

int upg_matcher_split(const upg_matcher *m, const uint8_t *text, size_t n, bool special, const upg_match_sink *sink) {
    size_t done = 0, pos = 0;          // done: up to where text is dealt with; pos: where the search goes on
    size_t run_start = 0, run_end = 0; // the whitespace found last, so that none is walked twice
    const upg_added *a;
    while (m->n && (a = next_match(m, text, n, &pos))) {
        size_t start = pos, stop = pos += a->match_size;
        if (!special && (a->flags & UPG_ADDED_SPECIAL)) continue;
        if ((a->flags & UPG_ADDED_SINGLE_WORD) && !is_single_word(text, n, start, stop)) continue;
        if (sink->accept && !sink->accept(sink->context, a, start, stop)) {
            pos = start + 1;
            continue;
        }
        if (a->flags & UPG_ADDED_LSTRIP) start = start < done ? done : spaces_start(text, done, start);
        if (a->flags & UPG_ADDED_RSTRIP) {
            if (stop < run_start || stop > run_end) {
                run_start = stop;
                run_end = spaces_end(text, n, stop);
            }
            stop = run_end;
        }
        if (done < start && sink->text(sink->context, text + done, start - done)) return -1;
        if (sink->token(sink->context, a->id)) return -1;
        done = stop;
    }
    return done < n ? sink->text(sink->context, text + done, n - done) : 0;
}
