// SPDX-License-Identifier: Apache-2.0
// Ranges (the same that the benchmarks of the field are run with):
//   normal      N(0, 1): values, keys, gates, skip weights
//   small       N(0, 1/N), N the last axis: queries, so that q.k stays near 1
//   dt          0.5 N(0, 1) + bias, the bias spread over heads so that softplus(dt) covers 0.001 ..
//   0.1; a
//               separate bias input takes the spread and dt itself only the 0.5 N(0, 1)
//   A_log       log of 1 .. 16, spread over heads
//   decay       -0.001 .. -0.1, log-uniform: a factor of log_decay itself
//   state       N(0, 1) / 4
//   cu_seqlens  a random partition of 0..t, one sequence of it empty
#include "random.h"

#include <math.h>
#include <stdlib.h>

// --- Generator ---------------------------------------------------------------------------------
static u64 rotl(u64 x, int k) { return x << k | x >> (64 - k); }

static u64 splitmix(u64 *x) {
    u64 z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

Rng ssd_random_new(u64 seed, const char *name) {
    u64 x = seed * 0x9e3779b97f4a7c15u + 1;
    for (; *name; name++) x = (x ^ (u8)*name) * 0x100000001b3u;
    Rng r = {0};
    for (int i = 0; i < 4; i++) r.s[i] = splitmix(&x);
    return r;
}

u64 ssd_random_u64(Rng *r) {
    u64 *s = r->s, result = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double ssd_random_uniform(Rng *r) { return (double)(ssd_random_u64(r) >> 11) * 0x1p-53; }

double ssd_random_normal(Rng *r) {
    if (r->has_spare) {
        r->has_spare = false;
        return r->spare;
    }
    double radius = sqrt(-2 * log(1 - ssd_random_uniform(r)));
    double angle = 6.283185307179586 * ssd_random_uniform(r);
    r->spare = radius * sin(angle);
    r->has_spare = true;
    return radius * cos(angle);
}

// --- Inputs by hint ----------------------------------------------------------------------------
static bool hinted(const SpecTensor *t, const char *hint) {
    return t->hint && strcmp(t->hint, hint) == 0;
}

static bool over_tokens(const SpecTensor *t) {
    for (int d = 0; d < t->naxes; d++)
        if (t->size[d] < 0) return true; // b or t
    return false;
}

// 0 .. 1 along the last axis, for element i: how A and dt's bias are spread over heads.
static double spread(const HostTensor *t, i64 i) {
    i64 n = t->view.rank ? t->view.dims[t->view.rank - 1] : 1;
    return n > 1 ? (double)(i % n) / (double)(n - 1) : 0.5;
}

// The x with softplus(x) = 0.001 * 100^u.
static double dt_bias(double u) { return log(expm1(0.001 * pow(100, u))); }

static int by_value(const void *a, const void *b) {
    i32 x = *(const i32 *)a, y = *(const i32 *)b;
    return (x > y) - (x < y);
}

// Cuts drawn anywhere, sorted; one cut is doubled, which makes an empty sequence.
static void fill_cu(HostTensor *h, i64 t, Rng *r) {
    i32 *cu = h->view.data;
    i64 s = h->count - 1;
    cu[0] = 0;
    for (i64 i = 1; i < s; i++) cu[i] = (i32)(ssd_random_u64(r) % (u64)(t + 1));
    cu[s] = (i32)t;
    if (s < 3) return;
    qsort(cu + 1, (size_t)(s - 1), sizeof *cu, by_value);
    i64 twice = 1 + (i64)(ssd_random_u64(r) % (u64)(s - 2));
    cu[twice + 1] = cu[twice];
}

static void fill(const SpecTensor *st, HostTensor *h, i64 t, bool separate_bias, u64 seed) {
    Rng r = ssd_random_new(seed, st->name);
    if (hinted(st, "cu_seqlens")) {
        fill_cu(h, t, &r);
        return;
    }
    bool dt = hinted(st, "dt"), tokens = over_tokens(st), a_log = hinted(st, "A_log");
    i64 last = h->view.rank ? h->view.dims[h->view.rank - 1] : 1;
    double scale = hinted(st, "small")   ? 1 / sqrt((double)MAX(last, 1))
                   : hinted(st, "state") ? 0.25
                   : dt                  ? 0.5
                                         : 1;
    for (i64 i = 0; i < h->count; i++) {
        double v;
        if (a_log)
            v = log(1 + 15 * spread(h, i));
        else if (dt && !tokens)
            v = dt_bias(spread(h, i));
        else if (hinted(st, "rate"))
            v = -(1 + 15 * spread(h, i));
        else if (hinted(st, "step"))
            v = log1p(exp(0.5 * ssd_random_normal(&r) + dt_bias(spread(h, i))));
        else if (hinted(st, "decay"))
            v = -0.001 * pow(100, ssd_random_uniform(&r));
        else
            v = scale * ssd_random_normal(&r) + (dt && !separate_bias ? dt_bias(spread(h, i)) : 0);
        ssd_host_store(h->view.data, h->view.dtype, i, v);
    }
}

void ssd_random_inputs(const SpecTensor *ts, int n, HostSet *set, i64 t, u64 seed) {
    bool separate_bias = false;
    for (int i = 0; i < n; i++)
        separate_bias |=
            hinted(&ts[i], "dt") && !over_tokens(&ts[i]) && ssd_host_find(set, ts[i].name);
    for (int k = 0; k < set->n; k++)
        for (int i = 0; i < n; i++)
            if (strcmp(set->v[k].name, ts[i].name) == 0)
                fill(&ts[i], &set->v[k], t, separate_bias, seed);
}
