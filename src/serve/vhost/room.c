/* SPDX-License-Identifier: MIT */
/*
 * Changes of guests that find no room on the host (serve/full.h). A ring that is about to stop, and
 * memory that is about to change, wait for nothing: what waits for room is answered with an error.
 * A front end that is gone leaves its requests in the inflight region, if it has one: whoever
 * serves it next carries them out.
 */
#include "serve/vhost/session.h"

static struct ox_vhost_blk_request *request_of(struct ox_full_waiter *waiter)
{
	char *at = (char *)waiter - offsetof(struct ox_vhost_blk_request, full);

	return (struct ox_vhost_blk_request *)(void *)at;
}

static void retry(struct ox_full_waiter *waiter)
{
	struct ox_vhost_blk_request *request = request_of(waiter);
	const struct ox_vhost_vring *vring = waiter->owner;
	struct ox_vhost_device *device = vring->session->device;
	int ret = ox_vhost_device_begin(device, request);

	if (ret < 0) {
		request->request.result = ret;
		ox_vhost_device_completed(device, request);
	}
}

static void answer(struct ox_full_waiter *waiter)
{
	struct ox_vhost_vring *vring = waiter->owner;

	vring->answers = true;
	ox_vhost_blk_completed(request_of(waiter));
}

static void leave(struct ox_full_waiter *waiter)
{
	ox_vhost_blk_leave(request_of(waiter));
}

bool ox_vhost_room_takes(struct ox_vhost_vring *vring, struct ox_vhost_blk_request *request)
{
	const struct ox_vhost_session *session = vring->session;
	const int result = request->request.result;
	struct ox_serve_loop *loop = session->device->loop;
	const enum ox_op op = request->request.op;

	if (!ox_full_concerns(&request->full, result) ||
	    (op != OX_OP_WRITE && op != OX_OP_WRITE_ZEROES && op != OX_OP_DISCARD))
		return false;
	request->full.retry = retry;
	if (ox_full_completed(&loop->full, &request->full, vring, result,
			      !vring->stopping && !session->paused && !session->ended,
			      ox_serve_now_ms()))
		return true;
	if (!ox_full_is_full(result) || !session->ended || !session->inflight ||
	    loop->options->on_full != OX_SERVE_FULL_PAUSE)
		return false;
	ox_vhost_blk_leave(request);
	return true;
}

void ox_vhost_room_give_up(struct ox_vhost_vring *vring)
{
	ox_full_give_up(&vring->session->device->loop->full, vring, answer);
	ox_vhost_vring_publish(vring); /* before the memory is another */
}

void ox_vhost_room_end(struct ox_vhost_session *session)
{
	for (unsigned i = 0; i < session->vring_count; i++) {
		struct ox_vhost_vring *vring = &session->vrings[i];

		if (session->inflight)
			ox_full_give_up(&session->device->loop->full, vring, leave);
		else
			ox_vhost_room_give_up(vring);
	}
}
