// SPDX-License-Identifier: Apache-2.0
// The command: flags and help as tables, one cmd_*.c a command.
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// --- Commands ----------------------------------------------------------------------------------
// flags: those the command takes, as letters of the table below.
typedef struct Command {
    const char *name, *operands, *flags;
    int least, most; // operands
    CliCommand *run;
    const char *doc, *help;
} Command;

// clang-format off
static const Command commands[] = {
    {"check", "SPEC...", "js", 1, 1 << 20, ssd_cmd_check, "parse and type specs; exit 1 on any error",
     "Errors are printed as file:line:col with the line, a caret and the nearest valid name.\n"
     "--set overrides dims, so that a spec can be checked at another size: --set heads=8."},
    {"show", "SPEC|FILE.ssd", "AMTsSDxita", 1, 1, ssd_cmd_show, "print a stage of the compiler as text",
     "SPEC is lowered up to the stage of --at: graph, tile0 (pure), tile1 (placed), source\n"
     "(LLVM IR) or asm. --dump=after:PASS, before:PASS (comma-separated) or all prints on the\n"
     "way; --time sums up by pass.\n"
     "A FILE.ssd holds graph or tile text: what is printed here is valid input. --from and --to\n"
     "run it through those passes, both included; with neither it is checked and printed again."},
    {"run", "SPEC", "TsMSIRoapjC", 1, 1, ssd_cmd_run, "run a spec on given or random inputs",
     "Inputs come from a safetensors file (b and t follow from their shapes) or are drawn.\n"
     "Optional inputs may be missing from the file. Without -o the outputs are summed up: shape,\n"
     "mean, rms, least and largest value."},
    {"verify", "SPEC...", "TsMSRajpC", 1, 1 << 20, ssd_cmd_verify, "prove kernels equal to the spec's meaning",
     "Every mode and form (recurrent, quadratic, chunked with several lengths) is run on random\n"
     "inputs and every output compared with the spec evaluated in double as a recurrence; that\n"
     "one is compared with the dense matrix first. Exit 1 when any output is over its bound.\n"
     "--target ref runs the lowered program in the interpreter instead (ref1: after placing);\n"
     "ref1:sm_90a does so with the program for that GPU, roles and all, where none is there."},
    {"bench", "SPEC", "TsMSRajpeCH", 1, 1, ssd_cmd_bench, "time a kernel and compare with what the machine can do",
     "Warms up, then repeats for at least --seconds. The floor is what compulsory traffic or\n"
     "arithmetic would take at rates measured in the same run with the same threads; on a GPU,\n"
     "with cuBLAS where it is installed.\n"
     "On a GPU time is that of a graph's replay with nothing in the L2 cache. A step is shorter than\n"
     "a replay, so it is timed in a row: one graph of many steps, each on tensors of its own, as\n"
     "they follow each other in a decoder; the time alone is shown beside it.\n"
     "--shapes makes a table, with published figures of other kernels for the same work beside it:\n"
     "batch x tokens x heads, then g, p, n for groups, head_dim and state_size; step: batch x\n"
     "heads. On a GPU, with neither --set nor --mode, the table of published shapes is made."},
    {"explain", "SPEC", "TsMSaj", 1, 1, ssd_cmd_explain, "schedules of a spec: chosen, possible, refused and why",
     "Each candidate is lowered as far as it goes without generating code."},
    {"targets", "", "j", 0, 0, ssd_cmd_targets, "what code can be generated for", NULL},
    {"doctor", "", "jC", 0, 0, ssd_cmd_doctor, "what this machine has, and what to do about what it lacks", NULL},
    {"cache", "ls|verify|gc|clear", "jC", 1, 1, ssd_cmd_cache, "look at or clean the cache of compiled kernels",
     "ls      entries, newest first\n"
     "verify  check every entry; exit 1 if one is damaged\n"
     "gc      remove damaged entries, then the least recently used beyond SSD_CACHE_MAX\n"
     "clear   remove every entry"},
};
// clang-format on

// --- Flags -------------------------------------------------------------------------------------
typedef enum { F_BOOL, F_TEXT, F_INT, F_REAL } FlagKind;
typedef struct Flag {
    char key;         // in Command.flags
    const char *name; // long, without --
    char letter;      // short, or 0
    FlagKind kind;
    size_t at;         // in Cli
    const char *value; // its name in help, NULL for F_BOOL
    const char *doc;
} Flag;

