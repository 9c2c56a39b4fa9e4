/* SPDX-License-Identifier: MIT */
#include "vhost_client.h"

#include <err.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- what the device sees (virtio 1.2, 2.7 and 5.2.6); little-endian hosts alone ---- */

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define SECTOR_BYTES 512u

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags;
	uint16_t next;
};

struct slot {
	struct descriptor table[3]; /* the request's indirect one */
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
	uint8_t status;
};

struct client_shared {
	struct descriptor descriptors[CLIENT_RING_SIZE] __attribute__((aligned(4096)));
	struct {
		uint16_t flags;
		uint16_t index;
		uint16_t ring[CLIENT_RING_SIZE];
		uint16_t used_event;
	} avail __attribute__((aligned(64)));
	struct {
		uint16_t flags;
		uint16_t index;
		struct {
			uint32_t head;
			uint32_t bytes;
		} ring[CLIENT_RING_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(4096)));
	struct slot slots[CLIENT_RING_SIZE] __attribute__((aligned(64)));
	uint8_t blocks[CLIENT_RING_SIZE][CLIENT_BLOCK_BYTES] __attribute__((aligned(4096)));
};

/* ---- messages ---- */

enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
	GET_INFLIGHT_FD = 31,
	SET_INFLIGHT_FD = 32,
};

#define VERSION 1u
#define NEED_REPLY 8u
#define PROTOCOL_MQ (UINT64_C(1) << 0)
#define PROTOCOL_REPLY_ACK (UINT64_C(1) << 3)
#define PROTOCOL_CONFIG (UINT64_C(1) << 9)
#define PROTOCOL_INFLIGHT (UINT64_C(1) << 12)

#define F_FLUSH (UINT64_C(1) << 9)
#define F_CONFIG_WCE (UINT64_C(1) << 11)
#define F_MQ (UINT64_C(1) << 12)
#define F_INDIRECT (UINT64_C(1) << 28)
#define F_EVENT_IDX (UINT64_C(1) << 29)
#define F_PROTOCOL (UINT64_C(1) << 30)
#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_NEEDED (F_INDIRECT | F_EVENT_IDX | F_PROTOCOL | F_VERSION_1)

#define CONFIG_BYTES 60u
/* A server that answers nothing for so long hangs. */
#define WAIT_MS 30000

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t bytes;
	union {
		uint64_t number;
		struct {
			uint32_t index;
			uint32_t number;
		} ring;
		struct {
			uint32_t index;
			uint32_t flags;
			uint64_t descriptors;
			uint64_t used;
			uint64_t available;
			uint64_t log;
		} address;
		struct {
			uint32_t count;
			uint32_t padding;
			uint64_t guest_address;
			uint64_t bytes;
			uint64_t user_address;
			uint64_t offset;
		} memory;
		struct {
			uint32_t offset;
			uint32_t bytes;
			uint32_t flags;
			uint8_t data[CONFIG_BYTES];
		} config;
		struct {
			uint64_t bytes;
			uint64_t offset;
			uint16_t queues;
			uint16_t size;
		} __attribute__((packed)) inflight;
	} __attribute__((packed));
} __attribute__((packed));

#define HEAD_BYTES 12u

/* Reads so many bytes of the answer, and a descriptor if one comes with them. */
static void receive_part(struct client *client, void *to, size_t bytes, int *fd)
{
	while (bytes > 0) {
		char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
		struct iovec iov = {to, bytes};
		struct msghdr header = {.msg_iov = &iov,
					.msg_iovlen = 1,
					.msg_control = control,
					.msg_controllen = sizeof(control)};
		ssize_t count = recvmsg(client->socket, &header, MSG_CMSG_CLOEXEC);
		struct cmsghdr *rights = count > 0 ? CMSG_FIRSTHDR(&header) : NULL;

		if (count <= 0)
			err(1, "the server has hung up");
		if (rights)
			memcpy(fd, CMSG_DATA(rights), sizeof(*fd));
		to = (char *)to + count;
		bytes -= (size_t)count;
	}
}

static int receive(struct client *client, struct message *message)
{
	const uint32_t request = message->request;
	int fd = -1;

	receive_part(client, message, HEAD_BYTES, &fd);
	if (message->request != request || message->bytes > sizeof(*message) - HEAD_BYTES)
		errx(1, "message %u is answered by %u with %u bytes", request, message->request,
		     message->bytes);
	receive_part(client, (char *)message + HEAD_BYTES, message->bytes, &fd);
	return fd;
}

static void send_message(struct client *client, struct message *message, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {message, HEAD_BYTES + message->bytes};
	struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};

	message->flags |= VERSION;
	if (fd >= 0) {
		struct cmsghdr *rights = (struct cmsghdr *)(void *)control;

		*rights = (struct cmsghdr){CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
		header.msg_control = control;
		header.msg_controllen = sizeof(control);
	}
	if (sendmsg(client->socket, &header, 0) != (ssize_t)iov.iov_len)
		err(1, "message %u", message->request);
}

