// SPDX-License-Identifier: Apache-2.0
// ssdc show: a stage of the compiler as text, from a spec or from text of an earlier stage.
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>

// --- Stages and passes -------------------------------------------------------------------------
typedef enum { AT_GRAPH, AT_TILE0, AT_TILE1, AT_SOURCE, AT_ASM } Stage;
static const char *const stages[] = {"graph", "tile0", "tile1", "source", "asm"};

static int find_pass(const char *name, size_t len) {
    for (int i = 0; i < ssd_pass_count; i++)
        if (strlen(ssd_passes[i].name) == len && memcmp(ssd_passes[i].name, name, len) == 0)
            return i;
    return -1;
}

static int unknown_pass(const char *flag, const char *name, size_t len) {
    const char *names[64];
    int n = MIN(ssd_pass_count, 64);
    char word[64];
    for (int i = 0; i < n; i++) names[i] = ssd_passes[i].name;
    snprintf(word, sizeof word, "%.*s", (int)len, name);
    int k = ssd_nearest(word, names, n);
    if (k >= 0)
        return ssd_cli_error("show: --%s: no pass '%s'; did you mean '%s'?", flag, word, names[k]);
    Text all = {0};
    for (int i = 0; i < n; i++) ssd_text_printf(&all, "%s%s", i ? " " : "", names[i]);
    ssd_cli_error("show: --%s: no pass '%s'; expected one of: %s", flag, word, all.s);
    ssd_text_free(&all);
    return CLI_USAGE;
}

// The last pass of a stage.
static const char *last_pass(Stage at) {
    return at == AT_TILE0 ? ssd_passes[find_pass("role", 4) - 1].name
                          : ssd_passes[ssd_pass_count - 1].name;
}

// --- Dumps -------------------------------------------------------------------------------------
typedef struct Dumps {
    bool all, time;
    u64 before, after; // a bit a pass
    double us[64];
    bool changed[64];
} Dumps;

// "all" | "before:P" | "after:P", comma-separated.
static bool parse_dumps(const char *text, Dumps *d) {
    for (const char *p = text ? text : ""; *p;) {
        size_t n = strcspn(p, ",");
        const char *colon = memchr(p, ':', n);
        size_t head = colon ? (size_t)(colon - p) : n;
        if (n == 3 && memcmp(p, "all", 3) == 0) {
            d->all = true;
        } else if (colon && ((head == 5 && memcmp(p, "after", 5) == 0) ||
                             (head == 6 && memcmp(p, "before", 6) == 0))) {
            int k = find_pass(colon + 1, n - head - 1);
            if (k < 0) {
                unknown_pass("dump", colon + 1, n - head - 1);
                return false;
            }
            *(*p == 'a' ? &d->after : &d->before) |= (u64)1 << k;
        } else {
            ssd_cli_error("show: --dump is '%.*s'; expected after:PASS, before:PASS or all", (int)n,
                          p);
            return false;
        }
        p += n + (p[n] == ',');
    }
    return true;
}

// A program carries its schedule; of a graph whose form is chosen a comment tells it, which
// text_schedule reads again.
static const char schedule_mark[] = "# schedule ";

static void print_unit(const Unit *u) {
    Text t = {0};
    if (u->prog) {
        ssd_tile_print(u->prog, &t);
    } else {
        if (u->schedule.form != FORM_AUTO) {
            ssd_text_printf(&t, "%s", schedule_mark);
            ssd_schedule_print(&u->schedule, &t);
            ssd_text_printf(&t, "\n");
        }
        ssd_graph_print(u->graph, &t);
    }
    fputs(t.s ? t.s : "", stdout);
    ssd_text_free(&t);
}

static void hook(void *ctx, const char *when, const Pass *pass, Unit *u, bool changed, double us) {
    Dumps *d = ctx;
    int k = (int)(pass - ssd_passes);
    u64 bit = (u64)1 << k;
    bool after = when[0] == 'a';
    if (after) {
        d->us[k] += us;
        d->changed[k] |= changed;
    }
    if (!(after ? d->all || (d->after & bit) : (d->before & bit) || (d->all && k == 0))) return;
    if (after && !changed && d->all) {
        printf("# after %s (unchanged)\n\n", pass->name);
        return;
    }
    printf("# %s %s\n", when, pass->name);
    print_unit(u);
    printf("\n");
}

static void print_times(const Dumps *d) {
    double sum = 0;
    for (int i = 0; i < ssd_pass_count; i++) sum += d->us[i];
    for (int i = 0; i < ssd_pass_count; i++)
        fprintf(stderr, "%8.1f us  %-8s %s%s\n", d->us[i], ssd_passes[i].name, ssd_passes[i].doc,
                d->changed[i] ? "" : " (unchanged)");
    fprintf(stderr, "%8.1f us  all passes\n", sum);
}

