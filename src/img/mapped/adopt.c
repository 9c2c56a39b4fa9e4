/* SPDX-License-Identifier: MIT */
/*
 * Adoption: what a process that died had in memory that outlives it (D10, docs/process-death.md).
 * Nothing is walked, copied or written for it.
 *
 * Changed tables are blocks of the caches, where they lie. Clusters that it had notes of:
 *
 *   reserve              the reserve
 *   a batch              free again; it was never handed out
 *   taken, and named     used
 *   taken, and not       free again
 *   freed                waits for the next commit, and then for its release (D4)
 *   being released       the release is finished: the count is set to what it was to become
 *
 * While a recovery is under way nothing is known to be free (R2): what would be is freed, which
 * waits for its end.
 */
#include <errno.h>

#include "img/mapped/mapped.h"

/* That a stream which begins in the file may claim past its end. */
#define STREAM_CLUSTERS 2u
/* Of a disk, as its offsets have a sign elsewhere. */
#define GUEST_MAX_BYTES (UINT64_C(1) << 63)

bool ox_mapped_adopts(const struct ox_mapped *m)
{
	return m->state && m->state->adopts && ox_state_recovery(m->state) == OX_STATE_KNOWS;
}

bool ox_mapped_resumes(const struct ox_mapped *m)
{
	return m->state && m->state->adopts && m->recover.mode == OX_RECOVER_AUTO &&
	       ox_state_recovery(m->state) == OX_STATE_BESIDE;
}

/* It names what there cannot be: then nothing was changed. */
static int refuse(const struct ox_mapped *m, struct ox_error **err)
{
	return ox_error_set(err, -ENOTRECOVERABLE, "The state of '%s' cannot be adopted",
			    m->img->filename);
}

/* ---- changed tables ---- */

static void opening_sync_co(void *arg)
{
	struct ox_mapped *m = arg;

	/* A failure poisons the order, and is told by whoever meets it. */
	int r = ox_order_sync_always_co(&m->order);

	(void)r;
	ox_latch_done(&m->background);
}

/*
 * The sync that makes durable what the dead process had written goes on beside the guest; all that
 * is adopted or read bears its ticket, so that nothing counts as durable before (H1), and no
 * adopted table is written before the data that it names (D1).
 */
static int adopt_tables_co(struct ox_mapped *m, struct ox_error **err)
{
	uint64_t end = ox_align_up(m->io->length, m->cluster_bytes);
	int r = ox_cache_adopt(&m->map, end);

	if (r == 0 && m->counts)
		r = ox_cache_adopt(m->counts, end);
	if (r == -EINVAL)
		return refuse(m, err);
	if (r < 0)
		return ox_error_set_errno(err, r, "The state of '%s' cannot be adopted",
					  m->img->filename);
	if (ox_state_poison(m->state) < 0)
		ox_order_poison(&m->order, ox_state_poison(m->state));
	ox_latch_add(&m->background);
	r = ox_co_spawn(m->img->reactor, opening_sync_co, m);
	if (r < 0)
		ox_latch_done(&m->background);
	return r < 0 ? ox_error_set_errno(err, r, "Could not sync '%s'", m->img->filename) : 0;
}

/* Of one that cannot go on: its tables are written, and it is looked through like any image that
 * was not closed. */
static int write_adopted_co(struct ox_mapped *m, struct ox_error **err)
{
	int r = 0;

	/* Its header too, which may have a fence (D8). */
	if (ox_order_error(&m->order) == 0)
		r = ox_order_wait_co(&m->order, ox_order_ticket(&m->order));
	if (r == 0)
		r = ox_cache_flush_co(&m->map);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the tables of '%s'",
					  m->img->filename);
	ox_cache_clear(&m->map);
	if (m->counts)
		ox_cache_abandon(m->counts);
	/* Nor can anybody after us, whatever becomes of this opening. */
	ox_state_set_recovery(m->state, OX_STATE_ANEW);
	ox_notes_clear(m->notes);
	return 0;
}

