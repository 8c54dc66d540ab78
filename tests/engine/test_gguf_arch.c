// Each architecture's small model (tests/vectors/arch) written as GGUF: the logits are those of the folder it came
// from.
#include "as_gguf.h"
#include "yyjson.h"
#include <dirent.h>
#include <math.h>

#define FOLDERS "tests/vectors/arch"
enum { N_IDS = 96, VOCAB = 96 };

typedef struct source {
    upg_weights w;
    yyjson_doc *doc;
    yyjson_val *root, *rope; // rope: rope_parameters, or rope_scaling as transformers 4 has it, or NULL
    const char *arch;        // GGUF's name
    const char *rope_type;
    bool paired;
} source;

static double get(yyjson_val *o, const char *key, double otherwise) {
    yyjson_val *v = yyjson_obj_get(o, key);
    return yyjson_is_num(v) ? yyjson_get_num(v) : otherwise;
}

// Of rope, else of the config itself.
static double rope_get(const source *s, const char *key, double otherwise) {
    return get(s->rope, key, get(s->root, key, otherwise));
}

static void open_source(source *s, const char *folder) {
    static const char *const archs[][2] = {{"LlamaForCausalLM", "llama"},
                                           {"MistralForCausalLM", "llama"},
                                           {"Phi3ForCausalLM", "phi3"},
                                           {"Qwen2ForCausalLM", "qwen2"},
                                           {"Qwen3ForCausalLM", "qwen3"}};
    upg_error e = {""};
    if (upg_weights_open(&s->w, folder, &e)) fail_msg("%s", e.message);
    s->doc = yyjson_read(s->w.config, strlen(s->w.config), 0);
    s->root = yyjson_doc_get_root(s->doc);
    s->rope = yyjson_obj_get(s->root, "rope_parameters");
    if (!s->rope) s->rope = yyjson_obj_get(s->root, "rope_scaling");
    s->rope_type = yyjson_get_str(yyjson_obj_get(s->rope, "rope_type"));
    if (!s->rope_type) s->rope_type = yyjson_get_str(yyjson_obj_get(s->rope, "type"));
    if (!s->rope_type) s->rope_type = "default";
    yyjson_val *name = yyjson_arr_get_first(yyjson_obj_get(s->root, "architectures"));
    s->arch = NULL;
    for (size_t i = 0; i < COUNT(archs); i++)
        if (yyjson_equals_str(name, archs[i][0])) s->arch = archs[i][1];
    if (!s->arch) fail_msg("%s: an architecture that has no GGUF name here", folder);
    s->paired = !strcmp(s->arch, "llama");
}

static const char *key(const source *s, const char *name) {
    static char out[96];
    snprintf(out, sizeof out, "%s.%s", s->arch, name);
    return out;
}

static void add_factors(gguf_maker *m, const source *s, const char *list, const char *tensor) {
    float x[256];
    size_t i, n;
    yyjson_val *v;
    yyjson_arr_foreach(yyjson_obj_get(s->rope, list), i, n, v) x[i] = (float)yyjson_get_num(v);
    gguf_tensor(m, tensor, 0, 0, n, x, n * sizeof *x);
}

