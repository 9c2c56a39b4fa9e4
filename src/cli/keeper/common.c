/* SPDX-License-Identifier: MIT */
/* What the rest of the keeper is made of: telling the operator, telling the child, ending. */
#include "cli/keeper/internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t ox_keeper_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void ox_keeper_say(const char *format, ...)
{
	struct pollfd standard_error = {.fd = STDERR_FILENO, .events = POLLOUT};
	char line[512];
	va_list args;

	if (poll(&standard_error, 1, 0) != 1 || !(standard_error.revents & POLLOUT))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	ox_cli_error("%s", line);
}

void ox_keeper_end_disk(struct ox_kept_disk *disk, int status)
{
	disk->ended = true;
	if (disk->status == 0)
		disk->status = status;
}

void ox_keeper_close_list(int *fds, unsigned *count)
{
	while (*count > 0)
		close(fds[--*count]);
}

int ox_keeper_tell(struct ox_kept_disk *disk, enum ox_wire_kind kind, uint32_t number,
		   const int *fds, unsigned count)
{
	return ox_wire_send(disk->child.socket, kind, number, fds, count);
}

void ox_keeper_kill_child(struct ox_kept_disk *disk)
{
	disk->broken = true;
	if (disk->child.pid > 0 && !disk->reaped)
		kill(disk->child.pid, SIGKILL);
}

void ox_keeper_look_at_worker(struct ox_kept_disk *disk)
{
	switch (ox_watch_look(&disk->watch, ox_keeper_now_ms())) {
	case OX_WATCH_TURNS:
		break;
	case OX_WATCH_WAITS_FOR_DISK:
		ox_keeper_say("Process %ld, which serves '%s', has waited for a disk for %u s, and "
			      "serves nobody meanwhile",
			      (long)disk->child.pid, disk->options->image,
			      disk->watch.hang_ms / 1000);
		break;
	case OX_WATCH_HANGS:
		ox_keeper_say(
			"Process %ld, which serves '%s', hangs: it has done nothing for %u s, "
			"and is killed",
			(long)disk->child.pid, disk->options->image, disk->watch.hang_ms / 1000);
		ox_keeper_kill_child(disk);
		break;
	}
}

void ox_keeper_check_told(struct ox_kept_disk *disk, int ret)
{
	if (ret == 0 || ret == -EPIPE || ret == -ECONNRESET) /* it is dead already */
		return;
	ox_keeper_say("Process %ld cannot be told what it needs: %s", (long)disk->child.pid,
		      strerror(-ret));
	ox_keeper_kill_child(disk);
}

void ox_keeper_keep_next_witnesses(struct ox_kept_disk *disk)
{
	ox_store_put_next_witnesses(disk);
	ox_keeper_close_list(disk->old.fds, &disk->old.count);
	disk->old = disk->next_witnesses;
	disk->next_witnesses.count = 0;
}

void ox_keeper_close_listeners(struct ox_kept_disk *disk)
{
	ox_listeners_close(&disk->listeners);
	ox_listeners_close(&disk->vhost_listeners);
}
