// Writing a .upg (docs/format.md). The list of tensors fixes where everything lies, so a file's size is known before
// its first byte, and each tensor goes straight to its final place whenever it is ready, from whatever thread.
//
// Only the header has to wait: it holds the tensors' hashes (of fixed width) and the report. Room for the longest
// header is kept at the front, and what is left of it is spaces, which JSON ignores. The report is minified JSON inside
// a JSON string, where quotes and backslashes, and nothing else, take two bytes: so twice its size is always enough.
#include "format/json.h"
#include "format/upg_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPORT_KEY_ROOM = 16 }; // ,\"report\": is 12 bytes

// A run of bytes in the file: a tensor's data or its row scales.
typedef struct item {
    size_t tensor;
    bool is_scale, placed;
    size_t bytes;
    uint64_t begin; // within the data area
} item;

typedef struct hashes {
    uint8_t data[16], scale[16];
} hashes;

// All that follows from upg_writer_new's arguments.
typedef struct plan {
    upg_writer_tensor *tensors; // [n], names owned
    size_t n;
    yyjson_doc *config;
    char *chat_template; // or NULL
    uint64_t rotation_seed;
    item *items; // [n_items], in the order of the file
    size_t n_items;
    size_t *data_item, *scale_item; // [n], tensor -> item
    size_t data_size, data_start;
    size_t report_room;
} plan;

struct upg_writer {
    plan plan;
    char *path, *temporary;
    bool keep;         // the temporary file outlives the writer
    int fd, folder_fd; // -1: none
    hashes *hashes;    // [n]
    atomic_int *state; // [n]: 0 nothing, 1 being written, 2 written
};

// ---- The layout ----

static void place(plan *p, item *it, uint64_t *end) {
    size_t a = upg_file_alignment(it->bytes);
    it->begin = (*end + a - 1) / a * a;
    it->placed = true;
    *end = it->begin + it->bytes;
    p->items[p->n_items++] = *it;
}

// Large items in the order given, each at its page; small ones fill the gaps before them as far as they fit, and
// follow.
static void lay_out(plan *p, item *list, size_t n) {
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (list[i].bytes < UPG_LARGE) continue;
        uint64_t page = (end + UPG_PAGE - 1) / UPG_PAGE * UPG_PAGE;
        for (size_t k = 0; k < n && end < page; k++) {
            uint64_t line = (end + UPG_LINE - 1) / UPG_LINE * UPG_LINE;
            if (!list[k].placed && list[k].bytes < UPG_LARGE && line + list[k].bytes <= page) place(p, &list[k], &end);
        }
        place(p, &list[i], &end);
    }
    for (size_t i = 0; i < n; i++)
        if (!list[i].placed) place(p, &list[i], &end);
    p->data_size = (end + UPG_LINE - 1) / UPG_LINE * UPG_LINE + UPG_TAIL;
}

static int plan_items(plan *p, upg_error *e) {
    item *list = upg_alloc(p->n, 2 * sizeof *list, e);
    p->items = upg_alloc(p->n, 2 * sizeof *p->items, e);
    p->data_item = upg_alloc(p->n, sizeof *p->data_item, e);
    p->scale_item = upg_alloc(p->n, sizeof *p->scale_item, e);
    if (!list || !p->items || !p->data_item || !p->scale_item) {
        free(list);
        return -1;
    }
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const upg_writer_tensor *t = &p->tensors[i];
        list[n++] = (item){.tensor = i, .bytes = upg_encoded_bytes(t->encoding, t->s, t->rows, t->cols)};
        if (upg_encoding_is_coded(t->encoding))
            list[n++] = (item){.tensor = i, .is_scale = true, .bytes = (size_t)t->rows * 4};
    }
    lay_out(p, list, n);
    for (size_t i = 0; i < p->n_items; i++) {
        size_t *index = p->items[i].is_scale ? p->scale_item : p->data_item;
        index[p->items[i].tensor] = i;
    }
    free(list);
    return 0;
}

// ---- The header ----

static bool add_hash(yyjson_mut_doc *doc, yyjson_mut_val *v, const char *key, const uint8_t hash[16]) {
    char hex[UPG_HEX_HASH + 1];
    upg_file_hash_to_hex(hash, hex);
    return yyjson_mut_obj_add_strcpy(doc, v, key, hex);
}

