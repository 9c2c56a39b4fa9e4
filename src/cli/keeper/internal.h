/* SPDX-License-Identifier: MIT */
/*
 * What the files of the keeper share and nobody else includes:
 *
 *	keeper.c   its life: what it waits for, signals, time
 *	disk.c     the life of a disk
 *	start.c    openers and workers are started
 *	shared.c   workers of several disks
 *	hear.c     what they say
 *	end.c      how they end, and what follows
 *	store.c    what the service manager keeps for the next keeper
 *	manager.c  what it is told besides
 *	fronts.h   front ends of vhost-user, which outlive workers
 *	giveup.c   what becomes of the state when no worker can have it
 *	control.c  the process that listens to operators
 *	added.c    disks that those have the keeper take on
 *	tls.c      credentials for TLS, and others in their place
 *	common.c   what all of these need
 */
#ifndef OX_CLI_KEEPER_INTERNAL_H
#define OX_CLI_KEEPER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <poll.h>

#include "cli/cli.h"
#include "cli/keeper/control.h"
#include "cli/keeper/fronts.h"
#include "cli/keeper/keeper.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/mark.h"
#include "cli/keeper/saved.h"
#include "cli/keeper/spawn.h"
#include "cli/keeper/store.h"
#include "cli/keeper/watch.h"
#include "cli/keeper/wire.h"
#include "cli/notify.h"
#include "serve/listen/listen.h"

/* The disk is said to be slow when requests of a dead process go on for so long. */
#define OX_KEEPER_SLOW_MS 5000

enum phase {
	OPENING,
	GATHERING,
	SERVING,
	BARRIER,
	PAUSE,
	SAVING,
};

/* Of a worker, in its order. */
enum progress {
	BEGUN,
	OPENED,
	READY,
};

struct witnesses {
	int fds[OX_KEPT_WITNESSES];
	unsigned count;
};

struct ox_keeper;

/* Sealed memory; -1: none. What is new has to be taken by a worker before the next one gets it. */
struct ox_kept_tls {
	int current;
	int renewed;
	bool is_told; /* to the worker, which has not answered */
	bool again;   /* others were asked for since */
};

/* A disk: an image, the sockets on which it is served, and the process that serves it. */
struct ox_kept_disk {
	struct ox_kept_disk *next;
	struct ox_keeper *keeper;
	const struct ox_keeper_disk_options *options;
	uint32_t number; /* never another's again */
	int64_t since;	 /* that it is kept, in seconds since 1970 */
	uint64_t deaths; /* of workers */
	struct ox_control_known known;
	bool is_added; /* by an operator, while the server runs */
	enum phase phase;
	bool writable;
	int given;
	int state;
	unsigned locked_count;
	int locked[OX_KEPT_CHAIN_MAX]; /* for good, with the locks */
	unsigned fresh_count;
	int fresh[OX_KEPT_CHAIN_MAX]; /* from an opener to a worker */
	/* Opened before the first write of the last worker whose first sync ended well, and before
	 * that of the worker that runs. */
	struct witnesses old;
	struct witnesses next_witnesses;
	struct ox_listeners listeners; /* of NBD */
	struct ox_listeners vhost_listeners;
	struct ox_fronts fronts;
	struct ox_mark mark;	 /* for front ends that come again at the next keeper */
	struct ox_spawned child; /* pid 0: none */
	enum progress progress;
	/* The read end of a pipe. A worker has a write end, and the dead one's requests: while
	 * there is one the pipe has not hung up. */
	int barrier;
	bool chain_is_open; /* locked is whole */
	bool announced;
	bool reaped;	/* the child: its id may be another's */
	bool broken;	/* it has said what it must not */
	bool must_sync; /* the worker has a witness, and has not said SYNCED */
	struct ox_watch watch;
	int stats; /* memory of what its workers count */
	struct ox_kept_tls tls;
	bool from_outside;    /* somebody else has killed the last worker */
	bool gives_up;	      /* once the barrier has fallen */
	bool state_is_needed; /* there may be answers that rest on it */
	bool closed;	      /* the image, by a worker */
	struct ox_saved_of saved_of;
	unsigned stops;
	unsigned tries; /* workers that died since one served */
	unsigned deaths_in_row;
	int64_t ready_ms;
	int64_t death_ms;
	int64_t barrier_ms; /* when the dead one's requests had ended */
	int64_t deadline_ms;
	struct ox_store store;
	bool ended;
	int status; /* of its end, as an exit status */
};

struct ox_keeper {
	const struct ox_keeper_options *options;
	struct ox_kept_disk *disks; /* in the order of their names */
	unsigned disk_count;
	int binary;
	int signals;
	struct ox_notify notify;
	struct ox_keeper_control control;
	uint32_t last_number;	 /* of a disk */
	struct ox_handed handed; /* of which disks take what is theirs */
	struct pollfd *polled;
	bool is_ready;	 /* which was told */
	int64_t ping_ms; /* when the watchdog is due */
	unsigned stops;
	int status;
	bool failed; /* it cannot go on */
};

/* ---- common.c ---- */

int64_t ox_keeper_now_ms(void);
/* Nobody is waited for who may have stopped to read. */
void ox_keeper_say(const char *format, ...) OX_CLI_PRINTF(1, 2);
/* It is over. The first status that is not 0 counts. */
void ox_keeper_end_disk(struct ox_kept_disk *disk, int status);
void ox_keeper_close_list(int *fds, unsigned *count);
/* Whatever the worker that runs writes was written after the next witnesses were opened. */
void ox_keeper_keep_next_witnesses(struct ox_kept_disk *disk);
/* To the child; -errno. */
int ox_keeper_tell(struct ox_kept_disk *disk, enum ox_wire_kind kind, uint32_t number,
		   const int *fds, unsigned count) OX_CHECKED;
