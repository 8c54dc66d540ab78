// BPE tokenizers, byte-level or of SentencePiece's kind, read from a Hugging Face tokenizer.json, a SentencePiece
// tokenizer.model, a tiktoken rank file or the compact form inside a .upg file. Text is bytes; ill-formed UTF-8 is
// tokenised byte by byte where the tokenizer allows, never rejected.
#pragma once
#include "base/base.h"

typedef struct upg_tokenizer upg_tokenizer;

typedef struct upg_ids {
    int32_t *data; // [size]
    size_t size, capacity;
} upg_ids;
int upg_ids_add(upg_ids *ids, int32_t id, upg_error *e);
void upg_ids_free(upg_ids *ids);

// json: the text of tokenizer.json (untrusted). config: the text of tokenizer_config.json or NULL (add_bos_token,
// bos_token). What is not implemented (another model type, normalizer, pattern...) is refused by name.
upg_tokenizer *upg_tokenizer_from_json(const char *json, size_t size, const char *config, upg_error *e);
// A SentencePiece model (the file tokenizer.model) of type BPE. config as above, also added_tokens_decoder and legacy.
upg_tokenizer *upg_tokenizer_from_spm(const void *data, size_t size, const char *config, upg_error *e);
// A tiktoken rank file; its name (cl100k_base.tiktoken) says which pattern cuts the text. Control tokens come from
// config's added_tokens_decoder.
upg_tokenizer *upg_tokenizer_from_ranks(const char *name, const char *text, size_t size, const char *config,
                                        upg_error *e);
// The compact form: a zstd frame with its own version; untrusted. pack(unpack(x)) has the same behaviour in every call
// below.
upg_tokenizer *upg_tokenizer_unpack(const uint8_t *data, size_t size, upg_error *e);
int upg_tokenizer_pack(const upg_tokenizer *t, upg_buf *out, upg_error *e);
void upg_tokenizer_free(upg_tokenizer *t);

int32_t upg_tokenizer_size(const upg_tokenizer *t);  // largest id + 1
int32_t upg_tokenizer_bos(const upg_tokenizer *t);   // the token to put before a prompt, or -1 if the model wants none
bool upg_tokenizer_adds_eos(const upg_tokenizer *t); // whether the model's own tokenizer puts EOS behind a text
// The token of a role, or -1; its text, for chat templates, is upg_tokenizer_bytes.
typedef enum upg_token_role { UPG_ROLE_BOS, UPG_ROLE_EOS, UPG_ROLE_UNK, UPG_ROLE_PAD, UPG_N_ROLES } upg_token_role;
int32_t upg_tokenizer_role(const upg_tokenizer *t, upg_token_role role);
int32_t upg_tokenizer_find(const upg_tokenizer *t, const char *special); // id of a special token by content, or -1

// Appends the ids of text[0..n). special: added tokens written in the text become control tokens; otherwise their text
// is ordinary text (a character without a token may still become the unknown token). BOS and EOS are never added here.
// Thread-safe on a shared tokenizer.
int upg_tokenizer_encode(const upg_tokenizer *t, const char *text, size_t n, bool special, upg_ids *out, upg_error *e);
// The same for a stretch of a longer text, which at_start begins with it or not: some tokenizers put a space in front
// of a text but not of its parts.
int upg_tokenizer_encode_part(const upg_tokenizer *t, const char *text, size_t n, bool at_start, bool special,
                              upg_ids *out, upg_error *e);
// Bytes of one token (not NUL-terminated, possibly part of a UTF-8 sequence); an unknown id gives 0 bytes.
const char *upg_tokenizer_bytes(const upg_tokenizer *t, int32_t id, size_t *n);
bool upg_tokenizer_is_special(const upg_tokenizer *t, int32_t id); // a control token, hidden from answers

// Turns ids into text as they come, holding back the bytes of an unfinished UTF-8 character. What can no longer become
// valid UTF-8 is written as U+FFFD (one per maximal ill-formed part, as in Unicode's recommendation), so output is
// always valid. {0} begins a text, which tokenizers of SentencePiece's kind print without a space in front; set midway
// to continue one.
typedef struct upg_detokenizer {
    uint8_t pending[4];
    int n_pending;
    bool midway;
} upg_detokenizer;
void upg_detokenizer_push(upg_detokenizer *d, const upg_tokenizer *t, int32_t id, bool special, upg_buf *out);
void upg_detokenizer_finish(upg_detokenizer *d, upg_buf *out);
