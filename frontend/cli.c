// SPDX-License-Identifier: Apache-2.0
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// --- Messages ----------------------------------------------------------------------------------
static void put_message(const char *s) {
    size_t n = strlen(s);
    fprintf(stderr, "%s%s", s, n && s[n - 1] == '\n' ? "" : "\n");
}

int ssd_cli_error(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    Text t = {0};
    ssd_text_printf(&t, "ssdc: error: ");
    ssd_text_vprintf(&t, fmt, ap);
    va_end(ap);
    put_message(t.s);
    ssd_text_free(&t);
    return CLI_USAGE;
}

int ssd_cli_fail(ssd_status s, const char *message) {
    if (s == SSD_INVALID_SPEC) { // places and carets of its own
        put_message(message);
        return CLI_NO;
    }
    ssd_cli_error("%s", message);
    return s == SSD_UNSUPPORTED ? CLI_NO : CLI_USAGE;
}

void ssd_cli_progress(const Cli *c, const char *fmt, ...) {
    static bool shown;
    if (!c->progress || (!fmt && !shown)) return;
    fprintf(stderr, "\r\033[K");
    shown = fmt != NULL;
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
    }
    fflush(stderr);
}

const char *ssd_cli_bold(const Cli *c) { return c->color ? "\033[1m" : ""; }
const char *ssd_cli_good(const Cli *c) { return c->color ? "\033[32m" : ""; }
const char *ssd_cli_bad(const Cli *c) { return c->color ? "\033[31m" : ""; }
const char *ssd_cli_dim(const Cli *c) { return c->color ? "\033[2m" : ""; }
const char *ssd_cli_plain(const Cli *c) { return c->color ? "\033[0m" : ""; }

// --- Specs and contexts ------------------------------------------------------------------------
char *ssd_cli_read(Cli *c, const char *path, size_t *out_len) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) {
        ssd_cli_error("%s: %s", path, strerror(errno));
        return NULL;
    }
    Text t = {0};
    char buf[1 << 14];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0 && t.n < (size_t)64 << 20;)
        ssd_text_put(&t, buf, n);
    bool bad = ferror(f) != 0;
    int why = errno;
    if (f != stdin) fclose(f);
    char *s = bad ? NULL : ssd_arena_dup(&c->arena, t.n ? t.s : "", t.n);
    if (bad) ssd_cli_error("%s: %s", path, strerror(why));
    *out_len = t.n;
    ssd_text_free(&t);
    return s;
}

Spec *ssd_cli_spec(Cli *c, const char *text, size_t len, const char *path) {
    Diag d = {.arena = &c->arena, .file = path, .source = text, .source_len = len};
    Spec *s = ssd_spec_parse(&c->arena, text, len, path, c->sizes.dims, &d);
    if (!s) {
        Text t = {0};
        ssd_diag_print(&d, &t);
        put_message(t.n ? t.s : "not a spec");
        ssd_text_free(&t);
    }
    return s;
}

const char *ssd_cli_mode(Cli *c, const Spec *s, const char *path) {
    const char *mode = c->mode ? c->mode : "forward";
    if (!c->mode && !ssd_spec_has_mode(s, mode) && ssd_spec_has_mode(s, "step")) mode = "step";
    if (strcmp(mode, "backward") == 0) {
        ssd_cli_error("mode 'backward' comes later; this version has forward and step");
        return NULL;
    }
    if (strcmp(mode, "forward") != 0 && strcmp(mode, "step") != 0) {
        ssd_cli_error("no mode '%s'; expected forward or step", mode);
        return NULL;
    }
    if (!ssd_spec_has_mode(s, mode)) {
        ssd_cli_error("%s: has no mode '%s' (see its `modes:`)", path, mode);
        return NULL;
    }
    return mode;
}

const Target *ssd_cli_target(const Cli *c) {
    const char *name = c->target ? c->target : "cpu", *names[64];
    const Target *t = ssd_target_find(name);
    if (t) return t;
    int n = MIN(ssd_target_count, 64);
    for (int i = 0; i < n; i++) names[i] = ssd_targets[i].name;
    int k = ssd_nearest(name, names, n);
    ssd_cli_error("no target '%s'%s%s%s", name, k < 0 ? "; see `ssdc targets`" : "; did you mean '",
                  k < 0 ? "" : names[k], k < 0 ? "" : "'?");
    return NULL;
}

ssd_compile_options ssd_cli_options(const Cli *c, const char *text, const char *path,
                                    const char *mode) {
    return (ssd_compile_options){.spec = text,
                                 .spec_name = path,
                                 .mode = mode,
                                 .target = c->target ? c->target : "cpu",
                                 .schedule = c->schedule,
                                 .dims = c->sizes.dims,
                                 .absent = c->absent};
}

ssd_context *ssd_cli_context(const Cli *c) {
    ssd_context_options o = {.threads = (int)MIN(c->threads, 4096), .cache_dir = c->cache_dir};
    ssd_context *ctx = NULL;
    ssd_status s = ssd_context_create(&o, &ctx);
    if (s != SSD_OK) ssd_cli_fail(s, ssd_last_error());
    return ctx;
}

void ssd_cli_warn(const ssd_context *ctx) {
    const char *w = ssd_context_warning(ctx);
    if (*w) fprintf(stderr, "ssdc: warning: %s\n", w);
}

// --- JSON --------------------------------------------------------------------------------------
void ssd_cli_json(json_t *object) {
    char *s = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    if (!s) SSD_BUG("an object that cannot be printed");
    puts(s);
    free(s);
    json_decref(object);
}

json_t *ssd_cli_number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *ssd_cli_phases(const Phases *p) {
    json_t *o = json_object();
    for (int i = 0; i < PHASES; i++)
        if (p->seconds[i] > 0)
            json_object_set_new(o, ssd_phase_name(i), json_real(1e3 * p->seconds[i]));
    return o;
}

void ssd_cli_print_phases(FILE *f, const Phases *p) {
    const char *comma = "";
    for (int i = 0; i < PHASES; i++) {
        if (p->seconds[i] <= 0) continue; // it did not take place
        fprintf(f, "%s%s %.1f", comma, ssd_phase_name(i), 1e3 * p->seconds[i]);
        comma = ", ";
    }
    fprintf(f, "%s", *comma ? " ms" : "no time");
}

json_t *ssd_cli_set(const char *shape) {
    json_t *o = json_object();
    for (const char *p = shape; *p;) {
        size_t n = strcspn(p, " "), eq = strcspn(p, "=");
        if (eq < n) {
            json_t *v = json_integer(strtoll(p + eq + 1, NULL, 10));
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)eq, p);
            json_object_set_new(o, name, v);
        }
        p += n + (p[n] == ' ');
    }
    return o;
}
