// The handlers of all routes: routes.c has the table. The dialects' are in the file of their name.
#pragma once
#include "server/server.h"

void handle_health(server *s, exchange *x);
void handle_ready(server *s, exchange *x);
void handle_metrics(server *s, exchange *x);
void handle_openapi(server *s, exchange *x);
