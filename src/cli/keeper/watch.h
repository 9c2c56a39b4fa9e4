/* SPDX-License-Identifier: MIT */
/*
 * Whether a worker turns (serve/flight.h). It is looked at several times within the time-out, and
 * hangs if none of the looks found that it had turned. So a keeper that did not run for a while
 * itself, with its worker or without, does not take that for a hang.
 */
#ifndef OX_CLI_KEEPER_WATCH_H
#define OX_CLI_KEEPER_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "serve/flight.h"

struct ox_watch {
	int memory;	  /* -1: not made yet */
	unsigned hang_ms; /* UINT_MAX: never */
	int stat;	  /* /proc/PID/stat of the worker, or -1 */
	struct ox_flight_watch turns;
	int64_t look_ms; /* INT64_MAX: nobody is watched */
	unsigned looks;	 /* in a row that found it standing still */
	bool told;	 /* that it waits for a disk */
};

enum ox_watch_verdict {
	OX_WATCH_TURNS,
	OX_WATCH_WAITS_FOR_DISK, /* in the kernel, where no signal reaches it: told once */
	OX_WATCH_HANGS,
};

int ox_watch_make(struct ox_watch *watch, unsigned hang_ms) OX_CHECKED;
void ox_watch_free(struct ox_watch *watch);
/* Of a child that was just started. */
void ox_watch_begin(struct ox_watch *watch, pid_t pid, int64_t now_ms);
/* The child's thread of that number is the one that turns. */
void ox_watch_follow_thread(struct ox_watch *watch, pid_t pid, uint32_t thread);
void ox_watch_end(struct ox_watch *watch);
/* Whether half of the time-out has passed without a turn, and not for a disk. */
bool ox_watch_stands_still(const struct ox_watch *watch) OX_CHECKED;
/* At look_ms, or later. */
enum ox_watch_verdict ox_watch_look(struct ox_watch *watch, int64_t now_ms) OX_CHECKED;

#endif
