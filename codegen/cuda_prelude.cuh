// SPDX-License-Identifier: Apache-2.0
// What every generated CUDA kernel starts with: storage types, tensors, scalar functions, and the three things a
// block does together: products, scans and sums. No headers; NVRTC 12 and 13, sm_80 and later.
//
// THREADS is the block's size and FAST says that tensors are bf16 or f16: then a few units in the last place
// of f32 do not matter. Tiles lie in shared memory as f32, rows padded to an odd number of 16-byte pieces:
// eight rows next to each other are in different banks, whichever way a tile is read.
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#define DEVICE __device__ __forceinline__
enum { WARPS = THREADS / 32 };
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

// Bit d of `check`: index d may be out of range; such an element reads 0 and is not written. `quads`: rows are
// dense and begin where four elements may be moved at once.
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
DEVICE float sine(float x) {
    int k;
    float r = quarter(x, &k);
    return quarter_wave(r, k);
}
DEVICE float cosine(float x) {
    int k;
    float r = quarter(x, &k);
    return quarter_wave(r, k + 1);
}

// --- Sums over warps and blocks: fixed order, so the same bits each time ---------------------------------------
template <bool max> DEVICE float combine(float x, float y) { return max ? fmaxf(x, y) : x + y; }
template <bool max> DEVICE float neutral() { return max ? -INF : 0.0f; }

