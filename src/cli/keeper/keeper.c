/* SPDX-License-Identifier: MIT */
/*
 * The keeper's life:
 *
 *	OPENING   an opener runs                      it ends well: start_worker
 *	SERVING   a worker runs                       it dies: BARRIER; it ends: the end
 *	BARRIER   the dead one's requests go on       they have ended: PAUSE
 *	PAUSE     until the next is to be started     start_opener
 *
 * Nothing of it waits but poll. What a child says is believed only as far as its role and what it
 * has said before allow; one that says anything else is killed, and has died.
 */
#include "cli/keeper/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/keeper/spawn.h"
#include "cli/keeper/wire.h"
#include "serve/nbd/listen.h"

/* Workers that die before they serve: so many in a row, and the keeper gives up. */
#define TRIES_MAX OX_KEPT_WITNESSES
/* One that has served so long has not died of what its predecessor died of. */
#define HEALTHY_MS 5000
#define PAUSE_MIN_MS 10
#define PAUSE_MAX_MS 1000
/* The disk is said to be slow when requests of a dead process go on for so long. */
#define SLOW_MS 5000
/* How long the end waits for requests of a worker that has ended by itself. */
#define LAST_REQUESTS_MS 1000

enum phase {
	OPENING,
	SERVING,
	BARRIER,
	PAUSE,
};

/* Of a worker, in its order. */
enum progress {
	BEGUN,
	SYNCED,
	OPENED,
	READY,
};

struct witnesses {
	int fds[OX_KEPT_WITNESSES];
	unsigned count;
};

