// UTF-8 and the few Unicode properties tokenizers ask for. Categories come from libutf8proc; the property lists that it
// does not carry (White_Space, the word characters of a regex) are spelled out here. Ill-formed bytes are characters of
// their own, one byte long, that belong to no class: nothing here rejects text.
#pragma once
#include "base/base.h"

typedef enum upg_char_class {
    UPG_CHAR_OTHER,   // neither of those below; also every ill-formed byte
    UPG_CHAR_LETTER,  // \p{L}
    UPG_CHAR_NUMBER,  // \p{N}
    UPG_CHAR_SPACE,   // \s (White_Space) but for the two below
    UPG_CHAR_NEWLINE, // \r and \n
} upg_char_class;

extern const uint8_t upg_ascii_class[128];

#define UPG_BAD_CHAR UINT32_MAX

// Bytes (1 to 4) of the character at p[0..n), n > 0; *cp is UPG_BAD_CHAR, the length 1, where p is not well-formed
// UTF-8.
int upg_utf8_decode(const uint8_t *p, size_t n, uint32_t *cp);
// Bytes of the character that ends at p + n, n > 0; same convention.
int upg_utf8_decode_last(const uint8_t *p, size_t n, uint32_t *cp);
upg_char_class upg_char_class_of(uint32_t cp);
bool upg_char_is_space(uint32_t cp); // White_Space
bool upg_char_is_word(uint32_t cp);  // \w: Alphabetic, M, Nd, Pc, Join_Control (UTS #18, annex C)

// Class and length of the character at p[0..n), n > 0.
static inline upg_char_class upg_next_class(const uint8_t *p, size_t n, size_t *len) {
    if (*p < 128) {
        *len = 1;
        return (upg_char_class)upg_ascii_class[*p];
    }
    uint32_t cp;
    *len = (size_t)upg_utf8_decode(p, n, &cp);
    return upg_char_class_of(cp);
}

// Appends Normalization Form C of text (UAX #15); ill-formed bytes are copied and are boundaries. O(n) for any input.
int upg_nfc(const uint8_t *text, size_t n, upg_buf *out, upg_error *e);
