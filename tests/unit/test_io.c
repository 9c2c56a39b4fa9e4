/* SPDX-License-Identifier: MIT */
/*
 * The byte stores. The tests that take a rig run on every kind of store, under both engines; the
 * store of fussy_io.h is one of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"
#include "fussy_io.h"
#include "io/file_lock.h"
#include "io/io.h"

enum {
	STORE_BYTES = 256 * 1024, /* of the stores that cannot grow */
};

enum store_kind {
	STORE_MEMORY,
	STORE_FUSSY,
	STORE_FILE,
	STORE_FILE_DIRECT,
	STORE_LOOP_512,
	STORE_LOOP_512_DIRECT,
	STORE_LOOP_4096,
	STORE_LOOP_4096_DIRECT,
};

static char dir[] = "/tmp/ox-test-io-XXXXXX";
static char file_path[64];
static char loop_512[32];
static char loop_4096[32];

/* ---- rigs ---- */

struct rig {
	struct ox_reactor *reactor;
	struct ox_io *io;
	enum store_kind kind;
};

static struct ox_io *open_store(struct ox_reactor *r, const char *path, unsigned flags)
{
	struct ox_error *err = NULL;
	struct ox_io *io = NULL;

	if (ox_io_file_open(r, path, flags, &io, &err) < 0)
		fail_msg("%s", ox_error_message(err));
	return io;
}

static struct ox_io *open_kind(struct ox_reactor *r, enum store_kind kind)
{
	struct ox_io *io = NULL;

	switch (kind) {
	case STORE_MEMORY:
		assert_int_equal(ox_io_memory_open(r, 0, &io), 0);
		return io;
	case STORE_FUSSY:
		return fussy_io_open(r);
	case STORE_FILE:
		return open_store(r, file_path, OX_IO_CREATE);
	case STORE_FILE_DIRECT:
		return open_store(r, file_path, OX_IO_CREATE | OX_IO_DIRECT);
	case STORE_LOOP_512:
		return open_store(r, loop_512, 0);
	case STORE_LOOP_512_DIRECT:
		return open_store(r, loop_512, OX_IO_DIRECT);
	case STORE_LOOP_4096:
		return open_store(r, loop_4096, 0);
	case STORE_LOOP_4096_DIRECT:
		return open_store(r, loop_4096, OX_IO_DIRECT);
	}
	fail();
	return NULL;
}

static void write_zeroes_over_co(struct ox_io *io)
{
	static uint8_t zeroes[STORE_BYTES];

	ox_assert(ox_io_pwrite_co(io, zeroes, sizeof(zeroes), 0, 0) == 0);
}

static void clear_co(void *arg)
{
	struct rig *rig = arg;

	if (!rig->io->can_grow)
		write_zeroes_over_co(rig->io);
}

static struct ox_reactor *make_reactor(enum ox_engine engine)
{
	struct ox_reactor *r = NULL;

	assert_int_equal(ox_reactor_create(engine, &r, NULL), 0);
	return r;
}

static const enum ox_engine engines[] = {OX_ENGINE_IO_URING, OX_ENGINE_THREAD_POOL};

/* Runs the task on a fresh, empty (or zeroed) store of each kind. */
static void on_every_store(ox_co_fn fn)
{
	for (size_t e = 0; e < OX_ARRAY_SIZE(engines); e++) {
		for (int kind = STORE_MEMORY; kind <= STORE_LOOP_4096_DIRECT; kind++) {
			struct rig rig = {.reactor = make_reactor(engines[e]), .kind = kind};

			print_message("  engine %d, store %d\n", engines[e], kind);
			rig.io = open_kind(rig.reactor, kind);
			assert_int_equal(ox_reactor_call(rig.reactor, clear_co, &rig), 0);
			assert_int_equal(ox_reactor_call(rig.reactor, fn, &rig), 0);
			assert_int_equal(ox_reactor_tasks(rig.reactor), 0);
			ox_io_close(rig.io);
			ox_reactor_destroy(rig.reactor);
		}
	}
}

