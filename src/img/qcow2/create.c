/* SPDX-License-Identifier: MIT */
/*
 * A new, empty image:
 *
 *	header | refcount table | refcount blocks | L1 table
 *
 * in clusters without gaps, the refcounts covering just these. The sector that makes it an image,
 * the header's first, is written last and after a sync, so that a power cut leaves either no image
 * or a whole one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/endian.h"
#include "fmt/qcow2.h"
#include "img/create.h"

#define SECTOR_BYTES 512u
#define DEFAULT_CLUSTER_BYTES 65536u
#define DEFAULT_REFCOUNT_BITS 16u
#define DEFAULT_VERSION 3u

static int compression_parse(const char *text, uint8_t *ret_type, struct ox_error **err)
{
	if (!text || strcmp(text, "zlib") == 0)
		*ret_type = OX_QCOW2_ZLIB;
	else if (strcmp(text, "zstd") == 0)
		*ret_type = OX_QCOW2_ZSTD;
	else
		return ox_error_set(err, -EINVAL,
				    "Parameter 'compression-type' does not accept value '%s'",
				    text);
	return 0;
}

/* What version 2 has no room for. */
static int check_version2(const struct ox_create_options *opts, const struct ox_qcow2_header *h,
			  struct ox_error **err)
{
	if (h->version >= 3)
		return 0;
	if (opts->lazy_refcounts)
		return ox_error_set(err, -EINVAL,
				    "Lazy refcounts only supported with compatibility level 1.1 "
				    "and above (use version=v3 or greater)");
	if (h->refcount_order != ox_log2(DEFAULT_REFCOUNT_BITS))
		return ox_error_set(err, -EINVAL,
				    "Different refcount widths than 16 bits require compatibility "
				    "level 1.1 or above (use version=v3 or greater)");
	if (h->compression_type != OX_QCOW2_ZLIB)
		return ox_error_set(
			err, -EINVAL,
			"Non-zlib compression type is only supported with "
			"compatibility level 1.1 and above (use version=v3 or greater)");
	return 0;
}

static int too_large(struct ox_error **err)
{
	return ox_error_set(err, -EFBIG,
			    "The image size is too large for file format 'qcow2' (try using a "
			    "larger cluster size)");
}

/* Fills in what the options alone decide: all but offsets and counts. */
static int header_from_options(const struct ox_create_options *opts, struct ox_qcow2_header *h,
			       struct ox_error **err)
{
	uint32_t cluster_bytes = opts->cluster_bytes ? opts->cluster_bytes : DEFAULT_CLUSTER_BYTES;
	unsigned refcount_bits = opts->refcount_bits ? opts->refcount_bits : DEFAULT_REFCOUNT_BITS;
	int r;

	*h = (struct ox_qcow2_header){.version = opts->version ? opts->version : DEFAULT_VERSION};
	if (!ox_is_pow2(cluster_bytes) || cluster_bytes < 1u << OX_QCOW2_MIN_CLUSTER_BITS ||
	    cluster_bytes > 1u << OX_QCOW2_MAX_CLUSTER_BITS)
		return ox_error_set(err, -EINVAL,
				    "Cluster size must be a power of two between 512 and 2048k");
	if (h->version < 2 || h->version > 3)
		return ox_error_set(err, -EINVAL, "Unsupported qcow2 version %u", h->version);
	if (!ox_is_pow2(refcount_bits) || refcount_bits > 64)
		return ox_error_set(
			err, -EINVAL,
			"Refcount width must be a power of two and may not exceed 64 bits");
	r = compression_parse(opts->compression_type, &h->compression_type, err);
	if (r < 0)
		return r;
	h->cluster_bits = ox_log2(cluster_bytes);
	h->refcount_order = ox_log2(refcount_bits);
	if (opts->lazy_refcounts)
		h->compatible |= OX_QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (h->compression_type != OX_QCOW2_ZLIB)
		h->incompatible |= OX_QCOW2_INCOMPAT_COMPRESSION;
	r = check_version2(opts, h, err);
	if (r == 0)
		r = ox_create_check_backing(opts, err);
	if (r < 0)
		return r;
	if (opts->virtual_bytes > INT64_MAX - (SECTOR_BYTES - 1))
		return too_large(err);
	h->size_bytes = ox_align_up(opts->virtual_bytes, SECTOR_BYTES);
	if (ox_qcow2_l1_needed(h, h->size_bytes) > OX_QCOW2_MAX_L1_BYTES / 8)
		return too_large(err);
	return 0;
}

