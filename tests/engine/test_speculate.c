// Speculation changes no bit: tokens, the logits they are drawn from, failures and what the sequence holds in the end
// are those of running one row and drawing one token at a time, whatever is drafted. And the drafter is what a search
// through the whole text gives.
#include "tiny_model.h"
#include "engine/generator.h"
#include "engine/speculate.h"

enum { CONTEXT = 160, MAX_ANSWER = 100 };
static char folder[64], int8_path[256], trellis_path[256], tiny_path[256];

static const upg_sampling samplings[] = {
    {.top_p = 1, .repeat_penalty = 1},
    {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1, .seed = 3},
    {.temperature = 0.2f, .top_p = 1, .repeat_penalty = 1, .seed = 4},
    {.temperature = 1, .top_k = 5, .top_p = 1, .repeat_penalty = 1.3f, .seed = 5},
    {.top_p = 1, .repeat_penalty = 1.1f},
};

static upg_sampler *open_sampler(const upg_model *m, const upg_sampling *o) {
    upg_sampler *s = upg_sampler_new(upg_model_vocab_size(m), o, NULL);
    assert_non_null(s);
    return s;
}

// ---- The drafter ----

// As speculate.h says it, by searching.
static upg_match search(const int32_t *text, int n, upg_match old) {
    if (old.length >= UPG_NGRAM_MAX && text[old.at] == text[n - 1]) return (upg_match){old.at + 1, old.length + 1};
    for (int length = UPG_NGRAM_MAX; length >= UPG_NGRAM_MIN; length--)
        for (int at = n - 1; at >= length; at--)
            if (!memcmp(text + at - length, text + n - length, (size_t)length * sizeof *text))
                return (upg_match){at, length};
    return (upg_match){0};
}

static void check_draft(const upg_drafter *d, int n) {
    int32_t draft[UPG_DRAFT_MAX + 1], text[1024];
    memset(draft, 0xee, sizeof draft);
    assert_int_equal(upg_drafter_propose(d, n, draft), d->match.length ? n : 0);
    assert_int_equal(draft[n], (int32_t)0xeeeeeeee);
    memcpy(text, d->tokens, (size_t)d->n * sizeof *text);
    for (int i = 0; d->match.length && i < n; i++) {
        assert_int_equal(draft[i], text[d->match.at + i]);
        text[d->n + i] = draft[i];
    }
}

static void the_drafter_is_a_search(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int round = 0; round < 300; round++) {
        int n = 1 + (int)(next_random(&seed) % 300), alphabet = 1 + (int)(next_random(&seed) % 12);
        int odd = 1 + (int)(next_random(&seed) % 40);
        upg_drafter d;
        upg_match want = {0};
        assert_int_equal(upg_drafter_init(&d, n, true, NULL), 0);
        for (int pass = 0; pass < 2; pass++) { // the second one after the text was cleared
            want = (upg_match){0};
            for (int i = 0; i < n; i++) {
                // Stretches are copied from before, with single tokens changed.
                bool copy = i > 20 && i / 20 % 2 && next_random(&seed) % (uint64_t)odd;
                int32_t token =
                    copy ? d.tokens[i - 20] : (int32_t)(next_random(&seed) % (uint64_t)alphabet) * 0x01000193;
                upg_drafter_push(&d, token, i % 3 == 0);
                want = search(d.tokens, d.n, want);
                assert_int_equal(d.match.length, want.length);
                assert_int_equal(d.match.at, want.at);
                check_draft(&d, (int)(next_random(&seed) % (UPG_DRAFT_MAX + 1)));
            }
            upg_drafter_clear(&d);
        }
        upg_drafter_free(&d);
    }
}

static void clear_and_repeat(upg_drafter *d, int n) {
    upg_drafter_clear(d);
    for (int i = 0; i < n; i++) upg_drafter_push(d, i % 10, true);
}

