// SPDX-License-Identifier: Apache-2.0
// ssdc targets, doctor, cache: what there is, and what to do about what there is not.
#include "../runtime/device_cuda.h"
#include "../runtime/dynlib.h"
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// --- targets -----------------------------------------------------------------------------------
int ssd_cmd_targets(Cli *c) {
    for (int i = 0; i < ssd_target_count; i++) {
        const Target *t = &ssd_targets[i];
        Machine m = {0};
        Text why = {0};
        bool runs = false, compiles = t->machine(&m, &why);
        const char *full = ssd_cpu_target(t->name, &runs);
        if (!full) full = ssd_cuda_target(t->name, &runs);
        if (c->json) {
            ssd_cli_json(json_pack("{s:s, s:s, s:o, s:b, s:b, s:o}", "target", t->name, "doc",
                                   t->doc, "name", full ? json_string(full) : json_null(),
                                   "compiles", compiles, "runs", runs, "why",
                                   compiles ? json_null() : json_string(why.s ? why.s : "")));
        } else {
            printf("%s%-11s%s %-28s %s%s%s  %s\n", ssd_cli_bold(c), t->name, ssd_cli_plain(c),
                   full ? full : "", runs ? ssd_cli_good(c) : ssd_cli_dim(c),
                   runs ? "runs here" : "         ", ssd_cli_plain(c), compiles ? t->doc : why.s);
        }
        ssd_text_free(&why);
    }
    return CLI_OK;
}

// --- doctor -------------------------------------------------------------------------------------
// A
// finding: good, or bad with what to do, or for information only.
typedef enum { WELL, ILL, INFO } Health;

static Health finding(const Cli *c, Health h, const char *what, const char *found,
                      const char *advice) {
    static const char *const words[] = {"ok", "missing", "info"};
    if (c->json) {
        json_t *text = json_string(found);
        ssd_cli_json(json_pack("{s:s, s:s, s:o, s:s}", "check", what, "state", words[h], "found",
                               text ? text : json_null(), "advice", advice));
        return h;
    }
    const char *colour = h == WELL ? ssd_cli_good(c) : h == ILL ? ssd_cli_bad(c) : ssd_cli_dim(c);
    printf("%s%-8s%s %-10s %s\n", colour, words[h], ssd_cli_plain(c), what, found);
    if (*advice) printf("%20s%s%s%s\n", "", ssd_cli_bold(c), advice, ssd_cli_plain(c));
    return h;
}

static Health check_cpu(const Cli *c) {
    const CpuInfo *i = ssd_cpu_info();
    bool runs = false;
    const char *target = ssd_cpu_target("cpu", &runs);
    Text t = {0};
    ssd_text_printf(&t, "%s, %d core%s, L1 %lld kB, L2 %lld kB, kernels for %s",
                    *i->brand ? i->brand : "unknown CPU", i->cores, i->cores == 1 ? "" : "s",
                    (long long)i->l1d / 1024, (long long)i->l2 / 1024, target ? target : "nothing");
    Health h = finding(c, target ? WELL : ILL, "cpu", t.s,
                       !target   ? "this processor is not supported yet: x86-64 is"
                       : i->avx2 ? ""
                                 : "without AVX2 the portable 128-bit code is used, which is slow");
    ssd_text_free(&t);
    return h;
}

static Health check_threads(const Cli *c) {
    const char *env = getenv("SSD_THREADS");
    char text[96];
    ssd_context_options o = {.cache_dir = ""};
    ssd_context *ctx = NULL;
    ssd_status s = ssd_context_create(&o, &ctx);
    snprintf(text, sizeof text, "%d%s%s%s", s == SSD_OK ? ssd_context_threads(ctx) : 0,
             env ? " (SSD_THREADS=" : "", env ? env : "", env ? ")" : "");
    ssd_context_destroy(ctx);
    return finding(c, s == SSD_OK ? WELL : ILL, "threads", text,
                   s == SSD_OK ? "" : "threads cannot be started: see `ulimit -u`");
}

