/* SPDX-License-Identifier: MIT */
#include "cli/keeper/fronts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/vhost/record.h"

/* How long no connection is taken in where there was no room for one. */
#define AGAIN_MS 1000
/* Packets of one worker at a time: others have their turn too. */
#define PACKETS_A_TURN 64
/* More than the kernel keeps of one that is dead. One that only says that it has ended may go on
 * sending. */
#define LAST_PACKETS 4096

void ox_fronts_init(struct ox_fronts *fronts)
{
	*fronts = (struct ox_fronts){.memory = -1, .socket = -1};
}

int ox_fronts_make(struct ox_fronts *fronts)
{
	int fd = ox_vhost_record_make();

	if (fd < 0)
		return fd;
	fronts->memory = fd;
	return 0;
}

static void drop(struct ox_front *front, unsigned slot)
{
	if (front->fds[slot] >= 0)
		close(front->fds[slot]);
	front->fds[slot] = -1;
}

static void let_go(struct ox_front *front)
{
	for (unsigned slot = 0; front->number > 0 && slot < OX_PARK_SLOTS; slot++)
		drop(front, slot);
	if (front->number > 0)
		close(front->connection);
	free(front->fds);
	*front = (struct ox_front){0};
}

void ox_fronts_forget(struct ox_fronts *fronts)
{
	for (unsigned i = 0; i < OX_PARK_FRONTS; i++)
		let_go(&fronts->fronts[i]);
}

void ox_fronts_free(struct ox_fronts *fronts)
{
	ox_fronts_forget(fronts);
	if (fronts->socket >= 0)
		close(fronts->socket);
	if (fronts->memory >= 0)
		close(fronts->memory);
	ox_fronts_init(fronts);
}

/* Its worker finds that the front end has hung up, and lets it go. */
static void lose(struct ox_front *front)
{
	front->is_lost = true;
	(void)shutdown(front->connection, SHUT_RDWR);
}

/* ---- to a worker ---- */

static int tell_came(const struct ox_fronts *fronts, unsigned index)
{
	const struct ox_front *front = &fronts->fronts[index];
	struct ox_park_packet packet = {
		.kind = OX_PARK_CAME,
		.front = index,
		.number = front->number,
		.fd_count = 1,
		.fds = {front->connection},
	};

	return ox_park_send(fronts->socket, &packet, false);
}

static int send_slots(const struct ox_fronts *fronts, struct ox_park_packet *packet)
{
	int ret = packet->slot_count > 0 ? ox_park_send(fronts->socket, packet, false) : 0;

	packet->slot_count = packet->fd_count = 0;
	return ret;
}

static int tell_slots(const struct ox_fronts *fronts, unsigned index)
{
	const struct ox_front *front = &fronts->fronts[index];
	struct ox_park_packet packet = {.kind = OX_PARK_SLOTS_ARE, .front = index};
	int ret = 0;

	for (unsigned slot = 0; slot < OX_PARK_SLOTS && ret == 0; slot++) {
		if (front->fds[slot] < 0)
			continue;
		packet.slots[packet.slot_count++] = (uint16_t)slot;
		packet.fds[packet.fd_count++] = front->fds[slot];
		if (packet.slot_count == OX_PARK_FDS)
			ret = send_slots(fronts, &packet);
	}
	return ret < 0 ? ret : send_slots(fronts, &packet);
}

static int tell_all(const struct ox_fronts *fronts)
{
	const struct ox_park_packet record = {.kind = OX_PARK_RECORD,
					      .number = fronts->word,
					      .fd_count = 1,
					      .fds = {fronts->memory}};
	const struct ox_park_packet all = {.kind = OX_PARK_ALL};
	int ret = ox_park_send(fronts->socket, &record, false);

	for (unsigned i = 0; i < OX_PARK_FRONTS && ret == 0; i++) {
		if (fronts->fronts[i].number == 0)
			continue;
		ret = tell_came(fronts, i);
		if (ret == 0)
			ret = tell_slots(fronts, i);
	}
	return ret < 0 ? ret : ox_park_send(fronts->socket, &all, false);
}

int ox_fronts_begin(struct ox_fronts *fronts)
{
	int ends[2];
	int ret;

	ox_fronts_end(fronts);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	fronts->socket = ends[0];
	ret = tell_all(fronts);
	if (ret == 0)
		return ends[1];
	close(ends[1]);
	return ret;
}

/* ---- from a worker ---- */

static int put(struct ox_front *front, struct ox_park_packet *packet)
{
	if (packet->fd_count != packet->slot_count)
		return -EBADMSG;
	for (unsigned i = 0; i < packet->slot_count; i++)
		if (front->fds[packet->slots[i]] >= 0)
			return -EBADMSG;
	while (packet->fd_count > 0) {
		const unsigned i = --packet->fd_count;

		drop(front, packet->slots[i]); /* one that is named twice */
		front->fds[packet->slots[i]] = packet->fds[i];
	}
	return 0;
}

static void attach(struct msghdr *msg, void *control, size_t bytes, int fd)
{
	struct cmsghdr *c = control;

	memset(control, 0, bytes);
	msg->msg_control = control;
	msg->msg_controllen = bytes;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
}

