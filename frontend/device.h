// SPDX-License-Identifier: Apache-2.0
// Launches with tensors of host memory, whatever the target: a kernel for a CUDA device gets copies
// in device memory, between guard bytes that must be whole afterwards, and its outputs are copied
// back.
#ifndef SSD_FRONTEND_DEVICE_H
#define SSD_FRONTEND_DEVICE_H

#include "../runtime/device_cuda.h"

// Launches once and waits. Outputs must hold their poison before: a kernel for CUDA starts from a
// copy of it. SSD_INTERNAL when something outside of the outputs was written; else as ssd_launch.
ssd_status ssd_device_launch(ssd_kernel *k, const ssd_arg *args, int n);

// A piece of device memory with its guards, and the host memory it is a copy of.
typedef struct Copy {
    const char *name;
    void *host;
    bool output;
    size_t bytes;
    CuPtr base, at; // of the allocation, and of the first byte behind the guard
} Copy;

// All memory of a launch on a CUDA device. Between open and close the calling thread has a current
// context.
typedef struct Mirror {
    ssd_kernel *kernel;
    const CudaApi *api;
    CudaScope scope;
    CuHandle stream;
    bool own_stream;
    Copy *copy; // one for each piece of host memory, then the workspace
    int n_copies;
    ssd_arg *args; // those given, with device memory
    int n_args;
    size_t ws_bytes;
} Mirror;
// Allocates and copies in, outputs too; the workspace is filled with NaN. What is enqueued goes to
// `stream`, NULL: to one of the mirror's own. On failure there is nothing to close.
ssd_status ssd_mirror_open(Mirror *m, CuHandle stream, ssd_kernel *k, const ssd_arg *args, int n);
ssd_status ssd_mirror_launch(Mirror *m); // enqueues on m->stream
ssd_status ssd_mirror_fetch(Mirror *m);  // waits, looks at the guards, copies outputs back
void ssd_mirror_close(Mirror *m);

// --- Time, in device_time.c ---------------------------------------------------------------------
// The stream on which all is timed, of the primary context and apart from the default stream: made
// when it is first asked for, never destroyed. It is one because the kernels of a graph that is
// replayed on a second stream of a context start later, by 0.36 us each on an H100. For one thread
// that times. SSD_DEVICE, and as the driver's start.
ssd_status ssd_device_stream(CuHandle *out);

// What is timed: `row` times in one graph. The i-th time is enqueued by go(ctx, stream, i).
typedef struct DeviceWork {
    ssd_status (*go)(void *ctx, CuHandle stream, int i);
    void *ctx;
    CuHandle stream;
    int row;
} DeviceWork;
// Replays the graph with the L2 cache flushed before each: milliseconds of one of the row, in the
// order they were measured; at least `least`, at most `most` and about `seconds` long in all.
ssd_status ssd_device_time(const DeviceWork *w, double seconds, int least, int most, double *out_ms,
                           int *out_n);

// Times launches so, each of the row with tensors of its own, copies of the first one's.
ssd_status ssd_mirror_time(Mirror *m, int row, double seconds, int least, int most, double *out_ms,
                           int *out_n);
// How many in a row it takes that their tensors are twice the L2 cache, within what memory is free.
int ssd_mirror_row(const Mirror *m);

#endif
