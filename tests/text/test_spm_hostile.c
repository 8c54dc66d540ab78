// What must be refused or survived of SentencePiece's kind and of rank files: files that ask for something else,
// damaged ones, vocabularies made to hurt.
#include "tokenizer_helpers.h"
#include "text/tokenizer_internal.h"
#include <math.h>
#include <zstd.h>

// --- tokenizer.json ---

static void test_unsupported_json(void **state) {
    (void)state;
#define STRIP "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define FUSE  "{\"type\":\"Fuse\"}"
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"}", "{\"type\":\"Prepend\",\"prepend\":\"_\"}", "Prepend"},
        {"{\"type\":\"Prepend\"", "{\"type\":\"Lowercase\"},{\"type\":\"Prepend\"", "Lowercase"},
        {"{\"type\":\"Prepend\"", "{\"type\":\"NFC\"},{\"type\":\"Prepend\"", "NFC"},
        {"\"String\":\" \"}", "\"String\":\"x\"}", "Replace"},
        {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
         "ByteLevel"},
        {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Whitespace\"}", "Whitespace"},
        {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "Metaspace"},
        {"\"pre_tokenizer\":null",
         "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"last\"}",
         "prepend_scheme"},
        {"{\"type\":\"ByteFallback\"},", "", "decoder"},
        {"{\"type\":\"ByteFallback\"},", "{\"type\":\"WordPiece\"},", "WordPiece"},
        {FUSE "," STRIP, STRIP "," FUSE, "Strip"},
        {"\"start\":1", "\"start\":2", "Strip"},
        {"\"stop\":0", "\"stop\":1", "Strip"},
        {"\"unk_token\":\"<unk>\"", "\"unk_token\":\"<none>\"", "unk_token"},
        {"\"unk_token\":\"<unk>\"", "\"unk_token\":7", "unk_token"},
        {"\"byte_fallback\":true", "\"byte_fallback\":1", "byte_fallback"},
        {"\"byte_fallback\":true", "\"byte_fallback\":false", "decoder"},
        {"\"merges\":[", "\"merges\":[\"<0x41> a\",", "merge 0"},
        {"\"merges\":[", "\"merges\":[\"a nothere\",", "merge 0"},
        {"\"<0x00>\":", "\"<0x01>\":499,\"<0x00>\":", "second for its byte"},
        {"\"<0x00>\":", "\"<0x00>\":4000000,\"z\":", "ids go up to"},
    };
    yyjson_doc *doc = read_spm();
    yyjson_val *vectors = yyjson_doc_get_root(doc);
    upg_buf json = spm_json(vectors, yyjson_arr_get_first(get(vectors, "cases")));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_error e = {""};
        upg_buf b = {0};
        char *at = strstr(json.data, cases[i].from);
        if (!at) fail_msg("no %s in the file", cases[i].from);
        upg_buf_add(&b, json.data, (size_t)(at - json.data));
        upg_buf_fmt(&b, "%s%s", cases[i].to, at + strlen(cases[i].from));
        upg_tokenizer *t = upg_tokenizer_from_json(b.data, b.size, NULL, &e);
        if (t || !strstr(e.message, cases[i].named))
            fail_msg("expected a message with '%s', not '%s'", cases[i].named, t ? "success" : e.message);
        upg_buf_free(&b);
    }
    upg_buf_free(&json);
    yyjson_doc_free(doc);
}

// --- tokenizer.model ---

static void put_bytes(upg_buf *b, unsigned field, const void *p, size_t n) {
    uint8_t head[4] = {(uint8_t)(field << 3 | 2), (uint8_t)(n & 127) | 128, (uint8_t)(n >> 7 & 127) | 128,
                       (uint8_t)(n >> 14)};
    upg_buf_add(b, head, 4);
    upg_buf_add(b, p, n);
}

static void put_piece(upg_buf *b, const char *s, size_t n, float score, uint8_t type) {
    upg_buf piece = {0};
    put_bytes(&piece, 1, s, n);
    upg_buf_add(&piece, "\x15", 1);
    upg_buf_add(&piece, &score, 4);
    upg_buf_add(&piece, (uint8_t[]){0x18, type}, 2);
    put_bytes(b, 1, piece.data, piece.size);
    upg_buf_free(&piece);
}

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

