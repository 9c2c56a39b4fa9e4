/* SPDX-License-Identifier: MIT */
/*
 * The keeper's life: it waits for signals, for its children, for time, and hands what comes to the
 * disk that it is about. Nothing of it waits but poll.
 */
#include "cli/keeper/keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

/* What is polled: of the keeper itself, and of each disk. */
#define OWN_POLLED 3
#define DISK_POLLED 4

/* ---- disks ---- */

struct ox_kept_disk *ox_keeper_find(const struct ox_keeper *keeper, const char *name)
{
	struct ox_kept_disk *disk = keeper->disks;

	while (disk && strcmp(disk->options->name, name) != 0)
		disk = disk->next;
	return disk;
}

static bool has_room_to_poll(struct ox_keeper *keeper, unsigned disks)
{
	const size_t count = OWN_POLLED + DISK_POLLED * (size_t)disks;
	struct pollfd *polled = realloc(keeper->polled, count * sizeof(*polled));

	if (polled)
		keeper->polled = polled;
	return polled != NULL;
}

static struct ox_kept_disk *new_disk(struct ox_keeper *keeper,
				     const struct ox_keeper_disk_options *options)
{
	struct ox_kept_disk *disk = calloc(1, sizeof(*disk));

	if (!disk || !has_room_to_poll(keeper, keeper->disk_count + 1)) {
		free(disk);
		return NULL;
	}
	disk->keeper = keeper;
	disk->options = options;
	disk->number = ++keeper->last_number;
	disk->since = (int64_t)time(NULL);
	disk->writable = options->lock == OX_LOCK_WRITE;
	disk->given = disk->state = disk->barrier = disk->child.socket = -1;
	disk->tls.current = disk->tls.renewed = -1;
	ox_fronts_init(&disk->fronts);
	disk->watch.memory = disk->watch.stat = disk->stats = -1;
	disk->watch.look_ms = disk->deadline_ms = INT64_MAX;
	return disk;
}

static void link_disk(struct ox_keeper *keeper, struct ox_kept_disk *disk)
{
	struct ox_kept_disk **at = &keeper->disks;

	while (*at && strcmp((*at)->options->name, disk->options->name) < 0)
		at = &(*at)->next;
	disk->next = *at;
	*at = disk;
	keeper->disk_count++;
}

struct ox_kept_disk *ox_keeper_add_given(struct ox_keeper *keeper,
					 const struct ox_keeper_disk_options *options,
					 struct ox_keeper_given *given)
{
	struct ox_kept_disk *disk = new_disk(keeper, options);

	if (!disk)
		return NULL;
	link_disk(keeper, disk);
	disk->is_added = true;
	memcpy(disk->locked, given->locked, sizeof(disk->locked));
	disk->locked_count = given->locked_count;
	disk->listeners = given->listeners;
	disk->vhost_listeners = given->vhost_listeners;
	*given = (struct ox_keeper_given){0};
	if (ox_kept_disk_prepare(disk) < 0 || ox_kept_disk_make_anew(disk) < 0)
		ox_keeper_end_disk(disk, 1);
	else
		ox_keeper_start_opener(disk);
	return disk;
}

int ox_keeper_add(struct ox_keeper *keeper, const struct ox_keeper_disk_options *options)
{
	struct ox_kept_disk *disk;

	/* One that was to follow another, which has ended with the server. */
	if (keeper->stops > 0 || keeper->failed)
		return -ESHUTDOWN;
	if (ox_keeper_find(keeper, options->name)) {
		ox_keeper_say("Cannot serve '%s': a disk '%s' is served already", options->image,
			      options->name);
		return -EEXIST;
	}
	disk = new_disk(keeper, options);
	if (!disk) {
		ox_keeper_say("Cannot serve '%s': %s", options->image, strerror(ENOMEM));
		return -ENOMEM;
	}
	link_disk(keeper, disk);
	if (ox_kept_disk_prepare(disk) < 0)
		ox_keeper_end_disk(disk, 1);
	else
		ox_store_find(disk);
	if (!disk->ended && (ox_kept_disk_make_anew(disk) < 0 || ox_keeper_load_state(disk) < 0))
		ox_keeper_end_disk(disk, 1);
	if (!disk->ended)
		ox_store_begin(disk);
	return 0;
}

bool ox_keeper_goes_on(const struct ox_keeper *keeper, const char *name)
{
	const struct ox_kept_disk *disk = ox_keeper_find(keeper, name);

	return disk && !disk->ended && disk->stops == 0;
}

void ox_keeper_remove(struct ox_keeper *keeper, const char *name)
{
	struct ox_kept_disk *disk = ox_keeper_find(keeper, name);

	if (disk && disk->stops == 0)
		ox_kept_disk_stop(disk);
}

void ox_keeper_stop(struct ox_keeper *keeper)
{
	keeper->stops++;
	ox_manager_tell_stopping(keeper);
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		ox_kept_disk_stop(disk);
}

