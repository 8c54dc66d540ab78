// The table of backends, in order of preference.
#include "backend/backend.h"
#include "backend/math.h"
#include <stdlib.h>
#include <string.h>

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

// All of the program on a device, or what there is room for.
static upg_backend *create(const upg_backend_api *api, const upg_program *program, const upg_backend_options *options,
                           upg_error *e) {
    upg_error why = {""};
    bool no_room = false;
    upg_backend_options o = *options;
    o.no_room = &no_room;
    upg_backend *b = api->create(program, &o, e);
    if (!b && no_room) b = upg_backend_split(api, program, options, &why); // e keeps what all of it would take
    return b;
}

// By itself: the first that has room. What a GPU said is forgotten, the CPU's word counts.
static upg_backend *first_with_room(const upg_program *program, const upg_backend_options *o, upg_error *e) {
    for (size_t i = 0; i < N_BACKENDS; i++) {
        const upg_backend_api *api = backends[i];
        if (!api->accepts(program->source) || (api->present && !api->present())) continue;
        upg_backend *b = create(api, program, o, e);
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

static size_t gpu_limit(void) {
    const char *limit = getenv("UPG_GPU_MEMORY"); // gigabytes
    return limit ? (size_t)(1e9 * strtod(limit, NULL)) : 0;
}

upg_backend *upg_backend_new(const upg_program *program, const upg_backend_options *options, upg_error *e) {
    upg_backend_options o = *options;
    o.device = program->source->compressed ? device_of(o.device) : "auto";
    if (!o.gpu_bytes) o.gpu_bytes = gpu_limit();
    if (!strcmp(o.device, "auto")) return first_with_room(program, &o, e);
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (is_named(backends[i], o.device) && backends[i]->accepts(program->source))
            return create(backends[i], program, &o, e);
    unknown(o.device, e);
    return NULL;
}

int upg_math_new(upg_math **m, const upg_math_sizes *sizes, upg_pool *pool, upg_error *e) {
    const upg_backend_options o = {.pool = pool, .device = device_of(NULL), .gpu_bytes = gpu_limit()};
    const bool any = !strcmp(o.device, "auto");
    *m = NULL;
    *e = (upg_error){""};
    for (size_t i = 0; i < N_BACKENDS; i++) {
        const upg_backend_api *api = backends[i];
        if (any ? !api->math || !api->present() : !is_named(api, o.device)) continue;
        if (api->math) *m = api->math(&o, sizes, e);
        return *m || !api->math || any ? 0 : -1;
    }
    return any ? 0 : unknown(o.device, e);
}

size_t upg_backend_kv_bytes(const upg_weights *source, const upg_config *c) {
    return (source->compressed ? &upg_backend_cpu : &upg_backend_fp32)->kv_bytes(c);
}
