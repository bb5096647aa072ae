// SPDX-License-Identifier: Apache-2.0
// What a checked spec takes and gives, in order: declared tensors, states by name, cu_seqlens; and
// what random values of an input should look like, from the role it plays.
//
// Everything that crosses time has a state. A state the spec does not name is called after where it
// stands:
//   ssd            h0, hT              a single operator
//   NAME           NAME_h0, NAME_hT    an operator of several
//   a band         LABEL_0, LABEL_T    its last keys, values and decays: key, value, log_decay or
//                                      NAME_key ..
//   shift, cumsum  LABEL_0, LABEL_T    LABEL is the let, the operand (`query`, NAME_query) or the
//                                      output they stand in; LABEL2 .. for further ones there
//   index(t)       t_0, t_T            tokens that came before, and that have been read
#include "spec_impl.h"

typedef struct Lister {
    Arena *arena;
    Diag *diag;
    Spec *spec;
    const char *label; // what the states found now are called after
    int labels;        // how many have been
} Lister;

#define ERROR_AT(l, at, ...) ssd_diag_add((l)->diag, DIAG_ERROR, (at), __VA_ARGS__)

// --- Names --------------------------------------------------------------------------------------

// Who has a tensor of this name already; NULL when it is free.
static const char *taken(const Spec *s, const char *name) {
    if (s->packed && !strcmp(name, "cu_seqlens")) return "the starts of packed sequences";
    for (u32 i = 0; i < s->inputs.n; i++)
        if (!strcmp(s->inputs.v[i].name, name)) return "an input";
    for (u32 i = 0; i < s->outputs.n; i++)
        if (!strcmp(s->outputs.v[i].name, name)) return "an output";
    for (u32 i = 0; i < s->states.n; i++)
        if (!strcmp(s->states.v[i].in, name) || !strcmp(s->states.v[i].out, name)) return "a state";
    return NULL;
}

static void claim(Lister *l, Place at, const char *name, bool automatic) {
    const char *who = taken(l->spec, name);
    if (!who) return;
    if (automatic)
        ERROR_AT(l, at,
                 "the state that stands here is called '%s', which is %s already: rename that, or "
                 "name the state",
                 name, who);
    else
        ERROR_AT(l, at, "'%s' is %s already", name, who);
}

static void check_tensor_names(Lister *l) {
    const Spec *s = l->spec;
    for (u32 i = 0; i < s->inputs.n; i++)
        if (s->packed && !strcmp(s->inputs.v[i].name, "cu_seqlens"))
            ERROR_AT(l, s->inputs.v[i].at,
                     "'cu_seqlens' is an input of every packed spec: leave it out");
    for (u32 i = 0; i < s->outputs.n; i++)
        for (u32 k = 0; k < s->inputs.n; k++)
            if (!strcmp(s->outputs.v[i].name, s->inputs.v[k].name))
                ERROR_AT(l, s->outputs.v[i].at,
                         "'%s' is an input already: an output needs a name of its own",
                         s->outputs.v[i].name);
}

// --- States -------------------------------------------------------------------------------------

static void add_axes(State *st, u32 axes) {
    for (int x = 0; x < MAX_AXES; x++)
        if (axes & BIT(x)) st->ax[st->naxes++] = (u8)x;
}

static i32 add_state(Lister *l, State st, Place at) {
    Spec *s = l->spec;
    if (s->states.n == MAX_STATES) {
        ERROR_AT(l, at, "more than %d states", MAX_STATES);
        return -1;
    }
    vec_push(l->arena, &s->states, st);
    return (i32)s->states.n - 1;
}

static void state_of_operator(Lister *l, Operator *op) {
    if (op->mask == MASK_FULL || op->mask == MASK_BAND) return;
    // Backwards in time there is a state at either end, but nothing to carry on from: only if asked
    // for.
    if (op->mask == MASK_ANTICAUSAL && !op->init && !op->final) return;
    const char *prefix = op->named ? ssd_arena_printf(l->arena, "%s_", op->name) : "";
    State st = {.automatic = !op->init && !op->final, .hint = "state"};
    st.in = op->init ? op->init : ssd_arena_printf(l->arena, "%sh0", prefix);
    st.out = op->final ? op->final : ssd_arena_printf(l->arena, "%shT", prefix);
    claim(l, op->init ? op->init_at : op->at, st.in, !op->init);
    claim(l, op->final ? op->final_at : op->at, st.out, !op->final);
    if (!strcmp(st.in, st.out))
        ERROR_AT(l, op->final_at,
                 "initial and final state are both called '%s': an input and an output differ",
                 st.in);
    st.ax[st.naxes++] = l->spec->packed ? AXIS_S : AXIS_B;
    add_axes(&st, op->head);
    add_axes(&st, op->value);
    add_axes(&st, op->contracted);
    op->state = add_state(l, st, op->at);
}

