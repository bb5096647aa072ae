// SPDX-License-Identifier: Apache-2.0
// Status codes and this thread's last error message.
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const names[] = {
    [SSD_OK] = "ok",
    [SSD_INVALID_ARGUMENT] = "invalid argument",
    [SSD_INVALID_SPEC] = "invalid spec",
    [SSD_UNSUPPORTED] = "unsupported",
    [SSD_OUT_OF_MEMORY] = "out of memory",
    [SSD_NOT_FOUND] = "not found",
    [SSD_IO] = "input/output error",
    [SSD_JIT_OFF] = "compiler off",
    [SSD_DEVICE] = "device error",
    [SSD_INTERNAL] = "internal error",
};

const char *ssd_status_name(ssd_status s) {
    return (unsigned)s < COUNTOF(names) ? names[s] : "unknown status";
}

const char *ssd_version(void) { return SSD_VERSION; }

// Most messages fit `brief`; one that does not (all errors of a spec) is on the heap, released by
// the next call or with the thread.
static _Thread_local char brief[512];
static _Thread_local char *lengthy;
static pthread_key_t lengthy_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool have_key;

static void make_key(void) { have_key = pthread_key_create(&lengthy_key, free) == 0; }

static void set_lengthy(char *s) {
    free(lengthy);
    lengthy = s;
    pthread_setspecific(lengthy_key, s);
}

void ssd_clear_error(void) {
    brief[0] = 0;
    if (lengthy) set_lengthy(NULL);
}

ssd_status ssd_fail(ssd_status s, const char *fmt, ...) {
    // The arguments may point into the message that is being replaced: format first.
    char text[sizeof brief];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    char *heap = NULL;
    if (n >= (int)sizeof text) {
        pthread_once(&once, make_key);
        if (have_key && (heap = malloc((size_t)n + 1))) vsnprintf(heap, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    va_end(ap);
    if (lengthy || heap) set_lengthy(heap);
    memcpy(brief, n < 0 ? "" : text, n < 0 ? 1 : sizeof text);
    return s;
}

const char *ssd_last_error(void) { return lengthy ? lengthy : brief; }
