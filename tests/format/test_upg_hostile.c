// Damaged and forged .upg files: opening never reads outside the file, and whatever differs from what was written is
// refused by upg_weights_open or found by upg_weights_verify.
#include "format_helpers.h"

// The small model's file at a 64-byte boundary, in an allocation of exactly its size for sanitizers to guard.
typedef struct image {
    uint8_t *data;
    size_t size;
} image;

static image copy_image(const void *data, size_t size) {
    image m = {.data = aligned_alloc(64, (size + 63) / 64 * 64), .size = size};
    assert_non_null(m.data);
    memcpy(m.data, data, size);
    return m;
}

static upg_buf small_file;

static int make_small_file(void **state) {
    (void)state;
    char dir[64], path[256];
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, small_model, COUNT(small_model), "{\"r\":[1]}", 16);
    small_file = read_image(path);
    remove_folder(dir);
    return 0;
}

static int free_small_file(void **state) {
    (void)state;
    upg_buf_free(&small_file);
    return 0;
}

// Reads every byte a kernel may read.
static unsigned touch(const upg_weights *w) {
    unsigned sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        for (size_t k = 0; k < t->bytes + 64; k++) sum += t->data[k];
        for (int64_t r = 0; t->scale && r < t->rows; r++) sum += t->scale[r] != 0;
    }
    return sum;
}

// -1 refused, 1 opened and found damaged, 0 opened and found whole.
static int examine(const image *m, upg_error *e) {
    upg_weights w;
    *e = (upg_error){""};
    if (upg_weights_open_memory(&w, m->data, m->size, "image", e)) {
        assert_true(strlen(e->message) > 5);
        assert_null(w.storage);
        return -1;
    }
    volatile unsigned sink = touch(&w);
    (void)sink;
    int rc = upg_weights_verify(&w, NULL, NULL, e) ? 1 : 0;
    upg_weights_close(&w);
    return rc;
}

static void every_truncation_and_extension_is_refused(void **state) {
    (void)state;
    upg_error e;
    for (size_t n = 0; n < small_file.size; n++) {
        image m = copy_image(small_file.data, n);
        assert_int_equal(examine(&m, &e), -1);
        free(m.data);
    }
    upg_buf longer = {0};
    upg_buf_add(&longer, small_file.data, small_file.size);
    upg_buf_add(&longer, "", 1);
    image m = copy_image(longer.data, longer.size);
    assert_int_equal(examine(&m, &e), -1);
    free(m.data);
    upg_buf_free(&longer);
}

static void every_flipped_bit_is_found(void **state) {
    (void)state;
    upg_error e;
    image m = copy_image(small_file.data, small_file.size);
    assert_int_equal(examine(&m, &e), 0);
    for (size_t bit = 0; bit < m.size * 8; bit++) {
        m.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!examine(&m, &e)) fail_msg("bit %zu of byte %zu", bit % 8, bit / 8);
        m.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(m.data);
}

static void random_damage_never_crashes(void **state) {
    (void)state;
    upg_error e;
    uint64_t seed = 5;
    for (int i = 0; i < 3000; i++) {
        image m = copy_image(small_file.data, small_file.size);
        size_t n = next_random(&seed) % 8 + 1, header = upg_le64(m.data) + 8;
        for (size_t k = 0; k < n; k++)
            m.data[next_random(&seed) % (i % 2 ? header : m.size)] = (uint8_t)next_random(&seed);
        examine(&m, &e);
        free(m.data);
    }
}

// The file with one text of its header replaced, the header's spaces making up for the length.
static image forge(const char *from, const char *to) {
    size_t header = upg_le64(small_file.data), shrink = strlen(from);
    const char *at = strstr(small_file.data + 8, from);
    if (!at) fail_msg("the header has no '%s'", from);
    size_t before = (size_t)(at - small_file.data);
    upg_buf b = {0};
    upg_buf_add(&b, small_file.data, before);
    upg_buf_str(&b, to);
    upg_buf_add(&b, at + shrink, header + 8 - before - shrink);
    while (b.size < header + 8) upg_buf_add(&b, " ", 1);
    for (size_t k = header + 8; k < b.size; k++) assert_int_equal(b.data[k], ' ');
    b.size = header + 8;
    upg_buf_add(&b, small_file.data + header + 8, small_file.size - header - 8);
    image m = copy_image(b.data, b.size);
    upg_buf_free(&b);
    return m;
}