// NULL if memory is short.
static yyjson_mut_val *describe(yyjson_mut_doc *doc, const upg_writer_tensor *t, const hashes *h) {
    yyjson_mut_val *v = yyjson_mut_obj(doc);
    bool ok = yyjson_mut_obj_add_str(doc, v, "encoding", upg_encoding_name(t->encoding));
    if (t->encoding == UPG_TRELLIS)
        ok = ok && (t->s % 2 ? yyjson_mut_obj_add_real(doc, v, "bits", t->s * 0.5)
                             : yyjson_mut_obj_add_int(doc, v, "bits", t->s / 2));
    if (t->encoding == UPG_SPARSE)
        ok = ok && yyjson_mut_obj_add_int(doc, v, "bits", t->s) &&
             yyjson_mut_obj_add_bool(doc, v, "rotated", !t->unrotated);
    ok = ok && yyjson_mut_obj_add_int(doc, v, "rows", t->rows) && yyjson_mut_obj_add_int(doc, v, "cols", t->cols) &&
         add_hash(doc, v, "hash", h->data);
    if (upg_encoding_is_coded(t->encoding)) ok = ok && add_hash(doc, v, "scale_hash", h->scale);
    return ok ? v : NULL;
}

// The JSON of __metadata__.upg. h: [n], or NULL for zeros. The caller frees.
static char *meta_text(const plan *p, const hashes *h, yyjson_doc *report, size_t *size, upg_error *e) {
    static const hashes zero;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *tensors = yyjson_mut_obj(doc);
    char seed[17];
    snprintf(seed, sizeof seed, "%016llx", (unsigned long long)p->rotation_seed);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = yyjson_mut_obj_add_int(doc, root, "version", UPG_FILE_VERSION) &&
              yyjson_mut_obj_add_str(doc, root, "rotation_seed", seed) &&
              yyjson_mut_obj_add_val(doc, root, "config", yyjson_val_mut_copy(doc, yyjson_doc_get_root(p->config))) &&
              (!p->chat_template || yyjson_mut_obj_add_str(doc, root, "chat_template", p->chat_template)) &&
              yyjson_mut_obj_add_val(doc, root, "tensors", tensors);
    for (size_t i = 0; ok && i < p->n; i++)
        ok = yyjson_mut_obj_add_val(doc, tensors, p->tensors[i].name, describe(doc, &p->tensors[i], h ? &h[i] : &zero));
    if (ok && report)
        ok = yyjson_mut_obj_add_val(doc, root, "report", yyjson_val_mut_copy(doc, yyjson_doc_get_root(report)));
    yyjson_write_err err = {.msg = "out of memory"};
    char *text = ok ? yyjson_mut_write_opts(doc, 0, NULL, size, &err) : NULL;
    yyjson_mut_doc_free(doc);
    if (!text) upg_fail(e, "cannot describe the model as JSON: %s", err.msg);
    return text;
}

static bool add_entry(yyjson_mut_doc *doc, const char *name, const char *dtype, uint64_t rows, uint64_t cols,
                      uint64_t begin, uint64_t end) {
    yyjson_mut_val *v = yyjson_mut_obj(doc), *key = yyjson_mut_strcpy(doc, name);
    bool ok = yyjson_mut_obj_add_str(doc, v, "dtype", dtype);
    yyjson_mut_val *shape = yyjson_mut_obj_add_arr(doc, v, "shape");
    ok = ok && (rows == 1 || yyjson_mut_arr_add_uint(doc, shape, rows)) && yyjson_mut_arr_add_uint(doc, shape, cols);
    yyjson_mut_val *offsets = yyjson_mut_obj_add_arr(doc, v, "data_offsets");
    ok = ok && yyjson_mut_arr_add_uint(doc, offsets, begin) && yyjson_mut_arr_add_uint(doc, offsets, end);
    return ok && yyjson_mut_obj_add(yyjson_mut_doc_get_root(doc), key, v);
}

