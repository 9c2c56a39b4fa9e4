/* SPDX-License-Identifier: MIT */
#include "lost_tables.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"

#define SPARE_CLUSTERS 16u
#define ROOM_BYTES (UINT64_C(1) << 20)

/* ---- words ---- */

uint8_t *disk_cluster(const struct disk *d, uint64_t cluster)
{
	assert_true((cluster + 1) * d->cluster_bytes <= d->room_bytes);
	return d->bytes + cluster * d->cluster_bytes;
}

static uint64_t word_at(const uint8_t *bytes)
{
	struct ox_be64 raw;

	memcpy(&raw, bytes, 8);
	return ox_be64_get(raw);
}

uint64_t disk_word(const struct disk *d, uint64_t cluster, uint64_t index)
{
	return word_at(disk_cluster(d, cluster) + index * 8);
}

void disk_set_word(struct disk *d, uint64_t cluster, uint64_t index, uint64_t value)
{
	struct ox_be64 raw = ox_be64(value);

	memcpy(disk_cluster(d, cluster) + index * 8, &raw, 8);
}

uint64_t disk_refcount(const struct disk *d, uint64_t cluster)
{
	return ox_qcow2_refcount_get(disk_cluster(d, REFBLOCK), d->h.refcount_order, cluster);
}

void disk_set_refcount(struct disk *d, uint64_t cluster, uint64_t value)
{
	ox_qcow2_refcount_set(disk_cluster(d, REFBLOCK), d->h.refcount_order, cluster, value);
}

uint64_t disk_l1(const struct disk *d, unsigned tree, uint64_t index)
{
	return disk_word(d, tree ? SNAPSHOT_L1 : L1, index);
}

void disk_put_header(struct disk *d)
{
	ox_qcow2_header_encode(&d->h, d->bytes);
}

/* ---- building ---- */

static void take(struct disk *d, uint64_t cluster, uint64_t count)
{
	disk_set_refcount(d, cluster, count);
	d->length = ox_max_u64(d->length, (cluster + 1) * d->cluster_bytes);
}

/* A table at a cluster and its data behind it; returns the cluster after them. */
static uint64_t put_table(struct disk *d, uint64_t cluster, unsigned index, uint64_t l1)
{
	disk_set_word(d, l1, index, COPIED | cluster * d->cluster_bytes);
	take(d, cluster, 1);
	for (unsigned i = 0; i < PER_TABLE; i++) {
		uint64_t data = cluster + 1 + i;

		disk_set_word(d, cluster, i, COPIED | data * d->cluster_bytes);
		memset(disk_cluster(d, data), (int)(1 + index * PER_TABLE + i), d->cluster_bytes);
		take(d, data, 1);
	}
	/* Beside the data, what reads as zeroes. */
	if (d->h.version >= 3)
		disk_set_word(d, cluster, PER_TABLE + 1, OX_QCOW2_ZERO);
	return cluster + 1 + PER_TABLE;
}

/* The snapshot keeps the table that there was; the disk has a copy, and one cluster of its own. */
static uint64_t diverge(struct disk *d, uint64_t next, unsigned index)
{
	uint64_t old = d->tables[0][index];
	uint64_t table = next++;
	uint64_t data = next++;

	for (unsigned i = 0; i < PER_TABLE; i++) {
		uint64_t host = disk_word(d, old, i) & OX_QCOW2_OFFSET_MASK;

		disk_set_word(d, old, i, host);
		take(d, host / d->cluster_bytes, i == 3 ? 1 : 2);
	}
	memcpy(disk_cluster(d, table), disk_cluster(d, old), d->cluster_bytes);
	disk_set_word(d, table, 3, COPIED | data * d->cluster_bytes);
	memset(disk_cluster(d, data), 0xd0 + (int)index, d->cluster_bytes);
	take(d, table, 1);
	take(d, data, 1);
	disk_set_word(d, SNAPSHOT_L1, index, old * d->cluster_bytes);
	disk_set_word(d, L1, index, COPIED | table * d->cluster_bytes);
	d->tables[1][index] = old;
	d->tables[0][index] = table;
	return next;
}

