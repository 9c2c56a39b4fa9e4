/* SPDX-License-Identifier: MIT */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "trace.h"

#define NEVER UINT64_MAX

struct value {
	uint32_t id;
	uint32_t serial;
	bool ok; /* acknowledged, and not a discard: drives older values out */
	uint64_t began;
	uint64_t ended;
	uint64_t seen;	      /* the end of the first read that found it; 0: none has */
	uint64_t live_until;  /* a reader that begins later does not see it */
	uint64_t crash_until; /* a cut later does not bring it back */
};

struct sector {
	struct value *values;
	unsigned count;
	unsigned room;
	bool wild;
};

struct sim_model {
	struct sector *sectors;
	uint64_t count;
	uint64_t other_count; /* what it may be as well: the same, if no change is under way */
	uint64_t room;
	uint64_t clock;
	uint32_t next_id;
	uint32_t next_serial;
	uint64_t wild_count;
	unsigned readers;
};

static void add_value(struct sector *s, const struct value *v)
{
	if (s->count == s->room) {
		struct value *more = sim_alloc(s->room * 2 + 4, sizeof(*more));

		if (s->count > 0)
			memcpy(more, s->values, s->count * sizeof(*more));
		free(s->values);
		s->values = more;
		s->room = s->room * 2 + 4;
	}
	s->values[s->count++] = *v;
}

struct sim_model *sim_model_new(uint64_t sectors, uint64_t room, uint64_t backed)
{
	struct sim_model *m = sim_alloc(1, sizeof(*m));

	m->sectors = sim_alloc(room, sizeof(*m->sectors));
	m->count = sectors;
	m->other_count = sectors;
	m->room = room;
	m->next_id = SIM_ID_BACKING + 1;
	for (uint64_t i = 0; i < room; i++) {
		struct value v = {
			.id = i < backed ? SIM_ID_BACKING : SIM_ID_ZERO,
			.ok = true,
			.live_until = NEVER,
			.crash_until = NEVER,
		};

		add_value(&m->sectors[i], &v);
	}
	return m;
}

void sim_model_free(struct sim_model *m)
{
	if (!m)
		return;
	for (uint64_t i = 0; i < m->room; i++)
		free(m->sectors[i].values);
	free(m->sectors);
	free(m);
}

uint64_t sim_model_sectors(const struct sim_model *m)
{
	return m->count;
}

/* What lies past the end is forgotten: it comes back as zeroes. */
static void forget_past(struct sim_model *m, uint64_t sectors)
{
	for (uint64_t i = sectors; i < m->room; i++) {
		struct value v = {.ok = true, .live_until = NEVER, .crash_until = NEVER};

		m->sectors[i].count = 0;
		add_value(&m->sectors[i], &v);
	}
}

bool sim_model_has_one_size(const struct sim_model *m)
{
	return m->count == m->other_count;
}

void sim_model_resize_begin(struct sim_model *m, uint64_t sectors)
{
	struct value zero = {
		.serial = ++m->next_serial,
		.began = ++m->clock,
		.ended = NEVER,
		.live_until = NEVER,
		.crash_until = NEVER,
	};

	m->other_count = sectors;
	for (uint64_t i = sectors; i < m->count; i++)
		add_value(&m->sectors[i], &zero);
}

void sim_model_resize_end(struct sim_model *m, bool ok)
{
	if (ok)
		sim_model_found_size(m, m->other_count, true);
}

void sim_model_found_size(struct sim_model *m, uint64_t sectors, bool durable)
{
	if (sectors != m->count && sectors != m->other_count)
		sim_fail("D7", "the disk has %llu sectors, not %llu or %llu",
			 (unsigned long long)sectors, (unsigned long long)m->count,
			 (unsigned long long)m->other_count);
	if (!durable) {
		m->other_count = sectors == m->count ? m->other_count : m->count;
		m->count = sectors;
		return;
	}
	forget_past(m, sectors);
	m->count = sectors;
	m->other_count = sectors;
}

/* ---- patterns ---- */

/* Most are small, so that a cluster gets smaller by compression; no two are alike. */
static uint64_t word_of(uint32_t id, uint64_t sector, unsigned index)
{
	if (index % 4 != 0)
		return index;
	return ((uint64_t)id << 32 | (sector & 0xffffff) << 8 | index) * 0x9e3779b97f4a7c15;
}