int ox_adopt_co(struct ox_mapped *m, struct ox_error **err)
{
	int r = adopt_tables_co(m, err);

	if (r == 0 && !ox_mapped_adopts(m) && !ox_mapped_resumes(m))
		r = write_adopted_co(m, err);
	return r;
}

/* ---- clusters ---- */

/* A death came between two stores of a refill: the batch is in the reserve. */
static bool is_in_reserve(const struct ox_mapped *m, const struct ox_noted *batch)
{
	for (unsigned i = 0; i < m->alloc.reserve_count; i++) {
		const struct ox_alloc_range *have = &m->alloc.reserve[i];

		if (have->start < batch->end && batch->start < have->start + have->count)
			return true;
	}
	return false;
}

static uint64_t file_end(const struct ox_mapped *m)
{
	return ox_div_up(m->io->length, m->cluster_bytes);
}

/* Whether the clusters hold what is not to be lost, whatever a note says: then it is void. */
static bool is_metadata(const struct ox_mapped *m, const struct ox_noted *n)
{
	uint64_t end = ox_min_u64(n->end, file_end(m));

	return n->start < end && ox_alloc_overlaps_metadata(m, n->start, end - n->start);
}

/* Nothing names these clusters, or is about to. */
static int adopt_unnamed_co(struct ox_mapped *m, const struct ox_noted *n, uint32_t note)
{
	uint64_t end = ox_min_u64(n->end, file_end(m));
	struct ox_alloc_range range = {
		.start = n->start,
		.count = n->end - n->start,
		.note = note,
	};
	int r;

	if (is_metadata(m, n)) {
		ox_note_drop(m->notes, note);
		return 0;
	}
	if (!ox_mapped_resumes(m)) {
		ox_note_turn(m->notes, note, OX_NOTE_BATCH);
		ox_mutex_lock_co(&m->alloc.lock);
		r = m->ops->take_back_locked_co(m, &range);
		ox_mutex_unlock(&m->alloc.lock);
		return r == -ENOMEM ? r : 0; /* else it is leaked */
	}
	if (n->start >= end) { /* it never came to be */
		ox_note_drop(m->notes, note);
		return 0;
	}
	ox_note_move_end(m->notes, note, end);
	ox_note_turn(m->notes, note, OX_NOTE_FREED);
	return ox_freed_adopt(m, n->start, end - n->start, note);
}

static int adopt_batch_co(struct ox_mapped *m, const struct ox_noted *n, uint32_t note)
{
	if (!is_in_reserve(m, n))
		return adopt_unnamed_co(m, n, note);
	ox_note_drop(m->notes, note);
	return 0;
}

/* How many of the first clusters, at least one, are named by the guest's, or are not. */
static uint64_t count_named_co(struct ox_mapped *m, const struct ox_noted *n, bool *ret_named)
{
	struct ox_guest guest = ox_guest((n->detail - (n->end - n->start)) << m->cluster_bits);
	uint64_t bytes = (n->end - n->start) << m->cluster_bits;
	struct ox_map_run run;
	uint64_t left;

	*ret_named = true; /* in doubt it is not free */
	if (guest.bytes >= m->img->size_bytes)
		return n->end - n->start;
	left = ox_min_u64(bytes, m->img->size_bytes - guest.bytes);
	if (ox_mapped_lookup_co(m, guest, left, &run) < 0)
		return n->end - n->start;
	*ret_named = (run.kind == OX_MAP_DATA || run.kind == OX_MAP_ZERO_ALLOC) &&
		     run.host.bytes == n->start << m->cluster_bits;
	return ox_div_up(run.length, m->cluster_bytes);
}

/* One cluster after the other is found to be named, or free. */
static int adopt_taken_co(struct ox_mapped *m, struct ox_noted n, uint32_t note)
{
	bool named;
	int r = 0;

	if (n.end - n.start > n.detail || n.detail > GUEST_MAX_BYTES >> m->cluster_bits)
		return -EINVAL;
	while (r == 0 && n.start < n.end) {
		struct ox_noted part = n;

		part.end = n.start + count_named_co(m, &n, &named);
		ox_note_move_start(m->notes, note, part.end);
		if (!named)
			r = adopt_unnamed_co(
				m, &part,
				ox_note_add(m->notes, OX_NOTE_BATCH, part.start, part.end, 0));
		n.start = part.end;
	}
	ox_note_drop(m->notes, note);
	return r;
}

