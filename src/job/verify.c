/* SPDX-License-Identifier: MIT */
/* Reading a copy back: every byte of both sides, whatever their extents say. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "job/copy.h"
#include "job/pump.h"

#define PIECE_BYTES (UINT64_C(1) << 20)

struct verify {
	const struct ox_joined *source;
	struct ox_image *target;
	struct ox_error **err;
	struct ox_pump pump;
	uint64_t end;
	uint64_t at;
	uint64_t piece_bytes;
	uint64_t differs; /* the lowest that was found; UINT64_MAX: none */
};

static int next_co(void *arg, struct ox_piece *ret)
{
	struct verify *v = arg;

	if (v->at >= v->end)
		return 0;
	ret->offset = v->at;
	ret->length = ox_min_u64(v->end - v->at, v->piece_bytes);
	ret->memory_bytes = 2 * v->piece_bytes;
	ret->cost_bytes = ret->length;
	v->at += ret->length;
	return 1;
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t length)
{
	uint64_t i = 0;

	while (i < length && a[i] == b[i])
		i++;
	return i;
}

static int compare_co(struct verify *v, const struct ox_piece *piece)
{
	uint8_t *theirs = piece->buffer + v->piece_bytes;
	struct iovec iov = {theirs, piece->length};
	int r = ox_joined_read_co(v->source, piece->buffer, piece->length, piece->offset);

	if (r < 0)
		return ox_error_set(v->err, r, "error while reading at byte %llu: %s",
				    (unsigned long long)piece->offset, strerror(-r));
	r = ox_img_preadv_co(v->target, &iov, 1, piece->offset);
	if (r < 0)
		return ox_error_set(v->err, r, "error while reading back byte %llu: %s",
				    (unsigned long long)piece->offset, strerror(-r));
	if (memcmp(piece->buffer, theirs, piece->length) == 0)
		return 0;
	v->differs = ox_min_u64(
		v->differs, piece->offset + first_difference(piece->buffer, theirs, piece->length));
	return ox_error_set(v->err, -EILSEQ,
			    "What was written differs from the source at byte %llu",
			    (unsigned long long)v->differs);
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct verify *v = arg;
	int r = compare_co(v, piece);

	return r < 0 ? r : ox_copy_behind_co(v->source, v->target);
}

static const struct ox_pump_ops verify_ops = {.next_co = next_co, .work_co = work_co};

int ox_copy_verify_co(const struct ox_joined *source, struct ox_image *target,
		      const struct ox_copy_options *opts, uint64_t *ret_offset,
		      struct ox_error **err)
{
	struct ox_error *why = NULL;
	struct verify v = {.source = source,
			   .target = target,
			   .err = &why,
			   .end = ox_joined_bytes(source),
			   .differs = UINT64_MAX};
	int ended;
	int r;

	if (target->size_bytes < v.end)
		return ox_error_set(err, -EINVAL, "output file is smaller than input file");
	ox_pump_init(&v.pump, &verify_ops, &v);
	if (opts->tasks)
		v.pump.tasks = opts->tasks;
	if (opts->memory_bytes)
		v.pump.memory_bytes = ox_max_u64(opts->memory_bytes, 16384);
	v.piece_bytes =
		ox_min_u64(PIECE_BYTES, ox_align_down(ox_pump_half_bytes(&v.pump) / 2, 4096));
	v.pump.rate_bytes = opts->rate_bytes;
	v.pump.total = v.end;
	v.pump.progress = opts->progress;
	v.pump.interrupted = opts->interrupted;
	v.pump.opaque = opts->opaque;
	ox_copy_behind_begin(source, target, opts->flags);
	r = ox_pump_run_co(&v.pump);
	ended = ox_copy_behind_end_co(source, target);
	r = r < 0 ? r : ended;
	if (r == -EILSEQ)
		*ret_offset = v.differs;
	if (r < 0 && !why)
		ox_error_set_errno(&why, r, "Could not read the copy back");
	if (r < 0 && err)
		*err = why;
	else
		ox_error_free(why);
	return r;
}
