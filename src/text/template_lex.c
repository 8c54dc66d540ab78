// Tokens of a template, by jinja2's rules: text up to the next tag, with the white space around tags that trim_blocks,
// lstrip_blocks and the signs '-' and '+' take away, then the tokens inside the tag. A tag's end is only seen outside
// of brackets, so that {{ {'a': {}} }} is what it seems.
#include "text/template_internal.h"
#include <stdlib.h>

typedef struct lexer {
    upg_template *t;
    upg_error *e;
    char *p; // [n] the text, its line ends made '\n'
    size_t n, at;
    int line;
    char open[TPL_PARSE_DEPTH]; // brackets to be closed
    size_t n_open;
    tpl_token *tokens;
    size_t n_tokens, capacity;
} lexer;

static int lex_fail(lexer *x, const char *what) {
    return upg_fail(x->e, "chat template line %d: %s", x->line, what);
}

static const tpl_str *keep(lexer *x, const char *p, size_t n) {
    tpl_str *s = tpl_arena_alloc(&x->t->arena, sizeof *s);
    if (s) *s = (tpl_str){p, NULL, n, tpl_count_chars(p, n)};
    return s;
}

static int push(lexer *x, tpl_token token) {
    if (x->n_tokens == x->capacity) {
        size_t capacity = x->capacity ? x->capacity * 2 : 256;
        tpl_token *p = upg_resize(x->tokens, capacity, sizeof *p, x->e);
        if (!p) return -1;
        x->tokens = p;
        x->capacity = capacity;
    }
    token.line = x->line;
    x->tokens[x->n_tokens++] = token;
    return 0;
}

static int push_text(lexer *x, tpl_token_type type, const char *p, size_t n) {
    const tpl_str *s = keep(x, p, n);
    return s ? push(x, (tpl_token){.type = type, .s = s}) : lex_fail(x, "the template is too large");
}

static void advance(lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->p[x->at] == '\n';
}

static size_t skip_space(const lexer *x, size_t at) {
    uint32_t cp;
    while (at < x->n) {
        int len = tpl_decode(x->p + at, x->n - at, &cp);
        if (!tpl_space(cp)) break;
        at += (size_t)len;
    }
    return at;
}

static bool looking_at(const lexer *x, size_t at, const char *s) {
    size_t n = strlen(s);
    return x->n - at >= n && !memcmp(x->p + at, s, n);
}

// Bytes of text left when the white space at its end is gone.
static size_t strip_end(const char *p, size_t n) {
    while (n) {
        size_t at = n - 1;
        while (at && ((unsigned char)p[at] & 0xC0) == 0x80) at--;
        uint32_t cp;
        tpl_decode(p + at, n - at, &cp);
        if (!tpl_space(cp)) break;
        n = at;
    }
    return n;
}

// The text [x->at, tag) before a tag whose sign follows it.
static int text_before(lexer *x, size_t tag, char sign, bool variable) {
    const char *p = x->p + x->at;
    size_t n = tag - x->at;
    if (sign == '-') {
        n = strip_end(p, n);
    } else if (sign != '+' && !variable) { // lstrip_blocks: a tag's indentation is not text
        size_t line = n;
        while (line && p[line - 1] != '\n') line--;
        if ((line || !x->at || p[-1] == '\n') && strip_end(p + line, n - line) == 0) n = line;
    }
    if (n && push_text(x, TPL_T_DATA, p, n)) return -1;
    advance(x, tag);
    return 0;
}

// Where the text goes on behind "%}" (or "#}") at `end`, whose sign was read.
static size_t after_block(const lexer *x, size_t end, char sign) {
    end += 2;
    if (sign == '-') return skip_space(x, end);
    return sign != '+' && end < x->n && x->p[end] == '\n' ? end + 1 : end; // trim_blocks
}

