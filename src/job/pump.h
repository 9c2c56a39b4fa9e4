/* SPDX-License-Identifier: MIT */
/*
 * The loop of all long work: pieces of a range, taken in order, carried out many at once, within a
 * bound of memory (docs/jobs.md).
 *
 *   next_co      one task at a time says what the next piece is, in ascending order
 *   work_co      each task carries out its piece: reads, and writes, compares or hashes
 *
 * A piece whose turn matters (a pipe, the order of allocations) waits for it within work_co by
 * ox_pump_turn_co. What is finished without a gap from the start on is known at each moment: from
 * there the work can be gone on with.
 */
#ifndef OX_JOB_PUMP_H
#define OX_JOB_PUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "rt/sync.h"

/* A stretch of the work, as next_co has set it. */
struct ox_piece {
	uint64_t offset;
	uint64_t length;       /* > 0 */
	uint64_t memory_bytes; /* of its buffer; 0: it needs none. At most the pump's half_bytes */
	uint64_t cost_bytes;   /* what it counts against the rate */
	unsigned kind;	       /* the work's own, as are these: */
	unsigned depth;
	uint64_t other_offset;
	/* The pump's: */
	uint8_t *buffer; /* of memory_bytes, aligned to 4096; NULL: none */
	uint64_t number; /* in order, from 0 */
	bool passed;
	bool done;
	struct ox_list link;
};

struct ox_pump_ops {
	/* 1: *ret is the next piece; 0: there is none; or a negative errno, which ends all. */
	int (*next_co)(void *arg, struct ox_piece *ret);
	/* 0, or a negative errno, which ends all: the other pieces are waited for, no more begin.
	 */
	int (*work_co)(void *arg, struct ox_piece *piece);
};

/* Set up by ox_pump_init; then the first group may be changed. */
struct ox_pump {
	unsigned tasks;	       /* pieces at once */
	uint64_t memory_bytes; /* of all buffers */
	uint64_t rate_bytes;   /* a second; 0: as fast as it goes */
	uint64_t total;	       /* for progress: what done counts up to */
	bool counts_cost;      /* for progress a piece is as much as it costs, not its length */
	void (*progress)(void *opaque, uint64_t done, uint64_t total); /* NULL: not told */
	int (*interrupted)(void *opaque); /* not 0: give up, with -ECANCELED. NULL: never */
	void *opaque;

	const struct ox_pump_ops *ops;
	void *arg;
	struct ox_mutex taking; /* of next_co, and of the order in which memory is given */
	struct ox_list pieces;	/* not done, or behind one that is not; in order */
	struct ox_waitq room;
	struct ox_waitq turn;
	struct ox_latch running;
	struct ox_arena *arena; /* while it runs */
	const bool *cancelled;	/* the flag of whoever runs it (ox_co_watch_cancel); NULL: none */
	uint64_t taken;
	uint64_t passed; /* pieces below that number have passed */
	uint64_t used_bytes;
	uint64_t done; /* bytes of pieces that are done */
	uint64_t done_below;
	uint64_t paid_ns; /* of the rate: nothing begins before */
	int result;
	bool exhausted;
};

void ox_pump_init(struct ox_pump *pump, const struct ox_pump_ops *ops, void *arg);
/* Half of the bound: the most that one piece may ask for. */
uint64_t ox_pump_half_bytes(const struct ox_pump *pump);
/* Carries out all of it. 0, or the first error. */
int ox_pump_run_co(struct ox_pump *pump);
/* Whether to give up, before it runs as well. */
bool ox_pump_is_interrupted(const struct ox_pump *pump);
/* From another task: as if a piece had failed with that error. */
void ox_pump_stop(struct ox_pump *pump, int error);
/* Within work_co: waits until every earlier piece has passed, or is done. -ECANCELED: one of them
 * failed. */
int ox_pump_turn_co(struct ox_pump *pump, struct ox_piece *piece);
/* Within work_co, after its turn has come: lets the next one have its turn. A piece that never says
 * so passes when it is done. */
void ox_pump_pass(struct ox_pump *pump, struct ox_piece *piece);
/* Every piece that ends at or below this offset is done. */
static inline uint64_t ox_pump_done_below(const struct ox_pump *pump)
{
	return pump->done_below;
}

#endif
