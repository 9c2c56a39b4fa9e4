/* SPDX-License-Identifier: MIT */
/*
 * Commit: what the images above the base have goes into the base. Each step is durable before the
 * next (docs/chain.md):
 *
 *   1. the base grows to the size of the image: what it gains reads as zeroes, and so did the image
 *   2. what lies above the base is copied into it; the image still reads its own
 *   3. the base is flushed
 *   4. the image is emptied: what it gives up reads the same from the base
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/path.h"
#include "job/chain.h"
#include "job/pump.h"

#define DATA_PIECE_BYTES (UINT64_C(1) << 20)
#define ZERO_PIECE_BYTES (UINT64_C(1) << 30)

enum kind { KIND_DATA, KIND_ZERO };

struct commit {
	const struct ox_commit_options *opts;
	struct ox_image *top;
	struct ox_image *base;
	unsigned depth; /* the base's */
	uint64_t at;	/* guest bytes: where the next piece begins */
	uint64_t data_bytes;
	uint64_t zero_bytes;
	struct ox_error **err;
};

/* ---- which image is the base ---- */

static bool is_file(const struct ox_image *img, const char *path)
{
	uint64_t dev[2];
	uint64_t ino[2];
	struct stat st;

	if (stat(path, &st) < 0 || !ox_io_file_identity(img->io, &dev[0], &ino[0]))
		return false;
	ox_io_file_identity_of(&st, &dev[1], &ino[1]);
	return dev[0] == dev[1] && ino[0] == ino[1];
}

/* By what the image above calls it, by its path, or by a path to the same file. */
static bool is_called(const struct ox_image *above, const char *name)
{
	const struct ox_image *img = above->backing;

	return strcmp(above->backing_name, name) == 0 || strcmp(img->filename, name) == 0 ||
	       is_file(img, name);
}

static int find_base(struct commit *c)
{
	const char *name = c->opts->base;
	unsigned depth = 1;

	if (!c->top->backing_name)
		return ox_error_set(c->err, -EINVAL, "Image does not have a backing file");
	if (!c->top->backing)
		return ox_error_set(c->err, -EINVAL, "The backing file of '%s' is not open",
				    c->top->filename);
	for (struct ox_image *img = c->top; img->backing; img = img->backing, depth++) {
		if (name && !is_called(img, name))
			continue;
		c->base = img->backing;
		c->depth = depth;
		return 0;
	}
	return ox_error_set(c->err, -EINVAL, "Did not find '%s' in the backing chain of '%s'", name,
			    c->top->filename);
}

/* ---- what is copied ---- */

/*
 * What lies at an offset in the images above the base, by their clusters; *ret_above false:
 * nothing. What no image has reads as zeroes where the one that is asked next is too short. Where
 * that is the base it gets zeroes when it grows; one in between hides what the base has.
 */
static int look_co(const struct commit *c, uint64_t at, struct ox_extent *ret, bool *ret_above)
{
	uint64_t length = c->top->size_bytes - at;
	struct ox_image *img = c->top;

	*ret_above = false;
	for (unsigned depth = 0; depth < c->depth; depth++, img = img->backing) {
		int r = img->ops->extent_co(img, at, length, false, ret);

		if (r < 0)
			return r == -EUCLEAN ? -EIO : r;
		length = ret->length;
		if (ret->flags & (OX_EXTENT_DATA | OX_EXTENT_ZERO)) {
			*ret_above = (ret->flags & OX_EXTENT_PRESENT) || depth + 1 < c->depth;
			return 0;
		}
	}
	return 0;
}

/* The next extent from *at on that lies above the base. 0: there is none. */
static int find_next_co(struct commit *c, uint64_t *at, struct ox_extent *ret)
{
	bool is_above;
	int r;

	while (*at < c->top->size_bytes) {
		r = look_co(c, *at, ret, &is_above);
		if (r < 0)
			return ox_error_set_errno(c->err, r,
						  "Could not look up byte %" PRIu64 " of '%s'", *at,
						  c->top->filename);
		if (is_above)
			return 1;
		*at += ret->length;
	}
	return 0;
}

static int measure_co(struct commit *c)
{
	uint64_t at = 0;
	struct ox_extent e;
	int r;

	while ((r = find_next_co(c, &at, &e)) > 0) {
		if (e.flags & OX_EXTENT_ZERO)
			c->zero_bytes += e.length;
		else
			c->data_bytes += e.length;
		at += e.length;
		if (c->opts->interrupted && c->opts->interrupted(c->opts->opaque))
			return ox_error_set(c->err, -ECANCELED, "Interrupted");
	}
	return r;
}

static int next_co(void *arg, struct ox_piece *ret)
{
	struct commit *c = arg;
	struct ox_extent e;
	bool is_zero;
	uint64_t most;
	int r = find_next_co(c, &c->at, &e);

	if (r <= 0)
		return r;
	is_zero = e.flags & OX_EXTENT_ZERO;
	most = is_zero ? ZERO_PIECE_BYTES : DATA_PIECE_BYTES;
	ret->offset = c->at;
	ret->length = ox_min_u64(e.length, most - c->at % most);
	ret->kind = is_zero ? KIND_ZERO : KIND_DATA;
	ret->memory_bytes = is_zero ? 0 : ret->length;
	ret->cost_bytes = ret->memory_bytes;
	c->at += ret->length;
	return 1;
}

