/* SPDX-License-Identifier: MIT */
/*
 * What each stretch of an image's file is used for: the walk of a check, told by place.
 *
 * Memory is that of a check, and a bin for each stretch. A cluster that is damaged or leaked is
 * never outvoted: each bin counts it apart.
 */
#include "check/layout/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/grow.h"
#include "base/sorted.h"
#include "check/check.h"

/* ---- which table a META cluster belongs to ---- */

static enum ox_layout_kind kind_of_word(const char *word)
{
	static const struct {
		const char *word;
		enum ox_layout_kind kind;
	} words[] = {
		{"Header", OX_LAYOUT_HEADER},
		{"Active L1 table", OX_LAYOUT_L1},
		{"Refcount table", OX_LAYOUT_REFCOUNT},
		{"Snapshot table", OX_LAYOUT_SNAPSHOT_TABLE},
		{"Snapshot L1 table", OX_LAYOUT_SNAPSHOT_TABLE},
		{"Bitmap directory", OX_LAYOUT_BITMAP},
		{"Bitmap table", OX_LAYOUT_BITMAP},
		{"Bitmap data", OX_LAYOUT_BITMAP},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].word, word) == 0)
			return words[i].kind;
	}
	return OX_LAYOUT_OTHER_TABLE;
}

static int add_range(struct ox_layout *l, enum ox_layout_kind kind, uint64_t first, uint64_t end)
{
	struct ox_layout_range *last = l->range_count ? &l->ranges[l->range_count - 1] : NULL;

	if (first == end)
		return 0;
	if (last && last->kind == kind && last->end == first) {
		last->end = end;
		return 0;
	}
	if (ox_grow(l->ranges, l->range_count, l->range_room, 64) < 0)
		return -ENOMEM;
	l->ranges[l->range_count++] = (struct ox_layout_range){first, end, kind};
	return 0;
}

static int take_claim(void *arg, const char *word, uint64_t first, uint64_t end)
{
	return add_range(arg, kind_of_word(word), first, end);
}

/* Refcount blocks are claimed one by one, under no word. */
static int complete_ranges(struct ox_layout *l)
{
	const struct ox_walk *w = &l->w;

	for (uint64_t i = 0; i < w->k.rc.index_count; i++) {
		uint64_t cluster = ox_ledger_block_offset(&w->k, i) / w->v.cluster_bytes;

		if (w->k.rc.blocks[i].state == OX_BLOCK_SOUND &&
		    add_range(l, OX_LAYOUT_REFCOUNT, cluster, cluster + 1) < 0)
			return -ENOMEM;
	}
	if (l->range_count > 0)
		qsort(l->ranges, l->range_count, sizeof(*l->ranges), ox_sorted_compare);
	return 0;
}

static int compare_to_range(const void *key, const void *element)
{
	const struct ox_layout_range *range = element;
	uint64_t cluster = *(const uint64_t *)key;

	return (cluster >= range->end) - (cluster < range->first);
}

static enum ox_layout_kind table_kind(const struct ox_layout *l, uint64_t cluster)
{
	const struct ox_layout_range *range = NULL;

	if (l->range_count > 0)
		range = bsearch(&cluster, l->ranges, l->range_count, sizeof(*l->ranges),
				compare_to_range);
	return range ? range->kind : OX_LAYOUT_OTHER_TABLE;
}

/* ---- bins ---- */

void ox_layout_mark(struct ox_layout *l, uint64_t cluster)
{
	if (cluster < l->w.v.file_clusters)
		l->bins[cluster / l->bin_clusters].findings++;
}

static enum ox_layout_kind kind_of_cell(const struct ox_layout *l, uint64_t cluster,
					struct ox_cell cell)
{
	if (ox_cell_is_broken(cell))
		return OX_LAYOUT_DAMAGED;
	if (cell.state == OX_CELL_META)
		return table_kind(l, cluster);
	if (cell.state == OX_CELL_COMPRESSED)
		return OX_LAYOUT_COMPRESSED;
	if (ox_cell_is_l2(cell))
		return OX_LAYOUT_L2;
	return cell.count > 1 || ox_cell_active(cell) == 0 ? OX_LAYOUT_SNAPSHOT_DATA
							   : OX_LAYOUT_DATA;
}

