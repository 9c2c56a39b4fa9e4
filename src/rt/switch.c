/* SPDX-License-Identifier: MIT */
#include "rt/switch.h"

#include <stdint.h>
#include <string.h>

#include "base/assert.h"

#if defined(__x86_64__) && !defined(__ILP32__)

/* What ox_switch_to pops; see switch_x86_64.S. */
struct frame {
	uint32_t mxcsr;
	uint16_t x87_control;
	uint16_t unused;
	uint64_t r15, r14, r13, r12, rbx, rbp;
	void (*entry)(void);
	uint64_t caller; /* entry's own return address: 0 ends a debugger's backtrace */
};

void ox_switch_init(struct ox_switch *s, void *stack, size_t stack_bytes, void (*entry)(void))
{
	struct frame *frame = (struct frame *)(void *)((char *)stack + stack_bytes) - 1;

	/* entry sees the stack as after a call: 8 off a multiple of 16 */
	ox_assert((uintptr_t)&frame->caller % 16 == 8);
	memset(frame, 0, sizeof(*frame));
	__asm__("stmxcsr %0" : "=m"(frame->mxcsr));
	__asm__("fnstcw %0" : "=m"(frame->x87_control));
	frame->entry = entry;
	s->sp = frame;
}

#elif defined(__aarch64__) && !defined(__ILP32__)

/* What ox_switch_to loads; see switch_aarch64.S. */
struct frame {
	uint64_t x19_to_x28[10];
	uint64_t x29;	     /* 0 ends a debugger's backtrace */
	void (*entry)(void); /* x30 */
	uint64_t d8_to_d15[8];
};

void ox_switch_init(struct ox_switch *s, void *stack, size_t stack_bytes, void (*entry)(void))
{
	struct frame *frame = (struct frame *)(void *)((char *)stack + stack_bytes) - 1;

	ox_assert((uintptr_t)frame % 16 == 0);
	memset(frame, 0, sizeof(*frame));
	frame->entry = entry;
	s->sp = frame;
}

#else

void ox_switch_init(struct ox_switch *s, void *stack, size_t stack_bytes, void (*entry)(void))
{
	ox_assert(getcontext(&s->context) == 0);
	s->context.uc_stack.ss_sp = stack;
	s->context.uc_stack.ss_size = stack_bytes;
	s->context.uc_link = NULL;
	makecontext(&s->context, entry, 0);
}

void ox_switch_to(struct ox_switch *from, const struct ox_switch *to)
{
	ox_assert(swapcontext(&from->context, &to->context) == 0);
}

#endif
