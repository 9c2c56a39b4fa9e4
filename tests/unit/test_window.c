/* SPDX-License-Identifier: MIT */
/* A part of a store as a store: against a model of the bytes, with what lies around it untouched.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/error.h"
#include "io/io.h"

#define FILE_BYTES 300000u
#define ROUNDS 400u
#define AROUND 0xa5

static char path[] = "/tmp/ox-test-window-XXXXXX";

struct place {
	uint32_t offset;
	uint32_t length; /* 0: to the end */
	unsigned flags;
};

static const struct place places[] = {
	{0, 100000, OX_IO_CREATE},
	{1536, 200001, OX_IO_CREATE},
	{4096, 0, OX_IO_CREATE},
	{512, 0, OX_IO_CREATE},
	{8192, 65536, OX_IO_CREATE | OX_IO_DIRECT},
	{512, 150000, OX_IO_CREATE | OX_IO_DIRECT},
	{1536, 0, OX_IO_CREATE | OX_IO_DIRECT},
};

struct model {
	uint8_t bytes[2 * FILE_BYTES];
	uint64_t length; /* of the window */
	uint64_t file_bytes;
	const struct place *at;
	struct ox_io *io;
	uint32_t seed;
};

static uint32_t random_below(struct model *m, uint64_t n)
{
	m->seed = m->seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(m->seed >> 8) * n >> 24);
}

static bool is_fixed(const struct model *m)
{
	return m->at->length > 0;
}

static void check_window_co(struct model *m)
{
	uint8_t *read = malloc(m->length + 100);

	ox_assert(read && m->io->length == m->length);
	ox_assert(ox_io_pread_co(m->io, read, m->length + 100, 0) == 0);
	ox_assert(memcmp(read, m->bytes, m->length) == 0);
	for (unsigned i = 0; i < 100; i++)
		ox_assert(read[m->length + i] == 0); /* and nothing of the file behind it */
	free(read);
}

static void check_around(const struct model *m)
{
	FILE *file = fopen(path, "rb");
	uint64_t end = is_fixed(m) ? m->at->offset + m->length : UINT64_MAX;
	uint64_t at = 0;
	int c;

	ox_assert(file);
	while ((c = fgetc(file)) != EOF) {
		if (at < m->at->offset || at >= end)
			ox_assert(c == AROUND);
		at++;
	}
	ox_assert(at == (is_fixed(m) ? FILE_BYTES : m->at->offset + m->length));
	fclose(file);
}

static void write_co(struct model *m, uint64_t offset, uint64_t length)
{
	uint8_t *bytes = malloc(length);
	bool fits = !is_fixed(m) || offset + length <= m->length;
	int r;

	ox_assert(bytes);
	memset(bytes, 1 + (int)random_below(m, 100), length);
	r = ox_io_pwrite_co(m->io, bytes, length, offset, random_below(m, 2) ? OX_IO_FUA : 0);
	ox_assert(r == (fits ? 0 : -ENOSPC));
	if (fits) {
		memcpy(m->bytes + offset, bytes, length);
		m->length = ox_max_u64(m->length, offset + length);
	}
	free(bytes);
}

static void zero_co(struct model *m, uint64_t offset, uint64_t length)
{
	int r = random_below(m, 2) ? ox_io_punch_co(m->io, offset, length)
				   : ox_io_zero_co(m->io, offset, length);

	if (r == -EOPNOTSUPP)
		r = ox_io_fill_zero_co(m->io, offset, length);
	ox_assert(r == 0);
	memset(m->bytes + offset, 0, length);
}

static void resize_co(struct model *m, uint64_t length)
{
	int r = ox_io_set_length_co(m->io, length);

	ox_assert(r == (!is_fixed(m) || length == m->length ? 0 : -EOPNOTSUPP));
	if (r < 0)
		return;
	if (length < m->length)
		memset(m->bytes + length, 0, m->length - length);
	m->length = length;
}

/* Holes are zeroes; one behind the other the extents come to the end, and no further. */
static void extents_co(struct model *m)
{
	struct ox_io_extent e[8];
	uint64_t at = 0;
	int n;

	while (at < m->length) {
		n = ox_io_extents_co(m->io, at, m->length - at, e, 8);
		ox_assert(n > 0);
		for (int i = 0; i < n; i++) {
			ox_assert(e[i].length > 0 && e[i].length <= m->length - at);
			for (uint64_t j = 0; e[i].zero && j < e[i].length; j++)
				ox_assert(m->bytes[at + j] == 0);
			at += e[i].length;
		}
	}
	ox_assert(ox_io_extent_co(m->io, m->length + 5, e) == 0 && e[0].zero);
}

