// The messages of a conversation, as the JSON that chat templates see.
#pragma once
#include "base/base.h"
#include "yyjson.h"

typedef struct cli_messages {
    yyjson_mut_doc *doc; // an array of objects with "role" and, as a rule, "content"
} cli_messages;

int cli_messages_init(cli_messages *m, upg_error *e);
void cli_messages_free(cli_messages *m);
size_t cli_messages_count(const cli_messages *m);
int cli_messages_add(cli_messages *m, const char *role, const char *text, size_t n, upg_error *e); // text is UTF-8
yyjson_mut_val *cli_messages_pop(cli_messages *m); // the last one, which cli_messages_put brings back
void cli_messages_put(cli_messages *m, yyjson_mut_val *message);
bool cli_messages_last_is(const cli_messages *m, const char *role);
// Sets, replaces or, when it is empty, removes the system message at the beginning.
int cli_messages_system(cli_messages *m, const char *text, upg_error *e);
void cli_messages_reset(cli_messages *m); // all but that
char *cli_messages_json(const cli_messages *m, bool pretty, size_t *n, upg_error *e);
int cli_messages_load(cli_messages *m, const char *path, upg_error *e); // on failure m is as it was
int cli_messages_save(const cli_messages *m, const char *path, upg_error *e);
