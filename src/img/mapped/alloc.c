/* SPDX-License-Identifier: MIT */
/*
 * The reserve: where allocation pays for its order, a batch at a time.
 *
 * A refill takes a batch of free clusters and, with one sync, makes durable that they lie within
 * the file (D8), that they read as zeroes (H2), and that the format's record of them is right (D3),
 * or that the dirty bit covers it (D5). Which clusters are free the format knows
 * (refill_locked_co). From then on a write into a cluster out of the reserve owes nothing but
 * itself: data and L2 entry may go out together, and one sync covers both.
 *
 * A crash leaks what is left of the batch; a clean close gives it back, and so does an idle guest
 * (idle.c). The death of the process leaks nothing where a state outlives it: each range has a note
 * there, from before the batch is counted until an entry names its last cluster (D10). So a batch
 * is no larger than the guest's demand: it begins with a few clusters, doubles where the last one
 * did not last long, and shrinks where it did.
 */
#include <errno.h>
#include <string.h>

#include "img/mapped/mapped.h"
#include "rt/reactor.h"

#define BATCH_FIRST_CLUSTERS 4u
#define BATCH_MAX_CLUSTERS 4096u
#define BATCH_MAX_BYTES (UINT64_C(64) << 20)
/* A batch is to last as long, about: then its sync is one among many. */
#define BATCH_LASTS_NS UINT64_C(5000000000)
/* Of one who has said how many will be taken. */
#define BATCH_EXPECTED_CLUSTERS (UINT64_C(1) << 20)
#define GROWTH_ALIGN_BYTES 4096u

/* For a guest, whose crash leaks the rest of a batch. */
static uint64_t usual_limit(const struct ox_mapped *m)
{
	return ox_max_u64(ox_min_u64(BATCH_MAX_BYTES / m->cluster_bytes, BATCH_MAX_CLUSTERS), 8);
}

void ox_alloc_init(struct ox_mapped *m)
{
	m->alloc = (struct ox_alloc){.batch_limit = usual_limit(m)};
	m->alloc.batch = BATCH_FIRST_CLUSTERS;
	ox_mutex_init(&m->alloc.lock);
}

void ox_alloc_expect(struct ox_mapped *m, uint64_t clusters)
{
	m->alloc.expected = clusters > 0;
	m->alloc.batch_limit =
		ox_max_u64(ox_min_u64(clusters, BATCH_EXPECTED_CLUSTERS), usual_limit(m));
	m->alloc.batch = clusters ? m->alloc.batch_limit : BATCH_FIRST_CLUSTERS;
}

void ox_alloc_calm(struct ox_mapped *m)
{
	if (!m->alloc.expected)
		m->alloc.batch = BATCH_FIRST_CLUSTERS;
	m->alloc.refilled = false;
}

uint64_t ox_alloc_batch(struct ox_mapped *m, uint64_t want)
{
	struct ox_alloc *a = &m->alloc;
	uint64_t now = ox_reactor_now_ns(m->img->reactor);
	uint64_t lasted = (now - a->refilled_ns) / BATCH_LASTS_NS;

	if (a->refilled && !a->expected && lasted == 0)
		a->batch = ox_min_u64(a->batch * 2, a->batch_limit);
	else if (a->refilled && !a->expected)
		a->batch = ox_max_u64(a->batch / lasted, BATCH_FIRST_CLUSTERS);
	a->refilled = true;
	a->refilled_ns = now;
	return ox_max_u64(a->batch, ox_min_u64(want, a->batch_limit));
}

/* Zeroes the part of the range that the file has already. */
static int zero_old_part_co(struct ox_mapped *m, uint64_t start, uint64_t bytes, bool *ret_zero)
{
	int r;

	r = ox_io_punch_co(m->io, start, bytes);
	if (r == -EOPNOTSUPP)
		r = ox_io_zero_co(m->io, start, bytes);
	/* A hole may need room for its own bookkeeping, and a part of a block for its zeroes. */
	if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
		return r;
	*ret_zero = r == 0;
	return 0;
}