/* One that has an answer of its own, in its place. Returns the descriptor that came with it, or -1.
 */
static int ask(struct client *client, struct message *message)
{
	send_message(client, message, -1);
	return receive(client, message);
}

static uint64_t ask_number(struct client *client, uint32_t request)
{
	struct message message = {.request = request};

	(void)ask(client, &message);
	return message.number;
}

/* One that has no answer of its own. */
static void tell(struct client *client, struct message *message, int fd)
{
	const uint32_t request = message->request;

	if (client->protocol & PROTOCOL_REPLY_ACK)
		message->flags = NEED_REPLY;
	send_message(client, message, fd);
	if (!(client->protocol & PROTOCOL_REPLY_ACK))
		return;
	(void)receive(client, message);
	if (message->number != 0)
		errx(1, "message %u is refused", request);
}

static void tell_number(struct client *client, uint32_t request, uint64_t number, int fd)
{
	struct message message = {.request = request, .bytes = sizeof(number), .number = number};

	tell(client, &message, fd);
}

static void tell_ring(struct client *client, uint32_t request, unsigned index, uint32_t number)
{
	struct message message = {
		.request = request, .bytes = sizeof(message.ring), .ring = {index, number}};

	tell(client, &message, -1);
}

/* ---- connecting ---- */

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		errx(1, "%s: the path is too long", path);
	memcpy(address.sun_path, path, strlen(path));
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		err(1, "%s", path);
	return fd;
}

static void negotiate(struct client *client, unsigned queues)
{
	struct message config = {.request = GET_CONFIG,
				 .bytes = sizeof(config.config),
				 .config.bytes = CONFIG_BYTES};
	const uint64_t offered = ask_number(client, GET_FEATURES);
	struct message owner = {.request = SET_OWNER};
	uint64_t protocol;

	if ((offered & F_NEEDED) != F_NEEDED)
		errx(1, "the server does not offer what is needed: %#llx",
		     (unsigned long long)offered);
	protocol = ask_number(client, GET_PROTOCOL_FEATURES) &
		   (PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG | PROTOCOL_INFLIGHT);
	tell_number(client, SET_PROTOCOL_FEATURES, protocol, -1);
	client->protocol = protocol;
	tell(client, &owner, -1);
	if (ask_number(client, GET_QUEUE_NUM) < queues)
		errx(1, "the server has fewer queues");
	client->features = offered & (F_NEEDED | F_FLUSH | F_CONFIG_WCE | F_MQ);
	tell_number(client, SET_FEATURES, client->features, -1);
	(void)ask(client, &config);
	memcpy(&client->capacity_bytes, config.config.data, sizeof(client->capacity_bytes));
	client->capacity_bytes *= SECTOR_BYTES;
}

/* As QEMU does, wherever it is offered. */
static void share_inflight(struct client *client)
{
	struct message message = {
		.request = GET_INFLIGHT_FD,
		.bytes = sizeof(message.inflight),
		.inflight = {0, 0, (uint16_t)client->queue_count, CLIENT_RING_SIZE}};
	int fd;

	if (!(client->protocol & PROTOCOL_INFLIGHT))
		return;
	fd = ask(client, &message);
	if (fd < 0)
		errx(1, "no memory comes for what is in flight");
	message.request = SET_INFLIGHT_FD;
	tell(client, &message, fd);
	close(fd);
}

/* A guest's addresses are our own. */
static void share_memory(struct client *client)
{
	const size_t bytes = client->queue_count * sizeof(struct client_shared);
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct client_shared *shared = MAP_FAILED;
	struct message message = {.request = SET_MEM_TABLE, .bytes = sizeof(message.memory)};

	if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
		shared =
			mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (shared == MAP_FAILED)
		err(1, "the guest's memory");
	for (unsigned i = 0; i < client->queue_count; i++)
		client->queues[i].shared = &shared[i];
	message.memory.count = 1;
	message.memory.guest_address = message.memory.user_address = (uintptr_t)shared;
	message.memory.bytes = bytes;
	tell(client, &message, fd);
	close(fd);
}

static int make_event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		err(1, "eventfd");
	return fd;
}

