// SPDX-License-Identifier: Apache-2.0
// A device on the CPU, for generated CUDA C++ that rewrite.c has turned into calls of functions
// emu_*. Blocks of the grid run one after another; the threads of a block are fibers that run until
// they wait: for a barrier, for the other lanes of their warp, for an mbarrier. A block in which
// all threads wait is a deadlock and is told.
//
// Shared memory ends at a page that may not be touched, and begins full of NaNs. Copies land when
// their thread waits for them or has them arrive at a barrier, and not before. A barrier that is
// missing is seen where the order of fibers tells, and every second block runs them last to first.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define __device__
#define __forceinline__ inline
#define __global__ __attribute__((visibility("default")))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __CUDA_ARCH__ 800

// A kernel that the driver may ask for, and the size of its arguments.
#define EMU_KERNEL(name, args)                                                                     \
    extern "C" __attribute__((visibility("default"))) const unsigned emu_bytes_##name =            \
        sizeof(args);

typedef uint16_t Half;
typedef uint32_t Word;

// --- What a block is ----------------------------------------------------------------------------
struct uint3 {
    unsigned x, y, z;
};
struct Copy { // global to shared, zeros behind `there`
    unsigned to;
    const void *from;
    int bytes, there;
};
struct Copies { // under way, the oldest first
    Copy *copy;
    int n, room;
    int group[64], groups; // copies up to the end of each group
};
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    char *stack;
    bool begun, done;
    const char *waits_for;
    Copies copies;
};
// The lanes of a warp meet in rounds; what they hand each other in one lies in words[round % 2]
// until all have been to the next.
struct Warp {
    long round;
    int arrived;
    Word words[2][32][6];
};
struct Named {
    long round;
    int arrived;
};
enum { THREADS_MAX = 1024, STACK = 256 << 10 };

static uint3 threadIdx, blockIdx, blockDim, gridDim;
static Fiber fibers[THREADS_MAX];
static Warp warps[THREADS_MAX / 32];
static Named named[16];
static jmp_buf scheduler;
static long events; // whatever may end a wait
static unsigned char *emu_shared;
static unsigned shared_bytes;

[[noreturn, gnu::format(printf, 1, 2)]] static void die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "emulator: block %u, thread %u: ", blockIdx.x, threadIdx.x);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    abort();
}

// Lets the other fibers run.
[[gnu::noinline]] static void pause_fiber() {
    unsigned me = threadIdx.x;
    if (!_setjmp(fibers[me].at)) _longjmp(scheduler, 1);
}

template <class Ready> static void wait(const char *what, Ready ready) {
    while (!ready()) {
        fibers[threadIdx.x].waits_for = what;
        pause_fiber();
    }
}

// --- Threads meet -------------------------------------------------------------------------------
template <class Place> static void meet(const char *what, Place &p, int threads) {
    long round = p.round;
    if (++p.arrived == threads) {
        p.arrived = 0, p.round++, events++;
        return;
    }
    wait(what, [&] { return p.round != round; });
}
static void emu_bar_sync(int barrier, int threads) {
    meet("bar.sync", named[barrier & 15], threads);
}
static void __syncthreads() { emu_bar_sync(0, (int)blockDim.x); }
static Warp &my_warp() { return warps[threadIdx.x / 32]; }
static unsigned lane() { return threadIdx.x % 32; }
static void __syncwarp() { meet("its warp", my_warp(), 32); }
static void __threadfence_block() {}

