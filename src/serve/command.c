/* SPDX-License-Identifier: MIT */
#include "serve/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define FLUSHES 16

struct flush {
	struct ox_request request; /* user: this struct */
	uint32_t id;
	bool is_under_way;
};

struct commands {
	struct ox_serve_part part; /* first */
	struct ox_queue *queue;
	struct flush flushes[FLUSHES];
	struct ox_job *resize; /* NULL: none */
	uint32_t resize_id;
	bool draining;
};

static struct commands *commands_of(struct ox_serve_part *part)
{
	return (struct commands *)part;
}

/* What it brought about is to be seen by whoever hears the answer. */
static void answer(struct commands *commands, uint32_t id, int code)
{
	struct ox_serve_loop *loop = commands->part.loop;
	const struct ox_serve_handed *handed = loop->options->handed;

	ox_serve_publish(loop);
	handed->answer(handed->opaque, id, code);
}

/* ---- flush ---- */

static int begin_flush(struct commands *commands, uint32_t id)
{
	for (unsigned i = 0; i < FLUSHES; i++) {
		struct flush *flush = &commands->flushes[i];
		int ret;

		if (flush->is_under_way)
			continue;
		*flush = (struct flush){.request = {.op = OX_OP_FLUSH, .user = flush}, .id = id};
		ret = ox_queue_submit(commands->queue, &flush->request);
		if (ret < 0)
			return ret;
		flush->is_under_way = true;
		commands->part.loop->submitted = true;
		return 0;
	}
	return -EBUSY;
}

static bool reap_flushes(struct commands *commands)
{
	struct ox_request *requests[FLUSHES];
	const size_t count = ox_queue_reap(commands->queue, requests, FLUSHES);

	for (size_t i = 0; i < count; i++) {
		struct flush *flush = requests[i]->user;

		flush->is_under_way = false;
		answer(commands, flush->id, flush->request.result);
	}
	return count > 0;
}

/* ---- resize ---- */

static void tell_failure(const struct commands *commands, struct ox_error *error)
{
	if (error)
		ox_serve_warn(commands->part.loop, "Cannot resize the disk: %s",
			      ox_error_message(error));
	ox_error_free(error);
}

static int begin_resize(struct commands *commands, const struct ox_serve_command *command)
{
	struct ox_image *image = commands->part.loop->image;
	const uint64_t now_bytes = ox_image_size(image);
	const uint64_t flags = command->values[1];
	uint64_t bytes = command->values[0];
	struct ox_error *error = NULL;
	int ret;

	if (flags & ~(uint64_t)(OX_SERVE_RESIZE_MORE | OX_SERVE_RESIZE_SHRINKS))
		return -EINVAL;
	if ((flags & OX_SERVE_RESIZE_MORE) && __builtin_add_overflow(bytes, now_bytes, &bytes))
		return -EFBIG;
	if (bytes > INT64_MAX)
		return -EFBIG;
	if (ox_image_is_read_only(image))
		return -EROFS;
	if (commands->resize)
		return -EBUSY;
	if (bytes < now_bytes && !(flags & OX_SERVE_RESIZE_SHRINKS))
		return -EPERM;
	ret = ox_resize_start(image, bytes, &commands->resize, &error);
	if (ret < 0) {
		tell_failure(commands, error);
		return ret;
	}
	commands->resize_id = command->id;
	commands->part.loop->submitted = true;
	return 0;
}

/* The other parts look at the image's size by themselves. */
static bool reap_resize(struct commands *commands)
{
	struct ox_error *error = NULL;
	int ret;

	if (!commands->resize || !ox_job_is_done(commands->resize))
		return false;
	ret = ox_job_end(commands->resize, NULL, &error);
	commands->resize = NULL;
	if (ret < 0)
		tell_failure(commands, error);
	else
		ox_serve_tell(commands->part.loop, "the disk has %llu bytes now",
			      (unsigned long long)ox_image_size(commands->part.loop->image));
	answer(commands, commands->resize_id, ret);
	return true;
}

/* ---- limits ---- */

