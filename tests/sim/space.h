/* SPDX-License-Identifier: MIT */
/*
 * The room of a simulated file system: blocks are taken by writes into holes and given back by
 * punches and by a shorter file. A block that has been taken can always be written again.
 *
 * A block taken by a write that a sync has covered is durable; after a power cut those are taken,
 * and those in which some bytes were kept.
 */
#ifndef SIM_SPACE_H
#define SIM_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

struct sim_space {
	uint32_t block_bytes; /* 0: room without end, and nothing is noted */
	uint64_t room;	      /* blocks that may be taken */
	uint64_t used;
	uint8_t *taken; /* a byte each */
	uint8_t *durable;
	size_t count;
};

#define SIM_ROOM_ENDLESS UINT64_MAX

/* As a sparse copy of the bytes would be. */
void sim_space_init(struct sim_space *s, uint32_t block_bytes, const struct sim_bytes *bytes);
void sim_space_free(struct sim_space *s);
void sim_space_clone(struct sim_space *ret, const struct sim_space *from);
/* What a power cut leaves: what is durable, and what the bytes show. */
void sim_space_cut(struct sim_space *ret, const struct sim_space *from,
		   const struct sim_bytes *bytes);

/* Takes the blocks in which not all bytes are zero. */
void sim_space_show(struct sim_space *s, const struct sim_bytes *bytes);

/* Takes what the range needs, from its start on; returns the bytes that have their space. */
uint64_t sim_space_take(struct sim_space *s, uint64_t offset, uint64_t count);
/* Takes the whole range or nothing. */
bool sim_space_take_all(struct sim_space *s, uint64_t offset, uint64_t count);
/* Gives back the blocks that lie within the range. */
void sim_space_give(struct sim_space *s, uint64_t offset, uint64_t count);
/* A sync has covered such a change. */
void sim_space_settle(struct sim_space *s, bool taken, uint64_t offset, uint64_t count);

#endif