static bool is_given(const struct ox_keeper *keeper, int fd)
{
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		if (disk->options->given == fd)
			return true;
	return false;
}

/* What nobody wants. */
static void tell_rest_of_handed(struct ox_keeper *keeper)
{
	if (keeper->handed.is_wrong)
		ox_keeper_say("What the service manager says of its descriptors (LISTEN_FDS, "
			      "LISTEN_FDNAMES) contradicts itself: none is used");
	for (unsigned i = 0; i < keeper->handed.count; i++) {
		const struct ox_handed_fd *one = &keeper->handed.fds[i];

		if (one->fd < 0 || is_given(keeper, one->fd) ||
		    ox_keeper_is_wanted(keeper, one->text))
			continue;
		if (one->name.kind == OX_STORED_FOREIGN)
			ox_keeper_say("Descriptor %d ('%s') of the service manager is none of a "
				      "server's, and is not used",
				      one->fd, one->text);
		else if (one->name.kind == OX_STORED_STATE)
			ox_keeper_say("What a server of the disk '%s' left with the service "
				      "manager is kept there: no such disk is served. Have it "
				      "served once more, or writes that were answered are lost",
				      one->disk);
	}
}

void ox_keeper_check_ready(struct ox_keeper *keeper)
{
	if (keeper->stops > 0 || (!keeper->disks && !keeper->options->goes_on))
		return;
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		if (!disk->announced && !disk->ended)
			return;
	if (!keeper->is_ready && keeper->options->ready &&
	    keeper->options->ready(keeper->options->opaque) < 0) {
		keeper->status = 1;
		ox_keeper_stop(keeper);
		return;
	}
	keeper->is_ready = true;
	ox_manager_tell_ready(keeper);
}

/* Those that have ended. */
static void let_go(struct ox_keeper *keeper)
{
	struct ox_kept_disk **at = &keeper->disks;

	while (*at) {
		struct ox_kept_disk *disk = *at;
		uint32_t number;
		int status;

		if (!disk->ended) {
			at = &disk->next;
			continue;
		}
		/* A disk that could not be added is the failure of whoever has asked. */
		if (keeper->status == 0 && (!keeper->options->goes_on || keeper->stops > 0) &&
		    (!disk->is_added || disk->announced))
			keeper->status = disk->status;
		*at = disk->next;
		keeper->disk_count--;
		number = disk->number;
		status = disk->status;
		ox_kept_disk_free(disk);
		ox_keeper_control_disk_gone(keeper, number, status);
		ox_keeper_check_ready(keeper);
	}
}

/* ---- signals and time ---- */

static bool may_reload(const struct ox_keeper *keeper)
{
	return keeper->options->reload || ox_keeper_has_tls(keeper);
}

/* Disks that are new have read theirs by then, and are not told again. */
static void reload(struct ox_keeper *keeper)
{
	ox_keeper_renew_tls(keeper);
	if (keeper->options->reload)
		keeper->options->reload(keeper->options->opaque, keeper);
}

static void take_signals(struct ox_keeper *keeper)
{
	struct signalfd_siginfo info;

	while (read(keeper->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			ox_keeper_reap(keeper);
		else if (info.ssi_signo == SIGHUP && keeper->stops == 0 && may_reload(keeper))
			reload(keeper);
		else
			ox_keeper_stop(keeper);
	}
}

static int wait_ms(struct ox_keeper *keeper)
{
	const int64_t now_ms = ox_keeper_now_ms();
	int64_t next_ms = ox_manager_ping(keeper, now_ms);
	int64_t left;

	if (ox_keeper_control_due_ms(keeper) < next_ms)
		next_ms = ox_keeper_control_due_ms(keeper);
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next) {
		if (disk->watch.look_ms < next_ms)
			next_ms = disk->watch.look_ms;
		if (disk->deadline_ms < next_ms)
			next_ms = disk->deadline_ms;
		if (disk->fronts.again_ms > now_ms && disk->fronts.again_ms < next_ms)
			next_ms = disk->fronts.again_ms;
		if (disk->ended) /* since those that had were let go */
			next_ms = now_ms;
	}
	if (next_ms == INT64_MAX)
		return -1;
	left = next_ms - now_ms;
	return left <= 0 ? 0 : left < 60000 ? (int)left : 60000;
}

/* ---- a turn ---- */

/* Of vhost-user, where a front end could be taken in; -1: none. */
static int listener_of(const struct ox_kept_disk *disk)
{
	return disk->vhost_listeners.count > 0 &&
			       ox_fronts_may_accept(&disk->fronts, ox_keeper_now_ms())
		       ? disk->vhost_listeners.fds[0]
		       : -1;
}

