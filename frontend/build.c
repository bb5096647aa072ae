// SPDX-License-Identifier: Apache-2.0
// Spec -> graph of one mode. An absent input becomes its default, or `none`, which is neutral:
// a*none = a, a+none = a, f(none) = none. Where an expression with head axis h meets one with group
// axis g, the latter is spread. Lets and operators are built in the order check.c found, so a name
// is always built before it is used.
#include "spec_impl.h"

typedef struct Val {
    Ref ref;
    bool none;
} Val;

typedef struct Build {
    const Spec *spec;
    Graph *g;
    Diag *diag;
    Mode mode;
    bool *no_in, *no_out;     // by input, output
    bool *no_init, *no_final; // by state
    AxisId ax[MAX_AXES + 1];  // graph axis of a spec's axis
    Val *sym;                 // by symbol: inputs, lets, operators
    Ref *init, *final;        // by state: the `in` node, and what the final state is
    bool *reached;            // by state: `final` is set
    bool failed;
} Build;

static Val eval(Build *b, const Expr *e);

#define ERROR(b, ...)                                                                              \
    (ssd_diag_add((b)->diag, DIAG_ERROR, (Place){0}, __VA_ARGS__), (b)->failed = true)

// --- What is absent -----------------------------------------------------------------------------

static bool leave_out(Build *b, const char *name) {
    const Spec *s = b->spec;
    for (u32 i = 0; i < s->inputs.n; i++)
        if (!strcmp(s->inputs.v[i].name, name)) {
            if (s->inputs.v[i].none || s->inputs.v[i].has_default)
                b->no_in[i] = true;
            else
                ERROR(b, "absent: input '%s' has no default, it cannot be left out", name);
            return true;
        }
    for (u32 i = 0; i < s->outputs.n; i++)
        if (!strcmp(s->outputs.v[i].name, name)) return b->no_out[i] = true;
    for (u32 i = 0; i < s->states.n; i++) {
        bool in = !strcmp(s->states.v[i].in, name), out = !strcmp(s->states.v[i].out, name);
        if (!in && !out) continue;
        if (b->mode == MODE_STEP)
            ERROR(b, "absent: state '%s' cannot be left out of a step", name);
        else
            *(in ? &b->no_init[i] : &b->no_final[i]) = true;
        return true;
    }
    return false;
}

static void read_absent(Build *b, const char *absent) {
    const Spec *s = b->spec;
    if (!absent) return;
    Arena *a = b->g->arena;
    const char **names = NEWN(a, const char *, s->inputs.n + s->outputs.n + 2 * s->states.n + 1);
    int n = 0;
    for (u32 i = 0; i < s->inputs.n; i++) names[n++] = s->inputs.v[i].name;
    for (u32 i = 0; i < s->outputs.n; i++) names[n++] = s->outputs.v[i].name;
    for (u32 i = 0; i < s->states.n; i++)
        names[n++] = s->states.v[i].in, names[n++] = s->states.v[i].out;
    char *copy = ssd_arena_dup(a, absent, strlen(absent)), *save = NULL;
    for (char *w = strtok_r(copy, " ,\t\n", &save); w; w = strtok_r(NULL, " ,\t\n", &save))
        if (!leave_out(b, w))
            ERROR(b, "absent: the spec has no input, output or state '%.64s'%s", w,
                  ssd_spec_meant(a, w, names, n));
    u32 left = 0;
    for (u32 i = 0; i < s->outputs.n; i++) left += !b->no_out[i];
    for (u32 i = 0; i < s->states.n; i++) left += !b->no_final[i];
    if (!left) ERROR(b, "absent: no output is left");
}

// --- Axes and inputs ----------------------------------------------------------------------------

static void make_axes(Build *b) {
    static const AxisKind kinds[] = {AX_BATCH, AX_TIME, AX_SEQ, AX_HEAD, AX_GROUP};
    const Spec *s = b->spec;
    for (int i = 0; i < s->naxes; i++) {
        if (!s->axes[i].size || (i == AXIS_S && !b->g->packed)) continue;
        AxisKind kind = i < AXIS_FEATURE ? kinds[i] : AX_FEATURE;
        b->ax[i] = ssd_graph_axis(b->g, s->axes[i].name, kind, s->axes[i].size);
    }
}

