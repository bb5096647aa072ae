// SPDX-License-Identifier: Apache-2.0
// The disk cache: round trip, every kind of damage is a miss, unusable directories, full disks,
// races.
#include "test.h"

#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char root[] = "/tmp/ssd-cache-test-XXXXXX";
static const char meta[] =
    "ssdc-artifact 1\nprogram p forward cpu-x86-64-v2\nschedule q=64\nsym b x 0\n"
    "param x in f32 b\nparam y out f32 b\nplan always\nkernel k b 64\n";
static const char key[] = "ssdc key 1\nspec\nname: p\n";
enum { KEY_LEN = sizeof key - 1 };

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st, (void)flag, (void)at;
    return remove(path);
}

static const char *fresh_dir(Arena *a, const char *name) {
    char *dir = ssd_arena_printf(a, "%s/%s", root, name);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return dir;
}

static Artifact sample(Arena *a, size_t code_size) {
    Artifact art;
    Text why = {0};
    CHECK(ssd_artifact_parse(a, meta, sizeof meta - 1, &art, &why));
    u8 *code = ssd_arena_alloc(a, code_size);
    for (size_t i = 0; i < code_size; i++) code[i] = (u8)(i * 7);
    art.code = code;
    art.code_size = code_size;
    return art;
}

static bool get(Cache *c, const char *k, size_t n) {
    Arena a = {0};
    Artifact art;
    c->warning[0] = 0;
    bool hit = ssd_cache_get(c, &a, k, n, &art);
    if (hit) {
        bool same = (uintptr_t)art.code % 64 == 0 && !strcmp(art.program, "p");
        for (size_t i = 0; i < art.code_size; i++)
            same = same && ((const u8 *)art.code)[i] == (u8)(i * 7);
        CHECK(same);
    }
    ssd_arena_free(&a);
    return hit;
}

static const char *only_entry(Cache *c, Arena *a) {
    CacheEntry *e;
    if (!CHECK(ssd_cache_list(c, a, &e) == 1)) return "";
    return ssd_arena_printf(a, "%s/%s", c->dir, e[0].name);
}

static int count_files(const char *dir, Arena *a) {
    Cache c;
    CacheEntry *e;
    ssd_cache_open(&c, a, dir);
    return ssd_cache_list(&c, a, &e);
}

static bool has_tmp(const char *dir) {
    Text cmd = {0};
    ssd_text_printf(&cmd, "ls -A '%s' 2>/dev/null | grep -q '^.tmp-'", dir);
    bool found = system(cmd.s) == 0;
    ssd_text_free(&cmd);
    return found;
}

static void round_trip(void) {
    Arena a = {0};
    Cache c;
    ssd_cache_open(&c, &a, fresh_dir(&a, "deep/er/dir"));
    CHECK(c.dir && !c.warning[0]);
    struct stat st;
    CHECK(!stat(c.dir, &st) && (st.st_mode & 0777) == 0700);
    CHECK(!get(&c, key, KEY_LEN) && !c.warning[0]);
    Artifact art = sample(&a, 1000);
    ssd_cache_put(&c, key, KEY_LEN, &art);
    CHECK_SAME(c.warning, "");
    CHECK(get(&c, key, KEY_LEN) && !c.warning[0]);
    CHECK(!get(&c, key, KEY_LEN - 1) && !c.warning[0]);
    const char *path = only_entry(&c, &a);
    CHECK(!stat(path, &st) && (st.st_mode & 0777) == 0600);

    Artifact back;
    const char *k;
    Text why = {0};
    CHECK(ssd_cache_read(&a, path, &back, &k, &why) && back.code_size == 1000);
    CHECK_SAME(k, key);
    CacheEntry *e;
    CHECK(ssd_cache_list(&c, &a, &e) == 1 && e->ok && e->bytes == st.st_size);
    CHECK_SAME(e->target, "cpu-x86-64-v2");
    CHECK(!ssd_cache_remove(&c, "../x.ssda") && !ssd_cache_remove(&c, ""));
    CHECK(ssd_cache_remove(&c, e->name) && !get(&c, key, KEY_LEN));

    nftw(c.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); // somebody removes all of it
    ssd_cache_put(&c, key, KEY_LEN, &art);
    CHECK(get(&c, key, KEY_LEN));

    Cache off;
    ssd_cache_open(&off, &a, "");
    CHECK(!off.dir && !get(&off, key, KEY_LEN));
    ssd_cache_put(&off, key, KEY_LEN, &art);
    CHECK(ssd_cache_list(&off, &a, &e) == 0);
    ssd_cache_gc(&off, 0);
    ssd_arena_free(&a);
}

