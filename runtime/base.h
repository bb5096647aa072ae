// SPDX-License-Identifier: Apache-2.0
// The few things every file uses: sized integers, arenas, growing text, vectors, hashing, bugs.
#ifndef SSD_BASE_H
#define SSD_BASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

#if defined(__GNUC__)
#define SSD_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define SSD_NORETURN __attribute__((noreturn))
#else
#define SSD_PRINTF(f, a)
#define SSD_NORETURN
#endif

#define COUNTOF(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

// --- Arena -------------------------------------------------------------------------------------
// Allocations live until the arena is freed; none is freed singly. Memory is zeroed and 16-aligned.
// When the system has no memory left, an arena jumps to *oom when it is set (entry points set it
// and turn it into SSD_OUT_OF_MEMORY), else it aborts. Not thread safe: one arena, one thread at a
// time.
typedef struct Arena {
    struct ArenaBlock *head;
    char *at, *end;
    size_t total; // bytes handed out
    jmp_buf *oom;
} Arena;

void *ssd_arena_alloc(Arena *a, size_t size);
char *ssd_arena_dup(Arena *a, const char *s, size_t n); // NUL-terminated copy of n bytes
char *ssd_arena_printf(Arena *a, const char *fmt, ...) SSD_PRINTF(2, 3);
char *ssd_arena_vprintf(Arena *a, const char *fmt, va_list ap);
void ssd_arena_free(Arena *a);                   // frees all; the arena is empty and usable again
void ssd_arena_adopt(Arena *a, Arena *from);     // what `from` holds is a's now; `from` is empty
SSD_NORETURN void ssd_arena_exhausted(Arena *a); // what an allocation does that finds no memory

#define NEW(a, T) ((T *)ssd_arena_alloc((a), sizeof(T)))
#define NEWN(a, T, n) ((T *)ssd_arena_alloc((a), sizeof(T) * (size_t)(n)))

// --- Vec: a growing array inside an arena. `VEC(int) v = {0}; vec_push(a, &v, 3); v.v[0]; v.n` --
#define VEC(T)                                                                                     \
    struct {                                                                                       \
        T *v;                                                                                      \
        u32 n, cap;                                                                                \
    }
#define vec_push(a, vec, x)                                                                        \
    ((vec)->n == (vec)->cap                                                                        \
         ? (void)((vec)->v = ssd_vec_grow((a), (vec)->v, &(vec)->cap, sizeof *(vec)->v))           \
         : (void)0,                                                                                \
     (vec)->v[(vec)->n++] = (x))
void *ssd_vec_grow(Arena *a, void *v, u32 *cap, size_t item);

// --- Text: a growing heap string; ssd_text_free releases it. s is always NUL-terminated or NULL -
typedef struct Text {
    char *s;
    size_t n, cap;
} Text;
void ssd_text_printf(Text *t, const char *fmt, ...) SSD_PRINTF(2, 3);
void ssd_text_vprintf(Text *t, const char *fmt, va_list ap);
void ssd_text_put(Text *t, const char *s, size_t n);
void ssd_text_free(Text *t);

// 64-bit FNV-1a for tables inside a process (files on disk are keyed by xxHash, see cache.h).
u64 ssd_hash(const void *p, size_t n, u64 seed);

// Length in bytes of the code point at s (n >= 1 bytes), 0 when it is not valid UTF-8.
size_t ssd_utf8_decode(const char *s, size_t n, u32 *out);

// "did you mean": the index of the name nearest to s (edit distance <= 1 + len/3), or -1.
int ssd_nearest(const char *s, const char *const *names, int n);

// A fault of ours, never reachable from input: prints file, line, message to stderr and aborts.
SSD_NORETURN void ssd_bug(const char *file, int line, const char *fmt, ...) SSD_PRINTF(3, 4);
#define SSD_BUG(...) ssd_bug(__FILE__, __LINE__, __VA_ARGS__)

// --- Diag: messages with a place in a source text -----------------------------------------------
typedef struct Place {
    const char *file; // NULL: no place
    int line, col;    // from 1; 0 = unknown
} Place;
typedef enum { DIAG_ERROR, DIAG_WARNING, DIAG_NOTE } DiagKind;
typedef struct DiagItem {
    Place at;
    DiagKind kind;
    const char *text;
    u32 order;
} DiagItem;
typedef struct Diag {
    Arena *arena;
    VEC(DiagItem) items;
    int errors;
    const char *file, *source; // the text that places in `file` point into, for carets
    size_t source_len;
} Diag;
void ssd_diag_add(Diag *d, DiagKind kind, Place at, const char *fmt, ...) SSD_PRINTF(4, 5);
// All items sorted by place, repeats dropped: "file:line:col: error: text", the source line, a
// caret.
void ssd_diag_print(Diag *d, Text *out);

#endif
