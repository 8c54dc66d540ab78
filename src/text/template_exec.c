// Runs the syntax tree: expressions, statements, macros, loops, and the functions templates may call. A scope is a
// chain of small tables; a loop's iteration, a macro and some blocks have one of their own. Variables that no scope has
// come from the context.
#include "text/template_internal.h"
#include <math.h>

int tpl_scope_new(tpl_interp *t, tpl_scope *parent, tpl_scope **out) {
    tpl_scope *s = tpl_alloc(t, 1, sizeof *s);
    if (s) s->parent = parent;
    *out = s;
    return s ? 0 : -1;
}

int tpl_scope_set(tpl_interp *t, tpl_scope *s, int id, tpl_value v) {
    for (size_t i = 0; i < s->n; i++)
        if (s->ids[i] == id) return s->values[i] = v, 0;
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 4;
        tpl_value *values = tpl_alloc(t, capacity, sizeof *values);
        int *ids = tpl_alloc(t, capacity, sizeof *ids);
        if (!values || !ids) return -1;
        if (s->n) {
            memcpy(values, s->values, s->n * sizeof *values);
            memcpy(ids, s->ids, s->n * sizeof *ids);
        }
        s->values = values;
        s->ids = ids;
        s->capacity = capacity;
    }
    s->ids[s->n] = id;
    s->values[s->n++] = v;
    return 0;
}

