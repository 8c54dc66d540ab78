// The rules of the .upg container that reader and writer share. See upg_file.h.
#include "format/upg_file.h"
#include <math.h>
#include <string.h>
#include <xxhash.h>

const char *upg_file_name_problem(const char *name, upg_encoding encoding) {
    size_t n = strlen(name);
    if (!n) return "an empty name";
    if (!strcmp(name, "__metadata__")) return "a name that safetensors reserves";
    if (!strncmp(name, "pad.", 4)) return "names beginning with 'pad.' are reserved for padding";
    if (n >= 6 && !strcmp(name + n - 6, ".scale")) return "names ending in '.scale' are reserved for row scales";
    if (!strcmp(name, UPG_TOKENIZER) != (encoding == UPG_BYTES))
        return "the name 'tokenizer' and the encoding 'bytes' belong together";
    return NULL;
}

int64_t upg_file_bad_scale(const float *scale, int64_t rows) {
    int64_t r = 0;
    for (; r < rows; r++) {
        float a = scale[r];
        if (!((a == 0 && !signbit(a)) || (a >= 0x1p-50f && a <= 0x1p30f))) break;
    }
    return r;
}

void upg_file_hash(const void *data, size_t size, uint8_t hash[16]) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(data, size));
    memcpy(hash, c.digest, 16);
}

void upg_file_hash_to_hex(const uint8_t hash[16], char hex[UPG_HEX_HASH + 1]) {
    for (int i = 0; i < UPG_HEX_HASH; i++) hex[i] = "0123456789abcdef"[hash[i / 2] >> (i % 2 ? 0 : 4) & 15];
    hex[UPG_HEX_HASH] = 0;
}

bool upg_file_hash_from_hex(const char *hex, uint8_t hash[16]) {
    if (strlen(hex) != UPG_HEX_HASH) return false;
    for (int i = 0; i < UPG_HEX_HASH; i++) {
        int c = hex[i], v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0) return false;
        hash[i / 2] = (uint8_t)(i % 2 ? hash[i / 2] << 4 | v : v);
    }
    return true;
}
