// SPDX-License-Identifier: Apache-2.0
// Scalar functions as LLVM IR. Every function is a short polynomial around a cheap range reduction;
// composed functions (softplus, silu, tanh, ..) are arranged so that nothing cancels.
//
// Largest relative errors against fns.def in double, over all floats, as measured with FMA and
// without, and the bound that tests/codegen/math_test.c enforces. n: LLVM instructions, with FMA (a
// value that is clamped or rounded counts two or three). 6.0e-8 is half an ulp at worst, 1.2e-7 one
// ulp.
//
//                fma     no fma   bound      n
//   exp2         6.8e-8  8.8e-8   1.5e-7    17   9 on AVX-512 at 16 lanes
//   exp          7.2e-8  9.2e-8   1.5e-7    18
//   expm1        1.2e-7  1.2e-7   2e-7      21   also at 0
//   log          7.8e-8  7.8e-8   2e-7      28   also at 1
//   log2         1.1e-7  1.5e-7   2e-7      26   also at 1
//   log1p        1.1e-7  1.1e-7   2e-7      34   also at 0
//   sigmoid      1.5e-7  1.5e-7   2e-7      21
//   logsigmoid   1.3e-7  1.6e-7   2e-7      31
//   softplus     1.4e-7  1.7e-7   2e-7      31
//   silu         1.5e-7  1.5e-7   2e-7      21   or 3e-37: 0 below -88.7
//   tanh         1.7e-7  1.7e-7   2e-7      28   also at 0
//   elu          8.1e-8  7.8e-8   2e-7      23
//   gelu         4.0e-7  4.1e-7   5e-7      37   or 3e-9: the tail below x = -3
//   pow          7.5e-8  9.8e-8   4e-7      61   a small constant exponent: 1 or 2
//   rsqrt        9.0e-8  9.0e-8   1.3e-7     2   a division and a square root
//   sin, cos     8.5e-8  9.8e-8   1e-6 abs  29   |x| <= 1e5; beyond, some value in [-1, 1]
//   fdiv, cdiv, mod of floats take the rounded quotient; + - * / sqrt and the rest round once
#include "llvm_math.h"

#include <math.h>

typedef LLVMValueRef V;

enum { MAX_LANES = 64 };

// What every emitter below needs: the builder and the types of this call's lanes.
typedef struct Em {
    const LlvmMath *m;
    LLVMBuilderRef b;
    unsigned lanes;      // 0: scalar
    LLVMTypeRef f, i, d; // f32, i32, f64 of that many lanes
} Em;

static LLVMTypeRef lanes_of(LLVMTypeRef t, unsigned lanes) {
    return lanes ? LLVMVectorType(t, lanes) : t;
}

static bool is_vector(LLVMTypeRef t) { return LLVMGetTypeKind(t) == LLVMVectorTypeKind; }

static LLVMTypeRef element(V x) {
    LLVMTypeRef t = LLVMTypeOf(x);
    return is_vector(t) ? LLVMGetElementType(t) : t;
}

static bool is_float(V x) { return LLVMGetTypeKind(element(x)) == LLVMFloatTypeKind; }

static bool is_bool(V x) {
    LLVMTypeRef t = element(x);
    return LLVMGetTypeKind(t) == LLVMIntegerTypeKind && LLVMGetIntTypeWidth(t) == 1;
}

static V splat(LLVMTypeRef t, V c) {
    if (!is_vector(t)) return c;
    V v[MAX_LANES];
    unsigned n = LLVMGetVectorSize(t);
    for (unsigned i = 0; i < n; i++) v[i] = c;
    return LLVMConstVector(v, n);
}

static LLVMTypeRef scalar(LLVMTypeRef t) { return is_vector(t) ? LLVMGetElementType(t) : t; }
static V real(LLVMTypeRef t, double v) { return splat(t, LLVMConstReal(scalar(t), v)); }
static V whole(LLVMTypeRef t, i64 v) { return splat(t, LLVMConstInt(scalar(t), (u64)v, true)); }

