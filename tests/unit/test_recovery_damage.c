/* SPDX-License-Identifier: MIT */
/*
 * Recovery beside requests where something is wrong (docs/recovery.md): entries of writes that
 * never became durable, kills in the middle, damage that nobody can mend.
 *
 * A kill is played by copying the file while the image is open: that is what a process which died
 * at that moment leaves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_bytes.h"
#include "recovery_fixture.h"

/* ---- stale entries ---- */

/* Of a write that was cut: an entry that got to the disk before the file's length did. */
static void plant_stale_entry(const char *path, uint64_t guest, uint64_t clusters_past_end)
{
	uint64_t end = (file_bytes(path) + CLUSTER - 1) / CLUSTER * CLUSTER;

	put_l2_entry(path, guest, (end + clusters_past_end * CLUSTER) | ENTRY_COPIED);
}

static const uint64_t stale[] = {MIB, MIB + CLUSTER, 3 * TABLE_SPAN + MIB, 7 * TABLE_SPAN + MIB};

static void plant_stale_entries(const char *path)
{
	for (uint64_t i = 0; i < 4; i++)
		plant_stale_entry(path, stale[i], i * i);
}

static void assert_stale_read_as_nothing(struct ox_image *image, size_t first)
{
	for (size_t i = first; i < 4; i++) {
		struct ox_extent extent;

		assert_reads(image, stale[i], 0);
		assert_int_equal(ox_extent_at(image, stale[i], CLUSTER, &extent), 0);
		assert_int_equal(extent.flags & OX_EXTENT_DATA, 0);
	}
}

static void stale_entries_read_as_nothing_at_once_and_are_gone_in_the_end(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	plant_stale_entries("disk.qcow2");
	image = open_dirty("disk.qcow2");
	assert_stale_read_as_nothing(image, 0);
	/* The file grows over the places that they name. */
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(write_block(image, i * TABLE_SPAN + 64 * KIB, 'g', OX_REQ_FUA), 0);
	assert_stale_read_as_nothing(image, 0);
	assert_int_equal(write_block(image, stale[0], 'w', OX_REQ_FUA), 0);
	assert_running(image);
	assert_recovers(image);
	assert_stale_read_as_nothing(image, 1);
	assert_reads(image, stale[0], 'w');
	close_image(image);
	assert_int_equal(assert_clean("disk.qcow2"), FILLED * FILLED_CLUSTERS + 5);
	for (size_t i = 1; i < 4; i++)
		assert_int_equal(l2_entry("disk.qcow2", stale[i]), 0);
}

static void stale_entries_stay_stale_when_a_kill_left_the_file_longer(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	plant_stale_entries("disk.qcow2");
	image = open_dirty("disk.qcow2");
	for (uint64_t i = 8; i < 12; i++)
		assert_int_equal(write_block(image, i * TABLE_SPAN + 64 * KIB, 'g', OX_REQ_FUA), 0);
	assert_running(image);
	copy_file("disk.qcow2", "killed.qcow2");
	close_image(image);
	assert_true(image_has_fence("killed.qcow2"));
	assert_true(file_bytes("killed.qcow2") >
		    (l2_entry("killed.qcow2", stale[3]) & ENTRY_OFFSET));
	{
		struct ox_open_options opts = options(OX_RECOVER_AUTO);

		opts.flags = OX_OPEN_READ_ONLY;
		image = open_with("killed.qcow2", &opts);
		assert_stale_read_as_nothing(image, 0);
		assert_reads(image, 11 * TABLE_SPAN + 64 * KIB, 'g');
		close_image(image);
	}
	image = open_dirty("killed.qcow2");
	assert_stale_read_as_nothing(image, 0);
	for (uint64_t i = 8; i < 12; i++)
		assert_reads(image, i * TABLE_SPAN + 64 * KIB, 'g');
	assert_int_equal(write_block(image, stale[1], 'w', OX_REQ_FUA), 0);
	assert_recovers(image);
	assert_stale_read_as_nothing(image, 2);
	assert_reads(image, stale[1], 'w');
	close_image(image);
	assert_int_equal(assert_clean("killed.qcow2"), FILLED * FILLED_CLUSTERS + 5);
	assert_int_equal(l2_entry("killed.qcow2", stale[3]), 0);
}

/* ---- one kill after another ---- */

#define MODEL_BYTES (2 * TABLE_SPAN)

struct life {
	uint8_t expected[MODEL_BYTES];
	uint8_t found[MODEL_BYTES];
	uint64_t random;
};

static struct life life;

