// SPDX-License-Identifier: Apache-2.0
// One measurement of `ssdc bench`: a spec at a size in a mode, on this host or on a CUDA device.
#include "bench.h"
#include "child.h"
#include "device.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LEAST = 5, LEAST_CUDA = 15, MOST = 100000 };

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
    const BenchJob *job;
    BenchRun *r;
    Spec *spec;
    Graph *graph;
    Sizes z;
    HostSet in, out;
    ssd_arg *args;
    int n_args;
    void *workspace;
    size_t workspace_bytes;
    double *ms;
} Bench;

static const char *input_of_state(const Graph *g, const char *out) {
    for (u32 i = 0; i < g->states.n; i++) {
        const GraphState *s = &g->states.v[i];
        if (s->in_name && s->out_name && strcmp(s->out_name, out) == 0) return s->in_name;
    }
    return NULL;
}

static bool is_state(const Bench *b, const char *name, bool output) {
    const SpecTensor *t;
    int n = output ? ssd_spec_outputs(b->spec, b->job->mode, &t)
                   : ssd_spec_inputs(b->spec, b->job->mode, &t);
    for (int i = 0; i < n; i++)
        if (!strcmp(t[i].name, name)) return t[i].is_state;
    return false;
}

// Arguments in the kernel's order. A step updates its states in place, as a decoder does.
static bool bind(Bench *b, const ssd_kernel *k) {
    int n = ssd_kernel_param_count(k);
    b->args = NEWN(&b->c->arena, ssd_arg, n + 1);
    for (int i = 0; i < n; i++) {
        ssd_param p;
        ssd_kernel_param(k, i, &p);
        bool output = p.role == SSD_OUTPUT;
        const HostTensor *t = ssd_host_find(output ? &b->out : &b->in, p.name);
        if (!t) {
            ssd_cli_error("bench: the kernel takes '%s', which the spec does not list", p.name);
            return false;
        }
        const char *state = b->graph->step && output ? input_of_state(b->graph, p.name) : NULL;
        const HostTensor *same = state ? ssd_host_find(&b->in, state) : NULL;
        b->args[b->n_args++] =
            (ssd_arg){t->name, same && same->bytes == t->bytes ? same->view : t->view};
        b->r->in_place |= same != NULL;
        b->r->bytes += (double)t->bytes;
        if (!is_state(b, p.name, output)) continue;
        b->r->state_bytes += (double)t->bytes;
        b->r->state = t->view.dtype;
    }
    return true;
}

static int by_value(const void *x, const void *y) {
    double p = *(const double *)x, q = *(const double *)y;
    return (p > q) - (p < q);
}

static ssd_status once(Bench *b, ssd_kernel *k) {
    return ssd_launch(k, b->args, b->n_args, b->workspace, b->workspace_bytes);
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
    int n = 0;
    start = now();
    while (n < MOST && (n < LEAST || now() - start < b->c->seconds)) {
        double t0 = now();
        if ((s = once(b, k)) != SSD_OK) return s;
        b->ms[n++] = 1e3 * (now() - t0);
    }
    b->r->runs = n;
    return SSD_OK;
}

// --- Limits -------------------------------------------------------------------------------------
// Measured on as many threads and as many bytes, in front of the kernel and behind it: the better
// counts.
static ssd_status measure_host(Bench *b, int threads) {
    BenchRun *r = b->r;
    ssd_cli_progress(b->c, "measuring the host");
    Pool *p = ssd_pool_new(threads);
    if (p) {
        r->peak = fmax(r->peak, ssd_ceiling_fma(p));
        r->rate = fmax(r->rate, r->in_place ? ssd_ceiling_update(p, (size_t)(r->bytes / 2))
                                            : ssd_ceiling_copy(p, (size_t)r->bytes));
    }
    ssd_pool_free(p);
    r->peak_by = "fma";
    r->rate_by = r->in_place ? "update in place" : "copy";
    if (r->peak > 0 && r->rate > 0) return SSD_OK;
    return ssd_fail(SSD_OUT_OF_MEMORY, "no memory or threads to measure the host with");
}

static ssd_status measure_device(const Cli *c, bool launches, Limits *l) {
    if (launches && !l->launched) {
        ssd_cli_progress(c, "measuring launches");
        l->launched = true;
        ssd_ceiling_cuda_launch(&l->alone_ms, &l->row_ms);
    }
    if (l->copy > 0) return SSD_OK;
    ssd_cli_progress(c, "measuring the device");
    l->copy = ssd_ceiling_cuda_copy();
    l->matmul = ssd_ceiling_cuda_matmul(l->matmul_by);
    if (l->matmul <= 0) l->matmul = ssd_ceiling_cuda_peak(true);
    l->f32 = ssd_ceiling_cuda_peak(false);
    if (l->copy > 0) return SSD_OK;
    return ssd_fail(SSD_OUT_OF_MEMORY, "no memory to measure the device's copy rate with");
}

