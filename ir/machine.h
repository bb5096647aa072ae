// SPDX-License-Identifier: Apache-2.0
// What passes may know of a target: plain data, filled by codegen/.
#ifndef SSD_MACHINE_H
#define SSD_MACHINE_H

#include "../runtime/base.h"

typedef enum {
#define MMA(id, rows, vectors, doc) MMA_##id,
#include "mma.def"
    MMA__COUNT
} MmaAtom;

typedef struct Machine {
    const char *target; // "cpu-x86-64-v4" ..: part of the cache key
    const char *arch;   // LLVM triple's first part: "x86_64", "aarch64"
    const char
        *features; // LLVM feature string, "+avx512f,+fma,..": from CPUID, never from the CPU's name
    int vector_bits; // 512, 256, 128
    int vector_regs; // 32, 16
    int f32_lanes;   // vector_bits / 32
    bool fma, f16c, bf16_dot, amx;
    i64 l1, l2;  // bytes a core
    MmaAtom mma; // the atom of f32 products, and its block: rows of A x vectors of B
    int mma_rows, mma_vecs;
    bool wgmma; // asynchronous products of warpgroups, TMA, registers moved between warps: sm_90a
    bool gpu;   // blocks of threads; l1 is the shared memory that a block may use
    bool early; // a kernel may start before those in front of it in its stream have ended: sm_90 on
    int blocks; // blocks of a grid that run at once, one a multiprocessor; at most 1: unknown
} Machine;

// Has a block of threads room for a state of so many f32, and for what is made of it?
static inline bool ssd_machine_holds(const Machine *m, i64 state) {
    enum { TILES = 3 };
    return !m || !m->gpu || TILES * 4 * state <= m->l1;
}

#endif
