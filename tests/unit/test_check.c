/* SPDX-License-Identifier: MIT */
/*
 * The check, its repairs and the recovery, on images that are built here entry by entry: clusters
 * of 512 bytes, and a layout that every test starts from.
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
#include "check/counts/counts.h"
#include "damaged.h"
#include "fmt/qcow2.h"
#include "io/io.h"
#include "rt/reactor.h"

static struct ox_reactor *reactor;

/* ---- a store whose power is cut ---- */

/*
 * What was written since the last sync may be lost, sector by sector (M2). The cut comes after
 * cut_after writes and length changes; from then on everything fails.
 */
struct power {
	struct image *durable;
	struct image *current;
	unsigned cut_after; /* 0: never */
	unsigned changes;
};

static struct power power;
static const struct ox_io_ops *memory_ops;

static bool is_cut(void)
{
	return power.cut_after && power.changes >= power.cut_after;
}

static int64_t power_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				unsigned flags)
{
	uint64_t at = offset;

	if (is_cut())
		return -EIO;
	power.changes++;
	for (int i = 0; i < n; i++) {
		assert_true(at + iov[i].iov_len <= MAX_IMAGE);
		memcpy(power.current->bytes + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	power.current->length = ox_max_u64(power.current->length, at);
	return memory_ops->pwritev_co(io, iov, n, offset, flags);
}

static int power_set_length_co(struct ox_io *io, uint64_t length)
{
	if (is_cut())
		return -EIO;
	power.changes++;
	power.current->length = length;
	return memory_ops->set_length_co(io, length);
}

static int power_sync_co(struct ox_io *io)
{
	(void)io;
	if (is_cut())
		return -EIO;
	*power.durable = *power.current;
	return 0;
}

/* What the medium holds after the cut: each sector that was not synced, old or new. */
static void lose_unsynced(struct image *im, unsigned seed)
{
	*im = *power.durable;
	srandom(seed);
	if (random() % 2)
		im->length = power.current->length;
	for (uint64_t at = 0; at < im->length; at += CLUSTER) {
		if (random() % 2)
			memcpy(im->bytes + at, power.current->bytes + at, CLUSTER);
	}
	memset(im->bytes + im->length, 0, MAX_IMAGE - im->length);
}

/* ---- running ---- */

struct run {
	struct image *im;
	struct ox_io *io;
	enum ox_repair repair;
	bool recover;
	struct ox_check_result result;
	char names[1024];    /* of the findings that were reported, each followed by a blank */
	uint64_t lost_bytes; /* of the guest, as findings said */
	int error;
	struct ox_error *err;
};

static void note_finding(void *opaque, const struct ox_finding *f)
{
	struct run *run = opaque;
	size_t used = strlen(run->names);

	if (f->repaired && f->fate && strcmp(f->fate, "lost") == 0)
		run->lost_bytes += f->guest_length;
	if (!f->repaired)
		snprintf(run->names + used, sizeof(run->names) - used, "%s ", f->name);
}

static void run_co(void *arg)
{
	struct run *run = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	uint64_t kept;

	opts.repair = run->repair;
	opts.finding = note_finding;
	opts.opaque = run;
	if (run->recover)
		run->error = ox_check_recovery.rebuild_co(run->io, &run->err, NULL, NULL, &kept);
	else
		run->error = ox_check_qcow2_co(run->io, &opts, &run->result, &run->err);
}

/* Runs on a store that holds the image, and takes its bytes back. */
static struct run run_on(struct image *im, enum ox_repair repair, bool recover)
{
	static struct ox_io_ops power_ops;
	struct run run = {.im = im, .repair = repair, .recover = recover};

	assert_int_equal(ox_io_memory_open(reactor, im->length, &run.io), 0);
	memcpy(ox_io_memory_bytes(run.io), im->bytes, im->length);
	memory_ops = run.io->ops;
	power_ops = *memory_ops;
	power_ops.pwritev_co = power_pwritev_co;
	power_ops.sync_co = power_sync_co;
	power_ops.set_length_co = power_set_length_co;
	run.io->ops = &power_ops;
	*power.durable = *im;
	*power.current = *im;
	power.changes = 0;
	assert_int_equal(ox_reactor_call(reactor, run_co, &run), 0);
	run.io->ops = memory_ops;
	if (!power.cut_after) {
		assert_true(run.io->length <= MAX_IMAGE);
		im->length = run.io->length;
		memcpy(im->bytes, ox_io_memory_bytes(run.io), im->length);
		/* All that was written was also synced. */
		assert_memory_equal(power.durable->bytes, im->bytes, im->length);
		decode_header(im);
	}
	ox_io_close(run.io);
	return run;
}

static struct run check(struct image *im)
{
	struct run run = run_on(im, OX_REPAIR_NONE, false);

	assert_int_equal(run.error, 0);
	return run;
}

static struct run repair(struct image *im, enum ox_repair how)
{
	struct run run = run_on(im, how, false);

	assert_int_equal(run.error, 0);
	return run;
}

static void assert_clean(struct image *im)
{
	struct run run = check(im);

	assert_string_equal(run.names, "");
	assert_int_equal(run.result.corruptions, 0);
	assert_int_equal(run.result.leaks, 0);
	assert_int_equal(run.result.check_errors, 0);
}

/* ---- finding ---- */

static void test_sound_image_has_no_findings(void **state)
{
	(void)state;
	for (unsigned order = 0; order <= 6; order++) {
		struct image *im = new_image(order);
		struct run run = check(im);

		assert_string_equal(run.names, "");
		assert_int_equal(run.result.total_clusters, 128);
		assert_int_equal(run.result.allocated_clusters, 3);
		assert_int_equal(run.result.fragmented_clusters, 0);
		assert_int_equal(run.result.image_end_offset, END * CLUSTER);
		assert_int_equal(power.changes, 0);
		free(im);
	}
}

static void test_shared_snapshot_has_no_findings(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	add_snapshot(im);
	assert_clean(im);
	free(im);
}

static void test_each_damage_has_its_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < derived_count + structural_count; i++) {
		const struct damage *d =
			i < derived_count ? &derived[i] : &structural[i - derived_count];
		struct image *im = new_image(4);
		struct run run;

		d->make(im);
		run = check(im);
		if (!strstr(run.names, d->finding))
			fail_msg("expected %s, found %s", d->finding, run.names);
		free(im);
	}
}

