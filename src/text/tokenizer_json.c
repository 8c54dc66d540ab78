// Reading tokenizer.json (Hugging Face's tokenizers, version "1.0").
//
// The rule of this file: what it accepts behaves as in that library; whatever would need something else is refused by
// name. Byte-level tokens are spelled there in an alphabet of 256 printable characters, one for each byte (GPT-2's
// bytes_to_unicode); those of SentencePiece's kind are plain text with U+2581 for spaces.
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include "yyjson.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON_BYTES = 256 << 20, MAX_NESTING = 8 };

// For messages: the first bytes of a string of the file.
static int shown(size_t n) {
    return n < 100 ? (int)n : 100;
}
#define SHOW(s, n) shown(n), (s)

static const char *type_of(yyjson_val *v) {
    const char *s = yyjson_get_str(yyjson_obj_get(v, "type"));
    return s ? s : "(no type)";
}

static bool is_type(yyjson_val *v, const char *type) {
    return yyjson_equals_str(yyjson_obj_get(v, "type"), type);
}

// --- Vocabulary ---

typedef struct spelling {
    const char *s;
    size_t n;
    bool added; // not in the model's vocabulary
} spelling;

typedef struct added_ref { // an added token by content, to find it while the vocabulary is read
    upg_added *added;
    int32_t vocab_id; // -1: not in the vocabulary
} added_ref;

static int by_content(const void *x, const void *y) {
    const upg_added *a = ((const added_ref *)x)->added, *b = ((const added_ref *)y)->added;
    int order = memcmp(a->content, b->content, a->size < b->size ? a->size : b->size);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

static int read_added(upg_tokenizer *t, yyjson_val *list, upg_error *e) {
    if (upg_json_absent(list)) return 0;
    if (!yyjson_is_arr(list)) return upg_fail(e, "tokenizer: added_tokens is not an array");
    if (yyjson_arr_size(list) > UPG_MAX_ADDED)
        return upg_fail(e, "tokenizer: more than %d added tokens", UPG_MAX_ADDED);
    t->added = upg_alloc(yyjson_arr_size(list), sizeof *t->added, e);
    if (!t->added) return -1;
    size_t i, max;
    yyjson_val *token;
    yyjson_arr_foreach(list, i, max, token) {
        if (upg_add_added(t, token, upg_json_id(yyjson_obj_get(token, "id")), e)) return -1;
    }
    return 0;
}

// The library numbers added tokens itself: by the vocabulary, or from its size upwards. A file that says otherwise is
// wrong.
static int check_added_ids(upg_tokenizer *t, const added_ref *refs, size_t n_vocab, upg_error *e) {
    int32_t next = (int32_t)n_vocab;
    int32_t *vocab_id = upg_alloc((size_t)t->n_added, sizeof *vocab_id, e);
    if (!vocab_id) return -1;
    for (int32_t i = 0; i < t->n_added; i++) vocab_id[refs[i].added - t->added] = refs[i].vocab_id;
    int rc = 0;
    for (int32_t i = 0; i < t->n_added && !rc; i++) {
        const upg_added *a = &t->added[i];
        int32_t id = vocab_id[i] >= 0 ? vocab_id[i] : next++;
        if (a->id != id)
            rc = upg_fail(e, "tokenizer: added token '%.*s' has id %d but its place is %d", SHOW(a->content, a->size),
                          (int)a->id, (int)id);
    }
    free(vocab_id);
    return rc;
}

static int check_vocab(upg_tokenizer *t, yyjson_val *vocab, added_ref *refs, upg_error *e) {
    size_t n_added = (size_t)t->n_added, i, max;
    for (i = 0; i < n_added; i++) refs[i] = (added_ref){&t->added[i], -1};
    qsort(refs, n_added, sizeof *refs, by_content);
    for (i = 1; i < n_added; i++)
        if (!by_content(&refs[i - 1], &refs[i]))
            return upg_fail(e, "tokenizer: added token '%.*s' is listed twice",
                            SHOW(refs[i].added->content, refs[i].added->size));
    int32_t last = -1;
    yyjson_val *key, *value;
    yyjson_obj_foreach(vocab, i, max, key, value) {
        int32_t id = upg_json_id(value);
        if (id < 0)
            return upg_fail(e, "tokenizer: the id of '%.*s' is not in 0..%d",
                            SHOW(yyjson_get_str(key), yyjson_get_len(key)), UPG_MAX_IDS - 1);
        if (id > last) last = id;
        if (!n_added || yyjson_get_len(key) > UPG_MAX_ADDED_BYTES) continue;
        upg_added wanted = {.content = (char *)(uintptr_t)yyjson_get_str(key), .size = (uint32_t)yyjson_get_len(key)};
        added_ref *ref = bsearch(&(added_ref){&wanted, 0}, refs, n_added, sizeof *refs, by_content);
        if (ref) ref->vocab_id = id;
    }
    if (check_added_ids(t, refs, yyjson_obj_size(vocab), e)) return -1;
    for (i = 0; i < n_added; i++)
        if (t->added[i].id > last) last = t->added[i].id;
    t->size = last + 1;
    // Memory follows the largest id, so that must follow the size of the file.
    if ((size_t)t->size > 65536 + 4 * (yyjson_obj_size(vocab) + n_added))
        return upg_fail(e, "tokenizer: ids go up to %d for %zu tokens", (int)last, yyjson_obj_size(vocab) + n_added);
    return 0;
}

static int place(const upg_tokenizer *t, spelling *spellings, int32_t id, spelling s, upg_error *e) {
    if (id >= t->size || spellings[id].s)
        return upg_fail(e, "tokenizer: id %d of '%.*s' is used twice", (int)id, SHOW(s.s, s.n));
    spellings[id] = s;
    return 0;
}

// What stands for itself, as in the library's decoder: it is not spelled in the alphabet.
static size_t spell_raw(const upg_tokenizer *t, spelling s, uint8_t *out) {
    if (!t->spm.on) {
        memcpy(out, s.s, s.n);
        return s.n;
    }
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool space = s.n - i >= 3 && !memcmp(s.s + i, "\xE2\x96\x81", 3);
        out[n++] = space ? ' ' : (uint8_t)s.s[i];
        if (space) i += 2;
    }
    return n;
}

