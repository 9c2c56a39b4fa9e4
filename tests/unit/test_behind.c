/* SPDX-License-Identifier: MIT */
/* What long work lets go of: which ranges, how, and when; and what becomes of an error. */
#include <errno.h>
#include <string.h>

#include "task_test.h"

#include "io/io.h"

#define MIB (UINT64_C(1) << 20)
#define CALLS 512

static struct ox_io *io;
static struct ox_io_ops ops;
static char bytes[1 << 20];
static struct {
	uint64_t offset;
	uint64_t length;
	unsigned how;
} calls[CALLS];
static int call_count; /* ranges */
static int asked;      /* how often the store was asked */
static int answer;
static bool held; /* the answer is */

static int note_co(struct ox_io *store, const struct ox_io_range *ranges, int count, unsigned how)
{
	(void)store;
	asked++;
	for (int i = 0; i < count; i++) {
		assert_true(call_count < CALLS);
		calls[call_count].offset = ranges[i].start;
		calls[call_count].length = ranges[i].end - ranges[i].start;
		calls[call_count++].how = how;
	}
	while (held)
		ox_co_yield_co();
	return answer;
}

static int setup(void **state)
{
	(void)state;
	if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0 ||
	    ox_io_memory_open(reactor, 0, &io) < 0)
		return -1;
	ops = *io->ops;
	ops.let_go_co = note_co;
	io->ops = &ops;
	call_count = 0;
	asked = 0;
	answer = 0;
	held = false;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_io_close(io);
	ox_reactor_destroy(reactor);
	return 0;
}

static int write_co(uint64_t from, uint64_t to)
{
	int r = 0;

	for (uint64_t at = from; r == 0 && at < to; at += MIB) {
		assert_int_equal(ox_io_pwrite_co(io, bytes, MIB, at, 0), 0);
		r = ox_io_behind_co(io);
	}
	return r;
}

static void check_call(int i, uint64_t offset, uint64_t length, unsigned how)
{
	assert_true(i < call_count);
	assert_int_equal(calls[i].offset, offset);
	assert_int_equal(calls[i].length, length);
	assert_int_equal(calls[i].how, how);
}

static void what_is_written_goes_out_at_once_and_leaves_one_lot_later_co(void *arg)
{
	(void)arg;
	ox_io_behind_begin(io);
	assert_int_equal(write_co(0, 24 * MIB), 0);
	assert_int_equal(call_count, 5);
	check_call(0, 0, 8 * MIB, OX_IO_LET_GO_START);
	check_call(1, 8 * MIB, 8 * MIB, OX_IO_LET_GO_START);
	check_call(2, 0, 8 * MIB, OX_IO_LET_GO_WAIT | OX_IO_LET_GO_DROP);
	assert_int_equal(ox_io_behind_end_co(io), 0);
	/* what was read ahead, or written late, lies in what was dropped before as well */
	check_call(5, 0, 24 * MIB, OX_IO_LET_GO_WAIT | OX_IO_LET_GO_DROP);
	assert_int_equal(call_count, 6);
}

static void what_is_read_leaves_and_what_lies_far_between_stays_co(void *arg)
{
	(void)arg;
	assert_int_equal(write_co(0, 48 * MIB), 0);
	ox_io_behind_begin(io);
	assert_int_equal(ox_io_pread_co(io, bytes, 4096, 40 * MIB), 0);
	assert_int_equal(ox_io_pread_co(io, bytes, MIB, 0), 0);
	assert_int_equal(ox_io_pread_co(io, bytes, MIB, 2 * MIB), 0);
	assert_int_equal(ox_io_behind_end_co(io), 0);
	assert_int_equal(call_count, 2);
	check_call(0, 40 * MIB, 4096, OX_IO_LET_GO_DROP);
	check_call(1, 0, 3 * MIB, OX_IO_LET_GO_DROP);
}

