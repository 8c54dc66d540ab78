// What pictures share: their looks on white and on black, text that cannot break out, writing.
//
// Classes: c0..c7 fill with a colour, l0..l7 draw a line of it; h is a heading, d dim text, f a frame, g a grid line.
#pragma once
#include "base/base.h"

enum { CLI_SVG_COLOURS = 8, CLI_SVG_SHAPES = 7 };
extern const char *const cli_svg_shapes[CLI_SVG_SHAPES]; // markers, paths around a point

void cli_svg_begin(upg_buf *b, int width, int height);
void cli_svg_text(upg_buf *b, const char *s);                  // escaped
int cli_svg_write(upg_buf *b, const char *path, upg_error *e); // ends the picture
