/* SPDX-License-Identifier: MIT */
/*
 * Where the tables are: the host clusters of the active L2 tables (and of refcount blocks), each
 * with how often it is named: a table of several clusters by the first of them. A data entry that
 * names one of them, a table that is named twice, and an allocation that would hand one out are
 * refused (the image's metadata contradicts itself), so that a guest never writes into the tables.
 * An open-addressing hash set, which grows with the tables that the file really holds.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/mapped/mapped.h"

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

int ox_tables_add(struct ox_mapped *m, struct ox_host table)
{
	struct ox_tables *t = &m->tables;
	uint64_t cluster = table.bytes >> m->cluster_bits;
	struct ox_table_slot *s;

	ox_assert(cluster != 0);
	if (!t->slots || t->used * 2 > t->mask) {
		int r = grow_to(t, t->slots ? (t->mask + 1) * 2 : LEAST_SLOTS);

		if (r < 0)
			return r;
	}
	s = slot_of(t, cluster);
	if (s->cluster == 0) {
		s->cluster = cluster;
		t->used++;
	}
	s->names++;
	return 0;
}

void ox_tables_remove(struct ox_mapped *m, struct ox_host table)
{
	struct ox_table_slot *s = slot_of(&m->tables, table.bytes >> m->cluster_bits);

	/* The slot stays, so that the probes of others still find their way. */
	if (s->cluster != 0 && s->names > 0)
		s->names--;
}

/* How many entries name tables that have a part of the clusters from first to last. */
static uint64_t names_on(const struct ox_mapped *m, uint64_t first, uint64_t last)
{
	uint64_t before = ox_min_u64(first, m->table_clusters - 1);
	uint64_t names = 0;

	for (uint64_t c = first - before; c <= last; c++)
		names += c == 0 ? 0 : slot_of(&m->tables, c)->names;
	return names;
}

bool ox_tables_unique(const struct ox_mapped *m, struct ox_host table)
{
	uint64_t first = table.bytes >> m->cluster_bits;

	return slot_of(&m->tables, first)->names == 1 &&
	       names_on(m, first, first + m->table_clusters - 1) == 1;
}

bool ox_tables_is_known(struct ox_mapped *m, struct ox_host table)
{
	if (m->img->read_only && !ox_tables_overlap(m, table, 1) && ox_tables_add(m, table) < 0)
		return false;
	return ox_tables_unique(m, table);
}

bool ox_tables_overlap(const struct ox_mapped *m, struct ox_host host, uint64_t bytes)
{
	return names_on(m, host.bytes >> m->cluster_bits,
			(host.bytes + bytes - 1) >> m->cluster_bits) > 0;
}

int ox_tables_load_co(struct ox_mapped *m)
{
	struct ox_tables old = m->tables;
	int r;

	m->tables = (struct ox_tables){.file_bytes = m->io->length};
	r = grow_to(&m->tables, LEAST_SLOTS);
	if (r == 0)
		r = m->ops->load_tables_co(m);
	if (r < 0) { /* requests may come that ask for what was known */
		free(m->tables.slots);
		m->tables = old;
	} else {
		free(old.slots);
	}
	return r;
}

void ox_tables_fini(struct ox_mapped *m)
{
	free(m->tables.slots);
	m->tables = (struct ox_tables){0};
}
