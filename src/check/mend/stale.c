/* SPDX-License-Identifier: MIT */
/*
 * Entries of a dirty image that name what lies past the file's end: it never became durable (D8).
 * They go before the file grows.
 */
#include "check/mend/mend.h"

static int drop_l1(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));

	(void)tree;
	(void)index;
	if (e.bad || e.l2.bytes < w->v.file_bytes)
		return 0;
	ox_journal_mended(w->j, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = e.l2.bytes));
	ox_keeper_note_dropped(m->keeper);
	*entry = ox_be64(0);
	return 0;
}

static int drop_l2(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct ox_walk *w = arg;
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	if (w->v.has_data_file || ox_cell_is_broken(cell))
		return 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_be64 *entry = &table[i * words];
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(*entry));

		if (e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC &&
		    e.kind != OX_QCOW2_ENTRY_COMPRESSED)
			continue;
		if (!ox_view_entry_is_stale(&w->v, cluster, cell, e.host.bytes))
			continue;
		ox_journal_mended(w->j, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = e.host.bytes));
		/* A preallocated zero cluster loses its place, and still reads as zeroes. */
		*entry = ox_be64(e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC ? OX_QCOW2_ZERO : 0);
		/* No subcluster is allocated where there is no cluster; zero ones stay. */
		if (words == 2)
			entry[1] = ox_be64(ox_be64_get(entry[1]) & ~(uint64_t)UINT32_MAX);
	}
	return 0;
}

int ox_mend_drop_stale_l1_co(struct ox_mend *m)
{
	return ox_walk_l1_co(m->w, OX_WAYS_ACTIVE | OX_WAYS_CHANGE, drop_l1, m);
}

int ox_mend_drop_stale_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	int r;

	(void)ret_again;
	if (w->stale == 0 || m->has_dropped)
		return 0;
	r = ox_mend_drop_stale_l1_co(m);
	if (r == 0)
		r = ox_walk_l2_co(w, OX_WAYS_ACTIVE | OX_WAYS_CHANGE, drop_l2, w);
	if (r == 0)
		r = ox_io_sync_co(w->v.io);
	m->has_dropped = r == 0;
	return r;
}
