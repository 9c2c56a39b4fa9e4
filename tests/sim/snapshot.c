/* SPDX-License-Identifier: MIT */
#include "snapshot.h"

#include "image.h"
#include "trace.h"

static void put_refcount(struct sim_bytes *b, const struct sim_image *i, uint64_t cluster,
			 uint64_t value)
{
	uint64_t entries = sim_image_block_entries(i);
	uint64_t block = sim_image_refblock(i, cluster / entries);
	uint64_t bit = cluster % entries << i->refcount_order;
	unsigned width = 1u << i->refcount_order;
	uint8_t raw[8];

	if (block == 0)
		sim_fail("sim", "no refcount block for cluster %llu", (unsigned long long)cluster);
	sim_bytes_read(b, block + bit / 8, raw, sizeof(raw));
	if (width < 8) {
		unsigned mask = (1u << width) - 1;

		raw[0] = (uint8_t)((raw[0] & ~(mask << bit % 8)) | value << bit % 8);
	} else {
		for (unsigned n = 0; n < width / 8; n++)
			raw[n] = (uint8_t)(value >> 8 * (width / 8 - 1 - n));
	}
	sim_bytes_write(b, block + bit / 8, raw, width < 8 ? 1 : width / 8);
}

static void add_name(struct sim_bytes *b, const struct sim_image *i, uint64_t host)
{
	uint64_t cluster = host >> i->cluster_bits;

	put_refcount(b, i, cluster, sim_image_refcount(i, cluster) + 1);
}

static void share_table(struct sim_bytes *b, const struct sim_image *i, uint64_t table)
{
	for (uint64_t k = 0; k < i->cluster_bytes / 8; k++) {
		uint64_t entry = sim_bytes_be64(b, table + k * 8);

		if ((entry & SIM_OFFSET_MASK) == 0)
			continue;
		add_name(b, i, entry & SIM_OFFSET_MASK);
		sim_bytes_put_be64(b, table + k * 8, entry & ~SIM_COPIED);
	}
}

static void write_record(struct sim_bytes *b, const struct sim_image *i, uint64_t at, uint64_t l1)
{
	sim_bytes_put_be64(b, at, l1);
	sim_bytes_put_be32(b, at + 8, i->l1_entries);
	sim_bytes_put_be16(b, at + 12, 1); /* id */
	sim_bytes_put_be16(b, at + 14, 1); /* name */
	sim_bytes_put_be32(b, at + 36, 16);
	sim_bytes_put_be64(b, at + 48, i->size_bytes);
	sim_bytes_write(b, at + 56, "1s", 2);
}

bool sim_snapshot_take(struct sim_bytes *b)
{
	struct sim_image i;
	const char *why;
	uint64_t l1_clusters;
	uint64_t first;
	uint64_t last;
	uint64_t l1;

	if (!sim_image_parse(b, &i, &why) || i.snapshot_count > 0 || i.refcount_order == 0)
		return false;
	l1_clusters = ((uint64_t)i.l1_entries * 8 + i.cluster_bytes - 1) >> i.cluster_bits;
	first = (b->length + i.cluster_bytes - 1) >> i.cluster_bits;
	last = first + l1_clusters; /* the snapshot table */
	for (uint64_t c = first; c <= last; c++)
		if (sim_image_refblock(&i, c / sim_image_block_entries(&i)) == 0)
			return false;
	l1 = first << i.cluster_bits;
	sim_bytes_set_length(b, (last + 1) << i.cluster_bits);
	for (uint64_t c = first; c <= last; c++)
		put_refcount(b, &i, c, 1);
	for (uint64_t n = 0; n < i.l1_entries; n++) {
		uint64_t entry = sim_bytes_be64(b, i.l1_offset + n * 8) & ~SIM_COPIED;

		if (entry) {
			add_name(b, &i, entry & SIM_OFFSET_MASK);
			share_table(b, &i, entry & SIM_OFFSET_MASK);
		}
		sim_bytes_put_be64(b, i.l1_offset + n * 8, entry);
		sim_bytes_put_be64(b, l1 + n * 8, entry);
	}
	write_record(b, &i, last << i.cluster_bits, l1);
	sim_bytes_put_be32(b, 60, 1);
	sim_bytes_put_be64(b, 64, last << i.cluster_bits);
	return true;
}
