// upg compress: an original model in, a .upg file out.
#include "cli/cli.h"
#include "compress/compress.h"
#include "format/weights.h"
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: upg compress SRC -o FILE [OPTIONS]\n\n"
    "SRC is a folder with config.json and safetensors (one file or shards), or a GGUF file. FILE appears only when it "
    "is whole.\n\n"
    "  -o FILE              the .upg file to write\n"
    "  --ratio R            file at most 1/R of the FP32 size (default 10)\n"
    "  --bits B             file at most B bits a parameter, everything included\n"
    "  --layer-bits K       bits of every layer matrix: 2, 2.5, 3, 3.5, 4, or 8 (int8)\n"
    "  --embedding-bits K   bits of the embedding\n"
    "  --head-bits K        bits of the head, or of the embedding that serves as one\n"
    "  --encoding E         trellis (default) or int8: every matrix in int8, the near-lossless reference\n"
    "  --exact              exact trellis search: slower, about .03 dB better\n"
    "  --seed N             seed of the rotation's signs (default 1)\n"
    "  -t, --threads N      default: one a core\n"
    "  --json               print the result as JSON\n"
    "  -q, --quiet          no progress\n\n"
    "Bits that no option fixes are chosen so that the file meets the ratio. The file is the same for any number of "
    "threads.\n";

enum { OPT_RATIO = 256, OPT_BITS, OPT_LAYER, OPT_EMBEDDING, OPT_HEAD, OPT_ENCODING, OPT_EXACT, OPT_SEED, OPT_JSON };

typedef struct options {
    const char *source, *out;
    bool json;
    upg_compress_options c;
    cli_progress progress;
} options;

// "2.5" -> 5, "8" -> UPG_BITS_INT8.
static int parse_bits(const char *option, const char *text, int *bits2) {
    static const struct {
        const char *text;
        int bits2;
    } known[] = {{"2", 4}, {"2.5", 5}, {"3", 6}, {"3.5", 7}, {"4", 8}, {"8", UPG_BITS_INT8}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(text, known[i].text)) {
            *bits2 = known[i].bits2;
            return 0;
        }
    cli_usage(&cli_compress, "%s %s: one of 2, 2.5, 3, 3.5, 4, 8", option, text);
    return -1;
}

static int set_encoding(options *o, const char *text) {
    if (!strcmp(text, "trellis")) return 0;
    if (strcmp(text, "int8")) {
        cli_usage(&cli_compress, "--encoding %s: trellis or int8", text);
        return -1;
    }
    o->c.layer_bits = o->c.embedding_bits = o->c.head_bits = UPG_BITS_INT8;
    return 0;
}

static int parse(int argc, char **argv, options *o) {
    static const struct option longs[] = {{"ratio", 1, 0, OPT_RATIO},
                                          {"bits", 1, 0, OPT_BITS},
                                          {"layer-bits", 1, 0, OPT_LAYER},
                                          {"embedding-bits", 1, 0, OPT_EMBEDDING},
                                          {"head-bits", 1, 0, OPT_HEAD},
                                          {"encoding", 1, 0, OPT_ENCODING},
                                          {"exact", 0, 0, OPT_EXACT},
                                          {"seed", 1, 0, OPT_SEED},
                                          {"threads", 1, 0, 't'},
                                          {"json", 0, 0, OPT_JSON},
                                          {"quiet", 0, 0, 'q'},
                                          {"help", 0, 0, 'h'},
                                          {0, 0, 0, 0}};
    long long n = 0;
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "o:t:qh", longs, NULL)) != -1) switch (c) {
        case 'o': o->out = optarg; break;
        case OPT_RATIO: rc = cli_num(&cli_compress, "--ratio", optarg, 1, 100, &o->c.ratio); break;
        case OPT_BITS: rc = cli_num(&cli_compress, "--bits", optarg, 0.1, 32, &o->c.bits); break;
        case OPT_LAYER: rc = parse_bits("--layer-bits", optarg, &o->c.layer_bits); break;
        case OPT_EMBEDDING: rc = parse_bits("--embedding-bits", optarg, &o->c.embedding_bits); break;
        case OPT_HEAD: rc = parse_bits("--head-bits", optarg, &o->c.head_bits); break;
        case OPT_ENCODING: rc = set_encoding(o, optarg); break;
        case OPT_EXACT: o->c.exact_search = true; break;
        case OPT_SEED:
            rc = cli_int(&cli_compress, "--seed", optarg, 0, INT64_MAX, &n);
            o->c.rotation_seed = (uint64_t)n;
            break;
        case 't':
            rc = cli_int(&cli_compress, "--threads", optarg, 1, 1024, &n);
            o->c.n_threads = (int)n;
            break;
        case OPT_JSON: o->json = true; break;
        case 'q': o->progress.quiet = true; break;
        default: return cli_bad_option(&cli_compress, c);
        }
    if (rc) return CLI_USAGE;
    if (optind + 1 != argc) return cli_usage(&cli_compress, "give one model to compress");
    o->source = argv[optind];
    if (!o->out) return cli_usage(&cli_compress, "-o FILE is missing");
    if ((o->c.ratio > 0) + (o->c.bits > 0) + (o->c.layer_bits > 0) > 1 && !(o->c.layer_bits == UPG_BITS_INT8))
        return cli_usage(&cli_compress, "--ratio, --bits and --layer-bits exclude each other");
    if (!o->c.ratio && !o->c.bits && !o->c.layer_bits) o->c.ratio = 10;
    return -1;
}

