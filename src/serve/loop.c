/* SPDX-License-Identifier: MIT */
#include "serve/loop.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "serve/command.h"

#define EVENTS_A_TURN 64
#define EXCHANGES_A_TURN 8
/* A store that answers no request holds up the end this long. */
#define STUCK_MS 60000

void ox_serve_limits_set(struct ox_serve_loop *loop, const struct ox_serve_limits *limits)
{
	ox_limit_set(&loop->limit, limits, ox_serve_now_ns());
	ox_stats_limit(loop->stats, limits);
}

void ox_serve_publish(struct ox_serve_loop *loop)
{
	if (!loop->stats)
		return;
	ox_stats_publish(loop->stats, loop->image);
	ox_serve_room_publish(loop);
}

void ox_serve_tell(const struct ox_serve_loop *loop, const char *format, ...)
{
	char line[512];
	va_list args;

	if (!loop->options->log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	loop->options->log(loop->options->opaque, line);
}

void ox_serve_warn(struct ox_serve_loop *loop, const char *format, ...)
{
	char line[PATH_MAX + 256];
	uint64_t left_out;
	va_list args;
	int length;

	if (!ox_serve_lines_take(&loop->lines, format, ox_serve_now_ms(), &left_out))
		return;
	va_start(args, format);
	length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (left_out > 0 && length > 0 && (size_t)length < sizeof(line))
		snprintf(line + length, sizeof(line) - (size_t)length,
			 " (%llu like it were left out)", (unsigned long long)left_out);
	loop->options->warn(loop->options->opaque, line);
}

int ox_serve_fail(struct ox_serve_error *error, int code, const char *what)
{
	snprintf(error->message, sizeof(error->message), "%s: %s", what, strerror(-code));
	return code;
}

int ox_serve_watch(const struct ox_serve_loop *loop, int operation, struct ox_watched *watched,
		   uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watched};

	return epoll_ctl(loop->epoll_fd, operation, watched->fd, &event) < 0 ? -errno : 0;
}

/* ---- the end ---- */

static void begin_drain(struct ox_serve_loop *loop)
{
	if (!loop->draining) {
		loop->draining = true;
		loop->full.pauses = false;	      /* what waits is given up by the parts */
		ox_image_leave_recovery(loop->image); /* requests may wait for it */
		loop->stuck_deadline_ms = ox_serve_now_ms() + loop->stuck_ms;
	}
	for (unsigned i = 0; i < loop->part_count; i++)
		loop->parts[i]->ops->drain(loop->parts[i]);
}

/* Of a server that takes signals itself. */
static void renew_tls(struct ox_serve_loop *loop)
{
	const struct ox_serve_options *options = loop->options;
	int fd = options->nbd.tls.renew(options->opaque);
	int ret = fd < 0 ? fd : ox_nbd_server_renew_tls(loop->nbd, fd);

	(void)ret; /* it was told */
	if (fd >= 0)
		close(fd);
}

static void take_signals(struct ox_watched *watched, uint32_t events)
{
	char *at = (char *)watched - offsetof(struct ox_serve_loop, signals);
	struct ox_serve_loop *loop = (struct ox_serve_loop *)(void *)at;
	struct signalfd_siginfo info;

	(void)events;
	while (read(watched->fd, &info, sizeof(info)) > 0) {
		if (info.ssi_signo == SIGHUP && loop->nbd && loop->options->nbd.tls.renew)
			renew_tls(loop);
		else
			begin_drain(loop);
	}
}

/* From whoever has started the server, in the place of signals. */
static void take_messages(struct ox_watched *watched, uint32_t events)
{
	char *at = (char *)watched - offsetof(struct ox_serve_loop, signals);
	struct ox_serve_loop *loop = (struct ox_serve_loop *)(void *)at;
	struct ox_serve_command command;
	ssize_t got;
	int fd;

	(void)events;
	while ((got = ox_commands_receive(watched->fd, &command, &fd)) > 0) {
		if (loop->commands && ox_serve_is_command((size_t)got))
			ox_commands_take(loop->commands, &command, fd);
		else
			begin_drain(loop);
		if (fd >= 0)
			close(fd);
	}
}

/* It is polled in each turn. */
static void ignore_library(struct ox_watched *watched, uint32_t events)
{
	(void)watched;
	(void)events;
}

static size_t pending(const struct ox_serve_loop *loop)
{
	size_t count = 0;

	for (unsigned i = 0; i < loop->part_count; i++)
		count += loop->parts[i]->ops->pending(loop->parts[i]);
	return count;
}

static bool is_stuck(const struct ox_serve_loop *loop)
{
	return loop->draining && pending(loop) > 0 && ox_serve_now_ms() >= loop->stuck_deadline_ms;
}

