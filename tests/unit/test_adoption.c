/* SPDX-License-Identifier: MIT */
/*
 * What an adoption owes the sync that opens the image (D10): the dead process has written and not
 * synced, so that until then no adopted table may be written (D1), and nothing that is read back
 * counts as durable (H1). Where there is a witness that sync asks it (M3).
 */
#include "task_test.h"

#include <errno.h>
#include <fcntl.h>
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

static void open_as_co(const char *format)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .state = memory, .state_bytes = STATE_BYTES};

	opts.format = format;
	opts.cache = OX_CACHE_WRITEBACK;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static void open_co(void)
{
	open_as_co("qcow2");
}

static int write_co(uint64_t cluster, unsigned flags)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, cluster * CLUSTER, flags);
}

static int read_co(uint64_t cluster)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};
	int r = ox_img_preadv_co(image, &v, 1, cluster * CLUSTER);

	return r < 0 ? r : buf[0] == 'x' && buf[CLUSTER - 1] == 'x';
}

/* The process is gone; what it left is what the next one finds. */
static void die_co(void)
{
	uint8_t *left = malloc(STATE_BYTES);
	uint64_t length = store->length;
	uint8_t *bytes = malloc(length);

	assert_non_null(left);
	assert_non_null(bytes);
	memcpy(bytes, watched_bytes(store), length);
	memcpy(left, memory, STATE_BYTES);
	(void)ox_img_close_co(image, NULL);
	watched_io_close(store);
	store = watched_io_open(reactor, length);
	memcpy(watched_bytes(store), bytes, length);
	memcpy(memory, left, STATE_BYTES);
	free(bytes);
	free(left);
}

/* Clusters 0 to 7 are in the image; a session that dies has added others without a flush, whose
 * entries are in another slice of the table. */
static void make_and_die_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

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
	die_co();
}

static unsigned told; /* how often the sync of the witness was said to have ended well */

static void on_synced(void *opaque)
{
	(void)opaque;
	told++;
}

/* Of the watched store, which does not look at the descriptor. */
static void hand_witness(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	told = 0;
	ox_io_set_witness(store, fd, on_synced, NULL);
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
	make_and_die_co();
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
	make_and_die_co();
	begin_before_the_sync_co(&r);
	finish_co(&r);
}

/* ---- with a witness ---- */

static void the_first_sync_asks_the_witness_co(void *arg)
{
	(void)arg;
	make_and_die_co();
	hand_witness();
	open_co();
	while (told == 0)
		ox_co_yield_co();
	assert_int_equal(watched.witness_asked, 1);
	assert_int_equal(watched.syncs_asked, 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	assert_int_equal(watched.witness_asked, 1);
	assert_true(watched.syncs_asked > 0);
	assert_int_equal(told, 1);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

static void nothing_counts_as_durable_before_the_witness_was_asked_co(void *arg)
{
	struct request fua = {.flags = OX_REQ_FUA};
	struct request flush = {.is_flush = true};

	(void)arg;
	make_and_die_co();
	hand_witness();
	begin_before_the_sync_co(&fua);
	spawn(request_co, &flush);
	let_others_run_co();
	assert_false(flush.done);
	assert_int_equal(told, 0);
	assert_int_equal(watched.syncs_asked, 0);
	watched.hold_syncs = false;
	while (!flush.done)
		ox_co_yield_co();
	assert_int_equal(flush.result, 0);
	finish_co(&fua);
}

static void sync_co(void *arg)
{
	struct request *r = arg;

	r->result = ox_io_sync_co(store);
	r->done = true;
}

/* Its own description knows of no error, and would say so. */
static void no_sync_overtakes_that_of_the_witness_co(void *arg)
{
	struct request beside = {0};

	(void)arg;
	make_and_die_co();
	hand_witness();
	watched.witness_error = -EIO;
	watched.hold_syncs = true;
	open_co();
	let_others_run_co();
	assert_int_equal(watched.witness_asked, 1);
	spawn(sync_co, &beside);
	let_others_run_co();
	assert_false(beside.done);
	assert_int_equal(watched.syncs_asked, 0);
	watched.hold_syncs = false;
	while (!beside.done)
		ox_co_yield_co();
	assert_int_equal(beside.result, -EIO);
	assert_int_equal(ox_io_sync_co(store), -EIO);
	assert_int_equal(watched.witness_asked, 1);
	assert_int_equal(watched.syncs_asked, 0);
	(void)ox_img_close_co(image, NULL);
	watched_io_close(store);
}

static void check_poisoned_co(uint64_t adopted)
{
	assert_int_equal(read_co(adopted), 1);
	assert_int_equal(write_co(3, 0), -EIO);
	assert_int_equal(ox_img_flush_co(image), -EIO);
	assert_int_equal(read_co(adopted), 1);
}

static void a_witness_that_tells_an_error_poisons_for_good_co(void *arg)
{
	(void)arg;
	make_and_die_co();
	hand_witness();
	watched.witness_error = -EIO;
	open_co();
	assert_int_equal(read_co(603), 1);
	let_others_run_co();
	assert_int_equal(told, 0);
	check_poisoned_co(603);
	die_co(); /* the next one's witness was told nothing */
	hand_witness();
	open_co();
	check_poisoned_co(603);
	assert_int_equal(ox_img_close_co(image, NULL), -EIO);
	watched_io_close(store);
}

static void a_raw_image_asks_the_witness_beside_the_guest_co(void *arg)
{
	struct request fua = {.flags = OX_REQ_FUA};

	(void)arg;
	store = watched_io_open(reactor, 16 * CLUSTER);
	hand_witness();
	watched.hold_syncs = true;
	open_as_co("raw");
	assert_int_equal(write_co(5, 0), 0);
	spawn(request_co, &fua);
	let_others_run_co();
	assert_false(fua.done);
	assert_int_equal(told, 0);
	watched.hold_syncs = false;
	while (!fua.done)
		ox_co_yield_co();
	assert_int_equal(fua.result, 0);
	assert_int_equal(told, 1);
	assert_int_equal(watched.witness_asked, 1);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

static void a_raw_image_is_poisoned_by_its_witness_co(void *arg)
{
	(void)arg;
	store = watched_io_open(reactor, 16 * CLUSTER);
	hand_witness();
	open_as_co("raw");
	assert_int_equal(write_co(5, 0), 0);
	watched.witness_error = -EIO;
	let_others_run_co();
	check_poisoned_co(5);
	assert_int_equal(ox_img_close_co(image, NULL), -EIO);
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(no_adopted_table_is_written_before_the_sync),
		TASK_TEST(nothing_read_back_counts_as_durable_before_the_sync),
		TASK_TEST(the_first_sync_asks_the_witness),
		TASK_TEST(nothing_counts_as_durable_before_the_witness_was_asked),
		TASK_TEST(no_sync_overtakes_that_of_the_witness),
		TASK_TEST(a_witness_that_tells_an_error_poisons_for_good),
		TASK_TEST(a_raw_image_asks_the_witness_beside_the_guest),
		TASK_TEST(a_raw_image_is_poisoned_by_its_witness),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
