// The compact form of a tokenizer: one zstd frame of columns, little but exact.
//
//   "UPGTOK" version(1)
//   varint: ids, bytes of all tokens, merges, added tokens, bos + 1, flags (PACK_*), stages
//   stages: prefix_space(1), varint size of the pattern's name (0: no pattern), name
//   version 2: varint for each role: id + 1; if PACK_SPM: varint switches (SPM_*), metaspace, unk + 1
//   added tokens, by columns: varint id; flags(1); varint size; content
//   kind of every id (1 byte, KIND_*); for KIND_SPELLED, KIND_RAW and KIND_BYTE varint size; then their bytes
//   if PACK_RANKS: for every KIND_SPELLED zigzag varint rank - previous rank; there are no merges then
//   merges, by columns: zigzag varint product - previous product; then
//     for merges that do not define their product: varint bytes of the left token
//     for merges that do: the left ids and then the right ids, each a plane of high bytes, ..., a plane of low bytes
//
// Version 1 has no roles and none of the flags and kinds that came with version 2: it means the same with none of them.
//
// The idea: a vocabulary is the history of its merges. The first merge that gives a token defines its bytes, so only
// tokens that no merge gives are spelled; and a further merge with the same product is known by where it splits those
// bytes.
//
// Unpacking trusts nothing: sizes are bounded before memory is taken, and a token's bytes are laid out only after all
// lengths have been added up (merges of merges can double a length each time).
#include "text/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { VERSION = 2, MAX_PAYLOAD = 128 << 20, ZSTD_LEVEL = 22 };
enum { KIND_ABSENT, KIND_MERGED, KIND_SPELLED, KIND_RAW, KIND_ADDED, KIND_BYTE, N_KINDS };
enum { PACK_IGNORE_MERGES = 1, PACK_NFC = 2, PACK_SPM = 4, PACK_RANKS = 8, PACK_ADD_EOS = 16, PACK_FLAGS = 31 };
enum { SPM_BYTE_FALLBACK = 1, SPM_FUSE_UNK = 2, SPM_REPLACE = 4, SPM_PREPEND = 8, SPM_SPLIT = 16, SPM_STRIP = 32 };
enum { PACK_FLAGS_1 = PACK_IGNORE_MERGES | PACK_NFC, SPM_SWITCHES = 63 };
static const char magic[6] = "UPGTOK";

static int id_planes(int32_t size) {
    return size <= 1 << 8 ? 1 : size <= 1 << 16 ? 2 : 3;
}

// Merges that ranks tell are not written.
static int32_t n_listed(const upg_tokenizer *t) {
    return t->rank ? 0 : t->n_merges;
}

// --- Packing ---

static void put_varint(upg_buf *b, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;
    for (; v >= 128; v >>= 7) bytes[n++] = (uint8_t)(v | 128);
    bytes[n++] = (uint8_t)v;
    upg_buf_add(b, bytes, n);
}

static void put_byte(upg_buf *b, unsigned v) {
    upg_buf_add(b, &(uint8_t){(uint8_t)v}, 1);
}

// Decides which tokens their first merge defines (KIND_MERGED) and which merges do that. A merge can define its product
// only if both parts are defined by then; whatever is needed too early is spelled.
static void choose_kinds(const upg_tokenizer *t, uint8_t *kind, bool *defines) {
    for (int32_t i = 0; i < n_listed(t); i++) {
        upg_merge m = t->merges[i];
        if (!kind[m.left]) kind[m.left] = KIND_SPELLED;
        if (!kind[m.right]) kind[m.right] = KIND_SPELLED;
        defines[i] = !kind[m.product];
        if (defines[i]) kind[m.product] = KIND_MERGED;
    }
    for (int32_t id = 0; id < t->size; id++) {
        if (t->flags[id] & UPG_TOKEN_RAW)
            kind[id] = KIND_RAW;
        else if (t->flags[id] & UPG_TOKEN_ADDED)
            kind[id] = t->spm.on ? KIND_RAW : KIND_ADDED; // with U+2581 in it, its bytes are not its content
        else if (t->flags[id] & UPG_TOKEN_BYTE)
            kind[id] = KIND_BYTE;
        else if ((t->flags[id] & UPG_TOKEN_MODEL) && !kind[id])
            kind[id] = KIND_SPELLED;
    }
}

