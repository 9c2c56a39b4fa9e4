/* SPDX-License-Identifier: MIT */
#include "serve/vhost/handler.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONFIG_HEAD_BYTES 12u
/* SET_CONFIG: a guest's change, as the specification counts and as rust-vmm does. */
#define CONFIG_FLAGS_MAX 1u

/* ---- features ---- */

static uint64_t offered(const struct ox_vhost_session *session)
{
	return ox_vhost_blk_features(&session->blk) | OX_VHOST_F_PROTOCOL_FEATURES |
	       OX_VHOST_F_LOG_ALL;
}

static enum ox_vhost_verdict get_features(struct ox_vhost_session *session,
					  struct ox_vhost_message *message)
{
	(void)message;
	return ox_vhost_session_reply64(session, offered(session));
}

static enum ox_vhost_verdict set_features(struct ox_vhost_session *session,
					  struct ox_vhost_message *message)
{
	const uint64_t features = ox_vhost_get64(message, 0) & offered(session);

	session->blk.acked = features & ~(OX_VHOST_F_PROTOCOL_FEATURES | OX_VHOST_F_LOG_ALL);
	session->logs_all = features & OX_VHOST_F_LOG_ALL;
	ox_vhost_session_set_log(session);
	session->has_features = true;
	for (unsigned i = 0; i < session->vring_count; i++)
		if (!(features & OX_VHOST_F_PROTOCOL_FEATURES))
			session->vrings[i].enabled = true;
	return ox_vhost_session_start(session);
}

static enum ox_vhost_verdict get_protocol_features(struct ox_vhost_session *session,
						   struct ox_vhost_message *message)
{
	(void)message;
	return ox_vhost_session_reply64(session, OX_VHOST_PROTOCOL_OFFERED);
}

static enum ox_vhost_verdict set_protocol_features(struct ox_vhost_session *session,
						   struct ox_vhost_message *message)
{
	session->protocol_features = ox_vhost_get64(message, 0) & OX_VHOST_PROTOCOL_OFFERED;
	return OX_VHOST_DONE;
}

