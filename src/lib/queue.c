/* SPDX-License-Identifier: MIT */
/*
 * The submit/complete queue. Each request is a task; finished ones wait in a list to be reaped. An
 * image has so many tasks at the most: what is submitted beyond them waits, and a task that has
 * ended a request takes the next.
 *
 * A request is free (the program's), held (submitted), done (its result stands) and free again
 * (reaped). ox_queue_submit, run_co and ox_queue_reap make the transitions; each request passes
 * them once, cancelled or not. A token in its reserved part, which depends on its address,
 * tells a held or done one from whatever else that memory may have held before.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/list.h"
#include "lib/context.h"
#include "lib/request.h"

/* Above what a server's clients have in flight together, so that long requests of some do not keep
 * the others' waiting; below what the host maps stacks for. */
#define TASKS_AN_IMAGE_MAX 8192u

struct ox_queue {
	struct ox_list link; /* of the image's queues */
	struct ox_context *ctx;
	struct ox_image *image; /* NULL: closed */
	struct ox_list done;	/* of struct request_state */
	size_t pending;		/* submitted, not reaped */
};

/* The library's part of a request, in its reserved words. */
struct request_state {
	struct ox_list link; /* of the image's waiting ones, or of the queue's done ones */
	struct ox_queue *queue;
	uintptr_t token; /* token_of: held or done */
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

static struct ox_request *request_of(struct request_state *s)
{
	return ox_container_of(s, struct ox_request, reserved);
}

static void run_co(struct ox_request *req)
{
	struct request_state *s = state_of(req);

	ox_co_watch_cancel(&s->cancelled);
	req->result = s->cancelled ? -ECANCELED : ox_request_run_co(s->queue->image, req);
	ox_co_watch_cancel(NULL);
	ox_list_push_back(&s->queue->done, &s->link);
	ox_reactor_results_add(s->queue->ctx->reactor);
}

/* NULL: none waits. */
static struct ox_request *take_waiting(struct ox_image *image)
{
	struct request_state *s;

	if (ox_list_empty(&image->waiting))
		return NULL;
	s = ox_list_first(&image->waiting, struct request_state, link);
	ox_list_del(&s->link);
	return request_of(s);
}

/* The image is there for as long as the task has a request, and is not looked at afterwards. */
static void requests_task_co(void *arg)
{
	struct ox_request *req = arg;
	struct ox_image *image = state_of(req)->queue->image;

	for (;;) {
		run_co(req);
		req = take_waiting(image);
		if (!req)
			break;
		ox_co_yield_co(); /* what needs no I/O would keep the others' from being seen */
	}
	image->tasks--;
}

/* A task of its own for the request, or a place behind others that have one. */
static int begin(struct ox_image *image, struct ox_request *req)
{
	int r = -ENOMEM;

	if (image->tasks < TASKS_AN_IMAGE_MAX)
		r = ox_co_spawn(image->reactor, requests_task_co, req);
	if (r == 0)
		image->tasks++;
	else if (image->tasks > 0)
		ox_list_push_back(&image->waiting, &state_of(req)->link);
	else
		return r;
	return 0;
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
	*s = (struct request_state){.queue = queue, .token = token_of(request)};
	ox_list_init(&s->link);
	r = begin(queue->image, request);
	if (r < 0) {
		s->token = 0;
		return r;
	}
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
		ret_requests[n++] = request_of(s);
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
