/* SPDX-License-Identifier: MIT */
/* Opening a walk, and the metadata that shares its clusters with nothing. */
#include "check/walk/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"

/* Host offsets have 56 bits. */
#define MAX_HOST_BYTES (UINT64_C(1) << 56)

/* ---- references ---- */

bool ox_walk_past_end(const struct ox_walk *w, uint64_t offset, uint64_t size_bytes)
{
	uint64_t end;

	if (!ox_add_u64(offset, size_bytes, &end))
		return true;
	return end > w->file_bytes && end - w->file_bytes >= w->cluster_bytes;
}

/* What a cell of state old becomes when it is named as state; BROKEN where that cannot be. */
static unsigned merge_states(unsigned old, unsigned state)
{
	unsigned old_kind = old & ~3u;
	unsigned kind = state & ~3u;

	if (old == OX_CELL_NONE || old == state)
		return old == OX_CELL_META ? OX_CELL_BROKEN : state;
	if (kind != 0 && old_kind == kind)
		return old | state;
	/* A compressed stream's last sectors may lie in a cluster that others use. */
	if (old == OX_CELL_COMPRESSED && kind == OX_CELL_DATA)
		return state;
	if (old_kind == OX_CELL_DATA && state == OX_CELL_COMPRESSED)
		return old;
	if (old_kind == OX_CELL_L2 || old_kind == OX_CELL_BROKEN_L2)
		return OX_CELL_BROKEN_L2 | (old & 3u);
	return OX_CELL_BROKEN;
}

int ox_walk_refer(struct ox_walk *w, uint64_t cluster, unsigned state, uint32_t times)
{
	struct ox_cell cell = ox_counts_get(&w->counts, cluster);
	unsigned merged = merge_states(cell.state, state);
	bool broken = ox_cell_is_broken((struct ox_cell){.state = merged});
	uint64_t count = cell.count;
	int r;

	if (!broken)
		count += times;
	r = ox_counts_set(&w->counts, cluster,
			  (struct ox_cell){
				  .state = merged,
				  .count = (uint32_t)ox_min_u64(count, OX_COUNT_MAX),
			  });
	if (r < 0)
		return r;
	return !broken;
}

int ox_walk_claim(struct ox_walk *w, const char *word, uint64_t offset, uint64_t size_bytes)
{
	uint64_t first = offset / w->cluster_bytes;
	uint64_t end, c;
	int r = 1;

	if (size_bytes == 0)
		return 1;
	if (ox_walk_past_end(w, offset, size_bytes)) {
		ox_journal_found(w->j, OX_FOUND_TABLE_PAST_END,
				 OX_FOUND(.word = word, .a = offset, .b = size_bytes,
					  .host_offset = offset));
		return 0;
	}
	end = ox_div_up(offset + size_bytes, w->cluster_bytes);
	/* Ends at the first cluster in use, so that all claims together take no longer than the
	 * file. */
	for (c = first; c < end && r == 1; c++)
		r = ox_walk_refer(w, c, OX_CELL_META, 1);
	if (w->claimed && r >= 0 && w->claimed(w, word, first, c - (r == 0)) < 0)
		return -ENOMEM;
	if (r == 0)
		ox_journal_found(w->j, OX_FOUND_OVERLAP,
				 OX_FOUND(.word = word, .a = offset, .b = size_bytes,
					  .host_offset = offset));
	return r;
}

/* ---- the refcount structure ---- */

/* A block that is not its own is left out, and rebuilt by a repair. */
static int claim_block(struct ox_walk *w, uint64_t index)
{
	uint64_t raw = ox_be64_get(w->reftable[index]);
	struct ox_found what = OX_FOUND(.a = index, .b = raw, .host_offset = raw);
	enum ox_finding_id id;
	struct ox_host block;

	if (raw == 0)
		return 0;
	w->blocks[index].state = OX_BLOCK_BROKEN;
	if (!ox_qcow2_reftable_decode(&w->h, raw, &block)) {
		id = raw & 0x1ff ? OX_FOUND_BLOCK_RESERVED : OX_FOUND_BLOCK_UNALIGNED;
	} else if (ox_walk_past_end(w, block.bytes, w->cluster_bytes)) {
		id = OX_FOUND_BLOCK_PAST_END;
	} else if (ox_counts_get(&w->counts, block.bytes / w->cluster_bytes).state !=
		   OX_CELL_NONE) {
		id = OX_FOUND_BLOCK_OVERLAP;
	} else {
		w->blocks[index].state = OX_BLOCK_SOUND;
		return ox_walk_refer(w, block.bytes / w->cluster_bytes, OX_CELL_META, 1);
	}
	w->broken_blocks++;
	w->blocks[index].found = (uint8_t)id;
	ox_journal_found(w->j, id, what);
	return 0;
}

