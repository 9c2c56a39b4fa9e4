/* SPDX-License-Identifier: MIT */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "meta/cache.h"
#include "watched_io.h"

#define SLICE 4096u
#define STORE_SLICES 64u

static struct ox_io *io;
static struct ox_order order;
static struct ox_cache cache;
static unsigned finished;

static int setup_blocks(size_t blocks)
{
	if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0)
		return -1;
	io = watched_io_open(reactor, STORE_SLICES * SLICE);
	ox_order_init(&order, io, false);
	finished = 0;
	return ox_cache_init(&cache, io, &order, SLICE, 2 * blocks * SLICE);
}

static int setup(void **state)
{
	(void)state;
	return setup_blocks(STORE_SLICES);
}

static int teardown(void **state)
{
	(void)state;
	ox_cache_fini(&cache);
	watched_io_close(io);
	ox_reactor_destroy(reactor);
	return 0;
}

/* The least that the rules must hold with (H10). */
static int setup_tiny(void **state)
{
	(void)state;
	return setup_blocks(0);
}

#define TINY_TASK_TEST(claim)                                                                      \
	{                                                                                          \
#claim, run_task_test, setup_tiny, teardown, &(ox_co_fn)                           \
		{                                                                                  \
			claim##_co                                                                 \
		}                                                                                  \
	}

static struct ox_block *get_co(unsigned slice)
{
	struct ox_block *b = NULL;

	assert_int_equal(ox_cache_get_co(&cache, (uint64_t)slice * SLICE, &b), 0);
	assert_int_equal(b->offset, (uint64_t)slice * SLICE);
	return b;
}

static struct ox_block *edit_co(unsigned slice)
{
	struct ox_block *b = NULL;

	assert_int_equal(ox_cache_edit_co(&cache, (uint64_t)slice * SLICE, &b), 0);
	return b;
}

/* Fills the slice, a change that owes the barrier. */
static void change_co(unsigned slice, uint8_t byte, uint64_t after)
{
	struct ox_block *b = edit_co(slice);

	memset(b->data, byte, SLICE);
	ox_cache_dirty(&cache, b, after);
	ox_cache_put(&cache, b);
}

static bool is_durable_co(unsigned slice)
{
	struct ox_block *b = get_co(slice);
	bool durable = ox_cache_is_durable(&cache, b);

	ox_cache_put(&cache, b);
	return durable;
}

/* Whether the slice holds nothing but the byte, on the store. */
static bool stored(unsigned slice, uint8_t byte)
{
	const uint8_t *at = watched_bytes(io) + (uint64_t)slice * SLICE;

	for (size_t i = 0; i < SLICE; i++) {
		if (at[i] != byte)
			return false;
	}
	return true;
}

/* The nth write to the slice; NULL where there was none. */
static const struct watched_write *write_to(unsigned slice, unsigned nth)
{
	uint64_t offset = (uint64_t)slice * SLICE;

	for (unsigned i = 0; i < watched.write_count; i++) {
		const struct watched_write *w = &watched.writes[i];

		if (offset >= w->offset && offset < w->offset + w->length && nth-- == 0)
			return w;
	}
	return NULL;
}

static void flush_task_co(void *ret_result)
{
	*(int *)ret_result = ox_cache_flush_co(&cache);
	finished++;
}

static void await_finished_co(unsigned n)
{
	while (finished < n)
		ox_co_yield_co();
}

/* ---- reading ---- */

static void a_slice_is_read_once_and_past_the_end_is_zero_co(void *arg)
{
	struct ox_block *b;

	(void)arg;
	memset(watched_bytes(io) + SLICE, 0x11, SLICE);
	for (int i = 0; i < 3; i++) {
		b = get_co(1);
		assert_int_equal(b->data[SLICE - 1], 0x11);
		ox_cache_put(&cache, b);
	}
	assert_int_equal(watched.reads, 1);
	assert_int_equal(cache.hits, 2);
	assert_int_equal(cache.misses, 1);
	b = get_co(STORE_SLICES + 5);
	assert_int_equal(b->data[0] | b->data[SLICE - 1], 0);
	ox_cache_put(&cache, b);
}

