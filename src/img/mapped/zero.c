/* SPDX-License-Identifier: MIT */
/*
 * Write-zeroes and discard. Whole clusters change their entries, under an exclusive lock; what was
 * named is freed once that is durable (D4). Parts of clusters are written as zero bytes, unless the
 * rest of the cluster reads as zeroes too: then all of it is ZERO.
 *
 *   entry before        zero, may unmap     zero, keep space       discard
 *   DATA, own           ZERO, freed         ZERO_ALLOC, kept       as "zero, may unmap"
 *   DATA, shared        ZERO, one ref less  ZERO, one ref less     the same
 *   COMPRESSED          ZERO, freed         ZERO, freed            the same
 *   UNALLOCATED         ZERO                ZERO                   ZERO if backed
 *
 * What was written as zeroes says so in its entry, also where nothing is beneath it: the image may
 * get a backing file later (rebase -u), and what a layer was told must hide what that has. Where
 * there was nothing to discard, and no backing bytes show, nothing is said. Version 2 of qcow2 has
 * no zero entries: UNALLOCATED serves where nothing is beneath it, zeroes over backing bytes are
 * written, and a discard there does nothing, rather than expose them. Where a zero entry keeps no
 * cluster (QED), zeroes that are to keep their space are written.
 *
 * *done grows by what is carried out, also where an error follows: a request that gives up its lock
 * goes on behind that, as others may have written there since.
 *
 * Long requests. A request may be for the whole of a disk with a million tables. It is worked off
 * in pieces: so many steps under one lock, whatever the guest's range, and between two pieces
 * everyone else has their turn. Of several long requests one at a time has a lock or waits for one,
 * so that a read waits for a piece or two, not for a piece of each. A request that is cancelled
 * ends between two pieces, with what is done done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/mapped/mapped.h"

/* A step is a lookup, a change of one slice, or a write of so many bytes. */
#define PIECE_STEPS 64u
#define STEP_BYTES (UINT64_C(64) << 10)
/* Zero bytes in one write, which takes as much memory. */
#define ZERO_MAX_BYTES (UINT64_C(2) << 20)
/* The guest's range that one piece locks. */
#define PIECE_BYTES (UINT64_C(1) << 30)

enum purpose { PURPOSE_ZERO, PURPOSE_UNMAP, PURPOSE_GROW, PURPOSE_DISCARD, PURPOSE_DROP };

/* A request, or what is left of it. */
struct stretch {
	uint64_t offset; /* guest */
	uint64_t end;
	enum purpose purpose;
	bool fast;
	bool resizing; /* the disk's size is not held against it; not to be cancelled half way */
};

/* Whether an entry must say so for zeroes to be read there: also where it is a backing file to come
 * that would be read. */
static bool shows_through(const struct ox_mapped *m, uint64_t offset)
{
	return m->img->rebasing || ox_mapped_is_backed(m, offset);
}

/* Whether an entry is to say that there are zeroes. */
static bool is_recorded(const struct ox_mapped *m, enum purpose purpose, uint64_t offset)
{
	if (m->has_zero && (purpose == PURPOSE_ZERO || purpose == PURPOSE_UNMAP))
		return true;
	return shows_through(m, offset);
}

static void spend(uint64_t *steps, uint64_t n)
{
	*steps -= ox_min_u64(*steps, n);
}

/* Whether the backing file is known to have nothing but zeroes there. */
static bool backing_is_zero_co(const struct ox_mapped *m, uint64_t offset, uint64_t end)
{
	struct ox_image *backing = m->img->backing;
	struct ox_extent e;

	if (!backing)
		return !ox_mapped_is_backed(m, offset); /* it is, by a chain that was left closed */
	for (end = ox_min_u64(end, backing->size_bytes); offset < end; offset += e.length) {
		if (ox_img_extent_co(backing, offset, end - offset, &e) < 0)
			return false; /* whoever reads there gets the error */
		if (!(e.flags & OX_EXTENT_ZERO))
			return false;
	}
	return true;
}

