// SPDX-License-Identifier: Apache-2.0
// ssd.h: the whole public interface of ssdc's libraries.
//
// libssdrt (runtime alone) loads and launches compiled kernels. libssd adds the compiler: linking
// it makes ssd_compile able to fill a cache miss. Every function returns an ssd_status and writes
// its results last, through pointers named out_x, which are cleared first. ssd_last_error() holds
// the message of the calling thread's last failure. No function prints, aborts or throws.
//
// Threads: an ssd_context and an ssd_kernel may be used from several threads at once; a launch on a
// CPU runs on the context's pool, and two such launches on one context take turns. A launch on a
// CUDA device only enqueues work on the caller's stream.
//
// CUDA: libcuda.so.1 and NVRTC are looked for when the first CUDA target is named, and are not
// needed before (SSD_CUDA_DRIVER and SSD_NVRTC: the files to open instead). Work is done in the
// calling thread's current context; a thread that has none gets the primary context of device 0,
// the one that the CUDA runtime uses. A process that forks after it has named a CUDA target cannot
// launch in the child.
#ifndef SSD_H
#define SSD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define SSD_API
#else
#define SSD_API __attribute__((visibility("default")))
#endif

#define SSD_VERSION "0.1.0"
#define SSD_MAX_RANK 8

typedef enum ssd_status {
    SSD_OK = 0,
    SSD_INVALID_ARGUMENT =
        1, // an argument is wrong; the message names it, what was found, what is expected
    SSD_INVALID_SPEC = 2, // the spec has errors; the message holds all of them with file:line:col
    SSD_UNSUPPORTED = 3,  // valid, but this target or version cannot; the message names the reason
    SSD_OUT_OF_MEMORY = 4,
    SSD_NOT_FOUND = 5, // a file, a target or a device is not there
    SSD_IO = 6,        // reading or writing a file failed
    SSD_JIT_OFF = 7,   // a cache miss with SSD_JIT=off, or with no compiler in the process
    SSD_DEVICE = 8,    // a driver or device call failed
    SSD_INTERNAL = 9
} ssd_status;

SSD_API const char *ssd_status_name(ssd_status s);
// Message of this thread's last failing call; "" when it succeeded. Valid until this thread's next
// call.
SSD_API const char *ssd_last_error(void);
SSD_API const char *ssd_version(void);

typedef enum ssd_dtype {
    SSD_NONE = 0,
    SSD_F32,
    SSD_BF16,
    SSD_F16,
    SSD_I32,
    SSD_F64,  // interpreter and files only; no kernel takes it
    SSD_BOOL, // inside the compiler only
    SSD_IDX   // inside the compiler only: 64-bit index
} ssd_dtype;
SSD_API size_t ssd_dtype_size(ssd_dtype d);
SSD_API const char *ssd_dtype_name(ssd_dtype d);

// A view of memory the caller owns. Strides are in elements, may be 0 for inputs, and may be
// negative.
typedef struct ssd_tensor {
    void *data;
    ssd_dtype dtype;
    int rank;
    int64_t dims[SSD_MAX_RANK];
    int64_t strides[SSD_MAX_RANK];
} ssd_tensor;
// A dense row-major view.
SSD_API ssd_tensor ssd_tensor_dense(void *data, ssd_dtype dtype, int rank, const int64_t *dims);

// A named argument of a launch.
typedef struct ssd_arg {
    const char *name;
    ssd_tensor tensor;
} ssd_arg;

// --- Context: cache directory and thread pool ---------------------------------------------------
typedef struct ssd_context ssd_context;
typedef struct ssd_context_options {
    int threads; // CPU worker threads; 0: SSD_THREADS, else the cores this process may use
    const char *cache_dir; // NULL: SSD_CACHE_DIR, else $XDG_CACHE_HOME/ssdc, else ~/.cache/ssdc;
                           // "": no disk cache
} ssd_context_options;
// options may be NULL. SSD_OUT_OF_MEMORY. An unusable cache directory is no error: the context
// works without.
SSD_API ssd_status ssd_context_create(const ssd_context_options *options,
                                      ssd_context **out_context);
SSD_API void ssd_context_destroy(ssd_context *context); // NULL is fine; destroy its kernels first
SSD_API int ssd_context_threads(const ssd_context *context);
// The last warning (a damaged cache entry, an unwritable directory), or "".
SSD_API const char *ssd_context_warning(const ssd_context *context);

