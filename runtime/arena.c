// SPDX-License-Identifier: Apache-2.0
// base.h: arenas, growing text, vectors, hashing, nearest name, bugs.
#include "base.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

// --- Arena --------------------------------------------------------------------------------------

typedef struct ArenaBlock {
    struct ArenaBlock *next;
    size_t pad; // keeps what follows 16-aligned
} ArenaBlock;

enum { ARENA_ALIGN = 16, ARENA_FIRST = 4096, ARENA_MOST = 1 << 20 };

void ssd_arena_exhausted(Arena *a) {
    if (a->oom) longjmp(*a->oom, 1);
    ssd_bug(__FILE__, __LINE__, "out of memory in an arena nobody guards");
}

// A fresh zeroed block with room for `size` bytes. Blocks grow with the arena, so a small arena
// costs a page and a large one few calls.
static char *new_block(Arena *a, size_t size) {
    ArenaBlock *b = calloc(1, sizeof *b + size);
    if (!b) ssd_arena_exhausted(a);
    b->next = a->head;
    a->head = b;
    return (char *)(b + 1);
}

void *ssd_arena_alloc(Arena *a, size_t size) {
    if (size > PTRDIFF_MAX - 4 * ARENA_ALIGN) ssd_arena_exhausted(a);
    size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (!size) size = ARENA_ALIGN;
    if (size > (size_t)(a->end - a->at)) {
        size_t room = MIN(MAX(a->total, (size_t)ARENA_FIRST), (size_t)ARENA_MOST);
        if (size > room / 2) { // its own block; the current one stays in use
            char *p = new_block(a, size);
            a->total += size;
            return p;
        }
        a->at = new_block(a, room);
        a->end = a->at + room;
    }
    char *p = a->at;
    a->at += size;
    a->total += size;
    return p;
}

char *ssd_arena_dup(Arena *a, const char *s, size_t n) {
    if (n == SIZE_MAX) ssd_arena_exhausted(a);
    char *p = ssd_arena_alloc(a, n + 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *ssd_arena_vprintf(Arena *a, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = ssd_arena_alloc(a, n < 0 ? 1 : (size_t)n + 1);
    if (n > 0) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

char *ssd_arena_printf(Arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *p = ssd_arena_vprintf(a, fmt, ap);
    va_end(ap);
    return p;
}

void ssd_arena_free(Arena *a) {
    for (ArenaBlock *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->head = NULL;
    a->at = a->end = NULL;
    a->total = 0;
}

void ssd_arena_adopt(Arena *a, Arena *from) {
    ArenaBlock **end = &from->head;
    while (*end) end = &(*end)->next;
    *end = a->head;
    a->head = from->head;
    a->total += from->total;
    *from = (Arena){.oom = from->oom};
}

void *ssd_vec_grow(Arena *a, void *v, u32 *cap, size_t item) {
    u32 more = *cap ? *cap * 2 : 8;
    if (more <= *cap || more > SIZE_MAX / item) ssd_arena_exhausted(a);
    void *p = ssd_arena_alloc(a, more * item);
    if (*cap) memcpy(p, v, *cap * item);
    *cap = more;
    return p;
}

// --- Text ---------------------------------------------------------------------------------------
// Without memory a text becomes empty and stays so (cap says it): a message may be lost, but
// nothing is ever silently cut in the middle.

static bool text_room(Text *t, size_t n) {
    if (t->cap == SIZE_MAX) return false;
    if (n < t->cap - t->n) return true;
    size_t cap = MAX(t->cap * 2, (size_t)64);
    if (cap - t->n <= n) cap = t->n + n + 1;
    char *s = cap > t->n + n ? realloc(t->s, cap) : NULL;
    if (!s) {
        free(t->s);
        *t = (Text){.cap = SIZE_MAX};
        return false;
    }
    t->s = s;
    t->cap = cap;
    return true;
}

void ssd_text_put(Text *t, const char *s, size_t n) {
    if (!text_room(t, n)) return;
    if (n) memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = 0;
}

void ssd_text_vprintf(Text *t, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && text_room(t, (size_t)n)) {
        vsnprintf(t->s + t->n, (size_t)n + 1, fmt, again);
        t->n += (size_t)n;
    }
    va_end(again);
}

void ssd_text_printf(Text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ssd_text_vprintf(t, fmt, ap);
    va_end(ap);
}

void ssd_text_free(Text *t) {
    free(t->s);
    *t = (Text){0};
}

// --- Hash, nearest name, bugs -------------------------------------------------------------------

u64 ssd_hash(const void *p, size_t n, u64 seed) {
    const u8 *s = p;
    u64 h = 0xcbf29ce484222325u ^ seed;
    for (size_t i = 0; i < n; i++) h = (h ^ s[i]) * 0x100000001b3u;
    return h;
}

enum { NEAREST_MOST = 63 }; // longer names get no suggestion

// Edit distance in half steps (a change of case is half an edit; a swap of neighbours is one), or
// `limit` + 1 when it is more than `limit`.
static int distance(const char *s, int n, const char *t, int m, int limit) {
    int row[3][NEAREST_MOST + 1];
    for (int j = 0; j <= m; j++) row[0][j] = 2 * j;
    for (int i = 1; i <= n; i++) {
        int *cur = row[i % 3], *one = row[(i + 2) % 3], *two = row[(i + 1) % 3],
            best = cur[0] = 2 * i;
        for (int j = 1; j <= m; j++) {
            char a = s[i - 1], b = t[j - 1];
            int swap = a == b ? 0 : tolower((u8)a) == tolower((u8)b) ? 1 : 2;
            int d = MIN(one[j - 1] + swap, MIN(one[j], cur[j - 1]) + 2);
            if (i > 1 && j > 1 && a == t[j - 2] && s[i - 2] == b) d = MIN(d, two[j - 2] + 2);
            cur[j] = d;
            best = MIN(best, d);
        }
        if (best > limit + 2) return limit + 1;
    }
    return row[n % 3][m];
}

int ssd_nearest(const char *s, const char *const *names, int n) {
    size_t len = strlen(s);
    if (!len || len > NEAREST_MOST) return -1;
    int limit = MIN(2 * (1 + (int)len / 3), 2 * (int)len - 1); // never a wholly different name
    int best = -1;
    for (int i = 0; i < n; i++) {
        size_t m = names[i] ? strlen(names[i]) : 0;
        if (!m || m > NEAREST_MOST) continue;
        int d = distance(s, (int)len, names[i], (int)m, limit);
        if (d <= limit) {
            best = i;
            limit = d - 1;
        }
    }
    return best;
}

void ssd_bug(const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "ssdc: internal error at %s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}
