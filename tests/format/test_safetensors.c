// The safetensors header: what is sound is understood, and anything else is refused with a message that says what is
// wrong.
#include "format_helpers.h"
#include "format/safetensors.h"

// A heap copy of exactly its size, so that a sanitizer sees any read past the end.
static int parse(upg_safetensors *st, const upg_buf *image, size_t size, uint8_t **copy, upg_error *e) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    memcpy(*copy, image->data, size);
    *e = (upg_error){""};
    return upg_safetensors_parse(st, *copy, size, "file", e);
}

static void describes_tensors_in_the_order_of_their_data(void **state) {
    (void)state;
    upg_buf b = make_safetensors("{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                                 "\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
                                 "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[8,8]},"
                                 "\"sub\":{\"data_offsets\":[20,21],\"shape\":[1,2],\"dtype\":\"F4\"}}",
                                 21);
    upg_safetensors st;
    uint8_t *copy;
    upg_error e;
    if (parse(&st, &b, b.size, &copy, &e)) fail_msg("%s", e.message);
    static const char *const names[] = {"a", "none", "b", "sub"};
    assert_int_equal(st.n, 4);
    for (size_t i = 0; i < 4; i++) assert_string_equal(st.entries[i].name, names[i]);
    assert_string_equal(st.entries[2].dtype, "BF16");
    assert_int_equal(st.entries[2].rank, 2);
    assert_int_equal(st.entries[2].shape[0], 2);
    assert_int_equal(st.entries[2].shape[1], 3);
    assert_int_equal(st.entries[2].begin, 8);
    assert_int_equal(st.data[20], 20);
    assert_int_equal(st.data_size, 21);
    assert_string_equal(yyjson_get_str(yyjson_obj_get(st.metadata, "format")), "pt");
    upg_safetensors_close(&st);
    free(copy);
    upg_buf_free(&b);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    upg_buf b = make_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", 12);
    for (size_t n = 0; n < b.size; n++) {
        upg_safetensors st;
        uint8_t *copy;
        upg_error e;
        assert_int_equal(parse(&st, &b, n, &copy, &e), -1);
        assert_true(strlen(e.message) > 5);
        free(copy);
    }
    upg_buf_free(&b);
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static void unsound_headers_are_refused_by_reason(void **state) {
    (void)state;
    static const struct {
        const char *header, *reason;
    } cases[] = {
        {"[]", "no header"},
        {" {}", "no header"},
        {"{", "not valid JSON"},
        {"{}", "tensors end at byte 0"},
        {"{\"a\":" T("F32", "2", "0,8") "} x", "not valid JSON"},
        {"{\"a\":1}", "expected exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "expected exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"dtype\":\"F32\"}}", "expected exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", "expected exactly dtype"},
        {"{\"a\":" T("F33", "2", "0,8") "}", "unknown dtype 'F33'"},
        {"{\"a\":" T("f32", "2", "0,8") "}", "unknown dtype 'f32'"},
        {"{\"a\":" T("F32\\u0000", "2", "0,8") "}", "expected exactly dtype"},
        {"{\"a\":" T("F32", "2", "8") "}", "expected exactly dtype"},
        {"{\"a\":" T("F32", "2", "0,4,8") "}", "expected exactly dtype"},
        {"{\"a\":" T("F32", "-2", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("F32", "2.0", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("F32", "\\\"2\\\"", "0,8") "}", "not valid JSON"},
        {"{\"a\":" T("F32", "9223372036854775808", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("U8", "9223372036854775808,2", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("U8", "4294967296,4294967297,2", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("U8", "99999999999999999999999", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("F4", "15", "0,8") "}", "impossible shape"},
        {"{\"a\":" T("F32", "1", "0,8") "}", "8 bytes, but its shape needs 4"},
        {"{\"a\":" T("F32", "2", "0,8.0") "}", "data_offsets are not integers"},
        {"{\"a\":" T("F32", "2", "-8,0") "}", "data_offsets are not integers"},
        {"{\"a\":" T("F32", "2", "8,0") "}", "outside"},
        {"{\"a\":" T("F32", "4", "0,16") "}", "outside"},
        {"{\"a\":" T("F32", "2", "18446744073709551608,18446744073709551615") "}", "outside"},
        {"{\"a\":" T("F32", "1", "4,8") "}", "a hole"},
        {"{\"a\":" T("F32", "1", "0,4") "}", "tensors end at byte 4"},
        {"{\"a\":" T("F32", "2", "0,8") ",\"b\":" T("F32", "1", "4,8") "}", "tensors overlap"},
        {"{\"a\":" T("F32", "2", "0,8") ",\"b\":" T("F32", "2", "0,8") "}", "tensors overlap"},
        {"{\"a\":" T("U8", "3", "0,3") ",\"b\":" T("F32", "1", "4,8") "}", "a hole"},
        {"{\"a\":" T("F32", "1", "0,4") ",\"a\":" T("F32", "1", "4,8") "}", "duplicate key 'a'"},
        {"{\"a\":" T("F32", "1", "0,4") ",\"\\u0061\":" T("F32", "1", "4,8") "}", "duplicate key 'a'"},
        {"{\"a\\u0000\":" T("F32", "2", "0,8") "}", "NUL"},
        {"{\"\":" T("F32", "2", "0,8") "}", "empty name"},
        {"{\"\xff\":" T("F32", "2", "0,8") "}", "not valid JSON"},
        {"{\"__metadata__\":[],\"a\":" T("F32", "2", "0,8") "}", "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"k\":1},\"a\":" T("F32", "2", "0,8") "}", "key 'k' is not a string"},
        {"{\"__metadata__\":{\"k\":\"\",\"k\":\"\"},\"a\":" T("F32", "2", "0,8") "}", "duplicate key 'k'"},
        {"{\"__metadata__\":{},\"__metadata__\":{},\"a\":" T("F32", "2", "0,8") "}", "duplicate key '__metadata__'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_buf b = make_safetensors(cases[i].header, 8);
        upg_safetensors st;
        uint8_t *copy;
        upg_error e;
        if (!parse(&st, &b, b.size, &copy, &e)) fail_msg("accepted: %s", cases[i].header);
        assert_message(e, cases[i].reason);
        free(copy);
        upg_buf_free(&b);
    }
}

static void header_lengths_beyond_the_file_or_the_limit_are_refused(void **state) {
    (void)state;
    static const uint64_t lengths[] = {0, 65, 100000001, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        upg_buf b = make_safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
        for (int k = 0; k < 8; k++) b.data[k] = (char)(lengths[i] >> 8 * k);
        upg_safetensors st;
        uint8_t *copy;
        upg_error e;
        assert_int_equal(parse(&st, &b, b.size, &copy, &e), -1);
        assert_message(e, "not a .upg or .safetensors file");
        free(copy);
        upg_buf_free(&b);
    }
}

static void deep_nesting_needs_no_stack(void **state) {
    (void)state;
    upg_buf h = {0};
    upg_buf_str(&h, "{\"a\":");
    for (int i = 0; i < 1000000; i++) upg_buf_add(&h, "[", 1);
    for (int i = 0; i < 1000000; i++) upg_buf_add(&h, "]", 1);
    upg_buf_str(&h, "}");
    upg_buf b = make_safetensors(h.data, 0);
    upg_safetensors st;
    uint8_t *copy;
    upg_error e;
    assert_int_equal(parse(&st, &b, b.size, &copy, &e), -1);
    assert_message(e, "tensor 'a': expected exactly dtype");
    free(copy);
    upg_buf_free(&b);
    upg_buf_free(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes_tensors_in_the_order_of_their_data),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(unsound_headers_are_refused_by_reason),
        cmocka_unit_test(header_lengths_beyond_the_file_or_the_limit_are_refused),
        cmocka_unit_test(deep_nesting_needs_no_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
