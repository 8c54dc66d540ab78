// Encoding and decoding: equality with other implementations' ids, and the properties the engine relies on.
#include "tokenizer_helpers.h"
#include "text/tokenizer_internal.h"

static void expect_ids(const upg_tokenizer *t, const char *name, const char *text, size_t n, bool special,
                       yyjson_val *expected) {
    upg_ids ids = encode(t, text, n, special);
    size_t i, max;
    yyjson_val *id;
    bool same = ids.size == yyjson_arr_size(expected);
    if (same) yyjson_arr_foreach(expected, i, max, id) same = same && ids.data[i] == yyjson_get_int(id);
    if (!same) {
        for (i = 0; i < ids.size; i++) print_message("%d ", (int)ids.data[i]);
        upg_buf b = {0};
        add_json(&b, expected);
        fail_msg("%s: '%s', special %d: not %s", name, text, special, b.data);
    }
    upg_ids_free(&ids);
}

static void expect_text(const upg_tokenizer *t, const char *text, size_t n, const char *expected, size_t n_expected) {
    upg_ids ids = encode(t, text, n, true);
    upg_buf b = decode(t, &ids, false);
    if (b.size != n_expected || memcmp(b.size ? b.data : "", expected, n_expected))
        fail_msg("'%s' comes back as '%s', not '%s'", text, b.size ? b.data : "", expected);
    upg_buf_free(&b);
    upg_ids_free(&ids);
}

static void expect_case(const upg_tokenizer *t, yyjson_val *vectors, yyjson_val *c) {
    const char *name = yyjson_get_str(get(c, "name"));
    size_t i, max;
    yyjson_val *text;
    yyjson_arr_foreach(get(vectors, "texts"), i, max, text) {
        const char *s = yyjson_get_str(text);
        size_t n = yyjson_get_len(text);
        yyjson_val *ids = yyjson_arr_get(get(c, "ids"), i), *plain = yyjson_arr_get(get(c, "plain"), i);
        yyjson_val *decoded = yyjson_arr_get(get(c, "decoded"), i);
        expect_ids(t, name, s, n, true, ids);
        expect_ids(t, name, s, n, false, yyjson_is_null(plain) ? ids : plain);
        if (yyjson_is_null(decoded)) decoded = text;
        expect_text(t, s, n, yyjson_get_str(decoded), yyjson_get_len(decoded));
    }
}

// Every case of the vectors gives the ids and the text of the reference, before and after packing.
static void test_vectors(void **state) {
    (void)state;
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *c;
    size_t i, max;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        upg_buf json = case_json(vectors, c);
        upg_tokenizer *t = load(&json, NULL), *packed = repack(t);
        expect_case(t, vectors, c);
        expect_case(packed, vectors, c);
        upg_tokenizer_free(packed);
        upg_tokenizer_free(t);
        upg_buf_free(&json);
    }
    yyjson_doc_free(doc);
}

static upg_tokenizer *load_tales(void) {
    size_t n, n_config;
    char *json = read_shared_text("models/tales/tokenizer.json", &n);
    char *config = json ? read_shared_text("models/tales/tokenizer_config.json", &n_config) : NULL;
    upg_tokenizer *t = config ? load(&(upg_buf){json, n, n, false}, config) : NULL;
    free(json);
    free(config);
    return t;
}

static void expect_model(const upg_tokenizer *t, const char *name) {
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *text;
    size_t i, max;
    yyjson_arr_foreach(get(vectors, "texts"), i, max, text)
        expect_ids(t, name, yyjson_get_str(text), yyjson_get_len(text), true, yyjson_arr_get(get(vectors, name), i));
    yyjson_doc_free(doc);
}

static void test_tales(void **state) {
    (void)state;
    upg_tokenizer *t = load_tales();
    if (!t) skip();
    upg_tokenizer *packed = repack(t);
    expect_model(t, "tales");
    expect_model(packed, "tales");
    assert_int_equal(upg_tokenizer_size(t), 8192);
    assert_int_equal(upg_tokenizer_bos(t), -1);
    assert_int_equal(upg_tokenizer_find(t, "<|endoftext|>"), 0);
    upg_buf b = {0};
    assert_int_equal(upg_tokenizer_pack(t, &b, NULL), 0);
    assert_true(b.size < 24 * 1024);
    upg_buf_free(&b);
    yyjson_doc *golden = read_shared("models/tales/reference/golden.json");
    assert_non_null(golden);
    size_t i, max;
    yyjson_val *p;
    yyjson_arr_foreach(get(yyjson_doc_get_root(golden), "prompts"), i, max, p) {
        yyjson_val *prompt = get(p, "prompt");
        expect_ids(packed, "golden", yyjson_get_str(prompt), yyjson_get_len(prompt), true, get(p, "ids"));
    }
    yyjson_doc_free(golden);
    upg_tokenizer_free(packed);
    upg_tokenizer_free(t);
}

