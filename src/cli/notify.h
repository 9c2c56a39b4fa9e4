/* SPDX-License-Identifier: MIT */
/*
 * What the service manager is told: the protocol of sd_notify(3), which is a datagram of lines, and
 * at most one descriptor, to the socket that $NOTIFY_SOCKET names. It is documented as stable and
 * is this short; libsystemd would come along with a dozen libraries into every process of a server.
 *
 * Nobody waits for the manager. What it does not take at once waits in a queue, in order.
 */
#ifndef OX_CLI_NOTIFY_H
#define OX_CLI_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"

struct ox_notify_packet;

struct ox_notify {
	int socket; /* -1: nobody wants to be told */
	int error;  /* why it is told nothing any more: a negative errno; 0 */
	struct ox_notify_packet *first;
	struct ox_notify_packet **last;
	int64_t watchdog_ms; /* at the least so often it wants to be told; 0: not at all */
};

/* By the environment, out of which it is taken: what is started later is none of the manager's
 * business. -errno: there is a socket, and it cannot be used. */
int ox_notify_open(struct ox_notify *n) OX_CHECKED;
void ox_notify_close(struct ox_notify *n);

/* One message, with a descriptor or -1. The caller may close it afterwards. */
void ox_notify_send(struct ox_notify *n, int fd, const char *format, ...) OX_CLI_PRINTF(3, 4);
/* Whether some of it waits until the socket can be written. */
bool ox_notify_waits(const struct ox_notify *n);
void ox_notify_go_on(struct ox_notify *n);
/* Waits so long until the manager has taken all; false: it has not, or takes nothing any more. */
bool ox_notify_drain(struct ox_notify *n, int64_t most_ms) OX_CHECKED;

/* For a server that is one process: opens, says READY=1, closes. -errno. */
int ox_notify_ready(void) OX_CHECKED;

/* For the test: the watchdog's time by the values of its variables, for the process; 0: none. */
int64_t ox_notify_watchdog_ms(const char *usec, const char *pid, long own_pid);

#endif
