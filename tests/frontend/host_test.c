// SPDX-License-Identifier: Apache-2.0
// Host tensors: rounding to bf16 and f16 against their definition, sizes from text, and the ranges
// of random inputs.
#include "../../frontend/host.h"
#include "../../frontend/random.h"

#include <math.h>
#include <stdio.h>

static int passed, failed;

static void check(bool ok, const char *what) {
    if (!ok) printf("FAIL host: %s\n", what);
    *(ok ? &passed : &failed) += 1;
}

// Every 16-bit pattern stores back to itself; a value between two neighbours goes to the nearer
// one, and in the middle to the even one.
static void rounding(ssd_dtype d, u32 inf, const char *name) {
    int wrong = 0;
    for (u32 i = 0; i < 65536; i++) {
        u16 x = (u16)i, back = 0;
        double v = ssd_host_load(&x, d, 0);
        ssd_host_store(&back, d, 0, v);
        wrong += isnan(v) ? !isnan(ssd_host_load(&back, d, 0)) : back != x;
    }
    check(wrong == 0, name);
    wrong = 0;
    for (u32 i = 0; i + 1 < inf; i++) {
        u16 x = (u16)i, y = (u16)(i + 1), got = 0;
        double a = ssd_host_load(&x, d, 0), b = ssd_host_load(&y, d, 0), mid = (a + b) / 2;
        ssd_host_store(&got, d, 0, mid);
        wrong += got != (i & 1 ? y : x);
        ssd_host_store(&got, d, 0, nextafter(mid, a));
        wrong += got != x;
        ssd_host_store(&got, d, 0, -nextafter(mid, b));
        wrong += got != (y | 0x8000);
    }
    check(wrong == 0, name);
    u16 x = (u16)(inf - 1), got = 0;
    double most = ssd_host_load(&x, d, 0);
    ssd_host_store(&got, d, 0, most * 1.01);
    check(got == inf, "overflow goes to infinity");
    ssd_host_store(&got, d, 0, (double)NAN);
    check(isnan(ssd_host_load(&got, d, 0)), "NaN stays NaN");
}

