// Values as text: Python's str() and repr(), JSON as json.dumps writes it, the '%' operator, str.format and strftime.
#include "text/template_internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <utf8proc.h>

// The fewest digits that read back as the same number, laid out as Python does.
size_t tpl_float_repr(double f, char out[40]) {
    if (isnan(f)) return (size_t)snprintf(out, 40, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 40, f < 0 ? "-inf" : "inf");
    char text[40], digits[24];
    int precision = 0, n = 0;
    do snprintf(text, sizeof text, "%.*e", precision, f);
    while (strtod(text, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(text, 'e') + 1);
    for (const char *p = text; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[n++] = *p;
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16) {
        if (n == 1) return (size_t)snprintf(out, 40, "%s%ce%+03d", sign, digits[0], exponent);
        return (size_t)snprintf(out, 40, "%s%c.%.*se%+03d", sign, digits[0], n - 1, digits + 1, exponent);
    }
    if (exponent < 0) return (size_t)snprintf(out, 40, "%s0.%.*s%.*s", sign, -exponent - 1, "0000", n, digits);
    if (n <= exponent + 1)
        return (size_t)snprintf(out, 40, "%s%.*s%.*s.0", sign, n, digits, exponent + 1 - n, "0000000000000000");
    return (size_t)snprintf(out, 40, "%s%.*s.%.*s", sign, exponent + 1, digits, n - exponent - 1,
                            digits + exponent + 1);
}

// Numbers, booleans and none; false for what is not one. buf is not ended by a NUL.
static bool scalar_text(tpl_value v, char buf[40], size_t *n) {
    if (v.kind == TPL_NONE)
        *n = (size_t)snprintf(buf, 40, "None");
    else if (v.kind == TPL_BOOL)
        *n = (size_t)snprintf(buf, 40, v.b ? "True" : "False");
    else if (v.kind == TPL_INT)
        *n = (size_t)snprintf(buf, 40, "%lld", (long long)v.i);
    else if (v.kind == TPL_FLOAT)
        *n = tpl_float_repr(v.f, buf);
    else
        return false;
    return true;
}

int tpl_str_of(tpl_interp *t, tpl_value v, tpl_value *out) {
    char buf[40];
    size_t n;
    if (v.kind == TPL_STR) return *out = v, 0;
    if (v.kind == TPL_UNDEFINED) return tpl_text(t, "", 0, true, out);
    tpl_builder b = {0};
    int rc = scalar_text(v, buf, &n) ? tpl_add(t, &b, buf, n, v.trusted) : tpl_add_repr(t, &b, v);
    return rc ? -1 : tpl_built(t, &b, out);
}

static int add_text(tpl_interp *t, tpl_builder *b, const char *s) {
    return tpl_add(t, b, s, strlen(s), false);
}

static bool mark_at(tpl_value s, size_t i) {
    return s.s->mark ? s.s->mark[i] : s.trusted;
}

static bool printable(uint32_t cp) {
    if (cp < 128) return cp >= 32 && cp != 127;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    default: return true;
    }
}

static size_t python_escape(uint32_t cp, char quote, char out[16]) {
    if (cp == (unsigned char)quote || cp == '\\') return (size_t)snprintf(out, 16, "\\%c", (char)cp);
    if (cp == '\n' || cp == '\r' || cp == '\t')
        return (size_t)snprintf(out, 16, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
    if (printable(cp)) return 0;
    return (size_t)snprintf(out, 16, cp < 256 ? "\\x%02x" : cp < 65536 ? "\\u%04x" : "\\U%08x", cp);
}

static size_t json_escape(uint32_t cp, bool ascii, char out[16]) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *p = cp && cp < 128 ? strchr(from, (int)cp) : NULL;
    if (p) return (size_t)snprintf(out, 16, "\\%c", to[p - from]);
    if (cp >= 32 && (cp < 128 || !ascii)) return 0;
    if (cp < 65536) return (size_t)snprintf(out, 16, "\\u%04x", cp);
    return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 1023));
}