static AxisId window_axis(Build *b, i32 k) {
    return ssd_graph_axis(b->g, ssd_arena_printf(b->g->arena, "w%d", k), AX_WINDOW, k);
}

static int graph_axes(Build *b, const u8 *ax, int n, i32 window, AxisId *out) {
    for (int i = 0; i < n; i++) {
        bool row =
            ax[i] == AXIS_S && !b->g->packed; // a step of a packed spec: one token of each sequence
        out[i] = ax[i] == AXIS_WINDOW ? window_axis(b, window) : b->ax[row ? AXIS_B : ax[i]];
    }
    return n;
}

static void make_inputs(Build *b) {
    const Spec *s = b->spec;
    AxisId ax[8];
    for (u32 i = 0; i < s->symbols.n; i++) {
        if (s->symbols.v[i].kind != SYM_INPUT) continue;
        u32 k = s->symbols.v[i].index;
        const Input *in = &s->inputs.v[k];
        if (b->no_in[k]) {
            b->sym[i] =
                in->none ? (Val){.none = true} : (Val){.ref = ssd_graph_const(b->g, in->dflt)};
            continue;
        }
        int n = graph_axes(b, in->ax, in->naxes, 0, ax);
        b->sym[i].ref =
            ssd_graph_in(b->g, in->name, in->dtype, ax, n, in->has_default ? &in->dflt : NULL);
    }
    static const double zero = 0;
    for (u32 i = 0; i < s->states.n; i++) {
        const State *st = &s->states.v[i];
        if (b->no_init[i]) continue;
        int n = graph_axes(b, st->ax, st->naxes, st->window, ax);
        b->init[i] = ssd_graph_in(b->g, st->in, ssd_spec_state_dtype(s, st), ax, n,
                                  b->mode == MODE_STEP ? NULL : &zero);
    }
}

// --- Expressions --------------------------------------------------------------------------------

static bool has(const Build *b, Ref r, int axis) {
    return r && b->ax[axis] && ssd_graph_has_axis(b->g, r, b->ax[axis]);
}

static Ref to_head(Build *b, Ref r) {
    return has(b, r, AXIS_G) ? ssd_graph_spread(b->g, r, b->ax[AXIS_G], b->ax[AXIS_H]) : r;
}

static Ref fn(Build *b, FnCode f, Ref x, Ref y, Ref z) {
    if (has(b, x, AXIS_H) || has(b, y, AXIS_H) || has(b, z, AXIS_H))
        x = to_head(b, x), y = to_head(b, y), z = to_head(b, z);
    return ssd_graph_fn(b->g, f, x, y, z);
}

static Ref num(Build *b, double v) { return ssd_graph_const(b->g, v); }

static Val eval_fn(Build *b, const Expr *e, FnCode f) {
    Val v[3] = {0};
    for (int i = 0; i < e->nargs; i++) v[i] = eval(b, e->args[i]);
    if (v[0].none && v[1].none) return v[0];
    if (e->nargs == 2 && v[1].none) return v[0];
    if (e->nargs == 2 && v[0].none) {
        if (f == FN_SUB) return (Val){.ref = fn(b, FN_NEG, v[1].ref, 0, 0)};
        if (f == FN_DIV) return (Val){.ref = fn(b, FN_DIV, num(b, 1), v[1].ref, 0)};
        return v[1];
    }
    if (v[0].none) return v[0];
    return (Val){.ref = fn(b, f, v[0].ref, v[1].ref, v[2].ref)};
}

static Ref reduce(Build *b, OpCode op, Ref x, u32 axes) {
    for (int i = AXIS_H; i < b->spec->naxes; i++)
        if (axes & BIT(i) && has(b, x, i))
            x = ssd_graph_reduce(b->g, op, x, b->ax[i]);
        else if (axes & BIT(i) && op == OP_SUM)
            x = fn(b, FN_MUL, x, num(b, (double)b->spec->axes[i].size), 0);
    return x;
}

