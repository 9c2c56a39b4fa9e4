/* SPDX-License-Identifier: MIT */
/*
 * Copying, piece by piece.
 *
 *   source extent      target reads as zeroes    target reads as anything
 *   DATA               data, its zeroes left out  data, its zeroes written as zeroes
 *   ZERO               nothing                    zeroes, by metadata
 *   BELOW              nothing                    nothing
 *
 * A piece of data ends at a boundary of the target's clusters, so that none is written twice, and
 * passes over short holes: another request costs more than the bytes do. Writes begin in the order
 * of the pieces, so that clusters lie in the guest's order, and end in any.
 */
#include "job/copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "job/pump.h"
#include "rt/reactor.h"

#define PIECE_BYTES (UINT64_C(1) << 20)
#define PIECE_MAX_BYTES (UINT64_C(2) << 20)
/* Of zeroes: so that progress is seen, and giving up is noticed. */
#define ZERO_PIECE_BYTES (UINT64_C(1) << 36)
/* A hole that costs more to leave out than to read. */
#define SHORT_HOLE_BYTES (UINT64_C(64) << 10)
#define SPARSE_BYTES UINT64_C(4096)
#define SECTOR_BYTES UINT64_C(512)
#define MARK_DEFAULT_MS 5000u
#define NS_PER_MS UINT64_C(1000000)
/* Of a target that is said to be zero and cannot tell: so many blocks are looked at. */
#define SAMPLES 64u
#define SAMPLE_BYTES UINT64_C(4096)

struct copy {
	const struct ox_joined *source;
	struct ox_image *target;
	const struct ox_copy_options *opts;
	struct ox_copy_result *result;
	struct ox_error **err;
	struct ox_pump pump;
	uint64_t end;
	uint64_t at; /* what next_co has come to */
	uint64_t align_bytes;
	uint64_t piece_bytes;
	uint64_t unit_bytes;	/* what the target allocates: a cluster, or a block of a file */
	uint64_t granule_bytes; /* of zeroes within data */
	bool reads_zero;	/* the target, wherever nothing was written */
	const uint8_t *zeroes;	/* piece_bytes of them, for ALLOCATE */
	/* What was seen behind the piece before this one. */
	struct ox_joined_extent seen;
	uint64_t seen_at;
	struct ox_joined_ahead ahead;
	struct ox_timer marking;
	struct ox_latch marker;
	bool copied;
};

/* ---- what is next ---- */

static int look_co(struct copy *c, uint64_t offset, struct ox_joined_extent *ret)
{
	uint64_t skip = offset - c->seen_at;
	int r;

	if (offset < c->seen_at || skip >= c->seen.length) {
		r = ox_joined_extent_co(c->source, &c->ahead, offset,
					ox_min_u64(c->end - offset, ZERO_PIECE_BYTES),
					c->opts->flags & OX_COPY_TOP_ONLY, &c->seen);
		if (r < 0 && c->opts->unreadable) {
			/* The map is damaged there; reading tells how much is lost. */
			c->seen = (struct ox_joined_extent){
				OX_JOINED_DATA,
				ox_min_u64(c->end - offset,
					   c->align_bytes - offset % c->align_bytes)};
		} else if (r < 0) {
			return ox_error_set(c->err, r,
					    "error while reading block status at offset %llu: %s",
					    (unsigned long long)offset, strerror(-r));
		}
		c->seen_at = offset;
		skip = 0;
	}
	*ret = (struct ox_joined_extent){c->seen.kind, c->seen.length - skip};
	return 0;
}

/* Whether a hole may be read with the data around it: it is found again among them, or nothing of
 * the target is saved by it. */
static bool is_passed_over(const struct copy *c, uint64_t at, uint64_t length)
{
	if (length > SHORT_HOLE_BYTES)
		return false;
	return c->granule_bytes <= c->unit_bytes || c->opts->flags & OX_COPY_ALLOCATE ||
	       ox_align_up(at, c->unit_bytes) + c->unit_bytes > at + length;
}

