// The filters, each after jinja2's function of the same name. What a filter returns lazily there is computed at once
// here and handed out once, as an iterator.
#include "text/template_internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "text/unicode.h"

int tpl_bind(tpl_interp *t, const char *what, const tpl_args *args, const char *const *names, size_t n,
             tpl_value *out) {
    if (args->n > n) return tpl_fail(t, "%s: %zu arguments are too many", what, args->n);
    for (size_t i = 0; i < n; i++) out[i] = i < args->n ? args->pos[i] : tpl_missing();
    for (size_t k = 0; k < args->n_kw; k++) {
        size_t i = 0;
        while (i < n && !tpl_name_is(args->kw_names[k], names[i])) i++;
        if (i == n || tpl_given(out[i]))
            return tpl_fail(t, "%s: unexpected argument '%.*s'", what, (int)args->kw_names[k]->n, args->kw_names[k]->p);
        out[i] = args->kw[k];
    }
    return 0;
}

typedef enum filter_id {
    F_ABS,
    F_BATCH,
    F_CAPITALIZE,
    F_DEFAULT,
    F_DICTSORT,
    F_ESCAPE,
    F_FIRST,
    F_FLOAT,
    F_FORMAT,
    F_INDENT,
    F_INT,
    F_ITEMS,
    F_JOIN,
    F_LAST,
    F_LENGTH,
    F_LIST,
    F_LOWER,
    F_MAP,
    F_MAX,
    F_MIN,
    F_REJECT,
    F_REJECTATTR,
    F_REPLACE,
    F_REVERSE,
    F_ROUND,
    F_SAFE,
    F_SELECT,
    F_SELECTATTR,
    F_SORT,
    F_STRING,
    F_SUM,
    F_TITLE,
    F_TOJSON,
    F_TRIM,
    F_UNIQUE,
    F_UPPER,
    F_WORDCOUNT,
} filter_id;

static const struct {
    const char *name;
    filter_id id;
} filters[] = {{"abs", F_ABS},
               {"batch", F_BATCH},
               {"capitalize", F_CAPITALIZE},
               {"count", F_LENGTH},
               {"d", F_DEFAULT},
               {"default", F_DEFAULT},
               {"dictsort", F_DICTSORT},
               {"e", F_ESCAPE},
               {"escape", F_ESCAPE},
               {"first", F_FIRST},
               {"float", F_FLOAT},
               {"format", F_FORMAT},
               {"indent", F_INDENT},
               {"int", F_INT},
               {"items", F_ITEMS},
               {"join", F_JOIN},
               {"last", F_LAST},
               {"length", F_LENGTH},
               {"list", F_LIST},
               {"lower", F_LOWER},
               {"map", F_MAP},
               {"max", F_MAX},
               {"min", F_MIN},
               {"reject", F_REJECT},
               {"rejectattr", F_REJECTATTR},
               {"replace", F_REPLACE},
               {"reverse", F_REVERSE},
               {"round", F_ROUND},
               {"safe", F_SAFE},
               {"select", F_SELECT},
               {"selectattr", F_SELECTATTR},
               {"sort", F_SORT},
               {"string", F_STRING},
               {"sum", F_SUM},
               {"title", F_TITLE},
               {"tojson", F_TOJSON},
               {"trim", F_TRIM},
               {"unique", F_UNIQUE},
               {"upper", F_UPPER},
               {"wordcount", F_WORDCOUNT}};

int tpl_filter_id(const tpl_str *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (tpl_name_is(name, filters[i].name)) return (int)i;
    return -1;
}

// A path such as "function.name" or "a.0", followed from v. The default is used where a step finds nothing.
static int follow(tpl_interp *t, tpl_value path, tpl_value missing, tpl_value v, tpl_value *out) {
    *out = v;
    if (path.kind != TPL_STR) return tpl_getitem(t, v, path, out);
    const char *p = path.s->p, *end = p + path.s->n;
    for (bool more = true; more;) {
        const char *dot = end > p ? memchr(p, '.', (size_t)(end - p)) : NULL, *stop = dot ? dot : end;
        tpl_value key;
        int64_t number = 0;
        bool digits = stop > p && stop - p < 10;
        for (const char *q = p; digits && q < stop; q++) {
            digits = *q >= '0' && *q <= '9';
            number = number * 10 + (*q - '0');
        }
        if (digits)
            key = tpl_int(number, true);
        else if (tpl_text(t, p, (size_t)(stop - p), true, &key))
            return -1;
        if (tpl_getitem(t, *out, key, out)) return -1;
        if (out->kind == TPL_UNDEFINED && tpl_given(missing) && missing.kind != TPL_NONE) *out = missing;
        more = dot != NULL;
        p = stop + 1;
    }
    return 0;
}

