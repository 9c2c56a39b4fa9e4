/* SPDX-License-Identifier: MIT */
/* The ways through the counts on disk, beside the references that were counted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/ledger/ledger.h"
#include "check/scan/crew.h"
#include "check/scan/scan.h"

/* 64 refcounts of 64 bits. A refcount block holds a multiple of 64. */
#define WORD_BYTES_MAX 512

struct slot_pass {
	struct ox_ledger *k;
	enum ox_slots select;
	ox_slot_fn visit;
	void *arg;
	const uint64_t *done; /* a bit for each block in which nothing is to be visited; or NULL */
	uint64_t next;	      /* index whose block is read next */
	uint64_t visited;     /* index up to which all was visited */
	size_t word_bytes;    /* what 64 refcounts take */
	uint8_t ones[WORD_BYTES_MAX];
	uint8_t zeros[WORD_BYTES_MAX];
};

static bool selected(const struct slot_pass *p, uint64_t index)
{
	const struct ox_block *b = &p->k->rc.blocks[index];

	if (b->state != OX_BLOCK_SOUND || ox_crew_is_done(p->done, index))
		return false;
	if (p->select != OX_SLOTS_ALL && !ox_ledger_block_is_own(p->k, index))
		return false;
	if (p->select == OX_SLOTS_RAISE)
		return b->raise;
	if (p->select == OX_SLOTS_LOWER)
		return b->lower;
	return true;
}

/* A run of neighbouring blocks, of one index after the other. */
static bool slot_next(void *arg, struct ox_scan_item *ret)
{
	struct slot_pass *p = arg;
	const struct ox_ledger *k = p->k;
	size_t most = ox_scan_item_max(k->v->cluster_bytes);

	while (p->next < k->rc.index_count && !selected(p, p->next))
		p->next++;
	if (p->next == k->rc.index_count)
		return false;
	*ret = (struct ox_scan_item){
		.offset = ox_ledger_block_offset(k, p->next),
		.size_bytes = k->v->cluster_bytes,
		.tag = p->next,
	};
	while (++p->next < k->rc.index_count && ret->size_bytes < most && selected(p, p->next) &&
	       ox_ledger_block_offset(k, p->next) == ret->offset + ret->size_bytes)
		ret->size_bytes += k->v->cluster_bytes;
	return true;
}

/* The clusters that blocks [from, to) would count, were there any: all stored as 0. */
static int visit_absent(struct slot_pass *p, uint64_t from, uint64_t to)
{
	struct ox_ledger *k = p->k;
	uint64_t end, c;

	if (!ox_mul_u64(to, k->rc.block_entries, &end))
		end = UINT64_MAX;
	for (c = from * k->rc.block_entries;
	     (c = ox_counts_next(&k->cells, c, end)) < ox_min_u64(end, k->cells.end); c++) {
		struct ox_slot slot = {
			.cluster = c,
			.cell = ox_counts_get(&k->cells, c),
			.index = c % k->rc.block_entries,
		};
		uint64_t index = c / k->rc.block_entries;
		int r = 0;

		if (index < k->rc.index_count && (k->rc.blocks[index].state == OX_BLOCK_BROKEN ||
						  ox_crew_is_done(p->done, index))) {
			c = (index + 1) * k->rc.block_entries - 1;
			continue;
		}
		r = p->visit(p->arg, &slot);
		if (r < 0)
			return r;
	}
	return 0;
}

static int visit_skipped(struct slot_pass *p, uint64_t to)
{
	uint64_t from = p->visited;

	p->visited = to + 1;
	return p->select == OX_SLOTS_ALL && from < to ? visit_absent(p, from, to) : 0;
}

/* Writes a changed block from its first changed sector to its last. */
static int write_block_co(struct ox_ledger *k, uint64_t offset, const uint8_t *bytes,
			  uint64_t first_index, uint64_t last_index)
{
	uint64_t first = (first_index << k->rc.order) / 8;
	uint64_t last = (last_index << k->rc.order) / 8;

	first = ox_align_down(first, 512);
	last = ox_align_down(last, 512) + 512;
	return ox_io_pwrite_co(k->v->io, bytes + first, last - first, offset + first, 0);
}

/* Which of 64 cells may be other than a visitor expects: those with neither no reference and no
 * count nor one and one. */
