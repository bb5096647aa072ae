// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <stdlib.h>

// Guards and fresh workspace are all ones: NaN in every floating type, so that reading them shows
// too.
enum { GUARD = 256, ONES = 0xff };

static ssd_status call(int error, const char *what) {
    return error ? ssd_cuda_fail(error, "%s", what) : SSD_OK;
}

// --- Memory -------------------------------------------------------------------------------------
static size_t bytes_of(const ssd_tensor *t) {
    size_t n = ssd_dtype_size(t->dtype);
    for (int d = 0; d < t->rank; d++) n *= (size_t)t->dims[d];
    return n;
}

static ssd_status allocate(Mirror *m, Copy *c) {
    size_t all = c->bytes + 2 * GUARD;
    int e = m->api->MemAlloc(&c->base, all);
    if (e)
        return ssd_cuda_fail(e, "%.1f MB of device memory for '%s'", (double)all * 1e-6, c->name);
    c->at = c->base + GUARD;
    ssd_status s = call(m->api->MemsetD8Async(c->base, ONES, all, m->stream), "cuMemsetD8Async");
    if (!s) s = call(m->api->StreamSynchronize(m->stream), "cuStreamSynchronize");
    if (!s && c->host && c->bytes)
        s = call(m->api->MemcpyHtoD(c->at, c->host, c->bytes), "cuMemcpyHtoD");
    // That returns when the host's memory has been read; our stream does not wait for the rest.
    if (!s) s = call(m->api->StreamSynchronize(NULL), "cuStreamSynchronize");
    return s;
}

// The copy of a tensor; an output that is updated in place shares its input's.
static ssd_status mirror_arg(Mirror *m, const ssd_arg *a, bool output, ssd_arg *out) {
    Copy *c = NULL;
    *out = *a;
    for (int i = 0; i < m->n_copies && !c; i++)
        if (m->copy[i].host == a->tensor.data && a->tensor.data) c = &m->copy[i];
    if (!c) {
        c = &m->copy[m->n_copies++];
        *c = (Copy){.name = a->name, .host = a->tensor.data, .bytes = bytes_of(&a->tensor)};
        ssd_status s = allocate(m, c);
        if (s) return s;
    }
    c->output |= output;
    out->tensor.data = (void *)(uintptr_t)c->at; // a device address; nobody here follows it
    return SSD_OK;
}

static bool is_output(const ssd_kernel *k, const char *name) {
    ssd_param p;
    for (int i = 0; i < ssd_kernel_param_count(k); i++)
        if (ssd_kernel_param(k, i, &p) == SSD_OK && !strcmp(p.name, name))
            return p.role == SSD_OUTPUT;
    return false;
}

static ssd_status fill(Mirror *m, const ssd_arg *args, int n) {
    ssd_status s = SSD_OK;
    if (!m->stream) {
        s = call(m->api->StreamCreate(&m->stream, CU_STREAM_APART), "cuStreamCreate");
        m->own_stream = !s;
    }
    for (; !s && m->n_args < n; m->n_args++) {
        const ssd_arg *a = &args[m->n_args];
        s = mirror_arg(m, a, is_output(m->kernel, a->name), &m->args[m->n_args]);
    }
    if (!s) s = ssd_kernel_workspace(m->kernel, m->args, n, &m->ws_bytes);
    if (s || !m->ws_bytes) return s;
    Copy *ws = &m->copy[m->n_copies++];
    *ws = (Copy){.name = "workspace", .bytes = m->ws_bytes};
    return allocate(m, ws);
}

ssd_status ssd_mirror_open(Mirror *m, CuHandle stream, ssd_kernel *k, const ssd_arg *args, int n) {
    *m = (Mirror){.kernel = k, .api = &ssd_cuda_driver()->api, .stream = stream};
    ssd_status s = ssd_cuda_enter(NULL, &m->scope);
    if (s) return s;
    m->copy = calloc((size_t)n + 1, sizeof *m->copy);
    m->args = calloc((size_t)n + 1, sizeof *m->args);
    s = m->copy && m->args ? fill(m, args, n)
                           : ssd_fail(SSD_OUT_OF_MEMORY, "no memory for a launch");
    if (s) ssd_mirror_close(m);
    return s;
}

void ssd_mirror_close(Mirror *m) {
    for (int i = 0; i < m->n_copies; i++)
        if (m->copy[i].base) m->api->MemFree(m->copy[i].base);
    if (m->own_stream) m->api->StreamDestroy(m->stream);
    ssd_cuda_leave(&m->scope);
    free(m->copy);
    free(m->args);
    *m = (Mirror){0};
}

// --- A launch -----------------------------------------------------------------------------------
ssd_status ssd_mirror_launch(Mirror *m) {
    void *ws = m->ws_bytes ? (void *)(uintptr_t)m->copy[m->n_copies - 1].at : NULL;
    return ssd_launch_on(m->kernel, m->args, m->n_args, ws, m->ws_bytes, m->stream);
}

static ssd_status look_at_guards(const Mirror *m, const Copy *c) {
    u8 guard[2 * GUARD];
    ssd_status s = call(m->api->MemcpyDtoH(guard, c->base, GUARD), "cuMemcpyDtoH");
    if (!s) s = call(m->api->MemcpyDtoH(guard + GUARD, c->at + c->bytes, GUARD), "cuMemcpyDtoH");
    if (s) return s;
    int front = 0, behind = 0; // how far it went
    for (int i = 0; i < GUARD; i++) {
        if (guard[i] != ONES) front = MAX(front, GUARD - i);
        if (guard[GUARD + i] != ONES) behind = i + 1;
    }
    if (!front && !behind) return SSD_OK;
    return ssd_fail(SSD_INTERNAL, "the kernel wrote %d bytes %s '%s'", front ? front : behind,
                    front ? "in front of" : "behind", c->name);
}

ssd_status ssd_mirror_fetch(Mirror *m) {
    ssd_status s = call(m->api->StreamSynchronize(m->stream), "running the kernel");
    for (int i = 0; !s && i < m->n_copies; i++) {
        const Copy *c = &m->copy[i];
        s = look_at_guards(m, c);
        if (!s && c->output && c->bytes)
            s = call(m->api->MemcpyDtoH(c->host, c->at, c->bytes), "cuMemcpyDtoH");
    }
    return s;
}

ssd_status ssd_device_launch(ssd_kernel *k, const ssd_arg *args, int n) {
    if (!ssd_target_is_cuda(ssd_kernel_target(k))) return ssd_launch(k, args, n, NULL, 0);
    Mirror m;
    ssd_status s = ssd_mirror_open(&m, NULL, k, args, n);
    if (s) return s;
    s = ssd_mirror_launch(&m);
    if (!s) s = ssd_mirror_fetch(&m);
    ssd_mirror_close(&m);
    return s;
}
