// Input, interrupts, progress and the look of numbers, for every verb.
#include "cli/cli.h"
#include "yyjson.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

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

// ---- Progress ----

double cli_time_left(cli_progress *p, double now, double done) {
    // The speed of the last quarter to half of the time so far: stages differ in speed, and what an earlier run left
    // behind takes no time at all.
    double span = (now - p->start) / 4;
    if (span < 5) span = 5;
    if (now - p->mark[1].time > span) {
        p->mark[0] = p->mark[1];
        p->mark[1].time = now;
        p->mark[1].done = done;
    }
    double passed = now - p->mark[0].time, made = done - p->mark[0].done;
    return passed >= 1 && made > 0 ? passed / made * (1 - done) : -1;
}

static int terminal_columns(void) {
    struct winsize size;
    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col ? size.ws_col : 80;
}

// One line that never wraps, whatever the width: "\r" could not take back a line that did.
static void show_bar(double done, const char *left, const char *what) {
    char bar[31], line[256], plain[256];
    int columns = terminal_columns(), width = columns < 70 ? 10 : 30;
    memset(bar, ' ', sizeof bar);
    memset(bar, '#', (size_t)(done * width));
    int n = snprintf(line, sizeof line, "[%.*s] %3d%%%s%s  ", width, bar, (int)(done * 100), *left ? "  " : "", left);
    int room = columns - 1 - n;
    if (room < 0) room = 0;
    if (room > (int)sizeof plain - 1) room = sizeof plain - 1;
    fprintf(stderr, "\r%.*s%s\033[K", columns - 1, line, cli_plain(what, plain, (size_t)room + 1));
}

void cli_progress_show(cli_progress *p, double done, const char *what) {
    if (p->quiet) return;
    char left[48] = "", duration[32], plain[256];
    double now = upg_now();
    if (!p->start) {
        p->start = p->mark[0].time = p->mark[1].time = now;
        p->mark[0].done = p->mark[1].done = done;
    }
    double seconds = cli_time_left(p, now, done);
    bool terminal = isatty(STDERR_FILENO);
    if (terminal ? now - p->shown < 0.1 && done < 1 : done < p->shown + 0.1) return;
    p->shown = terminal ? now : done;
    if (seconds >= 0 && done < 1) snprintf(left, sizeof left, "%s left", cli_duration(seconds, duration));
    if (terminal)
        show_bar(done, left, what);
    else
        fprintf(stderr, "%3d%%%s%s%s%s\n", (int)(done * 100), *what ? "  " : "", cli_plain(what, plain, sizeof plain),
                *left ? ", " : "", left);
}

void cli_progress_end(cli_progress *p) {
    if (!p->quiet && p->start && isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
}

// ---- The look of things ----

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

const char *cli_duration(double seconds, char out[32]) {
    long long s = (long long)(seconds < 3e7 ? seconds + .5 : 3e7); // a year is as good as forever
    if (s < 60)
        snprintf(out, 32, "%lld s", s);
    else if (s < 3600)
        snprintf(out, 32, "%lld m %02lld s", s / 60, s % 60);
    else
        snprintf(out, 32, "%lld h %02lld m", s / 3600, s % 3600 / 60);
    return out;
}

// Controls, characters that turn or hide text, and what is no character at all.
static bool is_harmless(utf8proc_int32_t c) {
    utf8proc_category_t category = c < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(c);
    return category != UTF8PROC_CATEGORY_CN && category != UTF8PROC_CATEGORY_CC && category != UTF8PROC_CATEGORY_CF &&
           category != UTF8PROC_CATEGORY_ZL && category != UTF8PROC_CATEGORY_ZP;
}

const char *cli_plain(const char *s, char *out, size_t size) {
    size_t n = 0;
    for (utf8proc_ssize_t used; *s; s += used) {
        utf8proc_int32_t c;
        used = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
        if (used < 1) used = 1;
        size_t room = is_harmless(c) ? (size_t)used : 1;
        if (n + room >= size) break;
        if (is_harmless(c))
            memcpy(out + n, s, room);
        else
            out[n] = '?';
        n += room;
    }
    out[n] = 0;
    return out;
}
