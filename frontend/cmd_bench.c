// SPDX-License-Identifier: Apache-2.0
// ssdc bench SPEC: how long a kernel takes, and what share of this host's limits that is.
#include "ceiling.h"
#include "child.h"
#include "cli.h"
#include "device.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LEAST = 5, MOST = 100000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// --- What a spec costs at least ----------------------------------------------------------------
typedef struct Cost {
    double flop; // a token
    i64 heads;
} Cost;

// How many different heads a value has: a group's heads read one value until something tells them
// apart.
static i64 *distinct_heads(Arena *a, const Graph *g, AxisId head) {
    i64 *n = NEWN(a, i64, g->nodes.n);
    for (Ref r = 1; r < g->nodes.n; r++) {
        const Node *x = ssd_graph_node(g, r);
        bool leaf = true;
        n[r] = 1;
        for (int k = 0; k < 5; k++) {
            if (!x->arg[k]) continue;
            leaf = false;
            n[r] = MAX(n[r], n[x->arg[k]]);
        }
        if (leaf && ssd_graph_has_axis(g, r, head)) n[r] = g->axes.v[head].size;
        if (x->op == OP_SPREAD) n[r] = g->axes.v[x->a0].size;
    }
    return n;
}

static double product(const Graph *g, const AxisId *ax, int n) {
    double p = 1;
    for (int i = 0; i < n; i++) p *= (double)MAX(g->axes.v[ax[i]].size, 1);
    return p;
}

// Chunked, with Q rows a chunk, a token costs (Q + 1)(G N + H P) + 4 H P N: scores and their
// product with the values, the triangle counted once, then the read and the update of the state. It
// is least at Q = 1, the recurrence; a band of w rows has no state and costs the first part at Q =
// w.
static Cost count(Arena *a, const Graph *g) {
    Cost c = {.heads = 1};
    for (Ref r = 1; r < g->nodes.n; r++) {
        const Node *x = ssd_graph_node(g, r);
        if (x->op != OP_SSD) continue;
        SsdAxes ax = ssd_graph_ssd_axes(g, r);
        i64 heads = ax.head ? g->axes.v[ax.head].size : 1;
        i64 *own = distinct_heads(a, g, ax.head);
        double groups = ax.head ? (double)MIN(MAX(own[x->arg[0]], own[x->arg[1]]), heads) : 1;
        double n = product(g, ax.key, ax.nkey), p = product(g, ax.value, ax.nvalue),
               h = (double)heads;
        c.flop += x->k > 0 ? (x->k + 1.0) * (groups * n + h * p)
                           : 2 * (groups * n + h * p) + 4 * h * p * n;
        c.heads = MAX(c.heads, heads);
    }
    return c;
}

// --- The run -----------------------------------------------------------------------------------
typedef struct Bench {
    Cli *c;
    const char *path, *mode;
    Spec *spec;
    Graph *graph;
    Cost cost;
    Sizes z;
    HostSet in, out;
    ssd_arg *args;
    int n_args;
    double bytes; // compulsory: every parameter once
    void *workspace;
    size_t workspace_bytes;
    bool in_place;
    double *ms;
    int n_ms;
    bool cuda;        // timed on a CUDA device, not on this host
    double fma, rate; // ceilings
} Bench;

static const char *input_of_state(const Graph *g, const char *out) {
    for (u32 i = 0; i < g->states.n; i++) {
        const GraphState *s = &g->states.v[i];
        if (s->in_name && s->out_name && strcmp(s->out_name, out) == 0) return s->in_name;
    }
    return NULL;
}

