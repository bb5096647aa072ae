// SPDX-License-Identifier: Apache-2.0
// LLVM IR in the small: constants, addresses, vectors, loops, dtype conversions.
#include "llvm_emit.h"

#include <math.h>

enum { MAX_LANES = 64 };

void ssd_emit_types(Emit *e) {
    e->i1 = LLVMInt1TypeInContext(e->cx);
    e->i8 = LLVMInt8TypeInContext(e->cx);
    e->i16 = LLVMInt16TypeInContext(e->cx);
    e->i32 = LLVMInt32TypeInContext(e->cx);
    e->i64 = LLVMInt64TypeInContext(e->cx);
    e->f16 = LLVMHalfTypeInContext(e->cx);
    e->f32 = LLVMFloatTypeInContext(e->cx);
    e->ptr = LLVMPointerTypeInContext(e->cx, 0);
}

// --- Constants and integers ---------------------------------------------------------------------
V ssd_emit_i64(const Emit *e, i64 v) { return LLVMConstInt(e->i64, (u64)v, true); }
V ssd_emit_f32(const Emit *e, double v) { return LLVMConstReal(e->f32, v); }

bool ssd_emit_is_int(V v, i64 *out) {
    if (!LLVMIsAConstantInt(v)) return false;
    *out = LLVMConstIntGetSExtValue(v);
    return true;
}

V ssd_emit_add(Emit *e, V a, V b) {
    i64 k;
    if (ssd_emit_is_int(a, &k) && k == 0) return b;
    if (ssd_emit_is_int(b, &k) && k == 0) return a;
    return LLVMBuildAdd(e->b, a, b, "");
}

V ssd_emit_mul(Emit *e, V a, V b) {
    i64 k;
    if (ssd_emit_is_int(a, &k) && (k == 0 || k == 1)) return k ? b : a;
    if (ssd_emit_is_int(b, &k) && (k == 0 || k == 1)) return k ? a : b;
    return LLVMBuildMul(e->b, a, b, "");
}

V ssd_emit_and(Emit *e, V a, V b) {
    if (!a || !b) return a ? a : b;
    return LLVMBuildAnd(e->b, a, b, "");
}

// --- Memory -------------------------------------------------------------------------------------
V ssd_emit_at(Emit *e, V ptr, V bytes) {
    i64 k;
    if (ssd_emit_is_int(bytes, &k) && k == 0) return ptr;
    return LLVMBuildGEP2(e->b, e->i8, ptr, &bytes, 1, "");
}
V ssd_emit_at_const(Emit *e, V ptr, i64 bytes) {
    return ssd_emit_at(e, ptr, ssd_emit_i64(e, bytes));
}

LLVMTypeRef ssd_emit_vec(const Emit *e, LLVMTypeRef t, int lanes) {
    (void)e;
    return lanes > 1 ? LLVMVectorType(t, (unsigned)lanes) : t;
}

V ssd_emit_load(Emit *e, LLVMTypeRef t, V ptr, unsigned align) {
    V v = LLVMBuildLoad2(e->b, t, ptr, "");
    LLVMSetAlignment(v, align);
    return v;
}
void ssd_emit_store(Emit *e, V v, V ptr, unsigned align) {
    LLVMSetAlignment(LLVMBuildStore(e->b, v, ptr), align);
}

V ssd_emit_iota(const Emit *e, LLVMTypeRef t, i64 scale, int lanes) {
    (void)e;
    V v[MAX_LANES];
    for (int i = 0; i < lanes; i++) v[i] = LLVMConstInt(t, (u64)(i * scale), true);
    return lanes > 1 ? LLVMConstVector(v, (unsigned)lanes) : v[0];
}

V ssd_emit_lane_mask(const Emit *e, int live, int lanes) {
    V v[MAX_LANES];
    for (int i = 0; i < lanes; i++) v[i] = LLVMConstInt(e->i1, i < live, false);
    return LLVMConstVector(v, (unsigned)lanes);
}

V ssd_emit_splat(Emit *e, V v, int lanes) {
    if (lanes <= 1 || LLVMGetTypeKind(LLVMTypeOf(v)) == LLVMVectorTypeKind) return v;
    if (LLVMIsConstant(v)) {
        V c[MAX_LANES];
        for (int i = 0; i < lanes; i++) c[i] = v;
        return LLVMConstVector(c, (unsigned)lanes);
    }
    LLVMTypeRef t = ssd_emit_vec(e, LLVMTypeOf(v), lanes);
    V one = LLVMBuildInsertElement(e->b, LLVMGetPoison(t), v, LLVMConstInt(e->i32, 0, false), "");
    V zero = LLVMConstNull(LLVMVectorType(e->i32, (unsigned)lanes));
    return LLVMBuildShuffleVector(e->b, one, LLVMGetPoison(t), zero, "");
}

