/* SPDX-License-Identifier: MIT */
/* Front ends of vhost-user while requests are in the hands of a library that is made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_guest.h"
#include "fake_library.h"
#include "serve/serve.h"
#include "serve/vhost/session.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define RING_SIZE 16u
#define HEADER_AT GUEST_FREE
#define STATUS_AT (GUEST_FREE + 64)
#define DATA_AT (GUEST_FREE + 512)

static struct {
	char directory[64];
	char path[96];
	struct ox_serve_options options;
	struct ox_serve_error error;
	pthread_t thread;
	sem_t ready;
	sem_t told; /* of a disk that is full */
	int result;
	bool running;
} server;

struct front {
	int socket;
	int kick;
	int call;
	struct fake_guest guest;
};

static struct front first;
static struct front second;
static int asking; /* a connection that only asks */

/* Calls of the library are all that these stand for. */
static struct ox_context *const context = (struct ox_context *)&server;
static struct ox_image *const image = (struct ox_image *)&server;

/* ---- the server ---- */

static int on_ready(void *opaque, const char *uri, const char *vhost_path)
{
	(void)opaque;
	assert_null(uri);
	assert_string_equal(vhost_path, server.path);
	sem_post(&server.ready);
	return 0;
}

static void on_warning(void *opaque, const char *message)
{
	(void)opaque;
	if (strstr(message, "is full"))
		sem_post(&server.told);
}

static void *serve(void *unused)
{
	(void)unused;
	server.result = ox_serve(context, image, &server.options, &server.error);
	return NULL;
}

static int stop(void)
{
	kill(getpid(), SIGTERM);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	server.running = false;
	return server.result;
}

/* ---- a front end ---- */

static void tell(int socket, uint32_t request, uint32_t flags, const void *payload, uint32_t bytes,
		 const int *fds, unsigned fd_count)
{
	struct ox_vhost_header header = {request, OX_VHOST_VERSION | flags, bytes};
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)payload, bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (fd_count > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.align.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.align), fds, fd_count * sizeof(int));
	}
	assert_int_equal(sendmsg(socket, &msg, MSG_NOSIGNAL), sizeof(header) + bytes);
}

static void tell64(int socket, uint32_t request, uint64_t value, int fd)
{
	tell(socket, request, 0, &value, sizeof(value), &fd, fd >= 0);
}

static void tell_ring(int socket, uint32_t request, uint32_t value)
{
	const uint32_t payload[2] = {0, value};

	tell(socket, request, 0, payload, sizeof(payload), NULL, 0);
}

