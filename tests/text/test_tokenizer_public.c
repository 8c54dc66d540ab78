// Public vectors and whole files, with the real vocabularies that do not come with the repository: every test is
// skipped where they are absent.
#include "tokenizer_helpers.h"
#include "engine/model.h"

// The tokenizer of a path in the shared data; NULL, with a message, where it is absent.
static upg_tokenizer *open_shared(const char *name) {
    const char *root = getenv("UPG_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/data/%s", root ? root : "../shared", name);
    if (!upg_path_exists(path)) return print_message("%s is not here\n", path), NULL;
    upg_weights w;
    upg_error e = {""};
    upg_tokenizer *t = NULL;
    if (upg_weights_open_tokenizer(&w, path, &e) || upg_weights_tokenizer(&w, &t, &e) || !t) fail_msg("%s", e.message);
    upg_weights_close(&w);
    return t;
}

static void expect_same(const char *name, const char *text, const upg_ids *ids, const upg_ids *expected) {
    bool same = ids->size == expected->size && (!ids->size || !memcmp(ids->data, expected->data, 4 * ids->size));
    if (same) return;
    for (size_t i = 0; i < ids->size && i < 40; i++) print_message("%d ", (int)ids->data[i]);
    print_message("\n");
    for (size_t i = 0; i < expected->size && i < 40; i++) print_message("%d ", (int)expected->data[i]);
    fail_msg("%s: '%.200s'", name, text);
}

// The numbers of a text up to end, whatever stands between them.
static upg_ids read_numbers(const char *text, const char *end) {
    upg_ids ids = {0};
    for (const char *p = text; p < end;) {
        char *after;
        long id = strtol(p, &after, 10);
        if (after == p)
            p++;
        else
            assert_int_equal(upg_ids_add(&ids, (int32_t)id, NULL), 0), p = after;
    }
    return ids;
}

static void expect_vocabulary(const char *name) {
    char path[256];
    size_t n_in, n_out;
    snprintf(path, sizeof path, "tokenizer-vectors/%s.gguf", name);
    upg_tokenizer *t = open_shared(path);
    if (!t) skip();
    upg_tokenizer *packed = repack(t);
    snprintf(path, sizeof path, "data/tokenizer-vectors/%s.gguf.inp", name);
    char *in = read_shared_text(path, &n_in);
    snprintf(path, sizeof path, "data/tokenizer-vectors/%s.gguf.out", name);
    char *out = read_shared_text(path, &n_out), *line = out;
    assert_true(in && out);
    static const char separator[] = "\n__ggml_vocab_test__\n";
    for (char *p = in, *end; p; p = end ? end + strlen(separator) : NULL) {
        end = strstr(p, separator);
        size_t n = end ? (size_t)(end - p) : strlen(p);
        char *newline = line + strcspn(line, "\n");
        upg_ids expected = read_numbers(line, newline), ids = encode(t, p, n, false),
                again = encode(packed, p, n, false);
        expect_same(name, p, &ids, &expected);
        expect_same(name, p, &again, &expected);
        upg_buf text = decode(packed, &ids, false);
        assert_int_equal(text.size, n);
        if (n) assert_memory_equal(text.data, p, n);
        upg_buf_free(&text);
        upg_ids_free(&ids);
        upg_ids_free(&again);
        upg_ids_free(&expected);
        line = newline + (*newline == '\n');
    }
    free(in);
    free(out);
    upg_tokenizer_free(packed);
    upg_tokenizer_free(t);
}

// llama.cpp's vectors for the vocabularies it tests with; their text comes back, byte for byte.
static void test_ggml_gpt2(void **state) {
    (void)state;
    expect_vocabulary("ggml-vocab-gpt-2");
}
static void test_ggml_llama(void **state) {
    (void)state;
    expect_vocabulary("ggml-vocab-llama-spm");
}
static void test_ggml_phi3(void **state) {
    (void)state;
    expect_vocabulary("ggml-vocab-phi-3");
}

// The special tokens of Phi-3's GGUF: what takes the whitespace behind it, and what stands for which role.
static void test_phi3_tokens(void **state) {
    (void)state;
    upg_tokenizer *t = open_shared("tokenizer-vectors/ggml-vocab-phi-3.gguf");
    if (!t) skip();
    static const char chat[] = "<s><|user|>\n Hi<|end|>\n<|assistant|>\n";
    upg_ids ids = encode(t, chat, sizeof chat - 1, true);
    int32_t expected[] = {1, upg_tokenizer_find(t, "<|user|>"), 6324, upg_tokenizer_find(t, "<|end|>"),
                          upg_tokenizer_find(t, "<|assistant|>")};
    assert_int_equal(ids.size, 5);
    assert_memory_equal(ids.data, expected, sizeof expected);
    upg_ids_free(&ids);
    assert_int_equal(upg_tokenizer_bos(t), 1);
    assert_int_equal(upg_tokenizer_role(t, UPG_ROLE_BOS), 1);
    assert_int_equal(upg_tokenizer_role(t, UPG_ROLE_EOS), upg_tokenizer_find(t, "<|endoftext|>"));
    upg_tokenizer_free(t);
}

// tiktoken's own source as tiktoken encodes it, from the rank file and from vocab.json with merges.txt.
static void test_tokens(void **state) {
    (void)state;
    size_t n, n_ids;
    char *text = read_shared_text("data/tokenizer-vectors/lib.rs.txt", &n);
    if (!text) skip();
    char *list = read_shared_text("data/tokenizer-vectors/tokens.json", &n_ids);
    upg_tokenizer *t = open_shared("phi-4/cl100k_base.tiktoken");
    assert_true(list && t);
    upg_ids expected = read_numbers(list, list + n_ids), ids = encode(t, text, n, false);
    expect_same("tokens.json", text, &ids, &expected);
    upg_ids_free(&expected);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    free(list);
    free(text);
}

