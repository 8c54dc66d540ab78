// JSON as the readers of this folder need it: strict, with one message naming the file, and without duplicate keys (of
// two values for one key different programs take different ones, so a file that has both has no meaning).
#pragma once
#include "base/base.h"
#include "yyjson.h"

enum { UPG_JSON_MAX = 64 << 20 }; // bytes a JSON file may have

// name is for messages. The text must be one JSON object whose own keys are unique; the caller frees with
// yyjson_doc_free.
yyjson_doc *upg_json_object(const char *text, size_t size, yyjson_read_flag flags, const char *name, upg_error *e);
// Refuses an object two of whose own keys are equal, or one of whose keys holds a NUL.
int upg_json_unique_keys(yyjson_val *object, const char *name, upg_error *e);
// The string, or NULL if v is not a string or holds a NUL.
const char *upg_json_string(yyjson_val *v);
// Appends a JSON string, quoted and escaped; s is UTF-8.
void upg_json_quote(upg_buf *b, const char *s, size_t n);
