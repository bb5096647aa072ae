// SPDX-License-Identifier: Apache-2.0
// spec -> artifact: the whole compiler as one function; libssd installs it as the runtime's hook.
#ifndef SSD_COMPILE_H
#define SSD_COMPILE_H

#include "../codegen/target.h"
#include "../runtime/internal.h"
#include "spec.h"

typedef struct Compiled {
    Spec *spec;
    Unit unit;       // graph and prog after the last pass
    Artifact artifact;
} Compiled;
// Runs frontend, passes and target; stops after the pass `to` when given (no code then).
ssd_status ssd_compile_spec(Arena *a, const ssd_compile_options *o, const char *to, PassHook *hook,
                            void *hook_ctx, Compiled *out);
#endif
