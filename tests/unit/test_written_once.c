/* SPDX-License-Identifier: MIT */
/*
 * A request that gives up its lock with a part of it done goes on behind that part: what others
 * wrote there since, and were answered for, stays. Shown at the instants where it matters, on a
 * store that holds requests back; and by many clients on few blocks, of whom each answer is held
 * against what some order of the requests could give.
 */
#include "task_test.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "check/check.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "linear.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define DISK_BYTES (UINT64_C(1) << 30)

static struct ox_io *store;
static struct ox_image *image;

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

static void open_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};

	opts.format = "qcow2";
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

/* ---- one request each ---- */

struct request {
	enum { WRITE, ZERO } kind;
	uint64_t offset;
	size_t length;
	char byte;
	int result;
	bool done;
};

static void run_co(void *arg)
{
	struct request *r = arg;
	char *buf = malloc(r->length);
	struct iovec v = {buf, r->length};

	assert_non_null(buf);
	memset(buf, r->byte, r->length);
	r->result = r->kind == WRITE ? ox_img_pwritev_co(image, &v, 1, r->offset, 0)
				     : ox_img_zero_co(image, r->offset, r->length, 0);
	r->done = true;
	free(buf);
}

static void write_co(uint64_t offset, size_t length, char byte)
{
	struct request r = {.kind = WRITE, .offset = offset, .length = length, .byte = byte};

	run_co(&r);
	assert_int_equal(r.result, 0);
}

static void assert_reads_co(uint64_t offset, size_t length, char byte)
{
	char *buf = malloc(length);
	struct iovec v = {buf, length};

	assert_non_null(buf);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, offset), 0);
	for (size_t i = 0; i < length; i++)
		assert_int_equal(buf[i], byte);
	free(buf);
}

/* The entry of guest 0's table, as it is on the store. */
static uint64_t entry_of(unsigned cluster, uint64_t *ret_table)
{
	uint8_t *bytes = watched_bytes(store);
	uint64_t l1 = ox_be64_get(*(struct ox_be64 *)(void *)(bytes + 40));
	uint64_t table = ox_be64_get(*(struct ox_be64 *)(void *)(bytes + l1));

	table &= OX_QCOW2_OFFSET_MASK;
	if (ret_table)
		*ret_table = table;
	return ox_be64_get(((struct ox_be64 *)(void *)(bytes + table))[cluster]) &
	       OX_QCOW2_OFFSET_MASK;
}

/* Clusters 0 and 1, in places that do not follow one another; 2 has none. */
static void make_image_co(bool lazy)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = DISK_BYTES;
	create.cluster_bytes = CLUSTER;
	create.lazy_refcounts = lazy;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
	write_co(CLUSTER, CLUSTER, 'o');
	write_co(0, CLUSTER, 'o');
	assert_int_equal(ox_img_flush_co(image), 0);
	watched.write_count = 0;
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

/* ---- a write that begins in place ---- */

static void a_write_that_needs_an_allocation_goes_on_where_it_stopped_co(void *arg)
{
	struct request first = {
		.kind = WRITE, .offset = 0, .length = UINT64_C(3) * CLUSTER, .byte = 'f'};

	(void)arg;
	make_image_co(false);
	watched.hold_write_at = entry_of(1, NULL);
	watched.hold_write = true;
	spawn(run_co, &first);
	let_others_run_co();
	assert_false(watched.hold_write);
	assert_reads_co(0, CLUSTER, 'f'); /* so what follows comes after it */
	write_co(0, CLUSTER, 'l');
	assert_reads_co(0, CLUSTER, 'l');
	assert_false(first.done);

	watched.let_go = true;
	while (!first.done)
		ox_co_yield_co();
	assert_int_equal(first.result, 0);
	assert_reads_co(0, CLUSTER, 'l');
	assert_reads_co(CLUSTER, UINT64_C(2) * CLUSTER, 'f');
	finish_co();
}

static unsigned writes_at(uint64_t offset)
{
	unsigned n = 0;

	for (unsigned i = 0; i < watched.write_count; i++)
		n += watched.writes[i].offset == offset;
	return n;
}

static void what_fua_made_durable_in_place_is_written_once_co(void *arg)
{
	char *buf = calloc(3, CLUSTER);
	struct iovec v = {buf, UINT64_C(3) * CLUSTER};
	unsigned syncs;

	(void)arg;
	assert_non_null(buf);
	make_image_co(false);
	syncs = watched.syncs;
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, 0, OX_REQ_FUA), 0);
	assert_int_equal(writes_at(entry_of(0, NULL)), 1);
	assert_int_equal(writes_at(entry_of(1, NULL)), 1);
	assert_true(watched.syncs > syncs); /* of the commit, that covers all three */
	finish_co();
	free(buf);
}

/* ---- requests that wait for a recovery ---- */

/* A dirty image on a store that cannot grow: what needs a cluster waits for the recovery, which
 * waits for the table that it reads. */
