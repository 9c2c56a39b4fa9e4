/* SPDX-License-Identifier: MIT */
/*
 * The rules of docs/durability.md, checked on the bytes of a disk alone.
 *
 *   D1  every table and entry is sane, and every sector reads as one of the values the model allows
 *   D2  a cluster with two names has neither marked COPIED; metadata has one name
 *   D3  refcounts are at least the references, unless the dirty bit is set
 *   D5 D6 the same, as the bit is the only excuse
 *   D7  the model's values are those that were promised
 *   D8  nothing that is named lies past the file's end
 *
 * The autoclear bits vouch for a bitmap, and for what a later version may keep: while they are set,
 * the guest reads what it read when they were, and the bitmap is whole. What the engine does not
 * know in the header stays.
 */
#ifndef SIM_ORACLE_H
#define SIM_ORACLE_H

#include <stdbool.h>

#include "bytes.h"
#include "model.h"

struct sim_backing {
	struct sim_bytes bytes; /* a raw backing file */
	bool there;
};

struct sim_expect {
	bool exact; /* refcounts equal the references: after a clean close or a recovery */
	bool clean; /* the dirty bit is off */
	const struct sim_backing *backing;
	struct sim_model *model;	 /* NULL: the content is not looked at */
	const struct sim_frozen *frozen; /* what the snapshots must still read as */
	unsigned frozen_count;
	const struct sim_vouched *vouched; /* NULL: no bits of a later version */
};

/* What the guest saw at some time, such as when a snapshot was taken. */
struct sim_frozen {
	uint64_t sectors;
	uint8_t *bytes;
};

/* What stands in the header that the engine does not know, and what it may only say while the guest
 * has changed nothing. */
struct sim_vouched {
	struct sim_frozen guest;
	struct sim_bytes bytes; /* the whole image of that time */
};

/* Ends the program through sim_fail where a rule is broken. Returns whether the dirty bit is set.
 */
bool sim_oracle_check(const struct sim_bytes *bytes, const struct sim_expect *expect);

/* The sector as it reads through an L1 table and the backing file. */
struct sim_image;
void sim_oracle_read(const struct sim_image *i, uint64_t l1_offset, uint32_t l1_entries,
		     const struct sim_backing *backing, uint64_t guest, uint8_t *ret);

#endif
