// What the tests of the engine share: where models are, compressing one into a throw-away folder, and comparing logits.
#pragma once
#include "../format/format_helpers.h"
#include "compress/compress.h"
#include "upg.h"

#define STORIES       "models/stories260K" // the small model of this repository: a Llama of head_dim 8 with a tied head
#define DEFAULT_MODEL "models/tales.upg"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

// A file of the data that does not belong to the repository, or NULL.
static inline const char *shared_path(char out[256], const char *name) {
    const char *root = getenv("UPG_SHARED");
    snprintf(out, 256, "%s/%s", root && *root ? root : "../shared", name);
    return access(out, R_OK) ? NULL : out;
}

static inline upg_model *open_model(const char *path) {
    upg_error e = {""};
    upg_model *m = upg_model_open(path, &e);
    if (!m) fail_msg("%s", e.message);
    return m;
}

static inline upg_session *open_session(const upg_model *m, const upg_session_options *o) {
    upg_error e = {""};
    upg_session *s = upg_session_new(m, o, &e);
    if (!s) fail_msg("%s", e.message);
    return s;
}

static inline void compress_model(const char *source, const char *out, const upg_compress_options *o) {
    upg_error e = {""};
    upg_compress_result r;
    if (upg_compress(source, out, o, &r, &e)) fail_msg("%s", e.message);
    upg_compress_result_free(&r);
}

static inline void assert_same_file(const char *folder, const char *a, const char *b) {
    char path[256];
    upg_buf x = read_image(path_in(path, folder, a)), y = read_image(path_in(path, folder, b));
    if (x.size != y.size || memcmp(x.data, y.data, x.size)) fail_msg("%s and %s differ", a, b);
    upg_buf_free(&x);
    upg_buf_free(&y);
}

static inline void run_rows(upg_session *s, const upg_row *rows, int n) {
    upg_error e = {""};
    if (upg_session_run(s, rows, n, &e)) fail_msg("%s", e.message);
}

// What a model says when it is left to draw: windows of its own language. Draws depend on seed and position alone, so
// each window has its own seed.
static inline void draw_windows(const upg_model *m, uint64_t seed, int n_windows, int window, int32_t *tokens) {
    upg_session *s = open_session(m, &(upg_session_options){.context = window, .n_threads = 1});
    for (int w = 0; w < n_windows; w++) {
        upg_sampling o = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = seed + (uint64_t)w};
        upg_sampler *sampler = upg_sampler_new(upg_model_vocab_size(m), &o, NULL);
        int32_t *t = tokens + (size_t)w * (size_t)window;
        assert_non_null(sampler);
        t[0] = upg_model_bos(m) < 0 ? 0 : upg_model_bos(m);
        assert_int_equal(upg_session_truncate(s, 0, 0, NULL), 0);
        for (int i = 1; i < window; i++) {
            run_rows(s, &(upg_row){t[i - 1], 0, true}, 1);
            t[i] = upg_sample(sampler, upg_session_logits(s, 0), t, (size_t)i);
        }
        upg_sampler_free(sampler);
    }
    upg_session_free(s);
}

// Bit equality, NaN and the sign of zero included.
static inline void assert_same_logits(const float *got, const float *want, int vocab, const char *what, int position) {
    if (!memcmp(got, want, (size_t)vocab * sizeof *got)) return;
    int i = 0;
    while (!memcmp(&got[i], &want[i], sizeof *got)) i++;
    fail_msg("%s: position %d, logit %d is %a instead of %a", what, position, i, (double)got[i], (double)want[i]);
}