static void test_refcounts_past_the_end_are_leaks(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	set_refcount(im, END + 5, 1);
	assert_string_equal(check(im).names, "leaked-cluster ");
	repair(im, OX_REPAIR_LEAKS);
	assert_int_equal(refcount(im, END + 5), 0);
	assert_clean(im);
	free(im);
}

static void test_count_beyond_the_width_is_a_finding_and_mended(void **state)
{
	struct image *im = new_image(0);

	(void)state;
	add_snapshot(im); /* wants counts of two, in one bit */
	assert_non_null(strstr(check(im).names, "refcount-overflow "));
	make_dirty(im);
	repair(im, OX_REPAIR_LEAKS);
	assert_true(is_dirty(im));
	repair(im, OX_REPAIR_ALL);
	assert_false(is_dirty(im));
	assert_int_equal(im->h.refcount_order, 1);
	assert_clean(im);
	free(im);
}

/* ---- repairing ---- */

static void test_repair_all_mends_what_is_derived(void **state)
{
	(void)state;
	for (size_t i = 0; i < derived_count; i++) {
		struct image *im = new_image(4);
		struct run run;

		derived[i].make(im);
		make_dirty(im);
		run = repair(im, OX_REPAIR_ALL);
		assert_string_equal(run.names, "");
		assert_true(run.result.dirty_cleared);
		assert_true(run.result.corruptions_fixed + run.result.leaks_fixed > 0);
		assert_false(is_dirty(im));
		assert_clean(im);
		free(im);
	}
}

