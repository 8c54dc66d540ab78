// upg eval --choices and --last-word. See eval_tasks.h; how items become tokens and scores is engine/eval_items.h's.
#include "cli/eval_tasks.h"
#include <math.h>
#include <stdlib.h>

enum { DEFAULT_CONTEXT = 4096 };

#define AT(field) .offset = offsetof(cli_tasks, field)
const cli_option cli_tasks_options[] = {
    {"choices", 0, "FILE", "a line of JSON an item: context, endings, label", CLI_STRING, AT(choices)},
    {"last-word", 0, "FILE", "a line of JSON an item: text, whose last word is to be predicted", CLI_STRING,
     AT(last_word)},
    {"results", 0, "FILE", "write a line an item; the same command goes on behind those there", CLI_STRING,
     AT(results)},
    {"limit", 0, "N", "only the first N items", CLI_INT, AT(limit), 1, INT32_MAX},
    {"context", 'c', "N", "tokens an item may have; default: the model's, at most 4096", CLI_INT, AT(context), 2,
     1 << 24},
    {"batch", 0, "N", "items side by side; default: as memory allows, at most 16", CLI_INT, AT(batch), 1, 4096},
    {0}};

// ---- Results ----

static double score(const upg_eval_text *t, bool normalised) {
    return normalised ? t->likelihood / (double)t->n_chars : t->likelihood;
}

int cli_chosen(const upg_eval_item *item, bool normalised) {
    int best = 0;
    for (int i = 1; i < item->n_texts; i++)
        if (score(&item->texts[i], normalised) > score(&item->texts[best], normalised)) best = i;
    return best;
}

typedef struct share { // of items: p, and its standard error; NaN for one item
    double p, error;
} share;

static share share_of(size_t right, size_t n) {
    double p = (double)right / (double)n;
    return (share){p, n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : NAN};
}

static void print_share(bool json, const char *name, share s) {
    if (!json)
        printf(s.error >= 0 ? "%s %.4f +- %.4f  " : "%s %.4f  ", name, s.p, s.error);
    else if (s.error >= 0)
        printf("\"%s\":%.6f,\"%s_stderr\":%.6f,", name, s.p, name, s.error);
    else
        printf("\"%s\":%.6f,\"%s_stderr\":null,", name, s.p, name);
}

static void print_result(const upg_eval_items *all, bool json, const char *path) {
    size_t right = 0, right_norm = 0, n_cut = 0;
    double nll = 0;
    for (size_t i = 0; i < all->n; i++) {
        const upg_eval_item *item = &all->items[i];
        n_cut += item->cut;
        nll -= item->texts[0].likelihood / (double)all->n;
        if (all->task == UPG_EVAL_CHOICES) {
            right += cli_chosen(item, false) == item->label;
            right_norm += cli_chosen(item, true) == item->label;
        } else {
            right += item->texts[0].greedy;
        }
    }
    if (json) printf("{");
    if (all->task == UPG_EVAL_CHOICES)
        print_share(json, json ? "accuracy_norm" : "normalised accuracy", share_of(right_norm, all->n));
    print_share(json, "accuracy", share_of(right, all->n));
    if (all->task == UPG_EVAL_LAST_WORD)
        printf(json ? "\"nll\":%.6f,\"ppl\":%.5f," : "nll %.5f  ppl %.4f a last word  ", nll, exp(nll));
    if (json) {
        printf("\"items\":%zu,\"cut\":%zu}\n", all->n, n_cut);
        return;
    }
    printf("items %zu", all->n);
    if (path) printf(" (%s)", path);
    if (n_cut) printf("  %zu of them lost the beginning of a context of more than %d tokens", n_cut, all->context);
    printf("\n");
}

// ---- Running ----

// Scores the items from *done on, and writes them down as they are done.
static int score_items(upg_eval_scorer *s, const cli_tasks_setup *o, upg_eval_items *all, cli_results *results,
                       upg_error *e) {
    size_t written = upg_eval_scorer_done(s), done;
    while ((done = upg_eval_scorer_done(s)) < all->n) {
        cli_progress_show(o->progress, (double)done / (double)all->n, "items");
        if (cli_interrupted) return upg_fail(e, "interrupted");
        if (upg_eval_scorer_step(s, e)) return -1;
        done = upg_eval_scorer_done(s);
        if (cli_results_add(results, all, written, done, e)) return -1;
        written = done;
    }
    return 0;
}

static int run_items(const cli_tasks_setup *o, upg_eval_items *all, cli_results *results, upg_error *e) {
    size_t done = 0;
    if (o->tasks->results && cli_results_open(results, o->tasks->results, all, &done, e)) return -1;
    upg_eval_scorer_options options = {.n_threads = o->n_threads, .batch = o->tasks->batch};
    upg_eval_scorer *s = done < all->n ? upg_eval_scorer_new(all, done, &options, e) : NULL;
    int rc = done < all->n && (!s || score_items(s, o, all, results, e)) ? -1 : 0;
    cli_progress_end(o->progress);
    if (cli_results_close(results, rc ? NULL : e)) rc = -1;
    if (!rc) print_result(all, o->json, s ? upg_eval_scorer_path(s) : NULL);
    upg_eval_scorer_free(s);
    return rc;
}

int cli_eval_tasks(const cli_tasks_setup *o, upg_error *e) {
    const cli_tasks *t = o->tasks;
    upg_model *m = cli_open_model(o->model, e);
    if (!m) return -1;
    int max = upg_model_max_context(m), context = t->context              ? t->context
                                                  : max < DEFAULT_CONTEXT ? max
                                                                          : DEFAULT_CONTEXT;
    upg_eval_items all = {0};
    cli_results results = {0};
    int rc;
    if (context > max)
        rc = upg_fail(e, "%s: --context %d is more than its context of %d", o->model, context, max);
    else
        rc = upg_eval_items_read(&all, m, t->choices ? UPG_EVAL_CHOICES : UPG_EVAL_LAST_WORD,
                                 t->choices ? t->choices : t->last_word, context, (size_t)t->limit, e) ||
                     run_items(o, &all, &results, e)
                 ? -1
                 : 0;
    upg_eval_items_free(&all);
    upg_model_free(m);
    return rc;
}
