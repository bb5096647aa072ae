// SPDX-License-Identifier: Apache-2.0
// The runner of the tests. A test is a file that holds its command and what it expects side by
// side, or a program that counts its own checks:
//
//     check [--ssdc PATH] [--jobs 2] [--timeout 60] [--update] [--only TEXT] [--verbose] ITEM...
//
// ITEM is a file, a directory (walked), or @LIST: a file of items, one a line, where `run NAME
// COMMAND` is a program. In a test file, `#` opens a comment in every language of ours, so these
// lines are free:
//
//     # RUN: ssdc show %s --at graph      a shell command; %s is this file, %t a fresh directory.
//     Several
//                                         RUN lines run in order; a .yaml without one is `ssdc
//                                         check %s`
//     # CHECK: text                       in the output (stdout, then stderr), after the CHECK
//     before;
//                                         runs of blanks match any run of blanks
//     # CHECK-NOT: text                   not between the CHECK before and the CHECK after
//     # EXIT: 1                           the exit status of the last RUN (else 0; 1 when errors
//     are expected)
//     ...  # ERROR: 12: text              on a wrong line: the message `file:LINE:12: error:
//     ...text...`;
//                                         every error printed must be expected. `ERROR@-1:` is the
//                                         line before
//     # OUTPUT:                           last: the whole stdout, each line behind `# `; --update
//     rewrites it
//
// Commands run in the file's own directory with a cache of their own. The last line printed is
// 'N passed, N failed'; the exit status is 0 only when nothing failed and something passed.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_JOBS = 64, PROGRAM_TIMEOUT = 600 };

typedef struct Test {
    char *name;    // path of a file, name of a program
    char *command; // programs; NULL: a test file
    int passed, failed, skipped;
    double seconds;
    char *report; // what to print, "" when there is nothing to say
    bool done;
} Test;
typedef struct Counts { // what a worker sends its parent, followed by the report
    int passed, failed, skipped;
} Counts;

static struct {
    const char *ssdc, *only;
    int jobs, timeout;
    bool update, verbose;
} opt = {.jobs = 2, .timeout = 60};
static Test *tests;
static int n_tests;

static void die(const char *what, const char *name) {
    fprintf(stderr, "check: %s %s: %s\n", what, name, strerror(errno));
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The whole file, NUL-terminated; NULL when it cannot be read.
static char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *s = NULL, part[1 << 16];
    FILE *out = open_memstream(&s, n);
    for (size_t got; (got = fread(part, 1, sizeof part, f)) > 0;) fwrite(part, 1, got, out);
    fclose(f);
    fclose(out);
    return s;
}

// --- Lines ---------------------------------------------------------------------------------------
typedef struct Lines {
    char **v;
    int n;
} Lines;

// Splits at newlines, in place, less trailing blanks of each line; a last line that is empty is
// dropped.
static Lines lines_of(char *s) {
    Lines l = {0};
    for (char *p = s; *p;) {
        char *end = strchr(p, '\n'), *next = end ? end + 1 : p + strlen(p);
        if (!end) end = next;
        while (end > p && strchr(" \t\r\n", end[-1])) end--;
        l.v = realloc(l.v, sizeof *l.v * (size_t)(l.n + 1));
        l.v[l.n++] = strndup(p, (size_t)(end - p));
        p = next;
    }
    return l;
}

static const char *skip_blanks(const char *s) {
    while (*s == ' ' || *s == '\t') s++;
    return s;
}

// What follows `# KEY:` on a line that opens with it, or NULL.
static const char *directive(const char *line, const char *key) {
    line = skip_blanks(line);
    if (*line != '#') return NULL;
    line = skip_blanks(line + 1);
    size_t n = strlen(key);
    if (strncmp(line, key, n) != 0 || line[n] != ':') return NULL;
    return skip_blanks(line + n + 1);
}

// Where `want` stands in s: a run of blanks in it matches any run of blanks or line ends of s.
static const char *find(const char *s, const char *want, const char **end) {
    for (; *s; s++) {
        const char *a = s, *w = want;
        while (*w) {
            if (*w == ' ') {
                if (!strchr(" \t\n", *a) || !*a) break;
                while (*a && strchr(" \t\n", *a)) a++;
                w = skip_blanks(w);
            } else if (*a++ != *w++) {
                w--;
                break;
            }
        }
        if (!*w) return *end = a, s;
    }
    return NULL;
}

