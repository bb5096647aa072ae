// SPDX-License-Identifier: Apache-2.0
// Tile text as lines, tokens and names: tile_lex.c. What they mean is for tile_parse.c.
#ifndef SSD_TILE_LEX_H
#define SSD_TILE_LEX_H

#include "tile.h"

#include <setjmp.h>

typedef enum { K_END, K_NAME, K_NUM, K_SYM, K_OP } Kind;
typedef struct Line {
    const char *s, *end;
    const char *start; // of the physical line, for columns
    int indent, number;
} Line;
typedef struct Name {
    const char *s;
    Val val;
    bool visible;
    u32 next; // in its hash chain
} Name;

typedef struct Parser {
    Arena *a;
    Prog *p;
    const char *file;
    Diag *d;
    VEC(Line) lines;
    u32 line; // the next one
    Line cur;
    const char *at;
    Kind kind; // the token at hand
    const char *tok;
    size_t len;
    double num;
    bool is_float, dims;
    int depth, operators; // of the expression, of the line
    VEC(Name) names;      // of the kernel; [0] unused
    u32 chain[256];
    jmp_buf out;
} Parser;

SSD_NORETURN void ssd_lex_fail(Parser *r, const char *at, const char *fmt, ...) SSD_PRINTF(3, 4);
#define fail_at ssd_lex_fail
#define fail(r, ...) fail_at((r), (r)->tok, __VA_ARGS__)

void ssd_lex_split(Parser *r, const char *text, size_t n); // into lines
void ssd_lex_line(Parser *r);                              // starts the next one
void ssd_lex_next(Parser *r);                              // token
bool ssd_lex_is(const Parser *r, const char *s);
void ssd_lex_want(Parser *r, const char *s);
char *ssd_lex_word(Parser *r, const char *what);
void ssd_lex_done(Parser *r); // at the end of the line

void ssd_lex_define(Parser *r, const char *at, const char *s, Val v);
void ssd_lex_hide(Parser *r, u32 mark); // the names from there on: their block ended
Val ssd_lex_value(Parser *r);
u8 ssd_lex_axis(Parser *r);
int ssd_lex_axes(Parser *r, const char *close, u8 *out, int max);

// The grammar says these on every line.
static inline bool digit(char c) { return c >= '0' && c <= '9'; }
static inline void next(Parser *r) { ssd_lex_next(r); }
static inline bool is(const Parser *r, const char *s) { return ssd_lex_is(r, s); }
static inline bool take(Parser *r, const char *s) {
    if (!ssd_lex_is(r, s)) return false;
    ssd_lex_next(r);
    return true;
}
static inline void want(Parser *r, const char *s) { ssd_lex_want(r, s); }
static inline char *word(Parser *r, const char *what) { return ssd_lex_word(r, what); }
static inline void done(Parser *r) { ssd_lex_done(r); }
static inline Val value(Parser *r) { return ssd_lex_value(r); }
static inline u8 axis(Parser *r) { return ssd_lex_axis(r); }

#endif
