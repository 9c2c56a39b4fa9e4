/* SPDX-License-Identifier: MIT */
/*
 * Rebase: an image gets another backing file, and reads as it did. Where it has nothing of its own,
 * and the new chain reads differently than the old one, what the old one reads is written into the
 * image first, a cluster at a time; zeroes as zero clusters. That changes nothing that can be read
 * (J4). Once it is durable the header names the other file, in one sector (docs/chain.md).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "fmt/formats.h"
#include "img/chain.h"
#include "job/chain.h"
#include "job/pump.h"

/* A piece is a stretch of clusters; of each chain so much is in memory. */
#define PIECE_BYTES (UINT64_C(1) << 20)

struct rebase {
	const struct ox_rebase_options *opts;
	const char *name; /* NULL: none */
	struct ox_image *img;
	struct ox_image *chain; /* the new one; NULL: it reads as zeroes */
	uint64_t cluster_bytes;
	uint64_t at;
	uint64_t passed; /* guest bytes that no piece was needed for */
	struct ox_rebase_result result;
	struct ox_pump pump;
	struct ox_error *why;
};

/* ---- where two chains read the same without being read ---- */

/* What lies at an offset of a chain (NULL: zeroes): the image that has it; NULL: none, zeroes. */
struct there {
	const struct ox_image *layer;
	uint64_t length;
};

static int look_co(struct ox_image *chain, uint64_t offset, uint64_t length, struct there *ret)
{
	struct ox_extent e;
	int r;

	*ret = (struct there){.length = length};
	if (!chain || offset >= chain->size_bytes)
		return 0;
	r = ox_img_extent_co(chain, offset, ox_min_u64(length, chain->size_bytes - offset), &e);
	if (r < 0)
		return r;
	ret->length = e.length;
	if (!(e.flags & OX_EXTENT_DATA))
		return 0;
	ret->layer = chain;
	for (unsigned i = 0; i < e.depth; i++)
		ret->layer = ret->layer->backing;
	return 0;
}

/* Both chains end in the same file there: an image is rebased to one further down. */
static bool is_same_file(const struct ox_image *a, const struct ox_image *b)
{
	uint64_t dev[2];
	uint64_t ino[2];

	return ox_io_file_identity(a->io, &dev[0], &ino[0]) &&
	       ox_io_file_identity(b->io, &dev[1], &ino[1]) && dev[0] == dev[1] &&
	       ino[0] == ino[1] && a->ops == b->ops;
}

/* ---- pieces ---- */

/* The next stretch of clusters at or after r->at that the image does not have itself. */
static int find_gap_co(struct rebase *r, struct ox_extent *ret)
{
	uint64_t size = r->img->size_bytes;
	int result;

	while (r->at < size) {
		result = r->img->ops->extent_co(r->img, r->at, size - r->at, false, ret);
		if (result < 0)
			return result == -EUCLEAN ? -EIO : result;
		/* Nothing of its own, be it that a backing file has it or that none has. */
		if (!(ret->flags & OX_EXTENT_PRESENT) && !(ret->flags & OX_EXTENT_DATA))
			return 1;
		r->at += ret->length;
		r->passed += ret->length;
	}
	return 0;
}

/* How long the piece at the gap's start is, in whole clusters, and whether the two chains read the
 * same there for all that is known without a look. */
static int judge_co(struct rebase *r, uint64_t length, struct ox_piece *ret, bool *ret_same)
{
	struct there old;
	struct there new;
	int result = look_co(r->img->backing, r->at, length, &old);

	if (result == 0)
		result = look_co(r->chain, r->at, length, &new);
	if (result < 0)
		return result;
	length = ox_min_u64(length, ox_min_u64(old.length, new.length));
	*ret_same = (!old.layer && !new.layer) ||
		    (old.layer && new.layer &&is_same_file(old.layer, new.layer));
	/* A cluster that is not all of one kind is compared. */
	if (length < r->cluster_bytes - r->at % r->cluster_bytes &&
	    r->at + length < r->img->size_bytes) {
		*ret_same = false;
		length = r->cluster_bytes;
	} else if (r->at + length < r->img->size_bytes) {
		length = ox_align_down(length, r->cluster_bytes);
	}
	ret->length = ox_min_u64(length, r->img->size_bytes - r->at);
	return 0;
}

/* Of a cluster that is too large for the bound one part at a time. */
static uint64_t memory_for(const struct rebase *r, const struct ox_piece *piece)
{
	if (2 * piece->length <= ox_pump_half_bytes(&r->pump))
		return 2 * piece->length;
	return 2 * PIECE_BYTES;
}

static int next_piece_co(struct rebase *r, struct ox_piece *ret)
{
	uint64_t most = ox_max_u64(PIECE_BYTES, r->cluster_bytes);
	struct ox_extent gap;
	bool is_same;
	int result;

	while ((result = find_gap_co(r, &gap)) > 0) {
		result = judge_co(r, gap.length, ret, &is_same);
		if (result < 0)
			break;
		if (!is_same) {
			ret->offset = r->at;
			ret->length = ox_min_u64(ret->length, most - r->at % most);
			ret->memory_bytes = memory_for(r, ret);
			ret->cost_bytes = ret->length;
			r->at += ret->length;
			return 1;
		}
		r->at += ret->length;
		r->passed += ret->length;
	}
	return result;
}