static uint64_t random_below(uint64_t limit)
{
	life.random = life.random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (life.random >> 33) % limit;
}

static void assert_as_expected(struct ox_image *image, const char *when)
{
	assert_int_equal(ox_pread(image, life.found, MODEL_BYTES, 0), 0);
	for (size_t at = 0; at < MODEL_BYTES; at += 512)
		if (memcmp(life.found + at, life.expected + at, 512) != 0)
			fail_msg("%s: 0x%zx reads %02x, expected %02x", when, at, life.found[at],
				 life.expected[at]);
}

/* Some request on the two tables of the model, done before it returns. */
static void live_a_little(struct ox_image *image)
{
	uint64_t kind = random_below(10);
	uint64_t at = random_below(MODEL_BYTES / 512) * 512;
	uint64_t length = (1 + random_below(kind < 6 ? 40 : 200)) * 512;
	unsigned flags = random_below(4) == 0 ? OX_REQ_FUA : 0;

	if (length > MODEL_BYTES - at)
		length = MODEL_BYTES - at;
	if (kind < 6) {
		memset(life.expected + at, (int)(1 + random_below(255)), length);
		assert_int_equal(ox_pwrite(image, life.expected + at, length, at, flags), 0);
	} else if (kind < 8) {
		flags |= kind == 6 ? OX_REQ_MAY_UNMAP : 0;
		memset(life.expected + at, 0, length);
		assert_int_equal(ox_write_zeroes(image, at, length, flags), 0);
	} else {
		assert_int_equal(ox_discard(image, at, length), 0);
		assert_int_equal(ox_pread(image, life.found, length, at), 0);
		for (uint64_t i = 0; i < length; i++)
			assert_true(life.found[i] == 0 || life.found[i] == life.expected[at + i]);
		memcpy(life.expected + at, life.found, length);
	}
}

/* One life, and what is left of it: a killed image, or, where the recovery was faster than a few
 * requests, a closed one that is dirty again. Whether it was killed. */
static bool live_and_die(const struct ox_open_options *opts)
{
	struct ox_image *image = open_with("disk.qcow2", opts);
	bool killed;

	assert_running(image);
	for (uint64_t n = random_below(30); n > 0; n--)
		live_a_little(image);
	assert_int_equal(ox_flush(image), 0);
	assert_as_expected(image, "before the kill");
	killed = status_of(image).state == OX_RECOVERY_RUNNING;
	copy_file("disk.qcow2", "next.qcow2");
	close_image(image);
	assert_clean("disk.qcow2");
	if (killed)
		assert_int_equal(rename("next.qcow2", "disk.qcow2"), 0);
	else
		mark_image_dirty("disk.qcow2");
	assert_true(image_is_dirty("disk.qcow2"));
	return killed;
}

static void die_again_and_again(const struct ox_open_options *opts, unsigned kills)
{
	struct ox_image *image;

	for (unsigned lives = 0; kills > 0; lives++) {
		kills -= live_and_die(opts);
		assert_true(lives < 100);
	}
	image = open_with("disk.qcow2", opts);
	assert_as_expected(image, "after the last kill");
	while (status_of(image).state == OX_RECOVERY_RUNNING) {
		live_a_little(image);
		assert_int_equal(ox_context_poll(ctx), 0);
	}
	assert_recovers(image);
	assert_as_expected(image, "after the recovery");
	for (int n = 0; n < 50; n++)
		live_a_little(image);
	assert_as_expected(image, "long after");
	assert_filled(image, 2, FILLED);
	close_image(image);
	assert_clean("disk.qcow2");
}

static void begin_life(uint64_t seed)
{
	memset(life.expected, 0, MODEL_BYTES);
	for (uint64_t at = 0; at < MODEL_BYTES; at += CLUSTER)
		if (at % TABLE_SPAN < FILLED_CLUSTERS * CLUSTER)
			memset(life.expected + at, byte_of(at), CLUSTER);
	life.random = seed;
}

static void kills_in_the_middle_of_recoveries_lose_nothing(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);

	(void)state;
	for (uint64_t seed = 1; seed <= 3; seed++) {
		use_large();
		begin_life(seed);
		die_again_and_again(&opts, 4);
	}
}

static void the_smallest_caches_lose_nothing_either(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);

	(void)state;
	opts.l2_cache_bytes = 1;
	opts.refcount_cache_bytes = 1;
	use_large();
	begin_life(77);
	die_again_and_again(&opts, 4);
}