static bool is_written(uint8_t kind) {
    return kind == KIND_SPELLED || kind == KIND_RAW || kind == KIND_BYTE;
}

static void put_zigzag(upg_buf *b, int64_t v) {
    put_varint(b, (uint64_t)(v < 0 ? -2 * v - 1 : 2 * v));
}

static void put_spm(const upg_spm *s, upg_buf *b) {
    put_varint(b, (s->byte_fallback ? SPM_BYTE_FALLBACK : 0u) | (s->fuse_unk ? SPM_FUSE_UNK : 0u) |
                      (s->replace ? SPM_REPLACE : 0u) | (s->prepend ? SPM_PREPEND : 0u) | (s->split ? SPM_SPLIT : 0u) |
                      (s->strip_space ? SPM_STRIP : 0u));
    put_varint(b, (uint64_t)s->metaspace);
    put_varint(b, (uint64_t)(s->unk + 1));
}

static void put_header(const upg_tokenizer *t, upg_buf *b) {
    upg_buf_add(b, magic, sizeof magic);
    put_byte(b, VERSION);
    put_varint(b, (uint64_t)t->size);
    put_varint(b, t->offset[t->size]);
    put_varint(b, (uint64_t)n_listed(t));
    put_varint(b, (uint64_t)t->n_added);
    put_varint(b, (uint64_t)(t->bos + 1));
    put_varint(b, (t->ignore_merges ? PACK_IGNORE_MERGES : 0u) | (t->nfc ? PACK_NFC : 0u) |
                      (t->spm.on ? PACK_SPM : 0u) | (t->rank ? PACK_RANKS : 0u) | (t->add_eos ? PACK_ADD_EOS : 0u));
    put_varint(b, (uint64_t)t->n_stages);
    for (int i = 0; i < t->n_stages; i++) {
        const char *name = t->stages[i].pattern ? t->stages[i].pattern->name : "";
        put_byte(b, t->stages[i].prefix_space);
        put_varint(b, strlen(name));
        upg_buf_str(b, name);
    }
    for (int i = 0; i < UPG_N_ROLES; i++) put_varint(b, (uint64_t)(t->role[i] + 1));
    if (t->spm.on) put_spm(&t->spm, b);
    for (int32_t i = 0; i < t->n_added; i++) put_varint(b, (uint64_t)t->added[i].id);
    for (int32_t i = 0; i < t->n_added; i++) put_byte(b, t->added[i].flags);
    for (int32_t i = 0; i < t->n_added; i++) put_varint(b, t->added[i].size);
    for (int32_t i = 0; i < t->n_added; i++) upg_buf_add(b, t->added[i].content, t->added[i].size);
}

static void put_tokens(const upg_tokenizer *t, const uint8_t *kind, upg_buf *b) {
    upg_buf_add(b, kind, (size_t)t->size);
    for (int32_t id = 0; id < t->size; id++)
        if (is_written(kind[id])) put_varint(b, upg_token_size(t, id));
    for (int32_t id = 0; id < t->size; id++)
        if (is_written(kind[id])) upg_buf_add(b, t->bytes + t->offset[id], upg_token_size(t, id));
    int64_t previous = 0;
    for (int32_t id = 0; t->rank && id < t->size; id++) {
        if (kind[id] != KIND_SPELLED) continue;
        put_zigzag(b, t->rank[id] - previous);
        previous = t->rank[id];
    }
}

