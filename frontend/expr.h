// SPDX-License-Identifier: Apache-2.0
// The expression language: text -> tree. Names and axes are resolved and typed later (check.c).
//     expr    := or;  or := and {"or" and};  and := not {"and" not};  not := ["not"] compare
//     compare := sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum]
//     sum     := term {("+" | "-") term};  term := unary {("*" | "/" | "//" | "%") unary}
//     unary   := {"-" | "+"} power;  power := atom ["**" unary]
//     atom    := number | name | name "(" [expr {"," expr}] ")" | "(" expr ")"
//     typed   := dtype ["[" [axis {"," axis}] "]"] ["=" expr]
// A '#' begins a comment that runs to the end of the line.
#ifndef SSD_EXPR_H
#define SSD_EXPR_H

#include "../ir/graph.h"
#include "yaml.h"

enum { EXPR_MAX_DEPTH = 200, EXPR_MAX_ARGS = 8, EXPR_MAX_NAME = 64 };

// What an expression is, found by check.c.
typedef struct Type {
    bool bad;      // already reported
    bool is_bool;  // a condition
    bool none;     // has no value when every input with default `none` is absent
    u32 axes;      // bit set over Spec.axes
    double lo, hi; // every value lies between, as far as is known
} Type;

typedef enum { E_NUMBER, E_NAME, E_CALL, E_FN } ExprKind;
typedef struct Expr Expr;
struct Expr {
    ExprKind kind;
    FnCode fn; // E_FN: the operator as a scalar function
    u8 nargs;
    u16 depth;        // levels of tree below and including this one
    Place at;         // of an operator: its sign
    const char *name; // E_NAME, E_CALL; E_FN: the sign
    double number;
    Expr **args;
    // Filled by check.c.
    Type type;
    i32 symbol; // E_NAME: index into Spec.symbols, -1: an axis, a keyword or unknown
    i32 func;   // E_CALL: index into the table of functions, -1 unknown
    i32 state;  // E_CALL of shift, cumsum, index(t): index into Spec.states, -1 none
};

// One error a text at most. NULL when there is one (also for a node that is no scalar).
Expr *ssd_expr_parse(Arena *a, const YamlDoc *doc, const YamlNode *node, Diag *d);

typedef struct AxisName {
    const char *name;
    Place at;
} AxisName;
typedef struct TypedExpr {
    const char *dtype;
    Place at;
    int naxes;
    AxisName axes[16];
    Expr *init; // after '=', NULL when there is none
} TypedExpr;
bool ssd_expr_parse_typed(Arena *a, const YamlDoc *doc, const YamlNode *node, Diag *d,
                          TypedExpr *out);

// The same tree, places aside.
bool ssd_expr_equal(const Expr *a, const Expr *b);

#endif
