/* SPDX-License-Identifier: MIT */
/* L1, L2 and refcount table entries, and refcounts of every width. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/arith.h"
#include "fmt/qcow2.h"

#define RAW_COPIED (UINT64_C(1) << 63)
#define RAW_COMPRESSED (UINT64_C(1) << 62)

static const struct ox_qcow2_header v3 = {.version = 3, .cluster_bits = 16};
static const struct ox_qcow2_header v2 = {.version = 2, .cluster_bits = 16};
static const struct ox_qcow2_header data_file = {
	.version = 3,
	.cluster_bits = 16,
	.incompatible = OX_QCOW2_INCOMPAT_DATA_FILE,
};

static void assert_l2(const struct ox_qcow2_header *h, uint64_t raw, enum ox_qcow2_entry_kind kind,
		      bool copied, uint64_t host)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(h, raw);

	assert_int_equal(e.kind, kind);
	if (kind == OX_QCOW2_ENTRY_BAD)
		return;
	assert_int_equal(e.copied, copied);
	assert_int_equal(e.host.bytes, host);
	assert_int_equal(ox_qcow2_l2_encode(h, &e), raw);
}

static void standard_l2_entries_keep_their_meaning(void **state)
{
	(void)state;
	assert_l2(&v3, 0, OX_QCOW2_ENTRY_UNALLOCATED, false, 0);
	assert_l2(&v3, 0x50000, OX_QCOW2_ENTRY_DATA, false, 0x50000);
	assert_l2(&v3, RAW_COPIED | 0x50000, OX_QCOW2_ENTRY_DATA, true, 0x50000);
	assert_l2(&v3, 1, OX_QCOW2_ENTRY_ZERO, false, 0);
	assert_l2(&v3, RAW_COPIED | 0x50001, OX_QCOW2_ENTRY_ZERO_ALLOC, true, 0x50000);
	assert_l2(&v3, 0x00ffffffffff0000, OX_QCOW2_ENTRY_DATA, false, 0x00ffffffffff0000);
}

static void l2_entries_with_reserved_bits_are_bad(void **state)
{
	(void)state;
	for (unsigned bit = 1; bit < 62; bit++) {
		if (bit >= 16 && bit < 56)
			continue;
		assert_l2(&v3, 0x50000 | UINT64_C(1) << bit, OX_QCOW2_ENTRY_BAD, false, 0);
	}
}

static void a_zero_bit_in_version_2_is_bad(void **state)
{
	(void)state;
	assert_l2(&v2, 1, OX_QCOW2_ENTRY_BAD, false, 0);
	assert_l2(&v2, RAW_COPIED | 0x50001, OX_QCOW2_ENTRY_BAD, false, 0);
	assert_l2(&v2, RAW_COPIED | 0x50000, OX_QCOW2_ENTRY_DATA, true, 0x50000);
}

static void offset_0_is_a_cluster_in_a_data_file_alone(void **state)
{
	(void)state;
	assert_l2(&v3, RAW_COPIED, OX_QCOW2_ENTRY_BAD, false, 0);
	assert_l2(&v3, RAW_COPIED | 1, OX_QCOW2_ENTRY_BAD, false, 0);
	assert_l2(&data_file, RAW_COPIED, OX_QCOW2_ENTRY_DATA, true, 0);
	assert_l2(&data_file, RAW_COPIED | 1, OX_QCOW2_ENTRY_ZERO_ALLOC, true, 0);
	assert_l2(&data_file, 1, OX_QCOW2_ENTRY_ZERO, false, 0);
}

/* In 64 KiB clusters the sector count begins at bit 54. */
static void compressed_entries_name_bytes_to_the_last_sectors_end(void **state)
{
	struct ox_qcow2_entry e;

	(void)state;
	e = ox_qcow2_l2_decode(&v3, RAW_COMPRESSED | UINT64_C(3) << 54 | 0x50123);
	assert_int_equal(e.kind, OX_QCOW2_ENTRY_COMPRESSED);
	assert_false(e.copied);
	assert_int_equal(e.host.bytes, 0x50123);
	assert_int_equal(e.compressed_bytes, 4 * 512 - 0x123);

	e = ox_qcow2_l2_decode(&v3, RAW_COMPRESSED | 0x50000);
	assert_int_equal(e.compressed_bytes, 512);
}

static void compressed_entries_survive_every_cluster_size(void **state)
{
	(void)state;
	for (unsigned bits = 9; bits <= 21; bits++) {
		struct ox_qcow2_header h = {.version = 3, .cluster_bits = bits};
		unsigned shift = 62 - (bits - 8);
		uint64_t top = UINT64_C(1) << (ox_min_u64(shift, 56) - 1);
		uint64_t sectors = (UINT64_C(1) << (bits - 8)) - 1;
		uint64_t raw = RAW_COMPRESSED | sectors << shift | top | 0x1ff;
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&h, raw);

		assert_int_equal(e.kind, OX_QCOW2_ENTRY_COMPRESSED);
		assert_int_equal(e.host.bytes, top | 0x1ff);
		assert_int_equal(e.compressed_bytes, (sectors + 1) * 512 - 0x1ff);
		assert_int_equal(ox_qcow2_l2_encode(&h, &e), raw);
	}
}

