// SPDX-License-Identifier: Apache-2.0
// Tree -> Spec: reads every key, reports every error. What a section gets wrong is left out of the
// Spec, so that the sections after it can still be checked.
#include "spec_impl.h"

#include <math.h>

typedef struct Reader {
    Arena *arena;
    Diag *diag;
    const YamlDoc *doc;
    Spec *spec;
    const char *dims; // overrides
} Reader;

#define ERROR_AT(r, at, ...) ssd_diag_add((r)->diag, DIAG_ERROR, (at), __VA_ARGS__)

const char *ssd_spec_meant(Arena *a, const char *s, const char *const *names, int n) {
    if (strlen(s) > EXPR_MAX_NAME) return "";
    int i = ssd_nearest(s, names, n);
    return i < 0 ? "" : ssd_arena_printf(a, "; did you mean '%s'?", names[i]);
}

// --- Small readers ------------------------------------------------------------------------------

static const char *kind_text(const YamlNode *n) {
    if (n->kind == YAML_MAP) return "a mapping";
    if (n->kind == YAML_SEQ) return "a sequence";
    return n->len ? "text" : "nothing";
}

static bool is_map(Reader *r, const YamlNode *n, const char *what) {
    if (n->kind == YAML_MAP && n->n) return true;
    if (n->kind == YAML_MAP)
        ERROR_AT(r, n->at, "%s is empty", what);
    else if (n->kind != YAML_BAD)
        ERROR_AT(r, n->at, "%s is a mapping, found %s", what, kind_text(n));
    return false;
}

static const char *text_of(Reader *r, const YamlNode *n, const char *what) {
    if (n->kind == YAML_SCALAR && n->len) return n->text;
    if (n->kind != YAML_BAD)
        ERROR_AT(r, n->at, "%s is expected here, found %s", what, kind_text(n));
    return NULL;
}

static bool integer(const char *s, i64 lo, i64 hi, i64 *out) {
    i64 v = 0;
    if (!*s) return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > hi) return false;
        v = v * 10 + (*s - '0');
    }
    *out = v;
    return v >= lo && v <= hi;
}

// Index of s among the words of `list` ("causal strict full"), -1 with an error when it is none of
// them.
static int word(Reader *r, Place at, const char *what, const char *s, const char *list) {
    const char *names[16];
    int n = 0;
    char *copy = ssd_arena_dup(r->arena, list, strlen(list)), *save = NULL;
    for (char *w = strtok_r(copy, " ", &save); w && n < 16; w = strtok_r(NULL, " ", &save))
        names[n++] = w;
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], s)) return i;
    Text all = {0};
    for (int i = 0; i < n; i++) ssd_text_printf(&all, "%s%s", i ? " | " : "", names[i]);
    ERROR_AT(r, at, "%s '%.40s' is not one of: %s%s", what, s, all.s,
             ssd_spec_meant(r->arena, s, names, n));
    ssd_text_free(&all);
    return -1;
}

static bool identifier(const char *s) {
    size_t n = 0;
    for (; s[n]; n++) {
        char c = s[n];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(n && c >= '0' && c <= '9')) return false;
    }
    static const char *const words[] = {"and", "or", "not", "none", "inf", "nan", "_"};
    for (size_t i = 0; i < COUNTOF(words); i++)
        if (!strcmp(s, words[i])) return false;
    return n > 0 && n <= EXPR_MAX_NAME;
}

static bool name_of(Reader *r, const YamlNode *n, const char *what) {
    if (identifier(n->text)) return true;
    ERROR_AT(r, n->at, "'%.40s' cannot name %s: letters, digits and _ (at most %d), no keyword",
             n->text, what, EXPR_MAX_NAME);
    return false;
}

// --- Axes and dims ------------------------------------------------------------------------------

static const struct {
    const char *key, *name;
    int axis;
} dim_keys[] = {{"heads", "h", AXIS_H},
                {"groups", "g", AXIS_G},
                {"head_dim", "p", -1},
                {"state_size", "n", -1}};

