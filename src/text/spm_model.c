// Reading a SentencePiece model (tokenizer.model): a protobuf of pieces with scores. Of its model types BPE is
// implemented: of all pairs of neighbours that make a piece the one with the highest score merges, the leftmost among
// equals. A GGUF file's metadata is turned into this form as well.
//
// The rule of tokenizer_json.c holds here: what would need something else is refused by name. What protobuf calls
// unknown fields is skipped, as everywhere.
#include "text/tokenizer_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_BPE = 2, MAX_MODEL_BYTES = 256 << 20 };
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };
enum { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };

typedef struct field {
    uint32_t number;
    int wire;
    uint64_t value;      // varint or fixed
    const uint8_t *data; // bytes
    size_t size;
} field;

typedef struct message {
    const uint8_t *p;
    size_t left;
    bool failed;
} message;

static uint64_t get_varint(message *m) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && m->left; shift += 7) {
        uint8_t b = *m->p++;
        m->left--;
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128) return v;
    }
    m->failed = true;
    return 0;
}

// The next field; false at the end and where the message is damaged, which sets failed.
static bool next_field(message *m, field *f) {
    if (!m->left || m->failed) return false;
    uint64_t tag = get_varint(m), size;
    *f = (field){.number = tag >> 3 <= UINT32_MAX ? (uint32_t)(tag >> 3) : 0, .wire = (int)(tag & 7)};
    if (f->wire == WIRE_VARINT) {
        f->value = get_varint(m);
        return !m->failed;
    }
    size = f->wire == WIRE_32 ? 4 : f->wire == WIRE_64 ? 8 : f->wire == WIRE_BYTES ? get_varint(m) : UINT64_MAX;
    if (!f->number || size > m->left) m->failed = true;
    if (m->failed) return false;
    f->data = m->p;
    f->size = (size_t)size;
    m->p += size;
    m->left -= (size_t)size;
    if (f->wire == WIRE_32) f->value = upg_le32(f->data);
    return true;
}

typedef struct piece {
    const char *s;
    size_t n;
    float score;
    uint64_t type;
} piece;

typedef struct spm_model {
    piece *pieces; // [n]
    size_t n;
    uint64_t type;
    int64_t role[UPG_N_ROLES]; // by the model itself
    bool byte_fallback, suffix, charsmap, dummy_prefix, remove_spaces, escape;
} spm_model;

static bool read_piece(piece *p, const field *f) {
    message m = {f->data, f->size, false};
    field g;
    *p = (piece){.s = "", .type = NORMAL};
    while (next_field(&m, &g)) {
        if (g.number == 1 && g.wire == WIRE_BYTES) p->s = (const char *)g.data, p->n = g.size;
        if (g.number == 2 && g.wire == WIRE_32) memcpy(&p->score, &(uint32_t){(uint32_t)g.value}, sizeof p->score);
        if (g.number == 3 && g.wire == WIRE_VARINT) p->type = g.value;
    }
    return !m.failed;
}

static bool read_trainer(spm_model *model, const field *f) {
    static const int roles[UPG_N_ROLES] = {41, 42, 40, 43};
    message m = {f->data, f->size, false};
    field g;
    while (next_field(&m, &g)) {
        if (g.wire != WIRE_VARINT) continue;
        if (g.number == 3) model->type = g.value;
        if (g.number == 24) model->suffix = g.value;
        if (g.number == 35) model->byte_fallback = g.value;
        for (int i = 0; i < UPG_N_ROLES; i++)
            if (g.number == (uint32_t)roles[i]) model->role[i] = (int64_t)g.value; // negative numbers are huge ones
    }
    return !m.failed;
}

static bool read_normalizer(spm_model *model, const field *f) {
    message m = {f->data, f->size, false};
    field g;
    while (next_field(&m, &g)) {
        if (g.number == 2 && g.wire == WIRE_BYTES) model->charsmap |= g.size > 0;
        if (g.wire != WIRE_VARINT) continue;
        if (g.number == 3) model->dummy_prefix = g.value;
        if (g.number == 4) model->remove_spaces = g.value;
        if (g.number == 5) model->escape = g.value;
    }
    return !m.failed;
}

