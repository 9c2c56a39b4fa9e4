/* SPDX-License-Identifier: MIT */
/* Stored refcounts against counted references. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/walk/crew.h"
#include "check/walk/scan.h"
#include "check/walk/walk.h"

/* 64 refcounts of 64 bits. A refcount block holds a multiple of 64. */
#define WORD_BYTES_MAX 512

struct slot_pass {
	struct ox_walk *w;
	enum ox_walk_select select;
	ox_walk_slot_fn visit;
	const uint64_t *done; /* a bit for each block in which nothing is to be visited; or NULL */
	uint64_t next;	      /* index whose block is read next */
	uint64_t visited;     /* index up to which all was visited */
	size_t word_bytes;    /* what 64 refcounts take */
	uint8_t ones[WORD_BYTES_MAX];
	uint8_t zeros[WORD_BYTES_MAX];
};

bool ox_walk_block_is_own(const struct ox_walk *w, uint64_t index)
{
	uint64_t cluster = ox_be64_get(w->reftable[index]) / w->cluster_bytes;

	return w->blocks[index].state == OX_BLOCK_SOUND &&
	       ox_counts_get(&w->counts, cluster).state == OX_CELL_META;
}

static bool selected(const struct slot_pass *p, uint64_t index)
{
	const struct ox_walk_block *b = &p->w->blocks[index];

	if (b->state != OX_BLOCK_SOUND || ox_crew_is_done(p->done, index))
		return false;
	if (p->select != OX_BLOCKS_ALL && !ox_walk_block_is_own(p->w, index))
		return false;
	if (p->select == OX_BLOCKS_RAISE)
		return b->raise;
	if (p->select == OX_BLOCKS_LOWER)
		return b->lower;
	return true;
}

/* A run of neighbouring blocks, of one index after the other. */
static bool slot_next(void *arg, struct ox_scan_item *ret)
{
	struct slot_pass *p = arg;
	const struct ox_walk *w = p->w;
	size_t most = ox_scan_item_max(w->cluster_bytes);

	while (p->next < w->index_count && !selected(p, p->next))
		p->next++;
	if (p->next == w->index_count)
		return false;
	*ret = (struct ox_scan_item){
		.offset = ox_be64_get(w->reftable[p->next]),
		.size_bytes = w->cluster_bytes,
		.tag = p->next,
	};
	while (++p->next < w->index_count && ret->size_bytes < most && selected(p, p->next) &&
	       ox_be64_get(w->reftable[p->next]) == ret->offset + ret->size_bytes)
		ret->size_bytes += w->cluster_bytes;
	return true;
}

/* The clusters that blocks [from, to) would count, were there any: all stored as 0. */
static int visit_absent(struct slot_pass *p, uint64_t from, uint64_t to)
{
	struct ox_walk *w = p->w;
	uint64_t end, c;

	if (!ox_mul_u64(to, w->block_entries, &end))
		end = UINT64_MAX;
	for (c = from * w->block_entries;
	     (c = ox_counts_next(&w->counts, c, end)) < ox_min_u64(end, w->counts.end); c++) {
		struct ox_walk_slot slot = {
			.cluster = c,
			.cell = ox_counts_get(&w->counts, c),
			.index = c % w->block_entries,
		};
		uint64_t index = c / w->block_entries;
		int r = 0;

		if (index < w->index_count && (w->blocks[index].state == OX_BLOCK_BROKEN ||
					       ox_crew_is_done(p->done, index))) {
			c = (index + 1) * w->block_entries - 1;
			continue;
		}
		r = p->visit(w, &slot);
		if (r < 0)
			return r;
	}
	return 0;
}

static int visit_skipped(struct slot_pass *p, uint64_t to)
{
	uint64_t from = p->visited;

	p->visited = to + 1;
	return p->select == OX_BLOCKS_ALL && from < to ? visit_absent(p, from, to) : 0;
}

