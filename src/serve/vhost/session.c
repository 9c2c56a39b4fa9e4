/* SPDX-License-Identifier: MIT */
#include "serve/vhost/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "serve/vhost/handler.h"
#include "serve/vhost/keep.h"

/* Of one front end in one turn of the loop. */
#define MESSAGES_A_TURN 64

#define NOT_KEPT "the keeper cannot hold what it has"

/* ---- messages ---- */

static bool wants_ack(const struct ox_vhost_session *session)
{
	return (session->incoming.message.header.flags & OX_VHOST_NEED_REPLY) &&
	       (session->protocol_features & OX_VHOST_PROTOCOL_REPLY_ACK);
}

static void refuse(struct ox_vhost_session *session, bool is_fatal)
{
	const char *name = ox_vhost_request_name(session->incoming.message.header.request);

	if (!is_fatal) {
		ox_serve_tell(session->device->loop, "front end %u: %s is refused", session->number,
			      name);
		return;
	}
	ox_serve_warn(
		session->device->loop,
		"front end %u: %s cannot be carried out, and there is no way to say so but to "
		"end the connection",
		session->number, name);
	ox_vhost_session_end(session, "it asked for what cannot be");
}

/* False: it waits. */
static bool carry_out(struct ox_vhost_session *session)
{
	struct ox_vhost_message *message = &session->incoming.message;
	const struct ox_vhost_handler *handler = ox_vhost_handler_find(message->header.request);
	enum ox_vhost_verdict verdict = OX_VHOST_IGNORED;

	if (handler && message->header.bytes < handler->min_bytes)
		verdict = OX_VHOST_REFUSED;
	else if (handler)
		verdict = handler->run(session, message);
	if (verdict == OX_VHOST_WAIT)
		return false;
	session->paused = false;
	if (verdict == OX_VHOST_REFUSED || verdict == OX_VHOST_IGNORED)
		refuse(session,
		       verdict == OX_VHOST_REFUSED && (!wants_ack(session) || handler->replies));
	if (verdict != OX_VHOST_REPLIED && wants_ack(session))
		(void)ox_vhost_session_reply64(session, verdict != OX_VHOST_DONE);
	if (session->keep && !session->ended && ox_vhost_keep_commit(session, true) < 0)
		ox_vhost_session_end(session, NOT_KEPT);
	ox_vhost_incoming_clear(&session->incoming);
	return true;
}

/* As ox_vhost_receive. */
static int receive(struct ox_vhost_session *session)
{
	int ret;

	if (!session->keep)
		return ox_vhost_receive(session->watched.fd, &session->incoming);
	ret = ox_vhost_peek(session->watched.fd, &session->incoming);
	if (ret == 1 && ox_vhost_keep_take(session) < 0) {
		ox_vhost_session_end(session, NOT_KEPT);
		return -ECANCELED;
	}
	return ret;
}

static void read_messages(struct ox_vhost_session *session)
{
	for (int i = 0; i < MESSAGES_A_TURN && !session->ended; i++) {
		int ret = session->waits ? 1 : -EAGAIN;

		if (!session->waits && session->readable)
			ret = receive(session);
		if (ret == 1) {
			session->waits = !carry_out(session);
			session->blk.hurried = session->waits;
			if (session->waits)
				return;
			continue;
		}
		if (ret == -EAGAIN)
			session->readable = false;
		else if (ret == 0)
			ox_vhost_session_end(session, "it hung up");
		else if (ret == -EBADMSG)
			ox_vhost_session_end(session, "it broke the protocol");
		else
			ox_vhost_session_end(session, "the connection broke");
		return;
	}
}

/* ---- the session ---- */

static void on_event(struct ox_watched *watched, uint32_t events)
{
	(void)events;
	((struct ox_vhost_session *)watched)->readable = true;
}

int ox_vhost_session_new(struct ox_vhost_device *device, int socket, unsigned front,
			 struct ox_vhost_session **ret)
{
	const unsigned count = device->blk.queues;
	struct ox_vhost_session *session =
		calloc(1, sizeof(*session) + count * sizeof(session->vrings[0]));
	int code;

