/* SPDX-License-Identifier: MIT */
/*
 * What a repair of a QED image owes the guest, whatever the damage and wherever it is cut: what
 * could be read before can be read after, the same repair finishes what another one began (D9), and
 * NEED_CHECK goes only where nothing but lost space is left (D6).
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
#include "check/undo/edit.h"
#include "cut_io.h"
#include "qed_image.h"

#define PAST UINT64_C(0x7000000000)
#define L1_LOOKED_AT 4u
#define L2_LOOKED_AT 12u

static struct ox_reactor *reactor;

static const struct qed_shape shapes[] = {
	{4096, 1, false},
	{4096, 1, true},
	{4096, 16, false},
	{65536, 2, true},
};

/* ---- checks ---- */

struct job {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	int error;
	/* the first finding of that name */
	const char *name;
	bool found;
	uint64_t guest_offset;
	uint64_t guest_length;
};

static void note(void *opaque, const struct ox_finding *finding)
{
	struct job *job = opaque;

	if (job->found || !job->name || strcmp(finding->name, job->name) != 0)
		return;
	job->found = true;
	job->guest_offset = finding->guest_offset;
	job->guest_length = finding->guest_length;
}

static void job_co(void *arg)
{
	struct job *job = arg;

	job->opts.finding = note;
	job->opts.opaque = job;
	job->error = ox_check_qed_co(job->io, &job->opts, &job->result, NULL);
}

static void run(struct job *job, struct ox_io *io, enum ox_repair repair)
{
	job->io = io;
	job->opts = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	job->opts.repair = repair;
	assert_int_equal(ox_reactor_call(reactor, job_co, job), 0);
}

static struct ox_io *store(const uint8_t *bytes, uint64_t length)
{
	struct ox_io *io;

	assert_int_equal(ox_io_memory_open(reactor, length, &io), 0);
	memcpy(ox_io_memory_bytes(io), bytes, length);
	return io;
}

/* ---- damages ---- */

struct damage {
	const char *name; /* of the finding */
	void (*make)(struct qed_image *im);
	bool stays;
	uint64_t entry; /* whose guest range is told, or the first of a table's */
	bool is_table;
};

/* Of the second table: entry number 0 of it. */
#define SECOND UINT64_MAX

static void damage_past_end(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, PAST);
}

static void damage_past_end_l1(struct qed_image *im)
{
	qed_set_l1(im, 1, PAST);
}

static void damage_unaligned(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, qed_data(im, 2) + 512);
}

static void damage_unaligned_taken(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, qed_data(im, 3) + 512);
}

static void damage_in_header(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, 8);
}

static void damage_l1_unaligned(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l2[1] + 1);
}

static void damage_l1_nowhere(struct qed_image *im)
{
	qed_set_l1(im, 1, PAST + 1);
}

static void damage_cross_link(struct qed_image *im)
{
	qed_set_l2(im, 1, 0, qed_data(im, 0));
	qed_set_l2(im, 1, 1, qed_data(im, 0));
}

static void damage_cross_link_l2(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l2[0]);
}

static void damage_data_on_l1(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, im->l1);
}

static void damage_data_on_own_table(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, im->l2[0]);
}

static void damage_l1_names_l1(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l1);
}

static void damage_tables_cross(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l2[0] - im->table_bytes + im->shape.cluster);
}

static void damage_l1_names_data(struct qed_image *im)
{
	qed_set_l1(im, 2, im->data);
}

static void damage_l1_names_data_and_is_lost(struct qed_image *im)
{
	qed_set_l1(im, 1, PAST);
	qed_set_l1(im, 2, qed_data(im, QED_FIRST - 1));
}

static void damage_short(struct qed_image *im)
{
	im->length -= 700;
	memset(im->bytes + im->length, 0, 700);
}

static void damage_many(struct qed_image *im)
{
	damage_past_end(im);
	damage_cross_link(im);
	qed_set_l2(im, 1, 3, qed_data(im, 9) + 16);
	qed_set_l2(im, 0, 9, im->l1);
	qed_set_l2(im, 0, 10, qed_data(im, 4));
	qed_set_l1(im, 3, im->l2[1]);
	damage_short(im);
}

static const struct damage damages[] = {
	{"past-end", damage_past_end, false, 2, false},
	{"past-end", damage_past_end_l1, false, SECOND, true},
	{"qed-l2-entry", damage_unaligned, false, 2, false},
	{"qed-l2-entry", damage_unaligned_taken, false, 2, false},
	{"qed-l2-entry", damage_in_header, false, 2, false},
	{"qed-l1-entry", damage_l1_unaligned, false, SECOND, true},
	{"qed-l1-entry", damage_l1_nowhere, true, SECOND, true},
	{"cross-link", damage_cross_link, false, SECOND, false},
	{"cross-link-l2", damage_cross_link_l2, false, SECOND, true},
	{"metadata-overlap", damage_data_on_l1, false, 2, false},
	{"metadata-overlap", damage_data_on_own_table, false, 2, false},
	{"metadata-overlap", damage_l1_names_l1, true, SECOND, true},
	{"metadata-overlap", damage_tables_cross, true, SECOND, true},
	{"metadata-overlap", damage_l1_names_data, false, 0, false},
	{"qed-l2-entry", damage_l1_names_data_and_is_lost, true, UINT64_MAX - 1, false},
	{"qed-short-file", damage_short, false, UINT64_MAX - 1, false},
	{"cross-link", damage_many, false, 10, false},
};

