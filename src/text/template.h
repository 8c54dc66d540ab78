// Chat templates: the part of Jinja that the templates of Hugging Face models use, with the settings transformers gives
// it (trim_blocks, lstrip_blocks, no autoescape, loop controls, an immutable sandbox). What is here gives the bytes
// that jinja2 gives; what is not is refused by name with the line of the template, never guessed.
//
// A template comes with a model from anywhere and a context holds what users typed, so both are untrusted. Work,
// memory, output and nesting are bounded by upg_template_options, and the output says of every byte who wrote it: names
// of control tokens count where the template wrote them and are plain text where a user did.
//
// Left out: extends, import, include, block, autoescape, recursive loops, break and continue across a set, filter,
// call, macro or generation block, *args and **kwargs (varargs and kwargs in macros), cycler, joiner, lipsum, self,
// super, integers beyond 64 bits (those of the context can be printed), tuples as keys, slices of range(), format specs
// such as
// {:>5} and %5d, identifiers beyond ASCII, \N{...} escapes, and the filters and methods that template_filter.c and
// template_method.c do not list. Case mapping is Unicode's simple one, but for the German sharp s.
#pragma once
#include "base/base.h"

typedef struct upg_template upg_template;

// Zero means the default.
typedef struct upg_template_limits {
    uint64_t max_steps; // nodes visited plus a share of the bytes handled; 20 million
    size_t max_output;  // bytes of the output, or of any one string; 64 MiB
    size_t max_memory;  // bytes a render may take; 256 MiB
    int max_depth;      // nesting of values, expressions, blocks and macro calls; 200, at most 400
} upg_template_limits;

typedef struct upg_template_options {
    upg_template_limits limits;
    // Paths of context strings that count as the template's own text: keys joined by dots, '*' for every element of an
    // array; everything below a path is meant too. A path of one key is trusted whatever it holds (bos_token). One of
    // several keys (messages.*.role) is trusted only where the string is a word of ASCII letters, digits, '_' and '-',
    // at most 32 bytes, so that '<|' + role + '|>' can be a control token and no role can smuggle in another. NULL:
    // bos_token, eos_token, pad_token, unk_token, sep_token, cls_token, mask_token and messages.*.role.
    const char *const *trusted;
    size_t n_trusted;
    // What strftime_now calls now: seconds since 1970-01-01 00:00 on the local clock. NULL: the machine's time.
    const int64_t *now;
} upg_template_options;

typedef struct upg_template_run {
    size_t length;      // bytes, not 0
    bool from_template; // or else from the context
} upg_template_run;

// The runs cover text and alternate. To tokenize: look for control tokens only where all of a name's bytes are
// from_template, then encode what lies between them as one piece each, whoever wrote it (a run's end is no boundary).
typedef struct upg_template_output {
    upg_buf text;
    upg_template_run *runs; // [n_runs]
    size_t n_runs;
} upg_template_output;

// The text is UTF-8 and is not needed afterwards. A template may be shared by threads.
upg_template *upg_template_parse(const char *text, size_t n, upg_error *e);
void upg_template_free(upg_template *t);

// Renders with a context that is one JSON object: messages, tools, add_generation_prompt, bos_token, ... Strings keep
// their origin through every operation: concatenation, slices, filters, joins. A string made of a number is from the
// context where the number, or one it was computed from, is; the brackets, commas and quotes of a printed list or dict
// count as the context's. A message from raise_exception ends that of e. o may be NULL. On failure *out is empty.
int upg_template_render(const upg_template *t, const char *json, size_t n, const upg_template_options *o,
                        upg_template_output *out, upg_error *e);
void upg_template_output_free(upg_template_output *out);
