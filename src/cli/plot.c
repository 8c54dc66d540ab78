// A compression's report as a picture: bits and relative errors by layer, as SVG of nothing but paths and text. Every
// matrix is one marker in each panel (errors only where they are recorded), with its name as the marker's title.
#include "cli/report.h"
#include "cli/svg.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 960, HEIGHT = 620, LEFT = 64, RIGHT = 800, EXTRA = 64, MAX_SERIES = 16, LABEL = 24 };

typedef struct panel {
    double top, bottom; // in the picture
    double lo, hi;      // of the values
} panel;

// Where a matrix stands: the embedding before the layers, the head and what is neither behind them.
typedef enum place { EMBEDDING, LAYER, HEAD, OTHER, PLACES } place;

typedef struct point {
    place place;
    int layer;
    size_t series;
    double bits, error; // error: log10 of percent; NAN if not recorded
} point;

typedef struct plot {
    const cli_report *report;
    point *points;                  // [report->n]
    char labels[MAX_SERIES][LABEL]; // of series: matrices of one kind
    size_t n_series, n_kinds;       // kinds of layers come first
    bool used[PLACES];
    int first, last;   // layers
    double begin, end; // of the layers' part of the picture
    panel bits, error;
    upg_buf svg;
} plot;

#define COUNT(a) (sizeof(a) / sizeof *(a))

// ---- What there is to draw ----

// The series of that label; when there are too many kinds, the last one takes what is left.
static size_t series_of(plot *p, const char *label) {
    size_t i = 0;
    while (i < p->n_series && strcmp(p->labels[i], label)) i++;
    if (i == MAX_SERIES) return MAX_SERIES - 1;
    if (i == p->n_series) snprintf(p->labels[p->n_series++], LABEL, "%s", i < MAX_SERIES - 1 ? label : "others");
    return i;
}

// The layer of model.layers.N.REST, with REST in *rest; -1 if the name is not like that.
static int layer_of(const char *name, const char **rest) {
    static const char prefix[] = "model.layers.";
    if (strncmp(name, prefix, sizeof prefix - 1)) return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t n = strspn(digits, "0123456789");
    if (!n || n > 6 || digits[n] != '.') return -1;
    *rest = digits + n + 1;
    return atoi(digits);
}

// model.layers.3.mlp.down_proj.weight is of kind "down".
static void kind_of(const char *rest, char label[LABEL]) {
    static const char *const endings[] = {".weight", "_proj"};
    char kind[256];
    cli_plain(rest, kind, sizeof kind);
    for (size_t i = 0; i < COUNT(endings); i++) {
        size_t n = strlen(kind), m = strlen(endings[i]);
        if (n > m && !strcmp(kind + n - m, endings[i])) kind[n - m] = 0;
    }
    const char *dot = strrchr(kind, '.');
    cli_plain(dot ? dot + 1 : kind, label, LABEL);
}

static void place_matrix(plot *p, point *at, const cli_report_matrix *m) {
    static const char *const labels[] = {[EMBEDDING] = "embedding", [HEAD] = "head", [OTHER] = "other"};
    const char *name = m->tensor->name, *rest;
    char label[LABEL];
    *at = (point){.layer = layer_of(name, &rest)};
    at->place = at->layer >= 0                               ? LAYER
                : !strcmp(name, "model.embed_tokens.weight") ? EMBEDDING
                : !strcmp(name, "lm_head.weight")            ? HEAD
                                                             : OTHER;
    if (at->place == LAYER) {
        kind_of(rest, label);
        if (!p->used[LAYER] || at->layer < p->first) p->first = at->layer;
        if (!p->used[LAYER] || at->layer > p->last) p->last = at->layer;
    }
    at->series = series_of(p, at->place == LAYER ? label : labels[at->place]);
    const upg_tensor *t = m->tensor;
    at->bits = t->encoding == UPG_INT8      ? 8
               : t->encoding == UPG_TRELLIS ? t->s / 2.0
                                            : 8.0 * (double)t->bytes / ((double)t->rows * (double)t->cols);
    at->error = p->report->has_errors ? log10(m->error) + 2 : NAN;
    p->used[at->place] = true;
}

