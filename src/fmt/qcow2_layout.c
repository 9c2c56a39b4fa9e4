/* SPDX-License-Identifier: MIT */
/* Where a new image has its tables. */
#include "base/arith.h"
#include "fmt/qcow2.h"

/* The refcounts count the clusters that hold them; grown until they cover themselves. */
struct ox_qcow2_layout ox_qcow2_layout_of(struct ox_qcow2_header *h)
{
	uint64_t cluster = ox_qcow2_cluster_bytes(h);
	struct ox_qcow2_layout l = {.reftable_clusters = 1, .refblocks = 1};
	uint64_t blocks, tables;

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
