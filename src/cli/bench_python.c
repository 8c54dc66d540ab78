// Baselines in Python: a script in a folder of its own, whose lines become rows.
#include "cli/bench.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SAMPLES = 100 };

bool bench_python_is_there(const char *python) {
    upg_buf command = {0};
    upg_buf_fmt(&command, "'%s' -c '' >/dev/null 2>&1", python);
    bool there = !command.failed && !strchr(python, '\'') && system(command.data) == 0;
    upg_buf_free(&command);
    return there;
}

int bench_python_open(bench_python *p, const char *command, upg_error *e) {
    const char *tmp = getenv("TMPDIR");
    *p = (bench_python){.command = command};
    snprintf(p->folder, sizeof p->folder, "%s/upg-bench-XXXXXX", tmp && *tmp && strlen(tmp) < 200 ? tmp : "/tmp");
    if (strchr(p->folder, '\'') || !mkdtemp(p->folder)) {
        upg_fail(e, "%s: cannot make a folder", p->folder);
        p->folder[0] = 0;
        return -1;
    }
    snprintf(p->script, sizeof p->script, "%s/script.py", p->folder);
    snprintf(p->data, sizeof p->data, "%s/data", p->folder);
    return 0;
}

void bench_python_close(bench_python *p) {
    if (!p->folder[0]) return;
    unlink(p->script);
    unlink(p->data);
    rmdir(p->folder);
}

// Lines of the script become rows; its notes are printed once a run, with the first size.
static int read_rows(FILE *f, int size, bool notes, bench_rows *rows, upg_error *e) {
    char *line = NULL;
    size_t room = 0;
    int rc = 0;
    while (!rc && getline(&line, &room, f) > 0) {
        if (!strncmp(line, "note ", 5) && notes) fprintf(stderr, "%s", line + 5);
        if (strncmp(line, "row ", 4)) continue;
        char *at = line + 4, *name = strsep(&at, " ");
        double seconds[MAX_SAMPLES];
        int n = 0;
        for (char *word; n < MAX_SAMPLES && (word = strsep(&at, " "));) seconds[n++] = strtod(word, NULL);
        if (n) rc = bench_rows_add(rows, name, size, seconds, n, e);
    }
    free(line);
    return rc;
}

static int write_script(const char *path, const char *script, upg_error *e) {
    FILE *f = fopen(path, "w");
    bool ok = f && fputs(script, f) >= 0;
    if (f && fclose(f)) ok = false;
    return ok ? 0 : upg_fail(e, "%s: cannot write", path);
}

int bench_python_run(bench_python *p, const char *script, const char *arguments, int size, bool notes, bench_rows *rows,
                     upg_error *e) {
    upg_buf command = {0};
    upg_buf_fmt(&command, "'%s' '%s' '%s' %s", p->command, p->script, p->data, arguments);
    int rc = write_script(p->script, script, e) || upg_buf_check(&command, e) ? -1 : 0;
    FILE *from = rc ? NULL : popen(command.data, "r");
    if (!rc && !from) rc = upg_fail(e, "%s: cannot be started", p->command);
    if (from) {
        rc = read_rows(from, size, notes, rows, e);
        int status = pclose(from);
        if (!rc && status) rc = upg_fail(e, "%s: the baselines failed", p->command);
    }
    upg_buf_free(&command);
    return rc;
}