static int claim_refcounts_co(struct ox_walk *w)
{
	uint64_t size_bytes = (uint64_t)w->h.reftable_clusters << w->h.cluster_bits;
	int r;

	/* Without one, the references tell all that it would. */
	if (size_bytes == 0)
		return 0;
	if (ox_walk_past_end(w, w->h.reftable_offset, size_bytes)) {
		ox_journal_found(w->j, OX_FOUND_REFCOUNT_TABLE,
				 OX_FOUND(.word = "it lies past the end of the file",
					  .host_offset = w->h.reftable_offset));
		/* As where its fields are wrong: a new one leaves nothing behind. */
		w->h.reftable_offset = 0;
		w->h.reftable_clusters = 0;
		return 0;
	}
	r = ox_walk_claim(w, "Refcount table", w->h.reftable_offset, size_bytes);
	if (r < 0)
		return r;
	w->reftable = malloc(size_bytes);
	w->blocks = calloc(size_bytes / 8, sizeof(*w->blocks));
	if (!w->reftable || !w->blocks)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, w->reftable, size_bytes, w->h.reftable_offset);
	if (r < 0)
		return ox_journal_unreadable(w->j, "Refcount table", w->h.reftable_offset, r);
	w->index_count = w->table_entries = size_bytes / 8;
	for (uint64_t i = 0; i < w->index_count; i++) {
		r = claim_block(w, i);
		if (r < 0)
			return r;
		ox_journal_expect(w->j, w->blocks[i].state == OX_BLOCK_SOUND);
	}
	return 0;
}

/* ---- the walk ---- */

static int claim_active_l1(struct ox_walk *w)
{
	uint64_t size_bytes = UINT64_C(8) * w->h.l1_entries;
	int r = ox_walk_claim(w, "Active L1 table", w->h.l1_offset, size_bytes);

	if (r < 0)
		return r;
	/* Followed even where it overlaps something: it is read once, and what it names is used. */
	w->trees = calloc(1, sizeof(*w->trees));
	if (!w->trees)
		return -ENOMEM;
	w->tree_count = 1;
	w->trees[0].l1_offset = w->h.l1_offset;
	if (size_bytes > 0 && !ox_walk_past_end(w, w->h.l1_offset, size_bytes))
		w->trees[0].l1_entries = w->h.l1_entries;
	return 0;
}

/* Whether the largest table that there may be can count every cluster that is named. */
static void judge_limit(struct ox_walk *w)
{
	uint64_t most = OX_QCOW2_MAX_REFTABLE_BYTES / 8 * w->block_entries;

	if (w->counts.end > most)
		ox_journal_found(w->j, OX_FOUND_TABLE_TOO_SMALL, OX_FOUND(.a = w->counts.end - 1));
}

int ox_walk_claim_all_co(struct ox_walk *w)
{
	int r;

	ox_walk_judge_header(w);
	r = ox_walk_claim(w, "Header", 0, w->cluster_bytes);
	if (r >= 0)
		r = claim_active_l1(w);
	if (r >= 0)
		r = claim_refcounts_co(w);
	if (r >= 0)
		r = ox_walk_claim_snapshots_co(w);
	if (r >= 0)
		r = ox_walk_claim_extensions_co(w);
	return r < 0 ? r : 0;
}

int ox_walk_count_co(struct ox_walk *w)
{
	int r = ox_walk_claim_all_co(w);

	if (r == 0)
		r = ox_walk_count_l1_co(w);
	if (r == 0)
		r = ox_walk_count_l2_co(w);
	if (r == 0)
		judge_limit(w);
	return r;
}

bool ox_walk_is_clean(const struct ox_walk *w)
{
	return w->j->totals.corruptions == 0 && w->j->totals.leaks == 0 &&
	       w->j->totals.check_errors == 0 && w->j->structural == 0 && w->leaks == 0 &&
	       w->too_low == 0 && w->copied_wrong == 0;
}

int ox_walk_open_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err)
{
	int r;

	w->io = io;
	w->grown_from = UINT64_MAX;
	w->grown_end = UINT64_MAX;
	r = ox_walk_read_header_co(w, err);
	if (r < 0)
		return r;
	w->cluster_bytes = ox_qcow2_cluster_bytes(&w->h);
	ox_journal_begin(w->j, w->cluster_bytes);
	w->file_bytes = ox_min_u64(io->length, MAX_HOST_BYTES);
	w->file_clusters = ox_div_up(w->file_bytes, w->cluster_bytes);
	w->block_entries = ox_qcow2_refblock_entries(&w->h);
	w->has_data_file = w->h.incompatible & OX_QCOW2_INCOMPAT_DATA_FILE;
	w->dirty = w->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	w->result.total_clusters = ox_div_up(w->h.size_bytes, w->cluster_bytes);
	/* What reaches less than a cluster past the end may touch one cluster more. */
	if (ox_counts_init(&w->counts, w->file_clusters + 1) < 0)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	return 0;
}

void ox_walk_close(struct ox_walk *w)
{
	if (w->j)
		ox_journal_tell_run(w->j);
	ox_counts_free(&w->counts);
	for (uint64_t t = 0; t < w->tree_count; t++)
		free(w->trees[t].name);
	free(w->trees);
	ox_digest_clear(&w->digest);
	free(w->patches);
	free(w->l2_clusters);
	free(w->reftable);
	free(w->blocks);
	free(w->no_tables);
	free(w->suspects);
	free(w->reaches);
	free(w->l2_places);
}
