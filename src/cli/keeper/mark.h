/* SPDX-License-Identifier: MIT */
/*
 * The mark of an image: an empty file in a folder for run-time files, there from before the first
 * answer to a write that no flush has followed until the server's end in order. So a server that
 * finds one knows that writes may be lost which an earlier one had answered, and one that finds
 * none that there are none such (docs/vhost-user.md, "When all of it died").
 */
#ifndef OX_CLI_KEEPER_MARK_H
#define OX_CLI_KEEPER_MARK_H

#include <limits.h>
#include <stdbool.h>

#include "oxbow.h"

struct ox_mark {
	char path[PATH_MAX]; /* "": there is no place for one */
	bool is_there;
};

/* Looks in $RUNTIME_DIRECTORY and in the folder for all servers of the user. Returns whether writes
 * may be lost: one is there, or there is no place where a server could have made one. */
bool ox_mark_find(struct ox_mark *mark, int image_fd);
/* -errno. */
int ox_mark_make(struct ox_mark *mark) OX_CHECKED;
/* If it is there; -errno. */
int ox_mark_remove(struct ox_mark *mark) OX_CHECKED;

#endif
