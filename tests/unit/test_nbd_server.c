/* SPDX-License-Identifier: MIT */
/* The server's loop over a library that is made up: memory, and the end. */
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
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_library.h"
#include "serve/nbd/nbd_proto.h"
#include "serve/serve.h"

#define MIB (1u << 20)
#define CLIENTS_MAX 64

static struct {
	char directory[64];
	char path[96];
	struct ox_serve_options options;
	struct ox_serve_error error;
	pthread_t thread;
	sem_t ready;
	sem_t warned;
	char warning[256];
	int result;
} server;

/* Two calls of the library are all that these stand for. */
static struct ox_context *const context = (struct ox_context *)&server;
static struct ox_image *const image = (struct ox_image *)&server;

static int on_ready(void *opaque, const char *uri, const char *vhost_path)
{
	(void)opaque;
	(void)uri;
	(void)vhost_path;
	sem_post(&server.ready);
	return 0;
}

static void on_warning(void *opaque, const char *message)
{
	(void)opaque;
	snprintf(server.warning, sizeof(server.warning), "%s", message);
	sem_post(&server.warned);
}

static void *serve(void *unused)
{
	(void)unused;
	server.result = ox_serve(context, image, &server.options, &server.error);
	return NULL;
}

static int setup(void **state)
{
	(void)state;
	memset(&server, 0, sizeof(server));
	strcpy(server.directory, "/tmp/oxbow-test-XXXXXX");
	assert_non_null(mkdtemp(server.directory));
	snprintf(server.path, sizeof(server.path), "%s/nbd.sock", server.directory);
	server.options = (struct ox_serve_options){
		.nbd = {.address = server.path, .export_name = "", .max_clients = CLIENTS_MAX},
		.ready = on_ready,
		.warn = on_warning,
	};
	sem_init(&server.ready, 0, 0);
	sem_init(&server.warned, 0, 0);
	fake_hold(false);
	fake_full(false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(rmdir(server.directory), 0);
	return 0;
}

static void start(void)
{
	assert_int_equal(pthread_create(&server.thread, NULL, serve, NULL), 0);
	while (sem_wait(&server.ready) < 0)
		;
}

/* SIGTERM, and what ox_serve returned. */
static int stop(void)
{
	kill(getpid(), SIGTERM);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	return server.result;
}

/* ---- a client ---- */

static void send_all(int fd, const void *bytes, size_t count)
{
	assert_int_equal(send(fd, bytes, count, MSG_NOSIGNAL), (ssize_t)count);
}

static void receive_all(int fd, void *bytes, size_t count)
{
	assert_int_equal(recv(fd, bytes, count, MSG_WAITALL), (ssize_t)count);
}

static int connect_client(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint8_t hello[NBD_HELLO_BYTES];
	uint8_t export[10];
	uint8_t ask[4 + 16];
	uint8_t *at = ask;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, server.path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	receive_all(fd, hello, sizeof(hello));
	at = ox_nbd_put32(at, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	at = ox_nbd_put64(at, UINT64_C(0x49484156454F5054));
	at = ox_nbd_put32(at, NBD_OPT_EXPORT_NAME);
	at = ox_nbd_put32(at, 0);
	send_all(fd, ask, (size_t)(at - ask));
	receive_all(fd, export, sizeof(export));
	return fd;
}

static void request(int fd, uint16_t type, uint64_t offset, uint32_t length)
{
	static uint8_t payload[4096];
	uint8_t head[28];
	uint8_t *at = head;

	at = ox_nbd_put32(at, 0x25609513);
	at = ox_nbd_put16(at, 0);
	at = ox_nbd_put16(at, type);
	at = ox_nbd_put64(at, 17);
	at = ox_nbd_put64(at, offset);
	at = ox_nbd_put32(at, length);
	send_all(fd, head, sizeof(head));
	if (type == NBD_CMD_WRITE) {
		assert_true(length <= sizeof(payload));
		send_all(fd, payload, length);
	}
}

static void check_reply(int fd, size_t length)
{
	uint8_t *bytes = malloc(16 + length);

	receive_all(fd, bytes, 16 + length);
	assert_int_equal(ox_nbd_get32(bytes + 4), 0);
	for (size_t i = 0; i < length; i++)
		assert_int_equal(bytes[16 + i], 0xab);
	free(bytes);
}

static void check_closed(int fd)
{
	char bytes[65536];
	ssize_t got;

	do {
		got = recv(fd, bytes, sizeof(bytes), 0);
	} while (got > 0);
	assert_true(got == 0 || errno == ECONNRESET);
	close(fd);
}

/* ---- memory ---- */

static void test_clients_that_do_not_read_take_no_depth_from_others(void **state)
{
	int deaf[32];
	int fd;

	(void)state;
	start();
	for (unsigned i = 0; i < 32; i++) {
		deaf[i] = connect_client();
		request(deaf[i], NBD_CMD_READ, 0, 32 * MIB);
		request(deaf[i], NBD_CMD_READ, 0, 32 * MIB);
	}
	/* What they could get is answered, and fills their sockets. */
	fd = connect_client();
	request(fd, NBD_CMD_READ, 0, 4096);
	check_reply(fd, 4096);
	fake_await_in_flight(0);
	fake_hold(true);
	for (unsigned i = 0; i < 32; i++)
		request(fd, NBD_CMD_WRITE, i * 4096, 4096);
	fake_await_in_flight(32);
	fake_hold(false);
	for (unsigned i = 0; i < 32; i++)
		check_reply(fd, 0);
	for (unsigned i = 0; i < 32; i++)
		close(deaf[i]);
	close(fd);
	assert_int_equal(stop(), 0);
}

static void test_who_keeps_others_waiting_for_memory_is_let_go(void **state)
{
	int deaf;
	int fd;

	(void)state;
	server.options.nbd.memory_bytes = ox_serve_nbd_memory_min(CLIENTS_MAX);
	server.options.nbd.patience_ms = 160;
	start();
	deaf = connect_client();
	request(deaf, NBD_CMD_READ, 0, 32 * MIB);
	fd = connect_client();
	request(fd, NBD_CMD_READ, 0, 32 * MIB);
	check_reply(fd, 32 * MIB);
	assert_int_equal(sem_trywait(&server.warned), 0);
	assert_non_null(strstr(server.warning, "client 1 "));
	check_closed(deaf);
	close(fd);
	assert_int_equal(stop(), 0);
}

static void test_who_sends_half_a_write_is_let_go_when_others_wait(void **state)
{
	uint8_t head[28];
	uint8_t *at = head;
	int half;
	int fd;

	(void)state;
	server.options.nbd.memory_bytes = ox_serve_nbd_memory_min(CLIENTS_MAX);
	server.options.nbd.patience_ms = 160;
	start();
	half = connect_client();
	at = ox_nbd_put32(at, 0x25609513);
	at = ox_nbd_put16(at, 0);
	at = ox_nbd_put16(at, NBD_CMD_WRITE);
	at = ox_nbd_put64(at, 17);
	at = ox_nbd_put64(at, 0);
	at = ox_nbd_put32(at, 32 * MIB);
	send_all(half, head, sizeof(head));
	fd = connect_client();
	request(fd, NBD_CMD_READ, 0, 32 * MIB);
	check_reply(fd, 32 * MIB);
	check_closed(half);
	close(fd);
	assert_int_equal(stop(), 0);
}

static void test_who_waits_for_the_disk_alone_is_not_let_go(void **state)
{
	int slow;
	int fd;

	(void)state;
	server.options.nbd.memory_bytes = ox_serve_nbd_memory_min(CLIENTS_MAX);
	server.options.nbd.patience_ms = 300; /* a busy machine may pause a client for a while */
	start();
	fake_hold(true);
	slow = connect_client();
	request(slow, NBD_CMD_READ, 0, 32 * MIB);
	fake_await_in_flight(1);
	fd = connect_client();
	request(fd, NBD_CMD_READ, 0, 32 * MIB);
	usleep(1200000); /* several times as long as a client may be in the way */
	fake_hold(false);
	check_reply(slow, 32 * MIB);
	check_reply(fd, 32 * MIB);
	assert_int_equal(sem_trywait(&server.warned), -1);
	close(slow);
	close(fd);
	assert_int_equal(stop(), 0);
}

/* ---- the end ---- */

static void test_the_end_comes_although_the_library_never_answers(void **state)
{
	int fd;

	(void)state;
	server.options.drain_ms = 50;
	start();
	fake_hold(true);
	fd = connect_client();
	request(fd, NBD_CMD_WRITE, 0, 4096);
	request(fd, NBD_CMD_FLUSH, 0, 0);
	fake_await_in_flight(2);
	assert_int_equal(stop(), -ETIMEDOUT);
	assert_true(server.error.requests_lost);
	assert_non_null(strstr(server.error.message, "2 requests did not complete"));
	close(fd);
}

static void test_the_end_waits_for_a_library_that_answers_late(void **state)
{
	int fd;

	(void)state;
	start();
	fake_hold(true);
	fd = connect_client();
	request(fd, NBD_CMD_WRITE, 0, 4096);
	fake_await_in_flight(1);
	kill(getpid(), SIGTERM);
	while (access(server.path, F_OK) == 0)
		usleep(1000); /* it has begun to end */
	fake_hold(false);
	check_reply(fd, 0);
	check_closed(fd);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	assert_int_equal(server.result, 0);
}

/* ---- a host without room ---- */

static void check_no_space(int fd)
{
	uint8_t bytes[16];

	receive_all(fd, bytes, sizeof(bytes));
	assert_int_equal(ox_nbd_get32(bytes + 4), ENOSPC);
}

/* A client whose write finds no room, and is in the library's hands to be tried again. */
static int start_with_a_write_that_is_tried(void)
{
	int fd;

	server.options.on_full = OX_SERVE_FULL_PAUSE;
	server.options.file_fd = -1;
	start();
	fd = connect_client();
	fake_full(true);
	request(fd, NBD_CMD_WRITE, 0, 4096);
	while (sem_wait(&server.warned) < 0)
		;
	assert_non_null(strstr(server.warning, "the disk' is full: writes wait"));
	fake_hold(true);
	fake_await_in_flight(1);
	return fd;
}

static void test_a_write_that_is_tried_again_is_answered_once_there_is_room(void **state)
{
	int fd;

	(void)state;
	fd = start_with_a_write_that_is_tried();
	fake_full(false);
	fake_hold(false);
	check_reply(fd, 0);
	while (sem_wait(&server.warned) < 0)
		;
	assert_non_null(strstr(server.warning, "has room again"));
	close(fd);
	assert_int_equal(stop(), 0);
}

static void test_the_end_answers_a_write_that_is_tried_again(void **state)
{
	int fd;

	(void)state;
	fd = start_with_a_write_that_is_tried();
	kill(getpid(), SIGTERM);
	while (access(server.path, F_OK) == 0)
		usleep(1000); /* it has begun to end */
	fake_hold(false);
	check_no_space(fd);
	check_closed(fd);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	assert_int_equal(server.result, 0);
}

static void test_a_client_may_go_while_its_write_is_tried_again(void **state)
{
	int other;
	int fd;

	(void)state;
	fd = start_with_a_write_that_is_tried();
	other = connect_client();
	close(fd);
	request(other, NBD_CMD_WRITE, 4096, 4096);
	fake_await_in_flight(2);
	fake_hold(false);
	fake_await_in_flight(0);
	fake_full(false);
	check_reply(other, 0);
	close(other);
	assert_int_equal(stop(), 0);
}

#define SERVER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(test_clients_that_do_not_read_take_no_depth_from_others),
		SERVER_TEST(test_who_keeps_others_waiting_for_memory_is_let_go),
		SERVER_TEST(test_who_sends_half_a_write_is_let_go_when_others_wait),
		SERVER_TEST(test_who_waits_for_the_disk_alone_is_not_let_go),
		SERVER_TEST(test_the_end_comes_although_the_library_never_answers),
		SERVER_TEST(test_the_end_waits_for_a_library_that_answers_late),
		SERVER_TEST(test_a_write_that_is_tried_again_is_answered_once_there_is_room),
		SERVER_TEST(test_the_end_answers_a_write_that_is_tried_again),
		SERVER_TEST(test_a_client_may_go_while_its_write_is_tried_again),
	};

	ox_serve_block_signals();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
