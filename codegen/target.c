// SPDX-License-Identifier: Apache-2.0
// The targets there are, and what an artifact says of a program besides its code.
#include "target.h"
#include "../runtime/device_cuda.h"
#include "../runtime/internal.h"
#include "cuda.h"
#include "llvm_load.h"

#include <stdlib.h>

// --- CPUs ---------------------------------------------------------------------------------------
static const Machine cpus[] = {
#define TARGET(id, name, bits, regs, atom, fused, feats, doc)                                      \
    {.target = "cpu-" name,                                                                        \
     .arch = "x86_64",                                                                             \
     .features = feats,                                                                            \
     .vector_bits = bits,                                                                          \
     .vector_regs = regs,                                                                          \
     .f32_lanes = (bits) / 32,                                                                     \
     .fma = fused,                                                                                 \
     .f16c = fused,                                                                                \
     .mma = MMA_##atom},
#include "targets.def"
};

static const struct {
    int rows, vectors;
} atoms[] = {
#define MMA(id, rows, vectors, doc) {rows, vectors},
#include "../ir/mma.def"
};

// The machine of a canonical target name. Cache sizes are this host's: code for another one is as
// right, and we know no better.
static bool machine(const char *name, Machine *out, Text *why) {
    const CpuInfo *host = ssd_cpu_info();
    for (size_t i = 0; i < COUNTOF(cpus); i++) {
        if (!name || strcmp(cpus[i].target, name)) continue;
        *out = cpus[i];
        out->mma_rows = atoms[out->mma].rows;
        out->mma_vecs = atoms[out->mma].vectors;
        out->l1 = host->l1d ? host->l1d : 32 << 10;
        out->l2 = host->l2 ? host->l2 : 512 << 10;
        return true;
    }
    ssd_text_printf(why, "there is no code generator for %s", name ? name : "this host's CPU");
    return false;
}

static bool machine_host(Machine *out, Text *why) {
    bool runs;
    return machine(ssd_cpu_target("cpu", &runs), out, why);
}
#define TARGET(id, name, bits, regs, atom, fused, feats, doc)                                      \
    static bool machine_##id(Machine *out, Text *why) { return machine("cpu-" name, out, why); }
#include "targets.def"

// --- GPUs ---------------------------------------------------------------------------------------
// Some shared memory is the prelude's. A layout's price is counted in accesses of a warp.
enum { WARP = 32, STATIC_SHARED = 1024 };

static bool gpu_machine(const char *name, Machine *out, Text *why) {
    for (int i = 0; i < ssd_cuda_arch_count; i++) {
        const CudaArch *a = &ssd_cuda_archs[i];
        if (!name || (strcmp(a->name, name) && strcmp(a->target, name))) continue;
        *out = (Machine){.target = a->target,
                         .arch = a->name,
                         .features = "",
                         .vector_bits = 128,
                         .f32_lanes = WARP,
                         .fma = true,
                         .l1 = a->shared_block - STATIC_SHARED,
                         .l2 = 1 << 20,
                         .gpu = true,
                         .wgmma = a->exact && a->major == 9,
                         .early = a->major >= 9,
                         .blocks = a->sms};
        return true;
    }
    ssd_text_printf(why, "there is no CUDA architecture '%s'", name ? name : "");
    return false;
}

// The device's own; without one SSD_CUDA_ARCH says what to compile for.
static bool machine_cuda(Machine *out, Text *why) {
    const char *chosen = getenv("SSD_CUDA_ARCH");
    bool runs;
    if (chosen && *chosen) return gpu_machine(chosen, out, why);
    const char *name = ssd_cuda_target("cuda", &runs);
    if (name) return gpu_machine(name, out, why);
    if (!ssd_cuda_device(why)) return false;
    ssd_text_printf(why, "the device's architecture is not supported");
    return false;
}
#define ARCH(name, major, minor, shared, exact, tensor, fma, sms, doc)                             \
    static bool machine_##major##minor##_##exact(Machine *out, Text *why) {                        \
        return gpu_machine(name, out, why);                                                        \
    }
#include "../runtime/cuda_archs.def"
#undef ARCH

