// The upg command: finds the verb and runs it.
#include "cli/cli.h"
#include <string.h>

static const cli_verb *const verbs[] = {&cli_chat,     &cli_run,  &cli_serve, &cli_compress, &cli_eval,   &cli_inspect,
                                        &cli_tokenize, &cli_list, &cli_rm,    &cli_bench,    &cli_devices};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void help(FILE *f) {
    fprintf(f, "upg %s: compressed language models with the same bits everywhere\n\nusage: upg VERB [OPTIONS]\n\n",
            upg_version());
    for (int i = 0; i < N_VERBS; i++) fprintf(f, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(f, "\nupg VERB --help tells more. Exit status: 0, 1 failed, 2 wrong usage, 130 interrupted.\n");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        help(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return CLI_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("upg %s\n", upg_version());
        return CLI_OK;
    }
    for (int i = 0; i < N_VERBS; i++) {
        if (strcmp(argv[1], verbs[i]->name)) continue;
        int status = verbs[i]->run(argc - 1, argv + 1);
        if (fflush(stdout) && status == CLI_OK) {
            fprintf(stderr, "upg: cannot write to standard output\n");
            status = CLI_FAILED;
        }
        return status;
    }
    fprintf(stderr, "upg: %s: unknown verb; upg --help lists them\n", argv[1]);
    return CLI_USAGE;
}
