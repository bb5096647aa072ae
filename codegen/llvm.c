// SPDX-License-Identifier: Apache-2.0
// T1 -> LLVM module -> ELF object: kernels, control flow, and the way through LLVM's code
// generator.
//
// One function a kernel, `void name(const CpuArgs *, i64 block, void *scratch)`. A tile op becomes
// code in place, loops become loops with phis for their scalar carries; tiles that loops carry stay
// in their buffers. No optimization passes run: what is emitted is what the code generator sees.
#include "llvm.h"
#include "llvm_emit.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Support.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <pthread.h>
#include <stdio.h>

enum { EACH_UNROLL = 512 };

static const TVal *val(const Emit *e, Val v) { return &e->p->vals.v[v]; }

// --- Control flow -------------------------------------------------------------------------------
static void block(Emit *e, const TBlock *b);

// Carries of rank 0 as they start; tiles are in their buffers already.
static int scalar_carries(Emit *e, const TOp *o, Val *out) {
    int n = 0;
    for (int i = 0; i < o->ncarry; i++)
        if (!val(e, o->carry[i])->naxes) out[n++] = (Val)i;
    return n;
}

static V carried(Emit *e, const TOp *loop, int i, Ex from) {
    V v = ssd_emit_scalar(e, from);
    u8 dt = val(e, loop->carry[i])->dtype;
    bool real = dt != SSD_IDX && dt != SSD_I32 && dt != SSD_BOOL;
    if (real && LLVMGetTypeKind(LLVMTypeOf(v)) != LLVMFloatTypeKind)
        v = LLVMBuildSIToFP(e->b, v, e->f32, "");
    return v;
}

static void place_carried_tiles(Emit *e, const TOp *o) {
    for (int i = 0; i < o->ncarry; i++) {
        const TVal *t = val(e, o->carry[i]);
        if (t->naxes)
            e->val[o->carry[i]] = ssd_emit_at_const(e, e->val[t->lay.buf], 4 * t->lay.offset);
    }
}

static void next_scalars(Emit *e, const TOp *o, const Val *which, int n, V *out) {
    const TOp *y = o->body.last;
    for (int i = 0; i < n; i++) out[i] = carried(e, o, (int)which[i], y->init[which[i]]);
}

static void unrolled_loop(Emit *e, const TOp *o, i64 lo, i64 hi) {
    Val which[256];
    V next[256];
    int n = scalar_carries(e, o, which);
    for (int i = 0; i < n; i++) next[i] = carried(e, o, (int)which[i], o->init[which[i]]);
    for (int i = 0; i < n; i++) e->val[o->carry[which[i]]] = next[i];
    for (i64 k = lo; k < hi; k++) {
        e->val[o->var] = ssd_emit_i64(e, o->flags & TF_REV ? hi - 1 - (k - lo) : k);
        block(e, &o->body);
        next_scalars(e, o, which, n, next);
        for (int i = 0; i < n; i++) e->val[o->carry[which[i]]] = next[i];
    }
}

static void rolled_loop(Emit *e, const TOp *o, V lo, V hi) {
    Val which[256];
    V next[256];
    int n = scalar_carries(e, o, which);
    for (int i = 0; i < n; i++) next[i] = carried(e, o, (int)which[i], o->init[which[i]]);
    LLVMBasicBlockRef pre = LLVMGetInsertBlock(e->b), head = ssd_emit_block(e, "for"),
                      body = ssd_emit_block(e, "body"), exit = ssd_emit_block(e, "endfor");
    LLVMBuildBr(e->b, head);
    LLVMPositionBuilderAtEnd(e->b, head);
    V iv = ssd_emit_phi(e, lo, pre);
    for (int i = 0; i < n; i++) e->val[o->carry[which[i]]] = ssd_emit_phi(e, next[i], pre);
    V phi[256];
    for (int i = 0; i < n; i++) phi[i] = e->val[o->carry[which[i]]];
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, iv, hi, ""), body, exit);
    LLVMPositionBuilderAtEnd(e->b, body);
    e->val[o->var] = iv;
    if (o->flags & TF_REV) {
        V last = LLVMBuildAdd(e->b, lo, LLVMBuildSub(e->b, hi, ssd_emit_i64(e, 1), ""), "");
        e->val[o->var] = LLVMBuildSub(e->b, last, iv, "");
    }
    block(e, &o->body);
    next_scalars(e, o, which, n, next);
    V step = LLVMBuildAdd(e->b, iv, ssd_emit_i64(e, 1), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b);
    LLVMBuildBr(e->b, head);
    ssd_emit_phi_add(iv, step, latch);
    for (int i = 0; i < n; i++) {
        ssd_emit_phi_add(phi[i], next[i], latch);
        e->val[o->carry[which[i]]] = phi[i];
    }
    LLVMPositionBuilderAtEnd(e->b, exit);
}