static uint64_t to_visit(const struct slot_pass *p, uint64_t cluster, const uint8_t *bytes,
			 uint64_t first)
{
	const struct ox_ledger *k = p->k;
	const uint8_t *counts = bytes + ((first << k->rc.order) / 8);
	struct ox_counts_mask cells = ox_counts_mask(&k->cells, cluster);
	uint64_t differ = cells.other;

	if (cells.once == UINT64_MAX && memcmp(counts, p->ones, p->word_bytes) == 0)
		return 0;
	if (!(cells.once | cells.other) && memcmp(counts, p->zeros, p->word_bytes) == 0)
		return 0;
	for (unsigned i = 0; i < 64; i++) {
		uint64_t stored = ox_qcow2_refcount_get(bytes, k->rc.order, first + i);

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
	struct ox_ledger *k = p->k;
	struct ox_slot slot = {
		.cluster = b->base + index,
		.block = b->bytes,
		.index = index,
		.cell = ox_counts_get(&k->cells, b->base + index),
		.stored = ox_qcow2_refcount_get(b->bytes, k->rc.order, index),
	};
	int r = p->visit(p->arg, &slot);

	if (slot.changed) {
		b->first_changed = ox_min_u64(b->first_changed, index);
		b->last_changed = index;
	}
	return r;
}

static int visit_block_co(struct slot_pass *p, uint64_t index, uint64_t offset, uint8_t *bytes)
{
	struct ox_ledger *k = p->k;
	struct block_visit b = {
		.base = index * k->rc.block_entries,
		.bytes = bytes,
		.first_changed = UINT64_MAX,
	};

	for (uint64_t i = 0; i < k->rc.block_entries; i += 64) {
		uint64_t left = to_visit(p, b.base + i, bytes, i);

		for (; left; left &= left - 1) {
			int r = visit_slot(p, &b, i + (unsigned)__builtin_ctzll(left));

			if (r < 0)
				return r;
		}
	}
	if (b.first_changed == UINT64_MAX)
		return 0;
	return write_block_co(k, offset, bytes, b.first_changed, b.last_changed);
}

static int slot_block_co(struct slot_pass *p, uint64_t index, uint64_t offset, uint8_t *bytes,
			 int error)
{
	int r = visit_skipped(p, index);

	if (r < 0)
		return r;
	ox_journal_progress(p->k->v->j, 1);
	if (!error)
		return visit_block_co(p, index, offset, bytes);
	if (p->select != OX_SLOTS_ALL)
		return error;
	p->k->rc.blocks[index].state = OX_BLOCK_BROKEN;
	return ox_journal_unreadable(p->k->v->j, "Refcount block", offset, error);
}

static int slot_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct slot_pass *p = arg;
	struct ox_ledger *k = p->k;
	int r = 0;

	for (uint64_t at = 0; at < item->size_bytes && r == 0; at += k->v->cluster_bytes) {
		/* One bad block of a run does not take its neighbours with it. */
		int failed = error && item->size_bytes > k->v->cluster_bytes
				     ? ox_io_pread_co(k->v->io, bytes + at, k->v->cluster_bytes,
						      item->offset + at)
				     : error;

		r = slot_block_co(p, item->tag + at / k->v->cluster_bytes, item->offset + at,
				  bytes + at, failed);
		if (r == 0 && k->v->pause_co)
			r = k->v->pause_co(k->v->pause_arg);
	}
	return r;
}

static void prepare(struct slot_pass *p, struct ox_ledger *k)
{
	*p = (struct slot_pass){.k = k, .word_bytes = (size_t)8 << k->rc.order};
	for (unsigned i = 0; i < 64; i++)
		ox_qcow2_refcount_set(p->ones, k->rc.order, i, 1);
}

static int slots_co(struct slot_pass *p)
{
	static const struct ox_scan_ops ops = {.next = slot_next, .visit_co = slot_item_co};
	struct ox_ledger *k = p->k;
	int r = ox_scan_co(k->v->io, k->v->cluster_bytes, &ops, p);

	if (r < 0)
		return r;
	return visit_skipped(p, ox_div_up(k->cells.end, k->rc.block_entries));
}

int ox_slots_co(struct ox_ledger *k, enum ox_slots select, ox_slot_fn visit, void *arg)
{
	struct slot_pass p;

	prepare(&p, k);
	p.select = select;
	p.visit = visit;
	p.arg = arg;
	return slots_co(&p);
}

struct ox_found ox_slot_found(const struct ox_ledger *k, const struct ox_slot *slot)
{
	return (struct ox_found){
		.a = slot->cluster,
		.b = slot->stored,
		.c = slot->cell.count,
		.host_offset = slot->cluster * k->v->cluster_bytes,
	};
}

void ox_slot_set(const struct ox_ledger *k, struct ox_slot *slot, uint64_t count)
{
	ox_qcow2_refcount_set(slot->block, k->rc.order, slot->index, count);
	slot->changed = true;
}

/* ---- on all cores: blocks of the page cache in which nothing differs ---- */

struct blocks {
	struct slot_pass pass;
	uint8_t *seats[OX_CREW_SEATS_MAX]; /* a block each */
};

static int try_block(void *arg, unsigned seat, uint64_t index)
{
	struct blocks *b = arg;
	const struct ox_ledger *k = b->pass.k;
	uint8_t *bytes = b->seats[seat];

	if (k->rc.blocks[index].state != OX_BLOCK_SOUND ||
	    !ox_io_read_cached(k->v->io, bytes, k->v->cluster_bytes,
			       ox_ledger_block_offset(k, index)))
		return 0;
	for (uint64_t i = 0; i < k->rc.block_entries; i += 64) {
		if (to_visit(&b->pass, index * k->rc.block_entries + i, bytes, i))
			return 0;
	}
	return 1;
}

static void blocks_done(void *arg, uint64_t count)
{
	const struct blocks *b = arg;

	ox_journal_progress(b->pass.k->v->j, count);
}

static int compare_cached_co(struct ox_ledger *k, uint64_t **ret_done)
{
	static const struct ox_crew_ops ops = {.try_one = try_block, .done = blocks_done};
	unsigned seats = ox_crew_seats(k->rc.index_count);
	struct blocks b = {0};
	int r = 0;

	/* Beside a guest the counts change, and its requests come first. */
	if (seats == 0 || k->v->pause_co || !k->v->io->ops->read_cached)
		return 0;
	prepare(&b.pass, k);
	for (unsigned i = 0; i < seats; i++) {
		b.seats[i] = malloc(k->v->cluster_bytes);
		if (!b.seats[i])
			r = -ENOMEM;
	}
	if (r == 0)
		r = ox_crew_run_co(seats, k->rc.index_count, &ops, &b, ret_done);
	for (unsigned i = 0; i < seats; i++)
		free(b.seats[i]);
	return r;
}

int ox_slots_compare_co(struct ox_ledger *k, ox_slot_fn visit, void *arg)
{
	struct slot_pass p;
	uint64_t *done = NULL;
	int r = compare_cached_co(k, &done);

	prepare(&p, k);
	p.visit = visit;
	p.arg = arg;
	p.done = done;
	if (r == 0)
		r = slots_co(&p);
	free(done);
	return r;
}