static void work_co(void *arg)
{
	struct model *m = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t offset = random_below(m, m->length);
		uint64_t length = 1 + random_below(m, ox_min_u64(20000, m->length - offset));

		switch (random_below(m, 8)) {
		case 0:
			zero_co(m, offset, length);
			break;
		case 1:
			resize_co(m, FILE_BYTES / 2 + random_below(m, FILE_BYTES));
			break;
		case 2:
			extents_co(m);
			break;
		case 3:
			write_co(m, m->length - 10, 20);
			break;
		default:
			write_co(m, offset, length);
		}
	}
	check_window_co(m);
	ox_assert(ox_io_sync_co(m->io) == 0);
}

static void fill_file(void)
{
	FILE *file = fopen(path, "wb");

	ox_assert(file);
	for (unsigned i = 0; i < FILE_BYTES; i++)
		fputc(AROUND, file);
	ox_assert(fclose(file) == 0);
}

/* OX_IO_CREATE would empty the file: the flags of a test say whether the page cache is passed. */
static struct ox_io *open_file(struct ox_reactor *r, unsigned flags)
{
	struct ox_io *io = NULL;

	assert_int_equal(ox_io_file_open(r, path, flags & ~(unsigned)OX_IO_CREATE, &io, NULL), 0);
	return io;
}

static void a_window_is_a_store_and_leaves_the_rest_alone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < OX_ARRAY_SIZE(places); i++) {
		struct model *m = calloc(1, sizeof(*m));
		struct ox_reactor *r = NULL;
		struct ox_io *below;

		assert_non_null(m);
		fill_file();
		assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL), 0);
		below = open_file(r, places[i].flags);
		m->at = &places[i];
		m->seed = i + 1;
		m->length = places[i].length ? places[i].length : FILE_BYTES - places[i].offset;
		memset(m->bytes, AROUND, m->length);
		assert_int_equal(
			ox_io_window_open(below, places[i].offset, places[i].length, &m->io, NULL),
			0);
		assert_ptr_equal(ox_io_below_window(m->io), below);
		assert_int_equal(ox_reactor_call(r, work_co, m), 0);
		ox_io_close(m->io);
		check_around(m);
		ox_reactor_destroy(r);
		free(m);
	}
}

static void a_file_that_is_too_short_is_refused(void **state)
{
	static const struct place bad[] = {
		{FILE_BYTES + 1, 0, 0}, {1000, FILE_BYTES - 999, 0}, {FILE_BYTES, 1, 0}};
	struct ox_reactor *r = NULL;
	struct ox_error *err = NULL;
	struct ox_io *below, *io;

	(void)state;
	fill_file();
	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL), 0);
	below = open_file(r, OX_IO_READ_ONLY);
	for (unsigned i = 0; i < OX_ARRAY_SIZE(bad); i++) {
		assert_int_equal(ox_io_window_open(below, bad[i].offset, bad[i].length, &io, &err),
				 -EINVAL);
		assert_non_null(strstr(ox_error_message(err), "containing file (300000)"));
		ox_error_free(err);
		err = NULL;
	}
	assert_int_equal(ox_io_window_open(below, UINT64_MAX, UINT64_MAX, &io, NULL), -EINVAL);
	assert_int_equal(ox_io_window_open(below, FILE_BYTES, 0, &io, NULL), 0);
	assert_int_equal(io->length, 0);
	assert_true(io->read_only);
	ox_io_close(io);
	ox_reactor_destroy(r);
}

/* M2: a sector of the image is written as a whole, or not at all. */
static void what_begins_within_a_sector_is_not_written(void **state)
{
	struct ox_reactor *r = NULL;
	struct ox_error *err = NULL;
	struct ox_io *below, *io;

	(void)state;
	fill_file();
	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL), 0);
	below = open_file(r, 0);
	assert_int_equal(ox_io_window_open(below, 777, 0, &io, &err), -EINVAL);
	assert_non_null(strstr(ox_error_message(err), "read-only alone"));
	ox_error_free(err);
	ox_io_close(below);
	below = open_file(r, OX_IO_READ_ONLY);
	assert_int_equal(ox_io_window_open(below, 777, 0, &io, NULL), 0);
	assert_int_equal(ox_io_reopen(io, false, NULL), -EINVAL);
	assert_true(io->read_only);
	ox_io_close(io);
	ox_reactor_destroy(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_window_is_a_store_and_leaves_the_rest_alone),
		cmocka_unit_test(a_file_that_is_too_short_is_refused),
		cmocka_unit_test(what_begins_within_a_sector_is_not_written),
	};
	int fd = mkstemp(path);
	int r;

	ox_assert(fd >= 0);
	close(fd);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return r;
}
