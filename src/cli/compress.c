// upg compress: an original model in, a .upg file out.
#include "cli/report.h"
#include "format/json.h"
#include "compress/compress.h"
#include "format/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *out, *name, *plot;
    const char *calibrate; // NULL: not said
    const char *heldout;
    bool json;
    double memory;            // GB
    int sparse_bits;          // 0: 8
    const char *sparse_basis; // or NULL
    upg_compress_options c;
    cli_progress progress;
} options;

// "2.5" -> 5, "8" -> UPG_BITS_INT8.
static int set_bits(const cli_option *o, void *group, const char *text, upg_error *e) {
    static const struct {
        const char *text;
        int bits2;
    } known[] = {{"2", 4}, {"2.5", 5}, {"3", 6}, {"3.5", 7}, {"4", 8}, {"8", UPG_BITS_INT8}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(text, known[i].text)) {
            *(int *)((char *)group + o->offset) = known[i].bits2;
            return 0;
        }
    return upg_fail(e, "--%s %s: one of 2, 2.5, 3, 3.5, 4, 8", o->name, text);
}

static int set_encoding(const cli_option *o, void *group, const char *text, upg_error *e) {
    upg_compress_options *c = &((options *)group)->c;
    if (!strcmp(text, "trellis")) return 0;
    if (!strcmp(text, "sparse")) {
        c->layer_bits = UPG_BITS_SPARSE;
        c->embedding_bits = c->head_bits = UPG_BITS_INT8;
        return 0;
    }
    if (strcmp(text, "int8")) return upg_fail(e, "--%s %s: trellis, int8 or sparse", o->name, text);
    c->layer_bits = c->embedding_bits = c->head_bits = UPG_BITS_INT8;
    return 0;
}

static int set_effort(const cli_option *o, void *group, const char *text, upg_error *e) {
    static const char *const names[] = {
        [UPG_EFFORT_NORMAL] = "normal", [UPG_EFFORT_FAST] = "fast", [UPG_EFFORT_BEST] = "best"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(text, names[i])) {
            ((options *)group)->c.effort = (upg_effort)i;
            return 0;
        }
    return upg_fail(e, "--%s %s: fast, normal or best", o->name, text);
}

// What a text option means: a file, "default" or "none".
static const char *text_of(const char *text) {
    return !strcmp(text, "none") ? NULL : !strcmp(text, "default") ? UPG_TEXT_DEFAULT : text;
}

static int set_sparse_bits(const cli_option *o, void *group, const char *text, upg_error *e) {
    if (strcmp(text, "4") && strcmp(text, "8")) return upg_fail(e, "--%s %s: 4 or 8", o->name, text);
    ((options *)group)->sparse_bits = *text - '0';
    return 0;
}

