// Whether two configs say the same, field by field: their padding may differ.
#pragma once
#include <string.h>
#include "arch/config.h"

static inline bool config_equal(const upg_config *a, const upg_config *b) {
    if (a->arch != b->arch || a->vocab_size != b->vocab_size || a->hidden_size != b->hidden_size ||
        a->ffn_size != b->ffn_size || a->n_layers != b->n_layers || a->n_heads != b->n_heads ||
        a->n_kv_heads != b->n_kv_heads || a->head_dim != b->head_dim || a->rotary_dim != b->rotary_dim ||
        a->max_positions != b->max_positions || a->sliding_window != b->sliding_window || a->tied != b->tied ||
        a->attention_bias != b->attention_bias || a->mlp_bias != b->mlp_bias ||
        memcmp(a->full_attention, b->full_attention, sizeof a->full_attention))
        return false;
    const double x[] = {a->rms_eps,   a->rope_theta,    a->rope_factor,   a->rope_low,
                        a->rope_high, a->rope_original, a->rope_attention};
    const double y[] = {b->rms_eps,   b->rope_theta,    b->rope_factor,   b->rope_low,
                        b->rope_high, b->rope_original, b->rope_attention};
    return !memcmp(x, y, sizeof x) && !memcmp(a->rope_short, b->rope_short, sizeof a->rope_short) &&
           !memcmp(a->rope_long, b->rope_long, sizeof a->rope_long) && a->rope_scaling == b->rope_scaling &&
           a->bos == b->bos && a->n_eos == b->n_eos && !memcmp(a->eos, b->eos, (size_t)a->n_eos * sizeof *a->eos);
}