// Times of batches are given here, not measured.
static void drafts_are_as_long_as_they_pay(void **state) {
    (void)state;
    static const struct {
        double row; // what one more row costs, of one alone
        int least, most;
    } cases[] = {{0, UPG_DRAFT_MAX, UPG_DRAFT_MAX}, {0.01, 15, UPG_DRAFT_MAX}, {0.5, 1, UPG_DRAFT_MAX}, {1, 0, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_drafter d;
        assert_int_equal(upg_drafter_init(&d, 300, true, NULL), 0);
        assert_int_equal(upg_drafter_choose(&d, UPG_DRAFT_MAX), 0); // nothing matches
        clear_and_repeat(&d, 200);
        assert_int_equal(upg_drafter_choose(&d, UPG_DRAFT_MAX), 0); // nothing was measured
        for (int rows = 1; rows <= UPG_DRAFT_MAX + 1; rows++)
            for (int k = 0; k < 2; k++) upg_drafter_measure(&d, rows, 1 + cases[i].row * (rows - 1));
        int n = upg_drafter_choose(&d, UPG_DRAFT_MAX);
        assert_true(n >= cases[i].least && n <= cases[i].most);
        for (int max = 0; max <= UPG_DRAFT_MAX; max++) assert_true(upg_drafter_choose(&d, max) <= max);
        // After wrong guesses only one token is drafted, whatever it costs.
        for (int k = 0; k < 6; k++)
            for (int j = 3; j <= 5; j++) upg_drafter_push(&d, j < 5 ? j : 100 + k, true);
        for (int j = 3; j < 5; j++) upg_drafter_push(&d, j, true);
        assert_int_equal(d.match.length, 2);
        assert_true(upg_drafter_choose(&d, UPG_DRAFT_MAX) <= 1);
        upg_drafter_free(&d);
    }
}

// ---- Answers ----

// What is drafted: the right tokens, but for one.
typedef struct oracle {
    const int32_t *text; // what will be drawn
    int n;               // its length
    int wrong;           // index in the draft that gets another token, or -1
    int32_t instead;
} oracle;

static int foretell(void *ctx, const int32_t *text, int n, int max, int32_t *draft) {
    const oracle *o = ctx;
    (void)text;
    for (int i = 0; i < max; i++) {
        draft[i] = n + i < o->n ? o->text[n + i] : 1;
        if (i == o->wrong) draft[i] = draft[i] == o->instead ? o->instead + 1 : o->instead;
    }
    return max;
}

typedef struct answer {
    const upg_model *model;
    const upg_sampling *sampling;
    const int32_t *prompt;
    int n_prompt, context, draft;
    oracle *oracle; // or NULL
    int max;        // tokens
    int32_t text[CONTEXT + 1];
    int n; // prompt included
    upg_generator_counts counts;
} answer;

static void assert_same_state(const answer *a, upg_session *s, upg_session *plain, int vocab) {
    assert_int_equal(upg_session_length(s, 0), upg_session_length(plain, 0));
    if (upg_session_length(s, 0) == a->context) return;
    upg_row last = {a->text[a->n - 1], 0, true};
    run_rows(s, &last, 1);
    run_rows(plain, &last, 1);
    assert_same_logits(upg_session_logits(s, 0), upg_session_logits(plain, 0), vocab, "after the answer", a->n);
}

// Draws the answer both ways, in step.
static void compare(answer *a) {
    int vocab = upg_model_vocab_size(a->model);
    upg_session *plain = open_session(a->model, &(upg_session_options){.n_threads = 1, .context = a->context});
    upg_session *s = open_session(
        a->model,
        &(upg_session_options){.n_threads = 2, .context = a->context, .max_rows = 40, .max_logits = 1 + UPG_DRAFT_MAX});
    upg_sampler *one = open_sampler(a->model, a->sampling), *other = open_sampler(a->model, a->sampling);
    upg_error e = {""};
    upg_generator *g = upg_generator_new(s, 0, a->draft, &e);
    assert_non_null(g);
    if (a->oracle) upg_generator_set_source(g, foretell, a->oracle);
    a->n = a->n_prompt;
    memcpy(a->text, a->prompt, (size_t)a->n * sizeof *a->text);
    assert_int_equal(upg_session_prefill(plain, 0, a->text, (size_t)a->n, &e), 0);
    assert_int_equal(upg_session_prefill(s, 0, a->text, (size_t)a->n, &e), 0);
    assert_int_equal(upg_generator_start(g, a->text, (size_t)a->n, a->max, &e), 0);
    uint64_t before = upg_alloc_count();
    for (int i = 0; i < a->max && a->n <= a->context; i++) {
        int32_t token;
        if (i) run_rows(plain, &(upg_row){a->text[a->n - 1], 0, true}, 1);
        if (upg_generator_next(g, one, &token, &e)) fail_msg("%s", e.message);
        assert_same_logits(upg_generator_logits(g), upg_session_logits(plain, 0), vocab, "speculated", a->n);
        assert_int_equal(token, upg_sample(other, upg_session_logits(plain, 0), a->text, (size_t)a->n));
        a->text[a->n++] = token;
    }
    if (a->n > a->context) {
        int32_t token;
        assert_int_equal(upg_generator_next(g, one, &token, &e), -1);
        assert_message(e, "tokens is full");
    }
    assert_int_equal(upg_generator_finish(g, &e), 0);
    assert_true(upg_alloc_count() == before);
    a->counts = upg_generator_count(g);
    assert_same_state(a, s, plain, vocab);
    upg_generator_free(g);
    upg_sampler_free(one);
    upg_sampler_free(other);
    upg_session_free(s);
    upg_session_free(plain);
}

// Prompts that repeat themselves, so that there is much to draft.
static void make_prompt(const upg_model *m, int32_t prompt[60]) {
    draw_windows(m, 11, 1, 20, prompt);
    memcpy(prompt + 20, prompt, 20 * sizeof *prompt);
    memcpy(prompt + 40, prompt, 20 * sizeof *prompt);
    prompt[45] = prompt[3];
}

static void drafts_of_the_text_change_nothing(void **state) {
    (void)state;
    const char *const paths[] = {int8_path, trellis_path, DEFAULT_MODEL};
    static const int drafts[] = {-1, 0, 1, 2, 7, UPG_DRAFT_MAX};
    for (size_t p = 0; p < COUNT(paths); p++) {
        if (access(paths[p], R_OK)) continue;
        upg_model *m = open_model(paths[p]);
        int32_t prompt[60];
        int accepted = 0;
        make_prompt(m, prompt);
        for (size_t i = 0; i < COUNT(samplings); i++)
            for (size_t k = 0; k < COUNT(drafts); k++) {
                if (p == 2 && k % 3) continue; // the big one
                answer a = {.model = m,
                            .sampling = &samplings[i],
                            .prompt = prompt,
                            .n_prompt = 60,
                            .context = CONTEXT,
                            .draft = drafts[k],
                            .max = p == 2 ? 40 : MAX_ANSWER};
                compare(&a);
                assert_true(a.counts.runs + a.counts.accepted == a.max - 1);
                assert_true(a.counts.accepted <= a.counts.drafted);
                if (!drafts[k]) assert_int_equal(a.counts.drafted, 0);
                accepted += a.counts.accepted;
            }
        assert_true(accepted > 0);
        upg_model_free(m);
    }
}

// Drafts of every length, all right, and wrong at every place.
static void right_and_wrong_drafts_change_nothing(void **state) {
    (void)state;
    upg_model *m = open_model(trellis_path);
    int32_t prompt[60];
    make_prompt(m, prompt);
    for (size_t i = 0; i < COUNT(samplings); i += 2) {
        answer plain = {
            .model = m, .sampling = &samplings[i], .prompt = prompt, .n_prompt = 30, .context = CONTEXT, .max = 40};
        compare(&plain);
        for (int draft = 1; draft <= UPG_DRAFT_MAX; draft += draft < 5 ? 1 : 13)
            for (int wrong = -1; wrong < draft; wrong += wrong < 4 ? 1 : 9) {
                oracle o = {.text = plain.text, .n = plain.n, .wrong = wrong, .instead = 7};
                answer a = plain;
                a.draft = draft;
                a.oracle = &o;
                compare(&a);
                assert_memory_equal(a.text, plain.text, sizeof a.text);
                int row = wrong < 0 ? draft + 1 : wrong + 1; // tokens of a run
                assert_true(a.counts.runs >= 39 / row && a.counts.runs <= 39 / row + draft);
            }
    }
    upg_model_free(m);
}

// An answer may end at any token, and inside a draft: the session is as if nothing had been run ahead.
static void answers_end_anywhere(void **state) {
    (void)state;
    upg_model *m = open_model(int8_path);
    int32_t prompt[60];
    make_prompt(m, prompt);
    answer plain = {
        .model = m, .sampling = &samplings[1], .prompt = prompt, .n_prompt = 60, .context = CONTEXT, .max = 30};
    compare(&plain);
    int vocab = upg_model_vocab_size(m);
    const upg_session_options options = {.context = CONTEXT, .max_logits = 9};
    upg_session *s = open_session(m, &options), *fresh = open_session(m, &options);
    upg_sampler *sampler = open_sampler(m, &samplings[1]);
    upg_generator *g = upg_generator_new(s, 0, UPG_DRAFT_MAX, NULL); // of which the session can take 8
    assert_non_null(g);
    upg_generator_set_source(g, foretell, &(oracle){.text = plain.text, .n = plain.n, .wrong = -1});
    for (int end = 0; end <= 30; end++) {
        upg_error e = {""};
        assert_int_equal(upg_session_truncate(s, 0, 0, &e), 0);
        assert_int_equal(upg_session_truncate(fresh, 0, 0, &e), 0);
        assert_int_equal(upg_session_prefill(s, 0, prompt, 60, &e), 0);
        assert_int_equal(upg_generator_start(g, prompt, 60, 1000, &e), 0);
        int32_t token;
        for (int i = 0; i < end; i++) assert_int_equal(upg_generator_next(g, sampler, &token, &e), 0);
        int ahead = upg_session_length(s, 0);
        assert_int_equal(upg_generator_finish(g, &e), 0);
        int held = 60 + (end ? end - 1 : 0);
        assert_int_equal(upg_session_length(s, 0), held);
        assert_true(ahead >= held && (end % 9 != 3 || ahead > held));
        assert_int_equal(upg_generator_next(g, sampler, &token, &e), -1);
        assert_message(e, "no answer was started");
        // The next turn, against a session that ran it all at once.
        plain.text[60 + 30] = 9;
        assert_int_equal(upg_session_prefill(s, 0, (const int32_t[]){5, 6, 7}, 3, &e), 0);
        assert_int_equal(upg_session_prefill(fresh, 0, plain.text, (size_t)held, &e), 0);
        assert_int_equal(upg_session_prefill(fresh, 0, (const int32_t[]){5, 6, 7}, 3, &e), 0);
        assert_same_logits(upg_session_logits(s, 0), upg_session_logits(fresh, 0), vocab, "the next turn", end);
    }
    upg_generator_free(g);
    upg_sampler_free(sampler);
    upg_session_free(s);
    upg_session_free(fresh);
    upg_model_free(m);
}

// Nothing is run that can be of no use, and a context may become full inside a draft.
static void limits_hold_inside_drafts(void **state) {
    (void)state;
    upg_model *m = open_model(int8_path);
    int32_t prompt[60];
    make_prompt(m, prompt);
    answer plain = {
        .model = m, .sampling = &samplings[1], .prompt = prompt, .n_prompt = 20, .context = CONTEXT, .max = 40};
    compare(&plain);
    oracle o = {.text = plain.text, .n = plain.n, .wrong = -1};
    for (int max = 1; max <= 40; max++) {
        answer a = plain;
        a.max = max;
        a.draft = UPG_DRAFT_MAX;
        a.oracle = &o;
        compare(&a);
        int ran = a.counts.runs + a.counts.drafted;
        assert_int_equal(ran, max - 1);
    }
    for (int context = 20; context < 50; context++) {
        answer a = plain;
        a.max = 1000;
        a.context = context;
        a.draft = UPG_DRAFT_MAX;
        a.oracle = &o;
        compare(&a);
        assert_int_equal(a.n, context + 1);
    }
    upg_model_free(m);
}

// An answer that draws BAD_TOKEN and would go on with it. Returns its length.
static int draw_bad(const upg_model *m, const upg_sampling *o, int draft, int32_t text[65]) {
    upg_session *s = open_session(m, &(upg_session_options){.max_logits = 9});
    upg_sampler *sampler = open_sampler(m, o);
    upg_generator *g = upg_generator_new(s, 0, draft, NULL);
    oracle right = {.text = text, .n = 65, .wrong = -1};
    upg_error e = {""};
    int n = 1;
    assert_non_null(g);
    upg_generator_set_source(g, foretell, &right);
    assert_int_equal(upg_session_prefill(s, 0, text, 1, &e), 0);
    assert_int_equal(upg_generator_start(g, text, 1, 64, &e), 0);
    for (int32_t token; !upg_generator_next(g, sampler, &token, &e); n++) {
        if (draft) assert_int_equal(token, text[n]);
        text[n] = token;
    }
    char message[64];
    snprintf(message, sizeof message, "not finite at token %d", n - 1);
    assert_message(e, message);
    assert_int_equal(text[n - 1], BAD_TOKEN);
    assert_int_equal(upg_session_length(s, 0), n - 1);
    upg_generator_free(g);
    upg_sampler_free(sampler);
    upg_session_free(s);
    return n;
}

// A row that fails counts where the answer comes to it, and not where a wrong draft did.
static void failures_are_those_of_the_answer(void **state) {
    (void)state;
    upg_model *m = open_model(tiny_path);
    const upg_sampling wild = {.temperature = 100, .top_p = 1, .repeat_penalty = 1, .seed = 9};
    const upg_sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    int32_t text[65] = {1};
    int n = draw_bad(m, &wild, 0, text);
    assert_true(n > 9);
    for (int draft = 1; draft <= 8; draft++) assert_int_equal(draw_bad(m, &wild, draft, text), n);
    answer plain = {.model = m, .sampling = &greedy, .prompt = text, .n_prompt = 1, .context = 60, .max = 30};
    compare(&plain);
    for (int draft = 1; draft <= 8; draft++) {
        oracle bad = {.text = plain.text, .n = plain.n, .wrong = draft / 2, .instead = BAD_TOKEN};
        answer a = plain;
        a.draft = draft;
        a.oracle = &bad;
        compare(&a);
        assert_memory_equal(a.text, plain.text, sizeof a.text);
    }
    upg_model_free(m);
}

// Logits of originals in fp32 depend on the batch.
static void originals_get_no_drafts(void **state) {
    (void)state;
    upg_model *m = open_model(STORIES);
    upg_session *s = open_session(m, &(upg_session_options){.max_logits = 9});
    upg_sampler *sampler = open_sampler(m, &samplings[0]);
    upg_generator *g = upg_generator_new(s, 0, 8, NULL);
    const int32_t prompt[] = {1, 5, 6, 7, 5, 6, 7, 5, 6, 7};
    int32_t token;
    assert_non_null(g);
    assert_int_equal(upg_session_prefill(s, 0, prompt, COUNT(prompt), NULL), 0);
    assert_int_equal(upg_generator_start(g, prompt, COUNT(prompt), 20, NULL), 0);
    for (int i = 0; i < 20; i++) assert_int_equal(upg_generator_next(g, sampler, &token, NULL), 0);
    assert_int_equal(upg_generator_count(g).runs, 19);
    assert_int_equal(upg_generator_count(g).drafted, 0);
    upg_generator_free(g);
    upg_sampler_free(sampler);
    upg_session_free(s);
    upg_model_free(m);
}

static void starts_are_checked(void **state) {
    (void)state;
    upg_model *m = open_model(int8_path);
    upg_session *s = open_session(m, NULL);
    upg_generator *g = upg_generator_new(s, 0, -1, NULL);
    upg_error e = {""};
    assert_non_null(g);
    assert_int_equal(upg_generator_start(g, NULL, 0, 5, &e), -1);
    assert_int_equal(upg_session_prefill(s, 0, (const int32_t[]){1, 2, 3}, 3, &e), 0);
    assert_int_equal(upg_generator_start(g, (const int32_t[]){1, 2}, 2, 5, &e), -1);
    assert_message(e, "an answer to 2 tokens, but the sequence holds 3");
    assert_int_equal(upg_generator_finish(g, &e), 0);
    assert_int_equal(upg_session_length(s, 0), 3);
    upg_generator_free(g);
    assert_null(upg_generator_new(s, 1, -1, &e));
    assert_message(e, "sequence 1");
    upg_session_free(s);
    upg_model_free(m);
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    upg_compress_options o = {.layer_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8};
    compress_model(STORIES, path_in(int8_path, folder, "int8.upg"), &o);
    compress_model(STORIES, path_in(trellis_path, folder, "trellis.upg"), &(upg_compress_options){.layer_bits = 6});
    write_tiny(path_in(tiny_path, folder, "tiny.upg"));
    return 0;
}

static int clean(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_drafter_is_a_search),
        cmocka_unit_test(drafts_are_as_long_as_they_pay),
        cmocka_unit_test(drafts_of_the_text_change_nothing),
        cmocka_unit_test(right_and_wrong_drafts_change_nothing),
        cmocka_unit_test(answers_end_anywhere),
        cmocka_unit_test(limits_hold_inside_drafts),
        cmocka_unit_test(failures_are_those_of_the_answer),
        cmocka_unit_test(originals_get_no_drafts),
        cmocka_unit_test(starts_are_checked),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