static bool is_over(const struct ox_serve_loop *loop)
{
	if (!loop->draining)
		return false;
	for (unsigned i = 0; i < loop->part_count; i++)
		if (!loop->parts[i]->ops->is_over(loop->parts[i]))
			return false;
	return true;
}

/* ---- a turn ---- */

static void serve(struct ox_serve_loop *loop)
{
	if (loop->limit.first)
		ox_limit_release(&loop->limit, ox_serve_now_ns());
	if (loop->full.first)
		ox_full_try(&loop->full, ox_serve_now_ms());
	loop->more = false;
	for (unsigned i = 0; i < loop->part_count; i++)
		loop->parts[i]->ops->serve(loop->parts[i]);
}

static int64_t next_deadline_ms(const struct ox_serve_loop *loop)
{
	const int64_t limit_ns = ox_limit_due_ns(&loop->limit);
	/* Rounded up: not a turn too early, nor many. */
	int64_t deadline_ms = limit_ns == INT64_MAX ? INT64_MAX : limit_ns / 1000000 + 1;

	if (ox_full_due_ms(&loop->full) < deadline_ms)
		deadline_ms = ox_full_due_ms(&loop->full);
	for (unsigned i = 0; i < loop->part_count; i++) {
		const int64_t part_ms = loop->parts[i]->ops->deadline_ms(loop->parts[i]);

		if (part_ms < deadline_ms)
			deadline_ms = part_ms;
	}
	/* While the library works its events wake us. */
	if (loop->draining && loop->stuck_deadline_ms < deadline_ms && pending(loop) > 0)
		deadline_ms = loop->stuck_deadline_ms;
	return deadline_ms;
}

static int wait_timeout_ms(const struct ox_serve_loop *loop, int64_t deadline_ms)
{
	int64_t left_ms;

	if (loop->submitted)
		return 0;
	for (unsigned i = 0; i < loop->part_count; i++)
		if (loop->parts[i]->ops->is_busy(loop->parts[i]))
			return 0;
	if (deadline_ms == INT64_MAX)
		return -1;
	left_ms = deadline_ms - ox_serve_now_ms();
	return left_ms <= 0 ? 0 : (int)(left_ms < INT_MAX ? left_ms : INT_MAX);
}

static int wait_events(struct ox_serve_loop *loop)
{
	const int64_t deadline_ms = next_deadline_ms(loop);
	struct epoll_event events[EVENTS_A_TURN];
	int64_t now_ms;
	int count;

	count = epoll_wait(loop->epoll_fd, events, EVENTS_A_TURN,
			   wait_timeout_ms(loop, deadline_ms));
	ox_stats_turn(loop->stats);
	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	/* No handler frees or closes what is watched: that is for serve and settle. */
	for (int i = 0; i < count; i++) {
		struct ox_watched *watched = events[i].data.ptr;

		watched->event(watched, events[i].events);
	}
	if (deadline_ms == INT64_MAX)
		return 0;
	now_ms = ox_serve_now_ms();
	for (unsigned i = 0; i < loop->part_count && now_ms >= deadline_ms; i++)
		loop->parts[i]->ops->expire(loop->parts[i], now_ms);
	return 0;
}

static bool reap(struct ox_serve_loop *loop)
{
	bool any = false;

	for (unsigned i = 0; i < loop->part_count; i++)
		any = loop->parts[i]->ops->reap(loop->parts[i]) || any;
	if (any && loop->draining)
		loop->stuck_deadline_ms = ox_serve_now_ms() + loop->stuck_ms;
	return any;
}

static int exchange(struct ox_serve_loop *loop)
{
	for (int i = 0; i < EXCHANGES_A_TURN; i++) {
		int ret;

		loop->submitted = false;
		ret = ox_context_poll(loop->ctx);
		ox_stats_turn(loop->stats);
		if (ret < 0)
			return ret;
		if (reap(loop) || loop->more)
			serve(loop);
		if (!loop->submitted)
			break;
	}
	return 0;
}

static int run(struct ox_serve_loop *loop)
{
	int ret = 0;

	while (ret == 0 && !is_over(loop)) {
		ret = wait_events(loop);
		if (ret < 0)
			break;
		serve(loop);
		ret = exchange(loop);
		for (unsigned i = 0; i < loop->part_count; i++)
			loop->parts[i]->ops->settle(loop->parts[i]);
		if (loop->wants_end && !loop->draining)
			begin_drain(loop);
		if (ox_stats_is_due(loop->stats))
			ox_serve_publish(loop);
		if (ret == 0 && is_stuck(loop))
			ret = -ETIMEDOUT;
	}
	return ret;
}

/* ---- beginning ---- */