static int fold_case(tpl_interp *t, bool sensitive, tpl_value *v) {
    return !sensitive && v->kind == TPL_STR ? tpl_case(t, *v, 'l', v) : 0;
}

static bool flag(tpl_value v) {
    return tpl_given(v) && tpl_true(v);
}

typedef struct sorter {
    tpl_interp *t;
    tpl_value *keys;   // [n]
    size_t *at, *temp; // [n] positions
    bool reverse;
} sorter;

// A stable merge sort, since what Python's sort gives is defined by stability alone.
static int merge_sort(sorter *s, size_t from, size_t to) {
    if (to - from < 2) return 0;
    size_t middle = from + (to - from) / 2, a = from, b = middle, n = from;
    if (merge_sort(s, from, middle) || merge_sort(s, middle, to)) return -1;
    while (a < middle && b < to) {
        int order; // of the later one before the earlier one: then it goes first
        const tpl_value *x = &s->keys[s->at[a]], *y = &s->keys[s->at[b]];
        if (tpl_order(s->t, s->reverse ? *x : *y, s->reverse ? *y : *x, "<", &order)) return -1;
        s->temp[n++] = order == -1 ? s->at[b++] : s->at[a++];
    }
    while (a < middle) s->temp[n++] = s->at[a++];
    while (b < to) s->temp[n++] = s->at[b++];
    memcpy(s->at + from, s->temp + from, (to - from) * sizeof *s->at);
    return 0;
}

static int sorted(tpl_interp *t, const tpl_value *items, tpl_value *keys, size_t n, bool reverse, tpl_value *out) {
    size_t *at = tpl_alloc(t, n, 2 * sizeof *at);
    tpl_value *result = tpl_alloc(t, n, sizeof *result);
    if (!at || !result) return -1;
    for (size_t i = 0; i < n; i++) at[i] = i;
    sorter s = {t, keys, at, at + n, reverse};
    if (merge_sort(&s, 0, n)) return -1;
    for (size_t i = 0; i < n; i++) result[i] = items[at[i]];
    return tpl_list_value(t, TPL_LIST, result, n, out);
}

// The key to sort v by: an attribute, or a list of those that commas separate.
static int sort_key(tpl_interp *t, tpl_value attribute, bool sensitive, tpl_value v, tpl_value *out) {
    if (!tpl_given(attribute) || attribute.kind == TPL_NONE) return *out = v, fold_case(t, sensitive, out);
    if (attribute.kind != TPL_STR || !memchr(attribute.s->p, ',', attribute.s->n))
        return follow(t, attribute, tpl_missing(), v, out) || fold_case(t, sensitive, out) ? -1 : 0;
    size_t n = 1, from = 0, k = 0;
    for (size_t i = 0; i < attribute.s->n; i++) n += attribute.s->p[i] == ',';
    tpl_value *keys = tpl_alloc(t, n, sizeof *keys);
    for (size_t i = 0; keys && i <= attribute.s->n; i++) {
        if (i < attribute.s->n && attribute.s->p[i] != ',') continue;
        tpl_value one;
        if (tpl_substr(t, attribute, from, i - from, &one)) return -1;
        if (follow(t, one, tpl_missing(), v, &keys[k]) || fold_case(t, sensitive, &keys[k++])) return -1;
        from = i + 1;
    }
    return keys ? tpl_list_value(t, TPL_LIST, keys, n, out) : -1;
}

static int sort_filter(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "reverse", "case_sensitive", "attribute"};
    tpl_value v[4];
    const tpl_value *items;
    size_t n;
    if (tpl_bind(t, "sort", args, names, 4, v) || tpl_items(t, v[0], &items, &n)) return -1;
    tpl_value *keys = tpl_alloc(t, n, sizeof *keys);
    for (size_t i = 0; keys && i < n; i++)
        if (sort_key(t, v[3], flag(v[2]), items[i], &keys[i])) return -1;
    return keys ? sorted(t, items, keys, n, flag(v[1]), out) : -1;
}

