// SPDX-License-Identifier: Apache-2.0
// The thread pool: each block exactly once, one worker at a time in a worker's place,
// floating-point state in and out, many launches, several callers.
#include "test.h"

#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

typedef struct Job {
    atomic_int *done;
    atomic_int busy[64];
    atomic_int wrong, workers;
    int threads;
} Job;

static void run_block(void *ctx, i64 block, int worker) {
    Job *j = ctx;
    if (worker < 0 || worker >= j->threads || atomic_fetch_add(&j->busy[worker], 1))
        atomic_fetch_add(&j->wrong, 1);
    atomic_fetch_add(&j->done[block], 1);
    atomic_fetch_or(&j->workers, 1 << worker);
    volatile float tiny = 1e-40f, one = 1;
    if (tiny * one != 0) atomic_fetch_add(&j->wrong, 1); // denormals are zero in here
    atomic_fetch_sub(&j->busy[worker], 1);
}

static void each_block_once(void) {
    static const int threads[] = {1, 2, 3, 8, 31};
    static const i64 blocks[] = {0, 1, 2, 3, 7, 64, 1000};
    for (size_t i = 0; i < COUNTOF(threads); i++) {
        Pool *p = ssd_pool_new(threads[i]);
        CHECK(ssd_pool_threads(p) == threads[i]);
        for (int round = 0; round < 60; round++)
            for (size_t k = 0; k < COUNTOF(blocks); k++) {
                Job *j = calloc(1, sizeof *j);
                j->threads = threads[i];
                j->done = calloc((size_t)blocks[k] + 1, sizeof *j->done);
                ssd_pool_run(p, blocks[k], run_block, j);
                bool once = true;
                for (i64 b = 0; b < blocks[k]; b++) once = once && atomic_load(&j->done[b]) == 1;
                CHECK(once && !j->done[blocks[k]] && !j->wrong);
                free(j->done);
                free(j);
            }
        ssd_pool_free(p);
    }
    ssd_pool_free(NULL);
    ssd_pool_free(ssd_pool_new(4)); // whose threads never started
}

static void floating_point_state(void) {
    Pool *p = ssd_pool_new(2);
    atomic_int done[8] = {0};
    Job j = {.done = done, .threads = 2};
    fesetround(FE_UPWARD);
    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept(FE_UNDERFLOW);
    ssd_pool_run(p, 8, run_block, &j);
    CHECK(fegetround() == FE_UPWARD && fetestexcept(FE_ALL_EXCEPT) == FE_UNDERFLOW);
    volatile float tiny = 1e-40f, one = 1;
    CHECK(tiny * one != 0);
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    CHECK(!j.wrong);
    ssd_pool_free(p);
}

static void count(void *ctx, i64 block, int worker) {
    (void)worker;
    atomic_fetch_add((atomic_llong *)ctx, block);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

// Close together they meet spinning workers, far apart sleeping ones.
static void many_launches(void) {
    Pool *p = ssd_pool_new(4);
    atomic_llong total = 0;
    double start = now_us();
    int n = 20000;
    for (int i = 0; i < n; i++) ssd_pool_run(p, 4, count, &total);
    printf("a launch of 4 blocks on 4 threads: %.2f us\n", (now_us() - start) / n);
    CHECK(total == 6 * n);
    for (int i = 0; i < 30; i++) {
        nanosleep(&(struct timespec){0, 2000000}, NULL);
        ssd_pool_run(p, 4, count, &total);
    }
    CHECK(total == 6 * (n + 30));
    ssd_pool_free(p);
}

typedef struct Caller {
    Pool *pool;
    atomic_int *inside, *wrong;
} Caller;

static void alone(void *ctx, i64 block, int worker) {
    Caller *c = ctx;
    (void)block, (void)worker;
    if (atomic_load(c->inside) != 1) atomic_fetch_add(c->wrong, 1);
}

static void *call(void *arg) {
    Caller *c = arg;
    atomic_llong total = 0;
    for (int i = 0; i < 500; i++) ssd_pool_run(c->pool, 1 + i % 9, count, &total);
    return total == 0 ? arg : NULL;
}

// Two blocks that wait for one another end only when two threads run them.
static void meet(void *ctx, i64 block, int worker) {
    atomic_int *arrived = ctx;
    (void)block, (void)worker;
    atomic_fetch_add(arrived, 1);
    double start = now_us();
    while (atomic_load(arrived) < 2 && now_us() - start < 5e6)
        nanosleep(&(struct timespec){0, 1000}, NULL);
    if (atomic_load(arrived) < 2) atomic_fetch_sub(arrived, 100);
}

static void side_by_side(void) {
    Pool *p = ssd_pool_new(2);
    for (int i = 0; i < 50; i++) {
        atomic_int arrived = 0;
        if (i % 2) nanosleep(&(struct timespec){0, 1000000}, NULL); // let the worker fall asleep
        ssd_pool_run(p, 2, meet, &arrived);
        CHECK(arrived == 2);
    }
    ssd_pool_free(p);
}

static void several_callers(void) {
    Pool *p = ssd_pool_new(3);
    atomic_int inside = 1, wrong = 0;
    Caller c = {p, &inside, &wrong};
    pthread_t thread[4];
    bool started[4];
    for (int i = 0; i < 4; i++) started[i] = !pthread_create(&thread[i], NULL, call, &c);
    for (int i = 0; i < 300; i++) ssd_pool_run(p, 5, alone, &c);
    for (int i = 0; i < 4; i++) {
        void *bad = &c;
        if (started[i]) pthread_join(thread[i], &bad);
        CHECK(!bad);
    }
    CHECK(!wrong);
    ssd_pool_free(p);
}

static void make_and_free(void) {
    for (int i = 0; i < 300; i++) {
        Pool *p = ssd_pool_new(1 + i % 5);
        atomic_llong total = 0;
        for (int k = 0; k < i % 3; k++) ssd_pool_run(p, 6, count, &total);
        CHECK(total == 15 * (i % 3));
        ssd_pool_free(p);
    }
}

int main(void) {
    each_block_once();
    floating_point_state();
    many_launches();
    side_by_side();
    several_callers();
    make_and_free();
    return test_end();
}
