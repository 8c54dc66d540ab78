// Sessions: nothing is allocated once one is made, a call that fails changes nothing, a row that overflows fails alone,
// and a model whose parts do not fit together is refused when it is opened, by name.
#include "tiny_model.h"
#include <math.h>
#include <stdatomic.h>

// ---- Counting allocations: of the whole process where the C library lets us stand before it, else of UPG's own calls
// ----

#if defined(__GLIBC__) && !SANITIZED
static atomic_long n_allocations;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
#define COUNTED __attribute__((visibility("default")))
COUNTED void *malloc(size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_malloc(n);
}
COUNTED void *calloc(size_t count, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_calloc(count, n);
}
COUNTED void *realloc(void *p, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_realloc(p, n);
}
COUNTED void *aligned_alloc(size_t alignment, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __libc_memalign(alignment, n);
}
COUNTED int posix_memalign(void **p, size_t alignment, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    *p = __libc_memalign(alignment, n);
    return *p ? 0 : 12; // ENOMEM
}
static long allocations(void) {
    return atomic_load(&n_allocations);
}
#else
static long allocations(void) {
    return (long)upg_alloc_count();
}
#endif

enum { CONTEXT = 300 };
static char folder[64], int8_path[256], trellis_path[256];

static void run_everything(upg_session *s, upg_sampler *sampler, int vocab, const int32_t *tokens) {
    upg_error e = {""};
    float sum = 0;
    assert_int_equal(upg_session_prefill(s, 0, tokens, 270, &e), 0);
    for (int i = 0; i < 20; i++) {
        int32_t token = upg_sample(sampler, upg_session_logits(s, 0), tokens, 270);
        sum += upg_logprob(upg_session_logits(s, 0), vocab, token);
        upg_row rows[] = {{token, 0, true}, {tokens[i], 1, true}, {tokens[i + 1], 1, false}};
        assert_int_equal(upg_session_run(s, rows, 3, &e), 0);
        sum += upg_session_row_failed(s, 1);
    }
    assert_true(sum < 0);
    assert_int_equal(upg_session_run(s, &(upg_row){-1, 0, true}, 1, &e), -1);
    assert_int_equal(upg_session_truncate(s, 0, 3, &e), 0);
    assert_int_equal(upg_session_truncate(s, 1, 0, &e), 0);
}

static void nothing_is_allocated_after_creation(void **state) {
    (void)state;
    const char *const paths[] = {int8_path, trellis_path};
    const upg_sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    const upg_sampling warm = {
        .temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f, .repeat_penalty = 1.1f, .seed = 3};
    int32_t tokens[CONTEXT];
    for (int i = 0; i < CONTEXT; i++) tokens[i] = i * 7 % 512;
    long before = allocations();
    free(upg_alloc(1, 1, NULL));
    assert_int_equal(allocations(), before + 1); // the count counts
    for (size_t i = 0; i < 2 * COUNT(paths); i++) {
        upg_model *m = open_model(paths[i / 2]);
        int vocab = upg_model_vocab_size(m);
        upg_sampler *sampler = upg_sampler_new(vocab, i % 2 ? &warm : &greedy, NULL);
        assert_non_null(sampler);
        upg_session *s =
            open_session(m, &(upg_session_options){
                                .n_threads = 2, .context = CONTEXT, .n_sequences = 2, .max_rows = 64, .max_logits = 2});
        before = allocations();
        run_everything(s, sampler, vocab, tokens);
        assert_int_equal(allocations(), before);
        upg_session_free(s);
        upg_sampler_free(sampler);
        upg_model_free(m);
    }
}

// The library's own calls only: OpenBLAS manages memory as it likes.
static void fp32_allocates_nothing_either(void **state) {
    (void)state;
    upg_model *m = open_model(STORIES);
    upg_session *s = open_session(m, &(upg_session_options){.n_threads = 2, .max_rows = 32});
    int32_t tokens[100];
    for (int i = 0; i < 100; i++) tokens[i] = i;
    uint64_t before = upg_alloc_count();
    assert_int_equal(upg_session_prefill(s, 0, tokens, 100, NULL), 0);
    assert_int_equal(upg_session_run(s, &(upg_row){5, 0, true}, 1, NULL), 0);
    assert_true(upg_alloc_count() == before);
    upg_session_free(s);
    upg_model_free(m);
}

// ---- Failures change nothing ----

