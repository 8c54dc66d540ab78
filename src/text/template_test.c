// The tests of "is".
#include "text/template_internal.h"

typedef enum test_id {
    T_ODD,
    T_EVEN,
    T_DIVISIBLEBY,
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_BOOLEAN,
    T_FALSE,
    T_TRUE,
    T_INTEGER,
    T_FLOAT,
    T_LOWER,
    T_UPPER,
    T_STRING,
    T_MAPPING,
    T_NUMBER,
    T_SEQUENCE,
    T_ITERABLE,
    T_CALLABLE,
    T_SAMEAS,
    T_ESCAPED,
    T_IN,
    T_EQ,
    T_NE,
    T_GT,
    T_GE,
    T_LT,
    T_LE,
} test_id;

static const struct {
    const char *name;
    test_id id;
} tests[] = {{"odd", T_ODD},
             {"even", T_EVEN},
             {"divisibleby", T_DIVISIBLEBY},
             {"defined", T_DEFINED},
             {"undefined", T_UNDEFINED},
             {"none", T_NONE},
             {"boolean", T_BOOLEAN},
             {"false", T_FALSE},
             {"true", T_TRUE},
             {"integer", T_INTEGER},
             {"float", T_FLOAT},
             {"lower", T_LOWER},
             {"upper", T_UPPER},
             {"string", T_STRING},
             {"mapping", T_MAPPING},
             {"number", T_NUMBER},
             {"sequence", T_SEQUENCE},
             {"iterable", T_ITERABLE},
             {"callable", T_CALLABLE},
             {"sameas", T_SAMEAS},
             {"escaped", T_ESCAPED},
             {"in", T_IN},
             {"eq", T_EQ},
             {"equalto", T_EQ},
             {"==", T_EQ},
             {"ne", T_NE},
             {"!=", T_NE},
             {"gt", T_GT},
             {"greaterthan", T_GT},
             {">", T_GT},
             {"ge", T_GE},
             {">=", T_GE},
             {"lt", T_LT},
             {"lessthan", T_LT},
             {"<", T_LT},
             {"le", T_LE},
             {"<=", T_LE}};

int tpl_test_id(const tpl_str *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (tpl_name_is(name, tests[i].name)) return (int)i;
    return -1;
}

static int remainder_is(tpl_interp *t, tpl_value v, tpl_value by, int64_t wanted, bool *out) {
    tpl_value r;
    if (tpl_binary(t, '%', v, by, &r)) return -1;
    return tpl_equal(t, r, tpl_int(wanted, true), out);
}

static int same(tpl_interp *t, tpl_value a, tpl_value b, bool *out) {
    if (a.kind == TPL_NONE || a.kind == TPL_BOOL || b.kind == TPL_NONE || b.kind == TPL_BOOL) {
        *out = a.kind == b.kind && (a.kind == TPL_NONE || a.b == b.b);
        return 0;
    }
    return tpl_fail(t, "test 'sameas' is supported for none, true and false only");
}

static int ordered(tpl_interp *t, test_id id, tpl_value a, tpl_value b, bool *out) {
    static const char *const names[] = {">", ">=", "<", "<="};
    int order;
    if (tpl_order(t, a, b, names[id - T_GT], &order)) return -1;
    *out = order != 2 && (id == T_GT ? order > 0 : id == T_GE ? order >= 0 : id == T_LT ? order < 0 : order <= 0);
    return 0;
}

static int is_case(tpl_interp *t, tpl_value v, bool upper, bool *out) {
    if (tpl_str_of(t, v, &v) || tpl_charge(t, v.s->n)) return -1;
    *out = tpl_is_case(v, upper);
    return 0;
}

static bool is_kind(test_id id, tpl_value v) {
    bool sequence =
        v.kind == TPL_STR || v.kind == TPL_LIST || v.kind == TPL_TUPLE || v.kind == TPL_DICT || v.kind == TPL_RANGE;
    switch (id) {
    case T_DEFINED: return v.kind != TPL_UNDEFINED;
    case T_UNDEFINED: return v.kind == TPL_UNDEFINED;
    case T_NONE: return v.kind == TPL_NONE;
    case T_BOOLEAN: return v.kind == TPL_BOOL;
    case T_FALSE: return v.kind == TPL_BOOL && !v.b;
    case T_TRUE: return v.kind == TPL_BOOL && v.b;
    case T_INTEGER: return v.kind == TPL_INT || v.kind == TPL_BIG;
    case T_FLOAT: return v.kind == TPL_FLOAT;
    case T_STRING: return v.kind == TPL_STR;
    case T_MAPPING: return v.kind == TPL_DICT;
    case T_NUMBER: return tpl_number(v) || v.kind == TPL_BIG;
    case T_SEQUENCE: return sequence;
    case T_ITERABLE:
        return sequence || v.kind == TPL_UNDEFINED || v.kind == TPL_VIEW || v.kind == TPL_ITER || v.kind == TPL_LOOP;
    case T_CALLABLE:
        return v.kind == TPL_MACRO || v.kind == TPL_FUNCTION || v.kind == TPL_METHOD || v.kind == TPL_LOOP ||
               v.kind == TPL_UNDEFINED;
    default: return v.kind == TPL_STR && v.markup;
    }
}

int tpl_test(tpl_interp *t, int id, const tpl_args *args, bool *out) {
    test_id test = tests[id].id;
    bool binary = test == T_DIVISIBLEBY || test == T_SAMEAS || test >= T_IN;
    if (args->n != (binary ? 2 : 1) || args->n_kw)
        return tpl_fail(t, "test '%s' was given %zu arguments", tests[id].name, args->n ? args->n - 1 : 0);
    tpl_value v = args->pos[0], two = tpl_int(2, true);
    switch (test) {
    case T_ODD:
    case T_EVEN:
        if (v.kind == TPL_STR) return tpl_fail(t, "test '%s' wants a number", tests[id].name);
        return remainder_is(t, v, two, test == T_ODD, out);
    case T_DIVISIBLEBY:
        if (v.kind == TPL_STR) return tpl_fail(t, "test 'divisibleby' wants numbers");
        return remainder_is(t, v, args->pos[1], 0, out);
    case T_LOWER:
    case T_UPPER: return is_case(t, v, test == T_UPPER, out);
    case T_SAMEAS: return same(t, v, args->pos[1], out);
    case T_IN: return tpl_contains(t, args->pos[1], v, out);
    case T_EQ:
    case T_NE:
        if (tpl_equal(t, v, args->pos[1], out)) return -1;
        *out = *out == (test == T_EQ);
        return 0;
    case T_GT:
    case T_GE:
    case T_LT:
    case T_LE: return ordered(t, test, v, args->pos[1], out);
    default: *out = is_kind(test, v); return 0;
    }
}
