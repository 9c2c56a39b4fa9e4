/* SPDX-License-Identifier: MIT */
/*
 * What an adoption owes the sync that opens the image (D10): the dead process has written and not
 * synced, so that until then no adopted table may be written (D1), and nothing that is read back
 * counts as durable (H1).
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "img/img.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define STATE_BYTES ((size_t)8 << 20)

static struct ox_io *store;
static struct ox_image *image;
static uint8_t *memory; /* the state */

static int setup(void **state)
{
	(void)state;
	memory = calloc(1, STATE_BYTES);
	return memory ? ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) : -1;
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	free(memory);
	return 0;
}

static void open_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .state = memory, .state_bytes = STATE_BYTES};

	opts.format = "qcow2";
	opts.cache = OX_CACHE_WRITEBACK;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static int write_co(uint64_t cluster, unsigned flags)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, cluster * CLUSTER, flags);
}

/* Clusters 0 to 7 are in the image; a session that dies has added others without a flush, whose
 * entries are in another slice of the table. */
static void make_and_die_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	uint8_t *left = malloc(STATE_BYTES);
	uint8_t *bytes;
	uint64_t length;

	assert_non_null(left);
	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = 64u << 20;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
	for (uint64_t c = 0; c < 8; c++)
		assert_int_equal(write_co(c, 0), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	for (uint64_t c = 600; c < 608; c++)
		assert_int_equal(write_co(c, 0), 0);
	length = store->length;
	bytes = malloc(length);
	assert_non_null(bytes);
	memcpy(bytes, watched_bytes(store), length);
	memcpy(left, memory, STATE_BYTES);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
	store = watched_io_open(reactor, length);
	memcpy(watched_bytes(store), bytes, length);
	memcpy(memory, left, STATE_BYTES);
	free(bytes);
	free(left);
}

struct request {
	unsigned flags;
	bool is_flush;
	int result;
	bool done;
};

static void request_co(void *arg)
{
	struct request *r = arg;

	r->result = r->is_flush ? ox_img_flush_co(image) : write_co(3, r->flags);
	r->done = true;
}

/* Begins the request with the opening's sync under way, and lets that end. */
static void begin_before_the_sync_co(struct request *r)
{
	make_and_die_co();
	watched.hold_syncs = true;
	open_co();
	spawn(request_co, r);
	let_others_run_co();
	assert_false(r->done);
}

static void finish_co(struct request *r)
{
	watched.hold_syncs = false;
	watched.let_go = true;
	while (!r->done)
		ox_co_yield_co();
	assert_int_equal(r->result, 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

static void no_adopted_table_is_written_before_the_sync_co(void *arg)
{
	struct request r = {.is_flush = true};

	(void)arg;
	begin_before_the_sync_co(&r);
	assert_int_equal(watched.write_count, 0);
	watched.hold_syncs = false;
	while (!r.done)
		ox_co_yield_co();
	assert_true(watched.write_count > 0 && watched.writes[0].syncs > 0);
	finish_co(&r);
}

static void nothing_read_back_counts_as_durable_before_the_sync_co(void *arg)
{
	struct request r = {.flags = OX_REQ_FUA};

	(void)arg;
	begin_before_the_sync_co(&r);
	finish_co(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(no_adopted_table_is_written_before_the_sync),
		TASK_TEST(nothing_read_back_counts_as_durable_before_the_sync),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
