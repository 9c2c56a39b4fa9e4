/* SPDX-License-Identifier: MIT */
#include "check/counts/stored.h"

#include <errno.h>
#include <stdlib.h>

static int load_block_co(struct ox_walk *w, struct ox_stored *k, uint64_t index, uint8_t **ret)
{
	unsigned slot = k->next_victim;
	int r;

	for (unsigned i = 0; i < OX_STORED_BLOCKS; i++) {
		if (k->blocks[i].bytes && k->blocks[i].index == index) {
			*ret = k->blocks[i].bytes;
			return 0;
		}
	}
	if (!k->blocks[slot].bytes)
		k->blocks[slot].bytes = malloc(w->cluster_bytes);
	if (!k->blocks[slot].bytes)
		return -ENOMEM;
	k->blocks[slot].index = UINT64_MAX;
	r = ox_io_pread_co(w->io, k->blocks[slot].bytes, w->cluster_bytes,
			   ox_be64_get(w->reftable[index]));
	if (r < 0)
		return r;
	k->blocks[slot].index = index;
	k->next_victim = (slot + 1) % OX_STORED_BLOCKS;
	*ret = k->blocks[slot].bytes;
	return 0;
}

int ox_stored_count_co(struct ox_walk *w, struct ox_stored *cache, uint64_t cluster, uint64_t *ret)
{
	uint64_t index = cluster / w->block_entries;
	uint8_t *block;
	int r;

	if (index >= w->index_count || w->blocks[index].state == OX_BLOCK_NONE) {
		*ret = 0;
		return 1;
	}
	if (w->blocks[index].state == OX_BLOCK_BROKEN)
		return 0;
	r = load_block_co(w, cache, index, &block);
	if (r < 0)
		return r;
	*ret = ox_qcow2_refcount_get(block, w->h.refcount_order, cluster % w->block_entries);
	return 1;
}

void ox_stored_free(struct ox_stored *cache)
{
	for (unsigned i = 0; i < OX_STORED_BLOCKS; i++)
		free(cache->blocks[i].bytes);
	*cache = (struct ox_stored){0};
}