// A tokenizer.json of the parts that come with Phi-4: vocab.json, merges.txt and the added tokens of
// tokenizer_config.json.
static upg_buf phi4_json(const char *merges, yyjson_val *vocab, yyjson_val *config) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    size_t i, max;
    yyjson_val *key, *value, *flag_key, *flag;
    yyjson_obj_foreach(get(config, "added_tokens_decoder"), i, max, key, value) {
        upg_buf_fmt(&b, "%s{\"id\":%s", i ? "," : "", yyjson_get_str(key));
        size_t k, n;
        yyjson_obj_foreach(value, k, n, flag_key, flag) {
            upg_buf_fmt(&b, ",\"%s\":", yyjson_get_str(flag_key));
            add_json(&b, flag);
        }
        upg_buf_str(&b, "}");
    }
    upg_buf_str(
        &b,
        "],\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
        "\"invert\":false,\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}"
        "+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\"model\":{\"type\":\"BPE\","
        "\"vocab\":");
    add_json(&b, vocab);
    upg_buf_str(&b, ",\"merges\":[");
    for (const char *line = merges, *end; (end = strchr(line, '\n')); line = end + 1) {
        if (*line == '#' && line == merges) continue;
        if (b.data[b.size - 1] != '[') upg_buf_str(&b, ",");
        upg_buf_str(&b, "\"");
        for (const char *c = line; c < end; c++) {
            if (*c == '"' || *c == '\\') upg_buf_str(&b, "\\");
            upg_buf_add(&b, c, 1);
        }
        upg_buf_str(&b, "\"");
    }
    upg_buf_str(&b, "]}}");
    assert_false(b.failed);
    return b;
}

static void test_phi4(void **state) {
    (void)state;
    size_t n;
    char *merges = read_shared_text("data/phi-4/merges.txt", &n);
    if (!merges) skip();
    yyjson_doc *vocab = read_shared("data/phi-4/vocab.json"), *config = read_shared("data/phi-4/tokenizer_config.json");
    assert_true(vocab && config);
    upg_buf json = phi4_json(merges, yyjson_doc_get_root(vocab), yyjson_doc_get_root(config));
    upg_tokenizer *t = load(&json, NULL), *packed = repack(t);
    expect_model(t, "phi4");
    expect_model(packed, "phi4");
    assert_int_equal(upg_tokenizer_size(t), 100352);
    const char *chat = "<|im_start|>user<|im_sep|>\n Hi <|im_end|>"; // lstrip and rstrip take the space around
    upg_ids ids = encode(packed, chat, strlen(chat), true);
    int32_t expected[] = {upg_tokenizer_find(t, "<|im_start|>"), 882, upg_tokenizer_find(t, "<|im_sep|>"), 13347,
                          upg_tokenizer_find(t, "<|im_end|>")};
    assert_int_equal(ids.size, 5);
    assert_memory_equal(ids.data, expected, sizeof expected);
    upg_ids_free(&ids);
    upg_tokenizer_free(packed);
    upg_tokenizer_free(t);
    upg_buf_free(&json);
    yyjson_doc_free(vocab);
    yyjson_doc_free(config);
    free(merges);
}

// Any bytes come back, ill-formed ones as U+FFFD; well-formed text comes back as it was; one id at a time is the same
// as all.
static void test_round_trip(void **state) {
    (void)state;
    static const char *const names[] = {"llama3", "gpt2", "whole", "whole-ignore-merges", "ascii-fold"};
    yyjson_doc *doc = read_vectors();
    rng r = {21};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        upg_tokenizer *t = load_case(yyjson_doc_get_root(doc), names[k]);
        for (int i = 0; i < 4000; i++) {
            char text[400];
            size_t n = random_text(&r, text, random_below(&r, 100));
            bool damage = n && i % 4 == 0;
            if (damage) text[random_below(&r, (uint32_t)n)] = (char)random_below(&r, 256);
            upg_ids ids = encode(t, text, n, false);
            upg_buf bytes = {0};
            for (size_t j = 0; j < ids.size; j++) {
                size_t len;
                const char *p = upg_tokenizer_bytes(t, ids.data[j], &len);
                upg_buf_add(&bytes, p, len);
            }
            assert_int_equal(bytes.size, n);
            if (n) assert_memory_equal(bytes.data, text, n);
            upg_buf out = decode(t, &ids, false);
            if (!damage) assert_int_equal(out.size, n);
            if (!damage && n) assert_memory_equal(out.data, text, n);
            upg_buf_free(&out);
            upg_buf_free(&bytes);
            upg_ids_free(&ids);
        }
        upg_tokenizer_free(t);
    }
    yyjson_doc_free(doc);
}

