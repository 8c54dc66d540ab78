// The two ends of the interpreter: a template is parsed once; a render turns the JSON context into values, runs the
// tree and hands out the text with the runs that say who wrote it. Also the functions templates call.
#include "text/template_internal.h"
#include <math.h>
#include <stdlib.h>
#include "format/json.h"

static const char *const functions[] = {"range", "dict", "namespace", "raise_exception", "strftime_now"};

static const char *const default_trusted[] = {"bos_token", "eos_token", "pad_token",  "unk_token",
                                              "sep_token", "cls_token", "mask_token", "messages.*.role"};

upg_template *upg_template_parse(const char *text, size_t n, upg_error *e) {
    upg_template *t = upg_alloc(1, sizeof *t, e);
    tpl_token *tokens = NULL;
    if (!t) return NULL;
    t->arena.limit = TPL_PARSE_MEMORY;
    int rc = n > (1 << 20) ? upg_fail(e, "chat template: %zu bytes, more than a template may have", n)
                           : tpl_lex(t, text, n, &tokens, e);
    if (!rc) rc = tpl_parse(t, tokens, e);
    free(tokens);
    if (!rc) return t;
    upg_template_free(t);
    return NULL;
}

void upg_template_free(upg_template *t) {
    if (!t) return;
    tpl_arena_free(&t->arena);
    free(t);
}

// How far down a trusted path the conversion of the context is: the rest of the path, NULL off it.

enum { MAX_TRUSTED = 64 };

typedef struct place {
    const char *rest[MAX_TRUSTED]; // of each path; NULL: left it; "": at or below its end
    bool nested[MAX_TRUSTED];      // the path has several keys
} place;

static bool plain_word(const char *s, size_t n) {
    if (!n || n > 32) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z') || s[i] == '_' || s[i] == '-'))
            return false;
    return true;
}

static bool trusts(const place *p, size_t n, const char *s, size_t len) {
    for (size_t i = 0; i < n; i++)
        if (p->rest[i] && !*p->rest[i] && (!p->nested[i] || plain_word(s, len))) return true;
    return false;
}

// One key (NULL: an element of an array) further.
static void step(const place *from, size_t n, const char *key, size_t len, place *to) {
    for (size_t i = 0; i < n; i++) {
        const char *rest = from->rest[i];
        to->nested[i] = from->nested[i];
        to->rest[i] = rest;
        if (!rest || !*rest) continue;
        size_t part = strcspn(rest, ".");
        bool match = key ? part == len && !memcmp(rest, key, part) : part == 1 && *rest == '*';
        to->rest[i] = match ? rest + part + (rest[part] == '.') : NULL;
    }
}

typedef struct reader {
    tpl_interp *t;
    size_t n_paths;
} reader;

static int convert(reader *r, yyjson_val *v, const place *p, tpl_value *out);

static int convert_array(reader *r, yyjson_val *v, const place *p, tpl_value *out) {
    tpl_value *items = tpl_alloc(r->t, yyjson_arr_size(v), sizeof *items);
    yyjson_val *item;
    size_t i, n;
    place next;
    if (!items) return -1;
    step(p, r->n_paths, NULL, 0, &next);
    yyjson_arr_foreach(v, i, n, item) {
        if (convert(r, item, &next, &items[i])) return -1;
    }
    return tpl_list_value(r->t, TPL_LIST, items, yyjson_arr_size(v), out);
}

static int convert_object(reader *r, yyjson_val *v, const place *p, tpl_value *out) {
    yyjson_val *key, *item;
    size_t i, n;
    place next;
    if (tpl_dict_new(r->t, out)) return -1;
    yyjson_obj_foreach(v, i, n, key, item) {
        tpl_value k, x;
        const char *s = yyjson_get_str(key);
        size_t len = yyjson_get_len(key);
        step(p, r->n_paths, s, len, &next);
        if (tpl_text(r->t, s, len, false, &k) || convert(r, item, &next, &x)) return -1;
        if (tpl_dict_set(r->t, out->dict, k, x)) return -1;
    }
    return 0;
}

// A number that yyjson left as text: too large for 64 bits or for a double.
static int convert_raw(reader *r, const char *s, size_t n, bool trusted, tpl_value *out) {
    bool integer = true;
    for (size_t i = 0; i < n; i++) integer = integer && s[i] != '.' && (s[i] | 32) != 'e';
    if (!integer) return *out = tpl_float(*s == '-' ? -INFINITY : INFINITY, trusted), 0;
    if (tpl_text(r->t, s, n, trusted, out)) return -1;
    out->kind = TPL_BIG;
    return 0;
}

