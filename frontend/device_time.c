// SPDX-License-Identifier: Apache-2.0
// How long work takes on a CUDA device: captured into a graph, which is replayed between two events
// behind a flush of the L2 cache.
//
// A replay has a price of its own, some microseconds, which a short kernel's time would be lost in.
// What is short is therefore also timed in a row: one graph of many launches, each with tensors of
// its own, so that no cache holds any of them when its turn comes.
#include "device.h"

#include <stdlib.h>
#include <time.h>

static ssd_status call(int error, const char *what) {
    return error ? ssd_cuda_fail(error, "%s", what) : SSD_OK;
}

// --- Replays ------------------------------------------------------------------------------------
ssd_status ssd_device_stream(CuHandle *out) {
    static CuHandle stream;
    CudaScope scope;
    ssd_status s = stream ? SSD_OK : ssd_cuda_enter(NULL, &scope);
    if (!stream && !s) {
        int e = ssd_cuda_driver()->api.StreamCreate(&stream, CU_STREAM_APART);
        s = call(e, "cuStreamCreate");
        ssd_cuda_leave(&scope);
    }
    *out = stream;
    return s;
}

typedef struct Timer {
    const CudaApi *api;
    CuHandle stream, graph, exec, from, to;
    CuPtr flush;
    size_t flush_bytes;
} Timer;

static ssd_status capture(Timer *t, const DeviceWork *w) {
    ssd_status s = w->go(w->ctx, t->stream, 0); // the first may load code, which no graph can hold
    if (!s) s = call(t->api->StreamSynchronize(t->stream), "running the kernel");
    if (s) return s;
    s = call(t->api->StreamBeginCapture(t->stream, CU_CAPTURE_THREAD_LOCAL),
             "cuStreamBeginCapture");
    if (s) return s;
    for (int i = 0; !s && i < w->row; i++) s = w->go(w->ctx, t->stream, i);
    int e = t->api->StreamEndCapture(t->stream, &t->graph); // in any case: the stream stays usable
    if (!s) s = call(e, "capturing the launch into a graph");
    if (!s) s = call(t->api->GraphInstantiate(&t->exec, t->graph, 0), "cuGraphInstantiate");
    return s;
}

static ssd_status start(Timer *t, const DeviceWork *w) {
    *t = (Timer){.api = &ssd_cuda_driver()->api, .stream = w->stream};
    t->flush_bytes = (size_t)MAX(2 * ssd_cuda_driver()->device.l2, (i64)64 << 20);
    ssd_status s = call(t->api->EventCreate(&t->from, 0), "cuEventCreate");
    if (!s) s = call(t->api->EventCreate(&t->to, 0), "cuEventCreate");
    if (!s)
        s = call(t->api->MemAlloc(&t->flush, t->flush_bytes), "memory to flush the L2 cache with");
    return s;
}

static void stop(Timer *t) {
    if (t->exec) t->api->GraphExecDestroy(t->exec);
    if (t->graph) t->api->GraphDestroy(t->graph);
    if (t->from) t->api->EventDestroy(t->from);
    if (t->to) t->api->EventDestroy(t->to);
    if (t->flush) t->api->MemFree(t->flush);
}

