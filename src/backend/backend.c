// The table of backends, in order of preference.
#include "backend/backend.h"

static const upg_backend_api *const backends[] = {&upg_backend_cpu, &upg_backend_fp32};

const upg_backend_api *upg_backend_for(const upg_weights *source, upg_error *e) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (backends[i]->accepts(source)) return backends[i];
    upg_fail(e, "no backend runs these weights");
    return NULL;
}

int upg_batch_check(const upg_batch *batch, const upg_config *c, const upg_backend_options *options, upg_error *e) {
    if (batch->n_rows < 1 || batch->n_rows > options->max_rows)
        return upg_fail(e, "%d rows in a batch: not within 1..%d", batch->n_rows, options->max_rows);
    int wanted = 0;
    for (int i = 0; i < batch->n_rows; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= c->vocab_size)
            return upg_fail(e, "token %d is not in the vocabulary of %d", batch->tokens[i], c->vocab_size);
        if (batch->positions[i] < 0 || batch->positions[i] >= options->n_positions)
            return upg_fail(e, "position %d is outside the context of %d", batch->positions[i], options->n_positions);
        wanted += batch->wants[i] != 0;
    }
    return wanted <= options->max_logits
               ? 0
               : upg_fail(e, "logits of %d rows wanted, more than %d", wanted, options->max_logits);
}
