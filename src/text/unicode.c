// UTF-8 and NFC. See unicode.h.
#include "text/unicode.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static inline bool continues(uint8_t b) {
    return (b & 0xC0) == 0x80;
}

int upg_utf8_decode(const uint8_t *p, size_t n, uint32_t *cp) {
    uint32_t c = p[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    if (c >= 0xC2 && c < 0xE0 && n >= 2 && continues(p[1])) {
        *cp = (c & 31) << 6 | (p[1] & 63u);
        return 2;
    }
    if ((c & 0xF0) == 0xE0 && n >= 3 && continues(p[1]) && continues(p[2])) {
        uint32_t v = (c & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
        if (v >= 0x800 && (v < 0xD800 || v >= 0xE000)) {
            *cp = v;
            return 3;
        }
    }
    if (c >= 0xF0 && c <= 0xF4 && n >= 4 && continues(p[1]) && continues(p[2]) && continues(p[3])) {
        uint32_t v = (c & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
        if (v >= 0x10000 && v < 0x110000) {
            *cp = v;
            return 4;
        }
    }
    *cp = UPG_BAD_CHAR;
    return 1;
}

int upg_utf8_decode_last(const uint8_t *p, size_t n, uint32_t *cp) {
    for (size_t len = 1; len <= 4 && len <= n; len++) {
        if (continues(p[n - len])) continue;
        if ((size_t)upg_utf8_decode(p + n - len, len, cp) == len) return (int)len;
        break;
    }
    *cp = UPG_BAD_CHAR;
    return 1;
}

// --- NFC ---

typedef struct code_points {
    int32_t *data; // [size]
    size_t size, capacity;
} code_points;

enum { MAX_DECOMPOSITION = 18 }; // code points one character may become in any normalization form

static int decompose(code_points *c, uint32_t cp, upg_error *e) {
    if (c->capacity - c->size < MAX_DECOMPOSITION) {
        size_t capacity = c->capacity * 2 + 64;
        int32_t *p = upg_resize(c->data, capacity, sizeof *p, e);
        if (!p) return -1;
        c->data = p;
        c->capacity = capacity;
    }
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, c->data + c->size, MAX_DECOMPOSITION,
                                                 UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
    if (n < 0 || n > MAX_DECOMPOSITION) return upg_fail(e, "tokenizer: no decomposition of U+%04X", (unsigned)cp);
    c->size += (size_t)n;
    return 0;
}

static uint8_t combining_class(int32_t cp) {
    return (uint8_t)utf8proc_get_property(cp)->combining_class;
}

// Orders a run of combining marks by class, stably. Counting, because a run may be as long as the text.
static int order_marks(int32_t *marks, size_t n, upg_error *e) {
    size_t start[257] = {0};
    int32_t small[32], *copy = n <= 32 ? small : upg_alloc(n, sizeof *copy, e);
    if (!copy) return -1;
    memcpy(copy, marks, n * sizeof *marks);
    for (size_t i = 0; i < n; i++) start[combining_class(copy[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) marks[start[combining_class(copy[i])]++] = copy[i];
    if (copy != small) free(copy);
    return 0;
}

static int compose(code_points *c, upg_buf *out, upg_error *e) {
    for (size_t i = 0; i < c->size; i++) {
        size_t end = i;
        while (end < c->size && combining_class(c->data[end])) end++;
        if (end - i > 1 && order_marks(c->data + i, end - i, e)) return -1;
        i = end;
    }
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32(c->data, (utf8proc_ssize_t)c->size, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) return upg_fail(e, "tokenizer: cannot normalise: %s", utf8proc_errmsg(n));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        utf8proc_uint8_t utf8[4];
        upg_buf_add(out, utf8, (size_t)utf8proc_encode_char(c->data[i], utf8));
    }
    c->size = 0;
    return upg_buf_check(out, e);
}

// Characters below U+0300 are in NFC and nothing composes into them from the left, so text is cut in front of each of
// them and only stretches with something above go through the library.
int upg_nfc(const uint8_t *text, size_t n, upg_buf *out, upg_error *e) {
    code_points c = {0};
    int rc = 0;
    size_t done = 0; // text[0..done) is written
    for (size_t i = 0; !rc && i < n;) {
        uint32_t cp;
        size_t last = i; // where the last character below U+0300 starts, which marks may follow
        bool simple = true;
        while (i < n && simple) {
            int len = upg_utf8_decode(text + i, n - i, &cp);
            simple = cp < 0x300 || cp == UPG_BAD_CHAR;
            if (!simple) break;
            last = cp == UPG_BAD_CHAR ? i + 1 : i;
            i += (size_t)len;
        }
        if (i == n) break;
        upg_buf_add(out, text + done, last - done);
        for (i = last; !rc && i < n;) {
            int len = upg_utf8_decode(text + i, n - i, &cp);
            if (cp == UPG_BAD_CHAR || (cp < 0x300 && i > last)) break;
            rc = decompose(&c, cp, e);
            i += (size_t)len;
        }
        if (!rc) rc = compose(&c, out, e);
        done = i;
    }
    if (!rc) upg_buf_add(out, text + done, n - done);
    free(c.data);
    return rc ? rc : upg_buf_check(out, e);
}