static void name_after_label(Lister *l, State *st) {
    do {
        const char *nr = ++l->labels > 1 ? ssd_arena_printf(l->arena, "%d", l->labels) : "";
        st->in = ssd_arena_printf(l->arena, "%s%s_0", l->label, nr);
        st->out = ssd_arena_printf(l->arena, "%s%s_T", l->label, nr);
    } while (taken(l->spec, st->in) || taken(l->spec, st->out));
}

// Why one token of an operator cannot be computed from states; NULL when it can.
static const char *why_no_step(const Operator *op) {
    u32 axes = BIT(AXIS_B) | BIT(AXIS_T) | op->head | op->value | op->contracted;
    switch (op->mask) {
    case MASK_ANTICAUSAL: return "has mask anticausal, which reads the future";
    case MASK_FULL: return "has mask full, which reads the future";
    case MASK_BAND:
        if (op->band - 1 > MAX_SHIFT) return "has a band too wide to carry from token to token";
        return __builtin_popcount(axes) > 7 ? "has a band and 8 axes" : NULL;
    case MASK_CAUSAL:
    case MASK_STRICT: break;
    }
    return NULL;
}

// What the tokens of a band that came before a step have left: their keys, and of value and decay
// what differs from token to token. Past the start there are keys of zero, which read as nothing.
static void state_of_band(Lister *l, Operator *op, int operand) {
    const Expr *e = op->arg[operand];
    u32 axes = e->type.axes;
    if (operand == QUERY || op->band < 2 || why_no_step(op)) return;
    if (operand != KEY && !(axes & BIT(AXIS_T))) return;
    for (u32 i = 0; i < l->spec->states.n; i++) {
        const State *st = &l->spec->states.v[i];
        if (!st->no_start || st->window != op->band - 1 || !ssd_expr_equal(st->owner, e)) continue;
        op->window[operand] = (i32)i;
        return;
    }
    State st = {.automatic = true, .no_start = true, .window = op->band - 1, .owner = e};
    st.hint = operand == DECAY ? "decay" : "state";
    name_after_label(l, &st);
    st.ax[st.naxes++] = l->spec->packed ? AXIS_S : AXIS_B;
    st.ax[st.naxes++] = AXIS_WINDOW;
    add_axes(&st, axes & ~(BIT(AXIS_B) | BIT(AXIS_T)));
    op->window[operand] = add_state(l, st, op->at);
}

static void state_of_call(Lister *l, Expr *e) {
    Spec *s = l->spec;
    const Func *f = &ssd_funcs[e->func];
    bool position = f->kind == CALL_INDEX && !strcmp(e->args[0]->name, "t");
    if (f->kind != CALL_SHIFT && f->kind != CALL_CUMSUM && !position) return;
    for (u32 i = 0; i < s->states.n; i++)
        if (s->states.v[i].owner && !s->states.v[i].no_start &&
            ssd_expr_equal(s->states.v[i].owner, e)) {
            e->state = (i32)i;
            return;
        }
    State st = {.automatic = true,
                .owner = e,
                .hint = "state",
                .window = f->kind == CALL_SHIFT ? (i32)e->args[1]->number : 0};
    Lister label = *l;
    if (position) label.label = "t", label.labels = 0;
    name_after_label(&label, &st);
    if (!position) l->labels = label.labels;
    st.ax[st.naxes++] = s->packed ? AXIS_S : AXIS_B;
    if (st.window) st.ax[st.naxes++] = AXIS_WINDOW;
    if (!position) add_axes(&st, e->type.axes & ~(BIT(AXIS_B) | BIT(AXIS_T)));
    e->state = add_state(l, st, e->at);
}

static void states_in(Lister *l, Expr *e) {
    if (e->kind == E_CALL) {
        const Func *f = &ssd_funcs[e->func];
        state_of_call(l, e);
        if (f->kind == CALL_SIZE && !strcmp(e->args[0]->name, "t") && !l->spec->no_step)
            l->spec->no_step = "it uses size(t), which one token does not know";
    }
    for (int i = 0; i < e->nargs; i++)
        if (e->args[i]->kind != E_NAME) states_in(l, e->args[i]);
}

static void start_label(Lister *l, const char *label) {
    l->label = label;
    l->labels = 0;
}

