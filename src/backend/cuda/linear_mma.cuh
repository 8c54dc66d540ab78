// Linear layers on tensor cores (mma.sync m16n8k32, from sm_80 on): section 4, steps 3 and 4, for trellis and int8
// matrices whose groups are 64 columns or more.
//
// Order of a matrix ("fragments"). A unit is 32 rows (two bands) by 64 columns: eight tiles, 2048 weights, what a warp
// turns into operands of eight products. Units follow one another along the columns, then the rows. In a unit, lane
// 4*g + t holds rows 4*(g%4)..+3 of the tile in band g/4 and column step t: 32 windows of a tile, which are S whole
// words of it; the 16 bits behind them are in the first word of the lane of the next four rows. int8: 16 words, four a
// row. Words lie so that a lane's loads are as wide as they can be: a part of 16 bytes a lane, 8, 4.
//
// A product's row g is the first (third) and row g+8 the second (fourth) of a lane's rows, its column a row of the
// batch, and where a column of the matrix stands in its 32 is whatever suits: both operands agree.
#pragma once
#include "backend/cuda/args.h"
#include "backend/cuda/rows_fast.cuh"
#include "kernels/codes.h"

enum { UNIT_COLS = 64, TILE_PAIRS = 8, TILE_THREADS = 64 * TILE_PAIRS };

// ---- Words of a lane ----

