// Linear layers on tensor cores (mma.sync m16n8k32, from sm_80 on): section 4, steps 3 and 4, for trellis and int8
// matrices whose groups are 64 columns or more.
//
// Order of a matrix ("fragments"). A unit is 32 rows (two bands) by 64 columns: eight tiles, 2048 weights, what a warp
// turns into operands of eight products. Units follow one another along the columns, then the rows. In a unit, lane
// 4*g + t holds rows 4*(g%4)..+3 of the tile in band g/4 and column step t: 32 windows of a tile, which are S whole words
// of it; the 16 bits behind them are in the first word of the lane of the next four rows. int8: 16 words, four a row.
// Words lie so that a lane's loads are as wide as they can be: a part of 16 bytes a lane, 8, 4.
//
// A product's row g is the first (third) and row g+8 the second (fourth) of a lane's rows, its column a row of the
// batch, and where a column of the matrix stands in its 32 is whatever suits: both operands agree.
#pragma once
#include "kernels/args.h"
#include "kernels/port.h"

enum { UNIT_COLS = 64, PREFETCH = 65536 }; // PREFETCH: bytes a block asks L2 for

typedef struct mma_args {
    gpu_linear_args linear;
    int32_t *sums;  // split: [batch rows][rows of w padded to 32], zeros before and after
    uint32_t *done; // split: [row tiles][bands], zeros before and after
    uint32_t one;   // 1
} mma_args;

// ---- Words of a lane ----

template <int N> FN void load_words(const uint32_t *unit, uint32_t *w) {
    const uint32_t lane = threadIdx.x % 32;
    constexpr int fours = N / 4;
#pragma unroll
    for (int i = 0; i < fours; i++) {
        const uint4 v = __ldcs((const uint4 *)unit + i * 32 + lane);
        w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
    }
    if (N % 4 >= 2) {
        const uint2 v = __ldcs((const uint2 *)(unit + fours * 128) + lane);
        w[4 * fours] = v.x, w[4 * fours + 1] = v.y;
    }
    if (N % 2) w[N - 1] = __ldcs(unit + (N - 1) * 32 + lane);
}
// Where word i of a lane lies in its unit.
template <int N> FN uint32_t word_at(uint32_t lane, uint32_t i) {
    if (i < N / 4 * 4) return i / 4 * 128 + lane * 4 + i % 4;
    const uint32_t from = N / 4 * 4;
    return N % 4 >= 2 && i < from + 2 ? from * 32 + lane * 2 + (i - from) : (N - 1) * 32 + lane;
}

// File order to fragments. A thread a word.
template <int N> FN void reorder(const uint32_t *from, uint32_t *to, uint32_t rows, uint32_t cols) {
    const uint32_t units = cols / UNIT_COLS, bands = (rows + 15) / 16;
    const uint64_t n = (uint64_t)((rows + 31) / 32) * units * 32 * N;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        const uint32_t word = (uint32_t)(i % N), lane = (uint32_t)(i / N % 32), g = lane / 4, t = lane % 4;
        const uint64_t unit = i / N / 32;
        const uint32_t band = (uint32_t)(unit / units) * 2 + g / 4, step = (uint32_t)(unit % units) * 4 + t,
                       sb = band / 16, nb = bands - sb * 16 < 16 ? bands - sb * 16 : 16;
        uint32_t v = N == 16 ? 0x7f7f7f7f : 0;
        if (band < bands)
            v = from[((uint64_t)sb * (cols / 16) * 16 + (uint64_t)step * nb) * (4 * N) +
                     (uint64_t)(g % 4 * N + word) * nb + band % 16];
        to[unit * 32 * N + word_at<N>(lane, word)] = v;
    }
}

// ---- Weights ----
//
// Shifts and logic share one pipe, which is what limits a single row; products have another. So a window that lies in
// one word is moved to the top by a product with a power of two, which the compiler is kept from knowing, and one shift
// then moves it down: half the work of a shift and a mask on the busy pipe.
struct powers {
    uint32_t of[16];
    __device__ __forceinline__ void set(uint32_t one) {
#pragma unroll
        for (int i = 0; i < 16; i++) of[i] = one << i;
    }
};

