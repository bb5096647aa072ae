// SPDX-License-Identifier: Apache-2.0
// What every generated CUDA program starts with: storage types, tensors, scalar functions. No headers; NVRTC 12
// and 13, sm_80 and later. FAST says that tensors are bf16 or f16: then a few units in the last place of f32 do
// not matter.
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#define DEVICE __device__ __forceinline__
#define INF __int_as_float(0x7f800000)

// --- Storage types ---------------------------------------------------------------------------------------
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};
DEVICE float decode(float v) { return v; }
DEVICE int decode(int v) { return v; }
DEVICE float decode(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
DEVICE float decode(f16 v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
    return r;
}
DEVICE u32 pack_bf16(float lo, float hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
DEVICE void encode(float v, float *to) { *to = v; }
DEVICE void encode(float v, int *to) { *to = (int)v; }
DEVICE void encode(int v, int *to) { *to = v; }
DEVICE void encode(int v, float *to) { *to = (float)v; }
DEVICE void encode(float v, bf16 *to) { to->bits = (u16)pack_bf16(v, 0); }
DEVICE void encode(float v, f16 *to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(v)); }
// A value that the program rounds to a narrow type stays f32.
DEVICE float round_bf16(float v) { return __uint_as_float(pack_bf16(v, 0) << 16); }
DEVICE float round_f16(float v) {
    f16 h;
    encode(v, &h);
    return decode(h);
}

enum Round { TO_F32, TO_BF16, TO_F16 };
template <Round to> DEVICE float rounded(float v) {
    return to == TO_BF16 ? round_bf16(v) : to == TO_F16 ? round_f16(v) : v;
}

// --- Tensors: any strides, offsets of 64 bits ---------------------------------------------------------------
// What no kernel writes meanwhile is read through the read-only path, past which loads may move.
DEVICE float fetch(const float *p) { return __ldg(p); }
DEVICE int fetch(const int *p) { return __ldg(p); }
DEVICE bf16 fetch(const bf16 *p) { return {__ldg(&p->bits)}; }
DEVICE f16 fetch(const f16 *p) { return {__ldg(&p->bits)}; }
DEVICE u32 fetch(const u32 *p) { return __ldg(p); }
DEVICE uint2 fetch(const uint2 *p) { return __ldg(p); }
DEVICE uint4 fetch(const uint4 *p) { return __ldg(p); }
template <class T> DEVICE T fetch(T *p) { return *p; }

// Loads and stores of four neighbours, or of one, under a condition and without a branch: those of several turns
// of a loop are then under way at once. What is not loaded keeps its value.
#define IF(n) "{ .reg .pred p; setp.ne.s32 p, %" #n ", 0; @p "
#define GLOBAL(p) "l"(__cvta_generic_to_global(p))
DEVICE void load4_if(bool yes, float (&v)[4], const float *p) {
    asm(IF(5) "ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4]; }" : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3]) : GLOBAL(p), "r"((int)yes));
}
DEVICE void load4_if(bool yes, float (&v)[4], float *p) {
    asm volatile(IF(5) "ld.global.v4.f32 {%0,%1,%2,%3}, [%4]; }" : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3]) : GLOBAL(p), "r"((int)yes) : "memory");
}
DEVICE void load2_if(bool yes, uint2 &w, const u16 *p) {
    asm(IF(3) "ld.global.nc.v2.u32 {%0,%1}, [%2]; }" : "+r"(w.x), "+r"(w.y) : GLOBAL(p), "r"((int)yes));
}
DEVICE void load2_if(bool yes, uint2 &w, u16 *p) {
    asm volatile(IF(3) "ld.global.v2.u32 {%0,%1}, [%2]; }" : "+r"(w.x), "+r"(w.y) : GLOBAL(p), "r"((int)yes) : "memory");
}
DEVICE void load_if(bool yes, float &v, const float *p) {
    asm(IF(2) "ld.global.nc.f32 %0, [%1]; }" : "+f"(v) : GLOBAL(p), "r"((int)yes));
}
DEVICE void load_if(bool yes, float &v, float *p) {
    asm volatile(IF(2) "ld.global.f32 %0, [%1]; }" : "+f"(v) : GLOBAL(p), "r"((int)yes) : "memory");
}
DEVICE void bits_if(bool yes, u16 &v, const u16 *p) {
    asm(IF(2) "ld.global.nc.u16 %0, [%1]; }" : "+h"(v) : GLOBAL(p), "r"((int)yes));
}
DEVICE void bits_if(bool yes, u16 &v, u16 *p) {
    asm volatile(IF(2) "ld.global.u16 %0, [%1]; }" : "+h"(v) : GLOBAL(p), "r"((int)yes) : "memory");
}
DEVICE void halves(float (&v)[4], uint2 w, bf16) {
    v[0] = __uint_as_float(w.x << 16), v[1] = __uint_as_float(w.x & 0xffff0000u);
    v[2] = __uint_as_float(w.y << 16), v[3] = __uint_as_float(w.y & 0xffff0000u);
}
DEVICE void halves(float (&v)[4], uint2 w, f16) {
    v[0] = decode(f16{(u16)w.x}), v[1] = decode(f16{(u16)(w.x >> 16)});
    v[2] = decode(f16{(u16)w.y}), v[3] = decode(f16{(u16)(w.y >> 16)});
}
// Elements p[0], p[step], .. of which `there` has a bit each; `quad`: all of them, as one.
template <class F> DEVICE void gather(bool quad, int there, float (&v)[4], F *p, i64 step, float) {
    v[0] = v[1] = v[2] = v[3] = 0.0f;
    load4_if(quad, v, p);
    #pragma unroll
    for (int k = 0; k < 4; k++) load_if(!quad && there >> k & 1, v[k], p + k * step);
}
template <class H, class E> DEVICE void gather(bool quad, int there, float (&v)[4], H *p, i64 step, E) {
    u16 one[4] = {0, 0, 0, 0};
    uint2 w = make_uint2(0, 0);
    load2_if(quad, w, &p->bits);
    #pragma unroll
    for (int k = 0; k < 4; k++) bits_if(!quad && there >> k & 1, one[k], &p[k * step].bits);
    w.x |= one[0] | (u32)one[1] << 16, w.y |= one[2] | (u32)one[3] << 16;
    halves(v, w, E());
}
DEVICE u32 pack(float lo, float hi, bf16) { return pack_bf16(lo, hi); }
DEVICE u32 pack(float lo, float hi, f16) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
DEVICE void scatter(bool quad, int there, const float (&v)[4], float *p, i64 step) {
    asm volatile(IF(5) "st.global.v4.f32 [%4], {%0,%1,%2,%3}; }" ::"f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), GLOBAL(p), "r"((int)quad) : "memory");
    #pragma unroll
    for (int k = 0; k < 4; k++)
        asm volatile(IF(2) "st.global.f32 [%1], %0; }" ::"f"(v[k]), GLOBAL(p + k * step), "r"((int)(!quad && there >> k & 1)) : "memory");
}
template <class H> DEVICE void scatter(bool quad, int there, const float (&v)[4], H *p, i64 step) {
    u32 lo = pack(v[0], v[1], H()), hi = pack(v[2], v[3], H());
    asm volatile(IF(3) "st.global.v2.u32 [%2], {%0,%1}; }" ::"r"(lo), "r"(hi), GLOBAL(p), "r"((int)quad) : "memory");
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        u16 one = (u16)((k < 2 ? lo : hi) >> k % 2 * 16);
        asm volatile(IF(2) "st.global.u16 [%1], %0; }" ::"h"(one), GLOBAL(p + k * step), "r"((int)(!quad && there >> k & 1)) : "memory");
    }
}

