// KV blocks in a folder, one file each, for the prefix cache. Files are written beside and renamed, so one is whole or
// not there; each carries a checksum, and one that does not fit is removed and said so. docs/format.md has the layout.
//
// Writing is the business of a thread of its own; everything else is for the thread that made the store.
#pragma once
#include "base/base.h"

enum { UPG_KV_TOKENS = 256 };

typedef struct upg_kv_record {
    uint8_t hash[16], parent[16]; // of the text up to the block's end; up to its beginning
    int64_t used;                 // nanoseconds of Unix time, when it was last of use; only of those found
    int32_t first, n;             // position of the block's first token; tokens it holds
    int32_t tokens[UPG_KV_TOKENS];
} upg_kv_record;

typedef struct upg_kv_store upg_kv_store;
typedef void upg_kv_log(void *ctx, const char *line);

// folder is made if it is not there; blocks of other models lie in folders of their own in it. It is locked: another
// process that has it is an error.
upg_kv_store *upg_kv_store_open(const char *folder, const uint8_t model[16], size_t block_bytes, upg_kv_log *log,
                                void *log_ctx, upg_error *e);
void upg_kv_store_close(upg_kv_store *s); // waits for what is being written
// What was in the folder, in order of first; owned by the store, until it is closed.
const upg_kv_record *upg_kv_store_records(const upg_kv_store *s, size_t *n);
uint64_t upg_kv_store_bytes(const upg_kv_store *s); // that the files have, those being written included
uint64_t upg_kv_store_file_bytes(const upg_kv_store *s);

// The buffer of a block to be written, or NULL if as many as may be are on their way already. wait: rather waits.
void *upg_kv_store_buffer(upg_kv_store *s, bool wait);
// Writes what was put into the buffer; tag comes back from upg_kv_store_done. r NULL: gives the buffer back unused.
void upg_kv_store_save(upg_kv_store *s, void *buffer, const upg_kv_record *r, void *tag);
// A block that has been written since, or failed to be (the folder then gets a rest); false: none.
bool upg_kv_store_done(upg_kv_store *s, void **tag, bool *written);
// The block's bytes, valid until the next call; NULL if the file is gone or damaged, which is logged, and removed.
const void *upg_kv_store_load(upg_kv_store *s, const upg_kv_record *r);
void upg_kv_store_remove(upg_kv_store *s, const uint8_t hash[16], const char *why); // why is logged, or NULL
