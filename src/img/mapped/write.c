/* SPDX-License-Identifier: MIT */
/*
 * Guest writes.
 *
 * In place: the entry says DATA and COPIED; the clusters are locked shared, so that neither a
 * discard nor a copy-on-write moves them meanwhile (H4).
 *
 * Allocating: the clusters are locked exclusively. Host clusters come out of the reserve, are
 * written in one pass (what the guest wrote, and around it what it must still read there), and are
 * then linked. The order owed (D1):
 *
 *   old content zero, host bytes durably zero   none: data and entry may go out together
 *   anything else                               the data is durable before the entry
 *
 * because in the first case a lost data sector reads as the zeroes that were there before.
 *
 * Written once: a request that gives up its lock with a part of it done goes on behind that part.
 * Others may have written there since, and been answered, and been read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "img/mapped/mapped.h"

/* Longer margins are copied in pieces of this size, which is all the memory that they take. */
#define COPY_BYTES (UINT64_C(2) << 20)
/* Longest copy-on-write margin plus payload that goes out in one write, in clusters' bytes. */
#define ALLOC_MAX_BYTES (UINT64_C(32) << 20)

/* One allocating piece of a request: whole clusters around [offset, offset + length). */
struct piece {
	const struct iovec *iov;
	int n;
	uint64_t skip;	 /* bytes of iov before this piece */
	uint64_t offset; /* guest */
	uint64_t length;
	uint64_t start;	   /* guest, cluster-aligned, <= offset */
	uint64_t clusters; /* under the piece */
	struct ox_map_run old;
	struct ox_host host;	     /* first cluster to be written */
	bool host_zero;		     /* durably zero (H2) */
	bool host_fresh;	     /* out of the reserve: goes back if the write fails */
	struct ox_alloc_range range; /* host_fresh: what was taken and is not named yet */
};

static bool old_reads_zero(const struct ox_mapped *m, const struct piece *p)
{
	switch (p->old.kind) {
	case OX_MAP_ZERO:
	case OX_MAP_ZERO_ALLOC:
		return true;
	case OX_MAP_UNALLOCATED:
		return !ox_mapped_is_backed(m, p->start);
	default:
		return false;
	}
}

/* Where the piece goes: a preallocated zero cluster stays where it is, all else is new. */
static int choose_host_co(struct ox_mapped *m, struct piece *p)
{
	struct ox_alloc_range *range = &p->range;
	uint64_t end;
	int r;

	p->host_fresh = !(p->old.kind == OX_MAP_ZERO_ALLOC && p->old.own);
	if (!p->host_fresh) {
		p->host = ox_host(ox_align_down(p->old.host.bytes, m->cluster_bytes));
		p->host_zero = false;
		return 0;
	}
	r = ox_alloc_take_co(m, p->clusters, range);
	if (r < 0)
		return r;
	ox_alloc_note_data(m, range, ox_guest(p->start));
	p->host = ox_host(range->start * m->cluster_bytes);
	p->host_zero = range->zero;
	p->clusters = range->count;
	end = p->start + range->count * m->cluster_bytes;
	p->length = ox_min_u64(p->length, end - p->offset);
	return 0;
}

/* Fills a margin with what the guest reads there now. The disk's end may cut a cluster short. */
static int read_margin_co(struct ox_mapped *m, uint8_t *buf, uint64_t offset, uint64_t bytes)
{
	uint64_t size = m->img->size_bytes;
	uint64_t have = offset >= size ? 0 : ox_min_u64(bytes, size - offset);
	struct iovec v = {buf, have};

	memset(buf + have, 0, bytes - have);
	if (have == 0)
		return 0;
	return ox_mapped_read_unlocked_co(m, &v, 1, offset, have);
}

static bool is_zero(const uint8_t *buf, uint64_t bytes)
{
	return buf[0] == 0 && memcmp(buf, buf + 1, bytes - 1) == 0;
}

/* A long margin. Zeroes that are on the host already take no space there. */
static int copy_margin_co(struct ox_mapped *m, const struct piece *p, uint64_t offset,
			  uint64_t bytes)
{
	uint64_t end = offset + bytes;
	uint8_t *buf = ox_io_buffer(COPY_BYTES);
	int r = buf ? 0 : -ENOMEM;

	for (; r == 0 && offset < end; offset += COPY_BYTES) {
		uint64_t n = ox_min_u64(COPY_BYTES, end - offset);

		r = read_margin_co(m, buf, offset, n);
		if (r == 0 && !(p->host_zero && is_zero(buf, n)))
			r = ox_io_pwrite_co(m->io, buf, n, p->host.bytes + (offset - p->start), 0);
	}
	free(buf);
	return r;
}

