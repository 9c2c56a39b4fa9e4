/* SPDX-License-Identifier: MIT */
#include "check/scan/crew.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/sync.h"

/* What a worker is handed at once: a word of the bitmap, so that no two of them write to one. */
#define CHUNK 64u
/* With fewer things than that, all is over before a second thread has begun. */
#define COUNT_MIN 128u

struct crew {
	const struct ox_crew_ops *ops;
	void *arg;
	uint64_t count;
	uint64_t next;
	uint64_t *done;
	unsigned seats; /* taken */
	int error;
	bool gives_up;
	struct ox_latch tasks;
};

struct chunk {
	struct crew *crew;
	unsigned seat;
	uint64_t first;
	uint64_t done; /* a bit for each */
};

unsigned ox_crew_seats(uint64_t count)
{
	unsigned workers = ox_aio_workers(ox_co_reactor());

	if (count < COUNT_MIN || workers == 1)
		return 0;
	return (unsigned)ox_min_u64(workers, OX_CREW_SEATS_MAX);
}

/* On a worker thread. */
static int try_chunk(void *arg)
{
	struct chunk *k = arg;
	const struct crew *c = k->crew;
	uint64_t count = ox_min_u64(CHUNK, c->count - k->first);
	int r = 0;

	for (uint64_t i = 0; i < count && r >= 0; i++) {
		r = c->ops->try_one(c->arg, k->seat, k->first + i);
		k->done |= (uint64_t)(r == 1) << i;
	}
	return r < 0 ? r : 0;
}

static void seat_co(void *arg)
{
	struct crew *c = arg;
	struct chunk k = {.crew = c, .seat = c->seats++};

	while (c->next < c->count && c->error == 0 && !c->gives_up) {
		unsigned done;
		int r;

		k.first = c->next;
		k.done = 0;
		c->next += ox_min_u64(CHUNK, c->count - c->next);
		r = ox_aio_work_co(try_chunk, &k);
		if (r < 0)
			c->error = r;
		c->done[k.first / CHUNK] = k.done;
		done = (unsigned)__builtin_popcountll(k.done);
		/* Not in the page cache, or something is wrong with many. */
		c->gives_up |= done < ox_min_u64(CHUNK, c->count - k.first) / 2;
		c->ops->done(c->arg, done);
	}
	ox_latch_done(&c->tasks);
}

int ox_crew_run_co(unsigned seats, uint64_t count, const struct ox_crew_ops *ops, void *arg,
		   uint64_t **ret_done)
{
	struct crew c = {.ops = ops, .arg = arg, .count = count};
	int r = 0;

	ox_assert(seats > 0 && seats <= OX_CREW_SEATS_MAX);
	c.done = calloc(ox_div_up(count, CHUNK), sizeof(*c.done));
	if (!c.done)
		return -ENOMEM;
	ox_latch_init(&c.tasks);
	/* Those that there are will do: what nobody takes is left. */
	for (unsigned i = 0; i < seats && r == 0; i++) {
		ox_latch_add(&c.tasks);
		r = ox_co_spawn(ox_co_reactor(), seat_co, &c);
		if (r < 0)
			ox_latch_done(&c.tasks);
	}
	ox_latch_wait_co(&c.tasks);
	if (c.error < 0) {
		free(c.done);
		return c.error;
	}
	*ret_done = c.done;
	return 0;
}
