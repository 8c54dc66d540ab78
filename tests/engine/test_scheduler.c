// The scheduler: whatever else runs, however small the cache, and whatever it held before, a request's answer is the
// one it gets alone; and whatever goes wrong with one request, the others do not notice.
#include "tiny_model.h"
#include "engine/model.h"
#include "engine/scheduler.h"
#include "text/tokenizer.h"
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

// ---- Memory that runs out: of one size, for one thread ----

#if defined(__GLIBC__) && !SANITIZED
enum { CAN_FAIL = 1 };
static _Thread_local bool spared; // the test's own thread
static atomic_size_t failing;     // bytes that no other thread gets
extern void *__libc_calloc(size_t, size_t);
__attribute__((visibility("default"))) void *calloc(size_t count, size_t n) {
    return failing && !spared && count * n == failing ? NULL : __libc_calloc(count, n);
}
#else
enum { CAN_FAIL = 0 };
static bool spared;
static atomic_size_t failing;
#endif

enum { CONTEXT = 512, BLOCK = 256, MAX_TOKENS = 600 };
static char folder[64], model_path[256], tiny_path[256];
static upg_model *model;

// ---- One request, alone ----

typedef struct answer {
    // What is asked.
    int32_t prompt[CONTEXT + 1];
    int n_prompt, max_tokens, top;
    upg_sampling sampling;
    const char *stops[4];
    int n_stops;
    double deadline;
    uint64_t client;
    // What came.
    int32_t tokens[MAX_TOKENS];
    float logprobs[MAX_TOKENS];
    upg_token_logprob tops[MAX_TOKENS][5];
    int n_tokens;
    upg_buf text;
    upg_answer_event end;
    char error[128];
    atomic_bool done;
    int cancel_at; // tokens after which it is cancelled
    upg_scheduler *scheduler;
    uint64_t id;
    atomic_bool submitted;
    bool extra; // an event came behind the end
} answer;

// A row at a time in a session of its own, and the text from all tokens at once.
static void run_alone(const upg_model *m, const answer *asked, answer *a) {
    upg_session *s = open_session(m, &(upg_session_options){.context = CONTEXT, .n_threads = 1});
    upg_sampling sampling = asked->sampling;
    sampling.n_prompt = (size_t)asked->n_prompt;
    upg_sampler *sampler = upg_sampler_new(upg_model_vocab_size(m), &sampling, NULL);
    int32_t history[2 * CONTEXT + 2];
    upg_detokenizer d = {0};
    assert_non_null(sampler);
    memcpy(history, asked->prompt, (size_t)asked->n_prompt * sizeof *history);
    assert_int_equal(upg_session_prefill(s, 0, history, (size_t)asked->n_prompt, NULL), 0);
    a->end.finish = UPG_FINISH_LENGTH;
    for (int n = asked->n_prompt; a->n_tokens < asked->max_tokens && n <= CONTEXT; n++) {
        if (a->n_tokens) run_rows(s, &(upg_row){history[n - 1], 0, true}, 1);
        int32_t token = history[n] = upg_sample(sampler, upg_session_logits(s, 0), history, (size_t)n);
        if (upg_model_is_eos(m, token)) {
            a->end.finish = UPG_FINISH_STOP;
            break;
        }
        a->logprobs[a->n_tokens] = upg_logprob(upg_session_logits(s, 0), upg_model_vocab_size(m), token);
        a->tokens[a->n_tokens++] = token;
        upg_detokenizer_push(&d, m->tokenizer, token, false, &a->text);
        const char *first = NULL;
        for (int i = 0; i < asked->n_stops; i++) {
            const char *found = a->text.data ? strstr(a->text.data, asked->stops[i]) : NULL;
            if (!found || (first && found >= first)) continue;
            first = found;
            a->end.stop = asked->stops[i];
        }
        if (first) a->text.size = (size_t)(first - a->text.data);
        if (first) a->end.finish = UPG_FINISH_STOP;
        if (a->end.stop) break;
    }
    if (!a->end.stop) upg_detokenizer_finish(&d, &a->text);
    upg_sampler_free(sampler);
    upg_session_free(s);
}

// ---- Through the scheduler ----

