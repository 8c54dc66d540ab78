// cuBLAS and cuSOLVER that are none, for the fake driver's memory: what backend/cuda/blas.c asks of them, by OpenBLAS.
// FAKE_BLAS_FAIL=N: call N and all after it fail.
#include <cblas.h>
#include <f77blas.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
enum { FAILED = 13 };

static int fails(void) {
    static long calls;
    const char *fail = getenv("FAKE_BLAS_FAIL");
    return ++calls >= (fail ? atol(fail) : 1L << 60) ? FAILED : 0;
}
static int make(void **handle) {
    static int any;
    *handle = &any;
    return fails();
}
static int take(void *handle) {
    (void)handle;
    return fails();
}
static int take_stream(void *handle, void *stream) {
    (void)handle, (void)stream;
    return fails();
}
EXPORT __typeof__(make) cublasCreate_v2 __attribute__((alias("make")));
EXPORT __typeof__(make) cusolverDnCreate __attribute__((alias("make")));
EXPORT __typeof__(take) cublasDestroy_v2 __attribute__((alias("take")));
EXPORT __typeof__(take) cusolverDnDestroy __attribute__((alias("take")));
EXPORT __typeof__(take_stream) cublasSetStream_v2 __attribute__((alias("take_stream")));
EXPORT __typeof__(take_stream) cusolverDnSetStream __attribute__((alias("take_stream")));

EXPORT int cublasSgemm_v2(void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a,
                          int a_stride, const float *b, int b_stride, const float *beta, float *c, int c_stride) {
    (void)handle;
    if (fails()) return FAILED;
    cblas_sgemm(CblasColMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, *alpha, a,
                a_stride, b, b_stride, *beta, c, c_stride);
    return 0;
}
EXPORT int cublasStrsm_v2(void *handle, int side, int fill, int op, int diag, int m, int n, const float *alpha,
                          const float *a, int a_stride, float *b, int b_stride) {
    (void)handle;
    if (fails()) return FAILED;
    cblas_strsm(CblasColMajor, side ? CblasRight : CblasLeft, fill ? CblasUpper : CblasLower,
                op ? CblasTrans : CblasNoTrans, diag ? CblasUnit : CblasNonUnit, m, n, *alpha, a, a_stride, b,
                b_stride);
    return 0;
}
EXPORT int cusolverDnSpotrf_bufferSize(void *handle, int fill, int n, float *a, int stride, int *floats) {
    (void)handle, (void)fill, (void)n, (void)a, (void)stride;
    *floats = 64;
    return fails();
}
EXPORT int cusolverDnSpotrf(void *handle, int fill, int n, float *a, int stride, float *work, int floats, int *info) {
    (void)handle, (void)work, (void)floats;
    blasint size = n, lda = stride, rc = 0;
    if (fails()) return FAILED;
    BLASFUNC(spotrf)(fill ? "U" : "L", &size, a, &lda, &rc);
    *info = (int)rc;
    return 0;
}
EXPORT int cusolverDnSpotrs(void *handle, int fill, int n, int count, const float *a, int stride, float *b,
                            int b_stride, int *info) {
    (void)handle;
    blasint size = n, columns = count, lda = stride, ldb = b_stride, rc = 0;
    if (fails()) return FAILED;
    BLASFUNC(spotrs)(fill ? "U" : "L", &size, &columns, (float *)(size_t)a, &lda, b, &ldb, &rc);
    *info = (int)rc;
    return 0;
}
