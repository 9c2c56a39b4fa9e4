/* SPDX-License-Identifier: MIT */
/* The worker's side of its keeper: it is given descriptors, and can ask for nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/wire.h"

/* By how much: the kernel's scale goes up to 1000. */
#define OFFER 200
#define OFFER_MAX 1000

void ox_kept_offer_to_end(void)
{
	FILE *file = fopen("/proc/self/oom_score_adj", "r+e");
	int score;

	if (!file)
		return;
	if (fscanf(file, "%d", &score) == 1) {
		score = score + OFFER < OFFER_MAX ? score + OFFER : OFFER_MAX;
		rewind(file);
		(void)fprintf(file, "%d", score);
	}
	fclose(file); /* where it fails, all of them are as likely */
}

/*
 * The barrier tells the keeper when the last request has ended in the kernel. The locked
 * description is for a keeper that dies as well: its locks last as long as requests of this process
 * may still write, whoever else wants the image.
 */
int ox_kept_hold(struct ox_kept *kept, struct ox_context *ctx)
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

static const char *name_of(enum ox_op op)
{
	static const char *const names[] = {
		[OX_OP_READ] = "read",
		[OX_OP_WRITE] = "write",
		[OX_OP_WRITE_ZEROES] = "write of zeroes",
		[OX_OP_DISCARD] = "trim",
		[OX_OP_FLUSH] = "flush",
		[OX_OP_EXTENT] = "block status",
	};

	return names[op];
}

int ox_kept_take_flight(struct ox_kept *kept, struct ox_context *ctx, const char *image)
{
	struct ox_flight_request refused;
	int ret = ox_flight_open(kept->flight_fd, &kept->death, &kept->flight);

	if (ret < 0) {
		ox_cli_error("Could not take over what was in flight: %s", strerror(-ret));
		return ret;
	}
	close(kept->flight_fd);
	kept->flight_fd = -1;
	ox_context_count_turns(ctx, ox_flight_turns(kept->flight));
	while (ox_flight_next_refused(kept->flight, &refused))
		ox_cli_error("'%s': two processes died while a %s of %llu bytes at %llu was under "
			     "way. It is answered with an error (EIO) from now on; stop the server "
			     "and start it again to have it tried again, and report the deaths",
			     image, name_of(refused.op), (unsigned long long)refused.length,
			     (unsigned long long)refused.offset);
	return 0;
}

int ox_kept_take_stats(struct ox_kept *kept)
{
	int ret = ox_stats_open(kept->stats_fd, &kept->stats);

	if (ret < 0) {
		ox_cli_error("Could not take over what was counted: %s", strerror(-ret));
		return ret;
	}
	close(kept->stats_fd);
	kept->stats_fd = -1;
	return 0;
}

int ox_kept_file(struct ox_kept *kept, const struct ox_file_wanted *wanted)
{
	int fd;

	if (wanted->depth >= kept->fresh_count || kept->fresh[wanted->depth] < 0)
		return -ENOENT;
	if (kept->paths[wanted->depth] && strcmp(kept->paths[wanted->depth], wanted->path) != 0)
		return -ESTALE; /* nobody locks an export: another one may write it */
	fd = kept->fresh[wanted->depth];
	kept->fresh[wanted->depth] = -1; /* it is the library's now */
	return fd;
}

void ox_kept_set_options(const struct ox_kept *kept, struct ox_open_options *options)
{
	if (kept->state >= 0)
		options->state_fd = kept->state;
	if (kept->witness >= 0)
		options->witness_fd = kept->witness;
	else if (kept->witness_is_used_up)
		options->witness_fd = -1;
}

/* The keeper that does not hear of it uses up a witness more than it must. */
void ox_kept_synced(const struct ox_kept *kept)
{
	int ret = ox_wire_send(kept->socket, OX_WIRE_SYNCED, 0, NULL, 0);

	if (ret < 0)
		ox_cli_error("The keeper cannot be told of a sync: %s", strerror(-ret));
}

