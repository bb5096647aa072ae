// SPDX-License-Identifier: Apache-2.0
// Graph IR: hash-consed SSA over whole tensors with named axes. What a spec means, before any
// choice.
//
// A node is `op operands attributes : dtype[axes]`. Broadcasting is by axis name; the axes of a
// node follow from its operands by one rule an op (shape.c). Values are real numbers: the
// interpreter evaluates them in double; only `in`, `cast` and `out` carry a storage dtype that
// rounds.
//
// The one operator that matters, per batch and head, over time (arXiv 2405.21060, eq. 6 and section
// 6):
//     h_t = exp(l_t) h_{t-1} + v_t k_t^T      y_t = h_t q_t
//     y_i = sum_{j<=i} L_ij (q_i . k_j) v_j + e^{cs_i} h0 q_i       L_ij = exp(sum of l over
//     j+1..i)
// query [b t h n], key [b t h n], value [b t h p]: the axes shared by query and key but not value
// are contracted (n); the state has the axes [b h p n], values' features before keys'. log_decay
// has a subset of the axes [b t h n p]; with n it is a vector decay, with p a value-side decay.
// Batch is b, or s (one row a packed sequence) for states of packed graphs.
#ifndef SSD_GRAPH_H
#define SSD_GRAPH_H

#include "../runtime/base.h"
#include "../runtime/ssd.h"

typedef u32 Ref;   // index of a node; 0 is "none"
typedef u8 AxisId; // index into Graph.axes; 0 is "none"

typedef enum {
    AX_NONE,
    AX_BATCH,
    AX_SEQ,
    AX_TIME,
    AX_HEAD,
    AX_GROUP,
    AX_FEATURE,
    AX_WINDOW
} AxisKind;
typedef struct Axis {
    const char *name; // "b" "t" "h" "g" "p" "n" "s" or any other lower-case name
    AxisKind kind;
    i64 size; // -1: known at run time (b, t, s)
} Axis;

typedef enum {
#define OP(id, text, lo, hi, attrs, doc) OP_##id,
#include "ops.def"
    OP__COUNT
} OpCode;

typedef enum {
#define FN(id, text, arity, kind, meaning) FN_##id,
#include "fns.def"
    FN__COUNT
} FnCode;
typedef struct FnInfo {
    const char *name;
    u8 arity;
    char kind; // 'A' 'F' 'C' 'W', see fns.def
} FnInfo;
extern const FnInfo ssd_fns[FN__COUNT];
double ssd_fn_eval(FnCode fn, double x, double y, double z);
int ssd_fn_find(const char *name, size_t n); // FnCode or -1

// Attributes of ssd.
typedef enum { TIME_FWD, TIME_FLIP, TIME_REV } TimeDir;
//  fwd:  y_i reads writes j <= i, L_ij sums l over j+1..i (decay, write, read)
//  flip: fwd on the reversed sequence: y_i reads j >= i, L_ij sums l over i..j-1 (a spec's
//  `anticausal`) rev:  the transpose of fwd: y_i reads j >= i, L_ij sums l over i+1..j (read...
//  then decay; gradients)
typedef enum { SSD_DIAG_OUT = 1, SSD_READ_BEFORE = 2, SSD_FULL = 4 } SsdFlags;
//  DIAG_OUT: i = j is excluded ("strict").  READ_BEFORE: L_ij sums l over j+1..i-1 (RWKV; implies
//  DIAG_OUT). FULL: no mask and no decay: y_i = q_i . (sum over all j).   band w (0 = none): only j
//  > i - w.

