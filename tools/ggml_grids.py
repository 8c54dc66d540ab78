#!/usr/bin/env python3
"""Writes src/format/ggml_grids.h: the lattice points that GGUF's IQ types index, from PyPI's gguf package.

usage: ggml_grids.py > src/format/ggml_grids.h

A point is 4 or 8 small numbers; each becomes its index in the type's list of magnitudes, 4 or 2 bits, the first value lowest.
"""
from gguf import quants

HEAD = """// The lattice points that GGUF's IQ types index: facts of the format, written by tools/ggml_grids.py from the gguf
// package (MIT licence, Copyright (c) 2023 Georgi Gerganov; pypi.org/project/gguf). A point is one number: its values as
// indices into the type's list of magnitudes, the first lowest, 2 bits each for 8 values or 4 bits each for 4.
#pragma once
#include <stdint.h>

// clang-format off"""


def points(t):
    """[n] packed points of a type."""
    bits = 4 if t.grid_shape[1] == 4 else 2
    t.init_grid()
    grid = t.grid.reshape(t.grid_shape)
    index = {v: i for i, v in enumerate(t.grid_map)}
    return [sum(index[int(v)] << (bits * j) for j, v in enumerate(row)) for row in grid]


print(HEAD)
for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"):
    p = points(getattr(quants, name))
    print(f"static const uint16_t {name.lower()}_grid[{len(p)}] = {{")
    for i in range(0, len(p), 16):
        print("    " + " ".join(f"0x{x:04x}," for x in p[i : i + 16]))
    print("};")
print("// clang-format on")
