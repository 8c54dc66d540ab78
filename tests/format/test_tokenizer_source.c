// The files a tokenizer is made from where there is no tokenizer.json, and GGUF's metadata: each becomes the tokenizer
// it means, without weights, or is refused by name.
#include "format_helpers.h"
#include "engine/model.h"

static upg_tokenizer *open_at(const char *path, upg_error *e) {
    upg_weights w;
    upg_tokenizer *t = NULL;
    *e = (upg_error){""};
    if (upg_weights_open_tokenizer(&w, path, e)) return NULL;
    if (!upg_weights_tokenizer(&w, &t, e) && !t) upg_fail(e, "no tokenizer");
    upg_weights_close(&w);
    return t;
}

static void expect_refused(const char *path, const char *reason) {
    upg_error e;
    upg_tokenizer *t = open_at(path, &e);
    if (t) fail_msg("accepted, expected: %s", reason);
    assert_message(e, reason);
}

static void expect_ids(const char *path, const char *text, bool special, const int32_t *expected, size_t n) {
    upg_error e;
    upg_ids ids = {0};
    upg_tokenizer *t = open_at(path, &e);
    if (!t || upg_tokenizer_encode(t, text, strlen(text), special, &ids, &e)) fail_msg("%s", e.message);
    assert_int_equal(ids.size, n);
    assert_memory_equal(ids.data, expected, n * sizeof *expected);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, COUNT(((const int32_t[]){__VA_ARGS__}))

// --- Folders ---

static void a_folder_may_have_a_sentencepiece_model(void **state) {
    (void)state;
    char dir[64], path[256];
    size_t n;
    upg_error e;
    temporary_folder(dir);
    expect_refused(dir, "no tokenizer");
    char *model = upg_read_text("tests/vectors/spm.model", 1 << 20, &n, NULL);
    assert_non_null(model);
    write_file(dir, "tokenizer.model", model, n);
    free(model);
    write_text(dir, "tokenizer_config.json", "{\"add_bos_token\":false}");
    for (int k = 0; k < 2; k++) {
        upg_tokenizer *t = open_at(k ? path_in(path, dir, "tokenizer.model") : dir, &e);
        if (!t) fail_msg("%s", e.message);
        assert_int_equal(upg_tokenizer_size(t), 499);
        assert_int_equal(upg_tokenizer_bos(t), -1); // the configuration beside it counts
        upg_tokenizer_free(t);
    }
    // As part of a model, too.
    write_text(dir, "config.json", "{}");
    write_safetensors(dir, "model.safetensors", "{\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    upg_weights w;
    upg_tokenizer *t = NULL;
    if (upg_weights_open(&w, dir, &e) || upg_weights_tokenizer(&w, &t, &e)) fail_msg("%s", e.message);
    assert_non_null(t);
    upg_tokenizer_free(t);
    upg_weights_close(&w);
    write_text(dir, "tokenizer.json", "{}"); // the first choice
    expect_refused(dir, "no model");
    remove_folder(dir);
}

static void a_folder_may_have_a_rank_file(void **state) {
    (void)state;
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char dir[64], path[256];
    upg_buf b = {0};
    temporary_folder(dir);
    for (unsigned i = 0; i < 256; i++) upg_buf_fmt(&b, "%c%c== %u\n", digits[i >> 2], digits[(i & 3) << 4], i);
    upg_buf_str(&b, "YWI= 256\nYWJj 257\n"); // ab, abc
    write_text(dir, "cl100k_base.tiktoken", b.data);
    write_text(dir, "tokenizer_config.json",
               "{\"eos_token\":\"<e>\",\"added_tokens_decoder\":{\"258\":{\"content\":\"<e>\",\"single_word\":false,"
               "\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":true}}}");
    expect_ids(dir, "abc ab <e> d", true, IDS(257, ' ', 256, 258, 'd'));
    expect_ids(dir, "abc<e>", false, IDS(257, '<', 'e', '>'));
    expect_ids(path_in(path, dir, "cl100k_base.tiktoken"), "ab<e>", true, IDS(256, 258));
    write_text(dir, "o.tiktoken", b.data);
    expect_refused(dir, "two rank files");
    expect_refused(path_in(path, dir, "o.tiktoken"), "the encoding 'o' is not implemented");
    expect_refused(path_in(path, dir, "p.tiktoken"), "no such file");
    upg_buf_free(&b);
    remove_folder(dir);
}

