/* SPDX-License-Identifier: MIT */
/*
 * Whether an image looks preallocated: its refcounts name by far more clusters than its file has
 * space for. Then clusters that are named are holes of the file, and it is worth to ask the file
 * where. QEMU goes by the same rule, so that maps agree. Elsewhere the tables alone are asked, as
 * most images have no such holes, and some file systems take long to find them.
 *
 * The counts are read past the cache: it is a guess, it is made once, and it must not push out what
 * is in use. Damage is met by those who need the counts.
 */
#include <stdlib.h>

#include "img/qcow2/qcow2.h"

struct tally {
	struct ox_qcow2 *q;
	uint64_t clusters;     /* of the file */
	uint64_t named;	       /* up to now, */
	uint64_t enough;       /* and how many prove it */
	uint64_t blocks;       /* that were read, */
	uint64_t blocks_limit; /* of those that have space: more are damage */
	uint8_t *buf;
};

static int count_block_co(struct tally *t, uint64_t index, struct ox_host block)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(t->q);
	uint64_t per_block = ox_qcow2_refblock_entries(h);
	uint64_t n = ox_min_u64(per_block, t->clusters - index * per_block);
	struct ox_io_extent e;
	int r = ox_io_extent_co(t->q->m.io, block.bytes, &e);

	if (r == 0 && e.zero && e.length >= t->q->m.cluster_bytes)
		return 0;
	if (++t->blocks > t->blocks_limit)
		return -EIO;
	if (r == 0)
		r = ox_io_pread_co(t->q->m.io, t->buf, t->q->m.cluster_bytes, block.bytes);
	for (uint64_t i = 0; r == 0 && i < n; i++)
		t->named += ox_qcow2_refcount_get(t->buf, h->refcount_order, i) != 0;
	return r;
}

/* One sector of the refcount table at a time: all of a file's entries may fit in it. */
static int count_blocks_co(struct tally *t)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(t->q);
	uint64_t entries = ox_min_u64(ox_refcount_table_entries(t->q),
				      ox_div_up(t->clusters, ox_qcow2_refblock_entries(h)));
	struct ox_be64 sector[512 / 8];
	struct ox_host block;
	int r = 0;

	for (uint64_t i = 0; i < entries && t->named < t->enough; i++) {
		unsigned at = i % OX_ARRAY_SIZE(sector);

		if (at == 0)
			r = ox_io_pread_co(t->q->m.io, sector, sizeof(sector),
					   h->reftable_offset + i * 8);
		if (r < 0)
			return r;
		if (!ox_qcow2_reftable_decode(h, ox_be64_get(sector[at]), &block))
			return -EIO;
		if (block.bytes != 0)
			r = count_block_co(t, i, block);
		if (r < 0)
			return r;
	}
	return 0;
}

bool ox_qcow2_looks_preallocated_co(struct ox_mapped *m)
{
	struct tally t = {.q = ox_qcow2_of_mapped(m)};
	uint64_t space;
	uint64_t full;
	int r;

	if (ox_io_actual_bytes(m->io, &space) < 0)
		return false;
	full = space / m->cluster_bytes;
	t.clusters = ox_div_up(m->io->length, m->cluster_bytes);
	t.enough = ox_max_u64(full * 10 / 9, full + 2);
	t.blocks_limit = full + 1;
	if (t.clusters < t.enough)
		return false;
	t.buf = ox_io_buffer(m->cluster_bytes);
	if (!t.buf)
		return false;
	r = count_blocks_co(&t);
	free(t.buf);
	return r == 0 && t.named >= t.enough;
}
