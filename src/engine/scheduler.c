// Requests: taking them, ending them, and the figures. The steps are in scheduler_step.c.
#include "engine/scheduler_internal.h"
#include "program/numbers.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

enum { N_PARALLEL = 8, MAX_QUEUE = 64, MAX_ROWS = 256, LIMIT = 4096 };

// ---- Figures ----

// Of vLLM, so that one's charts serve for the other.
static const double token_bounds[] = {.001, .002, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10};
static const double request_bounds[] = {.01, .05, .1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 480};

void upg_histogram_add(upg_histogram *h, double value) {
    int i = 0;
    while (i < h->n && value > h->bounds[i]) i++;
    h->counts[i]++;
    h->sum += value;
}

static void init_stats(upg_scheduler_stats *s) {
    const int n_token = sizeof token_bounds / sizeof *token_bounds, n = sizeof request_bounds / sizeof *request_bounds;
    s->first_token = s->whole = s->queue = s->prompt = s->answer = (upg_histogram){.bounds = request_bounds, .n = n};
    s->inter_token = (upg_histogram){.bounds = token_bounds, .n = n_token};
}

void upg_scheduler_stats_get(upg_scheduler *s, upg_scheduler_stats *stats) {
    pthread_mutex_lock(&s->mutex);
    *stats = s->stats;
    stats->waiting = s->n_waiting;
    pthread_mutex_unlock(&s->mutex);
}

// ---- Ending ----

void upg_request_free(request *r) {
    if (!r) return;
    upg_answer_text_free(&r->text);
    upg_sampler_free(r->sampler);
    free(r->tokens);
    free(r->bias);
    free(r);
}

static void count_end(upg_scheduler *s, const request *r, upg_finish finish, double now) {
    pthread_mutex_lock(&s->mutex);
    s->stats.finished[finish]++;
    if (r->first_token > 0) {
        upg_histogram_add(&s->stats.whole, now - r->submitted);
        upg_histogram_add(&s->stats.answer, now - r->first_token);
    }
    pthread_mutex_unlock(&s->mutex);
}

void upg_scheduler_finish(upg_scheduler *s, request *r, upg_finish finish, const char *stop, const char *error,
                          const char *text, size_t n_text) {
    double now = upg_now(), started = r->started > 0 ? r->started : now,
           first = r->first_token > 0 ? r->first_token : now;
    upg_answer_event end = {.end = true,
                            .text = text,
                            .n_text = n_text,
                            .finish = finish,
                            .stop = stop,
                            .error = error,
                            .n_prompt = r->n_prompt,
                            .n_cached = r->n_cached,
                            .n_tokens = r->n_tokens - r->n_prompt,
                            .queue_seconds = started - r->submitted,
                            .prompt_seconds = first - started,
                            .answer_seconds = now - first};
    count_end(s, r, finish, now);
    r->asked.event(r->asked.ctx, &end);
    pthread_mutex_lock(&s->mutex);
    int i = 0;
    while (s->all[i] != r) i++;
    s->all[i] = s->all[--s->n_requests];
    if (!s->n_requests) pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->mutex);
    upg_request_free(r);
}

// ---- Taking ----

static request *copy_request(const upg_scheduler *s, const upg_request *asked, upg_error *e) {
    const upg_sampling *sampling = &asked->sampling;
    request *r = upg_alloc(1, sizeof *r, e);
    if (!r) return NULL;
    r->asked = *asked;
    r->slot = -1;
    r->submitted = upg_now();
    r->n_prompt = r->n_tokens = (int)asked->n_prompt;
    // The last token drawn needs no position.
    r->max_tokens = s->options.context + 1 - r->n_prompt;
    if (asked->max_tokens >= 0 && asked->max_tokens < r->max_tokens) r->max_tokens = asked->max_tokens;
    if (!(r->tokens = upg_alloc((size_t)(r->n_prompt + r->max_tokens), sizeof *r->tokens, e)) ||
        (sampling->n_bias && !(r->bias = upg_alloc(sampling->n_bias, sizeof *r->bias, e))) ||
        upg_answer_text_init(&r->text, s->model->tokenizer, asked->stops, asked->n_stops, asked->special, asked->midway,
                             e)) {
        upg_request_free(r);
        return NULL;
    }
    memcpy(r->tokens, asked->prompt, asked->n_prompt * sizeof *r->tokens);
    if (r->bias) memcpy(r->bias, sampling->bias, sampling->n_bias * sizeof *r->bias);
    r->asked.prompt = r->tokens;
    r->asked.stops = NULL;
    r->asked.sampling.bias = r->bias;
    r->asked.sampling.n_prompt = asked->n_prompt;
    return r;
}

