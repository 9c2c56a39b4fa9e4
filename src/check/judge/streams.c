/* SPDX-License-Identifier: MIT */
#include "check/judge/streams.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"

#define FIRST_ROOM ((size_t)1024)

static int compare(const void *a, const void *b)
{
	const struct ox_stream *x = a;
	const struct ox_stream *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

void ox_streams_free(struct ox_streams *s)
{
	free(s->list);
	*s = (struct ox_streams){0};
}

void ox_streams_settle(struct ox_streams *s)
{
	size_t kept = 0;

	if (s->count > 1)
		qsort(s->list, s->count, sizeof(*s->list), compare);
	for (size_t i = 0; i < s->count; i++) {
		if (kept == 0 || compare(&s->list[kept - 1], &s->list[i]) != 0)
			s->list[kept++] = s->list[i];
	}
	if (kept > s->most) {
		kept = s->most;
		s->last = s->list[kept - 1];
		s->is_cut = true;
	}
	s->count = kept;
}

/* Room for one more. Twice what a round may hold is sorted at once, so sorting stays rare. */
static int make_room(struct ox_streams *s)
{
	struct ox_stream *list;
	size_t room;

	if (s->count == 2 * s->most)
		ox_streams_settle(s);
	if (s->count < s->room)
		return 0;
	room = ox_min_u64(ox_max_u64(FIRST_ROOM, 2 * s->room), 2 * s->most);
	list = realloc(s->list, room * sizeof(*list));
	if (!list)
		return -ENOMEM;
	s->list = list;
	s->room = room;
	return 0;
}

int ox_streams_add(struct ox_streams *s, uint64_t start, uint32_t bytes)
{
	struct ox_stream stream = {.start = start, .bytes = bytes};
	int r;

	ox_assert(s->most > 0);
	if (compare(&stream, &s->past) <= 0 || (s->is_cut && compare(&stream, &s->last) > 0))
		return 0;
	if (s->count > 0 && compare(&stream, &s->list[s->count - 1]) == 0)
		return 0;
	r = make_room(s);
	if (r == 0)
		s->list[s->count++] = stream;
	return r;
}

struct ox_stream *ox_streams_find(const struct ox_streams *s, uint64_t start, uint32_t bytes)
{
	struct ox_stream key = {.start = start, .bytes = bytes};

	if (s->count == 0)
		return NULL;
	return bsearch(&key, s->list, s->count, sizeof(key), compare);
}

bool ox_streams_next(struct ox_streams *s)
{
	if (!s->is_cut)
		return false;
	s->past = s->last;
	s->is_cut = false;
	s->count = 0;
	return true;
}
