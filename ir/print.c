// SPDX-License-Identifier: Apache-2.0
// Graph text. One node a line, each with its type; constants stand where they are used:
//
//     graph mamba2
//     axis t time
//     axis h head 24
//     dt = in : bf16[b t h]
//     %7 = fn softplus dt : f32[b t h]
//     y = ssd C B %9 %12 h0 time=fwd diag=in : f32[b t h p]
//     out y : bf16[b t h p] = y
//     state h0 -> hT = %21
//
// %N counts the node lines. A node is printed under its name unless an input or an earlier node has
// it.
#include "graph_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const Attr ssd_attrs[] = {
#define ATTR(text, field, printed, bit, word0, word1)                                              \
    {text, AT_##field, AT_##printed, bit, {word0, word1}},
#include "attrs.def"
};
const int ssd_attr_count = COUNTOF(ssd_attrs);

const OpInfo ssd_ops[OP__COUNT] = {
#define OP(id, text, lo, hi, attrs, doc) {text, lo, hi, attrs},
#include "ops.def"
};

const char *const ssd_axis_kinds[8] = {"",     "batch", "seq",     "time",
                                       "head", "group", "feature", "window"};
const char *const ssd_time_names[3] = {"fwd", "flip", "rev"};
const char *const ssd_matmul_names[4] = {"native", "tf32", "tf32x3", "f32"};

const Attr *ssd_attr_next(const char **at) {
    while (**at) {
        const char *s = *at;
        size_t n = strcspn(s, " ");
        *at = s + n + (s[n] == ' ');
        for (int i = 0; i < ssd_attr_count; i++)
            if (strlen(ssd_attrs[i].name) == n && !memcmp(ssd_attrs[i].name, s, n))
                return &ssd_attrs[i];
    }
    return NULL;
}

bool ssd_graph_plain_name(const char *s) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    if (!strcmp(s, "_") || !strcmp(s, "inf") || !strcmp(s, "nan")) return false;
    if (!*s || !strchr(letters, *s)) return false;
    for (; *s; s++)
        if (!strchr(letters, *s) && !strchr("0123456789.", *s)) return false;
    return true;
}

// The shortest decimal that reads back as v, with a point in every locale.
static void print_number(Text *out, double v) {
    char s[40];
    if (isnan(v) || isinf(v)) {
        ssd_text_printf(out, "%s%s", signbit(v) ? "-" : "", isnan(v) ? "nan" : "inf");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        if (strtod(s, NULL) == v) break;
    }
    for (char *c = s; *c; c++)
        if (!strchr("0123456789+-e", *c)) *c = '.';
    ssd_text_printf(out, "%s", s);
}

static void print_type(const Graph *g, Text *out, u8 dtype, const AxisId *ax, int n) {
    ssd_text_printf(out, "%s[", ssd_dtype_name((ssd_dtype)dtype));
    for (int i = 0; i < n; i++) ssd_text_printf(out, "%s%s", i ? " " : "", g->axes.v[ax[i]].name);
    ssd_text_printf(out, "]");
}

typedef struct Printer {
    const Graph *g;
    Text *out;
    bool *named; // by node: printed under its own name
    u32 *line;   // by node: N of %N, 0 for constants in place
} Printer;

static const char *own_name(const Printer *p, Ref r) {
    return p->named[r] ? p->g->names.v[p->g->nodes.v[r].name] : NULL;
}

static void print_ref(const Printer *p, Ref r) {
    const char *name = own_name(p, r);
    if (!r)
        ssd_text_printf(p->out, "_");
    else if (name)
        ssd_text_printf(p->out, "%s", name);
    else if (!p->line[r])
        print_number(p->out, p->g->nodes.v[r].val);
    else
        ssd_text_printf(p->out, "%%%u", p->line[r]);
}

static void print_attr(const Printer *p, const Node *n, const Attr *a) {
    const Graph *g = p->g;
    bool flag = n->flags & a->bit, set = false;
    switch (a->field) {
    case AT_A0: set = n->a0; break;
    case AT_A1: set = n->a1; break;
    case AT_K: set = n->k; break;
    case AT_FLAG: set = flag; break;
    case AT_TIME: set = n->time; break;
    case AT_DFLT: set = n->has_default; break;
    }
    if (a->printed == AT_SET && !set) return;
    ssd_text_printf(p->out, " %s=", a->name);
    switch (a->field) {
    case AT_A0: ssd_text_printf(p->out, "%s", g->axes.v[n->a0].name); break;
    case AT_A1: ssd_text_printf(p->out, "%s", g->axes.v[n->a1].name); break;
    case AT_K: ssd_text_printf(p->out, "%d", n->k); break;
    case AT_FLAG: ssd_text_printf(p->out, "%s", a->word[flag]); break;
    case AT_TIME: ssd_text_printf(p->out, "%s", ssd_time_names[n->time]); break;
    case AT_DFLT: print_number(p->out, n->dflt); break;
    }
}