	if (!session) {
		close(socket);
		if (device->keep)
			ox_vhost_keep_let_go(device->keep, front);
		return -ENOMEM;
	}
	session->keep = device->keep;
	session->front = front;
	session->own_slot = session->channel_slot = OX_PARK_NO_SLOT;
	session->inflight_is.slot = session->log_is.slot = OX_PARK_NO_SLOT;
	session->watched = (struct ox_watched){socket, on_event};
	session->device = device;
	session->blk = device->blk;
	session->readable = true;
	session->channel = -1;
	code = ox_vhost_memory_new(&session->memory);
	for (; code == 0 && session->vring_count < count; session->vring_count++)
		code = ox_vhost_vring_init(session, session->vring_count);
	if (code == 0)
		code = ox_serve_watch(device->loop, EPOLL_CTL_ADD, &session->watched,
				      EPOLLIN | EPOLLRDHUP | EPOLLET);
	if (code < 0) {
		ox_vhost_session_free(session);
		return code;
	}
	*ret = session;
	return 0;
}

void ox_vhost_session_free(struct ox_vhost_session *session)
{
	if (session->device->owner == session)
		session->device->owner = NULL;
	ox_vhost_incoming_clear(&session->incoming);
	for (unsigned i = 0; i < session->vring_count; i++)
		ox_vhost_vring_free(&session->vrings[i]);
	ox_vhost_inflight_close(session->inflight);
	ox_vhost_inflight_close(session->own_inflight);
	ox_vhost_log_close(session->log);
	ox_vhost_memory_free(session->memory);
	if (session->channel >= 0)
		close(session->channel);
	/* The keeper has it too, so that closing alone would not end the watch. One that failed to
	 * begin is not watched. */
	(void)!ox_serve_watch(session->device->loop, EPOLL_CTL_DEL, &session->watched, 0);
	close(session->watched.fd);
	if (session->keep)
		ox_vhost_keep_let_go(session->keep, session->front);
	free(session);
}

void ox_vhost_session_end(struct ox_vhost_session *session, const char *why)
{
	if (session->ended)
		return;
	session->ended = true;
	session->blk.hurried = true;
	session->why = why;
	if (session->keep)
		ox_vhost_keep_end(session);
}

void ox_vhost_session_go_on(struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count && !session->ended; i++)
		if (session->vrings[i].goes_on && ox_vhost_vring_start(&session->vrings[i]) < 0)
			ox_vhost_session_end(session, "its ring cannot go on");
}

bool ox_vhost_session_in_flight(const struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++)
		if (ox_vhost_ring_in_flight(session->vrings[i].ring) > 0)
			return true;
	return session->flushing;
}

bool ox_vhost_session_runs(const struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++)
		if (session->vrings[i].running)
			return true;
	return false;
}

bool ox_vhost_session_is_polled(const struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++)
		if (session->vrings[i].running && session->vrings[i].kick.fd < 0)
			return true;
	return false;
}

void ox_vhost_session_resized(struct ox_vhost_session *session)
{
	session->blk.size_bytes = session->device->blk.size_bytes;
	ox_vhost_session_tell_size(session);
}

/* No reply is asked for: nothing rests on it, and a front end that owes one could only be waited
 * for. Of a channel that is full the message before has not been read either, and whoever reads
 * that one finds what holds by then. */
void ox_vhost_session_tell_size(struct ox_vhost_session *session)
{
	int ret;

	if (session->ended || session->channel < 0 ||
	    !(session->protocol_features & OX_VHOST_PROTOCOL_BACKEND_REQ) ||
	    session->read_size_bytes == session->blk.size_bytes)
		return;
	ret = ox_vhost_tell(session->channel, OX_VHOST_BACKEND_CONFIG_CHANGE);
	if (ret == 0 || ret == -EAGAIN)
		return;
	ox_serve_tell(session->device->loop, "front end %u cannot be told of the disk's size: %s",
		      session->number, strerror(-ret));
	close(session->channel);
	session->channel = -1;
}

void ox_vhost_session_look(struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++)
		session->vrings[i].ready = true;
}

static void serve_rings(struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++) {
		struct ox_vhost_vring *vring = &session->vrings[i];

		ox_vhost_vring_publish(vring);
		ox_vhost_vring_serve(vring);
		ox_vhost_vring_publish(vring); /* what needed no I/O */
	}
}

void ox_vhost_session_serve(struct ox_vhost_session *session)
{
	serve_rings(session);
	if (session->ended || (!session->readable && !session->waits))
		return;
	read_messages(session);
	serve_rings(session);
}

bool ox_vhost_session_listen(struct ox_vhost_session *session)
{
	bool busy = !session->ended && session->readable && !session->waits;

	for (unsigned i = 0; i < session->vring_count; i++)
		busy = ox_vhost_vring_listen(&session->vrings[i]) || busy;
	return busy;
}
