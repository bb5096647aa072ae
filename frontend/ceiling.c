// SPDX-License-Identifier: Apache-2.0
#include "ceiling.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROUNDS = 7 };
static const double least_time = 0.06; // seconds: long enough to outlast what else the host does

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// --- Kernels, one set a vector width -----------------------------------------------------------
// fma: `n` rounds of 16 independent chains, more than latency times ports of any core; returns
// their sum so that none is dropped. update: x = 0.999 x + 0.001.
typedef struct Kernels {
    int lanes;
    float (*fma)(i64 n);
    void (*update)(float *x, i64 n);
    void (*stream)(float *dst, const float *src, i64 n); // stores past the caches
} Kernels;

#define CHAINS 16
#define KERNELS(name, isa, V, LANES, set1, loadu, store, streams, fmadd)                           \
    __attribute__((target(isa))) static float name##_fma(i64 n) {                                  \
        V a[CHAINS], m = set1(0.999f), b = set1(0.001f);                                           \
        for (int k = 0; k < CHAINS; k++) a[k] = set1((float)k);                                    \
        for (i64 i = 0; i < n; i++)                                                                \
            for (int k = 0; k < CHAINS; k++) a[k] = fmadd(a[k], m, b);                             \
        float part[LANES], sum = 0;                                                                \
        for (int k = 0; k < CHAINS; k++) {                                                         \
            memcpy(part, &a[k], sizeof part);                                                      \
            sum += part[0];                                                                        \
        }                                                                                          \
        return sum;                                                                                \
    }                                                                                              \
    __attribute__((target(isa))) static void name##_update(float *x, i64 n) {                      \
        V m = set1(0.999f), b = set1(0.001f);                                                      \
        for (i64 i = 0; i < n; i += 4 * LANES)                                                     \
            for (int k = 0; k < 4; k++) {                                                          \
                float *at = x + i + k * LANES;                                                     \
                store(at, fmadd(loadu(at), m, b));                                                 \
            }                                                                                      \
    }                                                                                              \
    __attribute__((target(isa))) static void name##_stream(float *dst, const float *src, i64 n) {  \
        for (i64 i = 0; i < n; i += 4 * LANES)                                                     \
            for (int k = 0; k < 4; k++) streams(dst + i + k * LANES, loadu(src + i + k * LANES));  \
    }

#if defined(__x86_64__)
KERNELS(v512, "avx512f", __m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        _mm512_stream_ps, _mm512_fmadd_ps)
KERNELS(v256, "avx2,fma", __m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_stream_ps, _mm256_fmadd_ps)
#define SSE_FMA(a, m, b) _mm_add_ps(_mm_mul_ps(a, m), b)
KERNELS(v128, "sse2", __m128, 4, _mm_set1_ps, _mm_loadu_ps, _mm_storeu_ps, _mm_stream_ps, SSE_FMA)

static Kernels kernels(void) {
    const CpuInfo *c = ssd_cpu_info();
    if (c->avx512f) return (Kernels){16, v512_fma, v512_update, v512_stream};
    if (c->avx2 && c->fma) return (Kernels){8, v256_fma, v256_update, v256_stream};
    return (Kernels){4, v128_fma, v128_update, v128_stream};
}
#else
#define SCALAR(x) (x)
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
KERNELS(v32, "", float, 1, SCALAR, LOAD, STORE, STORE, fmaf)

static Kernels kernels(void) { return (Kernels){1, v32_fma, v32_update, v32_stream}; }
#endif

// --- Measuring ---------------------------------------------------------------------------------
typedef struct Work {
    Kernels k;
    i64 n;     // rounds, or elements a block
    i64 loops; // times a block is gone over
    float *x, *y;
    enum { DO_FMA, DO_UPDATE, DO_COPY, DO_STREAM } what;
    volatile float sink;
} Work;

static void block(void *ctx, i64 i, int worker) {
    Work *w = ctx;
    (void)worker;
    if (w->what == DO_FMA) {
        float s = w->k.fma(w->n);
        if (s < -1) w->sink = s;
        return;
    }
    float *x = w->x + i * w->n, *y = w->y ? w->y + i * w->n : NULL;
    for (i64 k = 0; k < w->loops; k++) {
        if (w->what == DO_UPDATE)
            w->k.update(x, w->n);
        else if (w->what == DO_COPY)
            memcpy(y, x, (size_t)w->n * sizeof *x);
        else
            w->k.stream(y, x, w->n);
        __asm__ volatile("" ::: "memory");
    }
}

// The best of some rounds: a ceiling is what nothing disturbed.
static double fastest(Pool *p, Work *w) {
    double best = (double)INFINITY;
    int threads = ssd_pool_threads(p);
    double start = now();
    for (int r = 0; r < ROUNDS || now() - start < least_time; r++) {
        double t0 = now();
        ssd_pool_run(p, threads, block, w);
        best = fmin(best, now() - t0);
    }
    return best;
}

double ssd_ceiling_fma(Pool *p) {
    Work w = {.k = kernels(), .n = 200000, .what = DO_FMA};
    return 1e-9 * 2 * CHAINS * w.k.lanes * (double)w.n * ssd_pool_threads(p) / fastest(p, &w);
}

// Elements a thread when `bytes` are shared out: a multiple of four vectors, at least a page.
static i64 share(Pool *p, size_t bytes) {
    i64 n = (i64)(bytes / sizeof(float)) / ssd_pool_threads(p) / 64 * 64;
    return MIN(MAX(n, 1024), (i64)1 << 26);
}

static float *buffer(i64 n) {
    float *x = aligned_alloc(64, (size_t)n * sizeof *x);
    for (i64 i = 0; x && i < n; i++) x[i] = 1;
    return x;
}

// Loops so that a round takes some milliseconds.
static i64 loops_for(i64 n) { return MAX(1, ((i64)1 << 22) / n); }

double ssd_ceiling_copy(Pool *p, size_t bytes) {
    i64 n = share(p, bytes / 2), all = n * ssd_pool_threads(p);
    Work w = {.k = kernels(), .n = n, .loops = loops_for(n), .x = buffer(all), .y = buffer(all)};
    double rate = 0;
    if (w.x && w.y) {
        w.what = DO_COPY;
        double plain = fastest(p, &w);
        w.what = DO_STREAM;
        rate =
            1e-9 * 2 * sizeof(float) * (double)all * (double)w.loops / fmin(plain, fastest(p, &w));
    }
    free(w.x);
    free(w.y);
    return rate;
}

double ssd_ceiling_update(Pool *p, size_t bytes) {
    i64 n = share(p, bytes), all = n * ssd_pool_threads(p);
    Work w = {.k = kernels(), .n = n, .loops = loops_for(n), .x = buffer(all), .what = DO_UPDATE};
    double rate =
        w.x ? 1e-9 * 2 * sizeof(float) * (double)all * (double)w.loops / fastest(p, &w) : 0;
    free(w.x);
    return rate;
}