static int next_co(void *arg, struct ox_piece *ret)
{
	struct rebase *r = arg;
	int result = next_piece_co(r, ret);

	if (result < 0 && !r->why)
		ox_error_set_errno(&r->why, result, "Could not look up byte %" PRIu64, r->at);
	return result;
}

/* ---- carrying them out ---- */

static int read_chain_co(struct ox_image *chain, uint8_t *buf, uint64_t offset, uint64_t length)
{
	struct iovec v = {buf, length};

	if (!chain) {
		memset(buf, 0, length);
		return 0;
	}
	return ox_chain_read_co(chain, &v, 1, 0, offset, length);
}

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static int put_zeroes_co(struct rebase *r, uint64_t offset, uint64_t length)
{
	r->result.zero_bytes += length;
	return r->opts->dry_run ? 0 : ox_img_zero_co(r->img, offset, length, OX_REQ_MAY_UNMAP);
}

static int put_data_co(struct rebase *r, uint8_t *bytes, uint64_t offset, uint64_t length)
{
	struct iovec v = {bytes, length};

	r->result.data_bytes += length;
	return r->opts->dry_run ? 0
				: ox_img_pwritev_co(r->img, &v, 1, offset,
						    r->opts->compress ? OX_REQ_COMPRESSED : 0);
}

enum verdict { SAME, ZEROES, DATA };

static enum verdict verdict_of(const uint8_t *old, const uint8_t *new, uint64_t length)
{
	if (memcmp(old, new, length) == 0)
		return SAME;
	return is_zero(old, length) ? ZEROES : DATA;
}

/* Clusters that fit into half of the buffer: neighbours that need the same go together. */
static int compare_clusters_co(struct rebase *r, const struct ox_piece *piece)
{
	uint64_t half = piece->memory_bytes / 2;
	uint8_t *old = piece->buffer;
	uint8_t *new = piece->buffer + half;
	uint64_t from = 0;
	uint64_t end;
	int result;

	result = read_chain_co(r->img->backing, old, piece->offset, piece->length);
	if (result == 0)
		result = read_chain_co(r->chain, new, piece->offset, piece->length);
	for (; result == 0 && from < piece->length; from = end) {
		enum verdict verdict = verdict_of(
			old + from, new + from, ox_min_u64(r->cluster_bytes, piece->length - from));

		for (end = from + r->cluster_bytes; end < piece->length; end += r->cluster_bytes) {
			uint64_t n = ox_min_u64(r->cluster_bytes, piece->length - end);

			if (verdict_of(old + end, new + end, n) != verdict)
				break;
		}
		end = ox_min_u64(end, piece->length);
		if (verdict == ZEROES)
			result = put_zeroes_co(r, piece->offset + from, end - from);
		else if (verdict == DATA)
			result = put_data_co(r, old + from, piece->offset + from, end - from);
	}
	return result;
}

/* One cluster that is larger than half of the buffer: looked at in parts. */
static int compare_large_co(struct rebase *r, const struct ox_piece *piece)
{
	uint64_t half = piece->memory_bytes / 2;
	uint8_t *old = piece->buffer;
	uint8_t *new = piece->buffer + half;
	bool differs = false;
	int result = 0;

	for (uint64_t at = 0; result == 0 && !differs && at < piece->length; at += half) {
		uint64_t n = ox_min_u64(half, piece->length - at);

		result = read_chain_co(r->img->backing, old, piece->offset + at, n);
		if (result == 0)
			result = read_chain_co(r->chain, new, piece->offset + at, n);
		differs = result == 0 && memcmp(old, new, n) != 0;
	}
	/* The first write copies the rest of the cluster from the old backing file. */
	if (result == 0 && differs) {
		result = read_chain_co(r->img->backing, old, piece->offset, half);
		if (result == 0)
			result = put_data_co(r, old, piece->offset, half);
		r->result.data_bytes += piece->length - half;
	}
	return result;
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct rebase *r = arg;
	int result;

	if (piece->memory_bytes / 2 < piece->length)
		result = compare_large_co(r, piece);
	else
		result = compare_clusters_co(r, piece);
	if (result < 0 && !r->why)
		ox_error_set_errno(&r->why, result,
				   "Could not copy byte %" PRIu64 " of the old backing file",
				   piece->offset);
	return result;
}

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct rebase *r = opaque;

	if (r->opts->progress)
		r->opts->progress(r->opts->opaque, ox_min_u64(done + r->passed, total), total);
}

static int on_interrupted(void *opaque)
{
	struct rebase *r = opaque;

	return r->opts->interrupted ? r->opts->interrupted(r->opts->opaque) : 0;
}