DEVICE int here(int i) {  // computed where it stands, not ahead of a loop
    asm volatile("" : "+r"(i));
    return i;
}
// Bit d of `check`: index d may be out of range; such an element reads 0 and is not written. `quads`: rows
// are dense and begin where four elements may be moved at once.
template <class T, int rank> struct Tensor {
    T *data;
    const i64 *stride, *dim;
    bool quads;

    DEVICE Tensor(void *p, const i64 *s, const i64 *d) : data((T *)p), stride(s), dim(d) {
        quads = rank > 0 && (u64)p % (4 * sizeof(T)) == 0 && (rank == 0 || s[rank - 1] == 1);
        for (int i = 0; i + 1 < rank; i++) quads = quads && (s[i] & 3) == 0;
    }
    template <int check, int d> DEVICE bool inside() const { return true; }
    template <int check, int d, class... I> DEVICE bool inside(int i, I... rest) const {
        return (!(check >> d & 1) || (u32)i < (u64)dim[d]) && inside<check, d + 1>(rest...);
    }
    template <int d> DEVICE i64 offset() const { return 0; }
    template <int d, class... I> DEVICE i64 offset(int i, I... rest) const {
        return i * stride[d] + offset<d + 1>(rest...);
    }
    template <int check = 0, class... I> DEVICE auto get(I... i) const -> decltype(decode(fetch(data))) {
        return inside<check, 0>(i...) ? decode(fetch(&data[offset<0>(i...)])) : 0;
    }
    template <int check = 0, class V, class... I> DEVICE void put(V v, I... i) const {
        if (inside<check, 0>(i...)) encode(v, &data[offset<0>(i...)]);
    }
    // Where an element lies; null where there is none. Copies that are seldom needed keep no registers for it.
    template <int check = 0, class... I> DEVICE T *at(I... i) const {
        return inside<check, 0>(i...) ? &data[offset<0>(here(i)...)] : nullptr;
    }
    template <class... I> DEVICE T *spot(I... i) const { return &data[offset<0>(here(i)...)]; }  // there or not
    template <class... I> DEVICE T *place(I... i) const { return &data[offset<0>(i...)]; }       // that is there
    // Of the last index and the three after it: which are there, and are they all there in one place?
    template <int check, class... I> DEVICE int four(bool when, bool *out_quad, I... i) const {
        constexpr int checked = check >> (rank - 1) & 1;
        const int last = last_of(i...);
        when = when && inside<check & ((1 << (rank - 1)) - 1), 0>(i...);
        int there = when ? 15 : 0;
        if (checked)
            for (int k = 0; k < 4; k++)
                if ((u32)(last + k) >= (u64)dim[rank - 1]) there &= ~(1 << k);
        *out_quad = quads && there == 15 && (last & 3) == 0;
        return there;
    }
    template <class... I> static DEVICE int last_of(int i, I... rest) {
        if constexpr (sizeof...(rest) == 0) return i;
        else return last_of(rest...);
    }
    template <int check = 0, class... I> DEVICE void get4(bool when, float (&v)[4], I... i) const {
        bool quad;
        const int there = four<check>(when, &quad, i...);
        gather(quad, there, v, &data[offset<0>(i...)], stride[rank - 1], T());
    }
    template <int check = 0, class... I> DEVICE void put4(bool when, const float (&v)[4], I... i) const {
        bool quad;
        const int there = four<check>(when, &quad, i...);
        scatter(quad, there, v, &data[offset<0>(i...)], stride[rank - 1]);
    }
    // n neighbours from a multiple of n on; all of them are there.
    template <int check = 0, int n, class... I> DEVICE void get_row(bool when, float (&v)[n], I... i) const {
        T *p = &data[offset<0>(i...)];
        when = when && inside<check, 0>(i...);
        #pragma unroll
        for (int k = 0; k < n; k += n % 4 ? 1 : 4)
            if constexpr (n % 4 == 0) {
                float q[4];
                gather(when && quads, when ? 15 : 0, q, p + k * stride[rank - 1], stride[rank - 1], T());
                v[k] = q[0], v[k + 1] = q[1], v[k + 2] = q[2], v[k + 3] = q[3];
            } else {
                v[k] = when ? decode(fetch(p + k * stride[rank - 1])) : 0.0f;
            }
    }
    template <int check = 0, int n, class... I> DEVICE void put_row(bool when, const float (&v)[n], I... i) const {
        T *p = &data[offset<0>(i...)];
        when = when && inside<check, 0>(i...);
        #pragma unroll
        for (int k = 0; k < n; k += n % 4 ? 1 : 4)
            if constexpr (n % 4 == 0) {
                const float q[4] = {v[k], v[k + 1], v[k + 2], v[k + 3]};
                scatter(when && quads, when ? 15 : 0, q, p + k * stride[rank - 1], stride[rank - 1]);
            } else if (when) {
                encode(v[k], p + k * stride[rank - 1]);
            }
    }
};