static void take_event(void *ctx, const upg_answer_event *e) {
    answer *a = ctx;
    a->extra |= a->done;
    upg_buf_add(&a->text, e->text, e->n_text);
    if (e->end) {
        a->end = *e;
        snprintf(a->error, sizeof a->error, "%s", e->error ? e->error : "");
        if (e->stop) { // the caller's own, which outlives the request
            a->end.stop = NULL;
            for (int i = 0; i < a->n_stops; i++)
                if (!strcmp(a->stops[i], e->stop)) a->end.stop = a->stops[i];
            assert_non_null(a->end.stop);
        }
        a->done = true;
        return;
    }
    a->logprobs[a->n_tokens] = e->logprob;
    if (e->n_top) memcpy(a->tops[a->n_tokens], e->top, (size_t)e->n_top * sizeof *e->top);
    a->tokens[a->n_tokens++] = e->token;
    while (!a->submitted) usleep(100);
    if (a->cancel_at && a->n_tokens == a->cancel_at) upg_scheduler_cancel(a->scheduler, a->id);
}

static upg_submitted submit(upg_scheduler *s, answer *a, upg_error *e) {
    upg_request r = {.prompt = a->prompt,
                     .n_prompt = (size_t)a->n_prompt,
                     .max_tokens = a->max_tokens,
                     .sampling = a->sampling,
                     .stops = a->stops,
                     .n_stops = a->n_stops,
                     .top_logprobs = a->top,
                     .deadline = a->deadline,
                     .client = a->client,
                     .event = take_event,
                     .ctx = a};
    a->scheduler = s;
    upg_submitted result = upg_scheduler_submit(s, &r, 1, &a->id, e);
    a->submitted = true;
    return result;
}

static void wait_for(const answer *a) {
    while (!a->done) usleep(500);
    assert_false(a->extra);
}

static answer *new_answer(const answer *asked) {
    answer *a = calloc(1, sizeof *a);
    assert_non_null(a);
    if (asked) *a = *asked;
    return a;
}

static void free_answer(answer *a) {
    upg_buf_free(&a->text);
    free(a);
}

static upg_scheduler *open_scheduler(const upg_model *m, const upg_scheduler_options *o) {
    upg_error e = {""};
    upg_scheduler *s = upg_scheduler_new(m, o, &e);
    if (!s) fail_msg("%s", e.message);
    return s;
}

static void check_same(const answer *got, const answer *want) {
    assert_int_equal(got->end.finish, want->end.finish);
    assert_int_equal(got->n_tokens, want->n_tokens);
    assert_memory_equal(got->tokens, want->tokens, (size_t)got->n_tokens * sizeof *got->tokens);
    assert_int_equal(got->text.size, want->text.size);
    if (got->text.size) assert_memory_equal(got->text.data, want->text.data, got->text.size);
    assert_ptr_equal(got->end.stop, want->end.stop);
    if (got->top >= 0)
        assert_memory_equal(got->logprobs, want->logprobs, (size_t)got->n_tokens * sizeof *got->logprobs);
}

// ---- Requests at random ----

enum { N_ASKED = 24 };
static answer *asked[N_ASKED], *wanted[N_ASKED];

// Prompts that begin alike, at all kinds of places in a block.
static void make_requests(void) {
    static const int lengths[] = {1, 17, 40, 255, 256, 257, 300, 400, 511, 512};
    static const int starts[] = {0, 0, 8, 30, 200, 256, 270, 290};
    uint64_t seed = 7;
    int32_t common_text[CONTEXT];
    for (int i = 0; i < CONTEXT; i++)
        common_text[i] = (int32_t)(3 + next_random(&seed) % (uint64_t)(upg_model_vocab_size(model) - 3));
    for (int i = 0; i < N_ASKED; i++) {
        answer *a = asked[i] = new_answer(NULL);
        int same = starts[next_random(&seed) % 8];
        a->n_prompt = lengths[i % 10];
        for (int j = 0; j < a->n_prompt; j++)
            a->prompt[j] = j < same ? common_text[j]
                                    : (int32_t)(3 + next_random(&seed) % (uint64_t)(upg_model_vocab_size(model) - 3));
        a->max_tokens = (int)(next_random(&seed) % 120);
        a->sampling = (upg_sampling){.top_p = 1, .repeat_penalty = 1, .seed = (uint64_t)i};
        if (i % 3) a->sampling.temperature = 0.9f;
        if (i % 4 == 1) a->sampling.frequency_penalty = 0.4f;
        if (i % 5 == 2) a->sampling.top_k = 30;
        a->top = i % 6 == 0 ? 3 : -1;
        a->client = (uint64_t)(i % 3);
        if (i % 4 == 3) {
            a->stops[0] = "the";
            a->stops[1] = " a ";
            a->stops[2] = "ther";
            a->n_stops = 3;
        }
        wanted[i] = new_answer(a);
        run_alone(model, a, wanted[i]);
    }
}

