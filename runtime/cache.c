// SPDX-License-Identifier: Apache-2.0
// See cache.h. An entry is trusted only after its owner, permissions, sizes, both checksums and its
// key have been checked; what is then parsed is parsed as if it were hostile all the same.
#include "cache.h"
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEADER = 56, HEX = 32, HOUR = 3600, GC_EVERY = 16 };
static const char suffix[] = ".ssda", tmp_prefix[] = ".tmp-";
static const i64 entry_most = (i64)1 << 28, default_max = (i64)512 << 20;

SSD_PRINTF(2, 3) static void warn(Cache *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->warning, sizeof c->warning, fmt, ap);
    va_end(ap);
}

// --- Directory ----------------------------------------------------------------------------------

static const char *default_dir(Arena *a) {
    const char *dir = getenv("SSD_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    if (dir) return dir;
    if (xdg && *xdg == '/') return ssd_arena_printf(a, "%s/ssdc", xdg);
    if (home && *home == '/') return ssd_arena_printf(a, "%s/.cache/ssdc", home);
    return "";
}

// mkdir -p, for this user alone.
static bool make_dir(Arena *a, const char *dir) {
    char *path = ssd_arena_dup(a, dir, strlen(dir));
    for (char *s = path + 1; *s; s++) {
        if (*s != '/') continue;
        *s = 0;
        if (mkdir(path, 0700) && errno != EEXIST && errno != EISDIR && errno != EROFS &&
            errno != EACCES)
            return false;
        *s = '/';
    }
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST) return false;
    if (stat(path, &st)) return false;
    if (S_ISDIR(st.st_mode)) return true;
    errno = ENOTDIR;
    return false;
}

void ssd_cache_open(Cache *c, Arena *a, const char *dir) {
    *c = (Cache){0};
    if (!dir) dir = default_dir(a);
    if (!*dir) return;
    c->dir = ssd_arena_dup(a, dir, strlen(dir));
    if (make_dir(a, c->dir)) return;
    warn(c, "cache directory %.300s: %s; working without it", c->dir, strerror(errno));
    c->dir = NULL;
}

// --- The file -----------------------------------------------------------------------------------

typedef struct Sum {
    XXH128_canonical_t bytes;
} Sum;

static Sum sum(const void *p, size_t n, const void *q, size_t m) {
    Sum s = {0};
    if (!m) {
        XXH128_canonicalFromHash(&s.bytes, XXH3_128bits(p, n));
        return s;
    }
    XXH3_state_t *state = XXH3_createState();
    if (!state) return s;
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, p, n);
    XXH3_128bits_update(state, q, m);
    XXH128_canonicalFromHash(&s.bytes, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return s;
}

static void entry_name(const char *key, size_t n, char out[40]) {
    Sum s = sum(key, n, NULL, 0);
    for (int i = 0; i < HEX / 2; i++) sprintf(out + 2 * i, "%02x", s.bytes.digest[i]);
    strcpy(out + HEX, suffix);
}

static bool is_entry_name(const char *s) {
    return strspn(s, "0123456789abcdef") == HEX && !strcmp(s + HEX, suffix);
}

static void put_number(u8 *p, u64 v, int n) {
    for (int i = 0; i < n; i++) p[i] = (u8)(v >> 8 * i);
}

static u64 get_number(const u8 *p, int n) {
    u64 v = 0;
    for (int i = 0; i < n; i++) v |= (u64)p[i] << 8 * i;
    return v;
}

static void put_header(u8 *h, const Sum *key, const Sum *content, size_t meta, size_t code) {
    memcpy(h, "SSDC", 4);
    put_number(h + 4, SSD_CACHE_SCHEMA, 4);
    put_number(h + 8, meta, 8);
    put_number(h + 16, code, 8);
    memcpy(h + 24, key, 16);
    memcpy(h + 40, content, 16);
}

typedef struct Entry {
    Artifact art;
    const char *key;
    size_t key_len;
} Entry;