static void a_folder_may_have_a_vocabulary_and_merges(void **state) {
    (void)state;
    char dir[64];
    upg_buf b = {0};
    temporary_folder(dir);
    upg_buf_str(&b, "{");
    for (unsigned k = 0; k < 256; k++) {
        bool printable = (k >= 0x21 && k <= 0x7E) || (k >= 0xA1 && k <= 0xAC) || k >= 0xAE;
        upg_buf_fmt(&b, "\"\\u%04x\":%u,", printable ? k : 256 + (k <= 0x20 ? k : k == 0xAD ? 67 : k - 0x7F + 33), k);
    }
    upg_buf_str(&b, "\"12\":256,\"34\":257,\"1234\":258}");
    write_text(dir, "vocab.json", b.data);
    write_text(dir, "merges.txt", "#version: 0.2\r\n1 2\r\n3 4\n12 34\n");
    expect_refused(dir, "tokenizer_class (none)");
    write_text(dir, "tokenizer_config.json", "{\"tokenizer_class\":\"BertTokenizer\"}");
    expect_refused(dir, "tokenizer_class BertTokenizer");
#define ADDED                                                                                                          \
    ",\"added_tokens_decoder\":{\"259\":{\"content\":\"<e>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false," \
    "\"normalized\":false,\"special\":true}},\"eos_token\":\"<e>\",\"add_eos_token\":true}"
    write_text(dir, "tokenizer_config.json", "{\"tokenizer_class\":\"GPT2Tokenizer\"" ADDED);
    expect_ids(dir, "1234<e>", true, IDS(258, 259));
    write_text(dir, "tokenizer_config.json", "{\"tokenizer_class\":\"Qwen2TokenizerFast\"" ADDED);
    expect_ids(dir, "1234<e>", true, IDS('1', '2', '3', '4', 259)); // each digit alone
    upg_error e;
    upg_tokenizer *t = open_at(dir, &e);
    if (!t) fail_msg("%s", e.message);
    assert_int_equal(upg_tokenizer_role(t, UPG_ROLE_EOS), 259);
    assert_true(upg_tokenizer_adds_eos(t));
    upg_tokenizer_free(t);
    write_text(dir, "merges.txt", "1 2 3\n");
    expect_refused(dir, "is not two tokens");
    write_text(dir, "vocab.json", "{\"a\":");
    expect_refused(dir, "vocab.json");
    upg_buf_free(&b);
    remove_folder(dir);
}

// --- GGUF ---

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STRING = 8, ARRAY = 9 };

static void put32(upg_buf *b, uint32_t v) {
    upg_buf_add(b, (uint8_t[]){(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)}, 4);
}
static void put_string(upg_buf *b, const char *s) {
    put32(b, (uint32_t)strlen(s));
    put32(b, 0);
    upg_buf_str(b, s);
}
static void put_key(upg_buf *b, const char *key, uint32_t type) {
    put_string(b, key);
    put32(b, type);
}
static void put_array(upg_buf *b, const char *key, uint32_t element, uint32_t n) {
    put_key(b, key, ARRAY);
    put32(b, element);
    put32(b, n);
    put32(b, 0);
}

typedef struct vocabulary_file {
    const char *model, *name; // tokenizer.ggml.model, general.name
    const char *const *tokens;
    const float *scores; // or NULL
    const int *types;
    uint32_t n, n_scores;
    int add_bos, add_space, remove_spaces; // -1: not said
    const char *merge;                     // or NULL
} vocabulary_file;

static void put_bool(upg_buf *b, uint32_t *n, const char *key, int on) {
    if (on < 0) return;
    put_key(b, key, BOOL);
    upg_buf_add(b, &(uint8_t){(uint8_t)on}, 1);
    ++*n;
}

static void write_gguf(const char *dir, const vocabulary_file *f) {
    upg_buf b = {0}, head = {0};
    uint32_t n = 6;
    put_key(&b, "general.architecture", STRING), put_string(&b, "llama");
    put_key(&b, "general.name", STRING), put_string(&b, f->name);
    put_key(&b, "tokenizer.ggml.model", STRING), put_string(&b, f->model);
    put_array(&b, "tokenizer.ggml.tokens", STRING, f->n);
    for (uint32_t i = 0; i < f->n; i++) put_string(&b, f->tokens[i]);
    put_array(&b, "tokenizer.ggml.token_type", I32, f->n);
    for (uint32_t i = 0; i < f->n; i++) put32(&b, (uint32_t)f->types[i]);
    put_key(&b, "tokenizer.ggml.eos_token_id", U32), put32(&b, 2);
    if (f->scores) {
        put_array(&b, "tokenizer.ggml.scores", F32, f->n_scores);
        upg_buf_add(&b, f->scores, f->n_scores * sizeof *f->scores);
        n++;
    }
    if (f->merge) {
        put_array(&b, "tokenizer.ggml.merges", STRING, 1);
        put_string(&b, f->merge);
        n++;
    }
    put_bool(&b, &n, "tokenizer.ggml.add_bos_token", f->add_bos);
    put_bool(&b, &n, "tokenizer.ggml.add_space_prefix", f->add_space);
    put_bool(&b, &n, "tokenizer.ggml.remove_extra_whitespaces", f->remove_spaces);
    upg_buf_str(&head, "GGUF");
    put32(&head, 3);
    put32(&head, 0), put32(&head, 0);
    put32(&head, n), put32(&head, 0);
    upg_buf_add(&head, b.data, b.size);
    assert_false(b.failed || head.failed);
    write_file(dir, "vocabulary.gguf", head.data, head.size);
    upg_buf_free(&b);
    upg_buf_free(&head);
}