// Every maximal subpart of ill-formed text becomes one U+FFFD (the examples of the Unicode standard, section 3.9),
// however the bytes are spread over tokens.
static void test_replacement(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd"},
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFDA"},
        {"x\xF0\x9F\x98", "x\uFFFD"},
        {"\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF\xE0\xA0\x80", "\U0001F600\U0010FFFF\u0800"},
    };
    yyjson_doc *doc = read_vectors();
    upg_tokenizer *t = load_case(yyjson_doc_get_root(doc), "llama3");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        upg_ids ids = {0};
        for (const char *p = cases[k].bytes; *p; p++)
            assert_int_equal(upg_ids_add(&ids, t->byte_id[(uint8_t)*p], NULL), 0);
        upg_buf out = decode(t, &ids, false);
        assert_string_equal(out.data, cases[k].text);
        upg_buf_free(&out);
        upg_ids_free(&ids);
        expect_text(t, cases[k].bytes, strlen(cases[k].bytes), cases[k].text, strlen(cases[k].text));
    }
    upg_tokenizer_free(t);
    yyjson_doc_free(doc);
}

static void expect_no_special(const upg_tokenizer *t, const char *token, rng *r) {
    for (int i = 0; i < 3000; i++) {
        char text[600];
        size_t n = random_text(r, text, random_below(r, 30));
        for (uint32_t k = random_below(r, 4); k; k--) {
            memcpy(text + n, token, strlen(token));
            n += strlen(token);
            n += random_text(r, text + n, random_below(r, 3));
        }
        upg_ids ids = encode(t, text, n, false);
        for (size_t j = 0; j < ids.size; j++) assert_false(upg_tokenizer_is_special(t, ids.data[j]));
        upg_ids_free(&ids);
    }
}

// Text never becomes a control token unless the caller asks for it: not by an added token, not by a whole piece in the
// vocabulary (ignore_merges), not by merges that spell one.
static void test_no_special(void **state) {
    (void)state;
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *c;
    rng r = {22};
    size_t i, max;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        upg_buf json = case_json(vectors, c), changed = {0};
        upg_tokenizer *t = load(&json, NULL);
        expect_no_special(t, "<|end|>", &r);
        expect_no_special(t, " [PAD] ", &r);
        upg_tokenizer_free(t);
        // "the" is in the vocabulary, by merges; here it is declared a control token.
        const char *list = "\"added_tokens\":[";
        char *at = strstr(json.data, list);
        assert_non_null(at);
        upg_buf_add(&changed, json.data, (size_t)(at - json.data) + strlen(list));
        upg_buf_fmt(&changed,
                    "{\"id\":%d,\"content\":\"the\",\"single_word\":true,\"lstrip\":false,\"rstrip\":false,"
                    "\"normalized\":false,\"special\":true}%s",
                    yyjson_get_int(get(get(get(vectors, "model"), "vocab"), "the")),
                    at[strlen(list)] == ']' ? "" : ",");
        upg_buf_str(&changed, at + strlen(list));
        t = load(&changed, NULL);
        expect_no_special(t, "the", &r);
        upg_tokenizer_free(t);
        upg_buf_free(&changed);
        upg_buf_free(&json);
    }
    yyjson_doc_free(doc);
}

// The definition of BPE, by search: the lowest rank, leftmost, until none applies.
static size_t merge_naively(const upg_tokenizer *t, const uint8_t *p, size_t n, int32_t *id) {
    for (size_t i = 0; i < n; i++) id[i] = t->byte_id[p[i]];
    for (;;) {
        size_t best = n;
        int32_t best_rank = INT32_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            for (int32_t rank = 0; rank < t->n_merges && rank < best_rank; rank++)
                if (t->merges[rank].left == id[i] && t->merges[rank].right == id[i + 1]) best = i, best_rank = rank;
        if (best == n) return n;
        id[best] = t->merges[best_rank].product;
        memmove(id + best + 1, id + best + 2, (--n - best - 1) * sizeof *id);
    }
}