// Streamed ones are volatile: they are asked for where it says so, not when they are needed.
template <bool STREAMED> FN void load_4(const uint32_t *p, uint32_t *w) {
    if (STREAMED) {
        asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3},[%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "l"(p));
        return;
    }
    const uint4 v = *(const uint4 *)p;
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}
template <bool STREAMED> FN void load_2(const uint32_t *p, uint32_t *w) {
    if (STREAMED) {
        asm volatile("ld.global.cs.v2.u32 {%0,%1},[%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(p));
        return;
    }
    const uint2 v = *(const uint2 *)p;
    w[0] = v.x, w[1] = v.y;
}
template <bool STREAMED> FN void load_1(const uint32_t *p, uint32_t *w) {
    if (STREAMED)
        asm volatile("ld.global.cs.u32 %0,[%1];" : "=r"(w[0]) : "l"(p));
    else
        w[0] = *p;
}
template <int N, bool STREAMED = true> FN void load_words(const uint32_t *unit, uint32_t *w) {
    const uint32_t lane = threadIdx.x % 32;
    constexpr int fours = N / 4;
#pragma unroll
    for (int i = 0; i < fours; i++) load_4<STREAMED>(unit + i * 128 + lane * 4, w + 4 * i);
    if (N % 4 >= 2) load_2<STREAMED>(unit + fours * 128 + lane * 2, w + 4 * fours);
    if (N % 2) load_1<STREAMED>(unit + (N - 1) * 32 + lane, w + N - 1);
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
// Shifts and logic are one pipe's work, integer products and tensor cores another's: two cycles an instruction and a
// quarter of a multiprocessor each, six a tensor product. A window costs a shift, a mask and a product; what is left is
// to take the noise off the four fields, in the top bit of each byte. Either a mask does that, four for the operand of
// a tensor product, or a second tensor product does: a byte f + 128 t is f - 128 t when it is signed, and both add up
// to 2 f. The two are mixed so that neither pipe waits for the other.

// Window i of those that begin with w[0].
template <int S> FN uint32_t window(const uint32_t *w, int i) {
    const int k = S * i / 32, shift = S * i % 32;
    if (shift == 0) return w[k] & 0xffff;
    if (shift == 16) return w[k] >> 16;
    if (shift > 16) return __funnelshift_r(w[k], w[k + 1], shift) & 0xffff;
    return w[k] >> shift & 0xffff;
}

#define MMA(type)                                                                                                      \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." type ".s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"     \
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                               \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
// c += a b of bytes; b is signed.
template <bool A_SIGNED>
FN void mma(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    if (A_SIGNED)
        MMA("s8");
    else
        MMA("u8");
}
// c += 2 f b, where f are the fields of four windows.
template <bool MASKED, int NT>
FN void mma_fields(int32_t (*c)[2][4], int set, const uint32_t *windows, const uint4 (*xs)[2], int k) {
    uint32_t p[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        p[i] = MASKED ? windows[i] * (2 * TRELLIS_MULTIPLIER) & 0xfefefefe : windows[i] * TRELLIS_MULTIPLIER;
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
        const uint4 v = xs[nt][k / 2];
        mma<false>(c[nt][set], p[0], p[1], p[2], p[3], k % 2 ? v.z : v.x, k % 2 ? v.w : v.y);
        if (!MASKED) mma<true>(c[nt][set], p[0], p[1], p[2], p[3], k % 2 ? v.z : v.x, k % 2 ? v.w : v.y);
    }
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

FN void put_product(float *work, const gpu_linear_args *a, uint32_t row, uint32_t at, float v) {
    float *y = work + a->y + (uint64_t)row * a->y_stride + at;
    if (!(a->add | a->check)) {
        *y = v;
        return;
    }
    *y = a->add ? *y + v : v;
    if (a->check && (bits_of(v) & 0x7fffffff) >= GUARD_HIGH)
        ((uint32_t *)work + a->flags)[((const uint32_t *)work + a->wanted)[row]] = 1;
}

// ---- One to sixteen rows ----
//
// The matrix is a list of items, 32 rows by a group each, row by row. A block takes an equal run of them, whose ends
// may lie within a pair of bands: the blocks that share one add their sums in device memory, and the last one of them
// writes.

// Adds a part to a sum that several blocks share. The last of them gets the whole of it, and leaves zero. A count of
// the parts lies above bit 48.
FN bool join(unsigned long long *sum, uint32_t parts, int32_t *acc) {
    const long long before =
                        (long long)atomicAdd(sum, ((unsigned long long)1 << 48) + (unsigned long long)(long long)*acc),
                    low = (long long)((unsigned long long)before << 16) >> 16;
    if ((before - low) >> 48 != (long long)parts - 1) return false;
    *acc += (int32_t)low;
    *sum = 0;
    return true;
}
FN uint32_t first_item(const mma_args *a, uint32_t block, uint32_t items, uint32_t groups) {
    return a->whole ? (uint32_t)((uint64_t)block * (items / groups) / gridDim.x) * groups
                    : (uint32_t)((uint64_t)block * items / gridDim.x);
}
FN uint32_t block_of(uint32_t item, uint32_t items) {
    return (uint32_t)((((uint64_t)item + 1) * gridDim.x - 1) / items);
}

// ROWS: 1, or 8 * NT. Sums of trellis matrices are of twice the dot products until a group's shift.
template <int N, int ROWS, int UNITS> FN void gemv(const uint8_t *weight, float *work, const mma_args *a) {
    constexpr int NT = (ROWS + 7) / 8;
    constexpr bool single = ROWS == 1;
    constexpr uint32_t ITEM = UNITS * 32 * N, twice = N == 16 ? 0 : 1; // ITEM: words
    extern __shared__ __align__(16) uint32_t shared[];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4,
                   t = lane % 4, cols = a->linear.w.cols, groups = cols / (UNITS * UNIT_COLS),
                   pairs = (a->linear.w.rows + 31) / 32, items = pairs * groups,
                   first = first_item(a, blockIdx.x, items, groups), end = first_item(a, blockIdx.x + 1, items, groups),
                   pair0 = first / groups, n_pairs = (end - 1) / groups - pair0 + 1;
    uint32_t w[UNITS][N + 1], item = first + warp;
    const uint32_t *next = (const uint32_t *)weight + (uint64_t)item * ITEM;
    if (item < end)
#pragma unroll
        for (int c = 0; c < UNITS; c++) load_words<N>(next + c * 32 * N, w[c]);
    uint32_t *x = shared; // single: [cols/2] inputs, {x0, x1, x0, x1}
    int32_t *offset = (int32_t *)(shared + (!single        ? 0
                                            : a->quantises ? (cols + 255) / 256 * 256
                                                           : cols / 2)); // single: [groups]
    uint32_t *shifts = (uint32_t *)offset + (single ? groups : 0);       // single: [groups]
    float *scales = (float *)shifts + (single ? groups : 0);             // [n_pairs][32]
    int32_t *red = (int32_t *)(scales + n_pairs * 32);                   // [n_pairs][ROWS][32]
    const float *scale = (const float *)weight + a->linear.w.scale + pair0 * 32;
    for (uint32_t i = threadIdx.x; i < n_pairs * ROWS * 32; i += blockDim.x) red[i] = 0;
    for (uint32_t i = threadIdx.x; i < n_pairs * 32; i += blockDim.x)
        scales[i] = pair0 * 32 + i < a->linear.w.rows ? scale[i] : 0;
    float factors[8];
    if (single && a->quantises) quantise_factors(work, &a->quantise, factors);
    begin(); // weights and scales do not depend on what runs before
    const uint32_t *q = (const uint32_t *)work + a->linear.x.q, *d = (const uint32_t *)work + a->linear.x.d,
                   stride_x = a->linear.x.stride;
    const int32_t *q_sum = (const int32_t *)work + a->linear.x.q_sum;
    float m = 0;
    if (single && a->quantises) {
        m = quantise_row<1, 1>(
            work, &a->quantise, 0, 0, blockIdx.x == 0, (float *)x, factors, [=](const quantised_8 &v) {
                uint4 *to = (uint4 *)x + v.i / 8;
                to[0] = make_uint4(__byte_perm(v.word[0], 0, 0x1010), __byte_perm(v.word[0], 0, 0x3232),
                                   __byte_perm(v.word[1], 0, 0x1010), __byte_perm(v.word[1], 0, 0x3232));
                if (v.i % (UNITS * UNIT_COLS) == 0) {
                    shifts[v.group] = v.shift + twice;
                    offset[v.group] = offset_of(v.sum, v.shift) << twice;
                }
            });
        m = m * 0x1.020408p-7f;
    } else if (single) {
        m = work[a->linear.x.m] * 0x1.020408p-7f;
        const bool has = threadIdx.x < groups;
        uint32_t shift = has ? d[threadIdx.x * stride_x] : 0;
        int32_t sum = has ? q_sum[threadIdx.x * stride_x] : 0;
        for (uint32_t from = threadIdx.x * 4; from < cols / 4; from += blockDim.x * 16) {
            uint4 v[4]; // all on their way before the first is used
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (from + k * blockDim.x * 4 < cols / 4) v[k] = *(const uint4 *)(q + from + k * blockDim.x * 4);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint32_t i = from + k * blockDim.x * 4;
                if (i >= cols / 4) continue;
                uint4 *to = (uint4 *)x + i / 2;
                to[0] = make_uint4(__byte_perm(v[k].x, 0, 0x1010), __byte_perm(v[k].x, 0, 0x3232),
                                   __byte_perm(v[k].y, 0, 0x1010), __byte_perm(v[k].y, 0, 0x3232));
                to[1] = make_uint4(__byte_perm(v[k].z, 0, 0x1010), __byte_perm(v[k].z, 0, 0x3232),
                                   __byte_perm(v[k].w, 0, 0x1010), __byte_perm(v[k].w, 0, 0x3232));
            }
        }
        for (uint32_t i = threadIdx.x; i < groups; i += blockDim.x) {
            if (i != threadIdx.x) {
                shift = d[i * stride_x];
                sum = q_sum[i * stride_x];
            }
            shifts[i] = shift + twice;
            offset[i] = offset_of(sum, shift) << twice;
        }
    }
    __syncthreads();
    uint32_t pair = item / groups, group = item - pair * groups;
    for (; item < end; item += warps) {
        // The last item is loaded twice where knowing that it is the last would cost registers that there are not.
        const bool more = item + warps < end;
        if (N == 16 || more) next += warps * ITEM;
        int32_t c[NT][2][4];
        uint32_t shift[NT][2];
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t at = group * stride_x + nt * 8 + 2 * t + k, exact = single ? 0 : d[at];
                shift[nt][k] = single ? shifts[group] : exact + twice;
                c[nt][0][k] = c[nt][0][k + 2] = c[nt][1][k] = c[nt][1][k + 2] =
                    single ? offset[group] : offset_of(q_sum[at], exact) << twice;
            }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            if (N != 16) w[u][N] = __shfl_sync(~0u, w[u][0], following());
            uint4 xs[NT][2]; // pairs 0..7 of a lane's step; int8: the first half are its 16 columns
#pragma unroll
            for (int nt = 0; nt < NT; nt++)
                if (single) {
                    const uint4 *at = (const uint4 *)(x + (group * UNITS * UNIT_COLS + u * UNIT_COLS + t * 16) / 2);
                    xs[nt][0] = at[0];
                    xs[nt][1] = at[1];
                } else {
                    const uint4 v = *(
                        const uint4 *)(q +
                                       ((uint64_t)(nt * 8 + g) * cols + (group * UNITS + u) * UNIT_COLS + t * 16) / 4);
                    xs[nt][0] = v;
                    if (N != 16) {
                        xs[nt][0] = make_uint4(__byte_perm(v.x, 0, 0x1010), __byte_perm(v.x, 0, 0x3232),
                                               __byte_perm(v.y, 0, 0x1010), __byte_perm(v.y, 0, 0x3232));
                        xs[nt][1] = make_uint4(__byte_perm(v.z, 0, 0x1010), __byte_perm(v.z, 0, 0x3232),
                                               __byte_perm(v.w, 0, 0x1010), __byte_perm(v.w, 0, 0x3232));
                    }
                }
            if (N == 16) {
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int set = 0; set < 2; set++)
#pragma unroll
                        for (int nt = 0; nt < NT; nt++)
                            mma<false>(c[nt][set], w[u][8 * set + 2 * half], w[u][8 * set + 4 + 2 * half],
                                       w[u][8 * set + 2 * half + 1], w[u][8 * set + 5 + 2 * half],
                                       half ? xs[nt][0].z : xs[nt][0].x, half ? xs[nt][0].w : xs[nt][0].y);
            } else {
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int set = 0; set < 2; set++) {
                        const int r = 16 * set + 2 * k;
                        const uint32_t windows[4] = {window<N>(w[u], r), window<N>(w[u], r + 8), window<N>(w[u], r + 1),
                                                     window<N>(w[u], r + 9)};
                        if (NT > 1 || (2 * k + set) % 8 % 3 == 0) // three of eight
                            mma_fields<true, NT>(c, set, windows, xs, k);
                        else
                            mma_fields<false, NT>(c, set, windows, xs, k);
                    }
            }
            if (N != 16 || more) load_words<N>(next + u * 32 * N, w[u]);
            __syncwarp(); // without it all loads would be put off to the end of the item
        }
        // Row of the 32: 4*g + r, r = 2*set + i/2: bands, then fours of rows, are in order.
        int32_t *to = red + (pair - pair0) * (ROWS * 32);
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t n = nt * 8 + 2 * t + i % 2;
                if (n < ROWS)
                    atomicAdd(&to[n * 32 + g * 4 + i / 4 * 2 + i % 4 / 2], c[nt][i / 4][i % 4] >> shift[nt][i % 2]);
            }
        for (group += warps; group >= groups; group -= groups) pair++;
    }
    __syncthreads();
    // A block has at most two pairs that are not its own alone: its first and its last.
    const uint32_t rows = a->linear.n_rows;
    for (uint32_t i = threadIdx.x; i < n_pairs * rows * 32; i += blockDim.x) {
        const uint32_t lp = i / (rows * 32), row = i / 32 % rows, r = i % 32, at = (pair0 + lp) * 32 + r,
                       begin_of = (pair0 + lp) * groups;
        const uint32_t parts = first > begin_of || end < begin_of + groups
                                   ? block_of(begin_of + groups - 1, items) - block_of(begin_of, items) + 1
                                   : 1;
        int32_t acc = red[(lp * ROWS + row) * 32 + r];
        if (at >= a->linear.w.rows ||
            (parts > 1 && !join((unsigned long long *)a->sums + (uint64_t)row * (pairs * 32) + at, parts, &acc)))
            continue;
        const float m_row = single ? m : work[a->linear.x.m + row] * 0x1.020408p-7f;
        put_product(work, &a->linear, row, at, (float)acc * (scales[lp * 32 + r] * m_row));
    }
}

