// Original models: a Hugging Face folder (or one .safetensors file in it) as named tensors and texts. Nothing is
// converted here: the tensors stay in the mapped files, and the texts are handed on as they are once they are known to
// be sound.
//
// A shard index is a second opinion on what is where. Any disagreement between it and the shards is an error, because
// either answer might load a model that nobody trained.
#include "format/json.h"
#include "format/upg_file.h"
#include <stdlib.h>
#include <string.h>

#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

static char *join(const char *folder, const char *name, upg_error *e) {
    upg_buf b = {0};
    upg_buf_fmt(&b, "%s/%s", folder, name);
    if (!upg_buf_check(&b, e)) return b.data;
    upg_buf_free(&b);
    return NULL;
}

// Makes room for n files of tensors.
static int make_storage(upg_weights *w, size_t n, upg_error *e) {
    struct upg_weights_storage *s = w->storage = upg_alloc(1, sizeof *s, e);
    if (!s) return -1;
    s->files = upg_alloc(n, sizeof *s->files, e);
    s->headers = upg_alloc(n, sizeof *s->headers, e);
    return s->files && s->headers ? 0 : -1;
}

// ---- Texts ----

// *text stays NULL if there is no such file. A JSON file must be an object without duplicate keys; with doc it is
// handed over.
static int read_text(char **text, const char *folder, const char *name, bool json, yyjson_doc **doc, upg_error *e) {
    if (doc) *doc = NULL;
    char *path = join(folder, name, e);
    if (!path) return -1;
    int rc = -1;
    size_t size;
    yyjson_doc *d = NULL;
    if (!upg_path_exists(path)) {
        rc = 0;
    } else if ((*text = upg_read_text(path, UPG_JSON_MAX, &size, e))) {
        if (strlen(*text) != size)
            upg_fail(e, "%s: contains a NUL", path);
        else if (!json || (d = upg_json_object(*text, size, YYJSON_READ_NUMBER_AS_RAW, path, e)))
            rc = 0;
    }
    free(path);
    if (doc)
        *doc = d;
    else
        yyjson_doc_free(d);
    return rc;
}

// The template inside tokenizer_config.json: a string, or a list of named ones of which "default" is meant.
static yyjson_val *find_template(yyjson_doc *doc) {
    yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(doc), "chat_template"), *item;
    size_t i, max;
    yyjson_arr_foreach(v, i, max, item) {
        if (yyjson_equals_str(yyjson_obj_get(item, "name"), "default")) return yyjson_obj_get(item, "template");
    }
    return yyjson_is_str(v) ? v : NULL;
}

static int read_texts(upg_weights *w, const char *folder, upg_error *e) {
    if (read_text(&w->config, folder, "config.json", true, NULL, e)) return -1;
    if (!w->config) return upg_fail(e, "%s: no config.json there, which a model folder needs", folder);
    if (read_text(&w->generation_config, folder, "generation_config.json", true, NULL, e)) return -1;
    if (read_text(&w->tokenizer_json, folder, "tokenizer.json", false, NULL, e)) return -1;
    if (read_text(&w->chat_template, folder, "chat_template.jinja", false, NULL, e)) return -1;
    yyjson_doc *doc;
    int rc = read_text(&w->tokenizer_config, folder, "tokenizer_config.json", true, &doc, e);
    yyjson_val *template = w->chat_template ? NULL : find_template(doc);
    if (!rc && template) {
        const char *s = upg_json_string(template);
        if (!s)
            rc = upg_fail(e, "%s/tokenizer_config.json: chat_template is not a string without NUL", folder);
        else if (!(w->chat_template = upg_strdup(s, strlen(s), e)))
            rc = -1;
    }
    yyjson_doc_free(doc);
    if (!rc && !w->tokenizer_json) rc = upg_source_tokenizer(w, folder, e);
    return rc;
}

// ---- Tensors ----