static void free_requests(void) {
    for (int i = 0; i < N_ASKED; i++) {
        free_answer(asked[i]);
        free_answer(wanted[i]);
    }
}

// All of them, in an order of their own and at most so many at a time; each must be as alone.
static void check_load(upg_scheduler *s, uint64_t seed, int at_once) {
    answer *got[N_ASKED];
    int order[N_ASKED];
    for (int i = 0; i < N_ASKED; i++) order[i] = i;
    for (int i = N_ASKED - 1; i > 0; i--) {
        int j = (int)(next_random(&seed) % (uint64_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < N_ASKED; i++) {
        if (i >= at_once) wait_for(got[i - at_once]);
        got[i] = new_answer(asked[order[i]]);
        upg_error e = {""};
        if (submit(s, got[i], &e)) fail_msg("%s", e.message);
    }
    for (int i = 0; i < N_ASKED; i++) {
        wait_for(got[i]);
        check_same(got[i], wanted[order[i]]);
        free_answer(got[i]);
    }
}

static void check_options(const upg_scheduler_options *o, int at_once, upg_scheduler_stats *stats) {
    upg_scheduler *s = open_scheduler(model, o);
    for (uint64_t round = 0; round < 2; round++) check_load(s, round, at_once);
    upg_scheduler_stats_get(s, stats);
    assert_true(upg_scheduler_drain(s, 10));
    upg_scheduler_free(s);
}

static size_t context_bytes(void) {
    upg_session *s = open_session(model, &(upg_session_options){.context = CONTEXT, .n_threads = 1});
    upg_session_free(s);
    upg_scheduler *t = open_scheduler(model, &(upg_scheduler_options){.context = CONTEXT, .n_threads = 1});
    upg_scheduler_stats stats;
    upg_scheduler_stats_get(t, &stats);
    upg_scheduler_free(t);
    return 2 * stats.block_bytes;
}

// Property: an answer does not depend on load, on the cache, nor on how a step is made up.
static void answers_are_those_of_a_request_alone(void **state) {
    (void)state;
    upg_scheduler_stats stats;
    check_options(
        &(upg_scheduler_options){.context = CONTEXT, .n_threads = 2, .n_parallel = 1, .kv_bytes = 40 * context_bytes()},
        1, &stats);
    assert_true(stats.prefix_hits > stats.prefix_queries / 2); // the second round at least
    check_options(&(upg_scheduler_options){.context = CONTEXT, .n_threads = 2, .speculate = -1}, N_ASKED, &stats);
    assert_true(stats.steps * 2 < stats.rows);
    check_options(&(upg_scheduler_options){.context = CONTEXT, .n_threads = 1, .n_parallel = 3, .max_rows = 9}, 5,
                  &stats);
    check_options(&(upg_scheduler_options){.context = CONTEXT, .n_threads = 2, .n_parallel = 1, .speculate = 3}, 2,
                  &stats);
    assert_true(stats.drafted > 0);
    // One context's memory for all: room must be made again and again.
    check_options(
        &(upg_scheduler_options){.context = CONTEXT, .n_threads = 2, .n_parallel = 6, .kv_bytes = context_bytes()},
        N_ASKED, &stats);
    assert_true(stats.preemptions > 0);
    assert_int_equal(stats.finished[UPG_FINISH_FAILED], 0);
    assert_int_equal(stats.blocks, 2);
}

// Property: of the likeliest tokens the first is as likely as any, and the list is in order.
static void likeliest_tokens_are_in_order(void **state) {
    (void)state;
    upg_scheduler *s = open_scheduler(model, &(upg_scheduler_options){.context = CONTEXT, .n_threads = 1});
    answer *a = new_answer(asked[2]);
    a->top = 5;
    a->sampling.temperature = 0;
    a->n_stops = 0;
    a->max_tokens = 50;
    assert_int_equal(submit(s, a, NULL), UPG_SUBMITTED);
    wait_for(a);
    for (int i = 0; i < a->n_tokens; i++) {
        if (!i || a->sampling.frequency_penalty == 0) assert_true(a->tops[i][0].logprob >= a->logprobs[i]);
        for (int j = 1; j < 5; j++) assert_true(a->tops[i][j - 1].logprob >= a->tops[i][j].logprob);
    }
    free_answer(a);
    upg_scheduler_free(s);
}

// ---- What goes wrong ----

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    upg_scheduler *s = open_scheduler(
        model, &(upg_scheduler_options){.context = CONTEXT, .n_threads = 1, .n_parallel = 1, .max_queue = 2});
    upg_error e = {""};
    answer *a = new_answer(asked[0]);
    a->n_prompt = 0;
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_INVALID);
    a->n_prompt = CONTEXT + 1;
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_INVALID);
    assert_true(contains(e.message, "513") && contains(e.message, "512"));
    a->n_prompt = 1;
    a->prompt[0] = upg_model_vocab_size(model);
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_INVALID);
    a->prompt[0] = 3;
    a->sampling.temperature = -1;
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_INVALID);
    a->sampling.temperature = 0;
    a->stops[0] = "";
    a->n_stops = 1;
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_INVALID);
    a->n_stops = 0;
    // Four at a time where three have room: all or none.
    a->max_tokens = 400;
    upg_request r[4];
    uint64_t ids[4];
    answer *each[4];
    for (int i = 0; i < 4; i++) {
        each[i] = new_answer(a);
        each[i]->submitted = true;
        r[i] = (upg_request){.prompt = a->prompt,
                             .n_prompt = 1,
                             .max_tokens = 400,
                             .sampling = a->sampling,
                             .ignore_eos = true,
                             .top_logprobs = -1,
                             .event = take_event,
                             .ctx = each[i]};
    }
    assert_int_equal(upg_scheduler_submit(s, r, 4, ids, &e), UPG_SUBMIT_INVALID); // never possible
    assert_int_equal(upg_scheduler_submit(s, r, 1, ids, &e), UPG_SUBMITTED);
    assert_int_equal(upg_scheduler_submit(s, r + 1, 3, ids + 1, &e), UPG_SUBMIT_FULL);
    assert_int_equal(upg_scheduler_submit(s, r + 1, 2, ids + 1, &e), UPG_SUBMITTED);
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_FULL);
    for (int i = 0; i < 3; i++) upg_scheduler_cancel(s, ids[i]);
    for (int i = 0; i < 3; i++) wait_for(each[i]);
    assert_int_equal(each[2]->end.finish, UPG_FINISH_CANCELLED);
    assert_true(upg_scheduler_drain(s, 1));
    assert_int_equal(submit(s, a, &e), UPG_SUBMIT_DRAINING);
    for (int i = 0; i < 4; i++) free_answer(each[i]);
    free_answer(a);
    upg_scheduler_free(s);
}

