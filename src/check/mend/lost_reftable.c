/* SPDX-License-Identifier: MIT */
/*
 * A refcount table that the header does not lead to. Where everything else can be followed a new
 * one is made from the references, and nothing is missed. But what else was lost is told by the
 * counts: so the old one is looked for. It tells of itself: its entries name blocks, and these
 * count the header, the block that counts it, and the table, once each.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/mend/mend.h"

#define SECTOR_BYTES 512u
#define OFFSET_AT 48u /* of the header: offset, and then clusters */
#define MOST_CLUSTERS                                                                              \
	(UINT64_C(1) << 20) /* that are looked at: a table lies near the beginning                 \
			     */

struct search {
	struct ox_walk *w;
	uint8_t *block;
	struct ox_be64 *entries; /* of the cluster that is looked at */
	uint64_t found;		 /* candidates, and the first of them */
	uint64_t offset;
};

/* Whether a word can be an entry that names a block. */
static bool names_block(const struct ox_walk *w, uint64_t raw, uint64_t *ret_offset)
{
	struct ox_host block;

	if (!ox_qcow2_reftable_decode(&w->v.h, raw, &block))
		return false;
	*ret_offset = block.bytes;
	return block.bytes != 0 && !ox_view_is_cut(&w->v, block.bytes, w->v.cluster_bytes);
}

/* 1: by the cluster's entries a cluster is counted once; 0 or a negative errno. */
static int is_counted_once_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t index = cluster / w->k.rc.block_entries;
	uint64_t offset;
	int r;

	if (index >= w->v.cluster_bytes / 8 ||
	    !names_block(w, ox_be64_get(s->entries[index]), &offset))
		return 0;
	r = ox_io_pread_co(w->v.io, s->block, w->v.cluster_bytes, offset);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	return ox_qcow2_refcount_get(s->block, w->v.h.refcount_order,
				     cluster % w->k.rc.block_entries) == 1;
}

/* 1: the first sector can begin a table: the first entry names a block, no entry is anything else.
 */
static int begins_well_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t offset;
	int r = ox_io_pread_co(w->v.io, s->entries, SECTOR_BYTES, cluster * w->v.cluster_bytes);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	for (size_t i = 0; i < SECTOR_BYTES / 8; i++) {
		uint64_t raw = ox_be64_get(s->entries[i]);

		if ((i == 0 || raw != 0) && !names_block(w, raw, &offset))
			return 0;
	}
	return 1;
}

static int judge_cluster_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t first_block = 0;
	int r = begins_well_co(s, cluster);

	if (r <= 0)
		return r;
	r = ox_io_pread_co(w->v.io, s->entries, w->v.cluster_bytes, cluster * w->v.cluster_bytes);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	(void)names_block(w, ox_be64_get(s->entries[0]), &first_block);
	r = is_counted_once_co(s, 0);
	if (r > 0)
		r = is_counted_once_co(s, first_block / w->v.cluster_bytes);
	if (r > 0)
		r = is_counted_once_co(s, cluster);
	return r;
}

static int search_co(struct search *s)
{
	struct ox_walk *w = s->w;
	uint64_t end = ox_min_u64(w->v.file_bytes / w->v.cluster_bytes, MOST_CLUSTERS);

	for (uint64_t c = 1; c < end; c++) {
		int r = 0;

		if (ox_counts_get(&w->k.cells, c).state == OX_CELL_NONE)
			r = judge_cluster_co(s, c);
		if (r < 0)
			return r;
		if (r > 0 && s->found++ == 0)
			s->offset = c * w->v.cluster_bytes;
	}
	return 0;
}

static void patch(struct search *s)
{
	struct ox_walk *w = s->w;
	uint64_t blocks = ox_div_up(w->v.file_clusters, w->k.rc.block_entries);
	struct {
		struct ox_be64 offset;
		struct ox_be32 clusters;
	} __attribute__((packed)) fields = {
		ox_be64(s->offset),
		ox_be32((uint32_t)ox_max_u64(ox_div_up(8 * blocks, w->v.cluster_bytes), 1)),
	};

	ox_view_patch(&w->v, OX_FOUND_REFCOUNT_TABLE,
		      OX_FOUND(.word = w->v.faults.text[OX_QCOW2_FAULT_REFTABLE]), OFFSET_AT,
		      &fields, sizeof(fields));
}

/* The width of counts says how blocks are to be read. */
bool ox_mend_lacks_reftable(const struct ox_mend *m)
{
	return m->w->v.faults.found[OX_QCOW2_FAULT_REFTABLE] &&
	       !m->w->v.faults.found[OX_QCOW2_FAULT_REFCOUNT_ORDER] && m->w->j->structural > 0;
}

int ox_mend_reftable_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct search s = {.w = w};
	int r;

	s.block = malloc(w->v.cluster_bytes);
	s.entries = malloc(w->v.cluster_bytes);
	r = s.block && s.entries ? search_co(&s) : -ENOMEM;
	free(s.block);
	free(s.entries);
	if (r < 0 || s.found != 1)
		return r;
	patch(&s);
	return ox_mend_apply_patches_co(m, ret_again);
}