// Window i of a lane's 32, in w[0..S].
template <int S> FN uint32_t window(const powers &two, const uint32_t *w, int i) {
    const int k = S * i / 32, shift = S * i % 32;
    if (shift == 0) return w[k] & 0xffff;
    if (shift == 16) return w[k] >> 16;
    if (shift > 16) return __funnelshift_r(w[k], w[k + 1], shift) & 0xffff;
    return w[k] * two.of[16 - shift] >> 16;
}
// The four 7-bit fields of a window's two weights.
template <int S> FN uint32_t fields(const powers &two, const uint32_t *w, int i) {
    return window<S>(two, w, i) * 0x517be2a9u & 0x7f7f7f7f;
}
// Weights + 127 of row r 0..3, columns 4*quad..+3 of the lane's step.
template <int N> FN uint32_t weights(const powers &two, const uint32_t *w, int r, int quad) {
    if (N == 16) return w[r * 4 + quad];
    const uint32_t a = fields<N>(two, w, 8 * r + 2 * quad) * 0x10001u, b = fields<N>(two, w, 8 * r + 2 * quad + 1) * 0x10001u;
    return __byte_perm(a, b, 0x7632);
}

FN void mma(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The lane whose first word follows this one's last.
FN uint32_t following() {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4;
    return ((g & 4) | ((g + 1) & 3)) * 4 + lane % 4;
}

// What is added to a group's dot product before the shift.
FN int32_t offset_of(int32_t q_sum, uint32_t d) {
    return ((1 << d) >> 1) - 127 * q_sum;
}

// ROWS rows of the matrix from `row`, of one row of the batch.
template <int ROWS>
FN void write_rows(const mma_args *a, const uint8_t *weight, float *work, uint32_t batch_row, uint32_t row, const int32_t *acc) {
    const float m = work[a->linear.x.m + batch_row] * 0x1.020408p-7f, *scale = (const float *)weight + a->linear.w.scale;
    float *y = work + a->linear.y + (uint64_t)batch_row * a->linear.y_stride;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (row + i < a->linear.w.rows) y[row + i] = (float)acc[i] * (scale[row + i] * m);
}

// ---- One to sixteen rows ----
//
// The matrix is a list of items, 32 rows by a group each, row by row. A block takes an equal run of them, whose ends may
// lie within a pair of bands: the blocks that share one add their sums in device memory, and the last one of them writes.

// What this block has written, and other blocks before they counted themselves, is seen after it.
FN void order_memory() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
FN uint32_t first_item(uint32_t block, uint32_t items) {
    return (uint32_t)((uint64_t)block * items / gridDim.x);
}
FN uint32_t block_of(uint32_t item, uint32_t items) {
    return (uint32_t)((((uint64_t)item + 1) * gridDim.x - 1) / items);
}

// ROWS: 1, or 8 * NT.
template <int N, int ROWS, int UNITS> FN void gemv(const uint8_t *weight, float *work, const mma_args *a) {
    constexpr int NT = (ROWS + 7) / 8;
    constexpr bool single = ROWS == 1 && N != 16;
    extern __shared__ __align__(16) uint32_t shared[];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4,
                   cols = a->linear.w.cols, b = a->linear.w.b, groups = cols / b,
                   pairs = (a->linear.w.rows + 31) / 32, items = pairs * groups, first = first_item(blockIdx.x, items),
                   end = first_item(blockIdx.x + 1, items), pair0 = first / groups;
    constexpr uint32_t ITEM = UNITS * 32 * N; // words
    uint32_t w[UNITS][N + 1], item = first + warp;
    const uint32_t *next = (const uint32_t *)weight + (uint64_t)item * ITEM;
    if (item < end)
#pragma unroll
        for (int c = 0; c < UNITS; c++) load_words<N>(next + c * 32 * N, w[c]);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    { // the rest is on its way while the kernel before this one ends
        const uint64_t from = (uint64_t)(first + warps) * (ITEM * 4), bytes = (uint64_t)(end - first) * (ITEM * 4),
                       skipped = (uint64_t)warps * (ITEM * 4);
        const uint32_t ahead = bytes <= skipped ? 0 : bytes - skipped < PREFETCH ? (uint32_t)(bytes - skipped) : PREFETCH;
        for (uint32_t i = threadIdx.x * 4096; i < ahead; i += blockDim.x * 4096)
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(weight + from + i),
                         "r"(ahead - i < 4096 ? ahead - i : 4096u));
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const uint32_t *q = (const uint32_t *)work + a->linear.x.q, *d = (const uint32_t *)work + a->linear.x.d,
                   stride_x = a->linear.x.stride;
    const int32_t *q_sum = (const int32_t *)work + a->linear.x.q_sum;
    const uint32_t n_pairs = first < end ? (end - 1) / groups - pair0 + 1 : 0;
    uint32_t *x = shared;                                                // single: [cols/2] inputs, {x0, x1, x0, x1}
    int32_t *offset = (int32_t *)(shared + (single ? cols / 2 : 0));     // single: [groups]
    uint32_t *shifts = (uint32_t *)offset + (single ? groups : 0);       // single: [groups]
    int32_t *red = (int32_t *)(shifts + (single ? groups : 0));          // [n_pairs][ROWS][32]
    powers two;
    two.set(a->one);
    for (uint32_t i = threadIdx.x; i < n_pairs * ROWS * 32; i += blockDim.x) red[i] = 0;
    if (single) {
        for (uint32_t i = threadIdx.x; i < cols / 4; i += blockDim.x) {
            const uint32_t v = q[i];
            ((uint2 *)x)[i] = make_uint2(__byte_perm(v, 0, 0x1010), __byte_perm(v, 0, 0x3232));
        }
        for (uint32_t i = threadIdx.x; i < groups; i += blockDim.x) {
            shifts[i] = d[i * stride_x];
            offset[i] = offset_of(q_sum[i * stride_x], d[i * stride_x]);
        }
    }
    __syncthreads();
    uint32_t pair = item / groups, group = item - pair * groups;
    for (; item < end; item += warps) {
        next += warps * ITEM;
        int32_t c[NT][2][4];
        uint32_t shift[NT][2];
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t at = group * stride_x + nt * 8 + 2 * t + k;
                shift[nt][k] = single ? shifts[group] : d[at];
                c[nt][0][k] = c[nt][0][k + 2] = c[nt][1][k] = c[nt][1][k + 2] =
                    single ? offset[group] : offset_of(q_sum[at], shift[nt][k]);
            }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            if (N != 16) w[u][N] = __shfl_sync(~0u, w[u][0], following());
            if (single) {
                const uint4 *at = (const uint4 *)(x + (group * b + u * UNIT_COLS + t * 16) / 2);
                const uint4 b01 = at[0], b23 = at[1];
                const uint32_t bs[8] = {b01.x, b01.y, b01.z, b01.w, b23.x, b23.y, b23.z, b23.w};
#pragma unroll
                for (int m = 0; m < 4; m++)
#pragma unroll
                    for (int set = 0; set < 2; set++) {
                        const int r = 16 * set + 2 * m;
                        mma(c[0][set], fields<N>(two, w[u], r), fields<N>(two, w[u], r + 8), fields<N>(two, w[u], r + 1),
                            fields<N>(two, w[u], r + 9), bs[2 * m], bs[2 * m + 1]);
                    }
            } else {
                uint4 xs[NT];
#pragma unroll
                for (int nt = 0; nt < NT; nt++)
                    xs[nt] = *(const uint4 *)(q + ((uint64_t)(nt * 8 + g) * cols + group * b + u * UNIT_COLS + t * 16) / 4);
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int set = 0; set < 2; set++) {
                        const uint32_t a0 = weights<N>(two, w[u], 2 * set, 2 * m), a1 = weights<N>(two, w[u], 2 * set + 1, 2 * m),
                                       a2 = weights<N>(two, w[u], 2 * set, 2 * m + 1),
                                       a3 = weights<N>(two, w[u], 2 * set + 1, 2 * m + 1);
#pragma unroll
                        for (int nt = 0; nt < NT; nt++)
                            mma(c[nt][set], a0, a1, a2, a3, m ? xs[nt].z : xs[nt].x, m ? xs[nt].w : xs[nt].y);
                    }
            }
            if (item + warps < end) load_words<N>(next + u * 32 * N, w[u]);
        }
        // Row of the 32: 4*g + r, r = 2*set + i/2: bands, then fours of rows, are in order.
        int32_t *to = red + (pair - pair0) * (ROWS * 32);
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t n = nt * 8 + 2 * t + i % 2;
                if (n < ROWS) atomicAdd(&to[n * 32 + g * 4 + i / 4 * 2 + i % 4 / 2], c[nt][i / 4][i % 4] >> shift[nt][i % 2]);
            }
        for (group += warps; group >= groups; group -= groups) pair++;
    }
    __syncthreads();
    // A block has at most two pairs that are not its own alone: its first and its last.
    __shared__ uint32_t last[2];
    const uint32_t rows = a->linear.n_rows, stride = pairs * 32, shared_first = first > pair0 * groups || end < (pair0 + 1) * groups,
                   shared_last = n_pairs > 1 && end < (pair0 + n_pairs) * groups;
    for (uint32_t k = 0; k < 2; k++) {
        if (!(k ? shared_last : shared_first)) continue;
        const uint32_t lp = k ? n_pairs - 1 : 0;
        for (uint32_t i = threadIdx.x; i < rows * 32; i += blockDim.x)
            atomicAdd(a->sums + (uint64_t)(i / 32) * stride + (pair0 + lp) * 32 + i % 32, red[lp * ROWS * 32 + i]);
    }
    if (shared_first || shared_last) {
        __syncthreads();
        if (threadIdx.x < 2 && (threadIdx.x ? shared_last : shared_first)) {
            order_memory();
            const uint32_t pair = pair0 + (threadIdx.x ? n_pairs - 1 : 0),
                           parts = block_of((pair + 1) * groups - 1, items) - block_of(pair * groups, items) + 1;
            last[threadIdx.x] = atomicAdd(a->done + pair, 1) == parts - 1;
            if (last[threadIdx.x]) a->done[pair] = 0;
            order_memory();
        }
        __syncthreads();
        for (uint32_t k = 0; k < 2; k++) {
            if (!(k ? shared_last : shared_first) || !last[k]) continue;
            const uint32_t lp = k ? n_pairs - 1 : 0;
            for (uint32_t i = threadIdx.x; i < rows * 32; i += blockDim.x) {
                int32_t *at = a->sums + (uint64_t)(i / 32) * stride + (pair0 + lp) * 32 + i % 32;
                red[lp * ROWS * 32 + i] = __ldcg(at);
                *at = 0;
            }
        }
        __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < n_pairs * rows * 8; i += blockDim.x) {
        const uint32_t lp = i / (rows * 8), row = i / 8 % rows;
        if ((lp == 0 && shared_first && !last[0]) || (lp && lp == n_pairs - 1 && shared_last && !last[1])) continue;
        write_rows<4>(a, weight, work, row, (pair0 + lp) * 32 + i % 8 * 4, red + (lp * ROWS + row) * 32 + i % 8 * 4);
    }
}