/* A table that has moved is named by nothing as far as the dead process could see to it: it is
 * freed, so that it is not used again before that is durable (D4). */
static int adopt_table(struct ox_mapped *m, const struct ox_noted *n, uint32_t note)
{
	if (is_metadata(m, n)) {
		ox_note_drop(m->notes, note);
		return 0;
	}
	ox_note_turn(m->notes, note, OX_NOTE_FREED);
	return ox_freed_adopt(m, n->start, n->end - n->start, note);
}

static int adopt_reserve(struct ox_mapped *m, const struct ox_noted *n, uint32_t note)
{
	struct ox_alloc *a = &m->alloc;

	if (a->reserve_count == OX_ALLOC_RESERVE_RANGES || is_metadata(m, n))
		return -EINVAL;
	a->reserve[a->reserve_count++] = (struct ox_alloc_range){
		.start = n->start,
		.count = n->end - n->start,
		.zero = n->kind == OX_NOTE_RESERVE_ZERO,
		.note = note,
	};
	return 0;
}

static int adopt_release_co(struct ox_mapped *m, const struct ox_noted *n, uint32_t note)
{
	int r = 0;

	ox_mutex_lock_co(&m->alloc.lock);
	if (!is_metadata(m, n))
		r = m->ops->finish_release_locked_co(m, n->start, n->end - n->start, n->detail);
	ox_mutex_unlock(&m->alloc.lock);
	if (r == -ENOMEM || r == -EINVAL)
		return r;
	ox_note_drop(m->notes, note); /* where it has failed, it is leaked */
	return 0;
}

static int adopt_note_co(struct ox_mapped *m, uint32_t note)
{
	struct ox_noted n = ox_note_read(m->notes, note);

	if (n.kind == OX_NOTE_NONE)
		return 0;
	if (n.start == n.end) {
		ox_note_drop(m->notes, note);
		return 0;
	}
	switch (n.kind) {
	case OX_NOTE_BATCH:
		return adopt_batch_co(m, &n, note);
	case OX_NOTE_RESERVE:
	case OX_NOTE_RESERVE_ZERO:
		return adopt_reserve(m, &n, note);
	case OX_NOTE_TAKEN:
		return adopt_taken_co(m, n, note);
	case OX_NOTE_TAKEN_TABLE:
		return adopt_table(m, &n, note);
	case OX_NOTE_FREED:
		return ox_freed_adopt(m, n.start, n.end - n.start, note);
	case OX_NOTE_RELEASING:
		return adopt_release_co(m, &n, note);
	default: /* the format's */
		return 0;
	}
}

enum turn { TURN_RESERVE, TURN_OTHERS, TURN_TAKEN, TURNS };

/* What is taken comes last: it leaves notes of other kinds, which are not to be looked at again. */
static enum turn turn_of(enum ox_note_kind kind)
{
	switch (kind) {
	case OX_NOTE_RESERVE:
	case OX_NOTE_RESERVE_ZERO:
		return TURN_RESERVE;
	case OX_NOTE_TAKEN:
		return TURN_TAKEN;
	default:
		return TURN_OTHERS;
	}
}

int ox_adopt_notes_co(struct ox_mapped *m, struct ox_error **err)
{
	uint32_t used = (uint32_t)*m->notes->used;
	int r = ox_notes_judge(m->notes, file_end(m),
			       m->ops->read_compressed_co ? STREAM_CLUSTERS : 0);

	if (r == -EINVAL)
		return refuse(m, err);
	for (enum turn turn = 0; turn < TURNS; turn++) {
		for (uint32_t note = 1; r == 0 && note <= used; note++) {
			if (turn_of(ox_note_read(m->notes, note).kind) == turn)
				r = adopt_note_co(m, note);
		}
	}
	return r < 0 ? ox_error_set_errno(err, r, "The state of '%s' cannot be adopted",
					  m->img->filename)
		     : 0;
}