/* Each second cluster: what lies between is going to be read. */
static void a_lot_leaves_what_lies_between_its_ranges_co(void *arg)
{
	(void)arg;
	assert_int_equal(write_co(0, 48 * MIB), 0);
	ox_io_behind_begin(io);
	for (uint64_t i = 0; i < 256; i++) {
		uint64_t at = i * 77 % 256 * 3 * 65536;

		assert_int_equal(ox_io_pread_co(io, bytes, 65536, at), 0);
		assert_int_equal(ox_io_behind_co(io), 0);
	}
	assert_int_equal(asked, 1);
	assert_int_equal(call_count, 128);
	for (int i = 0; i < call_count; i++) {
		assert_int_equal(calls[i].offset % (UINT64_C(3) * 65536), 0);
		assert_int_equal(calls[i].length, 65536);
		assert_int_equal(calls[i].how, OX_IO_LET_GO_DROP);
	}
	assert_int_equal(ox_io_behind_end_co(io), 0);
	assert_int_equal(asked, 2);
}

static void ranges_everywhere_are_all_covered_co(void *arg)
{
	(void)arg;
	ox_io_behind_begin(io);
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(ox_io_pwrite_co(io, bytes, 4096, i * 7 % 40 * 4 * MIB, 0), 0);
	assert_int_equal(ox_io_behind_end_co(io), 0);
	for (uint64_t i = 0; i < 40; i++) {
		bool covered = false;

		for (int k = 0; k < call_count; k++)
			covered |= calls[k].offset <= i * 4 * MIB &&
				   calls[k].offset + calls[k].length >= i * 4 * MIB + 4096;
		assert_true(covered);
	}
}

static void an_error_of_write_out_is_told_by_every_sync_co(void *arg)
{
	(void)arg;
	ox_io_behind_begin(io);
	answer = -EIO;
	assert_int_equal(write_co(0, 8 * MIB), -EIO);
	answer = 0;
	assert_int_equal(ox_io_sync_co(io), -EIO);
	assert_int_equal(ox_io_behind_end_co(io), 0);
	assert_int_equal(ox_io_sync_co(io), -EIO);
}

static int writer_result;
static int sync_result;
static int fua_result;

static void writer_co(void *arg)
{
	(void)arg;
	writer_result = write_co(0, 8 * MIB);
}

static void sync_co(void *arg)
{
	(void)arg;
	sync_result = ox_io_sync_co(io);
}

static void fua_co(void *arg)
{
	(void)arg;
	fua_result = ox_io_pwrite_co(io, bytes, 4096, 0, OX_IO_FUA);
}

/* Linux has told the error to the one; the other's answer is good, and comes first. */
static void what_is_made_durable_meanwhile_tells_the_error_too_co(void *arg)
{
	(void)arg;
	ox_io_behind_begin(io);
	answer = -EIO;
	held = true;
	writer_result = 1;
	sync_result = 1;
	fua_result = 1;
	spawn(writer_co, NULL);
	while (asked == 0)
		ox_co_yield_co();
	spawn(sync_co, NULL);
	spawn(fua_co, NULL);
	let_others_run_co();
	held = false;
	while (writer_result == 1 || sync_result == 1 || fua_result == 1)
		ox_co_yield_co();
	assert_int_equal(writer_result, -EIO);
	assert_int_equal(sync_result, -EIO);
	assert_int_equal(fua_result, -EIO);
	answer = 0;
	assert_int_equal(ox_io_behind_end_co(io), 0);
}

static void a_store_that_keeps_no_pages_is_asked_once_co(void *arg)
{
	(void)arg;
	ox_io_behind_begin(io);
	answer = -EOPNOTSUPP;
	assert_int_equal(write_co(0, 32 * MIB), 0);
	assert_int_equal(ox_io_behind_end_co(io), 0);
	assert_int_equal(asked, 1);
	assert_int_equal(ox_io_sync_co(io), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(what_is_written_goes_out_at_once_and_leaves_one_lot_later),
		TASK_TEST(what_is_read_leaves_and_what_lies_far_between_stays),
		TASK_TEST(a_lot_leaves_what_lies_between_its_ranges),
		TASK_TEST(ranges_everywhere_are_all_covered),
		TASK_TEST(an_error_of_write_out_is_told_by_every_sync),
		TASK_TEST(what_is_made_durable_meanwhile_tells_the_error_too),
		TASK_TEST(a_store_that_keeps_no_pages_is_asked_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