/* Only a unix stream socket: whatever else can be written to could keep us waiting. */
static bool is_channel(int fd)
{
	int domain = 0;
	int type = 0;
	socklen_t length = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

static enum ox_vhost_verdict set_backend_req_fd(struct ox_vhost_session *session,
						struct ox_vhost_message *message)
{
	if (message->fd_count != 1 || !is_channel(message->fds[0]))
		return OX_VHOST_REFUSED;
	if (session->channel >= 0)
		close(session->channel);
	session->channel = ox_vhost_take_fd(message);
	session->channel_slot = message->slots[0];
	if (ox_vhost_session_runs(session))
		ox_vhost_session_tell_size(session);
	return OX_VHOST_DONE;
}

static enum ox_vhost_verdict get_queue_num(struct ox_vhost_session *session,
					   struct ox_vhost_message *message)
{
	(void)message;
	return ox_vhost_session_reply64(session, session->vring_count);
}

static enum ox_vhost_verdict set_owner(struct ox_vhost_session *session,
				       struct ox_vhost_message *message)
{
	(void)session;
	(void)message;
	return OX_VHOST_DONE;
}

/* ---- the configuration space ---- */

static enum ox_vhost_verdict get_config(struct ox_vhost_session *session,
					struct ox_vhost_message *message)
{
	uint8_t payload[OX_VHOST_PAYLOAD_MAX];
	const uint32_t offset = ox_vhost_get32(message, 0);
	const uint32_t bytes = ox_vhost_get32(message, 4);

	if (bytes > sizeof(payload) - CONFIG_HEAD_BYTES) {
		ox_vhost_session_reply(session, NULL, 0, -1); /* which is how it is refused */
		return OX_VHOST_REPLIED;
	}
	if (offset == 0 && bytes >= sizeof(session->blk.size_bytes))
		session->read_size_bytes = session->blk.size_bytes;
	memcpy(payload, message->payload, CONFIG_HEAD_BYTES);
	ox_vhost_blk_config_read(&session->blk, offset, bytes, payload + CONFIG_HEAD_BYTES);
	ox_vhost_session_reply(session, payload, CONFIG_HEAD_BYTES + bytes, -1);
	return OX_VHOST_REPLIED;
}

/* What the cache held when it was turned off is durable before the front end is told. */
static enum ox_vhost_verdict flush(struct ox_vhost_session *session)
{
	if (session->flushed) {
		session->flushed = false;
		return session->flush.result == 0 ? OX_VHOST_DONE : OX_VHOST_IGNORED;
	}
	if (!session->flushing) {
		session->flush = (struct ox_request){.op = OX_OP_FLUSH};
		if (ox_queue_submit(session->device->queue, &session->flush) < 0)
			return OX_VHOST_IGNORED;
		session->flushing = true;
		session->device->loop->submitted = true;
	}
	return OX_VHOST_WAIT;
}

static enum ox_vhost_verdict set_config(struct ox_vhost_session *session,
					struct ox_vhost_message *message)
{
	const uint32_t offset = ox_vhost_get32(message, 0);
	const uint32_t bytes = ox_vhost_get32(message, 4);

	if (session->flushing || session->flushed)
		return flush(session);
	if (ox_vhost_get32(message, 8) > CONFIG_FLAGS_MAX ||
	    bytes > message->header.bytes - CONFIG_HEAD_BYTES ||
	    ox_vhost_blk_config_write(&session->blk, offset, bytes,
				      message->payload + CONFIG_HEAD_BYTES) < 0)
		return OX_VHOST_IGNORED;
	/* Whoever comes next finds it as it is: QEMU does not send it again. */
	ox_vhost_device_note_cache(session->device, session->blk.wce);
	/* Also where it was off already: a flush before may have failed, or its server have died.
	 */
	if (session->blk.wce == OX_VHOST_WCE_OFF && !session->blk.read_only)
		return flush(session);
	return OX_VHOST_DONE;
}

/* ---- resets ---- */

static enum ox_vhost_verdict reset(struct ox_vhost_session *session)
{
	if (!ox_vhost_session_stop(session))
		return OX_VHOST_WAIT;
	for (unsigned i = 0; i < session->vring_count; i++) {
		struct ox_vhost_vring *vring = &session->vrings[i];

		vring->started = vring->enabled = vring->has_addresses = false;
		ox_vhost_ring_set_base(vring->ring, 0);
		if (ox_vhost_vring_set_kick(vring, -1, OX_PARK_NO_SLOT) < 0)
			return OX_VHOST_REFUSED;
	}
	session->blk.acked = 0;
	session->logs_all = false;
	ox_vhost_session_set_log(session);
	session->has_features = false;
	session->status = 0;
	return OX_VHOST_DONE;
}

static enum ox_vhost_verdict reset_device(struct ox_vhost_session *session,
					  struct ox_vhost_message *message)
{
	(void)message;
	return reset(session);
}

/* QEMU also writes 0 where it has stopped every ring, and goes on with them later. */
static enum ox_vhost_verdict set_status(struct ox_vhost_session *session,
					struct ox_vhost_message *message)
{
	const uint64_t status = ox_vhost_get64(message, 0);

	if (status > 0xff)
		return OX_VHOST_REFUSED;
	if (status == 0 && !ox_vhost_session_stop(session))
		return OX_VHOST_WAIT;
	session->status = (uint32_t)status;
	return OX_VHOST_DONE;
}

static enum ox_vhost_verdict get_status(struct ox_vhost_session *session,
					struct ox_vhost_message *message)
{
	(void)message;
	return ox_vhost_session_reply64(session, session->status);
}

const struct ox_vhost_handler ox_vhost_device_handlers[] = {
	{OX_VHOST_GET_FEATURES, get_features, 0, true},
	{OX_VHOST_SET_FEATURES, set_features, 8, false},
	{OX_VHOST_SET_OWNER, set_owner, 0, false},
	{OX_VHOST_GET_PROTOCOL_FEATURES, get_protocol_features, 0, true},
	{OX_VHOST_SET_PROTOCOL_FEATURES, set_protocol_features, 8, false},
	{OX_VHOST_GET_QUEUE_NUM, get_queue_num, 0, true},
	{OX_VHOST_SET_BACKEND_REQ_FD, set_backend_req_fd, 0, false},
	{OX_VHOST_GET_CONFIG, get_config, CONFIG_HEAD_BYTES, true},
	{OX_VHOST_SET_CONFIG, set_config, CONFIG_HEAD_BYTES, false},
	{OX_VHOST_RESET_OWNER, reset_device, 0, false},
	{OX_VHOST_RESET_DEVICE, reset_device, 0, false},
	{OX_VHOST_SET_STATUS, set_status, 8, false},
	{OX_VHOST_GET_STATUS, get_status, 0, true},
	{0, NULL, 0, false},
};