// Ops that unrolling an `each` makes; an inner one is taken to run as often as the outer.
static i64 weight(const TOp *o, i64 turns) {
    i64 n = 0;
    for (const TOp *w = o->body.first; w; w = w->next)
        n += w->op == TOP_EACH ? weight(w, turns) : 1;
    return n * turns;
}

static void loop(Emit *e, const TOp *o) {
    V lo = ssd_emit_scalar(e, o->lo), hi = ssd_emit_scalar(e, o->hi);
    i64 from, to;
    place_carried_tiles(e, o);
    bool constant = ssd_emit_is_int(lo, &from) && ssd_emit_is_int(hi, &to);
    if (o->op == TOP_EACH && constant && weight(o, to - from) <= EACH_UNROLL)
        unrolled_loop(e, o, from, to);
    else
        rolled_loop(e, o, lo, hi);
}

static void branch(Emit *e, const TOp *o) {
    LLVMBasicBlockRef then = ssd_emit_block(e, "then"), end = ssd_emit_block(e, "endif");
    LLVMBuildCondBr(e->b, ssd_emit_scalar(e, o->e), then, end);
    LLVMPositionBuilderAtEnd(e->b, then);
    block(e, &o->body);
    LLVMBuildBr(e->b, end);
    LLVMPositionBuilderAtEnd(e->b, end);
}

// --- Ops ----------------------------------------------------------------------------------------
static void buffer(Emit *e, const TOp *o) {
    e->val[o->out] = ssd_emit_at_const(e, e->scratch, e->scratch_bytes);
    e->scratch_bytes += (o->bytes + 63) / 64 * 64;
}

static void op(Emit *e, TOp *o) {
    switch ((TOpCode)o->op) {
    case TOP_MMA: ssd_emit_mma(e, o, o); break;
    case TOP_SCAN: ssd_emit_scan(e, o); break;
    case TOP_AT:
    case TOP_RENAME:
    case TOP_SPLIT:
    case TOP_SLICE: ssd_emit_view(e, o); break;
    case TOP_JOIN: ssd_emit_join(e, o); break;
    case TOP_CAT: ssd_emit_cat(e, o); break;
    case TOP_PUT: ssd_emit_put(e, o); break;
    case TOP_SWAP: ssd_emit_swap(e, o); break;
    case TOP_INV: ssd_emit_inv(e, o); break;
    case TOP_FOR:
    case TOP_EACH: loop(e, o); break;
    case TOP_IF: branch(e, o); break;
    case TOP_BUF: buffer(e, o); break;
    case TOP_PREFETCH:
        if (e->nprefetch < MAX_PREFETCH) e->prefetch[e->nprefetch++] = o;
        break;
    case TOP_YIELD: break;
    case TOP_LOAD:
    case TOP_STORE:
    case TOP_MAP:
    case TOP_REDUCE:
    case TOP_FILL:
    case TOP_PICK:
    case TOP_COPY: ssd_nest_emit(e, o, o); break;
    case TOP_RING:
    case TOP_SLOT:
    case TOP_REGS:
    case TOP_ROLE:
    case TOP_ACQUIRE:
    case TOP_PUBLISH:
    case TOP_AWAIT:
    case TOP_RELEASE:
    case TOP_FETCH:
    case TOP_SEND:
    case TOP_INTO:
    case TOP_WAIT: SSD_BUG("roles and rings are for GPUs");
    case TOP__COUNT: SSD_BUG("not an op");
    }
}

static bool is_view(const TOp *o) {
    return o->op == TOP_AT || o->op == TOP_RENAME || o->op == TOP_SPLIT || o->op == TOP_SLICE;
}

static void block(Emit *e, const TBlock *b) {
    for (TOp *o = b->first; o; o = o->next) {
        TOp *last = ssd_nest_op(e->p, o) ? ssd_nest_last(e->p, o) : o;
        for (TOp *w = o;; w = w->next) { // where results go
            const TVal *t = w->out ? val(e, w->out) : NULL;
            if (t && t->lay.space == SP_MEM && w->op != TOP_BUF && !is_view(w))
                e->val[w->out] = ssd_emit_at_const(e, e->val[t->lay.buf], 4 * t->lay.offset);
            if (w == last) break;
        }
        if (o == last)
            op(e, o);
        else if (last->op == TOP_MMA)
            ssd_emit_mma(e, o, last);
        else
            ssd_nest_emit(e, o, last);
        o = last;
    }
}