static void put_merges(const upg_tokenizer *t, const bool *defines, upg_buf *b) {
    int64_t previous = 0;
    for (int32_t i = 0; i < n_listed(t); i++) {
        put_zigzag(b, t->merges[i].product - previous);
        previous = t->merges[i].product;
    }
    for (int32_t i = 0; i < n_listed(t); i++)
        if (!defines[i]) put_varint(b, upg_token_size(t, t->merges[i].left));
    for (int side = 0; side < 2; side++)
        for (int plane = id_planes(t->size); plane-- > 0;)
            for (int32_t i = 0; i < n_listed(t); i++)
                if (defines[i])
                    put_byte(b, (unsigned)(side ? t->merges[i].right : t->merges[i].left) >> 8 * plane & 255);
}

static int compress(const upg_buf *payload, upg_buf *out, upg_error *e) {
    if (upg_buf_check(payload, e)) return -1;
    if (payload->size > MAX_PAYLOAD) return upg_fail(e, "tokenizer: too large to pack: %zu bytes", payload->size);
    size_t bound = ZSTD_compressBound(payload->size);
    char *frame = upg_alloc(bound, 1, e);
    if (!frame) return -1;
    size_t n = ZSTD_compress(frame, bound, payload->data, payload->size, ZSTD_LEVEL);
    int rc = ZSTD_isError(n) ? upg_fail(e, "tokenizer: zstd: %s", ZSTD_getErrorName(n)) : 0;
    if (!rc) upg_buf_add(out, frame, n);
    free(frame);
    return rc ? rc : upg_buf_check(out, e);
}

int upg_tokenizer_pack(const upg_tokenizer *t, upg_buf *out, upg_error *e) {
    upg_buf payload = {0};
    uint8_t *kind = upg_alloc((size_t)t->size, 1, e);
    bool *defines = upg_alloc((size_t)n_listed(t), sizeof *defines, e);
    int rc = -1;
    if (kind && defines) {
        choose_kinds(t, kind, defines);
        put_header(t, &payload);
        put_tokens(t, kind, &payload);
        put_merges(t, defines, &payload);
        rc = compress(&payload, out, e);
    }
    free(kind);
    free(defines);
    upg_buf_free(&payload);
    return rc;
}

// --- Unpacking ---

typedef struct reader {
    const uint8_t *p;
    size_t left;
    bool failed; // read past the end or an out-of-range number; checked once a section
} reader;

static const uint8_t *get_bytes(reader *r, size_t n) {
    static const uint8_t none[1];
    if (n > r->left) {
        r->failed = true;
        r->left = 0;
        return none;
    }
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static unsigned get_byte(reader *r) {
    return *get_bytes(r, 1);
}

// A varint of at most max; 0 and failed otherwise.
static uint32_t get_varint(reader *r, uint32_t max) {
    uint64_t v = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        unsigned b = get_byte(r);
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128) {
            if (v <= max) return (uint32_t)v;
            break;
        }
    }
    r->failed = true;
    return 0;
}

static int64_t get_zigzag(reader *r, uint32_t max) {
    uint32_t z = get_varint(r, 2 * max);
    return z & 1 ? -(int64_t)(z >> 1) - 1 : (int64_t)(z >> 1);
}

static int damaged(upg_error *e, const char *what) {
    return upg_fail(e, "packed tokenizer: damaged %s", what);
}

typedef struct unpacker {
    upg_tokenizer *t;
    reader r;
    unsigned version;
    bool ranks;
    uint32_t total;         // bytes of all tokens
    const uint8_t *kind;    // [size]
    uint32_t *len;          // [size]
    uint8_t *defined;       // [size]
    bool *defines;          // [n_merges]
    int32_t n_defining;     // merges that define their product
    const uint8_t *spelled; // the bytes of spelled tokens
    upg_error *e;
} unpacker;