// Hands words to the other lanes: what all gave.
typedef Word Given[32][6];
static const Given &give(const Word *words, int n) {
    Warp &w = my_warp();
    Given &given = w.words[w.round % 2];
    memcpy(given[lane()], words, n * sizeof *words);
    __syncwarp();
    return given;
}
template <class T> static T from_lane(T v, unsigned from) {
    static_assert(sizeof(T) == 4, "a word");
    Word w;
    memcpy(&w, &v, 4);
    memcpy(&v, &give(&w, 1)[from % 32], 4);
    return v;
}
template <class T> static T __shfl_sync(unsigned, T v, int from, int width = 32) {
    return from_lane(v, lane() / width * width + from % width);
}
template <class T> static T __shfl_xor_sync(unsigned, T v, int mask, int = 32) {
    return from_lane(v, lane() ^ mask);
}
template <class T> static T __shfl_up_sync(unsigned, T v, unsigned by, int width = 32) {
    return from_lane(v, lane() % width >= by ? lane() - by : lane());
}
template <class T> static T __shfl_down_sync(unsigned, T v, unsigned by, int width = 32) {
    return from_lane(v, lane() % width + by < (unsigned)width ? lane() + by : lane());
}

// --- What is built into CUDA --------------------------------------------------------------------
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class To, class From> static To bits_as(From v) {
    To r;
    static_assert(sizeof r == sizeof v, "the same bits");
    memcpy(&r, &v, sizeof r);
    return r;
}
static float __uint_as_float(unsigned v) { return bits_as<float>(v); }
static float __int_as_float(int v) { return bits_as<float>(v); }
static unsigned __float_as_uint(float v) { return bits_as<unsigned>(v); }
static int __float_as_int(float v) { return bits_as<int>(v); }
static float rsqrtf(float v) { return 1 / sqrtf(v); }
static float __fdividef(float x, float y) { return x / y; }
#define __sinf sinf // the C library has such names too
#define __cosf cosf
template <class T> static T __ldg(const T *p) { return *p; }
template <class T> static T min(T x, T y) { return x < y ? x : y; }
template <class T> static T max(T x, T y) { return x > y ? x : y; }

static size_t __cvta_generic_to_shared(const void *p) {
    return (size_t)((const unsigned char *)p - emu_shared);
}
static void *__cvta_shared_to_generic(size_t at) { return emu_shared + at; }
template <class T> static T *__cvta_generic_to_global(T *p) { return p; }

// --- Numbers ------------------------------------------------------------------------------------
static float of_bf16(Half h) { return bits_as<float>((Word)h << 16); }
static Half to_bf16(float v) {
    Word w = bits_as<Word>(v);
    return isnan(v) ? 0x7fff : (Half)((w + 0x7fff + (w >> 16 & 1)) >> 16);
}
static float of_f16(Half h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float v = exponent == 31 ? mantissa ? NAN : INFINITY
              : exponent     ? ldexpf((float)(mantissa | 1024), exponent - 25)
                             : ldexpf((float)mantissa, -24);
    return h >> 15 ? -v : v;
}
static Half to_f16(float v) {
    Half sign = (Half)(signbit(v) ? 0x8000 : 0);
    if (isnan(v)) return 0x7fff;
    if (v == 0) return sign;
    if (fabsf(v) >= 65536) return (Half)(sign | 0x7c00);
    int exponent = 0;
    frexpf(v, &exponent); // of the leading bit: one less; -14 or more
    exponent = max(exponent - 1, -14);
    int units =
        (int)nearbyintf(ldexpf(fabsf(v), 10 - exponent)); // carries into the exponent as it should
    return (Half)(sign | ((exponent + 14) * 1024 + units));
}
static float of_tf32(Word w) { return bits_as<float>(w & 0xffffe000); }