int ox_alloc_make_zero_co(struct ox_mapped *m, uint64_t start, uint64_t count, bool *ret_zero)
{
	uint64_t from = start * m->cluster_bytes;
	uint64_t to = from + count * m->cluster_bytes;
	uint64_t old_end = m->io->length;
	int r;

	*ret_zero = true;
	if (from < old_end) {
		r = zero_old_part_co(m, from, ox_min_u64(to, old_end) - from, ret_zero);
		if (r < 0)
			return r;
	}
	if (to <= old_end)
		return 0;
	/* Whole pages: growing from the middle of one disturbs direct writes beside it. */
	return m->io->can_grow ? ox_mapped_set_length_co(m, ox_align_up(to, GROWTH_ALIGN_BYTES))
			       : -ENOSPC;
}

bool ox_alloc_overlaps_metadata(const struct ox_mapped *m, uint64_t start, uint64_t count)
{
	uint64_t from = start * m->cluster_bytes;
	uint64_t bytes = count * m->cluster_bytes;

	for (unsigned i = 0; i < m->fixed_count; i++) {
		if (from < m->fixed[i].end && from + bytes > m->fixed[i].start)
			return true;
	}
	return ox_tables_overlap(m, ox_host(from), bytes);
}

/* ---- notes for whoever adopts (D10) ---- */

static void note(struct ox_mapped *m, enum ox_note_kind kind, struct ox_alloc_range *range,
		 uint64_t detail)
{
	range->note =
		ox_note_add(m->notes, kind, range->start, range->start + range->count, detail);
}

void ox_alloc_note_batch(struct ox_mapped *m, struct ox_alloc_range *range)
{
	note(m, OX_NOTE_BATCH, range, 0);
}

void ox_alloc_drop_batch(struct ox_mapped *m, struct ox_alloc_range *range)
{
	ox_note_drop(m->notes, range->note);
	range->note = 0;
}

/* The detail is where the guest's clusters end, so that it holds for whatever is left. */
void ox_alloc_note_data(struct ox_mapped *m, struct ox_alloc_range *range, struct ox_guest guest)
{
	note(m, OX_NOTE_TAKEN, range, (guest.bytes >> m->cluster_bits) + range->count);
}

void ox_alloc_note_table(struct ox_mapped *m, struct ox_alloc_range *range)
{
	note(m, OX_NOTE_TAKEN_TABLE, range, 0);
}

void ox_alloc_named(struct ox_mapped *m, struct ox_alloc_range *range, uint64_t count)
{
	ox_assert(count <= range->count);
	range->start += count;
	range->count -= count;
	if (range->count > 0) {
		ox_note_move_start(m->notes, range->note, range->start);
		return;
	}
	ox_note_drop(m->notes, range->note);
	range->note = 0;
}

static enum ox_note_kind reserve_kind(const struct ox_alloc_range *range)
{
	return range->zero ? OX_NOTE_RESERVE_ZERO : OX_NOTE_RESERVE;
}

/* ---- the reserve ---- */

void ox_alloc_push(struct ox_mapped *m, const struct ox_alloc_range *range)
{
	struct ox_alloc *a = &m->alloc;

	ox_assert((range->start + range->count) * m->cluster_bytes <= m->io->length); /* D8 */
	for (unsigned i = 0; i < a->reserve_count; i++) {
		struct ox_alloc_range *have = &a->reserve[i];

		if (have->start + have->count != range->start || have->zero != range->zero)
			continue;
		have->count += range->count;
		ox_note_move_end(m->notes, have->note, have->start + have->count);
		ox_note_drop(m->notes, range->note); /* both say so for a moment */
		return;
	}
	ox_assert(a->reserve_count < OX_ALLOC_RESERVE_RANGES);
	ox_note_turn(m->notes, range->note, reserve_kind(range));
	a->reserve[a->reserve_count++] = *range;
}

