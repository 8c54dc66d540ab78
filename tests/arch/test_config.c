// config.json and generation_config.json: what models say is understood, what is not understood is refused by key, and
// what was read survives being written.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include "arch/arch.h"
#include "config_equal.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

typedef struct entry {
    const char *key, *value; // value: JSON text, or NULL to leave the key out
} entry;

static const entry phi3[] = {
    {"architectures", "[\"Phi3ForCausalLM\"]"},
    {"vocab_size", "200064"},
    {"hidden_size", "3072"},
    {"intermediate_size", "8192"},
    {"num_hidden_layers", "32"},
    {"num_attention_heads", "24"},
    {"num_key_value_heads", "8"},
    {"max_position_embeddings", "131072"},
    {"partial_rotary_factor", "0.75"},
    {"sliding_window", "262144"},
    {"rms_norm_eps", "1e-05"},
    {"rope_theta", "10000.0"},
    {"rope_scaling", "null"},
    {"bos_token_id", "199999"},
    {"eos_token_id", "199999"},
    {"hidden_act", "\"silu\""},
    {"attention_bias", "false"},
    {"tie_word_embeddings", "true"},
    {"torch_dtype", "\"bfloat16\""},
};

#define LLAMA3_ROPE                                                                                                    \
    "{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,"     \
    "\"rope_type\":\"llama3\"}"

static const entry llama[] = {
    {"architectures", "[\"LlamaForCausalLM\"]"},
    {"vocab_size", "128256"},
    {"hidden_size", "2048"},
    {"intermediate_size", "8192"},
    {"num_hidden_layers", "16"},
    {"num_attention_heads", "32"},
    {"num_key_value_heads", "8"},
    {"head_dim", "64"},
    {"max_position_embeddings", "131072"},
    {"rms_norm_eps", "1e-06"},
    {"rope_theta", "500000.0"},
    {"rope_scaling", LLAMA3_ROPE},
    {"bos_token_id", "128000"},
    {"eos_token_id", "[128001,128008,128009]"},
    {"hidden_act", "\"silu\""},
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
    {"tie_word_embeddings", "true"},
};

static void add_entry(upg_buf *b, const entry *x) {
    if (x->value) upg_buf_fmt(b, "%c\"%s\":%s", b->size ? ',' : '{', x->key, x->value);
}

// The JSON of base with other values for some keys, or further keys. The caller frees it.
static upg_buf json(const entry *base, size_t n_base, const entry *change, size_t n_change) {
    upg_buf b = {0};
    for (size_t i = 0; i < n_base; i++) {
        bool changed = false;
        for (size_t k = 0; k < n_change; k++) changed = changed || !strcmp(change[k].key, base[i].key);
        if (!changed) add_entry(&b, &base[i]);
    }
    for (size_t k = 0; k < n_change; k++) add_entry(&b, &change[k]);
    upg_buf_str(&b, "}");
    assert_false(b.failed);
    return b;
}

static int parse_changed(upg_config *c, const entry *base, size_t n_base, const entry *change, size_t n_change,
                         const char *generation, upg_error *e) {
    upg_buf b = json(base, n_base, change, n_change);
    *e = (upg_error){{0}};
    int rc = upg_config_parse(c, b.data, generation, e);
    upg_buf_free(&b);
    return rc;
}

#define CHANGES(...) (const entry[]){__VA_ARGS__}, COUNT(((const entry[]){__VA_ARGS__}))
#define PARSE(c, base, generation, ...)                                                                                \
    do {                                                                                                               \
        upg_error e_;                                                                                                  \
        if (parse_changed(c, base, COUNT(base), CHANGES(__VA_ARGS__), generation, &e_)) fail_msg("%s", e_.message);    \
    } while (0)
#define SAME                                                                                                           \
    { "model_type", "\"any\"" }

// Property: the text that upg_config_write makes is one line that says the same, and says it the same way again.
static void check_round_trip(const upg_config *c) {
    upg_error e = {{0}};
    upg_buf text = {0}, again = {0};
    upg_config d;
    assert_int_equal(upg_config_write(c, &text, &e), 0);
    assert_null(memchr(text.data, '\n', text.size));
    if (upg_config_parse(&d, text.data, NULL, &e)) fail_msg("%s: %s", text.data, e.message);
    if (!config_equal(c, &d)) fail_msg("not what was written: %s", text.data);
    assert_int_equal(upg_config_write(&d, &again, &e), 0);
    assert_int_equal(text.size, again.size);
    assert_memory_equal(text.data, again.data, text.size);
    upg_buf_free(&text);
    upg_buf_free(&again);
}

