/* SPDX-License-Identifier: MIT */
/* What an engine that writes QED images waits for, which the simulator seldom meets. */
#include "task_test.h"

#include <string.h>

#include "check/check.h"
#include "img/img.h"
#include "qed_image.h"
#include "watched_io.h"

#define CLUSTER 4096u
#define SMALL ((struct qed_shape){CLUSTER, 1, false})

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

static void open_co(const struct qed_image *im)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};

	store = watched_io_open(reactor, im->length);
	memcpy(watched_bytes(store), im->bytes, im->length);
	opts.format = "qed";
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static void close_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

static bool written;

static void write_co(void *arg)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	(void)arg;
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, UINT64_C(9) * CLUSTER, 0), 0);
	written = true;
}

/* D8: in a longer file an entry that is not durably gone would name what the guest gets there. */
static void the_file_grows_once_stale_entries_are_durably_gone_co(void *arg)
{
	struct qed_image *im = qed_image_new(SMALL);

	(void)arg;
	qed_mark(im);
	qed_set_l2(im, 0, 8, im->length + 2 * CLUSTER);
	open_co(im);
	watched.hold_syncs = true;
	written = false;
	spawn(write_co, NULL);
	let_others_run_co();
	for (int i = 0; i < 20; i++) /* the walk reads table by table */
		let_others_run_co();
	assert_true(watched.write_count > 0); /* the entry is dropped, */
	assert_int_equal(store->length, im->length);
	assert_false(written);
	watched.hold_syncs = false;
	while (!written)
		ox_co_yield_co();
	assert_true(store->length > im->length);
	close_co();
	qed_image_free(im);
}

/* D2, D4: another program has called it clean. */
static void a_cluster_that_two_entries_name_is_not_given_back_co(void *arg)
{
	struct qed_image *im = qed_image_new(SMALL);
	uint64_t shared = qed_data(im, 0);

	(void)arg;
	qed_set_l2(im, 0, 1, shared);
	open_co(im);
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	let_others_run_co();
	assert_int_equal(qed_get64(watched_bytes(store), im->l2[0]), 1);
	assert_memory_equal(watched_bytes(store) + shared, im->bytes + shared, CLUSTER);
	close_co();
	qed_image_free(im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(the_file_grows_once_stale_entries_are_durably_gone),
		TASK_TEST(a_cluster_that_two_entries_name_is_not_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
