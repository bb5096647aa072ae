// SPDX-License-Identifier: Apache-2.0
// What tests call in fake_cuda.c, through dlsym.
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

// A kernel, run when it is launched, or when the graph it was captured into is.
typedef void FakeKernel(const char *name, unsigned grid, unsigned block, unsigned shared,
                        const void *args);
typedef const char *FakeLog(void);
typedef int FakeSaid(const char *what); // is it in the log? Also while other threads call
typedef void FakeLogClear(void);
typedef void FakeOnLaunch(FakeKernel *f);

// What the 128 bytes of a tensor map hold here.
typedef struct FakeMap {
    unsigned long long base, dim[5], stride[4];
    unsigned short box[5];
    unsigned char type, rank, swizzle, promotion;
} FakeMap;

// The functions as a library exports them.
const char *fake_log(void);
int fake_said(const char *what);
void fake_log_clear(void);
void fake_on_launch(FakeKernel *f);

#endif
