/* SPDX-License-Identifier: MIT */
/*
 * Servers: an open image, offered to clients of a block protocol. A server runs in the thread of
 * the image's context and returns when it is told to stop by SIGTERM, SIGINT or SIGHUP, which the
 * caller has blocked (ox_serve_block_signals) before any thread was started.
 */
#ifndef OX_SERVE_SERVE_H
#define OX_SERVE_SERVE_H

#include <stdbool.h>
#include <sys/types.h>

#include "oxbow.h"
#include "serve/flight.h"
#include "serve/stats.h"

/* What a server has from a process that outlives it, instead of making it. */
struct ox_serve_handed {
	/* Listening and non-blocking; closed by the server, not removed. */
	const int *listeners; /* NBD's */
	int listener_count;
	bool listeners_are_unix;
	/* To the keeper, which holds front ends of vhost-user (vhost/park.h); closed by the server.
	 * -1: none */
	int vhost_keeper;
	int vhost_listener; /* where nobody holds them; -1: none */
	bool was_killed;    /* the last server, by somebody else */
	/* Non-blocking; closed by the server. A message is a command (serve/command.h), or else
	 * stands for a signal; signals themselves are not looked at. */
	int stop_fd;
	int fuse_fd; /* of a mount; closed by the server. -1: none */
	/* What became of the command with that id: 0 or a negative errno. NULL: commands are not
	 * taken. */
	void (*answer)(void *opaque, uint32_t id, int code);
	void *opaque;
	struct ox_flight *flight; /* which outlives the server; NULL: none */
	struct ox_stats *stats;	  /* so does its memory; NULL: nothing is counted */
};

/* Whose the unix sockets are, that a server makes. Before they are so nobody can connect. */
struct ox_serve_socket_rights {
	bool has_mode; /* else by the umask */
	mode_t mode;
	bool has_owner;
	uid_t owner;
	bool has_group;
	gid_t group;
};

/* TLS of NBD (docs/tls.md). */
struct ox_serve_tls_options {
	bool is_required;
	/* What ox_serve_tls_read has made; it stays the caller's. */
	int fd;
	bool verify_peer; /* a client without a certificate, or with a bad one, is turned away */
	bool has_rules; /* and one that they deny (struct ox_serve_tls_source); with verify_peer */
	/* At SIGHUP, of a server that takes signals itself: reads anew, as ox_serve_tls_read. A
	 * negative errno: the callee has said why not. NULL: SIGHUP stops the server. */
	int (*renew)(void *opaque);
};

/* What becomes of a write of nothing but zeroes. */
enum ox_serve_detect_zeroes {
	OX_SERVE_ZEROES_WRITE, /* it is a write like others */
	OX_SERVE_ZEROES_KEEP,  /* the range is made zero and stays allocated */
	OX_SERVE_ZEROES_UNMAP, /* the range is made zero, and its space may return to the host */
};

struct ox_serve_nbd_options {
	/* unix:PATH; HOST:PORT, [ADDRESS]:PORT, *:PORT (all addresses) or :PORT (the loopback),
	 * with port 0 for any free one; "fd:N", a descriptor of a socket that
	 * listens; else a path. NULL: no NBD. */
	const char *address;
	const char *export_name; /* "" is the default export */
	const char *description; /* NULL: none */
	unsigned max_clients;	 /* > 0; further ones wait in the listen queue */
	/* For requests in flight, buffers and connections together; 0: the default. At least
	 * ox_serve_nbd_memory_min(max_clients). */
	uint64_t memory_bytes;
	/* How long a client may keep memory that others wait for without reading or sending on,
	 * in ms; 0: a minute. */
	unsigned patience_ms;
	struct ox_serve_tls_options tls;
	bool is_insecure; /* may be reached from other hosts without TLS */
	uint64_t offset;  /* of the disk, at which the export begins */
	enum ox_serve_detect_zeroes detect_zeroes;
	bool allocation_depth; /* clients can ask in which layer of the chain what is */
	/* The server ends when a client that chose the export has left, and nobody else is there.
	 */
	bool ends_with_clients;
};

/* A disk over vhost-user (docs/vhost-user.md). */
struct ox_serve_vhost_options {
	/* Of its unix socket; or "fd:N", a descriptor of one that listens, or, without handed, of a
	 * connection: then the server ends when that front end has left. NULL: none. */
	const char *path;
	unsigned queues; /* 1 to OX_SERVE_VHOST_QUEUES_MAX */
	/* Of a ring: a power of two, to OX_SERVE_VHOST_RING_MAX. */
	unsigned queue_size;
	unsigned block_bytes;	  /* logical: a power of two, to OX_SERVE_VHOST_BLOCK_MAX */
	enum ox_cache_mode cache; /* of the image */
	bool may_be_lost;   /* writes that an earlier server had answered; a keeper tells itself */
	const char *serial; /* at most OX_SERVE_VHOST_SERIAL_BYTES; NULL: none */
};

/* A disk as the one file of a mount (docs/mount.md), whose descriptor is handed over. */
struct ox_serve_fuse_options {
	bool is_wanted;
	bool direct; /* the kernel caches nothing of it */
	uid_t uid;   /* whose the file is */
	gid_t gid;
	mode_t mode;
};