// A small sound model; what follows it changes it.
static upg_buf small_model(void) {
    static const struct {
        const char *s;
        float score;
        uint8_t type;
    } pieces[] = {{"<unk>", 0, UNKNOWN}, {"<s>", 0, CONTROL}, {"\xE2\x96\x81", -9, NORMAL},
                  {"a", -9, NORMAL},     {"b", -9, NORMAL},   {"ab", -1, NORMAL},
                  {"aa", -2, NORMAL},    {"bb", -2, NORMAL},  {"<ud>", 0, USER_DEFINED},
                  {"<0x41>", 0, BYTE},   {"bbb", 0, UNUSED}};
    upg_buf b = {0};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(&b, pieces[i].s, strlen(pieces[i].s), pieces[i].score, pieces[i].type);
    put_bytes(&b, 2, "\x18\x02\x98\x02\x01", 5); // BPE, byte_fallback
    put_bytes(&b, 3, "\x20\x00", 2);             // no remove_extra_whitespaces
    return b;
}

static upg_tokenizer *read_model(const upg_buf *b, upg_error *e) {
    *e = (upg_error){""};
    assert_false(b->failed);
    return upg_tokenizer_from_spm(b->data, b->size, NULL, e);
}

static void expect_model_refused(upg_buf *b, const char *named) {
    upg_error e;
    upg_tokenizer *t = read_model(b, &e);
    if (t || !strstr(e.message, named))
        fail_msg("expected a message with '%s', not '%s'", named, t ? "success" : e.message);
    upg_buf_free(b);
}

static void test_models_refused(void **state) {
    (void)state;
    static const struct {
        const char *s;
        float score;
        uint8_t type;
        const char *named;
    } pieces[] = {{"ba", NAN, NORMAL, "not a number"},
                  {"ba", 0, 9, "unknown type"},
                  {"ba", 0, 0, "unknown type"},
                  {"<0x4>", 0, BYTE, "is not <0xNN>"},
                  {"<0x41>", 0, BYTE, "second for its byte"},
                  {"ab", 0, NORMAL, "the same bytes"},
                  {"<s>", 0, CONTROL, "match the same text"},
                  {"ac", 0, NORMAL, "a character that is no token"}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        upg_buf b = small_model();
        put_piece(&b, pieces[i].s, strlen(pieces[i].s), pieces[i].score, pieces[i].type);
        expect_model_refused(&b, pieces[i].named);
    }
    static const struct {
        unsigned field;
        const char *bytes;
        size_t n;
        const char *named;
    } fields[] = {{2, "\x18\x01", 2, "unigram"},
                  {2, "\x18\x77", 2, "not supported"},
                  {2, "\xC0\x01\x01", 3, "treat_whitespace_as_suffix"},
                  {3, "\x12\x01x", 3, "precompiled_charsmap"},
                  {3, "\x20\x01", 2, "remove_extra_whitespaces"},
                  {3, "\x28\x00", 2, "escape_whitespaces"},
                  {3, "\x28", 1, "no SentencePiece model"},
                  {1, "\x0A\x7F", 2, "no SentencePiece model"},
                  {1, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 11, "no SentencePiece model"}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        upg_buf b = small_model();
        put_bytes(&b, fields[i].field, fields[i].bytes, fields[i].n);
        expect_model_refused(&b, fields[i].named);
    }
    upg_buf empty = {0}, text = {0}, longest = small_model();
    expect_model_refused(&empty, "no SentencePiece model");
    upg_buf_str(&text, "IQ== 0\nIg== 1\n");
    expect_model_refused(&text, "no SentencePiece model");
    char many[2000];
    memset(many, 'a', sizeof many);
    put_piece(&longest, many, sizeof many, 0, NORMAL);
    expect_model_refused(&longest, "longer than");
}

