// Any bytes as a tokenizer.json, tokenizer.model or rank file, as a packed tokenizer, or as text for a small tokenizer.
// The first byte says which.
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include "text/tokenizer_internal.h"

static void require(bool truth) {
    if (!truth) abort();
}

// Ids are in range, no control token appears uninvited (the one for unknown characters is no harm), and, if exact
// (nothing strips), the bytes come back as they are normalised.
static void check_encoding(const upg_tokenizer *t, const char *text, size_t n, bool special, bool exact) {
    upg_ids ids = {0};
    upg_buf bytes = {0}, out = {0}, expected = {0};
    upg_detokenizer d = {0};
    upg_error e;
    if (upg_tokenizer_encode(t, text, n, special, &ids, &e)) goto done;
    for (size_t i = 0; i < ids.size; i++) {
        size_t len;
        const char *p = upg_tokenizer_bytes(t, ids.data[i], &len);
        require(ids.data[i] >= 0 && ids.data[i] < upg_tokenizer_size(t));
        require(special || !upg_tokenizer_is_special(t, ids.data[i]) || (t->spm.on && ids.data[i] == t->spm.unk));
        upg_buf_add(&bytes, p, len);
        upg_detokenizer_push(&d, t, ids.data[i], special, &out);
    }
    upg_detokenizer_finish(&d, &out);
    if (exact && t->spm.on)
        upg_spm_spaces((const uint8_t *)text, n, n > 0, &expected);
    else if (exact)
        upg_buf_add(&expected, text, n);
    if (exact && !bytes.failed && !expected.failed)
        require(bytes.size == expected.size && (!bytes.size || !memcmp(bytes.data, expected.data, bytes.size)));
done:
    upg_ids_free(&ids);
    upg_buf_free(&bytes);
    upg_buf_free(&out);
    upg_buf_free(&expected);
}

// What comes out of the packed form encodes alike and packs to the same bytes.
static void check_packing(const upg_tokenizer *t, const char *text, size_t n) {
    upg_buf packed = {0}, twice = {0};
    upg_ids a = {0}, b = {0};
    upg_error e;
    require(!upg_tokenizer_pack(t, &packed, &e));
    upg_tokenizer *again = upg_tokenizer_unpack((const uint8_t *)packed.data, packed.size, &e);
    require(again != NULL);
    require(upg_tokenizer_size(again) == upg_tokenizer_size(t) && upg_tokenizer_bos(again) == upg_tokenizer_bos(t));
    require(!upg_tokenizer_encode(t, text, n, true, &a, &e) && !upg_tokenizer_encode(again, text, n, true, &b, &e));
    require(a.size == b.size && (!a.size || !memcmp(a.data, b.data, a.size * sizeof *a.data)));
    require(!upg_tokenizer_pack(again, &twice, &e));
    require(twice.size == packed.size && !memcmp(twice.data, packed.data, packed.size));
    upg_ids_free(&a);
    upg_ids_free(&b);
    upg_tokenizer_free(again);
    upg_buf_free(&packed);
    upg_buf_free(&twice);
}

// A tokenizer.json around the fuzzer's JSON: 256 byte tokens, some merges, and what data says from "added_tokens" on.
static upg_tokenizer *framed(const char *data, size_t n, upg_error *e) {
    upg_buf b = {0};
    upg_buf_str(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int k = 0; k < 256; k++) {
        bool printable = (k >= 0x21 && k <= 0x7E) || (k >= 0xA1 && k <= 0xAC) || k >= 0xAE;
        int c = printable ? k : 256 + (k <= 0x20 ? k : k == 0xAD ? 67 : k - 0x7F + 33);
        upg_buf_fmt(&b, "\"\\u%04x\":%d,", (unsigned)c, k);
    }
    upg_buf_str(&b,
                "\"ab\":256,\"bc\":257,\"abc\":258,\"<s>\":259},\"merges\":[\"a b\",\"b c\",\"ab c\",[\"a\",\"bc\"]]}");
    upg_buf_add(&b, data, n);
    upg_tokenizer *t = upg_buf_check(&b, e) ? NULL : upg_tokenizer_from_json(b.data, b.size, NULL, e);
    upg_buf_free(&b);
    return t;
}

