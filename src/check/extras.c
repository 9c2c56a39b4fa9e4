/* SPDX-License-Identifier: MIT */
/* Snapshots, bitmaps and the encryption header: what they claim. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/scan.h"
#include "check/walk.h"

#define FIRST_READ_BYTES UINT64_C(65536)
#define MAX_DIRECTORY_BYTES (UINT64_C(64) << 20)
#define BITMAP_ALL_ONES UINT64_C(1)

/* ---- snapshots ---- */

/*
 * The snapshot table says nowhere how long it is: more of it is read until every record fits.
 * Only its L1 tables are kept.
 */
struct snapshot_reader {
	struct ox_walk *w;
	uint8_t *bytes;
	size_t read_bytes;
	size_t most_bytes;
	size_t pos;
};

static int read_more_co(struct snapshot_reader *s)
{
	size_t size = ox_min_u64(s->most_bytes, ox_max_u64(2 * s->read_bytes, FIRST_READ_BYTES));
	uint8_t *bytes = realloc(s->bytes, size);
	int r;

	if (!bytes)
		return -ENOMEM;
	s->bytes = bytes;
	r = ox_io_pread_co(s->w->io, bytes, size, s->w->h.snapshots_offset);
	if (r < 0) {
		r = ox_walk_unreadable(s->w, "Snapshot table", s->w->h.snapshots_offset, r);
		return r < 0 ? r : -EIO;
	}
	s->read_bytes = size;
	return 0;
}

/* 0; -EINVAL with a finding, where the table ends for us; -EIO likewise; -ENOMEM. */
static int read_snapshot_co(struct snapshot_reader *s, uint32_t number,
			    struct ox_walk_tree *ret_tree)
{
	struct ox_qcow2_snapshot snapshot;
	struct ox_error *err = NULL;
	int r;

	while ((r = ox_qcow2_snapshot_decode(&s->w->h, s->bytes, s->read_bytes, &s->pos, &snapshot,
					     &err)) == -EINVAL &&
	       s->read_bytes < s->most_bytes) {
		r = read_more_co(s);
		if (r < 0)
			break;
		ox_error_free(err);
		err = NULL;
	}
	if (r == -EINVAL)
		ox_walk_found(s->w, OX_FOUND_SNAPSHOT_TABLE,
			      OX_FOUND(.word = ox_error_message(err), .a = number));
	ox_error_free(err);
	if (r < 0)
		return r;
	*ret_tree = (struct ox_walk_tree){
		.l1_offset = snapshot.l1_offset,
		.l1_entries = snapshot.l1_entries,
		.name = snapshot.name,
	};
	snapshot.name = NULL;
	ox_qcow2_snapshot_free(&snapshot);
	return 0;
}

/* A tree that cannot be followed is left with no entries. */
static int claim_snapshot_l1(struct ox_walk *w, uint64_t number)
{
	struct ox_walk_tree *t = &w->trees[number];
	struct ox_found what = OX_FOUND(.a = number - 1, .host_offset = t->l1_offset);
	uint64_t size_bytes = UINT64_C(8) * t->l1_entries;
	int r = 0;

	if (!ox_is_aligned(t->l1_offset, w->cluster_bytes)) {
		what.b = t->l1_offset;
		ox_walk_found(w, OX_FOUND_SNAPSHOT_L1_UNALIGNED, what);
	} else if (size_bytes > OX_QCOW2_MAX_L1_BYTES) {
		what.b = t->l1_entries;
		ox_walk_found(w, OX_FOUND_SNAPSHOT_L1_SIZE, what);
	} else {
		r = ox_walk_claim(w, "Snapshot L1 table", t->l1_offset, size_bytes);
	}
	/* One that lies in another table could send us round without end. */
	if (r <= 0)
		t->l1_entries = 0;
	return r;
}

static int read_snapshots_co(struct snapshot_reader *s)
{
	struct ox_walk *w = s->w;
	uint64_t count = w->h.snapshot_count;
	struct ox_walk_tree *trees = reallocarray(w->trees, count + 1, sizeof(*trees));
	int r = 0;

	if (!trees)
		return -ENOMEM;
	w->trees = trees;
	for (uint32_t i = 0; i < count && r == 0; i++) {
		r = read_snapshot_co(s, i, &w->trees[w->tree_count]);
		w->tree_count += r == 0;
	}
	if (r == -ENOMEM)
		return r;
	r = ox_walk_claim(w, "Snapshot table", w->h.snapshots_offset, s->pos);
	for (uint64_t t = 1; t < w->tree_count && r >= 0; t++)
		r = claim_snapshot_l1(w, t);
	return r;
}

int ox_walk_claim_snapshots_co(struct ox_walk *w)
{
	struct snapshot_reader s = {.w = w};
	int r;

	if (w->h.snapshot_count == 0)
		return 0;
	if (w->h.snapshots_offset >= w->file_bytes) {
		ox_walk_found(w, OX_FOUND_TABLE_PAST_END,
			      OX_FOUND(.word = "Snapshot table", .a = w->h.snapshots_offset));
		return 0;
	}
	s.most_bytes = ox_min_u64(OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES,
				  w->file_bytes - w->h.snapshots_offset);
	r = read_snapshots_co(&s);
	free(s.bytes);
	return r;
}

/* ---- bitmaps ---- */

struct bitmap_pass {
	struct ox_walk *w;
	uint64_t number;
	uint64_t offset; /* of what is left of the table */
	uint64_t left_bytes;
};