static void default_directory(void) {
    Arena a = {0};
    Cache c;
    char *saved[3];
    static const char *const names[] = {"SSD_CACHE_DIR", "XDG_CACHE_HOME", "HOME"};
    for (int i = 0; i < 3; i++) saved[i] = getenv(names[i]) ? strdup(getenv(names[i])) : NULL;
    setenv("SSD_CACHE_DIR", ssd_arena_printf(&a, "%s/one", root), 1);
    setenv("XDG_CACHE_HOME", ssd_arena_printf(&a, "%s/two", root), 1);
    setenv("HOME", ssd_arena_printf(&a, "%s/three", root), 1);
    ssd_cache_open(&c, &a, NULL);
    CHECK_HOLDS(c.dir, "/one");
    unsetenv("SSD_CACHE_DIR");
    ssd_cache_open(&c, &a, NULL);
    CHECK_HOLDS(c.dir, "/two/ssdc");
    setenv("XDG_CACHE_HOME", "relative", 1);
    ssd_cache_open(&c, &a, NULL);
    CHECK_HOLDS(c.dir, "/three/.cache/ssdc");
    unsetenv("HOME");
    ssd_cache_open(&c, &a, NULL);
    CHECK(!c.dir);
    for (int i = 0; i < 3; i++) {
        if (saved[i])
            setenv(names[i], saved[i], 1);
        else
            unsetenv(names[i]);
        free(saved[i]);
    }
    ssd_arena_free(&a);
}

// Each byte of an entry flipped, and each length cut: always a miss.
static void damage(void) {
    Arena a = {0};
    Cache c;
    ssd_cache_open(&c, &a, fresh_dir(&a, "damage"));
    Artifact art = sample(&a, 200);
    ssd_cache_put(&c, key, KEY_LEN, &art);
    const char *path = only_entry(&c, &a);
    size_t n;
    char *good = test_read_file(path, &n), *bad = malloc(n + 1);
    for (size_t i = 0; i < 2 * n; i++) {
        memcpy(bad, good, n);
        if (i < n) bad[i] ^= (char)(1 << i % 8);
        test_write_file(path, bad, i < n ? n : i - n);
        CHECK(!get(&c, key, KEY_LEN));
        CHECK_HOLDS(c.warning, "is ignored: ");
    }
    memcpy(bad, good, n);
    bad[n] = 'x';
    test_write_file(path, bad, n + 1);
    CHECK(!get(&c, key, KEY_LEN));
    CacheEntry *e;
    CHECK(ssd_cache_list(&c, &a, &e) == 1 && !e->ok);
    ssd_cache_put(&c, key, KEY_LEN, &art); // heals
    CHECK(get(&c, key, KEY_LEN));

    // A whole and valid entry under another's name.
    const char *other = "another key";
    ssd_cache_put(&c, other, strlen(other), &art);
    CHECK(ssd_cache_list(&c, &a, &e) == 2);
    const char *p0 = ssd_arena_printf(&a, "%s/%s", c.dir, e[0].name);
    const char *p1 = ssd_arena_printf(&a, "%s/%s", c.dir, e[1].name);
    CHECK(!rename(p0, p1));
    CHECK(get(&c, key, KEY_LEN) + get(&c, other, strlen(other)) == 0);
    CHECK_HOLDS(ssd_cache_list(&c, &a, &e) == 1 && !e->ok ? "listed as bad" : "listed as good",
                "bad");
    free(good);
    free(bad);
    ssd_arena_free(&a);
}