static Val eval_reduction(Build *b, const Expr *e, CallKind kind) {
    Reduction r = ssd_spec_reduction(b->spec, e);
    Val v = eval(b, e->args[0]);
    if (v.none) return v;
    Ref x = v.ref;
    double count = 1;
    for (int i = AXIS_H; i < b->spec->naxes; i++)
        if (r.axes & BIT(i)) count *= (double)b->spec->axes[i].size;
    bool squares = kind == CALL_L2NORM || kind == CALL_RMSNORM;
    Ref s = kind == CALL_MAX ? reduce(b, OP_AMAX, x, r.axes) : 0;
    if (kind == CALL_SOFTMAX) { // exp(x - max) / sum
        x = fn(b, FN_EXP, fn(b, FN_SUB, x, reduce(b, OP_AMAX, x, r.axes), 0), 0, 0);
        s = fn(b, FN_DIV, x, reduce(b, OP_SUM, x, r.axes), 0);
    } else if (kind != CALL_MAX) {
        s = reduce(b, OP_SUM, squares ? fn(b, FN_MUL, x, x, 0) : x, r.axes);
    }
    if (kind == CALL_MEAN || kind == CALL_RMSNORM) s = fn(b, FN_DIV, s, num(b, count), 0);
    if (squares) s = fn(b, FN_MUL, x, fn(b, FN_RSQRT, fn(b, FN_ADD, s, num(b, r.eps), 0), 0, 0), 0);
    return (Val){.ref = s};
}

static void set_final(Build *b, i32 state, Ref final) {
    b->final[state] = final;
    b->reached[state] = true;
}

static Val eval_over_time(Build *b, const Expr *e, bool shift) {
    Val v = eval(b, e->args[0]);
    if (v.none) return v;
    const State *st = &b->spec->states.v[e->state];
    Ref init = b->init[e->state];
    Ref r = shift ? ssd_graph_shift(b->g, v.ref, st->window, init, window_axis(b, st->window))
                  : ssd_graph_scan(b->g, v.ref, false, init);
    if (!b->no_final[e->state]) set_final(b, e->state, ssd_graph_final(b->g, r));
    return (Val){.ref = r};
}

// index(t) counts on from the tokens before this call, t_0. Packed sequences have each their own
// count, which only an operator over time can hand out: a cumulative sum of ones.
static Val eval_position(Build *b, const Expr *e) {
    Graph *g = b->g;
    Ref init = b->init[e->state], r;
    bool wanted = !b->no_final[e->state];
    if (g->packed && (init || wanted)) {
        Ref count = ssd_graph_scan(g, num(b, 1), false, init);
        r = init ? fn(b, FN_SUB, count, num(b, 1), 0) : ssd_graph_index(g, b->ax[AXIS_T]);
        if (wanted) set_final(b, e->state, ssd_graph_final(g, count));
        return (Val){.ref = r};
    }
    bool step = b->mode == MODE_STEP;
    Ref size = step ? num(b, 1) : ssd_graph_size(g, b->ax[AXIS_T]);
    r = step ? init : ssd_graph_index(g, b->ax[AXIS_T]);
    if (init && !step) r = fn(b, FN_ADD, r, init, 0);
    if (wanted) set_final(b, e->state, init ? fn(b, FN_ADD, init, size, 0) : size);
    return (Val){.ref = r};
}

static Val eval_rotary(Build *b, const Expr *e) {
    Val x = eval(b, e->args[0]), angle = eval(b, e->args[1]);
    if (x.none || angle.none) return x;
    int axis = ssd_spec_rotary_axis(b->spec, e);
    bool halves = !strcmp(e->args[2]->name, "halves");
    Ref c = fn(b, FN_COS, angle.ref, 0, 0), s = fn(b, FN_SIN, angle.ref, 0, 0);
    if (!has(b, x.ref, axis)) {
        ERROR(b, "with these inputs absent, the operand of rotary has no axis %s",
              b->spec->axes[axis].name);
        return x;
    }
    Ref turned = ssd_graph_swap(b->g, x.ref, b->ax[axis], halves);
    return (Val){.ref = fn(b, FN_ADD, fn(b, FN_MUL, x.ref, c, 0), fn(b, FN_MUL, turned, s, 0), 0)};
}

