/* SPDX-License-Identifier: MIT */
/*
 * Stacks of tasks: one mapping each, with a guard page at its low end and the task's struct at its
 * high end. A few are kept for reuse, since a request is a task and lives for microseconds.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "rt/internal.h"
#include "rt/sanitize.h"

/* The deepest task of the library's own uses 12 KiB. A caller's callbacks (warn, progress, finding)
 * run on it as well, and what is never touched costs address space alone. */
#ifdef OX_ASAN
#define STACK_BYTES ((size_t)1024 << 10) /* redzones make frames several times as large */
#else
#define STACK_BYTES ((size_t)256 << 10)
#endif

#define FREE_STACKS_MAX 128

static size_t guard_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static struct ox_co *stack_map(void)
{
	size_t guard = guard_bytes();
	struct ox_co *co;
	char *map;

	map = mmap(NULL, guard + STACK_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map, guard, PROT_NONE) < 0) {
		ox_assert(munmap(map, guard + STACK_BYTES) == 0);
		return NULL;
	}
	co = (struct ox_co *)(void *)(map + guard + STACK_BYTES) - 1;
	ox_list_init(&co->link);
	co->stack = map + guard;
	co->stack_bytes = ox_align_down((uint64_t)((char *)co - co->stack), 64);
	co->valgrind_id = valgrind_register_stack(co->stack, co->stack_bytes);
	return co;
}

static void stack_unmap(struct ox_co *co)
{
	size_t guard = guard_bytes();

	valgrind_deregister_stack(co->valgrind_id);
	ox_assert(munmap(co->stack - guard, guard + STACK_BYTES) == 0);
}

struct ox_co *ox_stack_take(struct ox_reactor *r)
{
	struct ox_co *co;

	if (ox_list_empty(&r->free_stacks))
		return stack_map();
	co = ox_list_first(&r->free_stacks, struct ox_co, link);
	ox_list_del(&co->link);
	r->free_stack_count--;
	return co;
}

void ox_stack_give_back(struct ox_reactor *r, struct ox_co *co)
{
	ox_assert(co->state == OX_CO_ENDED);
	/* the last frames never returned, so their redzones are still in place */
	asan_forget(co->stack, co->stack_bytes);
	if (r->free_stack_count == FREE_STACKS_MAX) {
		stack_unmap(co);
		return;
	}
	/* last in, first out: the stack that is warm in the cache */
	ox_list_push_front(&r->free_stacks, &co->link);
	r->free_stack_count++;
}

void ox_stack_free_all(struct ox_reactor *r)
{
	while (!ox_list_empty(&r->free_stacks))
		stack_unmap(ox_stack_take(r));
}
