// Finding what a tokenizer is made from where there is no tokenizer.json: a SentencePiece tokenizer.model, a tiktoken
// rank file, or vocab.json with merges.txt, which become a tokenizer.json here. And opening only that, without the
// weights.
#include "format/gguf.h"
#include "format/json.h"
#include "text/pretokenize.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENIZER = 64 << 20 };

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), n_end = strlen(end);
    return n > n_end && !strcmp(s + n - n_end, end);
}

// *text stays NULL if there is no such file. A text, unlike other data, may hold no NUL.
static int read_file(char **text, size_t *size, bool is_text, const char *folder, const char *name, upg_error *e) {
    upg_buf path = {0};
    size_t n;
    upg_buf_fmt(&path, "%s/%s", folder, name);
    int rc = upg_buf_check(&path, e);
    if (!rc && upg_path_exists(path.data)) {
        *text = upg_read_text(path.data, MAX_TOKENIZER, &n, e);
        rc = *text ? 0 : -1;
        if (!rc && is_text && strlen(*text) != n) rc = upg_fail(e, "%s: contains a NUL", path.data);
        if (!rc && size) *size = n;
    }
    upg_buf_free(&path);
    return rc;
}

static int read_data(upg_weights *w, const char *folder, const char *name, upg_error *e) {
    if (read_file(&w->tokenizer_data, &w->tokenizer_size, false, folder, name, e) || !w->tokenizer_data)
        return w->tokenizer_data ? -1 : 0;
    return (w->tokenizer_name = upg_strdup(name, strlen(name), e)) ? 0 : -1;
}

// The one file of a folder with the end of a rank file; *name stays NULL if there is none.
static int find_ranks(char **name, const char *folder, upg_error *e) {
    DIR *dir = opendir(folder);
    int rc = 0;
    for (struct dirent *d; !rc && dir && (d = readdir(dir));) {
        if (!ends_with(d->d_name, ".tiktoken")) continue;
        if (*name)
            rc = upg_fail(e, "%s: two rank files, %s and %s", folder, *name, d->d_name);
        else if (!(*name = upg_strdup(d->d_name, strlen(d->d_name), e)))
            rc = -1;
    }
    if (dir) closedir(dir);
    return rc;
}

// --- vocab.json and merges.txt ---

// Neither file says how text is cut before merging. The class in tokenizer_config.json does; but GPT2Tokenizer stands
// for any vocabulary of that form, and OpenAI's cl100k, which Phi-4 has, is told by its last token.
static const struct family {
    const char *name, *token, *pattern;
    int64_t id; // of token in vocab.json; token NULL: any vocabulary
    bool nfc;
} families[] = {{"GPT2Tokenizer", "\u0120Conveyor", "cl100k", 100255, false},
                {"GPT2Tokenizer", NULL, "gpt2", 0, false},
                {"Qwen2Tokenizer", NULL, "qwen2", 0, true}};

static const struct family *find_family(yyjson_val *config, yyjson_val *vocab, const char *folder, upg_error *e) {
    const char *name = upg_json_string(yyjson_obj_get(config, "tokenizer_class"));
    size_t n = name ? strlen(name) : 0;
    if (n > 4 && ends_with(name, "Fast")) n -= 4;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        if (strlen(f->name) != n || memcmp(f->name, name, n)) continue;
        yyjson_val *id = f->token ? yyjson_obj_get(vocab, f->token) : NULL;
        if (!f->token || (yyjson_is_uint(id) && yyjson_get_uint(id) == (uint64_t)f->id)) return f;
    }
    upg_fail(e, "%s: tokenizer_class %s without a tokenizer.json is not implemented", folder, name ? name : "(none)");
    return NULL;
}

static bool add_merges(yyjson_mut_doc *d, yyjson_mut_val *model, const char *text) {
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, model, "merges");
    for (const char *end; list && *text; text = *end ? end + 1 : end) {
        end = text + strcspn(text, "\n");
        size_t n = (size_t)(end - text) - (end > text && end[-1] == '\r');
        if (n && !yyjson_mut_arr_add_strn(d, list, text, n)) return false;
    }
    return list != NULL;
}

static bool add_added(yyjson_mut_doc *d, yyjson_mut_val *root, yyjson_val *config) {
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, root, "added_tokens");
    yyjson_val *decoder = yyjson_obj_get(config, "added_tokens_decoder"), *key, *value;
    size_t i, max;
    if (!yyjson_obj_size(decoder)) return list != NULL;
    yyjson_obj_foreach(decoder, i, max, key, value) {
        yyjson_mut_val *token = yyjson_val_mut_copy(d, value);
        if (!list || !yyjson_mut_is_obj(token) || !yyjson_mut_arr_append(list, token) ||
            !yyjson_mut_obj_add_int(d, token, "id", strtol(yyjson_get_str(key), NULL, 10)))
            return false;
    }
    return list != NULL;
}

static bool add_pre_tokenizer(yyjson_mut_doc *d, yyjson_mut_val *root, const struct family *f) {
    const char *regex = upg_pattern_by_name(f->pattern, strlen(f->pattern))->regexes[0];
    yyjson_mut_val *sequence = yyjson_mut_obj_add_obj(d, root, "pre_tokenizer");
    yyjson_mut_val *list = sequence ? yyjson_mut_obj_add_arr(d, sequence, "pretokenizers") : NULL;
    yyjson_mut_val *split = list ? yyjson_mut_arr_add_obj(d, list) : NULL;
    yyjson_mut_val *level = split ? yyjson_mut_arr_add_obj(d, list) : NULL;
    yyjson_mut_val *pattern = level ? yyjson_mut_obj_add_obj(d, split, "pattern") : NULL;
    yyjson_mut_val *nfc = f->nfc && pattern ? yyjson_mut_obj_add_obj(d, root, "normalizer") : NULL;
    return pattern && yyjson_mut_obj_add_str(d, sequence, "type", "Sequence") &&
           yyjson_mut_obj_add_str(d, split, "type", "Split") && yyjson_mut_obj_add_str(d, pattern, "Regex", regex) &&
           yyjson_mut_obj_add_str(d, split, "behavior", "Isolated") &&
           yyjson_mut_obj_add_bool(d, split, "invert", false) &&
           yyjson_mut_obj_add_str(d, level, "type", "ByteLevel") &&
           yyjson_mut_obj_add_bool(d, level, "add_prefix_space", false) &&
           yyjson_mut_obj_add_bool(d, level, "use_regex", false) &&
           (!f->nfc || (nfc && yyjson_mut_obj_add_str(d, nfc, "type", "NFC")));
}