const Target ssd_targets[] = {
    {"cpu", "the best of these that this host runs", machine_host, ssd_llvm_load_emit,
     ssd_llvm_load_text},
#define TARGET(id, name, bits, regs, atom, fused, feats, doc)                                      \
    {name, doc, machine_##id, ssd_llvm_load_emit, ssd_llvm_load_text},
#include "targets.def"
    {"cuda", "the device present, with the best code it runs", machine_cuda, ssd_cuda_emit,
     ssd_cuda_text},
#define ARCH(name, major, minor, shared, exact, tensor, fma, sms, doc)                             \
    {name, doc, machine_##major##minor##_##exact, ssd_cuda_emit, ssd_cuda_text},
#include "../runtime/cuda_archs.def"
#undef ARCH
};
const int ssd_target_count = COUNTOF(ssd_targets);

const Target *ssd_target_find(const char *name) {
    const char *bare = strncmp(name, "cpu-", 4) ? name : name + 4;
    if (ssd_target_is_cuda(name)) bare = name + strlen("cuda-");
    for (int i = 0; i < ssd_target_count; i++)
        if (!strcmp(ssd_targets[i].name, bare)) return &ssd_targets[i];
    return NULL;
}

// --- Artifacts ----------------------------------------------------------------------------------
static void formula(const Prog *p, Ex e, Text *out);

static void call(const Prog *p, const char *name, const Expr *x, Text *out) {
    ssd_text_printf(out, "%s(", name);
    formula(p, x->arg[0], out);
    ssd_text_printf(out, ",");
    formula(p, x->arg[1], out);
    ssd_text_printf(out, ")");
}

static void infix(const Prog *p, const char *sign, const Expr *x, Text *out) {
    ssd_text_printf(out, "(");
    formula(p, x->arg[0], out);
    ssd_text_printf(out, "%s", sign);
    formula(p, x->arg[1], out);
    ssd_text_printf(out, ")");
}

// An expression over symbols and numbers in the words of formula.c.
static void formula(const Prog *p, Ex e, Text *out) {
    const Expr *x = &p->exs.v[e];
    if (x->kind == EX_NUM) {
        ssd_text_printf(out, "%lld", (long long)x->num);
        return;
    }
    if (x->kind == EX_SYM) {
        ssd_text_printf(out, "%s", p->syms.v[x->sym]);
        return;
    }
    if (x->kind != EX_FN) SSD_BUG("a size that depends on more than symbols");
    switch (x->fn) {
    case FN_ADD: infix(p, "+", x, out); break;
    case FN_SUB: infix(p, "-", x, out); break;
    case FN_MUL: infix(p, "*", x, out); break;
    case FN_FDIV: infix(p, "/", x, out); break;
    case FN_CDIV: call(p, "cdiv", x, out); break;
    case FN_MIN: call(p, "min", x, out); break;
    case FN_MAX: call(p, "max", x, out); break;
    default: SSD_BUG("no formula for %s", ssd_fns[x->fn].name);
    }
}

static const char *take(Arena *a, Text *t) {
    const char *s = ssd_arena_dup(a, t->s, t->n);
    ssd_text_free(t);
    return s;
}

static const char *formula_text(Arena *a, const Prog *p, Ex e) {
    Text t = {0};
    formula(p, e, &t);
    return take(a, &t);
}

static ArtTensor tensor(Arena *a, const Prog *p, const TTensor *t) {
    ArtTensor out = {.name = t->name,
                     .role = t->role == T_IN ? SSD_INPUT : SSD_OUTPUT,
                     .dtype = (ssd_dtype)t->dtype,
                     .rank = t->rank,
                     .alias = t->alias};
    for (int d = 0; d < t->rank; d++) out.dim[d] = formula_text(a, p, t->dim[d]);
    return out;
}

// A symbol is read off the first parameter that has it as a dimension, alone or plus a number.
static bool defines(const Prog *p, Ex dim, u32 sym, int *minus) {
    const Expr *x = &p->exs.v[dim];
    *minus = 0;
    if (x->kind == EX_SYM) return x->sym == sym;
    if (x->kind != EX_FN || x->fn != FN_ADD) return false;
    const Expr *l = &p->exs.v[x->arg[0]], *r = &p->exs.v[x->arg[1]];
    *minus = (int)r->num;
    return l->kind == EX_SYM && l->sym == sym && r->kind == EX_NUM;
}

static ArtSym symbol(const Prog *p, u32 sym) {
    ArtSym s = {.name = p->syms.v[sym]};
    for (int plus = 0; plus < 2; plus++)
        for (u32 i = 1; i < p->tensors.n; i++) {
            const TTensor *t = &p->tensors.v[i];
            for (int d = 0; t->role != T_WS && d < t->rank; d++) {
                if (!defines(p, t->dim[d], sym, &s.minus) || (s.minus != 0) != plus) continue;
                s.param = t->name;
                s.dim = d;
                return s;
            }
        }
    SSD_BUG("no parameter tells #%s", s.name);
}

static ArtKernel kernel(Arena *a, const Prog *p, const TKernel *k, i64 scratch,
                        const Machine *gpu) {
    Text blocks = {0};
    for (int i = 0; i < k->ngrid; i++) {
        if (i) ssd_text_printf(&blocks, "*");
        formula(p, k->grid[i].size, &blocks);
    }
    if (!k->ngrid) ssd_text_printf(&blocks, "1");
    ArtKernel out = {.symbol = k->name, .blocks = take(a, &blocks), .scratch = scratch};
    if (gpu) {
        int *takes;
        out.threads = ssd_cuda_threads(p, k);
        out.n_takes = ssd_cuda_takes(a, p, k, &takes);
        out.takes = takes;
        out.n_maps = ssd_cuda_maps(a, p, gpu, k, &out.maps);
        out.early = ssd_cuda_early(p, gpu, k);
    }
    return out;
}

void ssd_artifact_from_prog(Arena *a, const Prog *p, const char *mode, const char *target,
                            const TargetCode *code, Artifact *out) {
    *out = (Artifact){.program = p->name,
                      .mode = mode,
                      .target = target,
                      .schedule = p->schedule ? p->schedule : "",
                      .params = NEWN(a, ArtTensor, p->tensors.n),
                      .n_modules = code->n_modules,
                      .module_bytes = code->module_bytes,
                      .code = code->bytes,
                      .code_size = code->size};
    ArtPlan always = {.when = "1", .ws = NEWN(a, ArtTensor, p->tensors.n)}, dense;
    for (u32 i = 1; i < p->tensors.n; i++) {
        const TTensor *t = &p->tensors.v[i];
        if (t->role == T_WS)
            always.ws[always.n_ws++] = tensor(a, p, t);
        else
            out->params[out->n_params++] = tensor(a, p, t);
    }
    out->syms = NEWN(a, ArtSym, p->syms.n + 1);
    for (u32 i = 0; i < p->syms.n; i++) out->syms[out->n_syms++] = symbol(p, i);
    Machine machine_of;
    Text why = {0};
    const Machine *gpu = NULL;
    if (ssd_target_is_cuda(target)) {
        if (!gpu_machine(target, &machine_of, &why)) SSD_BUG("%s", why.s);
        gpu = &machine_of;
    }
    always.kernels = NEWN(a, ArtKernel, p->kernels.n);
    for (u32 i = 0; i < p->kernels.n; i++) {
        ArtKernel *k = &always.kernels[always.n_kernels++];
        *k = kernel(a, p, &p->kernels.v[i], code->scratch[i], gpu);
        k->module = code->n_modules ? (int)i : 0;
    }
    dense = always;
    dense.when = "dense";
    dense.kernels = NEWN(a, ArtKernel, p->kernels.n);
    for (u32 i = 0; i < p->kernels.n; i++) {
        dense.kernels[i] = always.kernels[i];
        dense.kernels[i].symbol = ssd_cuda_dense_name(a, &p->kernels.v[i]);
    }
    out->plans = NEWN(a, ArtPlan, 2);
    if (gpu && ssd_cuda_dense(p)) out->plans[out->n_plans++] = dense;
    out->plans[out->n_plans++] = always;
}