// The same of SentencePiece's kind, whose merges include control tokens and runs of spaces.
static upg_tokenizer *framed_spm(const char *data, size_t n, upg_error *e) {
    upg_buf b = {0};
    upg_buf_str(
        &b,
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\",\"vocab\":{");
    for (int k = 0; k < 256; k++) upg_buf_fmt(&b, "\"<0x%02X>\":%d,", (unsigned)k, k);
    upg_buf_str(
        &b, "\"<unk>\":256,\"<s>\":257,\"<\":258,\"s\":259,\">\":260,\"<s\":261,\"\u2581\":262,\"\u2581\u2581\":263,"
            "\"a\":264,"
            "\"b\":265,\"ab\":266,\"\u2581a\":267,\"\u00e9\":268,\"a\u00e9\":269},\"merges\":[\"a b\",\"< s\",\"<s >\","
            "\"\u2581 \u2581\",\"\u2581 a\",\"a "
            "\u00e9\"]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
            "\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}");
    upg_buf_add(&b, data, n);
    upg_tokenizer *t = upg_buf_check(&b, e) ? NULL : upg_tokenizer_from_json(b.data, b.size, NULL, e);
    upg_buf_free(&b);
    return t;
}

// A configuration, a NUL and a SentencePiece model.
static upg_tokenizer *configured(const char *data, size_t n, upg_error *e) {
    const char *nul = memchr(data, 0, n);
    if (!nul) return upg_tokenizer_from_spm(data, n, NULL, e);
    return upg_tokenizer_from_spm(nul + 1, n - (size_t)(nul + 1 - data), data, e);
}

static upg_tokenizer *compressed(const uint8_t *data, size_t n, upg_error *e) {
    size_t bound = ZSTD_compressBound(n);
    uint8_t *frame = malloc(bound);
    if (!frame) return NULL;
    upg_tokenizer *t = upg_tokenizer_unpack(frame, ZSTD_compress(frame, bound, data, n, 1), e);
    free(frame);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    static const char *const endings[] = {
        ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}}",
        ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}}"};
    static const char spm_ending[] =
        ",\"added_tokens\":[{\"id\":257,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
        "\"Prepend\","
        "\"prepend\":\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]}}";
    const char *text = (const char *)data + 1;
    upg_error e = {""};
    upg_tokenizer *t;
    bool exact = false;
    switch (*data % 12) {
    case 0: t = upg_tokenizer_from_json(text, size - 1, NULL, &e); break;
    case 1: t = upg_tokenizer_unpack(data + 1, size - 1, &e); break;
    case 2: t = compressed(data + 1, size - 1, &e); break;
    case 3: t = framed(text, size - 1, &e); break;
    case 4:
    case 5:
        t = framed(endings[*data % 12 - 4], strlen(endings[*data % 12 - 4]), &e);
        require(t != NULL);
        exact = true;
        break;
    case 6: t = upg_tokenizer_from_spm(text, size - 1, NULL, &e); break;
    case 7: t = configured(text, size - 1, &e); break;
    case 8: t = framed_spm(text, size - 1, &e); break;
    case 9: t = upg_tokenizer_from_ranks("cl100k_base.tiktoken", text, size - 1, NULL, &e); break;
    case 10: t = upg_tokenizer_from_ranks("qwen.tiktoken", text, size - 1, NULL, &e); break;
    default:
        t = framed_spm(spm_ending, sizeof spm_ending - 1, &e);
        require(t != NULL);
        exact = true;
    }
    require(t || e.message[0]);
    if (t) check_encoding(t, text, size - 1, false, exact);
    if (t) check_encoding(t, text, size - 1, true, false);
    if (t && !exact) check_packing(t, text, size - 1);
    upg_tokenizer_free(t);
    return 0;
}
