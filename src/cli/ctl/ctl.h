/* SPDX-License-Identifier: MIT */
/*
 * `oxbow ctl`: what an operator asks of a server that runs, over its control socket
 * (docs/control.md).
 *
 *	ctl.c   the command line
 *	talk.c  the connection: a line, and its answer
 *	text.c  answers for people
 *	add.c   a disk that the server is to serve as well
 */
#ifndef OX_CLI_CTL_CTL_H
#define OX_CLI_CTL_CTL_H

#include "cli/cli.h"

/* The connection, or a negative errno, having said why there is none. */
int ox_ctl_connect(const char *path) OX_CHECKED;
/* Sends request, which it takes over, and waits for the answer, however long that takes: its
 * "return", to be released. NULL: it has said why. */
json_t *ox_ctl_ask(int fd, json_t *request) OX_CHECKED;
/* Sends descriptors ahead of the line that they belong to; -errno. */
int ox_ctl_give(int fd, const int *fds, unsigned count) OX_CHECKED;
/* Until the other side is gone. */
void ox_ctl_await_end(int fd);

/* The exit status. arguments: the disk's name, and a command line of `oxbow serve`. */
int ox_ctl_add(int fd, char **arguments, int count);
/* Removes the unix sockets of a disk that was added so, and is gone. */
void ox_ctl_remove_sockets(const json_t *disk);

/* On stdout, of what `status` and `stats` return. */
void ox_ctl_print_status(const json_t *returned);
void ox_ctl_print_stats(const json_t *returned);
/* What a disk is called: its name, or its image where it has none. */
const char *ox_ctl_name(const json_t *disk);

#endif
