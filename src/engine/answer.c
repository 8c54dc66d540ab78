// Stop strings and held text. See answer.h.
#include "engine/answer.h"
#include <stdlib.h>
#include <string.h>

int upg_answer_text_init(upg_answer_text *t, const upg_tokenizer *tokenizer, const char *const *stops, int n_stops,
                         bool special, bool midway, upg_error *e) {
    *t = (upg_answer_text){.tokenizer = tokenizer, .special = special, .detokenizer = {.midway = midway}};
    if (n_stops && !(t->stops = upg_alloc((size_t)n_stops, sizeof *t->stops, e))) return -1;
    for (int i = 0; i < n_stops; i++, t->n_stops++)
        if (!(t->stops[i] = upg_strdup(stops[i], strlen(stops[i]), e))) {
            upg_answer_text_free(t);
            return -1;
        }
    return 0;
}

void upg_answer_text_free(upg_answer_text *t) {
    for (int i = 0; i < t->n_stops; i++) free(t->stops[i]);
    free(t->stops);
    upg_buf_free(&t->held);
    *t = (upg_answer_text){0};
}

// The first place where a stop string begins in the held text, and which.
static const char *find_stop(const upg_answer_text *t, int *which) {
    const char *best = NULL;
    for (int i = 0; t->held.data && i < t->n_stops; i++) {
        const char *at = memmem(t->held.data, t->held.size, t->stops[i], strlen(t->stops[i]));
        if (at && (!best || at < best)) {
            best = at;
            *which = i;
        }
    }
    return best;
}

// Bytes at the end that a stop string may begin with.
static size_t doubtful(const upg_answer_text *t) {
    size_t most = 0;
    for (int i = 0; i < t->n_stops; i++) {
        size_t n = strlen(t->stops[i]) - 1;
        if (n > t->held.size) n = t->held.size;
        while (n > most && memcmp(t->held.data + t->held.size - n, t->stops[i], n)) n--;
        if (n > most) most = n;
    }
    return most;
}

// Drops what the last call gave out.
static void forget(upg_answer_text *t) {
    if (!t->out) return;
    memmove(t->held.data, t->held.data + t->out, t->held.size - t->out);
    t->held.size -= t->out;
    t->out = 0;
}

static void give(upg_answer_text *t, size_t size, const char **text, size_t *n) {
    *text = t->held.data ? t->held.data : "";
    *n = t->out = size;
}

// A stop string, or all of the text but what is doubtful.
static int settle(upg_answer_text *t, bool ends, const char **text, size_t *n) {
    int which = -1;
    const char *stop = find_stop(t, &which);
    give(t, stop ? (size_t)(stop - t->held.data) : t->held.size - (ends ? 0 : doubtful(t)), text, n);
    if (stop) t->held.size = t->out;
    return which;
}

int upg_answer_text_push(upg_answer_text *t, int32_t token, const char **text, size_t *n) {
    forget(t);
    if (t->tokenizer) upg_detokenizer_push(&t->detokenizer, t->tokenizer, token, t->special, &t->held);
    if (!t->held.failed) return settle(t, false, text, n);
    give(t, 0, text, n);
    return -2;
}

int upg_answer_text_finish(upg_answer_text *t, const char **text, size_t *n) {
    forget(t);
    upg_detokenizer_finish(&t->detokenizer, &t->held);
    if (!t->held.failed) return settle(t, true, text, n);
    give(t, 0, text, n);
    return -2;
}