static const char *axis_name(const char *key) {
    for (size_t i = 0; i < COUNTOF(dim_keys); i++)
        if (!strcmp(key, dim_keys[i].key)) return dim_keys[i].name;
    return key;
}

int ssd_spec_axis(const Spec *s, const char *name) {
    for (int i = 0; i < s->naxes; i++)
        if (s->axes[i].size && !strcmp(s->axes[i].name, name)) return i;
    return -1;
}

const char *ssd_spec_axes_text(const Spec *s, u32 axes) {
    char buf[MAX_AXES * 2 + 8] = "";
    Text t = {0};
    for (int i = 0; i < s->naxes; i++)
        if (axes & BIT(i)) ssd_text_printf(&t, "%s%s", t.n ? ", " : "", s->axes[i].name);
    const char *out = ssd_arena_dup(s->arena, t.s ? t.s : buf, t.n);
    ssd_text_free(&t);
    return *out ? out : "none";
}

static const char *meant_axis(Reader *r, const char *name) {
    const char *names[MAX_AXES];
    int n = 0;
    for (int i = 0; i < r->spec->naxes; i++)
        if (r->spec->axes[i].size && i != AXIS_S) names[n++] = r->spec->axes[i].name;
    // The nearest name to one letter is another letter only by its case: 'Z' is no misspelt 'p'.
    if (strlen(name) > 1) return ssd_spec_meant(r->arena, name, names, n);
    for (int i = 0; i < n; i++)
        if (names[i][0] == (name[0] | 32) && !names[i][1])
            return ssd_arena_printf(r->arena, "; did you mean '%s'?", names[i]);
    return "";
}

static int find_axis(Reader *r, AxisName a) {
    Spec *s = r->spec;
    int i = ssd_spec_axis(s, a.name);
    if (i >= 0 && i != AXIS_S) return i;
    if (i == AXIS_S) {
        ERROR_AT(r, a.at, "axis 's' counts packed sequences: only states have it");
        return -1;
    }
    for (size_t k = 0; k < COUNTOF(dim_keys); k++)
        if (!strcmp(dim_keys[k].name, a.name) || !strcmp(dim_keys[k].key, a.name)) {
            bool known = ssd_spec_axis(s, dim_keys[k].name) >= 0;
            if (known)
                ERROR_AT(r, a.at, "unknown axis '%s'; did you mean '%s'?", a.name,
                         dim_keys[k].name);
            else
                ERROR_AT(r, a.at, "axis '%s' has no size: dims lacks '%s'", dim_keys[k].name,
                         dim_keys[k].key);
            return -1;
        }
    ERROR_AT(r, a.at, "unknown axis '%s': there are %s%s", a.name,
             ssd_spec_axes_text(s, ~0u & ~BIT(AXIS_S) & ~(s->axes[AXIS_H].size ? 0 : BIT(AXIS_H)) &
                                       ~(s->axes[AXIS_G].size ? 0 : BIT(AXIS_G))),
             meant_axis(r, a.name));
    return -1;
}

// Checks the axes of a declared tensor and stores them; false when any is wrong.
static bool take_axes(Reader *r, const TypedExpr *t, u8 *ax, int *out_n, u32 *out_axes) {
    int before = r->diag->errors;
    u32 axes = 0;
    for (int i = 0; i < t->naxes; i++) {
        int x = find_axis(r, t->axes[i]);
        if (x < 0) continue;
        if (axes & BIT(x))
            ERROR_AT(r, t->axes[i].at, "axis '%s' stands here for the second time",
                     t->axes[i].name);
        else if (i < 8)
            ax[i] = (u8)x;
        axes |= BIT(x);
    }
    if (t->naxes > 8) ERROR_AT(r, t->axes[8].at, "%d axes: a tensor has at most 8", t->naxes);
    if ((axes & BIT(AXIS_H)) && (axes & BIT(AXIS_G)))
        ERROR_AT(r, t->at,
                 "a tensor has axis h or axis g, not both: head i belongs to group i / (h/g)");
    *out_n = t->naxes;
    *out_axes = axes;
    return r->diag->errors == before;
}

