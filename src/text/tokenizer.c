// Encoding and the small questions about a tokenizer. Text flows through four steps, each handing its pieces to the
// next without lists in between: added tokens are cut out, the rest is normalised, added tokens that match normalised
// text are cut out, and what remains is cut by the stages of the pre-tokenizer (or, of SentencePiece's kind, at spaces)
// into pieces that BPE turns into ids.
#include "text/piece_cache.h"
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include <stdlib.h>
#include <string.h>

static int ids_grow(upg_ids *ids, upg_error *e) {
    if (ids->capacity > SIZE_MAX / 2 / sizeof *ids->data) return upg_fail(e, "out of memory: too many ids");
    size_t capacity = ids->capacity ? ids->capacity * 2 : 64;
    int32_t *p = upg_resize(ids->data, capacity, sizeof *p, e);
    if (!p) return -1;
    ids->data = p;
    ids->capacity = capacity;
    return 0;
}

int upg_ids_add(upg_ids *ids, int32_t id, upg_error *e) {
    if (ids->size == ids->capacity && ids_grow(ids, e)) return -1;
    ids->data[ids->size++] = id;
    return 0;
}

void upg_ids_free(upg_ids *ids) {
    free(ids->data);
    *ids = (upg_ids){0};
}

typedef struct encoder {
    const upg_tokenizer *t;
    bool special;
    bool at_start; // of the text: the part that is being encoded begins there
    const uint8_t *text, *part;
    upg_ids *out;
    upg_error *e;
    upg_bpe bpe;
    upg_buf prefixed, normalized;
    upg_piece_cache cache;
} encoder;

static int encode_uncached(encoder *c, const uint8_t *p, size_t n) {
    const upg_tokenizer *t = c->t;
    if (n <= t->max_whole) {
        int32_t id = upg_piece_find(t, p, n);
        if (id >= 0 && (t->flags[id] & UPG_TOKEN_WHOLE) && (c->special || !(t->flags[id] & UPG_TOKEN_SPECIAL)))
            return upg_ids_add(c->out, id, c->e);
    }
    return upg_bpe_merge(t, &c->bpe, p, n, c->special, c->out, c->e);
}

static int encode_piece(encoder *c, const uint8_t *p, size_t n) {
    if (n > UPG_CACHED_BYTES || !c->cache.slots) return encode_uncached(c, p, n);
    uint64_t first, last;
    upg_piece_key(p, n, &first, &last);
    upg_cached_piece *s = upg_piece_slot_of(&c->cache, first, last, n);
    upg_ids *out = c->out;
    if (s->size == n && s->first == first && s->last == last) {
        if (out->capacity - out->size < UPG_CACHED_IDS && ids_grow(out, c->e)) return -1;
        memcpy(out->data + out->size, s->ids, sizeof s->ids);
        out->size += s->n_ids;
        return 0;
    }
    size_t before = out->size;
    if (encode_uncached(c, p, n)) return -1;
    size_t n_ids = out->size - before;
    if (!n_ids || n_ids > UPG_CACHED_IDS) return 0;
    *s = (upg_cached_piece){.first = first, .last = last, .size = (uint32_t)n, .n_ids = (uint32_t)n_ids};
    memcpy(s->ids, out->data + before, n_ids * sizeof *s->ids);
    return 0;
}

// Runs the stages from the given one on p[0..n), n > 0. Recursion is as deep as there are stages.
static int encode_stage(encoder *c, int stage, const uint8_t *p, size_t n) {
    const upg_stage *s = &c->t->stages[stage];
    bool last = stage + 1 == c->t->n_stages;
    if (s->prefix_space && *p != ' ') { // only the last stage has it, so the buffer is not in use
        c->prefixed.size = 0;
        upg_buf_add(&c->prefixed, " ", 1);
        upg_buf_add(&c->prefixed, p, n);
        if (upg_buf_check(&c->prefixed, c->e)) return -1;
        p = (const uint8_t *)c->prefixed.data;
        n++;
    }
    if (!s->pattern) return last ? encode_piece(c, p, n) : encode_stage(c, stage + 1, p, n);
    for (size_t i = 0, len; i < n; i += len) {
        len = s->pattern->scan(p + i, n - i);
        if (last ? encode_piece(c, p + i, len) : encode_stage(c, stage + 1, p + i, len)) return -1;
    }
    return 0;
}

static int encode_token(void *context, int32_t id) {
    encoder *c = context;
    return upg_ids_add(c->out, id, c->e);
}

