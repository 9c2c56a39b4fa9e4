/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory against what the header's extension says of it: how many bitmaps, and how
 * many bytes. The records follow each other, and each leads to a table that nothing else claims; so
 * where one of the two numbers is wrong, the records and the other number tell it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/counts/stored.h"
#include "check/walk/walk.h"

#define MOST_BYTES UINT64_C(65536)
#define COUNT_AT 0u /* within the data of the bitmaps' extension */
#define SIZE_AT 8u
#define BITMAPS_BYTES 24u

struct directory {
	uint8_t *bytes;
	size_t size;	  /* that were read */
	uint64_t records; /* of them, one behind the other */
	uint64_t end;	  /* of these */
	/* Those that the extension counts, and those that end where it says; 0: none do. */
	uint64_t end_of_counted;
	uint64_t ending_there;
};

/* 1: the record leads to a table in the file that nothing else claims and that is counted; 0 or
 * -ENOMEM. */
static int leads_to_table_co(struct ox_walk *w, struct ox_stored *stored,
			     const struct ox_qcow2_bitmap *b)
{
	uint64_t size_bytes = UINT64_C(8) * b->table_entries;
	uint64_t first = b->table_offset / w->cluster_bytes;
	uint64_t count = 0;
	int r;

	if (size_bytes == 0 || b->table_offset == 0 ||
	    !ox_is_aligned(b->table_offset, w->cluster_bytes) ||
	    !ox_range_within(b->table_offset, size_bytes, w->file_bytes) ||
	    !ox_counts_is_none(&w->counts, first, ox_div_up(size_bytes, w->cluster_bytes)))
		return 0;
	r = ox_stored_count_co(w, stored, first, &count);
	/* Where no block can be read, nothing speaks against it. */
	return r == 1 ? count > 0 : r == -ENOMEM ? r : 1;
}

static int measure_co(struct ox_walk *w, const struct ox_qcow2_bitmaps_ext *ext,
		      struct directory *d)
{
	struct ox_stored stored = {0};
	struct ox_qcow2_bitmap b;
	size_t pos = 0;
	int r = 1;

	while (r > 0 && ox_qcow2_bitmap_decode(&w->h, d->bytes, d->size, &pos, &b, NULL) == 0) {
		r = leads_to_table_co(w, &stored, &b);
		ox_qcow2_bitmap_free(&b);
		if (r <= 0)
			break;
		d->records++;
		d->end = pos;
		if (d->records == ext->count)
			d->end_of_counted = pos;
		if (pos == ext->directory_bytes)
			d->ending_there = d->records;
	}
	ox_stored_free(&stored);
	return r < 0 ? r : 0;
}

/* What there is of a directory where the extension says. Its bytes are to be freed. */
static int look_co(struct ox_walk *w, const struct ox_qcow2_bitmaps_ext *ext, struct directory *d)
{
	uint64_t at = ext->directory_offset;
	int r;

	*d = (struct directory){0};
	if (at == 0 || !ox_is_aligned(at, w->cluster_bytes) || at >= w->file_bytes)
		return 0;
	d->size = ox_min_u64(MOST_BYTES, w->file_bytes - at);
	d->bytes = malloc(d->size);
	if (!d->bytes)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, d->bytes, d->size, at);
	if (r == 0)
		r = measure_co(w, ext, d);
	/* What cannot be read tells nothing. */
	return r == -ENOMEM ? r : 0;
}

/* Whether something that is no record stands between the records and where the directory is said to
 * end: one more may have been there. */
static bool has_rest(const struct directory *d, uint64_t from, uint64_t end)
{
	for (uint64_t i = from; i < ox_min_u64(end, d->size); i++) {
		if (d->bytes[i] != 0)
			return true;
	}
	return false;
}

static void mend_count(struct ox_walk *w, const struct directory *d, uint8_t *data)
{
	struct ox_be32 count = ox_be32((uint32_t)d->ending_there);

	ox_walk_patch(
		w, OX_FOUND_EXTENSIONS,
		OX_FOUND(.word = "bitmaps_ext: the directory holds another number of bitmaps"),
		w->bitmaps_at + COUNT_AT, &count, sizeof(count));
	memcpy(data + COUNT_AT, &count, sizeof(count));
}

static void mend_size(struct ox_walk *w, const struct directory *d, uint8_t *data, uint64_t stated)
{
	struct ox_be64 size = ox_be64(d->end_of_counted);

	ox_walk_patch(w, OX_FOUND_EXTENSIONS,
		      OX_FOUND(.word = "bitmaps_ext: the directory has another size",
			       .loses = has_rest(d, d->end_of_counted, stated)),
		      w->bitmaps_at + SIZE_AT, &size, sizeof(size));
	memcpy(data + SIZE_AT, &size, sizeof(size));
}

/* ---- the extension ---- */

struct disk_bitmaps {
	struct ox_be32 count;
	struct ox_be32 reserved;
	struct ox_be64 directory_bytes;
	struct ox_be64 directory_offset;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_bitmaps) == BITMAPS_BYTES, "as the specification has it");

static struct ox_qcow2_bitmaps_ext load(const uint8_t *data)
{
	struct disk_bitmaps disk;

	memcpy(&disk, data, sizeof(disk));
	return (struct ox_qcow2_bitmaps_ext){
		.count = ox_be32_get(disk.count),
		.directory_bytes = ox_be64_get(disk.directory_bytes),
		.directory_offset = ox_be64_get(disk.directory_offset),
	};
}

int ox_walk_mend_directory_co(struct ox_walk *w, uint8_t *data)
{
	struct ox_qcow2_bitmaps_ext ext = load(data);
	struct directory d;
	int r = look_co(w, &ext, &d);

	if (r == 0 && d.ending_there > 0 && d.ending_there != ext.count)
		mend_count(w, &d, data);
	else if (r == 0 && d.end_of_counted > 0 && d.end_of_counted != ext.directory_bytes)
		mend_size(w, &d, data, ext.directory_bytes);
	free(d.bytes);
	return r;
}

int ox_walk_is_directory_co(struct ox_walk *w, const uint8_t *data)
{
	struct ox_qcow2_bitmaps_ext ext = load(data);
	struct directory d;
	int r = look_co(w, &ext, &d);

	free(d.bytes);
	return r < 0 ? r : d.ending_there > 0 && d.ending_there == ext.count;
}

int ox_walk_read_directory_co(struct ox_walk *w, uint64_t offset, struct ox_qcow2_bitmaps_ext *ret)
{
	struct directory d;
	int r;

	*ret = (struct ox_qcow2_bitmaps_ext){.directory_offset = offset};
	r = look_co(w, ret, &d);
	if (r == 0 && d.records > 0 && !has_rest(&d, d.end, ox_align_up(d.end, w->cluster_bytes))) {
		ret->count = (uint32_t)d.records;
		ret->directory_bytes = d.end;
	}
	free(d.bytes);
	return r < 0 ? r : ret->count > 0;
}