static void on_one_file(ox_co_fn fn, unsigned flags)
{
	struct rig rig = {.reactor = make_reactor(OX_ENGINE_DEFAULT)};

	rig.io = open_store(rig.reactor, file_path, flags);
	assert_int_equal(ox_reactor_call(rig.reactor, fn, &rig), 0);
	ox_io_close(rig.io);
	ox_reactor_destroy(rig.reactor);
}

/* ---- against a model ---- */

struct model {
	uint8_t bytes[STORE_BYTES];
	uint64_t length;
	unsigned seed;
};

static unsigned draw(struct model *m, unsigned below)
{
	return (unsigned)rand_r(&m->seed) % below;
}

/* Cuts a buffer into pieces, some of them empty. Returns how many. */
static int cut(struct model *m, uint8_t *buf, size_t count, struct iovec *iov, int max)
{
	int n = 0;

	while (n < max - 1 && count > 0) {
		size_t part = ox_min_u64(count, draw(m, 3) ? draw(m, 3) * 512 : draw(m, 3000));

		iov[n++] = (struct iovec){buf, part};
		buf += part;
		count -= part;
	}
	iov[n++] = (struct iovec){buf, count};
	return n;
}

static void model_write_co(struct rig *rig, struct model *m, uint8_t *buf, uint64_t offset,
			   size_t count)
{
	struct iovec iov[8];
	int n;

	for (size_t i = 0; i < count; i++)
		buf[i] = (uint8_t)draw(m, 256);
	n = cut(m, buf, count, iov, 8);
	ox_assert(ox_io_pwritev_co(rig->io, iov, n, offset, draw(m, 8) ? 0 : OX_IO_FUA) == 0);
	memcpy(m->bytes + offset, buf, count);
	if (count > 0)
		m->length = ox_max_u64(m->length, offset + count);
}

static void model_read_co(struct rig *rig, struct model *m, uint8_t *buf, uint64_t offset,
			  size_t count)
{
	struct iovec iov[8];
	int n = cut(m, buf, count, iov, 8);

	memset(buf, 0xee, count);
	ox_assert(ox_io_preadv_co(rig->io, iov, n, offset) == 0);
	ox_assert(memcmp(buf, m->bytes + offset, count) == 0);
}

static void model_set_length_co(struct rig *rig, struct model *m, uint64_t length)
{
	if (!rig->io->can_grow)
		return;
	ox_assert(ox_io_set_length_co(rig->io, length) == 0);
	if (length < m->length)
		memset(m->bytes + length, 0, m->length - length);
	m->length = length;
}

static void model_zero_co(struct rig *rig, struct model *m, uint64_t offset, uint64_t length)
{
	int r = draw(m, 2) ? ox_io_zero_co(rig->io, offset, length)
			   : ox_io_punch_co(rig->io, offset, length);

	ox_assert(r == 0);
	memset(m->bytes + offset, 0, length);
}

static void model_reserve_co(struct rig *rig, struct model *m, uint64_t offset, uint64_t length)
{
	ox_assert(ox_io_reserve_co(rig->io, offset, length) == 0);
	if (length > 0)
		m->length = ox_max_u64(m->length, offset + length);
}

static void random_requests_co(void *arg)
{
	struct rig *rig = arg;
	struct model *m = calloc(1, sizeof(*m));
	uint8_t *space = ox_io_buffer(STORE_BYTES);

	m->seed = 7;
	m->length = rig->io->length;
	for (int i = 0; i < 400; i++) {
		bool even = draw(m, 3) == 0;
		uint64_t count = even ? draw(m, 16) * 4096 : draw(m, 20000);
		uint64_t offset = even ? draw(m, 40) * 4096 : draw(m, STORE_BYTES - 20000);
		uint8_t *buf = space + (draw(m, 2) ? draw(m, 512) : 0);

		switch (draw(m, 10)) {
		case 0:
			model_set_length_co(rig, m, offset);
			break;
		case 1:
			model_zero_co(rig, m, offset, count);
			break;
		case 2:
			model_reserve_co(rig, m, offset, count / 8);
			break;
		case 3:
		case 4:
		case 5:
			model_read_co(rig, m, buf, offset, count);
			break;
		default:
			model_write_co(rig, m, buf, offset, count);
		}
		ox_assert(rig->io->length == m->length);
	}
	model_read_co(rig, m, space, 0, STORE_BYTES - 4096);
	ox_assert(ox_io_sync_co(rig->io) == 0);
	free(space);
	free(m);
}