static const double steps[] = {1, 2, 5};

// The error panel reaches from one of 1, 2, 5, 10, ... percent to another. Errors of zero lie on its bottom.
static void range_of_errors(plot *p) {
    double least = HUGE_VAL, most = -HUGE_VAL;
    for (size_t i = 0; i < p->report->n; i++)
        if (isfinite(p->points[i].error)) {
            least = fmin(least, p->points[i].error);
            most = fmax(most, p->points[i].error);
        }
    if (least > most) least = most = 0;
    p->error.lo = floor(least);
    p->error.hi = ceil(most);
    for (size_t i = 1; i < COUNT(steps); i++) {
        double lo = floor(least) + log10(steps[i]), hi = ceil(most) - 1 + log10(steps[COUNT(steps) - i]);
        if (lo <= least) p->error.lo = lo;
        if (hi >= most) p->error.hi = hi;
    }
    if (p->error.hi - p->error.lo < 0.2) p->error.hi = p->error.lo + 0.5;
    for (size_t i = 0; i < p->report->n; i++)
        if (p->points[i].error < p->error.lo) p->points[i].error = p->error.lo;
}

static int arrange(plot *p, upg_error *e) {
    const cli_report *r = p->report;
    if (!(p->points = upg_alloc(r->n + 1, sizeof *p->points, e))) return -1;
    bool int8 = false;
    for (int layers = 1; layers >= 0; layers--) {
        const char *rest;
        for (size_t i = 0; i < r->n; i++)
            if ((layer_of(r->matrices[i].tensor->name, &rest) >= 0) == layers)
                place_matrix(p, &p->points[i], &r->matrices[i]);
        if (layers) p->n_kinds = p->n_series;
    }
    for (size_t i = 0; i < r->n; i++) int8 |= p->points[i].bits > 4;
    p->bits = (panel){84, 308, 1.5, int8 ? 8.5 : 4.5};
    p->error = (panel){344, 568, 0, 0};
    range_of_errors(p);
    p->begin = LEFT + (p->used[EMBEDDING] ? EXTRA : 0);
    p->end = RIGHT - EXTRA * (p->used[HEAD] + p->used[OTHER]);
    return 0;
}

// ---- Drawing ----

static double y_of(const panel *p, double value) {
    return p->bottom - (p->bottom - p->top) * (value - p->lo) / (p->hi - p->lo);
}

static double layer_x(const plot *p, int layer) {
    return p->begin + (p->end - p->begin) * (layer - p->first + .5) / (p->last - p->first + 1);
}

// Series stand side by side in their layer, so that equal values hide none.
static double x_of(const plot *p, const point *at) {
    if (at->place == EMBEDDING) return LEFT + EXTRA / 2.0;
    if (at->place == HEAD) return p->end + EXTRA / 2.0;
    if (at->place == OTHER) return RIGHT - EXTRA / 2.0;
    double slot = (p->end - p->begin) / (p->last - p->first + 1), n = (double)p->n_kinds;
    return layer_x(p, at->layer) + fmin(8, .7 * slot / n) * ((double)at->series - (n - 1) / 2);
}

