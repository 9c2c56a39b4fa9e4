/* SPDX-License-Identifier: MIT */
/* An empty image: the header, with the backing file's name behind it, and an L1 table of zeroes. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "fmt/formats.h"
#include "img/create.h"
#include "img/qed/qed.h"

#define DEFAULT_CLUSTER_BYTES 65536u
#define DEFAULT_TABLE_CLUSTERS 4u
#define SECTOR_BYTES 512u

static int check_shape(uint32_t cluster_bytes, uint32_t table_clusters, struct ox_error **err)
{
	if (!ox_is_pow2(cluster_bytes) || cluster_bytes < OX_QED_CLUSTER_BYTES_MIN ||
	    cluster_bytes > OX_QED_CLUSTER_BYTES_MAX)
		return ox_error_set(err, -EINVAL,
				    "QED cluster size must be within range [%u, %u] and power of 2",
				    OX_QED_CLUSTER_BYTES_MIN, OX_QED_CLUSTER_BYTES_MAX);
	if (!ox_is_pow2(table_clusters) || table_clusters > OX_QED_TABLE_CLUSTERS_MAX)
		return ox_error_set(err, -EINVAL,
				    "QED table size must be within range [%u, %u] and power of 2",
				    1u, OX_QED_TABLE_CLUSTERS_MAX);
	return 0;
}

static int check_size(const struct ox_qed_header *h, struct ox_error **err)
{
	uint64_t entries = ox_qed_table_entries(h);
	uint64_t most;

	/* Such an image would be sound, but no other program opens it. */
	if (!ox_mul_u64(entries * entries, ox_qed_cluster_bytes(h), &most))
		return ox_error_set(err, -EINVAL,
				    "Tables of %" PRIu32 " clusters of %" PRIu64
				    " bytes map more than 2^64 bytes, and QEMU does not open such "
				    "an image: choose a smaller cluster_size or table_size",
				    h->table_clusters, ox_qed_cluster_bytes(h));
	if (h->size_bytes > most)
		return ox_error_set(err, -EINVAL,
				    "QED image size must be a non-zero multiple of cluster size "
				    "and less than %" PRIu64 " bytes",
				    most);
	return 0;
}

static int take_backing(const struct ox_create_options *opts, struct ox_qed_header *h,
			struct ox_error **err)
{
	int r = ox_create_check_backing(opts, err);
	size_t count;

	if (r < 0 || !opts->backing_file)
		return r;
	count = strlen(opts->backing_file);
	if (count > OX_QED_BACKING_BYTES_MAX)
		return ox_error_set(err, -EINVAL, "Backing file name is longer than %u bytes",
				    OX_QED_BACKING_BYTES_MAX);
	h->features = OX_QED_BACKING;
	if (ox_formats_is_raw(opts->backing_format))
		h->features |= OX_QED_BACKING_RAW;
	h->backing_offset = OX_QED_HEADER_BYTES;
	h->backing_bytes = (uint32_t)count;
	return 0;
}

static int plan(const struct ox_create_options *opts, struct ox_qed_header *ret,
		struct ox_error **err)
{
	uint32_t cluster_bytes = opts->cluster_bytes ? opts->cluster_bytes : DEFAULT_CLUSTER_BYTES;
	uint32_t table_clusters =
		opts->table_clusters ? opts->table_clusters : DEFAULT_TABLE_CLUSTERS;
	int r = check_shape(cluster_bytes, table_clusters, err);

	if (r < 0)
		return r;
	if (opts->preallocation != OX_PREALLOC_OFF)
		return ox_error_set(err, -EINVAL, "QED images cannot be preallocated");
	if (opts->virtual_bytes > (uint64_t)INT64_MAX - (SECTOR_BYTES - 1))
		return ox_error_set(err, -EFBIG, "Image size too big");
	*ret = (struct ox_qed_header){
		.cluster_bits = ox_log2(cluster_bytes),
		.table_clusters = table_clusters,
		.header_clusters = 1,
		.l1_offset = cluster_bytes,
		.size_bytes = ox_align_up(opts->virtual_bytes, SECTOR_BYTES),
	};
	r = check_size(ret, err);
	return r < 0 ? r : take_backing(opts, ret, err);
}

int ox_qed_create_check(const struct ox_create_options *opts, struct ox_error **err)
{
	struct ox_qed_header h;

	return plan(opts, &h, err);
}

int ox_qed_create_co(struct ox_io *io, const struct ox_create_options *opts, struct ox_error **err)
{
	struct ox_qed_header h;
	uint8_t *first;
	int r = plan(opts, &h, err);

	if (r < 0)
		return r;
	first = ox_io_buffer(OX_QED_CLUSTER_BYTES_MIN);
	if (!first)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	memset(first, 0, OX_QED_CLUSTER_BYTES_MIN);
	ox_qed_header_encode(&h, first);
	memcpy(first + OX_QED_HEADER_BYTES, opts->backing_file ? opts->backing_file : "",
	       h.backing_bytes);
	r = ox_create_prepare_co(io, h.l1_offset + ox_qed_table_bytes(&h), h.l1_offset,
				 ox_qed_table_bytes(&h), err);
	if (r == 0)
		r = ox_create_finish_co(io, first, OX_QED_CLUSTER_BYTES_MIN, "QED", err);
	free(first);
	return r;
}
