/* SPDX-License-Identifier: MIT */
/* What a relay passes on, between a socket in the clear and a session of TLS that is made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/mount/relay.h"

#define SAID_BYTES ((size_t)2 << 20)

/* A server that has said something, and is gone. */
struct ox_tls_session {
	size_t left;
	bool is_over;
};

static int far[2];
static int plain[2];
static size_t heard;

bool ox_tls_waits_to_send(const struct ox_tls_session *session)
{
	(void)session;
	return false;
}

ssize_t ox_tls_receive(struct ox_tls_session *session, void *bytes, size_t count)
{
	const size_t part = session->left < count ? session->left : count;

	memset(bytes, 7, part);
	session->left -= part;
	return (ssize_t)part;
}

ssize_t ox_tls_send(struct ox_tls_session *session, const struct iovec *iov, int count)
{
	(void)session;
	(void)iov;
	(void)count;
	return -EPIPE;
}

void ox_tls_say_goodbye(struct ox_tls_session *session)
{
	session->is_over = true;
}

/* All that is on its way to the worker. */
static void hear(void)
{
	static uint8_t bytes[64 << 10];
	ssize_t got;

	while ((got = recv(plain[1], bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		heard += (size_t)got;
}

int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);

/* The pump waits: for the worker, which then hears what was said. */
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	assert_int_equal(__real_poll(fds, count, 0), 0);
	hear();
	return __real_poll(fds, count, timeout_ms);
}

static void open_sockets(void)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, far), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, plain), 0);
	heard = 0;
}

static void test_a_server_that_is_gone_is_waited_for_without_turning_round(void **state)
{
	struct ox_tls_session session = {.left = SAID_BYTES};

	(void)state;
	open_sockets();
	close(far[1]);
	assert_false(ox_cli_mount_pump(&session, far[0], plain[0]));
	hear();
	assert_int_equal(heard, SAID_BYTES);
	assert_true(session.is_over);
	close(far[0]);
	close(plain[0]);
	close(plain[1]);
}

static void test_a_server_that_has_said_nothing_is_told_apart(void **state)
{
	struct ox_tls_session session = {.left = 0};

	(void)state;
	open_sockets();
	close(far[1]);
	assert_true(ox_cli_mount_pump(&session, far[0], plain[0]));
	close(far[0]);
	close(plain[0]);
	close(plain[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_server_that_is_gone_is_waited_for_without_turning_round),
		cmocka_unit_test(test_a_server_that_has_said_nothing_is_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
