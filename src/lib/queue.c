/* SPDX-License-Identifier: MIT */
/*
 * The submit/complete queue. Each request is a task; finished ones wait in a list to be reaped.
 *
 * A request is free (the program's), held (submitted), done (its result stands) and free again
 * (reaped). ox_queue_submit, queued_task_co and ox_queue_reap make the transitions; each request
 * passes them once, cancelled or not. A token in its reserved part, which depends on its address,
 * tells a held or done one from whatever else that memory may have held before.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/list.h"
#include "lib/context.h"
#include "lib/request.h"

struct ox_queue {
	struct ox_list link; /* of the image's queues */
	struct ox_context *ctx;
	struct ox_image *image; /* NULL: closed */
	struct ox_list done;	/* of struct request_state */
	size_t pending;		/* submitted, not reaped */
};

/* The library's part of a request, in its reserved words. */
struct request_state {
	struct ox_list link;
	struct ox_queue *queue;
	uintptr_t token; /* token_of: held or done */
	bool done;
	bool cancelled;
};

_Static_assert(sizeof(struct request_state) <= sizeof(((struct ox_request *)0)->reserved),
	       "the reserved part holds the library's state");

static struct request_state *state_of(struct ox_request *req)
{
	return (struct request_state *)(void *)req->reserved;
}

static uintptr_t token_of(const struct ox_request *req)
{
	return (uintptr_t)req ^ (uintptr_t)UINT64_C(0x6f78626f77a5c3e1);
}

static void queued_task_co(void *arg)
{
	struct ox_request *req = arg;
	struct request_state *s = state_of(req);

	ox_co_watch_cancel(&s->cancelled);
	req->result = s->cancelled ? -ECANCELED : ox_request_run_co(s->queue->image, req);
	s->done = true;
	ox_list_push_back(&s->queue->done, &s->link);
	ox_reactor_results_add(s->queue->ctx->reactor);
}

OX_EXPORT int ox_queue_new(struct ox_image *image, struct ox_queue **ret_queue)
{
	struct ox_queue *q;

	ox_assert(image);
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->ctx = image->ctx;
	q->image = image;
	ox_list_init(&q->done);
	ox_list_push_back(&image->queues, &q->link);
	*ret_queue = q;
	return 0;
}

OX_EXPORT void ox_queue_free(struct ox_queue *queue)
{
	if (!queue)
		return;
	ox_assert(queue->pending == 0);
	ox_list_del(&queue->link);
	free(queue);
}

bool ox_queues_are_idle(const struct ox_image *image)
{
	struct ox_list *it;

	ox_list_for_each (it, &image->queues)
		if (ox_list_entry(it, struct ox_queue, link)->pending > 0)
			return false;
	return true;
}

void ox_queues_detach(struct ox_image *image)
{
	while (!ox_list_empty(&image->queues)) {
		struct ox_queue *q = ox_list_first(&image->queues, struct ox_queue, link);

		ox_list_del(&q->link);
		q->image = NULL;
	}
}

OX_EXPORT int ox_queue_submit(struct ox_queue *queue, struct ox_request *request)
{
	struct request_state *s = state_of(request);
	int r = ox_request_check(request);

	ox_assert(queue->image); /* a queue is not used once its image was closed */
	if (r < 0)
		return r;
	if (s->token == token_of(request) || queue->image->reopening)
		return -EBUSY;
	r = ox_co_spawn(queue->ctx->reactor, queued_task_co, request);
	if (r < 0)
		return r;
	*s = (struct request_state){.queue = queue, .token = token_of(request)};
	ox_list_init(&s->link);
	queue->pending++;
	ox_reactor_kick(queue->ctx->reactor);
	return 0;
}

OX_EXPORT int ox_queue_cancel(struct ox_queue *queue, struct ox_request *request)
{
	struct request_state *s = state_of(request);

	if (s->token != token_of(request) || s->queue != queue)
		return -ENOENT;
	s->cancelled = true; /* of no consequence for one that is done */
	return 0;
}

OX_EXPORT size_t ox_queue_reap(struct ox_queue *queue, struct ox_request **ret_requests, size_t max)
{
	size_t n = 0;

	while (n < max && !ox_list_empty(&queue->done)) {
		struct request_state *s = ox_list_first(&queue->done, struct request_state, link);

		ox_list_del(&s->link);
		s->token = 0;
		ret_requests[n++] = ox_container_of(s, struct ox_request, reserved);
	}
	queue->pending -= n;
	ox_reactor_results_taken(queue->ctx->reactor, n);
	return n;
}

OX_EXPORT size_t ox_queue_pending(const struct ox_queue *queue)
{
	return queue->pending;
}

OX_EXPORT int ox_queue_fd(const struct ox_queue *queue)
{
	return ox_context_fd(queue->ctx);
}