static int get_stages(unpacker *u) {
    upg_tokenizer *t = u->t;
    t->n_stages = (int)get_varint(&u->r, UPG_MAX_STAGES);
    for (int i = 0; i < t->n_stages; i++) {
        unsigned prefix = get_byte(&u->r);
        uint32_t n = get_varint(&u->r, 64);
        const char *name = (const char *)get_bytes(&u->r, n);
        if (u->r.failed || prefix > 1 || (prefix && i + 1 < t->n_stages)) return damaged(u->e, "stages");
        t->stages[i] = (upg_stage){n ? upg_pattern_by_name(name, n) : NULL, prefix};
        if (n && !t->stages[i].pattern) return upg_fail(u->e, "packed tokenizer: unknown pattern %.*s", (int)n, name);
    }
    return u->r.failed || (t->n_stages == 0) != t->spm.on ? damaged(u->e, "stages") : 0;
}

static int32_t get_id(unpacker *u) {
    return (int32_t)get_varint(&u->r, (uint32_t)u->t->size) - 1;
}

static int get_spm(unpacker *u) {
    upg_spm *s = &u->t->spm;
    uint32_t on = get_varint(&u->r, SPM_SWITCHES);
    s->byte_fallback = on & SPM_BYTE_FALLBACK;
    s->fuse_unk = on & SPM_FUSE_UNK;
    s->replace = on & SPM_REPLACE;
    s->prepend = on & SPM_PREPEND;
    s->split = on & SPM_SPLIT;
    s->strip_space = on & SPM_STRIP;
    s->metaspace = (upg_metaspace)get_varint(&u->r, UPG_N_METASPACE - 1);
    s->unk = get_id(u);
    return u->r.failed || !(s->replace || s->metaspace) || (s->prepend && !s->replace) || u->t->nfc
               ? damaged(u->e, "settings")
               : 0;
}

static int get_header(unpacker *u) {
    upg_tokenizer *t = u->t;
    reader *r = &u->r;
    if (r->left < sizeof magic + 1 || memcmp(r->p, magic, sizeof magic))
        return upg_fail(u->e, "packed tokenizer: no tokenizer");
    get_bytes(r, sizeof magic);
    u->version = get_byte(r);
    if (u->version < 1 || u->version > VERSION)
        return upg_fail(u->e, "packed tokenizer: version %u is not supported, only 1 to %d", u->version, VERSION);
    t->size = (int32_t)get_varint(r, UPG_MAX_IDS);
    u->total = get_varint(r, UPG_MAX_TOKEN_BYTES);
    t->n_merges = (int32_t)get_varint(r, UPG_MAX_MERGES);
    int32_t n_added = (int32_t)get_varint(r, UPG_MAX_ADDED);
    t->bos = get_id(u);
    uint32_t flags = get_varint(r, u->version == 1 ? PACK_FLAGS_1 : PACK_FLAGS);
    t->ignore_merges = flags & PACK_IGNORE_MERGES;
    t->nfc = flags & PACK_NFC;
    t->spm.on = flags & PACK_SPM;
    t->add_eos = flags & PACK_ADD_EOS;
    u->ranks = flags & PACK_RANKS;
    // An id and a merge take at least one byte each, an added token three.
    if (r->failed || (size_t)t->size > r->left || (size_t)t->n_merges > r->left || (size_t)n_added > r->left / 3 ||
        (u->ranks && t->n_merges))
        return damaged(u->e, "header");
    if (get_stages(u)) return -1;
    for (int i = 0; i < UPG_N_ROLES && u->version > 1; i++) t->role[i] = get_id(u);
    if (t->spm.on && get_spm(u)) return -1;
    t->added = upg_alloc((size_t)n_added, sizeof *t->added, u->e);
    if (!t->added) return -1;
    t->n_added = n_added;
    return 0;
}