static int spell_tokens(upg_tokenizer *t, const spelling *spellings, upg_error *e) {
    size_t total = 0;
    for (int32_t id = 0; id < t->size; id++) total += spellings[id].n;
    if (upg_alloc_tokens(t, total, e)) return -1;
    for (int32_t id = 0; id < t->size; id++) {
        spelling s = spellings[id];
        uint8_t *out = t->bytes + t->offset[id];
        int byte = s.s && !s.added && t->spm.byte_fallback ? upg_spm_byte(s.s, s.n) : -1;
        int64_t n = byte < 0 && s.s && !s.added ? upg_spelled_bytes(t->spm.on, s.s, s.n, out) : -1;
        if (byte >= 0) {
            t->flags[id] = UPG_TOKEN_BYTE;
            *out = (uint8_t)byte;
            n = 1;
        } else if (n >= 0) {
            t->flags[id] = UPG_TOKEN_MODEL;
        } else if (s.s) {
            t->flags[id] = s.added ? UPG_TOKEN_ADDED : UPG_TOKEN_RAW;
            n = (int64_t)spell_raw(t, s, out);
        }
        t->offset[id + 1] = t->offset[id] + (uint32_t)(n < 0 ? 0 : n);
    }
    return 0;
}

static int read_tokens(upg_tokenizer *t, yyjson_val *vocab, const added_ref *refs, upg_error *e) {
    spelling *spellings = upg_alloc((size_t)t->size, sizeof *spellings, e);
    if (!spellings) return -1;
    int rc = 0;
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(vocab, i, max, key, value) {
        rc = place(t, spellings, upg_json_id(value), (spelling){yyjson_get_str(key), yyjson_get_len(key), false}, e);
        if (rc) break;
    }
    for (int32_t k = 0; k < t->n_added && !rc; k++)
        if (refs[k].vocab_id < 0)
            rc = place(t, spellings, refs[k].added->id, (spelling){refs[k].added->content, refs[k].added->size, true},
                       e);
    if (!rc) rc = spell_tokens(t, spellings, e);
    free(spellings);
    return rc ? rc : upg_tokenizer_index_tokens(t, e);
}

