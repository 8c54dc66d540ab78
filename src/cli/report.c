// The report that a .upg keeps of its compression: read with suspicion, printed as a table. See report.h.
#include "cli/report.h"
#include "format/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Reading ----

// A number within lo..hi; *out stays as it is if the key is missing.
static int read_number(yyjson_val *object, const char *key, double lo, double hi, double *out, const char *file,
                       upg_error *e) {
    yyjson_val *v = yyjson_obj_get(object, key);
    if (!v) return 0;
    double x = yyjson_get_num(v);
    if (!yyjson_is_num(v) || !(x >= lo && x <= hi))
        return upg_fail(e, "%s: report: %s is not a number within %g..%g", file, key, lo, hi);
    *out = x;
    return 0;
}

static int read_count(yyjson_val *object, const char *key, int *out, const char *file, upg_error *e) {
    yyjson_val *v = yyjson_obj_get(object, key);
    if (!v) return 0;
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) > INT32_MAX)
        return upg_fail(e, "%s: report: %s is not a whole number within 0..%d", file, key, INT32_MAX);
    *out = (int)yyjson_get_uint(v);
    return 0;
}

// What the file shows by itself must be what its report says.
static int check_fact(yyjson_val *object, const char *key, double fact, const char *file, upg_error *e) {
    double said = fact;
    if (read_number(object, key, 0, 0x1p53, &said, file, e)) return -1;
    return said == fact ? 0 : upg_fail(e, "%s: report: %s is %.0f, but the file has %.0f", file, key, said, fact);
}

static int read_heldout(cli_report *r, yyjson_val *heldout, upg_error *e) {
    static const char *const keys[] = {"tokens", "original_nll", "nll", "kl", "top1"};
    const double most = 1e39; // beyond the differences of f32 logits
    double ppl = 0;
    if (!heldout) return 0;
    if (!yyjson_is_obj(heldout)) return upg_fail(e, "%s: report: heldout is not an object", r->name);
    if (upg_json_unique_keys(heldout, "report: heldout", e)) return -1;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!yyjson_obj_get(heldout, keys[i])) return upg_fail(e, "%s: report: heldout has no %s", r->name, keys[i]);
    // Divergences are sums of rounded differences, which may end a little below zero.
    return read_count(heldout, "tokens", &r->heldout_tokens, r->name, e) ||
                   read_number(heldout, "original_nll", -1, most, &r->original_nll, r->name, e) ||
                   read_number(heldout, "nll", -1, most, &r->nll, r->name, e) ||
                   read_number(heldout, "ppl", 0, HUGE_VAL, &ppl, r->name, e) ||
                   read_number(heldout, "kl", -1, most, &r->kl, r->name, e) ||
                   read_number(heldout, "top1", 0, 1, &r->top1, r->name, e)
               ? -1
               : 0;
}

// One a matrix, in the order of their names as bytes, which is that of the file's tensors. Reports from before bits
// were measured have them in an order that the file does not tell; their errors count as not recorded.
static int read_errors(cli_report *r, yyjson_val *errors, upg_error *e) {
    size_t i, max;
    yyjson_val *v;
    if (!errors) return 0;
    if (!yyjson_is_arr(errors)) return upg_fail(e, "%s: report: errors is not an array", r->name);
    if (yyjson_arr_size(errors) != r->n)
        return upg_fail(e, "%s: report: %zu errors, but the file has %zu coded matrices", r->name,
                        yyjson_arr_size(errors), r->n);
    yyjson_arr_foreach(errors, i, max, v) {
        double x = yyjson_get_num(v);
        if (!yyjson_is_num(v) || !(x >= 0 && x <= 1e9))
            return upg_fail(e, "%s: report: errors[%zu] is not a number within 0..1e9", r->name, i);
        if (r->measured_bits != CLI_UNKNOWN) r->matrices[i].error = x;
    }
    r->has_errors = r->measured_bits != CLI_UNKNOWN;
    return 0;
}

static int read_report(cli_report *r, yyjson_val *root, upg_error *e) {
    yyjson_val *measured = yyjson_obj_get(root, "measured_bits");
    if (check_fact(root, "parameters", r->parameters, r->name, e) || check_fact(root, "bytes", r->bytes, r->name, e) ||
        read_count(root, "calibration_tokens", &r->calibration_tokens, r->name, e))
        return -1;
    if (measured && !yyjson_is_bool(measured))
        return upg_fail(e, "%s: report: measured_bits is not true or false", r->name);
    if (measured) r->measured_bits = yyjson_get_bool(measured);
    return read_heldout(r, yyjson_obj_get(root, "heldout"), e) || read_errors(r, yyjson_obj_get(root, "errors"), e) ? -1
                                                                                                                    : 0;
}

static int by_name(const void *a, const void *b) {
    const cli_report_matrix *x = a, *y = b;
    int order = strverscmp(x->tensor->name, y->tensor->name);
    return order ? order : strcmp(x->tensor->name, y->tensor->name);
}

