// The .upg container: what is written is what is read, byte for byte, in a file that any safetensors reader opens.
#include "format_helpers.h"
#include <pthread.h>
#include "format/safetensors.h"

enum { N_SHAPES = 6, N_KINDS = 13, N_ALL = N_SHAPES * N_KINDS + 1 };

// Every encoding (the trellis at each rate, sparse in both bases) in odd and even, tiny and page-sized shapes, and a
// tokenizer.
static void all_encodings(upg_writer_tensor t[N_ALL], char names[N_ALL][64]) {
    static const int64_t shapes[N_SHAPES][2] = {{1, 1}, {17, 33}, {257, 172}, {1, 4096}, {300, 1}, {512, 256}};
    size_t n = 0;
    for (int i = 0; i < N_SHAPES; i++)
        for (int k = 0; k < N_KINDS; k++, n++) {
            upg_encoding encoding = k < 4 ? (upg_encoding)k : k < 9 ? UPG_TRELLIS : UPG_SPARSE;
            snprintf(names[n], 64, "layers.%d.kind.%d", i, k);
            t[n] =
                (upg_writer_tensor){.name = names[n], .encoding = encoding, .rows = shapes[i][0], .cols = shapes[i][1]};
            t[n].s = k < 4 ? 0 : k < 9 ? k : k < 11 ? 4 : 8;
            t[n].unrotated = k > 8 && k % 2;
        }
    t[n] = (upg_writer_tensor){.name = "tokenizer", .encoding = UPG_BYTES, .rows = 1, .cols = 12345};
}

static void encoded_bytes_are_those_of_padded_tiles(void **state) {
    (void)state;
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 3, 5), 60);
    assert_int_equal(upg_encoded_bytes(UPG_BF16, 0, 3, 5), 30);
    assert_int_equal(upg_encoded_bytes(UPG_INT8, 0, 1, 1), 256);
    assert_int_equal(upg_encoded_bytes(UPG_INT8, 0, 17, 172), 32 * 176);
    for (int s = 4; s <= 8; s++) assert_int_equal(upg_encoded_bytes(UPG_TRELLIS, s, 17, 172), 2 * 11 * 16 * s);
    assert_int_equal(upg_encoded_bytes(UPG_TRELLIS, 6, 100352, 5120), (size_t)100352 * 5120 * 3 / 8);
    assert_int_equal(upg_encoded_bytes(UPG_TRELLIS, 3, 16, 16), 0);
    assert_int_equal(upg_encoded_bytes(UPG_TRELLIS, 9, 16, 16), 0);
    assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 8, 5120, 5120), (size_t)5120 * 5120 * 5 / 8);
    assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 4, 5120, 5120), (size_t)5120 * 5120 * 3 / 8);
    assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 8, 17, 172), 11 * (2 * 8 * 16 + 32 * 16));
    assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 4, 257, 256), (16 + 1) * 4 * 256 + 2 * 32 * 256);
    assert_int_equal(upg_encoded_bytes(UPG_SPARSE, 6, 16, 16), 0);
    assert_true(upg_encoded_bytes(UPG_SPARSE, 8, 1, INT32_MAX) > (size_t)INT32_MAX);
    assert_int_equal(upg_encoded_bytes(UPG_BYTES, 0, 2, 5), 0);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 0, 5), 0);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 5, -1), 0);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 1 << 20, 1 << 20), (size_t)4 << 40);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, (1 << 20) + 1, 1 << 20), 0);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 1, INT32_MAX), (size_t)INT32_MAX * 4);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, 1, (int64_t)INT32_MAX + 1), 0);
    assert_int_equal(upg_encoded_bytes(UPG_F32, 0, INT64_MAX, INT64_MAX), 0);
}

