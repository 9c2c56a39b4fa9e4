/* SPDX-License-Identifier: MIT */
/*
 * A process that serves several disks, each on a thread of its own (worker = shared). It is told of
 * all of them when it starts: its rings are made before it gives up its rights, so that none can be
 * added later. Disks that are ready at about the same time share one; a slow one keeps no other
 * waiting, and gets a process with whoever comes next.
 *
 * The keeper has for each of its disks what it has for one with a process of its own: a socket, a
 * barrier, a state. That a disk has ended is told by that disk's thread (ENDED), as the process
 * goes on. Its death is the death of all that it has not told the end of.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

/* How long others are waited for that may be ready soon. */
#define GATHER_MS 200
/* More messages would not fit into the socket of a process that has not begun to read. */
#define TOGETHER_MAX 32

static bool is_waiting(const struct ox_kept_disk *disk)
{
	return disk->phase == GATHERING && !disk->ended;
}

/* Whether it may be ready soon. */
static bool is_coming(const struct ox_kept_disk *disk)
{
	return disk->options->group && !disk->ended &&
	       (disk->phase == OPENING || disk->phase == BARRIER);
}

void ox_shared_gather(struct ox_kept_disk *disk)
{
	disk->phase = GATHERING;
	disk->deadline_ms = ox_keeper_now_ms() + (disk->stops > 0 ? 0 : GATHER_MS);
}

/* Its name and the words of its command line, each with its NUL: what a process of its own has as
 * arguments. */
static int make_words(const struct ox_kept_disk *disk)
{
	int fd = memfd_create("oxbow-words", MFD_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
	int own;

	if (!file) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	fwrite(disk->options->name, strlen(disk->options->name) + 1, 1, file);
	for (char *const *word = disk->options->arguments; *word; word++)
		fwrite(*word, strlen(*word) + 1, 1, file);
	own = fflush(file) == 0 && !ferror(file) ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	fclose(file);
	return own < 0 ? -EIO : own;
}

/* Tells the process of a disk, whose child it is from here on. */
static int hand_over(struct ox_kept_disk *disk, const struct ox_spawned *process)
{
	int fds[2] = {-1, make_words(disk)};
	int ret = fds[1] < 0 ? fds[1] : ox_spawn_pair(&disk->child.socket, &fds[0]);

	if (ret == 0) {
		disk->child.pid = process->pid;
		ret = ox_wire_send(process->socket, OX_WIRE_DISK, 0, fds, 2);
	}
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (ret < 0) { /* its death is none of this disk's */
		if (disk->child.socket >= 0)
			close(disk->child.socket);
		disk->child = (struct ox_spawned){.socket = -1};
	}
	return ret;
}

static bool is_of(const struct ox_kept_disk *disk, const char *group)
{
	return is_waiting(disk) && strcmp(disk->options->group, group) == 0;
}

/* The process that has begun is nobody's where nothing could be handed to it: it ends by itself. */
static void start_process(struct ox_keeper *keeper, const char *group)
{
	static char *const no_arguments[] = {NULL};
	struct ox_spawned process;
	unsigned count = 0;
	int ret = ox_spawn(keeper->binary, OX_KEPT_SHARED, "", no_arguments, &process);

	if (ret < 0)
		ox_keeper_say("Cannot start a process: %s", strerror(-ret));
	for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next) {
		if (!is_of(disk, group) || count == TOGETHER_MAX)
			continue;
		count++;
		disk->broken = disk->reaped = false;
		if (ret < 0 || hand_over(disk, &process) < 0)
			ox_keeper_try_again(disk, false);
		else
			ox_keeper_begin_serving(disk);
	}
	if (ret < 0)
		return;
	ret = ox_wire_send(process.socket, OX_WIRE_GO, (uint32_t)getpid(), NULL, 0);
	close(process.socket); /* one that was not told all sees its end, and ends */
	if (ret < 0)
		ox_keeper_say("Process %ld cannot be told to begin: %s", (long)process.pid,
			      strerror(-ret));
}

void ox_shared_start(struct ox_keeper *keeper)
{
	const int64_t now_ms = ox_keeper_now_ms();
	struct ox_kept_disk *disk = keeper->disks;
	bool others_come = false;

	for (const struct ox_kept_disk *other = disk; other; other = other->next)
		others_come |= is_coming(other);
	while (disk) {
		if (is_waiting(disk) && (!others_come || now_ms >= disk->deadline_ms)) {
			start_process(keeper, disk->options->group);
			disk = keeper->disks;
		} else {
			disk = disk->next;
		}
	}
}
