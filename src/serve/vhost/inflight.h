/* SPDX-License-Identifier: MIT */
/*
 * The inflight region: memory that the front end keeps for the back end, so that the next one knows
 * what the last one had taken and not answered (specification of vhost-user, "Inflight I/O
 * tracking", split rings). The file layout is theirs: for each queue, 64-byte aligned,
 *
 *	0   features u64    8  version u16 (1; 0: never used)   10  desc_num u16
 *	12  last_batch_head u16                                 14  used_idx u16
 *	16 + 16 i           inflight u8, 5 unused, next u16, counter u64: of the chain with head i
 *
 * The order of the stores is what makes a death at any instruction harmless:
 *
 *	take        counter, then inflight = 1
 *	answer      next and last_batch_head link the heads of the batch, newest first;
 *	            the used ring and its index (ring.c);
 *	            inflight = 0 of each, then used_idx = the ring's
 *	recovery    the ring's used index minus used_idx is how many of the last batch were answered
 *	            and not cleared: they are cleared. What is left is carried out again, by counter
 *
 * All of it is a stranger's. Each field is read once and checked; a region that makes no sense is
 * refused (-EPROTO), and the ring does not start.
 */
#ifndef OX_SERVE_VHOST_INFLIGHT_H
#define OX_SERVE_VHOST_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

/* How long a region for so many queues (> 0) is. */
uint64_t ox_vhost_inflight_bytes(uint16_t queues, uint16_t queue_size);
/* Makes one, never used: a memory file that nobody can shorten. A descriptor, or -errno. -EINVAL:
 * no queues, or no size of a ring. */
int ox_vhost_inflight_make(uint16_t queues, uint16_t queue_size) OX_CHECKED;

struct ox_vhost_inflight;

/* What a front end hands in: bytes from offset of a file. fd stays the caller's. -EINVAL: they are
 * too few, or as above; or what ox_vhost_mapping_open says. */
int ox_vhost_inflight_open(int fd, uint64_t offset, uint64_t bytes, uint16_t queues,
			   uint16_t queue_size, struct ox_vhost_inflight **ret) OX_CHECKED;
/* No ring uses it any more. NULL is allowed. */
void ox_vhost_inflight_close(struct ox_vhost_inflight *inflight);
bool ox_vhost_inflight_is_broken(const struct ox_vhost_inflight *inflight);
uint16_t ox_vhost_inflight_queue_size(const struct ox_vhost_inflight *inflight);
/* Whether any ring has used it: some request may have been taken, and not answered. */
bool ox_vhost_inflight_is_used(const struct ox_vhost_inflight *inflight);
/* Writes that were answered to its front end may be lost. It is noted in the region, for all
 * servers to come: a mark of the image (cli/keeper/mark.h) goes when a server ends in order. */
void ox_vhost_inflight_note_loss(struct ox_vhost_inflight *inflight);
bool ox_vhost_inflight_has_loss(const struct ox_vhost_inflight *inflight);

/* Forgets the part of a ring, index < queues, of which nothing is in flight: whoever begins with it
 * next is the first. */
void ox_vhost_inflight_renew(struct ox_vhost_inflight *inflight, uint16_t index);

/* ---- the part of a ring ---- */

struct ox_vhost_inflight_part {
	struct ox_vhost_inflight *region; /* NULL: there is none, and nothing is recorded */
	struct ox_vhost_inflight_queue *queue;
	uint16_t size;
	uint16_t last; /* linked last; what last_batch_head holds */
	uint64_t next_counter;
};

/*
 * Begins with the part of a ring of so many descriptors, whose used index is used_index. Stores the
 * heads that are in flight, oldest first, in ret_heads, and returns how many. ret_heads has room
 * for the region's queue_size. *ret_fresh: the part was never used, or by a ring of another size
 * that answered all; the front end's base counts. -EINVAL: there is no such part, or the ring is
 * larger than it; -EPROTO: it makes no sense; -EIO: the region is broken; -ENOMEM.
 */
int ox_vhost_inflight_begin(struct ox_vhost_inflight *region, uint16_t index, uint16_t size,
			    uint16_t used_index, uint16_t *ret_heads, bool *ret_fresh,
			    struct ox_vhost_inflight_part *ret) OX_CHECKED;
/* A chain was taken: before anything is done for it. head < size. */
void ox_vhost_inflight_take(struct ox_vhost_inflight_part *part, uint16_t head);
/* It is about to be answered: before the used index says so. */
void ox_vhost_inflight_link(struct ox_vhost_inflight_part *part, uint16_t head);
/* The used index says so, of these heads: all that were linked since the last time. */
void ox_vhost_inflight_answered(struct ox_vhost_inflight_part *part, const uint16_t *heads,
				unsigned count, uint16_t used_index);

#endif
