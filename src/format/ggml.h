// The block formats of GGUF tensors: sizes and values. Layouts and arithmetic follow ggml's reference dequantisation.
#pragma once
#include "base/base.h"

// Values and bytes of one block of a type; false if the type cannot be read.
bool upg_ggml_type(uint32_t type, int *block_values, int *block_bytes);
const char *upg_ggml_name(uint32_t type); // also of types that cannot be read; NULL for a number GGUF never had
// n values from value `first` on; both multiples of the block's values. data: the tensor's blocks.
void upg_ggml_floats(uint32_t type, const uint8_t *data, int64_t first, int64_t n, float *out);