static void synchronous_writes_lose_nothing_either(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);

	(void)state;
	opts.cache = OX_CACHE_WRITETHROUGH;
	use_large();
	begin_life(99);
	die_again_and_again(&opts, 3);
}

static void snapshots_keep_their_bytes_through_kills_and_recovery(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);
	uint64_t hosts[FILLED_CLUSTERS];
	char kept[CLUSTER];
	FILE *file;

	(void)state;
	use_large_with_snapshot();
	for (uint64_t i = 0; i < FILLED_CLUSTERS; i++)
		hosts[i] = l2_entry("disk.qcow2", i * CLUSTER) & ENTRY_OFFSET;
	begin_life(5);
	die_again_and_again(&opts, 4);
	file = fopen("disk.qcow2", "rb");
	assert_non_null(file);
	for (uint64_t i = 0; i < FILLED_CLUSTERS; i++) {
		assert_in_range(refcount("disk.qcow2", hosts[i]), 1, 2);
		assert_int_equal(pread(fileno(file), kept, CLUSTER, (off_t)hosts[i]), CLUSTER);
		memset(life.found, byte_of(i * CLUSTER), CLUSTER);
		assert_memory_equal(kept, life.found, CLUSTER);
	}
	fclose(file);
}

/* ---- damage ---- */

#define HURT (2 * TABLE_SPAN) /* the guest cluster whose entry is damaged */

/* Its neighbours in the table, other tables, new clusters, and whole tables are all served.
 * own_table: other entries of the damaged one's table can be changed. */
static void assert_all_else_works(struct ox_image *image, char byte, bool own_table)
{
	for (uint64_t at = CLUSTER; at < FILLED_CLUSTERS * CLUSTER; at += CLUSTER)
		assert_reads(image, HURT + at, byte_of(HURT + at));
	assert_filled(image, 3, SMALL_DISK / TABLE_SPAN - 1);
	assert_int_equal(write_block(image, TABLE_SPAN, byte, 0), 0);
	assert_int_equal(write_block(image, MIB, byte, OX_REQ_FUA), 0);
	assert_int_equal(write_block(image, HURT + MIB, byte, OX_REQ_FUA), own_table ? 0 : -EIO);
	assert_int_equal(ox_discard(image, SMALL_DISK - TABLE_SPAN, CLUSTER), 0);
	assert_reads(image, TABLE_SPAN, byte);
	assert_reads(image, MIB, byte);
	assert_reads(image, HURT + MIB, own_table ? byte : 0);
	assert_int_equal(ox_flush(image), 0);
}

static void assert_hurt_is_unreadable(struct ox_image *image)
{
	char buf[CLUSTER];

	assert_int_equal(ox_pread(image, buf, sizeof(buf), HURT), -EIO);
}

/* Two lives of an image with a bad entry: it is served, stays dirty and says why. */
static void assert_served_and_left_dirty(const char *part, bool own_table)
{
	struct ox_open_options wait = options(OX_RECOVER_WAIT);
	struct ox_error *err = NULL;
	struct ox_image *image;

	for (int life_number = 0; life_number < 2; life_number++) {
		image = open_dirty("disk.qcow2");
		if (life_number > 0) {
			assert_reads(image, MIB, 'A');
			assert_reads(image, HURT + MIB, own_table ? 'A' : 0);
		}
		assert_hurt_is_unreadable(image);
		assert_all_else_works(image, (char)('a' + life_number), own_table);
		assert_fails_with(image, part);
		assert_hurt_is_unreadable(image);
		assert_all_else_works(image, (char)('A' + life_number), own_table);
		close_image(image);
		assert_true(image_is_dirty("disk.qcow2"));
	}
	assert_true(ox_image_open(ctx, "disk.qcow2", &wait, &image, &err) < 0);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	assert_true(image_is_dirty("disk.qcow2"));
}

static void an_entry_with_reserved_bits_hurts_nobody_else(void **state)
{
	(void)state;
	use_small();
	put_l2_entry("disk.qcow2", HURT, l2_entry("disk.qcow2", HURT) | UINT64_C(1) << 57);
	assert_served_and_left_dirty("reserved bits", true);
}

static void an_unaligned_entry_hurts_nobody_else(void **state)
{
	(void)state;
	use_small();
	put_l2_entry("disk.qcow2", HURT, l2_entry("disk.qcow2", HURT) + 512);
	assert_served_and_left_dirty("not properly aligned", true);
}

static void an_entry_on_a_table_hurts_nobody_else(void **state)
{
	(void)state;
	use_small();
	put_l2_entry("disk.qcow2", HURT, file_word("disk.qcow2", 40) | ENTRY_COPIED);
	assert_served_and_left_dirty("overlaps", true);
}

