// What the files of the template interpreter share: an arena, values, the syntax tree, the state of a render.
//
// Values are small and passed by value. Everything they point to lives in the render's arena (or, for constants, in the
// template's) and never changes once made, but for namespaces, loops and iterators; nothing is freed before the arena.
// Functions return 0, or -1 with the message in the interpreter's error.
#pragma once
#include <string.h>
#include "text/template.h"

enum { TPL_PARSE_DEPTH = 80, TPL_MAX_ARGS = 64, TPL_MAX_RANGE = 100000, TPL_PARSE_MEMORY = 64 << 20 };

typedef struct tpl_chunk {
    struct tpl_chunk *next;
    size_t size, used; // bytes after the header
} tpl_chunk;
typedef struct tpl_arena {
    tpl_chunk *chunks;
    size_t total, limit;
} tpl_arena;
void *tpl_arena_alloc(tpl_arena *a, size_t n); // zeroed, 16-byte aligned; NULL beyond the limit
void tpl_arena_free(tpl_arena *a);

typedef enum tpl_kind {
    TPL_UNDEFINED,
    TPL_NONE,
    TPL_BOOL,
    TPL_INT,
    TPL_FLOAT,
    TPL_BIG, // an integer of the context beyond 64 bits, as its digits
    TPL_STR,
    TPL_LIST,
    TPL_TUPLE,
    TPL_DICT,
    TPL_RANGE,
    TPL_VIEW, // dict.keys(), .values(), .items()
    TPL_ITER, // what filters such as map return: can be walked once, is always true
    TPL_NAMESPACE,
    TPL_LOOP,
    TPL_MACRO,
    TPL_FUNCTION, // a global function
    TPL_METHOD,   // a method and what it was looked up on
    TPL_MISSING,  // no value: an argument not given
} tpl_kind;

typedef struct tpl_str {
    const char *p;       // [n] UTF-8
    const uint8_t *mark; // [n] whether the template wrote the byte; NULL: the value's trusted says it for all
    size_t n;
    size_t chars;
} tpl_str;

typedef struct tpl_value {
    uint8_t kind;
    bool trusted; // written by the template (scalars and strings without marks)
    bool markup;  // a string that safe or escape made
    union {
        bool b;
        int64_t i;
        double f;
        const tpl_str *s; // TPL_STR, TPL_BIG
        const char *hint; // TPL_UNDEFINED: the error when it is used
        const struct tpl_list *list;
        struct tpl_dict *dict; // TPL_DICT, TPL_NAMESPACE
        const struct tpl_range *range;
        const struct tpl_view *view;
        struct tpl_iter *iter;
        struct tpl_loop *loop;
        const struct tpl_macro *macro;
        const struct tpl_method *method;
        int function;
    };
} tpl_value;

typedef struct tpl_list {
    const tpl_value *items; // [n]
    size_t n;
} tpl_list;
typedef struct tpl_dict {
    tpl_value *keys, *values; // [capacity], n used, in order of insertion
    size_t n, capacity;
    uint32_t *index; // [index_size] 1 + position, open addressing; NULL while small
    size_t index_size;
} tpl_dict;
typedef struct tpl_range {
    int64_t start, stop, step;
    size_t n;
} tpl_range;
typedef struct tpl_view {
    char what; // 'k', 'v' or 'i'
    const tpl_dict *dict;
} tpl_view;
typedef struct tpl_iter {
    const tpl_value *items;
    size_t n, at;
} tpl_iter;
typedef struct tpl_method {
    tpl_value self;
    int id;
} tpl_method;

typedef struct tpl_args {
    const tpl_value *pos; // [n]
    size_t n;
    const tpl_value *kw; // [n_kw]
    const tpl_str *const *kw_names;
    size_t n_kw;
} tpl_args;

// Tokens
typedef enum tpl_token_type {
    TPL_T_EOF,
    TPL_T_DATA,
    TPL_T_VARIABLE_BEGIN,
    TPL_T_VARIABLE_END,
    TPL_T_BLOCK_BEGIN,
    TPL_T_BLOCK_END,
    TPL_T_NAME,
    TPL_T_STRING,
    TPL_T_INT,
    TPL_T_FLOAT,
    TPL_T_OP, // op is the character, or one of those below
} tpl_token_type;
enum { TPL_OP_POW = 256, TPL_OP_FLOORDIV, TPL_OP_EQ, TPL_OP_NE, TPL_OP_GE, TPL_OP_LE, TPL_OP_IN, TPL_OP_NOT_IN };