static void get_one_task_co(void *ret_block)
{
	*(struct ox_block **)ret_block = get_co(3);
	finished++;
}

static void tasks_that_want_one_slice_share_its_read_co(void *arg)
{
	struct ox_block *blocks[8];

	(void)arg;
	for (int i = 0; i < 8; i++)
		spawn(get_one_task_co, &blocks[i]);
	await_finished_co(8);
	assert_int_equal(watched.reads, 1);
	for (int i = 0; i < 8; i++) {
		assert_ptr_equal(blocks[i], blocks[0]);
		ox_cache_put(&cache, blocks[i]);
	}
}

static void a_failed_read_is_not_cached_co(void *arg)
{
	struct ox_block *b = NULL;

	(void)arg;
	watched.read_error = -EIO;
	assert_int_equal(ox_cache_get_co(&cache, SLICE, &b), -EIO);
	assert_null(b);
	watched.read_error = 0;
	ox_cache_put(&cache, get_co(1));
}

static void a_slice_that_is_known_to_be_zero_is_not_read_co(void *arg)
{
	struct ox_block *b;

	(void)arg;
	memset(watched_bytes(io) + SLICE, 0x11, SLICE);
	change_co(2, 0x22, OX_TICKET_NONE);
	watched.reads = 0;
	for (unsigned slice = 1; slice <= 2; slice++) {
		assert_int_equal(ox_cache_edit_zero_co(&cache, (uint64_t)slice * SLICE, &b), 0);
		assert_int_equal(b->data[0] | b->data[SLICE - 1], 0);
		ox_cache_put(&cache, b);
	}
	assert_int_equal(watched.reads, 0);
}

/* ---- flushing ---- */

static void a_change_reaches_the_store_by_a_flush_and_not_before_co(void *arg)
{
	(void)arg;
	change_co(1, 0xaa, OX_TICKET_NONE);
	let_others_run_co();
	assert_true(stored(1, 0));
	assert_true(ox_cache_is_busy(&cache));
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0xaa));
	assert_false(ox_cache_is_busy(&cache));
	assert_int_equal(watched.syncs_asked, 0);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(watched.write_count, 1);
}

static void a_block_is_durable_once_a_sync_covers_its_write_co(void *arg)
{
	(void)arg;
	change_co(1, 0xaa, OX_TICKET_NONE);
	assert_false(is_durable_co(1));
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_false(is_durable_co(1));
	assert_int_equal(ox_order_wait_co(&order, ox_order_ticket(&order)), 0);
	assert_true(is_durable_co(1));
	change_co(1, 0xbb, OX_TICKET_NONE);
	assert_false(is_durable_co(1));
}

/* C1, D1 */
static void a_dirty_block_is_written_only_after_its_barrier_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, ox_order_ticket(&order));
	change_co(9, 0x09, OX_TICKET_NONE);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(write_to(1, 0)->syncs, 1);
	assert_int_equal(write_to(9, 0)->syncs, 0);
	assert_true(stored(1, 0x01) && stored(9, 0x09));
}

static void the_latest_barrier_of_a_blocks_changes_counts_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, ox_order_ticket(&order));
	assert_int_equal(ox_order_wait_co(&order, ox_order_ticket(&order)), 0);
	change_co(1, 0x02, ox_order_ticket(&order));
	change_co(1, 0x03, OX_TICKET_NONE);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(watched.write_count, 1);
	assert_int_equal(write_to(1, 0)->syncs, 2);
}

static void many_blocks_behind_one_barrier_cost_one_sync_co(void *arg)
{
	(void)arg;
	for (unsigned slice = 0; slice < STORE_SLICES; slice += 2)
		change_co(slice, 0x5a, ox_order_ticket(&order));
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(watched.syncs_asked, 1);
	assert_int_equal(watched.write_count, STORE_SLICES / 2);
}

static void dirty_neighbours_go_out_in_one_write_co(void *arg)
{
	(void)arg;
	for (unsigned slice = 4; slice < 12; slice++)
		change_co(slice, (uint8_t)slice, OX_TICKET_NONE);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(watched.write_count, 1);
	for (unsigned slice = 4; slice < 12; slice++)
		assert_true(stored(slice, (uint8_t)slice));
}

