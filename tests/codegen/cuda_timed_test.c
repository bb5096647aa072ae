// SPDX-License-Identifier: Apache-2.0
// Generated CUDA of kernels of roles (T2). What the text says on both kinds of machines, which
// tensor maps the artifact lists, that a block's shared memory is respected; with NVRTC, that it
// compiles without a spill, a stack frame or a warning about serialised products, and to which
// instructions; with a device, that it computes what the interpreter does.
//   cuda_timed_test [-v]
#include "../../codegen/cuda.h"
#include "../../codegen/nvrtc.h"
#include "../../ir/timed.h"
#include "../../runtime/device_cuda.h"
#include "gate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FORWARD SOURCE_DIR "/tests/ir/programs/11_timed_forward.ssd"
#define SHAPES SOURCE_DIR "/tests/codegen/programs/timed_shapes.ssd"

static int passed, failed;
static bool verbose;

static bool report(bool ok, const char *fmt, ...) SSD_PRINTF(2, 3);
static bool report(bool ok, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (!ok || verbose) {
        printf(ok ? "ok    " : "FAIL  ");
        vprintf(fmt, ap);
        printf("\n");
    }
    va_end(ap);
    *(ok ? &passed : &failed) += 1;
    return ok;
}

// --- Programs -----------------------------------------------------------------------------------
typedef struct Case {
    Arena arena;
    Prog *p;
    Machine machine;
    const char *arch;
    i64 shared[8];
    Text source;
} Case;

static Prog *read_program(Arena *a, const char *path, const char *swap_from, const char *swap_to) {
    FILE *f = fopen(path, "rb");
    if (!report(f != NULL, "%s is there", path)) return NULL;
    char *s = ssd_arena_alloc(a, 1 << 16);
    s[fread(s, 1, (1 << 16) - 1, f)] = 0;
    fclose(f);
    Text text = {0}, why = {0};
    for (const char *at = s; *at;) { // every `swap_from` another
        size_t n = swap_from ? strlen(swap_from) : 0;
        if (n && !strncmp(at, swap_from, n))
            ssd_text_printf(&text, "%s", swap_to), at += n;
        else
            ssd_text_put(&text, at++, 1);
    }
    Diag d = {.arena = a, .file = path, .source = text.s, .source_len = text.n};
    Prog *p = ssd_tile_parse(a, text.s, text.n, path, &d);
    if (!p) ssd_diag_print(&d, &why);
    bool ok = report(p && ssd_tile_verify(p, &why), "%s: %s", path, why.s ? why.s : "verifies");
    ssd_text_free(&text);
    ssd_text_free(&why);
    return ok ? p : NULL;
}

static bool open_case(Case *c, const char *path, const char *arch, const char *from,
                      const char *to) {
    Text why = {0};
    *c = (Case){.arch = arch};
    c->p = read_program(&c->arena, path, from, to);
    if (!c->p || !report(ssd_target_find(arch)->machine(&c->machine, &why), "machine %s", arch))
        return false;
    ssd_cuda_source(c->p, &c->machine, c->shared, &c->source);
    return true;
}
static void close_case(Case *c) {
    ssd_text_free(&c->source);
    ssd_arena_free(&c->arena);
}

// --- What the text says -------------------------------------------------------------------------
static void has(const Case *c, const char *what, bool wanted) {
    report((strstr(c->source.s, what) != NULL) == wanted, "%s: the text has %s`%s`", c->arch,
           wanted ? "" : "no ", what);
}

static void texts(void) {
    static const char *const both[] = {
        "// role scores warps 4 regs 88",
        "Ring<3, 51200> in(slots, barriers);",
        "in.await();",
        "C_ = in.at(0), B_ = in.at(16384)",
        "#pragma unroll 1",
        "store_fragment<64, true>(yt, ",
        "fetch_tile<64, 128, 128, 1, 32, ",
        "part(C.spot(b, c*64, u*2/2, 0), C.stride[1], C.stride[3], ",
        "lane_scan<2, REV | EXCL>(V3, V1);",
        "load_pairs<32, 1>(H0, h0.place(b, u*2 + h, row, col), ",
        "const float2 fi = pair(f_ + h*64, col + e / 2 * 8);",
        "__launch_bounds__(512, 1)",
        "ring_init<3>(barriers, 3, 12);",
        "dts.publish("};
    static const char *const hopper[] = {
        "set_registers_more<192>();",
        "set_registers_less<40>();",
        "bulk_load(x_ + r*8192, &args.map[2], in.full(), 0, u*2 + r, c*64, b);",
        "bulk_store(&args.map[3], yt, 0, u*2 + h, c4*64, b);",
        "TensorMap map[4];",
        "u64 maps_made;",
        "wgmma_n64_ss(S0, ",
        "wgmma_n128_rs_tb(H0, X1 + 4*e, ",
        "wgmma_wait<1>();",
        "role_sync(1 + h, 128);"};
    static const char *const older[] = {"mma_step<64, 64, true>(Y0, H1 + 4*e, C_, e, bf16());",
                                        "clear<32>(Y0);",
                                        "mma_step<128, 64, false>(H0, X1 + 4*e, B_, e, bf16());"};
    for (int k = 0; k < 2; k++) {
        Case c;
        if (open_case(&c, FORWARD, k ? "sm_80" : "sm_90a", NULL, NULL)) {
            for (size_t i = 0; i < COUNTOF(both); i++) has(&c, both[i], true);
            for (size_t i = 0; i < COUNTOF(hopper); i++) has(&c, hopper[i], !k);
            for (size_t i = 0; i < COUNTOF(older); i++) has(&c, older[i], k);
            has(&c, "mma_warp", false); // nothing of what kernels of T1 call
            has(&c, "THREADS", false);
            has(&c, "(null)", false);
        }
        close_case(&c);
    }
}

