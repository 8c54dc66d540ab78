// See svg.h.
#include "cli/svg.h"
#include "cli/cli.h"
#include <errno.h>
#include <string.h>

// Colours on white and on black.
static const struct {
    const char *light, *dark;
} colours[CLI_SVG_COLOURS] = {{"#0072b2", "#4aa8e0"}, {"#d55e00", "#ff8a3d"}, {"#009e73", "#2fc79b"},
                              {"#b0569b", "#e59bc4"}, {"#c58700", "#f0b429"}, {"#3f94c4", "#8fd0f5"},
                              {"#6a51a3", "#a893e0"}, {"#6b6b6b", "#a8a8a8"}};
const char *const cli_svg_shapes[CLI_SVG_SHAPES] = {"m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
                                                    "m-3.5-3.5h7v7h-7z",
                                                    "m0-5l5 5l-5 5l-5-5z",
                                                    "m0-5l4.6 8h-9.2z",
                                                    "m0 5l4.6-8h-9.2z",
                                                    "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
                                                    "m-4-4h8l-8 8h8z"};
#define COUNT(a) (sizeof(a) / sizeof *(a))

void cli_svg_text(upg_buf *b, const char *s) {
    static const char *const entities[] = {
        ['"'] = "&quot;", ['&'] = "&amp;", ['\''] = "&#39;", ['<'] = "&lt;", ['>'] = "&gt;"};
    char plain[256];
    for (const char *c = cli_plain(s, plain, sizeof plain); *c; c++) {
        unsigned char at = (unsigned char)*c;
        if (at < COUNT(entities) && entities[at])
            upg_buf_str(b, entities[at]);
        else
            upg_buf_add(b, c, 1);
    }
}

static void add_style(upg_buf *b) {
    upg_buf_str(b,
                "<style>text{font:12px system-ui,sans-serif;fill:#222}.h{font-size:16px;font-weight:600}.d{fill:#666}"
                ".bg{fill:#fff}.g{stroke:#ddd}.f{stroke:#999;fill:none}.l{fill:none;stroke-opacity:.45}");
    for (size_t i = 0; i < COUNT(colours); i++)
        upg_buf_fmt(b, ".c%zu{fill:%s}.l%zu{stroke:%s}", i, colours[i].light, i, colours[i].light);
    upg_buf_str(b, "@media(prefers-color-scheme:dark){text{fill:#ddd}.d{fill:#999}.bg{fill:#15171c}.g{stroke:#333}"
                   ".f{stroke:#777}");
    for (size_t i = 0; i < COUNT(colours); i++)
        upg_buf_fmt(b, ".c%zu{fill:%s}.l%zu{stroke:%s}", i, colours[i].dark, i, colours[i].dark);
    upg_buf_str(b, "}</style>\n");
}

void cli_svg_begin(upg_buf *b, int width, int height) {
    upg_buf_fmt(b,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
                "role=\"img\">\n",
                width, height, width, height);
    add_style(b);
    upg_buf_fmt(b, "<rect class=\"bg\" width=\"%d\" height=\"%d\"/>\n", width, height);
}

static int write_all(const upg_buf *b, const char *path, upg_error *e) {
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(b->data, 1, b->size, f) == b->size;
    int why = errno;
    if (f && fclose(f) && ok) {
        ok = false;
        why = errno;
    }
    return ok ? 0 : upg_fail(e, "%s: %s", path, strerror(why));
}

int cli_svg_write(upg_buf *b, const char *path, upg_error *e) {
    upg_buf_str(b, "</svg>\n");
    return upg_buf_check(b, e) ? -1 : write_all(b, path, e);
}