static int get_added(unpacker *u) {
    upg_tokenizer *t = u->t;
    for (int32_t i = 0; i < t->n_added; i++) {
        t->added[i].id = (int32_t)get_varint(&u->r, UPG_MAX_IDS);
        if (t->added[i].id >= t->size) return damaged(u->e, "added token");
    }
    for (int32_t i = 0; i < t->n_added; i++) t->added[i].flags = (uint8_t)get_byte(&u->r);
    for (int32_t i = 0; i < t->n_added; i++) t->added[i].size = get_varint(&u->r, UPG_MAX_ADDED_BYTES);
    for (int32_t i = 0; i < t->n_added; i++) {
        upg_added *a = &t->added[i];
        const uint8_t *p = get_bytes(&u->r, a->size);
        if (u->r.failed || !a->size || a->flags > UPG_ADDED_FLAGS) return damaged(u->e, "added token");
        a->content = upg_strdup((const char *)p, a->size, u->e);
        if (!a->content) return -1;
    }
    return 0;
}

static int get_ranks(unpacker *u) {
    upg_tokenizer *t = u->t;
    t->rank = upg_alloc((size_t)t->size, sizeof *t->rank, u->e);
    if (!t->rank) return -1;
    int64_t rank = 0;
    for (int32_t id = 0; id < t->size; id++) {
        if (u->kind[id] != KIND_SPELLED) continue;
        rank += get_zigzag(&u->r, UPG_MAX_IDS);
        if (rank < 0 || rank >= UPG_MAX_IDS) return damaged(u->e, "ranks");
        t->rank[id] = (uint32_t)rank;
    }
    return 0;
}

// Kinds and the lengths that need no merges.
static int get_tokens(unpacker *u) {
    upg_tokenizer *t = u->t;
    u->kind = get_bytes(&u->r, (size_t)t->size);
    if (u->r.failed) return damaged(u->e, "token kinds");
    size_t spelled = 0, n_defined = 0;
    for (int32_t id = 0; id < t->size; id++) {
        uint8_t k = u->kind[id];
        if (k >= N_KINDS || (t->spm.on ? k == KIND_ADDED : k == KIND_BYTE)) return damaged(u->e, "token kinds");
        if (is_written(k)) {
            u->len[id] = get_varint(&u->r, UPG_MAX_TOKEN_BYTES);
            spelled += u->len[id];
        }
        u->defined[id] = k != KIND_MERGED && k != KIND_ADDED;
        n_defined += k == KIND_MERGED;
    }
    u->n_defining = (int32_t)n_defined;
    for (int32_t i = 0; i < t->n_added; i++) {
        int32_t id = t->added[i].id;
        if (u->kind[id] == KIND_ABSENT || (u->kind[id] == KIND_ADDED && u->defined[id]))
            return damaged(u->e, "added token");
        if (u->kind[id] != KIND_ADDED) continue;
        u->defined[id] = true;
        u->len[id] = t->added[i].size;
    }
    u->spelled = get_bytes(&u->r, spelled);
    if (u->ranks && get_ranks(u)) return -1;
    return u->r.failed || n_defined > (size_t)t->n_merges ? damaged(u->e, "tokens") : 0;
}

static int get_products(unpacker *u) {
    upg_tokenizer *t = u->t;
    int64_t product = 0;
    for (int32_t i = 0; i < t->n_merges; i++) {
        product += get_zigzag(&u->r, UPG_MAX_IDS);
        if (product < 0 || product >= t->size) return damaged(u->e, "merge");
        t->merges[i] = (upg_merge){-1, -1, (int32_t)product};
        uint8_t *seen = &u->defined[product]; // of a merged token only: set by its first merge
        u->defines[i] = u->kind[product] == KIND_MERGED && !*seen;
        *seen = true;
    }
    for (int32_t id = 0; id < t->size; id++) {
        if (!u->defined[id]) return damaged(u->e, "token without a merge");
        if (u->kind[id] == KIND_MERGED) u->defined[id] = false;
    }
    return u->r.failed ? damaged(u->e, "merges") : 0;
}

