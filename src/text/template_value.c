// The arena and the values: strings that know who wrote each of their bytes, lists, dicts that keep their order, and
// what Python says of them: truth, length, equality, order, membership.
#include "text/template_internal.h"
#include <stdio.h>
#include <stdlib.h>

enum { MAX_PROBES = 256 }; // of one key of a dict: keys that nobody chose to collide need a few dozen at most

void *tpl_arena_alloc(tpl_arena *a, size_t n) {
    if (n > a->limit) return NULL;
    n = (n + 15) & ~(size_t)15;
    tpl_chunk *c = a->chunks;
    if (!c || c->size - c->used < n) {
        size_t want = c ? c->size * 2 : 16 << 10;
        if (want > 4 << 20) want = 4 << 20;
        if (want < n) want = n;
        if (want > a->limit - a->total) want = n;
        if (want > a->limit - a->total) return NULL;
        tpl_chunk *fresh = upg_alloc(1, ((sizeof *fresh + 15) & ~(size_t)15) + want, NULL);
        if (!fresh) return NULL;
        *fresh = (tpl_chunk){.next = c, .size = want};
        a->total += want;
        a->chunks = c = fresh;
    }
    char *p = (char *)c + ((sizeof *c + 15) & ~(size_t)15) + c->used;
    c->used += n;
    return p;
}

void tpl_arena_free(tpl_arena *a) {
    for (tpl_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *a = (tpl_arena){0};
}

int tpl_fail(tpl_interp *t, const char *fmt, ...) {
    char message[sizeof(upg_error)];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    return upg_fail(t->e, "chat template line %d: %s", t->line, message);
}

void *tpl_alloc(tpl_interp *t, size_t count, size_t size) {
    size_t bytes;
    void *p = __builtin_mul_overflow(count, size, &bytes) ? NULL : tpl_arena_alloc(&t->arena, bytes ? bytes : 1);
    if (!p) tpl_fail(t, "the template takes more than %zu bytes of memory", t->limits.max_memory);
    return p;
}

int tpl_charge(tpl_interp *t, size_t bytes) {
    t->steps += 1 + bytes / 32;
    return t->steps > t->limits.max_steps
               ? tpl_fail(t, "the template takes more than %llu steps", (unsigned long long)t->limits.max_steps)
               : 0;
}

int tpl_enter(tpl_interp *t) {
    if (t->depth >= t->limits.max_depth) return tpl_fail(t, "nested more than %d deep", t->limits.max_depth);
    t->depth++;
    return 0;
}

size_t tpl_count_chars(const char *p, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)p[i] & 0xC0) != 0x80;
    return chars;
}

static int new_str(tpl_interp *t, const char *p, const uint8_t *mark, size_t n, bool trusted, tpl_value *out) {
    tpl_str *s = tpl_alloc(t, 1, sizeof *s);
    if (!s || tpl_charge(t, n)) return -1;
    *s = (tpl_str){p, mark, n, tpl_count_chars(p, n)};
    *out = (tpl_value){.kind = TPL_STR, .trusted = trusted, .s = s};
    return 0;
}

int tpl_text(tpl_interp *t, const char *p, size_t n, bool trusted, tpl_value *out) {
    return new_str(t, p, NULL, n, trusted, out);
}

int tpl_cstr(tpl_interp *t, const char *s, tpl_value *out) {
    size_t n = strlen(s);
    char *p = tpl_alloc(t, n + 1, 1);
    if (!p) return -1;
    memcpy(p, s, n);
    return tpl_text(t, p, n, true, out);
}

int tpl_substr(tpl_interp *t, tpl_value s, size_t at, size_t n, tpl_value *out) {
    return new_str(t, s.s->p + at, s.s->mark ? s.s->mark + at : NULL, n, s.trusted, out);
}

bool tpl_name_is(const tpl_str *s, const char *name) {
    size_t n = strlen(name);
    return s->n == n && !memcmp(s->p, name, n);
}

bool tpl_str_is(tpl_value v, const char *s) {
    return v.kind == TPL_STR && tpl_name_is(v.s, s);
}

