// SPDX-License-Identifier: Apache-2.0
// Faults of the world outside, through ssd.h: damaged, foreign and racing cache entries,
// directories that cannot be written, a full disk, no compiler allowed. The caller gets a kernel or
// a status with a message, and no partial file stays behind.
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char text[] = "ssdc: 1\n"
                           "name: faults\n"
                           "dims: {heads: 2, head_dim: 4, state_size: 4}\n"
                           "inputs:\n"
                           "  q: f32[b, t, h, n]\n"
                           "  k: f32[b, t, h, n]\n"
                           "  v: f32[b, t, h, p]\n"
                           "ssd: {query: q, key: k, value: v, mask: causal}\n"
                           "outputs:\n"
                           "  y: f32[b, t, h, p] = ssd\n";
static char root[256];

static ssd_context *open_cache(const char *dir) {
    ssd_context *cx = NULL;
    check(ssd_context_create(&(ssd_context_options){1, dir}, &cx) == SSD_OK, "context: %s",
          ssd_last_error());
    return cx;
}

static ssd_status get(ssd_context *cx, const char *schedule, ssd_kernel **out) {
    return ssd_compile(
        cx, &(ssd_compile_options){.spec = text, .schedule = schedule, .absent = "h0 hT"}, out);
}

// The kernel computes what it should: causal linear attention over ones counts tokens.
static bool works(ssd_kernel *k) {
    enum { T = 5 };
    float ones[T * 8], y[T * 8];
    const i64 dims[4] = {1, T, 2, 4};
    for (int i = 0; i < T * 8; i++) ones[i] = 1, y[i] = -1;
    const ssd_tensor in = ssd_tensor_dense(ones, SSD_F32, 4, dims),
                     out = ssd_tensor_dense(y, SSD_F32, 4, dims);
    if (ssd_launch(k, (ssd_arg[]){{"q", in}, {"k", in}, {"v", in}, {"y", out}}, 4, NULL, 0) !=
        SSD_OK)
        return false;
    for (int i = 0; i < T * 8; i++)
        if (y[i] != (float)(4 * (i / 8 + 1))) return false;
    return true;
}

// Compiles in a fresh context on `dir`; checks origin (NULL: any) and result, returns whether there
// was a warning.
static bool expect_kernel(const char *dir, const char *origin) {
    ssd_context *cx = open_cache(dir);
    ssd_kernel *k = NULL;
    ssd_status s = get(cx, NULL, &k);
    bool warned = false;
    if (check(s == SSD_OK && k, "%s: %s", ssd_status_name(s), ssd_last_error())) {
        check(!origin || !strcmp(ssd_kernel_origin(k), origin), "origin %s, expected %s",
              ssd_kernel_origin(k), origin);
        check(works(k), "wrong result");
        warned = ssd_context_warning(cx)[0] != 0;
    }
    ssd_kernel_destroy(k);
    ssd_context_destroy(cx);
    return warned;
}

static const char *sub(const char *name) {
    static char path[16][512];
    static int turn;
    char *p = path[turn++ % 16];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

// Counts files of a directory by kind; *entry (when not NULL) is the path of an entry.
static void count_files(const char *dir, int *entries, int *others, char *entry) {
    *entries = *others = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (e->d_name[0] == '.' && (n == 1 || (n == 2 && e->d_name[1] == '.'))) continue;
        bool is = n > 5 && !strcmp(e->d_name + n - 5, ".ssda");
        ++*(is ? entries : others);
        if (is && entry) snprintf(entry, 1024, "%s/%s", dir, e->d_name);
    }
    if (d) closedir(d);
}

static void expect_files(const char *dir, int want) {
    int entries, others;
    count_files(dir, &entries, &others, NULL);
    check(entries == want && others == 0,
          "%d entries (expected %d) and %d other files in the cache", entries, want, others);
}

static void put_file(const char *path, const u8 *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check(fd >= 0 && write(fd, data, n) == (ssize_t)n, "cannot write %s", path);
    close(fd);
}