// Node: 64 bytes.
//  +--+--+-----+-----+------------------+-----------+-----+-------+--------+--------+-----+
//  |op|fn|dtype|naxes| ax[8]            | arg[5]    |flags| a0 a1 | k i32  | name   | val |
typedef struct Node {
    u8 op, fn, dtype, naxes;
    AxisId ax[8];
    Ref arg[5]; // 0 = absent
    u8 a0, a1; // axes named by the op: sum/amax/index/size a0; cat/slice/spread/fold a0 -> a1; swap
               // a0; shift window axis a1 cat: an operand without a0 is one column (a0 may be 0);
               // slice: a1 = 0 takes one element, the axis goes
    u8 flags;  // SsdFlags; swap: 1 = halves pairing, 0 = adjacent; scan: 0 sum, 1 max
    u8 time;   // TimeDir
    i32 k;     // shift distance, slice start, band width
    u32 name;  // index into Graph.names, 0 = none: kept in text and in generated code
    double val;     // const
    double dflt;    // in: default value (when has_default)
    u8 has_default; // in: may be left out
    u8 pad[7];
} Node;

typedef struct GraphOut {
    const char *name;
    Ref ref;
    ssd_dtype dtype;
    u8 naxes;
    AxisId ax[8]; // the storage order of the output, as declared
} GraphOut;
// Everything that crosses time: read from input `init` (0: starts at zero), written as output
// `final`.
typedef struct GraphState {
    const char *in_name, *out_name; // names of tensors; either may be NULL (not asked for)
    Ref init, final;                // `in` node or 0; `final` node
} GraphState;

typedef struct Graph {
    Arena *arena;
    const char *name;
    VEC(Axis) axes;          // [0] unused
    VEC(Node) nodes;         // [0] unused; operands stand before users
    VEC(const char *) names; // [0] = ""
    VEC(GraphOut) outs;      // final states are outs too
    VEC(GraphState) states;
    VEC(Ref) ins; // inputs in declaration order (states' initial tensors included)
    bool packed;  // b = 1, cu_seqlens: i32[s+1] is a parameter, states are [s h p n]
    bool step;    // one token: the graph is read at a single t
    // numerics, as the spec pins them
    bool invariant; // deterministic: invariant
    bool decay_any; // decay may be positive
    bool cumsum_split;
    u8 matmul;         // 0 native 1 tf32 2 tf32x3 3 f32
    const char *chunk; // spec's chunk_length as text: "auto", "128", "64 128 256"
    u32 *cons;         // hash-consing table (graph.c)
    u32 cons_cap;
} Graph;

Graph *ssd_graph_new(Arena *a, const char *name);
AxisId ssd_graph_axis(Graph *g, const char *name, AxisKind kind, i64 size); // finds or adds
AxisId ssd_graph_find_axis(const Graph *g, const char *name);               // 0 when absent
AxisId ssd_graph_axis_of_kind(const Graph *g, AxisKind kind); // first of a kind, 0 when absent
u32 ssd_graph_name(Graph *g, const char *name);               // interned

// Builders compute dtype and axes (shape.c) and return an existing equal node when there is one.
// They never fail on what the frontend accepts; SSD_BUG otherwise.
Ref ssd_graph_in(Graph *g, const char *name, ssd_dtype dt, const AxisId *ax, int naxes,
                 const double *dflt);
Ref ssd_graph_const(Graph *g, double v);
Ref ssd_graph_index(Graph *g, AxisId x);
Ref ssd_graph_size(Graph *g, AxisId x);
Ref ssd_graph_fn(Graph *g, FnCode f, Ref a, Ref b, Ref c);
Ref ssd_graph_cast(Graph *g, Ref a, ssd_dtype dt);
Ref ssd_graph_reduce(Graph *g, OpCode sum_or_amax, Ref a, AxisId x);
Ref ssd_graph_cat(Graph *g, Ref a, Ref b, AxisId x, AxisId to);
Ref ssd_graph_slice(Graph *g, Ref a, AxisId x, AxisId to, i32 from);
Ref ssd_graph_spread(Graph *g, Ref a, AxisId from, AxisId to);
Ref ssd_graph_swap(Graph *g, Ref a, AxisId x, bool halves);
Ref ssd_graph_shift(Graph *g, Ref a, i32 k, Ref window, AxisId window_axis);
Ref ssd_graph_scan(Graph *g, Ref a, bool max, Ref init);
typedef struct SsdAttr {
    u8 time, flags;
    i32 band;
} SsdAttr;
Ref ssd_graph_ssd(Graph *g, Ref q, Ref k, Ref v, Ref l, Ref h0, SsdAttr at);
Ref ssd_graph_final(Graph *g, Ref a);
void ssd_graph_out(Graph *g, const char *name, Ref a, ssd_dtype dt, const AxisId *ax, int naxes);
Ref ssd_graph_intern(Graph *g, const Node *n); // any node, shape already set: what passes use
void ssd_graph_shape(Graph *g, Node *n);       // sets dtype and axes from operands (shape.c)
bool ssd_graph_infer(const Graph *g, Node *n,
                     Text *why); // the same for text of unknown origin: false with a reason

