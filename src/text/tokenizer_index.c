// The indexes a tokenizer encodes with: bytes to token, pair to merge, added tokens by what they match. Built once at
// load from either source; hostile vocabularies are bounded here (a chain of hash collisions is refused, never walked
// at length).
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

// Tables are at most half full, where a sound hash keeps runs far below this.
enum { MAX_PROBES = 2048 };

static uint64_t table_size(uint64_t n) {
    uint64_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

// The slot of the piece, or the empty one where it belongs. Ends because the table is never full.
static upg_piece_slot *piece_slot(const upg_tokenizer *t, const uint8_t *p, size_t n, uint32_t *tag, uint64_t *probes) {
    uint64_t hash = XXH3_64bits(p, n);
    *tag = (uint32_t)(hash >> 32);
    for (uint64_t i = hash & t->pieces_mask;; i = (i + 1) & t->pieces_mask, ++*probes) {
        upg_piece_slot *s = &t->pieces[i];
        if (s->id < 0) return s;
        if (s->tag == *tag && upg_token_size(t, s->id) == n && !memcmp(t->bytes + t->offset[s->id], p, n)) return s;
    }
}

int32_t upg_piece_find(const upg_tokenizer *t, const uint8_t *p, size_t n) {
    uint32_t tag;
    uint64_t probes = 0;
    return piece_slot(t, p, n, &tag, &probes)->id;
}

static void index_bytes(upg_tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        t->byte_id[b] = upg_piece_find(t, &byte, 1);
    }
}

int upg_tokenizer_index_tokens(upg_tokenizer *t, upg_error *e) {
    uint64_t n = 0;
    for (int32_t id = 0; id < t->size; id++) n += (t->flags[id] & UPG_TOKEN_MODEL) != 0;
    t->pieces_mask = table_size(n) - 1;
    t->pieces = upg_alloc(t->pieces_mask + 1, sizeof *t->pieces, e);
    if (!t->pieces) return -1;
    for (uint64_t i = 0; i <= t->pieces_mask; i++) t->pieces[i].id = -1;
    for (int32_t id = 0; id < t->size; id++) {
        if (!(t->flags[id] & UPG_TOKEN_MODEL) || !upg_token_size(t, id)) continue;
        uint32_t tag;
        uint64_t probes = 0;
        upg_piece_slot *s = piece_slot(t, t->bytes + t->offset[id], upg_token_size(t, id), &tag, &probes);
        if (s->id >= 0) return upg_fail(e, "tokenizer: tokens %d and %d are the same bytes", (int)s->id, (int)id);
        if (probes > MAX_PROBES) return upg_fail(e, "tokenizer: the vocabulary is made to collide");
        *s = (upg_piece_slot){tag, id};
    }
    if (t->spm.on) return upg_spm_index_tokens(t, e);
    index_bytes(t);
    return 0;
}

// Whether the characters (bytes) of a token are tokens. Without that it could come from characters that are none, as it
// does in SentencePiece, and the pairs below would not be all there are.
static bool has_characters(const upg_tokenizer *t, int32_t id) {
    const uint8_t *p = t->bytes + t->offset[id];
    uint32_t n = upg_token_size(t, id), cp;
    for (uint32_t i = 0, len; i < n; i += len) {
        len = t->spm.on ? (uint32_t)upg_utf8_decode(p + i, n - i, &cp) : 1;
        if (upg_piece_find(t, p + i, len) < 0) return false;
    }
    return true;
}

static int add_merge(upg_tokenizer *t, int32_t *capacity, upg_merge m, upg_error *e) {
    if (t->n_merges == *capacity) {
        if (*capacity == UPG_MAX_MERGES) return upg_fail(e, "tokenizer: more than %d merges", UPG_MAX_MERGES);
        *capacity = *capacity ? 2 * *capacity : 1 << 16;
        upg_merge *merges = upg_resize(t->merges, (size_t)*capacity, sizeof *merges, e);
        if (!merges) return -1;
        t->merges = merges;
    }
    t->merges[t->n_merges++] = m;
    return 0;
}

int upg_tokenizer_derive_merges(upg_tokenizer *t, upg_error *e) {
    int32_t capacity = 0;
    for (int32_t id = 0; id < t->size; id++) {
        const uint8_t *p = t->bytes + t->offset[id];
        uint32_t n = upg_token_size(t, id);
        if (!(t->flags[id] & UPG_TOKEN_MODEL)) continue;
        // All ways to halve a token are looked up, which takes its length squared.
        if (n > UPG_MAX_ADDED_BYTES)
            return upg_fail(e, "tokenizer: token %d is longer than %d bytes", (int)id, UPG_MAX_ADDED_BYTES);
        if (!has_characters(t, id))
            return upg_fail(e, "tokenizer: token %d has a character that is no token: not supported", (int)id);
        for (uint32_t i = 1; i < n; i++) {
            if (t->spm.on && (p[i] & 0xC0) == 0x80) continue;
            upg_merge m = {upg_piece_find(t, p, i), -1, id};
            if (m.left >= 0) m.right = upg_piece_find(t, p + i, n - i);
            if (m.right >= 0 && add_merge(t, &capacity, m, e)) return -1;
        }
    }
    return 0;
}