static void emu_f32_of_f16(float &r, Half v) { r = of_f16(v); }
static void emu_f16_of_f32(Half &r, float v) { r = to_f16(v); }
static void emu_two_f16(Word &r, float high, float low) {
    r = (Word)to_f16(high) << 16 | to_f16(low);
}
static void emu_two_bf16(Word &r, float high, float low) {
    r = (Word)to_bf16(high) << 16 | to_bf16(low);
}
static void emu_tf32_of_f32(Word &r, float v) { r = (bits_as<Word>(v) + 0x1000) & 0xffffe000; }
static void emu_exp2(float &r, float v) {
    r = exp2f(v);
    if (r < 0x1p-126f) r = 0;
}
// Two bf16 times a factor in two parts: x * low rounded, then x * high + that.
static void emu_scale_bf16(Word &r, Word x, Word high, Word low) {
    Word both = 0;
    for (int i = 0; i < 32; i += 16) {
        float v = of_bf16((Half)(x >> i)), rest = of_bf16(to_bf16(v * of_bf16((Half)(low >> i))));
        both |= (Word)to_bf16(v * of_bf16((Half)(high >> i)) + rest) << i;
    }
    r = both;
}

// --- Tensors: an access is made where `yes` -----------------------------------------------------
template <class T> static T *aligned(T *p, size_t bytes) {
    if ((size_t)p % bytes) die("%zu bytes at %p", bytes, (const void *)p);
    return p;
}
template <class T> static void emu_read_1(T &r, const void *p, int yes) {
    if (yes) memcpy(&r, aligned(p, sizeof r), sizeof r);
}
static void emu_read_2(Word &a, Word &b, const void *p, int yes) {
    if (!yes) return;
    const Word *w = (const Word *)aligned(p, 8);
    a = w[0], b = w[1];
}
static void emu_read_4(float &a, float &b, float &c, float &d, const void *p, int yes) {
    if (!yes) return;
    const float *v = (const float *)aligned(p, 16);
    a = v[0], b = v[1], c = v[2], d = v[3];
}
template <class T> static void emu_write_1(T v, void *p, int yes) {
    if (yes) memcpy(aligned(p, sizeof v), &v, sizeof v);
}
static void emu_write_2(Word a, Word b, void *p, int yes) {
    const Word w[] = {a, b};
    if (yes) memcpy(aligned(p, 8), w, sizeof w);
}
template <class T> static void emu_write_4(T a, T b, T c, T d, void *p, int yes) {
    const T v[] = {a, b, c, d};
    if (yes) memcpy(aligned(p, 16), v, sizeof v);
}

// --- Shared memory ------------------------------------------------------------------------------
static unsigned char *at_shared(unsigned at, unsigned bytes) {
    if (at % bytes) die("%u bytes of shared memory at %u", bytes, at);
    if (at > shared_bytes || bytes > shared_bytes - at)
        die("shared memory at %u of %u", at, shared_bytes);
    return emu_shared + at;
}
static void emu_shared_read(Word &r, unsigned at) { memcpy(&r, at_shared(at, 4), 4); }
template <class T> static void emu_shared_write(unsigned at, T v) {
    memcpy(at_shared(at, sizeof v), &v, sizeof v);
}
static void emu_copy(unsigned to, const void *from, int bytes, int there) {
    Copies &c = fibers[threadIdx.x].copies;
    at_shared(to, (unsigned)bytes);
    if (there) aligned(from, (unsigned)bytes);
    if (c.n == c.room) {
        c.room = 2 * c.room + 64;
        c.copy = (Copy *)realloc(c.copy, (size_t)c.room * sizeof *c.copy);
        if (!c.copy) die("no memory");
    }
    c.copy[c.n++] = {to, from, bytes, there};
}
static void land(int n) {
    Copies &c = fibers[threadIdx.x].copies;
    for (int i = 0; i < n; i++) {
        unsigned char *at = at_shared(c.copy[i].to, (unsigned)c.copy[i].bytes);
        memset(at, 0, (size_t)c.copy[i].bytes);
        if (c.copy[i].there) memcpy(at, c.copy[i].from, (size_t)c.copy[i].there);
    }
    memmove(c.copy, c.copy + n, (size_t)(c.n - n) * sizeof *c.copy);
    c.n -= n;
}
static void emu_copies_end() {
    Copies &c = fibers[threadIdx.x].copies;
    if (c.groups == (int)(sizeof c.group / sizeof *c.group)) die("too many groups of copies");
    c.group[c.groups++] = c.n;
}
static void emu_copies_wait(int under_way) {
    Copies &c = fibers[threadIdx.x].copies;
    int done = c.groups - under_way;
    if (done <= 0) return;
    int n = c.group[done - 1];
    land(n);
    for (int i = done; i < c.groups; i++) c.group[i - done] = c.group[i] - n;
    c.groups = under_way;
}
static void emu_copies_wait_all() {
    Copies &c = fibers[threadIdx.x].copies;
    land(c.n);
    c.groups = 0;
}

