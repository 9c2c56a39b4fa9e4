/* SPDX-License-Identifier: MIT */
/*
 * What a repair owes the guest, whatever the damage and wherever it is cut: what could be read
 * before can be read after, byte for byte, in the active image and in the snapshot; and the same
 * repair finishes what another one began (D9).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/check.h"
#include "check/undo/edit.h"
#include "cut_io.h"
#include "damaged.h"
#include "promises.h"

#define GUEST_CLUSTERS 128u
#define ENTRIES (CLUSTER / 8)
#define TREES 2u
#define RECORD_BYTES 64u    /* of a snapshot, as damaged.c and a repair write it */
#define ROOM_CLUSTERS 1024u /* that every store has */
#define BELOW 0xbb	    /* every byte of a backing file */

static struct ox_reactor *reactor;

/* ---- what a guest reads ---- */

/* Written from the specification alone. */
struct guest {
	struct promises *promises; /* and what else it goes by */
	bool readable[TREES][GUEST_CLUSTERS];
	/* Cannot be read, and was there: it must not come to read as the backing file does. */
	bool hides[TREES][GUEST_CLUSTERS];
	uint8_t bytes[TREES][GUEST_CLUSTERS][CLUSTER];
};

static uint64_t raw_word(const uint8_t *bytes, uint64_t offset)
{
	struct ox_be64 raw;

	memcpy(&raw, bytes + offset, 8);
	return ox_be64_get(raw);
}

/* Where the L1 table is of the first snapshot that leads to one; 0: there is none. */
static uint64_t snapshot_l1(const uint8_t *image)
{
	uint64_t at = raw_word(image, 64);

	for (unsigned i = 0; i < image[63] && at < ROOM_CLUSTERS * CLUSTER; i++) {
		uint64_t l1 = raw_word(image, at);

		if (l1 != 0 && l1 % CLUSTER == 0 && l1 < ROOM_CLUSTERS * CLUSTER)
			return l1;
		at += RECORD_BYTES;
	}
	return 0;
}

static bool is_l2_table(const uint8_t *image, uint64_t l1, uint64_t offset)
{
	for (unsigned i = 0; i < GUEST_CLUSTERS / ENTRIES; i++) {
		if ((raw_word(image, l1 + 8 * i) & OX_QCOW2_OFFSET_MASK) == offset)
			return true;
	}
	return false;
}

/* What lies on a table is not the guest's. */
static bool is_table(const uint8_t *image, uint64_t offset)
{
	uint64_t reftable = raw_word(image, 48);
	uint64_t l1 = raw_word(image, 40);

	return offset == 0 || offset == reftable || offset == l1 ||
	       (reftable < ROOM_CLUSTERS * CLUSTER &&
		offset == (raw_word(image, reftable) & OX_QCOW2_OFFSET_MASK)) ||
	       (snapshot_l1(image) &&
		(offset == snapshot_l1(image) || offset == raw_word(image, 64)));
}

static bool is_sound(const uint8_t *image, uint64_t length, uint64_t raw, uint64_t allowed)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	return !(raw & ~(OX_QCOW2_COPIED | OX_QCOW2_OFFSET_MASK | allowed)) &&
	       offset % CLUSTER == 0 && offset + CLUSTER <= length &&
	       (offset != 0 || !(raw & OX_QCOW2_COPIED)) &&
	       (offset == 0 || !is_table(image, offset));
}

/* Whether an L1 entry never became durable (D8). */
static bool is_stale(const uint8_t *image, uint64_t length, uint64_t raw, unsigned tree)
{
	return tree == 0 && (raw_word(image, 72) & OX_QCOW2_INCOMPAT_DIRTY) &&
	       !(raw & ~(COPIED | OX_QCOW2_OFFSET_MASK)) && (raw & OX_QCOW2_OFFSET_MASK) >= length;
}

