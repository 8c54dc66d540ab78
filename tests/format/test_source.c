// Original models: folders, single files and sharded ones open as the tensors and texts they hold; contradictions are
// refused.
#include "format_helpers.h"

#define TENSOR(name, dtype, shape, offsets)                                                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static int open_folder(upg_weights *w, const char *folder, upg_error *e) {
    *e = (upg_error){""};
    return upg_weights_open(w, folder, e);
}

static void assert_refused(const char *path, const char *reason) {
    upg_weights w;
    upg_error e;
    if (!open_folder(&w, path, &e)) fail_msg("accepted, expected: %s", reason);
    assert_message(e, reason);
    upg_weights empty = {0};
    assert_memory_equal(&w, &empty, sizeof w);
}

static void a_folder_is_its_tensors_and_texts(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    write_text(dir, "config.json", "{\"a\": 1e-05}\n");
    write_text(dir, "generation_config.json", "{\"eos_token_id\": 2}");
    write_text(dir, "tokenizer.json", "{\"model\": 0}");
    write_text(dir, "tokenizer_config.json", "{\"chat_template\": \"{{ x }}\\n\"}");
    // One odd byte in front, so that what follows is not aligned.
    write_safetensors(dir, "model.safetensors",
                      "{" TENSOR("m", "F32", "2,3",
                                 "2,26") "," TENSOR("v", "BF16", "1", "0,2") "," TENSOR("h", "F16", "4,1", "26,34") "}",
                      34);
    upg_weights w;
    upg_error e;
    for (int single = 0; single < 2; single++) {
        path_in(path, dir, "model.safetensors");
        if (open_folder(&w, single ? path : dir, &e)) fail_msg("%s", e.message);
        assert_int_equal(w.n, 3);
        assert_false(w.compressed);
        assert_string_equal(w.tensors[0].name, "h");
        const upg_tensor *m = upg_weights_find(&w, "m"), *v = upg_weights_find(&w, "v");
        assert_non_null(m);
        assert_int_equal(m->encoding, UPG_F32);
        assert_int_equal(m->rows, 2);
        assert_int_equal(m->cols, 3);
        assert_int_equal(m->bytes, 24);
        assert_int_equal(m->data[0], 2);
        assert_int_equal(v->encoding, UPG_BF16);
        assert_int_equal(v->rows, 1);
        assert_int_equal(v->cols, 1);
        assert_null(upg_weights_find(&w, "x"));
        assert_string_equal(w.config, "{\"a\": 1e-05}\n");
        assert_string_equal(w.generation_config, "{\"eos_token_id\": 2}");
        assert_string_equal(w.tokenizer_json, "{\"model\": 0}");
        assert_string_equal(w.chat_template, "{{ x }}\n");
        assert_int_equal(upg_weights_verify(&w, NULL, NULL, &e), 0);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(w.file_bytes, st.st_size);
        upg_weights_close(&w);
    }
    // The template's own file leads; of a list the default counts; neither is needed.
    write_text(
        dir, "tokenizer_config.json",
        "{\"chat_template\": [{\"name\":\"rag\",\"template\":\"r\"},{\"name\":\"default\",\"template\":\"d\"}]}");
    assert_int_equal(open_folder(&w, dir, &e), 0);
    assert_string_equal(w.chat_template, "d");
    upg_weights_close(&w);
    write_text(dir, "chat_template.jinja", "own");
    assert_int_equal(open_folder(&w, dir, &e), 0);
    assert_string_equal(w.chat_template, "own");
    upg_weights_close(&w);
    remove(path_in(path, dir, "chat_template.jinja"));
    remove(path_in(path, dir, "tokenizer_config.json"));
    remove(path_in(path, dir, "generation_config.json"));
    assert_int_equal(open_folder(&w, dir, &e), 0);
    assert_null(w.chat_template);
    assert_null(w.tokenizer_config);
    assert_null(w.generation_config);
    upg_weights_close(&w);
    remove_folder(dir);
}

