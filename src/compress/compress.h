// Compression: an original model in, a .upg file out. Weights are rotated, scaled by row and coded tensor by tensor.
#pragma once
#include "base/base.h"

// Bits are given as 2K: 4..8 for the trellis, 16 for int8. Layers may also be sparse: with the bits of a value, 4 or 8.
enum { UPG_BITS_AUTO = 0, UPG_BITS_INT8 = 16, UPG_BITS_SPARSE = 32, UPG_BITS_ROTATED = 64 };

typedef struct upg_compress_options {
    double ratio;   // FP32 bytes over file bytes to reach; 0: unset
    double bits;    // file bits a parameter to stay under; 0: unset. One of ratio and bits, or neither with layer_bits
    int layer_bits; // 2K of every layer matrix, or UPG_BITS_AUTO
    int embedding_bits;      // likewise for the embedding
    int head_bits;           // likewise for the head (and a tied embedding)
    bool exact_search;       // exact Viterbi instead of the seam search
    int n_threads;           // 0: one a core
    const char *calibration; // text to fit the layers to, or 16-bit token ids if named *.u16; NULL: none
    int calibration_tokens;  // of it at most; 0: 32768
    uint64_t rotation_seed;
    // Called from the compressing thread after each part; may be NULL. Returning true stops with "interrupted".
    bool (*progress)(void *ctx, double done, const char *tensor);
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
} upg_compress_result;
void upg_compress_result_free(upg_compress_result *r);

// Writes `out` only when it is whole. The file is a function of source and options alone, whatever the number of
// threads.
int upg_compress(const char *source, const char *out, const upg_compress_options *options, upg_compress_result *result,
                 upg_error *e);
