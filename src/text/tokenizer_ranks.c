// Reading a tiktoken rank file: a line for each token, its bytes in base64 and its rank, which is also its id. Of all
// pairs of neighbours that make a token the one of lowest rank merges, and a piece that is a token is not merged at
// all. The file has no pattern; its name, which is that of the encoding, tells it.
#include "text/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK_BYTES = 64 << 20 };

static const struct encoding {
    const char *name, *pattern;
    bool nfc;
} encodings[] = {{"gpt2", "gpt2", false},           {"r50k_base", "gpt2", false},     {"p50k_base", "gpt2", false},
                 {"p50k_edit", "gpt2", false},      {"cl100k_base", "cl100k", false}, {"o200k_base", "o200k", false},
                 {"o200k_harmony", "o200k", false}, {"qwen", "qwen2", true}};

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// The bytes that s[0..n) encodes, at most n; -1 if it is not base64.
static int64_t base64_bytes(const char *s, size_t n, uint8_t *out) {
    uint32_t bits = 0;
    size_t size = 0, digits = n;
    if (n % 4) return -1;
    for (int k = 0; k < 2 && digits && s[digits - 1] == '='; k++) digits--;
    for (size_t i = 0; i < digits; i++) {
        int d = base64_digit(s[i]);
        if (d < 0) return -1;
        bits = bits << 6 | (uint32_t)d;
        if (i % 4) out[size++] = (uint8_t)(bits >> (6 - i % 4 * 2));
    }
    return (int64_t)size;
}

typedef struct entry {
    const char *s; // base64
    size_t n;
} entry;

// Finds the line's parts; false if it is not a token and a rank.
static bool read_line(const char *line, size_t n, entry *found, int32_t *rank) {
    if (n && line[n - 1] == '\r') n--;
    const char *space = memchr(line, ' ', n);
    if (!space || space == line) return false;
    *found = (entry){line, (size_t)(space - line)};
    *rank = upg_decimal_id(space + 1, n - found->n - 1);
    return *rank >= 0;
}

// The entries by rank, [*size], and how many lines there are.
static entry *read_lines(const char *text, size_t size, int32_t *n_ranks, size_t *n_lines, upg_error *e) {
    entry *entries = NULL, one;
    int32_t rank, last = -1;
    for (int pass = 0; pass < 2; pass++) {
        *n_lines = 0;
        for (size_t i = 0, n; i < size; i += n + 1) {
            const char *end = memchr(text + i, '\n', size - i);
            n = end ? (size_t)(end - text) - i : size - i;
            if (!n) continue;
            ++*n_lines;
            if (!read_line(text + i, n, &one, &rank)) {
                upg_fail(e, "rank file: line %zu is not a token and its rank", *n_lines);
                goto fail;
            }
            if (rank > last) last = rank;
            if (!pass) continue;
            if (entries[rank].s) {
                upg_fail(e, "rank file: rank %d is there twice", (int)rank);
                goto fail;
            }
            entries[rank] = one;
        }
        // Memory follows the largest rank, so that must follow the size of the file.
        if (last < 0 || (size_t)last > 65536 + 4 * *n_lines) {
            upg_fail(e, "rank file: ranks go up to %d in %zu lines", (int)last, *n_lines);
            goto fail;
        }
        if (!pass && !(entries = upg_alloc((size_t)last + 1, sizeof *entries, e))) return NULL;
    }
    *n_ranks = last + 1;
    return entries;
fail:
    free(entries);
    return NULL;
}

static int lay_out(upg_tokenizer *t, const entry *entries, int32_t n_ranks, upg_error *e) {
    t->rank = upg_alloc((size_t)t->size, sizeof *t->rank, e);
    if (!t->rank) return -1;
    for (int32_t id = 0; id < n_ranks; id++) {
        int64_t n = entries[id].s ? base64_bytes(entries[id].s, entries[id].n, t->bytes + t->offset[id]) : 0;
        if (n < 0) return upg_fail(e, "rank file: the token of rank %d is not base64", (int)id);
        t->offset[id + 1] = t->offset[id] + (uint32_t)n;
        t->flags[id] = entries[id].s ? UPG_TOKEN_MODEL : 0;
        t->rank[id] = (uint32_t)id;
    }
    return 0;
}

static int read_ranks(upg_tokenizer *t, const char *text, size_t size, yyjson_val *config, upg_error *e) {
    int32_t n_ranks;
    size_t n_lines, total = 0;
    entry *entries = read_lines(text, size, &n_ranks, &n_lines, e);
    if (!entries) return -1;
    for (int32_t i = 0; i < n_ranks; i++) total += entries[i].n;
    int rc = upg_count_tokens(t, n_ranks, n_lines, config, &total, e);
    if (!rc) rc = upg_alloc_tokens(t, total, e);
    if (!rc) rc = lay_out(t, entries, n_ranks, e);
    if (!rc) rc = upg_read_added_decoder(t, config, e);
    if (!rc) rc = upg_place_added(t, n_ranks, e);
    free(entries);
    if (rc || upg_tokenizer_index_tokens(t, e)) return -1;
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] < 0) return upg_fail(e, "rank file: byte 0x%02x has no token", (unsigned)b);
    if (upg_tokenizer_derive_merges(t, e) || upg_tokenizer_index(t, e)) return -1;
    return config ? upg_read_roles(t, config, e) : 0;
}

static int set_pattern(upg_tokenizer *t, const char *name, upg_error *e) {
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name, *dot = strrchr(base, '.');
    size_t n = dot ? (size_t)(dot - base) : strlen(base);
    const upg_pattern *pattern = NULL;
    for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++) {
        if (strlen(encodings[i].name) != n || memcmp(encodings[i].name, base, n)) continue;
        pattern = upg_pattern_by_name(encodings[i].pattern, strlen(encodings[i].pattern));
        t->nfc = encodings[i].nfc;
    }
    if (!pattern) return upg_fail(e, "rank file: the encoding '%.*s' is not implemented", n < 100 ? (int)n : 100, base);
    t->n_stages = 1;
    t->stages[0] = (upg_stage){pattern, false};
    t->ignore_merges = true;
    return 0;
}

upg_tokenizer *upg_tokenizer_from_ranks(const char *name, const char *text, size_t size, const char *config,
                                        upg_error *e) {
    if (size > MAX_RANK_BYTES) {
        upg_fail(e, "rank file: more than %d bytes", MAX_RANK_BYTES);
        return NULL;
    }
    yyjson_doc *doc = config ? upg_tokenizer_parse(config, strlen(config), "tokenizer_config.json", e) : NULL;
    upg_tokenizer *t = config && !doc ? NULL : upg_alloc(1, sizeof *t, e);
    if (t) upg_clear_roles(t);
    if (t && (set_pattern(t, name, e) || read_ranks(t, text, size, yyjson_doc_get_root(doc), e))) {
        upg_tokenizer_free(t);
        t = NULL;
    }
    yyjson_doc_free(doc);
    return t;
}
