/* SPDX-License-Identifier: MIT */
#include "job/compare.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "job/pump.h"
#include "job/walk.h"

#define PIECE_BYTES (UINT64_C(1) << 20)
/* Of zeroes: so that progress is seen, and giving up is noticed. */
#define ZERO_PIECE_BYTES (UINT64_C(1) << 36)
#define SECTOR_BYTES UINT64_C(512)

/* Of a piece: what is to be read. Without both the bytes are compared with zeroes. */
enum {
	READ_FIRST = 1 << 0,
	READ_SECOND = 1 << 1,
	WHOLE_SECTORS = 1 << 2, /* a difference is told by its sector */
};

struct compare {
	struct ox_pump pump;
	struct ox_image *images[2];
	struct ox_walk walks[2];
	bool strict;
	uint64_t at;
	uint64_t end;
	bool found; /* no more pieces: what comes behind the answer does not matter */
	struct ox_compare_result answer;
};

/* Pieces before this place are under way or done, and may still tell of an earlier one. */
static void note(struct compare *c, const struct ox_compare_result *answer)
{
	bool sizes_differ = c->answer.sizes_differ;

	if (c->found && c->answer.offset <= answer->offset)
		return;
	c->found = true;
	c->answer = *answer;
	c->answer.sizes_differ = sizes_differ;
}

static void note_error(struct compare *c, enum ox_compare_outcome outcome, unsigned image,
		       uint64_t offset, int error)
{
	note(c, &(struct ox_compare_result){
			.outcome = outcome, .offset = offset, .image = image, .error = error});
}

/* ---- what is next ---- */

/* What both say of the place, for as long as neither says otherwise. */
static bool look_co(struct compare *c, uint64_t *ret_length, unsigned flags[2])
{
	uint64_t most = ox_min_u64(c->end - c->at, ZERO_PIECE_BYTES);

	for (unsigned i = 0; i < 2; i++) {
		int r = ox_walk_at_co(&c->walks[i], c->at, most, &most, &flags[i]);

		if (r < 0) {
			note_error(c, OX_COMPARE_UNMAPPED, i, c->at, r);
			return false;
		}
	}
	*ret_length = most;
	return true;
}

static int next_co(void *arg, struct ox_piece *ret)
{
	struct compare *c = arg;
	unsigned flags[2];
	uint64_t length;

	if (c->found || c->at == c->end || !look_co(c, &length, flags))
		return 0;
	if (c->strict && flags[0] != flags[1]) {
		note(c,
		     &(struct ox_compare_result){.outcome = OX_COMPARE_EXTENTS, .offset = c->at});
		return 0;
	}
	if (!(flags[0] & OX_EXTENT_ZERO))
		ret->kind |= READ_FIRST;
	if (!(flags[1] & OX_EXTENT_ZERO))
		ret->kind |= READ_SECOND;
	if (((flags[0] ^ flags[1]) & OX_EXTENT_PRESENT) == 0)
		ret->kind |= WHOLE_SECTORS;
	if (ret->kind & (READ_FIRST | READ_SECOND)) {
		length = ox_min_u64(length, PIECE_BYTES - c->at % PIECE_BYTES);
		length = ox_min_u64(length, ox_pump_half_bytes(&c->pump) / 2);
		ret->memory_bytes = length;
		if ((ret->kind & READ_FIRST) && (ret->kind & READ_SECOND))
			ret->memory_bytes *= 2;
	}
	ret->offset = c->at;
	ret->length = length;
	c->at += length;
	return 1;
}

/* ---- the bytes ---- */

static uint64_t common_prefix(const uint8_t *a, const uint8_t *b, uint64_t count)
{
	uint64_t same = 0;

	while (same < count && a[same] == b[same])
		same++;
	return same;
}

static uint64_t zero_prefix(const uint8_t *bytes, uint64_t count)
{
	uint64_t zero = 0;

	if (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0)
		return count;
	while (bytes[zero] == 0)
		zero++;
	return zero;
}

static bool read_image_co(struct compare *c, unsigned image, const struct ox_piece *piece,
			  uint8_t *buf)
{
	struct iovec v = {buf, piece->length};
	int r = ox_img_preadv_co(c->images[image], &v, 1, piece->offset);

	if (r < 0)
		note_error(c, OX_COMPARE_UNREAD, image, piece->offset, r);
	return r == 0;
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct compare *c = arg;
	uint8_t *second = piece->buffer;
	uint64_t same;

	if (!(piece->kind & (READ_FIRST | READ_SECOND)))
		return 0;
	if (piece->kind & READ_FIRST) {
		if (!read_image_co(c, 0, piece, piece->buffer))
			return 0;
		second += piece->length;
	}
	if ((piece->kind & READ_SECOND) && !read_image_co(c, 1, piece, second))
		return 0;
	if (!(piece->kind & READ_FIRST) || !(piece->kind & READ_SECOND))
		same = zero_prefix(piece->buffer, piece->length);
	else if (memcmp(piece->buffer, second, piece->length) == 0)
		same = piece->length;
	else
		same = common_prefix(piece->buffer, second, piece->length);
	if (same == piece->length)
		return 0;
	if (piece->kind & WHOLE_SECTORS)
		same = ox_align_down(same, SECTOR_BYTES);
	note(c, &(struct ox_compare_result){.outcome = OX_COMPARE_BYTES,
					    .offset = piece->offset + same});
	return 0;
}

static const struct ox_pump_ops compare_ops = {.next_co = next_co, .work_co = work_co};

/* ---- all of it ---- */

static void set_up(struct compare *c, const struct ox_compare_options *opts)
{
	unsigned kinds = OX_EXTENT_ZERO | OX_EXTENT_PRESENT;

	if (c->strict)
		kinds |= OX_EXTENT_DATA | OX_EXTENT_COMPRESSED | OX_EXTENT_HAS_OFFSET;
	for (unsigned i = 0; i < 2; i++) {
		c->walks[i] = ox_walk_over(c->images[i], kinds);
		c->walks[i].as_told = c->strict;
	}
	c->end = ox_max_u64(c->images[0]->size_bytes, c->images[1]->size_bytes);
	ox_pump_init(&c->pump, &compare_ops, c);
	if (opts->memory_bytes)
		c->pump.memory_bytes = ox_max_u64(opts->memory_bytes, 4 * PIECE_BYTES);
	if (opts->tasks)
		c->pump.tasks = opts->tasks;
	c->pump.total = c->end;
	c->pump.progress = opts->progress;
	c->pump.interrupted = opts->interrupted;
	c->pump.opaque = opts->opaque;
}

int ox_compare_run_co(struct ox_image *first, struct ox_image *second,
		      const struct ox_compare_options *opts, struct ox_compare_result *ret,
		      struct ox_error **err)
{
	struct compare c = {.images = {first, second}, .strict = opts->flags & OX_COMPARE_STRICT};
	int r = 0;

	set_up(&c, opts);
	c.answer.sizes_differ = first->size_bytes != second->size_bytes;
	if (c.strict && c.answer.sizes_differ) {
		c.answer.outcome = OX_COMPARE_SIZES;
		c.answer.offset = ox_min_u64(first->size_bytes, second->size_bytes);
	} else if (c.end > 0) {
		r = ox_pump_run_co(&c.pump);
	}
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not compare '%s' with '%s'",
					  first->filename, second->filename);
	*ret = c.answer;
	return 0;
}