// The parts of every merge, as ids or (left only, right -1) as the bytes of the left one.
static int get_parts(unpacker *u) {
    upg_tokenizer *t = u->t;
    for (int32_t i = 0; i < t->n_merges; i++)
        if (!u->defines[i]) t->merges[i].left = (int32_t)get_varint(&u->r, UPG_MAX_TOKEN_BYTES);
    size_t n = (size_t)u->n_defining;
    int planes = id_planes(t->size);
    const uint8_t *p = get_bytes(&u->r, 2 * n * (size_t)planes);
    if (u->r.failed || u->r.left) return damaged(u->e, "merges");
    for (int32_t i = 0, k = 0; i < t->n_merges; i++) {
        if (!u->defines[i]) continue;
        int32_t id[2] = {0, 0};
        for (int side = 0; side < 2; side++)
            for (int plane = 0; plane < planes; plane++)
                id[side] = id[side] << 8 | p[(size_t)(side * planes + plane) * n + (size_t)k];
        if (id[0] >= t->size || id[1] >= t->size) return damaged(u->e, "merge");
        t->merges[i].left = id[0];
        t->merges[i].right = id[1];
        k++;
    }
    return 0;
}

static bool usable(const unpacker *u, int32_t id) {
    return u->defined[id] && u->len[id] && (u->kind[id] == KIND_MERGED || u->kind[id] == KIND_SPELLED);
}

static int add_lengths(unpacker *u) {
    upg_tokenizer *t = u->t;
    for (int32_t i = 0; i < t->n_merges; i++) {
        upg_merge m = t->merges[i];
        if (!u->defines[i]) continue;
        if (!usable(u, m.left) || !usable(u, m.right)) return damaged(u->e, "merge");
        u->len[m.product] = u->len[m.left] + u->len[m.right]; // each at most UPG_MAX_TOKEN_BYTES
        if (u->len[m.product] > UPG_MAX_TOKEN_BYTES) return damaged(u->e, "merge");
        u->defined[m.product] = true;
    }
    uint64_t total = 0;
    for (int32_t id = 0; id < t->size; id++) total += u->len[id];
    return total != u->total ? damaged(u->e, "token lengths") : 0;
}

static int lay_out(unpacker *u) {
    upg_tokenizer *t = u->t;
    if (upg_alloc_tokens(t, u->total, u->e)) return -1;
    static const uint8_t flags[N_KINDS] = {
        0, UPG_TOKEN_MODEL, UPG_TOKEN_MODEL, UPG_TOKEN_RAW, UPG_TOKEN_ADDED, UPG_TOKEN_BYTE};
    const uint8_t *spelled = u->spelled;
    for (int32_t id = 0; id < t->size; id++) {
        t->flags[id] = flags[u->kind[id]];
        t->offset[id + 1] = t->offset[id] + u->len[id];
        if (!is_written(u->kind[id])) continue;
        memcpy(t->bytes + t->offset[id], spelled, u->len[id]);
        spelled += u->len[id];
    }
    for (int32_t i = 0; i < t->n_added; i++) {
        const upg_added *a = &t->added[i];
        if (u->kind[a->id] == KIND_ADDED) memcpy(t->bytes + t->offset[a->id], a->content, a->size);
    }
    for (int32_t i = 0; i < t->n_merges; i++) {
        if (!u->defines[i]) continue;
        upg_merge m = t->merges[i];
        uint8_t *out = t->bytes + t->offset[m.product];
        memcpy(out, t->bytes + t->offset[m.left], u->len[m.left]);
        memcpy(out + u->len[m.left], t->bytes + t->offset[m.right], u->len[m.right]);
    }
    return 0;
}

