// The safetensors header (github.com/huggingface/safetensors, "Format"): what tensors a buffer holds and where. Shared
// by original model files and .upg files; it knows nothing about models. It accepts what the reference implementation
// accepts, less a few things that have no honest use: duplicate keys and names with a NUL.
#pragma once
#include "base/base.h"
#include "yyjson.h"

enum { UPG_SAFETENSORS_MAX_HEADER = 100000000 }; // bytes, the reference implementation's limit

typedef struct upg_safetensors_entry {
    const char *name;
    const char *dtype; // "F32", "BF16", ...: one of the format's own names
    size_t rank;
    uint64_t shape[2];   // the first two dimensions
    uint64_t begin, end; // within the data area
} upg_safetensors_entry;

typedef struct upg_safetensors {
    upg_safetensors_entry *entries; // [n], in the order of their data, which they cover without gap or overlap
    size_t n;
    yyjson_val *metadata; // "__metadata__", strings by string, or NULL
    const uint8_t *data;  // [data_size], the data area: the rest of the caller's buffer
    size_t data_start, data_size;
    yyjson_doc *doc; // owns names and metadata
} upg_safetensors;

// Checks everything the header says against the buffer; the tensors' data is not read. name is for messages.
// On failure nothing is left to close.
int upg_safetensors_parse(upg_safetensors *st, const uint8_t *buffer, size_t size, const char *name, upg_error *e);
void upg_safetensors_close(upg_safetensors *st);