/*
 * What all clients together may do, over every protocol. A request is an I/O, whatever it asks for;
 * bytes are those of reads and writes: what is trimmed or zeroed moves none. 0: no limit, or the
 * default, a tenth of a second's worth. Rates and bursts are OX_SERVE_LIMIT_MAX at most.
 */
struct ox_serve_limits {
	uint64_t iops;		  /* a second */
	uint64_t iops_burst;	  /* as many may be saved up in idle time */
	uint64_t bandwidth;	  /* bytes a second */
	uint64_t bandwidth_burst; /* bytes */
};

#define OX_SERVE_LIMIT_MAX (UINT64_C(1) << 50)

#define OX_SERVE_VHOST_QUEUES_MAX 64u
#define OX_SERVE_VHOST_RING_MAX 1024u
#define OX_SERVE_VHOST_SERIAL_BYTES 20u
#define OX_SERVE_VHOST_BLOCK_MIN 512u
#define OX_SERVE_VHOST_BLOCK_MAX 4096u

/* What becomes of a change that finds no room on the host (ENOSPC, EDQUOT). */
enum ox_serve_on_full {
	OX_SERVE_FULL_ERROR, /* it fails */
	OX_SERVE_FULL_PAUSE, /* it waits for room (docs/full.md) */
};

struct ox_serve_options {
	const char *name; /* of the image, for the log; NULL: it is "the disk" */
	struct ox_serve_nbd_options nbd;
	struct ox_serve_vhost_options vhost;
	struct ox_serve_fuse_options fuse;
	struct ox_serve_socket_rights rights; /* not of sockets that were handed over */
	struct ox_serve_limits limits;
	enum ox_serve_on_full on_full;
	uint64_t low_space_bytes; /* less on the image's file system is told; 0: never */
	/* Of the image's file, to ask for that and for on_full; -1: nobody can. It stays the
	 * caller's. */
	int file_fd;
	/* How long the end waits for the library without any request being completed, in ms; 0: a
	 * minute. */
	unsigned drain_ms;
	const struct ox_serve_handed *handed; /* NULL: addresses and signals */
	/* Called once, when clients can connect, with the URI for those of NBD and the path for
	 * those of vhost-user; NULL where there is none, or handed. A negative errno ends the
	 * server, which returns it; the callee has said why. */
	int (*ready)(void *opaque, const char *uri, const char *vhost_path);
	/* Called once, before the first answer over vhost-user to a write that is not durable.
	 * -errno is told, and nothing else happens. NULL: not called. A keeper is asked itself. */
	int (*mark)(void *opaque);
	/* Called with one line for each thing that the user should know. */
	void (*warn)(void *opaque, const char *message);
	/* Called with one line for each connection that comes or goes. NULL: not told. */
	void (*log)(void *opaque, const char *message);
	void *opaque;
};

/* What went wrong, in words. */
struct ox_serve_error {
	char message[512];
	/* Requests will never complete, or did not in time: the image cannot be closed any more. */
	bool requests_lost;
};

/* Blocks the signals that stop a server, so that it can take them from a descriptor. */
void ox_serve_block_signals(void);

/*
 * What has to be done before a process with TLS gives up the right to open files, and before it has
 * threads. A negative errno, and *ret_error: there is no GnuTLS.
 */
int ox_serve_tls_prepare(struct ox_serve_error *ret_error) OX_CHECKED;

/* Where TLS credentials are. */
struct ox_serve_tls_source {
	const char *directory;
	/* Of rules by the names of certificates: a file's path, or "json:" and what would be in it.
	 * NULL: there are none. */
	const char *authz;
	bool verify_peer;
};

/*
 * Reads TLS credentials, as they are, into a sealed file in memory, whose descriptor it returns.
 * What is in them is looked at by the server alone. A negative errno, and *ret_error: a file is
 * missing, or cannot be read.
 */
int ox_serve_tls_read(const struct ox_serve_tls_source *source,
		      struct ox_serve_error *ret_error) OX_CHECKED;

/* As ox_serve_tls_prepare, for a mount. */
int ox_serve_fuse_prepare(struct ox_serve_error *ret_error) OX_CHECKED;

struct ox_serve_mount_options {
	const char *directory; /* absolute */
	const char *name;      /* of what is mounted there */
	bool read_only;
	bool allow_other;
};

/* Mounts, and returns the descriptor that a server is handed; a negative errno, and *ret_error.
 * What libfuse keeps of it lasts as long as the process. */
int ox_serve_fuse_mount(const struct ox_serve_mount_options *options,
			struct ox_serve_error *ret_error) OX_CHECKED;
/* 0; -EBUSY: it is in use, and not to be detached; another negative errno. */
int ox_serve_fuse_unmount(const char *directory, bool detach) OX_CHECKED;

/* The least memory for so many clients. */
uint64_t ox_serve_nbd_memory_min(unsigned max_clients);
/* What is taken where none is stated: 256 MiB, or more if so many clients need it. */
uint64_t ox_serve_nbd_memory_default(unsigned max_clients);

/*
 * Serves image until told to stop; then finishes what it has accepted, sends the replies (waiting a
 * bounded time for clients that do not read) and returns 0. The image stays open. On failure, also
 * of the library's I/O engine, or of a store that answers no more, returns a negative errno and
 * fills *ret_error.
 */
int ox_serve(struct ox_context *ctx, struct ox_image *image, const struct ox_serve_options *options,
	     struct ox_serve_error *ret_error) OX_CHECKED;

#endif