static V intrinsic(Emit *e, const char *name, LLVMTypeRef *overload, size_t noverload, V *args,
                   unsigned n) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    V f = LLVMGetIntrinsicDeclaration(e->mod, id, overload, noverload);
    LLVMTypeRef t = LLVMIntrinsicGetType(e->cx, id, overload, noverload);
    return LLVMBuildCall2(e->b, t, f, args, n, "");
}

// Masked accesses take their alignment as operand `align_at`, from LLVM 22 on as an attribute.
static V masked(Emit *e, const char *name, LLVMTypeRef vt, V *args, unsigned align_at) {
    LLVMTypeRef over[] = {vt, e->ptr};
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name)), n = 4;
    if (LLVMCountParamTypes(LLVMIntrinsicGetType(e->cx, id, over, 2)) == 3) {
        n = 3;
        for (unsigned i = align_at; i < n; i++) args[i] = args[i + 1];
    }
    return intrinsic(e, name, over, 2, args, n);
}

V ssd_emit_masked_load(Emit *e, LLVMTypeRef t, V ptr, int live, int lanes, unsigned align) {
    LLVMTypeRef vt = ssd_emit_vec(e, t, lanes);
    if (live >= lanes) return ssd_emit_load(e, vt, ptr, align);
    V args[] = {ptr, LLVMConstInt(e->i32, align, false), ssd_emit_lane_mask(e, live, lanes),
                LLVMConstNull(vt)};
    return masked(e, "llvm.masked.load", vt, args, 1);
}

void ssd_emit_masked_store(Emit *e, V v, V ptr, int live, unsigned align) {
    LLVMTypeRef vt = LLVMTypeOf(v);
    int lanes = LLVMGetTypeKind(vt) == LLVMVectorTypeKind ? (int)LLVMGetVectorSize(vt) : 1;
    if (live >= lanes) {
        ssd_emit_store(e, v, ptr, align);
        return;
    }
    V args[] = {v, ptr, LLVMConstInt(e->i32, align, false), ssd_emit_lane_mask(e, live, lanes)};
    masked(e, "llvm.masked.store", vt, args, 2);
}

void ssd_emit_prefetch(Emit *e, V ptr, bool write) {
    V args[] = {ptr, LLVMConstInt(e->i32, write, false), LLVMConstInt(e->i32, 3, false),
                LLVMConstInt(e->i32, 1, false)};
    intrinsic(e, "llvm.prefetch", &e->ptr, 1, args, 4);
}

// --- Arithmetic ---------------------------------------------------------------------------------
V ssd_emit_fma(Emit *e, V a, V b, V c) {
    if (!e->math.fma) return LLVMBuildFAdd(e->b, LLVMBuildFMul(e->b, a, b, ""), c, "");
    LLVMTypeRef t = LLVMTypeOf(c);
    return intrinsic(e, "llvm.fma", &t, 1, (V[]){a, b, c}, 3);
}

V ssd_emit_fn(Emit *e, FnCode f, V x, V y, V z) { return ssd_llvm_fn(&e->math, e->b, f, x, y, z); }

// Sum or maximum over the lanes of a vector: halves onto halves.
V ssd_emit_hreduce(Emit *e, V v, bool max) {
    if (LLVMGetTypeKind(LLVMTypeOf(v)) != LLVMVectorTypeKind) return v;
    for (unsigned n = LLVMGetVectorSize(LLVMTypeOf(v)); n > 1; n /= 2) {
        V lo[MAX_LANES], hi[MAX_LANES], none = LLVMGetPoison(LLVMTypeOf(v));
        for (unsigned i = 0; i < n / 2; i++) {
            lo[i] = LLVMConstInt(e->i32, i, false);
            hi[i] = LLVMConstInt(e->i32, i + n / 2, false);
        }
        V a = LLVMBuildShuffleVector(e->b, v, none, LLVMConstVector(lo, n / 2), "");
        V b = LLVMBuildShuffleVector(e->b, v, none, LLVMConstVector(hi, n / 2), "");
        v = max ? ssd_emit_fn(e, FN_MAX, a, b, NULL) : LLVMBuildFAdd(e->b, a, b, "");
    }
    return LLVMBuildExtractElement(e->b, v, LLVMConstInt(e->i32, 0, false), "");
}

// --- Blocks and loops ---------------------------------------------------------------------------
LLVMBasicBlockRef ssd_emit_block(Emit *e, const char *name) {
    return LLVMAppendBasicBlockInContext(e->cx, e->fn, name);
}

void ssd_emit_seek(Emit *e, LLVMBasicBlockRef bb) {
    V end = LLVMGetBasicBlockTerminator(bb);
    if (end)
        LLVMPositionBuilderBefore(e->b, end);
    else
        LLVMPositionBuilderAtEnd(e->b, bb);
}

