// SPDX-License-Identifier: Apache-2.0
// CPU programs: an artifact's kernels as functions, run in the order of a plan, the pool joined
// between.
#include "internal.h"

#include <stdlib.h>

struct CpuProgram {
    const Artifact *art;
    Module *module;
    CpuKernel ***kernel; // [plan][kernel]
};

static bool find_kernels(CpuProgram *p, Text *why) {
    const Artifact *art = p->art;
    p->kernel = calloc((size_t)art->n_plans, sizeof *p->kernel);
    if (!p->kernel) return ssd_text_printf(why, "out of memory"), false;
    for (int i = 0; i < art->n_plans; i++) {
        const ArtPlan *plan = &art->plans[i];
        p->kernel[i] = calloc((size_t)plan->n_kernels, sizeof **p->kernel);
        if (!p->kernel[i]) return ssd_text_printf(why, "out of memory"), false;
        for (int k = 0; k < plan->n_kernels; k++) {
            void *at = ssd_module_symbol(p->module, plan->kernels[k].symbol);
            if (!at) {
                ssd_text_printf(why, "the code has no kernel '%s'", plan->kernels[k].symbol);
                return false;
            }
            memcpy(&p->kernel[i][k], &at, sizeof at); // ISO C converts no object to a function
        }
    }
    return true;
}

CpuProgram *ssd_cpu_load(const Artifact *art, Text *why) {
    CpuProgram *p = calloc(1, sizeof *p);
    if (!p) return ssd_text_printf(why, "out of memory"), NULL;
    p->art = art;
    p->module = ssd_module_load(art->code, art->code_size, why);
    if (p->module && find_kernels(p, why)) return p;
    ssd_cpu_free(p);
    return NULL;
}

void ssd_cpu_free(CpuProgram *p) {
    if (!p) return;
    for (int i = 0; p->kernel && i < p->art->n_plans; i++) free(p->kernel[i]);
    free(p->kernel);
    ssd_module_free(p->module);
    free(p);
}

// --- Scratch ------------------------------------------------------------------------------------

void ssd_cpu_scratch_free(CpuScratch *s) {
    for (int i = 0; i < s->workers; i++) free(s->of[i]);
    free(s->of);
    *s = (CpuScratch){0};
}

static bool scratch_room(CpuScratch *s, int workers, size_t bytes) {
    if (workers <= s->workers && bytes <= s->bytes) return true;
    bytes = (MAX(bytes, s->bytes) + 4095) & ~(size_t)4095;
    ssd_cpu_scratch_free(s);
    s->of = calloc((size_t)workers, sizeof *s->of);
    if (!s->of) return false;
    s->bytes = bytes;
    for (s->workers = 0; s->workers < workers; s->workers++)
        if (!(s->of[s->workers] = aligned_alloc(4096, bytes))) {
            ssd_cpu_scratch_free(s);
            return false;
        }
    return true;
}

// --- Launch -------------------------------------------------------------------------------------

typedef struct Job {
    CpuKernel *kernel;
    CpuArgs args;
    const CpuScratch *scratch;
} Job;

static void run_block(void *ctx, i64 block, int worker) {
    const Job *j = ctx;
    j->kernel(&j->args, block, j->scratch->of ? j->scratch->of[worker] : NULL);
}

ssd_status ssd_cpu_run(const CpuProgram *p, Pool *pool, CpuScratch *scratch, const Launch *l) {
    const ArtPlan *plan = l->plan;
    size_t bytes = 0;
    for (int k = 0; k < plan->n_kernels; k++) bytes = MAX(bytes, (size_t)plan->kernels[k].scratch);
    if (bytes && !scratch_room(scratch, ssd_pool_threads(pool), bytes))
        return ssd_fail(SSD_OUT_OF_MEMORY, "no memory for %zu bytes of scratch a thread", bytes);
    Job job = {.args = {l->ptr, l->stride, l->dim, l->sym}, .scratch = scratch};
    for (int k = 0; k < plan->n_kernels; k++) {
        job.kernel = p->kernel[plan - p->art->plans][k];
        ssd_pool_run(pool, l->blocks[k], run_block, &job);
    }
    return SSD_OK;
}
