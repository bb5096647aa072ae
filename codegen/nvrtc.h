// SPDX-License-Identifier: Apache-2.0
// CUDA C++ text to machine code, by NVRTC as found by runtime/dynlib.h.
#ifndef SSD_NVRTC_H
#define SSD_NVRTC_H

#include "../runtime/base.h"

typedef struct NvrtcResult {
    const void *cubin;
    size_t cubin_size;
    const char *ptx, *log; // the log holds what ptxas says of each kernel: registers, stack, spills
    size_t ptx_size;
} NvrtcResult;
// arch: "sm_90a". All of *out lives in `a`. False: *why says what is missing or what the compiler
// said.
bool ssd_nvrtc_compile(Arena *a, const char *source, const char *name, const char *arch,
                       NvrtcResult *out, Text *why);
// The same of several texts, side by side in threads, as far as there are processors; out[i] is of
// source[i]. False: *why is of the first one that fails.
typedef struct NvrtcSource {
    const char *text, *name;
} NvrtcSource;
bool ssd_nvrtc_compile_all(Arena *a, const NvrtcSource *source, int n, const char *arch,
                           NvrtcResult *out, Text *why);
// Does this NVRTC know the architecture? False with a reason when it does not, or when there is
// none.
bool ssd_nvrtc_knows(const char *arch, Text *why);

#endif
