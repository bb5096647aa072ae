// SPDX-License-Identifier: Apache-2.0
// Kernels of a small program, compiled to the relocatable object that the runtime's tests load:
//     y[b,t,h] = weight[h % 4] * x[b,t,h] + bias, where a workspace tensor carries x * weight from
//     the first
// kernel to the second, and hT[b,h] = h0[b,h] + 1.
#include "../../runtime/artifact.h"

enum { X, H0, Y, HT, W };

static const float weight[4] = {1, 2, 3, 4};
static float bias = 0.5f;
static volatile float nothing[16];
static float *volatile bias_at = &bias; // data that holds an address

float fixture_weigh(i64 h);
__attribute__((noinline)) float fixture_weigh(i64 h) { return weight[h % 4]; }

void first(const CpuArgs *a, i64 block, void *scratch);
void second(const CpuArgs *a, i64 block, void *scratch);
void state(const CpuArgs *a, i64 block, void *scratch);

__attribute__((visibility("default"))) void first(const CpuArgs *a, i64 block, void *scratch) {
    const i64 *sx = a->stride + X * SSD_MAX_RANK, *sw = a->stride + W * SSD_MAX_RANK;
    const i64 *n = a->dim + X * SSD_MAX_RANK;
    float *row = scratch;
    i64 b = block / n[1], t = block % n[1];
    for (i64 h = 0; h < n[2]; h++)
        row[h] = fixture_weigh(h) * ((const float *)a->ptr[X])[b * sx[0] + t * sx[1] + h * sx[2]];
    for (i64 h = 0; h < n[2]; h++) ((float *)a->ptr[W])[b * sw[0] + t * sw[1] + h * sw[2]] = row[h];
}

__attribute__((visibility("default"))) void second(const CpuArgs *a, i64 block, void *scratch) {
    const i64 *sy = a->stride + Y * SSD_MAX_RANK, *sw = a->stride + W * SSD_MAX_RANK;
    const i64 *n = a->dim + Y * SSD_MAX_RANK;
    (void)scratch;
    for (i64 t = 0; t < n[1]; t++)
        for (i64 h = 0; h < n[2]; h++)
            ((float *)a->ptr[Y])[block * sy[0] + t * sy[1] + h * sy[2]] =
                ((float *)a->ptr[W])[block * sw[0] + t * sw[1] + h * sw[2]] + *bias_at;
}

__attribute__((visibility("default"))) void state(const CpuArgs *a, i64 block, void *scratch) {
    const i64 *s0 = a->stride + H0 * SSD_MAX_RANK, *s1 = a->stride + HT * SSD_MAX_RANK;
    (void)scratch;
    for (i64 h = 0; h < a->dim[HT * SSD_MAX_RANK + 1]; h++)
        ((float *)a->ptr[HT])[block * s1[0] + h * s1[1]] =
            ((float *)a->ptr[H0])[block * s0[0] + h * s0[1]] + 1 + nothing[h % 16];
}