// Arguments in the kernel's order. A step updates its states in place, as a decoder does.
static bool bind(Bench *b, const ssd_kernel *k) {
    int n = ssd_kernel_param_count(k);
    b->args = NEWN(&b->c->arena, ssd_arg, n + 1);
    for (int i = 0; i < n; i++) {
        ssd_param p;
        ssd_kernel_param(k, i, &p);
        const HostTensor *t = ssd_host_find(p.role == SSD_INPUT ? &b->in : &b->out, p.name);
        if (!t) {
            ssd_cli_error("bench: the kernel takes '%s', which the spec does not list", p.name);
            return false;
        }
        const char *state =
            b->graph->step && p.role == SSD_OUTPUT ? input_of_state(b->graph, p.name) : NULL;
        const HostTensor *same = state ? ssd_host_find(&b->in, state) : NULL;
        b->args[b->n_args++] =
            (ssd_arg){t->name, same && same->bytes == t->bytes ? same->view : t->view};
        b->in_place |= same != NULL;
        b->bytes += (double)t->bytes;
    }
    return true;
}

static ssd_status once(Bench *b, ssd_kernel *k) {
    return ssd_launch(k, b->args, b->n_args, b->workspace, b->workspace_bytes);
}

static int by_value(const void *x, const void *y) {
    double p = *(const double *)x, q = *(const double *)y;
    return (p > q) - (p < q);
}

static ssd_status repeat(Bench *b, ssd_kernel *k) {
    ssd_status s = ssd_kernel_workspace(k, b->args, b->n_args, &b->workspace_bytes);
    if (s != SSD_OK) return s;
    b->workspace = aligned_alloc(64, (b->workspace_bytes + 127) & ~(size_t)63);
    if (!b->workspace)
        return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for %zu bytes of workspace",
                        b->workspace_bytes);
    ssd_cli_progress(b->c, "warming up");
    double start = now();
    for (int i = 0; i < 2 || (now() - start < 0.1 && i < MOST); i++)
        if ((s = once(b, k)) != SSD_OK) return s;
    ssd_cli_progress(b->c, "timing for %.1f s", b->c->seconds);
    b->ms = NEWN(&b->c->arena, double, MOST);
    start = now();
    while (b->n_ms < MOST && (b->n_ms < LEAST || now() - start < b->c->seconds)) {
        double t0 = now();
        if ((s = once(b, k)) != SSD_OK) return s;
        b->ms[b->n_ms++] = 1e3 * (now() - t0);
    }
    qsort(b->ms, (size_t)b->n_ms, sizeof *b->ms, by_value);
    return SSD_OK;
}

// Graph replay with a cold L2 cache. The rate is that of the device's own copies, in place or not;
// the arithmetic is what the clock allows, on tensor cores when the spec has narrow tensors.
static ssd_status measure_device(Bench *b, ssd_kernel *k) {
    Mirror m;
    bool narrow = false;
    for (int i = 0; i < b->in.n; i++)
        narrow |= b->in.v[i].view.dtype == SSD_BF16 || b->in.v[i].view.dtype == SSD_F16;
    b->ms = NEWN(&b->c->arena, double, MOST);
    ssd_status s = ssd_mirror_open(&m, k, b->args, b->n_args);
    if (s != SSD_OK) return s;
    ssd_cli_progress(b->c, "measuring the device");
    b->rate = ssd_device_copy_rate(&m);
    ssd_cli_progress(b->c, "timing for %.1f s", b->c->seconds);
    s = ssd_mirror_time(&m, b->c->seconds, LEAST, MOST, b->ms, &b->n_ms);
    if (s == SSD_OK) b->rate = fmax(b->rate, ssd_device_copy_rate(&m));
    if (s == SSD_OK && b->rate <= 0)
        s = ssd_fail(SSD_OUT_OF_MEMORY, "no memory to measure the device's copy rate with");
    ssd_mirror_close(&m);
    b->fma = ssd_device_peak(&ssd_cuda_driver()->device, narrow);
    qsort(b->ms, (size_t)b->n_ms, sizeof *b->ms, by_value);
    return s;
}

// Measured on as many threads and as many bytes, in front of the kernel and behind it: the better
// counts.
static bool measure_ceilings(Bench *b, int threads) {
    ssd_cli_progress(b->c, "measuring the host");
    Pool *p = ssd_pool_new(threads);
    if (!p) return false;
    b->fma = fmax(b->fma, ssd_ceiling_fma(p));
    double rate = b->in_place ? ssd_ceiling_update(p, (size_t)(b->bytes / 2))
                              : ssd_ceiling_copy(p, (size_t)b->bytes);
    b->rate = fmax(b->rate, rate);
    ssd_pool_free(p);
    ssd_cli_progress(b->c, NULL);
    return b->fma > 0 && b->rate > 0;
}

