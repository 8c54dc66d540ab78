// Strict JSON objects. See json.h.
#include "format/json.h"
#include <stdlib.h>
#include <string.h>

const char *upg_json_string(yyjson_val *v) {
    const char *s = yyjson_get_str(v);
    return s && strlen(s) == yyjson_get_len(v) ? s : NULL;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int upg_json_unique_keys(yyjson_val *object, const char *name, upg_error *e) {
    size_t n = yyjson_obj_size(object), i, max;
    const char **keys = upg_alloc(n, sizeof *keys, e);
    if (!keys) return -1;
    int rc = 0;
    yyjson_val *key, *value;
    yyjson_obj_foreach(object, i, max, key, value) {
        (void)value;
        keys[i] = upg_json_string(key);
        if (!keys[i]) rc = upg_fail(e, "%s: key '%s' goes on after a NUL", name, yyjson_get_str(key));
    }
    if (!rc) qsort(keys, n, sizeof *keys, by_text);
    for (size_t k = 1; !rc && k < n; k++)
        if (!strcmp(keys[k - 1], keys[k])) rc = upg_fail(e, "%s: duplicate key '%s'", name, keys[k]);
    free(keys);
    return rc;
}

yyjson_doc *upg_json_object(const char *text, size_t size, yyjson_read_flag flags, const char *name, upg_error *e) {
    yyjson_read_err err;
    // Without YYJSON_READ_INSITU the text is only read, whatever the parameter's type says.
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, size, flags & ~YYJSON_READ_INSITU, NULL, &err);
    if (!doc) {
        upg_fail(e, "%s: not valid JSON at byte %zu: %s", name, err.pos, err.msg);
        return NULL;
    }
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (!yyjson_is_obj(root))
        upg_fail(e, "%s: not a JSON object", name);
    else if (!upg_json_unique_keys(root, name, e))
        return doc;
    yyjson_doc_free(doc);
    return NULL;
}

void upg_json_quote(upg_buf *b, const char *s, size_t n) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *v = d ? yyjson_mut_strn(d, s, n) : NULL;
    size_t size = 0;
    char *text = v ? yyjson_mut_val_write(v, 0, &size) : NULL;
    if (text)
        upg_buf_add(b, text, size);
    else
        b->failed = true;
    free(text);
    yyjson_mut_doc_free(d);
}
