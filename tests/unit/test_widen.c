/* SPDX-License-Identifier: MIT */
/*
 * Counts that are too narrow: the repair makes them wider, whoever shares what, and a crash at any
 * write leaves either the old structure, or a new one whose counts are right (D3, D9).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/check.h"
#include "cut_io.h"
#include "fmt/qcow2.h"

#define COPIED OX_QCOW2_COPIED
#define ZERO_AT 12u   /* guest cluster */
#define STREAM_AT 16u /* guest cluster of the first */
#define RECORD_BYTES 64u
#define DATA_CLUSTERS 3u

enum { HEADER, REFTABLE, L1, L2, DATA, STREAM = DATA + DATA_CLUSTERS, SNAPSHOTS };

static struct ox_reactor *reactor;

/* ---- images ---- */

struct shape {
	unsigned cluster_bits;
	unsigned order;
	unsigned snapshots; /* that share the L2 table */
	unsigned streams;   /* that share a cluster */
	unsigned wanted;    /* order */
};

static const struct shape shapes[] = {
	{9, 0, 1, 0, 1},  {9, 0, 0, 2, 1},   {9, 0, 3, 0, 2},	 {9, 1, 3, 0, 2},  {9, 1, 1, 3, 2},
	{9, 2, 15, 0, 3}, {9, 2, 0, 20, 3},  {9, 3, 255, 0, 4},	 {9, 3, 9, 30, 4}, {16, 0, 1, 2, 2},
	{16, 1, 3, 0, 2}, {16, 2, 0, 17, 3}, {16, 3, 0, 300, 4},
};

struct image {
	struct shape shape;
	uint64_t cluster;
	uint8_t *bytes;
	uint64_t clusters;
	uint64_t blocks_at; /* cluster of the first refcount block */
	uint64_t blocks;
	struct ox_qcow2_header h;
};

static void put_word(struct image *im, uint64_t cluster, uint64_t index, uint64_t value)
{
	struct ox_be64 raw = ox_be64(value);

	memcpy(im->bytes + cluster * im->cluster + index * 8, &raw, 8);
}

static uint64_t word_at(const uint8_t *bytes, uint64_t offset)
{
	struct ox_be64 raw;

	memcpy(&raw, bytes + offset, 8);
	return ox_be64_get(raw);
}

static void put_count(struct image *im, uint64_t cluster, uint64_t count)
{
	unsigned order = im->shape.order;

	ox_qcow2_refcount_set(im->bytes + im->blocks_at * im->cluster, order, cluster,
			      ox_min_u64(count, ox_qcow2_refcount_max(order)));
}

static uint64_t table_clusters(const struct image *im)
{
	return ox_div_up((uint64_t)im->shape.snapshots * RECORD_BYTES, im->cluster);
}

static uint64_t snapshot_l1(const struct image *im, unsigned number)
{
	return SNAPSHOTS + table_clusters(im) + number;
}

static uint64_t shared(const struct image *im, uint64_t entry)
{
	return im->shape.snapshots ? entry : entry | COPIED;
}

static void put_mapping(struct image *im)
{

	put_word(im, L1, 0, shared(im, L2 * im->cluster));
	for (unsigned i = 0; i < DATA_CLUSTERS; i++) {
		put_word(im, L2, i, shared(im, (DATA + i) * im->cluster));
		memset(im->bytes + (DATA + i) * im->cluster, 0x31 + (int)i, im->cluster);
	}
	put_word(im, L2, ZERO_AT, OX_QCOW2_ZERO);
	memset(im->bytes + STREAM * im->cluster, 0x77, im->cluster);
	for (unsigned i = 0; i < im->shape.streams; i++)
		put_word(im, L2, STREAM_AT + i, OX_QCOW2_COMPRESSED | STREAM * im->cluster);
}

static void put_snapshots(struct image *im)
{
	for (unsigned i = 0; i < im->shape.snapshots; i++) {
		uint8_t *record = im->bytes + SNAPSHOTS * im->cluster + (size_t)i * RECORD_BYTES;
		struct ox_be64 l1 = ox_be64(snapshot_l1(im, i) * im->cluster);
		struct ox_be64 size = ox_be64(im->h.size_bytes);

		memcpy(record, &l1, 8);
		record[11] = 1; /* L1 entries */
		record[13] = 4; /* bytes of the id */
		record[15] = 1; /* of the name */
		record[39] = 16;
		memcpy(record + 48, &size, 8);
		record[56] = (uint8_t)('A' + (i >> 8));
		record[57] = (uint8_t)('a' + (i >> 4 & 15));
		record[58] = (uint8_t)('a' + (i & 15));
		record[59] = 'i';
		record[60] = 'n';
		put_word(im, snapshot_l1(im, i), 0, L2 * im->cluster);
	}
	if (im->shape.snapshots)
		im->h.snapshots_offset = SNAPSHOTS * im->cluster;
	im->h.snapshot_count = im->shape.snapshots;
}

