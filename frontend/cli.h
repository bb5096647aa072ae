// SPDX-License-Identifier: Apache-2.0
// What the files of the command share: flags, printing, exit codes.
#ifndef SSD_CLI_H
#define SSD_CLI_H

#include "compile.h"
#include "host.h"

#include <jansson.h>
#include <stdio.h>

// Exit codes: the answer is yes, the answer is no, usage or environment.
enum { CLI_OK = 0, CLI_NO = 1, CLI_USAGE = 2 };

typedef struct Cli {
    const char *target, *set, *mode, *schedule, *inputs, *output, *at, *dump, *from, *to, *absent,
        *cache_dir, *shapes;
    i64 seed;
    i64 threads;
    double seconds;
    bool json, time, random;
    const char **args;
    int n_args;
    Sizes sizes; // from set
    Arena arena;
    bool color, progress; // stdout may be coloured; stderr is a terminal
} Cli;

typedef int CliCommand(Cli *c);
CliCommand ssd_cmd_check, ssd_cmd_show, ssd_cmd_run, ssd_cmd_verify, ssd_cmd_bench, ssd_cmd_explain,
    ssd_cmd_targets, ssd_cmd_doctor, ssd_cmd_cache;

// "ssdc: error: ..." on stderr; returns CLI_USAGE. A text with places ("file:1:2: error") is
// printed as it is.
int ssd_cli_error(const char *fmt, ...) SSD_PRINTF(1, 2);
// The exit code of a failed library call, after printing its message.
int ssd_cli_fail(ssd_status s, const char *message);
// Progress on stderr, one line that is overwritten; nothing unless it is a terminal. NULL clears
// it.
void ssd_cli_progress(const Cli *c, const char *fmt, ...) SSD_PRINTF(2, 3);
// Colours, "" when off.
const char *ssd_cli_bold(const Cli *c), *ssd_cli_good(const Cli *c), *ssd_cli_bad(const Cli *c),
    *ssd_cli_dim(const Cli *c), *ssd_cli_plain(const Cli *c);

// A whole file as text in the arena; NULL after an error message. "-" is stdin.
char *ssd_cli_read(Cli *c, const char *path, size_t *out_len);
// Parses a spec; NULL after its errors were printed.
Spec *ssd_cli_spec(Cli *c, const char *text, size_t len, const char *path);
// The --mode flag, or forward; NULL after an error when the spec has it not.
const char *ssd_cli_mode(Cli *c, const Spec *s, const char *path);
// The --target flag, or cpu; NULL after an error.
const Target *ssd_cli_target(const Cli *c);
ssd_compile_options ssd_cli_options(const Cli *c, const char *text, const char *path,
                                    const char *mode);
// Context of --threads and --cache-dir; a warning is printed. NULL after an error.
ssd_context *ssd_cli_context(const Cli *c);
void ssd_cli_warn(const ssd_context *ctx);

// One object a line, keys in order, and it is released. A number that JSON lacks (NaN) becomes
// null.
void ssd_cli_json(json_t *object);
json_t *ssd_cli_number(double v);
json_t *ssd_cli_set(const char *shape); // "b=2 t=200" -> {"b": 2, "t": 200}
// Where the time of a start went, those that took any: {"spec": 0.8, ..} in ms, "spec 0.8, .. ms".
json_t *ssd_cli_phases(const Phases *p);
void ssd_cli_print_phases(FILE *f, const Phases *p);

#endif
