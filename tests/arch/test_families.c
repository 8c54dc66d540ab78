// Every architecture, end to end, on the tiny random models of tests/vectors/arch (tools/arch_vectors.py): fp32 mode
// computes what transformers does, int8 stays close to it, and int8's bits do not depend on the path.
//
// How far fp32 mode may be from transformers. Both add the same products in f32 in different orders: with sums of at
// most 96 terms and u = 2^-24, a layer's output moves by some 10 u of its size, 1e-6. More comes from RoPE, whose
// angles transformers rounds to f32: at position 95 by 95 u, 6e-6, which sharp attention and two layers make several
// times larger in logits of up to 11. So 1e-4 is room enough, and a wrong formula differs by more than 1e-2, which the
// last test shows for the parts that matter least.
#include "../engine/engine_helpers.h"
#include "backend/cpu/cpu.h"
#include "engine/model.h"
#include <glob.h>
#include <math.h>

enum { N = 96, STEP = 8, VOCAB = 96, ORIGINAL = 32, MAX_ROWS = N / STEP };
#define ROOT  "tests/vectors/arch/"
#define BOUND 1e-4

static glob_t families; // the folders
static char folder[64];

#define FOR_EACH(path) for (char **f_ = families.gl_pathv, *path; (path = *f_); f_++)

static int32_t token(int i) {
    return (7 * i * i + 31 * i + 3) % VOCAB;
}

// Logits after every STEP-th of the first n tokens, in a session of n positions. Returns the rows: [][VOCAB].
static int run(const upg_model *m, int n, int threads, int chunk, float *out) {
    upg_session *s = open_session(
        m, &(upg_session_options){.n_threads = threads, .context = n, .max_rows = chunk, .max_logits = chunk});
    upg_row rows[N] = {0};
    int count = 0;
    for (int at = 0; at < n; at += chunk) {
        int k = n - at < chunk ? n - at : chunk, wanted = 0;
        for (int i = 0; i < k; i++) rows[i] = (upg_row){token(at + i), 0, (at + i) % STEP == STEP - 1};
        run_rows(s, rows, k);
        for (int i = 0; i < k; i++) {
            assert_false(upg_session_row_failed(s, i));
            if (!rows[i].logits) continue;
            memcpy(out + (size_t)count++ * VOCAB, upg_session_logits(s, wanted++), VOCAB * sizeof *out);
        }
    }
    upg_session_free(s);
    return count;
}

// Transformers' logits for the first n tokens of a family. For longrope, what is for ORIGINAL tokens comes first.
static int expected(const char *family, int n, float out[MAX_ROWS * VOCAB]) {
    char path[256];
    enum { ROW = VOCAB * sizeof *out };
    upg_buf b = read_image(path_in(path, family, "expected.f32"));
    int rows = n / STEP, all = (int)(b.size / ROW), skip_rows = n > ORIGINAL ? all - rows : 0;
    if (b.size % ROW || (all != MAX_ROWS && all != MAX_ROWS + ORIGINAL / STEP)) fail_msg("%s: %zu bytes", path, b.size);
    memcpy(out, b.data + skip_rows * ROW, (size_t)rows * ROW);
    upg_buf_free(&b);
    return rows;
}

static double furthest(const float *a, const float *b, int rows) {
    double far = 0;
    for (int i = 0; i < rows * VOCAB; i++) far = fmax(far, fabs((double)a[i] - b[i]));
    return far;
}

static void fp32_is_transformers(void **state) {
    (void)state;
    FOR_EACH(family) {
        upg_model *m = open_model(family);
        for (int n = ORIGINAL; n <= N; n += N - ORIGINAL) {
            float want[MAX_ROWS * VOCAB], got[MAX_ROWS * VOCAB];
            int rows = expected(family, n, want);
            assert_int_equal(run(m, n, 2, 24, got), rows);
            double far = furthest(got, want, rows);
            print_message("%s, %d tokens: %.1e from transformers\n", family, n, far);
            assert_true(far < BOUND);
        }
        upg_model_free(m);
    }
}

// Runs the model with a part left out, which must show.
static void check_counts(const upg_model *m, const char *family, const char *part) {
    float want[MAX_ROWS * VOCAB], got[MAX_ROWS * VOCAB];
    int rows = expected(family, N, want);
    run(m, N, 1, N, got);
    double far = furthest(got, want, rows);
    if (far < 100 * BOUND) fail_msg("%s without %s: %.1e from transformers", family, part, far);
}

