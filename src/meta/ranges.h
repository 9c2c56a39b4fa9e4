/* SPDX-License-Identifier: MIT */
/*
 * A set of numbers, as ranges: the clusters that are known to be free where no format keeps a
 * record of them, or the slices that a session has changed. Bounded: a set that is too scattered
 * refuses what comes on top.
 */
#ifndef OX_META_RANGES_H
#define OX_META_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/notes.h"

#define OX_RANGES_MAX 65536u

struct ox_span {
	uint64_t start;
	uint64_t end;  /* exclusive */
	uint32_t note; /* of it; 0: none */
};

/* How a set is noted in memory that outlives the process (D10). */
enum ox_ranges_noted {
	OX_RANGES_NOT_NOTED,
	OX_RANGES_AT_MOST,  /* a death may lose numbers: those that are free */
	OX_RANGES_AT_LEAST, /* it must lose none, and what cannot be noted is refused */
};

/* Zeroed: empty. */
struct ox_ranges {
	struct ox_span *list; /* ascending; no two touch */
	size_t count;
	size_t room;
	size_t most; /* 0: OX_RANGES_MAX */
	enum ox_ranges_noted noted;
	enum ox_note_kind kind;
	struct ox_notes *notes;
};

/* Empties it; its notes go too. */
void ox_ranges_free(struct ox_ranges *r);
/* An empty set from now on has notes of that kind. Of those that are there already, which another
 * process has left, it is made. -ENOMEM. */
int ox_ranges_adopt(struct ox_ranges *r, struct ox_notes *notes, enum ox_note_kind kind,
		    enum ox_ranges_noted noted) __attribute__((warn_unused_result));
/* Forgets the notes, which stay as they are. */
void ox_ranges_detach(struct ox_ranges *r);
/* Adds [start, end), of which parts may be there. False: there was no room for it. */
bool ox_ranges_add(struct ox_ranges *r, uint64_t start, uint64_t end);
bool ox_ranges_has(const struct ox_ranges *r, uint64_t number);
/* Takes up to most numbers out, from the lowest range. False: the set is empty. */
bool ox_ranges_take(struct ox_ranges *r, uint64_t most, struct ox_span *ret);
/* Takes count numbers in a row out, from the lowest range that has as many. */
bool ox_ranges_take_run(struct ox_ranges *r, uint64_t count, struct ox_span *ret);
/* Takes the range out that ends at end, or behind it. False: there is none. */
bool ox_ranges_take_end(struct ox_ranges *r, uint64_t end, struct ox_span *ret);

#endif
