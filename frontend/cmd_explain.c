// SPDX-License-Identifier: Apache-2.0
// ssdc explain SPEC: every candidate schedule, lowered as far as it goes: chosen, possible or
// refused.
#include "../ir/cost.h"
#include "../ir/timed.h"
#include "cli.h"

#include <stdio.h>

static const char *const candidates[] = {
    "",
    "form=recurrent",
    "form=quadratic",
    "form=chunked q=16",
    "form=chunked q=32",
    "form=chunked q=64",
    "form=chunked q=128",
    "form=chunked q=256",
    "form=chunked split=t1",
    "form=chunked split=t4",
};

typedef struct Facts {
    Cost cost;     // predicted clocks of one thread, a token
    bool has_cost; // CPUs only
    i64 scratch, workspaces;
    u32 kernels;
    Text schedule, grid;
} Facts;

static i64 scratch_of(const TBlock *b) {
    i64 sum = 0;
    for (const TOp *op = b->first; op; op = op->next)
        sum += (op->op == TOP_BUF ? op->bytes : 0) + scratch_of(&op->body);
    return sum;
}

// The program's cost at b = 1 (or as set) and t tokens, divided by the tokens.
static void predict(const Cli *c, const Unit *u, Facts *f) {
    const Prog *p = u->prog;
    i64 sym[8], tokens = 1;
    for (u32 i = 0; i < p->syms.n; i++) {
        const char *s = p->syms.v[i];
        sym[i] = *s == 't'                      ? (c->sizes.t >= 0 ? c->sizes.t : 2048)
                 : *s == 'b' && c->sizes.b >= 0 ? c->sizes.b
                                                : 1;
        if (*s != 's') tokens *= MAX(sym[i], 1);
    }
    f->cost = ssd_cost(p, u->machine, sym);
    double *part[] = {&f->cost.mma, &f->cost.vector, &f->cost.memory, &f->cost.serial};
    for (size_t i = 0; i < COUNTOF(part); i++) *part[i] /= (double)tokens;
    f->has_cost = !u->machine->gpu;
}

// A kernel of roles: who runs in how many warps and with how many registers, where those are too
// few for its tiles by how many, and how deep the rings are.
static void roles(const Prog *p, const TKernel *k, const Machine *m, Text *out) {
    const char *gap = "";
    ssd_text_printf(out, " {");
    for (const TOp *o = k->body.first; o; o = o->next) {
        const char *name = p->vals.v[o->out].name;
        if (o->op == TOP_ROLE) {
            ssd_text_printf(out, "%s%s %d warp%s", gap, name, o->warps, o->warps == 1 ? "" : "s");
            if (o->copies > 1) ssd_text_printf(out, " x%d", o->copies);
            int lack = ssd_timed_need(p, k, o, m->wgmma, true) - o->regs;
            ssd_text_printf(out, " r%d", o->regs);
            if (lack > 0 && o->warps >= 4) ssd_text_printf(out, " (%d short)", lack);
        } else if (o->op == TOP_RING) {
            ssd_text_printf(out, "%sring %s x%d", gap, name, o->depth);
            if (o->copies > 1) ssd_text_printf(out, " x%d", o->copies);
        }
        gap = ", ";
    }
    ssd_text_printf(out, "}");
}

static void gather(const Cli *c, const Unit *u, Facts *f) {
    const Prog *p = u->prog;
    predict(c, u, f);
    ssd_schedule_print(&u->schedule, &f->schedule);
    f->kernels = p->kernels.n;
    for (u32 i = 0; i < p->kernels.n; i++) {
        const TKernel *k = &p->kernels.v[i];
        bool timed = ssd_timed_kernel(p, k);
        i64 scratch = timed ? ssd_timed_shared_bytes(p, k) : scratch_of(&k->body);
        f->scratch = MAX(f->scratch, scratch);
        ssd_text_printf(&f->grid, "%s%s(", i ? " " : "", k->name);
        for (int g = 0; g < k->ngrid; g++) {
            ssd_text_printf(&f->grid, "%s%s=", g ? " " : "", p->vals.v[k->grid[g].var].name);
            ssd_ex_print(p, k->grid[g].size, &f->grid);
        }
        ssd_text_printf(&f->grid, ")");
        if (timed) roles(p, k, u->machine, &f->grid);
    }
    for (u32 i = 1; i < p->tensors.n; i++) f->workspaces += p->tensors.v[i].role == T_WS;
}