static size_t get_file(const char *path, u8 *data, size_t room) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, data, room);
    if (fd >= 0) close(fd);
    return n > 0 ? (size_t)n : 0;
}

// --- Damage -------------------------------------------------------------------------------------
static void test_damage(void) {
    static u8 good[1 << 20], bad[1 << 20];
    const char *dir = sub("damage");
    char entry[1024] = "";
    int entries, others;
    label("cache");
    check(!expect_kernel(dir, "compiled"), "a warning without a fault");
    check(!expect_kernel(dir, "cache"), "a warning without a fault");
    count_files(dir, &entries, &others, entry);
    size_t n = get_file(entry, good, sizeof good);
    if (!check(n > 100 && n < sizeof good, "no entry")) return;
    ssd_context *cx = open_cache("");
    for (int i = 0; i < 40; i++) {
        size_t len = n, at = (size_t)i * n / 30;
        memcpy(bad, good, n);
        if (i < 30)
            bad[at] ^= (u8)(1 << i % 8); // one bit, all over the file
        else if (i < 38)
            len = n * (size_t)(i - 30) / 8 + (i > 30 ? 3 : 0); // truncated
        else if (i == 38)
            len = n + 100; // garbage behind
        else
            memset(bad + 8, 0xff, 16); // sizes beyond all bounds
        label("cache, damage %d (byte %zu, length %zu of %zu)", i, at, len, n);
        put_file(entry, bad, len);
        ssd_kernel *k = (ssd_kernel *)&cx;
        ssd_status s = ssd_kernel_load(cx, entry, &k);
        check(s != SSD_OK && !k && strstr(ssd_last_error(), entry), "loaded, or unnamed: %s",
              ssd_last_error());
        check(expect_kernel(dir, "compiled"), "no warning");
        expect_files(dir, 1);
        check(!expect_kernel(dir, "cache"), "the entry was not replaced");
    }
    label("cache, load by path");
    put_file(entry, good, n);
    ssd_kernel *k = NULL;
    check(ssd_kernel_load(cx, entry, &k) == SSD_OK && k && works(k), "%s", ssd_last_error());
    check(k && !strcmp(ssd_kernel_origin(k), "file"), "origin");
    ssd_kernel_destroy(k);
    ssd_context_destroy(cx);

    label("cache, entry writable by others");
    chmod(entry, 0666);
    check(expect_kernel(dir, "compiled"), "no warning");
    if (geteuid() == 0) {
        label("cache, entry of another user");
        check(chown(entry, 12345, 12345) == 0, "chown");
        check(expect_kernel(dir, "compiled"), "no warning");
    }
    label("cache, entry is a symbolic link");
    check(rename(entry, sub("elsewhere")) == 0 && symlink(sub("elsewhere"), entry) == 0, "symlink");
    check(expect_kernel(dir, "compiled"), "no warning");
    label("cache, entry is a directory");
    unlink(entry);
    check(mkdir(entry, 0700) == 0, "mkdir");
    check(expect_kernel(dir, "compiled"), "no warning");
    rmdir(entry);
}