// Property: the comparison above sees every bias, head norm and window, and longrope's factors and scale.
static void every_part_counts(void **state) {
    (void)state;
    int biases = 0, norms = 0, windows = 0, scalings = 0;
    FOR_EACH(family) {
        upg_model *m = open_model(family);
        for (int k = 0; k < m->program->n_ops; k++) {
            upg_op *op = &m->program->ops[k], kept = *op;
            if (op->kind != UPG_OP_BIAS && op->kind != UPG_OP_HEAD_NORM && !op->window) continue;
            op->window = op->count = 0;
            if (op->kind == UPG_OP_BIAS) op->n = 0;
            check_counts(m, family, kept.window ? "a window" : kept.count ? "a head norm" : "a bias");
            *op = kept;
            biases += kept.kind == UPG_OP_BIAS;
            norms += kept.count != 0;
            windows += kept.window != 0;
        }
        upg_config kept = m->config;
        if (kept.rope_scaling == UPG_ROPE_LONGROPE) {
            m->config.rope_attention = 1;
            check_counts(m, family, "the attention factor");
            m->config = kept;
            for (int k = 0; k < UPG_MAX_HEAD_DIM / 2; k++) m->config.rope_short[k] = m->config.rope_long[k] = 1;
        } else {
            m->config.rope_scaling = UPG_ROPE_PLAIN;
        }
        if (kept.rope_scaling != UPG_ROPE_PLAIN) check_counts(m, family, "its RoPE scaling");
        scalings += kept.rope_scaling != UPG_ROPE_PLAIN;
        upg_model_free(m);
    }
    assert_true(biases && norms && windows && scalings);
}

// Nats from the distribution of logits p to that of q, and a mean over rows.
static double divergence(const float *p, const float *q, int rows) {
    double sum = 0;
    for (int r = 0; r < rows; r++, p += VOCAB, q += VOCAB) {
        double zp = 0, zq = 0;
        for (int i = 0; i < VOCAB; i++) zp += exp(p[i]), zq += exp(q[i]);
        for (int i = 0; i < VOCAB; i++) sum += exp(p[i]) / zp * ((p[i] - log(zp)) - (q[i] - log(zq)));
    }
    return sum / rows;
}

static upg_model *compressed(const char *family, int bits) {
    char out[256];
    path_in(out, folder, "model.upg");
    compress_model(family, out, &(upg_compress_options){.layer_bits = bits, .embedding_bits = bits, .head_bits = bits});
    return open_model(out);
}

// int8 activations and weights each have an error of about 1/300 of a vector's size, in every one of eight products one
// after another: logits of size 10 move by a few hundredths, and KL is about half the square of that.
static void int8_is_close_and_exact(void **state) {
    (void)state;
    FOR_EACH(family) {
        upg_model *m = compressed(family, UPG_BITS_INT8);
        for (int n = ORIGINAL; n <= N; n += N - ORIGINAL) {
            float want[MAX_ROWS * VOCAB], got[MAX_ROWS * VOCAB], other[MAX_ROWS * VOCAB];
            int rows = expected(family, n, want);
            run(m, n, 2, 24, got);
            double kl = divergence(want, got, rows);
            print_message("%s, %d tokens: KL %.1e\n", family, n, kl);
            assert_true(kl < 0.02);
            setenv("UPG_ISA", "scalar", 1);
            run(m, n, 1, 1, other);
            unsetenv("UPG_ISA");
            assert_memory_equal(got, other, (size_t)rows * VOCAB * sizeof *got);
        }
        upg_model_free(m);
    }
}

// The op behind `i` that computes something. Which rows are gathered where differs: a compressed model leaves out what
// nobody asks for, an original is looked at in all its rows.
static const upg_op *next_op(const upg_program *p, int *i) {
    while (*i < p->n_ops && p->ops[*i].kind == UPG_OP_GATHER) ++*i;
    return *i < p->n_ops ? &p->ops[(*i)++] : NULL;
}

