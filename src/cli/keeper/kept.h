/* SPDX-License-Identifier: MIT */
/*
 * The keeper's children: what a process of `oxbow serve` does that was started by its keeper. Each
 * begins with a socket and nothing else, and dies with the keeper.
 */
#ifndef OX_CLI_KEEPER_KEPT_H
#define OX_CLI_KEEPER_KEPT_H

#include <stdbool.h>
#include <sys/types.h>

#include "oxbow.h"
#include "serve/serve.h"

/* Of a chain; the library opens no longer one. */
#define OX_KEPT_CHAIN_MAX 1000
/* As many workers in a row may die before their first sync has ended, each of which uses one up. */
#define OX_KEPT_WITNESSES 8
#define OX_KEPT_LISTENERS 8

/* The exit status of a worker that cannot go on, and has said why. Any other is a death: 1 is that
 * of a sanitizer, say. */
#define OX_KEPT_FAILED 3
/* That of an opener or a worker that does not adopt what it was handed, and has said why. */
#define OX_KEPT_NOT_ADOPTED 4

enum ox_kept_role {
	OX_KEPT_NOT,
	OX_KEPT_OPENER,
	OX_KEPT_WORKER,
	OX_KEPT_SHARED, /* a worker of several disks */
	OX_KEPT_CONTROL,
};

/* "opener", as --kept-as has it. */
const char *ox_kept_name(enum ox_kept_role role);
/* The argument of --kept-as: "opener:7", 7 being the socket, or "opener:7:vm1" of a disk that has a
 * name. *ret_name is a part of text; NULL: it has none. -EINVAL. */
int ox_kept_parse(const char *text, enum ox_kept_role *ret_role, int *ret_socket,
		  const char **ret_name) OX_CHECKED;

/* What the keeper has handed over. */
struct ox_kept {
	int socket;
	pid_t keeper;
	int given;   /* -1: none; the same holds for the others */
	int barrier; /* held until the kernel has ended the last request */
	int witness;
	bool witness_is_used_up; /* the last one there was */
	int state;
	bool is_stored; /* locked comes out of a service manager's store */
	int flight_fd;
	int stats_fd;
	int tls_fd;
	int control;		      /* the listening socket, of the control process */
	struct ox_flight_death death; /* the last one */
	struct ox_flight *flight;
	struct ox_stats *stats;
	unsigned locked_count;
	int locked[OX_KEPT_CHAIN_MAX]; /* -1: an export, which is no file */
	/* Of a chain that this process has locked: by what path each was found. NULL: by none. */
	char *paths[OX_KEPT_CHAIN_MAX];
	unsigned fresh_count;
	int fresh[OX_KEPT_CHAIN_MAX];
	int listeners[OX_KEPT_LISTENERS];
	struct ox_serve_handed handed; /* to the server, over the listeners */
	/* Of an export that another process connects to: by what URI it is opened, and why the last
	 * connection has failed, or "". NULL: none. */
	const char *uri;
	const char *(*said)(void);
};

/* Receives it all, and ties the process to its keeper. -errno, also where there is no keeper. */
int ox_kept_begin(struct ox_kept *kept, int socket) OX_CHECKED;

/* What an image that is opened so is locked for, by QEMU's rules. */
enum ox_lock ox_kept_lock_of(const struct ox_open_options *options);

/* The same for each file of its chain: nothing is written to a backing file. */
enum ox_lock ox_kept_lock_at(const struct ox_open_options *options, unsigned depth);

/* Whether what a service manager has stored may be adopted: 0; -ENOTRECOVERABLE, said why; another
 * errno where nobody can tell, which is said too. */
int ox_kept_judge(const struct ox_kept *kept, const char *image,
		  const struct ox_open_options *options) OX_CHECKED;

/* Opens and locks the chain of image, as locked descriptors of kept, which has none. An export
 * (OX_OPEN_URI) is only read for its backing file's name. Says what is wrong; what was opened
 * before stays open. */
int ox_kept_lock_chain(struct ox_kept *kept, const char *image,
		       const struct ox_open_options *options) OX_CHECKED;
/* The opener: opens and locks the chain of image (or, where locked descriptors were handed over,
 * nothing), makes fresh descriptions, and hands all of it to the keeper. Says what is wrong. */
int ox_kept_open(struct ox_kept *kept, const char *image,
		 const struct ox_open_options *options) OX_CHECKED;

/* The worker: takes in what was in flight at the last death, and tells what is refused for it. From
 * here on the keeper sees whether the context turns. */
int ox_kept_take_flight(struct ox_kept *kept, struct ox_context *ctx, const char *image) OX_CHECKED;
/* The worker: goes on counting where the last one has stopped. */
int ox_kept_take_stats(struct ox_kept *kept) OX_CHECKED;
/* The worker: has the context hold what must outlive its requests. Says what is wrong. */
int ox_kept_hold(struct ox_kept *kept, struct ox_context *ctx) OX_CHECKED;
/* The worker: has the kernel, where it is short of memory, end it before the keeper. */
void ox_kept_offer_to_end(void);
/* For open_file of struct ox_open_options: each file once. -ESTALE: another one was in its place
 * when the chain was locked. */
int ox_kept_file(struct ox_kept *kept, const struct ox_file_wanted *wanted) OX_CHECKED;
/* Puts into the options of the opening the state, of which it adopts what a dead worker left in
 * it, and the witness, which the first sync asks. */
void ox_kept_set_options(const struct ox_kept *kept, struct ox_open_options *options);
/* Tells that the first sync has ended well. */
void ox_kept_synced(const struct ox_kept *kept);
/* Tells that the image is open, and waits for the listening sockets of so many protocols. 1: the
 * end has come first. */
int ox_kept_await_listeners(struct ox_kept *kept, unsigned protocols) OX_CHECKED;
/* The thread of one disk of several, whose process goes on: closes what nobody has taken, so that
 * neither a lock nor a barrier outlives the disk. socket -1: it is the server's. */
void ox_kept_close(struct ox_kept *kept);
/* The thread of one disk of several: tells that it has ended, as a process of its own would by the
 * exit status. */
void ox_kept_tell_end(int socket, int status);
/* Tells that clients are served. */
int ox_kept_ready(const struct ox_kept *kept) OX_CHECKED;

#endif
