/* SPDX-License-Identifier: MIT */
/* A front end whose server dies before or after any of its system calls: no reply is missing or
 * comes twice, each request is answered once, and no descriptor is left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/keeper/fronts.h"
#include "fake_guest.h"
#include "fake_library.h"
#include "serve/vhost/session.h"

#define RING_SIZE 16u
#define WAIT_SECONDS 30
#define STATUS_AT (GUEST_FREE + 64)
#define DATA_AT (GUEST_FREE + 512)

static struct ox_fronts fronts; /* the keeper's */
static int listener;
static struct sockaddr_un address;
static socklen_t address_bytes;

static struct {
	pid_t pid;
	bool is_traced;
	unsigned stops;
} server;
static unsigned dies_at; /* which stop; 0: at none */

static struct {
	int socket;
	int kick;
	int call;
	int inflight;
	struct fake_guest guest;
} front;

/* ---- a server ---- */

static int on_ready(void *opaque, const char *uri, const char *vhost_path)
{
	(void)opaque;
	(void)uri;
	(void)vhost_path;
	return 0;
}

static void on_warning(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
}

static int make_mark(void *opaque)
{
	(void)opaque;
	return 0;
}

static _Noreturn void serve(int keeper, bool is_traced)
{
	int stop[2];
	struct ox_serve_handed handed = {
		.vhost_keeper = keeper, .vhost_listener = -1, .was_killed = true};
	const struct ox_serve_options options = {
		.vhost = {.path = "", .queues = 1, .queue_size = RING_SIZE, .block_bytes = 512},
		.handed = &handed,
		.ready = on_ready,
		.warn = on_warning,
	};
	struct ox_serve_error error;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(front.socket); /* which was inherited: nobody else would hang up */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, stop) < 0)
		_exit(1);
	handed.stop_fd = stop[0];
	if (is_traced && (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || raise(SIGSTOP) != 0))
		_exit(1);
	(void)!ox_serve((struct ox_context *)&server, (struct ox_image *)&server, &options, &error);
	_exit(1);
}

static void start_server(bool is_traced)
{
	const int keeper = ox_fronts_begin(&fronts);

	assert_true(keeper >= 0);
	server.is_traced = is_traced;
	server.stops = 0;
	server.pid = fork();
	assert_true(server.pid >= 0);
	if (server.pid == 0)
		serve(keeper, is_traced);
	close(keeper);
}

static void end_server(void)
{
	int code;

	kill(server.pid, SIGKILL);
	do {
		assert_int_equal(waitpid(server.pid, &code, 0), server.pid);
	} while (WIFSTOPPED(code));
	ox_fronts_end(&fronts);
}

static void trace_server(void)
{
	int code;
	const pid_t pid = waitpid(server.pid, &code, WNOHANG);

	if (pid == 0)
		return;
	assert_int_equal(pid, server.pid);
	assert_true(WIFSTOPPED(code)); /* it does not end by itself */
	if (++server.stops == dies_at) {
		end_server();
		start_server(false);
		return;
	}
	assert_int_equal(ptrace(PTRACE_SYSCALL, pid, NULL,
				WSTOPSIG(code) == SIGTRAP || WSTOPSIG(code) == SIGSTOP
					? 0L
					: (long)WSTOPSIG(code)),
			 0);
}

/* The keeper and the server go on. */
static void pump(void)
{
	if (server.is_traced)
		trace_server();
	assert_int_equal(ox_fronts_hear(&fronts), 0);
	if (ox_fronts_may_accept(&fronts, 0))
		assert_int_equal(ox_fronts_accept(&fronts, listener, 0), 0);
	fronts.again_ms = 0;
	sched_yield();
}

/* ---- the front end ---- */

static void tell(uint32_t request, uint32_t flags, const void *payload, uint32_t bytes,
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
	assert_int_equal(sendmsg(front.socket, &msg, MSG_NOSIGNAL), sizeof(header) + bytes);
}