static void test_structural_damage_keeps_leaks_and_the_dirty_bit(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2 * structural_count; i++) {
		struct image *im = new_image(4);
		enum ox_repair how = i % 2 ? OX_REPAIR_ALL : OX_REPAIR_LEAKS;

		structural[i / 2].make(im);
		/* A cluster that nothing names: what the damaged entry may have meant. */
		set_length(im, END + 8);
		set_refcount(im, END + 7, 1);
		make_dirty(im);
		/* On a dirty image one is a stale entry, and not structural. */
		if (structural[i / 2].make == damage_past_end ||
		    (how == OX_REPAIR_ALL && !structural[i / 2].stays)) {
			free(im);
			continue;
		}
		repair(im, how);
		assert_int_equal(refcount(im, END + 7), 1);
		assert_true(is_dirty(im));
		assert_int_not_equal(check(im).result.corruptions, 0);
		free(im);
	}
}

static void test_cross_link_is_not_papered_over(void **state)
{
	struct image *im = new_image(4);
	uint64_t copy;

	(void)state;
	im->bytes[DATA * CLUSTER + 9] = 99;
	damage_cross_link(im);
	repair(im, OX_REPAIR_LEAKS);
	assert_non_null(strstr(check(im).names, "cross-link "));
	repair(im, OX_REPAIR_ALL);
	assert_int_equal(refcount(im, DATA), 1);
	assert_int_equal(word(im, L2, 0), COPIED | DATA * CLUSTER);
	copy = (word(im, L2, 9) & ~COPIED) / CLUSTER;
	assert_true(copy >= END);
	assert_int_equal(refcount(im, copy), 1);
	assert_int_equal(im->bytes[copy * CLUSTER + 9], 99);
	assert_clean(im);
	free(im);
}

static void test_snapshot_sharing_with_a_low_count_is_mended(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	add_snapshot(im);
	for (uint64_t c = L2; c < END; c++)
		set_refcount(im, c, 1);
	repair(im, OX_REPAIR_ALL);
	assert_int_equal(refcount(im, DATA), 2);
	assert_clean(im);
	free(im);
}

static void test_repair_leaks_leaves_corruption_and_dirty(void **state)
{
	struct image *im = new_image(4);
	struct run run;

	(void)state;
	set_refcount(im, DATA, 0);
	set_length(im, END + 1);
	set_refcount(im, END, 3);
	make_dirty(im);
	run = repair(im, OX_REPAIR_LEAKS);
	assert_int_equal(refcount(im, END), 0);
	assert_int_equal(refcount(im, DATA), 0);
	assert_int_equal(run.result.leaks_fixed, 1);
	assert_int_not_equal(run.result.corruptions, 0);
	assert_true(is_dirty(im));
	free(im);
}

static void test_repair_leaks_sets_copied_where_it_lowers_to_one(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	damage_leak(im);
	repair(im, OX_REPAIR_LEAKS);
	assert_int_equal(word(im, L2, 2), COPIED | (END - 1) * CLUSTER);
	assert_clean(im);
	free(im);
}

static void test_stale_entry_of_a_dirty_image_is_dropped(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	set_word(im, L2, 9, COPIED | END * CLUSTER);
	set_word(im, L2, 10, COPIED | OX_QCOW2_ZERO | (END + 1) * CLUSTER);
	set_word(im, L1, 1, COPIED | (END + 2) * CLUSTER);
	make_dirty(im);
	/* A block must be made, and must not come to lie where those entries point. */
	set_word(im, REFTABLE, 0, 0);
	repair(im, OX_REPAIR_ALL);
	assert_int_equal(word(im, L2, 9), 0);
	assert_int_equal(word(im, L2, 10), OX_QCOW2_ZERO);
	assert_int_equal(word(im, L1, 1), 0);
	assert_false(is_dirty(im));
	assert_clean(im);
	free(im);
}

