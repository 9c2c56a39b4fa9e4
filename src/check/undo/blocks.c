/* SPDX-License-Identifier: MIT */
#include "check/undo/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define FIRST_ROOM ((size_t)64)
#define MAX_ITEMS ((size_t)UINT32_MAX / 4)

/* Multiplication spreads neighbours; the slots are twice the items, so that runs stay short. */
static size_t first_slot(const struct ox_blocks *set, uint64_t number)
{
	return (size_t)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (set->slot_count - 1);
}

static void put_slot(struct ox_blocks *set, size_t place)
{
	size_t slot = first_slot(set, set->items[place].number);

	while (set->slots[slot])
		slot = (slot + 1) & (set->slot_count - 1);
	set->slots[slot] = (uint32_t)place + 1;
}

static int grow(struct ox_blocks *set)
{
	size_t room = set->room ? 2 * set->room : FIRST_ROOM;
	struct ox_block_item *items;
	uint32_t *slots;

	if (room > MAX_ITEMS)
		return -ENOMEM;
	items = reallocarray(set->items, room, sizeof(*items));
	if (!items)
		return -ENOMEM;
	set->items = items;
	slots = calloc(2 * room, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(set->slots);
	set->slots = slots;
	set->slot_count = 2 * room;
	set->room = room;
	for (size_t i = 0; i < set->count; i++)
		put_slot(set, i);
	return 0;
}

size_t ox_blocks_find(const struct ox_blocks *set, uint64_t number)
{
	size_t slot;

	if (set->count == 0)
		return OX_BLOCKS_NONE;
	slot = first_slot(set, number);
	while (set->slots[slot]) {
		size_t place = set->slots[slot] - 1;

		if (set->items[place].number == number)
			return place;
		slot = (slot + 1) & (set->slot_count - 1);
	}
	return OX_BLOCKS_NONE;
}

int ox_blocks_add(struct ox_blocks *set, uint64_t number, uint8_t *bytes)
{
	if (set->count == set->room && grow(set) < 0)
		return -ENOMEM;
	ox_assert(ox_blocks_find(set, number) == OX_BLOCKS_NONE);
	set->items[set->count] = (struct ox_block_item){.number = number, .bytes = bytes};
	put_slot(set, set->count++);
	return 0;
}

void ox_blocks_clear(struct ox_blocks *set)
{
	for (size_t i = 0; i < set->count; i++)
		free(set->items[i].bytes);
	free(set->items);
	free(set->slots);
	*set = (struct ox_blocks){0};
}