static int read_vocab(upg_tokenizer *t, yyjson_val *vocab, upg_error *e) {
    if (!yyjson_is_obj(vocab)) return upg_fail(e, "tokenizer: the model has no vocab object");
    if (yyjson_obj_size(vocab) > UPG_MAX_IDS) return upg_fail(e, "tokenizer: more than %d tokens", UPG_MAX_IDS);
    added_ref *refs = upg_alloc((size_t)t->n_added, sizeof *refs, e);
    if (!refs) return -1;
    int rc = check_vocab(t, vocab, refs, e);
    if (!rc) rc = read_tokens(t, vocab, refs, e);
    free(refs);
    return rc;
}

// --- Merges ---

static int add_merge(upg_tokenizer *t, const char *a, size_t n_a, const char *b, size_t n_b, upg_buf *bytes,
                     upg_error *e) {
    bytes->size = 0;
    upg_buf_add(bytes, a, n_a); // room for the spelling is room for the bytes
    upg_buf_add(bytes, b, n_b);
    if (upg_buf_check(bytes, e)) return -1;
    uint8_t *p = (uint8_t *)bytes->data;
    int64_t left = upg_spelled_bytes(t->spm.on, a, n_a, p);
    int64_t right = left < 0 ? -1 : upg_spelled_bytes(t->spm.on, b, n_b, p + left);
    upg_merge m = {-1, -1, -1};
    if (left > 0 && right > 0)
        m = (upg_merge){upg_piece_find(t, p, (size_t)left), upg_piece_find(t, p + left, (size_t)right),
                        upg_piece_find(t, p, (size_t)(left + right))};
    if (m.left < 0 || m.right < 0 || m.product < 0)
        return upg_fail(e, "tokenizer: merge %d, '%.*s' with '%.*s', is not of tokens of the vocabulary",
                        (int)t->n_merges, SHOW(a, n_a), SHOW(b, n_b));
    t->merges[t->n_merges++] = m;
    return 0;
}

static int read_merge(upg_tokenizer *t, yyjson_val *v, upg_buf *bytes, upg_error *e) {
    if (yyjson_is_str(v)) {
        const char *s = yyjson_get_str(v);
        size_t n = yyjson_get_len(v);
        if (n >= 8 && !memcmp(s, "#version", 8)) return 0; // a first line left over from merges.txt
        const char *space = memchr(s, ' ', n);
        size_t at = space ? (size_t)(space - s) : n;
        if (!space || memchr(space + 1, ' ', n - at - 1))
            return upg_fail(e, "tokenizer: merge '%.*s' is not two tokens", SHOW(s, n));
        return add_merge(t, s, at, space + 1, n - at - 1, bytes, e);
    }
    yyjson_val *a = yyjson_arr_get(v, 0), *b = yyjson_arr_get(v, 1);
    if (yyjson_arr_size(v) != 2 || !yyjson_is_str(a) || !yyjson_is_str(b))
        return upg_fail(e, "tokenizer: merge %d is neither a string nor two strings", (int)t->n_merges);
    return add_merge(t, yyjson_get_str(a), yyjson_get_len(a), yyjson_get_str(b), yyjson_get_len(b), bytes, e);
}

