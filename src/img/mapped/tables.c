/* SPDX-License-Identifier: MIT */
/*
 * Where the tables are: the host clusters of the active L2 tables (and of refcount blocks), each
 * with how often it is named. A data entry that names one of them, a table that is named twice, and
 * an allocation that would hand one out are refused (the image's metadata contradicts itself), so
 * that a guest never writes into the tables. An open-addressing hash set, which grows with the
 * tables that the file really holds.
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

static void add_cluster(struct ox_tables *t, uint64_t cluster)
{
	struct ox_table_slot *s = slot_of(t, cluster);

	ox_assert(cluster != 0);
	if (s->cluster == 0) {
		s->cluster = cluster;
		t->used++;
	}
	s->names++;
}

int ox_tables_add(struct ox_mapped *m, struct ox_host table)
{
	struct ox_tables *t = &m->tables;

	while (!t->slots || (t->used + m->table_clusters) * 2 > t->mask) {
		int r = grow_to(t, t->slots ? (t->mask + 1) * 2 : LEAST_SLOTS);

		if (r < 0)
			return r;
	}
	for (unsigned i = 0; i < m->table_clusters; i++)
		add_cluster(t, (table.bytes >> m->cluster_bits) + i);
	return 0;
}

void ox_tables_remove(struct ox_mapped *m, struct ox_host table)
{
	for (unsigned i = 0; i < m->table_clusters; i++) {
		struct ox_table_slot *s = slot_of(&m->tables, (table.bytes >> m->cluster_bits) + i);

		/* The slot stays, so that the probes of others still find their way. */
		if (s->cluster != 0 && s->names > 0)
			s->names--;
	}
}

bool ox_tables_unique(const struct ox_mapped *m, struct ox_host table)
{
	bool unique = true;

	for (unsigned i = 0; i < m->table_clusters && unique; i++)
		unique = slot_of(&m->tables, (table.bytes >> m->cluster_bits) + i)->names == 1;
	return unique;
}

bool ox_tables_is_known(struct ox_mapped *m, struct ox_host table)
{
	if (m->img->read_only && !ox_tables_overlap(m, table, 1) && ox_tables_add(m, table) < 0)
		return false;
	return ox_tables_unique(m, table);
}

bool ox_tables_overlap(const struct ox_mapped *m, struct ox_host host, uint64_t bytes)
{
	uint64_t first = host.bytes >> m->cluster_bits;
	uint64_t last = (host.bytes + bytes - 1) >> m->cluster_bits;

	for (uint64_t c = first; c <= last; c++) {
		if (c != 0 && slot_of(&m->tables, c)->names > 0)
			return true;
	}
	return false;
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
