// Which model a name means, and the folder where models are kept under their names.
#include "cli/cli.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const endings[] = {"", ".upg", ".gguf"};

char *cli_models_folder(upg_error *e) {
    const char *models = getenv("UPG_MODELS"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    upg_buf b = {0};
    if (models && *models)
        upg_buf_str(&b, models);
    else if (data && *data == '/') // a relative path counts as unset, says the XDG specification
        upg_buf_fmt(&b, "%s/upg/models", data);
    else if (home && *home)
        upg_buf_fmt(&b, "%s/.local/share/upg/models", home);
    else {
        upg_fail(e, "no folder for models: neither UPG_MODELS nor HOME is set");
        return NULL;
    }
    if (!upg_buf_check(&b, e)) return b.data;
    upg_buf_free(&b);
    return NULL;
}

static bool plain_name(const char *name) {
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < 200;
}

// The model's path in the folder; NULL, without a message, if there is none.
static char *find(const char *folder, const char *name, upg_error *e) {
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        upg_buf b = {0};
        struct stat st;
        upg_buf_fmt(&b, "%s/%s%s", folder, name, endings[i]);
        if (!upg_buf_check(&b, e) && !lstat(b.data, &st)) return b.data;
        upg_buf_free(&b);
    }
    return NULL;
}

char *cli_stored_model(const char *name, upg_error *e) {
    if (!plain_name(name)) {
        upg_fail(e, "%s: not the name of a model (upg list shows them)", name);
        return NULL;
    }
    char *folder = cli_models_folder(e);
    char *path = folder ? find(folder, name, e) : NULL;
    if (folder && !path) upg_fail(e, "%s: no model of that name in %s (upg list shows them)", name, folder);
    free(folder);
    return path;
}

char *cli_model_path(const char *name, upg_error *e) {
    if (!upg_path_exists(name) && plain_name(name)) {
        char *folder = cli_models_folder(NULL), *path = folder ? find(folder, name, NULL) : NULL;
        free(folder);
        if (path) return path;
    }
    return upg_strdup(name, strlen(name), e);
}

// Makes a folder and those above it.
static int make_folders(char *path, upg_error *e) {
    for (char *p = path + 1;; p++) {
        char c = *p;
        if (c && c != '/') continue;
        *p = 0;
        bool failed = mkdir(path, 0777) && errno != EEXIST && !upg_path_is_dir(path);
        if (failed) upg_fail(e, "%s: %s", path, strerror(errno));
        *p = c;
        if (failed) return -1;
        if (!c) return 0;
    }
}

char *cli_new_model_path(const char *name, upg_error *e) {
    if (!plain_name(name)) {
        upg_fail(e, "--name %s: a model's name has no slash and does not begin with a dot", name);
        return NULL;
    }
    char *folder = cli_models_folder(e);
    if (!folder || make_folders(folder, e)) {
        free(folder);
        return NULL;
    }
    upg_buf b = {0};
    upg_buf_fmt(&b, "%s/%s.upg", folder, name);
    free(folder);
    if (!upg_buf_check(&b, e)) return b.data;
    upg_buf_free(&b);
    return NULL;
}

extern const uint8_t upg_default_model[], upg_default_model_end[];

upg_model *cli_open_model(const char *name, upg_error *e) {
    if (!name)
        return upg_model_open_memory(upg_default_model, (size_t)(upg_default_model_end - upg_default_model),
                                     "the embedded default model", e);
    char *path = cli_model_path(name, e);
    upg_model *m = path ? upg_model_open(path, e) : NULL;
    free(path);
    return m;
}
