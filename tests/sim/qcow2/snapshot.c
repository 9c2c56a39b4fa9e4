/* SPDX-License-Identifier: MIT */
#include "qcow2/edit.h"
#include "trace.h"

#define RECORD_BYTES 64u

static void share_table(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t table)
{
	for (uint64_t k = 0; k < i->cluster_bytes / 8; k++) {
		uint64_t entry = sim_bytes_be64(b, table + k * 8);
		uint64_t offset = entry & SIM_OFFSET_MASK;
		uint64_t bytes = i->cluster_bytes;

		if (entry & SIM_COMPRESSED)
			offset = sim_qcow2_packed(i, entry, &bytes);
		if (offset == 0)
			continue;
		sim_edit_add_names(b, i, offset, bytes, 1);
		sim_bytes_put_be64(b, table + k * 8, entry & ~SIM_COPIED);
	}
}

static void write_record(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t at, uint64_t l1)
{
	const uint8_t name[2] = {(uint8_t)('1' + i->snapshot_count), 's'};

	sim_bytes_put_be64(b, at, l1);
	sim_bytes_put_be32(b, at + 8, i->l1_entries);
	sim_bytes_put_be16(b, at + 12, 1); /* id */
	sim_bytes_put_be16(b, at + 14, 1); /* name */
	sim_bytes_put_be32(b, at + 36, 16);
	sim_bytes_put_be64(b, at + 48, i->size_bytes);
	sim_bytes_write(b, at + 56, name, sizeof(name));
}

/* The records so far, with the new one behind them, in a table of their own. */
static void move_records(struct sim_bytes *b, const struct sim_qcow2 *i, uint64_t to, uint64_t l1)
{
	uint8_t record[RECORD_BYTES];

	for (uint64_t k = 0; k < i->snapshot_count; k++) {
		sim_bytes_read(b, i->snapshots_offset + k * RECORD_BYTES, record, RECORD_BYTES);
		sim_bytes_write(b, to + k * RECORD_BYTES, record, RECORD_BYTES);
	}
	write_record(b, i, to + i->snapshot_count * (uint64_t)RECORD_BYTES, l1);
	if (i->snapshot_count > 0)
		sim_edit_add_names(b, i, i->snapshots_offset, i->cluster_bytes, -1);
	sim_bytes_put_be32(b, 60, i->snapshot_count + 1);
	sim_bytes_put_be64(b, 64, to);
}

bool sim_snapshot_take(struct sim_bytes *b, bool fixed)
{
	struct sim_qcow2 i;
	const char *why;
	uint64_t l1_clusters;
	uint64_t l1;

	if (!sim_qcow2_parse(b, &i, &why) || i.refcount_order == 0)
		return false;
	l1_clusters = ((uint64_t)i.l1_entries * 8 + i.cluster_bytes - 1) >> i.cluster_bits;
	l1 = sim_edit_find_free(b, &i, l1_clusters + 1, fixed);
	if (l1 == 0)
		return false;
	sim_edit_add_names(b, &i, l1, (l1_clusters + 1) << i.cluster_bits, 1);
	for (uint64_t n = 0; n < i.l1_entries; n++) {
		uint64_t entry = sim_bytes_be64(b, i.l1_offset + n * 8) & ~SIM_COPIED;

		if (entry) {
			sim_edit_add_names(b, &i, entry & SIM_OFFSET_MASK, i.cluster_bytes, 1);
			share_table(b, &i, entry & SIM_OFFSET_MASK);
		}
		sim_bytes_put_be64(b, i.l1_offset + n * 8, entry);
		sim_bytes_put_be64(b, l1 + n * 8, entry);
	}
	move_records(b, &i, l1 + (l1_clusters << i.cluster_bits), l1);
	return true;
}
