/* SPDX-License-Identifier: MIT */
/* The sockets of a server: who gets a name, and what an address means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "serve/listen/listen.h"

#define RIVALS 8

static const struct ox_serve_socket_rights by_umask;

static char directory[64];
static char path[96];

static int setup(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/oxbow-test-XXXXXX");
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/nbd.sock", directory);
	assert_int_equal(chdir(directory), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(rmdir(directory), 0);
	return 0;
}

/* ---- unix ---- */

struct rival {
	pthread_t thread;
	pthread_barrier_t *barrier;
	struct ox_listeners listeners;
	struct ox_serve_error error;
	int result;
};

static void *compete(void *arg)
{
	struct rival *rival = arg;

	pthread_barrier_wait(rival->barrier);
	rival->result = ox_listen(path, &by_umask, &rival->listeners, &rival->error);
	return NULL;
}

static void check_one_wins(void)
{
	struct rival rivals[RIVALS] = {0};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	pthread_barrier_t barrier;
	struct rival *winner = NULL;
	int fd;

	pthread_barrier_init(&barrier, NULL, RIVALS);
	for (unsigned i = 0; i < RIVALS; i++) {
		rivals[i].barrier = &barrier;
		pthread_create(&rivals[i].thread, NULL, compete, &rivals[i]);
	}
	for (unsigned i = 0; i < RIVALS; i++)
		pthread_join(rivals[i].thread, NULL);
	for (unsigned i = 0; i < RIVALS; i++) {
		if (rivals[i].result == 0) {
			assert_null(winner);
			winner = &rivals[i];
		} else {
			assert_int_equal(rivals[i].result, -EADDRINUSE);
		}
	}
	assert_non_null(winner);
	/* and the name leads to the one that won */
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	fd = accept(winner->listeners.fds[0], NULL, NULL);
	assert_true(fd >= 0);
	close(fd);
	ox_listeners_close(&winner->listeners);
	assert_int_equal(access(path, F_OK), -1);
	pthread_barrier_destroy(&barrier);
}

static void test_of_servers_started_at_once_exactly_one_gets_the_name(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 200; i++)
		check_one_wins();
}

static void leave_stale_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

static void test_exactly_one_replaces_a_stale_socket(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		leave_stale_socket();
		check_one_wins();
	}
}

/* Binds, and listens only when it has been looked at. */
static void *listen_late(void *arg)
{
	usleep(20000);
	assert_int_equal(listen(*(int *)arg, 1), 0);
	return NULL;
}

static void test_a_server_that_does_not_listen_yet_is_not_stale(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ox_listeners listeners;
	struct ox_serve_error error;
	pthread_t thread;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)state;
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	pthread_create(&thread, NULL, listen_late, &fd);
	assert_int_equal(ox_listen(path, &by_umask, &listeners, &error), -EADDRINUSE);
	pthread_join(thread, NULL);
	close(fd);
	unlink(path);
}

/* ---- what an address means ---- */

static void check_refused(const char *address, const char *words)
{
	struct ox_listeners listeners;
	struct ox_serve_error error = {0};

	assert_true(ox_listen(address, &by_umask, &listeners, &error) < 0);
	if (!strstr(error.message, words))
		fail_msg("'%s' is refused with '%s'", address, error.message);
}

static void test_what_is_meant_for_tcp_makes_no_socket_file(void **state)
{
	(void)state;
	check_refused("10809", "say :10809 for TCP, or ./10809");
	check_refused("localhost", "say localhost:10809 for TCP, or ./localhost");
	check_refused("127.0.0.1", "say 127.0.0.1:10809 for TCP");
	check_refused("*", "say *:10809 for TCP");
	check_refused("", "1 to");
}

static void test_a_port_is_a_number_of_sixteen_bits(void **state)
{
	(void)state;
	check_refused("127.0.0.1:65536", "0 to 65535");
	check_refused("127.0.0.1:76345", "0 to 65535");
	check_refused("127.0.0.1:4294967297", "0 to 65535");
	check_refused("127.0.0.1:", "0 to 65535");
	check_refused("127.0.0.1:-1", "0 to 65535");
	check_refused("127.0.0.1:0x10", "0 to 65535");
	check_refused("[::1]:99999", "0 to 65535");
	check_refused("[::1:10809", "[ADDRESS]:PORT");
	check_refused("::1:10809", "[ADDRESS]:PORT");
}

static bool is_loopback(const struct sockaddr_storage *address)
{
	const struct sockaddr_in *in = (const void *)address;
	const struct sockaddr_in6 *in6 = (const void *)address;

	if (address->ss_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

/* Where the address listens: only on the loopback, or only elsewhere. */
static void check_listens(const char *address, bool loopback, const char *uri_start)
{
	struct ox_listeners listeners = {0};
	const struct ox_serve_nbd_options no_tls = {.address = address};
	const struct ox_serve_nbd_options tls = {.tls = {.is_required = true}};
	const struct ox_serve_nbd_options insecure = {.is_insecure = true};
	struct ox_serve_error error = {0};
	char *uri;

	assert_int_equal(ox_listen(address, &by_umask, &listeners, &error), 0);
	assert_true(listeners.count > 0);
	for (int i = 0; i < listeners.count; i++) {
		struct sockaddr_storage bound = {0};
		socklen_t length = sizeof(bound);

		getsockname(listeners.fds[i], (struct sockaddr *)&bound, &length);
		assert_int_equal(is_loopback(&bound), loopback);
	}
	assert_int_equal(ox_listen_check(&listeners, &no_tls, &error), loopback ? 0 : -EACCES);
	assert_int_equal(ox_listen_check(&listeners, &tls, &error), 0);
	assert_int_equal(ox_listen_check(&listeners, &insecure, &error), 0);
	uri = ox_listeners_uri(&listeners, "", false);
	if (strncmp(uri, uri_start, strlen(uri_start)) != 0)
		fail_msg("the URI of '%s' is %s", address, uri);
	free(uri);
	ox_listeners_close(&listeners);
}

static void test_nothing_listens_to_the_world_that_was_not_told_to(void **state)
{
	(void)state;
	check_listens(":0", true, "nbd://127.0.0.1:");
	check_listens("localhost:0", true, "nbd://localhost:");
	check_listens("127.0.0.1:0", true, "nbd://127.0.0.1:");
	check_listens("*:0", false, "nbd://0.0.0.0:");
	check_listens("0.0.0.0:0", false, "nbd://0.0.0.0:");
}

static void test_any_word_that_means_nothing_to_tcp_is_a_path(void **state)
{
	struct ox_listeners listeners = {0};
	struct ox_serve_error error = {0};
	static const char *const words[] = {"disk.sock", "my socket", "./10809", "unix:localhost"};

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		assert_int_equal(ox_listen(words[i], &by_umask, &listeners, &error), 0);
		assert_true(listeners.is_unix);
		ox_listeners_close(&listeners);
	}
}

#define LISTEN_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LISTEN_TEST(test_of_servers_started_at_once_exactly_one_gets_the_name),
		LISTEN_TEST(test_exactly_one_replaces_a_stale_socket),
		LISTEN_TEST(test_a_server_that_does_not_listen_yet_is_not_stale),
		LISTEN_TEST(test_what_is_meant_for_tcp_makes_no_socket_file),
		LISTEN_TEST(test_a_port_is_a_number_of_sixteen_bits),
		LISTEN_TEST(test_nothing_listens_to_the_world_that_was_not_told_to),
		LISTEN_TEST(test_any_word_that_means_nothing_to_tcp_is_a_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
