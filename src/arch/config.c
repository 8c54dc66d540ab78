// config.json and generation_config.json, read with every value checked. See config.h.
#include "arch/arch.h"
#include "format/json.h"
#include "program/numbers.h"
#include <math.h>
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

// ---- RoPE ----

// Transformers 5 keeps all that concerns RoPE in rope_parameters, versions before only its scaling, in rope_scaling; if
// both are there, it is the older that counts. *rope: that object or NULL.
static int find_rope(yyjson_val *o, yyjson_val **rope, upg_error *e) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *rope = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        yyjson_val *v = yyjson_obj_get(o, keys[i]), *key, *value;
        if (!v || yyjson_is_null(v)) continue;
        if (!yyjson_is_obj(v)) return upg_fail(e, "config: %s is not an object", keys[i]);
        size_t k, n;
        yyjson_obj_foreach(v, k, n, key, value) {
            if (yyjson_is_obj(value))
                return upg_fail(e, "config: %s that differ by layer type are not implemented", keys[i]);
        }
        if (!*rope) *rope = v;
    }
    return 0;
}

// A number that rope_parameters or the config itself has.
static int get_rope_num(yyjson_val *o, yyjson_val *rope, const char *key, double lo, double hi, double *x,
                        upg_error *e) {
    return get_num(o, key, true, lo, hi, x, e) || get_num(rope, key, true, lo, hi, x, e) ? -1 : 0;
}

// The config's own original_max_position_embeddings counts before the scaling's.
static int get_original(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    const char *key = "original_max_position_embeddings";
    yyjson_val *own = yyjson_obj_get(o, key);
    return get_num(own && !yyjson_is_null(own) ? o : s, key, false, 2, 1e8, &c->rope_original, e);
}

static int linear_scaling(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    (void)o;
    return get_num(s, "factor", false, 1, 1e6, &c->rope_factor, e);
}

static int llama3_scaling(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    if (get_num(s, "factor", false, 1, 1e6, &c->rope_factor, e) ||
        get_num(s, "low_freq_factor", false, 1e-3, 1e3, &c->rope_low, e) ||
        get_num(s, "high_freq_factor", false, 1e-3, 1e3, &c->rope_high, e) || get_original(c, o, s, e))
        return -1;
    return c->rope_high > c->rope_low
               ? 0
               : upg_fail(e, "config: rope_scaling high_freq_factor must exceed low_freq_factor");
}

// The divisors of the frequencies, small enough that no angle reaches 2^24.
static int get_factors(const upg_config *c, yyjson_val *s, const char *key, double *factors, upg_error *e) {
    yyjson_val *list = yyjson_obj_get(s, key), *v;
    size_t i, n;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) != (size_t)c->rotary_dim / 2)
        return upg_fail(e, "config: %s is not a list of %d numbers, half the rotary width", key, c->rotary_dim / 2);
    yyjson_arr_foreach(list, i, n, v) {
        double x = yyjson_is_num(v) ? yyjson_get_num(v) : 0;
        if (!(x >= 1e-3 && x <= 1e9 && c->max_positions <= x * 0x1p24))
            return upg_fail(e, "config: %s has an entry %zu that is no factor for %d positions", key, i,
                            c->max_positions);
        factors[i] = x;
    }
    return 0;
}

static int longrope_scaling(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    if (get_original(c, o, s, e)) return -1;
    double factor = c->max_positions / c->rope_original;
    if (get_factors(c, s, "short_factor", c->rope_short, e) || get_factors(c, s, "long_factor", c->rope_long, e) ||
        get_num(s, "factor", true, 1e-3, 1e6, &factor, e) || must_be(s, "short_mscale", NULL, e) ||
        must_be(s, "long_mscale", NULL, e))
        return -1;
    c->rope_attention = factor <= 1 ? 1 : sqrt(1 + upg_elog(factor) / upg_elog(c->rope_original));
    return get_num(s, "attention_factor", true, 1e-3, 1e3, &c->rope_attention, e);
}

// The pair of a head that turns n times within the original positions, a real number.
static double yarn_pair(const upg_config *c, double n) {
    return (c->rotary_dim * upg_elog(c->rope_original / (n * 0x1.921fb54442d18p+2))) / (2 * upg_elog(c->rope_theta));
}

