// Answers, token by token, with speculation.
//
// A draw depends on the logits, the tokens so far and (seed, position) only, and logits do not depend on the batch
// (docs/arithmetic.md). So drafted tokens are run as rows behind the one that was drawn, and as long as the next draw
// is the drafted token, the logits behind it are there already. A draw that differs makes the rest of the batch void.
#include "engine/generator.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "engine/speculate.h"
#include "upg.h"
#include <stdlib.h>

struct upg_generator {
    upg_session *session;
    int sequence, draft; // the caller's; at most what the session can take
    bool adaptive;
    upg_draft_source *source; // NULL: the text's own index
    void *ctx;
    upg_drafter text; // what the sequence holds, and the last token drawn
    int limit;        // length of the text when no more will be asked for
    bool started, drawn;
    upg_row rows[1 + UPG_DRAFT_MAX]; // the last batch: the token drawn before it, then the draft
    int n_rows, row;                 // row: its logits are those of the next draw, or of the last one
    upg_draw *draws;                 // [1 + draft] of the rows; NULL: nothing is drawn where the session runs
    uint64_t drawn_by;               // the sampler they are of; 0: none
    upg_generator_counts counts;
};

upg_generator *upg_generator_new(upg_session *s, int sequence, int draft, upg_error *e) {
    int most = upg_session_rows_ahead(s), n = upg_session_sequences(s);
    if (sequence < 0 || sequence >= n) {
        upg_fail(e, "sequence %d: not within 0..%d", sequence, n - 1);
        return NULL;
    }
    upg_generator *g = upg_alloc(1, sizeof *g, e);
    if (!g) return NULL;
    g->session = s;
    g->sequence = sequence;
    g->adaptive = draft < 0;
    if (most > UPG_DRAFT_MAX) most = UPG_DRAFT_MAX;
    g->draft = draft < 0 || draft > most ? most : draft;
    const size_t rows = 1 + (size_t)g->draft;
    if ((upg_session_draws(s) && !(g->draws = upg_alloc(rows, sizeof *g->draws, e))) ||
        upg_drafter_init(&g->text, upg_session_context(s) + 1, g->draft > 0, e)) {
        upg_generator_free(g);
        return NULL;
    }
    return g;
}

void upg_generator_free(upg_generator *g) {
    if (!g) return;
    upg_drafter_free(&g->text);
    free(g->draws);
    free(g);
}

int upg_generator_start(upg_generator *g, const int32_t *history, size_t n, int max, upg_error *e) {
    g->started = false;
    int length = upg_session_length(g->session, g->sequence), room = upg_session_context(g->session) + 1 - length;
    if (n < 1 || n != (size_t)length)
        return upg_fail(e, "an answer to %zu tokens, but the sequence holds %d", n, length);
    upg_drafter_clear(&g->text);
    for (size_t i = 0; i < n; i++) upg_drafter_push(&g->text, history[i], false);
    g->limit = length + (max < room ? max : room);
    g->n_rows = 1;
    g->row = 0;
    g->drawn_by = 0;
    g->started = true;
    g->drawn = false;
    g->counts = (upg_generator_counts){0};
    return 0;
}

void upg_generator_set_source(upg_generator *g, upg_draft_source *source, void *ctx) {
    g->source = source;
    g->ctx = ctx;
}

// What to run ahead. Behind the last token that will be asked for, and the one before it, nothing is of use.
static int make_draft(upg_generator *g, int32_t draft[UPG_DRAFT_MAX]) {
    int most = g->limit - g->text.n - 1;
    if (most > g->draft) most = g->draft;
    if (most < 1) return 0;
    if (g->source) return g->source(g->ctx, g->text.tokens, g->text.n, most, draft);
    return upg_drafter_propose(&g->text, g->adaptive ? upg_drafter_choose(&g->text, most) : most, draft);
}

// The draft, as far as it turns out right, is the history of what is drawn behind it.
static void prepare_draws(upg_generator *g, const upg_sampler *sampler, const int32_t *draft, int n) {
    if (!g->draws) return;
    for (int i = 0; i <= n; i++) {
        if (i) g->text.tokens[g->text.n + i - 1] = draft[i - 1]; // within the limit, so there is room
        upg_sampler_prepare(sampler, g->text.tokens, (size_t)(g->text.n + i), &g->draws[i]);
    }
    g->drawn_by = upg_sampler_id(sampler);
}

static int run(upg_generator *g, int32_t token, const upg_sampler *sampler, upg_error *e) {
    int32_t draft[UPG_DRAFT_MAX];
    int n = make_draft(g, draft);
    if (upg_session_truncate(g->session, g->sequence, g->text.n - 1, e)) return -1;
    for (int i = 0; i <= n; i++) g->rows[i] = (upg_row){i ? draft[i - 1] : token, g->sequence, true};
    prepare_draws(g, sampler, draft, n);
    double start = upg_now();
    if (upg_session_run_draws(g->session, g->rows, 1 + n, g->draws, e)) return -1;
    upg_drafter_measure(&g->text, 1 + n, upg_now() - start);
    g->n_rows = 1 + n;
    g->row = 0;
    g->counts.runs++;
    g->counts.drafted += n;
    return 0;
}

// The logits behind the last token drawn: of the draft, if that was right, or of a batch.
static int advance(upg_generator *g, const upg_sampler *sampler, upg_error *e) {
    int32_t token = g->text.tokens[g->text.n - 1];
    if (g->row + 1 < g->n_rows && g->rows[g->row + 1].token == token)
        g->row++;
    else if (run(g, token, sampler, e))
        return -1;
    if (upg_session_row_failed(g->session, g->row))
        return upg_fail(e, "the model met a value that is not finite at token %d", g->text.n - 1);
    return 0;
}

int upg_generator_next(upg_generator *g, upg_sampler *sampler, int32_t *token, upg_error *e) {
    if (!g->started) return upg_fail(e, "no answer was started");
    if (g->text.n == g->text.capacity)
        return upg_fail(e, "the context of %d tokens is full", upg_session_context(g->session));
    if (g->drawn && advance(g, sampler, e)) {
        upg_generator_finish(g, NULL);
        return -1;
    }
    *token = g->drawn_by == upg_sampler_id(sampler) ? upg_session_drawn(g->session, g->row) : -1;
    const float *logits = *token < 0 ? upg_generator_logits(g) : NULL;
    if (logits) *token = upg_sample(sampler, logits, g->text.tokens, (size_t)g->text.n);
    if (*token < 0) return upg_fail(e, "the device is lost");
    if (g->row + 1 < g->n_rows && g->rows[g->row + 1].token == *token) g->counts.accepted++;
    upg_drafter_push(&g->text, *token, true);
    g->drawn = true;
    return 0;
}

const float *upg_generator_logits(const upg_generator *g) {
    return upg_session_logits(g->session, g->row);
}

int upg_generator_finish(upg_generator *g, upg_error *e) {
    if (!g->started) return 0;
    g->started = false;
    int held = upg_session_length(g->session, g->sequence), length = g->text.n - g->drawn;
    return held > length ? upg_session_truncate(g->session, g->sequence, length, e) : 0;
}

upg_generator_counts upg_generator_count(const upg_generator *g) {
    return g->counts;
}
