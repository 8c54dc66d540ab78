// What the engine knows of a session beside upg.h: KV blocks that sequences share.
//
// A block holds the keys and values of 256 positions, and belongs to all that hold a reference: sequences, and who
// keeps it for later. Positions of a block never change once they are written, so a full one may be shared freely; one
// that is not may be written by one sequence only.
#pragma once
#include "backend/backend.h"

int upg_session_sequences(const upg_session *s);
// Rows that may be run behind one whose logits are wanted, with theirs: 0 if logits depend on how rows are batched.
int upg_session_rows_ahead(const upg_session *s);
// As upg_session_run; draws: of the rows with logits, in their order, or NULL. Where a token was drawn, logits need not
// be here: upg_session_logits fetches them, and is NULL if the device is lost.
int upg_session_run_draws(upg_session *s, const upg_row *rows, int n_rows, const upg_draw *draws, upg_error *e);
bool upg_session_draws(const upg_session *s);           // whether tokens are ever drawn where it runs
int32_t upg_session_drawn(const upg_session *s, int i); // by the last run from logits i, or -1
const char *upg_session_device(const upg_session *s);   // "cpu", "fp32", or a GPU's name: "cuda"
upg_pool *upg_session_pool(const upg_session *s);       // to use between runs

int upg_session_blocks(const upg_session *s);
int upg_session_free_blocks(const upg_session *s);
// Blocks that a sequence of so many positions has.
int upg_session_blocks_for(int length);
int32_t upg_session_block(const upg_session *s, int sequence, int i); // the i-th of a sequence
int upg_session_block_refs(const upg_session *s, int32_t block);
int32_t upg_session_block_take(upg_session *s); // a free one, with a reference that is the caller's; -1: none is free
void upg_session_block_hold(upg_session *s, int32_t block);
void upg_session_block_drop(upg_session *s, int32_t block);
// The sequence goes on behind a block more, to `length` positions, and takes a reference. Its length must be whole
// blocks before.
void upg_session_attach(upg_session *s, int sequence, int32_t block, int length);
// The i-th block of a sequence becomes another one with the same content.
void upg_session_replace_block(upg_session *s, int sequence, int i, int32_t block);

size_t upg_session_block_bytes(const upg_session *s);
const char *upg_session_kv_layout(const upg_session *s); // what the bytes mean
int upg_session_block_read(const upg_session *s, int32_t block, void *to, upg_error *e);
int upg_session_block_write(upg_session *s, int32_t block, const void *from, upg_error *e);
int upg_session_block_copy(upg_session *s, int32_t from, int32_t to, upg_error *e);
