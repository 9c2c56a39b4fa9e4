/* SPDX-License-Identifier: MIT */
/*
 * Images with several L2 tables, of any cluster size, built from the specification, and what their
 * guest reads: to lose tables in.
 */
#ifndef OX_TESTS_LOST_TABLES_H
#define OX_TESTS_LOST_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include "fmt/qcow2.h"

#define TABLES 4u
#define PER_TABLE 12u /* guest clusters with data, the first of each table's range */
#define COPIED OX_QCOW2_COPIED

struct shape {
	unsigned cluster_bits;
	unsigned version;
	unsigned refcount_order;
	bool snapshot; /* taken, and then one cluster in each table written: tables are not shared
			*/
};

/* Where everything is, in clusters. */
enum { HEADER, REFTABLE, REFBLOCK, L1, SNAPSHOT_TABLE, SNAPSHOT_L1, FIRST_TABLE };

struct disk {
	struct ox_qcow2_header h;
	uint64_t cluster_bytes;
	uint8_t *bytes;
	uint64_t length;
	uint64_t room_bytes;
	uint64_t tables[2][TABLES]; /* clusters; tree 1 is the snapshot's */
	uint64_t spare;		    /* the first of a few clusters that nothing uses */
};

struct disk *disk_new(const struct shape *shape);
void disk_free(struct disk *d);
uint64_t disk_word(const struct disk *d, uint64_t cluster, uint64_t index);
void disk_set_word(struct disk *d, uint64_t cluster, uint64_t index, uint64_t value);
void disk_set_refcount(struct disk *d, uint64_t cluster, uint64_t value);
uint64_t disk_refcount(const struct disk *d, uint64_t cluster);
uint64_t disk_l1(const struct disk *d, unsigned tree, uint64_t index);
void disk_put_header(struct disk *d);
uint8_t *disk_cluster(const struct disk *d, uint64_t cluster);

/* A sum for each guest cluster of a tree that can be read; 0 where it cannot. */
struct guest {
	uint64_t sums[2][TABLES * PER_TABLE];
};

struct guest guest_of(const struct disk *d, const uint8_t *bytes, uint64_t length);

#endif