static int read_merges(upg_tokenizer *t, yyjson_val *merges, upg_error *e) {
    if (!yyjson_is_arr(merges)) return upg_fail(e, "tokenizer: the model has no merges array");
    if (yyjson_arr_size(merges) > UPG_MAX_MERGES) return upg_fail(e, "tokenizer: more than %d merges", UPG_MAX_MERGES);
    t->merges = upg_alloc(yyjson_arr_size(merges), sizeof *t->merges, e);
    if (!t->merges) return -1;
    upg_buf bytes = {0};
    size_t i, max;
    yyjson_val *v;
    int rc = 0;
    yyjson_arr_foreach(merges, i, max, v) {
        rc = read_merge(t, v, &bytes, e);
        if (rc) break;
    }
    upg_buf_free(&bytes);
    return rc;
}

// --- Model, normalizer, pre-tokenizer, decoder ---

static int read_model(upg_tokenizer *t, yyjson_val *model, upg_error *e) {
    if (!yyjson_is_obj(model)) return upg_fail(e, "tokenizer: no model");
    // Old files leave the type out; vocab and merges tell then.
    if (yyjson_obj_get(model, "type") && !is_type(model, "BPE"))
        return upg_fail(e, "tokenizer: model type %s is not supported, only BPE", type_of(model));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int k = 0; k < 2; k++) {
        yyjson_val *v = yyjson_obj_get(model, affixes[k]);
        if (!upg_json_absent(v) && !yyjson_equals_str(v, ""))
            return upg_fail(e, "tokenizer: %s is not supported", affixes[k]);
    }
    yyjson_val *dropout = yyjson_obj_get(model, "dropout");
    if (!upg_json_absent(dropout) && !(yyjson_is_num(dropout) && yyjson_get_num(dropout) == 0))
        return upg_fail(e, "tokenizer: dropout is not supported");
    static const char *const switches[] = {"byte_fallback", "fuse_unk", "ignore_merges"};
    bool *const on[] = {&t->spm.byte_fallback, &t->spm.fuse_unk, &t->ignore_merges};
    for (int k = 0; k < 3; k++) {
        yyjson_val *v = yyjson_obj_get(model, switches[k]);
        if (!upg_json_absent(v) && !yyjson_is_bool(v))
            return upg_fail(e, "tokenizer: %s is not a boolean", switches[k]);
        *on[k] = yyjson_get_bool(v);
    }
    return 0;
}

static bool is_replace(yyjson_val *v, const char *from, const char *to) {
    return is_type(v, "Replace") && yyjson_equals_str(yyjson_obj_get(yyjson_obj_get(v, "pattern"), "String"), from) &&
           yyjson_equals_str(yyjson_obj_get(v, "content"), to);
}

#define LOWER_BLOCK "\xE2\x96\x81" // U+2581

static int read_normalizer(upg_tokenizer *t, yyjson_val *v, int depth, upg_error *e) {
    if (upg_json_absent(v)) return 0;
    if (is_type(v, "NFC")) {
        t->nfc = true;
        return 0;
    }
    if (is_replace(v, " ", LOWER_BLOCK)) {
        t->spm.replace = true;
        return 0;
    }
    if (is_type(v, "Prepend") && yyjson_equals_str(yyjson_obj_get(v, "prepend"), LOWER_BLOCK) && !t->spm.prepend) {
        t->spm.prepend = true;
        return 0;
    }
    yyjson_val *list = yyjson_obj_get(v, "normalizers");
    if (!is_type(v, "Sequence") || !yyjson_is_arr(list) || depth == MAX_NESTING)
        return upg_fail(e, "tokenizer: this normalizer %s is not supported, only NFC, or U+2581 for spaces",
                        type_of(v));
    size_t i, max;
    yyjson_val *part;
    yyjson_arr_foreach(list, i, max, part) if (read_normalizer(t, part, depth + 1, e)) return -1;
    return 0;
}

