// The table of backends, in order of preference.
#include "backend/backend.h"
#include "program/numbers.h"
#include <stdlib.h>

static const upg_backend_api *const backends[] = {
#ifdef UPG_CUDA
    &upg_backend_cuda,
#endif
    &upg_backend_cpu, &upg_backend_fp32, &upg_backend_software};
enum { N_BACKENDS = sizeof backends / sizeof *backends };

// The names that one may ask for.
static int unknown(const char *device, upg_error *e) {
    char names[128] = "auto";
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (backends[i] != &upg_backend_fp32) {
            strcat(names, ", ");
            strcat(names, backends[i]->name);
        }
    return upg_fail(e, "device %s: unknown, or not a part of this build, which has %s", device, names);
}

static bool is_named(const upg_backend_api *api, const char *device) {
    const size_t n = strcspn(device, ":"); // cuda:1
    return !strncmp(device, api->name, n) && !api->name[n];
}

// By itself: the first that has room. What a GPU said is forgotten, the CPU's word counts.
static upg_backend *first_with_room(const upg_program *program, const upg_backend_options *o, upg_error *e) {
    for (size_t i = 0; i < N_BACKENDS; i++) {
        const upg_backend_api *api = backends[i];
        if (!api->accepts(program->source) || (api->present && !api->present())) continue;
        upg_backend *b = api->create(program, o, e);
        if (b || !api->present) return b;
    }
    upg_fail(e, "no backend runs these weights");
    return NULL;
}

// What NULL stands for.
static const char *device_of(const char *device) {
    if (!device) device = getenv("UPG_DEVICE");
    return device && *device ? device : "auto";
}

void upg_backend_prepare(const char *device) {
    device = device_of(device);
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (backends[i]->prepare && (!strcmp(device, "auto") || is_named(backends[i], device)))
            backends[i]->prepare(device);
}

const char *upg_backend_gpu(void) {
    const char *device = device_of(NULL);
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (backends[i]->present && (strcmp(device, "auto") ? is_named(backends[i], device) : backends[i]->present()))
            return backends[i]->name;
    return NULL;
}

upg_backend *upg_backend_new(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    upg_backend_options o = *options;
    const char *limit = getenv("UPG_GPU_MEMORY"); // gigabytes
    o.device = program->source->compressed ? device_of(o.device) : "auto";
    if (!o.gpu_bytes && limit) o.gpu_bytes = (size_t)(1e9 * strtod(limit, NULL));
    if (!strcmp(o.device, "auto")) return first_with_room(program, &o, e);
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (is_named(backends[i], o.device) && backends[i]->accepts(program->source))
            return backends[i]->create(program, &o, e);
    unknown(o.device, e);
    return NULL;
}

size_t upg_backend_kv_bytes(const upg_weights *source, const upg_config *c) {
    return (source->compressed ? &upg_backend_cpu : &upg_backend_fp32)->kv_bytes(c);
}

size_t upg_kv_block_bytes(const upg_config *c) {
    return (size_t)c->n_layers * (size_t)c->n_kv_heads * upg_kv_head_bytes(c->head_dim);
}
int upg_kv_check(const upg_config *c, const void *block, upg_error *e) {
    const size_t head = upg_kv_head_bytes(c->head_dim), scales = 2 * UPG_KV_BLOCK * sizeof(float);
    for (size_t at = head; at <= upg_kv_block_bytes(c); at += head)
        for (size_t i = 0; i < scales; i += sizeof(float))
            if (upg_le32((const uint8_t *)block + at - scales + i) >= UPG_GUARD_HIGH)
                return upg_fail(e, "a scale in a block of the KV cache is not a positive number in range");
    return 0;
}

int upg_batch_check(const upg_batch *batch, const upg_config *c, const upg_backend_options *options, upg_error *e) {
    if (batch->n_rows < 1 || batch->n_rows > options->max_rows)
        return upg_fail(e, "%d rows in a batch: not within 1..%d", batch->n_rows, options->max_rows);
    int wanted = 0;
    for (int i = 0; i < batch->n_rows; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= c->vocab_size)
            return upg_fail(e, "token %d is not in the vocabulary of %d", batch->tokens[i], c->vocab_size);
        if (batch->positions[i] < 0 || batch->positions[i] >= options->n_positions)
            return upg_fail(e, "position %d is outside the context of %d", batch->positions[i], options->n_positions);
        wanted += batch->wants[i] != 0;
    }
    return wanted <= options->max_logits
               ? 0
               : upg_fail(e, "logits of %d rows wanted, more than %d", wanted, options->max_logits);
}
