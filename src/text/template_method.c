// Attributes, items, slices and methods, looked up as jinja2's sandbox does: x.name is a method before it is a key,
// x[k] a key before it is a method, methods that change a list or dict and names that begin with an underscore are
// undefined.
#include "text/template_internal.h"

enum { STRING_METHODS = 1000 }; // a string method's id is this: its name is looked at again

static const char *const dict_methods[] = {"get", "items", "keys", "values", "copy"};
static const char *const dict_unsafe[] = {"clear", "pop", "popitem", "setdefault", "update"};
static const char *const list_methods[] = {"count", "index", "copy"};
static const char *const list_unsafe[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
static const char *const loop_methods[] = {"cycle", "changed"};
static const char *const number_names[] = {"real",      "imag",       "numerator",       "denominator", "bit_length",
                                           "bit_count", "conjugate",  "to_bytes",        "from_bytes",  "hex",
                                           "fromhex",   "is_integer", "as_integer_ratio"};
static const char *const macro_names[] = {"name", "arguments", "catch_kwargs", "catch_varargs", "caller"};
static const char *const range_names[] = {"start", "stop", "step", "count", "index"};
static const char *const iter_names[] = {"send", "throw", "close", "mapping", "isdisjoint"};

#define AMONG(name, list) among(name, list, sizeof(list) / sizeof *(list))
static int among(const tpl_str *name, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (tpl_name_is(name, list[i])) return (int)i;
    return -1;
}

// As jinja2 names a type in its messages.
static const char *object_name(tpl_value v, char buf[64]) {
    static const char *const special[] = {[TPL_NAMESPACE] = "jinja2.utils.Namespace object",
                                          [TPL_LOOP] = "jinja2.runtime.LoopContext object",
                                          [TPL_MACRO] = "jinja2.runtime.Macro object"};
    if (v.kind == TPL_NONE) return "None";
    if (v.kind < sizeof special / sizeof *special && special[v.kind]) return special[v.kind];
    strcpy(buf, tpl_type_name(v));
    strcat(buf, " object");
    return buf;
}

static int no_attribute(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out) {
    char buf[64];
    return tpl_undefined_value(t, out, "'%s' has no attribute '%.*s'", object_name(v, buf),
                               name->n > 80 ? 80 : (int)name->n, name->p);
}

static int unsafe(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out) {
    return tpl_undefined_value(t, out, "access to attribute '%.*s' of '%s' object is unsafe.", (int)name->n, name->p,
                               tpl_type_name(v));
}

static int method(tpl_interp *t, tpl_value v, int id, tpl_value *out) {
    tpl_method *m = tpl_alloc(t, 1, sizeof *m);
    if (!m) return -1;
    *m = (tpl_method){v, id};
    *out = (tpl_value){.kind = TPL_METHOD, .method = m};
    return 0;
}

static int string_attribute(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out) {
    bool supported;
    if (!tpl_string_method_known(name, &supported)) return 1;
    if (!supported) return tpl_fail(t, "string method '%.*s' is not supported", (int)name->n, name->p);
    tpl_value *pair = tpl_alloc(t, 2, sizeof *pair); // the string and the method's name
    if (!pair) return -1;
    pair[0] = v;
    pair[1] = (tpl_value){.kind = TPL_STR, .s = name};
    tpl_value list;
    return tpl_list_value(t, TPL_TUPLE, pair, 2, &list) || method(t, list, STRING_METHODS, out) ? -1 : 0;
}

// What Python's getattr finds. 1: nothing.
static int attribute(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out) {
    int id = -1;
    bool refused = false;
    if (v.kind == TPL_STR) return string_attribute(t, v, name, out);
    if (v.kind == TPL_DICT) {
        if (AMONG(name, dict_unsafe) >= 0) return unsafe(t, v, name, out);
        id = AMONG(name, dict_methods);
        refused = tpl_name_is(name, "fromkeys");
    } else if (v.kind == TPL_LIST || v.kind == TPL_TUPLE) {
        if (v.kind == TPL_LIST && AMONG(name, list_unsafe) >= 0) return unsafe(t, v, name, out);
        id = AMONG(name, list_methods);
        if (id == 2 && v.kind == TPL_TUPLE) id = -1;
    } else if (v.kind == TPL_LOOP) {
        id = AMONG(name, loop_methods);
        if (id < 0) return tpl_loop_attr(t, v.loop, name, out);
    } else if (v.kind == TPL_NAMESPACE) {
        const tpl_value *value = tpl_dict_find(v.dict, name->p, name->n);
        return value ? (*out = *value, 0) : 1;
    } else {
        refused = (tpl_number(v) || v.kind == TPL_BIG) ? AMONG(name, number_names) >= 0
                  : v.kind == TPL_MACRO                ? AMONG(name, macro_names) >= 0
                  : v.kind == TPL_RANGE                ? AMONG(name, range_names) >= 0
                                        : (v.kind == TPL_ITER || v.kind == TPL_VIEW) && AMONG(name, iter_names) >= 0;
    }
    if (refused)
        return tpl_fail(t, "attribute '%.*s' of a %s is not supported", (int)name->n, name->p, tpl_type_name(v));
    return id < 0 ? 1 : method(t, v, id, out);
}

int tpl_getattr(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out) {
    if (v.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v.hint);
    int rc = attribute(t, v, name, out);
    if (rc <= 0) return rc;
    const tpl_value *item = v.kind == TPL_DICT ? tpl_dict_find(v.dict, name->p, name->n) : NULL;
    if (item) return *out = *item, 0;
    return no_attribute(t, v, name, out);
}

// Undefined, as from obj[index] without one.
static int no_item(tpl_interp *t, tpl_value v, tpl_value key, tpl_value *out) {
    char buf[64];
    if (key.kind == TPL_STR) return no_attribute(t, v, key.s, out);
    tpl_builder b = {0};
    if (tpl_add_repr(t, &b, key)) return -1;
    return tpl_undefined_value(t, out, "%s has no element %.*s", object_name(v, buf), b.n > 80 ? 80 : (int)b.n, b.p);
}

static int string_char(tpl_interp *t, tpl_value s, size_t index, tpl_value *out) {
    size_t at = index, len = 1;
    if (s.s->chars != s.s->n) {
        if (tpl_charge(t, s.s->n)) return -1;
        for (at = 0; index; at++) index -= at + 1 < s.s->n && ((unsigned char)s.s->p[at + 1] & 0xC0) != 0x80;
        while (at + len < s.s->n && ((unsigned char)s.s->p[at + len] & 0xC0) == 0x80) len++;
    }
    return tpl_substr(t, s, at, len, out);
}

int tpl_getitem(tpl_interp *t, tpl_value v, tpl_value key, tpl_value *out) {
    if (v.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v.hint);
    bool sequence = v.kind == TPL_LIST || v.kind == TPL_TUPLE || v.kind == TPL_STR || v.kind == TPL_RANGE;
    if (v.kind == TPL_DICT) {
        const tpl_value *item = tpl_dict_get(v.dict, key);
        if (item) return *out = *item, 0;
    } else if (sequence && tpl_integral(key)) {
        size_t n;
        if (tpl_length(t, v, &n)) return -1;
        int64_t i = tpl_as_int(key);
        if (i < 0) i += (int64_t)n;
        if (i < 0 || (uint64_t)i >= n) return no_item(t, v, key, out);
        if (v.kind == TPL_STR) return string_char(t, v, (size_t)i, out);
        *out = v.kind == TPL_RANGE ? tpl_int(v.range->start + i * v.range->step, true) : v.list->items[i];
        return 0;
    }
    if (key.kind == TPL_STR) {
        int rc = attribute(t, v, key.s, out);
        if (rc <= 0) return rc;
    }
    return no_item(t, v, key, out);
}

// start, step and the number of elements of a slice, as PySlice_AdjustIndices has them.
static int slice_bounds(tpl_interp *t, const tpl_value part[3], int64_t n, int64_t *start, int64_t *step,
                        int64_t *count) {
    int64_t at[3] = {0};
    for (int i = 0; i < 3; i++) {
        if (part[i].kind == TPL_NONE) continue;
        if (!tpl_integral(part[i]))
            return tpl_fail(t, "slice indices must be integers or None or have an __index__ method");
        at[i] = tpl_as_int(part[i]);
    }
    *step = part[2].kind == TPL_NONE ? 1 : at[2];
    if (!*step) return tpl_fail(t, "slice step cannot be zero");
    if (*step < -INT64_MAX) *step = -INT64_MAX;
    bool back = *step < 0;
    for (int i = 0; i < 2; i++) {
        if (part[i].kind == TPL_NONE)
            at[i] = (i == 0) != back ? 0 : n;
        else if (at[i] < 0)
            at[i] = at[i] + n < 0 ? (back ? -1 : 0) : at[i] + n;
        if (part[i].kind == TPL_NONE && back) at[i] = i == 0 ? n - 1 : -1;
        if (at[i] >= n) at[i] = back ? n - 1 : n;
    }
    *start = at[0];
    *count = 0;
    if (back && at[1] < at[0]) *count = (at[0] - at[1] - 1) / -*step + 1;
    if (!back && at[0] < at[1]) *count = (at[1] - at[0] - 1) / *step + 1;
    return 0;
}

static int slice_string(tpl_interp *t, tpl_value v, int64_t start, int64_t step, int64_t count, tpl_value *out) {
    if (v.s->chars == v.s->n && step == 1) return tpl_substr(t, v, count ? (size_t)start : 0, (size_t)count, out);
    tpl_builder b = {0};
    uint32_t *offsets = tpl_alloc(t, v.s->chars + 1, sizeof *offsets); // of each character
    if (!offsets) return -1;
    for (size_t i = 0, k = 0; i < v.s->n; i++)
        if (((unsigned char)v.s->p[i] & 0xC0) != 0x80) offsets[k++] = (uint32_t)i;
    offsets[v.s->chars] = (uint32_t)v.s->n;
    if (step == 1 && count) return tpl_substr(t, v, offsets[start], offsets[start + count] - offsets[start], out);
    for (int64_t i = 0, at = start; i < count; i++, at += i < count ? step : 0)
        if (tpl_add_sub(t, &b, v, offsets[at], offsets[at + 1] - offsets[at])) return -1;
    return tpl_built(t, &b, out);
}

int tpl_slice(tpl_interp *t, tpl_value v, tpl_value from, tpl_value to, tpl_value step, tpl_value *out) {
    const tpl_value part[3] = {from, to, step};
    if (v.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v.hint);
    if (v.kind == TPL_RANGE) return tpl_fail(t, "a slice of range() is not supported");
    size_t n;
    if (v.kind != TPL_STR && v.kind != TPL_LIST && v.kind != TPL_TUPLE)
        return tpl_fail(t, "'%s' object has no slices", tpl_type_name(v));
    if (tpl_length(t, v, &n)) return -1;
    int64_t start = 0, by = 1, count = 0;
    if (slice_bounds(t, part, (int64_t)n, &start, &by, &count)) return -1;
    if (v.kind == TPL_STR) return slice_string(t, v, start, by, count, out);
    if (by == 1) return tpl_list_value(t, v.kind, v.list->items + (count ? start : 0), (size_t)count, out);
    tpl_value *items = tpl_alloc(t, (size_t)count, sizeof *items);
    if (!items || tpl_charge(t, (size_t)count * 16)) return -1;
    for (int64_t i = 0; i < count; i++) items[i] = v.list->items[start + i * by];
    return tpl_list_value(t, v.kind, items, (size_t)count, out);
}

static int dict_method(tpl_interp *t, tpl_value self, int id, const tpl_args *args, tpl_value *out) {
    if (args->n_kw || (id ? args->n != 0 : args->n < 1 || args->n > 2))
        return tpl_fail(t, "dict.%s() was given the wrong arguments", dict_methods[id]);
    if (id == 0) {
        const tpl_value *v = tpl_dict_get(self.dict, args->pos[0]);
        if (args->pos[0].kind == TPL_LIST || args->pos[0].kind == TPL_DICT) return tpl_fail(t, "unhashable type");
        return *out = v ? *v : args->n == 2 ? args->pos[1] : tpl_none(), 0;
    }
    if (id == 4) return *out = self, 0;
    tpl_view *view = tpl_alloc(t, 1, sizeof *view);
    if (!view) return -1;
    *view = (tpl_view){id == 1 ? 'i' : id == 2 ? 'k' : 'v', self.dict};
    *out = (tpl_value){.kind = TPL_VIEW, .view = view};
    return 0;
}

static int list_method(tpl_interp *t, tpl_value self, int id, const tpl_args *args, tpl_value *out) {
    if (args->n_kw || args->n != (id == 2 ? 0 : 1))
        return tpl_fail(t, "list.%s() with these arguments is not supported", list_methods[id]);
    if (id == 2) return *out = self, 0;
    int64_t found = 0;
    for (size_t i = 0; i < self.list->n; i++) {
        bool equal;
        if (tpl_equal(t, self.list->items[i], args->pos[0], &equal)) return -1;
        if (equal && id) return *out = tpl_int((int64_t)i, true), 0;
        found += equal;
    }
    if (id) return tpl_fail(t, "the value is not in the list");
    return *out = tpl_int(found, true), 0;
}

int tpl_call_method(tpl_interp *t, const tpl_method *m, const tpl_args *args, tpl_value *out) {
    if (m->id == STRING_METHODS) {
        const tpl_value *pair = m->self.list->items;
        char name[24] = "";
        memcpy(name, pair[1].s->p, pair[1].s->n < sizeof name ? pair[1].s->n : sizeof name - 1);
        return tpl_string_method(t, pair[0], name, args, out);
    }
    if (m->self.kind == TPL_DICT) return dict_method(t, m->self, m->id, args, out);
    if (m->self.kind == TPL_LOOP) return tpl_loop_call(t, m->self.loop, m->id == 0, args, out);
    return list_method(t, m->self, m->id, args, out);
}
