// GGUF files (version 2 and 3, one or split in parts) as the same thing a Hugging Face folder gives: tensors under
// Hugging Face names, a config.json and a tokenizer.json made from the metadata. So nothing behind the readers knows
// where a model came from.
#pragma once
#include "format/upg_file.h"

bool upg_is_gguf(const uint8_t *data, size_t size);
// Takes over *file, also on failure. Of a split model any part will do: the others are found beside it.
int upg_gguf_open(upg_weights *w, upg_file *file, upg_error *e);
// All parts of a model in order, [n] with n > 0. Takes over the files and their array, also on failure.
int upg_gguf_open_parts(upg_weights *w, upg_file *files, size_t n, upg_error *e);

// ---- The container: what one file holds. Needs no tensors, so a vocabulary alone can be read too. ----

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
    const uint8_t *data;         // [size], first element on
    size_t size;
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
const upg_gguf_value *upg_gguf_find_n(const upg_gguf *g, const char *key, size_t size);
const upg_gguf_value *upg_gguf_find_in(const upg_gguf *g, const char *arch, const char *key); // "arch.key"
bool upg_gguf_number(const upg_gguf_value *v, double *x); // false if v is NULL or no number
// A string, or element i of an array of strings read in order: *at starts at v->data and is moved on.
const char *upg_gguf_string(const uint8_t **at, size_t *n);
bool upg_gguf_text(const upg_gguf_value *v, const char **s, size_t *n); // false if v is NULL or no string

// gguf_split.c. The parts of the model that *file is one of: *files [*n] in order. Takes over *file, also on failure.
int upg_gguf_find_parts(upg_file *file, upg_file **files, size_t *n, upg_error *e);
int upg_gguf_check_parts(const upg_gguf *parts, size_t n, upg_error *e); // that they are all, and of one model

// ---- What the metadata and tensors mean ----

typedef struct upg_gguf_name {
    const char *gguf, *hf; // within a layer, or of the whole model
    bool heads;            // rows of attention heads that rope turns
} upg_gguf_name;

// An architecture: gguf_arch.c has the table.
typedef struct upg_gguf_arch {
    const char *name;     // general.architecture, and what its metadata keys begin with
    const char *hf;       // in config.json
    bool pairs;           // values that rope turns together are neighbours in the file; otherwise half a head apart
    bool optional_biases; // config.json says whether there are any; otherwise the architecture does
    upg_gguf_name own[8]; // a layer's tensors beside or instead of the usual ones, up to one without a name
} upg_gguf_arch;
const upg_gguf_arch *upg_gguf_arch_of(const upg_gguf *g, upg_error *e);
enum { UPG_GGUF_NAME = 96 };
// The Hugging Face name of a tensor; false if the architecture has no such tensor. heads as in upg_gguf_name.
bool upg_gguf_rename(const upg_gguf_arch *a, const upg_gguf_tensor *t, char out[UPG_GGUF_NAME], bool *heads);
// Tensors that become part of config.json. Their names stay as they are in the file.
#define UPG_GGUF_ROPE_FREQS "rope_freqs.weight"
#define UPG_GGUF_ROPE_LONG  "rope_factors_long.weight"
#define UPG_GGUF_ROPE_SHORT "rope_factors_short.weight"

// gguf_config.c, gguf_tokenizer.c: the metadata as JSON texts that the caller frees; NULL with a message on failure.
// w: the model's tensors.
char *upg_gguf_config(const upg_gguf *g, const upg_gguf_arch *a, const upg_weights *w, upg_error *e);
char *upg_gguf_tokenizer(const upg_gguf *g, upg_error *e); // tokenizer.json of model gpt2
enum { UPG_GGUF_CONTROL = 3 };                             // a token_type
// gguf_sentencepiece.c: the texts of w that the tokenizer is made from; none if the file has no tokenizer.
int upg_gguf_read_tokenizer(upg_weights *w, const upg_gguf *g, upg_error *e);
// A token id; one that is no small whole number is taken as -1, which the config's reader refuses or takes as none.
bool upg_gguf_token_id(const upg_gguf *g, const char *key, int64_t *id); // false if the key is absent
char *upg_gguf_written(yyjson_mut_doc *d, bool ok, upg_error *e);        // d as text if ok; frees d
