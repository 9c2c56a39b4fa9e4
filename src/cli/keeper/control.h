/* SPDX-License-Identifier: MIT */
/*
 * The keeper's side of its control process, which listens to operators (docs/control.md): it is
 * told how each disk is, and asks. It serves no disk, so that it may die at any time; the next one
 * is told all of it anew.
 *
 *	keeper                                 control process
 *	  | <- STOP, REMOVE, COMMAND ----------------- |
 *	  | -- DISK, GONE, ANSWER -------------------> |
 *	  |
 *	  | -- serve/command.h -> worker
 *	  | <- ANSWERED --------- worker
 */
#ifndef OX_CLI_KEEPER_CONTROL_H
#define OX_CLI_KEEPER_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <poll.h>

#include "cli/keeper/control_wire.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/spawn.h"
#include "serve/listen/listen.h"

struct ox_keeper;
struct ox_kept_disk;

/* What was asked of all processes together and is not answered. */
#define OX_CONTROL_ASKED_MAX 256

struct ox_control_asked {
	bool is_used;
	bool is_orphan; /* whoever asked has died; the answer is taken all the same */
	uint32_t kind;
	uint32_t id;	  /* of whoever asked */
	uint32_t disk;	  /* its number */
	uint32_t command; /* its id for the worker */
};

/* What a disk is taken on with, that is not opened here. */
struct ox_keeper_given {
	unsigned locked_count;
	int locked[OX_KEPT_CHAIN_MAX];
	struct ox_listeners listeners;
	struct ox_listeners vhost_listeners;
	bool is_wrong; /* something that was given is not what it was said to be */
};

struct ox_keeper_control {
	const char *path; /* NULL: there is none */
	struct ox_listeners listeners;
	struct ox_spawned child; /* pid 0: none */
	unsigned deaths_in_row;
	int64_t started_ms;
	int64_t start_ms; /* the next one; INT64_MAX: one runs */
	bool must_wait;	  /* until it reads */
	bool told_all;
	uint32_t last_command;
	struct ox_keeper_given given; /* so far, for the next ADD */
	struct ox_control_asked asked[OX_CONTROL_ASKED_MAX];
};

/* What it was told last of a disk. */
struct ox_control_known {
	bool is_known;
	uint32_t state;
	pid_t pid;
	uint64_t deaths;
};

/* Listens; the process is started in the first turn. 0 also where there is to be none; -errno,
 * having said why. */
int ox_keeper_control_begin(struct ox_keeper *keeper) OX_CHECKED;
/* Its socket is removed; the process dies with the keeper. */
void ox_keeper_control_end(struct ox_keeper *keeper);

struct pollfd ox_keeper_control_polled(const struct ox_keeper *keeper);
/* After each wait: hears one message, tells what is new, starts the next one. */
void ox_keeper_control_turn(struct ox_keeper *keeper, short events);
/* When it is to be started again; INT64_MAX: not. */
int64_t ox_keeper_control_due_ms(const struct ox_keeper *keeper);
/* Whether it was this child that has ended. */
bool ox_keeper_control_reap(struct ox_keeper *keeper, pid_t pid, int code);

/* What it gives for ADD, whose descriptors are taken over. -EBADMSG: it must not. */
int ox_keeper_added_give(struct ox_keeper_given *given, enum ox_control_given what, int *fds,
			 unsigned *fd_count) OX_CHECKED;
void ox_keeper_added_drop(struct ox_keeper_given *given);
/* Takes the disk on with what was given; memory: of a struct ox_control_add. Its number, for the
 * answer; -EBADMSG: there is no such memory; -EINVAL: it makes no sense; -EEXIST; -ENOMEM. */
int ox_keeper_added_begin(struct ox_keeper *keeper, int memory, uint32_t *ret_number) OX_CHECKED;
/* It is served. */
void ox_keeper_control_added(struct ox_keeper *keeper, uint32_t number);

/* A worker's answer; -EBADMSG: nobody has asked. */
int ox_keeper_control_answered(struct ox_kept_disk *disk, uint32_t number) OX_CHECKED;
/* A worker can answer nothing any more. */
void ox_keeper_control_worker_died(struct ox_kept_disk *disk);
/* The disk of that number has ended so, and has been given back. */
void ox_keeper_control_disk_gone(struct ox_keeper *keeper, uint32_t number, int status);

#endif
