/* hs_step.c - arm one labelled step; die or stop there. For tests only; nothing else in the process changes. */
#include "hs_step.h"
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "hs_err.h"

#define HS_STEP_NAME(label) #label,
static const char *const labels[] = {HS_STEPS(HS_STEP_NAME)};
_Static_assert(sizeof labels / sizeof *labels == HS_STEP_COUNT, "a name for each step");

hs_word32 hs_step_armed = HS_STEP_COUNT;
static hs_word32 passes_left;
static hs_word32 armed_action;

static int step_find(const char *label) {
    for (int i = 0; i < HS_STEP_COUNT; i++)
        if (strcmp(labels[i], label) == 0) return i;
    return HS_ARGUMENT;
}

const char *hs_step_label(int index) { return index >= 0 && index < HS_STEP_COUNT ? labels[index] : NULL; }

int hs_step_arm(const char *label, int nth, int action) {
    if (label == NULL) {
        hs_store32_relaxed(&hs_step_armed, HS_STEP_COUNT);
        return HS_OK;
    }
    int step = step_find(label);
    if (step < 0 || nth < 1 || (action != HS_STEP_KILL && action != HS_STEP_STOP)) return HS_ARGUMENT;
    hs_store32_relaxed(&passes_left, (uint32_t)nth);
    hs_store32_relaxed(&armed_action, (uint32_t)action);
    hs_store32_release(&hs_step_armed, (uint32_t)step);
    return HS_OK;
}

void hs_step_reached(enum hs_step step) {
    (void)step;
    if (hs_add32_seq_cst(&passes_left, UINT32_MAX) != 1) return;
    hs_store32_relaxed(&hs_step_armed, HS_STEP_COUNT);
    int signal_number = hs_load32_relaxed(&armed_action) == HS_STEP_KILL ? SIGKILL : SIGSTOP;
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), signal_number);
}

int hs_step_hit(const char *label) {
    int step = step_find(label);
    if (step < 0) return HS_ARGUMENT;
    if (hs_load32_relaxed(&hs_step_armed) == (uint32_t)step) hs_step_reached((enum hs_step)step);
    return HS_OK;
}
