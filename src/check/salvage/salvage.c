/* SPDX-License-Identifier: MIT */
/* Which clusters that nothing names hold an L2 table, and what speaks for each. */
#include "check/salvage/salvage.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "base/sorted.h"
#include "check/scan/scan.h"

/* ---- one cluster's bytes ---- */

/* What one write of a disk may leave torn or lost. */
#define LOST_BYTES 4096u

struct ox_orphan_entry ox_salvage_entry(const struct ox_walk *w, uint64_t cluster,
					const struct ox_be64 *entry)
{
	struct ox_orphan_entry r = {.e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(entry[0]))};
	uint64_t subclusters = ox_qcow2_l2_words(&w->v.h) == 2 ? ox_be64_get(entry[1]) : 0;
	bool is_stream = r.e.kind == OX_QCOW2_ENTRY_COMPRESSED;
	uint64_t size_bytes = is_stream ? r.e.compressed_bytes : w->v.cluster_bytes;
	uint64_t limit_bytes = ox_view_limit_of(&w->v, cluster);
	uint64_t end_bytes = r.e.host.bytes + size_bytes;

	r.is_damaged = r.e.kind == OX_QCOW2_ENTRY_BAD ||
		       !ox_qcow2_subclusters_valid(r.e.kind, subclusters) ||
		       (is_stream && r.e.copied);
	r.is_zero = r.e.kind == OX_QCOW2_ENTRY_ZERO || subclusters != 0;
	if (!is_stream && r.e.kind != OX_QCOW2_ENTRY_DATA && r.e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
		return r;
	r.is_past_end = r.e.host.bytes >= limit_bytes ||
			(end_bytes > limit_bytes && end_bytes - limit_bytes >= w->v.cluster_bytes);
	r.is_damaged |= r.is_past_end || r.e.host.bytes < w->v.cluster_bytes;
	/* As the walk has it that counts the table once it is named. */
	r.names = r.e.host.bytes >= w->v.cluster_bytes &&
		  (!r.is_past_end || (!w->v.dirty && end_bytes - limit_bytes < w->v.cluster_bytes));
	return r;
}

static void count_entry(const struct ox_orphan_entry *entry, struct ox_orphan *o)
{
	bool is_stream = entry->e.kind == OX_QCOW2_ENTRY_COMPRESSED;

	o->damaged += entry->is_damaged;
	o->past_end += entry->is_past_end;
	if (entry->is_damaged)
		return;
	o->streams += entry->names && is_stream;
	o->data += entry->names && !is_stream;
	o->copied += entry->names && entry->e.copied;
	o->zeros += !entry->names && entry->is_zero;
}

/* Whether a cluster is there twice. Counts runs on the way, before the order is changed. */
static bool has_repeats(uint64_t *hosts, uint32_t count, uint32_t *ret_runs)
{
	bool ascends = true;

	*ret_runs = count > 0;
	for (uint32_t i = 1; i < count; i++) {
		*ret_runs += hosts[i] != hosts[i - 1] + 1;
		ascends &= hosts[i] > hosts[i - 1];
	}
	if (ascends)
		return false;
	qsort(hosts, count, sizeof(*hosts), ox_sorted_compare);
	for (uint32_t i = 1; i < count; i++) {
		if (hosts[i] == hosts[i - 1])
			return true;
	}
	return false;
}

static const char *why_damaged(const struct ox_orphan_entry *entry)
{
	return entry->is_past_end ? "it names what lies past the end of the file"
				  : "it holds what is no entry of an L2 table";
}

/* The bytes alone: no I/O, and soon over for nearly everything that is no table. */
static const char *judge_bytes(struct ox_salvage *s, uint64_t cluster, const struct ox_be64 *table,
			       struct ox_orphan *o)
{
	struct ox_walk *w = s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	uint64_t entries = ox_qcow2_l2_entries(&w->v.h);
	uint64_t most = ox_min_u64(LOST_BYTES / 8 / words, entries / 2);
	uint64_t *hosts = s->hosts;
	const char *why = NULL;
	uint32_t used = 0;
	uint32_t data = 0;

