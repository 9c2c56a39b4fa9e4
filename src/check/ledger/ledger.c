/* SPDX-License-Identifier: MIT */
#include "check/ledger/ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/ledger/stored.h"

int ox_ledger_open(struct ox_ledger *k, const struct ox_view *v)
{
	k->v = v;
	k->grown_from = UINT64_MAX;
	k->grown_end = UINT64_MAX;
	k->rc.offset = v->h.reftable_offset;
	k->rc.clusters = v->h.reftable_clusters;
	k->rc.order = v->h.refcount_order;
	k->rc.block_entries = ox_qcow2_refblock_entries(&v->h);
	/* What reaches less than a cluster past the end may touch one cluster more. */
	return ox_counts_init(&k->cells, v->file_clusters + 1);
}

void ox_refcounts_free(struct ox_refcounts *rc)
{
	free(rc->table);
	free(rc->blocks);
}

void ox_ledger_close(struct ox_ledger *k)
{
	ox_counts_free(&k->cells);
	ox_refcounts_free(&k->rc);
}

int ox_ledger_claim(struct ox_ledger *k, const char *word, uint64_t offset, uint64_t size_bytes)
{
	const struct ox_view *v = k->v;
	uint64_t first = offset / v->cluster_bytes;
	uint64_t end, c;
	int r = 1;

	if (size_bytes == 0)
		return 1;
	if (ox_view_is_cut(v, offset, size_bytes)) {
		ox_journal_found(v->j, OX_FOUND_TABLE_PAST_END,
				 OX_FOUND(.word = word, .a = offset, .b = size_bytes,
					  .host_offset = offset));
		return 0;
	}
	end = ox_div_up(offset + size_bytes, v->cluster_bytes);
	/* Ends at the first cluster in use, so that all claims together take no longer than the
	 * file. */
	for (c = first; c < end && r == 1; c++)
		r = ox_counts_refer(&k->cells, c, OX_CELL_META, 1);
	if (k->claimed && r >= 0 && k->claimed(k->claimed_arg, word, first, c - (r == 0)) < 0)
		return -ENOMEM;
	if (r == 0)
		ox_journal_found(v->j, OX_FOUND_OVERLAP,
				 OX_FOUND(.word = word, .a = offset, .b = size_bytes,
					  .host_offset = offset));
	return r;
}

/* The first cluster of which something is missing is looked up. Where its block was cut as well,
 * nothing speaks against it. */
int ox_ledger_was_cut_co(const struct ox_ledger *k, uint64_t offset, uint64_t size_bytes)
{
	uint64_t cluster = ox_max_u64(offset, k->v->file_bytes) / k->v->cluster_bytes;
	uint64_t index = cluster / k->rc.block_entries;
	struct ox_stored stored = {0};
	uint64_t count = 0;
	int r;

	if (!ox_view_is_cut(k->v, offset, size_bytes))
		return 0;
	r = ox_stored_count_co(k, &stored, cluster, &count);
	ox_stored_free(&stored);
	if (r == 0)
		return k->rc.blocks[index].found == OX_FOUND_BLOCK_PAST_END;
	return r == -ENOMEM ? r : r > 0 && count > 0;
}

/* ---- the refcount structure ---- */

/* A block that is not its own is left out, and rebuilt by a repair. */
static int claim_block(struct ox_ledger *k, uint64_t index)
{
	const struct ox_view *v = k->v;
	uint64_t raw = ox_be64_get(k->rc.table[index]);
	struct ox_found what = OX_FOUND(.a = index, .b = raw, .host_offset = raw);
	enum ox_finding_id id;
	struct ox_host block;

	if (raw == 0)
		return 0;
	k->rc.blocks[index].state = OX_BLOCK_BROKEN;
	if (!ox_qcow2_reftable_decode(&v->h, raw, &block)) {
		id = raw & 0x1ff ? OX_FOUND_BLOCK_RESERVED : OX_FOUND_BLOCK_UNALIGNED;
	} else if (ox_view_is_cut(v, block.bytes, v->cluster_bytes)) {
		id = OX_FOUND_BLOCK_PAST_END;
	} else if (ox_counts_get(&k->cells, block.bytes / v->cluster_bytes).state != OX_CELL_NONE) {
		id = OX_FOUND_BLOCK_OVERLAP;
	} else {
		k->rc.blocks[index].state = OX_BLOCK_SOUND;
		return ox_counts_refer(&k->cells, block.bytes / v->cluster_bytes, OX_CELL_META, 1);
	}
	k->broken_blocks++;
	k->rc.blocks[index].found = (uint8_t)id;
	ox_journal_found(v->j, id, what);
	return 0;
}

