/* SPDX-License-Identifier: MIT */
/* Discards and zeroes, in one range or in many, and the blocks of the disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>

#include "blk_disk.h"

static void zeroes_and_discards_are_handed_on_as_they_are_meant(void **state)
{
	(void)state;
	start();
	fill(0xaa, 4 * SECTOR);
	assert_int_equal(perform(OUT, 0, 4 * SECTOR, 0), OK);
	write_range(1, 2, 0);
	assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), OK);
	assert_int_equal(asked.op, OX_OP_WRITE_ZEROES);
	assert_int_equal(asked.flags, 0);
	disk_has(0, 0xaa);
	disk_has(1, 0);
	disk_has(2, 0);
	disk_has(3, 0xaa);
	write_range(3, 1, 1);
	assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), OK);
	assert_int_equal(asked.flags, OX_REQ_MAY_UNMAP);
	write_range(0, SECTORS, 0);
	assert_int_equal(perform(DISCARD, 0, 16, 0), OK);
	assert_int_equal(asked.op, OX_OP_DISCARD);
	assert_int_equal(asked.length, DISK_BYTES);
	assert_int_equal(used_bytes(), 1);
	write_range(SECTORS, 0, 0);
	assert_int_equal(perform(DISCARD, 0, 16, 0), OK);
}

static void ranges_that_cannot_be_have_a_status_that_says_so(void **state)
{
	static const struct {
		uint32_t type;
		uint32_t bytes;
		uint64_t sector;
		uint32_t sectors;
		uint32_t flags;
		uint8_t status;
	} rows[] = {
		{DISCARD, 0, 0, 1, 0, IOERR},
		{DISCARD, 15, 0, 1, 0, IOERR},
		{DISCARD, 17, 0, 1, 0, IOERR},
		{DISCARD, 33 * 16, 0, 1, 0, IOERR}, /* 32 are offered */
		{DISCARD, 16, 0, 1, 1, UNSUPP},
		{DISCARD, 16, 0, 1, 2, UNSUPP},
		{DISCARD, 16, 0, 1, 0x80000000, UNSUPP},
		{DISCARD, 16, SECTORS, 1, 0, IOERR},
		{DISCARD, 16, UINT64_MAX, UINT32_MAX, 0, IOERR},
		{DISCARD, 16, UINT64_MAX / SECTOR + 1, 1, 0, IOERR},
		{DISCARD, 16, 0, UINT32_MAX, 0, IOERR},
		{WRITE_ZEROES, 33 * 16, 0, 1, 0, IOERR},
		{WRITE_ZEROES, 16, 0, 1, 2, UNSUPP},
		{WRITE_ZEROES, 16, 0, 1, 3, UNSUPP},
		{WRITE_ZEROES, 16, 1, SECTORS, 1, IOERR},
		{WRITE_ZEROES, 16, UINT64_MAX, 1, 0, IOERR},
	};

	(void)state;
	start();
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		write_range(rows[i].sector, rows[i].sectors, rows[i].flags);
		assert_int_equal(perform(rows[i].type, 0, rows[i].bytes, 0), rows[i].status);
		assert_int_equal(used_bytes(), 1);
	}
	blk.acked = 0;
	write_range(0, 1, 0);
	assert_int_equal(perform(DISCARD, 0, 16, 0), UNSUPP);
	assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), UNSUPP);
	assert_int_equal(submitted, 0);
}

/* ---- many ranges ---- */

static void all_ranges_are_carried_out_and_answered_once(void **state)
{
	(void)state;
	start();
	for (unsigned i = 0; i < 128; i++) {
		fill(0xaa, SECTOR);
		assert_int_equal(perform(OUT, i, SECTOR, 0), OK);
	}
	submitted = 0;
	for (unsigned i = 0; i < 32; i++)
		write_nth_range(i, 4 * i, 1 + i % 2, i % 2);
	assert_int_equal(perform(WRITE_ZEROES, 0, 32 * 16, 0), OK);
	assert_int_equal(submitted, 32);
	assert_int_equal(asked.flags, OX_REQ_MAY_UNMAP); /* of the last */
	assert_int_equal(used_bytes(), 1);
	for (unsigned i = 0; i < 32; i++) {
		disk_has(4 * i, 0);
		disk_has(4 * i + 1, i % 2 ? 0 : 0xaa);
		disk_has(4 * i + 2, 0xaa);
	}
	write_nth_range(0, 0, 128, 0);
	write_nth_range(1, 256, 0, 0);
	write_nth_range(2, 512, 128, 0);
	submitted = 0;
	assert_int_equal(perform(DISCARD, 0, 3 * 16, 0), OK);
	assert_int_equal(submitted, 3);
	assert_int_equal(asked.offset, 512 * SECTOR);
	disk_has(127, 0);
}

/* Nothing is carried out of a request that cannot be as a whole. */
static void one_bad_range_is_all_of_them(void **state)
{
	(void)state;
	start();
	write_nth_range(0, 0, 1, 0);
	write_nth_range(1, SECTORS, 1, 0);
	assert_int_equal(perform(WRITE_ZEROES, 0, 2 * 16, 0), IOERR);
	write_nth_range(1, 1, 1, 2);
	assert_int_equal(perform(WRITE_ZEROES, 0, 2 * 16, 0), UNSUPP);
	write_nth_range(1, 1, 1, 0);
	assert_int_equal(perform(WRITE_ZEROES, 0, 2 * 16 + 8, 0), IOERR);
	assert_int_equal(submitted, 0);
}

