/* SPDX-License-Identifier: MIT */
/* Bitmaps: what they claim. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/scan/scan.h"
#include "check/claims/claims.h"

#define READ_BYTES UINT64_C(65536)
#define SECTOR_BYTES 512u
#define AUTOCLEAR_AT 88u /* of the header */
#define MAX_DIRECTORY_BYTES (UINT64_C(64) << 20)
#define BITMAP_ALL_ONES UINT64_C(1)

struct bitmap_pass {
	struct ox_view *v;
	struct ox_ledger *k;
	uint64_t number;
	uint64_t offset; /* of what is left of the table */
	uint64_t left_bytes;
};

static bool bitmap_next(void *arg, struct ox_scan_item *ret)
{
	struct bitmap_pass *p = arg;
	size_t size = ox_min_u64(p->left_bytes, READ_BYTES);

	if (size == 0)
		return false;
	*ret = (struct ox_scan_item){.offset = p->offset, .size_bytes = size};
	p->offset += size;
	p->left_bytes -= size;
	return true;
}

/* What is not known of a bitmap counts as written: a backup misses nothing then. */
static void set_ones(struct bitmap_pass *p, enum ox_finding_id id, struct ox_found what,
		     uint64_t entry_at)
{
	struct ox_be64 ones = ox_be64(BITMAP_ALL_ONES);

	ox_view_patch(p->v, id, what, entry_at, &ones, sizeof(ones));
}

static int claim_bitmap_entry(struct bitmap_pass *p, uint64_t raw, uint64_t entry_at)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	struct ox_found what = OX_FOUND(.word = "Bitmap data", .a = offset,
					.b = p->v->cluster_bytes, .host_offset = offset);
	struct ox_cell cell = ox_counts_get(&p->k->cells, offset / p->v->cluster_bytes);

	if ((raw & ~(OX_QCOW2_OFFSET_MASK | BITMAP_ALL_ONES)) ||
	    !ox_is_aligned(offset, p->v->cluster_bytes) || (offset && (raw & BITMAP_ALL_ONES))) {
		set_ones(p, OX_FOUND_BITMAP_ENTRY, OX_FOUND(.a = p->number, .b = raw), entry_at);
		return 0;
	}
	if (offset && ox_view_is_cut(p->v, offset, p->v->cluster_bytes)) {
		set_ones(p, OX_FOUND_TABLE_PAST_END, what, entry_at);
		return 0;
	}
	if (offset && cell.state != OX_CELL_NONE) {
		set_ones(p, OX_FOUND_OVERLAP, what, entry_at);
		return 0;
	}
	return offset ? ox_ledger_claim(p->k, "Bitmap data", offset, p->v->cluster_bytes) : 0;
}

static int bitmap_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct bitmap_pass *p = arg;
	const struct ox_be64 *table = (const struct ox_be64 *)bytes;

	if (error)
		return ox_journal_unreadable(p->v->j, "Bitmap table", item->offset, error);
	for (size_t i = 0; i < item->size_bytes / 8; i++) {
		int r = table[i].raw
				? claim_bitmap_entry(p, ox_be64_get(table[i]), item->offset + 8 * i)
				: 0;

		if (r < 0)
			return r;
	}
	return 0;
}

/* The directory ends before a bitmap that cannot be followed; where that is the first one, none is
 * vouched for any more. */
static void cut_directory(struct ox_view *v, enum ox_finding_id id, struct ox_found what,
			  uint32_t count, uint64_t size_bytes)
{
	struct {
		struct ox_be32 count;
		struct ox_be32 reserved;
		struct ox_be64 directory_bytes;
	} __attribute__((packed)) fields = {ox_be32(count), ox_be32(0), ox_be64(size_bytes)};
	struct ox_be64 autoclear = ox_be64(v->h.autoclear & ~(uint64_t)OX_QCOW2_AUTOCLEAR_BITMAPS);

	if (count == 0 || v->bitmaps_at % SECTOR_BYTES + sizeof(fields) > SECTOR_BYTES)
		ox_view_patch(v, id, what, AUTOCLEAR_AT, &autoclear, sizeof(autoclear));
	else
		ox_view_patch(v, id, what, v->bitmaps_at, &fields, sizeof(fields));
}

