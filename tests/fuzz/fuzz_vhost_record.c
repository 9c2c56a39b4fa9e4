/* SPDX-License-Identifier: MIT */
/*
 * Changes what a dead server has recorded of a front end, and has the next one go on with it, which
 * has the descriptors that it needs. Whatever the record says, it goes on, or lets the front end
 * go.
 *
 * The input is changes: the place in the record in 16 bits, a count of bytes in 8, and these bytes.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oxbow.h"
#include "serve/loop.h"
#include "serve/vhost/inflight.h"
#include "serve/vhost/record.h"
#include "serve/vhost/session.h"

#define MEMORY_BYTES 0x10000u
#define USER UINT64_C(0x10000000)
#define AVAILABLE 0x800u
#define USED 0xa00u
#define RING_SIZE 64u
#define QUEUES 2u
#define TURNS 4
#define EVENTS 16
#define NUMBER 1u /* of the connection */

enum slot { MEMORY, KICK, CALL, OWN, THEIRS, LOG, CHANNEL, SLOTS };

static int files[SLOTS];
static uint8_t *memory;
static char library; /* calls of which are all that it stands for */
static int keeper[2];
static int connection[2];

static void ignore(void *opaque, const char *message)
{
	(void)opaque;
	(void)message;
}

static void make_files(void)
{
	int pair[2];
	int ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);

	files[MEMORY] = memfd_create("guest", MFD_CLOEXEC);
	files[KICK] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	files[CALL] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	files[OWN] = ox_vhost_inflight_make(QUEUES, RING_SIZE);
	files[THEIRS] = ox_vhost_inflight_make(QUEUES, RING_SIZE);
	files[LOG] = memfd_create("log", MFD_CLOEXEC);
	files[CHANNEL] = pair[0];
	ret |= ftruncate(files[MEMORY], MEMORY_BYTES) | ftruncate(files[LOG], 4096);
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, files[MEMORY], 0);
	assert(ret == 0 && memory != MAP_FAILED);
}

/* A read of a sector, and a flush, as a driver leaves them. */
static void prepare_memory(void)
{
	static const struct {
		uint64_t address;
		uint32_t bytes;
		uint16_t flags;
		uint16_t next;
	} descriptors[] = {
		{0x1000, 16, 1, 1}, {0x2000, 512, 3, 2}, {0x1100, 1, 2, 0},
		{0x1010, 16, 1, 4}, {0x1101, 1, 2, 0},
	};
	static const uint16_t available[] = {0, 2, 0, 3};

	memset(memory, 0, MEMORY_BYTES);
	memcpy(memory, descriptors, sizeof(descriptors));
	memcpy(memory + AVAILABLE, available, sizeof(available));
	memory[0x1010] = 4;
}

/* A session whose ring runs. */
static void record_session(int fd)
{
	static struct ox_vhost_state state;
	struct ox_vhost_record *record;
	int ret = ox_vhost_record_open(fd, &record);

	assert(ret == 0);
	state = (struct ox_vhost_state){
		.features = OX_VIRTIO_F_VERSION_1,
		.protocol_features = OX_VHOST_PROTOCOL_REPLY_ACK,
		.flags = OX_VHOST_STATE_HAS_FEATURES,
		.wce = OX_VHOST_WCE_UNSET,
		.channel = OX_PARK_NO_SLOT,
		.own_inflight = OWN,
		.inflight.slot = OX_PARK_NO_SLOT,
		.log.slot = OX_PARK_NO_SLOT,
		.ring_count = QUEUES,
		.region_count = 1,
		.reply.slot = OX_PARK_NO_SLOT,
		.regions = {{.is = {0, MEMORY_BYTES, USER, 0}, .slot = MEMORY}},
	};
	for (unsigned i = 0; i < QUEUES; i++)
		state.rings[i].kick = state.rings[i].call = state.rings[i].error = OX_PARK_NO_SLOT;
	state.rings[0] = (struct ox_vhost_state_ring){
		.descriptors = USER,
		.available = USER + AVAILABLE,
		.used = USER + USED,
		.size = RING_SIZE,
		.flags = OX_VHOST_RING_HAS_ADDRESSES | OX_VHOST_RING_IS_STARTED |
			 OX_VHOST_RING_IS_ENABLED | OX_VHOST_RING_RUNS,
		.kick = KICK,
		.call = CALL,
		.error = OX_PARK_NO_SLOT,
	};
	ox_vhost_record_begin(record, 0, NUMBER, &state);
	ox_vhost_record_close(record);
}

