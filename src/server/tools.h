// Tool calls in what a model writes. Models write them in one of a few ways, each as JSON: <tool_call>{...}</tool_call>
// (Hermes, Qwen), <|tool_call|>[...]<|/tool_call|> (Phi-4-mini), [TOOL_CALLS][...] (Mistral), or an answer that is
// nothing but {"name": ..., "parameters" or "arguments": {...}} with the name of a tool (Llama 3). What only looks like
// a call stays text.
#pragma once
#include "base/base.h"

typedef struct tool_call {
    char *name, *arguments; // arguments: JSON, an object
} tool_call;

typedef struct tool_parser {
    upg_buf held;     // text that may be part of a call
    bool begun;       // something of the answer has been given out, or was a call
    int marker;       // whose end is awaited, or -1
    upg_buf text;     // given out by the last call
    tool_call *calls; // [n] all so far
    int n;
    const char *const *names; // [n_names] of the tools
    int n_names;
    bool failed; // out of memory
} tool_parser;

void tool_parser_init(tool_parser *t, const char *const *names, int n_names); // names must stay
void tool_parser_free(tool_parser *t);
// More of the answer; end: it ends here. *text, of *n bytes, is what is no call, valid until the next one.
void tool_parser_push(tool_parser *t, const char *data, size_t size, bool end, const char **text, size_t *n);