static void states_of_calls(Lister *l) {
    static const char *const operands[] = {"query", "key", "value", "log_decay"};
    Spec *s = l->spec;
    for (u32 i = 0; i < s->symbols.n; i++) {
        Symbol *sym = &s->symbols.v[i];
        if (sym->kind != SYM_LET || !sym->reached) continue;
        start_label(l, sym->name);
        states_in(l, sym->expr);
    }
    for (u32 i = 0; i < s->ops.n; i++)
        for (int k = 0; k < OPERANDS; k++) {
            Operator *op = &s->ops.v[i];
            if (!op->arg[k]) continue;
            start_label(l, op->named ? ssd_arena_printf(l->arena, "%s_%s", op->name, operands[k])
                                     : operands[k]);
            if (op->mask == MASK_BAND) state_of_band(l, op, k);
            states_in(l, op->arg[k]);
        }
    for (u32 i = 0; i < s->outputs.n; i++) {
        start_label(l, s->outputs.v[i].name);
        states_in(l, s->outputs.v[i].expr);
    }
}

// --- Modes --------------------------------------------------------------------------------------

static void check_modes(Lister *l) {
    Spec *s = l->spec;
    for (u32 i = 0; i < s->ops.n && !s->no_step; i++) {
        const char *why = why_no_step(&s->ops.v[i]);
        if (why) s->no_step = ssd_arena_printf(l->arena, "operator '%s' %s", s->ops.v[i].name, why);
    }
    if (!s->modes_given) s->modes[MODE_FORWARD] = true, s->modes[MODE_STEP] = !s->no_step;
    if (s->modes[MODE_STEP] && s->no_step)
        ERROR_AT(l, s->mode_at[MODE_STEP], "no mode step: %s", s->no_step);
}

// --- Roles --------------------------------------------------------------------------------------
// Bits say on which way a value goes into an operator. They flow from users to operands, lets in
// reverse order.
enum {
    ROLE_QUERY = 1,
    ROLE_DECAY = 2,
    ROLE_SOFTPLUS = 4,
    ROLE_EXP = 8,
    ROLE_RATE = 16, // a layer's rate times a token's step
    ROLE_STEP = 32
};

static const Input *input_of(const Spec *s, const Expr *e) {
    const Symbol *sym = e->kind == E_NAME && e->symbol >= 0 ? &s->symbols.v[e->symbol] : NULL;
    return sym && sym->kind == SYM_INPUT ? &s->inputs.v[sym->index] : NULL;
}

// A * dt: of two inputs multiplied in a decay, one known for each token is the step.
static u32 factor_role(const Spec *s, const Expr *product, int i) {
    const Input *me = input_of(s, product->args[i]), *other = input_of(s, product->args[1 - i]);
    if (!me || !other || ((me->axes ^ other->axes) & BIT(AXIS_T)) == 0) return 0;
    return me->axes & BIT(AXIS_T) ? ROLE_STEP : ROLE_RATE;
}

static void flow(Spec *s, const Expr *e, u32 roles) {
    if (!roles) return;
    if (e->kind == E_NAME && e->symbol >= 0) s->symbols.v[e->symbol].roles |= roles;
    bool product = e->kind == E_FN && e->fn == FN_MUL && roles & ROLE_DECAY;
    if (e->kind == E_FN)
        for (int i = 0; i < e->nargs; i++)
            flow(s, e->args[i], roles | (product ? factor_role(s, e, i) : 0));
    if (e->kind != E_CALL) return;
    const Func *f = &ssd_funcs[e->func];
    bool arith = f->kind == CALL_FN && (f->fn == FN_MIN || f->fn == FN_MAX || f->fn == FN_CLAMP);
    bool passes = arith || f->kind == CALL_ROTARY || f->kind == CALL_SHIFT;
    if (f->kind == CALL_FN && roles & ROLE_DECAY && f->fn == FN_SOFTPLUS)
        flow(s, e->args[0], ROLE_SOFTPLUS);
    else if (f->kind == CALL_FN && roles & ROLE_DECAY && f->fn == FN_EXP)
        flow(s, e->args[0], ROLE_EXP);
    else if (passes)
        flow(s, e->args[0], roles);
}

static void find_roles(Spec *s) {
    for (u32 i = 0; i < s->ops.n; i++) {
        const Operator *op = &s->ops.v[i];
        flow(s, op->arg[QUERY], ROLE_QUERY);
        if (op->arg[DECAY]) flow(s, op->arg[DECAY], ROLE_DECAY);
    }
    for (u32 i = s->order.n; i-- > 0;) {
        const Symbol *sym = &s->symbols.v[s->order.v[i]];
        if (sym->kind == SYM_LET) flow(s, sym->expr, sym->roles);
    }
}

static const char *hint(const Input *in, u32 roles) {
    bool per_token = in->axes & BIT(AXIS_T);
    if (roles & ROLE_SOFTPLUS) return "dt";
    if (roles & ROLE_EXP && !per_token) return "A_log";
    if (roles & ROLE_STEP) return "step";
    if (roles & ROLE_RATE) return "rate";
    if (roles & ROLE_DECAY) return "decay";
    if (roles & ROLE_QUERY) return "small";
    return "normal";
}

