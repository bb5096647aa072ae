// SPDX-License-Identifier: Apache-2.0
#include "expr.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>

typedef enum { T_END, T_NUMBER, T_NAME, T_SIGN, T_BAD } TokenKind;
typedef struct Token {
    TokenKind kind;
    Place at;
    const char *text; // NUL-terminated copy
    double number;
} Token;

typedef struct Parser {
    Arena *arena;
    Diag *diag;
    YamlCursor cursor;
    const char *s;
    u32 at, len;
    int depth;
    bool failed;
    Token tok; // the next one
} Parser;

static Expr *fail(Parser *p, Place at, const char *fmt, ...) SSD_PRINTF(3, 4);
static Expr *fail(Parser *p, Place at, const char *fmt, ...) {
    if (p->failed) return NULL;
    va_list ap;
    va_start(ap, fmt);
    ssd_diag_add(p->diag, DIAG_ERROR, at, "%s", ssd_arena_vprintf(p->arena, fmt, ap));
    va_end(ap);
    p->failed = true;
    p->tok.kind = T_BAD;
    return NULL;
}

// --- Tokens -------------------------------------------------------------------------------------

static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

// strtod of the current locale may want a decimal comma; specs have a point everywhere.
static double number(const char *s) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    double v = c ? strtod_l(s, NULL, c) : strtod(s, NULL);
    if (c) freelocale(c);
    return v;
}

static u32 number_end(const char *s, u32 i) {
    while (digit(s[i])) i++;
    if (s[i] == '.') i++;
    while (digit(s[i])) i++;
    if (s[i] == 'e' || s[i] == 'E') {
        u32 k = i + 1 + (s[i + 1] == '+' || s[i + 1] == '-');
        if (digit(s[k]))
            for (i = k; digit(s[i]);) i++;
    }
    return i;
}

// Longest first. Some are no signs of the language; they are here for their messages.
// clang-format off
static const struct {
    const char *text, *instead;
} signs[] = {
    {"**", 0}, {"//", 0}, {"<=", 0}, {">=", 0}, {"==", 0}, {"!=", 0},
    {"&&", "and"}, {"||", "or"}, {"<>", "!="}, {"+", 0}, {"-", 0}, {"*", 0},
    {"/", 0}, {"%", 0}, {"<", 0}, {">", 0}, {"(", 0}, {")", 0},
    {"[", 0}, {"]", 0}, {",", 0}, {"=", 0}, {"^", "**"}, {"!", "not"},
    {"&", "and"}, {"|", "or"},
};
// clang-format on

static void advance(Parser *p) {
    const char *s = p->s;
    if (p->failed) return;
    for (;;) {
        while (s[p->at] == ' ' || s[p->at] == '\t' || s[p->at] == '\n' || s[p->at] == '\r') p->at++;
        if (s[p->at] != '#') break;
        while (s[p->at] && s[p->at] != '\n') p->at++;
    }
    Place at = ssd_yaml_place(&p->cursor, p->at);
    p->tok = (Token){.kind = T_END, .at = at, .text = ""};
    if (p->at >= p->len) return;
    u32 from = p->at, end = from;
    if (digit(s[from]) || (s[from] == '.' && digit(s[from + 1]))) {
        end = number_end(s, from);
        p->tok.kind = T_NUMBER;
        if (letter(s[end]) || s[end] == '.') {
            while (letter(s[end]) || digit(s[end]) || s[end] == '.') end++;
            fail(p, at, "'%.*s' is no number", (int)MIN(end - from, 40), s + from);
            return;
        }
    } else if (letter(s[from])) {
        while (letter(s[end]) || digit(s[end])) end++;
        p->tok.kind = T_NAME;
        if (end - from > EXPR_MAX_NAME) {
            fail(p, at, "a name of %u characters: at most %d are allowed", end - from,
                 EXPR_MAX_NAME);
            return;
        }
    } else {
        size_t i = 0;
        while (i < COUNTOF(signs) && strncmp(s + from, signs[i].text, strlen(signs[i].text))) i++;
        if (i == COUNTOF(signs)) {
            int n = 1;
            while (((u8)s[from + (u32)n] & 0xc0) == 0x80) n++;
            fail(p, at, "unexpected character '%.*s'", n, s + from);
            return;
        }
        if (signs[i].instead) {
            fail(p, at, "unknown operator '%s'; did you mean '%s'?", signs[i].text,
                 signs[i].instead);
            return;
        }
        end = from + (u32)strlen(signs[i].text);
        p->tok.kind = T_SIGN;
    }
    p->tok.text = ssd_arena_dup(p->arena, s + from, end - from);
    p->at = end;
    if (p->tok.kind == T_NUMBER) {
        p->tok.number = number(p->tok.text);
        if (!isfinite(p->tok.number)) fail(p, at, "the number %.40s is too large", p->tok.text);
    }
}

static bool is(const Parser *p, const char *sign) {
    return (p->tok.kind == T_SIGN || p->tok.kind == T_NAME) && !strcmp(p->tok.text, sign);
}

static bool take(Parser *p, const char *sign) {
    if (!is(p, sign)) return false;
    advance(p);
    return true;
}

