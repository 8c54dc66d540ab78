// Reports are read as what a stranger may have written: each key of the right kind or missing, else one line that names
// it. A picture is well-formed whatever names say, has a marker for every matrix, and no NaN. Progress.
#include "../format/format_helpers.h"
#include "cli/report.h"
#include <math.h>

static char folder[64];

static int setup(void **state) {
    (void)state;
    temporary_folder(folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

// Reads the report of a small model that has two coded matrices and 626 parameters: 561 + 60 + 5.
static int read_with(const char *report, cli_report *r, upg_weights *w, upg_error *e) {
    char path[256];
    path_in(path, folder, "m.upg");
    write_model(path, small_model, COUNT(small_model), report, report ? strlen(report) : 0);
    if (upg_weights_open(w, path, e)) fail_msg("%s", e->message);
    int rc = cli_report_read(r, w, "m.upg", e);
    if (rc) upg_weights_close(w);
    return rc;
}

#define HELDOUT "\"heldout\":{\"tokens\":9,\"original_nll\":1.5,\"nll\":2,\"kl\":0.25,\"top1\":0.5"

static void what_is_missing_is_unknown(void **state) {
    (void)state;
    static const struct {
        const char *json;
        bool errors;
        int calibration, measured, heldout;
    } cases[] = {
        {NULL, false, -1, -1, 0},
        {"{}", false, -1, -1, 0},
        {"{\"fp32_bytes\":1,\"calibration\":\"none\",\"errors\":[0.5,0.25,0.5,0.5]}", false, -1, -1, 0},
        {"{\"measured_bits\":true,\"errors\":[0,0.25,0.5,0.5]}", true, -1, 1, 0},
        {"{\"measured_bits\":false,\"calibration_tokens\":0,\"later\":[{}]}", false, 0, 0, 0},
        {"{\"parameters\":1287,\"calibration_tokens\":2147483647," HELDOUT ",\"ppl\":7.4}}", false, INT32_MAX, -1, 9},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_weights w;
        cli_report r;
        upg_error e = {""};
        if (read_with(cases[i].json, &r, &w, &e)) fail_msg("case %zu: %s", i, e.message);
        assert_int_equal(r.present, cases[i].json != NULL);
        assert_int_equal(r.n, 4);
        assert_int_equal(r.has_errors, cases[i].errors);
        assert_int_equal(r.calibration_tokens, cases[i].calibration);
        assert_int_equal(r.measured_bits, cases[i].measured);
        assert_int_equal(r.heldout_tokens, cases[i].heldout);
        assert_true(r.matrices[1].error == (cases[i].errors ? .25 : CLI_UNKNOWN));
        cli_report_free(&r);
        upg_weights_close(&w);
    }
}

static void what_is_wrong_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json, *reason;
    } cases[] = {
        {"{\"parameters\":627}", "parameters is 627, but the file has 1287"},
        {"{\"bytes\":1}", "bytes is 1, but the file has"},
        {"{\"bytes\":\"1\"}", "bytes is not a number"},
        {"{\"bytes\":-1}", "bytes is not a number"},
        {"{\"calibration_tokens\":-1}", "calibration_tokens is not a whole number"},
        {"{\"calibration_tokens\":1.5}", "calibration_tokens is not a whole number"},
        {"{\"calibration_tokens\":2147483648}", "calibration_tokens is not a whole number"},
        {"{\"calibration_tokens\":null}", "calibration_tokens is not a whole number"},
        {"{\"measured_bits\":1}", "measured_bits is not true or false"},
        {"{\"errors\":{}}", "errors is not an array"},
        {"{\"errors\":[]}", "0 errors, but the file has 4 coded matrices"},
        {"{\"errors\":[0.1,0.1,0.1]}", "3 errors, but the file has 4 coded matrices"},
        {"{\"errors\":[0.1,\"0.1\",0.1,0.1]}", "errors[1] is not a number"},
        {"{\"errors\":[-0.1,0.1,0.1,0.1]}", "errors[0] is not a number"},
        {"{\"errors\":[1e10,0.1,0.1,0.1]}", "errors[0] is not a number"},
        {"{\"errors\":[1e999,0.1,0.1,0.1]}", "report"},
        {"{\"errors\":[[],0.1,0.1,0.1]}", "errors[0] is not a number"},
        {"{\"heldout\":[]}", "heldout is not an object"},
        {"{\"heldout\":{}}", "heldout has no tokens"},
        {"{" HELDOUT ",\"kl\":1}}", "duplicate key 'kl'"},
        {"{" HELDOUT ",\"ppl\":\"\"}}", "ppl is not a number"},
        {"{\"heldout\":{\"tokens\":9,\"original_nll\":1.5,\"nll\":2,\"kl\":0.25}}", "heldout has no top1"},
        {"{\"heldout\":{\"tokens\":9,\"original_nll\":1.5,\"nll\":2,\"kl\":0.25,\"top1\":1.5}}",
         "top1 is not a number"},
        {"{\"heldout\":{\"tokens\":9,\"original_nll\":1.5,\"nll\":1e300,\"kl\":0,\"top1\":1}}", "nll is not a number"},
        {"{\"heldout\":{\"tokens\":-9,\"original_nll\":1.5,\"nll\":2,\"kl\":0,\"top1\":1}}", "tokens is not a whole"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        upg_weights w;
        cli_report r;
        upg_error e = {""};
        if (!read_with(cases[i].json, &r, &w, &e)) fail_msg("taken: %s", cases[i].json);
        assert_message(e, cases[i].reason);
        assert_null(strchr(e.message, '\n'));
    }
}

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (; (text = strstr(text, part)); text++) n++;
    return n;
}

