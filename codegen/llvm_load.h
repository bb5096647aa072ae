// SPDX-License-Identifier: Apache-2.0
// The plugin behind a door: the hooks of a CPU target, which load LLVM when first used.
#ifndef SSD_LLVM_LOAD_H
#define SSD_LLVM_LOAD_H

#include "target.h"

bool ssd_llvm_load_emit(Arena *a, const Prog *p, const Machine *m, TargetCode *out, Text *why);
bool ssd_llvm_load_text(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why);

#endif