// ---- What models say ----

static void phi3_is_understood(void **state) {
    (void)state;
    upg_config c;
    PARSE(&c, phi3, NULL, SAME);
    const upg_config expected = {.arch = upg_arch_find("Phi3ForCausalLM"),
                                 .vocab_size = 200064,
                                 .hidden_size = 3072,
                                 .ffn_size = 8192,
                                 .n_layers = 32,
                                 .n_heads = 24,
                                 .n_kv_heads = 8,
                                 .head_dim = 128,
                                 .rotary_dim = 96,
                                 .max_positions = 131072,
                                 .tied = true,
                                 .rms_eps = 1e-5f,
                                 .rope_theta = 10000,
                                 .bos = 199999,
                                 .eos = {199999},
                                 .n_eos = 1};
    assert_true(config_equal(&c, &expected));
    assert_true(upg_config_is_eos(&c, 199999));
    assert_false(upg_config_is_eos(&c, 0));
    check_round_trip(&c);
}

static void llama3_is_understood(void **state) {
    (void)state;
    upg_config c;
    PARSE(&c, llama, NULL, SAME);
    const upg_config expected = {.arch = upg_arch_find("LlamaForCausalLM"),
                                 .vocab_size = 128256,
                                 .hidden_size = 2048,
                                 .ffn_size = 8192,
                                 .n_layers = 16,
                                 .n_heads = 32,
                                 .n_kv_heads = 8,
                                 .head_dim = 64,
                                 .rotary_dim = 64,
                                 .max_positions = 131072,
                                 .tied = true,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 500000,
                                 .rope_scaling = UPG_ROPE_LLAMA3,
                                 .rope_factor = 32,
                                 .rope_low = 1,
                                 .rope_high = 4,
                                 .rope_original = 8192,
                                 .bos = 128000,
                                 .eos = {128001, 128008, 128009},
                                 .n_eos = 3};
    assert_true(config_equal(&c, &expected));
    check_round_trip(&c);
}

static void absent_keys_have_their_defaults(void **state) {
    (void)state;
    upg_config c;
    PARSE(&c, llama, NULL, {"num_key_value_heads", NULL}, {"head_dim", NULL}, {"rope_theta", NULL},
          {"rope_scaling", NULL}, {"bos_token_id", NULL}, {"eos_token_id", NULL}, {"hidden_act", NULL},
          {"attention_bias", NULL}, {"mlp_bias", NULL}, {"tie_word_embeddings", NULL});
    assert_int_equal(c.n_kv_heads, 32);
    assert_int_equal(c.head_dim, 2048 / 32);
    assert_int_equal(c.rotary_dim, 64);
    assert_true(c.rope_theta == 10000);
    assert_int_equal(c.rope_scaling, UPG_ROPE_PLAIN);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
    assert_false(upg_config_is_eos(&c, 0));
    assert_false(c.tied);
    assert_int_equal(c.sliding_window, 0);
    check_round_trip(&c);
    upg_config d;
    PARSE(&d, llama, NULL, {"num_key_value_heads", "null"}, {"head_dim", "null"}, {"rope_theta", "null"},
          {"rope_scaling", "null"}, {"bos_token_id", "null"}, {"eos_token_id", "null"}, {"hidden_act", "null"},
          {"attention_bias", "null"}, {"mlp_bias", "null"}, {"tie_word_embeddings", "null"}, {"sliding_window", "null"},
          {"partial_rotary_factor", "null"}, {"quantization_config", "null"});
    assert_true(config_equal(&c, &d));
}

