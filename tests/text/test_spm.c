// Tokenizers of SentencePiece's kind: equality with other implementations' ids and texts, and the properties the engine
// relies on.
#include "tokenizer_helpers.h"
#include "text/tokenizer_internal.h"

static upg_tokenizer *load_spm(yyjson_val *vectors, const char *name) {
    size_t i, max;
    yyjson_val *c;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        if (!yyjson_equals_str(get(c, "name"), name)) continue;
        upg_buf json = spm_json(vectors, c);
        upg_tokenizer *t = load(&json, NULL);
        upg_buf_free(&json);
        return t;
    }
    fail_msg("no case %s", name);
    return NULL;
}

static upg_tokenizer *load_model(const char *config) {
    upg_error e = {""};
    size_t n;
    char *model = upg_read_text("tests/vectors/spm.model", 1 << 20, &n, &e);
    upg_tokenizer *t = model ? upg_tokenizer_from_spm(model, n, config, &e) : NULL;
    if (!t) fail_msg("%s", e.message);
    free(model);
    return t;
}

static void expect_ids(const upg_tokenizer *t, const char *name, yyjson_val *text, bool special, yyjson_val *expected) {
    upg_ids ids = encode(t, yyjson_get_str(text), yyjson_get_len(text), special);
    size_t i, max;
    yyjson_val *id;
    bool same = ids.size == yyjson_arr_size(expected);
    if (same) yyjson_arr_foreach(expected, i, max, id) same = same && ids.data[i] == yyjson_get_int(id);
    if (!same) {
        for (i = 0; i < ids.size; i++) print_message("%d ", (int)ids.data[i]);
        upg_buf b = {0};
        add_json(&b, expected);
        fail_msg("%s: '%s', special %d: not %s", name, yyjson_get_str(text), special, b.data);
    }
    upg_ids_free(&ids);
}

static void expect_text(const upg_tokenizer *t, const char *name, yyjson_val *text, bool special,
                        yyjson_val *expected) {
    upg_ids ids = encode(t, yyjson_get_str(text), yyjson_get_len(text), special);
    upg_buf b = decode(t, &ids, false);
    if (yyjson_is_null(expected)) expected = text;
    if (b.size != yyjson_get_len(expected) || memcmp(b.size ? b.data : "", yyjson_get_str(expected), b.size))
        fail_msg("%s: '%s' comes back as '%s'", name, yyjson_get_str(text), b.size ? b.data : "");
    upg_buf_free(&b);
    upg_ids_free(&ids);
}

static void expect_case(const upg_tokenizer *t, yyjson_val *vectors, yyjson_val *c) {
    const char *name = yyjson_get_str(get(c, "name"));
    size_t i, max;
    yyjson_val *text;
    yyjson_arr_foreach(get(vectors, "texts"), i, max, text) {
        yyjson_val *ids = yyjson_arr_get(get(c, "ids"), i), *plain = yyjson_arr_get(get(c, "plain"), i);
        expect_ids(t, name, text, true, ids);
        expect_ids(t, name, text, false, yyjson_is_null(plain) ? ids : plain);
        expect_text(t, name, text, true, yyjson_arr_get(get(c, "decoded"), i));
    }
}

// Every form of tokenizer.json gives the ids and the text of tokenizers, before and after packing.
static void test_json(void **state) {
    (void)state;
    yyjson_doc *doc = read_spm();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *c;
    size_t i, max;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        upg_buf json = spm_json(vectors, c);
        upg_tokenizer *t = load(&json, NULL), *packed = repack(t);
        expect_case(t, vectors, c);
        expect_case(packed, vectors, c);
        upg_tokenizer_free(packed);
        upg_tokenizer_free(t);
        upg_buf_free(&json);
    }
    yyjson_doc_free(doc);
}

// A tokenizer.model gives the ids and the text of sentencepiece, before and after packing.
static void test_model(void **state) {
    (void)state;
    yyjson_doc *doc = read_spm();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *text;
    upg_tokenizer *t[2] = {load_model(NULL)};
    t[1] = repack(t[0]);
    for (int k = 0; k < 2; k++) {
        size_t i, max;
        yyjson_arr_foreach(get(vectors, "texts"), i, max, text) {
            expect_ids(t[k], "model", text, false, yyjson_arr_get(get(get(vectors, "model"), "ids"), i));
            expect_text(t[k], "model", text, false, yyjson_arr_get(get(get(vectors, "model"), "decoded"), i));
        }
        assert_int_equal(upg_tokenizer_bos(t[k]), 1);
        assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_EOS), 2);
        assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_UNK), 0);
        assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_PAD), -1);
        assert_int_equal(upg_tokenizer_find(t[k], "</s>"), 2);
        upg_tokenizer_free(t[k]);
    }
    yyjson_doc_free(doc);
}