// Llama 3's divisors of the frequencies, as a converter computes them.
static void add_llama3_factors(gguf_maker *m, const source *s, double head_dim) {
    double low = get(s->rope, "low_freq_factor", 1), high = get(s->rope, "high_freq_factor", 4),
           factor = get(s->rope, "factor", 8), original = get(s->rope, "original_max_position_embeddings", 8192);
    float x[256];
    size_t n = (size_t)head_dim / 2;
    for (size_t i = 0; i < n; i++) {
        double wave = 2 * acos(-1) * pow(rope_get(s, "rope_theta", 10000), 2 * (double)i / head_dim);
        double smooth = (original / wave - low) / (high - low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        x[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
    gguf_tensor(m, "rope_freqs.weight", 0, 0, n, x, n * sizeof *x);
}

static void add_rope(gguf_maker *m, const source *s, double head_dim) {
    double original = rope_get(s, "original_max_position_embeddings", 0), factor = get(s->rope, "factor", 0);
    gguf_f32(m, key(s, "rope.freq_base"), (float)rope_get(s, "rope_theta", 10000));
    gguf_u32(m, key(s, "rope.dimension_count"), (uint32_t)(head_dim * rope_get(s, "partial_rotary_factor", 1)));
    if (!strcmp(s->rope_type, "linear") || !strcmp(s->rope_type, "yarn")) {
        gguf_string(m, key(s, "rope.scaling.type"), s->rope_type);
        gguf_f32(m, key(s, "rope.scaling.factor"), (float)factor);
    }
    if (original) gguf_u32(m, key(s, "rope.scaling.original_context_length"), (uint32_t)original);
    if (!strcmp(s->rope_type, "llama3")) add_llama3_factors(m, s, head_dim);
    if (strcmp(s->rope_type, "longrope")) return;
    double longer = get(s->root, "max_position_embeddings", 0) / original;
    gguf_f32(m, key(s, "rope.scaling.attn_factor"), (float)sqrt(1 + log(longer) / log(original)));
    add_factors(m, s, "long_factor", "rope_factors_long.weight");
    add_factors(m, s, "short_factor", "rope_factors_short.weight");
}

static void write_gguf(const source *s, const char *dir) {
    static const char *const keys[][2] = {{"hidden_size", "embedding_length"},
                                          {"intermediate_size", "feed_forward_length"},
                                          {"num_hidden_layers", "block_count"},
                                          {"num_attention_heads", "attention.head_count"},
                                          {"num_key_value_heads", "attention.head_count_kv"},
                                          {"max_position_embeddings", "context_length"}};
    gguf_maker m = gguf_new();
    gguf_string(&m, "general.architecture", s->arch);
    for (size_t i = 0; i < COUNT(keys); i++) gguf_u32(&m, key(s, keys[i][1]), (uint32_t)get(s->root, keys[i][0], 0));
    gguf_f32(&m, key(s, "attention.layer_norm_rms_epsilon"), (float)get(s->root, "rms_norm_eps", 0));
    double heads = get(s->root, "num_attention_heads", 1),
           head_dim = get(s->root, "head_dim", get(s->root, "hidden_size", 0) / heads);
    gguf_u32(&m, key(s, "attention.key_length"), (uint32_t)head_dim);
    // Converters say nothing of Qwen's windows, which only some layers have.
    if (s->arch[0] != 'q')
        gguf_u32(&m, key(s, "attention.sliding_window"), (uint32_t)get(s->root, "sliding_window", 0));
    add_rope(&m, s, head_dim);
    for (size_t i = 0; i < s->w.n; i++) {
        const upg_tensor *t = &s->w.tensors[i];
        char name[96];
        gguf_name(t->name, name);
        float *x = floats_of(t);
        if (s->paired && strstr(t->name, "q_proj")) pair_rows(x, t, (int)heads);
        if (s->paired && strstr(t->name, "k_proj")) pair_rows(x, t, (int)get(s->root, "num_key_value_heads", 1));
        gguf_tensor(&m, name, 0, t->rows > 1 ? (uint64_t)t->rows : 0, (uint64_t)t->cols, x,
                    (size_t)(t->rows * t->cols) * sizeof *x);
        free(x);
    }
    gguf_write(&m, dir, "m.gguf");
}

// Positions before any window of some layers only makes a difference.
static int positions(const source *s) {
    bool some = yyjson_is_true(yyjson_obj_get(s->root, "use_sliding_window"));
    return some ? (int)get(s->root, "sliding_window", 1) : N_IDS;
}

static void compare(const char *folder, const char *dir) {
    char path[256];
    source s;
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++) ids[i] = (7 * i * i + 31 * i + 3) % VOCAB;
    open_source(&s, folder);
    write_gguf(&s, dir);
    int n = positions(&s);
    // The file has floats of what config.json and llama3's formula have in doubles. An angle of at most 96 is off by
    // 96 * 2^-24 or 6e-6; two layers and the head make that at most twenty times as much of a logit.
    bool rounded = !strcmp(s.rope_type, "longrope") || !strcmp(s.rope_type, "llama3");
    upg_model *a = open_model(folder), *b = open_model(path_in(path, dir, "m.gguf"));
    float *want = logits_of(a, ids, n), *got = logits_of(b, ids, n);
    for (int i = 0; i < n; i++)
        for (int k = 0; rounded && k < VOCAB; k++) {
            float *w = &want[i * VOCAB + k], *g = &got[i * VOCAB + k];
            if (fabsf(*w - *g) <= 20 * 6e-6f) *g = *w;
        }
    for (int i = 0; i < n; i++) assert_same_logits(got + i * VOCAB, want + i * VOCAB, VOCAB, folder, i);
    free(want);
    free(got);
    upg_model_free(a);
    upg_model_free(b);
    yyjson_doc_free(s.doc);
    upg_weights_close(&s.w);
}

static void every_architecture_is_the_same_model_in_gguf(void **state) {
    (void)state;
    DIR *d = opendir(FOLDERS);
    if (!d) {
        print_message(FOLDERS " is not there\n");
        skip();
    }
    char dir[64], folder[512];
    int n = 0;
    temporary_folder(dir);
    for (struct dirent *entry; (entry = readdir(d)); n++) {
        if (entry->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, FOLDERS "/%s", entry->d_name);
        compare(folder, dir);
    }
    closedir(d);
    remove_folder(dir);
    assert_true(n > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_is_the_same_model_in_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
