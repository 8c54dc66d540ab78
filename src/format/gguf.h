// GGUF files (version 2 and 3) as the same thing a Hugging Face folder gives: tensors under Hugging Face names, a
// config.json and a tokenizer.json made from the metadata. So nothing behind the readers knows where a model came from.
#pragma once
#include "format/upg_file.h"

bool upg_is_gguf(const uint8_t *data, size_t size);
// Takes over *file, also on failure.
int upg_gguf_open(upg_weights *w, upg_file *file, upg_error *e);

// ---- The container, for upg_gguf_open and its parts ----

typedef enum upg_gguf_type {
    UPG_GGUF_U8,
    UPG_GGUF_I8,
    UPG_GGUF_U16,
    UPG_GGUF_I16,
    UPG_GGUF_U32,
    UPG_GGUF_I32,
    UPG_GGUF_F32,
    UPG_GGUF_BOOL,
    UPG_GGUF_STRING,
    UPG_GGUF_ARRAY,
    UPG_GGUF_U64,
    UPG_GGUF_I64,
    UPG_GGUF_F64,
} upg_gguf_type;

// A metadata value where it lies in the file, bounds checked. Arrays hold one type and no arrays.
typedef struct upg_gguf_value {
    const char *key; // [key_size], not NUL-terminated
    size_t key_size;
    upg_gguf_type type, element; // element: of an array
    uint64_t count;              // of an array, else 1
    const uint8_t *data;         // first element
} upg_gguf_value;

typedef struct upg_gguf_tensor {
    const char *name; // [name_size]
    size_t name_size;
    int rank;
    uint64_t shape[4]; // fastest first
    uint32_t type;     // ggml_type
    uint64_t offset;   // in the data area
} upg_gguf_tensor;

typedef struct upg_gguf {
    const char *path;
    upg_gguf_value *values; // [n_values]
    size_t n_values;
    upg_gguf_tensor *tensors; // [n_tensors]
    size_t n_tensors;
    const uint8_t *data; // the data area
    size_t data_size;
} upg_gguf;
int upg_gguf_parse(upg_gguf *g, const uint8_t *data, size_t size, const char *path, upg_error *e);
void upg_gguf_free(upg_gguf *g);
const upg_gguf_value *upg_gguf_find(const upg_gguf *g, const char *key); // or NULL
bool upg_gguf_number(const upg_gguf_value *v, double *x);                // false if v is NULL or no number
// A string, or element i of an array of strings read in order: *at starts at v->data and is moved on.
const char *upg_gguf_string(const uint8_t **at, size_t *n);

// gguf_config.c, gguf_tokenizer.c: the metadata as JSON texts that the caller frees; NULL with a message on failure.
char *upg_gguf_config(const upg_gguf *g, bool tied, upg_error *e);
char *upg_gguf_tokenizer(const upg_gguf *g, upg_error *e); // tokenizer.json of model gpt2
// gguf_sentencepiece.c: the texts of w that the tokenizer is made from; none if the file has no tokenizer.
int upg_gguf_read_tokenizer(upg_weights *w, const upg_gguf *g, upg_error *e);
// A token id; one that is no small whole number is taken as -1, which the config's reader refuses or takes as none.
bool upg_gguf_token_id(const upg_gguf *g, const char *key, int64_t *id); // false if the key is absent
char *upg_gguf_written(yyjson_mut_doc *d, bool ok, upg_error *e);        // d as text if ok; frees d
