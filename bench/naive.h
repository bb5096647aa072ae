// SPDX-License-Identifier: Apache-2.0
// The baseline of the benchmarks: Mamba-2 as a person would write it in C, and the memory ceilings.
// Compiled apart from the rest, with every optimisation the compiler has (bench/CMakeLists.txt).
#ifndef SSD_BENCH_NAIVE_H
#define SSD_BENCH_NAIVE_H

#include <stdint.h>

// Dense row-major tensors: x, y [b t h p], dt [b t h], B, C [b t g n], A_log, dt_bias, D [h] f32,
// state [b h p n] f32. x, dt, B, C and y are f32 or bf16 by the function called. h0 NULL: the state
// starts at zero; hT may be h0.
typedef struct Naive {
    int64_t b, t, h, g, p, n;
    const void *x, *dt, *B, *C;
    const float *A_log, *dt_bias, *D, *h0;
    void *y;
    float *hT;
} Naive;

// Threads share the b*h heads in contiguous parts. One token (t = 1) with h0 = hT is the decode
// step.
void naive_f32(const Naive *a, int threads);
void naive_bf16(const Naive *a, int threads);

// Ceilings of memory, count floats shared by the threads: x = x*s + u in place, and y = x.
void naive_update(float *x, int64_t count, float s, float u, int threads);
void naive_copy(float *y, const float *x, int64_t count, int threads);

// What compiled this file, and with which flags.
const char *naive_compiler(void);

#endif
