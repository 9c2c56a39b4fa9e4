/* SPDX-License-Identifier: MIT */
#include "fake_library.h"

#include <assert.h>
#include <errno.h>
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
static size_t submitted_count;
static bool held;
static bool is_full;
static uint64_t disk_bytes = FAKE_DISK_BYTES;
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

void fake_full(bool full)
{
	pthread_mutex_lock(&lock);
	is_full = full;
	pthread_mutex_unlock(&lock);
}

void fake_resize(uint64_t bytes)
{
	pthread_mutex_lock(&lock);
	disk_bytes = bytes;
	wake();
	pthread_mutex_unlock(&lock);
}

size_t fake_submitted(void)
{
	size_t count;

	pthread_mutex_lock(&lock);
	count = submitted_count;
	pthread_mutex_unlock(&lock);
	return count;
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
	uint64_t bytes;

	(void)image;
	pthread_mutex_lock(&lock);
	bytes = disk_bytes;
	pthread_mutex_unlock(&lock);
	return bytes;
}

uint64_t ox_image_cluster_bytes(const struct ox_image *image)
{
	(void)image;
	return 65536;
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
	submitted_count++;
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

		if (request->op == OX_OP_READ && request->iov[0].iov_len > 0)
			memset(request->iov[0].iov_base, 0xab, request->iov[0].iov_len);
		request->result = is_full && request->op == OX_OP_WRITE ? -ENOSPC : 0;
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

void ox_image_leave_recovery(struct ox_image *image)
{
	(void)image;
}

void ox_image_stats(const struct ox_image *image, struct ox_image_stats *ret_stats)
{
	(void)image;
	*ret_stats = (struct ox_image_stats){0};
}

void ox_image_recovery(const struct ox_image *image, struct ox_recovery_status *ret_status)
{
	(void)image;
	*ret_status = (struct ox_recovery_status){.message = ""};
}

uint64_t ox_image_notices(const struct ox_image *image, struct ox_notice *ret_last)
{
	(void)image;
	(void)ret_last;
	return 0;
}

/* Nothing is resized here. */
int ox_resize_start(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
		    struct ox_error **err)
{
	(void)image;
	(void)new_bytes;
	(void)ret_job;
	(void)err;
	return -ENOTSUP;
}

bool ox_job_is_done(const struct ox_job *job)
{
	(void)job;
	return false;
}

void ox_job_cancel(struct ox_job *job)
{
	(void)job;
}

int ox_job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	(void)job;
	(void)ret_image;
	(void)err;
	return 0;
}

const char *ox_error_message(const struct ox_error *err)
{
	(void)err;
	return "";
}

void ox_error_free(struct ox_error *err)
{
	(void)err;
}
