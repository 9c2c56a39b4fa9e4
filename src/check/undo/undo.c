/* SPDX-License-Identifier: MIT */
/* Putting back what a repair overwrote. */
#include "check/undo/undo.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/grow.h"

/* A record of the file, and where the bytes that it saved are. */
struct item {
	struct ox_undo_record record;
	uint64_t offset;
	uint64_t saved_at;
	uint32_t saved;
};

struct undo {
	struct ox_io *io;
	struct ox_io *image;
	bool force;
	struct ox_undo_header header;
	struct item *items; /* by offset, and by number where that is equal */
	size_t count;
	size_t room;
	uint64_t most_length; /* that the repair gave the image */
	uint64_t changed;     /* sectors */
	uint64_t changed_at;  /* the first of them */
};

/* ---- reading the file ---- */

static int read_header_co(struct undo *u, struct ox_error **err)
{
	struct ox_undo_header h;
	uint32_t checksum;
	int r = ox_io_pread_co(u->io, &h, sizeof(h), 0);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read '%s'", u->io->name);
	u->header = h;
	checksum = ox_be32_get(h.checksum);
	h.checksum = ox_be32(0);
	if (ox_be64_get(h.magic) != OX_UNDO_MAGIC)
		return ox_error_set(err, -EINVAL, "'%s' is not an undo file%s", u->io->name,
				    u->io->length == 0 ? ": it is empty" : "");
	if (ox_be32_get(h.version) != OX_UNDO_VERSION)
		return ox_error_set(err, -EINVAL,
				    "'%s' is an undo file of version %" PRIu32
				    ", which is not known here",
				    u->io->name, ox_be32_get(h.version));
	if (checksum != ox_undo_checksum(0, &h, sizeof(h)))
		return ox_error_set(err, -EINVAL, "The header of the undo file '%s' is damaged",
				    u->io->name);
	return 0;
}

static bool is_complete(const struct undo *u)
{
	return ox_be32_get(u->header.state) == OX_UNDO_COMPLETE;
}

/* 1: a whole record; 0: the records end here; or a negative errno. */
static int read_record_co(struct undo *u, uint64_t at, struct item *ret)
{
	uint8_t bytes[OX_UNDO_BLOCK_BYTES];
	struct ox_undo_record rec;
	uint32_t checksum, size;
	int r = ox_io_pread_co(u->io, &rec, sizeof(rec), at);

	if (r < 0)
		return r;
	ret->record = rec;
	ret->offset = ox_be64_get(rec.offset);
	ret->saved = ox_be32_get(rec.saved);
	ret->saved_at = at + sizeof(rec);
	size = ox_be32_get(rec.size);
	if (ox_be32_get(rec.magic) != OX_UNDO_RECORD_MAGIC || ox_be64_get(rec.number) != u->count ||
	    size == 0 || size > OX_UNDO_BLOCK_BYTES || size % OX_UNDO_SECTOR_BYTES ||
	    ret->saved > size || !ox_range_within(ret->offset, size, INT64_MAX))
		return 0;
	r = ox_io_pread_co(u->io, bytes, ret->saved, ret->saved_at);
	if (r < 0)
		return r;
	checksum = ox_be32_get(rec.checksum);
	rec.checksum = ox_be32(0);
	return checksum ==
	       ox_undo_checksum(ox_undo_checksum(0, &rec, sizeof(rec)), bytes, ret->saved);
}

static int add_item(struct undo *u, const struct item *item)
{
	if (ox_grow(u->items, u->count, u->room, 256) < 0)
		return -ENOMEM;
	u->items[u->count++] = *item;
	u->most_length = ox_max_u64(u->most_length, ox_be64_get(item->record.length_after));
	return 0;
}

static int by_place(const void *one, const void *other)
{
	const struct item *a = one;
	const struct item *b = other;
	uint64_t na = ox_be64_get(a->record.number);
	uint64_t nb = ox_be64_get(b->record.number);

	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return na < nb ? -1 : na > nb;
}

static int read_records_co(struct undo *u, struct ox_error **err)
{
	uint64_t at = OX_UNDO_HEADER_BYTES;
	struct item item;
	int r;

	u->most_length = ox_be64_get(u->header.length_before);
	while ((r = read_record_co(u, at, &item)) == 1) {
		r = add_item(u, &item);
		if (r < 0)
			break;
		at += sizeof(item.record) + item.saved;
	}
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read '%s'", u->io->name);
	if (is_complete(u) && at - OX_UNDO_HEADER_BYTES != ox_be64_get(u->header.record_bytes))
		return ox_error_set(err, -EINVAL, "The undo file '%s' is damaged at byte %" PRIu64,
				    u->io->name, at);
	if (u->count > 0)
		qsort(u->items, u->count, sizeof(*u->items), by_place);
	return 0;
}

/* ---- whether the image is as the repair left it ---- */

/* Whether a sector is as one of the records of its block has it. */
static bool is_known(const struct undo *u, size_t first, size_t end, size_t sector,
		     const uint8_t *now, const uint8_t *old)
{
	struct ox_be32 checksum = ox_be32(ox_undo_checksum(0, now, OX_UNDO_SECTOR_BYTES));

	/* Past the old end old is zero: the image had grown, and the block was not written yet. */
	if (memcmp(now, old, OX_UNDO_SECTOR_BYTES) == 0)
		return true;
	for (size_t i = first; i < end; i++) {
		if (u->items[i].record.sectors[sector].raw == checksum.raw)
			return true;
	}
	return false;
}

