/* SPDX-License-Identifier: MIT */
#include "cli/mount/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "serve/nbd/nbd_proto.h"

/* What a server may say beside its refusal. */
#define REFUSAL_MAX 4096u
#define HANDSHAKE_FLAGS (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
#define CLIENT_FLAGS_BYTES 4u

struct process {
	const struct ox_relay *relay;
	int far;
	int plain;
	int64_t until_ms; /* by then TLS is there */
	uint16_t flags;	  /* of the server's greeting, those that the worker is told */
};

static int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int fail(const struct ox_relay *relay, int code, const char *format, ...)
	OX_CLI_PRINTF(3, 4);

static int fail(const struct ox_relay *relay, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(relay->said, OX_RELAY_SAID_MAX, format, args);
	va_end(args);
	return code;
}

/* ---- credentials ---- */

static int read_credentials(const struct ox_relay *relay, struct ox_tls_client **ret,
			    struct ox_serve_error *ret_error)
{
	const struct ox_tls_client_options options = {
		.certificates = relay->tls->certificates,
		.psk_file = relay->tls->psk_file,
		.username = relay->tls->username,
		.hostname = relay->tls->hostname,
		.is_unverified = relay->tls->is_unverified,
	};

	return ox_tls_client_new(&options, ret, ret_error);
}

int ox_relay_prepare(const struct ox_relay *relay)
{
	struct ox_serve_error error = {0};
	struct ox_tls_client *client = NULL;
	int ret = ox_serve_tls_prepare(&error);

	if (ret == 0)
		ret = read_credentials(relay, &client, &error);
	if (ret < 0)
		ox_cli_error("%s", error.message);
	ox_tls_client_free(client);
	return ret;
}

/* ---- before TLS ---- */

