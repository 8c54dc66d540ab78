// What the engine knows of sampling beside upg.h.
#pragma once
#include "base/base.h"

// Refuses options out of range, as upg_sampler_new does; but two biases of one token are found there only.
int upg_sampling_check(const upg_sampling *o, int vocab_size, upg_error *e);

// What all log probabilities of one row of logits share.
typedef struct upg_log_sum {
    float most, log_sum;
} upg_log_sum;
upg_log_sum upg_log_sum_of(const float *logits, int vocab_size);
static inline float upg_logprob_of(upg_log_sum s, float logit) {
    return logit - s.most - s.log_sum;
}