static void an_entry_past_the_end_in_a_shared_table_hurts_nobody_else(void **state)
{
	(void)state;
	use_small();
	add_snapshot("disk.qcow2");
	put_l2_entry("disk.qcow2", HURT, file_bytes("disk.qcow2") + 100 * CLUSTER);
	/* A copy of the table would not tell any more that the entry is one of a cut write. */
	assert_served_and_left_dirty("end of the file", false);
}

static void an_entry_past_the_end_in_a_snapshots_own_table_hurts_nobody(void **state)
{
	struct ox_image *image;

	(void)state;
	use_small();
	add_snapshot("disk.qcow2");
	separate_first_table_of_snapshot("disk.qcow2");
	{
		uint64_t l1 = file_word("disk.qcow2", file_word("disk.qcow2", 64));
		uint64_t table = file_word("disk.qcow2", l1) & ENTRY_OFFSET;

		put_file_word("disk.qcow2", table, file_bytes("disk.qcow2") + 100 * CLUSTER);
	}
	image = open_dirty("disk.qcow2");
	assert_filled(image, 0, SMALL_DISK / TABLE_SPAN);
	assert_fails_with(image, "end of the file");
	assert_filled(image, 0, SMALL_DISK / TABLE_SPAN);
	assert_all_else_works(image, 'z', true);
	assert_reads(image, HURT, byte_of(HURT));
	close_image(image);
	assert_true(image_is_dirty("disk.qcow2"));
}

/* ---- clusters that two guest offsets name ---- */

static const uint64_t alias[] = {TABLE_SPAN, 5 * TABLE_SPAN + CLUSTER};

static void link_across(uint16_t count, uint64_t copied_a, uint64_t copied_b)
{
	uint64_t host = l2_entry("disk.qcow2", alias[0]) & ENTRY_OFFSET;

	put_l2_entry("disk.qcow2", alias[0], host | copied_a);
	put_l2_entry("disk.qcow2", alias[1], host | copied_b);
	put_refcount("disk.qcow2", host, count);
}

/* Whatever the counts and bits claim: a write through one name is not seen through the other. */
static void assert_aliases_part(struct ox_image *image, int first)
{
	assert_int_equal(write_block(image, alias[first], 'p', 0), 0);
	assert_reads(image, alias[first], 'p');
	assert_reads(image, alias[!first], byte_of(alias[0]));
	assert_int_equal(write_block(image, alias[!first], 'q', OX_REQ_FUA), 0);
	assert_reads(image, alias[first], 'p');
	assert_reads(image, alias[!first], 'q');
}

static void a_cluster_named_twice_is_never_written_through_one_name(void **state)
{
	(void)state;
	for (int kind = 0; kind < 8; kind++) {
		struct ox_image *image;

		use_small();
		link_across(kind & 1 ? 0 : 1, kind & 2 ? ENTRY_COPIED : 0,
			    kind & 4 ? ENTRY_COPIED : 0);
		image = open_dirty("disk.qcow2");
		assert_reads(image, alias[0], byte_of(alias[0]));
		assert_reads(image, alias[1], byte_of(alias[0]));
		assert_fails_with(image, "is named for guest offsets");
		assert_aliases_part(image, kind & 1);
		assert_filled(image, 2, 5);
		close_image(image);
		assert_true(image_is_dirty("disk.qcow2"));
	}
}

static void a_part_of_a_cluster_named_twice_is_written_to_a_copy(void **state)
{
	struct ox_image *image;
	char buf[CLUSTER];

	(void)state;
	use_small();
	link_across(1, ENTRY_COPIED, ENTRY_COPIED);
	image = open_dirty("disk.qcow2");
	assert_fails_with(image, "is named for guest offsets");
	assert_int_equal(ox_pwrite(image, "part", 4, alias[1] + 1000, OX_REQ_FUA), 0);
	assert_reads(image, alias[0], byte_of(alias[0]));
	assert_int_equal(ox_pread(image, buf, sizeof(buf), alias[1]), 0);
	assert_memory_equal(buf + 1000, "part", 4);
	assert_int_equal(buf[999], byte_of(alias[0]));
	assert_int_equal(buf[1004], byte_of(alias[0]));
	assert_int_equal(ox_discard(image, alias[0], CLUSTER), 0);
	assert_int_equal(write_block(image, MIB, 'n', OX_REQ_FUA), 0);
	assert_int_equal(ox_pread(image, buf, sizeof(buf), alias[1]), 0);
	assert_int_equal(buf[999], byte_of(alias[0]));
	close_image(image);
	/* Nothing names it twice any more. */
	image = open_dirty("disk.qcow2");
	assert_recovers(image);
	close_image(image);
	assert_clean("disk.qcow2");
}

