// Byte-pair merging of one piece: start from its bytes (or characters) and apply, again and again, the merge of lowest
// rank, the leftmost among equals, until none applies (Sennrich et al. 2016, in the order of Hugging Face's
// tokenizers).
//
// Two ways with one result. Short pieces, nearly all of them, scan an array for the lowest rank: quadratic, but in a
// few cache lines. Long ones keep a heap of (rank, position) over a linked list. Entries go stale when a neighbour
// merges first; an entry is good exactly while the pair at its position has its rank, whichever pair that is.
// Bytes that the vocabulary has no token for are left out, as there.
#include "text/tokenizer_internal.h"
#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 48 };
#define NO_RANK UINT32_MAX

// The merge of two tokens; rank NO_RANK if there is none. A text that must not become control tokens is merged as if
// the merges that give them were not there; of byte-level tokenizers add_token sees to that.
static inline upg_pair_slot find_pair(const upg_tokenizer *t, bool special, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = upg_hash_pair(key) & t->pairs_mask;; i = (i + 1) & t->pairs_mask) {
        if (t->pairs[i].key == UINT64_MAX) return t->pairs[i];
        if (t->pairs[i].key != key) continue;
        upg_pair_slot found = t->pairs[i];
        if (t->spm.on && !special && (t->flags[found.product] & UPG_TOKEN_SPECIAL)) found.rank = NO_RANK;
        return found;
    }
}

static inline uint32_t pair_rank(const upg_tokenizer *t, bool special, int32_t left, int32_t right) {
    return find_pair(t, special, left, right).rank; // NO_RANK in an empty slot
}

static size_t first_tokens(const upg_tokenizer *t, const uint8_t *p, size_t n, bool special, int32_t *id) {
    if (t->spm.on) return upg_spm_characters(t, p, n, special, id);
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[p[i]] >= 0) id[k++] = t->byte_id[p[i]];
    return k;
}

static int add_token(const upg_tokenizer *t, int32_t id, bool special, upg_ids *out, upg_error *e) {
    if (special || t->spm.on || !(t->flags[id] & UPG_TOKEN_SPECIAL)) return upg_ids_add(out, id, e);
    for (uint32_t i = t->offset[id]; i < t->offset[id + 1]; i++)
        if (t->byte_id[t->bytes[i]] >= 0 && upg_ids_add(out, t->byte_id[t->bytes[i]], e)) return -1;
    return 0;
}

static int merge_short(const upg_tokenizer *t, const uint8_t *p, size_t n, bool special, upg_ids *out, upg_error *e) {
    int32_t id[SHORT_PIECE];
    uint32_t rank[SHORT_PIECE]; // of the pair (id[i], id[i + 1])
    n = first_tokens(t, p, n, special, id);
    for (size_t i = 0; i + 1 < n; i++) rank[i] = pair_rank(t, special, id[i], id[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        id[best] = find_pair(t, special, id[best], id[best + 1]).product;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        memmove(rank + best, rank + best + 1, (n - best - 1) * sizeof *rank);
        if (best > 0) rank[best - 1] = pair_rank(t, special, id[best - 1], id[best]);
        if (best + 1 < n) rank[best] = pair_rank(t, special, id[best], id[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        if (add_token(t, id[i], special, out, e)) return -1;
    return 0;
}

typedef struct symbol {
    int32_t id;
    uint32_t prev, next; // NO_SYMBOL at the ends
    uint32_t rank;       // of the pair (this, next); NO_RANK when there is none or this was merged into prev
} symbol;
#define NO_SYMBOL UINT32_MAX

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t x = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t x) {
    size_t i = (*n)++;
    for (; i && heap[(i - 1) / 2] > x; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = x;
}

static int reserve_long(upg_bpe *b, size_t n, upg_error *e) {
    if (b->n_symbols < n) {
        symbol *s = upg_resize(b->symbols, n, sizeof *s, e);
        if (!s) return -1;
        b->symbols = s;
        b->n_symbols = n;
    }
    if (b->n_first < n) {
        int32_t *first = upg_resize(b->first, n, sizeof *first, e);
        if (!first) return -1;
        b->first = first;
        b->n_first = n;
    }
    // A merge takes an entry and gives at most two, and there are fewer than n merges.
    if (b->heap_capacity < 2 * n) {
        uint64_t *heap = upg_resize(b->heap, 2 * n, sizeof *heap, e);
        if (!heap) return -1;
        b->heap = heap;
        b->heap_capacity = 2 * n;
    }
    return 0;
}

// Ranks the pair that starts at symbol i afresh and queues it.
static void queue_pair(const upg_tokenizer *t, bool special, symbol *s, uint32_t i, uint64_t *heap, size_t *n_heap) {
    s[i].rank = s[i].next == NO_SYMBOL ? NO_RANK : pair_rank(t, special, s[i].id, s[s[i].next].id);
    if (s[i].rank != NO_RANK) heap_push(heap, n_heap, (uint64_t)s[i].rank << 32 | i);
}

static int merge_long(const upg_tokenizer *t, upg_bpe *b, const uint8_t *p, size_t n, bool special, upg_ids *out,
                      upg_error *e) {
    if (n > INT32_MAX) return upg_fail(e, "tokenizer: a piece of %zu bytes is too long", n);
    if (reserve_long(b, n, e)) return -1;
    symbol *s = b->symbols;
    uint64_t *heap = b->heap;
    size_t n_heap = 0;
    n = first_tokens(t, p, n, special, b->first);
    if (!n) return 0;
    for (size_t i = 0; i < n; i++)
        s[i] = (symbol){b->first[i], i ? (uint32_t)i - 1 : NO_SYMBOL, (uint32_t)i + 1, NO_RANK};
    s[n - 1].next = NO_SYMBOL;
    for (size_t i = 0; i + 1 < n; i++) {
        s[i].rank = pair_rank(t, special, s[i].id, s[i + 1].id);
        if (s[i].rank != NO_RANK) heap[n_heap++] = (uint64_t)s[i].rank << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, n_heap, i);
    while (n_heap) {
        uint64_t top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap) sift_down(heap, n_heap, 0);
        uint32_t i = (uint32_t)top;
        if (s[i].rank != top >> 32) continue;
        uint32_t next = s[i].next;
        s[i].id = find_pair(t, special, s[i].id, s[next].id).product;
        s[i].next = s[next].next;
        s[next].rank = NO_RANK;
        if (s[i].next != NO_SYMBOL) s[s[i].next].prev = i;
        queue_pair(t, special, s, i, heap, &n_heap);
        if (s[i].prev != NO_SYMBOL) queue_pair(t, special, s, s[i].prev, heap, &n_heap);
    }
    for (uint32_t i = 0; i != NO_SYMBOL; i = s[i].next)
        if (add_token(t, s[i].id, special, out, e)) return -1;
    return 0;
}

int upg_bpe_merge(const upg_tokenizer *t, upg_bpe *b, const uint8_t *p, size_t n, bool special, upg_ids *out,
                  upg_error *e) {
    return n <= SHORT_PIECE ? merge_short(t, p, n, special, out, e) : merge_long(t, b, p, n, special, out, e);
}

void upg_bpe_free(upg_bpe *b) {
    free(b->symbols);
    free(b->first);
    free(b->heap);
    *b = (upg_bpe){0};
}