static void put_counts(struct image *im)
{
	uint64_t trees = im->shape.snapshots + 1;

	for (uint64_t i = 0; i < im->blocks; i++)
		put_word(im, REFTABLE, i, (im->blocks_at + i) * im->cluster);
	for (uint64_t c = 0; c < im->clusters; c++)
		put_count(im, c, c >= L2 && c < STREAM ? trees : 1);
	put_count(im, STREAM, im->shape.streams * trees);
}

/* All that is right but what the width of the counts makes wrong; and room_clusters behind it. */
static struct image new_image(struct shape shape, uint64_t room_clusters)
{
	struct image im = {.shape = shape, .cluster = UINT64_C(1) << shape.cluster_bits};
	uint64_t per_block = im.cluster * 8 >> shape.order;

	im.blocks_at = snapshot_l1(&im, shape.snapshots);
	im.blocks = ox_div_up(im.blocks_at, per_block) + 1;
	im.blocks = ox_div_up(im.blocks_at + im.blocks, per_block);
	im.clusters = im.blocks_at + im.blocks;
	im.bytes = calloc(im.clusters + room_clusters, im.cluster);
	assert_non_null(im.bytes);
	im.h = (struct ox_qcow2_header){
		.version = 3,
		.cluster_bits = shape.cluster_bits,
		.size_bytes = im.cluster * im.cluster / 8,
		.l1_entries = 1,
		.l1_offset = L1 * im.cluster,
		.reftable_offset = REFTABLE * im.cluster,
		.reftable_clusters = 1,
		.refcount_order = shape.order,
		.header_length = 112,
	};
	put_mapping(&im);
	put_snapshots(&im);
	put_counts(&im);
	ox_qcow2_header_encode(&im.h, im.bytes);
	im.clusters += room_clusters;
	return im;
}

static uint64_t length_of(const struct image *im)
{
	return im->clusters * im->cluster;
}

static void make_dirty(struct image *im)
{
	im->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	ox_qcow2_header_encode(&im->h, im->bytes);
}

/* ---- what the guest and the snapshots read ---- */

