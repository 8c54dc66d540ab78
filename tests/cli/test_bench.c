// What bench reads from the machine, and the shapes it makes.
#include "../format/format_helpers.h"
#include "cli/bench.h"
#include "engine/shape.h"

static void write_number(const char *folder, const char *domain, const char *name, const char *value) {
    char path[256], file[64];
    mkdir(path_in(path, folder, domain), 0777);
    snprintf(file, sizeof file, "%s/%s", domain, name);
    write_text(folder, file, value);
}

// Packages are added up, their parts are not, and a counter that starts again loses nothing.
static void packages_are_added_up(void **state) {
    (void)state;
    char folder[64];
    temporary_folder(folder);
    static const char *const domains[] = {"intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl"};
    for (int i = 0; i < 4; i++) {
        write_number(folder, domains[i], "energy_uj", "9000000\n");
        write_number(folder, domains[i], "max_energy_range_uj", "10000000\n");
    }
    bench_energy m;
    bench_energy_open(&m, folder);
    assert_int_equal(m.n, 2);
    assert_true(bench_energy_joules(&m) == 0);
    write_number(folder, "intel-rapl:0", "energy_uj", "9500000\n");
    write_number(folder, "intel-rapl:1", "energy_uj", "2000000\n");
    write_number(folder, "intel-rapl:0:0", "energy_uj", "9900000\n");
    double joules = bench_energy_joules(&m);
    assert_true(joules > 3.49 && joules < 3.51);
    assert_true(bench_energy_joules(&m) == 0);
    remove_folder(folder);
    bench_energy_open(&m, folder);
    assert_int_equal(m.n, 0);
    assert_true(bench_energy_joules(&m) == 0);
}

// Of a weight of the matrices, without row scales.
static double bits(const upg_model *m) {
    double n = 0, weights = 0;
    for (size_t i = 0; i < m->weights.n; i++) {
        const upg_tensor *t = &m->weights.tensors[i];
        if (t->rows == 1) continue;
        n += 8.0 * (double)t->bytes;
        weights += (double)t->rows * (double)t->cols;
    }
    return n / weights;
}

static void check_finite(const upg_model *m) {
    upg_error e = {0};
    bench_profile p;
    assert_int_equal(bench_profile_new(&p, m, 2, 20, 40, &e), 0);
    assert_int_equal(bench_profile_fill(&p, 20, &e), 0);
    assert_int_equal(bench_profile_run(&p, 20, 20, true, &e), 0);
    const float *logits = p.backend->api->logits(p.backend, 0);
    double sum = 0;
    for (int i = 0; i < m->config.vocab_size; i++) sum += (double)logits[i] * logits[i];
    sum /= m->config.vocab_size;
    assert_true(sum > 0.5 && sum < 2); // unit inputs of the head, unit rows: a variance of 1
    bench_profile_free(&p);
}

// The bits asked for are not exceeded, whatever is chosen, and activations stay of unit size.
static void bits_are_not_exceeded_and_activations_are_of_unit_size(void **state) {
    (void)state;
    upg_error e = {0};
    const upg_shape small = {"small", "Phi3ForCausalLM", true, false, 512, 1024, 3, 4, 2, 128, 2048, 512, 10000, 1};
    const double most[] = {3, 3.2, 4, 8};
    double before = 0;
    for (int i = 0; i < 4; i++) {
        upg_model *m = upg_model_of_shape(&small, 0, 0, most[i], &e);
        assert_non_null(m);
        assert_true(bits(m) <= most[i] && bits(m) > before);
        before = bits(m);
        check_finite(m);
        upg_model_free(m);
    }
    upg_model *m = upg_model_of_shape(upg_shape_find("smollm2-135m"), 2, 3, 3.2, &e);
    assert_non_null(m);
    assert_int_equal(upg_weights_find(&m->weights, "model.embed_tokens.weight")->encoding, UPG_INT8);
    assert_int_equal(upg_weights_find(&m->weights, "model.layers.1.mlp.up_proj.weight")->s, 6);
    assert_null(upg_weights_find(&m->weights, "model.layers.2.mlp.up_proj.weight"));
    check_finite(m);
    upg_model_free(m);
    assert_null(upg_shape_find("gpt-5"));
}

// Encodings are those of the whole model, however few of its layers are made.
static void few_layers_have_the_encodings_of_all(void **state) {
    (void)state;
    upg_error e = {0};
    const upg_shape deep = {"deep", "LlamaForCausalLM", false, false, 256, 512, 64, 2, 1, 128, 512, 512, 10000, 1};
    upg_model *one = upg_model_of_shape(&deep, 1, 0, 3.2, &e), *all = upg_model_of_shape(&deep, 0, 0, 3.2, &e);
    assert_true(one && all && one->config.n_layers == 1 && all->config.n_layers == 64);
    for (size_t i = 0; i < one->weights.n; i++) {
        const upg_tensor *t = &one->weights.tensors[i], *same = upg_weights_find(&all->weights, t->name);
        assert_non_null(same);
        assert_true(same->encoding == t->encoding && same->s == t->s && same->bytes == t->bytes);
    }
    upg_model_free(one);
    upg_model_free(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(packages_are_added_up),
                                       cmocka_unit_test(bits_are_not_exceeded_and_activations_are_of_unit_size),
                                       cmocka_unit_test(few_layers_have_the_encodings_of_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