// Property: a request that is cancelled has its slot free before another token; one that is late ends; those beside it
// do not notice; and freeing ends what is left.
static void cancelled_and_late(void **state) {
    (void)state;
    upg_scheduler *s =
        open_scheduler(model, &(upg_scheduler_options){.context = CONTEXT, .n_threads = 1, .n_parallel = 3});
    answer *cancelled = new_answer(asked[4]), *late = new_answer(asked[5]), *whole = new_answer(asked[7]),
           *left = new_answer(asked[1]);
    cancelled->max_tokens = late->max_tokens = left->max_tokens = 10000;
    cancelled->n_stops = late->n_stops = left->n_stops = 0;
    cancelled->cancel_at = 2;
    late->deadline = 1e-9; // long ago
    assert_int_equal(submit(s, cancelled, NULL), UPG_SUBMITTED);
    assert_int_equal(submit(s, late, NULL), UPG_SUBMITTED);
    assert_int_equal(submit(s, whole, NULL), UPG_SUBMITTED);
    wait_for(cancelled);
    wait_for(late);
    wait_for(whole);
    assert_int_equal(cancelled->end.finish, UPG_FINISH_CANCELLED);
    assert_int_equal(cancelled->n_tokens, 2);
    assert_int_equal(late->end.finish, UPG_FINISH_DEADLINE);
    assert_int_equal(late->n_tokens, 0);
    check_same(whole, wanted[7]);
    assert_int_equal(submit(s, left, NULL), UPG_SUBMITTED);
    upg_scheduler_free(s);
    assert_true(left->done);
    free_answer(cancelled);
    free_answer(late);
    free_answer(whole);
    free_answer(left);
}