void sim_model_pattern(uint32_t id, uint64_t sector, uint8_t *ret)
{
	for (unsigned i = 0; i < SIM_SECTOR_BYTES / 8; i++) {
		uint64_t word = id == SIM_ID_ZERO ? 0 : word_of(id, sector, i);

		memcpy(ret + 8 * i, &word, sizeof(word));
	}
}

uint32_t sim_model_id_of(const uint8_t *bytes, uint64_t sector)
{
	uint8_t expected[SIM_SECTOR_BYTES];
	uint64_t word;
	uint32_t id;

	memcpy(&word, bytes, sizeof(word));
	/* the inverse of the odd factor of word_of */
	id = (uint32_t)(word * UINT64_C(0xf1de83e19937733d) >> 32);
	sim_model_pattern(id, sector, expected);
	return memcmp(bytes, expected, sizeof(expected)) == 0 ? id : SIM_ID_GARBAGE;
}

/* ---- changes ---- */

/* Forgets what can neither be read nor come back. */
static void compact(struct sim_model *m, struct sector *s)
{
	unsigned kept = 0;

	if (m->readers > 0)
		return;
	for (unsigned i = 0; i < s->count; i++)
		if (s->values[i].live_until == NEVER || s->values[i].crash_until == NEVER)
			s->values[kept++] = s->values[i];
	s->count = kept;
}

/* A value is there from its request's end on at the latest, or from when it was read. */
static uint64_t there_by(const struct value *v)
{
	return v->seen ? ox_min_u64(v->seen, v->ended) : v->ended;
}

static void drive_out(struct sector *s, uint64_t before, uint64_t now, bool promised)
{
	for (unsigned i = 0; i < s->count; i++) {
		struct value *v = &s->values[i];

		if (there_by(v) >= before)
			continue;
		if (v->live_until == NEVER)
			v->live_until = now;
		if (promised && v->crash_until == NEVER)
			v->crash_until = now;
	}
}

void sim_model_begin(struct sim_model *m, struct sim_write *w, enum sim_change_kind kind,
		     uint64_t first, uint64_t count)
{
	struct value v = {
		.id = kind == SIM_MODEL_WRITE ? m->next_id++ : SIM_ID_ZERO,
		.serial = ++m->next_serial,
		.began = ++m->clock,
		.ended = NEVER,
		.live_until = NEVER,
		.crash_until = NEVER,
	};

	*w = (struct sim_write){v.id, v.serial, kind, first, count, v.began};
	for (uint64_t i = first; i < first + count; i++)
		add_value(&m->sectors[i], &v);
}

void sim_model_end(struct sim_model *m, const struct sim_write *w, bool ok, bool promised)
{
	uint64_t now = ++m->clock;
	bool drives = ok && w->kind != SIM_MODEL_DISCARD;

	for (uint64_t i = w->first; i < w->first + w->count; i++) {
		struct sector *s = &m->sectors[i];

		for (unsigned k = 0; k < s->count; k++) {
			if (s->values[k].serial != w->serial)
				continue;
			s->values[k].ended = now;
			s->values[k].ok = drives;
		}
		if (drives)
			drive_out(s, w->began, now, promised);
		compact(m, s);
	}
}

void sim_model_make_wild(struct sim_model *m, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count && i < m->room; i++) {
		m->wild_count += !m->sectors[i].wild;
		m->sectors[i].wild = true;
	}
}

void sim_model_tame_all(struct sim_model *m)
{
	for (uint64_t i = 0; i < m->room; i++)
		m->sectors[i].wild = false;
	m->wild_count = 0;
}

bool sim_model_is_wild(const struct sim_model *m, uint64_t first, uint64_t count)
{
	if (m->wild_count == 0)
		return false;
	for (uint64_t i = first; i < first + count && i < m->room; i++)
		if (m->sectors[i].wild)
			return true;
	return false;
}

uint64_t sim_model_flush_begin(struct sim_model *m)
{
	return ++m->clock;
}

void sim_model_flush_end(struct sim_model *m, uint64_t began)
{
	uint64_t now = ++m->clock;

	for (uint64_t i = 0; i < m->count; i++) {
		struct sector *s = &m->sectors[i];
		uint64_t latest = 0;

		if (s->count < 2)
			continue;
		for (unsigned k = 0; k < s->count; k++)
			if (s->values[k].ok && s->values[k].ended < began &&
			    s->values[k].began > latest)
				latest = s->values[k].began;
		drive_out(s, latest, now, true);
		compact(m, s);
	}
}

/* ---- reading ---- */

uint64_t sim_model_read_begin(struct sim_model *m)
{
	m->readers++;
	return ++m->clock;
}