// The element of a constant scalar or splat; NULL when x is anything else.
static V const_element(V x) {
    if (!LLVMIsConstant(x) || !is_vector(LLVMTypeOf(x))) return LLVMIsConstant(x) ? x : NULL;
    V c = LLVMGetAggregateElement(x, 0);
    for (unsigned i = 1, n = LLVMGetVectorSize(LLVMTypeOf(x)); i < n; i++)
        if (LLVMGetAggregateElement(x, i) != c) return NULL;
    return c;
}

static bool const_real(V x, double *out) {
    V c = const_element(x);
    LLVMBool lost;
    if (!c || !LLVMIsAConstantFP(c)) return false;
    *out = LLVMConstRealGetDouble(c, &lost);
    return true;
}

static bool const_power_of_two(V x, int *out_log2) {
    V c = const_element(x);
    if (!c || !LLVMIsAConstantInt(c)) return false;
    i64 v = LLVMConstIntGetSExtValue(c);
    if (v <= 0 || (v & (v - 1))) return false;
    *out_log2 = __builtin_ctzll((u64)v);
    return true;
}

// --- One instruction each -----------------------------------------------------------------------
static V num(const Em *e, double v) { return real(e->f, v); }
static V inum(const Em *e, i64 v) { return whole(e->i, v); }
static V add(const Em *e, V x, V y) { return LLVMBuildFAdd(e->b, x, y, ""); }
static V sub(const Em *e, V x, V y) { return LLVMBuildFSub(e->b, x, y, ""); }
static V mul(const Em *e, V x, V y) { return LLVMBuildFMul(e->b, x, y, ""); }
static V quo(const Em *e, V x, V y) { return LLVMBuildFDiv(e->b, x, y, ""); }
static V neg(const Em *e, V x) { return LLVMBuildFNeg(e->b, x, ""); }
static V sel(const Em *e, V c, V x, V y) { return LLVMBuildSelect(e->b, c, x, y, ""); }
static V iadd(const Em *e, V x, V y) { return LLVMBuildAdd(e->b, x, y, ""); }
static V isub(const Em *e, V x, V y) { return LLVMBuildSub(e->b, x, y, ""); }
static V iand(const Em *e, V x, V y) { return LLVMBuildAnd(e->b, x, y, ""); }
static V ixor(const Em *e, V x, V y) { return LLVMBuildXor(e->b, x, y, ""); }
static V shl(const Em *e, V x, int n) { return LLVMBuildShl(e->b, x, whole(LLVMTypeOf(x), n), ""); }
static V sar(const Em *e, V x, int n) {
    return LLVMBuildAShr(e->b, x, whole(LLVMTypeOf(x), n), "");
}
static V bits(const Em *e, V x) { return LLVMBuildBitCast(e->b, x, e->i, ""); }
static V floats(const Em *e, V x) { return LLVMBuildBitCast(e->b, x, e->f, ""); }

static V is(const Em *e, LLVMRealPredicate p, V x, V y) { return LLVMBuildFCmp(e->b, p, x, y, ""); }

static V call(const Em *e, const char *name, LLVMTypeRef over, V *arg, unsigned n) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    unsigned nover = over ? 1 : 0;
    V fn = LLVMGetIntrinsicDeclaration(e->m->mod, id, &over, nover);
    return LLVMBuildCall2(e->b, LLVMIntrinsicGetType(e->m->ctx, id, &over, nover), fn, arg, n, "");
}
static V call1(const Em *e, const char *name, V x) { return call(e, name, LLVMTypeOf(x), &x, 1); }
static V fabsv(const Em *e, V x) { return call1(e, "llvm.fabs", x); }
static V floorv(const Em *e, V x) { return call1(e, "llvm.floor", x); }
static V round_even(const Em *e, V x) { return call1(e, "llvm.roundeven", x); }
static V sqrtv(const Em *e, V x) { return call1(e, "llvm.sqrt", x); }
static V copysignv(const Em *e, V x, V y) {
    return call(e, "llvm.copysign", LLVMTypeOf(x), (V[]){x, y}, 2);
}

// a*b + c
static V mad(const Em *e, V a, V b, V c) {
    if (!e->m->fma) return add(e, mul(e, a, b), c);
    return call(e, "llvm.fma", LLVMTypeOf(a), (V[]){a, b, c}, 3);
}

