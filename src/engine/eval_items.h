// Items of an evaluation: what the lines of a task file ask of a model, as tokens, and how a model scores them.
//
// A line is one item, a JSON object. An item has texts, each a context and what follows it; the score of a text is the
// log-likelihood of what follows. All rules of how text becomes tokens, lengths and scores are lm-evaluation-harness's
// where eval_items.c does not say otherwise, so that figures can be compared.
#pragma once
#include "format/upg_file.h"
#include "upg.h"

typedef enum upg_eval_task {
    UPG_EVAL_CHOICES,   // {"context", "endings": [..], "label"} or {"contexts": [..], "ending", "label"}
    UPG_EVAL_LAST_WORD, // {"text"}: one text, whose last word is scored
} upg_eval_task;

typedef struct upg_eval_text {
    int32_t *tokens;   // [n] while the item is loaded, else NULL
    int n, first;      // tokens first..n-1 are scored; 1 <= first < n
    size_t n_chars;    // characters of the ending, white space before it not counted
    double likelihood; // sum of log p of the scored tokens, in nats
    bool greedy;       // every scored token is the likeliest one (the lowest id of equals)
} upg_eval_text;

typedef struct upg_eval_item {
    size_t line, offset, size; // line number from 1; where the line is in the file
    int label;                 // the right text
    int n_texts;
    bool cut;             // a text lost the beginning of its context
    bool scored;          // its texts have their scores
    upg_eval_text *texts; // [n_texts]
} upg_eval_item;

typedef struct upg_eval_items {
    upg_eval_task task;
    const upg_model *model;
    const char *path;     // for messages; the caller's
    char *file;           // its bytes
    upg_eval_item *items; // [n]
    size_t n;
    int context; // a text has at most this many tokens beside its last one
    int longest; // tokens beside the last one of the longest text
    char file_hash[UPG_HEX_HASH + 1];
} upg_eval_items;

// Reads and checks the first `limit` items (0: all). context: positions a text may have; a context that is too long
// loses its beginning, an ending that is too long is refused. Blank lines count as lines but are no items.
int upg_eval_items_read(upg_eval_items *all, const upg_model *m, upg_eval_task task, const char *path, int context,
                        size_t limit, upg_error *e);
void upg_eval_items_free(upg_eval_items *all);
// Fills in an item's tokens, or lets go of them.
int upg_eval_item_load(const upg_eval_items *all, upg_eval_item *item, upg_error *e);
void upg_eval_item_unload(upg_eval_item *item);

// Scores items in order, several side by side as sequences of one session, each keeping what its next text has in
// common with the last one: the context of an item is run once, and a prompt that all items begin with once a sequence.
typedef struct upg_eval_scorer upg_eval_scorer;
typedef struct upg_eval_scorer_options {
    int n_threads; // 0: one a core
    int batch;     // items side by side; 0: chosen by the longest text
} upg_eval_scorer_options;
// Begins at item `first`. The items outlive the scorer.
upg_eval_scorer *upg_eval_scorer_new(upg_eval_items *all, size_t first, const upg_eval_scorer_options *o, upg_error *e);
void upg_eval_scorer_free(upg_eval_scorer *s);
int upg_eval_scorer_step(upg_eval_scorer *s, upg_error *e); // runs one batch
size_t upg_eval_scorer_done(const upg_eval_scorer *s);      // all items before this one are scored
const char *upg_eval_scorer_path(const upg_eval_scorer *s);
