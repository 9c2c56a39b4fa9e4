/* SPDX-License-Identifier: MIT */
/* The worker's side of its keeper: it is given descriptors, and can ask for nothing. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/wire.h"

/*
 * The barrier tells the keeper when the last request has ended in the kernel. The locked
 * description is for a keeper that dies as well: its locks last as long as requests of this process
 * may still write, whoever else wants the image.
 */
static int hold(struct ox_kept *kept, struct ox_context *ctx)
{
	struct ox_error *error = NULL;
	int ret = kept->barrier < 0 ? -EBADMSG : ox_context_hold(ctx, kept->barrier, &error);

	if (ret == 0 && kept->locked_count > 0)
		ret = ox_context_hold(ctx, kept->locked[0], &error);
	if (ret < 0)
		ox_cli_error("Could not keep what the keeper waits for: %s",
			     error ? ox_error_message(error) : strerror(-ret));
	ox_error_free(error);
	/* The context has them; a process that shows no lock is not named as their holder. */
	if (kept->barrier >= 0)
		close(kept->barrier);
	while (kept->locked_count > 0)
		close(kept->locked[--kept->locked_count]);
	kept->barrier = -1;
	return ret;
}

/* An error of a write-back that the dead worker has been told of is told to this description as
 * well, which was opened before its first write (M3). */
static int sync_witness(struct ox_kept *kept, const char *image,
			const struct ox_open_options *options)
{
	int ret = 0;

	if (kept->witness < 0)
		return 0;
	if (options->cache != OX_CACHE_UNSAFE && fsync(kept->witness) < 0)
		ret = -errno;
	close(kept->witness);
	kept->witness = -1;
	if (ret == 0)
		return ox_wire_send(kept->socket, OX_WIRE_SYNCED, 0, NULL, 0);
	ox_cli_error("Could not open '%s' again: a sync failed (%s): nobody knows which writes "
		     "since the last flush are on disk",
		     image, strerror(-ret));
	return ret;
}

int ox_kept_start(struct ox_kept *kept, struct ox_context *ctx, const char *image,
		  const struct ox_open_options *options)
{
	int ret = hold(kept, ctx);

	return ret < 0 ? ret : sync_witness(kept, image, options);
}

int ox_kept_file(struct ox_kept *kept, const struct ox_file_wanted *wanted)
{
	int fd;

	if (wanted->depth >= kept->fresh_count || kept->fresh[wanted->depth] < 0)
		return -ENOENT;
	fd = kept->fresh[wanted->depth];
	kept->fresh[wanted->depth] = -1; /* it is the library's now */
	return fd;
}

void ox_kept_set_state(const struct ox_kept *kept, struct ox_open_options *options)
{
	if (kept->state >= 0)
		options->state_fd = kept->state;
}

static int take_listeners(struct ox_kept *kept, struct ox_wire_message *message)
{
	if (message->fd_count == 0 || message->fd_count > OX_KEPT_LISTENERS)
		return -EBADMSG;
	memcpy(kept->listeners, message->fds, message->fd_count * sizeof(int));
	kept->handed = (struct ox_serve_handed){
		.listeners = kept->listeners,
		.listener_count = (int)message->fd_count,
		.listeners_are_unix = message->number != 0,
		.stop_fd = kept->socket,
	};
	message->fd_count = 0;
	/* The server waits for many things, and reads what is there. */
	return fcntl(kept->socket, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
}

int ox_kept_await_listeners(struct ox_kept *kept)
{
	struct ox_wire_message message;
	int ret = ox_wire_send(kept->socket, OX_WIRE_OPENED, 0, NULL, 0);

	if (ret == 0)
		ret = ox_wire_receive(kept->socket, &message);
	if (ret <= 0)
		return ret < 0 ? ret : -ESRCH;
	if (message.kind == OX_WIRE_STOP)
		ret = 1;
	else
		ret = message.kind == OX_WIRE_LISTEN ? take_listeners(kept, &message) : -EBADMSG;
	ox_wire_close(&message);
	return ret;
}

int ox_kept_ready(const struct ox_kept *kept)
{
	return ox_wire_send(kept->socket, OX_WIRE_READY, 0, NULL, 0);
}