// --- Running a command ---------------------------------------------------------------------------
typedef struct Ran {
    int status; // exit status, 128 + signal, or -1: out of time
    char *out, *err;
    double seconds;
} Ran;

// Runs a shell command with its output in files of `dir`, and kills its whole group when time is
// up.
static Ran run_command(const char *command, const char *cwd, const char *dir, int timeout) {
    Ran r = {.status = -1};
    char out[4096], err[4096];
    snprintf(out, sizeof out, "%s/stdout", dir);
    snprintf(err, sizeof err, "%s/stderr", dir);
    double start = now();
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        struct rlimit size = {1u << 30, 1u << 30};
        setrlimit(RLIMIT_FSIZE, &size);
        int in = open("/dev/null", O_RDONLY), o = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600),
            e = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (in < 0 || o < 0 || e < 0 || chdir(cwd) != 0) _exit(126);
        dup2(in, 0);
        dup2(o, 1);
        dup2(e, 2);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    setpgid(pid, pid);
    for (int status;;) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            break;
        }
        if (now() - start > timeout) {
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            break;
        }
        nanosleep(&(struct timespec){0, now() - start < 0.1 ? 1000000 : 10000000}, NULL);
    }
    size_t n;
    r.seconds = now() - start;
    r.out = read_file(out, &n);
    r.err = read_file(err, &n);
    if (!r.out) r.out = strdup("");
    if (!r.err) r.err = strdup("");
    return r;
}

static void quote(FILE *to, const char *title, const char *text) {
    if (!*text) return;
    fprintf(to, "  %s:\n", title);
    char *copy = strdup(text);
    Lines l = lines_of(copy);
    enum { HEAD = 60, TAIL = 60 };
    for (int i = 0; i < l.n; i++) {
        if (l.n > HEAD + TAIL + 1 && i == HEAD) {
            fprintf(to, "    ... %d lines ...\n", l.n - HEAD - TAIL);
            i = l.n - TAIL;
        }
        fprintf(to, "    %s\n", l.v[i]);
    }
    free(copy);
}

// --- Test files ----------------------------------------------------------------------------------
typedef struct FileTest {
    const char *path, *base;
    char dir[4096], tmp[256];
    Lines l;
    int output_at; // index of the OUTPUT line, or l.n
    Ran ran;       // of all RUN lines together
    char *command; // the last one
    bool expects;  // the file holds at least one expectation
} FileTest;

static char *substitute(const char *command, const char *base, const char *tmp) {
    char *s;
    size_t n;
    FILE *f = open_memstream(&s, &n);
    for (const char *p = command; *p; p++) {
        if (p[0] == '%' && (p[1] == 's' || p[1] == 't'))
            fputs(*++p == 's' ? base : tmp, f);
        else
            fputc(*p, f);
    }
    fclose(f);
    return s;
}

// Runs all RUN lines; outputs add up, the first command that ends by a signal or out of time stops
// it.
static bool run_lines(FileTest *t, FILE *report) {
    char *out, *err;
    size_t n_out, n_err;
    FILE *fo = open_memstream(&out, &n_out), *fe = open_memstream(&err, &n_err);
    int runs = 0;
    const char *dot = strrchr(t->base, '.');
    for (int i = 0; i <= t->output_at && (runs == 0 || i < t->output_at); i++) {
        const char *run = i < t->output_at ? directive(t->l.v[i], "RUN") : NULL;
        if (i == t->output_at && dot && !strcmp(dot, ".yaml")) run = "ssdc check %s";
        if (!run) continue;
        runs++;
        t->command = substitute(run, t->base, t->tmp);
        t->ran = run_command(t->command, t->dir, t->tmp, opt.timeout);
        fputs(t->ran.out, fo);
        fputs(t->ran.err, fe);
        if (t->ran.status < 0 || t->ran.status > 125) break;
    }
    fclose(fo);
    fclose(fe);
    t->ran.out = out;
    t->ran.err = err;
    if (runs == 0) fprintf(report, "  no RUN line\n");
    return runs > 0;
}

