// cuBLAS and cuSOLVER, loaded when they are first needed, on a stream of the driver's.
#pragma once
#include "backend/gpu/device.h"

typedef struct upg_cuda_blas upg_cuda_blas;
int upg_cuda_blas_present(upg_error *e); // -1 with what is missing
// The context is current here and in every call. stream: a CUstream.
upg_cuda_blas *upg_cuda_blas_new(void *stream, upg_error *e);
void upg_cuda_blas_free(upg_cuda_blas *b);
int upg_cuda_blas_product(upg_cuda_blas *b, const upg_gpu_product *p, upg_error *e);
// Of upg_gpu_api's factor: how many floats of memory it needs beside, and, the work begun: a word that is not 0 there
// when it is done if l is not positive definite.
int upg_cuda_blas_factor_room(upg_cuda_blas *b, uint32_t n, size_t *floats, upg_error *e);
int upg_cuda_blas_cholesky(upg_cuda_blas *b, upg_gpu_address l, uint32_t n, upg_gpu_address work, size_t floats,
                           upg_gpu_address word, upg_error *e);
int upg_cuda_blas_solve(upg_cuda_blas *b, upg_gpu_address l, upg_gpu_address z, uint32_t n, upg_gpu_address word,
                        upg_error *e);