// One maxps or minps. A NaN in x stays; a NaN in y gives x.
static V at_least(const Em *e, V x, V y) { return sel(e, is(e, LLVMRealOGT, y, x), y, x); }
static V at_most(const Em *e, V x, V y) { return sel(e, is(e, LLVMRealOLT, y, x), y, x); }

// c[0] + c[1] x + .. + c[n-1] x^(n-1), each coefficient times `scale` (a power of two).
static V poly(const Em *e, V x, const float *c, int n, double scale) {
    LLVMTypeRef t = LLVMTypeOf(x);
    V r = real(t, c[n - 1] * scale);
    for (int i = n - 2; i >= 0; i--) r = mad(e, r, x, real(t, c[i] * scale));
    return r;
}
#define POLY(e, x, c, scale) poly(e, x, c, COUNTOF(c), scale)

// --- Exponentials -------------------------------------------------------------------------------

// x = n + f, |f| <= 1/2; 2^f by a polynomial, exact at 0; 2^n from the bits of a sum: adding 1.5
// 2^23 rounds x to an integer and leaves it in the low bits. With 126 on top, a shift by 23 makes
// them the float 2^(n-1), and the polynomial gives 2 2^f: so n = 128 does not overflow before the
// product does, and n = -126 is a clean zero. Multiplying (not adding to the exponent) keeps NaN a
// NaN.
static const double ROUND = 12582912; // 1.5 2^23
static const double ROUND_EXP = 12582912 + 126;

static const float EXP2[] = {1.0f,           0.693147182f,   0.240226507f,   0.0555037782f,
                             0.00961848814f, 0.00133851776f, 0.000152934444f};
// e^r, |r| <= ln(2)/2
static const float EXP[] = {1.0f,          1.0f,           0.5f,          0.166664883f,
                            0.0416655578f, 0.00837226585f, 0.00140340684f};
// (e^r - 1 - r) / r^2
static const float EXPM1[] = {0.5f,           0.166666672f,   0.0416664481f,
                              0.00833307765f, 0.00139370677f, 0.000200796494f};

static const double LOG2E = 1.44269504088896340736;
// ln 2 in two parts: the first has 9 bits, so n times it is exact even without FMA.
static const double LN2_HI = 0.693359375, LN2_LO = -2.12194440054690583e-4;

// 2^(n-1) from the sum n + ROUND_EXP.
static V pow2(const Em *e, V t) { return floats(e, shl(e, bits(e, t), 23)); }

// AVX-512: vreduceps gives f, vscalefps multiplies by 2^n with every special case: no clamps.
static V exp2_avx512(const Em *e, V x) {
    LLVMTypeRef mask = LLVMInt16TypeInContext(e->m->ctx), imm = LLVMInt32TypeInContext(e->m->ctx);
    V all = LLVMConstInt(mask, 0xffff, false), nearest = LLVMConstInt(imm, 0, false);
    V rounding = LLVMConstInt(imm, 4, false); // the current mode
    V part[] = {x, nearest, x, all, rounding};
    V f = call(e, "llvm.x86.avx512.mask.reduce.ps.512", NULL, part, 5);
    V scaled[] = {POLY(e, f, EXP2, 1), sub(e, x, f), x, all, rounding};
    return call(e, "llvm.x86.avx512.mask.scalef.ps.512", NULL, scaled, 5);
}

static V exp2v(const Em *e, V x) {
    if (e->m->avx512 && e->lanes == 16) return exp2_avx512(e, x);
    x = at_most(e, at_least(e, x, num(e, -126)), num(e, 128));
    V t = add(e, x, num(e, ROUND_EXP));
    V f = sub(e, x, sub(e, t, num(e, ROUND_EXP)));
    return mul(e, POLY(e, f, EXP2, 2), pow2(e, t));
}

// r = x - n ln 2 and the sum that holds n.
static V reduce_ln2(const Em *e, V x, V *out_t) {
    V t = mad(e, x, num(e, LOG2E), num(e, ROUND_EXP));
    V n = sub(e, t, num(e, ROUND_EXP));
    *out_t = t;
    return mad(e, n, num(e, -LN2_LO), mad(e, n, num(e, -LN2_HI), x));
}

