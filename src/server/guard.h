// Who may ask what: API keys, and the Host and Origin headers.
//
// A page in somebody's browser can send requests to 127.0.0.1, and a name that its owner lets point there (DNS
// rebinding) makes them same-origin. So Host must be a name that is ours, and Origin, where a browser sends one, ours
// too or listed. Keys are compared in constant time: each with all bytes of a buffer of fixed size, all keys always.
#pragma once
#include "base/base.h"

typedef struct guard guard;

// key_file, hosts, origins: as in server_options; may be NULL. host: the address that is bound. Keys are read from
// key_file and the environment's UPG_API_KEY.
guard *guard_new(const char *host, const char *key_file, const char *hosts, const char *origins, upg_error *e);
void guard_free(guard *g);
bool guard_has_keys(guard *g);
int guard_reload(guard *g, upg_error *e); // on failure the old keys stay

// An index of the key that a request carries, or -1. authorization, x_api_key: headers, or NULL.
int guard_key(guard *g, const char *authorization, const char *x_api_key);
bool guard_host(const guard *g, const char *host);
typedef enum guard_origin_result { GUARD_ORIGIN_OWN, GUARD_ORIGIN_LISTED, GUARD_ORIGIN_FOREIGN } guard_origin_result;
guard_origin_result guard_origin(const guard *g, const char *origin, const char *host);
bool guard_is_loopback(const char *host); // 127.0.0.0/8, ::1, localhost
