// API keys, Host and Origin. See guard.h.
//
// Keys are compared with every key that there is, over all bytes of a buffer of one length for all: how long it takes
// says nothing about how much of a key was right, nor which. That needs no cryptographic hash: keys are bounded, and
// padding them does what hashing them to one length would do.
#include "server/guard.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <xxhash.h>

typedef struct key {
    unsigned char text[GUARD_MAX_KEY]; // padded with zeros
} key;

typedef struct keys {
    key *list; // [n]
    size_t n;
} keys;

struct guard {
    const server_options *options;
    pthread_mutex_t lock; // of keys
    keys keys;
    bool loopback; // only this machine can reach us
    uint64_t seed; // so that nobody can choose what client ids collide
};

// ---- Keys ----

static void free_keys(keys *k) {
    if (k->list) explicit_bzero(k->list, k->n * sizeof *k->list);
    free(k->list);
    *k = (keys){0};
}

static bool pad_key(key *k, const char *text, size_t n) {
    *k = (key){0};
    if (!n || n >= GUARD_MAX_KEY) return false;
    for (size_t i = 0; i < n; i++)
        if (!isgraph((unsigned char)text[i])) return false;
    memcpy(k->text, text, n);
    return true;
}

static int add_key(keys *k, const char *text, size_t n, const char *from, int line, upg_error *e) {
    key padded;
    if (!pad_key(&padded, text, n)) {
        if (line)
            return upg_fail(e, "%s:%d: not a key of 1 to %d printable characters without blanks", from, line,
                            GUARD_MAX_KEY - 1);
        return upg_fail(e, "%s: not a key of 1 to %d printable characters without blanks", from, GUARD_MAX_KEY - 1);
    }
    key *list = upg_alloc(k->n + 1, sizeof *list, e); // no realloc: it would leave keys behind
    if (!list) return -1;
    if (k->n) memcpy(list, k->list, k->n * sizeof *list);
    list[k->n] = padded;
    size_t count = k->n + 1;
    free_keys(k);
    *k = (keys){list, count};
    return 0;
}

static int add_keys_of_text(keys *k, const char *text, const char *path, upg_error *e) {
    int line = 0;
    for (const char *p = text; *p;) {
        const char *end = p + strcspn(p, "\n"), *next = *end ? end + 1 : end;
        while (p < end && isspace((unsigned char)*p)) p++;
        while (end > p && isspace((unsigned char)end[-1])) end--;
        line++;
        if (p < end && *p != '#' && add_key(k, p, (size_t)(end - p), path, line, e)) return -1;
        p = next;
    }
    return 0;
}

static int read_keys(const server_options *o, keys *k, upg_error *e) {
    const char *environment = getenv("UPG_API_KEY");
    int rc = 0;
    if (o->api_key_file) {
        size_t size;
        char *text = upg_read_text(o->api_key_file, 1 << 20, &size, e);
        rc = text ? add_keys_of_text(k, text, o->api_key_file, e) : -1;
        if (!rc && strlen(text) != size) rc = upg_fail(e, "%s: not a text file", o->api_key_file);
        if (!rc && !k->n) rc = upg_fail(e, "%s: no key in it", o->api_key_file);
        if (text) explicit_bzero(text, size);
        free(text);
    }
    if (!rc && environment && *environment)
        rc = add_key(k, environment, strlen(environment), "the environment's UPG_API_KEY", 0, e);
    if (rc) free_keys(k);
    return rc;
}

bool guard_has_keys(guard *g) {
    pthread_mutex_lock(&g->lock);
    bool any = g->keys.n > 0;
    pthread_mutex_unlock(&g->lock);
    return any;
}

const char *guard_parse_bearer(const char *authorization) {
    static const char scheme[] = "Bearer";
    if (strncasecmp(authorization, scheme, sizeof scheme - 1)) return NULL;
    const char *p = authorization + sizeof scheme - 1;
    if (*p != ' ') return NULL;
    return p + strspn(p, " ");
}

static bool same(const key *a, const key *b) {
    unsigned char differ = 0;
    for (size_t i = 0; i < GUARD_MAX_KEY; i++) {
        differ |= a->text[i] ^ b->text[i];
        __asm__ volatile("" : "+r"(differ)); // or the compiler could stop at the first difference
    }
    return !differ;
}

static bool known(guard *g, const char *text, uint64_t *client) {
    key asked;
    if (!text || !pad_key(&asked, text, strnlen(text, GUARD_MAX_KEY))) return false;
    bool found = false;
    pthread_mutex_lock(&g->lock);
    for (size_t i = 0; i < g->keys.n; i++) found |= same(&asked, &g->keys.list[i]);
    pthread_mutex_unlock(&g->lock);
    if (found) *client = XXH3_64bits_withSeed(asked.text, sizeof asked.text, g->seed);
    return found;
}

bool guard_key(guard *g, const char *authorization, const char *x_api_key, uint64_t *client) {
    return known(g, authorization ? guard_parse_bearer(authorization) : NULL, client) || known(g, x_api_key, client);
}

int guard_reload(guard *g, upg_error *e) {
    keys fresh = {0};
    if (read_keys(g->options, &fresh, e)) return -1;
    pthread_mutex_lock(&g->lock);
    keys old = g->keys;
    g->keys = fresh;
    pthread_mutex_unlock(&g->lock);
    free_keys(&old);
    return 0;
}