// The string in quotes. json: 0 for Python's, 1 for JSON, 2 for JSON in ASCII.
static int add_quoted(tpl_interp *t, tpl_builder *b, tpl_value v, int json) {
    const char *p = v.s->p;
    size_t n = v.s->n, from = 0;
    char quote = json || (n && memchr(p, '\'', n) && !memchr(p, '"', n)) ? '"' : '\'', escape[16];
    if (tpl_add(t, b, &quote, 1, false)) return -1;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)tpl_decode(p + i, n - i, &cp);
        size_t m = json ? json_escape(cp, json == 2, escape) : python_escape(cp, quote, escape);
        if (m) {
            if (tpl_add_sub(t, b, v, from, i - from) || tpl_add(t, b, escape, m, mark_at(v, i))) return -1;
            from = i + len;
        }
        i += len;
    }
    return tpl_add_sub(t, b, v, from, n - from) || tpl_add(t, b, &quote, 1, false) ? -1 : 0;
}

static int add_dict_repr(tpl_interp *t, tpl_builder *b, const tpl_dict *d) {
    if (add_text(t, b, "{")) return -1;
    for (size_t i = 0; i < d->n; i++)
        if ((i && add_text(t, b, ", ")) || tpl_add_repr(t, b, d->keys[i]) || add_text(t, b, ": ") ||
            tpl_add_repr(t, b, d->values[i]))
            return -1;
    return add_text(t, b, "}");
}

static int add_items_repr(tpl_interp *t, tpl_builder *b, tpl_value v, const char *open, const char *close) {
    const tpl_value *items;
    size_t n;
    if (add_text(t, b, open) || tpl_items(t, v, &items, &n)) return -1;
    for (size_t i = 0; i < n; i++)
        if ((i && add_text(t, b, ", ")) || tpl_add_repr(t, b, items[i])) return -1;
    return (n == 1 && v.kind == TPL_TUPLE && add_text(t, b, ",")) || add_text(t, b, close) ? -1 : 0;
}

static int add_range_repr(tpl_interp *t, tpl_builder *b, const tpl_range *r) {
    char buf[100];
    int n = snprintf(buf, sizeof buf, "range(%lld, %lld", (long long)r->start, (long long)r->stop);
    n += snprintf(buf + n, sizeof buf - (size_t)n, r->step == 1 ? ")" : ", %lld)", (long long)r->step);
    return tpl_add(t, b, buf, (size_t)n, true);
}

static int add_repr(tpl_interp *t, tpl_builder *b, tpl_value v) {
    char buf[40];
    size_t n;
    if (scalar_text(v, buf, &n)) return tpl_add(t, b, buf, n, v.trusted);
    switch (v.kind) {
    case TPL_UNDEFINED: return add_text(t, b, "Undefined");
    case TPL_BIG: return tpl_add_str(t, b, v);
    case TPL_STR:
        if (v.markup) return tpl_fail(t, "a list that holds the result of 'safe' or 'escape' cannot be printed");
        return add_quoted(t, b, v, 0);
    case TPL_LIST: return add_items_repr(t, b, v, "[", "]");
    case TPL_TUPLE: return add_items_repr(t, b, v, "(", ")");
    case TPL_DICT: return add_dict_repr(t, b, v.dict);
    case TPL_RANGE: return add_range_repr(t, b, v.range);
    case TPL_VIEW: return add_text(t, b, tpl_type_name(v)) || add_items_repr(t, b, v, "([", "])") ? -1 : 0;
    case TPL_NAMESPACE:
        return add_text(t, b, "<Namespace ") || add_dict_repr(t, b, v.dict) || add_text(t, b, ">") ? -1 : 0;
    default: return tpl_fail(t, "printing a %s is not supported", tpl_type_name(v));
    }
}

int tpl_add_repr(tpl_interp *t, tpl_builder *b, tpl_value v) {
    if (tpl_enter(t)) return -1;
    int rc = add_repr(t, b, v);
    tpl_leave(t);
    return rc;
}

typedef struct json_style {
    tpl_value indent, comma, colon; // indent: the text of one level; TPL_NONE: all on one line
    int quoted;
    bool sort;
} json_style;

static int json_value(tpl_interp *t, tpl_builder *b, const json_style *s, tpl_value v, int level);

static int json_newline(tpl_interp *t, tpl_builder *b, const json_style *s, int level) {
    if (s->indent.kind == TPL_NONE) return 0;
    if (add_text(t, b, "\n")) return -1;
    for (int i = 0; i < level; i++)
        if (tpl_add_str(t, b, s->indent)) return -1;
    return 0;
}

static int json_key(tpl_interp *t, tpl_builder *b, const json_style *s, tpl_value key) {
    if (key.kind == TPL_STR) return add_quoted(t, b, key, s->quoted);
    return add_text(t, b, "\"") || json_value(t, b, s, key, 0) || add_text(t, b, "\"") ? -1 : 0;
}