int tpl_undefined_value(tpl_interp *t, tpl_value *out, const char *fmt, ...) {
    char hint[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(hint, sizeof hint, fmt, ap);
    va_end(ap);
    char *p = tpl_alloc(t, strlen(hint) + 1, 1);
    if (!p) return -1;
    memcpy(p, hint, strlen(hint));
    *out = (tpl_value){.kind = TPL_UNDEFINED, .trusted = true, .hint = p};
    return 0;
}

int tpl_list_value(tpl_interp *t, tpl_kind kind, const tpl_value *items, size_t n, tpl_value *out) {
    static const tpl_value nothing; // so that no list is at NULL, which must not be counted from
    if (!items) items = &nothing;
    if (kind == TPL_ITER) {
        tpl_iter *it = tpl_alloc(t, 1, sizeof *it);
        if (!it) return -1;
        *it = (tpl_iter){items, n, 0};
        *out = (tpl_value){.kind = TPL_ITER, .iter = it};
        return 0;
    }
    tpl_list *list = tpl_alloc(t, 1, sizeof *list);
    if (!list) return -1;
    *list = (tpl_list){items, n};
    *out = (tpl_value){.kind = (uint8_t)kind, .list = list};
    return 0;
}

static int builder_reserve(tpl_interp *t, tpl_builder *b, size_t n) {
    if (n > t->limits.max_output || b->n > t->limits.max_output - n)
        return tpl_fail(t, "the output is longer than %zu bytes", t->limits.max_output);
    if (tpl_charge(t, n)) return -1;
    if (b->n + n <= b->capacity) return 0;
    size_t capacity = b->capacity * 2 > b->n + n ? b->capacity * 2 : b->n + n + 32;
    char *p = tpl_alloc(t, capacity, 2);
    if (!p) return -1;
    uint8_t *mark = (uint8_t *)p + capacity;
    if (b->n) {
        memcpy(p, b->p, b->n);
        memcpy(mark, b->mark, b->n);
    }
    *b = (tpl_builder){p, mark, b->n, capacity};
    return 0;
}

int tpl_add(tpl_interp *t, tpl_builder *b, const char *p, size_t n, bool trusted) {
    if (builder_reserve(t, b, n)) return -1;
    if (!n) return 0;
    memcpy(b->p + b->n, p, n);
    memset(b->mark + b->n, trusted, n);
    b->n += n;
    return 0;
}

int tpl_add_sub(tpl_interp *t, tpl_builder *b, tpl_value s, size_t at, size_t n) {
    size_t start = b->n;
    if (tpl_add(t, b, s.s->p + at, n, s.trusted)) return -1;
    if (n && s.s->mark) memcpy(b->mark + start, s.s->mark + at, n);
    return 0;
}

int tpl_built(tpl_interp *t, const tpl_builder *b, tpl_value *out) {
    bool uniform = !b->n || !memchr(b->mark, !*b->mark, b->n);
    return new_str(t, b->p ? b->p : "", uniform ? NULL : b->mark, b->n, !b->n || *b->mark, out);
}

int tpl_dict_new(tpl_interp *t, tpl_value *out) {
    *out = (tpl_value){.kind = TPL_DICT, .dict = tpl_alloc(t, 1, sizeof *out->dict)};
    return out->dict ? 0 : -1;
}

bool tpl_hashable(tpl_value v) {
    return v.kind == TPL_STR || v.kind == TPL_NONE || tpl_number(v) || v.kind == TPL_BIG;
}

// Equality of keys: as Python's, numbers by value whatever their type.
static bool same_key(tpl_value a, tpl_value b) {
    if (tpl_number(a) && tpl_number(b)) {
        if (tpl_integral(a) && tpl_integral(b)) return tpl_as_int(a) == tpl_as_int(b);
        return tpl_as_double(a) == tpl_as_double(b);
    }
    if (a.kind != b.kind) return false;
    if (a.kind == TPL_NONE) return true;
    return a.s->n == b.s->n && !memcmp(a.s->p, b.s->p, a.s->n);
}

static uint64_t hash_key(tpl_value v) {
    uint64_t h = 0xCBF29CE484222325u;
    if (v.kind == TPL_STR || v.kind == TPL_BIG) {
        for (size_t i = 0; i < v.s->n; i++) h = (h ^ (unsigned char)v.s->p[i]) * 0x100000001B3u;
    } else if (tpl_number(v)) {
        double f = tpl_as_double(v) + 0.0; // an integer and the float it equals agree
        memcpy(&h, &f, sizeof h);
    }
    return (h ^ h >> 29) * 0x9E3779B97F4A7C15u >> 20;
}

static size_t find_slot(const tpl_dict *d, tpl_value key) {
    size_t i = hash_key(key) & (d->index_size - 1);
    while (d->index[i] && !same_key(d->keys[d->index[i] - 1], key)) i = (i + 1) & (d->index_size - 1);
    return i;
}

const tpl_value *tpl_dict_get(const tpl_dict *d, tpl_value key) {
    if (!tpl_hashable(key)) return NULL;
    if (d->index) {
        uint32_t at = d->index[find_slot(d, key)];
        return at ? &d->values[at - 1] : NULL;
    }
    for (size_t i = 0; i < d->n; i++)
        if (same_key(d->keys[i], key)) return &d->values[i];
    return NULL;
}

const tpl_value *tpl_dict_find(const tpl_dict *d, const char *key, size_t n) {
    tpl_str s = {.p = key, .n = n};
    return tpl_dict_get(d, (tpl_value){.kind = TPL_STR, .s = &s});
}

static int dict_grow(tpl_interp *t, tpl_dict *d) {
    size_t capacity = d->capacity ? d->capacity * 2 : 4;
    if (capacity > UINT32_MAX / 4) return tpl_fail(t, "a dict with too many keys");
    tpl_value *p = tpl_alloc(t, capacity, 2 * sizeof *p);
    if (!p) return -1;
    if (d->n) {
        memcpy(p, d->keys, d->n * sizeof *p);
        memcpy(p + capacity, d->values, d->n * sizeof *p);
    }
    d->keys = p;
    d->values = p + capacity;
    d->capacity = capacity;
    if (capacity <= 8) return 0;
    d->index_size = capacity * 2;
    d->index = tpl_alloc(t, d->index_size, sizeof *d->index);
    if (!d->index) return -1;
    for (size_t i = 0; i < d->n; i++) d->index[find_slot(d, d->keys[i])] = (uint32_t)i + 1;
    return 0;
}

int tpl_dict_set(tpl_interp *t, tpl_dict *d, tpl_value key, tpl_value v) {
    if (!tpl_hashable(key))
        return tpl_fail(t,
                        key.kind == TPL_TUPLE || key.kind == TPL_UNDEFINED ? "'%s' as a key is not supported"
                                                                           : "unhashable type: '%s'",
                        tpl_type_name(key));
    if (tpl_charge(t, 0)) return -1;
    const tpl_value *old = tpl_dict_get(d, key);
    if (old) {
        d->values[old - d->values] = v;
        return 0;
    }
    if (d->n == d->capacity && dict_grow(t, d)) return -1;
    if (d->index) {
        size_t slot = find_slot(d, key), probes = (slot - hash_key(key)) & (d->index_size - 1);
        if (probes > MAX_PROBES) return tpl_fail(t, "the keys of a dict are made to collide");
        d->index[slot] = (uint32_t)d->n + 1;
    }
    d->keys[d->n] = key;
    d->values[d->n++] = v;
    return 0;
}

const char *tpl_type_name(tpl_value v) {
    static const char *const names[] = {
        "Undefined", "NoneType",  "bool",        "int",   "float",    "int",
        "str",       "list",      "tuple",       "dict",  "range",    "view",
        "generator", "Namespace", "LoopContext", "Macro", "function", "builtin_function_or_method",
        "missing"};
    if (v.kind == TPL_VIEW)
        return v.view->what == 'k' ? "dict_keys" : v.view->what == 'v' ? "dict_values" : "dict_items";
    return names[v.kind];
}

bool tpl_true(tpl_value v) {
    switch (v.kind) {
    case TPL_UNDEFINED:
    case TPL_NONE: return false;
    case TPL_BOOL: return v.b;
    case TPL_INT: return v.i != 0;
    case TPL_FLOAT: return v.f != 0;
    case TPL_STR: return v.s->n > 0;
    case TPL_LIST:
    case TPL_TUPLE: return v.list->n > 0;
    case TPL_DICT: return v.dict->n > 0;
    case TPL_RANGE: return v.range->n > 0;
    case TPL_VIEW: return v.view->dict->n > 0;
    default: return true;
    }
}

int tpl_length(tpl_interp *t, tpl_value v, size_t *n) {
    switch (v.kind) {
    case TPL_UNDEFINED: return *n = 0, 0;
    case TPL_STR: return *n = v.s->chars, 0;
    case TPL_LIST:
    case TPL_TUPLE: return *n = v.list->n, 0;
    case TPL_DICT: return *n = v.dict->n, 0;
    case TPL_RANGE: return *n = v.range->n, 0;
    case TPL_VIEW: return *n = v.view->dict->n, 0;
    case TPL_LOOP: return tpl_fail(t, "the length of loop itself is not supported: use loop.length");
    default: return tpl_fail(t, "object of type '%s' has no len()", tpl_type_name(v));
    }
}

static int string_chars(tpl_interp *t, tpl_value s, tpl_value *items) {
    for (size_t at = 0, k = 0; at < s.s->n; k++) {
        size_t len = 1;
        while (at + len < s.s->n && ((unsigned char)s.s->p[at + len] & 0xC0) == 0x80) len++;
        if (tpl_substr(t, s, at, len, &items[k])) return -1;
        at += len;
    }
    return 0;
}

static int view_items(tpl_interp *t, const tpl_view *v, const tpl_value **items) {
    const tpl_dict *d = v->dict;
    if (v->what != 'i') {
        *items = v->what == 'k' ? d->keys : d->values;
        return 0;
    }
    tpl_value *pairs = tpl_alloc(t, d->n, sizeof *pairs);
    for (size_t i = 0; pairs && i < d->n; i++) {
        tpl_value *pair = tpl_alloc(t, 2, sizeof *pair);
        if (!pair) return -1;
        pair[0] = d->keys[i];
        pair[1] = d->values[i];
        if (tpl_list_value(t, TPL_TUPLE, pair, 2, &pairs[i])) return -1;
    }
    *items = pairs;
    return pairs ? 0 : -1;
}

int tpl_items(tpl_interp *t, tpl_value v, const tpl_value **items, size_t *n) {
    *items = NULL;
    *n = 0;
    if (v.kind == TPL_UNDEFINED) return 0;
    if (v.kind == TPL_LIST || v.kind == TPL_TUPLE) {
        *items = v.list->items;
        *n = v.list->n;
        return 0;
    }
    if (v.kind == TPL_ITER) {
        *items = v.iter->items + v.iter->at;
        *n = v.iter->n - v.iter->at;
        v.iter->at = v.iter->n;
        return 0;
    }
    if (v.kind == TPL_DICT) {
        *items = v.dict->keys;
        *n = v.dict->n;
        return 0;
    }
    if (v.kind == TPL_VIEW) {
        *n = v.view->dict->n;
        return tpl_charge(t, *n * 32) || view_items(t, v.view, items) ? -1 : 0;
    }
    if (v.kind != TPL_STR && v.kind != TPL_RANGE)
        return tpl_fail(t,
                        v.kind == TPL_LOOP ? "walking loop itself is not supported%.0s" : "'%s' object is not iterable",
                        tpl_type_name(v));
    *n = v.kind == TPL_STR ? v.s->chars : v.range->n;
    tpl_value *p = tpl_alloc(t, *n, sizeof *p);
    *items = p;
    if (!p || tpl_charge(t, *n * 8)) return -1;
    if (v.kind == TPL_STR) return string_chars(t, v, p);
    for (size_t i = 0; i < *n; i++) p[i] = tpl_int(v.range->start + (int64_t)i * v.range->step, true);
    return 0;
}

static int equal_items(tpl_interp *t, const tpl_value *a, const tpl_value *b, size_t n, bool *equal) {
    *equal = true;
    for (size_t i = 0; *equal && i < n; i++)
        if (tpl_equal(t, a[i], b[i], equal)) return -1;
    return 0;
}

static int equal_dicts(tpl_interp *t, const tpl_dict *a, const tpl_dict *b, bool *equal) {
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        const tpl_value *other = tpl_dict_get(b, a->keys[i]);
        *equal = other != NULL;
        if (other && tpl_equal(t, a->values[i], *other, equal)) return -1;
    }
    return 0;
}

