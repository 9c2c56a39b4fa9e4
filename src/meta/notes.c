/* SPDX-License-Identifier: MIT */
#include "meta/notes.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "meta/state.h"

/* The kind lies in the same word as the end, so that a note appears, turns and goes by one store.
 */
#define KIND_SHIFT 56
#define NUMBER_MAX ((UINT64_C(1) << KIND_SHIFT) - 1)

struct ox_note_slot {
	uint64_t start;
	uint64_t end_and_kind; /* 0: empty */
	uint64_t detail;
	uint64_t reserved;
};

static uint64_t pack(enum ox_note_kind kind, uint64_t end)
{
	ox_assert(end <= NUMBER_MAX);
	return (uint64_t)kind << KIND_SHIFT | end;
}

static struct ox_note_slot *slot_of(const struct ox_notes *n, uint32_t note)
{
	ox_assert(note > 0 && note <= n->count);
	return &n->slots[note - 1];
}

/* Whether there is such a note; one whose notes were given up stays as it is. */
static bool is_kept(const struct ox_notes *n, uint32_t note)
{
	return note != 0 && n->slots;
}

uint64_t ox_notes_bytes(uint32_t count)
{
	return (uint64_t)count * sizeof(struct ox_note_slot);
}

int ox_notes_init(struct ox_notes *n, void *memory, uint64_t *used, uint32_t count)
{
	*n = (struct ox_notes){.slots = memory, .used = used, .count = count};
	if (*used > count)
		return -EINVAL;
	n->free = reallocarray(NULL, count, sizeof(*n->free));
	if (!n->free)
		return -ENOMEM;
	for (uint64_t i = *used; i > 0; i--) {
		if (n->slots[i - 1].end_and_kind == 0)
			n->free[n->free_count++] = (uint32_t)i;
	}
	return 0;
}

void ox_notes_fini(struct ox_notes *n)
{
	free(n->free);
	*n = (struct ox_notes){0};
}

void ox_notes_clear(struct ox_notes *n)
{
	if (!n->slots)
		return;
	for (uint64_t i = 0; i < *n->used; i++)
		ox_state_store(&n->slots[i].end_and_kind, 0);
	ox_state_store(n->used, 0);
	n->free_count = 0;
}

static uint32_t take_slot(struct ox_notes *n)
{
	if (!n->slots)
		return 0;
	if (n->free_count > 0)
		return n->free[--n->free_count];
	if (*n->used == n->count)
		return 0;
	ox_state_store(n->used, *n->used + 1);
	return (uint32_t)*n->used;
}

uint32_t ox_note_add(struct ox_notes *n, enum ox_note_kind kind, uint64_t start, uint64_t end,
		     uint64_t detail)
{
	uint32_t note = take_slot(n);

	ox_assert(start < end);
	if (note == 0)
		return 0;
	ox_state_store(&slot_of(n, note)->start, start);
	ox_state_store(&slot_of(n, note)->detail, detail);
	ox_state_store(&slot_of(n, note)->end_and_kind, pack(kind, end));
	return note;
}

static enum ox_note_kind kind_of(const struct ox_note_slot *s)
{
	return (enum ox_note_kind)(s->end_and_kind >> KIND_SHIFT);
}

void ox_note_move_start(struct ox_notes *n, uint32_t note, uint64_t start)
{
	if (is_kept(n, note))
		ox_state_store(&slot_of(n, note)->start, start);
}

void ox_note_move_end(struct ox_notes *n, uint32_t note, uint64_t end)
{
	if (is_kept(n, note))
		ox_state_store(&slot_of(n, note)->end_and_kind,
			       pack(kind_of(slot_of(n, note)), end));
}

void ox_note_turn(struct ox_notes *n, uint32_t note, enum ox_note_kind kind)
{
	if (is_kept(n, note))
		ox_state_store(&slot_of(n, note)->end_and_kind,
			       pack(kind, slot_of(n, note)->end_and_kind & NUMBER_MAX));
}

