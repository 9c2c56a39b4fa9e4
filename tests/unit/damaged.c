/* SPDX-License-Identifier: MIT */
#include "damaged.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"

/* ---- building ---- */

void set_word(struct image *im, uint64_t cluster, uint64_t index, uint64_t value)
{
	struct ox_be64 raw = ox_be64(value);

	memcpy(im->bytes + cluster * CLUSTER + index * 8, &raw, 8);
}

uint64_t word(const struct image *im, uint64_t cluster, uint64_t index)
{
	struct ox_be64 raw;

	memcpy(&raw, im->bytes + cluster * CLUSTER + index * 8, 8);
	return ox_be64_get(raw);
}

uint64_t refcount(const struct image *im, uint64_t cluster)
{
	return ox_qcow2_refcount_get(im->bytes + REFBLOCK * CLUSTER, im->h.refcount_order, cluster);
}

void set_refcount(struct image *im, uint64_t cluster, uint64_t value)
{
	uint64_t max = ox_qcow2_refcount_max(im->h.refcount_order);

	ox_qcow2_refcount_set(im->bytes + REFBLOCK * CLUSTER, im->h.refcount_order, cluster,
			      ox_min_u64(value, max));
}

void put_header(struct image *im)
{
	ox_qcow2_header_encode(&im->h, im->bytes);
}

void decode_header(struct image *im)
{
	assert_int_equal(ox_qcow2_header_decode(im->bytes, CLUSTER, &im->h, NULL), 0);
}

void set_length(struct image *im, uint64_t clusters)
{
	im->length = clusters * CLUSTER;
	assert_true(im->length <= MAX_IMAGE);
}

/* A sound image of 64 KiB: guest clusters 0 to 2 hold data. */
struct image *new_image(unsigned refcount_order)
{
	struct image *im = calloc(1, sizeof(*im));

	assert_non_null(im);
	im->h = (struct ox_qcow2_header){
		.version = 3,
		.cluster_bits = 9,
		.size_bytes = 65536,
		.l1_entries = 2,
		.l1_offset = L1 * CLUSTER,
		.reftable_offset = REFTABLE * CLUSTER,
		.reftable_clusters = 1,
		.refcount_order = refcount_order,
		.header_length = 112,
	};
	put_header(im);
	set_word(im, REFTABLE, 0, REFBLOCK * CLUSTER);
	set_word(im, L1, 0, COPIED | L2 * CLUSTER);
	for (uint64_t i = 0; i < END - DATA; i++)
		set_word(im, L2, i, COPIED | (DATA + i) * CLUSTER);
	for (uint64_t c = 0; c < END; c++)
		set_refcount(im, c, 1);
	set_length(im, END);
	return im;
}

void make_dirty(struct image *im)
{
	im->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	put_header(im);
}

bool is_dirty(struct image *im)
{
	decode_header(im);
	return im->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
}

/* Adds a snapshot that shares the L2 table with the active L1; its counts are right. */
void add_snapshot(struct image *im)
{
	enum { TABLE = END, SNAPSHOT_L1, NEW_END };
	uint8_t *record = im->bytes + TABLE * CLUSTER;

	set_word(im, TABLE, 0, SNAPSHOT_L1 * CLUSTER);
	record[11] = 2;	 /* L1 entries */
	record[13] = 1;	 /* id */
	record[15] = 1;	 /* name */
	record[39] = 16; /* extra */
	set_word(im, TABLE, 6, im->h.size_bytes);
	memcpy(record + 40 + 16, "1s", 2);
	set_word(im, SNAPSHOT_L1, 0, L2 * CLUSTER);
	set_word(im, L1, 0, L2 * CLUSTER);
	for (uint64_t i = 0; i < END - DATA; i++)
		set_word(im, L2, i, (DATA + i) * CLUSTER);
	for (uint64_t c = L2; c < END; c++)
		set_refcount(im, c, 2);
	set_refcount(im, TABLE, 1);
	set_refcount(im, SNAPSHOT_L1, 1);
	im->h.snapshot_count = 1;
	im->h.snapshots_offset = TABLE * CLUSTER;
	put_header(im);
	set_length(im, NEW_END);
}

/* ---- damaging ---- */

void damage_leak(struct image *im)
{
	set_refcount(im, END - 1, 2);
	set_word(im, L2, 2, (END - 1) * CLUSTER);
}

static void damage_too_low(struct image *im)
{
	set_refcount(im, L1, 0);
}