/* Whether the crash of a repair left the file's end within a sector: whose sector it is then, no
 * checksum tells. */
static bool is_cut_short(const struct undo *u, uint64_t offset)
{
	return !is_complete(u) && offset < u->image->length &&
	       u->image->length - offset < OX_UNDO_SECTOR_BYTES;
}

static int judge_block_co(struct undo *u, size_t first, size_t end)
{
	const struct item *item = &u->items[first];
	size_t size = ox_be32_get(item->record.size);
	uint8_t now[OX_UNDO_BLOCK_BYTES];
	uint8_t old[OX_UNDO_BLOCK_BYTES] = {0};
	int r = ox_io_pread_co(u->io, old, item->saved, item->saved_at);

	if (r == 0)
		r = ox_io_pread_co(u->image, now, size, item->offset);
	if (r < 0)
		return r;
	for (size_t at = 0; at < size; at += OX_UNDO_SECTOR_BYTES) {
		if (is_cut_short(u, item->offset + at))
			continue;
		if (is_known(u, first, end, at / OX_UNDO_SECTOR_BYTES, now + at, old + at))
			continue;
		if (u->changed++ == 0)
			u->changed_at = item->offset + at;
	}
	return 0;
}

static int judge_co(struct undo *u, struct ox_error **err)
{
	uint64_t before = ox_be64_get(u->header.length_before);
	uint64_t now = u->image->length;
	size_t end;

	for (size_t first = 0; first < u->count; first = end) {
		int r;

		for (end = first + 1; end < u->count; end++) {
			if (u->items[end].offset != u->items[first].offset)
				break;
		}
		r = judge_block_co(u, first, end);
		if (r < 0)
			return ox_error_set_errno(err, r, "Could not compare '%s' with '%s'",
						  u->image->name, u->io->name);
	}
	if (u->force)
		return 0;
	if (u->changed > 0)
		return ox_error_set(err, -EINVAL,
				    "'%s' is not as the repair left it: %" PRIu64
				    " sectors differ, the first at byte %" PRIu64
				    ". Either it was changed since, or the undo file '%s' belongs "
				    "to another image",
				    u->image->name, u->changed, u->changed_at, u->io->name);
	if (now < before || now > u->most_length)
		return ox_error_set(err, -EINVAL,
				    "'%s' is not as the repair left it: it has %" PRIu64
				    " bytes, and had %" PRIu64 " before the repair and %" PRIu64
				    " after it",
				    u->image->name, now, before, u->most_length);
	return 0;
}

/* ---- putting back ---- */

static int by_number_down(const void *one, const void *other)
{
	uint64_t a = ox_be64_get(((const struct item *)one)->record.number);
	uint64_t b = ox_be64_get(((const struct item *)other)->record.number);

	return a > b ? -1 : a < b;
}

/* What is written of a block. The sector that held the old end is put back whole, with zeroes
 * behind the end: half of it old and half as the repair left it, it would be known to nobody after
 * a cut. */
static size_t restored_bytes(const struct undo *u, const struct item *item)
{
	uint64_t end = item->offset + ox_align_up(item->saved, OX_UNDO_SECTOR_BYTES);

	return ox_max_u64(ox_min_u64(end, u->image->length), item->offset + item->saved) -
	       item->offset;
}

static int restore_co(struct undo *u, struct ox_undo_outcome *outcome)
{
	if (u->count > 0)
		qsort(u->items, u->count, sizeof(*u->items), by_number_down);
	for (size_t i = 0; i < u->count; i++) {
		const struct item *item = &u->items[i];
		uint8_t old[OX_UNDO_BLOCK_BYTES] = {0};
		uint8_t now[OX_UNDO_BLOCK_BYTES];
		size_t size;
		int r;

		if (item->saved == 0)
			continue;
		size = restored_bytes(u, item);
		r = ox_io_pread_co(u->io, old, item->saved, item->saved_at);
		if (r == 0)
			r = ox_io_pread_co(u->image, now, size, item->offset);
		if (r == 0 && memcmp(old, now, size) != 0) {
			r = ox_io_pwrite_co(u->image, old, size, item->offset, 0);
			outcome->blocks++;
			outcome->bytes += item->saved;
		}
		if (r < 0)
			return r;
	}
	return ox_io_sync_co(u->image);
}

static int shorten_co(struct undo *u)
{
	uint64_t before = ox_be64_get(u->header.length_before);
	int r;

	if (u->image->length == before || !u->image->can_grow)
		return 0;
	r = ox_io_set_length_co(u->image, before);
	return r < 0 ? r : ox_io_sync_co(u->image);
}

static int apply_co(struct undo *u, struct ox_undo_outcome *ret, struct ox_error **err)
{
	struct ox_undo_outcome outcome = {.length_before = u->image->length};
	int r = read_header_co(u, err);

	if (r == 0)
		r = read_records_co(u, err);
	if (r == 0)
		r = judge_co(u, err);
	if (r < 0)
		return r;
	r = restore_co(u, &outcome);
	if (r == 0)
		r = shorten_co(u);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not put back '%s'", u->image->name);
	outcome.complete = is_complete(u);
	outcome.changed = u->changed;
	outcome.length_after = u->image->length;
	*ret = outcome;
	return 0;
}

int ox_undo_apply_co(struct ox_io *undo, struct ox_io *image, bool force,
		     struct ox_undo_outcome *ret, struct ox_error **err)
{
	struct undo u = {.io = undo, .image = image, .force = force};
	int r = apply_co(&u, ret, err);

	free(u.items);
	return r;
}