static int make_tensor(upg_tensor *t, const upg_safetensors *st, const upg_safetensors_entry *s, const char *file,
                       upg_error *e) {
    upg_encoding encoding;
    if (!strcmp(s->dtype, "F32"))
        encoding = UPG_F32;
    else if (!strcmp(s->dtype, "F16"))
        encoding = UPG_F16;
    else if (!strcmp(s->dtype, "BF16"))
        encoding = UPG_BF16;
    else
        return upg_fail(e, "%s: tensor '%s': dtype %s is not supported (F32, F16 and BF16 are)", file, s->name,
                        s->dtype);
    if (s->rank < 1 || s->rank > 2)
        return upg_fail(e, "%s: tensor '%s': has %zu dimensions; only vectors and matrices are supported", file,
                        s->name, s->rank);
    uint64_t rows = s->rank == 2 ? s->shape[0] : 1, cols = s->shape[s->rank - 1];
    if (rows > INT32_MAX || cols > INT32_MAX || !upg_encoded_bytes(encoding, 0, (int64_t)rows, (int64_t)cols))
        return upg_fail(e, "%s: tensor '%s': its shape is empty or too large", file, s->name);
    *t = (upg_tensor){.name = s->name, .encoding = encoding, .rows = (int64_t)rows, .cols = (int64_t)cols};
    t->data = st->data + s->begin;
    t->bytes = s->end - s->begin;
    return 0;
}

// All tensors of all files, by name.
static int collect(upg_weights *w, const char *name, upg_error *e) {
    struct upg_weights_storage *s = w->storage;
    size_t n = 0;
    for (size_t i = 0; i < s->n_files; i++) n += s->headers[i].n;
    w->tensors = upg_alloc(n, sizeof *w->tensors, e);
    if (!w->tensors) return -1;
    for (size_t i = 0; i < s->n_files; i++) {
        const upg_safetensors *st = &s->headers[i];
        w->file_bytes += s->files[i].size;
        for (size_t j = 0; j < st->n; j++)
            if (make_tensor(&w->tensors[w->n++], st, &st->entries[j], s->files[i].path, e)) return -1;
    }
    return upg_weights_sort(w, name, e);
}

static int open_shard(upg_weights *w, const char *folder, const char *name, upg_error *e) {
    struct upg_weights_storage *s = w->storage;
    char *path = join(folder, name, e);
    if (!path) return -1;
    int rc = upg_file_open(&s->files[s->n_files], path, e);
    if (!rc) {
        upg_file *f = &s->files[s->n_files];
        rc = upg_safetensors_parse(&s->headers[s->n_files++], f->data, f->size, path, e);
    }
    free(path);
    return rc;
}

// ---- The shard index ----

typedef struct located {
    const char *tensor, *file;
} located;

static int by_tensor(const void *a, const void *b) {
    return strcmp(((const located *)a)->tensor, ((const located *)b)->tensor);
}

static int by_file(const void *a, const void *b) {
    return strcmp(((const located *)a)->file, ((const located *)b)->file);
}

// The index's entries in the order of their files, [n].
static located *read_map(yyjson_doc *doc, size_t *n, upg_error *e) {
    yyjson_val *weights = yyjson_obj_get(yyjson_doc_get_root(doc), "weight_map"), *key, *value;
    *n = yyjson_obj_size(weights);
    if (!*n) {
        upg_fail(e, INDEX_NAME ": no weight_map with tensors in it");
        return NULL;
    }
    if (upg_json_unique_keys(weights, INDEX_NAME, e)) return NULL;
    located *map = upg_alloc(*n, sizeof *map, e);
    if (!map) return NULL;
    size_t i, max;
    yyjson_obj_foreach(weights, i, max, key, value) {
        map[i] = (located){.tensor = yyjson_get_str(key), .file = upg_json_string(value)};
        const char *f = map[i].file;
        if (!f || !*f || strchr(f, '/') || strchr(f, '\\') || !strcmp(f, ".") || strstr(f, "..")) {
            upg_fail(e, INDEX_NAME ": tensor '%s': '%s' is not a plain file name", map[i].tensor, f ? f : "");
            free(map);
            return NULL;
        }
    }
    qsort(map, *n, sizeof *map, by_file);
    return map;
}

