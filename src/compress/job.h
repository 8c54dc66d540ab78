// One compression, as its steps (compress.c, code.c, report.c) see it.
#pragma once
#include "compress/calibrate.h"
#include "compress/compress.h"
#include "compress/encode.h"
#include "compress/journal.h"
#include "engine/model.h"

#define UPG_JOB_DAMPING 0.025f // of Hessians, as for upg_feedback_new; measured on tales

// What an effort means. docs/quality.md has the measurements.
typedef struct upg_effort_settings {
    upg_search_mode search;
    int calibration_tokens, heldout_tokens;
    int shaping, scored; // tokens of the sensitivity measurement: for the errors' shape, run to the logits; 0: none
} upg_effort_settings;

typedef struct upg_job {
    const upg_compress_options *options;
    upg_effort_settings effort;
    upg_model *model; // the original
    upg_buf config, tokenizer;
    upg_writer_tensor *out;    // [n]
    const upg_tensor **source; // [n]; NULL for the tokenizer
    double *importance;        // [n]
    size_t n;
    uint64_t parameters;
    upg_text text;    // of calibration; no windows: none
    upg_text heldout; // likewise
    int32_t *tokens, *heldout_tokens;
    upg_journal *journal;
    upg_pool *pool;
    upg_math *math;              // or NULL: the CPU does it all
    upg_compress_result *result; // tensors in the order of out
    double work, work_done;      // multiplications, about: for the progress
} upg_job;

// Where tensor `weight` of the program stands in out.
size_t upg_job_output(const upg_job *j, int weight);
// Adds work done and tells the caller; -1 if it wants to stop.
int upg_job_progress(upg_job *j, double work, const char *what, upg_error *e);

// code.c: puts every tensor that is not there yet.
double upg_job_coding_work(const upg_job *j);
int upg_job_code(upg_job *j, upg_writer *w, upg_error *e);

// report.c: measures the file as it will be on the held-out text and says all that is known of it, as JSON of at most
// upg_job_report_room.
double upg_job_report_work(const upg_job *j);
size_t upg_job_report_room(const upg_job *j);
int upg_job_measure(upg_job *j, upg_writer *w, upg_error *e);
int upg_job_report(const upg_job *j, upg_buf *b, upg_error *e);