typedef struct tpl_token {
    tpl_token_type type;
    int line, op;
    const tpl_str *s; // data, name, string
    int64_t i;
    double f;
} tpl_token;

// Syntax tree. Which fields a node uses stands beside its type.
typedef enum tpl_node_type {
    TPL_N_BODY,         // items
    TPL_N_DATA,         // value
    TPL_N_OUTPUT,       // a
    TPL_N_IF,           // items: test, body, test, body, ...; b: else
    TPL_N_FOR,          // target a, iterable b, test c, body d, else e
    TPL_N_SET,          // target a, value b
    TPL_N_SET_BLOCK,    // target a, filters b (NULL), body d
    TPL_N_FILTER_BLOCK, // filters b, body d
    TPL_N_MACRO,        // id; items: parameters; defaults kw; body d; op: whether it uses caller
    TPL_N_CALL_BLOCK,   // call a, macro b
    TPL_N_SCOPE,        // body d, in a scope of its own (generation)
    TPL_N_WITH,         // items: target, value, ...; body d
    TPL_N_BREAK,
    TPL_N_CONTINUE,
    TPL_N_CONST,       // value
    TPL_N_NAME,        // id, name
    TPL_N_NSREF,       // id, name: an attribute of a namespace, as a target
    TPL_N_LIST,        // items
    TPL_N_TUPLE,       // items
    TPL_N_DICT,        // items: key, value, ...
    TPL_N_COND,        // test a, then b, else c (NULL)
    TPL_N_AND,         // a, b
    TPL_N_OR,          // a, b
    TPL_N_NOT,         // a
    TPL_N_NEG,         // a
    TPL_N_POS,         // a
    TPL_N_BINARY,      // op, a, b
    TPL_N_CONCAT,      // items
    TPL_N_COMPARE,     // a, items, ops
    TPL_N_GETATTR,     // a, name
    TPL_N_GETITEM,     // a, b
    TPL_N_SLICE,       // a, from b, to c, step d
    TPL_N_CALL,        // a, arguments
    TPL_N_FILTER,      // a, id, arguments
    TPL_N_TEST,        // a, id, arguments
    TPL_N_BLOCK_VALUE, // what a filter or set block captured
} tpl_node_type;

typedef struct tpl_node {
    tpl_node_type type;
    int line, op;
    int id; // of a name, filter or test
    const tpl_str *name;
    struct tpl_node *a, *b, *c, *d, *e;
    struct tpl_node **items; // [n]: children, or positional arguments
    size_t n;
    struct tpl_node **kw; // [n_kw]: keyword arguments, or a macro's defaults [n] (NULL: none)
    const tpl_str **kw_names;
    size_t n_kw;
    int *ops; // [n] of a comparison
    tpl_value value;
} tpl_node;

struct upg_template {
    tpl_arena arena;
    tpl_node *body;
    const tpl_str **names; // [n_names]: by id
    size_t n_names, names_capacity;
};

typedef struct tpl_scope {
    struct tpl_scope *parent;
    int *ids;          // [capacity]
    tpl_value *values; // [capacity]
    size_t n, capacity;
} tpl_scope;

typedef struct tpl_macro {
    const tpl_node *node;
    tpl_scope *scope; // it was defined in
} tpl_macro;

typedef struct tpl_loop {
    const tpl_node *node;
    tpl_scope *scope;        // around the loop
    const tpl_value *source; // [n_source]
    size_t n_source, read;   // read: elements of source that were looked at
    const tpl_value **got;   // [n_got] those that passed the loop's test
    size_t n_got, at;
    tpl_value changed;
} tpl_loop;

// A string being built.
typedef struct tpl_builder {
    char *p;
    uint8_t *mark;
    size_t n, capacity;
} tpl_builder;

typedef struct tpl_interp {
    const upg_template *template;
    tpl_arena arena;
    upg_error *e;
    upg_template_limits limits;
    uint64_t steps;
    int depth, line;
    tpl_value *globals; // [n_names] TPL_MISSING: neither in the context nor a function
    tpl_builder *out;
    tpl_value block_value;
    const int64_t *now;
    int loop_control; // 0, TPL_N_BREAK or TPL_N_CONTINUE while one is on its way to its loop
} tpl_interp;