static int set_sparse_basis(const cli_option *o, void *group, const char *text, upg_error *e) {
    if (strcmp(text, "rotated") && strcmp(text, "plain"))
        return upg_fail(e, "--%s %s: rotated or plain", o->name, text);
    ((options *)group)->sparse_basis = text;
    return 0;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"output", 'o', "FILE", "the .upg file to write", CLI_STRING, AT(out)},
    {"name", 0, "NAME", "or: keep it in the models folder under this name (upg list)", CLI_STRING, AT(name)},
    {"ratio", 0, "R", "file at most 1/R of the FP32 size (default 10)", CLI_DOUBLE, AT(c.ratio), 1, 100},
    {"bits", 0, "B", "file at most B bits a parameter, everything included", CLI_DOUBLE, AT(c.bits), 0.1, 32},
    {"layer-bits", 0, "K", "bits of every layer matrix: 2, 2.5, 3, 3.5, 4, or 8 (int8)", CLI_SET, AT(c.layer_bits),
     .set = set_bits},
    {"embedding-bits", 0, "K", "bits of the embedding", CLI_SET, AT(c.embedding_bits), .set = set_bits},
    {"head-bits", 0, "K", "bits of the head, or of the embedding that serves as one", CLI_SET, AT(c.head_bits),
     .set = set_bits},
    {"encoding", 0, "E",
     "trellis (default), int8 (every matrix; near-lossless) or sparse (layers; half of the weights)", CLI_SET,
     .set = set_encoding},
    {"sparse-bits", 0, "B", "bits of a weight that a sparse matrix keeps: 8 (default) or 4", CLI_SET,
     .set = set_sparse_bits},
    {"sparse-basis", 0, "B", "rotated or plain (default: plain if calibrated, else rotated)", CLI_SET,
     .set = set_sparse_basis},
    {"effort", 0, "E", "fast, normal (default) or best: see below", CLI_SET, .set = set_effort},
    {"calibrate", 0, "FILE", "text the layers are fitted to: a file, FILE.u16 of 16-bit token ids, default or none",
     CLI_STRING, AT(calibrate)},
    {"calibration-tokens", 0, "N", "of it at most", CLI_INT, AT(c.calibration_tokens), 256, 1 << 30},
    {"heldout", 0, "FILE", "text the result is measured on, likewise; none skips it", CLI_STRING, AT(heldout)},
    {"heldout-tokens", 0, "N", "of it at most", CLI_INT, AT(c.heldout_tokens), 1, 1 << 30},
    {"memory", 0, "GB", "refuse to begin if more would be needed", CLI_DOUBLE, AT(memory), 0.1, 1e6},
    {"exact", 0, NULL, "exact trellis search, as with best", CLI_FLAG, AT(c.exact_search)},
    {"plot", 0, "OUT.svg", "draw bits and errors by layer", CLI_SET, AT(plot), .set = cli_plot_option},
    {"seed", 0, "N", "seed of the rotation's signs (default 1)", CLI_SEED, AT(c.rotation_seed)},
    {"threads", 't', "N", "default: one a core", CLI_INT, AT(c.n_threads), 1, 1024},
    {"json", 0, NULL, "print the result as JSON", CLI_FLAG, AT(json)},
    {"quiet", 'q', NULL, "no progress", CLI_FLAG, AT(progress.quiet)},
    {0}};

// Options that exclude or need each other; -1 if all is well.
static int check(options *o) {
    if (!o->out == !o->name) return cli_usage(&cli_compress, "give one of -o FILE and --name NAME");
    if ((o->c.ratio > 0) + (o->c.bits > 0) + (o->c.layer_bits > 0) > 1 && !(o->c.layer_bits == UPG_BITS_INT8))
        return cli_usage(&cli_compress, "--ratio, --bits and --layer-bits exclude each other");
    // With int8 everywhere there is nothing to fit.
    bool int8 =
        o->c.layer_bits == UPG_BITS_INT8 && o->c.embedding_bits == UPG_BITS_INT8 && o->c.head_bits == UPG_BITS_INT8;
    o->c.calibration = text_of(o->calibrate ? o->calibrate : int8 ? "none" : "default");
    o->c.heldout = text_of(o->heldout);
    bool sparse = o->c.layer_bits == UPG_BITS_SPARSE;
    if (!sparse && (o->sparse_bits || o->sparse_basis))
        return cli_usage(&cli_compress, "--sparse-bits and --sparse-basis belong to --encoding sparse");
    if (sparse) o->c.layer_bits |= o->sparse_bits ? o->sparse_bits : 8;
    if (sparse && (o->sparse_basis ? !strcmp(o->sparse_basis, "rotated") : !o->c.calibration))
        o->c.layer_bits |= UPG_BITS_ROTATED;
    if (!o->c.ratio && !o->c.bits && !o->c.layer_bits) o->c.ratio = 10;
    o->c.memory = o->memory * 1e9;
    return -1;
}

static bool on_progress(void *ctx, double done, const char *tensor) {
    cli_progress_show(ctx, done, tensor);
    return cli_interrupted;
}

static const char *bits_name(int bits2) {
    static const char *const names[] = {"2", "2.5", "3", "3.5", "4"};
    if (bits2 & UPG_BITS_SPARSE) return bits2 & 8 ? "sparse 8" : "sparse 4";
    return bits2 == UPG_BITS_INT8 ? "int8" : bits2 ? names[bits2 - 4] : "as is";
}

