// The ids of pieces met before in the text being encoded: words repeat, so most pieces are one look at one cache line
// instead of a hash of the vocabulary or a merge. A slot is found by the piece's bytes and overwritten when another
// piece falls on it. One cache belongs to one call, so nothing is shared between threads.
#pragma once
#include <string.h>
#include "text/tokenizer.h"

enum { UPG_CACHED_BYTES = 16, UPG_CACHED_IDS = 10, UPG_CACHE_MIN_TEXT = 256, UPG_CACHE_MAX_SLOTS = 4096 };

typedef struct upg_cached_piece { // 64 bytes, a cache line
    uint64_t first, last;         // its bytes, see upg_piece_key
    uint32_t size, n_ids;         // size 0: empty
    int32_t ids[UPG_CACHED_IDS];
} upg_cached_piece;

typedef struct upg_piece_cache {
    upg_cached_piece *slots; // [mask + 1]; NULL: no cache
    uint64_t mask;
} upg_piece_cache;

// For a text of n bytes; none for a short one, where nothing repeats.
static inline int upg_piece_cache_make(upg_piece_cache *c, size_t n, upg_error *e) {
    *c = (upg_piece_cache){0};
    if (n < UPG_CACHE_MIN_TEXT) return 0;
    uint64_t size = UPG_CACHE_MIN_TEXT / 16;
    while (size < UPG_CACHE_MAX_SLOTS && size < n / 16) size *= 2;
    c->slots = upg_aligned_alloc(size * sizeof *c->slots, e);
    c->mask = size - 1;
    return c->slots ? 0 : -1;
}

// Two words that with the size tell all bytes of a piece of 1 to UPG_CACHED_BYTES: both ends of it, which overlap.
static inline void upg_piece_key(const uint8_t *p, size_t n, uint64_t *first, uint64_t *last) {
    if (n >= 8) {
        memcpy(first, p, 8);
        memcpy(last, p + n - 8, 8);
    } else if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        *first = a;
        *last = b;
    } else {
        *first = p[0] | (uint64_t)p[n / 2] << 8;
        *last = p[n - 1];
    }
}

// The slot where a piece of the key belongs.
static inline upg_cached_piece *upg_piece_slot_of(const upg_piece_cache *c, uint64_t first, uint64_t last, size_t n) {
    uint64_t h = (first ^ (last + n) * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
    return &c->slots[(h >> 32 ^ h >> 47) & c->mask];
}
