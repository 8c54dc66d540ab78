// AMX: batches are multiplied by tiles of 16 rows of the batch by 16 bands, 64 columns at a time; one row, and all that
// is not a matrix, as in kernels_avx512.c.
//
// A group is decoded half by half (8 rows of the bands, 32 KiB), and the batch runs over each half 64 rows at a time,
// so that both stay in the caches next to the core. A group's products are summed up inside the tile unit, exactly;
// then they are shifted and added in vectors.
#if defined(__x86_64__)
#include "backend/cpu/avx512.h"
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const upg_cpu_kernels upg_cpu_avx512; // does what is here not done

enum { HALF = 8, CHUNK = 64, TILE_ROWS = 16 };
// Tile registers, as the intrinsics want them: the sums of two blocks of rows of the batch, those rows' inputs, and up
// to four tiles of weights. Two blocks go side by side because a product waits long for the one before it.
#define SUMS_0    0
#define SUMS_1    1
#define INPUTS_0  2
#define INPUTS_1  3
#define WEIGHTS_0 4
#define WEIGHTS_1 5
#define WEIGHTS_2 6
#define WEIGHTS_3 7

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

// rows: of the batch in a tile; columns: how many a tile has.
static void configure(int rows, int columns) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool inputs = i == INPUTS_0 || i == INPUTS_1;
        c.row_bytes[i] = (uint16_t)(inputs ? columns : 64);
        c.rows[i] = (uint8_t)(i < WEIGHTS_0 ? rows : columns / 4);
    }
    __asm__ volatile("" : : "r"(&c) : "memory"); // gcc 12 thinks that only 8 bytes of it are read
    _tile_loadconfig(&c);
}

// ---- Attention ----
// Tiles are 16 queries by 16 keys, or dimensions. Head dimensions that are no multiple of 64 go the way of AVX-512.

static void attention_dots(upg_attention *t, const int8_t *k, int from, int to) {
    if (t->D % 64) {
        vnni_dots(t, k, from, to);
        return;
    }
    const int key = from / 16;
    k += (size_t)key * (size_t)t->D * 16;
    for (int tile = key; tile < to / 16; tile++, k += t->D * 16)
        for (int i = 0; i < t->n; i += TILE_ROWS) {
            _tile_zero(SUMS_0);
            for (int d = 0; d < t->D; d += 64) {
                _tile_loadd(INPUTS_0, t->q[i] + d, sizeof t->q[i]);
                _tile_loadd(WEIGHTS_0, k + d * 16, 64);
                _tile_dpbssd(SUMS_0, INPUTS_0, WEIGHTS_0);
            }
            _tile_stored(SUMS_0, t->dots[i] + tile * 16, sizeof t->dots[i]);
        }
}

static void attention_mix(upg_attention *t, const int8_t *v, int from, int to) {
    if (t->D % 64) {
        vnni_mix(t, v, from, to);
        return;
    }
    _Alignas(64) int32_t high[TILE_ROWS][16];
    const size_t quad = (size_t)t->D * 4;
    halves h;
    split_weights(t, from, to, &h);
    for (int i = 0; i < t->n; i += TILE_ROWS)
        for (int d = 0; d < t->D; d += 16) {
            _tile_zero(SUMS_0);
            _tile_zero(SUMS_1);
            for (int j = from; j < to; j += 64) {
                _tile_loadd(WEIGHTS_0, v + (size_t)(j / 4) * quad + (size_t)d * 4, quad);
                _tile_loadd(INPUTS_0, h.high[i] + j, sizeof h.high[i]);
                _tile_loadd(INPUTS_1, h.low[i] + j, sizeof h.low[i]);
                _tile_dpbusd(SUMS_0, INPUTS_0, WEIGHTS_0);
                _tile_dpbusd(SUMS_1, INPUTS_1, WEIGHTS_0);
            }
            _tile_stored(SUMS_0, high, sizeof high[0]);
            _tile_stored(SUMS_1, t->acc[i] + d, sizeof t->acc[i]);
            for (int a = 0; a < TILE_ROWS; a++) {
                int32_t *sum = t->acc[i + a] + d;
                _mm512_store_si512(
                    sum, _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high[a]), 8), _mm512_load_si512(sum)));
            }
        }
}

