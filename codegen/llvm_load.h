// SPDX-License-Identifier: Apache-2.0
// The plugin behind a door: the hooks of a CPU target, which load LLVM when first used.
#ifndef SSD_LLVM_LOAD_H
#define SSD_LLVM_LOAD_H

#include "../ir/machine.h"
#include "../ir/tile.h"

bool ssd_llvm_load_emit(Arena *a, const Prog *p, const Machine *m, const void **out_code,
                        size_t *out_size, i64 *out_scratch, Text *why);
bool ssd_llvm_load_text(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why);

#endif
