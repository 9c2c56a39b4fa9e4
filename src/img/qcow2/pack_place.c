/* SPDX-License-Identifier: MIT */
/*
 * Where streams lie: each behind the one before it, in the same host cluster as far as that goes
 * (docs/compressed.md). The cluster in which the next one begins is *open*. Its count is that of
 * the streams in it and one more, which is ours: so it is never released and handed to somebody
 * else while streams are still to come, whatever becomes of those in it.
 *
 *   none --a stream needs a cluster--> open --the stream goes on into the next--> the next is open
 *    ^                                  |  |
 *    +---- the reference goes to the last stream (filled, or the count is full) or is given up
 * ----+
 *
 * No entry names our reference, so its count may reach the disk at any time (D3). The note says
 * that it is to be given up, for whoever adopts (D10).
 */
#include <errno.h>

#include "img/qcow2/qcow2.h"

void ox_pack_forget(struct ox_qcow2 *q)
{
	q->pack.cluster = 0;
	q->pack.note = 0; /* in the state it is the next one's, and is a freed cluster's by now */
}

/* Our reference is the last stream's now. */
static void hand_over(struct ox_qcow2 *q)
{
	ox_note_drop(q->m.notes, q->pack.note);
	ox_pack_forget(q);
}

static void open_cluster(struct ox_qcow2 *q, uint64_t cluster, uint64_t used_bytes)
{
	q->pack.cluster = cluster;
	q->pack.used_bytes = used_bytes;
	q->pack.note = ox_note_add(q->m.notes, OX_NOTE_FREED, cluster, cluster + 1, 0);
}

int ox_pack_leave_locked_co(struct ox_qcow2 *q)
{
	uint64_t cluster = q->pack.cluster;
	uint64_t count;
	int r;

	if (cluster == 0)
		return 0;
	hand_over(q); /* where what follows fails it is leaked */
	r = ox_refcount_get_co(q, cluster, &count);
	if (r == 0 && count == 0) {
		ox_corrupt_counts(q, "refcount-too-low", ox_host(cluster * q->m.cluster_bytes),
				  q->m.cluster_bytes);
		return -EIO;
	}
	if (r == 0)
		r = ox_refcount_set_co(q, cluster, 1, count - 1);
	if (r == 0 && count == 1)
		q->space.cursor = ox_min_u64(q->space.cursor, cluster);
	return ox_io_is_full(r) ? 0 : r;
}

/* One reference more, for a stream. *ret_full: the count cannot be raised, and the stream has to
 * have ours. */
static int raise_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret_full)
{
	uint64_t count;
	int r = ox_refcount_get_co(q, cluster, &count);

	if (r == 0 && count == 0) {
		ox_corrupt_counts(q, "refcount-too-low", ox_host(cluster * q->m.cluster_bytes),
				  q->m.cluster_bytes);
		return -EIO;
	}
	if (r < 0)
		return r;
	*ret_full = count >= ox_qcow2_refcount_max(ox_qcow2_hdr(q)->refcount_order);
	return *ret_full ? 0 : ox_refcount_set_co(q, cluster, 1, count + 1);
}

/* All of the stream into the open cluster. */
static int place_inside_co(struct ox_qcow2 *q, uint64_t bytes, struct ox_host *ret)
{
	struct ox_packing *p = &q->pack;
	bool full = p->used_bytes + bytes == q->m.cluster_bytes;
	struct ox_host host = ox_host(p->cluster * q->m.cluster_bytes + p->used_bytes);
	int r = full ? 0 : raise_co(q, p->cluster, &full);

	if (r < 0)
		return r;
	*ret = host;
	if (full)
		hand_over(q);
	else
		p->used_bytes += bytes;
	return 0;
}

/* The cluster out of the reserve becomes the open one, with the last bytes of a stream in it. */
static int begin_cluster_co(struct ox_qcow2 *q, const struct ox_alloc_range *range, uint64_t bytes)
{
	bool full;
	int r = raise_co(q, range->start, &full);

	if (r < 0) {
		ox_alloc_give_back(&q->m, range);
		return r;
	}
	if (!full)
		open_cluster(q, range->start, bytes);
	return 0;
}

/* The stream needs a cluster more. */
static int place_beyond_co(struct ox_qcow2 *q, uint64_t bytes, struct ox_host *ret)
{
	struct ox_packing *p = &q->pack;
	struct ox_alloc_range range = {0};
	uint64_t rest = p->cluster ? q->m.cluster_bytes - p->used_bytes : 0;
	uint64_t begun = p->cluster;
	struct ox_host host;
	int r = ox_alloc_take_locked_co(&q->m, 1, &range);

	if (r < 0)
		return r;
	host = ox_host(range.start * q->m.cluster_bytes);
	if (begun == 0 || range.start != begun + 1)
		rest = 0;
	host.bytes -= rest;
	if (host.bytes >= ox_qcow2_compressed_limit(ox_qcow2_hdr(q))) {
		ox_alloc_give_back(&q->m, &range);
		return -EFBIG;
	}
	if (rest > 0)
		hand_over(q);
	else
		r = ox_pack_leave_locked_co(q);
	if (r < 0) {
		ox_alloc_give_back(&q->m, &range);
		return r;
	}
	r = begin_cluster_co(q, &range, bytes - rest);
	if (r < 0 && rest > 0) /* what was handed over to it */
		ox_alloc_free_later(&q->m, ox_host(begun * q->m.cluster_bytes), 1);
	if (r == 0)
		*ret = host;
	return r;
}

int ox_pack_place_locked_co(struct ox_qcow2 *q, uint64_t bytes, struct ox_host *ret)
{
	const struct ox_packing *p = &q->pack;
	int r = 0;

	ox_assert(bytes > 0 && bytes < q->m.cluster_bytes);
	ox_assert(!ox_recover_active(&q->m)); /* R2: it is known what is counted */
	if (ox_qcow2_is_lazy(q))
		r = ox_dirty_set_co(&q->m); /* D5 */
	if (r < 0)
		return r;
	q->m.alloc.takes++;
	if (p->cluster != 0 && p->used_bytes + bytes <= q->m.cluster_bytes)
		return place_inside_co(q, bytes, ret);
	return place_beyond_co(q, bytes, ret);
}
