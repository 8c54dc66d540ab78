// The file of upg eval --results. See eval_tasks.h.
//
// A process may be killed while it writes: what stands behind the last newline is cut off. Everything before it was
// written whole, so a line there that is not what this command would write is another file's, and refused.
#include "cli/eval_tasks.h"
#include "format/json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- Lines ----

static int add_line(upg_buf *b, yyjson_mut_doc *doc, upg_error *e) {
    size_t n = 0;
    char *text = doc ? yyjson_mut_write(doc, 0, &n) : NULL;
    if (text) {
        upg_buf_add(b, text, n);
        upg_buf_str(b, "\n");
    } else {
        b->failed = true;
    }
    free(text);
    yyjson_mut_doc_free(doc);
    return upg_buf_check(b, e);
}

static yyjson_mut_doc *new_object(yyjson_mut_val **root) {
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    *root = doc ? yyjson_mut_obj(doc) : NULL;
    if (*root) yyjson_mut_doc_set_root(doc, *root);
    return doc;
}

static int add_header(upg_buf *b, const upg_eval_items *all, upg_error *e) {
    uint8_t hash[16];
    char model[UPG_HEX_HASH + 1];
    if (upg_model_hash(all->model, hash, e)) return -1;
    upg_file_hash_to_hex(hash, model);
    yyjson_mut_val *o;
    yyjson_mut_doc *doc = new_object(&o);
    yyjson_mut_obj_add_int(doc, o, "upg_results", 1);
    yyjson_mut_obj_add_str(doc, o, "kind", all->task == UPG_EVAL_CHOICES ? "choices" : "last word");
    yyjson_mut_obj_add_str(doc, o, "tasks", all->file_hash);
    yyjson_mut_obj_add_str(doc, o, "model", model);
    yyjson_mut_obj_add_int(doc, o, "context", all->context);
    return add_line(b, doc, e);
}

static int add_record(upg_buf *b, const upg_eval_items *all, size_t index, upg_error *e) {
    const upg_eval_item *item = &all->items[index];
    yyjson_mut_val *o;
    yyjson_mut_doc *doc = new_object(&o);
    yyjson_mut_obj_add_uint(doc, o, "item", index);
    yyjson_mut_obj_add_uint(doc, o, "line", item->line);
    if (all->task == UPG_EVAL_CHOICES) {
        yyjson_mut_obj_add_int(doc, o, "label", item->label);
        yyjson_mut_obj_add_int(doc, o, "chosen_norm", cli_chosen(item, true));
        yyjson_mut_obj_add_int(doc, o, "chosen", cli_chosen(item, false));
    }
    yyjson_mut_val *likelihoods = yyjson_mut_obj_add_arr(doc, o, "likelihoods"),
                   *greedy = yyjson_mut_obj_add_arr(doc, o, "greedy"),
                   *tokens = yyjson_mut_obj_add_arr(doc, o, "tokens"),
                   *characters = yyjson_mut_obj_add_arr(doc, o, "characters");
    for (int i = 0; i < item->n_texts; i++) {
        const upg_eval_text *t = &item->texts[i];
        yyjson_mut_arr_add_real(doc, likelihoods, t->likelihood);
        yyjson_mut_arr_add_bool(doc, greedy, t->greedy);
        yyjson_mut_arr_add_int(doc, tokens, t->n - t->first);
        yyjson_mut_arr_add_uint(doc, characters, t->n_chars);
    }
    if (item->cut) yyjson_mut_obj_add_bool(doc, o, "cut", true);
    return add_line(b, doc, e);
}

// ---- Reading ----

// Names what the file at hand does not share with the command: the first key of the header that differs.
static int check_header(const cli_results *r, const char *line, size_t n, const upg_buf *want, upg_error *e) {
    static const struct {
        const char *key, *what;
    } table[] = {{"upg_results", "version of results"},
                 {"kind", "kind of task"},
                 {"tasks", "task file"},
                 {"model", "model"},
                 {"context", "context (-c)"}};
    if (n == want->size - 1 && !memcmp(line, want->data, n)) return 0;
    yyjson_doc *got = yyjson_read(line, n, 0), *wanted = yyjson_read(want->data, want->size, 0);
    const char *what = NULL;
    for (size_t i = 0; !what && i < sizeof table / sizeof *table; i++) {
        yyjson_val *a = yyjson_obj_get(yyjson_doc_get_root(got), table[i].key);
        if (!a) break;
        if (!yyjson_equals(a, yyjson_obj_get(yyjson_doc_get_root(wanted), table[i].key))) what = table[i].what;
    }
    yyjson_doc_free(got);
    yyjson_doc_free(wanted);
    return what ? upg_fail(e, "%s: these results are of another %s; name another file, or remove it", r->path, what)
                : upg_fail(e, "%s: not a file of results", r->path);
}