static int add_stage(upg_tokenizer *t, upg_stage stage, upg_error *e) {
    if (t->n_stages == UPG_MAX_STAGES)
        return upg_fail(e, "tokenizer: more than %d pre-tokenizers are not supported", UPG_MAX_STAGES);
    t->stages[t->n_stages++] = stage;
    return 0;
}

// With invert and Removed, matches are kept and what lies between goes: the same where nothing does.
static int read_split(upg_tokenizer *t, yyjson_val *v, bool after_bytes, upg_error *e) {
    yyjson_val *pattern = yyjson_obj_get(v, "pattern"), *regex = yyjson_obj_get(pattern, "Regex");
    yyjson_val *behavior = yyjson_obj_get(v, "behavior"), *invert = yyjson_obj_get(v, "invert");
    if (!yyjson_is_str(regex)) return upg_fail(e, "tokenizer: pre-tokenizer Split without a Regex is not supported");
    const char *s = yyjson_get_str(regex);
    size_t n = yyjson_get_len(regex);
    const upg_pattern *known = upg_pattern_by_regex(s, n);
    if (!known) return upg_fail(e, "tokenizer: pre-tokenizer pattern %.*s is not supported", n < 400 ? (int)n : 400, s);
    bool isolated = yyjson_equals_str(behavior, "Isolated") && yyjson_is_false(invert);
    bool kept = yyjson_equals_str(behavior, "Removed") && yyjson_is_true(invert) && known->covers;
    if (!isolated && !kept)
        return upg_fail(e, "tokenizer: pre-tokenizer Split is supported only with behavior Isolated and invert false");
    if (after_bytes && known != upg_pattern_by_name("3-digits", 8))
        return upg_fail(e, "tokenizer: pre-tokenizer pattern %.*s after ByteLevel is not supported",
                        n < 400 ? (int)n : 400, s);
    return add_stage(t, (upg_stage){known, false}, e);
}

static int read_metaspace(upg_tokenizer *t, yyjson_val *v, upg_error *e) {
    static const char *const schemes[UPG_N_METASPACE] = {NULL, "never", "always", "first"};
    yyjson_val *scheme = yyjson_obj_get(v, "prepend_scheme"), *split = yyjson_obj_get(v, "split");
    yyjson_val *prefix = yyjson_obj_get(v, "add_prefix_space"); // the older way to say always or never
    if (!yyjson_equals_str(yyjson_obj_get(v, "replacement"), LOWER_BLOCK) || (split && !yyjson_is_bool(split)))
        return upg_fail(e, "tokenizer: pre-tokenizer Metaspace is supported only with U+2581 as its replacement");
    if (t->spm.metaspace || t->n_stages)
        return upg_fail(e, "tokenizer: pre-tokenizer Metaspace behind another is not supported");
    t->spm.split = !split || yyjson_get_bool(split);
    t->spm.metaspace = !yyjson_is_false(prefix) ? UPG_METASPACE_ALWAYS : UPG_METASPACE_NEVER;
    if (upg_json_absent(scheme)) return 0;
    for (int k = UPG_METASPACE_NEVER; k < UPG_N_METASPACE; k++)
        if (yyjson_equals_str(scheme, schemes[k])) {
            t->spm.metaspace = (upg_metaspace)k;
            return 0;
        }
    return upg_fail(e, "tokenizer: this prepend_scheme of Metaspace is not supported");
}

static int read_named(upg_tokenizer *t, const char *name, upg_error *e) {
    return add_stage(t, (upg_stage){upg_pattern_by_name(name, strlen(name)), false}, e);
}