// The upper clamp is left out where x <= 0 is known.
typedef enum { ANY_SIGN, NOT_POSITIVE } Range;
static V expv(const Em *e, V x, Range range) {
    x = at_least(e, x, num(e, -87.5));
    if (range == ANY_SIGN) x = at_most(e, x, num(e, 88.875));
    V t, r = reduce_ln2(e, x, &t);
    return mul(e, POLY(e, r, EXP, 2), pow2(e, t));
}

// e^x - 1 = 2 (s q + (s - 1/2)), s = 2^(n-1), q = e^r - 1 = r + r^2 P(r): n = 0 gives q itself.
static V expm1v(const Em *e, V x) {
    x = at_most(e, at_least(e, x, num(e, -20)), num(e, 88.875));
    V t, r = reduce_ln2(e, x, &t), s = pow2(e, t);
    V q = mad(e, mul(e, r, r), POLY(e, r, EXPM1, 1), r);
    V half = mad(e, s, q, sub(e, s, num(e, 0.5)));
    return add(e, half, half);
}

// --- Logarithms ---------------------------------------------------------------------------------

// x = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), by integer arithmetic on the bits.
// (log(1 + f) - f) / f^2
static const float LOG[] = {-0.5f,         0.333333313f,  -0.250008225f,
                            0.200012609f,  -0.166233346f, 0.142009467f,
                            -0.131595001f, 0.127669275f,  -0.0764307752f};

static const i64 SQRT_HALF = 0x3f3504f3, EXPONENT = -0x800000, ONE = 0x3f800000;

// The bits of 2^n in the exponent's place (n << 23) and n as a float.
static V exponent(const Em *e, V x, V *out_n) {
    V i = isub(e, bits(e, x), inum(e, SQRT_HALF));
    *out_n = LLVMBuildSIToFP(e->b, sar(e, i, 23), e->f, "");
    return iand(e, i, inum(e, EXPONENT));
}

// r where u is a positive normal number, else log's value there: 0 -> -inf, inf -> inf, NaN.
static V log_ends(const Em *e, V u, V r) {
    V none = sel(e, is(e, LLVMRealOGE, u, num(e, 0)), num(e, -INFINITY), num(e, NAN));
    r = sel(e, is(e, LLVMRealOGE, u, num(e, 0x1p-126)), r, none);
    return sel(e, is(e, LLVMRealOEQ, u, num(e, INFINITY)), u, r);
}

static V ln_sum(const Em *e, V n, V f) { // n ln 2 + log(1 + f)
    V g = mad(e, n, num(e, LN2_LO), mul(e, mul(e, f, f), POLY(e, f, LOG, 1)));
    return mad(e, n, num(e, LN2_HI), add(e, f, g));
}

static V logv(const Em *e, V x) {
    V n, top = exponent(e, x, &n);
    V f = sub(e, floats(e, isub(e, bits(e, x), top)), num(e, 1));
    return log_ends(e, x, ln_sum(e, n, f));
}

static V log2v(const Em *e, V x) {
    V n, top = exponent(e, x, &n);
    V f = sub(e, floats(e, isub(e, bits(e, x), top)), num(e, 1));
    V ln = mad(e, mul(e, f, f), POLY(e, f, LOG, 1), f);
    return log_ends(e, x, mad(e, ln, num(e, LOG2E), n));
}

// n from u = 1 + x, but f = 2^-n x + (2^-n - 1) from x itself: exact where it matters, so the
// rounding of u is harmless. 2^-n x is an integer subtraction (n != 0 only where x is far from 0);
// 2^-n is 0 where it would leave the normal range (n > 126).
static V log1pv(const Em *e, V x) {
    V u = add(e, x, num(e, 1)), n, top = exponent(e, u, &n);
    V xs = floats(e, isub(e, bits(e, x), top));
    V s = at_least(e, floats(e, isub(e, inum(e, ONE), top)), num(e, 0));
    return log_ends(e, u, ln_sum(e, n, add(e, xs, sub(e, s, num(e, 1)))));
}

