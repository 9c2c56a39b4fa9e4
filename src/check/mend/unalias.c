/* SPDX-License-Identifier: MIT */
/*
 * Clusters that are named for several guest offsets, or as guest data and as metadata: each
 * reference but the first gets a copy. The copies and their counts are durable before an entry
 * names them (D1, D3); a crash before that leaves leaks.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "check/mend/mend.h"
#include "check/undo/edit.h"

static const char in_doubt[] = "in doubt";

/* A host cluster as one guest cluster names it, in however many trees. */
struct ref {
	uint64_t host;
	uint64_t guest;
	uint64_t refs;
	uint64_t copy; /* 0: keeps the cluster */
	uint64_t
		first; /* guest cluster of the one that keeps it; UINT64_MAX: something else does */
	bool forced;   /* in a table that is itself copied */
	bool owner;    /* a compressed stream: keeps the cluster */
};

struct unalias {
	struct ox_mend *m;
	struct ox_walk *w;
	struct ref *refs; /* by host and guest, once they are all known */
	size_t count;
	size_t room;
	uint64_t budget; /* clusters */
	uint64_t base;
	uint64_t next; /* cluster for the next copy */
	bool too_many;
};

/* ---- who names what ---- */

static bool is_split(struct ox_cell table_cell, size_t places)
{
	return places > 1 && ox_cell_is_broken(table_cell);
}

static int add_ref(struct unalias *u, struct ref ref)
{

	if (u->count >= 4 * u->budget) {
		u->too_many = true;
		return 0;
	}
	if (ox_grow(u->refs, u->count, u->room, 64) < 0)
		return -ENOMEM;
	u->refs[u->count++] = ref;
	return 0;
}

static int collect_stream(struct unalias *u, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = u->w;
	uint64_t last = (e->host.bytes + e->compressed_bytes - 1) / w->v.cluster_bytes;

	for (uint64_t c = e->host.bytes / w->v.cluster_bytes; c <= last; c++) {
		int r = 0;

		if (ox_cell_is_broken(ox_counts_get(&w->k.cells, c)))
			r = add_ref(u, (struct ref){.host = c, .owner = true});
		if (r < 0)
			return r;
	}
	return 0;
}

/* One entry of a table, for each of the places that will have a table of their own. */
static int collect_data(struct unalias *u, const struct ox_place *place, size_t places, bool split,
			uint64_t index, uint64_t host)
{
	struct ox_walk *w = u->w;
	bool broken = ox_cell_is_broken(ox_counts_get(&w->k.cells, host));
	uint64_t entries = ox_qcow2_l2_entries(&w->v.h);
	uint64_t all_refs = 0;
	int r = 0;

	for (size_t p = 0; p < places; p++)
		all_refs += place[p].refs;
	for (size_t p = 0; p < (split ? places : 1) && r == 0; p++) {
		struct ref ref = {
			.host = host,
			.guest = place[p].index * entries + index,
			.refs = split ? place[p].refs : all_refs,
			.forced = p > 0,
		};

		if (broken || ref.forced)
			r = add_ref(u, ref);
	}
	return r;
}

