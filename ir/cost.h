// SPDX-License-Identifier: Apache-2.0
// What a placed CPU program will cost: clocks of one thread, by what they are spent on.
#ifndef SSD_COST_H
#define SSD_COST_H

#include "machine.h"
#include "tile.h"

typedef struct Cost {
    double mma;    // products on the FMA units
    double vector; // elementwise work, exponentials and friends among it
    double memory; // vectors moved between tensors and scratch
    double serial; // chains along a vector's lanes (cumulative sums)
} Cost;
static inline double ssd_cost_clocks(const Cost *c) {
    return c->mma + c->vector + c->memory + c->serial;
}

// sym: values of p->syms. Loops whose bounds depend on a grid or loop variable count at its middle;
// bounds read from memory (packed sequences) count as one sequence of #t tokens.
Cost ssd_cost(const Prog *p, const Machine *m, const i64 *sym);

#endif
