// SPDX-License-Identifier: Apache-2.0
// What the cases of test_cuda.c share with those in files of their own. A case has a process for
// itself, with the fake driver loaded.
#ifndef TEST_CUDA_H
#define TEST_CUDA_H

#include "../../runtime/device_cuda.h"
#include "fake_cuda.h"
#include "test.h"

enum { B = 2, T = 5, H = 6 };

extern FakeLog *log_of;
extern FakeLogClear *log_clear;
extern FakeOnLaunch *on_launch;

extern const char *text; // of the artifact that a compilation gives
void make_code(
    const char *lines); // its code: a kernel a line, `NAME BYTES OF ITS ARGUMENT, THREADS`
ssd_context *new_context(const char *cache);
ssd_kernel *toy(ssd_context *c); // compiles; NULL, and a failed check: it did not
void expect_compile(const char *target, ssd_status want, const char *message);
float *device_floats(size_t n); // freed by the driver's MemFree

void maps(void);
void maps_along_rows(void);
void no_maps(void);

#endif