static int json_items(tpl_interp *t, tpl_builder *b, const json_style *s, const tpl_value *keys, const tpl_value *items,
                      size_t n, int level) {
    if (add_text(t, b, keys ? "{" : "[")) return -1;
    for (size_t i = 0; i < n; i++) {
        if ((i && tpl_add_str(t, b, s->comma)) || json_newline(t, b, s, level + 1)) return -1;
        if (keys && (json_key(t, b, s, keys[i]) || tpl_add_str(t, b, s->colon))) return -1;
        if (json_value(t, b, s, items[i], level + 1)) return -1;
    }
    return (n && json_newline(t, b, s, level)) || add_text(t, b, keys ? "}" : "]") ? -1 : 0;
}

// A dict's items, by key.
static int json_sorted(tpl_interp *t, tpl_builder *b, const json_style *s, const tpl_dict *d, int level) {
    tpl_value *keys = tpl_alloc(t, d->n, 2 * sizeof *keys);
    if (!keys) return -1;
    tpl_value *values = keys + d->n;
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (int order = 1; at; at--) {
            if (tpl_order(t, d->keys[i], keys[at - 1], "<", &order)) return -1;
            if (order >= 0) break;
            keys[at] = keys[at - 1];
            values[at] = values[at - 1];
        }
        keys[at] = d->keys[i];
        values[at] = d->values[i];
    }
    return json_items(t, b, s, keys, values, d->n, level);
}

static int json_any(tpl_interp *t, tpl_builder *b, const json_style *s, tpl_value v, int level) {
    char buf[40];
    size_t n;
    if (v.kind == TPL_NONE) return tpl_add(t, b, "null", 4, v.trusted);
    if (v.kind == TPL_BOOL) return tpl_add(t, b, v.b ? "true" : "false", v.b ? 4 : 5, v.trusted);
    if (v.kind == TPL_FLOAT && !isfinite(v.f))
        return add_text(t, b, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
    if (scalar_text(v, buf, &n)) return tpl_add(t, b, buf, n, v.trusted);
    if (v.kind == TPL_BIG) return tpl_add_str(t, b, v);
    if (v.kind == TPL_STR) return add_quoted(t, b, v, s->quoted);
    if (v.kind == TPL_LIST || v.kind == TPL_TUPLE) return json_items(t, b, s, NULL, v.list->items, v.list->n, level);
    if (v.kind != TPL_DICT) return tpl_fail(t, "Object of type %s is not JSON serializable", tpl_type_name(v));
    if (s->sort && v.dict->n) return json_sorted(t, b, s, v.dict, level);
    static const tpl_value none;
    return json_items(t, b, s, v.dict->n ? v.dict->keys : &none, v.dict->values, v.dict->n, level);
}

static int json_value(tpl_interp *t, tpl_builder *b, const json_style *s, tpl_value v, int level) {
    if (tpl_enter(t)) return -1;
    int rc = json_any(t, b, s, v, level);
    tpl_leave(t);
    return rc;
}

int tpl_tojson(tpl_interp *t, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"x", "ensure_ascii", "indent", "separators", "sort_keys"};
    tpl_value v[5], part[2];
    json_style s = {.indent = tpl_none()};
    if (tpl_bind(t, "tojson", args, names, 5, v)) return -1;
    s.quoted = tpl_given(v[1]) && tpl_true(v[1]) ? 2 : 1;
    s.sort = tpl_given(v[4]) && tpl_true(v[4]);
    if (tpl_given(v[2]) && tpl_integral(v[2])) {
        if (tpl_as_int(v[2]) > 64) return tpl_fail(t, "tojson: an indent of more than 64 is not supported");
        static const char spaces[] = "                                                                ";
        if (tpl_text(t, spaces, tpl_as_int(v[2]) > 0 ? (size_t)tpl_as_int(v[2]) : 0, true, &s.indent)) return -1;
    } else if (tpl_given(v[2]) && v[2].kind != TPL_NONE) {
        if (v[2].kind != TPL_STR) return tpl_fail(t, "tojson: indent must be a number or a string");
        s.indent = v[2];
    }
    if (tpl_cstr(t, s.indent.kind == TPL_NONE ? ", " : ",", &part[0]) || tpl_cstr(t, ": ", &part[1])) return -1;
    part[0].trusted = part[1].trusted = false;
    s.comma = part[0];
    s.colon = part[1];
    if (tpl_given(v[3]) && v[3].kind != TPL_NONE) {
        if ((v[3].kind != TPL_TUPLE && v[3].kind != TPL_LIST) || v[3].list->n != 2 ||
            v[3].list->items[0].kind != TPL_STR || v[3].list->items[1].kind != TPL_STR)
            return tpl_fail(t, "tojson: separators must be two strings");
        s.comma = v[3].list->items[0];
        s.colon = v[3].list->items[1];
    }
    tpl_builder b = {0};
    return json_value(t, &b, &s, v[0], 0) ? -1 : tpl_built(t, &b, out);
}