static void check_tensor(const upg_weights *w, const upg_writer_tensor *want, uint64_t seed) {
    const upg_tensor *t = upg_weights_find(w, want->name);
    assert_non_null(t);
    assert_int_equal(t->encoding, want->encoding);
    assert_int_equal(t->s, want->s);
    assert_int_equal(t->rows, want->rows);
    assert_int_equal(t->cols, want->cols);
    assert_int_equal(t->bytes, upg_encoded_bytes(want->encoding, want->s, want->rows, want->cols));
    assert_int_equal((uintptr_t)t->data % 64, 0);
    assert_int_equal(t->unrotated, want->unrotated);
    uint8_t *data = random_data(want, seed);
    assert_memory_equal(t->data, data, t->bytes);
    free(data);
    if (!upg_encoding_is_coded(t->encoding)) {
        assert_null(t->scale);
        return;
    }
    assert_int_equal((uintptr_t)t->scale % 64, 0);
    float *scale = random_scale(t->rows, seed);
    assert_memory_equal(t->scale, scale, (size_t)t->rows * 4);
    free(scale);
}

static void what_is_written_is_read(void **state) {
    (void)state;
    char dir[64], path[256], names[N_ALL][64];
    upg_writer_tensor t[N_ALL];
    all_encodings(t, names);
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, t, N_ALL, "{ \"ppl\": 12.50,\n \"layers\": [1, 2] }", 100);
    upg_weights w;
    upg_error e = {""};
    if (upg_weights_open(&w, path, &e)) fail_msg("%s", e.message);
    assert_true(w.compressed);
    assert_int_equal(w.n, N_ALL);
    for (size_t i = 0; i < N_ALL; i++) check_tensor(&w, &t[i], 7 + i);
    // JSON comes back minified and otherwise as it was spelled.
    assert_string_equal(w.config, SAMPLE_CONFIG);
    assert_string_equal(w.report, "{\"ppl\":12.50,\"layers\":[1,2]}");
    assert_string_equal(w.chat_template, "{{ \"hi\" }}\n\\é");
    assert_true(w.rotation_seed == 0xfedcba9876543210u);
    assert_null(w.tokenizer_json);
    if (upg_weights_verify(&w, NULL, NULL, &e)) fail_msg("%s", e.message);
    assert_int_equal(w.file_bytes,
                     upg_writer_plan(SAMPLE_CONFIG, "{{ \"hi\" }}\n\\é", t, N_ALL, 100)); // as was foretold
    upg_weights_close(&w);
    remove_folder(dir);
}

static void a_memory_image_reads_the_same_at_any_alignment(void **state) {
    (void)state;
    char dir[64], path[256];
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, small_model, COUNT(small_model), NULL, 0);
    upg_buf image = read_image(path);
    uint8_t *room = malloc(image.size + 64 + 64);
    assert_non_null(room);
    for (size_t shift = 0; shift < 64; shift += 7) {
        uint8_t *at = (uint8_t *)(((uintptr_t)room + 63) / 64 * 64 + shift);
        memcpy(at, image.data, image.size);
        upg_weights w;
        upg_error e = {""};
        if (upg_weights_open_memory(&w, at, image.size, "image", &e)) fail_msg("%s", e.message);
        for (size_t i = 0; i < COUNT(small_model); i++) check_tensor(&w, &small_model[i], 7 + i);
        assert_int_equal(upg_weights_verify(&w, NULL, NULL, &e), 0);
        assert_null(w.report);
        upg_weights_close(&w);
    }
    free(room);
    upg_buf_free(&image);
    remove_folder(dir);
}

static void a_pipe_reads_like_a_file(void **state) {
    (void)state;
    char dir[64], path[256], fifo[256], command[600];
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, small_model, COUNT(small_model), NULL, 0);
    assert_int_equal(mkfifo(path_in(fifo, dir, "pipe"), 0600), 0);
    snprintf(command, sizeof command, "cat %s > %s &", path, fifo);
    assert_int_equal(system(command), 0);
    upg_weights w;
    upg_error e = {""};
    if (upg_weights_open(&w, fifo, &e)) fail_msg("%s", e.message);
    for (size_t i = 0; i < COUNT(small_model); i++) check_tensor(&w, &small_model[i], 7 + i);
    upg_weights_close(&w);
    remove_folder(dir);
}

