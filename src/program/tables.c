// RoPE tables in f64 by our own elementary functions, since libraries differ in the last bit, and f32 exp and log for
// the engine.
#include "program/ops.h"

double upg_elog(double x) {
    int k;
    double m = frexp(x, &k) * 2;
    k--;
    if (m > 0x1.6a09e667f3bcdp+0) {
        m = m / 2;
        k++;
    }
    double s = (m - 1) / (m + 1), z = s * s, p = 0;
    for (int j = 20; j >= 0; j--) p = p * z + 1.0 / (2 * j + 1);
    return k * 0x1.62e42fefa39efp-1 + (2 * s) * p;
}

double upg_eexp(double x) {
    double k = rint(x * 0x1.71547652b82fep+0);
    double r = (x - k * 0x1.62e42fefa3800p-1) - k * 0x1.ef35793c76730p-45, p = 1;
    for (int j = 20; j >= 1; j--) p = 1 + (r * p) / j;
    return ldexp(p, (int)k);
}

void upg_esincos(double x, double *sine, double *cosine) {
    double k = rint(x * 0x1.45f306dc9c883p-1);
    double r = ((x - k * 0x1.921fb54400000p+0) - k * 0x1.0b4611a600000p-34) - k * 0x1.3198a2e037073p-69;
    double z = r * r, s = 1, c = 1;
    for (int j = 10; j >= 1; j--) {
        s = 1 - (z * s) / ((2 * j) * (2 * j + 1));
        c = 1 - (z * c) / ((2 * j - 1) * (2 * j));
    }
    s = r * s;
    int quadrant = (int)((int64_t)k & 3);
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

static double frequency(const upg_config *c, int j, bool is_long) {
    double f = upg_eexp((-(2.0 * j) / c->rotary_dim) * upg_elog(c->rope_theta));
    if (c->rope_scaling == UPG_ROPE_LINEAR) return f / c->rope_factor;
    if (c->rope_scaling == UPG_ROPE_LONGROPE) return f / (is_long ? c->rope_long[j] : c->rope_short[j]);
    if (c->rope_scaling != UPG_ROPE_LLAMA3) return f;
    double wave = 0x1.921fb54442d18p+2 / f;
    if (wave < c->rope_original / c->rope_high) return f;
    if (wave > c->rope_original / c->rope_low) return f / c->rope_factor;
    double t = (c->rope_original / wave - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - t) * (f / c->rope_factor) + t * f;
}

void upg_rope_tables(const upg_config *c, int n_positions, float *cosine, float *sine) {
    int half = c->rotary_dim / 2;
    bool is_long = n_positions > c->rope_original;
    double scale = c->rope_scaling == UPG_ROPE_LONGROPE ? c->rope_attention : 1;
    for (int j = 0; j < half; j++) {
        double f = frequency(c, j, is_long);
        for (int i = 0; i < n_positions; i++) {
            double s, co;
            upg_esincos(i * f, &s, &co);
            cosine[(size_t)i * (size_t)half + (size_t)j] = (float)(co * scale);
            sine[(size_t)i * (size_t)half + (size_t)j] = (float)(s * scale);
        }
    }
}

float upg_exp(float x) {
    return op_exp(x);
}

float upg_log(float x) {
    int32_t k = (int32_t)(upg_bits(x) - 0x3f3504f3u) >> 23;
    float m = upg_float(upg_bits(x) - ((uint32_t)k << 23));
    float s = (m - 1.0f) / (m + 1.0f), z = s * s, p = 0x1.c71c72p-4f;
    p = fmaf(p, z, 0x1.24924ap-3f);
    p = fmaf(p, z, 0x1.99999ap-3f);
    p = fmaf(p, z, 0x1.555556p-2f);
    p = fmaf(p, z, 0x1p+0f);
    return fmaf((float)k, 0x1.62e430p-1f, (s + s) * p);
}