static void test_merge_order(void **state) {
    (void)state;
    yyjson_doc *doc = read_vectors();
    upg_tokenizer *t = load_case(yyjson_doc_get_root(doc), "whole");
    rng r = {23};
    for (int i = 0; i < 600; i++) {
        uint8_t text[200];
        int32_t expected[200];
        size_t n = 1 + random_below(&r, sizeof text);
        const char *letters = i % 2 ? "the a" : "aeinorst  hld";
        for (size_t k = 0; k < n; k++) text[k] = (uint8_t)letters[random_below(&r, (uint32_t)strlen(letters))];
        size_t size = merge_naively(t, text, n, expected);
        upg_ids ids = encode(t, (const char *)text, n, true);
        assert_int_equal(ids.size, size);
        assert_memory_equal(ids.data, expected, size * sizeof *expected);
        upg_ids_free(&ids);
    }
    upg_tokenizer_free(t);
    yyjson_doc_free(doc);
}

// A piece as long as the text neither overflows the stack nor takes quadratic time (which would be hours here).
static void test_long_piece(void **state) {
    (void)state;
    enum { N = 10000000 };
    yyjson_doc *doc = read_vectors();
    upg_tokenizer *t = load_case(yyjson_doc_get_root(doc), "whole"),
                  *split = load_case(yyjson_doc_get_root(doc), "llama3");
    char *text = malloc(N);
    assert_non_null(text);
    for (int k = 0; k < 3; k++) {
        for (size_t i = 0; i < N; i++) text[i] = k == 0 ? 'a' : k == 1 ? "the "[i % 4] : ' ';
        upg_ids ids = encode(k == 1 ? t : split, text, N, false);
        upg_buf out = decode(t, &ids, false);
        assert_int_equal(out.size, N);
        assert_memory_equal(out.data, text, N);
        upg_buf_free(&out);
        upg_ids_free(&ids);
    }
    free(text);
    upg_tokenizer_free(t);
    upg_tokenizer_free(split);
    yyjson_doc_free(doc);
}

// Unknown ids have no bytes and are not special; special tokens print only where asked.
static void test_questions(void **state) {
    (void)state;
    yyjson_doc *doc = read_vectors();
    upg_tokenizer *t = load_case(yyjson_doc_get_root(doc), "added");
    int32_t end = upg_tokenizer_find(t, "<|end|>");
    upg_ids think = encode(t, "<think>", 7, true);
    assert_int_equal(think.size, 1);
    assert_true(upg_tokenizer_is_special(t, end));
    assert_int_equal(upg_tokenizer_find(t, "<think>"), -1); // added, but no control token
    assert_int_equal(upg_tokenizer_find(t, "the"), -1);
    assert_false(upg_tokenizer_is_special(t, think.data[0]));
    upg_ids_free(&think);
    static const int32_t unknown[] = {-1, INT32_MIN, INT32_MAX};
    size_t n;
    for (int i = 0; i < 3; i++) {
        upg_tokenizer_bytes(t, unknown[i], &n);
        assert_int_equal(n, 0);
        assert_false(upg_tokenizer_is_special(t, unknown[i]));
    }
    upg_tokenizer_bytes(t, upg_tokenizer_size(t), &n);
    assert_int_equal(n, 0);
    upg_ids ids = encode(t, "<|end|>x", 8, true);
    assert_int_equal(ids.size, 2);
    upg_buf shown = decode(t, &ids, true), hidden = decode(t, &ids, false);
    assert_string_equal(shown.data, "<|end|>x");
    assert_string_equal(hidden.data, "x");
    upg_buf_free(&shown);
    upg_buf_free(&hidden);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    yyjson_doc_free(doc);
}

