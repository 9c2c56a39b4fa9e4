/* SPDX-License-Identifier: MIT */
/* Refcount blocks that are missing or broken, made anew past everything that is referenced. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/grow.h"
#include "check/mend/mend.h"

/* ---- planning ---- */

/* A broken block is made anew only where everything it counted is known. */
static bool is_missing(const struct ox_walk *w, uint64_t index)
{
	return index >= w->k.rc.index_count || w->k.rc.blocks[index].state == OX_BLOCK_NONE ||
	       (w->k.rc.blocks[index].state == OX_BLOCK_BROKEN && w->j->structural == 0);
}

static bool is_needed(const struct ox_walk *w, uint64_t index)
{
	uint64_t end = (index + 1) * w->k.rc.block_entries;

	return ox_counts_next(&w->k.cells, index * w->k.rc.block_entries, end) < end;
}

static int add_index(struct ox_plan *plan, uint64_t index)
{
	if (ox_grow(plan->indexes, plan->count, plan->room, 64) < 0)
		return -ENOMEM;
	plan->indexes[plan->count++] = index;
	return 0;
}

static int add_needed(const struct ox_walk *w, struct ox_plan *plan)
{
	uint64_t c = 0;

	while ((c = ox_counts_next(&w->k.cells, c, UINT64_MAX)) != UINT64_MAX) {
		uint64_t index = c / w->k.rc.block_entries;
		int r = is_missing(w, index) ? add_index(plan, index) : 0;

		if (r < 0)
			return r;
		c = (index + 1) * w->k.rc.block_entries;
	}
	return 0;
}

/*
 * New blocks and a new table are clusters too and want counting: grows the plan until it covers
 * itself. Each round adds a small fraction of the last, so there are few.
 */
static int cover_itself(const struct ox_walk *w, uint64_t base, struct ox_plan *plan)
{
	uint64_t covered = base / w->k.rc.block_entries;

	plan->end = base + plan->count;
	for (;;) {
		uint64_t last = (plan->end - 1) / w->k.rc.block_entries;
		uint64_t end;

		for (; covered <= last; covered++) {
			if (is_missing(w, covered) && !is_needed(w, covered) &&
			    add_index(plan, covered) < 0)
				return -ENOMEM;
		}
		if (last >= w->k.rc.table_entries)
			plan->table_clusters = ox_div_up((last + 1) * 8, w->v.cluster_bytes);
		end = base + plan->table_clusters + plan->count;
		if (end == plan->end)
			return 0;
		plan->end = end;
	}
}

static int place(struct ox_walk *w, uint64_t base, struct ox_plan *plan)
{
	uint64_t next = base;
	int r = ox_ledger_grow(&w->k, plan->end);

	if (r < 0)
		return r;
	if (plan->table_clusters) {
		plan->table_cluster = next;
		next += plan->table_clusters;
		r = ox_ledger_grow_table(&w->k, plan->table_clusters * w->v.cluster_bytes / 8);
		if (r < 0)
			return r;
	}
	plan->block_clusters = calloc(plan->count, sizeof(*plan->block_clusters));
	if (!plan->block_clusters)
		return -ENOMEM;
	for (uint64_t i = 0; i < plan->count; i++)
		plan->block_clusters[i] = next++;
	ox_assert(next == plan->end);
	for (uint64_t c = base; c < plan->end && r == 0; c++)
		r = ox_ledger_add(&w->k, c, OX_CELL_META, 1);
	/* Copies of clusters may lie before them. */
	ox_ledger_note_grown(&w->k, ox_min_u64(w->k.grown_from, base), plan->end);
	return r;
}

/* The same for a store that is in use up to its end and cannot grow: the first gap between the
 * clusters in use that holds the plan. What leaked is a gap like any other. */
static int fit_in_gap(const struct ox_mend *m, uint64_t *ret_base, struct ox_plan *plan)
{
	const struct ox_walk *w = m->w;
	uint64_t limit = w->v.file_bytes / w->v.cluster_bytes;
	uint64_t least = plan->count;
	uint64_t next;
	int r;

	for (uint64_t at = 1; at < limit; at = next + 1) {
		next = ox_min_u64(ox_counts_next(&w->k.cells, at, limit), limit);
		next = ox_min_u64(ox_keeper_next_kept(m->keeper, at, limit), next);
		if (next - at < least)
			continue;
		ox_plan_free(plan);
		r = add_needed(w, plan);
		if (r == 0)
			r = cover_itself(w, at, plan);
		if (r < 0)
			return r;
		if (plan->end <= next) {
			*ret_base = at;
			return 0;
		}
	}
	return -ENOSPC;
}

uint64_t ox_mend_end_of_all(const struct ox_mend *m)
{
	const struct ox_walk *w = m->w;

	return ox_max_u64(w->k.cells.end,
			  w->v.io->can_grow ? w->v.file_clusters : m->g->stored_end);
}

int ox_plan_make(const struct ox_mend *m, struct ox_plan *ret)
{
	struct ox_walk *w = m->w;
	/* Past the last cluster in use, so that nothing moves. */
	uint64_t base = ox_mend_end_of_all(m);
	struct ox_plan plan = {0};
	int r = add_needed(w, &plan);

	if (r == 0 && plan.count > 0)
		r = cover_itself(w, base, &plan);
	if (r == 0 && plan.table_clusters > OX_QCOW2_MAX_REFTABLE_BYTES / w->v.cluster_bytes) {
		ox_journal_found(w->j, OX_FOUND_TABLE_TOO_SMALL, OX_FOUND(.a = plan.end - 1));
		ox_plan_free(&plan);
		return 0;
	}
	if (r == 0 && !w->v.io->can_grow && plan.end > w->v.file_bytes / w->v.cluster_bytes)
		r = fit_in_gap(m, &base, &plan);
	if (r == 0 && plan.count > 0)
		r = place(w, base, &plan);
	if (r < 0)
		ox_plan_free(&plan);
	else
		*ret = plan;
	return r;
}