static bool add_item(yyjson_mut_doc *doc, const plan *p, const item *it) {
    const upg_writer_tensor *t = &p->tensors[it->tensor];
    uint64_t end = it->begin + it->bytes;
    if (it->is_scale) {
        upg_buf name = {0};
        upg_buf_fmt(&name, "%s.scale", t->name);
        bool ok = !name.failed && add_entry(doc, name.data, "F32", 1, (uint64_t)t->rows, it->begin, end);
        upg_buf_free(&name);
        return ok;
    }
    if (t->encoding >= UPG_INT8) return add_entry(doc, t->name, "U8", 1, it->bytes, it->begin, end);
    return add_entry(doc, t->name, upg_encoding_name(t->encoding), (uint64_t)t->rows, (uint64_t)t->cols, it->begin,
                     end);
}

// Everything lies in the order of the file, padding between.
static bool add_items(yyjson_mut_doc *doc, const plan *p) {
    uint64_t at = 0;
    size_t n_pads = 0;
    for (size_t i = 0; i <= p->n_items; i++) {
        uint64_t next = i < p->n_items ? p->items[i].begin : p->data_size;
        char name[32];
        snprintf(name, sizeof name, "pad.%zu", n_pads);
        if (next > at && (n_pads++, !add_entry(doc, name, "U8", 1, next - at, at, next))) return false;
        if (i == p->n_items) break;
        if (!add_item(doc, p, &p->items[i])) return false;
        at = next + p->items[i].bytes;
    }
    return true;
}

// The header's JSON, without the spaces behind it. The caller frees.
static char *header_text(const plan *p, const hashes *h, yyjson_doc *report, size_t *size, upg_error *e) {
    size_t meta_size;
    char *meta = meta_text(p, h, report, &meta_size, e), hex[UPG_HEX_HASH + 1];
    if (!meta) return NULL;
    uint8_t hash[16];
    upg_file_hash(meta, meta_size, hash);
    upg_file_hash_to_hex(hash, hex);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *metadata = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    bool ok = yyjson_mut_obj_add_val(doc, root, "__metadata__", metadata) &&
              yyjson_mut_obj_add_strn(doc, metadata, UPG_KEY_META, meta, meta_size) &&
              yyjson_mut_obj_add_str(doc, metadata, UPG_KEY_META_HASH, hex) && add_items(doc, p);
    yyjson_write_err err = {.msg = "out of memory"};
    char *text = ok ? yyjson_mut_write_opts(doc, 0, NULL, size, &err) : NULL;
    yyjson_mut_doc_free(doc);
    free(meta);
    if (!text) upg_fail(e, "cannot write the header: %s", err.msg);
    return text;
}

static int plan_header(plan *p, upg_error *e) {
    size_t size;
    char *text = header_text(p, NULL, NULL, &size, e);
    if (!text) return -1;
    free(text);
    if (p->report_room > UPG_SAFETENSORS_MAX_HEADER / 2)
        return upg_fail(e, "a report of %zu bytes is too long", p->report_room);
    size += 8 + REPORT_KEY_ROOM + 2 * p->report_room;
    p->data_start = (size + UPG_PAGE - 1) / UPG_PAGE * UPG_PAGE;
    if (p->data_start - 8 > UPG_SAFETENSORS_MAX_HEADER)
        return upg_fail(e, "the header would have %zu bytes, more than safetensors allows", p->data_start - 8);
    return 0;
}

// ---- The plan ----

static void free_plan(plan *p) {
    for (size_t i = 0; p->tensors && i < p->n; i++) free((void *)(uintptr_t)p->tensors[i].name);
    free(p->tensors);
    yyjson_doc_free(p->config);
    free(p->chat_template);
    free(p->items);
    free(p->data_item);
    free(p->scale_item);
    *p = (plan){0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const upg_writer_tensor *)a)->name, ((const upg_writer_tensor *)b)->name);
}

static int check_unique(const plan *p, upg_error *e) {
    upg_writer_tensor *t = upg_alloc(p->n, sizeof *t, e);
    if (!t) return -1;
    memcpy(t, p->tensors, p->n * sizeof *t);
    qsort(t, p->n, sizeof *t, by_name);
    int rc = 0;
    for (size_t i = 1; !rc && i < p->n; i++)
        if (!strcmp(t[i - 1].name, t[i].name)) rc = upg_fail(e, "tensor '%s' is there twice", t[i].name);
    free(t);
    return rc;
}