static int collect_table(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct unalias *u = arg;
	struct ox_walk *w = u->w;
	size_t places;
	const struct ox_place *place = ox_places_find(&u->m->places, cluster, &places);
	bool split = is_split(cell, places);

	for (uint64_t i = 0; place && i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
		int r = 0;

		if (e.kind == OX_QCOW2_ENTRY_DATA)
			r = collect_data(u, place, places, split, i,
					 e.host.bytes / w->v.cluster_bytes);
		else if (e.kind == OX_QCOW2_ENTRY_COMPRESSED)
			r = collect_stream(u, &e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int by_host(const void *one, const void *other)
{
	const struct ref *a = one;
	const struct ref *b = other;

	if (a->host != b->host)
		return a->host < b->host ? -1 : 1;
	if (a->owner != b->owner)
		return a->owner ? -1 : 1;
	return a->guest < b->guest ? -1 : a->guest > b->guest;
}

static void join_equal(struct unalias *u)
{
	size_t kept = 0;

	for (size_t i = 0; i < u->count; i++) {
		struct ref *last = kept ? &u->refs[kept - 1] : NULL;

		if (last && by_host(last, &u->refs[i]) == 0) {
			last->refs += u->refs[i].refs;
			last->forced |= u->refs[i].forced;
		} else {
			u->refs[kept++] = u->refs[i];
		}
	}
	u->count = kept;
}

/* The copy that stands in for host at a guest cluster; NULL where there is none. */
static const struct ref *find_copy(const struct unalias *u, uint64_t host, uint64_t guest)
{
	struct ref key = {.host = host, .guest = guest};
	const struct ref *ref;

	if (u->count == 0)
		return NULL;
	ref = bsearch(&key, u->refs, u->count, sizeof(*u->refs), by_host);
	return ref && ref->copy ? ref : NULL;
}

/* ---- who keeps it, and where the copies go ---- */

/* Metadata are claimed once, whatever else names them; a cross-link is named twice at least. */
static bool is_metadata(struct ox_cell cell)
{
	return ox_cell_is_l2(cell) || (ox_cell_is_broken(cell) && cell.count < 2);
}

/* What refers to its own copy is no reference of the cluster's any more. */
static int forget_ref(struct ox_walk *w, const struct ref *ref)
{
	struct ox_cell cell = ox_counts_get(&w->k.cells, ref->host);

	if (ox_cell_is_broken(cell))
		return 0;
	cell.count -= (uint32_t)ox_min_u64(cell.count, ref->refs);
	return ox_counts_set(&w->k.cells, ref->host, cell);
}

static void decide_data(struct unalias *u)
{
	const struct ref *keeper = NULL;

	for (size_t i = 0; i < u->count; i++) {
		struct ref *ref = &u->refs[i];
		struct ox_cell cell = ox_counts_get(&u->w->k.cells, ref->host);

		if (keeper && keeper->host != ref->host)
			keeper = NULL;
		if (ref->owner || (!keeper && !ref->forced && !is_metadata(cell))) {
			keeper = ref;
			continue;
		}
		ref->copy = u->next++;
		ref->first = keeper && !keeper->owner ? keeper->guest : UINT64_MAX;
	}
}

static void decide_tables(struct unalias *u)
{
	struct ox_places *places = &u->m->places;

	for (size_t i = 1; i < places->count; i++) {
		struct ox_place *p = &places->items[i];

		if (p->cluster == p[-1].cluster &&
		    ox_cell_is_broken(ox_counts_get(&u->w->k.cells, p->cluster)))
			p->copy = u->next++;
	}
}

static int count_copies(struct unalias *u)
{
	struct ox_walk *w = u->w;
	const struct ox_places *places = &u->m->places;
	int r = ox_ledger_grow(&w->k, u->next);

	for (size_t i = 0; i < u->count && r == 0; i++) {
		if (!u->refs[i].copy)
			continue;
		r = forget_ref(w, &u->refs[i]);
		if (r == 0)
			r = ox_ledger_add(&w->k, u->refs[i].copy, OX_CELL_DATA, u->refs[i].refs);
	}
	for (size_t i = 0; i < places->count && r == 0; i++) {
		if (places->items[i].copy)
			r = ox_ledger_add(&w->k, places->items[i].copy, OX_CELL_L2,
					  places->items[i].refs);
	}
	ox_ledger_note_grown(&w->k, u->base, u->next);
	return r;
}

/* Whether a block that cannot be read would have to count what is put there: the clusters asked
 * for, and then, at worst, a block for each of them and a table twice as large. */
static bool has_broken_block(const struct ox_ledger *k, uint64_t base, uint64_t end)
{
	uint64_t most = end + (end - base) + 2 * (uint64_t)k->rc.clusters + 2;
	uint64_t last = ox_min_u64(most / k->rc.block_entries + 1, k->rc.index_count);

	for (uint64_t i = base / k->rc.block_entries; i < last; i++) {
		if (k->rc.blocks[i].state != OX_BLOCK_NONE && !ox_ledger_block_is_own(k, i))
			return true;
	}
	return false;
}

/* Whether an entry can be written to the refcount table without harm to something else. */
static bool table_is_own(const struct ox_ledger *k)
{
	uint64_t first = k->rc.offset / k->v->cluster_bytes;

	for (uint64_t c = first; c < first + k->rc.clusters; c++) {
		if (ox_counts_get(&k->cells, c).state != OX_CELL_META)
			return false;
	}
	return true;
}

bool ox_mend_can_count(const struct ox_ledger *k, uint64_t base, uint64_t end)
{
	return !has_broken_block(k, base, end) && table_is_own(k);
}

/* Whether the copies may be made: there is room, they can be counted, and are not without end. */
static bool is_feasible(const struct unalias *u)
{
	const struct ox_walk *w = u->w;

	if (u->too_many || u->next - u->base > u->budget)
		return false;
	if (!w->v.io->can_grow && u->next > w->v.file_bytes / w->v.cluster_bytes)
		return false;
	return ox_mend_can_count(&w->k, u->base, u->next);
}

/* Whether a copy is named more often than a count can say: that has to be mended first. */
static bool has_narrow_copy(struct unalias *u)
{
	const struct ox_places *places = &u->m->places;
	uint64_t most = 0;

	for (size_t i = 0; i < u->count; i++) {
		if (u->refs[i].copy)
			most = ox_max_u64(most, u->refs[i].refs);
	}
	for (size_t i = 0; i < places->count; i++) {
		if (places->items[i].copy)
			most = ox_max_u64(most, places->items[i].refs);
	}
	if (most <= ox_qcow2_refcount_max(u->w->k.rc.order))
		return false;
	u->m->narrow_copies = true;
	u->m->most_refs = ox_max_u64(u->m->most_refs, most);
	return true;
}

/* ---- writing the copies ---- */

static uint64_t copied_bit(bool active, uint64_t refs)
{
	return active && refs == 1 ? OX_QCOW2_COPIED : 0;
}

static int copy_data_co(struct unalias *u, uint8_t *bytes)
{
	struct ox_walk *w = u->w;
	uint64_t read = 0;
	int r = 0;

	for (size_t i = 0; i < u->count && r == 0; i++) {
		const struct ref *ref = &u->refs[i];

		if (!ref->copy)
			continue;
		if (read != ref->host)
			r = ox_io_pread_co(w->v.io, bytes, w->v.cluster_bytes,
					   ref->host * w->v.cluster_bytes);
		read = r == 0 ? ref->host : 0;
		if (r == 0)
			r = ox_edit_write_data_co(w->v.io, bytes, w->v.cluster_bytes,
						  ref->copy * w->v.cluster_bytes);
	}
	return r;
}

/* Turns a table's bytes into those that its copy at a place has. */
static void divert_table(const struct unalias *u, const struct ox_place *place,
			 struct ox_be64 *table)
{
	const struct ox_walk *w = u->w;
	uint64_t entries = ox_qcow2_l2_entries(&w->v.h);
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	for (uint64_t i = 0; i < entries; i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
		const struct ref *ref =
			find_copy(u, e.host.bytes / w->v.cluster_bytes, place->index * entries + i);

		if (e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
			table[i * words] = ox_be64(OX_QCOW2_ZERO);
		else if (e.kind == OX_QCOW2_ENTRY_DATA && ref)
			table[i * words] = ox_be64(ref->copy * w->v.cluster_bytes |
						   copied_bit(place->tree == 0, ref->refs));
	}
}

static int copy_tables_co(struct unalias *u, struct ox_be64 *table)
{
	struct ox_walk *w = u->w;
	const struct ox_places *places = &u->m->places;
	int r = 0;

	for (size_t i = 0; i < places->count && r == 0; i++) {
		const struct ox_place *p = &places->items[i];

		if (!p->copy)
			continue;
		r = ox_io_pread_co(w->v.io, table, w->v.cluster_bytes,
				   p->cluster * w->v.cluster_bytes);
		if (r < 0)
			return r;
		divert_table(u, p, table);
		r = ox_io_pwrite_co(w->v.io, table, w->v.cluster_bytes,
				    p->copy * w->v.cluster_bytes, 0);
	}
	return r;
}

static int write_copies_co(struct unalias *u)
{
	uint8_t *bytes = ox_io_buffer(u->w->v.cluster_bytes);
	int r;

	if (!bytes)
		return -ENOMEM;
	r = copy_data_co(u, bytes);
	if (r == 0)
		r = copy_tables_co(u, (struct ox_be64 *)bytes);
	free(bytes);
	return r;
}

/* ---- naming them ---- */

static int divert_l1_entry(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct unalias *u = arg;
	struct ox_walk *w = u->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	uint64_t range_bytes = ox_qcow2_l2_entries(&w->v.h) * w->v.cluster_bytes;
	const struct ox_place *place;
	size_t places;

	if (e.bad || e.l2.bytes == 0)
		return 0;
	place = ox_places_find(&u->m->places, e.l2.bytes / w->v.cluster_bytes, &places);
	for (size_t p = 0; p < places; p++) {
		if (place[p].index != index || !place[p].copy)
			continue;
		*entry = ox_be64(place[p].copy * w->v.cluster_bytes |
				 copied_bit(tree == 0, place[p].refs));
		u->m->changes++;
		ox_journal_mended(w->j, OX_FOUND_CROSS_LINK_L2,
				  OX_FOUND(.a = place->cluster, .b = place->index, .c = index,
					   .host_offset = e.l2.bytes,
					   .snapshot = ox_view_name_of(&w->v, tree),
					   .fate = in_doubt, .guest_offset = index * range_bytes,
					   .guest_length = range_bytes));
	}
	return 0;
}

static void tell_data(const struct ox_view *v, const struct ox_place *place, uint64_t index,
		      const struct ref *ref)
{
	uint64_t offset = ref->host * v->cluster_bytes;
	struct ox_found what = OX_FOUND(.host_offset = offset, .fate = in_doubt);

	ox_mend_at_entry(v, place, index, &what);
	if (ref->first == UINT64_MAX) {
		what.word = "Data cluster";
		what.a = offset;
		what.b = v->cluster_bytes;
		ox_journal_mended(v->j, OX_FOUND_OVERLAP, what);
	} else {
		what.a = ref->host;
		what.b = ref->first * v->cluster_bytes;
		what.c = ref->guest * v->cluster_bytes;
		ox_journal_mended(v->j, OX_FOUND_CROSS_LINK, what);
	}
}

static int divert_l2_table(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct unalias *u = arg;
	struct ox_walk *w = u->w;
	uint64_t entries = ox_qcow2_l2_entries(&w->v.h);
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	size_t places;
	const struct ox_place *place = ox_places_find(&u->m->places, cluster, &places);

	for (uint64_t i = 0; place && i < entries; i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
		uint64_t host = e.host.bytes / w->v.cluster_bytes;
		const struct ref *ref = find_copy(u, host, place->index * entries + i);

		if (e.kind == OX_QCOW2_ENTRY_DATA && ref) {
			table[i * words] = ox_be64(ref->copy * w->v.cluster_bytes |
						   copied_bit((cell.state & 3u) != 0, ref->refs));
			tell_data(&w->v, place, i, ref);
		} else if (e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC &&
			   ox_cell_is_broken(ox_counts_get(&w->k.cells, host))) {
			/* The place is given up, and still reads as zeroes. */
			table[i * words] = ox_be64(OX_QCOW2_ZERO);
		} else {
			continue;
		}
		u->m->changes++;
	}
	return 0;
}

/* L1 first, durably: a table that was named twice is then named once, and may be changed. */
static int name_copies_co(struct unalias *u)
{
	struct ox_walk *w = u->w;
	int r = ox_walk_l1_co(w, OX_WAYS_CHANGE, divert_l1_entry, u);

	if (r == 0)
		r = ox_io_sync_co(w->v.io);
	if (r == 0)
		r = ox_walk_l2_co(w, OX_WAYS_CHANGE, divert_l2_table, u);
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

/* ---- all of it ---- */

static int place_copies(struct unalias *u, bool *ret_feasible)
{
	u->base = ox_mend_end_of_all(u->m);
	u->next = u->base;
	if (u->count > 0)
		qsort(u->refs, u->count, sizeof(*u->refs), by_host);
	join_equal(u);
	decide_data(u);
	decide_tables(u);
	*ret_feasible = is_feasible(u) && !has_narrow_copy(u);
	return *ret_feasible ? count_copies(u) : 0;
}

static int make_copies_co(struct unalias *u)
{
	struct ox_plan plan = {0};
	int r = ox_plan_make(u->m, &plan);

	if (r == 0)
		r = write_copies_co(u);
	if (r == 0)
		r = ox_mend_publish_counts_co(u->w, &plan);
	ox_plan_free(&plan);
	return r == 0 ? name_copies_co(u) : r;
}

int ox_mend_aliases_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct unalias u = {
		.m = m,
		.w = w,
		.budget = ox_mend_budget(w),
	};
	bool feasible = false;
	int r = ox_mend_read_places_co(m);

	if (r == 0)
		r = ox_walk_l2_co(w, OX_WAYS_ALL, collect_table, &u);
	if (r == 0)
		r = place_copies(&u, &feasible);
	if (r == 0 && feasible)
		r = make_copies_co(&u);
	free(u.refs);
	*ret_again = m->changes > 0;
	return r;
}