static void stop_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
	sigaddset(ret_set, SIGHUP);
}

void ox_serve_block_signals(void)
{
	sigset_t set;

	stop_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static int open_fds(struct ox_serve_loop *loop, struct ox_serve_error *error)
{
	sigset_t set;
	int ret;

	stop_signals(&set);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->options->handed) {
		loop->signals.fd = loop->options->handed->stop_fd;
		loop->signals.event = take_messages;
	} else {
		loop->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	}
	if (loop->epoll_fd < 0 || loop->signals.fd < 0)
		return ox_serve_fail(error, -errno, "Cannot set up the event loop");
	loop->library.fd = ox_context_fd(loop->ctx);
	ret = ox_serve_watch(loop, EPOLL_CTL_ADD, &loop->signals, EPOLLIN);
	if (ret == 0)
		ret = ox_serve_watch(loop, EPOLL_CTL_ADD, &loop->library, EPOLLIN | EPOLLET);
	return ret < 0 ? ox_serve_fail(error, ret, "Cannot set up the event loop") : 0;
}

/* Makes the parts, and tells that clients can connect. */
static int begin(struct ox_serve_loop *loop, struct ox_serve_error *error)
{
	const struct ox_serve_options *options = loop->options;
	const char *vhost_path = NULL;
	char *uri = NULL;
	int ret = open_fds(loop, error);

	if (ret == 0 && options->handed && options->handed->answer) {
		ret = ox_commands_new(loop, &loop->commands, error);
		if (ret == 0)
			loop->parts[loop->part_count++] = loop->commands;
	}
	if (ret == 0 && options->nbd.address) {
		ret = ox_nbd_server_new(loop, &loop->nbd, &uri, error);
		if (ret == 0)
			loop->parts[loop->part_count++] = loop->nbd;
	}
	if (ret == 0 && options->vhost.path) {
		ret = ox_vhost_server_new(loop, &loop->parts[loop->part_count], &vhost_path, error);
		loop->part_count += ret == 0;
	}
	if (ret == 0 && options->fuse.is_wanted) {
		ret = ox_fuse_server_new(loop, &loop->parts[loop->part_count], error);
		loop->part_count += ret == 0;
	}
	if (ret == 0)
		ox_serve_publish(loop); /* as it is when it is said to be served */
	if (ret == 0) {
		ox_serve_room_begin(loop);
		ret = options->ready(options->opaque, uri, vhost_path);
		if (ret < 0)
			error->message[0] = '\0';
	}
	free(uri);
	return ret;
}

/* The library keeps requests that do not complete: nobody can say what became of them. */
static void tell_lost(const struct ox_serve_loop *loop, int code, struct ox_serve_error *error)
{
	error->requests_lost = true;
	if (code == -ETIMEDOUT)
		snprintf(error->message, sizeof(error->message),
			 "The image's file does not answer: %zu requests did not complete within "
			 "%lld s, and the image is not closed",
			 pending(loop), (long long)loop->stuck_ms / 1000);
	else
		ox_serve_fail(error, code, "The I/O engine failed");
}

/* Those that an operator had set at a server that died come before the options. */
static void begin_limits(struct ox_serve_loop *loop)
{
	struct ox_serve_limits limits = loop->options->limits;

	if (!ox_stats_kept_limits(loop->stats, &limits))
		limits = loop->options->limits;
	ox_serve_limits_set(loop, &limits);
}

int ox_serve(struct ox_context *ctx, struct ox_image *image, const struct ox_serve_options *options,
	     struct ox_serve_error *ret_error)
{
	struct ox_serve_loop loop = {
		.options = options,
		.ctx = ctx,
		.image = image,
		.epoll_fd = -1,
		.signals = {-1, take_signals},
		.library = {-1, ignore_library},
		.stats = options->handed ? options->handed->stats : NULL,
		.stuck_ms = options->drain_ms ? options->drain_ms : STUCK_MS,
	};
	int ret;

	*ret_error = (struct ox_serve_error){0};
	begin_limits(&loop);
	ret = begin(&loop, ret_error);
	if (ret == 0) {
		ox_context_set_polled(ctx, true); /* exchange does, in each turn */
		ret = run(&loop);
		ox_serve_publish(&loop);
		ox_context_set_polled(ctx, false);
		if (ret < 0)
			tell_lost(&loop, ret, ret_error);
	}
	while (loop.part_count > 0) {
		struct ox_serve_part *part = loop.parts[--loop.part_count];

		part->ops->free(part, ret_error->requests_lost);
	}
	ox_serve_room_end(&loop);
	if (loop.signals.fd >= 0)
		close(loop.signals.fd);
	if (loop.epoll_fd >= 0)
		close(loop.epoll_fd);
	return ret;
}
