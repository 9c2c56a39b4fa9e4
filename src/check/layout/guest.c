/* SPDX-License-Identifier: MIT */
/* The guest's order: where on the host each stretch of the virtual disk lies, in how many pieces.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/layout/layout.h"

#define UNSEEN UINT64_MAX

/* ---- L1 ---- */

static int mark_bad(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_layout *l = arg;
	const struct ox_view *v = &l->w.v;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&v->h, ox_be64_get(*entry));

	if (e.bad || (!v->dirty && ox_view_past_end(v, e.l2.bytes, v->cluster_bytes)))
		ox_layout_mark(l, (v->trees[tree].l1_offset + index * 8) / v->cluster_bytes);
	return 0;
}

/* ---- L2 ---- */

/* The table that is being looked at. */
struct table {
	struct ox_layout *l;
	struct ox_cell cell;
	uint64_t cluster;
	uint64_t next_contiguous; /* where the next data would go on; 0: nowhere */
};

static void take_bad(struct table *t, struct ox_layout_guest_bin *bin)
{
	bin->bad_entries++;
	ox_layout_mark(t->l, t->cluster);
}

static void take_place(struct ox_layout *l, uint64_t guest_cluster, uint64_t host_offset)
{
	uint64_t index = guest_cluster / l->guest_bin_clusters;

	if (guest_cluster >= l->guest_first[index])
		return;
	l->guest_first[index] = guest_cluster;
	l->guest_bins[index].host_offset = host_offset;
}

/* The guest's bytes at guest_cluster, of which the entry tells. */
static void take_entry(struct table *t, uint64_t guest_cluster, const struct ox_qcow2_entry *e)
{
	struct ox_layout *l = t->l;
	struct ox_walk *w = &l->w;
	struct ox_layout_guest_bin *bin = &l->guest_bins[guest_cluster / l->guest_bin_clusters];
	uint64_t size = ox_min_u64(w->v.cluster_bytes,
				   w->v.h.size_bytes - guest_cluster * w->v.cluster_bytes);
	bool compressed = e->kind == OX_QCOW2_ENTRY_COMPRESSED;

	if (e->kind == OX_QCOW2_ENTRY_UNALLOCATED)
		return;
	if (e->kind == OX_QCOW2_ENTRY_ZERO) {
		bin->zero_bytes += size;
		return;
	}
	if (e->kind == OX_QCOW2_ENTRY_BAD) {
		take_bad(t, bin);
		return;
	}
	/* A recovery drops it. */
	if (ox_view_entry_is_stale(&w->v, t->cluster, t->cell, e->host.bytes))
		return;
	if (ox_view_past_end(&w->v, e->host.bytes,
			     compressed ? e->compressed_bytes : w->v.cluster_bytes)) {
		take_bad(t, bin);
		return;
	}
	take_place(l, guest_cluster, e->host.bytes);
	if (compressed) {
		bin->compressed_bytes += size;
		t->next_contiguous = 0;
		return;
	}
	bin->data_bytes += size;
	bin->pieces += e->host.bytes != t->next_contiguous;
	t->next_contiguous = e->host.bytes + w->v.cluster_bytes;
}

static int look_at_l2(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *entries)
{
	struct ox_layout *l = arg;
	struct ox_walk *w = &l->w;
	struct table t = {.l = l, .cell = cell, .cluster = cluster};
	uint64_t place = ox_walk_place_of(w, cluster);
	/* An extended entry is followed by a word about its subclusters. */
	uint64_t words = w->v.h.incompatible & OX_QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
	uint64_t count = w->v.cluster_bytes / sizeof(*entries) / words;
	uint64_t first;

	/* A table that stands past the disk's end has no place there. */
	if (place == OX_WALK_NO_PLACE || !ox_mul_u64(ox_walk_place_index(place), count, &first) ||
	    first >= w->total_clusters)
		return 0;
	count = ox_min_u64(count, w->total_clusters - first);
	for (uint64_t i = 0; i < count; i++) {
		struct ox_qcow2_entry e;

		if (!entries[i * words].raw)
			continue;
		e = ox_view_l2_entry(&w->v, entries, i);
		take_entry(&t, first + i, &e);
	}
	return 0;
}

static void sum_up(struct ox_layout *l)
{
	struct ox_image_layout *result = l->result;

	for (size_t i = 0; i < result->guest_bin_count; i++) {
		result->data_bytes += l->guest_bins[i].data_bytes;
		result->pieces += l->guest_bins[i].pieces;
	}
}

int ox_layout_guest_co(struct ox_layout *l)
{
	struct ox_walk *w = &l->w;
	int r;

	l->guest_first = malloc(l->result->guest_bin_count * sizeof(*l->guest_first));
	if (!l->guest_first)
		return -ENOMEM;
	for (size_t i = 0; i < l->result->guest_bin_count; i++) {
		l->guest_first[i] = UNSEEN;
		l->guest_bins[i].host_offset = UINT64_MAX;
	}
	/* Entries that name places in another file say nothing of this one. */
	if (w->v.has_data_file)
		return 0;
	r = ox_walk_place_tables_co(w);
	if (r == 0)
		r = ox_walk_l1_co(w, OX_WAYS_ACTIVE, mark_bad, l);
	if (r == 0)
		r = ox_walk_l2_co(w, OX_WAYS_ACTIVE, look_at_l2, l);
	if (r == 0)
		sum_up(l);
	return r;
}
