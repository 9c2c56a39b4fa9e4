/* SPDX-License-Identifier: MIT */
/* The loop of long work: order, bounds, giving up, and where it can be gone on with. */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "job/pump.h"

#define PIECE UINT64_C(65536)

struct work {
	struct ox_pump pump;
	uint64_t count;	    /* pieces that there are */
	uint64_t given;	    /* by next_co */
	uint64_t fails_at;  /* piece whose work fails; UINT64_MAX: none */
	bool fails_at_turn; /* else before it waits for that */
	uint64_t ends_at;   /* piece that next_co fails for */
	uint64_t holds_at;  /* piece that sleeps long; UINT64_MAX: none */
	bool in_order;	    /* each waits for its turn */
	unsigned busy;	    /* in next_co */
	unsigned at_once;   /* in work_co */
	unsigned most;	    /* of that */
	uint64_t turns;	    /* pieces that had their turn */
	bool out_of_order;
	uint64_t finished;
	uint64_t below_seen; /* done_below while the held piece slept */
	uint64_t told;
	bool give_up;
};

static int next_co(void *arg, struct ox_piece *ret)
{
	struct work *w = arg;

	ox_assert(++w->busy == 1);
	ox_co_yield_co();
	w->busy--;
	if (w->given == w->ends_at)
		return -ENODATA;
	if (w->given == w->count)
		return 0;
	*ret = (struct ox_piece){
		.offset = w->given++ * PIECE, .length = PIECE, .memory_bytes = PIECE};
	return 1;
}

static int work_co(void *arg, struct ox_piece *piece)
{
	struct work *w = arg;
	uint64_t index = piece->offset / PIECE;
	int r = 0;

	ox_assert(piece->buffer && ((uintptr_t)piece->buffer & 4095) == 0);
	w->at_once++;
	if (w->at_once > w->most)
		w->most = w->at_once;
	if (index == w->holds_at) {
		ox_reactor_sleep_co(1000000);
		w->below_seen = ox_pump_done_below(&w->pump);
	} else if (ox_reactor_random(reactor) % 4 == 0) {
		ox_reactor_sleep_co(20000);
	}
	if (index == w->fails_at && !w->fails_at_turn) {
		w->at_once--;
		return -EIO;
	}
	if (w->in_order) {
		r = ox_pump_turn_co(&w->pump, piece);
		if (r == 0 && index == w->fails_at)
			r = -EIO;
		if (r == 0 && w->turns++ != index)
			w->out_of_order = true;
		if (r == 0)
			ox_pump_pass(&w->pump, piece);
	}
	w->at_once--;
	w->finished += r == 0;
	return r;
}

static const struct ox_pump_ops ops = {.next_co = next_co, .work_co = work_co};

static void begin(struct work *w, uint64_t count)
{
	*w = (struct work){.count = count,
			   .fails_at = UINT64_MAX,
			   .ends_at = UINT64_MAX,
			   .holds_at = UINT64_MAX};
	ox_pump_init(&w->pump, &ops, w);
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

static void every_piece_is_worked_on_once_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 100);
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(w.finished, 100);
	assert_int_equal(ox_pump_done_below(&w.pump), 100 * PIECE);
	assert_true(w.most > 1);
}

static void no_piece_at_all_is_success_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 0);
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(ox_pump_done_below(&w.pump), 0);
}

static void no_more_pieces_begin_than_memory_holds_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 100);
	w.pump.memory_bytes = 3 * PIECE;
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(w.finished, 100);
	assert_true(w.most <= 3);
	assert_int_equal(w.pump.used_bytes, 0);
}

static void turns_come_in_order_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 200);
	w.in_order = true;
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(w.turns, 200);
	assert_false(w.out_of_order);
}

static void a_failure_ends_all_and_is_told_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 1000);
	w.fails_at = 50;
	assert_int_equal(ox_pump_run_co(&w.pump), -EIO);
	assert_true(w.given < 1000);
	assert_int_equal(ox_pump_done_below(&w.pump), 50 * PIECE);
	assert_int_equal(w.pump.used_bytes, 0);
}

static void a_failure_frees_those_that_wait_for_their_turn_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 1000);
	w.in_order = true;
	w.fails_at = 7;
	assert_int_equal(ox_pump_run_co(&w.pump), -EIO);
	/* Of those before it, some may be waiting yet when it fails. */
	assert_false(w.out_of_order);
	assert_true(w.turns <= 7);

	begin(&w, 40);
	w.in_order = true;
	w.fails_at = 7;
	w.fails_at_turn = true;
	assert_int_equal(ox_pump_run_co(&w.pump), -EIO);
	assert_false(w.out_of_order);
	assert_int_equal(w.turns, 7);
}

static void an_error_of_the_source_ends_all_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 100);
	w.ends_at = 30;
	assert_int_equal(ox_pump_run_co(&w.pump), -ENODATA);
	assert_int_equal(w.finished, 30);
}

static void what_is_done_ends_before_the_piece_that_is_late_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 60);
	w.holds_at = 5;
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(w.below_seen, 5 * PIECE);
	assert_int_equal(ox_pump_done_below(&w.pump), 60 * PIECE);
}

static int asked(void *opaque)
{
	struct work *w = opaque;

	return w->finished >= 20;
}

static void told(void *opaque, uint64_t done, uint64_t total)
{
	struct work *w = opaque;

	ox_assert(done >= w->told && done <= total);
	w->told = done;
}

static void who_gives_up_is_heeded_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 1000);
	w.pump.interrupted = asked;
	w.pump.opaque = &w;
	assert_int_equal(ox_pump_run_co(&w.pump), -ECANCELED);
	assert_true(w.finished >= 20 && w.finished < 1000);
}

static void progress_rises_to_the_total_co(void *arg)
{
	struct work w;

	(void)arg;
	begin(&w, 100);
	w.pump.total = 100 * PIECE;
	w.pump.progress = told;
	w.pump.opaque = &w;
	assert_int_equal(ox_pump_run_co(&w.pump), 0);
	assert_int_equal(w.told, 100 * PIECE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(every_piece_is_worked_on_once),
		TASK_TEST(no_piece_at_all_is_success),
		TASK_TEST(no_more_pieces_begin_than_memory_holds),
		TASK_TEST(turns_come_in_order),
		TASK_TEST(a_failure_ends_all_and_is_told),
		TASK_TEST(a_failure_frees_those_that_wait_for_their_turn),
		TASK_TEST(an_error_of_the_source_ends_all),
		TASK_TEST(what_is_done_ends_before_the_piece_that_is_late),
		TASK_TEST(who_gives_up_is_heeded),
		TASK_TEST(progress_rises_to_the_total),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
