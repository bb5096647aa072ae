// SPDX-License-Identifier: Apache-2.0
// Generated CUDA C++ as C++ for a CPU.
#ifndef EMULATOR_REWRITE_H
#define EMULATOR_REWRITE_H

#include <stdbool.h>
#include <stdio.h>

// Writes `source` to `out` for a compiler that has device.hpp. Where it holds an instruction that
// device.hpp lacks, that is said in `log` and false.
bool emu_rewrite(const char *source, FILE *out, FILE *log);

#endif
