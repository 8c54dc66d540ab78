// The prefix cache: keys and values of texts that have been run, so that the next text that begins alike need not run
// them again. A tree: the path from the root to a node is a text, a node is one KV block of it. Inner nodes are whole
// blocks of 256 tokens; a leaf may hold fewer. Blocks are shared, not copied, except where a text leaves a block in
// its middle: then its beginning is copied, so what is common counts token by token.
//
// Nothing here changes an answer: what a position holds depends on the tokens up to it only (docs/arithmetic.md). Used
// by one thread, the one that runs the session.
#pragma once
#include "base/base.h"

typedef struct upg_prefix upg_prefix;

typedef struct upg_prefix_counts {
    uint64_t saved, loaded, damaged, failed; // blocks of the folder
} upg_prefix_counts;

// folder: where blocks are kept across restarts, within so many bytes; or NULL. model: what makes blocks comparable
// (upg_model_hash and whatever else they depend on). log may be NULL.
upg_prefix *upg_prefix_new(upg_session *s, const char *folder, uint64_t folder_bytes, const uint8_t model[16],
                           void (*log)(void *ctx, const char *line), void *log_ctx, upg_error *e);
// Blocks that are not in the folder yet are written first.
void upg_prefix_free(upg_prefix *p);

// A sequence, which is empty, will hold tokens[0..n), and what is drawn behind them; they must stay until it ends. At
// least one token is left to run.
void upg_prefix_start(upg_prefix *p, int sequence, const int32_t *tokens, int n);
// Puts what is known of its beginning into the sequence, one block of the folder a call at most, since those take time:
// true if there may be more.
bool upg_prefix_extend(upg_prefix *p, int sequence);
// The sequence has computed so many of its tokens for good: whole blocks are shared from here on.
void upg_prefix_commit(upg_prefix *p, int sequence, int length);
// Empties the sequence. keep: what it has computed stays, the last `length` of it that is no whole block too.
void upg_prefix_end(upg_prefix *p, int sequence, int length, bool keep);

// Frees blocks that no sequence uses, the longest unused first, until there are n free ones; false if there are not so
// many.
bool upg_prefix_make_room(upg_prefix *p, int n);
int upg_prefix_unused(upg_prefix *p); // blocks that make_room could free
// To be called now and then: takes notice of what has been written.
void upg_prefix_poll(upg_prefix *p);
upg_prefix_counts upg_prefix_count(const upg_prefix *p);