static void damage_copied_data(struct image *im)
{
	set_word(im, L2, 1, (DATA + 1) * CLUSTER);
}

static void damage_copied_l2(struct image *im)
{
	set_word(im, L1, 0, L2 * CLUSTER);
}

static void damage_l1_reserved(struct image *im)
{
	set_word(im, L1, 1, UINT64_C(1) << 60);
}

static void damage_l2_reserved(struct image *im)
{
	set_word(im, L2, 9, UINT64_C(1) << 60 | DATA * CLUSTER);
}

void damage_past_end(struct image *im)
{
	set_word(im, L2, 9, COPIED | 9000 * CLUSTER);
}

static void damage_entry_on_metadata(struct image *im)
{
	set_word(im, L2, 9, COPIED | L1 * CLUSTER);
}

static void damage_l2_on_metadata(struct image *im)
{
	set_word(im, L1, 1, COPIED | REFBLOCK * CLUSTER);
}

void damage_cross_link(struct image *im)
{
	set_word(im, L2, 9, COPIED | DATA * CLUSTER);
}

static void damage_cross_link_l2(struct image *im)
{
	set_word(im, L1, 1, COPIED | L2 * CLUSTER);
}

static void damage_block_overlap(struct image *im)
{
	set_word(im, REFTABLE, 1, REFBLOCK * CLUSTER);
}

static void damage_block_reserved(struct image *im)
{
	set_word(im, REFTABLE, 1, 1);
}

static void damage_block_past_end(struct image *im)
{
	set_word(im, REFTABLE, 1, 9000 * CLUSTER);
}

static void damage_table_offset(struct image *im)
{
	im->h.reftable_offset = 9000 * CLUSTER;
	put_header(im);
}

static void damage_compressed_copied(struct image *im)
{
	set_word(im, L2, 2, OX_QCOW2_COMPRESSED | COPIED | (END - 1) * CLUSTER);
}

static void damage_snapshot_past_end(struct image *im)
{
	im->h.snapshot_count = 1;
	im->h.snapshots_offset = 9000 * CLUSTER;
	put_header(im);
}

const struct damage derived[] = {
	{.finding = "leaked-cluster ", .make = damage_leak},
	{.finding = "refcount-too-low ", .make = damage_too_low},
	{.finding = "copied-wrong-data ", .make = damage_copied_data},
	{.finding = "copied-wrong-l2 ", .make = damage_copied_l2},
	{.finding = "refcount-block-overlap ", .make = damage_block_overlap},
	{.finding = "refcount-block-reserved-bits ", .make = damage_block_reserved},
	{.finding = "refcount-block-past-end ", .make = damage_block_past_end},
	{.finding = "copied-compressed ", .make = damage_compressed_copied},
	{.finding = "refcount-table ", .make = damage_table_offset},
};

const size_t derived_count = OX_ARRAY_SIZE(derived);

const struct damage structural[] = {
	{.finding = "l1-entry-reserved-bits ", .make = damage_l1_reserved},
	{.finding = "l2-entry-reserved-bits ", .make = damage_l2_reserved},
	{.finding = "past-end ", .make = damage_past_end},
	{.finding = "metadata-overlap ", .make = damage_entry_on_metadata},
	{.finding = "metadata-overlap ", .make = damage_l2_on_metadata, .stays = true},
	{.finding = "cross-link ", .make = damage_cross_link},
	{.finding = "cross-link-l2 ", .make = damage_cross_link_l2},
	{.finding = "table-past-end ", .make = damage_snapshot_past_end},
};

const size_t structural_count = OX_ARRAY_SIZE(structural);

/*
 * A crashed image with something for every step: a stale entry, into what the repair will add to
 * the file; a broken refcount block; counts too low and too high; a COPIED bit to set; and 64-bit
 * counts, so that its 4100 clusters need a larger table.
 */
struct image *crashed_image(void)
{
	struct image *im = new_image(6);

	set_length(im, 4100);
	set_word(im, L2, 9, COPIED | 4102 * CLUSTER);
	set_word(im, L2, 10, COPIED | 4099 * CLUSTER);
	set_word(im, L2, 11, 70 * CLUSTER);
	set_word(im, REFTABLE, 1, 40 * CLUSTER + 1);
	set_refcount(im, 30, 1);
	set_refcount(im, DATA, 0);
	make_dirty(im);
	return im;
}