enum { FIRST = 20, ROWS = 16, WANTED = 4 };

static void grow(upg_session *s) {
    upg_row rows[ROWS];
    for (int seq = 0; seq < 2; seq++) {
        for (int i = 0; i < ROWS; i++) rows[i] = (upg_row){(i * 11 + seq) % 512, seq, false};
        run_rows(s, rows, ROWS);
        run_rows(s, rows, FIRST - ROWS);
    }
}

static void fails(upg_session *s, const upg_row *rows, int n, const char *message) {
    upg_error e = {""};
    assert_int_equal(upg_session_run(s, rows, n, &e), -1);
    assert_message(e, message);
    assert_int_equal(upg_session_run(s, rows, n, NULL), -1);
    for (int seq = 0; seq < 2; seq++) assert_int_equal(upg_session_length(s, seq), FIRST);
}

static void refuse_everything(upg_session *s) {
    upg_row many[ROWS + 1];
    for (int i = 0; i <= ROWS; i++) many[i] = (upg_row){i, i % 2, false};
    fails(s, many, ROWS + 1, "17 rows in a batch: not within 1..16");
    fails(s, many, 0, "0 rows");
    fails(s, many, -1, "-1 rows");
    fails(s, (upg_row[]){{1, 0, false}, {2, 2, false}}, 2, "sequence 2: not within 0..1");
    fails(s, (upg_row[]){{1, 0, false}, {2, -1, false}}, 2, "sequence -1");
    fails(s, (upg_row[]){{1, 0, false}, {512, 1, true}}, 2, "token 512 is not in the vocabulary of 512");
    fails(s, (upg_row[]){{1, 1, false}, {-1, 0, true}}, 2, "token -1");
    for (int i = 0; i < WANTED + 1; i++) many[i].logits = true;
    fails(s, many, WANTED + 1, "logits of 5 rows wanted, more than 4");
    for (int i = 0; i < ROWS; i++) many[i] = (upg_row){i, 0, false};
    fails(s, many, 11, "the context of 30 tokens is full"); // 20 are there
}

static void refuse_prefill(upg_session *s) {
    int32_t tokens[CONTEXT] = {0};
    upg_error e = {""};
    assert_int_equal(upg_session_prefill(s, 0, tokens, 0, &e), -1);
    assert_int_equal(upg_session_prefill(s, 2, tokens, 1, &e), -1);
    assert_message(e, "sequence 2");
    assert_int_equal(upg_session_prefill(s, -1, tokens, 1, &e), -1);
    assert_int_equal(upg_session_prefill(s, 1, tokens, 11, &e), -1);
    assert_message(e, "full");
    tokens[9] = 600;
    assert_int_equal(upg_session_prefill(s, 1, tokens, 10, &e), -1);
    assert_message(e, "token 600");
    assert_int_equal(upg_session_truncate(s, 2, 0, &e), -1);
    assert_int_equal(upg_session_truncate(s, 0, FIRST + 1, &e), -1);
    assert_int_equal(upg_session_truncate(s, 0, -1, &e), -1);
    for (int seq = 0; seq < 2; seq++) assert_int_equal(upg_session_length(s, seq), FIRST);
}

// A session that refused much gives the bits of one that refused nothing.
static void failures_change_nothing(void **state) {
    (void)state;
    upg_model *m = open_model(trellis_path);
    int vocab = upg_model_vocab_size(m);
    const upg_session_options o = {
        .n_threads = 2, .context = 30, .n_sequences = 2, .max_rows = ROWS, .max_logits = WANTED};
    upg_session *s = open_session(m, &o), *plain = open_session(m, &o);
    grow(s);
    grow(plain);
    refuse_everything(s);
    refuse_prefill(s);
    for (int i = FIRST; i < 30; i++) {
        upg_row rows[] = {{i, 0, true}, {i * 2, 1, true}};
        run_rows(s, rows, 2);
        run_rows(plain, rows, 2);
        for (int k = 0; k < 2; k++)
            assert_same_logits(upg_session_logits(s, k), upg_session_logits(plain, k), vocab, "after failures", i);
    }
    upg_error e = {""};
    assert_int_equal(upg_session_run(s, &(upg_row){1, 0, true}, 1, &e), -1);
    assert_message(e, "the context of 30 tokens is full");
    upg_session_free(s);
    upg_session_free(plain);
    upg_model_free(m);
}