static int convert_value(reader *r, yyjson_val *v, const place *p, tpl_value *out) {
    const char *s = yyjson_is_str(v) || yyjson_is_raw(v) ? unsafe_yyjson_get_str(v) : "0";
    size_t len = yyjson_is_str(v) || yyjson_is_raw(v) ? yyjson_get_len(v) : 1;
    bool trusted = trusts(p, r->n_paths, s, len);
    if (yyjson_is_str(v)) return tpl_text(r->t, s, len, trusted, out);
    if (yyjson_is_arr(v)) return convert_array(r, v, p, out);
    if (yyjson_is_obj(v)) return convert_object(r, v, p, out);
    if (yyjson_is_raw(v)) return convert_raw(r, s, len, trusted, out);
    if (yyjson_is_null(v))
        *out = tpl_none();
    else if (yyjson_is_bool(v))
        *out = tpl_bool(yyjson_get_bool(v));
    else if (yyjson_is_real(v))
        *out = tpl_float(yyjson_get_real(v), trusted);
    else
        *out = tpl_int(yyjson_get_sint(v), trusted);
    out->trusted = trusted;
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) <= INT64_MAX) return 0;
    tpl_builder b = {0}; // between 63 and 64 bits
    char buf[24];
    int n = snprintf(buf, sizeof buf, "%llu", (unsigned long long)yyjson_get_uint(v));
    if (tpl_add(r->t, &b, buf, (size_t)n, trusted) || tpl_built(r->t, &b, out)) return -1;
    out->kind = TPL_BIG;
    return 0;
}

static int convert(reader *r, yyjson_val *v, const place *p, tpl_value *out) {
    if (tpl_enter(r->t)) return -1;
    int rc = convert_value(r, v, p, out);
    tpl_leave(r->t);
    return rc;
}

// The strings of the values lie in *doc, which must outlive them.
static int read_context(tpl_interp *t, const char *json, size_t n, const upg_template_options *o, yyjson_doc **doc,
                        tpl_value *out) {
    const char *const *paths = o && o->trusted ? o->trusted : default_trusted;
    size_t n_paths = o && o->trusted ? o->n_trusted : sizeof default_trusted / sizeof *default_trusted;
    reader r = {t, n_paths};
    place p;
    yyjson_read_err err;
    if (n_paths > MAX_TRUSTED) return upg_fail(t->e, "chat template: more than %d trusted paths", MAX_TRUSTED);
    for (size_t i = 0; i < n_paths; i++) {
        p.rest[i] = *paths[i] ? paths[i] : NULL;
        p.nested[i] = strchr(paths[i], '.') != NULL;
    }
    *doc = yyjson_read_opts((char *)(uintptr_t)json, n, YYJSON_READ_BIGNUM_AS_RAW, NULL, &err);
    if (!*doc) return upg_fail(t->e, "chat template: the context is not valid JSON at byte %zu: %s", err.pos, err.msg);
    if (!yyjson_is_obj(yyjson_doc_get_root(*doc)))
        return upg_fail(t->e, "chat template: the context is not a JSON object");
    return convert(&r, yyjson_doc_get_root(*doc), &p, out);
}