static void print_json(const upg_compress_result *r) {
    upg_buf b = {0};
    upg_buf_fmt(&b,
                "{\"parameters\":%llu,\"bytes\":%llu,\"ratio\":%.4f,\"bits_per_parameter\":%.4f,"
                "\"calibration_tokens\":%d,\"measured_bits\":%s,\"seconds\":%.2f,\"peak_memory\":%zu,",
                (unsigned long long)r->parameters, (unsigned long long)r->bytes,
                4.0 * (double)r->parameters / (double)r->bytes, 8.0 * (double)r->bytes / (double)r->parameters,
                r->calibration_tokens, r->measured ? "true" : "false", r->seconds, r->peak_memory);
    if (r->heldout_tokens)
        upg_buf_fmt(&b,
                    "\"heldout\":{\"tokens\":%d,\"original_nll\":%.6f,\"nll\":%.6f,\"ppl\":%.5f,\"kl\":%.6f,"
                    "\"top1\":%.5f},",
                    r->heldout_tokens, r->original_nll, r->nll, exp(r->nll), r->kl, r->top1);
    upg_buf_str(&b, "\"device\":");
    upg_json_quote(&b, r->device, strlen(r->device));
    upg_buf_str(&b, ",\"tensors\":[");
    for (size_t i = 0; i < r->n; i++) {
        upg_buf_str(&b, i ? ",{\"name\":" : "{\"name\":");
        upg_json_quote(&b, r->tensors[i].name, strlen(r->tensors[i].name));
        upg_buf_fmt(&b, ",\"bits\":\"%s\",\"error\":%.6g}", bits_name(r->tensors[i].bits2), r->tensors[i].error);
    }
    upg_buf_str(&b, "]}\n");
    fputs(b.data ? b.data : "", stdout);
    upg_buf_free(&b);
}

// The report as the file keeps it, which inspect --report shows again, and what no file may hold.
static int show(const options *o, const char *out, const upg_compress_result *r, upg_error *e) {
    char memory[32];
    upg_weights w;
    cli_report report = {0};
    if (upg_weights_open(&w, out, e)) return -1;
    int rc = cli_report_read(&report, &w, out, e);
    if (!rc && o->json)
        print_json(r);
    else if (!rc) {
        cli_report_print(&report);
        printf("%.1f s%s on %s, %s of memory at most\n", r->seconds, r->resumed ? " after an earlier start" : "",
               r->device, cli_bytes((double)r->peak_memory, memory));
    }
    if (!rc && o->plot) rc = cli_plot_write(&report, o->plot, e);
    cli_report_free(&report);
    upg_weights_close(&w);
    return rc;
}

static int run(int argc, char **argv) {
    options o = {.heldout = "default", .c = {.rotation_seed = 1}};
    const char *args[1];
    int status = cli_parse(&cli_compress, argc, argv, &o, args);
    if (status < 0) status = check(&o);
    if (status >= 0) return status;
    o.c.progress = on_progress;
    o.c.progress_ctx = &o.progress;
    cli_catch_interrupt(false);
    upg_error e = {0};
    upg_compress_result r;
    char *source = cli_model_path(args[0], &e);
    char *out = !source ? NULL : o.out ? upg_strdup(o.out, strlen(o.out), &e) : cli_new_model_path(o.name, &e);
    int rc = out ? upg_compress(source, out, &o.c, &r, &e) : -1;
    cli_progress_end(&o.progress);
    if (rc) {
        status = cli_failed(&e);
        if (cli_interrupted) status = CLI_INTERRUPTED;
    } else {
        status = show(&o, out, &r, &e) ? cli_failed(&e) : CLI_OK;
        upg_compress_result_free(&r);
    }
    free(source);
    free(out);
    return status;
}

const cli_verb cli_compress = {
    .name = "compress",
    .summary = "turn an original model into a .upg file",
    .arguments = "SRC (-o FILE | --name NAME) [OPTIONS]",
    .about =
        "SRC is a folder with config.json and safetensors (one file or shards), or a GGUF file. FILE appears only\n"
        "when it is whole; until then FILE.partial keeps what is done, and the same command goes on with it. Bits "
        "that\n"
        "no option fixes are chosen by their measured effect on the model's answers, so that the file meets the "
        "ratio.\n"
        "The file is the same for any number of threads.\n"
        "\n"
        "--effort fast    8192 tokens of calibration, bits by a model of the code's errors\n"
        "         normal  32768 tokens, bits by measured sensitivity (2048 tokens)\n"
        "         best    131072 tokens, sensitivity by 8192, exact search\n",
    .devices = true,
    .groups = {{table, 0}},
    .min_args = 1,
    .max_args = 1,
    .run = run};
