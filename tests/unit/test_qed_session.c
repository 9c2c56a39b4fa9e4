/* SPDX-License-Identifier: MIT */
/*
 * What a session over a QED image must not take from the one before it, and what an attempt that
 * failed must leave as it was: NEED_CHECK is durable before the first entry (D5), and stays on what
 * a check would not pass over (D6); nothing that was past the file's end becomes a table (D8).
 */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check/check.h"
#include "img/img.h"
#include "img/qed/qed.h"
#include "qed_image.h"
#include "watched_io.h"

#define CLUSTER 4096u

static struct ox_io *store;
static struct ox_image *image;
static struct qed_image *im;

static int setup(void **state)
{
	(void)state;
	im = qed_image_new((struct qed_shape){CLUSTER, 1, false});
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	qed_image_free(im);
	return 0;
}

static int open_co(enum ox_recover_mode recover)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .recovery = &ox_check_recovery};

	opts.format = "qed";
	opts.recover = recover;
	return ox_img_open_co(store, &how, &image, NULL);
}

static void make_store(void)
{
	store = watched_io_open(reactor, im->length);
	memcpy(watched_bytes(store), im->bytes, im->length);
}

static int write_co(uint64_t cluster)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 0xee, sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, cluster * CLUSTER, 0);
}

static void wait_for_recovery_co(void)
{
	struct ox_recovery_status status;

	do {
		ox_co_yield_co();
		image->ops->recovery(image, &status);
	} while (status.state == OX_RECOVERY_RUNNING);
}

/* Two entries name one cluster: nothing but a repair takes the mark away. */
static void open_damaged_co(void)
{
	qed_set_l2(im, 0, 1, qed_data(im, 0));
	qed_mark(im);
	make_store();
	assert_int_equal(open_co(OX_RECOVER_AUTO), 0);
	wait_for_recovery_co();
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

/* ---- */

/* Another program repairs the image while it is open for reading alone. */
static void a_session_sets_the_mark_that_another_program_cleared_co(void *arg)
{
	uint8_t *bytes;

	(void)arg;
	open_damaged_co();
	assert_int_equal(image->ops->deactivate_co(image, NULL), 0);
	image->read_only = true;
	bytes = watched_bytes(store);
	assert_true(qed_is_marked(bytes));
	bytes[16] &= (uint8_t)~2;
	qed_put64(bytes, im->l2[0] + 8, 0);
	assert_int_equal(image->ops->activate_co(image, NULL), 0);
	image->read_only = false;
	assert_int_equal(write_co(9), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	assert_true(qed_is_marked(watched_bytes(store)));
	finish_co();
}

static void a_close_that_fails_leaves_the_damage_known_co(void *arg)
{
	(void)arg;
	open_damaged_co();
	assert_int_equal(write_co(9), 0);
	watched.write_error = -ENOSPC;
	assert_int_equal(image->ops->deactivate_co(image, NULL), -ENOSPC);
	watched.write_error = 0;
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_true(qed_is_marked(watched_bytes(store)));
	watched_io_close(store);
}

/* Before the first request nobody would see that it waits. */
static void an_opening_that_finds_no_room_fails_co(void *arg)
{
	(void)arg;
	qed_set_l2(im, 0, 1, im->length + CLUSTER); /* stale: to be dropped */
	qed_mark(im);
	make_store();
	watched.write_error = -ENOSPC;
	assert_int_equal(open_co(OX_RECOVER_WAIT), -ENOSPC);
	watched.write_error = 0;
	assert_int_equal(open_co(OX_RECOVER_WAIT), 0);
	assert_false(qed_is_marked(watched_bytes(store)));
	finish_co();
}

/* An L1 entry past the end, in an image that calls itself clean: what the guest writes there must
 * not become a table. */
static void make_leading_out(void)
{
	qed_set_l1(im, 2, im->length);
	make_store();
}

static void a_reopened_file_does_not_grow_under_an_l1_entry_co(void *arg)
{
	(void)arg;
	qed_put64(im->bytes, 48, 3 * im->entries * CLUSTER);
	make_leading_out();
	store->read_only = true;
	assert_int_equal(open_co(OX_RECOVER_AUTO), 0);
	store->read_only = false;
	assert_int_equal(image->ops->activate_co(image, NULL), 0);
	image->read_only = false;
	assert_int_equal(write_co(0), 0);
	assert_int_equal(write_co(9), -EIO);
	assert_int_equal(store->length, im->length);
	finish_co();
}

static void a_larger_disk_has_no_table_of_the_guests_making_co(void *arg)
{
	static const uint8_t zeroes[CLUSTER];
	struct iovec v = {(void *)zeroes, sizeof(zeroes)};

	(void)arg;
	make_leading_out();
	assert_int_equal(open_co(OX_RECOVER_AUTO), 0);
	/* Zeroes would be a sound table; the file does not grow under the entry. */
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, 9 * CLUSTER, 0), -EIO);
	assert_int_equal(store->length, im->length);
	assert_true(ox_img_resize_co(image, 3 * im->entries * CLUSTER, NULL) < 0);
	assert_int_equal(image->size_bytes, 2 * im->entries * CLUSTER);
	finish_co();
}

/* ---- a server that is told to end ---- */

/* The request looks through nothing any more: what it frees is leaked. */
static void a_discard_does_not_wait_for_a_walk_that_is_left_co(void *arg)
{
	(void)arg;
	make_store();
	assert_int_equal(open_co(OX_RECOVER_AUTO), 0);
	image->ops->leave_recovery(image);
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_false(qed_is_marked(watched_bytes(store)));
	watched_io_close(store);
}

static void one_who_was_left_and_is_opened_for_writing_again_looks_co(void *arg)
{
	(void)arg;
	make_store();
	assert_int_equal(open_co(OX_RECOVER_AUTO), 0);
	image->ops->leave_recovery(image);
	assert_int_equal(image->ops->deactivate_co(image, NULL), 0);
	assert_int_equal(image->ops->activate_co(image, NULL), 0);
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), 0);
	assert_true(((struct ox_qed_image *)image->state)->knows); /* what is freed is free */
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_session_sets_the_mark_that_another_program_cleared),
		TASK_TEST(a_close_that_fails_leaves_the_damage_known),
		TASK_TEST(an_opening_that_finds_no_room_fails),
		TASK_TEST(a_reopened_file_does_not_grow_under_an_l1_entry),
		TASK_TEST(a_larger_disk_has_no_table_of_the_guests_making),
		TASK_TEST(a_discard_does_not_wait_for_a_walk_that_is_left),
		TASK_TEST(one_who_was_left_and_is_opened_for_writing_again_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