static bool read_all(int fd, void *buf, size_t n) {
    for (u8 *p = buf; n;) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

static bool read_entry(Arena *a, int fd, size_t size, Entry *out, Text *why) {
    u8 h[HEADER];
    const char *fault = "it is truncated";
    if (size < HEADER || !read_all(fd, h, HEADER)) goto bad;
    fault = "it is not a cache entry";
    if (memcmp(h, "SSDC", 4)) goto bad;
    fault = "it is of another version";
    if (get_number(h + 4, 4) != SSD_CACHE_SCHEMA) goto bad;
    u64 meta = get_number(h + 8, 8), code = get_number(h + 16, 8), body = size - HEADER;
    fault = "its sizes are wrong";
    if (meta > body || code > body - meta) goto bad;
    size_t key = body - meta - code;

    char *text = ssd_arena_alloc(a, meta + key + 1);
    u8 *code_at = (u8 *)(((uintptr_t)ssd_arena_alloc(a, code + 64) + 63) & ~(uintptr_t)63);
    fault = "it is truncated";
    if (!read_all(fd, text, meta + key) || !read_all(fd, code_at, code)) goto bad;
    Sum content = sum(text, meta, code_at, code), key_sum = sum(text + meta, key, NULL, 0);
    fault = "its checksum is wrong";
    if (memcmp(h + 24, &key_sum, 16) || memcmp(h + 40, &content, 16)) goto bad;
    if (!ssd_artifact_parse(a, text, meta, &out->art, why)) return false;
    out->art.code = code_at;
    out->art.code_size = code;
    out->key = ssd_arena_dup(a, text + meta, key);
    out->key_len = key;
    return true;
bad:
    ssd_text_printf(why, "%s", fault);
    return false;
}

// errno is ENOENT when there is no such file, and only then.
static int open_file(const char *path, int flags, struct stat *st, Text *why) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags), fault = errno;
    if (fd < 0) {
        ssd_text_printf(why, "%s", strerror(fault));
    } else if (fault = EIO, fstat(fd, st)) {
        ssd_text_printf(why, "it cannot be read");
    } else if (fault = EINVAL, !S_ISREG(st->st_mode)) {
        ssd_text_printf(why, "it is not a regular file");
    } else if (st->st_size > entry_most) {
        ssd_text_printf(why, "it is too large");
    } else {
        return fd;
    }
    if (fd >= 0) close(fd);
    errno = fault;
    return -1;
}

// An arena's jump would leak the descriptor, so reading has its own landing.
static bool read_guarded(Arena *a, int fd, size_t size, Entry *out, Text *why) {
    jmp_buf oom, *outer = a->oom;
    a->oom = &oom;
    bool ok;
    if (setjmp(oom)) {
        ssd_text_printf(why, "out of memory");
        ok = false;
    } else {
        ok = read_entry(a, fd, size, out, why);
    }
    a->oom = outer;
    return ok;
}

bool ssd_cache_read(Arena *a, const char *path, Artifact *out, const char **out_key, Text *why) {
    struct stat st;
    Entry e = {0};
    *out = (Artifact){0};
    if (out_key) *out_key = NULL;
    int fd = open_file(path, 0, &st, why);
    if (fd < 0) return false;
    bool ok = read_guarded(a, fd, (size_t)st.st_size, &e, why);
    close(fd);
    if (!ok) return false;
    *out = e.art;
    if (out_key) *out_key = e.key;
    return true;
}

// --- Get and put --------------------------------------------------------------------------------

static bool trusted(const struct stat *st) {
    return st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

// Marks an entry as used, for the order in which entries go; once an hour is enough.
static void touch(int fd, const struct stat *st) {
    if (time(NULL) - st->st_mtime > HOUR) futimens(fd, NULL);
}

bool ssd_cache_get(Cache *c, Arena *a, const char *key, size_t key_len, Artifact *out) {
    *out = (Artifact){0};
    if (!c->dir) return false;
    char name[40];
    entry_name(key, key_len, name);
    const char *path = ssd_arena_printf(a, "%s/%s", c->dir, name);
    struct stat st;
    Text why = {0};
    Entry e = {0};
    bool ok = false;
    int fd = open_file(path, O_NOFOLLOW, &st, &why);
    if (fd < 0) {
        if (errno != ENOENT) warn(c, "cache entry %.300s: %s", path, why.s ? why.s : "unreadable");
        ssd_text_free(&why);
        return false;
    }
    if (!trusted(&st))
        ssd_text_printf(&why, "others own it or may write it");
    else if (read_guarded(a, fd, (size_t)st.st_size, &e, &why)) {
        ok = e.key_len == key_len && !memcmp(e.key, key, key_len);
        if (!ok) ssd_text_printf(&why, "it is of another key");
    }
    if (ok) {
        touch(fd, &st);
        *out = e.art;
    } else {
        warn(c, "cache entry %.300s is ignored: %s", path, why.s ? why.s : "unreadable");
    }
    close(fd);
    ssd_text_free(&why);
    return ok;
}

static bool write_all(int fd, const void *buf, size_t n) {
    for (const u8 *p = buf; n;) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        p += put;
        n -= (size_t)put;
    }
    return true;
}

// A name no other process or thread uses now; O_EXCL settles what is left.
static int open_tmp(const char *dir, char *path, size_t n) {
    static atomic_uint count;
    for (int i = 0; i < 100; i++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(path, n, "%s/%s%ld-%u-%lx", dir, tmp_prefix, (long)getpid(),
                 atomic_fetch_add(&count, 1), (unsigned long)now.tv_nsec);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0) return fd;
        if (errno == ENOENT && !mkdir(dir, 0700)) continue; // somebody has cleared all of it
        if (errno != EEXIST) return -1;
    }
    return -1;
}

static i64 max_bytes(Cache *c) {
    const char *s = getenv("SSD_CACHE_MAX");
    if (!s || !*s) return default_max;
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (!errno && !*end && v >= 0 && *s >= '0' && *s <= '9') return v;
    warn(c, "SSD_CACHE_MAX='%.40s' is not a number of bytes", s);
    return default_max;
}