static int copy_tensors(plan *p, const upg_writer_tensor *tensors, size_t n, upg_error *e) {
    if (!n) return upg_fail(e, "a model without tensors cannot be written");
    p->tensors = upg_alloc(n, sizeof *tensors, e);
    if (!p->tensors) return -1;
    for (; p->n < n; p->n++) {
        const upg_writer_tensor *t = &tensors[p->n];
        const char *problem = upg_file_name_problem(t->name, t->encoding);
        if (problem) return upg_fail(e, "tensor '%s': %s", t->name, problem);
        if (!upg_encoded_bytes(t->encoding, t->s, t->rows, t->cols))
            return upg_fail(e, "tensor '%s': %s of %lld x %lld (bits %d) is not allowed", t->name,
                            upg_encoding_name(t->encoding), (long long)t->rows, (long long)t->cols, t->s);
        p->tensors[p->n] = *t;
        p->tensors[p->n].name = upg_strdup(t->name, strlen(t->name), e);
        if (!p->tensors[p->n].name) return -1;
    }
    return check_unique(p, e);
}

static int make_plan(plan *p, const char *config, const char *chat_template, uint64_t rotation_seed,
                     const upg_writer_tensor *tensors, size_t n, size_t report_room, upg_error *e) {
    *p = (plan){.rotation_seed = rotation_seed, .report_room = report_room};
    if (copy_tensors(p, tensors, n, e)) return -1;
    p->config = upg_json_object(config, strlen(config), YYJSON_READ_NUMBER_AS_RAW, "config", e);
    if (!p->config) return -1;
    if (chat_template && !(p->chat_template = upg_strdup(chat_template, strlen(chat_template), e))) return -1;
    return plan_items(p, e) ? -1 : plan_header(p, e);
}

size_t upg_writer_plan(const char *config, const char *chat_template, const upg_writer_tensor *tensors, size_t n,
                       size_t report_room) {
    plan p;
    size_t size =
        make_plan(&p, config, chat_template, 0, tensors, n, report_room, NULL) ? 0 : p.data_start + p.data_size;
    free_plan(&p);
    return size;
}

// ---- The file ----

static int io_error(const upg_writer *w, int code, upg_error *e) {
    return upg_fail(e, "%s: cannot write: %s", w->temporary, strerror(code));
}

static int write_at(const upg_writer *w, const void *data, size_t size, uint64_t offset, upg_error *e) {
    return upg_write_at(w->fd, w->temporary, data, size, offset, e);
}

// Gives the file its size, and its place on the disk where the file system can, so that a full disk is known at once.
static int reserve(const upg_writer *w, upg_error *e) {
    off_t size = (off_t)upg_writer_size(w);
    if (ftruncate(w->fd, size)) return io_error(w, errno, e);
#if defined(__linux__)
    int code;
    while ((code = fallocate(w->fd, 0, 0, size) ? errno : 0) == EINTR) continue;
    if (code && code != EOPNOTSUPP && code != ENOSYS) return io_error(w, code, e);
#endif
    return 0;
}

// Opened before there is anything to lose. Without read permission it is -1.
static int open_folder(upg_writer *w, upg_error *e) {
    const char *slash = strrchr(w->path, '/');
    size_t n = slash == w->path ? 1 : slash ? (size_t)(slash - w->path) : 0;
    char *folder = upg_strdup(n ? w->path : ".", n ? n : 1, e);
    if (!folder) return -1;
    w->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    return 0;
}