// --- The report --------------------------------------------------------------------------------
static const char *scaled(char *s, size_t n, double v) {
    const char *unit = v >= 1e9 ? "G" : v >= 1e6 ? "M" : v >= 1e3 ? "k" : "";
    snprintf(s, n, "%.3g%s",
             v >= 1e9   ? v * 1e-9
             : v >= 1e6 ? v * 1e-6
             : v >= 1e3 ? v * 1e-3
                        : v,
             unit);
    return s;
}

static void report(const Bench *b, const ssd_kernel *k, int threads) {
    const Cli *c = b->c;
    double ms = b->ms[b->n_ms / 2], p20 = b->ms[b->n_ms / 5], p80 = b->ms[b->n_ms * 4 / 5],
           s = 1e-3 * ms;
    double tokens = (double)b->z.b * (b->graph->step ? 1 : (double)b->z.t);
    double flop = tokens * b->cost.flop, heads = (double)b->cost.heads;
    double t_mem = 1e-6 * b->bytes / b->rate, t_fma = 1e-6 * flop / b->fma,
           floor_ms = fmax(t_mem, t_fma);
    const char *brand = ssd_cpu_info()->brand, *limit = b->cuda ? "peak by its clock" : "fma";
    const char *rate = b->in_place && !b->cuda ? "update in place" : "copy";
    char shape[96], device[160];
    int n = snprintf(shape, sizeof shape, "b=%lld", (long long)b->z.b);
    if (!b->graph->step)
        n += snprintf(shape + n, sizeof shape - (size_t)n, " t=%lld", (long long)b->z.t);
    if (b->graph->packed)
        n += snprintf(shape + n, sizeof shape - (size_t)n, " s=%lld", (long long)b->z.s);
    if (b->z.dims) snprintf(shape + n, sizeof shape - (size_t)n, " %s", b->z.dims);
    if (b->cuda)
        snprintf(device, sizeof device, "%s", ssd_cuda_driver()->device.name);
    else
        snprintf(device, sizeof device, "%s, %d thread%s", *brand ? brand : "cpu", threads,
                 threads == 1 ? "" : "s");
    if (c->json) {
        json_t *o =
            json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "spec", ssd_spec_name(b->spec), "target",
                      c->target ? c->target : "cpu", "device", device, "mode", b->mode, "set",
                      ssd_cli_set(shape), "schedule", ssd_kernel_schedule(k));
        const struct {
            const char *name;
            double v;
        } numbers[] = {{"ms", ms},
                       {"ms_p20", p20},
                       {"ms_p80", p80},
                       {"tokens_per_s", tokens / s},
                       {"token_heads_per_s", tokens * heads / s},
                       {"gflops", 1e-9 * flop / s},
                       {"gbs", 1e-9 * b->bytes / s},
                       {"floor_ms", floor_ms},
                       {"share", floor_ms / ms},
                       {b->cuda ? "peak_gflops" : "fma_gflops", b->fma},
                       {*rate == 'u' ? "update_gbs" : "copy_gbs", b->rate}};
        for (size_t i = 0; i < COUNTOF(numbers); i++)
            json_object_set_new(o, numbers[i].name, ssd_cli_number(numbers[i].v));
        json_object_set_new(o, "runs", json_integer(b->n_ms));
        ssd_cli_json(o);
        return;
    }
    char tps[32], thps[32];
    printf("%s%s %s%s  %s  %s\n", ssd_cli_bold(c), ssd_spec_name(b->spec), b->mode,
           ssd_cli_plain(c), shape, device);
    printf("  schedule  %s\n", ssd_kernel_schedule(k));
    printf("  time      %s%.4g ms%s  (p20 %.4g, p80 %.4g, %d runs%s)\n", ssd_cli_bold(c), ms,
           ssd_cli_plain(c), p20, p80, b->n_ms, b->in_place ? ", states in place" : "");
    printf("  speed     %s tokens/s, %s token-heads/s\n", scaled(tps, sizeof tps, tokens / s),
           scaled(thps, sizeof thps, tokens * heads / s));
    printf("            %.1f GFLOP/s of %.0f (%s), %.1f GB/s of %.0f (%s)\n", 1e-9 * flop / s,
           b->fma, limit, 1e-9 * b->bytes / s, b->rate, rate);
    printf("  floor     %.4g ms by %s: %s%.0f %%%s of it reached\n", floor_ms,
           t_mem > t_fma ? "memory" : "arithmetic", ssd_cli_bold(c), 100 * floor_ms / ms,
           ssd_cli_plain(c));
}