static void change(int fd, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		const size_t at = (size_t)(data[0] | data[1] << 8);
		const size_t left = size - 3;
		const size_t count = data[2] < left ? data[2] : left;
		ssize_t put = pwrite(fd, data + 3, count, (off_t)at);

		assert(put == (ssize_t)count);
		data += 3 + count;
		size = left - count;
	}
}

static void tell(const struct ox_park_packet *packet)
{
	int ret = ox_park_send(keeper[0], packet, true);

	assert(ret == 0);
	(void)ret;
}

/* As a keeper does. */
static void hand_over(int record)
{
	struct ox_park_packet slots = {.kind = OX_PARK_SLOTS_ARE};

	tell(&(struct ox_park_packet){.kind = OX_PARK_RECORD, .fd_count = 1, .fds = {record}});
	tell(&(struct ox_park_packet){
		.kind = OX_PARK_CAME, .number = NUMBER, .fd_count = 1, .fds = {connection[1]}});
	for (unsigned i = 0; i < SLOTS; i++) {
		slots.slots[slots.slot_count++] = (uint16_t)i;
		slots.fds[slots.fd_count++] = files[i];
	}
	tell(&slots);
	tell(&(struct ox_park_packet){.kind = OX_PARK_ALL});
}

static void hear(void)
{
	struct ox_park_packet packet;

	while (ox_park_receive(keeper[0], false, &packet) == 1)
		ox_park_close_fds(&packet);
}

static void turn(struct ox_serve_loop *loop, struct ox_serve_part *part)
{
	struct epoll_event events[EVENTS];
	const int count = epoll_wait(loop->epoll_fd, events, EVENTS, 0);

	for (int i = 0; i < count; i++) {
		struct ox_watched *watched = events[i].data.ptr;

		watched->event(watched, events[i].events);
	}
	part->ops->serve(part);
	while (part->ops->reap(part))
		part->ops->serve(part);
	part->ops->settle(part);
	hear();
}

static void serve(void)
{
	const struct ox_serve_handed handed = {
		.vhost_listener = -1, .vhost_keeper = keeper[1], .stop_fd = -1};
	const struct ox_serve_options options = {
		.vhost = {.path = "",
			  .queues = QUEUES,
			  .queue_size = RING_SIZE,
			  .block_bytes = 512},
		.handed = &handed,
		.warn = ignore,
	};
	struct ox_serve_loop loop = {
		.options = &options,
		.ctx = (struct ox_context *)(void *)&library,
		.image = (struct ox_image *)(void *)&library,
		.epoll_fd = epoll_create1(EPOLL_CLOEXEC),
	};
	struct ox_serve_error error;
	struct ox_serve_part *part;
	const char *path;
	int ret = ox_vhost_server_new(&loop, &part, &path, &error);

	assert(ret == 0);
	(void)ret;
	for (int i = 0; i < TURNS; i++)
		turn(&loop, part);
	part->ops->drain(part);
	while (!part->ops->is_over(part))
		turn(&loop, part);
	part->ops->free(part, false);
	close(loop.epoll_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int record = ox_vhost_record_make();
	int ret;

	if (!memory)
		make_files();
	prepare_memory();
	ret = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, keeper) |
	      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, connection);
	assert(ret == 0 && record >= 0);
	(void)ret;
	record_session(record);
	change(record, data, size);
	hand_over(record);
	serve();
	close(record);
	close(keeper[0]);
	close(connection[0]);
	close(connection[1]);
	return 0;
}
