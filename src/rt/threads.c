/* SPDX-License-Identifier: MIT */
/*
 * The engine for hosts that refuse io_uring: every request goes to the pool. The descriptor is an
 * epoll set of the pool's pipe and a timerfd, which is also what a wait sleeps on.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "rt/internal.h"

struct threads {
	struct ox_pool *pool;
	int timer_fd;
	int epoll_fd;
};

static struct threads *threads(const struct ox_reactor *r)
{
	return r->engine;
}

static int epoll_add(int epoll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int fds_open(struct threads *t)
{
	int code;

	t->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (t->timer_fd < 0)
		return -errno;
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll_fd < 0) {
		code = -errno;
		goto close_timer;
	}
	code = epoll_add(t->epoll_fd, t->timer_fd);
	if (code == 0)
		code = epoll_add(t->epoll_fd, ox_pool_fd(t->pool));
	if (code < 0)
		goto close_epoll;
	return 0;

close_epoll:
	ox_assert(close(t->epoll_fd) == 0);
close_timer:
	ox_assert(close(t->timer_fd) == 0);
	return code;
}

static int threads_create(struct ox_reactor *r)
{
	struct threads *t = calloc(1, sizeof(*t));
	int code;

	if (!t)
		return -ENOMEM;
	code = ox_pool_create(&t->pool);
	if (code == 0)
		code = fds_open(t);
	if (code < 0) {
		ox_pool_destroy(t->pool);
		free(t);
		return code;
	}
	r->engine = t;
	return 0;
}

static void threads_destroy(struct ox_reactor *r)
{
	struct threads *t = threads(r);

	ox_pool_destroy(t->pool);
	ox_assert(close(t->epoll_fd) == 0);
	ox_assert(close(t->timer_fd) == 0);
	free(t);
}

static void threads_start(struct ox_reactor *r, struct ox_aio *aio)
{
	ox_pool_submit(threads(r)->pool, aio);
}

static void timer_collect(struct ox_reactor *r)
{
	uint64_t expirations;

	if (r->armed_ns > ox_reactor_now_ns(r))
		return;
	if (read(threads(r)->timer_fd, &expirations, sizeof(expirations)) == sizeof(expirations))
		r->armed_ns = OX_NO_DEADLINE;
	else
		ox_assert(errno == EAGAIN);
}

static int threads_turn(struct ox_reactor *r, bool wait)
{
	struct threads *t = threads(r);
	struct epoll_event event;

	if (wait && epoll_wait(t->epoll_fd, &event, 1, -1) < 0 && errno != EINTR)
		return -errno;
	ox_pool_collect(t->pool, r);
	if (r->armed_ns != OX_NO_DEADLINE)
		timer_collect(r);
	return 0;
}

static int threads_arm_timer(struct ox_reactor *r, uint64_t deadline_ns)
{
	struct itimerspec at = {
		.it_value.tv_sec = (time_t)(deadline_ns / 1000000000),
		.it_value.tv_nsec = (long)(deadline_ns % 1000000000),
	};

	if (timerfd_settime(threads(r)->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
		return -errno;
	r->armed_ns = deadline_ns;
	return 0;
}

static void threads_enter(struct ox_reactor *r)
{
	(void)r;
}

/* The descriptor tells of everything that is not collected: nothing can be missed. */
static bool threads_leave(struct ox_reactor *r)
{
	(void)r;
	return false;
}

static void threads_kick(struct ox_reactor *r)
{
	ox_pool_kick(threads(r)->pool);
}

static int threads_fd(const struct ox_reactor *r)
{
	return threads(r)->epoll_fd;
}

static struct ox_pool *threads_pool(const struct ox_reactor *r)
{
	return threads(r)->pool;
}

const struct ox_engine_ops ox_threads_ops = {
	.kind = OX_ENGINE_THREAD_POOL,
	.create = threads_create,
	.destroy = threads_destroy,
	.start = threads_start,
	.turn = threads_turn,
	.arm_timer = threads_arm_timer,
	.enter = threads_enter,
	.leave = threads_leave,
	.kick = threads_kick,
	.fd = threads_fd,
	.pool = threads_pool,
};
