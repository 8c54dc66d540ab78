// What must be refused: tokenizer.json files that ask for something else, damaged packed forms, and running out of
// memory. Refusal means -1 or NULL, a message, and nothing leaked or read out of bounds (the sanitizers see to that).
#include "tokenizer_helpers.h"
#include <zstd.h>

// --- tokenizer.json ---

static const char *replace(upg_buf *out, const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) fail_msg("no %s in the file", from);
    *out = (upg_buf){0};
    upg_buf_add(out, text, (size_t)(at - text));
    upg_buf_str(out, to);
    upg_buf_str(out, at + strlen(from));
    assert_false(out->failed);
    return out->data;
}

static void expect_refusal(const char *json, size_t n, const char *config, const char *named) {
    upg_error e = {""};
    upg_tokenizer *t = upg_tokenizer_from_json(json, n, config, &e);
    if (t || !strstr(e.message, named))
        fail_msg("expected a message with '%s', not '%s'", named, t ? "success" : e.message);
}

static upg_buf plain_json(yyjson_doc **doc, size_t which) {
    *doc = read_vectors();
    yyjson_val *vectors = yyjson_doc_get_root(*doc);
    return case_json(vectors, yyjson_arr_get(get(vectors, "cases"), which));
}

enum { CASE_LLAMA3 = 0, CASE_ADDED = 12 };

// Every feature that is not implemented is named in the refusal.
static void test_unsupported(void **state) {
    (void)state;
#define NORMALIZER "\"normalizer\":null"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define PAD        "\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":true"
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "Unigram"},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", "byte_fallback"},
        {"\"dropout\":null", "\"dropout\":0.1", "dropout"},
        {"\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", "continuing_subword_prefix"},
        {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "end_of_word_suffix"},
        {NORMALIZER, "\"normalizer\":{\"type\":\"Lowercase\"}", "Lowercase"},
        {NORMALIZER, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"NFKC\"}]}",
         "NFKC"},
        {BYTE_LEVEL, "{\"type\":\"Metaspace\"}", "Metaspace"},
        {BYTE_LEVEL, "{\"type\":\"Punctuation\",\"individual_digits\":true}", "Punctuation"},
        {BYTE_LEVEL, BYTE_LEVEL "," BYTE_LEVEL, "after ByteLevel"},
        {"," BYTE_LEVEL, "", "without ByteLevel"},
        {BYTE_LEVEL, BYTE_LEVEL ",{\"type\":\"Digits\"}", "individual_digits"},
        {BYTE_LEVEL, BYTE_LEVEL ",{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", "after ByteLevel"},
        {BYTE_LEVEL,
         BYTE_LEVEL ",{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}\"},\"behavior\":\"Isolated\","
                    "\"invert\":false}",
         "after ByteLevel"},
        {BYTE_LEVEL,
         "{\"type\":\"ByteLevel\",\"add_prefix_space\":true},{\"type\":\"Digits\",\"individual_digits\":true}",
         "after ByteLevel"},
        {BYTE_LEVEL, "{\"type\":\"Punctuation\",\"behavior\":\"Isolated\"}", "Punctuation"},
        {BYTE_LEVEL,
         "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}\"},\"behavior\":\"Removed\",\"invert\":true}",
         "Isolated"},
        {"\\\\p{N}{1,3}", "\\\\p{N}{1,4}", "{1,4}"},
        {"\"Isolated\"", "\"Removed\"", "Isolated"},
        {"\"invert\":false", "\"invert\":true", "invert"},
        {"\"Regex\"", "\"String\"", "Regex"},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"", "WordPiece"},
        {"\"post_processor\":null", "\"post_processor\":{\"type\":\"RobertaProcessing\"}", "RobertaProcessing"},
        {"\"post_processor\":null", "\"post_processor\":{\"type\":\"TemplateProcessing\"}", "template"},
        {"\"version\":\"1.0\"", "\"version\":\"2.0\"", "version"},
        {"\"added_tokens\":[]", "\"added_tokens\":[{\"id\":900,\"content\":\"<s>\"," PAD "}]", "<s>"},
        {"\"added_tokens\":[]", "\"added_tokens\":[{\"id\":0,\"content\":\"!\"," PAD "}]", "special token"},
        {"\"added_tokens\":[]", "\"added_tokens\":[{\"id\":586,\"content\":\"<s>\"}]", "single_word"},
        {"\"added_tokens\":[]", "\"added_tokens\":7", "added_tokens"},
    };
    yyjson_doc *doc;
    upg_buf json = plain_json(&doc, CASE_LLAMA3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_buf b;
        const char *text = replace(&b, json.data, cases[i].from, cases[i].to);
        expect_refusal(text, b.size, NULL, cases[i].named);
        upg_buf_free(&b);
    }
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