// --- A target's own text -----------------------------------------------------------------------
static int print_code(const Target *t, const Prog *p, bool assembly) {
    Machine m = {0};
    Text out = {0}, why = {0};
    int code = CLI_OK;
    if (!t->text)
        code = ssd_cli_error("target '%s' has no %s", t->name, assembly ? "assembly" : "source");
    else if (!t->machine(&m, &why) || !t->text(p, &m, assembly, &out, &why))
        code = ssd_cli_error("%s", why.s ? why.s : "no text");
    else
        fputs(out.s ? out.s : "", stdout);
    ssd_text_free(&out);
    ssd_text_free(&why);
    return code;
}

// --- From a spec -------------------------------------------------------------------------------
static int show_spec(Cli *c, const char *path, const char *text, size_t len, Stage at, Dumps *d,
                     const Target *target) {
    Spec *spec = ssd_cli_spec(c, text, len, path);
    if (!spec) return CLI_NO;
    const char *mode = ssd_cli_mode(c, spec, path);
    if (!mode) return CLI_USAGE;
    bool dumping = d->all || d->before || d->after;
    if (at == AT_GRAPH && !dumping && !c->to) {
        Diag diag = {.arena = &c->arena, .file = path, .source = text, .source_len = len};
        Unit u = {.graph = ssd_spec_build(&c->arena, spec, mode, c->absent, &diag)};
        if (u.graph) {
            print_unit(&u);
            return CLI_OK;
        }
        Text t = {0};
        ssd_diag_print(&diag, &t);
        int code = ssd_cli_fail(SSD_INVALID_SPEC, t.s);
        ssd_text_free(&t);
        return code;
    }
    Compiled out = {0};
    ssd_compile_options o = ssd_cli_options(c, text, path, mode);
    const char *to = c->to ? c->to : at == AT_GRAPH ? "dce" : last_pass(at);
    ssd_status s = ssd_compile_spec(&c->arena, &o, to, hook, d, &out);
    if (s != SSD_OK) return ssd_cli_fail(s, ssd_last_error());
    if (d->time) print_times(d);
    if (at >= AT_SOURCE && !c->to) return print_code(target, out.unit.prog, at == AT_ASM);
    if (!dumping) print_unit(&out.unit);
    return CLI_OK;
}

// --- From text ----------------------------------------------------------------------------------
// The
// first word that is not a comment decides: a tile text opens with "program".
static bool is_tile_text(const char *s) {
    for (;;) {
        s += strspn(s, " \t\r\n");
        if (*s != '#') return strncmp(s, "program", 7) == 0;
        s += strcspn(s, "\n");
    }
}

// The schedule a dump carries, or NULL.
static const char *text_schedule(Cli *c, const char *text, const Unit *u) {
    if (u->prog) return u->prog->schedule;
    const char *at = strstr(text, schedule_mark);
    if (!at || (at != text && at[-1] != '\n')) return NULL;
    at += sizeof schedule_mark - 1;
    return ssd_arena_dup(&c->arena, at, strcspn(at, "\n"));
}

static bool parse_text(Cli *c, const char *path, const char *text, size_t len, Unit *u) {
    Diag d = {.arena = &c->arena, .file = path, .source = text, .source_len = len};
    Text why = {0};
    bool ok;
    if (is_tile_text(text)) {
        u->prog = ssd_tile_parse(&c->arena, text, len, path, &d);
        ok = u->prog && ssd_tile_verify(u->prog, &why);
    } else {
        u->graph = ssd_graph_parse(&c->arena, text, len, path, &d);
        ok = u->graph && ssd_graph_verify(u->graph, &why);
    }
    if (!ok && !why.n) ssd_diag_print(&d, &why);
    if (!ok) {
        if (d.errors)
            ssd_cli_fail(SSD_INVALID_SPEC, why.s);
        else
            ssd_cli_error("%s: %s", path, why.s ? why.s : "not valid");
    }
    ssd_text_free(&why);
    return ok;
}