static int create(upg_writer *w, const char *temporary, upg_error *e) {
    if (upg_path_is_dir(w->path)) return upg_fail(e, "%s: is a directory", w->path);
    w->keep = temporary;
    if (temporary)
        w->temporary = upg_strdup(temporary, strlen(temporary), e);
    else
        w->temporary = upg_alloc(strlen(w->path) + 64, 1, e);
    if (!w->temporary || open_folder(w, e)) return -1;
    if (temporary) w->fd = open(temporary, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    // A process may write the same target twice, and a dead one may have had our process id.
    for (int k = 0; k < 1000 && !temporary; k++) {
        snprintf(w->temporary, strlen(w->path) + 64, "%s.partial.%ld.%d", w->path, (long)getpid(), k);
        w->fd = open(w->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0 || errno != EEXIST) break;
    }
    return w->fd < 0 ? upg_fail(e, "%s: cannot create: %s", w->temporary, strerror(errno)) : reserve(w, e);
}

static void discard(upg_writer *w) {
    if (w->fd >= 0) {
        close(w->fd);
        if (!w->keep) unlink(w->temporary);
    }
    w->fd = -1;
}

upg_writer *upg_writer_resume(const char *path, const char *temporary, const char *config, const char *chat_template,
                              uint64_t rotation_seed, const upg_writer_tensor *tensors, size_t n, size_t report_room,
                              upg_error *e) {
    upg_writer *w = upg_alloc(1, sizeof *w, e);
    if (!w) return NULL;
    w->fd = w->folder_fd = -1;
    w->path = upg_strdup(path, strlen(path), e);
    if (w->path && !make_plan(&w->plan, config, chat_template, rotation_seed, tensors, n, report_room, e)) {
        w->hashes = upg_alloc(n, sizeof *w->hashes, e);
        w->state = upg_alloc(n, sizeof *w->state, e);
        if (w->hashes && w->state && !create(w, temporary, e)) return w;
    }
    upg_writer_free(w);
    return NULL;
}

upg_writer *upg_writer_new(const char *path, const char *config, const char *chat_template, uint64_t rotation_seed,
                           const upg_writer_tensor *tensors, size_t n, size_t report_room, upg_error *e) {
    return upg_writer_resume(path, NULL, config, chat_template, rotation_seed, tensors, n, report_room, e);
}

size_t upg_writer_size(const upg_writer *w) {
    return w->plan.data_start + w->plan.data_size;
}

int upg_writer_put(upg_writer *w, size_t i, const void *data, const float *scale, upg_error *e) {
    const plan *p = &w->plan;
    if (i >= p->n) return upg_fail(e, "%s: tensor %zu of %zu", w->path, i, p->n);
    const upg_writer_tensor *t = &p->tensors[i];
    bool coded = upg_encoding_is_coded(t->encoding);
    if (!data || coded != (scale != NULL))
        return upg_fail(e, "tensor '%s': %s", t->name,
                        !data   ? "no data"
                        : coded ? "no row scales"
                                : "has no row scales");
    int64_t row = coded ? upg_file_bad_scale(scale, t->rows) : t->rows;
    if (row < t->rows)
        return upg_fail(e, "tensor '%s': scale %g of row %lld is neither 0 nor within 2^-50..2^30", t->name,
                        (double)scale[row], (long long)row);
    if (w->fd < 0) return upg_fail(e, "%s: is finished or failed", w->path);
    int none = 0;
    if (!atomic_compare_exchange_strong(&w->state[i], &none, 1))
        return upg_fail(e, "tensor '%s': was written before", t->name);
    const item *it = &p->items[p->data_item[i]];
    upg_file_hash(data, it->bytes, w->hashes[i].data);
    if (write_at(w, data, it->bytes, p->data_start + it->begin, e)) return -1;
    if (coded) {
        it = &p->items[p->scale_item[i]];
        upg_file_hash(scale, it->bytes, w->hashes[i].scale);
        if (write_at(w, scale, it->bytes, p->data_start + it->begin, e)) return -1;
    }
    atomic_store(&w->state[i], 2);
    return 0;
}

void upg_writer_hashes(const upg_writer *w, size_t i, uint8_t data[16], uint8_t scale[16]) {
    memcpy(data, w->hashes[i].data, 16);
    memcpy(scale, w->hashes[i].scale, 16);
}

static bool read_item(const upg_writer *w, const item *it, const uint8_t expected[16], void *out) {
    uint8_t hash[16];
    if (upg_read_at(w->fd, w->temporary, out, it->bytes, w->plan.data_start + it->begin, NULL)) return false;
    upg_file_hash(out, it->bytes, hash);
    return !memcmp(hash, expected, 16);
}

bool upg_writer_recover(upg_writer *w, size_t i, const uint8_t data_hash[16], const uint8_t scale_hash[16], void *data,
                        float *scale) {
    const plan *p = &w->plan;
    if (i >= p->n || w->fd < 0 || upg_encoding_is_coded(p->tensors[i].encoding) != (scale != NULL)) return false;
    if (!read_item(w, &p->items[p->data_item[i]], data_hash, data)) return false;
    if (scale && !read_item(w, &p->items[p->scale_item[i]], scale_hash, scale)) return false;
    int none = 0;
    if (!atomic_compare_exchange_strong(&w->state[i], &none, 2) && none != 2) return false;
    memcpy(w->hashes[i].data, data_hash, 16);
    if (scale) memcpy(w->hashes[i].scale, scale_hash, 16);
    return true;
}

static int write_header(const upg_writer *w, const char *report, upg_error *e) {
    const plan *p = &w->plan;
    yyjson_doc *doc = NULL;
    if (report) {
        if (strlen(report) > p->report_room)
            return upg_fail(e, "the report has %zu bytes, more than the %zu kept for it", strlen(report),
                            p->report_room);
        doc = upg_json_object(report, strlen(report), YYJSON_READ_NUMBER_AS_RAW, "report", e);
        if (!doc) return -1;
    }
    size_t size, room = p->data_start;
    char *text = header_text(p, w->hashes, doc, &size, e);
    yyjson_doc_free(doc);
    if (!text) return -1;
    int rc = -1;
    char *header = upg_alloc(room, 1, e);
    if (header && size + 8 > room) {
        upg_fail(e, "the header has %zu bytes, more than the %zu kept for it", size + 8, room);
    } else if (header) {
        for (int i = 0; i < 8; i++) header[i] = (char)((uint64_t)(room - 8) >> 8 * i & 255);
        memcpy(header + 8, text, size);
        memset(header + 8 + size, ' ', room - 8 - size);
        rc = write_at(w, header, room, 0, e);
    }
    free(header);
    free(text);
    return rc;
}

// The rename is on disk when the folder is. Some file systems cannot sync a folder; then there is nothing to do.
static int sync_folder(const upg_writer *w, upg_error *e) {
    if (w->folder_fd < 0 || !fsync(w->folder_fd) || errno == EINVAL || errno == ENOTSUP) return 0;
    return upg_fail(e, "%s: is written, but its folder cannot be synced: %s", w->path, strerror(errno));
}

// What lies between the items of a file that was there before may be anything; no hash tells.
static int clear_padding(const upg_writer *w, upg_error *e) {
    static const uint8_t zeros[UPG_PAGE];
    const plan *p = &w->plan;
    uint64_t at = 0;
    for (size_t i = 0; i <= p->n_items; i++) {
        uint64_t next = i < p->n_items ? p->items[i].begin : p->data_size;
        for (; at < next; at += UPG_PAGE)
            if (write_at(w, zeros, next - at < UPG_PAGE ? next - at : UPG_PAGE, p->data_start + at, e)) return -1;
        if (i < p->n_items) at = next + p->items[i].bytes;
    }
    return 0;
}

static int put_header(const upg_writer *w, const char *report, upg_error *e) {
    if (w->fd < 0) return upg_fail(e, "%s: is finished or failed", w->path);
    for (size_t i = 0; i < w->plan.n; i++)
        if (atomic_load(&w->state[i]) != 2) return upg_fail(e, "tensor '%s': was not written", w->plan.tensors[i].name);
    if (w->keep && clear_padding(w, e)) return -1;
    return write_header(w, report, e);
}

int upg_writer_preview(upg_writer *w, const char **path, upg_error *e) {
    *path = w->temporary;
    return put_header(w, NULL, e);
}

static int finish(upg_writer *w, const char *report, upg_error *e) {
    if (put_header(w, report, e)) return -1;
    if (fsync(w->fd)) return io_error(w, errno, e);
    int fd = w->fd;
    if (rename(w->temporary, w->path)) return upg_fail(e, "%s: cannot rename to it: %s", w->path, strerror(errno));
    w->fd = -1;
    if (close(fd)) return upg_fail(e, "%s: cannot close: %s", w->path, strerror(errno));
    return sync_folder(w, e);
}

int upg_writer_finish(upg_writer *w, const char *report, upg_error *e) {
    int rc = finish(w, report, e);
    if (rc) discard(w);
    return rc;
}

void upg_writer_free(upg_writer *w) {
    if (!w) return;
    discard(w);
    if (w->folder_fd >= 0) close(w->folder_fd);
    free_plan(&w->plan);
    free(w->path);
    free(w->temporary);
    free(w->hashes);
    free(w->state);
    free(w);
}