static void sizes(void) {
    static const char *const bad[] = {"b",       "b=", "=3", "b=-1", "b=1.5", "t=9999999999999",
                                      "b=1,,t=x"};
    Arena a = {0};
    Text why = {0};
    Sizes z;
    check(ssd_sizes_parse(&a, "b=3, t=0 heads=8,s=2,p=64", &z, &why) && z.b == 3 && z.t == 0 &&
              z.s == 2 && strcmp(z.dims, "heads=8 p=64") == 0,
          "sizes");
    check(ssd_sizes_parse(&a, NULL, &z, &why) && z.b == -1 && z.t == -1 && !z.dims, "no sizes");
    for (size_t i = 0; i < COUNTOF(bad); i++) check(!ssd_sizes_parse(&a, bad[i], &z, &why), bad[i]);
    check(ssd_host_listed("z D dt_bias", "D") && !ssd_host_listed("z dt_bias", "dt") &&
              !ssd_host_listed(NULL, "z"),
          "names in a list");
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

static void too_large(void) {
    Arena a = {0};
    Text why = {0};
    HostSet set;
    SpecTensor x = {"x", SSD_F32, 3, {"b", "t", "h"}, {-1, -1, 64}};
    Sizes z = {(i64)1 << 39, (i64)1 << 39, 1, NULL};
    check(!ssd_host_make(&a, &x, 1, &z, NULL, &set, &why) && strstr(why.s, "too large"),
          "overflow is refused");
    ssd_text_free(&why);
    ssd_arena_free(&a);
}

// Draws dt, A_log, states, queries and cu_seqlens and looks at their ranges.
static void ranges(void) {
    enum { T = 300, H = 16 };
    const SpecTensor ts[] = {
        {"dt", SSD_F32, 3, {"b", "t", "h"}, {-1, -1, H}, .hint = "dt"},
        {"dt_bias", SSD_F32, 1, {"h"}, {H}, .hint = "dt"},
        {"A_log", SSD_F32, 1, {"h"}, {H}, .hint = "A_log"},
        {"q", SSD_F32, 3, {"b", "t", "n"}, {-1, -1, 64}, .hint = "small"},
        {"x", SSD_F32, 3, {"b", "t", "n"}, {-1, -1, 64}, .hint = "normal"},
        {"cu", SSD_I32, 1, {"s"}, {-1}, .hint = "cu_seqlens"},
        {"A", SSD_F32, 1, {"h"}, {H}, .hint = "rate"},
        {"delta", SSD_F32, 3, {"b", "t", "h"}, {-1, -1, H}, .hint = "step"},
    };
    Arena a = {0};
    Text why = {0};
    HostSet set, again;
    Sizes z = {2, T, 5, NULL};
    check(ssd_host_make(&a, ts, COUNTOF(ts), &z, NULL, &set, &why) &&
              ssd_host_make(&a, ts, COUNTOF(ts), &z, "x", &again, &why),
          "allocation");
    ssd_random_inputs(ts, COUNTOF(ts), &set, T, 7);
    ssd_random_inputs(ts, COUNTOF(ts), &again, T, 7);
    const float *dt = set.v[0].view.data, *bias = set.v[1].view.data, *a_log = set.v[2].view.data;
    double low = 1e9, high = 0;
    for (int i = 0; i < 2 * T * H; i++) {
        double delta = log1p(exp((double)dt[i] + bias[i % H]));
        low = fmin(low, delta);
        high = fmax(high, delta);
    }
    check(low > 1e-5 && low < 1e-3 && high > 0.1 && high < 1,
          "softplus(dt + dt_bias) covers 0.001 .. 0.1");
    check(a_log[0] == 0 && fabs(a_log[H - 1] - log(16)) < 1e-6, "A covers 1 .. 16");
    const float *rate = set.v[6].view.data, *step = set.v[7].view.data;
    check(rate[0] == -1 && rate[H - 1] == -16, "A given as it is covers -1 .. -16");
    low = 1e9, high = 0;
    for (int i = 0; i < 2 * T * H; i++) low = fmin(low, step[i]), high = fmax(high, step[i]);
    check(low > 1e-5 && low < 1e-3 && high > 0.1 && high < 1, "steps cover 0.001 .. 0.1");
    double q2 = 0, x2 = 0;
    for (i64 i = 0; i < set.v[3].count; i++)
        q2 += pow(ssd_host_load(set.v[3].view.data, SSD_F32, i), 2);
    for (i64 i = 0; i < set.v[4].count; i++)
        x2 += pow(ssd_host_load(set.v[4].view.data, SSD_F32, i), 2);
    check(fabs(x2 / (double)set.v[4].count - 1) < 0.02, "values have variance 1");
    check(fabs(q2 / (double)set.v[3].count * 64 - 1) < 0.02, "queries have variance 1/N");
    const i32 *cu = set.v[5].view.data;
    int empty = 0, sorted = 1;
    for (int i = 0; i < 5; i++) {
        sorted &= cu[i] <= cu[i + 1];
        empty += cu[i] == cu[i + 1];
    }
    check(set.v[5].count == 6 && cu[0] == 0 && cu[5] == T && sorted && empty > 0,
          "packed sequences, one of them empty");
    check(memcmp(set.v[3].view.data, ssd_host_find(&again, "q")->view.data, set.v[3].bytes) == 0 &&
              !ssd_host_find(&again, "x"),
          "a tensor's values do not depend on the others");
    ssd_host_drop(&set);
    ssd_host_drop(&again);
    ssd_arena_free(&a);
}

int main(void) {
    rounding(SSD_BF16, 0x7f80, "bf16 rounds to nearest even");
    rounding(SSD_F16, 0x7c00, "f16 rounds to nearest even");
    sizes();
    too_large();
    ranges();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
