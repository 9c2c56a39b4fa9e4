/* SPDX-License-Identifier: MIT */
/*
 * TLS for the worker of a mount (docs/nbd-client.md, "Served and mounted"). libnbd reads
 * credentials from files for each connection, and compares a certificate with the name of the host
 * that it has connected to itself; the worker does neither in its sandbox. So each connection has a
 * process between the server and the worker. It reads the credentials, enters a sandbox of its own,
 * and talks TLS to the server. The worker hears the server's greeting and answers from there, and
 * has neither keys nor anything else of TLS in its memory.
 */
#ifndef OX_CLI_MOUNT_RELAY_H
#define OX_CLI_MOUNT_RELAY_H

#include "cli/sandbox/sandbox.h"
#include "serve/tls/client.h"

#define OX_RELAY_SAID_MAX 256

struct ox_relay {
	struct ox_uri_tls *tls; /* NULL: the URI is one without TLS */
	struct ox_sandbox_user user;
	char *said; /* memory that all have part in: why the last one has failed, or "" */
};

/* Of the connector, once: loads GnuTLS, and says what is wrong with the credentials. */
int ox_relay_prepare(const struct ox_relay *relay) OX_CHECKED;
/*
 * Starts the process that has far, a connected socket, which stays the caller's. Returns a socket
 * that the server talks to in the clear, once TLS is there; -errno, within limit_ms, and said.
 * other: a descriptor that the process is not to have.
 */
int ox_relay_start(const struct ox_relay *relay, int far, int other, unsigned limit_ms) OX_CHECKED;

/* pump.c: passes on what comes from either side, until one of them ends. True: that was the server,
 * which had said nothing. */
bool ox_cli_mount_pump(struct ox_tls_session *session, int far, int plain);

#endif
