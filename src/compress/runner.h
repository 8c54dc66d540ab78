// Running text through a program part by part. The program is cut at the points where a single buffer is live (after
// each residual addition), and the text passes one part at a time, so only one part's weights and one window of rows
// are needed in memory.
//
// What lies between two parts is a stream: [tokens][width] activations, kept in a file. There may be several: the
// original model's, and those of models that differ in some weights. A part reads a stream from one place of the file
// and writes it to another, so whoever is stopped in the middle of a part begins that part again.
#pragma once
#include "backend/math.h"
#include "program/program.h"

typedef struct upg_text {
    const int32_t *tokens; // [n_windows][window]
    int n_windows, window;
} upg_text;

typedef struct upg_fp32_tap upg_fp32_tap; // backend/fp32/fp32.h

typedef struct upg_runner_options {
    upg_text text;
    const int *windows; // [n_streams] how many windows of the text each stream has
    int n_streams;
    const char *path;                     // of the file, made if it is not there
    int (*tick)(void *ctx, upg_error *e); // called now and then; -1 with a message stops. May be NULL
    void *tick_ctx;
    upg_math *math; // who multiplies, or NULL. It is to forget what `replaced` below held before that changes
} upg_runner_options;

enum { UPG_RUNNER_LOGITS = 128 }; // rows whose logits can be had at once

typedef struct upg_runner upg_runner;
// program and the text must outlive the runner.
upg_runner *upg_runner_new(const upg_program *program, const upg_runner_options *o, upg_pool *pool, upg_error *e);
void upg_runner_free(upg_runner *r); // the file stays
const upg_program *upg_runner_program(const upg_runner *r);
const upg_text *upg_runner_text(const upg_runner *r);
int upg_runner_parts(const upg_runner *r);
int upg_runner_at(const upg_runner *r); // the part at hand
int upg_runner_part_of(const upg_runner *r, int op);
void upg_runner_part(const upg_runner *r, int part, int *first_op, int *last_op); // first..last-1

// Runs ops of the part at hand up to last-1 on window w of stream `from`. If they end the part (but the last one), the
// result becomes window w of stream `to` (which is not used otherwise). replaced: [n_weights] values to use instead of
// a weight's own, each [rows] [cols] or NULL; or NULL.
int upg_runner_run(upg_runner *r, int from, int to, int w, int last, float *const *replaced, const upg_fp32_tap *tap,
                   upg_error *e);
// The whole part at hand for all windows of stream `to`, from those of `from`.
int upg_runner_finish(upg_runner *r, int from, int to, float *const *replaced, upg_error *e);
void upg_runner_next(upg_runner *r); // to the next part, when every stream that counts is finished

// In the last part: logits after rows first..first+n-1 (n <= UPG_RUNNER_LOGITS) of window w, [n][vocab_size], valid
// until the next run. NULL on failure.
const float *upg_runner_logits(upg_runner *r, int stream, int w, int first, int n, float *const *replaced,
                               upg_error *e);

// What a stream is at the beginning of the part at hand, and back to where a runner was: the part to begin with.
int upg_runner_hash(upg_runner *r, int stream, uint64_t *hash, upg_error *e);
void upg_runner_seek(upg_runner *r, int part);
