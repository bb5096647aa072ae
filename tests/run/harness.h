// SPDX-License-Identifier: Apache-2.0
// What the tests that launch kernels share: a layer in one mode, its values in double, launches on
// tensors of any layout behind guard pages, and comparisons by the bounds of DESIGN section 7.
#ifndef SSD_TEST_HARNESS_H
#define SSD_TEST_HARNESS_H

#include "../../frontend/host.h"
#include "../../frontend/random.h"

// --- Counting ------------------------------------------------------------------------------------
// Says what is being tried: it stands before each failure, and a crash prints it.
void label(const char *fmt, ...) SSD_PRINTF(1, 2);
// Counts a check and prints a failed one.
bool check(bool ok, const char *fmt, ...) SSD_PRINTF(2, 3);
void skip(const char *fmt, ...) SSD_PRINTF(1, 2);
int failures(void);
int closing_line(void); // prints 'N passed, N failed', returns the exit status

// --- Layers and values ---------------------------------------------------------------------------
typedef struct Layer { // a spec in one mode
    Arena arena;
    const char *name, *text, *mode, *dims;
    Spec *spec;
    Graph *graph;
    const SpecTensor *in, *out;
    int n_in, n_out;
    bool packed;
} Layer;
// dims "shrink": heads and groups are lowered where they are many. False: the spec lacks the mode.
bool layer_open(Layer *l, const char *path, const char *mode, const char *dims);
void layer_open_text(Layer *l, const char *name, const char *text, const char *mode,
                     const char *dims);
void layer_close(Layer *l);
const SpecTensor *layer_tensor(const Layer *l, const char *name, bool output);

typedef struct Values { // by name, in double, exactly what the tensors' dtypes hold
    NamedArray *v;
    int n;
} Values;
Values draw(Arena *a, const Layer *l, Sizes z, u64 seed); // inputs
Values meaning(Arena *a, const Layer *l, Values in, Sizes z);
Values copy_values(Arena *a, Values v);
Array *value(Values v, const char *name); // NULL when there is none
void drop_value(Values *v, const char *name);
// The index along an axis ("t") of element i of a tensor; -1 when it lacks the axis.
i64 index_along(const SpecTensor *st, const Array *a, const char *axis, i64 i);
void round_values(const Layer *l, Values in); // to the inputs' dtypes

// --- Launches ------------------------------------------------------------------------------------
// FAR: rows lie more than 2^32 elements apart, in memory that is only reserved; its gaps are not
// checked.
typedef enum { DENSE, PADDED, NEGATIVE, REVERSED, SPACED, MISALIGNED, FAR, LAYOUTS } Layout;
extern const char *const layout_names[LAYOUTS];
typedef struct How {
    Layout layout;
    bool mixed;    // tensor i takes layout (layout + i) % LAYOUTS
    bool at_start; // the guard page stands before the tensor instead of behind it
    int broadcast; // 1 + d: inputs of more than one axis have stride 0 along axis d % rank (values
                   // agree)
    bool in_place; // final states lie on their initial states
    bool own_workspace;
} How;

ssd_kernel *
compile(ssd_context *cx, const Layer *l, const char *schedule, const char *target,
        const char *absent); // NULL: refused (SSD_UNSUPPORTED); anything else is a failed check
// Outputs poisoned before; guards, gaps and inputs checked after. Values of n = 0 when the launch
// failed.
Values launch(Arena *a, ssd_kernel *k, const Layer *l, Values in, Sizes z, const How *how);

// --- Comparing -----------------------------------------------------------------------------------
// One check an output of `got`, within the bound of its dtype; f32 times `slack`, the others are
// bounded by what the rounding of the output itself costs.
bool near(const Layer *l, Values got, Values want, double slack);
bool same_bits(Values a, Values b); // one check

// --- What a graph says ---------------------------------------------------------------------------
bool graph_causal(const Graph *g);   // no output depends on later tokens
bool graph_splits(const Layer *fwd); // all that crosses time has an initial and a final state
// Is some output linear in the i-th input? Names both.
bool graph_linear(const Layer *l, int i, const char **out_input, const char **out_output);

// Memory with an inaccessible page on both sides; the bytes end (or
// start) flush with one of them.
void *guarded(size_t bytes, bool at_start);
void unguard(void *p, size_t bytes);

#endif