static void counts_and_bits_that_no_crash_leaves_are_put_right(void **state)
{
	struct ox_image *image;

	(void)state;
	use_small();
	add_snapshot("disk.qcow2");
	/* Shared with the snapshot, and claimed as its own by the active entry. */
	put_l2_entry("disk.qcow2", TABLE_SPAN, l2_entry("disk.qcow2", TABLE_SPAN) | ENTRY_COPIED);
	put_refcount("disk.qcow2", l2_entry("disk.qcow2", TABLE_SPAN) & ENTRY_OFFSET, 1);
	image = open_dirty("disk.qcow2");
	assert_recovers(image);
	assert_filled(image, 0, SMALL_DISK / TABLE_SPAN);
	assert_int_equal(write_block(image, TABLE_SPAN, 'x', OX_REQ_FUA), 0);
	close_image(image);
	assert_clean("disk.qcow2");
}

static void a_table_named_twice_is_not_written_through_one_name(void **state)
{
	struct ox_image *image;
	uint64_t l1;

	(void)state;
	use_small();
	l1 = file_word("disk.qcow2", 40);
	put_file_word("disk.qcow2", l1 + 5 * 8, file_word("disk.qcow2", l1 + 8));
	image = open_dirty("disk.qcow2");
	assert_fails_with(image, "L2 table in cluster");
	for (int i = 0; i < 2; i++) {
		char other[CLUSTER];

		if (write_block(image, (i ? 5 : 1) * TABLE_SPAN, 'w', OX_REQ_FUA) == 0 &&
		    ox_pread(image, other, sizeof(other), (i ? 1 : 5) * TABLE_SPAN) == 0)
			assert_int_equal(other[0], byte_of(TABLE_SPAN));
	}
	assert_filled(image, 2, 5);
	close_image(image);
	assert_true(image_is_dirty("disk.qcow2"));
}

/* ---- without a fence ---- */

static void a_reader_sees_what_was_there_before_a_stale_entry(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);
	struct ox_image *image;

	(void)state;
	use_small();
	plant_stale_entries("disk.qcow2");
	opts.flags = OX_OPEN_READ_ONLY;
	image = open_with("disk.qcow2", &opts);
	assert_stale_read_as_nothing(image, 0);
	close_image(image);
}

static void a_kill_right_after_the_recovery_leaks_nothing(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	assert_int_equal(ox_discard(image, 0, 8 * TABLE_SPAN), 0);
	assert_int_equal(ox_flush(image), 0);
	assert_recovers(image);
	copy_file("disk.qcow2", "killed.qcow2");
	close_image(image);
	/* As the next opening for writing leaves it. */
	{
		struct ox_open_options opts = options(OX_RECOVER_AUTO);

		close_image(open_with("killed.qcow2", &opts));
	}
	assert_clean("killed.qcow2");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(stale_entries_read_as_nothing_at_once_and_are_gone_in_the_end),
		TEST(stale_entries_stay_stale_when_a_kill_left_the_file_longer),
		TEST(kills_in_the_middle_of_recoveries_lose_nothing),
		TEST(the_smallest_caches_lose_nothing_either),
		TEST(synchronous_writes_lose_nothing_either),
		TEST(snapshots_keep_their_bytes_through_kills_and_recovery),
		TEST(an_entry_with_reserved_bits_hurts_nobody_else),
		TEST(an_unaligned_entry_hurts_nobody_else),
		TEST(an_entry_on_a_table_hurts_nobody_else),
		TEST(an_entry_past_the_end_in_a_shared_table_hurts_nobody_else),
		TEST(an_entry_past_the_end_in_a_snapshots_own_table_hurts_nobody),
		TEST(a_cluster_named_twice_is_never_written_through_one_name),
		TEST(a_part_of_a_cluster_named_twice_is_written_to_a_copy),
		TEST(counts_and_bits_that_no_crash_leaves_are_put_right),
		TEST(a_table_named_twice_is_not_written_through_one_name),
		TEST(a_reader_sees_what_was_there_before_a_stale_entry),
		TEST(a_kill_right_after_the_recovery_leaks_nothing),
	};

	return cmocka_run_group_tests_name("recovery_damage", tests, make_templates,
					   remove_templates);
}
