/* SPDX-License-Identifier: MIT */
#include "watched_memory.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static struct {
	uint8_t *memory;
	size_t bytes;
	void (*after)(const uint8_t *at);
	const uint8_t *at; /* of the store that is let through */
	uintptr_t code;	   /* the instruction that makes it */
	bool repeats;	   /* that instruction does */
} watched;

static void protect(int how)
{
	if (mprotect(watched.memory, watched.bytes, how) < 0)
		_exit(99);
}

/* ---- the processor ---- */

#ifdef __x86_64__
#define TRAP_FLAG                                                                                  \
	0x100 /* it stops after one instruction, or one turn of one that repeats itself            \
	       */

static greg_t *registers_of(void *context)
{
	return ((ucontext_t *)context)->uc_mcontext.gregs;
}

static void set_trap(void *context, bool on)
{
	greg_t flags = registers_of(context)[REG_EFL];

	registers_of(context)[REG_EFL] = on ? flags | TRAP_FLAG : flags & ~TRAP_FLAG;
}

static uintptr_t code_at(void *context)
{
	return (uintptr_t)registers_of(context)[REG_RIP];
}

/* What an instruction that repeats itself has stored to, of which `from` came first. */
static const uint8_t *last_store(void *context, const uint8_t *from)
{
	const uint8_t *next = (const uint8_t *)registers_of(context)[REG_RDI]; /* NOLINT */

	return next - from > 8 ? next - 8 : from;
}
#else
static void set_trap(void *context, bool on)
{
	(void)context;
	(void)on;
}

static uintptr_t code_at(void *context)
{
	(void)context;
	return 0;
}

static const uint8_t *last_store(void *context, const uint8_t *from)
{
	(void)context;
	return from;
}
#endif

/* ---- one store ---- */

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
	const uint8_t *at = info->si_addr;

	if (at < watched.memory || at >= watched.memory + watched.bytes) {
		(void)signal(signal_number, SIG_DFL); /* a fault like any other */
		return;
	}
	watched.at = at;
	watched.code = code_at(context);
	watched.repeats = false;
	protect(PROT_READ | PROT_WRITE);
	set_trap(context, true);
}

static void on_trap(int signal_number, siginfo_t *info, void *context)
{
	(void)signal_number;
	(void)info;
	if (code_at(context) == watched.code) {
		watched.repeats = true;
	} else {
		protect(PROT_READ);
		set_trap(context, false);
	}
	watched.after(watched.repeats ? last_store(context, watched.at) : watched.at);
}

bool memory_can_be_watched(void)
{
#ifdef __x86_64__
	const char *loaded = getenv("LD_PRELOAD");

	return !loaded || !strstr(loaded, "vgpreload");
#else
	return false;
#endif
}

/* Tasks have small stacks of their own. */
static void use_a_stack_for_signals(void)
{
	static uint8_t bytes[256 << 10];
	stack_t stack = {.ss_sp = bytes, .ss_size = sizeof(bytes)};

	if (sigaltstack(&stack, NULL) < 0)
		_exit(99);
}

void watch_memory(void *memory, size_t bytes, void (*after)(const uint8_t *at))
{
	struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};

	watched.memory = memory;
	watched.bytes = bytes;
	watched.after = after;
	use_a_stack_for_signals();
	(void)sigemptyset(&action.sa_mask);
	action.sa_sigaction = on_fault;
	if (sigaction(SIGSEGV, &action, NULL) < 0)
		_exit(99);
	action.sa_sigaction = on_trap;
	if (sigaction(SIGTRAP, &action, NULL) < 0)
		_exit(99);
	protect(PROT_READ);
}
