// Steps: which requests run, what rows a step has, and what becomes of its logits.
//
// A request is a text of which the sequence in its slot holds a beginning. Every step runs what is missing: the one
// token that was drawn last, or a part of a prompt. So a request whose sequence was taken away in favour of an older
// one simply has more to run when it comes back.
#include "engine/scheduler_internal.h"
#include "program/numbers.h"
#include <string.h>

enum { WORTH_WAITING = 64 }; // tokens of a prompt that another request is about to compute anyway

static int running_of(const upg_scheduler *s, uint64_t client) {
    int n = 0;
    for (int i = 0; i < s->options.n_parallel; i++) n += s->slots[i] && s->slots[i]->asked.client == client;
    return n;
}

// ---- Ends ----

static void leave_slot(upg_scheduler *s, request *r, bool keep) {
    upg_prefix_end(s->prefix, r->slot, r->computed, keep);
    s->slots[r->slot] = NULL;
    s->n_running--;
    r->slot = -1;
    r->computed = 0;
}

// keep: what was computed is good.
static void end_running(upg_scheduler *s, request *r, upg_finish finish, const char *stop, const char *error,
                        const char *text, size_t n_text) {
    leave_slot(s, r, finish != UPG_FINISH_FAILED);
    upg_scheduler_finish(s, r, finish, stop, error, text, n_text);
}

// An end that the model has no part in: what was held back is given out.
static void end_with_rest(upg_scheduler *s, request *r, upg_finish finish) {
    const char *text;
    size_t n;
    upg_answer_text_finish(&r->text, &text, &n);
    end_running(s, r, finish, NULL, NULL, text, n);
}

static void fail_running(upg_scheduler *s, request *r, const char *error) {
    end_running(s, r, UPG_FINISH_FAILED, NULL, error, "", 0);
}

static bool must_end(const upg_scheduler *s, request *r, double now, upg_finish *finish) {
    bool late = r->asked.deadline > 0 && now > r->asked.deadline;
    *finish = late ? UPG_FINISH_DEADLINE : UPG_FINISH_CANCELLED;
    return late || r->cancelled || s->ending;
}

// Takes out of the queue what need not wait.
static request *take_ended(upg_scheduler *s, double now) {
    list ended = {.last = &ended.first};
    pthread_mutex_lock(&s->mutex);
    request **link = &s->waiting.first;
    for (request *r; (r = *link);) {
        upg_finish finish;
        if (!must_end(s, r, now, &finish)) {
            link = &r->next;
            continue;
        }
        *link = r->next;
        s->n_waiting--;
        r->next = NULL;
        *ended.last = r;
        ended.last = &r->next;
    }
    s->waiting.last = link;
    pthread_mutex_unlock(&s->mutex);
    return ended.first;
}

static void end_some(upg_scheduler *s) {
    double now = upg_now();
    upg_finish finish;
    for (request *r = take_ended(s, now), *next; r; r = next) {
        next = r->next;
        const char *text = "";
        size_t n = 0;
        must_end(s, r, now, &finish);
        if (r->n_tokens > r->n_prompt) upg_answer_text_finish(&r->text, &text, &n); // it had begun before
        upg_scheduler_finish(s, r, finish, NULL, NULL, text, n);
    }
    for (int i = 0; i < s->options.n_parallel; i++)
        if (s->slots[i] && must_end(s, s->slots[i], now, &finish)) end_with_rest(s, s->slots[i], finish);
}

// ---- Beginnings ----

static int common(const request *a, const request *b) {
    int n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens, i = 0;
    while (i < n && a->tokens[i] == b->tokens[i]) i++;
    return i;
}

// Whether a request that runs is about to compute what this one begins with: then it is cheaper to wait.
static bool better_later(const upg_scheduler *s, const request *r) {
    for (int i = 0; i < s->options.n_parallel; i++) {
        const request *other = s->slots[i];
        if (other && other->n_tokens - other->computed > 1 && common(r, other) >= other->computed + WORTH_WAITING)
            return true;
    }
    return false;
}

