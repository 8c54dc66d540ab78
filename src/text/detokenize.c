// Ids to text, one at a time. The bytes of an unfinished character wait in the detokenizer; what cannot become one any
// more is written as U+FFFD, one for each maximal subpart (Unicode 15, section 3.9), so output is always well-formed.
#include "text/tokenizer_internal.h"

// How many bytes a character has that starts with b; 0 if none does.
static int char_size(uint8_t b) {
    if (b < 0x80) return 1;
    if (b >= 0xC2 && b < 0xE0) return 2;
    if (b >= 0xE0 && b < 0xF0) return 3;
    return b >= 0xF0 && b <= 0xF4 ? 4 : 0;
}

// Whether b may follow the n bytes seen, n > 0: the second byte is where overlong forms, surrogates and values above
// U+10FFFF show (table 3-7).
static bool may_follow(const uint8_t *seen, int n, uint8_t b) {
    uint8_t low = 0x80, high = 0xBF;
    if (n == 1) {
        if (seen[0] == 0xE0) low = 0xA0;
        if (seen[0] == 0xED) high = 0x9F;
        if (seen[0] == 0xF0) low = 0x90;
        if (seen[0] == 0xF4) high = 0x8F;
    }
    return b >= low && b <= high;
}

static void push_byte(upg_detokenizer *d, uint8_t b, upg_buf *out) {
    if (d->n_pending && !may_follow(d->pending, d->n_pending, b)) upg_detokenizer_finish(d, out);
    if (!d->n_pending && !char_size(b)) {
        upg_buf_str(out, "\xEF\xBF\xBD");
        return;
    }
    d->pending[d->n_pending++] = b;
    if (d->n_pending < char_size(d->pending[0])) return;
    upg_buf_add(out, d->pending, (size_t)d->n_pending);
    d->n_pending = 0;
}

void upg_detokenizer_push(upg_detokenizer *d, const upg_tokenizer *t, int32_t id, bool special, upg_buf *out) {
    if (!special && upg_tokenizer_is_special(t, id)) return;
    size_t n;
    const uint8_t *p = (const uint8_t *)upg_tokenizer_bytes(t, id, &n);
    if (!n) return;
    if (t->spm.strip_space && !d->midway && *p == ' ') p++, n--;
    d->midway = true;
    for (size_t i = 0, run; i < n; i += run) {
        for (run = 0; !d->n_pending && i + run < n && p[i + run] < 0x80;) run++;
        if (run)
            upg_buf_add(out, p + i, run);
        else
            push_byte(d, p[i], out), run = 1;
    }
}

void upg_detokenizer_finish(upg_detokenizer *d, upg_buf *out) {
    if (d->n_pending) upg_buf_str(out, "\xEF\xBF\xBD");
    d->n_pending = 0;
}
