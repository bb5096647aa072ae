// SPDX-License-Identifier: Apache-2.0
// Targets: what turns a placed tile program into code. codegen/ knows no YAML.
#ifndef SSD_TARGET_H
#define SSD_TARGET_H

#include "../ir/pass.h"
#include "../runtime/artifact.h"

typedef struct Target {
    const char *name;     // as given to --target: "cpu" "x86-64-v3" "x86-64-v4" "x86-64-v2" "ref"
    const char *doc;
    bool (*machine)(Machine *out, Text *why);  // fills the machine; false: cannot be compiled for here, and why
    // T1 program -> artifact code (arena-owned). On false *why has a reason.
    bool (*emit)(Arena *a, const Prog *p, const Machine *m, const void **out_code, size_t *out_size,
                 i64 *out_scratch /* [kernels] */, Text *why);
    // human-readable forms for `ssdc show --at source|asm`: LLVM IR, assembly. NULL: none
    bool (*text)(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why);
} Target;
extern const Target ssd_targets[];
extern const int ssd_target_count;
const Target *ssd_target_find(const char *name);  // NULL when unknown

// T1 program -> artifact's text parts: params, symbols, workspace, grids.
void ssd_artifact_from_prog(Arena *a, const Prog *p, const char *mode, const char *target,
                            const i64 *scratch, Artifact *out);

// For `ssdc doctor`: whether code can be generated here; LLVM is loaded to find out. *found gets its
// version and where it lies, or what is missing.
bool ssd_llvm_probe(Text *found);

#endif
