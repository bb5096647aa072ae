// SPDX-License-Identifier: Apache-2.0
// CUDA targets: T1 and T2 to CUDA C++ text, and by NVRTC to a cubin.
#ifndef SSD_CUDA_H
#define SSD_CUDA_H

#include "nvrtc.h"
#include "target.h"

// The program as one CUDA C++ file; out_scratch (or NULL): dynamic shared memory of each kernel.
void ssd_cuda_source(const Prog *p, const Machine *m, i64 *out_scratch, Text *out);
// The same of n of its kernels: the text less what belongs to the others alone.
void ssd_cuda_source_of(const Prog *p, const Machine *m, u32 first, u32 n, i64 *out_scratch,
                        Text *out);
// Its kernels, each compiled from such a text of its own, side by side: out[kernel].
bool ssd_cuda_compile(Arena *a, const Prog *p, const Machine *m, i64 *out_scratch, NvrtcResult *out,
                      Text *why);
bool ssd_cuda_emit(Arena *a, const Prog *p, const Machine *m, TargetCode *out, Text *why);
bool ssd_cuda_text(const Prog *p, const Machine *m, bool assembly, Text *out,
                   Text *why); // source or PTX

// For the artifact: threads of a block, the tensor maps of the kernel, and the tensors in its
// argument, as `takes` numbers them.
int ssd_cuda_threads(const Prog *p, const TKernel *k);
int ssd_cuda_maps(Arena *a, const Prog *p, const Machine *m, const TKernel *k, const ArtMap **out);
int ssd_cuda_takes(Arena *a, const Prog *p, const TKernel *k, int **out);
// Does it wait by itself for those in front of it in its stream (artifact.h: `early`)?
bool ssd_cuda_early(const Prog *p, const Machine *m, const TKernel *k);
// Is there a second kernel of each for tensors without gaps (artifact.h: `dense`)? Its name.
bool ssd_cuda_dense(const Prog *p);
const char *ssd_cuda_dense_name(Arena *a, const TKernel *k);

#endif
