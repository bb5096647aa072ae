// SPDX-License-Identifier: Apache-2.0
// The naive recurrence: loops over time, value features and state, one thread a part of the heads.
// The inner loop is what a vectorizer likes best (two products, two sums, contiguous), and rows of
// B and C are converted once a token, so the baseline is a fair one.
#include "naive.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 256

static inline float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

static inline float from_bf16(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint16_t to_bf16(float f) { // to nearest, ties to even; NaN does not occur here
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define HEADS heads_f32
#define ELEM float
#define GET(v) (v)
#define SET(v) (v)
#include "naive_heads.inc"

#define HEADS heads_bf16
#define ELEM uint16_t
#define GET(v) from_bf16(v)
#define SET(v) to_bf16(v)
#include "naive_heads.inc"

// --- A range of work shared by threads -----------------------------------------------------------
typedef struct Part {
    void (*run)(void *ctx, int64_t lo, int64_t hi);
    void *ctx;
    int64_t lo, hi;
} Part;

static void *part_main(void *p) {
    Part *part = p;
    part->run(part->ctx, part->lo, part->hi);
    return NULL;
}

static void share(void (*run)(void *, int64_t, int64_t), void *ctx, int64_t count, int threads) {
    pthread_t id[MAX_THREADS];
    Part part[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int i = 0; i < threads; i++) {
        part[i] = (Part){run, ctx, count * i / threads, count * (i + 1) / threads};
        started[i] = i > 0 && pthread_create(&id[i], NULL, part_main, &part[i]) == 0;
    }
    for (int i = 0; i < threads; i++)
        if (!started[i]) part_main(&part[i]);
    for (int i = 0; i < threads; i++)
        if (started[i]) pthread_join(id[i], NULL);
}

static void run_f32(void *ctx, int64_t lo, int64_t hi) { heads_f32(ctx, lo, hi); }
static void run_bf16(void *ctx, int64_t lo, int64_t hi) { heads_bf16(ctx, lo, hi); }
void naive_f32(const Naive *a, int threads) { share(run_f32, (void *)a, a->b * a->h, threads); }
void naive_bf16(const Naive *a, int threads) { share(run_bf16, (void *)a, a->b * a->h, threads); }

// --- Ceilings ------------------------------------------------------------------------------------
typedef struct Stream {
    float *y;
    const float *x;
    float s, u;
} Stream;

static void run_update(void *ctx, int64_t lo, int64_t hi) {
    const Stream *w = ctx;
    float *y = w->y;
    const float s = w->s, u = w->u;
    for (int64_t i = lo; i < hi; i++) y[i] = y[i] * s + u;
}
static void run_copy(void *ctx, int64_t lo, int64_t hi) {
    const Stream *w = ctx;
    memcpy(w->y + lo, w->x + lo, (size_t)(hi - lo) * sizeof(float));
}
void naive_update(float *x, int64_t count, float s, float u, int threads) {
    share(run_update, &(Stream){x, NULL, s, u}, count, threads);
}
void naive_copy(float *y, const float *x, int64_t count, int threads) {
    share(run_copy, &(Stream){y, x, 0, 0}, count, threads);
}

const char *naive_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__ " " NAIVE_FLAGS;
#else
    return "gcc " __VERSION__ " " NAIVE_FLAGS;
#endif
}