static int call_range(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    int64_t v[3] = {0, 0, 1};
    if (args->n < 1 || args->n > 3 || args->n_kw)
        return tpl_fail(t, "range expected 1 to 3 arguments, got %zu", args->n);
    for (size_t i = 0; i < args->n; i++) {
        if (args->pos[i].kind == TPL_UNDEFINED) return tpl_fail(t, "%s", args->pos[i].hint);
        if (!tpl_integral(args->pos[i]))
            return tpl_fail(t, "'%s' object cannot be interpreted as an integer", tpl_type_name(args->pos[i]));
        v[args->n == 1 ? 1 : i] = tpl_as_int(args->pos[i]);
    }
    if (!v[2]) return tpl_fail(t, "range() arg 3 must not be zero");
    for (int i = 0; i < 3; i++)
        if (v[i] > INT64_MAX / 4 || v[i] < -(INT64_MAX / 4)) return tpl_fail(t, "range: the numbers are too large");
    int64_t n = 0;
    if (v[2] > 0 && v[1] > v[0]) n = (v[1] - v[0] - 1) / v[2] + 1;
    if (v[2] < 0 && v[1] < v[0]) n = (v[0] - v[1] - 1) / -v[2] + 1;
    if (n > TPL_MAX_RANGE)
        return tpl_fail(t, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", TPL_MAX_RANGE);
    tpl_range *r = tpl_alloc(t, 1, sizeof *r);
    if (!r) return -1;
    *r = (tpl_range){v[0], v[1], v[2], (size_t)n};
    *out = (tpl_value){.kind = TPL_RANGE, .range = r};
    return 0;
}

// dict() and namespace(): a dict or pairs, then keyword arguments.
static int call_dict(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    const tpl_value *items, *pair;
    size_t n, two;
    if (args->n > 1) return tpl_fail(t, "dict expected at most 1 argument, got %zu", args->n);
    if (tpl_dict_new(t, out)) return -1;
    tpl_value from = args->n ? args->pos[0] : (tpl_value){.kind = TPL_UNDEFINED};
    if (tpl_items(t, from, &items, &n)) return -1;
    for (size_t i = 0; i < n; i++) {
        tpl_value key = items[i], v;
        if (from.kind == TPL_DICT) {
            v = from.dict->values[i];
        } else {
            if (tpl_items(t, items[i], &pair, &two)) return -1;
            if (two != 2) return tpl_fail(t, "dict() wants pairs");
            key = pair[0];
            v = pair[1];
        }
        if (tpl_dict_set(t, out->dict, key, v)) return -1;
    }
    for (size_t i = 0; i < args->n_kw; i++) {
        tpl_value key = {.kind = TPL_STR, .trusted = true, .s = args->kw_names[i]};
        if (tpl_dict_set(t, out->dict, key, args->kw[i])) return -1;
    }
    return 0;
}

static int raise(tpl_interp *t, const tpl_args *args) {
    tpl_value message;
    if (args->n != 1 || args->n_kw) return tpl_fail(t, "raise_exception wants one message");
    if (tpl_str_of(t, args->pos[0], &message)) return -1;
    return tpl_fail(t, "%.*s", message.s->n > 400 ? 400 : (int)message.s->n, message.s->p);
}

int tpl_call(tpl_interp *t, tpl_value f, const tpl_args *args, tpl_value *out) {
    if (f.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", f.hint);
    if (f.kind == TPL_MACRO) return tpl_call_macro(t, f.macro, args, out);
    if (f.kind == TPL_METHOD) return tpl_call_method(t, f.method, args, out);
    if (f.kind == TPL_LOOP) return tpl_fail(t, "recursive loops are not supported");
    if (f.kind != TPL_FUNCTION) return tpl_fail(t, "'%s' object is not callable", tpl_type_name(f));
    switch (f.function) {
    case 0: return call_range(t, args, out);
    case 1: return call_dict(t, args, out);
    case 2:
        if (call_dict(t, args, out)) return -1;
        out->kind = TPL_NAMESPACE;
        return 0;
    case 3: return raise(t, args);
    default:
        if (args->n != 1 || args->n_kw || args->pos[0].kind != TPL_STR)
            return tpl_fail(t, "strftime_now wants one string");
        return tpl_strftime(t, args->pos[0], out);
    }
}

static int find_globals(tpl_interp *t, const tpl_dict *context) {
    const upg_template *template = t->template;
    t->globals = tpl_alloc(t, template->n_names, sizeof *t->globals);
    for (size_t i = 0; t->globals && i < template->n_names; i++) {
        const tpl_str *name = template->names[i];
        const tpl_value *v = tpl_dict_find(context, name->p, name->n);
        t->globals[i] = v ? *v : tpl_missing();
        for (int k = 0; !v && k < 5; k++)
            if (tpl_name_is(name, functions[k])) t->globals[i] = (tpl_value){.kind = TPL_FUNCTION, .function = k};
    }
    return t->globals ? 0 : -1;
}

static int make_runs(const tpl_builder *b, upg_template_output *out, upg_error *e) {
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) n += !i || b->mark[i] != b->mark[i - 1];
    upg_buf_add(&out->text, b->p, b->n);
    if (upg_buf_check(&out->text, e)) return -1;
    if (!n) return 0;
    if (!(out->runs = upg_alloc(n, sizeof *out->runs, e))) return -1;
    for (size_t i = 0; i < b->n; i++) {
        if (!i || b->mark[i] != b->mark[i - 1]) out->runs[out->n_runs++].from_template = b->mark[i];
        out->runs[out->n_runs - 1].length++;
    }
    return 0;
}

static upg_template_limits with_defaults(upg_template_limits l) {
    if (!l.max_steps) l.max_steps = 20000000;
    if (!l.max_output) l.max_output = (size_t)64 << 20;
    if (l.max_output > UINT32_MAX / 2) l.max_output = UINT32_MAX / 2;
    if (!l.max_memory) l.max_memory = (size_t)256 << 20;
    if (l.max_depth <= 0) l.max_depth = 200;
    if (l.max_depth > 400) l.max_depth = 400;
    return l;
}

int upg_template_render(const upg_template *template, const char *json, size_t n, const upg_template_options *o,
                        upg_template_output *out, upg_error *e) {
    tpl_builder text = {0};
    tpl_interp t = {.template = template, .e = e, .out = &text, .line = 1};
    t.limits = with_defaults(o ? o->limits : (upg_template_limits){0});
    t.arena.limit = t.limits.max_memory;
    t.now = o ? o->now : NULL;
    yyjson_doc *doc = NULL;
    tpl_value context;
    tpl_scope *scope;
    *out = (upg_template_output){0};
    int rc = read_context(&t, json, n, o, &doc, &context);
    if (!rc) rc = find_globals(&t, context.dict);
    if (!rc) rc = tpl_scope_new(&t, NULL, &scope);
    if (!rc) rc = tpl_exec(&t, template->body, scope);
    if (!rc) rc = make_runs(&text, out, e);
    if (rc) upg_template_output_free(out);
    yyjson_doc_free(doc);
    tpl_arena_free(&t.arena);
    return rc;
}

void upg_template_output_free(upg_template_output *out) {
    upg_buf_free(&out->text);
    free(out->runs);
    *out = (upg_template_output){0};
}