/* Returns how many there are. */
static unsigned list_polled(struct ox_keeper *keeper)
{
	struct pollfd *polled = keeper->polled;
	unsigned count = 0;

	polled[count++] = (struct pollfd){.fd = keeper->signals, .events = POLLIN};
	polled[count++] = (struct pollfd){
		.fd = ox_notify_waits(&keeper->notify) ? keeper->notify.socket : -1,
		.events = POLLOUT,
	};
	polled[count++] = ox_keeper_control_polled(keeper);
	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next) {
		polled[count++] = (struct pollfd){.fd = disk->child.socket, .events = POLLIN};
		/* POLLHUP, whatever it wrote */
		polled[count++] =
			(struct pollfd){.fd = disk->phase == BARRIER ? disk->barrier : -1};
		polled[count++] = (struct pollfd){.fd = disk->fronts.socket, .events = POLLIN};
		polled[count++] = (struct pollfd){.fd = listener_of(disk), .events = POLLIN};
	}
	return count;
}

static void turn_disk(struct ox_kept_disk *disk, const struct pollfd *polled)
{
	if (polled[0].revents)
		ox_keeper_hear_child(disk);
	if (polled[1].revents & POLLHUP)
		ox_keeper_barrier_has_fallen(disk);
	if (polled[2].revents)
		ox_keeper_hear_of_fronts(disk);
	if (polled[3].revents && listener_of(disk) >= 0)
		ox_keeper_check_told(
			disk, ox_fronts_accept(&disk->fronts, polled[3].fd, ox_keeper_now_ms()));
}

static void look_at_time(struct ox_kept_disk *disk)
{
	if (!disk->ended && ox_keeper_now_ms() >= disk->watch.look_ms)
		ox_keeper_look_at_worker(disk);
	if (!disk->ended && ox_keeper_now_ms() >= disk->deadline_ms)
		ox_kept_disk_time_is_up(disk);
}

static void turn(struct ox_keeper *keeper)
{
	const unsigned count = list_polled(keeper);
	const struct pollfd *polled = keeper->polled + OWN_POLLED;
	short control_events;

	if (poll(keeper->polled, count, wait_ms(keeper)) < 0 && errno != EINTR) {
		ox_keeper_say("Cannot wait: %s", strerror(errno));
		keeper->status = 1;
		keeper->failed = true;
		return;
	}
	control_events = keeper->polled[2].revents; /* disks that are taken on move it */
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next) {
		turn_disk(disk, polled);
		polled += DISK_POLLED;
	}
	if (keeper->polled[1].revents)
		ox_notify_go_on(&keeper->notify);
	if (keeper->polled[0].revents)
		take_signals(keeper);
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		look_at_time(disk);
	ox_shared_start(keeper);
	let_go(keeper);
	ox_keeper_control_turn(keeper, control_events);
}

/* ---- the keeper itself ---- */

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int begin(struct ox_keeper *keeper)
{
	(void)signal(SIGCHLD, SIG_DFL); /* whoever started us may have ignored it */
	keeper->binary = ox_spawn_binary();
	if (keeper->binary < 0) {
		ox_keeper_say("Cannot find the program's own file in /proc: %s; serve with "
			      "--no-keeper",
			      strerror(-keeper->binary));
		return keeper->binary;
	}
	keeper->signals = open_signals();
	if (keeper->signals < 0) {
		ox_keeper_say("Cannot take signals: %s", strerror(-keeper->signals));
		return keeper->signals;
	}
	ox_manager_begin(keeper);
	ox_handed_find(&keeper->handed);
	return ox_keeper_control_begin(keeper);
}

struct ox_keeper *ox_keeper_new(const struct ox_keeper_options *options)
{
	struct ox_keeper *keeper = calloc(1, sizeof(*keeper));

	if (!keeper)
		return NULL;
	*keeper = (struct ox_keeper){
		.options = options,
		.binary = -1,
		.signals = -1,
		.notify.socket = -1,
	};
	if (!has_room_to_poll(keeper, 0))
		ox_keeper_say("Cannot serve: %s", strerror(ENOMEM));
	else if (begin(keeper) == 0)
		return keeper;
	free(keeper->polled);
	free(keeper);
	return NULL;
}

static bool is_over(const struct ox_keeper *keeper)
{
	return keeper->failed ||
	       (!keeper->disks && (keeper->stops > 0 || !keeper->options->goes_on));
}

int ox_keeper_run(struct ox_keeper *keeper)
{
	int status;

	tell_rest_of_handed(keeper);
	let_go(keeper);
	ox_keeper_check_ready(keeper); /* of no disk at all */
	while (!is_over(keeper))
		turn(keeper);
	while (keeper->disks) { /* after a failure */
		keeper->disks->ended = true;
		let_go(keeper);
	}
	ox_notify_close(&keeper->notify);
	close(keeper->signals);
	close(keeper->binary);
	ox_keeper_control_end(keeper);
	status = keeper->status;
	ox_handed_free(&keeper->handed);
	free(keeper->polled);
	free(keeper);
	return status;
}