// --- mbarriers: 8 bytes of shared memory --------------------------------------------------------
struct Mbarrier {
    uint16_t count, pending;
    uint16_t phase, is_one;
};
enum { IS_ONE = 0x5afe };
static Mbarrier &barrier_at(unsigned at) {
    Mbarrier &b = *(Mbarrier *)at_shared(at, 8);
    if (b.is_one != IS_ONE) die("no mbarrier at %u", at);
    return b;
}
static void emu_barrier_init(unsigned at, int count) {
    *(Mbarrier *)at_shared(at, 8) = {(uint16_t)count, (uint16_t)count, 0, IS_ONE};
}
static void emu_barrier_arrive(unsigned at) {
    Mbarrier &b = barrier_at(at);
    events++;
    if (--b.pending) return;
    b.pending = b.count, b.phase ^= 1;
}
static void emu_barrier_wait(unsigned at, unsigned parity) {
    wait("mbarrier", [&] { return barrier_at(at).phase != (parity & 1); });
}
static void emu_copies_arrive(unsigned at) {
    emu_copies_wait_all();
    emu_barrier_arrive(at);
}

// --- Matrices -----------------------------------------------------------------------------------
// n matrices of 8 x 8 halves: lane 8*m + i gives where row i of matrix m lies. A lane gets two
// neighbours of a row, of the transposed matrix where it is `turned`.
template <int n, bool turned> static void load_matrices(Word *r, unsigned from) {
    const Given &rows = give(&from, 1);
    for (unsigned m = 0; m < n; m++) {
        r[m] = 0;
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = lane() / 4, column = lane() % 4 * 2 + i;
            if (turned) row = lane() % 4 * 2 + i, column = lane() / 4;
            Half h;
            memcpy(&h, at_shared(rows[m * 8 + row][0], 16) + column * 2, 2);
            r[m] |= (Word)h << i * 16;
        }
    }
}
template <bool turned> static void load_4(Word &a, Word &b, Word &c, Word &d, unsigned from) {
    Word r[4];
    load_matrices<4, turned>(r, from);
    a = r[0], b = r[1], c = r[2], d = r[3];
}
template <bool turned> static void load_2(Word &a, Word &b, unsigned from) {
    Word r[2];
    load_matrices<2, turned>(r, from);
    a = r[0], b = r[1];
}
static void emu_load_4(Word &a, Word &b, Word &c, Word &d, unsigned from) {
    load_4<false>(a, b, c, d, from);
}
static void emu_load_4_turned(Word &a, Word &b, Word &c, Word &d, unsigned from) {
    load_4<true>(a, b, c, d, from);
}
static void emu_load_2(Word &a, Word &b, unsigned from) { load_2<false>(a, b, from); }
static void emu_load_2_turned(Word &a, Word &b, unsigned from) { load_2<true>(a, b, from); }