/* The piece's bytes on the host, margins included where anything but zeroes must be there. */
static int write_data_co(struct ox_mapped *m, const struct piece *p)
{
	uint64_t head = p->offset - p->start;
	uint64_t end = p->start + p->clusters * m->cluster_bytes;
	uint64_t tail = end - (p->offset + p->length);
	uint8_t *margins = NULL;
	struct ox_iov v;
	int r = 0;

	if (old_reads_zero(m, p) && p->host_zero) {
		head = 0;
		tail = 0;
	}
	if (head + tail > 2 * COPY_BYTES) {
		r = copy_margin_co(m, p, p->start, head);
		if (r == 0)
			r = copy_margin_co(m, p, end - tail, tail);
		head = 0;
		tail = 0;
	} else if (head + tail > 0) {
		margins = ox_io_buffer(head + tail);
		if (!margins)
			return -ENOMEM;
		if (head > 0)
			r = read_margin_co(m, margins, p->start, head);
		if (r == 0 && tail > 0)
			r = read_margin_co(m, margins + head, end - tail, tail);
	}
	if (r == 0)
		r = ox_iov_wrap(&v, p->iov, p->n, p->skip, p->length, margins, head,
				margins ? margins + head : NULL, tail);
	if (r == 0) {
		r = ox_io_pwritev_co(m->io, v.v, v.n,
				     p->host.bytes + (head > 0 ? 0 : p->offset - p->start), 0);
		ox_iov_free(&v);
	}
	free(margins);
	return r;
}

/* What the old entries named has lost a reference. */
static void free_old(struct ox_mapped *m, const struct piece *p, uint64_t clusters)
{
	switch (p->old.kind) {
	case OX_MAP_DATA:
		ox_alloc_free_later(m, ox_host(ox_align_down(p->old.host.bytes, m->cluster_bytes)),
				    clusters * m->cluster_bytes);
		break;
	case OX_MAP_ZERO_ALLOC:
		if (p->host_fresh)
			ox_alloc_free_later(
				m, ox_host(ox_align_down(p->old.host.bytes, m->cluster_bytes)),
				clusters * m->cluster_bytes);
		break;
	case OX_MAP_COMPRESSED:
		ox_alloc_free_later(m, p->old.host, p->old.compressed_bytes);
		break;
	default:
		break;
	}
}

/* Fresh clusters that no entry names (H8); untouched: nor was anything written to them. */
static void give_back(struct ox_mapped *m, const struct piece *p, bool untouched)
{
	struct ox_alloc_range range = p->range;

	range.zero = range.zero && untouched;
	if (p->host_fresh)
		ox_alloc_give_back(m, &range);
}

/*
 * Names the written clusters. What could not be named is given back (H8); what was named stays, and
 * *ret_end is the guest's offset behind it.
 */
static int link_piece_co(struct ox_mapped *m, const struct piece *p, uint64_t after,
			 uint64_t *ret_end)
{
	struct piece rest = *p;
	uint64_t done;
	int r;

	for (;;) {
		*ret_end = rest.start;
		if (rest.clusters == 0)
			return 0;
		r = ox_mapped_set_co(m, ox_guest(rest.start), rest.clusters, OX_MAP_DATA, rest.host,
				     after, &done);
		if (r < 0) {
			give_back(m, &rest, after == OX_TICKET_NONE);
			return r;
		}
		if (rest.host_fresh)
			ox_alloc_named(m, &rest.range, done);
		free_old(m, &rest, done);
		rest.start += done * m->cluster_bytes;
		rest.host.bytes += done * m->cluster_bytes;
		rest.old.host.bytes += done * m->cluster_bytes;
		rest.clusters -= done;
	}
}

/*
 * Order is owed: data first, then the entry, with the barrier that makes the data durable first.
 * What the guest can read of it is done, also where the rest could not be named.
 */
static int write_then_link_co(struct ox_mapped *m, const struct piece *p, uint64_t *ret_end)
{
	int r = write_data_co(m, p);

	if (r == 0)
		return link_piece_co(m, p, ox_order_ticket(&m->order), ret_end); /* D1 */
	give_back(m, p, false);
	return r;
}

/*
 * No order is owed: the entry goes first, so that for a lone synchronous writer the table can be on
 * its way together with the data. Should the data fail, the guest reads the old zeroes or, sector
 * by sector, the new bytes.
 */
static int link_then_write_co(struct ox_mapped *m, const struct piece *p, bool fua)
{
	uint64_t end;
	int r = link_piece_co(m, p, OX_TICKET_NONE, &end);

	if (r < 0)
		return r;
	if (fua)
		ox_commit_start_tables(m);
	return write_data_co(m, p);
}

/* *done grows by what the guest can read of the piece, all of it if all went well. */
static int write_piece_co(struct ox_mapped *m, struct piece *p, bool fua, uint64_t *done)
{
	uint64_t end = p->offset;
	int r = choose_host_co(m, p);

	if (r < 0)
		return r;
	if (old_reads_zero(m, p) && p->host_zero)
		r = link_then_write_co(m, p, fua);
	else
		r = write_then_link_co(m, p, &end);
	if (r == 0)
		end = p->offset + p->length;
	if (end > p->offset)
		*done += ox_min_u64(end - p->offset, p->length);
	return r;
}

