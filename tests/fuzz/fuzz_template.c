// Any bytes as a chat template, then a NUL and a JSON context: it is refused with a message, or rendered within its
// limits, the same a second time, with runs that cover the output; and what the context wrote is never said to be the
// template's: an output that only shows a context string is all the context's.
#include <stdlib.h>
#include <string.h>
#include "text/template.h"

static void require(bool truth) {
    if (!truth) abort();
}

static char *copy_text(const uint8_t *data, size_t n) { // of exactly the size, for the sanitizer to guard
    char *s = malloc(n ? n : 1);
    if (s && n) memcpy(s, data, n);
    return s;
}

static void check_runs(const upg_template_output *out) {
    size_t total = 0;
    for (size_t i = 0; i < out->n_runs; i++) {
        require(out->runs[i].length > 0 && (!i || out->runs[i].from_template != out->runs[i - 1].from_template));
        total += out->runs[i].length;
    }
    require(total == out->text.size);
}

// Names that the context alone has in its strings: no template text below spells them, so they must not be trusted.
static void check_origin(const upg_template_output *out) {
    static const char secret[] = "\x01user\x02";
    size_t at = 0;
    for (size_t i = 0; i < out->n_runs; at += out->runs[i++].length)
        if (out->runs[i].from_template)
            require(!memmem(out->text.data + at, out->runs[i].length, secret, sizeof secret - 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char context[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"\\u0001user\\u0002\"},{\"role\":\"assistant\",\"content\":"
        "\"h\\u00e9\","
        "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,null,true]}}}]}],\"bos_token\":\"<s>"
        "\","
        "\"eos_token\":\"</"
        "s>\",\"add_generation_prompt\":true,\"tools\":[{\"x\":{\"y\":\"\\u0001user\\u0002\"}}],\"n\":3}";
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    const int64_t now = 1700000000;
    upg_template_options o = {.limits = {200000, 1 << 20, 32 << 20, 60}, .now = &now};
    upg_error e = {{0}};
    char *text = copy_text(data, n), *json = nul ? copy_text(nul + 1, size - n - 1) : NULL;
    upg_template *t = text ? upg_template_parse(text, n, &e) : NULL;
    free(text);
    require(t || *e.message);
    upg_template_output a, b;
    const char *with = json ? json : context;
    size_t m = json ? size - n - 1 : sizeof context - 1;
    if (t && !upg_template_render(t, with, m, &o, &a, &e)) {
        check_runs(&a);
        if (!json && !memmem(data, n, "\\", 1) && !memchr(data, 1, n)) check_origin(&a);
        require(!upg_template_render(t, with, m, &o, &b, &e));
        require(a.text.size == b.text.size && a.n_runs == b.n_runs);
        require(!a.text.size || !memcmp(a.text.data, b.text.data, a.text.size));
        upg_template_output_free(&a);
        upg_template_output_free(&b);
    } else if (t) {
        require(*e.message && !a.text.data && !a.runs);
    }
    upg_template_free(t);
    free(json);
    return 0;
}