static void end_held(int result)
{
	assert_int_equal(held_count, 1); /* one at a time */
	held_count = 0;
	held[0]->request.result = result;
	ox_vhost_blk_completed(held[0]);
	(void)!ox_vhost_ring_publish(ring);
}

static void the_first_range_that_fails_ends_the_request(void **state)
{
	static const struct {
		int result;
		uint8_t status;
	} rows[] = {{-EIO, IOERR}, {-ENOSPC, IOERR}, {-ENOTSUP, UNSUPP}};

	(void)state;
	start();
	hold = true;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (unsigned n = 0; n < 3; n++)
			write_nth_range(n, 10 * n, 1, 0);
		offer_request(WRITE_ZEROES, 0, 3 * 16, 0);
		take_all();
		end_held(0);
		assert_int_equal(*status(), NOTHING);
		assert_int_equal(ox_vhost_memory_held(guest.memory), 1);
		end_held(rows[i].result);
		assert_int_equal(held_count, 0);
		assert_int_equal(*status(), rows[i].status);
	}
	/* also where the library does not take one */
	for (unsigned n = 0; n < 3; n++)
		write_nth_range(n, 10 * n, 1, 0);
	offer_request(DISCARD, 0, 3 * 16, 0);
	take_all();
	refuse_with = -ENOMEM;
	end_held(0);
	assert_int_equal(*status(), IOERR);
	assert_int_equal(ox_vhost_ring_in_flight(ring), 0);
}

/* It is carried out in steps that end where clusters do. Where somebody waits it ends after one. */
static void a_long_discard_ends_early_for_who_waits(void **state)
{
	const uint64_t step_bytes = UINT64_C(256) << 20;

	(void)state;
	start();
	hold = true;
	blk.size_bytes = UINT64_C(8) << 30;
	write_nth_range(0, 8, 1u << 20, 0);
	write_nth_range(1, 0, 8, 0);
	offer_request(DISCARD, 0, 2 * 16, 0);
	take_all();
	assert_int_equal(asked.offset, 8 * SECTOR);
	assert_int_equal(asked.length, step_bytes - 8 * SECTOR);
	end_held(0);
	assert_int_equal(asked.offset, step_bytes);
	assert_int_equal(asked.length, step_bytes);
	end_held(0);
	assert_int_equal(asked.length, 8 * SECTOR);
	end_held(0);
	assert_int_equal(asked.offset, 0);
	assert_int_equal(*status(), NOTHING);
	end_held(0);
	assert_int_equal(*status(), OK);
	offer_request(DISCARD, 0, 2 * 16, 0);
	take_all();
	blk.hurried = true;
	end_held(0);
	assert_int_equal(*status(), OK);
	/* Zeroes are promised. */
	write_nth_range(0, 8, 1u << 20, 0);
	offer_request(WRITE_ZEROES, 0, 2 * 16, 0);
	take_all();
	assert_int_equal(asked.length, 1u << 29);
	end_held(0);
	assert_int_equal(*status(), NOTHING);
	end_held(0);
	assert_int_equal(*status(), OK);
}

/* ---- blocks ---- */

static void who_knows_of_blocks_asks_for_whole_ones(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t bytes;
		uint8_t status;
	} rows[] = {{8, 4096, OK},
		    {0, 0, OK},
		    {1, 4096, IOERR},
		    {8, 512, IOERR},
		    {8, 4096 + 512, IOERR}};

	(void)state;
	blk.block_bytes = 4096;
	start();
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(perform(IN, rows[i].sector, 0, rows[i].bytes), rows[i].status);
		assert_int_equal(perform(OUT, rows[i].sector, rows[i].bytes, 0), rows[i].status);
		write_range(rows[i].sector, rows[i].bytes / SECTOR, 0);
		assert_int_equal(perform(DISCARD, 0, 16, 0), rows[i].status);
		assert_int_equal(perform(WRITE_ZEROES, 0, 16, 0), rows[i].status);
	}
	/* As firmware that takes no features, and Firecracker, go by sectors. */
	blk.acked &= ~OX_VIRTIO_BLK_F_BLK_SIZE;
	assert_int_equal(perform(IN, 1, 0, SECTOR), OK);
}

static void a_block_that_is_not_whole_is_not_there(void **state)
{
	(void)state;
	blk.block_bytes = 4096;
	blk.size_bytes = DISK_BYTES - SECTOR;
	start();
	assert_int_equal(perform(IN, SECTORS - 8, 0, 4096), IOERR);
	assert_int_equal(perform(IN, SECTORS - 16, 0, 4096), OK);
	blk.acked &= ~OX_VIRTIO_BLK_F_BLK_SIZE;
	assert_int_equal(perform(IN, SECTORS - 8, 0, SECTOR), IOERR);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(zeroes_and_discards_are_handed_on_as_they_are_meant),
		TEST(ranges_that_cannot_be_have_a_status_that_says_so),
		TEST(all_ranges_are_carried_out_and_answered_once),
		TEST(one_bad_range_is_all_of_them),
		TEST(the_first_range_that_fails_ends_the_request),
		TEST(a_long_discard_ends_early_for_who_waits),
		TEST(who_knows_of_blocks_asks_for_whole_ones),
		TEST(a_block_that_is_not_whole_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
