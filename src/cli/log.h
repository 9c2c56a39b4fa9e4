/* SPDX-License-Identifier: MIT */
/*
 * Messages of a server. Whoever reads its standard error may be slow, or stopped, or gone, and no
 * client is to wait for that: lines are handed to a thread that writes them, and what does not fit
 * into its buffer is dropped and counted. The descriptor's flags, which other processes may share,
 * stay as they are.
 */
#ifndef OX_CLI_LOG_H
#define OX_CLI_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "oxbow.h"

/* From now on messages (ox_cli_error and its kin) go this way. 0 or -errno. */
int ox_cli_log_start(void) OX_CHECKED;
/* Gives the thread a bounded time to write what it has. Nothing happens where there is none. */
void ox_cli_log_end(void);
/* Takes a whole line, with its newline. False: no thread is running; it is the caller's. */
bool ox_cli_log_take(const char *line, size_t length);

#endif
