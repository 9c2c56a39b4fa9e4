/* SPDX-License-Identifier: MIT */
/*
 * The first change of an image clears, durably, the header's bits that vouch for what nobody keeps
 * up to date (H9). A process may die before the sync of that: its successor reads a header without
 * the bits, which a power cut may still bring back, and changes nothing before its own sync (D10).
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "img/img.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define STATE_BYTES ((size_t)8 << 20)

struct kind {
	const char *format;
	size_t bit_at; /* the byte of the header with the highest of those bits */
	int (*create_co)(struct ox_io *io, const struct ox_create_options *opts,
			 struct ox_error **err);
};

static const struct kind qcow2 = {"qcow2", 88, ox_qcow2_create_co};
static const struct kind qed = {"qed", 39, ox_qed_create_co};

static const struct kind *kind;
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

	opts.format = kind->format;
	opts.cache = OX_CACHE_WRITEBACK;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

struct request {
	int result;
	bool done;
};

/* In place: the cluster is there. */
static void write_co(void *arg)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};
	struct request *r = arg;

	memset(buf, 'x', sizeof(buf));
	r->result = ox_img_pwritev_co(image, &v, 1, 3 * CLUSTER, 0);
	r->done = true;
}

static void finish_co(struct request *r)
{
	watched.hold_syncs = false;
	while (!r->done)
		ox_co_yield_co();
	assert_int_equal(r->result, 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

static void make_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct request r = {0};

	store = watched_io_open(reactor, 0);
	create.format = kind->format;
	create.virtual_bytes = 64u << 20;
	assert_int_equal(kind->create_co(store, &create, NULL), 0);
	open_co();
	write_co(&r);
	finish_co(&r);
	assert_int_equal(watched_bytes(store)[kind->bit_at], 0);
	watched_bytes(store)[kind->bit_at] = 0x80;
}

/* The process dies amid its first change, or after it. The next one has what it left. */
static void change_and_die_co(bool amid)
{
	uint8_t *left = malloc(STATE_BYTES);
	struct request r = {0};
	uint64_t length = store->length;
	uint8_t *bytes = malloc(length);

	assert_true(left && bytes);
	open_co();
	watched.hold_syncs = amid;
	spawn(write_co, &r);
	let_others_run_co();
	while (!amid && !r.done)
		ox_co_yield_co();
	assert_true(r.done == !amid);
	assert_int_equal(watched_bytes(store)[kind->bit_at], 0);
	memcpy(bytes, watched_bytes(store), length);
	memcpy(left, memory, STATE_BYTES);
	finish_co(&r);
	watched_io_close(store);
	store = watched_io_open(reactor, length);
	memcpy(watched_bytes(store), bytes, length);
	memcpy(memory, left, STATE_BYTES);
	free(bytes);
	free(left);
}

static void die_amid_it_co(const struct kind *of)
{
	struct request r = {0};

	kind = of;
	make_co();
	change_and_die_co(true);
	watched.hold_syncs = true;
	open_co();
	spawn(write_co, &r);
	let_others_run_co();
	assert_int_equal(watched.write_count, 0);
	finish_co(&r);
	assert_true(watched.write_count > 0 && watched.writes[0].syncs > 0);
	watched_io_close(store);
}

static void die_after_it_co(const struct kind *of)
{
	struct request r = {0};

	kind = of;
	make_co();
	change_and_die_co(false);
	watched.hold_syncs = true;
	open_co();
	spawn(write_co, &r);
	let_others_run_co();
	assert_true(watched.write_count > 0 && r.done);
	finish_co(&r);
	watched_io_close(store);
}

static void a_qcow2_header_that_a_dead_process_wrote_is_waited_for_co(void *arg)
{
	(void)arg;
	die_amid_it_co(&qcow2);
}

static void a_qed_header_that_a_dead_process_wrote_is_waited_for_co(void *arg)
{
	(void)arg;
	die_amid_it_co(&qed);
}

static void a_qcow2_header_that_was_durable_is_not_waited_for_co(void *arg)
{
	(void)arg;
	die_after_it_co(&qcow2);
}

static void a_qed_header_that_was_durable_is_not_waited_for_co(void *arg)
{
	(void)arg;
	die_after_it_co(&qed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_qcow2_header_that_a_dead_process_wrote_is_waited_for),
		TASK_TEST(a_qed_header_that_a_dead_process_wrote_is_waited_for),
		TASK_TEST(a_qcow2_header_that_was_durable_is_not_waited_for),
		TASK_TEST(a_qed_header_that_was_durable_is_not_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
