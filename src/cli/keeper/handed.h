/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that the service manager hands to a process it starts: the protocol of
 * sd_listen_fds(3). Their names tell those that an earlier keeper has left in the manager's store
 * from others (docs/systemd.md).
 */
#ifndef OX_CLI_KEEPER_HANDED_H
#define OX_CLI_KEEPER_HANDED_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/cli.h"

/* The values of LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES; NULL: it is not set. */
struct ox_handed_words {
	const char *pid;
	const char *fds;
	const char *names;
};

/* Calls take for each descriptor that is for the process; the name is not ended by a NUL. 0 also
 * where there is none. -EINVAL: the words contradict each other, and none was taken. */
int ox_handed_each(const struct ox_handed_words *words, long own_pid,
		   void (*take)(void *opaque, int fd, const char *name, size_t length),
		   void *opaque) OX_CHECKED;

/* The longest name of a disk, and its NUL. */
#define OX_HANDED_DISK_BYTES 65

enum ox_stored_kind {
	OX_STORED_FOREIGN, /* none of ours */
	OX_STORED_STATE,
	OX_STORED_BARRIER,
	OX_STORED_FILE,	   /* first: its depth; second: of how many */
	OX_STORED_USED_UP, /* says that no witness is left */
	OX_STORED_WITNESS, /* first: its generation; second: which of them */
};

struct ox_stored_name {
	enum ox_stored_kind kind;
	unsigned first;
	unsigned second;
};

#define OX_STORED_NAME_BYTES 48

/* Into text, of so many bytes. */
void ox_stored_name_print(const struct ox_stored_name *name, char *text);
/* FOREIGN for whatever ox_stored_name_print does not make. */
struct ox_stored_name ox_stored_name_parse(const char *text, size_t length);

/* One that was handed over. "oxbow-state@vm1" is of the disk "vm1", "oxbow-state" of the one that
 * has no name. */
struct ox_handed_fd {
	int fd; /* -1: it is taken */
	struct ox_stored_name name;
	char disk[OX_HANDED_DISK_BYTES];
	char text[OX_STORED_NAME_BYTES + OX_HANDED_DISK_BYTES]; /* cut, where it is longer */
};

struct ox_handed {
	unsigned count;
	struct ox_handed_fd *fds;
	bool is_wrong; /* the words contradicted each other, or memory was short */
};

/* What the environment tells, out of which it is taken; from here on no execution inherits it. */
void ox_handed_find(struct ox_handed *ret);
void ox_handed_free(struct ox_handed *handed);

#endif
