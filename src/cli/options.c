// Options of all verbs, from tables: parsing, checking and help.
#include "cli/cli.h"
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_ONLY = 256, MAX_OPTIONS = 64 };

// What is said of devices holds for every session that the command makes, however deep: the library reads it there.
static int set_environment(const cli_option *o, void *group, const char *text, upg_error *e) {
    (void)group;
    const bool memory = !strcmp(o->name, "gpu-memory");
    char *end;
    const double gigabytes = strtod(text, &end);
    if (memory && (end == text || *end || !(gigabytes > 0 && gigabytes <= 1e6)))
        return upg_fail(e, "--%s %s: not a number of gigabytes", o->name, text);
    return setenv(memory ? "UPG_GPU_MEMORY" : "UPG_DEVICE", text, 1) ? upg_fail(e, "out of memory") : 0;
}
static const cli_option device_options[] = {
    {"device", 0, "D",
     "auto (default: a GPU, as far as it has room, else the CPU), cpu, cuda or cuda:N; upg devices lists them", CLI_SET,
     .set = set_environment},
    {"gpu-memory", 0, "GB", "the most memory to take of a GPU (default: what is free)", CLI_SET,
     .set = set_environment},
    {0}};

static const cli_option help_option = {.name = "help", .letter = 'h', .help = "this text"};

int cli_failed(const upg_error *e) {
    fprintf(stderr, "upg: %s\n", e->message);
    return CLI_FAILED;
}

int cli_usage(const cli_verb *verb, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "upg %s: ", verb->name);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "; upg %s --help\n", verb->name);
    va_end(ap);
    return CLI_USAGE;
}

static void print_option(const cli_option *o) {
    char left[64];
    int n = o->letter ? snprintf(left, sizeof left, "-%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "--%s", o->name);
    if (o->value) snprintf(left + n, sizeof left - (size_t)n, " %s", o->value);
    printf("  %-26s %s\n", left, o->help);
}

static void print_help(const cli_verb *verb) {
    printf("usage: upg %s %s\n\n%s\n", verb->name, verb->arguments, verb->about);
    for (const cli_group *g = verb->groups; g->options; g++)
        for (const cli_option *o = g->options; o->name; o++) print_option(o);
    for (const cli_option *o = device_options; verb->devices && o->name; o++) print_option(o);
    print_option(&help_option);
}

static int set_int(const cli_option *o, int *value, const char *text, upg_error *e) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || (double)n < o->lo || (double)n > o->hi)
        return upg_fail(e, "--%s %s: not a whole number within %.0f..%.0f", o->name, text, o->lo, o->hi);
    *value = (int)n;
    return 0;
}

static int set_double(const cli_option *o, double *value, const char *text, upg_error *e) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= o->lo && x <= o->hi))
        return upg_fail(e, "--%s %s: not a number within %g..%g", o->name, text, o->lo, o->hi);
    *value = x;
    return 0;
}

static int set_seed(const cli_option *o, uint64_t *value, const char *text, upg_error *e) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < 0)
        return upg_fail(e, "--%s %s: not a whole number within 0..%lld", o->name, text, (long long)INT64_MAX);
    *value = (uint64_t)n;
    return 0;
}

int cli_option_set(const cli_option *o, void *group, const char *text, upg_error *e) {
    void *at = (char *)group + o->offset;
    double x = 0;
    switch (o->kind) {
    case CLI_FLAG: *(bool *)at = true; return 0;
    case CLI_STRING: *(const char **)at = text; return 0;
    case CLI_INT: return set_int(o, at, text, e);
    case CLI_FLOAT:
        if (set_double(o, &x, text, e)) return -1;
        *(float *)at = (float)x;
        return 0;
    case CLI_DOUBLE: return set_double(o, at, text, e);
    case CLI_SEED: return set_seed(o, at, text, e);
    default: return o->set(o, group, text, e);
    }
}

// The tables as getopt wants them.
typedef struct parser {
    const cli_option *options[MAX_OPTIONS];
    size_t offsets[MAX_OPTIONS]; // of the option's group
    int n;
    struct option longs[MAX_OPTIONS + 1];
    char shorts[2 * MAX_OPTIONS + 1];
} parser;

static void add(parser *p, const cli_option *o, size_t offset) {
    assert(p->n < MAX_OPTIONS);
    bool value = o->value != NULL;
    p->longs[p->n] = (struct option){o->name, value, NULL, LONG_ONLY + p->n};
    if (o->letter) {
        size_t at = strlen(p->shorts);
        p->shorts[at] = o->letter;
        if (value) p->shorts[at + 1] = ':';
    }
    p->offsets[p->n] = offset;
    p->options[p->n++] = o;
}

static int find(const parser *p, int c) {
    for (int i = 0; i < p->n; i++)
        if (c == LONG_ONLY + i || (c == p->options[i]->letter && c)) return i;
    return -1;
}

int cli_parse(const cli_verb *verb, int argc, char **argv, void *options, const char **args) {
    parser p = {0};
    upg_error e;
    add(&p, &help_option, 0);
    for (const cli_group *g = verb->groups; g->options; g++)
        for (const cli_option *o = g->options; o->name; o++) add(&p, o, g->offset);
    for (const cli_option *o = device_options; verb->devices && o->name; o++) add(&p, o, 0);
    for (int c; (c = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1;) {
        int i = find(&p, c);
        if (i == 0) {
            print_help(verb);
            return CLI_OK;
        }
        if (i < 0) {
            fprintf(stderr, "see upg %s --help\n", verb->name); // getopt has named the option
            return CLI_USAGE;
        }
        if (cli_option_set(p.options[i], (char *)options + p.offsets[i], optarg, &e))
            return cli_usage(verb, "%s", e.message);
    }
    int n = argc - optind;
    if (n < verb->min_args || n > verb->max_args)
        return cli_usage(verb, "%s: upg %s %s", n < verb->min_args ? "an argument is missing" : "too many arguments",
                         verb->name, verb->arguments);
    for (int i = 0; i < verb->max_args; i++) args[i] = i < n ? argv[optind + i] : NULL;
    return -1;
}