static int copy_co(struct rebase *r)
{
	static const struct ox_pump_ops ops = {next_co, work_co};
	uint64_t part_bytes = PIECE_BYTES;
	int result;

	ox_pump_init(&r->pump, &ops, r);
	if (r->opts->compress) /* takes no part of a cluster */
		part_bytes = ox_max_u64(part_bytes, r->cluster_bytes);
	if (r->opts->memory_bytes > 0)
		r->pump.memory_bytes = ox_max_u64(r->opts->memory_bytes, 4 * part_bytes);
	r->pump.total = r->img->size_bytes;
	r->pump.progress = on_progress;
	r->pump.interrupted = on_interrupted;
	r->pump.opaque = r;
	r->img->rebasing = !r->opts->dry_run;
	result = ox_pump_run_co(&r->pump);
	r->img->rebasing = false;
	if (result == -ECANCELED && !r->why)
		ox_error_set(&r->why, result, "Interrupted");
	else if (result < 0 && !r->why)
		ox_error_set_errno(&r->why, result, "Could not copy");
	return result;
}

/* ---- all of it ---- */

static int cannot_change(struct rebase *r, int error, const char *why)
{
	return ox_error_set(&r->why, error, "Could not change the backing file to '%s': %s",
			    r->name ? r->name : "", why);
}

static int refuse(struct rebase *r)
{
	const struct ox_rebase_options *opts = r->opts;

	if (opts->backing_format && !ox_formats_find(opts->backing_format))
		return ox_error_set(&r->why, -EINVAL, "Invalid format name: '%s'",
				    opts->backing_format);
	if (opts->compress && !r->img->ops->pwritev_compressed_co)
		return ox_error_set(&r->why, -ENOTSUP,
				    "Compression not supported for this file format");
	if (!r->img->ops->set_backing_co)
		return cannot_change(r, -ENOTSUP, "Operation not supported");
	if (r->name && !opts->backing_format)
		return cannot_change(r, -EINVAL, "backing format must be specified");
	if (r->img->read_only && !opts->dry_run)
		return ox_error_set(&r->why, -EROFS, "Image is read-only");
	if (!opts->unsafe && r->img->backing_name && !r->img->backing)
		return ox_error_set(&r->why, -EINVAL, "The backing file of '%s' is not open",
				    r->img->filename);
	return 0;
}

/* The new chain's first file is told of twice else. */
static const char *without_prefix(const char *message)
{
	static const char prefix[] = "Could not open backing file: ";

	return strncmp(message, prefix, sizeof(prefix) - 1) == 0 ? message + sizeof(prefix) - 1
								 : message;
}

/* An unsafe rebase need not find the file; what can be seen of it must be no loop. */
static int open_chain_co(struct rebase *r)
{
	struct ox_open_options open = {
		.flags = OX_OPEN_READ_ONLY | OX_OPEN_PROBE,
		.cache = r->opts->cache,
		.backing_policy = OX_BACKING_ALLOW,
	};
	struct ox_img_open how = {.opts = &open, .recovery = r->img->recovery};
	struct ox_error *why = NULL;
	int result;

	if (!r->name)
		return 0;
	if (r->opts->share || r->opts->unsafe)
		open.flags |= OX_OPEN_FORCE_SHARE;
	result = ox_chain_open_other_co(r->img, r->name, r->opts->backing_format, &how, &r->chain,
					&why);
	if (result < 0 && result != -ELOOP && r->opts->unsafe)
		result = 0;
	else if (result == -ELOOP)
		ox_error_set(&r->why, result, "Backing file '%s' creates an infinite loop.",
			     r->name);
	else if (result < 0)
		ox_error_set(&r->why, result, "Could not open new backing file '%s': %s", r->name,
			     without_prefix(ox_error_message(why)));
	ox_error_free(why);
	return result;
}

static int change_header_co(struct rebase *r)
{
	struct ox_image *chain = r->opts->unsafe ? NULL : r->chain;
	const char *format = r->name ? r->opts->backing_format : NULL;
	int result = ox_img_flush_co(r->img); /* what was copied, before the header (D1) */
	struct ox_error *why = NULL;

	if (result < 0)
		return ox_error_set_errno(&r->why, result, "Could not flush '%s'",
					  r->img->filename);
	result = r->img->ops->set_backing_co(r->img, r->name, format, chain, &why);
	if (result < 0)
		cannot_change(r, result, ox_error_message(why));
	else if (chain)
		r->chain = NULL; /* it is the image's */
	ox_error_free(why);
	return result;
}

int ox_job_rebase_co(struct ox_image *img, const struct ox_rebase_options *opts,
		     struct ox_rebase_result *ret, struct ox_error **err)
{
	struct rebase r = {
		.result.snapshots = img->ops->snapshots ? img->ops->snapshots(img) : 0,
		.opts = opts,
		.name = opts->backing_file && *opts->backing_file ? opts->backing_file : NULL,
		.img = img,
	};
	int result = refuse(&r);

	if (result == 0)
		result = open_chain_co(&r);
	if (result == 0 && !opts->unsafe) {
		r.cluster_bytes = img->ops->cluster_bytes(img);
		result = copy_co(&r);
	}
	if (result == 0 && !opts->dry_run)
		result = change_header_co(&r);
	if (result == 0)
		*ret = r.result;
	ox_chain_free_co(r.chain);
	if (result < 0 && err)
		*err = r.why;
	else
		ox_error_free(r.why);
	return result;
}