static void read_tree(const uint8_t *image, uint64_t length, uint64_t l1, unsigned tree,
		      struct guest *ret)
{
	for (unsigned c = 0; c < GUEST_CLUSTERS; c++) {
		uint64_t table = raw_word(image, l1 + c / ENTRIES * 8);
		uint64_t entry = 0;

		if (!is_sound(image, length, table, 0)) {
			ret->hides[tree][c] = !is_stale(image, length, table, tree);
			continue;
		}
		if (table & OX_QCOW2_OFFSET_MASK)
			entry = raw_word(image, (table & OX_QCOW2_OFFSET_MASK) + c % ENTRIES * 8);
		if (entry & OX_QCOW2_COMPRESSED || !is_sound(image, length, entry, OX_QCOW2_ZERO))
			continue;
		if ((entry & OX_QCOW2_OFFSET_MASK) &&
		    (is_l2_table(image, raw_word(image, 40), entry & OX_QCOW2_OFFSET_MASK) ||
		     is_l2_table(image, l1, entry & OX_QCOW2_OFFSET_MASK)))
			continue;
		ret->readable[tree][c] = true;
		if ((entry & OX_QCOW2_OFFSET_MASK) && !(entry & OX_QCOW2_ZERO))
			memcpy(ret->bytes[tree][c], image + (entry & OX_QCOW2_OFFSET_MASK),
			       CLUSTER);
		else if (!(entry & OX_QCOW2_ZERO) && raw_word(image, 8))
			memset(ret->bytes[tree][c], BELOW, CLUSTER);
	}
}

static struct guest *read_guest(const uint8_t *image, uint64_t length)
{
	struct guest *g = calloc(1, sizeof(*g));

	assert_non_null(g);
	read_tree(image, length, raw_word(image, 40), 0, g);
	if (snapshot_l1(image))
		read_tree(image, length, snapshot_l1(image), 1, g);
	return g;
}

static bool shows_below(const struct guest *g, unsigned tree, unsigned cluster)
{
	uint8_t below[CLUSTER];

	memset(below, BELOW, CLUSTER);
	return g->readable[tree][cluster] && memcmp(g->bytes[tree][cluster], below, CLUSTER) == 0;
}

/* Whether all that could be read before is as it was, and no backing file shows where it did not.
 */
static bool is_kept(const struct guest *before, const uint8_t *image, uint64_t length,
		    char why[128])
{
	struct guest *after = read_guest(image, length);
	bool kept = true;

	for (unsigned t = 0; t < TREES && kept; t++) {
		for (unsigned c = 0; c < GUEST_CLUSTERS && kept; c++) {
			if (before->hides[t][c] && shows_below(after, t, c)) {
				snprintf(why, 128,
					 "tree %u guest cluster %u reads the backing file", t, c);
				kept = false;
			}
			if (!before->readable[t][c])
				continue;
			kept = after->readable[t][c] &&
			       memcmp(before->bytes[t][c], after->bytes[t][c], CLUSTER) == 0;
			snprintf(why, 128, "tree %u guest cluster %u %s", t, c,
				 after->readable[t][c] ? "changed" : "cannot be read");
		}
	}
	free(after);
	return kept;
}

/* ---- repairing ---- */

struct job {
	struct ox_io *io;
	enum ox_repair repair;
	struct ox_check_result result;
	int error;
};

static void job_co(void *arg)
{
	struct job *job = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.repair = job->repair;
	job->error = ox_check_qcow2_co(job->io, &opts, &job->result, NULL);
}

static struct job run(struct ox_io *io, enum ox_repair repair)
{
	struct job job = {.io = io, .repair = repair};

	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	return job;
}

static uint64_t wrong(const struct job *job)
{
	return job->result.corruptions + job->result.check_errors;
}

/* One repair that nothing cuts: how it ends is how any other has to. */
static struct ox_check_result repair_whole(const struct image *im, const struct guest *before,
					   const char *name)
{
	struct cut cut = {0};
	struct ox_io *io = cut_open(reactor, &cut, im->bytes, im->length);
	struct job job = run(io, OX_REPAIR_ALL);
	char why[128];

	assert_int_equal(job.error, 0);
	assert_false(cut_is_unsynced(io));
	if (!is_kept(before, cut_bytes(io), io->length, why))
		fail_msg("%s: %s", name, why);
	if (wrong(&job) == 0 && job.result.leaks == 0 && raw_word(cut_bytes(io), 72) != 0)
		fail_msg("%s: clean, and still marked", name);
	ox_io_close(io);
	return job.result;
}