static void any_request_does_what_a_plain_buffer_would(void **state)
{
	(void)state;
	on_every_store(random_requests_co);
}

/* ---- H5 ---- */

enum {
	PIECES = 40,
	PIECE_BYTES = 101,
};

struct piece {
	struct rig *rig;
	struct ox_latch *latch;
	int index;
};

static void write_piece_co(void *arg)
{
	struct piece *p = arg;
	uint8_t buf[PIECE_BYTES];

	memset(buf, p->index + 1, sizeof(buf));
	ox_assert(ox_io_pwrite_co(p->rig->io, buf, sizeof(buf), (uint64_t)p->index * PIECE_BYTES,
				  0) == 0);
	ox_latch_done(p->latch);
}

static void neighbours_co(void *arg)
{
	struct rig *rig = arg;
	struct piece pieces[PIECES];
	uint8_t buf[PIECES * PIECE_BYTES];
	struct ox_latch latch;

	ox_latch_init(&latch);
	for (int i = 0; i < PIECES; i++) {
		pieces[i] = (struct piece){rig, &latch, i};
		ox_latch_add(&latch);
		ox_assert(ox_co_spawn(rig->reactor, write_piece_co, &pieces[i]) == 0);
	}
	ox_latch_wait_co(&latch);
	if (rig->io->can_grow)
		ox_assert(rig->io->length == sizeof(buf));
	ox_assert(ox_io_pread_co(rig->io, buf, sizeof(buf), 0) == 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		ox_assert(buf[i] == i / PIECE_BYTES + 1);
}

static void small_writes_at_once_keep_their_neighbours(void **state)
{
	(void)state;
	on_every_store(neighbours_co);
}

/* One request of a task of its own. */
struct request {
	struct rig *rig;
	struct ox_latch *latch;
	uint64_t offset;
	size_t count; /* at most 4096 */
	uint8_t value;
	bool zero; /* by ox_io_zero_co rather than a write */
};

static void request_co(void *arg)
{
	struct request *q = arg;
	uint8_t *buf = ox_io_buffer(4096);

	memset(buf, q->value, 4096);
	if (q->zero)
		ox_assert(ox_io_zero_co(q->rig->io, q->offset, q->count) == 0);
	else
		ox_assert(ox_io_pwrite_co(q->rig->io, buf, q->count, q->offset, 0) == 0);
	free(buf);
	ox_latch_done(q->latch);
}

static void run_both_co(struct rig *rig, struct request *requests)
{
	struct ox_latch latch;

	ox_latch_init(&latch);
	for (int i = 0; i < 2; i++) {
		requests[i].rig = rig;
		requests[i].latch = &latch;
		ox_latch_add(&latch);
		ox_assert(ox_co_spawn(rig->reactor, request_co, &requests[i]) == 0);
	}
	ox_latch_wait_co(&latch);
}

/* What a small write does not cover is not its to bring back. */
static void overlap_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t buf[4096];

	for (int round = 0; round < 64; round++) {
		uint8_t whole = (round & 1) ? 0 : 3;
		struct request requests[2] = {
			{.offset = 10, .count = 10, .value = 2},
			{.count = 4096, .value = whole, .zero = round & 1},
		};
		struct request swapped[2] = {requests[1], requests[0]};

		memset(buf, 1, sizeof(buf));
		ox_assert(ox_io_pwrite_co(rig->io, buf, sizeof(buf), 0, 0) == 0);
		run_both_co(rig, (round & 2) ? swapped : requests);
		ox_assert(ox_io_pread_co(rig->io, buf, sizeof(buf), 0) == 0);
		for (size_t i = 0; i < sizeof(buf); i++)
			ox_assert(buf[i] == whole || (i >= 10 && i < 20 && buf[i] == 2));
	}
}

static void a_small_write_brings_nothing_back(void **state)
{
	(void)state;
	on_every_store(overlap_co);
}