static int dictsort(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "case_sensitive", "by", "reverse"};
    tpl_value v[4];
    if (tpl_bind(t, "dictsort", args, names, 4, v)) return -1;
    if (v[0].kind != TPL_DICT) return tpl_fail(t, "dictsort wants a dict");
    bool by_value = tpl_given(v[2]) && tpl_str_is(v[2], "value");
    if (tpl_given(v[2]) && !by_value && !tpl_str_is(v[2], "key"))
        return tpl_fail(t, "You can only sort by either \"key\" or \"value\"");
    const tpl_dict *d = v[0].dict;
    tpl_view view = {'i', d};
    const tpl_value *items;
    size_t n;
    tpl_value *keys = tpl_alloc(t, d->n, sizeof *keys);
    if (!keys || tpl_items(t, (tpl_value){.kind = TPL_VIEW, .view = &view}, &items, &n)) return -1;
    for (size_t i = 0; i < n; i++) {
        keys[i] = by_value ? d->values[i] : d->keys[i];
        if (fold_case(t, flag(v[1]), &keys[i])) return -1;
    }
    return sorted(t, items, keys, n, flag(v[3]), out);
}

static int unique(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "case_sensitive", "attribute"};
    tpl_value v[3], seen, key;
    const tpl_value *items;
    size_t n, m = 0;
    if (tpl_bind(t, "unique", args, names, 3, v) || tpl_items(t, v[0], &items, &n) || tpl_dict_new(t, &seen)) return -1;
    tpl_value *result = tpl_alloc(t, n, sizeof *result);
    for (size_t i = 0; result && i < n; i++) {
        key = items[i];
        if (tpl_given(v[2]) && v[2].kind != TPL_NONE && follow(t, v[2], tpl_missing(), key, &key)) return -1;
        if (fold_case(t, flag(v[1]), &key)) return -1;
        size_t before = seen.dict->n;
        if (tpl_dict_set(t, seen.dict, key, tpl_none())) return -1;
        if (seen.dict->n > before) result[m++] = items[i];
    }
    return result ? tpl_list_value(t, TPL_ITER, result, m, out) : -1;
}

static int extreme(tpl_interp *t, bool max, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "case_sensitive", "attribute"};
    tpl_value v[3], best, key;
    const tpl_value *items;
    size_t n;
    if (tpl_bind(t, max ? "max" : "min", args, names, 3, v) || tpl_items(t, v[0], &items, &n)) return -1;
    if (!n) return tpl_undefined_value(t, out, "No aggregated item, sequence was empty.");
    for (size_t i = 0; i < n; i++) {
        int order = 1;
        key = items[i];
        if (tpl_given(v[2]) && v[2].kind != TPL_NONE && follow(t, v[2], tpl_missing(), key, &key)) return -1;
        if (fold_case(t, flag(v[1]), &key)) return -1;
        if (i && tpl_order(t, key, best, max ? ">" : "<", &order)) return -1;
        if (i && order != (max ? 1 : -1)) continue;
        best = key;
        *out = items[i];
    }
    return 0;
}

static int sum(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"iterable", "attribute", "start"};
    tpl_value v[3], total, item;
    const tpl_value *items;
    size_t n;
    if (tpl_bind(t, "sum", args, names, 3, v) || tpl_items(t, v[0], &items, &n)) return -1;
    total = tpl_given(v[2]) ? v[2] : tpl_int(0, true);
    if (total.kind == TPL_STR) return tpl_fail(t, "sum() can't sum strings");
    for (size_t i = 0; i < n; i++) {
        item = items[i];
        if (tpl_given(v[1]) && v[1].kind != TPL_NONE && follow(t, v[1], tpl_missing(), item, &item)) return -1;
        if (tpl_binary(t, '+', total, item, &total)) return -1;
    }
    return *out = total, 0;
}

