// SPDX-License-Identifier: Apache-2.0
// Kernels of T1: what a block does together. Tiles lie in shared memory as f32, rows padded to an odd number of
// 16-byte pieces: eight rows next to each other are in different banks, whichever way a tile is read.
enum { WARPS = THREADS / 32 };

// --- Sums over warps and blocks: fixed order, so the same bits each time ---------------------------------------
// The result is in every lane.
template <bool max> DEVICE float warp_reduce(float v) {
    for (int d = 16; d; d /= 2) v = combine<max>(v, __shfl_xor_sync(~0u, v, d));
    return v;
}
// The same among each n lanes side by side, n a power of two.
template <int n, bool max> DEVICE float lanes_reduce(float v) {
    #pragma unroll
    for (int d = n / 2; d; d /= 2) v = combine<max>(v, __shfl_xor_sync(~0u, v, d));
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
