/* SPDX-License-Identifier: MIT */
/* A qcow2 image that another program changes while it is open for reading alone. */
#include "task_test.h"

#include <string.h>

#include "base/endian.h"
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

static void make_image_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = 64u << 20;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	opts.format = "qcow2";
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static void write_co(void)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, 0, 0), 0);
}

static uint64_t first_entry(void)
{
	const uint8_t *bytes = watched_bytes(store);
	const struct ox_be64 *header = (const void *)bytes;
	const struct ox_be64 *l1 = (const void *)(bytes + ox_be64_get(header[5]));
	const struct ox_be64 *l2 =
		(const void *)(bytes + (ox_be64_get(*l1) & OX_QCOW2_OFFSET_MASK));

	return ox_be64_get(*l2);
}

/* Version 2 has no zero entries: other programs take them for damage. */
static void a_downgraded_image_gets_no_zero_entries_co(void *arg)
{
	uint8_t *bytes;

	(void)arg;
	make_image_co();
	write_co();
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_downgraded_image_gets_no_zero_entries),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