static void foreign(void) {
    Arena a = {0};
    Cache c;
    ssd_cache_open(&c, &a, fresh_dir(&a, "foreign"));
    Artifact art = sample(&a, 64);
    ssd_cache_put(&c, key, KEY_LEN, &art);
    const char *path = only_entry(&c, &a);
    CHECK(!chmod(path, 0620) && !get(&c, key, KEY_LEN));
    CHECK_HOLDS(c.warning, "others own it or may write it");
    CHECK(!chmod(path, 0600) && get(&c, key, KEY_LEN));
    if (!geteuid()) {
        CHECK(!chown(path, 65534, (gid_t)-1) && !get(&c, key, KEY_LEN));
        CHECK_HOLDS(c.warning, "others own it");
        CHECK(!chown(path, 0, (gid_t)-1));
    } else {
        test_skip("an entry of another user", "not root");
    }
    const char *moved = ssd_arena_printf(&a, "%s/moved", c.dir);
    CHECK(!rename(path, moved) && !symlink(moved, path) && !get(&c, key, KEY_LEN) && c.warning[0]);
    CHECK(!unlink(path) && !mkdir(path, 0700) && !get(&c, key, KEY_LEN) && c.warning[0]);
    ssd_cache_put(&c, key, KEY_LEN, &art); // cannot replace a directory
    CHECK_HOLDS(c.warning, "cannot write to the cache");
    CHECK(!has_tmp(c.dir));
    CHECK(!rmdir(path) && !mkfifo(path, 0600) && !get(&c, key, KEY_LEN) && c.warning[0]);
    ssd_arena_free(&a);
}

static void unusable_directories(void) {
    Arena a = {0};
    Cache c;
    Artifact art = sample(&a, 64);
    const char *file = ssd_arena_printf(&a, "%s/file", root);
    test_write_file(file, "x", 1);
    ssd_cache_open(&c, &a, file);
    CHECK(!c.dir);
    CHECK_HOLDS(c.warning, "working without it");
    ssd_cache_open(&c, &a, ssd_arena_printf(&a, "%s/sub", file));
    CHECK(!c.dir && c.warning[0]);

    ssd_cache_open(&c, &a, fresh_dir(&a, "readonly"));
    ssd_cache_put(&c, key, KEY_LEN, &art);
    CHECK(!chmod(c.dir, 0500));
    pid_t child = fork();
    if (!child) { // root may write anywhere, so somebody else tries
        bool root_user = !geteuid();
        if (root_user && (chown(c.dir, 65534, 65534) || chmod(root, 0755) || seteuid(65534)))
            _exit(2);
        ssd_cache_put(&c, "k2", 2, &art);
        _exit(strstr(c.warning, "cannot write to the cache") ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ssd_arena_free(&a);
}

static void full_disk(void) {
    Arena a = {0};
    Artifact big = sample(&a, 300000);
    const char *dir = fresh_dir(&a, "limit");
    // A file-size limit stops a write in its middle on every system.
    pid_t child = fork();
    if (!child) {
        Cache c;
        ssd_cache_open(&c, &a, dir);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){65536, 65536});
        ssd_cache_put(&c, key, KEY_LEN, &big);
        _exit(strstr(c.warning, "cannot write") && !get(&c, key, KEY_LEN) ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(count_files(dir, &a) == 0 && !has_tmp(dir));

    const char *mnt = fresh_dir(&a, "mnt");
    CHECK(!mkdir(mnt, 0700));
    child = fork();
    if (!child) {
        if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS)) _exit(77);
        mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL);
        if (mount("tmpfs", mnt, "tmpfs", 0, "size=64k")) _exit(77);
        Cache c;
        ssd_cache_open(&c, &a, mnt);
        ssd_cache_put(&c, key, KEY_LEN, &big);
        bool warned = strstr(c.warning, "No space left") != NULL;
        bool clean = !get(&c, key, KEY_LEN) && !has_tmp(mnt);
        Artifact small = sample(&a, 64);
        c.warning[0] = 0;
        ssd_cache_put(&c, key, KEY_LEN, &small); // what fits still works
        _exit(warned && clean && get(&c, key, KEY_LEN) ? 0 : 1);
    }
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        test_skip("a full tmpfs", "mounting is not permitted");
    else
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ssd_arena_free(&a);
}

