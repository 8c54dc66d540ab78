// The fields of a request's JSON body. Untrusted: whatever is not as it should be is answered with a 400 that names the
// field, and then every further call does nothing, so a handler asks once at the end. A field that is null is absent;
// fields that nobody asks for are ignored.
#pragma once
#include "server/server.h"
#include "yyjson.h"

typedef struct params {
    exchange *x;
    yyjson_doc *doc;
    yyjson_val *root; // the object whose fields are read
    bool refused;     // the exchange is answered, and not to be touched
} params;

enum { PARAMS_DEPTH = 128 }; // of nesting

void params_open(params *p, exchange *x);
void params_close(params *p);
void params_refuse(params *p, const char *field, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void params_fail(params *p, const upg_error *e); // a 400 with the message of something else

yyjson_val *params_get(params *p, const char *name); // NULL if absent
// Each leaves *out as it is if the field is absent.
void params_bool(params *p, const char *name, bool *out);
void params_int(params *p, const char *name, int64_t lo, int64_t hi, int *out);
void params_seed(params *p, const char *name, uint64_t *out); // any whole number; negative ones count from 2^64
void params_float(params *p, const char *name, double lo, double hi, float *out);
const char *params_string(params *p, const char *name); // without NUL; NULL if absent
yyjson_val *params_array(params *p, const char *name);
yyjson_val *params_object(params *p, const char *name);
// A string, or an array of at most max of them; each has at least one byte and no NUL. Returns how many.
int params_strings(params *p, const char *name, int max, const char **out);
// Refuses by name what is there of these fields, and is not false, 0 or empty. names ends with NULL.
void params_none_of(params *p, const char *const *names);
