/* SPDX-License-Identifier: MIT */
/* Signals to long work: to end in good order, and to say how far it is. */
#ifndef OX_CLI_SIGNALS_H
#define OX_CLI_SIGNALS_H

#include "cli/cli.h"

/* INT, TERM and HUP ask for the end (a second one ends the process), USR1 for a line of progress on
 * stderr. Called first, before a signal could meet the work. */
void ox_cli_signals_catch(void);
/* For the interrupted callbacks of oxbow.h; opaque is the struct ox_cli_progress. */
int ox_cli_signals_interrupted(void *opaque);
/* Ends the process as the signal would have, if there was one. */
void ox_cli_signals_die(void);

#endif
