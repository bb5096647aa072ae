// SPDX-License-Identifier: Apache-2.0
// Kernels under valgrind: no read of memory that nobody wrote (outputs, workspace and scratch start
// undefined), no access beside a tensor, every element of every output defined.
//
//     memcheck PATH_OF_VALGRIND SPEC.yaml...
//
// Compiles outside of valgrind, for AVX2 (valgrind knows no AVX-512), then runs itself inside on
// the cached kernels. Memory here is malloc's, whose exact bounds valgrind knows.
#include "harness.h"
#include "../../runtime/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char target[] = "x86-64-v3";
static const char *const schedules[] = {NULL, "form=recurrent", "form=quadratic",
                                        "form=chunked q=8", "form=chunked q=8 split=t3"};
static const char *const modes[] = {"forward", "step"};

static ssd_tensor allocate(const SpecTensor *st, const Sizes *z) {
    i64 dims[SSD_MAX_RANK], count;
    if (!ssd_host_dims(st, z, dims, &count)) exit(2);
    return ssd_tensor_dense(malloc((size_t)count * ssd_dtype_size(st->dtype)), st->dtype, st->naxes,
                            dims);
}

static i64 count_of(const ssd_tensor *t) {
    i64 n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dims[d];
    return n;
}

static void run(ssd_kernel *k, const Layer *l, Values in, Values want, const Sizes *z) {
    ssd_arg args[64];
    Arena a = {0};
    Values got = {NEWN(&a, NamedArray, 64), 0};
    int n = ssd_kernel_param_count(k);
    for (int i = 0; i < n; i++) {
        ssd_param p;
        if (ssd_kernel_param(k, i, &p) != SSD_OK) exit(2);
        bool output = p.role == SSD_OUTPUT;
        const SpecTensor *st = layer_tensor(l, p.name, output);
        args[i] = (ssd_arg){st->name, allocate(st, z)};
        const Array *v = output ? NULL : value(in, st->name);
        for (i64 e = 0; v && e < count_of(&args[i].tensor); e++)
            ssd_host_store(args[i].tensor.data, st->dtype, e, v->v[e]);
    }
    size_t bytes;
    check(ssd_kernel_workspace(k, args, n, &bytes) == SSD_OK, "%s", ssd_last_error());
    void *ws = aligned_alloc(64, bytes + 64 - bytes % 64);
    check(ssd_launch(k, args, n, ws, bytes) == SSD_OK, "%s", ssd_last_error());
    for (int i = 0; i < n; i++) {
        if (!layer_tensor(l, args[i].name, true)) continue;
        NamedArray *o = &got.v[got.n++];
        const ssd_tensor *t = &args[i].tensor;
        o->name = args[i].name;
        o->a.rank = t->rank;
        memcpy(o->a.dims, t->dims, sizeof o->a.dims);
        o->a.v = NEWN(&a, double, count_of(t) + 1);
        for (i64 e = 0; e < count_of(t); e++) o->a.v[e] = ssd_host_load(t->data, t->dtype, e);
    }
    near(l, got, want, 1); // branches on every element: an undefined one is reported
    for (int i = 0; i < n; i++) free(args[i].tensor.data);
    free(ws);
    ssd_arena_free(&a);
}

// Compiles all (inside = false), or runs all from the cache that was filled so.
static void walk(const char *cache, char **specs, int n, bool inside) {
    ssd_context *cx;
    if (ssd_context_create(&(ssd_context_options){2, cache}, &cx) != SSD_OK) exit(2);
    for (int i = 0; i < n; i++)
        for (size_t m = 0; m < COUNTOF(modes); m++) {
            Layer l;
            if (!layer_open(&l, specs[i], modes[m], "shrink")) continue;
            Arena a = {0};
            const Sizes z = {.b = l.packed ? 1 : 2, .t = 11, .s = l.packed ? 3 : 0};
            const Values in = draw(&a, &l, z, 4), want = meaning(&a, &l, in, z);
            for (size_t s = 0; s < COUNTOF(schedules); s++) {
                label("memcheck %s %s %s", l.name, modes[m], schedules[s] ? schedules[s] : "auto");
                ssd_kernel *k = compile(cx, &l, schedules[s], target, NULL);
                if (!k) continue;
                if (inside) {
                    check(!strcmp(ssd_kernel_origin(k), "cache"), "origin %s",
                          ssd_kernel_origin(k));
                    run(k, &l, in, want, &z);
                }
                ssd_kernel_destroy(k);
            }
            ssd_arena_free(&a);
            layer_close(&l);
        }
    ssd_context_destroy(cx);
}

int main(int argc, char **argv) {
    label("memcheck");
    if (argc >= 3 && !strcmp(argv[1], "--inside")) {
        walk(argv[2], argv + 3, argc - 3, true);
        return closing_line();
    }
    if (argc < 3) return 2;
    bool runs;
    if (!ssd_cpu_target(target, &runs) || !runs) {
        printf("skipped: memcheck: this CPU has no AVX2\n");
        return 77;
    }
    char cache[300];
    snprintf(cache, sizeof cache, "%s/memcheck-XXXXXX",
             getenv("SSD_TEST_TMP") ? getenv("SSD_TEST_TMP") : "/tmp");
    if (!mkdtemp(cache)) return 2;
    walk(cache, argv + 2, argc - 2, false);
    char **inside = calloc((size_t)argc + 8, sizeof *inside);
    int n = 0;
    inside[n++] = argv[1];
    inside[n++] = "--quiet";
    inside[n++] = "--error-exitcode=9";
    inside[n++] = argv[0];
    inside[n++] = "--inside";
    inside[n++] = cache;
    for (int i = 2; i < argc; i++) inside[n++] = argv[i];
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execv(argv[1], inside);
        _exit(2);
    }
    int status;
    waitpid(pid, &status, 0);
    char clean[400];
    snprintf(clean, sizeof clean, "rm -rf '%s'", cache);
    if (system(clean) != 0) printf("cannot remove %s\n", cache);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
