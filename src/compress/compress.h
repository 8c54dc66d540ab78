// Compression: an original model in, a .upg file out. Weights are rotated, scaled by row and coded tensor by tensor, in
// the order of the program; docs/quality.md says what each step gains.
#pragma once
#include "base/base.h"

// Bits are given as 2K: 4..8 for the trellis, 16 for int8. Layers may also be sparse: with the bits of a value, 4 or 8.
enum { UPG_BITS_AUTO = 0, UPG_BITS_INT8 = 16, UPG_BITS_SPARSE = 32, UPG_BITS_ROTATED = 64 };

typedef enum upg_effort { UPG_EFFORT_NORMAL, UPG_EFFORT_FAST, UPG_EFFORT_BEST } upg_effort;

#define UPG_TEXT_DEFAULT "" // the text that ships with the library

typedef struct upg_compress_options {
    double ratio;   // FP32 bytes over file bytes to reach; 0: unset
    double bits;    // file bits a parameter to stay under; 0: unset. One of ratio and bits, or neither with layer_bits
    int layer_bits; // 2K of every layer matrix, or UPG_BITS_AUTO
    int embedding_bits; // likewise for the embedding
    int head_bits;      // likewise for the head (and a tied embedding)
    upg_effort effort;  // how long it may take, where nothing below says more
    bool exact_search;  // exact Viterbi instead of the effort's
    int n_threads;      // 0: one a core
    // Texts: a file, UPG_TEXT_DEFAULT, or NULL for none; files named *.u16 are 16-bit token ids. A model without a
    // tokenizer does without the default ones.
    const char *calibration; // what layers are fitted to and bits chosen by
    const char *heldout;     // what the result is measured on
    int calibration_tokens;  // at most; 0: by effort
    int heldout_tokens;      // at most; 0: by effort
    double memory;           // bytes it may need, checked before it begins; 0: no limit
    uint64_t rotation_seed;
    // Called from the compressing thread now and then with 0..1 and what is being done; may be NULL. Returning true
    // stops with "interrupted".
    bool (*progress)(void *ctx, double done, const char *what);
    void *progress_ctx;
} upg_compress_options;

typedef struct upg_compressed_tensor {
    char *name;
    int64_t rows, cols;
    int bits2;    // 2K, 16, or UPG_BITS_SPARSE with the bits of a value; 0: stored as it was
    double error; // |W - W'|^2 / |W|^2
} upg_compressed_tensor;

typedef struct upg_compress_result {
    upg_compressed_tensor *tensors; // [n]
    size_t n;
    uint64_t parameters, bytes; // tied weights counted once; bytes of the whole file
    int calibration_tokens;     // 0: without
    bool measured;              // bits were chosen by measured sensitivity
    int heldout_tokens;         // 0: not measured, and then the next four mean nothing
    double original_nll, nll, kl, top1;
    double seconds;     // of this run
    size_t peak_memory; // bytes, of the process
    bool resumed;       // a stopped run's work was used
    char device[520];   // that searched and multiplied: its name, or "CPU" and why it was not another
} upg_compress_result;
void upg_compress_result_free(upg_compress_result *r);

// Writes `out` only when it is whole; until then what is done lies in the folder `out`.partial, and the same call goes
// on with it. The file is a function of source, texts and options alone (on one kind of processor, and of GPU where
// that calibrates: UPG_DEVICE), whatever the number of threads and however often it was stopped.
int upg_compress(const char *source, const char *out, const upg_compress_options *options, upg_compress_result *result,
                 upg_error *e);
