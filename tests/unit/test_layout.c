/* SPDX-License-Identifier: MIT */
/*
 * What an image's file is used for, stretch by stretch, on images of 512-byte clusters that are
 * built here.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check/check.h"
#include "fmt/qcow2.h"
#include "io/io.h"
#include "rt/reactor.h"

#define CLUSTER UINT64_C(512)
#define MAX_IMAGE (64 * CLUSTER)
#define COPIED OX_QCOW2_COPIED

/* Clusters of the layout; what follows END is for a test to use. */
enum { HEADER, REFTABLE, REFBLOCK, L1, L2, DATA, END = DATA + 4 };

struct image {
	uint8_t bytes[MAX_IMAGE];
	uint64_t length;
	struct ox_qcow2_header h;
};

static struct ox_reactor *reactor;

/* ---- building ---- */

static void set_word(struct image *im, uint64_t cluster, uint64_t index, uint64_t value)
{
	struct ox_be64 raw = ox_be64(value);

	memcpy(im->bytes + cluster * CLUSTER + index * 8, &raw, 8);
}

static void set_refcount(struct image *im, uint64_t cluster, uint64_t value)
{
	ox_qcow2_refcount_set(im->bytes + REFBLOCK * CLUSTER, im->h.refcount_order, cluster, value);
}

/* Guest clusters 0 to 3 hold data, in the order of the host. */
static struct image *new_image(void)
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
		.refcount_order = 4,
		.header_length = 112,
	};
	ox_qcow2_header_encode(&im->h, im->bytes);
	set_word(im, REFTABLE, 0, REFBLOCK * CLUSTER);
	set_word(im, L1, 0, COPIED | L2 * CLUSTER);
	for (uint64_t i = 0; i < END - DATA; i++)
		set_word(im, L2, i, COPIED | (DATA + i) * CLUSTER);
	for (uint64_t c = 0; c < END; c++)
		set_refcount(im, c, 1);
	im->length = END * CLUSTER;
	return im;
}

static void add_snapshot(struct image *im)
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
	ox_qcow2_header_encode(&im->h, im->bytes);
	im->length = NEW_END * CLUSTER;
}

static void make_dirty(struct image *im)
{
	im->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	ox_qcow2_header_encode(&im->h, im->bytes);
}

/* ---- looking ---- */

struct look {
	struct ox_io *io;
	struct ox_layout_options opts;
	struct ox_image_layout *layout;
	int error;
};

static void look_co(void *arg)
{
	struct look *look = arg;

	look->error = ox_check_layout_co(look->io, &look->opts, &look->layout, NULL);
}

/* NULL where the image cannot be looked at. Whatever it holds, the bins add up to the file. */
static struct ox_image_layout *look_at(const struct image *im, size_t bins, size_t guest_bins)
{
	struct look look = {.opts = {.bins = bins, .guest_bins = guest_bins}};
	uint64_t left = im->length;

	assert_int_equal(ox_io_memory_open(reactor, im->length, &look.io), 0);
	memcpy(ox_io_memory_bytes(look.io), im->bytes, im->length);
	assert_int_equal(ox_reactor_call(reactor, look_co, &look), 0);
	assert_memory_equal(ox_io_memory_bytes(look.io), im->bytes, im->length);
	ox_io_close(look.io);
	if (look.error < 0)
		return NULL;
	assert_int_equal(look.layout->file_bytes, im->length);
	assert_true(look.layout->bin_count <= bins);
	assert_true(look.layout->guest_bin_count <= guest_bins);
	for (size_t i = 0; i < look.layout->bin_count; i++) {
		uint64_t size = left < look.layout->bin_bytes ? left : look.layout->bin_bytes;
		uint64_t sum = 0;

		for (unsigned k = 0; k < OX_LAYOUT_KINDS; k++)
			sum += look.layout->bins[i].bytes[k];
		assert_int_equal(sum, size);
		left -= size;
	}
	assert_int_equal(left, 0);
	return look.layout;
}