// Every truncation and many changes of a model are refused with a message or give a tokenizer that works.
static void test_damaged_model(void **state) {
    (void)state;
    size_t n;
    char *model = upg_read_text("tests/vectors/spm.model", 1 << 20, &n, NULL);
    assert_non_null(model);
    rng r = {71};
    for (size_t k = 0; k < 1500; k++) {
        upg_error e;
        upg_buf b = {0};
        upg_buf_add(&b, model, k < 500 ? n - k : n);
        for (uint32_t changes = k < 500 ? 0 : 1 + random_below(&r, 3); changes; changes--)
            b.data[random_below(&r, (uint32_t)b.size)] = (char)random_below(&r, 256);
        upg_tokenizer *t = read_model(&b, &e);
        assert_true(t || e.message[0]);
        if (t) {
            upg_ids ids = encode(t, "the of <s>\xC3\xA9 \xFF", 14, k % 2);
            upg_buf out = decode(t, &ids, true);
            upg_buf_free(&out);
            upg_ids_free(&ids);
        }
        upg_tokenizer_free(t);
        upg_buf_free(&b);
    }
    free(model);
}

static void expect_encoding(const upg_tokenizer *t, const char *text, const int32_t *expected, size_t n) {
    upg_tokenizer *packed = repack(t);
    upg_ids ids = encode(t, text, strlen(text), false), again = encode(packed, text, strlen(text), false);
    assert_int_equal(ids.size, n);
    assert_int_equal(again.size, n);
    assert_memory_equal(ids.data, expected, n * sizeof *expected);
    assert_memory_equal(again.data, expected, n * sizeof *expected);
    upg_ids_free(&again);
    upg_ids_free(&ids);
    upg_tokenizer_free(packed);
}

// Infinite scores are in order like others; equal ones merge from the left; a character without all its byte tokens is
// unknown, a run of them once; unused tokens are never made; user-defined ones always are.
static void test_small_model(void **state) {
    (void)state;
    upg_error e;
    upg_buf b = small_model();
    put_piece(&b, "ba", 2, INFINITY, NORMAL); // 11
    put_piece(&b,
              "\xE2\x96\x81"
              "a",
              4, -INFINITY, NORMAL); // 12
    upg_tokenizer *t = read_model(&b, &e);
    if (!t) fail_msg("%s", e.message);
    expect_encoding(t, "aba", (int32_t[]){12, 11}, 2);
    expect_encoding(t, "bbb", (int32_t[]){2, 7, 4}, 3);
    expect_encoding(t,
                    "A\xC3\xA9\xFF"
                    "b",
                    (int32_t[]){2, 9, 0, 4}, 4);
    expect_encoding(t, "b<ud>b", (int32_t[]){2, 4, 8, 2, 4}, 5);
    upg_tokenizer_free(t);
    upg_buf_free(&b);
}

// All lengths of one letter, so that every halving of every token is a merge: the merges are many and the encoding of a
// long text still takes a moment.
static void test_many_merges(void **state) {
    (void)state;
    enum { N = 1000, TEXT = 1000000 };
    upg_error e;
    upg_buf b = small_model();
    char *a = malloc(TEXT);
    assert_non_null(a);
    memset(a, 'a', TEXT);
    for (int i = 3; i <= N; i++) put_piece(&b, a, (size_t)i, (float)-i, NORMAL);
    upg_tokenizer *t = read_model(&b, &e);
    if (!t) fail_msg("%s", e.message);
    assert_true(t->n_merges > N * (N - 1) / 2);
    upg_ids ids = encode(t, a, TEXT, false);
    upg_buf out = decode(t, &ids, false);
    assert_int_equal(out.size, TEXT);
    upg_buf_free(&out);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    upg_buf_free(&b);
    free(a);
}