static uint64_t put_snapshot(struct disk *d, uint64_t next)
{
	uint8_t *record = disk_cluster(d, SNAPSHOT_TABLE);

	disk_set_word(d, SNAPSHOT_TABLE, 0, SNAPSHOT_L1 * d->cluster_bytes);
	record[11] = TABLES;
	record[13] = 1;	 /* id */
	record[15] = 1;	 /* name */
	record[39] = 16; /* extra */
	disk_set_word(d, SNAPSHOT_TABLE, 6, d->h.size_bytes);
	memcpy(record + 40 + 16, "1s", 2);
	d->h.snapshot_count = 1;
	d->h.snapshots_offset = SNAPSHOT_TABLE * d->cluster_bytes;
	take(d, SNAPSHOT_TABLE, 1);
	take(d, SNAPSHOT_L1, 1);
	for (unsigned t = 0; t < TABLES; t++)
		next = diverge(d, next, t);
	return next;
}

struct disk *disk_new(const struct shape *shape)
{
	struct disk *d = calloc(1, sizeof(*d));
	uint64_t next = FIRST_TABLE;

	assert_non_null(d);
	d->cluster_bytes = UINT64_C(1) << shape->cluster_bits;
	d->room_bytes = 128 * d->cluster_bytes + ROOM_BYTES;
	d->bytes = calloc(1, d->room_bytes);
	assert_non_null(d->bytes);
	d->h = (struct ox_qcow2_header){
		.version = shape->version,
		.cluster_bits = shape->cluster_bits,
		.l1_entries = TABLES,
		.l1_offset = L1 * d->cluster_bytes,
		.reftable_offset = REFTABLE * d->cluster_bytes,
		.reftable_clusters = 1,
		.refcount_order = shape->version == 2 ? 4 : shape->refcount_order,
		.header_length = shape->version == 2 ? 72 : 112,
	};
	d->h.size_bytes = TABLES * ox_qcow2_l2_entries(&d->h) * d->cluster_bytes;
	for (uint64_t c = HEADER; c <= L1; c++)
		take(d, c, 1);
	disk_set_word(d, REFTABLE, 0, REFBLOCK * d->cluster_bytes);
	for (unsigned t = 0; t < TABLES; t++) {
		d->tables[0][t] = next;
		next = put_table(d, next, t, L1);
	}
	if (shape->snapshot)
		next = put_snapshot(d, next);
	d->spare = next;
	d->length = (next + SPARE_CLUSTERS) * d->cluster_bytes;
	disk_put_header(d);
	return d;
}

void disk_free(struct disk *d)
{
	if (!d)
		return;
	free(d->bytes);
	free(d);
}

/* ---- what the guest reads ---- */

static uint64_t sum(const uint8_t *bytes, uint64_t count)
{
	uint64_t s = 1469598103934665603u;

	for (uint64_t i = 0; bytes && i < count; i += 8)
		s = (s ^ word_at(bytes + i)) * 1099511628211u;
	return s;
}

static bool is_sound(const struct disk *d, uint64_t raw, uint64_t length)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	return !(raw & ~(COPIED | OX_QCOW2_OFFSET_MASK)) && offset % d->cluster_bytes == 0 &&
	       offset + d->cluster_bytes <= length && (raw != COPIED);
}

static uint64_t sum_of(const struct disk *d, const uint8_t *bytes, uint64_t length, uint64_t l1,
		       uint64_t entry)
{
	uint64_t raw = word_at(bytes + l1);
	uint64_t table = raw & OX_QCOW2_OFFSET_MASK;

	if (!is_sound(d, raw, length))
		return 0;
	raw = table ? word_at(bytes + table + entry * 8) : 0;
	if (raw == OX_QCOW2_ZERO)
		raw = 0;
	if (!is_sound(d, raw, length))
		return 0;
	return sum(raw ? bytes + (raw & OX_QCOW2_OFFSET_MASK) : NULL, d->cluster_bytes);
}

struct guest guest_of(const struct disk *d, const uint8_t *bytes, uint64_t length)
{
	struct guest g = {0};

	for (unsigned tree = 0; tree < (d->h.snapshot_count ? 2u : 1u); tree++) {
		uint64_t l1 = (tree ? SNAPSHOT_L1 : L1) * d->cluster_bytes;

		for (unsigned i = 0; i < TABLES * PER_TABLE; i++)
			g.sums[tree][i] =
				sum_of(d, bytes, length, l1 + i / PER_TABLE * 8, i % PER_TABLE);
	}
	return g;
}
