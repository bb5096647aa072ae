// SPDX-License-Identifier: Apache-2.0
// codegen/llvm_math.c against the meaning of ir/fns.def in double: every function, as a scalar and
// at 4, 8, 16 and 32 lanes, for x86-64-v2, v3 and v4 as far as this host runs them, with FTZ and
// DAZ (as kernels run) and without. Errors stay below the bounds of the table here; scalars and all
// vector widths give the same bits; objects have no undefined symbol, so no call into a library.
//   math_test        failures, then "N passed, N failed"
//   math_test -v     also every check, the largest errors and where, LLVM instructions a function
#include "../../codegen/llvm_math.h"
#include "../../runtime/internal.h"

#include <elf.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <llvm-c/Analysis.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>

static int passed, failed;
static bool verbose;
static void report(bool ok, const char *fmt, ...) SSD_PRINTF(2, 3);
static void report(bool ok, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (!ok || verbose) {
        printf(ok ? "ok    " : "FAIL  ");
        vprintf(fmt, ap);
        printf("\n");
    }
    va_end(ap);
    if (ok)
        passed++;
    else
        failed++;
}

// --- Bounds -------------------------------------------------------------------------------------

// A value is right when it is within rel of the meaning, relatively, or within abs of it. The
// smallest abs is that of flushed results. Finite |x| > most (sin, cos): anything in [-1, 1].
static const double TINY = 0x1p-125, HALF_ULP = 0x1.000001p-24;
typedef enum { ANY, WHOLE, POWER } Second; // what second operands are drawn from
typedef struct Bound {
    FnCode fn;
    double rel, abs, most;
    Second second;
} Bound;
// clang-format off
static const Bound BOUND[] = {
    {FN_ADD,        HALF_ULP, TINY,    INFINITY},
    {FN_SUB,        HALF_ULP, TINY,    INFINITY},
    {FN_MUL,        HALF_ULP, TINY,    INFINITY},
    {FN_DIV,        HALF_ULP, TINY,    INFINITY},
    {FN_FDIV,       0,        0,       INFINITY, WHOLE},
    {FN_CDIV,       0,        0,       INFINITY, WHOLE},
    {FN_MOD,        0,        0,       INFINITY, WHOLE},
    {FN_NEG,        0,        TINY,    INFINITY},
    {FN_MIN,        0,        TINY,    INFINITY},
    {FN_MAX,        0,        TINY,    INFINITY},
    {FN_CLAMP,      0,        TINY,    INFINITY},
    {FN_ABS,        0,        TINY,    INFINITY},
    {FN_POW,        4e-7,     TINY,    INFINITY, POWER},
    {FN_EXP,        1.5e-7,   TINY,    INFINITY},
    {FN_EXP2,       1.5e-7,   TINY,    INFINITY},
    {FN_EXPM1,      2e-7,     TINY,    INFINITY},
    {FN_LOG,        2e-7,     TINY,    INFINITY},
    {FN_LOG2,       2e-7,     TINY,    INFINITY},
    {FN_LOG1P,      2e-7,     TINY,    INFINITY},
    {FN_SQRT,       HALF_ULP, TINY,    INFINITY},
    {FN_RSQRT,      1.3e-7,   TINY,    INFINITY},
    {FN_SIGMOID,    2e-7,     TINY,    INFINITY},
    {FN_LOGSIGMOID, 2e-7,     TINY,    INFINITY},
    {FN_SOFTPLUS,   2e-7,     TINY,    INFINITY},
    {FN_TANH,       2e-7,     TINY,    INFINITY},
    {FN_SILU,       2e-7,     3e-37,   INFINITY},
    {FN_RELU,       0,        TINY,    INFINITY},
    {FN_ELU,        2e-7,     TINY,    INFINITY},
    {FN_GELU,       5e-7,     3e-9,    INFINITY},
    {FN_SIN,        0,        1e-6,    1e5},
    {FN_COS,        0,        1e-6,    1e5},
    {FN_LT,         0,        0,       INFINITY},
    {FN_LE,         0,        0,       INFINITY},
    {FN_GT,         0,        0,       INFINITY},
    {FN_GE,         0,        0,       INFINITY},
    {FN_EQ,         0,        0,       INFINITY},
    {FN_NE,         0,        0,       INFINITY},
    {FN_AND,        0,        0,       INFINITY},
    {FN_OR,         0,        0,       INFINITY},
    {FN_NOT,        0,        0,       INFINITY},
    {FN_WHERE,      0,        TINY,    INFINITY},
};
// clang-format on
_Static_assert(COUNTOF(BOUND) == FN__COUNT, "a bound for every function of fns.def");