void ssd_emit_phi_add(V phi, V from, LLVMBasicBlockRef pred) {
    LLVMAddIncoming(phi, &from, &pred, 1);
}
V ssd_emit_phi(Emit *e, V from, LLVMBasicBlockRef pred) {
    V phi = LLVMBuildPhi(e->b, LLVMTypeOf(from), "");
    ssd_emit_phi_add(phi, from, pred);
    return phi;
}

V ssd_emit_open(Emit *e, Count *c, i64 n, i64 step) {
    *c = (Count){.pre = LLVMGetInsertBlock(e->b), .n = n, .step = step};
    if (n <= step) return c->iv = ssd_emit_i64(e, 0);
    c->head = ssd_emit_block(e, "loop");
    LLVMBuildBr(e->b, c->head);
    LLVMPositionBuilderAtEnd(e->b, c->head);
    return c->iv = ssd_emit_phi(e, ssd_emit_i64(e, 0), c->pre);
}

void ssd_emit_close(Emit *e, Count *c) {
    if (!c->head) return;
    V next = LLVMBuildAdd(e->b, c->iv, ssd_emit_i64(e, c->step), "");
    V more = LLVMBuildICmp(e->b, LLVMIntSLT, next, ssd_emit_i64(e, c->n), "");
    LLVMBasicBlockRef exit = ssd_emit_block(e, "done");
    ssd_emit_phi_add(c->iv, next, LLVMGetInsertBlock(e->b));
    LLVMBuildCondBr(e->b, more, c->head, exit);
    LLVMPositionBuilderAtEnd(e->b, exit);
}

// --- Storage dtypes -----------------------------------------------------------------------------
LLVMTypeRef ssd_emit_storage(const Emit *e, u8 dtype) {
    switch (dtype) {
    case SSD_F32: return e->f32;
    case SSD_BF16:
    case SSD_F16: return e->i16;
    case SSD_I32: return e->i32;
    default: SSD_BUG("no tensor has dtype %s", ssd_dtype_name((ssd_dtype)dtype));
    }
}

static int lanes_of(V v) {
    LLVMTypeRef t = LLVMTypeOf(v);
    return LLVMGetTypeKind(t) == LLVMVectorTypeKind ? (int)LLVMGetVectorSize(t) : 1;
}
static V int_like(Emit *e, V v, LLVMTypeRef t, u64 k) {
    return ssd_emit_splat(e, LLVMConstInt(t, k, false), lanes_of(v));
}
static V real_like(Emit *e, V v, double k) {
    return ssd_emit_splat(e, ssd_emit_f32(e, k), lanes_of(v));
}

static V bits(Emit *e, V v) {
    return LLVMBuildBitCast(e->b, v, ssd_emit_vec(e, e->i32, lanes_of(v)), "");
}
static V unbits(Emit *e, V v) {
    return LLVMBuildBitCast(e->b, v, ssd_emit_vec(e, e->f32, lanes_of(v)), "");
}

static V half_to_f32(Emit *e, V v) {
    int n = lanes_of(v);
    if (e->m->f16c) {
        V h = LLVMBuildBitCast(e->b, v, ssd_emit_vec(e, e->f16, n), "");
        return LLVMBuildFPExt(e->b, h, ssd_emit_vec(e, e->f32, n), "");
    }
    // Exponent and mantissa move by 13 bits and the bias by 112; exponent 0 is an integer times
    // 2^-24.
    V w = LLVMBuildZExt(e->b, v, ssd_emit_vec(e, e->i32, n), "");
    V mag = LLVMBuildAnd(e->b, w, int_like(e, v, e->i32, 0x7fff), "");
    V sign = LLVMBuildShl(e->b, LLVMBuildXor(e->b, w, mag, ""), int_like(e, v, e->i32, 16), "");
    V up = LLVMBuildShl(e->b, mag, int_like(e, v, e->i32, 13), "");
    V normal = LLVMBuildAdd(e->b, up, int_like(e, v, e->i32, 112u << 23), "");
    V tiny = LLVMBuildFMul(e->b, LLVMBuildSIToFP(e->b, mag, ssd_emit_vec(e, e->f32, n), ""),
                           real_like(e, v, 0x1p-24), "");
    V special = LLVMBuildOr(e->b, up, int_like(e, v, e->i32, 0x7f800000), "");
    V is_tiny = LLVMBuildICmp(e->b, LLVMIntULT, mag, int_like(e, v, e->i32, 0x400), "");
    V is_special = LLVMBuildICmp(e->b, LLVMIntUGE, mag, int_like(e, v, e->i32, 0x7c00), "");
    V r = LLVMBuildSelect(e->b, is_tiny, bits(e, tiny),
                          LLVMBuildSelect(e->b, is_special, special, normal, ""), "");
    return unbits(e, LLVMBuildOr(e->b, r, sign, ""));
}