// d[16, 8] += a[16, k] * b[k, 8], k being 8 words of `per` numbers. Lane 4*g + t holds of d columns
// 2*t and 2*t + 1 of rows g and g + 8; of a words t and t + 4 of both rows; of b the same words of
// column g.
template <int per, class Number>
static void mma(float *const (&d)[4], const Word (&ab)[6], Number number) {
    const Given &given = give(ab, 6);
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane() / 4, half = i / 2, column = lane() % 4 * 2 + i % 2;
        double sum = 0;
        for (unsigned w = 0; w < 8; w++) {
            Word a = given[row * 4 + w % 4][half + w / 4 * 2],
                 b = given[column * 4 + w % 4][4 + w / 4];
            for (int e = 0; e < per; e++) sum += (double)number(a, e) * number(b, e);
        }
        *d[i] = (float)(*d[i] + sum);
    }
}
#define MMA(name, per, number)                                                                     \
    static void name(float &d0, float &d1, float &d2, float &d3, Word a0, Word a1, Word a2,        \
                     Word a3, Word b0, Word b1) {                                                  \
        mma<per>({&d0, &d1, &d2, &d3}, {a0, a1, a2, a3, b0, b1},                                   \
                 [](Word w, int e) { return number; });                                            \
    }
MMA(emu_mma_bf16, 2, of_bf16((Half)(w >> e * 16)))
MMA(emu_mma_f16, 2, of_f16((Half)(w >> e * 16)))
MMA(emu_mma_tf32, 1, of_tf32(w))

// --- The rest -----------------------------------------------------------------------------------
template <class... Any> static void emu_nothing(Any...) {}
static void emu_never() { die("an instruction of another machine"); }

// --- Launches -----------------------------------------------------------------------------------
typedef void Code(const void *args);
static Code *code;
static const void *code_args;

static void run_fiber() {
    code(code_args);
    fibers[threadIdx.x].done = true;
    events++;
    _longjmp(scheduler, 1);
}

// Runs a fiber until it waits or is done.
[[gnu::noinline]] static void resume(unsigned thread) {
    Fiber &f = fibers[thread];
    threadIdx.x = thread;
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.at, 1);
    f.begun = true;
    setcontext(&f.start);
}

static void run_block(unsigned threads) {
    memset(emu_shared, 0xff, shared_bytes);
    memset(named, 0, sizeof named);
    memset(warps, 0, sizeof warps);
    for (unsigned t = 0; t < threads; t++) {
        Fiber &f = fibers[t];
        f.begun = f.done = false;
        f.copies.n = f.copies.groups = 0;
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = f.stack;
        f.start.uc_stack.ss_size = STACK;
        makecontext(&f.start, run_fiber, 0);
    }
    for (unsigned running = threads; running;) {
        long before = events;
        running = 0;
        for (unsigned i = 0; i < threads; i++) {
            unsigned t = blockIdx.x % 2 ? threads - 1 - i : i;
            if (!fibers[t].done) resume(t);
            running += !fibers[t].done;
            if (!fibers[t].done) threadIdx.x = t;
        }
        if (running && events == before)
            die("waits for %s for ever, as %u threads do", fibers[threadIdx.x].waits_for, running);
    }
}

static char *map(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) die("no memory");
    return (char *)p;
}

extern "C" __attribute__((visibility("default"))) void
emu_launch(Code *kernel, const void *args, unsigned grid, unsigned block, unsigned shared) {
    code = kernel, code_args = args, shared_bytes = shared;
    blockDim = {block, 1, 1}, gridDim = {grid, 1, 1};
    if (block > THREADS_MAX || block % 32) die("a block of %u threads", block);
    for (unsigned t = 0; t < block; t++)
        if (!fibers[t].stack) fibers[t].stack = map(STACK);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (shared + page - 1) / page * page;
    char *window = map(pages + 2 * page);
    mprotect(window, page, PROT_NONE);
    mprotect(window + page + pages, page, PROT_NONE);
    emu_shared = (unsigned char *)window + page + pages - (shared + 15) / 16 * 16;
    for (unsigned b = 0; b < grid; b++) {
        blockIdx = {b, 0, 0};
        run_block(block);
    }
    munmap(window, pages + 2 * page);
}

// Stacks go with the library.
[[gnu::destructor]] static void unmap_stacks() {
    for (Fiber &f : fibers)
        if (f.stack) munmap(f.stack, STACK);
}
