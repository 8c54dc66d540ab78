// What the engine knows of sampling beside upg.h.
#pragma once
#include "backend/backend.h"
#include "upg.h"

// Refuses options out of range, as upg_sampler_new does; but two biases of one token are found there only.
int upg_sampling_check(const upg_sampling *o, int vocab_size, upg_error *e);

// What a device needs to draw the token that follows history[0..n); draws is false where it could not.
void upg_sampler_prepare(const upg_sampler *s, const int32_t *history, size_t n, upg_draw *draw);
// A number that no other sampler of the process has.
uint64_t upg_sampler_id(const upg_sampler *s);

// What all log probabilities of one row of logits share.
typedef struct upg_log_sum {
    float most, log_sum;
} upg_log_sum;
upg_log_sum upg_log_sum_of(const float *logits, int vocab_size);
static inline float upg_logprob_of(upg_log_sum s, float logit) {
    return logit - s.most - s.log_sum;
}