static void compressed_offsets_past_56_bits_are_bad(void **state)
{
	struct ox_qcow2_header small = {.version = 3, .cluster_bits = 9};

	(void)state;
	assert_l2(&small, RAW_COMPRESSED | UINT64_C(1) << 56, OX_QCOW2_ENTRY_BAD, false, 0);
}

static void l1_entries_keep_their_meaning(void **state)
{
	const uint64_t good[] = {0, 0x30000, RAW_COPIED | 0x30000, 0x00ffffffffff0000};

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(good); i++) {
		struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&v3, good[i]);

		assert_false(e.bad);
		assert_int_equal(e.copied, good[i] >> 63);
		assert_int_equal(e.l2.bytes, good[i] & ~RAW_COPIED);
		assert_int_equal(ox_qcow2_l1_encode(&e), good[i]);
	}
}

static void l1_entries_that_no_writer_makes_are_bad(void **state)
{
	(void)state;
	for (unsigned bit = 0; bit < 63; bit++) {
		bool valid = bit >= 16 && bit < 56;

		assert_int_equal(ox_qcow2_l1_decode(&v3, 0x30000 | UINT64_C(1) << bit).bad, !valid);
	}
	assert_true(ox_qcow2_l1_decode(&v3, RAW_COPIED).bad);
}

static void refcount_table_entries_are_cluster_aligned(void **state)
{
	struct ox_host block = {77};

	(void)state;
	assert_true(ox_qcow2_reftable_decode(&v3, 0xffffffffffff0000, &block));
	assert_int_equal(block.bytes, 0xffffffffffff0000);
	assert_true(ox_qcow2_reftable_decode(&v3, 0, &block));
	assert_int_equal(block.bytes, 0);
	block.bytes = 77;
	assert_false(ox_qcow2_reftable_decode(&v3, 0x10001, &block));
	assert_false(ox_qcow2_reftable_decode(&v3, 0x18000, &block));
	assert_int_equal(block.bytes, 77);
}

static void refcounts_of_each_width_stay_apart(void **state)
{
	(void)state;
	for (unsigned order = 0; order <= 6; order++) {
		uint8_t block[512];
		uint64_t entries = sizeof(block) * 8 >> order;
		uint64_t max = ox_qcow2_refcount_max(order);

		memset(block, 0xff, sizeof(block));
		for (uint64_t i = 0; i < entries; i++)
			ox_qcow2_refcount_set(block, order, i, i * 2654435761u & max);
		for (uint64_t i = 0; i < entries; i++)
			assert_int_equal(ox_qcow2_refcount_get(block, order, i),
					 i * 2654435761u & max);
		ox_qcow2_refcount_set(block, order, entries - 1, max);
		assert_int_equal(ox_qcow2_refcount_get(block, order, entries - 1), max);
	}
}

static void refcounts_lie_as_the_specification_says(void **state)
{
	uint8_t block[8] = {0};

	(void)state;
	ox_qcow2_refcount_set(block, 0, 3, 1);
	assert_int_equal(block[0], 0x08);
	ox_qcow2_refcount_set(block, 1, 3, 2);
	assert_int_equal(block[0], 0x88);
	ox_qcow2_refcount_set(block, 2, 2, 5);
	assert_int_equal(block[1], 0x05);
	ox_qcow2_refcount_set(block, 4, 1, 0x1234);
	assert_int_equal(block[2], 0x12);
	assert_int_equal(block[3], 0x34);
	ox_qcow2_refcount_set(block, 5, 1, 0x01020304);
	assert_int_equal(block[4], 1);
	assert_int_equal(block[7], 4);
}

static void the_largest_refcount_fills_its_bits(void **state)
{
	(void)state;
	assert_int_equal(ox_qcow2_refcount_max(0), 1);
	assert_int_equal(ox_qcow2_refcount_max(4), 0xffff);
	assert_int_equal(ox_qcow2_refcount_max(6), UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(standard_l2_entries_keep_their_meaning),
		cmocka_unit_test(l2_entries_with_reserved_bits_are_bad),
		cmocka_unit_test(a_zero_bit_in_version_2_is_bad),
		cmocka_unit_test(offset_0_is_a_cluster_in_a_data_file_alone),
		cmocka_unit_test(compressed_entries_name_bytes_to_the_last_sectors_end),
		cmocka_unit_test(compressed_entries_survive_every_cluster_size),
		cmocka_unit_test(compressed_offsets_past_56_bits_are_bad),
		cmocka_unit_test(l1_entries_keep_their_meaning),
		cmocka_unit_test(l1_entries_that_no_writer_makes_are_bad),
		cmocka_unit_test(refcount_table_entries_are_cluster_aligned),
		cmocka_unit_test(refcounts_of_each_width_stay_apart),
		cmocka_unit_test(refcounts_lie_as_the_specification_says),
		cmocka_unit_test(the_largest_refcount_fills_its_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