/* The first 8 bytes of the reply. */
static uint64_t hear(int socket, uint32_t request)
{
	uint8_t reply[OX_VHOST_HEADER_BYTES + 8];
	struct ox_vhost_header header;
	uint64_t value;

	assert_int_equal(recv(socket, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	memcpy(&header, reply, sizeof(header));
	assert_int_equal(header.request, request);
	assert_int_equal(header.flags, OX_VHOST_VERSION | OX_VHOST_REPLY);
	memcpy(&value, reply + sizeof(header), sizeof(value));
	return value;
}

static void ask(int socket)
{
	tell(socket, OX_VHOST_GET_FEATURES, 0, NULL, 0, NULL, 0);
	assert_true(hear(socket, OX_VHOST_GET_FEATURES) & OX_VHOST_F_PROTOCOL_FEATURES);
}

/* The server has turned, with all that was sent before: in the turn of the first question it may
 * have come to that before the rest. */
static void let_it_turn(void)
{
	ask(asking);
	ask(asking);
}

static void expect_silence(int socket)
{
	char byte;

	assert_int_equal(recv(socket, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static int connect_front(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, server.path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void send_memory(const struct front *front, uint32_t flags)
{
	uint8_t table[8 + 2 * sizeof(struct ox_vhost_region)] = {2};

	memcpy(table + 8, guest_regions(), 2 * sizeof(struct ox_vhost_region));
	tell(front->socket, OX_VHOST_SET_MEM_TABLE, flags, table, sizeof(table), front->guest.fds,
	     2);
}

static void start(struct front *front)
{
	const struct ox_vhost_ring_setup setup = guest_setup(&front->guest);
	const uint64_t addresses[5] = {0, setup.descriptors, setup.used, setup.available, 0};

	tell64(front->socket, OX_VHOST_SET_PROTOCOL_FEATURES,
	       OX_VHOST_PROTOCOL_REPLY_ACK | OX_VHOST_PROTOCOL_CONFIG |
		       OX_VHOST_PROTOCOL_BACKEND_REQ,
	       -1);
	tell64(front->socket, OX_VHOST_SET_FEATURES,
	       OX_VIRTIO_F_VERSION_1 | OX_VIRTIO_BLK_F_FLUSH | OX_VIRTIO_BLK_F_CONFIG_WCE |
		       OX_VIRTIO_BLK_F_DISCARD | OX_VHOST_F_PROTOCOL_FEATURES,
	       -1);
	send_memory(front, 0);
	tell_ring(front->socket, OX_VHOST_SET_VRING_NUM, RING_SIZE);
	tell(front->socket, OX_VHOST_SET_VRING_ADDR, 0, addresses, sizeof(addresses), NULL, 0);
	tell_ring(front->socket, OX_VHOST_SET_VRING_BASE, 0);
	tell64(front->socket, OX_VHOST_SET_VRING_CALL, 0, front->call);
	tell64(front->socket, OX_VHOST_SET_VRING_KICK, 0, front->kick);
	tell_ring(front->socket, OX_VHOST_SET_VRING_ENABLE, 1);
	ask(front->socket);
}

static void init_front(struct front *front)
{
	front->socket = connect_front();
	front->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	front->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	guest_init(&front->guest, RING_SIZE);
}

static void free_front(struct front *front)
{
	if (front->socket >= 0)
		close(front->socket);
	close(front->kick);
	close(front->call);
	guest_free(&front->guest);
}

/* A write of a sector, at its first descriptors: one at a time. */
static void offer_write(struct front *front)
{
	memset(guest_at(&front->guest, HEADER_AT), 0, 16);
	memset(guest_at(&front->guest, HEADER_AT), 1, 1);
	memset(guest_at(&front->guest, STATUS_AT), 0xaa, 1);
	guest_describe(&front->guest, 0, HEADER_AT, 16, GUEST_NEXT, 1);
	guest_describe(&front->guest, 1, DATA_AT, 512, GUEST_NEXT, 2);
	guest_describe(&front->guest, 2, STATUS_AT, 1, GUEST_WRITE, 0);
	guest_offer(&front->guest, 0);
	assert_int_equal(eventfd_write(front->kick, 1), 0);
}

/* A read of a sector, likewise. */
static void offer_read(struct front *front)
{
	memset(guest_at(&front->guest, HEADER_AT), 0, 16);
	guest_describe(&front->guest, 0, HEADER_AT, 16, GUEST_NEXT, 1);
	guest_describe(&front->guest, 1, DATA_AT, 512, GUEST_NEXT | GUEST_WRITE, 2);
	guest_describe(&front->guest, 2, STATUS_AT, 1, GUEST_WRITE, 0);
	guest_offer(&front->guest, 0);
	assert_int_equal(eventfd_write(front->kick, 1), 0);
}

static uint16_t used(const struct front *front)
{
	return __atomic_load_n(guest_used_index(&front->guest), __ATOMIC_ACQUIRE);
}

static int setup(void **state)
{
	(void)state;
	memset(&server, 0, sizeof(server));
	strcpy(server.directory, "/tmp/oxbow-test-XXXXXX");
	assert_non_null(mkdtemp(server.directory));
	snprintf(server.path, sizeof(server.path), "%s/vhost.sock", server.directory);
	server.options = (struct ox_serve_options){
		.vhost = {.path = server.path,
			  .queues = 1,
			  .queue_size = RING_SIZE,
			  .block_bytes = 512},
		.on_full = OX_SERVE_FULL_PAUSE,
		.file_fd = -1,
		.ready = on_ready,
		.warn = on_warning,
	};
	sem_init(&server.ready, 0, 0);
	sem_init(&server.told, 0, 0);
	fake_hold(false);
	fake_full(false);
	fake_resize(FAKE_DISK_BYTES);
	assert_int_equal(pthread_create(&server.thread, NULL, serve, NULL), 0);
	server.running = true;
	while (sem_wait(&server.ready) < 0)
		;
	init_front(&first);
	init_front(&second);
	asking = connect_front();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_hold(false);
	if (server.running)
		assert_int_equal(stop(), 0);
	free_front(&first);
	free_front(&second);
	close(asking);
	assert_int_equal(rmdir(server.directory), 0);
	return 0;
}

/* ---- the tests ---- */

static void the_base_is_told_when_the_last_request_has_ended(void **state)
{
	(void)state;
	start(&first);
	fake_hold(true);
	offer_read(&first);
	fake_await_in_flight(1);
	tell_ring(first.socket, OX_VHOST_GET_VRING_BASE, 0);
	offer_read(&first); /* comes too late */
	let_it_turn();
	expect_silence(first.socket);
	assert_int_equal(used(&first), 0);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_GET_VRING_BASE) >> 32, 1);
	assert_int_equal(used(&first), 1);
	let_it_turn();
	assert_int_equal(used(&first), 1);
}

/* Of 8 GiB, which would be done in many steps. */
static void a_long_discard_does_not_keep_the_base_waiting(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t sectors;
		uint32_t flags;
	} ranges[4] = {{0, 1 << 22, 0},
		       {1 << 22, 1 << 22, 0},
		       {2 << 22, 1 << 22, 0},
		       {3 << 22, 1 << 22, 0}};
	size_t before;

	(void)state;
	fake_resize(UINT64_C(8) << 30);
	start(&first);
	fake_hold(true);
	memset(guest_at(&first.guest, HEADER_AT), 0, 16);
	*(uint8_t *)guest_at(&first.guest, HEADER_AT) = 11;
	memcpy(guest_at(&first.guest, DATA_AT), ranges, sizeof(ranges));
	guest_describe(&first.guest, 0, HEADER_AT, 16, GUEST_NEXT, 1);
	guest_describe(&first.guest, 1, DATA_AT, sizeof(ranges), GUEST_NEXT, 2);
	guest_describe(&first.guest, 2, STATUS_AT, 1, GUEST_WRITE, 0);
	guest_offer(&first.guest, 0);
	assert_int_equal(eventfd_write(first.kick, 1), 0);
	fake_await_in_flight(1);
	tell_ring(first.socket, OX_VHOST_GET_VRING_BASE, 0);
	let_it_turn();
	expect_silence(first.socket);
	before = fake_submitted();
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_GET_VRING_BASE) >> 32, 1);
	assert_int_equal(fake_submitted(), before);
	assert_int_equal(used(&first), 1);
	assert_int_equal(*(uint8_t *)guest_at(&first.guest, STATUS_AT), 0);
}

static void memory_is_exchanged_when_no_request_points_into_it(void **state)
{
	(void)state;
	start(&first);
	fake_hold(true);
	offer_read(&first);
	fake_await_in_flight(1);
	send_memory(&first, OX_VHOST_NEED_REPLY);
	let_it_turn();
	expect_silence(first.socket);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_SET_MEM_TABLE), 0);
	assert_int_equal(used(&first), 1);
}