static void add_title(plot *p) {
    const cli_report *r = p->report;
    upg_buf *b = &p->svg;
    const char *slash = strrchr(r->name, '/');
    char name[61], size[32];
    cli_plain(slash ? slash + 1 : r->name, name, sizeof name);
    upg_buf_fmt(b, "<text class=\"h\" x=\"%d\" y=\"28\">", LEFT);
    cli_svg_text(b, name);
    upg_buf_fmt(b, ": %.2f:1 against FP32", 4 * r->parameters / r->bytes);
    if (r->heldout_tokens) upg_buf_fmt(b, ", KL %.4g", r->kl);
    upg_buf_fmt(b, "</text>\n<text class=\"d\" x=\"%d\" y=\"48\">%s, %.3f bits a parameter", LEFT,
                cli_bytes(r->bytes, size), 8 * r->bytes / r->parameters);
    if (r->calibration_tokens > 0) upg_buf_fmt(b, ", fitted to %d tokens", r->calibration_tokens);
    if (!r->calibration_tokens) upg_buf_str(b, ", not calibrated");
    if (r->heldout_tokens)
        upg_buf_fmt(b, "; on held-out text top-1 agreement %.1f%%, perplexity %.6g (original %.6g)", 100 * r->top1,
                    exp(r->nll), exp(r->original_nll));
    upg_buf_str(b, "</text>\n");
}

static void add_tick(plot *p, const panel *at, double value, const char *label) {
    double y = y_of(at, value);
    upg_buf_fmt(&p->svg, "<path class=\"g\" d=\"M%d %.1fH%d\"/>\n", LEFT, y, RIGHT);
    if (*label)
        upg_buf_fmt(&p->svg, "<text class=\"d\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT - 8, y + 4,
                    label);
}

static void add_frame(plot *p, const panel *at, const char *label) {
    upg_buf_fmt(&p->svg, "<path class=\"f\" d=\"M%d %.1fH%dV%.1fH%dz\"/>\n<text x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT,
                at->top, RIGHT, at->bottom, LEFT, LEFT, at->top - 8, label);
}

static void add_bits_axis(plot *p) {
    char label[16];
    for (int bits2 = 4; bits2 <= (p->bits.hi > 8 ? 16 : 8); bits2++) {
        if (bits2 > 8 && bits2 % 2) continue;
        snprintf(label, sizeof label, bits2 == 16 ? "int8" : "%g", bits2 / 2.0);
        add_tick(p, &p->bits, bits2 / 2.0, label);
    }
    add_frame(p, &p->bits, "bits a weight");
}

static void add_error_axis(plot *p) {
    const double lo = p->error.lo - 1e-6, hi = p->error.hi + 1e-6;
    bool fine = hi - lo < 3;
    int every = (int)ceil((hi - lo) / 8);
    for (int k = (int)floor(lo); k <= (int)ceil(hi) && p->report->has_errors; k++)
        for (size_t i = 0; i < (fine ? COUNT(steps) : 1); i++) {
            double value = k + log10(steps[i]);
            char label[32];
            if (value < lo || value > hi || k % every) continue;
            snprintf(label, sizeof label, abs(k) <= 4 ? "%g%%" : "%.0e%%", steps[i] * pow(10, k));
            add_tick(p, &p->error, value, label);
        }
    if (!p->report->has_errors)
        upg_buf_fmt(&p->svg,
                    "<text class=\"d\" x=\"%d\" y=\"%.1f\" text-anchor=\"middle\">not recorded in this file</text>\n",
                    (LEFT + RIGHT) / 2, (p->error.top + p->error.bottom) / 2);
    add_frame(p, &p->error, "relative error |W - W\342\200\262|\302\262 / |W|\302\262, log scale");
}

static void add_x_label(plot *p, double x, const char *label) {
    upg_buf_fmt(&p->svg, "<text class=\"d\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x,
                p->error.bottom + 18, label);
}

static void add_layer_axis(plot *p) {
    char label[16];
    int every = 1;
    if (p->used[EMBEDDING]) add_x_label(p, LEFT + EXTRA / 2.0, "embedding");
    if (p->used[HEAD]) add_x_label(p, p->end + EXTRA / 2.0, "head");
    if (p->used[OTHER]) add_x_label(p, RIGHT - EXTRA / 2.0, "other");
    if (!p->used[LAYER]) return;
    for (int i = 1; (p->last - p->first) / every > 24; i++) every = every / (i % 3 == 0 ? 2 : 1) * (i % 3 == 0 ? 5 : 2);
    for (int layer = (p->first + every - 1) / every * every; layer <= p->last; layer += every) {
        snprintf(label, sizeof label, "%d", layer);
        add_x_label(p, layer_x(p, layer), label);
    }
    upg_buf_fmt(&p->svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">layer</text>\n", (p->begin + p->end) / 2,
                p->error.bottom + 38);
}

