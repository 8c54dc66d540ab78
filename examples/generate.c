// Generates text with UPG's library: cc generate.c -lupg -o generate && ./generate MODEL.upg "A prompt"
#include <stdio.h>
#include <string.h>
#include <upg.h>

static int generate(const upg_model *m, const char *prompt, int max, upg_error *e) {
    int32_t *ids = NULL, token, rc = -1;
    size_t n_ids, n;
    const char *piece;
    upg_session *session = upg_session_new(m, &(upg_session_options){.max_logits = 8}, e);
    upg_sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    upg_sampler *sampler = upg_sampler_new(upg_model_vocab_size(m), &greedy, e);
    upg_text *text = upg_text_new(m, false, true, e);
    upg_generator *generator = session ? upg_generator_new(session, 0, -1, e) : NULL;
    if (!sampler || !text || !generator) goto end;
    if (upg_tokenize(m, prompt, strlen(prompt), false, &ids, &n_ids, e)) goto end;
    if (upg_session_prefill(session, 0, ids, n_ids, e) || upg_generator_start(generator, ids, n_ids, max, e)) goto end;
    for (int i = 0; i < max; i++) {
        if (upg_generator_next(generator, sampler, &token, e)) goto end;
        if (upg_model_is_eos(m, token)) break;
        if (upg_text_push(text, token, &piece, &n, e)) goto end;
        fwrite(piece, 1, n, stdout);
    }
    rc = 0;
end:
    upg_free(ids);
    upg_generator_free(generator);
    upg_text_free(text);
    upg_sampler_free(sampler);
    upg_session_free(session);
    return rc;
}

int main(int argc, char **argv) {
    upg_error e = {""};
    upg_model *m = argc == 3 ? upg_model_open(argv[1], &e) : NULL;
    int rc = m ? generate(m, argv[2], 40, &e) : -1;
    upg_model_free(m);
    return rc ? (fprintf(stderr, "%s\n", argc == 3 ? e.message : "usage: generate MODEL PROMPT"), 1) : (puts(""), 0);
}
