/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps that the header vouches for, and no extension tells where they are. Their directory is
 * one of the clusters that nobody names and that are counted once: it begins with a record, each
 * record leads to a table that nobody names either, and nothing else is in it. If one cluster alone
 * is like that, the extension is made anew, at the end of the list. Else the bit is cleared.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/claims/claims.h"
#include "check/mend/mend.h"

#define AUTOCLEAR_AT 88u /* of the header */
#define SECTOR_BYTES 512u
#define EXTENSION_BYTES 32u /* of the bitmaps, its own head included */
#define END_BYTES 8u
#define MOST_LOOKED_AT 65536u

struct disk_extension {
	struct ox_be32 type;
	struct ox_be32 length;
	struct ox_be32 count;
	struct ox_be32 reserved;
	struct ox_be64 directory_bytes;
	struct ox_be64 directory_offset;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_extension) == EXTENSION_BYTES, "as the specification has it");

struct search {
	struct ox_walk *w;
	struct ox_stored stored;
	uint64_t found;
	struct ox_qcow2_bitmaps_ext ext; /* the last one that was found */
};

/* ---- the directory ---- */

/* 1: nobody names the cluster, and it is counted once; 0 or a negative errno. */
static int is_leaked_co(struct search *s, uint64_t cluster)
{
	uint64_t count = 0;
	int r;

	if (ox_counts_get(&s->w->k.cells, cluster).state != OX_CELL_NONE)
		return 0;
	r = ox_stored_count_co(&s->w->k, &s->stored, cluster, &count);
	return r <= 0 ? r : count == 1;
}

/* 1: it can begin with a record. Most clusters hold data, and are passed over by that. */
static int begins_well_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint8_t sector[SECTOR_BYTES];
	struct ox_be64 table;
	uint64_t offset;
	int r = ox_io_pread_co(w->v.io, sector, sizeof(sector), cluster * w->v.cluster_bytes);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	memcpy(&table, sector, sizeof(table));
	offset = ox_be64_get(table);
	return offset != 0 && ox_is_aligned(offset, w->v.cluster_bytes) && offset < w->v.file_bytes;
}

static int search_co(struct search *s)
{
	struct ox_walk *w = s->w;
	uint64_t looked_at = 0;

	for (uint64_t c = 1; c < w->v.file_clusters && looked_at < MOST_LOOKED_AT; c++) {
		struct ox_qcow2_bitmaps_ext ext;
		int r = is_leaked_co(s, c);

		looked_at += r > 0;
		if (r > 0)
			r = begins_well_co(s, c);
		if (r > 0)
			r = ox_claims_read_directory_co(&w->k, c * w->v.cluster_bytes, &ext);
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		s->found++;
		s->ext = ext;
	}
	/* What was not looked at may hold another. */
	if (looked_at == MOST_LOOKED_AT)
		s->found = 0;
	return 0;
}

/* ---- the extension ---- */

static bool is_zero(const uint8_t *bytes, size_t count)
{
	while (count > 0 && bytes[count - 1] == 0)
		count--;
	return count == 0;
}

/* The list's end moves behind the extension. Where both lie in one sector they are written at once;
 * else what follows the end, which means nothing yet, is durable first. */
static int write_extension_co(struct ox_walk *w, const struct disk_extension *extension)
{
	uint64_t at = w->v.list_end_offset;
	uint64_t start = ox_align_down(at, SECTOR_BYTES);
	uint64_t area_end = w->v.h.backing_offset ? w->v.h.backing_offset : w->v.cluster_bytes;
	uint8_t sectors[2 * SECTOR_BYTES];
	uint64_t end = ox_align_up(at + EXTENSION_BYTES + END_BYTES, SECTOR_BYTES);
	int r;

	if (at == 0 || w->v.has_fence || at + EXTENSION_BYTES + END_BYTES > area_end)
		return 0;
	r = ox_io_pread_co(w->v.io, sectors, end - start, start);
	if (r < 0)
		return r;
	/* Where there are zeroes alone, as many as it takes, the list may go on behind them. */
	if (!is_zero(sectors + (at - start), EXTENSION_BYTES))
		memset(sectors + (at - start) + EXTENSION_BYTES, 0, END_BYTES);
	memcpy(sectors + (at - start), extension, EXTENSION_BYTES);
	if (end - start > SECTOR_BYTES) {
		r = ox_io_pwrite_co(w->v.io, sectors + SECTOR_BYTES, SECTOR_BYTES,
				    start + SECTOR_BYTES, 0);
		if (r == 0)
			r = ox_io_sync_co(w->v.io);
	}
	if (r == 0)
		r = ox_io_pwrite_co(w->v.io, sectors, SECTOR_BYTES, start, 0);
	if (r == 0)
		r = ox_io_sync_co(w->v.io);
	return r < 0 ? r : 1;
}

static int restore_co(struct search *s)
{
	struct disk_extension extension = {
		.type = ox_be32(OX_QCOW2_EXT_BITMAPS),
		.length = ox_be32(EXTENSION_BYTES - 8),
		.count = ox_be32(s->ext.count),
		.directory_bytes = ox_be64(s->ext.directory_bytes),
		.directory_offset = ox_be64(s->ext.directory_offset),
	};

	return s->found == 1 ? write_extension_co(s->w, &extension) : 0;
}

static int give_up_co(struct ox_mend *m, struct ox_found what, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct ox_be64 autoclear =
		ox_be64(w->v.h.autoclear & ~(uint64_t)OX_QCOW2_AUTOCLEAR_BITMAPS);

	what.loses = true;
	ox_view_patch(&w->v, OX_FOUND_HEADER_AUTOCLEAR, what, AUTOCLEAR_AT, &autoclear,
		      sizeof(autoclear));
	return ox_mend_apply_patches_co(m, ret_again);
}

int ox_mend_lost_bitmaps_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct ox_found what = ox_view_lost_bitmaps_found();
	struct search s = {.w = w};
	int r = search_co(&s);

	if (r == 0)
		r = restore_co(&s);
	ox_stored_free(&s.stored);
	*ret_again = true;
	if (r == 0)
		return give_up_co(m, what, ret_again);
	if (r < 0)
		return r;
	ox_journal_mended(w->j, OX_FOUND_HEADER_AUTOCLEAR, what);
	return 0;
}