// Every tensor of a shard is in the map, and there under that shard. names[i] is shard i's name. map: in the order of
// tensors.
static int check_shards(const upg_weights *w, const located *map, size_t n, const char *const *names, upg_error *e) {
    const struct upg_weights_storage *s = w->storage;
    size_t found = 0;
    for (size_t i = 0; i < s->n_files; i++) {
        for (size_t j = 0; j < s->headers[i].n; j++) {
            located key = {.tensor = s->headers[i].entries[j].name};
            const located *l = bsearch(&key, map, n, sizeof *map, by_tensor);
            if (!l) return upg_fail(e, "%s: tensor '%s' is not in " INDEX_NAME, s->files[i].path, key.tensor);
            if (strcmp(l->file, names[i]))
                return upg_fail(e, "%s: tensor '%s' is there, but by " INDEX_NAME " in '%s'", s->files[i].path,
                                key.tensor, l->file);
            found++;
        }
    }
    if (found == n) return 0;
    for (size_t i = 0; i < n; i++)
        if (!upg_weights_find(w, map[i].tensor))
            return upg_fail(e, INDEX_NAME ": tensor '%s' is not in '%s'", map[i].tensor, map[i].file);
    return upg_fail(e, INDEX_NAME ": does not match its shards");
}

static int open_sharded(upg_weights *w, const char *folder, yyjson_doc *doc, upg_error *e) {
    size_t n, n_files = 0;
    located *map = read_map(doc, &n, e);
    if (!map) return -1;
    const char **names = upg_alloc(n, sizeof *names, e);
    int rc = names ? 0 : -1;
    for (size_t i = 0; !rc && i < n; i++)
        if (!i || strcmp(map[i - 1].file, map[i].file)) names[n_files++] = map[i].file;
    if (!rc) rc = make_storage(w, n_files, e);
    for (size_t i = 0; !rc && i < n_files; i++) rc = open_shard(w, folder, names[i], e);
    if (!rc) {
        qsort(map, n, sizeof *map, by_tensor);
        rc = collect(w, folder, e);
    }
    if (!rc) rc = check_shards(w, map, n, names, e);
    free(names);
    free(map);
    return rc;
}

// ---- Entry points ----

static int open_tensors(upg_weights *w, const char *folder, upg_error *e) {
    char *single = join(folder, SINGLE_NAME, e), *index = NULL;
    if (!single) return -1;
    bool is_single = upg_path_exists(single);
    free(single);
    if (is_single) {
        if (make_storage(w, 1, e) || open_shard(w, folder, SINGLE_NAME, e)) return -1;
        return collect(w, folder, e);
    }
    yyjson_doc *doc;
    int rc = read_text(&index, folder, INDEX_NAME, true, &doc, e);
    if (!rc && !doc) rc = upg_fail(e, "%s: neither " SINGLE_NAME " nor " INDEX_NAME " there", folder);
    if (!rc) rc = open_sharded(w, folder, doc, e);
    yyjson_doc_free(doc);
    free(index);
    return rc;
}

static int finish(upg_weights *w, int rc, const char *name, upg_error *e) {
    if (!rc && !w->n) rc = upg_fail(e, "%s: no tensors in it", name);
    if (rc) upg_weights_close(w);
    return rc;
}

int upg_source_open_folder(upg_weights *w, const char *folder, upg_error *e) {
    *w = (upg_weights){0};
    int rc = read_texts(w, folder, e);
    if (!rc) rc = open_tensors(w, folder, e);
    return finish(w, rc, folder, e);
}

int upg_source_open_file(upg_weights *w, upg_file *file, upg_safetensors *st, upg_error *e) {
    *w = (upg_weights){0};
    if (make_storage(w, 1, e)) {
        upg_safetensors_close(st);
        upg_file_close(file);
        return finish(w, -1, "", e);
    }
    const char *path = file->path, *slash = strrchr(path, '/');
    w->storage->files[0] = *file;
    w->storage->headers[0] = *st;
    w->storage->n_files = 1;
    char *folder = slash ? upg_strdup(path, slash == path ? 1 : (size_t)(slash - path), e) : upg_strdup(".", 1, e);
    int rc = folder ? read_texts(w, folder, e) : -1;
    if (!rc) rc = collect(w, path, e);
    free(folder);
    return finish(w, rc, path, e);
}