static void a_reset_waits_for_requests(void **state)
{
	(void)state;
	start(&first);
	fake_hold(true);
	offer_read(&first);
	fake_await_in_flight(1);
	tell(first.socket, OX_VHOST_RESET_DEVICE, OX_VHOST_NEED_REPLY, NULL, 0, NULL, 0);
	let_it_turn();
	expect_silence(first.socket);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_RESET_DEVICE), 0);
	assert_int_equal(used(&first), 1);
}

static void the_cache_is_off_once_what_it_held_is_durable(void **state)
{
	const struct {
		uint32_t head[3];
		uint8_t off;
	} off = {{OX_VHOST_BLK_CONFIG_WCE, 1, 0}, 0};

	(void)state;
	start(&first);
	fake_hold(true);
	tell(first.socket, OX_VHOST_SET_CONFIG, OX_VHOST_NEED_REPLY, &off, 13, NULL, 0);
	fake_await_in_flight(1); /* a flush */
	let_it_turn();
	expect_silence(first.socket);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_SET_CONFIG), 0);
	/* Whoever asks again may do so because the flush before failed. */
	fake_hold(true);
	tell(first.socket, OX_VHOST_SET_CONFIG, OX_VHOST_NEED_REPLY, &off, 13, NULL, 0);
	fake_await_in_flight(1);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_SET_CONFIG), 0);
}

/* What the descriptor before was told, nobody may have heard. */
static void a_call_that_a_running_ring_is_given_is_signalled(void **state)
{
	int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	eventfd_t count = 0;

	(void)state;
	start(&first);
	tell64(first.socket, OX_VHOST_SET_VRING_CALL, 0, other);
	ask(first.socket);
	assert_int_equal(eventfd_read(other, &count), 0);
	assert_int_equal(count, 1);
	close(other);
}