static int set_limits(struct commands *commands, const uint64_t *values)
{
	const struct ox_serve_limits limits = {values[0], values[1], values[2], values[3]};

	for (unsigned i = 0; i < OX_SERVE_COMMAND_VALUES; i++)
		if (values[i] > OX_SERVE_LIMIT_MAX)
			return -EINVAL;
	if ((limits.iops == 0 && limits.iops_burst > 0) ||
	    (limits.bandwidth == 0 && limits.bandwidth_burst > 0))
		return -EINVAL;
	ox_serve_limits_set(commands->part.loop, &limits);
	ox_stats_keep_limits(commands->part.loop->stats);
	return 0;
}

/* ---- all of them ---- */

ssize_t ox_commands_receive(int socket, struct ox_serve_command *command, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct ox_serve_command got_command;
	struct iovec iov = {&got_command, sizeof(got_command)};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	const struct cmsghdr *head;
	ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);

	*ret_fd = -1;
	if (got < 0)
		return got;
	if (ox_serve_is_command((size_t)got))
		*command = got_command;
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
	    head->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(head), sizeof(int));
	return got;
}

static int renew_tls(struct commands *commands, int fd)
{
	struct ox_serve_part *nbd = commands->part.loop->nbd;

	return nbd && fd >= 0 ? ox_nbd_server_renew_tls(nbd, fd) : -EINVAL;
}

void ox_commands_take(struct ox_serve_part *part, const struct ox_serve_command *command, int fd)
{
	struct commands *commands = commands_of(part);
	bool goes_on = false; /* the answer comes later */
	int ret;

	if (commands->draining) {
		answer(commands, command->id, -ESHUTDOWN);
		return;
	}
	switch (command->kind) {
	case OX_SERVE_FLUSH:
		ret = begin_flush(commands, command->id);
		goes_on = ret == 0;
		break;
	case OX_SERVE_RESIZE:
		ret = begin_resize(commands, command);
		goes_on = ret == 0;
		break;
	case OX_SERVE_LIMIT:
		ret = set_limits(commands, command->values);
		break;
	case OX_SERVE_RESUME:
		ox_serve_resume(commands->part.loop);
		ret = 0;
		break;
	case OX_SERVE_RENEW_TLS:
		ret = renew_tls(commands, fd);
		break;
	default:
		ret = -EINVAL;
	}
	if (!goes_on)
		answer(commands, command->id, ret);
}

/* ---- the part ---- */

static void serve(struct ox_serve_part *part)
{
	(void)part;
}

static bool reap(struct ox_serve_part *part)
{
	const bool any = reap_flushes(commands_of(part));

	return reap_resize(commands_of(part)) || any;
}

static bool is_busy(const struct ox_serve_part *part)
{
	(void)part;
	return false;
}

static int64_t deadline_ms(const struct ox_serve_part *part)
{
	(void)part;
	return INT64_MAX;
}

static void expire(struct ox_serve_part *part, int64_t now_ms)
{
	(void)part;
	(void)now_ms;
}

static void drain(struct ox_serve_part *part)
{
	struct commands *commands = commands_of(part);

	commands->draining = true;
	if (commands->resize)
		ox_job_cancel(commands->resize);
}

static size_t pending(const struct ox_serve_part *part)
{
	const struct commands *commands = (const struct commands *)part;

	return ox_queue_pending(commands->queue) + (commands->resize != NULL);
}

static bool is_over(const struct ox_serve_part *part)
{
	return pending(part) == 0;
}

static void free_commands(struct ox_serve_part *part, bool requests_lost)
{
	struct commands *commands = commands_of(part);

	if (requests_lost)
		return; /* the library still knows what was asked of it */
	ox_queue_free(commands->queue);
	free(commands);
}

static const struct ox_serve_part_ops ops = {
	.serve = serve,
	.reap = reap,
	.settle = serve,
	.is_busy = is_busy,
	.deadline_ms = deadline_ms,
	.expire = expire,
	.drain = drain,
	.pending = pending,
	.is_over = is_over,
	.free = free_commands,
};

int ox_commands_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
		    struct ox_serve_error *error)
{
	struct commands *commands = calloc(1, sizeof(*commands));
	int ret;

	if (!commands)
		return ox_serve_fail(error, -ENOMEM, "Cannot take commands");
	commands->part = (struct ox_serve_part){&ops, loop};
	ret = ox_queue_new(loop->image, &commands->queue);
	if (ret < 0) {
		free(commands);
		return ox_serve_fail(error, ret, "Cannot make a request queue");
	}
	*ret_part = &commands->part;
	return 0;
}
