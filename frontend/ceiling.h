// SPDX-License-Identifier: Apache-2.0
// What this machine can do, measured now: the denominators of `ssdc bench`. The host: on all
// threads of a pool.
#ifndef SSD_CEILING_H
#define SSD_CEILING_H

#include "../runtime/internal.h"

// f32 multiply-adds from registers, GFLOP/s (an fma is two).
double ssd_ceiling_fma(Pool *p);
// Bytes read plus written a second, GB/s, when `bytes` in all are touched: so a working set that
// fits a cache is compared with that cache. copy: half is read and half written (the better of
// plain and streaming stores). update: every byte is read and written in place, and counts twice.
double ssd_ceiling_copy(Pool *p, size_t bytes);
double ssd_ceiling_update(Pool *p, size_t bytes);

// CUDA's device 0. Bytes read plus written a second by its own copies between buffers of several
// times its L2 cache, GB/s; 0: no memory for that.
double ssd_ceiling_cuda_copy(void);
// Dense bf16 products with f32 sums, GFLOP/s: cuBLAS's where it is installed (SSD_CUBLAS: the
// library to use, empty for none), else those of a kernel that multiplies registers over and over.
// *by says which; 0: neither works.
enum { CEILING_BY = 64 };
double ssd_ceiling_cuda_matmul(char by[CEILING_BY]);
// What its clock allows, GFLOP/s, by the table of architectures: not measured.
double ssd_ceiling_cuda_peak(bool tensor_cores);
// What an empty kernel takes: alone in a graph, and each of many in one (device.h). False: no
// compiler, or no device.
bool ssd_ceiling_cuda_launch(double *out_alone_ms, double *out_row_ms);

#endif
