// The decoder shared by Llama-shaped architectures, as a program. docs/arithmetic.md, section 12.
#include "arch/arch.h"

typedef struct buffers {
    int x, y, qkv, attn, gate_up, act, delta;
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

static int attention(upg_program *p, const upg_decoder_layout *layout, const buffers *b, int i, upg_error *e) {
    const upg_config *c = p->config;
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, h = c->hidden_size;
    if (norm(p, b->x, b->y, upg_program_weight(p, 1, h, e, "model.layers.%d.input_layernorm.weight", i), e)) return -1;
    if (layout->fused_qkv) {
        int w = upg_program_weight(p, q + 2 * kv, h, e, "model.layers.%d.self_attn.qkv_proj.weight", i);
        if (w < 0 || upg_program_linear(p, b->y, b->qkv, &w, 1, e)) return -1;
    } else {
        int wq = upg_program_weight(p, q, h, e, "model.layers.%d.self_attn.q_proj.weight", i);
        int wk = wq < 0 ? -1 : upg_program_weight(p, kv, h, e, "model.layers.%d.self_attn.k_proj.weight", i);
        int wv = wk < 0 ? -1 : upg_program_weight(p, kv, h, e, "model.layers.%d.self_attn.v_proj.weight", i);
        if (wv < 0 || upg_program_linear(p, b->y, b->qkv, (int[]){wq, wk, wv}, 3, e)) return -1;
    }
    int wo = upg_program_weight(p, h, q, e, "model.layers.%d.self_attn.o_proj.weight", i);
    return wo < 0 || simple(p, UPG_OP_KV, b->qkv, b->qkv, i, e) || simple(p, UPG_OP_ATTENTION, b->qkv, b->attn, i, e) ||
                   upg_program_linear(p, b->attn, b->delta, &wo, 1, e) || simple(p, UPG_OP_ADD, b->delta, b->x, i, e)
               ? -1
               : 0;
}

static int mlp(upg_program *p, const upg_decoder_layout *layout, const buffers *b, int i, upg_error *e) {
    const upg_config *c = p->config;
    int h = c->hidden_size, f = c->ffn_size;
    if (norm(p, b->x, b->y, upg_program_weight(p, 1, h, e, "model.layers.%d.post_attention_layernorm.weight", i), e))
        return -1;
    if (layout->fused_gate_up) {
        int w = upg_program_weight(p, 2 * f, h, e, "model.layers.%d.mlp.gate_up_proj.weight", i);
        if (w < 0 || upg_program_linear(p, b->y, b->gate_up, &w, 1, e)) return -1;
    } else {
        int wg = upg_program_weight(p, f, h, e, "model.layers.%d.mlp.gate_proj.weight", i);
        int wu = wg < 0 ? -1 : upg_program_weight(p, f, h, e, "model.layers.%d.mlp.up_proj.weight", i);
        if (wu < 0 || upg_program_linear(p, b->y, b->gate_up, (int[]){wg, wu}, 2, e)) return -1;
    }
    int wd = upg_program_weight(p, h, f, e, "model.layers.%d.mlp.down_proj.weight", i);
    return wd < 0 || simple(p, UPG_OP_SWIGLU, b->gate_up, b->act, i, e) ||
                   upg_program_linear(p, b->act, b->delta, &wd, 1, e) || simple(p, UPG_OP_ADD, b->delta, b->x, i, e)
               ? -1
               : 0;
}

int upg_build_decoder(upg_program *p, const upg_decoder_layout *layout, upg_error *e) {
    const upg_config *c = p->config;
    int h = c->hidden_size, q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    buffers b;
    if ((b.x = upg_program_buffer(p, h, e)) < 0 || (b.y = upg_program_buffer(p, h, e)) < 0 ||
        (b.qkv = upg_program_buffer(p, q + 2 * kv, e)) < 0 || (b.attn = upg_program_buffer(p, q, e)) < 0 ||
        (b.gate_up = upg_program_buffer(p, 2 * c->ffn_size, e)) < 0 ||
        (b.act = upg_program_buffer(p, c->ffn_size, e)) < 0 || (b.delta = upg_program_buffer(p, h, e)) < 0 ||
        (p->logits = upg_program_buffer(p, c->vocab_size, e)) < 0)
        return -1;
    int embedding = upg_program_weight(p, c->vocab_size, h, e, "model.embed_tokens.weight");
    upg_op embed = {.kind = UPG_OP_EMBED, .in = b.x, .out = b.x, .n = h, .weight = embedding};
    if (embedding < 0 || upg_program_op(p, embed, e) < 0) return -1;
    for (int i = 0; i < c->n_layers; i++)
        if (attention(p, layout, &b, i, e) || mlp(p, layout, &b, i, e)) return -1;
    int head = c->tied ? embedding : upg_program_weight(p, c->vocab_size, h, e, "lm_head.weight");
    if (head < 0 || simple(p, UPG_OP_GATHER, b.x, b.delta, 0, e) ||
        norm(p, b.delta, b.y, upg_program_weight(p, 1, h, e, "model.norm.weight"), e))
        return -1;
    return upg_program_linear(p, b.y, p->logits, &head, 1, e);
}
