// SPDX-License-Identifier: Apache-2.0
// Kernels on a real CUDA device, through the public interface: streams, graphs, threads, contexts,
// wrong memory, a failing kernel. Skipped where there is no device or no NVRTC. That results are
// right is `ssdc verify --target cuda`'s to say; here every way of launching must give the same
// bits.
#include "../../frontend/device.h"
#include "../../frontend/verify.h"
#include "../../runtime/dynlib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed;

static bool check(bool ok, const char *what) {
    if (!ok) printf("FAIL cuda: %s: %s\n", what, ssd_last_error());
    *(ok ? &passed : &failed) += 1;
    return ok;
}

static const char spec[] =
    "ssdc: 1\nname: small\ndims: {heads: 4, groups: 2, head_dim: 16, state_size: 24}\n"
    "inputs:\n  x: bf16[b, t, h, p]\n  dt: f32[b, t, h]\n  A_log: f32[h]\n"
    "  B: bf16[b, t, g, n]\n  C: bf16[b, t, g, n]\n"
    "let:\n  delta: softplus(dt)\n"
    "ssd: {query: C, key: B, value: delta * x, log_decay: -exp(A_log) * delta, initial_state: h0, "
    "final_state: hT}\n"
    "outputs: {y: 'bf16[b, t, h, p] = ssd'}\nmodes: [forward, step]\n";

// In stages: what heads share lies in a workspace.
static const char schedule[] = "form=chunked q=32 hoist=1";

typedef struct Fixture {
    ssd_context *ctx;
    ssd_kernel *kernel;
    Trial t;
    ssd_arg args[16];
    int n;
} Fixture;

static void bind(Fixture *f) {
    f->n = ssd_kernel_param_count(f->kernel);
    for (int i = 0; i < f->n; i++) {
        ssd_param p;
        ssd_kernel_param(f->kernel, i, &p);
        const HostTensor *h = ssd_host_find(p.role == SSD_INPUT ? &f->t.in : &f->t.out, p.name);
        f->args[i] = (ssd_arg){h->name, h->view};
    }
}

// What all launches have to give: the outputs of the first one.
static void *kept[8];

static bool same_as_kept(const Fixture *f) {
    bool same = true;
    for (int i = 0; i < f->t.out.n; i++)
        same &= !memcmp(kept[i], f->t.out.v[i].view.data, f->t.out.v[i].bytes);
    return same;
}

static void poison(Fixture *f) {
    for (int i = 0; i < f->t.out.n; i++) ssd_host_poison(&f->t.out.v[i]);
}

static bool first_launch(Fixture *f) {
    Text why = {0};
    bool ok = check(ssd_trial_run(&f->t, f->ctx, "cuda", schedule, &why) == SSD_OK, "a launch");
    if (why.s) printf("%s\n", why.s);
    for (int i = 0; ok && i < f->t.out.n; i++) {
        ok = check(ssd_trial_error(&f->t, i).ok, "a right result");
        kept[i] = malloc(f->t.out.v[i].bytes);
        memcpy(kept[i], f->t.out.v[i].view.data, f->t.out.v[i].bytes);
    }
    ssd_text_free(&why);
    return ok;
}

static void again(Fixture *f) {
    for (int i = 0; i < 3; i++) {
        poison(f);
        check(ssd_device_launch(f->kernel, f->args, f->n) == SSD_OK && same_as_kept(f),
              "the same bits again");
    }
}

