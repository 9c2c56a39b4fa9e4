/* SPDX-License-Identifier: MIT */
/* The keeper's side of front ends, over against a worker that lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/keeper/fronts.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static struct ox_fronts fronts;
static int worker;
static int front; /* the front end's end of its connection */
static int file;  /* anything */
static unsigned open_before;
static int marks;

static unsigned count_open(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static int make_mark(void *opaque)
{
	(void)opaque;
	marks++;
	return 0;
}

static void connect_front(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX}; /* the kernel finds a name */
	socklen_t bytes = sizeof(address);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address.sun_family)),
			 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
	assert_int_equal(listen(listener, 8), 0);
	front = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(front, (struct sockaddr *)&address, bytes), 0);
	assert_true(ox_fronts_may_accept(&fronts, 0));
	assert_int_equal(ox_fronts_accept(&fronts, listener, 0), 0);
	close(listener);
}

/* All that the keeper has told, up to the end of the handover; how many descriptors came. */
static unsigned hear_all(void)
{
	struct ox_park_packet packet;
	unsigned count = 0;

	do {
		assert_int_equal(ox_park_receive(worker, false, &packet), 1);
		count += packet.fd_count;
		ox_park_close_fds(&packet);
	} while (packet.kind != OX_PARK_ALL);
	return count;
}

static int setup(void **state)
{
	(void)state;
	marks = 0;
	open_before = count_open();
	file = eventfd(0, EFD_CLOEXEC);
	ox_fronts_init(&fronts);
	assert_int_equal(ox_fronts_make(&fronts), 0);
	fronts.mark = make_mark;
	worker = ox_fronts_begin(&fronts);
	assert_true(worker >= 0);
	assert_int_equal(hear_all(), 1); /* the record */
	connect_front();
	return 0;
}

/* No descriptor is left. */
static int teardown(void **state)
{
	(void)state;
	ox_fronts_free(&fronts);
	close(worker);
	close(front);
	close(file);
	assert_int_equal(count_open(), open_before);
	return 0;
}

static void say(const struct ox_park_packet *packet)
{
	assert_int_equal(ox_park_send(worker, packet, true), 0);
}

static void put(unsigned slot, unsigned fd_count)
{
	struct ox_park_packet packet = {
		.kind = OX_PARK_PUT, .slot_count = 1, .slots = {(uint16_t)slot}};

	for (unsigned i = 0; i < fd_count; i++)
		packet.fds[packet.fd_count++] = file;
	say(&packet);
}

static void reply(uint64_t number, const char *text, unsigned slot)
{
	struct ox_park_packet packet = {
		.kind = OX_PARK_REPLY, .number = number, .byte_count = strlen(text)};

	memcpy(packet.bytes, text, packet.byte_count);
	if (slot != OX_PARK_NO_SLOT)
		packet.slots[packet.slot_count++] = (uint16_t)slot;
	say(&packet);
}

static void expect_trust(void)
{
	assert_int_equal(ox_fronts_hear(&fronts), 0);
	assert_true(fronts.socket >= 0);
}

/* It is to be killed. */
static void expect_none(void)
{
	assert_int_equal(ox_fronts_hear(&fronts), -EBADMSG);
	assert_int_equal(fronts.socket, -1);
}

static void expect_text(const char *text)
{
	char got[64];

	assert_int_equal(recv(front, got, sizeof(got), MSG_DONTWAIT), strlen(text));
	assert_memory_equal(got, text, strlen(text));
}

/* ---- what a worker does ---- */

static void the_next_worker_is_given_all_that_the_last_one_had_handed_over(void **state)
{
	(void)state;
	for (unsigned slot = 0; slot < 100; slot++)
		put(7 * slot, 1);
	say(&(struct ox_park_packet){.kind = OX_PARK_DROP, .slot_count = 2, .slots = {0, 7}});
	close(worker); /* it dies, and nobody has heard any of it */
	worker = ox_fronts_begin(&fronts);
	assert_true(worker >= 0);
	assert_int_equal(hear_all(), 1 + 1 + 98); /* the record, the connection */
}

static void a_reply_is_sent_once(void **state)
{
	(void)state;
	reply(1, "first", OX_PARK_NO_SLOT);
	reply(1, "first", OX_PARK_NO_SLOT);
	expect_trust();
	expect_text("first");
	close(worker);
	worker = ox_fronts_begin(&fronts);
	reply(1, "first", OX_PARK_NO_SLOT);
	put(3, 1);
	reply(2, "second", 3);
	expect_trust();
	expect_text("second");
}

static void who_is_gone_has_nothing_left(void **state)
{
	(void)state;
	put(3, 1);
	say(&(struct ox_park_packet){.kind = OX_PARK_GONE});
	expect_trust();
	assert_int_equal(fronts.fronts[0].number, 0);
	put(3, 1); /* nobody's */
	expect_none();
}

