// Reading a body. See params.h.
#include "server/params.h"
#include "format/json.h"
#include <math.h>
#include <string.h>

// The deepest nesting of a text that may be no JSON at all: brackets outside of strings.
static int depth_of(const char *text, size_t n) {
    int depth = 0, most = 0;
    bool string = false;
    for (size_t i = 0; i < n && most <= PARAMS_DEPTH; i++) {
        char c = text[i];
        if (string && c == '\\')
            i++;
        else if (c == '"')
            string = !string;
        else if (!string && (c == '{' || c == '['))
            most = ++depth > most ? depth : most;
        else if (!string && (c == '}' || c == ']'))
            depth--;
    }
    return most;
}

// Of every object in it. Nesting is bounded, so recursion is.
static int check_keys(yyjson_val *v, upg_error *e) {
    size_t i, n;
    yyjson_val *key, *value;
    if (yyjson_is_arr(v)) {
        yyjson_arr_foreach(v, i, n, value) if (yyjson_is_ctn(value) && check_keys(value, e)) return -1;
        return 0;
    }
    if (upg_json_unique_keys(v, "the body", e)) return -1;
    yyjson_obj_foreach(v, i, n, key, value) if (yyjson_is_ctn(value) && check_keys(value, e)) return -1;
    return 0;
}

void params_open(params *p, exchange *x) {
    size_t n;
    upg_error e = {""};
    const char *text = exchange_body(x, &n);
    *p = (params){.x = x};
    if (depth_of(text, n) > PARAMS_DEPTH) {
        params_refuse(p, NULL, "the body is nested deeper than %d levels", PARAMS_DEPTH);
        return;
    }
    p->doc = upg_json_object(text, n, YYJSON_READ_BIGNUM_AS_RAW, "the body", &e);
    p->root = yyjson_doc_get_root(p->doc);
    if (!p->doc || check_keys(p->root, &e)) params_refuse(p, NULL, "%s", e.message);
}

void params_close(params *p) {
    yyjson_doc_free(p->doc);
}

void params_refuse(params *p, const char *field, const char *fmt, ...) {
    char message[640];
    va_list args;
    if (p->refused) return;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    p->refused = true;
    exchange_error(p->x, 400, field, "%s", message);
}

void params_fail(params *p, const upg_error *e) {
    params_refuse(p, NULL, "%s", e->message);
}

yyjson_val *params_get(params *p, const char *name) {
    yyjson_val *v = p->refused ? NULL : yyjson_obj_get(p->root, name);
    return yyjson_is_null(v) ? NULL : v;
}

void params_bool(params *p, const char *name, bool *out) {
    yyjson_val *v = params_get(p, name);
    if (v && !yyjson_is_bool(v)) params_refuse(p, name, "%s: not true or false", name);
    if (yyjson_is_bool(v)) *out = yyjson_get_bool(v);
}

// A whole number, also one written as 1.0.
static bool whole(yyjson_val *v, int64_t *out) {
    if (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX) return false;
    if (yyjson_is_int(v)) *out = yyjson_get_sint(v);
    if (yyjson_is_int(v)) return true;
    double x = yyjson_is_real(v) ? yyjson_get_real(v) : NAN;
    if (!(x >= -0x1p53 && x <= 0x1p53) || x != floor(x)) return false;
    *out = (int64_t)x;
    return true;
}

void params_int(params *p, const char *name, int64_t lo, int64_t hi, int *out) {
    yyjson_val *v = params_get(p, name);
    int64_t n = 0;
    if (!v) return;
    if (!whole(v, &n) || n < lo || n > hi)
        params_refuse(p, name, "%s: not a whole number within %lld..%lld", name, (long long)lo, (long long)hi);
    else
        *out = (int)n;
}

void params_seed(params *p, const char *name, uint64_t *out) {
    yyjson_val *v = params_get(p, name);
    int64_t n = 0;
    if (!v) return;
    if (yyjson_is_uint(v))
        *out = yyjson_get_uint(v);
    else if (whole(v, &n))
        *out = (uint64_t)n;
    else
        params_refuse(p, name, "%s: not a whole number of 64 bits", name);
}

void params_float(params *p, const char *name, double lo, double hi, float *out) {
    yyjson_val *v = params_get(p, name);
    if (!v) return;
    double x = yyjson_is_num(v) ? yyjson_get_num(v) : NAN;
    if (!(x >= lo && x <= hi))
        params_refuse(p, name, "%s: not a number within %g..%g", name, lo, hi);
    else
        *out = (float)x;
}

const char *params_string(params *p, const char *name) {
    yyjson_val *v = params_get(p, name);
    const char *s = upg_json_string(v);
    if (v && !s) params_refuse(p, name, "%s: not a string without NUL", name);
    return s;
}

yyjson_val *params_array(params *p, const char *name) {
    yyjson_val *v = params_get(p, name);
    if (v && !yyjson_is_arr(v)) params_refuse(p, name, "%s: not an array", name);
    return yyjson_is_arr(v) ? v : NULL;
}

yyjson_val *params_object(params *p, const char *name) {
    yyjson_val *v = params_get(p, name);
    if (v && !yyjson_is_obj(v)) params_refuse(p, name, "%s: not an object", name);
    return yyjson_is_obj(v) ? v : NULL;
}

int params_strings(params *p, const char *name, int max, const char **out) {
    yyjson_val *v = params_get(p, name), *one;
    int n = 0;
    size_t i, count;
    if (yyjson_is_str(v)) {
        const char *s = upg_json_string(v);
        if (s && *s) out[n++] = s;
        if (!n) params_refuse(p, name, "%s: an empty string, or one with a NUL", name);
        return n;
    }
    if (v && (!yyjson_is_arr(v) || yyjson_arr_size(v) > (size_t)max)) {
        params_refuse(p, name, "%s: not a string, nor an array of at most %d of them", name, max);
        return 0;
    }
    yyjson_arr_foreach(v, i, count, one) {
        const char *s = upg_json_string(one);
        if (!s || !*s) {
            params_refuse(p, name, "%s: entry %zu is not a string of at least one byte", name, i);
            return 0;
        }
        out[n++] = s;
    }
    return n;
}

static void refuse_present(params *p, const char *name) {
    yyjson_val *v = params_get(p, name);
    if (!v || yyjson_is_false(v) || (yyjson_is_ctn(v) && !yyjson_get_len(v))) return;
    if ((yyjson_is_str(v) && !yyjson_get_len(v)) || (yyjson_is_num(v) && yyjson_get_num(v) == 0)) return;
    params_refuse(p, name, "%s is not supported", name);
}

void params_none_of(params *p, const char *const *names) {
    for (; *names; names++) refuse_present(p, *names);
}