static void start_queue(struct client *client, unsigned index)
{
	struct client_queue *queue = &client->queues[index];
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct message address = {.request = SET_VRING_ADDR,
				  .bytes = sizeof(address.address),
				  .address = {.index = index,
					      .descriptors = (uintptr_t)queue->shared->descriptors,
					      .used = (uintptr_t)&queue->shared->used,
					      .available = (uintptr_t)&queue->shared->avail}};

	queue->kick_fd = make_event();
	queue->call_fd = make_event();
	if (epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, queue->call_fd, &event) < 0)
		err(1, "epoll");
	tell_ring(client, SET_VRING_NUM, index, CLIENT_RING_SIZE);
	tell_ring(client, SET_VRING_BASE, index, 0);
	tell(client, &address, -1);
	tell_number(client, SET_VRING_CALL, index, queue->call_fd);
	tell_number(client, SET_VRING_KICK, index, queue->kick_fd);
	tell_ring(client, SET_VRING_ENABLE, index, 1);
}

void client_connect(struct client *client, const char *path, unsigned queues)
{
	*client = (struct client){.socket = connect_to(path), .queue_count = queues};
	client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (client->epoll_fd < 0)
		err(1, "epoll");
	negotiate(client, queues);
	share_inflight(client);
	share_memory(client);
	for (unsigned i = 0; i < queues; i++)
		start_queue(client, i);
}

void client_disconnect(struct client *client)
{
	for (unsigned i = 0; i < client->queue_count; i++) {
		struct message base = {
			.request = GET_VRING_BASE, .bytes = sizeof(base.ring), .ring.index = i};

		(void)ask(client, &base);
		close(client->queues[i].kick_fd);
		close(client->queues[i].call_fd);
	}
	munmap(client->queues[0].shared, client->queue_count * sizeof(struct client_shared));
	close(client->epoll_fd);
	close(client->socket);
}

/* ---- the driver ---- */

void *client_block(struct client_queue *queue, unsigned slot)
{
	return queue->shared->blocks[slot];
}

static struct descriptor describe(const void *place, uint32_t bytes, unsigned flags, uint16_t next)
{
	return (struct descriptor){(uintptr_t)place, bytes, (uint16_t)flags, next};
}

void client_put(struct client_queue *queue, unsigned slot, enum client_op op, uint64_t offset_bytes)
{
	struct client_shared *shared = queue->shared;
	struct slot *s = &shared->slots[slot];
	const unsigned to_guest = op == CLIENT_READ ? DESC_WRITE : 0;

	s->type = op;
	s->sector = offset_bytes / SECTOR_BYTES;
	s->status = UINT8_MAX;
	s->table[0] = describe(&s->type, 16, DESC_NEXT, 1);
	s->table[1] = describe(shared->blocks[slot], CLIENT_BLOCK_BYTES, DESC_NEXT | to_guest, 2);
	s->table[2] = describe(&s->status, 1, DESC_WRITE, 0);
	shared->descriptors[slot] = describe(s->table, sizeof(s->table), DESC_INDIRECT, 0);
	shared->avail.ring[queue->avail_index++ % CLIENT_RING_SIZE] = (uint16_t)slot;
}

void client_push(struct client_queue *queue)
{
	const uint16_t before = queue->pushed_index;
	const uint64_t one = 1;
	uint16_t event;

	if (before == queue->avail_index)
		return;
	__atomic_store_n(&queue->shared->avail.index, queue->avail_index, __ATOMIC_RELEASE);
	queue->pushed_index = queue->avail_index;
	/* The device asks for a kick and then looks at the index; we the other way round. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n(&queue->shared->used.avail_event, __ATOMIC_RELAXED);
	if ((uint16_t)(queue->avail_index - event - 1) >= (uint16_t)(queue->avail_index - before))
		return;
	queue->kicks++;
	if (write(queue->kick_fd, &one, sizeof(one)) != sizeof(one))
		err(1, "kick");
}

static bool is_answered(const struct client_queue *queue)
{
	return __atomic_load_n(&queue->shared->used.index, __ATOMIC_ACQUIRE) != queue->used_index;
}

int client_take(struct client_queue *queue)
{
	struct client_shared *shared = queue->shared;
	unsigned slot;

	if (!is_answered(queue))
		return -1;
	slot = shared->used.ring[queue->used_index++ % CLIENT_RING_SIZE].head;
	if (slot >= CLIENT_RING_SIZE || shared->slots[slot].status != 0)
		errx(1, "request %u ended with status %u", slot,
		     slot < CLIENT_RING_SIZE ? shared->slots[slot].status : 0);
	return (int)slot;
}

/* Asks for an interrupt at the next answer. True: it is there already. */
static bool listen_to(struct client_queue *queue)
{
	__atomic_store_n(&queue->shared->avail.used_event, queue->used_index, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return is_answered(queue);
}

void client_wait(struct client *client)
{
	struct epoll_event events[CLIENT_QUEUES_MAX];

	for (unsigned i = 0; i < client->queue_count; i++)
		if (listen_to(&client->queues[i]))
			return;
	client->wakes++;
	if (epoll_wait(client->epoll_fd, events, CLIENT_QUEUES_MAX, WAIT_MS) <= 0)
		errx(1, "no request was answered for %d ms", WAIT_MS);
}