static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x41>", "\xE2\x96\x81",
                                     "a",     "b",   "ab",   "<|u|>",  "\xE2\x96\x81\xE2\x96\x81"};
static const float scores[] = {0, 0, 0, 0, -3, -3, -3, -1, 0, -2};
static const int types[] = {2, 3, 3, 6, 1, 1, 1, 1, 4, 1};
#define LLAMA                                                                                                          \
    {                                                                                                                  \
        .model = "llama", .name = "x", .tokens = tokens, .scores = scores, .types = types, .n = 10, .n_scores = 10,    \
        .add_bos = -1, .add_space = -1, .remove_spaces = -1                                                            \
    }

static void a_gguf_vocabulary_needs_no_tensors(void **state) {
    (void)state;
    char dir[64], path[256];
    upg_error e;
    upg_weights w;
    temporary_folder(dir);
    path_in(path, dir, "vocabulary.gguf");
    vocabulary_file f = LLAMA;
    write_gguf(dir, &f);
    expect_ids(path, " abA<|u|>\nb", true, IDS(9, 7, 3, 8, 4, 0, 6)); // line ends have no byte token
    expect_ids(path, "<s>a", true, IDS(1, 4, 5));
    upg_tokenizer *t = open_at(path, &e);
    if (!t) fail_msg("%s", e.message);
    assert_int_equal(upg_tokenizer_bos(t), 1); // llama.cpp's default of this model
    assert_int_equal(upg_tokenizer_role(t, UPG_ROLE_EOS), 2);
    upg_tokenizer_free(t);
    assert_int_equal(upg_weights_open(&w, path, &e), -1); // nothing to run
    f.add_bos = 0;
    f.add_space = 0;
    f.name = "A Phi-3 Mini";
    write_gguf(dir, &f);
    expect_ids(path, "ab<|u|>\nb", true, IDS(7, 8, 6));
    t = open_at(path, &e);
    if (!t) fail_msg("%s", e.message);
    assert_int_equal(upg_tokenizer_bos(t), -1);
    upg_tokenizer_free(t);
    remove_folder(dir);
}

static void what_a_gguf_vocabulary_may_not_be(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    path_in(path, dir, "vocabulary.gguf");
    vocabulary_file f = LLAMA;
    f.remove_spaces = 1;
    write_gguf(dir, &f);
    expect_refused(path, "remove_extra_whitespaces");
    f = (vocabulary_file)LLAMA;
    f.scores = NULL;
    write_gguf(dir, &f);
    expect_refused(path, "tokenizer.ggml.scores");
    f = (vocabulary_file)LLAMA;
    f.n_scores = 9;
    write_gguf(dir, &f);
    expect_refused(path, "tokenizer.ggml.scores");
    static const int wrong[] = {2, 3, 3, 6, 1, 1, 1, 77, 4, 1};
    f = (vocabulary_file)LLAMA;
    f.types = wrong;
    write_gguf(dir, &f);
    expect_refused(path, "unknown type");
    f = (vocabulary_file)LLAMA;
    f.model = "t5";
    write_gguf(dir, &f);
    expect_refused(path, "'t5'");
    f.model = "llamb";
    write_gguf(dir, &f);
    expect_refused(path, "'llamb'");
    remove_folder(dir);
}

static void gpt2_of_gguf_has_its_roles(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b", "<e>", "ab"};
    static const int kinds[] = {1, 1, 3, 1};
    char dir[64], path[256];
    upg_error e;
    temporary_folder(dir);
    path_in(path, dir, "vocabulary.gguf");
    vocabulary_file f = {.model = "gpt2",
                         .name = "x",
                         .tokens = names,
                         .types = kinds,
                         .n = 4,
                         .merge = "a b",
                         .add_bos = -1,
                         .add_space = -1,
                         .remove_spaces = -1};
    write_gguf(dir, &f);
    expect_ids(path, "ab<e>", true, IDS(3, 2));
    upg_tokenizer *t = open_at(path, &e);
    if (!t) fail_msg("%s", e.message);
    size_t n;
    const char *text = upg_tokenizer_bytes(t, upg_tokenizer_role(t, UPG_ROLE_EOS), &n);
    assert_int_equal(n, 3);
    assert_memory_equal(text, "<e>", 3);
    assert_int_equal(upg_tokenizer_role(t, UPG_ROLE_BOS), -1);
    upg_tokenizer_free(t);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_folder_may_have_a_sentencepiece_model),
                                       cmocka_unit_test(a_folder_may_have_a_rank_file),
                                       cmocka_unit_test(a_folder_may_have_a_vocabulary_and_merges),
                                       cmocka_unit_test(a_gguf_vocabulary_needs_no_tensors),
                                       cmocka_unit_test(what_a_gguf_vocabulary_may_not_be),
                                       cmocka_unit_test(gpt2_of_gguf_has_its_roles)};
    return cmocka_run_group_tests_name("tokenizer_source", tests, NULL, NULL);
}
