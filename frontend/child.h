// SPDX-License-Identifier: Apache-2.0
// ssd_compile for a command: a cache miss is compiled in a child process, so that a fatal error
// inside LLVM (it aborts) becomes a message.
#ifndef SSD_CHILD_H
#define SSD_CHILD_H

#include "../runtime/ssd.h"

// As ssd_compile. With a working cache the child fills it and this process loads the entry; without
// one, this process compiles again after the child has shown that it can. A failure's message is
// ssd_last_error's. For a process whose other threads compile nothing meanwhile.
ssd_status ssd_child_compile(ssd_context *ctx, const ssd_compile_options *o,
                             ssd_kernel **out_kernel);

#endif