static void test_configs_refused(void **state) {
    (void)state;
#define FLAGS "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true"
    static const struct {
        const char *config, *named;
    } cases[] = {{"[]", "tokenizer_config.json"},
                 {"{", "tokenizer_config.json"},
                 {"{\"added_tokens_decoder\":[]}", "added_tokens_decoder"},
                 {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"<y>\"," FLAGS "}}}", "id"},
                 {"{\"added_tokens_decoder\":{\"4000000\":{\"content\":\"<y>\"," FLAGS "}}}", "ids go up to"},
                 {"{\"added_tokens_decoder\":{\"99999999999\":{\"content\":\"<y>\"," FLAGS "}}}", "id"},
                 {"{\"added_tokens_decoder\":{\"1\":{\"content\":\"<y>\"," FLAGS "}}}", "elsewhere"},
                 {"{\"added_tokens_decoder\":{\"20\":{\"content\":\"<y>\"}}}", "single_word"},
                 {"{\"added_tokens_decoder\":{\"20\":{\"content\":\"<s>\"," FLAGS "}}}", "the same text"},
                 {"{\"added_tokens_decoder\":{\"9\":{\"content\":\"<0x41>\"," FLAGS "}}}", "special token"},
                 {"{\"add_eos_token\":1}", "add_eos_token"},
                 {"{\"add_bos_token\":true,\"bos_token\":\"<y>\"}", "bos_token"}};
    upg_buf b = small_model();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_error e = {""};
        upg_tokenizer *t = upg_tokenizer_from_spm(b.data, b.size, cases[i].config, &e);
        if (t || !strstr(e.message, cases[i].named))
            fail_msg("%s: expected '%s', not '%s'", cases[i].config, cases[i].named, t ? "success" : e.message);
    }
    upg_buf_free(&b);
}

// --- Rank files ---

static upg_buf byte_ranks(void) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    upg_buf b = {0};
    for (unsigned i = 0; i < 256; i++) upg_buf_fmt(&b, "%c%c== %u\n", digits[i >> 2], digits[(i & 3) << 4], i);
    return b;
}