static int map_filter(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    const tpl_value *items;
    size_t n;
    bool by_attribute = args->n == 1;
    tpl_value attribute = tpl_missing(), missing = tpl_missing();
    int id = -1;
    for (size_t i = 0; by_attribute && i < args->n_kw; i++) {
        if (tpl_name_is(args->kw_names[i], "attribute"))
            attribute = args->kw[i];
        else if (tpl_name_is(args->kw_names[i], "default"))
            missing = args->kw[i];
        else
            return tpl_fail(t, "map: an unexpected argument");
    }
    if (!tpl_true(args->pos[0])) return tpl_list_value(t, TPL_ITER, NULL, 0, out);
    if (by_attribute && !tpl_given(attribute)) return tpl_fail(t, "map requires a filter argument");
    if (!by_attribute && (args->pos[1].kind != TPL_STR || (id = tpl_filter_id(args->pos[1].s)) < 0))
        return tpl_fail(t, "map: this filter is not supported");
    if (tpl_items(t, args->pos[0], &items, &n)) return -1;
    tpl_value *result = tpl_alloc(t, n, sizeof *result);
    tpl_value *pos = by_attribute ? NULL : tpl_alloc(t, args->n - 1, sizeof *pos);
    if (!result || (!by_attribute && !pos)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (by_attribute) {
            if (follow(t, attribute, missing, items[i], &result[i])) return -1;
            continue;
        }
        pos[0] = items[i];
        memcpy(pos + 1, args->pos + 2, (args->n - 2) * sizeof *pos);
        tpl_args one = {pos, args->n - 1, args->kw, args->kw_names, args->n_kw};
        if (tpl_filter(t, id, &one, &result[i])) return -1;
    }
    return tpl_list_value(t, TPL_ITER, result, n, out);
}

static int select_filter(tpl_interp *t, bool by_attribute, bool wanted, const tpl_args *args, tpl_value *out) {
    const tpl_value *items;
    size_t n, m = 0, first = by_attribute ? 2 : 1;
    int id = -1;
    if (args->n_kw) return tpl_fail(t, "select: keyword arguments are not supported");
    if (!tpl_true(args->pos[0])) return tpl_list_value(t, TPL_ITER, NULL, 0, out);
    if (by_attribute && args->n < 2) return tpl_fail(t, "Missing parameter for attribute name");
    if (args->n > first && (args->pos[first].kind != TPL_STR || (id = tpl_test_id(args->pos[first].s)) < 0))
        return tpl_fail(t, "select: this test is not supported");
    if (tpl_items(t, args->pos[0], &items, &n)) return -1;
    tpl_value *result = tpl_alloc(t, n, sizeof *result), *pos = tpl_alloc(t, args->n, sizeof *pos);
    if (!result || !pos) return -1;
    for (size_t i = 0; i < n; i++) {
        bool pass;
        pos[0] = items[i];
        if (tpl_charge(t, 0)) return -1;
        if (by_attribute && follow(t, args->pos[1], tpl_missing(), items[i], &pos[0])) return -1;
        size_t rest = id < 0 ? 0 : args->n - first - 1;
        if (rest) memcpy(pos + 1, args->pos + first + 1, rest * sizeof *pos);
        tpl_args one = {pos, 1 + rest, NULL, NULL, 0};
        if (id < 0)
            pass = tpl_true(pos[0]);
        else if (tpl_test(t, id, &one, &pass))
            return -1;
        if (pass == wanted) result[m++] = items[i];
    }
    return tpl_list_value(t, TPL_ITER, result, m, out);
}

static int batch(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "linecount", "fill_with"};
    tpl_value v[3];
    const tpl_value *items;
    size_t n;
    if (tpl_bind(t, "batch", args, names, 3, v) || tpl_items(t, v[0], &items, &n)) return -1;
    if (!tpl_given(v[1]) || !tpl_integral(v[1]) || tpl_as_int(v[1]) < 1 || tpl_as_int(v[1]) > 1 << 20)
        return tpl_fail(t, "batch wants the number of items of a batch");
    size_t width = (size_t)tpl_as_int(v[1]), rows = (n + width - 1) / width;
    bool fill = tpl_given(v[2]) && v[2].kind != TPL_NONE;
    tpl_value *result = tpl_alloc(t, rows, sizeof *result), *all = tpl_alloc(t, rows * width, sizeof *all);
    if (!result || !all) return -1;
    for (size_t i = 0; i < rows * width; i++) all[i] = i < n ? items[i] : v[2];
    for (size_t i = 0; i < rows; i++) {
        size_t len = fill || (i + 1) * width <= n ? width : n - i * width;
        if (tpl_list_value(t, TPL_LIST, all + i * width, len, &result[i])) return -1;
    }
    return tpl_list_value(t, TPL_ITER, result, rows, out);
}

