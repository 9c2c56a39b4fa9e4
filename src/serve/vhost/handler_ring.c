/* SPDX-License-Identifier: MIT */
#include "serve/vhost/handler.h"

#include <unistd.h>

#define RING_INDEX_MASK 0xffu
#define RING_LOGS 1u

static enum ox_vhost_verdict set_vring_num(struct ox_vhost_session *session,
					   struct ox_vhost_message *message)
{
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, ox_vhost_get32(message, 0));
	const uint32_t size = ox_vhost_get32(message, 4);

	if (vring && size > session->blk.queue_size)
		ox_serve_warn(session->device->loop,
			      "front end %u wants a queue of %u entries: %u are allowed "
			      "(--queue-size)",
			      session->number, (unsigned)size, session->blk.queue_size);
	if (!vring || size == 0 || size > session->blk.queue_size || (size & (size - 1)) != 0)
		return OX_VHOST_REFUSED;
	if (size == vring->setup.size)
		return OX_VHOST_DONE;
	if (!ox_vhost_vring_stop(vring))
		return OX_VHOST_WAIT;
	vring->setup.size = size;
	return ox_vhost_session_start(session);
}

/* QEMU sends it anew to a ring that runs. */
static enum ox_vhost_verdict set_vring_addr(struct ox_vhost_session *session,
					    struct ox_vhost_message *message)
{
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, ox_vhost_get32(message, 0));
	const uint64_t descriptors = ox_vhost_get64(message, 8);
	const uint64_t used = ox_vhost_get64(message, 16);
	const uint64_t available = ox_vhost_get64(message, 24);

	if (!vring)
		return OX_VHOST_REFUSED;
	vring->logs_used = ox_vhost_get32(message, 4) & RING_LOGS;
	vring->log_address = ox_vhost_get64(message, 32);
	ox_vhost_session_set_log(session);
	if (vring->has_addresses && vring->setup.descriptors == descriptors &&
	    vring->setup.used == used && vring->setup.available == available)
		return OX_VHOST_DONE;
	if (!ox_vhost_vring_stop(vring))
		return OX_VHOST_WAIT;
	vring->setup.descriptors = descriptors;
	vring->setup.used = used;
	vring->setup.available = available;
	vring->has_addresses = true;
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict set_vring_base(struct ox_vhost_session *session,
					    struct ox_vhost_message *message)
{
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, ox_vhost_get32(message, 0));
	const uint32_t base = ox_vhost_get32(message, 4);

	if (!vring || base > UINT16_MAX)
		return OX_VHOST_REFUSED;
	if (!ox_vhost_vring_stop(vring))
		return OX_VHOST_WAIT;
	ox_vhost_ring_set_base(vring->ring, (uint16_t)base);
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict get_vring_base(struct ox_vhost_session *session,
					    struct ox_vhost_message *message)
{
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, ox_vhost_get32(message, 0));
	uint32_t state[2];

	if (!vring)
		return OX_VHOST_REFUSED;
	if (!ox_vhost_vring_stop(vring))
		return OX_VHOST_WAIT;
	vring->started = false;
	if (ox_vhost_vring_set_kick(vring, -1, OX_PARK_NO_SLOT) < 0)
		return OX_VHOST_REFUSED;
	state[0] = vring->setup.index;
	state[1] = ox_vhost_ring_stop(vring->ring);
	ox_vhost_session_reply(session, state, sizeof(state), -1);
	return OX_VHOST_REPLIED;
}

/* A descriptor for one of a ring's places; none where the front end says so. */
static enum ox_vhost_verdict
set_vring_fd(struct ox_vhost_session *session, struct ox_vhost_message *message,
	     int (*set)(struct ox_vhost_vring *vring, int fd, uint16_t slot))
{
	const uint64_t word = ox_vhost_get64(message, 0);
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, word & RING_INDEX_MASK);
	int fd = -1;

	if (!vring || (!(word & OX_VHOST_RING_NO_FD) && message->fd_count != 1))
		return OX_VHOST_REFUSED;
	if (!(word & OX_VHOST_RING_NO_FD))
		fd = ox_vhost_take_fd(message);
	if (set(vring, fd, message->slots[0]) == 0)
		return OX_VHOST_DONE;
	if (fd >= 0)
		close(fd);
	return OX_VHOST_REFUSED;
}

static enum ox_vhost_verdict set_vring_kick(struct ox_vhost_session *session,
					    struct ox_vhost_message *message)
{
	const enum ox_vhost_verdict verdict =
		set_vring_fd(session, message, ox_vhost_vring_set_kick);

	if (verdict != OX_VHOST_DONE)
		return verdict;
	ox_vhost_session_vring(session, ox_vhost_get64(message, 0) & RING_INDEX_MASK)->started =
		true;
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict set_vring_call(struct ox_vhost_session *session,
					    struct ox_vhost_message *message)
{
	return set_vring_fd(session, message, ox_vhost_vring_set_call);
}

static enum ox_vhost_verdict set_vring_err(struct ox_vhost_session *session,
					   struct ox_vhost_message *message)
{
	return set_vring_fd(session, message, ox_vhost_vring_set_error);
}

static enum ox_vhost_verdict set_vring_enable(struct ox_vhost_session *session,
					      struct ox_vhost_message *message)
{
	struct ox_vhost_vring *vring = ox_vhost_session_vring(session, ox_vhost_get32(message, 0));
	const uint32_t enable = ox_vhost_get32(message, 4);

	if (!vring || enable > 1)
		return OX_VHOST_REFUSED;
	/* For libkrun this alone is the reset. */
	if (enable == 0 && !ox_vhost_vring_stop(vring))
		return OX_VHOST_WAIT;
	vring->enabled = enable == 1;
	return ox_vhost_session_start(session);
}

const struct ox_vhost_handler ox_vhost_ring_handlers[] = {
	{OX_VHOST_SET_VRING_NUM, set_vring_num, 8, false},
	{OX_VHOST_SET_VRING_ADDR, set_vring_addr, 40, false},
	{OX_VHOST_SET_VRING_BASE, set_vring_base, 8, false},
	{OX_VHOST_GET_VRING_BASE, get_vring_base, 8, true},
	{OX_VHOST_SET_VRING_KICK, set_vring_kick, 8, false},
	{OX_VHOST_SET_VRING_CALL, set_vring_call, 8, false},
	{OX_VHOST_SET_VRING_ERR, set_vring_err, 8, false},
	{OX_VHOST_SET_VRING_ENABLE, set_vring_enable, 8, false},
	{0, NULL, 0, false},
};