static Val eval_call(Build *b, const Expr *e) {
    const Func *f = &ssd_funcs[e->func];
    switch (f->kind) {
    case CALL_FN: return eval_fn(b, e, f->fn);
    case CALL_SUM:
    case CALL_MEAN:
    case CALL_MAX:
    case CALL_L2NORM:
    case CALL_RMSNORM:
    case CALL_SOFTMAX: return eval_reduction(b, e, f->kind);
    case CALL_SHIFT:
    case CALL_CUMSUM: return eval_over_time(b, e, f->kind == CALL_SHIFT);
    case CALL_ROTARY: return eval_rotary(b, e);
    case CALL_INDEX:
        if (e->state >= 0) return eval_position(b, e);
        return (Val){.ref = ssd_graph_index(b->g, b->ax[ssd_spec_axis(b->spec, e->args[0]->name)])};
    case CALL_SIZE:
        return (Val){.ref = ssd_graph_size(b->g, b->ax[ssd_spec_axis(b->spec, e->args[0]->name)])};
    case CALL_LATER: break;
    }
    SSD_BUG("call of '%s'", e->name);
}

static Val eval(Build *b, const Expr *e) {
    switch (e->kind) {
    case E_NUMBER: return (Val){.ref = num(b, e->number)};
    case E_NAME: return b->sym[e->symbol];
    case E_FN: return eval_fn(b, e, e->fn);
    case E_CALL: return eval_call(b, e);
    }
    SSD_BUG("expression kind %d", (int)e->kind);
}

// --- Operators and outputs ----------------------------------------------------------------------

// Axes of a node as a set over the spec's axes.
static u32 axes_of(const Build *b, Ref r) {
    u32 axes = 0;
    for (int i = 0; r && i < b->spec->naxes; i++)
        if (has(b, r, i)) axes |= BIT(i);
    return axes;
}

// A tensor left out takes its axes along: what was declared with them would no longer be what it
// says.
static void check_kept(Build *b, const char *what, u32 want, u32 have) {
    u32 lost = want & ~have & (FEATURES | BIT(AXIS_H) | BIT(AXIS_G));
    if (lost)
        ERROR(
            b,
            "with these inputs absent, %s has no axis %s any more: do not leave out what brings it",
            what, ssd_spec_axes_text(b->spec, lost));
}

// A state of a band: the last values of an operand. Returns those before this call.
static Ref window_of(Build *b, i32 state, Ref now) {
    const State *st = &b->spec->states.v[state];
    Ref init = b->init[state];
    if (!b->no_final[state]) {
        Ref r = ssd_graph_shift(b->g, now, st->window, init, window_axis(b, st->window));
        set_final(b, state, ssd_graph_final(b->g, r));
    }
    return init;
}

// The sum of log decays from each entry of a window to this token: its own, and those of the
// entries behind.
static Ref decay_of_window(Build *b, AxisId w, i32 size, Ref now, Ref past) {
    Graph *g = b->g;
    if (!past) // the same for every token
        return fn(b, FN_MUL, now, fn(b, FN_SUB, num(b, size), ssd_graph_index(g, w), 0), 0);
    AxisId later = ssd_graph_axis(g, ssd_arena_printf(g->arena, "w0%d", size), AX_FEATURE, size);
    Ref behind = fn(b, FN_GT, ssd_graph_index(g, later), ssd_graph_index(g, w), 0);
    Ref l = fn(b, FN_WHERE, behind, ssd_graph_slice(g, past, w, later, 0), num(b, 0));
    return fn(b, FN_ADD, ssd_graph_reduce(g, OP_SUM, l, later), now, 0);
}