static uint64_t add_to_hash(uint64_t hash, const uint8_t *bytes, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t read_tree(const struct image *im, const uint8_t *bytes, uint64_t l1_cluster)
{
	uint64_t table = word_at(bytes, l1_cluster * im->cluster) & OX_QCOW2_OFFSET_MASK;
	uint64_t hash = 0;

	for (uint64_t i = 0; table && i < im->cluster / 8; i++) {
		uint64_t entry = word_at(bytes, table + i * 8);
		uint64_t offset = entry & OX_QCOW2_OFFSET_MASK;

		/* Nothing was ever there. */
		if (bytes == im->bytes && offset >= length_of(im))
			offset = 0;
		hash = hash * 31 + (entry & (OX_QCOW2_COMPRESSED | OX_QCOW2_ZERO));
		if (entry & OX_QCOW2_COMPRESSED)
			hash = add_to_hash(hash, bytes + STREAM * im->cluster, 512);
		else if (offset)
			hash = add_to_hash(hash, bytes + offset, im->cluster);
	}
	return hash;
}

static bool reads_the_same(const struct image *im, const uint8_t *bytes)
{
	bool same = read_tree(im, bytes, L1) == read_tree(im, im->bytes, L1);

	for (unsigned i = 0; i < im->shape.snapshots && same; i++)
		same = read_tree(im, bytes, snapshot_l1(im, i)) ==
		       read_tree(im, im->bytes, snapshot_l1(im, i));
	return same;
}

/* ---- checking ---- */

struct seen {
	unsigned overflows;
	unsigned cross_links;
	struct ox_finding last; /* overflow; its strings are static */
};

struct job {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	struct seen seen;
	int error;
};

static void take_finding(void *opaque, const struct ox_finding *finding)
{
	struct seen *seen = opaque;

	seen->cross_links += strcmp(finding->name, "cross-link") == 0;
	if (strcmp(finding->name, "refcount-overflow") != 0)
		return;
	seen->overflows++;
	seen->last = *finding;
}

static void job_co(void *arg)
{
	struct job *job = arg;

	job->opts.finding = take_finding;
	job->opts.opaque = &job->seen;
	job->error = ox_check_qcow2_co(job->io, &job->opts, &job->result, NULL);
}

static struct job run(struct ox_io *io, enum ox_repair repair)
{
	struct job job = {.io = io, .opts = OX_CHECK_OPTIONS_INIT};

	job.opts.repair = repair;
	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	return job;
}

static bool is_clean(const struct job *job)
{
	return job->error == 0 && job->result.corruptions == 0 && job->result.leaks == 0 &&
	       job->result.check_errors == 0;
}

static unsigned order_of(struct ox_io *io)
{
	return cut_bytes(io)[99];
}

static struct ox_io *open_image(const struct image *im, struct cut *cut)
{
	return cut_open(reactor, cut, im->bytes, length_of(im));
}

/* ---- the whole repair ---- */

static void repair_whole(const struct image *im, bool can_grow)
{
	struct cut cut = {0};
	struct ox_io *io = open_image(im, &cut);
	struct job job;

	io->can_grow = can_grow;
	job = run(io, OX_REPAIR_ALL);
	assert_true(is_clean(&job));
	assert_true(job.seen.overflows > 0);
	assert_true(job.seen.last.repaired);
	assert_int_equal(order_of(io), im->shape.wanted);
	assert_false(cut_is_unsynced(io));
	assert_true(reads_the_same(im, cut_bytes(io)));
	assert_int_equal(word_at(cut_bytes(io), 72), 0);
	assert_true(can_grow || io->length == length_of(im));
	ox_io_close(io);
}

static void each_shape(void (*test)(const struct image *im), uint64_t room_clusters)
{
	for (size_t i = 0; i < OX_ARRAY_SIZE(shapes); i++) {
		for (unsigned dirty = 0; dirty < 2; dirty++) {
			struct image im = new_image(shapes[i], room_clusters);

			if (dirty)
				make_dirty(&im);
			test(&im);
			free(im.bytes);
		}
	}
}

static void repair_in_a_file(const struct image *im)
{
	repair_whole(im, true);
}

static void repair_on_a_device(const struct image *im)
{
	repair_whole(im, false);
}

static void test_counts_become_as_wide_as_the_references_want_it(void **state)
{
	(void)state;
	each_shape(repair_in_a_file, 0);
}

static void test_what_cannot_grow_is_used_where_it_is_free(void **state)
{
	(void)state;
	each_shape(repair_on_a_device, 40);
}

/* Leaks at the end of a device that is in use up to there: they are room, too. */
static void test_leaked_clusters_of_a_full_device_are_room(void **state)
{
	struct image im = new_image(shapes[0], 8);

	(void)state;
	for (uint64_t c = 1; c <= 8; c++)
		put_count(&im, im.clusters - c, 1);
	repair_whole(&im, false);
	free(im.bytes);
}

static void test_a_full_device_is_left_as_it_is(void **state)
{
	struct image im = new_image(shapes[0], 0);
	struct cut cut = {0};
	struct ox_io *io = open_image(&im, &cut);
	struct job job;

	(void)state;
	io->can_grow = false;
	job = run(io, OX_REPAIR_ALL);
	assert_int_equal(job.error, 0);
	assert_int_equal(job.result.corruptions, job.seen.overflows);
	assert_string_equal(job.seen.last.why_not, "there is no room for wider counts");
	assert_memory_equal(cut_bytes(io), im.bytes, length_of(&im));
	ox_io_close(io);
	free(im.bytes);
}

/* ---- with other damage ---- */

static void test_counts_and_bits_that_are_wrong_besides_come_out_right(void **state)
{
	struct shape shape = {9, 0, 1, 2, 1};
	struct image im = new_image(shape, 20);

	(void)state;
	make_dirty(&im);
	put_count(&im, L1, 0);
	put_count(&im, im.clusters - 3, 1);
	put_count(&im, im.clusters + 300, 1);
	put_word(&im, L1, 0, L2 * im.cluster | COPIED);
	put_word(&im, L2, 1, (DATA + 1) * im.cluster | COPIED);
	/* Past the end of a dirty image: nothing became durable there. */
	put_word(&im, snapshot_l1(&im, 0), 0, 0);
	put_word(&im, L2, 9, (im.clusters + 2) * im.cluster | COPIED);
	put_count(&im, L2, 1);
	repair_whole(&im, true);
	free(im.bytes);
}

static void refuse(struct image *im, const char *why)
{
	struct cut cut = {0};
	struct ox_io *io = open_image(im, &cut);
	struct job job = run(io, OX_REPAIR_ALL);

	assert_int_equal(job.error, 0);
	assert_true(job.result.corruptions > 0);
	assert_true(job.seen.overflows > 0);
	assert_string_equal(job.seen.last.why_not, why);
	assert_int_equal(order_of(io), im->bytes[99]);
	assert_true(reads_the_same(im, cut_bytes(io)));
	ox_io_close(io);
}

static void test_nothing_is_made_wider_while_a_table_cannot_be_followed(void **state)
{
	struct image im = new_image(shapes[0], 0);

	(void)state;
	im.h.l1_entries = 0; /* the snapshot still has one */
	ox_qcow2_header_encode(&im.h, im.bytes);
	im.h.l1_entries = 1;
	im.shape.streams = 0;
	put_word(&im, snapshot_l1(&im, 0), 0, L2 * im.cluster);
	put_word(&im, L2, STREAM_AT, OX_QCOW2_COMPRESSED | STREAM * im.cluster);
	put_word(&im, L2, STREAM_AT + 1, OX_QCOW2_COMPRESSED | STREAM * im.cluster);
	refuse(&im, "something else cannot be followed, and has to be repaired first");
	free(im.bytes);
}

/* A cluster at two guest offsets of the disk and of a snapshot, which have tables of their own: its
 * copy is named twice, and no count of a bit can say so. */
static void test_copies_that_could_not_be_counted_wait_for_wider_counts(void **state)
{
	struct shape shape = {9, 0, 1, 0, 1};
	struct image im = new_image(shape, 1);
	uint64_t own = im.clusters - 1;
	struct cut cut = {0};
	struct ox_io *io;
	struct job job;

	(void)state;
	put_word(&im, L2, 9, DATA * im.cluster);
	memcpy(im.bytes + own * im.cluster, im.bytes + L2 * im.cluster, im.cluster);
	put_word(&im, snapshot_l1(&im, 0), 0, own * im.cluster);
	put_word(&im, L1, 0, L2 * im.cluster | COPIED);
	put_count(&im, own, 1);
	io = open_image(&im, &cut);
	job = run(io, OX_REPAIR_ALL);
	assert_true(is_clean(&job));
	assert_int_equal(job.seen.cross_links, 2);
	assert_int_equal(order_of(io), 1);
	assert_true(reads_the_same(&im, cut_bytes(io)));
	ox_io_close(io);
	free(im.bytes);
}

/* ---- what is told ---- */

static void expect_finding(const struct image *im, uint64_t host, uint64_t guest, uint64_t length)
{
	struct cut cut = {0};
	struct ox_io *io = open_image(im, &cut);
	struct job job = run(io, OX_REPAIR_NONE);

	assert_true(job.seen.overflows > 0);
	assert_int_equal(job.seen.last.host_offset, host * im->cluster);
	assert_int_equal(job.seen.last.guest_offset, guest * im->cluster);
	assert_int_equal(job.seen.last.guest_length, length * im->cluster);
	assert_null(job.seen.last.snapshot);
	ox_io_close(io);
}

static void test_an_overflow_says_where_it_is_and_what_it_concerns(void **state)
{
	struct image snapshots = new_image((struct shape){9, 0, 1, 0, 1}, 0);
	struct image streams = new_image((struct shape){9, 0, 0, 5, 2}, 0);

	(void)state;
	expect_finding(&snapshots, DATA + DATA_CLUSTERS - 1, DATA_CLUSTERS - 1, 1);
	expect_finding(&streams, STREAM, STREAM_AT, 5);
	put_word(&snapshots, L2, 0, 0);
	put_word(&snapshots, L2, 1, 0);
	put_word(&snapshots, L2, 2, 0);
	expect_finding(&snapshots, L2, 0, snapshots.cluster / 8);
	free(snapshots.bytes);
	free(streams.bytes);
}

/* 47 streams in each of 1401 trees. */
static void test_sixteen_bits_become_thirty_two_but_not_in_version_2(void **state)
{
	struct image im = new_image((struct shape){9, 4, 1400, 47, 5}, 0);

	(void)state;
	repair_whole(&im, true);
	put_word(&im, L2, ZERO_AT, 0);
	im.h.version = 2;
	im.h.header_length = 72;
	memset(im.bytes, 0, im.cluster);
	ox_qcow2_header_encode(&im.h, im.bytes);
	refuse(&im, "the counts of version 2 always have 16 bits: copy the image to a new one");
	free(im.bytes);
}

/* ---- cuts ---- */

/* What a cut left: nobody's bytes changed; and counts that are wider are right. NULL: it is. */
static const char *judge_cut(const struct image *im, struct ox_io *io)
{
	struct job job;

	if (!reads_the_same(im, cut_bytes(io)))
		return "the guest's bytes changed";
	if (order_of(io) == im->shape.wanted) {
		job = run(io, OX_REPAIR_NONE);
		if (job.error < 0 || job.result.corruptions > 0)
			return "a count is lower than the references";
	}
	job = run(io, OX_REPAIR_ALL);
	if (!is_clean(&job))
		return "the repair did not end what it began";
	return reads_the_same(im, cut_bytes(io)) ? NULL : "the second repair changed bytes";
}

/* The first thing that a cut anywhere did wrong, or NULL. deaf: the sync of that number does
 * nothing; 0: all do. */
static const char *cut_everywhere(const struct image *im, bool can_grow, unsigned deaf,
				  unsigned seeds)
{
	const char *wrong = NULL;
	bool was_cut = true;

	for (unsigned after = 1; was_cut && !wrong; after++) {
		was_cut = false;
		for (unsigned seed = 1; seed <= seeds && !wrong; seed++) {
			struct cut cut = {.after = after, .deaf = deaf};
			struct ox_io *io = open_image(im, &cut);

			io->can_grow = can_grow;
			was_cut |= run(io, OX_REPAIR_ALL).error < 0;
			cut.after = 0;
			cut.deaf = 0;
			cut_recover(io, seed);
			wrong = judge_cut(im, io);
			ox_io_close(io);
		}
	}
	return wrong;
}

static void cut_in_a_file(const struct image *im)
{
	const char *wrong = cut_everywhere(im, true, 0, im->shape.cluster_bits > 9 ? 1 : 3);

	if (wrong)
		fail_msg("order %u, %u snapshots, %u streams: %s", im->shape.order,
			 im->shape.snapshots, im->shape.streams, wrong);
}

static void cut_on_a_device(const struct image *im)
{
	const char *wrong = cut_everywhere(im, false, 0, im->shape.cluster_bits > 9 ? 1 : 3);

	if (wrong)
		fail_msg("order %u, %u snapshots, %u streams, a device: %s", im->shape.order,
			 im->shape.snapshots, im->shape.streams, wrong);
}

static void test_a_cut_anywhere_leaves_what_the_same_repair_ends(void **state)
{
	(void)state;
	each_shape(cut_in_a_file, 0);
	each_shape(cut_on_a_device, 40);
}

/* The third sync is the one between the table and the header. */
static void test_a_structure_named_before_it_is_durable_is_found_out(void **state)
{
	struct image im = new_image((struct shape){9, 0, 3, 2, 2}, 0);

	(void)state;
	assert_null(cut_everywhere(&im, true, 0, 20));
	assert_string_equal(cut_everywhere(&im, true, 3, 20),
			    "a count is lower than the references");
	free(im.bytes);
}

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts_become_as_wide_as_the_references_want_it),
		cmocka_unit_test(test_what_cannot_grow_is_used_where_it_is_free),
		cmocka_unit_test(test_leaked_clusters_of_a_full_device_are_room),
		cmocka_unit_test(test_a_full_device_is_left_as_it_is),
		cmocka_unit_test(test_counts_and_bits_that_are_wrong_besides_come_out_right),
		cmocka_unit_test(test_nothing_is_made_wider_while_a_table_cannot_be_followed),
		cmocka_unit_test(test_copies_that_could_not_be_counted_wait_for_wider_counts),
		cmocka_unit_test(test_an_overflow_says_where_it_is_and_what_it_concerns),
		cmocka_unit_test(test_sixteen_bits_become_thirty_two_but_not_in_version_2),
		cmocka_unit_test(test_a_cut_anywhere_leaves_what_the_same_repair_ends),
		cmocka_unit_test(test_a_structure_named_before_it_is_durable_is_found_out),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
