// What the files of the tokenizer share: the loaded form, its indexes and the steps between them.
//
// A tokenizer is made by one of the readers (tokenizer_json.c, tokenizer_ranks.c, spm_model.c, tokenizer_pack.c). Each
// fills the vocabulary, calls upg_tokenizer_index_tokens, fills the merges, the added tokens and the stages, and calls
// upg_tokenizer_index; after that it never changes, which is what makes encoding thread-safe.
//
// Two alphabets: of byte-level tokenizers merging starts from the bytes of a piece; of SentencePiece ones (spm) from
// its characters, and U+2581, which stands for a space there, is kept as a space in tokens and text alike. Two kinds of
// merges: a list in order of rank, or (rank) any two tokens that make a third, whose rank is then the merge's.
#pragma once
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "yyjson.h"

enum {
    UPG_TOKEN_MODEL = 1,   // byte-level entry of the model's vocabulary: BPE may produce it
    UPG_TOKEN_RAW = 2,     // entry of the vocabulary with characters outside the byte alphabet: BPE cannot produce it
    UPG_TOKEN_ADDED = 4,   // an added token that the vocabulary does not have
    UPG_TOKEN_SPECIAL = 8, // control token
    UPG_TOKEN_WHOLE = 16,  // a piece of exactly these bytes is this token
    UPG_TOKEN_BYTE = 32,   // of one byte, for characters that have no token
};

// Where a space is put in front of text (SentencePiece only).
typedef enum upg_metaspace {
    UPG_METASPACE_NONE,   // spaces are the normalizer's business
    UPG_METASPACE_NEVER,  // nowhere
    UPG_METASPACE_ALWAYS, // on every stretch between added tokens that does not begin with one
    UPG_METASPACE_FIRST,  // on that at the beginning of the text, if it does not begin with one
    UPG_N_METASPACE,
} upg_metaspace;

enum {
    UPG_ADDED_SINGLE_WORD = 1,
    UPG_ADDED_LSTRIP = 2,
    UPG_ADDED_RSTRIP = 4,
    UPG_ADDED_NORMALIZED = 8,
    UPG_ADDED_SPECIAL = 16,
    UPG_ADDED_FLAGS = 31,
    UPG_ADDED_OVERRULED = 32, // while files are read: another file has the last word
};

enum {
    UPG_MAX_IDS = 1 << 22,
    UPG_MAX_MERGES = 1 << 22,
    UPG_MAX_TOKEN_BYTES = 64 << 20, // of all tokens together
    UPG_MAX_ADDED = 1 << 20,
    UPG_MAX_ADDED_BYTES = 1024, // of one added token: bounds the time of matching
    UPG_MAX_STAGES = 8,
    UPG_WHOLE_BYTES = 32, // pieces up to this length are looked up whole before they are merged
};

typedef struct upg_merge {
    int32_t left, right, product; // bytes(product) = bytes(left) bytes(right), left and right not empty
} upg_merge;

typedef struct upg_spm {
    bool on;            // the alphabet is characters; what follows is then meant
    bool byte_fallback; // characters without a token become the tokens of their bytes
    bool fuse_unk;      // a run of unknown characters is one unknown token
    bool replace;       // the normalizer makes U+2581 of spaces, before added tokens that match normalised text
    bool prepend;       // and puts one in front
    upg_metaspace metaspace;
    bool split;            // every space begins a piece
    bool strip_space;      // a text that begins with a space is printed without it
    bool cut;              // derived: no token has a space behind another character, so words merge one by one
    int32_t unk;           // for characters that have no other token; -1: they are left out
    int32_t ascii_id[128]; // derived: the token of a character, or -1
} upg_spm;

typedef struct upg_added {
    int32_t id;
    uint8_t flags;
    uint32_t size, match_size;
    char *content; // [size], as declared
    char *match;   // [match_size], what the text is searched for; content itself unless normalization changes it
} upg_added;

// One cut of the text. The last stage may put a space in front of what it is given.
typedef struct upg_stage {
    const upg_pattern *pattern; // NULL: no cut
    bool prefix_space;
} upg_stage;

typedef struct upg_piece_slot {
    uint32_t tag; // high half of the hash
    int32_t id;   // -1: empty
} upg_piece_slot;

typedef struct upg_pair_slot {
    uint64_t key; // left << 32 | right; UINT64_MAX: empty
    uint32_t rank;
    int32_t product;
} upg_pair_slot;

// Added tokens sorted by what they match, so that the ones starting with given bytes are a range.
typedef struct upg_matcher {
    int32_t n;
    const upg_added **tokens; // [n]
    int32_t first[257];       // tokens[first[b] .. first[b + 1]) start with byte b
    int only_byte;            // the byte all of them start with, or -1
} upg_matcher;

struct upg_tokenizer {
    int32_t size;         // largest id + 1
    uint8_t *bytes;       // all tokens one after another
    uint32_t *offset;     // [size + 1] into bytes
    uint8_t *flags;       // [size], UPG_TOKEN_*; 0: no such id
    int32_t byte_id[256]; // -1: the vocabulary has no token for the byte
    int32_t n_merges;
    upg_merge *merges; // [n_merges], in order of rank
    uint32_t *rank;    // [size], of the merges with that product; NULL: a merge's rank is its place in the list
    bool ignore_merges;
    bool nfc;
    upg_spm spm;
    int32_t bos; // put before a prompt, or -1
    bool add_eos;
    int32_t role[UPG_N_ROLES]; // -1: none
    int n_stages;              // at least 1
    upg_stage stages[UPG_MAX_STAGES];
    int32_t n_added;
    upg_added *added; // [n_added]

