/* SPDX-License-Identifier: MIT */
/* A qcow2 image that another program changes while it is open for reading alone. */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "check/check.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "watched_io.h"

#define CLUSTER 65536u

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

static void open_image_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};

	opts.format = "qcow2";
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static void make_image_co(bool lazy)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = 64u << 20;
	create.lazy_refcounts = lazy;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_image_co();
}

static void write_co(uint64_t first, uint64_t count)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	for (uint64_t c = first; c < first + count; c++)
		assert_int_equal(ox_img_pwritev_co(image, &v, 1, c * CLUSTER, 0), 0);
}

static char read_co(uint64_t cluster)
{
	char byte;
	struct iovec v = {&byte, 1};

	assert_int_equal(ox_img_preadv_co(image, &v, 1, cluster * CLUSTER), 0);
	return byte;
}

static struct ox_be64 *first_table(void)
{
	uint8_t *bytes = watched_bytes(store);
	const struct ox_be64 *header = (const void *)bytes;
	const struct ox_be64 *l1 = (const void *)(bytes + ox_be64_get(header[5]));

	return (void *)(bytes + (ox_be64_get(*l1) & OX_QCOW2_OFFSET_MASK));
}

static uint64_t first_entry(void)
{
	return ox_be64_get(*first_table());
}

/* Version 2 has no zero entries: other programs take them for damage. */
static void a_downgraded_image_gets_no_zero_entries_co(void *arg)
{
	uint8_t *bytes;

	(void)arg;
	make_image_co(false);
	write_co(0, 1);
	assert_int_equal(image->ops->deactivate_co(image, NULL), 0);
	image->read_only = true;
	bytes = watched_bytes(store);
	assert_int_equal(bytes[7], 3);
	bytes[7] = 2;
	assert_int_equal(image->ops->activate_co(image, NULL), 0);
	image->read_only = false;
	assert_int_equal(ox_img_zero_co(image, 0, CLUSTER, 0), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_int_equal(first_entry() & OX_QCOW2_ZERO, 0);
	watched_io_close(store);
}

static void wait_for_failure_co(void)
{
	struct ox_recovery_status status;

	do {
		ox_co_yield_co();
		image->ops->recovery(image, &status);
	} while (status.state == OX_RECOVERY_RUNNING);
	assert_int_equal(status.state, OX_RECOVERY_FAILED);
}

struct bytes {
	uint8_t *bytes;
	uint64_t length;
};

static struct bytes take_bytes(void)
{
	struct bytes taken = {malloc(store->length), store->length};

	assert_non_null(taken.bytes);
	memcpy(taken.bytes, watched_bytes(store), taken.length);
	return taken;
}

static void put_bytes_co(const struct bytes *taken)
{
	assert_int_equal(ox_io_set_length_co(store, taken->length), 0);
	memcpy(watched_bytes(store), taken->bytes, taken->length);
	free(taken->bytes);
}

/* What lies past the old end of a recovery that failed is not stale any more. */
static void a_repaired_image_has_no_stale_entries_co(void *arg)
{
	struct bytes dirty;
	struct bytes clean;

	(void)arg;
	make_image_co(true);
	write_co(0, 4);
	assert_int_equal(ox_img_flush_co(image), 0);
	dirty = take_bytes();
	write_co(8, 16);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	clean = take_bytes();
	put_bytes_co(&dirty);
	first_table()[3] = ox_be64(CLUSTER + 512); /* which a recovery leaves to a repair */
	open_image_co();
	wait_for_failure_co();
	assert_int_equal(image->ops->deactivate_co(image, NULL), 0);
	image->read_only = true;
	put_bytes_co(&clean);
	assert_int_equal(image->ops->activate_co(image, NULL), 0);
	image->read_only = false;
	for (uint64_t c = 8; c < 24; c++)
		assert_int_equal(read_co(c), 'x');
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_downgraded_image_gets_no_zero_entries),
		TASK_TEST(a_repaired_image_has_no_stale_entries),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
