// The report of a compression, as the .upg keeps it. `compress` and `inspect --report` print it through the same
// functions and both from the file, so what one showed the other shows again.
#pragma once
#include "cli/cli.h"
#include "format/weights.h"

typedef struct cli_report_matrix {
    const upg_tensor *tensor; // int8 or trellis; lives as long as the weights
    double error;             // |W - W'|^2 / |W|^2; CLI_UNKNOWN if not recorded
} cli_report_matrix;

enum { CLI_UNKNOWN = -1 };

typedef struct cli_report {
    const char *name;            // of the file, as messages and titles call it
    cli_report_matrix *matrices; // [n], by name, numbers in it by value
    size_t n;
    double parameters, bytes; // of the file itself
    bool present;             // the file has a report; without one the rest is unknown
    bool has_errors;
    int calibration_tokens; // 0: without; CLI_UNKNOWN
    int measured_bits;      // 1: bits were chosen by measured sensitivity; CLI_UNKNOWN
    int heldout_tokens;     // 0: not measured, and then the next four mean nothing
    double original_nll, nll, kl, top1;
} cli_report;

// Reads a .upg's report, which may come from anywhere: a key that is missing is unknown, one that is not what
// docs/format.md says is an error that names it. name is kept, not copied.
int cli_report_read(cli_report *r, const upg_weights *w, const char *name, upg_error *e);
void cli_report_free(cli_report *r);
void cli_report_print(const cli_report *r);
void cli_report_summary(const cli_report *r, char out[160]); // one line without its end
const char *cli_report_bits(const upg_tensor *t);            // "int8", "2.5"

// ---- plot.c ----

// Draws bits and errors by layer as SVG.
int cli_plot_write(const cli_report *r, const char *path, upg_error *e);
// Sets a const char * to a path that ends in .svg, so that --plot never overwrites a model.
int cli_plot_option(const cli_option *o, void *group, const char *text, upg_error *e);