static void test_entry_past_the_end_of_a_clean_image_is_lost_and_said_to_be(void **state)
{
	struct image *im = new_image(4);
	struct run run;

	(void)state;
	set_word(im, L2, 9, COPIED | (END + 4) * CLUSTER);
	set_length(im, END + 4);
	/* What nobody names may be what the entry meant: it stays for now. What the file does not
	 * have holds nothing. */
	set_refcount(im, END + 3, 1);
	set_refcount(im, END + 6, 1);
	run = repair(im, OX_REPAIR_ALL);
	assert_int_equal(word(im, L2, 9), 0);
	assert_int_equal(run.lost_bytes, CLUSTER);
	assert_string_equal(run.names, "leaked-cluster ");
	repair(im, OX_REPAIR_LEAKS);
	assert_clean(im);
	free(im);
}

static void test_corrupt_bit_goes_with_repair_all_alone(void **state)
{
	struct image *im = new_image(4);

	(void)state;
	im->h.incompatible |= OX_QCOW2_INCOMPAT_CORRUPT;
	put_header(im);
	repair(im, OX_REPAIR_LEAKS);
	assert_true(im->h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT);
	repair(im, OX_REPAIR_ALL);
	assert_int_equal(im->h.incompatible, 0);
	free(im);
}

/* ---- recovering ---- */

static void test_recovery_makes_all_counts_right(void **state)
{
	struct image *im = crashed_image();
	struct run run = run_on(im, OX_REPAIR_NONE, true);

	(void)state;
	assert_int_equal(run.error, 0);
	assert_int_not_equal(im->h.reftable_offset, REFTABLE * CLUSTER);
	/* The bit is the caller's to clear. */
	assert_true(is_dirty(im));
	assert_string_equal(check(im).names, "dirty ");
	assert_int_equal(word(im, L2, 9), 0);
	assert_int_equal(word(im, L2, 11), COPIED | 70 * CLUSTER);
	free(im);
}

static void test_recovery_refuses_structural_damage_and_writes_nothing(void **state)
{
	struct image *im = crashed_image();
	struct run run;

	(void)state;
	damage_cross_link(im);
	run = run_on(im, OX_REPAIR_NONE, true);
	assert_true(run.error < 0);
	assert_int_equal(power.changes, 0);
	assert_non_null(strstr(ox_error_message(run.err), "oxbow check"));
	ox_error_free(run.err);
	free(im);
}

/* Whether a cut after so many changes leaves an image that the same run finishes (D9). */
static bool survives_cut(unsigned cut_after, unsigned seed, bool recover)
{
	struct image *im = crashed_image();
	uint64_t corruptions = check(im).result.corruptions;
	struct run run;
	bool was_cut;

	power.cut_after = cut_after;
	run = run_on(im, recover ? OX_REPAIR_NONE : OX_REPAIR_ALL, recover);
	ox_error_free(run.err);
	was_cut = run.error < 0;
	lose_unsynced(im, seed);
	power.cut_after = 0;
	if (was_cut) {
		/* Bytes that the guest had are named as before. */
		assert_int_equal(word(im, L2, 10), COPIED | 4099 * CLUSTER);
		/* Nothing is worse than it was (D3). */
		assert_true(check(im).result.corruptions <= corruptions);
		run = run_on(im, recover ? OX_REPAIR_NONE : OX_REPAIR_ALL, recover);
		if (run.error < 0)
			fail_msg("cut %u seed %u: %s", cut_after, seed, ox_error_message(run.err));
	}
	if (recover)
		assert_string_equal(check(im).names, "dirty ");
	else
		assert_clean(im);
	assert_int_equal(word(im, L2, 9), 0);
	free(im);
	return was_cut;
}

static void test_cut_at_any_write_is_finished_by_the_same_repair(void **state)
{
	(void)state;
	for (unsigned recover = 0; recover < 2; recover++) {
		unsigned cut = 1;

		for (bool was_cut = true; was_cut; cut++) {
			was_cut = false;
			for (unsigned seed = 1; seed <= 6; seed++)
				was_cut |= survives_cut(cut, seed, recover);
		}
		assert_true(cut > 8);
	}
}

/* ---- cells ---- */

