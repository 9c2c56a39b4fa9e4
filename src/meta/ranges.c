/* SPDX-License-Identifier: MIT */
#include "meta/ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/grow.h"

static void drop_note(struct ox_ranges *r, uint32_t note)
{
	if (r->noted != OX_RANGES_NOT_NOTED)
		ox_note_drop(r->notes, note);
}

void ox_ranges_free(struct ox_ranges *r)
{
	for (size_t i = 0; i < r->count; i++)
		drop_note(r, r->list[i].note);
	free(r->list);
	r->list = NULL;
	r->count = 0;
	r->room = 0;
}

void ox_ranges_detach(struct ox_ranges *r)
{
	r->noted = OX_RANGES_NOT_NOTED;
}

/* The first range that ends at or after the number. */
static size_t find(const struct ox_ranges *r, uint64_t number)
{
	size_t low = 0;
	size_t high = r->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (r->list[middle].end < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Puts one range in the place of those from first to behind last. */
static void replace(struct ox_ranges *r, size_t first, size_t last, const struct ox_span *with)
{
	size_t kept = with ? 1 : 0;

	memmove(r->list + first + kept, r->list + last, (r->count - last) * sizeof(*r->list));
	if (with)
		r->list[first] = *with;
	r->count -= last - first - kept;
}

/* The notes of those from first to behind last become one note, of their sum. */
static bool join_notes(struct ox_ranges *r, size_t first, size_t last, struct ox_span *sum)
{
	uint32_t note = first < last ? r->list[first].note : 0;

	if (r->noted == OX_RANGES_NOT_NOTED)
		return true;
	if (r->noted == OX_RANGES_AT_MOST) { /* no number in two notes */
		for (size_t i = first + 1; i < last; i++)
			ox_note_drop(r->notes, r->list[i].note);
	}
	if (note == 0) {
		note = ox_note_add(r->notes, r->kind, sum->start, sum->end, 0);
	} else {
		ox_note_move_start(r->notes, note, sum->start);
		ox_note_move_end(r->notes, note, sum->end);
	}
	if (r->noted == OX_RANGES_AT_LEAST) {
		for (size_t i = first + 1; i < last; i++)
			ox_note_drop(r->notes, r->list[i].note);
	}
	sum->note = note;
	return note != 0 || r->noted == OX_RANGES_AT_MOST || !r->notes->slots;
}

bool ox_ranges_add(struct ox_ranges *r, uint64_t start, uint64_t end)
{
	struct ox_span sum = {.start = start, .end = end};
	size_t first = find(r, start);
	size_t last = first;

	ox_assert(start < end);
	while (last < r->count && r->list[last].start <= end) {
		sum.start = ox_min_u64(sum.start, r->list[last].start);
		sum.end = ox_max_u64(sum.end, r->list[last].end);
		last++;
	}
	if (first == last && (r->count == (r->most ? r->most : OX_RANGES_MAX) ||
			      ox_grow(r->list, r->count, r->room, 64) < 0))
		return false;
	if (!join_notes(r, first, last, &sum))
		return false;
	replace(r, first, last, &sum);
	return true;
}

bool ox_ranges_has(const struct ox_ranges *r, uint64_t number)
{
	size_t at = find(r, number + 1);

	return at < r->count && r->list[at].start <= number;
}

/* Takes the beginning of a range. */
static void take_from(struct ox_ranges *r, size_t i, uint64_t count, struct ox_span *ret)
{
	*ret = (struct ox_span){.start = r->list[i].start, .end = r->list[i].start + count};
	r->list[i].start += count;
	if (r->list[i].start < r->list[i].end) {
		if (r->noted != OX_RANGES_NOT_NOTED)
			ox_note_move_start(r->notes, r->list[i].note, r->list[i].start);
		return;
	}
	drop_note(r, r->list[i].note);
	replace(r, i, i + 1, NULL);
}

bool ox_ranges_take(struct ox_ranges *r, uint64_t most, struct ox_span *ret)
{
	if (r->count == 0)
		return false;
	take_from(r, 0, ox_min_u64(most, r->list[0].end - r->list[0].start), ret);
	return true;
}

bool ox_ranges_take_run(struct ox_ranges *r, uint64_t count, struct ox_span *ret)
{
	for (size_t i = 0; i < r->count; i++) {
		if (r->list[i].end - r->list[i].start < count)
			continue;
		take_from(r, i, count, ret);
		return true;
	}
	return false;
}

bool ox_ranges_take_end(struct ox_ranges *r, uint64_t end, struct ox_span *ret)
{
	if (r->count == 0 || r->list[r->count - 1].end < end)
		return false;
	*ret = r->list[--r->count];
	drop_note(r, ret->note);
	ret->note = 0;
	return true;
}

/* ---- what another process has left ---- */

static int by_start(const void *one, const void *other)
{
	const struct ox_span *a = one;
	const struct ox_span *b = other;

	return (a->start > b->start) - (a->start < b->start);
}

/* Those that touch or overlap are one. */
static void join_touching(struct ox_ranges *r)
{
	size_t kept = 0;

	for (size_t i = 0; i < r->count; i++) {
		struct ox_span *last = kept > 0 ? &r->list[kept - 1] : NULL;
		uint64_t end = r->list[i].end;

		if (!last || r->list[i].start > last->end) {
			r->list[kept++] = r->list[i];
			continue;
		}
		if (r->noted == OX_RANGES_AT_MOST)
			ox_note_drop(r->notes, r->list[i].note);
		last->end = ox_max_u64(last->end, end);
		ox_note_move_end(r->notes, last->note, last->end);
		if (r->noted == OX_RANGES_AT_LEAST)
			ox_note_drop(r->notes, r->list[i].note);
	}
	r->count = kept;
}

int ox_ranges_adopt(struct ox_ranges *r, struct ox_notes *notes, enum ox_note_kind kind,
		    enum ox_ranges_noted noted)
{
	ox_assert(r->count == 0 && noted != OX_RANGES_NOT_NOTED);
	r->notes = notes;
	r->kind = kind;
	r->noted = noted;
	for (uint32_t note = 1; notes->slots && note <= *notes->used; note++) {
		struct ox_noted n = ox_note_read(notes, note);

		if (n.kind != kind)
			continue;
		if (n.start >= n.end) {
			ox_note_drop(notes, note);
			continue;
		}
		if (ox_grow(r->list, r->count, r->room, 64) < 0)
			return -ENOMEM;
		r->list[r->count++] = (struct ox_span){n.start, n.end, note};
	}
	if (r->count > 0)
		qsort(r->list, r->count, sizeof(*r->list), by_start);
	join_touching(r);
	return 0;
}