/* Of an unallocated cluster a part is to be zeroes: whether all of it is then. */
static bool rest_is_zero_co(const struct ox_mapped *m, uint64_t offset, uint64_t length)
{
	uint64_t start = ox_align_down(offset, m->cluster_bytes);

	return backing_is_zero_co(m, start, offset) &&
	       backing_is_zero_co(m, offset + length, start + m->cluster_bytes);
}

/* Zeroes for the part of a cluster; skipped where it reads as zeroes anyway. */
static int zero_part_co(struct ox_mapped *m, const struct stretch *s, uint64_t offset,
			uint64_t length)
{
	const struct ox_guest cluster = ox_guest(ox_align_down(offset, m->cluster_bytes));
	struct ox_map_run run;
	struct iovec v;
	uint64_t done = 0; /* all or nothing: it is of one cluster; or clusters that were set */
	int r;

	r = ox_mapped_lookup_co(m, ox_guest(offset), length, &run);
	if (r < 0)
		return r;
	if (run.kind == OX_MAP_ZERO || run.kind == OX_MAP_ZERO_ALLOC)
		return 0;
	if (run.kind == OX_MAP_UNALLOCATED && !is_recorded(m, s->purpose, offset))
		return 0;
	if (run.kind == OX_MAP_UNALLOCATED && m->has_zero && rest_is_zero_co(m, offset, length))
		return ox_mapped_set_co(m, cluster, 1, OX_MAP_ZERO, run.host, OX_TICKET_NONE,
					&done);
	if (s->fast)
		return -ENOTSUP;
	v = (struct iovec){ox_io_buffer(length), length};
	if (!v.iov_base)
		return -ENOMEM;
	memset(v.iov_base, 0, length);
	r = ox_mapped_write_locked_co(m, &v, 1, offset, length, false, &done);
	free(v.iov_base);
	return r;
}

static int zero_bytes_co(struct ox_mapped *m, const struct stretch *s, uint64_t offset,
			 uint64_t length, uint64_t *steps, uint64_t *done)
{
	uint64_t n;
	int r;

	while (length > 0 && *steps > 0) {
		n = ox_min_u64(length, m->cluster_bytes - (offset & (m->cluster_bytes - 1)));
		n = ox_min_u64(n, ZERO_MAX_BYTES);
		r = zero_part_co(m, s, offset, n);
		if (r < 0)
			return r;
		spend(steps, 1 + n / STEP_BYTES);
		*done += n;
		offset += n;
		length -= n;
	}
	return 0;
}

/* The entry that lets the run read as zeroes. False: there is nothing to change. */
static bool zero_entry_for(const struct ox_mapped *m, const struct ox_map_run *run, uint64_t offset,
			   enum purpose purpose, enum ox_map_kind *ret)
{
	bool unmap = purpose != PURPOSE_ZERO;

	switch (run->kind) {
	case OX_MAP_UNALLOCATED:
		*ret = OX_MAP_ZERO;
		return is_recorded(m, purpose, offset);
	case OX_MAP_ZERO:
		return false;
	case OX_MAP_ZERO_ALLOC:
		if (!unmap)
			return false;
		break;
	case OX_MAP_DATA:
		if (!unmap && run->own && m->has_zero_alloc) {
			*ret = OX_MAP_ZERO_ALLOC;
			return true;
		}
		break;
	default:
		break;
	}
	*ret = m->has_zero ? OX_MAP_ZERO : OX_MAP_UNALLOCATED;
	return true;
}