// For messages: what stands where something else is expected.
static const char *found(const Parser *p) {
    const YamlNode *n = p->cursor.node;
    if (p->tok.kind != T_END) return ssd_arena_printf(p->arena, "'%.40s'", p->tok.text);
    return n->in_flow && n->style == YAML_PLAIN
               ? "the end; inside { } a text with commas stands in quotes"
               : "the end";
}

// --- Trees --------------------------------------------------------------------------------------

static Expr *make(Parser *p, ExprKind kind, Place at, const char *name, Expr **args, int nargs) {
    Expr *e = NEW(p->arena, Expr);
    *e = (Expr){.kind = kind, .at = at, .name = name, .nargs = (u8)nargs, .depth = 1};
    e->symbol = e->func = e->state = -1;
    if (nargs) e->args = NEWN(p->arena, Expr *, nargs);
    for (int i = 0; i < nargs; i++) {
        if (!args[i]) return NULL;
        e->args[i] = args[i];
        e->depth = MAX(e->depth, (u16)(args[i]->depth + 1));
    }
    if (e->depth > EXPR_MAX_DEPTH)
        return fail(p, at, "an expression of more than %d levels; use `let`", EXPR_MAX_DEPTH);
    return e;
}

static Expr *apply(Parser *p, FnCode fn, Place at, const char *sign, Expr *x, Expr *y) {
    if (!x) return NULL;
    Expr *e = make(p, E_FN, at, sign, (Expr *[]){x, y}, y ? 2 : 1);
    if (e) e->fn = fn;
    return e;
}

// Signs between two operands. Those of one level associate to the left, comparisons not at all;
// `not` stands above COMPARE, unary signs above TERM, and `**` binds tightest, to the right: -a**-b
// is -(a**(-b)).
// clang-format off
enum { LEVEL_OR, LEVEL_AND, LEVEL_COMPARE, LEVEL_SUM, LEVEL_TERM, LEVEL_UNARY };
static const struct {
    const char *sign;
    u8 level;
    FnCode fn;
} binary[] = {
    {"or", LEVEL_OR, FN_OR},      {"and", LEVEL_AND, FN_AND},   {"<", LEVEL_COMPARE, FN_LT},
    {"<=", LEVEL_COMPARE, FN_LE}, {">", LEVEL_COMPARE, FN_GT},  {">=", LEVEL_COMPARE, FN_GE},
    {"==", LEVEL_COMPARE, FN_EQ}, {"!=", LEVEL_COMPARE, FN_NE}, {"+", LEVEL_SUM, FN_ADD},
    {"-", LEVEL_SUM, FN_SUB},     {"*", LEVEL_TERM, FN_MUL},    {"/", LEVEL_TERM, FN_DIV},
    {"//", LEVEL_TERM, FN_FDIV},  {"%", LEVEL_TERM, FN_MOD},
};
// clang-format on

static Expr *parse_level(Parser *p, int level);

static bool enter(Parser *p) {
    if (++p->depth <= EXPR_MAX_DEPTH) return true;
    fail(p, p->tok.at, "an expression of more than %d levels; use `let`", EXPR_MAX_DEPTH);
    return false;
}

static Expr *parse_call(Parser *p, Token name) {
    Expr *args[EXPR_MAX_ARGS];
    int n = 0;
    advance(p);
    while (!is(p, ")")) {
        if (n == EXPR_MAX_ARGS) return fail(p, p->tok.at, "more than %d arguments", EXPR_MAX_ARGS);
        if (!(args[n++] = parse_level(p, LEVEL_OR))) return NULL;
        if (!take(p, ",") && !is(p, ")"))
            return fail(p, p->tok.at, "expected ',' or ')' in the arguments of '%s', found %s",
                        name.text, found(p));
    }
    advance(p);
    return make(p, E_CALL, name.at, name.text, args, n);
}

static Expr *parse_atom(Parser *p) {
    Token t = p->tok;
    if (t.kind == T_NUMBER) {
        advance(p);
        Expr *e = make(p, E_NUMBER, t.at, NULL, NULL, 0);
        e->number = t.number;
        return e;
    }
    if (t.kind == T_NAME) {
        if (!strcmp(t.text, "and") || !strcmp(t.text, "or") || !strcmp(t.text, "not"))
            return fail(p, t.at, "expected a value, found '%s'", t.text);
        advance(p);
        return is(p, "(") ? parse_call(p, t) : make(p, E_NAME, t.at, t.text, NULL, 0);
    }
    if (take(p, "(")) {
        Expr *e = parse_level(p, LEVEL_OR);
        if (!e) return NULL;
        if (!take(p, ")")) return fail(p, p->tok.at, "expected ')', found %s", found(p));
        return e;
    }
    return fail(p, t.at, "expected a value, found %s", found(p));
}

