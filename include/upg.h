// UPG: compressed language models with the same bits everywhere. This is the public C interface; nothing else is
// stable.
//
// Every function that can fail returns 0 on success and -1 on failure, or NULL where it returns an object, with a
// one-line message in the caller's upg_error (which may be NULL). The library never exits, aborts or writes to the
// terminal. A model is read-only and may be shared by threads; a session or sampler belongs to one thread at a time.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define UPG_API __attribute__((visibility("default")))
#else
#define UPG_API
#endif

typedef struct upg_error {
    char message[512]; // one line, no newline, NUL-terminated
} upg_error;

UPG_API const char *upg_version(void); // "major.minor.patch"

// Progress of a call that takes long: done of total, in a unit of the call's own. Returning false cancels it: it fails
// with "cancelled", and nothing has changed. Called by the thread that made the call.
typedef bool upg_progress(void *ctx, uint64_t done, uint64_t total);

// A model: weights, config and tokenizer. Ownership: whoever opened it frees it, after the sessions made from it.
typedef struct upg_model upg_model;

// path: a .upg file, or an original model (a folder with config.json and safetensors, or a GGUF
// file), which then runs in fp32.
UPG_API upg_model *upg_model_open(const char *path, upg_error *e);
// A .upg image in memory, which must outlive the model. name is for messages.
UPG_API upg_model *upg_model_open_memory(const void *data, size_t size, const char *name, upg_error *e);
UPG_API void upg_model_free(upg_model *m);
// Reads all of a .upg file and compares it with the hashes it carries; names what differs first. Originals have none:
// there is nothing to compare. Progress in bytes; may be NULL.
UPG_API int upg_model_verify(const upg_model *m, upg_progress *progress, void *ctx, upg_error *e);

UPG_API int upg_model_vocab_size(const upg_model *m);
UPG_API int upg_model_max_context(const upg_model *m); // positions the model was made for
UPG_API int32_t upg_model_bos(const upg_model *m);     // token to begin a text with, or -1
UPG_API bool upg_model_is_eos(const upg_model *m, int32_t token);
UPG_API size_t upg_model_bytes_per_token(const upg_model *m); // weight bytes a decoded token reads

// Text to token ids. special: names of control tokens in the text become control tokens. Nothing is added. The caller
// frees *ids with upg_free. Fails if the model has no tokenizer.
UPG_API int upg_tokenize(const upg_model *m, const char *text, size_t n, bool special, int32_t **ids, size_t *n_ids,
                         upg_error *e);
UPG_API void upg_free(void *p);
// Token ids to text, as they come. What is given out is always whole UTF-8 characters: bytes that cannot become one are
// written as U+FFFD. special: control tokens are shown. midway: the text goes on with another one (some tokenizers
// begin a text with a space that is not printed). The text is valid until the next call; its model must outlive it.
typedef struct upg_text upg_text;
UPG_API upg_text *upg_text_new(const upg_model *m, bool special, bool midway, upg_error *e);
UPG_API void upg_text_free(upg_text *t);
UPG_API int upg_text_push(upg_text *t, int32_t token, const char **text, size_t *n, upg_error *e);
UPG_API int upg_text_finish(upg_text *t, const char **text, size_t *n, upg_error *e); // what was held back; begins anew

// Chats: messages to token ids through the model's chat template (Jinja, as in Hugging Face models). The ids are those
// of transformers' apply_chat_template, except that nothing in a message becomes a control token: names of control
// tokens count where the template wrote them, and are plain text where a user did. A chat is read-only and may be
// shared by threads; it is freed before its model.
typedef struct upg_chat upg_chat;
// chat_template: used instead of the model's own; NULL for that. Fails if there is none.
UPG_API upg_chat *upg_chat_new(const upg_model *m, const char *chat_template, upg_error *e);
UPG_API void upg_chat_free(upg_chat *c);
// messages: n bytes of JSON, an array of {"role": "system"|"user"|"assistant"|"tool", "content": ..., ...}. options: a
// JSON object of what else the template may ask for (tools, documents, enable_thinking, ...; add_generation_prompt is
// true unless it is there), or NULL; NUL-terminated. The caller frees *ids with upg_free. What the template refuses is
// an error with its message.
UPG_API int upg_chat_tokens(const upg_chat *c, const char *messages, size_t n, const char *options, int32_t **ids,
                            size_t *n_ids, upg_error *e);
// Whether a token ends an answer: an end-of-text token of the model, or what the template writes behind an answer.
UPG_API bool upg_chat_is_end(const upg_chat *c, int32_t token);

// A session: sequences of tokens with their KV cache, and the buffers to run batches. Everything is reserved when it is
// made.
typedef struct upg_session upg_session;
typedef struct upg_session_options {
    int n_threads; // 0: one a core
    int context;   // positions a sequence may have; 0: the model's own. Longrope models answer by it: arithmetic.md, 10
    int n_sequences; // 0: 1
    int max_rows;    // rows of one batch; 0: 256
    int max_logits;  // rows of one batch whose logits may be asked for; 0: 1
    bool pin;        // keep each thread but the caller on a core of its own
    size_t
        kv_bytes; // for keys and values, in blocks of 256 positions: what finds none fails. 0: enough for all sequences
    // "cpu"; "cuda" or "cuda:1", NVIDIA's GPU 0 or 1; "software": the GPU's program on the CPU, slow, for tests;
    // "auto": a GPU if there is one, for as many layers as it has room for, else the CPU. NULL: the environment's
    // UPG_DEVICE, else "auto". Originals run in fp32 on the CPU, whatever this is. Not used after upg_session_new.
    const char *device;
    size_t gpu_bytes; // the most memory to take of a GPU. 0: UPG_GPU_MEMORY gigabytes, if set, else what is free
} upg_session_options;
UPG_API upg_session *upg_session_new(const upg_model *m, const upg_session_options *options, upg_error *e);
UPG_API void upg_session_free(upg_session *s);

