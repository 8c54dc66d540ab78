// upg chat: a conversation, on a terminal or in a pipe.
//
// The messages are the truth; the tokens are made from all of them for every answer, and the generator runs only those
// that the session does not hold yet. A message that cannot be answered is taken back, so the conversation stays one
// that the template accepts.
#include "cli/generate.h"
#include "cli/input.h"
#include "cli/messages.h"
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *model;
    bool json;
    cli_answer answer;
    cli_setup setup;
    cli_template template;
} options;

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {{"json", 0, NULL, "print each answer as one line of JSON", CLI_FLAG, AT(json)}, {0}};

typedef struct conversation {
    const options *o;
    cli_generator g;
    upg_chat *chat;
    cli_messages messages;
    cli_input *input;
    bool done, failed;
} conversation;

// One line about what went wrong; the conversation goes on.
static int complain(conversation *c, const upg_error *e) {
    c->failed = true;
    return cli_failed(e);
}

// ---- Answers ----

static void show(void *ctx, int32_t token, float logprob, const char *text, size_t n) {
    const conversation *c = ctx;
    (void)token, (void)logprob;
    if (c->o->json) return;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static int make_prompt(conversation *c, int32_t **ids, size_t *n_ids, upg_error *e) {
    size_t n;
    char *json = cli_messages_json(&c->messages, false, &n, e);
    if (!json) return -1;
    int rc = upg_chat_tokens(c->chat, json, n, c->o->template.args, ids, n_ids, e);
    free(json);
    int context = upg_session_context(c->g.session), max = upg_model_max_context(c->g.model);
    if (rc || *n_ids < (size_t)context) return rc;
    upg_free(*ids);
    return upg_fail(e,
                    "the conversation has %zu tokens, too many for the context of %d: /reset begins again, /save keeps "
                    "it, upg chat -c N makes room (this model: up to %d)",
                    *n_ids, context, max);
}

// Answers the messages; the answer becomes one of them, as far as it came. An answer that Ctrl-C stopped before it
// began is none.
static int answer(conversation *c, upg_error *e) {
    cli_generator *g = &c->g;
    int32_t *ids;
    size_t n;
    if (make_prompt(c, &ids, &n, e)) return -1;
    int rc = cli_generator_prompt(g, ids, n, e);
    upg_free(ids);
    if (rc || cli_generator_run(g, show, c, e)) return -1;
    if (c->o->json && cli_generator_json(g, e)) return -1;
    if (!c->o->json) putchar('\n');
    fflush(stdout);
    if (cli_interrupted && !g->text.size) return upg_fail(e, "interrupted before the answer began");
    if (cli_messages_add(&c->messages, "assistant", g->text.data ? g->text.data : "", g->text.size, e)) return -1;
    if (cli_generator_full(g))
        return upg_fail(e,
                        "the context of %d tokens is full, the answer ends here: /reset begins again, upg chat -c N "
                        "makes room",
                        upg_session_context(g->session));
    return 0;
}

// Interrupted on a terminal: back to the prompt. In a pipe: the end.
static void settle(conversation *c) {
    if (cli_interrupted && !cli_input_interactive(c->input))
        c->done = true;
    else
        cli_interrupted = 0;
}

static void say(conversation *c, const char *text, size_t n) {
    upg_error e;
    if (cli_messages_add(&c->messages, "user", text, n, &e)) {
        complain(c, &e);
        return;
    }
    if (answer(c, &e)) {
        if (cli_messages_last_is(&c->messages, "user")) cli_messages_pop(&c->messages);
        complain(c, &e);
    }
    settle(c);
}

// ---- Commands ----

typedef int command(conversation *c, const char *argument, upg_error *e);
static command do_help, do_reset, do_system, do_set, do_stats, do_regen, do_save, do_load, do_quit;

static const struct {
    const char *name, *argument, *help;
    command *run;
    bool needed; // whether the argument is
} commands[] = {
    {"/help", "", "this list", do_help, false},
    {"/reset", "", "begin again; the system message stays", do_reset, false},
    {"/system", "TEXT", "set the system message; without TEXT, remove it", do_system, false},
    {"/set", "KEY VALUE", "temp, top-k, top-p, min-p, repeat-penalty, seed, predict; without them, show all", do_set,
     false},
    {"/stats", "", "speed of the last answer, and how full the context is", do_stats, false},
    {"/regen", "", "answer the last message again, with the next seed", do_regen, false},
    {"/save", "FILE", "write the messages as JSON", do_save, true},
    {"/load", "FILE", "go on with the messages of a file", do_load, true},
    {"/quit", "", "end (also Ctrl-D)", do_quit, false},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int do_help(conversation *c, const char *argument, upg_error *e) {
    (void)c, (void)argument, (void)e;
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-8s %-10s %s\n", commands[i].name, commands[i].argument, commands[i].help);
    puts("  A line that ends with a backslash goes on; \"\"\" begins and ends a message of several lines. A space\n"
         "  before a slash makes it text. Ctrl-C stops an answer.");
    return 0;
}

static int do_reset(conversation *c, const char *argument, upg_error *e) {
    (void)argument, (void)e;
    cli_messages_reset(&c->messages);
    return 0;
}

static int do_system(conversation *c, const char *argument, upg_error *e) {
    return cli_messages_system(&c->messages, argument, e);
}

static void print_settings(const conversation *c) {
    const cli_answer *a = &c->g.answer;
    const upg_sampling *s = &a->sampling;
    printf("temp %g  top-k %d  top-p %g  min-p %g  repeat-penalty %g  seed %llu  predict %d\n", (double)s->temperature,
           s->top_k, (double)s->top_p, (double)s->min_p, (double)s->repeat_penalty, (unsigned long long)s->seed,
           a->n_predict);
}

// The option that a key means: its name, with underscores as good as hyphens.
static const cli_option *find_setting(const char *key, size_t n) {
    if (n == 11 && !memcmp(key, "temperature", 11)) n = 4;
    for (const cli_option *o = cli_answer_options; o->name; o++) {
        size_t i = 0;
        while (i < n && o->name[i] == (key[i] == '_' ? '-' : key[i])) i++;
        if (i == n && !o->name[i] && o->value) return o;
    }
    return NULL;
}

static int do_set(conversation *c, const char *argument, upg_error *e) {
    size_t n = strcspn(argument, " \t");
    const char *value = argument + n + strspn(argument + n, " \t");
    if (!n) {
        print_settings(c);
        return 0;
    }
    const cli_option *o = find_setting(argument, n);
    if (!o || !*value) return upg_fail(e, "/set KEY VALUE: temp, top-k, top-p, min-p, repeat-penalty, seed or predict");
    cli_answer changed = c->g.answer;
    return cli_option_set(o, &changed, value, e) || cli_generator_set(&c->g, &changed, e) ? -1 : 0;
}

static int do_stats(conversation *c, const char *argument, upg_error *e) {
    (void)argument, (void)e;
    if (c->g.finish) cli_generator_stats(&c->g, stdout);
    printf("context: %d of %d tokens, %zu messages\n", upg_session_length(c->g.session, 0),
           upg_session_context(c->g.session), cli_messages_count(&c->messages));
    return 0;
}

// Draws depend on the seed and the position alone, so another answer needs another seed.
static int do_regen(conversation *c, const char *argument, upg_error *e) {
    (void)argument;
    if (!cli_messages_last_is(&c->messages, "assistant")) return upg_fail(e, "/regen: there is no answer yet");
    cli_answer next = c->g.answer;
    next.sampling.seed = (next.sampling.seed + 1) & INT64_MAX;
    if (cli_generator_set(&c->g, &next, e)) return -1;
    yyjson_mut_val *old = cli_messages_pop(&c->messages);
    size_t n = cli_messages_count(&c->messages);
    int rc = answer(c, e);
    if (rc && cli_messages_count(&c->messages) == n) cli_messages_put(&c->messages, old); // the old answer stays
    settle(c);
    return rc;
}

static int do_save(conversation *c, const char *argument, upg_error *e) {
    return cli_messages_save(&c->messages, argument, e);
}

// The file counts once the template has accepted it.
static int do_load(conversation *c, const char *argument, upg_error *e) {
    cli_messages old = c->messages;
    int32_t *ids = NULL;
    size_t n;
    c->messages = (cli_messages){0};
    if (cli_messages_load(&c->messages, argument, e) ||
        (cli_messages_count(&c->messages) && make_prompt(c, &ids, &n, e))) {
        cli_messages_free(&c->messages);
        c->messages = old;
        return -1;
    }
    upg_free(ids);
    cli_messages_free(&old);
    return 0;
}

static int do_quit(conversation *c, const char *argument, upg_error *e) {
    (void)argument, (void)e;
    c->done = true;
    return 0;
}

static int run_command(conversation *c, const char *line, upg_error *e) {
    size_t n = strcspn(line, " \t\n");
    const char *argument = line + n + strspn(line + n, " \t\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strlen(commands[i].name) != n || memcmp(line, commands[i].name, n)) continue;
        if (commands[i].needed && !*argument)
            return upg_fail(e, "%s %s: what is missing?", commands[i].name, commands[i].argument);
        return commands[i].run(c, argument, e);
    }
    return upg_fail(e, "%.*s: no such command; /help lists them, a space before it makes it text",
                    (int)(n < 40 ? n : 40), line);
}

// ---- The conversation ----

static int open_all(conversation *c, upg_error *e) {
    const options *o = c->o;
    if (cli_generator_open(&c->g, o->model, &o->setup, &o->answer, false, e)) return -1;
    if (!(c->g.chat = c->chat = cli_open_chat(c->g.model, &o->template, e))) return -1;
    if (cli_messages_init(&c->messages, e) ||
        cli_messages_system(&c->messages, o->template.system ? o->template.system : "", e))
        return -1;
    return (c->input = cli_input_new(e)) ? 0 : -1;
}

static void converse(conversation *c) {
    upg_buf message = {0};
    upg_error e;
    if (cli_input_interactive(c->input))
        printf("%s, context %d. /help lists the commands; Ctrl-D ends.\n", c->o->model ? c->o->model : "default model",
               upg_session_context(c->g.session));
    while (!c->done && !ferror(stdout)) {
        cli_line got = cli_input_message(c->input, &message);
        if (upg_buf_check(&message, &e)) {
            complain(c, &e);
            break;
        }
        if (got == CLI_LINE_END || (got == CLI_LINE_INTERRUPTED && !cli_input_interactive(c->input))) break;
        if (got == CLI_LINE_INTERRUPTED || !message.size) continue;
        if (*message.data != '/')
            say(c, message.data, message.size);
        else if (run_command(c, message.data, &e))
            complain(c, &e);
        fflush(stdout);
    }
    upg_buf_free(&message);
}

static int run(int argc, char **argv) {
    options o = {.answer = cli_answer_defaults(), .setup = cli_setup_defaults()};
    o.answer.n_predict = 1024;
    int status = cli_parse(&cli_chat, argc, argv, &o, &o.model);
    if (status >= 0) return status;
    conversation c = {.o = &o};
    upg_error e = {0};
    cli_catch_interrupt(true);
    if (open_all(&c, &e)) {
        status = cli_failed(&e);
    } else {
        converse(&c);
        // On a terminal the person has seen what failed; a program asks the status.
        status = cli_interrupted ? CLI_INTERRUPTED : c.failed && !cli_input_interactive(c.input) ? CLI_FAILED : CLI_OK;
    }
    cli_input_free(c.input);
    cli_messages_free(&c.messages);
    upg_chat_free(c.chat);
    cli_generator_close(&c.g);
    return status;
}

const cli_verb cli_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .arguments = "[MODEL] [OPTIONS]",
    .about =
        "A conversation through the model's chat template, with line editing and a history on a terminal. In a pipe\n"
        "every line is a message and its answer goes to standard output; the exit status says whether all went well.\n"
        "Nothing typed becomes a control token. A line that ends with a backslash goes on, \"\"\" begins and ends a\n"
        "message of several lines, lines that begin with a slash are commands (/help). Answers have at most 1024\n"
        "tokens, if -n does not say otherwise.\n",
    .devices = true,
    .groups = {{table, 0},
               {cli_answer_options, AT(answer)},
               {cli_setup_options, AT(setup)},
               {cli_template_options, AT(template)}},
    .max_args = 1,
    .run = run};