static void describe(const struct sector *s, bool after_cut, uint64_t began, char *ret, size_t room)
{
	size_t used = 0;

	ret[0] = '\0';
	for (unsigned k = 0; k < s->count && used + 12 < room; k++) {
		const struct value *v = &s->values[k];

		if (after_cut ? v->crash_until == NEVER : v->live_until > began)
			used += (size_t)snprintf(ret + used, room - used, " %u", v->id);
	}
}

static _Noreturn void refuse(const struct sector *s, uint64_t sector, uint32_t id,
			     const uint8_t *bytes, bool after_cut, uint64_t began,
			     const char *where)
{
	char allowed[200];
	char got[64];
	uint64_t word;

	describe(s, after_cut, began, allowed, sizeof(allowed));
	memcpy(&word, bytes, sizeof(word));
	word *= UINT64_C(0xf1de83e19937733d);
	if (id != SIM_ID_GARBAGE)
		snprintf(got, sizeof(got), "write %u", id);
	else
		snprintf(got, sizeof(got), "garbage (like write %u of sector %u)",
			 (unsigned)(word >> 32), (unsigned)(word >> 8 & 0xffffff));
	sim_fail("D7", "%s: guest sector %llu (0x%llx) reads as %s; allowed:%s", where,
		 (unsigned long long)sector, (unsigned long long)sector * SIM_SECTOR_BYTES, got,
		 allowed);
}

/* What a read found is there, and what it had replaced by then does not come back. Where several
 * requests leave the same bytes nobody knows which it was. */
static void note_seen(struct sector *s, uint32_t id, uint64_t began, uint64_t now)
{
	struct value *found = NULL;

	for (unsigned k = 0; k < s->count; k++) {
		struct value *v = &s->values[k];

		if (v->id != id || v->live_until <= began)
			continue;
		if (found)
			return;
		found = v;
	}
	if (found->seen == 0)
		found->seen = now;
	drive_out(s, found->began, now, false);
}

void sim_model_read_end(struct sim_model *m, uint64_t began, uint64_t first, uint64_t count,
			const uint8_t *bytes)
{
	uint64_t now = ++m->clock;

	for (uint64_t i = 0; bytes && i < count; i++) {
		struct sector *s = &m->sectors[first + i];
		uint32_t id = sim_model_id_of(bytes + i * SIM_SECTOR_BYTES, first + i);
		bool fits = false;

		if (s->wild)
			continue;
		for (unsigned k = 0; k < s->count; k++)
			fits = fits || (s->values[k].id == id && s->values[k].live_until > began);
		if (!fits)
			refuse(s, first + i, id, bytes + i * SIM_SECTOR_BYTES, false, began,
			       "a read");
		note_seen(s, id, began, now);
	}
	m->readers--;
}

void sim_model_check(const struct sim_model *m, uint64_t sector, const uint8_t *bytes,
		     const char *where)
{
	const struct sector *s = &m->sectors[sector];
	uint32_t id = sim_model_id_of(bytes, sector);

	for (unsigned k = 0; k < s->count; k++)
		if (s->values[k].id == id && s->values[k].crash_until == NEVER)
			return;
	refuse(s, sector, id, bytes, true, 0, where);
}

static void observe(struct sim_model *m, uint64_t sector, const uint8_t *bytes, bool durable)
{
	struct sector *s = &m->sectors[sector];
	struct value v = {
		.id = sim_model_id_of(bytes, sector),
		.serial = ++m->next_serial,
		.ok = true,
		.began = ++m->clock,
		.live_until = NEVER,
		.crash_until = NEVER,
	};

	v.ended = ++m->clock;
	if (s->count == 1 && s->values[0].id == v.id)
		return;
	add_value(s, &v);
	drive_out(s, v.began, v.ended, durable);
	compact(m, s);
}

void sim_model_settle(struct sim_model *m, uint64_t sector, const uint8_t *bytes)
{
	observe(m, sector, bytes, true);
}

void sim_model_observe(struct sim_model *m, uint64_t sector, const uint8_t *bytes)
{
	observe(m, sector, bytes, false);
}

void sim_model_abandon(struct sim_model *m)
{
	uint64_t now = ++m->clock;

	m->readers = 0;
	for (uint64_t i = 0; i < m->count; i++) {
		struct sector *s = &m->sectors[i];

		for (unsigned k = 0; k < s->count; k++)
			if (s->values[k].ended == NEVER)
				s->values[k].ended = now;
		compact(m, s);
	}
}
