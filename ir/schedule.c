// SPDX-License-Identifier: Apache-2.0
// Schedules as one line of text, and back: a table of keys.
#include "schedule.h"

#include <limits.h>

const Schedule ssd_schedule_auto = {FORM_AUTO, 0, -1, 0, 0, 0, 0, -1, 0, -1, -1, 0};

static const char *const forms[] = {"auto", "recurrent", "quadratic", "chunked"};

const char *ssd_form_name(Form f) { return forms[f]; }

typedef struct Key {
    const char *name;
    size_t offset;
    int least, most;
    int chosen;      // "the compiler chooses": not printed
    int auto_means;  // what the word auto stands for: `chosen`, but for split
    const char *tag; // stands before the number
    const char *expected;
} Key;
#define FIELD(name) #name, offsetof(Schedule, name)
static const Key keys[] = {
    {FIELD(form), 0, 0, FORM_AUTO, FORM_AUTO, "", "auto, recurrent, quadratic or chunked"},
    {FIELD(q), 1, 65536, 0, 0, "", "auto or a number from 1 to 65536"},
    {FIELD(hoist), 0, 1, -1, -1, "", "auto, 0 or 1"},
    {FIELD(block), 1, 4096, 0, 0, "", "auto or a number from 1 to 4096"},
    {FIELD(sub), 1, 4096, 0, 0, "", "auto or a number from 1 to 4096"},
    {FIELD(split), 1, 4096, 0, SPLIT_LAUNCH, "t",
     "auto or t and a number from 1 to 4096, as in t3"},
    {FIELD(heads), 1, 16, 0, 0, "", "auto or a number from 1 to 16"},
    {FIELD(roles), 0, 2, -1, -1, "", "auto, 0, 1 or 2"},
    {FIELD(stages), 1, 16, 0, 0, "", "auto or a number from 1 to 16"},
    {FIELD(wgmma), 0, 1, -1, -1, "", "auto, 0 or 1"},
    {FIELD(pad), 0, 1, -1, -1, "", "auto, 0 or 1"},
    {FIELD(early), 0, 1, 0, 0, "", "0 or 1"},
};
#undef FIELD

static int *field(const Key *k, Schedule *s) { return (int *)(void *)((char *)s + k->offset); }
_Static_assert(sizeof(Form) == sizeof(int), "a form is read and written as an int");

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n'; }
static bool same(const char *s, size_t n, const char *word) {
    return strlen(word) == n && !memcmp(s, word, n);
}

// A value's number, or INT_MIN when it is none of this key's.
static int read_value(const Key *k, const char *s, size_t n) {
    if (same(s, n, "auto")) return k->auto_means;
    if (k->most == 0) {
        for (int i = 0; i < (int)COUNTOF(forms); i++)
            if (same(s, n, forms[i])) return i;
        return INT_MIN;
    }
    size_t tag = strlen(k->tag);
    if (n <= tag || memcmp(s, k->tag, tag)) return INT_MIN;
    int v = 0;
    for (size_t i = tag; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || v > k->most) return INT_MIN;
        v = 10 * v + (s[i] - '0');
    }
    return v >= k->least && v <= k->most ? v : INT_MIN;
}

static bool read_pair(const char *s, size_t n, Schedule *out, u32 *seen, Text *why) {
    const char *names[COUNTOF(keys)];
    for (size_t i = 0; i < COUNTOF(keys); i++) names[i] = keys[i].name;
    const char *eq = memchr(s, '=', n);
    size_t len = eq ? (size_t)(eq - s) : n;
    int at = -1;
    for (int i = 0; i < (int)COUNTOF(keys); i++)
        if (same(s, len, names[i])) at = i;
    if (at < 0) {
        char word[32];
        size_t m = MIN(len, sizeof word - 1);
        memcpy(word, s, m);
        word[m] = 0;
        int near = ssd_nearest(word, names, COUNTOF(names));
        ssd_text_printf(why, "unknown schedule key '%s'", word);
        if (near >= 0)
            ssd_text_printf(why, "; did you mean '%s'?", names[near]);
        else
            ssd_text_printf(why,
                            "; expected form, q, hoist, block, sub, split, heads, roles, stages, "
                            "wgmma, pad or early");
        return false;
    }
    if (*seen & 1u << at) {
        ssd_text_printf(why, "schedule key '%s' is given twice", names[at]);
        return false;
    }
    *seen |= 1u << at;
    int v = eq ? read_value(&keys[at], eq + 1, n - len - 1) : INT_MIN;
    if (v == INT_MIN) {
        int shown = eq ? (int)MIN(n - len - 1, (size_t)32) : 0;
        ssd_text_printf(why, "schedule key '%s' is '%.*s'; expected %s", names[at], shown,
                        eq ? eq + 1 : "", keys[at].expected);
        return false;
    }
    *field(&keys[at], out) = v;
    return true;
}

bool ssd_schedule_parse(const char *text, Schedule *out, Text *why) {
    *out = ssd_schedule_auto;
    u32 seen = 0;
    for (const char *s = text ? text : ""; *s;) {
        size_t n = 0;
        while (s[n] && !is_space(s[n])) n++;
        if (n && !read_pair(s, n, out, &seen, why)) return false;
        s += n;
        while (is_space(*s)) s++;
    }
    return true;
}

void ssd_schedule_print(const Schedule *s, Text *out) {
    Schedule copy = *s;
    const char *gap = "";
    for (size_t i = 0; i < COUNTOF(keys); i++) {
        int v = *field(&keys[i], &copy);
        if (v == keys[i].chosen) continue;
        if (keys[i].most == 0)
            ssd_text_printf(out, "%s%s=%s", gap, keys[i].name, forms[v]);
        else if (v == keys[i].auto_means)
            ssd_text_printf(out, "%s%s=auto", gap, keys[i].name);
        else
            ssd_text_printf(out, "%s%s=%s%d", gap, keys[i].name, keys[i].tag, v);
        gap = " ";
    }
}

const Machine *ssd_schedule_machine(Arena *a, const Schedule *s, const Machine *m) {
    if (!m || !m->wgmma || s->wgmma) return m;
    Machine *less = NEW(a, Machine);
    *less = *m;
    less->wgmma = false;
    return less;
}