static void make_recovering_co(void)
{
	uint64_t table;

	make_image_co(true);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_int_equal(ox_io_set_length_co(store, store->length + 64 * CLUSTER), 0);
	(void)entry_of(0, &table);
	watched_bytes(store)[79] |= OX_QCOW2_INCOMPAT_DIRTY;
	store->can_grow = false;
	watched.write_count = 0;
	watched.hold_read_at = table;
	watched.hold_read = true;
	open_co();
	let_others_run_co();
	assert_false(watched.hold_read);
}

static void overwrite_and_end_recovery_co(struct request *r, uint64_t offset, size_t length)
{
	spawn(run_co, r);
	let_others_run_co();
	assert_false(r->done);
	assert_reads_co(offset, length, r->byte);
	write_co(offset, length, 'l');
	assert_reads_co(offset, length, 'l');
	assert_false(r->done);

	watched.let_go = true;
	while (!r->done)
		ox_co_yield_co();
	assert_int_equal(r->result, 0);
	assert_reads_co(offset, length, 'l');
}

static void a_write_that_waited_for_the_recovery_goes_on_where_it_stopped_co(void *arg)
{
	struct request first = {
		.kind = WRITE, .offset = 0, .length = UINT64_C(3) * CLUSTER, .byte = 'f'};

	(void)arg;
	make_recovering_co();
	overwrite_and_end_recovery_co(&first, 0, CLUSTER);
	assert_reads_co(CLUSTER, UINT64_C(2) * CLUSTER, 'f');
	finish_co();
}

static void zeroes_that_waited_for_the_recovery_go_on_where_they_stopped_co(void *arg)
{
	struct request first = {
		.kind = ZERO, .offset = CLUSTER / 2, .length = CLUSTER / 2 + CLUSTER, .byte = 0};

	(void)arg;
	make_recovering_co();
	overwrite_and_end_recovery_co(&first, CLUSTER / 2, CLUSTER / 2);
	assert_reads_co(0, CLUSTER / 2, 'o');
	assert_reads_co(CLUSTER, CLUSTER, 0);
	finish_co();
}

/* ---- many clients on few blocks ---- */

#define BLOCK 4096u
#define BLOCKS 24u /* of a region; all but the last have a place, away from their neighbours' */
#define REGIONS 250u
#define CLIENTS 8u
#define OPS_EACH 14u

struct client {
	struct ox_request request;
	struct iovec iov;
	uint64_t *buf;
	uint64_t began;
	unsigned first; /* block of the region */
	unsigned count;
	unsigned left;
};

static struct ox_context *ctx;
static struct client clients[CLIENTS];
static struct linear_op history[BLOCKS][CLIENTS * OPS_EACH + 2];
static size_t history_count[BLOCKS];
static uint64_t clock_ticks;
static uint64_t last_value;

static uint64_t draw(uint64_t below)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (x >> 11) % below;
}

static void note(unsigned block, uint64_t began, uint64_t ended, uint64_t value, bool write)
{
	history[block][history_count[block]++] = (struct linear_op){began, ended, value, write};
}

/* Half of the requests change or read the first blocks, where the long ones begin. */
static void submit(struct ox_queue *queue, struct client *c, uint64_t region)
{
	bool write = draw(2) == 0;

	c->first = (unsigned)draw(draw(2) ? 3 : BLOCKS);
	c->count = write && draw(3) == 0 ? BLOCKS - c->first : 1;
	c->iov.iov_len = c->count * BLOCK;
	if (write)
		last_value++;
	for (unsigned i = 0; write && i < c->count; i++)
		c->buf[i * (BLOCK / 8)] = last_value;
	c->request = (struct ox_request){
		.op = write ? OX_OP_WRITE : OX_OP_READ,
		.flags = write && draw(4) == 0 ? OX_REQ_FUA : 0,
		.offset = (region * BLOCKS + c->first) * BLOCK,
		.iov = &c->iov,
		.iov_count = 1,
		.user = c,
	};
	c->began = ++clock_ticks;
	c->left--;
	assert_int_equal(ox_queue_submit(queue, &c->request), 0);
}

static void reap(struct client *c)
{
	uint64_t now = ++clock_ticks;

	assert_int_equal(c->request.result, 0);
	for (unsigned i = 0; i < c->count; i++)
		note(c->first + i, c->began, now, c->buf[i * (BLOCK / 8)],
		     c->request.op == OX_OP_WRITE);
}

static void work_on_region(struct ox_queue *queue, uint64_t region)
{
	struct ox_request *done;
	uint64_t value = 0;

	for (unsigned b = 0; b < BLOCKS; b++) {
		history_count[b] = 0;
		note(b, 0, 0, 0, true);
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		clients[i].left = OPS_EACH;
		submit(queue, &clients[i], region);
	}
	while (ox_queue_pending(queue) > 0) {
		assert_int_equal(ox_context_wait(ctx), 0);
		while (ox_queue_reap(queue, &done, 1) > 0) {
			struct client *c = done->user;

			reap(c);
			if (c->left > 0)
				submit(queue, c, region);
		}
	}
	for (unsigned b = 0; b < BLOCKS; b++)
		if (!linear_check(history[b], history_count[b], &value))
			fail_msg("region %u, block %u: no order of the requests explains who read "
				 "%u when",
				 (unsigned)region, b, (unsigned)value);
}