// Yarn divides slow frequencies by the factor, leaves fast ones and blends between: longrope with one set of factors.
static int yarn_scaling(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    double factor, fast = 32, slow = 1;
    bool truncate = true;
    if (get_original(c, o, s, e)) return -1;
    factor = c->max_positions / c->rope_original;
    if (get_num(s, "factor", true, 1, 1e6, &factor, e) || get_num(s, "beta_fast", true, 1e-3, 1e6, &fast, e) ||
        get_num(s, "beta_slow", true, 1e-3, 1e6, &slow, e) || get_bool(s, "truncate", &truncate, e) ||
        must_be(s, "mscale", NULL, e) || must_be(s, "mscale_all_dim", NULL, e) || must_be(s, "short_factor", NULL, e))
        return -1;
    if (factor < 1 || c->rope_theta <= 1)
        return upg_fail(e, "config: rope_scaling type yarn needs a factor of 1 or more and a theta above 1");
    double low = yarn_pair(c, fast), high = yarn_pair(c, slow);
    low = fmax(truncate ? floor(low) : low, 0);
    high = fmin(truncate ? ceil(high) : high, c->rotary_dim - 1);
    if (low == high) high = high + 0.001;
    for (int j = 0; j < c->rotary_dim / 2; j++) {
        double r = fmin(fmax((j - low) / (high - low), 0), 1);
        c->rope_short[j] = c->rope_long[j] = 1 / (r / factor + (1 - r));
    }
    c->rope_attention = 0.1 * upg_elog(factor) + 1;
    return get_num(s, "attention_factor", true, 1e-3, 1e3, &c->rope_attention, e);
}

static const struct rope_type {
    const char *name;
    upg_rope_scaling scaling;
    int (*read)(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e);
} rope_types[] = {
    {"linear", UPG_ROPE_LINEAR, linear_scaling},       {"llama3", UPG_ROPE_LLAMA3, llama3_scaling},
    {"longrope", UPG_ROPE_LONGROPE, longrope_scaling}, {"su", UPG_ROPE_LONGROPE, longrope_scaling}, // its first name
    {"yarn", UPG_ROPE_LONGROPE, yarn_scaling},
};
enum { N_ROPE_TYPES = sizeof rope_types / sizeof *rope_types };

static int rope_scaling(upg_config *c, yyjson_val *o, yyjson_val *s, upg_error *e) {
    if (!s) return 0;
    yyjson_val *v = yyjson_obj_get(s, "rope_type");
    if (!v) v = yyjson_obj_get(s, "type");
    if (!v && yyjson_obj_get(s, "rope_theta") && !yyjson_obj_get(s, "factor")) return 0;
    const char *type = upg_json_string(v);
    if (!type) return upg_fail(e, "config: rope_scaling has no rope_type");
    if (!strcmp(type, "default")) return 0;
    for (size_t i = 0; i < N_ROPE_TYPES; i++)
        if (!strcmp(type, rope_types[i].name)) {
            c->rope_scaling = rope_types[i].scaling;
            return rope_types[i].read(c, o, s, e);
        }
    return upg_fail(e, "config: rope_scaling type %s is not implemented", type);
}

// ---- Attention ----

// Marks the layers without a window by what layer_types lists.
static int layer_types(upg_config *c, yyjson_val *types, bool window, upg_error *e) {
    if (!yyjson_is_arr(types) || yyjson_arr_size(types) != (size_t)c->n_layers)
        return upg_fail(e, "config: layer_types is not a list of %d types, one a layer", c->n_layers);
    yyjson_val *type;
    size_t i, n;
    yyjson_arr_foreach(types, i, n, type) {
        c->full_attention[i] = yyjson_equals_str(type, "full_attention");
        if (c->full_attention[i]) continue;
        if (!yyjson_equals_str(type, "sliding_attention"))
            return upg_fail(e, "config: layer_types has a type that is not implemented for layer %zu", i);
        if (!window) return upg_fail(e, "config: layer_types has sliding_attention, but there is no sliding_window");
    }
    return 0;
}

// Which layers have a sliding window, and how long it is.
static int windows(upg_config *c, yyjson_val *o, upg_error *e) {
    const upg_arch *a = c->arch;
    int window = yyjson_is_null(yyjson_obj_get(o, "sliding_window")) ? 0 : a->sliding_window;
    int first = a->max_window_layers;
    bool used = !a->use_sliding_window;
    if (get_int(o, "sliding_window", true, 1, INT32_MAX, &window, e)) return -1;
    if (a->use_sliding_window &&
        (get_bool(o, "use_sliding_window", &used, e) || get_int(o, "max_window_layers", true, 0, INT32_MAX, &first, e)))
        return -1;
    window = used ? window : 0;
    yyjson_val *types = yyjson_obj_get(o, "layer_types");
    if (types && !yyjson_is_null(types)) {
        if (layer_types(c, types, window, e)) return -1;
    } else {
        for (int i = 0; i < c->n_layers; i++) c->full_attention[i] = i < first;
    }
    // A window that no position can exceed is the same as none.
    bool any = false;
    for (int i = 0; i < c->n_layers; i++) any |= !c->full_attention[i];
    c->sliding_window = any && window < c->max_positions ? window : 0;
    if (!c->sliding_window) memset(c->full_attention, 0, sizeof c->full_attention);
    return 0;
}

// A bias that only some architectures have.
static int bias(yyjson_val *o, const char *key, bool allowed, bool *value, upg_error *e) {
    return allowed ? get_bool(o, key, value, e) : must_be(o, key, NULL, e);
}

// ---- The whole ----

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