static int encode_spm(encoder *c, const uint8_t *p, size_t n) {
    const upg_spm *s = &c->t->spm;
    if (s->metaspace != UPG_METASPACE_NONE) {
        bool has_space = *p == ' ' || (n >= 3 && !memcmp(p, "\xE2\x96\x81", 3));
        bool prefix = !has_space && (s->metaspace == UPG_METASPACE_ALWAYS ||
                                     (s->metaspace == UPG_METASPACE_FIRST && c->at_start && p == c->part));
        c->prefixed.size = 0;
        upg_spm_spaces(p, n, prefix, &c->prefixed);
        if (upg_buf_check(&c->prefixed, c->e)) return -1;
        p = (const uint8_t *)c->prefixed.data;
        n = c->prefixed.size;
    }
    for (size_t i = 0, len; i < n; i += len) {
        len = upg_spm_piece(s, p + i, n - i);
        if (encode_piece(c, p + i, len)) return -1;
    }
    return 0;
}

static int encode_text(void *context, const uint8_t *p, size_t n) {
    encoder *c = context;
    return c->t->spm.on ? encode_spm(c, p, n) : encode_stage(c, 0, p, n);
}

int upg_normalize(const upg_tokenizer *t, const uint8_t *p, size_t n, upg_buf *out, upg_error *e) {
    if (t->nfc) return upg_nfc(p, n, out, e);
    upg_spm_spaces(p, n, t->spm.prepend && n, out);
    return upg_buf_check(out, e);
}

static int encode_part(void *context, const uint8_t *p, size_t n) {
    encoder *c = context;
    c->at_start = p == c->text;
    if (c->t->nfc || c->t->spm.replace) {
        c->normalized.size = 0;
        if (upg_normalize(c->t, p, n, &c->normalized, c->e)) return -1;
        p = (const uint8_t *)c->normalized.data;
        n = c->normalized.size;
    }
    c->part = p;
    upg_match_sink sink = {.context = c, .text = encode_text, .token = encode_token};
    return upg_matcher_split(&c->t->after_nfc, p, n, c->special, &sink);
}

int upg_tokenizer_encode_part(const upg_tokenizer *t, const char *text, size_t n, bool at_start, bool special,
                              upg_ids *out, upg_error *e) {
    size_t size = out->size;
    encoder c = {.t = t, .special = special, .text = at_start ? (const uint8_t *)text : NULL, .out = out, .e = e};
    upg_match_sink sink = {.context = &c, .text = encode_part, .token = encode_token};
    int rc = upg_piece_cache_make(&c.cache, n, e);
    if (!rc && n) rc = upg_matcher_split(&t->before_nfc, (const uint8_t *)text, n, special, &sink);
    if (rc) out->size = size;
    upg_bpe_free(&c.bpe);
    upg_buf_free(&c.prefixed);
    upg_buf_free(&c.normalized);
    upg_aligned_free(c.cache.slots);
    return rc;
}

int upg_tokenizer_encode(const upg_tokenizer *t, const char *text, size_t n, bool special, upg_ids *out, upg_error *e) {
    return upg_tokenizer_encode_part(t, text, n, true, special, out, e);
}

int32_t upg_tokenizer_size(const upg_tokenizer *t) {
    return t->size;
}

int32_t upg_tokenizer_bos(const upg_tokenizer *t) {
    return t->bos;
}

bool upg_tokenizer_adds_eos(const upg_tokenizer *t) {
    return t->add_eos;
}

int32_t upg_tokenizer_role(const upg_tokenizer *t, upg_token_role role) {
    return t->role[role];
}

int32_t upg_tokenizer_find(const upg_tokenizer *t, const char *special) {
    size_t n = strlen(special);
    for (int32_t i = 0; i < t->n_added; i++) {
        const upg_added *a = &t->added[i];
        if ((a->flags & UPG_ADDED_SPECIAL) && a->size == n && !memcmp(a->content, special, n)) return a->id;
    }
    return -1;
}

const char *upg_tokenizer_bytes(const upg_tokenizer *t, int32_t id, size_t *n) {
    bool known = id >= 0 && id < t->size;
    *n = known ? upg_token_size(t, id) : 0;
    return known ? (const char *)t->bytes + t->offset[id] : "";
}

bool upg_tokenizer_is_special(const upg_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && (t->flags[id] & UPG_TOKEN_SPECIAL);
}

void upg_tokenizer_free(upg_tokenizer *t) {
    if (!t) return;
    for (int32_t i = 0; i < t->n_added; i++) {
        if (t->added[i].match != t->added[i].content) free(t->added[i].match);
        free(t->added[i].content);
    }
    free(t->added);
    free(t->before_nfc.tokens);
    free(t->after_nfc.tokens);
    free(t->bytes);
    free(t->offset);
    free(t->flags);
    free(t->merges);
    free(t->rank);
    free(t->pieces);
    free(t->pairs);
    free(t);
}
