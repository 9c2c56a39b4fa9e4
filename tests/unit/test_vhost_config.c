/* SPDX-License-Identifier: MIT */
/* What a virtio-blk device says of itself, and when its writes have to be durable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "serve/vhost/blk.h"

#define SIZE 64u
#define SECTOR 512u
#define DISK_BYTES (UINT64_C(4) << 20)
#define SECTORS (DISK_BYTES / SECTOR)

static struct ox_vhost_blk blk;

static int setup(void **state)
{
	(void)state;
	blk = (struct ox_vhost_blk){
		.size_bytes = DISK_BYTES + 100, /* not a whole sector */
		.mode = OX_CACHE_WRITEBACK,
		.block_bytes = SECTOR,
		.physical_bytes = 4096,
		.cluster_bytes = 65536,
		.queues = 2,
		.queue_size = SIZE,
		.wce = OX_VHOST_WCE_UNSET,
	};
	return 0;
}

/* ---- the write cache ---- */

#define B OX_CACHE_WRITEBACK
#define N OX_CACHE_NONE
#define T OX_CACHE_WRITETHROUGH
#define D OX_CACHE_DIRECTSYNC
#define U OX_CACHE_UNSAFE
#define F OX_VIRTIO_BLK_F_FLUSH
#define C OX_VIRTIO_BLK_F_CONFIG_WCE

static const struct {
	enum ox_cache_mode mode;
	uint64_t offered;
	uint64_t acked;
	enum ox_vhost_wce wce;
	bool through;
} cache_rows[] = {
	/* the guest can flush and set the cache */
	{B, F | C, F | C, OX_VHOST_WCE_UNSET, false},
	{B, F | C, F | C, OX_VHOST_WCE_ON, false},
	{B, F | C, F | C, OX_VHOST_WCE_OFF, true},
	{B, F | C, F | C, OX_VHOST_WCE_UNKNOWN, true},
	{N, F | C, F | C, OX_VHOST_WCE_UNSET, false},
	{N, F | C, F | C, OX_VHOST_WCE_OFF, true},
	{N, F | C, F | C, OX_VHOST_WCE_UNKNOWN, true},
	/* it can flush alone (Windows): it assumes a cache */
	{B, F | C, F, OX_VHOST_WCE_UNSET, false},
	{B, F | C, F, OX_VHOST_WCE_UNKNOWN, false},
	{B, F | C, F, OX_VHOST_WCE_OFF, true},
	/* it can set the cache alone: there is none until it says so */
	{B, F | C, C, OX_VHOST_WCE_UNSET, true},
	{B, F | C, C, OX_VHOST_WCE_ON, false},
	{B, F | C, C, OX_VHOST_WCE_OFF, true},
	{B, F | C, C, OX_VHOST_WCE_UNKNOWN, true},
	/* neither (Firecracker) */
	{B, F | C, 0, OX_VHOST_WCE_UNSET, true},
	{N, F | C, 0, OX_VHOST_WCE_UNSET, true},
	{B, F | C, 0, OX_VHOST_WCE_ON, true},
	{B, F | C, 0, OX_VHOST_WCE_UNKNOWN, true},
	/* not offered: nobody could flush */
	{B, 0, 0, OX_VHOST_WCE_UNSET, true},
	{B, 0, F, OX_VHOST_WCE_UNSET, true},
	/* the operator's choice is never relaxed */
	{T, F | C, F | C, OX_VHOST_WCE_UNSET, true},
	{T, F | C, F | C, OX_VHOST_WCE_ON, true},
	{T, F | C, F, OX_VHOST_WCE_UNSET, true},
	{D, F | C, F | C, OX_VHOST_WCE_ON, true},
	{D, F | C, 0, OX_VHOST_WCE_UNSET, true},
	/* nor made stricter where it is to be unsafe */
	{U, F | C, F | C, OX_VHOST_WCE_UNSET, false},
	{U, F | C, F | C, OX_VHOST_WCE_OFF, false},
	{U, F | C, 0, OX_VHOST_WCE_UNSET, false},
	{U, F | C, F | C, OX_VHOST_WCE_UNKNOWN, false},
};

static void the_write_cache_is_as_the_table_says(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cache_rows) / sizeof(cache_rows[0]); i++)
		assert_int_equal(
			ox_vhost_blk_is_write_through(cache_rows[i].mode, cache_rows[i].offered,
						      cache_rows[i].acked, cache_rows[i].wce),
			cache_rows[i].through);
}