// The next one: one that has run before; else one of the client that has the fewest running; of several the oldest.
static request *take_next(upg_scheduler *s) {
    request **best = NULL;
    int fewest = 0;
    pthread_mutex_lock(&s->mutex);
    for (request **link = &s->waiting.first, *r; (r = *link); link = &r->next) {
        if (better_later(s, r)) continue;
        int n = r->admitted ? -1 : running_of(s, r->asked.client);
        if (best && n >= fewest) continue;
        best = link;
        fewest = n;
    }
    request *r = best ? *best : NULL;
    if (r) {
        *best = r->next;
        if (!r->next) s->waiting.last = best;
        s->n_waiting--;
        r->next = NULL;
    }
    pthread_mutex_unlock(&s->mutex);
    return r;
}

// Back to where it was in order of arrival.
static void put_back(upg_scheduler *s, request *r) {
    pthread_mutex_lock(&s->mutex);
    request **link = &s->waiting.first;
    while (*link && (*link)->id < r->id) link = &(*link)->next;
    r->next = *link;
    *link = r;
    if (!r->next) s->waiting.last = &r->next;
    s->n_waiting++;
    pthread_mutex_unlock(&s->mutex);
}

// Blocks that the sequence will be short of with all its tokens run and one more.
static int blocks_short(const upg_scheduler *s, const request *r) {
    int length = r->n_tokens < s->options.context ? r->n_tokens + 1 : s->options.context;
    return upg_session_blocks_for(length) - upg_session_blocks_for(upg_session_length(s->session, r->slot));
}

// Whether there is room for all of it, and for the others to go on for a while.
static bool has_room(upg_scheduler *s, const request *r) {
    int room = upg_session_free_blocks(s->session) + upg_prefix_unused(s->prefix);
    return !s->n_running || blocks_short(s, r) + s->n_running <= room;
}

// Into a free slot; false if there is no room.
static bool let_in(upg_scheduler *s, request *r) {
    int slot = 0;
    while (s->slots[slot]) slot++;
    r->slot = slot;
    upg_prefix_start(s->prefix, slot, r->tokens, r->n_tokens);
    r->extending = upg_prefix_extend(s->prefix, slot);
    r->computed = upg_session_length(s->session, slot);
    if (!has_room(s, r)) {
        upg_prefix_end(s->prefix, slot, r->computed, false);
        r->slot = -1;
        r->computed = 0;
        return false;
    }
    s->slots[slot] = r;
    s->n_running++;
    if (r->admitted) return true;
    r->started = upg_now();
    r->n_cached = r->computed;
    return true;
}

static void count_admission(upg_scheduler *s, const request *r) {
    pthread_mutex_lock(&s->mutex);
    upg_histogram_add(&s->stats.queue, r->started - r->submitted);
    pthread_mutex_unlock(&s->mutex);
}

static void admit(upg_scheduler *s) {
    while (s->n_running < s->options.n_parallel) {
        request *r = take_next(s);
        if (!r) return;
        upg_error e = {""};
        if (!r->sampler && !(r->sampler = upg_sampler_new(s->model->config.vocab_size, &r->asked.sampling, &e))) {
            upg_scheduler_finish(s, r, UPG_FINISH_FAILED, NULL, e.message, "", 0);
            continue;
        }
        if (!let_in(s, r)) {
            put_back(s, r);
            return;
        }
        if (!r->admitted) count_admission(s, r);
        r->admitted = true;
        if (!r->max_tokens) end_running(s, r, UPG_FINISH_LENGTH, NULL, NULL, "", 0);
    }
}

// The youngest request makes room; false if there is one only.
static bool preempt(upg_scheduler *s) {
    request *youngest = NULL;
    if (s->n_running < 2) return false;
    for (int i = 0; i < s->options.n_parallel; i++)
        if (s->slots[i] && (!youngest || s->slots[i]->id > youngest->id)) youngest = s->slots[i];
    leave_slot(s, youngest, true);
    youngest->resumed = true;
    put_back(s, youngest);
    pthread_mutex_lock(&s->mutex);
    s->stats.preemptions++;
    pthread_mutex_unlock(&s->mutex);
    return true;
}

// ---- A step's rows ----

