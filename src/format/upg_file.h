// What reader and writer of a .upg share: the rules of docs/format.md that both must apply alike.
#pragma once
#include "format/safetensors.h"
#include "format/weights.h"

#define UPG_KEY_META      "upg"       // in __metadata__: the JSON text
#define UPG_KEY_META_HASH "upg.xxh3"  // in __metadata__: its XXH3-128
#define UPG_TOKENIZER     "tokenizer" // the one tensor of encoding "bytes"

enum {
    UPG_FILE_VERSION = 1,
    UPG_PAGE = 4096,   // the data area and every large tensor start at a multiple of this in the file
    UPG_LARGE = 65536, // bytes from which a tensor is large
    UPG_LINE = 64,     // every other tensor's alignment
    UPG_TAIL = 64,     // readable bytes in the file after any tensor
    UPG_HEX_HASH = 32, // characters
};

// Where the tensors of open weights live. One file and one header per shard; a .upg has one of each.
struct upg_weights_storage {
    upg_file *files;          // [n_files]; none for a memory image
    upg_safetensors *headers; // [n_files], at least one
    size_t n_files;
    char *names;    // GGUF: the tensors' names here
    uint8_t *image; // aligned copy of a .upg that was not aligned where it came from, or NULL
};

// The readers behind upg_weights_open. Those of a file take over *file and *st, also on failure.
int upg_source_open_folder(upg_weights *w, const char *folder, upg_error *e);
int upg_source_open_file(upg_weights *w, upg_file *file, upg_safetensors *st, upg_error *e);
int upg_read_open_file(upg_weights *w, upg_file *file, upg_safetensors *st, upg_error *e);

// tokenizer_source.c: w->tokenizer_data or tokenizer_json from what a folder without a tokenizer.json has instead, if
// it has; w->tokenizer_config is read already.
int upg_source_tokenizer(upg_weights *w, const char *folder, upg_error *e);

// Orders w->tensors by name; -1 if two have one.
int upg_weights_sort(upg_weights *w, const char *name, upg_error *e);
// NULL if a tensor of the model may have this name and encoding in a .upg, otherwise why not.
const char *upg_file_name_problem(const char *name, upg_encoding encoding);
// The first row whose scale is not allowed, or rows if all are.
int64_t upg_file_bad_scale(const float *scale, int64_t rows);
static inline size_t upg_file_alignment(size_t bytes) {
    return bytes >= UPG_LARGE ? UPG_PAGE : UPG_LINE;
}
void upg_file_hash(const void *data, size_t size, uint8_t hash[16]); // XXH3-128, canonical (big-endian)
void upg_file_hash_to_hex(const uint8_t hash[16], char hex[UPG_HEX_HASH + 1]);
bool upg_file_hash_from_hex(const char *hex, uint8_t hash[16]); // false unless 32 lower-case hex digits
