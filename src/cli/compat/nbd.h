/* SPDX-License-Identifier: MIT */
/*
 * qemu-nbd, by what a file is about:
 *
 *	nbd.c        the command line, as words of `oxbow serve`
 *	nbd_list.c   --list: what another server exports
 *	nbd_life.c   the process: --fork, the format of the image, a temporary overlay
 */
#ifndef OX_CLI_COMPAT_NBD_H
#define OX_CLI_COMPAT_NBD_H

#include "cli/cli.h"

/* As many as `oxbow serve` takes. */
#define OX_COMPAT_NBD_CLIENTS_MAX 4096u
#define OX_COMPAT_NBD_WORDS 40

struct ox_compat_nbd {
	struct ox_cli_source source;
	const char *host;
	const char *port;
	const char *socket;
	const char *export_name;
	const char *description;
	const char *pid_file;
	const char *cache;
	const char *aio;
	const char *discard;
	const char *detect_zeroes;
	const char *tls_creds; /* the id of an object */
	const char *tls_authz; /* of another one */
	const char *tls_directory;
	const char *tls_hostname;
	bool tls_verify_peer;
	unsigned shared;
	uint64_t offset;
	bool allocation_depth;
	bool list;
	bool persistent;
	bool verbose;
	bool fork;
	bool unmap;
	bool temporary; /* -s */
	bool probes;	/* the export tells its format */
	bool activated; /* a service manager listens */
	char *overlay;	/* of -s; NULL: none */
	char *rules;	/* of tls_authz, as `oxbow serve` takes them; NULL: none */
	int ready_fd;	/* to the parent of --fork; -1: none */
	char *words[OX_COMPAT_NBD_WORDS + 1]; /* ended by a NULL */
	int word_count;
};

/* In the parent the exit status, once the child is ready or has failed; in the child -1. */
int ox_compat_nbd_fork(struct ox_compat_nbd *nbd);
/* Prints what the server exports that the options name; arguments: what follows them. Returns the
 * exit status. */
int ox_compat_nbd_list(const struct ox_compat_nbd *nbd, int arguments);
/* Clients can connect; opaque is the struct. */
void ox_compat_nbd_listening(void *opaque);
/* Looks at the image where its format is not stated. Prints what is wrong. */
int ox_compat_nbd_find_format(struct ox_compat_nbd *nbd) OX_CHECKED;

#endif
