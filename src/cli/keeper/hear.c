/* SPDX-License-Identifier: MIT */
/*
 * What children say. It is believed only as far as the role of the child and what it has said
 * before allow. One that says anything else is killed, and has died.
 */
#include "cli/keeper/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int take_witnesses(struct ox_kept_disk *disk, struct ox_wire_message *message)
{
	if (message->fd_count != OX_KEPT_WITNESSES || disk->next_witnesses.count != 0 ||
	    !disk->writable)
		return -EBADMSG;
	memcpy(disk->next_witnesses.fds, message->fds, sizeof(disk->next_witnesses.fds));
	disk->next_witnesses.count = OX_KEPT_WITNESSES;
	message->fd_count = 0;
	return 0;
}

static int take_from_opener(struct ox_kept_disk *disk, struct ox_wire_message *message)
{
	switch (message->kind) {
	case OX_WIRE_LOCKED:
		/* Once: what is locked is not changed any more. */
		if (disk->chain_is_open)
			return -EBADMSG;
		return ox_wire_take_list(message, disk->locked, &disk->locked_count,
					 OX_KEPT_CHAIN_MAX);
	case OX_WIRE_FRESH:
		return ox_wire_take_list(message, disk->fresh, &disk->fresh_count,
					 disk->locked_count);
	case OX_WIRE_WITNESS:
		return take_witnesses(disk, message);
	default:
		return -EBADMSG;
	}
}

/* NULL: the address is none that a service manager has made. */
static const char *name_of_handed(const char *address)
{
	static const char scheme[] = "systemd:";

	return strncmp(address, scheme, strlen(scheme)) == 0 ? address + strlen(scheme) : NULL;
}

static int adopt(const struct ox_keeper *keeper, const char *name, struct ox_listeners *ret,
		 struct ox_serve_error *error)
{
	for (unsigned i = 0; i < keeper->handed.count; i++) {
		const struct ox_handed_fd *one = &keeper->handed.fds[i];

		if (one->fd >= 0 && strcmp(one->text, name) == 0)
			return ox_listen_adopt(one->fd, name, ret, error);
	}
	snprintf(error->message, sizeof(error->message),
		 "The service manager has handed over no socket '%s' (FileDescriptorName=)", name);
	return -ENOENT;
}

/* Of NBD. Whoever has an operator add a disk has listened, and looked at that, himself. */
static int listen_to_nbd(struct ox_kept_disk *disk, struct ox_serve_error *error)
{
	const struct ox_keeper_disk_options *options = disk->options;
	const char *address = options->address;
	int ret;

	if (!address || disk->listeners.count > 0)
		return 0;
	ret = name_of_handed(address)
		      ? adopt(disk->keeper, name_of_handed(address), &disk->listeners, error)
		      : ox_listen(address, &options->rights, &disk->listeners, error);
	return ret == 0 ? ox_listen_check(&disk->listeners, &options->nbd, error) : ret;
}

/* Once: they outlive the workers. */
static int begin_listening(struct ox_kept_disk *disk, struct ox_serve_error *error)
{
	const struct ox_keeper_disk_options *options = disk->options;
	const char *path = options->vhost_path;
	int ret = listen_to_nbd(disk, error);

	if (ret == 0 && path && disk->vhost_listeners.count == 0)
		ret = name_of_handed(path) ? adopt(disk->keeper, name_of_handed(path),
						   &disk->vhost_listeners, error)
					   : ox_listen_path(path, &options->rights,
							    &disk->vhost_listeners, error);
	if (ret == 0 && path && !disk->vhost_listeners.is_unix) {
		snprintf(error->message, sizeof(error->message),
			 "'%s' is no unix socket: vhost-user goes over nothing else", path);
		ret = -EINVAL;
	}
	return ret;
}

/* Those of the dead worker, and those that are to come. */
static int hand_over_fronts(struct ox_kept_disk *disk)
{
	int fd = ox_fronts_begin(&disk->fronts);
	int ret;

	if (fd < 0)
		return fd;
	ret = ox_keeper_tell(disk, OX_WIRE_LISTEN, OX_WIRE_UNIX | OX_WIRE_VHOST, &fd, 1);
	close(fd);
	return ret;
}

bool ox_keeper_is_wanted(const struct ox_keeper *keeper, const char *text)
{
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next) {
		const char *const addresses[] = {disk->options->address, disk->options->vhost_path};

		for (int i = 0; i < 2; i++) {
			const char *name = addresses[i] ? name_of_handed(addresses[i]) : NULL;

			if (name && strcmp(name, text) == 0)
				return true;
		}
	}
	return false;
}