static void rope_scaling_types_are_understood(void **state) {
    (void)state;
    upg_config c, plain;
    PARSE(&c, llama, NULL, {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}"});
    assert_int_equal(c.rope_scaling, UPG_ROPE_LINEAR);
    assert_true(c.rope_factor == 2);
    check_round_trip(&c);
    PARSE(&c, llama, NULL, {"rope_scaling", "{\"rope_type\":\"linear\",\"type\":\"other\",\"factor\":1.1}"});
    assert_int_equal(c.rope_scaling, UPG_ROPE_LINEAR);
    check_round_trip(&c);
    PARSE(&c, llama, NULL, {"rope_scaling", "{\"rope_type\":\"default\"}"});
    PARSE(&plain, llama, NULL, {"rope_scaling", "null"});
    assert_true(config_equal(&c, &plain));
    check_round_trip(&c);
}

// Property: where transformers 5 puts what it says about RoPE is as good as where older versions do.
static void both_spellings_of_rope_say_the_same(void **state) {
    (void)state;
    upg_config a, b;
    PARSE(&a, llama, NULL, SAME);
    PARSE(&b, llama, NULL, {"rope_scaling", NULL}, {"rope_theta", NULL},
          {"rope_parameters", "{\"rope_theta\":500000.0,\"factor\":32.0,\"high_freq_factor\":4.0,"
                              "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,"
                              "\"rope_type\":\"llama3\"}"});
    assert_true(config_equal(&a, &b));
    PARSE(&a, phi3, NULL, {"rope_theta", "250000.0"});
    PARSE(&b, phi3, NULL, {"rope_theta", NULL}, {"partial_rotary_factor", NULL}, {"rope_scaling", NULL},
          {"rope_parameters", "{\"partial_rotary_factor\":0.75,\"rope_theta\":250000.0}"});
    assert_true(config_equal(&a, &b));
    // If both are there, rope_scaling is the one that counts.
    PARSE(&a, llama, NULL, {"rope_parameters", "{\"rope_type\":\"linear\",\"factor\":3,\"rope_theta\":7}"});
    PARSE(&b, llama, NULL, SAME);
    assert_true(config_equal(&a, &b));
}

// ---- Longrope ----

// JSON of a longrope scaling of n/2 factors a side, the last ones `last`, and `more`.
static upg_buf longrope(const char *type, int n, const char *last, const char *more) {
    upg_buf b = {0};
    upg_buf_fmt(&b, "{\"%s\":\"%s\"%s", strcmp(type, "su") ? "rope_type" : "type", type, more);
    for (int side = 0; side < 2; side++) {
        upg_buf_fmt(&b, ",\"%s_factor\":[", side ? "long" : "short");
        for (int i = 0; i < n / 2; i++)
            upg_buf_fmt(&b, "%s%s", i ? "," : "", i + 1 < n / 2 ? side ? "2.345678901234567" : "1" : last);
        upg_buf_str(&b, "]");
    }
    upg_buf_str(&b, "}");
    assert_false(b.failed);
    return b;
}

static void longrope_is_understood(void **state) {
    (void)state;
    static const struct {
        const char *type, *more, *original; // original: the config's own key
        double attention, expected_original;
    } cases[] = {
        // sqrt(1 + ln 32 / ln 4096) = sqrt(17/12)
        {"longrope", "", "4096", 1.1902380714238083, 4096},
        {"su", "", "4096", 1.1902380714238083, 4096},
        {"longrope", ",\"original_max_position_embeddings\":4096", NULL, 1.1902380714238083, 4096},
        {"longrope", ",\"original_max_position_embeddings\":8192", "4096", 1.1902380714238083, 4096},
        {"longrope", ",\"factor\":16,\"attention_factor\":null", "4096", 1.1547005383792515, 4096},
        {"longrope", ",\"factor\":1", "4096", 1, 4096},
        {"longrope", "", "262144", 1, 262144},
        {"longrope", ",\"attention_factor\":0.87654321987654321", "4096", 0.87654321987654321, 4096},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_buf b = longrope(cases[i].type, 96, "1e3", cases[i].more);
        upg_config c;
        PARSE(&c, phi3, NULL, {"rope_scaling", b.data}, {"original_max_position_embeddings", cases[i].original});
        assert_int_equal(c.rope_scaling, UPG_ROPE_LONGROPE);
        assert_true(c.rope_original == cases[i].expected_original);
        assert_true(c.rope_short[0] == 1 && c.rope_short[47] == 1e3 && c.rope_long[46] == 2.345678901234567);
        double off = c.rope_attention - cases[i].attention;
        if (!(off < 1e-15 && off > -1e-15)) fail_msg("case %zu: %.17g", i, c.rope_attention);
        check_round_trip(&c);
        upg_buf_free(&b);
    }
}

// Yarn is read as longrope of one set of factors: 1 for the fastest pair, the factor for the slowest.
static void yarn_is_longrope(void **state) {
    (void)state;
    upg_config c;
    PARSE(&c, llama, NULL, {"rope_theta", "1e6"},
          {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32768}"});
    assert_int_equal(c.rope_scaling, UPG_ROPE_LONGROPE);
    assert_true(c.rope_short[0] == 1 && c.rope_short[31] == 4);
    for (int j = 0; j < 32; j++) assert_true(c.rope_short[j] == c.rope_long[j]);
    for (int j = 1; j < 32; j++) assert_true(c.rope_short[j] >= c.rope_short[j - 1]);
    double off = c.rope_attention - 1.1386294361119891; // 0.1 ln 4 + 1
    assert_true(off < 1e-15 && off > -1e-15);
    check_round_trip(&c);
}

// ---- Windows ----

static void windows_of_layers_are_understood(void **state) {
    (void)state;
    static const char *const sixteen =
        "[\"full_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
        "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
        "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
        "\"full_attention\"]";
    static const struct {
        const char *arch, *window, *use, *first, *types;
        int expected_window, expected_layers; // how many layers have it
    } cases[] = {{"Llama", NULL, NULL, NULL, NULL, 0, 0},
                 {"Llama", "4096", NULL, NULL, NULL, 4096, 16},
                 {"Llama", "4096", NULL, NULL, sixteen, 4096, 1},
                 {"Mistral", NULL, NULL, NULL, NULL, 4096, 16},
                 {"Mistral", "null", NULL, NULL, NULL, 0, 0},
                 {"Mistral", "131072", NULL, NULL, NULL, 0, 0},
                 {"Mistral", "100", NULL, NULL, NULL, 100, 16},
                 {"Qwen2", "4096", NULL, NULL, NULL, 0, 0},
                 {"Qwen2", "4096", "false", "0", NULL, 0, 0},
                 {"Qwen2", "4096", "true", NULL, NULL, 0, 0}, // from layer 28 on, of 16
                 {"Qwen2", "4096", "true", "16", NULL, 0, 0},
                 {"Qwen2", "4096", "true", "5", NULL, 4096, 11},
                 {"Qwen2", NULL, "true", "0", NULL, 4096, 16},
                 {"Qwen3", "7", "true", "0", sixteen, 7, 1},
                 {"Qwen3", "null", "true", "0", NULL, 0, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char arch[64];
        snprintf(arch, sizeof arch, "[\"%sForCausalLM\"]", cases[i].arch);
        upg_config c;
        PARSE(&c, llama, NULL, {"architectures", arch}, {"sliding_window", cases[i].window},
              {"use_sliding_window", cases[i].use}, {"max_window_layers", cases[i].first},
              {"layer_types", cases[i].types});
        int layers = 0;
        for (int k = 0; k < c.n_layers; k++) layers += c.sliding_window && !c.full_attention[k];
        if (c.sliding_window != cases[i].expected_window || layers != cases[i].expected_layers)
            fail_msg("case %zu: a window of %d in %d layers", i, c.sliding_window, layers);
        check_round_trip(&c);
    }
}

static void a_window_counts_only_if_a_position_can_exceed_it(void **state) {
    (void)state;
    static const struct {
        const char *window, *positions;
        int expected;
    } cases[] = {{"2047", "4096", 2047},  {"1", "4096", 1},          {"4095", "4096", 4095}, {"4096", "4096", 0},
                 {"262144", "131072", 0}, {"2147483647", "4096", 0}, {"null", "4096", 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_config c;
        PARSE(&c, phi3, NULL, {"sliding_window", cases[i].window}, {"max_position_embeddings", cases[i].positions});
        assert_int_equal(c.sliding_window, cases[i].expected);
        check_round_trip(&c);
    }
}

// ---- Tokens that end a text ----

static void assert_eos(const upg_config *c, const int *expected, int n) {
    assert_int_equal(c->n_eos, n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(c->eos[i], expected[i]);
        assert_true(upg_config_is_eos(c, expected[i]));
    }
    assert_false(upg_config_is_eos(c, -1));
    check_round_trip(c);
}

static void generation_config_decides_what_ends_a_text(void **state) {
    (void)state;
    upg_config c;
    PARSE(&c, llama, "{\"eos_token_id\":[5,7],\"bos_token_id\":3}", SAME);
    assert_eos(&c, (int[]){5, 7}, 2);
    assert_int_equal(c.bos, 128000);
    PARSE(&c, llama, "{\"eos_token_id\":9}", SAME);
    assert_eos(&c, (int[]){9}, 1);
    PARSE(&c, llama, "{\"eos_token_id\":9}", {"eos_token_id", NULL});
    assert_eos(&c, (int[]){9}, 1);
    PARSE(&c, llama, "{\"temperature\":0.6}", SAME);
    assert_eos(&c, (int[]){128001, 128008, 128009}, 3);
    PARSE(&c, llama, "{\"eos_token_id\":null}", SAME);
    assert_eos(&c, (int[]){128001, 128008, 128009}, 3);
    PARSE(&c, llama, NULL, {"eos_token_id", "[]"});
    assert_eos(&c, NULL, 0);
    PARSE(&c, llama, NULL, {"eos_token_id", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,128255]"});
    assert_eos(&c, (int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 128255}, 16);
}

static void a_bad_generation_config_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *reason;
    } cases[] = {
        {"", "generation_config.json"},
        {"[]", "generation_config.json"},
        {"{\"eos_token_id\":1", "generation_config.json"},
        {"{\"eos_token_id\":1,\"eos_token_id\":2}", "eos_token_id"},
        {"{\"eos_token_id\":128256}", "eos_token_id"},
        {"{\"eos_token_id\":[1,-1]}", "eos_token_id"},
        {"{\"eos_token_id\":\"</s>\"}", "eos_token_id"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_config c;
        upg_error e;
        assert_int_equal(parse_changed(&c, llama, COUNT(llama), CHANGES(SAME), cases[i].text, &e), -1);
        if (!strstr(e.message, cases[i].reason)) fail_msg("%s: %s", cases[i].text, e.message);
    }
}

// ---- Round trips over whole ranges ----

// Property: every even rotary width of every head width survives, though only their ratio is written.
static void every_rotary_width_survives(void **state) {
    (void)state;
    for (int head = 2; head <= UPG_MAX_HEAD_DIM; head++)
        for (int rotary = 2; rotary <= head; rotary += 2) {
            char head_text[16], factor[32];
            snprintf(head_text, sizeof head_text, "%d", head);
            snprintf(factor, sizeof factor, "%.17g", rotary == head ? 1 : (rotary + 0.25) / head);
            upg_config c;
            PARSE(&c, phi3, NULL, {"head_dim", head_text}, {"partial_rotary_factor", factor});
            assert_int_equal(c.rotary_dim, rotary);
            check_round_trip(&c);
        }
}

static void rotary_factors_of_models_are_understood(void **state) {
    (void)state;
    static const struct {
        const char *head, *factor;
        int expected;
    } cases[] = {{"96", "1.0", 96},  {"96", "0.75", 72}, {"96", "0.4", 38},  {"128", "1", 128}, {"128", "0.75", 96},
                 {"128", "0.5", 64}, {"80", "0.4", 32},  {"64", "0.25", 16}, {"256", "0.01", 2}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_config c;
        PARSE(&c, phi3, NULL, {"head_dim", cases[i].head}, {"partial_rotary_factor", cases[i].factor});
        assert_int_equal(c.rotary_dim, cases[i].expected);
        check_round_trip(&c);
    }
}

static void extreme_values_survive(void **state) {
    (void)state;
    static const entry cases[] = {
        {"rms_norm_eps", "1e-12"},   {"rms_norm_eps", "1"},         {"rms_norm_eps", "1.0000001e-06"},
        {"rope_theta", "1"},         {"rope_theta", "1e12"},        {"rope_theta", "123456.78901234567"},
        {"vocab_size", "16777216"},  {"hidden_size", "131072"},     {"intermediate_size", "131072"},
        {"intermediate_size", "1"},  {"num_hidden_layers", "1024"}, {"max_position_embeddings", "16777216"},
        {"head_dim", "256"},         {"bos_token_id", "-1"},        {"bos_token_id", "128255"},
        {"num_attention_heads", "8"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_config c;
        PARSE(&c, llama, NULL, cases[i]);
        check_round_trip(&c);
    }
}

// ---- Refusals ----

static void assert_refused(const entry *base, size_t n_base, const entry *change, const char *reason) {
    upg_config c;
    upg_error e;
    if (!parse_changed(&c, base, n_base, change, 1, NULL, &e))
        fail_msg("%s: %s is accepted", change->key, change->value ? change->value : "(absent)");
    if (!strstr(e.message, reason)) fail_msg("%s does not name '%s' for %s", e.message, reason, change->value);
}

static void wrong_types_and_missing_keys_are_refused_by_name(void **state) {
    (void)state;
    static const char *const required[] = {
        "architectures",     "vocab_size",          "hidden_size",  "intermediate_size",
        "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "max_position_embeddings"};
    static const char *const optional[] = {
        "num_key_value_heads", "head_dim",     "sliding_window",     "partial_rotary_factor", "rope_theta",
        "bos_token_id",        "eos_token_id", "rope_scaling",       "tie_word_embeddings",   "hidden_act",
        "attention_bias",      "mlp_bias",     "quantization_config"};
    static const char *const wrong[] = {"\"12\"", "{}", "[[1]]", "[true]", "18446744073709551615", "-1e300", "-7"};
    for (size_t i = 0; i < COUNT(required); i++) {
        assert_refused(llama, COUNT(llama), &(entry){required[i], NULL}, required[i]);
        assert_refused(llama, COUNT(llama), &(entry){required[i], "null"}, required[i]);
        assert_refused(llama, COUNT(llama), &(entry){required[i], "true"}, required[i]);
        for (size_t k = 0; k < COUNT(wrong); k++)
            assert_refused(llama, COUNT(llama), &(entry){required[i], wrong[k]}, required[i]);
    }
    for (size_t i = 0; i < COUNT(optional); i++)
        for (size_t k = 0; k < COUNT(wrong); k++)
            assert_refused(llama, COUNT(llama), &(entry){optional[i], wrong[k]}, optional[i]);
}

static void values_out_of_range_are_refused_by_name(void **state) {
    (void)state;
    static const entry cases[] = {
        {"vocab_size", "0"},
        {"vocab_size", "16777217"},
        {"vocab_size", "4294967296"},
        {"vocab_size", "512.0"},
        {"hidden_size", "0"},
        {"hidden_size", "131073"},
        {"intermediate_size", "0"},
        {"intermediate_size", "131073"},
        {"num_hidden_layers", "0"},
        {"num_hidden_layers", "1025"},
        {"num_attention_heads", "0"},
        {"num_attention_heads", "4097"},
        {"num_attention_heads", "12"}, // no multiple of 8
        {"num_key_value_heads", "0"},
        {"num_key_value_heads", "5"},
        {"num_key_value_heads", "64"}, // more than heads
        {"head_dim", "0"},
        {"head_dim", "1"},
        {"head_dim", "63"}, // all of it rotated, and odd
        {"head_dim", "257"},
        {"partial_rotary_factor", "0"},
        {"partial_rotary_factor", "1.01"},
        {"partial_rotary_factor", "0.02"}, // 1.28 of 64
        {"partial_rotary_factor", "0.3"},  // 19.2 of 64
        {"max_position_embeddings", "0"},
        {"max_position_embeddings", "16777217"},
        {"sliding_window", "0"},
        {"sliding_window", "2147483648"},
        {"rms_norm_eps", "0"},
        {"rms_norm_eps", "9e-13"},
        {"rms_norm_eps", "1.5"},
        {"rope_theta", "0.5"},
        {"rope_theta", "1e13"},
        {"bos_token_id", "-2"},
        {"bos_token_id", "128256"},
        {"eos_token_id", "128256"},
        {"eos_token_id", "1.5"},
        {"eos_token_id", "[1,2,128256]"},
        {"eos_token_id", "[1,null]"},
        {"eos_token_id", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) assert_refused(llama, COUNT(llama), &cases[i], cases[i].key);
    // What follows from several keys.
    upg_config c;
    upg_error e;
    assert_int_equal(
        parse_changed(&c, llama, COUNT(llama), CHANGES({"num_attention_heads", "4096"}, {"head_dim", "256"}), NULL, &e),
        -1);
    assert_non_null(strstr(e.message, "num_attention_heads 4096 of head_dim 256"));
    assert_int_equal(
        parse_changed(&c, llama, COUNT(llama), CHANGES({"head_dim", NULL}, {"hidden_size", "8224"}), NULL, &e), -1);
    assert_non_null(strstr(e.message, "head_dim is 257"));
}

static void what_is_not_implemented_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        entry change;
        const char *reason;
    } cases[] = {
        {{"architectures", "[\"MambaForCausalLM\"]"}, "architecture MambaForCausalLM"},
        {{"architectures", "[]"}, "architectures"},
        {{"architectures", "[\"LlamaForCausalLM\",\"Phi3ForCausalLM\"]"}, "architectures"},
        {{"architectures", "\"LlamaForCausalLM\""}, "architectures"},
        {{"architectures", "[\"LlamaForCausalLM\\u0000\"]"}, "architectures"},
        {{"hidden_act", "\"gelu\""}, "hidden_act"},
        {{"hidden_act", "false"}, "hidden_act"},
        {{"attention_bias", "\"silu\""}, "attention_bias"},
        {{"layer_types", "[\"full_attention\"]"}, "layer_types"},
        {{"layer_types", "\"full_attention\""}, "layer_types"},
        {{"quantization_config", "{\"bits\":4}"}, "quantization_config"},
        {{"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4}"}, "original_max_position_embeddings"},
        {{"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"mscale\":1}"},
         "mscale"},
        {{"rope_scaling",
          "{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"short_factor\":[]}"},
         "short_factor"},
        {{"rope_scaling", "{\"rope_type\":\"dynamic\",\"factor\":4}"}, "rope_scaling type dynamic"},
        {{"rope_scaling", "{\"type\":\"longrope\"}"}, "original_max_position_embeddings"},
        {{"rope_parameters", "[]"}, "rope_parameters"},
        {{"rope_parameters", "{\"full_attention\":{\"rope_type\":\"default\"}}"}, "rope_parameters"},
        {{"rope_scaling", "{\"factor\":4}"}, "rope_type"},
        {{"rope_scaling", "{\"rope_type\":3}"}, "rope_type"},
        {{"rope_scaling", "\"linear\""}, "rope_scaling"},
        {{"rope_scaling", "{\"type\":\"linear\"}"}, "factor is missing"},
        {{"rope_scaling", "{\"type\":\"linear\",\"factor\":0.5}"}, "factor is 0.5"},
        {{"rope_scaling", "{\"type\":\"linear\",\"factor\":\"8\"}"}, "factor is not a number"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) assert_refused(llama, COUNT(llama), &cases[i].change, cases[i].reason);
}

static void llama3_scaling_needs_all_its_keys(void **state) {
    (void)state;
    static const entry scaling[] = {{"rope_type", "\"llama3\""},
                                    {"factor", "32"},
                                    {"low_freq_factor", "1"},
                                    {"high_freq_factor", "4"},
                                    {"original_max_position_embeddings", "8192"}};
    static const char *const wrong[] = {NULL, "null", "\"8\"", "0", "-1", "1e9", "[]"};
    for (size_t i = 1; i < COUNT(scaling); i++)
        for (size_t k = 0; k < COUNT(wrong); k++) {
            upg_buf b = json(scaling, COUNT(scaling), &(entry){scaling[i].key, wrong[k]}, 1);
            assert_refused(llama, COUNT(llama), &(entry){"rope_scaling", b.data}, scaling[i].key);
            upg_buf_free(&b);
        }
    for (int equal = 0; equal < 2; equal++) {
        upg_buf b = json(scaling, COUNT(scaling), CHANGES({"high_freq_factor", equal ? "1" : "0.5"}));
        assert_refused(llama, COUNT(llama), &(entry){"rope_scaling", b.data}, "high_freq_factor must exceed");
        upg_buf_free(&b);
    }
}

static void longrope_needs_sound_factors(void **state) {
    (void)state;
    static const struct {
        int n;
        const char *last, *more, *reason;
    } cases[] = {
        {94, "1", "", "short_factor"},
        {98, "1", "", "short_factor"},
        {96, "0", "", "short_factor"},
        {96, "-1", "", "short_factor"},
        {96, "null", "", "short_factor"},
        {96, "1e10", "", "short_factor"},
        {96, "0.0078", "", "131072 positions"}, // an angle could be 2^24
        {96, "1", ",\"original_max_position_embeddings\":1", "original_max_position_embeddings"},
        {96, "1", ",\"original_max_position_embeddings\":64,\"attention_factor\":0", "attention_factor"},
        {96, "1", ",\"original_max_position_embeddings\":64,\"attention_factor\":\"1\"", "attention_factor"},
        {96, "1", ",\"original_max_position_embeddings\":64,\"factor\":1e9", "factor"},
        {96, "1", ",\"original_max_position_embeddings\":64,\"long_mscale\":1.1", "long_mscale"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *more = *cases[i].more ? cases[i].more : ",\"original_max_position_embeddings\":4096";
        upg_buf b = longrope("longrope", cases[i].n, cases[i].last, more);
        assert_refused(phi3, COUNT(phi3), &(entry){"rope_scaling", b.data}, cases[i].reason);
        upg_buf_free(&b);
    }
}

static void biases_are_for_those_that_have_them(void **state) {
    (void)state;
    static const struct {
        const char *arch;
        bool attention, mlp;
    } cases[] = {{"Llama", true, true},
                 {"Mistral", false, false},
                 {"Phi3", false, false},
                 {"Qwen2", false, false},
                 {"Qwen3", true, false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char arch[64];
        snprintf(arch, sizeof arch, "[\"%sForCausalLM\"]", cases[i].arch);
        for (int mlp = 0; mlp < 2; mlp++) {
            upg_config c;
            upg_error e;
            const char *key = mlp ? "mlp_bias" : "attention_bias";
            int rc = parse_changed(&c, llama, COUNT(llama), CHANGES({"architectures", arch}, {key, "true"}), NULL, &e);
            assert_int_equal(rc, (mlp ? cases[i].mlp : cases[i].attention) ? 0 : -1);
            if (rc) {
                assert_non_null(strstr(e.message, key));
                continue;
            }
            assert_true(mlp ? c.mlp_bias : c.attention_bias);
            check_round_trip(&c);
        }
    }
}

static void unsound_json_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"", "[]", "null", "{", "{}}", "{\"a\":1,}", "{\"a\":NaN}", "{\"a\":1,\"a\":1}"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        upg_config c;
        upg_error e = {{0}};
        assert_int_equal(upg_config_parse(&c, texts[i], NULL, &e), -1);
        if (!strstr(e.message, "config.json")) fail_msg("'%s': %s", texts[i], e.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi3_is_understood),
        cmocka_unit_test(llama3_is_understood),
        cmocka_unit_test(absent_keys_have_their_defaults),
        cmocka_unit_test(rope_scaling_types_are_understood),
        cmocka_unit_test(both_spellings_of_rope_say_the_same),
        cmocka_unit_test(longrope_is_understood),
        cmocka_unit_test(yarn_is_longrope),
        cmocka_unit_test(windows_of_layers_are_understood),
        cmocka_unit_test(a_window_counts_only_if_a_position_can_exceed_it),
        cmocka_unit_test(generation_config_decides_what_ends_a_text),
        cmocka_unit_test(a_bad_generation_config_is_refused),
        cmocka_unit_test(every_rotary_width_survives),
        cmocka_unit_test(rotary_factors_of_models_are_understood),
        cmocka_unit_test(extreme_values_survive),
        cmocka_unit_test(wrong_types_and_missing_keys_are_refused_by_name),
        cmocka_unit_test(values_out_of_range_are_refused_by_name),
        cmocka_unit_test(what_is_not_implemented_is_refused_by_name),
        cmocka_unit_test(llama3_scaling_needs_all_its_keys),
        cmocka_unit_test(longrope_needs_sound_factors),
        cmocka_unit_test(biases_are_for_those_that_have_them),
        cmocka_unit_test(unsound_json_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