uint64_t ox_alloc_reserved(const struct ox_alloc *a)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < a->reserve_count; i++)
		sum += a->reserve[i].count;
	return sum;
}

/* Up to count clusters from the beginning of the range of that number. */
static void take_from(struct ox_mapped *m, unsigned i, uint64_t count, struct ox_alloc_range *ret)
{
	struct ox_alloc *a = &m->alloc;
	struct ox_alloc_range *from = &a->reserve[i];

	*ret = (struct ox_alloc_range){
		.start = from->start,
		.count = ox_min_u64(count, from->count),
		.zero = from->zero,
	};
	a->taken += ret->count;
	ox_alloc_named(m, from, ret->count);
	if (from->count > 0)
		return;
	a->reserve_count--;
	for (; i < a->reserve_count; i++)
		a->reserve[i] = a->reserve[i + 1];
}

void ox_alloc_pop(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret)
{
	ox_assert(m->alloc.reserve_count > 0);
	take_from(m, 0, want, ret);
}

bool ox_alloc_pop_run(struct ox_mapped *m, uint64_t count, struct ox_alloc_range *ret)
{
	for (unsigned i = 0; i < m->alloc.reserve_count; i++) {
		if (m->alloc.reserve[i].count < count)
			continue;
		take_from(m, i, count, ret);
		return true;
	}
	return false;
}

void ox_alloc_give_back(struct ox_mapped *m, const struct ox_alloc_range *range)
{
	struct ox_alloc *a = &m->alloc;
	struct ox_alloc_range *first = &a->reserve[0];

	ox_note_drop(m->notes, range->note);
	if (a->reserve_count > 0 && range->start + range->count == first->start &&
	    range->zero == first->zero) {
		first->start -= range->count;
		first->count += range->count;
		ox_note_move_start(m->notes, first->note, first->start);
		return;
	}
	if (a->reserve_count >= OX_ALLOC_REFILL_RANGES) { /* the other slots are a refill's */
		ox_alloc_free_later(m, ox_host(range->start * m->cluster_bytes),
				    range->count * m->cluster_bytes);
		return;
	}
	for (unsigned i = a->reserve_count; i > 0; i--)
		a->reserve[i] = a->reserve[i - 1];
	a->reserve[0] = *range;
	note(m, reserve_kind(range), &a->reserve[0], 0);
	a->reserve_count++;
}

int ox_alloc_take_locked_co(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret)
{
	int r = 0;

	while (m->alloc.reserve_count == 0 && r == 0)
		r = m->ops->refill_locked_co(m, want);
	if (r == 0)
		ox_alloc_pop(m, want, ret);
	return r;
}

int ox_alloc_take_co(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret)
{
	int r;

	ox_assert(want > 0);
	m->alloc.takes++;
	if (m->alloc.reserve_count > 0) {
		ox_alloc_pop(m, want, ret);
		return 0;
	}
	ox_mutex_lock_co(&m->alloc.lock);
	r = ox_alloc_take_locked_co(m, want, ret);
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}

int ox_alloc_return_reserve_locked_co(struct ox_mapped *m)
{
	struct ox_alloc_range ranges[OX_ALLOC_RESERVE_RANGES];
	unsigned n = m->alloc.reserve_count;
	int r = 0;

	/* Nobody takes from it from here on: the next allocation waits for the lock and refills. */
	memcpy(ranges, m->alloc.reserve, n * sizeof(ranges[0]));
	m->alloc.reserve_count = 0;
	for (unsigned i = 0; i < n; i++) /* all: what is given back meanwhile has slots again */
		ox_note_turn(m->notes, ranges[i].note, OX_NOTE_BATCH);
	for (unsigned i = 0; i < n; i++) {
		if (r == 0)
			r = m->ops->take_back_locked_co(m, &ranges[i]);
		else /* what a failure leaves behind is leaked */
			ox_alloc_drop_batch(m, &ranges[i]);
	}
	return r;
}