static Expr *parse_unary(Parser *p) {
    Token t = p->tok;
    if (!enter(p)) return NULL;
    Expr *e = NULL;
    if (take(p, "-")) {
        e = apply(p, FN_NEG, t.at, "-", parse_unary(p), NULL);
    } else if (take(p, "+")) {
        e = parse_unary(p);
    } else if ((e = parse_atom(p)) && is(p, "**")) {
        Place at = p->tok.at;
        advance(p);
        Expr *y = parse_unary(p);
        e = y ? apply(p, FN_POW, at, "**", e, y) : NULL;
    }
    p->depth--;
    return e;
}

static Expr *parse_level(Parser *p, int level) {
    if (level == LEVEL_UNARY) return parse_unary(p);
    if (level == LEVEL_COMPARE && is(p, "not")) {
        Place at = p->tok.at;
        advance(p);
        if (!enter(p)) return NULL;
        Expr *e = apply(p, FN_NOT, at, "not", parse_level(p, LEVEL_COMPARE), NULL);
        p->depth--;
        return e;
    }
    Expr *e = parse_level(p, level + 1);
    for (bool again = false; e; again = true) {
        size_t i = 0;
        while (i < COUNTOF(binary) && (binary[i].level != level || !is(p, binary[i].sign))) i++;
        if (i == COUNTOF(binary)) break;
        Place at = p->tok.at;
        if (again && level == LEVEL_COMPARE)
            return fail(p, at, "comparisons do not chain: write `a < b and b < c`");
        advance(p);
        Expr *y = parse_level(p, level + 1);
        e = y ? apply(p, binary[i].fn, at, binary[i].sign, e, y) : NULL;
    }
    return e;
}

static Parser start(Arena *a, const YamlDoc *doc, const YamlNode *node, Diag *d) {
    Parser p = {.arena = a,
                .diag = d,
                .cursor = ssd_yaml_cursor(doc, node),
                .s = node->text,
                .len = node->len};
    advance(&p);
    return p;
}

static Expr *parse_rest(Parser *p) {
    Expr *e = parse_level(p, LEVEL_OR);
    if (!e || p->tok.kind == T_END) return e;
    if (p->tok.kind == T_NAME || p->tok.kind == T_NUMBER || is(p, "("))
        return fail(p, p->tok.at, "expected an operator before %s", found(p));
    if (is(p, "=")) return fail(p, p->tok.at, "unexpected '='; did you mean '=='?");
    return fail(p, p->tok.at, "unexpected %s", found(p));
}

static bool is_text(const YamlNode *node, const char *what, Diag *d) {
    if (node->kind == YAML_BAD) return false;
    if (node->kind == YAML_SCALAR) return true;
    ssd_diag_add(d, DIAG_ERROR, node->at, "expected %s, found a %s%s", what,
                 node->kind == YAML_MAP ? "mapping" : "sequence",
                 node->kind == YAML_SEQ
                     ? " (an expression that begins with '- ' or '[' stands in quotes)"
                     : "");
    return false;
}

Expr *ssd_expr_parse(Arena *a, const YamlDoc *doc, const YamlNode *node, Diag *d) {
    if (!is_text(node, "an expression", d)) return NULL;
    Parser p = start(a, doc, node, d);
    Expr *e = parse_rest(&p);
    return p.failed ? NULL : e;
}

static bool parse_axes(Parser *p, TypedExpr *out) {
    while (!is(p, "]")) {
        if (p->tok.kind != T_NAME)
            return fail(p, p->tok.at, "expected an axis, found %s", found(p));
        if (out->naxes == (int)COUNTOF(out->axes)) return fail(p, p->tok.at, "more than 8 axes");
        out->axes[out->naxes++] = (AxisName){p->tok.text, p->tok.at};
        advance(p);
        if (!take(p, ",") && !is(p, "]"))
            return fail(p, p->tok.at, "expected ',' or ']', found %s", found(p));
    }
    advance(p);
    return true;
}

bool ssd_expr_parse_typed(Arena *a, const YamlDoc *doc, const YamlNode *node, Diag *d,
                          TypedExpr *out) {
    *out = (TypedExpr){.at = node->at};
    if (!is_text(node, "a type, as in `bf16[b, t, h, p]`", d)) return false;
    Parser p = start(a, doc, node, d);
    out->dtype = p.tok.text;
    out->at = p.tok.at;
    if (p.tok.kind != T_NAME) {
        fail(&p, p.tok.at, "expected a type, as in `bf16[b, t, h, p]`, found %s", found(&p));
        return false;
    }
    advance(&p);
    if (take(&p, "[") && !parse_axes(&p, out)) return false;
    if (take(&p, "="))
        out->init = parse_rest(&p);
    else if (p.tok.kind != T_END)
        fail(&p, p.tok.at, "expected '=' after the type, found %s", found(&p));
    return !p.failed;
}

bool ssd_expr_equal(const Expr *a, const Expr *b) {
    if (a->kind != b->kind || a->nargs != b->nargs || a->depth != b->depth) return false;
    if (a->kind == E_NUMBER) return a->number == b->number;
    if (a->kind == E_FN ? a->fn != b->fn : strcmp(a->name, b->name) != 0) return false;
    for (int i = 0; i < a->nargs; i++)
        if (!ssd_expr_equal(a->args[i], b->args[i])) return false;
    return true;
}
