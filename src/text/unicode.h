// UTF-8, the few Unicode properties tokenizers ask for, and NFC. Properties are our own tables (unicode_tables.c, made
// by tools/unicode_tables.py), so ids do not depend on the version of a library; NFC is libutf8proc's, whose answers
// Unicode's stability policy fixes for every assigned character. Ill-formed bytes are characters of their own, one byte
// long, of class OTHER: nothing here rejects text.
#pragma once
#include "base/base.h"

// Every character is of one class; sets of classes are bits, so that "in one of" is one AND.
enum {
    UPG_CHAR_OTHER = 1 << 0,   // C (control, format, unassigned...) but for those below; also every ill-formed byte
    UPG_CHAR_UPPER = 1 << 1,   // Lu, Lt
    UPG_CHAR_LOWER = 1 << 2,   // Ll
    UPG_CHAR_LO = 1 << 3,      // Lm, Lo
    UPG_CHAR_MARK = 1 << 4,    // M
    UPG_CHAR_NUMBER = 1 << 5,  // N
    UPG_CHAR_PUNCT = 1 << 6,   // P
    UPG_CHAR_SYMBOL = 1 << 7,  // S
    UPG_CHAR_BLANK = 1 << 8,   // White_Space but for the two below
    UPG_CHAR_NEWLINE = 1 << 9, // \r and \n
    UPG_CHAR_LETTER = UPG_CHAR_UPPER | UPG_CHAR_LOWER | UPG_CHAR_LO,
    UPG_CHAR_SPACE = UPG_CHAR_BLANK | UPG_CHAR_NEWLINE,
};

// The table's entries: the number of the class's bit, and whether the character is in \w. Code points of one block have
// their entries side by side; block 0 is ASCII; from upg_unicode_end on all are OTHER.
enum { UPG_UNICODE_SHIFT = 7, UPG_UNICODE_CLASS = 15, UPG_UNICODE_WORD = 16 };
extern const uint16_t upg_unicode_index[];
extern const uint8_t upg_unicode_blocks[];
extern const uint32_t upg_unicode_end;

#define UPG_BAD_CHAR UINT32_MAX

// Bytes (1 to 4) of the character at p[0..n), n > 0; *cp is UPG_BAD_CHAR, the length 1, where p is not well-formed
// UTF-8.
int upg_utf8_decode(const uint8_t *p, size_t n, uint32_t *cp);
// Bytes of the character that ends at p + n, n > 0; same convention.
int upg_utf8_decode_last(const uint8_t *p, size_t n, uint32_t *cp);

static inline unsigned upg_unicode_entry(uint32_t cp) { // 0, OTHER, for UPG_BAD_CHAR
    if (cp >= upg_unicode_end) return 0;
    return upg_unicode_blocks[(uint32_t)upg_unicode_index[cp >> UPG_UNICODE_SHIFT] << UPG_UNICODE_SHIFT |
                              (cp & ((1u << UPG_UNICODE_SHIFT) - 1))];
}

static inline unsigned upg_char_class_of(uint32_t cp) { // one bit
    return 1u << (upg_unicode_entry(cp) & UPG_UNICODE_CLASS);
}

static inline bool upg_char_is_space(uint32_t cp) { // White_Space
    return upg_char_class_of(cp) & UPG_CHAR_SPACE;
}

static inline bool upg_char_is_word(uint32_t cp) { // \w: Alphabetic, M, Nd, Pc, Join_Control (UTS #18, annex C)
    return upg_unicode_entry(cp) & UPG_UNICODE_WORD;
}

// Class and length of the character at p[0..n), n > 0.
static inline unsigned upg_next_class(const uint8_t *p, size_t n, size_t *len) {
    if (*p < 128) {
        *len = 1;
        return 1u << (upg_unicode_blocks[*p] & UPG_UNICODE_CLASS);
    }
    uint32_t cp;
    *len = (size_t)upg_utf8_decode(p, n, &cp);
    return upg_char_class_of(cp);
}

// Appends Normalization Form C of text (UAX #15); ill-formed bytes are copied and are boundaries. O(n) for any input.
int upg_nfc(const uint8_t *text, size_t n, upg_buf *out, upg_error *e);
