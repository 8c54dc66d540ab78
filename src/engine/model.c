// Opening a model: weights, then config, then tokenizer, then the program, each checked against the ones before.
#include "engine/model.h"
#include "arch/arch.h"
#include "upg.h"
#include <stdlib.h>
#include <string.h>

const char *upg_version(void) {
    return UPG_VERSION;
}
void upg_free(void *p) {
    free(p);
}

int upg_weights_tokenizer(const upg_weights *w, upg_tokenizer **tokenizer, upg_error *e) {
    *tokenizer = NULL;
    const upg_tensor *packed = w->compressed ? upg_weights_find(w, "tokenizer") : NULL;
    if (packed)
        *tokenizer = upg_tokenizer_unpack(packed->data, packed->bytes, e);
    else if (w->tokenizer_json)
        *tokenizer = upg_tokenizer_from_json(w->tokenizer_json, strlen(w->tokenizer_json), w->tokenizer_config, e);
    else if (w->tokenizer_data && !strcmp(w->tokenizer_name, "tokenizer.model"))
        *tokenizer = upg_tokenizer_from_spm(w->tokenizer_data, w->tokenizer_size, w->tokenizer_config, e);
    else if (w->tokenizer_data)
        *tokenizer =
            upg_tokenizer_from_ranks(w->tokenizer_name, w->tokenizer_data, w->tokenizer_size, w->tokenizer_config, e);
    else
        return 0;
    return *tokenizer ? 0 : -1;
}

static int finish(upg_model *m, upg_error *e) {
    if (upg_config_parse(&m->config, m->weights.config, m->weights.generation_config, e)) return -1;
    if (upg_weights_tokenizer(&m->weights, &m->tokenizer, e)) return -1;
    if (m->tokenizer && upg_tokenizer_size(m->tokenizer) > m->config.vocab_size)
        return upg_fail(e, "the tokenizer has %d tokens, but vocab_size is %d", upg_tokenizer_size(m->tokenizer),
                        m->config.vocab_size);
    m->program = upg_program_new(&m->config, &m->weights, e);
    return m->program ? 0 : -1;
}

upg_model *upg_model_open(const char *path, upg_error *e) {
    upg_model *m = upg_alloc(1, sizeof *m, e);
    if (m && (upg_weights_open(&m->weights, path, e) || finish(m, e))) {
        upg_model_free(m);
        return NULL;
    }
    return m;
}

upg_model *upg_model_open_memory(const void *data, size_t size, const char *name, upg_error *e) {
    upg_model *m = upg_alloc(1, sizeof *m, e);
    if (m && (upg_weights_open_memory(&m->weights, data, size, name, e) || finish(m, e))) {
        upg_model_free(m);
        return NULL;
    }
    return m;
}

void upg_model_free(upg_model *m) {
    if (!m) return;
    upg_program_free(m->program);
    upg_tokenizer_free(m->tokenizer);
    upg_weights_close(&m->weights);
    free(m);
}

int upg_model_vocab_size(const upg_model *m) {
    return m->config.vocab_size;
}
int upg_model_max_context(const upg_model *m) {
    return m->config.max_positions;
}
bool upg_model_is_eos(const upg_model *m, int32_t token) {
    return upg_config_is_eos(&m->config, token);
}
size_t upg_model_bytes_per_token(const upg_model *m) {
    return upg_program_bytes_per_token(m->program);
}
int32_t upg_model_bos(const upg_model *m) {
    return m->tokenizer ? upg_tokenizer_bos(m->tokenizer) : m->config.bos;
}

int upg_tokenize(const upg_model *m, const char *text, size_t n, bool special, int32_t **ids, size_t *n_ids,
                 upg_error *e) {
    if (!m->tokenizer) return upg_fail(e, "the model has no tokenizer");
    upg_ids list = {0};
    if (upg_tokenizer_encode(m->tokenizer, text, n, special, &list, e)) {
        upg_ids_free(&list);
        return -1;
    }
    *ids = list.data;
    *n_ids = list.size;
    return 0;
}