static void print_node(const Printer *p, Ref r) {
    const Node *n = &p->g->nodes.v[r];
    print_ref(p, r);
    ssd_text_printf(p->out, " = %s", ssd_ops[n->op].name);
    if (n->op == OP_FN) ssd_text_printf(p->out, " %s", ssd_fns[n->fn].name);
    if (n->op == OP_CONST) {
        ssd_text_printf(p->out, " ");
        print_number(p->out, n->val);
    }
    int last = -1;
    for (int i = 0; i < (int)COUNTOF(n->arg); i++)
        if (n->arg[i]) last = i;
    for (int i = 0; i <= last; i++) {
        ssd_text_printf(p->out, " ");
        print_ref(p, n->arg[i]);
    }
    const char *at = ssd_ops[n->op].attrs;
    for (const Attr *a; (a = ssd_attr_next(&at));) print_attr(p, n, a);
    ssd_text_printf(p->out, " : ");
    print_type(p->g, p->out, n->dtype, n->ax, n->naxes);
    ssd_text_printf(p->out, "\n");
}

static void print_head(const Graph *g, Text *out) {
    ssd_text_printf(out, "graph ");
    for (const char *c = g->name; *c; c++)
        ssd_text_put(out, (unsigned char)*c <= ' ' || strchr("[]=:#", *c) ? "_" : c, 1);
    ssd_text_printf(out, "\n");
    if (g->packed) ssd_text_printf(out, "packed\n");
    if (g->step) ssd_text_printf(out, "step\n");
    if (g->invariant || g->decay_any || g->cumsum_split || g->matmul) {
        ssd_text_printf(out, "numerics");
        if (g->invariant) ssd_text_printf(out, " deterministic=invariant");
        if (g->decay_any) ssd_text_printf(out, " decay=any");
        if (g->cumsum_split) ssd_text_printf(out, " cumsum=split");
        if (g->matmul) ssd_text_printf(out, " matmul=%s", ssd_matmul_names[g->matmul]);
        ssd_text_printf(out, "\n");
    }
    if (g->chunk) ssd_text_printf(out, "chunk %s\n", g->chunk);
    for (u32 i = 1; i < g->axes.n; i++) {
        const Axis *a = &g->axes.v[i];
        ssd_text_printf(out, "axis %s %s", a->name, ssd_axis_kinds[a->kind]);
        if (a->size >= 0) ssd_text_printf(out, " %lld", (long long)a->size);
        ssd_text_printf(out, "\n");
    }
}

void ssd_graph_print(const Graph *g, Text *out) {
    Printer p = {.g = g, .out = out};
    p.named = calloc(g->nodes.n, sizeof *p.named);
    p.line = calloc(g->nodes.n, sizeof *p.line);
    bool *taken = calloc(g->names.n, sizeof *taken);
    if (!p.named || !p.line || !taken) goto done;
    for (int inputs = 1; inputs >= 0; inputs--)
        for (Ref r = 1; r < g->nodes.n; r++) {
            u32 name = g->nodes.v[r].name;
            if ((g->nodes.v[r].op == OP_IN) != inputs || !name || taken[name]) continue;
            if (ssd_graph_plain_name(g->names.v[name])) p.named[r] = taken[name] = true;
        }
    print_head(g, out);
    u32 line = 0;
    for (Ref r = 1; r < g->nodes.n; r++) {
        if (g->nodes.v[r].op == OP_CONST && !p.named[r]) continue;
        p.line[r] = ++line;
        print_node(&p, r);
    }
    for (u32 i = 0; i < g->outs.n; i++) {
        const GraphOut *o = &g->outs.v[i];
        ssd_text_printf(out, "out %s : ", o->name);
        print_type(g, out, (u8)o->dtype, o->ax, o->naxes);
        ssd_text_printf(out, " = ");
        print_ref(&p, o->ref);
        ssd_text_printf(out, "\n");
    }
    for (u32 i = 0; i < g->states.n; i++) {
        const GraphState *s = &g->states.v[i];
        ssd_text_printf(out, "state %s -> %s = ", s->in_name ? s->in_name : "_",
                        s->out_name ? s->out_name : "_");
        print_ref(&p, s->final);
        ssd_text_printf(out, "\n");
    }
done:
    free(p.named);
    free(p.line);
    free(taken);
}