static int comment(lexer *x, size_t body) {
    size_t at = body;
    while (at < x->n && !looking_at(x, at, "#}")) at++;
    if (at >= x->n) return lex_fail(x, "missing end of comment");
    char sign = at > body && (x->p[at - 1] == '-' || x->p[at - 1] == '+') ? x->p[at - 1] : 0;
    advance(x, after_block(x, at, sign));
    return 0;
}

// Whether "{%", its sign and what follows are "raw %}"; *body is where the raw text begins.
static bool raw_begin(const lexer *x, size_t at, size_t *body) {
    at = skip_space(x, at);
    if (!looking_at(x, at, "raw")) return false;
    at = skip_space(x, at + 3);
    if (looking_at(x, at, "-%}")) return *body = skip_space(x, at + 3), true;
    if (looking_at(x, at, "%}")) return *body = at + 2, true;
    return false;
}

static int raw(lexer *x) {
    for (size_t tag = x->at; tag < x->n; tag++) {
        if (!looking_at(x, tag, "{%")) continue;
        char sign = tag + 2 < x->n ? x->p[tag + 2] : 0;
        size_t at = skip_space(x, tag + 2 + (sign == '-' || sign == '+'));
        if (!looking_at(x, at, "endraw")) continue;
        at = skip_space(x, at + 6);
        char last = at < x->n ? x->p[at] : 0;
        at += last == '-' || last == '+';
        if (!looking_at(x, at, "%}")) continue;
        if (text_before(x, tag, sign, false)) return -1;
        advance(x, after_block(x, at, last));
        return 0;
    }
    return lex_fail(x, "missing end of raw");
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static size_t encode(char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)((0xF00 >> n & 0xF0) | c);
    return (size_t)n;
}

// One escape at p (behind the backslash); returns the bytes read, 0 on failure.
static size_t escape(lexer *x, const char *p, size_t n, char *out, size_t *written) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = memchr(from, *p, sizeof from - 1);
    *written = 0;
    if (*p == '\n') return 1;
    if (simple) return out[(*written)++] = to[simple - from], 1;
    uint32_t cp = 0;
    size_t len = 0, digits = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    if (digits) {
        for (len = 1; len <= digits && len < n && hex_digit(p[len]) >= 0; len++)
            cp = cp << 4 | (uint32_t)hex_digit(p[len]);
        if (len <= digits) return lex_fail(x, "truncated escape in a string"), 0;
        if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) return lex_fail(x, "a string with a bad character"), 0;
    } else if (*p >= '0' && *p <= '7') {
        for (; len < 3 && len < n && p[len] >= '0' && p[len] <= '7'; len++) cp = cp << 3 | (uint32_t)(p[len] - '0');
    } else if (*p == 'N' || (unsigned char)*p >= 0x80) {
        return lex_fail(x, "this escape in a string is not supported"), 0;
    } else { // no escape at all: the backslash stays
        out[(*written)++] = '\\';
        out[(*written)++] = *p;
        return 1;
    }
    *written = encode(out, cp);
    return len;
}

