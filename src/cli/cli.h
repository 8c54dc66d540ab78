// What the verbs share. A verb is one file here with one function, and one line in main.c's table.
#pragma once
#include "base/base.h"
#include "engine/model.h"
#include "upg.h"
#include <getopt.h>
#include <signal.h>
#include <stdio.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

typedef struct cli_verb {
    const char *name, *summary, *help;
    int (*run)(int argc, char **argv); // argv[0] is the verb; returns the exit status
} cli_verb;

extern const cli_verb cli_compress, cli_eval, cli_inspect, cli_run, cli_tokenize;

// One line on standard error; returns the status.
int cli_failed(const upg_error *e);
int cli_usage(const cli_verb *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// --help and options that getopt does not know: the status to return.
int cli_bad_option(const cli_verb *verb, int c);

// Option values, checked; -1 after a message when not a number within lo..hi.
int cli_int(const cli_verb *verb, const char *option, const char *text, long long lo, long long hi, long long *value);
int cli_num(const cli_verb *verb, const char *option, const char *text, double lo, double hi, double *value);

upg_model *cli_open_model(const char *path, upg_error *e); // NULL path: the embedded default
char *cli_read_all(FILE *f, const char *name, size_t *n, upg_error *e);

extern volatile sig_atomic_t cli_interrupted; // set by Ctrl-C after cli_catch_interrupt
void cli_catch_interrupt(void);

// A progress line on a terminal, a plain line every ten percent otherwise. done is 0..1.
typedef struct cli_progress {
    double start, shown;
    bool quiet;
} cli_progress;
void cli_progress_show(cli_progress *p, double done, const char *what);
void cli_progress_end(cli_progress *p);

void cli_json_string(upg_buf *b, const char *s, size_t n); // quoted and escaped; s is UTF-8
const char *cli_bytes(double bytes, char out[32]);         // "14.7 MB"
