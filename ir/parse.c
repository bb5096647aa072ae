// SPDX-License-Identifier: Apache-2.0
// Graph text back to a graph. The text may come from anywhere: every line is checked by the rules
// that built graphs obey (shape.c, verify.c), errors carry line and column, and parsing goes on
// with the next line. '#' starts a comment.
#include "graph_text.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_NODES = 10000, MOST_ERRORS = 50, MOST_WORDS = 64, BUCKETS = 1024 };
#define BROKEN UINT32_MAX // a name whose line had an error: its users are skipped in silence

typedef struct Word {
    const char *s;
    size_t n;
    int col;
} Word;

typedef struct Symbol {
    struct Symbol *next;
    Word word;
    Ref ref;
} Symbol;

typedef struct Parser {
    Arena *a;
    Graph *g;
    Diag *d;
    const char *file;
    int line;
    Word w[MOST_WORDS]; // the words of this line; w[n] is empty
    int n, at;
    bool silent; // this line uses a broken name
    Symbol *symbols[BUCKETS];
} Parser;

// --- Words --------------------------------------------------------------------------------------

static bool error_at(Parser *p, const Word *w, const char *fmt, ...) SSD_PRINTF(3, 4);
static bool error_at(Parser *p, const Word *w, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~') *c = '?';
    ssd_diag_add(p->d, DIAG_ERROR, (Place){p->file, p->line, w->col}, "%s", text);
    return false;
}

static bool is(const Word *w, const char *s) { return strlen(s) == w->n && !memcmp(w->s, s, w->n); }
static int len(const Word *w) { return (int)MIN(w->n, (size_t)40); }
static const Word *peek(const Parser *p) { return &p->w[p->at]; }
static const Word *next(Parser *p) { return p->at < p->n ? &p->w[p->at++] : &p->w[p->n]; }
static bool done(const Parser *p) { return p->at >= p->n; }

static bool accept(Parser *p, const char *s) {
    if (done(p) || !is(peek(p), s)) return false;
    p->at++;
    return true;
}

static bool expect(Parser *p, const char *s) {
    if (accept(p, s)) return true;
    if (done(p)) return error_at(p, peek(p), "expected '%s' at the end of the line", s);
    return error_at(p, peek(p), "expected '%s', found '%.*s'", s, len(peek(p)), peek(p)->s);
}

static bool expect_end(Parser *p) {
    return done(p) || error_at(p, peek(p), "unexpected '%.*s'", len(peek(p)), peek(p)->s);
}

static bool split_line(Parser *p, const char *s, size_t n) {
    p->n = p->at = 0;
    p->silent = false;
    size_t i = 0;
    while (i < n && s[i] != '#') {
        if (s[i] == ' ' || s[i] == '\t' || s[i] == '\r') {
            i++;
            continue;
        }
        size_t from = i++;
        if (!memchr("[]=:", s[from], 4))
            while (i < n && !memchr(" \t\r[]=:#", s[i], 8)) i++;
        Word w = {s + from, i - from, (int)MIN(from + 1, (size_t)INT_MAX)};
        if (p->n == MOST_WORDS - 1) return error_at(p, &w, "a line of more than %d words", p->n);
        p->w[p->n++] = w;
    }
    p->w[p->n] = (Word){"", 0, (int)MIN(i + 1, (size_t)INT_MAX)};
    return true;
}

static const char *copy(Parser *p, const Word *w) { return ssd_arena_dup(p->a, w->s, w->n); }

// A name that may be printed as it is; NULL with a message otherwise.
static const char *plain(Parser *p, const Word *w, const char *what) {
    const char *s = w->n && w->n < 256 && !memchr(w->s, 0, w->n) ? copy(p, w) : "";
    if (ssd_graph_plain_name(s)) return s;
    error_at(p, w, "expected the name of %s, found '%.*s'", what, len(w), w->s);
    return NULL;
}