static void least_recently_used(void) {
    Arena a = {0};
    Cache c;
    CacheEntry *e;
    ssd_cache_open(&c, &a, fresh_dir(&a, "lru"));
    Artifact art = sample(&a, 10000);
    i64 now = time(NULL), bytes = 0;
    for (int i = 0; i < 8; i++) {
        char k[2] = {(char)('a' + i)};
        ssd_cache_put(&c, k, 1, &art);
    }
    int n = ssd_cache_list(&c, &a, &e);
    CHECK(n == 8);
    for (int i = 0; i < n; i++) {
        struct timespec t[2] = {{now - 100000 * (i + 1), 0}, {now - 100000 * (i + 1), 0}};
        CHECK(!utimensat(AT_FDCWD, ssd_arena_printf(&a, "%s/%s", c.dir, e[i].name), t, 0));
        bytes = e[i].bytes;
    }
    // A hit makes an old entry young.
    char oldest[40], k[2] = "";
    strcpy(oldest, e[n - 1].name);
    for (int i = 0; i < 8; i++) {
        k[0] = (char)('a' + i);
        struct stat st;
        CHECK(get(&c, k, 1));
        CHECK(!stat(ssd_arena_printf(&a, "%s/%s", c.dir, oldest), &st));
        if (st.st_mtime > now - 100) break;
    }
    char kept = k[0];
    n = ssd_cache_list(&c, &a, &e);
    for (int i = 0; i < n; i++) { // the others old again
        struct timespec t[2] = {{now - 100000, 0}, {now - 100000, 0}};
        if (strcmp(e[i].name, oldest))
            utimensat(AT_FDCWD, ssd_arena_printf(&a, "%s/%s", c.dir, e[i].name), t, 0);
    }
    const char *stale = ssd_arena_printf(&a, "%s/.tmp-1-2-3", c.dir);
    test_write_file(stale, "x", 1);
    struct timespec t[2] = {{now - 100000, 0}, {now - 100000, 0}};
    CHECK(!utimensat(AT_FDCWD, stale, t, 0));
    const char *strange = ssd_arena_printf(&a, "%s/README", c.dir);
    test_write_file(strange, "x", 1);

    ssd_cache_gc(&c, 3 * bytes);
    n = ssd_cache_list(&c, &a, &e);
    CHECK(n == 3);
    k[0] = kept;
    CHECK(get(&c, k, 1));
    CHECK(access(stale, F_OK) && !access(strange, F_OK));
    ssd_cache_gc(&c, 0);
    CHECK(ssd_cache_list(&c, &a, &e) == 0);

    setenv("SSD_CACHE_MAX", "25000", 1); // two entries; looked at now and then
    for (int i = 0; i < 40; i++) ssd_cache_put(&c, ssd_arena_printf(&a, "many %d", i), 7, &art);
    n = ssd_cache_list(&c, &a, &e);
    CHECK(n >= 1 && n <= 2 + 16);
    unsetenv("SSD_CACHE_MAX");
    ssd_arena_free(&a);
}

static void races(void) {
    Arena a = {0};
    Cache c;
    const char *dir = fresh_dir(&a, "race");
    ssd_cache_open(&c, &a, dir);
    pid_t child[3];
    for (int p = 0; p < 3; p++) {
        child[p] = fork();
        if (child[p]) continue;
        Artifact art = sample(&a, 20000);
        int bad = 0, hits = 0, before = failed;
        for (int i = 0; i < 200; i++) {
            c.warning[0] = 0;
            ssd_cache_put(&c, key, KEY_LEN, &art);
            bad += c.warning[0] != 0;
            hits += get(&c, key, KEY_LEN);
            bad += c.warning[0] != 0; // a torn entry would warn
            if (p == 2 && i % 20 == 0) ssd_cache_gc(&c, 0);
        }
        _exit(bad || failed > before || hits < 50);
    }
    for (int p = 0; p < 3; p++) {
        int status = -1;
        waitpid(child[p], &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(!has_tmp(dir));
    ssd_arena_free(&a);
}

int main(void) {
    if (!CHECK(mkdtemp(root) != NULL)) return test_end();
    round_trip();
    default_directory();
    damage();
    foreign();
    unusable_directories();
    full_disk();
    least_recently_used();
    races();
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return test_end();
}