// Loaded kernels need memory that is executable after it was written.
static Health check_exec(const Cli *c) {
    size_t n = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = p != MAP_FAILED && mprotect(p, n, PROT_READ | PROT_EXEC) == 0;
    if (p != MAP_FAILED) munmap(p, n);
    return finding(
        c, ok ? WELL : ILL, "memory", ok ? "may be made executable" : "may not be made executable",
        ok ? "" : "a security policy (SELinux execmem, systemd MemoryDenyWriteExecute) forbids it");
}

static Health check_compiler(const Cli *c) {
    Text found = {0};
    bool ok = ssd_llvm_probe(&found);
    Health h = finding(c, ok ? WELL : ILL, "llvm", found.s ? found.s : "",
                       ok ? ""
                          : "install LLVM 16 or later (apt install llvm-19-dev) and build again; "
                            "cached kernels run without it");
    ssd_text_free(&found);
    return h;
}

static Health check_cache(Cli *c) {
    Cache cache = {0};
    Text t = {0};
    ssd_cache_open(&cache, &c->arena, c->cache_dir);
    Health h = cache.dir ? WELL : ILL;
    if (cache.dir) {
        CacheEntry *e = NULL;
        int n = ssd_cache_list(&cache, &c->arena, &e), bad = 0;
        i64 bytes = 0;
        for (int i = 0; i < n; i++) {
            bytes += e[i].bytes;
            bad += !e[i].ok;
        }
        ssd_text_printf(&t, "%s, %d entries, %.1f MB%s", cache.dir, n, (double)bytes * 1e-6,
                        bad ? ", some damaged" : "");
        if (access(cache.dir, W_OK) != 0) h = ILL;
        finding(c, h, "cache", t.s,
                h == ILL
                    ? "the directory is not writable: kernels are compiled again in every process"
                : bad ? "remove damaged entries: ssdc cache gc"
                      : "");
    } else {
        finding(c, h, "cache", *cache.warning ? cache.warning : "off",
                "kernels are compiled again in every process: set SSD_CACHE_DIR to a directory of "
                "your own");
    }
    ssd_text_free(&t);
    return h;
}

// No driver and no device are no fault of a machine; a driver that does not work is.
static Health check_driver(const Cli *c) {
    const CudaDriver *cuda = ssd_cuda_driver();
    const CudaDevice *d = &cuda->device;
    Text t = {0};
    Health h = !cuda->status ? WELL : cuda->status == SSD_DEVICE ? ILL : INFO;
    if (h == WELL)
        ssd_text_printf(&t,
                        "%s, %s, %d multiprocessors, %lld kB shared memory a block, L2 %lld MB, "
                        "memory %.0f GB",
                        d->name, d->target + 5, d->sms, (long long)d->shared_block / 1024,
                        (long long)d->l2 >> 20, (double)d->memory * 1e-9);
    else
        ssd_text_printf(&t, "%s", cuda->why);
    finding(c, h, "cuda", t.s ? t.s : "", "");
    t.n = 0;
    if (cuda->version) {
        ssd_text_printf(&t, "CUDA %d.%d, %s", cuda->version / 1000, cuda->version % 1000 / 10,
                        cuda->path);
        finding(c, INFO, "driver", t.s ? t.s : "", "");
    }
    ssd_text_free(&t);
    return h;
}

static Health check_nvrtc(const Cli *c) {
    Text t = {0};
    const Nvrtc *n = ssd_nvrtc(&t);
    int driver = ssd_cuda_driver_version();
    bool device = !ssd_cuda_driver()->status, newer = n && driver && n->major > driver / 1000;
    if (n) ssd_text_printf(&t, "%d.%d, %s", n->major, n->minor, n->path);
    Health h =
        finding(c,
                n && !newer ? WELL
                : device    ? ILL
                            : INFO,
                "nvrtc", t.s ? t.s : "",
                newer ? "it is newer than the driver, which cannot load its code: update the "
                        "driver, or set SSD_NVRTC to an older libnvrtc.so"
                      : "");
    ssd_text_free(&t);
    return h;
}

