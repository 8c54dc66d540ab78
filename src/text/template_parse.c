// The syntax tree of a template, by the grammar of jinja2's parser. What it allows and this interpreter does not is
// refused here, by name, wherever that can be seen without running the template.
#include "text/template_internal.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct parser {
    upg_template *t;
    const tpl_token *at;
    upg_error *e;
    int depth;
    int loops;        // loops around this place, up to the nearest block that break cannot leave
    bool uses_caller; // in the macro being parsed
    int macros;       // macros around this place
    bool no_memory;
} parser;

static tpl_node *expression(parser *p);
static tpl_node *primary(parser *p, bool namespace);
static tpl_node *unary(parser *p, bool with_filter);
static tpl_node *or_expression(parser *p);
static tpl_node *body(parser *p, const char *const *ends);

static tpl_node *failed(parser *p, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static tpl_node *failed(parser *p, int line, const char *fmt, ...) {
    char message[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    upg_fail(p->e, "chat template line %d: %s", line, message);
    return NULL;
}

static void *take(parser *p, size_t count, size_t size) {
    void *q = tpl_arena_alloc(&p->t->arena, count ? count * size : 1);
    if (!q) failed(p, p->at->line, "the template is too large");
    return q;
}

static tpl_node *node(parser *p, tpl_node_type type, int line) {
    tpl_node *n = take(p, 1, sizeof *n);
    if (n) *n = (tpl_node){.type = type, .line = line};
    return n;
}

static bool deeper(parser *p) {
    if (p->depth >= TPL_PARSE_DEPTH) return failed(p, p->at->line, "nested too deep"), false;
    p->depth++;
    return true;
}

static bool is_op(const parser *p, int op) {
    return p->at->type == TPL_T_OP && p->at->op == op;
}
static bool is_name(const tpl_token *k, const char *name) {
    return k->type == TPL_T_NAME && tpl_name_is(k->s, name);
}
static bool skip_op(parser *p, int op) {
    return is_op(p, op) ? p->at++, true : false;
}
static bool skip_name(parser *p, const char *name) {
    return is_name(p->at, name) ? p->at++, true : false;
}

static const char *describe(const tpl_token *k, char buf[64]) {
    static const char *const kinds[] = {"the end of the template", "text", "'{{'", "'}}'", "'{%'", "'%}'"};
    if (k->type <= TPL_T_BLOCK_END) return kinds[k->type];
    if (k->type == TPL_T_NAME)
        snprintf(buf, 64, "'%.*s'", k->s->n > 40 ? 40 : (int)k->s->n, k->s->p);
    else if (k->type == TPL_T_OP && k->op < 256)
        snprintf(buf, 64, "'%c'", k->op);
    else
        snprintf(buf, 64, k->type == TPL_T_STRING ? "a string" : k->type == TPL_T_OP ? "an operator" : "a number");
    return buf;
}

static tpl_node *unexpected(parser *p, const char *wanted) {
    char buf[64];
    return failed(p, p->at->line, "expected %s, found %s", wanted, describe(p->at, buf));
}

static bool expect_op(parser *p, int op) {
    char wanted[8];
    snprintf(wanted, sizeof wanted, "'%c'", op);
    return skip_op(p, op) || (unexpected(p, wanted), false);
}

static bool expect(parser *p, tpl_token_type type, const char *wanted) {
    if (p->at->type == type) return p->at++, true;
    unexpected(p, wanted);
    return false;
}

static int name_id(parser *p, const tpl_str *name) {
    upg_template *t = p->t;
    for (size_t i = 0; i < t->n_names; i++)
        if (t->names[i]->n == name->n && !memcmp(t->names[i]->p, name->p, name->n)) return (int)i;
    if (t->n_names == t->names_capacity) {
        size_t capacity = t->names_capacity ? t->names_capacity * 2 : 32;
        if (capacity > 4096) return failed(p, p->at->line, "more than 4096 names"), -1;
        const tpl_str **names = take(p, capacity, sizeof *names);
        if (!names) return -1;
        if (t->n_names) memcpy(names, t->names, t->n_names * sizeof *names);
        t->names = names;
        t->names_capacity = capacity;
    }
    t->names[t->n_names] = name;
    return (int)t->n_names++;
}

// A growing list of children, in the template's arena.
typedef struct children {
    tpl_node **items;
    size_t n, capacity;
} children;

static bool add(parser *p, children *c, tpl_node *n) {
    if (!n) return false;
    if (c->n == c->capacity) {
        size_t capacity = c->capacity ? c->capacity * 2 : 4;
        tpl_node **items = take(p, capacity, sizeof *items);
        if (!items) return false;
        if (c->n) memcpy(items, c->items, c->n * sizeof *items);
        c->items = items;
        c->capacity = capacity;
    }
    c->items[c->n++] = n;
    return true;
}

static tpl_node *with_children(tpl_node *n, const children *c) {
    if (!n) return NULL;
    n->items = c->items;
    n->n = c->n;
    return n;
}

static tpl_node *constant(parser *p, int line, tpl_value v) {
    tpl_node *n = node(p, TPL_N_CONST, line);
    if (n) n->value = v;
    return n;
}

static tpl_node *name_node(parser *p, const tpl_token *k) {
    tpl_node *n = node(p, TPL_N_NAME, k->line);
    if (!n) return NULL;
    static const char *const refused[] = {"varargs", "kwargs"};
    for (size_t i = 0; p->macros && i < 2; i++)
        if (is_name(k, refused[i])) return failed(p, k->line, "'%s' in a macro is not supported", refused[i]);
    if (is_name(k, "caller")) p->uses_caller = true;
    n->name = k->s;
    n->id = name_id(p, k->s);
    return n->id < 0 ? NULL : n;
}

// Items up to `close`, separated by commas, the last one perhaps followed by one. pairs: key: value.
static tpl_node *collection(parser *p, tpl_node_type type, int close, bool pairs) {
    tpl_node *n = node(p, type, p->at->line);
    children c = {0};
    p->at++;
    while (!is_op(p, close)) {
        if (c.n && !expect_op(p, ',')) return NULL;
        if (is_op(p, close)) break;
        if (!add(p, &c, expression(p))) return NULL;
        if (pairs && (!expect_op(p, ':') || !add(p, &c, expression(p)))) return NULL;
    }
    p->at++;
    return with_children(n, &c);
}

// What ends a tuple without brackets: the tag, a ')' or the name.
static bool tuple_ends(const parser *p, const char *name) {
    return p->at->type == TPL_T_VARIABLE_END || p->at->type == TPL_T_BLOCK_END || is_op(p, ')') ||
           (name && is_name(p->at, name));
}

enum { TUPLE_TARGET = 1, TUPLE_NAMESPACE = 2, TUPLE_NO_COND = 4, TUPLE_EMPTY = 8 };

static tpl_node *tuple_item(parser *p, int flags) {
    if (!(flags & TUPLE_TARGET)) return flags & TUPLE_NO_COND ? or_expression(p) : expression(p);
    if (!deeper(p)) return NULL;
    tpl_node *n = primary(p, flags & TUPLE_NAMESPACE);
    p->depth--;
    return n;
}

static tpl_node *tuple(parser *p, int flags, const char *end) {
    int line = p->at->line;
    children c = {0};
    bool comma = false;
    for (;;) {
        if (c.n && !expect_op(p, ',')) return NULL;
        if (tuple_ends(p, end)) break;
        if (!add(p, &c, tuple_item(p, flags))) return NULL;
        if (!is_op(p, ',')) break;
        comma = true;
    }
    if (!comma && c.n) return c.items[0];
    if (!comma && !(flags & TUPLE_EMPTY)) return unexpected(p, "an expression");
    return with_children(node(p, TPL_N_TUPLE, line), &c);
}

static bool assignable(const tpl_node *n) {
    if (n->type == TPL_N_NAME || n->type == TPL_N_NSREF) return true;
    for (size_t i = 0; n->type == TPL_N_TUPLE && i < n->n; i++)
        if (!assignable(n->items[i])) return false;
    return n->type == TPL_N_TUPLE;
}

static tpl_node *target(parser *p, bool namespace, const char *end) {
    tpl_node *n = tuple(p, TUPLE_TARGET | (namespace ? TUPLE_NAMESPACE : 0), end);
    return n && !assignable(n) ? failed(p, n->line, "cannot assign to this expression") : n;
}

// Adjacent strings are one.
static tpl_node *strings(parser *p) {
    int line = p->at->line;
    size_t n = 0;
    for (const tpl_token *k = p->at; k->type == TPL_T_STRING; k++) n += k->s->n;
    char *text = take(p, n, 1);
    tpl_str *s = take(p, 1, sizeof *s);
    if (!text || !s) return NULL;
    *s = (tpl_str){.p = text};
    for (; p->at->type == TPL_T_STRING; p->at++) {
        memcpy(text + s->n, p->at->s->p, p->at->s->n);
        s->n += p->at->s->n;
    }
    s->chars = tpl_count_chars(text, s->n);
    return constant(p, line, (tpl_value){.kind = TPL_STR, .trusted = true, .s = s});
}

static tpl_node *named(parser *p, bool namespace) {
    const tpl_token *k = p->at++;
    if (is_name(k, "true") || is_name(k, "True")) return constant(p, k->line, tpl_bool(true));
    if (is_name(k, "false") || is_name(k, "False")) return constant(p, k->line, tpl_bool(false));
    if (is_name(k, "none") || is_name(k, "None")) return constant(p, k->line, tpl_none());
    tpl_node *n = name_node(p, k);
    if (!n || !namespace || !skip_op(p, '.')) return n;
    n->type = TPL_N_NSREF;
    n->name = p->at->s;
    return expect(p, TPL_T_NAME, "a name") ? n : NULL;
}

static tpl_node *primary(parser *p, bool namespace) {
    const tpl_token *k = p->at;
    if (k->type == TPL_T_NAME) return named(p, namespace);
    if (k->type == TPL_T_STRING) return strings(p);
    if (k->type == TPL_T_INT) return p->at++, constant(p, k->line, tpl_int(k->i, true));
    if (k->type == TPL_T_FLOAT) return p->at++, constant(p, k->line, tpl_float(k->f, true));
    if (is_op(p, '[')) return collection(p, TPL_N_LIST, ']', false);
    if (is_op(p, '{')) return collection(p, TPL_N_DICT, '}', true);
    if (!skip_op(p, '(')) return unexpected(p, "an expression");
    tpl_node *n = tuple(p, TUPLE_EMPTY, NULL);
    return n && expect_op(p, ')') ? n : NULL;
}

static tpl_node *subscript(parser *p, tpl_node *of) {
    tpl_node *n = node(p, TPL_N_GETITEM, p->at->line);
    if (!n) return NULL;
    n->a = of;
    if (skip_op(p, '.')) {
        const tpl_token *k = p->at++;
        if (k->type == TPL_T_INT) return (n->b = constant(p, k->line, tpl_int(k->i, true))) ? n : NULL;
        if (k->type != TPL_T_NAME) return p->at--, unexpected(p, "a name or number");
        n->type = TPL_N_GETATTR;
        n->name = k->s;
        return n;
    }
    p->at++;
    if (!is_op(p, ':') && !(n->b = expression(p))) return NULL;
    if (skip_op(p, ':')) {
        n->type = TPL_N_SLICE;
        if (!is_op(p, ':') && !is_op(p, ']') && !(n->c = expression(p))) return NULL;
        if (skip_op(p, ':') && !is_op(p, ']') && !(n->d = expression(p))) return NULL;
    }
    if (is_op(p, ',')) return failed(p, p->at->line, "several subscripts in one pair of brackets are not supported");
    return expect_op(p, ']') ? n : NULL;
}

static bool keyword_argument(parser *p, tpl_node *n) {
    if (n->n_kw == TPL_MAX_ARGS) return failed(p, p->at->line, "too many arguments"), false;
    for (size_t i = 0; i < n->n_kw; i++)
        if (n->kw_names[i]->n == p->at->s->n && !memcmp(n->kw_names[i]->p, p->at->s->p, p->at->s->n))
            return failed(p, p->at->line, "a keyword argument given twice"), false;
    n->kw_names[n->n_kw] = p->at->s;
    p->at += 2;
    return (n->kw[n->n_kw++] = expression(p)) != NULL;
}

// Fills items, kw and kw_names of a call, filter or test.
static bool arguments(parser *p, tpl_node *n) {
    children c = {0};
    bool first = true;
    p->at++;
    for (; !is_op(p, ')'); first = false) {
        if (!first && !expect_op(p, ',')) return false;
        if (is_op(p, ')')) break;
        if (is_op(p, '*') || is_op(p, TPL_OP_POW))
            return failed(p, p->at->line, "'*' and '**' arguments are not supported"), false;
        if (p->at->type == TPL_T_NAME && p->at[1].type == TPL_T_OP && p->at[1].op == '=') {
            if (!n->kw) {
                n->kw = take(p, TPL_MAX_ARGS, sizeof *n->kw);
                n->kw_names = take(p, TPL_MAX_ARGS, sizeof *n->kw_names);
                if (!n->kw || !n->kw_names) return false;
            }
            if (!keyword_argument(p, n)) return false;
            continue;
        }
        if (n->n_kw) return failed(p, p->at->line, "a positional argument after a keyword argument"), false;
        if (c.n == TPL_MAX_ARGS) return failed(p, p->at->line, "too many arguments"), false;
        if (!add(p, &c, expression(p))) return false;
    }
    p->at++;
    with_children(n, &c);
    return true;
}

static tpl_node *call(parser *p, tpl_node *of) {
    tpl_node *n = node(p, TPL_N_CALL, p->at->line);
    if (!n || !arguments(p, n)) return NULL;
    n->a = of;
    return n;
}

static tpl_node *one_filter(parser *p, tpl_node *of) {
    tpl_node *n = node(p, TPL_N_FILTER, p->at->line);
    const tpl_token *k = p->at;
    if (!n || !expect(p, TPL_T_NAME, "the name of a filter")) return NULL;
    n->a = of;
    n->name = k->s;
    n->id = tpl_filter_id(k->s);
    if (n->id < 0) return failed(p, k->line, "filter '%.*s' is not supported", (int)k->s->n, k->s->p);
    return is_op(p, '(') && !arguments(p, n) ? NULL : n;
}

// The filters of a set or filter block, around what the block captures.
static tpl_node *filters(parser *p, bool inline_first) {
    tpl_node *n = node(p, TPL_N_BLOCK_VALUE, p->at->line);
    if (n && inline_first) n = one_filter(p, n);
    while (n && skip_op(p, '|')) n = one_filter(p, n);
    return n;
}

static bool starts_primary(const parser *p) {
    static const char *const not_arguments[] = {"else", "or", "and"};
    for (int i = 0; i < 3; i++)
        if (is_name(p->at, not_arguments[i])) return false;
    return p->at->type == TPL_T_NAME || p->at->type == TPL_T_STRING || p->at->type == TPL_T_INT ||
           p->at->type == TPL_T_FLOAT || is_op(p, '[') || is_op(p, '{');
}

static tpl_node *postfix(parser *p, tpl_node *n) {
    while (n && (is_op(p, '.') || is_op(p, '[') || is_op(p, '('))) n = is_op(p, '(') ? call(p, n) : subscript(p, n);
    return n;
}

static tpl_node *test(parser *p, tpl_node *of) {
    tpl_node *n = node(p, TPL_N_TEST, p->at++->line);
    bool negated = skip_name(p, "not");
    const tpl_token *k = p->at;
    if (!n || !expect(p, TPL_T_NAME, "the name of a test")) return NULL;
    n->a = of;
    n->name = k->s;
    n->id = tpl_test_id(k->s);
    if (n->id < 0) return failed(p, k->line, "test '%.*s' is not supported", (int)k->s->n, k->s->p);
    if (is_op(p, '(')) {
        if (!arguments(p, n)) return NULL;
    } else if (starts_primary(p)) {
        children c = {0};
        if (is_name(p->at, "is")) return failed(p, p->at->line, "tests cannot be chained with 'is'");
        if (!add(p, &c, postfix(p, primary(p, false)))) return NULL;
        with_children(n, &c);
    }
    if (n->n_kw) return failed(p, k->line, "keyword arguments of a test are not supported");
    tpl_node *not = negated ? node(p, TPL_N_NOT, n->line) : n;
    if (not &&negated) not ->a = n;
    return not ;
}

static tpl_node *unary(parser *p, bool with_filter) {
    if (!deeper(p)) return NULL;
    tpl_node *n;
    if (is_op(p, '-') || is_op(p, '+')) {
        n = node(p, is_op(p, '-') ? TPL_N_NEG : TPL_N_POS, p->at->line);
        p->at++;
        if (n && !(n->a = unary(p, false))) n = NULL;
    } else {
        n = primary(p, false);
    }
    n = postfix(p, n);
    while (n && with_filter && (is_op(p, '|') || is_name(p->at, "is") || is_op(p, '('))) {
        if (skip_op(p, '|'))
            n = one_filter(p, n);
        else
            n = is_op(p, '(') ? call(p, n) : test(p, n);
    }
    p->depth--;
    return n;
}

static tpl_node *binary(parser *p, tpl_node_type type, int op, tpl_node *a, tpl_node *b, int line) {
    tpl_node *n = a && b ? node(p, type, line) : NULL;
    if (!n) return NULL;
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

static tpl_node *power(parser *p) {
    int line = p->at->line;
    tpl_node *n = unary(p, true);
    while (n && skip_op(p, TPL_OP_POW)) n = binary(p, TPL_N_BINARY, TPL_OP_POW, n, unary(p, true), line);
    return n;
}

static tpl_node *product(parser *p) {
    int line = p->at->line;
    tpl_node *n = power(p);
    while (n && (is_op(p, '*') || is_op(p, '/') || is_op(p, TPL_OP_FLOORDIV) || is_op(p, '%'))) {
        int op = p->at++->op;
        n = binary(p, TPL_N_BINARY, op, n, power(p), line);
    }
    return n;
}

static tpl_node *concat(parser *p) {
    int line = p->at->line;
    tpl_node *n = product(p);
    if (!n || !is_op(p, '~')) return n;
    children c = {0};
    if (!add(p, &c, n)) return NULL;
    while (skip_op(p, '~'))
        if (!add(p, &c, product(p))) return NULL;
    return with_children(node(p, TPL_N_CONCAT, line), &c);
}

static tpl_node *sum(parser *p) {
    int line = p->at->line;
    tpl_node *n = concat(p);
    while (n && (is_op(p, '+') || is_op(p, '-'))) {
        int op = p->at++->op;
        n = binary(p, TPL_N_BINARY, op, n, concat(p), line);
    }
    return n;
}

static int comparison(parser *p) {
    if (skip_name(p, "in")) return TPL_OP_IN;
    if (is_name(p->at, "not") && is_name(p->at + 1, "in")) return p->at += 2, TPL_OP_NOT_IN;
    static const int ops[] = {TPL_OP_EQ, TPL_OP_NE, '<', '>', TPL_OP_LE, TPL_OP_GE};
    for (int i = 0; i < 6; i++)
        if (skip_op(p, ops[i])) return ops[i];
    return 0;
}

static tpl_node *compare(parser *p) {
    int line = p->at->line, op, ops[16];
    tpl_node *first = sum(p);
    children c = {0};
    while (first && (op = comparison(p))) {
        if (c.n == 16) return failed(p, p->at->line, "a comparison of more than 17 values");
        ops[c.n] = op;
        if (!add(p, &c, sum(p))) return NULL;
    }
    if (!first || !c.n) return first;
    tpl_node *n = with_children(node(p, TPL_N_COMPARE, line), &c);
    if (!n || !(n->ops = take(p, c.n, sizeof *ops))) return NULL;
    memcpy(n->ops, ops, c.n * sizeof *ops);
    n->a = first;
    return n;
}

static tpl_node *not_expression(parser *p) {
    if (!is_name(p->at, "not")) return compare(p);
    if (!deeper(p)) return NULL;
    tpl_node *n = node(p, TPL_N_NOT, p->at++->line);
    if (n && !(n->a = not_expression(p))) n = NULL;
    p->depth--;
    return n;
}

static tpl_node *and_expression(parser *p) {
    int line = p->at->line;
    tpl_node *n = not_expression(p);
    while (n && skip_name(p, "and")) n = binary(p, TPL_N_AND, 0, n, not_expression(p), line);
    return n;
}

static tpl_node *or_expression(parser *p) {
    int line = p->at->line;
    tpl_node *n = and_expression(p);
    while (n && skip_name(p, "or")) n = binary(p, TPL_N_OR, 0, n, and_expression(p), line);
    return n;
}

static tpl_node *expression(parser *p) {
    if (!deeper(p)) return NULL;
    int line = p->at->line;
    tpl_node *n = or_expression(p);
    while (n && skip_name(p, "if")) {
        tpl_node *cond = node(p, TPL_N_COND, line);
        if (!cond) return NULL;
        cond->b = n;
        if (!(cond->a = or_expression(p))) return NULL;
        if (skip_name(p, "else") && !(cond->c = expression(p))) return NULL;
        n = cond;
    }
    p->depth--;
    return n;
}

// Statements

static tpl_node *block_body(parser *p, const char *const *ends) {
    skip_op(p, ':');
    return expect(p, TPL_T_BLOCK_END, "'%}'") ? body(p, ends) : NULL;
}

// A body that ends at its one end tag, which is skipped. fence: break and continue inside cannot leave it.
static tpl_node *closed_body(parser *p, const char *end, bool fence) {
    int loops = p->loops;
    if (fence) p->loops = 0;
    tpl_node *n = block_body(p, (const char *const[]){end, NULL});
    p->loops = loops;
    if (n) p->at++;
    return n;
}

static tpl_node *if_statement(parser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    tpl_node *n = node(p, TPL_N_IF, p->at->line);
    children c = {0};
    do {
        p->at++;
        if (!n || !add(p, &c, tuple(p, TUPLE_NO_COND, NULL)) || !add(p, &c, block_body(p, ends))) return NULL;
    } while (is_name(p->at, "elif"));
    if (is_name(p->at++, "else") && !(n->b = closed_body(p, "endif", false))) return NULL;
    return with_children(n, &c);
}

static tpl_node *for_statement(parser *p) {
    static const char *const ends[] = {"endfor", "else", NULL};
    tpl_node *n = node(p, TPL_N_FOR, p->at++->line);
    if (!n || !(n->a = target(p, false, "in"))) return NULL;
    if (!skip_name(p, "in")) return unexpected(p, "'in'");
    if (!(n->b = tuple(p, TUPLE_NO_COND, "recursive"))) return NULL;
    if (skip_name(p, "if") && !(n->c = expression(p))) return NULL;
    if (is_name(p->at, "recursive")) return failed(p, p->at->line, "recursive loops are not supported");
    p->loops++;
    n->d = block_body(p, ends);
    p->loops--;
    if (!n->d) return NULL;
    if (is_name(p->at++, "else") && !(n->e = closed_body(p, "endfor", false))) return NULL;
    return n;
}

static tpl_node *set_statement(parser *p) {
    tpl_node *n = node(p, TPL_N_SET, p->at++->line);
    if (!n || !(n->a = target(p, true, NULL))) return NULL;
    if (skip_op(p, '=')) return (n->b = tuple(p, 0, NULL)) ? n : NULL;
    n->type = TPL_N_SET_BLOCK;
    if (is_op(p, '|') && !(n->b = filters(p, false))) return NULL;
    return (n->d = closed_body(p, "endset", true)) ? n : NULL;
}

static bool parameters(parser *p, tpl_node *n) {
    children c = {0};
    tpl_node *defaults[TPL_MAX_ARGS];
    bool has_default = false;
    p->at++;
    while (!is_op(p, ')')) {
        if (c.n && !expect_op(p, ',')) return false;
        const tpl_token *k = p->at;
        if (c.n == TPL_MAX_ARGS) return failed(p, k->line, "too many parameters"), false;
        if (!expect(p, TPL_T_NAME, "the name of a parameter") || !add(p, &c, name_node(p, k))) return false;
        defaults[c.n - 1] = NULL;
        if (skip_op(p, '=')) {
            if (!(defaults[c.n - 1] = expression(p))) return false;
            has_default = true;
        } else if (has_default) {
            return failed(p, k->line, "a parameter without a default after one that has one"), false;
        }
    }
    p->at++;
    with_children(n, &c);
    n->kw = take(p, c.n, sizeof *n->kw);
    if (n->kw && c.n) memcpy(n->kw, defaults, c.n * sizeof *n->kw);
    return n->kw != NULL;
}

static tpl_node *macro_body(parser *p, tpl_node *n, const char *end) {
    bool outer = p->uses_caller;
    p->uses_caller = false;
    p->macros++;
    n->d = closed_body(p, end, true);
    p->macros--;
    n->op = p->uses_caller;
    p->uses_caller = outer;
    return n->d ? n : NULL;
}

static tpl_node *macro_statement(parser *p) {
    tpl_node *n = node(p, TPL_N_MACRO, p->at++->line);
    const tpl_token *k = p->at;
    if (!n || !expect(p, TPL_T_NAME, "the name of a macro")) return NULL;
    n->name = k->s;
    if ((n->id = name_id(p, k->s)) < 0) return NULL;
    if (!is_op(p, '(')) return unexpected(p, "'('");
    if (!parameters(p, n)) return NULL;
    for (size_t i = 0; i < n->n; i++)
        if (tpl_name_is(n->items[i]->name, "caller"))
            return failed(p, n->line, "a parameter 'caller' is not supported");
    return macro_body(p, n, "endmacro");
}

static tpl_node *call_statement(parser *p) {
    tpl_node *n = node(p, TPL_N_CALL_BLOCK, p->at++->line);
    tpl_node *macro = node(p, TPL_N_MACRO, p->at->line);
    if (!n || !macro || (is_op(p, '(') && !parameters(p, macro))) return NULL;
    static const tpl_str caller = {.p = "caller", .n = 6, .chars = 6};
    macro->name = &caller;
    if ((macro->id = name_id(p, &caller)) < 0 || !(n->a = expression(p))) return NULL;
    if (n->a->type != TPL_N_CALL) return failed(p, n->line, "a call block needs a call");
    return (n->b = macro_body(p, macro, "endcall")) ? n : NULL;
}

static tpl_node *with_statement(parser *p) {
    tpl_node *n = node(p, TPL_N_WITH, p->at++->line);
    children c = {0};
    while (n && p->at->type != TPL_T_BLOCK_END && !is_op(p, ':')) {
        if (c.n && !expect_op(p, ',')) return NULL;
        if (!add(p, &c, target(p, false, NULL)) || !expect_op(p, '=') || !add(p, &c, expression(p))) return NULL;
    }
    if (!n || !(n->d = closed_body(p, "endwith", false))) return NULL;
    return with_children(n, &c);
}

static tpl_node *print_statement(parser *p) {
    tpl_node *n = node(p, TPL_N_BODY, p->at++->line);
    children c = {0};
    while (n && p->at->type != TPL_T_BLOCK_END) {
        if (c.n && !expect_op(p, ',')) return NULL;
        tpl_node *out = node(p, TPL_N_OUTPUT, p->at->line);
        if (!out || !(out->a = expression(p)) || !add(p, &c, out)) return NULL;
    }
    return with_children(n, &c);
}

static tpl_node *statement(parser *p) {
    const tpl_token *k = p->at;
    char buf[64];
    if (k->type != TPL_T_NAME) return unexpected(p, "the name of a tag");
    if (is_name(k, "if")) return if_statement(p);
    if (is_name(k, "for")) return for_statement(p);
    if (is_name(k, "set")) return set_statement(p);
    if (is_name(k, "macro")) return macro_statement(p);
    if (is_name(k, "call")) return call_statement(p);
    if (is_name(k, "with")) return with_statement(p);
    if (is_name(k, "print")) return print_statement(p);
    if (is_name(k, "break") || is_name(k, "continue")) {
        if (!p->loops) return failed(p, k->line, "%s outside of a loop, or across a block", describe(k, buf));
        return node(p, is_name(k, "break") ? TPL_N_BREAK : TPL_N_CONTINUE, p->at++->line);
    }
    bool generation = is_name(k, "generation");
    if (!generation && !is_name(k, "filter")) return failed(p, k->line, "tag %s is not supported", describe(k, buf));
    tpl_node *n = node(p, generation ? TPL_N_SCOPE : TPL_N_FILTER_BLOCK, p->at++->line);
    if (!n || (!generation && !(n->b = filters(p, true)))) return NULL;
    return (n->d = closed_body(p, generation ? "endgeneration" : "endfilter", true)) ? n : NULL;
}

static bool at_end_tag(const parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (is_name(p->at, *ends)) return true;
    return false;
}

static tpl_node *text_or_output(parser *p) {
    tpl_node *n = node(p, p->at->type == TPL_T_DATA ? TPL_N_DATA : TPL_N_OUTPUT, p->at->line);
    const tpl_token *k = p->at++;
    if (!n) return NULL;
    if (k->type == TPL_T_DATA) {
        n->value = (tpl_value){.kind = TPL_STR, .trusted = true, .s = k->s};
        return n;
    }
    return (n->a = tuple(p, 0, NULL)) && expect(p, TPL_T_VARIABLE_END, "'}}'") ? n : NULL;
}

// Up to an end tag, whose name is the current token afterwards.
static tpl_node *body(parser *p, const char *const *ends) {
    tpl_node *n = node(p, TPL_N_BODY, p->at->line);
    children c = {0};
    if (!n || !deeper(p)) return NULL;
    while (p->at->type != TPL_T_EOF) {
        if (p->at->type == TPL_T_BLOCK_BEGIN) {
            p->at++;
            if (at_end_tag(p, ends)) break;
            if (!add(p, &c, statement(p)) || !expect(p, TPL_T_BLOCK_END, "'%}'")) return NULL;
        } else if (!add(p, &c, text_or_output(p))) {
            return NULL;
        }
    }
    if (ends && p->at->type == TPL_T_EOF) {
        const char *last = *ends;
        while (ends[1]) last = *++ends;
        return failed(p, p->at->line, "the template ends without '%s'", last);
    }
    p->depth--;
    return with_children(n, &c);
}

int tpl_parse(upg_template *t, const tpl_token *tokens, upg_error *e) {
    parser p = {.t = t, .at = tokens, .e = e};
    t->body = body(&p, NULL);
    return t->body ? 0 : -1;
}
