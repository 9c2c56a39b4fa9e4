/* SPDX-License-Identifier: MIT */
#include "serve/vhost/handler.h"
#include "serve/vhost/keep.h"

#include <errno.h>
#include <string.h>

static const struct ox_vhost_handler *find(const struct ox_vhost_handler *handlers,
					   uint32_t request)
{
	for (; handlers->run; handlers++)
		if (handlers->request == request)
			return handlers;
	return NULL;
}

const struct ox_vhost_handler *ox_vhost_handler_find(uint32_t request)
{
	const struct ox_vhost_handler *const tables[] = {
		ox_vhost_device_handlers,
		ox_vhost_memory_handlers,
		ox_vhost_ring_handlers,
		ox_vhost_shared_handlers,
	};
	const struct ox_vhost_handler *found = NULL;

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && !found; i++)
		found = find(tables[i], request);
	return found;
}

unsigned ox_vhost_handler_fds(const struct ox_vhost_message *message)
{
	uint32_t count;

	switch (message->header.request) {
	case OX_VHOST_SET_VRING_KICK:
	case OX_VHOST_SET_VRING_CALL:
	case OX_VHOST_SET_VRING_ERR:
		return message->header.bytes >= 8 &&
				       (ox_vhost_get64(message, 0) & OX_VHOST_RING_NO_FD)
			       ? 0
			       : 1;
	case OX_VHOST_SET_MEM_TABLE:
		count = ox_vhost_get32(message, 0);
		return message->header.bytes >= 8 && count <= OX_VHOST_FDS_MAX ? count : 0;
	case OX_VHOST_ADD_MEM_REG:
	case OX_VHOST_SET_LOG_BASE:
	case OX_VHOST_SET_INFLIGHT_FD:
	case OX_VHOST_SET_BACKEND_REQ_FD:
		return 1;
	default:
		return 0;
	}
}

/* ---- payloads and replies ---- */

uint64_t ox_vhost_get64(const struct ox_vhost_message *message, size_t at)
{
	uint64_t value;

	memcpy(&value, message->payload + at, sizeof(value));
	return value;
}

uint32_t ox_vhost_get32(const struct ox_vhost_message *message, size_t at)
{
	uint32_t value;

	memcpy(&value, message->payload + at, sizeof(value));
	return value;
}

uint16_t ox_vhost_get16(const struct ox_vhost_message *message, size_t at)
{
	uint16_t value;

	memcpy(&value, message->payload + at, sizeof(value));
	return value;
}

int ox_vhost_take_fd(struct ox_vhost_message *message)
{
	int fd;

	if (message->fd_count == 0)
		return -1;
	fd = message->fds[0];
	message->fds[0] = -1;
	return fd;
}

void ox_vhost_session_reply(struct ox_vhost_session *session, const void *payload, size_t bytes,
			    int fd)
{
	const uint32_t request = session->incoming.message.header.request;
	int ret = session->keep ? ox_vhost_keep_reply(session, request, payload, bytes, fd)
				: ox_vhost_reply(session->watched.fd, request, payload, bytes, fd);

	if (ret == -EAGAIN)
		ox_vhost_session_end(session, "it does not read its replies");
	else if (ret < 0)
		ox_vhost_session_end(session, "the connection broke");
}

enum ox_vhost_verdict ox_vhost_session_reply64(struct ox_vhost_session *session, uint64_t value)
{
	ox_vhost_session_reply(session, &value, sizeof(value), -1);
	return OX_VHOST_REPLIED;
}

/* ---- the rings, all of them ---- */

/* -errno: a ring that is to run does not. */
static int start_rings(struct ox_vhost_session *session)
{
	int ret = 0;

	for (unsigned i = 0; i < session->vring_count && ret == 0; i++)
		ret = ox_vhost_vring_start(&session->vrings[i]);
	return ret;
}

enum ox_vhost_verdict ox_vhost_session_start(struct ox_vhost_session *session)
{
	return start_rings(session) < 0 ? OX_VHOST_REFUSED : OX_VHOST_DONE;
}

bool ox_vhost_session_stop(struct ox_vhost_session *session)
{
	bool stopped = true;

	for (unsigned i = 0; i < session->vring_count; i++)
		stopped = ox_vhost_vring_stop(&session->vrings[i]) && stopped;
	return stopped;
}

struct ox_vhost_vring *ox_vhost_session_vring(struct ox_vhost_session *session, uint64_t index)
{
	return index < session->vring_count ? &session->vrings[index] : NULL;
}

void ox_vhost_session_set_log(struct ox_vhost_session *session)
{
	const struct ox_vhost_dirty *dirty = session->log ? &session->log->dirty : NULL;

	session->blk.dirty = session->logs_all ? dirty : NULL;
	for (unsigned i = 0; i < session->vring_count; i++) {
		const struct ox_vhost_vring *vring = &session->vrings[i];

		ox_vhost_ring_set_dirty(vring->ring, vring->logs_used ? dirty : NULL,
					vring->log_address);
	}
}
