// What a model consists of, for the command line tools and tests.
#pragma once
#include "program/program.h"
#include "text/tokenizer.h"

struct upg_model {
    upg_weights weights;
    upg_config config;
    upg_program *program;
    upg_tokenizer *tokenizer; // NULL if the model came without one
};

// The tokenizer of opened weights: packed in a .upg, JSON beside an original. *tokenizer is NULL if there is none.
int upg_weights_tokenizer(const upg_weights *w, upg_tokenizer **tokenizer, upg_error *e);

// What tells models apart: a hash (XXH3-128) of config, tokenizer and every tensor's description and recorded hash, or,
// where a file records none, of the tensor's two ends of 64 KiB: a whole model need not be read.
int upg_model_hash(const upg_model *m, uint8_t hash[16], upg_error *e);

// The tokens of a file, which the caller frees: text, after the model's BOS if it wants one; or, with ids,
// little-endian 16-bit token ids.
int upg_tokenize_corpus(const upg_model *m, const char *text, size_t size, int32_t **tokens, size_t *n, upg_error *e);
int upg_read_corpus(const upg_model *m, const char *path, bool ids, int32_t **tokens, size_t *n, upg_error *e);
// A plain prompt: text after the model's BOS if it wants one. A model that wants none still needs one token to start
// from nothing: then an empty text is the token that ends texts. The caller frees *ids.
int upg_prompt_tokens(const upg_model *m, const char *text, size_t n, bool special, int32_t **ids, size_t *n_ids,
                      upg_error *e);
