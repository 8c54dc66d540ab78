// Headers that decide who is let in: any bytes as Host, Origin, Authorization and x-api-key (a line each) are judged
// without harm, and whatever name a Host is parsed to is parsed to itself.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "server/guard.h"

static void check_host(const char *host) {
    char name[GUARD_MAX_NAME], again[GUARD_MAX_NAME], text[GUARD_MAX_NAME + 3];
    bool address, address_again;
    if (!guard_parse_host(host, name, &address)) return;
    snprintf(text, sizeof text, strchr(name, ':') ? "[%s]" : "%s", name);
    if (!guard_parse_host(text, again, &address_again) || strcmp(name, again) || address != address_again) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static guard *closed, *open;
    static const server_options closed_options = {.hosts = "model.example, other.example",
                                                  .origins = "https://page.example,http://localhost:3000"},
                                open_options = {.host = "::", .origins = "*"};
    if (!closed) {
        setenv("UPG_API_KEY", "a-key", 1);
        closed = guard_new(&closed_options, NULL);
        open = guard_new(&open_options, NULL);
    }
    char *text = malloc(size + 1);
    if (!text || !closed || !open) abort();
    memcpy(text, data, size);
    text[size] = 0;
    const char *lines[4] = {"", "", "", ""};
    char *p = text;
    for (int i = 0; i < 4 && p; i++) lines[i] = strsep(&p, "\n");
    uint64_t client = 0;
    check_host(lines[0]);
    guard_host(closed, lines[0]);
    guard_host(open, lines[0]);
    guard_check_origin(closed, lines[1], lines[0], size & 1);
    guard_check_origin(open, lines[1], lines[0], size & 1);
    bool has = memmem(data, size, "a-key", 5);
    if (guard_key(closed, lines[2], lines[3], &client) && !has) abort();
    free(text);
    return 0;
}
