/* SPDX-License-Identifier: MIT */
#include "cli/keeper/control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/keeper/internal.h"
#include "serve/command.h"

/* What one disk has to answer: more than there are clients who wait. */
#define ASKED_OF_DISK_MAX 64
/* How long a child that does not answer keeps the keeper from its end. */
#define LAST_ANSWERS_MS 500
#define PAUSE_MIN_MS 10
#define PAUSE_MAX_MS 10000
/* One that has lived so long has not died of what the last one died of. */
#define HEALTHY_MS 10000

/* ---- the process ---- */

/* It is told to begin over again, or says what it must not. */
static void kill_child(struct ox_keeper_control *control)
{
	if (control->child.socket >= 0)
		close(control->child.socket);
	control->child.socket = -1;
	if (control->child.pid > 0)
		kill(control->child.pid, SIGKILL);
}

static int tell_to_begin(struct ox_keeper_control *control)
{
	int ret =
		ox_wire_send(control->child.socket, OX_WIRE_CONTROL, 0, control->listeners.fds, 1);

	return ret < 0 ? ret
		       : ox_wire_send(control->child.socket, OX_WIRE_GO, (uint32_t)getpid(), NULL,
				      0);
}

static void start(struct ox_keeper *keeper)
{
	struct ox_keeper_control *control = &keeper->control;
	int ret = ox_spawn(keeper->binary, OX_KEPT_CONTROL, "", keeper->options->control_arguments,
			   &control->child);

	control->start_ms = INT64_MAX;
	control->started_ms = ox_keeper_now_ms();
	control->must_wait = control->told_all = false;
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		disk->known.is_known = false;
	if (ret == 0 && tell_to_begin(control) < 0)
		kill_child(control);
	if (ret == 0)
		return;
	control->child = (struct ox_spawned){.socket = -1};
	control->start_ms = control->started_ms + PAUSE_MAX_MS;
	ox_keeper_say("Cannot start the process for '%s': %s", control->path, strerror(-ret));
}

int ox_keeper_control_begin(struct ox_keeper *keeper)
{
	struct ox_keeper_control *control = &keeper->control;
	const struct ox_serve_socket_rights rights = {.has_mode = true, .mode = S_IRUSR | S_IWUSR};
	struct ox_serve_error error = {0};
	int ret;

	control->child.socket = -1;
	control->start_ms = INT64_MAX;
	control->path = keeper->options->control_path;
	if (!control->path)
		return 0;
	ret = ox_listen_path(control->path, &rights, &control->listeners, &error);
	if (ret < 0) {
		ox_keeper_say("%s", error.message);
		return ret;
	}
	control->start_ms = ox_keeper_now_ms(); /* in the first turn */
	return 0;
}

/* The child ends with the keeper, and passes on first what it was told last. */
static void await_last_answers(const struct ox_keeper_control *control)
{
	struct pollfd p = {.fd = control->child.socket};

	if (p.fd >= 0 && shutdown(p.fd, SHUT_WR) == 0)
		(void)poll(&p, 1, LAST_ANSWERS_MS); /* POLLHUP */
}

void ox_keeper_control_end(struct ox_keeper *keeper)
{
	await_last_answers(&keeper->control);
	ox_listeners_close(&keeper->control.listeners);
}

bool ox_keeper_control_reap(struct ox_keeper *keeper, pid_t pid, int code)
{
	struct ox_keeper_control *control = &keeper->control;
	const int64_t now_ms = ox_keeper_now_ms();
	int64_t pause_ms = PAUSE_MIN_MS;

	if (pid != control->child.pid || pid == 0)
		return false;
	if (WIFSIGNALED(code))
		ox_keeper_say("Process %ld, which listens on '%s', died of signal %d (%s)",
			      (long)pid, control->path, WTERMSIG(code), strsignal(WTERMSIG(code)));
	else
		ox_keeper_say("Process %ld, which listens on '%s', ended with %d", (long)pid,
			      control->path, WEXITSTATUS(code));
	if (control->child.socket >= 0)
		close(control->child.socket);
	control->child = (struct ox_spawned){.socket = -1};
	for (unsigned i = 0; i < OX_CONTROL_ASKED_MAX; i++)
		control->asked[i].is_orphan = true;
	ox_keeper_added_drop(&control->given);
	if (now_ms - control->started_ms >= HEALTHY_MS)
		control->deaths_in_row = 0;
	for (unsigned i = 0; i < control->deaths_in_row && pause_ms < PAUSE_MAX_MS; i++)
		pause_ms *= 2;
	control->deaths_in_row++;
	control->start_ms = now_ms + pause_ms;
	return true;
}

