// upg list, upg rm: the models kept under names.
#include "cli/cli.h"
#include "format/json.h"
#include "arch/arch.h"
#include "format/weights.h"
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- list ----

typedef struct list_options {
    bool json;
} list_options;

static const cli_option list_table[] = {
    {"json", 0, NULL, "machine-readable", CLI_FLAG, .offset = offsetof(list_options, json)}, {0}};

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && !strcmp(s + n - m, end);
}

// Whether a folder's entry looks like a model.
static int is_model(const struct dirent *d) {
    return *d->d_name != '.' && (ends_with(d->d_name, ".upg") || ends_with(d->d_name, ".gguf") || d->d_type == DT_DIR ||
                                 d->d_type == DT_LNK);
}

// One model's row. A file that cannot be read has its own message there, and does not hide the others.
static void add_row(upg_buf *b, const char *folder, const char *name, bool json) {
    upg_buf path = {0};
    upg_error e = {""};
    upg_weights w = {0};
    upg_config c;
    char size[32];
    upg_buf_fmt(&path, "%s/%s", folder, name);
    bool opened = !upg_buf_check(&path, &e) && !upg_weights_open(&w, path.data, &e);
    bool ok = opened && !upg_config_parse(&c, w.config, w.generation_config, &e);
    double n = ok ? upg_weights_parameters(&w) : 0, bytes = (double)w.file_bytes;
    if (json) {
        upg_buf_str(b, b->size > 1 ? ",{\"name\":" : "{\"name\":");
        upg_json_quote(b, name, strlen(name));
        if (ok)
            upg_buf_fmt(b,
                        ",\"architecture\":\"%s\",\"parameters\":%.0f,\"bytes\":%.0f,\"bits_per_parameter\":%.4f,"
                        "\"chat\":%s}",
                        c.arch->name, n, bytes, 8 * bytes / n, w.chat_template ? "true" : "false");
        else {
            upg_buf_str(b, ",\"error\":");
            upg_json_quote(b, e.message, strlen(e.message));
            upg_buf_str(b, "}");
        }
    } else if (ok) {
        upg_buf_fmt(b, "%-36s %-18s %8.1f M %10s %6.2f\n", name, c.arch->name, n * 1e-6, cli_bytes(bytes, size),
                    8 * bytes / n);
    } else {
        upg_buf_fmt(b, "%-36s %s\n", name, e.message);
    }
    if (opened) upg_weights_close(&w);
    upg_buf_free(&path);
}

static int list_models(const char *folder, bool json, upg_error *e) {
    struct dirent **entries;
    int n = scandir(folder, &entries, is_model, alphasort);
    if (n < 0 && errno != ENOENT) return upg_fail(e, "%s: %s", folder, strerror(errno));
    upg_buf b = {0};
    if (json)
        upg_buf_str(&b, "[");
    else if (n > 0)
        upg_buf_fmt(&b, "%-36s %-18s %10s %10s %6s\n", "name", "architecture", "parameters", "size", "bits");
    for (int i = 0; i < n; i++) {
        add_row(&b, folder, entries[i]->d_name, json);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    if (json) upg_buf_str(&b, "]\n");
    int rc = upg_buf_check(&b, e);
    if (!rc && b.size) fwrite(b.data, 1, b.size, stdout);
    if (!rc && !json && n <= 0)
        fprintf(stderr, "no models in %s; upg compress SRC --name NAME puts one there\n", folder);
    upg_buf_free(&b);
    return rc;
}

static int run_list(int argc, char **argv) {
    list_options o = {0};
    int status = cli_parse(&cli_list, argc, argv, &o, NULL);
    if (status >= 0) return status;
    upg_error e;
    char *folder = cli_models_folder(&e);
    status = folder && !list_models(folder, o.json, &e) ? CLI_OK : cli_failed(&e);
    free(folder);
    return status;
}

const cli_verb cli_list = {
    .name = "list",
    .summary = "show the models kept under names",
    .arguments = "[--json]",
    .about =
        "Models live in $UPG_MODELS, else in $XDG_DATA_HOME/upg/models, else in ~/.local/share/upg/models: .upg and\n"
        "GGUF files and Hugging Face folders. Where a verb takes a MODEL, a path that exists wins; otherwise NAME is\n"
        "NAME, NAME.upg or NAME.gguf there. upg compress SRC --name NAME writes there, upg rm NAME removes.\n",
    .groups = {{list_table, 0}},
    .run = run_list};

// ---- rm ----

typedef struct rm_options {
    bool yes;
} rm_options;

static const cli_option rm_table[] = {{"yes", 'y', NULL, "do not ask", CLI_FLAG, .offset = offsetof(rm_options, yes)},
                                      {0}};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

// A link is removed, never what it points to.
static int remove_model(const char *path, upg_error *e) {
    struct stat st;
    if (lstat(path, &st)) return upg_fail(e, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        upg_buf config = {0};
        upg_buf_fmt(&config, "%s/config.json", path);
        bool model = !upg_buf_check(&config, e) && upg_path_exists(config.data);
        upg_buf_free(&config);
        if (!model) return upg_fail(e, "%s: a folder without config.json is no model", path);
        if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS)) return upg_fail(e, "%s: %s", path, strerror(errno));
        return 0;
    }
    return unlink(path) ? upg_fail(e, "%s: %s", path, strerror(errno)) : 0;
}

static bool confirmed(const char *path) {
    char line[16];
    fprintf(stderr, "remove %s? [y/N] ", path);
    return fgets(line, sizeof line, stdin) && (*line == 'y' || *line == 'Y');
}

static int run_rm(int argc, char **argv) {
    rm_options o = {0};
    const char *args[1];
    int status = cli_parse(&cli_rm, argc, argv, &o, args);
    if (status >= 0) return status;
    if (!o.yes && !isatty(STDIN_FILENO)) return cli_usage(&cli_rm, "no terminal to ask on: --yes is needed");
    upg_error e;
    char *path = cli_stored_model(args[0], &e);
    int rc = !path ? -1 : !o.yes && !confirmed(path) ? upg_fail(&e, "%s stays", path) : remove_model(path, &e);
    if (!rc) printf("removed %s\n", path);
    free(path);
    return rc ? cli_failed(&e) : CLI_OK;
}

const cli_verb cli_rm = {.name = "rm",
                         .summary = "remove a model kept under a name",
                         .arguments = "NAME [--yes]",
                         .about =
                             "Removes NAME, NAME.upg or NAME.gguf from the models folder (upg list), after asking.\n",
                         .groups = {{rm_table, 0}},
                         .min_args = 1,
                         .max_args = 1,
                         .run = run_rm};
