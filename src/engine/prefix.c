// The tree of what is known. See prefix.h.
//
// A node may be in memory, in the folder, or both; or neither, as long as there is something below it. Nodes are kept
// in the order of their last use, a text's beginning newer than its end, so that ends go first.
#include "engine/prefix.h"
#include "engine/kv_store.h"
#include "engine/session.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    BLOCK = UPG_KV_TOKENS,
    WORTH = 16, // common tokens from which on a block that is no whole one is kept, and copied
};

typedef struct node {
    struct node *parent, *children, *next, *previous; // next, previous: siblings
    struct node *newer, *older;
    int n;          // tokens: BLOCK, or fewer in a leaf
    int first;      // position of the first
    int32_t block;  // -1: not in memory
    int refs;       // sequences that end here
    int n_resident; // children in memory
    unsigned mark;
    bool saved, saving; // saved: in the folder
    uint8_t hash[16];   // of the text to its end
    int32_t tokens[];   // [n]
} node;

typedef struct live { // a sequence that runs
    const int32_t *tokens;
    int n;      // of them wanted at the start
    node *at;   // the deepest node that it shares; NULL: it has none, or is not to add any
    int length; // tokens that have been computed
} live;

struct upg_prefix {
    upg_session *session;
    upg_kv_store *store; // or NULL
    uint64_t store_limit;
    live *lives; // [n_sequences]
    node *root;  // has no block
    node *newest, *oldest;
    int resident; // nodes in memory
    bool unsaved; // there may be some that should go to the folder
    unsigned mark;
    upg_prefix_counts counts;
};

static bool resident(const node *x) {
    return x->block >= 0;
}

// ---- Nodes ----

static void unlink_use(upg_prefix *p, node *x) {
    *(x->newer ? &x->newer->older : &p->newest) = x->older;
    *(x->older ? &x->older->newer : &p->oldest) = x->newer;
}

static void link_newest(upg_prefix *p, node *x) {
    x->newer = NULL;
    x->older = p->newest;
    *(p->newest ? &p->newest->newer : &p->oldest) = x;
    p->newest = x;
}

// The path to x has been of use.
static void touch(upg_prefix *p, node *x) {
    for (; x != p->root; x = x->parent) {
        unlink_use(p, x);
        link_newest(p, x);
    }
}

static void hash_node(node *x) {
    struct {
        uint8_t parent[16];
        int32_t tokens[BLOCK];
    } text = {0};
    XXH128_canonical_t out;
    memcpy(text.parent, x->parent->hash, 16);
    memcpy(text.tokens, x->tokens, (size_t)x->n * sizeof *x->tokens);
    XXH128_canonicalFromHash(&out, XXH3_128bits(&text, sizeof text.parent + (size_t)x->n * sizeof *x->tokens));
    memcpy(x->hash, out.digest, 16);
}

static node *add_node(upg_prefix *p, node *parent, const int32_t *tokens, int n) {
    node *x = upg_alloc(1, sizeof *x + (size_t)n * sizeof *tokens, NULL);
    if (!x) return NULL;
    x->parent = parent;
    x->n = n;
    x->first = parent == p->root ? 0 : parent->first + BLOCK;
    x->block = -1;
    memcpy(x->tokens, tokens, (size_t)n * sizeof *tokens);
    hash_node(x);
    x->next = parent->children;
    if (x->next) x->next->previous = x;
    parent->children = x;
    link_newest(p, x);
    return x;
}

// Frees nodes that hold nothing, upwards.
static void prune(upg_prefix *p, node *x) {
    while (x != p->root && !resident(x) && !x->saved && !x->saving && !x->children && !x->refs) {
        node *parent = x->parent;
        *(x->previous ? &x->previous->next : &parent->children) = x->next;
        if (x->next) x->next->previous = x->previous;
        unlink_use(p, x);
        free(x);
        x = parent;
    }
}

// The node comes to hold a block, with a reference of its own.
static void set_block(upg_prefix *p, node *x, int32_t block) {
    x->block = block;
    x->parent->n_resident++;
    p->resident++;
}

static void drop_block(upg_prefix *p, node *x) {
    upg_session_block_drop(p->session, x->block);
    x->block = -1;
    x->parent->n_resident--;
    p->resident--;
}

static void remove_file(upg_prefix *p, node *x) {
    upg_kv_store_remove(p->store, x->hash, NULL);
    x->saved = false;
}