// --- Places that cannot be written --------------------------------------------------------------
static void test_places(void) {
    label("cache under a file");
    put_file(sub("file"), (const u8 *)"x", 1);
    check(expect_kernel(sub("file/cache"), "compiled"), "no warning");
    label("cache where nothing can be made");
    check(expect_kernel("/proc/ssdc-cache", "compiled"), "no warning");
    label("cache with a very long name");
    char longer[8192] = "/tmp/";
    memset(longer + 5, 'a', sizeof longer - 6);
    check(expect_kernel(longer, "compiled"), "no warning");
    label("no cache");
    check(!expect_kernel("", "compiled"), "a warning");
    label("cache, deep and new");
    expect_kernel(sub("a/b/c/d"), "compiled");
    expect_kernel(sub("a/b/c/d"), "cache");
    label("no home");
    static const char *const names[] = {"SSD_CACHE_DIR", "XDG_CACHE_HOME", "HOME"};
    char *old[3];
    for (int i = 0; i < 3; i++) {
        old[i] = getenv(names[i]) ? strdup(getenv(names[i])) : NULL;
        unsetenv(names[i]);
    }
    expect_kernel(NULL, "compiled");
    setenv("XDG_CACHE_HOME", sub("xdg"), 1);
    label("XDG_CACHE_HOME");
    expect_kernel(NULL, "compiled");
    expect_files(sub("xdg/ssdc"), 1);
    setenv("SSD_CACHE_DIR", sub("own"), 1);
    label("SSD_CACHE_DIR");
    expect_kernel(NULL, "compiled");
    expect_files(sub("own"), 1);
    for (int i = 0; i < 3; i++) {
        if (old[i])
            setenv(names[i], old[i], 1);
        else
            unsetenv(names[i]);
        free(old[i]);
    }
}

// --- A full disk --------------------------------------------------------------------------------
// In a child of its own: a limit on file sizes, then a file system of 16 KB that is full. Exit
// status 0: as it should be; 77: mounting is not allowed here.
static int child_limited(void) {
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, 1000});
    bool ok = expect_kernel(sub("limited"), "compiled");
    int entries, others;
    count_files(sub("limited"), &entries, &others, NULL);
    return ok && !entries && !others && !failures() ? 0 : 1;
}

static int child_tmpfs(void) {
    const char *dir = sub("small");
    mkdir(dir, 0700);
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", dir, "tmpfs", 0, "size=16k"))
        return 77;
    char fill[600];
    snprintf(fill, sizeof fill, "%s/fill", dir);
    static u8 page[4096];
    int fd = open(fill, O_WRONLY | O_CREAT, 0600);
    while (write(fd, page, sizeof page) > 0) {}
    if (errno != ENOSPC) return 2;
    close(fd);
    bool ok = expect_kernel(dir, "compiled");
    int entries, others;
    count_files(dir, &entries, &others, NULL);
    return ok && entries == 0 && others == 1 && !failures() ? 0 : 1;
}

static int in_child(int (*run)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int s = run();
        fflush(stdout);
        _exit(s);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_full_disk(void) {
    label("limit on file sizes");
    check(in_child(child_limited) == 0, "not as a full disk should be");
    label("full disk");
    int s = in_child(child_tmpfs);
    if (s == 77)
        skip("mounting a tmpfs is not allowed here: %s", strerror(EPERM));
    else
        check(s == 0, "status %d", s);
}

// --- Races and bans -----------------------------------------------------------------------------
static void test_race(void) {
    enum { N = 4, ROUNDS = 3 };
    for (int round = 0; round < ROUNDS; round++) {
        char name[32];
        pid_t pid[N];
        snprintf(name, sizeof name, "race%d", round);
        const char *dir = sub(name);
        label("%d processes compile the same spec", N);
        int go[2];
        check(pipe(go) == 0, "pipe");
        fflush(stdout);
        for (int i = 0; i < N; i++)
            if ((pid[i] = fork()) == 0) {
                char c;
                close(go[1]);
                ssize_t none = read(go[0], &c, 1); // all start when the parent closes its end
                ssd_context *cx = NULL;
                ssd_kernel *k = NULL;
                bool ok = none == 0 &&
                          ssd_context_create(&(ssd_context_options){1, dir}, &cx) == SSD_OK &&
                          get(cx, NULL, &k) == SSD_OK && works(k) && !ssd_context_warning(cx)[0];
                _exit(!ok);
            }
        close(go[0]);
        close(go[1]);
        for (int i = 0; i < N; i++) {
            int status;
            waitpid(pid[i], &status, 0);
            check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "process %d: status %#x", i,
                  status);
        }
        expect_files(dir, 1);
        check(!expect_kernel(dir, "cache"), "a warning");
    }
}

