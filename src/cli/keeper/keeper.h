/* SPDX-License-Identifier: MIT */
/*
 * The keeper: the process that was started, which lets another one serve and starts it again when
 * it dies. docs/processes.md says who holds what. It has one thread, opens nothing, and looks at
 * nothing that a client or an image wrote.
 */
#ifndef OX_CLI_KEEPER_KEEPER_H
#define OX_CLI_KEEPER_KEEPER_H

#include "oxbow.h"

struct ox_keeper_options {
	const char *image;   /* for messages */
	int given;	     /* --fd, or -1 */
	enum ox_lock lock;   /* of the image, which its opener takes */
	const char *address; /* as struct ox_serve_nbd_options has it */
	const char *export_name;
	unsigned drain_ms;
	char *const *arguments; /* of the verb, without it, for the children */
	/* Called once, when clients can connect. A negative errno ends the server; the callee has
	 * said why. */
	int (*ready)(void *opaque, const char *uri);
	void *opaque;
};

/* Until the end. The signals that end a server are blocked. Returns the exit status, having said
 * what went wrong. */
int ox_keeper_run(const struct ox_keeper_options *options);

#endif
