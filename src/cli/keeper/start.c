/* SPDX-License-Identifier: MIT */
/* Starting openers and workers: what each is handed, and when the next one is due. */
#include "cli/keeper/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Workers that die before they serve: so many in a row, and the keeper gives up. */
#define TRIES_MAX 3
#define PAUSE_MIN_MS 10
#define PAUSE_MAX_MS 1000

static bool start(struct ox_kept_disk *disk, enum ox_kept_role role)
{
	int ret = ox_spawn(disk->keeper->binary, role, disk->options->name,
			   disk->options->arguments, &disk->child);

	disk->broken = false;
	disk->reaped = false;
	if (ret == 0)
		return true;
	disk->child = (struct ox_spawned){.socket = -1};
	ox_keeper_say("Cannot start a process: %s%s", strerror(-ret),
		      disk->chain_is_open ? "" : "; serve with --no-keeper");
	return false;
}

static void pause_before_next(struct ox_kept_disk *disk)
{
	int64_t pause_ms = 0;

	if (disk->deaths_in_row > 1) {
		pause_ms = PAUSE_MIN_MS;
		for (unsigned i = 2; i < disk->deaths_in_row && pause_ms < PAUSE_MAX_MS; i++)
			pause_ms *= 2;
	}
	if (pause_ms > PAUSE_MAX_MS)
		pause_ms = PAUSE_MAX_MS;
	disk->phase = PAUSE;
	disk->deadline_ms = ox_keeper_now_ms() + (disk->stops > 0 ? 0 : pause_ms);
}

void ox_keeper_try_again(struct ox_kept_disk *disk, bool had_served)
{
	disk->deaths_in_row++;
	disk->tries += had_served ? 0 : 1;
	if (disk->tries == TRIES_MAX - 1)
		ox_fronts_forget(&disk->fronts); /* they may be why */
	if (disk->tries < TRIES_MAX && disk->chain_is_open) {
		pause_before_next(disk);
		return;
	}
	if (disk->tries >= TRIES_MAX)
		ox_keeper_say(
			"%u processes in a row died before they could serve '%s': it is not served "
			"any more, until the server is started again",
			disk->tries, disk->options->image);
	ox_keeper_give_up(disk);
}

void ox_keeper_start_opener(struct ox_kept_disk *disk)
{
	bool is_to_judge = disk->store.phase == OX_STORE_ADOPTING && !disk->store.is_judged;
	int ret = 0;

	disk->phase = OPENING;
	disk->deadline_ms =
		disk->stops > 0 ? ox_keeper_now_ms() + disk->options->drain_ms : INT64_MAX;
	ox_keeper_close_list(
		disk->next_witnesses.fds,
		&disk->next_witnesses.count); /* of a worker that has not come so far */
	if (!start(disk, OX_KEPT_OPENER)) {
		ox_keeper_try_again(disk, false);
		return;
	}
	if (disk->given >= 0 && (!disk->chain_is_open || is_to_judge))
		ret = ox_keeper_tell(disk, OX_WIRE_GIVEN, 0, &disk->given, 1);
	if (ret == 0)
		ret = ox_wire_send_list(disk->child.socket,
					is_to_judge ? OX_WIRE_STORED : OX_WIRE_LOCKED, disk->locked,
					disk->locked_count);
	if (ret == 0)
		ret = ox_keeper_tell(disk, OX_WIRE_GO, (uint32_t)getpid(), NULL, 0);
	ox_keeper_check_told(disk, ret);
}

/* It is used up: a worker that dies over it may have been told an error and not have told us. */
static int hand_witness(struct ox_kept_disk *disk)
{
	int ret;

	if (disk->old.count == 0) {
		ox_keeper_say("Nobody can tell any more whether a sync of '%s' failed: every write "
			      "to it fails from now on",
			      disk->options->image);
		return ox_keeper_tell(disk, OX_WIRE_WITNESS, 0, NULL, 0);
	}
	ox_store_drop_witness(disk);
	ox_store_settle(disk);
	ret = ox_keeper_tell(disk, OX_WIRE_WITNESS, 0, &disk->old.fds[disk->old.count - 1], 1);
	close(disk->old.fds[--disk->old.count]);
	return ret;
}

static int tell_worker(struct ox_kept_disk *disk, int barrier_write_end)
{
	int ret = ox_wire_send_list(disk->child.socket, OX_WIRE_FRESH, disk->fresh,
				    disk->fresh_count);

	if (ret == 0 && disk->writable)
		ret = ox_keeper_tell(disk, OX_WIRE_LOCKED, 0, disk->locked, 1);
	if (ret == 0)
		ret = ox_keeper_tell(disk, OX_WIRE_BARRIER, 0, &barrier_write_end, 1);
	if (ret == 0)
		ret = ox_keeper_tell(disk, OX_WIRE_FLIGHT,
				     (uint32_t)disk->death_ms << 1 | disk->from_outside,
				     &disk->watch.memory, 1);
	if (ret == 0)
		ret = ox_keeper_tell(disk, OX_WIRE_STATS, 0, &disk->stats, 1);
	if (ret == 0 && disk->tls.current >= 0)
		ret = ox_keeper_tell(disk, OX_WIRE_TLS, 0, &disk->tls.current, 1);
	if (ret == 0 && disk->state >= 0)
		ret = ox_keeper_tell(disk, OX_WIRE_STATE, 0, &disk->state, 1);
	disk->must_sync = disk->death_ms != 0 && disk->writable;
	if (ret == 0 && disk->must_sync)
		ret = hand_witness(disk);
	if (ret == 0)
		ret = ox_keeper_tell(disk, OX_WIRE_GO, (uint32_t)getpid(), NULL, 0);
	if (ret == 0 && disk->stops > 0)
		ret = ox_keeper_tell(disk, OX_WIRE_STOP, 0, NULL, 0);
	return ret;
}

/* Nobody has it but the worker and its requests: the keeper closes it at once. */
static int open_write_end(const struct ox_kept_disk *disk)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk->barrier);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* The child has begun; of what it was handed nothing is kept that is its own. */
void ox_keeper_begin_serving(struct ox_kept_disk *disk)
{
	int write_end = open_write_end(disk);

	disk->phase = SERVING;
	disk->progress = BEGUN;
	disk->deadline_ms = INT64_MAX;
	ox_watch_begin(&disk->watch, disk->child.pid, ox_keeper_now_ms());
	if (write_end < 0) {
		ox_keeper_say("Cannot open a pipe: %s", strerror(-write_end));
		ox_keeper_kill_child(disk);
	} else {
		ox_keeper_check_told(disk, tell_worker(disk, write_end));
		close(write_end);
	}
	ox_keeper_close_list(disk->fresh, &disk->fresh_count);
}

void ox_keeper_start_worker(struct ox_kept_disk *disk)
{
	if (disk->options->group)
		ox_shared_gather(disk);
	else if (start(disk, OX_KEPT_WORKER))
		ox_keeper_begin_serving(disk);
	else
		ox_keeper_try_again(disk, false);
}