Ref ssd_graph_make(Graph *g, Node n); // ssd_graph_shape, then ssd_graph_intern

// Rebuilds the graph node by node: `rule` sees a node whose operands are already replaced (its type
// is still the old one) and returns what stands for it, usually ssd_graph_make(g, n), or 0 to drop
// it with its users. Inputs, outputs and states follow. map: old Ref -> new Ref of the nodes done
// so far. order: the old nodes, operands before users; NULL for the order they stand in. False when
// every node came out as it was.
typedef Ref GraphRule(Graph *g, Node n, Ref old, const Ref *map, void *ctx);
bool ssd_graph_rewrite(Graph *g, const Ref *order, GraphRule *rule, void *ctx);

// The axes of an ssd's contraction, and of its state in storage order [b|s, h.., p.., n..].
typedef struct SsdAxes {
    AxisId batch, time, head; // head 0 when the operator has none
    AxisId key[3], value[3];  // contracted feature axes (n ..), value feature axes (p ..)
    u8 nkey, nvalue;
    AxisId state[8];
    u8 nstate;
} SsdAxes;
SsdAxes ssd_graph_ssd_axes(const Graph *g, Ref ssd);
i64 ssd_graph_state_size(const Graph *g, Ref ssd); // elements of one head's state
static inline const Node *ssd_graph_node(const Graph *g, Ref r) { return &g->nodes.v[r]; }
bool ssd_graph_has_axis(const Graph *g, Ref r, AxisId x);

// Text (print.c, parse.c): parse(print(g)) prints the same.
void ssd_graph_print(const Graph *g, Text *out);
Graph *ssd_graph_parse(Arena *a, const char *text, size_t n, const char *file,
                       Diag *d); // NULL on error
// Checks everything passes may assume (verify.c); false with a message in *why.
bool ssd_graph_verify(const Graph *g, Text *why);

// Meaning (interp.c): a graph evaluated in double.
typedef struct Array { // dense, row-major in the order of `dims`
    int rank;
    i64 dims[8];
    double *v;
} Array;
static inline i64 ssd_array_count(const Array *a) {
    i64 n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dims[i];
    return n;
}
typedef struct NamedArray {
    const char *name;
    Array a;
} NamedArray;
typedef enum {
    MEAN_RECURRENCE,
    MEAN_DENSE
} Meaning; // how ssd nodes are evaluated: both must agree
// inputs: by name, present ones only (an absent input takes its default; an absent initial state is
// 0); packed graphs also take "cu_seqlens". b, t, s follow from the inputs; b and t given here
// serve graphs whose inputs lack them. Step graphs: t = 1, and inputs and outputs are without the t
// axis. Outputs are allocated in `arena`. False with a message in *why when an input is missing or
// its shape is wrong.
typedef struct InterpOptions {
    Meaning meaning;
    i64 b, t;
} InterpOptions;
bool ssd_graph_interp(const Graph *g, Arena *arena, const NamedArray *in, int n_in,
                      const InterpOptions *opt, NamedArray *out /* g->outs.n */, Text *why);

#endif
