// config.json and generation_config.json, read with every value checked. See config.h.
#include "arch/arch.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

// An integer key within lo..hi. An absent or null key gives *value unchanged when optional.
static int get_int(yyjson_val *o, const char *key, bool optional, int64_t lo, int64_t hi, int *value, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (!v || yyjson_is_null(v)) return optional ? 0 : upg_fail(e, "config: %s is missing", key);
    if (!yyjson_is_int(v) || (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX))
        return upg_fail(e, "config: %s is not an integer", key);
    int64_t n = yyjson_get_sint(v);
    if (n < lo || n > hi)
        return upg_fail(e, "config: %s is %lld, not within %lld..%lld", key, (long long)n, (long long)lo,
                        (long long)hi);
    *value = (int)n;
    return 0;
}

static int get_num(yyjson_val *o, const char *key, bool optional, double lo, double hi, double *value, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (!v || yyjson_is_null(v)) return optional ? 0 : upg_fail(e, "config: %s is missing", key);
    if (!yyjson_is_num(v)) return upg_fail(e, "config: %s is not a number", key);
    double x = yyjson_get_num(v);
    if (!(x >= lo && x <= hi)) return upg_fail(e, "config: %s is %g, not within %g..%g", key, x, lo, hi);
    *value = x;
    return 0;
}

// A key that must be absent, null or false; if allowed is a string, absent, null or equal to that.
static int must_be(yyjson_val *o, const char *key, const char *allowed, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (!v || yyjson_is_null(v)) return 0;
    if (allowed ? yyjson_equals_str(v, allowed) : yyjson_is_false(v)) return 0;
    return upg_fail(e, "config: %s has a value that is not implemented", key);
}

static int get_bool(yyjson_val *o, const char *key, bool *value, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (!v || yyjson_is_null(v)) return 0;
    if (!yyjson_is_bool(v)) return upg_fail(e, "config: %s is neither true nor false", key);
    *value = yyjson_is_true(v);
    return 0;
}

static int rope_scaling(upg_config *c, yyjson_val *o, upg_error *e) {
    yyjson_val *s = yyjson_obj_get(o, "rope_scaling");
    if (!s || yyjson_is_null(s)) return 0;
    if (!yyjson_is_obj(s)) return upg_fail(e, "config: rope_scaling is not an object");
    const char *type = upg_json_string(yyjson_obj_get(s, "rope_type"));
    if (!type) type = upg_json_string(yyjson_obj_get(s, "type"));
    if (!type) return upg_fail(e, "config: rope_scaling has no rope_type");
    if (!strcmp(type, "default")) return 0;
    if (strcmp(type, "linear") && strcmp(type, "llama3"))
        return upg_fail(e, "config: rope_scaling type %s is not implemented", type);
    if (get_num(s, "factor", false, 1, 1e6, &c->rope_factor, e)) return -1;
    c->rope_scaling = UPG_ROPE_LINEAR;
    if (!strcmp(type, "linear")) return 0;
    c->rope_scaling = UPG_ROPE_LLAMA3;
    if (get_num(s, "low_freq_factor", false, 1e-3, 1e3, &c->rope_low, e) ||
        get_num(s, "high_freq_factor", false, 1e-3, 1e3, &c->rope_high, e) ||
        get_num(s, "original_max_position_embeddings", false, 1, 1e8, &c->rope_original, e))
        return -1;
    return c->rope_high > c->rope_low
               ? 0
               : upg_fail(e, "config: rope_scaling high_freq_factor must exceed low_freq_factor");
}

static int eos_tokens(upg_config *c, yyjson_val *o, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(o, "eos_token_id");
    if (!v || yyjson_is_null(v)) return 0;
    c->n_eos = 0;
    size_t n = yyjson_is_arr(v) ? yyjson_arr_size(v) : 1;
    if (n > UPG_MAX_EOS) return upg_fail(e, "config: eos_token_id has %zu entries, more than %d", n, UPG_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        yyjson_val *id = yyjson_is_arr(v) ? yyjson_arr_get(v, i) : v;
        if (!yyjson_is_uint(id) || yyjson_get_uint(id) >= (uint64_t)c->vocab_size)
            return upg_fail(e, "config: eos_token_id is not a token of the vocabulary");
        c->eos[c->n_eos++] = (int)yyjson_get_uint(id);
    }
    return 0;
}

