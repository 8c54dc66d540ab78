// The index over the text, and how long a draft pays. See speculate.h.
#include "engine/speculate.h"
#include <stdlib.h>
#include <string.h>

enum { N_ORDERS = UPG_NGRAM_MAX - UPG_NGRAM_MIN + 1 };

int upg_drafter_init(upg_drafter *d, int capacity, bool drafts, upg_error *e) {
    *d = (upg_drafter){.capacity = capacity, .trust = 1};
    if (!(d->tokens = upg_alloc((size_t)capacity, sizeof *d->tokens, e))) return -1;
    if (!drafts) return 0;
    do d->bits++;
    while (d->bits < 30 && 1 << d->bits < capacity);
    if (!(d->heads = upg_alloc((size_t)N_ORDERS << d->bits, sizeof *d->heads, e)) ||
        !(d->next = upg_alloc(N_ORDERS * ((size_t)capacity + 1), sizeof *d->next, e)))
        return -1;
    // Until it is known better, a match of n tokens is right n times of n + 4.
    for (int i = 0; i <= UPG_DRAFT_MAX; i++) d->guesses[i].right = (float)i / (float)(i + 4);
    return 0;
}

void upg_drafter_free(upg_drafter *d) {
    free(d->tokens);
    free(d->heads);
    free(d->next);
    *d = (upg_drafter){0};
}

void upg_drafter_clear(upg_drafter *d) {
    d->n = 0;
    d->match = (upg_match){0};
    if (d->heads) memset(d->heads, 0, ((size_t)N_ORDERS << d->bits) * sizeof *d->heads);
}

// ---- The index ----

// Puts the text's end in the place of the one before that the same n-gram led to, and returns that one; 0 if there is
// none. So a chain has every n-gram once, and stays short; where hashes collide more than chance has it, the rest of
// the chain is let go.
static int replace(upg_drafter *d, int order, uint64_t hash) {
    enum { LONGEST_CHAIN = 32 };
    int32_t *head = d->heads + ((size_t)(order - UPG_NGRAM_MIN) << d->bits) + (hash >> (64 - d->bits));
    int32_t *next = d->next + (size_t)(order - UPG_NGRAM_MIN) * ((size_t)d->capacity + 1);
    const int32_t *ending = d->tokens + d->n - order;
    int found = 0;
    int32_t *link = head;
    for (int i = 0; *link && !found; i++, link = &next[*link]) {
        if (i == LONGEST_CHAIN) {
            *link = 0;
            break;
        }
        if (memcmp(d->tokens + *link - order, ending, (size_t)order * sizeof *ending)) continue;
        found = *link;
        *link = next[found];
        break;
    }
    next[d->n] = *head;
    *head = d->n;
    return found;
}

static upg_match find_match(upg_drafter *d) {
    upg_match m = {0};
    uint64_t hash = 0;
    for (int order = 1; order <= UPG_NGRAM_MAX && order <= d->n; order++) {
        hash = (hash ^ (uint32_t)d->tokens[d->n - order]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
        int at = order < UPG_NGRAM_MIN ? 0 : replace(d, order, hash * 0xBF58476D1CE4E5B9u);
        if (at) m = (upg_match){at, order};
    }
    return m;
}

static int guess_class(int length) {
    return length < UPG_DRAFT_MAX ? length : UPG_DRAFT_MAX;
}

static void judge(upg_drafter *d, int length, bool right) {
    int n = ++d->guesses[guess_class(length)].n;
    float *p = &d->guesses[guess_class(length)].right;
    *p += ((float)right - *p) / (float)(n < 28 ? n + 4 : 32);
    d->streak = !right ? d->streak / 2 : d->streak < UPG_DRAFT_MAX ? d->streak + 1 : UPG_DRAFT_MAX;
}

void upg_drafter_push(upg_drafter *d, int32_t token, bool drawn) {
    upg_match old = d->match;
    bool right = old.length && d->tokens[old.at] == token;
    d->tokens[d->n++] = token;
    if (!d->heads) return;
    if (old.length && drawn) judge(d, old.length, right);
    d->match = find_match(d);
    // A long match that was right goes on, though a shorter one may be nearer.
    if (right && old.length >= UPG_NGRAM_MAX) d->match = (upg_match){old.at + 1, old.length + 1};
}

int upg_drafter_propose(const upg_drafter *d, int n, int32_t *draft) {
    if (!d->match.length) return 0;
    for (int i = 0; i < n; i++) {
        int at = d->match.at + i; // past the end, the draft goes on with itself
        draft[i] = at < d->n ? d->tokens[at] : draft[at - d->n];
    }
    return n;
}

// ---- How long a draft pays ----

void upg_drafter_measure(upg_drafter *d, int rows, double seconds) {
    double *s = &d->runs[rows].seconds;
    // Others on the machine make a batch slower, nothing makes it faster: what is faster counts more.
    *s = d->runs[rows].n++ ? *s + (seconds - *s) * (seconds < *s ? 0.5 : 0.1) : seconds;
    if (rows > 1) d->trust = 1;
}

// What a batch will take; least: fewer rows take that much. One measurement may have been a bad moment, so until there
// are two a batch is hoped to be cheap; and old ones are trusted less and less, so that no bad moment lasts.
static double expect_seconds(const upg_drafter *d, int rows, double least) {
    double hope = d->runs[1].seconds * (1 + 0.1 * (rows - 1));
    double s = d->runs[rows].n > 1 ? d->runs[rows].seconds * d->trust : hope;
    return s > least ? s : least;
}

// Drafts have these lengths only, so that each is measured often.
static const int lengths[] = {1, 3, 7, 15, 31};

int upg_drafter_choose(upg_drafter *d, int max) {
    if (!d->match.length || d->runs[1].n < 2) return 0;
    d->trust *= 0.995;
    // A text that only looks as if it repeated itself costs short drafts.
    if (max > 2 * d->streak + 1) max = 2 * d->streak + 1;
    double seconds = d->runs[1].seconds;
    double fastest = 1.1 / seconds;  // tokens a second; a smaller gain may be an error of measurement
    double expected = 1, chance = 1; // tokens of the batch; of the next guess to count
    int best = 0, k = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && lengths[i] <= max; i++) {
        for (; k < lengths[i]; k++) {
            chance *= (double)d->guesses[guess_class(d->match.length + k)].right;
            expected += chance;
        }
        seconds = expect_seconds(d, k + 1, seconds);
        if (expected / seconds <= fastest) continue;
        fastest = expected / seconds;
        best = k;
    }
    return best;
}