// --- Kernels ------------------------------------------------------------------------------------
// Grid variables from the block's number: the last one runs fastest.
static void grid(Emit *e, V number) {
    for (int i = e->k->ngrid - 1; i >= 0; i--) {
        const TGrid *g = &e->k->grid[i];
        V size = ssd_emit_scalar(e, g->size);
        e->val[g->var] = i ? LLVMBuildSRem(e->b, number, size, "") : number;
        if (i) number = LLVMBuildSDiv(e->b, number, size, "");
    }
}

static V arg_table(Emit *e, V args, size_t offset) {
    return ssd_emit_load(e, e->ptr, ssd_emit_at_const(e, args, (i64)offset), 8);
}

static i64 kernel(Emit *e, const TKernel *k) {
    LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->cx),
                                        (LLVMTypeRef[]){e->ptr, e->i64, e->ptr}, 3, false);
    e->k = k;
    e->fn = LLVMAddFunction(e->mod, k->name, type);
    e->scratch_bytes = 0;
    e->nprefetch = 0;
    memset(e->val, 0, e->p->vals.n * sizeof *e->val);
    LLVMPositionBuilderAtEnd(e->b, ssd_emit_block(e, "entry"));
    V args = LLVMGetParam(e->fn, 0);
    e->scratch = LLVMGetParam(e->fn, 2);
    e->tensors = arg_table(e, args, offsetof(CpuArgs, ptr));
    e->strides = arg_table(e, args, offsetof(CpuArgs, stride));
    e->dims = arg_table(e, args, offsetof(CpuArgs, dim));
    V syms = arg_table(e, args, offsetof(CpuArgs, sym));
    for (u32 i = 0; i < e->p->syms.n; i++)
        e->sym[i] = ssd_emit_load(e, e->i64, ssd_emit_at_const(e, syms, 8 * (i64)i), 8);
    // A row nobody reads stands first, so that its address does not depend on the buffers.
    i64 row = 64;
    for (u32 x = 1; x < e->p->axes.n; x++)
        row = MAX(row, (ssd_emit_size(e, (u8)x) * 4 + 127) / 64 * 64);
    e->sink = e->scratch;
    e->scratch_bytes = row;
    grid(e, LLVMGetParam(e->fn, 1));
    block(e, &k->body);
    LLVMBuildRetVoid(e->b);
    return e->scratch_bytes;
}

// A block of zeros as long as the longest axis: what is read where nothing is.
static void add_zeros(Emit *e) {
    i64 bytes = 64;
    for (u32 x = 1; x < e->p->axes.n; x++)
        bytes = MAX(bytes, (ssd_emit_size(e, (u8)x) * 4 + 127) / 64 * 64);
    LLVMTypeRef t = LLVMArrayType(e->i64, (unsigned)bytes / 8);
    e->zeros = LLVMAddGlobal(e->mod, t, "zeros");
    LLVMSetInitializer(e->zeros, LLVMConstNull(t));
    LLVMSetGlobalConstant(e->zeros, true);
    LLVMSetLinkage(e->zeros, LLVMPrivateLinkage);
    LLVMSetAlignment(e->zeros, 64);
}

// Entry i of the argument tables is parameter i; workspace follows the parameters.
static int *arg_places(Arena *a, const Prog *p) {
    int *arg = NEWN(a, int, p->tensors.n), n = 0;
    for (int ws = 0; ws < 2; ws++)
        for (u32 i = 1; i < p->tensors.n; i++)
            if ((p->tensors.v[i].role == T_WS) == ws) arg[i] = n++;
    return arg;
}

static void build(Arena *a, const Prog *p, const Machine *m, LLVMContextRef cx, LLVMModuleRef mod,
                  i64 *out_scratch) {
    Emit e = {.p = p, .m = m, .a = a, .cx = cx, .mod = mod, .lanes = m->f32_lanes};
    e.b = LLVMCreateBuilderInContext(cx);
    e.math = (LlvmMath){.ctx = cx, .mod = mod, .fma = m->fma, .avx512 = m->vector_bits == 512};
    ssd_emit_types(&e);
    e.val = NEWN(a, V, p->vals.n);
    e.ex_memo = NEWN(a, Memo, p->exs.n);
    e.ex_facts = NEWN(a, ExFacts, p->exs.n);
    e.val_addr = (Memo(*)[MAX_SLOTS])NEWN(a, Memo, p->vals.n * MAX_SLOTS);
    e.val_reg = NEWN(a, Memo, p->vals.n);
    e.arg = arg_places(a, p);
    add_zeros(&e);
    for (u32 i = 0; i < p->kernels.n; i++) {
        i64 bytes = kernel(&e, &p->kernels.v[i]);
        if (out_scratch) out_scratch[i] = bytes;
    }
    LLVMDisposeBuilder(e.b);
}

// --- LLVM ---------------------------------------------------------------------------------------
static pthread_once_t once = PTHREAD_ONCE_INIT;

