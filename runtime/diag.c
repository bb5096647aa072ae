// SPDX-License-Identifier: Apache-2.0
// Messages with a place in a source text, printed as
//     mamba2.yaml:7:12: error: unknown dim 'Z'
//         7 |   x: bf16[b, t, Z]
//           |                 ^
// Lines and columns count as libyaml counts them: columns are code points, a byte order mark is
// none. The text is untrusted: control and direction-changing characters are shown as escapes.
#include "base.h"

#include <stdlib.h>

void ssd_diag_add(Diag *d, DiagKind kind, Place at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    DiagItem item = {at, kind, ssd_arena_vprintf(d->arena, fmt, ap), d->items.n};
    va_end(ap);
    vec_push(d->arena, &d->items, item);
    if (kind == DIAG_ERROR) d->errors++;
}

// --- One character ------------------------------------------------------------------------------

typedef struct Span {
    u32 from, to;
} Span;
static const Span zero_width[] = {
    {0x300, 0x36f}, {0x200b, 0x200d}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}};
static const Span double_width[] = {
    {0x1100, 0x115f}, {0x2e80, 0xa4cf}, {0xac00, 0xd7a3},   {0xf900, 0xfaff},   {0xfe30, 0xfe6f},
    {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
// Controls, and what could make a terminal or an editor show another text than is there.
static const Span unsafe[] = {{0, 0x1f},        {0x7f, 0x9f},     {0x200e, 0x200f},
                              {0x2028, 0x202e}, {0x2066, 0x2069}, {0xfeff, 0xfeff},
                              {0xfff9, 0xfffb}};

static bool within(u32 c, const Span *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (c >= s[i].from && c <= s[i].to) return true;
    return false;
}
#define IN(c, table) within((c), (table), COUNTOF(table))

size_t ssd_utf8_decode(const char *s, size_t n, u32 *out) {
    const u8 *p = (const u8 *)s;
    static const u32 least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;
    if (!len || len > n) return 0;
    u32 c = len == 1 ? p[0] : p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *out = c;
    return len;
}

// The character at s as it is shown: bytes read, text in `buf`, columns it takes from column `at`
// on.
typedef struct Glyph {
    size_t bytes;
    int width;
    char buf[16];
} Glyph;
static Glyph glyph(const char *s, size_t n, int at) {
    static const char hex[] = "0123456789abcdef";
    u32 c = 0;
    Glyph g = {.bytes = ssd_utf8_decode(s, n, &c), .width = 1};
    if (!g.bytes || (g.bytes == 1 && c != '\t' && IN(c, unsafe))) {
        u8 byte = (u8)*s;
        g = (Glyph){1, 4, {'\\', 'x', hex[byte >> 4], hex[byte & 15]}};
    } else if (c == '\t') {
        g.width = 4 - at % 4;
        memset(g.buf, ' ', (size_t)g.width);
    } else if (IN(c, unsafe)) {
        memcpy(g.buf, "\\u0000", 7);
        for (int i = 5; i > 1; i--, c >>= 4) g.buf[i] = hex[c & 15];
        g.width = 6;
    } else {
        memcpy(g.buf, s, g.bytes);
        g.width = IN(c, zero_width) ? 0 : IN(c, double_width) ? 2 : 1;
    }
    return g;
}

static void put_safe(Text *out, const char *s) {
    for (size_t n = strlen(s); n;) {
        Glyph g = glyph(s, n, 0);
        ssd_text_printf(out, "%s", *s == '\n' ? "\\n" : *s == '\t' ? " " : g.buf);
        s += g.bytes;
        n -= g.bytes;
    }
}

// --- The source line and its caret --------------------------------------------------------------

typedef struct Line {
    const char *s;
    size_t n;
    int number;
    const char *next;
} Line;

// Bytes of the line break at s, 0 when there is none; the breaks of YAML 1.1, as libyaml counts.
static size_t line_break(const char *s, const char *end) {
    size_t n = (size_t)(end - s);
    if (*s == '\n') return 1;
    if (*s == '\r') return n > 1 && s[1] == '\n' ? 2 : 1;
    if (n > 1 && !memcmp(s, "\xc2\x85", 2)) return 2;
    if (n > 2 && (!memcmp(s, "\xe2\x80\xa8", 3) || !memcmp(s, "\xe2\x80\xa9", 3))) return 3;
    return 0;
}

// Moves forward to line `want`; false when the text ends before it.
static bool seek_line(Line *l, const char *end, int want) {
    while (l->number < want) {
        if (!l->next) return false;
        const char *s = l->s = l->next;
        size_t brk = 0;
        while (s < end && !(brk = line_break(s, end))) s++;
        l->n = (size_t)(s - l->s);
        l->next = s < end ? s + brk : NULL;
        l->number++;
    }
    return true;
}

enum {
    SHOWN = 96,
    BEFORE = 60
}; // columns of a long line that are shown, and of these before the caret

static void put_line(Text *out, const Line *l, int col) {
    int caret = 0, width = 0;
    for (size_t i = 0, k = 1; i < l->n; k++) {
        Glyph g = glyph(l->s + i, l->n - i, width);
        width += g.width;
        i += g.bytes;
        if (k < (size_t)col) caret = width; // so also for a place after the end of the line
    }
    int from = 0, to = width;
    if (width > SHOWN) {
        from = MAX(0, MIN(caret - BEFORE, width - SHOWN));
        to = from + SHOWN;
    }
    const char *cut = from ? "..." : "";
    ssd_text_printf(out, "%5d | %s", l->number, cut);
    for (size_t i = 0, at = 0; i < l->n;) {
        Glyph g = glyph(l->s + i, l->n - i, (int)at);
        // A glyph that starts before the cut is dropped; blanks keep the caret in place.
        if ((int)at >= from && (int)at < to)
            ssd_text_printf(out, "%s", g.buf);
        else if ((int)at < from && (int)at + g.width > from)
            ssd_text_printf(out, "%*s", (int)at + g.width - from, "");
        at += (size_t)g.width;
        i += g.bytes;
    }
    ssd_text_printf(out, "%s\n", to < width ? "..." : "");
    if (col > 0) ssd_text_printf(out, "      | %*s^\n", (int)strlen(cut) + caret - from, "");
}

// --- Sorted, without repeats --------------------------------------------------------------------

static int by_place(const void *pa, const void *pb) {
    const DiagItem *a = *(const DiagItem *const *)pa, *b = *(const DiagItem *const *)pb;
    if (!a->at.file != !b->at.file) return a->at.file ? 1 : -1;
    int f = a->at.file ? strcmp(a->at.file, b->at.file) : 0;
    if (f) return f;
    if (a->at.line != b->at.line) return a->at.line < b->at.line ? -1 : 1;
    if (a->at.col != b->at.col) return a->at.col < b->at.col ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static bool same_place(const Place *a, const Place *b) {
    return a->line == b->line && a->col == b->col && !a->file == !b->file &&
           (!a->file || !strcmp(a->file, b->file));
}

static void put_item(const Diag *d, const DiagItem *it, Line *line, Text *out) {
    static const char *const kinds[] = {"error", "warning", "note"};
    if (it->at.file) {
        put_safe(out, it->at.file);
        if (it->at.line > 0) ssd_text_printf(out, ":%d", it->at.line);
        if (it->at.line > 0 && it->at.col > 0) ssd_text_printf(out, ":%d", it->at.col);
        ssd_text_printf(out, ": ");
    }
    ssd_text_printf(out, "%s: ", kinds[it->kind]);
    put_safe(out, it->text);
    ssd_text_printf(out, "\n");
    if (!it->at.file || !d->source || !d->file || strcmp(it->at.file, d->file) || it->at.line < 1)
        return;
    const char *start = d->source, *end = d->source + d->source_len;
    if (d->source_len >= 3 && !memcmp(start, "\xef\xbb\xbf", 3)) start += 3;
    if (line->number > it->at.line || !line->number) *line = (Line){.next = start};
    if (seek_line(line, end, it->at.line)) put_line(out, line, it->at.col);
}

// A note belongs to the error or warning added before it and is printed with it.
void ssd_diag_print(Diag *d, Text *out) {
    u32 n = 0;
    const DiagItem **lead = NEWN(d->arena, const DiagItem *, d->items.n);
    for (u32 i = 0; i < d->items.n; i++)
        if (!i || d->items.v[i].kind != DIAG_NOTE) lead[n++] = &d->items.v[i];
    if (n) qsort(lead, n, sizeof *lead, by_place);
    Line line = {0};
    for (u32 i = 0; i < n; i++) {
        bool repeat = false;
        for (u32 k = i; k-- > 0 && same_place(&lead[k]->at, &lead[i]->at) && !repeat;)
            repeat = lead[k]->kind == lead[i]->kind && !strcmp(lead[k]->text, lead[i]->text);
        if (repeat) continue;
        put_item(d, lead[i], &line, out);
        for (u32 k = lead[i]->order + 1; k < d->items.n && d->items.v[k].kind == DIAG_NOTE; k++)
            put_item(d, &d->items.v[k], &line, out);
    }
}
