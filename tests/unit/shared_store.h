/* SPDX-License-Identifier: MIT */
/*
 * A byte store in memory that several processes share, its length too: what one that dies has
 * written is there for the next one.
 */
#ifndef OX_TESTS_SHARED_STORE_H
#define OX_TESTS_SHARED_STORE_H

#include "io/io.h"

#define SHARED_STORE_MOST ((size_t)4 << 20)

struct shared_bytes {
	uint64_t length;
	uint8_t bytes[SHARED_STORE_MOST]; /* zero behind the length */
};

/* The file does not get longer than that; 0: than there is memory. */
extern uint64_t shared_store_room;

/* step: called amid each change of the bytes and after it; or NULL. NULL where memory lacks. */
struct ox_io *shared_store_open(struct ox_reactor *r, struct shared_bytes *bytes,
				void (*step)(void));

/* The part of it that the length counts. */
void shared_bytes_copy(struct shared_bytes *to, const struct shared_bytes *from);

#endif