/* The refcount table and the blocks behind it, in one write. */
static int write_refcounts_co(struct ox_io *io, const struct ox_qcow2_header *h,
			      const struct ox_qcow2_layout *l)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);
	size_t table_bytes = l->reftable_clusters * cluster;
	size_t bytes = table_bytes + l->refblocks * cluster;
	uint8_t *buf = ox_io_buffer(bytes);
	struct ox_be64 *table = (struct ox_be64 *)buf;
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, bytes);
	for (uint64_t i = 0; i < l->refblocks; i++)
		table[i] = ox_be64((1 + l->reftable_clusters + i) * cluster);
	/* The blocks are contiguous, so that they are one array. */
	for (uint64_t i = 0; i < l->clusters; i++)
		ox_qcow2_refcount_set(buf + table_bytes, h->refcount_order, i, 1);
	r = ox_io_pwrite_co(io, buf, bytes, h->reftable_offset, 0);
	free(buf);
	return r;
}

static int write_image_co(struct ox_io *io, const struct ox_qcow2_header *h,
			  const struct ox_qcow2_layout *l, const uint8_t *first_cluster,
			  struct ox_error **err)
{
	int r = ox_create_prepare_co(io, l->clusters << h->cluster_bits, h->l1_offset,
				     l->l1_clusters << h->cluster_bits, err);

	if (r < 0)
		return r;
	r = write_refcounts_co(io, h, l);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the image's tables");
	return ox_create_finish_co(io, first_cluster, ox_qcow2_cluster_bytes(h), "qcow2", err);
}

/* How many clusters the file is going to have, as far as that is known. */
static uint64_t expected_clusters(const struct ox_create_options *opts,
				  const struct ox_qcow2_header *h)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);
	uint64_t data = ox_div_up(h->size_bytes, cluster);

	if (opts->preallocation != OX_PREALLOC_OFF)
		return ox_qcow2_file_clusters(h, data + ox_div_up(data, cluster / 8));
	return ox_div_up(opts->expected_bytes, cluster);
}

/* Header, layout and first cluster, which is to be freed. */
static int plan(const struct ox_create_options *opts, struct ox_qcow2_header *h,
		struct ox_qcow2_layout *l, uint8_t **ret_first_cluster, struct ox_error **err)
{
	uint8_t *first_cluster;
	int r = header_from_options(opts, h, err);

	if (r < 0)
		return r;
	*l = ox_qcow2_layout_of(h, expected_clusters(opts, h));
	first_cluster = ox_io_buffer(ox_qcow2_cluster_bytes(h));
	if (!first_cluster)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = ox_qcow2_first_cluster_encode(h, opts->backing_file, opts->backing_format,
					  first_cluster, ox_qcow2_cluster_bytes(h), err);
	if (r == 0)
		*ret_first_cluster = first_cluster;
	else
		free(first_cluster);
	return r;
}

int ox_qcow2_create_check(const struct ox_create_options *opts, struct ox_error **err)
{
	struct ox_qcow2_header h;
	uint8_t *first_cluster = NULL;
	struct ox_qcow2_layout l;
	int r = plan(opts, &h, &l, &first_cluster, err);

	if (r == 0)
		free(first_cluster);
	return r;
}

int ox_qcow2_create_co(struct ox_io *io, const struct ox_create_options *opts,
		       struct ox_error **err)
{
	struct ox_qcow2_header h;
	uint8_t *first_cluster = NULL;
	struct ox_qcow2_layout l;
	int r = plan(opts, &h, &l, &first_cluster, err);

	if (r < 0)
		return r;
	r = write_image_co(io, &h, &l, first_cluster, err);
	free(first_cluster);
	return r;
}
