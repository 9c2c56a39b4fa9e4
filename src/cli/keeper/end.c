/* SPDX-License-Identifier: MIT */
/* The end of children: whether one has died, when the next may begin, whether the server is over.
 */
#include "cli/keeper/internal.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* One that has served so long has not died of what its predecessor died of. */
#define HEALTHY_MS 5000

/* The child has said why what the last server left is not adopted. */
static bool is_refusal(int code)
{
	return WIFEXITED(code) && WEXITSTATUS(code) == OX_KEPT_NOT_ADOPTED;
}

/* Unless the opener has said it. */
static void tell_why_nothing_was_opened(const struct ox_kept_disk *disk, int code)
{
	if (WIFSIGNALED(code))
		ox_keeper_say(
			"Could not open '%s': the process that opens it died of signal %d (%s)",
			disk->options->image, WTERMSIG(code), strsignal(WTERMSIG(code)));
	else if (WEXITSTATUS(code) == OX_SPAWN_FAILED)
		ox_keeper_say("The program's own file cannot be executed again; serve with "
			      "--no-keeper");
}

static void opener_has_ended(struct ox_kept_disk *disk, int code)
{
	bool first = !disk->chain_is_open;

	if (code == 0 && !disk->broken && disk->locked_count > 0 &&
	    disk->fresh_count == disk->locked_count &&
	    (!disk->writable || disk->next_witnesses.count > 0)) {
		if (first && !ox_keeper_state_fits(disk)) {
			ox_keeper_end_disk(disk, 1);
			return;
		}
		if (first) {
			ox_keeper_keep_next_witnesses(disk);
			ox_kept_disk_find_mark(disk);
			ox_store_fill(disk);
		}
		disk->chain_is_open = true;
		disk->store.is_judged = true;
		ox_keeper_start_worker(disk);
		return;
	}
	ox_keeper_close_list(disk->fresh, &disk->fresh_count);
	if (disk->store.phase == OX_STORE_ADOPTING && is_refusal(code)) {
		ox_store_refuse(disk);
		return;
	}
	if (!first) {
		ox_keeper_try_again(disk, false);
		return;
	}
	if (disk->stops == 0)
		tell_why_nothing_was_opened(disk, code);
	/* Told to end while it was opened: nothing has been served. */
	ox_keeper_end_disk(disk, disk->stops > 0 ? 0 : 1);
}

static void worker_has_died(struct ox_kept_disk *disk, int code)
{
	int64_t now = ox_keeper_now_ms();

	if (WIFSIGNALED(code))
		ox_keeper_say("Process %ld, which served '%s', died of signal %d (%s)",
			      (long)disk->child.pid, disk->options->image, WTERMSIG(code),
			      strsignal(WTERMSIG(code)));
	else
		ox_keeper_say("Process %ld, which served '%s', ended with %d",
			      (long)disk->child.pid, disk->options->image, WEXITSTATUS(code));
	if (disk->progress == READY && now - disk->ready_ms >= HEALTHY_MS)
		disk->deaths_in_row = 0;
	/* A SIGKILL that is not the keeper's. */
	disk->from_outside = !disk->broken && WIFSIGNALED(code) && WTERMSIG(code) == SIGKILL;
	disk->death_ms = now;
	disk->phase = BARRIER;
	disk->deadline_ms = now + (disk->stops > 0 ? disk->options->drain_ms : OX_KEEPER_SLOW_MS);
	disk->deaths++;
	ox_keeper_control_worker_died(disk);
	ox_kept_tls_worker_died(disk);
	ox_manager_tell_death(disk->keeper);
}

/* Whether it has ended, and not died: because it was told to, or cannot go on and has said why. */
static bool is_end(const struct ox_kept_disk *disk, int code)
{
	if (!WIFEXITED(code) || disk->broken)
		return false;
	return WEXITSTATUS(code) == OX_KEPT_FAILED || is_refusal(code) ||
	       (disk->stops > 0 && (WEXITSTATUS(code) == 0 || WEXITSTATUS(code) == 1));
}