static bool on_progress(void *ctx, double done, const char *tensor) {
    cli_progress_show(ctx, done, tensor);
    return cli_interrupted;
}

static const char *bits_name(int bits2) {
    static const char *const names[] = {"2", "2.5", "3", "3.5", "4"};
    return bits2 == UPG_BITS_INT8 ? "int8" : bits2 ? names[bits2 - 4] : "as is";
}

static void print_json(const upg_compress_result *r, double seconds) {
    upg_buf b = {0};
    upg_buf_fmt(
        &b,
        "{\"parameters\":%llu,\"bytes\":%llu,\"ratio\":%.4f,\"bits_per_parameter\":%.4f,\"seconds\":%.2f,\"tensors\":[",
        (unsigned long long)r->parameters, (unsigned long long)r->bytes, 4.0 * (double)r->parameters / (double)r->bytes,
        8.0 * (double)r->bytes / (double)r->parameters, seconds);
    for (size_t i = 0; i < r->n; i++) {
        upg_buf_str(&b, i ? ",{\"name\":" : "{\"name\":");
        cli_json_string(&b, r->tensors[i].name, strlen(r->tensors[i].name));
        upg_buf_fmt(&b, ",\"bits\":\"%s\",\"error\":%.6g}", bits_name(r->tensors[i].bits2), r->tensors[i].error);
    }
    upg_buf_str(&b, "]}\n");
    fputs(b.data ? b.data : "", stdout);
    upg_buf_free(&b);
}

static void print_table(const options *o, const upg_compress_result *r, double seconds) {
    char a[32], b[32], c[32];
    printf("%-48s %7s %7s %6s %14s\n", "tensor", "rows", "cols", "bits", "relative error");
    for (size_t i = 0; i < r->n; i++)
        if (r->tensors[i].bits2)
            printf("%-48s %7lld %7lld %6s %13.4f%%\n", r->tensors[i].name, (long long)r->tensors[i].rows,
                   (long long)r->tensors[i].cols, bits_name(r->tensors[i].bits2), 100 * r->tensors[i].error);
    double n = (double)r->parameters, bytes = (double)r->bytes;
    printf("%s: %s, %.2f:1 against FP32 (%s), %.2f:1 against BF16 (%s), %.3f bits a parameter, %.1f s\n", o->out,
           cli_bytes(bytes, a), 4 * n / bytes, cli_bytes(4 * n, b), 2 * n / bytes, cli_bytes(2 * n, c), 8 * bytes / n,
           seconds);
}

static int run(int argc, char **argv) {
    options o = {.c = {.rotation_seed = 1}};
    int status = parse(argc, argv, &o);
    if (status >= 0) return status;
    o.c.progress = on_progress;
    o.c.progress_ctx = &o.progress;
    cli_catch_interrupt();
    upg_error e = {0};
    upg_compress_result r;
    double start = upg_now();
    int rc = upg_compress(o.source, o.out, &o.c, &r, &e);
    cli_progress_end(&o.progress);
    if (rc) {
        status = cli_failed(&e);
        return cli_interrupted ? CLI_INTERRUPTED : status;
    }
    if (o.json)
        print_json(&r, upg_now() - start);
    else
        print_table(&o, &r, upg_now() - start);
    upg_compress_result_free(&r);
    return CLI_OK;
}

const cli_verb cli_compress = {"compress", "turn an original model into a .upg file", help, run};
