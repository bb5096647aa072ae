// SPDX-License-Identifier: Apache-2.0
#include "host.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

// --- Sizes -------------------------------------------------------------------------------------
static bool parse_count(const char *s, size_t n, i64 *out) {
    i64 v = 0;
    if (n == 0 || n > 12) return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        v = v * 10 + (s[i] - '0');
    }
    *out = v;
    return true;
}

bool ssd_sizes_parse(Arena *a, const char *text, Sizes *out, Text *why) {
    static const char sep[] = ", \t";
    Text rest = {0};
    bool ok = true;
    *out = (Sizes){.b = -1, .t = -1, .s = -1};
    for (const char *p = text ? text : ""; ok;) {
        p += strspn(p, sep);
        size_t n = strcspn(p, sep);
        if (n == 0) break;
        const char *eq = memchr(p, '=', n);
        i64 v = 0;
        if (!eq || eq == p || !parse_count(eq + 1, n - (size_t)(eq + 1 - p), &v)) {
            ssd_text_printf(why, "'%.*s' in the sizes: expected name=number, as in b=1,t=4096",
                            (int)n, p);
            ok = false;
        } else if (eq - p == 1 && *p == 'b') {
            out->b = v;
        } else if (eq - p == 1 && *p == 't') {
            out->t = v;
        } else if (eq - p == 1 && *p == 's') {
            out->s = v;
        } else {
            ssd_text_printf(&rest, "%s%.*s", rest.n ? " " : "", (int)n, p);
        }
        p += n;
    }
    if (rest.n) out->dims = ssd_arena_dup(a, rest.s, rest.n);
    ssd_text_free(&rest);
    return ok;
}

// --- Memory ------------------------------------------------------------------------------------
static bool is_cu(const SpecTensor *t) { return t->hint && strcmp(t->hint, "cu_seqlens") == 0; }

bool ssd_host_packed(const SpecTensor *ts, int n) {
    for (int i = 0; i < n; i++)
        if (is_cu(&ts[i])) return true;
    return false;
}

bool ssd_host_dims(const SpecTensor *t, const Sizes *z, i64 *dims, i64 *out_count) {
    const i64 limit = (i64)1 << 40;
    i64 count = 1;
    bool ok = true;
    for (int d = 0; d < t->naxes; d++) {
        i64 n = t->size[d];
        if (is_cu(t))
            n = z->s + 1;
        else if (n < 0)
            n = t->axis[d][0] == 'b' ? z->b : t->axis[d][0] == 's' ? z->s : z->t;
        dims[d] = n;
        if (n < 0 || (n > 0 && count > limit / n))
            ok = false;
        else
            count *= n;
    }
    *out_count = ok ? count : 0;
    return ok;
}

bool ssd_host_listed(const char *list, const char *name) {
    static const char sep[] = " ,";
    size_t len = strlen(name);
    for (const char *p = list ? list : ""; *p;) {
        p += strspn(p, sep);
        size_t n = strcspn(p, sep);
        if (n == len && memcmp(p, name, n) == 0) return true;
        p += n;
    }
    return false;
}

// More than the machine has is refused before the kernel kills whoever touches it.
static bool fits(double bytes) {
    double pages = (double)sysconf(_SC_PHYS_PAGES), page = (double)sysconf(_SC_PAGESIZE);
    return pages <= 0 || bytes <= pages * page;
}

bool ssd_host_make(Arena *a, const SpecTensor *ts, int n, const Sizes *z, const char *absent,
                   HostSet *out, Text *why) {
    *out = (HostSet){.v = NEWN(a, HostTensor, n + 1)};
    double total = 0;
    for (int i = 0; i < n; i++) {
        if (ssd_host_listed(absent, ts[i].name)) continue;
        HostTensor *t = &out->v[out->n];
        i64 dims[SSD_MAX_RANK];
        if (!ssd_host_dims(&ts[i], z, dims, &t->count)) {
            ssd_text_printf(why, "tensor '%s' is too large for b=%lld t=%lld", ts[i].name,
                            (long long)z->b, (long long)z->t);
            ssd_host_drop(out);
            return false;
        }
        t->name = ts[i].name;
        t->bytes = (size_t)t->count * ssd_dtype_size(ts[i].dtype);
        total += (double)t->bytes;
        void *data = fits(total) ? aligned_alloc(64, (t->bytes + 127) & ~(size_t)63) : NULL;
        if (!data) {
            ssd_text_printf(why, "out of memory: tensor '%s' takes %.1f GB", t->name,
                            (double)t->bytes * 1e-9);
            ssd_host_drop(out);
            return false;
        }
        t->view = ssd_tensor_dense(data, ts[i].dtype, ts[i].naxes, dims);
        out->n++;
    }
    return true;
}