// Where BOS comes from: the template, overruled by the configuration.
static void test_bos(void **state) {
    (void)state;
#define TEMPLATE                                                                                                       \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\",\"type_id\":0}},{\"Sequence\":{"     \
    "\"id\":\"A\","                                                                                                    \
    "\"type_id\":0}}],\"special_tokens\":{\"a\":{\"id\":\"a\",\"ids\":[7],\"tokens\":[\"a\"]}}}"
    static const struct {
        const char *post_processor, *config;
        int32_t bos; // -2: the id of <|end|>
    } cases[] = {
        {"null", NULL, -1},
        {"null", "{}", -1},
        {TEMPLATE, NULL, 7},
        {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE "]}",
         "{\"bos_token\":\"<|end|>\"}", 7},
        {"{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}]}", NULL, -1},
        {TEMPLATE, "{\"add_bos_token\":false}", -1},
        {TEMPLATE, "{\"add_bos_token\":null}", 7},
        {"null", "{\"add_bos_token\":true,\"bos_token\":\"<|end|>\"}", -2},
        {TEMPLATE, "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<|end|>\",\"special\":true}}", -2},
    };
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *c = yyjson_arr_get(get(vectors, "cases"), 12);
    upg_buf json = case_json(vectors, c);
    const char *key = "\"post_processor\":null";
    char *at = strstr(json.data, key);
    assert_non_null(at);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_buf b = {0};
        upg_buf_add(&b, json.data, (size_t)(at - json.data));
        upg_buf_fmt(&b, "\"post_processor\":%s%s", cases[i].post_processor, at + strlen(key));
        upg_tokenizer *t = load(&b, cases[i].config), *packed = repack(t);
        int32_t bos = cases[i].bos == -2 ? upg_tokenizer_find(t, "<|end|>") : cases[i].bos;
        assert_int_equal(upg_tokenizer_bos(t), bos);
        assert_int_equal(upg_tokenizer_bos(packed), bos);
        upg_tokenizer_free(packed);
        upg_tokenizer_free(t);
        upg_buf_free(&b);
    }
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

// Pieces a long text repeats are remembered while it is encoded: each part still gets the ids it has alone.
static void test_repeated_pieces(void **state) {
    (void)state;
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc), *text;
    upg_tokenizer *t = load_case(vectors, "ignore-merges");
    int32_t end = upg_tokenizer_find(t, "<|end|>");
    upg_buf whole = {0};
    upg_ids expected = {0};
    size_t i, max;
    for (int times = 0; times < 3; times++) yyjson_arr_foreach(get(vectors, "texts"), i, max, text) {
            upg_ids ids = encode(t, yyjson_get_str(text), yyjson_get_len(text), true);
            for (size_t k = 0; k < ids.size; k++) assert_int_equal(upg_ids_add(&expected, ids.data[k], NULL), 0);
            assert_int_equal(upg_ids_add(&expected, end, NULL), 0);
            upg_ids_free(&ids);
            upg_buf_add(&whole, yyjson_get_str(text), yyjson_get_len(text));
            upg_buf_str(&whole, "<|end|>");
        }
    upg_ids ids = encode(t, whole.data, whole.size, true);
    assert_int_equal(ids.size, expected.size);
    assert_memory_equal(ids.data, expected.data, ids.size * sizeof *ids.data);
    upg_ids_free(&ids);
    upg_ids_free(&expected);
    upg_buf_free(&whole);
    upg_tokenizer_free(t);
    yyjson_doc_free(doc);
}

// The vectors' model behind the patterns of a name of GGUF, as a tokenizer.json.
static upg_buf pre_json(yyjson_val *vectors, const upg_pre *pre) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(d), *model = yyjson_val_mut_copy(d, get(vectors, "model"));
    yyjson_mut_doc_set_root(d, root);
    yyjson_mut_obj_remove_key(model, "ignore_merges");
    yyjson_mut_obj_add_bool(d, model, "ignore_merges", pre->ignore_merges);
    yyjson_mut_obj_add_val(d, root, "model", model);
    yyjson_mut_val *sequence = yyjson_mut_obj_add_obj(d, root, "pre_tokenizer");
    yyjson_mut_obj_add_str(d, sequence, "type", "Sequence");
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, sequence, "pretokenizers");
    for (const char *const *name = pre->patterns; *name; name++) {
        yyjson_mut_val *split = yyjson_mut_arr_add_obj(d, list);
        yyjson_mut_obj_add_str(d, split, "type", "Split");
        yyjson_mut_obj_add_str(d, yyjson_mut_obj_add_obj(d, split, "pattern"), "Regex",
                               upg_pattern_by_name(*name, strlen(*name))->regexes[0]);
        yyjson_mut_obj_add_str(d, split, "behavior", "Isolated");
        yyjson_mut_obj_add_bool(d, split, "invert", false);
    }
    yyjson_mut_val *level = yyjson_mut_arr_add_obj(d, list);
    yyjson_mut_obj_add_str(d, level, "type", "ByteLevel");
    yyjson_mut_obj_add_bool(d, level, "add_prefix_space", false);
    yyjson_mut_obj_add_bool(d, level, "use_regex", false);
    upg_buf json = {0};
    json.data = yyjson_mut_write(d, 0, &json.size);
    assert_non_null(json.data);
    yyjson_mut_doc_free(d);
    return json;
}