static int parse_model(spm_model *model, const void *data, size_t size, upg_error *e) {
    message m = {data, size, false};
    field f;
    bool ok = true;
    size_t n = 0;
    while (next_field(&m, &f)) n += f.number == 1 && f.wire == WIRE_BYTES;
    if (m.failed || !n) return upg_fail(e, "tokenizer.model: no SentencePiece model");
    if (n > UPG_MAX_IDS) return upg_fail(e, "tokenizer: more than %d tokens", UPG_MAX_IDS);
    // The values of fields that are left out; a charsmap of the denormalizer matters only if it is there.
    *model = (spm_model){.type = 1, .role = {1, 2, 0, -1}, .dummy_prefix = true, .remove_spaces = true, .escape = true};
    model->pieces = upg_alloc(n, sizeof *model->pieces, e);
    if (!model->pieces) return -1;
    for (m = (message){data, size, false}; ok && next_field(&m, &f);) {
        if (f.wire != WIRE_BYTES) continue;
        if (f.number == 1) ok = read_piece(&model->pieces[model->n++], &f);
        if (f.number == 2) ok = read_trainer(model, &f);
        if (f.number == 3) ok = read_normalizer(model, &f);
    }
    return ok ? 0 : upg_fail(e, "tokenizer.model: no SentencePiece model");
}

static int check_model(const spm_model *m, upg_error *e) {
    if (m->type != MODEL_BPE) {
        static const char *const names[] = {"?", "unigram", "bpe", "word", "char"};
        return upg_fail(e, "tokenizer.model: model type %s is not supported, only bpe",
                        names[m->type < 5 ? m->type : 0]);
    }
    const char *unsupported = m->suffix          ? "treat_whitespace_as_suffix"
                              : m->charsmap      ? "precompiled_charsmap"
                              : m->remove_spaces ? "remove_extra_whitespaces"
                              : !m->escape       ? "escape_whitespaces off"
                                                 : NULL;
    return unsupported ? upg_fail(e, "tokenizer.model: %s is not supported", unsupported) : 0;
}

// --- Tokens ---

// The text an added token is: user-defined ones are spelled as the normalised text they are found in.
static int add_added(upg_tokenizer *t, int32_t id, const piece *p, upg_error *e) {
    if (p->n > UPG_MAX_ADDED_BYTES)
        return upg_fail(e, "tokenizer: token %d is longer than %d bytes", (int)id, UPG_MAX_ADDED_BYTES);
    upg_buf b = {0};
    if (p->type == USER_DEFINED)
        upg_spm_spaces((const uint8_t *)p->s, p->n, false, &b);
    else
        upg_buf_add(&b, p->s, p->n);
    upg_added *a = &t->added[t->n_added];
    *a = (upg_added){.id = id, .flags = p->type == USER_DEFINED ? 0 : UPG_ADDED_SPECIAL, .size = (uint32_t)b.size};
    int rc = upg_buf_check(&b, e);
    if (!rc) rc = (a->content = upg_strdup(b.data, b.size, e)) ? 0 : -1;
    t->n_added += !rc;
    upg_buf_free(&b);
    return rc;
}

static int add_piece(upg_tokenizer *t, int32_t id, const piece *p, upg_error *e) {
    uint8_t *out = t->bytes + t->offset[id];
    int64_t n = upg_spelled_bytes(true, p->s, p->n, out);
    uint8_t flags = UPG_TOKEN_RAW;
    if (p->type == BYTE) {
        int byte = upg_spm_byte(p->s, p->n);
        if (byte < 0) return upg_fail(e, "tokenizer: token %d of type byte is not <0xNN>", (int)id);
        *out = (uint8_t)byte;
        n = 1;
        flags = UPG_TOKEN_BYTE;
    } else if (p->type == NORMAL && n > 0) {
        if (isnan(p->score)) return upg_fail(e, "tokenizer: the score of token %d is not a number", (int)id);
        flags = UPG_TOKEN_MODEL;
    } else if (p->type < NORMAL || p->type > UNUSED) {
        return upg_fail(e, "tokenizer: token %d has an unknown type", (int)id);
    }
    if (n < 0) {
        memcpy(out, p->s, p->n);
        n = (int64_t)p->n;
    }
    t->flags[id] = flags;
    t->offset[id + 1] = t->offset[id] + (uint32_t)n;
    bool added = p->n && (p->type == UNKNOWN || p->type == CONTROL || p->type == USER_DEFINED);
    return added ? add_added(t, id, p, e) : 0;
}

