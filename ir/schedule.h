// SPDX-License-Identifier: Apache-2.0
// A schedule is how a meaning is computed: one line of text, part of the cache key.
//     form=chunked q=64 hoist=1 block=8
#ifndef SSD_SCHEDULE_H
#define SSD_SCHEDULE_H

#include "../runtime/base.h"
#include "machine.h"

typedef enum { FORM_AUTO, FORM_RECURRENT, FORM_QUADRATIC, FORM_CHUNKED } Form;
// The chunked form may cut time into segments that are walked side by side. How many there are is
// an expression over the sizes of a launch: one program serves all shapes.
enum { SPLIT_LAUNCH = -1 }; // as many as the machine has room for beside batch and heads
typedef struct Schedule {
    Form form;
    int q;      // chunk length; 0: chosen
    int hoist;  // what a group's heads share moves to a kernel of its own: 0 1, -1 chosen
    int block;  // rows of the state a block of the recurrent form holds; 0: chosen
    int sub;    // sub-block of vector decay; 0: chosen (16)
    int split;  // segments of time: at most so many, or SPLIT_LAUNCH; 0: chosen
    int heads;  // heads a block of the chunked form; 0: chosen
    int roles;  // walks over chunks as roles and rings: 0, 1; 2: heads form scores themselves; -1
                // chosen
    int stages; // slots of a role's main ring; 0: chosen
    int wgmma;  // products and copies of warpgroups where the machine has them: 0 1, -1 chosen
    int pad;   // ragged rows are laid out in whole pieces first, where bulk copies are to be had: 0
               // none, 1 all that are not shifted, -1 chosen
    int early; // kernels are launched before those in front of them in a stream have ended: 0 1
} Schedule;
extern const Schedule ssd_schedule_auto; // {FORM_AUTO, 0, -1, 0, 0, 0, 0, -1, 0, -1, -1, 0}
static inline bool ssd_schedule_splits(const Schedule *s) {
    return s->split > 1 || s->split == SPLIT_LAUNCH;
}

// The machine less what the schedule does without; m may be NULL.
const Machine *ssd_schedule_machine(Arena *a, const Schedule *s, const Machine *m);

// "key=value ..." in any order, "" = all chosen. False with a message in *why naming key, found,
// expected.
bool ssd_schedule_parse(const char *text, Schedule *out, Text *why);
// Prints only what is set, in a fixed order.
void ssd_schedule_print(const Schedule *s, Text *out);
const char *ssd_form_name(Form f);

#endif
