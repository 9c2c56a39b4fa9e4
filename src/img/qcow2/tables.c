/* SPDX-License-Identifier: MIT */
/*
 * Where the tables are: the host clusters of the active L2 tables and of the refcount blocks, each
 * with how often it is named. A data entry that names one of them, a table that is named twice, and
 * an allocation that would hand one out are refused (the image's metadata contradicts itself), so
 * that a guest never writes into the tables. An open-addressing hash set, which grows with the
 * tables that the file really holds.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/qcow2/qcow2.h"

#define READ_BYTES (64u * 1024u)
#define LEAST_SLOTS 64u

/* Slot for the cluster, or the empty one where it would go. Cluster 0 is the header's: never a
 * table, so it marks an empty slot. */
static struct ox_table_slot *slot_of(const struct ox_tables *t, uint64_t cluster)
{
	uint64_t i = cluster * UINT64_C(0x9e3779b97f4a7c15) >> 20;

	for (;; i++) {
		struct ox_table_slot *s = &t->slots[i & t->mask];

		if (s->cluster == cluster || s->cluster == 0)
			return s;
	}
}

static int grow_to(struct ox_tables *t, size_t size)
{
	struct ox_tables old = *t;

	t->slots = calloc(size, sizeof(*t->slots));
	if (!t->slots) {
		*t = old;
		return -ENOMEM;
	}
	t->mask = size - 1;
	for (size_t i = 0; old.slots && i <= old.mask; i++) {
		if (old.slots[i].cluster != 0)
			*slot_of(t, old.slots[i].cluster) = old.slots[i];
	}
	free(old.slots);
	return 0;
}

int ox_tables_add(struct ox_qcow2 *q, struct ox_host table)
{
	struct ox_tables *t = &q->tables;
	struct ox_table_slot *s;

	ox_assert(table.bytes != 0);
	if (!t->slots || t->used * 2 > t->mask) {
		int r = grow_to(t, t->slots ? (t->mask + 1) * 2 : LEAST_SLOTS);

		if (r < 0)
			return r;
	}
	s = slot_of(t, table.bytes >> q->cluster_bits);
	if (s->cluster == 0) {
		s->cluster = table.bytes >> q->cluster_bits;
		t->used++;
	}
	s->names++;
	return 0;
}

void ox_tables_remove(struct ox_qcow2 *q, struct ox_host table)
{
	struct ox_table_slot *s = slot_of(&q->tables, table.bytes >> q->cluster_bits);

	/* The slot stays, so that the probes of others still find their way. */
	if (s->cluster != 0 && s->names > 0)
		s->names--;
}

bool ox_tables_unique(const struct ox_qcow2 *q, struct ox_host table)
{
	return slot_of(&q->tables, table.bytes >> q->cluster_bits)->names == 1;
}

bool ox_tables_overlap(const struct ox_qcow2 *q, struct ox_host host, uint64_t bytes)
{
	uint64_t first = host.bytes >> q->cluster_bits;
	uint64_t last = (host.bytes + bytes - 1) >> q->cluster_bits;

	for (uint64_t c = first; c <= last; c++) {
		if (c != 0 && slot_of(&q->tables, c)->names > 0)
			return true;
	}
	return false;
}

/* Reads a table of table offsets and notes where each entry points; what is malformed is met by the
 * request that needs it. */
static int load_table_co(struct ox_qcow2 *q, uint64_t offset, uint64_t entries)
{
	struct ox_be64 *buf = ox_io_buffer(READ_BYTES);
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && entries > 0) {
		uint64_t n = ox_min_u64(entries, READ_BYTES / 8);

		r = ox_io_pread_co(q->io, buf, n * 8, offset);
		for (uint64_t i = 0; r == 0 && i < n; i++) {
			uint64_t at = ox_be64_get(buf[i]) & OX_QCOW2_OFFSET_MASK;

			if (at >= q->cluster_bytes && at < q->io->length)
				r = ox_tables_add(q, ox_host(at));
		}
		offset += n * 8;
		entries -= n;
	}
	free(buf);
	return r;
}

int ox_tables_load_co(struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t blocks = (uint64_t)h->reftable_clusters * (q->cluster_bytes / 8);
	struct ox_tables old = q->tables;
	int r;

	q->tables = (struct ox_tables){.file_bytes = q->io->length};
	r = grow_to(&q->tables, LEAST_SLOTS);
	if (r == 0)
		r = load_table_co(q, h->l1_offset, h->l1_entries);
	if (r == 0)
		r = load_table_co(q, h->reftable_offset, blocks);
	if (r < 0) { /* requests may come that ask for what was known */
		free(q->tables.slots);
		q->tables = old;
	} else {
		free(old.slots);
	}
	return r;
}

void ox_tables_fini(struct ox_qcow2 *q)
{
	free(q->tables.slots);
	q->tables = (struct ox_tables){0};
}