static bool check_lines(FileTest *t, FILE *report) {
    char *all;
    size_t n;
    FILE *f = open_memstream(&all, &n);
    fprintf(f, "%s%s", t->ran.out, t->ran.err);
    fclose(f);
    bool ok = true;
    const char *at = all;
    for (int i = 0, first_not = -1; i <= t->output_at && ok; i++) {
        const char *want = i < t->output_at ? directive(t->l.v[i], "CHECK") : NULL;
        if (i < t->output_at && directive(t->l.v[i], "CHECK-NOT")) {
            t->expects = true;
            if (first_not < 0) first_not = i;
        }
        if (!want && i < t->output_at) continue;
        const char *end = all + n, *hit = want ? find(at, want, &end) : all + n;
        if (want) t->expects = true;
        if (!hit) {
            fprintf(report, "  %s:%d: not found after the CHECK before it: %s\n", t->path, i + 1,
                    want);
            ok = false;
            break;
        }
        char *between = strndup(at, (size_t)(hit - at));
        for (int k = first_not; k >= 0 && k < i; k++) {
            const char *bad = directive(t->l.v[k], "CHECK-NOT"), *e;
            if (bad && find(between, bad, &e)) {
                fprintf(report, "  %s:%d: found, and should not be: %s\n", t->path, k + 1, bad);
                ok = false;
            }
        }
        free(between);
        first_not = -1;
        at = end;
    }
    return ok;
}

typedef struct Expected {
    int line, col;
    const char *text;
    bool seen;
} Expected;

// The next `# ERROR: col: text` or `# ERROR@-1: col: text` of a line.
static const char *next_error(const char *s, int line, Expected *out) {
    for (; (s = strstr(s, "# ERROR")); s += 7) {
        char *p = (char *)s + 7;
        long offset = *p == '@' ? strtol(p + 1, &p, 10) : 0;
        if (*p != ':') continue;
        long col = strtol(p + 1, &p, 10);
        if (*p != ':') continue;
        *out = (Expected){line + (int)offset, (int)col, strdup(skip_blanks(p + 1)), false};
        char *more = strstr((char *)out->text, "# ERROR"), *end;
        if (more)
            for (end = more; end > out->text && strchr(" \t#", end[-1]);) *--end = 0;
        if (more) *more = 0;
        return s + 7;
    }
    return NULL;
}

// Each error printed is expected and each expected one printed; *n_out is how many are expected.
static bool check_errors(FileTest *t, FILE *report, int *n_out) {
    Expected want[256];
    int n = 0;
    for (int i = 0; i < t->output_at; i++)
        for (const char *s = t->l.v[i]; n < 256 && (s = next_error(s, i + 1, &want[n]));) n++;
    *n_out = n;
    if (n == 0) return true;
    t->expects = true;
    bool ok = true;
    char *copy = strdup(t->ran.err);
    Lines l = lines_of(copy);
    size_t base = strlen(t->base);
    for (int i = 0; i < l.n; i++) {
        int line, col, used = 0;
        if (strncmp(l.v[i], t->base, base) != 0) continue;
        if (sscanf(l.v[i] + base, ":%d:%d: error: %n", &line, &col, &used) < 2 || !used) continue;
        bool known = false;
        for (int k = 0; k < n && !known; k++)
            if (!want[k].seen && want[k].line == line && want[k].col == col &&
                strstr(l.v[i] + base + used, want[k].text))
                known = want[k].seen = true;
        if (!known) fprintf(report, "  not expected: %s\n", l.v[i]);
        ok &= known;
    }
    for (int k = 0; k < n; k++)
        if (!want[k].seen) {
            fprintf(report, "  %s:%d:%d: no such error: %s\n", t->path, want[k].line, want[k].col,
                    want[k].text);
            ok = false;
        }
    return ok;
}

static void write_lines(const char *path, const Lines *l, int from, int to, const char *prefix) {
    FILE *f = fopen(path, "w");
    if (!f) die("cannot write", path);
    for (int i = from; i < to; i++) fprintf(f, "%s%s\n", *l->v[i] ? prefix : "", l->v[i]);
    fclose(f);
}

static void update_output(FileTest *t, const Lines *got) {
    char tmp[4200];
    snprintf(tmp, sizeof tmp, "%s.new", t->path);
    FILE *f = fopen(tmp, "w");
    if (!f) die("cannot write", tmp);
    for (int i = 0; i <= t->output_at; i++) fprintf(f, "%s\n", t->l.v[i]);
    for (int i = 0; i < got->n; i++) fprintf(f, "#%s%s\n", *got->v[i] ? " " : "", got->v[i]);
    if (fclose(f) != 0 || rename(tmp, t->path) != 0) die("cannot write", t->path);
}

