/* SPDX-License-Identifier: MIT */
#include "fmt/qed.h"

#include <string.h>

#include "base/arith.h"

#define SECTOR_BYTES 512u

struct disk_header {
	uint8_t magic[4];
	struct ox_le32 cluster_bytes;
	struct ox_le32 table_clusters;
	struct ox_le32 header_clusters;
	struct ox_le64 features;
	struct ox_le64 compatible;
	struct ox_le64 autoclear;
	struct ox_le64 l1_offset;
	struct ox_le64 size_bytes;
	struct ox_le32 backing_offset;
	struct ox_le32 backing_bytes;
};

_Static_assert(sizeof(struct disk_header) == OX_QED_HEADER_BYTES, "no padding");

static const uint8_t magic[4] = {'Q', 'E', 'D', 0};

bool ox_qed_probe(const uint8_t *bytes, size_t count)
{
	return count >= sizeof(magic) && memcmp(bytes, magic, sizeof(magic)) == 0;
}

static bool is_power_of_2(uint32_t value)
{
	return value && (value & (value - 1)) == 0;
}

const char *ox_qed_header_decode(const uint8_t *bytes, struct ox_qed_header *ret)
{
	const struct disk_header *d = (const struct disk_header *)bytes;
	uint32_t cluster_bytes = ox_le32_get(d->cluster_bytes);
	uint32_t table_clusters = ox_le32_get(d->table_clusters);

	if (!ox_qed_probe(bytes, sizeof(*d)))
		return "it is not in QED format";
	if (!is_power_of_2(cluster_bytes) || cluster_bytes < OX_QED_CLUSTER_BYTES_MIN ||
	    cluster_bytes > OX_QED_CLUSTER_BYTES_MAX)
		return "the cluster size is no power of two from 4 KiB to 64 MiB";
	if (!is_power_of_2(table_clusters) || table_clusters > OX_QED_TABLE_CLUSTERS_MAX)
		return "the table size is no power of two from 1 to 16";
	*ret = (struct ox_qed_header){
		.cluster_bits = (unsigned)__builtin_ctz(cluster_bytes),
		.table_clusters = table_clusters,
		.header_clusters = ox_le32_get(d->header_clusters),
		.features = ox_le64_get(d->features),
		.autoclear = ox_le64_get(d->autoclear),
		.l1_offset = ox_le64_get(d->l1_offset),
		.size_bytes = ox_le64_get(d->size_bytes),
		.backing_offset = ox_le32_get(d->backing_offset),
		.backing_bytes = ox_le32_get(d->backing_bytes),
	};
	return NULL;
}

const char *ox_qed_judge_size(const struct ox_qed_header *h)
{
	uint64_t entries = ox_qed_table_entries(h);
	uint64_t most;

	if (!ox_is_aligned(h->size_bytes, SECTOR_BYTES))
		return "the disk's size is no multiple of 512";
	if (ox_mul_u64(entries * entries, ox_qed_cluster_bytes(h), &most) && h->size_bytes > most)
		return "the disk is larger than its tables can map";
	return NULL;
}

const char *ox_qed_judge_backing(const struct ox_qed_header *h)
{
	uint64_t end = (uint64_t)h->backing_offset + h->backing_bytes;

	if (!(h->features & OX_QED_BACKING))
		return NULL;
	if (h->backing_bytes > OX_QED_BACKING_BYTES_MAX)
		return "the backing file's name is too long";
	if (end > ox_qed_header_bytes(h))
		return "the backing file's name lies outside the header";
	return NULL;
}

enum ox_qed_place ox_qed_judge_place(const struct ox_qed_header *h, uint64_t offset,
				     uint64_t size_bytes, uint64_t file_bytes)
{
	if (!ox_is_aligned(offset, ox_qed_cluster_bytes(h)) || offset < ox_qed_header_bytes(h))
		return OX_QED_MISPLACED;
	return ox_range_within(offset, size_bytes, file_bytes) ? OX_QED_SOUND : OX_QED_PAST_END;
}

const char *ox_qed_judge_l1(const struct ox_qed_header *h, uint64_t file_bytes)
{
	uint64_t header_bytes = ox_qed_header_bytes(h);

	if (header_bytes == 0 || header_bytes > file_bytes)
		return "the header has no clusters, or more than the file";
	if (h->header_clusters > OX_QED_HEADER_CLUSTERS_MAX)
		return "the header has more clusters than any header needs";
	if (ox_qed_judge_place(h, h->l1_offset, ox_qed_table_bytes(h), file_bytes) != OX_QED_SOUND)
		return "the L1 table is nowhere in the file";
	return NULL;
}

void ox_qed_header_encode(const struct ox_qed_header *h, uint8_t *bytes)
{
	*(struct disk_header *)bytes = (struct disk_header){
		.magic = {'Q', 'E', 'D', 0},
		.cluster_bytes = ox_le32((uint32_t)ox_qed_cluster_bytes(h)),
		.table_clusters = ox_le32(h->table_clusters),
		.header_clusters = ox_le32(h->header_clusters),
		.features = ox_le64(h->features),
		.autoclear = ox_le64(h->autoclear),
		.l1_offset = ox_le64(h->l1_offset),
		.size_bytes = ox_le64(h->size_bytes),
		.backing_offset = ox_le32(h->backing_offset),
		.backing_bytes = ox_le32(h->backing_bytes),
	};
}

void ox_qed_set_features(uint8_t *bytes, uint64_t features)
{
	struct disk_header *d = (struct disk_header *)bytes;

	d->features = ox_le64(features);
	d->autoclear = ox_le64(0);
}

void ox_qed_header_patch(const struct ox_qed_header *h, uint8_t *bytes)
{
	struct disk_header *d = (struct disk_header *)bytes;

	d->features = ox_le64(h->features);
	d->autoclear = ox_le64(h->autoclear);
	d->size_bytes = ox_le64(h->size_bytes);
	d->backing_offset = ox_le32(h->backing_offset);
	d->backing_bytes = ox_le32(h->backing_bytes);
}