	for (uint64_t i = 0; i < entries && o->damaged <= most; i++) {
		struct ox_orphan_entry entry;

		if (!table[i * words].raw && (words == 1 || !table[i * words + 1].raw))
			continue;
		entry = ox_salvage_entry(w, cluster, &table[i * words]);
		count_entry(&entry, o);
		used += table[i * words].raw != 0;
		if (entry.is_damaged && !why)
			why = why_damaged(&entry);
		if (!entry.names || entry.e.kind == OX_QCOW2_ENTRY_COMPRESSED)
			continue;
		hosts[data] = entry.e.host.bytes / w->v.cluster_bytes;
		if (hosts[data++] == cluster)
			return "it names itself as data";
	}
	o->used = used;
	if (o->damaged > most || 2 * o->damaged > used)
		return why;
	if (ox_orphan_named(o) == 0)
		return "it names no cluster";
	if (has_repeats(hosts, data, &o->runs))
		return "it names a cluster twice";
	return NULL;
}

/* ---- what it names ---- */

/* What an entry's clusters say together. */
struct claim {
	bool unshared;
	bool counted;
	bool taken;
	bool is_single;	 /* counted once, or not known to be counted otherwise */
	const char *why; /* it cannot be an entry */
};

static int weigh_cluster_co(struct ox_salvage *s, uint64_t cluster, struct ox_orphan *o,
			    struct claim *claim)
{
	struct ox_walk *w = s->w;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	uint64_t index = cluster / w->k.rc.block_entries;
	uint64_t stored = 0;
	bool missing;
	int r;

	/* What an L1 entry takes for a table, and is none, may be what this one names. */
	if (!s->is_linking && ox_cell_is_l2(cell) && !ox_cell_is_broken(cell) && cell.count == 1 &&
	    ox_walk_is_no_table(w, cluster))
		cell = (struct ox_cell){0};
	if (cell.state == OX_CELL_META || ox_cell_is_l2(cell)) {
		claim->why = "it names clusters that hold tables";
		return 0;
	}
	/* Without a refcount table nothing is counted, and that says nothing. */
	r = w->k.rc.index_count > 0 ? ox_stored_count_co(&w->k, &s->stored, cluster, &stored) : 0;
	if (r == -ENOMEM)
		return r;
	o->lacks_block |=
		index >= w->k.rc.index_count || w->k.rc.blocks[index].state == OX_BLOCK_NONE;
	missing = r > 0 && stored > cell.count && !ox_cell_is_broken(cell);
	claim->unshared &= cell.state == OX_CELL_NONE;
	claim->counted &= missing;
	claim->taken |= cell.state != OX_CELL_NONE && !missing;
	claim->is_single &= r <= 0 || stored == 1;
	return 0;
}

static int weigh_entry_co(struct ox_salvage *s, const struct ox_orphan_entry *entry,
			  struct ox_orphan *o, const char **ret_why)
{
	struct ox_walk *w = s->w;
	const struct ox_qcow2_entry *e = &entry->e;
	bool is_stream = e->kind == OX_QCOW2_ENTRY_COMPRESSED;
	uint64_t size_bytes = is_stream ? e->compressed_bytes : w->v.cluster_bytes;
	uint64_t last = (e->host.bytes + size_bytes - 1) / w->v.cluster_bytes;
	struct claim claim = {.unshared = true, .counted = true, .is_single = true};

	for (uint64_t c = e->host.bytes / w->v.cluster_bytes; c <= last && !claim.why; c++) {
		int r = weigh_cluster_co(s, c, o, &claim);

		if (r < 0)
			return r;
	}
	o->taken += claim.taken;
	*ret_why = claim.why;
	/* What is damaged speaks for nothing. */
	if (entry->is_damaged)
		return 0;
	o->unshared += claim.unshared;
	o->counted += claim.counted;
	if (!is_stream)
		o->copied_agrees += e->copied == claim.is_single;
	return 0;
}

static int weigh_table_co(struct ox_salvage *s, const struct ox_be64 *table, struct ox_orphan *o,
			  const char **ret_why)
{
	struct ox_walk *w = s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	int r = 0;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h) && r == 0 && !*ret_why; i++) {
		struct ox_orphan_entry entry = ox_salvage_entry(w, o->cluster, &table[i * words]);

		if (entry.names)
			r = weigh_entry_co(s, &entry, o, ret_why);
	}
	return r;
}