static void test_jit_off(void) {
    const char *dir = sub("jit");
    label("SSD_JIT=off");
    expect_kernel(dir, "compiled");
    setenv("SSD_JIT", "off", 1);
    expect_kernel(dir, "cache");
    ssd_context *cx = open_cache(dir);
    ssd_kernel *k = (ssd_kernel *)&cx;
    ssd_status s = get(cx, "form=recurrent", &k);
    check(s == SSD_JIT_OFF && !k, "status %s", ssd_status_name(s));
    check(strstr(ssd_last_error(), "SSD_JIT") && strstr(ssd_last_error(), "faults"),
          "message \"%s\"", ssd_last_error());
    unsetenv("SSD_JIT");
    check(get(cx, "form=recurrent", &k) == SSD_OK && works(k), "%s", ssd_last_error());
    ssd_kernel_destroy(k);
    ssd_context_destroy(cx);
}

// --- Several threads on one context and one kernel ----------------------------------------------
typedef struct Caller {
    ssd_context *cx;
    ssd_kernel *k;
    int id;
    bool ok;
} Caller;

// Launches rightly, wrongly (each thread has its own message) and compiles, in turns.
static void *call_often(void *ctx) {
    Caller *c = ctx;
    char schedule[32];
    c->ok = true;
    snprintf(schedule, sizeof schedule, "form=chunked q=%d", 3 + c->id);
    for (int i = 0; i < 60; i++) {
        c->ok &= works(c->k) && !ssd_last_error()[0];
        ssd_arg wrong = {c->id % 2 ? "odd" : "even", {0}};
        c->ok &= ssd_launch(c->k, &wrong, 1, NULL, 0) == SSD_INVALID_ARGUMENT &&
                 strstr(ssd_last_error(), wrong.name);
        if (i % 20) continue;
        ssd_kernel *own = NULL;
        c->ok &= get(c->cx, schedule, &own) == SSD_OK && works(own);
        ssd_kernel_destroy(own);
    }
    return NULL;
}

static void test_threads(void) {
    enum { N = 4 };
    label("%d threads", N);
    Caller c[N];
    pthread_t id[N];
    ssd_context *cx = NULL;
    ssd_kernel *k = NULL;
    if (!check(ssd_context_create(&(ssd_context_options){2, sub("threads")}, &cx) == SSD_OK &&
                   get(cx, NULL, &k) == SSD_OK,
               "%s", ssd_last_error()))
        return;
    for (int i = 0; i < N; i++) {
        c[i] = (Caller){cx, k, i, false};
        check(pthread_create(&id[i], NULL, call_often, &c[i]) == 0, "no thread");
    }
    for (int i = 0; i < N; i++) {
        pthread_join(id[i], NULL);
        check(c[i].ok, "thread %d saw a wrong result, status or message", i);
    }
    ssd_kernel_destroy(k);
    ssd_context_destroy(cx);
}

static void test_size_cap(void) {
    const char *dir = sub("cap");
    label("SSD_CACHE_MAX");
    setenv("SSD_CACHE_MAX", "1", 1);
    for (int q = 1; q <= 3; q++) {
        char schedule[32];
        snprintf(schedule, sizeof schedule, "form=chunked q=%d", q);
        ssd_context *cx = open_cache(dir);
        ssd_kernel *k = NULL;
        check(get(cx, schedule, &k) == SSD_OK && works(k), "%s", ssd_last_error());
        ssd_kernel_destroy(k);
        ssd_context_destroy(cx);
    }
    unsetenv("SSD_CACHE_MAX");
}

int main(void) {
    const char *tmp = getenv("SSD_TEST_TMP");
    snprintf(root, sizeof root, "%s/faults-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) return 2;
    test_damage();
    test_places();
    test_full_disk();
    test_race();
    test_jit_off();
    test_size_cap();
    test_threads();
    char clean[300];
    snprintf(clean, sizeof clean, "rm -rf '%s'", root);
    if (system(clean) != 0) printf("cannot remove %s\n", root);
    return closing_line();
}