/* The end of the piece of data that begins at start: past short holes, at a boundary. */
static int data_end_co(struct copy *c, uint64_t start, uint64_t *ret)
{
	uint64_t most = ox_align_down(start, c->align_bytes) + c->piece_bytes;
	uint64_t data_end = start;
	uint64_t at = start;
	struct ox_joined_extent e;
	int r;

	most = ox_min_u64(most, c->end);
	while (at < most) {
		r = look_co(c, at, &e);
		if (r < 0 && at > start)
			break;
		if (r < 0)
			return r;
		if (e.kind == OX_JOINED_BELOW ||
		    (e.kind == OX_JOINED_ZERO && !is_passed_over(c, at, e.length)))
			break;
		at += e.length;
		if (e.kind == OX_JOINED_DATA)
			data_end = ox_min_u64(at, most);
	}
	/* Whole clusters are compressed. */
	if (c->opts->flags & OX_COPY_COMPRESS)
		data_end = ox_min_u64(ox_align_up(data_end, c->align_bytes), most);
	*ret = data_end;
	return 0;
}

static int next_co(void *arg, struct ox_piece *ret)
{
	struct copy *c = arg;
	struct ox_joined_extent e;
	bool is_allocated;
	uint64_t end;
	int r;

	if (c->at >= c->end)
		return 0;
	r = look_co(c, c->at, &e);
	if (r < 0)
		return r;
	is_allocated = e.kind == OX_JOINED_ZERO && c->opts->flags & OX_COPY_ALLOCATE;
	if (is_allocated) /* as much work as data */
		e.length = ox_min_u64(e.length, c->piece_bytes - c->at % c->piece_bytes);
	ret->kind = e.kind;
	ret->offset = c->at;
	end = c->at + e.length;
	if (e.kind == OX_JOINED_DATA) {
		if (c->opts->flags & OX_COPY_COMPRESS)
			ret->offset = ox_align_down(c->at, c->align_bytes);
		r = data_end_co(c, ret->offset, &end);
		if (r < 0)
			return r;
	} else if (c->opts->flags & OX_COPY_COMPRESS && end < c->end) {
		/* The cluster in which data begins is written as a whole. */
		end = ox_max_u64(ox_align_down(end, c->align_bytes), c->at + 1);
		if (!ox_is_aligned(end, c->align_bytes)) {
			ret->kind = OX_JOINED_DATA;
			end = ox_min_u64(ox_align_up(end, c->align_bytes), c->end);
		}
	}
	ret->length = end - ret->offset;
	if (ret->kind == OX_JOINED_DATA)
		ret->memory_bytes = ret->length;
	if (ret->kind == OX_JOINED_DATA || is_allocated)
		ret->cost_bytes = ret->length;
	c->at = end;
	return 1;
}

/* ---- reading ---- */

/* Sector by sector, after a read that failed: what can be read is read. */
static int salvage_co(struct copy *c, uint8_t *buf, uint64_t length, uint64_t offset)
{
	uint64_t half = ox_align_up(length / 2, SECTOR_BYTES);
	int r = ox_joined_read_co(c->source, buf, length, offset);

	if (r == 0)
		return 0;
	if (length > SECTOR_BYTES) {
		r = salvage_co(c, buf, half, offset);
		return r < 0 ? r : salvage_co(c, buf + half, length - half, offset + half);
	}
	memset(buf, 0, length);
	c->result->unreadable_bytes += length;
	return c->opts->unreadable(c->opts->opaque, offset, length, r);
}

static int read_co(struct copy *c, const struct ox_piece *piece)
{
	int r = ox_joined_read_co(c->source, piece->buffer, piece->length, piece->offset);

	if (r < 0 && c->opts->unreadable)
		r = salvage_co(c, piece->buffer, piece->length, piece->offset);
	if (r < 0 && !*c->err)
		return ox_error_set(c->err, r, "error while reading at byte %llu: %s",
				    (unsigned long long)piece->offset, strerror(-r));
	return r;
}

/* ---- writing ---- */

/* Of several pieces that fail, the first to do so is told. */
static int write_failed(struct copy *c, uint64_t offset, int r)
{
	if (*c->err)
		return r;
	return ox_error_set(c->err, r, "error while writing at byte %llu: %s",
			    (unsigned long long)offset, strerror(-r));
}

