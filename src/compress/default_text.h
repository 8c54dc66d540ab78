// The texts that ship with the library, for those who have none at hand: one to fit layers to, one to measure the
// result with. Both have the same mix (data/README.md) from other works, and so has every prefix of some thousand
// tokens.
#pragma once
#include <stdbool.h>
#include <stddef.h>

// UTF-8, NFC, without NUL but with one after the end, valid for the life of the program. *size is in bytes.
const char *upg_default_text(bool heldout, size_t *size);