void ssd_cache_put(Cache *c, const char *key, size_t key_len, const Artifact *art) {
    static atomic_uint puts;
    if (!c->dir || strlen(c->dir) > 3900) return;
    char tmp[4096], path[4096], name[40];
    Text meta = {0};
    u8 header[HEADER];
    ssd_artifact_print(art, &meta);
    Sum key_sum = sum(key, key_len, NULL, 0);
    Sum content = sum(meta.s, meta.n, art->code, art->code_size);
    put_header(header, &key_sum, &content, meta.n, art->code_size);
    entry_name(key, key_len, name);
    snprintf(path, sizeof path, "%s/%s", c->dir, name);

    int fd = -1;
    bool ok = meta.s && (fd = open_tmp(c->dir, tmp, sizeof tmp)) >= 0;
    ok = ok && write_all(fd, header, sizeof header) && write_all(fd, meta.s, meta.n) &&
         write_all(fd, key, key_len) && write_all(fd, art->code, art->code_size);
    int fault = ok ? 0 : meta.s ? errno : ENOMEM;
    if (fd >= 0 && close(fd) && ok) ok = false, fault = errno;
    if (ok && rename(tmp, path)) ok = false, fault = errno;
    if (fd >= 0 && !ok) unlink(tmp);
    if (!ok) warn(c, "cannot write to the cache %.300s: %s", c->dir, strerror(fault));
    ssd_text_free(&meta);
    if (ok && atomic_fetch_add(&puts, 1) % GC_EVERY == 0) ssd_cache_gc(c, max_bytes(c));
}

// --- Listing and clearing -----------------------------------------------------------------------

typedef struct File {
    char name[40];
    i64 bytes, mtime;
    bool trusted;
} File;

static int newest_first(const void *pa, const void *pb) {
    const File *a = pa, *b = pb;
    if (a->mtime != b->mtime) return a->mtime > b->mtime ? -1 : 1;
    return strcmp(a->name, b->name);
}

// Entries of the directory by their last use, on the heap. Temporary files that a killed process
// left are removed on the way.
static size_t scan(const Cache *c, File **out) {
    size_t n = 0, cap = 0;
    *out = NULL;
    DIR *d = c->dir ? opendir(c->dir) : NULL;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        bool tmp = !strncmp(e->d_name, tmp_prefix, strlen(tmp_prefix));
        if (!tmp && !is_entry_name(e->d_name)) continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;
        if (tmp) {
            if (time(NULL) - st.st_mtime > HOUR) unlinkat(dirfd(d), e->d_name, 0);
            continue;
        }
        if (n == cap) {
            File *more = realloc(*out, (cap = cap ? 2 * cap : 64) * sizeof **out);
            if (!more) break;
            *out = more;
        }
        File *f = &(*out)[n++];
        *f = (File){.bytes = st.st_size, .trusted = trusted(&st)};
        f->mtime = (i64)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        strcpy(f->name, e->d_name);
    }
    closedir(d);
    if (n) qsort(*out, n, sizeof **out, newest_first);
    return n;
}

// Would a look-up take this file? Its words go to `a`, all else is released again.
static bool check_file(const Cache *c, Arena *a, const File *f, CacheEntry *e) {
    Arena whole = {.oom = a->oom};
    Artifact art;
    const char *key;
    Text why = {0};
    char name[40];
    const char *path = ssd_arena_printf(a, "%s/%s", c->dir, f->name);
    bool ok = f->trusted && ssd_cache_read(&whole, path, &art, &key, &why);
    if (ok) {
        entry_name(key, strlen(key), name);
        ok = !strcmp(name, f->name);
    }
    if (ok) {
        e->program = ssd_arena_dup(a, art.program, strlen(art.program));
        e->mode = ssd_arena_dup(a, art.mode, strlen(art.mode));
        e->target = ssd_arena_dup(a, art.target, strlen(art.target));
        e->schedule = ssd_arena_dup(a, art.schedule, strlen(art.schedule));
    }
    ssd_text_free(&why);
    ssd_arena_free(&whole);
    return ok;
}

int ssd_cache_list(Cache *c, Arena *a, CacheEntry **out) {
    File *files;
    size_t n = scan(c, &files);
    *out = NEWN(a, CacheEntry, n);
    for (size_t i = 0; i < n; i++) {
        CacheEntry *e = &(*out)[i];
        *e = (CacheEntry){.bytes = files[i].bytes, .mtime = files[i].mtime / 1000000000};
        e->program = e->mode = e->target = e->schedule = "";
        strcpy(e->name, files[i].name);
        e->ok = check_file(c, a, &files[i], e);
    }
    free(files);
    return (int)n;
}

bool ssd_cache_remove(Cache *c, const char *name) {
    char path[4096];
    if (!c->dir || !is_entry_name(name)) return false;
    int n = snprintf(path, sizeof path, "%s/%s", c->dir, name);
    return n > 0 && (size_t)n < sizeof path && !unlink(path);
}

void ssd_cache_gc(Cache *c, i64 most) {
    File *files;
    size_t n = scan(c, &files);
    i64 total = 0;
    for (size_t i = 0; i < n; i++) {
        total += files[i].bytes;
        if (total > most) ssd_cache_remove(c, files[i].name);
    }
    free(files);
}