static int write_co(struct copy *c, const uint8_t *bytes, uint64_t length, uint64_t offset)
{
	struct iovec v = {(void *)bytes, length};
	unsigned flags = c->opts->flags & OX_COPY_COMPRESS ? OX_REQ_COMPRESSED : 0;
	int r = ox_img_pwritev_co(c->target, &v, 1, offset, flags);

	if (r < 0)
		return write_failed(c, offset, r);
	c->result->data_bytes += length;
	return 0;
}

/* Zeroes by metadata, where the target does not read so already. */
static int write_zeroes_co(struct copy *c, uint64_t offset, uint64_t length)
{
	struct ox_extent e;
	int r;

	while (length > 0) {
		if (c->reads_zero) {
			c->result->skipped_bytes += length;
			return 0;
		}
		r = ox_img_extent_co(c->target, offset, length, &e);
		if (r < 0) /* whatever it says: zeroes belong there */
			e = (struct ox_extent){.length = length};
		if (e.flags & OX_EXTENT_ZERO) {
			c->result->skipped_bytes += e.length;
		} else {
			r = ox_img_zero_co(c->target, offset, e.length, OX_REQ_MAY_UNMAP);
			if (r < 0)
				return write_failed(c, offset, r);
			c->result->zero_bytes += e.length;
		}
		offset += e.length;
		length -= e.length;
	}
	return 0;
}

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* The granule of the target at a place of the piece, and whether it is to be written as zeroes: a
 * part of one is only where nothing has to be written for it. */
static uint64_t granule_at(const struct copy *c, const struct ox_piece *piece, uint64_t at,
			   bool *ret_zero)
{
	uint64_t offset = piece->offset + at;
	uint64_t to_boundary = c->granule_bytes - offset % c->granule_bytes;
	uint64_t n = ox_min_u64(to_boundary, piece->length - at);
	bool whole =
		n == c->granule_bytes || (offset % c->granule_bytes == 0 && offset + n == c->end);

	*ret_zero = (whole || c->reads_zero) && is_zero(piece->buffer + at, n);
	return n;
}

/* The bytes from at on that are alike. */
static uint64_t run_at(const struct copy *c, const struct ox_piece *piece, uint64_t at,
		       bool *ret_zero)
{
	uint64_t end = at + granule_at(c, piece, at, ret_zero);
	bool zero;

	while (end < piece->length) {
		uint64_t n = granule_at(c, piece, end, &zero);

		if (zero != *ret_zero)
			break;
		end += n;
	}
	return end - at;
}

static int write_data_co(struct copy *c, const struct ox_piece *piece)
{
	uint64_t at = 0;
	uint64_t n;
	bool zero;
	int r = 0;

	if (c->opts->flags & OX_COPY_ALLOCATE)
		return write_co(c, piece->buffer, piece->length, piece->offset);
	while (r == 0 && at < piece->length) {
		n = run_at(c, piece, at, &zero);
		if (zero)
			r = write_zeroes_co(c, piece->offset + at, n);
		else
			r = write_co(c, piece->buffer + at, n, piece->offset + at);
		at += n;
	}
	return r;
}

static int write_piece_co(struct copy *c, const struct ox_piece *piece)
{
	switch ((enum ox_joined_kind)piece->kind) {
	case OX_JOINED_DATA:
		return write_data_co(c, piece);
	case OX_JOINED_ZERO:
		if (c->opts->flags & OX_COPY_ALLOCATE)
			return write_co(c, c->zeroes, piece->length, piece->offset);
		return write_zeroes_co(c, piece->offset, piece->length);
	case OX_JOINED_BELOW:
		c->result->skipped_bytes += piece->length;
		return 0;
	}
	return -EINVAL;
}

static int carry_out_co(struct copy *c, struct ox_piece *piece)
{
	int r = 0;

	if (piece->kind == OX_JOINED_DATA)
		r = read_co(c, piece);
	if (r < 0 || c->opts->flags & OX_COPY_ANY_ORDER)
		return r < 0 ? r : write_piece_co(c, piece);
	r = ox_pump_turn_co(&c->pump, piece);
	/* In the guest's order clusters are taken, not written. */
	if (r == 0 && !(c->opts->flags & OX_COPY_ONE_BY_ONE))
		ox_pump_pass(&c->pump, piece);
	return r < 0 ? r : write_piece_co(c, piece);
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct copy *c = arg;
	int r = carry_out_co(c, piece);

	if (r < 0)
		return r;
	r = ox_copy_behind_co(c->source, c->target);
	return r < 0 ? write_failed(c, piece->offset, r) : 0;
}