// The golden text against stdout; a difference is shown by diff(1), or written back under --update.
static bool check_output(FileTest *t, FILE *report) {
    if (t->output_at == t->l.n) return true;
    t->expects = true;
    char *copy = strdup(t->ran.out);
    Lines got = lines_of(copy), want = {calloc((size_t)t->l.n + 1, sizeof(char *)), 0};
    for (int i = t->output_at + 1; i < t->l.n; i++) {
        char *s = t->l.v[i];
        if (*s == '#') s += s[1] == ' ' ? 2 : 1;
        want.v[want.n++] = s;
    }
    bool same = got.n == want.n;
    for (int i = 0; i < got.n && same; i++) same = !strcmp(got.v[i], want.v[i]);
    if (same) return true;
    if (opt.update) {
        update_output(t, &got);
        fprintf(report, "  rewritten\n");
        return true;
    }
    char a[4200], b[4200], command[9000];
    snprintf(a, sizeof a, "%s/expected", t->tmp);
    snprintf(b, sizeof b, "%s/found", t->tmp);
    write_lines(a, &want, 0, want.n, "");
    write_lines(b, &got, 0, got.n, "");
    snprintf(command, sizeof command, "diff -u --label expected --label found %s %s", a, b);
    quote(report, "output differs", run_command(command, ".", t->tmp, opt.timeout).out);
    return false;
}

static bool check_file(const char *path, const char *tmp, FILE *report) {
    FileTest t = {.path = path};
    size_t n;
    char *text = read_file(path, &n);
    if (!text) return fprintf(report, "  cannot be read: %s\n", strerror(errno)), false;
    t.l = lines_of(text);
    snprintf(t.tmp, sizeof t.tmp, "%s", tmp);
    snprintf(t.dir, sizeof t.dir, "%s", path);
    char *slash = strrchr(t.dir, '/');
    t.base = slash ? strrchr(path, '/') + 1 : path;
    if (slash)
        slash[slash == t.dir] = 0;
    else
        strcpy(t.dir, ".");
    int exit_want = -1, n_errors = 0;
    for (t.output_at = 0; t.output_at < t.l.n; t.output_at++) {
        if (directive(t.l.v[t.output_at], "OUTPUT")) break;
        const char *code = directive(t.l.v[t.output_at], "EXIT");
        if (code) exit_want = atoi(code);
    }
    if (!run_lines(&t, report)) return false;
    bool ok = check_errors(&t, report, &n_errors);
    t.expects |= exit_want >= 0;
    if (exit_want < 0) exit_want = n_errors > 0;
    if (t.ran.status != exit_want) {
        if (t.ran.status < 0)
            fprintf(report, "  out of time after %d s: %s\n", opt.timeout, t.command);
        else
            fprintf(report, "  exit status %d, expected %d: %s\n", t.ran.status, exit_want,
                    t.command);
        ok = false;
    }
    ok = ok && check_lines(&t, report) && check_output(&t, report);
    if (ok && !t.expects)
        ok = false, fprintf(report, "  expects nothing: a test that cannot fail\n");
    if (!ok) {
        fprintf(report, "  command: %s\n", t.command);
        if (t.output_at == t.l.n) quote(report, "stdout", t.ran.out);
        quote(report, "stderr", t.ran.err);
    }
    return ok;
}

// --- Programs ------------------------------------------------------------------------------------
// Adds up what a program says of itself: our own closing line, or cmocka's, once a group.
static Counts count_output(const char *text) {
    Counts c = {0};
    char *copy = strdup(text);
    Lines l = lines_of(copy);
    for (int i = 0; i < l.n; i++) {
        const char *tests_at = strstr(l.v[i], " test(s)");
        int passed, failed, skipped = 0;
        if (sscanf(l.v[i], "%d passed, %d failed, %d skipped", &passed, &failed, &skipped) >= 2) {
            c.passed += passed;
            c.failed += failed;
            c.skipped += skipped;
        } else if (tests_at && l.v[i][0] == '[') {
            const char *digit = tests_at;
            while (digit > l.v[i] && digit[-1] >= '0' && digit[-1] <= '9') digit--;
            int *to = strstr(l.v[i], " PASSED ")    ? &c.passed
                      : strstr(l.v[i], " FAILED ")  ? &c.failed
                      : strstr(l.v[i], " SKIPPED ") ? &c.skipped
                                                    : NULL;
            if (to) *to += atoi(digit);
        }
    }
    free(copy);
    return c;
}

