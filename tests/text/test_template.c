// Chat templates: the bytes and the errors of jinja2 for the templates of known models and for every feature of the
// language; who wrote which byte; limits that hold; refusals that name what they refuse.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include "format/json.h"
#include "text/template.h"

static yyjson_doc *vectors;
static int64_t now;

static int read_vectors(void **state) {
    (void)state;
    vectors = yyjson_read_file("tests/vectors/templates.json", YYJSON_READ_BIGNUM_AS_RAW, NULL, NULL);
    now = yyjson_get_sint(yyjson_obj_get(yyjson_doc_get_root(vectors), "now"));
    return vectors ? 0 : -1;
}

static int free_vectors(void **state) {
    (void)state;
    yyjson_doc_free(vectors);
    return 0;
}

static yyjson_val *part(const char *name) {
    return yyjson_obj_get(yyjson_doc_get_root(vectors), name);
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

// Whether a case gives what jinja2 gave; prints what differs.
static bool check_case(const upg_template *t, const char *name, yyjson_val *expected, yyjson_val *context,
                       upg_error *e) {
    yyjson_val *output = yyjson_obj_get(expected, "output"), *type = yyjson_obj_get(expected, "type");
    upg_template_options o = {.now = &now};
    upg_template_output out = {0};
    size_t n, total = 0;
    char *json = yyjson_val_write(context, 0, &n);
    assert_non_null(json);
    int rc = t ? upg_template_render(t, json, n, &o, &out, e) : -1;
    bool ok = (rc == 0) == (output != NULL);
    if (ok && output) {
        ok = out.text.size == yyjson_get_len(output) && !memcmp(out.text.data, yyjson_get_str(output), out.text.size);
        for (size_t i = 0; i < out.n_runs; i++) {
            total += out.runs[i].length;
            ok = ok && out.runs[i].length && (!i || out.runs[i].from_template != out.runs[i - 1].from_template);
        }
        ok = ok && total == out.text.size;
    } else if (ok && !yyjson_equals_str(type, "other")) {
        ok = ends_with(e->message, yyjson_get_str(yyjson_obj_get(expected, "error")));
    }
    ok = ok && (rc == 0 || (*e->message && !out.text.data && !out.runs));
    if (!ok) {
        print_message("%s\n  context: %.300s\n", name, json);
        if (output)
            print_message("  expected: %s\n", yyjson_get_str(output));
        else
            print_message("  expected error: %s\n", yyjson_get_str(yyjson_obj_get(expected, "error")));
        print_message("  found:    %s\n", rc ? e->message : out.text.data ? out.text.data : "");
    }
    upg_template_output_free(&out);
    free(json);
    return ok;
}

static void test_models(void **state) {
    (void)state;
    size_t i, k, n, m, failed = 0;
    yyjson_val *model, *c;
    assert_true(yyjson_arr_size(part("models")) >= 20);
    yyjson_arr_foreach(part("models"), i, n, model) {
        yyjson_val *text = yyjson_obj_get(model, "template");
        upg_error e = {""};
        upg_template *t = upg_template_parse(yyjson_get_str(text), yyjson_get_len(text), &e);
        if (!t) fail_msg("%s: %s", yyjson_get_str(yyjson_obj_get(model, "name")), e.message);
        yyjson_arr_foreach(yyjson_obj_get(model, "cases"), k, m, c) {
            failed +=
                !check_case(t, yyjson_get_str(yyjson_obj_get(model, "name")), c, yyjson_obj_get(c, "context"), &e);
        }
        upg_template_free(t);
    }
    assert_int_equal(failed, 0);
}

static void test_language(void **state) {
    (void)state;
    size_t i, n, failed = 0;
    yyjson_val *c;
    yyjson_arr_foreach(part("micro"), i, n, c) {
        yyjson_val *text = yyjson_obj_get(c, "template"), *context = yyjson_obj_get(c, "context");
        upg_error e = {""};
        upg_template *t = upg_template_parse(yyjson_get_str(text), yyjson_get_len(text), &e);
        failed += !check_case(t, yyjson_get_str(text), c, context ? context : part("micro_context"), &e);
        upg_template_free(t);
    }
    assert_int_equal(failed, 0);
}

// The output with the context's bytes between braces.
static char *marked(const char *text, const char *json, const upg_template_options *o) {
    upg_error e = {""};
    upg_template *t = upg_template_parse(text, strlen(text), &e);
    if (!t) fail_msg("%s", e.message);
    upg_template_output out;
    upg_buf b = {0};
    if (upg_template_render(t, json, strlen(json), o, &out, &e)) fail_msg("%s", e.message);
    for (size_t i = 0, at = 0; i < out.n_runs; at += out.runs[i++].length) {
        if (!out.runs[i].from_template) upg_buf_str(&b, "{");
        upg_buf_add(&b, out.text.data + at, out.runs[i].length);
        if (!out.runs[i].from_template) upg_buf_str(&b, "}");
    }
    upg_buf_add(&b, "", 0);
    upg_template_output_free(&out);
    upg_template_free(t);
    assert_false(b.failed);
    return b.data;
}

static void test_origin(void **state) {
    (void)state;
    static const char context[] =
        "{\"u\":\" <|im_end|> \",\"l\":[\"a\",\"b\"],\"n\":5,\"bos_token\":\"<s>\",\"d\":{\"role\":\"user\"},"
        "\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"a|><|b\",\"content\":\"<s>\"}]}";
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"<|a|>{{ u }}<|b|>", "<|a|>{ <|im_end|> }<|b|>"},
        {"{{ '<|' + 'a|>' ~ u|trim + '!' }}", "<|a|>{<|im_end|>}!"},
        {"{{ bos_token + u.strip() }}", "<s>{<|im_end|>}"},
        {"{{ u|replace('im', 'x') }}", "{ <|}x{_end|> }"},
        {"{{ (u ~ 'abc')[-4:] }}", "{ }abc"},
        {"{{ (u|trim ~ 'abc')[::-1] }}", "cba{>|dne_mi|<}"},
        {"{{ l|join('-') }}", "{a}-{b}"},
        {"{{ ('x' ~ l[0] ~ 'y')|upper }}", "X{A}Y"},
        {"{{ l|tojson }}{{ ['t', u]|tojson }}", "{[\"a\", \"b\"][\"}t{\", \" <|im_end|> \"]}"},
        {"{{ ['t'] }}", "{['}t{']}"},
        {"{{ 3 }}{{ n }}{{ n + 1 }}{{ l|length }}{{ loop is defined }}", "3{56}2False"},
        {"{% set x %}a{{ u }}b{% endset %}{{ x }}", "a{ <|im_end|> }b"},
        {"{% macro f(z) %}[{{ z }}]{% endmacro %}{{ f(u) }}", "[{ <|im_end|> }]"},
        {"{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", "<|user|>{x}<|{a|><|b}|>{<s>}"},
        {"{{ d.role }}{{ messages[0]['role'] }}", "{user}user"},
        {"{{ '%s/%s' % (u, 'k') }}{{ '{}:{}'.format('q', l[0]) }}", "{ <|im_end|> }/kq:{a}"},
        {"{{ (u ~ '|' ~ u).split('|')[1] }}{{ 'a,b'.split(',')[1] }}", "{im_end}b"},
        {"{% filter upper %}t{{ l[1] }}{% endfilter %}", "T{B}"},
        {"{% for k in d %}{{ k }}{% endfor %}{% for c in ('z' ~ l[0]) %}{{ c }}{% endfor %}", "{role}z{a}"},
        {"{{ ('t\\n' ~ l[0])|indent(1, true) }}{{ '<'|e }}{{ u|e|trim }}", " t\n {a}&lt;{&lt;|im_end|&gt;}"},
        {"{{ u|int }}{{ '7'|int }}{{ (n|string)|int }}", "07{5}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *found = marked(cases[i].text, context, NULL);
        if (strcmp(found, cases[i].expected)) fail_msg("%s: %s, not %s", cases[i].text, found, cases[i].expected);
        free(found);
    }
}

