// SPDX-License-Identifier: Apache-2.0
// The targets there are, and what an artifact says of a program besides its code.
#include "target.h"
#include "../runtime/internal.h"
#include "llvm.h"

// --- CPUs --------------------------------------------------------------------------------------------------
static const Machine cpus[] = {
#define TARGET(name, canonical, bits, regs, rows, vecs, fused, feats, doc)                         \
    {.target = canonical,                                                                          \
     .arch = "x86_64",                                                                             \
     .features = feats,                                                                            \
     .vector_bits = bits,                                                                          \
     .vector_regs = regs,                                                                          \
     .f32_lanes = (bits) / 32,                                                                     \
     .fma = fused,                                                                                 \
     .f16c = fused,                                                                                \
     .mma_rows = rows,                                                                             \
     .mma_vecs = vecs},
#include "targets.def"
};

// The machine of a canonical target name. Cache sizes are this host's: the code for another one is as
// right, and we know no better.
static bool cpu(const char *name, Machine *out, Text *why) {
    const CpuInfo *host = ssd_cpu_info();
    for (size_t i = 0; i < COUNTOF(cpus); i++) {
        if (!name || strcmp(cpus[i].target, name)) continue;
        *out = cpus[i];
        out->l1 = host->l1d ? host->l1d : 32 << 10;
        out->l2 = host->l2 ? host->l2 : 512 << 10;
        return true;
    }
    ssd_text_printf(why, "no code generator for %s", name ? name : "this host's CPU");
    return false;
}

static bool host_machine(Machine *out, Text *why) {
    bool runs;
    return cpu(ssd_cpu_target("cpu", &runs), out, why);
}

#define TARGET(name, canonical, bits, regs, rows, vecs, fused, feats, doc)                         \
    static bool machine_##bits##_##regs##_##rows##_##vecs(Machine *out, Text *why);
#undef TARGET

enum { CPUS = COUNTOF(cpus) };
static bool machine_0(Machine *out, Text *why) { return cpu(cpus[0].target, out, why); }
static bool machine_1(Machine *out, Text *why) { return cpu(cpus[1].target, out, why); }
static bool machine_2(Machine *out, Text *why) { return cpu(cpus[2].target, out, why); }
static bool machine_3(Machine *out, Text *why) { return cpu(cpus[3].target, out, why); }