static void graph(Fixture *f) {
    const CudaApi *api = &ssd_cuda_driver()->api;
    CuHandle captured = NULL, exec = NULL;
    Mirror m;
    poison(f);
    if (!check(ssd_mirror_open(&m, NULL, f->kernel, f->args, f->n) == SSD_OK, "memory")) return;
    check(api->StreamBeginCapture(m.stream, 0) == 0, "a capture, in the strictest mode");
    check(ssd_mirror_launch(&m) == SSD_OK, "a launch into a graph");
    check(api->StreamEndCapture(m.stream, &captured) == 0 && captured, "a graph");
    check(captured && api->GraphInstantiate(&exec, captured, 0) == 0, "its instance");
    for (int i = 0; exec && i < 2; i++) check(api->GraphLaunch(exec, m.stream) == 0, "its launch");
    check(ssd_mirror_fetch(&m) == SSD_OK && same_as_kept(f), "the same bits from a graph");
    if (exec) api->GraphExecDestroy(exec);
    if (captured) api->GraphDestroy(captured);
    ssd_mirror_close(&m);
}

// --- Steps --------------------------------------------------------------------------------------
// Each reads what the one in front of it wrote, its y and its state; with early=1 it is launched
// before that has ended.
enum { STEPS = 20, BATCH = 512 };
typedef enum Way { ONE_BY_ONE, ON_A_STREAM, IN_A_GRAPH, WAYS } Way;

static int arg_named(const Fixture *f, const char *name) {
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->args[i].name, name)) return i;
    return 0;
}

static ssd_status all_steps(Mirror *m, int x, int y, bool wait) {
    ssd_status s = SSD_OK;
    for (int i = 0; !s && i < STEPS; i++) {
        s = ssd_mirror_launch(m);
        if (!s && wait && m->api->StreamSynchronize(m->stream)) s = SSD_DEVICE;
        void *data = m->args[x].tensor.data;
        m->args[x].tensor.data = m->args[y].tensor.data;
        m->args[y].tensor.data = data;
    }
    return s;
}

static bool go(Mirror *m, int x, int y, Way way) {
    const CudaApi *api = m->api;
    CuHandle captured = NULL, exec = NULL;
    if (way != IN_A_GRAPH)
        return !all_steps(m, x, y, way == ONE_BY_ONE) && !api->StreamSynchronize(m->stream);
    bool ok = !api->StreamBeginCapture(m->stream, 0) && !all_steps(m, x, y, false);
    ok = !api->StreamEndCapture(m->stream, &captured) && ok &&
         !api->GraphInstantiate(&exec, captured, 0) && !api->GraphLaunch(exec, m->stream) &&
         !api->StreamSynchronize(m->stream);
    if (exec) api->GraphExecDestroy(exec);
    if (captured) api->GraphDestroy(captured);
    return ok;
}

static void compare_ways(const Fixture *f) {
    static const char *const names[] = {"one by one", "on a stream", "in a graph"};
    int x = arg_named(f, "x"), y = arg_named(f, "y"), h = arg_named(f, "h0");
    const int look[] = {x, y, h};
    void *first[3] = {0};
    for (Way way = 0; way < WAYS; way++) {
        Mirror m;
        if (!check(ssd_mirror_open(&m, NULL, f->kernel, f->args, f->n) == SSD_OK, "memory")) break;
        check(go(&m, x, y, way), names[way]);
        bool same = true;
        for (int i = 0; i < 3; i++) {
            size_t bytes =
                ssd_host_find(i == 1 ? &f->t.out : &f->t.in, f->args[look[i]].name)->bytes;
            u16 *got = malloc(bytes);
            m.api->MemcpyDtoH(got, (CuPtr)(uintptr_t)m.args[look[i]].tensor.data, bytes);
            same &= way == 0 || !memcmp(got, first[i], bytes);
            for (size_t k = 0; i < 2 && k < bytes / 2; k++) // bf16: neither NaN nor Inf
                same &= (got[k] & 0x7f80) != 0x7f80;
            if (way == 0)
                first[i] = got;
            else
                free(got);
        }
        check(same, way ? "steps that follow at once give the bits of steps that wait" : "steps");
        ssd_mirror_close(&m);
    }
    for (int i = 0; i < 3; i++) free(first[i]);
}