static int listen_for_worker(struct ox_kept_disk *disk)
{
	struct ox_serve_error error = {0};
	int ret;

	if (disk->store.phase == OX_STORE_ADOPTING)
		disk->store.phase = OX_STORE_KEPT;
	if (disk->stops > 0)
		return 0;      /* it was told */
	ox_store_settle(disk); /* before anything is answered */
	ret = begin_listening(disk, &error);
	if (ret < 0) {
		ox_keeper_say("%s", error.message);
		disk->status = 1;
		disk->stops++;
		return ox_keeper_tell(disk, OX_WIRE_STOP, 0, NULL, 0);
	}
	if (disk->options->address)
		ret = ox_keeper_tell(disk, OX_WIRE_LISTEN,
				     disk->listeners.is_unix ? OX_WIRE_UNIX : 0,
				     disk->listeners.fds, (unsigned)disk->listeners.count);
	if (ret == 0 && disk->options->vhost_path)
		ret = hand_over_fronts(disk);
	return ret;
}

static int announce(struct ox_kept_disk *disk)
{
	char *uri = NULL;
	int ret = 0;

	if (disk->options->address) {
		uri = ox_listeners_uri(&disk->listeners, disk->options->export_name,
				       disk->options->tls.directory != NULL);
		ret = uri ? 0 : -ENOMEM;
	}

	disk->announced = true;
	if (disk->death_ms != 0)
		ox_keeper_say("What the last server of '%s' left with the service manager is "
			      "adopted, after %lld ms, of them %lld for its requests",
			      disk->options->image, (long long)(disk->ready_ms - disk->death_ms),
			      (long long)(disk->barrier_ms - disk->death_ms));
	if (ret < 0)
		ox_keeper_say("Cannot tell the address: %s", strerror(ENOMEM));
	else
		ret = disk->options->ready(disk->options->opaque, uri, disk->vhost_listeners.path);
	free(uri);
	if (ret == 0) {
		ox_keeper_check_ready(disk->keeper);
		return 0;
	}
	disk->status = 1;
	disk->stops++;
	return ox_keeper_tell(disk, OX_WIRE_STOP, 0, NULL, 0);
}

static int is_ready(struct ox_kept_disk *disk)
{
	disk->ready_ms = ox_keeper_now_ms();
	disk->tries = 0;
	ox_kept_tls_ready(disk);
	if (!disk->announced && disk->stops == 0)
		return announce(disk);
	if (disk->death_ms != 0)
		ox_keeper_say("Process %ld serves '%s' again after %lld ms, of them %lld for "
			      "requests of the "
			      "dead one",
			      (long)disk->child.pid, disk->options->image,
			      (long long)(disk->ready_ms - disk->death_ms),
			      (long long)(disk->barrier_ms - disk->death_ms));
	ox_keeper_check_ready(disk->keeper);
	return 0;
}

/* Commands are passed on to one that serves alone, and answered with numbers alone. */
static int take_from_worker(struct ox_kept_disk *disk, const struct ox_wire_message *message)
{
	bool in_order;

	if (message->fd_count > 0)
		return -EBADMSG;
	switch (message->kind) {
	case OX_WIRE_SYNCED:
		in_order = disk->must_sync;
		disk->must_sync = false;
		if (in_order)
			ox_keeper_keep_next_witnesses(disk);
		return in_order ? 0 : -EBADMSG;
	case OX_WIRE_ANSWERED:
		if (message->number / OX_WIRE_ERRORS == OX_WIRE_TLS_ID)
			return ox_kept_tls_answered(disk, -(int)(message->number % OX_WIRE_ERRORS));
		return ox_keeper_control_answered(disk, message->number);
	case OX_WIRE_OPENED:
		in_order = disk->progress == BEGUN;
		disk->progress = OPENED;
		disk->state_is_needed = disk->writable;
		if (disk->options->group)
			ox_watch_follow_thread(&disk->watch, disk->child.pid, message->number);
		return in_order ? listen_for_worker(disk) : -EBADMSG;
	case OX_WIRE_READY:
		in_order = disk->progress == OPENED;
		disk->progress = READY;
		return in_order ? is_ready(disk) : -EBADMSG;
	case OX_WIRE_ENDED:
		if (!disk->options->group || message->number > UINT8_MAX)
			return -EBADMSG;
		ox_keeper_thread_has_ended(disk, (int)message->number);
		return 0;
	default:
		return -EBADMSG;
	}
}

static void kill_who_lies(struct ox_kept_disk *disk)
{
	ox_keeper_say("Process %ld said what it must not, and is killed", (long)disk->child.pid);
	ox_keeper_kill_child(disk);
}

void ox_keeper_hear_child(struct ox_kept_disk *disk)
{
	struct ox_wire_message message;
	int ret = ox_wire_receive(disk->child.socket, &message);

	if (ret == -EAGAIN)
		return;
	if (ret == 0) { /* it ends, or has closed it: then it can be told nothing any more */
		close(disk->child.socket);
		disk->child.socket = -1;
		return;
	}
	if (ret == 1) {
		ret = disk->phase == OPENING ? take_from_opener(disk, &message)
					     : take_from_worker(disk, &message);
		ox_wire_close(&message);
	}
	if (ret < 0 && ret != -EBADMSG)
		ox_keeper_check_told(disk, ret);
	else if (ret < 0)
		kill_who_lies(disk);
}

void ox_keeper_hear_of_fronts(struct ox_kept_disk *disk)
{
	if (ox_fronts_hear(&disk->fronts) < 0)
		kill_who_lies(disk);
}