static int check_request(const upg_scheduler *s, const upg_request *r, upg_error *e) {
    const int vocab = s->model->config.vocab_size;
    if (!r->n_prompt) return upg_fail(e, "the prompt is empty");
    if (r->n_prompt > (size_t)s->options.context)
        return upg_fail(e, "the prompt has %zu tokens, more than the context of %d", r->n_prompt, s->options.context);
    if (r->max_tokens < -1) return upg_fail(e, "%d tokens asked for", r->max_tokens);
    for (size_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= vocab)
            return upg_fail(e, "token %d of the prompt is %d, which is not in the vocabulary of %d", (int)i,
                            r->prompt[i], vocab);
    if (r->n_stops < 0 || r->n_stops > UPG_MAX_STOPS)
        return upg_fail(e, "%d stop strings, more than %d", r->n_stops, UPG_MAX_STOPS);
    for (int i = 0; i < r->n_stops; i++)
        if (!*r->stops[i] || strlen(r->stops[i]) > UPG_MAX_STOP_BYTES)
            return upg_fail(e, "a stop string has 1 to %d bytes", UPG_MAX_STOP_BYTES);
    if (r->top_logprobs < -1 || r->top_logprobs > UPG_MAX_TOP_LOGPROBS)
        return upg_fail(e, "%d log probabilities asked for, more than %d", r->top_logprobs, UPG_MAX_TOP_LOGPROBS);
    if (upg_sampling_check(&r->sampling, vocab, e)) return -1;
    upg_sampler *sampler = r->sampling.n_bias ? upg_sampler_new(vocab, &r->sampling, e) : NULL; // finds biases twice
    if (r->sampling.n_bias && !sampler) return -1;
    upg_sampler_free(sampler);
    return 0;
}

static void append(list *l, request *r) {
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static upg_submitted enqueue(upg_scheduler *s, list *all, int n, uint64_t *ids, upg_error *e) {
    upg_submitted result = UPG_SUBMITTED;
    pthread_mutex_lock(&s->mutex);
    if (s->draining) {
        result = UPG_SUBMIT_DRAINING;
        upg_fail(e, "shutting down");
    } else if (s->n_requests + n > s->options.n_parallel + s->options.max_queue) {
        result = UPG_SUBMIT_FULL;
        s->stats.rejected += (uint64_t)n;
        upg_fail(e, "%d requests are at work or waiting, as many as are allowed", s->n_requests);
    } else {
        int i = 0;
        for (request *r = all->first; r; r = r->next) {
            ids[i++] = r->id = ++s->next_id;
            s->all[s->n_requests++] = r;
        }
        *s->waiting.last = all->first;
        s->waiting.last = all->last;
        s->n_waiting += n;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->mutex);
    return result;
}

upg_submitted upg_scheduler_submit(upg_scheduler *s, const upg_request *requests, int n, uint64_t *ids, upg_error *e) {
    list all = {.last = &all.first};
    upg_submitted result = UPG_SUBMITTED;
    const int most = s->options.n_parallel + s->options.max_queue;
    if (n > most) {
        upg_fail(e, "%d answers at a time, more than the %d that may run and wait", n, most);
        return UPG_SUBMIT_INVALID;
    }
    for (int i = 0; i < n && !result; i++) {
        if (check_request(s, &requests[i], e)) {
            result = UPG_SUBMIT_INVALID;
            break;
        }
        request *r = copy_request(s, &requests[i], e);
        if (!r)
            result = UPG_SUBMIT_NO_MEMORY;
        else
            append(&all, r);
    }
    if (!result && n > 0) result = enqueue(s, &all, n, ids, e);
    for (request *r = result ? all.first : NULL, *next; r; r = next) {
        next = r->next;
        upg_request_free(r);
    }
    return result;
}

void upg_scheduler_cancel(upg_scheduler *s, uint64_t id) {
    pthread_mutex_lock(&s->mutex);
    for (int i = 0; i < s->n_requests; i++)
        if (s->all[i]->id == id) s->all[i]->cancelled = true;
    pthread_mutex_unlock(&s->mutex);
}

bool upg_scheduler_drain(upg_scheduler *s, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    pthread_mutex_lock(&s->mutex);
    s->draining = true;
    int rc = 0;
    while (s->n_requests && rc != ETIMEDOUT) rc = pthread_cond_timedwait(&s->idle, &s->mutex, &until);
    bool done = !s->n_requests;
    pthread_mutex_unlock(&s->mutex);
    return done;
}

// ---- The thread ----

static void *work(void *ctx) {
    upg_scheduler *s = ctx;
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (!s->n_requests && !s->stopping) pthread_cond_wait(&s->changed, &s->mutex);
        s->ending = s->stopping;
        bool end = !s->n_requests;
        pthread_mutex_unlock(&s->mutex);
        if (end) return NULL;
        upg_scheduler_round(s);
    }
}

// ---- Making and freeing ----