static void artifact(void) {
    static const ArtMap want[] = {{4, 128, 4, {64, 1, 64, 1}},
                                  {3, 128, 4, {64, 1, 64, 1}},
                                  {0, 128, 4, {64, 1, 64, 1}},
                                  {7, 128, 4, {64, 1, 64, 1}}};
    Case c;
    if (open_case(&c, FORWARD, "sm_90a", NULL, NULL)) {
        Artifact art;
        const TargetCode code = {.scratch = c.shared};
        ssd_artifact_from_prog(&c.arena, c.p, "forward", c.machine.target, &code, &art);
        const ArtKernel *k = &art.plans[0].kernels[0];
        report(k->threads == 512 && k->scratch == ssd_timed_shared_bytes(c.p, &c.p->kernels.v[0]),
               "%d threads, %lld bytes", k->threads, (long long)k->scratch);
        report(k->n_maps == COUNTOF(want), "%d tensor maps",
               k->n_maps); // dt's rows begin at 8 bytes: no map
        for (int i = 0; i < k->n_maps && i < (int)COUNTOF(want); i++)
            report(!memcmp(&k->maps[i], &want[i], sizeof want[i]),
                   "map %d: takes[%d], swizzle %d, box %d %d %d", i, k->maps[i].take,
                   k->maps[i].swizzle, k->maps[i].box[0], k->maps[i].box[1], k->maps[i].box[2]);
        Text text = {0}, why = {0};
        Artifact back;
        ssd_artifact_print(&art, &text);
        report(ssd_artifact_parse(&c.arena, text.s, text.n, &back, &why),
               "the artifact's text is read back: %s", why.s ? why.s : "");
        ssd_text_free(&text), ssd_text_free(&why);
    }
    close_case(&c);
}

static void refusal(void) {
    Case c;
    if (open_case(&c, FORWARD, "sm_86", NULL, NULL)) {
        Text why = {0};
        TargetCode code;
        report(!ssd_cuda_emit(&c.arena, c.p, &c.machine, &code, &why) && strstr(why.s, "SCRATCH"),
               "227632 bytes on sm_86: %s", why.s ? why.s : "accepted");
        ssd_text_free(&why);
    }
    close_case(&c);
}

// --- What the compiler says ---------------------------------------------------------------------
static int instructions(const NvrtcResult *r, GateOpcode op) {
    return ssd_gate_count(r->cubin, NULL, op);
}

static void compile(const char *path, const char *arch, const char *from, const char *to,
                    int products) {
    Case c;
    Text why = {0};
    NvrtcResult r;
    bool hopper = !strcmp(arch, "sm_90a");
    if (open_case(&c, path, arch, from, to) &&
        report(ssd_nvrtc_compile(&c.arena, c.source.s, c.p->name, arch, &r, &why), "%s %s %s: %s",
               c.p->name, arch, to ? to : "", why.s ? why.s : "compiles")) {
        int wgmma = instructions(&r, GATE_HGMMA) + instructions(&r, GATE_HGMMA_SHARED);
        int mma = instructions(&r, GATE_HMMA);
        int loads = instructions(&r, GATE_UTMALDG), stores = instructions(&r, GATE_UTMASTG);
        int local = instructions(&r, GATE_LDL) + instructions(&r, GATE_STL);
        if (hopper) {
            report(!ssd_gate_serialised(r.log), "%s: serialised products:\n%s", c.p->name, r.log);
            report(wgmma == products, "%s: %d wgmma of %d", c.p->name, wgmma, products);
            report(loads > 0 && stores > 0, "%s: %d bulk loads, %d bulk stores", c.p->name, loads,
                   stores);
            report(!local || to, "%s: %d accesses to local memory:\n%s", c.p->name, local, r.log);
        } else {
            report(mma > products && !loads, "%s %s: %d mma, %d bulk loads", c.p->name, arch, mma,
                   loads);
        }
    }
    ssd_text_free(&why);
    close_case(&c);
}