static int heads(upg_config *c, yyjson_val *o, yyjson_val *rope, upg_error *e) {
    double partial = 1;
    if (get_int(o, "num_attention_heads", false, 1, 4096, &c->n_heads, e)) return -1;
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->arch->head_dim ? c->arch->head_dim : c->hidden_size / c->n_heads;
    if (get_int(o, "num_key_value_heads", true, 1, 4096, &c->n_kv_heads, e) ||
        get_int(o, "head_dim", true, 2, UPG_MAX_HEAD_DIM, &c->head_dim, e) ||
        get_rope_num(o, rope, "partial_rotary_factor", 0.001, 1, &partial, e))
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
    double eps = 0;
    c->rope_theta = 10000;
    yyjson_val *rope;
    if (find_rope(o, &rope, e) || get_int(o, "vocab_size", false, 1, 1 << 24, &c->vocab_size, e) ||
        get_int(o, "hidden_size", false, 1, UPG_MAX_INPUTS, &c->hidden_size, e) ||
        get_int(o, "intermediate_size", false, 1, UPG_MAX_INPUTS, &c->ffn_size, e) ||
        get_int(o, "num_hidden_layers", false, 1, UPG_MAX_LAYERS, &c->n_layers, e) || heads(c, o, rope, e) ||
        get_int(o, "max_position_embeddings", false, 1, 1 << 24, &c->max_positions, e) || windows(c, o, e) ||
        get_num(o, "rms_norm_eps", false, 1e-12f, 1, &eps, e) ||
        get_rope_num(o, rope, "rope_theta", 1, 1e12, &c->rope_theta, e) || rope_scaling(c, o, rope, e) ||
        get_int(o, "bos_token_id", true, -1, c->vocab_size - 1, &c->bos, e) || eos_tokens(c, o, e))
        return -1;
    if (must_be(o, "hidden_act", "silu", e) || must_be(o, "quantization_config", NULL, e) ||
        bias(o, "attention_bias", c->arch->attention_bias, &c->attention_bias, e) ||
        bias(o, "mlp_bias", c->arch->mlp_bias, &c->mlp_bias, e) || get_bool(o, "tie_word_embeddings", &c->tied, e))
        return -1;
    c->rms_eps = (float)eps;
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

static bool add_numbers(yyjson_mut_doc *d, yyjson_mut_val *o, const char *key, const double *x, int n) {
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, o, key);
    bool ok = list;
    for (int i = 0; i < n; i++) ok = ok && yyjson_mut_arr_add_real(d, list, x[i]);
    return ok;
}

static bool add_rope_scaling(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_config *c) {
    if (c->rope_scaling == UPG_ROPE_PLAIN) return true;
    size_t type = 0;
    while (rope_types[type].scaling != c->rope_scaling) type++;
    yyjson_mut_val *s = yyjson_mut_obj_add_obj(d, o, "rope_scaling");
    bool ok = yyjson_mut_obj_add_str(d, s, "rope_type", rope_types[type].name);
    const struct {
        const char *key;
        double value; // 0: not of this type
    } numbers[] = {{"factor", c->rope_factor},
                   {"low_freq_factor", c->rope_low},
                   {"high_freq_factor", c->rope_high},
                   {"original_max_position_embeddings", c->rope_original},
                   {"attention_factor", c->rope_attention}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value) ok = ok && yyjson_mut_obj_add_real(d, s, numbers[i].key, numbers[i].value);
    if (c->rope_scaling != UPG_ROPE_LONGROPE) return ok;
    return ok && add_numbers(d, s, "short_factor", c->rope_short, c->rotary_dim / 2) &&
           add_numbers(d, s, "long_factor", c->rope_long, c->rotary_dim / 2);
}

// Said in full, since architectures differ in what silence means.
static bool add_windows(yyjson_mut_doc *d, yyjson_mut_val *o, const upg_config *c) {
    if (!c->sliding_window) return !c->arch->sliding_window || yyjson_mut_obj_add_null(d, o, "sliding_window");
    bool ok = yyjson_mut_obj_add_int(d, o, "sliding_window", c->sliding_window);
    if (c->arch->use_sliding_window) ok = ok && yyjson_mut_obj_add_bool(d, o, "use_sliding_window", true);
    if (!memchr(c->full_attention, true, sizeof c->full_attention) && !c->arch->max_window_layers) return ok;
    yyjson_mut_val *types = yyjson_mut_obj_add_arr(d, o, "layer_types");
    for (int i = 0; i < c->n_layers; i++)
        ok = ok && yyjson_mut_arr_add_str(d, types, c->full_attention[i] ? "full_attention" : "sliding_attention");
    return ok;
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
    ok = ok && add_windows(d, o, c);
    if (c->attention_bias) ok = ok && yyjson_mut_obj_add_bool(d, o, "attention_bias", true);
    if (c->mlp_bias) ok = ok && yyjson_mut_obj_add_bool(d, o, "mlp_bias", true);
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
