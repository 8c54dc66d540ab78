// Opening a model: weights, then config, then tokenizer, then the program, each checked against the ones before.
#include "engine/model.h"
#include "arch/arch.h"
#include "format/json.h"
#include "format/upg_file.h"
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

// The control token that tokenizer_config.json has under a key, -1 if none: its value is the token's text, or an object
// that holds it. *given: whether the key is there at all.
static int32_t named_token(const upg_model *m, yyjson_val *root, const char *key, bool *given) {
    yyjson_val *v = yyjson_obj_get(root, key);
    *given = v != NULL;
    const char *s = upg_json_string(yyjson_is_obj(v) ? yyjson_obj_get(v, "content") : v);
    return s ? upg_tokenizer_find(m->tokenizer, s) : -1;
}

// The BOS and EOS that chat templates write are the tokenizer's, which need not be those of config.json. The config
// takes them over, EOS as the first of the tokens that end a text, so that a compressed model has them too.
static int adopt_tokens(upg_model *m, upg_error *e) {
    upg_config *c = &m->config;
    const char *text = m->weights.tokenizer_config;
    if (!m->tokenizer || !text) return 0;
    yyjson_doc *doc = upg_json_object(text, strlen(text), YYJSON_READ_NUMBER_AS_RAW, "tokenizer_config.json", e);
    if (!doc) return -1;
    bool given;
    int32_t bos = named_token(m, yyjson_doc_get_root(doc), "bos_token", &given);
    if (given) c->bos = bos;
    int32_t eos = named_token(m, yyjson_doc_get_root(doc), "eos_token", &given);
    yyjson_doc_free(doc);
    if (eos < 0) return 0;
    int at = 0;
    while (at < c->n_eos && c->eos[at] != eos) at++;
    if (at == UPG_MAX_EOS) at--;
    if (at == c->n_eos) c->n_eos++;
    memmove(c->eos + 1, c->eos, (size_t)at * sizeof *c->eos);
    c->eos[0] = eos;
    return 0;
}

static int finish(upg_model *m, upg_error *e) {
    if (upg_config_parse(&m->config, m->weights.config, m->weights.generation_config, e)) return -1;
    if (upg_weights_tokenizer(&m->weights, &m->tokenizer, e)) return -1;
    if (m->tokenizer && upg_tokenizer_size(m->tokenizer) > m->config.vocab_size)
        return upg_fail(e, "the tokenizer has %d tokens, but vocab_size is %d", upg_tokenizer_size(m->tokenizer),
                        m->config.vocab_size);
    if (adopt_tokens(m, e)) return -1;
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

int upg_model_verify(const upg_model *m, upg_progress *progress, void *ctx, upg_error *e) {
    return upg_weights_verify(&m->weights, progress, ctx, e);
}

static void add_hash(upg_buf *b, const void *data, size_t n) {
    uint8_t hash[16];
    upg_file_hash(data, n, hash);
    upg_buf_add(b, hash, sizeof hash);
}

static void add_tensor(upg_buf *b, const upg_tensor *t, bool recorded) {
    enum { END = 65536 };
    size_t n = t->bytes < END ? t->bytes : END;
    upg_buf_fmt(b, "%s %d %d %u %d %lld %lld ", t->name, t->encoding, t->s, t->ggml_type, t->rope_heads,
                (long long)t->rows, (long long)t->cols);
    if (recorded) {
        upg_buf_add(b, t->hash, sizeof t->hash);
        if (t->scale) upg_buf_add(b, t->scale_hash, sizeof t->scale_hash);
    } else {
        add_hash(b, t->data, n);
        add_hash(b, t->data + t->bytes - n, n);
    }
}

int upg_model_hash(const upg_model *m, uint8_t hash[16], upg_error *e) {
    const upg_weights *w = &m->weights;
    upg_buf b = {0};
    int rc = upg_config_write(&m->config, &b, e);
    if (w->tokenizer_json) add_hash(&b, w->tokenizer_json, strlen(w->tokenizer_json));
    if (w->tokenizer_data) add_hash(&b, w->tokenizer_data, w->tokenizer_size);
    for (size_t i = 0; i < w->n; i++) add_tensor(&b, &w->tensors[i], w->compressed);
    if (!rc) rc = upg_buf_check(&b, e);
    if (!rc) upg_file_hash(b.data, b.size, hash);
    upg_buf_free(&b);
    return rc;
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

int upg_prompt_tokens(const upg_model *m, const char *text, size_t n, bool special, int32_t **ids, size_t *n_ids,
                      upg_error *e) {
    int32_t *rest = NULL, start = upg_model_bos(m);
    size_t n_rest = 0;
    if (upg_tokenize(m, text, n, special, &rest, &n_rest, e)) return -1;
    if (start < 0 && !n_rest) start = m->config.n_eos ? m->config.eos[0] : 0;
    bool first = start >= 0;
    *n_ids = n_rest + first;
    if ((*ids = upg_alloc(*n_ids, sizeof **ids, e))) {
        if (first) **ids = start;
        if (n_rest) memcpy(*ids + first, rest, n_rest * sizeof *rest);
    }
    upg_free(rest);
    return *ids ? 0 : -1;
}

struct upg_text {
    const upg_model *model;
    bool special, midway;
    upg_detokenizer detokenizer;
    upg_buf out;
};

upg_text *upg_text_new(const upg_model *m, bool special, bool midway, upg_error *e) {
    upg_text *t = m->tokenizer ? upg_alloc(1, sizeof *t, e) : NULL;
    if (!m->tokenizer) upg_fail(e, "the model has no tokenizer");
    if (t) *t = (upg_text){.model = m, .special = special, .midway = midway, .detokenizer.midway = midway};
    return t;
}

void upg_text_free(upg_text *t) {
    if (t) upg_buf_free(&t->out);
    free(t);
}

static int give_text(upg_text *t, const char **text, size_t *n, upg_error *e) {
    *text = t->out.data ? t->out.data : "";
    *n = t->out.size;
    return upg_buf_check(&t->out, e);
}

int upg_text_push(upg_text *t, int32_t token, const char **text, size_t *n, upg_error *e) {
    t->out.size = 0;
    upg_detokenizer_push(&t->detokenizer, t->model->tokenizer, token, t->special, &t->out);
    return give_text(t, text, n, e);
}

int upg_text_finish(upg_text *t, const char **text, size_t *n, upg_error *e) {
    t->out.size = 0;
    upg_detokenizer_finish(&t->detokenizer, &t->out);
    t->detokenizer = (upg_detokenizer){.midway = t->midway};
    return give_text(t, text, n, e);
}