/* What it names must, for the most part, be what it alone names, or what is counted for it. */
static const char *judge_whole(const struct ox_view *v, const struct ox_orphan *o)
{
	uint32_t named = ox_orphan_named(o);
	bool is_counted = o->stored != OX_STORED_UNKNOWN && o->stored > 0;

	if ((o->taken > 0 && !is_counted) || 2 * o->taken >= named ||
	    (2 * o->unshared <= named && 2 * o->counted <= named))
		return "it is an old copy of another table: what it names is in use";
	/* A list of clusters that is not the disk's: a bitmap's, a refcount table. */
	if (v->tree_count == 1 && !ox_seen_hides_trees(v->j) && o->copied + o->streams == 0)
		return "none of its entries has COPIED, and no snapshot can have owned it";
	return NULL;
}

/* Of a table with damage: either what is left is sure, or the damage is slight, and what is left is
 * counted for the most part; a dirty image's counts may be behind. */
static const char *judge_damage(const struct ox_view *v, const struct ox_orphan *o)
{
	uint32_t named = ox_orphan_named(o);
	bool is_counted = o->stored != OX_STORED_UNKNOWN && o->stored > 0;
	bool is_slight = 8 * o->damaged <= o->used && ox_orphan_is_telling(o);

	if (o->damaged == 0 || ox_orphan_is_sure(o, 0) || ox_orphan_is_sure(o, 1) ||
	    (is_slight && (v->dirty || (is_counted && 2 * o->counted > named))))
		return NULL;
	return "parts of it are no entries, and too little speaks for the rest";
}

int ox_salvage_judge_co(struct ox_salvage *s, uint64_t cluster, const struct ox_be64 *table,
			struct ox_orphan *ret, const char **ret_why)
{
	struct ox_walk *w = s->w;
	struct ox_orphan o = {.cluster = cluster, .index = OX_WALK_NO_PLACE};
	struct claim own = {0};
	const char *why = judge_bytes(s, cluster, table, &o);
	int r = 0;

	if (!why)
		r = weigh_table_co(s, table, &o, &why);
	if (r == 0 && !why) {
		o.stored = OX_STORED_UNKNOWN;
		r = weigh_cluster_co(s, cluster, &o, &own);
		if (r == 0 && w->k.rc.index_count > 0)
			r = ox_stored_count_co(&w->k, &s->stored, cluster, &o.stored);
		if (r != -ENOMEM)
			r = 0;
		why = judge_whole(&w->v, &o);
		if (!why)
			why = judge_damage(&w->v, &o);
	}
	if (r < 0)
		return r;
	*ret_why = why;
	*ret = o;
	return 0;
}

/* ---- all clusters that no cell has ---- */

#define LARGE_HOLE_BYTES (UINT64_C(16) << 20)

/* The lowest cluster at or after from, below end, that nothing names; end if there is none. */
static uint64_t next_unnamed(const struct ox_walk *w, uint64_t from, uint64_t end)
{
	while (from < end) {
		struct ox_counts_mask mask = ox_counts_mask(&w->k.cells, ox_align_down(from, 64));
		uint64_t free_cells = ~(mask.once | mask.other) >> from % 64;

		if (free_cells)
			return ox_min_u64(from + (unsigned)__builtin_ctzll(free_cells), end);
		from = ox_align_down(from, 64) + 64;
	}
	return end;
}

/* A run of clusters of the stretch that is being scanned. */
static bool salvage_next(void *arg, struct ox_scan_item *ret)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	uint64_t end = s->end;
	uint64_t most = ox_scan_item_max(w->v.cluster_bytes) / w->v.cluster_bytes;
	uint64_t first = next_unnamed(w, s->next, end);
	uint64_t last;

	if (first >= end)
		return false;
	last = ox_counts_next(&w->k.cells, first, ox_min_u64(end, first + most));
	s->next = last;
	*ret = (struct ox_scan_item){
		.offset = first * w->v.cluster_bytes,
		.size_bytes = (last - first) * w->v.cluster_bytes,
	};
	return true;
}

static int keep(struct ox_salvage *s, uint64_t cluster, unsigned state)
{
	struct ox_cell cell = ox_counts_get(&s->kept, cluster);

	/* One that is named stays known as that. */
	if (cell.state == OX_CELL_DATA)
		return 0;
	return ox_counts_set(&s->kept, cluster, (struct ox_cell){.state = state, .count = 1});
}