/* One that cannot be told what it needs is killed; how it died is seen to as of any other. */
void ox_keeper_check_told(struct ox_kept_disk *disk, int ret);
void ox_keeper_kill_child(struct ox_kept_disk *disk);

/* Nobody can connect any more. */
void ox_keeper_close_listeners(struct ox_kept_disk *disk);

/* Sees to a worker that hangs. */
void ox_keeper_look_at_worker(struct ox_kept_disk *disk);

/* ---- start.c ---- */

void ox_keeper_start_opener(struct ox_kept_disk *disk);
/* With what its opener has handed over. */
void ox_keeper_start_worker(struct ox_kept_disk *disk);
/* Its child has been started as a worker, and is told what it needs. */
void ox_keeper_begin_serving(struct ox_kept_disk *disk);
/* Another one, after a pause, unless so many in a row have come to nothing. */
void ox_keeper_try_again(struct ox_kept_disk *disk, bool had_served);

/* ---- shared.c ---- */

/* Its opener is done: it is served together with others that are ready soon. */
void ox_shared_gather(struct ox_kept_disk *disk);
/* Starts a process for those that have gathered, if nobody is to be waited for any more. */
void ox_shared_start(struct ox_keeper *keeper);

/* ---- tls.c ---- */

/* 0 also where there is none to be; -1, having said why. */
int ox_kept_tls_begin(struct ox_kept_disk *disk) OX_CHECKED;
void ox_kept_tls_free(struct ox_kept_disk *disk);
bool ox_keeper_has_tls(const struct ox_keeper *keeper) OX_CHECKED;
/* Reads the credentials of all disks anew, and has their workers take them. */
void ox_keeper_renew_tls(struct ox_keeper *keeper);
/* Its worker serves, and can be told. */
void ox_kept_tls_ready(struct ox_kept_disk *disk);
/* Its worker has taken them, or not (a negative errno); -EBADMSG: nobody has asked it. */
int ox_kept_tls_answered(struct ox_kept_disk *disk, int code) OX_CHECKED;
void ox_kept_tls_worker_died(struct ox_kept_disk *disk);

/* ---- giveup.c ---- */

/* The end, after the state was saved if it is needed. No request may be left. */
void ox_keeper_give_up(struct ox_kept_disk *disk);
/* Takes the state that was saved, if one is given; -errno, having said why. */
int ox_keeper_load_state(struct ox_kept_disk *disk) OX_CHECKED;
/* Whether it is of the image as it is; says so if not. */
bool ox_keeper_state_fits(struct ox_kept_disk *disk);
/* Removes it, if the image has all of it. */
void ox_keeper_drop_saved(const struct ox_kept_disk *disk);

/* ---- hear.c ---- */

/* Whether a disk is to be served on what the service manager calls so. */
bool ox_keeper_is_wanted(const struct ox_keeper *keeper, const char *text);
/* One message, if there is one. */
void ox_keeper_hear_child(struct ox_kept_disk *disk);
/* What its worker says of front ends. */
void ox_keeper_hear_of_fronts(struct ox_kept_disk *disk);

/* ---- keeper.c ---- */

/* NULL: there is none of that name. */
struct ox_kept_disk *ox_keeper_find(const struct ox_keeper *keeper, const char *name);
/* As ox_keeper_add, with what is opened already, which is taken over. */
struct ox_kept_disk *ox_keeper_add_given(struct ox_keeper *keeper,
					 const struct ox_keeper_disk_options *options,
					 struct ox_keeper_given *given);
/* As SIGTERM does. */
void ox_keeper_stop(struct ox_keeper *keeper);
/* A disk is served, or never will be. */
void ox_keeper_check_ready(struct ox_keeper *keeper);

/* ---- disk.c ---- */

/* Its descriptors and memory; -1, having said why not. It is to be freed in either case. */
int ox_kept_disk_prepare(struct ox_kept_disk *disk) OX_CHECKED;
/* The state and the barrier, where there is none; -1, having said why not. */
int ox_kept_disk_make_anew(struct ox_kept_disk *disk) OX_CHECKED;
/* The chain is open: whether writes of an earlier server may be lost. */
void ox_kept_disk_find_mark(struct ox_kept_disk *disk);
/* A signal, or as one: the first ends it in order, a second does not wait for clients. */
void ox_kept_disk_stop(struct ox_kept_disk *disk);
/* Its deadline has come. */
void ox_kept_disk_time_is_up(struct ox_kept_disk *disk);
/* It has ended: what is left is given back. */
void ox_kept_disk_free(struct ox_kept_disk *disk);

/* ---- manager.c ---- */

void ox_manager_begin(struct ox_keeper *keeper);
/* With a line for its users: how many disks are served. */
void ox_manager_tell_death(struct ox_keeper *keeper);
/* Clients can connect, for the first time or again. */
void ox_manager_tell_ready(struct ox_keeper *keeper);
void ox_manager_tell_stopping(struct ox_keeper *keeper);
/* The watchdog, where one watches: pings while all is well. Returns when it is due again. */
int64_t ox_manager_ping(struct ox_keeper *keeper, int64_t now_ms);

/* ---- end.c ---- */

/* Children that have ended, of all disks. */
void ox_keeper_reap(struct ox_keeper *keeper);
/* The worker serves its other disks on. status: as of an exit. */
void ox_keeper_thread_has_ended(struct ox_kept_disk *disk, int status);
/* The dead one's last request has ended in the kernel: from here on the image is another's. */
void ox_keeper_barrier_has_fallen(struct ox_kept_disk *disk);

#endif
