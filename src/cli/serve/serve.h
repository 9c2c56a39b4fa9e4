/* SPDX-License-Identifier: MIT */
/*
 * `oxbow serve`, by what a file is about:
 *
 *	options.c  the command line
 *	export.c   an image that is another server's export
 *	config.c   a configuration file: a command line for each disk
 *	disks.c    its disks, under one keeper
 *	rights.c   whose its sockets are
 *	image.c    the image is opened, served and closed
 *	shared.c   a process that serves several disks
 *	serve.c    what a process does: all of it, or a keeper's, an opener's, a worker's part
 */
#ifndef OX_CLI_SERVE_SERVE_H
#define OX_CLI_SERVE_SERVE_H

#include <getopt.h>

#include "cli/cli.h"
#include "cli/keeper/keeper.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/mark.h"
#include "cli/notices.h"
#include "cli/pid_file.h"
#include "cli/sandbox/sandbox.h"
#include "oxbow.h"
#include "serve/serve.h"

#define OX_CLI_SERVE_CLIENTS 64
#define OX_CLI_SERVE_DRAIN_MS 60000
#define OX_CLI_SERVE_HANG_MS 30000
#define OX_CLI_SERVE_QUEUES 4
#define OX_CLI_SERVE_BLOCK_BYTES 512
#define OX_CLI_SERVE_QUEUE_SIZE 256

struct ox_cli_serve_arguments {
	const char *name; /* of the configuration; NULL: the command line has it */
	const char *config;
	bool says_disk; /* it has options of a disk */
	const char *format;
	const char *image;
	struct ox_cli_pid_file pid_file;
	struct ox_open_options open;
	struct ox_serve_options serve;
	struct ox_cli_progress progress; /* of a recovery before the opening returns */
	struct ox_cli_recovery recovery; /* and after it */
	struct ox_cli_notices notices;
	bool opened;
	bool closing;
	bool lost;			   /* requests will never complete */
	bool in_thread;			   /* the process serves other disks as well */
	_Atomic int64_t close_deadline_ms; /* in a thread; 0: it is not being closed */
	bool memory_stated;
	int fd; /* -1: the image is opened by its name */
	bool keeper;
	bool keeper_stated;
	bool takes_exports; /* it is a command line of its own, with nothing beside it */
	bool no_sandbox;
	bool shares;	  /* its process with other disks */
	const char *user; /* --user; NULL: not stated */
	unsigned hang_ms;
	const char *state;
	struct ox_mark mark;	   /* of a server without a keeper */
	const char *control;	   /* --control; NULL: not stated */
	const char *tls_directory; /* --tls-creds; NULL: no TLS */
	const char *tls_authz;	   /* --tls-authz; NULL: none */
	enum ox_kept_role role;
	int socket; /* to the keeper, of a role */
	struct ox_kept *kept;
	struct ox_sandbox sandbox;
	/* Clients can connect, and the pid file is written: called instead of printing where. */
	void (*listening)(void *opaque);
	void *listening_opaque;
	bool quiet;
	bool verbose;
	bool help;
};

extern const char ox_cli_serve_help[];
extern const struct option ox_cli_serve_options[]; /* ended by zeroes */

/* What holds where nothing is said. */
void ox_cli_serve_init(struct ox_cli_serve_arguments *arguments);

/* Where the image is an export: sees to what cannot be with one, and serves without a keeper.
 * -EINVAL, -ENOTSUP: it has said why. */
int ox_cli_serve_take_export(struct ox_cli_serve_arguments *arguments) OX_CHECKED;
/* While an export is opened, whose server may never answer: nothing is served yet, and the signals
 * that end a server end the process. */
void ox_cli_serve_offer_signals(const struct ox_cli_serve_arguments *arguments, bool offered);
bool ox_cli_serve_is_export(const struct ox_cli_serve_arguments *arguments);

/* -EINVAL: it has said why. */
int ox_cli_serve_parse(int argc, char **argv, struct ox_cli_serve_arguments *arguments) OX_CHECKED;

/* -EINVAL: it is none. */
int ox_cli_socket_mode_parse(const char *text, struct ox_serve_socket_rights *ret) OX_CHECKED;
int ox_cli_socket_owner_parse(const char *text, struct ox_serve_socket_rights *ret) OX_CHECKED;
int ox_cli_socket_group_parse(const char *text, struct ox_serve_socket_rights *ret) OX_CHECKED;

/* Puts what is told of the image into the options. */
void ox_cli_serve_listen(struct ox_cli_serve_arguments *arguments);
void ox_cli_serve_warn(void *opaque, const char *message);
/* Clients can connect: writes the pid file, prints where. */
int ox_cli_serve_ready(void *opaque, const char *uri, const char *vhost_path);
/* What the keeper is told of a disk. words: of its command line, without the verb. */
void ox_cli_serve_describe(struct ox_cli_serve_arguments *arguments, char *const *words,
			   struct ox_keeper_disk_options *ret);
/* Puts the user's numbers in the place of its name into words, as *ret_word, which is to be freed.
 * A negative errno: it has said why. */
int ox_cli_serve_resolve_user(const struct ox_cli_serve_arguments *arguments, char **words,
			      char **ret_word) OX_CHECKED;
/* Before the process gives up the right to open files, and before it has threads. Says what is
 * wrong. */
int ox_cli_serve_prepare_tls(const struct ox_cli_serve_arguments *arguments) OX_CHECKED;
/* As a worker: takes in what the keeper has of the last one, and holds what is to outlive it. Says
 * what is wrong. */
int ox_cli_serve_take_kept(struct ox_cli_serve_arguments *arguments,
			   struct ox_context *ctx) OX_CHECKED;
/* As a worker of several disks, which are told over the socket. Does not return once it serves. */
int ox_cli_serve_shared(int socket) OX_CHECKED;
/* Whether the image lacks what a server has saved beside it; says so, as -EBUSY. fd: the image; -1:
 * by its name. */
int ox_cli_serve_look_for_saved(const struct ox_cli_serve_arguments *arguments, int fd) OX_CHECKED;
/* In this process: all of it, or the worker's part, which has been handed all that it needs. */
int ox_cli_serve_begin(struct ox_cli_serve_arguments *arguments) OX_CHECKED;
/* As a worker: the keeper has the locks, and its opener has opened the files. */
void ox_cli_serve_by_keeper(struct ox_cli_serve_arguments *arguments);
/* What a command line asks for, which has been parsed; words are its own, without the verb, and end
 * in a NULL. Returns the exit status. */
int ox_cli_serve_run(struct ox_cli_serve_arguments *arguments, char **words);
/* Serves until it is told to end; then closes the image and frees the context. */
int ox_cli_serve_image(struct ox_context *ctx, struct ox_cli_serve_arguments *arguments) OX_CHECKED;

#endif
