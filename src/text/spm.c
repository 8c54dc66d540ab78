// What SentencePiece's kind of BPE does differently: spaces are written as U+2581 and take part in merging, merging
// starts from characters, and characters that have no token become the tokens of their bytes.
//
// In memory U+2581 is a space, in tokens and text alike. Nothing is lost by that: after normalisation text has no
// spaces, so a vocabulary's tokens with real ones cannot be met and are kept out of the index.
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include <string.h>

void upg_spm_spaces(const uint8_t *text, size_t n, bool prefix, upg_buf *out) {
    if (prefix) upg_buf_add(out, " ", 1);
    for (size_t i = 0; i < n;) {
        const uint8_t *p = memchr(text + i, 0xE2, n - i);
        size_t at = p ? (size_t)(p - text) : n;
        bool lower_block = n - at >= 3 && !memcmp(text + at, "\xE2\x96\x81", 3);
        upg_buf_add(out, text + i, at - i);
        if (lower_block)
            upg_buf_add(out, " ", 1);
        else if (at < n)
            upg_buf_add(out, text + at, 1);
        i = at + (lower_block ? 3 : 1);
    }
}

size_t upg_spm_piece(const upg_spm *s, const uint8_t *p, size_t n) {
    size_t i = 0;
    if (s->split) {
        i = 1; // what the piece begins with, a space or not
    } else {
        if (!s->cut) return n;
        while (i < n && p[i] == ' ') i++;
    }
    const uint8_t *space = memchr(p + i, ' ', n - i);
    return space ? (size_t)(space - p) : n;
}

static bool has_bytes(const upg_tokenizer *t, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[p[i]] < 0) return false;
    return true;
}

size_t upg_spm_characters(const upg_tokenizer *t, const uint8_t *p, size_t n, bool special, int32_t *id) {
    const upg_spm *s = &t->spm;
    size_t k = 0;
    bool unknown = false; // an unknown token waits; as in the library it is written before the next known character
    for (size_t i = 0, len; i < n; i += len) {
        int32_t known;
        len = 1;
        if (p[i] < 128) {
            known = s->ascii_id[p[i]];
        } else {
            uint32_t cp;
            len = (size_t)upg_utf8_decode(p + i, n - i, &cp);
            known = cp == UPG_BAD_CHAR ? -1 : upg_piece_find(t, p + i, len);
        }
        if (known >= 0 && !special && (t->flags[known] & UPG_TOKEN_SPECIAL)) known = -1;
        if (known >= 0) {
            if (unknown) id[k++] = s->unk;
            unknown = false;
            id[k++] = known;
        } else if (s->byte_fallback && has_bytes(t, p + i, len)) {
            for (size_t j = 0; j < len; j++) id[k++] = t->byte_id[p[i + j]];
        } else if (s->unk >= 0) {
            if (unknown && !s->fuse_unk) id[k++] = s->unk;
            unknown = true;
        }
    }
    if (unknown) id[k++] = s->unk;
    return k;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int upg_spm_byte(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

int upg_spm_index_tokens(upg_tokenizer *t, upg_error *e) {
    for (int b = 0; b < 256; b++) t->byte_id[b] = -1;
    for (int b = 0; b < 128; b++) t->spm.ascii_id[b] = upg_piece_find(t, &(uint8_t){(uint8_t)b}, 1);
    for (int32_t id = 0; id < t->size; id++) {
        if (!(t->flags[id] & UPG_TOKEN_BYTE)) continue;
        uint8_t byte = t->bytes[t->offset[id]];
        if (upg_token_size(t, id) != 1 || t->byte_id[byte] >= 0)
            return upg_fail(e, "tokenizer: token %d is the second for its byte", (int)id);
        t->byte_id[byte] = id;
    }
    return 0;
}

bool upg_spm_can_cut(const upg_tokenizer *t) {
    bool all_bytes = t->spm.byte_fallback;
    for (int b = 0; b < 256; b++) all_bytes = all_bytes && t->byte_id[b] >= 0;
    // Characters that are left out bring together what stands around them; ignore_merges looks up whole stretches.
    if (t->spm.ascii_id[' '] < 0 || (t->spm.unk < 0 && !all_bytes) || t->ignore_merges) return false;
    for (int32_t id = 0; id < t->size; id++) {
        const uint8_t *p = t->bytes + t->offset[id];
        if (!(t->flags[id] & UPG_TOKEN_MODEL)) continue;
        for (uint32_t i = 1; i < upg_token_size(t, id); i++)
            if (p[i] == ' ' && p[i - 1] != ' ') return false;
    }
    return true;
}