static void unusable_tensors_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *tensor, *reason;
    } cases[] = {
        {TENSOR("x.ids", "I64", "1", "0,8"), "tensor 'x.ids': dtype I64"},
        {TENSOR("x.f64", "F64", "1,1", "0,8"), "tensor 'x.f64': dtype F64"},
        {TENSOR("x.u8", "U8", "8", "0,8"), "tensor 'x.u8': dtype U8"},
        {TENSOR("x.3", "F16", "1,1,4", "0,8"), "tensor 'x.3': has 3 dimensions"},
        {TENSOR("x.0", "F32", "", "0,4") "," TENSOR("y", "F32", "1", "4,8"), "tensor 'x.0': has 0 dimensions"},
        {TENSOR("x.e", "F32", "0", "0,0") "," TENSOR("y", "F32", "2", "0,8"), "tensor 'x.e': its shape is empty"},
        {TENSOR("x.e", "F32", "0,4294967296", "0,0") "," TENSOR("y", "F32", "2", "0,8"), "tensor 'x.e': its shape is"},
        {TENSOR("x\\n\\u001b", "I32", "2", "0,8"), "tensor 'x?"
                                                   "?': dtype I32"},
    };
    char dir[64];
    temporary_folder(dir);
    write_text(dir, "config.json", "{}");
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_buf h = {0};
        upg_buf_fmt(&h, "{%s}", cases[i].tensor);
        write_safetensors(dir, "model.safetensors", h.data, 8);
        upg_buf_free(&h);
        assert_refused(dir, cases[i].reason);
    }
    write_safetensors(dir, "model.safetensors", "{}", 0);
    assert_refused(dir, "no tensors");
    remove_folder(dir);
}

static void unsound_texts_are_refused_by_file(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    assert_refused(dir, "no config.json");
    assert_refused(path_in(path, dir, "nothing"), "No such file");
    static const struct {
        const char *name, *text, *reason;
    } cases[] = {
        {"config.json", "{", "config.json: not valid JSON"},
        {"config.json", "[]", "config.json: not a JSON object"},
        {"config.json", "", "config.json: not valid JSON"},
        {"config.json", "{\"a\":1,\"b\":2,\"a\":1}", "config.json: duplicate key 'a'"},
        {"generation_config.json", "{,}", "generation_config.json: not valid JSON"},
        {"tokenizer_config.json", "{\"k\":0,\"k\":0}", "tokenizer_config.json: duplicate key 'k'"},
        {"tokenizer_config.json", "{\"chat_template\":\"a\\u0000b\"}", "chat_template is not a string without NUL"},
    };
    write_safetensors(dir, "model.safetensors", "{" TENSOR("v", "F32", "1", "0,4") "}", 4);
    assert_refused(path_in(path, dir, "model.safetensors"), "no config.json");
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_text(dir, "config.json", "{}");
        write_text(dir, cases[i].name, cases[i].text);
        assert_refused(dir, cases[i].reason);
        remove(path_in(path, dir, cases[i].name));
    }
    write_text(dir, "config.json", "{}");
    write_file(dir, "tokenizer.json", "a\0b", 3);
    assert_refused(dir, "tokenizer.json: contains a NUL");
    // A sparse file stands for one too large.
    assert_int_equal(truncate(path_in(path, dir, "tokenizer.json"), (64 << 20) + 1), 0);
    assert_refused(dir, "more than the 67108864");
    remove_folder(dir);
}

#define MAP(entries) "{\"metadata\":{\"total_size\":12},\"weight_map\":{" entries "}}"