/* What of all pieces is going to be copied, and what of that lies before the start. No extent of
 * what cannot be looked at: it counts as data. */
static void count_co(struct copy *c)
{
	uint64_t cost_bytes = 0;
	int r = 1;

	c->pump.counts_cost = true;
	c->pump.done = 0;
	c->at = 0;
	while (r == 1 && !ox_pump_is_interrupted(&c->pump)) {
		struct ox_piece piece = {0};
		uint64_t at = c->at;

		r = next_co(c, &piece);
		cost_bytes += r < 0 ? c->end - at : piece.cost_bytes;
		if (at < c->opts->start)
			c->pump.done = cost_bytes;
	}
	ox_error_free(*c->err); /* who copies there gets it again */
	*c->err = NULL;
	c->pump.total = cost_bytes;
	c->at = c->opts->start;
	c->seen = (struct ox_joined_extent){0};
	c->ahead = (struct ox_joined_ahead){0};
	if (c->pump.progress)
		c->pump.progress(c->pump.opaque, c->pump.done, c->pump.total);
}

static const struct ox_pump_ops copy_ops = {.next_co = next_co, .work_co = work_co};

/* ---- marks: a place to go on from ---- */

static int mark_co(struct copy *c)
{
	uint64_t below = ox_max_u64(ox_pump_done_below(&c->pump), c->opts->start);
	int r = ox_img_flush_co(c->target);

	if (r < 0)
		return write_failed(c, below, r);
	return c->opts->mark(c->opts->opaque, below);
}

static void marker_co(void *arg)
{
	struct copy *c = arg;
	uint64_t ms = c->opts->mark_ms ? c->opts->mark_ms : MARK_DEFAULT_MS;
	int r = 0;

	while (r == 0 && !c->copied) {
		if (ox_timer_sleep_co(&c->marking, ms * NS_PER_MS))
			r = mark_co(c);
	}
	if (r < 0)
		ox_pump_stop(&c->pump, r);
	ox_latch_done(&c->marker);
}

static int run_marked_co(struct copy *c)
{
	int r;

	ox_latch_add(&c->marker);
	r = ox_co_spawn(ox_co_reactor(), marker_co, c);
	if (r < 0) {
		ox_latch_done(&c->marker);
		return r;
	}
	r = ox_pump_run_co(&c->pump);
	c->copied = true;
	ox_timer_end(&c->marking);
	ox_latch_wait_co(&c->marker);
	return r < 0 ? r : c->pump.result;
}

/* ---- what is known of the target ---- */

static int read_sample_co(struct copy *c, uint64_t offset, uint8_t *buf, bool *ret_zero)
{
	struct iovec v = {buf, ox_min_u64(SAMPLE_BYTES, c->target->size_bytes - offset)};
	int r = ox_img_preadv_co(c->target, &v, 1, offset);

	*ret_zero = r == 0 && is_zero(buf, v.iov_len);
	return r;
}

/* Somebody says that all of the target reads as zeroes. Where its extents tell of data a sample of
 * that is read: noise shows at once. */
static int believe_co(struct copy *c)
{
	uint8_t *buf = ox_io_buffer(SAMPLE_BYTES);
	bool zero = true;
	int r = buf ? 0 : -ENOMEM;

	for (unsigned i = 0; r == 0 && zero && i <= SAMPLES && c->end > 0; i++) {
		uint64_t at = ox_align_down((c->end - 1) / SAMPLES * i, SAMPLE_BYTES);

		r = read_sample_co(c, at, buf, &zero);
	}
	free(buf);
	if (r < 0)
		return write_failed(c, 0, r);
	c->reads_zero = zero;
	return 0;
}

/* What the target can tell of itself is asked of it, extent by extent; a word is needed of a store
 * alone that cannot tell a hole. */
static int judge_target_co(struct copy *c)
{
	struct ox_extent e;

	c->reads_zero = c->opts->flags & OX_COPY_TARGET_IS_NEW;
	if (c->reads_zero || !(c->opts->flags & OX_COPY_TARGET_IS_ZERO) || c->end == 0)
		return 0;
	if (c->target->io->can_grow || ox_img_extent_co(c->target, 0, c->end, &e) < 0 ||
	    e.flags & OX_EXTENT_ZERO || e.length < c->end)
		return 0;
	return believe_co(c);
}