static bool bitmap_next(void *arg, struct ox_scan_item *ret)
{
	struct bitmap_pass *p = arg;
	size_t size = ox_min_u64(p->left_bytes, FIRST_READ_BYTES);

	if (size == 0)
		return false;
	*ret = (struct ox_scan_item){.offset = p->offset, .size_bytes = size};
	p->offset += size;
	p->left_bytes -= size;
	return true;
}

static int claim_bitmap_entry(struct bitmap_pass *p, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	if ((raw & ~(OX_QCOW2_OFFSET_MASK | BITMAP_ALL_ONES)) ||
	    !ox_is_aligned(offset, p->w->cluster_bytes) || (offset && (raw & BITMAP_ALL_ONES))) {
		ox_walk_found(p->w, OX_FOUND_BITMAP_ENTRY, OX_FOUND(.a = p->number, .b = raw));
		return 0;
	}
	return offset ? ox_walk_claim(p->w, "Bitmap data", offset, p->w->cluster_bytes) : 0;
}

static int bitmap_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct bitmap_pass *p = arg;
	const struct ox_be64 *table = (const struct ox_be64 *)bytes;

	if (error)
		return ox_walk_unreadable(p->w, "Bitmap table", item->offset, error);
	for (size_t i = 0; i < item->size_bytes / 8; i++) {
		int r = table[i].raw ? claim_bitmap_entry(p, ox_be64_get(table[i])) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static int claim_bitmap_co(struct ox_walk *w, uint64_t number, const struct ox_qcow2_bitmap *bitmap)
{
	static const struct ox_scan_ops ops = {.next = bitmap_next, .visit_co = bitmap_item_co};
	struct bitmap_pass p = {
		.w = w,
		.number = number,
		.offset = bitmap->table_offset,
		.left_bytes = UINT64_C(8) * bitmap->table_entries,
	};
	int r = ox_walk_claim(w, "Bitmap table", p.offset, p.left_bytes);

	/* One that lies in another table is not followed. */
	return r == 1 && p.left_bytes > 0 ? ox_scan_co(w->io, w->cluster_bytes, &ops, &p) : r;
}

static int claim_directory_co(struct ox_walk *w, const struct ox_qcow2_bitmaps_ext *ext,
			      const uint8_t *bytes)
{
	size_t pos = 0;

	for (uint32_t i = 0; i < ext->count; i++) {
		struct ox_qcow2_bitmap bitmap;
		struct ox_error *err = NULL;
		int r = ox_qcow2_bitmap_decode(&w->h, bytes, ext->directory_bytes, &pos, &bitmap,
					       &err);

		if (r == -EINVAL)
			ox_walk_found(w, OX_FOUND_BITMAP_DIRECTORY,
				      OX_FOUND(.word = ox_error_message(err), .a = i));
		ox_error_free(err);
		if (r < 0)
			return r == -EINVAL ? 0 : r;
		r = claim_bitmap_co(w, i, &bitmap);
		ox_qcow2_bitmap_free(&bitmap);
		if (r < 0)
			return r;
	}
	return 0;
}

static int claim_bitmaps_co(struct ox_walk *w, const struct ox_qcow2_bitmaps_ext *ext)
{
	uint8_t *bytes;
	int r;

	if (ext->directory_bytes > MAX_DIRECTORY_BYTES) {
		ox_walk_found(w, OX_FOUND_TABLE_PAST_END,
			      OX_FOUND(.word = "Bitmap directory", .a = ext->directory_offset,
				       .b = ext->directory_bytes));
		return 0;
	}
	r = ox_walk_claim(w, "Bitmap directory", ext->directory_offset, ext->directory_bytes);
	if (r <= 0)
		return r;
	bytes = malloc(ox_max_u64(ext->directory_bytes, 1));
	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, bytes, ext->directory_bytes, ext->directory_offset);
	if (r < 0)
		r = ox_walk_unreadable(w, "Bitmap directory", ext->directory_offset, r);
	else
		r = claim_directory_co(w, ext, bytes);
	free(bytes);
	return r;
}

/* ---- the header's extensions ---- */

static int claim_decoded_co(struct ox_walk *w, const struct ox_qcow2_extensions *ext)
{
	int r = 0;

	if (w->dirty && ox_is_aligned(ext->fence_bytes, w->cluster_bytes) &&
	    ext->fence_bytes < w->file_bytes)
		w->fence_bytes = ext->fence_bytes;
	w->has_fence = ext->fence_bytes != 0;
	w->list_end_offset = ext->end_offset;
	if (ext->has_crypto)
		r = ox_walk_claim(w, "Encryption header", ext->crypto_offset, ext->crypto_bytes);
	/* Without the bit nobody vouches for the bitmaps: their clusters are leaks. */
	if (r >= 0 && ext->has_bitmaps && (w->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		r = claim_bitmaps_co(w, &ext->bitmaps);
	return r;
}

int ox_walk_claim_extensions_co(struct ox_walk *w)
{
	struct ox_qcow2_extensions ext;
	struct ox_error *err = NULL;
	uint8_t *bytes = malloc(w->cluster_bytes);
	int r;

	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, bytes, w->cluster_bytes, 0);
	if (r < 0) {
		free(bytes);
		return ox_walk_unreadable(w, "Header", 0, r);
	}
	r = ox_qcow2_extensions_decode(&w->h, bytes, w->cluster_bytes, &ext, &err);
	free(bytes);
	if (r == -ENOMEM) {
		ox_error_free(err);
		return r;
	}
	if (r < 0) {
		ox_walk_found(w, OX_FOUND_EXTENSIONS, OX_FOUND(.word = ox_error_message(err)));
		ox_error_free(err);
		return 0;
	}
	r = claim_decoded_co(w, &ext);
	ox_qcow2_extensions_free(&ext);
	return r;
}
