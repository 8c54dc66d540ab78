// Scoring items: a scheduler of texts over the sequences of one session. See eval_items.h.
//
// A sequence works on one item, and there on one text after another. It keeps the tokens that its next text begins with
// and runs the rest; the token before the first scored one is always run, for its logits. A batch takes what there is
// of every sequence until its rows are full. Rows of one text come in order, so its sum of logarithms does too, and no
// result depends on the batch.
#include "engine/eval_items.h"
#include "base/thread.h"
#include "engine/model.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, MAX_BATCH = 16, POSITIONS = 16384 };

typedef struct slot {
    upg_eval_item *item; // NULL: none
    int text;
    int32_t *held; // [context] tokens that its sequence has seen
    int n_held;
} slot;

typedef struct wanted {
    upg_eval_text *text;
    int32_t target;
    float logprob;
    bool top;
} wanted;

struct upg_eval_scorer {
    upg_eval_items *all;
    upg_session *session;
    upg_pool *pool;
    int context, n_slots;
    slot *slots;    // [n_slots]
    size_t next;    // item that the next free slot takes
    size_t done;    // items before it are scored
    upg_row *rows;  // [ROWS] of the batch
    wanted *wanted; // [ROWS] its scored rows
};

// A longrope model answers by the context of its session: docs/arithmetic.md, section 10. What is reserved is only what
// the longest text needs, but on the side of the border that the context asked for is on.
static int reserved_context(const upg_eval_items *all) {
    const upg_config *c = &all->model->config;
    int border = (int)c->rope_original;
    bool crosses = c->rope_scaling == UPG_ROPE_LONGROPE && all->context > border && all->longest <= border;
    return crosses ? border + 1 : all->longest;
}

static int reserve(upg_eval_scorer *s, const upg_eval_scorer_options *o, upg_error *e) {
    s->context = reserved_context(s->all);
    s->n_slots = o->batch ? o->batch : POSITIONS / s->context;
    if (!o->batch && s->n_slots > MAX_BATCH) s->n_slots = MAX_BATCH;
    if (s->n_slots < 1) s->n_slots = 1;
    if ((size_t)s->n_slots > s->all->n - s->next) s->n_slots = (int)(s->all->n - s->next);
    upg_session_options session = {.n_threads = o->n_threads,
                                   .context = s->context,
                                   .n_sequences = s->n_slots,
                                   .max_rows = ROWS,
                                   .max_logits = ROWS};
    if (!(s->session = upg_session_new(s->all->model, &session, e)) || !(s->pool = upg_pool_new(o->n_threads, e)) ||
        !(s->rows = upg_alloc(ROWS, sizeof *s->rows, e)) || !(s->wanted = upg_alloc(ROWS, sizeof *s->wanted, e)) ||
        !(s->slots = upg_alloc((size_t)s->n_slots, sizeof *s->slots, e)))
        return -1;
    for (int i = 0; i < s->n_slots; i++)
        if (!(s->slots[i].held = upg_alloc((size_t)s->context, sizeof(int32_t), e))) return -1;
    return 0;
}

upg_eval_scorer *upg_eval_scorer_new(upg_eval_items *all, size_t first, const upg_eval_scorer_options *o,
                                     upg_error *e) {
    upg_eval_scorer *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    s->all = all;
    s->next = s->done = first;
    if (first < all->n && !reserve(s, o, e)) return s;
    if (first >= all->n) upg_fail(e, "no items left to score");
    upg_eval_scorer_free(s);
    return NULL;
}

void upg_eval_scorer_free(upg_eval_scorer *s) {
    if (!s) return;
    for (int i = 0; s->slots && i < s->n_slots; i++) free(s->slots[i].held);
    free(s->slots);
    free(s->rows);
    free(s->wanted);
    upg_pool_free(s->pool);
    upg_session_free(s->session);
    free(s);
}