static int percent_one(tpl_interp *t, tpl_builder *b, char how, int precision, tpl_value v) {
    if (how == 'r') return tpl_add_repr(t, b, v);
    if (how == 's') return tpl_str_of(t, v, &v) ? -1 : tpl_add_str(t, b, v);
    char buf[400];
    if (!tpl_number(v)) return tpl_fail(t, "%%%c format: a number is required, not %s", how, tpl_type_name(v));
    if (how == 'f') {
        if (!(fabs(tpl_as_double(v)) < 1e300)) return tpl_fail(t, "'%%f' of this number is not supported");
        return tpl_add(t, b, buf, (size_t)snprintf(buf, sizeof buf, "%.*f", precision, tpl_as_double(v)), v.trusted);
    }
    double f = v.kind == TPL_FLOAT ? trunc(v.f) : 0;
    if (!(fabs(f) < 9e18)) return tpl_fail(t, "'%%d' of this number is not supported");
    long long i = v.kind == TPL_FLOAT ? (long long)f : (long long)tpl_as_int(v);
    return tpl_add(t, b, buf, (size_t)snprintf(buf, sizeof buf, "%lld", i), v.trusted);
}

int tpl_percent(tpl_interp *t, tpl_value format, tpl_value arg, tpl_value *out) {
    const char *p = format.s->p;
    size_t n = format.s->n, from = 0, used = 0, n_args = 1;
    const tpl_value *args = &arg;
    tpl_builder b = {0};
    if (format.markup) return tpl_fail(t, "'%%' of the result of 'safe' or 'escape' is not supported");
    if (arg.kind == TPL_TUPLE) {
        args = arg.list->items;
        n_args = arg.list->n;
    }
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '%') continue;
        if (tpl_add_sub(t, &b, format, from, i - from)) return -1;
        int precision = 6;
        size_t k = i + 1;
        if (k + 1 < n && p[k] == '.' && p[k + 1] >= '0' && p[k + 1] <= '9') precision = p[k + 1] - '0', k += 2;
        if (k < n && p[k] == '%' && k == i + 1) {
            if (tpl_add_sub(t, &b, format, k, 1)) return -1;
        } else if (k < n && strchr(k == i + 1 ? "srdif" : "f", p[k]) && p[k]) {
            if (used == n_args) return tpl_fail(t, "not enough arguments for format string");
            if (percent_one(t, &b, p[k], precision, args[used++])) return -1;
        } else {
            return tpl_fail(t, "'%%' formats other than %%s, %%r, %%d, %%i, %%f, %%.Nf and %%%% are not supported");
        }
        i = k;
        from = k + 1;
    }
    if (used < n_args && arg.kind != TPL_DICT && !(arg.kind == TPL_LIST && !used))
        return tpl_fail(t, "not all arguments converted during string formatting");
    return tpl_add_sub(t, &b, format, from, n - from) ? -1 : tpl_built(t, &b, out);
}

// The value of the field [name, name + n) of str.format.
static int format_field(tpl_interp *t, const char *name, size_t n, const tpl_args *args, size_t *next, tpl_value *v) {
    if (!n || (name[0] >= '0' && name[0] <= '9')) {
        size_t i = n ? 0 : (*next)++;
        for (size_t k = 0; k < n; k++) {
            if (name[k] < '0' || name[k] > '9' || k > 3) return tpl_fail(t, "this field of format() is not supported");
            i = i * 10 + (size_t)(name[k] - '0');
        }
        if (i >= args->n) return tpl_fail(t, "Replacement index %zu out of range for positional args tuple", i);
        return *v = args->pos[i], 0;
    }
    for (size_t i = 0; i < args->n_kw; i++)
        if (args->kw_names[i]->n == n && !memcmp(args->kw_names[i]->p, name, n)) return *v = args->kw[i], 0;
    return tpl_fail(t, "the field '%.*s' of format() is missing or not supported", n > 40 ? 40 : (int)n, name);
}

