// Any text as a config.json, then a NUL and a generation_config.json: it is refused with a message, or what it says is
// within the limits that the engine relies on and survives being written and read again.
#include "../arch/config_equal.h"
#include <stdlib.h>

static char *copy_text(const uint8_t *data, size_t n) { // of exactly the size, for the sanitizer to guard
    char *s = malloc(n + 1);
    if (!s) return NULL;
    if (n) memcpy(s, data, n);
    s[n] = 0;
    return s;
}

static bool within(int64_t lo, int64_t x, int64_t hi) {
    return lo <= x && x <= hi;
}

static void check_limits(const upg_config *c) {
    bool ok = c->arch && within(1, c->vocab_size, 1 << 24) && within(1, c->hidden_size, UPG_MAX_INPUTS) &&
              within(1, c->ffn_size, UPG_MAX_INPUTS) && within(1, c->n_layers, UPG_MAX_LAYERS) &&
              within(2, c->head_dim, UPG_MAX_HEAD_DIM) && within(1, c->n_kv_heads, c->n_heads) &&
              c->n_heads % c->n_kv_heads == 0 && within(2, c->rotary_dim, c->head_dim) && c->rotary_dim % 2 == 0 &&
              within(1, c->max_positions, 1 << 24) && within(0, c->sliding_window, c->max_positions - 1) &&
              c->rms_eps > 0 && c->rms_eps <= 1 && c->rope_theta >= 1 && c->rope_theta <= 1e12 &&
              within(-1, c->bos, c->vocab_size - 1) && within(0, c->n_eos, UPG_MAX_EOS);
    for (int i = 0; ok && i < c->n_eos; i++)
        ok = within(0, c->eos[i], c->vocab_size - 1) && upg_config_is_eos(c, c->eos[i]);
    for (int i = 0; i < UPG_MAX_LAYERS; i++)
        ok = ok && !(c->full_attention[i] && (!c->sliding_window || i >= c->n_layers));
    if (c->rope_scaling == UPG_ROPE_LINEAR || c->rope_scaling == UPG_ROPE_LLAMA3) ok = ok && c->rope_factor >= 1;
    for (int i = 0; c->rope_scaling == UPG_ROPE_LONGROPE && i < c->rotary_dim / 2; i++)
        ok = ok && c->rope_original >= 2 && c->rope_attention > 0 && c->rope_attention < 1e4 && // angles below 2^24
             c->max_positions <= c->rope_short[i] * 0x1p24 && c->max_positions <= c->rope_long[i] * 0x1p24;
    if (c->rope_scaling == UPG_ROPE_LLAMA3)
        ok = ok && c->rope_low > 0 && c->rope_high > c->rope_low && c->rope_original >= 1;
    if (!ok) abort();
}

static void read_again(const upg_config *c) {
    upg_buf b = {0};
    upg_config again;
    upg_error e;
    if (upg_config_write(c, &b, &e) || upg_config_parse(&again, b.data, NULL, &e) || !config_equal(c, &again)) abort();
    upg_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    char *config = copy_text(data, n);
    char *generation = nul ? copy_text(nul + 1, size - n - 1) : NULL;
    upg_config c;
    upg_error e = {{0}};
    if (config && !upg_config_parse(&c, config, generation, &e)) {
        check_limits(&c);
        read_again(&c);
    } else if (config && !*e.message) {
        abort();
    }
    free(config);
    free(generation);
    return 0;
}
