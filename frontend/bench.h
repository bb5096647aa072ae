// SPDX-License-Identifier: Apache-2.0
// ssdc bench in three parts: bench_run.c measures, bench_shapes.c knows shapes and what others
// reach on them, cmd_bench.c is the command and prints.
#ifndef SSD_BENCH_H
#define SSD_BENCH_H

#include "ceiling.h"
#include "cli.h"

// What the machine can do, measured in the same run. 0: not yet.
typedef struct Limits {
    double copy;                // GB/s; on a CUDA device for all runs, on a host for each anew
    double matmul, f32;         // GFLOP/s of narrow and of f32 products
    char matmul_by[CEILING_BY]; // "" by its clock, not measured
    bool launched;              // were these two measured?
    double alone_ms, row_ms;    // of an empty kernel, see BenchRun; 0: it could not be
} Limits;

typedef struct BenchJob {
    const char *text, *path; // of the spec
    const char *mode;
    Sizes z;
    const char *absent;
    const char *label; // of its shape, in tables
} BenchJob;

typedef struct BenchRun {
    const char *spec, *mode, *schedule;
    bool cuda, compiled, in_place;
    char shape[96]; // "b=8 t=2048 heads=80"
    double ms, p20, p80;
    int runs;
    int row;         // launches in one graph, `ms` being the time of one; 0: a graph has only one
    double alone_ms; // with row: of a launch that is alone in its graph
    double tokens, heads, flop;
    double bytes, state_bytes; // that have to be moved: every parameter once; of these, states
    double rate, peak;         // GB/s and GFLOP/s that could be reached
    const char *rate_by, *peak_by;
    double memory_ms, floor_ms; // at the rate; at either limit
    i64 b, t, h, g, p, n;       // by the axes of its inputs, 0 where there is none
    ssd_dtype state;            // of its states, SSD_NONE
    Phases phases;              // of the start
} BenchRun;

// Measures. False: a message was printed, *out_code is the exit code. `limits` are measured when
// they are first needed.
bool ssd_bench_run(Cli *c, ssd_context *ctx, const BenchJob *job, Limits *limits, BenchRun *out,
                   int *out_code);

// "8x2048x80,4x8192x128g8,step16": batch x tokens x heads, then groups, head_dim and state_size by
// their letters; step: batch x heads. What is left out is the spec's.
typedef struct BenchShape {
    const char *label;
    bool step;
    Sizes z; // dims: overrides
} BenchShape;
extern const char ssd_bench_shapes[]; // those that peers were measured on
// Their number; -1 after an error message.
int ssd_bench_parse(Cli *c, const char *list, BenchShape **out);

// What others reach where they move the same bytes, published: data, not measured here.
typedef struct Peer {
    const char *who;
    double ms, gbs; // one of the two; gbs: of state read and written
} Peer;
int ssd_bench_peers(const BenchRun *r, Peer *out, int most);

#endif
