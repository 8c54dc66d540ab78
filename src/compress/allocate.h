// How many bits each tensor gets, so that the whole file fits a budget.
#pragma once
#include "compress/compress.h"
#include "format/weights.h"

// tensors: what will be written, matrices with s = 2K already where bits are fixed and encoding UPG_TRELLIS, s = 0
// where they are free. importance: [n] weight of each tensor's error. Raises the free ones from K = 2 step by step,
// always where the modelled error falls most a byte, while size(ctx) stays within budget. Fails if even K = 2 does not
// fit.
int upg_allocate_bits(upg_writer_tensor *tensors, const double *importance, size_t n, size_t budget,
                      size_t (*size)(void *ctx), void *ctx, upg_error *e);
