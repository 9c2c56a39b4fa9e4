/* SPDX-License-Identifier: MIT */
/* The submit/complete queue. Each request is a task; finished ones wait in a list to be reaped. */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/list.h"
#include "lib/context.h"

struct ox_queue {
	struct ox_image *image;
	struct ox_list done; /* of struct request_state */
	size_t pending;	     /* submitted, not reaped */
};

/* The library's part of a request, in its reserved words. */
struct request_state {
	struct ox_list link;
	struct ox_queue *queue;
};

_Static_assert(sizeof(struct request_state) <= sizeof(((struct ox_request *)0)->reserved),
	       "the reserved part holds the library's state");

static struct request_state *state_of(struct ox_request *req)
{
	return (struct request_state *)(void *)req->reserved;
}

void ox_request_run_co(struct ox_image *image, struct ox_request *req)
{
	switch (req->op) {
	case OX_OP_READ:
		req->result = ox_img_preadv_co(image, req->iov, req->iov_count, req->offset);
		return;
	case OX_OP_WRITE:
		req->result =
			ox_img_pwritev_co(image, req->iov, req->iov_count, req->offset, req->flags);
		return;
	case OX_OP_WRITE_ZEROES:
		req->result = ox_img_zero_co(image, req->offset, req->length, req->flags);
		return;
	case OX_OP_DISCARD:
		req->result = ox_img_discard_co(image, req->offset, req->length);
		if (req->result == 0 && (req->flags & OX_REQ_FUA))
			req->result = ox_img_flush_co(image);
		return;
	case OX_OP_FLUSH:
		req->result = ox_img_flush_co(image);
		return;
	case OX_OP_EXTENT:
		req->result = ox_img_extent_co(image, req->offset, req->length, req->extent);
		return;
	}
	ox_assert(false && "a request has one of the operations of enum ox_op");
}

static void queued_task_co(void *arg)
{
	struct ox_request *req = arg;
	struct request_state *s = state_of(req);

	ox_request_run_co(s->queue->image, req);
	ox_list_push_back(&s->queue->done, &s->link);
}

OX_EXPORT int ox_queue_new(struct ox_image *image, struct ox_queue **ret_queue)
{
	struct ox_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->image = image;
	ox_list_init(&q->done);
	*ret_queue = q;
	return 0;
}

OX_EXPORT void ox_queue_free(struct ox_queue *queue)
{
	if (!queue)
		return;
	ox_assert(queue->pending == 0);
	free(queue);
}

OX_EXPORT int ox_queue_submit(struct ox_queue *queue, struct ox_request *request)
{
	struct request_state *s = state_of(request);
	int r;

	s->queue = queue;
	ox_list_init(&s->link);
	r = ox_co_spawn(queue->image->reactor, queued_task_co, request);
	if (r == 0)
		queue->pending++;
	return r;
}

OX_EXPORT size_t ox_queue_reap(struct ox_queue *queue, struct ox_request **ret_requests, size_t max)
{
	size_t n = 0;

	while (n < max && !ox_list_empty(&queue->done)) {
		struct request_state *s = ox_list_first(&queue->done, struct request_state, link);

		ox_list_del(&s->link);
		ret_requests[n++] = ox_container_of(s, struct ox_request, reserved);
	}
	queue->pending -= n;
	return n;
}

OX_EXPORT size_t ox_queue_pending(const struct ox_queue *queue)
{
	return queue->pending;
}

OX_EXPORT int ox_queue_fd(const struct ox_queue *queue)
{
	return ox_context_fd(queue->image->ctx);
}
