// Who may ask: API keys, the Host header and the Origin header.
#pragma once
#include "server/server.h"

typedef struct guard guard;

// Reads the keys. Fails where an address that others can reach would be served without any.
guard *guard_new(const server_options *o, upg_error *e);
void guard_free(guard *g);
int guard_reload(guard *g, upg_error *e); // the keys; on failure the old ones stay
bool guard_has_keys(guard *g);
// Whether one of the two headers (NULL: not sent) holds a key. *client then tells keys apart.
bool guard_key(guard *g, const char *authorization, const char *x_api_key, uint64_t *client);
// Whether a Host header is one of ours. Names of others that lead here (DNS rebinding) are not.
bool guard_host(const guard *g, const char *host);

typedef enum guard_origin { GUARD_SAME_ORIGIN, GUARD_LISTED, GUARD_ANY, GUARD_FOREIGN } guard_origin;
guard_origin guard_check_origin(const guard *g, const char *origin, const char *host, bool tls);

// The parsers, alone.
enum { GUARD_MAX_KEY = 256, GUARD_MAX_NAME = 256 };
// The name of NAME, NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT in lower case, addresses in their usual spelling.
bool guard_parse_host(const char *host, char name[GUARD_MAX_NAME], bool *address);
const char *guard_parse_bearer(const char *authorization); // the key within, or NULL
bool guard_is_loopback(const char *host);
