/* SPDX-License-Identifier: MIT */
/* A set of numbered blocks in the order of their coming, each with a pointer of the owner's. */
#ifndef OX_CHECK_BLOCKS_H
#define OX_CHECK_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#define OX_BLOCKS_NONE SIZE_MAX

struct ox_block_item {
	uint64_t number;
	uint8_t *bytes; /* the owner's; NULL in a set that needs none */
};

/* All-zero: an empty set. */
struct ox_blocks {
	struct ox_block_item *items;
	size_t count;
	size_t room;
	uint32_t *slots; /* places in items, plus one; 0: empty */
	size_t slot_count;
};

/* Its place in items; OX_BLOCKS_NONE where it is not in the set. */
size_t ox_blocks_find(const struct ox_blocks *set, uint64_t number);
/* Adds one that is not in the set, at the end of items. 0 or -ENOMEM. */
int ox_blocks_add(struct ox_blocks *set, uint64_t number, uint8_t *bytes);
/* Empties the set and frees every item's bytes. */
void ox_blocks_clear(struct ox_blocks *set);

#endif
