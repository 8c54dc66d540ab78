// upg inspect: what is in a model file, and whether it is intact.
#include "cli/report.h"
#include "format/json.h"
#include "arch/arch.h"
#include "format/ggml.h"
#include <stdlib.h>
#include <string.h>

typedef struct options {
    bool verify, json, report;
    const char *plot;
} options;

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"report", 0, NULL, "the table that compress printed: bits, errors, quality", CLI_FLAG, AT(report)},
    {"plot", 0, "OUT.svg", "draw bits and errors by layer", CLI_SET, AT(plot), .set = cli_plot_option},
    {"verify", 0, NULL, "read every tensor and compare it with its recorded hash", CLI_FLAG, AT(verify)},
    {"json", 0, NULL, "machine-readable, the report included", CLI_FLAG, AT(json)},
    {0}};

static double bits_of(const upg_tensor *t) {
    return 8.0 * (double)t->bytes / ((double)t->rows * (double)t->cols);
}

// Of a GGUF block type its own name.
static const char *plain_name(const upg_tensor *t) {
    return t->encoding == UPG_GGML ? upg_ggml_name(t->ggml_type) : upg_encoding_name(t->encoding);
}

static void encoding_name(const upg_tensor *t, char out[32]) {
    if (t->encoding == UPG_TRELLIS)
        snprintf(out, 32, "trellis %g", t->s / 2.0);
    else if (t->encoding == UPG_SPARSE)
        snprintf(out, 32, "sparse %d%s", t->s, t->unrotated ? "" : " rotated");
    else
        snprintf(out, 32, "%s", plain_name(t));
}

static void print_verified(void) {
    printf("verified       every tensor matches its hash\n");
}

// A report that cannot be read does not keep the rest from being shown.
static void print_summary(const upg_weights *w) {
    upg_error e = {0};
    cli_report r;
    char line[160];
    if (cli_report_read(&r, w, "the file", &e)) {
        printf("report         unreadable: %s\n", e.message);
        return;
    }
    cli_report_summary(&r, line);
    printf("report         %s\n", line);
    cli_report_free(&r);
}

static void print_text(const upg_model *m, bool verified) {
    const upg_weights *w = &m->weights;
    const upg_config *c = &m->config;
    double parameters = upg_weights_parameters(w), bytes = (double)w->file_bytes;
    char a[32], encoding[32], name[256];
    printf("architecture   %s\n", c->arch->name);
    printf("layers         %d of hidden %d, feed-forward %d\n", c->n_layers, c->hidden_size, c->ffn_size);
    printf("attention      %d heads, %d KV heads of %d; %d rotated, theta %g\n", c->n_heads, c->n_kv_heads, c->head_dim,
           c->rotary_dim, c->rope_theta);
    printf("context        %d", c->max_positions);
    if (c->sliding_window) printf(", window %d", c->sliding_window);
    if (c->rope_attention != 0) printf(", longrope beyond %g", c->rope_original);
    printf("\nvocabulary     %d%s, tokenizer %s, chat template %s\n", c->vocab_size,
           c->tied ? ", head tied to the embedding" : "", m->tokenizer ? "included" : "missing",
           w->chat_template ? "included" : "missing");
    printf("\n%-48s %8s %8s  %-16s %7s\n", "tensor", "rows", "cols", "encoding", "bits");
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        encoding_name(t, encoding);
        printf("%-48s %8lld %8lld  %-16s %7.3f\n", cli_plain(t->name, name, sizeof name), (long long)t->rows,
               (long long)t->cols, encoding, bits_of(t));
    }
    printf("\n%s, %.0f parameters, %.3f bits a parameter, %.2f:1 against FP32\n", cli_bytes(bytes, a), parameters,
           8 * bytes / parameters, 4 * parameters / bytes);
    if (w->compressed) print_summary(w);
    if (verified) print_verified();
}

static int print_json(const upg_model *m, bool verified, upg_error *e) {
    const upg_weights *w = &m->weights;
    double parameters = upg_weights_parameters(w), bytes = (double)w->file_bytes;
    upg_buf b = {0};
    upg_buf_str(&b, "{\"config\":");
    if (upg_config_write(&m->config, &b, e)) return -1;
    upg_buf_fmt(&b,
                ",\"bytes\":%.0f,\"parameters\":%.0f,\"bits_per_parameter\":%.4f,\"ratio\":%.4f,\"verified\":%s,"
                "\"report\":%s,\"tensors\":[",
                bytes, parameters, 8 * bytes / parameters, 4 * parameters / bytes, verified ? "true" : "false",
                w->report ? w->report : "null");
    for (size_t i = 0; i < w->n; i++) {
        const upg_tensor *t = &w->tensors[i];
        upg_buf_str(&b, i ? ",{\"name\":" : "{\"name\":");
        upg_json_quote(&b, t->name, strlen(t->name));
        upg_buf_fmt(&b, ",\"rows\":%lld,\"cols\":%lld,\"encoding\":\"%s\",\"bytes\":%zu", (long long)t->rows,
                    (long long)t->cols, plain_name(t), t->bytes);
        if (t->s) upg_buf_fmt(&b, ",\"bits\":%g", t->s / 2.0);
        upg_buf_str(&b, "}");
    }
    upg_buf_str(&b, "]}");
    int rc = upg_buf_check(&b, e);
    if (!rc) puts(b.data);
    upg_buf_free(&b);
    return rc;
}

static int show(const upg_model *m, const char *name, const options *o, upg_error *e) {
    cli_report r = {0};
    int rc = o->report || o->plot ? cli_report_read(&r, &m->weights, name, e) : 0;
    if (!rc && o->json)
        rc = print_json(m, o->verify, e);
    else if (!rc && o->report) {
        cli_report_print(&r);
        if (o->verify) print_verified();
    } else if (!rc)
        print_text(m, o->verify);
    if (!rc && o->plot) rc = cli_plot_write(&r, o->plot, e);
    cli_report_free(&r);
    return rc;
}

static int run(int argc, char **argv) {
    options o = {0};
    const char *args[1];
    int status = cli_parse(&cli_inspect, argc, argv, &o, args), rc = -1;
    if (status >= 0) return status;
    upg_error e = {0};
    char *path = args[0] ? cli_model_path(args[0], &e) : NULL;
    upg_model *m = args[0] && !path ? NULL : cli_open_model(path, &e);
    if (m && o.verify && !m->weights.compressed)
        upg_fail(&e, "--verify needs a .upg file: originals have no hashes");
    else if (m && (!o.verify || !upg_model_verify(m, NULL, NULL, &e)))
        rc = show(m, path ? path : "the default model", &o, &e);
    upg_model_free(m);
    free(path);
    return rc ? cli_failed(&e) : CLI_OK;
}

const cli_verb cli_inspect = {
    .name = "inspect",
    .summary = "show what is in a model file",
    .arguments = "[MODEL] [OPTIONS]",
    .about = "Shows a model's architecture, tensors and sizes, and the report made when it was compressed.\n",
    .groups = {{table, 0}},
    .max_args = 1,
    .run = run};