int ssd_cmd_doctor(Cli *c) {
    bool ill = false;
    ill |= check_cpu(c) == ILL;
    ill |= check_threads(c) == ILL;
    ill |= check_exec(c) == ILL;
    ill |= check_compiler(c) == ILL;
    ill |= check_cache(c) == ILL;
    ill |= check_driver(c) == ILL;
    ill |= check_nvrtc(c) == ILL;
    return ill ? CLI_NO : CLI_OK;
}

// --- cache -------------------------------------------------------------------------------------
static void print_entry(const Cli *c, const CacheEntry *e) {
    char when[32] = "";
    time_t t = (time_t)e->mtime;
    struct tm tm;
    if (localtime_r(&t, &tm)) strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
    const char *program = e->ok ? e->program : "(damaged)";
    if (c->json)
        ssd_cli_json(json_pack("{s:s, s:I, s:I, s:b, s:s, s:s, s:s, s:s}", "entry", e->name,
                               "bytes", (json_int_t)e->bytes, "mtime", (json_int_t)e->mtime, "ok",
                               e->ok, "program", e->ok ? e->program : "", "mode",
                               e->ok ? e->mode : "", "target", e->ok ? e->target : "", "schedule",
                               e->ok ? e->schedule : ""));
    else
        printf("%s  %s %7.1f kB  %s%s%s %s %s %s\n", e->name, when, (double)e->bytes / 1024,
               e->ok ? "" : ssd_cli_bad(c), program, e->ok ? "" : ssd_cli_plain(c),
               e->ok ? e->mode : "", e->ok ? e->target : "", e->ok ? e->schedule : "");
}

static i64 size_limit(void) {
    const char *s = getenv("SSD_CACHE_MAX");
    char *end = NULL;
    long long v = s ? strtoll(s, &end, 10) : 0;
    return s && end != s && *end == 0 && v >= 0 ? v : (i64)512 << 20;
}

int ssd_cmd_cache(Cli *c) {
    static const char *const actions[] = {"ls", "verify", "gc", "clear"};
    enum { LS, VERIFY, GC, CLEAR } action = LS;
    const char *word = c->args[0];
    for (action = LS; action <= CLEAR && strcmp(actions[action], word) != 0;) action++;
    if (action > CLEAR) {
        int k = ssd_nearest(word, actions, COUNTOF(actions));
        return ssd_cli_error("cache: no action '%s'; %s%s%s", word,
                             k < 0 ? "expected ls, verify, gc or clear" : "did you mean '",
                             k < 0 ? "" : actions[k], k < 0 ? "" : "'?");
    }
    Cache cache = {0};
    ssd_cache_open(&cache, &c->arena, c->cache_dir);
    if (!cache.dir) return ssd_cli_error("cache: %s", *cache.warning ? cache.warning : "is off");
    CacheEntry *e = NULL;
    int n = ssd_cache_list(&cache, &c->arena, &e), bad = 0, gone = 0;
    for (int i = 0; i < n; i++) {
        bad += !e[i].ok;
        if (action == LS || (action == VERIFY && !e[i].ok)) print_entry(c, &e[i]);
        if (action == CLEAR || (action == GC && !e[i].ok))
            gone += ssd_cache_remove(&cache, e[i].name);
    }
    if (action == GC) {
        ssd_cache_gc(&cache, size_limit());
        gone = n - ssd_cache_list(&cache, &c->arena, &e);
    }
    if (c->json && action != LS)
        ssd_cli_json(json_pack("{s:s, s:i, s:i, s:i}", "dir", cache.dir, "entries", n, "damaged",
                               bad, "removed", gone));
    else if (action != LS || !c->json)
        printf("%s: %d entries, %d damaged, %d removed\n", cache.dir, n, bad, gone);
    return action == VERIFY && bad ? CLI_NO : CLI_OK;
}