static bool take_dtype(Reader *r, const TypedExpr *t, ssd_dtype *out) {
    static const ssd_dtype dtypes[] = {SSD_F32, SSD_BF16, SSD_F16};
    int i = word(r, t->at, "dtype", t->dtype, "f32 bf16 f16");
    if (i >= 0) *out = dtypes[i];
    return i >= 0;
}

static bool axis_fits(Reader *r, const YamlNode *key) {
    const char *k = key->text, *long_names[COUNTOF(dim_keys)];
    for (size_t i = 0; i < COUNTOF(dim_keys); i++) {
        if (!strcmp(dim_keys[i].key, k)) return true;
        long_names[i] = dim_keys[i].key;
    }
    if (!strcmp(k, "b") || !strcmp(k, "t") || !strcmp(k, "s") || !strcmp(k, "batch") ||
        !strcmp(k, "length")) {
        ERROR_AT(r, key->at, "'%s' is a run-time size: b, t and s have no place in dims", k);
        return false;
    }
    bool lower = *k >= 'a' && *k <= 'z' && strlen(k) <= 24;
    for (const char *c = k; *c; c++)
        lower &= (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '_';
    if (!lower) {
        ERROR_AT(
            r, key->at,
            "dim '%.40s': an axis is named in lower case, with at most 24 letters, digits and _%s",
            k, ssd_spec_meant(r->arena, k, long_names, COUNTOF(long_names)));
        return false;
    }
    if (k[0] == 'w' && k[1] >= '0' && k[1] <= '9') {
        ERROR_AT(r, key->at, "axis '%s': w and a number name the windows of shifts", k);
        return false;
    }
    // A misspelt `heads` would silently become an axis of its own.
    if (strlen(k) < 3) return true;
    const char *meant = ssd_spec_meant(r->arena, k, long_names, COUNTOF(long_names));
    if (*meant) ERROR_AT(r, key->at, "unknown dim '%s'%s", k, meant);
    return !*meant;
}

enum { MAX_DIM = 1 << 20 };

static void read_dim(Reader *r, const YamlNode *key, const YamlNode *value) {
    Spec *s = r->spec;
    i64 size = 0;
    if (!axis_fits(r, key)) return;
    const char *text = text_of(r, value, "a size"), *name = axis_name(key->text);
    if (!text) return;
    if (!integer(text, 1, MAX_DIM, &size)) {
        ERROR_AT(r, value->at, "%s is a number from 1 to %d, found '%.40s'", key->text, MAX_DIM,
                 text);
        size = 1; // the axis exists, whatever its size
    }
    int x = !strcmp(name, "h") ? AXIS_H : !strcmp(name, "g") ? AXIS_G : -1;
    int old = ssd_spec_axis(s, name);
    if (old >= 0) {
        ERROR_AT(r, key->at, "'%s' and '%s' name the same axis", s->axes[old].key, key->text);
        return;
    }
    if (x < 0) {
        if (s->naxes == MAX_AXES) {
            ERROR_AT(r, key->at, "more than %d feature axes", MAX_AXES - AXIS_FEATURE);
            return;
        }
        x = s->naxes++;
    }
    s->axes[x] = (SpecAxis){name, key->text, size, value->at};
}

// "h=24 groups=1": sizes given outside the file.
static void override_dims(Reader *r) {
    if (!r->dims) return;
    Spec *s = r->spec;
    Place none = {0};
    char *copy = ssd_arena_dup(r->arena, r->dims, strlen(r->dims)), *save = NULL;
    for (char *w = strtok_r(copy, " ,\t\n", &save); w; w = strtok_r(NULL, " ,\t\n", &save)) {
        char *eq = strchr(w, '=');
        if (!eq) {
            ERROR_AT(r, none, "dims '%.60s': expected name=size", w);
            continue;
        }
        *eq = 0;
        i64 size = 0;
        int x = ssd_spec_axis(s, axis_name(w));
        if (x >= 0 && x < AXIS_H) {
            ERROR_AT(r, none, "dims: '%s' is a run-time size", w);
        } else if (x < 0) {
            const char *names[MAX_AXES];
            int n = 0;
            for (int i = AXIS_H; i < s->naxes; i++)
                if (s->axes[i].size) names[n++] = s->axes[i].key;
            ERROR_AT(r, none, "dims: the spec has no dim '%.40s'%s", w,
                     ssd_spec_meant(r->arena, w, names, n));
        } else if (!integer(eq + 1, 1, MAX_DIM, &size)) {
            ERROR_AT(r, none, "dims: %s is a number from 1 to %d, found '%.40s'", w, MAX_DIM,
                     eq + 1);
        } else {
            s->axes[x].size = size;
        }
    }
}

static void read_dims(Reader *r, const YamlNode *n) {
    if (!is_map(r, n, "dims")) return;
    for (u32 i = 0; i < n->n; i++) read_dim(r, n->pairs[i].key, n->pairs[i].value);
    override_dims(r);
    SpecAxis *h = &r->spec->axes[AXIS_H], *g = &r->spec->axes[AXIS_G];
    if (h->size && g->size && h->size % g->size)
        ERROR_AT(r, g->at, "groups (%lld) must divide heads (%lld)", (long long)g->size,
                 (long long)h->size);
}

// --- Tensors and expressions --------------------------------------------------------------------

static void add_symbol(Reader *r, SymbolKind kind, const char *name, Place at, u32 index, Expr *e) {
    static const char *const kinds[] = {"an input", "a let", "an operator"};
    Spec *s = r->spec;
    int old = ssd_spec_symbol(s, name);
    if (old >= 0) {
        const Symbol *o = &s->symbols.v[old];
        ERROR_AT(r, at, "'%s' is already %s (line %d)", name, kinds[o->kind], o->at.line);
        return;
    }
    Symbol sym = {.name = name, .kind = kind, .at = at, .index = index, .expr = e};
    sym.type.bad = true;
    vec_push(r->arena, &s->symbols, sym);
}

int ssd_spec_symbol(const Spec *s, const char *name) {
    for (u32 i = 0; i < s->symbols.n; i++)
        if (!strcmp(s->symbols.v[i].name, name)) return (int)i;
    return -1;
}

static bool read_default(Reader *r, const Expr *e, Input *in) {
    if (e->kind == E_NAME && !strcmp(e->name, "none")) {
        in->none = true;
        return true;
    }
    bool neg = e->kind == E_FN && e->fn == FN_NEG;
    const Expr *x = neg ? e->args[0] : e;
    if (x->kind != E_NUMBER) {
        ERROR_AT(r, e->at, "a default is a number or `none`");
        return false;
    }
    in->has_default = true;
    in->dflt = neg ? -x->number : x->number;
    return true;
}

static void read_input(Reader *r, const YamlNode *key, const YamlNode *value) {
    Spec *s = r->spec;
    TypedExpr t;
    Input in = {.name = key->text, .at = key->at};
    bool ok = name_of(r, key, "an input");
    if (!ssd_expr_parse_typed(r->arena, r->doc, value, r->diag, &t))
        ok = false;
    else {
        ok &= take_dtype(r, &t, &in.dtype);
        ok &= take_axes(r, &t, in.ax, &in.naxes, &in.axes);
        if (t.init) ok &= read_default(r, t.init, &in);
    }
    // A wrong input still has its name, so that its uses are not unknown.
    u32 index = s->inputs.n;
    if (ok) vec_push(r->arena, &s->inputs, in);
    u32 before = s->symbols.n;
    if (identifier(key->text)) add_symbol(r, SYM_INPUT, key->text, key->at, index, NULL);
    if (ok && s->symbols.n > before)
        s->symbols.v[before].type = (Type){
            .axes = in.axes, .none = in.none, .lo = -(double)INFINITY, .hi = (double)INFINITY};
}

static void read_inputs(Reader *r, const YamlNode *n) {
    if (!is_map(r, n, "inputs")) return;
    if (n->n > MAX_INPUTS)
        ERROR_AT(r, n->at, "%u inputs: at most %d are allowed", n->n, MAX_INPUTS);
    for (u32 i = 0; i < n->n && i < MAX_INPUTS; i++)
        read_input(r, n->pairs[i].key, n->pairs[i].value);
}

static void read_lets(Reader *r, const YamlNode *n) {
    if (!is_map(r, n, "let")) return;
    if (n->n > MAX_LETS) ERROR_AT(r, n->at, "%u lets: at most %d are allowed", n->n, MAX_LETS);
    for (u32 i = 0; i < n->n && i < MAX_LETS; i++) {
        const YamlPair *p = &n->pairs[i];
        Expr *e = ssd_expr_parse(r->arena, r->doc, p->value, r->diag);
        if (name_of(r, p->key, "a let")) add_symbol(r, SYM_LET, p->key->text, p->key->at, 0, e);
    }
}

static void read_output(Reader *r, const YamlNode *key, const YamlNode *value) {
    TypedExpr t;
    Output o = {.name = key->text, .at = key->at};
    bool ok = name_of(r, key, "an output");
    if (!ssd_expr_parse_typed(r->arena, r->doc, value, r->diag, &t)) return;
    ok &= take_dtype(r, &t, &o.dtype);
    ok &= take_axes(r, &t, o.ax, &o.naxes, &o.axes);
    if (!t.init)
        ERROR_AT(r, t.at, "output '%.40s' has no expression: `type[axes] = expression`", key->text);
    u32 need = BIT(AXIS_B) | BIT(AXIS_T);
    if (ok && (o.axes & need) != need) {
        ERROR_AT(r, t.at, "output '%s' needs the axes b and t", key->text);
        ok = false;
    }
    o.expr = t.init;
    if (!ok) o.axes = 0; // the expression is still checked
    if (t.init) vec_push(r->arena, &r->spec->outputs, o);
}

static void read_outputs(Reader *r, const YamlNode *n) {
    if (!is_map(r, n, "outputs")) return;
    if (n->n > MAX_OUTPUTS)
        ERROR_AT(r, n->at, "%u outputs: at most %d are allowed", n->n, MAX_OUTPUTS);
    for (u32 i = 0; i < n->n && i < MAX_OUTPUTS; i++)
        read_output(r, n->pairs[i].key, n->pairs[i].value);
}

// --- Operators ----------------------------------------------------------------------------------

#define LATER "comes with a later version of ssdc"

static void read_mask(Reader *r, const YamlNode *n, Operator *op) {
    op->mask_at = n->at;
    if (n->kind == YAML_MAP && n->n == 1) {
        const YamlNode *key = n->pairs[0].key, *value = n->pairs[0].value;
        int w = word(r, key->at, "mask", key->text, "band toeplitz hierarchical");
        i64 band = 0;
        if (w > 0) ERROR_AT(r, key->at, "mask %s " LATER, key->text);
        if (w) return;
        const char *text = text_of(r, value, "a width");
        if (!text) return;
        if (integer(text, 1, INT32_MAX, &band))
            op->mask = MASK_BAND, op->band = (i32)band;
        else
            ERROR_AT(r, value->at, "a band's width is a number from 1 to %d, found '%.40s'",
                     INT32_MAX, text);
        return;
    }
    const char *text = text_of(r, n, "causal | strict | anticausal | full | {band: width}");
    if (!text) return;
    if (!strcmp(text, "band") || !strcmp(text, "toeplitz") || !strcmp(text, "hierarchical")) {
        ERROR_AT(r, n->at, "mask %s is written as a mapping: {%s: ...}", text, text);
        return;
    }
    int w = word(r, n->at, "mask", text, "causal strict anticausal full");
    if (w >= 0) op->mask = (MaskKind)w;
}

static void read_read(Reader *r, const YamlNode *n, Operator *op) {
    const char *text = text_of(r, n, "after | before");
    int w = text ? word(r, n->at, "read", text, "after before") : -1;
    op->read_before = w == 1;
}

static const char *state_name(Reader *r, const YamlNode *n) {
    if (!text_of(r, n, "the name of a state") || !name_of(r, n, "a state")) return NULL;
    return n->text;
}

static const char *const operator_keys[] = {
    "query",       "key",    "value",     "log_decay", "mask", "read", "initial_state",
    "final_state", "update", "log_scale", "stabilize", "rank", "slots"};
enum { K_MASK = OPERANDS, K_READ, K_INITIAL, K_FINAL, K_LATER };

static int operator_key(const char *s) {
    for (size_t i = 0; i < COUNTOF(operator_keys); i++)
        if (!strcmp(s, operator_keys[i])) return (int)i;
    return -1;
}

static void read_operator(Reader *r, const YamlNode *n, const char *name, bool named, Place at) {
    Operator op = {.name = name, .named = named, .at = at, .mask_at = at, .state = -1};
    for (int k = 0; k < OPERANDS; k++) op.window[k] = -1;
    for (u32 i = 0; i < n->n; i++) {
        const YamlNode *key = n->pairs[i].key, *value = n->pairs[i].value;
        int k = operator_key(key->text);
        if (k < 0) {
            ERROR_AT(r, key->at, "unknown key '%.40s' of an operator%s", key->text,
                     ssd_spec_meant(r->arena, key->text, operator_keys, COUNTOF(operator_keys)));
        } else if (k >= K_LATER) {
            ERROR_AT(r, key->at, "'%s' " LATER, key->text);
        } else if (k < OPERANDS) {
            op.given[k] = true;
            op.arg[k] = ssd_expr_parse(r->arena, r->doc, value, r->diag);
        } else if (k == K_MASK) {
            read_mask(r, value, &op);
        } else if (k == K_READ) {
            read_read(r, value, &op);
        } else if (k == K_INITIAL) {
            op.init = state_name(r, value), op.init_at = value->at;
        } else {
            op.final = state_name(r, value), op.final_at = value->at;
        }
    }
    for (int k = 0; k < DECAY; k++)
        if (!op.given[k]) ERROR_AT(r, at, "operator '%s' lacks '%s'", name, operator_keys[k]);
    add_symbol(r, SYM_OPERATOR, name, at, r->spec->ops.n, NULL);
    vec_push(r->arena, &r->spec->ops, op);
}

static void read_ssd(Reader *r, const YamlNode *n) {
    if (!is_map(r, n, "ssd")) return;
    bool named = true;
    for (u32 i = 0; i < n->n; i++) named &= n->pairs[i].value->kind == YAML_MAP;
    if (!named) {
        read_operator(r, n, "ssd", false, n->at);
        return;
    }
    if (n->n > MAX_OPERATORS)
        ERROR_AT(r, n->at, "%u operators: at most %d are allowed", n->n, MAX_OPERATORS);
    for (u32 i = 0; i < n->n && i < MAX_OPERATORS; i++) {
        const YamlPair *p = &n->pairs[i];
        if (name_of(r, p->key, "an operator") && is_map(r, p->value, "an operator"))
            read_operator(r, p->value, p->key->text, true, p->key->at);
    }
}

// --- The rest -----------------------------------------------------------------------------------

static void read_version(Reader *r, const YamlNode *n) {
    const char *text = text_of(r, n, "the language version, 1,");
    if (text && strcmp(text, "1"))
        ERROR_AT(r, n->at, "language version '%.40s': this is version 1", text);
}

static void read_name(Reader *r, const YamlNode *n) {
    const char *text = text_of(r, n, "a name");
    if (!text) return;
    char *id = ssd_arena_dup(r->arena, text, n->len);
    for (char *c = id; *c; c++)
        if (*c == '-' || *c == '.') *c = '_';
    if (identifier(id))
        r->spec->name = text;
    else
        ERROR_AT(r, n->at, "a spec's name is made of letters, digits, _ - and . (at most %d)",
                 EXPR_MAX_NAME);
}

static void read_doc(Reader *r, const YamlNode *n) {
    const char *text = text_of(r, n, "a sentence");
    if (text) r->spec->doc = text;
}

static bool chunk_number(Reader *r, const YamlNode *n, i64 *out) {
    const char *text = text_of(r, n, "a chunk length");
    if (!text) return false;
    if (integer(text, 1, 4096, out)) return true;
    ERROR_AT(r, n->at, "a chunk length is `auto` or a number from 1 to 4096, found '%.40s'", text);
    return false;
}

static void read_chunk(Reader *r, const YamlNode *n) {
    i64 q = 0;
    if (n->kind == YAML_SEQ) {
        Text all = {0};
        if (!n->n) ERROR_AT(r, n->at, "chunk_length is empty");
        if (n->n > 32) ERROR_AT(r, n->at, "%u chunk lengths: at most 32 are allowed", n->n);
        for (u32 i = 0; i < n->n && i < 32; i++)
            if (chunk_number(r, n->items[i], &q))
                ssd_text_printf(&all, "%s%lld", all.n ? " " : "", (long long)q);
        if (all.n) r->spec->chunk = ssd_arena_dup(r->arena, all.s, all.n);
        ssd_text_free(&all);
    } else if (n->kind == YAML_SCALAR && !strcmp(n->text, "auto")) {
        r->spec->chunk = "auto";
    } else if (chunk_number(r, n, &q)) {
        r->spec->chunk = ssd_arena_printf(r->arena, "%lld", (long long)q);
    }
}

static void read_sequences(Reader *r, const YamlNode *n) {
    const char *text = text_of(r, n, "`packed`");
    if (!text) return;
    int w = word(r, n->at, "sequences", text, "packed indexed");
    if (w == 1) ERROR_AT(r, n->at, "sequences: indexed " LATER);
    r->spec->packed = w == 0;
}

// Values in the order of the enums that read them; the first is the default.
// clang-format off
static const struct {
    const char *key, *values, *later;
    size_t field;
} numerics[] = {
    {"accumulate", "f32", "bf16 f16", offsetof(Numerics, accumulate)},
    {"state", "f32 bf16 f16", "", offsetof(Numerics, state)},
    {"matmul", "native tf32 tf32x3 f32", "", offsetof(Numerics, matmul)},
    {"cumsum", "plain split", "", offsetof(Numerics, cumsum)},
    {"decay", "nonpositive any", "", offsetof(Numerics, decay)},
    {"dlog", "rect anchored", "", offsetof(Numerics, dlog)},
    {"deterministic", "true invariant", "", offsetof(Numerics, deterministic)},
};
// clang-format on

static void read_numerics(Reader *r, const YamlNode *n) {
    const char *keys[COUNTOF(numerics)];
    for (size_t k = 0; k < COUNTOF(numerics); k++) keys[k] = numerics[k].key;
    if (!is_map(r, n, "numerics")) return;
    for (u32 i = 0; i < n->n; i++) {
        const YamlNode *key = n->pairs[i].key, *value = n->pairs[i].value;
        size_t k = 0;
        while (k < COUNTOF(numerics) && strcmp(keys[k], key->text)) k++;
        if (k == COUNTOF(numerics)) {
            ERROR_AT(r, key->at, "unknown key '%.40s' of numerics%s", key->text,
                     ssd_spec_meant(r->arena, key->text, keys, COUNTOF(keys)));
            continue;
        }
        const char *text = text_of(r, value, numerics[k].values);
        if (!text) continue;
        if (*text && !strchr(text, ' ') && strstr(numerics[k].later, text)) {
            ERROR_AT(r, value->at, "%s: %s " LATER, key->text, text);
            continue;
        }
        int w = word(r, value->at, key->text, text, numerics[k].values);
        if (w >= 0) *((u8 *)&r->spec->numerics + numerics[k].field) = (u8)w;
    }
}

static void read_mode(Reader *r, const YamlNode *n) {
    const char *text = text_of(r, n, "a mode");
    if (!text) return;
    int w = word(r, n->at, "mode", text, "forward step backward");
    if (w < 0) return;
    if (r->spec->modes[w]) ERROR_AT(r, n->at, "mode '%s' stands here for the second time", text);
    r->spec->modes[w] = true;
    r->spec->mode_at[w] = n->at;
}

static void read_modes(Reader *r, const YamlNode *n) {
    r->spec->modes_given = true;
    if (n->kind != YAML_SEQ) {
        read_mode(r, n);
        return;
    }
    if (!n->n) ERROR_AT(r, n->at, "modes is empty");
    for (u32 i = 0; i < n->n; i++) read_mode(r, n->items[i]);
}

// In the order they are read: what is named stands before what refers to it.
// clang-format off
static const struct {
    const char *key;
    bool required;
    void (*read)(Reader *, const YamlNode *);
} sections[] = {
    {"ssdc", true, read_version},          {"name", true, read_name},        {"doc", false, read_doc},
    {"dims", true, read_dims},             {"chunk_length", false, read_chunk}, {"numerics", false, read_numerics},
    {"sequences", false, read_sequences},  {"inputs", true, read_inputs},    {"let", false, read_lets},
    {"ssd", true, read_ssd},               {"outputs", true, read_outputs},  {"modes", false, read_modes},
};
// clang-format on

static void read_spec(Reader *r, const YamlNode *root) {
    if (root->kind != YAML_MAP) {
        if (root->kind != YAML_BAD)
            ERROR_AT(r, root->at, "a spec is a mapping that begins with 'ssdc: 1', found %s",
                     kind_text(root));
        return;
    }
    const char *keys[COUNTOF(sections) + 1];
    for (size_t k = 0; k < COUNTOF(sections); k++) keys[k] = sections[k].key;
    for (u32 i = 0; i < root->n; i++) {
        const YamlNode *key = root->pairs[i].key;
        size_t k = 0;
        while (k < COUNTOF(sections) && strcmp(keys[k], key->text)) k++;
        if (k == COUNTOF(sections))
            ERROR_AT(r, key->at, "unknown key '%.40s'%s", key->text,
                     ssd_spec_meant(r->arena, key->text, keys, COUNTOF(sections)));
    }
    for (size_t k = 0; k < COUNTOF(sections); k++) {
        const YamlNode *n = ssd_yaml_get(root, sections[k].key);
        if (n)
            sections[k].read(r, n);
        else if (sections[k].required)
            ERROR_AT(r, root->at, "key '%s' is missing", sections[k].key);
    }
}

Spec *ssd_spec_parse(Arena *a, const char *text, size_t n, const char *file, const char *dims,
                     Diag *d) {
    int before = d->errors;
    YamlDoc *doc = NEW(a, YamlDoc);
    Spec *s = NEW(a, Spec);
    *s = (Spec){.arena = a, .name = "", .doc = "", .chunk = "auto", .naxes = AXIS_FEATURE};
    static const char *const fixed[] = {"b", "t", "s", "h", "g"};
    for (int i = 0; i < AXIS_FEATURE; i++)
        s->axes[i] = (SpecAxis){.name = fixed[i], .key = fixed[i], .size = i <= AXIS_S ? -1 : 0};
    Reader r = {a, d, doc, s, dims};
    if (!d->source) d->file = file, d->source = text, d->source_len = n;
    ssd_yaml_parse(a, text, n, file, d, doc);
    if (!doc->root) return NULL;
    read_spec(&r, doc->root);
    ssd_spec_check(s, d);
    ssd_spec_listing(s, d, d->errors == before);
    return d->errors == before ? s : NULL;
}
