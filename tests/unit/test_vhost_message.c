/* SPDX-License-Identifier: MIT */
/* Messages of vhost-user, in parts and with descriptors, right and wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/vhost/message.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define FDS_MANY 32

static int ends[2]; /* the front end's, ours */
static struct ox_vhost_incoming incoming;
static unsigned open_before;

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

static int setup(void **state)
{
	(void)state;
	memset(&incoming, 0, sizeof(incoming));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	open_before = count_open();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_vhost_incoming_clear(&incoming);
	assert_int_equal(count_open(), open_before);
	close(ends[0]);
	close(ends[1]);
	return 0;
}

static void send_part(const void *bytes, size_t count, unsigned fd_count)
{
	union {
		char bytes[CMSG_SPACE(FDS_MANY * sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov = {(void *)(uintptr_t)bytes, count};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.align.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		for (unsigned i = 0; i < fd_count; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int), &ends[0], sizeof(int));
	}
	assert_int_equal(sendmsg(ends[0], &msg, 0), count);
}

static struct ox_vhost_header header_of(uint32_t request, uint32_t bytes)
{
	return (struct ox_vhost_header){request, OX_VHOST_VERSION, bytes};
}

static void a_message_is_whole_once_its_last_byte_is_there(void **state)
{
	uint8_t bytes[OX_VHOST_HEADER_BYTES + 8];
	const struct ox_vhost_header header = header_of(OX_VHOST_SET_FEATURES, 8);

	(void)state;
	memcpy(bytes, &header, sizeof(header));
	memset(bytes + sizeof(header), 0x5a, 8);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EAGAIN);
		send_part(bytes + i, 1, 0);
	}
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), 1);
	assert_int_equal(incoming.message.header.request, OX_VHOST_SET_FEATURES);
	assert_memory_equal(incoming.message.payload, bytes + sizeof(header), 8);
}

static void a_message_ends_where_the_next_begins(void **state)
{
	struct ox_vhost_header two[2] = {header_of(OX_VHOST_SET_OWNER, 0),
					 header_of(OX_VHOST_GET_FEATURES, 0)};

	(void)state;
	send_part(two, sizeof(two), 0);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), 1);
	assert_int_equal(incoming.message.header.request, OX_VHOST_SET_OWNER);
	ox_vhost_incoming_clear(&incoming);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), 1);
	assert_int_equal(incoming.message.header.request, OX_VHOST_GET_FEATURES);
}

/* The end of the stream, and what was open before, are teardown's to look at. */
static void descriptors_come_with_any_part(void **state)
{
	const struct ox_vhost_header header = header_of(OX_VHOST_SET_MEM_TABLE, 8);

	(void)state;
	send_part(&header, sizeof(header), 3);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EAGAIN);
	send_part("12345678", 8, 5);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), 1);
	assert_int_equal(incoming.message.fd_count, 8);
}

static void more_descriptors_than_any_message_has_are_closed(void **state)
{
	const struct ox_vhost_header header = header_of(OX_VHOST_SET_MEM_TABLE, 8);

	(void)state;
	for (unsigned count = 9; count <= FDS_MANY; count += 23) {
		send_part(&header, sizeof(header), count);
		assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EBADMSG);
		ox_vhost_incoming_clear(&incoming);
	}
	send_part(&header, sizeof(header), 6);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EAGAIN);
	send_part("12345678", 8, 6);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EBADMSG);
}

static void what_no_message_can_be_is_refused_at_its_header(void **state)
{
	const struct ox_vhost_header bad[] = {
		{OX_VHOST_GET_FEATURES, 0, 0},
		{OX_VHOST_GET_FEATURES, 2, 0},
		{OX_VHOST_GET_FEATURES, OX_VHOST_VERSION | OX_VHOST_REPLY, 0},
		{OX_VHOST_SET_CONFIG, OX_VHOST_VERSION, OX_VHOST_PAYLOAD_MAX + 1},
		{OX_VHOST_SET_CONFIG, OX_VHOST_VERSION, UINT32_MAX},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		send_part(&bad[i], sizeof(bad[i]), 1);
		assert_int_equal(ox_vhost_receive(ends[1], &incoming), -EBADMSG);
		ox_vhost_incoming_clear(&incoming);
	}
}

static void a_front_end_that_is_gone_is_no_message(void **state)
{
	const struct ox_vhost_header header = header_of(OX_VHOST_SET_MEM_TABLE, 8);

	(void)state;
	send_part(&header, sizeof(header) - 1, 2);
	shutdown(ends[0], SHUT_WR);
	assert_int_equal(ox_vhost_receive(ends[1], &incoming), 0);
}

static void a_reply_is_not_waited_for(void **state)
{
	const uint64_t value = 1;
	int ret;

	(void)state;
	do {
		ret = ox_vhost_reply(ends[1], OX_VHOST_GET_FEATURES, &value, sizeof(value), -1);
	} while (ret == 0);
	assert_int_equal(ret, -EAGAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_message_is_whole_once_its_last_byte_is_there),
		TEST(a_message_ends_where_the_next_begins),
		TEST(descriptors_come_with_any_part),
		TEST(more_descriptors_than_any_message_has_are_closed),
		TEST(what_no_message_can_be_is_refused_at_its_header),
		TEST(a_front_end_that_is_gone_is_no_message),
		TEST(a_reply_is_not_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