static int string(lexer *x) {
    char quote = x->p[x->at];
    size_t end = x->at + 1;
    while (end < x->n && x->p[end] != quote) end += x->p[end] == '\\' ? 2 : 1;
    if (end >= x->n) return lex_fail(x, "a string without an end");
    const char *p = x->p + x->at + 1;
    size_t n = end - x->at - 1, m = 0;
    char *out = tpl_arena_alloc(&x->t->arena, n + 8); // no escape is shorter than what it stands for
    if (!out) return lex_fail(x, "the template is too large");
    for (size_t i = 0; i < n;) {
        if (p[i] != '\\') {
            out[m++] = p[i++];
            continue;
        }
        size_t written, len = escape(x, p + i + 1, n - i - 1, out + m, &written);
        if (!len) return -1;
        i += 1 + len;
        m += written;
    }
    if (push_text(x, TPL_T_STRING, out, m)) return -1;
    advance(x, end + 1);
    return 0;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_name_char(char c) {
    return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
}

// Digits of the base with single underscores between them; the end of them.
static size_t digits(const lexer *x, size_t at, int base) {
    size_t end = at;
    while (at < x->n) {
        size_t d = at + (x->p[at] == '_' && at > 0);
        int v = d < x->n ? hex_digit(x->p[d]) : -1;
        if (v < 0 || v >= base) break;
        end = at = d + 1;
    }
    return end;
}

static int push_number(lexer *x, size_t end, int base, size_t skip) {
    char text[80];
    size_t n = 0;
    for (size_t i = x->at + skip; i < end; i++) {
        if (x->p[i] == '_') continue;
        if (n + 1 == sizeof text) return lex_fail(x, "a number of too many digits");
        text[n++] = x->p[i];
    }
    text[n] = 0;
    tpl_token token = {.type = base ? TPL_T_INT : TPL_T_FLOAT};
    if (base) {
        uint64_t v = 0;
        for (size_t i = 0; i < n; i++)
            if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
                __builtin_add_overflow(v, (uint64_t)hex_digit(text[i]), &v) || v > INT64_MAX)
                return lex_fail(x, "an integer beyond 64 bits is not supported");
        token.i = (int64_t)v;
    } else {
        token.f = strtod(text, NULL);
    }
    if (push(x, token)) return -1;
    advance(x, end);
    return 0;
}

static int number(lexer *x) {
    size_t at = x->at, end = digits(x, at, 10), real = end;
    bool after_dot = at && x->p[at - 1] == '.';
    if (!after_dot) {
        if (real + 1 < x->n && x->p[real] == '.' && is_digit(x->p[real + 1])) real = digits(x, real + 1, 10);
        if (real < x->n && (x->p[real] | 32) == 'e') {
            size_t e = real + 1 + (real + 1 < x->n && (x->p[real + 1] == '+' || x->p[real + 1] == '-'));
            if (e < x->n && is_digit(x->p[e])) real = digits(x, e, 10);
        }
        if (real > end) return push_number(x, real, 0, 0);
    }
    if (x->p[at] == '0' && at + 2 < x->n) {
        int base = (x->p[at + 1] | 32) == 'x'   ? 16
                   : (x->p[at + 1] | 32) == 'o' ? 8
                   : (x->p[at + 1] | 32) == 'b' ? 2
                                                : 0;
        size_t stop = base ? digits(x, at + 2, base) : 0;
        if (base && stop > at + 2) return push_number(x, stop, base, 2);
    }
    if (x->p[at] == '0') // 012 is a 0 and a 12, an error for the parser
        for (end = at + 1;
             end < x->n && (x->p[end] == '0' || (x->p[end] == '_' && end + 1 < x->n && x->p[end + 1] == '0'));)
            end++;
    return push_number(x, end, 10, 0);
}

static int operator_token(lexer *x) {
    static const struct {
        const char *s;
        int op;
    } twos[] = {{"**", TPL_OP_POW}, {"//", TPL_OP_FLOORDIV}, {"==", TPL_OP_EQ},
                {"!=", TPL_OP_NE},  {">=", TPL_OP_GE},       {"<=", TPL_OP_LE}};
    char c = x->p[x->at];
    for (size_t i = 0; i < sizeof twos / sizeof *twos; i++) {
        if (!looking_at(x, x->at, twos[i].s)) continue;
        x->at += 2;
        return push(x, (tpl_token){.type = TPL_T_OP, .op = twos[i].op});
    }
    if (!c || !strchr("+-/*%~[](){}<>=.:|,;", c))
        return upg_fail(x->e, "chat template line %d: unexpected character '%c'", x->line, c);
    if (strchr("([{", c)) {
        if (x->n_open == sizeof x->open) return lex_fail(x, "brackets nested too deep");
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c) && (!x->n_open || x->open[--x->n_open] != c)) {
        return upg_fail(x->e, "chat template line %d: unexpected '%c'", x->line, c);
    }
    x->at++;
    return push(x, (tpl_token){.type = TPL_T_OP, .op = c});
}