static void a_mark_is_made_and_told(void **state)
{
	struct ox_park_packet packet;

	(void)state;
	say(&(struct ox_park_packet){.kind = OX_PARK_MARK});
	expect_trust();
	assert_int_equal(marks, 1);
	assert_int_equal(ox_park_receive(worker, false, &packet), 1);
	assert_int_equal(packet.kind, OX_PARK_CAME);
	ox_park_close_fds(&packet);
	assert_int_equal(ox_park_receive(worker, false, &packet), 1);
	assert_int_equal(packet.kind, OX_PARK_MARKED);
	assert_int_equal(packet.number, 0);
	assert_true(fronts.word & OX_PARK_IS_MARKED);
}

static void a_front_end_that_does_not_read_its_replies_is_let_go(void **state)
{
	char text[512];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (uint64_t number = 1; !fronts.fronts[0].is_lost; number++) {
		assert_true(number < 100000);
		reply(number, text, OX_PARK_NO_SLOT);
		expect_trust();
	}
	put(1, 1); /* its worker does not know yet */
	expect_trust();
	assert_int_equal(fronts.fronts[0].fds[1], -1);
}

/* ---- what it must not ---- */

static void a_slot_is_not_filled_twice(void **state)
{
	(void)state;
	put(5, 1);
	expect_trust();
	put(5, 1);
	expect_none();
}

static void as_many_descriptors_come_as_slots_are_named(void **state)
{
	(void)state;
	put(5, 2);
	expect_none();
}

static void a_slot_is_within_its_bounds(void **state)
{
	(void)state;
	put(OX_PARK_SLOTS, 1);
	expect_none();
}

static void a_front_end_is_one_that_is_connected(void **state)
{
	(void)state;
	say(&(struct ox_park_packet){.kind = OX_PARK_DROP, .front = 1});
	expect_none();
}

static void a_front_end_is_within_its_bounds(void **state)
{
	(void)state;
	say(&(struct ox_park_packet){.kind = OX_PARK_GONE, .front = OX_PARK_FRONTS});
	expect_none();
}

static void a_reply_has_no_descriptor_that_is_not_there(void **state)
{
	(void)state;
	reply(1, "text", 9);
	expect_none();
}

static void nothing_else_is_believed(void **state)
{
	static const enum ox_park_kind kinds[] = {OX_PARK_RECORD, OX_PARK_CAME,	  OX_PARK_SLOTS_ARE,
						  OX_PARK_ALL,	  OX_PARK_MARKED, OX_PARK_KINDS};

	(void)state;
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		say(&(struct ox_park_packet){.kind = kinds[i]});
		expect_none();
		close(worker);
		worker = ox_fronts_begin(&fronts);
	}
}

static void bytes_that_are_no_packet(void **state)
{
	static const char bytes[4096] = {1};
	static const size_t sizes[] = {1, 23, 24 + 1, 2048, sizeof(bytes)};

	(void)state;
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(send(worker, bytes, sizes[i], 0), sizes[i]);
		expect_none();
		close(worker);
		worker = ox_fronts_begin(&fronts);
	}
}

static void the_same_slot_named_twice_leaves_no_descriptor_behind(void **state)
{
	(void)state;
	say(&(struct ox_park_packet){.kind = OX_PARK_PUT,
				     .slot_count = 2,
				     .slots = {4, 4},
				     .fd_count = 2,
				     .fds = {file, file}});
	expect_trust();
}

static void one_that_died_while_it_waited_for_a_mark_has_told_no_lie(void **state)
{
	const struct ox_park_packet packet = {.kind = OX_PARK_MARK};

	(void)state;
	say(&packet);
	shutdown(worker, SHUT_RDWR);
	assert_int_equal(ox_fronts_hear(&fronts), 0);
}

static int mark_while_somebody_asks_again(void *opaque)
{
	(void)opaque;
	if (++marks < 100)
		(void)!ox_park_send(worker, &(struct ox_park_packet){.kind = OX_PARK_MARK}, false);
	return 0;
}

/* Whoever has its end could talk for ever. */
static void what_is_said_after_a_worker_has_died_is_not_heard(void **state)
{
	(void)state;
	fronts.mark = mark_while_somebody_asks_again;
	say(&(struct ox_park_packet){.kind = OX_PARK_MARK});
	ox_fronts_end(&fronts);
	assert_int_equal(marks, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_next_worker_is_given_all_that_the_last_one_had_handed_over),
		TEST(a_reply_is_sent_once),
		TEST(who_is_gone_has_nothing_left),
		TEST(a_mark_is_made_and_told),
		TEST(a_front_end_that_does_not_read_its_replies_is_let_go),
		TEST(a_slot_is_not_filled_twice),
		TEST(as_many_descriptors_come_as_slots_are_named),
		TEST(a_slot_is_within_its_bounds),
		TEST(a_front_end_is_one_that_is_connected),
		TEST(a_front_end_is_within_its_bounds),
		TEST(a_reply_has_no_descriptor_that_is_not_there),
		TEST(nothing_else_is_believed),
		TEST(bytes_that_are_no_packet),
		TEST(one_that_died_while_it_waited_for_a_mark_has_told_no_lie),
		TEST(the_same_slot_named_twice_leaves_no_descriptor_behind),
		TEST(what_is_said_after_a_worker_has_died_is_not_heard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