// The sequence keeps what the slot's text begins with.
static int begin_text(upg_eval_scorer *s, int i, upg_error *e) {
    slot *p = &s->slots[i];
    upg_eval_text *t = &p->item->texts[p->text];
    int n = 0, most = t->first - 1 < p->n_held ? t->first - 1 : p->n_held;
    while (n < most && t->tokens[n] == p->held[n]) n++;
    p->n_held = n;
    t->likelihood = 0;
    t->greedy = true;
    return upg_session_truncate(s->session, i, n, e);
}

// Gives a slot without an item the next one, if there is one.
static int fill_slot(upg_eval_scorer *s, int i, upg_error *e) {
    slot *p = &s->slots[i];
    if (p->item || s->next == s->all->n) return 0;
    upg_eval_item *item = &s->all->items[s->next];
    if (upg_eval_item_load(s->all, item, e)) return -1;
    s->next++;
    p->item = item;
    p->text = 0;
    return begin_text(s, i, e);
}

static int end_text(upg_eval_scorer *s, int i, upg_error *e) {
    slot *p = &s->slots[i];
    if (++p->text < p->item->n_texts) return begin_text(s, i, e);
    upg_eval_item_unload(p->item);
    p->item->scored = true;
    p->item = NULL;
    while (s->done < s->all->n && s->all->items[s->done].scored) s->done++;
    return 0;
}

static void score_task(void *ctx, int i, int thread) {
    (void)thread;
    upg_eval_scorer *s = ctx;
    wanted *w = &s->wanted[i];
    int vocab = upg_model_vocab_size(s->all->model), top = 0;
    const float *l = upg_session_logits(s->session, i);
    for (int j = 1; j < vocab; j++)
        if (l[j] > l[top]) top = j;
    w->logprob = upg_logprob(l, vocab, w->target);
    w->top = top == w->target;
}

// Adds what fits of a slot's text to the batch.
static void add_rows(upg_eval_scorer *s, int i, int *n_rows, int *n_wanted) {
    slot *p = &s->slots[i];
    upg_eval_text *t = &p->item->texts[p->text];
    for (int at = p->n_held; at < t->n - 1 && *n_rows < ROWS; at++) {
        bool scored = at + 1 >= t->first;
        s->rows[(*n_rows)++] = (upg_row){t->tokens[at], i, scored};
        if (scored) s->wanted[(*n_wanted)++] = (wanted){.text = t, .target = t->tokens[at + 1]};
        p->held[p->n_held++] = t->tokens[at];
    }
}

static int check_rows(const upg_eval_scorer *s, int n_rows, upg_error *e) {
    for (int i = 0; i < n_rows; i++)
        if (upg_session_row_failed(s->session, i))
            return upg_fail(e, "%s:%zu: the model met a value that is not finite", s->all->path,
                            s->slots[s->rows[i].sequence].item->line);
    return 0;
}

int upg_eval_scorer_step(upg_eval_scorer *s, upg_error *e) {
    int n_rows = 0, n_wanted = 0;
    for (int i = 0; i < s->n_slots; i++) {
        if (fill_slot(s, i, e)) return -1;
        if (s->slots[i].item) add_rows(s, i, &n_rows, &n_wanted);
    }
    if (!n_rows) return 0;
    if (upg_session_run(s->session, s->rows, n_rows, e) || check_rows(s, n_rows, e)) return -1;
    upg_pool_run(s->pool, score_task, s, n_wanted);
    for (int i = 0; i < n_wanted; i++) {
        s->wanted[i].text->likelihood += (double)s->wanted[i].logprob;
        s->wanted[i].text->greedy &= s->wanted[i].top;
    }
    for (int i = 0; i < s->n_slots; i++) {
        slot *p = &s->slots[i];
        if (p->item && p->n_held == p->item->texts[p->text].n - 1 && end_text(s, i, e)) return -1;
    }
    return 0;
}

size_t upg_eval_scorer_done(const upg_eval_scorer *s) {
    return s->done;
}
const char *upg_eval_scorer_path(const upg_eval_scorer *s) {
    return upg_session_path(s->session);
}
