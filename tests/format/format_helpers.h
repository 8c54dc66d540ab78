// What the tests of this folder share: throw-away folders, files made of text, and a small model in every encoding.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "codec/sparse.h"
#include "format/weights.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static inline char *temporary_folder(char path[64]) {
    strcpy(path, "/tmp/upg-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void remove_folder(const char *path) {
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static inline char *path_in(char out[256], const char *folder, const char *name) {
    snprintf(out, 256, "%s/%s", folder, name);
    return out;
}

static inline void write_file(const char *folder, const char *name, const void *data, size_t size) {
    char path[256];
    FILE *f = fopen(path_in(path, folder, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *folder, const char *name, const char *text) {
    write_file(folder, name, text, strlen(text));
}

// A safetensors image: this header, padded with spaces to a multiple of 8, and n bytes of data 0, 1, 2, ...
static inline upg_buf make_safetensors(const char *header, size_t n) {
    upg_buf b = {0};
    size_t size = (strlen(header) + 7) / 8 * 8;
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)size >> 8 * i);
    upg_buf_add(&b, length, 8);
    upg_buf_str(&b, header);
    while (b.size < size + 8) upg_buf_add(&b, " ", 1);
    for (size_t i = 0; i < n; i++) upg_buf_add(&b, &(uint8_t){(uint8_t)i}, 1);
    assert_false(b.failed);
    return b;
}

static inline void write_safetensors(const char *folder, const char *name, const char *header, size_t n) {
    upg_buf b = make_safetensors(header, n);
    write_file(folder, name, b.data, b.size);
    upg_buf_free(&b);
}

static inline bool contains(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

#define assert_message(e, part)                                                                                        \
    do {                                                                                                               \
        if (!contains((e).message, part)) fail_msg("message '%s' does not contain '%s'", (e).message, part);           \
    } while (0)

// ---- A model in every encoding ----

static inline uint64_t next_random(uint64_t *state) { // splitmix64
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint8_t *random_bytes(size_t n, uint64_t seed) {
    uint8_t *p = malloc(n ? n : 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(next_random(&seed) % 255); // 255 is no int8 weight
    return p;
}

// Valid data of any tensor: a sparse one has every other bit of the bands that are there.
static inline uint8_t *random_data(const upg_writer_tensor *t, uint64_t seed) {
    uint8_t *data = random_bytes(upg_encoded_bytes(t->encoding, t->s, t->rows, t->cols), seed);
    if (t->encoding != UPG_SPARSE) return data;
    int64_t n = upg_pad16(t->cols);
    int b = upg_block(n);
    for (int64_t sb = 0; sb * 256 < t->rows; sb++)
        for (int64_t g = 0; g < n / b; g++) {
            int nb = upg_superband_bands(t->rows, sb);
            uint8_t *masks =
                data + upg_sparse_offset(t->rows, t->cols, t->s, sb, g) + upg_sparse_values(nb, b) * (size_t)t->s / 8;
            for (int i = 0; i < 32 * b; i++) masks[i] = i % 8 < nb / 2 ? 0x55 : i % 8 < (nb + 1) / 2 ? 0x05 : 0;
        }
    return data;
}

static inline float *random_scale(int64_t rows, uint64_t seed) {
    float *s = malloc((size_t)rows * sizeof *s);
    assert_non_null(s);
    for (int64_t r = 0; r < rows; r++) s[r] = (float)(next_random(&seed) % 2000 + 1) * 0x1p-20f;
    s[rows - 1] = 0;
    return s;
}

#define SAMPLE_CONFIG "{\"architectures\":[\"Phi3ForCausalLM\"],\"rms_norm_eps\":1e-05,\"hidden_size\":512}"

static inline void put_all(upg_writer *w, const upg_writer_tensor *t, size_t n, uint64_t seed) {
    upg_error e = {""};
    for (size_t k = 0; k < n; k++) {
        size_t i = n - 1 - k; // any order will do
        uint8_t *data = random_data(&t[i], seed + i);
        float *scale = upg_encoding_is_coded(t[i].encoding) ? random_scale(t[i].rows, seed + i) : NULL;
        if (upg_writer_put(w, i, data, scale, &e)) fail_msg("%s", e.message);
        free(data);
        free(scale);
    }
}

// Writes a model of random data to path.
static inline void write_model(const char *path, const upg_writer_tensor *t, size_t n, const char *report,
                               size_t room) {
    upg_error e = {""};
    upg_writer *w = upg_writer_new(path, SAMPLE_CONFIG, "{{ \"hi\" }}\n\\é", 0xfedcba9876543210u, t, n, room, &e);
    if (!w) fail_msg("%s", e.message);
    put_all(w, t, n, 7);
    if (upg_writer_finish(w, report, &e)) fail_msg("%s", e.message);
    upg_writer_free(w);
}

static inline upg_buf read_image(const char *path) {
    upg_file f;
    upg_error e;
    if (upg_file_open(&f, path, &e)) fail_msg("%s", e.message);
    upg_buf b = {0};
    upg_buf_add(&b, f.data, f.size);
    upg_file_close(&f);
    assert_false(b.failed);
    return b;
}

static const upg_writer_tensor small_model[] = {
    {.name = "a.weight", .encoding = UPG_TRELLIS, .s = 5, .rows = 17, .cols = 33},
    {.name = "b.weight", .encoding = UPG_INT8, .rows = 3, .cols = 20},
    {.name = "norm.weight", .encoding = UPG_F32, .rows = 1, .cols = 5},
    {.name = "tokenizer", .encoding = UPG_BYTES, .rows = 1, .cols = 77},
    {.name = "c.weight", .encoding = UPG_SPARSE, .s = 8, .rows = 5, .cols = 20, .unrotated = true},
    {.name = "d.weight", .encoding = UPG_SPARSE, .s = 4, .rows = 17, .cols = 33},
};
