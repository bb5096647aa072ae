// SPDX-License-Identifier: Apache-2.0
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TENSORS = 4096 };
static const size_t max_header = (size_t)100 << 20; // the format's own limit

static const struct {
    const char *name;
    ssd_dtype dtype;
} dtypes[] = {
    {"F32", SSD_F32}, {"BF16", SSD_BF16}, {"F16", SSD_F16}, {"I32", SSD_I32}, {"F64", SSD_F64}};

// --- Reading -----------------------------------------------------------------------------------
static bool read_all(int fd, void *buf, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t got = read(fd, (char *)buf + at, n - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += (size_t)got;
    }
    return true;
}

// A tensor's place in the data part, for the overlap check and for moving it to aligned memory.
typedef struct Span {
    u64 begin, end;
    int tensor;
} Span;

static int by_begin(const void *a, const void *b) {
    const Span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

// [n, n, ..] as counts; -1 when it is anything else or longer than max.
static int read_counts(const json_t *j, i64 *out, int max) {
    if (!json_is_array(j) || json_array_size(j) > (size_t)max) return -1;
    int n = (int)json_array_size(j);
    for (int i = 0; i < n; i++) {
        const json_t *e = json_array_get(j, (size_t)i);
        if (!json_is_integer(e) || json_integer_value(e) < 0) return -1;
        out[i] = json_integer_value(e);
    }
    return n;
}

static bool read_entry(const json_t *j, u64 data_bytes, StTensor *t, Span *span, Text *why) {
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    i64 dims[SSD_MAX_RANK], off[2];
    int rank = read_counts(json_object_get(j, "shape"), dims, SSD_MAX_RANK);
    ssd_dtype dt = SSD_NONE;
    for (size_t i = 0; dtype && i < COUNTOF(dtypes); i++)
        if (strcmp(dtypes[i].name, dtype) == 0) dt = dtypes[i].dtype;
    if (!dtype || rank < 0 || read_counts(json_object_get(j, "data_offsets"), off, 2) != 2) {
        ssd_text_printf(
            why, "tensor '%s' needs dtype, a shape of at most %d extents and two data_offsets",
            t->name, SSD_MAX_RANK);
        return false;
    }
    if (dt == SSD_NONE) {
        ssd_text_printf(why, "tensor '%s' has dtype %.20s; expected F32, BF16, F16, I32 or F64",
                        t->name, dtype);
        return false;
    }
    u64 bytes = ssd_dtype_size(dt), begin = (u64)off[0], end = (u64)off[1];
    for (int d = 0; d < rank; d++)
        if (__builtin_mul_overflow(bytes, (u64)dims[d], &bytes)) bytes = UINT64_MAX;
    if (begin > end || end > data_bytes) {
        ssd_text_printf(why, "tensor '%s' lies at bytes %llu..%llu of the data, which has %llu",
                        t->name, (unsigned long long)begin, (unsigned long long)end,
                        (unsigned long long)data_bytes);
        return false;
    }
    if (end - begin != bytes) {
        ssd_text_printf(why, "tensor '%s' has %llu bytes of data; its shape and dtype need %llu",
                        t->name, (unsigned long long)(end - begin), (unsigned long long)bytes);
        return false;
    }
    t->view = ssd_tensor_dense(NULL, dt, rank, dims);
    t->bytes = (size_t)bytes;
    span->begin = begin;
    span->end = end;
    return true;
}

static bool read_table(Arena *a, json_t *root, u64 data_bytes, StFile *out, Span **out_spans,
                       Text *why) {
    size_t n = json_object_size(root);
    if (n > MAX_TENSORS) {
        ssd_text_printf(why, "%zu tensors; expected at most %d", n, MAX_TENSORS);
        return false;
    }
    StTensor *v = NEWN(a, StTensor, n + 1);
    Span *spans = NEWN(a, Span, n + 1);
    int k = 0;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        if (strcmp(key, "__metadata__") == 0) continue;
        v[k].name = ssd_arena_dup(a, key, strlen(key));
        spans[k].tensor = k;
        if (!read_entry(value, data_bytes, &v[k], &spans[k], why)) return false;
        k++;
    }
    qsort(spans, (size_t)k, sizeof *spans, by_begin);
    for (int i = 1; i < k; i++) {
        if (spans[i].begin < spans[i - 1].end && spans[i].begin < spans[i].end) {
            ssd_text_printf(why, "tensors '%s' and '%s' overlap", v[spans[i - 1].tensor].name,
                            v[spans[i].tensor].name);
            return false;
        }
    }
    out->v = v;
    out->n = k;
    *out_spans = spans;
    return true;
}

