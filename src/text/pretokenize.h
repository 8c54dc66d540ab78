// Pre-tokenizers: the patterns that cut text into the pieces BPE works on. A tokenizer.json names its pattern by a
// regular expression; no expression is interpreted here. Each known one, by its exact text, is a hand-written scanner
// in the table of pretokenize.c, and an unknown one is refused. To add a pattern, add its scanner and its entry there.
#pragma once
#include "base/base.h"

typedef struct upg_pattern {
    const char *name;                              // in the packed form
    const char *regexes[5];                        // spellings that mean the same, NULL after the last
    size_t (*scan)(const uint8_t *text, size_t n); // bytes of the first piece of text[0..n), n > 0: 1 to n
} upg_pattern;

extern const upg_pattern upg_patterns[];
extern const int upg_n_patterns;

const upg_pattern *upg_pattern_by_regex(const char *regex, size_t n); // NULL if unknown
const upg_pattern *upg_pattern_by_name(const char *name, size_t n);   // NULL if unknown