int ox_salvage_keep(struct ox_salvage *s, uint64_t cluster, const struct ox_be64 *table)
{
	struct ox_walk *w = s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	int r = keep(s, cluster, OX_CELL_META);

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h) && r == 0; i++) {
		struct ox_orphan_entry entry = ox_salvage_entry(w, cluster, &table[i * words]);
		struct ox_qcow2_entry *e = &entry.e;
		uint64_t size_bytes = e->kind == OX_QCOW2_ENTRY_COMPRESSED ? e->compressed_bytes
									   : w->v.cluster_bytes;

		if (!entry.names)
			continue;
		for (uint64_t c = e->host.bytes / w->v.cluster_bytes;
		     c <= (e->host.bytes + size_bytes - 1) / w->v.cluster_bytes && r == 0; c++)
			r = keep(s, c, OX_CELL_DATA);
	}
	return r;
}

int ox_salvage_add(struct ox_salvage *s, const struct ox_orphan *orphan,
		   const struct ox_be64 *table)
{

	if (s->count == OX_SALVAGE_MAX) {
		s->too_many = true;
		return 0;
	}
	if (ox_grow(s->orphans, s->count, s->room, 16) < 0)
		return -ENOMEM;
	s->orphans[s->count++] = *orphan;
	return ox_salvage_keep(s, orphan->cluster, table);
}

static int salvage_cluster_co(struct ox_salvage *s, uint64_t cluster, const uint8_t *bytes)
{
	const struct ox_be64 *table = (const struct ox_be64 *)bytes;
	struct ox_orphan orphan;
	const char *why = NULL;
	int r = ox_salvage_judge_co(s, cluster, table, &orphan, &why);

	if (r < 0 || why)
		return r;
	return ox_salvage_add(s, &orphan, table);
}

static int salvage_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	int r = 0;

	for (uint64_t at = 0; at < item->size_bytes && r == 0; at += w->v.cluster_bytes) {
		int failed = error ? ox_io_pread_co(w->v.io, bytes + at, w->v.cluster_bytes,
						    item->offset + at)
				   : 0;

		/* Nobody misses what nothing names. */
		if (failed == 0)
			r = salvage_cluster_co(s, (item->offset + at) / w->v.cluster_bytes,
					       bytes + at);
		else if (failed == -ENOMEM)
			r = failed;
	}
	ox_journal_progress(w->j, 1);
	return r;
}

/* ---- a walk's orphans ---- */

int ox_salvage_prepare(struct ox_salvage *s)
{
	s->hosts = reallocarray(NULL, ox_qcow2_l2_entries(&s->w->v.h), sizeof(*s->hosts));
	return s->hosts ? 0 : -ENOMEM;
}

void ox_salvage_finish(struct ox_salvage *s)
{

	free(s->hosts);
	s->hosts = NULL;
	ox_stored_free(&s->stored);
}

void ox_salvage_forget(struct ox_salvage *s)
{
	free(s->orphans);
	free(s->gaps);
	ox_counts_free(&s->kept);
	ox_counts_free(&s->crossed);
	*s = (struct ox_salvage){
		.keeper = s->keeper,
		.opts = s->opts,
		.m = s->m,
		.g = s->g,
		.w = s->w,
		.by_hand_done = s->by_hand_done,
		.is_over = s->is_over,
		.is_unsettled = s->is_unsettled,
		.linked = s->linked,
		.found = s->found,
		.unsearched = s->unsearched,
	};
}

/* How many items there are from a cluster on, below end. */
static uint64_t count_items(struct ox_salvage *s, uint64_t from, uint64_t end)
{
	struct ox_scan_item item;
	uint64_t count = 0;

	s->next = from;
	s->end = end;
	while (salvage_next(s, &item))
		count++;
	return count;
}

/* Where a hole of the file begins, or else ends: from a cluster on, in clusters, end at most. Small
 * holes are read as what lies around them is. */
static uint64_t stretch_end_co(const struct ox_view *v, uint64_t from, uint64_t end, bool *ret_hole)
{
	uint64_t at = from * v->cluster_bytes;
	struct ox_io_extent extent;

	*ret_hole = false;
	while (at < end * v->cluster_bytes) {
		uint64_t first = ox_div_up(at, v->cluster_bytes);
		bool is_hole;

		if (ox_io_extent_co(v->io, at, &extent) < 0)
			return end;
		is_hole = extent.zero && extent.length >= LARGE_HOLE_BYTES;
		if (is_hole && first > from)
			return first;
		*ret_hole = is_hole;
		if (!ox_add_u64(at, extent.length, &at))
			return end;
		if (is_hole)
			return ox_min_u64(at / v->cluster_bytes, end);
	}
	return end;
}

