// The text of an answer: tokens become UTF-8 as they come, and what may yet turn out to be part of a stop string is
// held back until it is known.
#pragma once
#include "text/tokenizer.h"

typedef struct upg_answer_text {
    const upg_tokenizer *tokenizer; // NULL: there will be no text
    char **stops;                   // [n_stops] owned
    int n_stops;
    bool special;
    upg_detokenizer detokenizer;
    upg_buf held; // text that is not out yet
    size_t out;   // bytes of it that have been given out
} upg_answer_text;

// What stops points to is copied.
int upg_answer_text_init(upg_answer_text *t, const upg_tokenizer *tokenizer, const char *const *stops, int n_stops,
                         bool special, bool midway, upg_error *e);
void upg_answer_text_free(upg_answer_text *t);
// A token more. *text, of *n bytes, is what has become certain, valid until the next call. Returns the index of the
// stop string that ends the answer here, of several the one that begins first, -1 if none does, -2 if memory is short.
int upg_answer_text_push(upg_answer_text *t, int32_t token, const char **text, size_t *n);
// The answer ends: the rest.
int upg_answer_text_finish(upg_answer_text *t, const char **text, size_t *n);