static int write_in_place_co(struct ox_mapped *m, const struct iovec *iov, int n, uint64_t skip,
			     const struct ox_map_run *run, unsigned io_flags)
{
	struct ox_iov part;
	int r;

	r = ox_iov_cut(&part, iov, n, skip, run->length);
	if (r < 0)
		return r;
	r = ox_io_pwritev_co(m->io, part.v, part.n, run->host.bytes, io_flags);
	ox_iov_free(&part);
	return r;
}

static bool is_in_place(const struct ox_map_run *run)
{
	return run->kind == OX_MAP_DATA && run->own;
}

/* The stretch of the request, from done on, that one write can carry out. */
static struct piece cut_piece(const struct ox_mapped *m, const struct iovec *iov, int n,
			      uint64_t offset, uint64_t done, const struct ox_map_run *run)
{
	uint64_t start = ox_align_down(offset + done, m->cluster_bytes);
	uint64_t length = ox_min_u64(run->length, ALLOC_MAX_BYTES);
	uint64_t end = ox_align_up(offset + done + length, m->cluster_bytes);

	return (struct piece){
		.iov = iov,
		.n = n,
		.skip = done,
		.offset = offset + done,
		.length = length,
		.start = start,
		.clusters = (end - start) >> m->cluster_bits,
		.old = *run,
	};
}

int ox_mapped_write_locked_co(struct ox_mapped *m, const struct iovec *iov, int n, uint64_t offset,
			      uint64_t length, bool fua, uint64_t *done)
{
	struct ox_map_run run;
	int r = 0;

	while (r == 0 && *done < length) {
		r = ox_mapped_lookup_co(m, ox_guest(offset + *done), length - *done, &run);
		if (r < 0)
			break;
		if (is_in_place(&run)) {
			r = write_in_place_co(m, iov, n, *done, &run, 0);
			if (r == 0)
				*done += run.length;
		} else {
			struct piece p = cut_piece(m, iov, n, offset, *done, &run);

			r = write_piece_co(m, &p, fua, done);
		}
	}
	return r;
}

/* A guest's write on its way. */
struct request {
	const struct iovec *iov;
	int n;
	uint64_t offset;
	uint64_t length;
	uint64_t done; /* bytes that the guest can read: never written a second time */
	bool fua;
	bool durable; /* the bytes up to done are */
};

/*
 * The fast path: in place, under a shared lock. -EAGAIN where an allocation is needed to go on. FUA
 * is passed on only where the entries are durable too (H1).
 */
static int write_shared_co(struct ox_mapped *m, struct request *w)
{
	bool fua = w->fua && !m->order.skip_syncs;
	struct ox_map_run run;
	struct ox_range range;
	int r = 0;

	w->durable = true;
	ox_mapped_lock_co(m, &range, w->offset, w->length, false);
	while (r == 0 && w->done < w->length) {
		r = ox_mapped_lookup_co(m, ox_guest(w->offset + w->done), w->length - w->done,
					&run);
		if (r == 0 && !is_in_place(&run))
			r = -EAGAIN;
		if (r < 0)
			break;
		if (!run.durable)
			w->durable = false;
		r = write_in_place_co(m, w->iov, w->n, w->done, &run,
				      fua && run.durable ? OX_IO_FUA : 0);
		if (r == 0)
			w->done += run.length;
	}
	ox_rangelock_release(&m->guest, &range);
	return r;
}

static int write_rest_co(struct ox_mapped *m, struct request *w)
{
	int r;

	if (!ox_range_within(w->offset, w->length, m->img->size_bytes))
		return -EINVAL; /* the disk was shrunk while this request waited */
	if (w->fua)
		ox_commit_enter(m);
	m->allocating++;
	r = ox_mapped_write_locked_co(m, w->iov, w->n, w->offset, w->length, w->fua, &w->done);
	m->allocating--;
	if (w->fua)
		ox_commit_leave(m);
	return r;
}

/*
 * What is left of the request, under an exclusive lock. A commit has to follow for FUA. On a full
 * disk what the guest has freed may make room; nobody sees meanwhile what was written of the part
 * that failed.
 */
static int write_exclusive_co(struct ox_mapped *m, struct request *w)
{
	struct ox_range range;
	int r;

	w->durable = false;
	ox_mapped_lock_co(m, &range, w->offset + w->done, w->length - w->done, true);
	r = write_rest_co(m, w);
	if (ox_io_is_full(r) && ox_alloc_reclaim_co(m))
		r = write_rest_co(m, w);
	ox_rangelock_release(&m->guest, &range);
	return r;
}

int ox_mapped_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			 uint64_t length, unsigned flags)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct request w = {
		.iov = iov,
		.n = n,
		.offset = offset,
		.length = length,
		.fua = flags & OX_REQ_FUA,
	};
	int r;

	r = m->ops->prepare_write_co(m);
	if (r < 0)
		return r;
	r = write_shared_co(m, &w);
	if (r == -EAGAIN) {
		do {
			r = write_exclusive_co(m, &w);
		} while (ox_recover_restart_co(m, &r));
	}
	if (r == 0 && w.fua && !w.durable)
		r = ox_commit_co(m);
	return r;
}
