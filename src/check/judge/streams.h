/* SPDX-License-Identifier: MIT */
/*
 * The distinct compressed streams that L2 entries name, in rounds of bounded size: each round holds
 * the lowest that no round before it held. Many entries may name one stream.
 */
#ifndef OX_CHECK_STREAMS_H
#define OX_CHECK_STREAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ox_stream {
	uint64_t start;
	uint32_t bytes; /* that the entry claims; entries may claim different lengths */
	bool is_bad;
};

struct ox_streams {
	struct ox_stream *list; /* of this round, ascending by start and length, once settled */
	size_t count;
	size_t room;
	size_t most;	       /* in a round */
	struct ox_stream past; /* the round holds streams after this one, */
	struct ox_stream last; /* and up to this one where it is cut */
	bool is_cut;	       /* another round is needed */
};

/* An all-zero past comes before every stream: none has no bytes. */
static inline void ox_streams_init(struct ox_streams *s, size_t most)
{
	*s = (struct ox_streams){.most = most};
}

void ox_streams_free(struct ox_streams *s);
/* Takes a stream of this round, any number of times. 0 or -ENOMEM. */
int ox_streams_add(struct ox_streams *s, uint64_t start, uint32_t bytes);
/* All have been added. */
void ox_streams_settle(struct ox_streams *s);
/* Of a settled round; NULL: it is of another. */
struct ox_stream *ox_streams_find(const struct ox_streams *s, uint64_t start, uint32_t bytes);
/* The next round, empty; false: there is none. */
bool ox_streams_next(struct ox_streams *s);

#endif
