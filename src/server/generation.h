// From a request to its answer, whatever the dialect. A handler fills a generation: prompts, sampling, what is wanted;
// generation_start submits it, and from then on the scheduler's events drive it: they are gathered, or streamed, in the
// dialect's words, and the exchange is ended with the last of them.
#pragma once
#include "server/params.h"
#include "server/tools.h"
#include "text/tokenizer.h"

typedef struct generation generation;

typedef struct choice {
    generation *g;
    int index, prompt;
    uint64_t id; // of the scheduler
    bool ended;
    upg_finish finish;
    char stop[UPG_MAX_STOP_BYTES + 1]; // the stop string that ended it, or ""
    upg_buf text;                      // all of it, unless it is streamed
    tool_parser tools;
    int calls_out;             // tool calls that the dialect has been told of
    upg_buf logprobs;          // in the dialect's words: of all tokens, or, streamed, of those since the last piece
    int n_tokens;              // drawn, one that ended it included
    int state, items, message; // the dialect's own, zero at the beginning
} choice;

// The words of a dialect. What is written to out goes to the client; streamed, after each call.
typedef struct answer_format {
    const char *type; // content type of a stream
    void (*begin)(generation *g, upg_buf *out);
    void (*piece)(choice *c, const char *text, size_t n, upg_buf *out);      // text of the answer
    void (*call)(choice *c, const tool_call *call, int index, upg_buf *out); // a tool call, whole
    void (*logprob)(choice *c, const upg_answer_event *event);               // appends to c->logprobs; may be NULL
    void (*end_choice)(choice *c, upg_buf *out);
    void (*end)(generation *g, upg_buf *out);
    void (*whole)(generation *g, upg_buf *out);                                 // all of an answer that is not streamed
    void (*fail)(generation *g, int status, const char *message, upg_buf *out); // in a stream that has begun
} answer_format;

struct generation {
    server *server;
    exchange *x;
    const answer_format *format;
    // Filled by the handler.
    int32_t **prompts; // [n_prompts] owned
    size_t *lengths;   // [n_prompts]
    int n_prompts, n;  // n: answers to each prompt
    int max_tokens;    // -1: as many as fit
    upg_sampling sampling;
    upg_bias *bias; // owned
    bool seeded;    // the seed is the client's
    const char *stops[UPG_MAX_STOPS];
    int n_stops, top_logprobs; // -1: none
    bool chat, stream, ignore_eos, tools;
    char **tool_names; // [n_tools] owned
    int n_tools;
    bool include_usage, echo; // OpenAI's
    bool chat_api;            // Ollama's: /api/chat
    char *echoed;             // what of the request the answer repeats: of the dialect, owned
    // From generation_start on.
    char model[256];
    int64_t created;
    double started;
    choice *choices; // [n_prompts * n]
    int n_choices, n_left;
    int n_prompt_tokens, n_cached, n_tokens; // of all
    double queue_seconds, prompt_seconds, answer_seconds, first_token_seconds;
    bool begun; // the stream has
    int status; // what went wrong, as an HTTP status; 0: nothing
    char why[256];
    // The submission, and who cancels it.
    struct generation_link *link;
};

generation *generation_new(server *s, exchange *x, const answer_format *format); // NULL: the exchange is answered
void generation_free(generation *g);                                             // one that has not been started
int generation_add_prompt(generation *g, int32_t *ids, size_t n, upg_error *e);  // takes ids over
// Takes g over, in any case. What p's strings are in is copied.
void generation_start(generation *g, params *p);

// What handlers share. A document whose root is the array *messages; without memory both are NULL, and it is said.
yyjson_mut_doc *generation_messages(params *p, yyjson_mut_val **messages);
// messages: as upg_chat_tokens takes them; options: JSON, or NULL.
void generation_chat(generation *g, params *p, yyjson_mut_doc *messages, const char *options);
void generation_text(generation *g, params *p, const char *text, size_t n); // a plain prompt, after BOS
// What the template is to know beside the messages: extra, an object or NULL, and tools, an array or NULL, which are
// refused where it has no words for them. schema: the key under which a tool itself has its parameters; NULL: it is as
// OpenAI's chats have it, {"type": "function", "function": {...}}. The caller frees the JSON; NULL: nothing.
char *generation_tools(generation *g, params *p, yyjson_val *tools, const char *schema, yyjson_val *extra);

// A token's text as JSON string and as array of bytes.
void quote_token(const server *s, int32_t token, upg_buf *out);
void quote_bytes(const server *s, int32_t token, upg_buf *out);
const char *generation_finish_word(const choice *c, const char *stop, const char *length, const char *calls);
// Formats with fmt, in which %s is quoted text: put_json(out, "{\"a\":%s}", text).
void put_quoted(upg_buf *out, const char *before, const char *text, size_t n, const char *after);
