// The handlers of all routes: routes.c has the table. The dialects' are in the file of their name.
#pragma once
#include "server/server.h"

void handle_root(server *s, exchange *x);
void handle_health(server *s, exchange *x);
void handle_ready(server *s, exchange *x);
void handle_metrics(server *s, exchange *x);
void handle_openapi(server *s, exchange *x);
void handle_tokenize(server *s, exchange *x);
void handle_detokenize(server *s, exchange *x);

void openai_models(server *s, exchange *x);
void openai_one_model(server *s, exchange *x);
void openai_embeddings(server *s, exchange *x);
void openai_chat(server *s, exchange *x);
void openai_completions(server *s, exchange *x);
void openai_responses(server *s, exchange *x);

void anthropic_messages(server *s, exchange *x);
void anthropic_count_tokens(server *s, exchange *x);

void ollama_chat(server *s, exchange *x);
void ollama_generate(server *s, exchange *x);
void ollama_tags(server *s, exchange *x);
void ollama_ps(server *s, exchange *x);
void ollama_version(server *s, exchange *x);
void ollama_show(server *s, exchange *x);
