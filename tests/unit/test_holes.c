/* SPDX-License-Identifier: MIT */
/* Holes of files: which are told, and how often the file is asked. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "io/io.h"

static char path[] = "/tmp/ox-test-holes-XXXXXX";

/* The task is given an empty file's store, through the page cache and past it. */
static void on_files(ox_co_fn fn)
{
	static const unsigned flags[] = {OX_IO_CREATE, OX_IO_CREATE | OX_IO_DIRECT};

	for (unsigned i = 0; i < 2; i++) {
		struct ox_reactor *r = NULL;
		struct ox_io *io = NULL;

		assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL), 0);
		assert_int_equal(ox_io_file_open(r, path, flags[i], &io, NULL), 0);
		assert_int_equal(ox_reactor_call(r, fn, io), 0);
		ox_io_close(io);
		ox_reactor_destroy(r);
	}
}

static void extents_co(void *arg)
{
	struct ox_io *io = arg;
	struct ox_io_extent e;
	uint8_t byte = 1;

	ox_assert(ox_io_set_length_co(io, 1 << 20) == 0);
	ox_assert(ox_io_pwrite_co(io, &byte, 1, 65536, 0) == 0);
	ox_assert(ox_io_extent_co(io, 0, &e) == 0 && e.zero && e.length == 65536);
	ox_assert(ox_io_extent_co(io, 65536, &e) == 0 && !e.zero && e.length == 4096);
	ox_assert(ox_io_extent_co(io, 65537, &e) == 0 && !e.zero && e.length == 4095);
	ox_assert(ox_io_extent_co(io, 70000, &e) == 0);
	ox_assert(e.zero && e.length == (1 << 20) - 70000);
	ox_assert(ox_io_extent_co(io, 1 << 20, &e) == 0 && e.zero && e.length > 1 << 30);
	ox_assert(ox_io_extent_co(io, UINT64_MAX, &e) == -EINVAL);
}

static void holes_are_told_from_data(void **state)
{
	(void)state;
	on_files(extents_co);
}

static const struct ox_io_ops *asked_ops;
static unsigned asked;

static int asked_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	asked++;
	return asked_ops->extent_co(io, offset, ret);
}

/* Of a file with a hole, then data up to 1 MiB. */
static void asked_co(void *arg)
{
	struct ox_io *io = arg;
	struct ox_io_ops ops = *io->ops;
	struct ox_io_extent e;

	asked_ops = io->ops;
	asked = 0;
	ops.extent_co = asked_extent_co;
	io->ops = &ops;
	ox_assert(ox_io_set_length_co(io, 65536) == 0);
	ox_assert(ox_io_fill_zero_co(io, 65536, 1 << 20) == 0);
	for (uint64_t at = 65536; at < 1 << 20; at += 4096)
		ox_assert(ox_io_extent_co(io, at, &e) == 0 && !e.zero &&
			  e.length == 65536 + (1 << 20) - at);
	ox_assert(asked == 1);
	/* A hole is none for ever. */
	ox_assert(ox_io_extent_co(io, 0, &e) == 0 && e.zero && e.length == 65536);
	ox_assert(ox_io_fill_zero_co(io, 0, 4096) == 0);
	ox_assert(ox_io_extent_co(io, 0, &e) == 0 && !e.zero && e.length == 4096);
	/* Nor is data, once something was punched or cut. */
	ox_assert(ox_io_extent_co(io, 131072, &e) == 0 && !e.zero);
	ox_assert(ox_io_punch_co(io, 131072, 4096) == 0);
	ox_assert(ox_io_extent_co(io, 131072, &e) == 0 && e.zero && e.length == 4096);
	ox_assert(ox_io_extent_co(io, 262144, &e) == 0 && !e.zero);
	ox_assert(ox_io_set_length_co(io, 262144) == 0);
	ox_assert(ox_io_set_length_co(io, 1 << 20) == 0);
	ox_assert(ox_io_extent_co(io, 262144, &e) == 0 && e.zero);
	io->ops = asked_ops;
}

static void data_is_asked_for_once_and_holes_each_time(void **state)
{
	(void)state;
	on_files(asked_co);
}

static int asked_extents_co(struct ox_io *io, uint64_t offset, uint64_t limit,
			    struct ox_io_extent *ret, int max)
{
	asked++;
	return asked_ops->extents_co(io, offset, limit, ret, max);
}

/* The same of a file with a hole, data, a hole, and data up to 1 MiB. */
static void several_co(void *arg)
{
	struct ox_io *io = arg;
	struct ox_io_ops ops = *io->ops;
	struct ox_io_extent e[8];

	asked_ops = io->ops;
	asked = 0;
	ops.extents_co = asked_extents_co;
	io->ops = &ops;
	ox_assert(ox_io_set_length_co(io, 1 << 20) == 0);
	ox_assert(ox_io_fill_zero_co(io, 65536, 65536) == 0);
	ox_assert(ox_io_fill_zero_co(io, 196608, (1 << 20) - 196608) == 0);
	ox_assert(ox_io_extents_co(io, 0, 1 << 20, e, 8) == 4);
	ox_assert(e[0].zero && !e[1].zero && e[2].zero && !e[3].zero);
	for (uint64_t at = 196608; at < 1 << 20; at += 65536) {
		ox_assert(ox_io_extents_co(io, at, 1 << 20, e, 8) == 1);
		ox_assert(!e[0].zero && e[0].length == (1 << 20) - at);
	}
	ox_assert(asked == 1);
	ox_assert(ox_io_punch_co(io, 262144, 4096) == 0);
	ox_assert(ox_io_extents_co(io, 262144, 1 << 20, e, 8) == 2);
	ox_assert(e[0].zero && e[0].length == 4096 && !e[1].zero);
	ox_assert(asked == 2);
	io->ops = asked_ops;
}

static void data_of_several_is_asked_for_once_too(void **state)
{
	(void)state;
	on_files(several_co);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_are_told_from_data),
		cmocka_unit_test(data_is_asked_for_once_and_holes_each_time),
		cmocka_unit_test(data_of_several_is_asked_for_once_too),
	};
	int fd = mkstemp(path);
	int failed;

	ox_assert(fd >= 0 && close(fd) == 0);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	ox_assert(unlink(path) == 0);
	return failed;
}
