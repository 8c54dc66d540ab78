// What the files of OpenAI's API share.
#pragma once
#include "server/generation.h"

// Answers with a 404 if the request names another model.
void openai_model(const server *s, params *p);
// temperature, top_p, seed, stop, penalties, logit_bias, n, stream, stream_options, and vLLM's top_k, min_p,
// repetition_penalty, ignore_eos. most_n: answers to one prompt at most.
void openai_sampling(generation *g, params *p);
// {"role", "content", ...} of a request into what templates expect: contents are strings, arguments of tool calls
// objects, developers systems.
void openai_message(params *p, yyjson_mut_doc *d, yyjson_mut_val *messages, yyjson_val *message);
bool openai_tool_choice(params *p);                   // whether tools may be called, by tool_choice
void openai_usage(const generation *g, upg_buf *out); // {"prompt_tokens": ...}
void openai_fail(generation *g, int status, const char *message, upg_buf *out);
void openai_done(upg_buf *out);                                                    // data: [DONE]
void openai_logprob(const server *s, const upg_answer_event *event, upg_buf *out); // an entry of a chat's content
void openai_fingerprint(const server *s, char out[32]);