// Property: a row that overflows fails its own request; the others' answers are as alone, and the cache has nothing of
// it.
static void a_bad_row_fails_alone(void **state) {
    (void)state;
    upg_model *m = open_model(tiny_path);
    upg_scheduler *s = open_scheduler(m, &(upg_scheduler_options){.n_threads = 1, .n_parallel = 3});
    upg_scheduler *clean = open_scheduler(m, &(upg_scheduler_options){.n_threads = 1, .n_parallel = 1});
    for (int round = 0; round < 3; round++) {
        answer *a[3], *alone = new_answer(NULL);
        for (int i = 0; i < 3; i++) {
            a[i] = new_answer(NULL);
            a[i]->n_prompt = 20;
            a[i]->max_tokens = 8;
            a[i]->top = -1;
            a[i]->sampling = (upg_sampling){.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 5};
            for (int j = 0; j < 20; j++) a[i]->prompt[j] = 8 + (i * 5 + j * 3) % 20;
        }
        static const upg_bias never = {BAD_TOKEN, -100};
        for (int i = 0; i < 3; i++) {
            a[i]->sampling.bias = &never;
            a[i]->sampling.n_bias = 1;
        }
        a[1]->prompt[18] = BAD_TOKEN;
        *alone = *a[2];
        for (int i = 0; i < 3; i++) assert_int_equal(submit(s, a[i], NULL), UPG_SUBMITTED);
        assert_int_equal(submit(clean, alone, NULL), UPG_SUBMITTED);
        for (int i = 0; i < 3; i++) wait_for(a[i]);
        wait_for(alone);
        assert_int_equal(a[0]->end.finish, UPG_FINISH_LENGTH);
        assert_int_equal(a[1]->end.finish, UPG_FINISH_FAILED);
        assert_true(contains(a[1]->error, "not finite"));
        check_same(a[2], alone);
        for (int i = 0; i < 3; i++) free_answer(a[i]);
        free_answer(alone);
    }
    upg_scheduler_free(s);
    upg_scheduler_free(clean);
    upg_model_free(m);
}

// Property: a request that finds no memory fails alone.
static void a_request_without_memory_fails_alone(void **state) {
    (void)state;
    if (!CAN_FAIL) skip();
    enum { BIASES = 137 }; // of no other size is anything asked for
    static upg_bias biases[BIASES];
    upg_scheduler *s = open_scheduler(model, &(upg_scheduler_options){.context = CONTEXT, .n_threads = 1});
    answer *victim = new_answer(asked[7]), *others[3];
    for (int i = 0; i < BIASES; i++) biases[i] = (upg_bias){i, 1};
    victim->sampling.bias = biases;
    victim->sampling.n_bias = BIASES;
    spared = true;
    failing = sizeof biases;
    for (int i = 0; i < 3; i++) {
        others[i] = new_answer(asked[i + 3]);
        assert_int_equal(submit(s, others[i], NULL), UPG_SUBMITTED);
        if (i == 1) assert_int_equal(submit(s, victim, NULL), UPG_SUBMITTED);
    }
    wait_for(victim);
    failing = 0;
    assert_int_equal(victim->end.finish, UPG_FINISH_FAILED);
    assert_true(contains(victim->error, "memory"));
    for (int i = 0; i < 3; i++) {
        wait_for(others[i]);
        check_same(others[i], wanted[i + 3]);
        free_answer(others[i]);
    }
    free_answer(victim);
    upg_scheduler_free(s);
}