// Whatever names, layers and errors there are: every matrix once a panel, nothing but well-formed XML of finite
// numbers.
static void pictures_survive_hostile_models(void **state) {
    (void)state;
    enum { N = 60 };
    static char names[N][128];
    upg_tensor tensors[N];
    cli_report_matrix matrices[N];
    static const double errors[] = {0, 5e-324, 1e-300, 1e9, .02, .02, 1};
    for (int i = 0; i < N; i++) {
        const char *odd = i % 3 ? "a<b>&\"'\001\033[2J\302\205\355\240\200\357\277\276\377" : "q_proj";
        snprintf(names[i], sizeof names[i], i % 5 ? "model.layers.%d.x.%s%d.weight" : "%d</title>%s%d",
                 i % 7 ? i : 999999, odd, i);
        tensors[i] =
            (upg_tensor){.name = names[i], .encoding = i % 2 ? UPG_INT8 : UPG_TRELLIS, .s = i % 2 ? 0 : 4 + i % 5};
        matrices[i] = (cli_report_matrix){&tensors[i], errors[(size_t)i % COUNT(errors)]};
    }
    for (int n = 0; n <= N; n += n < 4 ? 1 : 14)
        for (int recorded = 0; recorded < 2; recorded++) {
            cli_report r = {.name = "x/<&>\377\001.upg",
                            .matrices = matrices,
                            .n = (size_t)n,
                            .parameters = 10,
                            .bytes = 4,
                            .present = true,
                            .has_errors = recorded,
                            .heldout_tokens = 4,
                            .kl = .5,
                            .nll = 1e30};
            char path[256], command[600];
            upg_error e = {""};
            path_in(path, folder, "p.svg");
            if (cli_plot_write(&r, path, &e)) fail_msg("%s", e.message);
            upg_buf b = read_image(path);
            upg_buf_add(&b, "", 1);
            assert_int_equal(count(b.data, "class=\"bits "), n);
            assert_int_equal(count(b.data, "class=\"error "), recorded ? n : 0);
            assert_int_equal(count(b.data, "nan") + count(b.data, "Minf") + count(b.data, "-inf"), 0);
            assert_int_equal(count(b.data, "\001") + count(b.data, "\033") + count(b.data, "\377"), 0);
            upg_buf_free(&b);
            snprintf(command, sizeof command, "! command -v xmllint >/dev/null || xmllint --noout %s", path);
            assert_int_equal(system(command), 0);
        }
    upg_error e = {""};
    assert_int_equal(cli_plot_write(&(cli_report){.name = "x", .parameters = 1, .bytes = 1}, "/no/such.svg", &e), -1);
    assert_message(e, "/no/such.svg: No such file");
}

static void durations(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0 s"},         {59.4, "59 s"},         {59.6, "1 m 00 s"},
                 {750, "12 m 30 s"}, {3599.7, "1 h 00 m"},   {3900, "1 h 05 m"},
                 {1e5, "27 h 46 m"}, {1e300, "8333 h 20 m"}, {HUGE_VAL, "8333 h 20 m"}};
    char out[32];
    for (size_t i = 0; i < COUNT(cases); i++) assert_string_equal(cli_duration(cases[i].seconds, out), cases[i].text);
}

// Time left is that of the present stage's speed, whatever the speed before: a tenth done at once by an earlier run,
// then a slow stage of 1000 s to the middle, then a fast one.
static void time_left_follows_the_stage(void **state) {
    (void)state;
    cli_progress p = {.start = 100, .mark = {{100, 0}, {100, 0}}};
    assert_true(cli_time_left(&p, 100.1, .1) < 0);
    for (int t = 1; t <= 1000; t++) {
        double done = .1 + .4 * t / 1000, left = cli_time_left(&p, 100 + t, done), true_left = (1 - done) / .4 * 1000;
        if (t > 12) assert_true(fabs(left - true_left) < .01 * true_left);
    }
    double left = 0;
    for (int t = 1; t <= 800; t++) left = cli_time_left(&p, 1100 + t, .5 + .4 * t / 800);
    assert_true(fabs(left - 200) < 10);
    assert_true(cli_time_left(&p, 2000, .2) < 0); // work that turns out undone
    assert_true(cli_time_left(&p, 2001, 1) == 0);
}

static void plain_text_steers_no_terminal(void **state) {
    (void)state;
    char out[256], small[6];
    assert_string_equal(cli_plain("h\303\251llo \360\237\246\212", out, sizeof out), "h\303\251llo \360\237\246\212");
    assert_string_equal(cli_plain("a\033[2J\r\n\302\205\342\200\256b\177\377\303", out, sizeof out), "a?[2J????b???");
    assert_string_equal(cli_plain("abcd\303\251", small, sizeof small), "abcd");
    assert_string_equal(cli_plain("abc", small, 1), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_missing_is_unknown),      cmocka_unit_test(what_is_wrong_is_refused_by_name),
        cmocka_unit_test(pictures_survive_hostile_models), cmocka_unit_test(durations),
        cmocka_unit_test(time_left_follows_the_stage),     cmocka_unit_test(plain_text_steers_no_terminal),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