#define AT(field) offsetof(Cli, field)
// clang-format off
static const Flag flags[] = {
    {'T', "target",    't', F_TEXT, AT(target),    "T", "cpu (this host), or one of `ssdc targets`"},
    {'s', "set",       's', F_TEXT, AT(set),       "b=1,t=4096,..", "run-time sizes and dims of the spec, by name"},
    {'M', "mode",      'm', F_TEXT, AT(mode),      "M", "forward or step"},
    {'S', "schedule",  0,   F_TEXT, AT(schedule),  "'form=chunked q=64'", "instead of the compiler's choice"},
    {'a', "absent",    0,   F_TEXT, AT(absent),    "'z D'", "optional inputs to leave out, outputs not wanted"},
    {'I', "inputs",    'i', F_TEXT, AT(inputs),    "F.safetensors", "where inputs come from"},
    {'R', "random",    0,   F_INT,  AT(seed),      "SEED", "draw inputs of realistic range (default: seed 0)"},
    {'o', "output",    'o', F_TEXT, AT(output),    "F.safetensors", "write outputs there"},
    {'A', "at",        0,   F_TEXT, AT(at),        "STAGE", "graph, tile0, tile1, source or asm (default: tile0)"},
    {'D', "dump",      0,   F_TEXT, AT(dump),      "after:PASS,..", "print the IR before: or after: passes, or all"},
    {'x', "from",      0,   F_TEXT, AT(from),      "PASS", "first pass to run on FILE.ssd"},
    {'i', "to",        0,   F_TEXT, AT(to),        "PASS", "last pass to run"},
    {'t', "time",      0,   F_BOOL, AT(time),      NULL, "time by pass, on stderr"},
    {'p', "threads",   'p', F_INT,  AT(threads),   "N", "worker threads (default: SSD_THREADS, else all cores)"},
    {'e', "seconds",   0,   F_REAL, AT(seconds),   "S", "time to repeat for (default: 0.5)"},
    {'H', "shapes",    0,   F_TEXT, AT(shapes),    "1x4096x80,step16,..", "a table: 4x8192x128g8, stepBxH"},
    {'j', "json",      'j', F_BOOL, AT(json),      NULL, "one JSON object a line"},
    {'C', "cache-dir", 0,   F_TEXT, AT(cache_dir), "DIR", "instead of SSD_CACHE_DIR or ~/.cache/ssdc; '' for none"},
};
// clang-format on