static int first_or_last(tpl_interp *t, bool last, tpl_value v, tpl_value *out) {
    const tpl_value *items;
    size_t n;
    if (v.kind == TPL_ITER) {
        if (last) return tpl_fail(t, "'generator' object is not reversible");
        if (v.iter->at < v.iter->n) return *out = v.iter->items[v.iter->at++], 0;
        return tpl_undefined_value(t, out, "No first item, sequence was empty.");
    }
    if (last && v.kind == TPL_UNDEFINED) return tpl_undefined_value(t, out, "No last item, sequence was empty.");
    if (tpl_items(t, v, &items, &n)) return -1;
    if (!n) return tpl_undefined_value(t, out, "No %s item, sequence was empty.", last ? "last" : "first");
    return *out = items[last ? n - 1 : 0], 0;
}

static int reverse(tpl_interp *t, tpl_value v, tpl_value *out) {
    if (v.kind == TPL_STR) return tpl_slice(t, v, tpl_none(), tpl_none(), tpl_int(-1, true), out);
    const tpl_value *items;
    size_t n;
    tpl_kind kind = v.kind == TPL_ITER ? TPL_LIST : TPL_ITER;
    if (tpl_items(t, v, &items, &n)) return -1;
    tpl_value *result = tpl_alloc(t, n, sizeof *result);
    if (!result || tpl_charge(t, n * 16)) return -1;
    for (size_t i = 0; i < n; i++) result[i] = items[n - 1 - i];
    return tpl_list_value(t, kind, result, n, out);
}

static int join(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "d", "attribute"};
    tpl_value v[3], separator;
    const tpl_value *items;
    size_t n;
    if (tpl_bind(t, "join", args, names, 3, v) || tpl_items(t, v[0], &items, &n)) return -1;
    if (tpl_given(v[1]) ? tpl_str_of(t, v[1], &separator) : tpl_cstr(t, "", &separator)) return -1;
    if (tpl_given(v[2]) && v[2].kind != TPL_NONE) {
        tpl_value *found = tpl_alloc(t, n, sizeof *found);
        for (size_t i = 0; found && i < n; i++)
            if (follow(t, v[2], tpl_missing(), items[i], &found[i])) return -1;
        if (!(items = found)) return -1;
    }
    return tpl_join(t, separator, items, n, true, out);
}

static int indent(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"s", "width", "first", "blank"};
    tpl_value v[4], lines, by, no_args;
    if (tpl_bind(t, "indent", args, names, 4, v)) return -1;
    if (v[0].kind != TPL_STR) return tpl_fail(t, "indent wants a string");
    int64_t width = tpl_given(v[1]) && tpl_integral(v[1]) ? tpl_as_int(v[1]) : 4;
    static const char spaces[] = "                                                                ";
    if (width > 64) return tpl_fail(t, "indent: a width of more than 64 is not supported");
    if (tpl_given(v[1]) && v[1].kind == TPL_STR)
        by = v[1];
    else if (tpl_given(v[1]) && !tpl_integral(v[1]))
        return tpl_fail(t, "indent: the width must be a number or a string");
    else if (tpl_text(t, spaces, width > 0 ? (size_t)width : 0, true, &by))
        return -1;
    tpl_builder b = {0}, text = {0};
    tpl_args none = {0};
    if (tpl_add_str(t, &text, v[0]) || tpl_add(t, &text, "\n", 1, true) || tpl_built(t, &text, &no_args)) return -1;
    if (tpl_string_method(t, no_args, "splitlines", &none, &lines)) return -1;
    for (size_t i = 0; i < lines.list->n; i++) {
        tpl_value line = lines.list->items[i];
        if (i && tpl_add(t, &b, "\n", 1, true)) return -1;
        if ((i ? line.s->n || flag(v[3]) : flag(v[2])) && tpl_add_str(t, &b, by)) return -1;
        if (tpl_add_str(t, &b, line)) return -1;
    }
    return tpl_built(t, &b, out);
}