static void a_run_does_not_take_a_neighbour_past_its_barrier_co(void *arg)
{
	(void)arg;
	change_co(4, 4, OX_TICKET_NONE);
	change_co(5, 5, ox_order_ticket(&order));
	change_co(6, 6, OX_TICKET_NONE);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(write_to(4, 0)->syncs, 0);
	assert_int_equal(write_to(5, 0)->syncs, 1);
	assert_int_equal(write_to(6, 0)->syncs, 0);
}

/* C2, H3 */
static void a_change_during_a_write_stays_dirty_and_is_not_in_that_write_co(void *arg)
{
	int result = 1;

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	watched.hold_writes = true;
	spawn(flush_task_co, &result);
	let_others_run_co();
	assert_int_equal(watched.write_count, 1);
	change_co(1, 0x02, OX_TICKET_NONE);
	watched.hold_writes = false;
	await_finished_co(1);
	assert_int_equal(result, 0);
	assert_true(stored(1, 0x01));
	assert_true(ox_cache_is_busy(&cache));
	assert_false(is_durable_co(1));
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0x02));
}

static void a_block_is_never_in_two_writes_at_a_time_co(void *arg)
{
	int results[4] = {1, 1, 1, 1};

	(void)arg;
	watched.hold_writes = true;
	for (unsigned i = 0; i < 4; i++) {
		change_co(1, (uint8_t)(i + 1), OX_TICKET_NONE);
		change_co(2, (uint8_t)(i + 1), OX_TICKET_NONE);
		spawn(flush_task_co, &results[i]);
		let_others_run_co();
	}
	assert_int_equal(finished, 0);
	watched.hold_writes = false;
	await_finished_co(4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(results[i], 0);
	assert_int_equal(watched.overlaps, 0);
	assert_true(stored(1, 4) && stored(2, 4));
}

static void a_flush_waits_for_the_writes_that_others_began_co(void *arg)
{
	int results[2] = {1, 1};

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	watched.hold_writes = true;
	spawn(flush_task_co, &results[0]);
	let_others_run_co();
	spawn(flush_task_co, &results[1]); /* finds nothing dirty */
	let_others_run_co();
	assert_int_equal(finished, 0);
	watched.hold_writes = false;
	await_finished_co(2);
	assert_int_equal(watched.write_count, 1);
	assert_true(stored(1, 0x01));
}

/* ---- failures ---- */

/* C4 */
static void a_failed_write_leaves_the_block_dirty_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	change_co(2, 0x02, OX_TICKET_NONE);
	watched.write_error = -ENOSPC;
	assert_int_equal(ox_cache_flush_co(&cache), -ENOSPC);
	assert_true(stored(1, 0) && stored(2, 0));
	assert_true(ox_cache_is_busy(&cache));
	assert_false(is_durable_co(1));
	watched.write_error = 0;
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0x01) && stored(2, 0x02));
	assert_false(ox_cache_is_busy(&cache));
}

/* The slice whose write fails does not keep the others back. */
static void a_flush_that_fails_has_written_what_can_be_written_co(void *arg)
{
	(void)arg;
	for (unsigned slice = 1; slice < 8; slice += 2)
		change_co(slice, 0x01, OX_TICKET_NONE);
	watched.write_error = -ENOSPC;
	watched.write_error_at = 3 * SLICE;
	assert_int_equal(ox_cache_flush_co(&cache), -ENOSPC);
	assert_true(stored(1, 0x01) && stored(3, 0) && stored(5, 0x01) && stored(7, 0x01));
	assert_int_equal(watched.write_count, 4);
	assert_int_equal(ox_cache_flush_co(&cache), -ENOSPC);
	watched.write_error = 0;
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(3, 0x01));
}

static void a_change_during_a_write_that_fails_is_not_lost_co(void *arg)
{
	int result = 1;

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	watched.hold_writes = true;
	spawn(flush_task_co, &result);
	let_others_run_co();
	change_co(1, 0x02, ox_order_ticket(&order));
	watched.write_error = -EIO;
	watched.hold_writes = false;
	await_finished_co(1);
	assert_int_equal(result, -EIO);
	watched.write_error = 0;
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0x02));
	assert_int_equal(write_to(1, 1)->syncs, 1); /* the change's barrier holds on */
}

