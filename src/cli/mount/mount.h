/* SPDX-License-Identifier: MIT */
/*
 * `oxbow mount`: a disk as a file, by two processes (docs/mount.md):
 *
 *	holder.c   mounts, waits for signals and for the other's end, unmounts
 *	connector.c   connects to the server of an export, for the worker
 *	relay.c, pump.c   and talks TLS to it
 *	worker.c   opens the image, gives up its rights, serves
 *	options.c  the command line
 *	mount.c    both are started, in the background or not
 *
 * They talk as a keeper and its worker do (cli/keeper/wire.h): OPENED, then LISTEN with the mount's
 * descriptor, READY; STOP.
 */
#ifndef OX_CLI_MOUNT_MOUNT_H
#define OX_CLI_MOUNT_MOUNT_H

#include "cli/serve/serve.h"

struct ox_cli_mount {
	struct ox_cli_serve_arguments serve; /* of the worker, and the image */
	const char *directory;		     /* as it was said */
	char *path;			     /* absolute, without links */
	bool allow_other;
	bool foreground;
	int told_fd; /* whoever waits for the mount, to be told of it; -1: nobody */
	int lines;   /* what the worker says, in the background; -1: it says it itself */
	pid_t worker;
	int socket; /* to it */
};

/* -EINVAL: it has said why. */
int ox_cli_mount_parse(int argc, char **argv, struct ox_cli_mount *mount) OX_CHECKED;
extern const char ox_cli_mount_help[];

/* Returns the exit status. */
int ox_cli_mount_hold(struct ox_cli_mount *mount) OX_CHECKED;
/* socket: to the holder. Returns the exit status. */
int ox_cli_mount_work(struct ox_cli_mount *mount, int socket, pid_t holder) OX_CHECKED;

/* connector.c: starts it, before the worker gives up its rights. *ret_uri becomes that by which the
 * worker opens the export, and lasts. Says what is wrong. */
int ox_cli_mount_connector_start(const char *uri, const struct ox_sandbox_user *user,
				 const char **ret_uri) OX_CHECKED;
/* Why the last connection has failed, beside its errno, or "". It lasts until the next call. */
const char *ox_cli_mount_connector_said(void);
/* connect of struct ox_open_options. */
int ox_cli_mount_connect(void *opaque, unsigned limit_ms) OX_CHECKED;

#endif