/* Whether a cut after so many changes came before the end. */
static bool repair_cut(const struct image *im, const struct guest *before,
		       const struct ox_check_result *whole, const char *name, unsigned after,
		       unsigned seed)
{
	struct cut cut = {.after = after};
	struct ox_io *io = cut_open(reactor, &cut, im->bytes, im->length);
	struct job job = run(io, OX_REPAIR_ALL);
	bool was_cut = job.error < 0;
	char why[128];

	cut.after = 0;
	if (was_cut) {
		cut_recover(io, seed);
		snprintf(why, sizeof(why), "%s, cut %u, seed %u", name, after, seed);
		promises_check(before->promises, cut_bytes(io), io->length, why);
		if (!is_kept(before, cut_bytes(io), io->length, why))
			fail_msg("%s, cut %u, seed %u: %s", name, after, seed, why);
		job = run(io, OX_REPAIR_ALL);
		assert_int_equal(job.error, 0);
		if (!is_kept(before, cut_bytes(io), io->length, why))
			fail_msg("%s, cut %u, seed %u, repaired again: %s", name, after, seed, why);
		if (wrong(&job) > whole->corruptions + whole->check_errors)
			fail_msg("%s, cut %u, seed %u: %u wrong, and %u without a cut", name, after,
				 seed, (unsigned)wrong(&job), (unsigned)whole->corruptions);
	}
	ox_io_close(io);
	return was_cut;
}

static unsigned repair_and_cut_everywhere(const struct image *im, const char *name, unsigned seeds)
{
	struct guest *before = read_guest(im->bytes, im->length);
	struct ox_check_result whole = repair_whole(im, before, name);
	unsigned after = 0;
	bool was_cut = true;

	before->promises = promises_of(im->bytes, im->length);
	while (was_cut) {
		was_cut = false;
		after++;
		for (unsigned seed = 1; seed <= seeds; seed++)
			was_cut |= repair_cut(im, before, &whole, name, after, seed);
	}
	promises_free(before->promises);
	free(before);
	return after;
}

/* ---- images ---- */

static void fill_data(struct image *im)
{
	for (uint64_t c = DATA; c < END; c++)
		memset(im->bytes + c * CLUSTER, (int)(0x30 + c), CLUSTER);
}

static struct image *filled_image(bool snapshot)
{
	struct image *im = new_image(4);

	fill_data(im);
	if (snapshot)
		add_snapshot(im);
	return im;
}

static void damage_l2_twice_with_snapshot(struct image *im)
{
	set_word(im, L1, 1, L2 * CLUSTER);
	set_word(im, L2, 9, COPIED | DATA * CLUSTER);
}

static void damage_unaligned(struct image *im)
{
	set_length(im, END + 4);
	set_refcount(im, END + 2, 1);
	memset(im->bytes + (END + 2) * CLUSTER, 0x77, CLUSTER);
	set_word(im, L2, 20, COPIED | ((END + 2) * CLUSTER + OX_QCOW2_ZERO) | UINT64_C(1) << 58);
}

static void damage_data_on_l2(struct image *im)
{
	set_word(im, L2, 5, COPIED | L2 * CLUSTER);
}

static void damage_many(struct image *im)
{
	damage_cross_link(im);
	damage_past_end(im);
	damage_unaligned(im);
	set_word(im, L2, 33, COPIED | DATA * CLUSTER);
	set_word(im, L2, 34, COPIED | OX_QCOW2_ZERO | DATA * CLUSTER);
	set_word(im, L2, 35, COPIED | L1 * CLUSTER);
	set_refcount(im, DATA + 1, 0);
}

/* What is left of its record says where its L1 table is, and how long the name is wrongly. */
static void damage_snapshot_name(struct image *im)
{
	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	memset(im->bytes + im->h.snapshots_offset + 14, 0xff, 2);
}

static void damage_snapshot_record(struct image *im)
{
	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	memset(im->bytes + im->h.snapshots_offset, 0, CLUSTER);
}

static void damage_snapshot_offset(struct image *im)
{
	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	im->h.snapshots_offset += (UINT64_C(1) << 40) + 1;
	put_header(im);
}

/* The first of two leads nowhere: what is left is one. */
static void damage_first_of_two_snapshots(struct image *im)
{
	uint8_t *record;

	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	record = im->bytes + im->h.snapshots_offset;
	memcpy(record + RECORD_BYTES, record, RECORD_BYTES);
	memcpy(record + RECORD_BYTES + 40 + 16, "2t", 2);
	record[0] = 0x7f;
	im->h.snapshot_count = 2;
	put_header(im);
}