// A prompt that fails in a later batch takes its earlier ones back.
static void prefill_that_fails_halfway(void **state) {
    (void)state;
    upg_model *m = open_model(int8_path);
    upg_session *s = open_session(m, &(upg_session_options){.context = 30, .max_rows = 8});
    int32_t tokens[31] = {1, 2, 3};
    upg_error e = {""};
    assert_int_equal(upg_session_prefill(s, 0, tokens, 31, &e), -1);
    assert_message(e, "full");
    assert_int_equal(upg_session_length(s, 0), 0);
    tokens[20] = 512;
    assert_int_equal(upg_session_prefill(s, 0, tokens, 30, &e), -1);
    assert_int_equal(upg_session_length(s, 0), 0);
    assert_int_equal(upg_session_prefill(s, 0, tokens, 20, &e), 0);
    assert_int_equal(upg_session_length(s, 0), 20);
    upg_session_free(s);
    upg_model_free(m);
}

static void session_options(void **state) {
    (void)state;
    upg_model *m = open_model(int8_path);
    const struct {
        upg_session_options o;
        const char *message;
    } refused[] = {{{.context = 513}, "context 513: the model was made for at most 512"},
                   {{.n_sequences = 65537}, "out of range"},
                   {{.max_rows = 65537}, "out of range"},
                   {{.max_rows = 4, .max_logits = 5}, "out of range"},
                   {{.n_threads = 1025}, "1025 threads"}};
    for (size_t i = 0; i < COUNT(refused); i++) {
        upg_error e = {""};
        assert_null(upg_session_new(m, &refused[i].o, &e));
        assert_message(e, refused[i].message);
    }
    upg_session *s = open_session(m, NULL);
    assert_int_equal(upg_session_context(s), 512);
    assert_true(upg_session_memory(s) > 0);
    upg_session_free(s);
    setenv("UPG_ISA", "sse", 1);
    upg_error e = {""};
    assert_null(upg_session_new(m, NULL, &e));
    assert_message(e, "UPG_ISA=sse");
    unsetenv("UPG_ISA");
    upg_model_free(m);
}

// ---- A row that overflows ----

static void a_row_that_overflows_fails_alone(void **state) {
    (void)state;
    char path[256];
    write_tiny(path_in(path, folder, "tiny.upg"));
    upg_model *m = open_model(path);
    const upg_session_options o = {.n_threads = 2, .n_sequences = 3, .max_rows = 8, .max_logits = 3};
    upg_session *s = open_session(m, &o), *alone = open_session(m, &o);
    for (int i = 0; i < 8; i++) {
        upg_row good[] = {{i % 5, 0, true}, {10 + i, 2, true}};
        upg_row rows[] = {good[0], {i >= 3 ? BAD_TOKEN : 9, 1, true}, good[1]};
        run_rows(s, rows, 3);
        run_rows(alone, good, 2);
        assert_false(upg_session_row_failed(s, 0));
        assert_int_equal(upg_session_row_failed(s, 1), i >= 3);
        assert_false(upg_session_row_failed(s, 2));
        assert_same_logits(upg_session_logits(s, 0), upg_session_logits(alone, 0), VOCAB, "beside an overflow", i);
        assert_same_logits(upg_session_logits(s, 2), upg_session_logits(alone, 1), VOCAB, "beside an overflow", i);
    }
    // The flag belongs to the batch: the sequence, cut back to before the token, is well again.
    assert_int_equal(upg_session_truncate(s, 1, 3, NULL), 0);
    run_rows(s, &(upg_row){4, 1, true}, 1);
    assert_false(upg_session_row_failed(s, 0));
    upg_error e = {""};
    assert_int_equal(upg_session_prefill(s, 1, (const int32_t[]){1, 2, 3, 4, 1, 2, 3, 4, 9, BAD_TOKEN, 2}, 11, &e), -1);
    assert_message(e, "not finite at token 9");
    assert_int_equal(upg_session_length(s, 1), 4);
    upg_session_free(s);
    upg_session_free(alone);
    upg_model_free(m);
}

