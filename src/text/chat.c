// Cutting rendered chats at the control tokens that the template wrote. See chat.h.
//
// The search for added tokens runs over the whole text, as it does for plain text, because some of them take the
// whitespace beside them whoever wrote it; but a control token that is found counts only if it lies in one run of the
// template's bytes. What remains is encoded without control tokens.
#include "text/chat.h"
#include "text/tokenizer_internal.h"

// Where in the runs a search is; positions asked for must not descend.
typedef struct cursor {
    size_t run, start;
} cursor;

typedef struct splitter {
    const upg_tokenizer *t;
    const upg_template_output *rendered;
    const uint8_t *piece; // what the second search looks through
    cursor whole, part;
    upg_ids *out;
    upg_error *e;
} splitter;

static bool from_template(const upg_template_output *r, cursor *c, size_t start, size_t stop) {
    while (c->run < r->n_runs && start >= c->start + r->runs[c->run].length) c->start += r->runs[c->run++].length;
    return c->run < r->n_runs && r->runs[c->run].from_template && stop <= c->start + r->runs[c->run].length;
}

static int add_token(void *context, int32_t id) {
    splitter *s = context;
    return upg_ids_add(s->out, id, s->e);
}

static int add_text(void *context, const uint8_t *p, size_t n) {
    splitter *s = context;
    bool at_start = p == (const uint8_t *)s->rendered->text.data;
    return upg_tokenizer_encode_part(s->t, (const char *)p, n, at_start, false, s->out, s->e);
}

static bool accept_whole(void *context, const upg_added *a, size_t start, size_t stop) {
    splitter *s = context;
    return !(a->flags & UPG_ADDED_SPECIAL) || from_template(s->rendered, &s->whole, start, stop);
}

static bool accept_part(void *context, const upg_added *a, size_t start, size_t stop) {
    splitter *s = context;
    size_t at = (size_t)(s->piece - (const uint8_t *)s->rendered->text.data);
    return (a->flags & UPG_ADDED_SPECIAL) && from_template(s->rendered, &s->part, at + start, at + stop);
}

// Control tokens that are looked for in normalized text: their names are taken to be what normalization leaves as it
// is. Other tokens of that kind are found by the tokenizer itself.
static int split_part(void *context, const uint8_t *p, size_t n) {
    splitter *s = context;
    s->piece = p;
    upg_match_sink sink = {.context = s, .text = add_text, .token = add_token, .accept = accept_part};
    return upg_matcher_split(&s->t->after_nfc, p, n, true, &sink);
}

int upg_tokenizer_encode_chat(const upg_tokenizer *t, const upg_template_output *rendered, upg_ids *out, upg_error *e) {
    size_t size = out->size;
    splitter s = {.t = t, .rendered = rendered, .out = out, .e = e};
    upg_match_sink sink = {.context = &s, .text = split_part, .token = add_token, .accept = accept_whole};
    int rc = rendered->text.size ? upg_matcher_split(&t->before_nfc, (const uint8_t *)rendered->text.data,
                                                     rendered->text.size, true, &sink)
                                 : 0;
    if (rc) out->size = size;
    return rc;
}