static int read_table_co(struct ox_ledger *k, uint64_t size_bytes)
{
	struct ox_refcounts *rc = &k->rc;
	int r;

	rc->table = malloc(size_bytes);
	rc->blocks = calloc(size_bytes / 8, sizeof(*rc->blocks));
	if (!rc->table || !rc->blocks)
		return -ENOMEM;
	r = ox_io_pread_co(k->v->io, rc->table, size_bytes, rc->offset);
	if (r < 0)
		return ox_journal_unreadable(k->v->j, "Refcount table", rc->offset, r);
	rc->index_count = rc->table_entries = size_bytes / 8;
	for (uint64_t i = 0; i < rc->index_count; i++) {
		r = claim_block(k, i);
		if (r < 0)
			return r;
		ox_journal_expect(k->v->j, rc->blocks[i].state == OX_BLOCK_SOUND);
	}
	return 0;
}

int ox_ledger_claim_refcounts_co(struct ox_ledger *k)
{
	uint64_t size_bytes = (uint64_t)k->rc.clusters << k->v->h.cluster_bits;
	int r;

	/* Without one, the references tell all that it would. */
	if (size_bytes == 0)
		return 0;
	if (ox_view_is_cut(k->v, k->rc.offset, size_bytes)) {
		ox_journal_found(k->v->j, OX_FOUND_REFCOUNT_TABLE,
				 OX_FOUND(.word = k->rc.offset < k->v->file_bytes
							  ? "the file ends within it"
							  : "it lies past the end of the file",
					  .host_offset = k->rc.offset));
		/* As where its fields are wrong: a new one leaves nothing behind. */
		k->rc.offset = 0;
		k->rc.clusters = 0;
		return 0;
	}
	r = ox_ledger_claim(k, "Refcount table", k->rc.offset, size_bytes);
	return r < 0 ? r : read_table_co(k, size_bytes);
}

bool ox_ledger_block_is_own(const struct ox_ledger *k, uint64_t index)
{
	uint64_t cluster = ox_ledger_block_offset(k, index) / k->v->cluster_bytes;

	return k->rc.blocks[index].state == OX_BLOCK_SOUND &&
	       ox_counts_get(&k->cells, cluster).state == OX_CELL_META;
}

bool ox_ledger_overflows(const struct ox_ledger *k, struct ox_cell cell)
{
	return cell.count > ox_qcow2_refcount_max(k->rc.order) || cell.count == OX_COUNT_MAX;
}

void ox_ledger_mark(struct ox_ledger *k, uint64_t cluster, bool raise, bool lower)
{
	uint64_t index = cluster / k->rc.block_entries;

	if (index >= k->rc.index_count)
		return;
	k->rc.blocks[index].raise |= raise;
	k->rc.blocks[index].lower |= lower;
}

/* ---- what a repair adds ---- */

int ox_ledger_grow(struct ox_ledger *k, uint64_t end)
{
	return ox_counts_extend(&k->cells, ox_max_u64(end, k->cells.limit));
}

void ox_ledger_note_grown(struct ox_ledger *k, uint64_t from, uint64_t end)
{
	k->grown_from = from;
	k->grown_end = end;
}

int ox_ledger_add(struct ox_ledger *k, uint64_t cluster, unsigned state, uint64_t refs)
{
	struct ox_cell cell = {
		.state = state,
		.count = (uint32_t)ox_min_u64(refs, OX_COUNT_MAX),
	};

	ox_ledger_mark(k, cluster, true, false);
	return ox_counts_set(&k->cells, cluster, cell);
}

int ox_ledger_grow_table(struct ox_ledger *k, uint64_t index_count)
{
	struct ox_refcounts *rc = &k->rc;
	struct ox_be64 *table = reallocarray(rc->table, index_count, sizeof(*table));
	struct ox_block *blocks;

	if (!table)
		return -ENOMEM;
	rc->table = table;
	blocks = reallocarray(rc->blocks, index_count, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	rc->blocks = blocks;
	memset(table + rc->index_count, 0, (index_count - rc->index_count) * sizeof(*table));
	memset(blocks + rc->index_count, 0, (index_count - rc->index_count) * sizeof(*blocks));
	rc->index_count = index_count;
	return 0;
}

void ox_ledger_name_block(struct ox_ledger *k, uint64_t index, uint64_t cluster)
{
	k->rc.table[index] = ox_be64(cluster * k->v->cluster_bytes);
	k->rc.blocks[index].state = cluster ? OX_BLOCK_SOUND : OX_BLOCK_NONE;
}

int ox_ledger_move_table(struct ox_ledger *k, uint64_t offset, uint32_t clusters)
{
	struct ox_refcounts *rc = &k->rc;
	uint64_t first = rc->offset / k->v->cluster_bytes;

	/* One that could not be found was never counted. */
	for (uint64_t c = first; c < first + rc->clusters && rc->table_entries > 0; c++) {
		int r = ox_counts_set(&k->cells, c, (struct ox_cell){0});

		if (r < 0)
			return r;
		ox_ledger_mark(k, c, false, true);
	}
	rc->offset = offset;
	rc->clusters = clusters;
	rc->table_entries = rc->index_count;
	return 0;
}

void ox_ledger_exchange(struct ox_ledger *k, struct ox_refcounts *other)
{
	struct ox_refcounts mine = k->rc;

	k->rc = *other;
	*other = mine;
}
