// Answers to prompts, one after another, in one session: what `run` and `chat` share.
//
// A generator knows the tokens its session has seen. The next prompt keeps what it has in common with them from the
// first token on, and only the rest is run: a conversation costs its newest message, not its length.
#pragma once
#include "cli/cli.h"

typedef struct cli_answer { // how to answer; /set of chat changes it
    int n_predict;
    upg_sampling sampling;
} cli_answer;
extern const cli_option cli_answer_options[];
cli_answer cli_answer_defaults(void); // the seed is from the clock

typedef struct cli_setup { // what is fixed once the session is made
    int context, n_threads;
    int speculate; // tokens run ahead at most; -1: as many as pay
    bool mlock, pin;
} cli_setup;
extern const cli_option cli_setup_options[];
cli_setup cli_setup_defaults(void);

typedef struct cli_template { // how messages become a prompt
    const char *system, *file, *args;
} cli_template;
extern const cli_option cli_template_options[];

typedef struct cli_generator {
    upg_model *model;
    upg_session *session;
    upg_sampler *sampler;
    upg_generator *generator;
    const upg_chat *chat; // its end of an answer ends ours; or NULL
    bool special;         // show control tokens
    cli_answer answer;
    int32_t *tokens; // [context + 1] the prompt, then the answer
    float *logprobs; // [context + 1] of the answer's tokens, if wanted
    size_t n_reused, n_prompt, n_tokens;
    upg_detokenizer detokenizer;
    upg_buf text;       // the answer so far
    const char *finish; // "stop", "length" or "interrupted"
    upg_generator_counts counts;
    double prompt_seconds, seconds;
} cli_generator;

// The model (NULL: the default), a session and room for its tokens.
int cli_generator_open(cli_generator *g, const char *model, const cli_setup *setup, const cli_answer *answer,
                       bool logprobs, upg_error *e);
void cli_generator_close(cli_generator *g);
int cli_generator_set(cli_generator *g, const cli_answer *answer, upg_error *e); // on failure the old answer stays
// Runs the prompt, in parts, so that Ctrl-C stops it soon: then it returns 0, and so does the answer, empty.
int cli_generator_prompt(cli_generator *g, const int32_t *ids, size_t n, upg_error *e);
// Answers; show gets each token with the text that it completes, then the rest of the text with a token of -1.
typedef void cli_show(void *ctx, int32_t token, float logprob, const char *text, size_t n);
int cli_generator_run(cli_generator *g, cli_show *show, void *ctx, upg_error *e);
bool cli_generator_full(const cli_generator *g); // no room in the context for another token
void cli_generator_stats(const cli_generator *g, FILE *f);
int cli_generator_json(const cli_generator *g, upg_error *e); // one line on standard output

// The chat of a model, with the template of --template if there is one.
upg_chat *cli_open_chat(const upg_model *m, const cli_template *t, upg_error *e);
