// Files of text or token ids, as calibration and evaluation read them.
#include "engine/model.h"
#include "upg.h"
#include <stdlib.h>
#include <string.h>

int upg_tokenize_corpus(const upg_model *m, const char *text, size_t size, int32_t **tokens, size_t *n, upg_error *e) {
    size_t n_ids = 0;
    int32_t *ids = NULL, bos = upg_model_bos(m);
    if (upg_tokenize(m, text, size, false, &ids, &n_ids, e)) return -1;
    int32_t *all = upg_alloc(n_ids + 1, sizeof *all, e);
    size_t at = 0;
    if (all) {
        if (bos >= 0) all[at++] = bos;
        if (n_ids) memcpy(all + at, ids, n_ids * sizeof *ids);
    }
    upg_free(ids);
    *tokens = all;
    *n = at + n_ids;
    return all ? 0 : -1;
}

static int read_text(const upg_model *m, const char *path, int32_t **tokens, size_t *n, upg_error *e) {
    size_t size = 0;
    char *text = upg_read_text(path, SIZE_MAX, &size, e);
    int rc = text ? upg_tokenize_corpus(m, text, size, tokens, n, e) : -1;
    free(text);
    return rc;
}

static int read_ids(const upg_model *m, const char *path, int32_t **tokens, size_t *n, upg_error *e) {
    upg_file f;
    if (upg_file_open(&f, path, e)) return -1;
    int rc = f.size % 2 ? upg_fail(e, "%s: %zu bytes is not a whole number of 16-bit ids", path, f.size) : 0;
    int32_t *ids = rc ? NULL : upg_alloc(f.size / 2, sizeof *ids, e);
    if (!ids) rc = -1;
    for (size_t i = 0; !rc && i < f.size / 2; i++) {
        ids[i] = upg_le16(f.data + 2 * i);
        if (ids[i] >= upg_model_vocab_size(m))
            rc = upg_fail(e, "%s: id %d is not in the vocabulary of %d", path, ids[i], upg_model_vocab_size(m));
    }
    *n = f.size / 2;
    upg_file_close(&f);
    if (rc) free(ids);
    *tokens = rc ? NULL : ids;
    return rc;
}

int upg_read_corpus(const upg_model *m, const char *path, bool ids, int32_t **tokens, size_t *n, upg_error *e) {
    return (ids ? read_ids : read_text)(m, path, tokens, n, e);
}
