// SPDX-License-Identifier: Apache-2.0
// In libssd.so only. The interface lives in libssdrt and nothing of it refers to libssd, so a
// linker that drops libraries without need (--as-needed, the default of many systems) would drop
// the compiler and every miss would fail. ssd_compile is therefore exported here too: `-lssd
// -lssdrt` binds to this one.
#include "../runtime/internal.h"

#include <dlfcn.h>

typedef ssd_status Compile(ssd_context *, const ssd_compile_options *, ssd_kernel **);

SSD_API ssd_status ssd_compile(ssd_context *context, const ssd_compile_options *options,
                               ssd_kernel **out_kernel) {
    Compile *next = NULL;
    *(void **)&next = dlsym(RTLD_NEXT, "ssd_compile");
    if (next) return next(context, options, out_kernel);
    if (out_kernel) *out_kernel = NULL;
    return ssd_fail(SSD_INTERNAL,
                    "libssdrt is loaded in front of libssd: link `-lssd -lssdrt`, in that order");
}