static int read_digits(upg_tokenizer *t, yyjson_val *v, bool after_bytes, upg_error *e) {
    yyjson_val *single = yyjson_obj_get(v, "individual_digits");
    if (!yyjson_is_bool(single)) return upg_fail(e, "tokenizer: pre-tokenizer Digits without individual_digits");
    if (after_bytes) return read_named(t, yyjson_get_bool(single) ? "alphabet-digits" : "alphabet-digit-runs", e);
    return read_named(t, yyjson_get_bool(single) ? "digits" : "digit-runs", e);
}

static int read_byte_level(upg_tokenizer *t, yyjson_val *v, upg_error *e) {
    yyjson_val *regex = yyjson_obj_get(v, "use_regex"), *prefix = yyjson_obj_get(v, "add_prefix_space");
    if (!yyjson_is_bool(prefix) || (regex && !yyjson_is_bool(regex)))
        return upg_fail(e, "tokenizer: pre-tokenizer ByteLevel without add_prefix_space");
    const upg_pattern *pattern = regex && !yyjson_get_bool(regex) ? NULL : upg_pattern_by_name("gpt2", 4);
    return add_stage(t, (upg_stage){pattern, yyjson_get_bool(prefix)}, e);
}

// ByteLevel changes the text to the alphabet, which later stages see: only those can follow that are known to be the
// same there or have a scanner of their own for it.
static int read_pre_tokenizer(upg_tokenizer *t, yyjson_val *v, bool *bytes, int depth, upg_error *e) {
    bool split = is_type(v, "Split"), digits = is_type(v, "Digits");
    if (*bytes && ((!split && !digits) || t->stages[t->n_stages - 1].prefix_space))
        return upg_fail(e, "tokenizer: pre-tokenizer %s after ByteLevel is not supported", type_of(v));
    if (is_type(v, "Metaspace")) return read_metaspace(t, v, e);
    if (t->spm.metaspace)
        return upg_fail(e, "tokenizer: pre-tokenizer %s after Metaspace is not supported", type_of(v));
    if (split) return read_split(t, v, *bytes, e);
    if (digits) return read_digits(t, v, *bytes, e);
    if (is_type(v, "Punctuation") && yyjson_equals_str(yyjson_obj_get(v, "behavior"), "Contiguous"))
        return read_named(t, "punctuation", e);
    if (is_type(v, "ByteLevel")) {
        *bytes = true;
        return read_byte_level(t, v, e);
    }
    yyjson_val *list = yyjson_obj_get(v, "pretokenizers");
    if (!is_type(v, "Sequence") || !yyjson_is_arr(list) || depth == MAX_NESTING)
        return upg_fail(e, "tokenizer: pre-tokenizer %s is not supported", type_of(v));
    size_t i, max;
    yyjson_val *part;
    yyjson_arr_foreach(list, i, max, part) if (read_pre_tokenizer(t, part, bytes, depth + 1, e)) return -1;
    return 0;
}

// Without a decoder the library would print the alphabet; nobody means that, and bytes are known here all the same.
static int check_decoder(yyjson_val *v, int depth, upg_error *e) {
    if (upg_json_absent(v) || is_type(v, "ByteLevel")) return 0;
    yyjson_val *list = yyjson_obj_get(v, "decoders");
    if (!is_type(v, "Sequence") || !yyjson_is_arr(list) || depth == MAX_NESTING)
        return upg_fail(e, "tokenizer: decoder %s is not supported, only ByteLevel", type_of(v));
    size_t i, max;
    yyjson_val *part;
    yyjson_arr_foreach(list, i, max, part) if (check_decoder(part, depth + 1, e)) return -1;
    return 0;
}