static void growth_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t buf[8192];

	for (int round = 0; round < 64 && rig->io->can_grow; round++) {
		struct request requests[2] = {
			{.offset = 10, .count = 10, .value = 2},
			{.offset = 4096, .count = 4096, .value = 3},
		};
		struct request swapped[2] = {requests[1], requests[0]};

		ox_assert(ox_io_set_length_co(rig->io, 0) == 0);
		run_both_co(rig, (round & 1) ? swapped : requests);
		ox_assert(rig->io->length == 8192);
		ox_assert(ox_io_pread_co(rig->io, buf, sizeof(buf), 0) == 0);
		for (size_t i = 0; i < 4096; i++)
			ox_assert(buf[i] == (i >= 10 && i < 20 ? 2 : 0) && buf[4096 + i] == 3);
	}
}

static void a_small_write_at_the_end_cuts_off_no_other(void **state)
{
	(void)state;
	on_every_store(growth_co);
}

/* ---- ends and refusals ---- */

static void past_the_end_co(void *arg)
{
	struct rig *rig = arg;
	uint64_t end = rig->io->length;
	uint8_t buf[9000];

	memset(buf, 0xee, sizeof(buf));
	ox_assert(ox_io_pread_co(rig->io, buf, sizeof(buf), end + 3) == 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		ox_assert(buf[i] == 0);
	ox_assert(rig->io->length == end);
	ox_assert(ox_io_pread_co(rig->io, buf, 2, INT64_MAX) == -EINVAL);
	ox_assert(ox_io_pwrite_co(rig->io, buf, 2, INT64_MAX, 0) == -EINVAL);
	ox_assert(ox_io_pwrite_co(rig->io, buf, 0, 77, 0) == 0);
	ox_assert(ox_io_zero_co(rig->io, end, 100) == 0);
	ox_assert(ox_io_punch_co(rig->io, end + 100, UINT64_MAX) == 0);
	ox_assert(rig->io->length == end);
}

static void what_lies_past_the_end_reads_as_zeroes(void **state)
{
	(void)state;
	on_every_store(past_the_end_co);
}

static void zero_tail_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t buf[1000];

	if (!rig->io->can_grow)
		return;
	for (uint64_t start = 500; start < 1000; start += 12) {
		memset(buf, 1, sizeof(buf));
		ox_assert(ox_io_pwrite_co(rig->io, buf, sizeof(buf), 0, 0) == 0);
		ox_assert(ox_io_zero_co(rig->io, start, 1000 - start) == 0);
		ox_assert(rig->io->length == 1000);
		ox_assert(ox_io_pread_co(rig->io, buf, sizeof(buf), 0) == 0);
		for (size_t i = 0; i < sizeof(buf); i++)
			ox_assert(buf[i] == (i < start));
	}
}

static void zeroing_up_to_the_end_keeps_the_length(void **state)
{
	(void)state;
	on_every_store(zero_tail_co);
}

static void full_device_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t buf[4096] = {1};

	if (rig->io->can_grow)
		return;
	ox_assert(ox_io_pwrite_co(rig->io, buf, 4096, STORE_BYTES, 0) == -ENOSPC);
	ox_assert(ox_io_pwrite_co(rig->io, buf, 4096, STORE_BYTES - 100, 0) == -ENOSPC);
	ox_assert(ox_io_reserve_co(rig->io, STORE_BYTES - 512, 512) == 0);
	ox_assert(ox_io_reserve_co(rig->io, STORE_BYTES - 512, 513) == -ENOSPC);
	ox_assert(ox_io_set_length_co(rig->io, STORE_BYTES) == 0);
	ox_assert(ox_io_set_length_co(rig->io, STORE_BYTES + 1) == -EOPNOTSUPP);
	ox_assert(rig->io->length == STORE_BYTES);
}

static void a_device_does_not_grow(void **state)
{
	(void)state;
	on_every_store(full_device_co);
}

