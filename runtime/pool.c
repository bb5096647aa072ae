// SPDX-License-Identifier: Apache-2.0
// A pool of threads that run the blocks of a grid, the caller among them.
//
// Blocks are handed out one by one from a counter, so uneven blocks balance; which thread runs a
// block changes no bit of the result. A job is open while blocks are left. Workers enter an open
// job and leave it; the caller closes it and waits for those inside only: a worker still asleep is
// never waited for, so a small launch costs the caller no more than running it alone. Threads start
// at the first job that needs them, spin shortly for the next, then sleep.
#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

// --- Floating-point state: denormals are zero in kernels, and the caller notices nothing

#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned FpState;
static FpState fp_enter(void) {
    unsigned was = _mm_getcsr();
    _mm_setcsr(0x9fc0); // FTZ, DAZ, all exceptions masked, round to nearest, no flags
    return was;
}
static void fp_leave(FpState was) { _mm_setcsr(was); }
static void relax(void) { _mm_pause(); }
#elif defined(__aarch64__)
typedef struct FpState {
    u64 control, status;
} FpState;
static FpState fp_enter(void) {
    FpState was;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(was.control), "=r"(was.status));
    __asm__ volatile("msr fpcr, %0" ::"r"((u64)1 << 24)); // FZ
    return was;
}
static void fp_leave(FpState was) {
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" ::"r"(was.control), "r"(was.status));
}
static void relax(void) { __asm__ volatile("yield"); }
#else
typedef int FpState;
static FpState fp_enter(void) { return 0; }
static void fp_leave(FpState was) { (void)was; }
static void relax(void) {}
#endif

// --- The pool -----------------------------------------------------------------------------------

// One word says which job there is, whether it may be entered and how many workers are inside.
#define INSIDE 0xffffu
#define OPEN 0x10000u
#define JOB(state) ((state) >> 32)

enum { THREADS_MOST = 1024, SPINS = 600 }; // some 10 to 40 microseconds

typedef struct Worker {
    struct Pool *pool;
    pthread_t thread;
    int index;
} Worker;

struct Pool {
    int threads, started; // started: workers that run, the caller not counted
    int spins;
    bool tried;           // to start them
    pthread_mutex_t turn; // held by the launch whose job this is
    pthread_mutex_t lock; // for the two conditions only
    pthread_cond_t work, done;
    atomic_int asleep;   // workers waiting for `work`
    atomic_bool waiting; // the caller waits for `done`
    atomic_bool stop;
    void (*fn)(void *ctx, i64 block, int worker);
    void *ctx;
    i64 blocks;
    _Alignas(64) atomic_ullong state;
    _Alignas(64) atomic_llong next;
    _Alignas(64) Worker worker[];
};

static void run_blocks(Pool *p, int worker) {
    for (i64 b; (b = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < p->blocks;)
        p->fn(p->ctx, b, worker);
}

// Waits until there is a job other than `last`.
static void await_job(Pool *p, u64 last) {
    for (int i = 0; i < p->spins; i++, relax())
        if (JOB(atomic_load(&p->state)) != last) return;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->asleep, 1);
    while (JOB(atomic_load(&p->state)) == last) pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg) {
    Worker *w = arg;
    Pool *p = w->pool;
    fp_enter();
    for (u64 last = 0;;) {
        await_job(p, last);
        unsigned long long s = atomic_load(&p->state);
        if (atomic_load(&p->stop)) return NULL; // after the state, which is written after `stop`
        last = JOB(s);
        bool in = false;
        while ((s & OPEN) && JOB(s) == last && !in)
            in = atomic_compare_exchange_weak(&p->state, &s, s + 1);
        if (!in) continue;
        run_blocks(p, w->index);
        s = atomic_fetch_sub(&p->state, 1);
        if ((s & INSIDE) == 1 && !(s & OPEN) && atomic_load(&p->waiting)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

bool ssd_thread_start(pthread_t *out, void *(*fn)(void *), void *ctx) {
    enum { STACK = 8 << 20 }; // at least: compilers recurse
    pthread_attr_t attr;
    size_t stack = 0;
    sigset_t all, was;
    if (pthread_attr_init(&attr)) return false;
    pthread_attr_getstacksize(&attr, &stack);
    if (stack < STACK) pthread_attr_setstacksize(&attr, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was); // signals stay with the user's threads
    bool ok = !pthread_create(out, &attr, fn, ctx);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    pthread_attr_destroy(&attr);
    return ok;
}

// As many as the system gives; with none the caller does all the work.
static void start_workers(Pool *p) {
    p->tried = true;
    for (int i = 0; i < p->threads - 1; i++) {
        p->worker[i] = (Worker){.pool = p, .index = i + 1};
        if (!ssd_thread_start(&p->worker[i].thread, work, &p->worker[i])) break;
        p->started++;
    }
}

static void open_job(Pool *p) {
    u64 job = JOB(atomic_load(&p->state)) + 1;
    atomic_store(&p->state, (job & 0xffffffff) << 32 | OPEN);
    if (!atomic_load(&p->asleep)) return;
    pthread_mutex_lock(&p->lock);
    if (p->blocks > p->started)
        pthread_cond_broadcast(&p->work);
    else
        for (i64 i = 1; i < p->blocks; i++) pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

static void close_job(Pool *p) {
    atomic_fetch_and(&p->state, ~(unsigned long long)OPEN);
    for (int i = 0; i < p->spins; i++, relax())
        if (!(atomic_load(&p->state) & INSIDE)) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->waiting, true);
    while (atomic_load(&p->state) & INSIDE) pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->waiting, false);
    pthread_mutex_unlock(&p->lock);
}

void ssd_pool_run(Pool *p, i64 blocks, void (*fn)(void *ctx, i64 block, int worker), void *ctx) {
    if (blocks <= 0) return;
    pthread_mutex_lock(&p->turn);
    if (blocks > 1 && !p->tried) start_workers(p);
    FpState was = fp_enter();
    p->fn = fn;
    p->ctx = ctx;
    p->blocks = blocks;
    atomic_store(&p->next, 0);
    bool shared = blocks > 1 && p->started;
    if (shared) open_job(p);
    run_blocks(p, 0);
    if (shared) close_job(p);
    fp_leave(was);
    pthread_mutex_unlock(&p->turn);
}

Pool *ssd_pool_new(int threads) {
    threads = MAX(1, MIN(threads, THREADS_MOST));
    size_t size = sizeof(Pool) + sizeof(Worker) * (size_t)threads;
    Pool *p = aligned_alloc(64, (size + 63) & ~(size_t)63);
    if (!p) return NULL;
    memset(p, 0, size);
    p->threads = threads;
    p->spins = threads <= ssd_cpu_info()->cores ? SPINS : 0; // spinning takes a core from somebody
    if (pthread_mutex_init(&p->turn, NULL) || pthread_mutex_init(&p->lock, NULL) ||
        pthread_cond_init(&p->work, NULL) || pthread_cond_init(&p->done, NULL)) {
        free(p);
        return NULL;
    }
    return p;
}

void ssd_pool_free(Pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->state, (u64)1 << 32);
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_mutex_destroy(&p->turn);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    free(p);
}

int ssd_pool_threads(const Pool *p) { return p->threads; }