static uint64_t bytes_of_cluster(const struct ox_view *v, uint64_t cluster)
{
	return ox_min_u64(v->cluster_bytes, v->file_bytes - cluster * v->cluster_bytes);
}

static void count_named(struct ox_layout *l)
{
	struct ox_walk *w = &l->w;

	for (uint64_t c = 0;
	     (c = ox_counts_next(&w->k.cells, c, w->v.file_clusters)) < w->v.file_clusters; c++) {
		enum ox_layout_kind kind = kind_of_cell(l, c, ox_counts_get(&w->k.cells, c));

		l->bins[c / l->bin_clusters].bytes[kind] += bytes_of_cluster(&w->v, c);
	}
}

/* Refcounts that differ. Those of a dirty image are behind and harm nothing. */
static int count_slot(void *arg, struct ox_slot *slot)
{
	struct ox_layout *l = arg;
	struct ox_walk *w = &l->w;
	uint64_t *bytes, size;

	if (slot->cluster >= w->v.file_clusters || ox_cell_is_broken(slot->cell))
		return 0;
	bytes = l->bins[slot->cluster / l->bin_clusters].bytes;
	size = bytes_of_cluster(&w->v, slot->cluster);
	if (slot->cell.state == OX_CELL_NONE) {
		bytes[OX_LAYOUT_LEAKED] += size;
	} else if (slot->stored < slot->cell.count && !w->v.dirty) {
		bytes[kind_of_cell(l, slot->cluster, slot->cell)] -= size;
		bytes[OX_LAYOUT_DAMAGED] += size;
		ox_layout_mark(l, slot->cluster);
	}
	return 0;
}

/* The refcount table, where its entries cannot be followed. */
static void mark_broken_blocks(struct ox_layout *l)
{
	const struct ox_walk *w = &l->w;

	for (uint64_t i = 0; i < w->k.rc.index_count; i++) {
		if (w->k.rc.blocks[i].state == OX_BLOCK_BROKEN)
			ox_layout_mark(l, (w->k.rc.offset + i * 8) / w->v.cluster_bytes);
	}
}

static void complete_bins(struct ox_layout *l)
{
	struct ox_image_layout *result = l->result;
	uint64_t left = l->w.v.file_bytes;

	for (size_t i = 0; i < result->bin_count; i++) {
		struct ox_layout_bin *bin = &l->bins[i];
		uint64_t size = ox_min_u64(left, result->bin_bytes);

		left -= size;
		bin->bytes[OX_LAYOUT_FREE] = size;
		for (unsigned k = OX_LAYOUT_FREE + 1; k < OX_LAYOUT_KINDS; k++)
			bin->bytes[OX_LAYOUT_FREE] -= bin->bytes[k];
		for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++)
			result->bytes[k] += bin->bytes[k];
	}
	ox_assert(left == 0);
}

/* ---- findings ---- */

/* In its place, if something is there: an entry may name any place at all. */
static void take_finding(void *opaque, const struct ox_finding *finding)
{
	struct ox_layout *l = opaque;
	uint64_t cluster = finding->host_offset / l->w.v.cluster_bytes;
	uint64_t count = ox_max_u64(finding->host_length / l->w.v.cluster_bytes, 1);

	if (finding->severity != OX_FINDING_CORRUPTION || finding->host_offset == UINT64_MAX)
		count = 0;
	for (uint64_t i = 0; i < count; i++) {
		if (ox_counts_get(&l->w.k.cells, cluster + i).state != OX_CELL_NONE)
			ox_layout_mark(l, cluster + i);
	}
	if (l->opts->finding)
		l->opts->finding(l->opts->opaque, finding);
}

static void report_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_layout *l = opaque;

	if (l->opts->progress)
		l->opts->progress(l->opts->opaque, done, total);
}

static void take_figures(struct ox_layout *l)
{
	const struct ox_walk *w = &l->w;
	struct ox_image_layout *result = l->result;

	result->leaks = l->g.leaks;
	result->check_errors = w->j->totals.check_errors;
	result->corruptions = w->j->totals.corruptions;
	if (w->v.dirty) {
		result->uncounted = l->g.too_low;
		result->corruptions -= ox_min_u64(result->corruptions, w->stale);
	}
}

