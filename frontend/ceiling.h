// SPDX-License-Identifier: Apache-2.0
// What this host can do, measured now, on all threads of a pool: the denominators of `ssdc bench`.
#ifndef SSD_CEILING_H
#define SSD_CEILING_H

#include "../runtime/internal.h"

// f32 multiply-adds from registers, GFLOP/s (an fma is two).
double ssd_ceiling_fma(Pool *p);
// Bytes read plus written a second, GB/s, when `bytes` in all are touched: so a working set that
// fits a cache is compared with that cache. copy: half is read and half written (the better of
// plain and streaming stores). update: every byte is read and written in place, and counts twice.
double ssd_ceiling_copy(Pool *p, size_t bytes);
double ssd_ceiling_update(Pool *p, size_t bytes);

#endif
