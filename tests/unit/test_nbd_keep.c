/* SPDX-License-Identifier: MIT */
/* What a server has answered and not flushed (io/nbd/keep.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <string.h>

#include "io/nbd/keep.h"

static struct ox_nbd_keep keep;

static int setup(void **state)
{
	(void)state;
	ox_nbd_keep_init(&keep);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_nbd_keep_free(&keep);
	assert_int_equal(keep.bytes, 0);
	return 0;
}

static struct ox_nbd_kept *add(uint64_t offset, uint64_t length, char fill)
{
	char bytes[64];
	struct iovec iov[2] = {{bytes, length / 2}, {bytes, length - length / 2}};
	struct ox_nbd_kept *entry;

	memset(bytes, fill, sizeof(bytes));
	entry = ox_nbd_keep_add(&keep, OX_NBD_WRITE, offset, length, iov, 2);
	assert_non_null(entry);
	return entry;
}

static unsigned count(void)
{
	struct ox_list *it;
	unsigned n = 0;

	ox_list_for_each (it, &keep.entries)
		n++;
	return n;
}

static void bytes_are_copied_and_counted(void **state)
{
	struct ox_nbd_kept *entry = add(512, 9, 'a');

	(void)state;
	assert_memory_equal(entry->bytes, "aaaaaaaaa", 9);
	assert_int_equal(keep.bytes, sizeof(*entry) + 9);
	ox_nbd_keep_drop(&keep, entry);
	assert_int_equal(keep.bytes, 0);
}

static void a_flush_covers_what_was_answered_before_it_began(void **state)
{
	struct ox_nbd_kept *before = add(0, 4, 'a');
	struct ox_nbd_kept *during = add(4, 4, 'b');
	struct ox_nbd_kept *unanswered = add(8, 4, 'c');
	uint64_t mark;

	(void)state;
	ox_nbd_keep_answered(&keep, before, false);
	mark = ox_nbd_keep_mark(&keep);
	ox_nbd_keep_answered(&keep, during, false);
	ox_nbd_keep_flushed(&keep, mark);
	assert_int_equal(count(), 2);
	assert_ptr_equal(keep.entries.next, &during->link);
	assert_ptr_equal(keep.entries.prev, &unanswered->link);
	ox_nbd_keep_flushed(&keep, ox_nbd_keep_mark(&keep));
	assert_int_equal(count(), 1);
}

static void a_durable_write_is_not_kept(void **state)
{
	(void)state;
	ox_nbd_keep_answered(&keep, add(0, 4, 'a'), true);
	assert_int_equal(count(), 0);
}

/* Or the older one, sent again, would take its place. */
static void a_durable_write_over_what_is_kept_is_kept_too(void **state)
{
	struct ox_nbd_kept *older = add(0, 8, 'a');

	(void)state;
	ox_nbd_keep_answered(&keep, older, false);
	ox_nbd_keep_answered(&keep, add(6, 8, 'b'), true);
	ox_nbd_keep_answered(&keep, add(8, 4, 'c'), true); /* over the one before */
	ox_nbd_keep_answered(&keep, add(20, 4, 'd'), true);
	assert_int_equal(count(), 3);
	assert_ptr_equal(keep.entries.next, &older->link);
}

static void the_oldest_answers_are_forgotten_first(void **state)
{
	struct ox_nbd_kept *unanswered = add(0, 32, 'a');
	struct ox_nbd_kept *newest;

	(void)state;
	ox_nbd_keep_answered(&keep, add(32, 32, 'b'), false);
	newest = add(64, 32, 'c');
	ox_nbd_keep_answered(&keep, newest, false);
	ox_nbd_keep_forget(&keep, keep.bytes);
	assert_false(keep.forgot);
	ox_nbd_keep_forget(&keep, keep.bytes - 1);
	assert_true(keep.forgot);
	assert_int_equal(count(), 2);
	ox_nbd_keep_forget(&keep, 0);
	assert_int_equal(count(), 1);
	assert_ptr_equal(keep.entries.next, &unanswered->link);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bytes_are_copied_and_counted),
		TEST(a_flush_covers_what_was_answered_before_it_began),
		TEST(a_durable_write_is_not_kept),
		TEST(a_durable_write_over_what_is_kept_is_kept_too),
		TEST(the_oldest_answers_are_forgotten_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