static void shards_and_index_must_agree(void **state) {
    (void)state;
    char dir[64];
    temporary_folder(dir);
    write_text(dir, "config.json", "{}");
    assert_refused(dir, "neither model.safetensors nor model.safetensors.index.json");
    write_safetensors(dir, "one.safetensors", "{" TENSOR("a", "F32", "1", "0,4") "," TENSOR("b", "F16", "2", "4,8") "}",
                      8);
    write_safetensors(dir, "two.safetensors", "{" TENSOR("c", "F32", "1", "0,4") "}", 4);
    write_safetensors(dir, "copy.safetensors", "{" TENSOR("a", "F32", "1", "0,4") "}", 4);
    write_text(dir, "model.safetensors.index.json",
               MAP("\"a\":\"one.safetensors\",\"c\":\"two.safetensors\",\"b\":\"one.safetensors\""));
    upg_weights w;
    upg_error e;
    if (open_folder(&w, dir, &e)) fail_msg("%s", e.message);
    assert_int_equal(w.n, 3);
    assert_string_equal(w.tensors[2].name, "c");
    assert_int_equal(upg_weights_find(&w, "b")->data[0], 4);
    upg_weights_close(&w);

    static const struct {
        const char *index, *reason;
    } cases[] = {
        {"{}", "no weight_map"},
        {"{\"weight_map\":[]}", "no weight_map"},
        {MAP(""), "no weight_map"},
        {MAP("\"a\":1"), "tensor 'a': '' is not a plain file name"},
        {MAP("\"a\":\"\""), "is not a plain file name"},
        {MAP("\"a\":\"../one.safetensors\""), "is not a plain file name"},
        {MAP("\"a\":\"/etc/passwd\""), "is not a plain file name"},
        {MAP("\"a\":\"x/one.safetensors\""), "is not a plain file name"},
        {MAP("\"a\":\"..\""), "is not a plain file name"},
        {MAP("\"a\":\"one.safetensors\\u0000\""), "is not a plain file name"},
        {MAP("\"a\":\"one.safetensors\",\"a\":\"one.safetensors\""), "duplicate key 'a'"},
        {"{\"weight_map\":{},\"weight_map\":{}}", "duplicate key 'weight_map'"},
        {MAP("\"a\":\"none.safetensors\""), "none.safetensors: No such file"},
        {MAP("\"a\":\"config.json\""), "config.json: "},
        {MAP("\"a\":\"one.safetensors\""), "tensor 'b' is not in model.safetensors.index.json"},
        {MAP("\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"c\":\"one.safetensors\""),
         "tensor 'c' is not in 'one.safetensors'"},
        {MAP("\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"two.safetensors\""),
         "tensor 'b' is there, but by model.safetensors.index.json in 'two.safetensors'"},
        {MAP("\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"z\":\"copy.safetensors\""),
         "tensor 'a' is there twice"},
        {MAP("\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"c\":\"two.safetensors\",\"d\":\"two.safetensors\""),
         "tensor 'd' is not in 'two.safetensors'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_text(dir, "model.safetensors.index.json", cases[i].index);
        assert_refused(dir, cases[i].reason);
    }
    remove_folder(dir);
}

static void other_files_are_refused_by_content(void **state) {
    (void)state;
    char dir[64], path[256];
    temporary_folder(dir);
    write_text(dir, "config.json", "{}");
    write_text(dir, "x.upg", "GGUF\3\0\0\0");
    assert_refused(path_in(path, dir, "x.upg"), "cut short");
    write_text(dir, "x.upg", "");
    assert_refused(path, "0 bytes are too few");
    write_text(dir, "x.upg", "PK\3\4 a zip file, as pytorch writes them");
    assert_refused(path, "not a .upg or .safetensors file");
    remove_folder(dir);
}

static void the_small_real_model_opens(void **state) {
    (void)state;
    const char *shared = getenv("UPG_SHARED");
    char path[512];
    snprintf(path, sizeof path, "%s/models/tales", shared ? shared : "../shared");
    if (!upg_path_is_dir(path)) {
        print_message("no %s here: the real model is not tested\n", path);
        skip();
    }
    upg_weights w;
    upg_error e;
    if (open_folder(&w, path, &e)) fail_msg("%s", e.message);
    const upg_tensor *t = upg_weights_find(&w, "model.layers.0.mlp.down_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->encoding, UPG_BF16);
    assert_int_equal(t->rows, 512);
    assert_int_equal(t->cols, 1792);
    assert_non_null(w.config);
    assert_non_null(w.tokenizer_json);
    upg_weights_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_its_tensors_and_texts),  cmocka_unit_test(unusable_tensors_are_refused_by_name),
        cmocka_unit_test(unsound_texts_are_refused_by_file),  cmocka_unit_test(shards_and_index_must_agree),
        cmocka_unit_test(other_files_are_refused_by_content), cmocka_unit_test(the_small_real_model_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