/* Where the image is dirty, an L1 entry names what a file that grows would come to hold. */
static void damage_snapshot_and_past_end(struct image *im)
{
	damage_first_of_two_snapshots(im);
	set_word(im, L1, 1, COPIED | im->length);
}

static void add_backing(struct image *im)
{
	memcpy(im->bytes + 200, "base", 4);
	im->h.backing_offset = 200;
	im->h.backing_size = 4;
	put_header(im);
}

static void damage_l1_above_backing(struct image *im)
{
	add_backing(im);
	set_word(im, L1, 1, UINT64_C(1) << 60);
}

/* What is added to the file comes to lie where the entry points. */
static void damage_l1_past_end_above_backing(struct image *im)
{
	add_backing(im);
	set_word(im, L1, 1, COPIED | im->length);
}

/* So does the refcount block that the new table takes. */
static void damage_l1_at_block_above_backing(struct image *im)
{
	add_backing(im);
	set_length(im, CLUSTER / 2);
	set_word(im, L1, 1, im->length + CLUSTER);
}

/* Of a dirty image it is damaged, and not stale. */
static void damage_l1_reserved_past_end_above_backing(struct image *im)
{
	add_backing(im);
	set_word(im, L1, 1, COPIED | im->length | 1);
}

/* Beneath that block the file must not grow. */
static void damage_l1_and_block_above_backing(struct image *im)
{
	damage_l1_above_backing(im);
	set_word(im, REFTABLE, 1, im->length);
}

static void damage_both_l1_above_backing(struct image *im)
{
	add_backing(im);
	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	set_word(im, L1, 1, UINT64_C(1) << 60);
	set_word(im, snapshot_l1(im->bytes) / CLUSTER, 1, im->length);
}

static void damage_snapshot_count(struct image *im)
{
	if (im->h.snapshot_count == 0)
		add_snapshot(im);
	im->h.snapshot_count = 0;
	put_header(im);
}

/* A bitmap whose directory, table and data are there, and no header extension. */
static void damage_lost_bitmaps(struct image *im)
{
	uint64_t directory = im->length / CLUSTER;
	uint8_t *record = im->bytes + directory * CLUSTER;

	set_length(im, directory + 3);
	memset(record, 0, 3 * CLUSTER);
	set_word(im, directory, 0, (directory + 1) * CLUSTER);
	record[11] = 1; /* entry of its table */
	record[16] = 1; /* type */
	record[17] = 16;
	record[19] = 1; /* byte of its name */
	record[24] = 'b';
	set_word(im, directory + 1, 0, (directory + 2) * CLUSTER);
	for (uint64_t c = directory; c < directory + 3; c++)
		set_refcount(im, c, 1);
	im->h.autoclear |= OX_QCOW2_AUTOCLEAR_BITMAPS;
	put_header(im);
}

static void damage_refcount_and_snapshot_table(struct image *im)
{
	im->h.reftable_clusters = 0;
	im->h.snapshot_count = 0xabcdef01;
	put_header(im);
}

static void damage_header_length(struct image *im)
{
	im->bytes[103] = 90;
}

static void damage_extensions(struct image *im)
{
	memset(im->bytes + 112, 0x7f, 8);
}

static void damage_refcount_order(struct image *im)
{
	im->bytes[99] = 77;
}

static const struct damage more[] = {
	{"the header's length", damage_header_length, false},
	{"the header's extensions", damage_extensions, false},
	{"the width of counts", damage_refcount_order, false},
	{"the number of snapshots", damage_snapshot_count, false},
	{"the refcount table, and the number of snapshots", damage_refcount_and_snapshot_table,
	 false},
	{"the extension of the bitmaps", damage_lost_bitmaps, false},
	{"a snapshot's name", damage_snapshot_name, false},
	{"a snapshot's record", damage_snapshot_record, false},
	{"the place of the snapshot table", damage_snapshot_offset, false},
	{"the first of two snapshots", damage_first_of_two_snapshots, false},
	{"a snapshot, and an entry past the end", damage_snapshot_and_past_end, true},
	{"L2 named twice, and a cross-link within", damage_l2_twice_with_snapshot, false},
	{"unaligned and reserved", damage_unaligned, false},
	{"data on an L2 table", damage_data_on_l2, false},
	{"many at once", damage_many, false},
	{"L1 above a backing file", damage_l1_above_backing, false},
	{"L1 past the end, above a backing file", damage_l1_past_end_above_backing, false},
	{"L1 at the next block, above a backing file", damage_l1_at_block_above_backing, false},
	{"L1 reserved and past the end, above a backing file",
	 damage_l1_reserved_past_end_above_backing, false},
	{"L1 above a backing file, and a block past the end", damage_l1_and_block_above_backing,
	 true},
	{"two L1 tables above a backing file", damage_both_l1_above_backing, false},
};

