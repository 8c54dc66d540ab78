// What the verbs share. A verb is one file here with its table of options and one function, and one line in main.c's
// table.
#pragma once
#include "base/base.h"
#include "engine/model.h"
#include "upg.h"
#include <signal.h>
#include <stdio.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

// ---- Verbs and their options (options.c) ----

typedef enum cli_kind {
    CLI_FLAG,   // bool
    CLI_STRING, // const char *
    CLI_INT,    // int within lo..hi
    CLI_FLOAT,  // float within lo..hi
    CLI_DOUBLE, // double within lo..hi
    CLI_SEED,   // uint64_t, at most INT64_MAX
    CLI_SET,    // whatever set does; a flag if value is NULL
} cli_kind;

typedef struct cli_option {
    const char *name;  // --name
    char letter;       // -l, or 0
    const char *value; // what help calls the value; NULL: a flag
    const char *help;
    cli_kind kind;
    size_t offset; // of the variable in the group's struct
    double lo, hi;
    int (*set)(const struct cli_option *o, void *group, const char *text, upg_error *e);
} cli_option;

// Options that come together, over one struct. A verb's own struct embeds those of the groups it shares.
typedef struct cli_group {
    const cli_option *options; // ends with a NULL name
    size_t offset;             // of the group's struct in the verb's
} cli_group;

typedef struct cli_verb {
    const char *name, *summary;        // of one line
    const char *arguments;             // "MODEL -o FILE", for the usage line
    const char *about;                 // paragraphs of help, each line ended
    cli_group groups[5];               // ends with a NULL table
    int min_args, max_args;            // beside the options; at most 4
    bool devices;                      // it runs models: --device and --gpu-memory
    int (*run)(int argc, char **argv); // argv[0] is the verb; returns the exit status
} cli_verb;

extern const cli_verb cli_bench, cli_chat, cli_compress, cli_devices, cli_eval, cli_inspect, cli_list, cli_rm, cli_run,
    cli_serve, cli_tokenize;

// Fills the verb's struct and args[max_args] (NULL where there is none); -1, or the exit status after --help or a
// message.
int cli_parse(const cli_verb *verb, int argc, char **argv, void *options, const char **args);
// Gives one option a value, checked.
int cli_option_set(const cli_option *option, void *group, const char *text, upg_error *e);

// One line on standard error; returns the status.
int cli_failed(const upg_error *e);
int cli_usage(const cli_verb *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// ---- Models (models.c) ----

char *cli_models_folder(upg_error *e); // $UPG_MODELS, $XDG_DATA_HOME/upg/models or ~/.local/share/upg/models
// What a MODEL argument means: a path that exists; else a model of the folder: NAME, NAME.upg or NAME.gguf; else the
// argument as it is, so that opening it says what is wrong. The caller frees it.
char *cli_model_path(const char *name, upg_error *e);
// The file or folder of a model in the models folder, or NULL with a message. It is never outside.
char *cli_stored_model(const char *name, upg_error *e);
// Where a model of that name is to be written; makes the folder.
char *cli_new_model_path(const char *name, upg_error *e);
upg_model *cli_open_model(const char *name, upg_error *e); // NULL: the embedded default

// ---- The rest (common.c) ----

char *cli_read_all(FILE *f, const char *name, size_t *n, upg_error *e);
char *cli_read_file(const char *path, size_t *n, upg_error *e);

extern volatile sig_atomic_t cli_interrupted; // set by Ctrl-C after cli_catch_interrupt
void cli_catch_interrupt(bool again);         // again: every Ctrl-C; otherwise the second one kills

// A progress line on a terminal, a plain line every ten percent otherwise. done is 0..1.
typedef struct cli_progress {
    double start, shown;
    struct {
        double time, done;
    } mark[2]; // earlier moments, the older first
    bool quiet;
} cli_progress;
void cli_progress_show(cli_progress *p, double done, const char *what);
void cli_progress_end(cli_progress *p);
// Seconds left at a moment, from moments given before; negative while it is too early to say.
double cli_time_left(cli_progress *p, double now, double done);

const char *cli_bytes(double bytes, char out[32]);      // "14.7 MB"
const char *cli_duration(double seconds, char out[32]); // "45 s", "12 m 30 s", "1 h 05 m"
// What a file calls something, fit for a terminal: as many characters as fit, those that steer it replaced by '?'.
const char *cli_plain(const char *s, char *out, size_t size);
