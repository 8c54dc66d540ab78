// A roofline: how many products a second each row reaches, over how many it makes of every byte of weights it reads.
// Nothing lies above the two roofs, what memory gives and what the fastest matrix reaches, but what caches hold.
#include "cli/bench.h"
#include "cli/svg.h"
#include <math.h>

enum { WIDTH = 960, HEIGHT = 560, LEFT = 84, RIGHT = 690, TOP = 84, BOTTOM = 500 };

typedef struct axis {
    double lo, hi; // log10
    double from, to;
} axis;

static double at(const axis *a, double value) {
    return a->from + (a->to - a->from) * (log10(value) - a->lo) / (a->hi - a->lo);
}

static void include(axis *a, double value) {
    a->lo = fmin(a->lo, floor(log10(value)));
    a->hi = fmax(a->hi, ceil(log10(value)));
}

static void add_axes(upg_buf *b, const axis *x, const axis *y) {
    for (double k = x->lo; k <= x->hi; k++)
        upg_buf_fmt(b,
                    "<path class=\"g\" d=\"M%.1f %dV%d\"/><text class=\"d\" x=\"%.1f\" y=\"%d\" "
                    "text-anchor=\"middle\">%g</text>\n",
                    at(x, pow(10, k)), TOP, BOTTOM, at(x, pow(10, k)), BOTTOM + 18, pow(10, k));
    for (double k = y->lo; k <= y->hi; k++)
        upg_buf_fmt(b,
                    "<path class=\"g\" d=\"M%d %.1fH%d\"/><text class=\"d\" x=\"%d\" y=\"%.1f\" "
                    "text-anchor=\"end\">%g</text>\n",
                    LEFT, at(y, pow(10, k)), RIGHT, LEFT - 8, at(y, pow(10, k)) + 4, pow(10, k - 9));
    upg_buf_fmt(
        b,
        "<path class=\"f\" d=\"M%d %dH%dV%dH%dz\"/>\n<text x=\"%d\" y=\"%d\">GMAC/s of the linear layers</text>\n"
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">MAC a byte of weights read</text>\n",
        LEFT, TOP, RIGHT, BOTTOM, LEFT, LEFT, TOP - 8, (LEFT + RIGHT) / 2, BOTTOM + 40);
}

static void add_roofs(upg_buf *b, const axis *x, const axis *y, double bandwidth, double peak) {
    double ridge = peak / bandwidth, low = fmax(pow(10, x->lo), pow(10, y->lo) / bandwidth);
    upg_buf_fmt(b, "<path class=\"l l0\" stroke-width=\"2\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", at(x, low),
                at(y, low * bandwidth), at(x, ridge), at(y, peak));
    upg_buf_fmt(b, "<path class=\"l l1\" stroke-width=\"2\" d=\"M%.1f %.1fH%d\"/>\n", at(x, ridge), at(y, peak), RIGHT);
    upg_buf_fmt(b, "<text class=\"d\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">the fastest matrix: %.0f GMAC/s</text>\n",
                RIGHT - 6, at(y, peak) - 8, peak * 1e-9);
    upg_buf_fmt(b, "<text class=\"d\" x=\"%d\" y=\"48\">memory gives %.2f GB/s</text>\n", LEFT, bandwidth * 1e-9);
}

static void add_point(upg_buf *b, const axis *x, const axis *y, const bench_point *p, int i) {
    const char *shape = cli_svg_shapes[i % CLI_SVG_SHAPES];
    int c = i % CLI_SVG_COLOURS, legend = TOP + 8 + 22 * i;
    upg_buf_fmt(b, "<path class=\"point c%d\" d=\"M%.1f %.1f%s\"><title>", c, at(x, p->intensity), at(y, p->speed),
                shape);
    cli_svg_text(b, p->name);
    upg_buf_fmt(b, ": %.4g GMAC/s, %.4g MAC a byte</title></path>\n", p->speed * 1e-9, p->intensity);
    if (legend > BOTTOM) return;
    upg_buf_fmt(b, "<path class=\"c%d\" d=\"M%d %d%s\"/><text x=\"%d\" y=\"%d\">", c, RIGHT + 20, legend, shape,
                RIGHT + 32, legend + 4);
    cli_svg_text(b, p->name);
    upg_buf_str(b, "</text>\n");
}

int bench_roofline_write(const char *path, const char *title, const bench_point *points, int n, double bandwidth,
                         double peak, upg_error *e) {
    upg_buf b = {0};
    axis x = {0, 1, LEFT, RIGHT}, y = {log10(peak), log10(peak), BOTTOM, TOP};
    include(&x, peak / bandwidth);
    include(&y, peak);
    for (int i = 0; i < n; i++) {
        include(&x, points[i].intensity);
        include(&y, points[i].speed);
    }
    cli_svg_begin(&b, WIDTH, HEIGHT);
    upg_buf_fmt(&b, "<text class=\"h\" x=\"%d\" y=\"28\">", LEFT);
    cli_svg_text(&b, title);
    upg_buf_str(&b, "</text>\n");
    add_axes(&b, &x, &y);
    add_roofs(&b, &x, &y, bandwidth, peak);
    for (int i = 0; i < n; i++) add_point(&b, &x, &y, &points[i], i);
    int rc = cli_svg_write(&b, path, e);
    upg_buf_free(&b);
    return rc;
}