/* M3 */
static void nothing_is_written_behind_a_barrier_whose_sync_failed_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, ox_order_ticket(&order));
	watched.sync_error = -EIO;
	assert_int_equal(ox_cache_flush_co(&cache), -EIO);
	watched.sync_error = 0;
	assert_int_equal(ox_cache_flush_co(&cache), -EIO);
	assert_int_equal(watched.write_count, 0);
	assert_true(ox_cache_is_busy(&cache));
}

/* ---- space ---- */

/* C5, S1 */
static void a_slice_that_may_be_a_hole_is_written_before_it_is_changed_co(void *arg)
{
	struct ox_block *b;

	(void)arg;
	io->space_bytes = 512;
	b = edit_co(1);
	assert_int_equal(watched.write_count, 1);
	assert_int_equal(write_to(1, 0)->length, SLICE);
	ox_cache_put(&cache, b);
	assert_false(ox_cache_is_busy(&cache));
	change_co(1, 0x01, OX_TICKET_NONE); /* its space is known by now */
	assert_int_equal(watched.write_count, 1);
	assert_true(stored(1, 0));
	/* one zero piece is enough to doubt */
	memset(watched_bytes(io) + 2 * SLICE, 0x22, SLICE - 512);
	b = edit_co(2);
	assert_int_equal(watched.write_count, 2);
	assert_int_equal(watched_bytes(io)[2 * SLICE], 0x22);
	ox_cache_put(&cache, b);
	/* a life before this one proves nothing */
	assert_int_equal(ox_cache_edit_zero_co(&cache, 2 * SLICE, &b), 0);
	assert_int_equal(watched.write_count, 3);
	assert_true(stored(2, 0));
	ox_cache_put(&cache, b);
}

static void a_slice_whose_bytes_show_its_space_is_not_written_before_a_change_co(void *arg)
{
	(void)arg;
	io->space_bytes = 512;
	for (unsigned at = 0; at < SLICE; at += 512)
		watched_bytes(io)[SLICE + at + 511] = 1;
	change_co(1, 0x01, OX_TICKET_NONE);
	assert_int_equal(watched.write_count, 0);
	io->space_bytes = 65536;
	watched_bytes(io)[2 * SLICE] = 1;
	change_co(2, 0x01, OX_TICKET_NONE);
	assert_int_equal(watched.write_count, 0);
}

static void without_space_a_change_is_refused_and_no_other_suffers_co(void *arg)
{
	struct ox_block *b = NULL;

	(void)arg;
	io->space_bytes = 512;
	change_co(1, 0x01, OX_TICKET_NONE);
	watched.write_error = -ENOSPC;
	watched.write_error_at = 3 * SLICE;
	assert_int_equal(ox_cache_edit_co(&cache, 3 * SLICE, &b), -ENOSPC);
	assert_null(b);
	b = get_co(3); /* a reader needs none */
	assert_int_equal(b->data[0], 0);
	ox_cache_put(&cache, b);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0x01));
	watched.write_error = 0;
	change_co(3, 0x03, OX_TICKET_NONE); /* room has come */
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(3, 0x03));
}

static void change_task_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	finished++;
}

static void whoever_wants_to_change_a_slice_waits_for_its_space_co(void *arg)
{
	(void)arg;
	io->space_bytes = 512;
	watched.hold_writes = true;
	for (int i = 0; i < 3; i++)
		spawn(change_task_co, NULL);
	let_others_run_co();
	assert_int_equal(watched.write_count, 1);
	assert_int_equal(finished, 0);
	assert_int_equal(get_co(1)->data[0], 0);
	watched.hold_writes = false;
	await_finished_co(3);
	ox_cache_put(&cache, ox_cache_find(&cache, SLICE));
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_int_equal(watched.overlaps, 0);
	assert_true(stored(1, 0x01));
}

/* ---- eviction, in a cache of two blocks ---- */