// Where llvm_math.h departs from fns.def, or picks the limit where fns.def meets inf / inf.
static double meaning(FnCode fn, double x, double y, double z) {
    switch (fn) {
    case FN_RELU:
    case FN_CLAMP:
        if (isnan(x)) return NAN;
        break;
    case FN_POW:
        if (isnan(x) || isnan(y)) return NAN;
        if (x == -INFINITY && y != rint(y)) return NAN;
        if (fabs(x) == 1 && isinf(y)) return NAN;
        break;
    case FN_GELU:
        if (x == -INFINITY) return 0;
        break;
    default: break;
    }
    return ssd_fn_eval(fn, x, y, z);
}

// --- Inputs -------------------------------------------------------------------------------------
typedef struct Sweep {
    size_t n;
    float *x, *y, *z;
    double *want; // the meaning, with subnormal operands as zero
} Sweep;
enum { SWEEP_MOST = 700000, LANES_MOST = 32 };

static u64 seed = 88172645463325252u;
static u64 draw(void) { // xorshift64
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}
static double uniform(double lo, double hi) {
    return lo + (hi - lo) * ((double)(draw() >> 11) * 0x1p-53);
}
static float from_bits(u32 u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static u32 to_bits(float f) {
    u32 u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static float flush(float x) {
    return (to_bits(x) & 0x7f800000) ? x : from_bits(to_bits(x) & 0x80000000);
}

static const u32 SPECIAL[] = {
    0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x807fffff, // zeros, subnormals
    0x00800000, 0x80800000, 0x01000000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
    0x7fc00000, 0xffc00000, 0x7f800001, 0x7fffffff, 0xffffffff, 0xff800001, 0x7fc000ff, // NaN
    0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0xbf7fffff, 0xbf800001,             // +-1
    0x40000000, 0xc0000000, 0x40400000, 0x3f000000, 0xbf000000, 0x41200000, 0xc1200000,
    0x4b000000, 0xcb000001, 0x4b800000, 0x7e800000, 0x7effffff, 0x7f000000, 0x7f3504f3, // big
    0x3f3504f2, 0x3f3504f3, 0x3f3504f4, 0x3fb504f3, 0x3fb504f4, // sqrt 1/2, 2
};
static const double DENSE[][2] = {{-1, 1},       {-0.01, 0.01}, {-10, 10},       {-25, 25},
                                  {-130, 130},   {0.5, 2},      {-2000, 2000},   {1e5},
                                  {15, 22},      {85, 90},      {-150, -85},     {120, 129},
                                  {-1e-4, 1e-4}, {8.5, 10},     {-1.00001, -0.9}};

static void put(Sweep *s, float x, float y, float z) {
    if (s->n == SWEEP_MOST) SSD_BUG("sweep too small");
    s->x[s->n] = x, s->y[s->n] = y, s->z[s->n++] = z;
}

static float second(Second kind) {
    switch (kind) {
    case WHOLE: return (float)(draw() % 63 + 1) * (draw() & 1 ? 1.0f : -1.0f);
    case POWER: return draw() & 1 ? (float)uniform(-40, 40) : (float)((i64)(draw() % 41) - 20);
    case ANY: break;
    }
    return draw() & 3 ? (float)uniform(-3, 3) : from_bits((u32)draw());
}

static void sweep_fill(Sweep *s, const Bound *b) {
    int arity = ssd_fns[b->fn].arity;
    s->n = 0;
    if (b->second == WHOLE) {
        for (int i = 0; i < 100000; i++)
            put(s, (float)((i64)(draw() % 8193) - 4096), second(WHOLE), 0);
    } else {
        for (u64 u = 0; u < (u64)1 << 32; u += 16273) // all exponents and signs
            put(s, from_bits((u32)u), second(b->second), second(ANY));
        for (size_t i = 0; i < COUNTOF(DENSE); i++)
            for (int k = 0; k < 20000; k++)
                put(s, (float)uniform(DENSE[i][0], DENSE[i][1]), second(b->second), second(ANY));
        for (int k = -300; k <= 300; k++) // around integers and halves
            for (int ulp = -2; ulp <= 2; ulp++)
                put(s, from_bits(to_bits((float)k * 0.5f) + (u32)ulp), second(b->second),
                    second(ANY));
        for (size_t i = 0; i < COUNTOF(SPECIAL); i++)
            for (size_t j = 0; j < (arity > 1 ? COUNTOF(SPECIAL) : 1); j++)
                put(s, from_bits(SPECIAL[i]), from_bits(SPECIAL[j]),
                    from_bits(SPECIAL[draw() % COUNTOF(SPECIAL)]));
    }
    while (s->n % LANES_MOST) put(s, 1, 1, 1);
    for (size_t i = 0; i < s->n; i++) {
        s->want[i] = meaning(b->fn, flush(s->x[i]), flush(s->y[i]), flush(s->z[i]));
    }
}

// --- Compilation: one function a line of fns.def and width, over arrays -------------------------
typedef void Loop(const float *x, const float *y, const float *z, float *out, i64 n);
typedef void IntLoop(const i64 *x, const i64 *y, const i64 *z, i64 *out, i64 n);

typedef struct Level {
    const char *name, *cpu;
    bool fma, avx512;
} Level;
static const Level LEVEL[] = {
    {"x86-64-v2", "x86-64-v2", false, false},
    {"x86-64-v3", "x86-64-v3", true, false},
    {"x86-64-v4", "x86-64-v4", true, true},
};
static const unsigned WIDTH[] = {16, 1, 4, 8, 32}; // the first is what the others must equal

static bool level_runs(const Level *l) {
    const CpuInfo *c = ssd_cpu_info();
    bool v3 = c->avx2 && c->fma && c->f16c && c->bmi2;
    bool v4 = v3 && c->avx512f && c->avx512bw && c->avx512vl && c->avx512dq && c->avx512cd;
    return l->avx512 ? v4 : l->fma ? v3 : true;
}

// for (i = 0; i < n; i += lanes) out[i..] = f(x[i..], y[i..], z[i..]); with `constant`, y is that
// number instead. Returns the number of LLVM instructions of f.
static int build_loop(const LlvmMath *m, const char *name, FnCode fn, unsigned lanes, bool ints,
                      const double *constant) {
    LLVMContextRef c = m->ctx;
    LLVMBuilderRef b = LLVMCreateBuilderInContext(c);
    LLVMTypeRef ptr = LLVMPointerTypeInContext(c, 0), i64t = LLVMInt64TypeInContext(c);
    LLVMTypeRef elem = ints ? i64t : LLVMFloatTypeInContext(c);
    LLVMTypeRef vec = lanes > 1 ? LLVMVectorType(elem, lanes) : elem;
    LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(c),
                                        (LLVMTypeRef[]){ptr, ptr, ptr, ptr, i64t}, 5, false);
    LLVMValueRef f = LLVMAddFunction(m->mod, name, type), zero = LLVMConstInt(i64t, 0, false);
    LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(c, f, "entry");
    LLVMBasicBlockRef body = LLVMAppendBasicBlockInContext(c, f, "body");
    LLVMBasicBlockRef end = LLVMAppendBasicBlockInContext(c, f, "end");
    LLVMPositionBuilderAtEnd(b, entry);
    LLVMBuildBr(b, body);
    LLVMPositionBuilderAtEnd(b, body);
    LLVMValueRef i = LLVMBuildPhi(b, i64t, "i"), arg[3] = {0};
    for (unsigned k = 0; k < ssd_fns[fn].arity; k++) {
        LLVMValueRef at = LLVMBuildGEP2(b, elem, LLVMGetParam(f, k), &i, 1, "");
        arg[k] = LLVMBuildLoad2(b, vec, at, "");
        LLVMSetAlignment(arg[k], 4);
    }
    if (constant) {
        LLVMValueRef num =
            ints ? LLVMConstInt(elem, (u64)(i64)*constant, true) : LLVMConstReal(elem, *constant);
        LLVMValueRef v[LANES_MOST];
        for (unsigned k = 0; k < lanes; k++) v[k] = num;
        arg[1] = lanes > 1 ? LLVMConstVector(v, lanes) : num;
    }
    LLVMValueRef before = LLVMGetLastInstruction(body);
    LLVMValueRef r = ssd_llvm_fn(m, b, fn, arg[0], arg[1], arg[2]);
    int count = 0;
    for (LLVMValueRef k = LLVMGetNextInstruction(before); k; k = LLVMGetNextInstruction(k)) count++;
    if (ssd_fns[fn].kind == 'C')
        r = ints ? LLVMBuildZExt(b, r, vec, "") : LLVMBuildUIToFP(b, r, vec, "");
    LLVMSetAlignment(LLVMBuildStore(b, r, LLVMBuildGEP2(b, elem, LLVMGetParam(f, 3), &i, 1, "")),
                     4);
    LLVMValueRef next = LLVMBuildAdd(b, i, LLVMConstInt(i64t, lanes, false), "");
    LLVMAddIncoming(i, (LLVMValueRef[]){zero, next}, (LLVMBasicBlockRef[]){entry, body}, 2);
    LLVMBuildCondBr(b, LLVMBuildICmp(b, LLVMIntSLT, next, LLVMGetParam(f, 4), ""), body, end);
    LLVMPositionBuilderAtEnd(b, end);
    LLVMBuildRetVoid(b);
    LLVMDisposeBuilder(b);
    return count;
}

// Operands of other types, as the emitter passes them: k = (i32)x joins floats, where takes a
// single i1 over vectors.  out = where(x < y and not x == z, exp2(k) * x, where(n > 0, max(k, y),
// 0))
static void build_mixed(const LlvmMath *m, const char *name, unsigned lanes) {
    LLVMContextRef c = m->ctx;
    LLVMBuilderRef b = LLVMCreateBuilderInContext(c);
    LLVMTypeRef ptr = LLVMPointerTypeInContext(c, 0), i64t = LLVMInt64TypeInContext(c);
    LLVMTypeRef f32t = LLVMFloatTypeInContext(c), i32t = LLVMInt32TypeInContext(c);
    LLVMTypeRef vec = lanes > 1 ? LLVMVectorType(f32t, lanes) : f32t;
    LLVMTypeRef ivec = lanes > 1 ? LLVMVectorType(i32t, lanes) : i32t;
    LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(c),
                                        (LLVMTypeRef[]){ptr, ptr, ptr, ptr, i64t}, 5, false);
    LLVMValueRef f = LLVMAddFunction(m->mod, name, type), v[3];
    LLVMPositionBuilderAtEnd(b, LLVMAppendBasicBlockInContext(c, f, "entry"));
    for (unsigned k = 0; k < 3; k++) {
        v[k] = LLVMBuildLoad2(b, vec, LLVMGetParam(f, k), "");
        LLVMSetAlignment(v[k], 4);
    }
    LLVMValueRef k = LLVMBuildFPToSI(b, v[0], ivec, "");
    LLVMValueRef some = LLVMBuildICmp(b, LLVMIntSGT, LLVMGetParam(f, 4), LLVMConstNull(i64t), "");
#define FN2(f, x, y) ssd_llvm_fn(m, b, FN_##f, x, y, NULL)
    LLVMValueRef is = FN2(AND, FN2(LT, v[0], v[1]), FN2(NOT, FN2(EQ, v[0], v[2]), NULL));
    LLVMValueRef other = ssd_llvm_fn(m, b, FN_WHERE, some, FN2(MAX, k, v[1]), LLVMConstNull(vec));
    LLVMValueRef r = ssd_llvm_fn(m, b, FN_WHERE, is, FN2(MUL, FN2(EXP2, k, NULL), v[0]), other);
#undef FN2
    LLVMSetAlignment(LLVMBuildStore(b, r, LLVMGetParam(f, 3)), 4);
    LLVMBuildRetVoid(b);
    LLVMDisposeBuilder(b);
}

