/* SPDX-License-Identifier: MIT */
#include "serve/vhost/handler.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INFLIGHT_BYTES 24u /* as QEMU and rust-vmm lay it out, with its padding */

/* ---- the inflight region ---- */

static enum ox_vhost_verdict get_inflight_fd(struct ox_vhost_session *session,
					     struct ox_vhost_message *message)
{
	uint8_t payload[INFLIGHT_BYTES] = {0};
	const bool is_stated = message->header.bytes >= 20;
	/* Old front ends send nothing. */
	const uint16_t queues =
		is_stated ? ox_vhost_get16(message, 16) : (uint16_t)session->vring_count;
	const uint16_t size = is_stated ? ox_vhost_get16(message, 18) : session->blk.queue_size;
	uint64_t bytes = 0;
	int fd = -1;

	if (queues > 0 && queues <= session->vring_count && size <= session->blk.queue_size)
		fd = ox_vhost_inflight_make(queues, size);
	if (fd >= 0)
		bytes = ox_vhost_inflight_bytes(queues, size);
	memcpy(payload, &bytes, sizeof(bytes)); /* 0: there is none */
	memcpy(payload + 16, &queues, sizeof(queues));
	memcpy(payload + 18, &size, sizeof(size));
	ox_vhost_session_reply(session, payload, message->header.bytes == 20 ? 20 : INFLIGHT_BYTES,
			       fd);
	if (fd >= 0)
		close(fd);
	return OX_VHOST_REPLIED;
}

/*
 * A region that was used was so by a server that is gone, unless it began here. Of one that is gone
 * nobody knows what a guest had set; and writes that it had answered may be lost, about which no
 * guest is told a lie: it is told of errors until it begins anew.
 */
static void take_over(struct ox_vhost_session *session, int fd)
{
	struct ox_vhost_device *device = session->device;
	struct stat st = {0};
	const bool is_used = ox_vhost_inflight_is_used(session->inflight);
	const bool is_known = device->regions && fstat(fd, &st) == 0 &&
			      ox_vhost_record_knows(device->regions, st.st_ino);

	if (is_used && !device->knows_cache)
		session->blk.wce = OX_VHOST_WCE_UNKNOWN;
	if (!is_used && device->regions)
		ox_vhost_record_know(device->regions, st.st_ino);
	session->blk.failing = is_used && (ox_vhost_inflight_has_loss(session->inflight) ||
					   (!is_known && device->may_be_lost));
	if (!session->blk.failing)
		return;
	ox_vhost_inflight_note_loss(session->inflight);
	ox_serve_warn(device->loop,
		      "front end %u: writes that an earlier server had answered may be "
		      "lost; its requests fail until its guest starts anew",
		      session->number);
}

static enum ox_vhost_verdict set_inflight_fd(struct ox_vhost_session *session,
					     struct ox_vhost_message *message)
{
	struct ox_vhost_inflight *inflight;
	int ret;

	if (message->fd_count != 1)
		return OX_VHOST_REFUSED;
	if (!ox_vhost_session_stop(session))
		return OX_VHOST_WAIT;
	ret = ox_vhost_inflight_open(message->fds[0], ox_vhost_get64(message, 8),
				     ox_vhost_get64(message, 0), ox_vhost_get16(message, 16),
				     ox_vhost_get16(message, 18), &inflight);
	if (ret < 0)
		return OX_VHOST_REFUSED;
	ox_vhost_inflight_close(session->inflight);
	session->inflight = inflight;
	session->inflight_is = (struct ox_vhost_shared){
		.offset = ox_vhost_get64(message, 8),
		.bytes = ox_vhost_get64(message, 0),
		.slot = message->slots[0],
		.queues = ox_vhost_get16(message, 16),
		.queue_size = ox_vhost_get16(message, 18),
	};
	take_over(session, message->fds[0]);
	return ox_vhost_session_start(session);
}

/* ---- the dirty log ---- */

/* The old log is not written any more once this is answered: it is the front end's then. */
static enum ox_vhost_verdict set_log_base(struct ox_vhost_session *session,
					  struct ox_vhost_message *message)
{
	struct ox_vhost_log *log;

	if (message->fd_count != 1 || ox_vhost_log_open(message->fds[0], ox_vhost_get64(message, 8),
							ox_vhost_get64(message, 0), &log) < 0)
		return OX_VHOST_REFUSED;
	ox_vhost_log_close(session->log);
	session->log = log;
	session->log_is = (struct ox_vhost_shared){
		.offset = ox_vhost_get64(message, 8),
		.bytes = ox_vhost_get64(message, 0),
		.slot = message->slots[0],
	};
	ox_vhost_session_set_log(session);
	if (session->protocol_features & OX_VHOST_PROTOCOL_LOG_SHMFD)
		return ox_vhost_session_reply64(session, 0);
	return OX_VHOST_DONE;
}

static enum ox_vhost_verdict set_log_fd(struct ox_vhost_session *session,
					struct ox_vhost_message *message)
{
	(void)session;
	(void)message;
	return OX_VHOST_DONE;
}

const struct ox_vhost_handler ox_vhost_shared_handlers[] = {
	{OX_VHOST_GET_INFLIGHT_FD, get_inflight_fd, 0, true},
	{OX_VHOST_SET_INFLIGHT_FD, set_inflight_fd, 20, false},
	{OX_VHOST_SET_LOG_BASE, set_log_base, 16, false},
	{OX_VHOST_SET_LOG_FD, set_log_fd, 0, false},
	{0, NULL, 0, false},
};