// The flag is the row's, also where only rows whose logits are wanted are left, and where none is wanted.
static void flags_belong_to_batch_rows(void **state) {
    (void)state;
    char path[256];
    upg_model *m = open_model(path_in(path, folder, "tiny.upg"));
    upg_session *s = open_session(m, &(upg_session_options){.n_sequences = 3, .max_rows = 8, .max_logits = 2});
    for (int bad = 0; bad < 3; bad++)
        for (unsigned wants = 0; wants < 8; wants++) {
            if (wants == 7) continue; // more than max_logits
            upg_row rows[3];
            for (int i = 0; i < 3; i++) rows[i] = (upg_row){i == bad ? BAD_TOKEN : 3 + i, i, wants >> i & 1};
            run_rows(s, rows, 3);
            for (int i = 0; i < 3; i++) {
                assert_int_equal(upg_session_row_failed(s, i), i == bad);
                assert_int_equal(upg_session_truncate(s, i, 0, NULL), 0);
            }
        }
    upg_session_free(s);
    upg_model_free(m);
}

// ---- Models whose parts do not fit ----

typedef struct edit {
    const char *from, *to; // in the config
    const char *drop;      // a tensor to leave out
    const char *transpose; // a matrix to give the shape cols x rows
    const char *as_vector; // a matrix to declare as one row
    const char *as_sparse; // a matrix of 64 x 64 to declare as sparse and not rotated, which has as many bytes
    const char *message;   // what opening must say
} edit;

static char *edited_config(const upg_weights *w, const edit *x) {
    char *config = malloc(strlen(w->config) + 64), *at = x->from ? strstr(w->config, x->from) : NULL;
    assert_non_null(config);
    strcpy(config, w->config);
    if (!x->from) return config;
    assert_non_null(at);
    sprintf(config + (at - w->config), "%s%s", x->to, at + strlen(x->from));
    return config;
}

// The model of int8_path with one thing changed.
static void write_edited(const char *path, const edit *x) {
    upg_error e = {""};
    upg_weights w;
    if (upg_weights_open(&w, int8_path, &e)) fail_msg("%s", e.message);
    upg_writer_tensor *t = calloc(w.n, sizeof *t);
    const upg_tensor **from = calloc(w.n, sizeof *from);
    assert_non_null(t);
    assert_non_null(from);
    size_t n = 0;
    for (size_t i = 0; i < w.n; i++) {
        const upg_tensor *o = &w.tensors[i];
        if (x->drop && !strcmp(o->name, x->drop)) continue;
        bool turned = x->transpose && !strcmp(o->name, x->transpose);
        t[n] = (upg_writer_tensor){.name = o->name,
                                   .encoding = o->encoding,
                                   .s = o->s,
                                   .rows = turned ? o->cols : o->rows,
                                   .cols = turned ? o->rows : o->cols};
        if (x->as_vector && !strcmp(o->name, x->as_vector))
            t[n] = (upg_writer_tensor){.name = o->name, .encoding = UPG_F32, .rows = 1, .cols = 64};
        if (x->as_sparse && !strcmp(o->name, x->as_sparse)) {
            t[n].encoding = UPG_SPARSE;
            t[n].s = 8;
            t[n].unrotated = true;
            assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 8, o->rows, o->cols), o->bytes);
        }
        from[n++] = o;
    }
    char *config = edited_config(&w, x);
    upg_writer *writer = upg_writer_new(path, config, NULL, w.rotation_seed, t, n, 0, &e);
    if (!writer) fail_msg("%s", e.message);
    for (size_t i = 0; i < n; i++) {
        float scale[4096] = {0}; // a transposed matrix may have more rows
        if (from[i]->scale && upg_encoding_is_coded(t[i].encoding))
            memcpy(scale, from[i]->scale,
                   (size_t)(from[i]->rows < t[i].rows ? from[i]->rows : t[i].rows) * sizeof *scale);
        if (upg_writer_put(writer, i, from[i]->data, upg_encoding_is_coded(t[i].encoding) ? scale : NULL, &e))
            fail_msg("%s", e.message);
    }
    if (upg_writer_finish(writer, NULL, &e)) fail_msg("%s", e.message);
    upg_writer_free(writer);
    free(config);
    free(t);
    free(from);
    upg_weights_close(&w);
}