static int lookup(tpl_interp *t, const tpl_scope *scope, const tpl_node *n, tpl_value *out) {
    for (const tpl_scope *s = scope; s; s = s->parent)
        for (size_t i = 0; i < s->n; i++)
            if (s->ids[i] == n->id) return *out = s->values[i], 0;
    *out = t->globals[n->id];
    if (tpl_given(*out)) return 0;
    static const char *const refused[] = {"cycler", "joiner", "lipsum", "self", "super"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (tpl_name_is(n->name, refused[i])) return tpl_fail(t, "'%s' is not supported", refused[i]);
    return tpl_undefined_value(t, out, "'%.*s' is undefined", (int)n->name->n, n->name->p);
}

static int eval_all(tpl_interp *t, tpl_node *const *nodes, size_t n, tpl_scope *scope, tpl_value **out) {
    tpl_value *v = tpl_alloc(t, n, sizeof *v);
    *out = v;
    for (size_t i = 0; v && i < n; i++)
        if (tpl_eval(t, nodes[i], scope, &v[i])) return -1;
    return v ? 0 : -1;
}

// The arguments of a call, filter or test; first, if not NULL, comes before those the template wrote.
static int eval_args(tpl_interp *t, const tpl_node *n, tpl_scope *scope, const tpl_value *first, tpl_args *args) {
    size_t extra = first != NULL;
    tpl_value *v = tpl_alloc(t, n->n + extra + n->n_kw, sizeof *v);
    if (!v) return -1;
    if (first) v[0] = *first;
    for (size_t i = 0; i < n->n; i++)
        if (tpl_eval(t, n->items[i], scope, &v[i + extra])) return -1;
    tpl_value *kw = v + n->n + extra;
    for (size_t i = 0; i < n->n_kw; i++)
        if (tpl_eval(t, n->kw[i], scope, &kw[i])) return -1;
    *args = (tpl_args){v, n->n + extra, kw, n->kw_names, n->n_kw};
    return 0;
}

static int integer_op(tpl_interp *t, int op, int64_t a, int64_t b, bool trusted, tpl_value *out) {
    int64_t r = 0;
    bool over = false;
    if ((op == TPL_OP_FLOORDIV || op == '%') && !b) return tpl_fail(t, "integer division or modulo by zero");
    if (op == '+') {
        over = __builtin_add_overflow(a, b, &r);
    } else if (op == '-') {
        over = __builtin_sub_overflow(a, b, &r);
    } else if (op == '*') {
        over = __builtin_mul_overflow(a, b, &r);
    } else if (op == TPL_OP_POW) {
        int64_t base = a;
        for (r = 1; b && !over; b >>= 1) {
            if (b & 1) over = __builtin_mul_overflow(r, base, &r);
            if (b > 1 && !over) over = __builtin_mul_overflow(base, base, &base);
        }
    } else if (b == -1) {
        over = op == TPL_OP_FLOORDIV && __builtin_sub_overflow(0, a, &r);
    } else {
        int64_t rest = a % b;
        bool adjust = rest && (rest < 0) != (b < 0);
        r = op == '%' ? rest + (adjust ? b : 0) : a / b - adjust;
    }
    if (over) return tpl_fail(t, "an integer beyond 64 bits is not supported");
    *out = tpl_int(r, trusted);
    return 0;
}

static int float_op(tpl_interp *t, int op, double a, double b, bool trusted, tpl_value *out) {
    double r = 0;
    if ((op == '/' || op == TPL_OP_FLOORDIV || op == '%') && b == 0) return tpl_fail(t, "division by zero");
    if (op == '+')
        r = a + b;
    else if (op == '-')
        r = a - b;
    else if (op == '*')
        r = a * b;
    else if (op == '/')
        r = a / b;
    if (op == '%' || op == TPL_OP_FLOORDIV) {
        double rest = fmod(a, b);
        double whole = (a - rest) / b;
        if (rest != 0 && (b < 0) != (rest < 0)) {
            rest += b;
            whole -= 1;
        } else if (rest == 0) {
            rest = copysign(0, b);
        }
        double down = whole != 0 ? floor(whole) : copysign(0, a / b);
        if (whole - down > 0.5) down += 1;
        r = op == '%' ? rest : down;
    }
    if (op == TPL_OP_POW) {
        if (a == 0 && b < 0) return tpl_fail(t, "zero to a negative power");
        if (a < 0 && b != floor(b)) return tpl_fail(t, "complex numbers are not supported");
        r = pow(a, b);
        if (isinf(r) && isfinite(a) && isfinite(b)) return tpl_fail(t, "the result of '**' is too large");
    }
    *out = tpl_float(r, trusted);
    return 0;
}

static int repeat(tpl_interp *t, tpl_value v, int64_t times, tpl_value *out) {
    if (times < 0) times = 0;
    size_t n = v.kind == TPL_STR ? v.s->n : v.list->n, total;
    if (__builtin_mul_overflow(n, (size_t)times, &total) || total > t->limits.max_output)
        return tpl_fail(t, "the result of '*' is too large");
    if (v.kind == TPL_STR) {
        tpl_builder b = {0};
        for (int64_t i = 0; n && i < times; i++)
            if (tpl_add_str(t, &b, v)) return -1;
        return tpl_built(t, &b, out);
    }
    tpl_value *items = tpl_alloc(t, total, sizeof *items);
    if (!items || tpl_charge(t, total * 16)) return -1;
    for (size_t i = 0; i < total; i++) items[i] = v.list->items[i % n];
    return tpl_list_value(t, v.kind, items, total, out);
}

static int add_values(tpl_interp *t, tpl_value a, tpl_value b, tpl_value *out) {
    if (a.kind == TPL_STR) {
        tpl_builder s = {0};
        bool markup = a.markup || b.markup;
        if (markup && !a.markup && tpl_escape(t, a, &a)) return -1;
        if (markup && !b.markup && tpl_escape(t, b, &b)) return -1;
        if (tpl_add_str(t, &s, a) || tpl_add_str(t, &s, b) || tpl_built(t, &s, out)) return -1;
        out->markup = markup;
        return 0;
    }
    size_t n = a.list->n + b.list->n;
    tpl_value *items = tpl_alloc(t, n, sizeof *items);
    if (!items || tpl_charge(t, n * 16)) return -1;
    if (a.list->n) memcpy(items, a.list->items, a.list->n * sizeof *items);
    if (b.list->n) memcpy(items + a.list->n, b.list->items, b.list->n * sizeof *items);
    return tpl_list_value(t, a.kind, items, n, out);
}

static const char *op_name(int op, char buf[4]) {
    if (op == TPL_OP_POW) return "** or pow()";
    if (op == TPL_OP_FLOORDIV) return "//";
    buf[0] = (char)op;
    buf[1] = 0;
    return buf;
}

static bool is_sequence(tpl_value v) {
    return v.kind == TPL_STR || v.kind == TPL_LIST || v.kind == TPL_TUPLE;
}

int tpl_binary(tpl_interp *t, int op, tpl_value a, tpl_value b, tpl_value *out) {
    if (op == '%' && a.kind == TPL_STR) return tpl_percent(t, a, b, out);
    if (a.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", a.hint);
    if (b.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", b.hint);
    bool trusted = a.trusted && b.trusted;
    if (tpl_number(a) && tpl_number(b)) {
        bool ints = tpl_integral(a) && tpl_integral(b);
        if (ints && op != '/' && !(op == TPL_OP_POW && tpl_as_int(b) < 0))
            return integer_op(t, op, tpl_as_int(a), tpl_as_int(b), trusted, out);
        return float_op(t, op, tpl_as_double(a), tpl_as_double(b), trusted, out);
    }
    if (op == '+' && a.kind == b.kind && is_sequence(a)) return add_values(t, a, b, out);
    if (op == '*' && is_sequence(a) && tpl_integral(b)) return repeat(t, a, tpl_as_int(b), out);
    if (op == '*' && is_sequence(b) && tpl_integral(a)) return repeat(t, b, tpl_as_int(a), out);
    char buf[4];
    if (a.kind == TPL_BIG || b.kind == TPL_BIG) return tpl_fail(t, "an integer beyond 64 bits is not supported");
    return tpl_fail(t, "unsupported operand type(s) for %s: '%s' and '%s'", op_name(op, buf), tpl_type_name(a),
                    tpl_type_name(b));
}

static int eval_compare(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_value a, b;
    if (tpl_eval(t, n->a, scope, &a)) return -1;
    bool r = true;
    for (size_t i = 0; r && i < n->n; i++, a = b) {
        int op = n->ops[i], order = 0;
        if (tpl_eval(t, n->items[i], scope, &b)) return -1;
        if (op == TPL_OP_EQ || op == TPL_OP_NE) {
            if (tpl_equal(t, a, b, &r)) return -1;
            if (op == TPL_OP_NE) r = !r;
        } else if (op == TPL_OP_IN || op == TPL_OP_NOT_IN) {
            if (tpl_contains(t, b, a, &r)) return -1;
            if (op == TPL_OP_NOT_IN) r = !r;
        } else {
            char buf[4] = {(char)op, 0};
            const char *name = op == TPL_OP_LE ? "<=" : op == TPL_OP_GE ? ">=" : buf;
            if (tpl_order(t, a, b, name, &order)) return -1;
            if (order == 2)
                r = false;
            else if (op == '<')
                r = order < 0;
            else if (op == '>')
                r = order > 0;
            else
                r = op == TPL_OP_LE ? order <= 0 : order >= 0;
        }
    }
    *out = tpl_bool(r);
    return 0;
}

static int eval_concat(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_builder b = {0};
    for (size_t i = 0; i < n->n; i++) {
        tpl_value v;
        if (tpl_eval(t, n->items[i], scope, &v) || tpl_str_of(t, v, &v) || tpl_add_str(t, &b, v)) return -1;
    }
    return tpl_built(t, &b, out);
}

static int eval_dict(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    if (tpl_dict_new(t, out)) return -1;
    for (size_t i = 0; i < n->n; i += 2) {
        tpl_value key, v;
        if (tpl_eval(t, n->items[i], scope, &key) || tpl_eval(t, n->items[i + 1], scope, &v)) return -1;
        if (tpl_dict_set(t, out->dict, key, v)) return -1;
    }
    return 0;
}

static int eval_sign(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_value v;
    if (tpl_eval(t, n->a, scope, &v)) return -1;
    if (v.kind == TPL_UNDEFINED) return tpl_fail(t, "%s", v.hint);
    bool minus = n->type == TPL_N_NEG;
    if (!tpl_number(v)) return tpl_fail(t, "bad operand type for unary %c: '%s'", minus ? '-' : '+', tpl_type_name(v));
    if (v.kind == TPL_FLOAT) return *out = tpl_float(minus ? -v.f : v.f, v.trusted), 0;
    return integer_op(t, minus ? '-' : '+', 0, tpl_as_int(v), v.trusted, out);
}

static int eval_slice(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_value of, part[3] = {tpl_none(), tpl_none(), tpl_none()};
    const tpl_node *const nodes[3] = {n->b, n->c, n->d};
    if (tpl_eval(t, n->a, scope, &of)) return -1;
    for (int i = 0; i < 3; i++)
        if (nodes[i] && tpl_eval(t, nodes[i], scope, &part[i])) return -1;
    return tpl_slice(t, of, part[0], part[1], part[2], out);
}

static int eval_applied(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_value v;
    tpl_args args;
    if (tpl_eval(t, n->a, scope, &v)) return -1;
    if (eval_args(t, n, scope, n->type == TPL_N_CALL ? NULL : &v, &args)) return -1;
    t->line = n->line;
    if (n->type == TPL_N_CALL) return tpl_call(t, v, &args, out);
    if (n->type == TPL_N_FILTER) return tpl_filter(t, n->id, &args, out);
    bool r;
    if (tpl_test(t, n->id, &args, &r)) return -1;
    *out = tpl_bool(r);
    return 0;
}

static int eval_node(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_value v, *items;
    switch (n->type) {
    case TPL_N_CONST: return *out = n->value, 0;
    case TPL_N_NAME: return lookup(t, scope, n, out);
    case TPL_N_BLOCK_VALUE: return *out = t->block_value, 0;
    case TPL_N_LIST:
    case TPL_N_TUPLE:
        if (eval_all(t, n->items, n->n, scope, &items)) return -1;
        return tpl_list_value(t, n->type == TPL_N_LIST ? TPL_LIST : TPL_TUPLE, items, n->n, out);
    case TPL_N_DICT: return eval_dict(t, n, scope, out);
    case TPL_N_COND:
        if (tpl_eval(t, n->a, scope, &v)) return -1;
        if (tpl_true(v)) return tpl_eval(t, n->b, scope, out);
        if (n->c) return tpl_eval(t, n->c, scope, out);
        return tpl_undefined_value(
            t, out, "the inline if-expression on line %d evaluated to false and no else section was defined.", n->line);
    case TPL_N_AND:
    case TPL_N_OR:
        if (tpl_eval(t, n->a, scope, out)) return -1;
        return tpl_true(*out) == (n->type == TPL_N_AND) ? tpl_eval(t, n->b, scope, out) : 0;
    case TPL_N_NOT:
        if (tpl_eval(t, n->a, scope, &v)) return -1;
        return *out = tpl_bool(!tpl_true(v)), 0;
    case TPL_N_NEG:
    case TPL_N_POS: return eval_sign(t, n, scope, out);
    case TPL_N_BINARY:
        if (tpl_eval(t, n->a, scope, out) || tpl_eval(t, n->b, scope, &v)) return -1;
        return tpl_binary(t, n->op, *out, v, out);
    case TPL_N_CONCAT: return eval_concat(t, n, scope, out);
    case TPL_N_COMPARE: return eval_compare(t, n, scope, out);
    case TPL_N_GETATTR: return tpl_eval(t, n->a, scope, &v) || tpl_getattr(t, v, n->name, out) ? -1 : 0;
    case TPL_N_GETITEM:
        if (tpl_eval(t, n->a, scope, out) || tpl_eval(t, n->b, scope, &v)) return -1;
        return tpl_getitem(t, *out, v, out);
    case TPL_N_SLICE: return eval_slice(t, n, scope, out);
    default: return eval_applied(t, n, scope, out);
    }
}

int tpl_eval(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    t->line = n->line;
    if (tpl_charge(t, 0) || tpl_enter(t)) return -1;
    int rc = eval_node(t, n, scope, out);
    tpl_leave(t);
    return rc;
}

int tpl_capture(tpl_interp *t, const tpl_node *body, tpl_scope *scope, tpl_value *out) {
    tpl_builder b = {0}, *outer = t->out;
    t->out = &b;
    int rc = tpl_exec(t, body, scope);
    t->out = outer;
    return rc ? -1 : tpl_built(t, &b, out);
}

int tpl_assign(tpl_interp *t, const tpl_node *target, tpl_scope *scope, tpl_value v) {
    t->line = target->line;
    if (target->type == TPL_N_NAME) return tpl_scope_set(t, scope, target->id, v);
    if (target->type == TPL_N_NSREF) {
        tpl_node name = *target;
        name.name = t->template->names[target->id];
        tpl_value ns, key = {.kind = TPL_STR, .trusted = true, .s = target->name};
        if (lookup(t, scope, &name, &ns)) return -1;
        if (ns.kind != TPL_NAMESPACE) return tpl_fail(t, "cannot assign attribute on non-namespace object");
        return tpl_dict_set(t, ns.dict, key, v);
    }
    const tpl_value *items;
    size_t n;
    if (tpl_items(t, v, &items, &n)) return -1;
    if (n != target->n) return tpl_fail(t, "cannot unpack %zu values into %zu", n, target->n);
    for (size_t i = 0; i < n; i++)
        if (tpl_assign(t, target->items[i], scope, items[i])) return -1;
    return 0;
}

int tpl_call_macro(tpl_interp *t, const tpl_macro *m, const tpl_args *args, tpl_value *out) {
    const tpl_node *n = m->node;
    tpl_scope *scope;
    tpl_value caller = tpl_missing();
    size_t used = 0;
    if (tpl_scope_new(t, m->scope, &scope)) return -1;
    if (args->n > n->n)
        return tpl_fail(t, "macro '%.*s' takes not more than %zu argument(s)", (int)n->name->n, n->name->p, n->n);
    for (size_t i = 0; i < args->n_kw; i++) {
        if (!n->op || !tpl_name_is(args->kw_names[i], "caller")) continue;
        caller = args->kw[i];
        used++;
    }
    tpl_value values[TPL_MAX_ARGS];
    for (size_t i = 0; i < n->n; i++) {
        values[i] = i < args->n ? args->pos[i] : tpl_missing();
        for (size_t k = 0; i >= args->n && k < args->n_kw; k++) {
            if (args->kw_names[k]->n != n->items[i]->name->n ||
                memcmp(args->kw_names[k]->p, n->items[i]->name->p, args->kw_names[k]->n))
                continue;
            values[i] = args->kw[k];
            used++;
        }
    }
    if (used != args->n_kw)
        return tpl_fail(t, "macro '%.*s' was given a keyword argument that it does not take", (int)n->name->n,
                        n->name->p);
    if (n->op && !tpl_given(caller) && tpl_undefined_value(t, &caller, "No caller defined")) return -1;
    for (size_t i = 0; i < t->template->n_names && n->op; i++)
        if (tpl_name_is(t->template->names[i], "caller") && tpl_scope_set(t, scope, (int)i, caller)) return -1;
    for (size_t i = 0; i < n->n; i++) {
        const tpl_str *name = n->items[i]->name;
        if (!tpl_given(values[i]) && n->kw[i] && tpl_eval(t, n->kw[i], scope, &values[i])) return -1;
        if (!tpl_given(values[i]) &&
            tpl_undefined_value(t, &values[i], "parameter '%.*s' was not provided", (int)name->n, name->p))
            return -1;
        if (tpl_scope_set(t, scope, n->items[i]->id, values[i])) return -1;
    }
    tpl_value outer = t->block_value;
    int rc = tpl_capture(t, n->d, scope, out);
    t->block_value = outer;
    return rc;
}

static int new_macro(tpl_interp *t, const tpl_node *n, tpl_scope *scope, tpl_value *out) {
    tpl_macro *m = tpl_alloc(t, 1, sizeof *m);
    if (!m) return -1;
    *m = (tpl_macro){n, scope};
    *out = (tpl_value){.kind = TPL_MACRO, .macro = m};
    return 0;
}

static int emit(tpl_interp *t, tpl_value v) {
    return tpl_str_of(t, v, &v) ? -1 : tpl_add_str(t, t->out, v);
}

static int exec_call_block(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    tpl_value f, v, kw[TPL_MAX_ARGS + 1];
    const tpl_str *names[TPL_MAX_ARGS + 1];
    tpl_args args;
    if (tpl_eval(t, n->a->a, scope, &f) || eval_args(t, n->a, scope, NULL, &args)) return -1;
    for (size_t i = 0; i < args.n_kw; i++) {
        kw[i] = args.kw[i];
        names[i] = args.kw_names[i];
    }
    if (new_macro(t, n->b, scope, &kw[args.n_kw])) return -1;
    names[args.n_kw] = n->b->name;
    args = (tpl_args){args.pos, args.n, kw, names, args.n_kw + 1};
    return tpl_call(t, f, &args, &v) ? -1 : emit(t, v);
}

static int exec_if(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    for (size_t i = 0; i < n->n; i += 2) {
        tpl_value v;
        if (tpl_eval(t, n->items[i], scope, &v)) return -1;
        if (tpl_true(v)) return tpl_exec(t, n->items[i + 1], scope);
    }
    return n->b ? tpl_exec(t, n->b, scope) : 0;
}

static int exec_set(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    tpl_value v;
    tpl_scope *inner;
    if (n->type == TPL_N_SET) return tpl_eval(t, n->b, scope, &v) || tpl_assign(t, n->a, scope, v) ? -1 : 0;
    if (tpl_scope_new(t, scope, &inner) || tpl_capture(t, n->d, inner, &v)) return -1;
    if (n->b) {
        tpl_value outer = t->block_value;
        t->block_value = v;
        if (tpl_eval(t, n->b, inner, &v)) return -1;
        t->block_value = outer;
    }
    return n->type == TPL_N_SET_BLOCK ? tpl_assign(t, n->a, scope, v) : emit(t, v);
}

static int exec_with(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    tpl_scope *inner;
    if (tpl_scope_new(t, scope, &inner)) return -1;
    for (size_t i = 0; i < n->n; i += 2) {
        tpl_value v;
        if (tpl_eval(t, n->items[i + 1], scope, &v) || tpl_assign(t, n->items[i], inner, v)) return -1;
    }
    return tpl_exec(t, n->d, inner);
}

// Makes sure that the loop's test was asked until element k is known; false: there is none.
static int loop_fetch(tpl_interp *t, tpl_loop *loop, size_t k, bool *there) {
    int line = t->line;
    while (loop->n_got <= k && loop->read < loop->n_source) {
        const tpl_value *v = &loop->source[loop->read++];
        tpl_value pass = tpl_bool(true);
        if (loop->node->c) {
            tpl_scope *scope;
            if (tpl_scope_new(t, loop->scope, &scope) || tpl_assign(t, loop->node->a, scope, *v)) return -1;
            if (tpl_eval(t, loop->node->c, scope, &pass)) return -1;
        }
        if (tpl_true(pass)) loop->got[loop->n_got++] = v;
    }
    t->line = line;
    *there = loop->n_got > k;
    return 0;
}

int tpl_loop_attr(tpl_interp *t, tpl_loop *loop, const tpl_str *name, tpl_value *out) {
    static const char *const by_index[] = {"index", "index0", "first", "depth", "depth0"};
    int64_t values[] = {(int64_t)loop->at + 1, (int64_t)loop->at, 0, 1, 0};
    for (int i = 0; i < 5; i++)
        if (tpl_name_is(name, by_index[i])) return *out = i == 2 ? tpl_bool(!loop->at) : tpl_int(values[i], true), 0;
    bool there;
    if (tpl_name_is(name, "last") || tpl_name_is(name, "nextitem")) {
        if (loop_fetch(t, loop, loop->at + 1, &there)) return -1;
        if (tpl_name_is(name, "last")) return *out = tpl_bool(!there), 0;
        if (!there) return tpl_undefined_value(t, out, "there is no next item");
        return *out = *loop->got[loop->at + 1], 0;
    }
    if (tpl_name_is(name, "previtem")) {
        if (!loop->at) return tpl_undefined_value(t, out, "there is no previous item");
        return *out = *loop->got[loop->at - 1], 0;
    }
    bool length = tpl_name_is(name, "length"), revindex = tpl_name_is(name, "revindex");
    if (length || revindex || tpl_name_is(name, "revindex0")) {
        if (loop_fetch(t, loop, SIZE_MAX - 1, &there)) return -1;
        *out = tpl_int((int64_t)(length ? loop->n_got : loop->n_got - loop->at - !revindex), true);
        return 0;
    }
    return 1;
}

int tpl_loop_call(tpl_interp *t, tpl_loop *loop, bool cycle, const tpl_args *args, tpl_value *out) {
    if (args->n_kw) return tpl_fail(t, "loop.%s takes no keyword arguments", cycle ? "cycle" : "changed");
    if (cycle) {
        if (!args->n) return tpl_fail(t, "no items for cycling given");
        return *out = args->pos[loop->at % args->n], 0;
    }
    tpl_value now;
    bool same = false;
    if (tpl_list_value(t, TPL_TUPLE, args->pos, args->n, &now)) return -1;
    if (tpl_given(loop->changed) && tpl_equal(t, loop->changed, now, &same)) return -1;
    loop->changed = now;
    *out = tpl_bool(!same);
    return 0;
}

static int exec_for(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    tpl_value iterable, v;
    tpl_loop *loop = tpl_alloc(t, 1, sizeof *loop);
    if (!loop || tpl_eval(t, n->b, scope, &iterable)) return -1;
    *loop = (tpl_loop){.node = n, .scope = scope, .changed = tpl_missing()};
    if (tpl_items(t, iterable, &loop->source, &loop->n_source)) return -1;
    if (!(loop->got = tpl_alloc(t, loop->n_source, sizeof *loop->got))) return -1;
    int id = -1;
    for (size_t i = 0; id < 0 && i < t->template->n_names; i++)
        if (tpl_name_is(t->template->names[i], "loop")) id = (int)i;
    bool completed = false; // jinja2 runs else unless an iteration came to its end: one cut short does not count
    for (bool there = true;; loop->at++) {
        tpl_scope *inner;
        if (loop_fetch(t, loop, loop->at, &there)) return -1;
        if (!there) break;
        v = (tpl_value){.kind = TPL_LOOP, .loop = loop};
        if (tpl_charge(t, 0) || tpl_scope_new(t, scope, &inner) || (id >= 0 && tpl_scope_set(t, inner, id, v)))
            return -1;
        if (tpl_assign(t, n->a, inner, *loop->got[loop->at]) || tpl_exec(t, n->d, inner)) return -1;
        int control = t->loop_control;
        t->loop_control = 0;
        completed |= !control;
        if (control == TPL_N_BREAK) break;
    }
    tpl_scope *inner;
    if (!n->e || completed) return 0;
    return tpl_scope_new(t, scope, &inner) ? -1 : tpl_exec(t, n->e, inner);
}

static int exec_node(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    tpl_value v;
    tpl_scope *inner;
    switch (n->type) {
    case TPL_N_BODY:
        for (size_t i = 0; i < n->n && !t->loop_control; i++)
            if (tpl_exec(t, n->items[i], scope)) return -1;
        return 0;
    case TPL_N_DATA: return tpl_add_str(t, t->out, n->value);
    case TPL_N_OUTPUT: return tpl_eval(t, n->a, scope, &v) ? -1 : emit(t, v);
    case TPL_N_IF: return exec_if(t, n, scope);
    case TPL_N_FOR: return exec_for(t, n, scope);
    case TPL_N_MACRO: return new_macro(t, n, scope, &v) || tpl_scope_set(t, scope, n->id, v) ? -1 : 0;
    case TPL_N_CALL_BLOCK: return exec_call_block(t, n, scope);
    case TPL_N_SCOPE: return tpl_scope_new(t, scope, &inner) ? -1 : tpl_exec(t, n->d, inner);
    case TPL_N_WITH: return exec_with(t, n, scope);
    case TPL_N_BREAK:
    case TPL_N_CONTINUE: t->loop_control = n->type; return 0;
    default: return exec_set(t, n, scope);
    }
}

int tpl_exec(tpl_interp *t, const tpl_node *n, tpl_scope *scope) {
    t->line = n->line;
    if (tpl_charge(t, 0) || tpl_enter(t)) return -1;
    int rc = exec_node(t, n, scope);
    tpl_leave(t);
    return rc;
}