// A double, whatever the locale's decimal point is.
static bool number(const Word *w, double *out) {
    char s[64], point[8], *end;
    if (!w->n || w->n >= sizeof s || memchr(w->s, 'x', w->n)) return false;
    snprintf(point, sizeof point, "%.1f", 0.5);
    memcpy(s, w->s, w->n);
    s[w->n] = 0;
    if (memchr(s, ' ', w->n) || strlen(s) != w->n) return false;
    bool word = is(w, "inf") || is(w, "-inf") || is(w, "nan") || is(w, "-nan");
    if (!word && !memchr("0123456789.", s[s[0] == '-'], 11)) return false;
    for (char *c = s; *c; c++)
        if (*c == '.') *c = point[1];
    *out = strtod(s, &end);
    return end == s + w->n;
}

static bool integer(Parser *p, const Word *w, i64 lo, i64 hi, i64 *out) {
    i64 v = 0;
    size_t i = w->n > 1 && w->s[0] == '-';
    for (; i < w->n && w->s[i] >= '0' && w->s[i] <= '9' && v <= hi; i++)
        v = 10 * v + (w->s[i] - '0');
    if (w->n && w->s[0] == '-') v = -v;
    *out = v;
    if (w->n && i == w->n && v >= lo && v <= hi) return true;
    return error_at(p, w, "expected a number from %lld to %lld, found '%.*s'", (long long)lo,
                    (long long)hi, len(w), w->s);
}

// --- Symbols ------------------------------------------------------------------------------------

static Symbol **find_symbol(Parser *p, const Word *w) {
    Symbol **s = &p->symbols[ssd_hash(w->s, w->n, 0) % BUCKETS];
    while (*s && ((*s)->word.n != w->n || memcmp((*s)->word.s, w->s, w->n))) s = &(*s)->next;
    return s;
}

static void define(Parser *p, const Word *w, Ref r) {
    Symbol **s = find_symbol(p, w);
    if (*s) return;
    *s = NEW(p->a, Symbol);
    **s = (Symbol){.word = *w, .ref = r};
}

// A node by name, or a number in place.
static bool operand(Parser *p, Ref *out) {
    const Word *w = next(p);
    double v;
    Symbol *s = w->n ? *find_symbol(p, w) : NULL;
    *out = 0;
    if (s && s->ref == BROKEN) {
        p->silent = true;
        return false;
    }
    if (s) {
        *out = s->ref;
        return true;
    }
    if (number(w, &v)) {
        *out = ssd_graph_const(p->g, v);
        return true;
    }
    if (!w->n) return error_at(p, w, "expected a value at the end of the line");
    return error_at(p, w, "unknown value '%.*s'", len(w), w->s);
}

// --- Types --------------------------------------------------------------------------------------

static bool axis_name(Parser *p, const Word *w, AxisId *out) {
    for (u32 i = 1; i < p->g->axes.n; i++)
        if (is(w, p->g->axes.v[i].name)) {
            *out = (AxisId)i;
            return true;
        }
    return error_at(p, w, "unknown axis '%.*s'", len(w), w->s);
}

// dtype [ axis .. ]
static bool type(Parser *p, u8 *dtype, u8 *naxes, AxisId *ax) {
    const Word *w = next(p);
    int dt = SSD_NONE;
    for (int i = SSD_F32; i <= SSD_IDX; i++)
        if (is(w, ssd_dtype_name((ssd_dtype)i))) dt = i;
    if (!dt) return error_at(p, w, "expected a dtype, found '%.*s'", len(w), w->s);
    *dtype = (u8)dt;
    *naxes = 0;
    if (!expect(p, "[")) return false;
    while (!accept(p, "]")) {
        if (done(p)) return expect(p, "]");
        if (*naxes == 8) return error_at(p, peek(p), "more than 8 axes");
        if (!axis_name(p, next(p), &ax[(*naxes)++])) return false;
    }
    return true;
}