static void test_trusted_paths(void **state) {
    (void)state;
    static const char *const paths[] = {"a", "b.c", "list.*.x"};
    upg_template_options o = {.trusted = paths, .n_trusted = 3};
    static const char json[] =
        "{\"a\":\"<a>\",\"b\":{\"c\":\"word\",\"d\":\"no\"},\"list\":[{\"x\":\"w-1\"},{\"x\":\"<w>\"}],"
        "\"x\":\"top\",\"bos_token\":\"<s>\"}";
    char *found =
        marked("{{ a }} {{ b.c }} {{ b.d }} {{ list[0].x }} {{ list[1].x }} {{ x }} {{ bos_token }}", json, &o);
    assert_string_equal(found, "<a> word {no} w-1 {<w>} {top} {<s>}");
    free(found);
    o.n_trusted = 0;
    found = marked("{{ a }}", json, &o);
    assert_string_equal(found, "{<a>}");
    free(found);
}

static int run(const char *text, size_t n, const char *json, const upg_template_options *o, upg_error *e) {
    upg_template *t = upg_template_parse(text, n, e);
    upg_template_output out = {0};
    int rc = t ? upg_template_render(t, json, strlen(json), o, &out, e) : -1;
    upg_template_output_free(&out);
    upg_template_free(t);
    return rc;
}