static void the_file_is_aligned_covered_and_little_of_it_is_padding(void **state) {
    (void)state;
    char dir[64], path[256], names[N_ALL][64];
    upg_writer_tensor t[N_ALL];
    all_encodings(t, names);
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, t, N_ALL, NULL, 0);
    upg_buf image = read_image(path);
    upg_safetensors st;
    upg_error e = {""};
    if (upg_safetensors_parse(&st, (uint8_t *)image.data, image.size, path, &e)) fail_msg("%s", e.message);
    assert_int_equal(st.data_start % 4096, 0);
    size_t padding = 0;
    for (size_t i = 0; i < st.n; i++) {
        const upg_safetensors_entry *s = &st.entries[i];
        size_t bytes = s->end - s->begin;
        if (!strncmp(s->name, "pad.", 4))
            padding += bytes;
        else
            assert_int_equal((st.data_start + s->begin) % (bytes >= 65536 ? 4096 : 64), 0);
    }
    const upg_safetensors_entry *last = &st.entries[st.n - 1];
    assert_int_equal(strncmp(last->name, "pad.", 4), 0);
    assert_true(last->end - last->begin >= 64);
    // Small tensors fill the gaps before large ones: less than one page a large tensor goes to waste, and far less
    // here.
    assert_true(padding * 100 < st.data_size);
    upg_safetensors_close(&st);
    upg_buf_free(&image);
    remove_folder(dir);
}

static void the_same_model_gives_the_same_bytes(void **state) {
    (void)state;
    char dir[64], a[256], b[256], names[N_ALL][64];
    upg_writer_tensor t[N_ALL];
    all_encodings(t, names);
    path_in(a, temporary_folder(dir), "a.upg");
    path_in(b, dir, "b.upg");
    write_model(a, t, N_ALL, "{\"x\":1}", 10);
    write_model(b, t, N_ALL, "{\"x\":1}", 10);
    upg_buf x = read_image(a), y = read_image(b);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    upg_buf_free(&x);
    upg_buf_free(&y);
    remove_folder(dir);
}

typedef struct put_job {
    upg_writer *w;
    const upg_writer_tensor *t;
    size_t first;
    int failures;
} put_job;

enum { N_THREADS = 4 };

static void *put_some(void *arg) {
    put_job *job = arg;
    for (size_t i = job->first; i < N_ALL; i += N_THREADS) {
        const upg_writer_tensor *t = &job->t[i];
        uint8_t *data = random_data(t, 7 + i);
        float *scale = upg_encoding_is_coded(t->encoding) ? random_scale(t->rows, 7 + i) : NULL;
        job->failures += upg_writer_put(job->w, i, data, scale, NULL) != 0;
        free(data);
        free(scale);
    }
    return NULL;
}

static void threads_may_put_at_once(void **state) {
    (void)state;
    char dir[64], a[256], b[256], names[N_ALL][64];
    upg_writer_tensor t[N_ALL];
    all_encodings(t, names);
    path_in(a, temporary_folder(dir), "a.upg");
    path_in(b, dir, "b.upg");
    upg_error e = {""};
    upg_writer *w = upg_writer_new(b, SAMPLE_CONFIG, "{{ \"hi\" }}\n\\é", 0xfedcba9876543210u, t, N_ALL, 0, &e);
    assert_non_null(w);
    pthread_t threads[N_THREADS];
    put_job jobs[N_THREADS];
    for (size_t i = 0; i < N_THREADS; i++) {
        jobs[i] = (put_job){.w = w, .t = t, .first = i};
        assert_int_equal(pthread_create(&threads[i], NULL, put_some, &jobs[i]), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].failures, 0);
    }
    if (upg_writer_finish(w, NULL, &e)) fail_msg("%s", e.message);
    upg_writer_free(w);
    write_model(a, t, N_ALL, NULL, 0);
    upg_buf x = read_image(a), y = read_image(b);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    upg_buf_free(&x);
    upg_buf_free(&y);
    remove_folder(dir);
}