// template_value.c
int tpl_fail(tpl_interp *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *tpl_alloc(tpl_interp *t, size_t count, size_t size);
int tpl_charge(tpl_interp *t, size_t bytes); // counts work on bytes
int tpl_enter(tpl_interp *t);                // one level deeper; fails without having entered
static inline void tpl_leave(tpl_interp *t) {
    t->depth--;
}

static inline tpl_value tpl_none(void) {
    return (tpl_value){.kind = TPL_NONE, .trusted = true};
}
static inline tpl_value tpl_missing(void) {
    return (tpl_value){.kind = TPL_MISSING};
}
static inline tpl_value tpl_bool(bool b) {
    return (tpl_value){.kind = TPL_BOOL, .trusted = true, .b = b};
}
static inline tpl_value tpl_int(int64_t i, bool trusted) {
    return (tpl_value){.kind = TPL_INT, .trusted = trusted, .i = i};
}
static inline tpl_value tpl_float(double f, bool trusted) {
    return (tpl_value){.kind = TPL_FLOAT, .trusted = trusted, .f = f};
}
static inline bool tpl_is(tpl_value v, tpl_kind kind) {
    return v.kind == kind;
}
static inline bool tpl_given(tpl_value v) {
    return v.kind != TPL_MISSING;
}
static inline bool tpl_integral(tpl_value v) {
    return v.kind == TPL_INT || v.kind == TPL_BOOL;
}
static inline bool tpl_number(tpl_value v) {
    return tpl_integral(v) || v.kind == TPL_FLOAT;
}
static inline int64_t tpl_as_int(tpl_value v) {
    return v.kind == TPL_BOOL ? v.b : v.i;
}
static inline double tpl_as_double(tpl_value v) {
    return v.kind == TPL_FLOAT ? v.f : (double)tpl_as_int(v);
}

size_t tpl_count_chars(const char *p, size_t n);
int tpl_text(tpl_interp *t, const char *p, size_t n, bool trusted, tpl_value *out); // p is kept, not copied
int tpl_cstr(tpl_interp *t, const char *s, tpl_value *out);                         // copied; trusted
int tpl_substr(tpl_interp *t, tpl_value s, size_t at, size_t n, tpl_value *out);    // bytes
bool tpl_str_is(tpl_value v, const char *s);
bool tpl_name_is(const tpl_str *s, const char *name);
int tpl_undefined_value(tpl_interp *t, tpl_value *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int tpl_list_value(tpl_interp *t, tpl_kind kind, const tpl_value *items, size_t n, tpl_value *out); // LIST, TUPLE, ITER

int tpl_add(tpl_interp *t, tpl_builder *b, const char *p, size_t n, bool trusted);
int tpl_add_sub(tpl_interp *t, tpl_builder *b, tpl_value s, size_t at, size_t n); // bytes of a string
static inline int tpl_add_str(tpl_interp *t, tpl_builder *b, tpl_value s) {
    return tpl_add_sub(t, b, s, 0, s.s->n);
}
int tpl_built(tpl_interp *t, const tpl_builder *b, tpl_value *out);

int tpl_dict_new(tpl_interp *t, tpl_value *out);
bool tpl_hashable(tpl_value v);
const tpl_value *tpl_dict_get(const tpl_dict *d, tpl_value key); // NULL: absent
const tpl_value *tpl_dict_find(const tpl_dict *d, const char *key, size_t n);
int tpl_dict_set(tpl_interp *t, tpl_dict *d, tpl_value key, tpl_value v);

const char *tpl_type_name(tpl_value v); // as Python calls it
bool tpl_true(tpl_value v);
int tpl_length(tpl_interp *t, tpl_value v, size_t *n);
int tpl_items(tpl_interp *t, tpl_value v, const tpl_value **items, size_t *n); // walks; an iterator is then at its end
int tpl_equal(tpl_interp *t, tpl_value a, tpl_value b, bool *equal);
int tpl_order(tpl_interp *t, tpl_value a, tpl_value b, const char *op, int *order); // -1, 0, 1; 2: unordered (NaN)
int tpl_contains(tpl_interp *t, tpl_value container, tpl_value v, bool *found);
size_t tpl_find_bytes(const char *p, size_t n, const char *what, size_t m); // SIZE_MAX: absent

// template_format.c
size_t tpl_float_repr(double f, char out[40]);
int tpl_str_of(tpl_interp *t, tpl_value v, tpl_value *out); // Python's str()
int tpl_add_repr(tpl_interp *t, tpl_builder *b, tpl_value v);
int tpl_tojson(tpl_interp *t, const tpl_args *args, tpl_value *out); // args->pos[0] is the value
int tpl_percent(tpl_interp *t, tpl_value format, tpl_value arg, tpl_value *out);
int tpl_str_format(tpl_interp *t, tpl_value format, const tpl_args *args, tpl_value *out);
int tpl_strftime(tpl_interp *t, tpl_value format, tpl_value *out);

// template_lex.c, template_parse.c
int tpl_lex(upg_template *t, const char *text, size_t n, tpl_token **tokens, upg_error *e);
int tpl_parse(upg_template *t, const tpl_token *tokens, upg_error *e);

// template_filter.c, template_test.c: ids, or -1; the input is args->pos[0]
int tpl_filter_id(const tpl_str *name);
int tpl_filter(tpl_interp *t, int id, const tpl_args *args, tpl_value *out);
int tpl_test_id(const tpl_str *name);
int tpl_test(tpl_interp *t, int id, const tpl_args *args, bool *out);
int tpl_bind(tpl_interp *t, const char *what, const tpl_args *args, const char *const *names, size_t n, tpl_value *out);

// template_method.c
int tpl_getattr(tpl_interp *t, tpl_value v, const tpl_str *name, tpl_value *out);
int tpl_getitem(tpl_interp *t, tpl_value v, tpl_value key, tpl_value *out);
int tpl_slice(tpl_interp *t, tpl_value v, tpl_value from, tpl_value to, tpl_value step, tpl_value *out);
int tpl_call_method(tpl_interp *t, const tpl_method *m, const tpl_args *args, tpl_value *out);

// template_string.c
bool tpl_space(uint32_t cp); // str.isspace
int tpl_decode(const char *p, size_t n, uint32_t *cp);
int tpl_strip(tpl_interp *t, tpl_value s, tpl_value chars, bool left, bool right, tpl_value *out);
int tpl_replace(tpl_interp *t, tpl_value s, tpl_value old, tpl_value by, int64_t count, tpl_value *out);
int tpl_join(tpl_interp *t, tpl_value separator, const tpl_value *items, size_t n, bool convert, tpl_value *out);
int tpl_case(tpl_interp *t, tpl_value s, char how,
             tpl_value *out); // 'u'pper, 'l'ower, 'c'apitalize, 't'itle, 'T': filter
int tpl_string_method(tpl_interp *t, tpl_value s, const char *name, const tpl_args *args, tpl_value *out);
bool tpl_string_method_known(const tpl_str *name, bool *supported);
bool tpl_is_case(tpl_value s, bool upper);                  // str.isupper, str.islower
int tpl_escape(tpl_interp *t, tpl_value s, tpl_value *out); // HTML

// template_exec.c
int tpl_eval(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out);
int tpl_call(tpl_interp *t, tpl_value f, const tpl_args *args, tpl_value *out);
int tpl_loop_attr(tpl_interp *t, tpl_loop *loop, const tpl_str *name, tpl_value *out); // 1: no such attribute
int tpl_exec(tpl_interp *t, const tpl_node *n, tpl_scope *scope);
int tpl_assign(tpl_interp *t, const tpl_node *target, tpl_scope *scope, tpl_value v);
int tpl_scope_new(tpl_interp *t, tpl_scope *parent, tpl_scope **out);
int tpl_scope_set(tpl_interp *t, tpl_scope *s, int id, tpl_value v);
int tpl_loop_call(tpl_interp *t, tpl_loop *loop, bool cycle, const tpl_args *args, tpl_value *out);
int tpl_binary(tpl_interp *t, int op, tpl_value a, tpl_value b, tpl_value *out);
int tpl_call_macro(tpl_interp *t, const tpl_macro *m, const tpl_args *args, tpl_value *out);
int tpl_capture(tpl_interp *t, const tpl_node *body, tpl_scope *scope, tpl_value *out);