static void cut_each(const struct damage *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		for (unsigned how = 0; how < 4; how++) {
			struct image *im = filled_image(how & 1);
			char name[128];

			snprintf(name, sizeof(name), "%s%s%s", list[i].finding,
				 how & 1 ? " +snapshot" : "", how & 2 ? " +dirty" : "");
			list[i].make(im);
			if (how & 2)
				make_dirty(im);
			repair_and_cut_everywhere(im, name, 8);
			free(im);
		}
	}
}

static void test_every_damage_is_repaired_across_every_cut(void **state)
{
	struct image *im = crashed_image();

	(void)state;
	cut_each(derived, derived_count);
	cut_each(structural, structural_count);
	cut_each(more, OX_ARRAY_SIZE(more));
	assert_true(repair_and_cut_everywhere(im, "crashed", 6) > 8);
	free(im);
}

static void test_all_that_can_be_repaired_is(void **state)
{
	(void)state;
	for (size_t i = 0; i < structural_count + OX_ARRAY_SIZE(more); i++) {
		const struct damage *d =
			i < structural_count ? &structural[i] : &more[i - structural_count];
		struct image *im = filled_image(false);
		struct guest *before;
		struct ox_check_result result;

		d->make(im);
		before = read_guest(im->bytes, im->length);
		result = repair_whole(im, before, d->finding);
		if ((result.corruptions == 0) == d->stays)
			fail_msg("%s: %u corruptions stay", d->finding,
				 (unsigned)result.corruptions);
		free(before);
		free(im);
	}
}

/* Flips bits in the tables, and copies entries over others. */
static struct image *random_damage(unsigned seed)
{
	static const uint64_t tables[] = {L1, L2, L2, L2, REFBLOCK, REFTABLE};
	struct image *im = filled_image(rand_r(&seed) & 1);
	unsigned count = (unsigned)rand_r(&seed) % 6 + 1;

	for (unsigned i = 0; i < count; i++) {
		uint64_t table = tables[(size_t)rand_r(&seed) % OX_ARRAY_SIZE(tables)];
		uint64_t index = (uint64_t)rand_r(&seed) % (table == L2 ? 40 : 3);
		uint64_t value = word(im, table, index);

		switch (rand_r(&seed) % 4) {
		case 0:
			value ^= UINT64_C(1) << rand_r(&seed) % 64;
			break;
		case 1:
			value ^= UINT64_C(1) << (9 + rand_r(&seed) % 5);
			break;
		case 2:
			value = (uint64_t)(rand_r(&seed) % 16) * CLUSTER |
				(rand_r(&seed) & 1 ? COPIED : 0);
			break;
		default:
			value = word(im, L2, (uint64_t)rand_r(&seed) % 4);
			break;
		}
		set_word(im, table, index, value);
	}
	if (rand_r(&seed) % 3 == 0)
		make_dirty(im);
	return im;
}

static void test_random_damage_never_gets_worse(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 800; seed++) {
		struct image *im = random_damage(seed);
		struct guest *before = read_guest(im->bytes, im->length);
		char name[32];

		snprintf(name, sizeof(name), "random %u", seed);
		repair_whole(im, before, name);
		if (seed % 40 == 0)
			repair_and_cut_everywhere(im, name, 2);
		free(before);
		free(im);
	}
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
		cmocka_unit_test(test_all_that_can_be_repaired_is),
		cmocka_unit_test(test_every_damage_is_repaired_across_every_cut),
		cmocka_unit_test(test_random_damage_never_gets_worse),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