static double value_of(const point *at, bool error) {
    return error ? at->error : at->bits;
}

// A line through the layers' points of a series; points lie in order of layers.
static void add_line(plot *p, size_t series, bool error) {
    const panel *area = error ? &p->error : &p->bits;
    size_t n = 0;
    for (size_t i = 0; i < p->report->n; i++) {
        const point *at = &p->points[i];
        if (at->series != series || at->place != LAYER || isnan(value_of(at, error))) continue;
        if (!n) upg_buf_fmt(&p->svg, "<path class=\"l l%zu\" d=\"", series % CLI_SVG_COLOURS);
        upg_buf_fmt(&p->svg, "%c%.1f %.1f", n++ ? 'L' : 'M', x_of(p, at), y_of(area, value_of(at, error)));
    }
    if (n) upg_buf_str(&p->svg, "\"/>\n");
}

static void add_marker(plot *p, size_t i, bool error) {
    const point *at = &p->points[i];
    const cli_report_matrix *m = &p->report->matrices[i];
    if (isnan(value_of(at, error))) return;
    upg_buf_fmt(&p->svg, "<path class=\"%s c%zu\" d=\"M%.1f %.1f%s\"><title>", error ? "error" : "bits",
                at->series % CLI_SVG_COLOURS, x_of(p, at), y_of(error ? &p->error : &p->bits, value_of(at, error)),
                cli_svg_shapes[at->series % CLI_SVG_SHAPES]);
    cli_svg_text(&p->svg, m->tensor->name);
    upg_buf_fmt(&p->svg, ": %s", cli_report_bits(m->tensor));
    if (p->report->has_errors) upg_buf_fmt(&p->svg, ", %.3g%%", 100 * m->error);
    upg_buf_str(&p->svg, "</title></path>\n");
}

static void add_legend(plot *p) {
    for (size_t s = 0; s < p->n_series; s++) {
        int y = (int)p->bits.top + 8 + 22 * (int)s;
        upg_buf_fmt(&p->svg, "<path class=\"c%zu\" d=\"M%d %d%s\"/>\n<text x=\"%d\" y=\"%d\">", s % CLI_SVG_COLOURS,
                    RIGHT + 20, y, cli_svg_shapes[s % CLI_SVG_SHAPES], RIGHT + 32, y + 4);
        cli_svg_text(&p->svg, p->labels[s]);
        upg_buf_str(&p->svg, "</text>\n");
    }
}

static void draw(plot *p) {
    cli_svg_begin(&p->svg, WIDTH, HEIGHT);
    add_title(p);
    add_bits_axis(p);
    add_error_axis(p);
    add_layer_axis(p);
    add_legend(p);
    for (int error = 0; error < 2; error++) {
        for (size_t s = 0; s < p->n_series; s++) add_line(p, s, error);
        for (size_t i = 0; i < p->report->n; i++) add_marker(p, i, error);
    }
}

int cli_plot_write(const cli_report *r, const char *path, upg_error *e) {
    plot p = {.report = r};
    int rc = arrange(&p, e);
    if (!rc) draw(&p);
    if (!rc) rc = cli_svg_write(&p.svg, path, e);
    upg_buf_free(&p.svg);
    free(p.points);
    return rc;
}

int cli_plot_option(const cli_option *o, void *group, const char *text, upg_error *e) {
    size_t n = strlen(text);
    if (n < 5 || strcmp(text + n - 4, ".svg")) return upg_fail(e, "--%s %s: its name must end in .svg", o->name, text);
    *(const char **)(void *)((char *)group + o->offset) = text;
    return 0;
}