static bool take_scores(upg_eval_item *item, yyjson_val *o) {
    yyjson_val *likelihoods = yyjson_obj_get(o, "likelihoods"), *greedy = yyjson_obj_get(o, "greedy");
    for (int i = 0; i < item->n_texts; i++) {
        yyjson_val *l = yyjson_arr_get(likelihoods, (size_t)i), *g = yyjson_arr_get(greedy, (size_t)i);
        if (!yyjson_is_real(l) || !yyjson_is_bool(g)) return false;
        item->texts[i].likelihood = yyjson_get_real(l);
        item->texts[i].greedy = yyjson_get_bool(g);
    }
    return true;
}

// A record is an item's if writing its scores gives the same bytes.
static int take_record(const cli_results *r, upg_eval_items *all, size_t index, const char *line, size_t n,
                       upg_error *e) {
    yyjson_doc *doc = yyjson_read(line, n, 0);
    bool good = take_scores(&all->items[index], yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    upg_buf b = {0};
    int rc = good ? add_record(&b, all, index, e) : 0;
    if (!rc && (b.size != n + 1 || memcmp(b.data, line, n)))
        rc = upg_fail(e, "%s:%zu: not the result of item %zu", r->path, index + 2, index);
    upg_buf_free(&b);
    all->items[index].scored = !rc;
    return rc;
}

// text: the whole lines of the file.
static int take_records(const cli_results *r, const char *text, size_t size, upg_eval_items *all, size_t *n_done,
                        upg_error *e) {
    for (size_t at = 0, n; at < size && *n_done < all->n; at += n + 1, ++*n_done) {
        n = (size_t)((const char *)memchr(text + at, '\n', size - at) - (text + at));
        if (take_record(r, all, *n_done, text + at, n, e)) return -1;
    }
    return 0;
}

// *whole: bytes of the file that are whole lines.
static int take_file(const cli_results *r, const char *text, size_t size, const upg_buf *header, upg_eval_items *all,
                     size_t *whole, size_t *n_done, upg_error *e) {
    const char *last = size ? memrchr(text, '\n', size) : NULL;
    *whole = last ? (size_t)(last - text) + 1 : 0;
    if (!last && (size > header->size || memcmp(text, header->data, size)))
        return upg_fail(e, "%s: not a file of results", r->path);
    if (!last) return 0;
    size_t n = (size_t)((const char *)memchr(text, '\n', size) - text);
    if (check_header(r, text, n, header, e)) return -1;
    return take_records(r, text + n + 1, *whole - n - 1, all, n_done, e);
}

// ---- Opening and writing ----

static int open_file(cli_results *r, upg_error *e) {
    int fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return upg_fail(e, "%s: %s", r->path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        upg_fail(e, "%s: not a plain file", r->path);
    else if (flock(fd, LOCK_EX | LOCK_NB))
        upg_fail(e, "%s: %s", r->path, errno == EWOULDBLOCK ? "another command writes it" : strerror(errno));
    else if (!(r->f = fdopen(fd, "r+")))
        upg_fail(e, "%s: %s", r->path, strerror(errno));
    else
        return 0;
    close(fd);
    return -1;
}

static int write_out(cli_results *r, const upg_buf *b, upg_error *e) {
    if (fwrite(b->data, 1, b->size, r->f) != b->size || fflush(r->f))
        return upg_fail(e, "%s: %s", r->path, strerror(errno));
    return 0;
}

int cli_results_open(cli_results *r, const char *path, upg_eval_items *all, size_t *n_done, upg_error *e) {
    *r = (cli_results){.path = path};
    upg_buf header = {0};
    size_t size = 0, whole = 0;
    char *text = NULL;
    int rc = add_header(&header, all, e) || open_file(r, e) || !(text = cli_read_all(r->f, path, &size, e)) ||
             take_file(r, text, size, &header, all, &whole, n_done, e);
    if (!rc && (fseek(r->f, (long)whole, SEEK_SET) || ftruncate(fileno(r->f), (off_t)whole)))
        rc = upg_fail(e, "%s: %s", path, strerror(errno));
    if (!rc && !whole) rc = write_out(r, &header, e);
    free(text);
    upg_buf_free(&header);
    if (!rc) return 0;
    if (r->f) fclose(r->f);
    r->f = NULL;
    return -1;
}

int cli_results_add(cli_results *r, const upg_eval_items *all, size_t first, size_t end, upg_error *e) {
    if (!r->f || first == end) return 0;
    upg_buf b = {0};
    int rc = 0;
    for (size_t i = first; !rc && i < end; i++) rc = add_record(&b, all, i, e);
    if (!rc) rc = write_out(r, &b, e);
    upg_buf_free(&b);
    return rc;
}

int cli_results_close(cli_results *r, upg_error *e) {
    FILE *f = r->f;
    r->f = NULL;
    return f && fclose(f) ? upg_fail(e, "%s: %s", r->path, strerror(errno)) : 0;
}
