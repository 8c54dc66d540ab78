// POST /tokenize and /detokenize, as llama-server and vLLM have them.
#include "server/handlers.h"
#include "server/openai.h"
#include "engine/model.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

static void put_ids(upg_buf *out, const int32_t *ids, size_t n) {
    upg_buf_str(out, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) upg_buf_fmt(out, "%s%d", i ? "," : "", ids[i]);
}

// {"content" or "prompt": text, "add_special": whether a BOS goes before it, "parse_special": whether names of control
// tokens in it are control tokens}
void handle_tokenize(server *s, exchange *x) {
    params p;
    upg_error e = {""};
    upg_buf out = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    bool add = false, parse = false;
    params_open(&p, x);
    params_bool(&p, "add_special", &add);
    params_bool(&p, "parse_special", &parse);
    yyjson_val *text = params_get(&p, "content");
    if (!text) text = params_get(&p, "prompt");
    if (!yyjson_is_str(text)) params_refuse(&p, "content", "content (or prompt): a string is needed");
    if (!p.refused) {
        int rc = (add ? upg_prompt_tokens : upg_tokenize)(s->model, yyjson_get_str(text), yyjson_get_len(text), parse,
                                                          &ids, &n, &e);
        if (rc) params_fail(&p, &e);
    }
    if (!p.refused) {
        put_ids(&out, ids, n);
        upg_buf_fmt(&out, "],\"count\":%zu,\"max_model_len\":%d}", n, upg_scheduler_context(s->scheduler));
        exchange_reply(x, 200, "application/json", &out);
    }
    upg_free(ids);
    params_close(&p);
}

void handle_detokenize(server *s, exchange *x) {
    params p;
    upg_buf text = {0}, out = {0};
    upg_detokenizer d = {.midway = true};
    yyjson_val *v;
    size_t i, n;
    params_open(&p, x);
    yyjson_val *tokens = params_array(&p, "tokens");
    if (!tokens) params_refuse(&p, "tokens", "tokens: an array of ids is needed");
    yyjson_arr_foreach(tokens, i, n, v) {
        int64_t id = yyjson_is_int(v) ? yyjson_get_sint(v) : -1;
        if (id < 0 || id >= upg_model_vocab_size(s->model)) {
            params_refuse(&p, "tokens", "tokens: entry %zu is no token of this model", i);
            break;
        }
        upg_detokenizer_push(&d, s->model->tokenizer, (int32_t)id, true, &text);
    }
    upg_detokenizer_finish(&d, &text);
    if (!p.refused) {
        put_quoted(&out, "{\"content\":", text.data ? text.data : "", text.size, "");
        put_quoted(&out, ",\"prompt\":", text.data ? text.data : "", text.size, "}");
        out.failed |= text.failed;
        exchange_reply(x, 200, "application/json", &out);
    }
    upg_buf_free(&text);
    params_close(&p);
}
