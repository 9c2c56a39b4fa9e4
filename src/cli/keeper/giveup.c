/* SPDX-License-Identifier: MIT */
/*
 * No worker could adopt what the dead one left, and none is started any more. What was answered and
 * is not in the image must not be lost with the keeper: a last child writes the state into a file.
 * It is not executed anew, as that may be what fails, and reads nothing that others wrote.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

static int say_saved(const struct ox_kept_disk *disk, const char *path)
{
	ox_keeper_say("What was answered and is not in '%s' yet is saved in '%s'. Serve with "
		      "--state and that file to go on, before anything else writes to the image. "
		      "Who removes the file gives these writes up, as after a power cut",
		      disk->options->image, path);
	return 0;
}

static int save(const struct ox_kept_disk *disk)
{
	static struct ox_saved_places places;
	static char path[PATH_MAX];
	bool sync_failed = false;
	int ret;

	(void)signal(SIGXFSZ, SIG_IGN); /* a limit of files' sizes is an error like others */
	ox_saved_places_get(&places, disk->options->pid_file);
	ret = ox_saved_write(&places, disk->options->image, disk->locked[0], disk->state, path,
			     &sync_failed);
	if (ret == 0) {
		if (disk->options->state)
			(void)unlink(disk->options->state); /* the new one has what it had */
		return say_saved(disk, path);
	}
	ox_keeper_say(sync_failed ? "What was answered and not flushed since is lost: a sync of "
				    "'%s' failed (%s)"
				  : "What was answered and is not in '%s' yet cannot be saved, and "
				    "is lost: %s",
		      disk->options->image, strerror(-ret));
	return 1;
}

void ox_keeper_give_up(struct ox_kept_disk *disk)
{
	pid_t pid;

	disk->status = 1;
	if (!disk->state_is_needed) {
		ox_keeper_end_disk(disk, 1);
		return;
	}
	ox_keeper_close_listeners(disk);
	pid = fork();
	if (pid == 0)
		_exit(save(disk));
	if (pid < 0) { /* then the keeper itself, at the risk that a store makes it wait */
		(void)save(disk);
		ox_keeper_end_disk(disk, 1);
		return;
	}
	disk->phase = SAVING;
	disk->child = (struct ox_spawned){.pid = pid, .socket = -1};
	disk->reaped = false;
	disk->deadline_ms =
		disk->stops > 0 ? ox_keeper_now_ms() + disk->options->drain_ms : INT64_MAX;
}

/* ---- a state that was saved ---- */

int ox_keeper_load_state(struct ox_kept_disk *disk)
{
	const char *path = disk->options->state;
	int ret;

	/* What a service manager has stored is newer; or it is let go first. */
	if (!path || disk->store.phase != OX_STORE_NOTHING)
		return 0;
	ret = ox_saved_read(path, disk->state, &disk->saved_of);
	if (ret == -EBADMSG)
		ox_keeper_say("'%s' is no state that a server has saved", path);
	else if (ret < 0)
		ox_keeper_say("Cannot read the state in '%s': %s", path, strerror(-ret));
	disk->state_is_needed = ret == 0;
	return ret;
}

bool ox_keeper_state_fits(struct ox_kept_disk *disk)
{
	if (!disk->options->state || ox_saved_is_of(&disk->saved_of, disk->locked[0]))
		return true;
	ox_keeper_say("The state in '%s' is of another image, or '%s' was changed since it was "
		      "saved: it cannot be used. Remove it, and serve without it",
		      disk->options->state, disk->options->image);
	disk->state_is_needed = false; /* as it is in that file */
	return false;
}

void ox_keeper_drop_saved(const struct ox_kept_disk *disk)
{
	if (disk->closed && disk->options->state && unlink(disk->options->state) < 0 &&
	    errno != ENOENT)
		ox_keeper_say("Cannot remove '%s', which is not needed any more: %s",
			      disk->options->state, strerror(errno));
}