// What a step of a band reads of the tokens before:
//   sum over the window of exp(log decay since) (query . key) value
static Ref read_window(Build *b, const Operator *op, const Ref arg[], const Ref past[]) {
    i32 size = op->band - 1;
    AxisId w = window_axis(b, size);
    Ref x = fn(b, FN_MUL, arg[QUERY], past[KEY], 0), e = 0;
    if (arg[DECAY]) e = fn(b, FN_EXP, decay_of_window(b, w, size, arg[DECAY], past[DECAY]), 0, 0);
    bool inside = axes_of(b, e) & op->contracted;
    if (inside) x = fn(b, FN_MUL, x, e, 0);
    x = reduce(b, OP_SUM, x, op->contracted);
    if (e && !inside) x = fn(b, FN_MUL, x, e, 0);
    x = fn(b, FN_MUL, x, past[VALUE] ? past[VALUE] : arg[VALUE], 0);
    return ssd_graph_reduce(b->g, OP_SUM, x, w);
}

static Val build_operator(Build *b, const Operator *op) {
    Ref arg[OPERANDS] = {0}, past[OPERANDS] = {0};
    u32 axes = 0;
    for (int k = 0; k < OPERANDS; k++) {
        Val v = op->arg[k] ? eval(b, op->arg[k]) : (Val){.none = true};
        if (!v.none && op->window[k] >= 0) past[k] = window_of(b, op->window[k], v.ref);
        arg[k] = v.none ? 0 : op->head == BIT(AXIS_H) ? to_head(b, v.ref) : v.ref;
        axes |= axes_of(b, arg[k]);
    }
    u32 contracted = axes_of(b, arg[QUERY]) & axes_of(b, arg[KEY]) & FEATURES;
    check_kept(b, ssd_arena_printf(b->g->arena, "operator '%s'", op->name),
               op->head | op->contracted | op->value, (axes & ~op->contracted) | contracted);
    if (b->failed) return (Val){0};
    SsdAttr at = {.time = op->mask == MASK_ANTICAUSAL ? TIME_FLIP : TIME_FWD, .band = op->band};
    if (b->mode == MODE_STEP && op->mask == MASK_BAND) { // the token itself, and the window before
        Ref r = ssd_graph_ssd(b->g, arg[QUERY], arg[KEY], arg[VALUE], 0, 0, (SsdAttr){0});
        if (past[KEY]) r = fn(b, FN_ADD, r, read_window(b, op, arg, past), 0);
        return (Val){.ref = r};
    }
    if (op->mask == MASK_STRICT) at.flags |= SSD_DIAG_OUT;
    if (op->mask == MASK_FULL) at.flags |= SSD_FULL;
    if (op->read_before) at.flags |= SSD_READ_BEFORE | SSD_DIAG_OUT;
    Ref h0 = op->state >= 0 ? b->init[op->state] : 0;
    Ref r = ssd_graph_ssd(b->g, arg[QUERY], arg[KEY], arg[VALUE], arg[DECAY], h0, at);
    if (op->state >= 0 && !b->no_final[op->state])
        set_final(b, op->state, ssd_graph_final(b->g, r));
    return (Val){.ref = r};
}

static void keep_name(Build *b, Ref r, const char *name) {
    Node *n = &b->g->nodes.v[r];
    if (r && !n->name && n->op != OP_CONST) n->name = ssd_graph_name(b->g, name);
}

static void build_symbols(Build *b) {
    const Spec *s = b->spec;
    for (u32 i = 0; i < s->order.n && !b->failed; i++) {
        const Symbol *sym = &s->symbols.v[s->order.v[i]];
        if (!sym->reached) continue;
        Val v =
            sym->kind == SYM_LET ? eval(b, sym->expr) : build_operator(b, &s->ops.v[sym->index]);
        b->sym[s->order.v[i]] = v;
        if (!v.none && !b->failed) keep_name(b, v.ref, sym->name);
    }
}