static void steps(ssd_context *ctx, const char *chosen) {
    Fixture f = {.ctx = ctx};
    Text why = {0};
    TrialOptions to = {.spec = spec, .mode = "step", .sizes = {.b = BATCH, .t = 1, .s = -1}};
    ssd_compile_options o = {.spec = spec, .target = "cuda", .mode = "step", .schedule = chosen};
    if (!check(ssd_trial_open(&f.t, &to, &why) == SSD_OK, "inputs of a step"))
        printf("%s\n", why.s);
    if (check(ssd_compile(ctx, &o, &f.kernel) == SSD_OK, "a step")) {
        bind(&f);
        f.args[arg_named(&f, "hT")].tensor.data = f.args[arg_named(&f, "h0")].tensor.data;
        compare_ways(&f);
    }
    ssd_kernel_destroy(f.kernel);
    ssd_trial_close(&f.t);
    ssd_text_free(&why);
}

static void wrong_memory(Fixture *f) {
    Mirror m;
    if (!check(ssd_mirror_open(&m, NULL, f->kernel, f->args, f->n) == SSD_OK, "memory")) return;
    void *host = aligned_alloc(64, (m.ws_bytes + 127) & ~(size_t)63);
    ssd_tensor *x = &m.args[0].tensor;
    void *good = x->data;
    check(m.ws_bytes > 0, "the schedule has a workspace");
    check(ssd_launch_on(f->kernel, m.args, m.n_args, NULL, 0, m.stream) == SSD_INVALID_ARGUMENT &&
              strstr(ssd_last_error(), "workspace is NULL"),
          "no workspace");
    if (!ssd_cuda_driver()->device.reads_host) {
        check(ssd_launch_on(f->kernel, m.args, m.n_args, host, m.ws_bytes, m.stream) ==
                      SSD_INVALID_ARGUMENT &&
                  strstr(ssd_last_error(), "host memory"),
              "a workspace of host memory");
        x->data = f->args[0].tensor.data;
        check(ssd_mirror_launch(&m) == SSD_INVALID_ARGUMENT &&
                  strstr(ssd_last_error(), "host memory"),
              "an argument of host memory");
        x->data = good;
    }
    poison(f);
    check(ssd_mirror_launch(&m) == SSD_OK && ssd_mirror_fetch(&m) == SSD_OK,
          "and no harm was done");
    free(host);
    ssd_mirror_close(&m);
}

static void other_target(Fixture *f) {
    const CudaDevice *d = ssd_cuda_device(NULL);
    ssd_kernel *k;
    const char *other = d->major == 8 ? "sm_120" : "sm_80";
    ssd_compile_options o = {.spec = spec, .target = other};
    check(ssd_compile(f->ctx, &o, &k) == SSD_UNSUPPORTED && !k && strstr(ssd_last_error(), d->name),
          "code of another architecture");
}

// --- Threads and contexts -----------------------------------------------------------------------
typedef struct Worker {
    pthread_t id;
    Fixture f;
    CuHandle context; // to work in; NULL: the primary
    bool ok;
} Worker;

static void *work(void *arg) {
    Worker *w = arg;
    const CudaApi *api = &ssd_cuda_driver()->api;
    Mirror m;
    CuHandle popped;
    w->ok = !w->context || !api->CtxPushCurrent(w->context);
    if (w->ok && ssd_mirror_open(&m, NULL, w->f.kernel, w->f.args, w->f.n) == SSD_OK) {
        for (int i = 0; i < 100; i++) w->ok &= ssd_mirror_launch(&m) == SSD_OK;
        w->ok &= ssd_mirror_fetch(&m) == SSD_OK;
        ssd_mirror_close(&m);
    } else {
        w->ok = false;
    }
    if (w->context) api->CtxPopCurrent(&popped);
    return NULL;
}