static int heads(upg_config *c, yyjson_val *o, upg_error *e) {
    double partial = 1;
    if (get_int(o, "num_attention_heads", false, 1, 4096, &c->n_heads, e)) return -1;
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->hidden_size / c->n_heads;
    if (get_int(o, "num_key_value_heads", true, 1, 4096, &c->n_kv_heads, e) ||
        get_int(o, "head_dim", true, 2, UPG_MAX_HEAD_DIM, &c->head_dim, e) ||
        get_num(o, "partial_rotary_factor", true, 0.001, 1, &partial, e))
        return -1;
    if (c->head_dim < 2 || c->head_dim > UPG_MAX_HEAD_DIM)
        return upg_fail(e, "config: head_dim is %d, not within 2..%d", c->head_dim, UPG_MAX_HEAD_DIM);
    if (c->n_heads % c->n_kv_heads)
        return upg_fail(e, "config: num_attention_heads %d is not a multiple of num_key_value_heads %d", c->n_heads,
                        c->n_kv_heads);
    if ((int64_t)c->head_dim * (c->n_heads + 2 * c->n_kv_heads) > 1 << 20)
        return upg_fail(e, "config: num_attention_heads %d of head_dim %d are too many", c->n_heads, c->head_dim);
    c->rotary_dim = (int)(partial * c->head_dim);
    if (c->rotary_dim < 2 || c->rotary_dim % 2)
        return upg_fail(e, "config: partial_rotary_factor of head_dim %d is %d, not even and at least 2", c->head_dim,
                        c->rotary_dim);
    return 0;
}

static int parse(upg_config *c, yyjson_val *o, upg_error *e) {
    yyjson_val *archs = yyjson_obj_get(o, "architectures");
    const char *name = upg_json_string(yyjson_arr_get_first(archs));
    if (!name || yyjson_arr_size(archs) != 1) return upg_fail(e, "config: architectures must name one architecture");
    if (!(c->arch = upg_arch_find(name))) return upg_fail(e, "config: architecture %s is not implemented", name);
    double eps = 0, theta = 10000;
    int window = 0;
    if (get_int(o, "vocab_size", false, 1, 1 << 24, &c->vocab_size, e) ||
        get_int(o, "hidden_size", false, 1, UPG_MAX_INPUTS, &c->hidden_size, e) ||
        get_int(o, "intermediate_size", false, 1, UPG_MAX_INPUTS, &c->ffn_size, e) ||
        get_int(o, "num_hidden_layers", false, 1, UPG_MAX_LAYERS, &c->n_layers, e) || heads(c, o, e) ||
        get_int(o, "max_position_embeddings", false, 1, 1 << 24, &c->max_positions, e) ||
        get_int(o, "sliding_window", true, 1, INT32_MAX, &window, e) ||
        get_num(o, "rms_norm_eps", false, 1e-12f, 1, &eps, e) || get_num(o, "rope_theta", true, 1, 1e12, &theta, e) ||
        rope_scaling(c, o, e) || get_int(o, "bos_token_id", true, -1, c->vocab_size - 1, &c->bos, e) ||
        eos_tokens(c, o, e))
        return -1;
    if (must_be(o, "hidden_act", "silu", e) || must_be(o, "attention_bias", NULL, e) ||
        must_be(o, "mlp_bias", NULL, e) || must_be(o, "quantization_config", NULL, e) ||
        get_bool(o, "tie_word_embeddings", &c->tied, e))
        return -1;
    // A window that no position can exceed is the same as none.
    c->sliding_window = window && window < c->max_positions ? window : 0;
    c->rms_eps = (float)eps;
    c->rope_theta = theta;
    return 0;
}