// Whether the tag ends here; steps behind it if so.
static int tag_end(lexer *x, bool variable, bool *ended) {
    const char *end = variable ? "}}" : "%}";
    char sign = x->p[x->at];
    bool has_sign = sign == '-' || (sign == '+' && !variable);
    *ended = !x->n_open && looking_at(x, x->at + has_sign, end);
    if (!*ended) return 0;
    if (push(x, (tpl_token){.type = variable ? TPL_T_VARIABLE_END : TPL_T_BLOCK_END})) return -1;
    size_t at = x->at + has_sign;
    if (!variable)
        advance(x, after_block(x, at, has_sign ? sign : 0));
    else
        advance(x, sign == '-' ? skip_space(x, at + 2) : at + 2);
    return 0;
}

static int tag(lexer *x, bool variable) {
    if (push(x, (tpl_token){.type = variable ? TPL_T_VARIABLE_BEGIN : TPL_T_BLOCK_BEGIN})) return -1;
    for (;;) {
        advance(x, skip_space(x, x->at));
        if (x->at >= x->n) return lex_fail(x, variable ? "'{{' without '}}'" : "'{%' without '%}'");
        bool ended;
        if (tag_end(x, variable, &ended)) return -1;
        if (ended) return 0;
        char c = x->p[x->at];
        int rc;
        if (is_digit(c)) {
            rc = number(x);
        } else if (is_name_char(c)) {
            size_t end = x->at;
            while (end < x->n && is_name_char(x->p[end])) end++;
            if (end < x->n && (unsigned char)x->p[end] >= 0x80)
                return lex_fail(x, "names beyond ASCII are not supported");
            rc = push_text(x, TPL_T_NAME, x->p + x->at, end - x->at);
            x->at = end;
        } else if (c == '\'' || c == '"') {
            rc = string(x);
        } else if ((unsigned char)c >= 0x80) {
            return lex_fail(x, "names beyond ASCII are not supported");
        } else {
            rc = operator_token(x);
        }
        if (rc) return -1;
    }
}

static int tokens(lexer *x) {
    while (x->at < x->n) {
        size_t at = x->at;
        while (at < x->n && !(x->p[at] == '{' && at + 1 < x->n && strchr("{%#", x->p[at + 1]) && x->p[at + 1])) at++;
        if (at == x->n) {
            if (push_text(x, TPL_T_DATA, x->p + x->at, x->n - x->at)) return -1;
            break;
        }
        char kind = x->p[at + 1], sign = at + 2 < x->n ? x->p[at + 2] : 0;
        size_t body = at + 2 + (sign == '-' || sign == '+'), raw_body;
        if (text_before(x, at, sign, kind == '{')) return -1;
        if (kind == '%' && raw_begin(x, body, &raw_body)) {
            advance(x, raw_body);
            if (raw(x)) return -1;
            continue;
        }
        advance(x, body);
        if (kind == '#' ? comment(x, body) : tag(x, kind == '{')) return -1;
    }
    return push(x, (tpl_token){.type = TPL_T_EOF});
}

int tpl_lex(upg_template *t, const char *text, size_t n, tpl_token **out, upg_error *e) {
    lexer x = {.t = t, .e = e, .line = 1, .p = tpl_arena_alloc(&t->arena, n + 1)};
    *out = NULL;
    if (!x.p) return lex_fail(&x, "the template is too large");
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = tpl_decode(text + i, n - i, &cp);
        if (cp == UINT32_MAX) return lex_fail(&x, "the template is not UTF-8");
        if (cp == '\r') {
            x.p[x.n++] = '\n';
            i += i + 1 < n && text[i + 1] == '\n' ? 2 : 1;
            continue;
        }
        memcpy(x.p + x.n, text + i, (size_t)len);
        x.n += (size_t)len;
        i += (size_t)len;
    }
    if (x.n && x.p[x.n - 1] == '\n') x.n--;
    int rc = tokens(&x);
    if (rc)
        free(x.tokens);
    else
        *out = x.tokens;
    return rc;
}