void ox_note_drop(struct ox_notes *n, uint32_t note)
{
	if (!is_kept(n, note))
		return;
	ox_assert(slot_of(n, note)->end_and_kind != 0 && n->free_count < n->count);
	ox_state_store(&slot_of(n, note)->end_and_kind, 0);
	n->free[n->free_count++] = note;
}

struct ox_noted ox_note_read(const struct ox_notes *n, uint32_t note)
{
	const struct ox_note_slot *s = slot_of(n, note);

	return (struct ox_noted){
		.kind = kind_of(s),
		.start = s->start,
		.end = s->end_and_kind & NUMBER_MAX,
		.detail = s->detail,
	};
}

/* ---- what a process has left ---- */

static int by_start(const void *one, const void *other)
{
	const struct ox_noted *a = one;
	const struct ox_noted *b = other;

	return (a->start > b->start) - (a->start < b->start);
}

/* A note whose last cluster is gone already is empty too. */
static bool is_empty(const struct ox_noted *n)
{
	return n->kind == OX_NOTE_NONE || n->start == n->end;
}

static bool is_possible(const struct ox_noted *n, uint64_t end, uint64_t freed_past_end)
{
	if (n->kind == OX_NOTE_NONE)
		return true;
	if (n->kind >= OX_NOTE_KINDS || n->start > n->end)
		return false;
	if (n->kind == OX_NOTE_BATCH) /* the file may not be as long yet */
		return n->start > 0;
	if (n->kind == OX_NOTE_FREED || n->kind == OX_NOTE_RELEASING)
		end += freed_past_end;
	return n->kind == OX_NOTE_CHANGED || (n->start > 0 && n->end <= end);
}

enum group { FREED, RELEASING, FREE, BATCH, RESERVE, OTHERS, GROUPS };

static enum group group_of(enum ox_note_kind kind)
{
	switch (kind) {
	case OX_NOTE_FREED:
		return FREED;
	case OX_NOTE_RELEASING:
		return RELEASING;
	case OX_NOTE_FREE:
		return FREE;
	case OX_NOTE_BATCH:
		return BATCH;
	case OX_NOTE_RESERVE:
	case OX_NOTE_RESERVE_ZERO:
		return RESERVE;
	default:
		return OTHERS;
	}
}

/* A cluster that had several references is freed as often. One that is released where it is then
 * known to be free, and one that joins a batch or the reserve, is both for a moment. */
static bool may_share(enum group a, enum group b)
{
	static const unsigned with[GROUPS] = {
		[FREED] = 1 << FREED | 1 << RELEASING,
		[RELEASING] = 1 << FREED | 1 << FREE,
		[FREE] = 1 << RELEASING,
		[BATCH] = 1 << BATCH | 1 << RESERVE,
		[RESERVE] = 1 << BATCH,
	};

	return with[a] >> b & 1;
}

static int judge_sorted(const struct ox_noted *list, size_t count)
{
	uint64_t ends[GROUPS] = {0};

	for (size_t i = 0; i < count; i++) {
		enum group group = group_of(list[i].kind);

		for (enum group other = 0; other < GROUPS; other++) {
			if (list[i].start < ends[other] && !may_share(group, other))
				return -EINVAL;
		}
		ends[group] = ox_max_u64(ends[group], list[i].end);
	}
	return 0;
}

int ox_notes_judge(const struct ox_notes *n, uint64_t end, uint64_t freed_past_end)
{
	struct ox_noted *list;
	size_t count = 0;
	int r = 0;

	if (!n->slots || *n->used == 0)
		return 0;
	list = reallocarray(NULL, *n->used, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (uint32_t i = 1; i <= *n->used && r == 0; i++) {
		struct ox_noted noted = ox_note_read(n, i);

		if (!is_possible(&noted, end, freed_past_end))
			r = -EINVAL;
		if (!is_empty(&noted) && noted.kind != OX_NOTE_CHANGED)
			list[count++] = noted;
	}
	if (r == 0 && count > 0) {
		qsort(list, count, sizeof(*list), by_start);
		r = judge_sorted(list, count);
	}
	free(list);
	return r;
}
