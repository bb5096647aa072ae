// SPDX-License-Identifier: Apache-2.0
// The scalar functions of ir/fns.def as LLVM IR: straight-line code, no calls into a maths library.
//
// ssd_llvm_fn emits one function at the builder's position and returns its value. Operands are
//   float, or <N x float> with N a power of two up to 64     for every function
//   iK, or <N x iK>  (index values)                          arithmetic, comparisons: signed
//   i1, or <N x i1>  (booleans)                              and, or, not, where's condition
// and must agree in lanes (only where's condition may be a single i1 over vectors). When integers
// meet floats, or enter a function of kind F, they are converted to f32; and/or/not take x != 0 of
// a number. Absent operands (arity below 3) are NULL. A comparison gives i1 or <N x i1>.
//
// Floating-point environment: round to nearest. Kernels run with FTZ and DAZ set, so subnormal
// operands count as zero and a result below 2^-125 may be zero; without them the same bounds hold
// but for that. Needs SSE4.1 on x86 (rounding instructions); without them LLVM would emit calls.
//
// NaN goes in, NaN comes out, with two exceptions that follow fns.def: min and max return the other
// operand (C's fmin, fmax). clamp and relu, which look like them, keep the NaN of x: bounding data
// must not hide a fault upstream.
//
// A function's bits do not depend on the number of lanes (but for exp2 below 2^-125), so tails and
// scalar paths agree with vectors. Accuracies: the table atop llvm_math.c.
#ifndef SSD_LLVM_MATH_H
#define SSD_LLVM_MATH_H

#include "../ir/graph.h"

#include <llvm-c/Core.h>

typedef struct LlvmMath {
    LLVMContextRef ctx;
    LLVMModuleRef mod;
    bool fma;    // FMA instructions; without, a*b+c rounds twice (llvm.fma would be a call)
    bool avx512; // AVX-512 F and DQ, and 512-bit registers legal: the function attribute
                 // "min-legal-vector-width" unset or 512, else LLVM aborts on their intrinsics
} LlvmMath;

LLVMValueRef ssd_llvm_fn(const LlvmMath *m, LLVMBuilderRef b, FnCode f, LLVMValueRef x,
                         LLVMValueRef y, LLVMValueRef z);

#endif