// The result is in every lane.
template <bool max> DEVICE float warp_reduce(float v) {
    for (int d = 16; d; d /= 2) v = combine<max>(v, __shfl_xor_sync(~0u, v, d));
    return v;
}
// The result is in every thread.
template <bool max> DEVICE float block_reduce(float v) {
    __shared__ float part[WARPS];
    v = warp_reduce<max>(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    for (int i = 1; i < WARPS; i++) v = combine<max>(v, part[i]);
    return v;
}

// --- Scans ---------------------------------------------------------------------------------------------------
enum ScanKind { REV = 1, EXCL = 2, MAX = 4 };

// One line of n elements by one thread, `from` and `to` a stride apart.
template <int n, int kind, Round round = TO_F32> DEVICE void thread_scan(const float *from, int step, float *to, int out_step) {
    float total = neutral<(kind & MAX) != 0>();
    for (int k = 0; k < n; k++) {
        int i = kind & REV ? n - 1 - k : k;
        float next = combine<(kind & MAX) != 0>(total, from[i * step]);
        to[i * out_step] = rounded<round>(kind & EXCL ? total : next);
        total = next;
    }
}
// The same by a warp: five steps for each 32 elements.
template <int n, int kind, Round round = TO_F32> DEVICE void warp_scan(const float *from, int step, float *to, int out_step) {
    constexpr bool max = (kind & MAX) != 0;
    const int lane = threadIdx.x % 32;
    float total = neutral<max>();
    for (int first = 0; first < n; first += 32) {
        int k = first + lane, i = kind & REV ? n - 1 - k : k;
        float v = k < n ? from[i * step] : neutral<max>();
        for (int d = 1; d < 32; d *= 2) {
            float below = __shfl_up_sync(~0u, v, d);
            if (lane >= d) v = combine<max>(v, below);
        }
        v = combine<max>(total, v);
        float below = __shfl_up_sync(~0u, v, 1);
        if (k < n) to[i * out_step] = rounded<round>(!(kind & EXCL) ? v : lane ? below : total);
        total = __shfl_sync(~0u, v, 31);
    }
}

// --- Products: out[m, n] = c[m, n] + sum over k of a[m, k] * b[k, n] --------------------------------------------
// Strides of a tile in shared memory: along its two axes of the product, then along up to three more: two
// that all tiles share or lack (u, v) and one more contracted axis (w).
template <int first, int second, int u_ = 0, int v_ = 0, int w_ = 0> struct Tile {
    float *data;
    enum { s0 = first, s1 = second, u = u_, v = v_, w = w_ };
};
struct Zero {  // no accumulator
    float *data;
    enum { s0 = 0, s1 = 0, u = 0, v = 0, w = 0 };
};
template <int m_, int n_, int k_, int u_ = 1, int v_ = 1, int w_ = 1> struct Dims {
    enum { m = m_, n = n_, k = k_, u = u_, v = v_, w = w_ };
};
// What is known to be zero of a triangular operand bounds the contraction of a block of the result.
enum Bound { ALL_K, K_UPTO_ROW, K_FROM_ROW, K_UPTO_COL, K_FROM_COL };
template <Bound bound> DEVICE int first_k(int row, int col) {
    return bound == K_FROM_ROW ? row : bound == K_FROM_COL ? col : 0;
}
template <Bound bound> DEVICE int end_k(int last_row, int last_col, int k) {
    return bound == K_UPTO_ROW ? min(last_row + 1, k) : bound == K_UPTO_COL ? min(last_col + 1, k) : k;
}
// True f32: a thread has 4 x 4 results; 16 threads side by side read 16 neighbours of b.
template <class D, Bound bound, Round to, class A, class B, class C, class O>
DEVICE void mma_f32(const A a, const B b, const C c, const O o) {
    constexpr int rows = D::m >= 4 ? 4 : 1, cols = D::n >= 64 ? 4 : 1;
    constexpr int across = (D::n + 16 * cols - 1) / (16 * cols) * 16, down = (D::m + rows - 1) / rows;
    for (int e = threadIdx.x; e < across * down * D::u * D::v; e += THREADS) {
        const int x = e % across, y = e / across % down, u = e / (across * down) % D::u, v = e / (across * down * D::u);
        const int col = x / 16 * 16 * cols + x % 16, row = y * rows;
        const float *pa = a.data + u * A::u + v * A::v, *pb = b.data + u * B::u + v * B::v;
        float acc[rows][cols];
        #pragma unroll
        for (int i = 0; i < rows; i++)
            #pragma unroll
            for (int j = 0; j < cols; j++) {
                const bool live = row + i < D::m && col + 16 * j < D::n;
                acc[i][j] = c.data && live ? c.data[(row + i) * C::s0 + (col + 16 * j) * C::s1 + u * C::u + v * C::v] : 0.0f;
            }
        const int end = end_k<bound>(row + rows - 1, col + 16 * cols - 16, D::k);
        for (int w = 0; w < D::w; w++)
            #pragma unroll 4
            for (int k = first_k<bound>(row, col); k < end; k++) {
                float va[rows], vb[cols];
                #pragma unroll
                for (int i = 0; i < rows; i++) va[i] = pa[min(row + i, D::m - 1) * A::s0 + k * A::s1 + w * A::w];
                #pragma unroll
                for (int j = 0; j < cols; j++) vb[j] = pb[k * B::s0 + min(col + 16 * j, D::n - 1) * B::s1 + w * B::w];
                #pragma unroll
                for (int i = 0; i < rows; i++)
                    #pragma unroll
                    for (int j = 0; j < cols; j++) acc[i][j] = fmaf(va[i], vb[j], acc[i][j]);
            }
        #pragma unroll
        for (int i = 0; i < rows; i++)
            #pragma unroll
            for (int j = 0; j < cols; j++)
                if (row + i < D::m && col + 16 * j < D::n)
                    o.data[(row + i) * O::s0 + (col + 16 * j) * O::s1 + u * O::u + v * O::v] = rounded<to>(acc[i][j]);
    }
}

// Tensor cores. Operands are f32 in shared memory and rounded on the way to the fragments: to bf16, exact for
// what was loaded as bf16, or to tf32, exact for f16. A step contracts 16. Since any order of k will do, lane
// t of a group of four takes k = t, t+4, t+8, t+12, which puts a warp's loads into different banks.
struct Bf16 {
    enum { turns = 2 };
    static DEVICE void mma(float (&d)[4], const float (&a)[2][4], const float (&b)[4]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(pack_bf16(a[0][0], a[0][1])), "r"(pack_bf16(a[1][0], a[1][1])), "r"(pack_bf16(a[0][2], a[0][3])),
              "r"(pack_bf16(a[1][2], a[1][3])), "r"(pack_bf16(b[0], b[1])), "r"(pack_bf16(b[2], b[3])));
    }
};
struct Tf32 {
    enum { turns = 1 };
    static DEVICE u32 tf32(float v) {
        u32 r;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
        return r;
    }
    static DEVICE void half(float (&d)[4], const float (&a)[2][4], const float (&b)[4], int i, int j) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(tf32(a[0][i])), "r"(tf32(a[1][i])), "r"(tf32(a[0][j])), "r"(tf32(a[1][j])), "r"(tf32(b[i])), "r"(tf32(b[j])));
    }
    static DEVICE void mma(float (&d)[4], const float (&a)[2][4], const float (&b)[4]) {
        half(d, a, b, 0, 1);
        half(d, a, b, 2, 3);
    }
};