static int check_options(upg_scheduler_options *o, const upg_model *m, upg_error *e) {
    if (o->context <= 0) o->context = m->config.max_positions;
    if (o->n_parallel <= 0) o->n_parallel = N_PARALLEL;
    if (o->max_queue <= 0) o->max_queue = MAX_QUEUE;
    if (o->max_rows <= 0) o->max_rows = MAX_ROWS;
    if (!o->kv_dir_bytes) o->kv_dir_bytes = (uint64_t)16 << 30;
    if (o->speculate < 0 || o->speculate > UPG_DRAFT_MAX) o->speculate = o->speculate < 0 ? -1 : UPG_DRAFT_MAX;
    if (o->n_parallel > LIMIT || o->max_queue > LIMIT || o->max_rows > LIMIT)
        return upg_fail(e, "%d requests at once, %d waiting, %d rows: at most %d each", o->n_parallel, o->max_queue,
                        o->max_rows, LIMIT);
    return 0;
}

// What makes keys and values comparable beside the model: how they are laid out, and what longrope chose by.
static int cache_hash(const upg_scheduler *s, uint8_t hash[16], upg_error *e) {
    struct {
        uint8_t model[16];
        char layout[32];
        int32_t block, context;
    } all = {.block = UPG_KV_BLOCK, .context = s->model->config.rope_attention != 0 ? s->options.context : 0};
    XXH128_canonical_t out;
    if (upg_model_hash(s->model, all.model, e)) return -1;
    strncpy(all.layout, upg_session_kv_layout(s->session), sizeof all.layout - 1);
    XXH128_canonicalFromHash(&out, XXH3_128bits(&all, sizeof all));
    memcpy(hash, out.digest, 16);
    return 0;
}

static int open_session(upg_scheduler *s, upg_error *e) {
    upg_scheduler_options *o = &s->options;
    int draft = o->speculate < 0 ? UPG_DRAFT_MAX : o->speculate, logits = o->n_parallel + draft;
    if (o->max_rows < logits) o->max_rows = logits;
    upg_session_options session = {.n_threads = o->n_threads,
                                   .pin = o->pin,
                                   .context = o->context,
                                   .n_sequences = o->n_parallel,
                                   .max_rows = o->max_rows,
                                   .max_logits = logits,
                                   .kv_bytes = (size_t)o->kv_bytes};
    if (!(s->session = upg_session_new(s->model, &session, e))) return -1;
    if (!upg_session_rows_ahead(s->session)) s->options.speculate = 0;
    uint8_t hash[16] = {0};
    if (o->kv_dir && cache_hash(s, hash, e)) return -1;
    s->prefix = upg_prefix_new(s->session, o->kv_dir, o->kv_dir_bytes, hash, o->log, o->log_ctx, e);
    if (!s->prefix || upg_drafter_init(&s->drafter, o->context + 1, s->options.speculate != 0, e)) return -1;
    if (upg_session_draws(s->session) && !(s->device_draws = upg_alloc((size_t)logits, sizeof *s->device_draws, e)))
        return -1;
    s->stats.blocks = upg_session_blocks(s->session);
    s->stats.block_bytes = upg_session_block_bytes(s->session);
    return 0;
}

static int start(upg_scheduler *s, upg_error *e) {
    size_t parallel = (size_t)s->options.n_parallel;
    if (!(s->slots = upg_alloc(parallel, sizeof *s->slots, e)) ||
        !(s->draws = upg_alloc(parallel, sizeof *s->draws, e)) ||
        !(s->rows = upg_alloc((size_t)s->options.max_rows, sizeof *s->rows, e)) ||
        !(s->all = upg_alloc(parallel + (size_t)s->options.max_queue, sizeof *s->all, e)))
        return -1;
    int rc = pthread_create(&s->thread, NULL, work, s);
    if (rc) return upg_fail(e, "cannot start a thread: %s", strerror(rc));
    s->running = true;
    return 0;
}

upg_scheduler *upg_scheduler_new(const upg_model *m, const upg_scheduler_options *options, upg_error *e) {
    upg_scheduler *s = upg_alloc(1, sizeof *s, e);
    if (!s) return NULL;
    s->model = m;
    if (options) s->options = *options;
    s->waiting.last = &s->waiting.first;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    pthread_cond_init(&s->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    init_stats(&s->stats);
    if (check_options(&s->options, m, e) || open_session(s, e) || start(s, e)) {
        upg_scheduler_free(s);
        return NULL;
    }
    return s;
}

void upg_scheduler_stop(upg_scheduler *s) {
    if (!s->running) return;
    pthread_mutex_lock(&s->mutex);
    s->draining = s->stopping = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    s->running = false;
}

void upg_scheduler_free(upg_scheduler *s) {
    if (!s) return;
    upg_scheduler_stop(s);
    upg_prefix_free(s->prefix);
    upg_session_free(s->session);
    upg_drafter_free(&s->drafter);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->idle);
    free(s->slots);
    free(s->draws);
    free(s->device_draws);
    free(s->rows);
    free(s->all);
    free(s);
}

int upg_scheduler_context(const upg_scheduler *s) {
    return s->options.context;
}
const char *upg_scheduler_path(const upg_scheduler *s) {
    return upg_session_path(s->session);
}
