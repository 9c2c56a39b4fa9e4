/* SPDX-License-Identifier: MIT */
/*
 * The guard of a disk that was guessed to be raw: nothing that its guest writes makes it be probed
 * as another format (docs/formats.md).
 *
 * What changes the ends of the disk goes through here one after another: enter, the change, leave.
 */
#ifndef OX_IMG_RAW_GUARD_H
#define OX_IMG_RAW_GUARD_H

#include "img/probe.h"
#include "rt/sync.h"

struct ox_raw_guard {
	struct ox_io *io;
	bool is_on;
	struct ox_mutex mutex;
};

enum ox_raw_change {
	OX_RAW_WRITE,	/* what iov holds; a file grows for it */
	OX_RAW_ZERO,	/* zeroes; a file may grow for them */
	OX_RAW_DISCARD, /* zeroes, or nothing */
};

void ox_raw_guard_init(struct ox_raw_guard *g, struct ox_io *io, bool is_on);
/* The change may be made, and what this returned is handed to leave after it; or -EPERM; or another
 * error. */
int ox_raw_guard_enter_co(struct ox_raw_guard *g, enum ox_raw_change change,
			  const struct iovec *iov, int n, uint64_t offset, uint64_t length);
/* The same of a new length. */
int ox_raw_guard_resize_co(struct ox_raw_guard *g, uint64_t new_bytes);
void ox_raw_guard_leave(struct ox_raw_guard *g, int entered);

#endif