static void counted_co(void *arg)
{
	struct rig *rig = arg;
	uint64_t *counts = rig->io->counts;
	uint8_t *buf = ox_io_buffer(8192);

	memset(counts, 0, sizeof(rig->io->counts));
	memset(buf, 1, 8192);
	ox_assert(ox_io_pwrite_co(rig->io, buf, 8192, 0, 0) == 0);
	ox_assert(ox_io_pread_co(rig->io, buf, 4096, 0) == 0);
	ox_assert(ox_io_sync_co(rig->io) == 0);
	ox_assert(ox_io_punch_co(rig->io, 0, 4096) == 0);
	ox_assert(ox_io_zero_co(rig->io, 4096, 4096) == 0);
	ox_assert(counts[OX_IO_COUNT_WRITE_BYTES] == 8192);
	ox_assert(counts[OX_IO_COUNT_READ_BYTES] == 4096);
	ox_assert(counts[OX_IO_COUNT_SYNCS] == 1);
	ox_assert(counts[OX_IO_COUNT_PUNCHES] == 1);
	ox_assert(counts[OX_IO_COUNT_ZEROES] == 1);
	ox_assert(counts[OX_IO_COUNT_LENGTHS] == 0);
	if (rig->kind != STORE_FUSSY)
		ox_assert(counts[OX_IO_COUNT_WRITES] == 1 && counts[OX_IO_COUNT_READS] == 1);
	free(buf);
}

static void requests_and_bytes_are_counted(void **state)
{
	(void)state;
	on_every_store(counted_co);
}

static void read_only_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t byte = 1;

	ox_assert(ox_io_pwrite_co(rig->io, &byte, 1, 0, 0) == -EROFS);
	ox_assert(ox_io_zero_co(rig->io, 0, 1) == -EROFS);
	ox_assert(ox_io_punch_co(rig->io, 0, 1) == -EROFS);
	ox_assert(ox_io_reserve_co(rig->io, 0, 1) == -EROFS);
	ox_assert(ox_io_set_length_co(rig->io, 0) == -EROFS);
	ox_assert(ox_io_pread_co(rig->io, &byte, 1, 0) == 0);
	ox_assert(ox_io_sync_co(rig->io) == 0);
}

static void a_read_only_store_takes_no_change(void **state)
{
	(void)state;
	on_one_file(read_only_co, OX_IO_READ_ONLY);
}

/* ---- opening ---- */

static void assert_open_fails(struct ox_reactor *r, const char *path, unsigned flags, int code,
			      const char *message)
{
	struct ox_error *err = NULL;
	struct ox_io *io = NULL;

	assert_int_equal(ox_io_file_open(r, path, flags, &io, &err), code);
	assert_null(io);
	if (!strstr(ox_error_message(err), message))
		fail_msg("'%s' lacks '%s'", ox_error_message(err), message);
	ox_error_free(err);
}

static void what_is_no_disk_is_refused(void **state)
{
	struct ox_reactor *r = make_reactor(OX_ENGINE_DEFAULT);
	char fifo[80];

	(void)state;
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_open_fails(r, fifo, 0, -EINVAL, "neither a regular file nor a block device");
	assert_open_fails(r, fifo, OX_IO_READ_ONLY, -EINVAL, "neither");
	assert_open_fails(r, dir, OX_IO_READ_ONLY, -EISDIR, "neither");
	assert_open_fails(r, dir, 0, -EISDIR, "Is a directory");
	assert_open_fails(r, "/dev/null", 0, -EINVAL, "neither");
	assert_open_fails(r, "/nonexistent", 0, -ENOENT,
			  "Could not open '/nonexistent': No such file or directory");
	unlink(fifo);
	ox_reactor_destroy(r);
}