/* Once. A front end that does not read its replies is none. */
static int reply(struct ox_front *front, struct ox_park_packet *packet)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {packet->bytes, packet->byte_count};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (packet->slot_count > 1 || packet->byte_count == 0 ||
	    (packet->slot_count == 1 && front->fds[packet->slots[0]] < 0))
		return -EBADMSG;
	if (packet->number <= front->replied)
		return 0;
	front->replied = packet->number;
	if (packet->slot_count == 1)
		attach(&msg, &control, sizeof(control), front->fds[packet->slots[0]]);
	do {
		sent = sendmsg(front->connection, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent != (ssize_t)packet->byte_count)
		lose(front);
	return 0;
}

/* Its worker waits for the answer. */
static int mark(struct ox_fronts *fronts)
{
	const int ret = fronts->mark(fronts->opaque);
	const struct ox_park_packet packet = {.kind = OX_PARK_MARKED, .number = (uint64_t)-ret};

	int told;

	if (ret == 0)
		fronts->word |= OX_PARK_IS_MARKED;
	told = ox_park_send(fronts->socket, &packet, false);
	return told == -EPIPE || told == -ECONNRESET ? 0 : told; /* it has died over it */
}

static int take(struct ox_fronts *fronts, struct ox_park_packet *packet)
{
	struct ox_front *front = &fronts->fronts[packet->front];

	if (packet->kind == OX_PARK_MARK)
		return packet->fd_count == 0 ? mark(fronts) : -EBADMSG;

	if (front->number == 0 || (packet->fd_count > 0 && packet->kind != OX_PARK_PUT))
		return -EBADMSG;
	if (packet->kind == OX_PARK_GONE) {
		let_go(front);
		return 0;
	}
	if (front->is_lost)
		return 0;
	switch (packet->kind) {
	case OX_PARK_PUT:
		return put(front, packet);
	case OX_PARK_DROP:
		for (unsigned i = 0; i < packet->slot_count; i++)
			drop(front, packet->slots[i]);
		return 0;
	case OX_PARK_REPLY:
		return reply(front, packet);
	default:
		return -EBADMSG;
	}
}

/* One packet, as ox_park_receive. */
static int hear(struct ox_fronts *fronts)
{
	static struct ox_park_packet packet;
	int ret = ox_park_receive(fronts->socket, false, &packet);

	/* What the front end rests on cannot be held. */
	if (ret == -EMFILE && fronts->fronts[packet.front].number > 0) {
		lose(&fronts->fronts[packet.front]);
		return 1;
	}
	if (ret == 1 && take(fronts, &packet) < 0)
		ret = -EBADMSG;
	ox_park_close_fds(&packet);
	return ret;
}

static void hang_up(struct ox_fronts *fronts)
{
	close(fronts->socket);
	fronts->socket = -1;
}

int ox_fronts_hear(struct ox_fronts *fronts)
{
	int ret = 1;

	for (unsigned i = 0; i < PACKETS_A_TURN && ret == 1; i++)
		ret = hear(fronts);
	if (ret == 1 || ret == -EAGAIN)
		return 0;
	/* It ends; or says nothing any more that anybody could believe. */
	hang_up(fronts);
	return ret == 0 ? 0 : -EBADMSG;
}

void ox_fronts_end(struct ox_fronts *fronts)
{
	/* It may have given its end to somebody who lives, and would talk for ever. */
	if (fronts->socket >= 0)
		(void)shutdown(fronts->socket, SHUT_RD);
	for (unsigned i = 0; i < LAST_PACKETS && fronts->socket >= 0; i++)
		if (hear(fronts) != 1)
			break;
	if (fronts->socket >= 0)
		hang_up(fronts);
}

/* ---- connections ---- */

static struct ox_front *find_free(struct ox_fronts *fronts)
{
	for (unsigned i = 0; i < OX_PARK_FRONTS; i++)
		if (fronts->fronts[i].number == 0)
			return &fronts->fronts[i];
	return NULL;
}

bool ox_fronts_may_accept(const struct ox_fronts *fronts, int64_t now_ms)
{
	bool has_room = false;

	for (unsigned i = 0; i < OX_PARK_FRONTS; i++)
		has_room = has_room || fronts->fronts[i].number == 0;
	return fronts->socket >= 0 && has_room && now_ms >= fronts->again_ms;
}

int ox_fronts_accept(struct ox_fronts *fronts, int listener, int64_t now_ms)
{
	struct ox_front *front = find_free(fronts);
	int *fds = front ? malloc(OX_PARK_SLOTS * sizeof(*fds)) : NULL;
	int fd = fds ? accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;

	if (fd < 0) {
		if (!fds || errno != EAGAIN)
			fronts->again_ms = now_ms + AGAIN_MS;
		free(fds);
		return 0;
	}
	for (unsigned slot = 0; slot < OX_PARK_SLOTS; slot++)
		fds[slot] = -1;
	*front = (struct ox_front){
		.number = ++fronts->connections,
		.connection = fd,
		.fds = fds,
	};
	return tell_came(fronts, (unsigned)(front - fronts->fronts));
}