/* ---- the walk ---- */

static int prepare(struct ox_layout *l, struct ox_error **err)
{
	const struct ox_walk *w = &l->w;
	struct ox_image_layout *result = l->result;
	uint64_t guest_clusters = ox_max_u64(w->total_clusters, 1);

	result->file_bytes = w->v.file_bytes;
	result->virtual_bytes = w->v.h.size_bytes;
	result->cluster_bytes = (uint32_t)w->v.cluster_bytes;
	result->dirty = w->v.dirty;
	result->corrupt = w->v.h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT;
	l->bin_clusters = ox_div_up(w->v.file_clusters, l->opts->bins);
	result->bin_count = ox_div_up(w->v.file_clusters, l->bin_clusters);
	result->bin_bytes = l->bin_clusters * w->v.cluster_bytes;
	l->guest_bin_clusters = ox_div_up(guest_clusters, l->opts->guest_bins);
	result->guest_bin_count = ox_div_up(guest_clusters, l->guest_bin_clusters);
	result->guest_bin_bytes = l->guest_bin_clusters * w->v.cluster_bytes;
	result->bins = l->bins = calloc(result->bin_count, sizeof(*l->bins));
	result->guest_bins = l->guest_bins =
		calloc(result->guest_bin_count, sizeof(*l->guest_bins));
	if (!l->bins || !l->guest_bins)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	return 0;
}

static int collect_co(struct ox_layout *l)
{
	struct ox_walk *w = &l->w;
	int r = ox_walk_count_co(w);

	if (r == 0)
		r = ox_judge_compare_co(&l->g);
	if (r == 0)
		r = ox_judge_explain_co(&l->g);
	if (r == 0)
		r = complete_ranges(l);
	if (r < 0)
		return r;
	/* What further passes find is counted, and shown in its place, but not told one by one. */
	ox_journal_hush(w->j);
	if (!w->v.dirty)
		r = ox_judge_report_co(&l->g);
	if (r < 0)
		return r;
	take_figures(l);
	count_named(l);
	mark_broken_blocks(l);
	r = ox_slots_co(&w->k, OX_SLOTS_ALL, count_slot, l);
	if (r == 0)
		r = ox_layout_guest_co(l);
	if (r == 0)
		complete_bins(l);
	return r;
}

static int read_co(struct ox_layout *l, struct ox_io *io, struct ox_error **err)
{
	int r = ox_walk_open_co(&l->w, io, err);

	if (r == 0)
		r = prepare(l, err);
	if (r < 0)
		return r;
	r = collect_co(l);
	return r < 0 ? ox_error_set_errno(err, r, "Could not look at '%s'", io->name) : 0;
}

int ox_check_layout_co(struct ox_io *io, const struct ox_layout_options *opts,
		       struct ox_image_layout **ret, struct ox_error **err)
{
	struct ox_layout *l = calloc(1, sizeof(*l));
	int r;

	ox_assert(opts->bins > 0 && opts->guest_bins > 0);
	if (l)
		l->result = calloc(1, sizeof(*l->result));
	if (!l || !l->result) {
		free(l);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	l->opts = opts;
	l->j = (struct ox_journal){
		.finding = take_finding,
		.progress = report_progress,
		.opaque = l,
	};
	l->w.j = &l->j;
	l->g.w = &l->w;
	l->w.k.claimed = take_claim;
	l->w.k.claimed_arg = l;
	r = read_co(l, io, err);
	if (r == 0)
		*ret = l->result;
	else
		ox_check_layout_free(l->result);
	ox_judge_close(&l->g);
	ox_walk_close(&l->w);
	ox_journal_end(&l->j);
	free(l->ranges);
	free(l->guest_first);
	free(l);
	return r;
}

void ox_check_layout_free(struct ox_image_layout *layout)
{
	if (!layout)
		return;
	free((void *)layout->bins);
	free((void *)layout->guest_bins);
	free(layout);
}
