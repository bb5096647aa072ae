// SPDX-License-Identifier: Apache-2.0
// Lines, tokens and names of tile text. Comments end at the line; `#b` is a symbol, so `# ` starts
// one.
#include "tile_lex.h"

#include <stdio.h>
#include <stdlib.h>

void ssd_lex_fail(Parser *r, const char *at, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    Place where = {r->file, r->cur.number, r->cur.start ? (int)(at - r->cur.start) + 1 : 0};
    ssd_diag_add(r->d, DIAG_ERROR, where, "%s", text);
    longjmp(r->out, 1);
}

// --- Lines and tokens ---------------------------------------------------------------------------
static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// A physical line, without its comment, in pieces at `;`.
static void split_line(Parser *r, const char *s, const char *end, int number) {
    Line l = {.start = s, .number = number};
    while (s < end && *s == ' ') s++, l.indent++;
    for (const char *c = s; c < end; c++)
        if (*c == '#' && (c + 1 == end || !letter(c[1]))) end = c;
    while (s < end) {
        const char *stop = memchr(s, ';', (size_t)(end - s));
        if (!stop) stop = end;
        while (s < stop && *s == ' ') s++;
        l.s = s, l.end = stop;
        while (l.end > l.s && (l.end[-1] == ' ' || l.end[-1] == '\r')) l.end--;
        if (l.end > l.s) vec_push(r->a, &r->lines, l);
        s = stop + 1;
    }
}

void ssd_lex_split(Parser *r, const char *s, size_t n) {
    const char *end = s + n;
    for (int number = 1; s < end; number++) {
        const char *nl = memchr(s, '\n', (size_t)(end - s));
        split_line(r, s, nl ? nl : end, number);
        if (!nl) break;
        s = nl + 1;
    }
}

static void number_token(Parser *r) {
    const char *s = r->at;
    while (s < r->cur.end && digit(*s)) s++;
    // `0..n` is a range, `0.5` a number
    if (s + 1 < r->cur.end && *s == '.' && digit(s[1])) {
        r->is_float = true;
        do s++;
        while (s < r->cur.end && digit(*s));
    }
    if (s < r->cur.end && (*s == 'e' || *s == 'E')) {
        const char *e = s + 1;
        if (e < r->cur.end && (*e == '+' || *e == '-')) e++;
        if (e < r->cur.end && digit(*e)) {
            r->is_float = true;
            while (e < r->cur.end && digit(*e)) e++;
            s = e;
        }
    }
    char text[64];
    size_t n = (size_t)(s - r->at);
    if (n >= sizeof text) fail_at(r, r->at, "a number of %zu characters", n);
    memcpy(text, r->at, n);
    text[n] = 0;
    char point[8];
    snprintf(point, sizeof point, "%.1f", 0.5); // what strtod wants in this locale
    for (char *c = text; *c; c++)
        if (*c == '.') *c = point[1];
    r->num = strtod(text, NULL);
    r->len = n;
    if (!r->is_float && r->num > 0x1p53) fail_at(r, r->at, "the number is too large for an index");
}

// A point inside a name, not the `..` of a range.
static bool inner_dot(const char *s, const char *end) {
    return *s == '.' && s + 1 < end && (letter(s[1]) || digit(s[1]));
}

void ssd_lex_next(Parser *r) {
    while (r->at < r->cur.end && *r->at == ' ') r->at++;
    r->tok = r->at;
    r->is_float = false;
    if (r->at >= r->cur.end) {
        r->kind = K_END;
        r->len = 0;
        return;
    }
    const char *s = r->at;
    if (letter(*s) || (*s == '#' && s + 1 < r->cur.end)) {
        r->kind = *s == '#' ? K_SYM : K_NAME;
        do s++;
        while (s < r->cur.end && (letter(*s) || digit(*s) || inner_dot(s, r->cur.end)));
        r->len = (size_t)(s - r->at);
    } else if (digit(*s)) {
        r->kind = K_NUM;
        number_token(r);
    } else {
        static const char *const two[] = {"..", "//", "->", "<=", ">=", "==", "!="};
        r->kind = K_OP;
        r->len = 1;
        for (size_t i = 0; i < COUNTOF(two); i++)
            if (s + 1 < r->cur.end && s[0] == two[i][0] && s[1] == two[i][1]) r->len = 2;
        if (*s < 33 || *s > 126) fail(r, "unexpected byte 0x%02x", (unsigned)(u8)*s);
    }
    r->at += r->len;
}