/* ---- the configuration space ---- */

static uint64_t field(uint32_t offset, uint32_t bytes)
{
	uint64_t value = 0;

	ox_vhost_blk_config_read(&blk, offset, bytes, &value);
	return value;
}

static void the_configuration_is_what_the_device_is(void **state)
{
	(void)state;
	assert_int_equal(field(0, 8), SECTORS);
	assert_int_equal(field(8, 4), OX_VHOST_BLK_SIZE_MAX);
	assert_int_equal(field(12, 4), SIZE - 2);
	assert_int_equal(field(16, 4), 0); /* geometry */
	assert_int_equal(field(20, 4), SECTOR);
	assert_int_equal(field(24, 1), 3); /* 4 KiB of 512 */
	assert_int_equal(field(25, 1), 0);
	assert_int_equal(field(26, 2), 8);
	assert_int_equal(field(28, 4), 128); /* a cluster */
	assert_int_equal(field(32, 1), 1);
	assert_int_equal(field(34, 2), 2);
	assert_int_equal(field(36, 4), 1u << 22);
	assert_int_equal(field(40, 4), 32);
	assert_int_equal(field(44, 4), 128);
	assert_int_equal(field(48, 4), 1u << 22);
	assert_int_equal(field(52, 4), 32);
	assert_int_equal(field(56, 1), 1);
	blk.queue_size = 1024;
	assert_int_equal(field(12, 4), 126);
	blk.queue_size = 2;
	assert_int_equal(field(12, 4), 1);
}

static void blocks_and_clusters_are_told_in_their_units(void **state)
{
	static const struct {
		uint32_t block_bytes;
		uint32_t cluster_bytes;
		uint8_t physical_exponent;
		uint16_t least_blocks;
		uint32_t best_blocks;
		uint32_t discard_sectors;
	} rows[] = {
		{512, 512, 3, 8, 0, 1},
		{512, 4096, 3, 8, 0, 8},
		{512, 65536, 3, 8, 128, 128},
		{512, 2 << 20, 3, 8, 4096, 4096},
		{512, 0, 3, 8, 0, 8}, /* raw */
		{1024, 512, 2, 4, 0, 2},
		{2048, 65536, 1, 2, 32, 128},
		{4096, 512, 0, 1, 0, 8},
		{4096, 65536, 0, 1, 16, 128},
		{4096, 2 << 20, 0, 1, 512, 4096},
		{4096, 0, 0, 1, 0, 8},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		blk.block_bytes = rows[i].block_bytes;
		blk.cluster_bytes = rows[i].cluster_bytes;
		assert_int_equal(field(20, 4), rows[i].block_bytes);
		assert_int_equal(field(24, 1), rows[i].physical_exponent);
		assert_int_equal(field(26, 2), rows[i].least_blocks);
		assert_int_equal(field(28, 4), rows[i].best_blocks);
		assert_int_equal(field(44, 4), rows[i].discard_sectors);
		/* Linux refuses to discard less than its granularity. */
		assert_int_equal(field(36, 4) % field(44, 4), 0);
	}
}

static void the_capacity_is_whole_blocks(void **state)
{
	(void)state;
	blk.size_bytes = DISK_BYTES + 4095;
	blk.block_bytes = 4096;
	assert_int_equal(field(0, 8), SECTORS);
	blk.block_bytes = 1024;
	assert_int_equal(field(0, 8), SECTORS + 6);
	blk.block_bytes = SECTOR;
	assert_int_equal(field(0, 8), SECTORS + 7);
}

static void any_part_of_the_configuration_can_be_read(void **state)
{
	uint8_t whole[64];
	uint8_t piece[64];

	(void)state;
	memset(whole, 0xff, sizeof(whole));
	ox_vhost_blk_config_read(&blk, 0, sizeof(whole), whole);
	for (uint32_t i = OX_VHOST_BLK_CONFIG_BYTES; i < sizeof(whole); i++)
		assert_int_equal(whole[i], 0);
	for (uint32_t offset = 0; offset < 64; offset++)
		for (uint32_t bytes = 0; bytes <= 64 - offset; bytes++) {
			memset(piece, 0xff, sizeof(piece));
			ox_vhost_blk_config_read(&blk, offset, bytes, piece);
			assert_memory_equal(piece, whole + offset, bytes);
			assert_true(bytes == 64 || piece[bytes] == 0xff);
		}
	ox_vhost_blk_config_read(&blk, UINT32_MAX, 8, piece);
	assert_int_equal(piece[7], 0);
}