// The test plans of a .NET port of tiktoken for one encoding; source is where its vocabulary is, NULL if nowhere.
static void expect_plans(const char *encoding, const char *source) {
    size_t n, n_plans = 0;
    char *plans = read_shared_text("data/tokenizer-vectors/TestPlans.txt", &n);
    upg_tokenizer *t = plans && source ? open_shared(source) : NULL;
    if (plans && !source) print_message("the vocabulary of %s is not in the shared data\n", encoding);
    if (!t) free(plans), skip();
    for (char *p = plans; (p = strstr(p, "EncodingName: "));) {
        char *name = p + strlen("EncodingName: "), *sample = strstr(p, "\nSample: "),
             *ids_at = strstr(p, "\nEncoded: ");
        assert_true(sample && ids_at);
        sample += strlen("\nSample: ");
        p = ids_at + 1;
        if (strncmp(name, encoding, strlen(encoding))) continue;
        upg_ids expected = read_numbers(p, p + strcspn(p, "\n"));
        upg_ids ids = encode(t, sample, (size_t)(ids_at - sample), false);
        expect_same(encoding, sample, &ids, &expected);
        upg_ids_free(&expected);
        upg_ids_free(&ids);
        n_plans++;
    }
    assert_true(n_plans > 50);
    upg_tokenizer_free(t);
    free(plans);
}

static void test_plans_cl100k(void **state) {
    (void)state;
    expect_plans("cl100k_base", "phi-4/cl100k_base.tiktoken");
}
static void test_plans_r50k(void **state) {
    (void)state;
    expect_plans("r50k_base", "tokenizer-vectors/ggml-vocab-gpt-2.gguf");
}
static void test_plans_p50k(void **state) {
    (void)state;
    expect_plans("p50k_base", NULL);
}
static void test_plans_p50k_edit(void **state) {
    (void)state;
    expect_plans("p50k_edit", NULL);
}
static void test_plans_o200k(void **state) {
    (void)state;
    expect_plans("o200k_base", NULL);
}

// Phi-4's rank file and its vocab.json with merges.txt are one tokenizer.
static void test_phi4(void **state) {
    (void)state;
    size_t n;
    char *text = read_shared_text("data/wikitext-2/valid.tokenized.txt", &n);
    upg_tokenizer *ranks = text ? open_shared("phi-4") : NULL;
    if (!ranks) skip();
    // The same folder without the rank file.
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    char folder[] = "/tmp/upg-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 3; i++) {
        size_t size;
        snprintf(path, sizeof path, "data/phi-4/%s", names[i]);
        char *data = read_shared_text(path, &size);
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        FILE *f = fopen(path, "wb");
        assert_true(data && f && fwrite(data, 1, size, f) == size && !fclose(f));
        free(data);
    }
    upg_weights w;
    upg_error e = {""};
    upg_tokenizer *merges = NULL;
    if (upg_weights_open_tokenizer(&w, folder, &e) || upg_weights_tokenizer(&w, &merges, &e)) fail_msg("%s", e.message);
    upg_weights_close(&w);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    remove(folder);
    upg_tokenizer *packed = repack(ranks);
    const upg_tokenizer *all[] = {ranks, merges, packed};
    upg_ids expected = encode(ranks, text, n, true);
    rng r = {61};
    for (int k = 0; k < 3; k++) {
        assert_int_equal(upg_tokenizer_size(all[k]), 100352);
        assert_int_equal(upg_tokenizer_bos(all[k]), -1);
        assert_int_equal(upg_tokenizer_role(all[k], UPG_ROLE_BOS), upg_tokenizer_find(ranks, "<|endoftext|>"));
        assert_int_equal(upg_tokenizer_role(all[k], UPG_ROLE_EOS), upg_tokenizer_find(ranks, "<|im_end|>"));
        assert_int_equal(upg_tokenizer_role(all[k], UPG_ROLE_PAD), upg_tokenizer_find(ranks, "<|dummy_85|>"));
        upg_ids ids = encode(all[k], text, n, true);
        expect_same("wikitext", text, &ids, &expected);
        upg_ids_free(&ids);
    }
    for (int i = 0; i < 3000; i++) {
        char sample[600];
        size_t size = random_text(&r, sample, random_below(&r, 100));
        for (uint32_t k = random_below(&r, 3); k; k--) {
            memcpy(sample + size, " <|im_sep|> ", 12);
            size += 12;
        }
        upg_ids first = encode(ranks, sample, size, i % 2), second = encode(merges, sample, size, i % 2);
        sample[size] = 0;
        expect_same("random", sample, &second, &first);
        upg_ids_free(&first);
        upg_ids_free(&second);
    }
    upg_ids_free(&expected);
    upg_tokenizer_free(packed);
    upg_tokenizer_free(merges);
    upg_tokenizer_free(ranks);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ggml_gpt2),   cmocka_unit_test(test_ggml_llama), cmocka_unit_test(test_ggml_phi3),
        cmocka_unit_test(test_phi3_tokens), cmocka_unit_test(test_tokens),     cmocka_unit_test(test_plans_cl100k),
        cmocka_unit_test(test_plans_r50k),  cmocka_unit_test(test_plans_p50k), cmocka_unit_test(test_plans_p50k_edit),
        cmocka_unit_test(test_plans_o200k), cmocka_unit_test(test_phi4)};
    return cmocka_run_group_tests_name("tokenizer_public", tests, NULL, NULL);
}