/* ---- what it is told ---- */

/* False: it is gone, or was killed, or takes nothing more for now. */
static bool tell(struct ox_keeper_control *control, const struct ox_control_told *told, int fd)
{
	int ret;

	if (control->child.socket < 0)
		return false;
	ret = ox_wire_send_bytes(control->child.socket, told, sizeof(*told), &fd, fd >= 0);
	if (ret == -EAGAIN && (told->kind == OX_CONTROL_DISK || told->kind == OX_CONTROL_ALL)) {
		control->must_wait = true; /* told later, as the disk is then */
		return false;
	}
	if (ret == 0)
		return true;
	kill_child(control); /* it does not read */
	return false;
}

static void answer(struct ox_keeper_control *control, uint32_t id, int code)
{
	const struct ox_control_told told = {.kind = OX_CONTROL_ANSWER, .number = id, .code = code};

	(void)tell(control, &told, -1);
}

static uint32_t state_of(const struct ox_kept_disk *disk)
{
	if (disk->phase == SAVING)
		return OX_CONTROL_SAVING;
	if (disk->stops > 0)
		return OX_CONTROL_ENDING;
	if (disk->phase == SERVING && disk->progress == READY)
		return OX_CONTROL_SERVING;
	return disk->phase == BARRIER || disk->phase == PAUSE ? OX_CONTROL_RESTARTING
							      : OX_CONTROL_STARTING;
}

static void tell_all(struct ox_keeper_control *control)
{
	const struct ox_control_told told = {.kind = OX_CONTROL_ALL};

	control->told_all = tell(control, &told, -1);
}

static void copy(char *to, size_t bytes, const char *text)
{
	if (text)
		snprintf(to, bytes, "%s", text);
}

static void tell_disk(struct ox_keeper_control *control, struct ox_kept_disk *disk)
{
	const struct ox_keeper_disk_options *options = disk->options;
	const struct ox_control_known now = {
		.is_known = true,
		.state = state_of(disk),
		.pid = disk->phase == SERVING ? disk->child.pid : 0,
		.deaths = disk->deaths,
	};
	struct ox_control_told told = {
		.kind = OX_CONTROL_DISK,
		.number = disk->number,
		.state = now.state,
		.pid = now.pid,
		.deaths = now.deaths,
		.since = disk->since,
		.is_added = disk->is_added,
	};

	if (disk->known.is_known && disk->known.state == now.state && disk->known.pid == now.pid &&
	    disk->known.deaths == now.deaths)
		return;
	copy(told.name, sizeof(told.name), options->name);
	copy(told.image, sizeof(told.image), options->image);
	copy(told.nbd, sizeof(told.nbd), options->address);
	copy(told.vhost, sizeof(told.vhost), options->vhost_path);
	if (tell(control, &told, disk->known.is_known ? -1 : disk->stats))
		disk->known = now;
}

/* ---- what it asks ---- */

static struct ox_kept_disk *find_disk(const struct ox_keeper *keeper, uint32_t number)
{
	struct ox_kept_disk *disk = keeper->disks;

	while (disk && (disk->number != number || disk->ended))
		disk = disk->next;
	return disk;
}

/* A process that answers nothing takes no more than its share. disk 0: it is nothing that a
 * process answers. */
static struct ox_control_asked *find_room(struct ox_keeper_control *control, uint32_t disk)
{
	struct ox_control_asked *room = NULL;
	unsigned same = 0;

	for (unsigned i = 0; i < OX_CONTROL_ASKED_MAX; i++) {
		struct ox_control_asked *asked = &control->asked[i];

		if (!asked->is_used)
			room = asked;
		else if (disk != 0 && asked->disk == disk)
			same++;
	}
	return same < ASKED_OF_DISK_MAX ? room : NULL;
}

