// Linear layers for more rows on Hopper's tensor cores (wgmma m64n64k32, m64n128k32): section 4, steps 3 and 4. A tile
// is 128 rows of the matrix (four pairs of bands) by 64 or 128 of the batch, in two warpgroups; a warp is half of a
// pair's rows, as in linear_mma.cuh, and decodes its weights into registers, which are the first operand. The second is
// in shared memory: a group of the batch's rows, in panels of 128 columns with the 128-byte swizzle.
//
// The product is a list of items, a tile by a group each, tile by tile; blocks, one on a multiprocessor or two of small
// tiles, take equal runs of them. Blocks that share a tile add their sums in device memory, and the last of them
// writes.
//
// Columns: what a lane has of a step is spread over the operand's columns, 4 here and 4 there, so the words of every 64
// columns of the inputs are transposed as a 4 x 4 matrix before (transpose_inputs).
#pragma once
#include "backend/cuda/linear_mma.cuh"

// In place, 64 bytes a thread; done twice it changes nothing.
FN void transpose_inputs(uint32_t *q, uint32_t n) {
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint4 *p = (uint4 *)q + 4 * (uint64_t)i;
        const uint4 a = p[0], b = p[1], c = p[2], d = p[3];
        p[0] = make_uint4(a.x, b.x, c.x, d.x);
        p[1] = make_uint4(a.y, b.y, c.y, d.y);
        p[2] = make_uint4(a.z, b.z, c.z, d.z);
        p[3] = make_uint4(a.w, b.w, c.w, d.w);
    }
}

#if __CUDA_ARCH_FEAT_SM90_ALL
enum { WIDE_PAIRS = 4, WIDE_THREADS = 256 };

// The descriptor of a panel's 32 columns from `column` on: rows 128 bytes apart, 8 of them 1024, swizzled.
FN uint64_t descriptor(const uint8_t *panel, uint32_t column) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(panel) + column;
    return (uint64_t)1 << 62 | (uint64_t)64 << 32 | (uint64_t)1 << 16 | (at >> 4 & 0x3fff);
}