/* Writes a changed block from its first changed sector to its last. */
static int write_block_co(struct ox_walk *w, uint64_t offset, const uint8_t *bytes,
			  uint64_t first_index, uint64_t last_index)
{
	uint64_t first = (first_index << w->h.refcount_order) / 8;
	uint64_t last = (last_index << w->h.refcount_order) / 8;

	first = ox_align_down(first, 512);
	last = ox_align_down(last, 512) + 512;
	return ox_io_pwrite_co(w->io, bytes + first, last - first, offset + first, 0);
}

/* Which of 64 cells may be other than a visitor expects: those with neither no reference and no
 * count nor one and one. */
static uint64_t to_visit(const struct slot_pass *p, uint64_t cluster, const uint8_t *bytes,
			 uint64_t first)
{
	const struct ox_walk *w = p->w;
	const uint8_t *counts = bytes + ((first << w->h.refcount_order) / 8);
	struct ox_counts_mask cells = ox_counts_mask(&w->counts, cluster);
	uint64_t differ = cells.other;

	if (cells.once == UINT64_MAX && memcmp(counts, p->ones, p->word_bytes) == 0)
		return 0;
	if (!(cells.once | cells.other) && memcmp(counts, p->zeros, p->word_bytes) == 0)
		return 0;
	for (unsigned i = 0; i < 64; i++) {
		uint64_t stored = ox_qcow2_refcount_get(bytes, w->h.refcount_order, first + i);

		differ |= (uint64_t)(stored != (cells.once >> i & 1)) << i;
	}
	return differ;
}

/* The slots of one refcount block that want a look. */
struct block_visit {
	uint64_t base; /* the cluster that index 0 counts */
	uint8_t *bytes;
	uint64_t first_changed; /* UINT64_MAX: none */
	uint64_t last_changed;
};

static int visit_slot(struct slot_pass *p, struct block_visit *b, uint64_t index)
{
	struct ox_walk *w = p->w;
	struct ox_walk_slot slot = {
		.cluster = b->base + index,
		.block = b->bytes,
		.index = index,
		.cell = ox_counts_get(&w->counts, b->base + index),
		.stored = ox_qcow2_refcount_get(b->bytes, w->h.refcount_order, index),
	};
	int r = p->visit(w, &slot);

	if (slot.changed) {
		b->first_changed = ox_min_u64(b->first_changed, index);
		b->last_changed = index;
	}
	return r;
}

static int visit_block_co(struct slot_pass *p, uint64_t index, uint64_t offset, uint8_t *bytes)
{
	struct ox_walk *w = p->w;
	struct block_visit b = {
		.base = index * w->block_entries,
		.bytes = bytes,
		.first_changed = UINT64_MAX,
	};

	for (uint64_t i = 0; i < w->block_entries; i += 64) {
		uint64_t left = to_visit(p, b.base + i, bytes, i);

		for (; left; left &= left - 1) {
			int r = visit_slot(p, &b, i + (unsigned)__builtin_ctzll(left));

			if (r < 0)
				return r;
		}
	}
	if (b.first_changed == UINT64_MAX)
		return 0;
	return write_block_co(w, offset, bytes, b.first_changed, b.last_changed);
}

static int slot_block_co(struct slot_pass *p, uint64_t index, uint64_t offset, uint8_t *bytes,
			 int error)
{
	int r = visit_skipped(p, index);

	if (r < 0)
		return r;
	ox_journal_progress(p->w->j, 1);
	if (!error)
		return visit_block_co(p, index, offset, bytes);
	if (p->select != OX_BLOCKS_ALL)
		return error;
	p->w->blocks[index].state = OX_BLOCK_BROKEN;
	return ox_journal_unreadable(p->w->j, "Refcount block", offset, error);
}