static void free_run(struct ox_mapped *m, const struct ox_map_run *run, uint64_t skip_clusters,
		     uint64_t clusters)
{
	struct ox_host host = run->host;

	if (run->kind == OX_MAP_COMPRESSED) {
		ox_alloc_free_later(m, host, run->compressed_bytes);
	} else if (run->kind == OX_MAP_DATA || run->kind == OX_MAP_ZERO_ALLOC) {
		host.bytes += skip_clusters * m->cluster_bytes;
		ox_alloc_free_later(m, host, clusters * m->cluster_bytes);
	}
}

/* Gives the whole clusters of the run the entry kind, and frees what the old entries named. */
static int set_run_co(struct ox_mapped *m, const struct ox_map_run *run, uint64_t offset,
		      enum ox_map_kind kind, uint64_t *steps, uint64_t *done)
{
	uint64_t left = run->length >> m->cluster_bits;
	struct ox_host host = run->host;
	uint64_t before = 0;
	uint64_t n;
	int r;

	while (left > 0 && *steps > 0) {
		r = ox_mapped_set_co(m, ox_guest(offset), left, kind, host, OX_TICKET_NONE, &n);
		if (r < 0)
			return r;
		spend(steps, 1);
		if (kind != OX_MAP_ZERO_ALLOC)
			free_run(m, run, before, n);
		before += n;
		left -= n;
		*done += n * m->cluster_bytes;
		offset += n * m->cluster_bytes;
		host.bytes += n * m->cluster_bytes;
	}
	return 0;
}

/* Whether a format that lacks the entry must leave these clusters alone, or write bytes. */
static bool needs_bytes(const struct ox_mapped *m, const struct ox_map_run *run, uint64_t offset,
			enum purpose purpose)
{
	if (!m->has_zero && shows_through(m, offset))
		return true;
	return !m->has_zero_alloc && purpose == PURPOSE_ZERO && run->kind == OX_MAP_DATA;
}

/* Of a run, what has the backing file behind it from end to end, or nowhere. */
static void cut_at_backing_end(const struct ox_mapped *m, struct ox_map_run *run, uint64_t at)
{
	const struct ox_image *backing = m->img->backing;

	if (backing && at < backing->size_bytes)
		run->length = ox_min_u64(run->length,
					 ox_align_up(backing->size_bytes - at, m->cluster_bytes));
}

/* Whole clusters: offset and length are cluster-aligned. */
static int zero_clusters_co(struct ox_mapped *m, const struct stretch *s, uint64_t offset,
			    uint64_t length, uint64_t *steps, uint64_t *done)
{
	enum purpose purpose = s->purpose;
	uint64_t end = *done + length;
	uint64_t from = offset - *done;
	enum ox_map_kind kind;
	struct ox_map_run run;
	uint64_t upto;
	int r = 0;

	while (r == 0 && *steps > 0 && *done < end) {
		uint64_t at = from + *done;

		r = ox_mapped_lookup_co(m, ox_guest(at), end - *done, &run);
		if (r < 0)
			break;
		cut_at_backing_end(m, &run, at);
		upto = *done + run.length;
		if (needs_bytes(m, &run, at, purpose) && purpose != PURPOSE_DISCARD) {
			run.length = ox_min_u64(run.length, m->cluster_bytes);
			r = zero_bytes_co(m, s, at, run.length, steps, done);
		} else if (needs_bytes(m, &run, at, purpose)) {
			*done += run.length;
		} else if (zero_entry_for(m, &run, at, purpose, &kind)) {
			r = set_run_co(m, &run, at, kind, steps, done);
		} else {
			*done += run.length;
		}
		/* What needs a table of its own stays: on a full disk a trim still frees the rest.
		 */
		if (purpose == PURPOSE_DISCARD && ox_io_is_full(r)) {
			*done = upto;
			r = 0;
		}
		spend(steps, 1);
	}
	return r;
}

