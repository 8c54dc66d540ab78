// Keys, Host and Origin. See guard.h.
#include "server/guard.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { KEY_MAX = 256, KEYS_MAX = 1024, FILE_MAX = 1 << 20, NAME_MAX_BYTES = 256 };

typedef struct key {
    uint8_t bytes[KEY_MAX]; // zeros behind n
    size_t n;
} key;

typedef struct keys {
    key *all; // [n]
    int n;
} keys;

struct guard {
    char *host, *key_file, *hosts, *origins;
    bool any_literal; // the address bound is no loopback: whoever reaches it may name it by number
    pthread_mutex_t mutex;
    keys keys;
};

// ---- Keys ----

static int add_key(keys *k, const char *text, size_t n, const char *where, upg_error *e) {
    if (n >= KEY_MAX) return upg_fail(e, "%s: a key has more than %d bytes", where, KEY_MAX - 1);
    if (k->n == KEYS_MAX) return upg_fail(e, "%s: more than %d keys", where, KEYS_MAX);
    key *more = upg_resize(k->all, (size_t)k->n + 1, sizeof *more, e);
    if (!more) return -1;
    k->all = more;
    key *new = &k->all[k->n++];
    *new = (key){.n = n};
    memcpy(new->bytes, text, n);
    return 0;
}

// A key a line; blanks around it do not count, a line that begins with # is a comment.
static int add_lines(keys *k, const char *text, const char *where, upg_error *e) {
    static const char blanks[] = " \t\r";
    while (*text) {
        size_t line = strcspn(text, "\n"), skip = strspn(text, blanks);
        size_t n = skip < line ? line - skip : 0;
        while (n && strchr(blanks, text[skip + n - 1])) n--;
        if (n && text[skip] != '#' && add_key(k, text + skip, n, where, e)) return -1;
        text += line + (text[line] == '\n');
    }
    return 0;
}

static int read_keys(const guard *g, keys *k, upg_error *e) {
    const char *own = getenv("UPG_API_KEY");
    if (own && *own && add_lines(k, own, "UPG_API_KEY", e)) return -1;
    if (!g->key_file) return 0;
    size_t n;
    int before = k->n;
    char *text = upg_read_text(g->key_file, FILE_MAX, &n, e);
    if (!text) return -1;
    int rc = add_lines(k, text, g->key_file, e);
    free(text);
    return !rc && k->n == before ? upg_fail(e, "%s: has no key", g->key_file) : rc;
}

int guard_reload(guard *g, upg_error *e) {
    keys new = {0};
    if (read_keys(g, &new, e)) {
        free(new.all);
        return -1;
    }
    pthread_mutex_lock(&g->mutex);
    keys old = g->keys;
    g->keys = new;
    pthread_mutex_unlock(&g->mutex);
    free(old.all);
    return 0;
}

bool guard_has_keys(guard *g) {
    pthread_mutex_lock(&g->mutex);
    bool any = g->keys.n > 0;
    pthread_mutex_unlock(&g->mutex);
    return any;
}

// Takes the same time whatever the keys and the candidate are.
static int find_key(const keys *k, const key *candidate) {
    int found = -1;
    for (int i = 0; i < k->n; i++) {
        uint8_t different = (uint8_t)(k->all[i].n ^ candidate->n);
        for (int j = 0; j < KEY_MAX; j++) different |= k->all[i].bytes[j] ^ candidate->bytes[j];
        found = different ? found : i;
    }
    return found;
}

int guard_key(guard *g, const char *authorization, const char *x_api_key) {
    key candidate = {0};
    const char *text = x_api_key;
    if (authorization && !strncasecmp(authorization, "Bearer ", 7))
        text = authorization + 7 + strspn(authorization + 7, " ");
    candidate.n = text ? strlen(text) : 0;
    if (!candidate.n || candidate.n >= KEY_MAX) return -1;
    memcpy(candidate.bytes, text, candidate.n);
    pthread_mutex_lock(&g->mutex);
    int found = find_key(&g->keys, &candidate);
    pthread_mutex_unlock(&g->mutex);
    return found;
}

// ---- Names ----

// The name of "name", "name:port", "[v6]" or "[v6]:port", without brackets; false if it is none of them.
static bool split_host(const char *host, char name[NAME_MAX_BYTES]) {
    const bool brackets = *host == '[';
    const char *begin = host + brackets;
    size_t n = strcspn(begin, brackets ? "]" : ":");
    const char *rest = begin + n;
    if (brackets && *rest++ != ']') return false;
    if (!n || n >= NAME_MAX_BYTES) return false;
    if (*rest && (*rest != ':' || !rest[1] || rest[1 + strspn(rest + 1, "0123456789")])) return false;
    memcpy(name, begin, n);
    name[n] = 0;
    return true;
}

static bool is_literal(const char *name) {
    uint8_t address[16];
    return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}

bool guard_is_loopback(const char *host) {
    uint8_t v4[4];
    struct in6_addr v6;
    if (!strcasecmp(host, "localhost")) return true;
    if (inet_pton(AF_INET, host, v4) == 1) return v4[0] == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

// Whether a comma-separated list has the name.
static bool listed(const char *list, const char *name) {
    const size_t n = strlen(name);
    for (const char *at = list; at && *at;) {
        at += strspn(at, ", ");
        size_t m = strcspn(at, ", ");
        if (m == n && m && !strncasecmp(at, name, n)) return true;
        at += m;
    }
    return false;
}

bool guard_host(const guard *g, const char *host) {
    char name[NAME_MAX_BYTES];
    if (!split_host(host, name)) return false;
    return guard_is_loopback(name) || !strcasecmp(name, g->host) || listed(g->hosts, name) ||
           (g->any_literal && is_literal(name));
}

guard_origin_result guard_origin(const guard *g, const char *origin, const char *host) {
    if (listed(g->origins, origin) || listed(g->origins, "*")) return GUARD_ORIGIN_LISTED;
    const char *at = strstr(origin, "://");
    return at && host && !strcasecmp(at + 3, host) ? GUARD_ORIGIN_OWN : GUARD_ORIGIN_FOREIGN;
}

// ---- Making and freeing ----

static int copy(char **to, const char *from, upg_error *e) {
    return from && !(*to = upg_strdup(from, strlen(from), e)) ? -1 : 0;
}

guard *guard_new(const char *host, const char *key_file, const char *hosts, const char *origins, upg_error *e) {
    guard *g = upg_alloc(1, sizeof *g, e);
    if (!g) return NULL;
    pthread_mutex_init(&g->mutex, NULL);
    g->any_literal = !guard_is_loopback(host);
    if (copy(&g->host, host, e) || copy(&g->key_file, key_file, e) || copy(&g->hosts, hosts, e) ||
        copy(&g->origins, origins, e) || guard_reload(g, e)) {
        guard_free(g);
        return NULL;
    }
    return g;
}

void guard_free(guard *g) {
    if (!g) return;
    pthread_mutex_destroy(&g->mutex);
    free(g->keys.all);
    free(g->host);
    free(g->key_file);
    free(g->hosts);
    free(g->origins);
    free(g);
}
