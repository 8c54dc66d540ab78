// The decoder shared by Llama-shaped architectures, as a program. docs/arithmetic.md, section 12.
#include "arch/arch.h"

typedef struct buffers {
    int x, y, qkv, attn, gate_up, act, delta;
    int wanted_x, wanted_attn; // of the rows whose logits are wanted
} buffers;

static int norm(upg_program *p, int in, int out, int weight, upg_error *e) {
    if (weight < 0) return -1;
    upg_op op = {.kind = UPG_OP_RMSNORM, .in = in, .out = out, .n = p->widths[in], .weight = weight};
    return upg_program_op(p, op, e) < 0 ? -1 : 0;
}

static int simple(upg_program *p, upg_op_kind kind, int in, int out, int layer, upg_error *e) {
    upg_op op = {.kind = kind, .in = in, .out = out, .n = p->widths[in], .weight = -1, .layer = layer};
    return upg_program_op(p, op, e) < 0 ? -1 : 0;
}

// A matrix of a layer: what stands between "model.layers.N." and ".weight", and its rows.
typedef struct matrix {
    const char *name;
    int rows;
} matrix;

enum { MAX_FUSED = 3 };

// out = matrices * in, one after another, then their biases.
static int project(upg_program *p, int layer, int in, int out, const matrix *m, int n, bool bias, upg_error *e) {
    int weights[MAX_FUSED], col = 0;
    for (int i = 0; i < n; i++) {
        weights[i] = upg_program_weight(p, m[i].rows, p->widths[in], e, "model.layers.%d.%s.weight", layer, m[i].name);
        if (weights[i] < 0) return -1;
    }
    if (upg_program_linear(p, in, out, weights, n, e)) return -1;
    for (int i = 0; bias && i < n; col += m[i++].rows) {
        int w = upg_program_weight(p, 1, m[i].rows, e, "model.layers.%d.%s.bias", layer, m[i].name);
        upg_op op = {.kind = UPG_OP_BIAS, .in = out, .out = out, .out_col = col, .n = m[i].rows, .weight = w};
        if (w < 0 || upg_program_op(p, op, e) < 0) return -1;
    }
    return 0;
}

// RMSNorm of `heads` heads that begin at column col of the buffer.
static int head_norm(upg_program *p, int buffer, int col, int heads, int layer, const char *name, upg_error *e) {
    int dim = p->config->head_dim, w = upg_program_weight(p, 1, dim, e, "model.layers.%d.%s.weight", layer, name);
    upg_op op = {.kind = UPG_OP_HEAD_NORM, .in = buffer, .out = buffer, .out_col = col, .n = dim, .count = heads};
    op.weight = w;
    return w < 0 || upg_program_op(p, op, e) < 0 ? -1 : 0;
}

// From here on x and attn are those of the wanted rows.
static int gather(upg_program *p, buffers *b, int layer, upg_error *e) {
    if (simple(p, UPG_OP_GATHER, b->attn, b->wanted_attn, layer, e) ||
        simple(p, UPG_OP_GATHER, b->x, b->wanted_x, layer, e))
        return -1;
    b->attn = b->wanted_attn;
    b->x = b->wanted_x;
    return 0;
}