// ---- More rows ----
//
// A block is 128 rows of the matrix by 8*NT of the batch; a warp is half of a unit's rows (its first or second product)
// by all of those. Inputs come through shared memory, a group at a time, one ahead.

FN void copy_async(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from));
}

// Whether this block is the last of the parts of a place.
FN bool last_of(uint32_t *done, uint32_t parts) {
    __shared__ uint32_t last;
    __syncthreads();
    if (threadIdx.x == 0) {
        order_memory();
        last = atomicAdd(done, 1) == parts - 1;
        if (last) *done = 0;
        order_memory();
    }
    __syncthreads();
    return last;
}

// Window i 0..15 of the half, in words from its first.
template <int N, int HALF> FN uint32_t half_weights(const powers &two, const uint32_t *w, int r, int quad) {
    if (N == 16) return w[r * 4 + quad];
    constexpr int bit = HALF * 16 * N % 32; // of the first word
    uint32_t f[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int at = bit + N * (8 * r + 2 * quad + k), word = at / 32, shift = at % 32;
        uint32_t v;
        if (shift == 0)
            v = w[word] & 0xffff;
        else if (shift == 16)
            v = w[word] >> 16;
        else if (shift > 16)
            v = __funnelshift_r(w[word], w[word + 1], shift) & 0xffff;
        else
            v = w[word] * two.of[16 - shift] >> 16;
        f[k] = (v * 0x517be2a9u & 0x7f7f7f7f) * 0x10001u;
    }
    return __byte_perm(f[0], f[1], 0x7632);
}