// Loop strength reduction takes a quarter of all time and only makes the addresses worse that we
// hoisted. The option is as old as the pass; options stay as they are when LLVM is one we do not
// know.
static void initialize(void) {
    unsigned major = 0, minor, patch;
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMGetVersion(&major, &minor, &patch);
    if (major >= 16 && major <= 22)
        LLVMParseCommandLineOptions(2, (const char *[]){"ssdc", "-disable-lsr"}, NULL);
}

static LLVMTargetMachineRef target_machine(const Machine *m, Text *why) {
    pthread_once(&once, initialize);
    char triple[64], *message = NULL;
    snprintf(triple, sizeof triple, "%s-unknown-linux-gnu", m->arch);
    LLVMTargetRef target;
    if (LLVMGetTargetFromTriple(triple, &target, &message)) {
        ssd_text_printf(why, "LLVM does not know %s: %s", triple, message);
        LLVMDisposeMessage(message);
        return NULL;
    }
    LLVMTargetMachineRef tm =
        LLVMCreateTargetMachine(target, triple, "x86-64", m->features, LLVMCodeGenLevelDefault,
                                LLVMRelocPIC, LLVMCodeModelSmall);
    if (!tm) ssd_text_printf(why, "LLVM has no code generator for %s", triple);
    return tm;
}

static bool check_module(LLVMModuleRef mod, Text *why) {
#ifdef SSD_VERIFY_IR
    char *message = NULL;
    if (LLVMVerifyModule(mod, LLVMReturnStatusAction, &message)) {
        ssd_text_printf(why, "the module is not valid: %s", message);
        LLVMDisposeMessage(message);
        return false;
    }
    LLVMDisposeMessage(message);
#else
    (void)mod, (void)why;
#endif
    return true;
}

// Builds the module and lowers it; text and code are LLVM's buffer, the caller's to dispose of.
typedef enum { AS_OBJECT, AS_ASSEMBLY, AS_IR } Form;
static bool lower(const Prog *p, const Machine *m, Form form, i64 *out_scratch,
                  LLVMMemoryBufferRef *out, char **out_ir, Text *why) {
    Arena scratch = {0};
    bool ok = false;
    LLVMTargetMachineRef tm = target_machine(m, why);
    if (!tm) return false;
    LLVMContextRef cx = LLVMContextCreate();
    LLVMModuleRef mod = LLVMModuleCreateWithNameInContext(p->name, cx);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(tm);
    char *triple = LLVMGetTargetMachineTriple(tm), *message = NULL;
    LLVMSetModuleDataLayout(mod, layout);
    LLVMSetTarget(mod, triple);
    build(&scratch, p, m, cx, mod, out_scratch);
    if (!check_module(mod, why)) goto done;
    if (form == AS_IR) {
        *out_ir = LLVMPrintModuleToString(mod);
        ok = true;
        goto done;
    }
    LLVMCodeGenFileType type = form == AS_OBJECT ? LLVMObjectFile : LLVMAssemblyFile;
    ok = !LLVMTargetMachineEmitToMemoryBuffer(tm, mod, type, &message, out);
    if (!ok) {
        ssd_text_printf(why, "LLVM could not emit code: %s", message);
        LLVMDisposeMessage(message);
    }
done:
    LLVMDisposeMessage(triple);
    LLVMDisposeTargetData(layout);
    LLVMDisposeModule(mod);
    LLVMContextDispose(cx);
    LLVMDisposeTargetMachine(tm);
    ssd_arena_free(&scratch);
    return ok;
}

bool ssd_llvm_emit(Arena *a, const Prog *p, const Machine *m, const void **out_code,
                   size_t *out_size, i64 *out_scratch, Text *why) {
    LLVMMemoryBufferRef code;
    if (!lower(p, m, AS_OBJECT, out_scratch, &code, NULL, why)) return false;
    *out_size = LLVMGetBufferSize(code);
    char *copy = ssd_arena_alloc(a, *out_size);
    memcpy(copy, LLVMGetBufferStart(code), *out_size);
    *out_code = copy;
    LLVMDisposeMemoryBuffer(code);
    return true;
}

bool ssd_llvm_text(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why) {
    LLVMMemoryBufferRef code = NULL;
    char *ir = NULL;
    if (!lower(p, m, assembly ? AS_ASSEMBLY : AS_IR, NULL, &code, &ir, why)) return false;
    if (assembly) {
        ssd_text_put(out, LLVMGetBufferStart(code), LLVMGetBufferSize(code));
        LLVMDisposeMemoryBuffer(code);
    } else {
        ssd_text_printf(out, "%s", ir);
        LLVMDisposeMessage(ir);
    }
    return true;
}
