/* SPDX-License-Identifier: MIT */
/*
 * The file with the process id of a server. That it can be written is known before anything is
 * served; until the server can be connected to, a file of that name keeps what it holds, and none
 * comes to be: who waits for the file may connect. (Where a file system has no files without a
 * name an empty one is there before.)
 */
#ifndef OX_CLI_PID_FILE_H
#define OX_CLI_PID_FILE_H

#include <stdbool.h>

#include "oxbow.h"

struct ox_cli_pid_file {
	const char *path; /* NULL: none is wanted, and all of these do nothing */
	int fd;		  /* open from ox_cli_pid_file_open on */
	bool created;	  /* by this process */
	bool unnamed;	  /* so far */
	bool written;
};

/* -errno, having said why. */
int ox_cli_pid_file_open(struct ox_cli_pid_file *file) OX_CHECKED;
int ox_cli_pid_file_write(struct ox_cli_pid_file *file) OX_CHECKED;
/* Removes the file if it is this server's, and closes it. */
void ox_cli_pid_file_remove(struct ox_cli_pid_file *file);

#endif
