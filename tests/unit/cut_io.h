/* SPDX-License-Identifier: MIT */
/*
 * Stores in memory whose power is cut together: after so many writes, length changes and syncs
 * everything fails, and what was not synced is there or not, sector by sector (M2).
 */
#ifndef OX_TESTS_CUT_IO_H
#define OX_TESTS_CUT_IO_H

#include "io/io.h"

struct cut {
	unsigned after;	     /* 0: never */
	unsigned changes;    /* so far */
	unsigned syncs;	     /* so far */
	unsigned deaf;	     /* the sync of this number promises and does nothing; 0: none */
	uint64_t room_bytes; /* that a store can grow by; 0: 1 MiB */
	bool sparse;	     /* it has holes: blocks of zeroes. Else it can make none */
	int punch_error;     /* negative: what each punch returns, and does nothing */
	unsigned punches;    /* that were done */
};

/* A store of such bytes (NULL: zeroes), all durable. */
struct ox_io *cut_open(struct ox_reactor *r, struct cut *cut, const uint8_t *bytes,
		       uint64_t length);
/* What the file holds: valid until the next write. */
const uint8_t *cut_bytes(struct ox_io *io);
/* The power comes back: what was not synced is decided by the seed. */
void cut_recover(struct ox_io *io, unsigned seed);
/* Whether anything was written that no sync covered. */
bool cut_is_unsynced(struct ox_io *io);

#endif
