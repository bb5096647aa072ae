// SPDX-License-Identifier: Apache-2.0
// Tensors as they may lie in a CUDA device's memory: misaligned, with gaps, in another order,
// backwards, more than 2^31 elements apart; and sequences longer than 2^17 tokens. Whatever path a
// kernel takes for them, results are compared with the meaning in double. Skipped where there is no
// device or no NVRTC; what needs more memory than is free is left out, and said.
#include "../../frontend/device.h"
#include "../../frontend/random.h"
#include "../../frontend/verify.h"
#include "../../runtime/dynlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int passed, failed, skipped;

SSD_PRINTF(2, 3) static bool check(bool ok, const char *fmt, ...) {
    *(ok ? &passed : &failed) += 1;
    if (ok) return true;
    va_list ap;
    va_start(ap, fmt);
    printf("FAIL cuda_views: ");
    vprintf(fmt, ap);
    va_end(ap);
    printf("; %s\n", ssd_last_error());
    return false;
}

SSD_PRINTF(1, 2) static void skip(const char *fmt, ...) {
    va_list ap;
    skipped++;
    va_start(ap, fmt);
    printf("skipped: ");
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

static const CudaApi *api;

// --- Layers -------------------------------------------------------------------------------------
// One that no tensor unit takes whole, and the one that everybody times.
static const char small[] =
    "ssdc: 1\nname: small\ndims: {heads: 4, groups: 2, head_dim: 16, state_size: 24}\n"
    "inputs:\n  x: bf16[b, t, h, p]\n  dt: f32[b, t, h]\n  A_log: f32[h]\n"
    "  B: bf16[b, t, g, n]\n  C: bf16[b, t, g, n]\n"
    "let:\n  delta: softplus(dt)\n"
    "ssd: {query: C, key: B, value: delta * x, log_decay: -exp(A_log) * delta, initial_state: h0, "
    "final_state: hT}\n"
    "outputs: {y: 'bf16[b, t, h, p] = ssd'}\nmodes: [forward, step]\n";
static const char core[] =
    "ssdc: 1\nname: core\ndims: {heads: 4, groups: 1, head_dim: 64, state_size: 128}\n"
    "inputs:\n  x: bf16[b, t, h, p]\n  dt: f32[b, t, h]\n  A: f32[h]\n"
    "  B: bf16[b, t, g, n]\n  C: bf16[b, t, g, n]\n  D: f32[h]\n"
    "ssd: {query: C, key: B, value: dt * x, log_decay: A * dt, initial_state: h0, final_state: "
    "hT}\n"
    "outputs: {y: 'bf16[b, t, h, p] = ssd + D * x'}\nmodes: [forward, step]\n";

// --- Layouts ------------------------------------------------------------------------------------
typedef enum Layout {
    DENSE,
    OFF_BY_ONE,   // the first element is not 16-aligned
    OFF_BY_EIGHT, // bytes
    PADDED,       // rows a multiple of 16 bytes apart
    RAGGED,       // .. and not a multiple
    SWAPPED,      // the two axes before the last in the other order
    SPACED,       // elements apart
    BACKWARDS,    // along the second axis
    FAR,          // the first axis spans more than 2^31 elements
    FAR_ROWS,     // .. and the second
    LAYOUTS
} Layout;
static const char *const layout_names[LAYOUTS] = {
    "dense",        "off by an element", "off by 8 bytes", "padded",    "ragged",
    "swapped axes", "spaced elements",   "backwards",      "far apart", "far rows"};

typedef struct View {
    ssd_tensor at; // on the device
    const HostTensor *host;
    bool output;
    CuPtr base;
    i64 low, span; // elements: below the first one, and in all
} View;

static void swap(i64 *x, i64 *y) {
    i64 t = *x;
    *x = *y, *y = t;
}

// Strides of a layout, in elements; offset: where the first element lies.
static void lay_out(View *v, Layout l, i64 *out_offset) {
    ssd_tensor *t = &v->at;
    i64 es = (i64)ssd_dtype_size(t->dtype), order[SSD_MAX_RANK], stride = l == SPACED ? 2 : 1;
    int rank = t->rank;
    *out_offset = l == OFF_BY_ONE ? 1 : l == OFF_BY_EIGHT ? 8 / es : 0;
    for (int d = 0; d < rank; d++) order[d] = d;
    if (l == SWAPPED && rank > 2) swap(&order[rank - 2], &order[rank - 3]);
    for (int i = rank - 1; i >= 0; i--) {
        i64 d = order[i];
        if (i == (l == FAR ? 0 : l == FAR_ROWS ? 1 : -1) && i < rank - 1 && t->dims[d] > 1)
            stride = MAX(stride, ((i64)1 << 31) / (t->dims[d] - 1) + 64) & ~(i64)63;
        t->strides[d] = stride;
        stride *= t->dims[d];
        if (i == rank - 1 && l == PADDED) stride = (stride + 64) & ~(i64)63;
        if (i == rank - 1 && l == RAGGED) stride += 1;
    }
    if (l == BACKWARDS && rank > 1) t->strides[1] = -t->strides[1];
}

static void measure(View *v, i64 offset) {
    i64 low = 0, high = 0;
    for (int d = 0; d < v->at.rank; d++) {
        i64 reach = (v->at.dims[d] - 1) * v->at.strides[d];
        low += MIN(reach, 0);
        high += MAX(reach, 0);
    }
    v->low = offset - low;
    v->span = v->low + high + 1 + 64;
}

// --- Elements there and back --------------------------------------------------------------------
// Rows of the last axis, by
// their index among all rows: where it begins, in elements.
static i64 row_at(const ssd_tensor *t, i64 row) {
    i64 at = 0;
    for (int d = t->rank - 2; d >= 0; d--) {
        at += row % t->dims[d] * t->strides[d];
        row /= t->dims[d];
    }
    return at;
}

enum { GAP = 0xff, IMAGE_MOST = 1 << 26 };

// Moves all rows between the dense host tensor and an image of the device's memory.
static void move_rows(const View *v, char *image, bool in) {
    size_t es = ssd_dtype_size(v->at.dtype);
    i64 len = v->at.rank ? v->at.dims[v->at.rank - 1] : 1,
        step = v->at.rank ? v->at.strides[v->at.rank - 1] : 1;
    for (i64 k = 0; k < v->host->count; k++) {
        char *host = (char *)v->host->view.data + (size_t)k * es,
             *at = image + (v->low + row_at(&v->at, k / len) + k % len * step) * (i64)es;
        memcpy(in ? at : host, in ? host : at, es);
    }
}

static bool move_far_rows(const View *v, bool in) {
    size_t es = ssd_dtype_size(v->at.dtype);
    i64 len = v->at.dims[v->at.rank - 1];
    int e = 0;
    for (i64 row = 0; !e && row < v->host->count / len; row++) {
        char *host = (char *)v->host->view.data + (size_t)(row * len) * es;
        CuPtr at = v->base + (CuPtr)(v->low + row_at(&v->at, row)) * es;
        e = in ? api->MemcpyHtoD(at, host, (size_t)len * es)
               : api->MemcpyDtoH(host, at, (size_t)len * es);
    }
    return !e;
}

static bool far(const View *v) {
    return (size_t)v->span * ssd_dtype_size(v->at.dtype) > IMAGE_MOST;
}

static bool upload(View *v, CuHandle stream) {
    size_t bytes = (size_t)v->span * ssd_dtype_size(v->at.dtype);
    if (api->MemAlloc(&v->base, bytes)) return false;
    v->at.data = (void *)(uintptr_t)(v->base + (CuPtr)v->low * ssd_dtype_size(v->at.dtype));
    if (far(v))
        return !api->MemsetD8Async(v->base, GAP, bytes, stream) &&
               !api->StreamSynchronize(stream) && move_far_rows(v, true);
    char *image = malloc(bytes);
    if (!image) return false;
    memset(image, GAP, bytes);
    move_rows(v, image, true);
    bool ok = !api->MemcpyHtoD(v->base, image, bytes);
    free(image);
    return ok;
}

// Outputs into their host tensors; nothing else may have changed.
static bool download(const View *v, const char *what) {
    size_t bytes = (size_t)v->span * ssd_dtype_size(v->at.dtype);
    if (far(v)) return !v->output || move_far_rows(v, false);
    char *after = malloc(bytes), *before = malloc(bytes);
    bool ok = after && before && !api->MemcpyDtoH(after, v->base, bytes);
    if (ok) {
        if (v->output) move_rows(v, after, false);
        memset(before, GAP, bytes);
        move_rows(v, before, true);
        size_t bad = 0;
        while (bad < bytes && before[bad] == after[bad]) bad++;
        check(bad == bytes, "%s: '%s' has another byte at %zu of %zu", what, v->host->name, bad,
              bytes);
    }
    free(after);
    free(before);
    return ok;
}

// --- A launch -----------------------------------------------------------------------------------
typedef struct Case {
    const char *spec, *schedule;
    ssd_context *ctx;
    ssd_kernel *kernel;
    Trial t;
    View view[16];
    int n;
    CuHandle stream;
    CuPtr ws;
} Case;

static bool bind(Case *c, Layout layout, bool mixed, const char *only) {
    size_t all = 0, unused = 0, total = 0;
    c->n = ssd_kernel_param_count(c->kernel);
    for (int i = 0; i < c->n; i++) {
        ssd_param p;
        View *v = &c->view[i];
        i64 offset;
        ssd_kernel_param(c->kernel, i, &p);
        bool output = p.role == SSD_OUTPUT;
        const HostTensor *h = ssd_host_find(output ? &c->t.out : &c->t.in, p.name);
        *v = (View){.at = h->view, .host = h, .output = output};
        Layout mine = mixed ? (Layout)((layout + i) % FAR) : layout;
        lay_out(v, only && strcmp(only, p.name) ? DENSE : mine, &offset);
        measure(v, offset);
        all += (size_t)v->span * ssd_dtype_size(v->at.dtype);
    }
    if (api->MemGetInfo(&unused, &total) || all + ((size_t)1 << 30) < unused) return true;
    skip("%s, %s: %.1f GB of device memory are free, %.1f needed", layout_names[layout],
         only ? only : "all", (double)unused * 1e-9, (double)all * 1e-9);
    return false;
}

static ssd_status run(Case *c) {
    ssd_arg args[16];
    size_t bytes = 0;
    for (int i = 0; i < c->n; i++) args[i] = (ssd_arg){c->view[i].host->name, c->view[i].at};
    ssd_status s = ssd_kernel_workspace(c->kernel, args, c->n, &bytes);
    if (!s && bytes && api->MemAlloc(&c->ws, bytes)) return SSD_OUT_OF_MEMORY;
    if (!s && bytes && api->MemsetD8Async(c->ws, GAP, bytes, c->stream)) return SSD_DEVICE;
    if (!s) s = ssd_launch_on(c->kernel, args, c->n, (void *)(uintptr_t)c->ws, bytes, c->stream);
    if (!s && api->StreamSynchronize(c->stream)) s = SSD_DEVICE;
    return s;
}

static void release(Case *c) {
    for (int i = 0; i < c->n; i++)
        if (c->view[i].base) api->MemFree(c->view[i].base);
    if (c->ws) api->MemFree(c->ws);
    c->ws = 0;
    c->n = 0;
}

// Tensor `only` (NULL: all) lies as `layout` says; mixed: each in another way.
static void try(Case *c, Layout layout, bool mixed, const char *only) {
    char what[128];
    snprintf(what, sizeof what, "%s %s%s%s%s", ssd_spec_name(c->t.spec), mixed ? "mixed from " : "",
             layout_names[layout], only ? ", " : "", only ? only : "");
    for (int i = 0; i < c->t.out.n; i++) ssd_host_poison(&c->t.out.v[i]);
    if (!bind(c, layout, mixed, only)) {
        c->n = 0;
        return;
    }
    bool ok = true;
    for (int i = 0; ok && i < c->n; i++)
        ok = check(upload(&c->view[i], c->stream), "%s: '%s' to the device", what,
                   c->view[i].host->name);
    // A copy from the host returns when the host's memory has been read; our stream, apart from
    // the default one, would not wait for its arrival.
    ok = ok && check(!api->StreamSynchronize(NULL), "%s: copies", what);
    ok = ok && check(run(c) == SSD_OK, "%s: launch", what);
    for (int i = 0; ok && i < c->n; i++)
        check(download(&c->view[i], what), "%s: '%s' from the device", what, c->view[i].host->name);
    for (int i = 0; ok && i < c->t.out.n; i++) {
        TrialError e = ssd_trial_error(&c->t, i);
        check(e.ok, "%s: '%s' is off by %.3g (%s), bound %.3g", what, c->t.out.v[i].name, e.error,
              e.norm, e.bound);
    }
    release(c);
}

static bool open_case(Case *c, ssd_context *ctx, const char *spec, const char *schedule, Sizes z) {
    Text why = {0};
    *c = (Case){.spec = spec, .schedule = schedule, .ctx = ctx};
    TrialOptions to = {.spec = spec, .mode = "forward", .sizes = z, .seed = 5};
    ssd_compile_options o = {.spec = spec, .target = "cuda", .schedule = schedule};
    // The first run, on dense tensors, also says by which bounds to judge.
    bool ok = check(ssd_trial_open(&c->t, &to, &why) == SSD_OK, "inputs: %s", why.s ? why.s : "");
    ok = ok && check(ssd_trial_run(&c->t, ctx, "cuda", schedule, &why) == SSD_OK, "run: %s",
                     why.s ? why.s : "");
    ok = ok && check(ssd_compile(ctx, &o, &c->kernel) == SSD_OK, "compile");
    ok = ok && check(!api->StreamCreate(&c->stream, CU_STREAM_APART), "a stream");
    if (ok)
        printf("%s: %s, %s\n", ssd_spec_name(c->t.spec), c->t.shape,
               ssd_kernel_schedule(c->kernel));
    ssd_text_free(&why);
    return ok;
}

static void close_case(Case *c) {
    if (c->stream) api->StreamDestroy(c->stream);
    ssd_kernel_destroy(c->kernel);
    ssd_trial_close(&c->t);
}

static void all_views(ssd_context *ctx, const char *spec, const char *schedule) {
    static const char *const large[] = {"x", "B", "C", "dt", "y", "hT"};
    Case c;
    if (open_case(&c, ctx, spec, schedule, (Sizes){.b = 3, .t = 200, .s = -1})) {
        for (int l = 0; l < FAR; l++) try(&c, (Layout)l, false, NULL);
        for (int l = 0; l < FAR; l++) try(&c, (Layout)l, true, NULL);
        for (size_t i = 0; i < COUNTOF(large); i++)
            for (int l = FAR; l < LAYOUTS; l++) try(&c, (Layout)l, false, large[i]);
        try(&c, FAR, false, NULL);
    }
    close_case(&c);
}

// --- Long sequences -----------------------------------------------------------------------------
// Against the
// meaning, with few heads.
static void long_sequence(ssd_context *ctx) {
    static const char few[] =
        "ssdc: 1\nname: few\ndims: {heads: 1, head_dim: 8, state_size: 16}\n"
        "inputs:\n  x: bf16[b, t, h, p]\n  dt: f32[b, t, h]\n  A: f32[h]\n"
        "  B: bf16[b, t, h, n]\n  C: bf16[b, t, h, n]\n"
        "ssd: {query: C, key: B, value: dt * x, log_decay: A * dt, initial_state: h0, final_state: "
        "hT}\n"
        "outputs: {y: 'bf16[b, t, h, p] = ssd'}\nmodes: [forward, step]\n";
    Case c;
    if (open_case(&c, ctx, few, NULL, (Sizes){.b = 1, .t = 131075, .s = -1})) {
        try(&c, DENSE, false, NULL);
        try(&c, RAGGED, false, NULL);
    }
    close_case(&c);
}

// The whole at once, and cut where no chunk ends with the state handed on: the same values.
static void cut_sequence(ssd_context *ctx) {
    enum { T = 131075, CUT = 70001, H = 4, P = 64, N = 128, KINDS = 2 };
    ssd_kernel *k = NULL;
    ssd_compile_options o = {.spec = core, .target = "cuda"};
    Arena a = {0};
    Text why = {0};
    Diag d = {.arena = &a};
    Spec *s = ssd_spec_parse(&a, core, sizeof core - 1, "core", NULL, &d);
    const SpecTensor *in, *out;
    HostSet inputs, outputs[KINDS];
    const Sizes z = {.b = 1, .t = T, .s = -1};
    if (!check(s && ssd_compile(ctx, &o, &k) == SSD_OK, "compile")) return;
    int n_in = ssd_spec_inputs(s, "forward", &in), n_out = ssd_spec_outputs(s, "forward", &out);
    if (!check(ssd_host_make(&a, in, n_in, &z, NULL, &inputs, &why), "memory")) return;
    ssd_random_inputs(in, n_in, &inputs, T, 9);
    for (int i = 0; i < KINDS; i++) {
        if (!check(ssd_host_make(&a, out, n_out, &z, NULL, &outputs[i], &why), "memory")) return;
        for (int j = 0; j < outputs[i].n; j++) ssd_host_poison(&outputs[i].v[j]);
    }
    const i64 pieces[KINDS][3] = {{0, T, T}, {0, CUT, T}};
    bool ok = true;
    for (int kind = 0; kind < KINDS && ok; kind++)
        for (int piece = 0; piece < 2 && ok; piece++) {
            i64 from = pieces[kind][piece], to = pieces[kind][piece + 1];
            ssd_arg args[16];
            int n = 0;
            if (from == to) continue;
            for (; n < ssd_kernel_param_count(k); n++) {
                ssd_param p;
                ssd_kernel_param(k, n, &p);
                const HostTensor *h =
                    ssd_host_find(p.role == SSD_OUTPUT ? &outputs[kind] : &inputs, p.name);
                ssd_tensor v = h->view;
                if (from && !strcmp(p.name, "h0")) v = ssd_host_find(&outputs[kind], "hT")->view;
                if (v.rank > 2 && v.dims[1] == T) { // a piece of one batch is dense
                    v.data =
                        (char *)v.data + (size_t)(from * v.strides[1]) * ssd_dtype_size(v.dtype);
                    v.dims[1] = to - from;
                }
                args[n] = (ssd_arg){h->name, v};
            }
            ok = check(ssd_device_launch(k, args, n) == SSD_OK, "tokens %lld to %lld",
                       (long long)from, (long long)to);
        }
    for (int j = 0; ok && j < outputs[0].n; j++) {
        const HostTensor *x = &outputs[0].v[j], *y = &outputs[1].v[j];
        double diff = 0, norm = 0;
        for (i64 i = 0; i < x->count; i++) {
            double p = ssd_host_load(x->view.data, x->view.dtype, i),
                   q = ssd_host_load(y->view.data, y->view.dtype, i);
            diff += (p - q) * (p - q);
            norm += p * p;
        }
        // Both sides round operands of products and the output to bf16, in chunks that begin
        // elsewhere.
        double error = sqrt(diff / norm);
        check(error < 4e-3, "'%s' of a cut sequence is off by %.3g", x->name, error);
    }
    printf("core: t=%d cut at %d, %s\n", T, CUT, ssd_kernel_schedule(k));
    for (int i = 0; i < KINDS; i++) ssd_host_drop(&outputs[i]);
    ssd_host_drop(&inputs);
    ssd_kernel_destroy(k);
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// --- What a launch costs the host ---------------------------------------------------------------
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Printed, not judged: it includes the making of tensor maps.
static void cost_of_launch(ssd_context *ctx) {
    enum { BATCH = 50, ROUNDS = 20 }; // few enough that the driver's queue never fills
    Case c;
    Mirror m;
    double best = (double)INFINITY;
    if (open_case(&c, ctx, core, NULL, (Sizes){.b = 1, .t = 64, .s = -1})) {
        ssd_arg args[16];
        int n = ssd_kernel_param_count(c.kernel);
        for (int i = 0; i < n; i++) {
            ssd_param p;
            ssd_kernel_param(c.kernel, i, &p);
            const HostTensor *h = ssd_host_find(p.role == SSD_OUTPUT ? &c.t.out : &c.t.in, p.name);
            args[i] = (ssd_arg){h->name, h->view};
        }
        if (check(ssd_mirror_open(&m, NULL, c.kernel, args, n) == SSD_OK, "memory")) {
            for (int r = 0; r < ROUNDS; r++) {
                double begun = now();
                for (int i = 0; i < BATCH; i++)
                    if (ssd_mirror_launch(&m)) check(false, "launch");
                best = fmin(best, (now() - begun) / BATCH);
                api->StreamSynchronize(m.stream);
            }
            printf("a launch takes %.2f us of the host\n", 1e6 * best);
            ssd_mirror_close(&m);
        }
    }
    close_case(&c);
}

int main(void) {
    Text why = {0};
    if (!ssd_cuda_device(&why) || !ssd_nvrtc(&why)) {
        printf("skipped: %s\n", why.s);
        ssd_text_free(&why);
        return 77;
    }
    CudaScope scope;
    ssd_context *ctx = NULL;
    api = &ssd_cuda_driver()->api;
    check(ssd_context_create(NULL, &ctx) == SSD_OK, "a context");
    if (check(ssd_cuda_enter(NULL, &scope) == SSD_OK, "the device")) {
        all_views(ctx, small, "form=chunked q=32 hoist=1");
        all_views(ctx, small, "form=recurrent");
        all_views(ctx, core, NULL);
        long_sequence(ctx);
        cut_sequence(ctx);
        cost_of_launch(ctx);
        ssd_cuda_leave(&scope);
    }
    ssd_context_destroy(ctx);
    ssd_text_free(&why);
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
