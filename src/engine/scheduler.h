// The scheduler: many requests over one model and one session, in steps. A step is one program run: a row for every
// answer that is being drawn, and parts of the prompts that are being read. Requests come and go between steps
// (continuous batching). Because logits do not depend on the batch (docs/arithmetic.md), an answer is the same bytes
// alone or under load, cached or not, and a request may be stopped and run again later without a trace.
//
// One thread of its own runs the steps and calls back; submit, cancel and stats may be called by any thread.
#pragma once
#include "base/base.h"

typedef struct upg_scheduler upg_scheduler;

typedef struct upg_scheduler_options {
    int n_threads; // 0: one a core
    bool pin;
    int context;           // positions of a request, prompt and answer; 0: the model's own
    int n_parallel;        // requests that run at once; 0: 8
    int max_queue;         // requests that wait beside them; 0: 64
    int max_rows;          // rows of a step; 0: 256
    int speculate;         // as upg_generator_new's draft, where one answer alone is being drawn
    uint64_t kv_bytes;     // memory for keys and values, cached prefixes included; 0: for n_parallel whole contexts. At
                           // least one whole context is needed
    const char *kv_dir;    // folder where they are kept across restarts; NULL: nowhere
    uint64_t kv_dir_bytes; // that the folder may hold; 0: 16 GiB
    // What an operator should know, a line without newline; from any thread of the scheduler. May be NULL.
    void (*log)(void *ctx, const char *line);
    void *log_ctx;
} upg_scheduler_options;

typedef enum upg_finish {
    UPG_FINISH_STOP,      // a token that ends answers, or a stop string
    UPG_FINISH_LENGTH,    // max_tokens, or the context is full
    UPG_FINISH_CANCELLED, // by upg_scheduler_cancel
    UPG_FINISH_DEADLINE,
    UPG_FINISH_FAILED, // by the request's own numbers or memory; error says how
    UPG_N_FINISHES
} upg_finish;

enum { UPG_MAX_STOPS = 16, UPG_MAX_STOP_BYTES = 1024, UPG_MAX_TOP_LOGPROBS = 20 };

typedef struct upg_token_logprob {
    int32_t token;
    float logprob; // nats, under the logits as they are
} upg_token_logprob;

typedef struct upg_answer_event {
    bool end; // the last event of the request; else a token
    // What of the answer is certain with this event: whole UTF-8 characters, never any part of a stop string. Often
    // empty: a token may complete nothing.
    const char *text;
    size_t n_text;
    // A token:
    int32_t token;
    float logprob;                // if asked for
    const upg_token_logprob *top; // [n_top] likeliest first
    int n_top;
    // The end:
    upg_finish finish;
    const char *stop;       // the stop string that ended it, or NULL
    const char *error;      // FAILED
    int n_prompt, n_cached; // tokens of the prompt; those of them that were not run, being in the cache
    int n_tokens;           // tokens drawn, one that ended the answer included
    double queue_seconds, prompt_seconds, answer_seconds;
} upg_answer_event;

typedef struct upg_request {
    const int32_t *prompt; // [n_prompt] at least one
    size_t n_prompt;
    int max_tokens; // -1: as many as the context takes
    upg_sampling sampling;
    const char *const *stops; // [n_stops] NUL-terminated, not empty
    int n_stops;
    const struct upg_chat *chat; // what ends an answer: its end of turn; NULL: the model's end of text only
    bool ignore_eos;             // nothing does
    bool special;                // control tokens are shown as text
    bool midway;                 // the answer goes on with a text (a completion), rather than beginning one
    int top_logprobs;            // -1: no log probabilities; 0: of the token drawn; more: of as many likeliest ones too
    double deadline;             // by upg_now(); 0: none
    uint64_t client;             // requests of different clients that wait are taken in turns
    // Called by the scheduler's thread for every token and then once for the end; should return soon, and may call
    // cancel but not submit. Nothing is called after the end.
    void (*event)(void *ctx, const upg_answer_event *event);
    void *ctx;
} upg_request;

upg_scheduler *upg_scheduler_new(const upg_model *m, const upg_scheduler_options *options, upg_error *e);
void upg_scheduler_free(upg_scheduler *s); // stops it; the cache goes to kv_dir, if there is one
int upg_scheduler_context(const upg_scheduler *s);
const char *upg_scheduler_path(const upg_scheduler *s); // as upg_session_path

typedef enum upg_submitted {
    UPG_SUBMITTED,
    UPG_SUBMIT_INVALID,  // never possible: does not fit the context, sampling out of range
    UPG_SUBMIT_FULL,     // the queue is full: later
    UPG_SUBMIT_DRAINING, // upg_scheduler_drain was called
    UPG_SUBMIT_NO_MEMORY,
} upg_submitted;
// All of the requests, or none of them; what they point to is copied, but for chat and ctx. ids: [n], for cancel.
upg_submitted upg_scheduler_submit(upg_scheduler *s, const upg_request *requests, int n, uint64_t *ids, upg_error *e);
// The request ends before its next token. It may have ended: then nothing happens.
void upg_scheduler_cancel(upg_scheduler *s, uint64_t id);
// From here on nothing is taken; what is there goes on. Returns when all has ended, or after so many seconds (then
// false).
bool upg_scheduler_drain(upg_scheduler *s, double seconds);
// Every request that is left ends as cancelled, before this returns, and nothing is taken any more.
void upg_scheduler_stop(upg_scheduler *s);

enum { UPG_HISTOGRAM_MAX = 20 };
typedef struct upg_histogram {
    const double *bounds; // [n] upper ends, seconds, ascending
    int n;
    uint64_t counts[UPG_HISTOGRAM_MAX + 1]; // of each range; the last: above all bounds
    double sum;
} upg_histogram;

typedef struct upg_scheduler_stats {
    int running, waiting;
    // KV blocks: of the pool, those that running requests hold, those that only the prefix cache holds.
    int blocks, blocks_used, blocks_cached;
    size_t block_bytes;
    uint64_t prefix_queries, prefix_hits; // tokens of prompts that were looked up, and that were found
    uint64_t prompt_tokens;               // of requests whose prompt has been read
    uint64_t generation_tokens;
    uint64_t steps, rows; // program runs, and their rows
    uint64_t preemptions; // requests that made room for older ones, to go on later
    uint64_t drafted, accepted;
    uint64_t rejected; // submits refused because the queue was full
    uint64_t finished[UPG_N_FINISHES];
    uint64_t disk_saved, disk_loaded, disk_damaged, disk_failed; // blocks; files ignored; writes that did not work
    upg_histogram first_token, inter_token, whole, queue, prompt, answer; // of requests; inter_token: of tokens
} upg_scheduler_stats;
void upg_scheduler_stats_get(upg_scheduler *s, upg_scheduler_stats *stats);