// log(1 + u), 0 <= u <= 1: (log1p(u) - u) / u^2 by one polynomial, no exponent to take apart.
static const float LOG1P_UNIT[] = {-0.499999315f, 0.333304644f,  -0.24958019f,
                                   0.196921021f,  -0.153448805f, 0.106611282f,
                                   -0.057457231f, 0.0200862419f, -0.00329046859f};
static V log1p_unit(const Em *e, V u) { return mad(e, mul(e, u, u), POLY(e, u, LOG1P_UNIT, 1), u); }

// --- Activations --------------------------------------------------------------------------------
static V one_plus_exp_minus(const Em *e, V x) {
    return add(e, expv(e, neg(e, x), ANY_SIGN), num(e, 1));
}

// log1p(e^-|x|): what softplus and logsigmoid add to max(x, 0) and take from min(x, 0). Above 17 it
// is below half an ulp of x, so softplus(x) = x there, which includes fns.def's x > 20.
static V log1p_exp_minus_abs(const Em *e, V x) {
    return log1p_unit(e, expv(e, neg(e, fabsv(e, x)), NOT_POSITIVE));
}

// q / (q + 2), q = e^(2|x|) - 1: no cancellation at either end; 1 from |x| = 9.02 on.
static V tanhv(const Em *e, V x) {
    V a = at_most(e, fabsv(e, x), num(e, 10));
    V q = expm1v(e, add(e, a, a));
    return copysignv(e, quo(e, q, add(e, q, num(e, 2))), x);
}

// x Phi(x) = max(x, 0) - a Q(a), a = |x|, Q(a) = erfc(a / sqrt 2) / 2 = e^(-a^2/2) t P(t),
// t = 1 / (1 + 0.35 a): the tail keeps its relative accuracy, where 1 + erf would cancel.
static const float GELU[] = {0.13962166f,   0.13985756f,    0.119863138f,
                             0.1053918f,    -0.0228422265f, 0.158794239f,
                             -0.255388439f, 0.143816888f,   -0.0291146357f};
static V geluv(const Em *e, V x) {
    V a = at_most(e, fabsv(e, x), num(e, 14.5)); // beyond, e^(-a^2/2) is 0; keeps inf * 0 away
    V t = quo(e, num(e, 1), mad(e, a, num(e, 0.35), num(e, 1)));
    V g = expv(e, mul(e, mul(e, a, a), num(e, -0.5)), NOT_POSITIVE);
    V q = mul(e, mul(e, g, t), POLY(e, t, GELU, 1));
    return sub(e, at_least(e, x, num(e, 0)), mul(e, a, q));
}

// --- Sine and cosine ----------------------------------------------------------------------------

// x - n pi/2 in four steps; the first three parts have 8 bits, so their products with n < 2^16 are
// exact.
static const double PIO2[] = {0x1.92p+0, 0x1.fap-12, 0x1.54p-20, 0x1.10b4611a62633p-30};
// (sin r - r) / r^3 and (cos r - 1) / r^2, |r| <= pi/4
static const float SIN[] = {-0.166666552f, 0.00833218731f, -0.00019517896f};
static const float COS[] = {-0.5f, 0.0416666456f, -0.00138873095f, 2.44323273e-05f};

static V sine(const Em *e, V x, int quarters) { // sin(x + quarters pi/2)
    V t = mad(e, x, num(e, 0.63661977236758134308), num(e, ROUND));
    V n = sub(e, t, num(e, ROUND)), r = x;
    for (size_t i = 0; i < COUNTOF(PIO2); i++) r = mad(e, n, num(e, -PIO2[i]), r);
    r = at_most(e, at_least(e, r, num(e, -0.8)), num(e, 0.8)); // |result| <= 1 whatever x is
    V q = bits(e, t), r2 = mul(e, r, r);
    if (quarters) q = iadd(e, q, inum(e, quarters));
    V s = mad(e, mul(e, r, r2), POLY(e, r2, SIN, 1), r);
    V c = mad(e, r2, POLY(e, r2, COS, 1), num(e, 1));
    V odd = LLVMBuildICmp(e->b, LLVMIntNE, iand(e, q, inum(e, 1)), inum(e, 0), "");
    V v = sel(e, odd, c, s);
    return floats(e, ixor(e, bits(e, v), shl(e, iand(e, q, inum(e, 2)), 30)));
}

