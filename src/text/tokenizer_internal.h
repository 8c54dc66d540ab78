// What the files of the tokenizer share: the loaded form, its indexes and the steps between them.
//
// A tokenizer is made by one of two readers (tokenizer_json.c, tokenizer_pack.c). Each fills the vocabulary, calls
// upg_tokenizer_index_tokens, fills the merges, the added tokens and the stages, and calls upg_tokenizer_index; after
// that it never changes, which is what makes encoding thread-safe.
#pragma once
#include "text/pretokenize.h"
#include "text/tokenizer.h"

enum {
    UPG_TOKEN_MODEL = 1,   // byte-level entry of the model's vocabulary: BPE may produce it
    UPG_TOKEN_RAW = 2,     // entry of the vocabulary with characters outside the byte alphabet: BPE cannot produce it
    UPG_TOKEN_ADDED = 4,   // an added token that the vocabulary does not have
    UPG_TOKEN_SPECIAL = 8, // control token
    UPG_TOKEN_WHOLE = 16,  // a piece of exactly these bytes is this token
};

enum {
    UPG_ADDED_SINGLE_WORD = 1,
    UPG_ADDED_LSTRIP = 2,
    UPG_ADDED_RSTRIP = 4,
    UPG_ADDED_NORMALIZED = 8,
    UPG_ADDED_SPECIAL = 16,
    UPG_ADDED_FLAGS = 31,
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
    bool ignore_merges;
    bool nfc;
    int32_t bos;
    int n_stages; // at least 1
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

// bpe.c. The lowest rank merges first, the leftmost among equals; O(n log n). Memory is kept between calls.
typedef struct upg_bpe {
    void *symbols; // for pieces too long for the stack
    size_t n_symbols;
    uint64_t *heap;
    size_t heap_capacity;
} upg_bpe;
// Appends the ids of the piece p[0..n), n > 0. Unless special, control tokens that merges happen to spell are written
// as the tokens of their bytes.
int upg_bpe_merge(const upg_tokenizer *t, upg_bpe *b, const uint8_t *p, size_t n, bool special, upg_ids *out,
                  upg_error *e);
void upg_bpe_free(upg_bpe *b);

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
