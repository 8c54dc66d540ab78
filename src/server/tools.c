// Finding tool calls. See tools.h.
#include "server/tools.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

enum { CALLS_MAX = 128 };

static const struct {
    const char *begin, *end; // end NULL: the end of the answer
} markers[] = {{"<tool_call>", "</tool_call>"}, {"<|tool_call|>", "<|/tool_call|>"}, {"[TOOL_CALLS]", NULL}};
enum { N_MARKERS = sizeof markers / sizeof *markers, BARE = N_MARKERS };

void tool_parser_init(tool_parser *t, const char *const *names, int n_names) {
    *t = (tool_parser){.marker = -1, .names = names, .n_names = n_names};
}

void tool_parser_free(tool_parser *t) {
    for (int i = 0; i < t->n; i++) {
        free(t->calls[i].name);
        free(t->calls[i].arguments);
    }
    free(t->calls);
    upg_buf_free(&t->held);
    upg_buf_free(&t->text);
}

// ---- What a call says ----

static bool is_tool(const tool_parser *t, const char *name) {
    for (int i = 0; i < t->n_names; i++)
        if (!strcmp(name, t->names[i])) return true;
    return false;
}

// Arguments as JSON, an object: of an object, of one written as text, or of nothing. NULL if they are something else.
static char *arguments_of(yyjson_val *call) {
    yyjson_val *a = yyjson_obj_get(call, "arguments");
    if (!a) a = yyjson_obj_get(call, "parameters");
    if (!a || yyjson_is_null(a)) return upg_strdup("{}", 2, NULL);
    yyjson_doc *read =
        yyjson_is_str(a) ? yyjson_read(yyjson_get_str(a), yyjson_get_len(a), YYJSON_READ_BIGNUM_AS_RAW) : NULL;
    yyjson_val *object = read ? yyjson_doc_get_root(read) : a;
    char *text = yyjson_is_obj(object) ? yyjson_val_write(object, 0, NULL) : NULL;
    yyjson_doc_free(read);
    return text;
}

static bool add_call(tool_parser *t, yyjson_val *v) {
    yyjson_val *f = yyjson_obj_get(v, "function");
    if (yyjson_is_obj(f)) v = f;
    const char *name = upg_json_string(yyjson_obj_get(v, "name"));
    if (!name || !*name || t->n == CALLS_MAX || (t->marker == BARE && !is_tool(t, name))) return false;
    tool_call call = {.arguments = arguments_of(v)};
    if (!call.arguments) return false;
    call.name = upg_strdup(name, strlen(name), NULL);
    tool_call *more = call.name ? upg_resize(t->calls, (size_t)t->n + 1, sizeof *more, NULL) : NULL;
    if (more) {
        t->calls = more;
        t->calls[t->n++] = call;
        return true;
    }
    free(call.name);
    free(call.arguments);
    t->failed = true;
    return false;
}

// One call or an array of them; all or none.
static bool add_calls(tool_parser *t, const char *text, size_t size) {
    yyjson_doc *d = yyjson_read(text, size, YYJSON_READ_BIGNUM_AS_RAW);
    yyjson_val *root = yyjson_doc_get_root(d), *v;
    const int before = t->n;
    bool ok = root != NULL;
    size_t i, n;
    if (yyjson_is_arr(root)) {
        yyjson_arr_foreach(root, i, n, v) ok = ok && add_call(t, v);
    } else if (root) {
        ok = add_call(t, root);
    }
    yyjson_doc_free(d);
    if (ok) return t->n > before;
    while (t->n > before) {
        t->n--;
        free(t->calls[t->n].name);
        free(t->calls[t->n].arguments);
    }
    return false;
}

// ---- Where calls are ----

// Moves the first n held bytes: to the text, or nowhere.
static void take(tool_parser *t, size_t n, bool text) {
    if (!n) return;
    if (text) upg_buf_add(&t->text, t->held.data, n);
    memmove(t->held.data, t->held.data + n, t->held.size - n);
    t->held.size -= n;
    t->begun = true;
}

// Bytes at the end of the held text that a marker may begin with.
static size_t doubtful(const tool_parser *t) {
    size_t most = 0;
    for (int i = 0; i < N_MARKERS; i++) {
        size_t n = strlen(markers[i].begin) - 1;
        if (n > t->held.size) n = t->held.size;
        while (n > most && memcmp(t->held.data + t->held.size - n, markers[i].begin, n)) n--;
        if (n > most) most = n;
    }
    return most;
}

static size_t blanks(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", s[i]) && s[i]) i++;
    return i;
}

// Looks for a marker in held text; false if there is none yet.
static bool find_marker(tool_parser *t, bool end) {
    const char *first = NULL;
    size_t skip = blanks(t->held.data, t->held.size);
    if (!t->begun && skip < t->held.size && t->held.data[skip] == '{') {
        t->marker = BARE;
        return true;
    }
    for (int i = 0; i < N_MARKERS; i++) {
        const char *at = memmem(t->held.data, t->held.size, markers[i].begin, strlen(markers[i].begin));
        if (!at || (first && at > first)) continue;
        first = at;
        t->marker = i;
    }
    // Blanks at the beginning may be followed by a bare call.
    bool only_blanks = !t->begun && skip == t->held.size;
    if (first)
        take(t, (size_t)(first - t->held.data), true);
    else if (end || !only_blanks)
        take(t, t->held.size - (end ? 0 : doubtful(t)), true);
    return first;
}

// With a marker at the beginning of what is held: the call, once its end is there; false if it is not yet.
static bool finish_call(tool_parser *t, bool end) {
    const bool bare = t->marker == BARE;
    const char *closing = bare ? NULL : markers[t->marker].end;
    size_t begin = bare ? 0 : strlen(markers[t->marker].begin), rest = t->held.size - begin;
    const char *body = t->held.data + begin;
    const char *at = closing ? memmem(body, rest, closing, strlen(closing)) : NULL;
    if (!at && !end) return false;
    size_t n = at ? (size_t)(at - body) : rest;
    const size_t before = blanks(body, n);
    size_t size = n;
    while (size > before && blanks(body + size - 1, 1)) size--;
    bool call = size > before && add_calls(t, body + before, size - before);
    take(t, begin + n + (at ? strlen(closing) : 0), !call);
    t->marker = -1;
    return true;
}

void tool_parser_push(tool_parser *t, const char *data, size_t size, bool end, const char **text, size_t *n) {
    t->text.size = 0;
    upg_buf_add(&t->held, data, size);
    while (t->held.size && !t->held.failed) {
        if (t->marker < 0 && !find_marker(t, end)) break;
        if (!finish_call(t, end)) break;
    }
    t->failed |= t->held.failed || t->text.failed;
    *text = t->text.data ? t->text.data : "";
    *n = t->failed ? 0 : t->text.size;
}