struct keeper {
	const struct ox_keeper_options *options;
	enum phase phase;
	bool writable;
	int binary;
	int signals;
	int given;
	int state;
	unsigned locked_count;
	int locked[OX_KEPT_CHAIN_MAX]; /* for good, with the locks */
	unsigned fresh_count;
	int fresh[OX_KEPT_CHAIN_MAX]; /* from an opener to a worker */
	/* Opened before the first write of the last worker that got through its first sync, and
	 * before that of the worker that runs. */
	struct witnesses old;
	struct witnesses next;
	struct ox_nbd_listeners listeners;
	struct ox_spawned child; /* pid 0: none */
	enum progress progress;
	int barrier;	    /* -1: none to wait for */
	bool chain_is_open; /* locked is whole */
	bool announced;
	bool reaped;	/* the child: its id may be another's */
	bool broken;	/* it has said what it must not */
	bool must_sync; /* the worker has a witness */
	unsigned stops;
	unsigned tries; /* workers that died since one served */
	unsigned deaths_in_row;
	int64_t ready_ms;
	int64_t death_ms;
	int64_t barrier_ms; /* when the dead one's requests had ended */
	int64_t deadline_ms;
	bool ended;
	int status; /* the exit status */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Nobody is waited for who may have stopped to read. */
static void say(const char *format, ...) OX_CLI_PRINTF(1, 2);

static void say(const char *format, ...)
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

static void end(struct keeper *k, int status)
{
	k->ended = true;
	if (k->status == 0)
		k->status = status;
}

static void close_list(int *fds, unsigned *count)
{
	while (*count > 0)
		close(fds[--*count]);
}

static void close_child(struct keeper *k)
{
	if (k->child.socket >= 0)
		close(k->child.socket);
	k->child = (struct ox_spawned){.socket = -1};
}

/* ---- starting ---- */

static int tell_child(struct keeper *k, enum ox_wire_kind kind, uint32_t number, const int *fds,
		      unsigned count)
{
	return ox_wire_send(k->child.socket, kind, number, fds, count);
}

static void kill_child(struct keeper *k)
{
	k->broken = true;
	if (k->child.pid > 0 && !k->reaped)
		kill(k->child.pid, SIGKILL);
}

/* One that cannot be told what it needs is killed; how it died is seen to as of any other. */
static void check_told(struct keeper *k, int ret)
{
	if (ret == 0 || ret == -EPIPE || ret == -ECONNRESET) /* it is dead already */
		return;
	say("Process %ld cannot be told what it needs: %s", (long)k->child.pid, strerror(-ret));
	kill_child(k);
}

static bool start(struct keeper *k, enum ox_kept_role role)
{
	int ret = ox_spawn(k->binary, role, k->options->arguments, &k->child);

	k->broken = false;
	k->reaped = false;
	if (ret == 0)
		return true;
	k->child = (struct ox_spawned){.socket = -1};
	say("Cannot start a process: %s", strerror(-ret));
	return false;
}

static void pause_before_next(struct keeper *k)
{
	int64_t pause_ms = 0;

	if (k->deaths_in_row > 1) {
		pause_ms = PAUSE_MIN_MS;
		for (unsigned i = 2; i < k->deaths_in_row && pause_ms < PAUSE_MAX_MS; i++)
			pause_ms *= 2;
	}
	if (pause_ms > PAUSE_MAX_MS)
		pause_ms = PAUSE_MAX_MS;
	k->phase = PAUSE;
	k->deadline_ms = now_ms() + (k->stops > 0 ? 0 : pause_ms);
}

/* Another one, unless so many in a row have come to nothing. */
static void try_again(struct keeper *k, bool had_served)
{
	k->deaths_in_row++;
	k->tries += had_served ? 0 : 1;
	if (k->tries < TRIES_MAX && k->chain_is_open) {
		pause_before_next(k);
		return;
	}
	if (k->tries >= TRIES_MAX)
		say("%u processes in a row died before they could serve '%s': it is not served "
		    "any more, until the server is started again",
		    k->tries, k->options->image);
	end(k, 1);
}

static void start_opener(struct keeper *k)
{
	int ret = 0;

	k->phase = OPENING;
	k->deadline_ms = k->stops > 0 ? now_ms() + k->options->drain_ms : INT64_MAX;
	close_list(k->next.fds, &k->next.count); /* of a worker that has not come so far */
	if (!start(k, OX_KEPT_OPENER)) {
		try_again(k, false);
		return;
	}
	if (k->given >= 0 && !k->chain_is_open)
		ret = tell_child(k, OX_WIRE_GIVEN, 0, &k->given, 1);
	if (ret == 0)
		ret = ox_wire_send_list(k->child.socket, OX_WIRE_LOCKED, k->locked,
					k->locked_count);
	if (ret == 0)
		ret = tell_child(k, OX_WIRE_GO, (uint32_t)getpid(), NULL, 0);
	check_told(k, ret);
}

static int tell_worker(struct keeper *k, int barrier_write_end)
{
	int ret = ox_wire_send_list(k->child.socket, OX_WIRE_FRESH, k->fresh, k->fresh_count);

	if (ret == 0 && k->writable)
		ret = tell_child(k, OX_WIRE_LOCKED, 0, k->locked, 1);
	if (ret == 0)
		ret = tell_child(k, OX_WIRE_BARRIER, 0, &barrier_write_end, 1);
	if (ret == 0 && k->state >= 0)
		ret = tell_child(k, OX_WIRE_STATE, 0, &k->state, 1);
	k->must_sync = k->death_ms != 0 && k->writable;
	if (ret == 0 && k->must_sync) {
		/* A worker that dies over it may have been told an error and not have told us. */
		ret = tell_child(k, OX_WIRE_WITNESS, 0, &k->old.fds[k->old.count - 1], 1);
		close(k->old.fds[--k->old.count]);
	}
	if (ret == 0)
		ret = tell_child(k, OX_WIRE_GO, (uint32_t)getpid(), NULL, 0);
	if (ret == 0 && k->stops > 0)
		ret = tell_child(k, OX_WIRE_STOP, 0, NULL, 0);
	return ret;
}

static void start_worker(struct keeper *k)
{
	int ends[2];

	k->phase = SERVING;
	k->progress = BEGUN;
	k->deadline_ms = INT64_MAX;
	if (k->death_ms != 0 && k->writable && k->old.count == 0) {
		say("Nobody can tell any more whether a sync of '%s' failed", k->options->image);
		end(k, 1);
		return;
	}
	if (pipe2(ends, O_CLOEXEC) < 0) {
		say("Cannot make a pipe: %s", strerror(errno));
		try_again(k, false);
		return;
	}
	if (start(k, OX_KEPT_WORKER)) {
		k->barrier = ends[0];
		check_told(k, tell_worker(k, ends[1]));
	} else {
		close(ends[0]);
		try_again(k, false);
	}
	close(ends[1]);
	close_list(k->fresh, &k->fresh_count);
}

/* ---- what children say ---- */

static int take_witnesses(struct keeper *k, struct ox_wire_message *message)
{
	if (message->fd_count != OX_KEPT_WITNESSES || k->next.count != 0 || !k->writable)
		return -EBADMSG;
	memcpy(k->next.fds, message->fds, sizeof(k->next.fds));
	k->next.count = OX_KEPT_WITNESSES;
	message->fd_count = 0;
	return 0;
}

static int take_from_opener(struct keeper *k, struct ox_wire_message *message)
{
	switch (message->kind) {
	case OX_WIRE_LOCKED:
		/* Once: what is locked is not changed any more. */
		if (k->chain_is_open)
			return -EBADMSG;
		return ox_wire_take_list(message, k->locked, &k->locked_count, OX_KEPT_CHAIN_MAX);
	case OX_WIRE_FRESH:
		return ox_wire_take_list(message, k->fresh, &k->fresh_count, k->locked_count);
	case OX_WIRE_WITNESS:
		return take_witnesses(k, message);
	default:
		return -EBADMSG;
	}
}

static int listen_for_worker(struct keeper *k)
{
	struct ox_serve_error error = {0};
	int ret;

	if (k->stops > 0)
		return 0; /* it was told */
	if (k->listeners.count == 0) {
		ret = ox_nbd_listen(k->options->address, &k->listeners, &error);
		if (ret < 0) {
			say("%s", error.message);
			k->status = 1;
			k->stops++;
			return tell_child(k, OX_WIRE_STOP, 0, NULL, 0);
		}
	}
	return tell_child(k, OX_WIRE_LISTEN, k->listeners.is_unix, k->listeners.fds,
			  (unsigned)k->listeners.count);
}

static int announce(struct keeper *k)
{
	char *uri = ox_nbd_listeners_uri(&k->listeners, k->options->export_name);
	int ret;

	k->announced = true;
	if (!uri)
		say("Cannot tell the address: %s", strerror(ENOMEM));
	ret = uri ? k->options->ready(k->options->opaque, uri) : -ENOMEM;
	free(uri);
	if (ret == 0)
		return 0;
	k->status = 1;
	k->stops++;
	return tell_child(k, OX_WIRE_STOP, 0, NULL, 0);
}

static int is_ready(struct keeper *k)
{
	k->ready_ms = now_ms();
	k->tries = 0;
	if (!k->announced && k->stops == 0)
		return announce(k);
	if (k->death_ms != 0)
		say("Process %ld serves '%s' again after %lld ms, of them %lld for requests of the "
		    "dead one",
		    (long)k->child.pid, k->options->image, (long long)(k->ready_ms - k->death_ms),
		    (long long)(k->barrier_ms - k->death_ms));
	return 0;
}

/* Whatever it wrote was written after these were opened. */
static void keep_next_witnesses(struct keeper *k)
{
	close_list(k->old.fds, &k->old.count);
	k->old = k->next;
	k->next.count = 0;
}

static int take_from_worker(struct keeper *k, const struct ox_wire_message *message)
{
	bool in_order;

	if (message->fd_count > 0)
		return -EBADMSG;
	switch (message->kind) {
	case OX_WIRE_SYNCED:
		in_order = k->progress == BEGUN && k->must_sync;
		k->progress = SYNCED;
		if (in_order)
			keep_next_witnesses(k);
		return in_order ? 0 : -EBADMSG;
	case OX_WIRE_OPENED:
		in_order = k->progress == (k->must_sync ? SYNCED : BEGUN);
		k->progress = OPENED;
		return in_order ? listen_for_worker(k) : -EBADMSG;
	case OX_WIRE_READY:
		in_order = k->progress == OPENED;
		k->progress = READY;
		return in_order ? is_ready(k) : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

static void hear_child(struct keeper *k)
{
	struct ox_wire_message message;
	int ret = ox_wire_receive(k->child.socket, &message);

	if (ret == -EAGAIN)
		return;
	if (ret == 0) { /* it ends, or has closed it: then it can be told nothing any more */
		close(k->child.socket);
		k->child.socket = -1;
		return;
	}
	if (ret == 1) {
		ret = k->phase == OPENING ? take_from_opener(k, &message)
					  : take_from_worker(k, &message);
		ox_wire_close(&message);
	}
	if (ret < 0 && ret != -EBADMSG) {
		check_told(k, ret);
	} else if (ret < 0) {
		say("Process %ld said what it must not, and is killed", (long)k->child.pid);
		kill_child(k);
	}
}

/* ---- their end ---- */

static void opener_has_ended(struct keeper *k, int code)
{
	bool first = !k->chain_is_open;

	if (code == 0 && !k->broken && k->locked_count > 0 && k->fresh_count == k->locked_count &&
	    (!k->writable || k->next.count > 0)) {
		if (first)
			keep_next_witnesses(k);
		k->chain_is_open = true;
		start_worker(k);
		return;
	}
	close_list(k->fresh, &k->fresh_count);
	if (!first) {
		try_again(k, false);
		return;
	}
	if (WIFSIGNALED(code) && k->stops == 0)
		say("Could not open '%s': the process that opens it died of signal %d (%s)",
		    k->options->image, WTERMSIG(code), strsignal(WTERMSIG(code)));
	/* Told to end while it was opened: nothing has been served. */
	end(k, k->stops > 0 ? 0 : 1);
}

static void worker_has_died(struct keeper *k, int code)
{
	int64_t now = now_ms();

	if (WIFSIGNALED(code))
		say("Process %ld, which served '%s', died of signal %d (%s)", (long)k->child.pid,
		    k->options->image, WTERMSIG(code), strsignal(WTERMSIG(code)));
	else
		say("Process %ld, which served '%s', ended with %d", (long)k->child.pid,
		    k->options->image, WEXITSTATUS(code));
	if (k->progress == READY && now - k->ready_ms >= HEALTHY_MS)
		k->deaths_in_row = 0;
	k->death_ms = now;
	k->phase = BARRIER;
	k->deadline_ms = now + (k->stops > 0 ? k->options->drain_ms : SLOW_MS);
}

/* Whether it has ended, and not died: because it was told to, or cannot go on and has said why. */
static bool is_end(const struct keeper *k, int code)
{
	if (!WIFEXITED(code) || k->broken)
		return false;
	return WEXITSTATUS(code) == OX_KEPT_FAILED ||
	       (k->stops > 0 && (WEXITSTATUS(code) == 0 || WEXITSTATUS(code) == 1));
}

static void worker_has_ended(struct keeper *k, int code)
{
	if (is_end(k, code))
		end(k, WEXITSTATUS(code) == 0 ? 0 : 1);
	else
		worker_has_died(k, code);
}

/* The dead one's last request has ended in the kernel: from here on the image is another's. */
static void barrier_has_fallen(struct keeper *k)
{
	close(k->barrier);
	k->barrier = -1;
	k->barrier_ms = now_ms();
	try_again(k, k->progress == READY);
}

/* As process 1 of a container the keeper gets children that are not its own. */
static void reap(struct keeper *k)
{
	int code;
	pid_t pid;

	while ((pid = waitpid(-1, &code, WNOHANG)) > 0) {
		if (pid != k->child.pid)
			continue;
		k->reaped = true;
		/* What it said last counts. */
		for (int i = 0; i < OX_KEPT_CHAIN_MAX && k->child.socket >= 0; i++) {
			struct pollfd p = {.fd = k->child.socket, .events = POLLIN};

			if (poll(&p, 1, 0) != 1)
				break;
			hear_child(k);
		}
		if (k->phase == OPENING) {
			close_child(k);
			opener_has_ended(k, code);
		} else {
			worker_has_ended(k, code);
			close_child(k);
		}
	}
}

/* ---- signals and time ---- */

static void give_up_waiting(struct keeper *k)
{
	say("The image's file does not answer: the image is not closed");
	kill_child(k);
	end(k, 1);
}

static void stop(struct keeper *k)
{
	k->stops++;
	ox_nbd_listeners_close(&k->listeners); /* nobody can connect any more */
	switch (k->phase) {
	case OPENING:
		k->deadline_ms = now_ms() + k->options->drain_ms;
		if (!k->chain_is_open)
			kill_child(k);
		break;
	case SERVING:
		if (k->child.socket >= 0)
			check_told(k, tell_child(k, OX_WIRE_STOP, 0, NULL, 0));
		else
			kill_child(k); /* it hears nothing any more */
		break;
	case BARRIER:
		k->deadline_ms = now_ms() + k->options->drain_ms;
		break;
	case PAUSE:
		k->deadline_ms = 0;
		break;
	}
}

static void take_signals(struct keeper *k)
{
	struct signalfd_siginfo info;

	while (!k->ended && read(k->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			reap(k);
		else
			stop(k);
	}
}

static void time_is_up(struct keeper *k)
{
	k->deadline_ms = INT64_MAX;
	if (k->phase == PAUSE) {
		start_opener(k);
	} else if (k->phase == BARRIER && k->stops == 0) {
		say("Requests of the dead process have not ended for %d s: the disk does not "
		    "answer",
		    SLOW_MS / 1000);
	} else if (k->stops > 0) {
		give_up_waiting(k);
	}
}

static int wait_ms(const struct keeper *k)
{
	int64_t left;

	if (k->deadline_ms == INT64_MAX)
		return -1;
	left = k->deadline_ms - now_ms();
	return left <= 0 ? 0 : left < 60000 ? (int)left : 60000;
}

static void turn(struct keeper *k)
{
	struct pollfd polled[] = {
		{.fd = k->signals, .events = POLLIN},
		{.fd = k->child.socket, .events = POLLIN},
		{.fd = k->phase == BARRIER ? k->barrier : -1}, /* POLLHUP, whatever it wrote */
	};

	if (poll(polled, 3, wait_ms(k)) < 0 && errno != EINTR) {
		say("Cannot wait: %s", strerror(errno));
		end(k, 1);
		return;
	}
	if (polled[1].revents)
		hear_child(k);
	if (polled[2].revents & POLLHUP)
		barrier_has_fallen(k);
	if (polled[0].revents)
		take_signals(k);
	if (!k->ended && now_ms() >= k->deadline_ms)
		time_is_up(k);
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

/* A chain takes two descriptors an image for a moment. */
static void raise_limit_of_fds(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* What the library keeps in it is the library's affair. */
static int make_state(struct keeper *k)
{
	if (!k->writable)
		return 0;
	k->state = memfd_create("oxbow-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (k->state >= 0)
		return 0;
	say("Cannot make a file in memory: %s", strerror(errno));
	return -1;
}

static int begin(struct keeper *k)
{
	raise_limit_of_fds();
	(void)signal(SIGCHLD, SIG_DFL); /* whoever started us may have ignored it */
	k->binary = ox_spawn_binary();
	if (k->binary < 0) {
		say("Cannot find the program's own file in /proc: %s", strerror(-k->binary));
		return k->binary;
	}
	k->signals = open_signals();
	if (k->signals < 0) {
		say("Cannot take signals: %s", strerror(errno));
		return -errno;
	}
	if (make_state(k) < 0)
		return -1;
	if (k->options->given < 0)
		return 0;
	k->given = fcntl(k->options->given, F_DUPFD_CLOEXEC, 0);
	if (k->given < 0) {
		say("Could not open '%s': Could not duplicate descriptor %d: %s", k->options->image,
		    k->options->given, strerror(errno));
		return -errno;
	}
	return 0;
}

/*
 * The worker's ring holds the description with the locks too, until the kernel has taken it apart;
 * and one that was given has a descriptor with whoever gave it. So they are given up, once it is
 * known that no request is left; else they last as long as the requests.
 */
static void give_up_locks(struct keeper *k)
{
	struct pollfd p = {.fd = k->barrier};
	int fd = k->chain_is_open ? k->locked[0] : k->given;

	if (fd < 0 || (k->barrier >= 0 && poll(&p, 1, LAST_REQUESTS_MS) != 1))
		return;
	if (ox_lock_fd(fd, k->options->image, k->options->lock, OX_LOCK_NONE, NULL) < 0)
		say("Cannot unlock '%s'", k->options->image);
}

int ox_keeper_run(const struct ox_keeper_options *options)
{
	static struct keeper k;

	k = (struct keeper){
		.options = options,
		.writable = options->lock == OX_LOCK_WRITE,
		.binary = -1,
		.signals = -1,
		.given = -1,
		.state = -1,
		.barrier = -1,
		.child.socket = -1,
		.deadline_ms = INT64_MAX,
	};
	if (begin(&k) < 0)
		return 1;
	start_opener(&k);
	while (!k.ended)
		turn(&k);
	ox_nbd_listeners_close(&k.listeners);
	give_up_locks(&k);
	return k.status;
}