static void assert_kind(const struct ox_image_layout *layout, size_t bin, enum ox_layout_kind kind)
{
	assert_int_equal(layout->bins[bin].bytes[kind], CLUSTER);
}

/* ---- the file ---- */

static void test_each_structure_is_told_in_its_place(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	im->length += 100;
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_int_equal(layout->bin_bytes, CLUSTER);
	assert_kind(layout, HEADER, OX_LAYOUT_HEADER);
	assert_kind(layout, REFTABLE, OX_LAYOUT_REFCOUNT);
	assert_kind(layout, REFBLOCK, OX_LAYOUT_REFCOUNT);
	assert_kind(layout, L1, OX_LAYOUT_L1);
	assert_kind(layout, L2, OX_LAYOUT_L2);
	for (size_t i = DATA; i < END; i++)
		assert_kind(layout, i, OX_LAYOUT_DATA);
	assert_int_equal(layout->bins[END].bytes[OX_LAYOUT_FREE], 100);
	assert_int_equal(layout->bytes[OX_LAYOUT_DATA], 4 * CLUSTER);
	assert_int_equal(layout->corruptions + layout->leaks + layout->check_errors, 0);
	ox_check_layout_free(layout);
	free(im);
}

static void test_what_snapshots_hold_is_told_apart(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	add_snapshot(im);
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_kind(layout, END, OX_LAYOUT_SNAPSHOT_TABLE);
	assert_kind(layout, END + 1, OX_LAYOUT_SNAPSHOT_TABLE);
	assert_int_equal(layout->bytes[OX_LAYOUT_SNAPSHOT_DATA], 4 * CLUSTER);
	assert_int_equal(layout->bytes[OX_LAYOUT_DATA], 0);
	assert_int_equal(layout->data_bytes, 4 * CLUSTER);
	ox_check_layout_free(layout);
	free(im);
}

static void test_a_leak_is_not_outvoted(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	set_refcount(im, END, 1);
	im->length += CLUSTER;
	layout = look_at(im, 1, 1);
	assert_non_null(layout);
	assert_int_equal(layout->bin_count, 1);
	assert_int_equal(layout->bins[0].bytes[OX_LAYOUT_LEAKED], CLUSTER);
	assert_int_equal(layout->leaks, 1);
	assert_int_equal(layout->corruptions, 0);
	ox_check_layout_free(layout);
	free(im);
}

static void test_a_cluster_of_two_owners_is_damaged(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	set_word(im, L2, 1, COPIED | L1 * CLUSTER);
	set_word(im, L2, 2, COPIED | (DATA + 3) * CLUSTER);
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_kind(layout, L1, OX_LAYOUT_DAMAGED);
	assert_kind(layout, DATA + 3, OX_LAYOUT_DAMAGED);
	assert_kind(layout, DATA + 1, OX_LAYOUT_LEAKED);
	assert_true(layout->corruptions >= 2);
	ox_check_layout_free(layout);
	free(im);
}

static void test_a_count_that_is_too_low_is_damage_but_in_a_dirty_image(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	set_refcount(im, DATA, 0);
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_kind(layout, DATA, OX_LAYOUT_DAMAGED);
	assert_int_equal(layout->bins[DATA].findings, 1);
	assert_false(layout->dirty);
	ox_check_layout_free(layout);

	make_dirty(im);
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_kind(layout, DATA, OX_LAYOUT_DATA);
	assert_true(layout->dirty);
	assert_int_equal(layout->uncounted, 1);
	assert_int_equal(layout->corruptions, 0);
	ox_check_layout_free(layout);
	free(im);
}

