/* SPDX-License-Identifier: MIT */
/* Messages between the keeper and its children: what is none of ours is refused, and no descriptor
 * that came with it stays open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/keeper/wire.h"

#define MANY 100

static int pair[2]; /* [0] is the keeper's */
static int lowest;  /* descriptor that is free */

static int free_fd(void)
{
	int fd = dup(STDERR_FILENO);

	assert_true(fd >= 0);
	close(fd);
	return fd;
}

static int setup(void **state)
{
	(void)state;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    fcntl(pair[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -1;
	lowest = free_fd();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (free_fd() != lowest)
		return -1; /* something was left open */
	return close(pair[0]) | close(pair[1]);
}

/* Raw bytes with so many descriptors, as a child that was taken over may send them. */
static void send_raw(const void *bytes, size_t count, unsigned fd_count)
{
	union {
		char bytes[CMSG_SPACE(MANY * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)bytes, count};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int fds[MANY];

	for (unsigned i = 0; i < fd_count; i++)
		fds[i] = STDERR_FILENO;
	if (fd_count > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.align.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.align), fds, fd_count * sizeof(int));
	}
	assert_int_equal(sendmsg(pair[1], &msg, MSG_NOSIGNAL), count);
}

static void assert_refused(const void *bytes, size_t count, unsigned fd_count)
{
	struct ox_wire_message message;

	send_raw(bytes, count, fd_count);
	assert_int_equal(ox_wire_receive(pair[0], &message), -EBADMSG);
	assert_int_equal(free_fd(), lowest);
}

static void test_what_is_sent_arrives(void **state)
{
	struct ox_wire_message message;
	int fds[OX_WIRE_FDS];

	(void)state;
	for (int i = 0; i < OX_WIRE_FDS; i++)
		fds[i] = STDERR_FILENO;
	assert_int_equal(ox_wire_receive(pair[0], &message), -EAGAIN);
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_READY, 7, NULL, 0), 0);
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_FRESH, 0, fds, OX_WIRE_FDS), 0);
	assert_int_equal(ox_wire_receive(pair[0], &message), 1);
	assert_int_equal(message.kind, OX_WIRE_READY);
	assert_int_equal(message.number, 7);
	assert_int_equal(message.fd_count, 0);
	assert_int_equal(ox_wire_receive(pair[0], &message), 1);
	assert_int_equal(message.fd_count, OX_WIRE_FDS);
	for (int i = 0; i < OX_WIRE_FDS; i++)
		assert_int_equal(fcntl(message.fds[i], F_GETFD), FD_CLOEXEC);
	ox_wire_close(&message);
}

static void test_what_is_no_message_is_refused(void **state)
{
	uint32_t words[4] = {OX_WIRE_READY, 0, 0, 0};

	(void)state;
	assert_refused(words, 1, 0);
	assert_refused(words, 4, 2);
	assert_refused(words, 9, 3);
	assert_refused(words, sizeof(words), OX_WIRE_FDS);
	words[0] = 0;
	assert_refused(words, 8, 1);
	words[0] = OX_WIRE_KINDS;
	assert_refused(words, 8, 1);
	words[0] = UINT32_MAX;
	assert_refused(words, 8, 1);
	words[0] = OX_WIRE_FRESH;
	assert_refused(words, 8, OX_WIRE_FDS + 1);
	assert_refused(words, 8, MANY);
}

static void test_an_empty_message_is_none(void **state)
{
	struct ox_wire_message message;

	(void)state;
	send_raw("", 0, 1);
	assert_int_equal(ox_wire_receive(pair[0], &message), -EBADMSG);
}

static void test_the_end_of_the_other_side_is_told(void **state)
{
	struct ox_wire_message message;

	(void)state;
	close(pair[1]);
	assert_int_equal(ox_wire_receive(pair[0], &message), 0);
	assert_int_equal(ox_wire_send(pair[0], OX_WIRE_STOP, 0, NULL, 0), -EPIPE);
	pair[1] = dup(pair[0]);
	lowest = free_fd();
}

static void test_a_list_comes_in_its_order_and_within_its_bounds(void **state)
{
	struct ox_wire_message message;
	unsigned count = 0;
	int list[MANY];
	int fds[MANY];

	(void)state;
	for (int i = 0; i < MANY; i++)
		fds[i] = STDERR_FILENO;
	assert_int_equal(ox_wire_send_list(pair[1], OX_WIRE_LOCKED, fds, MANY), 0);
	while (ox_wire_receive(pair[0], &message) == 1)
		assert_int_equal(ox_wire_take_list(&message, list, &count, MANY), 0);
	assert_int_equal(count, MANY);
	while (count > 0)
		close(list[--count]);
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_LOCKED, 1, fds, 1), 0); /* the second */
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_LOCKED, 0, fds, 3), 0); /* too many */
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_LOCKED, 0, fds, 0), 0); /* none */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ox_wire_receive(pair[0], &message), 1);
		assert_int_equal(ox_wire_take_list(&message, list, &count, 2), -EBADMSG);
		assert_int_equal(count, 0);
	}
}

/* The kernel tells of the unread first. */
static void test_what_was_said_before_a_death_with_something_unread_is_heard(void **state)
{
	struct ox_wire_message message;

	(void)state;
	assert_int_equal(ox_wire_send(pair[0], OX_WIRE_STOP, 0, NULL, 0), 0);
	assert_int_equal(ox_wire_send(pair[1], OX_WIRE_SYNCED, 7, NULL, 0), 0);
	close(pair[1]);
	assert_int_equal(ox_wire_receive(pair[0], &message), 1);
	assert_int_equal(message.number, 7);
	assert_int_equal(ox_wire_receive(pair[0], &message), 0);
	pair[1] = dup(STDERR_FILENO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_sent_arrives),
		TEST(what_is_no_message_is_refused),
		TEST(an_empty_message_is_none),
		TEST(the_end_of_the_other_side_is_told),
		TEST(a_list_comes_in_its_order_and_within_its_bounds),
		TEST(what_was_said_before_a_death_with_something_unread_is_heard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
