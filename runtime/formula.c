// SPDX-License-Identifier: Apache-2.0
// Formulas over launch symbols ("cdiv(t,64)*24", "t>=64 && b*24>=2"): one recursive descent that
// reads and evaluates at once. Loosest first:   ||   &&   < <= > >= == !=   + -   * /   unary -   (
// ) f(,) All arithmetic is checked. What && and || do not need is read but not computed, so "b>0 &&
// t/b>3" is safe; a formula checked without values is read that way as a whole.
#include "artifact.h"

enum { NEST_MOST = 100 };

typedef struct Reader {
    const char *at;
    const char *const *syms;
    const i64 *values;
    int n, depth, dead; // dead > 0: read, do not compute
    const char *fault;  // first thing wrong
    const char *name;   // the unknown symbol, when that is the fault
    int name_len;
} Reader;

static i64 expr(Reader *r, int level);

static i64 fail(Reader *r, const char *fault) {
    if (!r->fault) r->fault = fault;
    return 0;
}

static void skip(Reader *r) {
    while (*r->at == ' ') r->at++;
}

static bool take(Reader *r, const char *token) {
    skip(r);
    size_t n = strlen(token);
    if (strncmp(r->at, token, n)) return false;
    r->at += n;
    return true;
}

static i64 floor_div(i64 a, i64 b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

typedef enum { ADD, SUB, MUL, DIV, CDIV, LEAST, MOST, LT, LE, GT, GE, EQ, NE, AND, OR } Op;

static i64 apply(Reader *r, Op op, i64 a, i64 b) {
    if (r->dead || r->fault) return 0;
    i64 v = 0;
    bool over = false;
    switch (op) {
    case ADD: over = __builtin_add_overflow(a, b, &v); break;
    case SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case DIV:
    case CDIV:
        if (!b) return fail(r, "division by zero");
        over = a == INT64_MIN && b == -1;
        if (!over) v = floor_div(a, b) + (op == CDIV && a % b != 0);
        break;
    case LEAST: v = MIN(a, b); break;
    case MOST: v = MAX(a, b); break;
    case LT: v = a < b; break;
    case LE: v = a <= b; break;
    case GT: v = a > b; break;
    case GE: v = a >= b; break;
    case EQ: v = a == b; break;
    case NE: v = a != b; break;
    case AND: v = a && b; break;
    case OR: v = a || b; break;
    }
    return over ? fail(r, "overflow") : v;
}

static bool word_char(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static i64 number(Reader *r) {
    i64 v = 0;
    for (; *r->at >= '0' && *r->at <= '9'; r->at++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *r->at - '0', &v))
            return fail(r, "number too large");
    return v;
}

static i64 word(Reader *r) {
    static const struct {
        const char *name;
        Op op;
    } calls[] = {{"cdiv", CDIV}, {"min", LEAST}, {"max", MOST}};
    const char *s = r->at;
    while (word_char(*r->at, false)) r->at++;
    size_t n = (size_t)(r->at - s);
    for (size_t i = 0; i < COUNTOF(calls); i++) {
        if (strncmp(calls[i].name, s, n) || calls[i].name[n] || !take(r, "(")) continue;
        i64 a = expr(r, 0);
        if (!take(r, ",")) return fail(r, "expected ','");
        i64 b = expr(r, 0);
        if (!take(r, ")")) return fail(r, "expected ')'");
        return apply(r, calls[i].op, a, b);
    }
    for (int i = 0; i < r->n; i++)
        if (!strncmp(r->syms[i], s, n) && !r->syms[i][n]) return r->values ? r->values[i] : 0;
    if (!r->fault) {
        r->name = s;
        r->name_len = (int)n;
    }
    return fail(r, "unknown symbol");
}

static i64 primary(Reader *r) {
    skip(r);
    if (*r->at >= '0' && *r->at <= '9') return number(r);
    if (word_char(*r->at, true)) return word(r);
    if (r->depth >= NEST_MOST) return fail(r, "nested too deeply");
    r->depth++;
    i64 v = 0;
    if (take(r, "-"))
        v = apply(r, SUB, 0, primary(r));
    else if (!take(r, "("))
        fail(r, *r->at ? "unexpected character" : "unexpected end");
    else if (v = expr(r, 0), !take(r, ")"))
        fail(r, "expected ')'");
    r->depth--;
    return v;
}

// Longer tokens stand before their prefixes.
static const struct {
    const char *token;
    int level;
    Op op;
} binary[] = {{"||", 0, OR}, {"&&", 1, AND}, {"<=", 2, LE}, {">=", 2, GE},
              {"==", 2, EQ}, {"!=", 2, NE},  {"<", 2, LT},  {">", 2, GT},
              {"+", 3, ADD}, {"-", 3, SUB},  {"*", 4, MUL}, {"/", 4, DIV}};

// Precedence climbing: reads everything that binds at least as tightly as `level`.
static i64 expr(Reader *r, int level) {
    if (r->depth >= NEST_MOST) return fail(r, "nested too deeply");
    r->depth++;
    i64 a = primary(r);
    for (size_t i = 0; i < COUNTOF(binary) && !r->fault; i++) {
        if (binary[i].level < level || !take(r, binary[i].token)) continue;
        bool settled = (binary[i].op == AND && !a) || (binary[i].op == OR && a);
        r->dead += settled;
        i64 b = expr(r, binary[i].level + 1);
        r->dead -= settled;
        a = apply(r, binary[i].op, a, b);
        i = SIZE_MAX; // from the top, for the next operator
    }
    r->depth--;
    return a;
}

bool ssd_formula_eval(const char *formula, const char *const *syms, const i64 *values, int n,
                      i64 *out, Text *why) {
    Reader r = {.at = formula, .syms = syms, .values = values, .n = n, .dead = !values};
    *out = expr(&r, 0);
    skip(&r);
    if (!r.fault && *r.at) fail(&r, "unexpected character");
    if (!r.fault) return true;
    *out = 0;
    ssd_text_printf(why, "formula '%.200s': %s", formula, r.fault);
    if (r.name) ssd_text_printf(why, " '%.*s'", MIN(r.name_len, 64), r.name);
    return false;
}
