/* SPDX-License-Identifier: MIT */
/*
 * What a server has answered and not flushed. Should it be started anew, all of it may be gone
 * (M1), and is sent again from here.
 *
 * An entry is added before its request is sent. It stays until a flush has ended well that began
 * after the answer (K1). Entries are in the order in which they are to be sent again: of two that
 * overlap, the later one was added after the earlier one's answer, which the caller sees to (K2).
 */
#ifndef OX_IO_NBD_KEEP_H
#define OX_IO_NBD_KEEP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "io/nbd/link.h"

struct ox_nbd_kept {
	struct ox_list link;
	enum ox_nbd_kind kind; /* WRITE, ZERO, TRIM */
	uint32_t flags;
	uint64_t offset;
	uint64_t length;
	uint8_t *bytes;	      /* WRITE: a copy */
	uint64_t answered_at; /* of ox_nbd_keep.clock; 0: it is not */
};

struct ox_nbd_keep {
	struct ox_list entries;
	uint64_t bytes; /* of copies and of the entries themselves */
	uint64_t clock;
	bool forgot; /* an answer that no flush covers was dropped */
};

void ox_nbd_keep_init(struct ox_nbd_keep *keep);
void ox_nbd_keep_free(struct ox_nbd_keep *keep);
/* With iov (WRITE) the bytes are copied. NULL: no memory. */
struct ox_nbd_kept *ox_nbd_keep_add(struct ox_nbd_keep *keep, enum ox_nbd_kind kind,
				    uint64_t offset, uint64_t length, const struct iovec *iov,
				    int n);
/* The server has not carried it out: the entry goes. */
void ox_nbd_keep_drop(struct ox_nbd_keep *keep, struct ox_nbd_kept *entry);
/* The server has answered. What it has made durable with that (FUA) goes, unless an older entry
 * that is sent again would undo it. */
void ox_nbd_keep_answered(struct ox_nbd_keep *keep, struct ox_nbd_kept *entry, bool durable);
/* Before a flush is sent: what has been answered by now is what it covers. */
uint64_t ox_nbd_keep_mark(const struct ox_nbd_keep *keep);
/* Afterwards, where it has ended well. */
void ox_nbd_keep_flushed(struct ox_nbd_keep *keep, uint64_t mark);
/* For a server without flushes: drops answers, the oldest first, until so many bytes are left. */
void ox_nbd_keep_forget(struct ox_nbd_keep *keep, uint64_t bytes);

#endif