static int await(const struct process *p, int fd, short events)
{
	struct pollfd polled = {.fd = fd, .events = events};
	const int64_t left_ms = p->until_ms - now_ms();

	if (left_ms <= 0)
		return -ETIMEDOUT;
	if (poll(&polled, 1, (int)(left_ms < 60000 ? left_ms : 60000)) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

static int receive(const struct process *p, int fd, uint8_t *bytes, size_t count)
{
	while (count > 0) {
		const ssize_t got = recv(fd, bytes, count, MSG_DONTWAIT);
		int ret;

		if (got == 0)
			return -ECONNRESET;
		if (got > 0) {
			bytes += got;
			count -= (size_t)got;
			continue;
		}
		ret = errno == EAGAIN || errno == EINTR ? await(p, fd, POLLIN) : -errno;
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* So little that a fresh socket has room for it. */
static int tell(int fd, const uint8_t *bytes, size_t count)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, count};
	const struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	const ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

	return sent < 0 ? -errno : (size_t)sent == count ? 0 : -EIO;
}

static int take_greeting(struct process *p)
{
	uint8_t hello[NBD_HELLO_BYTES];
	int ret = receive(p, p->far, hello, sizeof(hello));

	if (ret < 0)
		return ret;
	if (ox_nbd_get64(hello) != NBD_HELLO_MAGIC)
		return fail(p->relay, -EPROTO, "it is no NBD server");
	p->flags = ox_nbd_get16(hello + 16) & HANDSHAKE_FLAGS;
	if (ox_nbd_get64(hello + 8) != NBD_OPTION_MAGIC || !(p->flags & NBD_FLAG_FIXED_NEWSTYLE))
		return fail(p->relay, -EPROTO, "it is too old a server for TLS");
	return 0;
}

/* Nothing but the answer is taken in: what follows it in the clear would be taken for TLS, and is
 * none. */
static int take_answer(struct process *p)
{
	uint8_t reply[NBD_OPTION_REPLY_BYTES];
	uint8_t words[REFUSAL_MAX];
	uint32_t kind;
	uint32_t length;
	int ret = receive(p, p->far, reply, sizeof(reply));

	if (ret < 0)
		return ret;
	kind = ox_nbd_get32(reply + 12);
	length = ox_nbd_get32(reply + 16);
	if (ox_nbd_get64(reply) != NBD_OPTION_REPLY_MAGIC ||
	    ox_nbd_get32(reply + 8) != NBD_OPT_STARTTLS || length > sizeof(words))
		return fail(p->relay, -EPROTO, "its answers make no sense");
	if (kind == NBD_REP_ACK && length == 0)
		return 0;
	return fail(p->relay, -EPROTO, "it offers no TLS");
}

static int ask_for_tls(struct process *p)
{
	uint8_t bytes[CLIENT_FLAGS_BYTES + NBD_OPTION_BYTES];
	uint8_t *at = bytes;
	int ret = take_greeting(p);

	if (ret < 0)
		return ret;
	at = ox_nbd_put32(at, p->flags);
	at = ox_nbd_put64(at, NBD_OPTION_MAGIC);
	at = ox_nbd_put32(at, NBD_OPT_STARTTLS);
	(void)ox_nbd_put32(at, 0);
	ret = tell(p->far, bytes, sizeof(bytes));
	return ret < 0 ? ret : take_answer(p);
}

static int shake_hands(struct process *p, struct ox_tls_session *session)
{
	char why[OX_RELAY_SAID_MAX / 2];
	int ret;

	while ((ret = ox_tls_shake_hands(session)) == -EAGAIN) {
		ret = await(p, p->far, ox_tls_waits_to_send(session) ? POLLOUT : POLLIN);
		if (ret < 0)
			return ret;
	}
	if (ret == 0)
		return 0;
	ox_tls_client_why(session, why, sizeof(why));
	return fail(p->relay, ret, "TLS: %s", why);
}

/* ---- the worker ---- */

/* As the server greeted, which has had its answer already: the same one must come. */
static int greet_worker(struct process *p)
{
	uint8_t hello[NBD_HELLO_BYTES];
	uint8_t flags[CLIENT_FLAGS_BYTES];
	uint8_t *at = ox_nbd_put64(hello, NBD_HELLO_MAGIC);
	int ret;

	at = ox_nbd_put64(at, NBD_OPTION_MAGIC);
	(void)ox_nbd_put16(at, p->flags);
	ret = tell(p->plain, hello, sizeof(hello));
	if (ret == 0)
		ret = receive(p, p->plain, flags, sizeof(flags));
	return ret == 0 && ox_nbd_get32(flags) != p->flags ? -EPROTO : ret;
}

/* To a client the handshake is over before the server has judged its certificate. Some servers then
 * say what is wrong, and of others the reset of the connection is faster than what they say. */
static void tell_end(struct process *p)
{
	(void)fail(p->relay, 0,
		   "TLS: it ended the connection right after the handshake, as one does "
		   "that refuses this client's credentials");
}

/* ---- the process ---- */

static void warn_nobody(void *opaque, const char *message)
{
	(void)opaque;
	(void)message; /* the worker says the same of its own */
}

static int enter_sandbox(const struct ox_relay *relay)
{
	const struct ox_sandbox sandbox = {
		.calls = OX_SANDBOX_WORKER,
		.user = relay->user,
		.keeper = getppid(),
		.warn = warn_nobody,
	};

	ox_sandbox_begin(&sandbox);
	return ox_sandbox_enter(&sandbox);
}

/* 0: TLS is there. */
static int begin(struct process *p, struct ox_tls_session **ret_session)
{
	struct ox_serve_error error = {0};
	struct ox_tls_client *client;
	const int on = 1;
	int ret = read_credentials(p->relay, &client, &error);

	if (ret < 0)
		return fail(p->relay, -ENOKEY, "%s", error.message);
	(void)setsockopt(p->far, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	ret = enter_sandbox(p->relay);
	if (ret == 0)
		ret = ask_for_tls(p);
	if (ret == 0)
		ret = ox_tls_client_begin(client, p->far, ret_session);
	if (ret == 0)
		ret = shake_hands(p, *ret_session);
	if (ret < 0 && !*p->relay->said)
		(void)fail(p->relay, ret, "TLS is not reached");
	return ret;
}

static void run(struct process *p, int told)
{
	struct ox_tls_session *session = NULL;
	const int32_t result = begin(p, &session);

	if (write(told, &result, sizeof(result)) != (ssize_t)sizeof(result) || result < 0)
		return;
	close(told);
	p->until_ms = INT64_MAX; /* the worker's own deadline holds */
	if (greet_worker(p) < 0)
		return;
	if (ox_cli_mount_pump(session, p->far, p->plain))
		tell_end(p);
}

/* ---- the connector ---- */

static int hear(int told, unsigned limit_ms)
{
	struct pollfd polled = {.fd = told, .events = POLLIN};
	int32_t result;
	const int ready = poll(&polled, 1, limit_ms < INT32_MAX ? (int)limit_ms : INT32_MAX);

	if (ready == 0)
		return -ETIMEDOUT;
	if (ready < 0 || read(told, &result, sizeof(result)) != (ssize_t)sizeof(result) ||
	    result > 0)
		return -EIO;
	return result;
}

static int open_ends(int ret_plain[2], int ret_told[2])
{
	int ret;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_plain) < 0)
		return -errno;
	if (pipe2(ret_told, O_CLOEXEC) == 0)
		return 0;
	ret = -errno;
	close(ret_plain[0]);
	close(ret_plain[1]);
	return ret;
}

int ox_relay_start(const struct ox_relay *relay, int far, int other, unsigned limit_ms)
{
	int plain[2];
	int told[2];
	int ret = open_ends(plain, told);
	pid_t child;

	if (ret < 0)
		return ret;
	child = fork();
	if (child == 0) {
		struct process p = {
			.relay = relay,
			.far = far,
			.plain = plain[1],
			.until_ms = now_ms() + limit_ms,
		};

		(void)prctl(PR_SET_NAME, "oxbow-tls");
		(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* it will have keys */
		close(other);
		close(plain[0]);
		close(told[0]);
		run(&p, told[1]);
		_exit(0);
	}
	ret = child < 0 ? -errno : 0;
	close(plain[1]);
	close(told[1]);
	if (ret == 0)
		ret = hear(told[0], limit_ms);
	close(told[0]);
	if (ret == 0)
		return plain[0];
	close(plain[0]);
	return ret;
}
