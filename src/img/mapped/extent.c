/* SPDX-License-Identifier: MIT */
/*
 * Where the guest's bytes are: the image's own layer of a map.
 *
 * Under a cluster that an entry names the file may have a hole. Then the bytes read as zeroes. They
 * keep DATA, as they have a place, and get ZERO. The range's lock is held while the file is asked,
 * so that what an entry names is not freed meanwhile. A write in place beside it has not been
 * answered when this one began, and may be told of or not.
 */
#include "img/mapped/mapped.h"

/* Runs looked at for one answer: an answer is bounded work, the caller asks again for the rest. */
#define RUNS_MAX 64u
/* Extents of the file that one question asks for, at the least and at the most, and how far. */
#define AHEAD_MIN 8
#define AHEAD_MAX 64
#define AHEAD_BYTES (UINT64_C(16) << 20)

/* What lies next in the file, for an answer of several extents: clusters that follow each other
 * there cost one question together. Believed within that answer alone. */
struct ahead {
	struct ox_io_extent extents[AHEAD_MAX];
	uint64_t start; /* of extents[next] in the file */
	int count;
	int next;
	int ask; /* so many were asked for last */
};

static unsigned flags_of(const struct ox_map_run *run)
{
	switch (run->kind) {
	case OX_MAP_DATA:
		return OX_EXTENT_DATA | OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET;
	case OX_MAP_COMPRESSED:
		return OX_EXTENT_DATA | OX_EXTENT_PRESENT | OX_EXTENT_COMPRESSED;
	case OX_MAP_ZERO:
		return OX_EXTENT_ZERO | OX_EXTENT_PRESENT;
	case OX_MAP_ZERO_ALLOC:
		return OX_EXTENT_ZERO | OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET;
	case OX_MAP_UNALLOCATED:
		break;
	}
	return 0;
}

/* Whether the file is asked for holes, for who does not insist on it. */
static bool is_sparse_co(struct ox_mapped *m)
{
	if (m->looked_sparse || !m->ops->looks_preallocated_co)
		return m->sparse;
	if (m->recover.state == OX_RECOVERY_RUNNING)
		return false; /* the counts are still to come */
	m->sparse = m->ops->looks_preallocated_co(m);
	m->looked_sparse = true;
	return m->sparse;
}

/* Asks for more where the questions follow the file, and for few where they jump about in it. */
static int ask_ahead_co(struct ox_mapped *m, struct ahead *ahead, uint64_t host)
{
	bool follows = ahead->count > 0 && ahead->next == ahead->count && host == ahead->start;
	int r;

	ahead->ask = follows ? (int)ox_min_u64((uint64_t)ahead->ask * 2, AHEAD_MAX) : AHEAD_MIN;
	ahead->next = 0;
	ahead->count = 0;
	ahead->start = host;
	r = ox_io_extents_co(m->io, host, AHEAD_BYTES, ahead->extents, ahead->ask);
	if (r > 0)
		ahead->count = r;
	return r;
}

/* ahead NULL: this extent alone is wanted. */
static int file_extent_co(struct ox_mapped *m, struct ahead *ahead, uint64_t host,
			  struct ox_io_extent *ret)
{
	int r;

	if (!ahead)
		return ox_io_extent_co(m->io, host, ret);
	while (ahead->next < ahead->count &&
	       host >= ahead->start + ahead->extents[ahead->next].length)
		ahead->start += ahead->extents[ahead->next++].length;
	if (ahead->next == ahead->count || host < ahead->start) {
		r = ask_ahead_co(m, ahead, host);
		if (r < 0)
			return r;
	}
	*ret = ahead->extents[ahead->next];
	ret->length -= host - ahead->start;
	return 0;
}

/* Only that much of the run is alike in the file. What cannot be told is taken for data. */
static void look_into_file_co(struct ox_mapped *m, struct ahead *ahead, struct ox_extent *e)
{
	struct ox_io_extent file;

	if (file_extent_co(m, ahead, e->host_offset, &file) < 0)
		return;
	e->length = ox_min_u64(e->length, file.length);
	if (file.zero)
		e->flags |= OX_EXTENT_ZERO;
}

/* One run, as its guest sees it. */
static int look_co(struct ox_mapped *m, uint64_t at, uint64_t length, bool holes,
		   struct ahead *ahead, struct ox_extent *ret)
{
	const struct ox_image *backing = m->img->backing;
	struct ox_map_run run;
	int r = ox_mapped_lookup_co(m, ox_guest(at), length, &run);

	if (r < 0)
		return r;
	*ret = (struct ox_extent){.flags = flags_of(&run), .length = run.length};
	if (ret->flags & OX_EXTENT_HAS_OFFSET)
		ret->host_offset = run.host.bytes;
	if (run.kind == OX_MAP_DATA && holes)
		look_into_file_co(m, ahead, ret);
	if (ret->flags == 0 && !ox_mapped_is_backed(m, at))
		ret->flags = OX_EXTENT_ZERO;
	if (ret->flags == 0 && backing) /* zero from the backing file's end on */
		ret->length = ox_min_u64(ret->length, backing->size_bytes - at);
	return 0;
}

/* Whether the next run can be told together with the one before it. */
static bool joins(const struct ox_extent *have, const struct ox_extent *next)
{
	if (next->flags != have->flags)
		return false;
	return !(next->flags & OX_EXTENT_HAS_OFFSET) ||
	       next->host_offset == have->host_offset + have->length;
}

static int extent_locked_co(struct ox_mapped *m, uint64_t offset, uint64_t length, bool holes,
			    struct ahead *ahead, struct ox_extent *ret)
{
	struct ox_extent e = {0};
	struct ox_extent next;
	int r;

	for (unsigned i = 0; i < RUNS_MAX && e.length < length; i++) {
		r = look_co(m, offset + e.length, length - e.length, holes, ahead, &next);
		if (r < 0 && e.length > 0)
			break; /* what came before is known; the next request gets the error */
		if (r < 0)
			return r;
		if (e.length == 0)
			e = next;
		else if (joins(&e, &next))
			e.length += next.length;
		else
			break;
	}
	e.offset = offset;
	e.filename = m->img->filename;
	if (e.flags & OX_EXTENT_HAS_OFFSET)
		e.host_offset += ox_io_window_offset(m->img->io);
	*ret = e;
	return 0;
}

int ox_mapped_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, bool holes,
			struct ox_extent *ret)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_range range;
	int r;

	ox_mapped_lock_co(m, &range, offset, length, false);
	r = extent_locked_co(m, offset, length, holes || is_sparse_co(m), NULL, ret);
	ox_rangelock_release(&m->guest, &range);
	return r;
}

/* The range stays locked over all of them, so that they are as they were at one moment. */
static int extents_locked_co(struct ox_mapped *m, uint64_t offset, uint64_t length,
			     struct ox_extent *ret, int max)
{
	struct ahead ahead = {.count = 0};
	int n = 0;
	int r;

	while (n < max && length > 0) {
		r = extent_locked_co(m, offset, length, true, &ahead, &ret[n]);
		if (r < 0)
			return n > 0 ? n : r;
		offset += ret[n].length;
		length -= ret[n].length;
		if (ret[n++].flags == 0)
			break; /* the backing file is asked next */
	}
	return n;
}

int ox_mapped_extents_co(struct ox_image *img, uint64_t offset, uint64_t length,
			 struct ox_extent *ret, int max)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_range range;
	int r;

	ox_mapped_lock_co(m, &range, offset, length, false);
	r = extents_locked_co(m, offset, length, ret, max);
	ox_rangelock_release(&m->guest, &range);
	return r;
}