// Where this lane's result r of the 16 x 8 at (row, col) lies in a tile; -1 beyond its end.
template <class D, class T> DEVICE int fragment_at(int row, int col, int r) {
    const int lane = threadIdx.x % 32, y = row + lane / 4 + r / 2 * 8, x = col + lane % 4 * 2 + r % 2;
    return (D::m % 32 == 0 || y < D::m) && (D::n % 32 == 0 || x < D::n) ? y * T::s0 + x * T::s1 : -1;
}

// A warp has 16*mr x 8*nr results at a time: large blocks when there is one for every warp.
template <class Atom, class D, Bound bound, Round to, class A, class B, class C, class O>
DEVICE void mma_warp(const A a, const B b, const C c, const O o) {
    constexpr int most = (D::m + 15) / 16 * ((D::n + 15) / 16) * D::u * D::v;
    constexpr int mr = most >= 4 * WARPS ? 2 : 1, nr = most >= 2 * WARPS ? 4 : 2;
    constexpr int down = (D::m + 16 * mr - 1) / (16 * mr), across = (D::n + 8 * nr - 1) / (8 * nr);
    constexpr bool whole_m = D::m % (16 * mr) == 0, whole_n = D::n % (8 * nr) == 0, whole_k = D::k % 16 == 0;
    constexpr int turns = whole_m && whole_n && whole_k ? Atom::turns : 1;  // as registers allow
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    #pragma unroll 1
    for (int e = threadIdx.x / 32; e < down * across * D::u * D::v; e += WARPS) {
        const int u = e / (down * across) % D::u, v = e / (down * across * D::u);
        const int row = e % down * 16 * mr, col = e / down % across * 8 * nr;
        const float *pa = a.data + u * A::u + v * A::v, *pb = b.data + u * B::u + v * B::v;
        float acc[mr][nr][4];
        #pragma unroll
        for (int i = 0; i < mr; i++)
            #pragma unroll
            for (int j = 0; j < nr; j++)
                #pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int at = fragment_at<D, C>(row + 16 * i, col + 8 * j, r);
                    acc[i][j][r] = c.data && at >= 0 ? c.data[at + u * C::u + v * C::v] : 0.0f;
                }
        const int end = end_k<bound>(row + 16 * mr - 1, col + 8 * nr - 1, D::k);
        for (int w = 0; w < D::w; w++)
            #pragma unroll turns
            for (int k = first_k<bound>(row, col) / 16 * 16; k < end; k += 16) {
                float fa[mr][2][4], fb[nr][4];
                #pragma unroll
                for (int q = 0; q < 4; q++) {
                    const int kk = k + t + 4 * q;
                    const bool live = whole_k || kk < D::k;
                    #pragma unroll
                    for (int i = 0; i < mr; i++)
                        #pragma unroll
                        for (int r = 0; r < 2; r++) {
                            const int y = row + 16 * i + 8 * r + g;
                            fa[i][r][q] = live && (whole_m || y < D::m) ? pa[y * A::s0 + kk * A::s1 + w * A::w] : 0.0f;
                        }
                    #pragma unroll
                    for (int j = 0; j < nr; j++) {
                        const int x = col + 8 * j + g;
                        fb[j][q] = live && (whole_n || x < D::n) ? pb[kk * B::s0 + x * B::s1 + w * B::w] : 0.0f;
                    }
                }
                #pragma unroll
                for (int i = 0; i < mr; i++)
                    #pragma unroll
                    for (int j = 0; j < nr; j++) Atom::mma(acc[i][j], fa[i], fb[j]);
            }
        #pragma unroll
        for (int i = 0; i < mr; i++)
            #pragma unroll
            for (int j = 0; j < nr; j++)
                #pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int at = fragment_at<D, O>(row + 16 * i, col + 8 * j, r);
                    if (at >= 0) o.data[at + u * O::u + v * O::v] = rounded<to>(acc[i][j][r]);
                }
    }
}
template <class D, Bound bound, Round to, class A, class B, class C, class O>
DEVICE void mma_bf16(const A a, const B b, const C c, const O o) {
    mma_warp<Bf16, D, bound, to>(a, b, c, o);
}
template <class D, Bound bound, Round to, class A, class B, class C, class O>
DEVICE void mma_tf32(const A a, const B b, const C c, const O o) {
    mma_warp<Tf32, D, bound, to>(a, b, c, o);
}