static void forged_descriptions_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *reason;
    } cases[] = {
        {"\\\"version\\\":1", "\\\"version\\\":2", "format version 2 is unknown"},
        {"\\\"version\\\":1", "\\\"version\\\":1.0", "no format version"},
        {"\\\"version\\\":1,", "", "no format version"},
        {"\\\"version\\\":1", "\\\"version\\\":1,\\\"version\\\":1", "duplicate key 'version'"},
        {"\\\"version\\\":1", "\\\"version\\\":1,\\\"fresh\\\":0", "unknown key 'fresh'"},
        {"fedcba9876543210", "FEDCBA9876543210", "rotation_seed"},
        {"fedcba9876543210", "+edcba9876543210", "rotation_seed"},
        {"fedcba9876543210", "fedcba987654321", "rotation_seed"},
        {"\\\"config\\\":{", "\\\"config\\\":{\\\"hidden_size\\\":0,", "config: duplicate key 'hidden_size'"},
        {"\\\"config\\\":", "\\\"report\\\":{},\\\"config\\\":", "duplicate key 'report'"},
        {"\\\"encoding\\\":\\\"trellis\\\"", "\\\"encoding\\\":\\\"dense\\\"", "unknown encoding 'dense'"},
        {"\\\"encoding\\\":\\\"trellis\\\"", "\\\"encoding\\\":\\\"sparse\\\"", "'a.weight': bits must be 4 or 8"},
        {"\\\"bits\\\":8", "\\\"bits\\\":6", "'c.weight': bits must be 4 or 8"},
        {"\\\"bits\\\":8", "\\\"bits\\\":4", "'c.weight': is U8 of"},
        {"\\\"rotated\\\":false,", "", "'c.weight': rotated is not true or false"},
        {"\\\"rotated\\\":false", "\\\"rotated\\\":0", "'c.weight': rotated is not true or false"},
        {"\\\"bits\\\":2.5", "\\\"bits\\\":2.5,\\\"rotated\\\":true", "'a.weight': key 'rotated' is unknown"},
        {"\\\"encoding\\\":\\\"trellis\\\"", "\\\"encoding\\\":\\\"int8\\\"",
         "key 'bits' is unknown for encoding int8"},
        {"\\\"encoding\\\":\\\"trellis\\\",", "", "'a.weight': no encoding"},
        {"\\\"bits\\\":2.5", "\\\"bits\\\":2.25", "'a.weight': bits must be"},
        {"\\\"bits\\\":2.5", "\\\"bits\\\":\\\"2.5\\\"", "'a.weight': bits must be"},
        {"\\\"bits\\\":2.5,", "", "'a.weight': bits must be"},
        {"\\\"bits\\\":2.5", "\\\"bits\\\":3", "'a.weight': is U8 of 480 bytes, which does not match"},
        {"\\\"rows\\\":17", "\\\"rows\\\":33", "'a.weight': is U8 of 480 bytes, which does not match"},
        {"\\\"rows\\\":17", "\\\"rows\\\":18", "'a.weight.scale': must be F32 with 18 values"},
        {"\\\"rows\\\":17", "\\\"rows\\\":0", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":-17", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":17.0", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":2147483648", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":9223372036854775808", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":2147483647", "'a.weight': is U8 of 480 bytes"},
        {"\\\"rows\\\":17,", "", "'a.weight': rows or cols"},
        {"\\\"rows\\\":17", "\\\"rows\\\":17,\\\"rows\\\":17", "duplicate key 'rows'"},
        {"\\\"rows\\\":17", "\\\"rows\\\":17,\\\"note\\\":0", "'a.weight': key 'note' is unknown"},
        {"\\\"hash\\\":\\\"", "\\\"hash\\\":\\\"0", "'a.weight': hash is not 32"},
        {"\\\"scale_hash\\\"", "\\\"Scale_hash\\\"", "'a.weight': key 'Scale_hash' is unknown"},
        {"\\\"tensors\\\":{", "\\\"tensors\\\":{\\\"x\\\":{},", "'x': is described, but not there"},
        {"\\\"tensors\\\":{", "\\\"tensors\\\":{\\\"pad.0\\\":{\\\"encoding\\\":\\\"F32\\\"},", "reserved for padding"},
        {"\\\"tensors\\\":{", "\\\"tensors\\\":{\\\"a.weight\\\":1,", "duplicate key 'a.weight'"},
        {"\\\"tensors\\\":{\\\"a.weight\\\":", "\\\"tensors\\\":{\\\"a.weight\\\":0,\\\"y\\\":", "is not an object"},
        {"\\\"tensors\\\":{\\\"a.weight\\\":", "\\\"tensors\\\":{\\\"a.weight.scale\\\":", "reserved for row scales"},
        {"\\\"tensors\\\":", "\\\"tensors\\\":[],\\\"report\\\":", "duplicate key 'report'"},
        {"\\\"encoding\\\":\\\"F32\\\"", "\\\"encoding\\\":\\\"F16\\\"", "'norm.weight': is F32 of 20 bytes"},
        {"\\\"encoding\\\":\\\"F32\\\"", "\\\"encoding\\\":\\\"bytes\\\"", "'norm.weight': the name 'tokenizer'"},
        {"\\\"encoding\\\":\\\"bytes\\\"", "\\\"encoding\\\":\\\"F32\\\"", "'tokenizer': the name 'tokenizer'"},
        {"\"a.weight\":", "\"A.weight\":", "'a.weight': is described, but not there"},
        {"\"a.weight.scale\":", "\"pad.9\":", "'a.weight': its row scales are missing"},
        {"\"pad.0\":", "\"pad.1000\":", "padding 'pad.1000' found, expected 'pad.0'"},
        {"\"pad.0\":", "\"extra\":", "'extra': is there, but not described"},
        {"\"pad.0\":{\"dtype\":\"U8\"", "\"pad.0\":{\"dtype\":\"I8\"", "padding 'pad.0' is not a row of U8"},
        {"\"shape\":[480]", "\"shape\":[16,30]", "'a.weight': is U8 of 480 bytes"},
        {"\"upg\":", "\"Upg\":", "not a .upg file"},
        {"\"upg\":\"", "\"upg\":\"[", "not valid JSON"},
        {"\"upg.xxh3\":\"", "\"upg.xxh3\":\"0", "'upg.xxh3' is not 32"},
        {"\"upg.xxh3\":", "\"Upg.xxh3\":", "'upg.xxh3' is not 32"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        image m = forge(cases[i].from, cases[i].to);
        upg_error e;
        if (examine(&m, &e) != -1) fail_msg("accepted: %s for %s", cases[i].to, cases[i].from);
        assert_message(e, cases[i].reason);
        free(m.data);
    }
}

