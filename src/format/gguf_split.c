// Models split over several GGUF files, NAME-00001-of-0000N.gguf. The first part has the metadata; the others have at
// least split.no and split.count. A part that is missing, of another model or there twice is an error: any answer to
// it might load a model that nobody made.
#include "format/gguf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX "-%05d-of-%05d.gguf"

// A whole number of the metadata within lo..hi; *x stays as it is if the key is absent.
static int whole(const upg_gguf *g, const char *key, double lo, double hi, int64_t *x, upg_error *e) {
    const upg_gguf_value *v = upg_gguf_find(g, key);
    double d;
    if (!v) return 0;
    if (!upg_gguf_number(v, &d) || !(d >= lo && d <= hi) || d != (double)(int64_t)d)
        return upg_fail(e, "%s: metadata '%s' is no whole number within %.0f..%.0f", g->path, key, lo, hi);
    *x = (int64_t)d;
    return 0;
}

typedef struct place {
    int64_t no, count, tensors; // no from 0; tensors -1: not said
} place;

static int place_of(const upg_gguf *g, place *p, upg_error *e) {
    *p = (place){.count = 1, .tensors = -1};
    if (whole(g, "split.count", 0, 99999, &p->count, e)) return -1;
    if (!p->count) p->count = 1;
    return whole(g, "split.no", 0, (double)p->count - 1, &p->no, e) ||
                   whole(g, "split.tensors.count", 0, 1e9, &p->tensors, e)
               ? -1
               : 0;
}

static int open_part(upg_file *f, const char *base, size_t n, int part, int count, upg_error *e) {
    upg_buf path = {0};
    upg_buf_add(&path, base, n);
    upg_buf_fmt(&path, SUFFIX, part + 1, count);
    int rc = upg_buf_check(&path, e);
    if (!rc && !upg_path_exists(path.data))
        rc = upg_fail(e, "%s: part %d of %d of the model is missing", path.data, part + 1, count);
    if (!rc) rc = upg_file_open(f, path.data, e);
    upg_buf_free(&path);
    return rc;
}

// Opens the parts beside *file, which becomes one of files.
static int open_others(upg_file *file, const place *p, upg_file *files, upg_error *e) {
    char suffix[64];
    int count = (int)p->count;
    snprintf(suffix, sizeof suffix, SUFFIX, (int)p->no + 1, count);
    size_t size = strlen(file->path), tail = strlen(suffix);
    if (size < tail || strcmp(file->path + size - tail, suffix))
        return upg_fail(e, "%s: it is part %d of %d of a model, but its name does not end in %s", file->path,
                        (int)p->no + 1, count, suffix);
    char *path = file->path;
    for (int i = 0; i < count; i++) {
        if (i == p->no) {
            files[i] = *file;
            *file = (upg_file){0};
        } else if (open_part(&files[i], path, size - tail, i, count, e)) {
            return -1;
        }
    }
    return 0;
}

int upg_gguf_find_parts(upg_file *file, upg_file **files, size_t *n, upg_error *e) {
    upg_gguf g;
    place p;
    *files = NULL;
    *n = 0;
    int rc = upg_gguf_parse(&g, file->data, file->size, file->path, e);
    if (!rc) {
        rc = place_of(&g, &p, e);
        upg_gguf_free(&g);
    }
    if (!rc && (*files = upg_alloc((size_t)p.count, sizeof **files, e))) {
        *n = (size_t)p.count;
        if (p.count > 1)
            rc = open_others(file, &p, *files, e);
        else
            **files = *file;
        if (!rc) return 0;
    }
    upg_file_close(file);
    for (size_t i = 0; i < *n; i++) upg_file_close(&(*files)[i]);
    free(*files);
    *files = NULL;
    *n = 0;
    return -1;
}

// Whatever a later part says must be what the first says.
static int same_metadata(const upg_gguf *first, const upg_gguf *part, upg_error *e) {
    for (size_t i = 0; i < part->n_values; i++) {
        const upg_gguf_value *v = &part->values[i];
        if (v->key_size == 8 && !memcmp(v->key, "split.no", 8)) continue;
        const upg_gguf_value *f = upg_gguf_find_n(first, v->key, v->key_size);
        if (!f || f->type != v->type || f->element != v->element || f->size != v->size ||
            memcmp(f->data, v->data, v->size))
            return upg_fail(e, "%s: metadata '%.*s' is not what %s says", part->path,
                            (int)(v->key_size < 100 ? v->key_size : 100), v->key, first->path);
    }
    return 0;
}

int upg_gguf_check_parts(const upg_gguf *parts, size_t n, upg_error *e) {
    size_t tensors = 0;
    place first = {0}, p;
    for (size_t i = 0; i < n; i++) {
        const upg_gguf *g = &parts[i];
        if (place_of(g, &p, e)) return -1;
        if (!i) first = p;
        if (p.count != (int64_t)n || p.no != (int64_t)i)
            return upg_fail(e, "%s: it says to be part %d of %d, not %zu of %zu", g->path, (int)p.no + 1, (int)p.count,
                            i + 1, n);
        if (i && same_metadata(&parts[0], g, e)) return -1;
        tensors += g->n_tensors;
    }
    if (n > 1 && first.tensors >= 0 && (size_t)first.tensors != tensors)
        return upg_fail(e, "%s: split.tensors.count is %lld, but the parts have %zu tensors", parts[0].path,
                        (long long)first.tensors, tensors);
    return 0;
}