static const Command *find_command(const char *name) {
    for (size_t i = 0; i < COUNTOF(commands); i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static const char *nearest_command(const char *name) {
    const char *names[COUNTOF(commands)];
    for (size_t i = 0; i < COUNTOF(commands); i++) names[i] = commands[i].name;
    int k = ssd_nearest(name, names, COUNTOF(names));
    return k < 0 ? NULL : names[k];
}

// --- Help --------------------------------------------------------------------------------------
static void print_help(FILE *f) {
    fprintf(f, "ssdc compiles layer specs of structured state space duality to fast kernels.\n\n"
               "usage: ssdc COMMAND [OPERANDS] [FLAGS]\n\n");
    for (size_t i = 0; i < COUNTOF(commands); i++) {
        const Command *c = &commands[i];
        fprintf(f, "  %-8s %-20s %s\n", c->name, c->operands, c->doc);
    }
    fprintf(f, "\n  ssdc help COMMAND    a command's flags\n"
               "  ssdc --version\n\n"
               "Exit status: 0 yes, 1 the answer is no, 2 usage or environment.\n");
}

static void print_command_help(const Command *c) {
    printf("ssdc %s %s: %s\n", c->name, c->operands, c->doc);
    if (c->help) printf("\n%s\n", c->help);
    printf("\n");
    for (const char *k = c->flags; *k; k++) {
        for (size_t i = 0; i < COUNTOF(flags); i++) {
            const Flag *f = &flags[i];
            if (f->key != *k) continue;
            Text t = {0};
            if (f->letter) ssd_text_printf(&t, "-%c, ", f->letter);
            ssd_text_printf(&t, "--%s%s%s", f->name, f->value ? " " : "", f->value ? f->value : "");
            printf("  %-34s %s\n", t.s, f->doc);
            ssd_text_free(&t);
        }
    }
}

static int help(int n, char **args) {
    if (n == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    const Command *c = find_command(args[0]);
    if (c) {
        print_command_help(c);
        return CLI_OK;
    }
    const char *near = nearest_command(args[0]);
    return ssd_cli_error("no command '%s'%s%s%s", args[0], near ? "; did you mean '" : "",
                         near ? near : "", near ? "'?" : "");
}

// --- Parsing -----------------------------------------------------------------------------------
static const Flag *find_flag(const Command *c, const char *name, size_t len, bool is_long) {
    for (size_t i = 0; i < COUNTOF(flags); i++) {
        const Flag *f = &flags[i];
        if (!strchr(c->flags, f->key)) continue;
        if (is_long ? strlen(f->name) == len && memcmp(f->name, name, len) == 0
                    : len == 1 && f->letter == name[0])
            return f;
    }
    return NULL;
}

static int unknown_flag(const Command *c, const char *arg) {
    const char *names[COUNTOF(flags)];
    int n = 0;
    for (size_t i = 0; i < COUNTOF(flags); i++)
        if (strchr(c->flags, flags[i].key)) names[n++] = flags[i].name;
    char name[64];
    const char *body = arg + strspn(arg, "-");
    snprintf(name, sizeof name, "%.*s", (int)strcspn(body, "="), body);
    int k = strlen(name) > 1 ? ssd_nearest(name, names, n) : -1;
    if (k >= 0)
        return ssd_cli_error("%s: unknown flag '%s'; did you mean '--%s'?", c->name, arg, names[k]);
    return ssd_cli_error("%s: unknown flag '%s'; see `ssdc help %s`", c->name, arg, c->name);
}

static bool set_flag(Cli *cli, const Command *c, const Flag *f, const char *value) {
    void *at = (char *)cli + f->at;
    char *end = NULL;
    errno = 0;
    switch (f->kind) {
    case F_BOOL: *(bool *)at = true; return true;
    case F_TEXT: *(const char **)at = value; return true;
    case F_INT: *(i64 *)at = strtoll(value, &end, 10); break;
    case F_REAL: *(double *)at = strtod(value, &end); break;
    }
    bool ok = end != value && *end == 0 && errno == 0;
    ok &= f->kind == F_INT ? *(i64 *)at >= 0 : isfinite(*(double *)at) && *(double *)at > 0;
    if (!ok)
        ssd_cli_error("%s: --%s is '%s'; expected a %snumber", c->name, f->name, value,
                      f->kind == F_INT ? "whole " : "positive ");
    if (f->key == 'R') cli->random = true;
    return ok;
}

static bool parse_args(Cli *cli, const Command *c, int n, char **args) {
    cli->args = NEWN(&cli->arena, const char *, n + 1);
    bool operands_only = false;
    for (int i = 0; i < n; i++) {
        const char *arg = args[i];
        if (operands_only || arg[0] != '-' || arg[1] == 0) {
            cli->args[cli->n_args++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            operands_only = true;
            continue;
        }
        bool is_long = arg[1] == '-';
        const char *name = arg + 1 + is_long, *eq = strchr(name, '=');
        const Flag *f = find_flag(c, name, eq ? (size_t)(eq - name) : strlen(name), is_long);
        if (!f) {
            unknown_flag(c, arg);
            return false;
        }
        const char *value = eq ? eq + 1 : NULL;
        if (f->kind == F_BOOL && value) {
            ssd_cli_error("%s: --%s takes no value", c->name, f->name);
            return false;
        }
        if (f->kind != F_BOOL && !value) {
            if (++i == n) {
                ssd_cli_error("%s: --%s needs a value: %s", c->name, f->name, f->value);
                return false;
            }
            value = args[i];
        }
        if (!set_flag(cli, c, f, value)) return false;
    }
    if (cli->n_args < c->least || cli->n_args > c->most) {
        ssd_cli_error("%s: %s; expected `ssdc %s %s`", c->name,
                      cli->n_args < c->least ? "an operand is missing" : "too many operands",
                      c->name, c->operands);
        return false;
    }
    Text why = {0};
    bool ok = ssd_sizes_parse(&cli->arena, cli->set, &cli->sizes, &why);
    if (!ok) ssd_cli_error("%s: %s", c->name, why.s);
    ssd_text_free(&why);
    return ok;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *first = argv[1];
    if (strcmp(first, "--version") == 0 || strcmp(first, "version") == 0) {
        printf("ssdc %s\n", ssd_version());
        return CLI_OK;
    }
    if (strcmp(first, "help") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        return help(argc - 2, argv + 2);
    const Command *c = find_command(first);
    if (!c) {
        const char *near = nearest_command(first);
        if (near) return ssd_cli_error("no command '%s'; did you mean '%s'?", first, near);
        return ssd_cli_error("no command '%s'; see `ssdc help`", first);
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_command_help(c);
            return CLI_OK;
        }
    const char *no_color = getenv("NO_COLOR");
    Cli cli = {.seconds = 0.5, .progress = isatty(STDERR_FILENO) != 0};
    cli.color = isatty(STDOUT_FILENO) && !(no_color && *no_color);
    int code = parse_args(&cli, c, argc - 2, argv + 2) ? c->run(&cli) : CLI_USAGE;
    ssd_cli_progress(&cli, NULL);
    ssd_arena_free(&cli.arena);
    if (fflush(stdout) != 0 || ferror(stdout))
        return ssd_cli_error("writing to stdout failed: %s", strerror(errno));
    return code;
}