/* at: where the record of the bitmap is in the directory. */
static int claim_bitmap_co(struct ox_view *v, struct ox_ledger *k, uint32_t number, uint64_t at,
			   const struct ox_qcow2_bitmap *bitmap)
{
	static const struct ox_scan_ops ops = {.next = bitmap_next, .visit_co = bitmap_item_co};
	struct bitmap_pass p = {
		.v = v,
		.k = k,
		.number = number,
		.offset = bitmap->table_offset,
		.left_bytes = UINT64_C(8) * bitmap->table_entries,
	};
	struct ox_found what = OX_FOUND(.word = "its table is not cluster aligned", .a = number,
					.host_offset = p.offset);
	int r;

	if (!ox_is_aligned(p.offset, v->cluster_bytes)) {
		cut_directory(v, OX_FOUND_BITMAP_DIRECTORY, what, number, at);
		return 0;
	}
	r = ox_claims_tell_cut_co(k, "bitmap table", p.offset, p.left_bytes);
	if (r != 0)
		return r < 0 ? r : 0;
	if (ox_view_is_cut(v, p.offset, p.left_bytes)) {
		what = OX_FOUND(.word = "Bitmap table", .a = p.offset, .b = p.left_bytes,
				.host_offset = p.offset);
		cut_directory(v, OX_FOUND_TABLE_PAST_END, what, number, at);
		return 0;
	}
	r = ox_ledger_claim(k, "Bitmap table", p.offset, p.left_bytes);
	/* One that lies in another table is not followed. */
	return r == 1 && p.left_bytes > 0 ? ox_scan_co(v->io, v->cluster_bytes, &ops, &p) : r;
}

static void judge_record(const struct ox_view *v, uint64_t number,
			 const struct ox_qcow2_bitmap *bitmap)
{
	uint64_t bits = ox_div_up(v->h.size_bytes, UINT64_C(1) << bitmap->granularity_bits);
	uint64_t needed = ox_div_up(ox_div_up(bits, 8), v->cluster_bytes);

	/* One that was not saved says nothing true, whatever its size. */
	if (bitmap->flags & OX_QCOW2_BITMAP_IN_USE)
		ox_journal_found(v->j, OX_FOUND_BITMAP_IN_USE, OX_FOUND(.a = number));
	else if (bitmap->table_entries != needed)
		ox_journal_found(v->j, OX_FOUND_BITMAP_TABLE_SIZE,
				 OX_FOUND(.a = number, .b = bitmap->table_entries, .c = needed));
}

static int claim_directory_co(struct ox_view *v, struct ox_ledger *k,
			      const struct ox_qcow2_bitmaps_ext *ext, const uint8_t *bytes,
			      struct ox_names *names)
{
	size_t pos = 0;

	for (uint32_t i = 0; i < ext->count; i++) {
		struct ox_qcow2_bitmap bitmap;
		struct ox_error *err = NULL;
		size_t at = pos;
		int r = ox_qcow2_bitmap_decode(&v->h, bytes, ext->directory_bytes, &pos, &bitmap,
					       &err);

		if (r == -EINVAL)
			cut_directory(v, OX_FOUND_BITMAP_DIRECTORY,
				      OX_FOUND(.word = ox_error_message(err), .a = i), i, at);
		ox_error_free(err);
		if (r < 0)
			return r == -EINVAL ? 0 : r;
		judge_record(v, i, &bitmap);
		r = ox_names_add(names, bitmap.name, i);
		bitmap.name = NULL;
		if (r == 0)
			r = claim_bitmap_co(v, k, i, at, &bitmap);
		ox_qcow2_bitmap_free(&bitmap);
		if (r < 0)
			return r;
	}
	return 0;
}

int ox_claims_bitmaps_co(struct ox_view *v, struct ox_ledger *k,
			 const struct ox_qcow2_bitmaps_ext *ext)
{
	struct ox_names names = {0};
	uint8_t *bytes;
	int r;

	if (ext->directory_bytes > MAX_DIRECTORY_BYTES) {
		ox_journal_found(v->j, OX_FOUND_TABLE_PAST_END,
				 OX_FOUND(.word = "Bitmap directory", .a = ext->directory_offset,
					  .b = ext->directory_bytes));
		return 0;
	}
	r = ox_claims_tell_cut_co(k, "bitmap directory", ext->directory_offset,
				  ext->directory_bytes);
	if (r != 0)
		return r < 0 ? r : 0;
	r = ox_ledger_claim(k, "Bitmap directory", ext->directory_offset, ext->directory_bytes);
	if (r <= 0)
		return r;
	bytes = malloc(ox_max_u64(ext->directory_bytes, 1));
	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(v->io, bytes, ext->directory_bytes, ext->directory_offset);
	if (r < 0)
		r = ox_journal_unreadable(v->j, "Bitmap directory", ext->directory_offset, r);
	else
		r = claim_directory_co(v, k, ext, bytes, &names);
	ox_names_judge(&names, v->j, OX_FOUND_BITMAP_NAME);
	free(bytes);
	return r;
}
