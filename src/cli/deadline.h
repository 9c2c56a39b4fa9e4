/* SPDX-License-Identifier: MIT */
/*
 * A bound on a call that may never return, as a close over a store that does not answer: when time
 * is up the process says so and exits with 1. There is no other way out of such a call.
 */
#ifndef OX_CLI_DEADLINE_H
#define OX_CLI_DEADLINE_H

/* message: a whole line, with its newline, that lives until ox_cli_deadline_end. */
void ox_cli_deadline_begin(unsigned ms, const char *message);
void ox_cli_deadline_end(void);

#endif