template <int N, int NT, int HALF>
FN void tile_half(const uint8_t *weight, float *work, const mma_args *a, uint8_t *shared, uint32_t pair) {
    constexpr int ROWS = 8 * NT, STRIDE = 320, BUFFER = ROWS * (STRIDE + 8), COUNT = N == 16 ? 8 : (N + 1) / 2,
                  FIRST = HALF * N / 2; // a lane's words of the half, and one that follows
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row0 = blockIdx.x * ROWS, cols = a->linear.w.cols,
                   b = a->linear.w.b, groups = cols / b, units = b / UNIT_COLS, pairs = (a->linear.w.rows + 31) / 32,
                   part = blockIdx.z, parts = gridDim.z, first = part * groups / parts, end = (part + 1) * groups / parts;
    const bool mine = pair < pairs;
    const uint8_t *q = (const uint8_t *)(work + a->linear.x.q) + (uint64_t)row0 * cols;
    const uint32_t *d = (const uint32_t *)work + a->linear.x.d + row0, stride_x = a->linear.x.stride;
    const int32_t *q_sum = (const int32_t *)work + a->linear.x.q_sum + row0;
    const uint32_t *w_all = (const uint32_t *)weight + (uint64_t)(mine ? pair : pairs - 1) * (cols / UNIT_COLS) * (32 * N);

    auto stage = [&](uint32_t group, uint32_t buffer) {
        const uint32_t pieces = b / 16;
        uint8_t *x = shared + buffer * BUFFER;
        for (uint32_t i = threadIdx.x; i < ROWS * pieces; i += blockDim.x)
            copy_async(x + i / pieces * STRIDE + i % pieces * 16, q + (uint64_t)(i / pieces) * cols + group * b + i % pieces * 16);
        if (threadIdx.x < ROWS / 4)
            copy_async(x + ROWS * STRIDE + threadIdx.x * 16, q_sum + group * stride_x + threadIdx.x * 4);
        else if (threadIdx.x < ROWS / 2)
            copy_async(x + ROWS * STRIDE + threadIdx.x * 16, d + group * stride_x + (threadIdx.x - ROWS / 4) * 4);
    };
    auto load = [&](uint32_t unit, uint32_t *w) { // the word behind the last is the next lane's first, or this one's
        const uint32_t *from = w_all + (uint64_t)unit * (32 * N);
#pragma unroll
        for (int i = 0; i < COUNT; i++) w[i] = __ldg(from + word_at<N>(lane, FIRST + i));
        if (N != 16) w[COUNT] = HALF ? __ldg(from + word_at<N>(following(), 0)) : __ldg(from + word_at<N>(lane, COUNT));
    };
    begin();
    powers two;
    two.set(a->one);
    uint32_t w[COUNT + 1], ahead[COUNT + 1];
    stage(first, 0);
    asm volatile("cp.async.commit_group;");
    load(first * units, ahead);
    int32_t total[NT][4];
#pragma unroll
    for (int i = 0; i < NT * 4; i++) total[i / 4][i % 4] = 0;
    for (uint32_t group = first; group < end; group++) {
        const uint8_t *x = shared + (group - first) % 2 * BUFFER;
        const int32_t *sum_of = (const int32_t *)(x + ROWS * STRIDE);
        const uint32_t *shift_of = (const uint32_t *)sum_of + ROWS;
        if (group + 1 < end) stage(group + 1, (group + 1 - first) % 2);
        asm volatile("cp.async.commit_group;");
        asm volatile("cp.async.wait_group 1;");
        __syncthreads();
        int32_t c[NT][4];
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t n = nt * 8 + 2 * t + k;
                c[nt][k] = c[nt][k + 2] = offset_of(sum_of[n], shift_of[n]);
            }
        for (uint32_t u = 0; u < units; u++) {
#pragma unroll
            for (int i = 0; i <= COUNT; i++) w[i] = ahead[i];
            if (group * units + u + 1 < end * units) load(group * units + u + 1, ahead);
            uint32_t v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = half_weights<N, HALF>(two, w, i / 4, i % 4);
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                const uint4 xs = *(const uint4 *)(x + (nt * 8 + g) * STRIDE + u * UNIT_COLS + t * 16);
                mma(c[nt], v[0], v[4], v[1], v[5], xs.x, xs.y);
                mma(c[nt], v[2], v[6], v[3], v[7], xs.z, xs.w);
            }
        }
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) total[nt][i] += c[nt][i] >> shift_of[nt * 8 + 2 * t + i % 2];
        __syncthreads();
    }
    const uint32_t stride = pairs * 32, row = pair * 32 + g * 4 + 2 * HALF;
    if (parts > 1) {
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t n = row0 + nt * 8 + 2 * t + i % 2;
                if (mine && n < a->linear.n_rows) atomicAdd(a->sums + (uint64_t)n * stride + row + i / 2, total[nt][i]);
            }
        if (!last_of(a->done + blockIdx.x * gridDim.y + blockIdx.y, parts)) return;
    }
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint32_t n = row0 + nt * 8 + 2 * t + k;
            if (!mine || n >= a->linear.n_rows) continue;
            int32_t acc[2] = {total[nt][k], total[nt][k + 2]};
            if (parts > 1)
                for (int i = 0; i < 2; i++) {
                    int32_t *at = a->sums + (uint64_t)n * stride + row + i;
                    acc[i] = __ldcg(at);
                    *at = 0;
                }
            write_rows<2>(a, weight, work, n, row, acc);
        }
}

template <int N, int NT> FN void tile(const uint8_t *weight, float *work, const mma_args *a) {
    extern __shared__ __align__(16) uint8_t tile_shared[];
    const uint32_t warp = threadIdx.x / 32, pair = blockIdx.y * 4 + warp / 2;
    if (warp % 2)
        tile_half<N, NT, 1>(weight, work, a, tile_shared, pair);
    else
        tile_half<N, NT, 0>(weight, work, a, tile_shared, pair);
}