static void refused(const char *text, const char *word) {
    upg_error e = {""};
    if (!run(text, strlen(text), "{\"l\":[1],\"s\":\"a\"}", NULL, &e)) fail_msg("%s is not refused", text);
    if (!strstr(e.message, word) || !strstr(e.message, "line ")) fail_msg("%s: %s, not %s", text, e.message, word);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{% include 'x' %}", "include"},
        {"{% extends 'x' %}", "extends"},
        {"{% block b %}{% endblock %}", "block"},
        {"{% import 'x' as y %}", "import"},
        {"{% autoescape true %}{% endautoescape %}", "autoescape"},
        {"{% do x %}", "do"},
        {"{% for x in l recursive %}{{ x }}{% endfor %}", "recursive"},
        {"{% macro m() %}{{ varargs }}{% endmacro %}", "varargs"},
        {"{{ range(*l) }}", "'*'"},
        {"{{ cycler(1) }}", "cycler"},
        {"{{ s|urlize }}", "urlize"},
        {"{{ s|groupby('x') }}", "groupby"},
        {"{{ s.encode() }}", "encode"},
        {"{{ s.zfill(3) }}", "zfill"},
        {"{{ 99999999999999999999 }}", "64 bits"},
        {"{{ 9223372036854775807 + 1 }}", "64 bits"},
        {"{{ {(1, 2): 3} }}", "key"},
        {"{{ '%5d' % 3 }}", "formats"},
        {"{{ '{:>5}'.format(s) }}", "format"},
        {"{{ strftime_now('%Z') }}", "strftime_now"},
        {"{{ '\\N{DASH}' }}", "escape"},
        {"{{ s.upper }}", "printing"},
        {"{{ range }}", "printing"},
        {"{{ l[] }}", "expression"},
        {"{{ \xC3\xA9 }}", "ASCII"},
        {"a\n\n{{ s|nothing }}", "line 3"},
        {"a\n\n{{ l.append(1) }}", "line 3: access to attribute 'append' of 'list' object is unsafe."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(cases[i][0], cases[i][1]);
}

static void test_bad_input(void **state) {
    (void)state;
    upg_error e = {""};
    assert_int_equal(run("\xFF", 1, "{}", NULL, &e), -1);
    assert_int_equal(run("x", 1, "[]", NULL, &e), -1);
    assert_int_equal(run("x", 1, "{", NULL, &e), -1);
    assert_int_equal(run("x", 1, "{\"a\":\"\xFF\"}", NULL, &e), -1);
    assert_int_equal(run("", 0, "{}", NULL, &e), 0);
    assert_int_equal(run("a\0b", 3, "{}", NULL, &e), 0);
}

static void test_limits(void **state) {
    (void)state;
    static const char *const hungry[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for a in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set n = namespace(x=[]) %}{% for a in range(999) %}{% set n.x = [n.x] %}{% endfor %}{{ [n.x] == n.x }}",
        "{{ 'a'|indent('x' * 9999999 * 99999) }}",
        "{% set x = 'a' * 9999999 %}{% for a in range(9999) %}{{ x in x ~ 'b' }}{{ x.rfind('b') }}{% endfor %}",
    };
    upg_error e;
    for (size_t i = 0; i < sizeof hungry / sizeof *hungry; i++) {
        *e.message = 0;
        upg_template_options small = {.limits = {1000000, 1 << 20, 16 << 20, 50}};
        if (!run(hungry[i], strlen(hungry[i]), "{}", &small, &e)) fail_msg("%s is not stopped", hungry[i]);
        if (!run(hungry[i], strlen(hungry[i]), "{}", NULL, &e)) fail_msg("%s is not stopped by default", hungry[i]);
    }
    static const char *const nests[] = {"(", "[", "{1:", "not ", "-", "1 if ", "f(", "1|d(", "l[", "1 is eq ("};
    for (size_t i = 0; i < sizeof nests / sizeof *nests; i++) {
        upg_buf b = {0};
        upg_buf_str(&b, "{{ ");
        for (int k = 0; k < 50000; k++) upg_buf_str(&b, nests[i]);
        assert_int_equal(run(b.data, b.size, "{}", NULL, &e), -1);
        upg_buf_free(&b);
    }
    upg_buf b = {0};
    upg_buf_str(&b, "{\"a\":");
    for (int k = 0; k < 100000; k++) upg_buf_str(&b, "[");
    for (int k = 0; k < 100000; k++) upg_buf_str(&b, "]");
    upg_buf_str(&b, "}");
    assert_int_equal(run("x", 1, b.data, NULL, &e), -1);
    b.size = 0;
    upg_buf_str(&b, "{{ 1");
    for (int k = 0; k < 5000; k++) upg_buf_str(&b, " + 1");
    upg_buf_str(&b, " }}");
    assert_int_equal(run(b.data, b.size, "{}", NULL, &e), -1);
    b.size = 0;
    for (int k = 0; k < 5000; k++) upg_buf_str(&b, "{% if true %}");
    assert_int_equal(run(b.data, b.size, "{}", NULL, &e), -1);
    upg_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),        cmocka_unit_test(test_language), cmocka_unit_test(test_origin),
        cmocka_unit_test(test_trusted_paths), cmocka_unit_test(test_refusals), cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, read_vectors, free_vectors);
}
