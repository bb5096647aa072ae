// SPDX-License-Identifier: Apache-2.0
// What the compiler made of a kernel: its log's figures, and the instructions in the cubin.
#ifndef SSD_TEST_GATE_H
#define SSD_TEST_GATE_H

#include "../../runtime/base.h"

typedef struct GateFacts {
    int stack, spill_stores, spill_loads; // bytes
    int shared;                           // bytes of static shared memory
} GateFacts;
// False when the log has no such kernel.
bool ssd_gate_facts(const char *log, const char *kernel, GateFacts *out);
// ptxas could not keep an asynchronous product's registers apart and waits after each one.
bool ssd_gate_serialised(const char *log);

typedef enum GateOpcode { // the low 12 bits of an instruction
    GATE_HGMMA_SHARED = 0x9f0,
    GATE_HGMMA = 0xdf0, // first operand from registers
    GATE_HMMA = 0x23c,
    GATE_UTMALDG = 0x5b4,
    GATE_UTMASTG = 0x3b5,
    GATE_LDL = 0x983,
    GATE_STL = 0x387
} GateOpcode;
// How often in a kernel's code; kernel NULL: in all of them.
int ssd_gate_count(const void *cubin, const char *kernel, GateOpcode op);

#endif
