// Drafts: what may come next, looked up in the text so far. Nothing here runs a model.
//
// Texts repeat themselves: code that is edited, a passage that is quoted, a name. The drafter knows the last place
// where the text's ending, of 8 tokens down to 2, has stood before, and proposes what followed there. Whoever draws the
// next tokens says which came, so the drafter knows how often a match of each length was right, whether or not anything
// was drafted; with the measured time of a batch it says how long a draft pays. Times decide how much is drafted, never
// what is drawn.
#pragma once
#include "base/base.h"

enum {
    UPG_NGRAM_MIN = 2,
    UPG_NGRAM_MAX = 8,
    UPG_DRAFT_MAX = 31, // tokens of a draft
};

// Where the text's ending has stood before: tokens[at - length..at) equals the last `length` tokens, and tokens[at] is
// the guess. Without one all is zero.
typedef struct upg_match {
    int at, length;
} upg_match;

typedef struct upg_drafter {
    int32_t *tokens; // [capacity] the text
    int n, capacity;
    upg_match match;
    // The last place of every n-gram: chains of the positions behind it, one hash table a length. 0: none.
    int32_t *heads; // [UPG_NGRAM_MAX - UPG_NGRAM_MIN + 1][1 << bits]; NULL: there are to be no drafts
    int32_t *next;  // [UPG_NGRAM_MAX - UPG_NGRAM_MIN + 1][capacity + 1]
    int bits;
    struct {
        float right;              // how often a guess of a match of such a length was right
        int n;                    // guesses
    } guesses[UPG_DRAFT_MAX + 1]; // [a match's length, or the last]
    int streak;                   // guesses right of late: one more with each, half as many after a wrong one
    struct {
        double seconds;
        int n;                 // how often it was measured
    } runs[UPG_DRAFT_MAX + 2]; // [rows of a batch]
    double trust;              // in what was measured of drafts: 1 after one, less with every chance that was let pass
} upg_drafter;

// All memory is taken here. drafts: whether there will be any; without, the drafter only keeps the text.
int upg_drafter_init(upg_drafter *d, int capacity, bool drafts, upg_error *e);
void upg_drafter_free(upg_drafter *d);
// Forgets the text. What was measured stays.
void upg_drafter_clear(upg_drafter *d);
// Appends to the text, of fewer than capacity tokens. drawn: the token is one that a draft would have had to guess.
void upg_drafter_push(upg_drafter *d, int32_t token, bool drawn);
// n tokens that may follow; returns n, or 0 if nothing matches.
int upg_drafter_propose(const upg_drafter *d, int n, int32_t *draft);

// A batch of so many rows took so long.
void upg_drafter_measure(upg_drafter *d, int rows, double seconds);
// How many tokens, at most max, a draft should have to be worth its time; often 0.
int upg_drafter_choose(upg_drafter *d, int max);