static void use_limits(Bench *b, const Limits *l) {
    bool narrow = false;
    for (int i = 0; i < b->in.n; i++)
        narrow |= b->in.v[i].view.dtype == SSD_BF16 || b->in.v[i].view.dtype == SSD_F16;
    b->r->rate = l->copy;
    b->r->rate_by = "copy";
    b->r->peak = narrow ? l->matmul : l->f32;
    b->r->peak_by = narrow && *l->matmul_by ? l->matmul_by : "peak by its clock";
}

static double median(double *ms, int n) {
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    return ms[n / 2];
}

// Graph replay with a cold L2 cache. Steps follow each other in a row, as in a decoder: a replay of
// one of them takes longer than its work.
static ssd_status time_device(Bench *b, ssd_kernel *k) {
    Mirror m;
    BenchRun *r = b->r;
    CuHandle stream = NULL;
    ssd_status s = ssd_device_stream(&stream);
    if (!s) s = ssd_mirror_open(&m, stream, k, b->args, b->n_args);
    if (s != SSD_OK) return s;
    ssd_cli_progress(b->c, "timing for %.1f s", b->c->seconds);
    s = ssd_mirror_time(&m, 1, b->c->seconds, LEAST_CUDA, MOST, b->ms, &r->runs);
    if (!s && b->graph->step) {
        r->alone_ms = median(b->ms, r->runs);
        r->row = ssd_mirror_row(&m);
        s = ssd_mirror_time(&m, r->row, b->c->seconds, LEAST_CUDA, MOST, b->ms, &r->runs);
    }
    ssd_mirror_close(&m);
    return s;
}

static ssd_status measure(Bench *b, ssd_kernel *k, int threads, Limits *limits) {
    ssd_status s;
    b->ms = NEWN(&b->c->arena, double, MOST);
    if (b->r->cuda) {
        if ((s = measure_device(b->c, b->graph->step, limits)) != SSD_OK) return s;
        use_limits(b, limits);
        return time_device(b, k);
    }
    if ((s = measure_host(b, threads)) != SSD_OK) return s;
    if ((s = repeat(b, k)) != SSD_OK) return s;
    return measure_host(b, threads);
}

// --- What is measured ---------------------------------------------------------------------------
// Values repeat in large tensors: to draw them all would take longer than all else.
static void draw(Bench *b, const SpecTensor *in, int n_in) {
    enum { DRAWN = 1 << 22 };
    HostSet part = {.v = NEWN(&b->c->arena, HostTensor, b->in.n + 1), .n = b->in.n};
    for (int i = 0; i < part.n; i++) {
        part.v[i] = b->in.v[i];
        i64 row = part.v[i].view.rank ? part.v[i].view.dims[part.v[i].view.rank - 1] : 1;
        if (part.v[i].count > DRAWN) part.v[i].count = DRAWN / MAX(row, 1) * row;
    }
    ssd_random_inputs(in, n_in, &part, b->z.t, (u64)b->c->seed);
    for (int i = 0; i < part.n; i++) {
        char *data = b->in.v[i].view.data;
        size_t all = b->in.v[i].bytes, have = all;
        if (part.v[i].count < b->in.v[i].count)
            have = (size_t)part.v[i].count * ssd_dtype_size(b->in.v[i].view.dtype);
        for (; have && have < all; have *= 2) memcpy(data + have, data, MIN(have, all - have));
    }
}

static void describe(Bench *b, const SpecTensor *in, int n_in) {
    BenchRun *r = b->r;
    struct {
        const char *axis;
        i64 *size;
    } axes[] = {{"h", &r->h}, {"g", &r->g}, {"p", &r->p}, {"n", &r->n}};
    for (int i = 0; i < n_in; i++)
        for (int d = 0; d < in[i].naxes; d++)
            for (size_t k = 0; k < COUNTOF(axes); k++)
                if (!strcmp(in[i].axis[d], axes[k].axis)) *axes[k].size = in[i].size[d];
    r->spec = ssd_spec_name(b->spec);
    r->mode = b->job->mode;
    r->b = b->z.b;
    r->t = b->graph->step ? 1 : b->z.t;
    r->tokens = (double)r->b * (double)r->t;
    Cost cost = count(&b->c->arena, b->graph);
    r->flop = r->tokens * cost.flop;
    r->heads = (double)cost.heads;
    int n = snprintf(r->shape, sizeof r->shape, "b=%lld", (long long)b->z.b);
    if (!b->graph->step)
        n += snprintf(r->shape + n, sizeof r->shape - (size_t)n, " t=%lld", (long long)b->z.t);
    if (b->graph->packed)
        n += snprintf(r->shape + n, sizeof r->shape - (size_t)n, " s=%lld", (long long)b->z.s);
    if (b->z.dims) snprintf(r->shape + n, sizeof r->shape - (size_t)n, " %s", b->z.dims);
}

