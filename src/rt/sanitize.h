/* SPDX-License-Identifier: MIT */
/* What ASan and valgrind must be told of stacks and of memory that the kernel fills. */
#ifndef OX_RT_SANITIZE_H
#define OX_RT_SANITIZE_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define OX_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OX_ASAN 1
#endif
#endif

#ifdef OX_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

static inline void asan_start_switch(void **fake, const void *stack, size_t stack_bytes)
{
	__sanitizer_start_switch_fiber(fake, stack, stack_bytes);
}

static inline void asan_finish_switch(void *fake, const void **old_stack, size_t *old_bytes)
{
	__sanitizer_finish_switch_fiber(fake, old_stack, old_bytes);
}

static inline void asan_forget(const void *memory, size_t bytes)
{
	__asan_unpoison_memory_region(memory, bytes);
}

static inline void asan_poison(const void *memory, size_t bytes)
{
	__asan_poison_memory_region(memory, bytes);
}
#else
static inline void asan_start_switch(void **fake, const void *stack, size_t stack_bytes)
{
	(void)fake;
	(void)stack;
	(void)stack_bytes;
}

static inline void asan_finish_switch(void *fake, const void **old_stack, size_t *old_bytes)
{
	(void)fake;
	(void)old_stack;
	(void)old_bytes;
}

static inline void asan_forget(const void *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
}

static inline void asan_poison(const void *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
}
#endif

#ifdef OX_HAVE_VALGRIND
#include <valgrind/memcheck.h>
#include <valgrind/valgrind.h>

static inline bool valgrind_is_running(void)
{
	return RUNNING_ON_VALGRIND != 0;
}

static inline unsigned valgrind_register_stack(const char *stack, size_t bytes)
{
	return VALGRIND_STACK_REGISTER(stack, stack + bytes);
}

static inline void valgrind_deregister_stack(unsigned id)
{
	VALGRIND_STACK_DEREGISTER(id);
}

static inline void valgrind_defined(const void *memory, size_t bytes)
{
	(void)VALGRIND_MAKE_MEM_DEFINED(memory, bytes);
}
#else
static inline bool valgrind_is_running(void)
{
	return false;
}

static inline unsigned valgrind_register_stack(const char *stack, size_t bytes)
{
	(void)stack;
	(void)bytes;
	return 0;
}

static inline void valgrind_deregister_stack(unsigned id)
{
	(void)id;
}

static inline void valgrind_defined(const void *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
}
#endif

#endif