/* It has said why it cannot open the image: the state is not adopted, and still needed. */
static bool could_not_adopt(const struct ox_kept_disk *disk, int code)
{
	return (WEXITSTATUS(code) == OX_KEPT_FAILED || is_refusal(code)) &&
	       disk->progress == BEGUN && disk->stops == 0 && disk->state_is_needed;
}

static void worker_has_ended(struct ox_kept_disk *disk, int code)
{
	if (disk->store.phase == OX_STORE_ADOPTING && !disk->broken && is_refusal(code)) {
		ox_keeper_say("'%s' is opened as after a power cut", disk->options->image);
		ox_store_refuse(disk);
		return;
	}
	if (!is_end(disk, code)) {
		worker_has_died(disk, code);
		return;
	}
	if (could_not_adopt(disk, code)) {
		disk->gives_up = true;
		disk->phase = BARRIER;
		disk->deadline_ms = ox_keeper_now_ms() + OX_KEEPER_SLOW_MS;
		return;
	}
	ox_store_empty(disk);
	disk->closed = WEXITSTATUS(code) == 0;
	ox_keeper_end_disk(disk, disk->closed ? 0 : 1);
}

void ox_keeper_barrier_has_fallen(struct ox_kept_disk *disk)
{
	disk->barrier_ms = ox_keeper_now_ms();
	if (disk->store.phase == OX_STORE_LETTING_GO) {
		ox_store_let_go(disk);
		return;
	}
	if (disk->gives_up)
		ox_keeper_give_up(disk);
	else
		ox_keeper_try_again(disk, disk->progress == READY);
}

static void close_child(struct ox_kept_disk *disk)
{
	if (disk->child.socket >= 0)
		close(disk->child.socket);
	disk->child = (struct ox_spawned){.socket = -1};
	ox_fronts_end(&disk->fronts);
	ox_watch_end(&disk->watch);
}

/* What it said last counts. */
static void hear_last_words(struct ox_kept_disk *disk)
{
	for (int i = 0; i < OX_KEPT_CHAIN_MAX && disk->child.socket >= 0; i++) {
		struct pollfd p = {.fd = disk->child.socket, .events = POLLIN};

		if (poll(&p, 1, 0) != 1)
			return;
		ox_keeper_hear_child(disk);
	}
}

static void saver_has_ended(struct ox_kept_disk *disk, int code)
{
	if (WIFSIGNALED(code))
		ox_keeper_say("The process that saves the state died of signal %d", WTERMSIG(code));
	else if (WEXITSTATUS(code) == 0)
		ox_store_empty(disk); /* it is in the file now */
	ox_keeper_end_disk(disk, 1);
}

static void child_has_ended(struct ox_kept_disk *disk, int code)
{
	disk->reaped = true;
	hear_last_words(disk);
	if (disk->child.pid == 0) /* it has told its end */
		return;
	if (disk->phase == OPENING) {
		close_child(disk);
		opener_has_ended(disk, code);
	} else if (disk->phase == SAVING) {
		close_child(disk);
		saver_has_ended(disk, code);
	} else {
		/* With others it has not ended, whatever the process says: it was not told of. */
		disk->broken |= disk->options->group != NULL && WIFEXITED(code);
		worker_has_ended(disk, code);
		close_child(disk);
	}
}

void ox_keeper_thread_has_ended(struct ox_kept_disk *disk, int status)
{
	worker_has_ended(disk, W_EXITCODE(status, 0));
	close_child(disk);
}

/* As process 1 of a container the keeper gets children that are not its own. */
void ox_keeper_reap(struct ox_keeper *keeper)
{
	int code;
	pid_t pid;

	while ((pid = waitpid(-1, &code, WNOHANG)) > 0) {
		if (ox_keeper_control_reap(keeper, pid, code))
			continue;
		for (struct ox_kept_disk *disk = keeper->disks; disk; disk = disk->next)
			if (disk->child.pid == pid && !disk->ended)
				child_has_ended(disk, code);
	}
}