static int bench(Bench *b, const char *text) {
    Cli *c = b->c;
    int code = CLI_USAGE;
    ssd_kernel *k = NULL;
    ssd_context *ctx = ssd_cli_context(c);
    if (!ctx) return CLI_USAGE;
    ssd_compile_options o = ssd_cli_options(c, text, b->path, b->mode);
    ssd_cli_progress(c, "compiling");
    ssd_status s = ssd_child_compile(ctx, &o, &k);
    if (s == SSD_OK) {
        if (!bind(b, k)) goto done;
        b->cuda = ssd_target_is_cuda(ssd_kernel_target(k));
        if (!b->cuda) measure_ceilings(b, ssd_context_threads(ctx));
        s = b->cuda ? measure_device(b, k) : repeat(b, k);
    }
    ssd_cli_progress(c, NULL);
    if (s != SSD_OK) {
        code = ssd_cli_fail(s, ssd_last_error());
        goto done;
    }
    if (!b->cuda && !measure_ceilings(b, ssd_context_threads(ctx))) {
        ssd_cli_error("bench: no memory or threads to measure the host with");
        goto done;
    }
    report(b, k, ssd_context_threads(ctx));
    code = CLI_OK;
done:
    ssd_cli_warn(ctx);
    free(b->workspace);
    ssd_kernel_destroy(k);
    ssd_context_destroy(ctx);
    return code;
}

int ssd_cmd_bench(Cli *c) {
    if (!ssd_cli_target(c)) return CLI_USAGE;
    size_t len = 0;
    const char *path = c->args[0];
    char *text = ssd_cli_read(c, path, &len);
    if (!text) return CLI_USAGE;
    Bench b = {.c = c, .path = path, .z = c->sizes};
    b.spec = ssd_cli_spec(c, text, len, path);
    if (!b.spec) return CLI_NO;
    b.mode = ssd_cli_mode(c, b.spec, path);
    if (!b.mode) return CLI_USAGE;
    Diag d = {.arena = &c->arena, .file = path, .source = text, .source_len = len};
    Text why = {0};
    int code = CLI_NO;
    b.graph = ssd_spec_build(&c->arena, b.spec, b.mode, c->absent, &d);
    if (!b.graph) {
        ssd_diag_print(&d, &why);
        ssd_cli_fail(SSD_INVALID_SPEC, why.s);
        goto done;
    }
    b.cost = count(&c->arena, b.graph);
    if (b.z.b < 0 || b.graph->packed) b.z.b = 1;
    if (b.z.t < 0) b.z.t = 2048;
    if (b.z.s < 0) b.z.s = 4;
    const SpecTensor *in, *out;
    int n_in = ssd_spec_inputs(b.spec, b.mode, &in), n_out = ssd_spec_outputs(b.spec, b.mode, &out);
    if (!ssd_host_make(&c->arena, in, n_in, &b.z, c->absent, &b.in, &why) ||
        !ssd_host_make(&c->arena, out, n_out, &b.z, c->absent, &b.out, &why)) {
        code = ssd_cli_error("%s", why.s);
        goto done;
    }
    ssd_cli_progress(c, "drawing inputs");
    ssd_random_inputs(in, n_in, &b.in, b.z.t, (u64)c->seed);
    code = bench(&b, text);
done:
    ssd_text_free(&why);
    ssd_host_drop(&b.in);
    ssd_host_drop(&b.out);
    return code;
}
