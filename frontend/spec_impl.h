// SPDX-License-Identifier: Apache-2.0
// What is inside a Spec, shared by the four files that make and use it, in this order:
//   spec.c    tree -> Spec: keys, names, dims, types, defaults
//   check.c   names to symbols, types of expressions, axes of operators and outputs
//   listing.c the tensors a spec takes and gives: states, order, hints
//   build.c   Spec -> graph
#ifndef SSD_SPEC_IMPL_H
#define SSD_SPEC_IMPL_H

#include "expr.h"
#include "spec.h"

// Axes of a spec are numbered; sets of them are bit masks.
enum {
    AXIS_B,
    AXIS_T,
    AXIS_S,
    AXIS_H,
    AXIS_G,
    AXIS_FEATURE,
    MAX_AXES = 31,
    AXIS_WINDOW = MAX_AXES
};
#define BIT(axis) (1u << (axis))
#define FEATURES (~(BIT(AXIS_FEATURE) - 1))
enum {
    MAX_INPUTS = 256,
    MAX_LETS = 1024,
    MAX_OPERATORS = 64,
    MAX_OUTPUTS = 64,
    MAX_STATES = 128,
    MAX_SHIFT = 4096
};

typedef struct SpecAxis {
    const char *name; // "h"
    const char *key;  // as `dims` calls it: "heads"
    i64 size;         // -1: run time; 0: not in this spec
    Place at;
} SpecAxis;

typedef enum { SYM_INPUT, SYM_LET, SYM_OPERATOR } SymbolKind;
typedef struct Symbol {
    const char *name;
    SymbolKind kind;
    Place at;
    u32 index;  // into inputs or operators
    Expr *expr; // of a let; NULL when it has an error
    VEC(u32) deps;
    Type type;
    u8 visit;     // of the topological sort: 0 new, 1 open, 2 done
    bool used;    // something refers to it
    bool reached; // an operator or an output depends on it
    u32 roles;    // listing.c: what an input or let is part of
} Symbol;

typedef struct Input {
    const char *name;
    Place at;
    ssd_dtype dtype;
    int naxes;
    u8 ax[8];
    u32 axes;
    bool has_default, none;
    double dflt;
} Input;

typedef enum { MASK_CAUSAL, MASK_STRICT, MASK_ANTICAUSAL, MASK_FULL, MASK_BAND } MaskKind;
enum { QUERY, KEY, VALUE, DECAY, OPERANDS };
typedef struct Operator {
    const char *name; // "ssd" for a single one
    bool named;
    Place at, mask_at, init_at, final_at;
    Expr *arg[OPERANDS];
    bool given[OPERANDS]; // also where arg is NULL for an error
    MaskKind mask;
    bool read_before;
    i32 band;
    const char *init, *final; // as the spec names them, or NULL
    u32 head;                 // BIT(AXIS_H), BIT(AXIS_G) or 0
    u32 contracted, value;    // feature axes
    i32 state;                // into states, -1: none
    i32 window[OPERANDS];     // a band's, by operand, into states, -1: none
} Operator;

typedef struct Output {
    const char *name;
    Place at;
    ssd_dtype dtype;
    int naxes;
    u8 ax[8];
    u32 axes;
    Expr *expr;
} Output;

// What crosses time, with the names of its tensors. Axes in storage order; the first is the batch,
// AXIS_S when the graph is packed.
typedef struct State {
    const char *in, *out;
    i32 window;     // of a shift: its distance; of a band: its width less the token itself
    bool automatic; // the spec does not name it
    bool no_start;  // forward does not take it: what a band reads lies within the call
    const char *hint;
    int naxes;
    u8 ax[8];
    const Expr *owner; // shift, cumsum, index(t) or a band's operand; NULL: an operator
} State;

typedef enum { MODE_FORWARD, MODE_STEP, MODE_BACKWARD, MODES } Mode;
typedef enum { DECAY_NONPOSITIVE, DECAY_ANY } DecayRange;
typedef struct Numerics { // each the index of its value in spec.c's table
    u8 accumulate, state, matmul, cumsum, decay, dlog, deterministic;
} Numerics;

struct Spec {
    Arena *arena;
    const char *name, *doc, *chunk;
    SpecAxis axes[MAX_AXES];
    int naxes;
    VEC(Symbol) symbols; // inputs, lets, operators
    VEC(u32) order;      // lets and operators, operands before users
    VEC(Input) inputs;
    VEC(Operator) ops;
    VEC(Output) outputs;
    VEC(State) states;
    bool packed;
    Numerics numerics;
    bool modes[MODES], modes_given;
    Place mode_at[MODES];
    const char *no_step;             // why there is no step mode, NULL when there is one
    VEC(SpecTensor) ins[2], outs[2]; // by mode
};

// `numerics: {state: ..}` speaks of operators; windows and sums are f32.
static inline ssd_dtype ssd_spec_state_dtype(const Spec *s, const State *st) {
    static const ssd_dtype of[] = {SSD_F32, SSD_BF16, SSD_F16};
    return st->owner ? SSD_F32 : of[s->numerics.state];
}

// Functions of the expression language.
typedef enum {
    CALL_FN, // a scalar function, by axis name
    CALL_SUM,
    CALL_MEAN,
    CALL_MAX,
    CALL_L2NORM,
    CALL_RMSNORM,
    CALL_SOFTMAX,
    CALL_SHIFT,
    CALL_CUMSUM,
    CALL_ROTARY,
    CALL_INDEX,
    CALL_SIZE,
    CALL_LATER
} CallKind;
typedef struct Func {
    const char *name;
    CallKind kind;
    FnCode fn;
    u8 least, most; // arguments
    const char *usage;
} Func;
extern const Func ssd_funcs[];
extern const int ssd_func_count;

// A reduction's arguments after the first: its axes, and the number in the last place or `eps`.
typedef struct Reduction {
    u32 axes;
    double eps;
} Reduction;
Reduction ssd_spec_reduction(const Spec *s, const Expr *call);

int ssd_spec_axis(const Spec *s, const char *name); // -1 when unknown
int ssd_spec_symbol(const Spec *s, const char *name);
int ssd_spec_rotary_axis(const Spec *s, const Expr *call); // the feature axis it turns; -1: not one
const char *ssd_spec_axes_text(const Spec *s, u32 axes);   // "b, t, h"
// Union of two sets of axes; where both h and g occur, g is spread to h.
static inline u32 ssd_spec_join(u32 a, u32 b) {
    u32 u = a | b;
    return u & BIT(AXIS_H) ? u & ~BIT(AXIS_G) : u;
}
// "; did you mean 'x'?" or "".
const char *ssd_spec_meant(Arena *a, const char *s, const char *const *names, int n);

void ssd_spec_check(Spec *s, Diag *d);                  // check.c
void ssd_spec_listing(Spec *s, Diag *d, bool complete); // listing.c; complete: there were no errors

#endif