/* One that moves to another process of its hypervisor, which was there before. */
static void who_gets_a_disk_has_the_cache_as_it_was_set(void **state)
{
	const struct {
		uint32_t head[3];
		uint8_t wce;
	} off = {{OX_VHOST_BLK_CONFIG_WCE, 1, 0}, 0};
	uint8_t reply[OX_VHOST_HEADER_BYTES + 13];

	(void)state;
	ask(second.socket); /* it is connected */
	start(&first);
	tell(first.socket, OX_VHOST_SET_CONFIG, OX_VHOST_NEED_REPLY, &off, 13, NULL, 0);
	assert_int_equal(hear(first.socket, OX_VHOST_SET_CONFIG), 0);
	tell_ring(first.socket, OX_VHOST_GET_VRING_BASE, 0);
	(void)hear(first.socket, OX_VHOST_GET_VRING_BASE);
	start(&second);
	tell(second.socket, OX_VHOST_GET_CONFIG, 0, &off, 13, NULL, 0);
	assert_int_equal(recv(second.socket, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	assert_int_equal(reply[sizeof(reply) - 1], 0);
}

static void a_disk_is_the_next_ones_when_the_last_request_of_the_first_has_ended(void **state)
{
	(void)state;
	start(&first);
	fake_hold(true);
	offer_read(&first);
	fake_await_in_flight(1);
	close(first.socket);
	first.socket = -1;
	start(&second);
	offer_read(&second);
	let_it_turn();
	fake_await_in_flight(1);
	fake_hold(false);
	while (used(&second) == 0)
		let_it_turn();
	assert_int_equal(used(&first), 1);
}

/* ---- the size ---- */

/* Sets up a channel of the back end's, and returns the front end's side of it. */
static int set_channel(struct front *front)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	tell(front->socket, OX_VHOST_SET_BACKEND_REQ_FD, OX_VHOST_NEED_REPLY, NULL, 0, &pair[1], 1);
	assert_int_equal(hear(front->socket, OX_VHOST_SET_BACKEND_REQ_FD), 0);
	close(pair[1]);
	return pair[0];
}

static void expect_config_change(int channel)
{
	struct ox_vhost_header header;

	assert_int_equal(recv(channel, &header, sizeof(header), MSG_WAITALL), sizeof(header));
	assert_int_equal(header.request, OX_VHOST_BACKEND_CONFIG_CHANGE);
	assert_int_equal(header.flags, OX_VHOST_VERSION); /* no reply is wanted */
	assert_int_equal(header.bytes, 0);
}

/* In sectors. */
static uint64_t read_capacity(int socket)
{
	const uint32_t head[5] = {0, 8, 0, 0, 0};
	uint8_t reply[OX_VHOST_HEADER_BYTES + sizeof(head)];
	uint64_t capacity;

	tell(socket, OX_VHOST_GET_CONFIG, 0, head, sizeof(head), NULL, 0);
	assert_int_equal(recv(socket, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
	memcpy(&capacity, reply + sizeof(reply) - sizeof(capacity), sizeof(capacity));
	return capacity;
}

static void a_front_end_is_told_of_another_size(void **state)
{
	int channel;

	(void)state;
	start(&first);
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES / 512);
	channel = set_channel(&first);
	let_it_turn();
	expect_silence(channel);
	fake_resize(FAKE_DISK_BYTES * 2);
	expect_config_change(channel);
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES * 2 / 512);
	fake_resize(FAKE_DISK_BYTES);
	expect_config_change(channel);
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES / 512);
	let_it_turn();
	expect_silence(channel);
	close(channel);
}

/* It passes over what it is told while none of its rings runs, as QEMU does. */
static void a_front_end_is_told_when_its_ring_starts(void **state)
{
	int channel;

	(void)state;
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES / 512);
	tell64(first.socket, OX_VHOST_SET_PROTOCOL_FEATURES,
	       OX_VHOST_PROTOCOL_REPLY_ACK | OX_VHOST_PROTOCOL_BACKEND_REQ, -1);
	channel = set_channel(&first);
	fake_resize(FAKE_DISK_BYTES * 2);
	expect_config_change(channel);
	let_it_turn();
	expect_silence(channel);
	start(&first);
	expect_config_change(channel);
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES * 2 / 512);
	close(channel);
}

static void a_request_is_bounded_by_the_size_when_it_is_taken(void **state)
{
	(void)state;
	start(&first);
	fake_resize(0);
	let_it_turn();
	offer_read(&first);
	while (used(&first) == 0)
		let_it_turn();
	assert_int_equal(*(uint8_t *)guest_at(&first.guest, STATUS_AT), 1);
	fake_resize(512);
	let_it_turn();
	offer_read(&first);
	while (used(&first) == 1)
		let_it_turn();
	assert_int_equal(*(uint8_t *)guest_at(&first.guest, STATUS_AT), 0);
}

