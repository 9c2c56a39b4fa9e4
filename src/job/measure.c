/* SPDX-License-Identifier: MIT */
#include "job/measure.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "fmt/formats.h"
#include "fmt/qcow2.h"
#include "img/create.h"
#include "job/walk.h"
#include "rt/co.h"

#define SECTOR_BYTES 512u
#define FILE_ALIGN_BYTES 4096u /* a copy ends at such a block (lib/build.c) */
#define DEFAULT_CLUSTER_BYTES 65536u
#define DEFAULT_REFCOUNT_BITS 16u
#define BITMAP_ENTRY_BYTES 24u /* of the directory, without the name */

static uint64_t cluster_of(const struct ox_create_options *target)
{
	return target->cluster_bytes ? target->cluster_bytes : DEFAULT_CLUSTER_BYTES;
}

/* The header of such an image, as far as sizes go. */
static struct ox_qcow2_header header_of(const struct ox_create_options *target, uint64_t bytes)
{
	unsigned bits = target->refcount_bits ? target->refcount_bits : DEFAULT_REFCOUNT_BITS;

	return (struct ox_qcow2_header){
		.version = target->version ? target->version : 3,
		.cluster_bits = ox_log2(cluster_of(target)),
		.refcount_order = ox_log2(bits),
		.size_bytes = bytes,
	};
}

int ox_measure_check(const struct ox_create_options *target, uint64_t bytes, struct ox_error **err)
{
	struct ox_create_options sized = *target;

	if (!target->format)
		return ox_error_set(err, -EINVAL, "No format is stated");
	sized.virtual_bytes = bytes;
	/* What it lies on does not change its size. */
	sized.backing_file = NULL;
	sized.backing_format = NULL;
	if (strcmp(target->format, "raw") == 0)
		return 0;
	if (strcmp(target->format, "qcow2") == 0)
		return ox_qcow2_create_check(&sized, err);
	if (strcmp(target->format, "qed") == 0)
		return ox_error_set(err, -ENOTSUP,
				    "Block driver 'qed' does not support size measurement");
	if (ox_formats_find(target->format))
		return ox_error_set(err, -ENOTSUP,
				    "Format driver '%s' does not support image creation",
				    target->format);
	return ox_error_set(err, -EINVAL, "Unknown file format '%s'", target->format);
}

/* ---- what the source has ---- */

/* Ranges come in ascending order; two may lie in one cluster, and two clusters in one table. */
struct tally {
	uint64_t cluster;
	uint64_t clusters_a_table;
	uint64_t next_cluster; /* the first that is not counted */
	uint64_t next_table;
	struct ox_measured found;
};

static void count(struct tally *t, uint64_t offset, uint64_t length)
{
	uint64_t first = ox_max_u64(offset / t->cluster, t->next_cluster);
	uint64_t end = ox_div_up(offset + length, t->cluster);
	uint64_t first_table;
	uint64_t end_table;

	if (first >= end)
		return;
	first_table = ox_max_u64(first / t->clusters_a_table, t->next_table);
	end_table = (end - 1) / t->clusters_a_table + 1;
	t->found.data_clusters += end - first;
	t->found.l2_tables += end_table - first_table;
	t->next_cluster = end;
	t->next_table = end_table;
}

int ox_measure_count_co(struct ox_image *source, const struct ox_create_options *target,
			struct ox_measured *ret, struct ox_error **err)
{
	struct ox_walk walk = ox_walk_over(source, OX_EXTENT_ZERO);
	struct tally t = {
		.cluster = cluster_of(target),
		.clusters_a_table = cluster_of(target) / 8,
	};
	uint64_t end = source->size_bytes;
	uint64_t length;
	unsigned flags;
	int r;

	if (target->virtual_bytes)
		end = ox_min_u64(end, target->virtual_bytes);
	walk.as_told = true; /* as a copy sees it */
	for (uint64_t at = 0; at < end; at += length) {
		if (ox_co_is_cancelled())
			return ox_error_set(err, -ECANCELED, "Cancelled");
		r = ox_walk_at_co(&walk, at, end - at, &length, &flags);
		if (r < 0)
			return ox_error_set_errno(err, r, "Unable to get block status of '%s'",
						  source->filename);
		if (!(flags & OX_EXTENT_ZERO))
			count(&t, at, length);
	}
	*ret = t.found;
	return 0;
}

