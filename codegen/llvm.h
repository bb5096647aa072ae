// SPDX-License-Identifier: Apache-2.0
// The plugin's two doors: T1 to an object file, T1 to text. llvm_load.c opens them.
#ifndef SSD_LLVM_H
#define SSD_LLVM_H

#include "../ir/machine.h"
#include "../ir/tile.h"

typedef bool SsdLlvmEmit(Arena *a, const Prog *p, const Machine *m, const void **out_code,
                         size_t *out_size, i64 *out_scratch, Text *why);
typedef bool SsdLlvmText(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why);

#define SSD_LLVM_EXPORT __attribute__((visibility("default")))
SSD_LLVM_EXPORT SsdLlvmEmit ssd_llvm_emit;
SSD_LLVM_EXPORT SsdLlvmText ssd_llvm_text;

#endif