// --- Power --------------------------------------------------------------------------------------

// y log2|x| needs 24 bits after up to 7 before the point: log2 and the product are taken in double.
// log2(1 + f) = 2 log2(e) atanh(f / (2 + f)). Finite even for a = 0 and inf, so that y = 0 gives 0.
static V log2_double(const Em *e, V a) {
    V n, top = exponent(e, a, &n);
    V f = LLVMBuildFPExt(e->b, sub(e, floats(e, isub(e, bits(e, a), top)), num(e, 1)), e->d, "");
    V s = quo(e, f, add(e, f, real(e->d, 2))), s2 = mul(e, s, s);
    V p = real(e->d, 2 * LOG2E / 11);
    for (int k = 9; k > 0; k -= 2) p = mad(e, p, s2, real(e->d, 2 * LOG2E / k));
    V l = mad(e, s, p, LLVMBuildFPExt(e->b, n, e->d, ""));
    l = sel(e, is(e, LLVMRealOLT, a, num(e, 0x1p-126)), real(e->d, -1e300), l);
    return sel(e, is(e, LLVMRealOEQ, a, num(e, INFINITY)), real(e->d, 1e300), l);
}

// x^n by multiplications for the small constants that specs write. NULL: not such a case.
static V pow_const(const Em *e, V x, V y) {
    double n;
    if (!const_real(y, &n)) return NULL;
    if (n == 1) return x;
    if (n == -1) return quo(e, num(e, 1), x);
    if (n != 2 && n != 3 && n != 4) return NULL;
    V x2 = mul(e, x, x);
    return n == 2 ? x2 : mul(e, x2, n == 3 ? x : x2);
}

// As C's pow, except that it gives NaN for NaN to the 0, 1 to the NaN, +-1 to +-inf and (-inf) to a
// fraction.
static V powv(const Em *e, V x, V y) {
    V r = pow_const(e, x, y);
    if (r) return r;
    V w = mul(e, LLVMBuildFPExt(e->b, y, e->d, ""), log2_double(e, fabsv(e, x)));
    w = at_most(e, at_least(e, w, real(e->d, -126)), real(e->d, 128));
    V t = add(e, LLVMBuildFPTrunc(e->b, w, e->f, ""), num(e, ROUND_EXP));
    V n = LLVMBuildFPExt(e->b, sub(e, t, num(e, ROUND_EXP)), e->d, "");
    V f = LLVMBuildFPTrunc(e->b, sub(e, w, n), e->f, "");
    r = mul(e, POLY(e, f, EXP2, 2), pow2(e, t));

    V half = mul(e, y, num(e, 0.5));
    V fraction = is(e, LLVMRealONE, y, round_even(e, y));
    V not_even = is(e, LLVMRealONE, half, round_even(e, half));
    r = sel(e, iand(e, not_even, LLVMBuildNot(e->b, fraction, "")), copysignv(e, r, x), r);
    V lost = iand(e, is(e, LLVMRealULT, x, num(e, 0)), fraction);
    lost = LLVMBuildOr(e->b, lost, is(e, LLVMRealUNO, x, x), "");
    return sel(e, lost, num(e, NAN), r);
}

// --- Arithmetic ---------------------------------------------------------------------------------

// Towards minus (up: plus) infinity; a power of two as the divisor is a shift.
static V int_quo(const Em *e, V x, V y, bool up) {
    LLVMTypeRef t = LLVMTypeOf(x);
    V zero = whole(t, 0);
    int k;
    if (const_power_of_two(y, &k)) {
        if (up) x = iadd(e, x, whole(t, ((i64)1 << k) - 1));
        return sar(e, x, k);
    }
    V q = LLVMBuildSDiv(e->b, x, y, ""), r = LLVMBuildSRem(e->b, x, y, "");
    V inexact = LLVMBuildICmp(e->b, LLVMIntNE, r, zero, "");
    V wrong = LLVMBuildICmp(e->b, up ? LLVMIntSGE : LLVMIntSLT, ixor(e, r, y), zero, "");
    V fix = LLVMBuildSExt(e->b, iand(e, inexact, wrong), t, ""); // 0 or -1
    return up ? isub(e, q, fix) : iadd(e, q, fix);
}

