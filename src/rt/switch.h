/* SPDX-License-Identifier: MIT */
/*
 * The switch between two stacks of one thread. x86_64 and aarch64 have a few lines of assembly
 * that save what the calling convention says a call preserves; other machines use ucontext, which
 * costs a system call for the signal mask that we do not need.
 */
#ifndef OX_RT_SWITCH_H
#define OX_RT_SWITCH_H

#include <stddef.h>

#if (defined(__x86_64__) && !defined(__ILP32__)) || (defined(__aarch64__) && !defined(__ILP32__))
struct ox_switch {
	void *sp; /* everything else lies on the stack it points into */
};
#else
#include <ucontext.h>
struct ox_switch {
	ucontext_t context;
};
#endif

/* Makes s start entry at the top of the stack when it is first switched to. entry never returns. */
void ox_switch_init(struct ox_switch *s, void *stack, size_t stack_bytes, void (*entry)(void));

/* Leaves the running stack, to be gone on with by a later switch to from, and goes on with to. */
void ox_switch_to(struct ox_switch *from, const struct ox_switch *to);

#endif
