// SPDX-License-Identifier: Apache-2.0
// Elementwise tile ops (load, store, map, reduce, fill, copy) run on CPUs as loop nests. Neighbours
// that walk the same axes may share one nest: then a value that only they use lives in registers
// (SP_REG).
//
//     s0 = load h0[b, h, p, n]  : f32[p n] @reg(p n)
//     s1 = map {s0*a + x*k}     : f32[p n] @reg(p n)         one nest over p, n with lanes n
//     store st[b, h, p, n] = s1
//     y_ = reduce sum n {s1*q}  : f32[p] @mem(p) in b1
//
// The text says it all: a nest reaches from the definition of a register value to the last op that
// uses one, so passes, interpreter and emitters agree without a further mark.
#ifndef SSD_NEST_H
#define SSD_NEST_H

#include "tile.h"

typedef struct Nest {
    int n; // loops, outermost first
    u8 ax[8];
    int lane;    // index in ax of the axis along vector lanes
    u8 reduce;   // the axis its reduces remove, 0: none
    double cost; // vector accesses, an element by element access counting as `lanes`
} Nest;

bool ssd_nest_op(const Prog *p, const TOp *o);             // may it be part of a nest?
int ssd_nest_axes(const Prog *p, const TOp *o, u8 out[8]); // the axes it walks
TOp *ssd_nest_last(const Prog *p, TOp *first); // last op of the nest that starts at `first`
// Loop order and lane axis of the nest first..last for vectors of `lanes` f32; with lane != 0 that
// axis is taken. Layouts must be set.
void ssd_nest_plan(const Prog *p, const TOp *first, const TOp *last, int lanes, u8 lane, Nest *out);

// A nest may also be *held*, on GPUs: the threads of a block keep their share of every tile in
// registers, op after op, so its ops may walk one or both of two axes and read what it has reduced.
//
//     x_ = load x[b, h, p]        : f32[p] @reg(p)
//     s0 = load h0[b, h, p, n]    : f32[p n] @reg(p n)       rows p, lanes n
//     s1 = map {s0*a + x_*k}      : f32[p n] @reg(p n)
//     yr = reduce sum n {s1*q}    : f32[p] @reg(p)
//     store y[b, h, p] = yr + d*x_
typedef struct NestHeld {
    u8 row, lane; // axes; row 0: there is none
    int width;    // neighbours along the lane axis that a thread takes at once
    int lanes;    // threads that share a row: a power of two, at most 32
    int turns;    // lanes*width*turns >= size of the lane axis
} NestHeld;
enum { NEST_HELD_MOST = 16384 }; // points: 32 a thread
bool ssd_nest_held(const Prog *p, const TOp *first,
                   const TOp *last); // or one loop for all its ops?
// How first..last are held; false when they cannot be.
bool ssd_nest_hold(const Prog *p, const TOp *first, const TOp *last, NestHeld *out);

// Calls f for every value an op reads (not those of the ops in its body).
typedef void ValVisit(void *ctx, Val v);
void ssd_nest_operands(const Prog *p, const TOp *o, ValVisit *f, void *ctx);
bool ssd_nest_op_reads(const Prog *p, const TOp *o, Val v); // is v one of them?
void ssd_nest_ex_vals(const Prog *p, Ex e, ValVisit *f, void *ctx);
bool ssd_nest_ex_reads(const Prog *p, Ex e, Val v);
// Do ops of the block, or of their bodies, write memory that the tensor may share?
bool ssd_nest_writes(const Prog *p, const TBlock *b, const TTensor *t);

// The coefficient of every tile axis in an index expression; false when an axis stands in a
// function that is not linear.
bool ssd_nest_affine(const Prog *p, Ex e, i64 coef[256]);
u8 ssd_nest_contiguous(const Prog *p,
                       const TOp *o); // the axis along a tensor's last dimension, 0: none
i64 ssd_nest_stride(const Prog *p, Val v, u8 axis); // of a placed value; 0: it lacks the axis

#endif
