// SPDX-License-Identifier: Apache-2.0
// Compiles a layer spec through ssd.h, runs it, and checks the result against six plain lines of C.
//
//     cc docs/example.c -Iruntime -Lbuild -lssd -lssdrt -Wl,-rpath,$PWD/build -lm -o example
#include "ssd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 1000, H = 4, P = 16, N = 32 };

static const char spec[] = "ssdc: 1\n"
                           "name: decayed\n"
                           "dims: {heads: 4, head_dim: 16, state_size: 32}\n"
                           "inputs:\n"
                           "  q: f32[b, t, h, n]\n"
                           "  k: f32[b, t, h, n]\n"
                           "  v: f32[b, t, h, p]\n"
                           "  g: f32[b, t, h]\n"
                           "ssd: {query: q, key: k, value: v, log_decay: -exp(g)}\n"
                           "outputs: {y: 'f32[b, t, h, p] = ssd'}\n"
                           "modes: [forward]\n";

static float q[T][H][N], k[T][H][N], v[T][H][P], g[T][H], y[T][H][P], want[T][H][P], h[H][P][N];

static void fill(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

static void must(ssd_status s) {
    if (s == SSD_OK) return;
    fprintf(stderr, "%s: %s\n", ssd_status_name(s), ssd_last_error());
    exit(1);
}

int main(void) {
    fill(q[0][0], T * H * N), fill(k[0][0], T * H * N), fill(v[0][0], T * H * P), fill(g[0], T * H);
    ssd_context *context;
    ssd_kernel *kernel;
    must(ssd_context_create(NULL, &context));
    // Starts from zero and wants no final state. From the cache the second time.
    must(ssd_compile(context, &(ssd_compile_options){.spec = spec, .absent = "h0 hT"}, &kernel));

    const int64_t qk[] = {1, T, H, N}, vy[] = {1, T, H, P};
    const ssd_arg args[] = {{"q", ssd_tensor_dense(q, SSD_F32, 4, qk)},
                            {"k", ssd_tensor_dense(k, SSD_F32, 4, qk)},
                            {"v", ssd_tensor_dense(v, SSD_F32, 4, vy)},
                            {"g", ssd_tensor_dense(g, SSD_F32, 3, qk)},
                            {"y", ssd_tensor_dense(y, SSD_F32, 4, vy)}};
    must(ssd_launch(kernel, args, 5, NULL, 0));

    double worst = 0, largest = 0;
    for (int t = 0; t < T; t++)
        for (int a = 0; a < H; a++)
            for (int p = 0; p < P; p++)
                for (int n = 0; n < N; n++) {
                    h[a][p][n] = expf(-expf(g[t][a])) * h[a][p][n] + v[t][a][p] * k[t][a][n];
                    want[t][a][p] += h[a][p][n] * q[t][a][n];
                }
    const float *is = &y[0][0][0], *should = &want[0][0][0];
    for (int i = 0; i < T * H * P; i++) {
        worst = fmax(worst, fabs((double)is[i] - should[i]));
        largest = fmax(largest, fabs((double)should[i]));
    }
    printf("%s (%s): largest difference %.1e of %.2f\n", ssd_kernel_schedule(kernel),
           ssd_kernel_origin(kernel), worst, largest);
    ssd_kernel_destroy(kernel);
    ssd_context_destroy(context);
    return worst <= 1e-5 * largest ? 0 : 1;
}