/* H10 */
static void eviction_obeys_barriers_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, ox_order_ticket(&order));
	change_co(2, 0x02, ox_order_ticket(&order));
	for (unsigned slice = 10; slice < 14; slice++)
		ox_cache_put(&cache, get_co(slice));
	assert_int_equal(cache.block_count, 2);
	assert_int_equal(write_to(1, 0)->syncs, 1);
	assert_int_equal(write_to(2, 0)->syncs, 1);
	assert_true(stored(1, 0x01) && stored(2, 0x02));
}

static void eviction_takes_the_clean_before_the_dirty_co(void *arg)
{
	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	for (unsigned slice = 10; slice < 14; slice++)
		ox_cache_put(&cache, get_co(slice));
	assert_int_equal(watched.write_count, 0);
	change_co(1, 0x03, OX_TICKET_NONE);
	assert_int_equal(cache.misses, 5); /* it was still there */
}

static void a_slice_comes_back_as_it_was_changed_and_durable_only_after_a_sync_co(void *arg)
{
	struct ox_block *b;

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	change_co(2, 0x02, OX_TICKET_NONE);
	change_co(3, 0x03, OX_TICKET_NONE);
	change_co(4, 0x04, OX_TICKET_NONE);
	b = get_co(1);
	assert_int_equal(b->data[0] & b->data[SLICE - 1], 0x01);
	assert_false(ox_cache_is_durable(&cache, b));
	ox_cache_put(&cache, b);
	assert_int_equal(ox_order_wait_co(&order, ox_order_ticket(&order)), 0);
	assert_true(is_durable_co(1));
}

static void
an_eviction_that_fails_fails_who_changes_not_who_reads_and_keeps_the_change_co(void *arg)
{
	struct ox_block *b = NULL;

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	change_co(2, 0x02, OX_TICKET_NONE);
	watched.write_error = -ENOSPC;
	assert_int_equal(ox_cache_edit_co(&cache, 7 * SLICE, &b), -ENOSPC);
	assert_null(b);
	for (unsigned slice = 7; slice < 20; slice++)
		ox_cache_put(&cache, get_co(slice));
	assert_int_equal(cache.block_count, 3); /* each gives way to the next */
	watched.write_error = 0;
	ox_cache_put(&cache, get_co(20));
	assert_int_equal(cache.block_count, 2);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0x01) && stored(2, 0x02));
}

static void a_pinned_block_is_not_evicted_co(void *arg)
{
	struct ox_block *first = get_co(1);
	struct ox_block *second = get_co(2);
	struct ox_block *third = NULL;

	(void)arg;
	spawn(get_one_task_co, &third);
	let_others_run_co();
	assert_int_equal(finished, 0);
	assert_ptr_equal(ox_cache_find(&cache, SLICE), first);
	ox_cache_put(&cache, second);
	await_finished_co(1);
	assert_ptr_equal(ox_cache_find(&cache, SLICE), first);
	assert_null(ox_cache_find(&cache, 2 * SLICE));
	ox_cache_put(&cache, first);
	ox_cache_put(&cache, third);
}

struct churner {
	unsigned seed;
};

static void churn_task_co(void *arg)
{
	struct churner *c = arg;

	for (int i = 0; i < 40; i++) {
		unsigned slice = (unsigned)rand_r(&c->seed) % 6;
		uint64_t after = i % 3 ? OX_TICKET_NONE : ox_order_ticket(&order);
		struct ox_block *b = edit_co(slice);

		b->data[0]++;
		ox_cache_dirty(&cache, b, after);
		ox_cache_put(&cache, b);
		if (i % 7 == 0)
			assert_int_equal(ox_cache_flush_co(&cache), 0);
	}
	finished++;
}

static void no_change_is_lost_in_a_cache_that_is_far_too_small_co(void *arg)
{
	struct churner churners[4] = {{1}, {2}, {3}, {4}};
	unsigned sum = 0;

	(void)arg;
	for (int i = 0; i < 4; i++)
		spawn(churn_task_co, &churners[i]);
	await_finished_co(4);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	for (unsigned slice = 0; slice < 6; slice++)
		sum += watched_bytes(io)[(uint64_t)slice * SLICE];
	assert_int_equal(sum, 4 * 40);
	assert_int_equal(watched.overlaps, 0);
}

/* ---- forgetting ---- */