// A number as Python's int() and float() read it: white space around, underscores between digits.
static bool clean_number(tpl_interp *t, tpl_value s, char buf[64], bool *failed) {
    tpl_value v;
    *failed = tpl_strip(t, s, tpl_none(), true, true, &v) != 0;
    size_t m = 0;
    for (size_t i = 0; !*failed && i < v.s->n; i++) {
        char c = v.s->p[i];
        bool digit = i && buf[m ? m - 1 : 0] >= '0' && buf[m ? m - 1 : 0] <= '9' && m;
        if (c == '_' && digit && i + 1 < v.s->n && v.s->p[i + 1] >= '0' && v.s->p[i + 1] <= '9') continue;
        if (m == 62 || !c || !strchr("0123456789+-.eEinfatyINFATY", c)) return false;
        buf[m++] = c;
    }
    buf[m] = 0;
    return !*failed && m > 0;
}

static int to_number(tpl_interp *t, bool integer, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "default", "base"};
    tpl_value v[3];
    char buf[64], *end;
    bool failed;
    if (tpl_bind(t, integer ? "int" : "float", args, names, integer ? 3 : 2, v)) return -1;
    if (integer && tpl_given(v[2]) && !(v[2].kind == TPL_INT && v[2].i == 10))
        return tpl_fail(t, "int: a base other than 10 is not supported");
    tpl_value fallback = tpl_given(v[1]) ? v[1] : integer ? tpl_int(0, true) : tpl_float(0, true);
    if (v[0].kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v[0].hint);
    if (v[0].kind == TPL_BIG)
        return integer ? (*out = v[0], 0) : tpl_fail(t, "float of such an integer is not supported");
    double f = 0;
    bool known = tpl_number(v[0]);
    if (known) {
        if (integer && tpl_integral(v[0])) return *out = tpl_int(tpl_as_int(v[0]), v[0].trusted), 0;
        f = tpl_as_double(v[0]);
    } else if (v[0].kind == TPL_STR && clean_number(t, v[0], buf, &failed)) {
        size_t sign = *buf == '-' || *buf == '+';
        if (integer && buf[sign] && strspn(buf + sign, "0123456789") == strlen(buf + sign)) {
            if (strlen(buf + sign) > 18) return tpl_fail(t, "int: an integer of so many digits is not supported");
            return *out = tpl_int(strtoll(buf, NULL, 10), v[0].trusted && !v[0].s->mark), 0;
        }
        f = strtod(buf, &end);
        known = !*end && !strchr(buf, '(');
    } else if (v[0].kind == TPL_STR && failed) {
        return -1;
    }
    if (!known || (integer && !isfinite(f))) return *out = fallback, 0;
    bool trusted = v[0].trusted && !(v[0].kind == TPL_STR && v[0].s->mark);
    if (!integer) return *out = tpl_float(f, trusted), 0;
    if (!(fabs(f) < 9e18)) return tpl_fail(t, "an integer beyond 64 bits is not supported");
    return *out = tpl_int((int64_t)f, trusted), 0;
}

static int round_filter(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "precision", "method"};
    tpl_value v[3];
    if (tpl_bind(t, "round", args, names, 3, v)) return -1;
    if (v[0].kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v[0].hint);
    bool ceil_it = tpl_given(v[2]) && tpl_str_is(v[2], "ceil"), floor_it = tpl_given(v[2]) && tpl_str_is(v[2], "floor");
    if (tpl_given(v[2]) && !ceil_it && !floor_it && !tpl_str_is(v[2], "common"))
        return tpl_fail(t, "method must be common, ceil or floor");
    if (!tpl_number(v[0])) return tpl_fail(t, "round wants a number, not %s", tpl_type_name(v[0]));
    if (tpl_given(v[1]) && (!tpl_integral(v[1]) || tpl_as_int(v[1]) < 0 || tpl_as_int(v[1]) > 15))
        return tpl_fail(t, "round: a precision other than 0 to 15 is not supported");
    int precision = tpl_given(v[1]) ? (int)tpl_as_int(v[1]) : 0;
    double f = tpl_as_double(v[0]);
    if (ceil_it || floor_it) {
        double scale = 1;
        for (int i = 0; i < precision; i++) scale *= 10;
        if (!(fabs(f * scale) < 9e18)) return tpl_fail(t, "round: this number is not supported");
        double r = ceil_it ? ceil(f * scale) : floor(f * scale);
        return *out = tpl_float((r + 0.0) / scale, v[0].trusted), 0;
    }
    if (tpl_integral(v[0])) return *out = tpl_int(tpl_as_int(v[0]), v[0].trusted), 0;
    char buf[400];
    if (!isfinite(f)) return *out = v[0], 0;
    snprintf(buf, sizeof buf, "%.*f", precision, f);
    return *out = tpl_float(strtod(buf, NULL), v[0].trusted), 0;
}