/* 0: it is answered later. */
static int pass_on(struct ox_keeper *keeper, struct ox_kept_disk *disk,
		   const struct ox_control_ask *ask)
{
	struct ox_keeper_control *control = &keeper->control;
	struct ox_control_asked *asked = find_room(control, disk->number);
	struct ox_serve_command command = {.kind = ask->command};
	int ret;

	if (!asked)
		return -EBUSY;
	if (state_of(disk) != OX_CONTROL_SERVING || disk->child.socket < 0)
		return -EAGAIN;
	control->last_command = (control->last_command + 1) % OX_WIRE_TLS_ID;
	command.id = control->last_command;
	memcpy(command.values, ask->values, sizeof(command.values));
	ret = ox_wire_send_bytes(disk->child.socket, &command, sizeof(command), NULL, 0);
	if (ret < 0)
		return -EAGAIN; /* it dies, or has more than it can do */
	*asked = (struct ox_control_asked){
		.is_used = true,
		.kind = OX_CONTROL_COMMAND,
		.id = ask->id,
		.disk = disk->number,
		.command = command.id,
	};
	return 0;
}

static int remove_disk(struct ox_keeper *keeper, struct ox_kept_disk *disk,
		       const struct ox_control_ask *ask)
{
	struct ox_control_asked *asked = find_room(&keeper->control, 0);

	if (!asked)
		return -EBUSY;
	*asked = (struct ox_control_asked){
		.is_used = true,
		.kind = OX_CONTROL_REMOVE,
		.id = ask->id,
		.disk = disk->number,
	};
	ox_kept_disk_stop(disk); /* told again, nobody is waited for */
	return 0;
}

static int add(struct ox_keeper *keeper, const struct ox_control_ask *ask, const int *fds,
	       unsigned fd_count)
{
	struct ox_control_asked *asked = find_room(&keeper->control, 0);
	uint32_t number = 0;
	int ret;

	if (fd_count != 1)
		return -EBADMSG;
	ret = !asked		  ? -EBUSY
	      : keeper->stops > 0 ? -ESHUTDOWN
				  : ox_keeper_added_begin(keeper, fds[0], &number);
	ox_keeper_added_drop(&keeper->control.given); /* what was not used of it */
	if (ret == 0)
		*asked = (struct ox_control_asked){
			.is_used = true,
			.kind = OX_CONTROL_ADD,
			.id = ask->id,
			.disk = number,
		};
	return ret;
}

/* -EBADMSG: it is none of what it may ask. */
static int take(struct ox_keeper *keeper, const struct ox_control_ask *ask, int *fds,
		unsigned *fd_count)
{
	struct ox_kept_disk *disk = find_disk(keeper, ask->disk);
	int ret;

	if (ask->kind == OX_CONTROL_GIVE)
		return ox_keeper_added_give(&keeper->control.given, ask->disk, fds, fd_count);
	if (*fd_count > 0 && ask->kind != OX_CONTROL_ADD)
		return -EBADMSG;
	switch (ask->kind) {
	case OX_CONTROL_ADD:
		ret = add(keeper, ask, fds, *fd_count);
		if (ret == -EBADMSG)
			return ret;
		break;
	case OX_CONTROL_STOP:
		answer(&keeper->control, ask->id, 0);
		ox_keeper_stop(keeper);
		return 0;
	case OX_CONTROL_REMOVE:
		ret = disk ? remove_disk(keeper, disk, ask) : -ENOENT;
		break;
	case OX_CONTROL_COMMAND:
		if (ask->command == 0 || ask->command >= OX_SERVE_COMMAND_KINDS)
			return -EBADMSG;
		ret = disk ? pass_on(keeper, disk, ask) : -ENOENT;
		break;
	default:
		return -EBADMSG;
	}
	if (ret < 0)
		answer(&keeper->control, ask->id, ret);
	return 0;
}