static void what_is_forgotten_is_not_written_co(void *arg)
{
	(void)arg;
	for (unsigned slice = 1; slice < 5; slice++)
		change_co(slice, 0xee, ox_order_ticket(&order));
	ox_cache_forget_co(&cache, 2 * SLICE, 2 * SLICE);
	assert_int_equal(ox_cache_flush_co(&cache), 0);
	assert_true(stored(1, 0xee) && stored(2, 0) && stored(3, 0) && stored(4, 0xee));
}

static void forget_task_co(void *arg)
{
	(void)arg;
	ox_cache_forget_co(&cache, SLICE, SLICE);
	finished++;
}

static void forgetting_waits_for_a_write_in_flight_co(void *arg)
{
	int result = 1;

	(void)arg;
	change_co(1, 0x01, OX_TICKET_NONE);
	watched.hold_writes = true;
	spawn(flush_task_co, &result);
	let_others_run_co();
	spawn(forget_task_co, NULL);
	let_others_run_co();
	assert_int_equal(finished, 0);
	watched.hold_writes = false;
	await_finished_co(2);
	assert_null(ox_cache_find(&cache, SLICE));
}

static void forgetting_waits_for_the_last_pin_co(void *arg)
{
	struct ox_block *b = get_co(1);

	(void)arg;
	spawn(forget_task_co, NULL);
	let_others_run_co();
	assert_int_equal(finished, 0);
	ox_cache_put(&cache, b);
	for (int i = 0; i < 1000 && finished == 0; i++)
		ox_co_yield_co();
	assert_int_equal(finished, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_slice_is_read_once_and_past_the_end_is_zero),
		TASK_TEST(tasks_that_want_one_slice_share_its_read),
		TASK_TEST(a_failed_read_is_not_cached),
		TASK_TEST(a_slice_that_is_known_to_be_zero_is_not_read),
		TASK_TEST(a_change_reaches_the_store_by_a_flush_and_not_before),
		TASK_TEST(a_block_is_durable_once_a_sync_covers_its_write),
		TASK_TEST(a_dirty_block_is_written_only_after_its_barrier),
		TASK_TEST(the_latest_barrier_of_a_blocks_changes_counts),
		TASK_TEST(many_blocks_behind_one_barrier_cost_one_sync),
		TASK_TEST(dirty_neighbours_go_out_in_one_write),
		TASK_TEST(a_run_does_not_take_a_neighbour_past_its_barrier),
		TASK_TEST(a_change_during_a_write_stays_dirty_and_is_not_in_that_write),
		TASK_TEST(a_block_is_never_in_two_writes_at_a_time),
		TASK_TEST(a_flush_waits_for_the_writes_that_others_began),
		TASK_TEST(a_failed_write_leaves_the_block_dirty),
		TASK_TEST(a_flush_that_fails_has_written_what_can_be_written),
		TASK_TEST(a_slice_that_may_be_a_hole_is_written_before_it_is_changed),
		TASK_TEST(a_slice_whose_bytes_show_its_space_is_not_written_before_a_change),
		TASK_TEST(without_space_a_change_is_refused_and_no_other_suffers),
		TASK_TEST(whoever_wants_to_change_a_slice_waits_for_its_space),
		TASK_TEST(a_change_during_a_write_that_fails_is_not_lost),
		TASK_TEST(nothing_is_written_behind_a_barrier_whose_sync_failed),
		TASK_TEST(what_is_forgotten_is_not_written),
		TASK_TEST(forgetting_waits_for_a_write_in_flight),
		TASK_TEST(forgetting_waits_for_the_last_pin),
		TINY_TASK_TEST(eviction_obeys_barriers),
		TINY_TASK_TEST(eviction_takes_the_clean_before_the_dirty),
		TINY_TASK_TEST(a_slice_comes_back_as_it_was_changed_and_durable_only_after_a_sync),
		TINY_TASK_TEST(
			an_eviction_that_fails_fails_who_changes_not_who_reads_and_keeps_the_change),
		TINY_TASK_TEST(a_pinned_block_is_not_evicted),
		TINY_TASK_TEST(no_change_is_lost_in_a_cache_that_is_far_too_small),
	};

	return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
