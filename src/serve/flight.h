/* SPDX-License-Identifier: MIT */
/*
 * What a server was about when it died, and whether it still turns: a small memory that outlives
 * the process that serves. A sealed memory file, made by whoever starts servers one after the other
 * (docs/processes.md, "Deaths and hangs that repeat").
 *
 *	a request begins    its offset and length are stored, then its mark
 *	it is answered      its mark is cleared
 *	the server dies     the next one counts a death for each mark, and clears it
 *	two deaths          such a request is refused, until the memory is another
 *
 * A death between any two stores does no harm: a request without its mark is not noted, and a death
 * that has been counted is told from one that has not by the number of the server.
 *
 * Whatever lies in the memory is taken for a stranger's: a process that went astray has written it.
 * All that it can bring about is that requests are refused.
 */
#ifndef OX_SERVE_FLIGHT_H
#define OX_SERVE_FLIGHT_H

#include "oxbow.h"

/* Requests that are noted at once; what finds no room is not noted. */
#define OX_FLIGHT_SLOTS 1024u
/* Requests that were in flight at a death and have not completed since. */
#define OX_FLIGHT_SUSPECTS 256u
#define OX_FLIGHT_DEATHS 2u
/* A death from outside blames what had been in flight for so long. */
#define OX_FLIGHT_LONG_MS 1000u

struct ox_flight;
struct ox_flight_memory;

/* Makes the memory: a descriptor of it, or -errno. */
int ox_flight_make(void) OX_CHECKED;

/* ---- the server ---- */

struct ox_flight_death {
	bool from_outside; /* it was killed, and what it was about need not have been why */
	uint32_t ms;	   /* when, by CLOCK_MONOTONIC: its lower 31 bits */
};

/* death: the last server's. -EINVAL: it is no such memory. */
int ox_flight_open(int fd, const struct ox_flight_death *death, struct ox_flight **ret) OX_CHECKED;
void ox_flight_close(struct ox_flight *flight);
/* For ox_context_count_turns. */
uint64_t *ox_flight_turns(struct ox_flight *flight);

/* A number of the server's own for the next one; 0 at first. */
uint64_t ox_flight_setting(const struct ox_flight *flight);
void ox_flight_set_setting(struct ox_flight *flight, uint64_t setting);

struct ox_flight_request {
	enum ox_op op;
	uint64_t offset;
	uint64_t length;
};

/* What is refused from now on and was not told of before. False: no more. */
bool ox_flight_next_refused(struct ox_flight *flight, struct ox_flight_request *ret);

enum ox_flight_verdict {
	OX_FLIGHT_GO,	/* it is noted */
	OX_FLIGHT_WAIT, /* not before another suspect has ended: only one is carried out at a time,
			 * so that the next death tells which it was */
	OX_FLIGHT_REFUSE,
};

struct ox_flight_note {
	uint16_t slot;	  /* + 1; 0: none */
	uint16_t suspect; /* + 1 */
};

/* note: of nothing, and stays so unless it is to go. */
enum ox_flight_verdict ox_flight_begin(struct ox_flight *flight,
				       const struct ox_flight_request *request,
				       struct ox_flight_note *note) OX_CHECKED;
void ox_flight_forget(struct ox_flight *flight, struct ox_flight_note *note);

/* It is answered. A note of nothing is allowed, and so is no memory. */
static inline void ox_flight_end(struct ox_flight *flight, struct ox_flight_note *note)
{
	if (note->slot > 0 || note->suspect > 0)
		ox_flight_forget(flight, note);
}

/* Whether a suspect is being carried out. */
bool ox_flight_tries(const struct ox_flight *flight);

/* ---- whoever watches ---- */

struct ox_flight_watch {
	const struct ox_flight_memory *memory;
	uint64_t turns;
};

int ox_flight_watch(int fd, struct ox_flight_watch *ret) OX_CHECKED;
/* One of zeroes is allowed. */
void ox_flight_watch_free(struct ox_flight_watch *watch);
/* Whether the server has turned since it was asked last. */
bool ox_flight_has_turned(struct ox_flight_watch *watch);

#endif