static void parts_that_do_not_fit(void **state) {
    (void)state;
    static const edit edits[] = {
        {.from = "\"vocab_size\":512",
         .to = "\"vocab_size\":600",
         .message = "tensor model.embed_tokens.weight: shape 512 x 64"},
        {.from = "\"vocab_size\":512",
         .to = "\"vocab_size\":300",
         .message = "the tokenizer has 512 tokens, but vocab_size is 300"},
        {.from = "\"num_hidden_layers\":5",
         .to = "\"num_hidden_layers\":6",
         .message = "tensor model.layers.5.input_layernorm.weight: missing"},
        {.from = "\"num_key_value_heads\":4",
         .to = "\"num_key_value_heads\":8",
         .message = "tensor model.layers.0.self_attn.k_proj.weight: shape"},
        {.from = "\"num_key_value_heads\":4",
         .to = "\"num_key_value_heads\":3",
         .message = "num_attention_heads 8 is not a multiple"},
        {.from = "\"hidden_size\":64",
         .to = "\"hidden_size\":80",
         .message = "tensor model.embed_tokens.weight: shape"},
        {.from = "\"intermediate_size\":172",
         .to = "\"intermediate_size\":173",
         .message = "mlp.gate_proj.weight: shape"},
        {.from = "\"head_dim\":8", .to = "\"head_dim\":16", .message = "self_attn.q_proj.weight: shape"},
        {.from = "\"head_dim\":8", .to = "\"head_dim\":0", .message = "head_dim is 0"},
        {.from = "\"tie_word_embeddings\":true",
         .to = "\"tie_word_embeddings\":false",
         .message = "tensor lm_head.weight: missing"},
        {.from = "LlamaForCausalLM",
         .to = "Phi3ForCausalLM",
         .message = "tensor model.layers.0.self_attn.qkv_proj.weight: missing"},
        {.from = "LlamaForCausalLM",
         .to = "GPT2LMHeadModel",
         .message = "architecture GPT2LMHeadModel is not implemented"},
        {.drop = "model.norm.weight", .message = "tensor model.norm.weight: missing"},
        {.drop = "model.layers.4.mlp.down_proj.weight",
         .message = "tensor model.layers.4.mlp.down_proj.weight: missing"},
        {.transpose = "model.layers.2.mlp.down_proj.weight",
         .message = "tensor model.layers.2.mlp.down_proj.weight: shape 172 x 64"},
        {.as_vector = "model.layers.1.self_attn.q_proj.weight",
         .message = "tensor model.layers.1.self_attn.q_proj.weight: shape 1 x 64"},
        {.as_sparse = "model.layers.3.self_attn.q_proj.weight",
         .message =
             "tensors model.layers.3.self_attn.q_proj.weight and model.layers.3.self_attn.k_proj.weight read the "
             "same input, but only one of them is rotated"},
    };
    char path[256];
    path_in(path, folder, "edited.upg");
    for (size_t i = 0; i < COUNT(edits); i++) {
        upg_error e = {""};
        write_edited(path, &edits[i]);
        assert_null(upg_model_open(path, &e));
        assert_message(e, edits[i].message);
    }
    write_edited(path, &(edit){0}); // unchanged, it opens
    upg_model_free(open_model(path));
}

static void a_model_without_tokenizer_runs(void **state) {
    (void)state;
    char path[256];
    write_edited(path_in(path, folder, "mute.upg"), &(edit){.drop = "tokenizer"});
    upg_model *m = open_model(path);
    int32_t *ids = NULL;
    size_t n = 0;
    upg_error e = {""};
    assert_int_equal(upg_tokenize(m, "a", 1, false, &ids, &n, &e), -1);
    assert_message(e, "no tokenizer");
    upg_session *s = open_session(m, NULL);
    run_rows(s, &(upg_row){1, 0, true}, 1);
    upg_session_free(s);
    upg_model_free(m);
}

static int make(void **state) {
    (void)state;
    temporary_folder(folder);
    upg_compress_options o = {.layer_bits = UPG_BITS_INT8, .head_bits = UPG_BITS_INT8};
    compress_model(STORIES, path_in(int8_path, folder, "int8.upg"), &o);
    compress_model(STORIES, path_in(trellis_path, folder, "trellis.upg"), &(upg_compress_options){.layer_bits = 6});
    return 0;
}

static int clean(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_allocated_after_creation),
        cmocka_unit_test(fp32_allocates_nothing_either),
        cmocka_unit_test(failures_change_nothing),
        cmocka_unit_test(prefill_that_fails_halfway),
        cmocka_unit_test(session_options),
        cmocka_unit_test(a_row_that_overflows_fails_alone),
        cmocka_unit_test(flags_belong_to_batch_rows),
        cmocka_unit_test(parts_that_do_not_fit),
        cmocka_unit_test(a_model_without_tokenizer_runs),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
