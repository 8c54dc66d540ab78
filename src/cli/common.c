// Input, interrupts, progress and the look of numbers, for every verb.
#include "cli/cli.h"
#include "yyjson.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *cli_read_all(FILE *f, const char *name, size_t *n, upg_error *e) {
    upg_buf b = {0};
    char chunk[65536];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0) upg_buf_add(&b, chunk, got);
    if (ferror(f))
        upg_fail(e, "%s: %s", name, strerror(errno));
    else if (!upg_buf_check(&b, e)) {
        *n = b.size;
        return b.data ? b.data : upg_strdup("", 0, e);
    }
    upg_buf_free(&b);
    return NULL;
}

char *cli_read_file(const char *path, size_t *n, upg_error *e) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        upg_fail(e, "%s: %s", path, strerror(errno));
        return NULL;
    }
    char *text = cli_read_all(f, path, n, e);
    fclose(f);
    return text;
}

volatile sig_atomic_t cli_interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    cli_interrupted = 1;
}

void cli_catch_interrupt(bool again) {
    struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = again ? 0 : (int)SA_RESETHAND};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
}

void cli_progress_show(cli_progress *p, double done, const char *what) {
    if (p->quiet) return;
    double now = upg_now();
    if (!p->start) p->start = now;
    bool terminal = isatty(STDERR_FILENO);
    if (terminal ? now - p->shown < 0.1 && done < 1 : done < p->shown + 0.1) return;
    p->shown = terminal ? now : done;
    double left = done > 0.01 ? (now - p->start) / done * (1 - done) : 0;
    int filled = (int)(done * 30);
    if (terminal)
        fprintf(stderr, "\r[%-30.*s] %3.0f%% %4.0f s left  %-40.40s", filled, "##############################",
                done * 100, left, what);
    else
        fprintf(stderr, "%3.0f%% %s\n", done * 100, what);
}

void cli_progress_end(cli_progress *p) {
    if (!p->quiet && p->start && isatty(STDERR_FILENO)) fprintf(stderr, "\r%-100s\r", "");
}

void cli_json_string(upg_buf *b, const char *s, size_t n) {
    yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *v = d ? yyjson_mut_strn(d, s, n) : NULL;
    size_t size = 0;
    char *text = v ? yyjson_mut_val_write(v, 0, &size) : NULL;
    if (text)
        upg_buf_add(b, text, size);
    else
        b->failed = true;
    free(text);
    yyjson_mut_doc_free(d);
}

const char *cli_bytes(double bytes, char out[32]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    while (bytes >= 1000 && u < 4) {
        bytes /= 1000;
        u++;
    }
    snprintf(out, 32, u ? "%.2f %s" : "%.0f %s", bytes, units[u]);
    return out;
}
