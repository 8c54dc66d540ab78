// For a byte of a sparse mask: where each of its 8 weights is found among the values that follow, as byte shuffles
// (pshufb, tbl) ask for it; 0x80 or more, which they make 0, if it is not kept.
#pragma once
#include <stdint.h>

#define PLACE(m, i)                                                                                                    \
    ((uint64_t)((m) >> (i)&1 ? ((m) >> 0 & 1 && (i) > 0) + ((m) >> 1 & 1 && (i) > 1) + ((m) >> 2 & 1 && (i) > 2) +     \
                                   ((m) >> 3 & 1 && (i) > 3) + ((m) >> 4 & 1 && (i) > 4) + ((m) >> 5 & 1 && (i) > 5) + \
                                   ((m) >> 6 & 1 && (i) > 6)                                                           \
                             : 0x80)                                                                                   \
     << 8 * (i))
#define PLACES(m)                                                                                                      \
    (PLACE(m, 0) | PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | PLACE(m, 7))
#define PLACES4(m)  PLACES(m), PLACES((m) + 1), PLACES((m) + 2), PLACES((m) + 3)
#define PLACES16(m) PLACES4(m), PLACES4((m) + 4), PLACES4((m) + 8), PLACES4((m) + 12)
#define PLACES64(m) PLACES16(m), PLACES16((m) + 16), PLACES16((m) + 32), PLACES16((m) + 48)
static const uint64_t places[256] = {PLACES64(0), PLACES64(64), PLACES64(128), PLACES64(192)};
#undef PLACES
#define PLACES(m)                                                                                                      \
    (0x0808080808080808 |                                                                                              \
     (PLACE(m, 0) | PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | PLACE(m, 7)))
// The same in the upper half of a vector.
static const uint64_t places_behind[256] = {PLACES64(0), PLACES64(64), PLACES64(128), PLACES64(192)};