static void compiles(void) {
    for (int k = 0; k < ssd_cuda_arch_count; k++) {
        const char *arch = ssd_cuda_archs[k].name;
        Text why = {0};
        if (!ssd_nvrtc_knows(arch, &why)) {
            printf("skipped %s: %s\n", arch, why.s);
            ssd_text_free(&why);
            continue;
        }
        bool main_arch = !strcmp(arch, "sm_90a") || !strcmp(arch, "sm_80");
        if (main_arch || !strcmp(arch, "sm_100")) compile(FORWARD, arch, NULL, NULL, 8 + 8 + 4 + 4);
        compile(SHAPES, arch, NULL, NULL, 2 * 2 + 2); // it fits everywhere but on the smallest
        if (main_arch)
            compile(FORWARD, arch, "bf16", "f16", 8 + 8 + 4 + 4); // a few registers short
    }
}

// --- What the device computes -------------------------------------------------------------------
static double noise(u64 *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(*state >> 40) / (1 << 23) - 1;
}

typedef struct Tensors { // of one run, by parameter: on the host in double, and on the device
    int n;
    Array *host;
    ssd_arg arg[32];
    size_t bytes[32];
} Tensors;

static u16 narrow_f16(double v) {
    u16 sign = signbit(v) ? 0x8000 : 0;
    int e;
    if (isnan(v)) return 0x7e00;
    frexp(v, &e);
    if (e - 1 < -14) return sign | (u16)nearbyint(ldexp(fabs(v), 24)); // subnormal
    int mantissa = (int)nearbyint(ldexp(fabs(v), 11 - e));
    return (u16)(sign | (((e + 14) << 10) + mantissa - 1024));
}
static double widen_f16(u16 v) {
    int e = v >> 10 & 31, mantissa = v & 1023;
    double a = e == 31 ? (mantissa ? NAN : INFINITY)
               : e     ? ldexp(1024 + mantissa, e - 25)
                       : ldexp(mantissa, -24);
    return v >> 15 ? -a : a;
}
static u16 narrow(double v, u8 dtype) {
    union {
        float f;
        u32 u;
    } x = {.f = (float)v};
    if (dtype == SSD_F16) return narrow_f16(v);
    return isnan(v) ? 0x7fff : (u16)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}
static double widen(u16 v, u8 dtype) {
    union {
        u32 u;
        float f;
    } x = {.u = (u32)v << 16};
    return dtype == SSD_F16 ? widen_f16(v) : (double)x.f;
}

static void to_device_form(const Array *a, u8 dtype, void *to) {
    for (i64 i = 0; i < ssd_array_count(a); i++)
        if (dtype == SSD_F32)
            ((float *)to)[i] = (float)a->v[i];
        else
            ((u16 *)to)[i] = narrow(a->v[i], dtype);
}
static double element(const void *from, u8 dtype, i64 i) {
    return dtype == SSD_F32 ? (double)((const float *)from)[i]
                            : widen(((const u16 *)from)[i], dtype);
}

// Inputs are random; what they are on the device they are in the interpreter.
static void make_tensors(Case *c, TileRun *run, const CudaApi *api, Tensors *t) {
    u64 state = 1;
    t->host = NEWN(&c->arena, Array, c->p->tensors.n);
    for (u32 i = 1; i < c->p->tensors.n; i++) {
        const TTensor *x = &c->p->tensors.v[i];
        Array *a = &t->host[i];
        CuPtr at = 0;
        a->rank = x->rank;
        for (int d = 0; d < x->rank; d++) a->dims[d] = ssd_ex_eval_sym(c->p, x->dim[d], run->sym);
        i64 count_ = ssd_array_count(a);
        a->v = NEWN(&c->arena, double, count_ + 1);
        void *raw = ssd_arena_alloc(&c->arena, (size_t)count_ * 4 + 16);
        for (i64 e = 0; e < count_; e++) {
            double v = x->role == T_OUT ? NAN : 0.5 * noise(&state);
            if (!strcmp(x->name, "dt")) v = fabs(v) * 0.2;
            if (!strcmp(x->name, "A")) v = -2 - 2 * v;
            a->v[e] = v;
        }
        to_device_form(a, x->dtype, raw);
        for (i64 e = 0; e < count_; e++) a->v[e] = element(raw, x->dtype, e);
        t->bytes[t->n] = (size_t)count_ * ssd_dtype_size((ssd_dtype)x->dtype);
        report(!api->MemAlloc(&at, t->bytes[t->n] + 16) &&
                   !api->MemcpyHtoD(at, raw, t->bytes[t->n]),
               "%s in device memory", x->name);
        t->arg[t->n++] =
            (ssd_arg){x->name, ssd_tensor_dense((void *)(uintptr_t)at, (ssd_dtype)x->dtype, x->rank,
                                                a->dims)};
    }
    run->tensor = t->host;
}