// --- Scalar functions --------------------------------------------------------------------------------------
DEVICE float add(float x, float y) { return x + y; }
DEVICE float minimum(float x, float y) { return fminf(x, y); }
DEVICE float maximum(float x, float y) { return fmaxf(x, y); }
DEVICE int minimum(int x, int y) { return x < y ? x : y; }
DEVICE int maximum(int x, int y) { return x > y ? x : y; }
DEVICE float clamp(float x, float lo, float hi) { return fminf(fmaxf(x, lo), hi); }
DEVICE int floor_div(int x, int y) { return x / y - (x % y != 0 && (x < 0) != (y < 0)); }
DEVICE float floor_div(float x, float y) { return floorf(x / y); }
DEVICE int ceil_div(int x, int y) { return -floor_div(-x, y); }
DEVICE float ceil_div(float x, float y) { return ceilf(x / y); }
template <class T> DEVICE T modulo(T x, T y) { return x - y * floor_div(x, y); }

// 2^x: the hardware's error is 2^-22, as good as f32 gets; it flushes subnormal results only.
DEVICE float ex2(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
DEVICE float exponential(float x) { return FAST ? ex2(x * 1.44269504f) : expf(x); }
DEVICE float divide(float x, float y) { return FAST ? __fdividef(x, y) : x / y; }
DEVICE float reciprocal(float x) { return FAST ? __fdividef(1.0f, x) : 1.0f / x; }
DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(exponential(x)); }
DEVICE float sigmoid(float x) { return reciprocal(1.0f + exponential(-x)); }
DEVICE float logsigmoid(float x) { return x < 0.0f ? x - log1pf(exponential(x)) : -log1pf(exponential(-x)); }
// x * sigmoid(x), not x / (1 + e^-x): a fast quotient is 0 where the divisor passes 2^126.
DEVICE float silu(float x) { return x * sigmoid(x); }
DEVICE float relu(float x) { return fmaxf(x, 0.0f); }
DEVICE float elu(float x) { return x > 0.0f ? x : expm1f(x); }
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.707106781f)); }