/* All but the last block of each region, from its end on: no two that are neighbours on the disk
 * are in the file. Their first words are 0, as in a block that has no place. */
static void place_blocks(struct ox_image *disk)
{
	char *buf = calloc(1, BLOCK);

	assert_non_null(buf);
	for (unsigned region = 0; region < REGIONS; region++)
		for (unsigned b = BLOCKS - 1; b-- > 0;)
			assert_int_equal(
				ox_pwrite(disk, buf, BLOCK, (region * BLOCKS + b) * BLOCK, 0), 0);
	free(buf);
}

static void every_answer_fits_some_order_of_the_requests(void **state)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	char path[64] = "/dev/shm/ox-test-written-once-XXXXXX"; /* no disk's syncs between them */
	int fd = mkstemp(path);
	struct ox_queue *queue;
	struct ox_image *disk;

	(void)state;
	if (fd < 0) {
		strcpy(path, "/tmp/ox-test-written-once-XXXXXX");
		fd = mkstemp(path);
	}
	assert_true(fd >= 0);
	assert_int_equal(ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL), 0);
	create.format = "qcow2";
	create.virtual_bytes = UINT64_C(1) * REGIONS * BLOCKS * BLOCK;
	create.cluster_bytes = BLOCK;
	opts.format = "qcow2";
	assert_int_equal(ox_image_create(ctx, path, &create, NULL), 0);
	assert_int_equal(ox_image_open(ctx, path, &opts, &disk, NULL), 0);
	place_blocks(disk);
	assert_int_equal(ox_queue_new(disk, &queue), 0);
	for (unsigned i = 0; i < CLIENTS; i++) {
		clients[i].buf = calloc(BLOCKS, BLOCK);
		assert_non_null(clients[i].buf);
		clients[i].iov.iov_base = clients[i].buf;
	}
	for (unsigned region = 0; region < REGIONS; region++)
		work_on_region(queue, region);
	for (unsigned i = 0; i < CLIENTS; i++)
		free(clients[i].buf);
	ox_queue_free(queue);
	assert_int_equal(ox_image_close(disk, NULL), 0);
	ox_context_free(ctx);
	close(fd);
	unlink(path);
}

/* ---- the judge itself ---- */

static bool judge(const struct linear_op *ops, size_t n)
{
	struct linear_op copy[8];
	uint64_t value;

	memcpy(copy, ops, n * sizeof(*ops));
	return linear_check(copy, n, &value);
}

static void the_judge_knows_good_from_bad(void **state)
{
	/* write 1 is long; it was read, then overwritten by 2, and then read again */
	const struct linear_op twice[] = {
		{1, 20, 1, true}, {2, 3, 1, false}, {4, 5, 2, true},
		{6, 7, 2, false}, {8, 9, 1, false},
	};
	/* the same, and 1 was not read before 2 */
	const struct linear_op late[] = {
		{1, 20, 1, true},
		{4, 5, 2, true},
		{6, 7, 2, false},
		{8, 9, 1, false},
	};
	const struct linear_op stale[] = {{1, 2, 1, true}, {3, 4, 2, true}, {5, 6, 1, false}};
	const struct linear_op early[] = {{5, 6, 1, true}, {1, 2, 1, false}};
	const struct linear_op unwritten[] = {{1, 2, 1, true}, {3, 4, 7, false}};
	/* both writes are under way: readers may see either, but not back and forth */
	const struct linear_op flicker[] = {
		{1, 20, 1, true}, {1, 20, 2, true}, {2, 3, 1, false},
		{4, 5, 2, false}, {6, 7, 1, false},
	};
	/* 2 was written while 1 was there all the time */
	const struct linear_op hidden[] = {
		{1, 2, 1, true},
		{3, 4, 2, true},
		{5, 6, 1, false},
		{5, 6, 2, false},
	};

	(void)state;
	assert_false(judge(twice, 5));
	assert_true(judge(late, 4));
	assert_false(judge(stale, 3));
	assert_false(judge(early, 2));
	assert_false(judge(unwritten, 2));
	assert_false(judge(flicker, 5));
	assert_true(judge(flicker, 4));
	assert_false(judge(hidden, 4));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_judge_knows_good_from_bad),
		cmocka_unit_test(every_answer_fits_some_order_of_the_requests),
		TASK_TEST(a_write_that_needs_an_allocation_goes_on_where_it_stopped),
		TASK_TEST(what_fua_made_durable_in_place_is_written_once),
		TASK_TEST(a_write_that_waited_for_the_recovery_goes_on_where_it_stopped),
		TASK_TEST(zeroes_that_waited_for_the_recovery_go_on_where_they_stopped),
	};

	return cmocka_run_group_tests_name("written_once", tests, NULL, NULL);
}
