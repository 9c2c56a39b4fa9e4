/* SPDX-License-Identifier: MIT */
/* Starting a process of the keeper's: its own binary anew, with a socket and nothing else. */
#ifndef OX_CLI_KEEPER_SPAWN_H
#define OX_CLI_KEEPER_SPAWN_H

#include <sys/types.h>

#include "cli/keeper/kept.h"

/* The exit status of a child that could not be executed; the dynamic loader has the same. */
#define OX_SPAWN_FAILED 127

struct ox_spawned {
	pid_t pid;
	int socket; /* the keeper's end, non-blocking */
};

/* A descriptor of the binary that runs, whatever becomes of its name; or -errno. */
int ox_spawn_binary(void) OX_CHECKED;
/* A pair of sockets for messages (wire.h), of which the keeper's own does not block. */
int ox_spawn_pair(int *ret_own, int *ret_other) OX_CHECKED;
/* name: of the disk, or "". arguments: of the verb, without it, ending with NULL. */
int ox_spawn(int binary, enum ox_kept_role role, const char *name, char *const *arguments,
	     struct ox_spawned *ret) OX_CHECKED;

#endif