// The configuration adds tokens, changes flags of those there are, and says where spaces and BOS go.
static void test_model_config(void **state) {
    (void)state;
#define PLAIN "\"single_word\":false,\"lstrip\":false,\"normalized\":false,\"special\":true"
    upg_tokenizer *t[2] = {load_model(
        "{\"legacy\":false,\"add_bos_token\":false,\"add_eos_token\":true,\"eos_token\":\"<|end|>\",\"pad_token\":"
        "{\"content\":\"<unk>\"},\"added_tokens_decoder\":{\"499\":{\"content\":\"<|end|>\",\"rstrip\":false," PLAIN
        "},\"1\":{\"content\":\"<s>\",\"rstrip\":true," PLAIN "}}}")};
    t[1] = repack(t[0]);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(upg_tokenizer_size(t[k]), 500);
        assert_int_equal(upg_tokenizer_bos(t[k]), -1);
        assert_true(upg_tokenizer_adds_eos(t[k]));
        assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_EOS), 499);
        assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_PAD), 0);
        upg_ids ids = encode(t[k], "of<s>  of<|end|>of", 18, true);
        int32_t word = upg_piece_find(t[k], (const uint8_t *)" of", 3),
                rest = upg_piece_find(t[k], (const uint8_t *)"of", 2);
        int32_t expected[] = {word, 1, rest, 499, rest}; // <s> takes the spaces; none is put behind a token
        assert_int_equal(ids.size, 5);
        assert_memory_equal(ids.data, expected, sizeof expected);
        upg_buf out = decode(t[k], &ids, true);
        assert_string_equal(out.data, "of<s>of<|end|>of");
        upg_buf_free(&out);
        upg_ids_free(&ids);
        upg_tokenizer_free(t[k]);
    }
}

// One space in front is dropped where a text begins, none where it goes on.
static void test_midway(void **state) {
    (void)state;
    upg_tokenizer *t = load_model(NULL);
    upg_ids ids = encode(t, "of the", 6, false);
    upg_buf whole = decode(t, &ids, false), rest = {0};
    upg_detokenizer d = {.midway = true};
    for (size_t i = 0; i < ids.size; i++) upg_detokenizer_push(&d, t, ids.data[i], false, &rest);
    upg_detokenizer_finish(&d, &rest);
    assert_string_equal(whole.data, "of the");
    assert_string_equal(rest.data, " of the");
    upg_buf_free(&whole);
    upg_buf_free(&rest);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
}

// A text in parts, cut at its control tokens, is the text as a whole: a space is put in front of the first part only.
static void test_parts(void **state) {
    (void)state;
    upg_tokenizer *t = load_model("{\"legacy\":false}");
    static const char text[] = "of the<s>of<s>the of";
    upg_ids whole = encode(t, text, sizeof text - 1, true), parts = {0};
    for (const char *p = text; p;) {
        const char *end = strstr(p, "<s>");
        size_t n = end ? (size_t)(end - p) : strlen(p);
        assert_int_equal(upg_tokenizer_encode_part(t, p, n, p == text, false, &parts, NULL), 0);
        if (end) assert_int_equal(upg_ids_add(&parts, 1, NULL), 0);
        p = end ? end + 3 : NULL;
    }
    assert_int_equal(parts.size, whole.size);
    assert_memory_equal(parts.data, whole.data, whole.size * sizeof *whole.data);
    upg_ids_free(&parts);
    upg_ids_free(&whole);
    upg_tokenizer_free(t);
}

// Any bytes come back, ill-formed ones as U+FFFD, with one space in front and U+2581 as a space; output is always
// well-formed, one id at a time as well.
static void test_round_trip(void **state) {
    (void)state;
    upg_tokenizer *t = load_model(NULL);
    rng r = {51};
    for (int i = 0; i < 4000; i++) {
        char text[400];
        size_t n = random_text(&r, text, random_below(&r, 100));
        if (n && i % 4 == 0) text[random_below(&r, (uint32_t)n)] = (char)random_below(&r, 256);
        upg_ids ids = encode(t, text, n, false);
        upg_buf bytes = {0}, expected = {0};
        for (size_t j = 0; j < ids.size; j++) {
            size_t len;
            const char *p = upg_tokenizer_bytes(t, ids.data[j], &len);
            assert_false(upg_tokenizer_is_special(t, ids.data[j]));
            upg_buf_add(&bytes, p, len);
        }
        upg_spm_spaces((const uint8_t *)text, n, n > 0, &expected);
        assert_int_equal(bytes.size, expected.size);
        if (n) assert_memory_equal(bytes.data, expected.data, bytes.size);
        upg_buf_free(&bytes);
        upg_buf_free(&expected);
        upg_ids_free(&ids);
    }
    upg_tokenizer_free(t);
}