// The steps that undo U+2581 and the space in front, and make bytes of byte tokens.
static int read_spm_decoder(upg_tokenizer *t, yyjson_val *v, upg_error *e) {
    bool replace = false, bytes = false, fuse = false;
    size_t i, max;
    yyjson_val *part;
    yyjson_arr_foreach(is_type(v, "Sequence") ? yyjson_obj_get(v, "decoders") : NULL, i, max, part) {
        yyjson_val *start = yyjson_obj_get(part, "start"), *stop = yyjson_obj_get(part, "stop");
        bool known = !t->spm.strip_space;
        if (!fuse && is_replace(part, LOWER_BLOCK, " "))
            replace = true;
        else if (!fuse && is_type(part, "ByteFallback"))
            bytes = true;
        else if (is_type(part, "Fuse"))
            fuse = true;
        else if (fuse && is_type(part, "Strip") && yyjson_equals_str(yyjson_obj_get(part, "content"), " ") &&
                 yyjson_is_uint(start) && yyjson_get_uint(start) <= 1 && yyjson_is_uint(stop) && !yyjson_get_uint(stop))
            t->spm.strip_space = yyjson_get_uint(start);
        else
            known = false;
        if (!known) return upg_fail(e, "tokenizer: decoder %s is not supported there", type_of(part));
    }
    if (!replace || bytes != t->spm.byte_fallback)
        return upg_fail(e,
                        "tokenizer: decoder %s is not supported, only Replace of U+2581 with ByteFallback where the "
                        "model has it",
                        upg_json_absent(v) ? "null" : type_of(v));
    return 0;
}

// Which alphabet the parts of the file mean together.
static int check_alphabet(upg_tokenizer *t, bool bytes, upg_error *e) {
    upg_spm *s = &t->spm;
    s->on = s->replace || s->metaspace;
    if (s->on && (bytes || t->n_stages))
        return upg_fail(e, "tokenizer: ByteLevel or Split together with U+2581 for spaces is not supported");
    if (s->on && t->nfc) return upg_fail(e, "tokenizer: NFC together with U+2581 for spaces is not supported");
    if (s->on && s->prepend && !s->replace)
        return upg_fail(e, "tokenizer: normalizer Prepend without Replace is not supported");
    if (s->on) return 0;
    if (!bytes) return upg_fail(e, "tokenizer: a pre-tokenizer without ByteLevel is not supported");
    if (s->prepend) return upg_fail(e, "tokenizer: normalizer Prepend with ByteLevel is not supported");
    if (s->byte_fallback) return upg_fail(e, "tokenizer: byte_fallback with ByteLevel is not supported");
    *s = (upg_spm){.unk = -1}; // every byte has a token, so unknown ones do not matter
    return 0;
}

static int read_unk(upg_tokenizer *t, yyjson_val *model, upg_error *e) {
    yyjson_val *name = yyjson_obj_get(model, "unk_token");
    if (!t->spm.on || upg_json_absent(name)) return 0;
    yyjson_val *id = yyjson_is_str(name)
                         ? yyjson_obj_getn(yyjson_obj_get(model, "vocab"), yyjson_get_str(name), yyjson_get_len(name))
                         : NULL;
    t->spm.unk = t->role[UPG_ROLE_UNK] = upg_json_id(id);
    return id ? 0 : upg_fail(e, "tokenizer: unk_token is not in the vocabulary");
}

// --- The template ---

// The id a template puts in front of a single sequence, one at most, and the first it puts behind: EOS.
static int read_template(upg_tokenizer *t, yyjson_val *v, upg_error *e) {
    size_t i, max;
    bool behind = false;
    yyjson_val *part;
    yyjson_arr_foreach(yyjson_obj_get(v, "single"), i, max, part) {
        bool sequence = yyjson_obj_get(part, "Sequence") != NULL;
        const char *name = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(part, "SpecialToken"), "id"));
        yyjson_val *ids =
            name ? yyjson_obj_get(yyjson_obj_get(yyjson_obj_get(v, "special_tokens"), name), "ids") : NULL;
        int32_t id = upg_json_id(yyjson_arr_get(ids, 0));
        bool known = yyjson_arr_size(ids) == 1 && id >= 0 && id < t->size && t->flags[id];
        if (!sequence && !behind && !known) return upg_fail(e, "tokenizer: the template's first token has no id");
        if (!sequence && !behind && t->bos >= 0)
            return upg_fail(e, "tokenizer: a template with more than one token in front is not supported");
        if (!sequence && !behind) t->bos = t->role[UPG_ROLE_BOS] = id;
        if (!sequence && behind && known && !t->add_eos) {
            t->role[UPG_ROLE_EOS] = id;
            t->add_eos = true;
        }
        behind |= sequence;
    }
    return behind ? 0 : upg_fail(e, "tokenizer: the template has no sequence");
}