static int read_tokens(upg_tokenizer *t, const spm_model *m, yyjson_val *config, upg_error *e) {
    size_t total = 0;
    for (size_t i = 0; i < m->n; i++) total += m->pieces[i].n;
    t->added = upg_alloc(m->n, sizeof *t->added, e);
    if (!t->added || upg_count_tokens(t, (int32_t)m->n, m->n, config, &total, e) || upg_alloc_tokens(t, total, e))
        return -1;
    for (size_t i = 0; i < m->n; i++)
        if (add_piece(t, (int32_t)i, &m->pieces[i], e)) return -1;
    if (t->n_added > UPG_MAX_ADDED) return upg_fail(e, "tokenizer: more than %d added tokens", UPG_MAX_ADDED);
    return upg_read_added_decoder(t, config, e) || upg_place_added(t, (int32_t)m->n, e) ? -1 : 0;
}

// --- Ranks: the place of a token's score among all scores, the highest first ---

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *x, const void *y) {
    const scored *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static int rank_tokens(upg_tokenizer *t, const spm_model *m, upg_error *e) {
    scored *order = upg_alloc(m->n, sizeof *order, e);
    t->rank = upg_alloc((size_t)t->size, sizeof *t->rank, e);
    if (!order || !t->rank) {
        free(order);
        return -1;
    }
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        if (t->flags[i] & UPG_TOKEN_MODEL) order[n++] = (scored){m->pieces[i].score, (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        t->rank[order[i].id] = rank;
    }
    free(order);
    return 0;
}

// --- The file ---

static void set_roles(upg_tokenizer *t, const spm_model *m) {
    for (int i = 0; i < UPG_N_ROLES; i++)
        if (m->role[i] >= 0 && m->role[i] < (int64_t)m->n) t->role[i] = (int32_t)m->role[i];
    for (size_t i = 0; i < m->n; i++) // the type tells more surely than the number
        if (m->pieces[i].type == UNKNOWN) t->role[UPG_ROLE_UNK] = (int32_t)i;
    t->spm.unk = t->role[UPG_ROLE_UNK];
    t->bos = t->role[UPG_ROLE_BOS]; // unless the configuration says otherwise, as in transformers and llama.cpp
}

// Where spaces go: with legacy (or without a word about it) in front of every stretch between added tokens, otherwise
// at the beginning of the text only, as transformers has it.
static void set_spaces(upg_spm *s, const spm_model *m, yyjson_val *config) {
    yyjson_val *prefix = yyjson_obj_get(config, "add_prefix_space");
    bool dummy = yyjson_is_bool(prefix) ? yyjson_get_bool(prefix) : m->dummy_prefix;
    bool legacy = !yyjson_is_false(yyjson_obj_get(config, "legacy"));
    s->replace = legacy;
    s->prepend = legacy && dummy;
    s->metaspace = legacy ? UPG_METASPACE_NONE : dummy ? UPG_METASPACE_FIRST : UPG_METASPACE_NEVER;
    s->strip_space = dummy;
}

static int read_model(upg_tokenizer *t, const spm_model *m, yyjson_val *config, upg_error *e) {
    if (check_model(m, e)) return -1;
    t->spm.on = t->spm.fuse_unk = true;
    t->spm.byte_fallback = m->byte_fallback;
    if (read_tokens(t, m, config, e) || rank_tokens(t, m, e)) return -1;
    set_spaces(&t->spm, m, config);
    set_roles(t, m);
    if (upg_tokenizer_index_tokens(t, e) || upg_tokenizer_derive_merges(t, e) || upg_tokenizer_index(t, e)) return -1;
    return config ? upg_read_roles(t, config, e) : 0;
}

upg_tokenizer *upg_tokenizer_from_spm(const void *data, size_t size, const char *config, upg_error *e) {
    if (size > MAX_MODEL_BYTES || (config && strlen(config) > MAX_MODEL_BYTES)) {
        upg_fail(e, "tokenizer.model: more than %d bytes", MAX_MODEL_BYTES);
        return NULL;
    }
    spm_model m = {0};
    yyjson_doc *doc = config ? upg_tokenizer_parse(config, strlen(config), "tokenizer_config.json", e) : NULL;
    upg_tokenizer *t = config && !doc ? NULL : upg_alloc(1, sizeof *t, e);
    if (t) upg_clear_roles(t);
    if (t && (parse_model(&m, data, size, e) || read_model(t, &m, yyjson_doc_get_root(doc), e))) {
        upg_tokenizer_free(t);
        t = NULL;
    }
    free(m.pieces);
    yyjson_doc_free(doc);
    return t;
}
