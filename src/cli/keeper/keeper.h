/* SPDX-License-Identifier: MIT */
/*
 * The keeper: the process that was started, which lets another one serve and starts it again when
 * it dies. docs/processes.md says who holds what. It has one thread, opens nothing, and looks at
 * nothing that a client or an image wrote.
 */
#ifndef OX_CLI_KEEPER_KEEPER_H
#define OX_CLI_KEEPER_KEEPER_H

#include <stdbool.h>

#include "oxbow.h"
#include "serve/serve.h"

struct ox_keeper;

/* What a disk is served by. All of it lasts until the keeper has called let_go. */
struct ox_keeper_disk_options {
	const char *name;  /* of the configuration; "": the command line has it alone */
	const char *image; /* for messages */
	int given;	   /* --fd, or -1 */
	enum ox_lock lock; /* of the image, which its opener takes */
	/* As struct ox_serve_nbd_options has it; NULL: no NBD. Or, for both, "systemd:NAME": a
	 * socket that the service manager has handed over by that name. */
	const char *address;
	const char *vhost_path; /* of a socket for vhost-user; NULL: none */
	struct ox_serve_socket_rights rights;
	const char *export_name;
	struct ox_serve_tls_source tls; /* without a directory: no TLS */
	/* What the address is held to; of tls nothing but is_required and verify_peer. */
	struct ox_serve_nbd_options nbd;
	unsigned drain_ms;
	const char *state;    /* --state; NULL: none */
	const char *pid_file; /* beside which a state is saved; NULL: elsewhere */
	unsigned hang_ms; /* a worker that stands still for so long is killed; UINT_MAX: never */
	/* Disks of one group may be served by one process; NULL: this one has its own. */
	const char *group;
	char *const *arguments; /* of the verb, without it, for the children */
	/* Called once, when clients can connect. A negative errno ends the disk; the callee has
	 * said why. */
	int (*ready)(void *opaque, const char *uri, const char *vhost_path);
	/* Called at its end; NULL: not told. */
	void (*let_go)(void *opaque);
	void *opaque;
};

struct ox_keeper_options {
	/* A disk that ends or fails is not the end of the others, nor of the server. */
	bool goes_on;
	/* Called once, when each disk is served or has failed. As ready of a disk; NULL: not. */
	int (*ready)(void *opaque);
	/* At SIGHUP: takes disks on and lets others go. NULL: it ends the server, unless a disk has
	 * TLS, whose credentials are read anew in either case. */
	void (*reload)(void *opaque, struct ox_keeper *keeper);
	void *opaque;
	const char *control_path;	/* of the socket for operators; NULL: none */
	char *const *control_arguments; /* as those of a disk, for the process that listens there */
};

/* NULL, having said why. The signals that end a server are blocked. */
struct ox_keeper *ox_keeper_new(const struct ox_keeper_options *options);
/* Takes on a disk; one of the same name must have been let go. 0; -ESHUTDOWN: the server ends;
 * another -errno, having said why. */
int ox_keeper_add(struct ox_keeper *keeper,
		  const struct ox_keeper_disk_options *options) OX_CHECKED;
/* Whether there is one that neither has ended nor was told to, by an operator or for a failure. */
bool ox_keeper_goes_on(const struct ox_keeper *keeper, const char *name) OX_CHECKED;
/* Lets it end in order, as SIGTERM does. */
void ox_keeper_remove(struct ox_keeper *keeper, const char *name);
/* Until the end. Returns the exit status, having said what went wrong. */
int ox_keeper_run(struct ox_keeper *keeper);

#endif