// Sine and cosine of any f32 without a stack frame: x = k*pi/2 + r, in three pieces of pi/2 while k is exact
// in f32, else in double; then a polynomial for |r| <= pi/4.
DEVICE float quarter(float x, int *out_k) {
    if (fabsf(x) < 40000.0f) {
        float k = rintf(x * 0.636619772f);
        *out_k = (int)k;
        return fmaf(k, -5.39030253e-15f, fmaf(k, -7.54978942e-08f, fmaf(k, -1.57079625f, x)));
    }
    double k = rint(x * 0.63661977236758134308);
    *out_k = (int)(long long)(k - 4 * floor(k / 4));
    return (float)fma(k, -6.123233995736766e-17, fma(k, -1.5707963267948966, (double)x));
}
DEVICE float quarter_wave(float r, int k) {
    float z = r * r;
    float s = fmaf(fmaf(fmaf(-1.95152959e-4f, z, 8.33216087e-3f), z, -1.66666546e-1f) * z, r, r);
    float c = fmaf(fmaf(fmaf(2.44331571e-5f, z, -1.38873162e-3f), z, 4.16666456e-2f) * z, z, fmaf(-0.5f, z, 1.0f));
    float v = k & 1 ? c : s;
    return k & 2 ? -v : v;
}
// For narrow tensors: whole turns less, the hardware's error is 2^-20.
DEVICE float less_turns(float x) {
    float k = rintf(x * 0.159154943f);
    return fmaf(k, -3.01991577e-07f, fmaf(k, -6.283185f, x));
}
DEVICE float sine(float x) {
    if (FAST) return __sinf(less_turns(x));
    int k;
    float r = quarter(x, &k);
    return quarter_wave(r, k);
}
DEVICE float cosine(float x) {
    if (FAST) return __cosf(less_turns(x));
    int k;
    float r = quarter(x, &k);
    return quarter_wave(r, k + 1);
}

// --- Sums and scans ------------------------------------------------------------------------------------------
template <bool max> DEVICE float combine(float x, float y) { return max ? fmaxf(x, y) : x + y; }
template <bool max> DEVICE float neutral() { return max ? -INF : 0.0f; }
enum ScanKind { REV = 1, EXCL = 2, MAX = 4 };