    uint32_t max_whole;     // bytes of the longest token that a whole piece may be
    upg_piece_slot *pieces; // [pieces_mask + 1]
    uint64_t pieces_mask;
    upg_pair_slot *pairs; // [pairs_mask + 1]
    uint64_t pairs_mask;
    upg_matcher before_nfc, after_nfc;
};

// tokenizer_index.c
int upg_tokenizer_index_tokens(upg_tokenizer *t, upg_error *e);             // from size, bytes, offset, flags
int upg_tokenizer_derive_merges(upg_tokenizer *t, upg_error *e);            // the merges that rank means
int upg_tokenizer_index(upg_tokenizer *t, upg_error *e);                    // from everything
int32_t upg_piece_find(const upg_tokenizer *t, const uint8_t *p, size_t n); // UPG_TOKEN_MODEL tokens only; -1: none
static inline uint64_t upg_hash_pair(uint64_t key) {
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
}
static inline uint32_t upg_token_size(const upg_tokenizer *t, int32_t id) {
    return t->offset[id + 1] - t->offset[id];
}

// tokenizer.c. Appends text as the normalizer leaves it (nfc or spm.replace).
int upg_normalize(const upg_tokenizer *t, const uint8_t *p, size_t n, upg_buf *out, upg_error *e);

// bpe.c. The lowest rank merges first, the leftmost among equals; O(n log n). Memory is kept between calls.
typedef struct upg_bpe {
    void *symbols; // for pieces too long for the stack
    int32_t *first;
    size_t n_symbols, n_first;
    uint64_t *heap;
    size_t heap_capacity;
} upg_bpe;
// Appends the ids of the piece p[0..n), n > 0. Unless special, no merge gives a control token (spm), or those that
// merges happen to spell are written as the tokens of their bytes (byte-level).
int upg_bpe_merge(const upg_tokenizer *t, upg_bpe *b, const uint8_t *p, size_t n, bool special, upg_ids *out,
                  upg_error *e);
void upg_bpe_free(upg_bpe *b);

// spm.c
// Appends text with every U+2581 as a space, and a space in front if prefix.
void upg_spm_spaces(const uint8_t *text, size_t n, bool prefix, upg_buf *out);
size_t upg_spm_piece(const upg_spm *s, const uint8_t *p, size_t n); // bytes of the first piece of p[0..n), n > 0
// The tokens merging starts from, at most n; returns how many.
size_t upg_spm_characters(const upg_tokenizer *t, const uint8_t *p, size_t n, bool special, int32_t *id);
int upg_spm_byte(const char *s, size_t n);                // the byte that <0xNN> spells, or -1
int upg_spm_index_tokens(upg_tokenizer *t, upg_error *e); // byte_id and spm.ascii_id
bool upg_spm_can_cut(const upg_tokenizer *t);             // spm.cut

// tokenizer_config.c: what the readers of files share.
bool upg_json_absent(yyjson_val *v);
yyjson_doc *upg_tokenizer_parse(const char *text, size_t n, const char *name, upg_error *e);
int32_t upg_json_id(yyjson_val *v); // -1 if v is no id
// The bytes that a token spelled in the file's alphabet has, at most n; -1 if BPE cannot produce it.
int64_t upg_spelled_bytes(bool spm, const char *s, size_t n, uint8_t *out);
// Appends an added token from its JSON object to t->added, which has room; tokens with no text never match and are left
// out, as in the library.
int upg_add_added(upg_tokenizer *t, yyjson_val *token, int32_t id, upg_error *e);
int upg_alloc_tokens(upg_tokenizer *t, size_t total, upg_error *e); // bytes, offset, flags of t->size tokens
// For files that list no added tokens: those of the configuration's added_tokens_decoder are appended to t->added, or
// change the flags of the ones with their ids.
int upg_read_added_decoder(upg_tokenizer *t, yyjson_val *config, upg_error *e);
// t->size for n tokens with ids below size and those of added_tokens_decoder, whose bytes are added to total.
int upg_count_tokens(upg_tokenizer *t, int32_t size, size_t n, yyjson_val *config, size_t *total, upg_error *e);
int upg_place_added(upg_tokenizer *t, int32_t first, upg_error *e); // lays out those with ids from first to size - 1
int32_t upg_decimal_id(const char *s, size_t n);                    // -1 if s is no id
// What the configuration says about BOS, EOS and the other roles.
int upg_read_roles(upg_tokenizer *t, yyjson_val *config, upg_error *e);
static inline void upg_clear_roles(upg_tokenizer *t) {
    t->bos = t->spm.unk = -1;
    for (int i = 0; i < UPG_N_ROLES; i++) t->role[i] = -1;
}

// added_tokens.c
int upg_matcher_build(upg_matcher *m, const upg_tokenizer *t, bool normalized, upg_error *e);
typedef struct upg_match_sink {
    void *context;
    int (*text)(void *context, const uint8_t *p, size_t n); // n > 0
    int (*token)(void *context, int32_t id);
    // Whether text[start..stop) may be the token; NULL: always. What is refused is text, and the search goes on inside.
    bool (*accept)(void *context, const upg_added *token, size_t start, size_t stop);
} upg_match_sink;
// Cuts text at the added tokens of m, in order. special: control tokens count too.
int upg_matcher_split(const upg_matcher *m, const uint8_t *text, size_t n, bool special, const upg_match_sink *sink);
