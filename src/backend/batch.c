// What every backend checks before it believes it: a batch, and KV blocks from outside.
#include "backend/backend.h"
#include "program/numbers.h"

size_t upg_kv_block_bytes(const upg_config *c) {
    return (size_t)c->n_layers * (size_t)c->n_kv_heads * upg_kv_head_bytes(c->head_dim);
}
int upg_kv_check(const upg_config *c, const void *block, upg_error *e) {
    const size_t head = upg_kv_head_bytes(c->head_dim), scales = 2 * UPG_KV_BLOCK * sizeof(float);
    for (size_t at = head; at <= upg_kv_block_bytes(c); at += head)
        for (size_t i = 0; i < scales; i += sizeof(float))
            if (upg_le32((const uint8_t *)block + at - scales + i) >= UPG_GUARD_HIGH)
                return upg_fail(e, "a scale in a block of the KV cache is not a positive number in range");
    return 0;
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