/* Under a piece the image reads what lies above the base, whatever is written there. */
static int work_co(void *arg, struct ox_piece *piece)
{
	struct commit *c = arg;
	struct iovec v = {piece->buffer, piece->length};
	int r;

	if (piece->kind == KIND_ZERO) {
		r = ox_img_zero_co(c->base, piece->offset, piece->length, OX_REQ_MAY_UNMAP);
	} else {
		r = ox_img_preadv_co(c->top, &v, 1, piece->offset);
		if (r < 0 && !*c->err)
			return ox_error_set_errno(c->err, r,
						  "Could not read byte %" PRIu64 " of '%s'",
						  piece->offset, c->top->filename);
		if (r == 0)
			r = ox_img_pwritev_co(c->base, &v, 1, piece->offset, 0);
	}
	if (r < 0 && !*c->err)
		ox_error_set_errno(c->err, r, "Could not write byte %" PRIu64 " of '%s'",
				   piece->offset, c->base->filename);
	return r;
}

static int copy_co(struct commit *c)
{
	static const struct ox_pump_ops ops = {next_co, work_co};
	const struct ox_commit_options *opts = c->opts;
	struct ox_pump pump;
	int r;

	ox_pump_init(&pump, &ops, c);
	if (opts->memory_bytes > 0)
		pump.memory_bytes = ox_max_u64(opts->memory_bytes, 2 * DATA_PIECE_BYTES);
	pump.rate_bytes = opts->rate_bytes;
	pump.total = c->data_bytes + c->zero_bytes;
	pump.progress = opts->progress;
	pump.interrupted = opts->interrupted;
	pump.opaque = opts->opaque;
	r = ox_pump_run_co(&pump);
	if (r < 0 && !*c->err)
		ox_error_set_errno(c->err, r, r == -ECANCELED ? "Interrupted" : "Could not copy");
	return r;
}

/* ---- the steps ---- */

static int grow_co(struct commit *c)
{
	struct ox_error *why = NULL;
	int r;

	if (c->base->size_bytes >= c->top->size_bytes)
		return 0;
	r = ox_img_resize_co(c->base, c->top->size_bytes, &why);
	if (r < 0)
		ox_error_set(c->err, r,
			     "The backing file '%s' (%" PRIu64
			     " bytes) is smaller than '%s' (%" PRIu64 " bytes) and cannot grow: %s",
			     c->base->filename, c->base->size_bytes, c->top->filename,
			     c->top->size_bytes, ox_error_message(why));
	ox_error_free(why);
	return r;
}

static int into_base_co(struct commit *c)
{
	int r = grow_co(c);

	if (r == 0)
		r = copy_co(c);
	if (r < 0)
		return r;
	/* Nothing above it is given up before (J4). */
	r = ox_img_flush_co(c->base);
	return r < 0 ? ox_error_set_errno(c->err, r, "Could not flush '%s'", c->base->filename) : 0;
}

static int empty_co(struct commit *c)
{
	int r = c->top->ops->empty_co(c->top);

	return r < 0 ? ox_error_set_errno(c->err, r, "Could not empty '%s'", c->top->filename) : 0;
}

static int write_co(struct commit *c, struct ox_commit_result *ret)
{
	bool empties = !c->opts->keep && c->depth == 1 && c->top->ops->empty_co;
	struct ox_error *why = NULL;
	int closed;
	int r;

	r = ox_img_reopen_co(c->base, false, c->err);
	if (r < 0) {
		ox_error_prefix(c->err, "Could not open '%s' for writing: ", c->base->filename);
		return r;
	}
	r = into_base_co(c);
	if (r == 0 && empties)
		r = empty_co(c);
	ret->new_base_bytes = c->base->size_bytes;
	ret->emptied = r == 0 && empties;
	closed = ox_img_reopen_co(c->base, true, &why);
	if (r == 0 && closed < 0) {
		r = closed;
		ox_error_set(c->err, r, "%s", ox_error_message(why));
	}
	ox_error_free(why);
	return r;
}

int ox_job_commit_co(struct ox_image *top, const struct ox_commit_options *opts,
		     struct ox_commit_result *ret, struct ox_error **err)
{
	struct ox_error *why = NULL;
	struct commit c = {.opts = opts, .top = top, .err = &why};
	int r = find_base(&c);

	if (r == 0 && top->read_only && !opts->dry_run)
		r = ox_error_set(&why, -EROFS, "Image is read-only");
	if (r == 0)
		r = measure_co(&c);
	if (r == 0) {
		*ret = (struct ox_commit_result){
			.base = c.base->filename,
			.data_bytes = c.data_bytes,
			.zero_bytes = c.zero_bytes,
			.base_bytes = c.base->size_bytes,
			.new_base_bytes = ox_max_u64(c.base->size_bytes, top->size_bytes),
			.snapshots = top->ops->snapshots ? top->ops->snapshots(top) : 0,
		};
		if (!opts->dry_run)
			r = write_co(&c, ret);
	}
	if (r < 0 && err)
		*err = why;
	else
		ox_error_free(why);
	return r;
}