// --- Lists --------------------------------------------------------------------------------------

static void tensor_axis(SpecTensor *t, const char *name, i64 size) {
    t->axis[t->naxes] = name;
    t->size[t->naxes++] = size;
}

static void tensor_axes(const Spec *s, SpecTensor *t, const u8 *ax, int naxes, Mode mode) {
    for (int i = 0; i < naxes; i++)
        if (!(mode == MODE_STEP && ax[i] == AXIS_T))
            tensor_axis(t, s->axes[ax[i]].name, s->axes[ax[i]].size);
}

static SpecTensor state_tensor(Lister *l, const State *st, const char *name, Mode mode) {
    SpecTensor t = {.name = name, .is_state = true, .hint = st->hint};
    t.dtype = ssd_spec_state_dtype(l->spec, st);
    t.optional = mode == MODE_FORWARD;
    t.automatic = st->automatic;
    for (int i = 0; i < st->naxes; i++) {
        // One token of each sequence makes a batch: step graphs are never packed.
        u8 x = mode == MODE_STEP && st->ax[i] == AXIS_S ? AXIS_B : st->ax[i];
        if (x == AXIS_WINDOW)
            tensor_axis(&t, ssd_arena_printf(l->arena, "w%d", st->window), st->window);
        else
            tensor_axes(l->spec, &t, &x, 1, mode);
    }
    return t;
}

static void list_tensors(Lister *l, Mode mode) {
    Spec *s = l->spec;
    for (u32 i = 0; i < s->inputs.n; i++) {
        const Input *in = &s->inputs.v[i];
        SpecTensor t = {.name = in->name,
                        .dtype = in->dtype,
                        .optional = in->none || in->has_default,
                        .none = in->none,
                        .dflt = in->dflt,
                        .hint = hint(in, s->symbols.v[ssd_spec_symbol(s, in->name)].roles)};
        tensor_axes(s, &t, in->ax, in->naxes, mode);
        vec_push(l->arena, &s->ins[mode], t);
    }
    for (u32 i = 0; i < s->outputs.n; i++) {
        const Output *o = &s->outputs.v[i];
        SpecTensor t = {.name = o->name, .dtype = o->dtype, .optional = true};
        tensor_axes(s, &t, o->ax, o->naxes, mode);
        vec_push(l->arena, &s->outs[mode], t);
    }
    for (u32 i = 0; i < s->states.n; i++) {
        const State *st = &s->states.v[i];
        if (mode == MODE_STEP || !st->no_start)
            vec_push(l->arena, &s->ins[mode], state_tensor(l, st, st->in, mode));
        vec_push(l->arena, &s->outs[mode], state_tensor(l, st, st->out, mode));
    }
    if (s->packed && mode == MODE_FORWARD) {
        SpecTensor t = {.name = "cu_seqlens", .dtype = SSD_I32, .hint = "cu_seqlens"};
        tensor_axis(&t, "s+1", -1);
        vec_push(l->arena, &s->ins[mode], t);
    }
}

void ssd_spec_listing(Spec *s, Diag *d, bool complete) {
    Lister l = {.arena = s->arena, .diag = d, .spec = s};
    check_tensor_names(&l);
    for (u32 i = 0; i < s->ops.n; i++) state_of_operator(&l, &s->ops.v[i]);
    if (complete) states_of_calls(&l);
    check_modes(&l);
    if (!complete) return;
    find_roles(s);
    list_tensors(&l, MODE_FORWARD);
    list_tensors(&l, MODE_STEP);
}

// --- What others ask ----------------------------------------------------------------------------

const char *ssd_spec_name(const Spec *s) { return s->name; }
const char *ssd_spec_doc(const Spec *s) { return s->doc; }
const char *ssd_spec_chunk(const Spec *s) { return s->chunk; }

bool ssd_spec_has_mode(const Spec *s, const char *mode) {
    static const char *const names[MODES] = {"forward", "step", "backward"};
    for (int i = 0; i < MODES; i++)
        if (!strcmp(names[i], mode)) return s->modes[i];
    return false;
}

int ssd_spec_inputs(const Spec *s, const char *mode, const SpecTensor **out) {
    int m = strcmp(mode, "step") ? MODE_FORWARD : MODE_STEP;
    *out = s->ins[m].v;
    return (int)s->ins[m].n;
}

int ssd_spec_outputs(const Spec *s, const char *mode, const SpecTensor **out) {
    int m = strcmp(mode, "step") ? MODE_FORWARD : MODE_STEP;
    *out = s->outs[m].v;
    return (int)s->outs[m].n;
}
