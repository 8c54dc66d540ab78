// Operations on strings: what Python's str methods do, with every byte of the result knowing who wrote it.
#include "text/template_internal.h"
#include <utf8proc.h>
#include "text/unicode.h"

int tpl_decode(const char *p, size_t n, uint32_t *cp) {
    return upg_utf8_decode((const uint8_t *)p, n, cp);
}

bool tpl_space(uint32_t cp) {
    return cp != UPG_BAD_CHAR && ((cp >= 0x1C && cp <= 0x1F) || upg_char_is_space(cp));
}

static size_t last_char(const char *p, size_t n, uint32_t *cp) {
    return (size_t)upg_utf8_decode_last((const uint8_t *)p, n, cp);
}

// Whether a character (its bytes) is one to strip: of chars, or white space where chars is none.
static bool strips(tpl_value chars, const char *p, size_t len, uint32_t cp) {
    return chars.kind == TPL_STR ? tpl_find_bytes(chars.s->p, chars.s->n, p, len) != SIZE_MAX : tpl_space(cp);
}

int tpl_strip(tpl_interp *t, tpl_value s, tpl_value chars, bool left, bool right, tpl_value *out) {
    size_t from = 0, to = s.s->n;
    uint32_t cp;
    if (tpl_given(chars) && chars.kind != TPL_NONE && chars.kind != TPL_STR)
        return tpl_fail(t, "strip arg must be None or str");
    if (tpl_charge(t, s.s->n + (chars.kind == TPL_STR ? chars.s->n * 32 : 0))) return -1;
    while (left && from < to) {
        size_t len = (size_t)tpl_decode(s.s->p + from, to - from, &cp);
        if (!strips(chars, s.s->p + from, len, cp)) break;
        from += len;
    }
    while (right && from < to) {
        size_t len = last_char(s.s->p + from, to - from, &cp);
        if (!strips(chars, s.s->p + to - len, len, cp)) break;
        to -= len;
    }
    bool markup = s.markup;
    if (tpl_substr(t, s, from, to - from, out)) return -1;
    out->markup = markup;
    return 0;
}

