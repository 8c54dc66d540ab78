// What the engine knows of sampling beside upg.h.
#pragma once
#include "base/base.h"

// Refuses options out of range, as upg_sampler_new does; but two biases of one token are found there only.
int upg_sampling_check(const upg_sampling *o, int vocab_size, upg_error *e);