// Drafts are for an answer that is alone: among others a row more is better spent on another request.
static void make_draft(upg_scheduler *s, request *r) {
    int most = r->n_prompt + r->max_tokens - r->n_tokens - 1, room = s->options.context - r->n_tokens;
    if (most > room) most = room;
    if (most > UPG_DRAFT_MAX) most = UPG_DRAFT_MAX;
    if (s->options.speculate > 0 && most > s->options.speculate) most = s->options.speculate;
    if (s->drafted != r->id || s->drafter.n > r->n_tokens) {
        upg_drafter_clear(&s->drafter);
        s->drafted = r->id;
    }
    while (s->drafter.n < r->n_tokens) {
        int i = s->drafter.n;
        upg_drafter_push(&s->drafter, r->tokens[i], i >= r->n_prompt);
    }
    if (most < 1) return;
    int n = s->options.speculate > 0 ? most : upg_drafter_choose(&s->drafter, most);
    s->n_draft = upg_drafter_propose(&s->drafter, n, s->draft);
}

// How many tokens of its prompt a request runs in a step that has room for so many more rows, which it shares with
// others that read theirs.
static int part_of(int missing, int room, int readers) {
    int share = (room + readers - 1) / readers;
    return missing < share ? missing : share;
}

// The step's share for prompts: all rows, if no answer waits for the step to end, else a quarter.
static void plan_rows(upg_scheduler *s) {
    int drawing = 0, readers = 0;
    s->n_draft = 0;
    for (int i = 0; i < s->options.n_parallel; i++) {
        request *r = s->slots[i];
        if (!r) continue;
        r->n_rows = 0;
        if (r->extending) continue;
        if (r->n_tokens - r->computed == 1) {
            r->n_rows = 1;
            drawing++;
        } else {
            readers++;
        }
    }
    int room = (drawing ? s->options.max_rows / 4 : s->options.max_rows) - drawing;
    if (room < readers) room = readers;
    if (room > s->options.max_rows - drawing) room = s->options.max_rows - drawing;
    for (int i = 0; i < s->options.n_parallel && readers; i++) {
        request *r = s->slots[i];
        if (!r || r->extending || r->n_rows) continue;
        r->n_rows = part_of(r->n_tokens - r->computed, room, readers--);
        room -= r->n_rows;
    }
    if (s->n_running == 1 && drawing == 1 && s->options.speculate)
        for (int i = 0; i < s->options.n_parallel; i++)
            if (s->slots[i]) make_draft(s, s->slots[i]);
}

static int blocks_needed(const upg_scheduler *s) {
    int needed = 0;
    for (int i = 0; i < s->options.n_parallel; i++) {
        const request *r = s->slots[i];
        if (r)
            needed += upg_session_blocks_for(r->computed + r->n_rows + (r->n_rows ? s->n_draft : 0)) -
                      upg_session_blocks_for(r->computed);
    }
    return needed;
}

// How the device is to draw from the rows of a request. A draft, as far as it turns out right, is the history.
static void prepare_draws(upg_scheduler *s, request *r) {
    for (int i = 0; s->device_draws && i < r->n_logits; i++) {
        upg_draw *d = &s->device_draws[r->first_logits + i];
        if (i) r->tokens[r->n_tokens + i - 1] = s->draft[i - 1];
        upg_sampler_prepare(r->sampler, r->tokens, (size_t)(r->n_tokens + i), d);
        d->logits = r->asked.top_logprobs >= 0;
    }
}

static void fill_rows(upg_scheduler *s) {
    int n_logits = 0;
    s->n_rows = 0;
    for (int i = 0; i < s->options.n_parallel; i++) {
        request *r = s->slots[i];
        if (!r || !r->n_rows) continue;
        bool last = r->computed + r->n_rows == r->n_tokens;
        r->first_logits = n_logits;
        r->n_logits = last ? 1 + s->n_draft : 0;
        for (int j = 0; j < r->n_rows; j++)
            s->rows[s->n_rows++] = (upg_row){r->tokens[r->computed + j], i, last && j == r->n_rows - 1};
        for (int j = 0; j < s->n_draft; j++) s->rows[s->n_rows++] = (upg_row){s->draft[j], i, true};
        prepare_draws(s, r);
        n_logits += r->n_logits;
    }
}

// ---- What is drawn ----

