/* SPDX-License-Identifier: MIT */
/* What the service manager is told, beside what it is to keep (store.c): that clients can connect,
 * what the server does, and that it lives. No name goes into it, as a name may have lines. */
#include <string.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

#define PING_AGAIN_MS 1000

void ox_manager_begin(struct ox_keeper *keeper)
{
	int ret = ox_notify_open(&keeper->notify);

	if (ret < 0)
		ox_keeper_say("The service manager's socket (NOTIFY_SOCKET) cannot be used: %s",
			      strerror(-ret));
}

/* prefix: of the message. */
static void tell_status(struct ox_keeper *keeper, const char *prefix)
{
	unsigned serving = 0;

	for (const struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
		serving += disk->phase == SERVING && disk->progress == READY;
	if (keeper->options->goes_on)
		ox_notify_send(&keeper->notify, -1, "%sSTATUS=%u of %u disks are served", prefix,
			       serving, keeper->disk_count);
	else if (serving > 0)
		ox_notify_send(&keeper->notify, -1, "%sSTATUS=Serving, by process %ld", prefix,
			       (long)keeper->disks->child.pid);
	else
		ox_notify_send(&keeper->notify, -1,
			       "%sSTATUS=The process that served has died; the next one is started",
			       prefix);
}

void ox_manager_tell_death(struct ox_keeper *keeper)
{
	tell_status(keeper, "");
}

void ox_manager_tell_ready(struct ox_keeper *keeper)
{
	tell_status(keeper, "READY=1\n");
}

void ox_manager_tell_stopping(struct ox_keeper *keeper)
{
	if (keeper->stops == 1)
		ox_notify_send(&keeper->notify, -1, "STOPPING=1\nSTATUS=Closing %s",
			       keeper->options->goes_on ? "all images" : "the image");
}

/* One that does is killed and followed by another; where all do, something is wrong with more than
 * a disk. */
static bool all_stand_still(const struct ox_keeper *keeper)
{
	const struct ox_kept_disk *disk;

	for (disk = keeper->disks; disk; disk = disk->next)
		if (!ox_watch_stands_still(&disk->watch))
			return false;
	return keeper->disks != NULL;
}

int64_t ox_manager_ping(struct ox_keeper *keeper, int64_t now_ms)
{
	if (keeper->notify.watchdog_ms == 0)
		return INT64_MAX;
	if (now_ms < keeper->ping_ms)
		return keeper->ping_ms;
	if (all_stand_still(keeper)) { /* they turn, or are killed and followed, or not */
		keeper->ping_ms = now_ms + PING_AGAIN_MS;
		return keeper->ping_ms;
	}
	if (!ox_notify_waits(&keeper->notify)) /* it would only wait behind the rest */
		ox_notify_send(&keeper->notify, -1, "WATCHDOG=1");
	/* Two in the time in which one is due. */
	keeper->ping_ms = now_ms + keeper->notify.watchdog_ms / 2;
	return keeper->ping_ms;
}