int upg_config_parse(upg_config *c, const char *config, const char *generation, upg_error *e) {
    *c = (upg_config){.bos = -1};
    yyjson_doc *doc = upg_json_object(config, strlen(config), 0, "config.json", e);
    if (!doc) return -1;
    int rc = parse(c, yyjson_doc_get_root(doc), e);
    yyjson_doc_free(doc);
    if (rc || !generation) return rc;
    doc = upg_json_object(generation, strlen(generation), 0, "generation_config.json", e);
    if (!doc) return -1;
    rc = eos_tokens(c, yyjson_doc_get_root(doc), e);
    yyjson_doc_free(doc);
    return rc;
}

static bool add_rope_scaling(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_config *c) {
    if (c->rope_scaling == UPG_ROPE_PLAIN) return true;
    bool llama3 = c->rope_scaling == UPG_ROPE_LLAMA3;
    yyjson_mut_val *s = yyjson_mut_obj_add_obj(d, o, "rope_scaling");
    bool ok = yyjson_mut_obj_add_str(d, s, "rope_type", llama3 ? "llama3" : "linear") &&
              yyjson_mut_obj_add_real(d, s, "factor", c->rope_factor);
    if (!llama3) return ok;
    return ok && yyjson_mut_obj_add_real(d, s, "low_freq_factor", c->rope_low) &&
           yyjson_mut_obj_add_real(d, s, "high_freq_factor", c->rope_high) &&
           yyjson_mut_obj_add_real(d, s, "original_max_position_embeddings", c->rope_original);
}

static bool add_all(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_config *c) {
    bool ok = yyjson_mut_arr_add_str(d, yyjson_mut_obj_add_arr(d, o, "architectures"), c->arch->name);
    const struct {
        const char *key;
        int value;
    } ints[] = {{"vocab_size", c->vocab_size},       {"hidden_size", c->hidden_size},
                {"intermediate_size", c->ffn_size},  {"num_hidden_layers", c->n_layers},
                {"num_attention_heads", c->n_heads}, {"num_key_value_heads", c->n_kv_heads},
                {"head_dim", c->head_dim},           {"max_position_embeddings", c->max_positions}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        ok = ok && yyjson_mut_obj_add_int(d, o, ints[i].key, ints[i].value);
    if (c->sliding_window) ok = ok && yyjson_mut_obj_add_int(d, o, "sliding_window", c->sliding_window);
    if (c->rotary_dim != c->head_dim) // half a unit more than the width, for the product to round down to it
        ok = ok && yyjson_mut_obj_add_real(d, o, "partial_rotary_factor", (c->rotary_dim + 0.5) / c->head_dim);
    ok = ok && yyjson_mut_obj_add_real(d, o, "rms_norm_eps", c->rms_eps) &&
         yyjson_mut_obj_add_real(d, o, "rope_theta", c->rope_theta) && add_rope_scaling(d, o, c) &&
         yyjson_mut_obj_add_bool(d, o, "tie_word_embeddings", c->tied);
    if (c->bos >= 0) ok = ok && yyjson_mut_obj_add_int(d, o, "bos_token_id", c->bos);
    yyjson_mut_val *eos = yyjson_mut_obj_add_arr(d, o, "eos_token_id");
    ok = ok && eos;
    for (int i = 0; i < c->n_eos; i++) ok = ok && yyjson_mut_arr_add_int(d, eos, c->eos[i]);
    return ok;
}

int upg_config_write(const upg_config *c, upg_buf *out, upg_error *e) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = d ? yyjson_mut_obj(d) : NULL;
    if (o) yyjson_mut_doc_set_root(d, o);
    size_t n = 0;
    char *text = o && add_all(d, o, c) ? yyjson_mut_write(d, 0, &n) : NULL;
    yyjson_mut_doc_free(d);
    if (!text) return upg_fail(e, "out of memory");
    upg_buf_add(out, text, n);
    free(text);
    return upg_buf_check(out, e);
}

bool upg_config_is_eos(const upg_config *c, int32_t token) {
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == token) return true;
    return false;
}
