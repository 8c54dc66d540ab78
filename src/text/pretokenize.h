// Pre-tokenizers: the patterns that cut text into the pieces BPE works on. A tokenizer.json names its patterns by
// regular expressions, a GGUF file by one name for a list of them; no expression is interpreted here. Each known one,
// by its text, is a hand-written scanner in the table of pretokenize.c, and an unknown one is refused. To add a
// pattern, add its scanner and its entry there; to add a name of GGUF, a line to the table of pretokenize_names.c.
#pragma once
#include "base/base.h"

typedef struct upg_pattern {
    const char *name;                              // in the packed form
    const char *regexes[5];                        // spellings that mean the same, NULL after the last
    size_t (*scan)(const uint8_t *text, size_t n); // bytes of the first piece of text[0..n), n > 0: 1 to n
    // Every character is in a match. If not, what lies between two matches is a piece too.
    bool covers;
} upg_pattern;

extern const upg_pattern upg_patterns[];
extern const int upg_n_patterns;

// NULL if unknown. Line ends may stand in the expression as themselves or as \r and \n.
const upg_pattern *upg_pattern_by_regex(const char *regex, size_t n);
const upg_pattern *upg_pattern_by_name(const char *name, size_t n);

// What GGUF's tokenizer.ggml.pre names: patterns, each applied to the pieces of the one before.
enum { UPG_MAX_PRE_PATTERNS = 6 };
typedef struct upg_pre {
    const char *name;
    const char *patterns[UPG_MAX_PRE_PATTERNS + 1]; // names in upg_patterns, NULL after the last
    bool ignore_merges;
    bool add_bos; // if the file does not say
} upg_pre;

const upg_pre *upg_pre_find(const char *name, size_t n); // NULL if unknown
extern const upg_pre upg_pres[];
extern const int upg_n_pres;
