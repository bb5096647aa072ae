// SPDX-License-Identifier: Apache-2.0
// What interp.c and interp_ssd.c share.
#ifndef SSD_INTERP_H
#define SSD_INTERP_H

#include "graph.h"

// A node's value: dense, row-major in the order of ax. A missing axis broadcasts.
typedef struct Value {
    int n;
    AxisId ax[8];
    i64 dim[8], stride[8];
    double *v;
} Value;
i64 ssd_value_stride(const Value *v, AxisId x); // 0 when v lacks x

// Tokens lo .. lo+len of batch row b; its state is row s.
typedef struct Seq {
    i64 lo, len, b, s;
} Seq;

typedef struct Run {
    const Graph *g;
    Arena *arena;
    Text *why;
    Meaning meaning;
    AxisId b, t, s; // 0 when the graph has none
    i64 size[256];  // by axis
    Seq *seq;
    i64 nseq;
    Seq one;       // for values without a batch axis
    Value *val;    // by node
    Ref *final_of; // by node: the `final` that reads it
} Run;
const Seq *ssd_run_seqs(const Run *r, bool has_batch, i64 *n);

// interp_ssd.c: y and, when fin is not NULL, the final state.
void ssd_run_ssd(const Run *r, Ref ssd, Value *y, Value *fin);

#endif