void ssd_host_drop(HostSet *set) {
    for (int i = 0; i < set->n; i++) free(set->v[i].view.data);
    *set = (HostSet){0};
}

const HostTensor *ssd_host_find(const HostSet *set, const char *name) {
    for (int i = 0; i < set->n; i++)
        if (strcmp(set->v[i].name, name) == 0) return &set->v[i];
    return NULL;
}

// --- Elements ----------------------------------------------------------------------------------
static float half_to_float(u16 h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31  ? (m ? (double)NAN : (double)INFINITY)
               : e == 0 ? ldexp(m, -24)
                        : ldexp(1024 + m, e - 25);
    return (float)(h & 0x8000 ? -v : v);
}

// The nearest of a format of `bits` significand bits and least exponent `emin`, ties to even.
static double round_to(double v, int bits, int emin) {
    int e;
    frexp(v, &e); // |v| in [2^(e-1), 2^e)
    int ulp = MAX(e - bits, emin - bits + 1);
    return ldexp(rint(ldexp(v, -ulp)), ulp);
}

static u16 half_from(double v) {
    u16 sign = signbit(v) ? 0x8000 : 0;
    double a = fabs(v);
    if (isnan(v)) return 0x7e00;
    a = isinf(v) ? a : round_to(a, 11, -14);
    if (a >= 65536) return sign | 0x7c00;
    if (a < 0x1p-14) return sign | (u16)ldexp(a, 24);
    int e;
    double m = frexp(a, &e); // a = m * 2^e, m in [0.5, 1)
    return sign | (u16)((e + 14) << 10) | ((u16)ldexp(m, 11) & 1023);
}

static u16 bf16_from(double v) {
    if (isnan(v)) return 0x7fc0;
    float f = (float)(isinf(v) ? v : round_to(v, 8, -126)); // one rounding: now exact in float
    u32 bits;
    memcpy(&bits, &f, 4);
    return (u16)(bits >> 16);
}

double ssd_host_load(const void *p, ssd_dtype d, i64 i) {
    u32 bits;
    float f;
    switch (d) {
    case SSD_F32: return ((const float *)p)[i];
    case SSD_F64: return ((const double *)p)[i];
    case SSD_I32: return ((const i32 *)p)[i];
    case SSD_F16: return half_to_float(((const u16 *)p)[i]);
    case SSD_BF16:
        bits = (u32)((const u16 *)p)[i] << 16;
        memcpy(&f, &bits, 4);
        return f;
    default: SSD_BUG("no elements of dtype %d in host memory", d);
    }
}

void ssd_host_store(void *p, ssd_dtype d, i64 i, double v) {
    switch (d) {
    case SSD_F32: ((float *)p)[i] = (float)v; return;
    case SSD_F64: ((double *)p)[i] = v; return;
    case SSD_I32: ((i32 *)p)[i] = (i32)v; return;
    case SSD_F16: ((u16 *)p)[i] = half_from(v); return;
    case SSD_BF16: ((u16 *)p)[i] = bf16_from(v); return;
    default: SSD_BUG("no elements of dtype %d in host memory", d);
    }
}

void ssd_host_poison(HostTensor *t) {
    double v = t->view.dtype == SSD_I32 ? (double)INT32_MIN : (double)NAN;
    for (i64 i = 0; i < t->count; i++) ssd_host_store(t->view.data, t->view.dtype, i, v);
}

void ssd_host_array(Arena *a, const HostTensor *t, Array *out) {
    out->rank = t->view.rank;
    for (int d = 0; d < t->view.rank; d++) out->dims[d] = t->view.dims[d];
    out->v = NEWN(a, double, MAX(t->count, 1));
    for (i64 i = 0; i < t->count; i++) out->v[i] = ssd_host_load(t->view.data, t->view.dtype, i);
}

void ssd_host_print_dims(const ssd_tensor *t, Text *out) {
    ssd_text_printf(out, "[");
    for (int d = 0; d < t->rank; d++)
        ssd_text_printf(out, "%s%lld", d ? ", " : "", (long long)t->dims[d]);
    ssd_text_printf(out, "]");
}