int tpl_equal(tpl_interp *t, tpl_value a, tpl_value b, bool *equal) {
    *equal = false;
    if (tpl_charge(t, a.kind == TPL_STR ? a.s->n : 0)) return -1;
    if (tpl_hashable(a) && tpl_hashable(b)) {
        *equal = same_key(a, b);
        return 0;
    }
    if (a.kind != b.kind) return 0;
    if (tpl_enter(t)) return -1;
    int rc = 0;
    switch (a.kind) {
    case TPL_UNDEFINED: *equal = true; break;
    case TPL_LIST:
    case TPL_TUPLE:
        if (a.list->n == b.list->n) rc = equal_items(t, a.list->items, b.list->items, a.list->n, equal);
        break;
    case TPL_DICT: rc = equal_dicts(t, a.dict, b.dict, equal); break;
    case TPL_RANGE:
        *equal =
            a.range->n == b.range->n &&
            (!a.range->n || (a.range->start == b.range->start && (a.range->n == 1 || a.range->step == b.range->step)));
        break;
    case TPL_VIEW: rc = tpl_fail(t, "comparing dict views is not supported"); break;
    case TPL_METHOD: rc = tpl_fail(t, "comparing methods is not supported"); break;
    case TPL_FUNCTION: *equal = a.function == b.function; break;
    default: *equal = a.iter == b.iter; // identity, whichever pointer it is
    }
    tpl_leave(t);
    return rc;
}

