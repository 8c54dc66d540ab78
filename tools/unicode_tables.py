#!/usr/bin/env python3
"""Makes src/text/unicode_tables.c: the class of every code point, as a two-stage table.

Unicode 16.0 is what the tokenizers and tiktoken packages know, so ids agree with theirs for every character. Needs
unicodedata2==16.0.0 from PyPI and refuses any other version.

    tools/unicode_tables.py src/text/unicode_tables.c
"""
import argparse

import unicodedata2

VERSION = "16.0.0"
BLOCK = 128
# The order of upg_char_class in unicode.h.
OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, PUNCT, SYMBOL, SPACE, NEWLINE = range(10)
WORD = 16
CLASSES = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER, "M": MARK, "N": NUMBER, "P": PUNCT, "S": SYMBOL,
           "Z": SPACE, "C": OTHER}
# White_Space that is Cc; Zs, Zl and Zp are all of the rest.
CONTROLS = {0x09: SPACE, 0x0A: NEWLINE, 0x0B: SPACE, 0x0C: SPACE, 0x0D: NEWLINE, 0x85: SPACE}
# \w is Alphabetic, M, Nd, Pc and Join_Control (UTS #18, annex C). Alphabetic is L, Nl, some of M, and these.
OTHER_ALPHABETIC = [*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)]
WORDS = {0x200C, 0x200D, *OTHER_ALPHABETIC}


def entry(c):
    category = unicodedata2.category(chr(c))
    word = category[0] in "LM" or category in ("Nd", "Nl", "Pc") or c in WORDS
    return CONTROLS.get(c, CLASSES.get(category, CLASSES.get(category[0]))) | (WORD if word else 0)


def array(declaration, values, out):
    out.append(declaration + " = {")
    line = "    "
    for v in values:
        if len(line) + len(str(v)) + 1 > 119:
            out.append(line)
            line = "    "
        line += f"{v},"
    out.append(line + "};")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output")
    args = parser.parse_args()
    if unicodedata2.unidata_version != VERSION:
        raise SystemExit(f"unicodedata2 has Unicode {unicodedata2.unidata_version}, not {VERSION}")
    blocks, index = [], []
    for start in range(0, 0x110000, BLOCK):
        block = [entry(c) for c in range(start, start + BLOCK)]
        if block not in blocks:
            blocks.append(block)
        index.append(blocks.index(block))
    while index[-1] == index[-2]:
        index.pop()
    if index[-1] != blocks.index([OTHER] * BLOCK):
        raise SystemExit("the last code points are no longer unassigned or private")
    out = [f"// Made by tools/unicode_tables.py from Unicode {VERSION}; unicode.h says what the entries mean.", '#include "text/unicode.h"', "",
           "// clang-format off"]
    array(f"const uint16_t upg_unicode_index[{len(index)}]", index, out)
    array(f"const uint8_t upg_unicode_blocks[{len(blocks) * BLOCK}]", (e for b in blocks for e in b), out)
    out += [f"const uint32_t upg_unicode_end = {len(index) * BLOCK};", "// clang-format on"]
    with open(args.output, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
