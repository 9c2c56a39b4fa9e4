/* SPDX-License-Identifier: MIT */
/*
 * The life of a disk:
 *
 *	OPENING   an opener runs                      it ends well: start_worker
 *	GATHERING until others are ready, if they share a process
 *	SERVING   a worker runs                       it dies: BARRIER; it ends: the end
 *	BARRIER   the dead one's requests go on       they have ended: PAUSE
 *	PAUSE     until the next is to be started     start_opener; too many: SAVING, or the end
 *	SAVING    a last child saves the state        the end
 *
 * What a child says is believed only as far as its role and what it has said before allow; one that
 * says anything else is killed, and has died.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/keeper/internal.h"

/* How long the end waits for requests of a worker that has ended by itself. */
#define LAST_REQUESTS_MS 1000

/* ---- the beginning ---- */

/* What the library keeps in it is the library's affair. */
static int make_state(struct ox_kept_disk *disk)
{
	if (!disk->writable || disk->state >= 0)
		return 0;
	disk->state = memfd_create("oxbow-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (disk->state >= 0)
		return 0;
	ox_keeper_say("Cannot make a file in memory: %s; serve with --no-keeper", strerror(errno));
	return -1;
}

/* Each worker gets a write end of its own, so that one pipe is enough for all of them. */
static int make_barrier(struct ox_kept_disk *disk)
{
	int ends[2];

	if (disk->barrier >= 0)
		return 0;
	if (pipe2(ends, O_CLOEXEC) < 0) {
		ox_keeper_say("Cannot make a pipe: %s", strerror(errno));
		return -1;
	}
	close(ends[1]);
	disk->barrier = ends[0];
	return 0;
}

int ox_kept_disk_make_anew(struct ox_kept_disk *disk)
{
	return make_state(disk) < 0 ? -1 : make_barrier(disk);
}

static int make_mark(void *opaque)
{
	struct ox_kept_disk *disk = opaque;

	return ox_mark_make(&disk->mark);
}

void ox_kept_disk_find_mark(struct ox_kept_disk *disk)
{
	bool may_be_lost;

	if (!disk->options->vhost_path || !disk->writable)
		return;
	may_be_lost = ox_mark_find(&disk->mark, disk->locked[0]);
	/* What has them is at hand. */
	if (disk->store.phase == OX_STORE_ADOPTING || disk->options->state)
		may_be_lost = false;
	disk->fronts.word = (disk->mark.is_there ? OX_PARK_IS_MARKED : 0) |
			    (may_be_lost ? OX_PARK_MAY_BE_LOST : 0);
}

int ox_kept_disk_prepare(struct ox_kept_disk *disk)
{
	if (ox_watch_make(&disk->watch, disk->options->hang_ms) < 0) {
		ox_keeper_say("Cannot make memory for what is in flight");
		return -1;
	}
	disk->fronts.mark = make_mark;
	disk->fronts.opaque = disk;
	if (disk->options->vhost_path && ox_fronts_make(&disk->fronts) < 0) {
		ox_keeper_say("Cannot make memory for front ends");
		return -1;
	}
	disk->stats = ox_stats_make();
	if (disk->stats < 0) {
		ox_keeper_say("Cannot make memory for what is counted");
		return -1;
	}
	if (ox_kept_tls_begin(disk) < 0)
		return -1;
	if (disk->options->given < 0)
		return 0;
	disk->given = fcntl(disk->options->given, F_DUPFD_CLOEXEC, 0);
	if (disk->given < 0) {
		ox_keeper_say("Could not open '%s': Could not duplicate descriptor %d: %s",
			      disk->options->image, disk->options->given, strerror(errno));
		return -errno;
	}
	return 0;
}

/* ---- time and signals ---- */

static void give_up_waiting(struct ox_kept_disk *disk)
{
	ox_keeper_say(disk->phase == SAVING
			      ? "The image's file does not answer: the state is lost"
			      : "The image's file does not answer: the image is not closed");
	ox_keeper_kill_child(disk);
	ox_keeper_end_disk(disk, 1);
}

void ox_kept_disk_stop(struct ox_kept_disk *disk)
{
	disk->stops++;
	ox_keeper_close_listeners(disk); /* nobody can connect any more */
	switch (disk->phase) {
	case OPENING:
		disk->deadline_ms = ox_keeper_now_ms() + disk->options->drain_ms;
		if (!disk->chain_is_open)
			ox_keeper_kill_child(disk);
		break;
	case SERVING:
		if (disk->child.socket >= 0)
			ox_keeper_check_told(disk, ox_keeper_tell(disk, OX_WIRE_STOP, 0, NULL, 0));
		else
			ox_keeper_kill_child(disk); /* it hears nothing any more */
		break;
	case BARRIER:
	case SAVING:
		disk->deadline_ms = ox_keeper_now_ms() + disk->options->drain_ms;
		break;
	case GATHERING:
	case PAUSE:
		disk->deadline_ms = 0;
		break;
	}
}

void ox_kept_disk_time_is_up(struct ox_kept_disk *disk)
{
	if (disk->phase == GATHERING) {
		ox_shared_start(disk->keeper);
		return;
	}
	disk->deadline_ms = INT64_MAX;
	if (disk->phase == PAUSE) {
		ox_keeper_start_opener(disk);
	} else if (disk->phase == BARRIER && disk->stops == 0) {
		ox_keeper_say("Requests of the dead process have not ended for %d s: the disk does "
			      "not answer",
			      OX_KEEPER_SLOW_MS / 1000);
	} else if (disk->stops > 0) {
		give_up_waiting(disk);
	}
}

/* ---- the end ---- */

/*
 * The worker's ring holds the description with the locks too, until the kernel has taken it apart;
 * and one that was given has a descriptor with whoever gave it. So they are given up, once it is
 * known that no request is left; else they last as long as the requests.
 */
static void give_up_locks(struct ox_kept_disk *disk)
{
	struct pollfd p = {.fd = disk->barrier};
	int fd = disk->chain_is_open ? disk->locked[0] : disk->given;

	if (disk->store.phase != OX_STORE_NOTHING) /* they go on being held, for the next keeper */
		return;
	if (fd < 0 || poll(&p, 1, LAST_REQUESTS_MS) != 1)
		return;
	if (ox_lock_fd(fd, disk->options->image, disk->options->lock, OX_LOCK_NONE, NULL) < 0)
		ox_keeper_say("Cannot unlock '%s'", disk->options->image);
}

static void close_all(struct ox_kept_disk *disk)
{
	const int fds[] = {disk->given, disk->state, disk->barrier, disk->child.socket,
			   disk->stats};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	ox_keeper_close_list(disk->locked, &disk->locked_count);
	ox_keeper_close_list(disk->fresh, &disk->fresh_count);
	ox_keeper_close_list(disk->old.fds, &disk->old.count);
	ox_keeper_close_list(disk->next_witnesses.fds, &disk->next_witnesses.count);
}

void ox_kept_disk_free(struct ox_kept_disk *disk)
{
	ox_keeper_close_listeners(disk);
	ox_keeper_drop_saved(disk);
	if (disk->closed && ox_mark_remove(&disk->mark) < 0)
		ox_keeper_say("Cannot remove '%s': the next server of '%s' takes writes for lost",
			      disk->mark.path, disk->options->image);
	ox_store_settle(disk);
	give_up_locks(disk);
	close_all(disk);
	ox_kept_tls_free(disk);
	ox_fronts_free(&disk->fronts);
	ox_watch_free(&disk->watch);
	if (disk->options->let_go)
		disk->options->let_go(disk->options->opaque);
	free(disk);
}