/* Entries past the disk's end: nothing shows through there, so they simply go. */
static int drop_clusters_co(struct ox_mapped *m, uint64_t offset, uint64_t length, uint64_t *steps,
			    uint64_t *done)
{
	uint64_t end = *done + length;
	uint64_t from = offset - *done;
	struct ox_map_run run;
	int r = 0;

	while (r == 0 && *steps > 0 && *done < end) {
		uint64_t at = from + *done;

		r = ox_mapped_lookup_co(m, ox_guest(at), end - *done, &run);
		if (r < 0)
			break;
		if (run.kind != OX_MAP_UNALLOCATED)
			r = set_run_co(m, &run, at, OX_MAP_UNALLOCATED, steps, done);
		else
			*done += run.length;
		spend(steps, 1);
	}
	return r;
}

/* Splits the range into a head, whole clusters and a tail. The disk's last cluster counts as whole
 * where the range reaches the disk's end. */
static void split_range(const struct ox_mapped *m, uint64_t offset, uint64_t length,
			uint64_t *ret_start, uint64_t *ret_end)
{
	uint64_t end = offset + length;

	*ret_start = ox_align_up(offset, m->cluster_bytes);
	*ret_end = end == m->img->size_bytes ? ox_align_up(end, m->cluster_bytes)
					     : ox_align_down(end, m->cluster_bytes);
	if (*ret_start > *ret_end)
		*ret_start = *ret_end = 0;
}

/* Of the last cluster that the guest still sees, what is past the end; all of those behind it. */
static int drop_locked_co(struct ox_mapped *m, const struct stretch *s, uint64_t length,
			  uint64_t *steps, uint64_t *done)
{
	uint64_t offset = s->offset;
	uint64_t start = ox_align_up(offset, m->cluster_bytes);
	uint64_t end = ox_align_up(offset + length, m->cluster_bytes);
	int r;

	r = zero_bytes_co(m, s, offset, ox_min_u64(start - offset, length), steps, done);
	return r < 0 || start >= end ? r : drop_clusters_co(m, start, end - start, steps, done);
}

static int work_locked_co(struct ox_mapped *m, const struct stretch *s, uint64_t length,
			  uint64_t *steps, uint64_t *done)
{
	uint64_t offset = s->offset;
	uint64_t start;
	uint64_t end;
	int r;

	if (s->purpose == PURPOSE_DROP)
		return drop_locked_co(m, s, length, steps, done);
	split_range(m, offset, length, &start, &end);
	if (start == end)
		return zero_bytes_co(m, s, offset, length, steps, done);
	r = zero_bytes_co(m, s, offset, start - offset, steps, done);
	if (r < 0)
		return r;
	r = zero_clusters_co(m, s, start, end - start, steps, done);
	if (r == 0 && *done == end - offset && offset + length > end)
		r = zero_bytes_co(m, s, end, offset + length - end, steps, done);
	return r;
}

static int lookup_locked_co(struct ox_mapped *m, uint64_t offset, uint64_t length,
			    struct ox_map_run *ret)
{
	struct ox_range range;
	int r;

	ox_mapped_lock_co(m, &range, offset, 1, false); /* no table moves (H7) */
	r = ox_mapped_lookup_co(m, ox_guest(offset), length, ret);
	ox_rangelock_release(&m->guest, &range);
	return r;
}

/*
 * Passes over what is as the request wants it already, and keeps nobody waiting for that: at the
 * instant at which an entry is read the request is carried out there, before any write that has not
 * named its cluster yet.
 */
static int skip_co(struct ox_mapped *m, struct stretch *s, uint64_t *steps)
{
	enum ox_map_kind kind;
	struct ox_map_run run;
	int r;

	while (*steps > 0 && s->offset < s->end) {
		if (!ox_is_aligned(s->offset, m->cluster_bytes))
			return 0;
		r = lookup_locked_co(m, s->offset, s->end - s->offset, &run);
		if (r < 0)
			return r;
		spend(steps, 1);
		if (run.kind != OX_MAP_UNALLOCATED && run.kind != OX_MAP_ZERO)
			return 0;
		if (s->purpose == PURPOSE_DROP && run.kind != OX_MAP_UNALLOCATED)
			return 0;
		if (s->purpose != PURPOSE_DROP &&
		    zero_entry_for(m, &run, s->offset, s->purpose, &kind))
			return 0;
		s->offset += run.length;
	}
	return 0;
}

