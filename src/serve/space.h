/* SPDX-License-Identifier: MIT */
/*
 * How much room the file system of an image has left (--low-space). A thread of its own asks,
 * because a file system over a network may not answer, and tells the loop when it has become less
 * than was stated, or enough again.
 */
#ifndef OX_SERVE_SPACE_H
#define OX_SERVE_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "oxbow.h"

#define OX_SPACE_LOOK_MS 1000

struct ox_space;

/* Whether a write into the file of fd is told at once that there is no room for it (docs/full.md).
 * True where nobody can tell. */
bool ox_space_is_told_at_write(int fd, enum ox_cache_mode cache);

/* Whether free_bytes are too few; was_low: they were before. An eighth more than low_bytes ends
 * that, so that a little more or less of room is not told again and again. */
bool ox_space_is_low(uint64_t free_bytes, uint64_t low_bytes, bool was_low);

/*
 * Begins to look; fd, of the image's file, stays the caller's. -ENOTSUP: it is a block device, and
 * nobody knows; -errno.
 */
int ox_space_begin(int fd, uint64_t low_bytes, struct ox_space **ret) OX_CHECKED;
/* Ends it, unless the file system does not answer: then it is left to the end of the process. NULL
 * is allowed. */
void ox_space_end(struct ox_space *space);

/* Becomes readable when ox_space_low may say something else. */
int ox_space_fd(const struct ox_space *space);
/* What was seen last; reads the descriptor empty. */
bool ox_space_low(struct ox_space *space);
uint64_t ox_space_free_bytes(const struct ox_space *space);

#endif
