// Conversations in memory and in files. See messages.h.
#include "cli/messages.h"
#include "text/unicode.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE = 64 << 20 };

int cli_messages_init(cli_messages *m, upg_error *e) {
    m->doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *list = m->doc ? yyjson_mut_arr(m->doc) : NULL;
    if (!list) return upg_fail(e, "out of memory");
    yyjson_mut_doc_set_root(m->doc, list);
    return 0;
}

void cli_messages_free(cli_messages *m) {
    yyjson_mut_doc_free(m->doc);
    m->doc = NULL;
}

static yyjson_mut_val *list_of(const cli_messages *m) {
    return yyjson_mut_doc_get_root(m->doc);
}

size_t cli_messages_count(const cli_messages *m) {
    return yyjson_mut_arr_size(list_of(m));
}

static bool is_utf8(const char *s, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int size = upg_utf8_decode((const uint8_t *)s + i, n - i, &cp);
        if (cp > 0x10FFFF) return false;
        i += (size_t)size;
    }
    return true;
}

static yyjson_mut_val *make(cli_messages *m, const char *role, const char *text, size_t n, upg_error *e) {
    if (!is_utf8(text, n)) {
        upg_fail(e, "the text is not valid UTF-8");
        return NULL;
    }
    yyjson_mut_val *o = yyjson_mut_obj(m->doc);
    if (o && yyjson_mut_obj_add_strcpy(m->doc, o, "role", role) &&
        yyjson_mut_obj_add_strncpy(m->doc, o, "content", text, n))
        return o;
    upg_fail(e, "out of memory");
    return NULL;
}

yyjson_mut_val *cli_messages_pop(cli_messages *m) {
    return yyjson_mut_arr_remove_last(list_of(m));
}

void cli_messages_put(cli_messages *m, yyjson_mut_val *message) {
    yyjson_mut_arr_append(list_of(m), message);
}

int cli_messages_add(cli_messages *m, const char *role, const char *text, size_t n, upg_error *e) {
    yyjson_mut_val *o = make(m, role, text, n, e);
    if (!o) return -1;
    cli_messages_put(m, o);
    return 0;
}

static bool has_role(yyjson_mut_val *message, const char *role) {
    return yyjson_mut_equals_str(yyjson_mut_obj_get(message, "role"), role);
}

bool cli_messages_last_is(const cli_messages *m, const char *role) {
    return has_role(yyjson_mut_arr_get_last(list_of(m)), role);
}

int cli_messages_system(cli_messages *m, const char *text, upg_error *e) {
    yyjson_mut_val *o = *text ? make(m, "system", text, strlen(text), e) : NULL;
    if (*text && !o) return -1;
    if (has_role(yyjson_mut_arr_get_first(list_of(m)), "system")) yyjson_mut_arr_remove_first(list_of(m));
    if (o) yyjson_mut_arr_prepend(list_of(m), o);
    return 0;
}

void cli_messages_reset(cli_messages *m) {
    size_t keep = has_role(yyjson_mut_arr_get_first(list_of(m)), "system");
    while (cli_messages_count(m) > keep) cli_messages_pop(m);
}

char *cli_messages_json(const cli_messages *m, bool pretty, size_t *n, upg_error *e) {
    yyjson_write_flag flags = pretty ? YYJSON_WRITE_PRETTY_TWO_SPACES | YYJSON_WRITE_NEWLINE_AT_END : 0;
    yyjson_write_err err;
    char *text = yyjson_mut_write_opts(m->doc, flags, NULL, n, &err);
    if (!text) upg_fail(e, "the messages cannot be written as JSON: %s", err.msg);
    return text;
}

int cli_messages_load(cli_messages *m, const char *path, upg_error *e) {
    size_t n, i, max;
    char *text = upg_read_text(path, MAX_FILE, &n, e);
    if (!text) return -1;
    yyjson_read_err err;
    yyjson_doc *doc = yyjson_read_opts(text, n, YYJSON_READ_NUMBER_AS_RAW, NULL, &err);
    yyjson_val *root = yyjson_doc_get_root(doc), *message;
    int rc = 0;
    if (!doc)
        rc = upg_fail(e, "%s: not valid JSON at byte %zu: %s", path, err.pos, err.msg);
    else if (!yyjson_is_arr(root))
        rc = upg_fail(e, "%s: not a JSON array of messages", path);
    yyjson_arr_foreach(root, i, max, message) {
        if (!rc && !yyjson_is_str(yyjson_obj_get(message, "role")))
            rc = upg_fail(e, "%s: message %zu has no role", path, i);
    }
    yyjson_mut_doc *copy = rc ? NULL : yyjson_doc_mut_copy(doc, NULL);
    if (!rc && !copy) rc = upg_fail(e, "out of memory");
    if (!rc) {
        cli_messages_free(m);
        m->doc = copy;
    }
    yyjson_doc_free(doc);
    free(text);
    return rc;
}

// Conversations are private: the file is for its owner only.
int cli_messages_save(const cli_messages *m, const char *path, upg_error *e) {
    size_t n;
    char *text = cli_messages_json(m, true, &n, e);
    if (!text) return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    bool ok = f && fwrite(text, 1, n, f) == n;
    if (f) ok = !fclose(f) && ok;
    free(text);
    return ok ? 0 : upg_fail(e, "%s: %s", path, strerror(errno));
}
