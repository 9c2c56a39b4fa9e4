/* SPDX-License-Identifier: MIT */
/*
 * The keeper's children: what a process of `oxbow serve` does that was started by its keeper. Each
 * begins with a socket and nothing else, and dies with the keeper.
 */
#ifndef OX_CLI_KEEPER_KEPT_H
#define OX_CLI_KEEPER_KEPT_H

#include <stdbool.h>

#include "oxbow.h"
#include "serve/serve.h"

/* Of a chain; the library opens no longer one. */
#define OX_KEPT_CHAIN_MAX 1000
/* As many workers in a row may die over the first sync, each of which uses up a witness. */
#define OX_KEPT_WITNESSES 3
#define OX_KEPT_LISTENERS 8

/* The exit status of a worker that cannot go on, and has said why. Any other is a death: 1 is that
 * of a sanitizer, say. */
#define OX_KEPT_FAILED 3

enum ox_kept_role {
	OX_KEPT_NOT,
	OX_KEPT_OPENER,
	OX_KEPT_WORKER,
};

/* The argument of --kept-as: "opener:7", 7 being the socket. -EINVAL. */
int ox_kept_parse(const char *text, enum ox_kept_role *ret_role, int *ret_socket) OX_CHECKED;

/* What the keeper has handed over. */
struct ox_kept {
	int socket;
	int given;   /* -1: none; the same holds for the others */
	int barrier; /* held until the kernel has ended the last request */
	int witness;
	int state;
	unsigned locked_count;
	int locked[OX_KEPT_CHAIN_MAX];
	unsigned fresh_count;
	int fresh[OX_KEPT_CHAIN_MAX];
	unsigned listener_count;
	int listeners[OX_KEPT_LISTENERS];
	struct ox_serve_handed handed; /* to the server, over the listeners */
};

/* Receives it all, and ties the process to its keeper. -errno, also where there is no keeper. */
int ox_kept_begin(struct ox_kept *kept, int socket) OX_CHECKED;

/* What an image that is opened so is locked for, by QEMU's rules. */
enum ox_lock ox_kept_lock_of(const struct ox_open_options *options);

/* The opener: opens and locks the chain of image (or, where locked descriptors were handed over,
 * nothing), makes fresh descriptions, and hands all of it to the keeper. Says what is wrong. */
int ox_kept_open(struct ox_kept *kept, const char *image,
		 const struct ox_open_options *options) OX_CHECKED;

/* The worker: has the context hold what must outlive its requests; then the first sync, by the
 * witness. Says what is wrong. */
int ox_kept_start(struct ox_kept *kept, struct ox_context *ctx, const char *image,
		  const struct ox_open_options *options) OX_CHECKED;
/* For open_file of struct ox_open_options: each file once. */
int ox_kept_file(struct ox_kept *kept, const struct ox_file_wanted *wanted) OX_CHECKED;
/* Puts the state into the options of the opening, which adopts what a dead worker left in it. */
void ox_kept_set_state(const struct ox_kept *kept, struct ox_open_options *options);
/* Tells that the image is open, and waits for the listening sockets. 1: the end has come first. */
int ox_kept_await_listeners(struct ox_kept *kept) OX_CHECKED;
/* Tells that clients are served. */
int ox_kept_ready(const struct ox_kept *kept) OX_CHECKED;

#endif