static ssd_status replay(Timer *t, double *out_ms) {
    float ms = 0;
    int e = t->api->MemsetD8Async(t->flush, 0xff, t->flush_bytes, t->stream);
    if (!e) e = t->api->EventRecord(t->from, t->stream);
    if (!e) e = t->api->GraphLaunch(t->exec, t->stream);
    if (!e) e = t->api->EventRecord(t->to, t->stream);
    if (!e) e = t->api->EventSynchronize(t->to);
    if (!e) e = t->api->EventElapsedTime(&ms, t->from, t->to);
    *out_ms = (double)ms;
    return call(e, "replaying the graph of the launch");
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ssd_status ssd_device_time(const DeviceWork *w, double seconds, int least, int most, double *out_ms,
                           int *out_n) {
    Timer t;
    double unused, begun;
    *out_n = 0;
    ssd_status s = start(&t, w);
    if (!s) s = capture(&t, w);
    begun = now();
    for (int i = 0; !s && (i < 3 || (i < most && now() - begun < 0.1)); i++)
        s = replay(&t, &unused);
    begun = now();
    while (!s && *out_n < most && (*out_n < least || now() - begun < seconds)) {
        s = replay(&t, &out_ms[*out_n]);
        if (!s) out_ms[(*out_n)++] /= w->row;
    }
    if (!s) s = call(t.api->StreamSynchronize(t.stream), "running the kernel");
    stop(&t);
    return s;
}

// --- A kernel -----------------------------------------------------------------------------------
// The flush leaves every tensor of a row cold, however small; with twice the cache in a row what
// the first ones wrote is on its way to memory too. A few at least, to share what the replay costs.
enum { ROW_LEAST = 4, ROW_MOST = 64, ALIGN = 256 };

static size_t padded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

// The memory of a launch after the first, whose is the mirror's.
static size_t span(const Mirror *m) {
    size_t all = 0;
    for (int i = 0; i < m->n_copies; i++) all += padded(m->copy[i].bytes);
    return all;
}

int ssd_mirror_row(const Mirror *m) {
    size_t each = MAX(span(m), (size_t)1), free_bytes, total;
    i64 row = 2 * ssd_cuda_driver()->device.l2 / (i64)each + 1;
    row = MIN(MAX(row, ROW_LEAST), ROW_MOST);
    if (m->api->MemGetInfo(&free_bytes, &total)) return 1;
    while (row > 1 && (size_t)(row - 1) * each > free_bytes / 2) row--;
    return (int)row;
}

typedef struct Row {
    Mirror *m;
    CuPtr more; // of the launches after the first
    size_t span;
    ssd_arg *args; // of a launch
} Row;

// Where launch i has what the first one has at `at`.
static CuPtr place(const Row *r, int i, CuPtr at) {
    CuPtr p = r->more + (CuPtr)(i - 1) * r->span;
    for (int k = 0; i && k < r->m->n_copies; k++) {
        const Copy *c = &r->m->copy[k];
        if (c->at == at) return p;
        p += padded(c->bytes);
    }
    return at;
}

static ssd_status launch_in_row(void *ctx, CuHandle stream, int i) {
    Row *r = ctx;
    const Mirror *m = r->m;
    CuPtr ws = m->ws_bytes ? m->copy[m->n_copies - 1].at : 0;
    for (int k = 0; k < m->n_args; k++) {
        r->args[k] = m->args[k];
        CuPtr at = place(r, i, (CuPtr)(uintptr_t)m->args[k].tensor.data);
        r->args[k].tensor.data = (void *)(uintptr_t)at;
    }
    return ssd_launch_on(m->kernel, r->args, m->n_args, (void *)(uintptr_t)place(r, i, ws),
                         m->ws_bytes, stream);
}

static ssd_status spread(Row *r, int row) {
    const Mirror *m = r->m;
    size_t all = (size_t)(row - 1) * r->span;
    int e = all ? m->api->MemAlloc(&r->more, all) : 0;
    if (e)
        return ssd_cuda_fail(e, "%.1f MB of device memory for %d launches in a row",
                             (double)all * 1e-6, row);
    for (int i = 1; i < row; i++)
        for (int k = 0; !e && k < m->n_copies; k++) {
            const Copy *c = &m->copy[k];
            if (c->bytes)
                e = m->api->MemcpyDtoDAsync(place(r, i, c->at), c->at, c->bytes, m->stream);
        }
    return call(e, "copying tensors for launches in a row");
}

ssd_status ssd_mirror_time(Mirror *m, int row, double seconds, int least, int most, double *out_ms,
                           int *out_n) {
    Row r = {.m = m, .span = span(m), .args = calloc((size_t)m->n_args + 1, sizeof *r.args)};
    DeviceWork w = {.go = launch_in_row, .ctx = &r, .stream = m->stream, .row = row};
    *out_n = 0;
    ssd_status s = r.args ? spread(&r, row) : ssd_fail(SSD_OUT_OF_MEMORY, "no memory for launches");
    if (!s) s = ssd_device_time(&w, seconds, least, most, out_ms, out_n);
    if (r.more) m->api->MemFree(r.more);
    free(r.args);
    return s;
}