static char *write_json(const struct family *f, yyjson_val *vocab, const char *merges, yyjson_val *config,
                        upg_error *e) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = d ? yyjson_mut_obj(d) : NULL,
                   *model = root ? yyjson_mut_obj_add_obj(d, root, "model") : NULL;
    yyjson_mut_val *copy = model ? yyjson_val_mut_copy(d, vocab) : NULL;
    if (root) yyjson_mut_doc_set_root(d, root);
    bool ok = copy && yyjson_mut_obj_add_str(d, model, "type", "BPE") &&
              yyjson_mut_obj_add_val(d, model, "vocab", copy) && add_merges(d, model, merges) &&
              add_added(d, root, config) && add_pre_tokenizer(d, root, f);
    char *text = ok ? yyjson_mut_write(d, 0, NULL) : NULL;
    yyjson_mut_doc_free(d);
    if (!text) upg_fail(e, "vocab.json, merges.txt and tokenizer_config.json do not make a tokenizer.json");
    return text;
}

static int join_vocabulary(upg_weights *w, const char *folder, upg_error *e) {
    char *vocab = NULL, *merges = NULL;
    size_t n = 0;
    int rc = read_file(&vocab, &n, true, folder, "vocab.json", e);
    if (!rc && vocab) rc = read_file(&merges, NULL, true, folder, "merges.txt", e);
    if (!rc && merges) {
        const char *text = w->tokenizer_config ? w->tokenizer_config : "{}";
        yyjson_doc *v = upg_json_object(vocab, n, 0, "vocab.json", e);
        yyjson_doc *c = v ? upg_json_object(text, strlen(text), 0, "tokenizer_config.json", e) : NULL;
        yyjson_val *tokens = yyjson_doc_get_root(v), *config = yyjson_doc_get_root(c);
        const struct family *f = c ? find_family(config, tokens, folder, e) : NULL;
        if (f) w->tokenizer_json = write_json(f, tokens, merges, config, e);
        rc = w->tokenizer_json ? 0 : -1;
        yyjson_doc_free(v);
        yyjson_doc_free(c);
    }
    free(vocab);
    free(merges);
    return rc;
}

int upg_source_tokenizer(upg_weights *w, const char *folder, upg_error *e) {
    char *ranks = NULL;
    int rc = read_data(w, folder, "tokenizer.model", e);
    if (!rc && !w->tokenizer_data) rc = find_ranks(&ranks, folder, e);
    if (!rc && ranks) rc = read_data(w, folder, ranks, e);
    if (!rc && !w->tokenizer_data) rc = join_vocabulary(w, folder, e);
    free(ranks);
    return rc;
}

// --- Only the tokenizer ---

static int open_folder(upg_weights *w, const char *folder, upg_error *e) {
    if (read_file(&w->tokenizer_json, NULL, true, folder, "tokenizer.json", e) ||
        read_file(&w->tokenizer_config, NULL, true, folder, "tokenizer_config.json", e))
        return -1;
    return w->tokenizer_json ? 0 : upg_source_tokenizer(w, folder, e);
}

// A tokenizer file; the configuration beside it belongs to it.
static int open_file(upg_weights *w, const char *path, upg_error *e) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = slash ? upg_strdup(path, slash == path ? 1 : (size_t)(slash - path), e) : upg_strdup(".", 1, e);
    if (!folder) return -1;
    int rc = upg_path_exists(path) ? 0 : upg_fail(e, "%s: no such file", path);
    if (!rc) rc = read_file(&w->tokenizer_config, NULL, true, folder, "tokenizer_config.json", e);
    if (!rc && ends_with(name, ".json")) rc = read_file(&w->tokenizer_json, NULL, true, folder, name, e);
    if (!rc && !w->tokenizer_json) rc = read_data(w, folder, name, e);
    free(folder);
    return rc;
}

static int open_gguf(upg_weights *w, const upg_file *file, upg_error *e) {
    upg_gguf g;
    if (upg_gguf_parse(&g, file->data, file->size, file->path, e)) return -1;
    int rc = upg_gguf_read_tokenizer(w, &g, e);
    upg_gguf_free(&g);
    return rc;
}

int upg_weights_open_tokenizer(upg_weights *w, const char *path, upg_error *e) {
    *w = (upg_weights){0};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int rc;
    if (upg_path_is_dir(path)) {
        rc = open_folder(w, path, e);
    } else if (ends_with(name, ".json") || ends_with(name, ".tiktoken") || !strcmp(name, "tokenizer.model")) {
        rc = open_file(w, path, e);
    } else {
        upg_file file;
        if (upg_file_open(&file, path, e)) return -1;
        bool gguf = upg_is_gguf(file.data, file.size);
        rc = gguf ? open_gguf(w, &file, e) : 0;
        upg_file_close(&file);
        if (!gguf) return upg_weights_open(w, path, e);
    }
    if (rc) upg_weights_close(w);
    return rc;
}