static size_t char_length(const char *p) {
    unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

int tpl_replace(tpl_interp *t, tpl_value s, tpl_value old, tpl_value by, int64_t count, tpl_value *out) {
    if (s.kind != TPL_STR || old.kind != TPL_STR || by.kind != TPL_STR)
        return tpl_fail(t, "replace() arguments must be strings");
    tpl_builder b = {0};
    size_t from = 0;
    for (; count != 0; count -= count > 0) {
        if (!old.s->n) { // between all characters
            if (tpl_add_str(t, &b, by)) return -1;
            if (from == s.s->n) break;
            size_t len = char_length(s.s->p + from);
            if (tpl_add_sub(t, &b, s, from, len)) return -1;
            from += len;
            continue;
        }
        size_t at = tpl_find_bytes(s.s->p + from, s.s->n - from, old.s->p, old.s->n);
        if (at == SIZE_MAX) break;
        if (tpl_add_sub(t, &b, s, from, at) || tpl_add_str(t, &b, by)) return -1;
        from += at + old.s->n;
    }
    return tpl_add_sub(t, &b, s, from, s.s->n - from) ? -1 : tpl_built(t, &b, out);
}

int tpl_join(tpl_interp *t, tpl_value separator, const tpl_value *items, size_t n, bool convert, tpl_value *out) {
    tpl_builder b = {0};
    for (size_t i = 0; i < n; i++) {
        tpl_value v = items[i];
        if (convert && tpl_str_of(t, v, &v)) return -1;
        if (v.kind != TPL_STR)
            return tpl_fail(t, "sequence item %zu: expected str instance, %s found", i, tpl_type_name(v));
        if ((i && tpl_add_str(t, &b, separator)) || tpl_add_str(t, &b, v)) return -1;
    }
    return tpl_built(t, &b, out);
}

static bool is_cased(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

bool tpl_is_case(tpl_value s, bool upper) {
    bool any = false;
    for (size_t i = 0; i < s.s->n;) {
        uint32_t cp;
        i += (size_t)tpl_decode(s.s->p + i, s.s->n - i, &cp);
        if (!is_cased(cp)) continue;
        if (utf8proc_category((utf8proc_int32_t)cp) != (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL))
            return false;
        any = true;
    }
    return any;
}

static int add_char(tpl_interp *t, tpl_builder *b, tpl_value s, size_t at, uint32_t cp) {
    utf8proc_uint8_t buf[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)cp, buf);
    return tpl_add(t, b, (const char *)buf, (size_t)n, s.s->mark ? s.s->mark[at] : s.trusted);
}

int tpl_case(tpl_interp *t, tpl_value s, char how, tpl_value *out) {
    tpl_builder b = {0};
    bool starts = true;
    for (size_t i = 0; i < s.s->n;) {
        uint32_t cp;
        size_t len = (size_t)tpl_decode(s.s->p + i, s.s->n - i, &cp);
        bool raise = how == 'u' || (how != 'l' && starts);
        if (raise && cp == 0xDF) {
            if (add_char(t, &b, s, i, 'S') || add_char(t, &b, s, i, how == 'u' || how == 'T' ? 'S' : 's')) return -1;
        } else {
            utf8proc_int32_t c = (utf8proc_int32_t)cp;
            c = !raise ? utf8proc_tolower(c) : how == 'c' || how == 't' ? utf8proc_totitle(c) : utf8proc_toupper(c);
            if (add_char(t, &b, s, i, (uint32_t)c)) return -1;
        }
        if (how == 'T')
            starts = (cp < 128 && cp && strchr("-({[<", (int)cp)) || tpl_space(cp);
        else
            starts = how == 't' && !is_cased(cp);
        i += len;
    }
    return tpl_built(t, &b, out);
}

int tpl_escape(tpl_interp *t, tpl_value s, tpl_value *out) {
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    tpl_builder b = {0};
    for (size_t i = 0; i < s.s->n; i++) {
        const char *p = s.s->p[i] ? strchr(from, s.s->p[i]) : NULL;
        bool trusted = s.s->mark ? s.s->mark[i] : s.trusted;
        int rc = p ? tpl_add(t, &b, to[p - from], strlen(to[p - from]), trusted) : tpl_add_sub(t, &b, s, i, 1);
        if (rc) return -1;
    }
    if (tpl_built(t, &b, out)) return -1;
    out->markup = true;
    return 0;
}

typedef struct pieces {
    tpl_value *items;
    size_t n, capacity;
} pieces;

static int add_piece(tpl_interp *t, pieces *p, tpl_value s, size_t at, size_t n) {
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 8;
        tpl_value *items = tpl_alloc(t, capacity, sizeof *items);
        if (!items) return -1;
        if (p->n) memcpy(items, p->items, p->n * sizeof *items);
        p->items = items;
        p->capacity = capacity;
    }
    return tpl_substr(t, s, at, n, &p->items[p->n++]);
}

static int split_space(tpl_interp *t, tpl_value s, int64_t max, pieces *out) {
    size_t i = 0, n = s.s->n;
    for (;;) {
        uint32_t cp;
        size_t len = 0;
        for (; i < n; i += len) {
            len = (size_t)tpl_decode(s.s->p + i, n - i, &cp);
            if (!tpl_space(cp)) break;
        }
        if (i == n) return 0;
        size_t from = i;
        if (max >= 0 && (int64_t)out->n >= max) {
            for (i = n; i > from; i -= len) {
                len = last_char(s.s->p + from, i - from, &cp);
                if (!tpl_space(cp)) break;
            }
            return add_piece(t, out, s, from, i - from);
        }
        for (; i < n; i += len) {
            len = (size_t)tpl_decode(s.s->p + i, n - i, &cp);
            if (tpl_space(cp)) break;
        }
        if (add_piece(t, out, s, from, i - from)) return -1;
    }
}

static size_t find_last(const char *p, size_t n, const char *what, size_t m) {
    for (size_t i = n < m ? SIZE_MAX : n - m; i != SIZE_MAX; i--)
        if (!memcmp(p + i, what, m)) return i;
    return SIZE_MAX;
}

static int split(tpl_interp *t, tpl_value s, tpl_value by, int64_t max, pieces *out) {
    size_t from = 0, at;
    while (max < 0 || (int64_t)out->n < max) {
        at = tpl_find_bytes(s.s->p + from, s.s->n - from, by.s->p, by.s->n);
        if (at == SIZE_MAX) break;
        if (add_piece(t, out, s, from, at)) return -1;
        from += at + by.s->n;
    }
    return add_piece(t, out, s, from, s.s->n - from);
}

