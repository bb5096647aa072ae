// SPDX-License-Identifier: Apache-2.0
// A schedule is how a meaning is computed: one line of text, part of the cache key.
//     form=chunked q=64 hoist=1 block=8
#ifndef SSD_SCHEDULE_H
#define SSD_SCHEDULE_H

#include "../runtime/base.h"

typedef enum { FORM_AUTO, FORM_RECURRENT, FORM_QUADRATIC, FORM_CHUNKED } Form;
typedef struct Schedule {
    Form form;
    int q;      // chunk length; 0: chosen
    int hoist;  // what a group's heads share moves to a kernel of its own: 0 1, -1 chosen
    int block;  // rows of the state a block of the recurrent form holds; 0: chosen
    int sub;    // sub-block of vector decay; 0: chosen (16)
} Schedule;
extern const Schedule ssd_schedule_auto;  // {FORM_AUTO, 0, -1, 0, 0}

// "key=value ..." in any order, "" = all chosen. False with a message in *why naming key, found, expected.
bool ssd_schedule_parse(const char *text, Schedule *out, Text *why);
// Prints only what is set, in a fixed order.
void ssd_schedule_print(const Schedule *s, Text *out);
const char *ssd_form_name(Form f);

#endif