static bool must_ask(const struct ox_mapped *m)
{
	return m->ops->may_free && !m->ops->may_free(m);
}

/* -EAGAIN: something may have to be freed, and ops->before_free_co was not asked yet. */
static int piece_co(struct ox_mapped *m, struct stretch *s)
{
	uint64_t steps = PIECE_STEPS;
	struct ox_range range;
	uint64_t done = 0;
	uint64_t n;
	int r;

	r = skip_co(m, s, &steps);
	if (r < 0 || s->offset >= s->end || steps == 0)
		return r;
	if (s->purpose != PURPOSE_ZERO && must_ask(m))
		return -EAGAIN;
	n = ox_min_u64(s->end - s->offset, PIECE_BYTES - s->offset % PIECE_BYTES);
	ox_mapped_lock_co(m, &range, s->offset, n, true);
	m->allocating++;
	if (s->resizing || s->offset + n <= ox_align_up(m->img->size_bytes, m->cluster_bytes))
		r = work_locked_co(m, s, n, &steps, &done);
	else
		r = -EINVAL; /* the disk was shrunk while this request waited */
	m->allocating--;
	ox_rangelock_release(&m->guest, &range);
	s->offset += done;
	return r;
}

static int work_off_co(struct ox_mapped *m, struct stretch *s)
{
	bool is_long = (s->end - s->offset) / m->cluster_bytes > PIECE_STEPS;
	int r = 0;

	while (r == 0 && s->offset < s->end) {
		if (!s->resizing && ox_co_is_cancelled())
			return -ECANCELED;
		if (is_long)
			ox_mutex_lock_co(&m->long_lock);
		r = piece_co(m, s);
		if (is_long) {
			ox_co_yield_co(); /* one piece a turn, however many wait for theirs */
			ox_mutex_unlock(&m->long_lock);
		}
		if (r == -EAGAIN && must_ask(m)) /* else it is the store's */
			r = m->ops->before_free_co(m);
		if (ox_recover_restart_co(m, &r))
			r = 0;
		if (r == 0)
			r = ox_alloc_breathe_co(m);
	}
	return r;
}

/* ---- requests ---- */

int ox_mapped_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct stretch s = {
		.offset = offset,
		.end = offset + length,
		.purpose = flags & OX_REQ_MAY_UNMAP ? PURPOSE_UNMAP : PURPOSE_ZERO,
		.fast = flags & OX_REQ_FAST_ZERO,
	};
	int r;

	r = m->ops->prepare_write_co(m);
	if (r == 0)
		r = work_off_co(m, &s);
	if (r == 0 && (flags & OX_REQ_FUA))
		r = ox_commit_co(m);
	return r;
}

int ox_mapped_discard_co(struct ox_image *img, uint64_t offset, uint64_t length)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct stretch s = {.purpose = PURPOSE_DISCARD};
	int r;

	split_range(m, offset, length, &s.offset, &s.end);
	if (s.offset == s.end)
		return 0;
	r = m->ops->prepare_write_co(m);
	return r < 0 ? r : work_off_co(m, &s);
}

int ox_mapped_zero_new_co(struct ox_mapped *m, uint64_t offset, uint64_t end)
{
	struct stretch s = {
		.offset = offset, .end = end, .purpose = PURPOSE_GROW, .resizing = true};

	return work_off_co(m, &s);
}

int ox_mapped_drop_co(struct ox_mapped *m, uint64_t offset, uint64_t end)
{
	struct stretch s = {
		.offset = offset, .end = end, .purpose = PURPOSE_DROP, .resizing = true};

	return work_off_co(m, &s);
}