// The passes to run, checked against what the text is; false after an error message.
static bool check_range(const Cli *c, const Unit *u, int *from, int *to) {
    *from = c->from ? find_pass(c->from, strlen(c->from)) : 0;
    *to = c->to ? find_pass(c->to, strlen(c->to)) : *from;
    if (*from < 0 || *to < 0) {
        const char *bad = *from < 0 ? c->from : c->to;
        unknown_pass(*from < 0 ? "from" : "to", bad, strlen(bad));
        return false;
    }
    Level have = u->prog ? LEVEL_TILE : LEVEL_GRAPH;
    while (!c->from && *from < ssd_pass_count - 1 && ssd_passes[*from].in != have) *from += 1;
    if (ssd_passes[*from].in != have) {
        ssd_cli_error("pass '%s' takes %s text; this file holds a %s", ssd_passes[*from].name,
                      have == LEVEL_TILE ? "graph" : "tile",
                      have == LEVEL_TILE ? "tile program" : "graph");
        return false;
    }
    if (have == LEVEL_GRAPH && u->schedule.form == FORM_AUTO && *from > find_pass("form", 4)) {
        ssd_cli_error("pass '%s' needs the form that pass 'form' chooses: --schedule 'form=..'",
                      ssd_passes[*from].name);
        return false;
    }
    if (*to < *from) {
        ssd_cli_error("pass '%s' runs before '%s'", ssd_passes[*to].name, ssd_passes[*from].name);
        return false;
    }
    return true;
}

static int show_text(Cli *c, const char *path, const char *text, size_t len, Stage at, Dumps *d,
                     const Target *target) {
    Unit u = {.arena = &c->arena, .schedule = ssd_schedule_auto, .verify = true};
    Machine m = {0};
    Text why = {0};
    int code = CLI_USAGE, from, to;
    if (!parse_text(c, path, text, len, &u)) return CLI_NO;
    const char *schedule = c->schedule ? c->schedule : text_schedule(c, text, &u);
    bool known = !schedule || ssd_schedule_parse(schedule, &u.schedule, &why);
    if (known && c->schedule && u.prog) { // the text goes on under it
        Text own = {0};
        ssd_schedule_print(&u.schedule, &own);
        u.prog->schedule = ssd_arena_printf(&c->arena, "%s", own.s);
        ssd_text_free(&own);
    }
    if (!known) {
        ssd_cli_error("show: %s", why.s);
    } else if (c->from || c->to) {
        if (!target->machine(&m, &why)) {
            ssd_cli_error("%s", why.s);
            goto done;
        }
        u.machine = &m;
        if (!check_range(c, &u, &from, &to)) goto done;
        if (!ssd_pass_run(&u, ssd_passes[from].name, ssd_passes[to].name, hook, d)) {
            code = ssd_cli_fail(SSD_UNSUPPORTED, u.refusal.s);
            goto done;
        }
        if (d->time) print_times(d);
        if (!(d->all || d->before || d->after)) print_unit(&u);
        code = CLI_OK;
    } else if (c->at && at >= AT_SOURCE) {
        code = u.prog && u.prog->stratum >= 1
                   ? print_code(target, u.prog, at == AT_ASM)
                   : ssd_cli_error("show: --at %s needs a program of stratum 1 or 2", c->at);
    } else {
        print_unit(&u);
        code = CLI_OK;
    }
done:
    ssd_text_free(&u.refusal);
    ssd_text_free(&why);
    return code;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

int ssd_cmd_show(Cli *c) {
    int at = c->at ? -1 : AT_TILE0;
    for (int i = 0; c->at && i < (int)COUNTOF(stages); i++)
        if (strcmp(stages[i], c->at) == 0) at = i;
    if (c->at && strcmp(c->at, "tile2") == 0)
        return ssd_cli_error(
            "show: --at tile1 prints what is emitted: T2 for a GPU's kernels of roles, T1 else");
    if (at < 0) {
        int k = ssd_nearest(c->at, stages, COUNTOF(stages));
        return ssd_cli_error("show: no stage '%s'; %s%s%s", c->at,
                             k < 0 ? "expected graph, tile0, tile1, source or asm"
                                   : "did you mean '",
                             k < 0 ? "" : stages[k], k < 0 ? "" : "'?");
    }
    Dumps d = {.time = c->time};
    if (!parse_dumps(c->dump, &d)) return CLI_USAGE;
    if (c->to && find_pass(c->to, strlen(c->to)) < 0)
        return unknown_pass("to", c->to, strlen(c->to));
    const Target *target = ssd_cli_target(c);
    if (!target) return CLI_USAGE;
    size_t len = 0;
    const char *path = c->args[0];
    char *text = ssd_cli_read(c, path, &len);
    if (!text) return CLI_USAGE;
    if (c->from || ends_with(path, ".ssd"))
        return show_text(c, path, text, len, (Stage)at, &d, target);
    return show_spec(c, path, text, len, (Stage)at, &d, target);
}