// ---- The folder ----

static int n_logged;
static void count_line(void *ctx, const char *line) {
    (void)ctx, (void)line;
    n_logged++;
}

// The files of blocks in the folder of the only model in dir.
static int list_blocks(const char *dir, char paths[][512], int most) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) {
        if (*e->d_name == '.') continue;
        char sub[300];
        snprintf(sub, sizeof sub, "%.40s/%.200s", dir, e->d_name);
        DIR *f = opendir(sub);
        assert_non_null(f);
        for (const struct dirent *g; (g = readdir(f));)
            if (strstr(g->d_name, ".kv") && n < most) snprintf(paths[n++], 512, "%s/%.200s", sub, g->d_name);
        closedir(f);
    }
    closedir(d);
    return n;
}

static void damage(const char *path, int how) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    struct stat st;
    fstat(fileno(f), &st);
    if (how == 0) assert_int_equal(ftruncate(fileno(f), st.st_size / 2), 0);
    if (how == 1) assert_int_equal(fseek(f, st.st_size / 2, SEEK_SET), 0);
    if (how == 2) assert_int_equal(fseek(f, 200, SEEK_SET), 0); // the tokens
    if (how == 3) assert_int_equal(fseek(f, 60, SEEK_SET), 0);  // the header's hashes
    int c = how ? fgetc(f) : 0;
    if (how) {
        fseek(f, -1, SEEK_CUR);
        fputc(c ^ 0x40, f);
    }
    fclose(f);
}

// Property: what a scheduler computed, the next one finds in the folder, to the same answers; a damaged file is
// ignored, and said so; and a folder that another one uses is refused.
static void the_cache_survives_in_its_folder(void **state) {
    (void)state;
    enum { MOST = 256 };
    static char paths[MOST][512];
    char dir[128];
    upg_scheduler_stats stats;
    snprintf(dir, sizeof dir, "%s/kv", folder);
    upg_scheduler_options o = {
        .context = CONTEXT, .n_threads = 2, .n_parallel = 4, .kv_dir = dir, .log = count_line, .speculate = -1};
    upg_scheduler *s = open_scheduler(model, &o);
    upg_error e = {""};
    assert_null(upg_scheduler_new(model, &o, &e));
    assert_true(contains(e.message, "another process"));
    check_load(s, 1, 4);
    upg_scheduler_free(s);
    int n = list_blocks(dir, paths, MOST);
    assert_true(n > 10);
    s = open_scheduler(model, &o);
    check_load(s, 2, 6);
    upg_scheduler_stats_get(s, &stats);
    assert_true(stats.disk_loaded > 0);
    assert_int_equal(stats.disk_damaged, 0);
    assert_true(stats.prefix_hits > stats.prefix_queries / 2);
    upg_scheduler_free(s);
    assert_int_equal(n_logged, 0);
    n = list_blocks(dir, paths, MOST);
    for (int i = 0; i < n; i++) damage(paths[i], i % 4);
    s = open_scheduler(model, &o);
    check_load(s, 3, 6);
    upg_scheduler_free(s);
    assert_true(n_logged >= n / 2);
    // So little room that files come and go.
    o.kv_dir_bytes = 3 * (stats.block_bytes + 4096);
    s = open_scheduler(model, &o);
    check_load(s, 4, 6);
    upg_scheduler_free(s);
    assert_in_range(list_blocks(dir, paths, MOST), 1, 3);
}

static int make_models(void **state) {
    (void)state;
    temporary_folder(folder);
    upg_compress_options o = {.layer_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8};
    compress_model(STORIES, path_in(model_path, folder, "stories.upg"), &o);
    write_tiny(path_in(tiny_path, folder, "tiny.upg"));
    model = open_model(model_path);
    make_requests();
    return 0;
}

static int remove_models(void **state) {
    (void)state;
    free_requests();
    upg_model_free(model);
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_a_request_alone),
        cmocka_unit_test(likeliest_tokens_are_in_order),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(cancelled_and_late),
        cmocka_unit_test(a_bad_row_fails_alone),
        cmocka_unit_test(a_request_without_memory_fails_alone),
        cmocka_unit_test(the_cache_survives_in_its_folder),
    };
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