static V int_mod(const Em *e, V x, V y) {
    LLVMTypeRef t = LLVMTypeOf(x);
    int k;
    if (const_power_of_two(y, &k)) return iand(e, x, whole(t, ((i64)1 << k) - 1));
    V r = LLVMBuildSRem(e->b, x, y, ""), zero = whole(t, 0);
    V wrong = iand(e, LLVMBuildICmp(e->b, LLVMIntNE, r, zero, ""),
                   LLVMBuildICmp(e->b, LLVMIntSLT, ixor(e, r, y), zero, ""));
    return iadd(e, r, iand(e, LLVMBuildSExt(e->b, wrong, t, ""), y));
}

static V pick(const Em *e, LLVMIntPredicate p, V x, V y) {
    return sel(e, LLVMBuildICmp(e->b, p, x, y, ""), x, y);
}

static V int_arith(const Em *e, FnCode f, V x, V y, V z) {
    switch (f) {
    case FN_ADD: return iadd(e, x, y);
    case FN_SUB: return isub(e, x, y);
    case FN_MUL: return LLVMBuildMul(e->b, x, y, "");
    case FN_FDIV: return int_quo(e, x, y, false);
    case FN_CDIV: return int_quo(e, x, y, true);
    case FN_MOD: return int_mod(e, x, y);
    case FN_NEG: return LLVMBuildNeg(e->b, x, "");
    case FN_MIN: return pick(e, LLVMIntSLT, x, y);
    case FN_MAX: return pick(e, LLVMIntSGT, x, y);
    case FN_CLAMP: return pick(e, LLVMIntSLT, pick(e, LLVMIntSGT, x, y), z);
    case FN_ABS: return pick(e, LLVMIntSGT, x, LLVMBuildNeg(e->b, x, ""));
    default: SSD_BUG("%s is not arithmetic", ssd_fns[f].name);
    }
}

// fmin or fmax: the operand that is a number. One instruction when either is a constant, or three.
static V num_pick(const Em *e, V x, V y, V (*bound)(const Em *, V, V)) {
    double c;
    if (const_real(y, &c)) return bound(e, y, x);
    V r = bound(e, x, y); // NaN only when x is
    return const_real(x, &c) ? r : sel(e, is(e, LLVMRealUNO, x, x), y, r);
}

static V float_fn(const Em *e, FnCode f, V x, V y, V z) {
    switch (f) {
    case FN_ADD: return add(e, x, y);
    case FN_SUB: return sub(e, x, y);
    case FN_MUL: return mul(e, x, y);
    case FN_DIV: return quo(e, x, y);
    case FN_FDIV: return floorv(e, quo(e, x, y));
    case FN_CDIV: return call1(e, "llvm.ceil", quo(e, x, y));
    case FN_MOD: return mad(e, neg(e, floorv(e, quo(e, x, y))), y, x);
    case FN_NEG: return neg(e, x);
    case FN_MIN: return num_pick(e, x, y, at_most);
    case FN_MAX: return num_pick(e, x, y, at_least);
    case FN_CLAMP: return at_most(e, at_least(e, x, y), z);
    case FN_ABS: return fabsv(e, x);
    case FN_POW: return powv(e, x, y);
    case FN_EXP: return expv(e, x, ANY_SIGN);
    case FN_EXP2: return exp2v(e, x);
    case FN_EXPM1: return expm1v(e, x);
    case FN_LOG: return logv(e, x);
    case FN_LOG2: return log2v(e, x);
    case FN_LOG1P: return log1pv(e, x);
    case FN_SQRT: return sqrtv(e, x);
    case FN_RSQRT: return quo(e, num(e, 1), sqrtv(e, x));
    case FN_SIGMOID: return quo(e, num(e, 1), one_plus_exp_minus(e, x));
    case FN_LOGSIGMOID: return sub(e, at_most(e, x, num(e, 0)), log1p_exp_minus_abs(e, x));
    case FN_SOFTPLUS: return add(e, at_least(e, x, num(e, 0)), log1p_exp_minus_abs(e, x));
    case FN_TANH: return tanhv(e, x);
    case FN_SILU: return quo(e, x, one_plus_exp_minus(e, x));
    case FN_RELU: return at_least(e, x, num(e, 0));
    case FN_ELU: return sel(e, is(e, LLVMRealOGT, x, num(e, 0)), x, expm1v(e, x));
    case FN_GELU: return geluv(e, x);
    case FN_SIN: return sine(e, x, 0);
    case FN_COS: return sine(e, x, 1);
    default: SSD_BUG("function %d is not one of floats", (int)f);
    }
}