static void compare(Case *c, const CudaApi *api, const Tensors *t, i64 len) {
    for (u32 i = 1; i < c->p->tensors.n; i++) {
        const TTensor *x = &c->p->tensors.v[i];
        const ssd_arg *arg = &t->arg[i - 1];
        if (x->role != T_OUT) continue;
        void *raw = ssd_arena_alloc(&c->arena, t->bytes[i - 1] + 16);
        i64 n = ssd_array_count(&t->host[i]), left = 0;
        double top = 1e-30, worst = 0;
        report(!api->MemcpyDtoH(raw, (CuPtr)(uintptr_t)arg->tensor.data, t->bytes[i - 1]),
               "%s is read back", x->name);
        for (i64 e = 0; e < n; e++) {
            double want = t->host[i].v[e], got = element(raw, x->dtype, e);
            if (isnan(want) || isnan(got)) {
                left += isnan(want) != isnan(got); // not written: in both
                continue;
            }
            top = fmax(top, fabs(want));
            worst = fmax(worst, fabs(want - got));
        }
        report(!left && worst <= 1e-2 * top,
               "%s %s t=%lld: %s is off by %.2g of %.2g, %lld elements written by one only",
               c->p->name, c->arch, (long long)len, x->name, worst, top, (long long)left);
    }
}

static void run_on_device(const char *path, const char *arch, const CudaDriver *d, i64 len) {
    Case c;
    Text why = {0};
    Artifact art;
    CudaProgram *program = NULL;
    Launch l;
    Tensors t = {0};
    TargetCode code;
    if (!open_case(&c, path, arch, NULL, NULL) ||
        !ssd_cuda_emit(&c.arena, c.p, &c.machine, &code, &why)) {
        printf("skipped %s on %s: %s\n", path, arch, why.s ? why.s : "");
        ssd_text_free(&why);
        close_case(&c);
        return;
    }
    TileRun run = {.sym = {2, len}};
    ssd_artifact_from_prog(&c.arena, c.p, "forward", c.machine.target, &code, &art);
    make_tensors(&c, &run, &d->api, &t);
    ssd_status s = ssd_cuda_load(&art, &program);
    if (!s) s = ssd_launch_check(&art, t.arg, t.n, &l);
    if (!s) ssd_launch_bind(&l, NULL);
    if (!s) s = ssd_cuda_run(program, NULL, &l);
    if (report(!s, "%s %s: %s", c.p->name, arch, s ? ssd_last_error() : "runs") &&
        report(ssd_tile_interp(c.p, &c.arena, &run, &why), "%s in the interpreter: %s", c.p->name,
               why.s ? why.s : ""))
        compare(&c, &d->api, &t, len);
    for (int i = 0; i < t.n; i++) d->api.MemFree((CuPtr)(uintptr_t)t.arg[i].tensor.data);
    ssd_cuda_free(program);
    ssd_text_free(&why);
    close_case(&c);
}

static void runs(void) {
    const CudaDriver *d = ssd_cuda_driver();
    CudaScope scope;
    static const i64 lengths[] = {1, 63, 65, 200};
    if (d->status || ssd_cuda_enter(NULL, &scope)) {
        printf("skipped the device's part: %s\n", d->status ? d->why : ssd_last_error());
        return;
    }
    for (int k = 0; k < ssd_cuda_arch_count; k++) {
        bool can = false;
        ssd_cuda_target(ssd_cuda_archs[k].name, &can);
        for (size_t i = 0; can && i < COUNTOF(lengths); i++) {
            run_on_device(FORWARD, ssd_cuda_archs[k].name, d, lengths[i]);
            run_on_device(SHAPES, ssd_cuda_archs[k].name, d, lengths[i]);
        }
    }
    ssd_cuda_leave(&scope);
}

int main(int argc, char **argv) {
    Text why = {0};
    verbose = argc > 1 && !strcmp(argv[1], "-v");
    texts();
    artifact();
    refusal();
    if (ssd_nvrtc_knows("sm_80", &why)) {
        compiles();
        runs();
    } else {
        printf("skipped the compiler's and the device's part: %s\n", why.s);
    }
    ssd_text_free(&why);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
