// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, found at run time, and programs on its devices. Without driver or device every
// function here answers with a status and a message; nothing else changes.
#ifndef SSD_DEVICE_CUDA_H
#define SSD_DEVICE_CUDA_H

#include "internal.h"

typedef void *CuHandle; // a context, module, function, stream, event, graph
typedef u64 CuPtr;      // an address in device memory
typedef struct CuTensorMap {
    _Alignas(CUDA_MAP_ALIGN) u64 opaque[CUDA_MAP_BYTES / 8];
} CuTensorMap;

// A launch with attributes; `value` is as large as the largest attribute's.
typedef struct CuLaunchAttribute {
    int id;
    _Alignas(8) int value[16];
} CuLaunchAttribute;
typedef struct CuLaunch {
    unsigned grid[3], block[3], shared;
    CuHandle stream;
    CuLaunchAttribute *attributes;
    unsigned n_attributes;
} CuLaunch;

typedef struct CudaApi {
#define CU(name, exported, optional, args) int(*name) args;
#include "cuda_syms.def"
#undef CU
} CudaApi;

// Numbers of the driver's interface.
enum {
    CU_DEVICE_CLOCK_KHZ = 13,
    CU_DEVICE_SM_COUNT = 16,
    CU_DEVICE_MEMORY_CLOCK_KHZ = 36,
    CU_DEVICE_MEMORY_BUS_BITS = 37,
    CU_DEVICE_L2_BYTES = 38,
    CU_DEVICE_MAJOR = 75,
    CU_DEVICE_MINOR = 76,
    CU_DEVICE_SHARED_SM = 81,
    CU_DEVICE_SHARED_BLOCK_OPTIN = 97,
    CU_DEVICE_HOST_PAGE_TABLES = 100,
    CU_FUNC_MAX_THREADS = 0,
    CU_FUNC_STATIC_SHARED = 1,
    CU_FUNC_MAX_DYNAMIC_SHARED = 8,
    CU_POINTER_MEMORY_TYPE = 2,
    CU_STREAM_APART = 1, // from the default stream
    CU_CAPTURE_THREAD_LOCAL = 1,
    CU_LAUNCH_EARLY = 6, // programmatic stream serialization: drivers from CUDA 12.3 on capture it
    CU_LAUNCH_EARLY_SINCE = 12030,
    CU_MAP_I32 = 3, // element types, swizzle and promotion of tensor maps
    CU_MAP_F16 = 6,
    CU_MAP_F32 = 7,
    CU_MAP_BF16 = 9,
    CU_MAP_SWIZZLE_128 = 3,
    CU_MAP_L2_256 = 3,
};

typedef struct CudaDevice {
    char name[128];
    const char *target; // canonical: "cuda-sm_90a"; NULL: its architecture is not supported
    int major, minor;   // compute capability
    int sms;
    i64 shared_block; // bytes of shared memory a block may have, and a multiprocessor has
    i64 shared_sm;
    i64 l2, memory; // bytes
    int clock_khz;  // 0 where the driver does not tell, as those below
    int memory_clock_khz, memory_bus_bits;
    bool reads_host; // host memory of any kind may be given to kernels (one page table for both)
} CudaDevice;

// The driver, opened and asked once in a process (SSD_CUDA_DRIVER: the library to open instead of
// libcuda.so.1). No context is made for that.
typedef struct CudaDriver {
    ssd_status status; // SSD_OK: `api` and `device` hold
    char why[640];     // else: what is missing and what to do
    int version;     // the driver's, 13000 for 13.0; 0 unknown. Known even where there is no device
    char path[1024]; // of the library; "" none
    CudaApi api;
    int handle;        // of device 0
    CudaDevice device; // device 0: CUDA_VISIBLE_DEVICES chooses
} CudaDriver;
const CudaDriver *ssd_cuda_driver(void);

// Facts of the device, or NULL and why not. Asks no driver that was asked before, so it also holds
// in a forked child.
const CudaDevice *ssd_cuda_device(Text *why);
int ssd_cuda_driver_version(void); // 13000; 0 without a driver. Neither starts nor needs a device

// The canonical name of a CUDA target: "sm_80", "cuda-sm_80" -> "cuda-sm_80"; "cuda" -> the
// device's. NULL when there is none of that name, or for "cuda" no device. *out_runs: whether
// device 0 can run its code.
const char *ssd_cuda_target(const char *target, bool *out_runs);

// One architecture of cuda_archs.def.
typedef struct CudaArch {
    const char *name, *target, *doc; // "sm_90a", "cuda-sm_90a"
    int major, minor, shared_block;
    bool exact;
    int tensor_flop, f32_flop; // a clock and multiprocessor
    int sms;                   // multiprocessors of the largest common device
} CudaArch;
extern const CudaArch ssd_cuda_archs[];
extern const int ssd_cuda_arch_count;

// Status and last error of a failed driver call; `what` says what was tried.
ssd_status ssd_cuda_fail(int error, const char *fmt, ...) SSD_PRINTF(2, 3);

// Makes a context current if none is: the stream's, else the primary one of device 0, which then
// stays for the life of the process. Pairs with leave.
typedef struct CudaScope {
    CuHandle context;
    bool pushed;
} CudaScope;
ssd_status ssd_cuda_enter(CuHandle stream, CudaScope *out);
void ssd_cuda_leave(CudaScope *s);

// Makes the primary context in a thread beside the caller, who has code for the target to compile
// before it enters: each takes a good part of a second. Does nothing where the caller has a context
// already, or none is needed. `prepared` waits for it.
typedef struct CudaStart {
    pthread_t thread;
    bool running;
} CudaStart;
void ssd_cuda_prepare(const char *target, CudaStart *out);
void ssd_cuda_prepared(CudaStart *s);

// An artifact's code, loaded into each context it is launched in; the first one when the program is
// made.
typedef struct CudaProgram CudaProgram;
ssd_status ssd_cuda_load(const Artifact *art, CudaProgram **out); // `art` must outlive it
// Enqueues the kernels of l->plan. No allocation on the device and no synchronisation, so that it
// can be captured into a graph.
ssd_status ssd_cuda_run(CudaProgram *p, CuHandle stream, const Launch *l);
// Unloads the code from the primary context. In a context of the caller's it stays until that is
// destroyed.
void ssd_cuda_free(CudaProgram *p);

#endif
