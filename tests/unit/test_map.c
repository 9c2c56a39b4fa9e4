/* SPDX-License-Identifier: MIT */
/* Looking up guest clusters while their tables are on the move. */
#include "task_test.h"

#include <string.h>

#include "base/endian.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define DISK_BYTES (UINT64_C(1) << 30)
/* In the table of guest 0, and in another slice of it. */
#define FAR_AWAY (UINT64_C(256) << 20)

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
	struct ox_img_open how = {.opts = &opts};

	opts.format = "qcow2";
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static int write_co(uint64_t offset, char byte)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, byte, sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, offset, 0);
}

/* The host offset of guest 0's table; its L1 entry loses COPIED, as a program leaves it that does
 * not know that the snapshot it shared the table with has gone. */
static uint64_t share_table(void)
{
	uint8_t *bytes = watched_bytes(store);
	struct ox_be64 *l1;
	uint64_t entry;

	l1 = (struct ox_be64 *)(void *)(bytes +
					ox_be64_get(*(struct ox_be64 *)(void *)(bytes + 40)));
	entry = ox_be64_get(l1[0]);
	l1[0] = ox_be64(entry & OX_QCOW2_OFFSET_MASK);
	return entry & OX_QCOW2_OFFSET_MASK;
}

static void make_image_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = DISK_BYTES;
	create.cluster_bytes = CLUSTER;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
	assert_int_equal(write_co(0, 'a'), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

struct reader {
	char buf[CLUSTER];
	int result;
	bool done;
};

static void read_guest_0_co(void *arg)
{
	struct reader *r = arg;
	struct iovec v = {r->buf, sizeof(r->buf)};

	r->result = ox_img_preadv_co(image, &v, 1, 0);
	r->done = true;
}

/* Until the table's old place has been freed, and punched: zeroes there say "unallocated". */
static void move_table_co(uint64_t old)
{
	assert_int_equal(write_co(FAR_AWAY, 'b'), 0);
	for (int i = 0; i < 10 && watched_bytes(store)[old] != 0; i++) {
		assert_int_equal(ox_img_flush_co(image), 0);
		let_others_run_co();
	}
	assert_int_equal(watched_bytes(store)[old], 0);
}

static void a_table_that_moved_while_it_was_read_is_not_believed_co(void *arg)
{
	static struct reader reader;
	uint64_t table;

	(void)arg;
	make_image_co();
	table = share_table();
	open_co();
	watched.hold_read_at = table;
	watched.hold_read = true;
	spawn(read_guest_0_co, &reader);
	let_others_run_co();
	assert_false(watched.hold_read);
	move_table_co(table);
	assert_false(reader.done);

	watched.let_go = true;
	let_others_run_co();
	assert_true(reader.done);
	assert_int_equal(reader.result, 0);
	for (unsigned i = 0; i < CLUSTER; i++)
		assert_int_equal(reader.buf[i], 'a');
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_table_that_moved_while_it_was_read_is_not_believed),
	};

	return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
