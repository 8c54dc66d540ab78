// A model's weights as named tensors plus the texts that describe the model, whatever file they came from.
// The readers behind this header are where hostile input ends: what they return has every size, offset and shape
// checked.
#pragma once
#include "base/base.h"

typedef enum upg_encoding {
    UPG_F32,
    UPG_F16,
    UPG_BF16,
    UPG_INT8,    // rotated basis, one scale a row; codec/panel.h
    UPG_TRELLIS, // rotated basis, one scale a row; codec/trellis.h
    UPG_SPARSE,  // half of the weights, one scale a row; codec/sparse.h
    UPG_BYTES,   // raw bytes: the packed tokenizer
    UPG_GGML,    // blocks of a GGUF type (ggml_type); format/ggml.h
} upg_encoding;

typedef struct upg_tensor {
    const char *name;
    upg_encoding encoding;
    int s;              // trellis: bits a step (2K); sparse: bits of a value, 4 or 8; else 0
    bool unrotated;     // sparse: its inputs are not rotated
    uint32_t ggml_type; // GGML
    int rope_heads; // nonzero: this many heads whose rows are stored as interleaved RoPE pairs; read in order of halves
    int64_t rows, cols; // a vector of n values is 1 x n; sizes are at most 2^31-1 each and rows*cols at most 2^40
    const uint8_t
        *data; // [bytes], the encoding's own layout; 64-byte aligned in .upg files, any alignment in safetensors
    size_t bytes;
    const float *scale; // [rows], coded matrices only: +0 or within 2^-50..2^30
    uint8_t hash[16];   // .upg: XXH3-128 of data, as recorded (canonical big-endian)
    uint8_t scale_hash[16];
} upg_tensor;

typedef struct upg_weights {
    upg_tensor *tensors; // [n], sorted by name
    size_t n;
    char *config;            // JSON text with the keys of a Hugging Face config.json; NUL-terminated
    char *generation_config; // JSON text or NULL (in a .upg it is folded into config)
    char *tokenizer_json;    // text of tokenizer.json, or NULL (a .upg has the BYTES tensor "tokenizer" instead)
    char *tokenizer_data;    // without a tokenizer_json: another file the tokenizer is made from, or NULL
    size_t tokenizer_size;   // bytes of it; a NUL follows them
    char *tokenizer_name;    // its name: tokenizer.model (SentencePiece) or X.tiktoken (ranks)
    char *tokenizer_config;  // text of tokenizer_config.json, or NULL
    char *chat_template;     // or NULL
    char *report;            // .upg: JSON text of the compression report, or NULL
    uint64_t rotation_seed;  // .upg
    size_t file_bytes;       // size of all files the tensors live in
    bool compressed;         // true for a .upg
    struct upg_weights_storage *storage;
} upg_weights;

// path: a .upg or GGUF file, a .safetensors file beside its config.json, or a folder with config.json and
// model.safetensors or model.safetensors.index.json. What the format or we do not allow is one clear line naming the
// file and tensor, type or key.
int upg_weights_open(upg_weights *w, const char *path, upg_error *e);
// Only what the tokenizer is made from: of any of these, or of less: a folder or GGUF file without tensors, a
// tokenizer.json, tokenizer.model or X.tiktoken.
int upg_weights_open_tokenizer(upg_weights *w, const char *path, upg_error *e);
// A .upg image already in memory, which must outlive w. name is for messages.
int upg_weights_open_memory(upg_weights *w, const uint8_t *data, size_t size, const char *name, upg_error *e);
void upg_weights_close(upg_weights *w);
double upg_weights_parameters(const upg_weights *w);                        // embedding included
const upg_tensor *upg_weights_find(const upg_weights *w, const char *name); // or NULL
// Recomputes every tensor's hash (.upg only) and names the first that differs from the recorded one. progress, of
// bytes, may be NULL.
int upg_weights_verify(const upg_weights *w, upg_progress *progress, void *ctx, upg_error *e);

float upg_f16(uint16_t half);
// Elements first..first+n-1 (row-major) of an F32, F16, BF16 or GGML tensor as f32. first and n are whole rows of a
// matrix.
void upg_tensor_floats(const upg_tensor *t, int64_t first, int64_t n, float *out);
// Tells the system that a tensor of an open file will not be read again soon, so that its pages need not stay in
// memory.
void upg_weights_release(const upg_weights *w, const upg_tensor *t);
// Bytes of a tensor in an encoding, padding included; 0 if the shape is not allowed.
size_t upg_encoded_bytes(upg_encoding encoding, int s, int64_t rows, int64_t cols);
const char *upg_encoding_name(upg_encoding encoding);
bool upg_encoding_is_coded(upg_encoding encoding); // a matrix of small integers with row scales

// Writing a .upg: a temporary file, tensors put one by one (their shapes declared beforehand, so that the header's size
// is known), then fsync and rename. Nothing of the target's name exists before it is whole.
typedef struct upg_writer upg_writer;
typedef struct upg_writer_tensor {
    const char *name;
    upg_encoding encoding;
    int s;
    int64_t rows, cols;
    bool unrotated; // sparse
} upg_writer_tensor;
// config, chat_template (may be NULL) and the tensor list are copied. The file's exact size is known from here on.
// The temporary file lies beside the target and is removed when writing stops.
upg_writer *upg_writer_new(const char *path, const char *config, const char *chat_template, uint64_t rotation_seed,
                           const upg_writer_tensor *tensors, size_t n, size_t report_room, upg_error *e);
// The same with a temporary file of this name, on the target's file system: it is used again if it is there, and kept
// when writing stops.
upg_writer *upg_writer_resume(const char *path, const char *temporary, const char *config, const char *chat_template,
                              uint64_t rotation_seed, const upg_writer_tensor *tensors, size_t n, size_t report_room,
                              upg_error *e);
size_t upg_writer_size(const upg_writer *w);
// The size the file would have, without writing anything (upg_writer_new's arguments).
size_t upg_writer_plan(const char *config, const char *chat_template, const upg_writer_tensor *tensors, size_t n,
                       size_t report_room);
// Tensor i's data (upg_encoded_bytes) and, for coded matrices, the row scales. Any order, any thread, each once.
int upg_writer_put(upg_writer *w, size_t i, const void *data, const float *scale, upg_error *e);
// The hashes of tensor i as it was put; scale is zero where there are no row scales.
void upg_writer_hashes(const upg_writer *w, size_t i, uint8_t data[16], uint8_t scale[16]);
// Whether a kept temporary file holds tensor i with these hashes already; then it counts as put. data:
// [upg_encoded_bytes] and scale: [rows] (NULL where there are none) are filled in.
bool upg_writer_recover(upg_writer *w, size_t i, const uint8_t data_hash[16], const uint8_t scale_hash[16], void *data,
                        float *scale);
// Makes the temporary file one that upg_model_open takes, without a report, once every tensor is put.
int upg_writer_preview(upg_writer *w, const char **path, upg_error *e);
// report: JSON text of at most report_room bytes, or NULL. On success the target exists, whole and synced.
int upg_writer_finish(upg_writer *w, const char *report, upg_error *e);
void upg_writer_free(upg_writer *w);
