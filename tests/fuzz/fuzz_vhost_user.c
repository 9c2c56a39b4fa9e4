/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes a session of vhost-user: messages with descriptors over a socket, the server's part of the
 * loop, and a ring in guest memory that is ready to be served. The input is a list of
 *
 *   0     what is asked for; from 64 on the payload is sent as it is, header or not. Of the world
 *         around, and no message: 63, the disk has another size, so many times 64 MiB as the
 * payload has bytes; 62 and 61, with an odd number of them, the host has no room, or nothing is due
 * by the disk's limits, and with an even number they are as before 1     1: a reply is wanted; 2:
 * the library answers nothing in this turn; 4: the driver kicks; from 8 on (this / 8) % 10
 * descriptors go along 2     which of them comes first 3     how many bytes of payload follow 4 ...
 * the payload
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/fake_library.h"
#include "serve/loop.h"
#include "serve/vhost/message.h"

#define MEMORY_BYTES 0x10000u
#define FILES 5u
#define FDS_MAX 10u
#define AVAILABLE 0x800u
#define EVENTS 16
#define LAST_TURNS 64
#define RESIZE 63
#define FULL 62
#define LIMIT 61

enum with {
	WANT_REPLY = 1,
	HOLD = 2,
	KICK = 4,
};

static struct ox_serve_loop loop;
static struct ox_serve_options options;
static struct ox_serve_handed handed;
static struct ox_serve_part *part;
static struct sockaddr_un address;
static socklen_t address_bytes;
static int files[FILES]; /* guest memory, kick, call, a log, a socket */
static uint8_t *memory;

static void ignore(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
}

static void begin(void)
{
	static const int context;
	const char *path;
	struct ox_serve_error error;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int pair[2];
	int ret;

	address.sun_family = AF_UNIX; /* the kernel finds a name */
	ret = bind(fd, (struct sockaddr *)&address, sizeof(address.sun_family));
	address_bytes = sizeof(address);
	ret |= getsockname(fd, (struct sockaddr *)&address, &address_bytes) | listen(fd, 8);
	files[0] = memfd_create("guest", MFD_CLOEXEC);
	files[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	files[2] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	files[3] = memfd_create("log", MFD_CLOEXEC);
	ret |= ftruncate(files[0], MEMORY_BYTES) | ftruncate(files[3], 4096);
	ret |= socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
	files[4] = pair[0];
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, files[0], 0);
	assert(ret == 0 && memory != MAP_FAILED);
	handed = (struct ox_serve_handed){.vhost_listener = fd, .vhost_keeper = -1, .stop_fd = -1};
	options = (struct ox_serve_options){
		.vhost = {.path = "", .queues = 2, .queue_size = 64, .block_bytes = 512},
		.on_full = OX_SERVE_FULL_PAUSE,
		.file_fd = -1,
		.handed = &handed,
		.warn = ignore,
	};
	loop = (struct ox_serve_loop){
		.options = &options,
		.ctx = (struct ox_context *)(uintptr_t)&context,
		.image = (struct ox_image *)(uintptr_t)&context,
		.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
		.full.pauses = true,
	};
	ret = ox_vhost_server_new(&loop, &part, &path, &error);
	assert(ret == 0);
}

static void turn(void)
{
	struct epoll_event events[EVENTS];
	const int count = epoll_wait(loop.epoll_fd, events, EVENTS, 0);

	for (int i = 0; i < count; i++) {
		struct ox_watched *watched = events[i].data.ptr;

		watched->event(watched, events[i].events);
	}
	ox_limit_release(&loop.limit, ox_serve_now_ns());
	ox_full_resume(&loop.full);
	ox_full_try(&loop.full, ox_serve_now_ms());
	part->ops->serve(part);
	while (part->ops->reap(part))
		part->ops->serve(part);
	part->ops->settle(part);
}