static int read_post_processor(upg_tokenizer *t, yyjson_val *v, int depth, upg_error *e) {
    if (upg_json_absent(v) || is_type(v, "ByteLevel")) return 0; // ByteLevel only changes offsets
    if (is_type(v, "TemplateProcessing")) return read_template(t, v, e);
    yyjson_val *list = yyjson_obj_get(v, "processors");
    if (!is_type(v, "Sequence") || !yyjson_is_arr(list) || depth == MAX_NESTING)
        return upg_fail(e, "tokenizer: post-processor %s is not supported", type_of(v));
    size_t i, max;
    yyjson_val *part;
    yyjson_arr_foreach(list, i, max, part) if (read_post_processor(t, part, depth + 1, e)) return -1;
    return 0;
}

// --- The file ---

static int read_file(upg_tokenizer *t, yyjson_val *root, upg_error *e) {
    if (!yyjson_is_obj(root)) return upg_fail(e, "tokenizer: tokenizer.json is not an object");
    yyjson_val *version = yyjson_obj_get(root, "version"), *model = yyjson_obj_get(root, "model");
    if (version && !yyjson_equals_str(version, "1.0")) return upg_fail(e, "tokenizer: version is not 1.0");
    bool bytes = false;
    if (read_model(t, model, e) || read_normalizer(t, yyjson_obj_get(root, "normalizer"), 0, e)) return -1;
    yyjson_val *pre = yyjson_obj_get(root, "pre_tokenizer"), *decoder = yyjson_obj_get(root, "decoder");
    if (!(t->spm.replace && upg_json_absent(pre)) && read_pre_tokenizer(t, pre, &bytes, 0, e)) return -1;
    if (check_alphabet(t, bytes, e)) return -1;
    if (t->spm.on ? read_spm_decoder(t, decoder, e) : check_decoder(decoder, 0, e)) return -1;
    if (read_added(t, yyjson_obj_get(root, "added_tokens"), e) || read_vocab(t, yyjson_obj_get(model, "vocab"), e) ||
        read_merges(t, yyjson_obj_get(model, "merges"), e) || read_unk(t, model, e) || upg_tokenizer_index(t, e))
        return -1;
    return read_post_processor(t, yyjson_obj_get(root, "post_processor"), 0, e);
}

upg_tokenizer *upg_tokenizer_from_json(const char *json, size_t size, const char *config, upg_error *e) {
    if (size > MAX_JSON_BYTES || (config && strlen(config) > MAX_JSON_BYTES)) {
        upg_fail(e, "tokenizer: a tokenizer.json of more than %d bytes", MAX_JSON_BYTES);
        return NULL;
    }
    upg_tokenizer *t = upg_alloc(1, sizeof *t, e);
    if (!t) return NULL;
    upg_clear_roles(t);
    yyjson_doc *doc = upg_tokenizer_parse(json, size, "tokenizer.json", e);
    int rc = doc ? read_file(t, yyjson_doc_get_root(doc), e) : -1;
    yyjson_doc_free(doc);
    if (!rc && config) {
        doc = upg_tokenizer_parse(config, strlen(config), "tokenizer_config.json", e);
        rc = doc ? upg_read_roles(t, yyjson_doc_get_root(doc), e) : -1;
        yyjson_doc_free(doc);
    }
    if (!rc) return t;
    upg_tokenizer_free(t);
    return NULL;
}