// --- Nodes --------------------------------------------------------------------------------------

static const Attr *find_attr(const Node *n, const Word *w) {
    const char *at = ssd_ops[n->op].attrs;
    const Attr *a;
    while ((a = ssd_attr_next(&at)))
        if (is(w, a->name)) return a;
    return NULL;
}

static bool attribute(Parser *p, Node *n) {
    const Word *key = next(p);
    const Attr *a = find_attr(n, key);
    if (!a)
        return error_at(p, key, "%s has no attribute '%.*s'", ssd_ops[n->op].name, len(key),
                        key->s);
    if (!expect(p, "=")) return false;
    const Word *w = next(p);
    i64 k;
    switch (a->field) {
    case AT_A0: return axis_name(p, w, &n->a0);
    case AT_A1: return axis_name(p, w, &n->a1);
    case AT_K:
        if (!integer(p, w, 0, INT32_MAX, &k)) return false;
        n->k = (i32)k;
        return true;
    case AT_FLAG:
        if (is(w, a->word[1]))
            n->flags |= a->bit;
        else if (!is(w, a->word[0]))
            return error_at(p, w, "%s is '%s' or '%s'", a->name, a->word[0], a->word[1]);
        return true;
    case AT_TIME:
        for (size_t i = 0; i < COUNTOF(ssd_time_names); i++)
            if (is(w, ssd_time_names[i])) {
                n->time = (u8)i;
                return true;
            }
        return error_at(p, w, "time is 'fwd', 'flip' or 'rev'");
    case AT_DFLT:
        n->has_default = 1;
        if (number(w, &n->dflt)) return true;
        return error_at(p, w, "expected a number, found '%.*s'", len(w), w->s);
    }
    return false;
}

static bool op_words(Parser *p, Node *n) {
    const Word *w = next(p);
    n->op = OP__COUNT;
    for (u8 i = 0; i < OP__COUNT; i++)
        if (is(w, ssd_ops[i].name)) n->op = i;
    if (n->op == OP__COUNT) return error_at(p, w, "unknown op '%.*s'", len(w), w->s);
    if (n->op == OP_FN) {
        w = next(p);
        int f = ssd_fn_find(w->s, w->n);
        if (f < 0) return error_at(p, w, "unknown function '%.*s'", len(w), w->s);
        n->fn = (u8)f;
    }
    if (n->op == OP_CONST) {
        w = next(p);
        if (!number(w, &n->val))
            return error_at(p, w, "expected a number, found '%.*s'", len(w), w->s);
    }
    return true;
}

static bool body(Parser *p, Node *n) {
    if (!op_words(p, n)) return false;
    for (int i = 0; !done(p) && !is(peek(p), ":"); i++) {
        if (is(&p->w[p->at + 1], "=")) break;
        if (i == (int)COUNTOF(n->arg)) return error_at(p, peek(p), "more than 5 operands");
        if (!accept(p, "_") && !operand(p, &n->arg[i])) return false;
    }
    while (!done(p) && !is(peek(p), ":"))
        if (!attribute(p, n)) return false;
    return true;
}