/* Nothing is due for an hour, or nothing is limited. */
static void limit(bool crawls)
{
	const struct ox_serve_limits limits = {.bandwidth = crawls};

	ox_serve_limits_set(&loop, &limits);
	ox_limit_charge(&loop.limit, 0, 3600);
}

/* What the record says of the world around; false: it is a message. */
static bool is_of_the_world(const uint8_t *record, size_t bytes)
{
	switch (record[0]) {
	case RESIZE:
		fake_resize(bytes * FAKE_DISK_BYTES);
		return true;
	case FULL:
		fake_full(bytes & 1);
		return true;
	case LIMIT:
		limit(bytes & 1);
		return true;
	default:
		return false;
	}
}

/* A read of a sector, a flush, a write of a sector, and a discard of two ranges, as a driver leaves
 * them. */
static void prepare_memory(void)
{
	static const struct {
		uint64_t address;
		uint32_t bytes;
		uint16_t flags;
		uint16_t next;
	} descriptors[] = {
		{0x1000, 16, 1, 1}, {0x2000, 512, 3, 2}, {0x1100, 1, 2, 0},   {0x1010, 16, 1, 4},
		{0x1101, 1, 2, 0},  {0x1020, 16, 1, 6},	 {0x2200, 512, 1, 7}, {0x1102, 1, 2, 0},
		{0x1030, 16, 1, 9}, {0x3000, 32, 1, 10}, {0x1103, 1, 2, 0},
	};
	static const struct {
		uint64_t sector;
		uint32_t sectors;
		uint32_t flags;
	} ranges[] = {{0, 1u << 17, 0}, {8, 1u << 22, 0}};
	static const uint16_t available[] = {0, 4, 0, 3, 5, 8};

	memset(memory, 0, MEMORY_BYTES);
	memcpy(memory, descriptors, sizeof(descriptors));
	memcpy(memory + AVAILABLE, available, sizeof(available));
	memory[0x1010] = 4;
	memory[0x1020] = 1;
	memory[0x1030] = 11;
	memcpy(memory + 0x3000, ranges, sizeof(ranges));
}

static void send_message(int fd, const uint8_t *record, const uint8_t *payload, size_t bytes)
{
	struct ox_vhost_header header = {
		record[0], OX_VHOST_VERSION | (record[1] & WANT_REPLY ? OX_VHOST_NEED_REPLY : 0),
		(uint32_t)bytes};
	union {
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov[2] = {{&header, record[0] < 64 ? sizeof(header) : 0},
			       {(void *)(uintptr_t)payload, bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	const unsigned count = record[1] / 8 % FDS_MAX;

	if (count > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.align.cmsg_len = CMSG_LEN(count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		for (unsigned i = 0; i < count; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int),
			       &files[(record[2] + i) % FILES], sizeof(int));
	}
	(void)!sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void read_replies(int fd)
{
	uint8_t bytes[2048];

	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ret;

	if (!part)
		begin();
	prepare_memory();
	fake_resize(FAKE_DISK_BYTES);
	fake_full(false);
	limit(false);
	ret = connect(fd, (struct sockaddr *)&address, address_bytes);
	assert(ret == 0);
	while (size >= 4) {
		const uint8_t *record = data;
		const size_t bytes = record[3] < size - 4 ? record[3] : size - 4;

		fake_hold(record[1] & HOLD);
		if (!is_of_the_world(record, bytes))
			send_message(fd, record, record + 4, bytes);
		if (record[1] & KICK)
			eventfd_write(files[1], 1);
		turn();
		read_replies(fd);
		data += 4 + bytes;
		size -= 4 + bytes;
	}
	close(fd);
	fake_hold(false);
	for (int i = 0; i < LAST_TURNS && (i == 0 || !part->ops->is_over(part)); i++)
		turn();
	assert(part->ops->is_over(part) && part->ops->pending(part) == 0);
	assert(loop.full.waiting == 0 && loop.full.tried == 0 && !loop.limit.first);
	return 0;
}