/* ---- qcow2 ---- */

/* The table that follows one which is full: it lies where that one's reach ended, with the blocks
 * that count it, and is half as large again as it has to be there. */
static uint64_t next_table_clusters(const struct ox_qcow2_header *h, uint64_t table)
{
	uint64_t per_block = ox_qcow2_refblock_entries(h);
	uint64_t per_cluster = ox_qcow2_cluster_bytes(h) / 8;
	uint64_t blocks = 1;
	uint64_t next;

	for (;;) {
		uint64_t entries = table * per_cluster + blocks;

		next = ox_div_up(entries + entries / 2, per_cluster);
		if (ox_div_up(next + blocks, per_block) <= blocks)
			return next;
		blocks++;
	}
}

/*
 * The clusters of a file whose data and L2 tables are so many. Refcount blocks are made as they are
 * needed. The places of tables that have moved may be taken by what comes after them, or by
 * nothing: they are counted.
 */
static uint64_t file_clusters(struct ox_qcow2_header *h, uint64_t others)
{
	struct ox_qcow2_layout layout = ox_qcow2_layout_of(h);
	uint64_t per_block = ox_qcow2_refblock_entries(h);
	uint64_t per_cluster = ox_qcow2_cluster_bytes(h) / 8;
	uint64_t table = layout.reftable_clusters;
	uint64_t rest = 1 + layout.l1_clusters + others; /* and old tables */
	uint64_t blocks = layout.refblocks;
	uint64_t total;

	for (;;) {
		total = rest + table + blocks;
		if (ox_div_up(total, per_block) > blocks) {
			blocks = ox_div_up(total, per_block);
			continue;
		}
		if (blocks <= table * per_cluster)
			return total;
		rest += table;
		table = next_table_clusters(h, table);
	}
}

static uint64_t qcow2_bytes(struct ox_qcow2_header *h, const struct ox_measured *found)
{
	uint64_t clusters = file_clusters(h, found->data_clusters + found->l2_tables);

	return ox_align_up(clusters << h->cluster_bits, FILE_ALIGN_BYTES);
}

static struct ox_measured all_of(const struct ox_qcow2_header *h)
{
	uint64_t clusters = ox_div_up(h->size_bytes, ox_qcow2_cluster_bytes(h));

	return (struct ox_measured){clusters, ox_div_up(clusters, ox_qcow2_cluster_bytes(h) / 8)};
}

void ox_measure_add_up(const struct ox_create_options *target, uint64_t bytes,
		       const struct ox_measured *found, struct ox_measure_result *ret)
{
	struct ox_measured need = {0};
	struct ox_qcow2_header h;
	struct ox_measured all;

	*ret = (struct ox_measure_result){0};
	bytes = ox_align_up(bytes, SECTOR_BYTES);
	if (strcmp(target->format, "raw") == 0) {
		ret->required = bytes;
		ret->fully_allocated = bytes;
		return;
	}
	h = header_of(target, bytes);
	all = all_of(&h);
	if (found)
		need = *found;
	/* Zeroes are written over a backing file: they take tables, and nothing else. */
	if (found && target->backing_file)
		need.l2_tables = all.l2_tables;
	if (target->preallocation != OX_PREALLOC_OFF)
		need = all;
	ret->required = qcow2_bytes(&h, &need);
	ret->fully_allocated = qcow2_bytes(&h, &all);
}

uint64_t ox_measure_bitmap(const struct ox_create_options *target, uint64_t disk_bytes,
			   const struct ox_bitmap_info *bitmap, uint64_t *directory_bytes)
{
	uint64_t cluster = cluster_of(target);
	uint64_t bits = ox_div_up(disk_bytes, bitmap->granularity_bytes);
	uint64_t clusters = ox_div_up(ox_div_up(bits, 8), cluster);

	*directory_bytes += ox_align_up(BITMAP_ENTRY_BYTES + strlen(bitmap->name), 8);
	return (clusters + ox_div_up(clusters * 8, cluster)) * cluster;
}
