/* SPDX-License-Identifier: MIT */
#include "check/ledger/stored.h"

#include <errno.h>
#include <stdlib.h>

static int load_block_co(const struct ox_ledger *k, struct ox_stored *cache, uint64_t index,
			 uint8_t **ret)
{
	unsigned slot = cache->next_victim;
	int r;

	for (unsigned i = 0; i < OX_STORED_BLOCKS; i++) {
		if (cache->blocks[i].bytes && cache->blocks[i].index == index) {
			*ret = cache->blocks[i].bytes;
			return 0;
		}
	}
	if (!cache->blocks[slot].bytes)
		cache->blocks[slot].bytes = malloc(k->v->cluster_bytes);
	if (!cache->blocks[slot].bytes)
		return -ENOMEM;
	cache->blocks[slot].index = UINT64_MAX;
	r = ox_io_pread_co(k->v->io, cache->blocks[slot].bytes, k->v->cluster_bytes,
			   ox_ledger_block_offset(k, index));
	if (r < 0)
		return r;
	cache->blocks[slot].index = index;
	cache->next_victim = (slot + 1) % OX_STORED_BLOCKS;
	*ret = cache->blocks[slot].bytes;
	return 0;
}

int ox_stored_count_co(const struct ox_ledger *k, struct ox_stored *cache, uint64_t cluster,
		       uint64_t *ret)
{
	uint64_t index = cluster / k->rc.block_entries;
	uint8_t *block;
	int r;

	if (index >= k->rc.index_count || k->rc.blocks[index].state == OX_BLOCK_NONE) {
		*ret = 0;
		return 1;
	}
	if (k->rc.blocks[index].state == OX_BLOCK_BROKEN)
		return 0;
	r = load_block_co(k, cache, index, &block);
	if (r < 0)
		return r;
	*ret = ox_qcow2_refcount_get(block, k->rc.order, cluster % k->rc.block_entries);
	return 1;
}

void ox_stored_free(struct ox_stored *cache)
{
	for (unsigned i = 0; i < OX_STORED_BLOCKS; i++)
		free(cache->blocks[i].bytes);
	*cache = (struct ox_stored){0};
}
