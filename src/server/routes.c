// The table of routes: what is answered, and by whom. A dialect is a file, its lines here, and its part of
// openapi.json.
#include "server/handlers.h"

const route server_routes[] = {{"GET", "/health", handle_health, &dialect_openai, .light = true, .open = true},
                               {"GET", "/ready", handle_ready, &dialect_openai, .light = true, .open = true},
                               {"GET", "/metrics", handle_metrics, &dialect_openai, .light = true},
                               {"GET", "/openapi.json", handle_openapi, &dialect_openai, .light = true, .open = true},
                               {0}};