// The definition, by search: of all neighbours the pair with the best score, leftmost, until none is a token.
static size_t merge_naively(const upg_tokenizer *t, const uint8_t *p, size_t n, int32_t *id) {
    size_t start[300], k = 0;
    for (size_t i = 0; i < n; i++) start[k++] = i; // ASCII
    start[k] = n;
    for (;;) {
        size_t best = k;
        uint32_t best_rank = UINT32_MAX;
        for (size_t i = 0; i + 1 < k; i++) {
            int32_t product = upg_piece_find(t, p + start[i], start[i + 2] - start[i]);
            if (product >= 0 && t->rank[product] < best_rank) best = i, best_rank = t->rank[product];
        }
        if (best == k) break;
        memmove(start + best + 1, start + best + 2, (k - best - 1) * sizeof *start);
        k--;
    }
    for (size_t i = 0; i < k; i++) {
        id[i] = upg_piece_find(t, p + start[i], start[i + 1] - start[i]);
        if (id[i] < 0) id[i] = t->byte_id[p[start[i]]];
    }
    return k;
}

static void test_merge_order(void **state) {
    (void)state;
    upg_tokenizer *t = load_model("{\"add_prefix_space\":false}");
    rng r = {52};
    for (int i = 0; i < 3000; i++) {
        uint8_t text[200];
        int32_t expected[200];
        size_t n = 1 + random_below(&r, sizeof text);
        const char *letters = i % 3 == 0 ? "the of" : i % 3 == 1 ? "aab  " : "ac=<|> endt";
        for (size_t k = 0; k < n; k++) text[k] = (uint8_t)letters[random_below(&r, (uint32_t)strlen(letters))];
        size_t size = merge_naively(t, text, n, expected);
        upg_ids ids = encode(t, (const char *)text, n, true);
        assert_int_equal(ids.size, size);
        assert_memory_equal(ids.data, expected, size * sizeof *expected);
        upg_ids_free(&ids);
    }
    upg_tokenizer_free(t);
}

// A text that is one piece neither overflows the stack nor takes quadratic time (which would be hours here).
static void test_long_piece(void **state) {
    (void)state;
    enum { N = 4000000 };
    yyjson_doc *doc = read_spm();
    upg_tokenizer *t = load_model(NULL), *split = load_spm(yyjson_doc_get_root(doc), "first-split");
    char *text = malloc(N);
    assert_non_null(text);
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < N; i++) text[i] = k == 0 ? 'a' : k == 1 ? "the"[i % 3] : k == 2 ? ' ' : (char)0xFF;
        upg_ids ids = encode(k % 2 ? split : t, text, N, false);
        size_t size = 0, n;
        for (size_t i = 0; i < ids.size; i++, size += n) upg_tokenizer_bytes(t, ids.data[i], &n);
        assert_int_equal(size, N + 1);
        upg_ids_free(&ids);
    }
    free(text);
    upg_tokenizer_free(split);
    upg_tokenizer_free(t);
    yyjson_doc_free(doc);
}

// A control token is produced neither by an added token, nor by merges that spell one, nor by a character that is one,
// unless the caller asks for it.
static void test_no_special(void **state) {
    (void)state;
    static const char *const names[] = {"the", "of", "a", "\\u2581of"};
    yyjson_doc *doc = read_spm();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *c = yyjson_arr_get_first(get(vectors, "cases"));
    upg_buf json = spm_json(vectors, c);
    const char *list = "\"added_tokens\":[", *at = strstr(json.data, list);
    assert_non_null(at);
    for (size_t k = 0; k < 4; k++) {
        upg_buf b = {0};
        yyjson_val *id = get(get(vectors, "vocab"), k == 3 ? "\xE2\x96\x81of" : names[k]);
        upg_buf_add(&b, json.data, (size_t)(at - json.data) + strlen(list));
        upg_buf_fmt(&b, "{\"id\":%d,\"content\":\"%s\",\"rstrip\":false," PLAIN "},", yyjson_get_int(id), names[k]);
        upg_buf_str(&b, at + strlen(list));
        upg_tokenizer *t = load(&b, NULL), *packed = repack(t);
        static const char text[] = "the of a <s> the theatre often</s>";
        upg_ids ids = encode(t, text, sizeof text - 1, false), again = encode(packed, text, sizeof text - 1, false);
        assert_int_equal(ids.size, again.size);
        for (size_t i = 0; i < ids.size; i++) {
            assert_false(upg_tokenizer_is_special(t, ids.data[i]));
            assert_int_equal(ids.data[i], again.data[i]);
        }
        upg_buf out = decode(t, &ids, false);
        assert_string_equal(out.data, text);
        upg_buf_free(&out);
        upg_ids_free(&again);
        upg_ids_free(&ids);
        upg_tokenizer_free(packed);
        upg_tokenizer_free(t);
        upg_buf_free(&b);
    }
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),        cmocka_unit_test(test_model),      cmocka_unit_test(test_model_config),
        cmocka_unit_test(test_midway),      cmocka_unit_test(test_parts),      cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_merge_order), cmocka_unit_test(test_long_piece), cmocka_unit_test(test_no_special)};
    return cmocka_run_group_tests_name("spm", tests, NULL, NULL);
}