// ---- More rows ----
//
// A block is 256 rows of the matrix by 8*NT of the batch; a warp is half of a unit's rows (its first or second product)
// by all of those. Inputs and weights come through shared memory, a group at a time, one or two ahead.

FN void copy_async(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from));
}

// Weights + 127 of row r 0..3, columns 4*quad..+3 of a lane's step.
template <int N> FN uint32_t weights(const uint32_t *w, int r, int quad) {
    if constexpr (N == 16) {
        return w[r * 4 + quad];
    } else {
        const uint32_t a = window<N>(w, 8 * r + 2 * quad) * TRELLIS_MULTIPLIER & 0x7f7f7f7f,
                       b = window<N>(w, 8 * r + 2 * quad + 1) * TRELLIS_MULTIPLIER & 0x7f7f7f7f;
        return __byte_perm(a * 0x10001u, b * 0x10001u, 0x7632); // the sums are in the upper halves
    }
}

template <int N, int NT, int UNITS, int HALF>
FN void tile_half(const uint8_t *weight, float *work, const mma_args *a, uint8_t *shared, uint32_t local_pair) {
    constexpr int ROWS = 8 * NT, STRIDE = UNITS * UNIT_COLS + (UNITS == 1 ? 0 : 64),
                  ITEM = UNITS * 32 * N, // ITEM: words
        X = ROWS * (STRIDE + 8), BUFFER = X + TILE_PAIRS * ITEM * 4;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row0 = blockIdx.x * ROWS,
                   cols = a->linear.w.cols, groups = cols / (UNITS * UNIT_COLS), pairs = (a->linear.w.rows + 31) / 32,
                   pair = blockIdx.y * TILE_PAIRS + local_pair, part = blockIdx.z, parts = gridDim.z,
                   first = part * groups / parts, end = (part + 1) * groups / parts, stages = a->stages,
                   ahead = stages - 1;
    const uint8_t *q = (const uint8_t *)(work + a->linear.x.q) + (uint64_t)row0 * cols;
    const uint32_t *d = (const uint32_t *)work + a->linear.x.d + row0, stride_x = a->linear.x.stride;
    const int32_t *q_sum = (const int32_t *)work + a->linear.x.q_sum + row0;

    auto stage = [&](uint32_t group, uint32_t buffer) {
        constexpr uint32_t PIECES = UNITS * 4, OF_PAIR = ITEM / 4;
        uint8_t *x = shared + buffer * BUFFER;
#pragma unroll
        for (uint32_t k = 0; k < (ROWS * PIECES + TILE_THREADS - 1) / TILE_THREADS; k++) {
            const uint32_t i = threadIdx.x + k * TILE_THREADS;
            if (ROWS * PIECES % TILE_THREADS == 0 || i < ROWS * PIECES)
                copy_async(x + i / PIECES * STRIDE + i % PIECES * 16,
                           q + (i / PIECES) * cols + group * (UNITS * UNIT_COLS) + i % PIECES * 16);
        }
        if (threadIdx.x < ROWS / 4)
            copy_async(x + ROWS * STRIDE + threadIdx.x * 16, q_sum + group * stride_x + threadIdx.x * 4);
        else if (threadIdx.x < ROWS / 2)
            copy_async(x + ROWS * STRIDE + threadIdx.x * 16, d + group * stride_x + (threadIdx.x - ROWS / 4) * 4);
#pragma unroll
        for (uint32_t k = 0; k < (TILE_PAIRS * OF_PAIR + TILE_THREADS - 1) / TILE_THREADS; k++) {
            const uint32_t i = threadIdx.x + k * TILE_THREADS,
                           p = min(blockIdx.y * TILE_PAIRS + i / OF_PAIR, pairs - 1);
            if (TILE_PAIRS * OF_PAIR % TILE_THREADS == 0 || i < TILE_PAIRS * OF_PAIR)
                copy_async(x + X + i * 16, weight + ((uint64_t)p * groups + group) * (ITEM * 4) + i % OF_PAIR * 16);
        }
    };
    begin();
    for (uint32_t i = 0; i < ahead; i++) {
        if (first + i < end) stage(first + i, i);
        asm volatile("cp.async.commit_group;");
    }
    int32_t total[NT][4];
#pragma unroll
    for (int i = 0; i < NT * 4; i++) total[i / 4][i % 4] = 0;
    uint32_t buffer = 0;
    for (uint32_t group = first; group < end; group++) {
        const uint8_t *x = shared + buffer * BUFFER;
        const int32_t *sum_of = (const int32_t *)(x + ROWS * STRIDE);
        const uint32_t *shift_of = (const uint32_t *)sum_of + ROWS,
                       *words = (const uint32_t *)(x + X) + local_pair * ITEM;
        if (ahead == 2)
            asm volatile("cp.async.wait_group 1;");
        else
            asm volatile("cp.async.wait_group 0;");
        __syncthreads(); // and all are done with the buffer that is filled next
        const uint32_t free = buffer == 0 ? stages - 1 : buffer - 1;
        if (group + ahead < end) stage(group + ahead, free);
        asm volatile("cp.async.commit_group;");
        int32_t c[NT][4];
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t n = nt * 8 + 2 * t + k;
                c[nt][k] = c[nt][k + 2] = offset_of(sum_of[n], shift_of[n]);
            }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            uint32_t w[N + 1], v[8];
            load_words<N, false>(words + u * 32 * N, w);
            if (N != 16 && HALF) w[N] = __shfl_sync(~0u, w[0], following());
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = weights<N>(w, 2 * HALF + i / 4, i % 4);
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                const uint4 xs = *(const uint4 *)(x + (nt * 8 + g) * STRIDE + u * UNIT_COLS + t * 16);
                mma<false>(c[nt], v[0], v[4], v[1], v[5], xs.x, xs.y);
                mma<false>(c[nt], v[2], v[6], v[3], v[7], xs.z, xs.w);
            }
        }
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) total[nt][i] += c[nt][i] >> shift_of[nt * 8 + 2 * t + i % 2];
        buffer = buffer + 1 == stages ? 0 : buffer + 1;
    }
    const float *scale = (const float *)weight + a->linear.w.scale;
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t n = row0 + nt * 8 + 2 * t + i % 2, row = pair * 32 + g * 4 + 2 * HALF + i / 2;
            if (row >= a->linear.w.rows || n >= a->linear.n_rows) continue;
            int32_t acc = total[nt][i];
            if (parts > 1 && !join((unsigned long long *)a->sums + (uint64_t)n * (pairs * 32) + row, parts, &acc))
                continue;
            put_product(work, &a->linear, n, row,
                        (float)acc * (scale[row] * (work[a->linear.x.m + n] * 0x1.020408p-7f)));
        }
}

template <int N, int NT, int UNITS> FN void tile(const uint8_t *weight, float *work, const mma_args *a) {
    extern __shared__ __align__(16) uint8_t tile_shared[];
    const uint32_t warp = threadIdx.x / 32;
    if (warp % 2)
        tile_half<N, NT, UNITS, 1>(weight, work, a, tile_shared, warp / 2);
    else
        tile_half<N, NT, UNITS, 0>(weight, work, a, tile_shared, warp / 2);
}