// Property: a compressed model says of itself what the original says, and needs nothing else.
static void compressing_keeps_the_config(void **state) {
    (void)state;
    FOR_EACH(family) {
        upg_model *a = open_model(family), *b = compressed(family, 6);
        const upg_op *x, *y;
        for (int i = 0, k = 0;;) {
            x = next_op(a->program, &i);
            y = next_op(b->program, &k);
            if (!x || !y) break;
            const int want[] = {(int)x->kind, x->n, x->count, x->window, x->weight, x->layer, x->unrotated, x->out_col},
                      got[] = {(int)y->kind, y->n, y->count, y->window, y->weight, y->layer, y->unrotated, y->out_col};
            assert_memory_equal(got, want, sizeof want);
        }
        assert_true(!x && !y);
        upg_model_free(a);
        upg_model_free(b);
    }
}

// A family's model with one piece of its config.json replaced, which must be refused for `reason`.
static void check_refused(const char *name, const char *piece, const char *by, const char *reason) {
    char from[256], path[256], config[512], target[512], *root = realpath(path_in(from, ROOT, name), NULL);
    assert_non_null(root);
    snprintf(target, sizeof target, "%s/model.safetensors", root);
    unlink(path_in(path, folder, "model.safetensors"));
    assert_int_equal(symlink(target, path), 0);
    snprintf(config, sizeof config, "%s/config.json", root);
    size_t size;
    upg_error e = {""};
    char *text = upg_read_text(config, 1 << 20, &size, &e), *at = text ? strstr(text, piece) : NULL;
    if (!at) fail_msg("%s: no %s", name, piece);
    upg_buf b = {0};
    upg_buf_add(&b, text, (size_t)(at - text));
    upg_buf_str(&b, by);
    upg_buf_str(&b, at + strlen(piece));
    assert_false(b.failed);
    write_file(folder, "config.json", b.data, b.size);
    if (upg_model_open(folder, &e)) fail_msg("%s with %s is accepted", name, by);
    if (!strstr(e.message, reason)) fail_msg("%s with %s: %s", name, by, e.message);
    upg_buf_free(&b);
    free(text);
    free(root);
}

// Property: a config that asks for tensors that are not there, or is silent about some that are, is of another model.
static void tensors_and_config_must_agree(void **state) {
    (void)state;
    static const struct {
        const char *name, *piece, *by, *reason;
    } cases[] = {
        {"llama", "\"attention_bias\": true", "\"attention_bias\": false", "proj.bias: has no place"},
        {"llama", "\"mlp_bias\": true", "\"mlp_bias\": false", "proj.bias: has no place"},
        {"llama", "LlamaForCausalLM", "Qwen2ForCausalLM", "attention_bias"},
        {"llama3", "\"attention_bias\": false", "\"attention_bias\": true", "self_attn.q_proj.bias: missing"},
        {"llama3", "\"mlp_bias\": false", "\"mlp_bias\": true", "mlp.gate_proj.bias: missing"},
        {"llama3", "\"head_dim\": 16", "\"head_dim\": 8", "self_attn.q_proj.weight: shape"},
        {"mistral", "MistralForCausalLM", "Qwen2ForCausalLM", "self_attn.q_proj.bias: missing"},
        {"mistral", "MistralForCausalLM", "Qwen3ForCausalLM", "self_attn.q_norm.weight: missing"},
        {"mistral", "MistralForCausalLM", "Phi3ForCausalLM", "self_attn.qkv_proj.weight: missing"},
        {"qwen2", "Qwen2ForCausalLM", "LlamaForCausalLM", "proj.bias: has no place in a LlamaForCausalLM"},
        {"qwen3", "Qwen3ForCausalLM", "LlamaForCausalLM", "norm.weight: has no place in a LlamaForCausalLM"},
        {"phi4mini", "16.25", "\"16.25\"", "long_factor"},
        {"phi4mini", "\"longrope\"", "\"dynamic\"", "type dynamic is not implemented"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check_refused(cases[i].name, cases[i].piece, cases[i].by, cases[i].reason);
}

static int make_folder(void **state) {
    (void)state;
    temporary_folder(folder);
    return glob(ROOT "*", 0, NULL, &families);
}
static int drop_folder(void **state) {
    (void)state;
    remove_folder(folder);
    globfree(&families);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_is_transformers),          cmocka_unit_test(every_part_counts),
        cmocka_unit_test(int8_is_close_and_exact),       cmocka_unit_test(compressing_keeps_the_config),
        cmocka_unit_test(tensors_and_config_must_agree),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
