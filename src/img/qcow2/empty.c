/* SPDX-License-Identifier: MIT */
/* Tables that leave the L1 table, of an image that is emptied (img/mapped/empty.c). */
#include <errno.h>

#include "img/qcow2/qcow2.h"

static uint64_t span_bytes(const struct ox_qcow2 *q)
{
	return q->m.cluster_bytes << (q->m.cluster_bits - 3);
}

int ox_qcow2_table_at_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host *ret_table,
			 uint64_t *ret_next)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t index = guest.bytes / span_bytes(q);
	struct ox_qcow2_l1_entry l1;
	bool durable;
	int r;

	do {
		if (index >= ox_qcow2_hdr(q)->l1_entries)
			return -EIO;
		r = ox_map_l1_co(q, index, &l1, &durable);
		if (r < 0)
			return r;
		index++;
	} while (l1.l2.bytes == 0 && index * span_bytes(q) < m->img->size_bytes &&
		 index % (m->slice_bytes / 8) != 0);
	/* A stretch without tables ends where the first one begins. */
	if (l1.l2.bytes != 0 && (index - 1) * span_bytes(q) > guest.bytes) {
		*ret_table = ox_host(0);
		*ret_next = (index - 1) * span_bytes(q);
		return 0;
	}
	*ret_table = l1.l2;
	*ret_next = index * span_bytes(q);
	return 0;
}

/* Whoever shares the table with a snapshot loses its own reference alone, to the table and to all
 * that it names: the counts are lowered once each, as they were raised. */
int ox_qcow2_unlink_table_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host table)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t at = ox_qcow2_hdr(q)->l1_offset + guest.bytes / span_bytes(q) * 8;
	uint64_t slice = ox_align_down(at, m->slice_bytes);
	struct ox_block *b;
	int r;

	ox_mutex_lock_co(&m->table_lock);
	r = ox_cache_edit_co(&m->map, slice, &b);
	if (r == 0) {
		((struct ox_be64 *)(void *)b->data)[(at - slice) / 8] = ox_be64(0);
		ox_cache_dirty(&m->map, b, OX_TICKET_NONE);
		ox_cache_put(&m->map, b);
		q->tables_left++;
		ox_tables_remove(m, table);
		ox_cache_forget_co(&m->map, table.bytes, m->cluster_bytes);
	}
	ox_mutex_unlock(&m->table_lock);
	return r;
}

/* The highest cluster that the header, tables or anything else names, where that is all known. */
static uint64_t last_named(const struct ox_qcow2 *q)
{
	const struct ox_tables *t = &q->m.tables;
	uint64_t last = 0;

	for (unsigned i = 0; i < q->m.fixed_count; i++)
		last = ox_max_u64(last, ox_div_up(q->m.fixed[i].end, q->m.cluster_bytes));
	for (size_t i = 0; t->slots && i <= t->mask; i++) {
		if (t->slots[i].names > 0)
			last = ox_max_u64(last, t->slots[i].cluster + 1);
	}
	return last;
}

/* With nothing but the fixed tables and refcount blocks left, the file may be cut behind them at
 * its close as far as the counts say so. Snapshots and bitmaps name clusters that nobody has
 * looked at. */
void ox_qcow2_emptied(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);

	if (ox_qcow2_hdr(q)->snapshot_count == 0 && !q->ext.has_bitmaps)
		ox_space_set_floor(q, last_named(q));
}
