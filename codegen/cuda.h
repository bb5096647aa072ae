// SPDX-License-Identifier: Apache-2.0
// CUDA targets: T1 and T2 to CUDA C++ text, and by NVRTC to a cubin.
#ifndef SSD_CUDA_H
#define SSD_CUDA_H

#include "target.h"

// The program as one CUDA C++ file; out_scratch (or NULL): dynamic shared memory of each kernel.
void ssd_cuda_source(const Prog *p, const Machine *m, i64 *out_scratch, Text *out);
bool ssd_cuda_emit(Arena *a, const Prog *p, const Machine *m, const void **out_code,
                   size_t *out_size, i64 *out_scratch, Text *why);
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
