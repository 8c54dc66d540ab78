// Host, Origin and Authorization headers: what is let in is written out here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "server/guard.h"

static void hosts_are_parsed(void **state) {
    (void)state;
    static const struct {
        const char *host, *name; // NULL: refused
        bool address;
    } cases[] = {{"localhost", "localhost", false},
                 {"LocalHost:8080", "localhost", false},
                 {"127.0.0.1:80", "127.0.0.1", true},
                 {"[::1]", "::1", true},
                 {"[0:0:0:0:0:0:0:1]:8080", "::1", true},
                 {"a-b_c.example:1", "a-b_c.example", false},
                 {"", NULL, false},
                 {":80", NULL, false},
                 {"host:", "host", false},
                 {"host:80a", NULL, false},
                 {"host:123456", NULL, false},
                 {"host:80:80", NULL, false},
                 {"ho st", NULL, false},
                 {"user@host", NULL, false},
                 {"host/path", NULL, false},
                 {"host#", NULL, false},
                 {"host,other", NULL, false},
                 {"::1", NULL, false},
                 {"[::1", NULL, false},
                 {"[::1]x", NULL, false},
                 {"[localhost]", NULL, false},
                 {"[127.0.0.1]", NULL, false},
                 {"[]", NULL, false},
                 {"\xc3\xa9.example", NULL, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[GUARD_MAX_NAME];
        bool address = false, ok = guard_parse_host(cases[i].host, name, &address);
        if (ok != (cases[i].name != NULL)) fail_msg("'%s' was%s taken", cases[i].host, ok ? "" : " not");
        if (!ok) continue;
        assert_string_equal(name, cases[i].name);
        assert_int_equal(address, cases[i].address);
    }
    char name[GUARD_MAX_NAME], long_name[GUARD_MAX_NAME + 10];
    bool address;
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    assert_false(guard_parse_host(long_name, name, &address));
}

static void bearers_are_parsed(void **state) {
    (void)state;
    assert_string_equal(guard_parse_bearer("Bearer abc"), "abc");
    assert_string_equal(guard_parse_bearer("bEARER   abc"), "abc");
    assert_null(guard_parse_bearer("Bearerabc"));
    assert_null(guard_parse_bearer("Basic abc"));
    assert_null(guard_parse_bearer("Bear"));
    assert_null(guard_parse_bearer(""));
}

static guard *make(const server_options *o) {
    upg_error e;
    guard *g = guard_new(o, &e);
    if (!g) fail_msg("%s", e.message);
    return g;
}

static void loopback_answers_to_its_names_only(void **state) {
    (void)state;
    server_options o = {.hosts = "one.example, two.example"};
    guard *g = make(&o);
    static const char *const ours[] = {"localhost", "127.0.0.1", "[::1]:1", "one.example", "TWO.example:8080"},
                             *const others[] = {
                                 "three.example", "192.168.0.1", "[fe80::1]",  "one.example.evil",
                                 "one",           "127.0.0.2",   "localhost.", "one.example, two.example"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (!guard_host(g, ours[i])) fail_msg("%s", ours[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (guard_host(g, others[i])) fail_msg("%s", others[i]);
    guard_free(g);
}

static void other_addresses_answer_to_any_address(void **state) {
    (void)state;
    server_options o = {.host = "0.0.0.0", .insecure = true};
    guard *g = make(&o);
    assert_true(guard_host(g, "192.168.0.1:8080"));
    assert_true(guard_host(g, "[2001:db8::1]"));
    assert_true(guard_host(g, "localhost"));
    assert_false(guard_host(g, "evil.example"));
    guard_free(g);
    o.host = "Model.Example";
    g = make(&o);
    assert_true(guard_host(g, "model.example:80"));
    guard_free(g);
}

static void origins(void **state) {
    (void)state;
    server_options o = {.origins = "https://a.example,http://b.example:8080"};
    guard *g = make(&o);
    assert_int_equal(guard_check_origin(g, "http://localhost:8080", "localhost:8080", false), GUARD_SAME_ORIGIN);
    assert_int_equal(guard_check_origin(g, "https://localhost:8080", "localhost:8080", false), GUARD_FOREIGN);
    assert_int_equal(guard_check_origin(g, "https://localhost:8080", "localhost:8080", true), GUARD_SAME_ORIGIN);
    assert_int_equal(guard_check_origin(g, "http://localhost", "localhost:8080", false), GUARD_FOREIGN);
    assert_int_equal(guard_check_origin(g, "https://a.example", "localhost", false), GUARD_LISTED);
    assert_int_equal(guard_check_origin(g, "http://b.example:8080", "localhost", false), GUARD_LISTED);
    assert_int_equal(guard_check_origin(g, "http://b.example", "localhost", false), GUARD_FOREIGN);
    assert_int_equal(guard_check_origin(g, "https://a.example.evil", "localhost", false), GUARD_FOREIGN);
    assert_int_equal(guard_check_origin(g, "null", "localhost", false), GUARD_FOREIGN);
    assert_int_equal(guard_check_origin(g, "", NULL, false), GUARD_FOREIGN);
    guard_free(g);
    o.origins = "*";
    g = make(&o);
    assert_int_equal(guard_check_origin(g, "null", "localhost", false), GUARD_ANY);
    guard_free(g);
}

static void addresses_that_others_reach_need_a_key(void **state) {
    (void)state;
    static const char *const loopback[] = {NULL, "localhost", "127.0.0.1", "127.1.2.3", "::1"},
                             *const open[] = {"0.0.0.0", "::", "192.168.0.1", "model.example", "127.0.0.1.example"};
    upg_error e;
    for (size_t i = 0; i < 5; i++) {
        assert_true(guard_is_loopback(loopback[i]));
        assert_false(guard_is_loopback(open[i]));
        server_options o = {.host = open[i]};
        assert_null(guard_new(&o, &e));
        assert_non_null(strstr(e.message, "--insecure"));
        setenv("UPG_API_KEY", "k", 1);
        guard *g = make(&o);
        uint64_t client = 0;
        assert_true(guard_has_keys(g) && guard_key(g, "Bearer k", NULL, &client) && guard_key(g, NULL, "k", &client));
        assert_false(guard_key(g, NULL, "kk", &client) || guard_key(g, NULL, "", &client) ||
                     guard_key(g, "Bearer ", NULL, &client) || guard_key(g, NULL, NULL, &client));
        guard_free(g);
        o.insecure = true;
        assert_null(guard_new(&o, &e));
        setenv("UPG_API_KEY", "not a key", 1);
        o.insecure = false;
        assert_null(guard_new(&o, &e));
        unsetenv("UPG_API_KEY");
    }
}

int main(void) {
    unsetenv("UPG_API_KEY");
    const struct CMUnitTest tests[] = {cmocka_unit_test(hosts_are_parsed),
                                       cmocka_unit_test(bearers_are_parsed),
                                       cmocka_unit_test(loopback_answers_to_its_names_only),
                                       cmocka_unit_test(other_addresses_answer_to_any_address),
                                       cmocka_unit_test(origins),
                                       cmocka_unit_test(addresses_that_others_reach_need_a_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