int tpl_str_format(tpl_interp *t, tpl_value format, const tpl_args *args, tpl_value *out) {
    const char *p = format.s->p;
    size_t n = format.s->n, next = 0;
    bool automatic = false, manual = false;
    tpl_builder b = {0};
    for (size_t i = 0; i < n; i++) {
        bool brace = p[i] == '{' || p[i] == '}';
        if (!brace || (i + 1 < n && p[i + 1] == p[i])) {
            if (tpl_add_sub(t, &b, format, i, 1)) return -1;
            i += brace;
            continue;
        }
        const char *end = p[i] == '{' ? memchr(p + i, '}', n - i) : NULL;
        if (!end) return tpl_fail(t, "Single '%c' encountered in format string", p[i]);
        size_t len = (size_t)(end - p) - i - 1;
        tpl_value v;
        automatic |= !len;
        manual |= len && p[i + 1] >= '0' && p[i + 1] <= '9';
        if (automatic && manual) return tpl_fail(t, "numbered and unnumbered fields in one format string");
        if (format_field(t, p + i + 1, len, args, &next, &v) || tpl_str_of(t, v, &v) || tpl_add_str(t, &b, v))
            return -1;
        i += len + 1;
    }
    return tpl_built(t, &b, out);
}

static void add_time(const struct tm *tm, char c, char out[32]) {
    static const char days[][10] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
    static const char months[][10] = {"January", "February", "March",     "April",   "May",      "June",
                                      "July",    "August",   "September", "October", "November", "December"};
    int hour12 = tm->tm_hour % 12 ? tm->tm_hour % 12 : 12;
    if (c == 'Y')
        snprintf(out, 32, "%d", tm->tm_year + 1900);
    else if (c == 'y')
        snprintf(out, 32, "%02d", tm->tm_year % 100);
    else if (c == 'm')
        snprintf(out, 32, "%02d", tm->tm_mon + 1);
    else if (c == 'd')
        snprintf(out, 32, "%02d", tm->tm_mday);
    else if (c == 'e')
        snprintf(out, 32, "%2d", tm->tm_mday);
    else if (c == 'H')
        snprintf(out, 32, "%02d", tm->tm_hour);
    else if (c == 'I')
        snprintf(out, 32, "%02d", hour12);
    else if (c == 'M')
        snprintf(out, 32, "%02d", tm->tm_min);
    else if (c == 'S')
        snprintf(out, 32, "%02d", tm->tm_sec);
    else if (c == 'j')
        snprintf(out, 32, "%03d", tm->tm_yday + 1);
    else if (c == 'p')
        snprintf(out, 32, tm->tm_hour < 12 ? "AM" : "PM");
    else if (c == 'A')
        snprintf(out, 32, "%s", days[tm->tm_wday]);
    else if (c == 'a')
        snprintf(out, 32, "%.3s", days[tm->tm_wday]);
    else if (c == 'B')
        snprintf(out, 32, "%s", months[tm->tm_mon]);
    else if (c == 'b')
        snprintf(out, 32, "%.3s", months[tm->tm_mon]);
    else if (c == '%')
        snprintf(out, 32, "%%");
    else if (c == 'F')
        snprintf(out, 32, "%d-%02d-%02d", tm->tm_year + 1900, tm->tm_mon + 1, tm->tm_mday);
    else if (c == 'T')
        snprintf(out, 32, "%02d:%02d:%02d", tm->tm_hour, tm->tm_min, tm->tm_sec);
}

int tpl_strftime(tpl_interp *t, tpl_value format, tpl_value *out) {
    time_t now = t->now ? (time_t)*t->now : time(NULL);
    struct tm tm;
    if (!(t->now ? gmtime_r(&now, &tm) : localtime_r(&now, &tm)) || tm.tm_year < -900 || tm.tm_year > 8099)
        return tpl_fail(t, "strftime_now: a time beyond the years 1000 to 9999");
    tpl_builder b = {0};
    const char *p = format.s->p;
    for (size_t i = 0; i < format.s->n; i++) {
        if (p[i] != '%') {
            if (tpl_add_sub(t, &b, format, i, 1)) return -1;
            continue;
        }
        char text[32] = "";
        if (++i < format.s->n) add_time(&tm, p[i], text);
        if (!*text) return tpl_fail(t, "strftime_now: this code is not supported");
        if (tpl_add(t, &b, text, strlen(text), mark_at(format, i))) return -1;
    }
    return tpl_built(t, &b, out);
}