static void build_outputs(Build *b) {
    const Spec *s = b->spec;
    AxisId ax[8];
    for (u32 i = 0; i < s->outputs.n && !b->failed; i++) {
        const Output *o = &s->outputs.v[i];
        Val v = eval(b, o->expr);
        if (o->axes & BIT(AXIS_H)) v.ref = to_head(b, v.ref);
        check_kept(b, ssd_arena_printf(b->g->arena, "output '%s'", o->name), o->axes,
                   axes_of(b, v.ref));
        if (b->no_out[i] || b->failed) continue;
        ssd_graph_out(b->g, o->name, v.ref, o->dtype, ax, graph_axes(b, o->ax, o->naxes, 0, ax));
    }
}

// Final states are outputs too. What an absent input took away has no state left to give: it hands
// its start on.
static void build_states(Build *b) {
    const Spec *s = b->spec;
    AxisId ax[8];
    for (u32 i = 0; i < s->states.n && !b->failed; i++) {
        const State *st = &s->states.v[i];
        bool in = !b->no_init[i], out = !b->no_final[i];
        if (out && !b->reached[i]) b->final[i] = in ? b->init[i] : num(b, 0);
        if (out) {
            int n = graph_axes(b, st->ax, st->naxes, st->window, ax);
            ssd_graph_out(b->g, st->out, b->final[i], ssd_spec_state_dtype(s, st), ax, n);
        }
        GraphState gs = {in ? st->in : NULL, out ? st->out : NULL, b->init[i], b->final[i]};
        if (in || out) vec_push(b->g->arena, &b->g->states, gs);
    }
}

static bool find_mode(Build *b, const char *mode) {
    static const char *const names[MODES] = {"forward", "step", "backward"};
    for (int i = 0; i < MODES; i++) {
        if (strcmp(names[i], mode)) continue;
        b->mode = (Mode)i;
        if (i == MODE_BACKWARD)
            ERROR(b, "mode 'backward' comes with a later version of ssdc");
        else if (i == MODE_STEP && b->spec->no_step)
            ERROR(b, "no mode step: %s", b->spec->no_step);
        else if (!b->spec->modes[i])
            ERROR(b, "the spec does not list mode '%s'", mode);
        return !b->failed;
    }
    ERROR(b, "unknown mode '%.40s'%s", mode, ssd_spec_meant(b->g->arena, mode, names, MODES));
    return false;
}

Graph *ssd_spec_build(Arena *a, const Spec *s, const char *mode, const char *absent, Diag *d) {
    char *name = ssd_arena_dup(a, s->name, strlen(s->name));
    for (char *c = name; *c; c++)
        if (*c == '-' || *c == '.') *c = '_';
    Graph *g = ssd_graph_new(a, name);
    Build b = {.spec = s, .g = g, .diag = d};
    if (!find_mode(&b, mode)) return NULL;
    g->step = b.mode == MODE_STEP;
    g->packed = s->packed && !g->step;
    g->invariant = s->numerics.deterministic == 1;
    g->decay_any = s->numerics.decay == DECAY_ANY;
    g->cumsum_split = s->numerics.cumsum == 1;
    g->matmul = s->numerics.matmul;
    g->chunk = ssd_arena_dup(a, s->chunk, strlen(s->chunk));
    b.no_in = NEWN(a, bool, s->inputs.n + 1);
    b.no_out = NEWN(a, bool, s->outputs.n + 1);
    b.no_init = NEWN(a, bool, s->states.n + 1);
    b.no_final = NEWN(a, bool, s->states.n + 1);
    b.reached = NEWN(a, bool, s->states.n + 1);
    b.init = NEWN(a, Ref, s->states.n + 1);
    b.final = NEWN(a, Ref, s->states.n + 1);
    b.sym = NEWN(a, Val, s->symbols.n + 1);
    for (u32 i = 0; i < s->states.n; i++)
        b.no_init[i] = s->states.v[i].no_start && b.mode == MODE_FORWARD;
    read_absent(&b, absent);
    if (b.failed) return NULL;
    make_axes(&b);
    make_inputs(&b);
    build_symbols(&b);
    build_outputs(&b);
    build_states(&b);
    return b.failed ? NULL : g;
}
