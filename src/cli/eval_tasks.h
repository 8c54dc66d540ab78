// upg eval --choices and --last-word: accuracy on items of a task file.
#pragma once
#include "cli/cli.h"
#include "engine/eval_items.h"

typedef struct cli_tasks {
    const char *choices, *last_word, *results;
    int limit, batch, context; // 0: the default
} cli_tasks;
extern const cli_option cli_tasks_options[];

typedef struct cli_tasks_setup {
    const char *model;
    const cli_tasks *tasks;
    int n_threads;
    bool json;
    cli_progress *progress;
} cli_tasks_setup;
int cli_eval_tasks(const cli_tasks_setup *o, upg_error *e); // prints the result

// The file of --results (results.c): a header that says what it belongs to, then a line of JSON an item, in order, as
// they are scored. What is there already is taken over when the same command runs again.
typedef struct cli_results {
    const char *path;
    FILE *f; // NULL: none is written
} cli_results;
// Fills in the scores of the items that the file has, which are the first *n_done ones.
int cli_results_open(cli_results *r, const char *path, upg_eval_items *all, size_t *n_done, upg_error *e);
int cli_results_add(cli_results *r, const upg_eval_items *all, size_t first, size_t end, upg_error *e);
int cli_results_close(cli_results *r, upg_error *e);

// The text an item's scores choose, the first of equals; normalised: by log-likelihood per character of the ending.
int cli_chosen(const upg_eval_item *item, bool normalised);