void ox_plan_free(struct ox_plan *plan)
{
	free(plan->indexes);
	free(plan->block_clusters);
	*plan = (struct ox_plan){0};
}

/* ---- writing ---- */

static void fill_block(struct ox_walk *w, uint64_t index, uint8_t *block)
{
	bool broken = w->k.rc.blocks[index].state == OX_BLOCK_BROKEN;
	uint64_t first = index * w->k.rc.block_entries;
	uint64_t end = first + w->k.rc.block_entries;
	uint64_t most = ox_qcow2_refcount_max(w->k.rc.order);

	memset(block, 0, w->v.cluster_bytes);
	for (uint64_t c = first; (c = ox_counts_next(&w->k.cells, c, end)) < end; c++) {
		struct ox_cell cell = ox_counts_get(&w->k.cells, c);

		/* No block was there to be compared: more than it can count is found next time. */
		ox_qcow2_refcount_set(block, w->k.rc.order, c - first,
				      ox_min_u64(cell.count, most));
		if (!broken && !ox_ledger_is_grown(&w->k, c))
			ox_journal_mended(w->j, OX_FOUND_TOO_LOW,
					  OX_FOUND(.a = c, .b = 0, .c = cell.count,
						   .host_offset = c * w->v.cluster_bytes));
	}
	if (broken)
		ox_journal_mended(w->j, (enum ox_finding_id)w->k.rc.blocks[index].found,
				  OX_FOUND(.a = index, .b = ox_ledger_block_offset(&w->k, index)));
}

int ox_plan_write_co(struct ox_walk *w, const struct ox_plan *plan)
{
	uint8_t *block;
	int r = 0;

	if (plan->count == 0)
		return 0;
	block = malloc(w->v.cluster_bytes);
	if (!block)
		return -ENOMEM;
	/* The length is durable with the blocks, before anything names them (D8). */
	if (w->v.io->length < plan->end * w->v.cluster_bytes)
		r = ox_io_set_length_co(w->v.io, plan->end * w->v.cluster_bytes);
	for (uint64_t i = 0; i < plan->count && r == 0; i++) {
		fill_block(w, plan->indexes[i], block);
		r = ox_io_pwrite_co(w->v.io, block, w->v.cluster_bytes,
				    plan->block_clusters[i] * w->v.cluster_bytes, 0);
	}
	free(block);
	return r;
}

static int move_table_co(struct ox_walk *w, const struct ox_plan *plan)
{
	struct ox_qcow2_header h = w->v.h;
	int r;

	h.reftable_offset = plan->table_cluster * w->v.cluster_bytes;
	h.reftable_clusters = (uint32_t)plan->table_clusters;
	h.refcount_order = w->k.rc.order;
	r = ox_io_pwrite_co(w->v.io, w->k.rc.table, w->k.rc.index_count * 8, h.reftable_offset, 0);
	if (r == 0)
		r = ox_io_sync_co(w->v.io);
	if (r == 0)
		r = ox_mend_write_header_co(w->v.io, &h);
	if (r == 0)
		r = ox_ledger_move_table(&w->k, h.reftable_offset, h.reftable_clusters);
	if (r < 0)
		return r;
	ox_view_mended_fault(&w->v, OX_QCOW2_FAULT_REFCOUNT_ORDER);
	ox_view_mended_fault(&w->v, OX_QCOW2_FAULT_REFTABLE);
	return 0;
}

static int write_entries_co(struct ox_walk *w, uint64_t first, uint64_t last)
{
	uint64_t from = ox_align_down(first * 8, 512);
	uint64_t to = ox_align_down(last * 8, 512) + 512;
	int r = ox_io_pwrite_co(w->v.io, (uint8_t *)w->k.rc.table + from, to - from,
				w->k.rc.offset + from, 0);

	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

int ox_plan_link_co(struct ox_walk *w, const struct ox_plan *plan)
{
	uint64_t first = UINT64_MAX;
	uint64_t last = 0;

	for (uint64_t i = 0; i < plan->count; i++) {
		uint64_t index = plan->indexes[i];

		ox_ledger_name_block(&w->k, index, plan->block_clusters[i]);
		first = ox_min_u64(first, index);
		last = ox_max_u64(last, index);
	}
	/* Broken entries that nothing needs are cut off. */
	for (uint64_t i = 0; i < w->k.rc.index_count; i++) {
		if (w->k.rc.blocks[i].state != OX_BLOCK_BROKEN || w->j->structural > 0)
			continue;
		ox_journal_mended(w->j, (enum ox_finding_id)w->k.rc.blocks[i].found,
				  OX_FOUND(.a = i, .b = ox_ledger_block_offset(&w->k, i)));
		ox_ledger_name_block(&w->k, i, 0);
		first = ox_min_u64(first, i);
		last = ox_max_u64(last, i);
	}
	if (plan->table_clusters)
		return move_table_co(w, plan);
	return first > last ? 0 : write_entries_co(w, first, last);
}