static int default_filter(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "default_value", "boolean"};
    tpl_value v[3];
    if (tpl_bind(t, "default", args, names, 3, v)) return -1;
    bool use = v[0].kind == TPL_UNDEFINED || (flag(v[2]) && !tpl_true(v[0]));
    if (!use || tpl_given(v[1])) return *out = use ? v[1] : v[0], 0;
    return tpl_cstr(t, "", out);
}

static int wordcount(tpl_interp *t, tpl_value v, tpl_value *out) {
    int64_t n = 0;
    bool inside = false;
    if (tpl_str_of(t, v, &v)) return -1;
    for (size_t i = 0; i < v.s->n;) {
        uint32_t cp;
        i += (size_t)tpl_decode(v.s->p + i, v.s->n - i, &cp);
        bool word = upg_char_class_of(cp) & (UPG_CHAR_LETTER | UPG_CHAR_NUMBER) || cp == '_';
        n += word && !inside;
        inside = word;
    }
    return *out = tpl_int(n, true), 0;
}

static int replace(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"s", "old", "new", "count"};
    tpl_value v[4];
    if (tpl_bind(t, "replace", args, names, 4, v)) return -1;
    if (!tpl_given(v[1]) || !tpl_given(v[2])) return tpl_fail(t, "replace wants two strings");
    bool all = !tpl_given(v[3]) || v[3].kind == TPL_NONE;
    if (!all && !tpl_integral(v[3])) return tpl_fail(t, "replace: the count must be an integer");
    for (int i = 0; i < 3; i++)
        if (tpl_str_of(t, v[i], &v[i])) return -1;
    return tpl_replace(t, v[0], v[1], v[2], all ? -1 : tpl_as_int(v[3]), out);
}

static int trim(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"value", "chars"};
    tpl_value v[2];
    if (tpl_bind(t, "trim", args, names, 2, v) || tpl_str_of(t, v[0], &v[0])) return -1;
    return tpl_strip(t, v[0], v[1], true, true, out);
}

static int format_filter(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    tpl_value format, list;
    if (args->n_kw) return tpl_fail(t, "format with keyword arguments is not supported");
    if (tpl_str_of(t, args->pos[0], &format)) return -1;
    if (tpl_list_value(t, TPL_TUPLE, args->pos + 1, args->n - 1, &list)) return -1;
    return tpl_percent(t, format, list, out);
}

static int absolute(tpl_interp *t, tpl_value v, tpl_value *out) {
    if (v.kind == TPL_UNDEFINED || !tpl_number(v))
        return tpl_fail(t, "bad operand type for abs(): '%s'", tpl_type_name(v));
    if (v.kind == TPL_FLOAT) return *out = tpl_float(fabs(v.f), v.trusted), 0;
    if (tpl_as_int(v) >= 0) return *out = tpl_int(tpl_as_int(v), v.trusted), 0;
    return tpl_binary(t, '-', tpl_int(0, true), v, out);
}

static int items_filter(tpl_interp *t, tpl_value v, tpl_value *out) {
    const tpl_value *items = NULL;
    size_t n = 0;
    if (v.kind != TPL_UNDEFINED && v.kind != TPL_DICT) return tpl_fail(t, "Can only get item pairs from a mapping.");
    tpl_view view = {'i', v.dict};
    if (v.kind == TPL_DICT && tpl_items(t, (tpl_value){.kind = TPL_VIEW, .view = &view}, &items, &n)) return -1;
    return tpl_list_value(t, TPL_ITER, items, n, out);
}

static int list_filter(tpl_interp *t, tpl_value v, tpl_value *out) {
    const tpl_value *items;
    size_t n;
    return tpl_items(t, v, &items, &n) ? -1 : tpl_list_value(t, TPL_LIST, items, n, out);
}

