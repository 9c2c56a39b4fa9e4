/* SPDX-License-Identifier: MIT */
/* Opening, for reading alone: an image that was not closed is left as it is, byte for byte. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "img/clusters.h"
#include "img/qed/qed.h"

static const struct ox_img_ops qed_ops;

int ox_qed_backing_name_co(struct ox_io *io, const struct ox_qed_header *h, char **ret,
			   struct ox_error **err)
{
	const char *wrong = ox_qed_judge_backing(h);
	char *name;
	int r;

	*ret = NULL;
	if (!(h->features & OX_QED_BACKING))
		return 0;
	if (wrong)
		return ox_error_set(err, -EINVAL, "Could not read the header: %s", wrong);
	name = calloc(1, (size_t)h->backing_bytes + 1);
	if (!name)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_io_pread_co(io, name, h->backing_bytes, h->backing_offset);
	if (r < 0)
		ox_error_set_errno(err, r, "Could not read the backing file's name");
	else if (h->backing_bytes == 0 || strlen(name) != h->backing_bytes)
		r = ox_error_set(err, -EINVAL,
				 "Could not read the header: the backing file's name is %s",
				 h->backing_bytes ? "cut by a NUL byte" : "empty");
	if (r < 0)
		free(name);
	else
		*ret = name;
	return r;
}

/* Everything that a reader relies on, held against the file. */
static int judge_header(const struct ox_image *img, const struct ox_qed_header *h,
			struct ox_error **err)
{
	uint64_t foreign = h->features & ~(uint64_t)OX_QED_KNOWN_FEATURES;
	const char *wrong = ox_qed_judge_size(h);

	if (foreign)
		return ox_error_set(err, -ENOTSUP, "Unsupported QED features: %" PRIx64, foreign);
	if (!wrong && h->size_bytes > INT64_MAX)
		wrong = "the disk is larger than a disk can be";
	if (!wrong)
		wrong = ox_qed_judge_l1(h, img->io->length);
	return wrong ? ox_error_set(err, -EINVAL, "'%s' cannot be opened: %s", img->filename, wrong)
		     : 0;
}

static int read_header_co(struct ox_qed_image *q, struct ox_error **err)
{
	uint8_t bytes[OX_QED_HEADER_BYTES];
	struct ox_image *img = q->img;
	const char *wrong;
	int r = ox_io_pread_co(img->io, bytes, sizeof(bytes), 0);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read QED header");
	wrong = ox_qed_header_decode(bytes, &q->h);
	if (wrong)
		return ox_error_set(err, -EINVAL, "'%s' cannot be opened: %s", img->filename,
				    wrong);
	q->cluster_bytes = ox_qed_cluster_bytes(&q->h);
	q->table_entries = ox_qed_table_entries(&q->h);
	return judge_header(img, &q->h, err);
}

static int read_backing_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_image *img = q->img;
	int r = ox_qed_backing_name_co(img->io, &q->h, &img->backing_name, err);

	if (r < 0 || !img->backing_name)
		return r;
	img->backing_format_unsayable = !(q->h.features & OX_QED_BACKING_RAW);
	if (img->backing_format_unsayable)
		return 0;
	img->backing_format = strdup("raw");
	return img->backing_format ? 0 : ox_error_set(err, -ENOMEM, "Out of memory");
}

int ox_qed_open_image_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	uint64_t cache_bytes = how->opts->l2_cache_bytes;
	struct ox_qed_image *q;
	int r;

	if (!img->read_only)
		return ox_error_set(err, -ENOTSUP,
				    "Writing to QED images is not supported yet: open '%s' "
				    "read-only",
				    img->filename);
	q = calloc(1, sizeof(*q));
	if (!q)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	q->img = img;
	ox_order_init(&q->order, img->io, how->opts->cache == OX_CACHE_UNSAFE);
	r = read_header_co(q, err);
	if (r == 0)
		r = read_backing_co(q, err);
	if (r == 0 && cache_bytes == 0)
		cache_bytes = ox_clusters_cache_bytes(q->h.size_bytes, q->cluster_bytes,
						      OX_QED_SLICE_BYTES);
	if (r == 0 &&
	    ox_cache_init(&q->map, img->io, &q->order, OX_QED_SLICE_BYTES, cache_bytes) < 0)
		r = ox_error_set(err, -ENOMEM, "Out of memory");
	if (r < 0) {
		free(q);
		return r;
	}
	img->ops = &qed_ops;
	img->state = q;
	img->size_bytes = q->h.size_bytes;
	return 0;
}

/* What a reopening for writing comes to: the file is made read-only again. */
static int qed_activate_co(struct ox_image *img, struct ox_error **err)
{
	return ox_error_set(err, -ENOTSUP, "Writing to QED images is not supported yet: '%s'",
			    img->filename);
}

static void qed_free(struct ox_image *img)
{
	struct ox_qed_image *q = img->state;

	ox_cache_fini(&q->map);
	free(q);
	img->state = NULL;
}

static void qed_stats(const struct ox_image *img, struct ox_image_stats *ret)
{
	const struct ox_qed_image *q = img->state;

	ret->l2_hits = q->map.hits;
	ret->l2_misses = q->map.misses;
}

/* The image is never open for writing, so that none of what changes it is called. */
static const struct ox_img_ops qed_ops = {
	.format = "qed",
	.preadv_co = ox_qed_preadv_co,
	.read_part_co = ox_qed_read_part_co,
	.extent_co = ox_qed_extent_co,
	.activate_co = qed_activate_co,
	.free = qed_free,
	.stats = qed_stats,
};