/* What a damage is in another shape: where the table is one cluster, another crosses all of it. */
static bool fits(const struct damage *d, const struct qed_shape *shape)
{
	if (d->make == damage_tables_cross)
		return shape->table_clusters > 1;
	if (d->make == damage_l1_names_data || d->make == damage_l1_names_data_and_is_lost)
		return shape->table_clusters <= QED_DATA - QED_FIRST;
	/* What would show through is not let in. */
	return !shape->has_backing || d->make != damage_past_end_l1;
}

/* ---- what the guest reads ---- */

/* Whether all that could be read before is as it was. */
static bool is_kept(const struct qed_image *before, const uint8_t *bytes, uint64_t length,
		    char why[128])
{
	for (uint64_t i = 0; i < L1_LOOKED_AT * L2_LOOKED_AT; i++) {
		uint64_t l1 = i / L2_LOOKED_AT;
		uint64_t l2 = i % L2_LOOKED_AT;
		uint64_t from = 0;
		uint64_t to = 0;
		enum qed_reads was = qed_read(before, before->bytes, before->length, l1, l2, &from);
		enum qed_reads is = qed_read(before, bytes, length, l1, l2, &to);

		if (was == QED_EIO)
			continue;
		snprintf(why, 128, "entry %u of table %u", (unsigned)l2, (unsigned)l1);
		if (was != is || (was == QED_BYTES && memcmp(before->bytes + from, bytes + to,
							     before->shape.cluster) != 0))
			return false;
	}
	return true;
}

/* Data that lie on tables change with them. */
static bool reads_tables(const struct damage *d)
{
	return d->make == damage_data_on_l1 || d->make == damage_data_on_own_table ||
	       d->make == damage_many || d->make == damage_l1_names_l1 ||
	       d->make == damage_l1_names_data;
}

static void check_guest(const struct qed_image *im, const struct damage *d, struct ox_io *io,
			bool is_cut_store, const char *when)
{
	const uint8_t *bytes = is_cut_store ? cut_bytes(io) : ox_io_memory_bytes(io);
	char why[128] = "";

	if (!reads_tables(d) && !is_kept(im, bytes, io->length, why))
		fail_msg("%s, %s: %s reads something else", d->name, when, why);
	if (qed_is_marked(im->bytes) && !qed_is_marked(bytes) &&
	    qed_problems(im, bytes, io->length) > 0)
		fail_msg("%s, %s: NEED_CHECK is cleared over what is wrong", d->name, when);
}

static struct qed_image *damaged(const struct damage *d, const struct qed_shape *shape)
{
	struct qed_image *im = qed_image_new(*shape);

	d->make(im);
	return im;
}

/* Each damage in each shape. */
static void for_each(void (*test)(const struct damage *d, const struct qed_shape *shape))
{
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (size_t i = 0; i < OX_ARRAY_SIZE(damages); i++) {
			if (fits(&damages[i], &shapes[s]))
				test(&damages[i], &shapes[s]);
		}
	}
}

/* ---- tests ---- */

static void check_named(const struct damage *d, const struct qed_shape *shape)
{
	struct qed_image *im = damaged(d, shape);
	struct ox_io *io = store(im->bytes, im->length);
	struct job job = {.name = d->name};
	uint64_t entry = d->entry == SECOND ? im->entries : d->entry;

	run(&job, io, OX_REPAIR_NONE);
	assert_int_equal(job.error, 0);
	if (!job.found)
		fail_msg("%s is not found", d->name);
	assert_true(job.result.corruptions > 0);
	assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
	if (d->entry != UINT64_MAX - 1) {
		assert_int_equal(job.guest_offset, entry * shape->cluster);
		assert_int_equal(job.guest_length,
				 (d->is_table ? im->entries : 1) * shape->cluster);
	}
	ox_io_close(io);
	qed_image_free(im);
}

static void test_each_damage_has_its_name_and_guest_range(void **state)
{
	(void)state;
	for_each(check_named);
}