static void write_text(const char *text)
{
	int fd = open(file_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void creating_leaves_a_locked_file_alone(void **state)
{
	struct ox_reactor *r = make_reactor(OX_ENGINE_DEFAULT);
	struct ox_io *reader;
	struct stat st;

	(void)state;
	write_text("precious");
	reader = open_store(r, file_path, OX_IO_READ_ONLY);
	assert_open_fails(r, file_path, OX_IO_CREATE, -EAGAIN, "Failed to get \"write\" lock");
	assert_int_equal(stat(file_path, &st), 0);
	assert_int_equal(st.st_size, 8);
	ox_io_close(reader);
	ox_io_close(open_store(r, file_path, OX_IO_CREATE));
	assert_int_equal(stat(file_path, &st), 0);
	assert_int_equal(st.st_size, 0);
	ox_reactor_destroy(r);
}

static void sharing_flags_do_what_they_say(void **state)
{
	struct ox_reactor *r = make_reactor(OX_ENGINE_DEFAULT);
	struct ox_io *writer;
	struct ox_io *sharer;

	(void)state;
	writer = open_store(r, file_path, 0);
	assert_open_fails(r, file_path, OX_IO_READ_ONLY, -EAGAIN, "Failed to get shared");
	ox_io_close(open_store(r, file_path, OX_IO_READ_ONLY | OX_IO_FORCE_SHARE));
	ox_io_close(open_store(r, file_path, OX_IO_NO_LOCK));
	sharer = open_store(r, file_path, OX_IO_READ_ONLY | OX_IO_SHARE_WRITE);
	ox_io_close(writer);
	ox_io_close(open_store(r, file_path, 0));
	ox_io_close(sharer);
	assert_open_fails(r, file_path, OX_IO_FORCE_SHARE, -EINVAL, "read-only");
	ox_reactor_destroy(r);
}

static void write_one_co(void *arg)
{
	struct rig *rig = arg;
	uint8_t byte = 1;

	ox_assert(ox_io_pwrite_co(rig->io, &byte, 1, 0, 0) == 0);
}

static void reopening_takes_and_gives_locks(void **state)
{
	struct rig rig = {.reactor = make_reactor(OX_ENGINE_DEFAULT)};
	struct ox_io *other;

	(void)state;
	rig.io = open_store(rig.reactor, file_path, OX_IO_READ_ONLY);
	other = open_store(rig.reactor, file_path, OX_IO_READ_ONLY);
	assert_int_equal(ox_io_file_reopen(rig.io, false, NULL), -EAGAIN);
	assert_true(rig.io->read_only);
	ox_io_close(other);
	assert_open_fails(rig.reactor, file_path, 0, -EAGAIN, "Failed to get \"write\" lock");

	assert_int_equal(ox_io_file_reopen(rig.io, false, NULL), 0);
	assert_false(rig.io->read_only);
	assert_open_fails(rig.reactor, file_path, OX_IO_READ_ONLY, -EAGAIN, "shared \"write\"");
	assert_int_equal(ox_reactor_call(rig.reactor, write_one_co, &rig), 0);

	assert_int_equal(ox_io_file_reopen(rig.io, true, NULL), 0);
	ox_io_close(open_store(rig.reactor, file_path, OX_IO_READ_ONLY));
	assert_open_fails(rig.reactor, file_path, 0, -EAGAIN, "Failed to get \"write\" lock");
	assert_int_equal(ox_reactor_call(rig.reactor, read_only_co, &rig), 0);
	ox_io_close(rig.io);
	ox_io_close(open_store(rig.reactor, file_path, 0));
	ox_reactor_destroy(rig.reactor);
}

static struct ox_io *open_given(struct ox_reactor *r, int fd, unsigned flags)
{
	struct ox_io *io = NULL;

	assert_int_equal(ox_io_file_open_fd(r, fd, "given", flags, &io, NULL), 0);
	return io;
}

static void a_given_descriptor_limits_the_store(void **state)
{
	struct rig rig = {.reactor = make_reactor(OX_ENGINE_DEFAULT)};
	struct ox_error *err = NULL;
	struct ox_io *io = NULL;
	int fd = open(file_path, O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(ox_io_file_open_fd(rig.reactor, fd, "given", 0, &io, &err), -EACCES);
	assert_string_equal(ox_error_message(err), "Descriptor 'given' is not open for writing");
	ox_error_free(err);
	io = open_given(rig.reactor, fd, OX_IO_READ_ONLY);
	assert_int_equal(ox_io_file_reopen(io, false, NULL), -EACCES);
	assert_true(io->read_only);
	ox_io_close(io);

	fd = open(file_path, O_RDWR | O_APPEND | O_CLOEXEC);
	write_text("0123456789");
	rig.io = open_given(rig.reactor, fd, OX_IO_READ_ONLY);
	assert_int_equal(ox_io_file_reopen(rig.io, false, NULL), 0);
	assert_open_fails(rig.reactor, file_path, OX_IO_READ_ONLY, -EAGAIN, "shared \"write\"");
	assert_int_equal(ox_reactor_call(rig.reactor, write_one_co, &rig), 0);
	assert_int_equal(rig.io->length, 10);
	assert_int_equal(lseek(fd, 0, SEEK_END), 10);
	ox_io_close(rig.io);
	ox_reactor_destroy(rig.reactor);
}

static void closing_frees_the_locks_of_a_duplicate(void **state)
{
	struct ox_reactor *r = make_reactor(OX_ENGINE_DEFAULT);
	int fd = open(file_path, O_RDWR | O_CLOEXEC);
	struct ox_io *io = open_given(r, dup(fd), 0);

	(void)state;
	assert_open_fails(r, file_path, OX_IO_READ_ONLY, -EAGAIN, "shared \"write\"");
	ox_io_close(io);
	ox_io_close(open_store(r, file_path, 0));
	close(fd);
	ox_reactor_destroy(r);
}

static void one_file_has_one_identity(void **state)
{
	struct ox_reactor *r = make_reactor(OX_ENGINE_DEFAULT);
	struct ox_io *a = open_store(r, file_path, OX_IO_READ_ONLY);
	struct ox_io *b = open_store(r, file_path, OX_IO_READ_ONLY);
	struct ox_io *c = open_store(r, loop_512, OX_IO_READ_ONLY);
	struct ox_io *m = NULL;
	uint64_t dev[3];
	uint64_t ino[3];

	(void)state;
	assert_int_equal(ox_io_memory_open(r, 0, &m), 0);
	assert_true(ox_io_file_identity(a, &dev[0], &ino[0]));
	assert_true(ox_io_file_identity(b, &dev[1], &ino[1]));
	assert_true(ox_io_file_identity(c, &dev[2], &ino[2]));
	assert_false(ox_io_file_identity(m, &dev[2], &ino[2]));
	assert_true(dev[0] == dev[1] && ino[0] == ino[1]);
	assert_true(dev[0] != dev[2] || ino[0] != ino[2]);
	ox_io_close(a);
	ox_io_close(b);
	ox_io_close(c);
	ox_io_close(m);
	ox_io_close(NULL);
	ox_reactor_destroy(r);
}

/* ---- set up ---- */

static int run(const char *command, char *ret_line, size_t size)
{
	FILE *out = popen(command, "re");

	if (!out)
		return -1;
	if (ret_line && fgets(ret_line, (int)size, out))
		ret_line[strcspn(ret_line, "\n")] = '\0';
	return pclose(out);
}

static int make_loop(int sector_bytes, char *ret_device, size_t size)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "truncate -s %d %s/loop%d && losetup --sector-size %d --show -f %s/loop%d",
		 STORE_BYTES, dir, sector_bytes, sector_bytes, dir, sector_bytes);
	return run(command, ret_device, size);
}

static int make_stores(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(file_path, sizeof(file_path), "%s/file", dir);
	if (make_loop(512, loop_512, sizeof(loop_512)) ||
	    make_loop(4096, loop_4096, sizeof(loop_4096)))
		return -1;
	return 0;
}

static int remove_stores(void **state)
{
	char command[256];

	(void)state;
	snprintf(command, sizeof(command), "losetup -d %s; losetup -d %s; rm -r %s", loop_512,
		 loop_4096, dir);
	return run(command, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_request_does_what_a_plain_buffer_would),
		cmocka_unit_test(small_writes_at_once_keep_their_neighbours),
		cmocka_unit_test(a_small_write_brings_nothing_back),
		cmocka_unit_test(a_small_write_at_the_end_cuts_off_no_other),
		cmocka_unit_test(zeroing_up_to_the_end_keeps_the_length),
		cmocka_unit_test(what_lies_past_the_end_reads_as_zeroes),
		cmocka_unit_test(a_device_does_not_grow),
		cmocka_unit_test(requests_and_bytes_are_counted),
		cmocka_unit_test(a_read_only_store_takes_no_change),
		cmocka_unit_test(what_is_no_disk_is_refused),
		cmocka_unit_test(creating_leaves_a_locked_file_alone),
		cmocka_unit_test(sharing_flags_do_what_they_say),
		cmocka_unit_test(reopening_takes_and_gives_locks),
		cmocka_unit_test(a_given_descriptor_limits_the_store),
		cmocka_unit_test(closing_frees_the_locks_of_a_duplicate),
		cmocka_unit_test(one_file_has_one_identity),
	};

	return cmocka_run_group_tests(tests, make_stores, remove_stores);
}