// --- Comparison and logic -----------------------------------------------------------------------
static const struct {
    LLVMRealPredicate f;
    LLVMIntPredicate i;
} PREDICATE[] = {
    // C's: only != holds for NaN
    [FN_LT - FN_LT] = {LLVMRealOLT, LLVMIntSLT}, [FN_LE - FN_LT] = {LLVMRealOLE, LLVMIntSLE},
    [FN_GT - FN_LT] = {LLVMRealOGT, LLVMIntSGT}, [FN_GE - FN_LT] = {LLVMRealOGE, LLVMIntSGE},
    [FN_EQ - FN_LT] = {LLVMRealOEQ, LLVMIntEQ},  [FN_NE - FN_LT] = {LLVMRealUNE, LLVMIntNE},
};

static V truth(const Em *e, V x) {
    LLVMTypeRef t = LLVMTypeOf(x);
    if (is_bool(x)) return x;
    if (is_float(x)) return is(e, LLVMRealUNE, x, real(t, 0));
    return LLVMBuildICmp(e->b, LLVMIntNE, x, whole(t, 0), "");
}

static V as_float(const Em *e, V x) {
    if (!x || is_float(x)) return x;
    return is_bool(x) ? LLVMBuildUIToFP(e->b, x, e->f, "") : LLVMBuildSIToFP(e->b, x, e->f, "");
}

LLVMValueRef ssd_llvm_fn(const LlvmMath *m, LLVMBuilderRef b, FnCode f, V x, V y, V z) {
    // where's lanes are those of its values: its condition may be a single i1
    LLVMTypeRef shape = LLVMTypeOf(f == FN_WHERE ? y : x);
    Em em = {.m = m, .b = b, .lanes = is_vector(shape) ? LLVMGetVectorSize(shape) : 0}, *e = &em;
    if (e->lanes > MAX_LANES) SSD_BUG("%u lanes", e->lanes);
    e->f = lanes_of(LLVMFloatTypeInContext(m->ctx), e->lanes);
    e->i = lanes_of(LLVMInt32TypeInContext(m->ctx), e->lanes);
    e->d = lanes_of(LLVMDoubleTypeInContext(m->ctx), e->lanes);

    if (f == FN_AND) return iand(e, truth(e, x), truth(e, y));
    if (f == FN_OR) return LLVMBuildOr(b, truth(e, x), truth(e, y), "");
    if (f == FN_NOT) return LLVMBuildNot(b, truth(e, x), "");

    bool where = f == FN_WHERE, some = ssd_fns[f].kind == 'F';
    V arg[3] = {where ? truth(e, x) : x, y, z};
    for (int i = where; i < ssd_fns[f].arity; i++) some |= is_float(arg[i]);
    for (int i = where; some && i < ssd_fns[f].arity; i++) arg[i] = as_float(e, arg[i]);

    if (where) return sel(e, arg[0], arg[1], arg[2]);
    if (f >= FN_LT && f <= FN_NE) {
        if (some) return is(e, PREDICATE[f - FN_LT].f, arg[0], arg[1]);
        return LLVMBuildICmp(b, PREDICATE[f - FN_LT].i, arg[0], arg[1], "");
    }
    return some ? float_fn(e, f, arg[0], arg[1], arg[2]) : int_arith(e, f, arg[0], arg[1], arg[2]);
}