// c = a b, or c += a b, for 8 * NT rows of the batch. c: for each 8 of them the four sums of mma.sync.
template <int NT>
FN void wgmma(int32_t (*c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int add) {
#define D(i) "+r"(c[i][0]), "+r"(c[i][1]), "+r"(c[i][2]), "+r"(c[i][3])
    if constexpr (NT == 16)
        asm volatile(
            "{.reg .pred p; setp.ne.b32 p, %69, 0;"
            "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
            "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"
            "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, p;}"
            : D(0), D(1), D(2), D(3), D(4), D(5), D(6), D(7), D(8), D(9), D(10), D(11), D(12), D(13), D(14), D(15)
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
    else
        asm volatile(
            "{.reg .pred p; setp.ne.b32 p, %37, 0;"
            "wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
            "%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p;}"
            : D(0), D(1), D(2), D(3), D(4), D(5), D(6), D(7)
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
#undef D
}

// Where in the product a block is.
struct wide_place {
    uint32_t row0, pair0, group;
};

template <int N, int UNITS, int ROWS> FN void wide(const uint8_t *weight, float *work, const mma_args *a) {
    constexpr int NT = ROWS / 8, PANEL = ROWS * 128, PANELS = UNITS / 2, ITEM = UNITS * 32 * N, // ITEM: words
        SUMS_AT = PANELS * PANEL, WEIGHTS_AT = SUMS_AT + ROWS * 8,
                  BUFFER = (WEIGHTS_AT + WIDE_PAIRS * ITEM * 4 + 1023) / 1024 * 1024;
    extern __shared__ __align__(1024) uint8_t wide_shared[];
    __shared__ bool last;
    uint8_t *shared = wide_shared + (1024 - (uint32_t)__cvta_generic_to_shared(wide_shared) % 1024) % 1024;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, half = warp % 2,
                   cols = a->linear.w.cols, groups = cols / (UNITS * UNIT_COLS), pairs = (a->linear.w.rows + 31) / 32,
                   row_tiles = (a->linear.n_rows + ROWS - 1) / ROWS,
                   items = row_tiles * ((pairs + WIDE_PAIRS - 1) / WIDE_PAIRS) * groups,
                   first = (uint32_t)((uint64_t)blockIdx.x * items / gridDim.x),
                   end = (uint32_t)(((uint64_t)blockIdx.x + 1) * items / gridDim.x), stages = a->stages,
                   ahead = stages - 1, stride_x = a->linear.x.stride;
    const uint8_t *q = (const uint8_t *)(work + a->linear.x.q);
    const uint32_t *d = (const uint32_t *)work + a->linear.x.d, *q_sum = (const uint32_t *)work + a->linear.x.q_sum;

    auto place_of = [&](uint32_t item) {
        const uint32_t tile = item / groups;
        return wide_place{tile % row_tiles * ROWS, tile / row_tiles * WIDE_PAIRS, item % groups};
    };
    auto next = [&](wide_place *p) {
        if (++p->group < groups) return;
        p->group = 0;
        p->row0 += ROWS;
        if (p->row0 < row_tiles * ROWS) return;
        p->row0 = 0;
        p->pair0 += WIDE_PAIRS;
    };
    auto stage = [&](const wide_place *p, uint32_t buffer) {
        constexpr uint32_t PIECES = UNITS * 4, OF_PAIR = ITEM / 4;
        uint8_t *x = shared + buffer * BUFFER;
        const uint8_t *from = q + (uint64_t)p->row0 * cols + p->group * (UNITS * UNIT_COLS);
#pragma unroll
        for (uint32_t k = 0; k < ROWS * PIECES / WIDE_THREADS; k++) {
            const uint32_t i = threadIdx.x + k * WIDE_THREADS, row = i / PIECES, piece = i % PIECES;
            copy_async(x + piece / 8 * PANEL + row * 128 + ((piece % 8) ^ (row % 8)) * 16,
                       from + row * cols + piece * 16);
        }
        const uint32_t of_rows = p->group * stride_x + p->row0, i = threadIdx.x;
        if (i < ROWS / 4)
            copy_async(x + SUMS_AT + i * 16, q_sum + of_rows + i * 4);
        else if (i < ROWS / 2)
            copy_async(x + SUMS_AT + i * 16, d + of_rows + (i - ROWS / 4) * 4);
#pragma unroll
        for (uint32_t k = 0; k < (WIDE_PAIRS * OF_PAIR + WIDE_THREADS - 1) / WIDE_THREADS; k++) {
            const uint32_t i = threadIdx.x + k * WIDE_THREADS, pair = min(p->pair0 + i / OF_PAIR, pairs - 1);
            if (WIDE_PAIRS * OF_PAIR % WIDE_THREADS == 0 || i < WIDE_PAIRS * OF_PAIR)
                copy_async(x + WEIGHTS_AT + i * 16,
                           weight + ((uint64_t)pair * groups + p->group) * (ITEM * 4) + i % OF_PAIR * 16);
        }
    };
    // The words of the lane's rows 2*half and 2*half + 1, moved down where the second half begins: the same code for
    // both.
    auto decode = [&](const uint32_t *unit, uint32_t *v) {
        uint32_t w[N + 1], h[N / 2 + 2];
        load_words<N, false>(unit, w);
        if (N != 16) w[N] = __shfl_sync(~0u, w[0], following());
        if constexpr (N == 16) {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = half ? w[8 + i] : w[i];
        } else {
#pragma unroll
            for (int i = 0; i < N / 2 + 1; i++) {
                const uint32_t upper =
                    N % 2 ? __funnelshift_r(w[N / 2 + i], w[min(N / 2 + i + 1, N)], 16) : w[min(N / 2 + i, N)];
                h[i] = half ? upper : w[i];
            }
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = weights<N>(h, i / 4, i % 4);
        }
    };
    int32_t total[NT][4], c[NT][4];
    // The sums of a tile from groups that blocks share: whether this one has them all now.
    auto join_tile = [&](uint32_t item) {
        const uint32_t from = item - item % groups, owner = block_of(from, items),
                       parts = block_of(from + groups - 1, items) - owner + 1;
        if (parts == 1) return true;
        int32_t *sums = (int32_t *)a->sums + owner * (ROWS * 128) + threadIdx.x;
        uint32_t *count = (uint32_t *)a->counts + owner;
        if (threadIdx.x == 0) {
            last = *(volatile uint32_t *)count == parts - 1;
            order_memory();
        }
        __syncthreads();
        const bool others_first = last;
        if (!others_first) {
#pragma unroll
            for (int i = 0; i < NT * 4; i++) atomicAdd(sums + i * WIDE_THREADS, total[i / 4][i % 4]);
            __syncthreads();
            if (threadIdx.x == 0) {
                order_memory();
                last = atomicAdd(count, 1) == parts - 1;
                order_memory();
            }
            __syncthreads();
            if (!last) return false;
        }
#pragma unroll
        for (int i = 0; i < NT * 4; i++) {
            total[i / 4][i % 4] = __ldcg(sums + i * WIDE_THREADS) + (others_first ? total[i / 4][i % 4] : 0);
            sums[i * WIDE_THREADS] = 0;
        }
        if (threadIdx.x == 0) *count = 0;
        return true;
    };
    auto put_tile = [&](const wide_place *p) {
        const float *scale = (const float *)weight + a->linear.w.scale;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = (p->pair0 + warp / 2) * 32 + g * 4 + 2 * half + i;
            const float s = row < a->linear.w.rows ? scale[row] : 0;
#pragma unroll
            for (int nt = 0; nt < NT; nt++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    const uint32_t n = p->row0 + nt * 8 + 2 * t + k;
                    if (row < a->linear.w.rows && n < a->linear.n_rows)
                        put_product(work, &a->linear, n, row,
                                    (float)total[nt][2 * i + k] * (s * (work[a->linear.x.m + n] * 0x1.020408p-7f)));
                }
        }
    };
    begin();
    wide_place now = place_of(first), coming = now;
    for (uint32_t i = 0; i < ahead; i++) {
        if (first + i < end) stage(&coming, i);
        next(&coming);
        asm volatile("cp.async.commit_group;");
    }
#pragma unroll
    for (int i = 0; i < NT * 4; i++) total[i / 4][i % 4] = 0;
    uint32_t buffer = 0;
    for (uint32_t item = first; item < end; item++) {
        const uint8_t *x = shared + buffer * BUFFER;
        const uint32_t *words = (const uint32_t *)(x + WEIGHTS_AT) + warp / 2 * ITEM;
        if (ahead == 2)
            asm volatile("cp.async.wait_group 1;");
        else
            asm volatile("cp.async.wait_group 0;");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads(); // and all are done with the buffer that is filled next
        if (item + ahead < end) stage(&coming, buffer == 0 ? stages - 1 : buffer - 1);
        next(&coming);
        asm volatile("cp.async.commit_group;");
        uint32_t v[2][8];
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            uint32_t *w = v[u % 2];
            if (u >= 2) asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); // which still read these
            decode(words + u * 32 * N, w);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            const uint8_t *panel = x + u / 2 * PANEL;
            wgmma<NT>(c, w[0], w[4], w[1], w[5], descriptor(panel, u % 2 * 64), u > 0);
            wgmma<NT>(c, w[2], w[6], w[3], w[7], descriptor(panel, u % 2 * 64 + 32), 1);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) asm volatile("" : "+r"(c[nt][i])::"memory"); // not before the wait
        const int32_t *sum_of = (const int32_t *)(x + SUMS_AT);
        const uint32_t *shift_of = (const uint32_t *)sum_of + ROWS;
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t n = nt * 8 + 2 * t + k, shift = shift_of[n];
                const int32_t offset = offset_of(sum_of[n], shift);
                total[nt][k] += (c[nt][k] + offset) >> shift;
                total[nt][k + 2] += (c[nt][k + 2] + offset) >> shift;
            }
        if (now.group == groups - 1 || item + 1 == end) {
            if (join_tile(item)) put_tile(&now);
#pragma unroll
            for (int i = 0; i < NT * 4; i++) total[i / 4][i % 4] = 0;
        }
        next(&now);
        buffer = buffer + 1 == stages ? 0 : buffer + 1;
    }
}
#endif