static void hear(struct ox_keeper *keeper)
{
	struct ox_keeper_control *control = &keeper->control;
	struct ox_control_ask ask;
	unsigned fd_count = 0;
	int fds[OX_WIRE_FDS];
	int ret = ox_wire_receive_bytes(control->child.socket, &ask, sizeof(ask), fds, &fd_count);

	if (ret == -EAGAIN)
		return;
	if (ret == 0) { /* it ends */
		close(control->child.socket);
		control->child.socket = -1;
		return;
	}
	if (ret == 1) {
		ret = take(keeper, &ask, fds, &fd_count);
		ox_keeper_close_list(fds, &fd_count);
	}
	if (ret == 0)
		return;
	ox_keeper_say("Process %ld, which listens on '%s', said what it must not, and is killed",
		      (long)control->child.pid, control->path);
	kill_child(control);
}

/* ---- what becomes of it ---- */

static void settle(struct ox_keeper_control *control, struct ox_control_asked *asked, int code)
{
	asked->is_used = false;
	if (!asked->is_orphan)
		answer(control, asked->id, code);
}

int ox_keeper_control_answered(struct ox_kept_disk *disk, uint32_t number)
{
	struct ox_keeper_control *control = &disk->keeper->control;
	const uint32_t command = number / OX_WIRE_ERRORS;

	for (unsigned i = 0; i < OX_CONTROL_ASKED_MAX; i++) {
		struct ox_control_asked *asked = &control->asked[i];

		if (!asked->is_used || asked->kind != OX_CONTROL_COMMAND ||
		    asked->disk != disk->number || asked->command != command)
			continue;
		settle(control, asked, -(int)(number % OX_WIRE_ERRORS));
		return 0;
	}
	return -EBADMSG;
}

static void settle_disk(struct ox_keeper_control *control, uint32_t number, uint32_t kind, int code)
{
	for (unsigned i = 0; i < OX_CONTROL_ASKED_MAX; i++) {
		struct ox_control_asked *asked = &control->asked[i];

		if (asked->is_used && asked->kind == kind && asked->disk == number)
			settle(control, asked, code);
	}
}

void ox_keeper_control_worker_died(struct ox_kept_disk *disk)
{
	settle_disk(&disk->keeper->control, disk->number, OX_CONTROL_COMMAND, -ECONNRESET);
}

void ox_keeper_control_disk_gone(struct ox_keeper *keeper, uint32_t number, int status)
{
	struct ox_keeper_control *control = &keeper->control;
	const struct ox_control_told told = {.kind = OX_CONTROL_GONE, .number = number};

	if (!control->path)
		return;
	settle_disk(control, number, OX_CONTROL_COMMAND, -ECONNRESET);
	(void)tell(control, &told, -1); /* first: who hears an answer sees it gone */
	settle_disk(control, number, OX_CONTROL_ADD, -EIO);
	settle_disk(control, number, OX_CONTROL_REMOVE, status == 0 ? 0 : -EIO);
}

void ox_keeper_control_added(struct ox_keeper *keeper, uint32_t number)
{
	struct ox_kept_disk *disk = find_disk(keeper, number);

	if (disk) /* who hears the answer knows of it */
		tell_disk(&keeper->control, disk);
	settle_disk(&keeper->control, number, OX_CONTROL_ADD, 0);
}

/* ---- a turn ---- */

struct pollfd ox_keeper_control_polled(const struct ox_keeper *keeper)
{
	const struct ox_keeper_control *control = &keeper->control;

	return (struct pollfd){
		.fd = control->child.socket,
		.events = (short)(POLLIN | (control->must_wait ? POLLOUT : 0)),
	};
}

int64_t ox_keeper_control_due_ms(const struct ox_keeper *keeper)
{
	return keeper->control.start_ms;
}

void ox_keeper_control_turn(struct ox_keeper *keeper, short events)
{
	struct ox_keeper_control *control = &keeper->control;

	if (!control->path)
		return;
	if (ox_keeper_now_ms() >= control->start_ms)
		start(keeper);
	if (events & POLLOUT)
		control->must_wait = false;
	if ((events & ~POLLOUT) && control->child.socket >= 0)
		hear(keeper);
	for (struct ox_kept_disk *disk = keeper->disks;
	     disk && control->child.socket >= 0 && !control->must_wait; disk = disk->next)
		if (!disk->ended)
			tell_disk(control, disk);
	if (!control->told_all && !control->must_wait)
		tell_all(control);
}
