/* SPDX-License-Identifier: MIT */
/*
 * The state file of an image under construction: what a later process needs to go on with it.
 *
 *   absent -> COPYING -> PUBLISHING -> absent
 *
 * It is replaced as a whole, by a rename, and durable once that has returned. So the first bytes
 * that it holds are written as a sector on a disk is: they are the old ones or the new ones.
 */
#ifndef OX_LIB_BUILD_STATE_H
#define OX_LIB_BUILD_STATE_H

#include "base/error.h"
#include "io/withhold.h"

#define OX_BUILD_IDENTITY_MAX 512

enum ox_build_phase {
	OX_BUILD_COPYING,
	OX_BUILD_PUBLISHING, /* the image is whole; its first bytes or its name may not be there */
};

struct ox_build_state {
	enum ox_build_phase phase;
	uint64_t device; /* of the file that is filled */
	uint64_t inode;
	uint64_t mark;
	char identity[OX_BUILD_IDENTITY_MAX];
	uint32_t held_length;
	uint8_t held[OX_WITHHOLD_BYTES];
};

/* -ENOENT: there is none. -EINVAL: it is none of ours, or damaged. */
int ox_build_state_read(const char *path, struct ox_build_state *ret,
			struct ox_error **err) OX_CHECKED;
int ox_build_state_write(const char *path, const struct ox_build_state *state) OX_CHECKED;
/* It goes, durably. */
int ox_build_state_remove(const char *path) OX_CHECKED;

#endif