static int take_listeners(struct ox_kept *kept, struct ox_wire_message *message)
{
	struct ox_serve_handed *handed = &kept->handed;

	if (message->number & OX_WIRE_FUSE) {
		if (message->fd_count != 1 || handed->fuse_fd >= 0)
			return -EBADMSG;
		handed->fuse_fd = message->fds[0];
	} else if (message->number & OX_WIRE_VHOST) {
		if (message->fd_count != 1 || handed->vhost_keeper >= 0)
			return -EBADMSG;
		handed->vhost_keeper = message->fds[0];
	} else {
		if (message->fd_count == 0 || message->fd_count > OX_KEPT_LISTENERS ||
		    handed->listener_count > 0)
			return -EBADMSG;
		memcpy(kept->listeners, message->fds, message->fd_count * sizeof(int));
		handed->listeners = kept->listeners;
		handed->listener_count = (int)message->fd_count;
		handed->listeners_are_unix = message->number & OX_WIRE_UNIX;
	}
	message->fd_count = 0;
	return 0;
}

/* As ox_kept_await_listeners. */
static int await_one(struct ox_kept *kept)
{
	struct ox_wire_message message;
	int ret = ox_wire_receive(kept->socket, &message);

	if (ret <= 0)
		return ret < 0 ? ret : -ESRCH;
	if (message.kind == OX_WIRE_STOP)
		ret = 1;
	else
		ret = message.kind == OX_WIRE_LISTEN ? take_listeners(kept, &message) : -EBADMSG;
	ox_wire_close(&message);
	return ret;
}

/* A keeper that is gone needs no answer. */
static void answer(void *opaque, uint32_t id, int code)
{
	const struct ox_kept *kept = opaque;
	const int error = code > -(int)OX_WIRE_ERRORS ? code : -EIO;
	int ret = ox_wire_send(kept->socket, OX_WIRE_ANSWERED, OX_WIRE_ANSWER(id, error), NULL, 0);

	if (ret < 0 && ret != -EPIPE)
		ox_cli_error("The keeper cannot be told of an answer: %s", strerror(-ret));
}

int ox_kept_await_listeners(struct ox_kept *kept, unsigned protocols)
{
	int ret = ox_wire_send(kept->socket, OX_WIRE_OPENED, (uint32_t)gettid(), NULL, 0);

	if (kept->witness >= 0)
		close(kept->witness); /* the image has it */
	kept->witness = -1;
	kept->handed = (struct ox_serve_handed){
		.vhost_keeper = -1,
		.vhost_listener = -1,
		.fuse_fd = -1,
		.was_killed = kept->death.from_outside,
		.stop_fd = kept->socket,
		.flight = kept->flight,
		.stats = kept->stats,
		.answer = answer,
		.opaque = kept,
	};
	for (unsigned i = 0; ret == 0 && i < protocols; i++)
		ret = await_one(kept);
	if (ret != 0)
		return ret;
	/* The server waits for many things, and reads what is there. */
	return fcntl(kept->socket, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
}

int ox_kept_ready(const struct ox_kept *kept)
{
	return ox_wire_send(kept->socket, OX_WIRE_READY, 0, NULL, 0);
}

static void close_list(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void ox_kept_close(struct ox_kept *kept)
{
	const int fds[] = {kept->socket, kept->given,	  kept->barrier,  kept->witness,
			   kept->state,	 kept->flight_fd, kept->stats_fd, kept->tls_fd};

	close_list(fds, sizeof(fds) / sizeof(fds[0]));
	close_list(kept->locked, kept->locked_count);
	close_list(kept->fresh, kept->fresh_count);
	kept->locked_count = kept->fresh_count = 0;
}

/* A keeper that does not hear of it is gone, or takes it for hanging. */
void ox_kept_tell_end(int socket, int status)
{
	int ret = ox_wire_send(socket, OX_WIRE_ENDED, (uint32_t)status, NULL, 0);

	if (ret < 0 && ret != -EPIPE)
		ox_cli_error("The keeper cannot be told of an end: %s", strerror(-ret));
}
