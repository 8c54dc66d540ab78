// upg devices: what models can run on here, and why something cannot be used.
#include "cli/cli.h"
#include "backend/cpu/cpu.h"
#include "base/thread.h"
#include "format/json.h"
#include <stdlib.h>
#include <string.h>
#ifdef UPG_CUDA
#include "backend/cuda/cuda.h"
#endif

enum { SELFTEST_TOKENS = 40 };

typedef struct options {
    bool json, selftest;
} options;

typedef struct device {
    char name[24], what[512];
    char problem[512]; // or ""
} device;
enum { MAX_DEVICES = 20 };

static void describe_cpu(device *d) {
    upg_error e;
    const upg_cpu_kernels *best = upg_cpu_kernels_for(NULL, &e);
    snprintf(d->name, sizeof d->name, "cpu");
    int n = snprintf(d->what, sizeof d->what, "%d cores, %s", upg_cpu_count(), best ? best->isa : "");
    for (int i = 0; upg_cpu_all[i]; i++)
        if (upg_cpu_all[i] != best && upg_cpu_all[i]->supported() && n < (int)sizeof d->what)
            n += snprintf(d->what + n, sizeof d->what - (size_t)n, ", %s", upg_cpu_all[i]->isa);
    if (!best) snprintf(d->problem, sizeof d->problem, "%s", e.message);
}

static int describe_cuda(device *all) {
    upg_error e = {""};
    snprintf(all->name, sizeof all->name, "cuda");
#ifdef UPG_CUDA
    const int n = upg_cuda_count(&e);
    if (n <= 0) {
        snprintf(all->problem, sizeof all->problem, "%s", n ? e.message : "there is no NVIDIA GPU");
        return 1;
    }
    for (int i = 0; i < n && i < MAX_DEVICES - 2; i++) {
        upg_cuda_info info;
        device *d = &all[i];
        *d = (device){{0}, {0}, {0}};
        snprintf(d->name, sizeof d->name, "cuda:%d", i);
        if (upg_cuda_describe(i, &info, &e)) {
            snprintf(d->problem, sizeof d->problem, "%s", e.message);
            continue;
        }
        snprintf(d->what, sizeof d->what, "%s, compute capability %d.%d, %d multiprocessors, %.1f of %.1f GB free",
                 info.name, info.major, info.minor, info.processors, (double)info.free_bytes * 1e-9,
                 (double)info.bytes * 1e-9);
        snprintf(d->problem, sizeof d->problem, "%s", info.problem);
    }
    return n < MAX_DEVICES - 2 ? n : MAX_DEVICES - 2;
#else
    (void)e;
    snprintf(all->problem, sizeof all->problem, "this build has no CUDA: nvcc was not there");
    return 1;
#endif
}

// Logits of the default model behind each of some tokens, one by one and in a batch.
static float *run_model(const upg_model *m, const char *on, int chunk, upg_error *e) {
    const size_t vocab = (size_t)upg_model_vocab_size(m);
    upg_session_options o = {.device = on, .context = SELFTEST_TOKENS, .max_rows = chunk, .max_logits = chunk};
    upg_session *s = upg_session_new(m, &o, e);
    float *out = s ? upg_alloc(SELFTEST_TOKENS * vocab, sizeof *out, e) : NULL;
    upg_row rows[SELFTEST_TOKENS];
    int rc = out ? 0 : -1;
    for (int at = 0; at < SELFTEST_TOKENS && !rc; at += chunk) {
        for (int i = 0; i < chunk; i++) rows[i] = (upg_row){(at + i + 1) * 191 % (int)vocab, 0, true};
        rc = upg_session_run(s, rows, chunk, e);
        for (int i = 0; i < chunk && !rc; i++)
            memcpy(out + (size_t)(at + i) * vocab, upg_session_logits(s, i), vocab * sizeof *out);
    }
    upg_session_free(s);
    if (!rc) return out;
    free(out);
    return NULL;
}

static int selftest(device *d, const upg_model *m, const float *want, upg_error *e) {
    static const int chunks[] = {1, 8, SELFTEST_TOKENS};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        float *got = run_model(m, d->name, chunks[i], e);
        const size_t size = SELFTEST_TOKENS * (size_t)upg_model_vocab_size(m) * sizeof *got;
        const bool same = got && !memcmp(got, want, size);
        free(got);
        if (!got) return -1;
        if (!same) return upg_fail(e, "its logits differ from the scalar code's, in batches of %d", chunks[i]);
    }
    return 0;
}

static int test_all(device *all, int n, upg_error *e) {
    upg_model *m = cli_open_model(NULL, e);
    setenv("UPG_ISA", "scalar", 1);
    float *want = m ? run_model(m, "cpu", 1, e) : NULL;
    unsetenv("UPG_ISA");
    for (int i = 0; want && i < n; i++) {
        upg_error why = {""};
        if (!*all[i].problem && selftest(&all[i], m, want, &why))
            snprintf(all[i].problem, sizeof all[i].problem, "%s", why.message);
    }
    const int rc = want ? 0 : -1;
    free(want);
    upg_model_free(m);
    return rc;
}

static int print_json(const device *all, int n, upg_error *e) {
    upg_buf b = {0};
    for (int i = 0; i < n; i++) {
        upg_buf_fmt(&b, "%s{\"device\":\"%s\",\"description\":", i ? "," : "[", all[i].name);
        upg_json_quote(&b, all[i].what, strlen(all[i].what));
        upg_buf_str(&b, ",\"problem\":");
        if (*all[i].problem)
            upg_json_quote(&b, all[i].problem, strlen(all[i].problem));
        else
            upg_buf_str(&b, "null");
        upg_buf_str(&b, "}");
    }
    const int rc = upg_buf_check(&b, e);
    if (!rc) printf("%s]\n", b.data);
    upg_buf_free(&b);
    return rc;
}

#define AT(field) .offset = offsetof(options, field)
static const cli_option table[] = {
    {"selftest", 0, NULL, "run the default model on each and compare all bits of its logits", CLI_FLAG, AT(selftest)},
    {"json", 0, NULL, "as JSON", CLI_FLAG, AT(json)},
    {0}};

static int run(int argc, char **argv) {
    static device all[MAX_DEVICES];
    options o = {0};
    upg_error e = {""};
    int status = cli_parse(&cli_devices, argc, argv, &o, NULL);
    if (status >= 0) return status;
    describe_cpu(&all[0]);
    int n = 1 + describe_cuda(&all[1]);
    snprintf(all[n].name, sizeof all[n].name, "software");
    snprintf(all[n++].what, sizeof all->what, "the GPUs' kernels on the CPU: slow, for tests");
    if (o.selftest && test_all(all, n, &e)) return cli_failed(&e);
    if (o.json && print_json(all, n, &e)) return cli_failed(&e);
    status = CLI_OK;
    for (int i = 0; i < n; i++) {
        const char *result = *all[i].problem ? all[i].problem : "the same bits as scalar code";
        const bool failed = o.selftest && *all[i].problem && *all[i].what;
        if (failed) status = CLI_FAILED;
        if (o.json) continue;
        printf("%-9s %s", all[i].name, all[i].what);
        if (*all[i].problem || o.selftest) printf("%s%s", *all[i].what ? ": " : "", result);
        printf("\n");
    }
    return status;
}

const cli_verb cli_devices = {
    .name = "devices",
    .summary = "list what models can run on, and why something cannot be used",
    .arguments = "[OPTIONS]",
    .about = "Names are those of --device. A device that computes other bits than the scalar code is broken, and the\n"
             "exit status of --selftest 1.\n",
    .groups = {{table, 0}},
    .run = run};