static void a_channel_that_nobody_reads_stops_nobody(void **state)
{
	int channel;

	(void)state;
	start(&first);
	channel = set_channel(&first);
	for (unsigned i = 1; i <= 2000; i++) {
		fake_resize(FAKE_DISK_BYTES + i * 512);
		let_it_turn();
	}
	offer_read(&first);
	while (used(&first) == 0)
		let_it_turn();
	expect_config_change(channel);
	assert_int_equal(read_capacity(first.socket), FAKE_DISK_BYTES / 512 + 2000);
	close(channel); /* and one that is gone stops nobody either */
	fake_resize(FAKE_DISK_BYTES);
	let_it_turn();
	ask(first.socket);
}

static void a_channel_is_a_unix_socket(void **state)
{
	int pair[2];

	(void)state;
	start(&first);
	tell(first.socket, OX_VHOST_SET_BACKEND_REQ_FD, OX_VHOST_NEED_REPLY, NULL, 0, NULL, 0);
	assert_int_not_equal(hear(first.socket, OX_VHOST_SET_BACKEND_REQ_FD), 0);
	assert_int_equal(pipe(pair), 0);
	tell(first.socket, OX_VHOST_SET_BACKEND_REQ_FD, OX_VHOST_NEED_REPLY, NULL, 0, &pair[1], 1);
	assert_int_not_equal(hear(first.socket, OX_VHOST_SET_BACKEND_REQ_FD), 0);
	close(pair[0]);
	close(pair[1]);
}

static void the_end_answers_what_was_taken(void **state)
{
	char byte;

	(void)state;
	start(&first);
	fake_hold(true);
	offer_read(&first);
	fake_await_in_flight(1);
	kill(getpid(), SIGTERM);
	assert_int_equal(recv(asking, &byte, 1, 0), 0);
	fake_hold(false);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	server.running = false;
	assert_int_equal(server.result, 0);
	assert_int_equal(used(&first), 1);
	assert_int_equal(recv(first.socket, &byte, 1, 0), 0);
}

/* The library has it, for the second time: it found no room at the first. */
static void offer_a_write_that_is_tried_again(struct front *front)
{
	fake_full(true);
	offer_write(front);
	while (sem_wait(&server.told) < 0)
		;
	fake_hold(true);
	fake_await_in_flight(1);
}

static uint8_t status_of(const struct front *front)
{
	return *(const uint8_t *)guest_at(&front->guest, STATUS_AT);
}

static void a_write_that_is_tried_again_is_waited_for_and_fails_then(void **state)
{
	(void)state;
	start(&first);
	offer_a_write_that_is_tried_again(&first);
	tell_ring(first.socket, OX_VHOST_GET_VRING_BASE, 0);
	let_it_turn();
	expect_silence(first.socket);
	assert_int_equal(used(&first), 0);
	fake_hold(false);
	assert_int_equal(hear(first.socket, OX_VHOST_GET_VRING_BASE) >> 32, 1);
	assert_int_equal(used(&first), 1);
	assert_int_equal(status_of(&first), 1);
}

static void a_front_end_may_go_while_its_write_is_tried_again(void **state)
{
	(void)state;
	start(&first);
	offer_a_write_that_is_tried_again(&first);
	close(first.socket);
	first.socket = -1;
	let_it_turn();
	fake_hold(false);
	while (used(&first) == 0)
		let_it_turn();
	assert_int_equal(status_of(&first), 1);
	fake_full(false);
	start(&second);
	offer_write(&second);
	while (used(&second) == 0)
		let_it_turn();
	assert_int_equal(status_of(&second), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_base_is_told_when_the_last_request_has_ended),
		TEST(a_long_discard_does_not_keep_the_base_waiting),
		TEST(memory_is_exchanged_when_no_request_points_into_it),
		TEST(a_reset_waits_for_requests),
		TEST(the_cache_is_off_once_what_it_held_is_durable),
		TEST(a_call_that_a_running_ring_is_given_is_signalled),
		TEST(who_gets_a_disk_has_the_cache_as_it_was_set),
		TEST(a_disk_is_the_next_ones_when_the_last_request_of_the_first_has_ended),
		TEST(a_front_end_is_told_of_another_size),
		TEST(a_front_end_is_told_when_its_ring_starts),
		TEST(a_request_is_bounded_by_the_size_when_it_is_taken),
		TEST(a_channel_that_nobody_reads_stops_nobody),
		TEST(a_channel_is_a_unix_socket),
		TEST(the_end_answers_what_was_taken),
		TEST(a_write_that_is_tried_again_is_waited_for_and_fails_then),
		TEST(a_front_end_may_go_while_its_write_is_tried_again),
	};

	ox_serve_block_signals();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