// The header's bytes and the file's size -> the JSON object in it.
static json_t *read_header(int fd, u64 *out_data_bytes, Text *why) {
    struct stat st;
    u8 len[8];
    u64 n = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        ssd_text_printf(why, "not a regular file");
        return NULL;
    }
    if (!read_all(fd, len, sizeof len)) {
        ssd_text_printf(why, "%lld bytes; a safetensors file has at least 10",
                        (long long)st.st_size);
        return NULL;
    }
    for (int i = 8; i-- > 0;) n = n << 8 | len[i];
    u64 rest = (u64)st.st_size - 8;
    if (n > max_header || n > rest) {
        ssd_text_printf(why, "the header claims %llu bytes; the file has %llu left%s",
                        (unsigned long long)n, (unsigned long long)rest,
                        n > rest ? "" : " and the format allows 100 MiB");
        return NULL;
    }
    char *text = malloc((size_t)n + 1);
    json_error_t e;
    json_t *root = NULL;
    if (!text || !read_all(fd, text, (size_t)n)) {
        ssd_text_printf(why, text ? "reading the header failed" : "out of memory for the header");
    } else {
        root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &e);
        if (!root) ssd_text_printf(why, "the header is not JSON: %s (byte %d)", e.text, e.position);
        if (root && !json_is_object(root)) {
            ssd_text_printf(why, "the header is not a JSON object");
            json_decref(root);
            root = NULL;
        }
    }
    free(text);
    *out_data_bytes = rest - n;
    return root;
}

// Reads span after span to a 64-aligned place of its own; gaps in the file are skipped.
static bool read_data(int fd, const Span *spans, StFile *f, Text *why) {
    size_t total = 64;
    for (int i = 0; i < f->n; i++) total += (f->v[i].bytes + 63) & ~(size_t)63;
    u8 *p = f->data = aligned_alloc(64, total);
    if (!p) {
        ssd_text_printf(why, "out of memory: %.1f GB of tensors", (double)total * 1e-9);
        return false;
    }
    off_t start = lseek(fd, 0, SEEK_CUR);
    for (int i = 0; i < f->n; i++) {
        StTensor *t = &f->v[spans[i].tensor];
        if (lseek(fd, start + (off_t)spans[i].begin, SEEK_SET) < 0 || !read_all(fd, p, t->bytes)) {
            ssd_text_printf(why, "reading tensor '%s' failed", t->name);
            return false;
        }
        t->view.data = p;
        p += (t->bytes + 63) & ~(size_t)63;
    }
    return true;
}

bool ssd_safetensors_read(Arena *a, const char *path, StFile *out, Text *why) {
    *out = (StFile){0};
    json_t *root = NULL;
    Text msg = {0};
    bool ok = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        ssd_text_printf(&msg, "%s", strerror(errno));
    } else {
        u64 data_bytes = 0;
        Span *spans = NULL;
        root = read_header(fd, &data_bytes, &msg);
        ok = root && read_table(a, root, data_bytes, out, &spans, &msg) &&
             read_data(fd, spans, out, &msg);
    }
    if (!ok) {
        ssd_text_printf(why, "%s: %s", path, msg.s);
        ssd_safetensors_free(out);
    }
    json_decref(root);
    ssd_text_free(&msg);
    if (fd >= 0) close(fd);
    return ok;
}

void ssd_safetensors_free(StFile *f) {
    free(f->data);
    *f = (StFile){0};
}

// --- Writing -----------------------------------------------------------------------------------
static bool write_all(int fd, const void *buf, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t put = write(fd, (const char *)buf + at, n - at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        at += (size_t)put;
    }
    return true;
}

static json_t *entry(const StTensor *t, size_t at) {
    const char *name = "F32";
    for (size_t i = 0; i < COUNTOF(dtypes); i++)
        if (dtypes[i].dtype == t->view.dtype) name = dtypes[i].name;
    json_t *shape = json_array();
    for (int d = 0; d < t->view.rank; d++)
        json_array_append_new(shape, json_integer(t->view.dims[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", name, "shape", shape, "data_offsets",
                     (json_int_t)at, (json_int_t)(at + t->bytes));
}

// Header length and header, padded with blanks so that the data starts 8-aligned.
static bool write_header(int fd, const StTensor *v, int n) {
    json_t *root = json_object();
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        json_object_set_new(root, v[i].name, entry(&v[i], at));
        at += v[i].bytes;
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(root);
    if (!text) return false;
    size_t len = strlen(text), padded = (len + 7) & ~(size_t)7;
    u8 head[8];
    for (int i = 0; i < 8; i++) head[i] = (u8)((u64)padded >> 8 * i);
    bool ok = write_all(fd, head, 8) && write_all(fd, text, len) &&
              write_all(fd, "       ", padded - len);
    free(text);
    return ok;
}

bool ssd_safetensors_write(const char *path, const StTensor *v, int n, Text *why) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { // a rename would replace /dev/null
        ssd_text_printf(why, "%s: not a regular file", path);
        return false;
    }
    Text tmp = {0};
    ssd_text_printf(&tmp, "%s.tmp.XXXXXX", path);
    int fd = mkstemp(tmp.s);
    bool ok = fd >= 0;
    if (ok) {
        mode_t mask = umask(0);
        umask(mask);
        ok = fchmod(fd, 0666 & ~mask) == 0 && write_header(fd, v, n);
        for (int i = 0; ok && i < n; i++) ok = write_all(fd, v[i].view.data, v[i].bytes);
        ok = close(fd) == 0 && ok;
        ok = ok && rename(tmp.s, path) == 0;
    }
    if (!ok) {
        ssd_text_printf(why, "%s: writing failed: %s", path, strerror(errno));
        if (fd >= 0) unlink(tmp.s);
    }
    ssd_text_free(&tmp);
    return ok;
}
