/* SPDX-License-Identifier: MIT */
#include "qed/reader.h"

#include <stdio.h>
#include <string.h>

#include "image.h"
#include "planted.h"

#define CLUSTER_BYTES_MIN 4096u
#define CLUSTER_BYTES_MAX (UINT32_C(64) << 20)
#define TABLE_CLUSTERS_MAX 16u

static bool is_pow2(uint64_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

bool sim_qed_parse(const struct sim_bytes *bytes, struct sim_qed *ret, const char **ret_why)
{
	struct sim_qed i = {.bytes = bytes};
	uint32_t table_clusters = sim_bytes_le32(bytes, 8);
	uint32_t header_clusters = sim_bytes_le32(bytes, 12);

	i.cluster_bytes = sim_bytes_le32(bytes, 4);
	i.features = sim_bytes_le64(bytes, SIM_QED_AT_FEATURES);
	i.compatible = sim_bytes_le64(bytes, SIM_QED_AT_COMPATIBLE);
	i.autoclear = sim_bytes_le64(bytes, SIM_QED_AT_AUTOCLEAR);
	i.l1_offset = sim_bytes_le64(bytes, SIM_QED_AT_L1);
	i.size_bytes = sim_bytes_le64(bytes, SIM_QED_AT_SIZE);
	*ret_why = "impossible fields";
	if (!is_pow2(i.cluster_bytes) || i.cluster_bytes < CLUSTER_BYTES_MIN ||
	    i.cluster_bytes > CLUSTER_BYTES_MAX || !is_pow2(table_clusters) ||
	    table_clusters > TABLE_CLUSTERS_MAX || header_clusters == 0 || header_clusters > 16)
		return false;
	i.header_bytes = header_clusters * i.cluster_bytes;
	i.table_bytes = table_clusters * i.cluster_bytes;
	i.table_entries = i.table_bytes / 8;
	*ret_why = "unknown features";
	if (i.features & ~(SIM_QED_BACKING | SIM_QED_NEED_CHECK | SIM_QED_BACKING_RAW))
		return false;
	*ret_why = "no L1 table in the file";
	if (i.l1_offset % i.cluster_bytes != 0 || i.l1_offset < i.header_bytes ||
	    i.l1_offset > bytes->length || bytes->length - i.l1_offset < i.table_bytes)
		return false;
	*ret_why = "an impossible size";
	if (i.size_bytes % SIM_SECTOR_BYTES != 0 ||
	    i.size_bytes / i.cluster_bytes > i.table_entries * i.table_entries)
		return false;
	*ret = i;
	return true;
}

uint64_t sim_qed_entry(const struct sim_qed *i, uint64_t at)
{
	uint64_t entry = sim_bytes_le64(i->bytes, at);

	if (i->features & SIM_QED_NEED_CHECK && sim_planted_find(&sim_stale, at, entry) >= 0)
		return 0;
	return entry;
}

bool sim_qed_is_place(const struct sim_qed *i, uint64_t offset, uint64_t bytes)
{
	if (offset % i->cluster_bytes != 0 || offset < i->header_bytes ||
	    offset > i->bytes->length || i->bytes->length - offset < bytes)
		return false;
	return offset + bytes <= i->l1_offset || offset >= i->l1_offset + i->table_bytes;
}

uint64_t sim_qed_entry_at(const struct sim_qed *i, uint64_t guest)
{
	uint64_t cluster = guest / i->cluster_bytes;
	uint64_t table;

	if (cluster / i->table_entries >= i->table_entries)
		return 0;
	table = sim_qed_entry(i, i->l1_offset + cluster / i->table_entries * 8);
	if (!sim_qed_is_place(i, table, i->table_bytes))
		return 0;
	return table + cluster % i->table_entries * 8;
}

void sim_qed_read(const struct sim_qed *i, const struct sim_backing *backing, uint64_t guest,
		  uint8_t *ret)
{
	uint64_t at = sim_qed_entry_at(i, guest);
	uint64_t entry = at == 0 ? 0 : sim_qed_entry(i, at);

	memset(ret, 0, SIM_SECTOR_BYTES);
	if (entry == 0 && backing->there && guest < backing->bytes.length)
		sim_bytes_read(&backing->bytes, guest, ret, SIM_SECTOR_BYTES);
	else if (sim_qed_is_place(i, entry, i->cluster_bytes))
		sim_bytes_read(i->bytes, entry + guest % i->cluster_bytes, ret, SIM_SECTOR_BYTES);
}

/* ---- names ---- */

static bool within(uint64_t offset, uint64_t start, uint64_t bytes)
{
	return offset >= start && offset < start + bytes;
}

static bool name_in_table(const struct sim_qed *i, uint64_t number, uint64_t offset, char *ret,
			  size_t room)
{
	uint64_t table = sim_qed_entry(i, i->l1_offset + number * 8);

	if (!sim_qed_is_place(i, table, i->table_bytes))
		return false;
	if (within(offset, table, i->table_bytes)) {
		snprintf(ret, room, "[L2 table %u, entry %u on]", (unsigned)number,
			 (unsigned)((offset - table) / 8));
		return true;
	}
	for (uint64_t k = 0; k < i->table_entries; k++) {
		uint64_t entry = sim_qed_entry(i, table + k * 8);

		if (entry > SIM_QED_ZERO && within(offset, entry, i->cluster_bytes)) {
			snprintf(ret, room, "[data of guest 0x%llx]",
				 (unsigned long long)((number * i->table_entries + k) *
						      i->cluster_bytes));
			return true;
		}
	}
	return false;
}

void sim_qed_name(const struct sim_qed *i, uint64_t offset, char *ret, size_t room)
{
	if (offset < i->header_bytes) {
		snprintf(ret, room, "[header]");
		return;
	}
	if (within(offset, i->l1_offset, i->table_bytes)) {
		snprintf(ret, room, "[L1 table, entry %u on]",
			 (unsigned)((offset - i->l1_offset) / 8));
		return;
	}
	for (uint64_t n = 0; n < i->table_entries; n++)
		if (name_in_table(i, n, offset, ret, room))
			return;
	snprintf(ret, room, "[cluster %llu, that nothing names]",
		 (unsigned long long)(offset / i->cluster_bytes));
}