static void expect_ids_of_case(const upg_tokenizer *t, yyjson_val *vectors, const char *name) {
    size_t i, max, k, n_texts;
    yyjson_val *c, *text;
    yyjson_arr_foreach(get(vectors, "cases"), i, max, c) {
        if (!yyjson_equals_str(get(c, "name"), name)) continue;
        yyjson_arr_foreach(get(vectors, "texts"), k, n_texts, text)
            expect_ids(t, name, yyjson_get_str(text), yyjson_get_len(text), true, yyjson_arr_get(get(c, "ids"), k));
        return;
    }
    fail_msg("no case %s", name);
}

// What GGUF's names stand for is what tokenizer.json files say, and each list can be read from one.
static void test_pre_names(void **state) {
    (void)state;
    static const char *const same[][2] = {{"default", "llama.cpp-default"},
                                          {"gpt-2", "gpt2"},
                                          {"starcoder", "starcoder"},
                                          {"dbrx", "llama3"},
                                          {"qwen35", "qwen35"},
                                          {"gpt-4o", "o200k"},
                                          {"tekken", "tekken"},
                                          {"deepseek-coder", "deepseek-coder"},
                                          {"deepseek-v3", "deepseek-v3"},
                                          {"bloom", "bloom"}};
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc);
    for (int k = 0; k < upg_n_pres; k++) {
        upg_buf json = pre_json(vectors, &upg_pres[k]);
        upg_tokenizer *t = load(&json, NULL);
        for (size_t i = 0; i < sizeof same / sizeof *same; i++)
            if (!strcmp(same[i][0], upg_pres[k].name)) expect_ids_of_case(t, vectors, same[i][1]);
        upg_tokenizer_free(t);
        free(json.data);
    }
    yyjson_doc_free(doc);
}

// The roles of tokens: from the template, overruled by the configuration; they survive packing.
static void test_roles(void **state) {
    (void)state;
    static const char processor[] =
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}},{"
        "\"SpecialToken\":"
        "{\"id\":\"a\"}},{\"SpecialToken\":{\"id\":\"none\"}}],\"special_tokens\":{\"a\":{\"ids\":[7]}}}";
    static const struct {
        const char *config;
        int32_t eos, pad; // -2: the id of <|end|>
        bool adds;
    } cases[] = {{NULL, 7, -1, true},
                 {"{\"add_eos_token\":false}", 7, -1, false},
                 {"{\"eos_token\":\"<|end|>\",\"pad_token\":{\"content\":\"<|end|>\"}}", -2, -2, true},
                 {"{\"eos_token\":\"<none>\",\"pad_token\":null,\"unk_token\":5}", 7, -1, true}};
    yyjson_doc *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(doc);
    upg_buf json = case_json(vectors, yyjson_arr_get(get(vectors, "cases"), 12)), b = {0};
    const char *key = "\"post_processor\":null";
    char *at = strstr(json.data, key);
    assert_non_null(at);
    upg_buf_add(&b, json.data, (size_t)(at - json.data));
    upg_buf_fmt(&b, "%s%s", processor, at + strlen(key));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_tokenizer *t[2] = {load(&b, cases[i].config)};
        t[1] = repack(t[0]);
        for (int k = 0; k < 2; k++) {
            int32_t end = upg_tokenizer_find(t[k], "<|end|>");
            assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_EOS), cases[i].eos == -2 ? end : cases[i].eos);
            assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_PAD), cases[i].pad == -2 ? end : cases[i].pad);
            assert_int_equal(upg_tokenizer_role(t[k], UPG_ROLE_UNK), -1);
            assert_int_equal(upg_tokenizer_adds_eos(t[k]), cases[i].adds);
            upg_tokenizer_free(t[k]);
        }
    }
    upg_buf_free(&b);
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),     cmocka_unit_test(test_tales),           cmocka_unit_test(test_phi4),
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_replacement),     cmocka_unit_test(test_no_special),
        cmocka_unit_test(test_merge_order), cmocka_unit_test(test_long_piece),      cmocka_unit_test(test_questions),
        cmocka_unit_test(test_bos),         cmocka_unit_test(test_repeated_pieces), cmocka_unit_test(test_pre_names),
        cmocka_unit_test(test_roles)};
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