static int string_case(tpl_interp *t, char how, tpl_value v, tpl_value *out) {
    return tpl_str_of(t, v, &v) ? -1 : tpl_case(t, v, how, out);
}

// Filters of the input alone.
static int simple(tpl_interp *t, filter_id id, tpl_value v, tpl_value *out) {
    size_t n;
    switch (id) {
    case F_ABS: return absolute(t, v, out);
    case F_CAPITALIZE: return string_case(t, 'c', v, out);
    case F_TITLE: return string_case(t, 'T', v, out);
    case F_UPPER: return string_case(t, 'u', v, out);
    case F_LOWER: return string_case(t, 'l', v, out);
    case F_ESCAPE:
        if (v.kind == TPL_STR && v.markup) return *out = v, 0;
        return tpl_str_of(t, v, &v) ? -1 : tpl_escape(t, v, out);
    case F_SAFE:
        if (tpl_str_of(t, v, out)) return -1;
        out->markup = true;
        return 0;
    case F_FIRST:
    case F_LAST: return first_or_last(t, id == F_LAST, v, out);
    case F_ITEMS: return items_filter(t, v, out);
    case F_LENGTH:
        if (tpl_length(t, v, &n)) return -1;
        return *out = tpl_int((int64_t)n, true), 0;
    case F_LIST: return list_filter(t, v, out);
    case F_REVERSE: return reverse(t, v, out);
    case F_STRING: return tpl_str_of(t, v, out);
    default: return wordcount(t, v, out);
    }
}

static bool is_simple(filter_id id) {
    switch (id) {
    case F_ABS:
    case F_CAPITALIZE:
    case F_TITLE:
    case F_UPPER:
    case F_LOWER:
    case F_ESCAPE:
    case F_SAFE:
    case F_FIRST:
    case F_LAST:
    case F_ITEMS:
    case F_LENGTH:
    case F_LIST:
    case F_REVERSE:
    case F_STRING:
    case F_WORDCOUNT: return true;
    default: return false;
    }
}

static int apply(tpl_interp *t, filter_id id, const tpl_args *args, tpl_value *out) {
    switch (id) {
    case F_BATCH: return batch(t, args, out);
    case F_DEFAULT: return default_filter(t, args, out);
    case F_DICTSORT: return dictsort(t, args, out);
    case F_FLOAT:
    case F_INT: return to_number(t, id == F_INT, args, out);
    case F_FORMAT: return format_filter(t, args, out);
    case F_INDENT: return indent(t, args, out);
    case F_JOIN: return join(t, args, out);
    case F_MAP: return map_filter(t, args, out);
    case F_MAX:
    case F_MIN: return extreme(t, id == F_MAX, args, out);
    case F_REJECT:
    case F_SELECT: return select_filter(t, false, id == F_SELECT, args, out);
    case F_REJECTATTR:
    case F_SELECTATTR: return select_filter(t, true, id == F_SELECTATTR, args, out);
    case F_REPLACE: return replace(t, args, out);
    case F_ROUND: return round_filter(t, args, out);
    case F_SORT: return sort_filter(t, args, out);
    case F_SUM: return sum(t, args, out);
    case F_TOJSON: return tpl_tojson(t, args, out);
    case F_TRIM: return trim(t, args, out);
    default: return unique(t, args, out);
    }
}

int tpl_filter(tpl_interp *t, int index, const tpl_args *args, tpl_value *out) {
    filter_id id = filters[index].id;
    tpl_value v = args->pos[0];
    if (v.kind == TPL_STR && v.markup && id != F_ESCAPE && id != F_SAFE && id != F_STRING && id != F_TRIM &&
        id != F_LENGTH && id != F_DEFAULT)
        return tpl_fail(t, "filter '%s' of the result of 'safe' or 'escape' is not supported", filters[index].name);
    if (is_simple(id) && (args->n != 1 || args->n_kw))
        return tpl_fail(t, "filter '%s' takes no such arguments", filters[index].name);
    if (tpl_charge(t, v.kind == TPL_STR ? v.s->n : 0) || tpl_enter(t)) return -1;
    int rc = is_simple(id) ? simple(t, id, v, out) : apply(t, id, args, out);
    tpl_leave(t);
    return rc;
}
