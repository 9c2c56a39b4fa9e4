/* SPDX-License-Identifier: MIT */
/*
 * The rules of docs/durability.md, checked on the bytes of a disk alone. What is of one format is
 * in its folder (audit.c).
 *
 *   D1  every table and entry is sane, and every sector reads as one of the values the model allows
 *   D2  qcow2: a cluster with two names has neither marked COPIED; metadata has one name
 *       QED: no cluster has two names, at any instant
 *   D3  qcow2: refcounts are at least the references, unless the dirty bit is set
 *   D5  qcow2: D3, as the bit is the only excuse
 *       QED: where NEED_CHECK is clear no entry names what was not durably named before
 *   D6  the mark is clear after a clean end, and then nothing but leaks is wrong
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
#include "image.h"
#include "model.h"

struct sim_expect {
	bool exact; /* refcounts equal the references: after a clean close or a recovery */
	bool clean; /* the mark is clear */
	const struct sim_backing *backing;
	struct sim_model *model;	 /* NULL: the content is not looked at */
	const struct sim_frozen *frozen; /* what the snapshots must still read as */
	unsigned frozen_count;
	const struct sim_vouched *vouched; /* NULL: no bits of a later version */
	const struct sim_bytes *durable;   /* what was durable before the cut; NULL: all of it */
	const struct sim_bytes *made;	   /* as the image was made; NULL: not known */
	const struct sim_bytes *sealed;	   /* with the damage that is known; NULL: it is not */
	uint64_t lost_most;		   /* clusters that nothing names, without refcounts */
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

/* Ends the program through sim_fail where a rule is broken. Returns whether the mark is set. */
bool sim_oracle_check(const struct sim_bytes *bytes, const struct sim_expect *expect);

/* The part of it that looks at what the guest reads. */
void sim_oracle_content(const struct sim_image *i, const struct sim_expect *expect);

#endif