// The likeliest tokens, ties to the lower id.
static int find_top(const float *logits, int vocab, upg_log_sum sum, int n, upg_token_logprob *top) {
    int found = 0;
    for (int i = 0; i < vocab; i++) {
        if (found == n && logits[i] <= top[n - 1].logprob) continue;
        int at = found < n ? found++ : n - 1;
        for (; at > 0 && logits[i] > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (upg_token_logprob){i, logits[i]};
    }
    for (int i = 0; i < found; i++) top[i].logprob = upg_logprob_of(sum, top[i].logprob);
    return found;
}

static bool is_end(const upg_scheduler *s, const request *r, int32_t token) {
    if (r->asked.ignore_eos) return false;
    return r->asked.chat ? upg_chat_is_end(r->asked.chat, token) : upg_model_is_eos(s->model, token);
}

// Draws as many tokens as the rows of the step have logits for.
static void draw_task(void *ctx, int task, int thread) {
    (void)thread;
    upg_scheduler *s = ctx;
    draw *d = &s->draws[task];
    const request *r = d->r;
    const int vocab = s->model->config.vocab_size;
    d->n = 0;
    d->n_top = r->asked.top_logprobs < vocab ? r->asked.top_logprobs : vocab;
    for (bool more = true; more && d->n < r->n_logits;) {
        int i = d->n++;
        const int32_t drawn = upg_session_drawn(s->session, r->first_logits + i);
        const float *logits = drawn < 0 || d->n_top >= 0 ? upg_session_logits(s->session, r->first_logits + i) : NULL;
        // The draft, as far as it was right, is the history: its tokens are put where they would come to stand.
        d->tokens[i] = drawn >= 0 ? drawn : upg_sample(r->sampler, logits, r->tokens, (size_t)(r->n_tokens + i));
        if (d->n_top >= 0) {
            upg_log_sum sum = upg_log_sum_of(logits, vocab);
            d->logprobs[i] = upg_logprob_of(sum, logits[d->tokens[i]]);
            if (d->n_top > 0) find_top(logits, vocab, sum, d->n_top, d->top[i]);
        }
        more = i < s->n_draft && d->tokens[i] == s->draft[i] && !is_end(s, r, d->tokens[i]);
        if (more) r->tokens[r->n_tokens + i] = d->tokens[i];
    }
}

// A token is out: its times.
static void count_token(upg_scheduler *s, request *r) {
    double now = upg_now();
    pthread_mutex_lock(&s->mutex);
    s->stats.generation_tokens++;
    if (r->first_token > 0) {
        upg_histogram_add(&s->stats.inter_token, now - r->last_token);
    } else {
        s->stats.prompt_tokens += (uint64_t)r->n_prompt;
        s->stats.prefix_queries += (uint64_t)r->n_prompt;
        s->stats.prefix_hits += (uint64_t)r->n_cached;
        upg_histogram_add(&s->stats.first_token, now - r->submitted);
        upg_histogram_add(&s->stats.prompt, now - r->started);
        r->first_token = now;
    }
    r->last_token = now;
    pthread_mutex_unlock(&s->mutex);
}

static void report_token(request *r, const draw *d, int i, const char *text, size_t n) {
    upg_answer_event event = {.text = text,
                              .n_text = n,
                              .token = d->tokens[i],
                              .logprob = d->n_top >= 0 ? d->logprobs[i] : 0,
                              .top = d->n_top > 0 ? d->top[i] : NULL,
                              .n_top = d->n_top > 0 ? d->n_top : 0};
    r->asked.event(r->asked.ctx, &event);
}

// One token of a request that has logits for it. False if it was the last.
static bool deliver(upg_scheduler *s, request *r, const draw *d, int i) {
    const char *text;
    size_t n;
    r->tokens[r->n_tokens++] = d->tokens[i];
    count_token(s, r);
    if (is_end(s, r, d->tokens[i])) {
        end_with_rest(s, r, UPG_FINISH_STOP);
        return false;
    }
    int stop = upg_answer_text_push(&r->text, d->tokens[i], &text, &n);
    if (stop < -1) {
        fail_running(s, r, "out of memory");
        return false;
    }
    report_token(r, d, i, text, n);
    if (stop >= 0)
        end_running(s, r, UPG_FINISH_STOP, r->text.stops[stop], NULL, "", 0);
    else if (r->n_tokens == r->n_prompt + r->max_tokens)
        end_with_rest(s, r, UPG_FINISH_LENGTH);
    else
        return true;
    return false;
}

// What was run is part of the text for good: the rows of a prompt, and a draft as far as it was right.
static void take_rows(upg_scheduler *s, request *r, int n_drawn) {
    int good = r->n_rows + (n_drawn > 1 ? n_drawn - 1 : 0);
    r->computed += good;
    if (s->n_draft) upg_session_truncate(s->session, r->slot, r->computed, NULL);
    upg_prefix_commit(s->prefix, r->slot, r->computed);
}

static bool row_failed(const upg_scheduler *s, const request *r, int first_row) {
    for (int i = 0; i < r->n_rows; i++)
        if (upg_session_row_failed(s->session, first_row + i)) return true;
    return false;
}

static void check_rows(upg_scheduler *s) {
    s->n_draws = 0;
    for (int i = 0, row = 0; i < s->options.n_parallel; i++) {
        request *r = s->slots[i];
        if (!r || !r->n_rows) continue;
        bool failed = row_failed(s, r, row);
        row += r->n_rows + s->n_draft;
        if (failed) {
            fail_running(s, r, "the model met a value that is not finite");
            continue;
        }
        // A draft that meets such a value is cut before it: whether it will be drawn is not known.
        for (int j = 1; j < r->n_logits; j++)
            if (upg_session_row_failed(s->session, row - s->n_draft + j - 1)) r->n_logits = j;
        if (r->n_logits)
            s->draws[s->n_draws++].r = r;
        else
            take_rows(s, r, 0);
    }
}

static void draw_all(upg_scheduler *s) {
    upg_pool_run(upg_session_pool(s->session), draw_task, s, s->n_draws);
    for (int i = 0; i < s->n_draws; i++) {
        const draw *d = &s->draws[i];
        request *r = d->r;
        take_rows(s, r, d->n);
        for (int j = 0; j < d->n && deliver(s, r, d, j); j++) continue;
        if (!s->n_draft) continue;
        pthread_mutex_lock(&s->mutex);
        s->stats.drafted += (uint64_t)s->n_draft;
        s->stats.accepted += (uint64_t)(d->n - 1);
        pthread_mutex_unlock(&s->mutex);
    }
}

static void count_step(upg_scheduler *s) {
    upg_prefix_counts disk = upg_prefix_count(s->prefix);
    int unused = upg_prefix_unused(s->prefix);
    pthread_mutex_lock(&s->mutex);
    upg_scheduler_stats *t = &s->stats;
    t->running = s->n_running;
    t->blocks_cached = unused;
    t->blocks_used = t->blocks - upg_session_free_blocks(s->session) - unused;
    t->disk_saved = disk.saved;
    t->disk_loaded = disk.loaded;
    t->disk_damaged = disk.damaged;
    t->disk_failed = disk.failed;
    pthread_mutex_unlock(&s->mutex);
}

// Blocks of the folder, one for each request that waits for some.
static void extend_some(upg_scheduler *s) {
    for (int i = 0; i < s->options.n_parallel; i++) {
        request *r = s->slots[i];
        if (!r || !r->extending) continue;
        r->extending = upg_prefix_extend(s->prefix, i);
        int length = upg_session_length(s->session, i);
        if (!r->resumed) r->n_cached += length - r->computed;
        r->computed = length;
    }
}

static void run_step(upg_scheduler *s) {
    plan_rows(s);
    while (!upg_prefix_make_room(s->prefix, blocks_needed(s))) {
        if (!preempt(s)) break; // one alone always has room: the run below says so if it has not
        plan_rows(s);
    }
    fill_rows(s);
    if (!s->n_rows) return;
    upg_error e = {""};
    double start = upg_now();
    int rc = upg_session_run_draws(s->session, s->rows, s->n_rows, s->device_draws, &e);
    pthread_mutex_lock(&s->mutex);
    s->stats.running = s->n_running;
    s->stats.steps++;
    s->stats.rows += (uint64_t)s->n_rows;
    pthread_mutex_unlock(&s->mutex);
    if (rc) {
        for (int i = 0; i < s->options.n_parallel; i++)
            if (s->slots[i] && s->slots[i]->n_rows) fail_running(s, s->slots[i], e.message);
        return;
    }
    if (s->options.speculate && s->n_running == 1 && s->n_rows == 1 + s->n_draft)
        upg_drafter_measure(&s->drafter, s->n_rows, upg_now() - start);
    check_rows(s);
    draw_all(s);
}

void upg_scheduler_round(upg_scheduler *s) {
    end_some(s);
    extend_some(s);
    admit(s);
    if (s->n_running) run_step(s);
    upg_prefix_poll(s->prefix);
    count_step(s);
}