static void print_row(const Cli *c, const char *asked, const char *verdict, const Facts *f,
                      const char *why) {
    if (c->json) {
        json_t *o =
            json_pack("{s:s, s:s}", "schedule", f ? f->schedule.s : asked, "verdict", verdict);
        if (f) {
            json_object_set_new(o, "kernels", json_string(f->grid.s));
            if (f->has_cost) {
                json_object_set_new(o, "clocks_per_token", json_real(ssd_cost_clocks(&f->cost)));
                json_object_set_new(o, "mma", json_real(f->cost.mma));
                json_object_set_new(o, "vector", json_real(f->cost.vector));
                json_object_set_new(o, "memory", json_real(f->cost.memory));
                json_object_set_new(o, "serial", json_real(f->cost.serial));
            }
            json_object_set_new(o, "scratch", json_integer(f->scratch));
            json_object_set_new(o, "workspaces", json_integer(f->workspaces));
        } else {
            json_object_set_new(o, "reason", json_string(why));
        }
        ssd_cli_json(o);
        return;
    }
    const char *colour = !f ? ssd_cli_dim(c) : verdict[0] == 'c' ? ssd_cli_good(c) : "";
    printf("%s%-9s %-34s", colour, verdict, f ? f->schedule.s : asked);
    if (f && f->has_cost)
        printf(" %8.0f clocks a token (mma %.0f, vector %.0f, memory %.0f, serial %.0f),",
               ssd_cost_clocks(&f->cost), f->cost.mma, f->cost.vector, f->cost.memory,
               f->cost.serial);
    if (f)
        printf(" %.1f kB scratch, %lld workspace tensors, %s", (double)f->scratch / 1024,
               (long long)f->workspaces, f->grid.s);
    else
        printf(" %s", why);
    printf("%s\n", *colour ? ssd_cli_plain(c) : "");
}

// Lowers one candidate. *chosen is the text of the compiler's own choice, set by the first call.
static int explain(Cli *c, ssd_compile_options o, const char *candidate, Text *chosen) {
    Arena a = {0};
    Compiled out = {0};
    o.schedule = candidate;
    ssd_status s = ssd_compile_spec(&a, &o, ssd_passes[ssd_pass_count - 1].name, NULL, NULL, &out);
    int code = CLI_OK;
    if (s == SSD_OK) {
        Facts f = {0};
        gather(c, &out.unit, &f);
        if (!chosen->n) {
            ssd_text_printf(chosen, "%s", f.schedule.s);
            print_row(c, candidate, "chosen", &f, NULL);
        } else if (strcmp(chosen->s, f.schedule.s) != 0) {
            print_row(c, candidate, "possible", &f, NULL);
        }
        ssd_text_free(&f.schedule);
        ssd_text_free(&f.grid);
    } else if (s == SSD_UNSUPPORTED && *candidate) {
        print_row(c, candidate, "refused", NULL, ssd_last_error());
        if (c->schedule) code = CLI_NO;
    } else {
        code = ssd_cli_fail(s, ssd_last_error());
    }
    ssd_arena_free(&a);
    return code;
}

int ssd_cmd_explain(Cli *c) {
    if (!ssd_cli_target(c)) return CLI_USAGE;
    size_t len = 0;
    const char *path = c->args[0];
    char *text = ssd_cli_read(c, path, &len);
    if (!text) return CLI_USAGE;
    Spec *spec = ssd_cli_spec(c, text, len, path);
    if (!spec) return CLI_NO;
    const char *mode = ssd_cli_mode(c, spec, path);
    if (!mode) return CLI_USAGE;
    ssd_compile_options o = ssd_cli_options(c, text, path, mode);
    Text chosen = {0};
    int code;
    if (c->schedule) {
        code = explain(c, o, c->schedule, &chosen);
    } else {
        code = CLI_OK;
        for (size_t i = 0; i < COUNTOF(candidates) && code == CLI_OK; i++)
            code = explain(c, o, candidates[i], &chosen);
    }
    ssd_text_free(&chosen);
    return code;
}