static Counts check_program(const Test *t, const char *tmp, FILE *report) {
    Ran r = run_command(t->command, ".", tmp, PROGRAM_TIMEOUT);
    Counts c = count_output(r.out), e = count_output(r.err); // cmocka writes failures to stderr
    c.passed += e.passed;
    c.failed += e.failed;
    c.skipped += e.skipped;
    if (r.status == 77) { // the convention of automake and ctest
        c = (Counts){0, 0, 1};
    } else if (r.status != 0 && c.failed == 0) {
        c.failed = 1;
        fprintf(report, r.status < 0 ? "  out of time\n" : "  exit status %d\n", r.status);
    } else if (r.status == 0 && c.passed + c.failed + c.skipped == 0) {
        c.passed = 1;
    }
    if (c.failed || r.status == 77) {
        fprintf(report, "  command: %s\n", t->command);
        quote(report, "stdout", r.out);
        quote(report, "stderr", r.err);
    }
    for (char *s = r.out; c.skipped && (s = strstr(s, "skipped: ")); s++)
        fprintf(report, "  %.*s\n", (int)strcspn(s, "\n"), s);
    return c;
}

// --- The list of tests ---------------------------------------------------------------------------
static void add_test(const char *name, const char *command) {
    if (opt.only && !strstr(name, opt.only)) return;
    tests = realloc(tests, sizeof *tests * (size_t)(n_tests + 1));
    tests[n_tests++] = (Test){.name = strdup(name), .command = command ? strdup(command) : NULL};
}

// In a directory, what has a RUN or an ERROR is a test; the rest are data of other tests.
static bool is_test_file(const char *path) {
    static const char *const ends[] = {".yaml", ".ssd", ".test"};
    const char *dot = strrchr(path, '.');
    size_t n;
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++) {
        char *text = strcmp(dot, ends[i]) ? NULL : read_file(path, &n);
        bool is = text && (strstr(text, "# RUN:") || strstr(text, "# ERROR"));
        free(text);
        if (is) return true;
    }
    return false;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void add_item(const char *item) {
    struct stat st;
    if (item[0] == '@') {
        size_t n;
        char *text = read_file(item + 1, &n);
        if (!text) die("cannot read", item + 1);
        Lines l = lines_of(text);
        for (int i = 0; i < l.n; i++) {
            char name[256];
            int used = 0;
            if (sscanf(l.v[i], "run %255s %n", name, &used) == 1 && used)
                add_test(name, l.v[i] + used);
            else if (*l.v[i])
                add_item(l.v[i]);
            free(l.v[i]);
        }
        free(l.v);
        free(text);
    } else if (stat(item, &st) != 0) {
        die("cannot read", item);
    } else if (S_ISDIR(st.st_mode)) {
        struct dirent **v;
        int n = scandir(item, &v, NULL, by_name);
        for (int i = 0; i < n; i++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", item, v[i]->d_name);
            bool there = v[i]->d_name[0] != '.' && stat(path, &st) == 0;
            if (there && (S_ISDIR(st.st_mode) || is_test_file(path))) add_item(path);
            free(v[i]);
        }
        if (n >= 0) free(v);
    } else {
        add_test(item, NULL);
    }
}