static void test_cells_hold_state_and_count(void **state)
{
	static const uint32_t values[] = {1, 15, 16, 255, 70000, OX_COUNT_MAX};
	struct ox_counts k;

	(void)state;
	assert_int_equal(ox_counts_init(&k, UINT64_C(1) << 40), 0);
	for (unsigned i = 0; i < OX_ARRAY_SIZE(values); i++) {
		uint64_t cluster = i * UINT64_C(100000007) + i;
		struct ox_cell cell = {.state = OX_CELL_DATA | OX_CELL_COPIED, .count = values[i]};

		assert_int_equal(ox_counts_set(&k, cluster, cell), 0);
		assert_int_equal(ox_counts_set(&k, cluster + 1, (struct ox_cell){1, 1}), 0);
		assert_int_equal(ox_counts_get(&k, cluster).count, values[i]);
		assert_int_equal(ox_counts_get(&k, cluster).state, cell.state);
		assert_int_equal(ox_counts_get(&k, cluster + 1).count, 1);
		assert_int_equal(ox_counts_get(&k, cluster + 2).state, OX_CELL_NONE);
	}
	assert_int_equal(ox_counts_get(&k, UINT64_MAX).state, OX_CELL_NONE);
	ox_counts_free(&k);
}

static void test_next_cell_skips_what_is_not_there(void **state)
{
	struct ox_counts k;

	(void)state;
	assert_int_equal(ox_counts_init(&k, UINT64_C(1) << 36), 0);
	assert_int_equal(ox_counts_next(&k, 0, 1000), 1000);
	assert_int_equal(ox_counts_set(&k, 4095, (struct ox_cell){OX_CELL_META, 1}), 0);
	assert_int_equal(ox_counts_set(&k, UINT64_C(1) << 35, (struct ox_cell){OX_CELL_META, 1}),
			 0);
	assert_int_equal(ox_counts_next(&k, 0, UINT64_MAX), 4095);
	assert_int_equal(ox_counts_next(&k, 4096, UINT64_MAX), UINT64_C(1) << 35);
	assert_int_equal(ox_counts_next(&k, 4096, 9000), 9000);
	assert_int_equal(ox_counts_next(&k, (UINT64_C(1) << 35) + 1, UINT64_MAX), UINT64_MAX);
	ox_counts_free(&k);
}

static int setup(void **state)
{
	(void)state;
	power.durable = calloc(1, sizeof(*power.durable));
	power.current = calloc(1, sizeof(*power.current));
	return !power.durable || !power.current ||
	       ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	free(power.durable);
	free(power.current);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound_image_has_no_findings),
		cmocka_unit_test(test_shared_snapshot_has_no_findings),
		cmocka_unit_test(test_each_damage_has_its_name),
		cmocka_unit_test(test_refcounts_past_the_end_are_leaks),
		cmocka_unit_test(test_count_beyond_the_width_is_a_finding_and_mended),
		cmocka_unit_test(test_repair_all_mends_what_is_derived),
		cmocka_unit_test(test_structural_damage_keeps_leaks_and_the_dirty_bit),
		cmocka_unit_test(test_cross_link_is_not_papered_over),
		cmocka_unit_test(test_snapshot_sharing_with_a_low_count_is_mended),
		cmocka_unit_test(test_repair_leaks_leaves_corruption_and_dirty),
		cmocka_unit_test(test_repair_leaks_sets_copied_where_it_lowers_to_one),
		cmocka_unit_test(test_stale_entry_of_a_dirty_image_is_dropped),
		cmocka_unit_test(test_entry_past_the_end_of_a_clean_image_is_lost_and_said_to_be),
		cmocka_unit_test(test_corrupt_bit_goes_with_repair_all_alone),
		cmocka_unit_test(test_recovery_makes_all_counts_right),
		cmocka_unit_test(test_recovery_refuses_structural_damage_and_writes_nothing),
		cmocka_unit_test(test_cut_at_any_write_is_finished_by_the_same_repair),
		cmocka_unit_test(test_cells_hold_state_and_count),
		cmocka_unit_test(test_next_cell_skips_what_is_not_there),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