static int scan_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	static const struct ox_scan_ops ops = {.next = salvage_next, .visit_co = salvage_item_co};
	uint64_t end = w->v.file_bytes / w->v.cluster_bytes;
	uint64_t to;
	bool is_hole;
	int r;

	ox_journal_expect(w->j, count_items(s, 0, end));
	r = ox_salvage_prepare(s);
	for (uint64_t from = 0; from < end && r == 0; from = to) {
		to = stretch_end_co(&w->v, from, end, &is_hole);
		if (is_hole) {
			ox_journal_progress(w->j, count_items(s, from, to));
			continue;
		}
		s->next = from;
		s->end = to;
		r = ox_scan_co(w->v.io, w->v.cluster_bytes, &ops, s);
	}
	ox_salvage_finish(s);
	return r;
}

int ox_salvage_find_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	int r;

	ox_salvage_forget(s);
	/* What such entries mean is not known, or lies in another file. */
	if (s->is_over || w->v.is_foreign || w->v.has_data_file)
		return 0;
	r = ox_counts_init(&s->kept, w->v.file_clusters + 1);
	if (r == 0)
		r = ox_counts_init(&s->crossed, w->v.file_clusters + 1);
	if (r == 0)
		r = scan_co(s);
	if (r == 0 && s->count > 0)
		r = ox_salvage_relate_co(s);
	if (r == 0 && s->count + s->opts->link_count > 0)
		r = ox_salvage_fit_co(s);
	for (size_t i = 0; i < s->count; i++)
		s->has_damaged |= s->orphans[i].damaged > 0;
	s->found = s->count;
	return r;
}

/* ---- what is kept ---- */

static bool keeps(const struct ox_keeper *keeper, uint64_t cluster)
{
	const struct ox_salvage *s = ox_salvage_of(keeper);

	return s->count > 0 && ox_counts_get(&s->kept, cluster).state != OX_CELL_NONE;
}

static bool keeps_count(const struct ox_keeper *keeper, uint64_t cluster)
{
	return keeps(keeper, cluster) || ox_salvage_of(keeper)->has_damaged;
}

static uint64_t next_kept(const struct ox_keeper *keeper, uint64_t from, uint64_t end)
{
	const struct ox_salvage *s = ox_salvage_of(keeper);

	return s->count > 0 ? ox_counts_next(&s->kept, from, end) : end;
}

static const char *why_kept(const struct ox_keeper *keeper)
{
	return ox_salvage_of(keeper)->opts->salvage
		       ? "it belongs to an L2 table that nothing names: link the table, or "
			 "repair without --salvage"
		       : "it may belong to a lost L2 table: --salvage links the table, "
			 "--salvage=none frees it";
}

static void note_dropped(struct ox_keeper *keeper)
{
	ox_container_of(keeper, struct ox_salvage, keeper)->is_unsettled = true;
}

static int link_co(struct ox_keeper *keeper, bool *ret_again, struct ox_error **err)
{
	struct ox_salvage *s = ox_container_of(keeper, struct ox_salvage, keeper);

	if (s->opts->salvage)
		return ox_salvage_link_co(s, ret_again, err);
	return ox_seen_hides_trees(s->w->j) ? 0 : ox_salvage_link_sure_co(s, ret_again, err);
}

static int look_co(struct ox_keeper *keeper)
{
	return ox_salvage_look_co(ox_container_of(keeper, struct ox_salvage, keeper));
}

static const struct ox_keeper keeper = {
	.keeps = keeps,
	.keeps_count = keeps_count,
	.why_kept = why_kept,
	.next_kept = next_kept,
	.awaits = ox_salvage_awaits,
	.awaits_alias = ox_salvage_awaits_alias,
	.link_co = link_co,
	.look_co = look_co,
	.note_dropped = note_dropped,
};

void ox_salvage_init(struct ox_salvage *s, const struct ox_check_options *opts)
{
	*s = (struct ox_salvage){.keeper = keeper, .opts = opts};
}

void ox_salvage_begin(struct ox_salvage *s, struct ox_mend *m)
{
	ox_salvage_forget(s);
	s->m = m;
	s->g = m->g;
	s->w = m->w;
}