// Names of undefined symbols in an ELF object; none is expected.
static void undefined_symbols(const char *obj, Text *out) {
    const Elf64_Ehdr *h = (const Elf64_Ehdr *)obj;
    const Elf64_Shdr *s = (const Elf64_Shdr *)(obj + h->e_shoff);
    for (int i = 0; i < h->e_shnum; i++) {
        if (s[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *sym = (const Elf64_Sym *)(obj + s[i].sh_offset);
        for (size_t k = 1; k < s[i].sh_size / sizeof *sym; k++)
            if (sym[k].st_shndx == SHN_UNDEF)
                ssd_text_printf(out, " %s", obj + s[s[i].sh_link].sh_offset + sym[k].st_name);
    }
}

// Functions with a constant operand take short cuts of their own.
typedef struct Case {
    FnCode fn;
    bool ints;
    double y;
} Case;
static const Case CASE[] = {
    {FN_POW, false, 1},    {FN_POW, false, 2},   {FN_POW, false, 3},  {FN_POW, false, 4},
    {FN_POW, false, -1},   {FN_POW, false, 0.5}, {FN_POW, false, -2}, {FN_MIN, false, 0.75},
    {FN_MAX, false, 0.75}, {FN_FDIV, true, 1},   {FN_FDIV, true, 8},  {FN_FDIV, true, 24},
    {FN_FDIV, true, -3},   {FN_CDIV, true, 1},   {FN_CDIV, true, 64}, {FN_CDIV, true, 24},
    {FN_CDIV, true, -4},   {FN_MOD, true, 1},    {FN_MOD, true, 8},   {FN_MOD, true, 24},
    {FN_MOD, true, -5},
};

static void loop_name(char out[64], FnCode fn, unsigned lanes, bool ints, int which) {
    snprintf(out, 64, "%s%s_%u_%d", ints ? "int_" : "", ssd_fns[fn].name, lanes, which);
}

static bool on_ints(FnCode fn) { return ssd_fns[fn].kind != 'F'; }

// Compiles everything for a level. counts: LLVM instructions a function at the first width.
static Module *compile(const Level *l, int counts[FN__COUNT]) {
    LlvmMath m = {.ctx = LLVMContextCreate(), .fma = l->fma, .avx512 = l->avx512};
    m.mod = LLVMModuleCreateWithNameInContext("math", m.ctx);
    char name[64], *why = NULL;
    for (size_t w = 0; w < COUNTOF(WIDTH); w++) {
        for (FnCode fn = 0; fn < FN__COUNT; fn++) {
            loop_name(name, fn, WIDTH[w], false, 0);
            int n = build_loop(&m, name, fn, WIDTH[w], false, NULL);
            if (!w) counts[fn] = n;
            loop_name(name, fn, WIDTH[w], true, 0);
            if (on_ints(fn)) build_loop(&m, name, fn, WIDTH[w], true, NULL);
        }
        for (size_t k = 0; k < COUNTOF(CASE); k++) {
            loop_name(name, CASE[k].fn, WIDTH[w], CASE[k].ints, (int)k + 1);
            build_loop(&m, name, CASE[k].fn, WIDTH[w], CASE[k].ints, &CASE[k].y);
        }
        snprintf(name, sizeof name, "mixed_%u", WIDTH[w]);
        build_mixed(&m, name, WIDTH[w]);
    }
    bool valid = !LLVMVerifyModule(m.mod, LLVMReturnStatusAction, &why);
    report(valid, "%s: module verifies: %s", l->name, valid ? "yes" : why);
    LLVMDisposeMessage(why);

    char *triple = LLVMGetDefaultTargetTriple();
    LLVMTargetRef target;
    LLVMMemoryBufferRef object;
    if (!valid || LLVMGetTargetFromTriple(triple, &target, &why)) exit(2);
    LLVMTargetMachineRef tm = LLVMCreateTargetMachine(
        target, triple, l->cpu, "", LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelSmall);
    LLVMSetTarget(m.mod, triple);
    if (LLVMTargetMachineEmitToMemoryBuffer(tm, m.mod, LLVMObjectFile, &why, &object)) exit(2);

    Text text = {0};
    undefined_symbols(LLVMGetBufferStart(object), &text);
    report(text.n == 0, "%s: no undefined symbols:%s", l->name, text.n ? text.s : " none");
    Module *mod = ssd_module_load(LLVMGetBufferStart(object), LLVMGetBufferSize(object), &text);
    report(mod != NULL, "%s: object of %zu bytes loads: %s", l->name, LLVMGetBufferSize(object),
           mod ? "yes" : text.s);
    ssd_text_free(&text);
    LLVMDisposeMemoryBuffer(object);
    LLVMDisposeTargetMachine(tm);
    LLVMDisposeMessage(triple);
    LLVMDisposeModule(m.mod);
    LLVMContextDispose(m.ctx);
    return mod;
}

// --- Comparison ---------------------------------------------------------------------------------
typedef struct Worst {
    double rel, abs; // largest errors where that measure is the one that counts
    float rel_at, abs_at;
} Worst;

static bool right(double got, double want, const Bound *b, float x, Worst *w) {
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    double err = fabs(got - want), size = fabs(want);
    if (isinf(want) || isinf(got)) // a result that rounds to inf, or nearly, may be inf
        return got == want ||
               ((got > 0) == (want > 0) && fmin(fabs(got), size) * (1 + 2 * b->rel) >= FLT_MAX);
    bool near = err <= b->abs, ok = near || err <= b->rel * size;
    if (!ok || err <= TINY) return ok;
    if (err > w->abs) w->abs = err, w->abs_at = x;
    if (!near && err / size > w->rel) w->rel = err / size, w->rel_at = x;
    return true;
}

static bool same_bits(float a, float b) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return to_bits(a) == to_bits(b) || (fabs((double)a) < TINY && fabs((double)b) < TINY);
}

// Runs a function at all widths over a sweep; out and other hold s->n floats.
static void check(const char *level, const Module *mod, const Bound *b, const Sweep *s, int which,
                  bool daz, float *out, float *other, Worst *w) {
    char name[64];
    size_t bad = 0, first = 0;
    for (size_t k = 0; k < COUNTOF(WIDTH); k++) {
        loop_name(name, b->fn, WIDTH[k], false, which);
        Loop *loop;
        *(void **)&loop = ssd_module_symbol(mod, name);
        if (!loop) SSD_BUG("no %s", name);
        u32 saved = _mm_getcsr();
        _mm_setcsr(daz ? saved | 0x8040 : saved & ~0x8040u);
        loop(s->x, s->y, s->z, k ? other : out, (i64)s->n);
        _mm_setcsr(saved);
        size_t differ = 0, at = 0;
        for (size_t i = 0; k && i < s->n; i++)
            if (!same_bits(out[i], other[i])) differ++, at = i;
        if (k)
            report(!differ, "%s %s%s: %u lanes differ from 16 at %zu of %zu, e.g. (%a, %a): %a, %a",
                   level, name, daz ? "" : " (no FTZ)", WIDTH[k], differ, s->n, (double)s->x[at],
                   (double)s->y[at], (double)other[at], (double)out[at]);
    }
    for (size_t i = 0; i < s->n; i++) {
        float x = s->x[i], y = s->y[i], z = s->z[i];
        if (fabs((double)x) > b->most && isfinite(x)) {
            if (!(fabs((double)out[i]) <= 1) && !bad++) first = i;
            continue;
        }
        bool ok = right(out[i], s->want[i], b, x, w);
        if (!ok && !daz) // then subnormals may count as they are, or only some as zero
            ok = right(out[i], meaning(b->fn, x, y, z), b, x, w) ||
                 right(out[i], meaning(b->fn, flush(x), y, z), b, x, w);
        if (!ok && !bad++) first = i;
    }
    loop_name(name, b->fn, WIDTH[0], false, which);
    report(!bad, "%s %s%s: %zu of %zu wrong, e.g. (%a, %a, %a) = %a, not %a", level, name,
           daz ? "" : " (no FTZ)", bad, s->n, (double)s->x[first], (double)s->y[first],
           (double)s->z[first], (double)out[first], s->want[first]);
}

// Integers are exact: |x|, |y| below 2^40, the meaning in double has no rounding for quotients of
// these.
static void check_ints(const char *level, const Module *mod, FnCode fn, int which,
                       const double *y) {
    enum { N = 4096 };
    static i64 x[N], yy[N], z[N], out[N];
    char name[64];
    for (int i = 0; i < N; i++) {
        x[i] = (i64)(draw() % 2001) - 1000;
        yy[i] = y ? (i64)*y : (i64)(draw() % 41) - 20;
        if (!yy[i]) yy[i] = fn == FN_FDIV || fn == FN_CDIV || fn == FN_MOD ? 21 : 0;
        z[i] = (i64)(draw() % 100);
        if (ssd_fns[fn].kind != 'A' && draw() % 4 == 0) x[i] = yy[i];
        if (ssd_fns[fn].kind == 'W' && draw() % 4 == 0) x[i] = 0;
    }
    for (size_t k = 0; k < COUNTOF(WIDTH); k++) {
        loop_name(name, fn, WIDTH[k], true, which);
        IntLoop *loop;
        *(void **)&loop = ssd_module_symbol(mod, name);
        if (!loop) SSD_BUG("no %s", name);
        loop(x, yy, z, out, N);
        int bad = 0, at = 0;
        for (int i = 0; i < N; i++) {
            double want = ssd_fn_eval(fn, (double)x[i], (double)yy[i], (double)z[i]);
            if ((double)out[i] != want) bad++, at = i;
        }
        report(!bad, "%s %s: %d wrong, e.g. (%lld, %lld, %lld) = %lld", level, name, bad,
               (long long)x[at], (long long)yy[at], (long long)z[at], (long long)out[at]);
    }
}

// --- Values that callers rely on, exactly -------------------------------------------------------
static const struct {
    FnCode fn;
    float x, want;
} EXACT[] = {
    {FN_EXP2, 0, 1},
    {FN_EXP2, -0.0f, 1},
    {FN_EXP2, -3, 0.125f},
    {FN_EXP2, 10, 1024},
    {FN_EXP2, -200, 0},
    {FN_EXP2, -INFINITY, 0},
    {FN_EXP2, 128, INFINITY},
    {FN_EXP2, 127, 0x1p127f},
    {FN_EXP2, -125, 0x1p-125f},
    {FN_EXP, 0, 1},
    {FN_EXP, -INFINITY, 0},
    {FN_EXP, 1000, INFINITY},
    {FN_EXP, -1000, 0},
    {FN_LOG, 1, 0},
    {FN_LOG, 0, -INFINITY},
    {FN_LOG, INFINITY, INFINITY},
    {FN_LOG2, 8, 3},
    {FN_LOG2, 0.25f, -2},
    {FN_LOG1P, 0, 0},
    {FN_LOG1P, -1, -INFINITY},
    {FN_EXPM1, 0, 0},
    {FN_EXPM1, -INFINITY, -1},
    {FN_SIGMOID, 0, 0.5f},
    {FN_SIGMOID, INFINITY, 1},
    {FN_SIGMOID, -INFINITY, 0},
    {FN_TANH, 0, 0},
    {FN_TANH, INFINITY, 1},
    {FN_TANH, -INFINITY, -1},
    {FN_SILU, 0, 0},
    {FN_GELU, 0, 0},
    {FN_SOFTPLUS, 20.5f, 20.5f},
    {FN_SOFTPLUS, -INFINITY, 0},
    {FN_SIN, 0, 0},
    {FN_COS, 0, 1},
    {FN_RELU, -3, 0},
};

static void check_exact(const char *level, const Module *mod) {
    for (size_t i = 0; i < COUNTOF(EXACT); i++) {
        float x[LANES_MOST], out[LANES_MOST];
        char name[64];
        loop_name(name, EXACT[i].fn, WIDTH[0], false, 0);
        for (int k = 0; k < LANES_MOST; k++) x[k] = EXACT[i].x;
        Loop *loop;
        *(void **)&loop = ssd_module_symbol(mod, name);
        loop(x, x, x, out, LANES_MOST);
        report(out[0] == EXACT[i].want, "%s %s(%g) = %a, exactly %a", level,
               ssd_fns[EXACT[i].fn].name, (double)EXACT[i].x, (double)out[0],
               (double)EXACT[i].want);
    }
}

static void check_mixed(const char *level, const Module *mod) {
    for (size_t w = 0; w < COUNTOF(WIDTH); w++) {
        char name[64];
        snprintf(name, sizeof name, "mixed_%u", WIDTH[w]);
        Loop *loop;
        *(void **)&loop = ssd_module_symbol(mod, name);
        bool ok = true;
        for (int round = 0; round < 200; round++) {
            float x[LANES_MOST], y[LANES_MOST], z[LANES_MOST], out[LANES_MOST];
            for (int i = 0; i < LANES_MOST; i++) {
                x[i] = (float)uniform(-9, 9), y[i] = (float)uniform(-9, 9);
                z[i] = draw() & 1 ? x[i] : 0;
            }
            loop(x, y, z, out, round % 2);
            for (unsigned i = 0; i < WIDTH[w]; i++) {
                float k = truncf(x[i]), other = round % 2 ? fmaxf(k, y[i]) : 0;
                ok &= out[i] == (x[i] < y[i] && x[i] != z[i] ? exp2f(k) * x[i] : other);
            }
        }
        report(ok, "%s %s: integers, floats and booleans together", level, name);
    }
}

static void print_worst(const Bound *b, const Worst *w, const int *counts) {
    if (!verbose || ssd_fns[b->fn].kind != 'F') return;
    printf("      %-10s rel %.2e at %-14.7g abs %.2e at %-14.7g %d instructions\n",
           ssd_fns[b->fn].name, w->rel, (double)w->rel_at, w->abs, (double)w->abs_at,
           counts[b->fn]);
}

int main(int argc, char **argv) {
    verbose = argc > 1 && !strcmp(argv[1], "-v");
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();

    Arena arena = {0};
    Sweep s = {.x = NEWN(&arena, float, SWEEP_MOST),
               .y = NEWN(&arena, float, SWEEP_MOST),
               .z = NEWN(&arena, float, SWEEP_MOST),
               .want = NEWN(&arena, double, SWEEP_MOST)};
    float *out = NEWN(&arena, float, SWEEP_MOST), *other = NEWN(&arena, float, SWEEP_MOST);

    Module *mod[COUNTOF(LEVEL)] = {0};
    int counts[COUNTOF(LEVEL)][FN__COUNT];
    for (size_t l = 0; l < COUNTOF(LEVEL); l++) {
        Module *m = compile(&LEVEL[l], counts[l]);
        if (level_runs(&LEVEL[l]))
            mod[l] = m;
        else
            printf("%s: compiled, but this host cannot run it\n", LEVEL[l].name);
        if (!mod[l]) ssd_module_free(m);
    }
    for (size_t i = 0; i < COUNTOF(BOUND); i++) {
        const Bound *b = &BOUND[i];
        sweep_fill(&s, b);
        for (size_t l = 0; l < COUNTOF(LEVEL); l++) {
            if (!mod[l]) continue;
            Worst w = {0};
            for (int daz = 1; daz >= 0; daz--)
                check(LEVEL[l].name, mod[l], b, &s, 0, daz, out, other, &w);
            print_worst(b, &w, counts[l]);
            if (on_ints(b->fn)) check_ints(LEVEL[l].name, mod[l], b->fn, 0, NULL);
        }
    }
    for (size_t k = 0; k < COUNTOF(CASE); k++) {
        const Case *c = &CASE[k];
        if (!c->ints) {
            Bound b = BOUND[c->fn];
            sweep_fill(&s, &b);
            for (size_t i = 0; i < s.n; i++) {
                s.y[i] = (float)c->y;
                s.want[i] = meaning(c->fn, flush(s.x[i]), c->y, 0);
            }
            for (size_t l = 0; l < COUNTOF(LEVEL); l++)
                if (mod[l]) {
                    Worst w = {0};
                    check(LEVEL[l].name, mod[l], &b, &s, (int)k + 1, true, out, other, &w);
                }
            continue;
        }
        for (size_t l = 0; l < COUNTOF(LEVEL); l++)
            if (mod[l]) check_ints(LEVEL[l].name, mod[l], c->fn, (int)k + 1, &c->y);
    }
    for (size_t l = 0; l < COUNTOF(LEVEL); l++)
        if (mod[l]) {
            check_exact(LEVEL[l].name, mod[l]);
            check_mixed(LEVEL[l].name, mod[l]);
            ssd_module_free(mod[l]);
        }
    ssd_arena_free(&arena);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