// Of two merges of one pair the later counts, as where merges are read into a map.
static int index_pairs(upg_tokenizer *t, upg_error *e) {
    t->pairs_mask = table_size((uint64_t)t->n_merges) - 1;
    t->pairs = upg_alloc(t->pairs_mask + 1, sizeof *t->pairs, e);
    if (!t->pairs) return -1;
    for (uint64_t i = 0; i <= t->pairs_mask; i++) t->pairs[i] = (upg_pair_slot){UINT64_MAX, UINT32_MAX, -1};
    for (int32_t k = 0; k < t->n_merges; k++) {
        upg_merge m = t->merges[k];
        uint64_t key = (uint64_t)(uint32_t)m.left << 32 | (uint32_t)m.right;
        uint64_t i = upg_hash_pair(key) & t->pairs_mask, probes = 0;
        for (; t->pairs[i].key != UINT64_MAX && t->pairs[i].key != key; i = (i + 1) & t->pairs_mask)
            if (++probes > MAX_PROBES) return upg_fail(e, "tokenizer: the merges are made to collide");
        t->pairs[i] = (upg_pair_slot){key, t->rank ? t->rank[m.product] : (uint32_t)k, m.product};
    }
    return 0;
}

// A control token that merges spell is written as its bytes where control tokens are ordinary text, so no byte may be
// one.
static int check_special(const upg_tokenizer *t, upg_error *e) {
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] >= 0 && t->flags[t->byte_id[b]] & UPG_TOKEN_SPECIAL)
            return upg_fail(e, "tokenizer: the token of byte 0x%02x is a special token: not supported", b);
    return 0;
}

// Whether merging the bytes of a token gives that token: of SentencePiece's kind with control tokens and without them,
// because merges differ.
static int is_whole(const upg_tokenizer *t, int32_t id, upg_bpe *bpe, upg_ids *ids, bool *whole, upg_error *e) {
    uint32_t n = upg_token_size(t, id);
    *whole = t->ignore_merges;
    if (*whole || n > UPG_WHOLE_BYTES) return 0;
    *whole = true;
    for (int special = 1; *whole && special >= !t->spm.on; special--) {
        ids->size = 0;
        if (upg_bpe_merge(t, bpe, t->bytes + t->offset[id], n, special, ids, e)) return -1;
        *whole = ids->size == 1 && ids->data[0] == id;
    }
    return 0;
}

// Finds the tokens that a piece of their bytes becomes, so that encoding looks most pieces up instead of merging them.
static int index_whole(upg_tokenizer *t, upg_error *e) {
    upg_bpe bpe = {0};
    upg_ids ids = {0};
    int rc = 0;
    for (int32_t id = 0; id < t->size && !rc; id++) {
        uint32_t n = upg_token_size(t, id);
        bool whole = false;
        if (!(t->flags[id] & UPG_TOKEN_MODEL) || !n) continue;
        rc = is_whole(t, id, &bpe, &ids, &whole, e);
        if (rc || !whole) continue;
        t->flags[id] |= UPG_TOKEN_WHOLE;
        if (n > t->max_whole) t->max_whole = n;
    }
    upg_ids_free(&ids);
    upg_bpe_free(&bpe);
    return rc;
}

// The text an added token matches: normalised like the text it is searched in.
static int index_match(const upg_tokenizer *t, upg_added *a, upg_error *e) {
    a->match = a->content;
    a->match_size = a->size;
    if (!(t->nfc || t->spm.replace) || !(a->flags & UPG_ADDED_NORMALIZED)) return 0;
    upg_buf b = {0};
    int rc = upg_normalize(t, (const uint8_t *)a->content, a->size, &b, e);
    if (!rc && (b.size != a->size || memcmp(b.data, a->content, a->size))) {
        char *match = upg_strdup(b.data, b.size, e);
        rc = match ? 0 : -1;
        if (match) {
            a->match = match;
            a->match_size = (uint32_t)b.size;
        }
    }
    upg_buf_free(&b);
    return rc;
}

int upg_tokenizer_index(upg_tokenizer *t, upg_error *e) {
    for (int32_t i = 0; i < t->n_added; i++) {
        if (t->added[i].flags & UPG_ADDED_SPECIAL) t->flags[t->added[i].id] |= UPG_TOKEN_SPECIAL;
        if (index_match(t, &t->added[i], e)) return -1;
    }
    t->spm.cut = t->spm.on && upg_spm_can_cut(t);
    if (check_special(t, e) || index_pairs(t, e) || index_whole(t, e)) return -1;
    return upg_matcher_build(&t->before_nfc, t, false, e) || upg_matcher_build(&t->after_nfc, t, true, e) ? -1 : 0;
}