static void test_ranks(void **state) {
    (void)state;
    static const struct {
        const char *lines, *name, *named;
    } cases[] = {{"YWI= 256\n", "x.tiktoken", "'x' is not implemented"},
                 {"YWI= 256\nYWI= 257\n", "cl100k_base.tiktoken", "the same bytes"},
                 {"YWI= 255\n", "cl100k_base.tiktoken", "there twice"},
                 {"YWI 256\n", "cl100k_base.tiktoken", "not base64"},
                 {"Y!I= 256\n", "cl100k_base.tiktoken", "not base64"},
                 {"YWI=\n", "cl100k_base.tiktoken", "line 257"},
                 {"YWI= -1\n", "cl100k_base.tiktoken", "line 257"},
                 {"YWI= 99999999999999999999\n", "cl100k_base.tiktoken", "line 257"},
                 {"YWI= 4000000\n", "cl100k_base.tiktoken", "go up to"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_error e = {""};
        upg_buf b = byte_ranks();
        upg_buf_str(&b, cases[i].lines);
        upg_tokenizer *t = upg_tokenizer_from_ranks(cases[i].name, b.data, b.size, NULL, &e);
        if (t || !strstr(e.message, cases[i].named))
            fail_msg("%s: expected '%s', not '%s'", cases[i].lines, cases[i].named, t ? "success" : e.message);
        upg_buf_free(&b);
    }
    upg_error e = {""};
    upg_buf b = byte_ranks();
    assert_null(upg_tokenizer_from_ranks("gpt2.tiktoken", b.data + 7, b.size - 7, NULL, &e));
    assert_non_null(strstr(e.message, "byte 0x00 has no token"));
    upg_buf_str(&b, "AAE= 260\r\nAAEA 300"); // a gap, another line end, none
    upg_tokenizer *t = upg_tokenizer_from_ranks("gpt2.tiktoken", b.data, b.size, NULL, &e);
    if (!t) fail_msg("%s", e.message);
    assert_int_equal(upg_tokenizer_size(t), 301);
    upg_ids ids = encode(t, "\0\1\0\1", 4, false); // the whole piece is no token: the lowest rank, leftmost
    assert_int_equal(ids.size, 2);
    assert_int_equal(ids.data[0], 260);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    upg_buf_free(&b);
}

// --- The packed form ---

static uint8_t *payload_of(const upg_tokenizer *t, size_t *n) {
    upg_buf packed = {0};
    assert_int_equal(upg_tokenizer_pack(t, &packed, NULL), 0);
    *n = (size_t)ZSTD_getFrameContentSize(packed.data, packed.size);
    uint8_t *payload = malloc(*n + 1);
    assert_non_null(payload);
    assert_int_equal(ZSTD_decompress(payload, *n, packed.data, packed.size), *n);
    upg_buf_free(&packed);
    return payload;
}

static bool survives(const void *payload, size_t n) {
    upg_error e = {""};
    char *frame = malloc(ZSTD_compressBound(n));
    assert_non_null(frame);
    size_t size = ZSTD_compress(frame, ZSTD_compressBound(n), payload, n, 1);
    upg_tokenizer *t = upg_tokenizer_unpack((uint8_t *)frame, size, &e);
    free(frame);
    if (!t) assert_true(e.message[0]);
    if (!t) return false;
    upg_ids ids = encode(t, "the <s> tool\n caf\xC3\xA9 \xFF", 22, true);
    upg_buf out = decode(t, &ids, true);
    upg_buf_free(&out);
    upg_ids_free(&ids);
    upg_tokenizer_free(t);
    return true;
}

static void test_damaged_payload(void **state) {
    (void)state;
    upg_error e;
    upg_buf model = small_model();
    yyjson_doc *doc = read_spm();
    yyjson_val *vectors = yyjson_doc_get_root(doc);
    upg_buf json = spm_json(vectors, yyjson_arr_get(get(vectors, "cases"), 2));
    for (int k = 0; k < 2; k++) {
        upg_tokenizer *t = k ? load(&json, NULL) : read_model(&model, &e);
        assert_non_null(t);
        size_t n;
        uint8_t *payload = payload_of(t, &n), *copy = malloc(n + 1);
        assert_non_null(copy);
        assert_true(survives(payload, n));
        for (size_t i = 0; i < n; i++) assert_false(survives(payload, i));
        rng r = {72};
        for (int i = 0; i < 2000; i++) {
            memcpy(copy, payload, n);
            for (uint32_t changes = 1 + random_below(&r, 3); changes; changes--)
                copy[random_below(&r, i % 2 && n > 64 ? 64 : (uint32_t)n)] = (uint8_t)random_below(&r, 256);
            survives(copy, n);
        }
        copy[n] = 0;
        assert_false(survives(copy, n + 1));
        free(copy);
        free(payload);
        upg_tokenizer_free(t);
    }
    upg_buf_free(&json);
    upg_buf_free(&model);
    yyjson_doc_free(doc);
}

// What version 1 wrote is read as it was meant; its flags and kinds only.
static void test_version_1(void **state) {
    (void)state;
    size_t n, size;
    char *seed = upg_read_text("tests/fuzz/seeds/tokenizer/packed", 1 << 20, &n, NULL);
    assert_non_null(seed);
    upg_error e = {""};
    upg_tokenizer *t = upg_tokenizer_unpack((uint8_t *)seed + 1, n - 1, &e); // the first byte is the fuzzer's
    if (!t) fail_msg("%s", e.message);
    upg_tokenizer *again = repack(t);
    for (int i = 0; i < UPG_N_ROLES; i++) assert_int_equal(upg_tokenizer_role(again, (upg_token_role)i), -1);
    assert_int_equal(upg_tokenizer_size(again), upg_tokenizer_size(t));
    upg_ids a = encode(t, "the tool", 8, true), b = encode(again, "the tool", 8, true);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size * sizeof *a.data);
    upg_ids_free(&a);
    upg_ids_free(&b);
    uint8_t *payload = payload_of(again, &size);
    assert_int_equal(payload[6], 2);
    payload[6] = 1; // the roles are then taken for what follows them
    assert_false(survives(payload, size));
    free(payload);
    upg_tokenizer_free(again);
    upg_tokenizer_free(t);
    free(seed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unsupported_json),
                                       cmocka_unit_test(test_models_refused),
                                       cmocka_unit_test(test_damaged_model),
                                       cmocka_unit_test(test_small_model),
                                       cmocka_unit_test(test_many_merges),
                                       cmocka_unit_test(test_configs_refused),
                                       cmocka_unit_test(test_ranks),
                                       cmocka_unit_test(test_damaged_payload),
                                       cmocka_unit_test(test_version_1)};
    return cmocka_run_group_tests_name("spm_hostile", tests, NULL, NULL);
}