static bool node_line(Parser *p) {
    Word name = *next(p);
    next(p); // '='
    Word op = *peek(p);
    Node n = {0}, stated = {0};
    if (*find_symbol(p, &name))
        return error_at(p, &name, "'%.*s' is defined twice", len(&name), name.s);
    define(p, &name, BROKEN);
    if (p->g->nodes.n >= MOST_NODES) return error_at(p, &name, "more than %d nodes", MOST_NODES);
    bool numbered = name.n > 1 && name.s[0] == '%';
    for (size_t i = 1; i < name.n; i++) numbered &= name.s[i] >= '0' && name.s[i] <= '9';
    const char *s = numbered ? NULL : plain(p, &name, "a value");
    if (!numbered && !s) return false;
    if (!body(p, &n)) return false;
    Word colon = *peek(p);
    if (!expect(p, ":") || !type(p, &stated.dtype, &stated.naxes, stated.ax) || !expect_end(p))
        return false;
    if (n.op == OP_IN || n.op == OP_CAST) n.dtype = stated.dtype;
    if (n.op == OP_IN) {
        if (numbered) return error_at(p, &name, "an input needs a name");
        n.naxes = stated.naxes;
        memcpy(n.ax, stated.ax, sizeof n.ax);
    }
    if (s) n.name = ssd_graph_name(p->g, s);
    Text why = {0};
    bool ok = ssd_graph_infer(p->g, &n, &why);
    if (!ok) error_at(p, &op, "%s: %s", ssd_ops[n.op].name, why.s ? why.s : "invalid");
    ssd_text_free(&why);
    if (!ok) return false;
    if (n.dtype != stated.dtype || n.naxes != stated.naxes || memcmp(n.ax, stated.ax, n.naxes)) {
        char axes[128] = "";
        for (int i = 0, at = 0; i < n.naxes && at < (int)sizeof axes; i++)
            at += snprintf(axes + at, sizeof axes - (size_t)at, "%s%s", i ? " " : "",
                           p->g->axes.v[n.ax[i]].name);
        return error_at(p, &colon, "the operands give %s[%s]", ssd_dtype_name((ssd_dtype)n.dtype),
                        axes);
    }
    Ref r = ssd_graph_intern(p->g, &n);
    if (n.op == OP_IN) vec_push(p->a, &p->g->ins, r);
    (*find_symbol(p, &name))->ref = r;
    return true;
}

// --- Other lines --------------------------------------------------------------------------------

static bool axis_line(Parser *p) {
    const Word *w = next(p);
    const char *name = plain(p, w, "an axis");
    if (!name) return false;
    const Word *kw = next(p);
    int kind = 0;
    for (int i = 1; i < 8; i++)
        if (is(kw, ssd_axis_kinds[i])) kind = i;
    if (!kind) return error_at(p, kw, "unknown kind of axis '%.*s'", len(kw), kw->s);
    i64 size = -1;
    if (!done(p) && !integer(p, next(p), 1, 1LL << 31, &size)) return false;
    if (!expect_end(p)) return false;
    if (p->g->axes.n > 250) return error_at(p, w, "more than 250 axes");
    vec_push(p->a, &p->g->axes, ((Axis){name, (AxisKind)kind, size}));
    Text why = {0};
    bool ok = ssd_graph_verify_axis(p->g, (AxisId)(p->g->axes.n - 1), &why);
    if (!ok) error_at(p, w, "%s", why.s);
    if (!ok) p->g->axes.n--;
    ssd_text_free(&why);
    return ok;
}

static bool out_line(Parser *p) {
    const Word *w = next(p);
    GraphOut o = {.name = plain(p, w, "an output")};
    u8 dtype;
    if (!o.name || !expect(p, ":") || !type(p, &dtype, &o.naxes, o.ax)) return false;
    if (!expect(p, "=") || !operand(p, &o.ref) || !expect_end(p)) return false;
    o.dtype = (ssd_dtype)dtype;
    for (u32 i = 0; i < p->g->outs.n; i++)
        if (!strcmp(p->g->outs.v[i].name, o.name)) return error_at(p, w, "output %s twice", o.name);
    Text why = {0};
    bool ok = ssd_graph_verify_out(p->g, &o, &why);
    if (!ok)
        error_at(p, w, "%s", why.s);
    else
        vec_push(p->a, &p->g->outs, o);
    ssd_text_free(&why);
    return ok;
}

