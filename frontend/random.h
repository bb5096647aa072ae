// SPDX-License-Identifier: Apache-2.0
// Deterministic random inputs of realistic range: what `--random SEED`, verify and bench feed
// kernels.
#ifndef SSD_RANDOM_H
#define SSD_RANDOM_H

#include "host.h"

// xoshiro256++ (Blackman and Vigna, public domain); the stream depends on seed and name, so a
// tensor keeps its values when a spec gains another input.
typedef struct Rng {
    u64 s[4];
    double spare; // Box-Muller makes two
    bool has_spare;
} Rng;
Rng ssd_random_new(u64 seed, const char *name);
u64 ssd_random_u64(Rng *r);
double ssd_random_uniform(Rng *r); // [0, 1)
double ssd_random_normal(Rng *r);  // N(0, 1)

// Fills every tensor of `set` by the hint of the SpecTensor of its name; `t` is the sequence length
// that cu_seqlens divides.
void ssd_random_inputs(const SpecTensor *ts, int n, HostSet *set, i64 t, u64 seed);

#endif