static void check_repaired(const struct damage *d, const struct qed_shape *shape)
{
	struct qed_image *im = damaged(d, shape);
	struct job job = {0};
	struct ox_io *io;
	uint64_t fixed;

	qed_mark(im);
	/* Of an image that was not closed, what is past the end never was. */
	if (strcmp(d->name, "past-end") == 0)
		im->bytes[16] &= ~2;
	io = store(im->bytes, im->length);
	run(&job, io, OX_REPAIR_ALL);
	assert_int_equal(job.error, 0);
	check_guest(im, d, io, false, "repaired");
	if ((job.result.corruptions > 0) != d->stays)
		fail_msg("%s: %u corruptions stay", d->name, (unsigned)job.result.corruptions);
	if (!d->stays)
		assert_int_equal(qed_problems(im, ox_io_memory_bytes(io), io->length), 0);
	assert_int_equal(qed_is_marked(ox_io_memory_bytes(io)), d->stays);
	fixed = job.result.corruptions;
	run(&job, io, OX_REPAIR_ALL);
	assert_int_equal(job.result.corruptions, fixed);
	assert_int_equal(job.result.corruptions_fixed, 0);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_what_can_be_repaired_is_and_a_second_repair_finds_nothing_to_do(void **state)
{
	(void)state;
	for_each(check_repaired);
}

/* Whether the cut came before the end. */
static bool cut_once(const struct qed_image *im, const struct damage *d, unsigned after,
		     unsigned seed, uint64_t stay)
{
	struct cut cut = {.after = after, .room_bytes = UINT64_C(4) << 20, .sparse = true};
	struct ox_io *io = cut_open(reactor, &cut, im->bytes, im->length);
	struct job job = {0};
	bool was_cut;
	char when[64];

	run(&job, io, OX_REPAIR_ALL);
	was_cut = job.error < 0;
	cut.after = 0;
	if (was_cut) {
		snprintf(when, sizeof(when), "cut %u, seed %u", after, seed);
		cut_recover(io, seed);
		check_guest(im, d, io, true, when);
		run(&job, io, OX_REPAIR_ALL);
		assert_int_equal(job.error, 0);
		strcat(when, ", repaired again");
		check_guest(im, d, io, true, when);
		if (job.result.corruptions > stay)
			fail_msg("%s, %s: %u corruptions", d->name, when,
				 (unsigned)job.result.corruptions);
	}
	assert_false(cut_is_unsynced(io));
	ox_io_close(io);
	return was_cut;
}

static void cut_everywhere(const struct damage *d, const struct qed_shape *shape)
{
	/* Of large clusters, which take their time, fewer. */
	bool is_large = shape->cluster > 4096;
	unsigned seeds = is_large ? 1 : 3;

	for (unsigned marked = is_large; marked < 2; marked++) {
		struct qed_image *im = damaged(d, shape);
		struct job whole = {0};
		bool was_cut = true;
		struct ox_io *io;

		if (marked)
			qed_mark(im);
		io = store(im->bytes, im->length);
		run(&whole, io, OX_REPAIR_ALL);
		ox_io_close(io);
		for (unsigned after = 1; was_cut; after++) {
			was_cut = false;
			for (unsigned seed = 1; seed <= seeds; seed++)
				was_cut |= cut_once(im, d, after, seed, whole.result.corruptions);
		}
		qed_image_free(im);
	}
}

static void test_every_damage_is_repaired_across_every_cut(void **state)
{
	(void)state;
	for_each(cut_everywhere);
}

static const struct damage none = {"none", NULL, false, 0, false};

static void test_need_check_goes_where_nothing_but_lost_space_is_left(void **state)
{
	(void)state;
	for (unsigned repair = OX_REPAIR_NONE; repair <= OX_REPAIR_ALL; repair++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		struct job job = {0};
		struct ox_io *io;

		qed_mark(im);
		qed_set_l2(im, 0, 2, 0);
		io = store(im->bytes, im->length);
		run(&job, io, repair);
		assert_int_equal(job.result.leaks, repair == OX_REPAIR_NONE);
		assert_int_equal(job.result.leaks_fixed, repair != OX_REPAIR_NONE);
		assert_int_equal(qed_is_marked(ox_io_memory_bytes(io)), repair == OX_REPAIR_NONE);
		check_guest(im, &none, io, false, "lost space");
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_a_stale_entry_reads_again_what_was_there_before(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct job job = {.name = "stale-entry"};
	uint64_t at;
	struct ox_io *io;

	(void)state;
	qed_mark(im);
	damage_past_end(im);
	damage_past_end_l1(im);
	io = store(im->bytes, im->length);
	run(&job, io, OX_REPAIR_ALL);
	assert_true(job.found);
	assert_int_equal(job.result.corruptions, 0);
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 0, 2, &at), QED_HOLE);
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 1, 0, &at), QED_HOLE);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_what_a_lost_entry_hid_of_a_backing_file_stays_hidden(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct job job = {0};
	struct ox_io *io;
	uint64_t at;

	(void)state;
	damage_past_end(im);
	damage_past_end_l1(im);
	io = store(im->bytes, im->length);
	run(&job, io, OX_REPAIR_ALL);
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 0, 2, &at), QED_ZEROES);
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 1, 0, &at), QED_EIO);
	assert_int_equal(job.result.corruptions, 1);
	ox_io_close(io);
	qed_image_free(im);
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
		cmocka_unit_test(test_each_damage_has_its_name_and_guest_range),
		cmocka_unit_test(
			test_what_can_be_repaired_is_and_a_second_repair_finds_nothing_to_do),
		cmocka_unit_test(test_every_damage_is_repaired_across_every_cut),
		cmocka_unit_test(test_need_check_goes_where_nothing_but_lost_space_is_left),
		cmocka_unit_test(test_a_stale_entry_reads_again_what_was_there_before),
		cmocka_unit_test(test_what_a_lost_entry_hid_of_a_backing_file_stays_hidden),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