static int find_parts(unpacker *u) {
    upg_tokenizer *t = u->t;
    for (int32_t i = 0; i < t->n_merges; i++) {
        upg_merge *m = &t->merges[i];
        if (u->defines[i]) continue;
        uint32_t n = upg_token_size(t, m->product), split = (uint32_t)m->left;
        if (!split || split >= n || !(t->flags[m->product] & UPG_TOKEN_MODEL)) return damaged(u->e, "merge");
        const uint8_t *p = t->bytes + t->offset[m->product];
        m->left = upg_piece_find(t, p, split);
        m->right = upg_piece_find(t, p + split, n - split);
        if (m->left < 0 || m->right < 0) return damaged(u->e, "merge");
    }
    return 0;
}

// An id may be declared by one added token only, and a role or an unknown token must be one.
static int check_ids(unpacker *u) {
    upg_tokenizer *t = u->t;
    memset(u->defined, 0, (size_t)t->size);
    for (int32_t i = 0; i < t->n_added; i++) {
        if (u->defined[t->added[i].id]) return damaged(u->e, "added token");
        u->defined[t->added[i].id] = true;
    }
    bool ok = (t->bos < 0 || t->flags[t->bos]) && (t->spm.unk < 0 || t->flags[t->spm.unk]);
    for (int i = 0; i < UPG_N_ROLES; i++) ok = ok && (t->role[i] < 0 || t->flags[t->role[i]]);
    return ok ? 0 : damaged(u->e, "role of a token");
}

static int unpack(unpacker *u) {
    upg_tokenizer *t = u->t;
    if (get_header(u) || get_added(u)) return -1;
    t->merges = upg_alloc((size_t)t->n_merges, sizeof *t->merges, u->e);
    u->len = upg_alloc((size_t)t->size, sizeof *u->len, u->e);
    u->defined = upg_alloc((size_t)t->size, 1, u->e);
    u->defines = upg_alloc((size_t)t->n_merges, sizeof *u->defines, u->e);
    if (!t->merges || !u->len || !u->defined || !u->defines) return -1;
    if (get_tokens(u) || get_products(u) || get_parts(u) || add_lengths(u) || lay_out(u)) return -1;
    if (upg_tokenizer_index_tokens(t, u->e) || find_parts(u) || check_ids(u)) return -1;
    if (u->ranks && upg_tokenizer_derive_merges(t, u->e)) return -1;
    return upg_tokenizer_index(t, u->e);
}

static uint8_t *decompress(const uint8_t *data, size_t size, size_t *n, upg_error *e) {
    unsigned long long declared = ZSTD_getFrameContentSize(data, size);
    if (declared == ZSTD_CONTENTSIZE_ERROR || declared == ZSTD_CONTENTSIZE_UNKNOWN ||
        ZSTD_findFrameCompressedSize(data, size) != size) {
        upg_fail(e, "packed tokenizer: not one zstd frame of known size");
        return NULL;
    }
    if (declared > MAX_PAYLOAD) {
        upg_fail(e, "packed tokenizer: declares %llu bytes, more than %d", declared, MAX_PAYLOAD);
        return NULL;
    }
    uint8_t *payload = upg_alloc((size_t)declared, 1, e);
    if (!payload) return NULL;
    size_t got = ZSTD_decompress(payload, (size_t)declared, data, size);
    if (got == declared) {
        *n = got;
        return payload;
    }
    upg_fail(e, "packed tokenizer: zstd: %s", ZSTD_isError(got) ? ZSTD_getErrorName(got) : "short frame");
    free(payload);
    return NULL;
}

upg_tokenizer *upg_tokenizer_unpack(const uint8_t *data, size_t size, upg_error *e) {
    size_t n = 0;
    uint8_t *payload = decompress(data, size, &n, e);
    upg_tokenizer *t = payload ? upg_alloc(1, sizeof *t, e) : NULL;
    if (t) {
        upg_clear_roles(t);
        unpacker u = {.t = t, .r = {payload, n, false}, .e = e};
        int rc = unpack(&u);
        free(u.len);
        free(u.defined);
        free(u.defines);
        if (rc) {
            upg_tokenizer_free(t);
            t = NULL;
        }
    }
    free(payload);
    return t;
}