static int slot_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct slot_pass *p = arg;
	struct ox_walk *w = p->w;
	int r = 0;

	for (uint64_t at = 0; at < item->size_bytes && r == 0; at += w->cluster_bytes) {
		/* One bad block of a run does not take its neighbours with it. */
		int failed = error && item->size_bytes > w->cluster_bytes
				     ? ox_io_pread_co(w->io, bytes + at, w->cluster_bytes,
						      item->offset + at)
				     : error;

		r = slot_block_co(p, item->tag + at / w->cluster_bytes, item->offset + at,
				  bytes + at, failed);
		if (w->pause_co)
			w->pause_co(w);
	}
	return r;
}

static void prepare(struct slot_pass *p, struct ox_walk *w)
{
	*p = (struct slot_pass){.w = w, .word_bytes = (size_t)8 << w->h.refcount_order};
	for (unsigned i = 0; i < 64; i++)
		ox_qcow2_refcount_set(p->ones, w->h.refcount_order, i, 1);
}

static int slots_co(struct slot_pass *p)
{
	static const struct ox_scan_ops ops = {.next = slot_next, .visit_co = slot_item_co};
	struct ox_walk *w = p->w;
	int r = ox_scan_co(w->io, w->cluster_bytes, &ops, p);

	if (r < 0)
		return r;
	return visit_skipped(p, ox_div_up(w->counts.end, w->block_entries));
}

int ox_walk_slots_co(struct ox_walk *w, enum ox_walk_select select, ox_walk_slot_fn visit)
{
	struct slot_pass p;

	prepare(&p, w);
	p.select = select;
	p.visit = visit;
	return slots_co(&p);
}

/* ---- on all cores: blocks of the page cache in which nothing differs ---- */

struct blocks {
	struct slot_pass pass;
	uint8_t *seats[OX_CREW_SEATS_MAX]; /* a block each */
};

static int try_block(void *arg, unsigned seat, uint64_t index)
{
	struct blocks *b = arg;
	const struct ox_walk *w = b->pass.w;
	uint8_t *bytes = b->seats[seat];

	if (w->blocks[index].state != OX_BLOCK_SOUND ||
	    !ox_io_read_cached(w->io, bytes, w->cluster_bytes, ox_be64_get(w->reftable[index])))
		return 0;
	for (uint64_t i = 0; i < w->block_entries; i += 64) {
		if (to_visit(&b->pass, index * w->block_entries + i, bytes, i))
			return 0;
	}
	return 1;
}

static void blocks_done(void *arg, uint64_t count)
{
	const struct blocks *b = arg;

	ox_journal_progress(b->pass.w->j, count);
}

static int compare_cached_co(struct ox_walk *w, uint64_t **ret_done)
{
	static const struct ox_crew_ops ops = {.try_one = try_block, .done = blocks_done};
	unsigned seats = ox_crew_seats(w->index_count);
	struct blocks b = {0};
	int r = 0;

	/* Beside a guest the counts change, and its requests come first. */
	if (seats == 0 || w->pause_co || !w->io->ops->read_cached)
		return 0;
	prepare(&b.pass, w);
	for (unsigned i = 0; i < seats; i++) {
		b.seats[i] = malloc(w->cluster_bytes);
		if (!b.seats[i])
			r = -ENOMEM;
	}
	if (r == 0)
		r = ox_crew_run_co(seats, w->index_count, &ops, &b, ret_done);
	for (unsigned i = 0; i < seats; i++)
		free(b.seats[i]);
	return r;
}

/* ---- what differs ---- */

/* How many COPIED flags of a cell are wrong if its refcount is count. */
static bool copied_is_wrong(struct ox_cell cell, uint64_t count)
{
	unsigned active = ox_cell_active(cell);

	return ((active & OX_CELL_COPIED) && count != 1) ||
	       ((active & OX_CELL_PLAIN) && count == 1);
}

static void mark_block(struct ox_walk *w, const struct ox_walk_slot *slot)
{
	struct ox_walk_block *b;

	if (!slot->block)
		return;
	b = &w->blocks[slot->cluster / w->block_entries];
	b->raise |= slot->stored < slot->cell.count;
	b->lower |= slot->stored > slot->cell.count;
}

