/* SPDX-License-Identifier: MIT */
/* What a server does about the room on its image's host: --on-full and --low-space. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "serve/loop.h"

void ox_serve_resume(struct ox_serve_loop *loop)
{
	ox_full_resume(&loop->full);
}

void ox_serve_room_publish(const struct ox_serve_loop *loop)
{
	const struct ox_stats_room room = {
		.waiting = loop->full.waiting + loop->full.tried,
		.since_ms = (uint64_t)loop->full.since_ms,
		.is_low = loop->low_space,
		.free_bytes = loop->space ? ox_space_free_bytes(loop->space) : UINT64_MAX,
	};

	ox_stats_set_room(loop->stats, &room);
}

static void tell_of_room(void *opaque, enum ox_full_news news)
{
	static const char *const texts[] = {
		[OX_FULL_BEGINS] = "'%s' is full: writes wait until there is room",
		[OX_FULL_ROOM] = "'%s' has room again: writes go on",
		[OX_FULL_ENDS] = "'%s': no write waits for room any more",
	};
	struct ox_serve_loop *loop = opaque;

	ox_serve_warn(loop, texts[news], ox_serve_name(loop));
	ox_serve_room_publish(loop);
}

/* "10G", as it is typed. */
static const char *size_text(char text[32], uint64_t bytes)
{
	static const char suffixes[] = "KMGT";
	const char *suffix = "";
	uint64_t number = bytes;

	for (const char *at = suffixes; *at && number > 0 && number % 1024 == 0; at++) {
		number /= 1024;
		suffix = at;
	}
	snprintf(text, 32, "%llu%.1s", (unsigned long long)number, suffix);
	return text;
}

static void take_space_news(struct ox_watched *watched, uint32_t events)
{
	char *at = (char *)watched - offsetof(struct ox_serve_loop, space_news);
	struct ox_serve_loop *loop = (struct ox_serve_loop *)(void *)at;
	const bool low = ox_space_low(loop->space);
	char text[32];

	(void)events;
	if (low && !loop->low_space)
		ox_serve_warn(loop, "'%s': less than %s is free on its file system",
			      ox_serve_name(loop), size_text(text, loop->options->low_space_bytes));
	loop->low_space = low;
	ox_serve_room_publish(loop);
}

/* What cannot be told is said, and keeps nobody from being served. */
static void begin_space(struct ox_serve_loop *loop)
{
	const struct ox_serve_options *options = loop->options;
	int ret = -EBADF;

	if (options->low_space_bytes == 0)
		return;
	if (options->file_fd >= 0)
		ret = ox_space_begin(options->file_fd, options->low_space_bytes, &loop->space);
	if (ret == 0) {
		loop->space_news = (struct ox_watched){ox_space_fd(loop->space), take_space_news};
		ret = ox_serve_watch(loop, EPOLL_CTL_ADD, &loop->space_news, EPOLLIN);
	}
	if (ret == -ENOTSUP)
		ox_serve_warn(loop,
			      "'%s' is a block device: nobody knows how much room it has left "
			      "(--low-space)",
			      ox_serve_name(loop));
	else if (ret < 0)
		ox_serve_warn(loop, "'%s': nobody can tell how much room is left (--low-space): %s",
			      ox_serve_name(loop), strerror(-ret));
}

void ox_serve_room_begin(struct ox_serve_loop *loop)
{
	const struct ox_serve_options *options = loop->options;

	loop->full.pauses = options->on_full == OX_SERVE_FULL_PAUSE;
	loop->full.tell = tell_of_room;
	loop->full.opaque = loop;
	if (loop->full.pauses && !ox_image_is_read_only(loop->image) && options->file_fd >= 0 &&
	    !ox_space_is_told_at_write(options->file_fd, options->vhost.cache))
		ox_serve_warn(loop,
			      "'%s': its host may tell too late that there is no room, and a write "
			      "or a flush fails then (--on-full=pause). Cache modes none and "
			      "directsync are told in time",
			      ox_serve_name(loop));
	begin_space(loop);
	ox_serve_room_publish(loop); /* not a dead server's any more */
}

void ox_serve_room_end(struct ox_serve_loop *loop)
{
	ox_space_end(loop->space);
}