// ---- Hosts ----

static bool all_digits(const char *s) {
    if (strlen(s) > 5) return false;
    for (; *s; s++)
        if (!isdigit((unsigned char)*s)) return false;
    return true;
}

// An address in its usual spelling: there are many for one of IPv6.
static bool spell_address(char name[GUARD_MAX_NAME]) {
    unsigned char bytes[16];
    char usual[INET6_ADDRSTRLEN];
    int family = strchr(name, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(family, name, bytes) != 1 || !inet_ntop(family, bytes, usual, sizeof usual)) return false;
    strcpy(name, usual);
    return true;
}

bool guard_parse_host(const char *host, char name[GUARD_MAX_NAME], bool *address) {
    bool bracket = *host == '[';
    if (bracket) host++;
    size_t n = strcspn(host, bracket ? "]" : ":");
    if (!n || n >= GUARD_MAX_NAME) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)host[i];
        if (!isalnum(c) && c != '.' && c != '-' && c != '_' && !(bracket && c == ':')) return false;
        name[i] = (char)tolower(c);
    }
    name[n] = 0;
    const char *rest = host + n;
    if (bracket && *rest++ != ']') return false;
    if (*rest && (*rest++ != ':' || !all_digits(rest))) return false;
    if (bracket && !strchr(name, ':')) return false;
    *address = spell_address(name);
    return *address || !bracket;
}

bool guard_is_loopback(const char *host) {
    struct in_addr four;
    struct in6_addr six;
    if (!host || !strcasecmp(host, "localhost")) return true;
    if (inet_pton(AF_INET, host, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

// Calls for every item of a comma-separated list until one says yes.
static bool any_item(const char *list, bool (*is)(const void *ctx, const char *item, size_t n), const void *ctx) {
    for (const char *p = list ? list : ""; *p;) {
        p += strspn(p, ", ");
        size_t n = strcspn(p, ", ");
        if (n && is(ctx, p, n)) return true;
        p += n;
    }
    return false;
}

static bool is_name(const void *ctx, const char *item, size_t n) {
    char text[GUARD_MAX_NAME], name[GUARD_MAX_NAME];
    bool address;
    if (n >= sizeof text) return false;
    memcpy(text, item, n);
    text[n] = 0;
    return guard_parse_host(text, name, &address) && !strcmp(name, ctx);
}

bool guard_host(const guard *g, const char *host) {
    char name[GUARD_MAX_NAME], bound[GUARD_MAX_NAME];
    bool address;
    if (!guard_parse_host(host, name, &address)) return false;
    if (address && !g->loopback) return true; // a page of another site has a name, which is what is to be kept out
    if (!strcmp(name, "localhost") || !strcmp(name, "127.0.0.1") || !strcmp(name, "::1")) return true;
    if (g->options->host && strlen(g->options->host) < sizeof bound) {
        for (size_t i = 0; i <= strlen(g->options->host); i++) bound[i] = (char)tolower(g->options->host[i]);
        spell_address(bound);
        if (!strcmp(name, bound)) return true;
    }
    return any_item(g->options->hosts, is_name, name);
}

// ---- Origins ----

static bool is_origin(const void *ctx, const char *item, size_t n) {
    const char *origin = ctx;
    return strlen(origin) == n && !strncasecmp(item, origin, n);
}

static bool is_star(const void *ctx, const char *item, size_t n) {
    (void)ctx;
    return n == 1 && *item == '*';
}

guard_origin guard_check_origin(const guard *g, const char *origin, const char *host, bool tls) {
    const char *scheme = tls ? "https://" : "http://";
    size_t n = strlen(scheme);
    if (host && !strncasecmp(origin, scheme, n) && !strcasecmp(origin + n, host)) return GUARD_SAME_ORIGIN;
    if (any_item(g->options->origins, is_origin, origin)) return GUARD_LISTED;
    return any_item(g->options->origins, is_star, NULL) ? GUARD_ANY : GUARD_FOREIGN;
}

// ---- Making and freeing ----

guard *guard_new(const server_options *o, upg_error *e) {
    guard *g = upg_alloc(1, sizeof *g, e);
    if (!g) return NULL;
    pthread_mutex_init(&g->lock, NULL);
    g->options = o;
    g->loopback = guard_is_loopback(o->host);
    if (getrandom(&g->seed, sizeof g->seed, 0) != sizeof g->seed) g->seed = (uint64_t)(uintptr_t)g;
    int rc = read_keys(o, &g->keys, e);
    if (!rc && o->insecure && g->keys.n)
        rc = upg_fail(e, "--insecure asks for no key, but there are keys (--api-key-file or UPG_API_KEY)");
    if (!rc && !o->insecure && !g->keys.n && !g->loopback)
        rc = upg_fail(e,
                      "%s can be reached from other machines: give keys with --api-key-file FILE or UPG_API_KEY, or "
                      "say --insecure",
                      o->host);
    if (!rc) return g;
    guard_free(g);
    return NULL;
}

void guard_free(guard *g) {
    if (!g) return;
    free_keys(&g->keys);
    pthread_mutex_destroy(&g->lock);
    free(g);
}