static void forbidden_scales_are_refused_by_row(void **state) {
    (void)state;
    static const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x00000001,
                                   0x80000000, 0x80000001, 0x26000000, 0x4e800001};
    upg_weights w;
    upg_error e;
    image m = copy_image(small_file.data, small_file.size);
    assert_int_equal(upg_weights_open_memory(&w, m.data, m.size, "image", &e), 0);
    size_t at = (size_t)((const uint8_t *)(upg_weights_find(&w, "a.weight")->scale + 9) - m.data);
    upg_weights_close(&w);
    for (size_t i = 0; i < COUNT(bad); i++) {
        memcpy(m.data + at, &bad[i], 4);
        assert_int_equal(examine(&m, &e), -1);
        assert_message(e, "tensor 'a.weight': scale ");
        assert_message(e, "of row 9 is neither 0 nor within");
    }
    static const uint32_t good[] = {0, 0x26800000, 0x4e800000};
    for (size_t i = 0; i < COUNT(good); i++) {
        memcpy(m.data + at, &good[i], 4);
        assert_int_equal(examine(&m, &e), 1); // allowed, though not what was written
        assert_message(e, "'a.weight': its row scales");
    }
    free(m.data);
}

// A valid safetensors file whose tensors lie where kernels could not read them.
static void misplaced_tensors_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *tensors, *reason;
        size_t header, data;
    } cases[] = {
        {"\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"pad.0\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[4,68]}",
         "", 4096, 68},
        {"\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"pad.0\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[4,68]}",
         "its data does not start at a multiple of 4096", 4096 + 64, 68},
        {"\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"pad.0\":{\"dtype\":\"U8\",\"shape\":[63],\"data_offsets\":[4,67]}",
         "'v': fewer than 64 bytes follow it", 4096, 67},
        {"\"pad.0\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[0,32]},"
         "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[32,36]},"
         "\"pad.1\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[36,100]}",
         "'v': does not start at a multiple of 64", 4096, 100},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_buf h = {0};
        upg_buf_fmt(&h,
                    "{\"__metadata__\":{\"upg.xxh3\":\"%032d\",\"upg\":\"{\\\"version\\\":1,"
                    "\\\"rotation_seed\\\":\\\"0000000000000000\\\",\\\"config\\\":{},\\\"tensors\\\":{\\\"v\\\":{"
                    "\\\"encoding\\\":\\\"F32\\\",\\\"rows\\\":1,\\\"cols\\\":1,\\\"hash\\\":\\\"%032d\\\"}}}\"},%s}",
                    0, 0, cases[i].tensors);
        while (h.size < cases[i].header - 8) upg_buf_add(&h, " ", 1);
        upg_buf b = make_safetensors(h.data, cases[i].data);
        image m = copy_image(b.data, b.size);
        upg_error e;
        int rc = examine(&m, &e);
        assert_int_equal(rc, *cases[i].reason ? -1 : 1);
        assert_message(e, cases[i].reason);
        free(m.data);
        upg_buf_free(&b);
        upg_buf_free(&h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_and_extension_is_refused),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(random_damage_never_crashes),
        cmocka_unit_test(forged_descriptions_are_refused_by_name),
        cmocka_unit_test(forbidden_scales_are_refused_by_row),
        cmocka_unit_test(misplaced_tensors_are_refused),
    };
    return cmocka_run_group_tests(tests, make_small_file, free_small_file);
}