// Threads with memory and streams of their own, half of them in a context of their own.
static void threads(const Fixture *f) {
    enum { N = 4 };
    int (*create)(CuHandle *, unsigned, int) = NULL, (*destroy)(CuHandle) = NULL;
    const CudaDriver *c = ssd_cuda_driver();
    void *lib = dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
    CuHandle context = NULL, popped;
    Worker w[N];
    Text why = {0};
    *(void **)&create = lib ? dlsym(lib, "cuCtxCreate_v2") : NULL;
    *(void **)&destroy = lib ? dlsym(lib, "cuCtxDestroy_v2") : NULL;
    if (check(create && destroy && !create(&context, 0, c->handle), "a second context"))
        c->api.CtxPopCurrent(&popped);
    for (int i = 0; i < N; i++) {
        w[i] = (Worker){.context = i % 2 ? context : NULL};
        w[i].f = *f;
        if (!check(ssd_trial_open(&w[i].f.t, &f->t.opt, &why) == SSD_OK, "inputs")) return;
        bind(&w[i].f);
        poison(&w[i].f);
    }
    for (int i = 0; i < N; i++) pthread_create(&w[i].id, NULL, work, &w[i]);
    for (int i = 0; i < N; i++) {
        pthread_join(w[i].id, NULL);
        check(w[i].ok && same_as_kept(&w[i].f),
              i % 2 ? "a thread in a context of its own" : "a thread");
        ssd_trial_close(&w[i].f.t);
    }
    if (context) destroy(context); // its code goes with it; the kernel goes on in others
    ssd_text_free(&why);
}

// A kernel that is told to read far outside of its memory: the launch says nothing yet, all that
// follows does.
static void failing(Fixture *f) {
    Mirror m;
    if (!check(ssd_mirror_open(&m, NULL, f->kernel, f->args, f->n) == SSD_OK, "memory")) return;
    for (int i = 0; i < m.n_args; i++)
        if (!strcmp(m.args[i].name, "x")) m.args[i].tensor.strides[1] = (i64)1 << 36;
    check(ssd_mirror_launch(&m) == SSD_OK, "a launch returns before its kernel fails");
    check(ssd_mirror_fetch(&m) == SSD_DEVICE && strstr(ssd_last_error(), "start again"),
          "the failure shows");
    check(ssd_mirror_launch(&m) == SSD_DEVICE && strstr(ssd_last_error(), "start again"),
          "and every launch after it says so");
    ssd_mirror_close(&m);
    ssd_kernel *k = NULL;
    check(ssd_compile(f->ctx, &(ssd_compile_options){.spec = spec, .target = "cpu"}, &k) !=
              SSD_DEVICE,
          "the CPU does not mind");
    ssd_kernel_destroy(k);
}

int main(void) {
    Text why = {0};
    if (!ssd_cuda_device(&why) || !ssd_nvrtc(&why)) {
        printf("skipped: %s\n", why.s);
        ssd_text_free(&why);
        return 77;
    }
    Fixture f = {0};
    TrialOptions to = {
        .spec = spec, .mode = "forward", .sizes = {.b = 2, .t = 200, .s = -1}, .budget = 1};
    ssd_compile_options o = {.spec = spec, .target = "cuda", .schedule = schedule};
    check(ssd_context_create(&(ssd_context_options){.cache_dir = ""}, &f.ctx) == SSD_OK,
          "a context");
    check(ssd_trial_open(&f.t, &to, &why) == SSD_OK, "inputs");
    if (why.s) printf("%s\n", why.s);
    if (check(ssd_compile(f.ctx, &o, &f.kernel) == SSD_OK, "a kernel")) {
        printf("%s, %s\n", ssd_kernel_target(f.kernel), ssd_kernel_schedule(f.kernel));
        bind(&f);
        if (first_launch(&f)) {
            again(&f);
            graph(&f);
            wrong_memory(&f);
            other_target(&f);
            threads(&f);
            again(&f);
            steps(f.ctx, NULL);
            steps(f.ctx, "early=1");
            failing(&f);
        }
    }
    ssd_kernel_destroy(f.kernel);
    ssd_trial_close(&f.t);
    ssd_context_destroy(f.ctx);
    for (size_t i = 0; i < COUNTOF(kept); i++) free(kept[i]);
    ssd_text_free(&why);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