static bool state_line(Parser *p) {
    GraphState s = {0};
    if (!accept(p, "_")) {
        const Word *w = next(p);
        if (!(s.in_name = plain(p, w, "a state"))) return false;
        const Symbol *in = *find_symbol(p, w);
        if (in && in->ref != BROKEN && p->g->nodes.v[in->ref].op == OP_IN) s.init = in->ref;
    }
    if (!expect(p, "->")) return false;
    if (!accept(p, "_") && !(s.out_name = plain(p, next(p), "a state"))) return false;
    if (!expect(p, "=")) return false;
    if (!accept(p, "_") && !operand(p, &s.final)) return false;
    vec_push(p->a, &p->g->states, s);
    return expect_end(p);
}

static bool numerics_line(Parser *p) {
    Graph *g = p->g;
    while (!done(p)) {
        Word key = *next(p);
        if (!expect(p, "=")) return false;
        Word w = *next(p);
        if (is(&key, "deterministic") && is(&w, "invariant"))
            g->invariant = true;
        else if (is(&key, "decay") && is(&w, "any"))
            g->decay_any = true;
        else if (is(&key, "cumsum") && is(&w, "split"))
            g->cumsum_split = true;
        else if (is(&key, "matmul")) {
            int m = -1;
            for (int i = 0; i < (int)COUNTOF(ssd_matmul_names); i++)
                if (is(&w, ssd_matmul_names[i])) m = i;
            if (m < 0) return error_at(p, &w, "unknown matmul '%.*s'", len(&w), w.s);
            g->matmul = (u8)m;
        } else {
            return error_at(p, &key, "unknown numerics '%.*s=%.*s'", len(&key), key.s, len(&w),
                            w.s);
        }
    }
    return true;
}

static bool chunk_line(Parser *p) {
    Text t = {0};
    while (!done(p)) {
        const Word *w = next(p);
        i64 v;
        if (!is(w, "auto") && !integer(p, w, 1, INT32_MAX, &v)) {
            ssd_text_free(&t);
            return false;
        }
        ssd_text_printf(&t, "%s%.*s", t.n ? " " : "", (int)w->n, w->s);
    }
    p->g->chunk = ssd_arena_dup(p->a, t.s ? t.s : "", t.n);
    ssd_text_free(&t);
    return true;
}

static bool flag_line(Parser *p, bool *flag) {
    *flag = true;
    return expect_end(p);
}

static bool line(Parser *p) {
    if (!p->g) {
        if (!expect(p, "graph")) return false;
        const Word *w = next(p);
        p->g = ssd_graph_new(p->a, w->n ? copy(p, w) : "");
        return expect_end(p);
    }
    if (p->n > 1 && is(&p->w[1], "=")) return node_line(p);
    if (accept(p, "axis")) return axis_line(p);
    if (accept(p, "out")) return out_line(p);
    if (accept(p, "state")) return state_line(p);
    if (accept(p, "numerics")) return numerics_line(p);
    if (accept(p, "chunk")) return chunk_line(p);
    if (accept(p, "packed")) return flag_line(p, &p->g->packed);
    if (accept(p, "step")) return flag_line(p, &p->g->step);
    return error_at(p, peek(p), "expected a node, axis, out or state, found '%.*s'", len(peek(p)),
                    peek(p)->s);
}

Graph *ssd_graph_parse(Arena *a, const char *text, size_t n, const char *file, Diag *d) {
    Parser *p = NEW(a, Parser);
    *p = (Parser){.a = a, .d = d, .file = file, .line = 1};
    int before = d->errors;
    for (size_t at = 0; at < n && d->errors - before < MOST_ERRORS; p->line++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t m = end ? (size_t)(end - (text + at)) : n - at;
        if (split_line(p, text + at, m) && p->n) line(p);
        if (!p->g && p->n) break; // no graph: the first line said so
        at += m + 1;
    }
    if (!p->g && d->errors == before) error_at(p, &(Word){"", 0, 1}, "expected 'graph'");
    if (d->errors > before) return NULL;
    Text why = {0};
    if (!ssd_graph_verify(p->g, &why)) error_at(p, &(Word){"", 0, 1}, "%s", why.s);
    ssd_text_free(&why);
    return d->errors > before ? NULL : p->g;
}