static int rsplit(tpl_interp *t, tpl_value s, tpl_value by, int64_t max, pieces *out) {
    size_t to = s.s->n, at;
    while (max < 0 || (int64_t)out->n < max) {
        at = find_last(s.s->p, to, by.s->p, by.s->n);
        if (at == SIZE_MAX) break;
        if (add_piece(t, out, s, at + by.s->n, to - at - by.s->n)) return -1;
        to = at;
    }
    if (add_piece(t, out, s, 0, to)) return -1;
    for (size_t i = 0; i < out->n / 2; i++) {
        tpl_value v = out->items[i];
        out->items[i] = out->items[out->n - 1 - i];
        out->items[out->n - 1 - i] = v;
    }
    return 0;
}

static int split_method(tpl_interp *t, tpl_value s, const char *name, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"sep", "maxsplit"};
    tpl_value v[2];
    pieces p = {0};
    if (tpl_bind(t, name, args, names, 2, v)) return -1;
    if (tpl_given(v[1]) && !tpl_integral(v[1])) return tpl_fail(t, "maxsplit must be an integer");
    int64_t max = tpl_given(v[1]) ? tpl_as_int(v[1]) : -1;
    bool by_space = !tpl_given(v[0]) || v[0].kind == TPL_NONE, right = *name == 'r';
    if (!by_space && v[0].kind != TPL_STR) return tpl_fail(t, "must be str or None, not %s", tpl_type_name(v[0]));
    if (!by_space && !v[0].s->n) return tpl_fail(t, "empty separator");
    if (by_space && right && max >= 0) return tpl_fail(t, "rsplit() at white space with maxsplit is not supported");
    int rc = by_space ? split_space(t, s, max, &p) : right ? rsplit(t, s, v[0], max, &p) : split(t, s, v[0], max, &p);
    return rc ? -1 : tpl_list_value(t, TPL_LIST, p.items, p.n, out);
}

