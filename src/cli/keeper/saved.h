/* SPDX-License-Identifier: MIT */
/*
 * A state that outlives even the keeper: a file beside its run-time files, written when no worker
 * could adopt what the dead one left, and taken again by `oxbow serve --state`. It begins with what
 * the image's file was then: a state is of no use to an image that was changed since.
 */
#ifndef OX_CLI_KEEPER_SAVED_H
#define OX_CLI_KEEPER_SAVED_H

#include <limits.h>
#include <stdint.h>
#include <sys/stat.h>

#include "oxbow.h"

/* The image's file. */
struct ox_saved_of {
	uint64_t device;
	uint64_t inode;
	uint64_t block_device; /* that it is itself; 0: none */
	uint64_t bytes;
	int64_t changed_s; /* its time of modification */
	int64_t changed_ns;
};

/* Where states lie: beside the pid file (NULL: there is none), in $RUNTIME_DIRECTORY, in a folder
 * for all. The first that can be is written to; all are looked through. */
#define OX_SAVED_PLACES 3u

struct ox_saved_places {
	char paths[OX_SAVED_PLACES][PATH_MAX];
	unsigned count;
	bool last_is_ours; /* made where it does not exist */
};

void ox_saved_places_get(struct ox_saved_places *ret, const char *pid_file);

/* Whether the file is the one that it was, unchanged. */
bool ox_saved_is_of(const struct ox_saved_of *saved, int image_fd);

/* Whether one lies there for the image, and its path. One that may not be read counts. */
bool ox_saved_find(const struct ox_saved_places *places, const struct stat *image,
		   char ret_path[PATH_MAX]);

/* Syncs the image, so that it lasts as long as the state does, and writes the state into a new file
 * of mode 0600. -errno; *ret_sync_failed: the image could not be synced, so the state is worth
 * nothing. */
int ox_saved_write(const struct ox_saved_places *places, const char *image, int image_fd,
		   int state_fd, char ret_path[PATH_MAX], bool *ret_sync_failed) OX_CHECKED;

/* Copies the state in a file into a memory file that is empty. -errno; -EBADMSG: it is none. */
int ox_saved_read(const char *path, int state_fd, struct ox_saved_of *ret) OX_CHECKED;

#endif