static void test_wrong_json(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"!\":0", "\"!\":-1", "'!'"},
        {"\"!\":0", "\"!\":1", "used twice"},
        {"\"!\":0", "\"!\":4000000", "ids go up to"},
        {"\"!\":0", "\"!\":1e30", "'!'"},
        {"\"!\":0,", "", "is not of tokens of the vocabulary"},
        {"\"!\":0", "\"!\":0,\"!\":586", "same bytes"},
        {"\"vocab\":{", "\"vocab\":[],\"v\":{", "vocab"},
        {"\"merges\":[", "\"merges\":7,\"m\":[", "merges"},
        {"\"merges\":[", "\"merges\":[[\"a\"],", "merge 0"},
        {"\"merges\":[", "\"merges\":[\"a b c\",", "a b c"},
        {"\"merges\":[", "\"merges\":[\" a\",", "merge 0"},
        {"\"merges\":[", "\"merges\":[[\"~\",\"}\"],", "merge 0"},
        {"\"merges\":[", "\"merges\":[[\"\\u4e2d\",\"}\"],", "merge 0"},
    };
    yyjson_doc *doc;
    upg_buf json = plain_json(&doc, CASE_LLAMA3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_buf b;
        const char *text = replace(&b, json.data, cases[i].from, cases[i].to);
        expect_refusal(text, b.size, NULL, cases[i].named);
        upg_buf_free(&b);
    }
    static const char *const configs[] = {"[]", "{", "{\"add_bos_token\":1}", "{\"add_bos_token\":true}",
                                          "{\"add_bos_token\":true,\"bos_token\":\"<none>\"}"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        expect_refusal(json.data, json.size, configs[i], "tokenizer_config.json");
    for (size_t n = 0; n < json.size; n += 1 + n / 50) expect_refusal(json.data, n, NULL, "not valid JSON");
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

static void test_deep_nesting(void **state) {
    (void)state;
    yyjson_doc *doc;
    upg_buf json = plain_json(&doc, CASE_LLAMA3), deep = {0}, b;
    upg_buf_str(&deep, "\"normalizer\":");
    for (int i = 0; i < 100000; i++) upg_buf_str(&deep, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 100000; i++) upg_buf_str(&deep, "]}");
    replace(&b, json.data, NORMALIZER, deep.data);
    expect_refusal(b.data, b.size, NULL, "Sequence");
    upg_buf_free(&b);
    upg_buf_free(&deep);
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

// --- The packed form ---

static upg_buf compress(const void *data, size_t n) {
    upg_buf b = {0};
    size_t bound = ZSTD_compressBound(n);
    char *frame = malloc(bound);
    assert_non_null(frame);
    upg_buf_add(&b, frame, ZSTD_compress(frame, bound, data, n, 1));
    free(frame);
    assert_false(b.failed);
    return b;
}

// A damaged payload is refused with a message or is a tokenizer that works.
static bool survives(const void *payload, size_t n) {
    upg_error e = {""};
    upg_buf frame = compress(payload, n);
    upg_tokenizer *t = upg_tokenizer_unpack((const uint8_t *)frame.data, frame.size, &e);
    upg_buf_free(&frame);
    if (!t) assert_true(e.message[0]);
    if (!t) return false;
    upg_ids ids = encode(t, "the <|end|> tool\n caf\xC3\xA9 \xFF", 24, true);
    upg_buf out = decode(t, &ids, true);
    upg_buf_free(&out);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    return true;
}

static uint8_t *payload_of(size_t *n, size_t which) {
    yyjson_doc *doc;
    upg_buf json = plain_json(&doc, which), packed = {0};
    upg_tokenizer *t = load(&json, NULL);
    assert_int_equal(upg_tokenizer_pack(t, &packed, NULL), 0);
    *n = (size_t)ZSTD_getFrameContentSize(packed.data, packed.size);
    uint8_t *payload = malloc(*n);
    assert_non_null(payload);
    assert_int_equal(ZSTD_decompress(payload, *n, packed.data, packed.size), *n);
    upg_tokenizer_free(t);
    upg_buf_free(&packed);
    upg_buf_free(&json);
    yyjson_doc_free(doc);
    return payload;
}

static void test_damaged_payload(void **state) {
    (void)state;
    size_t n;
    uint8_t *payload = payload_of(&n, CASE_ADDED);
    assert_true(survives(payload, n));
    for (size_t i = 0; i < n; i++) assert_false(survives(payload, i)); // every truncation is noticed
    rng r = {31};
    uint8_t *copy = malloc(n + 1);
    assert_non_null(copy);
    for (int k = 0; k < 4000; k++) {
        memcpy(copy, payload, n);
        for (uint32_t changes = 1 + random_below(&r, 3); changes; changes--) {
            size_t at = random_below(&r, k % 2 ? 64 : (uint32_t)n);
            copy[at] = (uint8_t)(random_below(&r, 2) ? random_below(&r, 256) : copy[at] ^ 1u << random_below(&r, 8));
        }
        survives(copy, n);
    }
    memcpy(copy, payload, n);
    copy[n] = 0;
    assert_false(survives(copy, n + 1)); // nothing may follow
    free(copy);
    free(payload);
}

static void expect_bad_frame(const void *data, size_t n, const char *named) {
    upg_error e = {""};
    assert_null(upg_tokenizer_unpack(data, n, &e));
    if (!strstr(e.message, named)) fail_msg("'%s' does not say '%s'", e.message, named);
}

static void test_bad_frames(void **state) {
    (void)state;
    expect_bad_frame("", 0, "zstd");
    expect_bad_frame("UPGTOK", 6, "zstd");
    // A frame that says it holds 2^60 bytes, and one of a gigabyte of zeros in a few bytes.
    static const uint8_t huge[] = {0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0};
    expect_bad_frame(huge, sizeof huge, "declares");
    size_t n = 200 << 20;
    void *zeros = calloc(n, 1);
    assert_non_null(zeros);
    upg_buf bomb = compress(zeros, n);
    free(zeros);
    assert_true(bomb.size < 1 << 20);
    expect_bad_frame(bomb.data, bomb.size, "declares");
    upg_buf_free(&bomb);
    // Trailing bytes, a damaged frame, another version.
    size_t n_payload;
    uint8_t *payload = payload_of(&n_payload, CASE_LLAMA3);
    upg_buf frame = compress(payload, n_payload);
    upg_buf_add(&frame, "x", 1);
    expect_bad_frame(frame.data, frame.size, "one zstd frame");
    frame.data[frame.size / 2] ^= 0x55;
    upg_error e = {""};
    upg_tokenizer_free(upg_tokenizer_unpack((const uint8_t *)frame.data, frame.size - 1, &e));
    upg_buf_free(&frame);
    payload[6] = 9;
    frame = compress(payload, n_payload);
    expect_bad_frame(frame.data, frame.size, "version 9");
    upg_buf_free(&frame);
    free(payload);
}

// A merge list that doubles a token's length again and again is refused before the bytes are laid out: 256 byte tokens
// and 40 merges of each token with itself are a terabyte.
static void test_doubling(void **state) {
    (void)state;
    enum { BYTES = 256, MERGES = 40, SIZE = BYTES + MERGES };
    upg_buf b = {0};
    upg_buf_add(&b, "UPGTOK\x01", 7);
    upg_buf_add(&b, "\xA8\x02\x80\x02\x28\x00\x00\x00\x01\x00\x00",
                11); // 296 ids, 256 bytes, 40 merges, one plain stage
    for (int i = 0; i < SIZE; i++) upg_buf_add(&b, i < BYTES ? "\2" : "\1", 1);
    for (int i = 0; i < BYTES; i++) upg_buf_add(&b, "\1", 1);
    for (int i = 0; i < BYTES; i++) upg_buf_add(&b, &(uint8_t){(uint8_t)i}, 1);
    upg_buf_add(&b, "\x80\x04", 2); // product 256, then one more each time
    for (int i = 1; i < MERGES; i++) upg_buf_add(&b, "\2", 1);
    for (int side = 0; side < 2; side++)
        for (int plane = 0; plane < 2; plane++)
            for (int i = 0; i < MERGES; i++) {
                int id = i ? BYTES + i - 1 : 'a';
                upg_buf_add(&b, &(uint8_t){(uint8_t)(plane ? id : id >> 8)}, 1);
            }
    upg_buf frame = compress(b.data, b.size);
    expect_bad_frame(frame.data, frame.size, "damaged merge");
    upg_buf_free(&frame);
    upg_buf_free(&b);
}

// --- Memory ---

#if defined(__SANITIZE_ADDRESS__)
#define NO_FAULTS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NO_FAULTS 1
#endif
#endif

#ifndef NO_FAULTS
// The k-th allocation from here on fails, and all after it; -1: none. Of this program only.
static long long fail_after = -1;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t n);

static bool fault(void) {
    if (fail_after < 0) return false;
    if (fail_after == 0) return true;
    fail_after--;
    return false;
}
__attribute__((visibility("default"))) void *malloc(size_t n) {
    return fault() ? NULL : __libc_malloc(n);
}
__attribute__((visibility("default"))) void *calloc(size_t count, size_t size) {
    return fault() ? NULL : __libc_calloc(count, size);
}
__attribute__((visibility("default"))) void *realloc(void *p, size_t n) {
    return fault() ? NULL : __libc_realloc(p, n);
}

// Wherever memory ends, reading, packing, unpacking and encoding say so and leave nothing half done.
static void test_out_of_memory(void **state) {
    (void)state;
    yyjson_doc *doc;
    upg_buf json = plain_json(&doc, CASE_ADDED);
    char text[3000];
    rng r = {41};
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the of a"[random_below(&r, 8)];
    text[100] = (char)0xCC; // U+0301, so that normalization has work
    text[101] = (char)0x81;
    int failures = 0;
    for (int k = 0, passed = 0; !passed; k++) {
        upg_error e = {""};
        upg_buf packed = {0};
        upg_ids ids = {0};
        assert_int_equal(upg_ids_add(&ids, 7, NULL), 0);
        upg_tokenizer *again = NULL;
        fail_after = k;
        upg_tokenizer *t = upg_tokenizer_from_json(json.data, json.size, "{\"add_bos_token\":false}", &e);
        if (t && !upg_tokenizer_pack(t, &packed, &e))
            again = upg_tokenizer_unpack((uint8_t *)packed.data, packed.size, &e);
        passed = again && !upg_tokenizer_encode(again, text, sizeof text, true, &ids, &e);
        fail_after = -1;
        failures += !passed;
        assert_true(passed || e.message[0]);
        if (!passed) assert_int_equal(ids.size, 1);
        upg_tokenizer_free(again);
        upg_tokenizer_free(t);
        upg_buf_free(&packed);
        upg_ids_free(&ids);
    }
    assert_true(failures > 30);
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

static void test_spm_out_of_memory(void **state) {
    (void)state;
    size_t n;
    char *model = upg_read_text("tests/vectors/spm.model", 1 << 20, &n, NULL);
    assert_non_null(model);
    static const char config[] =
        "{\"added_tokens_decoder\":{\"499\":{\"content\":\"<e>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":"
        "false,\"normalized\":true,\"special\":true}},\"eos_token\":\"<e>\"}";
    char text[3000];
    rng r = {42};
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the of\xE9"[random_below(&r, 7)];
    int failures = 0;
    for (int k = 0, passed = 0; !passed; k++) {
        upg_error e = {""};
        upg_buf packed = {0};
        upg_ids ids = {0};
        upg_tokenizer *again = NULL;
        fail_after = k;
        upg_tokenizer *t = upg_tokenizer_from_spm(model, n, config, &e);
        if (t && !upg_tokenizer_pack(t, &packed, &e))
            again = upg_tokenizer_unpack((uint8_t *)packed.data, packed.size, &e);
        passed = again && !upg_tokenizer_encode(again, text, sizeof text, true, &ids, &e);
        fail_after = -1;
        failures += !passed;
        assert_true(passed || e.message[0]);
        if (!passed) assert_int_equal(ids.size, 0);
        upg_tokenizer_free(again);
        upg_tokenizer_free(t);
        upg_buf_free(&packed);
        upg_ids_free(&ids);
    }
    assert_true(failures > 30);
    free(model);
}
#else
static void test_spm_out_of_memory(void **state) {
    (void)state;
    print_message("the sanitizer owns malloc\n");
    skip();
}

static void test_out_of_memory(void **state) {
    (void)state;
    print_message("the sanitizer owns malloc\n");
    skip();
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unsupported),   cmocka_unit_test(test_wrong_json),
                                       cmocka_unit_test(test_deep_nesting),  cmocka_unit_test(test_damaged_payload),
                                       cmocka_unit_test(test_bad_frames),    cmocka_unit_test(test_doubling),
                                       cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_spm_out_of_memory)};
    return cmocka_run_group_tests_name("tokenizer_hostile", tests, NULL, NULL);
}