static int splitlines(tpl_interp *t, tpl_value s, const tpl_args *args, tpl_value *out) {
    static const char *const names[] = {"keepends"};
    tpl_value keep;
    pieces p = {0};
    if (tpl_bind(t, "splitlines", args, names, 1, &keep)) return -1;
    for (size_t from = 0, i = 0; i < s.s->n;) {
        uint32_t cp;
        size_t len = (size_t)tpl_decode(s.s->p + i, s.s->n - i, &cp);
        bool end = (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (cp == '\r' && i + 1 < s.s->n && s.s->p[i + 1] == '\n') len = 2;
        bool last = i + len == s.s->n;
        if (end || last) {
            size_t to = end && !(tpl_given(keep) && tpl_true(keep)) ? i : i + len;
            if (add_piece(t, &p, s, from, to - from)) return -1;
            from = i + len;
        }
        i += len;
    }
    return tpl_list_value(t, TPL_LIST, p.items, p.n, out);
}

static size_t byte_of(tpl_value s, size_t index) {
    if (s.s->chars == s.s->n) return index;
    size_t at = 0;
    while (index-- && at < s.s->n) at += char_length(s.s->p + at);
    return at;
}

// The part of s that the optional arguments start and end of find, count, startswith say.
static int window(tpl_interp *t, tpl_value s, const tpl_args *args, size_t *from, size_t *to) {
    int64_t n = (int64_t)s.s->chars, bound[2] = {0, n};
    for (size_t i = 0; i < 2 && i + 1 < args->n; i++) {
        tpl_value v = args->pos[i + 1];
        if (v.kind == TPL_NONE) continue;
        if (!tpl_integral(v)) return tpl_fail(t, "slice indices must be integers or None");
        int64_t at = tpl_as_int(v);
        if (at < 0) at = at + n < 0 ? 0 : at + n;
        bound[i] = i && at > n ? n : at;
    }
    *from = bound[0] > n ? SIZE_MAX : byte_of(s, (size_t)bound[0]);
    *to = byte_of(s, (size_t)bound[1]);
    return tpl_charge(t, s.s->n);
}

static int search(tpl_interp *t, tpl_value s, const char *name, const tpl_args *args, tpl_value *out) {
    bool right = *name == 'r', count = *name == 'c';
    size_t from, to, at = SIZE_MAX;
    if (args->n_kw || args->n < 1 || args->n > 3 || args->pos[0].kind != TPL_STR)
        return tpl_fail(t, "%s() wants a string and perhaps where to begin and to end", name);
    tpl_value what = args->pos[0];
    if (window(t, s, args, &from, &to)) return -1;
    if (count) {
        int64_t n = 0;
        if (!what.s->n) return tpl_fail(t, "count() of the empty string is not supported");
        for (; from != SIZE_MAX && from < to; from += at + what.s->n, n++)
            if ((at = tpl_find_bytes(s.s->p + from, to - from, what.s->p, what.s->n)) == SIZE_MAX) break;
        return *out = tpl_int(n, true), 0;
    }
    if (from != SIZE_MAX && from <= to) {
        if (tpl_charge(t, right ? (to - from) * 4 : 0)) return -1;
        at = right ? find_last(s.s->p + from, to - from, what.s->p, what.s->n)
                   : tpl_find_bytes(s.s->p + from, to - from, what.s->p, what.s->n);
    }
    if (at == SIZE_MAX && strstr(name, "index")) return tpl_fail(t, "substring not found");
    *out = tpl_int(at == SIZE_MAX ? -1 : (int64_t)tpl_count_chars(s.s->p, from + at), true);
    return 0;
}

static int affix(tpl_interp *t, tpl_value s, bool end, const tpl_args *args, tpl_value *out) {
    const tpl_value *any = args->pos;
    size_t n = 1, from, to;
    if (args->n_kw || args->n < 1 || args->n > 3)
        return tpl_fail(t, "%s() wants a string", end ? "endswith" : "startswith");
    if (any->kind == TPL_TUPLE) {
        n = any->list->n;
        any = any->list->items;
    }
    if (window(t, s, args, &from, &to)) return -1;
    *out = tpl_bool(false);
    for (size_t i = 0; i < n; i++) {
        if (any[i].kind != TPL_STR)
            return tpl_fail(t, "%s first arg must be str or a tuple of str, not %s", end ? "endswith" : "startswith",
                            tpl_type_name(any[i]));
        size_t m = any[i].s->n;
        if (from == SIZE_MAX || from > to || to - from < m) continue;
        if (!m || !memcmp(s.s->p + (end ? to - m : from), any[i].s->p, m)) *out = tpl_bool(true);
    }
    return 0;
}

static int partition(tpl_interp *t, tpl_value s, bool right, const tpl_args *args, tpl_value *out) {
    tpl_value *items = tpl_alloc(t, 3, sizeof *items);
    if (!items) return -1;
    if (args->n != 1 || args->n_kw || args->pos[0].kind != TPL_STR) return tpl_fail(t, "partition() wants a string");
    tpl_value by = args->pos[0];
    size_t n = s.s->n, m = by.s->n;
    if (!m) return tpl_fail(t, "empty separator");
    size_t at = right ? find_last(s.s->p, n, by.s->p, m) : tpl_find_bytes(s.s->p, n, by.s->p, m);
    bool found = at != SIZE_MAX;
    if (!found) at = right ? 0 : n;
    size_t after = found ? at + m : at;
    if (tpl_substr(t, s, 0, at, &items[0]) || tpl_substr(t, s, at, after - at, &items[1]) ||
        tpl_substr(t, s, after, n - after, &items[2]))
        return -1;
    return tpl_list_value(t, TPL_TUPLE, items, 3, out);
}

static int remove_affix(tpl_interp *t, tpl_value s, bool end, const tpl_args *args, tpl_value *out) {
    if (args->n != 1 || args->n_kw || args->pos[0].kind != TPL_STR) return tpl_fail(t, "the affix must be a string");
    size_t n = s.s->n, m = args->pos[0].s->n;
    bool has = n >= m && !memcmp(s.s->p + (end ? n - m : 0), args->pos[0].s->p, m);
    return tpl_substr(t, s, has && !end ? m : 0, has ? n - m : n, out);
}

// isdigit, isalpha, isalnum, isspace: the string is not empty and all its characters are.
static bool all_chars(tpl_value s, const char *name) {
    for (size_t i = 0; i < s.s->n;) {
        uint32_t cp;
        i += (size_t)tpl_decode(s.s->p + i, s.s->n - i, &cp);
        unsigned c = upg_char_class_of(cp);
        bool digit =
            utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND || cp == 0xB9 || cp == 0xB2 || cp == 0xB3;
        bool is = name[2] == 'd'   ? digit
                  : name[2] == 's' ? tpl_space(cp)
                                   : (c & UPG_CHAR_LETTER) || (name[4] == 'n' && c == UPG_CHAR_NUMBER);
        if (!is) return false;
    }
    return s.s->n > 0;
}

static const char *const supported[] = {
    "capitalize",   "count",        "endswith",   "find",    "format", "index",      "isalnum", "isalpha",
    "isdigit",      "islower",      "isspace",    "isupper", "join",   "lower",      "lstrip",  "partition",
    "removeprefix", "removesuffix", "replace",    "rfind",   "rindex", "rpartition", "rsplit",  "rstrip",
    "split",        "splitlines",   "startswith", "strip",   "title",  "upper"};
static const char *const unsupported[] = {"casefold",  "center",    "encode",       "expandtabs", "format_map",
                                          "isascii",   "isdecimal", "isidentifier", "isnumeric",  "isprintable",
                                          "istitle",   "ljust",     "maketrans",    "rjust",      "swapcase",
                                          "translate", "zfill"};

bool tpl_string_method_known(const tpl_str *name, bool *is_supported) {
    for (size_t i = 0; i < sizeof supported / sizeof *supported; i++)
        if (tpl_name_is(name, supported[i])) return *is_supported = true;
    *is_supported = false;
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (tpl_name_is(name, unsupported[i])) return true;
    return false;
}

static int string_join(tpl_interp *t, tpl_value s, const tpl_args *args, tpl_value *out) {
    const tpl_value *items;
    size_t n;
    if (args->n != 1 || args->n_kw) return tpl_fail(t, "join() takes exactly one argument");
    return tpl_items(t, args->pos[0], &items, &n) || tpl_join(t, s, items, n, false, out) ? -1 : 0;
}

int tpl_string_method(tpl_interp *t, tpl_value s, const char *name, const tpl_args *args, tpl_value *out) {
    if (s.markup) return tpl_fail(t, "methods of the result of 'safe' or 'escape' are not supported");
    if (tpl_charge(t, s.s->n)) return -1;
    if (strstr(name, "find") || strstr(name, "index") || !strcmp(name, "count")) return search(t, s, name, args, out);
    if (!strcmp(name, "format")) return tpl_str_format(t, s, args, out);
    if (!strcmp(name, "splitlines")) return splitlines(t, s, args, out);
    if (strstr(name, "split")) return split_method(t, s, name, args, out);
    if (strstr(name, "with")) return affix(t, s, *name == 'e', args, out);
    if (!strcmp(name, "join")) return string_join(t, s, args, out);
    if (strstr(name, "partition")) return partition(t, s, *name == 'r', args, out);
    if (strstr(name, "remove")) return remove_affix(t, s, name[6] == 's', args, out);
    if (!strcmp(name, "replace")) {
        bool count = args->n == 3 && tpl_integral(args->pos[2]);
        if (args->n_kw || args->n < 2 || args->n > 3 || (args->n == 3 && !count))
            return tpl_fail(t, "replace() wants two strings and perhaps a count");
        return tpl_replace(t, s, args->pos[0], args->pos[1], count ? tpl_as_int(args->pos[2]) : -1, out);
    }
    if (strstr(name, "strip")) {
        if (args->n > 1 || args->n_kw) return tpl_fail(t, "%s() wants at most one argument", name);
        return tpl_strip(t, s, args->n ? args->pos[0] : tpl_none(), *name != 'r', *name != 'l', out);
    }
    if (args->n || args->n_kw) return tpl_fail(t, "%s() takes no arguments", name);
    if (name[0] == 'i' && (name[2] == 'u' || name[2] == 'l')) return *out = tpl_bool(tpl_is_case(s, name[2] == 'u')), 0;
    if (name[0] == 'i') return *out = tpl_bool(all_chars(s, name)), 0;
    return tpl_case(t, s, *name, out);
}