// --- Kernel: one spec, one mode, one target -----------------------------------------------------
typedef struct ssd_kernel ssd_kernel;
typedef struct ssd_compile_options {
    const char *spec;      // YAML text, NUL-terminated
    const char *spec_name; // file name for messages; NULL: "<spec>"
    const char *mode;      // "forward" (default) | "step"
    const char *
        target; // "cpu" (default) | "x86-64-v3" | "x86-64-v4" | ... | "cuda" (device 0) | "sm_80"
                // .. "sm_120" | "sm_90a"; the code of sm_XY runs on later devices of the same X too
    const char *schedule; // "form=chunked q=64 ..."; NULL: chosen by the compiler
    const char *dims;     // overrides, "heads=24 groups=1" or "h=24"; NULL: the spec's
    const char *absent;   // optional inputs to build without and outputs not wanted, by name,
                        // space-separated; NULL: every optional input present, every output written
} ssd_compile_options;
// Loads the kernel from the cache, or compiles it when libssd is in the process. Takes milliseconds
// on a hit, 50..200 ms on a miss (CUDA: 100..1500 ms; starting the driver takes some 100 ms more,
// once). SSD_INVALID_ARGUMENT, SSD_INVALID_SPEC, SSD_UNSUPPORTED (a device of another architecture,
// a driver too old for the code), SSD_JIT_OFF, SSD_OUT_OF_MEMORY, SSD_NOT_FOUND (no such target; no
// CUDA driver, device or NVRTC), SSD_DEVICE, SSD_INTERNAL. None of them touches the CPU targets.
SSD_API ssd_status ssd_compile(ssd_context *context, const ssd_compile_options *options,
                               ssd_kernel **out_kernel);
// Loads an artifact file (a cache entry) without any compiler.  SSD_IO, SSD_INVALID_ARGUMENT,
// SSD_UNSUPPORTED; of a CUDA target also SSD_NOT_FOUND, SSD_DEVICE, SSD_OUT_OF_MEMORY.
SSD_API ssd_status ssd_kernel_load(ssd_context *context, const char *path, ssd_kernel **out_kernel);
// NULL is fine. Not before what was launched has completed.
SSD_API void ssd_kernel_destroy(ssd_kernel *kernel);
// Where the kernel came from: "cache", "compiled", "file".
SSD_API const char *ssd_kernel_origin(const ssd_kernel *kernel);
// The schedule that was compiled, one line of text.
SSD_API const char *ssd_kernel_schedule(const ssd_kernel *kernel);
// The canonical name of the target it was compiled for: "cpu-x86-64-v4", "cuda-sm_90a". Tensors and
// workspace of a "cuda-" kernel lie in device memory.
SSD_API const char *ssd_kernel_target(const ssd_kernel *kernel);

// What a kernel takes, in order. dims: formulas over b and t (and s, the number of packed
// sequences), e.g. {"b", "t", "80", "64"}.
typedef enum ssd_role { SSD_INPUT = 0, SSD_OUTPUT = 1 } ssd_role;
typedef struct ssd_param {
    const char *name;
    ssd_role role;
    ssd_dtype dtype;
    int rank;
    const char *dims[SSD_MAX_RANK];
} ssd_param;
SSD_API int ssd_kernel_param_count(const ssd_kernel *kernel);
SSD_API ssd_status ssd_kernel_param(const ssd_kernel *kernel, int i, ssd_param *out_param);

// Bytes of workspace a launch with these arguments needs (may be 0). Checks the arguments as
// ssd_launch does.
SSD_API ssd_status ssd_kernel_workspace(const ssd_kernel *kernel, const ssd_arg *args, int n_args,
                                        size_t *out_bytes);
// Runs the kernel: every parameter must be given exactly once, in any order. Outputs may not
// overlap one another or an input, except that a final state may be its initial state (same
// pointer, same strides: updated in place). workspace: ssd_kernel_workspace bytes, 64-aligned; NULL
// lets a CPU launch allocate, and is SSD_INVALID_ARGUMENT on CUDA when bytes are needed. CPU
// launches return when the outputs are written; floating-point flags and modes of the calling
// thread are unchanged. SSD_INVALID_ARGUMENT, SSD_OUT_OF_MEMORY. As ssd_launch_on with stream NULL.
SSD_API ssd_status ssd_launch(ssd_kernel *kernel, const ssd_arg *args, int n_args, void *workspace,
                              size_t workspace_bytes);
// The same on a stream. CUDA: args and workspace are in device memory (or host memory registered
// with CUDA), borrowed until the work has completed on the stream; the call enqueues and returns,
// allocates nothing on the device, never waits for it, and may be captured into a CUDA graph. With
// early=1 in the schedule kernels may be launched before those in front of them have ended
// (programmatic stream serialization, from sm_90 on); they wait for them before they touch memory.
// stream: a CUstream or cudaStream_t of the current context; NULL: the default stream. The values
// in cu_seqlens are not checked, as they are on a CPU: they must start at 0, never fall, and end at
// t. A CPU kernel ignores the stream. SSD_INVALID_ARGUMENT (also host memory, and a stream of
// another context), SSD_OUT_OF_MEMORY, SSD_UNSUPPORTED (a grid of 2^31 blocks or more), SSD_DEVICE
// (a driver call failed: the message has the driver's words; a kernel that faults shows at a later
// call, and its context is lost).
SSD_API ssd_status ssd_launch_on(ssd_kernel *kernel, const ssd_arg *args, int n_args,
                                 void *workspace, size_t workspace_bytes, void *stream);

#ifdef __cplusplus
}
#endif
#endif
