// upg tokenize: text to ids and back.
#include "cli/cli.h"
#include "format/weights.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    bool special, decode;
} options;

static const cli_option table[] = {
    {"special", 0, NULL, "names of control tokens in the text become control tokens; with --decode they are printed",
     CLI_FLAG, .offset = offsetof(options, special)},
    {"decode", 0, NULL, "read ids, print text", CLI_FLAG, .offset = offsetof(options, decode)},
    {0}};

// Only the tokenizer is opened: a large model's weights need not be well, or there.
static upg_tokenizer *open_tokenizer(const char *path, upg_error *e) {
    upg_tokenizer *t = NULL;
    upg_weights w;
    char *file = cli_model_path(path, e);
    int rc = file ? upg_weights_open_tokenizer(&w, file, e) : -1;
    free(file);
    if (rc) return NULL;
    if (!upg_weights_tokenizer(&w, &t, e) && !t) upg_fail(e, "%s: has no tokenizer", path);
    upg_weights_close(&w);
    return t;
}

static int encode(const upg_tokenizer *t, const char *text, size_t n, bool special, upg_error *e) {
    upg_ids ids = {0};
    int rc = upg_tokenizer_encode(t, text, n, special, &ids, e);
    for (size_t i = 0; !rc && i < ids.size; i++) printf("%s%d", i ? " " : "", ids.data[i]);
    if (!rc) putchar('\n');
    upg_ids_free(&ids);
    return rc;
}

static int decode(const upg_tokenizer *t, const char *text, bool special, upg_error *e) {
    upg_detokenizer d = {0};
    upg_buf out = {0};
    int rc = 0;
    for (const char *p = text;;) {
        while (isspace((unsigned char)*p)) p++;
        if (!*p) break;
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (errno || end == p || id < 0 || id >= upg_tokenizer_size(t)) {
            rc = upg_fail(e, "%.20s: not a token id below %d", p, upg_tokenizer_size(t));
            break;
        }
        upg_detokenizer_push(&d, t, (int32_t)id, special, &out);
        p = end;
    }
    upg_detokenizer_finish(&d, &out);
    if (!rc) rc = upg_buf_check(&out, e);
    if (!rc && out.size) fwrite(out.data, 1, out.size, stdout);
    upg_buf_free(&out);
    return rc;
}

static int run(int argc, char **argv) {
    options o = {0};
    const char *args[1];
    int status = cli_parse(&cli_tokenize, argc, argv, &o, args);
    if (status >= 0) return status;
    upg_error e = {0};
    size_t n = 0;
    upg_tokenizer *t = open_tokenizer(args[0], &e);
    char *text = t ? cli_read_all(stdin, "standard input", &n, &e) : NULL;
    int rc = !text ? -1 : o.decode ? decode(t, text, o.special, &e) : encode(t, text, n, o.special, &e);
    free(text);
    upg_tokenizer_free(t);
    return rc ? cli_failed(&e) : CLI_OK;
}

const cli_verb cli_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids and back",
    .arguments = "MODEL [--special] [--decode]",
    .about =
        "Reads standard input byte for byte and prints its token ids on one line. Nothing is added (no BOS or EOS),\n"
        "and no text becomes a control token unless --special is given. MODEL need not have weights: a folder, a GGUF\n"
        "vocabulary, a tokenizer.json, tokenizer.model or X.tiktoken will do.\n",
    .groups = {{table, 0}},
    .min_args = 1,
    .max_args = 1,
    .run = run};
