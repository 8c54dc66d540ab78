// GGUF's block types against the gguf Python package, value by value (tools/ggml_vectors.py).
#include "format/ggml.h"
#include "format_helpers.h"
#include "yyjson.h"

enum { MANY = 1024, MAX_VALUES = 256, MAX_BYTES = 256 };

// Which NaN a product gives is the processor's choice.
static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return x != x ? 0x7fc00000 : u;
}

static void bytes_of(const char *hex, uint8_t *out) {
    for (; *hex; hex += 2) assert_int_equal(sscanf(hex, "%2hhx", out++), 1);
}

static void chosen_blocks(yyjson_val *c, uint32_t type, int values, int bytes) {
    uint8_t data[5 * MAX_BYTES], wanted[5 * MAX_VALUES * 4];
    float y[5 * MAX_VALUES];
    const char *hex = yyjson_get_str(yyjson_obj_get(c, "hex"));
    assert_int_equal(strlen(hex), 10 * bytes);
    bytes_of(hex, data);
    bytes_of(yyjson_get_str(yyjson_obj_get(c, "bits")), wanted);
    upg_ggml_floats(type, data, 0, 5 * values, y);
    for (int k = 0; k < 5 * values; k++)
        if (bits_of(y[k]) != upg_le32(wanted + 4 * k)) fail_msg("%s: value %d", upg_ggml_name(type), k);
    upg_ggml_floats(type, data, values, values, y); // the second block alone
    for (int k = 0; k < values; k++) assert_int_equal(bits_of(y[k]), upg_le32(wanted + 4 * (values + k)));
}

static void many_blocks(yyjson_val *c, uint32_t type, int values, int bytes) {
    size_t n = (size_t)(MANY * bytes), n_values = (size_t)(MANY * values);
    uint8_t *data = malloc(n + 8);
    float *y = malloc(n_values * sizeof *y);
    assert_true(data && y);
    uint64_t state = type, hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t z = next_random(&state);
        for (int k = 0; k < 8; k++) data[i + (size_t)k] = (uint8_t)(z >> 8 * k);
    }
    upg_ggml_floats(type, data, 0, (int64_t)n_values, y);
    for (size_t i = 0; i < n_values; i++) hash = (hash ^ bits_of(y[i])) * 0x100000001b3u;
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash);
    assert_string_equal(hex, yyjson_get_str(yyjson_obj_get(c, "hash")));
    free(data);
    free(y);
}

static void values_are_those_of_the_gguf_package(void **state) {
    (void)state;
    size_t n, i, max;
    upg_error e;
    char *text = upg_read_text("tests/vectors/ggml.json", 16 << 20, &n, &e);
    assert_non_null(text);
    yyjson_doc *doc = yyjson_read(text, n, 0);
    yyjson_val *c;
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, c) {
        uint32_t type = (uint32_t)yyjson_get_uint(yyjson_obj_get(c, "type"));
        int values = 0, bytes = 0;
        assert_true(upg_ggml_type(type, &values, &bytes));
        assert_string_equal(upg_ggml_name(type), yyjson_get_str(yyjson_obj_get(c, "name")));
        assert_int_equal(values, yyjson_get_int(yyjson_obj_get(c, "values")));
        assert_int_equal(bytes, yyjson_get_int(yyjson_obj_get(c, "bytes")));
        chosen_blocks(c, type, values, bytes);
        many_blocks(c, type, values, bytes);
    }
    int readable = 0, values, bytes;
    for (uint32_t type = 0; type < 100; type++) readable += upg_ggml_type(type, &values, &bytes);
    assert_int_equal(max, readable);
    yyjson_doc_free(doc);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_gguf_package),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
