// Lines from whoever types or pipes them. On a terminal with editing (libedit) and a history that is kept from one
// conversation to the next; elsewhere plain lines, and nothing is written.
#pragma once
#include "base/base.h"

typedef struct cli_input cli_input;

typedef enum cli_line { CLI_LINE, CLI_LINE_END, CLI_LINE_INTERRUPTED } cli_line;

cli_input *cli_input_new(upg_error *e);
void cli_input_free(cli_input *in); // keeps the history
bool cli_input_interactive(const cli_input *in);
// The next line without its newline in *line, valid until the next call. Ctrl-C discards the line being typed.
cli_line cli_input_read(cli_input *in, const char *prompt, const char **line, size_t *n);
// The next message: a line; several lines, each but the last ended by a backslash; or all between """ and """.
cli_line cli_input_message(cli_input *in, upg_buf *message);
