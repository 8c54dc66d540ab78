// Lines and messages. See input.h.
#include "cli/input.h"
#include "cli/cli.h"
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

struct cli_input {
    EditLine *editor; // NULL: plain lines
    History *history;
    HistEvent event;
    char *history_path; // NULL: nowhere to keep it
    const char *prompt;
    char *line;
    size_t capacity;
};

static char *prompt_of(EditLine *editor) {
    void *in = NULL;
    el_get(editor, EL_CLIENTDATA, &in);
    return (char *)(uintptr_t)((cli_input *)in)->prompt;
}

// $XDG_STATE_HOME/upg/history, its folder made. What people ask is private, so both are for their owner only.
static char *history_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    upg_buf b = {0};
    if (state && *state == '/')
        upg_buf_str(&b, state);
    else if (home && *home == '/')
        upg_buf_fmt(&b, "%s/.local/state", home);
    else
        return NULL;
    size_t base = b.size;
    upg_buf_str(&b, "/upg");
    for (size_t i = 1; !b.failed && i <= b.size; i++) {
        char c = b.data[i];
        if (c && c != '/') continue;
        b.data[i] = 0;
        mkdir(b.data, i > base ? 0700 : 0777);
        b.data[i] = c;
    }
    upg_buf_str(&b, "/history");
    if (!b.failed) return b.data;
    upg_buf_free(&b);
    return NULL;
}

static int open_editor(cli_input *in, upg_error *e) {
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    in->editor = el_init("upg", stdin, stdout, stderr);
    in->history = history_init();
    if (!in->editor || !in->history) return upg_fail(e, "the line editor cannot be started");
    el_set(in->editor, EL_CLIENTDATA, in);
    el_set(in->editor, EL_PROMPT, prompt_of);
    el_set(in->editor, EL_EDITOR, "emacs");
    el_set(in->editor, EL_HIST, history, in->history);
    el_set(in->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    history(in->history, &in->event, H_SETSIZE, HISTORY_LINES);
    history(in->history, &in->event, H_SETUNIQUE, 1);
    in->history_path = history_path();
    if (in->history_path) history(in->history, &in->event, H_LOAD, in->history_path);
    return 0;
}

cli_input *cli_input_new(upg_error *e) {
    cli_input *in = upg_alloc(1, sizeof *in, e);
    if (in && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && open_editor(in, e)) {
        cli_input_free(in);
        return NULL;
    }
    return in;
}

void cli_input_free(cli_input *in) {
    if (!in) return;
    if (in->history && in->history_path) {
        mode_t mask = umask(077);
        history(in->history, &in->event, H_SAVE, in->history_path);
        umask(mask);
    }
    if (in->editor) el_end(in->editor);
    if (in->history) history_end(in->history);
    free(in->history_path);
    free(in->line);
    free(in);
}

bool cli_input_interactive(const cli_input *in) {
    return in->editor != NULL;
}

static cli_line edited(cli_input *in, const char *prompt, const char **line, size_t *n) {
    int count = 0;
    in->prompt = prompt;
    *line = el_gets(in->editor, &count);
    if (cli_interrupted) {
        cli_interrupted = 0;
        el_reset(in->editor);
        puts("^C");
        return CLI_LINE_INTERRUPTED;
    }
    if (!*line || count <= 0) {
        putchar('\n');
        return CLI_LINE_END;
    }
    *n = strlen(*line);
    if (*n && (*line)[*n - 1] == '\n') --*n;
    if (*n) history(in->history, &in->event, H_ENTER, *line);
    return CLI_LINE;
}

cli_line cli_input_read(cli_input *in, const char *prompt, const char **line, size_t *n) {
    if (in->editor) return edited(in, prompt, line, n);
    ssize_t size = getline(&in->line, &in->capacity, stdin);
    if (cli_interrupted) return CLI_LINE_INTERRUPTED;
    if (size < 0) return CLI_LINE_END;
    if (size && in->line[size - 1] == '\n') size--;
    *line = in->line;
    *n = (size_t)size;
    return CLI_LINE;
}

static bool quotes_at(const char *s, size_t n) {
    return n >= 3 && !memcmp(s, "\"\"\"", 3);
}

// Up to closing quotes, or the end of the input.
static cli_line read_quoted(cli_input *in, const char *line, size_t n, upg_buf *message) {
    for (cli_line got = CLI_LINE;;) {
        if (n >= 3 && quotes_at(line + n - 3, 3)) {
            upg_buf_add(message, line, n - 3);
            return CLI_LINE;
        }
        upg_buf_add(message, line, n);
        if ((got = cli_input_read(in, ". ", &line, &n)) != CLI_LINE) return got == CLI_LINE_END ? CLI_LINE : got;
        upg_buf_str(message, "\n");
    }
}

cli_line cli_input_message(cli_input *in, upg_buf *message) {
    const char *line;
    size_t n;
    message->size = 0;
    cli_line got = cli_input_read(in, "> ", &line, &n);
    if (got != CLI_LINE) return got;
    if (quotes_at(line, n)) {
        got = read_quoted(in, line + 3, n - 3, message);
    } else {
        while (n && line[n - 1] == '\\') {
            upg_buf_add(message, line, n - 1);
            if ((got = cli_input_read(in, ". ", &line, &n)) != CLI_LINE) return got == CLI_LINE_END ? CLI_LINE : got;
            upg_buf_str(message, "\n");
        }
        upg_buf_add(message, line, n);
    }
    if (!message->data) upg_buf_add(message, "", 0);
    return got;
}