// --- Workers -------------------------------------------------------------------------------------
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void work(const Test *t, int to) {
    char tmp[256], *report, cache[300];
    size_t n;
    snprintf(tmp, sizeof tmp, "%s/ssdc-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    FILE *f = open_memstream(&report, &n);
    if (!mkdtemp(tmp)) die("cannot make", tmp);
    snprintf(cache, sizeof cache, "%s/cache", tmp);
    setenv("SSD_CACHE_DIR", cache, 1);
    setenv("SSD_TEST_TMP", tmp, 1);
    Counts c = {0};
    if (t->command)
        c = check_program(t, tmp, f);
    else if (check_file(t->name, tmp, f))
        c.passed = 1;
    else
        c.failed = 1;
    fclose(f);
    nftw(tmp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    FILE *pipe = fdopen(to, "w");
    fwrite(&c, sizeof c, 1, pipe);
    fwrite(report, 1, n, pipe);
    fclose(pipe);
    _exit(0);
}

static void finish(Test *t, FILE *from) {
    Counts c = {0, 1, 0}; // a worker that died
    size_t n;
    FILE *f = open_memstream(&t->report, &n);
    if (fread(&c, sizeof c, 1, from) != 1) fprintf(f, "  the runner's worker died\n");
    for (int ch; (ch = getc(from)) != EOF;) putc(ch, f);
    fclose(f);
    fclose(from);
    t->passed = c.passed;
    t->failed = c.failed;
    t->skipped = c.skipped;
    t->done = true;
}

static void print_test(const Test *t) {
    const char *word = t->failed ? "FAIL" : t->skipped && !t->passed ? "skip" : "ok";
    if (opt.verbose || t->failed || *t->report)
        printf("%-4s %s (%.1f s)\n%s", word, t->name, t->seconds, t->report);
    fflush(stdout);
}

// Starts workers as slots come free, prints results in the order of the list.
static void run_all(void) {
    struct {
        int test, fd;
        pid_t pid;
    } slot[MAX_JOBS];
    int busy = 0, next = 0, printed = 0;
    while (next < n_tests || busy) {
        for (; busy < opt.jobs && next < n_tests; next++, busy++) {
            int p[2];
            if (pipe2(p, O_CLOEXEC) != 0) die("cannot run", tests[next].name);
            fflush(stdout);
            tests[next].seconds = -now();
            slot[busy].test = next;
            slot[busy].fd = p[0];
            slot[busy].pid = fork();
            if (slot[busy].pid == 0) work(&tests[next], p[1]);
            close(p[1]);
        }
        struct pollfd fds[MAX_JOBS];
        for (int i = 0; i < busy; i++) fds[i] = (struct pollfd){slot[i].fd, POLLIN, 0};
        if (poll(fds, (nfds_t)busy, -1) < 0 && errno != EINTR) die("poll", "workers");
        for (int i = busy - 1; i >= 0; i--) {
            if (!fds[i].revents) continue;
            Test *t = &tests[slot[i].test];
            finish(t, fdopen(slot[i].fd, "r"));
            waitpid(slot[i].pid, NULL, 0);
            t->seconds += now();
            slot[i] = slot[--busy];
        }
        while (printed < n_tests && tests[printed].done) print_test(&tests[printed++]);
    }
}

// A command's directory goes to the front of PATH, so that tests say `ssdc`.
static void find_ssdc(const char *argv0) {
    char dir[4096], path[8400];
    if (opt.ssdc)
        snprintf(dir, sizeof dir, "%s", opt.ssdc);
    else if (!realpath(argv0, dir))
        return;
    char *slash = strrchr(dir, '/');
    if (!slash) return;
    *slash = 0;
    char *full = realpath(dir, NULL);
    snprintf(path, sizeof path, "%s:%s", full ? full : dir, getenv("PATH"));
    setenv("PATH", path, 1);
    free(full);
}

int main(int argc, char **argv) {
    int i = 1;
    for (; i < argc && !strncmp(argv[i], "--", 2); i++) {
        const char *o = argv[i] + 2, *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(o, "update"))
            opt.update = true;
        else if (!strcmp(o, "verbose"))
            opt.verbose = true;
        else if (!v)
            break;
        else if (i++, !strcmp(o, "ssdc"))
            opt.ssdc = v;
        else if (!strcmp(o, "only"))
            opt.only = v;
        else if (!strcmp(o, "jobs"))
            opt.jobs = atoi(v);
        else if (!strcmp(o, "timeout"))
            opt.timeout = atoi(v);
        else
            i = argc + 1;
    }
    if (i >= argc || opt.jobs < 1 || opt.jobs > MAX_JOBS || opt.timeout < 1) {
        fprintf(
            stderr,
            "usage: check [--ssdc PATH] [--jobs N] [--timeout SECONDS] [--update] [--only TEXT] "
            "[--verbose] FILE|DIRECTORY|@LIST...\n");
        return 2;
    }
    find_ssdc(argv[0]);
    setenv("NO_COLOR", "1", 1);
    setenv("LC_ALL", "C", 1);
    // LeakSanitizer mistakes the thread-local memory of libraries opened late (LLVM) for something
    // else, by its address, and dies of it: github.com/google/sanitizers/issues/1322.
    setenv("ASAN_OPTIONS", "intercept_tls_get_addr=0", 0);
    signal(SIGPIPE, SIG_IGN);
    for (; i < argc; i++) add_item(argv[i]);
    run_all();
    int passed = 0, failed = 0, skipped = 0;
    for (int k = 0; k < n_tests; k++) {
        passed += tests[k].passed;
        failed += tests[k].failed;
        skipped += tests[k].skipped;
    }
    if (skipped) printf("%d skipped\n", skipped);
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}
