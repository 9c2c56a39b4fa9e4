/* SPDX-License-Identifier: MIT */
/* Where a new image has its tables. */
#include "base/arith.h"
#include "fmt/qcow2.h"

uint64_t ox_qcow2_file_clusters(const struct ox_qcow2_header *h, uint64_t others)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);
	uint64_t l1 = ox_div_up(8 * ox_qcow2_l1_needed(h, h->size_bytes), cluster);
	uint64_t tables = 1;
	uint64_t blocks = 1;
	uint64_t clusters;

	/* The refcounts count the clusters that hold them: grown until they cover themselves. */
	for (;;) {
		uint64_t more_blocks;
		uint64_t more_tables;

		clusters = 1 + tables + blocks + l1 + others;
		more_blocks = ox_div_up(clusters, ox_qcow2_refblock_entries(h));
		more_tables = ox_div_up(more_blocks * 8, cluster);
		if (more_blocks <= blocks && more_tables <= tables)
			return clusters;
		blocks = ox_max_u64(blocks, more_blocks);
		tables = ox_max_u64(tables, more_tables);
	}
}

/* What a table of that many clusters has no place for would make it move to a longer one. */
static uint64_t table_for(const struct ox_qcow2_header *h, uint64_t clusters)
{
	uint64_t blocks = ox_div_up(clusters, ox_qcow2_refblock_entries(h));
	uint64_t most = OX_QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits;

	return ox_min_u64(ox_div_up(blocks * 8, ox_qcow2_cluster_bytes(h)), most);
}

struct ox_qcow2_layout ox_qcow2_layout_of(struct ox_qcow2_header *h, uint64_t expected_clusters)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);
	struct ox_qcow2_layout l = {.reftable_clusters = 1, .refblocks = 1};
	uint64_t blocks, tables;

	l.reftable_clusters = ox_max_u64(table_for(h, expected_clusters), 1);
	h->l1_entries = (uint32_t)ox_qcow2_l1_needed(h, h->size_bytes);
	l.l1_clusters = ox_div_up(UINT64_C(8) * h->l1_entries, cluster);
	for (;;) {
		l.clusters = 1 + l.reftable_clusters + l.refblocks + l.l1_clusters;
		blocks = ox_div_up(l.clusters, ox_qcow2_refblock_entries(h));
		tables = ox_div_up(blocks * 8, cluster);
		if (blocks <= l.refblocks && tables <= l.reftable_clusters)
			break;
		l.refblocks = ox_max_u64(blocks, l.refblocks);
		l.reftable_clusters = ox_max_u64(tables, l.reftable_clusters);
	}
	h->reftable_offset = cluster;
	h->reftable_clusters = (uint32_t)l.reftable_clusters;
	/* An empty disk has no L1 table, and then no place for one. */
	h->l1_offset = h->l1_entries ? (1 + l.reftable_clusters + l.refblocks) * cluster : 0;
	return l;
}