// Whatever a report consists of, the room asked for is enough for it.
static void a_report_as_long_as_its_room_fits(void **state) {
    (void)state;
    static const char *const units[] = {"\\\"", "\\\\", "\\u0001", "x", "é", "\\/", "\\u007f", "\\n", "\x7f"};
    char dir[64], path[256];
    path_in(path, temporary_folder(dir), "m.upg");
    for (size_t u = 0; u < COUNT(units); u++) {
        upg_buf report = {0};
        upg_buf_str(&report, "{\"k\":\"");
        for (int i = 0; i < 5000; i++) upg_buf_str(&report, units[u]);
        upg_buf_str(&report, "\"}");
        write_model(path, small_model, COUNT(small_model), report.data, report.size);
        upg_weights w;
        upg_error e = {""};
        if (upg_weights_open(&w, path, &e)) fail_msg("%s", e.message);
        assert_true(strlen(w.report) > 5000);
        upg_weights_close(&w);
        upg_buf_free(&report);
    }
    upg_buf report = {0};
    upg_buf_str(&report, "{");
    for (int i = 0; i < 5000; i++) upg_buf_fmt(&report, "%s\"%d\":[]", i ? "," : "", i);
    upg_buf_str(&report, "}");
    write_model(path, small_model, COUNT(small_model), report.data, report.size);
    upg_buf_free(&report);
    remove_folder(dir);
}

static void pythons_safetensors_reads_the_file(void **state) {
    (void)state;
    if (system("python3 -c 'import safetensors, numpy' 2>/dev/null")) {
        print_message("python3 with safetensors and numpy is not here: the reference implementation is not asked\n");
        skip();
    }
    char dir[64], path[256], command[1200], names[N_ALL][64];
    upg_writer_tensor t[N_ALL];
    size_t n = 0;
    all_encodings(t, names);
    for (size_t i = 0; i < N_ALL; i++) // numpy has no bfloat16
        if (t[i].encoding != UPG_BF16) t[n++] = t[i];
    path_in(path, temporary_folder(dir), "m.upg");
    write_model(path, t, n, "{\"x\":1}", 10);
    snprintf(command, sizeof command,
             "python3 -c \"\n"
             "import json, safetensors\n"
             "with safetensors.safe_open('%s', 'np') as f:\n"
             "    d = json.loads(f.metadata()['upg'])\n"
             "    names = [k for k in f.keys() if not k.startswith('pad.') and not k.endswith('.scale')]\n"
             "    assert sorted(names) == sorted(d['tensors']), names\n"
             "    for k in f.keys(): f.get_tensor(k)\n"
             "    assert f.get_tensor('layers.2.kind.0').shape == (257, 172)\n"
             "    assert f.get_tensor('layers.2.kind.5.scale').shape == (257,)\n"
             "    assert d['tensors']['layers.2.kind.5']['bits'] == 2.5\n"
             "    assert d['report'] == {'x': 1} and d['version'] == 1\n"
             "\"",
             path);
    assert_int_equal(system(command), 0);
    remove_folder(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoded_bytes_are_those_of_padded_tiles),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_memory_image_reads_the_same_at_any_alignment),
        cmocka_unit_test(a_pipe_reads_like_a_file),
        cmocka_unit_test(the_file_is_aligned_covered_and_little_of_it_is_padding),
        cmocka_unit_test(the_same_model_gives_the_same_bytes),
        cmocka_unit_test(threads_may_put_at_once),
        cmocka_unit_test(a_report_as_long_as_its_room_fits),
        cmocka_unit_test(pythons_safetensors_reads_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
