// SPDX-License-Identifier: Apache-2.0
// Targets: what turns a placed tile program into code. codegen/ knows no YAML.
#ifndef SSD_TARGET_H
#define SSD_TARGET_H

#include "../ir/pass.h"
#include "../runtime/artifact.h"

// Machine code of a program.
typedef struct TargetCode {
    const void *bytes;
    size_t size;
    i64 *scratch;      // by kernel
    int n_modules;     // CUDA: kernel i is in module i (artifact.h); 0: all are in one
    i64 *module_bytes; // of each module
} TargetCode;

typedef struct Target {
    const char *name; // as given to --target: "cpu" "x86-64-v3" "x86-64-v4" "x86-64-v2" "ref"
    const char *doc;
    bool (*machine)(Machine *out,
                    Text *why); // fills the machine; false: cannot be compiled for here, and why
    // T1 program -> artifact code (arena-owned). On false *why has a reason.
    bool (*emit)(Arena *a, const Prog *p, const Machine *m, TargetCode *out, Text *why);
    // human-readable forms for `ssdc show --at source|asm`: LLVM IR, assembly. NULL: none
    bool (*text)(const Prog *p, const Machine *m, bool assembly, Text *out, Text *why);
} Target;
extern const Target ssd_targets[];
extern const int ssd_target_count;
const Target *ssd_target_find(const char *name); // NULL when unknown

// T1 program and its code -> artifact: params, symbols, workspace, grids.
void ssd_artifact_from_prog(Arena *a, const Prog *p, const char *mode, const char *target,
                            const TargetCode *code, Artifact *out);

// For `ssdc doctor`: whether code can be generated here; LLVM is loaded to find out. *found gets
// its version and where it lies, or what is missing.
bool ssd_llvm_probe(Text *found);

#endif
