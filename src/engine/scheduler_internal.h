// What the two halves of the scheduler share: scheduler.c takes requests and keeps the figures, scheduler_step.c runs
// them.
#pragma once
#include "engine/answer.h"
#include "engine/model.h"
#include "engine/prefix.h"
#include "engine/sample.h"
#include "engine/scheduler.h"
#include "engine/session.h"
#include "engine/speculate.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct request request;
struct request {
    request *next;     // of the same list
    uint64_t id;       // also the order of arrival
    upg_request asked; // whose pointers are into what is below, or not used
    upg_bias *bias;
    int32_t *tokens; // [n_prompt + max_tokens] the prompt, then what is drawn
    int n_prompt, n_tokens, max_tokens;
    upg_answer_text text;
    upg_sampler *sampler; // while it runs
    atomic_bool cancelled;
    // While it runs, in a slot: the sequence of that number.
    int slot;
    int computed;   // tokens in the sequence
    bool extending; // there may be more of it in the cache's folder
    bool admitted;  // it runs, or has run
    bool resumed;   // it had to make room once
    int n_cached;
    double submitted, started, first_token, last_token;
    // The step that is being run.
    int n_rows, first_logits, n_logits; // n_logits: 0, or 1 and the draft's
};

typedef struct list {
    request *first, **last;
} list;

// What is drawn from the logits of one request in one step.
typedef struct draw {
    request *r;
    int n;
    int32_t tokens[1 + UPG_DRAFT_MAX];
    float logprobs[1 + UPG_DRAFT_MAX];
    int n_top;
    upg_token_logprob top[1 + UPG_DRAFT_MAX][UPG_MAX_TOP_LOGPROBS];
} draw;

struct upg_scheduler {
    const upg_model *model;
    upg_scheduler_options options;
    upg_session *session;
    upg_prefix *prefix;
    pthread_t thread;
    bool running; // the thread is there

    pthread_mutex_t mutex; // over what follows
    pthread_cond_t changed, idle;
    list waiting; // in order of arrival
    int n_waiting, n_requests;
    uint64_t next_id;
    bool draining, stopping;
    request **all; // [n_requests] in no order; room for as many as may be
    upg_scheduler_stats stats;

    // The thread's own.
    bool ending;     // stopping, as seen at the beginning of the round
    request **slots; // [n_parallel]
    int n_running;
    upg_row *rows; // [max_rows]
    int n_rows;
    draw *draws; // [n_parallel]
    int n_draws;
    upg_draw *device_draws; // [max_logits] of the rows that have some; NULL: nothing is drawn where they run
    int32_t draft[UPG_DRAFT_MAX];
    int n_draft;         // of this step, for the only request
    upg_drafter drafter; // of the request `drafted`
    uint64_t drafted;    // 0: none
};

// One round: ends what is to end, lets in what has room, runs a step.
void upg_scheduler_round(upg_scheduler *s);
// The request, which is in no list and in no slot, is told its end and freed.
void upg_scheduler_finish(upg_scheduler *s, request *r, upg_finish finish, const char *stop, const char *error,
                          const char *text, size_t n_text);
void upg_request_free(request *r);
void upg_histogram_add(upg_histogram *h, double value);
