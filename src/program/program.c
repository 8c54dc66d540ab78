// Building programs. See program.h.
#include "program/program.h"
#include "arch/arch.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int upg_program_buffer(upg_program *p, int width, upg_error *e) {
    int *widths = upg_resize(p->widths, (size_t)p->n_buffers + 1, sizeof *widths, e);
    if (!widths) return -1;
    p->widths = widths;
    widths[p->n_buffers] = width;
    return p->n_buffers++;
}

int upg_program_weight(upg_program *p, int64_t rows, int64_t cols, upg_error *e, const char *fmt, ...) {
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    const upg_tensor *t = upg_weights_find(p->source, name);
    if (!t) return upg_fail(e, "tensor %s: missing", name);
    if (t->rows != rows || t->cols != cols)
        return upg_fail(e, "tensor %s: shape %lld x %lld, but the config asks for %lld x %lld", name,
                        (long long)t->rows, (long long)t->cols, (long long)rows, (long long)cols);
    bool coded = upg_encoding_is_coded(t->encoding);
    if (t->encoding == UPG_BYTES || (rows == 1 && coded) || (rows > 1 && p->source->compressed && !coded))
        return upg_fail(e, "tensor %s: encoding %s is not allowed here", name, upg_encoding_name(t->encoding));
    const upg_tensor **weights = upg_resize(p->weights, (size_t)p->n_weights + 1, sizeof *weights, e);
    if (!weights) return -1;
    p->weights = weights;
    weights[p->n_weights] = t;
    return p->n_weights++;
}

int upg_program_op(upg_program *p, upg_op op, upg_error *e) {
    upg_op *ops = upg_resize(p->ops, (size_t)p->n_ops + 1, sizeof *ops, e);
    if (!ops) return -1;
    p->ops = ops;
    ops[p->n_ops] = op;
    return p->n_ops++;
}

int upg_program_linear(upg_program *p, int in, int out, const int *weights, int n_weights, upg_error *e) {
    int n = p->widths[in], col = 0;
    if (n > UPG_MAX_INPUTS) return upg_fail(e, "%d inputs of a linear layer: at most %d", n, UPG_MAX_INPUTS);
    if (n > p->max_inputs) p->max_inputs = n;
    for (int i = 0; i < n_weights; i++) {
        if (weights[i] < 0) return -1;
        const upg_tensor *first = p->weights[weights[0]], *t = p->weights[weights[i]];
        if (t->unrotated != first->unrotated)
            return upg_fail(e, "tensors %s and %s read the same input, but only one of them is rotated", first->name,
                            t->name);
    }
    upg_op quantise = {.kind = UPG_OP_QUANTISE, .in = in, .out = in, .n = n, .weight = -1};
    quantise.unrotated = p->weights[weights[0]]->unrotated;
    if (upg_program_op(p, quantise, e) < 0) return -1;
    for (int i = 0; i < n_weights; i++) {
        upg_op op = {.kind = UPG_OP_LINEAR, .in = in, .out = out, .out_col = col, .n = n, .weight = weights[i]};
        if (upg_program_op(p, op, e) < 0) return -1;
        col += (int)p->weights[weights[i]]->rows;
    }
    return 0;
}

// A tensor of a layer that no op reads means another model than the config's: a bias or a norm it does not mention. Old
// checkpoints also carry RoPE's frequencies, which follow from the config.
static int check_all_used(const upg_program *p, upg_error *e) {
    bool *used = upg_alloc(p->source->n, sizeof *used, e);
    if (!used) return -1;
    for (int i = 0; i < p->n_weights; i++) used[p->weights[i] - p->source->tensors] = true;
    int rc = 0, layer, n;
    for (size_t i = 0; i < p->source->n && !rc; i++) {
        const char *name = p->source->tensors[i].name;
        if (used[i] || sscanf(name, "model.layers.%5d.%n", &layer, &n) != 1 || layer >= p->config->n_layers) continue;
        if (strcmp(name + n, "self_attn.rotary_emb.inv_freq"))
            rc = upg_fail(e, "tensor %s: has no place in a %s of this config", name, p->config->arch->name);
    }
    free(used);
    return rc;
}

upg_program *upg_program_new(const upg_config *config, const upg_weights *source, upg_error *e) {
    upg_program *p = upg_alloc(1, sizeof *p, e);
    if (!p) return NULL;
    p->config = config;
    p->source = source;
    if (config->arch->build(p, e) || check_all_used(p, e)) {
        upg_program_free(p);
        return NULL;
    }
    return p;
}

void upg_program_free(upg_program *p) {
    if (!p) return;
    free(p->weights);
    free(p->ops);
    free(p->widths);
    free(p);
}

size_t upg_program_bytes_per_token(const upg_program *p) {
    size_t bytes = 0;
    for (int i = 0; i < p->n_ops; i++)
        if (p->ops[i].weight >= 0 && p->ops[i].kind != UPG_OP_EMBED) {
            const upg_tensor *t = p->weights[p->ops[i].weight];
            bytes += t->bytes + (t->scale ? (size_t)t->rows * sizeof(float) : 0);
        }
    return bytes;
}
