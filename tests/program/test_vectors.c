// The C arithmetic against an independent implementation: every case of tests/vectors/arithmetic.json, which NumPy
// computed from docs/arithmetic.md alone, must come out of the C code with the same bits on every instruction set of
// this machine.
#include "vectors.h"
#include "program/ops.h"
#include "upg.h"
#include <float.h>

// ---- Numbers (sections 1, 2, 6, 8)

static void check_guard(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n = count(c, "x");
    float *x = floats(c, "x"), *y = keep(n, sizeof *y);
    int32_t *flag = keep(n, sizeof *flag);
    for (size_t i = 0; i < n; i++) {
        uint32_t f = 0;
        y[i] = guard(x[i], &f);
        flag[i] = f != 0;
    }
    expect_floats(c, "y", y, n);
    expect_integers(c, "flag", flag, n);
}

static void check_fma(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n = count(c, "a");
    float *x = floats(c, "a"), *y = floats(c, "b"), *z = floats(c, "c"), *out = keep(n, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = fmaf(x[i], y[i], z[i]);
    expect_floats(c, "y", out, n);
}

static void check_exp(yyjson_val *c, const upg_cpu_kernels *k) {
    size_t n = count(c, "x");
    float *x = floats(c, "x"), *y = keep(n, sizeof *y), *engine = keep(n, sizeof *engine);
    for (size_t i = 0; i < n; i++) y[i] = k->exp(x[i]);
    for (size_t i = 0; i < n; i++) engine[i] = upg_exp(x[i]);
    expect_floats(c, "y", y, n);
    expect_floats(c, "y", engine, n);
}

static void check_log(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n = count(c, "x");
    float *x = floats(c, "x"), *y = keep(n, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = upg_log(x[i]);
    expect_floats(c, "y", y, n);
}

static void check_signs(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    uint64_t seed = hex64(field(c, "seed"));
    if (upg_splitmix64(seed, 0) != hex64(field(c, "z0"))) differ("z0");
    size_t n = count(c, "sign");
    int32_t *sign = keep(n, sizeof *sign);
    for (size_t i = 0; i < n; i++) sign[i] = upg_sign(seed, i) == 0x80000000u ? -1 : upg_sign(seed, i) == 0 ? 1 : 0;
    expect_integers(c, "sign", sign, n);
}

static void check_block(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t count_n = count(c, "n");
    int32_t *n = integers(c, "n"), *block = keep(count_n, sizeof *block);
    for (size_t i = 0; i < count_n; i++) block[i] = upg_block(n[i]);
    expect_integers(c, "block", block, count_n);
}

static void check_hadamard(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    float *v = floats(c, "v");
    hadamard(v, (int)count(c, "v"), integer(c, "b"));
    expect_floats(c, "y", v, count(c, "v"));
}

// Section 6 as it stands.
static float lane_sum(const float *v, size_t n) {
    float lane[256] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 256] = lane[i % 256] + v[i];
    for (int h = 128; h; h /= 2)
        for (int j = 0; j < h; j++) lane[j] = lane[j] + lane[j + h];
    return lane[0];
}

// The library only sums squares. So the vectors hold the sum above, and the sum above holds the library's.
static void check_lane_sum(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n = count(c, "v");
    float *v = floats(c, "v"), *square = keep(n, sizeof *square);
    expect_float(c, "sum", lane_sum(v, n));
    for (size_t i = 0; i < n; i++) square[i] = v[i] * v[i];
    uint32_t flag = 0;
    float want = lane_sum(square, n), got = sum_of_squares(v, (int)n, &flag);
    same("sum of squares", &got, &want, 1, sizeof got);
}

// ---- Ops of one row (sections 4, 7, 9, 10, 11)

static void check_rmsnorm(yyjson_val *c, const upg_cpu_kernels *k) {
    size_t n = count(c, "x");
    float *y = keep(n, sizeof *y);
    uint32_t flag = k->rmsnorm(floats(c, "x"), floats(c, "weight"), (int)n, float_bits(c, "eps"), y);
    expect_floats(c, "y", y, n);
    expect_integer(c, "flag", flag != 0);
}

static void check_swiglu(yyjson_val *c, const upg_cpu_kernels *k) {
    size_t n = count(c, "gate");
    float *y = keep(n, sizeof *y);
    uint32_t flag = k->swiglu(floats(c, "gate"), floats(c, "up"), (int)n, y);
    expect_floats(c, "y", y, n);
    expect_integer(c, "flag", flag != 0);
}

static void check_rope(yyjson_val *c, const upg_cpu_kernels *k) {
    float *v = floats(c, "v");
    k->rope(v, floats(c, "cos"), floats(c, "sin"), integer(c, "R") / 2);
    expect_floats(c, "y", v, (size_t)integer(c, "D"));
}

static void check_quantise_head(yyjson_val *c, const upg_cpu_kernels *k) {
    int dim = (int)count(c, "v");
    int8_t q[UPG_MAX_HEAD_DIM];
    float scale;
    uint32_t flag = k->quantise_head(floats(c, "v"), dim, upg_block(dim), q, &scale);
    expect_int8(c, "q", q, (size_t)dim);
    expect_float(c, "scale", scale);
    expect_integer(c, "flag", flag != 0);
}

static void check_quantise_input(yyjson_val *c, const upg_cpu_kernels *k) {
    batch x = batch_new(1, integer(c, "cols"));
    size_t groups = (size_t)(x.n / x.b);
    uint32_t *sign = signs_of(hex64(field(c, "seed")), x.cols);
    uint32_t flag = quantise_row(k, &x, 0, floats(c, "x"), sign);
    int32_t *d = keep(groups, sizeof *d), *sum = keep(groups, sizeof *sum);
    for (int i = 0; i < x.n; i++) sum[i / x.b] += x.q[i];
    for (size_t g = 0; g < groups; g++) d[g] = x.d[g];
    expect_int8(c, "q", x.q, (size_t)x.n);
    expect_integers(c, "d", d, groups);
    expect_float(c, "M", x.m[0]);
    expect_integer(c, "flag", flag != 0);
    same("q_sum", x.q_sum, sum, groups, sizeof *sum);
    upg_aligned_free(sign);
    batch_free(&x);
}

static upg_config rope_config(yyjson_val *c) {
    yyjson_val *s = field(c, "scaling");
    const char *type = yyjson_get_str(field(s, "type"));
    upg_config config = {.rotary_dim = integer(c, "R"), .rope_theta = number(c, "theta")};
    if (!type || !strcmp(type, "none")) return config;
    config.rope_factor = number(s, "factor");
    config.rope_scaling = UPG_ROPE_LINEAR;
    if (!strcmp(type, "linear")) return config;
    config.rope_scaling = UPG_ROPE_LLAMA3;
    config.rope_low = number(s, "low");
    config.rope_high = number(s, "high");
    config.rope_original = number(s, "original");
    return config;
}

// The frequencies are visible where they are plain; the llama3 ones show in the tables, at angles up to 131071.
static void check_frequencies(yyjson_val *c, const upg_config *config) {
    yyjson_val *v;
    size_t j, n;
    yyjson_arr_foreach(field(c, "freq_f64"), j, n, v) {
        double f = upg_eexp((-(2.0 * (double)j) / config->rotary_dim) * upg_elog(config->rope_theta));
        if (config->rope_scaling == UPG_ROPE_LINEAR) f = f / config->rope_factor;
        uint64_t want = hex64(v), got;
        memcpy(&got, &f, sizeof got);
        if (got != want) differ("freq[%zu] is %llx, not %llx", j, (unsigned long long)got, (unsigned long long)want);
    }
}

// Rows of the tables of a session with n_positions.
static void check_tables(yyjson_val *c, const upg_config *config, int n_positions) {
    size_t half = (size_t)config->rotary_dim / 2, n = count(c, "position");
    int32_t *position = integers(c, "position");
    float *cosine = keep((size_t)n_positions * half, sizeof *cosine);
    float *sine = keep((size_t)n_positions * half, sizeof *sine);
    upg_rope_tables(config, n_positions, cosine, sine);
    float *cos_rows = keep(n * half, sizeof *cos_rows), *sin_rows = keep(n * half, sizeof *sin_rows);
    for (size_t i = 0; i < n; i++) {
        memcpy(cos_rows + i * half, cosine + (size_t)position[i] * half, half * sizeof *cosine);
        memcpy(sin_rows + i * half, sine + (size_t)position[i] * half, half * sizeof *sine);
    }
    expect_floats(c, "cos", cos_rows, n * half);
    expect_floats(c, "sin", sin_rows, n * half);
}

static void check_rope_tables(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    upg_config config = rope_config(c);
    if (config.rope_scaling != UPG_ROPE_LLAMA3) check_frequencies(c, &config);
    int32_t *position = integers(c, "position"), last = 0;
    for (size_t i = 0; i < count(c, "position"); i++) last = position[i] > last ? position[i] : last;
    check_tables(c, &config, last + 1);
}

static void check_bias(yyjson_val *c, const upg_cpu_kernels *k) {
    float *y = floats(c, "y");
    k->add(y, floats(c, "bias"), (int)count(c, "y"));
    expect_floats(c, "sum", y, count(c, "y"));
}

// In place, as the backend does it.
static void check_head_norm(yyjson_val *c, const upg_cpu_kernels *k) {
    size_t n = count(c, "v"), dim = (size_t)integer(c, "D");
    float *v = floats(c, "v"), *weight = floats(c, "weight");
    uint32_t flag = 0;
    for (size_t i = 0; i < n; i += dim) flag |= k->rmsnorm(v + i, weight, (int)dim, float_bits(c, "eps"), v + i);
    expect_floats(c, "y", v, n);
    expect_integer(c, "flag", flag != 0);
}

static void add_list(upg_buf *b, yyjson_val *c, const char *key, const char *to) {
    yyjson_val *v;
    size_t i, n;
    upg_buf_fmt(b, ",\"%s\":[", to);
    yyjson_arr_foreach(field(c, key), i, n, v) upg_buf_fmt(b, "%s%.17g", i ? "," : "", yyjson_get_num(v));
    upg_buf_str(b, "]");
}

// A config with a case's RoPE, `scaling` of it as text: factors and their scale come out of the config's reader.
static upg_config read_config(yyjson_val *c, int max_positions, const upg_buf *scaling) {
    upg_buf b = {0};
    upg_buf_fmt(&b,
                "{\"architectures\":[\"Phi3ForCausalLM\"],\"vocab_size\":8,\"hidden_size\":8,\"intermediate_size\":8,"
                "\"num_hidden_layers\":1,\"num_attention_heads\":1,\"head_dim\":%d,\"rms_norm_eps\":1,"
                "\"max_position_embeddings\":%d,\"rope_theta\":%.17g,\"original_max_position_embeddings\":%d,"
                "\"rope_scaling\":{%s}}",
                integer(c, "R"), max_positions, number(c, "theta"), integer(c, "original"), scaling->data);
    upg_config config = {0};
    upg_error e = {{0}};
    if (b.failed || scaling->failed || upg_config_parse(&config, b.data, NULL, &e)) differ("%s", e.message);
    upg_buf_free(&b);
    return config;
}

static void expect_f64(yyjson_val *want, const char *what, double got) {
    uint64_t bits;
    memcpy(&bits, &got, sizeof bits);
    if (bits != hex64(want)) differ("%s is %llx, not %s", what, (unsigned long long)bits, yyjson_get_str(want));
}

static void check_longrope(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    upg_buf s = {0};
    upg_buf_str(&s, "\"type\":\"longrope\"");
    add_list(&s, c, "short", "short_factor");
    add_list(&s, c, "long", "long_factor");
    if (!yyjson_is_null(field(c, "attention_factor")))
        upg_buf_fmt(&s, ",\"attention_factor\":%.17g", number(c, "attention_factor"));
    upg_config config = read_config(c, integer(c, "max_positions"), &s);
    expect_f64(field(c, "attention_f64"), "A", config.rope_attention);
    check_tables(c, &config, integer(c, "context"));
    upg_buf_free(&s);
}

static void check_yarn(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    upg_buf s = {0};
    upg_buf_fmt(&s, "\"type\":\"yarn\",\"factor\":%.17g,\"beta_fast\":%d,\"beta_slow\":%d,\"truncate\":%s",
                number(c, "factor"), integer(c, "beta_fast"), integer(c, "beta_slow"),
                yyjson_get_bool(field(c, "truncate")) ? "true" : "false");
    upg_config config = read_config(c, 4096, &s);
    expect_f64(field(c, "attention_f64"), "A", config.rope_attention);
    if (count(c, "d_f64") != (size_t)integer(c, "R") / 2) differ("%zu factors", count(c, "d_f64"));
    yyjson_val *v;
    size_t j, n;
    yyjson_arr_foreach(field(c, "d_f64"), j, n, v) {
        expect_f64(v, "d", config.rope_short[j]);
        expect_f64(v, "d", config.rope_long[j]);
    }
    upg_buf_free(&s);
}

// ---- Coded matrices (sections 3, 4, 5)

static void check_windows(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n = count(c, "window");
    uint32_t *window = words(c, "window");
    int8_t *w0 = keep(n, 1), *w1 = keep(n, 1);
    for (size_t i = 0; i < n; i++) {
        int8_t w[2];
        upg_trellis_weights(window[i], w);
        w0[i] = w[0];
        w1[i] = w[1];
    }
    expect_int8(c, "w0", w0, n);
    expect_int8(c, "w1", w1, n);
}

static void check_tiles(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    int s = integer(c, "S");
    uint32_t *tile = words(c, "words");
    int32_t window[UPG_TRELLIS_STEPS];
    for (int i = 0; i < UPG_TRELLIS_STEPS; i++) window[i] = (int32_t)upg_trellis_window(tile, 1, s, i);
    expect_integers(c, "window", window, UPG_TRELLIS_STEPS);
    upg_tensor w = {.encoding = UPG_TRELLIS, .s = s, .rows = 16, .cols = 16, .data = (const uint8_t *)tile};
    int8_t weights[256];
    for (int r = 0; r < 16; r++) upg_coded_row(&w, r, 0, weights + 16 * r);
    expect_int8(c, "w", weights, 256);
}

// Where weights stand: what upg_coded_row reads from random words is what the words at the expected places hold.
static void check_panel(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    int s = integer(c, "S");
    upg_tensor t = {
        .encoding = s ? UPG_TRELLIS : UPG_INT8, .s = s, .rows = integer(c, "rows"), .cols = integer(c, "cols")};
    t.bytes = upg_encoded_bytes(t.encoding, s, t.rows, t.cols);
    if (t.bytes != 4 * (size_t)integer(c, "n_words")) differ("%zu bytes", t.bytes);
    uint32_t *data = keep(t.bytes, 1), *row = words(c, "r"), *col = words(c, "c");
    uint32_t *word = words(c, "word"), *shift = words(c, "shift"), *next = words(c, "next_word");
    for (size_t i = 0; i < t.bytes / 4; i++) // no byte is 255, which int8 does not have
        data[i] = (uint32_t)upg_splitmix64(1, i) & 0x7f7f7f7f;
    t.data = (const uint8_t *)data;
    for (size_t i = 0; i < count(c, "r"); i++) {
        uint64_t bits = (data[word[i]] | (uint64_t)data[next[i]] << 32) >> shift[i];
        int8_t want[2] = {(int8_t)((int)(bits & 255) - 127), 0}, got[16];
        if (s) upg_trellis_weights((uint32_t)bits & 0xffff, want);
        upg_coded_row(&t, row[i], col[i] / 16, got);
        same("weight", &got[col[i] % 16], &want[s ? col[i] % 2 : 0], 1, 1);
    }
}

static void check_embedding(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    upg_tensor w = matrix(c);
    int cols = (int)w.cols;
    uint32_t *sign = signs_of(hex64(field(c, "seed")), cols);
    int32_t *v = keep((size_t)upg_pad16(cols), sizeof *v), *token = integers(c, "token");
    float *x = keep((size_t)cols, sizeof *x);
    for (size_t i = 0; i < count(c, "token"); i++) {
        upg_embed(&w, token[i], sign, v, x);
        yyjson_val *row = yyjson_arr_get(field(c, w.encoding == UPG_SPARSE ? "embedding" : "x"), i), *value;
        size_t j, n;
        yyjson_arr_foreach(row, j, n, value) {
            uint32_t want = (uint32_t)yyjson_get_uint(value);
            same("x", &x[j], &want, 1, sizeof want);
        }
        if (yyjson_arr_size(row) != (size_t)cols) differ("row %zu has %zu values", i, yyjson_arr_size(row));
    }
    upg_aligned_free(sign);
}

// Alone and as each of five rows of a batch, since these are different code.
static void check_linear(yyjson_val *c, const upg_cpu_kernels *k) {
    enum { COPIES = 5 };
    upg_tensor w = matrix(c);
    batch x = batch_new(COPIES, (int)w.cols);
    float *in;
    if (yyjson_obj_get(c, "fill")) {
        in = keep((size_t)w.cols, sizeof *in);
        uint32_t *where = words(c, "x_at");
        float *value = floats(c, "x_value");
        for (size_t i = 0; i < count(c, "x_at"); i++) in[where[i]] = value[i];
    } else {
        in = floats(c, "x");
    }
    uint32_t *sign = signs_of(hex64(field(c, "seed")), x.cols), flag = 0;
    for (int i = 0; i < COPIES; i++) flag = quantise_row(k, &x, i, in, w.unrotated ? NULL : sign);
    expect_integer(c, "flag", flag != 0);
    float *y = keep((size_t)w.rows * COPIES, sizeof *y);
    for (int n_rows = 1; n_rows <= COPIES; n_rows += COPIES - 1) {
        for (int64_t sb = 0; sb < superbands(&w); sb++) linear_rows(k, &w, &x, 0, n_rows, sb, y, (size_t)w.rows);
        for (int i = 0; i < n_rows; i++) expect_floats(c, "y", y + i * w.rows, (size_t)w.rows);
    }
    upg_aligned_free(sign);
    batch_free(&x);
}

static void check_sparse(yyjson_val *c, const upg_cpu_kernels *k) {
    check_linear(c, k);
    check_embedding(c, k);
}

// ---- Attention (section 11)

// A sequence's cache in a pool of blocks that stand in no order, among bytes that must not be read as numbers.
typedef struct cache {
    upg_kv_pool pool;
    int32_t blocks[8]; // the sequence's table
} cache;

static cache fill_cache(yyjson_val *c, const upg_cpu_kernels *k, int dim, int n_kv, int n_keys) {
    enum { POOL = 11 };
    size_t n;
    float *key = generated(c, "k", &n), *value = generated(c, "v", &n);
    cache out = {.pool.block_stride = upg_kv_head_bytes(dim) * (size_t)(n_kv + 1)}; // another layer's head follows
    out.pool.data = keep(POOL, out.pool.block_stride);
    memset(out.pool.data, 0xff, POOL * out.pool.block_stride);
    for (int i = 0; i < 8; i++) out.blocks[i] = (7 * i + 5) % POOL;
    for (int j = 0; j < n_keys; j++)
        for (int h = 0; h < n_kv; h++) {
            upg_kv_head head = upg_kv_head_at(&out.pool, out.blocks[j / UPG_KV_BLOCK], h, dim);
            int from = (j * n_kv + h) * dim;
            store(k, &head, dim, j % UPG_KV_BLOCK, key + from, value + from);
        }
    return out;
}

static void check_attention(yyjson_val *c, const upg_cpu_kernels *k) {
    int dim = integer(c, "D"), n_heads = integer(c, "n_heads"), n_kv = integer(c, "n_kv_heads");
    int window = integer(c, "window"), n_keys = integer(c, "n_keys"), rows = (int)count(c, "position");
    cache kv = fill_cache(c, k, dim, n_kv, n_keys);
    size_t n;
    float *query = generated(c, "q", &n), *y = keep(n, sizeof *y);
    int32_t *position = integers(c, "position");
    for (int i = 0; i < rows * n_heads; i++) {
        int8_t q[UPG_MAX_HEAD_DIM] = {0};
        float scale;
        upg_attend a = {.rows = 1,
                        .heads = 1,
                        .q = q,
                        .q_scale = &scale,
                        .row_heads = 1,
                        .out = y + i * dim,
                        .out_stride = (size_t)dim,
                        .c = attention_constant(dim),
                        .dim = dim,
                        .b = upg_block(dim),
                        .position = position[i / n_heads],
                        .window = window,
                        .head = i % n_heads / (n_heads / n_kv),
                        .blocks = kv.blocks,
                        .pool = &kv.pool};
        k->quantise_head(query + i * dim, dim, a.b, q, &scale);
        k->attend(&a);
    }
    expect_floats(c, "y", y, n);
}

// ---- Sampling (section 13)

static void take_penalties(yyjson_val *c, upg_sampling *o) {
    yyjson_val *bias = field(c, "bias"), *pair;
    size_t i, n;
    upg_bias *all = keep(yyjson_arr_size(bias) + 1, sizeof *all);
    yyjson_arr_foreach(bias, i, n, pair) {
        all[i].token = (int32_t)yyjson_get_int(yyjson_arr_get(pair, 0));
        all[i].bias = upg_float((uint32_t)yyjson_get_uint(yyjson_arr_get(pair, 1)));
    }
    o->bias = all;
    o->n_bias = yyjson_arr_size(bias);
    o->n_prompt = (size_t)integer(c, "n_prompt");
    o->frequency_penalty = float_bits(c, "frequency");
    o->presence_penalty = float_bits(c, "presence");
}

static void check_sampling(yyjson_val *c, const upg_cpu_kernels *k) {
    (void)k;
    size_t n, n_tokens = count(c, "tokens"), position = (size_t)integer(c, "position");
    float *logits = generated(c, "logits", &n);
    upg_sampling o = {.temperature = float_bits(c, "temperature"),
                      .top_k = integer(c, "top_k"),
                      .top_p = float_bits(c, "top_p"),
                      .min_p = float_bits(c, "min_p"),
                      .repeat_penalty = float_bits(c, "penalty"),
                      .seed = hex64(field(c, "seed"))};
    if (yyjson_obj_get(c, "bias")) take_penalties(c, &o);
    if (o.top_p == 0) o.top_p = FLT_MIN; // the sampler refuses 0; both keep the first candidate only
    // The draw's position is the length of the history: tokens that do not exist lengthen it without being penalised.
    int32_t *tokens = integers(c, "tokens"), *history = keep(position, sizeof *history);
    for (size_t i = 0; i < position; i++) history[i] = i + n_tokens < position ? -1 : tokens[i + n_tokens - position];
    upg_error e = {{0}};
    upg_sampler *s = upg_sampler_new((int)n, &o, &e);
    if (!s) {
        differ("%s", e.message);
        return;
    }
    expect_integer(c, "token", upg_sample(s, logits, history, position));
    upg_sampler_free(s);
}

static kind kinds[] = {{"guard", check_guard, false},
                       {"fma", check_fma, false},
                       {"exp", check_exp, true},
                       {"log", check_log, false},
                       {"signs", check_signs, false},
                       {"block", check_block, false},
                       {"hadamard", check_hadamard, false},
                       {"lane_sum", check_lane_sum, false},
                       {"rmsnorm", check_rmsnorm, true},
                       {"swiglu", check_swiglu, true},
                       {"rope", check_rope, true},
                       {"rope_tables", check_rope_tables, false},
                       {"quantise_head", check_quantise_head, true},
                       {"quantise_input", check_quantise_input, true},
                       {"trellis_windows", check_windows, false},
                       {"trellis_tiles", check_tiles, false},
                       {"panel", check_panel, false},
                       {"embedding", check_embedding, false},
                       {"linear", check_linear, true},
                       {"sparse", check_sparse, true},
                       {"attention", check_attention, true},
                       {"sampling", check_sampling, false},
                       {"penalties", check_sampling, false},
                       {"bias", check_bias, true},
                       {"head_norm", check_head_norm, true},
                       {"longrope", check_longrope, false},
                       {"yarn", check_yarn, false}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

// Property: callers draw outside the mode that flushes denormals, and the draws are the same there.
static void test_sampling_in_the_callers_mode(void **state) {
    (void)state;
    report.differences = 0;
    static kind sampling = {"sampling", check_sampling, false};
    check_cases(&sampling, 0, 0);
    assert_int_equal(report.differences, 0);
}

enum { TINY_DRAWS = 2000, TINY_LOGITS = 8 };

// Draws from logits that are denormal or become so on their way through penalty and temperature. ctx: [TINY_DRAWS].
static void draw_from_tiny_logits(void *ctx, int task, int thread) {
    (void)task, (void)thread;
    static const float scales[] = {0.01f, 0.5f, 1.0f, 100.0f}; // of the penalty and the temperature
    static const int32_t history[] = {0, 1, 2, 3, 5};
    int32_t *token = ctx;
    for (uint64_t i = 0; i < TINY_DRAWS; i++) {
        float logits[TINY_LOGITS];
        for (uint64_t j = 0; j < TINY_LOGITS; j++) {
            uint64_t z = upg_splitmix64(i, j);
            logits[j] =
                upg_float((uint32_t)(z >> 63 << 31) | (uint32_t)(z % 16 << 23) | (uint32_t)(z >> 32 & 0x7fffff));
        }
        upg_sampling o = {.temperature = i % 5 ? scales[i % 5 - 1] : 0,
                          .top_k = 1,
                          .top_p = 1,
                          .repeat_penalty = scales[i / 5 % 4],
                          .seed = i};
        upg_sampler *s = upg_sampler_new(TINY_LOGITS, &o, NULL);
        token[i] = s ? upg_sample(s, logits, history, sizeof history / sizeof *history) : -1;
        upg_sampler_free(s);
    }
}

// Property: to a sampler too denormals are zeros, whatever the caller's mode.
static void test_sampling_flushes_denormals(void **state) {
    (void)state;
    static int32_t flushed[TINY_DRAWS], plain[TINY_DRAWS];
    check_flushed(draw_from_tiny_logits, flushed);
    draw_from_tiny_logits(plain, 0, 0);
    assert_memory_equal(flushed, plain, sizeof plain);
}

// Property: no kind of case in the file goes unchecked.
static void test_every_kind_is_checked(void **state) {
    (void)state;
    yyjson_val *key, *value;
    size_t i, n;
    yyjson_obj_foreach(yyjson_doc_get_root(vectors), i, n, key, value) {
        const char *name = yyjson_get_str(key);
        bool known = !strcmp(name, "readme");
        for (int j = 0; j < N_KINDS; j++) known |= !strcmp(name, kinds[j].name);
        if (!known) fail_msg("nothing checks %s", name);
    }
}

int main(void) {
    struct CMUnitTest tests[N_KINDS + 3] = {cmocka_unit_test(test_every_kind_is_checked),
                                            cmocka_unit_test(test_sampling_in_the_callers_mode),
                                            cmocka_unit_test(test_sampling_flushes_denormals)};
    for (int i = 0; i < N_KINDS; i++)
        tests[i + 3] = (struct CMUnitTest){.name = kinds[i].name, .test_func = test_kind, .initial_state = &kinds[i]};
    return cmocka_run_group_tests(tests, open_vectors, close_vectors);
}