static int attention(upg_program *p, const upg_decoder_layout *layout, buffers *b, int i, upg_error *e) {
    const upg_config *c = p->config;
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const matrix fused = {"self_attn.qkv_proj", q + 2 * kv}, o = {"self_attn.o_proj", c->hidden_size},
                 apart[] = {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    if (norm(p, b->x, b->y, upg_program_weight(p, 1, c->hidden_size, e, "model.layers.%d.input_layernorm.weight", i),
             e) ||
        project(p, i, b->y, b->qkv, layout->fused_qkv ? &fused : apart, layout->fused_qkv ? 1 : 3, layout->qkv_bias, e))
        return -1;
    if (layout->qk_norm && (head_norm(p, b->qkv, 0, c->n_heads, i, "self_attn.q_norm", e) ||
                            head_norm(p, b->qkv, q, c->n_kv_heads, i, "self_attn.k_norm", e)))
        return -1;
    upg_op attend = {.kind = UPG_OP_ATTENTION, .in = b->qkv, .out = b->attn, .n = q + 2 * kv, .weight = -1, .layer = i};
    attend.window = c->full_attention[i] ? 0 : c->sliding_window;
    // Behind the last layer's attention only the wanted rows count. Compression looks at all rows of all layers.
    const bool gathers = i == c->n_layers - 1 && p->source->compressed;
    return simple(p, UPG_OP_KV, b->qkv, b->qkv, i, e) || upg_program_op(p, attend, e) < 0 ||
                   (gathers && gather(p, b, i, e)) || project(p, i, b->attn, b->delta, &o, 1, layout->o_bias, e) ||
                   simple(p, UPG_OP_ADD, b->delta, b->x, i, e)
               ? -1
               : 0;
}

static int mlp(upg_program *p, const upg_decoder_layout *layout, const buffers *b, int i, upg_error *e) {
    const upg_config *c = p->config;
    int h = c->hidden_size, f = c->ffn_size;
    const matrix fused = {"mlp.gate_up_proj", 2 * f}, down = {"mlp.down_proj", h},
                 apart[] = {{"mlp.gate_proj", f}, {"mlp.up_proj", f}};
    int w = upg_program_weight(p, 1, h, e, "model.layers.%d.post_attention_layernorm.weight", i);
    return norm(p, b->x, b->y, w, e) ||
                   project(p, i, b->y, b->gate_up, layout->fused_gate_up ? &fused : apart,
                           layout->fused_gate_up ? 1 : 2, layout->mlp_bias, e) ||
                   simple(p, UPG_OP_SWIGLU, b->gate_up, b->act, i, e) ||
                   project(p, i, b->act, b->delta, &down, 1, layout->mlp_bias, e) ||
                   simple(p, UPG_OP_ADD, b->delta, b->x, i, e)
               ? -1
               : 0;
}

int upg_build_decoder(upg_program *p, const upg_decoder_layout *layout, upg_error *e) {
    const upg_config *c = p->config;
    int h = c->hidden_size, q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    buffers b = {.wanted_attn = -1};
    if ((b.x = upg_program_buffer(p, h, e)) < 0 || (b.y = upg_program_buffer(p, h, e)) < 0 ||
        (b.qkv = upg_program_buffer(p, q + 2 * kv, e)) < 0 || (b.attn = upg_program_buffer(p, q, e)) < 0 ||
        (b.gate_up = upg_program_buffer(p, 2 * c->ffn_size, e)) < 0 ||
        (b.act = upg_program_buffer(p, c->ffn_size, e)) < 0 || (b.delta = upg_program_buffer(p, h, e)) < 0 ||
        (p->logits = upg_program_buffer(p, c->vocab_size, e)) < 0)
        return -1;
    b.wanted_x = b.delta; // free at the end
    if (p->source->compressed &&
        ((b.wanted_x = upg_program_buffer(p, h, e)) < 0 || (b.wanted_attn = upg_program_buffer(p, q, e)) < 0))
        return -1;
    int embedding = upg_program_weight(p, c->vocab_size, h, e, "model.embed_tokens.weight");
    upg_op embed = {.kind = UPG_OP_EMBED, .in = b.x, .out = b.x, .n = h, .weight = embedding};
    if (embedding < 0 || upg_program_op(p, embed, e) < 0) return -1;
    for (int i = 0; i < c->n_layers; i++)
        if (attention(p, layout, &b, i, e) || mlp(p, layout, &b, i, e)) return -1;
    int head = c->tied ? embedding : upg_program_weight(p, c->vocab_size, h, e, "lm_head.weight");
    if (head < 0 || (!p->source->compressed && simple(p, UPG_OP_GATHER, b.x, b.wanted_x, c->n_layers - 1, e)) ||
        norm(p, b.wanted_x, b.y, upg_program_weight(p, 1, h, e, "model.norm.weight"), e))
        return -1;
    return upg_program_linear(p, b.y, p->logits, &head, 1, e);
}
