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
#include "check/claims/claims.h"
#include "check/ledger/stored.h"

#define MOST_BYTES UINT64_C(65536)
#define COUNT_AT 0u /* within the data of the bitmaps' extension */
#define SIZE_AT 8u
#define BITMAPS_BYTES 24u
#define HEAD_BYTES 8u /* of an extension: type and length */

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
static int leads_to_table_co(const struct ox_ledger *k, struct ox_stored *stored,
			     const struct ox_qcow2_bitmap *b)
{
	uint64_t size_bytes = UINT64_C(8) * b->table_entries;
	uint64_t first = b->table_offset / k->v->cluster_bytes;
	uint64_t count = 0;
	int r;

	if (size_bytes == 0 || b->table_offset == 0 ||
	    !ox_is_aligned(b->table_offset, k->v->cluster_bytes) ||
	    !ox_range_within(b->table_offset, size_bytes, k->v->file_bytes) ||
	    !ox_counts_is_none(&k->cells, first, ox_div_up(size_bytes, k->v->cluster_bytes)))
		return 0;
	r = ox_stored_count_co(k, stored, first, &count);
	/* Where no block can be read, nothing speaks against it. */
	return r == 1 ? count > 0 : r == -ENOMEM ? r : 1;
}

static int measure_co(const struct ox_ledger *k, const struct ox_qcow2_bitmaps_ext *ext,
		      struct directory *d)
{
	struct ox_stored stored = {0};
	struct ox_qcow2_bitmap b;
	size_t pos = 0;
	int r = 1;

	while (r > 0 && ox_qcow2_bitmap_decode(&k->v->h, d->bytes, d->size, &pos, &b, NULL) == 0) {
		r = leads_to_table_co(k, &stored, &b);
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
static int look_co(const struct ox_ledger *k, const struct ox_qcow2_bitmaps_ext *ext,
		   struct directory *d)
{
	uint64_t at = ext->directory_offset;
	int r;

	*d = (struct directory){0};
	if (at == 0 || !ox_is_aligned(at, k->v->cluster_bytes) || at >= k->v->file_bytes)
		return 0;
	d->size = ox_min_u64(MOST_BYTES, k->v->file_bytes - at);
	d->bytes = malloc(d->size);
	if (!d->bytes)
		return -ENOMEM;
	r = ox_io_pread_co(k->v->io, d->bytes, d->size, at);
	if (r == 0)
		r = measure_co(k, ext, d);
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

static void mend_count(struct ox_view *v, const struct directory *d, uint8_t *data, uint64_t at)
{
	struct ox_be32 count = ox_be32((uint32_t)d->ending_there);

	ox_view_patch(
		v, OX_FOUND_EXTENSIONS,
		OX_FOUND(.word = "bitmaps_ext: the directory holds another number of bitmaps"),
		at + COUNT_AT, &count, sizeof(count));
	memcpy(data + COUNT_AT, &count, sizeof(count));
}

static void mend_size(struct ox_view *v, const struct directory *d, uint8_t *data, uint64_t at,
		      uint64_t stated)
{
	struct ox_be64 size = ox_be64(d->end_of_counted);

	ox_view_patch(v, OX_FOUND_EXTENSIONS,
		      OX_FOUND(.word = "bitmaps_ext: the directory has another size",
			       .loses = has_rest(d, d->end_of_counted, stated)),
		      at + SIZE_AT, &size, sizeof(size));
	memcpy(data + SIZE_AT, &size, sizeof(size));
}

/* The one of the extension's two numbers that the directory refutes. 0 or -ENOMEM. */
static int mend_numbers_co(struct ox_view *v, const struct ox_ledger *k, uint8_t *data, uint64_t at)
{
	struct ox_qcow2_bitmaps_ext ext = load(data);
	struct directory d;
	int r = look_co(k, &ext, &d);

	if (r == 0 && d.ending_there > 0 && d.ending_there != ext.count)
		mend_count(v, &d, data, at);
	else if (r == 0 && d.end_of_counted > 0 && d.end_of_counted != ext.directory_bytes)
		mend_size(v, &d, data, at, ext.directory_bytes);
	free(d.bytes);
	return r;
}

/* 1: it leads to a directory that holds just what it says; 0 or -ENOMEM. */
static int leads_to_directory_co(const struct ox_ledger *k, const uint8_t *data)
{
	struct ox_qcow2_bitmaps_ext ext = load(data);
	struct directory d;
	int r = look_co(k, &ext, &d);

	free(d.bytes);
	return r < 0 ? r : d.ending_there > 0 && d.ending_there == ext.count;
}

/* The type of an extension that leads to a directory, and says that it is something else. */
static int mend_type_co(struct ox_view *v, const struct ox_ledger *k, uint8_t *cluster)
{
	struct ox_be32 type = ox_be32(OX_QCOW2_EXT_BITMAPS);
	uint64_t at = 0;
	int r = 0;

	do {
		at = ox_view_find_length(v, cluster, BITMAPS_BYTES, at);
		if (at != 0)
			r = leads_to_directory_co(k, cluster + at);
	} while (at != 0 && r == 0);
	if (r <= 0)
		return r;
	at -= HEAD_BYTES;
	ox_view_patch(v, OX_FOUND_HEADER_AUTOCLEAR,
		      OX_FOUND(.word = "the extension of the bitmaps that are vouched for has "
				       "another type"),
		      at, &type, sizeof(type));
	memcpy(cluster + at, &type, sizeof(type));
	return 0;
}

int ox_claims_judge_directory_co(struct ox_view *v, const struct ox_ledger *k, uint8_t *cluster)
{
	uint64_t at = ox_view_find_extension(v, cluster, OX_QCOW2_EXT_BITMAPS);
	struct ox_be32 length;

	if (!(v->h.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (at == 0)
		return mend_type_co(v, k, cluster);
	memcpy(&length, cluster + at - sizeof(length), sizeof(length));
	if (ox_be32_get(length) != BITMAPS_BYTES || at + BITMAPS_BYTES > v->cluster_bytes)
		return 0;
	return mend_numbers_co(v, k, cluster + at, at);
}

int ox_claims_read_directory_co(const struct ox_ledger *k, uint64_t offset,
				struct ox_qcow2_bitmaps_ext *ret)
{
	struct directory d;
	int r;

	*ret = (struct ox_qcow2_bitmaps_ext){.directory_offset = offset};
	r = look_co(k, ret, &d);
	if (r == 0 && d.records > 0 &&
	    !has_rest(&d, d.end, ox_align_up(d.end, k->v->cluster_bytes))) {
		ret->count = (uint32_t)d.records;
		ret->directory_bytes = d.end;
	}
	free(d.bytes);
	return r < 0 ? r : ret->count > 0;
}