static void the_field_of_the_cache_tells_the_truth(void **state)
{
	static const struct {
		enum ox_cache_mode mode;
		uint64_t acked;
		enum ox_vhost_wce wce;
		uint8_t field;
	} rows[] = {
		{B, 0, OX_VHOST_WCE_UNSET, 1},	     {N, F | C, OX_VHOST_WCE_UNSET, 1},
		{U, F, OX_VHOST_WCE_UNSET, 1},	     {T, 0, OX_VHOST_WCE_UNSET, 0},
		{D, F | C, OX_VHOST_WCE_ON, 0},	     {B, C, OX_VHOST_WCE_UNSET, 0},
		{B, F | C, OX_VHOST_WCE_OFF, 0},     {B, F | C, OX_VHOST_WCE_ON, 1},
		{B, F | C, OX_VHOST_WCE_UNKNOWN, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		blk.mode = rows[i].mode;
		blk.acked = rows[i].acked;
		blk.wce = rows[i].wce;
		assert_int_equal(field(OX_VHOST_BLK_CONFIG_WCE, 1), rows[i].field);
	}
}

static void nothing_but_the_cache_can_be_set(void **state)
{
	const uint8_t bytes[64] = {1};
	const uint8_t two = 2;
	uint8_t before[64];
	uint8_t after[64];

	(void)state;
	ox_vhost_blk_config_read(&blk, 0, 64, before);
	for (uint32_t offset = 0; offset < 64; offset++)
		for (uint32_t size = 0; size < 64; size++)
			if (offset != OX_VHOST_BLK_CONFIG_WCE || size != 1)
				assert_int_equal(
					ox_vhost_blk_config_write(&blk, offset, size, bytes),
					-EINVAL);
	assert_int_equal(ox_vhost_blk_config_write(&blk, OX_VHOST_BLK_CONFIG_WCE, 1, &two),
			 -EINVAL);
	blk.mode = OX_CACHE_DIRECTSYNC;
	assert_int_equal(ox_vhost_blk_config_write(&blk, OX_VHOST_BLK_CONFIG_WCE, 1, bytes),
			 -EINVAL);
	blk.mode = OX_CACHE_WRITEBACK;
	blk.read_only = true;
	assert_int_equal(ox_vhost_blk_config_write(&blk, OX_VHOST_BLK_CONFIG_WCE, 1, bytes),
			 -EINVAL);
	blk.read_only = false;
	ox_vhost_blk_config_read(&blk, 0, 64, after);
	assert_memory_equal(before, after, 64);
}

static void what_others_break_on_is_not_offered(void **state)
{
	const uint64_t known = OX_VIRTIO_BLK_F_SIZE_MAX | OX_VIRTIO_BLK_F_SEG_MAX |
			       OX_VIRTIO_BLK_F_BLK_SIZE | F | OX_VIRTIO_BLK_F_TOPOLOGY | C |
			       OX_VIRTIO_BLK_F_MQ | OX_VIRTIO_BLK_F_DISCARD |
			       OX_VIRTIO_BLK_F_WRITE_ZEROES | OX_VIRTIO_F_RING_INDIRECT_DESC |
			       OX_VIRTIO_F_RING_EVENT_IDX | OX_VIRTIO_F_VERSION_1;

	(void)state;
	assert_true(ox_vhost_blk_features(&blk) == known);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_write_cache_is_as_the_table_says, setup),
		cmocka_unit_test_setup(the_configuration_is_what_the_device_is, setup),
		cmocka_unit_test_setup(blocks_and_clusters_are_told_in_their_units, setup),
		cmocka_unit_test_setup(the_capacity_is_whole_blocks, setup),
		cmocka_unit_test_setup(any_part_of_the_configuration_can_be_read, setup),
		cmocka_unit_test_setup(the_field_of_the_cache_tells_the_truth, setup),
		cmocka_unit_test_setup(nothing_but_the_cache_can_be_set, setup),
		cmocka_unit_test_setup(what_others_break_on_is_not_offered, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