/* The next reply, which must be to this request. Its descriptor, or -1. */
static int hear(uint32_t request, void *payload, size_t bytes)
{
	const time_t deadline = time(NULL) + WAIT_SECONDS;
	uint8_t reply[OX_VHOST_HEADER_BYTES + 64];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov = {reply, OX_VHOST_HEADER_BYTES + bytes};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	struct ox_vhost_header header;
	ssize_t got;
	int fd = -1;

	while ((got = recvmsg(front.socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
		assert_int_equal(errno, EAGAIN);
		assert_true(time(NULL) < deadline);
		pump();
	}
	assert_int_equal(got, iov.iov_len);
	memcpy(&header, reply, sizeof(header));
	assert_int_equal(header.request, request);
	assert_int_equal(header.bytes, bytes);
	memcpy(payload, reply + sizeof(header), bytes);
	if (CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return fd;
}

/* Sends what is acknowledged, and hears that. */
static void have(uint32_t request, const void *payload, uint32_t bytes, const int *fds,
		 unsigned fd_count)
{
	uint64_t refused;

	tell(request, OX_VHOST_NEED_REPLY, payload, bytes, fds, fd_count);
	assert_int_equal(hear(request, &refused, sizeof(refused)), -1);
	assert_int_equal(refused, 0);
}

static void have64(uint32_t request, uint64_t value, const int *fd)
{
	have(request, &value, sizeof(value), fd, fd ? 1 : 0);
}

static void have_ring(uint32_t request, uint32_t value)
{
	const uint32_t payload[2] = {0, value};

	have(request, payload, sizeof(payload), NULL, 0);
}

static void negotiate(void)
{
	const uint64_t protocol = OX_VHOST_PROTOCOL_REPLY_ACK | OX_VHOST_PROTOCOL_INFLIGHT_SHMFD;
	uint64_t features;

	tell(OX_VHOST_GET_FEATURES, 0, NULL, 0, NULL, 0);
	assert_int_equal(hear(OX_VHOST_GET_FEATURES, &features, sizeof(features)), -1);
	assert_true(features & OX_VHOST_F_PROTOCOL_FEATURES);
	tell(OX_VHOST_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), NULL, 0);
	have64(OX_VHOST_SET_FEATURES,
	       OX_VIRTIO_F_VERSION_1 | OX_VIRTIO_BLK_F_FLUSH | OX_VHOST_F_PROTOCOL_FEATURES, NULL);
}

static void share_inflight(void)
{
	uint8_t payload[24] = {0};

	payload[16] = 1;
	payload[18] = RING_SIZE;
	tell(OX_VHOST_GET_INFLIGHT_FD, 0, payload, sizeof(payload), NULL, 0);
	front.inflight = hear(OX_VHOST_GET_INFLIGHT_FD, payload, sizeof(payload));
	assert_true(front.inflight >= 0);
	have(OX_VHOST_SET_INFLIGHT_FD, payload, sizeof(payload), &front.inflight, 1);
}

static void share_memory(void)
{
	uint8_t table[8 + 2 * sizeof(struct ox_vhost_region)] = {2};

	memcpy(table + 8, guest_regions(), 2 * sizeof(struct ox_vhost_region));
	have(OX_VHOST_SET_MEM_TABLE, table, sizeof(table), front.guest.fds, 2);
}

static void start_ring(void)
{
	const struct ox_vhost_ring_setup setup = guest_setup(&front.guest);
	const uint64_t addresses[5] = {0, setup.descriptors, setup.used, setup.available, 0};

	have_ring(OX_VHOST_SET_VRING_NUM, RING_SIZE);
	have(OX_VHOST_SET_VRING_ADDR, addresses, sizeof(addresses), NULL, 0);
	have_ring(OX_VHOST_SET_VRING_BASE, 0);
	have64(OX_VHOST_SET_VRING_CALL, 0, &front.call);
	have64(OX_VHOST_SET_VRING_KICK, 0, &front.kick);
	have_ring(OX_VHOST_SET_VRING_ENABLE, 1);
}

/* A read, whose data a made up library knows. */
static void request(uint16_t number)
{
	const time_t deadline = time(NULL) + WAIT_SECONDS;

	memset(guest_at(&front.guest, GUEST_FREE), 0, 16);
	*(uint8_t *)guest_at(&front.guest, STATUS_AT) = 0xaa;
	memset(guest_at(&front.guest, DATA_AT), 0, 512);
	guest_describe(&front.guest, 0, GUEST_FREE, 16, GUEST_NEXT, 1);
	guest_describe(&front.guest, 1, DATA_AT, 512, GUEST_NEXT | GUEST_WRITE, 2);
	guest_describe(&front.guest, 2, STATUS_AT, 1, GUEST_WRITE, 0);
	guest_offer(&front.guest, 0);
	assert_int_equal(eventfd_write(front.kick, 1), 0);
	while (*guest_used_index(&front.guest) != number) {
		assert_true(time(NULL) < deadline);
		pump();
	}
	assert_int_equal(*(uint8_t *)guest_at(&front.guest, STATUS_AT), 0);
	assert_int_equal(*(uint8_t *)guest_at(&front.guest, DATA_AT + 511), 0xab);
}

static void stop_ring(uint32_t base)
{
	uint32_t state[2] = {0, 0};

	tell(OX_VHOST_GET_VRING_BASE, 0, state, sizeof(state), NULL, 0);
	assert_int_equal(hear(OX_VHOST_GET_VRING_BASE, state, sizeof(state)), -1);
	assert_int_equal(state[1], base);
}

/* ---- a life ---- */

static unsigned count_held(void)
{
	unsigned count = 0;

	for (unsigned slot = 0; slot < OX_PARK_SLOTS; slot++)
		count += fronts.fronts[0].fds[slot] >= 0;
	return count;
}

static void await_held(unsigned count)
{
	const time_t deadline = time(NULL) + WAIT_SECONDS;

	while (count_held() != count) {
		assert_true(time(NULL) < deadline);
		pump();
	}
}

static void connect_front(void)
{
	guest_init(&front.guest, RING_SIZE);
	front.inflight = -1;
	front.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	front.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	front.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(front.socket, (struct sockaddr *)&address, address_bytes), 0);
}

static void disconnect_front(void)
{
	const time_t deadline = time(NULL) + WAIT_SECONDS;
	char byte;

	assert_int_equal(recv(front.socket, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN); /* no reply came twice */
	close(front.socket);
	while (fronts.fronts[0].number > 0) {
		assert_true(time(NULL) < deadline);
		pump();
	}
	close(front.kick);
	close(front.call);
	if (front.inflight >= 0)
		close(front.inflight);
	guest_free(&front.guest);
}

/* With or without an inflight region. Returns how often the server stopped that did not die. */
static unsigned live(bool has_inflight, unsigned death)
{
	unsigned stops;

	dies_at = death;
	start_server(true);
	connect_front();
	negotiate();
	if (has_inflight)
		share_inflight();
	share_memory();
	start_ring();
	request(1);
	request(2);
	stop_ring(2);
	/* It begins anew. */
	have64(OX_VHOST_SET_VRING_KICK, 0, &front.kick);
	request(3);
	stop_ring(3);
	stops = server.is_traced ? server.stops : 0;
	/* Two regions, the call, our inflight region, and theirs: all else is dropped. */
	await_held(has_inflight ? 5 : 4);
	disconnect_front();
	end_server();
	return stops;
}

/* At each third stop, before or after a system call, and at others in each test. */
static void die_everywhere(bool has_inflight)
{
	const unsigned stops = live(has_inflight, 0);

	assert_true(stops > 100);
	for (unsigned death = has_inflight ? 1 : 2; death < stops; death += 3)
		(void)live(has_inflight, death);
}

static void a_front_end_with_an_inflight_region_notices_no_death(void **state)
{
	(void)state;
	die_everywhere(true);
}

static void a_front_end_without_one_notices_none_either(void **state)
{
	(void)state;
	die_everywhere(false);
}

static int setup(void **state)
{
	(void)state;
	ox_fronts_init(&fronts);
	assert_int_equal(ox_fronts_make(&fronts), 0);
	fronts.mark = make_mark;
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	address = (struct sockaddr_un){.sun_family = AF_UNIX}; /* the kernel finds a name */
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address.sun_family)),
			 0);
	address_bytes = sizeof(address);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &address_bytes), 0);
	assert_int_equal(listen(listener, 8), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_fronts_free(&fronts);
	close(listener);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_front_end_with_an_inflight_region_notices_no_death, setup, teardown),
		cmocka_unit_test_setup_teardown(a_front_end_without_one_notices_none_either, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