/* Whether what names a cluster may not all mean it: its count, or a COPIED bit, says otherwise; or,
 * where something else cannot be followed, a reference is missing that the count still holds. */
static bool is_suspect(const struct ox_walk *w, const struct ox_walk_slot *slot)
{
	struct ox_cell cell = slot->cell;

	if (cell.count < 2 || cell.state < OX_CELL_L2)
		return false;
	return slot->stored != cell.count || (ox_cell_active(cell) & OX_CELL_COPIED) ||
	       w->j->structural > 0 || w->lost > 0;
}

static int compare_slot(struct ox_walk *w, struct ox_walk_slot *slot)
{
	struct ox_cell cell = slot->cell;

	if (slot->cluster < w->file_clusters)
		w->stored_end = ox_max_u64(w->stored_end, slot->cluster + 1);
	if (ox_cell_is_broken(cell))
		return 0;
	if (ox_walk_overflows(w, cell)) {
		w->copied_wrong += copied_is_wrong(cell, cell.count);
		w->copied_to_fix += copied_is_wrong(cell, cell.count);
		return ox_walk_suspect(w, slot->cluster);
	}
	w->copied_wrong += copied_is_wrong(cell, slot->stored);
	w->copied_to_fix += copied_is_wrong(cell, cell.count);
	if (slot->stored != cell.count ||
	    (cell.count > 1 && (ox_cell_active(cell) & OX_CELL_COPIED)))
		mark_block(w, slot);
	w->leaks += slot->stored > cell.count;
	w->too_low += slot->stored < cell.count;
	return is_suspect(w, slot) ? ox_walk_suspect(w, slot->cluster) : 0;
}

/* A block that is made anew will hold the counted ones. */
static int compare_broken(struct ox_walk *w, uint64_t index)
{
	uint64_t c = index * w->block_entries;
	uint64_t end = c + w->block_entries;
	int r = 0;

	for (; r == 0 && (c = ox_counts_next(&w->counts, c, end)) < end; c++) {
		struct ox_walk_slot slot = {.cluster = c, .cell = ox_counts_get(&w->counts, c)};

		slot.stored = slot.cell.count;
		r = compare_slot(w, &slot);
	}
	return r;
}

int ox_walk_compare_co(struct ox_walk *w)
{
	struct slot_pass p;
	uint64_t *done = NULL;
	int r = compare_cached_co(w, &done);

	prepare(&p, w);
	p.visit = compare_slot;
	p.done = done;
	if (r == 0)
		r = slots_co(&p);
	free(done);
	for (uint64_t i = 0; r == 0 && i < w->index_count; i++) {
		if (w->blocks[i].state == OX_BLOCK_BROKEN)
			r = compare_broken(w, i);
	}
	w->stored_end = ox_max_u64(w->stored_end, w->counts.end);
	w->result.image_end_offset = w->stored_end * w->cluster_bytes;
	return r;
}

static int report_slot(struct ox_walk *w, struct ox_walk_slot *slot)
{
	uint64_t count = slot->cell.count;

	if (ox_cell_is_broken(slot->cell) || slot->stored == count ||
	    ox_walk_overflows(w, slot->cell))
		return 0;
	ox_journal_found(w->j, slot->stored > count ? OX_FOUND_LEAK : OX_FOUND_TOO_LOW,
			 OX_FOUND(.a = slot->cluster, .b = slot->stored, .c = count,
				  .host_offset = slot->cluster * w->cluster_bytes));
	return 0;
}

int ox_walk_report_co(struct ox_walk *w)
{
	int r = 0;

	if (w->leaks + w->too_low > 0)
		r = ox_walk_slots_co(w, OX_BLOCKS_ALL, report_slot);
	ox_journal_tell_run(w->j);
	if (r == 0 && w->copied_wrong > 0)
		r = ox_walk_copied_co(w, OX_COPIED_REPORT);
	return r;
}
