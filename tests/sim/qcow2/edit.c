/* SPDX-License-Identifier: MIT */
#include "qcow2/edit.h"

#include "trace.h"

void sim_edit_put_refcount(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t cluster,
			   uint64_t value)
{
	uint64_t entries = sim_qcow2_block_entries(i);
	uint64_t block = sim_qcow2_refblock(i, cluster / entries);
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

void sim_edit_add_names(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t offset,
			uint64_t bytes, int names)
{
	uint64_t last = (offset + bytes - 1) >> i->cluster_bits;

	for (uint64_t c = offset >> i->cluster_bits; c <= last; c++) {
		uint64_t value = sim_qcow2_refcount(i, c) + (uint64_t)(int64_t)names;

		if (i->refcount_order < 6 && value >> (1u << i->refcount_order) != 0)
			sim_fail("sim", "no room for another name of cluster %llu",
				 (unsigned long long)c);
		sim_edit_put_refcount(b, i, c, value);
	}
}

uint64_t sim_edit_find_free(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t clusters,
			    bool fixed)
{
	uint64_t entries = sim_qcow2_block_entries(i);
	uint64_t reach = i->reftable_clusters * i->cluster_bytes / 8 * entries;
	uint64_t found = 0;
	uint64_t end;

	if (fixed && reach > b->length >> i->cluster_bits)
		reach = b->length >> i->cluster_bits;
	for (uint64_t c = 1; c < reach && found < clusters; c++) {
		if (sim_qcow2_refblock(i, c / entries) == 0) {
			found = 0;
			c = (c / entries + 1) * entries - 1;
			continue;
		}
		found = sim_qcow2_refcount(i, c) == 0 ? found + 1 : 0;
		end = (c + 1) << i->cluster_bits;
	}
	if (found < clusters || clusters == 0)
		return 0;
	sim_bytes_zero(b, end - (clusters << i->cluster_bits), clusters << i->cluster_bits);
	if (end > b->length)
		sim_bytes_set_length(b, end);
	return end - (clusters << i->cluster_bits);
}

static void forget(struct sim_bytes *b, uint64_t table, uint64_t entries, struct sim_random *random)
{
	for (uint64_t k = 0; k < entries; k++)
		if (sim_random_percent(random, 50))
			sim_bytes_put_be64(b, table + k * 8,
					   sim_bytes_be64(b, table + k * 8) & ~SIM_COPIED);
}

void sim_edit_forget_copied(struct sim_bytes *b, struct sim_random *random)
{
	struct sim_qcow2 i;
	const char *why;

	if (!sim_qcow2_parse(b, &i, &why))
		sim_fail("sim", "cannot edit: %s", why);
	for (uint64_t n = 0; n < i.l1_entries; n++) {
		uint64_t table = sim_bytes_be64(b, i.l1_offset + n * 8) & SIM_OFFSET_MASK;

		if (table != 0)
			forget(b, table, i.cluster_bytes / 8, random);
	}
	forget(b, i.l1_offset, i.l1_entries, random);
}