static int common(const int32_t *a, const int32_t *b, int n) {
    int i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

// The child that is these n tokens.
static node *find_child(node *parent, const int32_t *tokens, int n) {
    for (node *x = parent->children; x; x = x->next)
        if (x->n == n && !memcmp(x->tokens, tokens, (size_t)n * sizeof *tokens)) return x;
    return NULL;
}

// ---- The folder ----

// Room in the folder for so many bytes more: what has been out of use for longer than x (NULL: anything) goes.
static bool make_file_room(upg_prefix *p, uint64_t bytes, const node *x) {
    for (node *old = p->oldest; old != x && upg_kv_store_bytes(p->store) + bytes > p->store_limit;) {
        if (!old->saved) {
            old = old->newer;
            continue;
        }
        remove_file(p, old);
        prune(p, old); // may free others too
        old = p->oldest;
    }
    return upg_kv_store_bytes(p->store) + bytes <= p->store_limit;
}

static void take_notice(upg_prefix *p) {
    void *tag;
    bool written;
    while (upg_kv_store_done(p->store, &tag, &written)) {
        node *x = tag;
        x->saving = false;
        x->saved = written;
        *(written ? &p->counts.saved : &p->counts.failed) += 1;
        prune(p, x);
    }
}

// Puts a node on its way to the folder; false if there is no room, or if others must be written first.
static bool save(upg_prefix *p, node *x, bool wait) {
    if (x->saved || x->saving || !resident(x)) return true;
    if (!make_file_room(p, upg_kv_store_file_bytes(p->store), x)) return false;
    void *buffer = upg_kv_store_buffer(p->store, wait);
    if (!buffer && wait) {
        take_notice(p);
        buffer = upg_kv_store_buffer(p->store, false);
    }
    if (!buffer) return false;
    upg_kv_record r = {.first = x->first, .n = x->n};
    memcpy(r.hash, x->hash, 16);
    memcpy(r.parent, x->parent->hash, 16);
    memcpy(r.tokens, x->tokens, (size_t)x->n * sizeof *x->tokens);
    bool read = !upg_session_block_read(p->session, x->block, buffer, NULL);
    x->saving = read;
    upg_kv_store_save(p->store, buffer, read ? &r : NULL, x);
    return read;
}

// Newest first, so parents first: a file without them is of no use.
void upg_prefix_poll(upg_prefix *p) {
    if (!p->store) return;
    take_notice(p);
    node *x = p->unsaved ? p->newest : NULL;
    while (x && save(p, x, false)) x = x->older;
    p->unsaved = p->unsaved && x;
}

typedef struct use {
    node *node;
    int64_t when;
} use;

static int by_use(const void *a, const void *b) {
    int64_t x = ((const use *)a)->when, y = ((const use *)b)->when;
    return (x > y) - (x < y);
}

static void order_by_use(upg_prefix *p, node *const *nodes, const upg_kv_record *records, size_t n) {
    use *uses = upg_alloc(n + 1, sizeof *uses, NULL);
    if (!uses) return; // then in the order of the records
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (nodes[i]) uses[count++] = (use){nodes[i], records[i].used};
    qsort(uses, count, sizeof *uses, by_use);
    for (size_t i = 0; i < count; i++) touch(p, uses[i].node);
    free(uses);
}

// Nodes of the folder. Parents come first in its order; a file whose parent is gone is of no use.
static void adopt_files(upg_prefix *p) {
    size_t n;
    const upg_kv_record *all = upg_kv_store_records(p->store, &n);
    node **nodes = upg_alloc(n + 1, sizeof *nodes, NULL);
    if (!nodes) return;         // they stay unknown until the next start
    size_t from = 0, level = 0; // nodes of the level above begin at from, those of this one at level
    for (size_t i = 0; i < n; i++) {
        node *parent = NULL;
        if (i && all[i].first != all[i - 1].first) {
            from = all[i].first == all[i - 1].first + BLOCK ? level : i;
            level = i;
        }
        if (!all[i].first && !memcmp(all[i].parent, p->root->hash, 16)) parent = p->root;
        for (size_t j = from; j < level && !parent; j++)
            if (nodes[j] && nodes[j]->n == BLOCK && !memcmp(nodes[j]->hash, all[i].parent, 16)) parent = nodes[j];
        node *x = parent ? add_node(p, parent, all[i].tokens, all[i].n) : NULL;
        if (x && !memcmp(x->hash, all[i].hash, 16)) {
            x->saved = true;
            nodes[i] = x;
        } else {
            upg_kv_store_remove(p->store, all[i].hash,
                                parent ? "its tokens are not those of its name" : "what comes before it is gone");
            if (x) prune(p, x);
        }
    }
    order_by_use(p, nodes, all, n);
    make_file_room(p, 0, NULL);
    free(nodes);
}

// ---- Making and freeing ----

upg_prefix *upg_prefix_new(upg_session *s, const char *folder, uint64_t folder_bytes, const uint8_t model[16],
                           void (*log)(void *ctx, const char *line), void *log_ctx, upg_error *e) {
    upg_prefix *p = upg_alloc(1, sizeof *p, e);
    if (!p) return NULL;
    p->session = s;
    p->store_limit = folder_bytes;
    p->root = upg_alloc(1, sizeof *p->root, e);
    p->lives = p->root ? upg_alloc((size_t)upg_session_sequences(s), sizeof *p->lives, e) : NULL;
    if (p->root) {
        p->root->block = -1;
        memcpy(p->root->hash, model, 16);
    }
    if (p->lives && folder) p->store = upg_kv_store_open(folder, model, upg_session_block_bytes(s), log, log_ctx, e);
    if (!p->lives || (folder && !p->store)) {
        upg_prefix_free(p);
        return NULL;
    }
    if (p->store) adopt_files(p);
    return p;
}

static void free_below(node *x) {
    for (node *child = x->children; child;) {
        node *next = child->next;
        free_below(child);
        free(child);
        child = next;
    }
}

void upg_prefix_free(upg_prefix *p) {
    if (!p) return;
    // Newest first, which is also parents first, as long as there is room.
    for (node *x = p->store ? p->newest : NULL; x && save(p, x, true); x = x->older) continue;
    upg_kv_store_close(p->store);
    if (p->root) free_below(p->root);
    free(p->root);
    free(p->lives);
    free(p);
}

// ---- Room ----

// An end of the tree in memory that nothing holds.
static bool evictable(const node *x) {
    return resident(x) && !x->refs && !x->n_resident;
}

bool upg_prefix_make_room(upg_prefix *p, int n) {
    node *x = p->oldest;
    while (x && upg_session_free_blocks(p->session) < n) {
        node *newer = x->newer;
        if (evictable(x)) {
            if (p->store) save(p, x, false);
            node *parent = x->parent;
            drop_block(p, x);
            prune(p, x);
            // What it was the end of may be the next to go, and is older than whatever follows.
            newer = parent != p->root && evictable(parent) ? parent : p->oldest;
        }
        x = newer;
    }
    return upg_session_free_blocks(p->session) >= n;
}

int upg_prefix_unused(upg_prefix *p) {
    int used = 0;
    p->mark++;
    for (int i = 0; i < upg_session_sequences(p->session); i++)
        for (node *x = p->lives[i].at; x && x != p->root && x->mark != p->mark; x = x->parent) {
            x->mark = p->mark;
            used += resident(x);
        }
    return p->resident - used;
}

// ---- Sequences ----

static void move_to(live *l, node *x) {
    if (l->at) l->at->refs--;
    l->at = x;
    if (x) x->refs++;
}

void upg_prefix_start(upg_prefix *p, int sequence, const int32_t *tokens, int n) {
    live *l = &p->lives[sequence];
    *l = (live){.tokens = tokens, .n = n};
    move_to(l, p->root);
}

// The node's block from the folder into a free one; -1 if that is not possible.
static int32_t load(upg_prefix *p, node *x) {
    upg_kv_record r = {.first = x->first, .n = x->n};
    memcpy(r.hash, x->hash, 16);
    memcpy(r.tokens, x->tokens, (size_t)x->n * sizeof *x->tokens);
    x->refs++; // stays while room is made
    int32_t block = upg_prefix_make_room(p, 1) ? upg_session_block_take(p->session) : -1;
    x->refs--;
    if (block < 0) return -1;
    const void *data = upg_kv_store_load(p->store, &r);
    upg_error e;
    if (data && !upg_session_block_write(p->session, block, data, &e)) {
        p->counts.loaded++;
        return block;
    }
    upg_session_block_drop(p->session, block);
    remove_file(p, x);
    p->counts.damaged++;
    return -1;
}

// The block in which tokens begin like the sequence's further ones, and how many: of the tree, or of a sequence that is
// at work on it.
typedef struct beginning {
    int n;
    int32_t block; // -1: in the folder
    node *node;    // or NULL
} beginning;

static beginning find_beginning(upg_prefix *p, const live *l, int n) {
    beginning best = {.n = WORTH - 1};
    const int32_t *tokens = l->tokens + l->length;
    for (node *x = l->at->children; x; x = x->next) {
        int c = resident(x) || x->saved ? common(x->tokens, tokens, n < x->n ? n : x->n) : 0;
        if (c > best.n) best = (beginning){c, x->block, x};
    }
    for (int i = 0; i < upg_session_sequences(p->session); i++) {
        const live *other = &p->lives[i];
        int known = other->length - l->length;
        if (other == l || !other->at || known < WORTH || common(l->tokens, other->tokens, l->length) < l->length)
            continue;
        int c = common(other->tokens + l->length, tokens, n < known ? n : known);
        if (c > BLOCK) c = BLOCK;
        if (c > best.n) best = (beginning){c, upg_session_block(p->session, i, l->length / BLOCK), NULL};
    }
    return best.n < WORTH ? (beginning){0} : best;
}

// Copies the beginning of a block. It is only for this sequence to write behind it.
static void copy_beginning(upg_prefix *p, int sequence, int n) {
    live *l = &p->lives[sequence];
    beginning found = find_beginning(p, l, n);
    if (!found.n) return;
    if (found.node) found.node->refs++;
    int32_t block = -1;
    upg_error e;
    if (found.block < 0)
        block = load(p, found.node);
    else if (upg_prefix_make_room(p, 1)) {
        block = upg_session_block_take(p->session);
        if (upg_session_block_copy(p->session, found.block, block, &e)) {
            upg_session_block_drop(p->session, block);
            block = -1;
        }
    }
    if (found.node) {
        found.node->refs--;
        if (block >= 0) touch(p, found.node);
        prune(p, found.node);
    }
    if (block < 0) return;
    upg_session_attach(p->session, sequence, block, l->length + found.n);
    upg_session_block_drop(p->session, block);
    l->length += found.n;
}

bool upg_prefix_extend(upg_prefix *p, int sequence) {
    live *l = &p->lives[sequence];
    if (l->length % BLOCK) return false;
    for (int rest; (rest = l->n - 1 - l->length) >= BLOCK;) {
        node *x = find_child(l->at, l->tokens + l->length, BLOCK);
        if (!x || (!resident(x) && !x->saved)) break;
        bool loaded = !resident(x);
        if (loaded) {
            int32_t block = load(p, x);
            if (block < 0) {
                prune(p, x);
                break;
            }
            set_block(p, x, block);
        }
        upg_session_attach(p->session, sequence, x->block, l->length + BLOCK);
        l->length += BLOCK;
        move_to(l, x);
        touch(p, x);
        if (loaded) return true;
    }
    int rest = l->n - 1 - l->length;
    if (rest >= WORTH) copy_beginning(p, sequence, rest < BLOCK ? rest : BLOCK);
    return false;
}

// A node for n tokens of the sequence from the end of its node on, holding its block; NULL if there is none.
static node *insert(upg_prefix *p, int sequence, int first, int n) {
    live *l = &p->lives[sequence];
    int32_t block = upg_session_block(p->session, sequence, first / BLOCK);
    node *x = find_child(l->at, l->tokens + first, n);
    if (x && resident(x)) {
        // Another one was faster; both are the same, and one will do.
        if (n == BLOCK && x->block != block) upg_session_replace_block(p->session, sequence, first / BLOCK, x->block);
        return x;
    }
    if (!x) x = add_node(p, l->at, l->tokens + first, n);
    if (!x) return NULL;
    upg_session_block_hold(p->session, block);
    set_block(p, x, block);
    p->unsaved = true;
    // What only begins like it has no more use.
    for (node *other = l->at->children, *next; other; other = next) {
        next = other->next;
        if (other == x || other->n >= n || other->refs || other->saving || other->children ||
            memcmp(other->tokens, x->tokens, (size_t)other->n * sizeof *x->tokens))
            continue;
        if (resident(other)) drop_block(p, other);
        if (other->saved) remove_file(p, other);
        prune(p, other);
    }
    return x;
}

void upg_prefix_commit(upg_prefix *p, int sequence, int length) {
    live *l = &p->lives[sequence];
    int before = l->length;
    l->length = length;
    for (int first = before / BLOCK * BLOCK; l->at && first + BLOCK <= length; first += BLOCK) {
        node *x = insert(p, sequence, first, BLOCK);
        if (!x) { // no memory: what it has stays its own
            move_to(l, NULL);
            return;
        }
        move_to(l, x);
        touch(p, x);
    }
}

void upg_prefix_end(upg_prefix *p, int sequence, int length, bool keep) {
    live *l = &p->lives[sequence];
    if (keep && l->at) upg_prefix_commit(p, sequence, length);
    node *at = l->at, *tail = NULL;
    int rest = l->length % BLOCK;
    if (keep && at && rest >= WORTH) {
        // A child that begins with all of it will do.
        bool there = false;
        for (node *x = at->children; x && !there; x = x->next)
            there = resident(x) && x->n >= rest && common(x->tokens, l->tokens + l->length - rest, rest) == rest;
        if (!there) tail = insert(p, sequence, l->length - rest, rest);
        if (tail) touch(p, tail);
    }
    upg_session_truncate(p->session, sequence, 0, NULL);
    move_to(l, NULL);
    l->tokens = NULL;
    l->length = 0;
    if (at) prune(p, tail ? tail : at);
}

upg_prefix_counts upg_prefix_count(const upg_prefix *p) {
    return p->counts;
}