// One token appended to a sequence; its position is the sequence's length so far. Rows of different sequences may be
// mixed.
typedef struct upg_row {
    int32_t token;
    int32_t sequence; // 0..n_sequences-1
    bool logits;      // compute the next token's logits after this one
} upg_row;
// Runs n_rows rows as one batch. Logits do not depend on how rows are batched, on threads or on the device. On failure
// no sequence grows.
UPG_API int upg_session_run(upg_session *s, const upg_row *rows, int n_rows, upg_error *e);
// Appends tokens in batches of max_rows and asks for the last one's logits (logits index 0). On failure, a value that
// is not finite included, the sequence has its old length.
UPG_API int upg_session_prefill(upg_session *s, int sequence, const int32_t *tokens, size_t n, upg_error *e);
// Of upg_session_prefill from here on, in tokens, after each batch. NULL: none.
UPG_API void upg_session_set_progress(upg_session *s, upg_progress *progress, void *ctx);
// [vocab_size] logits of the i-th row of the last batch that asked for them. Owned by the session, valid until the next
// run.
UPG_API const float *upg_session_logits(const upg_session *s, int i);
// Whether row i of the last batch met a value that is not finite: its logits mean nothing. Of a row without logits,
// what would follow the last layer's attention is not computed.
UPG_API bool upg_session_row_failed(const upg_session *s, int i);
UPG_API int upg_session_length(const upg_session *s, int sequence);
UPG_API int upg_session_context(const upg_session *s);
// Forgets the positions from length on.
UPG_API int upg_session_truncate(upg_session *s, int sequence, int length, upg_error *e);
UPG_API const char *upg_session_path(const upg_session *s); // what runs it: "avx512", "avx2", "scalar", "openblas",
                                                            // or a GPU's name
UPG_API size_t upg_session_memory(const upg_session *s);    // bytes reserved; of the weights only a GPU's copy

// Sampling, docs/arithmetic.md section 13. A draw depends on the logits, the tokens so far, and (seed, position) only.
typedef struct upg_bias {
    int32_t token;
    float bias; // within -100..100
} upg_bias;
typedef struct upg_sampling {
    float temperature;    // 0: greedy
    int top_k;            // 0: off
    float top_p;          // 1: off
    float min_p;          // 0: off
    float repeat_penalty; // 1: off; over the last 64 tokens
    // 0: off. Taken from the logit of a token that was drawn, once, and as often as it was drawn. [-2, 2] in OpenAI's
    // API, whose meaning they have; here within -100..100.
    float presence_penalty, frequency_penalty;
    size_t n_prompt;      // tokens of the history that were given, not drawn
    const upg_bias *bias; // [n_bias] added to logits, each token once; copied by upg_sampler_new
    size_t n_bias;
    uint64_t seed;
} upg_sampling;
typedef struct upg_sampler upg_sampler;
UPG_API upg_sampler *upg_sampler_new(int vocab_size, const upg_sampling *options,
                                     upg_error *e); // refuses options out of range
UPG_API void upg_sampler_free(upg_sampler *s);
// The token that follows history[0..n_history), i.e. the one at position n_history.
UPG_API int32_t upg_sample(upg_sampler *s, const float *logits, const int32_t *history, size_t n_history);
// log p(token) in nats under the logits as they are.
UPG_API float upg_logprob(const float *logits, int vocab_size, int32_t token);

// An answer: tokens drawn one after another in one sequence. They are what running one row at a time and upg_sample
// give, bit for bit. Where the text repeats something, several rows are run at once (speculation), which only takes
// less time: what follows the text's ending elsewhere in it is drafted, and kept as far as it is what is drawn. A
// generator belongs to its session, is freed before it, and takes its memory when it is made.
typedef struct upg_generator upg_generator;
// draft: tokens run ahead at most, by max_logits and max_rows of the session, and 31; 0: none; -1: as many as pay, by
// the time that batches are seen to take. Originals in fp32 get none: their bits depend on the batch.
UPG_API upg_generator *upg_generator_new(upg_session *s, int sequence, int draft, upg_error *e);
UPG_API void upg_generator_free(upg_generator *g);
// The answer follows history[0..n), all of which the sequence holds; its last run must have been upg_session_prefill,
// or of one row with logits. max: tokens that will be asked for, so that no more are run ahead.
UPG_API int upg_generator_start(upg_generator *g, const int32_t *history, size_t n, int max, upg_error *e);
// Draws the next token. Which one ends the answer is the caller's to say. Fails when the context is full, and where
// the model meets a value that is not finite.
UPG_API int upg_generator_next(upg_generator *g, upg_sampler *sampler, int32_t *token, upg_error *e);
// [vocab_size] what the last token was drawn from; valid until the next one. NULL if they are on a device that is lost.
UPG_API const float *upg_generator_logits(const upg_generator *g);
// Ends the answer: the sequence holds all tokens but the last one drawn. Other calls that change the session wait for
// this one.
UPG_API int upg_generator_finish(upg_generator *g, upg_error *e);
typedef struct upg_generator_counts { // of the answer
    int runs;                         // batches
    int drafted, accepted;            // tokens run ahead, and those of them that were drawn
} upg_generator_counts;
UPG_API upg_generator_counts upg_generator_count(const upg_generator *g);

#ifdef __cplusplus
}
#endif