static V f32_to_half(Emit *e, V v) {
    int n = lanes_of(v);
    LLVMTypeRef i16 = ssd_emit_vec(e, e->i16, n);
    if (e->m->f16c)
        return LLVMBuildBitCast(e->b, LLVMBuildFPTrunc(e->b, v, ssd_emit_vec(e, e->f16, n), ""),
                                i16, "");
    V w = bits(e, v), mag = LLVMBuildAnd(e->b, w, int_like(e, v, e->i32, 0x7fffffff), "");
    V sign = LLVMBuildLShr(e->b, LLVMBuildXor(e->b, w, mag, ""), int_like(e, v, e->i32, 16), "");
    // Adding 0.5 lets the adder round to multiples of 2^-24, the unit of subnormal halves.
    V tiny =
        LLVMBuildSub(e->b, bits(e, LLVMBuildFAdd(e->b, unbits(e, mag), real_like(e, v, 0.5), "")),
                     int_like(e, v, e->i32, 0x3f000000), "");
    V odd = LLVMBuildAnd(e->b, LLVMBuildLShr(e->b, mag, int_like(e, v, e->i32, 13), ""),
                         int_like(e, v, e->i32, 1), "");
    V sum = LLVMBuildAdd(e->b, LLVMBuildAdd(e->b, mag, int_like(e, v, e->i32, 0xc8000fff), ""), odd,
                         "");
    V normal = LLVMBuildLShr(e->b, sum, int_like(e, v, e->i32, 13), "");
    V is_nan = LLVMBuildICmp(e->b, LLVMIntUGT, mag, int_like(e, v, e->i32, 0x7f800000), "");
    V is_big = LLVMBuildICmp(e->b, LLVMIntUGE, mag, int_like(e, v, e->i32, 0x47800000), "");
    V is_tiny = LLVMBuildICmp(e->b, LLVMIntULT, mag, int_like(e, v, e->i32, 0x38800000), "");
    V special = LLVMBuildSelect(e->b, is_nan, int_like(e, v, e->i32, 0x7e00),
                                int_like(e, v, e->i32, 0x7c00), "");
    V r = LLVMBuildSelect(e->b, is_big, special, LLVMBuildSelect(e->b, is_tiny, tiny, normal, ""),
                          "");
    return LLVMBuildTrunc(e->b, LLVMBuildOr(e->b, r, sign, ""), i16, "");
}

static V f32_to_bf16(Emit *e, V v) {
    V w = bits(e, v), sixteen = int_like(e, v, e->i32, 16);
    V odd = LLVMBuildAnd(e->b, LLVMBuildLShr(e->b, w, sixteen, ""), int_like(e, v, e->i32, 1), "");
    V sum = LLVMBuildAdd(e->b, LLVMBuildAdd(e->b, w, int_like(e, v, e->i32, 0x7fff), ""), odd, "");
    V quiet = LLVMBuildOr(e->b, w, int_like(e, v, e->i32, 0x400000), "");
    V nan = LLVMBuildFCmp(e->b, LLVMRealUNO, v, v, "");
    V r = LLVMBuildLShr(e->b, LLVMBuildSelect(e->b, nan, quiet, sum, ""), sixteen, "");
    return LLVMBuildTrunc(e->b, r, ssd_emit_vec(e, e->i16, lanes_of(v)), "");
}

V ssd_emit_decode(Emit *e, V v, u8 dtype) {
    int n = lanes_of(v);
    switch (dtype) {
    case SSD_BF16: {
        V w = LLVMBuildZExt(e->b, v, ssd_emit_vec(e, e->i32, n), "");
        return unbits(e, LLVMBuildShl(e->b, w, int_like(e, v, e->i32, 16), ""));
    }
    case SSD_F16: return half_to_f32(e, v);
    case SSD_I32: return LLVMBuildSIToFP(e->b, v, ssd_emit_vec(e, e->f32, n), "");
    default: return v;
    }
}

V ssd_emit_encode(Emit *e, V v, u8 dtype) {
    switch (dtype) {
    case SSD_BF16: return f32_to_bf16(e, v);
    case SSD_F16: return f32_to_half(e, v);
    case SSD_I32: return LLVMBuildFPToSI(e->b, v, ssd_emit_vec(e, e->i32, lanes_of(v)), "");
    default: return v;
    }
}

V ssd_emit_round(Emit *e, V v, u8 dtype) {
    if (dtype != SSD_BF16 && dtype != SSD_F16) return v;
    return ssd_emit_decode(e, ssd_emit_encode(e, v, dtype), dtype);
}
