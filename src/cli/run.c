// upg run: continues a prompt, or answers one message, streaming.
#include "cli/generate.h"
#include "cli/messages.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *model, *prompt, *file;
    bool chat, special, logprobs, json, quiet;
    cli_answer answer;
    cli_setup setup;
    cli_template template;
} options;

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"prompt", 'p', "TEXT", "the prompt; without it and -f, standard input", CLI_STRING, AT(prompt)},
    {"file", 'f', "FILE", "the prompt is the file's text", CLI_STRING, AT(file)},
    {"chat", 0, NULL, "the prompt is a user's message: the chat template goes around it", CLI_FLAG, AT(chat)},
    {"special", 0, NULL, "control tokens written in the prompt count, and are shown in the answer", CLI_FLAG,
     AT(special)},
    {"logprobs", 0, NULL, "print each token with its log probability instead of text", CLI_FLAG, AT(logprobs)},
    {"json", 0, NULL, "print one JSON object at the end instead of streaming", CLI_FLAG, AT(json)},
    {"quiet", 'q', NULL, "no statistics", CLI_FLAG, AT(quiet)},
    {0}};

// The prompt's text from -p, -f or standard input. A terminal with no prompt, and the default model, starts from
// nothing.
static char *read_prompt(const options *o, size_t *n, upg_error *e) {
    if (o->prompt) return upg_strdup(o->prompt, *n = strlen(o->prompt), e);
    if (o->file) return cli_read_file(o->file, n, e);
    if (isatty(STDIN_FILENO)) return upg_strdup("", *n = 0, e);
    return cli_read_all(stdin, "standard input", n, e);
}

static int chat_ids(const upg_chat *c, const cli_template *t, const char *text, size_t n, int32_t **ids, size_t *n_ids,
                    upg_error *e) {
    cli_messages m = {0};
    size_t size;
    char *json = NULL;
    if (!cli_messages_init(&m, e) && !cli_messages_system(&m, t->system ? t->system : "", e) &&
        !cli_messages_add(&m, "user", text, n, e))
        json = cli_messages_json(&m, false, &size, e);
    int rc = json ? upg_chat_tokens(c, json, size, t->args, ids, n_ids, e) : -1;
    free(json);
    cli_messages_free(&m);
    return rc;
}

static int start(const options *o, cli_generator *g, upg_chat **chat, upg_error *e) {
    if (cli_generator_open(g, o->model, &o->setup, &o->answer, o->logprobs, e)) return -1;
    if (o->chat && !(g->chat = *chat = cli_open_chat(g->model, &o->template, e))) return -1;
    g->special = o->special;
    size_t n, n_ids;
    int32_t *ids = NULL;
    char *text = read_prompt(o, &n, e);
    int rc = !text     ? -1
             : o->chat ? chat_ids(*chat, &o->template, text, n, &ids, &n_ids, e)
                       : upg_prompt_tokens(g->model, text, n, o->special, &ids, &n_ids, e);
    if (!rc) rc = cli_generator_prompt(g, ids, n_ids, e);
    free(text);
    upg_free(ids);
    return rc;
}

static void show(void *ctx, int32_t token, float logprob, const char *text, size_t n) {
    const options *o = ctx;
    if (o->json) return;
    if (!o->logprobs) {
        fwrite(text, 1, n, stdout);
    } else if (token >= 0) {
        upg_buf quoted = {0};
        upg_json_quote(&quoted, text, n);
        printf("%d\t%.6f\t%s\n", token, (double)logprob, quoted.data ? quoted.data : "");
        upg_buf_free(&quoted);
    }
    fflush(stdout);
}

static int finish(const options *o, const cli_generator *g, upg_error *e) {
    if (o->json) return cli_generator_json(g, e);
    if (!o->logprobs) putchar('\n');
    fflush(stdout);
    if (!o->quiet) cli_generator_stats(g, stderr);
    return 0;
}

static int run(int argc, char **argv) {
    options o = {.answer = cli_answer_defaults(), .setup = cli_setup_defaults()};
    int status = cli_parse(&cli_run, argc, argv, &o, &o.model);
    if (status >= 0) return status;
    if (o.prompt && o.file) return cli_usage(&cli_run, "-p and -f exclude each other");
    o.chat = o.chat || o.template.system || o.template.file || o.template.args;
    if (o.chat && o.special) return cli_usage(&cli_run, "--special and --chat exclude each other");
    cli_generator g = {0};
    upg_chat *chat = NULL;
    upg_error e = {0};
    cli_catch_interrupt(false);
    status =
        start(&o, &g, &chat, &e) || cli_generator_run(&g, show, &o, &e) || finish(&o, &g, &e) ? cli_failed(&e) : CLI_OK;
    if (cli_interrupted) status = CLI_INTERRUPTED;
    upg_chat_free(chat);
    cli_generator_close(&g);
    return status;
}

const cli_verb cli_run = {
    .name = "run",
    .summary = "continue a prompt, or answer one message",
    .arguments = "[MODEL] [-p TEXT | -f FILE] [OPTIONS]",
    .about =
        "Continues a prompt: TEXT, FILE, or standard input; with --chat (or an option of chats: --system, --template,\n"
        "--template-args) answers it. MODEL is a .upg file, a name from upg list, or an original (folder or GGUF\n"
        "file), which runs in fp32; without it the embedded default model tells a story. At most 256 tokens, if -n\n"
        "does not say otherwise.\n",
    .devices = true,
    .groups = {{table, 0},
               {cli_answer_options, AT(answer)},
               {cli_setup_options, AT(setup)},
               {cli_template_options, AT(template)}},
    .max_args = 1,
    .run = run};
