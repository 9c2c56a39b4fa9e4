/* SPDX-License-Identifier: MIT */
#include "fake_library.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REQUESTS_MAX 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct ox_request *waiting[REQUESTS_MAX];
static size_t waiting_count;
/* What a server gave up is the library's for good, so that no leak checker calls it lost. */
static struct ox_request *abandoned[REQUESTS_MAX];
static size_t abandoned_count;
static bool held;
static int event_fd = -1;

static void wake(void)
{
	const uint64_t one = 1;

	if (event_fd >= 0)
		assert(write(event_fd, &one, sizeof(one)) == sizeof(one));
}

void fake_hold(bool hold)
{
	pthread_mutex_lock(&lock);
	held = hold;
	wake();
	pthread_mutex_unlock(&lock);
}

void fake_await_in_flight(size_t count)
{
	pthread_mutex_lock(&lock);
	while (waiting_count != count)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

int ox_context_fd(const struct ox_context *ctx)
{
	(void)ctx;
	if (event_fd < 0)
		event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return event_fd;
}

int ox_context_poll(struct ox_context *ctx)
{
	uint64_t count;

	(void)ctx;
	(void)!read(event_fd, &count, sizeof(count));
	return 0;
}

void ox_context_set_polled(struct ox_context *ctx, bool polled)
{
	(void)ctx;
	(void)polled;
}

uint64_t ox_image_size(const struct ox_image *image)
{
	(void)image;
	return FAKE_DISK_BYTES;
}

bool ox_image_is_read_only(const struct ox_image *image)
{
	(void)image;
	return false;
}

int ox_queue_new(struct ox_image *image, struct ox_queue **ret_queue)
{
	(void)image;
	(void)ret_queue;
	pthread_mutex_lock(&lock);
	while (waiting_count > 0) {
		assert(abandoned_count < REQUESTS_MAX);
		abandoned[abandoned_count++] = waiting[--waiting_count];
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

void ox_queue_free(struct ox_queue *queue)
{
	(void)queue;
	assert(waiting_count == 0);
}

int ox_queue_submit(struct ox_queue *queue, struct ox_request *request)
{
	(void)queue;
	pthread_mutex_lock(&lock);
	assert(waiting_count < REQUESTS_MAX);
	waiting[waiting_count++] = request;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return 0;
}

/* Everything is done as if nobody had asked. */
int ox_queue_cancel(struct ox_queue *queue, struct ox_request *request)
{
	(void)queue;
	(void)request;
	return 0;
}

size_t ox_queue_reap(struct ox_queue *queue, struct ox_request **ret_requests, size_t max)
{
	size_t count = 0;

	(void)queue;
	pthread_mutex_lock(&lock);
	while (!held && waiting_count > 0 && count < max) {
		struct ox_request *request = waiting[--waiting_count];

		if (request->op == OX_OP_READ)
			memset(request->iov[0].iov_base, 0xab, request->iov[0].iov_len);
		request->result = 0;
		ret_requests[count++] = request;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return count;
}

size_t ox_queue_pending(const struct ox_queue *queue)
{
	(void)queue;
	return waiting_count;
}