static void test_a_table_with_a_bad_entry_is_marked(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	set_word(im, L2, 1, COPIED | ((DATA + 1) * CLUSTER + 2));
	layout = look_at(im, 100, 128);
	assert_non_null(layout);
	assert_int_equal(layout->bins[L2].findings, 1);
	assert_int_equal(layout->guest_bins[1].bad_entries, 1);
	assert_int_equal(layout->guest_bins[0].bad_entries, 0);
	ox_check_layout_free(layout);

	set_word(im, L1, 1, COPIED | (L2 * CLUSTER + 8));
	layout = look_at(im, 100, 100);
	assert_non_null(layout);
	assert_true(layout->bins[L1].findings > 0);
	ox_check_layout_free(layout);
	free(im);
}

/* ---- the guest's order ---- */

static void test_pieces_are_counted_in_the_guests_order(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout = look_at(im, 100, 128);

	(void)state;
	assert_non_null(layout);
	assert_int_equal(layout->guest_bin_bytes, CLUSTER);
	assert_int_equal(layout->pieces, 1);
	assert_int_equal(layout->guest_bins[2].host_offset, (DATA + 2) * CLUSTER);
	assert_int_equal(layout->guest_bins[4].host_offset, UINT64_MAX);
	ox_check_layout_free(layout);

	for (uint64_t i = 0; i < END - DATA; i++)
		set_word(im, L2, i, COPIED | (END - 1 - i) * CLUSTER);
	layout = look_at(im, 100, 2);
	assert_non_null(layout);
	assert_int_equal(layout->pieces, 4);
	assert_int_equal(layout->data_bytes, 4 * CLUSTER);
	assert_int_equal(layout->guest_bins[0].host_offset, (END - 1) * CLUSTER);
	assert_int_equal(layout->guest_bins[1].data_bytes, 0);
	ox_check_layout_free(layout);
	free(im);
}

static void test_zero_and_compressed_clusters_are_told(void **state)
{
	struct image *im = new_image();
	struct ox_image_layout *layout;

	(void)state;
	set_word(im, L2, 0, OX_QCOW2_ZERO);
	set_word(im, L2, 1, OX_QCOW2_COMPRESSED | DATA * CLUSTER);
	layout = look_at(im, 100, 128);
	assert_non_null(layout);
	assert_int_equal(layout->guest_bins[0].zero_bytes, CLUSTER);
	assert_int_equal(layout->guest_bins[1].compressed_bytes, CLUSTER);
	assert_int_equal(layout->guest_bins[1].host_offset, DATA * CLUSTER);
	assert_kind(layout, DATA, OX_LAYOUT_COMPRESSED);
	ox_check_layout_free(layout);
	free(im);
}

/* ---- anything at all ---- */

static void test_any_bytes_are_survived_and_add_up(void **state)
{
	unsigned looked = 0;

	(void)state;
	for (unsigned seed = 0; seed < 3000; seed++) {
		struct image *im = new_image();
		struct ox_image_layout *layout;

		srandom(seed);
		if (seed % 2)
			add_snapshot(im);
		if (seed % 3 == 0)
			make_dirty(im);
		for (long n = random() % 12; n >= 0; n--)
			im->bytes[(uint64_t)random() % im->length] = (uint8_t)random();
		im->length -= (uint64_t)random() % (3 * CLUSTER);
		layout = look_at(im, 1 + seed % 7, 1 + seed % 11);
		looked += layout != NULL;
		ox_check_layout_free(layout);
		free(im);
	}
	assert_true(looked > 1000);
}

static int set_up(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int tear_down(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_structure_is_told_in_its_place),
		cmocka_unit_test(test_what_snapshots_hold_is_told_apart),
		cmocka_unit_test(test_a_leak_is_not_outvoted),
		cmocka_unit_test(test_a_cluster_of_two_owners_is_damaged),
		cmocka_unit_test(test_a_count_that_is_too_low_is_damage_but_in_a_dirty_image),
		cmocka_unit_test(test_a_table_with_a_bad_entry_is_marked),
		cmocka_unit_test(test_pieces_are_counted_in_the_guests_order),
		cmocka_unit_test(test_zero_and_compressed_clusters_are_told),
		cmocka_unit_test(test_any_bytes_are_survived_and_add_up),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