static bool prepare(Bench *b, int *out_code) {
    Cli *c = b->c;
    const BenchJob *j = b->job;
    size_t len = strlen(j->text);
    Text why = {0};
    const SpecTensor *in, *out;
    *out_code = CLI_NO;
    if (!(b->spec = ssd_cli_spec(c, j->text, len, j->path))) return false;
    Diag d = {.arena = &c->arena, .file = j->path, .source = j->text, .source_len = len};
    b->graph = ssd_spec_build(&c->arena, b->spec, j->mode, j->absent, &d);
    if (!b->graph) {
        ssd_diag_print(&d, &why);
        ssd_cli_fail(SSD_INVALID_SPEC, why.s);
        ssd_text_free(&why);
        return false;
    }
    b->z = j->z;
    if (b->z.b < 0 || b->graph->packed) b->z.b = 1;
    if (b->z.t < 0) b->z.t = 2048;
    if (b->z.s < 0) b->z.s = 4;
    int n_in = ssd_spec_inputs(b->spec, j->mode, &in),
        n_out = ssd_spec_outputs(b->spec, j->mode, &out);
    bool ok = ssd_host_make(&c->arena, in, n_in, &b->z, j->absent, &b->in, &why) &&
              ssd_host_make(&c->arena, out, n_out, &b->z, j->absent, &b->out, &why);
    if (!ok) *out_code = ssd_cli_error("%s", why.s);
    ssd_text_free(&why);
    if (!ok) return false;
    describe(b, in, n_in);
    ssd_cli_progress(c, "drawing inputs");
    draw(b, in, n_in);
    return true;
}

static Phases since(const Phases *before) {
    Phases p = ssd_phases();
    for (int i = 0; i < PHASES; i++) p.seconds[i] -= before->seconds[i];
    return p;
}

static void conclude(Bench *b, const ssd_kernel *k) {
    BenchRun *r = b->r;
    const char *schedule = ssd_kernel_schedule(k);
    r->ms = median(b->ms, r->runs);
    r->p20 = b->ms[r->runs / 5];
    r->p80 = b->ms[r->runs * 4 / 5];
    r->memory_ms = 1e-6 * r->bytes / r->rate;
    r->floor_ms = fmax(r->memory_ms, 1e-6 * r->flop / r->peak);
    r->schedule = ssd_arena_dup(&b->c->arena, schedule, strlen(schedule));
}

static bool compile_and_measure(Bench *b, ssd_context *ctx, Limits *limits, int *out_code) {
    static Phases told; // by earlier runs
    ssd_kernel *k = NULL;
    ssd_compile_options o = ssd_cli_options(b->c, b->job->text, b->job->path, b->job->mode);
    ssd_cli_progress(b->c, "compiling");
    ssd_status s = ssd_child_compile(ctx, &o, &k);
    b->r->phases = since(&told);
    b->r->compiled = b->r->phases.seconds[PHASE_CODE] > 0;
    bool bound = s == SSD_OK && bind(b, k);
    if (bound) {
        b->r->cuda = ssd_target_is_cuda(ssd_kernel_target(k));
        s = measure(b, k, ssd_context_threads(ctx), limits);
    }
    ssd_cli_progress(b->c, NULL);
    *out_code = s == SSD_OK ? CLI_USAGE : ssd_cli_fail(s, ssd_last_error());
    bool ok = bound && s == SSD_OK;
    if (ok) conclude(b, k);
    ssd_kernel_destroy(k);
    told = ssd_phases();
    return ok;
}

bool ssd_bench_run(Cli *c, ssd_context *ctx, const BenchJob *job, Limits *limits, BenchRun *out,
                   int *out_code) {
    const Sizes sizes = c->sizes; // the flags', in whose place the job's stand meanwhile
    const char *absent = c->absent;
    *out = (BenchRun){0};
    Bench b = {.c = c, .job = job, .r = out};
    c->sizes = job->z;
    c->absent = job->absent;
    bool ok = prepare(&b, out_code) && compile_and_measure(&b, ctx, limits, out_code);
    c->sizes = sizes;
    c->absent = absent;
    free(b.workspace);
    ssd_host_drop(&b.in);
    ssd_host_drop(&b.out);
    return ok;
}