static int order_lists(tpl_interp *t, const tpl_list *a, const tpl_list *b, const char *op, int *order) {
    size_t n = a->n < b->n ? a->n : b->n;
    for (size_t i = 0; i < n; i++) {
        bool equal;
        if (tpl_equal(t, a->items[i], b->items[i], &equal)) return -1;
        if (!equal) return tpl_order(t, a->items[i], b->items[i], op, order);
    }
    *order = (a->n > b->n) - (a->n < b->n);
    return 0;
}

int tpl_order(tpl_interp *t, tpl_value a, tpl_value b, const char *op, int *order) {
    if (tpl_charge(t, a.kind == TPL_STR ? a.s->n : 0)) return -1;
    if (a.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", a.hint);
    if (b.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", b.hint);
    if (tpl_integral(a) && tpl_integral(b)) {
        *order = (tpl_as_int(a) > tpl_as_int(b)) - (tpl_as_int(a) < tpl_as_int(b));
        return 0;
    }
    if (tpl_number(a) && tpl_number(b)) {
        double x = tpl_as_double(a), y = tpl_as_double(b);
        *order = x != x || y != y ? 2 : (x > y) - (x < y);
        return 0;
    }
    if (a.kind == TPL_STR && b.kind == TPL_STR) { // the order of UTF-8 bytes is that of characters
        size_t n = a.s->n < b.s->n ? a.s->n : b.s->n;
        int c = n ? memcmp(a.s->p, b.s->p, n) : 0;
        *order = c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
        return 0;
    }
    if (a.kind == b.kind && (a.kind == TPL_LIST || a.kind == TPL_TUPLE)) {
        if (tpl_enter(t)) return -1;
        int rc = order_lists(t, a.list, b.list, op, order);
        tpl_leave(t);
        return rc;
    }
    if (a.kind == TPL_BIG || b.kind == TPL_BIG || (a.kind == TPL_VIEW && b.kind == TPL_VIEW))
        return tpl_fail(t, "'%s' of such values is not supported", op);
    return tpl_fail(t, "'%s' not supported between instances of '%s' and '%s'", op, tpl_type_name(a), tpl_type_name(b));
}

size_t tpl_find_bytes(const char *p, size_t n, const char *what, size_t m) {
    if (!m) return 0;
    const char *at = m <= n ? memmem(p, n, what, m) : NULL;
    return at ? (size_t)(at - p) : SIZE_MAX;
}

int tpl_contains(tpl_interp *t, tpl_value c, tpl_value v, bool *found) {
    *found = false;
    if (c.kind == TPL_STR) {
        if (v.kind != TPL_STR)
            return tpl_fail(t, "'in <string>' requires string as left operand, not %s", tpl_type_name(v));
        if (tpl_charge(t, c.s->n)) return -1;
        *found = tpl_find_bytes(c.s->p, c.s->n, v.s->p, v.s->n) != SIZE_MAX;
        return 0;
    }
    if (c.kind == TPL_DICT || (c.kind == TPL_VIEW && c.view->what == 'k')) {
        const tpl_dict *d = c.kind == TPL_DICT ? c.dict : c.view->dict;
        if (!tpl_hashable(v) && v.kind != TPL_UNDEFINED && v.kind != TPL_TUPLE)
            return tpl_fail(t, "unhashable type: '%s'", tpl_type_name(v));
        *found = tpl_dict_get(d, v) != NULL;
        return 0;
    }
    if (c.kind == TPL_ITER) {
        while (!*found && c.iter->at < c.iter->n)
            if (tpl_equal(t, c.iter->items[c.iter->at++], v, found)) return -1;
        return 0;
    }
    if (c.kind == TPL_NONE || c.kind == TPL_BOOL || c.kind == TPL_INT || c.kind == TPL_FLOAT)
        return tpl_fail(t, "argument of type '%s' is not iterable", tpl_type_name(c));
    const tpl_value *items;
    size_t n;
    if (tpl_items(t, c, &items, &n)) return -1;
    for (size_t i = 0; !*found && i < n; i++)
        if (tpl_equal(t, items[i], v, found)) return -1;
    return 0;
}