/* ---- all of it ---- */

static void choose_sizes(struct copy *c)
{
	const struct ox_copy_options *opts = c->opts;
	const struct ox_img_ops *ops = c->target->ops;
	uint64_t cluster = ops->cluster_bytes ? ops->cluster_bytes(c->target) : 0;
	uint64_t sparse = opts->sparse_bytes ? opts->sparse_bytes : SPARSE_BYTES;

	if (opts->tasks)
		c->pump.tasks = opts->tasks;
	if (opts->memory_bytes)
		c->pump.memory_bytes = opts->memory_bytes;
	c->align_bytes = ox_min_u64(ox_max_u64(cluster, SPARSE_BYTES), PIECE_MAX_BYTES);
	c->unit_bytes = cluster ? cluster : SPARSE_BYTES;
	c->piece_bytes = ox_max_u64(PIECE_BYTES, c->align_bytes);
	if (c->piece_bytes > ox_pump_half_bytes(&c->pump))
		c->piece_bytes =
			ox_max_u64(ox_align_down(ox_pump_half_bytes(&c->pump), c->align_bytes),
				   c->align_bytes);
	/* One cluster at the least. */
	c->pump.memory_bytes = ox_max_u64(c->pump.memory_bytes, 2 * c->piece_bytes);
	sparse = ox_align_down(ox_max_u64(sparse, SECTOR_BYTES), SECTOR_BYTES);
	/* Zeroes in a part of a cluster cost as much as bytes, unless they are there already. */
	c->granule_bytes = c->reads_zero ? sparse : ox_max_u64(sparse, cluster);
	if (opts->flags & OX_COPY_COMPRESS)
		c->granule_bytes = c->unit_bytes;
	c->granule_bytes = ox_min_u64(c->granule_bytes, c->piece_bytes);
}

static int prepare_co(struct copy *c)
{
	const struct ox_copy_options *opts = c->opts;
	int r;

	c->end = ox_joined_bytes(c->source);
	if (c->target->size_bytes < c->end)
		return ox_error_set(c->err, -EINVAL, "output file is smaller than input file");
	r = judge_target_co(c);
	if (r < 0)
		return r;
	choose_sizes(c);
	c->pump.rate_bytes = opts->rate_bytes;
	c->pump.total = c->end;
	c->pump.done = ox_min_u64(opts->start, c->end);
	c->pump.progress = opts->progress;
	c->pump.interrupted = opts->interrupted;
	c->pump.opaque = opts->opaque;
	c->at = opts->start;
	if (!(opts->flags & OX_COPY_ALLOCATE))
		return 0;
	c->zeroes = calloc(1, c->piece_bytes);
	return c->zeroes ? 0 : ox_error_set(c->err, -ENOMEM, "Out of memory");
}

int ox_copy_run_co(const struct ox_joined *source, struct ox_image *target,
		   const struct ox_copy_options *opts, struct ox_copy_result *ret,
		   struct ox_error **err)
{
	struct ox_copy_result result = {0};
	struct ox_error *why = NULL;
	struct copy c = {
		.source = source, .target = target, .opts = opts, .result = &result, .err = &why};
	int ended;
	int r;

	ox_pump_init(&c.pump, &copy_ops, &c);
	ox_timer_init(&c.marking);
	ox_latch_init(&c.marker);
	r = prepare_co(&c);
	ox_copy_behind_begin(source, target, opts->flags);
	if (r == 0 && opts->flags & OX_COPY_COUNT)
		count_co(&c);
	if (r == 0)
		r = opts->mark ? run_marked_co(&c) : ox_pump_run_co(&c.pump);
	if (r == 0) {
		r = ox_img_flush_co(target);
		if (r < 0)
			r = write_failed(&c, c.end, r);
	}
	ended = ox_copy_behind_end_co(source, target);
	if (r == 0 && ended < 0)
		r = write_failed(&c, c.end, ended);
	free((void *)c.zeroes);
	*ret = result;
	if (r < 0 && !why)
		ox_error_set_errno(&why, r, "Could not copy");
	if (r < 0 && err)
		*err = why;
	else
		ox_error_free(why);
	return r;
}