int cli_report_read(cli_report *r, const upg_weights *w, const char *name, upg_error *e) {
    *r = (cli_report){.name = name,
                      .parameters = upg_weights_parameters(w),
                      .bytes = (double)w->file_bytes,
                      .calibration_tokens = CLI_UNKNOWN,
                      .measured_bits = CLI_UNKNOWN};
    if (!w->compressed) return upg_fail(e, "%s: an original, and only .upg files have a report", name);
    if (!(r->matrices = upg_alloc(w->n, sizeof *r->matrices, e))) return -1;
    for (size_t i = 0; i < w->n; i++)
        if (upg_encoding_is_coded(w->tensors[i].encoding))
            r->matrices[r->n++] = (cli_report_matrix){&w->tensors[i], CLI_UNKNOWN};
    int rc = 0;
    if (w->report) {
        yyjson_doc *doc = upg_json_object(w->report, strlen(w->report), 0, "report", e);
        rc = doc ? read_report(r, yyjson_doc_get_root(doc), e) : -1;
        yyjson_doc_free(doc);
        r->present = true;
    }
    if (rc)
        cli_report_free(r);
    else
        qsort(r->matrices, r->n, sizeof *r->matrices, by_name);
    return rc;
}

void cli_report_free(cli_report *r) {
    free(r->matrices);
    *r = (cli_report){0};
}

// ---- Showing ----

const char *cli_report_bits(const upg_tensor *t) {
    static const char *const names[] = {[4] = "2", [5] = "2.5", [6] = "3", [7] = "3.5", [8] = "4"};
    if (t->encoding == UPG_SPARSE) return t->s == 8 ? "sparse 8" : "sparse 4";
    return t->encoding == UPG_INT8 ? "int8" : names[t->s];
}

static bool has_trellis(const cli_report *r) {
    for (size_t i = 0; i < r->n; i++)
        if (r->matrices[i].tensor->encoding == UPG_TRELLIS) return true;
    return false;
}

static void print_calibration(const cli_report *r) {
    if (r->calibration_tokens == CLI_UNKNOWN)
        printf("calibration: not recorded\n");
    else if (!r->calibration_tokens)
        printf("not calibrated%s\n",
               has_trellis(r) ? ": expect two to five times the divergence at the same size" : "");
    else
        printf("fitted to %d tokens; bits chosen by %s\n", r->calibration_tokens,
               r->measured_bits == 1   ? "measured sensitivity"
               : r->measured_bits == 0 ? "the options and the code's distortion"
                                       : "a rule that is not recorded");
}

void cli_report_print(const cli_report *r) {
    char a[32], b[32], c[32], name[256];
    printf("%-48s %7s %7s %6s %14s\n", "tensor", "rows", "cols", "bits", "relative error");
    for (size_t i = 0; i < r->n; i++) {
        const upg_tensor *t = r->matrices[i].tensor;
        snprintf(a, sizeof a, r->has_errors ? "%.3g%%" : "-", 100 * r->matrices[i].error);
        printf("%-48s %7lld %7lld %6s %14s\n", cli_plain(t->name, name, sizeof name), (long long)t->rows,
               (long long)t->cols, cli_report_bits(t), a);
    }
    double n = r->parameters, bytes = r->bytes;
    printf("%s: %s, %.2f:1 against FP32 (%s), %.2f:1 against BF16 (%s), %.3f bits a parameter\n",
           cli_plain(r->name, name, sizeof name), cli_bytes(bytes, a), 4 * n / bytes, cli_bytes(4 * n, b),
           2 * n / bytes, cli_bytes(2 * n, c), 8 * bytes / n);
    if (!r->present) {
        printf("no report in this file: errors, calibration and quality are not recorded\n");
        return;
    }
    print_calibration(r);
    if (r->heldout_tokens)
        printf("held-out text, %d tokens: KL %.4f from the original, top-1 agreement %.1f%%, perplexity %.6g (original "
               "%.6g), NLL %.5g (%.5g)\n",
               r->heldout_tokens, r->kl, 100 * r->top1, exp(r->nll), exp(r->original_nll), r->nll, r->original_nll);
    else
        printf("held-out text: not measured\n");
}

void cli_report_summary(const cli_report *r, char out[160]) {
    char fitted[48] = "calibration not recorded";
    if (r->calibration_tokens >= 0) snprintf(fitted, sizeof fitted, "fitted to %d tokens", r->calibration_tokens);
    if (!r->calibration_tokens) snprintf(fitted, sizeof fitted, "not calibrated");
    if (!r->present)
        snprintf(out, 160, "none");
    else if (r->heldout_tokens)
        snprintf(out, 160, "%s; KL %.4g, top-1 %.1f%%, perplexity %.6g (original %.6g); --report shows all", fitted,
                 r->kl, 100 * r->top1, exp(r->nll), exp(r->original_nll));
    else
        snprintf(out, 160, "%s; --report shows all", fitted);
}