void ssd_lex_line(Parser *r) {
    r->cur = r->lines.v[r->line++];
    r->operators = 0;
    r->at = r->cur.s;
    next(r);
}

bool ssd_lex_is(const Parser *r, const char *s) {
    return (r->kind == K_NAME || r->kind == K_OP) && strlen(s) == r->len &&
           !memcmp(s, r->tok, r->len);
}
void ssd_lex_want(Parser *r, const char *s) {
    if (take(r, s)) return;
    if (r->kind == K_END) fail(r, "expected `%s` before the end of the line", s);
    fail(r, "expected `%s`, found `%.*s`", s, (int)MIN(r->len, 40), r->tok);
}
char *ssd_lex_word(Parser *r, const char *what) {
    if (r->kind != K_NAME) fail(r, "expected %s", what);
    char *s = ssd_arena_dup(r->a, r->tok, r->len);
    next(r);
    return s;
}
void ssd_lex_done(Parser *r) {
    if (r->kind != K_END) fail(r, "unexpected `%.*s`", (int)MIN(r->len, 40), r->tok);
}

// --- Names --------------------------------------------------------------------------------------
static u32 *bucket(Parser *r, const char *s, size_t n) {
    return &r->chain[ssd_hash(s, n, 0) & 255];
}

static u32 find_name(Parser *r, const char *s, size_t n) {
    for (u32 i = *bucket(r, s, n); i; i = r->names.v[i].next)
        if (strlen(r->names.v[i].s) == n && !memcmp(r->names.v[i].s, s, n)) return i;
    return 0;
}

void ssd_lex_define(Parser *r, const char *at, const char *s, Val v) {
    if (find_name(r, s, strlen(s))) fail_at(r, at, "`%s` is already defined in this kernel", s);
    if (ssd_prog_find_axis(r->p, s)) fail_at(r, at, "`%s` is an axis", s);
    u32 *b = bucket(r, s, strlen(s));
    vec_push(r->a, &r->names, ((Name){.s = s, .val = v, .visible = true, .next = *b}));
    *b = r->names.n - 1;
}
void ssd_lex_hide(Parser *r, u32 mark) {
    for (u32 i = mark; i < r->names.n; i++) r->names.v[i].visible = false;
}

Val ssd_lex_value(Parser *r) {
    if (r->kind != K_NAME) fail(r, "expected a value");
    u32 i = find_name(r, r->tok, r->len);
    if (!i) fail(r, "unknown value `%.*s`", (int)MIN(r->len, 40), r->tok);
    if (!r->names.v[i].visible) fail(r, "`%s` is defined in another block", r->names.v[i].s);
    next(r);
    return r->names.v[i].val;
}

u8 ssd_lex_axis(Parser *r) {
    const char *at = r->tok;
    u8 x = ssd_prog_find_axis(r->p, word(r, "an axis"));
    if (!x) fail_at(r, at, "unknown axis");
    return x;
}

int ssd_lex_axes(Parser *r, const char *close, u8 *out, int max) {
    int n = 0;
    while (!take(r, close)) {
        const char *at = r->tok;
        u8 x = axis(r);
        if (n == max) fail_at(r, at, "more than %d axes", max);
        if (memchr(out, x, (size_t)n)) fail_at(r, at, "the axis is named twice");
        out[n++] = x;
    }
    return n;
}