#define ATTENTION_SUMS
#include "program/ops.h"

static void attend(const upg_attend *a) {
    configure(TILE_ROWS, 64);
    op_attend(a);
    _tile_release();
}
#define ATTEND attend

// ---- Linear layers ----

INLINE void load_weights(const uint8_t *panel, int tiles) {
    _tile_loadd(WEIGHTS_0, panel, 64);
    if (tiles > 1) _tile_loadd(WEIGHTS_1, panel + 1024, 64);
    if (tiles > 2) {
        _tile_loadd(WEIGHTS_2, panel + 2048, 64);
        _tile_loadd(WEIGHTS_3, panel + 3072, 64);
    }
}

#define PRODUCT(i, k, q)                                                                                               \
    do {                                                                                                               \
        _tile_loadd(INPUTS_##i, (q) + (k)*64, stride);                                                                 \
        _tile_dpbsud(SUMS_##i, INPUTS_##i, WEIGHTS_##k);                                                               \
    } while (0)

// sums: [blocks of rows, 1 or 2][16][16 bands] of (w+127)*q over a group. q: [rows][stride].
INLINE void multiply(const int8_t *q, size_t stride, int blocks, int tiles, int32_t *sums) {
    const int8_t *second = q + TILE_ROWS * stride;
    _tile_zero(SUMS_0);
    if (blocks > 1) _tile_zero(SUMS_1);
    PRODUCT(0, 0, q);
    if (blocks > 1) PRODUCT(1, 0, second);
    if (tiles > 1) PRODUCT(0, 1, q);
    if (tiles > 1 && blocks > 1) PRODUCT(1, 1, second);
    if (tiles > 2) PRODUCT(0, 2, q);
    if (tiles > 2 && blocks > 1) PRODUCT(1, 2, second);
    if (tiles > 2) PRODUCT(0, 3, q);
    if (tiles > 2 && blocks > 1) PRODUCT(1, 3, second);
    _tile_stored(SUMS_0, sums, 64);
    if (blocks > 1) _tile_stored(SUMS_1, sums + TILE_ROWS * 16, 64);
}

// What a group's sums of a batch row still need: an offset, then a shift.
typedef struct finish {
    int32_t offset[CHUNK], shift[CHUNK];
} finish;

INLINE void add_sums(const int32_t *sums, const finish *f, int rows, int32_t *totals) {
    for (int i = 0; i < rows; i++, totals += 16) {
        __m512i v = _mm512_add_epi32(_mm512_load_si512(sums + i * 16), _mm512_set1_epi32(f->offset[i]));
        v = _mm512_srav_epi32(v, _mm512_set1_epi32(f->shift[i]));
        _mm512_store_si512(totals, _mm512_add_epi32(v, _mm512_load_si512(totals)));
    }
}

// Rows of a batch in whole tiles, if there is more than one. What is read for those that are not there counts for
// nothing.
static int padded(const upg_linear *l) {
    return l->n_rows <= TILE_ROWS ? l->n_rows : (l->n_rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

// Up to CHUNK rows of the batch from `first` times half a group. panel: [HALF][b/4][16][4]; totals: [HALF][padded
// rows][16 bands].
INLINE void multiply_chunk(const upg_linear *l, int g, const uint8_t *panel, int first, int tiles, int32_t *totals) {
    _Alignas(64) int32_t sums[2][CHUNK * 16];
    finish f = {0};
    const int all = padded(l), rows = all - first < CHUNK ? all - first : CHUNK, real = l->n_rows - first;
    const size_t at = (size_t)g * (size_t)l->n_rows + (size_t)first, stride = (size_t)l->b;
    const int8_t *q = l->q + at * stride;
    for (int i = 0; i < rows && i < real; i++) {
        f.offset[i] = ((1 << l->d[at + (size_t)i]) >> 1) - 127 * l->q_sum[at + (size_t)i];
        f.shift[i] = l->d[at + (size_t)i];
    }
    totals += (size_t)first * 16;
    // Sums are added while the next ones are made: the unit is slow to give a result, quick to take the next task.
    for (int i = 0; i <= HALF; i++) {
        if (i < HALF) {
            load_weights(panel + (size_t)i * 16 * stride, tiles);
            int row = 0;
            for (; row + 2 * TILE_ROWS <= rows; row += 2 * TILE_ROWS)
                multiply(q + (size_t)row * stride, stride, 2, tiles, sums[i % 2] + row * 16);
            if (row < rows) multiply(q + (size_t)row * stride, stride, 1, tiles, sums[i % 2] + row * 16);
        }
        if (i > 0) add_sums(sums[(i - 1) % 2], &f, rows, totals + (i - 1) * all * 16);
    }
}

static void multiply_half(const upg_linear *l, int g, const uint8_t *panel, int32_t *totals) {
    for (int first = 0; first < l->n_rows; first += CHUNK) switch (l->b) {
        case 256: multiply_chunk(l, g, panel, first, 4, totals); break;
        case 128: multiply_chunk(l, g, panel, first, 2, totals); break;
        default: multiply_chunk(l, g, panel, first, 1, totals); break;
        }
}

static void decode_half(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int r) {
#define CALL(s)                                                                                                        \
    if (r)                                                                                                             \
        decode(l, sb, g, panel, s, HALF, HALF);                                                                        \
    else                                                                                                               \
        decode(l, sb, g, panel, s, 0, HALF)
    switch (l->w->s) { FOR_EACH_S(CALL) }
#undef CALL
}

// An int8 matrix has bytes in the file, in another order.
static void copy_half(const upg_linear *l, int64_t sb, int g, uint8_t *panel, int r) {
    const size_t quad = (size_t)upg_superband_bands(l->w->rows, sb) * 4;
    const int steps = l->b / 16;
    const uint8_t *p = l->w->data + upg_panel_offset(l->w->rows, l->w->cols, 64, sb, (int64_t)g * steps);
    for (int i = r; i < r + HALF; i++)
        for (int t = 0; t < steps; t++, panel += 256)
            for (size_t k = 0; k < 4; k++)
                _mm512_store_si512(panel + k * 64, _mm512_loadu_si512(p + ((size_t)t * 64 + (size_t)i * 4 + k) * quad));
}

static void linear(const upg_linear *l, int64_t sb, upg_scratch *scratch) {
    if (l->n_rows == 1) {
        upg_cpu_avx512.linear(l, sb, scratch);
        return;
    }
    const int rows = padded(l);
    memset(scratch->total, 0, (size_t)rows * 256 * sizeof *scratch->total);
    configure(rows < TILE_ROWS ? rows : TILE_ROWS, l->b < 64 ? l->b : 64);
    for (int g = l->first; g < l->end; g++) {
        if (l->w->encoding == UPG_SPARSE) expand_group(l, sb, g, scratch);
        for (int r = 0; r < 16; r += HALF) {
            const uint8_t *panel = scratch->panel;
            if (l->w->encoding == UPG_SPARSE)
                panel += r * 16 * l->b;
            else if (l->w->encoding == UPG_INT8)
                copy_half(l, sb, g, scratch->panel, r);
            else
                decode_half(l, sb, g, scratch->panel, r);
            multiply_half(l, g, panel, scratch->total + (size_t)(r * rows * 16));
        }
    }
    _tile_release();
    write_rows(l, sb, scratch->total, (size_t)rows * 16, 16);
}

// Linux gives a process the tile registers when it asks for them.
static bool supported(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 };
    unsigned a, b, c, d;
    if (!upg_cpu_avx512.supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if ((d & (AMX_TILE | AMX_INT8)) != (AMX_TILE | AMX_INT8)) return false;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

#define KERNELS upg_cpu_amx
#define ISA     "amx"
#include "backend/cpu/table.h"
#endif
