// The table of routes: what is answered, and by whom. A dialect is a file, its lines here, and its part of
// openapi.json.
#include "server/handlers.h"

const route server_routes[] = {{"GET", "/", handle_root, &dialect_openai, ROUTE_LIGHT | ROUTE_OPEN},
                               {"GET", "/health", handle_health, &dialect_openai, ROUTE_LIGHT | ROUTE_OPEN},
                               {"GET", "/ready", handle_ready, &dialect_openai, ROUTE_LIGHT | ROUTE_OPEN},
                               {"GET", "/metrics", handle_metrics, &dialect_openai, ROUTE_LIGHT},
                               {"GET", "/openapi.json", handle_openapi, &dialect_openai, ROUTE_LIGHT | ROUTE_OPEN},
                               {"POST", "/tokenize", handle_tokenize, &dialect_openai, 0},
                               {"POST", "/detokenize", handle_detokenize, &dialect_openai, 0},

                               {"GET", "/v1/models", openai_models, &dialect_openai, ROUTE_LIGHT},
                               {"GET", "/v1/models/", openai_one_model, &dialect_openai, ROUTE_LIGHT},
                               {"POST", "/v1/chat/completions", openai_chat, &dialect_openai, 0},
                               {"POST", "/v1/completions", openai_completions, &dialect_openai, 0},
                               {"POST", "/v1/responses", openai_responses, &dialect_openai, 0},
                               {"POST", "/v1/embeddings", openai_embeddings, &dialect_openai, 0},

                               {"POST", "/v1/messages", anthropic_messages, &dialect_anthropic, 0},
                               {"POST", "/v1/messages/count_tokens", anthropic_count_tokens, &dialect_anthropic, 0},

                               {"POST", "/api/chat", ollama_chat, &dialect_ollama, 0},
                               {"POST", "/api/generate", ollama_generate, &dialect_ollama, 0},
                               {"GET", "/api/tags", ollama_tags, &dialect_ollama, ROUTE_LIGHT},
                               {"GET", "/api/ps", ollama_ps, &dialect_ollama, ROUTE_LIGHT},
                               {"GET", "/api/version", ollama_version, &dialect_ollama, ROUTE_LIGHT},
                               {"POST", "/api/show", ollama_show, &dialect_ollama, 0},
                               {NULL, NULL, NULL, NULL, 0}};
